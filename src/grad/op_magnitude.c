/* y[t] = (m / n) * (x[t] - b) + b by elements, with n a constant;  dx[t] += (m / n) * dy[t],
 * dm += sum_t dy[t] * (x[t] - b) / n,  db += sum_t (1 - m / n) * dy[t].  x, y [T, O * S], m, n, b [O] for the S columns of
 * each channel; dm and db sum over these too. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    const tn_weight *magnitude, *bias;
    const float *norms;
    float *factors; /* m / n */
} magnitude_node;

/* From the sums of dy * x and of dy, both [O]. */
static void add_weight_gradients(const magnitude_node *node, const float *products, const float *sums) {
    const tn_weight *m = node->magnitude, *b = node->bias;
    const float *bias = b ? b->tensor.data : NULL;
    for (int64_t o = 0; o < tn_tensor_count(&m->tensor); o++) {
        if (m->trainable)
            m->grad[o] += (products[o] - (bias ? bias[o] * sums[o] : 0)) / node->norms[o];
        if (b && b->trainable)
            b->grad[o] += (1 - node->factors[o]) * sums[o];
    }
}

static void weight_backward(tn_tape *tape, const magnitude_node *node, const float *dy) {
    const tn_kernels *k = tape->kernels;
    int64_t rows = node->x->rows, cols = node->x->cols, channels = tn_tensor_count(&node->magnitude->tensor);
    tn_block wide = tn_scratch_take(tape, 2 * cols), sums = tn_scratch_take(tape, 2 * channels);
    if (tn_tape_live(tape)) {
        k->fill(wide.data, 0, 2 * cols);
        k->fill(sums.data, 0, 2 * channels);
        if (node->magnitude->trainable)
            k->sum_products(wide.data, dy, node->x->data, rows, cols);
        if (node->bias)
            k->sum_rows(wide.data + cols, dy, 1, rows, cols);
        k->sum_channels(sums.data, wide.data, 2 * channels, cols / channels);
        add_weight_gradients(node, sums.data, sums.data + channels);
    }
    tn_scratch_give(tape, &sums);
    tn_scratch_give(tape, &wide);
}

static void magnitude_backward(tn_tape *tape, tn_node *base) {
    magnitude_node *node = (magnitude_node *)base;
    const tn_kernels *k = tape->kernels;
    int64_t rows = base->out->rows, cols = base->out->cols, channels = tn_tensor_count(&node->magnitude->tensor);
    const float *dy = tn_grad_in(base);
    bool accumulate;
    if (node->magnitude->trainable || (node->bias && node->bias->trainable))
        weight_backward(tape, node, dy);
    if (!node->x->needs_grad)
        return;
    float *dx = tn_grad_of(tape, node->x, &accumulate);
    tn_block wide = tn_scratch_take(tape, cols);
    if (tn_tape_live(tape)) {
        k->spread_channels(wide.data, node->factors, channels, cols / channels);
        k->scale_columns(dx, accumulate, dy, wide.data, rows, cols);
    }
    tn_scratch_give(tape, &wide);
}

/* y = f * x + (1 - f) * b. */
static void apply(const tn_kernels *k, tn_var *y, const tn_var *x, const tn_weight *bias, const float *factors, float *wide,
                  float *rest, int64_t channels) {
    int64_t span = x->cols / channels;
    k->spread_channels(wide, factors, channels, span);
    k->scale_columns(y->data, false, x->data, wide, x->rows, x->cols);
    if (!bias)
        return;
    for (int64_t o = 0; o < channels; o++)
        rest[o] = (1 - factors[o]) * ((const float *)bias->tensor.data)[o];
    k->spread_channels(wide, rest, channels, span);
    k->add_bias(y->data, wide, 1, x->rows, x->cols);
}

tn_var *tn_op_magnitude(tn_tape *tape, tn_var *x, const tn_weight *magnitude, const float *norms, const tn_weight *bias) {
    int64_t cols = x->cols, channels = tn_tensor_count(&magnitude->tensor);
    tn_op_begin(tape, "magnitude");
    tn_var *y = tn_var_new(tape, x->rows, cols, x->needs_grad || magnitude->trainable || (bias && bias->trainable));
    float *factors = tn_tape_store(tape, (size_t)channels * sizeof *factors);
    tn_block wide = tn_scratch_take(tape, cols), rest = tn_scratch_take(tape, channels);
    if (factors && tn_tape_live(tape)) {
        for (int64_t o = 0; o < channels; o++)
            factors[o] = ((const float *)magnitude->tensor.data)[o] / norms[o];
        apply(tape->kernels, y, x, bias, factors, wide.data, rest.data, channels);
    }
    tn_scratch_give(tape, &rest);
    tn_scratch_give(tape, &wide);
    magnitude_node *node = tn_node_new(tape, sizeof *node, magnitude_backward, y);
    if (node) {
        node->x = magnitude->trainable ? tn_node_save(&node->node, x) : x;
        node->magnitude = magnitude;
        node->bias = bias;
        node->norms = norms;
        node->factors = factors;
    }
    tn_op_end(tape);
    return y;
}
