/* y[t] = (m / n) * (x[t] - b) + b by elements, with n a constant;  dx[t] += (m / n) * dy[t],
 * dm += sum_t dy[t] * (x[t] - b) / n,  db += sum_t (1 - m / n) * dy[t].  x, y [T, O], m, n, b [O]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    const tn_weight *magnitude, *bias;
    const float *norms;
    float *factors; /* m / n */
} magnitude_node;

/* From sum_t dy * x and sum_t dy, both [O]. */
static void add_weight_gradients(const magnitude_node *node, const float *products, const float *sums) {
    const tn_weight *m = node->magnitude, *b = node->bias;
    const float *bias = b ? b->tensor.data : NULL;
    for (int64_t o = 0; o < node->node.out->cols; o++) {
        if (m->trainable)
            m->grad[o] += (products[o] - (bias ? bias[o] * sums[o] : 0)) / node->norms[o];
        if (b && b->trainable)
            b->grad[o] += (1 - node->factors[o]) * sums[o];
    }
}

static void magnitude_backward(tn_tape *tape, tn_node *base) {
    magnitude_node *node = (magnitude_node *)base;
    const tn_kernels *k = tape->kernels;
    tn_var *x = node->x;
    int64_t rows = base->out->rows, cols = base->out->cols;
    const float *dy = tn_grad_in(base);
    bool accumulate;
    if (node->magnitude->trainable || (node->bias && node->bias->trainable)) {
        tn_block sums = tn_scratch_take(tape, 2 * cols);
        if (tn_tape_live(tape)) {
            k->fill(sums.data, 0, 2 * cols);
            if (node->magnitude->trainable)
                k->sum_products(sums.data, dy, x->data, rows, cols);
            if (node->bias)
                k->sum_rows(sums.data + cols, dy, 1, rows, cols);
            add_weight_gradients(node, sums.data, sums.data + cols);
        }
        tn_scratch_give(tape, &sums);
    }
    if (!x->needs_grad)
        return;
    float *dx = tn_grad_of(tape, x, &accumulate);
    if (tn_tape_live(tape))
        k->scale_columns(dx, accumulate, dy, node->factors, rows, cols);
}

/* y = f * x + (1 - f) * b. */
static void apply(const tn_kernels *k, tn_var *y, const tn_var *x, const tn_weight *bias, const float *factors,
                  float *rest) {
    k->scale_columns(y->data, false, x->data, factors, x->rows, x->cols);
    if (!bias)
        return;
    for (int64_t o = 0; o < x->cols; o++)
        rest[o] = (1 - factors[o]) * ((const float *)bias->tensor.data)[o];
    k->add_bias(y->data, rest, 1, x->rows, x->cols);
}

tn_var *tn_op_magnitude(tn_tape *tape, tn_var *x, const tn_weight *magnitude, const float *norms, const tn_weight *bias) {
    int64_t cols = x->cols;
    tn_op_begin(tape, "magnitude");
    tn_var *y = tn_var_new(tape, x->rows, cols, x->needs_grad || magnitude->trainable || (bias && bias->trainable));
    float *factors = tn_tape_store(tape, (size_t)cols * sizeof *factors);
    tn_block rest = tn_scratch_take(tape, cols);
    if (factors && tn_tape_live(tape)) {
        for (int64_t o = 0; o < cols; o++)
            factors[o] = ((const float *)magnitude->tensor.data)[o] / norms[o];
        apply(tape->kernels, y, x, bias, factors, rest.data);
    }
    tn_scratch_give(tape, &rest);
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
