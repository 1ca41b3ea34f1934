/* Values of options: defaults, checking, storing, printing. The command line is in options_parse.c. */
#include "base/options.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/format.h"
#include "base/map.h"
#include "base/utf8.h"

/* A checked value on its way into a field. */
typedef union value {
    bool truth;
    int64_t integer;
    double number;
    const char *text;
    int choice;
    tn_text_list list;
} value;

const char *tn_option_value_name(const tn_option *option) {
    if (option->value_name)
        return option->value_name;
    switch (option->type) {
    case TN_OPTION_BOOL: return NULL;
    case TN_OPTION_INT: return "N";
    case TN_OPTION_FLOAT: return "X";
    case TN_OPTION_STRING: return "TEXT";
    case TN_OPTION_CHOICE: return "NAME";
    case TN_OPTION_LIST: return option->flags & (TN_OPTION_REPEATABLE | TN_OPTION_POSITIONAL) ? "TEXT" : "NAME,...";
    case TN_OPTION_PATH: return "PATH";
    }
    return NULL;
}

/* Whole numbers without an exponent: "100", not "1e+02". */
static void bound_text(char out[TN_FORMAT_TEXT], double bound) {
    if (bound == floor(bound) && fabs(bound) < 1e9)
        tn_format(out, TN_FORMAT_TEXT, "%.0f", bound);
    else
        tn_format_double(out, bound);
}

void tn_option_print_range(tn_buf *out, const tn_option *option) {
    char low[TN_FORMAT_TEXT], high[TN_FORMAT_TEXT];
    bool above = option->flags & TN_OPTION_ABOVE_LOW, below = option->flags & TN_OPTION_BELOW_HIGH;
    if (option->low == 0 && option->high == 0)
        return;
    bound_text(low, option->low);
    bound_text(high, option->high);
    if (isfinite(option->low) && isfinite(option->high) && !above && !below) {
        tn_buf_printf(out, "from %s to %s", low, high);
        return;
    }
    if (isfinite(option->low))
        tn_buf_printf(out, "%s %s", above ? "above" : "at least", low);
    if (isfinite(option->low) && isfinite(option->high))
        tn_buf_puts(out, " and ");
    if (isfinite(option->high))
        tn_buf_printf(out, "%s %s", below ? "below" : "at most", high);
}

static bool in_range(const tn_option *option, double number) {
    if (option->low == 0 && option->high == 0)
        return true;
    bool above = option->flags & TN_OPTION_ABOVE_LOW ? number > option->low : number >= option->low;
    bool below = option->flags & TN_OPTION_BELOW_HIGH ? number < option->high : number <= option->high;
    return above && below;
}

static size_t choice_count(const tn_option *option) {
    size_t count = 0;
    while (option->choices && option->choices[count])
        count++;
    return count;
}

/* The words after "'x' is not". */
static void print_allowed(tn_buf *out, const tn_option *option) {
    switch (option->type) {
    case TN_OPTION_BOOL: tn_buf_puts(out, "true or false"); return;
    case TN_OPTION_INT: tn_buf_puts(out, "a whole number"); break;
    case TN_OPTION_FLOAT: tn_buf_puts(out, "a number"); break;
    case TN_OPTION_CHOICE:
    case TN_OPTION_LIST:
    case TN_OPTION_STRING:
    case TN_OPTION_PATH:
        tn_buf_puts(out, option->choices ? "one of " : "valid UTF-8");
        for (size_t i = 0; i < choice_count(option); i++)
            tn_buf_printf(out, "%s%s", i ? ", " : "", option->choices[i]);
        return;
    }
    size_t before = out->length;
    tn_buf_putc(out, ' ');
    tn_option_print_range(out, option);
    if (out->length == before + 1 && out->data)
        out->data[--out->length] = 0;
}

/* How errors call the option, given who spoke. */
static const char *option_label(char out[128], const tn_option *option, tn_option_source source) {
    if (option->flags & TN_OPTION_POSITIONAL && source == TN_SOURCE_FLAG)
        snprintf(out, 128, "argument %s", tn_option_value_name(option));
    else
        snprintf(out, 128, "%s%s", source == TN_SOURCE_FILE ? "" : "--", option->name);
    return out;
}

static tn_status fail_value(const tn_option *option, const char *text, tn_option_source source) {
    char label[128];
    tn_buf allowed = {0};
    print_allowed(&allowed, option);
    const char *near = option->choices ? tn_nearest_name(text, option->choices, choice_count(option)) : NULL;
    if (near)
        tn_buf_printf(&allowed, "; did you mean %s?", near);
    tn_status status = tn_buf_status(&allowed);
    if (status == TN_OK)
        status = tn_fail(TN_ERROR_ARGUMENT, "%s: '%.200s' is not %s", option_label(label, option, source), text,
                         tn_buf_text(&allowed));
    tn_buf_free(&allowed);
    return status;
}

