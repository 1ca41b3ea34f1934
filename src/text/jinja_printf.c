/* Formatting: the % operator on strings, str.format with its format specifications, and strftime. */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text/jinja.h"

enum { MAX_PRECISION = 100 };

/* [[fill]align][sign][#][0][width][,][.precision][type], and what % conversions map to. */
typedef struct format_spec {
    jinja_string fill;
    char align; /* < > ^ =, or 0 for the type's own */
    char sign;  /* + or space, or 0 */
    bool alternate;
    char grouping; /* , or _, or 0 */
    int64_t width;
    int precision; /* -1 when not given */
    char type;     /* 0 when not given */
} format_spec;

static const jinja_string space = {" ", 1}, zero = {"0", 1};

/* ---- numbers ---- */

/* printf of a double with the decimal point of no locale. */
static void print_double(char *out, size_t size, char type, bool alternate, int precision, double value) {
    char format[8];
    snprintf(format, sizeof format, alternate ? "%%#.*%c" : "%%.*%c", type);
    snprintf(out, size, format, precision, value);
    char *point = strchr(out, localeconv()->decimal_point[0]);
    if (point)
        *point = '.';
}

/* |value| in base 2, 8, 10 or 16. */
static void integer_digits(char *out, uint64_t value, unsigned base, bool upper) {
    char reversed[72];
    size_t count = 0;
    do
        reversed[count++] = (upper ? "0123456789ABCDEF" : "0123456789abcdef")[value % base];
    while (value /= base);
    while (count)
        *out++ = reversed[--count];
    *out = 0;
}

static void float_digits(char *out, size_t size, double value, const format_spec *spec) {
    char type = spec->type;
    int precision = spec->precision < 0 ? 6 : spec->precision;
    if (!isfinite(value)) {
        snprintf(out, size, "%s", isnan(value) ? "nan" : "inf");
    } else if (!type && spec->precision < 0) {
        tn_jinja_float_repr(value, out);
    } else if (type == '%') {
        print_double(out, size - 1, 'f', spec->alternate, precision, value * 100);
        strcat(out, "%");
    } else {
        /* n is g by the locale, and to printf something else altogether */
        print_double(out, size, !type || type == 'n' ? 'g' : type, spec->alternate, precision, value);
        if (!type && !strpbrk(out, ".e"))
            strcat(out, ".0");
    }
}

/* Separators between groups of three digits of the whole part. */
static void group_digits(char *out, const char *digits, char separator) {
    size_t whole = strspn(digits, "0123456789");
    for (size_t i = 0; i < whole; i++) {
        if (i && (whole - i) % 3 == 0)
            *out++ = separator;
        *out++ = digits[i];
    }
    strcpy(out, digits + whole);
}

/* Sign and prefix, padding, digits. */
static tn_status put_padded(jinja_state *state, tn_buf *buf, const char *prefix, jinja_string body, const format_spec *spec,
                            char align) {
    if (spec->align)
        align = spec->align;
    jinja_string whole = body;
    jinja_value padded;
    int64_t width = spec->width;
    if (align == '=') {
        TN_TRY(tn_jinja_append(state, buf, prefix, strlen(prefix)));
        width -= (int64_t)strlen(prefix);
    } else if (*prefix) {
        char *joined = tn_jinja_alloc(state, strlen(prefix) + body.length + 1, 1);
        if (!joined)
            return state->failure;
        memcpy(joined, prefix, strlen(prefix));
        memcpy(joined + strlen(prefix), body.data, body.length);
        whole = (jinja_string){joined, strlen(prefix) + body.length};
    }
    const jinja_string *fill = spec->fill.length ? &spec->fill : &space;
    if (align == '^') {
        /* Unlike str.center, an odd blank goes to the right. */
        int64_t count = (int64_t)tn_jinja_string_count(&whole), left = width > count ? (width - count) / 2 : 0;
        TN_TRY(tn_jinja_pad(state, &whole, width - left, fill, JINJA_PAD_RIGHT, &padded));
        whole = *padded.as.string;
    }
    TN_TRY(tn_jinja_pad(state, &whole, width, fill, align == '<' ? JINJA_PAD_RIGHT : JINJA_PAD_LEFT, &padded));
    return tn_jinja_append(state, buf, padded.as.string->data, padded.as.string->length);
}

