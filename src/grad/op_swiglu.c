/* y = silu(g) u, silu(z) = z sigmoid(z) (Shazeer 2020).  dg = dy u sigmoid(g) (1 + g (1 - sigmoid(g))),  du = dy silu(g). */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *gate, *up;
    tn_kept kept_gate, kept_up;
} swiglu_node;

static void swiglu_backward(tn_tape *tape, tn_node *base) {
    swiglu_node *node = (swiglu_node *)base;
    tn_var *gate = node->gate, *up = node->up;
    int64_t count = gate->rows * gate->cols;
    bool accumulate;
    tn_block spare = {0};
    tn_stored kept_gate = tn_kept_stored(&node->kept_gate), kept_up = tn_kept_stored(&node->kept_up);
    float *dgate = tn_grad_over_kept(tape, gate, &node->kept_gate, &accumulate);
    float *dup = tn_grad_over_kept(tape, up, &node->kept_up, &accumulate);
    if (!gate->needs_grad || !up->needs_grad)
        spare = tn_scratch_take(tape, count);
    if (tn_tape_live(tape))
        tape->kernels->swiglu_backward(gate->needs_grad ? dgate : spare.data, up->needs_grad ? dup : spare.data,
                                       tn_grad_in(base), kept_gate, kept_up, count);
    tn_scratch_give(tape, &spare);
}

tn_var *tn_op_swiglu(tn_tape *tape, tn_var *gate, tn_var *up) {
    tn_op_begin(tape, "swiglu");
    tn_var *y = tn_var_new(tape, gate->rows, gate->cols, gate->needs_grad || up->needs_grad);
    tn_kept kept_gate = {0}, kept_up = {0};
    swiglu_node *node = tn_node_new(tape, sizeof *node, swiglu_backward, y);
    if (node) {
        node->gate = gate;
        node->up = up;
        node->kept_gate = kept_gate = tn_node_keep_8bit_room(tape, &node->node, gate);
        node->kept_up = kept_up = tn_node_keep_8bit_room(tape, &node->node, up);
    }
    if (tn_tape_live(tape))
        tape->kernels->swiglu_forward(y->data, gate->data, up->data, gate->rows * gate->cols, tn_kept_copy(&kept_gate),
                                      tn_kept_copy(&kept_up), kept_gate.dtype);
    tn_op_end(tape);
    return y;
}
