/* The methods of str. */
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja.h"

#define METHOD(name) static tn_status name(jinja_state *state, jinja_value self, const jinja_args *args, jinja_value *out)

#define STRIP(name, sides)                                                                                                  \
    METHOD(name) {                                                                                                          \
        return tn_jinja_strip(state, self.as.string, args->items[0], sides, out);                                           \
    }

STRIP(str_strip, JINJA_STRIP_LEFT | JINJA_STRIP_RIGHT)
STRIP(str_lstrip, JINJA_STRIP_LEFT)
STRIP(str_rstrip, JINJA_STRIP_RIGHT)

#define RECASE(name, casing)                                                                                                \
    METHOD(name) {                                                                                                          \
        (void)args;                                                                                                         \
        return tn_jinja_recase(state, self.as.string, casing, out);                                                         \
    }

RECASE(str_lower, JINJA_LOWER)
RECASE(str_upper, JINJA_UPPER)
RECASE(str_capitalize, JINJA_CAPITALIZE)
RECASE(str_title, JINJA_TITLE)
RECASE(str_swapcase, JINJA_SWAPCASE)

/* ---- parts ---- */

static tn_status push_part(jinja_state *state, jinja_list *parts, const jinja_string *text, size_t start, size_t end) {
    jinja_value part;
    TN_TRY(tn_jinja_string_refer(state, text->data + start, end - start, &part));
    return tn_jinja_list_push(state, parts, part);
}

static size_t skip_space(const jinja_string *text, size_t at) {
    for (size_t size; at < text->length && (size = tn_jinja_space_at(text->data + at, text->length - at)) > 0;)
        at += size;
    return at;
}

static size_t trim_end(const jinja_string *text, size_t end) {
    for (size_t size; (size = tn_jinja_space_before(text->data, end)) > 0;)
        end -= size;
    return end;
}

/* Words between runs of white space; after `limit` splits the rest is one part. */
static tn_status split_words(jinja_state *state, const jinja_string *text, int64_t limit, jinja_list *parts) {
    for (size_t at = skip_space(text, 0), end; at < text->length; at = skip_space(text, end)) {
        end = limit == 0 ? text->length : at;
        while (end < text->length && !tn_jinja_space_at(text->data + end, text->length - end))
            end += tn_jinja_string_next(text, end);
        TN_TRY(push_part(state, parts, text, at, end));
        limit -= limit > 0;
    }
    return tn_jinja_step(state, text->length / 16);
}

static tn_status split_at(jinja_state *state, const jinja_string *text, const jinja_string *separator, int64_t limit,
                          jinja_list *parts) {
    size_t at = 0, found;
    for (; limit != 0 && (found = tn_jinja_find(text, separator, at)) != SIZE_MAX; limit -= limit > 0) {
        TN_TRY(push_part(state, parts, text, at, found));
        at = found + separator->length;
    }
    TN_TRY(tn_jinja_step(state, text->length / 64));
    return push_part(state, parts, text, at, text->length);
}

static tn_status rsplit_words(jinja_state *state, const jinja_string *text, int64_t limit, jinja_list *parts) {
    for (size_t end = trim_end(text, text->length), start; end > 0; end = trim_end(text, start)) {
        start = limit == 0 ? 0 : end;
        while (start > 0 && !tn_jinja_space_before(text->data, start))
            start--;
        TN_TRY(push_part(state, parts, text, start, end));
        limit -= limit > 0;
    }
    return tn_jinja_step(state, text->length / 16);
}

static tn_status rsplit_at(jinja_state *state, const jinja_string *text, const jinja_string *separator, int64_t limit,
                           jinja_list *parts) {
    size_t end = text->length, found;
    for (; limit != 0; limit -= limit > 0) {
        TN_TRY(tn_jinja_find_last(state, text, separator, end, &found));
        if (found == SIZE_MAX)
            break;
        TN_TRY(push_part(state, parts, text, found + separator->length, end));
        end = found;
    }
    return push_part(state, parts, text, 0, end);
}

