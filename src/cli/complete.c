/* Completion scripts for bash, zsh and fish. */
#include <string.h>

#include "cli/cli.h"

static bool is_visible(const tn_option *option) {
    return !(option->flags & TN_OPTION_HIDDEN);
}

/* An argument that is itself a command's name, as that of `tenon help`. */
static bool is_command_name(const tn_option *option) {
    const char *value_name = tn_option_value_name(option);
    return option->flags & TN_OPTION_POSITIONAL && value_name && strcmp(value_name, "COMMAND") == 0;
}

/* Puts a backslash before each character of `special`; inside single quotes of a shell, ' becomes '\''. */
static void put_quoted(tn_buf *out, const char *text, const char *special) {
    for (; *text; text++) {
        if (*text == '\'' && !strchr(special, '\'')) {
            tn_buf_puts(out, "'\\''");
            continue;
        }
        if (strchr(special, *text))
            tn_buf_putc(out, '\\');
        tn_buf_putc(out, *text);
    }
}

static void put_choices(tn_buf *out, const tn_option *option) {
    for (size_t i = 0; option->choices && option->choices[i]; i++)
        tn_buf_printf(out, "%s%s", i ? " " : "", option->choices[i]);
}

static void put_command_names(tn_buf *out, const tn_command *const *commands) {
    for (bool first = true; *commands; commands++)
        if (!(*commands)->hidden) {
            tn_buf_printf(out, "%s%s", first ? "" : " ", (*commands)->name);
            first = false;
        }
}

typedef void (*print_part)(tn_buf *out, const tn_command *const *commands, const tn_command *command,
                           const tn_options *options);

/* Calls `print` with the options of every visible command. */
static tn_status for_each_command(tn_buf *out, const tn_command *const *commands, print_part print) {
    for (const tn_command *const *command = commands; *command; command++) {
        tn_options options;
        if ((*command)->hidden)
            continue;
        tn_status status = tn_cli_start_options(&options, *command, NULL);
        if (status == TN_OK)
            print(out, commands, *command, &options);
        tn_options_free(&options);
        TN_TRY(status);
    }
    return tn_buf_status(out);
}

/* `--name)` or `--name | -n)` and what its value may be. */
static void print_bash_value(tn_buf *out, const tn_option *option) {
    tn_buf_printf(out, "            --%s", option->name);
    if (option->alias)
        tn_buf_printf(out, " | -%c", option->alias);
    tn_buf_puts(out, ") ");
    if (option->choices) {
        tn_buf_puts(out, "words='");
        put_choices(out, option);
        tn_buf_putc(out, '\'');
    } else {
        tn_buf_puts(out, option->type == TN_OPTION_PATH ? "files=yes" : "words=");
    }
    tn_buf_puts(out, " ;;\n");
}

static void print_bash_command(tn_buf *out, const tn_command *const *commands, const tn_command *command,
                               const tn_options *options) {
    tn_buf_printf(out, "    %s)\n        case $previous in\n", command->name);
    for (size_t i = 0; i < options->count; i++) {
        const tn_option *option = options->slots[i].option;
        if (is_visible(option) && option->type != TN_OPTION_BOOL && !(option->flags & TN_OPTION_POSITIONAL))
            print_bash_value(out, option);
    }
    tn_buf_puts(out, "            *)\n                words='");
    for (size_t i = 0; i < options->count; i++) {
        const tn_option *option = options->slots[i].option;
        if (is_command_name(option))
            put_command_names(out, commands);
        else if (is_visible(option) && !(option->flags & TN_OPTION_POSITIONAL))
            tn_buf_printf(out, "--%s%s",
                          option->type == TN_OPTION_BOOL && option->initial && *option->initial == 't' ? "no-" : "",
                          option->name);
        else
            continue;
        tn_buf_putc(out, ' ');
    }
    tn_buf_puts(out, "--help'\n");
    for (size_t i = 0; i < options->count; i++) {
        const tn_option *option = options->slots[i].option;
        if (option->flags & TN_OPTION_POSITIONAL && !is_command_name(option)) {
            tn_buf_puts(out, "                [[ $current == -* ]] || files=yes\n");
            break;
        }
    }
    tn_buf_puts(out, "                ;;\n        esac\n        ;;\n");
}