static tn_status format_number(jinja_state *state, tn_buf *buf, jinja_value value, const format_spec *spec) {
    char digits[512], grouped[768], prefix[4] = "", *end = prefix;
    bool real = value.type == JINJA_FLOAT || (spec->type && strchr("eEfFgG%", spec->type));
    bool negative = real ? signbit(tn_jinja_as_double(value)) != 0 : tn_jinja_as_int(value) < 0;
    if (negative || spec->sign)
        *end++ = negative ? '-' : spec->sign;
    if (real) {
        if (spec->type && !strchr("eEfFgG%n", spec->type))
            return tn_fail(TN_ERROR_ARGUMENT, "Unknown format code '%c' for object of type 'float'", spec->type);
        float_digits(digits, sizeof digits, fabs(tn_jinja_as_double(value)), spec);
    } else {
        unsigned base = spec->type == 'x' || spec->type == 'X' ? 16 : spec->type == 'o' ? 8 : spec->type == 'b' ? 2 : 10;
        if (spec->type && !strchr("dnxXob", spec->type))
            return tn_fail(TN_ERROR_ARGUMENT, "Unknown format code '%c' for object of type 'int'", spec->type);
        uint64_t magnitude = negative ? -(uint64_t)tn_jinja_as_int(value) : (uint64_t)tn_jinja_as_int(value);
        integer_digits(digits, magnitude, base, spec->type == 'X');
        if (spec->alternate && base != 10) {
            *end++ = '0';
            *end++ = spec->type;
        }
    }
    if (spec->grouping)
        group_digits(grouped, digits, spec->grouping);
    const char *body = spec->grouping ? grouped : digits;
    return put_padded(state, buf, prefix, (jinja_string){body, strlen(body)}, spec, '>');
}

static tn_status format_string(jinja_state *state, tn_buf *buf, const jinja_string *text, const format_spec *spec,
                               char align) {
    jinja_string shown = *text;
    if (spec->precision >= 0)
        shown.length = tn_jinja_string_offset(text, (size_t)spec->precision);
    return put_padded(state, buf, "", shown, spec, align);
}

static tn_status format_value(jinja_state *state, tn_buf *buf, jinja_value value, const format_spec *spec) {
    if (tn_jinja_is_number(value))
        return format_number(state, buf, value, spec);
    if (value.type != JINJA_STRING)
        return tn_fail(TN_ERROR_ARGUMENT, "unsupported format string passed to %s.__format__",
                       tn_jinja_type_name(value.type));
    if ((spec->type && spec->type != 's') || spec->align == '=' || spec->sign || spec->grouping)
        return tn_fail(TN_ERROR_ARGUMENT, "invalid format specification for object of type 'str'");
    return format_string(state, buf, value.as.string, spec, '<');
}

/* A decimal number at *at, at most `limit`. */
static tn_status take_number(const char **at, const char *end, int64_t limit, int64_t *out) {
    int64_t number = 0;
    for (; *at < end && **at >= '0' && **at <= '9'; (*at)++) {
        number = number * 10 + (**at - '0');
        if (number > limit)
            return tn_fail(TN_ERROR_ARGUMENT, "a width or precision in a format is too large");
    }
    *out = number;
    return TN_OK;
}

static bool is_align(char c) {
    return c && strchr("<>^=", c);
}

