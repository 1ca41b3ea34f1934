/* y += s x;  dx += s dy (and dy goes on unchanged). */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    float scale;
} add_node;

static void add_backward(tn_tape *tape, tn_node *base) {
    add_node *node = (add_node *)base;
    tn_var *x = node->x;
    int64_t count = x->rows * x->cols;
    bool accumulate;
    if (!x->needs_grad)
        return;
    float *dx = tn_grad_of(tape, x, &accumulate);
    if (!tn_tape_live(tape))
        return;
    if (accumulate) {
        tape->kernels->add(dx, tn_grad_in(base), node->scale, count);
        return;
    }
    tape->kernels->copy(dx, tn_grad_in(base), count);
    if (node->scale != 1)
        tape->kernels->scale(dx, node->scale, count);
}

void tn_op_add(tn_tape *tape, tn_var *y, tn_var *x, float scale) {
    tn_op_begin(tape, "add");
    y->needs_grad = y->needs_grad || x->needs_grad;
    if (tn_tape_live(tape))
        tape->kernels->add(y->data, x->data, scale, y->rows * y->cols);
    add_node *node = tn_node_new(tape, sizeof *node, add_backward, y);
    if (node) {
        node->x = x;
        node->scale = scale;
    }
    tn_op_end(tape);
}
