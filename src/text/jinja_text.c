/* Operations on strings that methods and filters share. Indices and widths count code points, as in Python. */
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja.h"

/* str.isspace() of one code point. */
static bool is_space(uint32_t code) {
    return (code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x20) || code == 0x85 || code == 0xa0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f ||
           code == 0x3000;
}

size_t tn_jinja_space_at(const char *text, size_t length) {
    uint32_t code;
    size_t size = tn_utf8_decode(text, length, &code);
    return size && is_space(code) ? size : 0;
}

/* Bytes of the code point that ends at `length` (1 for an invalid byte). */
static size_t size_before(const char *text, size_t length) {
    size_t size = 1;
    uint32_t code;
    while (size < 4 && size < length && (text[length - size] & 0xc0) == 0x80)
        size++;
    return tn_utf8_decode(text + length - size, size, &code) == size ? size : 1;
}

size_t tn_jinja_space_before(const char *text, size_t length) {
    if (!length)
        return 0;
    size_t size = size_before(text, length);
    return tn_jinja_space_at(text + length - size, size) == size ? size : 0;
}

/* Is the code point at `at` (of `size` bytes) one of those to strip? */
static bool is_stripped(const char *at, size_t size, const jinja_string *chars) {
    if (!chars)
        return tn_jinja_space_at(at, size) == size;
    for (size_t i = 0, next; i < chars->length; i = next) {
        next = i + tn_jinja_string_next(chars, i);
        if (next - i == size && memcmp(chars->data + i, at, size) == 0)
            return true;
    }
    return false;
}

tn_status tn_jinja_strip(jinja_state *state, const jinja_string *text, jinja_value chars, int sides, jinja_value *out) {
    size_t start = 0, end = text->length;
    const jinja_string *set = NULL;
    if (chars.type != JINJA_ABSENT && chars.type != JINJA_NONE)
        TN_TRY(tn_jinja_arg_string(chars, "strip", &set));
    size_t cost = 1 + (set ? set->length / 16 : 0);
    while ((sides & JINJA_STRIP_LEFT) && start < end) {
        size_t size = tn_jinja_string_next(text, start);
        if (!is_stripped(text->data + start, size, set))
            break;
        start += size;
        TN_TRY(tn_jinja_step(state, cost));
    }
    while ((sides & JINJA_STRIP_RIGHT) && end > start) {
        size_t size = size_before(text->data + start, end - start);
        if (!is_stripped(text->data + end - size, size, set))
            break;
        end -= size;
        TN_TRY(tn_jinja_step(state, cost));
    }
    return tn_jinja_string_refer(state, text->data + start, end - start, out);
}

/* ---- searching ---- */

size_t tn_jinja_find(const jinja_string *text, const jinja_string *needle, size_t from) {
    if (from > text->length)
        return SIZE_MAX;
    if (!needle->length)
        return from;
    const char *found = memmem(text->data + from, text->length - from, needle->data, needle->length);
    return found ? (size_t)(found - text->data) : SIZE_MAX;
}

tn_status tn_jinja_find_last(jinja_state *state, const jinja_string *text, const jinja_string *needle, size_t end,
                             size_t *found) {
    *found = SIZE_MAX;
    TN_TRY(tn_jinja_step(state, 1 + end / 64));
    if (needle->length > end)
        return TN_OK;
    for (size_t at = end - needle->length;; at--) {
        if (!needle->length || text->data[at] == needle->data[0]) {
            TN_TRY(tn_jinja_step(state, needle->length / 64));
            if (!needle->length || memcmp(text->data + at, needle->data, needle->length) == 0) {
                *found = at;
                return TN_OK;
            }
        }
        if (at == 0)
            return TN_OK;
    }
}

static tn_status replace_into(jinja_state *state, tn_buf *buf, const jinja_string *text, const jinja_string *old,
                              const jinja_string *new, int64_t count) {
    size_t at = 0;
    for (; count != 0 && at <= text->length; count -= count > 0) {
        size_t found = tn_jinja_find(text, old, at);
        if (found == SIZE_MAX)
            break;
        TN_TRY(tn_jinja_step(state, 1));
        TN_TRY(tn_jinja_append(state, buf, text->data + at, found - at));
        TN_TRY(tn_jinja_append(state, buf, new->data, new->length));
        at = found + old->length;
        if (!old->length && at < text->length) {
            size_t size = tn_jinja_string_next(text, at);
            TN_TRY(tn_jinja_append(state, buf, text->data + at, size));
            at += size;
        } else if (!old->length) {
            return TN_OK;
        }
    }
    return tn_jinja_append(state, buf, text->data + at, text->length - at);
}

