/* y[t] = k[t] x[t], k[t] 0 or 1;  dx[t] += k[t] dy[t].  x, y [T, C]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    const bool *keep;
} keep_rows_node;

static void keep_rows_backward(tn_tape *tape, tn_node *base) {
    keep_rows_node *node = (keep_rows_node *)base;
    tn_var *x = node->x;
    bool accumulate;
    if (!x->needs_grad)
        return;
    float *dx = tn_grad_of(tape, x, &accumulate);
    if (tn_tape_live(tape))
        tape->kernels->keep_rows(dx, accumulate, tn_grad_in(base), node->keep, x->rows, x->cols);
}

tn_var *tn_op_keep_rows(tn_tape *tape, tn_var *x, const bool *keep) {
    tn_op_begin(tape, "keep rows");
    tn_var *y = tn_var_new(tape, x->rows, x->cols, x->needs_grad);
    if (tn_tape_live(tape))
        tape->kernels->keep_rows(y->data, false, x->data, keep, x->rows, x->cols);
    keep_rows_node *node = tn_node_new(tape, sizeof *node, keep_rows_backward, y);
    if (node) {
        node->x = x;
        node->keep = keep;
    }
    tn_op_end(tape);
    return y;
}