static tn_status parse_spec(const jinja_string *text, format_spec *spec) {
    const char *at = text->data, *end = at + text->length;
    size_t first = text->length ? tn_jinja_string_next(text, 0) : 0;
    int64_t number = 0;
    *spec = (format_spec){.precision = -1};
    if (first < text->length && is_align(at[first])) {
        spec->fill = (jinja_string){at, first};
        spec->align = at[first];
        at += first + 1;
    } else if (at < end && is_align(*at)) {
        spec->align = *at++;
    }
    if (at < end && strchr("+- ", *at) && *at)
        spec->sign = *at++ == '-' ? 0 : at[-1];
    if (at < end && *at == '#')
        spec->alternate = *at++ != 0;
    if (at < end && *at == '0') {
        at++;
        if (!spec->align) {
            spec->align = '=';
            spec->fill = zero;
        }
    }
    TN_TRY(take_number(&at, end, JINJA_MAX_TEXT, &spec->width));
    if (at < end && (*at == ',' || *at == '_'))
        spec->grouping = *at++;
    if (at < end && *at == '.') {
        at++;
        TN_TRY(take_number(&at, end, MAX_PRECISION, &number));
        spec->precision = (int)number;
    }
    if (at < end)
        spec->type = *at++;
    return at == end ? TN_OK : tn_fail(TN_ERROR_ARGUMENT, "Invalid format specifier");
}

/* ---- % ---- */

typedef struct percent_source {
    jinja_value values;
    size_t used;
} percent_source;

static tn_status next_value(percent_source *source, jinja_value *out) {
    bool tuple = source->values.type == JINJA_TUPLE;
    if (source->used >= (tuple ? source->values.as.list->count : 1))
        return tn_fail(TN_ERROR_ARGUMENT, "not enough arguments for format string");
    *out = tuple ? source->values.as.list->items[source->used] : source->values;
    source->used++;
    return TN_OK;
}

/* The (name) of a conversion; *out is left ABSENT when there is none. */
static tn_status take_key(jinja_state *state, const char **at, const char *end, percent_source *source, jinja_value *out) {
    if (*at == end || **at != '(')
        return TN_OK;
    const char *close = memchr(*at, ')', (size_t)(end - *at));
    const jinja_value *found;
    jinja_value key;
    if (!close)
        return tn_fail(TN_ERROR_ARGUMENT, "incomplete format key");
    if (source->values.type != JINJA_DICT)
        return tn_fail(TN_ERROR_ARGUMENT, "format requires a mapping");
    TN_TRY(tn_jinja_string_refer(state, *at + 1, (size_t)(close - *at) - 1, &key));
    TN_TRY(tn_jinja_dict_get(state, source->values.as.dict, key, &found));
    if (!found)
        return tn_fail(TN_ERROR_ARGUMENT, "the format names a key that the mapping does not have");
    *out = *found;
    *at = close + 1;
    return TN_OK;
}

static tn_status take_percent_number(const char **at, const char *end, percent_source *source, int64_t limit, int64_t *out) {
    if (*at == end || **at != '*')
        return take_number(at, end, limit, out);
    jinja_value value;
    (*at)++;
    TN_TRY(next_value(source, &value));
    if (!tn_jinja_is_int(value) || tn_jinja_as_int(value) < 0 || tn_jinja_as_int(value) > limit)
        return tn_fail(TN_ERROR_ARGUMENT, "* wants a small int");
    *out = tn_jinja_as_int(value);
    return TN_OK;
}

static tn_status put_percent(jinja_state *state, tn_buf *buf, jinja_value value, format_spec *spec) {
    const jinja_string *text;
    if (strchr("sra", spec->type)) {
        tn_buf repr = {0};
        if (spec->type == 's') {
            TN_TRY(tn_jinja_to_string(state, value, &text));
        } else {
            tn_status status = tn_jinja_repr(state, &repr, value);
            TN_TRY(tn_jinja_string_take(state, status, &repr, &value));
            text = value.as.string;
        }
        return format_string(state, buf, text, spec, '>');
    }
    if (spec->type == 'c' && value.type == JINJA_STRING)
        return format_string(state, buf, value.as.string, spec, '>');
    if (!tn_jinja_is_number(value))
        return tn_fail(TN_ERROR_ARGUMENT, "%%%c format: a real number is required, not %s", spec->type,
                       tn_jinja_type_name(value.type));
    if (strchr("diu", spec->type)) {
        spec->type = 'd';
        double real = tn_jinja_as_double(value);
        if (value.type == JINJA_FLOAT && !(fabs(real) < 9.2e18))
            return tn_fail(TN_ERROR_ARGUMENT, "cannot convert float to an integer of 64 bits");
        value = value.type == JINJA_FLOAT ? tn_jinja_int((int64_t)real) : value;
    }
    return format_number(state, buf, value, spec);
}

