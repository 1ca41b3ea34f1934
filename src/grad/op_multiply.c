/* y = a * b by elements;  da += dy * b,  db += dy * a. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *a, *b;
} multiply_node;

static void factor_backward(tn_tape *tape, const tn_node *base, tn_var *factor, const tn_var *other) {
    bool accumulate = false;
    float *gradient = tn_grad_of(tape, factor, &accumulate);
    if (gradient && tn_tape_live(tape))
        tape->kernels->multiply(gradient, accumulate, tn_grad_in(base), other->data, factor->rows * factor->cols);
}

static void multiply_backward(tn_tape *tape, tn_node *base) {
    multiply_node *node = (multiply_node *)base;
    factor_backward(tape, base, node->a, node->b);
    factor_backward(tape, base, node->b, node->a);
}

tn_var *tn_op_multiply(tn_tape *tape, tn_var *a, tn_var *b) {
    tn_op_begin(tape, "multiply");
    tn_var *y = tn_var_new(tape, a->rows, a->cols, a->needs_grad || b->needs_grad);
    if (tn_tape_live(tape))
        tape->kernels->multiply(y->data, false, a->data, b->data, a->rows * a->cols);
    multiply_node *node = tn_node_new(tape, sizeof *node, multiply_backward, y);
    if (node) {
        node->a = b->needs_grad ? tn_node_save(&node->node, a) : a;
        node->b = a->needs_grad ? tn_node_save(&node->node, b) : b;
    }
    tn_op_end(tape);
    return y;
}