tn_status tn_cli_print_bash_completion(tn_buf *out, const tn_command *const *commands) {
    tn_buf_puts(out, "# bash completion for tenon\n"
                     "_tenon() {\n"
                     "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words= files=\n"
                     "    COMPREPLY=()\n"
                     "    # bash breaks --name=value into three words.\n"
                     "    if [[ $current == = ]]; then\n"
                     "        current=\n"
                     "    elif [[ $previous == = ]]; then\n"
                     "        previous=${COMP_WORDS[COMP_CWORD - 2]}\n"
                     "    fi\n"
                     "    if ((COMP_CWORD == 1)); then\n"
                     "        mapfile -t COMPREPLY < <(compgen -W '");
    put_command_names(out, commands);
    tn_buf_puts(out, " --help --version' -- \"$current\")\n"
                     "        return\n"
                     "    fi\n"
                     "    case ${COMP_WORDS[1]} in\n");
    TN_TRY(for_each_command(out, commands, print_bash_command));
    tn_buf_puts(out, "    esac\n"
                     "    if [[ $files ]]; then\n"
                     "        compopt -o filenames\n"
                     "        mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n"
                     "    else\n"
                     "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
                     "    fi\n"
                     "}\n"
                     "complete -F _tenon tenon\n");
    return tn_buf_status(out);
}

/* What may stand in the value's place, after the colon of an _arguments spec. */
static void print_zsh_action(tn_buf *out, const tn_option *option) {
    if (is_command_name(option)) {
        tn_buf_puts(out, "_tenon_commands");
    } else if (option->choices && option->type == TN_OPTION_LIST) {
        tn_buf_puts(out, "_values -s , name ");
        put_choices(out, option);
    } else if (option->choices) {
        tn_buf_putc(out, '(');
        put_choices(out, option);
        tn_buf_putc(out, ')');
    } else {
        tn_buf_puts(out, option->type == TN_OPTION_PATH || option->flags & TN_OPTION_POSITIONAL ? "_files" : " ");
    }
}

/* '*' lets a list be given again; the names in parentheses exclude each other. */
static void print_zsh_flag(tn_buf *out, const tn_option *option, const char *prefix) {
    const char *equals = option->type == TN_OPTION_BOOL ? "" : "=";
    const char *repeat = option->type == TN_OPTION_LIST ? "*" : "";
    if (option->alias && !*prefix && *repeat)
        tn_buf_printf(out, "        \\*{-%c,--%s%s}'", option->alias, option->name, equals);
    else if (option->alias && !*prefix)
        tn_buf_printf(out, "        '(-%c --%s)'{-%c,--%s%s}'", option->alias, option->name, option->alias, option->name,
                      equals);
    else
        tn_buf_printf(out, "        '%s--%s%s%s", repeat, prefix, option->name, equals);
    tn_buf_putc(out, '[');
    put_quoted(out, option->help ? option->help : "", "[]:\\");
    tn_buf_putc(out, ']');
}

static void print_zsh_option(tn_buf *out, const tn_option *option, const char *prefix) {
    if (option->flags & TN_OPTION_POSITIONAL)
        tn_buf_puts(out, option->type == TN_OPTION_LIST ? "        '*" : "        '");
    else
        print_zsh_flag(out, option, prefix);
    if (option->type != TN_OPTION_BOOL) {
        tn_buf_putc(out, ':');
        put_quoted(out, tn_option_value_name(option), ":");
        tn_buf_putc(out, ':');
        print_zsh_action(out, option);
    }
    tn_buf_puts(out, "' \\\n");
}

