/* For every method on every kind of layer that it fits: gradients of all that is trained are central differences, in exactly
 * the memory that was rehearsed, and the number of threads changes no bit. */
#include "peft/properties.h"

enum { MOST_TOKENS = 48, ROWS = 6 };

/* The sum of losses of a training pass over `tokens` tokens or ROWS rows; gradients are made anew. */
static double loss_of(tn_model *model, int tokens) {
    int32_t ids[MOST_TOKENS], positions[MOST_TOKENS], rows[MOST_TOKENS], labels[ROWS] = {0, 2, 1, 1, 0, 2};
    float losses[MOST_TOKENS];
    const tn_params *params = &model->adapter->params;
    int64_t inputs = model->sequential ? model->sequential->config.inputs : 1, starts[3] = {0, tokens / 3, tokens};
    int64_t count = model->sequential ? ROWS : tokens - 1;
    tn_span spans[2] = {{0, tokens / 3, 0, tokens / 3}, {tokens / 3, tokens - tokens / 3, tokens / 3, tokens - tokens / 3}};
    float *x = malloc((size_t)(ROWS * inputs) * sizeof *x);
    tn_pass_cost cost;
    tn_tape tape;
    double sum = 0;
    assert_non_null(x);
    memset(params->grads, 0, (size_t)params->total * sizeof *params->grads);
    tn_fill_normal(x, (size_t)(ROWS * inputs), 1, 1, 0, 1);
    for (int32_t i = 0; i < tokens; i++) {
        ids[i] = i * 7 % (int32_t)(model->sequential ? 1 : model->network->vocab_size);
        positions[i] = i < tokens / 3 ? i : i - tokens / 3;
        rows[i] = i;
    }
    const tn_pass words = {.tokens = {.ids = ids, .positions = positions, .count = tokens, .spans = spans, .span_count = 2},
                           .label_rows = rows,
                           .label_ids = ids + 1,
                           .labelled = count};
    const tn_feature_pass features = {.x = x, .count = ROWS, .labels = labels};
    if (model->decoder) {
        assert_ok(tn_decoder_prepare(model->decoder, MOST_TOKENS));
        assert_ok(tn_pass_rehearse(model, starts, 2, count, true, TN_CHECKPOINTING_OFF, &cost));
    } else {
        assert_ok(tn_pass_rehearse_features(model, ROWS, true, &cost));
    }
    assert_ok(tn_tape_init(&tape, model->kernels, cost.heap_bytes));
    tape.recording = true;
    const tn_forward forward = {.tape = &tape, .training = true, .dropout_seed = 5};
    if (model->decoder)
        tn_pass_loss(model, &forward, &words, TN_CHECKPOINTING_OFF, 1, losses, NULL);
    else
        tn_pass_features(model, &forward, &features, 1, losses, NULL);
    assert_ok(tn_tape_status(&tape));
    assert_int_equal(tape.heap.peak, cost.heap_bytes);
    tn_tape_free(&tape);
    free(x);
    for (int64_t i = 0; i < count; i++)
        sum += losses[i];
    return sum;
}

/* --- DoRA's norms, which are constants to the gradient --- */

/* n, the norms of W + s B A over all but the outputs, of one slot. */
static void norms_of(const tn_adapter *adapter, const tn_adapter_slot *s, double *n) {
    tn_lora_slot *slot = (tn_lora_slot *)s->slot;
    const tn_weight *base = tn_module_weight(s->module);
    int64_t out = tn_tensor_count(&slot->magnitude.tensor), count = tn_tensor_count(&base->tensor);
    float *w = malloc((size_t)count * sizeof *w);
    bool by_columns = slot->embedding || base->transposed, has_bias;
    assert_non_null(w);
    slot->has_magnitude = false;
    assert_ok(tn_adapter_merged_weight(adapter, s->module, w, NULL, &has_bias));
    slot->has_magnitude = true;
    memset(n, 0, (size_t)out * sizeof *n);
    for (int64_t i = 0; i < count; i++)
        n[by_columns ? i % out : i / (count / out)] += (double)w[i] * w[i];
    for (int64_t o = 0; o < out; o++)
        n[o] = sqrt(n[o]);
    free(w);
}

/* The norms and magnitudes of all slots, one after another; NULL without DoRA. */
typedef struct {
    double *norms;
    float *magnitudes;
} frozen;

static frozen freeze(const tn_adapter *adapter) {
    frozen f = {0};
    int64_t total = 0, at = 0;
    if (!adapter->config.use_dora)
        return f;
    for (int64_t i = 0; i < adapter->slot_count; i++)
        total += tn_tensor_count(&((tn_lora_slot *)adapter->slots[i].slot)->magnitude.tensor);
    f.norms = malloc((size_t)total * sizeof *f.norms);
    f.magnitudes = malloc((size_t)total * sizeof *f.magnitudes);
    assert_true(f.norms && f.magnitudes);
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_tensor *m = &((tn_lora_slot *)adapter->slots[i].slot)->magnitude.tensor;
        norms_of(adapter, &adapter->slots[i], f.norms + at);
        memcpy(f.magnitudes + at, m->data, (size_t)tn_tensor_count(m) * sizeof(float));
        at += tn_tensor_count(m);
    }
    return f;
}

