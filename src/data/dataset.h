/* Training data: JSON lines to token ids with labels. */
#ifndef TN_DATA_DATASET_H
#define TN_DATA_DATASET_H

#include <stdint.h>

#include "text/chat_template.h"
#include "text/tokenizer.h"

enum { TN_LABEL_IGNORED = -100 };

/* The date that chat templates see in training and evaluation: with today's, data would change from day to day. */
#define TN_DATA_DATE "2024-07-26"

typedef enum tn_too_long { TN_TOO_LONG_CUT, TN_TOO_LONG_DROP } tn_too_long;

typedef struct tn_dataset_options {
    const tn_tokenizer *tokenizer;         /* NULL: only rows of input_ids are possible */
    const tn_chat_template *chat_template; /* NULL: rows of messages are an error */
    int64_t vocab_size;                    /* of the model; ids outside it are an error; 0: the tokenizer's */
    int64_t max_length;                    /* tokens per sample; 0: no limit */
    tn_too_long too_long;                  /* keep the first max_length tokens, or leave the sample out */
    bool train_on_prompt;
    bool keep_text;  /* keep prompt and completion texts (for showing beside what eval generates) */
    const char *now; /* the date given to chat templates that print one; NULL: today */
} tn_dataset_options;

/* Samples one after another in two parallel arrays. labels[i] is the id to be predicted AT position i (not shifted), or
 * TN_LABEL_IGNORED; position i - 1 predicts it. The first label of a sample is always TN_LABEL_IGNORED: nothing predicts it.
 */
typedef struct tn_dataset {
    int32_t *ids, *labels;
    int64_t *starts;        /* [count + 1] */
    int32_t *lines;         /* [count] line number in its file, from 1 */
    int32_t *prompt_tokens; /* [count] tokens before the last trained turn: what generation starts from */
    char **prompts;         /* [count] with keep_text: the text before the last trained turn; NULL without keep_text */
    char *
        *completions; /* [count] with keep_text: what its tokens decode to, special ones left out; NULL without keep_text */
    int64_t count, capacity, token_count, token_capacity;
    int64_t cut, dropped, unlabelled, first_unlabelled_line; /* counted aloud by the caller */
    uint64_t hash;                                           /* of ids, labels and boundaries */
} tn_dataset;

void tn_dataset_free(tn_dataset *dataset);

/* Reads one JSONL file (or a file holding one array of the same objects) into `out`, which is overwritten and left empty by
 * an error. Rows by their fields, more telling sets first, further fields are ignored: `input_ids` + optional `labels`;
 * `messages` + optional `tools`; `prompt` + `completion`; `instruction` + optional `input` + `output`; `text`. Samples
 * without any label are left out and counted in `unlabelled`. An empty result is an error. */
tn_status tn_dataset_read(const char *path, const tn_dataset_options *options, tn_dataset *out);

/* Moves round(fraction * count) samples, at least one and never all when there are two or more, chosen by seed, into
 * `valid`, which is overwritten. Both keep the order of the file. A fraction of 0 moves none. The counters stay with
 * `train`. */
tn_status tn_dataset_split(tn_dataset *train, tn_dataset *valid, double fraction, uint64_t seed);

/* Appends a picture of sample `index` for people: its text with the trained part marked (green, or in [[ ]] without
 * colour), its counts and first token ids. Without a tokenizer the ids stand for the text. */
tn_status tn_dataset_show(const tn_dataset *dataset, int64_t index, const tn_tokenizer *tokenizer, bool colour, tn_buf *out);

/* Token counts over samples; percentiles by nearest rank. */
typedef struct tn_dataset_stats {
    int64_t count, total, labelled;
    int64_t shortest, median, percentile95, longest;
} tn_dataset_stats;

tn_status tn_dataset_measure(const tn_dataset *dataset, tn_dataset_stats *out);

#endif