static tn_status get_separator(jinja_value arg, const jinja_string **separator) {
    *separator = NULL;
    if (arg.type == JINJA_ABSENT || arg.type == JINJA_NONE)
        return TN_OK;
    TN_TRY(tn_jinja_arg_string(arg, "separator", separator));
    return (*separator)->length ? TN_OK : tn_fail(TN_ERROR_ARGUMENT, "empty separator");
}

METHOD(str_split) {
    const jinja_string *separator;
    int64_t limit;
    jinja_list *parts;
    TN_TRY(get_separator(args->items[0], &separator));
    TN_TRY(tn_jinja_arg_int(args->items[1], "split()", -1, &limit));
    TN_TRY(tn_jinja_list_new(state, 0, &parts));
    TN_TRY(separator ? split_at(state, self.as.string, separator, limit, parts)
                     : split_words(state, self.as.string, limit, parts));
    *out = JINJA_VALUE(JINJA_LIST, list, parts);
    return TN_OK;
}

METHOD(str_rsplit) {
    const jinja_string *separator;
    int64_t limit;
    jinja_list *parts;
    TN_TRY(get_separator(args->items[0], &separator));
    TN_TRY(tn_jinja_arg_int(args->items[1], "rsplit()", -1, &limit));
    TN_TRY(tn_jinja_list_new(state, 0, &parts));
    TN_TRY(separator ? rsplit_at(state, self.as.string, separator, limit, parts)
                     : rsplit_words(state, self.as.string, limit, parts));
    for (size_t i = 0; i < parts->count / 2; i++) {
        jinja_value swap = parts->items[i];
        parts->items[i] = parts->items[parts->count - 1 - i];
        parts->items[parts->count - 1 - i] = swap;
    }
    *out = JINJA_VALUE(JINJA_LIST, list, parts);
    return TN_OK;
}

METHOD(str_splitlines) {
    return tn_jinja_splitlines(state, self.as.string, tn_jinja_truth(args->items[0]), out);
}

/* (before, separator, after); without an occurrence the text is first or, for rpartition, last. */
static tn_status partition(jinja_state *state, const jinja_string *text, jinja_value arg, bool last, jinja_value *out) {
    const jinja_string *separator;
    jinja_list *parts;
    size_t found, length;
    if (arg.type == JINJA_NONE)
        return tn_fail(TN_ERROR_ARGUMENT, "partition(): must be str, not NoneType");
    TN_TRY(get_separator(arg, &separator));
    TN_TRY(tn_jinja_step(state, text->length / 64));
    if (last)
        TN_TRY(tn_jinja_find_last(state, text, separator, text->length, &found));
    else
        found = tn_jinja_find(text, separator, 0);
    length = found == SIZE_MAX ? 0 : separator->length;
    if (found == SIZE_MAX)
        found = last ? 0 : text->length;
    TN_TRY(tn_jinja_list_new(state, 3, &parts));
    TN_TRY(push_part(state, parts, text, 0, found));
    TN_TRY(push_part(state, parts, text, found, found + length));
    TN_TRY(push_part(state, parts, text, found + length, text->length));
    *out = JINJA_VALUE(JINJA_TUPLE, list, parts);
    return TN_OK;
}

METHOD(str_partition) {
    return partition(state, self.as.string, args->items[0], false, out);
}

METHOD(str_rpartition) {
    return partition(state, self.as.string, args->items[0], true, out);
}

/* ---- searching ---- */

