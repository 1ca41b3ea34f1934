/* Searching with PCRE2. Tokenizer files are written for Oniguruma; the few escapes that mean something else there are
 * rewritten before compiling, and what cannot be rewritten is refused. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pattern.h"

#include <pcre2.h>
#include <string.h>

#include "base/buf.h"
#include "base/memory.h"
#include "format/json.h"

enum { EXPRESSION_MAX = 64 << 10, HEAP_LIMIT_KIB = 64 << 10, MATCH_LIMIT = 10000, MATCH_LIMIT_MAX = 10000000 };

static void *regex_malloc(size_t size, void *unused) {
    (void)unused;
    return tn_malloc(size);
}

static void regex_free(void *pointer, void *unused) {
    (void)unused;
    tn_free(pointer);
}

/* The members of an escape's class as Oniguruma has them, NULL when PCRE2 agrees. \s: PCRE2 adds U+180E; \w: PCRE2 leaves
 * marks out; \h: PCRE2 means blanks. */
static const char *class_members(char escape) {
    switch (escape) {
    case 's':
    case 'S': return "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
    case 'w':
    case 'W': return "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}";
    case 'h':
    case 'H': return "0-9A-Fa-f";
    default: return NULL;
    }
}

static void rewrite_escape(char escape, bool in_class, tn_buf *out) {
    const char *members = class_members(escape);
    bool negated = escape == 'S' || escape == 'W' || escape == 'H';
    if (!members || (in_class && negated))
        tn_buf_printf(out, "\\%c", escape);
    else if (in_class)
        tn_buf_puts(out, members);
    else
        tn_buf_printf(out, "[%s%s]", negated ? "^" : "", members);
}

/* Oniguruma -> PCRE2. Inside [...] Oniguruma has set operations that PCRE2 would read as plain characters. */
static tn_status translate(const char *expression, const char *where, tn_buf *out) {
    bool in_class = false;
    for (const char *at = expression; *at; at++) {
        if (*at == '\\' && at[1]) {
            rewrite_escape(*++at, in_class, out);
            continue;
        }
        if (in_class && ((*at == '[' && at[1] != ':') || (*at == '&' && at[1] == '&')))
            return tn_fail(TN_ERROR_UNSUPPORTED,
                           "%s: the regular expression '%.200s' uses set operations inside [...]; only "
                           "plain character classes are supported",
                           where, expression);
        if (!in_class && *at == '[') {
            in_class = true;
            tn_buf_putc(out, '[');
            if (at[1] == '^')
                tn_buf_putc(out, *++at);
            if (at[1] == ']')
                tn_buf_putc(out, *++at);
            continue;
        }
        if (in_class && *at == '[') {
            const char *end = strstr(at, ":]");
            if (end) {
                tn_buf_append(out, at, (size_t)(end + 2 - at));
                at = end + 1;
                continue;
            }
        }
        if (*at == ']')
            in_class = false;
        tn_buf_putc(out, *at);
    }
    return tn_buf_status(out);
}

