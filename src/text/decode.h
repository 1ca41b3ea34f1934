/* The decoder of tokenizer.json: a chain of steps that turns tokens back into text, run as a stream. */
#ifndef TN_TEXT_DECODE_H
#define TN_TEXT_DECODE_H

#include <cjson/cJSON.h>
#include <stdint.h>

#include "base/memory.h"
#include "text/pattern.h"
#include "text/pretokenize.h"

enum { TN_DECODE_STEPS = 16 };

typedef enum tn_decode_kind {
    TN_DECODE_JOIN, /* no decoder: tokens with spaces between */
    TN_DECODE_BYTE_LEVEL,
    TN_DECODE_BYTE_FALLBACK,
    TN_DECODE_FUSE,
    TN_DECODE_REPLACE,
    TN_DECODE_STRIP,
    TN_DECODE_METASPACE,
    TN_DECODE_BPE,
} tn_decode_kind;

typedef struct tn_decode_step {
    tn_decode_kind kind;
    tn_pattern pattern;        /* REPLACE; BPE: the suffix that ends a word */
    const char *content;       /* REPLACE: put in its place; STRIP: the character */
    int64_t start, stop;       /* STRIP: at most so many characters from either end */
    uint32_t replacement;      /* METASPACE */
    tn_prepend_scheme prepend; /* METASPACE */
    bool fused;                /* the step sees one long token that comes in parts */
} tn_decode_step;

typedef struct tn_text_decoder {
    tn_decode_step steps[TN_DECODE_STEPS];
    int count;
} tn_text_decoder;

/* `json` may be NULL. Strings are kept in `arena`. Nested Sequences are flattened. */
tn_status tn_text_decoder_parse(const cJSON *json, const char *where, tn_arena *arena, tn_text_decoder *out);
void tn_text_decoder_free(tn_text_decoder *decoder);

/* What each step keeps between tokens. Zero-initialise; serves one decoder. */
typedef struct tn_decode_state {
    struct {
        tn_buf whole; /* parts of a fused token, for a step that works on the whole of it */
        tn_buf held;  /* not passed on yet */
        tn_buf work;  /* what is being passed on */
        bool started; /* a token has been seen */
        int64_t stripped;
    } steps[TN_DECODE_STEPS];
    tn_matcher matcher;
} tn_decode_state;

/* Appends what became certain with this token, and at the end the rest. */
tn_status tn_text_decoder_push(const tn_text_decoder *decoder, tn_decode_state *state, const char *token, size_t length,
                               tn_buf *out);
tn_status tn_text_decoder_finish(const tn_text_decoder *decoder, tn_decode_state *state, tn_buf *out);
void tn_decode_state_free(tn_decode_state *state);

#endif
