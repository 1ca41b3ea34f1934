/* A run small enough for a test: a random model of two layers, rows of token ids, and options to change before training. */
#ifndef TENON_TESTS_TINY_H
#define TENON_TESTS_TINY_H

#include <tenon/tenon.h>

#include "base/buf.h"
#include "base/file.h"

enum { TINY_VOCAB = 64, TINY_LENGTH = 12 };

/* A fresh folder under /tmp that holds base/ (llama, f32, with biases), qwen2/ (tied head) and data.jsonl with 20 rows.
 * Stays the same for the program's life; tiny_remove deletes it. */
const char *tiny_folder(void);
void tiny_remove(void);

/* tiny_folder() + "/" + name, in one of a few buffers used in turn. */
const char *tiny_path(const char *name);

/* Writes rows {"input_ids": [...], "labels": [...]}: short sequences whose next token follows from the last two, every third
 * row with its first half masked. Lengths differ. Another seed gives other rows. */
void tiny_write_rows(const char *path, int rows, unsigned seed);
void tiny_write_text(const char *path, const char *text);

/* Writes config.json and random weights; `more` is put into the JSON object ("" for none, or "\"key\": value, "). */
void tiny_write_model(const char *dir, const char *family, const char *more, int hidden, int layers, int vocab,
                      unsigned seed);

typedef struct tiny_run {
    const char *base, *data, *out; /* below tiny_folder(); an absolute `out` is taken as it is */
    const char *precision;         /* of matrix products; NULL: f32 */
    tn_adapter_options adapter;
    tn_train_options train; /* data and out are set by tiny_train */
    tn_train_callbacks callbacks;
    tn_train_result result;
    int64_t stop_after; /* the callback asks to stop after this step; 0: never */
} tiny_run;

/* 12 steps of 4 rows, rank 4, learning rate 1e-2, no validation, a checkpoint every 5 steps. */
tiny_run tiny_start(const char *out);

/* Loads the base, adds the adapter and trains. The curves of the result belong to the caller. */
tn_status tiny_train(tiny_run *run);

/* The same, failing the test unless it succeeds; keeps no result but its numbers. */
void tiny_train_well(tiny_run *run);

/* The same, failing the test unless it ends with this status and a message that holds `words`. */
void tiny_train_badly(tiny_run *run, tn_status status, const char *words);

/* Bytes of a file; the caller frees. Fails the test when it cannot be read. */
tn_buf tiny_read(const char *path);

/* Fails the test unless `name` has the same bytes in both output folders / differs. */
void tiny_assert_same_file(const char *out1, const char *out2, const char *name);
void tiny_assert_other_file(const char *out1, const char *out2, const char *name);

/* Fails the test unless both metrics.jsonl hold the same steps with the same losses, rates and norms (times may differ). */
void tiny_assert_same_metrics(const char *out1, const char *out2);

/* How many entries of a folder hold `part` in their name; 0 when there is no such folder. */
int tiny_count_files(const char *dir, const char *part);

#endif
