/* Filters on single values: text, numbers, defaults and JSON. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "text/jinja.h"

#define FILTER(name) static tn_status name(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out)

/* ---- text ---- */

#define RECASE(name, casing)                                                                                                \
    FILTER(name) {                                                                                                          \
        (void)args;                                                                                                         \
        const jinja_string *text;                                                                                           \
        TN_TRY(tn_jinja_to_string(state, self, &text));                                                                     \
        return tn_jinja_recase(state, text, casing, out);                                                                   \
    }

RECASE(filter_lower, JINJA_LOWER)
RECASE(filter_upper, JINJA_UPPER)
RECASE(filter_capitalize, JINJA_CAPITALIZE)
RECASE(filter_title, JINJA_TITLE_WORDS)

FILTER(filter_trim) {
    const jinja_string *text;
    TN_TRY(tn_jinja_to_string(state, self, &text));
    return tn_jinja_strip(state, text, args->items[0], JINJA_STRIP_LEFT | JINJA_STRIP_RIGHT, out);
}

/* Without autoescaping "safe" and "string" are the same. */
FILTER(filter_string) {
    (void)args;
    const jinja_string *text;
    TN_TRY(tn_jinja_to_string(state, self, &text));
    *out = JINJA_VALUE(JINJA_STRING, string, text);
    return TN_OK;
}

static tn_status escape_into(jinja_state *state, tn_buf *buf, const jinja_string *text) {
    static const char from[] = "&<>\"'";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    for (size_t at = 0; at < text->length; at++) {
        const char *found = text->data[at] ? strchr(from, text->data[at]) : NULL;
        const char *piece = found ? to[found - from] : &text->data[at];
        TN_TRY(tn_jinja_append(state, buf, piece, found ? strlen(piece) : 1));
    }
    return tn_jinja_step(state, text->length / 16);
}

FILTER(filter_escape) {
    (void)args;
    const jinja_string *text;
    tn_buf buf = {0};
    TN_TRY(tn_jinja_to_string(state, self, &text));
    tn_status status = escape_into(state, &buf, text);
    return tn_jinja_string_take(state, status, &buf, out);
}

FILTER(filter_replace) {
    const jinja_string *text, *old, *new;
    int64_t count;
    TN_TRY(tn_jinja_to_string(state, self, &text));
    TN_TRY(tn_jinja_to_string(state, args->items[0], &old));
    TN_TRY(tn_jinja_to_string(state, args->items[1], &new));
    TN_TRY(tn_jinja_arg_int(args->items[2], "replace()", -1, &count));
    return tn_jinja_replace(state, text, old, new, count, out);
}

FILTER(filter_format) {
    const jinja_string *text;
    jinja_list *values;
    TN_TRY(tn_jinja_to_string(state, self, &text));
    if (args->count && args->keyword_count)
        return tn_fail(TN_ERROR_ARGUMENT, "can't handle positional and keyword arguments at the same time");
    if (args->keyword_count) {
        jinja_dict *dict;
        TN_TRY(tn_jinja_dict_new(state, args->keyword_count, &dict));
        for (size_t i = 0; i < args->keyword_count; i++)
            TN_TRY(tn_jinja_dict_put(state, dict, args->keywords[i].key, args->keywords[i].value));
        return tn_jinja_percent(state, text, JINJA_VALUE(JINJA_DICT, dict, dict), out);
    }
    TN_TRY(tn_jinja_list_new(state, args->count, &values));
    for (size_t i = 0; i < args->count; i++)
        TN_TRY(tn_jinja_list_push(state, values, args->items[i]));
    return tn_jinja_percent(state, text, JINJA_VALUE(JINJA_TUPLE, list, values), out);
}

FILTER(filter_center) {
    static const jinja_string space = {" ", 1};
    const jinja_string *text;
    int64_t width;
    TN_TRY(tn_jinja_to_string(state, self, &text));
    TN_TRY(tn_jinja_arg_int(args->items[0], "center()", 80, &width));
    return tn_jinja_pad(state, text, width, &space, JINJA_PAD_LEFT | JINJA_PAD_RIGHT, out);
}

static tn_status indent_into(jinja_state *state, tn_buf *buf, const jinja_list *lines, const jinja_string *indent,
                             bool first, bool blank) {
    for (size_t i = 0; i < lines->count; i++) {
        const jinja_string *line = lines->items[i].as.string;
        if (i)
            TN_TRY(tn_jinja_append(state, buf, "\n", 1));
        if (i ? blank || line->length : first)
            TN_TRY(tn_jinja_append(state, buf, indent->data, indent->length));
        TN_TRY(tn_jinja_append(state, buf, line->data, line->length));
    }
    return TN_OK;
}

