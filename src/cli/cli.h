/* A command is one const struct in a file of its own, listed in main.c. Its options are read before `run` is called; the
 * overview, --help, the manual pages and the shell completions are made from the same struct. */
#ifndef TN_CLI_CLI_H
#define TN_CLI_CLI_H

#include "base/buf.h"
#include "base/options.h"

/* What a process returns. Before TN_EXIT_FAILURE or TN_EXIT_USAGE a command calls tn_fail (or lets the library do so) and
 * prints nothing itself: "tenon: <message>" follows, and after wrong usage a line that points to --help. */
enum {
    TN_EXIT_OK = 0,
    TN_EXIT_FAILURE = 1,
    TN_EXIT_USAGE = 2,
    TN_EXIT_REPORTED = -1, /* ends as a failure, but the command has said all there is to say */
};

typedef struct tn_example {
    const char *line; /* "tenon train --model base --data train.jsonl"; NULL ends an array */
    const char *what; /* one line, no full stop */
} tn_example;

struct tn_command;

/* One call of a command. */
typedef struct tn_invocation {
    const struct tn_command *command;
    const struct tn_command *const *commands; /* all of them, NULL-terminated */
    const void *config;                       /* the command's config struct, filled */
    const tn_options *options;                /* which options were given; for tn_cli_effective_config */
} tn_invocation;

typedef struct tn_command {
    const char *name;
    const char *summary;           /* one line, no full stop */
    const char *description;       /* paragraphs, separated by "\n\n" */
    const char *usage;             /* what follows the name; NULL: made from required options and arguments */
    const tn_option_table *tables; /* ends with {0}; NULL: no options */
    size_t config_size;            /* of the struct that the tables are joined into */
    const tn_example *examples;    /* NULL: none */
    int (*run)(const tn_invocation *call);
    bool hidden;
} tn_command;

/* The whole program: finds the command, reads its options and run file, runs it, prints the error. Returns the exit code. */
int tn_cli_main(const tn_command *const *commands, int argc, char **argv);

/* The exit code for a library call's result. */
int tn_cli_exit(tn_status status);

/* NULL when there is none. */
const tn_command *tn_cli_find_command(const tn_command *const *commands, const char *name);

/* Fails with "there is no command 'x'" and the nearest one. */
tn_status tn_cli_fail_unknown_command(const tn_command *const *commands, const char *name);

/* tn_options_start for a command with or without tables. */
tn_status tn_cli_start_options(tn_options *options, const tn_command *command, void *config);

/* Writes text to standard output. */
tn_status tn_cli_print(const tn_buf *text);

/* Reads a YAML file whose keys are option names into the options that no flag has set. */
tn_status tn_cli_read_run_file(tn_options *options, const char *path);

/* Every option with its value as YAML in the order of the tables, in a form that tn_cli_read_run_file takes back. */
void tn_cli_effective_config(tn_buf *out, const tn_options *options);

/* help.c: texts wrapped to `width` columns. */
int tn_cli_width(void); /* of the terminal, or 100 where there is none; from 40 to 100 */
void tn_cli_wrap(tn_buf *out, const char *text, int column, int indent, int width);
void tn_cli_print_usage(tn_buf *out, const tn_command *command, const tn_options *options);
void tn_cli_print_overview(tn_buf *out, const tn_command *const *commands, int width);
tn_status tn_cli_print_help(tn_buf *out, const tn_command *command, int width);
void tn_cli_print_invocation(tn_buf *out, const tn_option *option);  /* "--rank N" or "--[no-]pack" or "FILE..." */
void tn_cli_print_option_help(tn_buf *out, const tn_option *option); /* with choices, range and default in parentheses */

/* A heading may come up again in a later table: its rows are shown together, where the heading came first. */
bool tn_cli_is_first_of_group(const tn_options *options, size_t index);

/* man.c: the page of one command, or of the program when `command` is NULL. */
tn_status tn_cli_print_manual(tn_buf *out, const tn_command *const *commands, const tn_command *command);

/* complete.c */
tn_status tn_cli_print_bash_completion(tn_buf *out, const tn_command *const *commands);
tn_status tn_cli_print_zsh_completion(tn_buf *out, const tn_command *const *commands);
tn_status tn_cli_print_fish_completion(tn_buf *out, const tn_command *const *commands);

/* Words shared by help and manual. */
extern const char tn_cli_tagline[];
extern const char tn_cli_description[];
extern const tn_option tn_cli_help_option; /* --help, which every command has though it is in no table */

#endif
