/* Training data: JSON lines to token ids with labels. */
#ifndef TN_DATA_DATASET_H
#define TN_DATA_DATASET_H

#include <stdint.h>

#include "text/chat_template.h"
#include "text/tokenizer.h"

enum { TN_LABEL_IGNORED = -100 };

typedef enum tn_too_long { TN_TOO_LONG_CUT, TN_TOO_LONG_DROP } tn_too_long;

typedef struct tn_dataset_options {
    const tn_tokenizer *tokenizer;         /* NULL: only rows of input_ids are possible */
    const tn_chat_template *chat_template; /* NULL: rows of messages are an error */
    int64_t vocab_size;                    /* of the model; ids outside it are an error */
    int64_t max_length;                    /* tokens per sample; 0: no limit */
    tn_too_long too_long;
    bool train_on_prompt;
    bool keep_text;                        /* keep prompt and completion texts (for generation in eval) */
} tn_dataset_options;

/* Samples one after another in two parallel arrays. labels[i] is the id to be predicted AT position i (not shifted), or
 * TN_LABEL_IGNORED; position i - 1 predicts it. */
typedef struct tn_dataset {
    int32_t *ids, *labels;
    int64_t *starts;     /* [count + 1] */
    int32_t *lines;      /* [count] line number in its file, from 1 */
    char **prompts;      /* [count] with keep_text: the text up to the first trained token; else NULL */
    char **completions;  /* [count] with keep_text: the trained text of the last turn; else NULL */
    int64_t count, capacity, token_count, token_capacity;
    int64_t cut, dropped, unlabelled, first_unlabelled_line; /* counted aloud by the caller */
    uint64_t hash;       /* of ids, labels and boundaries */
} tn_dataset;

void tn_dataset_free(tn_dataset *dataset);

/* Reads one JSONL file (or a .json file holding an array of the same objects). Rows by their fields: `text`; `prompt` +
 * `completion`; `messages`; `input_ids` + optional `labels`; `instruction` + optional `input` + `output`. An empty result, or
 * one without any label, is an error. */
tn_status tn_dataset_read(const char *path, const tn_dataset_options *options, tn_dataset *out);

/* Moves a fixed pseudo-random share of samples (by seed) into `valid`. fraction 0 moves none. */
tn_status tn_dataset_split(tn_dataset *train, tn_dataset *valid, double fraction, uint64_t seed);

/* Appends a picture of sample `index` for people: its text with the trained part marked, and its first token ids. */
tn_status tn_dataset_show(const tn_dataset *dataset, int64_t index, const tn_tokenizer *tokenizer, bool colour, tn_buf *out);

#endif
