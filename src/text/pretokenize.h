/* The pre-tokenizer of tokenizer.json: cuts normalised text into words, which the model then encodes one by one. */
#ifndef TN_TEXT_PRETOKENIZE_H
#define TN_TEXT_PRETOKENIZE_H

#include <cjson/cJSON.h>
#include <stdint.h>

#include "base/buf.h"
#include "text/pattern.h"

enum { TN_PRETOKENIZE_STEPS = 16 };

typedef enum tn_pretokenize_kind {
    TN_PRETOKENIZE_BYTE_LEVEL,
    TN_PRETOKENIZE_SPLIT, /* at matches of a pattern */
    TN_PRETOKENIZE_CLASS, /* at characters of a class */
    TN_PRETOKENIZE_METASPACE,
    TN_PRETOKENIZE_FIXED_LENGTH,
} tn_pretokenize_kind;

/* What becomes of a match when text is split at it. */
typedef enum tn_split_behavior {
    TN_SPLIT_REMOVED,
    TN_SPLIT_ISOLATED,
    TN_SPLIT_MERGED_WITH_PREVIOUS,
    TN_SPLIT_MERGED_WITH_NEXT,
    TN_SPLIT_CONTIGUOUS,
} tn_split_behavior;

typedef enum tn_prepend_scheme { TN_PREPEND_FIRST, TN_PREPEND_NEVER, TN_PREPEND_ALWAYS } tn_prepend_scheme;

typedef struct tn_pretokenize_step {
    tn_pretokenize_kind kind;
    tn_pattern pattern; /* SPLIT; BYTE_LEVEL with use_regex */
    bool invert;        /* SPLIT: what does not match counts as match */
    bool prefix_space;  /* BYTE_LEVEL */
    bool maps_bytes;    /* BYTE_LEVEL: later steps must see the byte-level alphabet */
    tn_split_behavior behavior;
    bool (*in_class)(uint32_t code); /* CLASS; NULL: the one character below */
    uint32_t character;              /* CLASS: delimiter; METASPACE: what stands for a space */
    tn_prepend_scheme prepend;       /* METASPACE */
    bool split;                      /* METASPACE */
    size_t fixed_length;             /* FIXED_LENGTH, in characters */
} tn_pretokenize_step;

typedef struct tn_pretokenizer {
    tn_pretokenize_step steps[TN_PRETOKENIZE_STEPS];
    int count;
    bool leaves_bytes; /* the last step is ByteLevel: words come out as plain bytes, for the model to map */
} tn_pretokenizer;

/* `json` may be NULL: all text is one word. Nested Sequences are flattened. */
tn_status tn_pretokenizer_parse(const cJSON *json, const char *where, tn_pretokenizer *out);
void tn_pretokenizer_free(tn_pretokenizer *pretokenizer);

/* The settings of a Metaspace, which the pre-tokenizer and the decoder of that name share. */
tn_status tn_metaspace_parse(const cJSON *json, const char *where, uint32_t *replacement, tn_prepend_scheme *prepend);

/* Room for one thread; zero-initialise. */
typedef struct tn_pretokenize_scratch {
    tn_buf texts[TN_PRETOKENIZE_STEPS];
    tn_buf mapped[TN_PRETOKENIZE_STEPS];
    tn_matcher matcher;
} tn_pretokenize_scratch;

void tn_pretokenize_scratch_free(tn_pretokenize_scratch *scratch);

/* Calls `sink` with each word in order. `text` is valid UTF-8; `at_start` says that it begins the whole input. */
typedef tn_status (*tn_word_sink)(void *context, const char *word, size_t length);
tn_status tn_pretokenize(const tn_pretokenizer *pretokenizer, tn_pretokenize_scratch *scratch, const char *text,
                         size_t length, bool at_start, tn_word_sink sink, void *context);

#endif
