/* The overview and the help of a command, from the tables. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/format.h"
#include "cli/cli.h"

const char tn_cli_tagline[] = "fine-tune pretrained models with LoRA";
const char tn_cli_description[] =
    "Tenon fine-tunes Hugging Face checkpoints with LoRA and related adapters. Everything runs in "
    "this one program; no Python is needed.";

const tn_option tn_cli_help_option = {
    .name = "help", .alias = 'h', .type = TN_OPTION_BOOL, .help = "explain the command and stop"};

enum { OPTION_COLUMN = 28, WIDEST = 100, NARROWEST = 40 };

int tn_cli_width(void) {
    struct winsize window;
    int64_t width = WIDEST;
    const char *columns = getenv("COLUMNS");
    if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0)
        width = window.ws_col;
    else if (columns)
        tn_parse_int(columns, &width);
    return width < NARROWEST ? NARROWEST : width > WIDEST ? WIDEST : (int)width;
}

static void put_spaces(tn_buf *out, int count) {
    tn_buf_printf(out, "%*s", count > 0 ? count : 0, "");
}

/* Code points: a byte that continues one takes no column. */
static int columns_of(const char *text, size_t length) {
    int columns = 0;
    for (size_t i = 0; i < length; i++)
        columns += ((unsigned char)text[i] & 0xc0) != 0x80;
    return columns;
}

/* `column` is where the cursor stands; later lines start at `indent`. A newline in the text is kept. */
void tn_cli_wrap(tn_buf *out, const char *text, int column, int indent, int width) {
    bool line_is_empty = true;
    while (*text) {
        if (*text == '\n') {
            tn_buf_putc(out, '\n');
            line_is_empty = true;
            column = 0;
            text++;
            continue;
        }
        size_t length = strcspn(text, " \n");
        int columns = columns_of(text, length);
        if (length && !line_is_empty && column + 1 + columns > width) {
            tn_buf_putc(out, '\n');
            line_is_empty = true;
            column = 0;
        }
        if (length) {
            int gap = line_is_empty ? (column < indent ? indent - column : 0) : 1;
            put_spaces(out, gap);
            tn_buf_append(out, text, length);
            column += gap + columns;
            line_is_empty = false;
        }
        text += length;
        text += *text == ' ';
    }
    tn_buf_putc(out, '\n');
}

static bool is_on_by_default(const tn_option *option) {
    return option->type == TN_OPTION_BOOL && option->initial && strcmp(option->initial, "true") == 0;
}

void tn_cli_print_invocation(tn_buf *out, const tn_option *option) {
    const char *value_name = tn_option_value_name(option);
    const char *dots = option->type == TN_OPTION_LIST ? "..." : "";
    if (option->flags & TN_OPTION_POSITIONAL)
        tn_buf_printf(out, "%s%s", value_name, dots);
    else if (option->type != TN_OPTION_BOOL)
        tn_buf_printf(out, "--%s %s", option->name, value_name);
    else
        tn_buf_printf(out, "--%s%s", is_on_by_default(option) ? "[no-]" : "", option->name);
}

static bool is_visible(const tn_option_slot *slot) {
    return !(slot->option->flags & TN_OPTION_HIDDEN);
}

static bool is_argument(const tn_option_slot *slot) {
    return slot->option->flags & TN_OPTION_POSITIONAL;
}

/* Required options, [options] when there are others, then the arguments. */
static void print_usage_tail(tn_buf *out, const tn_options *options) {
    bool others = false;
    for (size_t i = 0; i < options->count; i++) {
        const tn_option_slot *slot = &options->slots[i];
        if (is_argument(slot) || !is_visible(slot))
            continue;
        if (slot->option->flags & TN_OPTION_REQUIRED) {
            tn_buf_putc(out, ' ');
            tn_cli_print_invocation(out, slot->option);
        } else {
            others = true;
        }
    }
    tn_buf_puts(out, others ? " [options]" : "");
    for (size_t i = 0; i < options->count; i++) {
        const tn_option *option = options->slots[i].option;
        if (!is_argument(&options->slots[i]) || !is_visible(&options->slots[i]))
            continue;
        tn_buf_puts(out, option->flags & TN_OPTION_REQUIRED ? " " : " [");
        tn_cli_print_invocation(out, option);
        tn_buf_puts(out, option->flags & TN_OPTION_REQUIRED ? "" : "]");
    }
}

void tn_cli_print_usage(tn_buf *out, const tn_command *command, const tn_options *options) {
    tn_buf_printf(out, "tenon %s", command->name);
    if (command->usage)
        tn_buf_printf(out, "%s%s", *command->usage ? " " : "", command->usage);
    else
        print_usage_tail(out, options);
}

