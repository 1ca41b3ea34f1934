/* y[i] = x[rows[first + i]], or x[first + i] without rows;  its row of dx += dy[i]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    const int32_t *rows; /* from the first on, or NULL */
    int64_t first;
} take_rows_node;

static void take_rows_backward(tn_tape *tape, tn_node *base) {
    take_rows_node *node = (take_rows_node *)base;
    tn_var *x = node->x;
    bool accumulate;
    float *dx = tn_grad_of(tape, x, &accumulate);
    int64_t count = x->rows * x->cols;
    if (!tn_tape_live(tape))
        return;
    if (!accumulate)
        tape->kernels->fill(dx, 0, count);
    if (node->rows)
        tape->kernels->embedding_backward(dx, node->rows, tn_grad_in(base), base->out->rows, base->out->cols);
    else
        tape->kernels->add(dx + node->first * x->cols, tn_grad_in(base), 1, base->out->rows * x->cols);
}

tn_var *tn_op_take_rows(tn_tape *tape, tn_var *x, const int32_t *rows, int64_t first, int64_t count) {
    tn_op_begin(tape, "take rows");
    tn_var *y = tn_var_new(tape, count, x->cols, x->needs_grad);
    if (tn_tape_live(tape) && rows)
        tape->kernels->embedding_forward(y->data, rows + first, x->data, TN_DTYPE_F32, count, x->cols);
    else if (tn_tape_live(tape))
        tape->kernels->copy(y->data, x->data + first * x->cols, count * x->cols);
    take_rows_node *node = tn_node_new(tape, sizeof *node, take_rows_backward, y);
    if (node) {
        node->x = x;
        node->rows = rows ? rows + first : NULL;
        node->first = first;
    }
    tn_op_end(tape);
    return y;
}
