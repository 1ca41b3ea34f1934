/* The samples of a file in two flat arrays: growing, reading, splitting, measuring. */
#include "data/dataset.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/memory.h"
#include "data/jsonl.h"
#include "data/order.h"
#include "data/sample.h"

void tn_dataset_free(tn_dataset *dataset) {
    for (int64_t i = 0; i < dataset->count; i++) {
        if (dataset->prompts)
            tn_free(dataset->prompts[i]);
        if (dataset->completions)
            tn_free(dataset->completions[i]);
    }
    tn_free(dataset->prompts);
    tn_free(dataset->completions);
    tn_free(dataset->ids);
    tn_free(dataset->labels);
    tn_free(dataset->starts);
    tn_free(dataset->lines);
    tn_free(dataset->prompt_tokens);
    *dataset = (tn_dataset){0};
}

/* Resizes the array that the pointer at `array` leads to; on failure it stays as it is. The pointer has a type of its own,
 * so it is read and written as bytes. */
static tn_status resize(void *array, int64_t count, size_t size) {
    void *old, *grown;
    memcpy(&old, array, sizeof old);
    grown = tn_realloc_array(old, (size_t)count, size);
    if (!grown)
        return tn_fail_memory("the samples of a data set");
    memcpy(array, &grown, sizeof grown);
    return TN_OK;
}

static tn_status reserve(tn_dataset *d, int64_t samples, int64_t tokens, bool with_text) {
    if (samples > d->capacity || !d->starts) {
        TN_TRY(resize(&d->starts, samples + 1, sizeof *d->starts));
        TN_TRY(resize(&d->lines, samples, sizeof *d->lines));
        TN_TRY(resize(&d->prompt_tokens, samples, sizeof *d->prompt_tokens));
        if (with_text) {
            TN_TRY(resize(&d->prompts, samples, sizeof *d->prompts));
            TN_TRY(resize(&d->completions, samples, sizeof *d->completions));
        }
        d->starts[d->count] = d->token_count;
        d->capacity = samples;
    }
    if (tokens > d->token_capacity) {
        TN_TRY(resize(&d->ids, tokens, sizeof *d->ids));
        TN_TRY(resize(&d->labels, tokens, sizeof *d->labels));
        d->token_capacity = tokens;
    }
    return TN_OK;
}

static int64_t grown_capacity(int64_t capacity, int64_t need) {
    return need <= capacity ? capacity : need > 2 * capacity ? need : 2 * capacity;
}

static bool has_label(const int32_t *labels, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (labels[i] != TN_LABEL_IGNORED)
            return true;
    return false;
}

static tn_status append(tn_dataset *d, tn_sample_maker *maker, size_t length, int64_t line) {
    bool with_text = maker->options->keep_text;
    int64_t tokens = d->token_count + (int64_t)length;
    TN_TRY(reserve(d, grown_capacity(d->capacity, d->count + 1), grown_capacity(d->token_capacity, tokens), with_text));
    if (with_text) {
        char *prompt = tn_buf_take(&maker->prompt), *completion = tn_buf_take(&maker->completion);
        if (!prompt || !completion) {
            tn_free(prompt);
            tn_free(completion);
            return tn_fail_memory("the texts of a data set");
        }
        d->prompts[d->count] = prompt;
        d->completions[d->count] = completion;
    }
    memcpy(d->ids + d->token_count, maker->ids.data, length * sizeof *d->ids);
    memcpy(d->labels + d->token_count, maker->labels.data, length * sizeof *d->labels);
    d->lines[d->count] = (int32_t)line;
    d->prompt_tokens[d->count] = (int32_t)(maker->prompt_tokens < length ? maker->prompt_tokens : length);
    d->token_count = tokens;
    d->starts[++d->count] = tokens;
    return TN_OK;
}

static tn_status add_row(tn_dataset *d, tn_sample_maker *maker, const tn_jsonl *reader) {
    const tn_dataset_options *options = maker->options;
    if (reader->line > INT32_MAX || d->count == INT32_MAX)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: more than %d lines", reader->path, INT32_MAX);
    TN_TRY(tn_sample_make(maker, reader->row, tn_buf_text(&reader->where)));
    size_t length = maker->ids.count, limit = (size_t)options->max_length;
    if (limit && length > limit) {
        if (options->too_long == TN_TOO_LONG_DROP) {
            d->dropped++;
            return TN_OK;
        }
        d->cut++;
        length = limit;
    }
    if (!has_label(maker->labels.data, length)) {
        if (!d->unlabelled++)
            d->first_unlabelled_line = reader->line;
        return TN_OK;
    }
    return append(d, maker, length, reader->line);
}

static void refresh_hash(tn_dataset *d) {
    d->hash = tn_hash(TN_HASH_START, d->starts, (size_t)(d->count + 1) * sizeof *d->starts);
    d->hash = tn_hash(d->hash, d->ids, (size_t)d->token_count * sizeof *d->ids);
    d->hash = tn_hash(d->hash, d->labels, (size_t)d->token_count * sizeof *d->labels);
}