/* The part [start, end) of self that the arguments after the first choose; *base is its byte offset. */
static tn_status chosen_part(jinja_state *state, jinja_value self, const jinja_args *args, jinja_string *part,
                             size_t *base) {
    const jinja_string *text = self.as.string;
    *part = *text;
    *base = 0;
    if (args->items[1].type == JINJA_ABSENT && args->items[2].type == JINJA_ABSENT)
        return TN_OK;
    int64_t start, end, count = (int64_t)tn_jinja_string_count(text);
    TN_TRY(tn_jinja_step(state, text->length / 16));
    TN_TRY(tn_jinja_arg_int(args->items[1], "start", 0, &start));
    TN_TRY(tn_jinja_arg_int(args->items[2], "end", count, &end));
    start = start < 0 ? (start < -count ? 0 : start + count) : start;
    end = end < 0 ? (end < -count ? 0 : end + count) : end < count ? end : count;
    if (start > end) {
        *part = (jinja_string){NULL, SIZE_MAX};
        return TN_OK;
    }
    *base = tn_jinja_string_offset(text, (size_t)start);
    *part = (jinja_string){text->data + *base, tn_jinja_string_offset(text, (size_t)end) - *base};
    return TN_OK;
}

/* Does the part begin (or end) with one of the prefixes: a string or a tuple of them? */
static tn_status has_affix(jinja_state *state, jinja_value self, const jinja_args *args, bool end, jinja_value *out) {
    jinja_string part;
    size_t base;
    TN_TRY(chosen_part(state, self, args, &part, &base));
    const jinja_value *affixes = &args->items[0];
    size_t count = 1;
    if (affixes->type == JINJA_TUPLE) {
        count = affixes->as.list->count;
        affixes = affixes->as.list->items;
    }
    *out = tn_jinja_bool(false);
    for (size_t i = 0; i < count && !out->as.boolean; i++) {
        const jinja_string *affix;
        TN_TRY(tn_jinja_arg_string(affixes[i], end ? "endswith()" : "startswith()", &affix));
        TN_TRY(tn_jinja_step(state, 1 + affix->length / 64));
        if (part.data && affix->length <= part.length)
            out->as.boolean = memcmp(part.data + (end ? part.length - affix->length : 0), affix->data, affix->length) == 0;
    }
    return TN_OK;
}

METHOD(str_startswith) {
    return has_affix(state, self, args, false, out);
}

METHOD(str_endswith) {
    return has_affix(state, self, args, true, out);
}

/* Index in code points, -1 when absent. */
static tn_status find_index(jinja_state *state, jinja_value self, const jinja_args *args, bool last, jinja_value *out) {
    const jinja_string *needle;
    jinja_string part;
    size_t base, found = SIZE_MAX;
    TN_TRY(tn_jinja_arg_string(args->items[0], "find()", &needle));
    TN_TRY(chosen_part(state, self, args, &part, &base));
    TN_TRY(tn_jinja_step(state, self.as.string->length / 16));
    if (part.data && last)
        TN_TRY(tn_jinja_find_last(state, &part, needle, part.length, &found));
    else if (part.data)
        found = tn_jinja_find(&part, needle, 0);
    if (found == SIZE_MAX)
        *out = tn_jinja_int(-1);
    else
        *out = tn_jinja_int((int64_t)tn_jinja_string_count(&(jinja_string){self.as.string->data, base + found}));
    return TN_OK;
}

METHOD(str_find) {
    return find_index(state, self, args, false, out);
}

METHOD(str_rfind) {
    return find_index(state, self, args, true, out);
}

METHOD(str_index) {
    TN_TRY(find_index(state, self, args, false, out));
    return out->as.integer < 0 ? tn_fail(TN_ERROR_ARGUMENT, "substring not found") : TN_OK;
}

METHOD(str_rindex) {
    TN_TRY(find_index(state, self, args, true, out));
    return out->as.integer < 0 ? tn_fail(TN_ERROR_ARGUMENT, "substring not found") : TN_OK;
}

METHOD(str_count) {
    const jinja_string *needle;
    jinja_string part;
    size_t base;
    int64_t count = 0;
    TN_TRY(tn_jinja_arg_string(args->items[0], "count()", &needle));
    TN_TRY(chosen_part(state, self, args, &part, &base));
    TN_TRY(tn_jinja_step(state, self.as.string->length / 16));
    if (part.data && !needle->length)
        count = (int64_t)tn_jinja_string_count(&part) + 1;
    for (size_t at = 0; part.data && needle->length && (at = tn_jinja_find(&part, needle, at)) != SIZE_MAX; count++)
        at += needle->length;
    *out = tn_jinja_int(count);
    return TN_OK;
}