static bool parse_bool(const char *text, bool *out) {
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < 4; i++)
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *out = strcmp(text, yes[i]) == 0;
            return true;
        }
    return false;
}

static bool find_choice(const tn_option *option, const char *text, int *out) {
    for (size_t i = 0; i < choice_count(option); i++)
        if (strcmp(option->choices[i], text) == 0) {
            *out = (int)i;
            return true;
        }
    return false;
}

static bool is_utf8(const char *text) {
    size_t length = strlen(text);
    return tn_utf8_valid_prefix(text, length) == length;
}

static bool is_allowed_item(const tn_option *option, const char *item) {
    int ignored;
    return is_utf8(item) && (!option->choices || find_choice(option, item, &ignored));
}

/* The parts of `text` between commas, or all of it when the option takes items whole. */
static tn_status split_list(tn_options *options, const tn_option *option, const char *text, tn_option_source source,
                            tn_text_list *out) {
    bool whole = option->flags & (TN_OPTION_REPEATABLE | TN_OPTION_POSITIONAL);
    size_t count = 1;
    for (const char *p = text; !whole && *p; p++)
        count += *p == ',';
    if (!whole && !*text)
        count = 0;
    const char **items = tn_arena_array(&options->arena, count, sizeof *items);
    if (!items)
        return tn_fail_memory("a list of option values");
    for (size_t i = 0; i < count; i++) {
        size_t length = whole ? strlen(text) : strcspn(text, ",");
        char *item = tn_arena_strndup(&options->arena, text, length);
        if (!item)
            return tn_fail_memory("a list of option values");
        if (!whole && !length) {
            char label[128];
            return tn_fail(TN_ERROR_ARGUMENT, "%s: there is an empty item in the list; write it as a,b,c",
                           option_label(label, option, source));
        }
        if (!is_allowed_item(option, item))
            return fail_value(option, item, source);
        items[i] = item;
        text += length + 1;
    }
    *out = (tn_text_list){items, count};
    return TN_OK;
}

static tn_status convert_text(tn_options *options, const tn_option *option, const char *text, tn_option_source source,
                              value *out) {
    char label[128];
    if (!is_utf8(text))
        return fail_value(option, text, source);
    if (option->type == TN_OPTION_PATH && !*text)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: the path is empty", option_label(label, option, source));
    out->text = tn_arena_strdup(&options->arena, text);
    return out->text ? TN_OK : tn_fail_memory("an option's value");
}

static tn_status convert(tn_options *options, const tn_option *option, const char *text, tn_option_source source,
                         value *out) {
    bool good = true;
    switch (option->type) {
    case TN_OPTION_BOOL: good = parse_bool(text, &out->truth); break;
    case TN_OPTION_INT:
        good = tn_parse_int(text, &out->integer) && in_range(option, (double)out->integer) &&
               (option->size == sizeof(int64_t) || (out->integer >= INT32_MIN && out->integer <= INT32_MAX));
        break;
    case TN_OPTION_FLOAT:
        good = tn_parse_double(text, &out->number) && in_range(option, out->number) &&
               (option->size == sizeof(double) || isfinite((float)out->number));
        break;
    case TN_OPTION_CHOICE: good = find_choice(option, text, &out->choice); break;
    case TN_OPTION_STRING:
    case TN_OPTION_PATH: return convert_text(options, option, text, source, out);
    case TN_OPTION_LIST: return split_list(options, option, text, source, &out->list);
    }
    return good ? TN_OK : fail_value(option, text, source);
}

/* Field sizes were checked when the tables were joined. */
static void store(tn_option_slot *slot, const value *in) {
    const tn_option *option = slot->option;
    switch (option->type) {
    case TN_OPTION_BOOL: *(bool *)slot->field = in->truth; break;
    case TN_OPTION_INT:
        if (option->size == sizeof(int64_t))
            *(int64_t *)slot->field = in->integer;
        else
            *(int32_t *)slot->field = (int32_t)in->integer;
        break;
    case TN_OPTION_FLOAT:
        if (option->size == sizeof(double))
            *(double *)slot->field = in->number;
        else
            *(float *)slot->field = (float)in->number;
        break;
    case TN_OPTION_STRING:
    case TN_OPTION_PATH: *(const char **)slot->field = in->text; break;
    case TN_OPTION_CHOICE: memcpy(slot->field, &in->choice, sizeof in->choice); break;
    case TN_OPTION_LIST: *(tn_text_list *)slot->field = in->list; break;
    }
}

