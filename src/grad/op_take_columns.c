/* y[t] = x[t, first : first + n];  dx[t, first : first + n] += dy[t].  x [T, C], y [T, n]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    int64_t first;
} take_columns_node;

static void take_columns_backward(tn_tape *tape, tn_node *base) {
    take_columns_node *node = (take_columns_node *)base;
    tn_var *x = node->x;
    const tn_kernels *k = tape->kernels;
    const float *dy = tn_grad_in(base);
    int64_t cols = base->out->cols;
    bool accumulate;
    if (!x->needs_grad)
        return;
    float *dx = tn_grad_of(tape, x, &accumulate);
    if (!tn_tape_live(tape))
        return;
    if (!accumulate)
        k->fill(dx, 0, x->rows * x->cols);
    for (int64_t t = 0; t < x->rows; t++)
        k->add(dx + t * x->cols + node->first, dy + t * cols, 1, cols);
}

tn_var *tn_op_take_columns(tn_tape *tape, tn_var *x, int64_t first, int64_t count) {
    tn_op_begin(tape, "take columns");
    tn_var *y = tn_var_new(tape, x->rows, count, x->needs_grad);
    for (int64_t t = 0; t < x->rows && tn_tape_live(tape); t++)
        tape->kernels->copy(y->data + t * count, x->data + t * x->cols + first, count);
    take_columns_node *node = tn_node_new(tape, sizeof *node, take_columns_backward, y);
    if (node) {
        node->x = x;
        node->first = first;
    }
    tn_op_end(tape);
    return y;
}
