/* Values as text: Python's str and repr, and json.dumps as transformers' tojson filter calls it. */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja.h"

static tn_status puts_text(jinja_state *state, tn_buf *buf, const char *text) {
    return tn_jinja_append(state, buf, text, strlen(text));
}

/* ---- floats ---- */

bool tn_jinja_parse_float(const char *text, size_t length, double *out) {
    char copy[512];
    if (!length || length >= sizeof copy)
        return false;
    char point = localeconv()->decimal_point[0];
    for (size_t i = 0; i < length; i++) {
        if (!strchr("0123456789.+-eE", text[i]) || !text[i])
            return false;
        copy[i] = text[i];
        if (copy[i] == '.')
            copy[i] = point;
    }
    copy[length] = 0;
    char *end;
    *out = strtod(copy, &end);
    return *end == 0;
}

/* The fewest significant digits (without point) that read back as the same number, and its decimal exponent. */
static int shortest_digits(double value, char digits[20], int *exponent) {
    char text[40];
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, value);
        if (strtod(text, NULL) == value)
            break;
    }
    int count = 0;
    const char *at = text;
    for (; *at != 'e'; at++)
        if (*at >= '0' && *at <= '9')
            digits[count++] = *at;
    *exponent = atoi(at + 1);
    return count;
}

void tn_jinja_float_repr(double value, char out[32]) {
    char digits[20] = "", *to = out;
    int exponent;
    if (!isfinite(value)) {
        strcpy(out, isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
        return;
    }
    if (signbit(value))
        *to++ = '-';
    int count = shortest_digits(fabs(value), digits, &exponent);
    if (exponent < -4 || exponent >= 16) {
        *to++ = digits[0];
        if (count > 1)
            *to++ = '.';
        memcpy(to, digits + 1, (size_t)count - 1);
        snprintf(to + count - 1, 8, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent) % 1000);
        return;
    }
    for (int at = exponent < 0 ? exponent : 0; at < count || at <= exponent + 1; at++) {
        *to++ = at < 0 || at >= count ? '0' : digits[at];
        if (at == exponent)
            *to++ = '.';
    }
    *to = 0;
}

static tn_status put_number(jinja_state *state, tn_buf *buf, jinja_value value) {
    char text[32];
    if (value.type == JINJA_FLOAT)
        tn_jinja_float_repr(value.as.real, text);
    else
        snprintf(text, sizeof text, "%lld", (long long)value.as.integer);
    return puts_text(state, buf, text);
}

/* ---- repr ---- */

/* str.isprintable of one code point: no control, format, surrogate, private or unassigned ones, no separators but space. */
static bool is_printable(uint32_t code) {
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return code == ' ';
    default: return true;
    }
}

