/* y[t] = x[t] * d;  dx[t] += dy[t] * d,  dd += sum_t dy[t] * x[t], by elements.  x, y [T, C], d [C]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    const tn_weight *factors;
} scale_columns_node;

static void scale_columns_backward(tn_tape *tape, tn_node *base) {
    scale_columns_node *node = (scale_columns_node *)base;
    const tn_weight *d = node->factors;
    tn_var *x = node->x;
    const float *dy = tn_grad_in(base);
    bool accumulate;
    if (d->trainable && tn_tape_live(tape))
        tape->kernels->sum_products(d->grad, dy, x->data, x->rows, x->cols);
    if (!x->needs_grad)
        return;
    float *dx = tn_grad_of(tape, x, &accumulate);
    if (tn_tape_live(tape))
        tape->kernels->scale_columns(dx, accumulate, dy, d->tensor.data, x->rows, x->cols);
}

tn_var *tn_op_scale_columns(tn_tape *tape, tn_var *x, const tn_weight *factors) {
    tn_op_begin(tape, "scale columns");
    tn_var *y = tn_var_new(tape, x->rows, x->cols, x->needs_grad || factors->trainable);
    if (tn_tape_live(tape))
        tape->kernels->scale_columns(y->data, false, x->data, factors->tensor.data, x->rows, x->cols);
    scale_columns_node *node = tn_node_new(tape, sizeof *node, scale_columns_backward, y);
    if (node) {
        node->x = factors->trainable ? tn_node_save(&node->node, x) : x;
        node->factors = factors;
    }
    tn_op_end(tape);
    return y;
}