/* Magnitudes that make up for norms that changed since, so that m / n is as it was. */
static void hold(const tn_adapter *adapter, const frozen *f) {
    enum { MOST = 256 };
    double n[MOST];
    int64_t at = 0;
    for (int64_t i = 0; f->norms && i < adapter->slot_count; i++) {
        const tn_tensor *m = &((tn_lora_slot *)adapter->slots[i].slot)->magnitude.tensor;
        int64_t out = tn_tensor_count(m);
        assert_in_range(out, 1, MOST);
        norms_of(adapter, &adapter->slots[i], n);
        for (int64_t o = 0; o < out; o++)
            ((float *)m->data)[o] = (float)(f->magnitudes[at + o] * n[o] / f->norms[at + o]);
        at += out;
    }
}

/* --- central differences --- */

/* The loss where the parameter is `values` + step * `along`. */
static double loss_at(trial *t, const tn_param *param, const float *values, const float *along, double step,
                      const frozen *f) {
    float *at = t->model->adapter->params.values + param->offset;
    for (int64_t i = 0; i < param->count; i++)
        at[i] = (float)(values[i] + step * along[i]);
    if (!strstr(param->name, "magnitude"))
        hold(t->model->adapter, f);
    return loss_of(t->model, 12);
}

static double difference(trial *t, const tn_param *param, const float *values, const float *along, double step,
                         const frozen *f) {
    return loss_at(t, param, values, along, step, f) - loss_at(t, param, values, along, -step, f);
}

/* Along random directions of length 1 the derivative, by differences of the fourth order, is that of the gradient. Returns
 * whether it was large enough to mean something. */
static bool check_tensor(trial *t, const tn_param *param, const float *start, const float *grads, const frozen *f) {
    const double step = 0.005;
    tn_params *params = &t->model->adapter->params;
    const float *grad = grads + param->offset;
    double length = 0, size = sqrt((double)param->count);
    float *along = malloc((size_t)param->count * sizeof *along);
    assert_non_null(along);
    for (int64_t i = 0; i < param->count; i++)
        length += (double)grad[i] * grad[i];
    length = sqrt(length);
    for (uint64_t way = 0; way < 2; way++) {
        double want, got = 0;
        tn_fill_normal(along, (size_t)param->count, way, 9, 0, (float)(1 / size));
        for (int64_t i = 0; i < param->count; i++)
            got += (double)grad[i] * along[i];
        want = (8 * difference(t, param, start + param->offset, along, step, f) -
                difference(t, param, start + param->offset, along, 2 * step, f)) /
               (12 * step);
        memcpy(params->values, start, (size_t)params->total * sizeof *start);
        if (!(fabs(got - want) <= 0.02 * length / size + 1e-3))
            fail_msg("%s: the gradient of %s is %g along a direction, not %g; its length is %g", t->what, param->name, got,
                     want, length);
    }
    free(along);
    return length / size > 0.01;
}

/* Away from the starting values, of which some are such that others have no effect. */
static void move(const tn_params *params) {
    float *by = malloc((size_t)params->total * sizeof *by);
    assert_non_null(by);
    tn_fill_normal(by, (size_t)params->total, 4, 4, 0, 0.2f);
    tn_kernels_cpu()->add(params->values, by, 1, params->total);
    free(by);
}

static void check_gradients(trial *t) {
    if (t->method->method->dropout_key && t->options.rank % 2 == 0)
        t->options.dropout = 0.25;
    trial_add(t);
    tn_params *params = &t->model->adapter->params;
    size_t bytes = (size_t)params->total * sizeof(float);
    move(params);
    float *start = malloc(bytes), *grads = malloc(bytes);
    int64_t clear = 0;
    assert_true(start && grads);
    memcpy(start, params->values, bytes);
    frozen f = freeze(t->model->adapter);
    loss_of(t->model, 12);
    memcpy(grads, params->grads, bytes);
    for (int64_t p = 0; p < params->count; p++)
        clear += check_tensor(t, &params->entries[p], start, grads, &f);
    if (2 * clear < params->count)
        fail_msg("%s: hardly any gradient was large enough to be seen", t->what);
    free(start);
    free(grads);
    free(f.norms);
    free(f.magnitudes);
}

static void gradients_are_central_differences(void **state) {
    (void)state;
    for_all_trials(2, 1, NULL, check_gradients);
}

/* --- threads --- */

static void check_threads(trial *t) {
    trial_add(t);
    randomise_adapter(t->model->adapter, 4, 0.1f);
    const tn_params *params = &t->model->adapter->params;
    float *logits[2], *grads[2];
    double losses[2];
    int64_t count;
    for (int i = 0; i < 2; i++) {
        tn_set_threads(1 + i);
        logits[i] = probe(t->model, &count);
        losses[i] = loss_of(t->model, MOST_TOKENS);
        grads[i] = malloc((size_t)params->total * sizeof(float));
        assert_non_null(grads[i]);
        memcpy(grads[i], params->grads, (size_t)params->total * sizeof(float));
    }
    tn_set_threads(0);
    if (losses[0] != losses[1] || memcmp(logits[0], logits[1], (size_t)count * sizeof(float)) != 0 ||
        memcmp(grads[0], grads[1], (size_t)params->total * sizeof(float)) != 0)
        fail_msg("%s: other results with two threads", t->what);
    for (int i = 0; i < 2; i++) {
        tn_free(logits[i]);
        free(grads[i]);
    }
}

static void threads_change_no_bit(void **state) {
    (void)state;
    for_all_trials(1, 6, NULL, check_threads);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_central_differences),
        cmocka_unit_test(threads_change_no_bit),
    };
    return cmocka_run_group_tests_name("property_gradients", tests, NULL, remove_temporary);
}