static tn_status repr_string(jinja_state *state, tn_buf *buf, const jinja_string *text) {
    bool single = memchr(text->data, '\'', text->length) && !memchr(text->data, '"', text->length);
    char quote = single ? '"' : '\'', escaped[16];
    TN_TRY(tn_jinja_append(state, buf, &quote, 1));
    for (size_t at = 0, size; at < text->length; at += size) {
        uint32_t code = (unsigned char)text->data[at];
        size = tn_utf8_decode(text->data + at, text->length - at, &code);
        bool valid = size > 0;
        size = valid ? size : 1;
        const char *special = code == '\t' ? "\\t" : code == '\n' ? "\\n" : code == '\r' ? "\\r" : NULL;
        if (special)
            snprintf(escaped, sizeof escaped, "%s", special);
        else if (code == (unsigned char)quote || code == '\\')
            snprintf(escaped, sizeof escaped, "\\%c", (char)code);
        else if (valid && is_printable(code)) {
            TN_TRY(tn_jinja_append(state, buf, text->data + at, size));
            continue;
        } else
            snprintf(escaped, sizeof escaped, code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x", code);
        TN_TRY(puts_text(state, buf, escaped));
    }
    return tn_jinja_append(state, buf, &quote, 1);
}

static tn_status repr_items(jinja_state *state, tn_buf *buf, const jinja_list *list, const char *open, const char *close) {
    TN_TRY(puts_text(state, buf, open));
    for (size_t i = 0; i < list->count; i++) {
        if (i)
            TN_TRY(puts_text(state, buf, ", "));
        TN_TRY(tn_jinja_repr(state, buf, list->items[i]));
    }
    return puts_text(state, buf, close);
}

static tn_status repr_dict(jinja_state *state, tn_buf *buf, const jinja_dict *dict) {
    TN_TRY(puts_text(state, buf, "{"));
    for (size_t i = 0; i < dict->count; i++) {
        if (i)
            TN_TRY(puts_text(state, buf, ", "));
        TN_TRY(tn_jinja_repr(state, buf, dict->pairs[i].key));
        TN_TRY(puts_text(state, buf, ": "));
        TN_TRY(tn_jinja_repr(state, buf, dict->pairs[i].value));
    }
    return puts_text(state, buf, "}");
}

static tn_status repr_container(jinja_state *state, tn_buf *buf, jinja_value value) {
    switch (value.type) {
    case JINJA_LIST: return repr_items(state, buf, value.as.list, "[", "]");
    case JINJA_TUPLE: return repr_items(state, buf, value.as.list, "(", value.as.list->count == 1 ? ",)" : ")");
    case JINJA_VIEW:
        TN_TRY(puts_text(state, buf, value.as.list->label));
        return repr_items(state, buf, value.as.list, "([", "])");
    case JINJA_NAMESPACE:
        TN_TRY(puts_text(state, buf, "<Namespace "));
        TN_TRY(repr_dict(state, buf, value.as.dict));
        return puts_text(state, buf, ">");
    default: return repr_dict(state, buf, value.as.dict);
    }
}

tn_status tn_jinja_repr(jinja_state *state, tn_buf *buf, jinja_value value) {
    TN_TRY(tn_jinja_step(state, 1));
    switch (value.type) {
    case JINJA_ABSENT:
    case JINJA_UNDEFINED: return puts_text(state, buf, "Undefined");
    case JINJA_NONE: return puts_text(state, buf, "None");
    case JINJA_BOOL: return puts_text(state, buf, value.as.boolean ? "True" : "False");
    case JINJA_INT:
    case JINJA_FLOAT: return put_number(state, buf, value);
    case JINJA_STRING: return repr_string(state, buf, value.as.string);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
    case JINJA_DICT:
    case JINJA_NAMESPACE:
        TN_TRY(tn_jinja_enter(state));
        TN_TRY(repr_container(state, buf, value));
        state->depth--;
        return TN_OK;
    case JINJA_RANGE: return puts_text(state, buf, value.as.list->label);
    /* Python adds a memory address here, which no template can mean to print. */
    default:
        TN_TRY(puts_text(state, buf, "<"));
        TN_TRY(puts_text(state, buf, tn_jinja_type_name(value.type)));
        return puts_text(state, buf, ">");
    }
}

tn_status tn_jinja_print(jinja_state *state, tn_buf *buf, jinja_value value) {
    if (value.type == JINJA_STRING)
        return tn_jinja_append(state, buf, value.as.string->data, value.as.string->length);
    if (value.type == JINJA_UNDEFINED)
        return TN_OK;
    return tn_jinja_repr(state, buf, value);
}

tn_status tn_jinja_to_string(jinja_state *state, jinja_value value, const jinja_string **out) {
    if (value.type != JINJA_STRING) {
        tn_buf buf = {0};
        tn_status status = tn_jinja_print(state, &buf, value);
        TN_TRY(tn_jinja_string_take(state, status, &buf, &value));
    }
    *out = value.as.string;
    return TN_OK;
}

/* ---- JSON ---- */

static tn_status json_escape(jinja_state *state, tn_buf *buf, uint32_t code) {
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *found = code && code < 0x80 ? strchr(from, (int)code) : NULL;
    char escaped[16];
    if (found)
        snprintf(escaped, sizeof escaped, "\\%c", to[found - from]);
    else if (code < 0x10000)
        snprintf(escaped, sizeof escaped, "\\u%04x", code);
    else
        snprintf(escaped, sizeof escaped, "\\u%04x\\u%04x", 0xd7c0 + (code >> 10), 0xdc00 + (code & 0x3ff));
    return puts_text(state, buf, escaped);
}

static tn_status json_string(jinja_state *state, tn_buf *buf, const jinja_string *text, bool ensure_ascii) {
    size_t plain = 0, at = 0;
    TN_TRY(puts_text(state, buf, "\""));
    while (at < text->length) {
        uint32_t code = (unsigned char)text->data[at];
        size_t size = tn_utf8_decode(text->data + at, text->length - at, &code);
        bool escape = code < 0x20 || code == '"' || code == '\\' || (ensure_ascii && size > 1);
        size = size ? size : 1;
        if (escape) {
            TN_TRY(tn_jinja_append(state, buf, text->data + plain, at - plain));
            TN_TRY(json_escape(state, buf, code));
            plain = at + size;
        }
        at += size;
    }
    TN_TRY(tn_jinja_append(state, buf, text->data + plain, at - plain));
    return puts_text(state, buf, "\"");
}

static tn_status json_value(jinja_state *state, tn_buf *buf, jinja_value value, const jinja_json_style *style, int level);

static tn_status json_scalar(jinja_state *state, tn_buf *buf, jinja_value value) {
    switch (value.type) {
    case JINJA_NONE: return puts_text(state, buf, "null");
    case JINJA_BOOL: return puts_text(state, buf, value.as.boolean ? "true" : "false");
    case JINJA_FLOAT:
        if (!isfinite(value.as.real))
            return puts_text(state, buf, isnan(value.as.real) ? "NaN" : value.as.real > 0 ? "Infinity" : "-Infinity");
        return put_number(state, buf, value);
    default: return put_number(state, buf, value);
    }
}

/* Keys that are no strings are written as the JSON of their value, in quotes. */
static tn_status json_key(jinja_state *state, tn_buf *buf, jinja_value key, const jinja_json_style *style) {
    if (key.type == JINJA_STRING)
        return json_string(state, buf, key.as.string, style->ensure_ascii);
    if (key.type != JINJA_NONE && !tn_jinja_is_number(key))
        return tn_fail(TN_ERROR_ARGUMENT, "keys must be str, int, float, bool or None, not %s",
                       tn_jinja_type_name(key.type));
    TN_TRY(puts_text(state, buf, "\""));
    TN_TRY(json_scalar(state, buf, key));
    return puts_text(state, buf, "\"");
}

static tn_status json_newline(jinja_state *state, tn_buf *buf, const jinja_json_style *style, int level) {
    if (!style->indent)
        return TN_OK;
    TN_TRY(puts_text(state, buf, "\n"));
    for (int i = 0; i < level; i++)
        TN_TRY(tn_jinja_append(state, buf, style->indent->data, style->indent->length));
    return TN_OK;
}

static tn_status json_list(jinja_state *state, tn_buf *buf, const jinja_list *list, const jinja_json_style *style,
                           int level) {
    TN_TRY(puts_text(state, buf, "["));
    for (size_t i = 0; i < list->count; i++) {
        if (i)
            TN_TRY(tn_jinja_append(state, buf, style->item_separator.data, style->item_separator.length));
        TN_TRY(json_newline(state, buf, style, level + 1));
        TN_TRY(json_value(state, buf, list->items[i], style, level + 1));
    }
    if (list->count)
        TN_TRY(json_newline(state, buf, style, level));
    return puts_text(state, buf, "]");
}

/* A copy of a dict with its keys in order. */
static tn_status sorted_by_key(jinja_state *state, const jinja_dict *dict, const jinja_dict **out) {
    jinja_args none = {0};
    jinja_value subject = JINJA_VALUE(JINJA_DICT, dict, (jinja_dict *)dict), pairs;
    jinja_value sensitive = tn_jinja_bool(true);
    jinja_dict *sorted;
    none.items = &sensitive;
    none.count = 1;
    TN_TRY(tn_jinja_builtin_call(state, tn_jinja_find_filter("dictsort", 8), subject, &none, &pairs));
    TN_TRY(tn_jinja_dict_new(state, dict->count, &sorted));
    for (size_t i = 0; i < pairs.as.list->count; i++) {
        const jinja_value *pair = pairs.as.list->items[i].as.list->items;
        TN_TRY(tn_jinja_dict_put(state, sorted, pair[0], pair[1]));
    }
    *out = sorted;
    return TN_OK;
}

static tn_status json_dict(jinja_state *state, tn_buf *buf, const jinja_dict *dict, const jinja_json_style *style,
                           int level) {
    if (style->sort_keys)
        TN_TRY(sorted_by_key(state, dict, &dict));
    TN_TRY(puts_text(state, buf, "{"));
    for (size_t i = 0; i < dict->count; i++) {
        if (i)
            TN_TRY(tn_jinja_append(state, buf, style->item_separator.data, style->item_separator.length));
        TN_TRY(json_newline(state, buf, style, level + 1));
        TN_TRY(json_key(state, buf, dict->pairs[i].key, style));
        TN_TRY(tn_jinja_append(state, buf, style->key_separator.data, style->key_separator.length));
        TN_TRY(json_value(state, buf, dict->pairs[i].value, style, level + 1));
    }
    if (dict->count)
        TN_TRY(json_newline(state, buf, style, level));
    return puts_text(state, buf, "}");
}

static tn_status json_value(jinja_state *state, tn_buf *buf, jinja_value value, const jinja_json_style *style, int level) {
    TN_TRY(tn_jinja_step(state, 1));
    switch (value.type) {
    case JINJA_NONE:
    case JINJA_BOOL:
    case JINJA_INT:
    case JINJA_FLOAT: return json_scalar(state, buf, value);
    case JINJA_STRING: return json_string(state, buf, value.as.string, style->ensure_ascii);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
        TN_TRY(tn_jinja_enter(state));
        TN_TRY(value.type == JINJA_DICT ? json_dict(state, buf, value.as.dict, style, level)
                                        : json_list(state, buf, value.as.list, style, level));
        state->depth--;
        return TN_OK;
    default: return tn_fail(TN_ERROR_ARGUMENT, "Object of type %s is not JSON serializable", tn_jinja_type_name(value.type));
    }
}

tn_status tn_jinja_to_json(jinja_state *state, tn_buf *buf, jinja_value value, const jinja_json_style *style) {
    return json_value(state, buf, value, style, 0);
}
