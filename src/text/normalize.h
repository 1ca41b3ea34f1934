/* The normalizer of tokenizer.json: what is done to the text before anything is cut. */
#ifndef TN_TEXT_NORMALIZE_H
#define TN_TEXT_NORMALIZE_H

#include <cjson/cJSON.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/memory.h"
#include "text/pattern.h"

enum { TN_NORMALIZE_STEPS = 32 };

typedef enum tn_normalize_kind {
    TN_NORMALIZE_FORM, /* NFC, NFD, NFKC, NFKD */
    TN_NORMALIZE_LOWERCASE,
    TN_NORMALIZE_STRIP,
    TN_NORMALIZE_STRIP_ACCENTS,
    TN_NORMALIZE_PREPEND,
    TN_NORMALIZE_REPLACE,
    TN_NORMALIZE_BYTE_LEVEL,
} tn_normalize_kind;

typedef struct tn_normalize_step {
    tn_normalize_kind kind;
    bool compose, compatible; /* FORM */
    bool left, right;         /* STRIP */
    tn_pattern pattern;       /* REPLACE */
    const char *content;      /* REPLACE, PREPEND */
} tn_normalize_step;

typedef struct tn_normalizer {
    tn_normalize_step steps[TN_NORMALIZE_STEPS];
    int count;
} tn_normalizer;

/* `json` may be NULL: no steps. Strings are kept in `arena`. Nested Sequences are flattened. */
tn_status tn_normalizer_parse(const cJSON *json, const char *where, tn_arena *arena, tn_normalizer *out);
void tn_normalizer_free(tn_normalizer *normalizer);

/* Room for one thread's results; zero-initialise. */
typedef struct tn_normalize_scratch {
    tn_buf buffers[2];
    int32_t *codes;
    size_t code_capacity;
    tn_matcher matcher;
} tn_normalize_scratch;

void tn_normalize_scratch_free(tn_normalize_scratch *scratch);

/* Normalises valid UTF-8: *text and *length move to the result, which is the input itself when nothing changed and
 * otherwise lives in `scratch` until the next call. */
tn_status tn_normalizer_apply(const tn_normalizer *normalizer, tn_normalize_scratch *scratch, const char **text,
                              size_t *length);

#endif
