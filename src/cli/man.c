/* Manual pages in the man macros of troff (groff_man(7)). */
#include <ctype.h>
#include <string.h>

#include "base/utf8.h"
#include "cli/cli.h"

/* Text as troff takes it literally: no escape, no request at the start of a line, and ASCII characters that stay what they
 * are when copied from the page. */
static void put_escaped(tn_buf *out, const char *text) {
    static const char *const glyphs[128] = {['\\'] = "\\(rs", ['-'] = "\\-",   ['\''] = "\\(aq", ['`'] = "\\(ga",
                                            ['^'] = "\\(ha",  ['~'] = "\\(ti", ['"'] = "\\(dq"};
    size_t length = strlen(text);
    bool line_start = true;
    while (length) {
        uint32_t code;
        size_t size = tn_utf8_decode(text, length, &code);
        if (!size) {
            size = 1;
            code = 0xfffd;
        }
        if (line_start && code == '.')
            tn_buf_puts(out, "\\&");
        if (code >= 128)
            tn_buf_printf(out, "\\[u%04X]", (unsigned)code);
        else if (glyphs[code])
            tn_buf_puts(out, glyphs[code]);
        else if (code == '\n' || code >= ' ')
            tn_buf_putc(out, (char)code);
        line_start = code == '\n';
        text += size;
        length -= size;
    }
}

static void put_line(tn_buf *out, const char *text) {
    put_escaped(out, text);
    tn_buf_putc(out, '\n');
}

/* Blank lines between paragraphs become requests: an empty line in troff input is vertical space, not a paragraph. */
static void put_paragraphs(tn_buf *out, const char *text) {
    while (*text) {
        const char *end = strstr(text, "\n\n");
        size_t length = end ? (size_t)(end - text) : strlen(text);
        char *paragraph = tn_strndup(text, length);
        if (!paragraph) {
            out->failed = true;
            return;
        }
        put_line(out, paragraph);
        tn_free(paragraph);
        text += length;
        if (end) {
            tn_buf_puts(out, ".PP\n");
            text += strspn(text, "\n");
        }
    }
}

static void put_header(tn_buf *out, const char *command) {
    tn_buf_printf(out, ".TH TENON%s", *command ? "\\-" : "");
    for (const char *p = command; *p; p++)
        if (*p == '-')
            tn_buf_puts(out, "\\-");
        else
            tn_buf_putc(out, (char)toupper((unsigned char)*p));
    tn_buf_puts(out, " 1 \"\" \"tenon " TENON_VERSION "\" \"Tenon manual\"\n");
}

/* Bold command words, then the rest as it is. */
static void put_synopsis(tn_buf *out, const char *usage, const char *bold) {
    tn_buf_puts(out, ".SH SYNOPSIS\n.B ");
    put_line(out, bold);
    usage += strlen(bold);
    usage += *usage == ' ';
    if (*usage)
        put_line(out, usage);
}

static void put_option(tn_buf *out, const tn_option *option) {
    tn_buf invocation = {0}, help = {0};
    tn_cli_print_invocation(&invocation, option);
    tn_cli_print_option_help(&help, option);
    tn_buf_puts(out, ".TP\n\\fB");
    if (option->alias)
        tn_buf_printf(out, "\\-%c\\fR, \\fB", option->alias);
    char *value = invocation.data ? strchr(invocation.data, ' ') : NULL;
    if (value)
        *value++ = 0;
    put_escaped(out, tn_buf_text(&invocation));
    tn_buf_puts(out, "\\fR");
    if (value) {
        tn_buf_puts(out, " \\fI");
        put_escaped(out, value);
        tn_buf_puts(out, "\\fR");
    }
    tn_buf_putc(out, '\n');
    put_line(out, tn_buf_text(&help));
    out->failed |= invocation.failed || help.failed;
    tn_buf_free(&invocation);
    tn_buf_free(&help);
}

static bool is_shown(const tn_option_slot *slot, bool arguments) {
    bool argument = slot->option->flags & TN_OPTION_POSITIONAL;
    return !(slot->option->flags & TN_OPTION_HIDDEN) && argument == arguments;
}

static void put_arguments(tn_buf *out, const tn_options *options) {
    bool any = false;
    for (size_t i = 0; i < options->count; i++) {
        if (!is_shown(&options->slots[i], true))
            continue;
        if (!any)
            tn_buf_puts(out, ".SH ARGUMENTS\n");
        any = true;
        put_option(out, options->slots[i].option);
    }
}

