/* y = x W^T + b;  dx = dy W,  dW += dy^T x,  db += sum_t dy.  x [T, C], W [O, C], y [T, O]. A weight that is stored
 * transposed has its gradient so too: dW^T += x^T dy. */
#include "grad/ops.h"

#include <assert.h>

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
        tn_block wide = {0};
        tn_operand x = tn_kept_rows(tape, &node->kept_x, &wide);
        if (tn_tape_live(tape) && w->transposed)
            tape->kernels->gemm(w->grad, out, tn_operand_transposed(x), tn_rows_of(dy, TN_DTYPE_F32, out), 1, 1, in, out,
                                rows);
        else if (tn_tape_live(tape))
            tape->kernels->gemm(w->grad, in, tn_transpose_of(dy, TN_DTYPE_F32, out), x, 1, 1, out, in, rows);
        tn_scratch_give(tape, &wide);
    }
    if (node->bias && node->bias->trainable && tn_tape_live(tape))
        tape->kernels->sum_rows(node->bias->grad, dy, 1, rows, out);
}

static void infer(tn_tape *tape, tn_var *x, const tn_weight *const *weights, const tn_weight *const *biases, int64_t count,
                  tn_var *const *ys) {
    tn_shared_product products[TN_LINEARS_TOGETHER] = {0};
    int64_t rows = x->rows, in = x->cols;
    for (int64_t i = 0; i < count; i++)
        products[i] = (tn_shared_product){ys[i]->data, ys[i]->cols, tn_weight_transpose(weights[i]), ys[i]->cols};
    tape->kernels->gemm_infer(products, count, tn_rows_of(x->data, TN_DTYPE_F32, in), rows, in);
    for (int64_t i = 0; i < count; i++)
        if (biases[i])
            tape->kernels->add_bias(ys[i]->data, biases[i]->tensor.data, 1, rows, ys[i]->cols);
}

void tn_op_linears_inferred(tn_tape *tape, tn_var *x, const tn_weight *const *weights, const tn_weight *const *biases,
                            int64_t count, tn_var **ys) {
    assert(tape->inferring && !tape->recording && count <= TN_LINEARS_TOGETHER);
    tn_op_begin(tape, "linear");
    for (int64_t i = 0; i < count; i++) {
        ys[i] = tn_var_new(tape, x->rows, tn_weight_out(weights[i]), false);
        tape->flops += 2.0 * (double)x->rows * (double)ys[i]->cols * (double)x->cols;
    }
    if (tn_tape_live(tape))
        infer(tape, x, weights, biases, count, ys);
    tn_op_end(tape);
}

tn_var *tn_op_linear(tn_tape *tape, tn_var *x, const tn_weight *weight, const tn_weight *bias) {
    tn_var *y;
    if (tape->inferring) {
        tn_op_linears_inferred(tape, x, &weight, &bias, 1, &y);
        return y;
    }
    tn_op_begin(tape, "linear");
    int64_t rows = x->rows, in = tn_weight_in(weight), out = tn_weight_out(weight);
    bool needs_grad = x->needs_grad || weight->trainable || (bias && bias->trainable);
    y = tn_var_new(tape, rows, out, needs_grad);
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
            node->kept_x = tn_node_keep_8bit(tape, &node->node, x);
        node->weight = weight;
        node->bias = bias;
    }
    tn_op_end(tape);
    return y;
}
