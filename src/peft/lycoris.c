/* Rows of the update are columns of what it adds to the output, so that dropping them needs no weight. */
#include "peft/lycoris.h"

#include <math.h>

#include "base/rng.h"

bool tn_lycoris_has_core(const tn_adapter *adapter, const tn_module *module) {
    const tn_lycoris_settings *settings = adapter->config.settings;
    return module->kind == TN_MODULE_CONV2D && settings->use_effective_conv2d &&
           module->conv.kernel_height * module->conv.kernel_width > 1;
}

void tn_lycoris_start(tn_lycoris_slot *slot, const tn_adapter *adapter, const tn_module *module, int64_t rank, double alpha,
                      bool rescale) {
    const tn_lycoris_settings *settings = adapter->config.settings;
    slot->out = tn_weight_out(tn_module_weight(module));
    slot->in = tn_weight_in(tn_module_weight(module));
    slot->scale = (float)(alpha / (double)rank);
    slot->rank_dropout = (float)settings->rank_dropout;
    slot->module_dropout = (float)settings->module_dropout;
    slot->rescale = rescale;
}

tn_weight tn_lycoris_matrix(int64_t rows, int64_t cols) {
    return (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {rows, cols}}};
}

tn_weight tn_lycoris_kernels(int64_t out, int64_t in, const tn_module *module) {
    return (tn_weight){.tensor = {.dtype = TN_DTYPE_F32,
                                  .ndim = 4,
                                  .shape = {out, in, module->conv.kernel_height, module->conv.kernel_width}}};
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

static void drop_rows(const tn_forward *forward, const tn_lycoris_slot *slot, tn_var *update) {
    tn_op_drop_columns(forward->tape, update, slot->out, slot->rank_dropout, slot->rescale, forward->dropout_seed,
                       tn_stream(TN_STREAM_DROPOUT, slot->slot.id));
}

void tn_lycoris_close(const tn_forward *forward, const tn_lycoris_slot *slot, tn_var *y, tn_var *update) {
    if (update == y)
        return;
    drop_rows(forward, slot, update);
    tn_op_add(forward->tape, y, update, 1);
    tn_drop(forward->tape, update);
}

void tn_lycoris_convolve(const tn_forward *forward, const tn_lycoris_slot *slot, const tn_module *module, tn_var *y,
                         tn_var *x, tn_var *w) {
    tn_var *update = tn_op_conv2d_by(forward->tape, x, &module->conv, w);
    if (drops_rows(forward, slot))
        drop_rows(forward, slot, update);
    tn_op_add(forward->tape, y, update, drops_module(forward, slot) ? 0 : slot->scale);
    tn_drop(forward->tape, update);
}
