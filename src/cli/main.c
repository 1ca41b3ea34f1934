/* The commands of `tenon`, one line each, in the order in which help lists them. */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/method_options.h"

static const tn_command *const commands[] = {
    &tn_command_train,
    &tn_command_plan,
    &tn_command_generate,
    &tn_command_chat,
    &tn_command_eval,
    &tn_command_forward,
    &tn_command_bench,
    &tn_command_train_tokenizer,
    &tn_command_inspect,
    &tn_command_tokenize,
    &tn_command_merge,
    &tn_command_unmerge,
    &tn_command_compose,
    &tn_command_extract,
    &tn_command_resize,
    &tn_command_quantize,
    &tn_command_methods,
    &tn_command_help,
    &tn_command_version,
    &tn_command_generate_docs,
    NULL,
};

int main(int argc, char **argv) {
    tn_cli_collect_settings();
    return tn_cli_main(commands, argc, argv);
}