static tn_status check_not_empty(const tn_dataset *d, const char *path, int64_t max_length) {
    if (d->count)
        return TN_OK;
    if (!d->dropped && !d->unlabelled)
        return tn_fail(TN_ERROR_FORMAT, "%s has no rows", path);
    if (!d->unlabelled)
        return tn_fail(TN_ERROR_FORMAT, "%s: all %lld samples are longer than the maximum length of %lld tokens", path,
                       (long long)d->dropped, (long long)max_length);
    return tn_fail(
        TN_ERROR_FORMAT,
        "%s: no sample has a token to learn: %lld without any trained token (the first on line %lld), %lld cut and "
        "%lld dropped at the maximum length of %lld tokens",
        path, (long long)d->unlabelled, (long long)d->first_unlabelled_line, (long long)d->cut, (long long)d->dropped,
        (long long)max_length);
}

tn_status tn_dataset_read(const char *path, const tn_dataset_options *options, tn_dataset *out) {
    *out = (tn_dataset){0};
    tn_sample_maker maker;
    tn_jsonl reader;
    TN_TRY(tn_sample_maker_init(&maker, options));
    tn_status status = tn_jsonl_open(&reader, path);
    if (status != TN_OK)
        goto fail_open;
    for (;;) {
        TN_TRY_GOTO(tn_jsonl_next(&reader));
        if (!reader.row)
            break;
        TN_TRY_GOTO(add_row(out, &maker, &reader));
    }
    TN_TRY_GOTO(check_not_empty(out, path, options->max_length));
    refresh_hash(out);
fail:
    tn_jsonl_close(&reader);
fail_open:
    tn_sample_maker_free(&maker);
    if (status != TN_OK)
        tn_dataset_free(out);
    return status;
}

/* Copies sample `from` of `in` to place `to` of `out`, which has room and may be the same set when to <= from. Texts change
 * hands. */
static void move_sample(tn_dataset *out, int64_t to, const tn_dataset *in, int64_t from) {
    int64_t length = in->starts[from + 1] - in->starts[from], start = out->starts[to];
    memmove(out->ids + start, in->ids + in->starts[from], (size_t)length * sizeof *out->ids);
    memmove(out->labels + start, in->labels + in->starts[from], (size_t)length * sizeof *out->labels);
    out->lines[to] = in->lines[from];
    out->prompt_tokens[to] = in->prompt_tokens[from];
    if (in->prompts) {
        out->prompts[to] = in->prompts[from];
        out->completions[to] = in->completions[from];
    }
    out->starts[to + 1] = start + length;
}

static void move_chosen(tn_dataset *train, tn_dataset *valid, const bool *chosen) {
    int64_t kept = 0;
    for (int64_t i = 0; i < train->count; i++)
        if (chosen[i])
            move_sample(valid, valid->count++, train, i);
        else
            move_sample(train, kept++, train, i);
    train->count = kept;
    train->token_count = train->starts[kept];
    valid->token_count = valid->starts[valid->count];
    refresh_hash(train);
    refresh_hash(valid);
}

tn_status tn_dataset_split(tn_dataset *train, tn_dataset *valid, double fraction, uint64_t seed) {
    *valid = (tn_dataset){0};
    int64_t moved, tokens = 0;
    tn_status status = TN_OK;
    bool *chosen = tn_calloc((size_t)train->count, sizeof *chosen);
    if (!chosen)
        return tn_fail_memory("splitting a data set");
    TN_TRY_GOTO(tn_choose_validation(chosen, train->count, fraction, seed, &moved));
    if (moved == 0)
        goto fail;
    for (int64_t i = 0; i < train->count; i++)
        tokens += chosen[i] ? train->starts[i + 1] - train->starts[i] : 0;
    TN_TRY_GOTO(reserve(valid, moved, tokens, train->prompts != NULL));
    move_chosen(train, valid, chosen);
fail:
    if (status != TN_OK)
        tn_dataset_free(valid);
    tn_free(chosen);
    return status;
}

static int compare_lengths(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

tn_status tn_dataset_measure(const tn_dataset *dataset, tn_dataset_stats *out) {
    *out = (tn_dataset_stats){.count = dataset->count, .total = dataset->token_count};
    if (dataset->count == 0)
        return TN_OK;
    int64_t *lengths = tn_malloc((size_t)dataset->count * sizeof *lengths), last = dataset->count - 1;
    if (!lengths)
        return tn_fail_memory("measuring a data set");
    for (int64_t i = 0; i <= last; i++)
        lengths[i] = dataset->starts[i + 1] - dataset->starts[i];
    for (int64_t i = 0; i < dataset->token_count; i++)
        out->labelled += dataset->labels[i] != TN_LABEL_IGNORED;
    qsort(lengths, (size_t)dataset->count, sizeof *lengths, compare_lengths);
    out->shortest = lengths[0];
    out->median = lengths[last / 2];
    out->percentile95 = lengths[(dataset->count * 95 + 99) / 100 - 1];
    out->longest = lengths[last];
    tn_free(lengths);
    return TN_OK;
}
