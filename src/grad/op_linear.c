/* y = x W^T + b;  dx = dy W,  dW += dy^T x,  db += sum_t dy.  x [T, C], W [O, C], y [T, O]. A weight that is stored
 * transposed has its gradient so too: dW^T += x^T dy. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    tn_kept kept_x; /* of a trained weight */
    const tn_weight *weight, *bias;
} linear_node;

static void linear_backward(tn_tape *tape, tn_node *base) {
    linear_node *node = (linear_node *)base;
    const tn_weight *w = node->weight;
    int64_t rows = base->out->rows, out = base->out->cols, in = tn_weight_in(w);
    const float *dy = tn_grad_in(base);
    bool accumulate;
    if (node->x->needs_grad) {
        float *dx = tn_grad_of(tape, node->x, &accumulate);
        tape->flops += 2.0 * (double)rows * (double)out * (double)in;
        if (tn_tape_live(tape))
            tape->kernels->gemm(dx, in, tn_rows_of(dy, TN_DTYPE_F32, out), tn_weight_rows(w), 1, accumulate, rows, in, out);
    }
    if (w->trainable) {
        tape->flops += 2.0 * (double)rows * (double)out * (double)in;
        if (tn_tape_live(tape) && w->transposed)
            tape->kernels->gemm(w->grad, out, tn_kept_transpose(&node->kept_x), tn_rows_of(dy, TN_DTYPE_F32, out), 1, 1, in,
                                out, rows);
        else if (tn_tape_live(tape))
            tape->kernels->gemm(w->grad, in, tn_transpose_of(dy, TN_DTYPE_F32, out), tn_kept_rows(&node->kept_x), 1, 1, out,
                                in, rows);
    }
    if (node->bias && node->bias->trainable && tn_tape_live(tape))
        tape->kernels->sum_rows(node->bias->grad, dy, 1, rows, out);
}

tn_var *tn_op_linear(tn_tape *tape, tn_var *x, const tn_weight *weight, const tn_weight *bias) {
    tn_op_begin(tape, "linear");
    int64_t rows = x->rows, in = tn_weight_in(weight), out = tn_weight_out(weight);
    bool needs_grad = x->needs_grad || weight->trainable || (bias && bias->trainable);
    tn_var *y = tn_var_new(tape, rows, out, needs_grad);
    tape->flops += 2.0 * (double)rows * (double)out * (double)in;
    if (tn_tape_live(tape)) {
        tape->kernels->gemm(y->data, out, tn_rows_of(x->data, TN_DTYPE_F32, in), tn_weight_transpose(weight), 1, 0, rows,
                            out, in);
        if (bias)
            tape->kernels->add_bias(y->data, bias->tensor.data, 1, rows, out);
    }
    linear_node *node = tn_node_new(tape, sizeof *node, linear_backward, y);
    if (node) {
        node->x = x;
        if (weight->trainable)
            node->kept_x = tn_node_keep(tape, &node->node, x);
        node->weight = weight;
        node->bias = bias;
    }
    tn_op_end(tape);
    return y;
}
