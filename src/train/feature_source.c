/* Training on features of plain networks: micro-batches of rows, each row a term of the loss. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "train/trainer.h"

/* A set that the caller holds in memory, as a copy: training may outlive no part of it, but orders and hashes it. */
static tn_status copy_set(const tn_model *model, const tn_feature_set *set, const char *where, tn_features *out) {
    const tn_sequential_config *c = &model->sequential->config;
    size_t count = (size_t)set->count, targets = count * (size_t)set->outputs;
    *out = (tn_features){0};
    if (set->count < 1 || !set->x || (!set->labels == !set->targets))
        return tn_fail(TN_ERROR_ARGUMENT, "%s needs rows, and either labels or targets", where);
    out->count = set->count;
    out->width = set->inputs;
    out->ndim = 1;
    out->shape[0] = set->inputs;
    out->x = tn_malloc(count * (size_t)set->inputs * sizeof *out->x);
    out->labels = set->labels ? tn_malloc(count * sizeof *out->labels) : NULL;
    out->targets = set->targets ? tn_malloc(targets * sizeof *out->targets) : NULL;
    if (!out->x || (set->labels && !out->labels) || (set->targets && !out->targets))
        return tn_fail_memory("the samples");
    memcpy(out->x, set->x, count * (size_t)set->inputs * sizeof *out->x);
    if (set->labels)
        memcpy(out->labels, set->labels, count * sizeof *out->labels);
    else
        memcpy(out->targets, set->targets, targets * sizeof *out->targets);
    out->classes = set->labels ? c->outputs : 0;
    out->outputs = set->labels ? 0 : set->outputs;
    tn_features_rehash(out);
    return tn_session_check_features(model, out, where);
}

static tn_status read_data(tn_trainer *t) {
    const tn_train_options *o = t->options;
    tn_feature_data *d = &t->features;
    if (o->train_set) {
        TN_TRY(copy_set(t->model, o->train_set, "the training set", &d->train));
        if (o->valid_set)
            return copy_set(t->model, o->valid_set, "the validation set", &d->valid);
    } else {
        TN_TRY(tn_session_read_both_features(t->model, o->data, &o->features, &d->train, &d->valid));
    }
    return d->valid.count ? TN_OK : tn_features_split(&d->train, &d->valid, o->valid_fraction, o->seed);
}

static tn_status prepare_batches(tn_trainer *t) {
    const tn_train_options *o = t->options;
    tn_feature_data *d = &t->features;
    const tn_features *train = &d->train;
    int64_t rows = o->batch_size < train->count ? o->batch_size : train->count;
    TN_TRY(tn_epoch_order_init(&d->order, train->count, o->batch_size, o->shuffle, o->seed));
    tn_trainer_set_steps(t, d->order.per_epoch);
    if (t->has_valid) {
        TN_TRY(tn_epoch_order_init(&d->valid_order, d->valid.count, o->batch_size, false, 0));
        if (rows < o->batch_size && rows < d->valid.count)
            rows = o->batch_size < d->valid.count ? o->batch_size : d->valid.count;
    }
    t->largest_pass = rows;
    d->x = tn_malloc((size_t)(rows * train->width) * sizeof *d->x);
    d->targets = tn_malloc((size_t)(rows * (train->outputs + 1)) * sizeof *d->targets);
    d->labels = tn_malloc((size_t)rows * sizeof *d->labels);
    d->predicted = tn_malloc((size_t)rows * sizeof *d->predicted);
    d->losses = tn_malloc((size_t)rows * sizeof *d->losses);
    bool counts = d->valid.labels != NULL;
    size_t classes = (size_t)t->model->sequential->config.outputs;
    d->confusion = counts ? tn_calloc(classes * classes, sizeof *d->confusion) : NULL;
    return d->x && d->targets && d->labels && d->predicted && d->losses && (d->confusion || !counts)
               ? TN_OK
               : tn_fail_memory("the batches");
}

static tn_status load(tn_trainer *t) {
    tn_feature_data *d = &t->features;
    TN_TRY(read_data(t));
    t->has_valid = d->valid.count > 0;
    t->data_hash = d->train.hash ^ (t->has_valid ? d->valid.hash * 3 : 0);
    return prepare_batches(t);
}

static void free_data(tn_trainer *t) {
    tn_feature_data *d = &t->features;
    tn_epoch_order_free(&d->order);
    tn_epoch_order_free(&d->valid_order);
    tn_features_free(&d->train);
    tn_features_free(&d->valid);
    tn_free(d->x);
    tn_free(d->targets);
    tn_free(d->labels);
    tn_free(d->predicted);
    tn_free(d->losses);
    tn_free(d->confusion);
}