/* One conversion, after its "%". */
static tn_status convert_percent(jinja_state *state, tn_buf *buf, const char **at, const char *end, percent_source *source) {
    format_spec spec = {.precision = -1};
    jinja_value value = {0};
    int64_t number = 0;
    bool zeros = false, left = false;
    TN_TRY(take_key(state, at, end, source, &value));
    for (; *at < end && **at && strchr("#0- +", **at); (*at)++) {
        spec.alternate = spec.alternate || **at == '#';
        zeros = zeros || **at == '0';
        left = left || **at == '-';
        if (**at == '+' || (**at == ' ' && !spec.sign))
            spec.sign = **at;
    }
    TN_TRY(take_percent_number(at, end, source, JINJA_MAX_TEXT, &spec.width));
    if (*at < end && **at == '.') {
        (*at)++;
        TN_TRY(take_percent_number(at, end, source, MAX_PRECISION, &number));
        spec.precision = (int)number;
    }
    while (*at < end && (**at == 'h' || **at == 'l' || **at == 'L'))
        (*at)++;
    if (*at == end)
        return tn_fail(TN_ERROR_ARGUMENT, "incomplete format");
    spec.type = *(*at)++;
    if (spec.type == '%')
        return tn_jinja_append(state, buf, "%", 1);
    if (!spec.type || !strchr("sradiuxXoeEfFgGc", spec.type))
        return tn_fail(TN_ERROR_ARGUMENT, "unsupported format character '%c'", spec.type);
    if (value.type == JINJA_ABSENT)
        TN_TRY(next_value(source, &value));
    if (left)
        spec.align = '<';
    else if (zeros && !strchr("srac", spec.type)) {
        spec.align = '=';
        spec.fill = zero;
    }
    return put_percent(state, buf, value, &spec);
}

static tn_status percent_into(jinja_state *state, tn_buf *buf, const jinja_string *format, jinja_value values) {
    percent_source source = {.values = values};
    const char *at = format->data, *end = at + format->length;
    while (at < end) {
        const char *next = memchr(at, '%', (size_t)(end - at));
        next = next ? next : end;
        TN_TRY(tn_jinja_append(state, buf, at, (size_t)(next - at)));
        TN_TRY(tn_jinja_step(state, 1));
        at = next;
        if (at < end) {
            at++;
            TN_TRY(convert_percent(state, buf, &at, end, &source));
        }
    }
    size_t expected = values.type == JINJA_TUPLE ? values.as.list->count : values.type == JINJA_DICT ? 0 : 1;
    if (source.used < expected)
        return tn_fail(TN_ERROR_ARGUMENT, "not all arguments converted during string formatting");
    return TN_OK;
}

tn_status tn_jinja_percent(jinja_state *state, const jinja_string *format, jinja_value values, jinja_value *out) {
    tn_buf buf = {0};
    tn_status status = percent_into(state, &buf, format, values);
    return tn_jinja_string_take(state, status, &buf, out);
}

/* ---- str.format ---- */

typedef struct brace_source {
    const jinja_args *args;
    size_t automatic; /* number of the next {} */
} brace_source;

