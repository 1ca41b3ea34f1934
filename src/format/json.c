/* JSON in and out of cJSON trees. cJSON alone reads more than JSON (control characters in strings, \u escapes of no digits,
 * 01, any byte below 32 as a blank), so a strict scan of RFC 8259 runs first; behind it cJSON fails for want of memory only.
 */
#include "format/json.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/map.h"
#include "base/utf8.h"

/* cJSON itself stops at 1000, and cuts numbers of more than 63 bytes in two. */
enum { MAX_DEPTH = 512, MAX_NUMBER_LENGTH = TN_JSON_NUMBER_LENGTH };

typedef struct scanner {
    const char *text, *where;
    size_t length, at;
    int depth;
} scanner;

/* Documents of one line (as in JSON lines) get a column only: there `where` names the line. */
static tn_status fail_at(const scanner *s, size_t at, const char *format, ...) TN_PRINTF(3, 4);
static tn_status fail_at(const scanner *s, size_t at, const char *format, ...) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        bool newline = s->text[i] == '\n', continuation = (s->text[i] & 0xc0) == 0x80;
        line += newline;
        column = newline ? 1 : column + !continuation;
    }
    char problem[256];
    va_list args;
    va_start(args, format);
    vsnprintf(problem, sizeof problem, format, args);
    va_end(args);
    if (!memchr(s->text, '\n', s->length))
        return tn_fail(TN_ERROR_FORMAT, "%s, column %zu: %s", s->where, column, problem);
    return tn_fail(TN_ERROR_FORMAT, "%s, line %zu, column %zu: %s", s->where, line, column, problem);
}

/* The byte at the cursor, or -1 at the end. */
static int peek(const scanner *s) {
    return s->at < s->length ? (unsigned char)s->text[s->at] : -1;
}

static tn_status fail_expected(const scanner *s, const char *expected) {
    int c = peek(s);
    uint32_t code;
    if (c < 0)
        return fail_at(s, s->at, "the text ends where %s was expected", expected);
    if (!tn_utf8_decode(s->text + s->at, s->length - s->at, &code))
        return fail_at(s, s->at, "the bytes are not valid UTF-8");
    if (c > 0x20 && c < 0x7f)
        return fail_at(s, s->at, "expected %s, not '%c'", expected, c);
    return fail_at(s, s->at, "expected %s, not the character U+%04X", expected, (unsigned)code);
}

static void skip_blanks(scanner *s) {
    for (int c = peek(s); c == ' ' || c == '\n' || c == '\r' || c == '\t'; c = peek(s))
        s->at++;
}

/* Reads the four digits of a \u escape; -1 when they are not there. */
static int32_t hex4(const scanner *s, size_t at) {
    int32_t code = 0;
    if (s->length - at < 4)
        return -1;
    for (size_t i = at; i < at + 4; i++) {
        char c = s->text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        code = code << 4 | digit;
    }
    return code;
}

static tn_status scan_escape(scanner *s) {
    size_t start = s->at++;
    int c = peek(s);
    if (c < 0 || !strchr("\"\\/bfnrtu", c) || c == 0)
        return fail_at(s, start, "a backslash must be followed by one of \"\\/bfnrt or u");
    s->at++;
    if (c != 'u')
        return TN_OK;
    int32_t code = hex4(s, s->at);
    if (code < 0)
        return fail_at(s, start, "\\u must be followed by four hexadecimal digits");
    if (code == 0)
        return fail_at(s, start, "the character \\u0000 cannot be part of a string here");
    s->at += 4;
    if (code < 0xd800 || code > 0xdfff)
        return TN_OK;
    bool paired = code < 0xdc00 && s->length - s->at >= 6 && memcmp(s->text + s->at, "\\u", 2) == 0;
    int32_t low = paired ? hex4(s, s->at + 2) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return fail_at(s, start, "\\u%04x is half of a surrogate pair without its other half", (unsigned)code);
    s->at += 6;
    return TN_OK;
}