/* An indentation given as a number of spaces or as itself. */
static tn_status get_indent(jinja_state *state, jinja_value arg, int64_t standard, jinja_value *indent) {
    static const jinja_string space = {" ", 1}, empty = {"", 0};
    int64_t width;
    *indent = arg;
    if (arg.type == JINJA_STRING)
        return TN_OK;
    TN_TRY(tn_jinja_arg_int(arg, "indent", standard, &width));
    return tn_jinja_pad(state, &empty, width, &space, JINJA_PAD_RIGHT, indent);
}

FILTER(filter_indent) {
    jinja_value text, indent, lines;
    jinja_value newline = JINJA_VALUE(JINJA_STRING, string, &((jinja_string){"\n", 1}));
    /* As in Jinja: only a string can be added to, and the added line end keeps a last empty line. */
    TN_TRY(tn_jinja_binary(state, TOKEN_ADD, self, newline, &text));
    TN_TRY(get_indent(state, args->items[0], 4, &indent));
    TN_TRY(tn_jinja_splitlines(state, text.as.string, false, &lines));
    tn_buf buf = {0};
    tn_status status = indent_into(state, &buf, lines.as.list, indent.as.string, tn_jinja_truth(args->items[1]),
                                   tn_jinja_truth(args->items[2]));
    return tn_jinja_string_take(state, status, &buf, out);
}

FILTER(filter_truncate) {
    static const jinja_string dots = {"...", 3}, space = {" ", 1};
    const jinja_string *text, *end = &dots;
    int64_t length, leeway;
    size_t cut;
    TN_TRY(tn_jinja_arg_string(self, "truncate()", &text));
    TN_TRY(tn_jinja_arg_int(args->items[0], "truncate()", 255, &length));
    TN_TRY(tn_jinja_arg_int(args->items[3], "truncate()", 5, &leeway));
    if (args->items[2].type != JINJA_ABSENT)
        TN_TRY(tn_jinja_arg_string(args->items[2], "truncate()", &end));
    int64_t count = (int64_t)tn_jinja_string_count(text), end_count = (int64_t)tn_jinja_string_count(end);
    if (length < end_count || leeway < 0)
        return tn_fail(TN_ERROR_ARGUMENT, "truncate(): expected length >= %lld and leeway >= 0", (long long)end_count);
    *out = self;
    if (count <= length || count - length <= leeway)
        return TN_OK;
    jinja_string kept = {text->data, tn_jinja_string_offset(text, (size_t)(length - end_count))};
    TN_TRY(tn_jinja_find_last(state, &kept, &space, kept.length, &cut));
    if (!tn_jinja_truth(args->items[1]) && cut != SIZE_MAX)
        kept.length = cut;
    return tn_jinja_binary(state, TOKEN_ADD, JINJA_VALUE(JINJA_STRING, string, &kept),
                           JINJA_VALUE(JINJA_STRING, string, end), out);
}

/* ---- numbers ---- */

/* int(text, base): white space around, a sign, a prefix that fits the base, single underscores. */
static bool parse_int(const jinja_string *text, int64_t base, int64_t *out) {
    char digits[80];
    size_t length = 0, end = text->length, at = 0;
    for (size_t size; (size = tn_jinja_space_before(text->data, end)) > 0;)
        end -= size;
    for (size_t size; at < end && (size = tn_jinja_space_at(text->data + at, end - at)) > 0;)
        at += size;
    if (at < end && (text->data[at] == '-' || text->data[at] == '+'))
        digits[length++] = text->data[at++];
    char prefix = end - at > 2 && text->data[at] == '0' ? (char)(text->data[at + 1] | 32) : 0;
    if ((base == 16 && prefix == 'x') || (base == 8 && prefix == 'o') || (base == 2 && prefix == 'b'))
        at += 2;
    size_t first = length;
    for (; at < end && length + 1 < sizeof digits; at++) {
        if (text->data[at] == '_' && length > first && at + 1 < end && text->data[at + 1] != '_')
            continue;
        if (!((text->data[at] >= '0' && text->data[at] <= '9') ||
              ((text->data[at] | 32) >= 'a' && (text->data[at] | 32) <= 'z')))
            return false;
        digits[length++] = text->data[at];
    }
    digits[length] = 0;
    char *stop;
    errno = 0;
    *out = strtoll(digits, &stop, (int)base);
    return at == end && length > first && !*stop && !errno;
}

