/* x = max(x, 0);  dx = dx where x > 0, else 0. */
#include "grad/ops.h"

static void relu_backward(tn_tape *tape, tn_node *base) {
    if (tn_tape_live(tape))
        tape->kernels->relu_backward(base->out->grad.data, base->saved[0]->data, base->out->rows * base->out->cols);
}

void tn_op_relu(tn_tape *tape, tn_var *x) {
    tn_op_begin(tape, "relu");
    if (tn_tape_live(tape))
        tape->kernels->relu_forward(x->data, x->rows * x->cols);
    tn_node *node = tn_node_new(tape, sizeof *node, relu_backward, x);
    if (node)
        tn_node_save(node, x);
    tn_op_end(tape);
}