static tn_status scan_string(scanner *s) {
    size_t start = s->at++;
    while (s->at < s->length) {
        unsigned char c = (unsigned char)s->text[s->at];
        uint32_t code;
        if (c == '"') {
            s->at++;
            return TN_OK;
        } else if (c == '\\') {
            TN_TRY(scan_escape(s));
        } else if (c < 0x20) {
            return fail_at(s, s->at, "a string holds the bare control character 0x%02x; write it as an escape", c);
        } else if (c < 0x80) {
            s->at++;
        } else {
            size_t size = tn_utf8_decode(s->text + s->at, s->length - s->at, &code);
            if (size == 0)
                return fail_at(s, s->at, "the bytes are not valid UTF-8");
            s->at += size;
        }
    }
    return fail_at(s, start, "the string that begins here has no end");
}

static size_t skip_digits(scanner *s) {
    size_t start = s->at;
    while (s->at < s->length && s->text[s->at] >= '0' && s->text[s->at] <= '9')
        s->at++;
    return s->at - start;
}

double tn_json_number(const char *text, size_t length) {
    char copy[MAX_NUMBER_LENGTH + 1];
    memcpy(copy, text, length);
    copy[length] = 0;
    char *point = strchr(copy, '.');
    if (point)
        *point = *localeconv()->decimal_point;
    return strtod(copy, NULL);
}

static tn_status scan_number(scanner *s) {
    size_t start = s->at;
    if (peek(s) == '-')
        s->at++;
    size_t whole = s->at;
    if (!skip_digits(s))
        return fail_expected(s, "a digit");
    if (s->text[whole] == '0' && s->at - whole > 1)
        return fail_at(s, start, "a number must not begin with 0");
    if (peek(s) == '.') {
        s->at++;
        if (!skip_digits(s))
            return fail_expected(s, "a digit");
    }
    bool has_exponent = peek(s) == 'e' || peek(s) == 'E';
    if (has_exponent) {
        s->at++;
        if (peek(s) == '+' || peek(s) == '-')
            s->at++;
        if (!skip_digits(s))
            return fail_expected(s, "a digit");
    }
    if (s->at - start > MAX_NUMBER_LENGTH)
        return fail_at(s, start, "a number of more than %d characters", (int)MAX_NUMBER_LENGTH);
    if (has_exponent && isinf(tn_json_number(s->text + start, s->at - start)))
        return fail_at(s, start, "the number is too large");
    return TN_OK;
}

static tn_status scan_word(scanner *s, const char *word) {
    size_t length = strlen(word);
    if (s->length - s->at < length || memcmp(s->text + s->at, word, length) != 0)
        return fail_expected(s, "a value");
    s->at += length;
    return TN_OK;
}

static tn_status scan_value(scanner *s);

static tn_status scan_key(scanner *s) {
    if (peek(s) != '"')
        return fail_expected(s, "a key in double quotes");
    TN_TRY(scan_string(s));
    skip_blanks(s);
    if (peek(s) != ':')
        return fail_expected(s, "':'");
    s->at++;
    skip_blanks(s);
    return TN_OK;
}

/* An object or an array, up to and with its closing bracket. */
static tn_status scan_container(scanner *s, char close) {
    if (++s->depth > MAX_DEPTH)
        return fail_at(s, s->at, "nested more than %d deep", (int)MAX_DEPTH);
    s->at++;
    skip_blanks(s);
    for (bool first = true; !first || peek(s) != close; first = false) {
        if (close == '}')
            TN_TRY(scan_key(s));
        TN_TRY(scan_value(s));
        skip_blanks(s);
        if (peek(s) == close)
            break;
        if (peek(s) != ',')
            return fail_expected(s, close == '}' ? "',' or '}'" : "',' or ']'");
        s->at++;
        skip_blanks(s);
    }
    s->at++;
    s->depth--;
    return TN_OK;
}

