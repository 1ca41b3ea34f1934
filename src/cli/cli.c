/* From the command line to a command and from its result to an exit code. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"

const tn_command *tn_cli_find_command(const tn_command *const *commands, const char *name) {
    for (; *commands; commands++)
        if (strcmp((*commands)->name, name) == 0)
            return *commands;
    return NULL;
}

tn_status tn_cli_fail_unknown_command(const tn_command *const *commands, const char *name) {
    enum { MOST = 64 };
    const char *names[MOST];
    size_t count = 0;
    for (; *commands && count < MOST; commands++)
        if (!(*commands)->hidden)
            names[count++] = (*commands)->name;
    const char *near = tn_nearest_name(name, names, count);
    if (near)
        return tn_fail(TN_ERROR_ARGUMENT, "there is no command '%.100s'; did you mean %s?", name, near);
    return tn_fail(TN_ERROR_ARGUMENT, "there is no command '%.100s'", name);
}

tn_status tn_cli_start_options(tn_options *options, const tn_command *command, void *config) {
    static const tn_option_table none[] = {{0}};
    return tn_options_start(options, command->tables ? command->tables : none, config);
}

tn_status tn_cli_print(const tn_buf *text) {
    TN_TRY(tn_buf_status(text));
    if (fwrite(tn_buf_text(text), 1, text->length, stdout) != text->length || fflush(stdout) != 0)
        return tn_fail(TN_ERROR_IO, "cannot write to standard output: %s", strerror(errno));
    return TN_OK;
}

int tn_cli_exit(tn_status status) {
    return status == TN_OK ? TN_EXIT_OK : TN_EXIT_FAILURE;
}

/* Says what went wrong; `name` is the command's, or NULL before one was found. */
static int finish(int code, const char *name) {
    if (code == TN_EXIT_OK)
        return TN_EXIT_OK;
    if (code == TN_EXIT_REPORTED)
        return TN_EXIT_FAILURE;
    fprintf(stderr, "tenon: %s\n", tn_error_message());
    if (code == TN_EXIT_USAGE)
        fprintf(stderr, "see tenon %s%s--help\n", name ? name : "", name ? " " : "");
    return code;
}

static bool asks_for_help(int argc, char **argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

static int print_help(const tn_command *command) {
    tn_buf text = {0};
    tn_status status = tn_cli_print_help(&text, command, tn_cli_width());
    if (status == TN_OK)
        status = tn_cli_print(&text);
    tn_buf_free(&text);
    return tn_cli_exit(status);
}

static const char *run_file_path(const tn_options *options) {
    for (size_t i = 0; i < options->count; i++)
        if (options->slots[i].option->flags & TN_OPTION_RUN_FILE)
            return *(const char *const *)options->slots[i].field;
    return NULL;
}

/* Flags first, so that the run file is known; its values then fill in what no flag has set. */
static tn_status read_options(tn_options *options, int argc, char **argv) {
    TN_TRY(tn_options_parse(options, argc, argv));
    const char *path = run_file_path(options);
    if (path)
        TN_TRY(tn_cli_read_run_file(options, path));
    return tn_options_check_required(options);
}

static int run_command(const tn_command *const *commands, const tn_command *command, int argc, char **argv) {
    tn_options options = {0};
    int code = TN_EXIT_FAILURE;
    void *config = tn_calloc(1, command->config_size);
    if (!config) {
        tn_fail_memory("the configuration");
        goto done;
    }
    if (tn_cli_start_options(&options, command, config) != TN_OK)
        goto done;
    tn_status status = read_options(&options, argc, argv);
    if (status != TN_OK) {
        code = status == TN_ERROR_ARGUMENT ? TN_EXIT_USAGE : TN_EXIT_FAILURE;
        goto done;
    }
    tn_invocation call = {.command = command, .commands = commands, .config = config, .options = &options};
    code = command->run(&call);
done:
    tn_options_free(&options);
    tn_free(config);
    return code;
}

static int print_overview(const tn_command *const *commands) {
    tn_buf text = {0};
    tn_cli_print_overview(&text, commands, tn_cli_width());
    int code = tn_cli_exit(tn_cli_print(&text));
    tn_buf_free(&text);
    return code;
}

static int run_program_option(const tn_command *const *commands, const char *option) {
    tn_buf text = {0};
    if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0)
        return print_overview(commands);
    if (strcmp(option, "--version") == 0 || strcmp(option, "-V") == 0) {
        tn_buf_puts(&text, "tenon " TENON_VERSION "\n");
        int code = tn_cli_exit(tn_cli_print(&text));
        tn_buf_free(&text);
        return code;
    }
    tn_fail(TN_ERROR_ARGUMENT, "unknown option %.100s; options follow the command", option);
    return TN_EXIT_USAGE;
}

int tn_cli_main(const tn_command *const *commands, int argc, char **argv) {
    if (argc < 2) {
        tn_fail(TN_ERROR_ARGUMENT, "a command is missing");
        return finish(TN_EXIT_USAGE, NULL);
    }
    if (argv[1][0] == '-')
        return finish(run_program_option(commands, argv[1]), NULL);
    const tn_command *command = tn_cli_find_command(commands, argv[1]);
    if (!command) {
        tn_cli_fail_unknown_command(commands, argv[1]);
        return finish(TN_EXIT_USAGE, NULL);
    }
    if (asks_for_help(argc - 2, argv + 2))
        return finish(print_help(command), command->name);
    int code = run_command(commands, command, argc - 2, argv + 2);
    if (fflush(stdout) != 0 && code == TN_EXIT_OK)
        code = tn_cli_exit(tn_fail(TN_ERROR_IO, "cannot write to standard output: %s", strerror(errno)));
    return finish(code, command->name);
}