/* The argument a field's name begins with; `length` is that of the first part. */
static tn_status first_part(brace_source *source, const char *name, size_t length, jinja_value *out) {
    size_t index = 0, digits = 0;
    while (digits < length && digits < 9 && name[digits] >= '0' && name[digits] <= '9')
        index = index * 10 + (size_t)(name[digits++] - '0');
    if (!length)
        index = source->automatic++;
    if (digits == length) {
        if (index >= source->args->count)
            return tn_fail(TN_ERROR_ARGUMENT, "Replacement index %zu out of range for positional args tuple", index);
        *out = source->args->items[index];
        return TN_OK;
    }
    for (size_t i = 0; i < source->args->keyword_count; i++) {
        const jinja_string *keyword = source->args->keywords[i].key.as.string;
        if (keyword->length == length && memcmp(keyword->data, name, length) == 0) {
            *out = source->args->keywords[i].value;
            return TN_OK;
        }
    }
    return tn_fail(TN_ERROR_ARGUMENT, "format names the argument '%.*s', which is not given",
                   (int)(length < 60 ? length : 60), name);
}

/* name.attribute[item]... */
static tn_status resolve_field(jinja_state *state, brace_source *source, const char *at, const char *end, jinja_value *out) {
    const char *next = at;
    while (next < end && *next != '.' && *next != '[')
        next++;
    TN_TRY(first_part(source, at, (size_t)(next - at), out));
    while (next < end) {
        jinja_value key;
        int64_t index = 0;
        bool item = *next == '[';
        const char *part = ++next;
        while (next < end && (item ? *next != ']' : *next != '.' && *next != '['))
            next++;
        if (next == part || (item && next == end))
            return tn_fail(TN_ERROR_ARGUMENT, "a field name in a format is malformed");
        TN_TRY(tn_jinja_string_refer(state, part, (size_t)(next - part), &key));
        const char *digits = part;
        if (!item)
            TN_TRY(tn_jinja_attribute(state, *out, key.as.string, out));
        else {
            TN_TRY(take_number(&digits, next, INT32_MAX, &index));
            TN_TRY(tn_jinja_item(state, *out, digits == next ? tn_jinja_int(index) : key, out));
            next++;
        }
    }
    return TN_OK;
}

static tn_status braces_into(jinja_state *state, tn_buf *buf, jinja_string format, brace_source *source, int level);

/* Where a field's name ends: at "!" or ":" outside of [...]. */
static const char *name_end(const char *at, const char *end) {
    bool item = false;
    for (; at < end && (item || (*at != '!' && *at != ':')); at++)
        item = item ? *at != ']' : *at == '[';
    return at;
}

static tn_status put_field(jinja_state *state, tn_buf *buf, const char *at, const char *end, brace_source *source,
                           int level) {
    const char *stop = name_end(at, end);
    jinja_value value, inner;
    TN_TRY(resolve_field(state, source, at, stop, &value));
    if (stop < end && *stop == '!') {
        if (end - stop < 2 || !strchr("rsa", stop[1]) || (end - stop > 2 && stop[2] != ':'))
            return tn_fail(TN_ERROR_ARGUMENT, "a conversion in a format is malformed");
        tn_buf text = {0};
        tn_status status = stop[1] == 's' ? tn_jinja_print(state, &text, value) : tn_jinja_repr(state, &text, value);
        TN_TRY(tn_jinja_string_take(state, status, &text, &value));
        stop += 2;
    }
    if (end - stop <= 1)
        return tn_jinja_print(state, buf, value);
    tn_buf text = {0};
    tn_status status = braces_into(state, &text, (jinja_string){stop + 1, (size_t)(end - stop) - 1}, source, level + 1);
    TN_TRY(tn_jinja_string_take(state, status, &text, &inner));
    format_spec spec;
    TN_TRY(parse_spec(inner.as.string, &spec));
    return format_value(state, buf, value, &spec);
}

/* The "}" that closes a field whose inside begins at `at`, or NULL. */
static const char *field_end(const char *at, const char *end) {
    for (int depth = 1; at < end; at++) {
        depth += (*at == '{') - (*at == '}');
        if (!depth)
            return at;
    }
    return NULL;
}