void tn_cli_print_option_help(tn_buf *out, const tn_option *option) {
    tn_buf notes = {0};
    for (size_t i = 0; option->choices && option->choices[i]; i++)
        tn_buf_printf(&notes, "%s%s", i ? ", " : option->type == TN_OPTION_LIST ? "any of " : "", option->choices[i]);
    if (option->type == TN_OPTION_INT || option->type == TN_OPTION_FLOAT)
        tn_option_print_range(&notes, option);
    if (option->flags & TN_OPTION_REPEATABLE)
        tn_buf_printf(&notes, "%smay be repeated", notes.length ? "; " : "");
    if (option->flags & TN_OPTION_REQUIRED && !(option->flags & TN_OPTION_POSITIONAL))
        tn_buf_printf(&notes, "%srequired", notes.length ? "; " : "");
    if (option->initial && *option->initial && (option->type != TN_OPTION_BOOL || is_on_by_default(option)))
        tn_buf_printf(&notes, "%sdefault %s", notes.length ? "; " : "", option->initial);
    tn_buf_puts(out, option->help ? option->help : "");
    if (notes.length)
        tn_buf_printf(out, "%s(%s)", option->help ? " " : "", notes.data);
    out->failed |= notes.failed;
    tn_buf_free(&notes);
}

static void print_row(tn_buf *out, const tn_option *option, int width) {
    tn_buf head = {0}, help = {0};
    bool argument = option->flags & TN_OPTION_POSITIONAL;
    if (option->alias)
        tn_buf_printf(&head, "  -%c, ", option->alias);
    else
        tn_buf_puts(&head, argument ? "  " : "      ");
    tn_cli_print_invocation(&head, option);
    tn_cli_print_option_help(&help, option);
    tn_buf_append(out, tn_buf_text(&head), head.length);
    int column = columns_of(tn_buf_text(&head), head.length);
    if (column + 2 > OPTION_COLUMN) {
        tn_buf_putc(out, '\n');
        column = 0;
    }
    tn_cli_wrap(out, tn_buf_text(&help), column, OPTION_COLUMN, width);
    out->failed |= head.failed || help.failed;
    tn_buf_free(&head);
    tn_buf_free(&help);
}

static void print_group(tn_buf *out, const tn_options *options, const char *group, int width) {
    bool any = false;
    for (size_t i = 0; i < options->count; i++) {
        const tn_option_slot *slot = &options->slots[i];
        if (!is_visible(slot) || strcmp(slot->group, group) != 0 || is_argument(slot))
            continue;
        if (!any)
            tn_buf_printf(out, "\n%s:\n", group);
        any = true;
        print_row(out, slot->option, width);
    }
}

bool tn_cli_is_first_of_group(const tn_options *options, size_t index) {
    for (size_t i = 0; i < index; i++)
        if (strcmp(options->slots[i].group, options->slots[index].group) == 0)
            return false;
    return true;
}

static void print_arguments(tn_buf *out, const tn_options *options, int width) {
    bool any = false;
    for (size_t i = 0; i < options->count; i++) {
        if (!is_argument(&options->slots[i]) || !is_visible(&options->slots[i]))
            continue;
        if (!any)
            tn_buf_puts(out, "\nArguments:\n");
        any = true;
        print_row(out, options->slots[i].option, width);
    }
}

static void print_examples(tn_buf *out, const tn_command *command) {
    if (!command->examples)
        return;
    tn_buf_puts(out, "\nExamples:\n");
    for (const tn_example *example = command->examples; example->line; example++)
        tn_buf_printf(out, "  # %s\n  %s\n", example->what, example->line);
}

tn_status tn_cli_print_help(tn_buf *out, const tn_command *command, int width) {
    tn_options options;
    tn_status status = tn_cli_start_options(&options, command, NULL);
    if (status == TN_OK) {
        tn_buf usage = {0};
        tn_cli_print_usage(&usage, command, &options);
        tn_buf_puts(out, "usage: ");
        tn_cli_wrap(out, tn_buf_text(&usage), 7, 7, width);
        tn_buf_putc(out, '\n');
        tn_cli_wrap(out, command->description, 0, 0, width);
        print_arguments(out, &options, width);
        for (size_t i = 0; i < options.count; i++)
            if (tn_cli_is_first_of_group(&options, i))
                print_group(out, &options, options.slots[i].group, width);
        tn_buf_puts(out, "\nHelp:\n");
        print_row(out, &tn_cli_help_option, width);
        print_examples(out, command);
        out->failed |= usage.failed;
        tn_buf_free(&usage);
        status = tn_buf_status(out);
    }
    tn_options_free(&options);
    return status;
}

void tn_cli_print_overview(tn_buf *out, const tn_command *const *commands, int width) {
    tn_buf_puts(out, "usage: tenon COMMAND [options]\n\n");
    tn_cli_wrap(out, tn_cli_description, 0, 0, width);
    tn_buf_puts(out, "\nCommands:\n");
    for (; *commands; commands++) {
        if ((*commands)->hidden)
            continue;
        tn_buf_printf(out, "  %-18s", (*commands)->name);
        tn_cli_wrap(out, (*commands)->summary, 20, 20, width);
    }
    tn_buf_puts(out, "\n`tenon COMMAND --help` explains one of them; `tenon --version` prints the version.\n");
}