static tn_status compile_translated(const tn_buf *text, const char *expression, const char *where, tn_pattern *out) {
    pcre2_general_context *general = pcre2_general_context_create(regex_malloc, regex_free, NULL);
    pcre2_compile_context *context = general ? pcre2_compile_context_create(general) : NULL;
    tn_status status = TN_OK;
    if (context) {
        int error = 0;
        PCRE2_SIZE offset = 0;
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        out->code =
            pcre2_compile((PCRE2_SPTR)tn_buf_text(text), text->length,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
        if (!out->code) {
            char words[200] = "";
            pcre2_get_error_message(error, (PCRE2_UCHAR *)words, sizeof words);
            status =
                tn_fail(TN_ERROR_FORMAT, "%s: the regular expression '%.200s' is not usable: %s", where, expression, words);
        } else {
            pcre2_jit_compile(out->code, PCRE2_JIT_COMPLETE);
        }
    } else {
        status = tn_fail_memory("a regular expression");
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    return status;
}

tn_status tn_pattern_compile(const char *expression, const char *where, tn_pattern *out) {
    *out = (tn_pattern){0};
    if (strlen(expression) > EXPRESSION_MAX)
        return tn_fail(TN_ERROR_FORMAT, "%s: a regular expression is longer than %d bytes", where, EXPRESSION_MAX);
    tn_buf text = {0};
    tn_status status = translate(expression, where, &text);
    if (status == TN_OK)
        status = compile_translated(&text, expression, where, out);
    tn_buf_free(&text);
    return status;
}

tn_status tn_pattern_literal(const char *literal, tn_pattern *out) {
    *out = (tn_pattern){.literal = tn_strdup(literal), .literal_length = strlen(literal)};
    return out->literal ? TN_OK : tn_fail_memory("a pattern");
}

tn_status tn_pattern_parse(const cJSON *json, const char *where, tn_pattern *out) {
    const char *literal = NULL, *expression = NULL;
    *out = (tn_pattern){0};
    TN_TRY(tn_json_get_string(json, "String", where, &literal));
    TN_TRY(tn_json_get_string(json, "Regex", where, &expression));
    if (expression)
        return tn_pattern_compile(expression, where, out);
    if (!literal)
        return tn_fail(TN_ERROR_FORMAT, "%s: a \"pattern\" must be {\"String\": ...} or {\"Regex\": ...}", where);
    return tn_pattern_literal(literal, out);
}

void tn_pattern_free(tn_pattern *pattern) {
    tn_free(pattern->literal);
    pcre2_code_free(pattern->code);
    *pattern = (tn_pattern){0};
}

static tn_status prepare(tn_matcher *matcher, size_t length) {
    if (!matcher->data) {
        pcre2_general_context *general = pcre2_general_context_create(regex_malloc, regex_free, NULL);
        if (general) {
            matcher->data = pcre2_match_data_create(1, general);
            matcher->context = pcre2_match_context_create(general);
        }
        pcre2_general_context_free(general);
        if (!matcher->data || !matcher->context)
            return tn_fail_memory("a regular expression's match");
        pcre2_set_heap_limit(matcher->context, HEAP_LIMIT_KIB);
    }
    size_t limit = length < (MATCH_LIMIT_MAX - MATCH_LIMIT) / 20 ? MATCH_LIMIT + 20 * length : MATCH_LIMIT_MAX;
    pcre2_set_match_limit(matcher->context, (uint32_t)limit);
    return TN_OK;
}

/* The first match at or after `from`. */
static tn_status find_regex(const tn_pattern *pattern, tn_matcher *matcher, const char *text, size_t length, size_t from,
                            tn_match *match, bool *found) {
    TN_TRY(prepare(matcher, length));
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int rc = pcre2_match(pattern->code, subject, length, from, PCRE2_NO_UTF_CHECK, matcher->data, matcher->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(pattern->code, subject, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, matcher->data,
                         matcher->context);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH)
        return TN_OK;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return tn_fail_memory("a regular expression's match");
    if (rc < 0) {
        char words[200] = "";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)words, sizeof words);
        return tn_fail(TN_ERROR_UNSUPPORTED, "a regular expression of the tokenizer gives up on this text: %s", words);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(matcher->data);
    match->start = range[0];
    match->end = range[1];
    if (match->start > match->end || match->start < from)
        return tn_fail(TN_ERROR_UNSUPPORTED, "a regular expression of the tokenizer moves its match backwards with \\K");
    return TN_OK;
}

static void find_literal(const tn_pattern *pattern, const char *text, size_t length, size_t from, tn_match *match,
                         bool *found) {
    const char *at = NULL;
    if (pattern->literal_length)
        at = memmem(text + from, length - from, pattern->literal, pattern->literal_length);
    *found = at != NULL;
    if (at) {
        match->start = (size_t)(at - text);
        match->end = match->start + pattern->literal_length;
    }
}

tn_status tn_pattern_next(const tn_pattern *pattern, tn_matcher *matcher, const char *text, size_t length, tn_match *match,
                          bool *found) {
    *found = false;
    while (match->from <= length) {
        size_t last_end = match->end;
        if (pattern->code)
            TN_TRY(find_regex(pattern, matcher, text, length, match->from, match, found));
        else
            find_literal(pattern, text, length, match->from, match, found);
        if (!*found)
            break;
        bool repeats = match->any && match->start == match->end && match->end == last_end;
        if (!repeats) {
            match->from = match->end;
            match->any = true;
            break;
        }
        *found = false;
        do
            match->from++;
        while (match->from < length && ((unsigned char)text[match->from] & 0xc0) == 0x80);
    }
    return TN_OK;
}

tn_status tn_pattern_replace(const tn_pattern *pattern, tn_matcher *matcher, const char *text, size_t length,
                             const char *content, tn_buf *out) {
    tn_match match = {0};
    size_t kept = 0;
    for (bool found = length > 0; found;) {
        TN_TRY(tn_pattern_next(pattern, matcher, text, length, &match, &found));
        if (!found)
            break;
        tn_buf_append(out, text + kept, match.start - kept);
        tn_buf_puts(out, content);
        kept = match.end;
    }
    tn_buf_append(out, text + kept, length - kept);
    return TN_OK;
}

void tn_matcher_free(tn_matcher *matcher) {
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    *matcher = (tn_matcher){0};
}