static int64_t terms(tn_trainer *t, int64_t index) {
    int64_t first, end;
    tn_epoch_order_places(&t->features.order, index, &first, &end);
    return end - first;
}

static tn_feature_pass next_pass(tn_trainer *t, const tn_features *features, tn_epoch_order *order, int64_t index) {
    tn_feature_data *d = &t->features;
    int64_t rows = tn_features_batch(features, order, index, d->x, d->labels, d->targets);
    return (tn_feature_pass){.x = d->x, .count = rows, .labels = d->labels, .targets = d->targets};
}

static tn_status run(tn_trainer *t, int64_t index, int64_t step, float grad_scale, double *loss_sum, tn_train_step *out) {
    tn_feature_data *d = &t->features;
    double start = tn_seconds();
    const tn_feature_pass pass = next_pass(t, &d->train, &d->order, index);
    tn_trainer_count_time(t, TN_PHASE_DATA, "batches", start);
    tn_tape_reset(&t->tape);
    t->tape.recording = true;
    t->tape.profile = t->options->profile;
    tn_forward forward = {.tape = &t->tape, .training = true, .dropout_seed = tn_trainer_dropout_seed(t, index, 0)};
    tn_pass_features(t->model, &forward, &pass, grad_scale, d->losses, NULL);
    TN_TRY(tn_tape_status(&t->tape));
    for (int64_t i = 0; i < pass.count; i++) {
        if (!isfinite(d->losses[i]))
            return tn_fail(TN_ERROR_NUMERIC,
                           "the loss is not finite at step %lld; the last checkpoint is kept; try a lower learning rate",
                           (long long)step);
        *loss_sum += d->losses[i];
    }
    out->labelled += pass.count;
    out->tokens += pass.count;
    return TN_OK;
}

static tn_status validate(tn_trainer *t, tn_validation *out) {
    tn_feature_data *d = &t->features;
    double sum = 0;
    int64_t correct = 0, classes = t->model->sequential->config.outputs;
    if (d->confusion)
        memset(d->confusion, 0, (size_t)(classes * classes) * sizeof *d->confusion);
    for (int64_t i = 0; i < d->valid_order.per_epoch; i++) {
        const tn_feature_pass pass = next_pass(t, &d->valid, &d->valid_order, i);
        tn_tape_reset(&t->tape);
        t->tape.recording = false;
        t->tape.profile = NULL; /* as a whole it is one row */
        tn_forward forward = {.tape = &t->tape};
        tn_pass_features(t->model, &forward, &pass, 0, d->losses, d->predicted);
        TN_TRY(tn_tape_status(&t->tape));
        for (int64_t j = 0; j < pass.count; j++) {
            sum += d->losses[j];
            if (!d->confusion)
                continue;
            correct += d->predicted[j] == pass.labels[j];
            d->confusion[pass.labels[j] * classes + d->predicted[j]]++;
        }
    }
    out->loss = sum / (double)d->valid.count;
    out->accuracy = d->valid.labels ? (double)correct / (double)d->valid.count : NAN;
    return TN_OK;
}

static tn_status heap(tn_trainer *t, bool recording, int64_t *bytes) {
    tn_pass_cost cost;
    TN_TRY(tn_pass_rehearse_features(t->model, t->largest_pass, recording, &cost));
    *bytes = cost.heap_bytes;
    return TN_OK;
}

/* Activations of plain networks are always kept. The last batch of an epoch shows whether batch norms can do with it. */
static tn_status training_heap(tn_trainer *t, tn_checkpointing checkpointing, int64_t *bytes) {
    int64_t last = terms(t, t->per_epoch - 1);
    tn_pass_cost cost;
    (void)checkpointing;
    TN_TRY(tn_pass_rehearse_features(t->model, last, true, &cost));
    return heap(t, true, bytes);
}

static tn_status validation_heap(tn_trainer *t, int64_t *bytes) {
    *bytes = 0;
    return t->has_valid ? heap(t, false, bytes) : TN_OK;
}

static tn_status flops(tn_trainer *t, int64_t index, double *out) {
    tn_pass_cost cost;
    TN_TRY(tn_pass_rehearse_features(t->model, terms(t, index), true, &cost));
    *out = cost.flops;
    return TN_OK;
}

static tn_status describe(tn_trainer *t, tn_train_plan *plan) {
    const tn_features *train = &t->features.train, *valid = &t->features.valid;
    int64_t row = (train->width + train->outputs) * (int64_t)sizeof(float) + (train->labels ? (int64_t)sizeof(int32_t) : 0);
    plan->train_samples = train->count;
    plan->valid_samples = valid->count;
    plan->inputs = train->width;
    plan->outputs = t->model->sequential->config.outputs;
    plan->data_bytes = (train->count + valid->count) * row;
    return TN_OK;
}

const tn_source tn_feature_source = {
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