static tn_status scan_value(scanner *s) {
    int c = peek(s);
    switch (c) {
    case '{': return scan_container(s, '}');
    case '[': return scan_container(s, ']');
    case '"': return scan_string(s);
    case 't': return scan_word(s, "true");
    case 'f': return scan_word(s, "false");
    case 'n': return scan_word(s, "null");
    default:
        if (c == '-' || (c >= '0' && c <= '9'))
            return scan_number(s);
        return fail_expected(s, "a value");
    }
}

tn_status tn_json_parse(const char *text, size_t length, const char *where, cJSON **out) {
    *out = NULL;
    if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        length -= 3;
    }
    scanner s = {.text = length ? text : "", .where = where, .length = length};
    skip_blanks(&s);
    TN_TRY(scan_value(&s));
    skip_blanks(&s);
    if (s.at != length)
        return fail_expected(&s, "the end of the text");
    *out = cJSON_ParseWithLengthOpts(text, length, NULL, false);
    return *out ? TN_OK : tn_fail_memory(where);
}

tn_status tn_json_read(const char *path, size_t limit, cJSON **out) {
    tn_buf text = {0};
    *out = NULL;
    tn_status status = tn_file_read(path, limit, &text);
    if (status == TN_OK)
        status = tn_json_parse(tn_buf_text(&text), text.length, path, out);
    tn_buf_free(&text);
    return status;
}

const cJSON *tn_json_get(const cJSON *object, const char *key) {
    if (!cJSON_IsObject(object))
        return NULL;
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(member) ? NULL : member;
}

static tn_status fail_type(const cJSON *member, const char *key, const char *where, const char *expected) {
    enum { SHOWN = 60 };
    if (cJSON_IsArray(member) || cJSON_IsObject(member))
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' must be %s, not %s", where, key, expected,
                       cJSON_IsArray(member) ? "a list" : "an object");
    tn_buf shown = {0};
    tn_json_print(&shown, member, false);
    tn_status status = tn_fail(TN_ERROR_FORMAT, "%s: '%s' must be %s, not %.*s%s", where, key, expected, (int)SHOWN,
                               tn_buf_text(&shown), shown.length > SHOWN ? "..." : "");
    tn_buf_free(&shown);
    return status;
}

tn_status tn_json_get_int(const cJSON *object, const char *key, const char *where, int64_t low, int64_t high, int64_t *out) {
    const cJSON *member = tn_json_get(object, key);
    if (!member)
        return TN_OK;
    double value = member->valuedouble;
    /* from 2^53 on, neighbours of what the file says read as the same double */
    if (!cJSON_IsNumber(member) || value != floor(value) || fabs(value) >= 0x1p53)
        return fail_type(member, key, where, "a whole number");
    if ((int64_t)value < low || (int64_t)value > high)
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' is %lld and must be between %lld and %lld", where, key, (long long)value,
                       (long long)low, (long long)high);
    *out = (int64_t)value;
    return TN_OK;
}

tn_status tn_json_get_double(const cJSON *object, const char *key, const char *where, double *out) {
    const cJSON *member = tn_json_get(object, key);
    if (!member)
        return TN_OK;
    if (!cJSON_IsNumber(member) || !isfinite(member->valuedouble))
        return fail_type(member, key, where, "a number");
    *out = member->valuedouble;
    return TN_OK;
}

tn_status tn_json_get_bool(const cJSON *object, const char *key, const char *where, bool *out) {
    const cJSON *member = tn_json_get(object, key);
    if (!member)
        return TN_OK;
    if (!cJSON_IsBool(member))
        return fail_type(member, key, where, "true or false");
    *out = cJSON_IsTrue(member);
    return TN_OK;
}

tn_status tn_json_get_string(const cJSON *object, const char *key, const char *where, const char **out) {
    const cJSON *member = tn_json_get(object, key);
    if (!member)
        return TN_OK;
    if (!cJSON_IsString(member))
        return fail_type(member, key, where, "a string");
    *out = member->valuestring;
    return TN_OK;
}

