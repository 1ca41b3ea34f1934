/* Y = A B, or Y = A: weights as a value, for ops that work with values.  dA += dY B^T,  dB += A^T dY.
 * A [O, R], B [R, C], Y [O, C]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    const tn_weight *a, *b;
} weight_product_node;

static void weight_product_backward(tn_tape *tape, tn_node *base) {
    weight_product_node *node = (weight_product_node *)base;
    const tn_weight *a = node->a, *b = node->b;
    int64_t out = base->out->rows, in = base->out->cols, rank = b ? b->tensor.shape[0] : 0;
    const float *dy = tn_grad_in(base);
    tape->flops += 2.0 * (a->trainable + (b && b->trainable)) * (double)out * (double)in * (double)rank;
    if (!tn_tape_live(tape))
        return;
    if (!b)
        tape->kernels->add(a->grad, dy, 1, out * in);
    if (b && a->trainable)
        tape->kernels->gemm(a->grad, rank, tn_rows_of(dy, TN_DTYPE_F32, in), tn_weight_transpose(b), 1, 1, out, rank, in);
    if (b && b->trainable)
        tape->kernels->gemm(b->grad, in, tn_transpose_of(a->tensor.data, TN_DTYPE_F32, rank),
                            tn_rows_of(dy, TN_DTYPE_F32, in), 1, 1, rank, in, out);
}

tn_var *tn_op_weight_product(tn_tape *tape, const tn_weight *a, const tn_weight *b) {
    int64_t out = a->tensor.shape[0], rank = b ? b->tensor.shape[0] : 0;
    int64_t in = tn_tensor_count(b ? &b->tensor : &a->tensor) / (b ? rank : out);
    tn_op_begin(tape, "weight product");
    tn_var *y = tn_var_new(tape, out, in, a->trainable || (b && b->trainable));
    tape->flops += 2.0 * (double)out * (double)in * (double)rank;
    if (!b && tn_tape_live(tape))
        tape->kernels->copy(y->data, a->tensor.data, out * in);
    if (b && tn_tape_live(tape))
        tape->kernels->gemm(y->data, in, tn_weight_rows(a), tn_rows_of(b->tensor.data, TN_DTYPE_F32, in), 1, 0, out, in,
                            rank);
    weight_product_node *node = tn_node_new(tape, sizeof *node, weight_product_backward, y);
    if (node) {
        node->a = a;
        node->b = b;
    }
    tn_op_end(tape);
    return y;
}
