/* The command line, read through a table of options. */
#include <ctype.h>
#include <string.h>

#include "base/options.h"

typedef struct command_line {
    tn_options *options;
    int count, at; /* arguments, and the one to be read next */
    char *const *arguments;
    size_t positional; /* slots before this one have their argument */
} command_line;

static tn_status set_flag(command_line *line, const tn_option_slot *slot, const char *text) {
    return tn_options_set(line->options, slot->option->name, text, TN_SOURCE_FLAG);
}

/* Sets the option from what follows '=' or from the next argument. */
static tn_status take_value(command_line *line, const tn_option_slot *slot, const char *attached) {
    if (attached)
        return set_flag(line, slot, attached);
    if (slot->option->type == TN_OPTION_BOOL)
        return set_flag(line, slot, "true");
    const char *next = line->at < line->count ? line->arguments[line->at] : NULL;
    if (!next || strncmp(next, "--", 2) == 0)
        return tn_fail(TN_ERROR_ARGUMENT, "--%s needs a value%s", slot->option->name,
                       next ? "; one that starts with -- is given as --name=value" : "");
    line->at++;
    return set_flag(line, slot, next);
}

static tn_option_slot *find_flag(const command_line *line, const char *name) {
    tn_option_slot *slot = tn_options_find(line->options, name);
    return slot && !(slot->option->flags & TN_OPTION_POSITIONAL) ? slot : NULL;
}

static tn_status take_long(command_line *line, const char *text) {
    size_t length = strcspn(text, "=");
    const char *attached = text[length] ? text + length + 1 : NULL;
    const char *name = tn_arena_strndup(&line->options->arena, text, length);
    if (!name)
        return tn_fail_memory("an option's name");
    tn_option_slot *slot = find_flag(line, name);
    if (slot)
        return take_value(line, slot, attached);
    tn_option_slot *positional = tn_options_find(line->options, name);
    if (positional)
        return tn_fail(TN_ERROR_ARGUMENT, "unknown option --%s; %s is given as a plain argument", name,
                       tn_option_value_name(positional->option));
    slot = strncmp(name, "no-", 3) == 0 ? find_flag(line, name + 3) : NULL;
    if (!slot || slot->option->type != TN_OPTION_BOOL)
        return tn_options_fail_unknown(line->options, name, TN_SOURCE_FLAG);
    if (attached)
        return tn_fail(TN_ERROR_ARGUMENT, "--%s takes no value", name);
    return set_flag(line, slot, "false");
}

static tn_status take_short(command_line *line, const char *text) {
    for (size_t i = 0; !text[1] && i < line->options->count; i++)
        if (line->options->slots[i].option->alias == text[0])
            return take_value(line, &line->options->slots[i], NULL);
    return tn_fail(TN_ERROR_ARGUMENT, "unknown option -%.100s; long options start with --", text);
}

static tn_status take_positional(command_line *line, const char *text) {
    tn_options *options = line->options;
    for (; line->positional < options->count; line->positional++) {
        const tn_option_slot *slot = &options->slots[line->positional];
        if (!(slot->option->flags & TN_OPTION_POSITIONAL))
            continue;
        if (slot->option->type != TN_OPTION_LIST)
            line->positional++;
        return set_flag(line, slot, text);
    }
    return tn_fail(TN_ERROR_ARGUMENT, "unexpected argument '%.200s'", text);
}

/* "-" alone means standard input, and "-5" or "-.5" is a number. */
static bool is_positional(const char *text) {
    return text[0] != '-' || !text[1] || isdigit((unsigned char)text[1]) || text[1] == '.';
}

tn_status tn_options_parse(tn_options *options, int argc, char *const argv[]) {
    command_line line = {.options = options, .count = argc, .arguments = argv};
    bool only_positionals = false;
    while (line.at < line.count) {
        const char *text = argv[line.at++];
        if (only_positionals || is_positional(text))
            TN_TRY(take_positional(&line, text));
        else if (strcmp(text, "--") == 0)
            only_positionals = true;
        else if (text[1] == '-')
            TN_TRY(take_long(&line, text + 2));
        else
            TN_TRY(take_short(&line, text + 1));
    }
    return TN_OK;
}