static tn_status append_list(tn_options *options, tn_option_slot *slot, const tn_text_list *more) {
    tn_text_list *list = slot->field;
    const char **items = tn_arena_array(&options->arena, list->count + more->count, sizeof *items);
    if (!items)
        return tn_fail_memory("a list of option values");
    for (size_t i = 0; i < list->count; i++)
        items[i] = list->items[i];
    for (size_t i = 0; i < more->count; i++)
        items[list->count + i] = more->items[i];
    *list = (tn_text_list){items, list->count + more->count};
    return TN_OK;
}

static tn_status assign(tn_options *options, tn_option_slot *slot, const char *text, tn_option_source source) {
    value checked = {0};
    TN_TRY(convert(options, slot->option, text, source, &checked));
    if (source < slot->source || !slot->field)
        return TN_OK;
    if (slot->option->type == TN_OPTION_LIST && source == slot->source && source != TN_SOURCE_INITIAL)
        return append_list(options, slot, &checked.list);
    store(slot, &checked);
    slot->source = source;
    return TN_OK;
}

static size_t field_size(tn_option_type type) {
    switch (type) {
    case TN_OPTION_BOOL: return sizeof(bool);
    case TN_OPTION_INT: return sizeof(int64_t);
    case TN_OPTION_FLOAT: return sizeof(double);
    case TN_OPTION_STRING:
    case TN_OPTION_PATH: return sizeof(const char *);
    case TN_OPTION_CHOICE: return sizeof(int);
    case TN_OPTION_LIST: return sizeof(tn_text_list);
    }
    return 0;
}

static tn_status check_row(const tn_options *options, size_t index) {
    const tn_option *option = options->slots[index].option;
    bool half = (option->type == TN_OPTION_INT && option->size == sizeof(int32_t)) ||
                (option->type == TN_OPTION_FLOAT && option->size == sizeof(float));
    if (option->size != field_size(option->type) && !half)
        return tn_fail(TN_ERROR_ARGUMENT, "option table: the field of --%s has %zu bytes, not its type's", option->name,
                       option->size);
    if (option->type == TN_OPTION_CHOICE && !choice_count(option))
        return tn_fail(TN_ERROR_ARGUMENT, "option table: --%s has no choices", option->name);
    for (size_t i = 0; i < choice_count(option); i++)
        if (option->choices[i][strcspn(option->choices[i], " ,'\"\\$`:")])
            return tn_fail(TN_ERROR_ARGUMENT, "option table: --%s: the choice %s is no plain word", option->name,
                           option->choices[i]);
    for (size_t i = 0; i < index; i++) {
        const tn_option *other = options->slots[i].option;
        if (strcmp(option->name, other->name) == 0 || (option->alias && option->alias == other->alias))
            return tn_fail(TN_ERROR_ARGUMENT, "option table: --%s and --%s are the same", other->name, option->name);
    }
    return TN_OK;
}

static tn_status set_initial(tn_options *options, tn_option_slot *slot) {
    static const value nothing = {0}, no_choice = {.choice = -1}, no_list = {.list = {NULL, 0}};
    if (slot->option->initial)
        return assign(options, slot, slot->option->initial, TN_SOURCE_INITIAL);
    if (slot->field)
        store(slot, slot->option->type == TN_OPTION_CHOICE ? &no_choice
                    : slot->option->type == TN_OPTION_LIST ? &no_list
                                                           : &nothing);
    return TN_OK;
}

tn_status tn_options_start(tn_options *options, const tn_option_table *tables, void *config) {
    *options = (tn_options){0};
    size_t count = 0;
    for (const tn_option_table *table = tables; table->options; table++)
        for (const tn_option *option = table->options; option->name; option++)
            count++;
    options->slots = tn_arena_array(&options->arena, count, sizeof *options->slots);
    if (!options->slots)
        return tn_fail_memory("the options");
    const char *group = "Options";
    for (const tn_option_table *table = tables; table->options; table++)
        for (const tn_option *option = table->options; option->name; option++) {
            tn_option_slot *slot = &options->slots[options->count++];
            group = option->group ? option->group : group;
            char *field = config ? (char *)config + table->offset + option->offset : NULL;
            *slot = (tn_option_slot){.option = option, .group = group, .field = field};
            TN_TRY(check_row(options, options->count - 1));
            TN_TRY(set_initial(options, slot));
        }
    return TN_OK;
}

void tn_options_free(tn_options *options) {
    tn_arena_free(&options->arena);
    *options = (tn_options){0};
}

static bool same_name(const char *a, const char *b) {
    while (*a && *b && (*a == *b || (strchr("-_", *a) && strchr("-_", *b)))) {
        a++;
        b++;
    }
    return *a == *b;
}

tn_option_slot *tn_options_find(const tn_options *options, const char *name) {
    for (size_t i = 0; i < options->count; i++)
        if (same_name(options->slots[i].option->name, name))
            return &options->slots[i];
    return NULL;
}