/* For small objects, and for want of memory. */
static const char *duplicate_among_pairs(const cJSON *object) {
    for (const cJSON *a = object->child; a; a = a->next)
        for (const cJSON *b = object->child; b != a; b = b->next)
            if (strcmp(a->string, b->string) == 0)
                return a->string;
    return NULL;
}

const char *tn_json_duplicate_key(const cJSON *object) {
    enum { SMALL = 16 };
    if (!cJSON_IsObject(object))
        return NULL;
    if (cJSON_GetArraySize(object) <= SMALL)
        return duplicate_among_pairs(object);
    tn_map seen = {0};
    const char *duplicate = NULL;
    for (const cJSON *member = object->child; member && !duplicate; member = member->next) {
        if (tn_map_get_text(&seen, member->string, NULL)) {
            duplicate = member->string;
        } else if (tn_map_put_text(&seen, member->string, 0) != TN_OK) {
            duplicate = duplicate_among_pairs(object);
            break;
        }
    }
    tn_map_free(&seen);
    return duplicate;
}

void tn_json_print_string(tn_buf *out, const char *text, size_t length) {
    static const char shorts[] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't', ['"'] = '"', ['\\'] = '\\'};
    tn_buf_putc(out, '"');
    for (size_t at = 0; at < length;) {
        unsigned char c = (unsigned char)text[at];
        uint32_t code;
        size_t size = tn_utf8_decode(text + at, length - at, &code);
        if (size == 0)
            tn_buf_puts(out, "\xef\xbf\xbd");
        else if (c < sizeof shorts && shorts[c])
            tn_buf_append(out, (char[]){'\\', shorts[c]}, 2);
        else if (c < 0x20)
            tn_buf_printf(out, "\\u%04x", c);
        else
            tn_buf_append(out, text + at, size);
        at += size ? size : 1;
    }
    tn_buf_putc(out, '"');
}

void tn_json_print_number(tn_buf *out, double value) {
    char text[40];
    if (!isfinite(value)) {
        tn_buf_puts(out, "null");
        return;
    }
    if (value == floor(value) && fabs(value) < 0x1p53) {
        tn_buf_printf(out, "%.0f", value);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    char *point = strchr(text, *localeconv()->decimal_point);
    if (point)
        *point = '.';
    tn_buf_puts(out, text);
}

static void print_newline(tn_buf *out, int indent) {
    tn_buf_putc(out, '\n');
    for (int i = 0; i < indent; i++)
        tn_buf_puts(out, "  ");
}

/* `indent` is the depth so far, or negative for compact text. */
static void print_value(tn_buf *out, const cJSON *value, int indent) {
    if (cJSON_IsNumber(value)) {
        tn_json_print_number(out, value->valuedouble);
    } else if (cJSON_IsString(value)) {
        tn_json_print_string(out, value->valuestring, strlen(value->valuestring));
    } else if (cJSON_IsObject(value) || cJSON_IsArray(value)) {
        tn_buf_putc(out, cJSON_IsObject(value) ? '{' : '[');
        for (const cJSON *member = value->child; member; member = member->next) {
            if (indent >= 0)
                print_newline(out, indent + 1);
            if (cJSON_IsObject(value)) {
                tn_json_print_string(out, member->string, strlen(member->string));
                tn_buf_puts(out, indent >= 0 ? ": " : ":");
            }
            print_value(out, member, indent >= 0 ? indent + 1 : indent);
            if (member->next)
                tn_buf_putc(out, ',');
        }
        if (value->child && indent >= 0)
            print_newline(out, indent);
        tn_buf_putc(out, cJSON_IsObject(value) ? '}' : ']');
    } else {
        tn_buf_puts(out, cJSON_IsTrue(value) ? "true" : cJSON_IsFalse(value) ? "false" : "null");
    }
}

void tn_json_print(tn_buf *out, const cJSON *value, bool indented) {
    print_value(out, value, indented ? 0 : -1);
}