static void print_zsh_command(tn_buf *out, const tn_command *const *commands, const tn_command *command,
                              const tn_options *options) {
    (void)commands;
    tn_buf_printf(out, "_tenon_%s() {\n    _arguments \\\n", command->name);
    for (size_t i = 0; i < options->count; i++) {
        const tn_option *option = options->slots[i].option;
        if (!is_visible(option))
            continue;
        print_zsh_option(out, option, "");
        if (option->type == TN_OPTION_BOOL)
            print_zsh_option(out, option, "no-");
    }
    tn_buf_puts(out, "        '(-h --help)'{-h,--help}'[explain the command]'\n}\n\n");
}

tn_status tn_cli_print_zsh_completion(tn_buf *out, const tn_command *const *commands) {
    tn_buf_puts(out, "#compdef tenon\n\n_tenon_commands() {\n    local -a commands=(\n");
    for (const tn_command *const *command = commands; *command; command++) {
        if ((*command)->hidden)
            continue;
        tn_buf_printf(out, "        '%s:", (*command)->name);
        put_quoted(out, (*command)->summary, "");
        tn_buf_puts(out, "'\n");
    }
    tn_buf_puts(out, "    )\n    _describe command commands\n}\n\n");
    TN_TRY(for_each_command(out, commands, print_zsh_command));
    tn_buf_puts(out, "_tenon() {\n"
                     "    if ((CURRENT == 2)); then\n"
                     "        _tenon_commands\n"
                     "    elif (($+functions[_tenon_$words[2]])); then\n"
                     "        shift words\n"
                     "        ((CURRENT--))\n"
                     "        _tenon_$words[1]\n"
                     "    fi\n"
                     "}\n\n"
                     "_tenon \"$@\"\n");
    return tn_buf_status(out);
}

static void print_fish_option(tn_buf *out, const char *command, const tn_option *option, const char *prefix) {
    tn_buf_printf(out, "complete -c tenon -n '__fish_seen_subcommand_from %s' -l %s%s", command, prefix, option->name);
    if (option->alias && !*prefix)
        tn_buf_printf(out, " -s %c", option->alias);
    if (option->type == TN_OPTION_PATH) {
        tn_buf_puts(out, " -r -F");
    } else if (option->choices) {
        tn_buf_puts(out, " -x -a '");
        put_choices(out, option);
        tn_buf_putc(out, '\'');
    } else if (option->type != TN_OPTION_BOOL) {
        tn_buf_puts(out, " -x");
    }
    tn_buf_puts(out, " -d '");
    put_quoted(out, option->help ? option->help : "", "'\\");
    tn_buf_puts(out, "'\n");
}

static void print_fish_command(tn_buf *out, const tn_command *const *commands, const tn_command *command,
                               const tn_options *options) {
    for (size_t i = 0; i < options->count; i++) {
        const tn_option *option = options->slots[i].option;
        if (!is_visible(option))
            continue;
        if (is_command_name(option)) {
            tn_buf_printf(out, "complete -c tenon -n '__fish_seen_subcommand_from %s' -a '", command->name);
            put_command_names(out, commands);
            tn_buf_puts(out, "'\n");
        } else if (option->flags & TN_OPTION_POSITIONAL) {
            tn_buf_printf(out, "complete -c tenon -n '__fish_seen_subcommand_from %s' -F\n", command->name);
        } else {
            bool on = option->type == TN_OPTION_BOOL && option->initial && strcmp(option->initial, "true") == 0;
            print_fish_option(out, command->name, option, on ? "no-" : "");
        }
    }
}

tn_status tn_cli_print_fish_completion(tn_buf *out, const tn_command *const *commands) {
    tn_buf_puts(out, "# fish completion for tenon\ncomplete -c tenon -f\n"
                     "complete -c tenon -s h -l help -d 'explain the command'\n"
                     "complete -c tenon -n __fish_use_subcommand -s V -l version -d 'print the version'\n");
    for (const tn_command *const *command = commands; *command; command++) {
        if ((*command)->hidden)
            continue;
        tn_buf_printf(out, "complete -c tenon -n __fish_use_subcommand -a %s -d '", (*command)->name);
        put_quoted(out, (*command)->summary, "'\\");
        tn_buf_puts(out, "'\n");
    }
    return for_each_command(out, commands, print_fish_command);
}
