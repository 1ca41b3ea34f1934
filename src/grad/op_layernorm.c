/* y = w z / rms(z) + b, z = x - mean(x), rms(z) = sqrt(mean(z^2) + eps), by rows (Ba et al. 2016): the RMS norm of the
 * centred row. dz, dw as in op_rmsnorm.c;  dx = dz - mean(dz),  db += sum_t dy. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x, *rstd;
    const tn_weight *weight, *bias;
} layernorm_node;

static void norm_backward(tn_tape *tape, layernorm_node *node, const float *dy) {
    const tn_kernels *k = tape->kernels;
    const tn_weight *w = node->weight;
    tn_var *x = node->x;
    int64_t rows = x->rows, cols = x->cols;
    bool accumulate = false;
    float *dx = tn_grad_of(tape, x, &accumulate);
    tn_block z = tn_scratch_take(tape, rows * cols), dz = tn_scratch_take(tape, accumulate ? rows * cols : 0);
    if (tn_tape_live(tape)) {
        float *dz_data = accumulate ? dz.data : dx;
        k->center_rows(z.data, false, x->data, rows, cols);
        k->rmsnorm_backward(dz_data, false, w->grad, dy, z.data, node->rstd->data, w->tensor.data, rows, cols);
        if (dx)
            k->center_rows(dx, accumulate, dz_data, rows, cols);
    }
    tn_scratch_give(tape, &dz);
    tn_scratch_give(tape, &z);
}

static void layernorm_backward(tn_tape *tape, tn_node *base) {
    layernorm_node *node = (layernorm_node *)base;
    const float *dy = tn_grad_in(base);
    if (node->x)
        norm_backward(tape, node, dy);
    if (node->bias && node->bias->trainable && tn_tape_live(tape))
        tape->kernels->sum_rows(node->bias->grad, dy, 1, base->out->rows, base->out->cols);
}

tn_var *tn_op_layernorm(tn_tape *tape, tn_var *x, const tn_weight *weight, const tn_weight *bias, float eps) {
    const tn_kernels *k = tape->kernels;
    int64_t rows = x->rows, cols = x->cols;
    bool back_through_norm = x->needs_grad || weight->trainable;
    tn_op_begin(tape, "layernorm");
    tn_var *y = tn_var_new(tape, rows, cols, back_through_norm || (bias && bias->trainable));
    tn_var *rstd = tn_var_new(tape, rows, 1, false);
    if (tn_tape_live(tape)) {
        k->center_rows(y->data, false, x->data, rows, cols);
        k->rmsnorm_forward(y->data, rstd->data, y->data, weight->tensor.data, eps, rows, cols);
        if (bias)
            k->add_bias(y->data, bias->tensor.data, 1, rows, cols);
    }
    layernorm_node *node = tn_node_new(tape, sizeof *node, layernorm_backward, y);
    if (node) {
        node->x = back_through_norm ? tn_node_save(&node->node, x) : NULL;
        node->rstd = back_through_norm ? tn_node_save(&node->node, rstd) : NULL;
        node->weight = weight;
        node->bias = bias;
    }
    tn_drop(tape, rstd);
    tn_op_end(tape);
    return y;
}