static void put_options(tn_buf *out, const tn_options *options) {
    tn_buf_puts(out, ".SH OPTIONS\n");
    for (size_t i = 0; i < options->count; i++) {
        bool any = false;
        if (!tn_cli_is_first_of_group(options, i))
            continue;
        for (size_t j = i; j < options->count; j++) {
            const tn_option_slot *slot = &options->slots[j];
            if (strcmp(slot->group, options->slots[i].group) != 0 || !is_shown(slot, false))
                continue;
            if (!any) {
                tn_buf_puts(out, ".SS ");
                put_line(out, slot->group);
            }
            any = true;
            put_option(out, slot->option);
        }
    }
    tn_buf_puts(out, ".SS Help\n");
    put_option(out, &tn_cli_help_option);
}

static void put_examples(tn_buf *out, const tn_command *command) {
    if (!command->examples)
        return;
    tn_buf_puts(out, ".SH EXAMPLES\n");
    for (const tn_example *example = command->examples; example->line; example++) {
        tn_buf_puts(out, ".PP\n");
        put_escaped(out, example->what);
        tn_buf_puts(out, ":\n.PP\n.nf\n.RS\n");
        put_line(out, example->line);
        tn_buf_puts(out, ".RE\n.fi\n");
    }
}

static void put_exit_status(tn_buf *out) {
    tn_buf_puts(out, ".SH \"EXIT STATUS\"\n"
                     ".TP\n.B 0\nsuccess\n"
                     ".TP\n.B 1\nfailure; a line on standard error says what, where and what to do\n"
                     ".TP\n.B 2\nwrong usage\n");
}

static void put_program_page(tn_buf *out, const tn_command *const *commands) {
    put_header(out, "");
    tn_buf_puts(out, ".SH NAME\ntenon \\- ");
    put_line(out, tn_cli_tagline);
    put_synopsis(out, "tenon COMMAND [options]", "tenon");
    tn_buf_puts(out, ".SH DESCRIPTION\n");
    put_paragraphs(out, tn_cli_description);
    tn_buf_puts(out, ".SH COMMANDS\n");
    for (const tn_command *const *command = commands; *command; command++) {
        if ((*command)->hidden)
            continue;
        tn_buf_puts(out, ".TP\n.BR tenon\\-");
        put_escaped(out, (*command)->name);
        tn_buf_puts(out, " (1)\n");
        put_line(out, (*command)->summary);
    }
    tn_buf_puts(out, ".SH OPTIONS\n.TP\n.BR \\-h \", \" \\-\\-help\nlist the commands\n"
                     ".TP\n.BR \\-V \", \" \\-\\-version\nprint the version\n");
    put_exit_status(out);
}

static void put_command_page(tn_buf *out, const tn_command *command, const tn_options *options) {
    tn_buf usage = {0}, bold = {0};
    put_header(out, command->name);
    tn_buf_puts(out, ".SH NAME\ntenon\\-");
    put_escaped(out, command->name);
    tn_buf_puts(out, " \\- ");
    put_line(out, command->summary);
    tn_cli_print_usage(&usage, command, options);
    tn_buf_printf(&bold, "tenon %s", command->name);
    out->failed |= usage.failed || bold.failed;
    if (!out->failed)
        put_synopsis(out, usage.data, bold.data);
    tn_buf_puts(out, ".SH DESCRIPTION\n");
    put_paragraphs(out, command->description);
    put_arguments(out, options);
    put_options(out, options);
    put_examples(out, command);
    put_exit_status(out);
    tn_buf_puts(out, ".SH \"SEE ALSO\"\n.BR tenon (1)\n");
    tn_buf_free(&usage);
    tn_buf_free(&bold);
}

tn_status tn_cli_print_manual(tn_buf *out, const tn_command *const *commands, const tn_command *command) {
    if (!command) {
        put_program_page(out, commands);
        return tn_buf_status(out);
    }
    tn_options options;
    tn_status status = tn_cli_start_options(&options, command, NULL);
    if (status == TN_OK) {
        put_command_page(out, command, &options);
        status = tn_buf_status(out);
    }
    tn_options_free(&options);
    return status;
}
