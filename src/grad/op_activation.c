/* y = f(x);  dx = dy f'(x), by elements. f is one of tn_activation (Hendrycks & Gimpel 2016 for GELU and SiLU). */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    tn_kept kept_x;
    tn_activation f;
} activation_node;

static void activation_backward(tn_tape *tape, tn_node *base) {
    activation_node *node = (activation_node *)base;
    tn_stored x = tn_kept_stored(&node->kept_x);
    bool accumulate;
    float *dx = tn_grad_over_kept(tape, node->x, &node->kept_x, &accumulate);
    if (tn_tape_live(tape))
        tape->kernels->activation_backward(dx, accumulate, tn_grad_in(base), x, node->f, node->x->rows * node->x->cols);
}

static tn_var *activation(tn_tape *tape, tn_var *x, tn_activation f, const char *name) {
    tn_op_begin(tape, name);
    tn_var *y = tn_var_new(tape, x->rows, x->cols, x->needs_grad);
    if (tn_tape_live(tape))
        tape->kernels->activation_forward(y->data, x->data, f, x->rows * x->cols);
    activation_node *node = tn_node_new(tape, sizeof *node, activation_backward, y);
    if (node) {
        node->x = x;
        node->kept_x = tn_node_keep_8bit(tape, &node->node, x);
        node->f = f;
    }
    tn_op_end(tape);
    return y;
}

tn_var *tn_op_gelu(tn_tape *tape, tn_var *x, bool by_tanh) {
    return activation(tape, x, by_tanh ? TN_ACTIVATION_GELU_TANH : TN_ACTIVATION_GELU, "gelu");
}

tn_var *tn_op_silu(tn_tape *tape, tn_var *x) {
    return activation(tape, x, TN_ACTIVATION_SILU, "silu");
}

tn_var *tn_op_tanh(tn_tape *tape, tn_var *x) {
    return activation(tape, x, TN_ACTIVATION_TANH, "tanh");
}