static tn_status braces_into(jinja_state *state, tn_buf *buf, jinja_string format, brace_source *source, int level) {
    const char *at = format.data, *end = at + format.length;
    if (level > 1)
        return tn_fail(TN_ERROR_ARGUMENT, "Max string recursion exceeded");
    while (at < end) {
        const char *plain = at;
        while (at < end && *at != '{' && *at != '}')
            at++;
        TN_TRY(tn_jinja_append(state, buf, plain, (size_t)(at - plain)));
        TN_TRY(tn_jinja_step(state, 1));
        if (at == end)
            break;
        if (at + 1 < end && at[1] == *at) {
            TN_TRY(tn_jinja_append(state, buf, at, 1));
            at += 2;
            continue;
        }
        const char *close = *at == '{' ? field_end(at + 1, end) : NULL;
        if (!close)
            return tn_fail(TN_ERROR_ARGUMENT, "Single '%c' encountered in format string", *at);
        TN_TRY(put_field(state, buf, at + 1, close, source, level));
        at = close + 1;
    }
    return TN_OK;
}

tn_status tn_jinja_str_format(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out) {
    tn_buf buf = {0};
    brace_source source = {.args = args};
    tn_status status = braces_into(state, &buf, *self.as.string, &source, 0);
    return tn_jinja_string_take(state, status, &buf, out);
}

/* ---- strftime ---- */

/* The moment to format: state->now as "YYYY-MM-DD" with "[T ]HH:MM[:SS]" after it or not, else the local time. */
static tn_status get_time(const jinja_state *state, struct tm *out) {
    *out = (struct tm){0};
    if (!state->now) {
        time_t seconds = time(NULL);
        return localtime_r(&seconds, out) ? TN_OK : tn_fail(TN_ERROR_ARGUMENT, "the clock cannot be read");
    }
    int read = sscanf(state->now, "%4d-%2d-%2d%*[T ]%2d:%2d:%2d", &out->tm_year, &out->tm_mon, &out->tm_mday, &out->tm_hour,
                      &out->tm_min, &out->tm_sec);
    bool valid = read >= 3 && out->tm_year >= 1 && out->tm_mon >= 1 && out->tm_mon <= 12 && out->tm_mday >= 1 &&
                 out->tm_mday <= 31 && out->tm_hour >= 0 && out->tm_hour < 24 && out->tm_min >= 0 && out->tm_min < 60 &&
                 out->tm_sec >= 0 && out->tm_sec < 60;
    if (!valid)
        return tn_fail(TN_ERROR_ARGUMENT, "\"%s\" is no date of the form 2026-01-31", state->now);
    out->tm_year -= 1900;
    out->tm_mon--;
    time_t seconds = timegm(out);
    gmtime_r(&seconds, out);
    return TN_OK;
}

static tn_status strftime_into(jinja_state *state, tn_buf *buf, const jinja_string *format) {
    struct tm moment;
    TN_TRY(get_time(state, &moment));
    const char *at = format->data, *end = at + format->length;
    while (at < end) {
        char directive[4] = "%", text[128];
        size_t length = 1;
        if (*at != '%' || at + 1 == end) {
            TN_TRY(tn_jinja_append(state, buf, at++, 1));
            continue;
        }
        /* One flag may stand before the letter, as in "%-d". */
        if (at + 2 < end && strchr("-_0^#EO", at[1]) && at[1])
            directive[length++] = at[1];
        directive[length] = at[length];
        at += length + 1;
        TN_TRY(tn_jinja_step(state, 1));
        char letter = directive[length];
        if (letter == 'z' || letter == 'Z')
            continue;
        if (letter == 'f')
            snprintf(text, sizeof text, "000000");
        else if (!strftime(text, sizeof text, directive, &moment))
            text[0] = 0;
        TN_TRY(tn_jinja_append(state, buf, text, strlen(text)));
    }
    return TN_OK;
}

tn_status tn_jinja_strftime(jinja_state *state, const jinja_string *format, jinja_value *out) {
    tn_buf buf = {0};
    tn_status status = strftime_into(state, &buf, format);
    return tn_jinja_string_take(state, status, &buf, out);
}
