/* tenon help [COMMAND]: the overview, or the help of one command. */
#include "cli/commands.h"

struct config {
    const char *command;
};

static const tn_option options[] = {
    {.name = "command",
     .type = TN_OPTION_STRING,
     TN_FIELD(struct config, command),
     .value_name = "COMMAND",
     .flags = TN_OPTION_POSITIONAL,
     .help = "the command to explain; without one, all are listed"},
    {0},
};

static const tn_option_table tables[] = {{options, 0}, {0}};

static int run(const tn_invocation *call) {
    const struct config *config = call->config;
    tn_buf text = {0};
    tn_status status = TN_OK;
    if (config->command) {
        const tn_command *command = tn_cli_find_command(call->commands, config->command);
        if (!command) {
            tn_cli_fail_unknown_command(call->commands, config->command);
            return TN_EXIT_USAGE;
        }
        status = tn_cli_print_help(&text, command, tn_cli_width());
    } else {
        tn_cli_print_overview(&text, call->commands, tn_cli_width());
    }
    if (status == TN_OK)
        status = tn_cli_print(&text);
    tn_buf_free(&text);
    return tn_cli_exit(status);
}

const tn_command tn_command_help = {
    .name = "help",
    .summary = "explain a command and its options",
    .description = "Lists the commands, or explains one of them as `tenon COMMAND --help` does.",
    .tables = tables,
    .config_size = sizeof(struct config),
    .run = run,
};
