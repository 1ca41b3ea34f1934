/* Passes of sequential models: rows of numbers in, a loss per row or logits out. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "session/session.h"

/* The rows as a value of the tape, which layers may change in place. */
static tn_var *put_rows(const tn_model *model, tn_tape *tape, const float *x, int64_t count) {
    int64_t inputs = model->sequential->config.inputs;
    tn_var *rows = tn_var_new(tape, count, inputs, false);
    if (tn_tape_live(tape))
        memcpy(rows->data, x, (size_t)(count * inputs) * sizeof *x);
    return rows;
}

static tn_var *forward_rows(const tn_model *model, const tn_forward *forward, const float *x, int64_t count) {
    tn_var *rows = put_rows(model, forward->tape, x, count);
    tn_var *logits = tn_sequential_forward(model->sequential, forward, rows);
    tn_drop(forward->tape, rows);
    return logits;
}

void tn_pass_features(tn_model *model, const tn_forward *forward, const tn_feature_pass *pass, float grad_scale,
                      float *losses, int32_t *predicted) {
    tn_tape *tape = forward->tape;
    tn_var *logits = forward_rows(model, forward, pass->x, pass->count);
    if (model->sequential->config.regression)
        tn_op_squared_error(tape, logits, pass->targets, grad_scale, losses);
    else
        tn_op_class_loss(tape, logits, pass->labels, grad_scale, losses, predicted);
    tn_drop(tape, logits);
    if (tape->recording)
        tn_tape_backward(tape);
}

tn_status tn_pass_rehearse_features(tn_model *model, int64_t count, bool recording, tn_pass_cost *out) {
    tn_tape tape;
    tn_status status = tn_tape_init(&tape, model->kernels, 0);
    if (status == TN_OK) {
        const tn_feature_pass pass = {.count = count};
        tn_forward forward = {.tape = &tape, .training = recording};
        tape.recording = recording;
        tn_pass_features(model, &forward, &pass, 1, NULL, NULL);
        status = tn_tape_status(&tape);
        *out = (tn_pass_cost){.heap_bytes = tape.heap.peak, .flops = tape.flops};
    }
    tn_tape_free(&tape);
    return status;
}

tn_status tn_pass_feature_logits(tn_model *model, tn_tape *tape, const float *x, int64_t count, float *logits) {
    tn_forward forward = {.tape = tape};
    tape->recording = false;
    tn_var *value = forward_rows(model, &forward, x, count);
    if (tn_tape_live(tape))
        memcpy(logits, value->data, (size_t)(count * value->cols) * sizeof *logits);
    tn_drop(tape, value);
    return tn_tape_status(tape);
}

/* Rows of x ~ N(0, 1), the same for every model of this many inputs. */
enum { PROBE_ROWS = 8 };
static const uint64_t PROBE_SEED = 20230107;

tn_status tn_session_probe_features(tn_model *model, float **logits, int64_t *floats) {
    const tn_sequential_config *c = &model->sequential->config;
    tn_pass_cost cost;
    tn_tape tape = {0};
    tn_status status;
    *logits = NULL;
    *floats = PROBE_ROWS * c->outputs;
    float *x = tn_malloc((size_t)(PROBE_ROWS * c->inputs) * sizeof *x);
    float *kept = tn_malloc((size_t)*floats * sizeof *kept);
    if (!x || !kept) {
        status = tn_fail_memory("the probe");
        goto fail;
    }
    tn_fill_normal(x, (size_t)(PROBE_ROWS * c->inputs), PROBE_SEED, tn_stream(TN_STREAM_DATA, 0), 0, 1);
    TN_TRY_GOTO(tn_pass_rehearse_features(model, PROBE_ROWS, false, &cost));
    TN_TRY_GOTO(tn_tape_init(&tape, model->kernels, cost.heap_bytes));
    status = tn_pass_feature_logits(model, &tape, x, PROBE_ROWS, kept);
fail:
    tn_tape_free(&tape);
    tn_free(x);
    if (status != TN_OK) {
        tn_free(kept);
        return status;
    }
    *logits = kept;
    return TN_OK;
}
