/* y = silu(g) u, silu(z) = z sigmoid(z) (Shazeer 2020).  dg = dy u sigmoid(g) (1 + g (1 - sigmoid(g))),  du = dy silu(g). */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *gate, *up;
    tn_kept kept_gate, kept_up;
} swiglu_node;

/* A value that is kept as it is makes room for its gradient. */
static float *gradient_of(tn_tape *tape, tn_var *var, const tn_kept *kept) {
    bool accumulate;
    return kept->dtype == TN_DTYPE_F32 ? tn_grad_over_value(tape, var, &accumulate) : tn_grad_of(tape, var, &accumulate);
}

static void swiglu_backward(tn_tape *tape, tn_node *base) {
    swiglu_node *node = (swiglu_node *)base;
    tn_var *gate = node->gate, *up = node->up;
    int64_t count = gate->rows * gate->cols;
    tn_block spare = {0}, wide_gate = {0}, wide_up = {0};
    const float *gate_value = tn_kept_floats(tape, &node->kept_gate, &wide_gate);
    const float *up_value = tn_kept_floats(tape, &node->kept_up, &wide_up);
    float *dgate = gradient_of(tape, gate, &node->kept_gate), *dup = gradient_of(tape, up, &node->kept_up);
    if (!gate->needs_grad || !up->needs_grad)
        spare = tn_scratch_take(tape, count);
    if (tn_tape_live(tape))
        tape->kernels->swiglu_backward(gate->needs_grad ? dgate : spare.data, up->needs_grad ? dup : spare.data,
                                       tn_grad_in(base), gate_value, up_value, count);
    tn_scratch_give(tape, &spare);
    tn_scratch_give(tape, &wide_up);
    tn_scratch_give(tape, &wide_gate);
}

tn_var *tn_op_swiglu(tn_tape *tape, tn_var *gate, tn_var *up) {
    tn_op_begin(tape, "swiglu");
    tn_var *y = tn_var_new(tape, gate->rows, gate->cols, gate->needs_grad || up->needs_grad);
    if (tn_tape_live(tape))
        tape->kernels->swiglu_forward(y->data, gate->data, up->data, gate->rows * gate->cols);
    swiglu_node *node = tn_node_new(tape, sizeof *node, swiglu_backward, y);
    if (node) {
        node->gate = gate;
        node->up = up;
        node->kept_gate = tn_node_keep(tape, &node->node, gate);
        node->kept_up = tn_node_keep(tape, &node->node, up);
    }
    tn_op_end(tape);
    return y;
}