tn_status tn_jinja_replace(jinja_state *state, const jinja_string *text, const jinja_string *old, const jinja_string *new,
                           int64_t count, jinja_value *out) {
    tn_buf buf = {0};
    tn_status status = replace_into(state, &buf, text, old, new, count);
    return tn_jinja_string_take(state, status, &buf, out);
}

/* ---- case ---- */

static bool is_cased(uint32_t code) {
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL || category == UTF8PROC_CATEGORY_LT;
}

/* Letters whose other case is several letters (Unicode's SpecialCasing, the unconditional ones in common use). */
static const struct {
    uint32_t code;
    const char *upper, *title;
} special_upper[] = {
    {0xdf, "SS", "Ss"},
    {0x149, "\xca\xbcN", "\xca\xbcN"},
    {0x1f0, "J\xcc\x8c", "J\xcc\x8c"},
    {0xfb00, "FF", "Ff"},
    {0xfb01, "FI", "Fi"},
    {0xfb02, "FL", "Fl"},
    {0xfb03, "FFI", "Ffi"},
    {0xfb04, "FFL", "Ffl"},
    {0xfb05, "ST", "St"},
    {0xfb06, "ST", "St"},
};

static tn_status put_upper(jinja_state *state, tn_buf *buf, uint32_t code, bool title) {
    char bytes[4];
    for (size_t i = 0; code >= 0xdf && i < sizeof special_upper / sizeof *special_upper; i++)
        if (special_upper[i].code == code) {
            const char *text = title ? special_upper[i].title : special_upper[i].upper;
            return tn_jinja_append(state, buf, text, strlen(text));
        }
    utf8proc_int32_t mapped = title ? utf8proc_totitle((utf8proc_int32_t)code) : utf8proc_toupper((utf8proc_int32_t)code);
    return tn_jinja_append(state, buf, bytes, tn_utf8_encode((uint32_t)mapped, bytes));
}

/* `final`: a letter is before, none after, so that a capital sigma ends a word. */
static tn_status put_lower(jinja_state *state, tn_buf *buf, uint32_t code, bool final) {
    char bytes[4];
    if (code == 0x130)
        return tn_jinja_append(state, buf, "i\xcc\x87", 3);
    if (code == 0x3a3 && final)
        return tn_jinja_append(state, buf, "\xcf\x82", 2);
    return tn_jinja_append(state, buf, bytes, tn_utf8_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)code), bytes));
}

static bool cased_at(const jinja_string *text, size_t at) {
    uint32_t code;
    return at < text->length && tn_utf8_decode(text->data + at, text->length - at, &code) && is_cased(code);
}

/* What becomes of the letter after `before` (0 at the start). */
static jinja_casing casing_of(jinja_casing casing, uint32_t before, uint32_t code) {
    switch (casing) {
    case JINJA_CAPITALIZE: return before ? JINJA_LOWER : JINJA_TITLE;
    case JINJA_TITLE: return before && is_cased(before) ? JINJA_LOWER : JINJA_TITLE;
    case JINJA_TITLE_WORDS:
        return !before || is_space(before) || (before < 0x80 && strchr("-({[<", (int)before)) ? JINJA_UPPER : JINJA_LOWER;
    case JINJA_SWAPCASE:
        return utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_LU ? JINJA_LOWER : JINJA_UPPER;
    default: return casing;
    }
}

static tn_status recase_into(jinja_state *state, tn_buf *buf, const jinja_string *text, jinja_casing casing) {
    uint32_t before = 0, code = 0;
    for (size_t at = 0, size; at < text->length; at += size, before = code) {
        size = tn_utf8_decode(text->data + at, text->length - at, &code);
        if (!size) {
            size = 1;
            code = 0xfffd;
            TN_TRY(tn_jinja_append(state, buf, text->data + at, 1));
            continue;
        }
        jinja_casing wanted = casing_of(casing, before, code);
        if (wanted == JINJA_LOWER)
            TN_TRY(put_lower(state, buf, code, is_cased(before) && !cased_at(text, at + size)));
        else
            TN_TRY(put_upper(state, buf, code, wanted == JINJA_TITLE));
    }
    return TN_OK;
}

tn_status tn_jinja_recase(jinja_state *state, const jinja_string *text, jinja_casing casing, jinja_value *out) {
    tn_buf buf = {0};
    tn_status status = recase_into(state, &buf, text, casing);
    return tn_jinja_string_take(state, status, &buf, out);
}

/* ---- joining and splitting ---- */

