/* Rows of the update are columns of what it adds to the output, so that dropping them needs no weight. */
#include "peft/lycoris.h"

#include <math.h>

#include "base/rng.h"

void tn_lycoris_start(tn_lycoris_slot *slot, const tn_adapter *adapter, const tn_module *module, int64_t rank, double alpha,
                      bool rescale) {
    const tn_lycoris_settings *settings = adapter->config.settings;
    const tn_tensor *weight = &tn_module_weight(module)->tensor;
    slot->out = weight->shape[0];
    slot->in = weight->shape[1];
    slot->scale = (float)(alpha / (double)rank);
    slot->rank_dropout = (float)settings->rank_dropout;
    slot->module_dropout = (float)settings->module_dropout;
    slot->rescale = rescale;
}

tn_weight tn_lycoris_matrix(int64_t rows, int64_t cols) {
    return (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {rows, cols}}};
}

void tn_lycoris_fill(const tn_lycoris_slot *slot, tn_weight *weight, uint64_t seed, uint32_t which) {
    int64_t count = tn_tensor_count(&weight->tensor);
    float bound = 1.0f / sqrtf((float)(count / weight->tensor.shape[0]));
    tn_fill_uniform(weight->tensor.data, (size_t)count, seed, tn_stream(TN_STREAM_INIT, slot->slot.id * 8 + which), -bound,
                    bound);
}

static bool drops_rows(const tn_forward *forward, const tn_lycoris_slot *slot) {
    return forward->training && slot->rank_dropout > 0;
}

/* A dropped module still computes, times 0: a step asks for the memory that its rehearsal did, whatever is dropped. */
static bool drops_module(const tn_forward *forward, const tn_lycoris_slot *slot) {
    uint32_t which = slot->slot.id | UINT32_C(1) << 31; /* a stream apart from that of the rows */
    tn_rng rng = tn_rng_start(forward->dropout_seed, tn_stream(TN_STREAM_DROPOUT, which));
    return forward->training && tn_rng_uniform(&rng) < slot->module_dropout;
}

tn_var *tn_lycoris_open(const tn_forward *forward, const tn_lycoris_slot *slot, tn_var *y, float *scale) {
    tn_tape *tape = forward->tape;
    *scale = drops_module(forward, slot) ? 0 : slot->scale;
    if (!drops_rows(forward, slot))
        return y;
    tn_var *update = tn_var_new(tape, y->rows, y->cols, false);
    if (tn_tape_live(tape))
        tape->kernels->fill(update->data, 0, y->rows * y->cols);
    return update;
}

void tn_lycoris_close(const tn_forward *forward, const tn_lycoris_slot *slot, tn_var *y, tn_var *update) {
    if (update == y)
        return;
    tn_op_drop_columns(forward->tape, update, slot->out, slot->rank_dropout, slot->rescale, forward->dropout_seed,
                       tn_stream(TN_STREAM_DROPOUT, slot->slot.id));
    tn_op_add(forward->tape, y, update, 1);
    tn_drop(forward->tape, update);
}
