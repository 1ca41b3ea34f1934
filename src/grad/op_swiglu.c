/* y = silu(g) u, silu(z) = z sigmoid(z) (Shazeer 2020).  dg = dy u sigmoid(g) (1 + g (1 - sigmoid(g))),  du = dy silu(g). */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *gate, *up;
} swiglu_node;

static void swiglu_backward(tn_tape *tape, tn_node *base) {
    swiglu_node *node = (swiglu_node *)base;
    tn_var *gate = node->gate, *up = node->up;
    int64_t count = gate->rows * gate->cols;
    const float *gate_value = gate->data, *up_value = up->data;
    bool accumulate;
    tn_block spare = {0};
    float *dgate = tn_grad_over_value(tape, gate, &accumulate), *dup = tn_grad_over_value(tape, up, &accumulate);
    if (!gate->needs_grad || !up->needs_grad)
        spare = tn_scratch_take(tape, count);
    if (tn_tape_live(tape))
        tape->kernels->swiglu_backward(gate->needs_grad ? dgate : spare.data, up->needs_grad ? dup : spare.data,
                                       tn_grad_in(base), gate_value, up_value, count);
    tn_scratch_give(tape, &spare);
}

tn_var *tn_op_swiglu(tn_tape *tape, tn_var *gate, tn_var *up) {
    tn_op_begin(tape, "swiglu");
    tn_var *y = tn_var_new(tape, gate->rows, gate->cols, gate->needs_grad || up->needs_grad);
    if (tn_tape_live(tape))
        tape->kernels->swiglu_forward(y->data, gate->data, up->data, gate->rows * gate->cols);
    swiglu_node *node = tn_node_new(tape, sizeof *node, swiglu_backward, y);
    if (node) {
        node->gate = tn_node_save(&node->node, gate);
        node->up = tn_node_save(&node->node, up);
    }
    tn_op_end(tape);
    return y;
}
