/* What tokenizer.json searches for: a literal string or a regular expression in Oniguruma's dialect, run by PCRE2. */
#ifndef TN_TEXT_PATTERN_H
#define TN_TEXT_PATTERN_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

/* Exactly one of `literal` and `code` is set. Read-only after parsing, so that threads may share it. */
typedef struct tn_pattern {
    char *literal;
    size_t literal_length;
    struct pcre2_real_code_8 *code;
} tn_pattern;

/* What one search needs besides the pattern; zero-initialise, one per thread. */
typedef struct tn_matcher {
    struct pcre2_real_match_data_8 *data;
    struct pcre2_real_match_context_8 *context;
} tn_matcher;

/* From {"String": "..."} or {"Regex": "..."}. Errors name `where`, the expression and what is wrong with it. */
tn_status tn_pattern_parse(const cJSON *json, const char *where, tn_pattern *out);
tn_status tn_pattern_literal(const char *literal, tn_pattern *out);
tn_status tn_pattern_compile(const char *expression, const char *where, tn_pattern *out);
void tn_pattern_free(tn_pattern *pattern);

/* Where a walk over the matches in one text stands; zero-initialise. `start` and `end` are those of the last match. */
typedef struct tn_match {
    size_t start, end;
    size_t from;
    bool any;
} tn_match;

/* The next match in valid UTF-8, left to right without overlap; *found is false after the last one. Empty matches count,
 * but not directly behind another match. An expression that backtracks beyond all measure is TN_ERROR_UNSUPPORTED. */
tn_status tn_pattern_next(const tn_pattern *pattern, tn_matcher *matcher, const char *text, size_t length, tn_match *match,
                          bool *found);

/* Appends `text` with every match replaced by `content`. */
tn_status tn_pattern_replace(const tn_pattern *pattern, tn_matcher *matcher, const char *text, size_t length,
                             const char *content, tn_buf *out);
void tn_matcher_free(tn_matcher *matcher);

#endif
