/* What a run needs, from rehearsals of its own passes: the same code counts that will run. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "train/trainer.h"

/* Micro-batches whose FLOPs are averaged. */
enum { SAMPLED_BATCHES = 8 };

/* A share of the machine's free memory beyond which activations are recomputed rather than kept. */
static const double MEMORY_SHARE = 0.6;

/* Heap of the largest part of a micro-batch, FLOPs of all. */
static tn_status rehearse(tn_trainer *t, tn_order *order, int64_t index, bool recording, tn_checkpointing checkpointing,
                          tn_pass_cost *cost) {
    const tn_batch *batch;
    tn_batch_part part = {0};
    *cost = (tn_pass_cost){0};
    TN_TRY(tn_batch_at(&t->builder, order, index, &batch));
    while (tn_batch_next_part(&t->builder, t->part_tokens, &part)) {
        tn_pass_cost one;
        TN_TRY(tn_pass_rehearse(t->model, part.batch.starts, part.batch.sequences, part.batch.labelled, recording,
                                checkpointing, &one));
        cost->heap_bytes = one.heap_bytes > cost->heap_bytes ? one.heap_bytes : cost->heap_bytes;
        cost->flops += one.flops;
    }
    return TN_OK;
}

/* Bytes of the largest training pass; the part with most tokens, or with most labels when that is another. */
static tn_status training_heap(tn_trainer *t, tn_checkpointing checkpointing, int64_t *bytes) {
    int64_t count = t->steps * t->options->accumulate, most_labels = 0;
    int64_t candidates[2] = {tn_order_largest(&t->order, 0, count, t->part_tokens), 0};
    int64_t distinct = count < 4 * tn_order_per_epoch(&t->order) ? count : 4 * tn_order_per_epoch(&t->order);
    for (int64_t i = 0; i < distinct; i++) {
        int64_t labelled = tn_order_part_size(&t->order, i, t->part_tokens).labelled;
        if (labelled > most_labels) {
            most_labels = labelled;
            candidates[1] = i;
        }
    }
    *bytes = 0;
    for (int i = 0; i < 2; i++) {
        tn_pass_cost cost;
        TN_TRY(rehearse(t, &t->order, candidates[i], true, checkpointing, &cost));
        *bytes = cost.heap_bytes > *bytes ? cost.heap_bytes : *bytes;
    }
    return TN_OK;
}

static tn_status validation_heap(tn_trainer *t, int64_t *bytes) {
    tn_pass_cost cost = {0};
    *bytes = 0;
    if (!t->valid.count)
        return TN_OK;
    int64_t largest = tn_order_largest(&t->valid_order, 0, tn_order_per_epoch(&t->valid_order), t->part_tokens);
    TN_TRY(rehearse(t, &t->valid_order, largest, false, TN_CHECKPOINTING_OFF, &cost));
    *bytes = cost.heap_bytes;
    return TN_OK;
}

tn_status tn_checkpointing_choose(const char *wish, int64_t heap, tn_checkpointing *out) {
    *out = TN_CHECKPOINTING_OFF;
    if (strcmp(wish, "off") == 0)
        return TN_OK;
    if (strcmp(wish, "on") != 0 && strcmp(wish, "auto") != 0)
        return tn_fail(TN_ERROR_ARGUMENT, "checkpointing '%s' is not one of auto, on, off", wish);
    uint64_t available = tn_memory_available();
    if (strcmp(wish, "on") == 0 || (available && (double)heap >= MEMORY_SHARE * (double)available))
        *out = TN_CHECKPOINTING_ON;
    return TN_OK;
}

static tn_status decide_checkpointing(tn_trainer *t, int64_t *heap) {
    TN_TRY(training_heap(t, TN_CHECKPOINTING_OFF, heap));
    TN_TRY(tn_checkpointing_choose(t->options->checkpointing, *heap, &t->checkpointing));
    return t->checkpointing == TN_CHECKPOINTING_ON ? training_heap(t, TN_CHECKPOINTING_ON, heap) : TN_OK;
}

/* Seconds per FLOP of the model's own largest product at the batch's size. */
static double calibrate(const tn_trainer *t, int64_t tokens) {
    const tn_weight *w = tn_module_weight(t->model->decoder->layers[0].up);
    int64_t rows = tokens < 512 ? tokens : 512, in = tn_weight_in(w), out = tn_weight_out(w);
    float *x = tn_pages_alloc((size_t)(rows * in) * sizeof *x), *y = tn_pages_alloc((size_t)(rows * out) * sizeof *y);
    double best = 0;
    if (x && y && w->tensor.data) {
        double start = tn_seconds(), last = start;
        for (int runs = 0; runs < 200 && last - start < 0.25; runs++) {
            t->model->kernels->gemm(y, out, tn_rows_of(x, TN_DTYPE_F32, in), tn_weight_transpose(w), 1, 0, rows, out, in);
            double now = tn_seconds(), each = (now - last) / (2.0 * (double)rows * (double)in * (double)out);
            best = runs == 0 || each < best ? each : best;
            last = now;
        }
    }
    tn_pages_free(x, (size_t)(rows * in) * sizeof *x);
    tn_pages_free(y, (size_t)(rows * out) * sizeof *y);
    return best;
}

