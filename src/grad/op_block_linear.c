/* y_i = x_i W_i^T for each block i of columns;  dx_i = dy_i W_i,  dW_i += dy_i^T x_i.
 * x [T, C] in N blocks x_i [T, C/N], W [O, C/N] in N blocks W_i [O/N, C/N], y [T, O] in N blocks y_i [T, O/N]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    const tn_weight *weight;
    int64_t blocks;
} block_linear_node;

/* Block i of the columns of a value or gradient [T, cols], and block i of the weight. */
static tn_operand columns(const float *data, int64_t cols, int64_t blocks, int64_t i) {
    return tn_rows_of(data + i * (cols / blocks), TN_DTYPE_F32, cols);
}

static tn_operand weight_block(const tn_weight *weight, int64_t blocks, int64_t i) {
    const tn_tensor *t = &weight->tensor;
    return tn_operand_part(tn_rows_of(t->data, t->dtype, t->shape[1]), i * (t->shape[0] / blocks), 0);
}

static void block_linear_backward(tn_tape *tape, tn_node *base) {
    block_linear_node *node = (block_linear_node *)base;
    const tn_weight *w = node->weight;
    tn_var *x = node->x;
    int64_t blocks = node->blocks, rows = x->rows, in = x->cols, out = base->out->cols, width = in / blocks,
            height = out / blocks;
    const float *dy = tn_grad_in(base);
    bool accumulate = false;
    float *dx = x->needs_grad ? tn_grad_of(tape, x, &accumulate) : NULL;
    tape->flops += 2.0 * (x->needs_grad + w->trainable) * (double)rows * (double)out * (double)width;
    for (int64_t i = 0; i < blocks && tn_tape_live(tape); i++) {
        if (dx)
            tape->kernels->gemm(dx + i * width, in, columns(dy, out, blocks, i), weight_block(w, blocks, i), 1, accumulate,
                                rows, width, height);
        if (w->trainable)
            tape->kernels->gemm(w->grad + i * height * width, width, tn_operand_transposed(columns(dy, out, blocks, i)),
                                columns(x->data, in, blocks, i), 1, 1, height, width, rows);
    }
}

tn_var *tn_op_block_linear(tn_tape *tape, tn_var *x, const tn_weight *weight, int64_t blocks) {
    int64_t rows = x->rows, in = x->cols, out = weight->tensor.shape[0], width = in / blocks, height = out / blocks;
    tn_op_begin(tape, "block linear");
    tn_var *y = tn_var_new(tape, rows, out, x->needs_grad || weight->trainable);
    tape->flops += 2.0 * (double)rows * (double)out * (double)width;
    for (int64_t i = 0; i < blocks && tn_tape_live(tape); i++)
        tape->kernels->gemm(y->data + i * height, out, columns(x->data, in, blocks, i),
                            tn_operand_transposed(weight_block(weight, blocks, i)), 1, 0, rows, height, width);
    block_linear_node *node = tn_node_new(tape, sizeof *node, block_linear_backward, y);
    if (node) {
        node->x = weight->trainable ? tn_node_save(&node->node, x) : x;
        node->weight = weight;
        node->blocks = blocks;
    }
    tn_op_end(tape);
    return y;
}
