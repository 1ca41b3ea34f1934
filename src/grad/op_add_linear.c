/* y += s x W^T;  dx += s dy W,  dW += s dy^T x.  x [T, C], W [O, C], y [T, O]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    const tn_weight *weight;
    float scale;
} add_linear_node;

static void add_linear_backward(tn_tape *tape, tn_node *base) {
    add_linear_node *node = (add_linear_node *)base;
    const tn_weight *w = node->weight;
    int64_t rows = base->out->rows, out = base->out->cols, in = w->tensor.shape[1];
    const float *dy = tn_grad_in(base);
    bool accumulate;
    if (node->x->needs_grad) {
        float *dx = tn_grad_of(tape, node->x, &accumulate);
        tape->flops += 2.0 * (double)rows * (double)out * (double)in;
        if (tn_tape_live(tape))
            tape->kernels->gemm(dx, in, tn_rows_of(dy, TN_DTYPE_F32, out), tn_weight_rows(w), node->scale, accumulate, rows,
                                in, out);
    }
    if (!w->trainable)
        return;
    tape->flops += 2.0 * (double)rows * (double)out * (double)in;
    if (tn_tape_live(tape))
        tape->kernels->gemm(w->grad, in, tn_transpose_of(dy, TN_DTYPE_F32, out), tn_rows_of(node->x->data, TN_DTYPE_F32, in),
                            node->scale, 1, out, in, rows);
}

void tn_op_add_linear(tn_tape *tape, tn_var *y, tn_var *x, const tn_weight *weight, float scale) {
    tn_op_begin(tape, "add linear");
    int64_t rows = x->rows, in = weight->tensor.shape[1], out = weight->tensor.shape[0];
    y->needs_grad = y->needs_grad || x->needs_grad || weight->trainable;
    tape->flops += 2.0 * (double)rows * (double)out * (double)in;
    if (tn_tape_live(tape))
        tape->kernels->gemm(y->data, out, tn_rows_of(x->data, TN_DTYPE_F32, in), tn_weight_transpose(weight), scale, 1, rows,
                            out, in);
    add_linear_node *node = tn_node_new(tape, sizeof *node, add_linear_backward, y);
    if (node) {
        node->x = weight->trainable ? tn_node_save(&node->node, x) : x;
        node->weight = weight;
        node->scale = scale;
    }
    tn_op_end(tape);
}