static tn_status join_into(jinja_state *state, tn_buf *buf, const jinja_string *separator, const jinja_list *items,
                           bool strings_only) {
    for (size_t i = 0; i < items->count; i++) {
        if (strings_only && items->items[i].type != JINJA_STRING)
            return tn_fail(TN_ERROR_ARGUMENT, "sequence item %zu: expected str instance, %s found", i,
                           tn_jinja_type_name(items->items[i].type));
        if (i)
            TN_TRY(tn_jinja_append(state, buf, separator->data, separator->length));
        TN_TRY(tn_jinja_step(state, 1));
        TN_TRY(tn_jinja_print(state, buf, items->items[i]));
    }
    return TN_OK;
}

tn_status tn_jinja_join(jinja_state *state, const jinja_string *separator, const jinja_list *items, bool strings_only,
                        jinja_value *out) {
    tn_buf buf = {0};
    tn_status status = join_into(state, &buf, separator, items, strings_only);
    return tn_jinja_string_take(state, status, &buf, out);
}

/* Bytes of the line boundary at `at`, 0 when there is none. */
static size_t line_end_at(const jinja_string *text, size_t at) {
    uint32_t code;
    size_t size = tn_utf8_decode(text->data + at, text->length - at, &code);
    if (!size ||
        !((code >= 10 && code <= 13) || (code >= 0x1c && code <= 0x1e) || code == 0x85 || code == 0x2028 || code == 0x2029))
        return 0;
    return code == '\r' && at + 1 < text->length && text->data[at + 1] == '\n' ? 2 : size;
}

tn_status tn_jinja_splitlines(jinja_state *state, const jinja_string *text, bool keep_ends, jinja_value *out) {
    jinja_list *lines;
    jinja_value line;
    size_t start = 0;
    TN_TRY(tn_jinja_list_new(state, 0, &lines));
    TN_TRY(tn_jinja_step(state, text->length / 16));
    for (size_t at = 0, size; at < text->length; at += size) {
        size_t end = line_end_at(text, at);
        size = end ? end : tn_jinja_string_next(text, at);
        if (!end && at + size < text->length)
            continue;
        TN_TRY(tn_jinja_string_refer(state, text->data + start, at + size - start - (keep_ends ? 0 : end), &line));
        TN_TRY(tn_jinja_list_push(state, lines, line));
        start = at + size;
    }
    *out = JINJA_VALUE(JINJA_LIST, list, lines);
    return TN_OK;
}

/* ---- padding ---- */

/* Appends `count` copies, doubling what is there so that many short ones cost little. */
static tn_status append_copies(jinja_state *state, tn_buf *buf, const jinja_string *text, int64_t count) {
    size_t start = buf->length;
    int64_t wanted;
    if (count <= 0 || !text->length)
        return TN_OK;
    if (!tn_mul_i64(count, (int64_t)text->length, &wanted) || wanted > JINJA_MAX_TEXT)
        return tn_fail(TN_ERROR_ARGUMENT, "a text is longer than %d MB", JINJA_MAX_TEXT >> 20);
    TN_TRY(tn_jinja_append(state, buf, text->data, text->length));
    for (size_t have = text->length; have < (size_t)wanted; have *= 2) {
        size_t more = have < (size_t)wanted - have ? have : (size_t)wanted - have;
        tn_buf part = {0}; /* a copy, for appending may move the buffer */
        tn_buf_append(&part, buf->data + start, more);
        tn_status status = tn_buf_status(&part);
        if (status == TN_OK)
            status = tn_jinja_append(state, buf, part.data, more);
        tn_buf_free(&part);
        TN_TRY(status);
    }
    return TN_OK;
}

tn_status tn_jinja_repeat(jinja_state *state, const jinja_string *text, int64_t count, jinja_value *out) {
    tn_buf buf = {0};
    tn_status status = append_copies(state, &buf, text, count);
    return tn_jinja_string_take(state, status, &buf, out);
}

tn_status tn_jinja_pad(jinja_state *state, const jinja_string *text, int64_t width, const jinja_string *fill, int sides,
                       jinja_value *out) {
    tn_buf buf = {0};
    int64_t count = (int64_t)tn_jinja_string_count(text);
    TN_TRY(tn_jinja_step(state, text->length / 16));
    if (width <= count)
        return tn_jinja_string_refer(state, text->data, text->length, out);
    int64_t missing = width - count, left = sides & JINJA_PAD_LEFT ? missing : 0;
    if (sides == (JINJA_PAD_LEFT | JINJA_PAD_RIGHT))
        left = missing / 2 + (missing & width & 1);
    tn_status status = append_copies(state, &buf, fill, left);
    if (status == TN_OK)
        status = tn_jinja_append(state, &buf, text->data, text->length);
    if (status == TN_OK)
        status = append_copies(state, &buf, fill, missing - left);
    return tn_jinja_string_take(state, status, &buf, out);
}