/* float(text); underscores are not taken. */
static bool parse_real(const jinja_string *text, double *out) {
    size_t end = text->length, at = 0;
    for (size_t size; (size = tn_jinja_space_before(text->data, end)) > 0;)
        end -= size;
    for (size_t size; at < end && (size = tn_jinja_space_at(text->data + at, end - at)) > 0;)
        at += size;
    size_t sign = at < end && (text->data[at] == '-' || text->data[at] == '+');
    const char *word = text->data + at + sign;
    size_t length = end - at - sign;
    if ((length == 3 && strncasecmp(word, "inf", 3) == 0) || (length == 8 && strncasecmp(word, "infinity", 8) == 0))
        *out = text->data[at] == '-' ? -INFINITY : INFINITY;
    else if (length == 3 && strncasecmp(word, "nan", 3) == 0)
        *out = NAN;
    else
        return tn_jinja_parse_float(text->data + at, end - at, out);
    return true;
}

/* int(float): false when it is not finite. */
static tn_status truncate_real(double real, bool *converted, jinja_value *out) {
    *converted = isfinite(real) != 0;
    if (*converted && fabs(real) >= 9223372036854775808.0)
        return tn_fail(TN_ERROR_ARGUMENT, "int(): the number needs more than 64 bits");
    if (*converted)
        *out = tn_jinja_int((int64_t)real);
    return TN_OK;
}

FILTER(filter_int) {
    (void)state;
    int64_t base, integer;
    double real;
    bool converted = false;
    TN_TRY(tn_jinja_arg_int(args->items[1], "int()", 10, &base));
    if (base < 2 || base > 36)
        return tn_fail(TN_ERROR_ARGUMENT, "int() base must be >= 2 and <= 36");
    if (self.type == JINJA_UNDEFINED)
        return tn_jinja_fail_undefined(self);
    if (tn_jinja_is_int(self))
        *out = tn_jinja_int(tn_jinja_as_int(self));
    else if (self.type == JINJA_STRING && parse_int(self.as.string, base, &integer))
        *out = tn_jinja_int(integer);
    else if (self.type == JINJA_FLOAT)
        TN_TRY(truncate_real(self.as.real, &converted, out));
    else if (self.type == JINJA_STRING && parse_real(self.as.string, &real))
        TN_TRY(truncate_real(real, &converted, out));
    else
        *out = JINJA_NONE_VALUE;
    bool failed = out->type != JINJA_INT;
    if (failed)
        *out = args->items[0].type == JINJA_ABSENT ? tn_jinja_int(0) : args->items[0];
    return TN_OK;
}

FILTER(filter_float) {
    (void)state;
    double real;
    if (self.type == JINJA_UNDEFINED)
        return tn_jinja_fail_undefined(self);
    if (tn_jinja_is_number(self))
        *out = tn_jinja_float(tn_jinja_as_double(self));
    else if (self.type == JINJA_STRING && parse_real(self.as.string, &real))
        *out = tn_jinja_float(real);
    else
        *out = args->items[0].type == JINJA_ABSENT ? tn_jinja_float(0) : args->items[0];
    return TN_OK;
}

static tn_status need_number(jinja_value self, const char *what) {
    if (self.type == JINJA_UNDEFINED)
        return tn_jinja_fail_undefined(self);
    if (!tn_jinja_is_number(self))
        return tn_fail(TN_ERROR_ARGUMENT, "%s: bad operand type: '%s'", what, tn_jinja_type_name(self.type));
    return TN_OK;
}

FILTER(filter_abs) {
    (void)state;
    (void)args;
    TN_TRY(need_number(self, "abs()"));
    if (self.type == JINJA_FLOAT)
        *out = tn_jinja_float(fabs(self.as.real));
    else if (tn_jinja_as_int(self) == INT64_MIN)
        return tn_fail(TN_ERROR_ARGUMENT, "abs(): the number needs more than 64 bits");
    else
        *out = tn_jinja_int(llabs(tn_jinja_as_int(self)));
    return TN_OK;
}

/* Python's round(): to the nearest decimal, exact ties to even. */
static double round_to(double value, int64_t precision) {
    char text[700];
    if (!isfinite(value) || precision > 323)
        return value;
    if (precision < 0) {
        double unit = pow(10, (double)-precision);
        return isfinite(unit) ? rint(value / unit) * unit : 0;
    }
    snprintf(text, sizeof text, "%.*f", (int)precision, value);
    return strtod(text, NULL);
}

