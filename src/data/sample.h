/* One row of training data to token ids with labels. */
#ifndef TN_DATA_SAMPLE_H
#define TN_DATA_SAMPLE_H

#include <cjson/cJSON.h>

#include "data/dataset.h"

/* Bytes [start, end) of a text. */
typedef struct tn_span {
    size_t start, end;
} tn_span;

/* Makes samples one after another in buffers that are reused. */
typedef struct tn_sample_maker {
    const tn_dataset_options *options; /* the caller's; outlives the maker */
    int64_t vocab_size;
    bool prefixes_space;       /* the tokenizer puts a space before every text it is given */
    tn_ids ids, labels;        /* of the sample made last; the same count */
    size_t prompt_tokens;      /* tokens before its last trained span */
    tn_buf prompt, completion; /* with keep_text */
    tn_buf text, behind_break; /* scratch */
    tn_ids scratch;
} tn_sample_maker;

tn_status tn_sample_maker_init(tn_sample_maker *maker, const tn_dataset_options *options);
void tn_sample_maker_free(tn_sample_maker *maker);

/* Fills ids and labels from `row`; errors begin with `where`. Nothing is cut yet. */
tn_status tn_sample_make(tn_sample_maker *maker, const cJSON *row, const char *where);

/* Appends the ids of `text`, labelled inside the `count` ascending, disjoint `trained` spans. Pieces between span borders
 * are encoded apart, so that no token crosses a border. `add_special` as in tn_tokenizer_encode, for the first piece. */
tn_status tn_sample_encode(tn_sample_maker *maker, const char *text, size_t length, const tn_span *trained, size_t count,
                           bool add_special);

/* The row kind `messages` (+ `tools`): rendered by the chat template, trained on assistant turns. */
tn_status tn_sample_from_messages(tn_sample_maker *maker, const cJSON *row, const char *where);

#endif
