/* y[t] = x[t] * d;  dx[t] += dy[t] * d,  dd += sum_t dy[t] * x[t], by elements.  x, y [T, C * S], d [C] for the S columns of
 * each channel; dd sums over these too. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    const tn_weight *factors;
} scale_columns_node;

/* The factor of every column: d itself, or spread into `wide`. */
static const float *factors_of_columns(const tn_kernels *k, float *wide, const tn_weight *d, int64_t cols) {
    int64_t channels = tn_tensor_count(&d->tensor);
    if (channels == cols)
        return d->tensor.data;
    k->spread_channels(wide, d->tensor.data, channels, cols / channels);
    return wide;
}

static void add_factor_gradient(const tn_kernels *k, float *wide, const tn_weight *d, const float *dy, const tn_var *x) {
    int64_t channels = tn_tensor_count(&d->tensor);
    k->fill(wide, 0, x->cols);
    k->sum_products(wide, dy, x->data, x->rows, x->cols);
    k->sum_channels(d->grad, wide, channels, x->cols / channels);
}

static void scale_columns_backward(tn_tape *tape, tn_node *base) {
    scale_columns_node *node = (scale_columns_node *)base;
    const tn_weight *d = node->factors;
    tn_var *x = node->x;
    const float *dy = tn_grad_in(base);
    bool accumulate = false;
    float *dx = tn_grad_of(tape, x, &accumulate);
    tn_block wide = tn_scratch_take(tape, x->cols);
    if (d->trainable && tn_tape_live(tape))
        add_factor_gradient(tape->kernels, wide.data, d, dy, x);
    if (dx && tn_tape_live(tape))
        tape->kernels->scale_columns(dx, accumulate, dy, factors_of_columns(tape->kernels, wide.data, d, x->cols), x->rows,
                                     x->cols);
    tn_scratch_give(tape, &wide);
}

tn_var *tn_op_scale_columns(tn_tape *tape, tn_var *x, const tn_weight *factors) {
    tn_op_begin(tape, "scale columns");
    tn_var *y = tn_var_new(tape, x->rows, x->cols, x->needs_grad || factors->trainable);
    tn_block wide = tn_scratch_take(tape, x->cols);
    if (tn_tape_live(tape))
        tape->kernels->scale_columns(y->data, false, x->data, factors_of_columns(tape->kernels, wide.data, factors, x->cols),
                                     x->rows, x->cols);
    tn_scratch_give(tape, &wide);
    scale_columns_node *node = tn_node_new(tape, sizeof *node, scale_columns_backward, y);
    if (node) {
        node->x = factors->trainable ? tn_node_save(&node->node, x) : x;
        node->factors = factors;
    }
    tn_op_end(tape);
    return y;
}
