/* tenon generate-docs DIR: manual pages and shell completions, laid out as below a share folder:
 *
 *     DIR/man/man1/tenon.1, tenon-COMMAND.1
 *     DIR/bash-completion/completions/tenon
 *     DIR/zsh/site-functions/_tenon
 *     DIR/fish/vendor_completions.d/tenon.fish
 */
#include "base/file.h"
#include "cli/commands.h"

struct config {
    const char *dir;
};

static const tn_option options[] = {
    {.name = "dir",
     .type = TN_OPTION_PATH,
     TN_FIELD(struct config, dir),
     .value_name = "DIR",
     .flags = TN_OPTION_POSITIONAL | TN_OPTION_REQUIRED,
     .help = "the folder to write below; it is created"},
    {0},
};

static const tn_option_table tables[] = {{options, 0}, {0}};

/* Writes and empties the text. */
static tn_status write_page(const char *dir, const char *folder, const char *name, tn_buf *text) {
    char parent[TN_PATH_MAX], path[TN_PATH_MAX];
    TN_TRY(tn_buf_status(text));
    TN_TRY(tn_path_join(parent, dir, folder));
    TN_TRY(tn_dir_create(parent));
    TN_TRY(tn_path_join(path, parent, name));
    TN_TRY(tn_file_write(path, text->data, text->length));
    tn_buf_clear(text);
    return TN_OK;
}

static tn_status write_manual(const char *dir, const tn_command *const *commands, tn_buf *text) {
    char name[64];
    TN_TRY(tn_cli_print_manual(text, commands, NULL));
    TN_TRY(write_page(dir, "man/man1", "tenon.1", text));
    for (const tn_command *const *command = commands; *command; command++) {
        if ((*command)->hidden)
            continue;
        snprintf(name, sizeof name, "tenon-%s.1", (*command)->name);
        TN_TRY(tn_cli_print_manual(text, commands, *command));
        TN_TRY(write_page(dir, "man/man1", name, text));
    }
    return TN_OK;
}

static tn_status write_completions(const char *dir, const tn_command *const *commands, tn_buf *text) {
    TN_TRY(tn_cli_print_bash_completion(text, commands));
    TN_TRY(write_page(dir, "bash-completion/completions", "tenon", text));
    TN_TRY(tn_cli_print_zsh_completion(text, commands));
    TN_TRY(write_page(dir, "zsh/site-functions", "_tenon", text));
    TN_TRY(tn_cli_print_fish_completion(text, commands));
    return write_page(dir, "fish/vendor_completions.d", "tenon.fish", text);
}

static int run(const tn_invocation *call) {
    const struct config *config = call->config;
    tn_buf text = {0};
    tn_status status = write_manual(config->dir, call->commands, &text);
    if (status == TN_OK)
        status = write_completions(config->dir, call->commands, &text);
    tn_buf_free(&text);
    return tn_cli_exit(status);
}

const tn_command tn_command_generate_docs = {
    .name = "generate-docs",
    .summary = "write manual pages and shell completions",
    .description = "Writes the manual pages and the completions for bash, zsh and fish below a folder.",
    .tables = tables,
    .config_size = sizeof(struct config),
    .run = run,
    .hidden = true,
};
