/* A weight of the model: a frozen tensor of any float type or a quantised one in a mapping, or a trained f32 tensor in the
 * parameter store. */
#ifndef TN_GRAD_WEIGHT_H
#define TN_GRAD_WEIGHT_H

#include "kernel/kernel.h"

typedef struct tn_weight {
    tn_tensor tensor; /* as stored */
    bool trainable;
    float *grad;     /* of the tensor's shape, added to; NULL unless trainable */
    bool transposed; /* W [O, C] is stored as W^T [C, O], as GPT-2's Conv1D has it */
} tn_weight;

/* Sizes of W [O, C], whichever way it is stored; of an embedding [V, C], V and C; of a convolution's [O, C, kh, kw], O and
 * the product of the others. */
static inline int64_t tn_weight_out(const tn_weight *w) {
    return w->tensor.shape[w->transposed];
}
static inline int64_t tn_weight_in(const tn_weight *w) {
    return w->transposed ? w->tensor.shape[0] : tn_tensor_count(&w->tensor) / w->tensor.shape[0];
}

/* W [O, C] and W^T [C, O] as operands. */
static inline tn_operand tn_weight_rows(const tn_weight *w) {
    return w->transposed ? tn_transpose_of(w->tensor.data, w->tensor.dtype, w->tensor.shape[1])
                         : tn_rows_of(w->tensor.data, w->tensor.dtype, tn_weight_in(w));
}
static inline tn_operand tn_weight_transpose(const tn_weight *w) {
    return w->transposed ? tn_rows_of(w->tensor.data, w->tensor.dtype, w->tensor.shape[1])
                         : tn_transpose_of(w->tensor.data, w->tensor.dtype, tn_weight_in(w));
}

/* W, widened to f32, into out [O, C]. */
void tn_weight_read(const tn_weight *w, float *out);

/* The reverse: f32 values [O, C] into out in the order of the weight's tensor. */
void tn_weight_lay_out(const tn_weight *w, const float *values, float *out);

#endif