tn_status tn_options_fail_unknown(tn_options *options, const char *name, tn_option_source source) {
    const char **names = tn_arena_array(&options->arena, options->count, sizeof *names);
    const char *dashes = source == TN_SOURCE_FLAG ? "--" : "";
    size_t count = 0;
    for (size_t i = 0; names && i < options->count; i++) {
        unsigned flags = options->slots[i].option->flags;
        if (!(flags & TN_OPTION_HIDDEN) && !(flags & TN_OPTION_POSITIONAL && source == TN_SOURCE_FLAG))
            names[count++] = options->slots[i].option->name;
    }
    const char *near = names ? tn_nearest_name(name, names, count) : NULL;
    if (!near)
        return tn_fail(TN_ERROR_ARGUMENT, "unknown option %s%.100s", dashes, name);
    return tn_fail(TN_ERROR_ARGUMENT, "unknown option %s%.100s; did you mean %s%s?", dashes, name, dashes, near);
}

tn_status tn_options_set(tn_options *options, const char *name, const char *text, tn_option_source source) {
    tn_option_slot *slot = tn_options_find(options, name);
    return slot ? assign(options, slot, text, source) : tn_options_fail_unknown(options, name, source);
}

tn_status tn_options_set_list(tn_options *options, const char *name, const char *const *items, size_t count,
                              tn_option_source source) {
    char label[128];
    tn_option_slot *slot = tn_options_find(options, name);
    if (!slot)
        return tn_options_fail_unknown(options, name, source);
    const tn_option *option = slot->option;
    if (option->type != TN_OPTION_LIST)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: a single value is needed, not a list", option_label(label, option, source));
    const char **copies = tn_arena_array(&options->arena, count, sizeof *copies);
    for (size_t i = 0; copies && i < count; i++) {
        if (!is_allowed_item(option, items[i]))
            return fail_value(option, items[i], source);
        copies[i] = tn_arena_strdup(&options->arena, items[i]);
        if (!copies[i])
            return tn_fail_memory("a list of option values");
    }
    if (!copies)
        return tn_fail_memory("a list of option values");
    if (source < slot->source || !slot->field)
        return TN_OK;
    store(slot, &(value){.list = {copies, count}});
    slot->source = source;
    return TN_OK;
}

tn_status tn_options_check_required(const tn_options *options) {
    tn_buf missing = {0};
    for (size_t i = 0; i < options->count; i++) {
        const tn_option *option = options->slots[i].option;
        if (!(option->flags & TN_OPTION_REQUIRED) || options->slots[i].source != TN_SOURCE_INITIAL)
            continue;
        tn_buf_puts(&missing, missing.length ? ", " : "");
        if (option->flags & TN_OPTION_POSITIONAL)
            tn_buf_puts(&missing, tn_option_value_name(option));
        else
            tn_buf_printf(&missing, "--%s", option->name);
    }
    tn_status status = tn_buf_status(&missing);
    if (status == TN_OK && missing.length)
        status = tn_fail(TN_ERROR_ARGUMENT, "missing: %s", missing.data);
    tn_buf_free(&missing);
    return status;
}

bool tn_options_given(const tn_options *options, const char *name) {
    const tn_option_slot *slot = tn_options_find(options, name);
    return slot && slot->source != TN_SOURCE_INITIAL;
}

bool tn_options_is_unset(const tn_option_slot *slot) {
    return slot->source == TN_SOURCE_INITIAL && !slot->option->initial;
}

void tn_options_print_value(tn_buf *out, const tn_option_slot *slot) {
    const tn_option *option = slot->option;
    char text[TN_FORMAT_TEXT];
    if (tn_options_is_unset(slot))
        return;
    switch (option->type) {
    case TN_OPTION_BOOL: tn_buf_puts(out, *(const bool *)slot->field ? "true" : "false"); break;
    case TN_OPTION_INT:
        tn_buf_printf(out, "%lld",
                      option->size == sizeof(int64_t) ? (long long)*(const int64_t *)slot->field
                                                      : (long long)*(const int32_t *)slot->field);
        break;
    case TN_OPTION_FLOAT:
        tn_buf_puts(out, option->size == sizeof(double) ? tn_format_double(text, *(const double *)slot->field)
                                                        : tn_format_float(text, *(const float *)slot->field));
        break;
    case TN_OPTION_STRING:
    case TN_OPTION_PATH: tn_buf_puts(out, *(const char *const *)slot->field); break;
    case TN_OPTION_CHOICE: {
        int choice;
        memcpy(&choice, slot->field, sizeof choice);
        tn_buf_puts(out, option->choices[choice]);
        break;
    }
    case TN_OPTION_LIST: {
        const tn_text_list *list = slot->field;
        for (size_t i = 0; i < list->count; i++)
            tn_buf_printf(out, "%s%s", i ? "," : "", list->items[i]);
        break;
    }
    }
}