/* ---- building ---- */

METHOD(str_replace) {
    const jinja_string *old, *new;
    int64_t count;
    TN_TRY(tn_jinja_arg_string(args->items[0], "replace()", &old));
    TN_TRY(tn_jinja_arg_string(args->items[1], "replace()", &new));
    TN_TRY(tn_jinja_arg_int(args->items[2], "replace()", -1, &count));
    return tn_jinja_replace(state, self.as.string, old, new, count, out);
}

METHOD(str_join) {
    const jinja_list *items;
    TN_TRY(tn_jinja_iterate(state, args->items[0], &items));
    return tn_jinja_join(state, self.as.string, items, true, out);
}

static tn_status pad(jinja_state *state, jinja_value self, const jinja_args *args, int sides, jinja_value *out) {
    static const jinja_string space = {" ", 1};
    const jinja_string *fill = &space;
    int64_t width;
    TN_TRY(tn_jinja_arg_int(args->items[0], "width", 0, &width));
    if (args->items[1].type != JINJA_ABSENT)
        TN_TRY(tn_jinja_arg_string(args->items[1], "fill", &fill));
    if (tn_jinja_string_count(fill) != 1)
        return tn_fail(TN_ERROR_ARGUMENT, "The fill character must be exactly one character long");
    return tn_jinja_pad(state, self.as.string, width, fill, sides, out);
}

METHOD(str_center) {
    return pad(state, self, args, JINJA_PAD_LEFT | JINJA_PAD_RIGHT, out);
}

METHOD(str_ljust) {
    return pad(state, self, args, JINJA_PAD_RIGHT, out);
}

METHOD(str_rjust) {
    return pad(state, self, args, JINJA_PAD_LEFT, out);
}

METHOD(str_zfill) {
    static const jinja_string zero = {"0", 1};
    const jinja_string *text = self.as.string;
    int64_t width;
    size_t sign = text->length && (text->data[0] == '-' || text->data[0] == '+');
    jinja_string digits = {text->data + sign, text->length - sign};
    jinja_value padded;
    TN_TRY(tn_jinja_arg_int(args->items[0], "zfill()", 0, &width));
    width = width > (int64_t)sign ? width - (int64_t)sign : 0;
    TN_TRY(tn_jinja_pad(state, &digits, width, &zero, JINJA_PAD_LEFT, &padded));
    return tn_jinja_binary(state, TOKEN_ADD, JINJA_VALUE(JINJA_STRING, string, &((jinja_string){text->data, sign})), padded,
                           out);
}

static tn_status remove_affix(jinja_state *state, jinja_value self, const jinja_args *args, bool end, jinja_value *out) {
    const jinja_string *text = self.as.string, *affix;
    TN_TRY(tn_jinja_arg_string(args->items[0], end ? "removesuffix()" : "removeprefix()", &affix));
    size_t length = affix->length <= text->length ? affix->length : 0;
    if (memcmp(text->data + (end ? text->length - length : 0), affix->data, length) != 0)
        length = 0;
    return tn_jinja_string_refer(state, text->data + (end ? 0 : length), text->length - length, out);
}

METHOD(str_removeprefix) {
    return remove_affix(state, self, args, false, out);
}

METHOD(str_removesuffix) {
    return remove_affix(state, self, args, true, out);
}

/* ---- questions ---- */