FILTER(filter_round) {
    (void)state;
    int64_t precision;
    static const jinja_string common = {"common", 6};
    const jinja_string *method = &common;
    TN_TRY(need_number(self, "round()"));
    TN_TRY(tn_jinja_arg_int(args->items[0], "round()", 0, &precision));
    if (args->items[1].type != JINJA_ABSENT)
        TN_TRY(tn_jinja_arg_string(args->items[1], "round()", &method));
    double value = tn_jinja_as_double(self), unit = pow(10, (double)precision);
    if (tn_jinja_string_is(method, "common")) {
        bool converted;
        if (self.type != JINJA_FLOAT && precision < 0)
            return truncate_real(round_to(value, precision), &converted, out);
        *out = self.type == JINJA_FLOAT ? tn_jinja_float(round_to(value, precision)) : tn_jinja_int(tn_jinja_as_int(self));
        return TN_OK;
    }
    bool floors = tn_jinja_string_is(method, "floor");
    if (!floors && !tn_jinja_string_is(method, "ceil"))
        return tn_fail(TN_ERROR_ARGUMENT, "method must be common, ceil or floor");
    *out = tn_jinja_float((floors ? floor(value * unit) : ceil(value * unit)) / unit);
    return TN_OK;
}

/* ---- others ---- */

FILTER(filter_default) {
    static const jinja_string empty = {"", 0};
    (void)state;
    bool missing = self.type == JINJA_UNDEFINED || (tn_jinja_truth(args->items[1]) && !tn_jinja_truth(self));
    *out = !missing                              ? self
           : args->items[0].type == JINJA_ABSENT ? JINJA_VALUE(JINJA_STRING, string, &empty)
                                                 : args->items[0];
    return TN_OK;
}

FILTER(filter_length) {
    (void)args;
    int64_t length;
    TN_TRY(tn_jinja_length(state, self, &length));
    *out = tn_jinja_int(length);
    return TN_OK;
}

/* Attributes only, not items: for dicts and strings their methods. */
FILTER(filter_attr) {
    const jinja_string *name;
    TN_TRY(tn_jinja_to_string(state, args->items[0], &name));
    if (self.type == JINJA_DICT && !tn_jinja_find_method(JINJA_DICT, name))
        return tn_jinja_undefined(state, name, self.type, out);
    return tn_jinja_attribute(state, self, name, out);
}

static tn_status get_separators(jinja_value arg, jinja_json_style *style) {
    if (arg.type == JINJA_ABSENT || arg.type == JINJA_NONE)
        return TN_OK;
    if ((arg.type != JINJA_TUPLE && arg.type != JINJA_LIST) || arg.as.list->count != 2)
        return tn_fail(TN_ERROR_ARGUMENT, "tojson(): separators must be a pair of strings");
    const jinja_string *item, *key;
    TN_TRY(tn_jinja_arg_string(arg.as.list->items[0], "tojson()", &item));
    TN_TRY(tn_jinja_arg_string(arg.as.list->items[1], "tojson()", &key));
    style->item_separator = *item;
    style->key_separator = *key;
    return TN_OK;
}

FILTER(filter_tojson) {
    jinja_json_style style = {.item_separator = {", ", 2}, .key_separator = {": ", 2}};
    style.ensure_ascii = tn_jinja_truth(args->items[0]);
    style.sort_keys = tn_jinja_truth(args->items[3]);
    if (args->items[1].type != JINJA_ABSENT && args->items[1].type != JINJA_NONE) {
        jinja_value indent;
        TN_TRY(get_indent(state, args->items[1], 0, &indent));
        style.indent = indent.as.string;
        style.item_separator.length = 1;
    }
    TN_TRY(get_separators(args->items[2], &style));
    tn_buf buf = {0};
    tn_status status = tn_jinja_to_json(state, &buf, self, &style);
    return tn_jinja_string_take(state, status, &buf, out);
}

const jinja_builtin tn_jinja_filters[] = {
    {"abs", filter_abs, ""},
    {"attr", filter_attr, "name"},
    {"capitalize", filter_capitalize, ""},
    {"center", filter_center, "width?"},
    {"count", filter_length, ""},
    {"d", filter_default, "default_value? boolean?"},
    {"default", filter_default, "default_value? boolean?"},
    {"e", filter_escape, ""},
    {"escape", filter_escape, ""},
    {"float", filter_float, "default?"},
    {"forceescape", filter_escape, ""},
    {"format", filter_format, NULL},
    {"indent", filter_indent, "width? first? blank?"},
    {"int", filter_int, "default? base?"},
    {"length", filter_length, ""},
    {"lower", filter_lower, ""},
    {"replace", filter_replace, "old new count?"},
    {"round", filter_round, "precision? method?"},
    {"safe", filter_string, ""},
    {"string", filter_string, ""},
    {"title", filter_title, ""},
    {"tojson", filter_tojson, "ensure_ascii? indent? separators? sort_keys?"},
    {"trim", filter_trim, "chars?"},
    {"truncate", filter_truncate, "length? killwords? end? leeway?"},
    {"upper", filter_upper, ""},
    {0},
};
