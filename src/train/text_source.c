/* Training on rows of text: packed micro-batches that go through the model in parts. */
#include <math.h>

#include "base/clock.h"
#include "train/trainer.h"

static tn_status find_data(const char *data, const char *name, char path[TN_PATH_MAX], bool *found) {
    TN_TRY(tn_path_join(path, data, name));
    *found = tn_path_exists(path);
    return TN_OK;
}

static tn_status read_data(tn_trainer *t) {
    const tn_train_options *o = t->options;
    const tn_decoder_config *config = &t->model->decoder->config;
    tn_text_data *d = &t->text;
    char path[TN_PATH_MAX];
    bool found = false;
    tn_dataset_options options = {.tokenizer = t->model->tokenizer,
                                  .chat_template = t->model->chat_template,
                                  .vocab_size = config->vocab_size,
                                  .max_length = tn_decoder_length(config, o->max_length),
                                  .too_long = o->drop_long ? TN_TOO_LONG_DROP : TN_TOO_LONG_CUT,
                                  .train_on_prompt = o->train_on_prompt,
                                  .now = TN_DATA_DATE};
    if (!tn_path_is_dir(o->data)) {
        TN_TRY(tn_dataset_read(o->data, &options, &d->train));
        return tn_dataset_split(&d->train, &d->valid, o->valid_fraction, o->seed);
    }
    TN_TRY(find_data(o->data, "train.jsonl", path, &found));
    if (!found)
        return tn_fail(TN_ERROR_IO, "%s holds no train.jsonl", o->data);
    TN_TRY(tn_dataset_read(path, &options, &d->train));
    TN_TRY(find_data(o->data, "valid.jsonl", path, &found));
    return found ? tn_dataset_read(path, &options, &d->valid) : TN_OK;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t largest_part(tn_order *order, int64_t count, int64_t part_tokens) {
    return tn_order_part_size(order, tn_order_largest(order, 0, count, part_tokens), part_tokens).tokens;
}

static int64_t longest_of(const tn_dataset *data) {
    int64_t longest = 0;
    for (int64_t i = 0; i < data->count; i++)
        longest = larger(longest, data->starts[i + 1] - data->starts[i]);
    return longest;
}

static tn_status prepare_batches(tn_trainer *t) {
    const tn_train_options *o = t->options;
    tn_text_data *d = &t->text;
    TN_TRY(tn_order_init(&d->order, &d->train, o->batch_size, o->shuffle, o->seed));
    tn_trainer_set_steps(t, tn_order_per_epoch(&d->order));
    int64_t count = t->steps * o->accumulate;
    tn_batch_size bounds = tn_order_bounds(&d->order, 0, count);
    d->part_tokens = o->pass_tokens ? o->pass_tokens : INT64_MAX;
    t->largest_pass = largest_part(&d->order, count, d->part_tokens);
    if (d->valid.count) {
        TN_TRY(tn_order_init(&d->valid_order, &d->valid, o->batch_size, false, 0));
        int64_t valid_count = tn_order_per_epoch(&d->valid_order);
        tn_batch_size v = tn_order_bounds(&d->valid_order, 0, valid_count);
        bounds = (tn_batch_size){larger(bounds.sequences, v.sequences), larger(bounds.tokens, v.tokens),
                                 larger(bounds.labelled, v.labelled)};
        t->largest_pass = larger(t->largest_pass, largest_part(&d->valid_order, valid_count, d->part_tokens));
    }
    TN_TRY(tn_batch_builder_init(&d->builder, bounds));
    d->spans = tn_calloc((size_t)bounds.sequences + 1, sizeof *d->spans);
    d->losses = tn_calloc((size_t)bounds.labelled + 1, sizeof *d->losses);
    return d->spans && d->losses ? TN_OK : tn_fail_memory("the batches");
}

static tn_status load(tn_trainer *t) {
    tn_text_data *d = &t->text;
    TN_TRY(read_data(t));
    TN_TRY(prepare_batches(t));
    t->has_valid = d->valid.count > 0;
    t->data_hash = d->train.hash ^ (t->has_valid ? d->valid.hash * 3 : 0);
    return tn_decoder_prepare(t->model->decoder, larger(longest_of(&d->train), longest_of(&d->valid)));
}

static void free_data(tn_trainer *t) {
    tn_text_data *d = &t->text;
    tn_batch_builder_free(&d->builder);
    tn_order_free(&d->valid_order);
    tn_order_free(&d->order);
    tn_dataset_free(&d->valid);
    tn_dataset_free(&d->train);
    tn_free(d->losses);
    tn_free(d->spans);
}

static int64_t terms(tn_trainer *t, int64_t index) {
    return tn_order_size(&t->text.order, index).labelled;
}

/* Which sample of a batch holds the label whose loss is not finite. */
static tn_status fail_nonfinite(const tn_trainer *t, const tn_batch *batch, int64_t label, int64_t step) {
    int64_t sequence = 0;
    while (batch->starts[sequence + 1] <= batch->label_rows[label])
        sequence++;
    return tn_fail(TN_ERROR_NUMERIC,
                   "the loss is not finite at step %lld, first in the sample of line %d of the training data; the last "
                   "checkpoint is kept; try a lower learning rate",
                   (long long)step, t->text.train.lines[batch->samples[sequence]]);
}

/* One part of a micro-batch: its losses are summed in order, its gradients added to the store. */
static tn_status run_part(tn_trainer *t, const tn_batch *batch, uint64_t dropout_seed, int64_t step, float grad_scale,
                          double *loss_sum) {
    tn_text_data *d = &t->text;
    tn_pass pass;
    double start = tn_seconds();
    tn_pass_from_batch(batch, d->spans, &pass);
    tn_trainer_count_time(t, TN_PHASE_DATA, "batches", start);
    tn_tape_reset(&t->tape);
    t->tape.recording = true;
    t->tape.profile = t->options->profile;
    tn_forward forward = {.tape = &t->tape, .training = true, .dropout_seed = dropout_seed};
    tn_pass_loss(t->model, &forward, &pass, t->checkpointing, grad_scale, d->losses, NULL);
    TN_TRY(tn_tape_status(&t->tape));
    for (int64_t i = 0; i < batch->labelled; i++) {
        if (!isfinite(d->losses[i]))
            return fail_nonfinite(t, batch, i, step);
        *loss_sum += d->losses[i];
    }
    return TN_OK;
}

static tn_status run(tn_trainer *t, int64_t index, int64_t step, float grad_scale, double *loss_sum, tn_train_step *out) {
    tn_text_data *d = &t->text;
    const tn_batch *batch;
    tn_batch_part part = {0};
    TN_TRY(tn_batch_at(&d->builder, &d->order, index, &batch));
    while (tn_batch_next_part(&d->builder, d->part_tokens, &part))
        TN_TRY(run_part(t, &part.batch, tn_trainer_dropout_seed(t, index, part.number), step, grad_scale, loss_sum));
    out->tokens += batch->tokens;
    out->labelled += batch->labelled;
    return TN_OK;
}

static tn_status validate_batch(tn_trainer *t, int64_t index, double *sum, int64_t *labelled) {
    tn_text_data *d = &t->text;
    const tn_batch *batch;
    tn_batch_part part = {0};
    TN_TRY(tn_batch_at(&d->builder, &d->valid_order, index, &batch));
    while (tn_batch_next_part(&d->builder, d->part_tokens, &part)) {
        tn_pass pass;
        tn_pass_from_batch(&part.batch, d->spans, &pass);
        tn_tape_reset(&t->tape);
        t->tape.recording = false;
        t->tape.profile = NULL; /* as a whole it is one row */
        tn_forward forward = {.tape = &t->tape};
        tn_pass_loss(t->model, &forward, &pass, TN_CHECKPOINTING_OFF, 0, d->losses, NULL);
        TN_TRY(tn_tape_status(&t->tape));
        for (int64_t j = 0; j < part.batch.labelled; j++)
            *sum += d->losses[j];
    }
    *labelled += batch->labelled;
    return TN_OK;
}

static tn_status validate(tn_trainer *t, tn_validation *out) {
    double sum = 0;
    int64_t labelled = 0, batches = tn_order_per_epoch(&t->text.valid_order);
    for (int64_t i = 0; i < batches; i++)
        TN_TRY(validate_batch(t, i, &sum, &labelled));
    out->loss = sum / (double)labelled;
    return TN_OK;
}

/* Heap of the largest part of a micro-batch, FLOPs of all. */
static tn_status rehearse(tn_trainer *t, tn_order *order, int64_t index, bool recording, tn_checkpointing checkpointing,
                          tn_pass_cost *cost) {
    const tn_batch *batch;
    tn_batch_part part = {0};
    *cost = (tn_pass_cost){0};
    TN_TRY(tn_batch_at(&t->text.builder, order, index, &batch));
    while (tn_batch_next_part(&t->text.builder, t->text.part_tokens, &part)) {
        tn_pass_cost one;
        TN_TRY(tn_pass_rehearse(t->model, part.batch.starts, part.batch.sequences, part.batch.labelled, recording,
                                checkpointing, &one));
        cost->heap_bytes = larger(one.heap_bytes, cost->heap_bytes);
        cost->flops += one.flops;
    }
    return TN_OK;
}

/* Micro-batches such that no other one has both as many tokens and as many labels in a part. */
enum { MOST_CANDIDATES = 64 };
typedef struct {
    int64_t tokens, labelled, index;
} candidate;

/* Adds it unless another covers it; takes out those that it covers. Of too many the last gives way. */
static size_t add_candidate(candidate *list, size_t count, candidate new) {
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (list[i].tokens >= new.tokens && list[i].labelled >= new.labelled)
            return count;
    for (size_t i = 0; i < count; i++)
        if (list[i].tokens > new.tokens || list[i].labelled > new.labelled)
            list[kept++] = list[i];
    kept -= kept == MOST_CANDIDATES;
    list[kept++] = new;
    return kept;
}

/* Bytes of the largest training pass, whose size rises with its tokens and with its labels. */
static tn_status training_heap(tn_trainer *t, tn_checkpointing checkpointing, int64_t *bytes) {
    tn_order *order = &t->text.order;
    int64_t count = t->steps * t->options->accumulate;
    int64_t distinct = count < 4 * t->per_epoch ? count : 4 * t->per_epoch;
    candidate list[MOST_CANDIDATES];
    size_t candidates = 0;
    for (int64_t i = -1; i < distinct; i++) {
        int64_t index = i < 0 ? tn_order_largest(order, 0, count, t->text.part_tokens) : i;
        tn_batch_size size = tn_order_part_size(order, index, t->text.part_tokens);
        candidates = add_candidate(list, candidates, (candidate){size.tokens, size.labelled, index});
    }
    *bytes = 0;
    for (size_t i = 0; i < candidates; i++) {
        tn_pass_cost cost;
        TN_TRY(rehearse(t, order, list[i].index, true, checkpointing, &cost));
        *bytes = larger(cost.heap_bytes, *bytes);
    }
    return TN_OK;
}

static tn_status validation_heap(tn_trainer *t, int64_t *bytes) {
    tn_order *order = &t->text.valid_order;
    tn_pass_cost cost = {0};
    *bytes = 0;
    if (!t->has_valid)
        return TN_OK;
    int64_t largest = tn_order_largest(order, 0, tn_order_per_epoch(order), t->text.part_tokens);
    TN_TRY(rehearse(t, order, largest, false, TN_CHECKPOINTING_OFF, &cost));
    *bytes = cost.heap_bytes;
    return TN_OK;
}

static tn_status flops(tn_trainer *t, int64_t index, double *out) {
    tn_pass_cost cost;
    TN_TRY(rehearse(t, &t->text.order, index, true, t->checkpointing, &cost));
    *out = cost.flops;
    return TN_OK;
}

static tn_status describe(tn_trainer *t, tn_train_plan *plan) {
    const tn_dataset *train = &t->text.train, *valid = &t->text.valid;
    tn_dataset_stats lengths;
    TN_TRY(tn_dataset_measure(train, &lengths));
    plan->train_samples = train->count;
    plan->valid_samples = valid->count;
    plan->train_tokens = train->token_count;
    plan->labelled_tokens = lengths.labelled;
    plan->shortest = lengths.shortest;
    plan->median = lengths.median;
    plan->p95 = lengths.percentile95;
    plan->longest = lengths.longest;
    plan->cut = train->cut + valid->cut;
    plan->dropped = train->dropped + valid->dropped;
    plan->unlabelled = train->unlabelled + valid->unlabelled;
    plan->first_unlabelled_line = train->first_unlabelled_line;
    plan->data_bytes = (train->token_count + valid->token_count) * 2 * (int64_t)sizeof(int32_t);
    plan->largest_batch_tokens = t->text.builder.bounds.tokens;
    plan->largest_pass_tokens = t->largest_pass;
    return tn_dataset_show(train, 0, t->model->tokenizer, false, &t->sample);
}

const tn_source tn_text_source = {
    .load = load,
    .free = free_data,
    .terms = terms,
    .run = run,
    .validate = validate,
    .training_heap = training_heap,
    .validation_heap = validation_heap,
    .flops = flops,
    .describe = describe,
};