static bool is_alpha(uint32_t code) {
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

static bool is_digit(uint32_t code) {
    return utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_ND;
}

static bool is_numeric(uint32_t code) {
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

static bool is_alnum(uint32_t code) {
    return is_alpha(code) || is_numeric(code);
}

static bool is_space(uint32_t code) {
    char bytes[4];
    return tn_jinja_space_at(bytes, tn_utf8_encode(code, bytes)) != 0;
}

/* Is there a code point, and does the question hold for all? */
static tn_status all_are(jinja_state *state, const jinja_string *text, bool (*question)(uint32_t code), jinja_value *out) {
    bool holds = text->length > 0;
    for (size_t at = 0, size; at < text->length && holds; at += size) {
        uint32_t code;
        size = tn_utf8_decode(text->data + at, text->length - at, &code);
        holds = size && question(code);
    }
    *out = tn_jinja_bool(holds);
    return tn_jinja_step(state, text->length / 16);
}

#define QUESTION(name, question)                                                                                            \
    METHOD(name) {                                                                                                          \
        (void)args;                                                                                                         \
        return all_are(state, self.as.string, question, out);                                                               \
    }

QUESTION(str_isalpha, is_alpha)
QUESTION(str_isdigit, is_digit)
QUESTION(str_isnumeric, is_numeric)
QUESTION(str_isalnum, is_alnum)
QUESTION(str_isspace, is_space)

/* There is a letter of the wanted case and none of another. */
static tn_status all_cased(jinja_state *state, const jinja_string *text, utf8proc_category_t wanted, jinja_value *out) {
    bool some = false, other = false;
    for (size_t at = 0, size; at < text->length && !other; at += size) {
        uint32_t code;
        size = tn_utf8_decode(text->data + at, text->length - at, &code);
        utf8proc_category_t category = size ? utf8proc_category((utf8proc_int32_t)code) : UTF8PROC_CATEGORY_CN;
        size = size ? size : 1;
        some = some || category == wanted;
        other = category != wanted && category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LT;
    }
    *out = tn_jinja_bool(some && !other);
    return tn_jinja_step(state, text->length / 16);
}

METHOD(str_islower) {
    (void)args;
    return all_cased(state, self.as.string, UTF8PROC_CATEGORY_LL, out);
}

METHOD(str_isupper) {
    (void)args;
    return all_cased(state, self.as.string, UTF8PROC_CATEGORY_LU, out);
}

const jinja_builtin tn_jinja_str_methods[] = {
    {"strip", str_strip, "chars?"},
    {"lstrip", str_lstrip, "chars?"},
    {"rstrip", str_rstrip, "chars?"},
    {"lower", str_lower, ""},
    {"casefold", str_lower, ""},
    {"upper", str_upper, ""},
    {"capitalize", str_capitalize, ""},
    {"title", str_title, ""},
    {"swapcase", str_swapcase, ""},
    {"split", str_split, "sep? maxsplit?"},
    {"rsplit", str_rsplit, "sep? maxsplit?"},
    {"splitlines", str_splitlines, "keepends?"},
    {"partition", str_partition, "sep"},
    {"rpartition", str_rpartition, "sep"},
    {"startswith", str_startswith, "prefix start? end?"},
    {"endswith", str_endswith, "suffix start? end?"},
    {"find", str_find, "sub start? end?"},
    {"rfind", str_rfind, "sub start? end?"},
    {"index", str_index, "sub start? end?"},
    {"rindex", str_rindex, "sub start? end?"},
    {"count", str_count, "sub start? end?"},
    {"replace", str_replace, "old new count?"},
    {"join", str_join, "iterable"},
    {"format", tn_jinja_str_format, NULL},
    {"center", str_center, "width fillchar?"},
    {"ljust", str_ljust, "width fillchar?"},
    {"rjust", str_rjust, "width fillchar?"},
    {"zfill", str_zfill, "width"},
    {"removeprefix", str_removeprefix, "prefix"},
    {"removesuffix", str_removesuffix, "suffix"},
    {"isalpha", str_isalpha, ""},
    {"isdigit", str_isdigit, ""},
    {"isdecimal", str_isdigit, ""},
    {"isnumeric", str_isnumeric, ""},
    {"isalnum", str_isalnum, ""},
    {"isspace", str_isspace, ""},
    {"islower", str_islower, ""},
    {"isupper", str_isupper, ""},
    {0},
};
