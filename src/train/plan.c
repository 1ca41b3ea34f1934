/* What a run needs, from rehearsals of its own passes: the same code counts that will run. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "train/trainer.h"

/* Micro-batches whose FLOPs are averaged. */
enum { SAMPLED_BATCHES = 8 };

/* A share of the machine's free memory beyond which activations are recomputed rather than kept. */
static const double MEMORY_SHARE = 0.6;

tn_status tn_checkpointing_choose(const char *wish, int64_t heap, tn_checkpointing *out) {
    bool keep_8bit = strcmp(wish, "8bit") == 0;
    *out = keep_8bit ? TN_CHECKPOINTING_8BIT : TN_CHECKPOINTING_OFF;
    if (keep_8bit || strcmp(wish, "off") == 0)
        return TN_OK;
    if (strcmp(wish, "on") != 0 && strcmp(wish, "auto") != 0)
        return tn_fail(TN_ERROR_ARGUMENT, "checkpointing '%s' is not one of auto, off, 8bit, on", wish);
    uint64_t available = tn_memory_available();
    if (strcmp(wish, "on") == 0 || (available && (double)heap >= MEMORY_SHARE * (double)available))
        *out = TN_CHECKPOINTING_ON;
    return TN_OK;
}

const char *tn_checkpointing_name(tn_checkpointing checkpointing) {
    static const char *const names[] = {
        [TN_CHECKPOINTING_OFF] = "off", [TN_CHECKPOINTING_8BIT] = "8bit", [TN_CHECKPOINTING_ON] = "on"};
    return names[checkpointing];
}

static tn_status decide_checkpointing(tn_trainer *t, int64_t *heap) {
    TN_TRY(t->source->training_heap(t, TN_CHECKPOINTING_OFF, heap));
    TN_TRY(tn_checkpointing_choose(t->options->checkpointing, *heap, &t->checkpointing));
    return t->checkpointing == TN_CHECKPOINTING_OFF ? TN_OK : t->source->training_heap(t, t->checkpointing, heap);
}

/* The largest weight with sides that products know. */
static const tn_weight *largest_weight(const tn_network *network) {
    const tn_weight *largest = NULL;
    for (int64_t i = 0; i < network->module_count; i++) {
        const tn_weight *w = &network->modules[i].weight;
        bool is_linear = network->modules[i].kind == TN_MODULE_LINEAR && w->tensor.data && !network->modules[i].is_head;
        if (is_linear && (!largest || tn_tensor_count(&w->tensor) > tn_tensor_count(&largest->tensor)))
            largest = w;
    }
    return largest;
}

/* Seconds per FLOP of the model's own largest product at the batch's size; 0 when it has none. */
static double calibrate(const tn_trainer *t) {
    const tn_weight *w = largest_weight(t->model->network);
    if (!w)
        return 0;
    int64_t rows = t->largest_pass < 512 ? t->largest_pass : 512, in = tn_weight_in(w), out = tn_weight_out(w);
    float *x = tn_pages_alloc((size_t)(rows * in) * sizeof *x), *y = tn_pages_alloc((size_t)(rows * out) * sizeof *y);
    double best = 0;
    if (x && y) {
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
    enum { HUGE_PAGE = 2 << 20 };
    return bytes < TN_HUGE_REGION ? bytes : (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
}

/* What a thread packs of a product of so many rows and such a depth, as the kernels bound it. */
static double packed_bytes(double rows, double depth) {
    enum { MOST_ROWS = 1280, STRIP = 128, MOST_DEPTH = 576 };
    return (fmin(rows, MOST_ROWS) + STRIP) * fmin(depth, MOST_DEPTH) * sizeof(float);
}

/* What products will pack into once they run: a forward one, one for inputs' and one for weights' gradients of each layer.
 */
static int64_t product_scratch(const tn_trainer *t) {
    double rows = (double)t->largest_pass, bytes = 0;
    for (int64_t i = 0; i < t->model->network->module_count; i++) {
        const tn_weight *w = tn_module_weight(&t->model->network->modules[i]);
        if (w->tensor.ndim < 2)
            continue;
        double out = (double)w->tensor.shape[0], in = (double)tn_tensor_count(&w->tensor) / out;
        bytes = fmax(bytes, fmax(packed_bytes(rows, in), fmax(packed_bytes(rows, out), packed_bytes(out, rows))));
    }
    return (int64_t)bytes * tn_threads();
}

static tn_status mean_flops(tn_trainer *t, double *flops) {
    int64_t count = t->steps * t->options->accumulate;
    int64_t sampled = count < SAMPLED_BATCHES ? count : SAMPLED_BATCHES;
    double sum = 0;
    for (int64_t i = 0; i < sampled; i++) {
        double one;
        TN_TRY(t->source->flops(t, i, &one));
        sum += one;
    }
    *flops = sum / (double)sampled * (double)t->options->accumulate;
    return TN_OK;
}

tn_status tn_trainer_plan(tn_trainer *t, bool with_calibration, tn_train_plan *plan) {
    const tn_adapter *adapter = t->model->adapter;
    int64_t training, validation;
    *plan = (tn_train_plan){0};
    tn_buf_clear(&t->sample);
    TN_TRY(t->source->describe(t, plan));
    TN_TRY(decide_checkpointing(t, &training));
    TN_TRY(t->source->validation_heap(t, &validation));
    t->heap_bytes = training > validation ? training : validation;
    for (int64_t i = 0; i < adapter->params.count; i++)
        plan->trainable += adapter->params.entries[i].is_buffer ? 0 : adapter->params.entries[i].count;
    int64_t store = adapter->params.total * (int64_t)sizeof(float);
    plan->parameters = tn_network_parameters(t->model->network);
    plan->steps = t->steps;
    plan->steps_per_epoch = (t->per_epoch + t->options->accumulate - 1) / t->options->accumulate;
    plan->checkpointing = tn_checkpointing_name(t->checkpointing);
    plan->base_bytes = tn_network_bytes(t->model->network);
    plan->adapter_bytes = store;
    plan->gradient_bytes = store;
    plan->optimizer_bytes = tn_optimizer_bytes(&adapter->params, t->optimizer_kind);
    plan->activation_bytes = t->heap_bytes;
    TN_TRY(mean_flops(t, &plan->flops_per_step));
    /* adapter, data and program are resident now; of the base what was not let go since it was checked */
    int64_t resident = (int64_t)tn_memory_resident(), peak = (int64_t)tn_memory_peak();
    int64_t absent = tn_network_absent_bytes(t->model->network);
    int64_t known = plan->base_bytes - absent + plan->adapter_bytes + plan->data_bytes;
    plan->runtime_bytes = (resident > known ? resident - known : 0) + product_scratch(t);
    int64_t coming = absent + resident_bytes(store) + resident_bytes(plan->optimizer_bytes) +
                     resident_bytes(plan->activation_bytes) + product_scratch(t);
    plan->peak_bytes = resident + coming > peak ? resident + coming : peak;
    if (with_calibration)
        plan->seconds_per_step = plan->flops_per_step * calibrate(t);
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