/* Large regions lie in huge pages, which are resident as a whole once touched. */
static int64_t resident_bytes(int64_t bytes) {
    enum { HUGE_PAGE = 2 << 20, HUGE_REGION = 8 << 20 };
    return bytes < HUGE_REGION ? bytes : (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
}

/* What products will pack into once they run: both operands, whichever way round, up to the bound of the kernels. */
static int64_t product_scratch(const tn_trainer *t) {
    const double most = 8 << 20;
    const tn_decoder_config *c = &t->model->decoder->config;
    double rows = (double)t->largest_part, in = (double)c->hidden_size;
    double out = (double)(c->intermediate_size > c->vocab_size ? c->intermediate_size : c->vocab_size);
    double floats = fmax((rows + out) * in, fmax((rows + in) * out, (in + out) * rows));
    return (int64_t)fmin(floats * sizeof(float), most);
}

static tn_status mean_flops(tn_trainer *t, double *flops) {
    int64_t count = t->steps * t->options->accumulate;
    int64_t sampled = count < SAMPLED_BATCHES ? count : SAMPLED_BATCHES;
    double sum = 0;
    for (int64_t i = 0; i < sampled; i++) {
        tn_pass_cost cost;
        TN_TRY(rehearse(t, &t->order, i, true, t->checkpointing, &cost));
        sum += cost.flops;
    }
    *flops = sum / (double)sampled * (double)t->options->accumulate;
    return TN_OK;
}

static tn_status describe_data(const tn_trainer *t, tn_train_plan *plan) {
    tn_dataset_stats lengths;
    TN_TRY(tn_dataset_measure(&t->train, &lengths));
    plan->train_samples = t->train.count;
    plan->valid_samples = t->valid.count;
    plan->train_tokens = t->train.token_count;
    plan->labelled_tokens = lengths.labelled;
    plan->shortest = lengths.shortest;
    plan->median = lengths.median;
    plan->p95 = lengths.percentile95;
    plan->longest = lengths.longest;
    plan->cut = t->train.cut + t->valid.cut;
    plan->dropped = t->train.dropped + t->valid.dropped;
    plan->unlabelled = t->train.unlabelled + t->valid.unlabelled;
    plan->first_unlabelled_line = t->train.first_unlabelled_line;
    plan->data_bytes = (t->train.token_count + t->valid.token_count) * 2 * (int64_t)sizeof(int32_t);
    return TN_OK;
}

tn_status tn_trainer_plan(tn_trainer *t, bool with_calibration, tn_train_plan *plan) {
    const tn_adapter *adapter = t->model->adapter;
    int64_t training, validation;
    *plan = (tn_train_plan){0};
    TN_TRY(describe_data(t, plan));
    TN_TRY(decide_checkpointing(t, &training));
    TN_TRY(validation_heap(t, &validation));
    t->heap_bytes = training > validation ? training : validation;
    for (int64_t i = 0; i < adapter->params.count; i++)
        plan->trainable += adapter->params.entries[i].count;
    int64_t store = adapter->params.total * (int64_t)sizeof(float);
    plan->parameters = tn_network_parameters(t->model->network);
    plan->steps = t->steps;
    plan->steps_per_epoch = (tn_order_per_epoch(&t->order) + t->options->accumulate - 1) / t->options->accumulate;
    plan->largest_batch_tokens = t->builder.bounds.tokens;
    plan->largest_pass_tokens = t->largest_part;
    plan->checkpointing = t->checkpointing == TN_CHECKPOINTING_ON;
    plan->base_bytes = tn_network_bytes(t->model->network);
    plan->adapter_bytes = store;
    plan->gradient_bytes = store;
    plan->optimizer_bytes = 2 * store;
    plan->activation_bytes = t->heap_bytes;
    TN_TRY(mean_flops(t, &plan->flops_per_step));
    /* the base was read once when it was checked, so it is resident now, as are adapter, data and program */
    int64_t resident = (int64_t)tn_memory_resident(), peak = (int64_t)tn_memory_peak();
    int64_t known = plan->base_bytes + plan->adapter_bytes + plan->data_bytes;
    plan->runtime_bytes = (resident > known ? resident - known : 0) + product_scratch(t);
    int64_t coming = 3 * resident_bytes(store) + resident_bytes(plan->activation_bytes) + product_scratch(t);
    plan->peak_bytes = resident + coming > peak ? resident + coming : peak;
    if (with_calibration)
        plan->seconds_per_step = plan->flops_per_step * calibrate(t, plan->largest_pass_tokens);
    tn_buf_clear(&t->sample);
    TN_TRY(tn_dataset_show(&t->train, 0, t->model->tokenizer, false, &t->sample));
    plan->sample = tn_buf_text(&t->sample);
    return tn_buf_status(&t->sample);
}

tn_status tn_plan(tn_model *model, const tn_train_options *options, tn_train_plan *out) {
    tn_trainer trainer;
    tn_status status = tn_trainer_init(&trainer, model, options, NULL);
    if (status == TN_OK)
        status = tn_trainer_load(&trainer);
    if (status == TN_OK)
        status = tn_trainer_plan(&trainer, true, out);
    out->sample = NULL;
    tn_trainer_free(&trainer);
    return status;
}
