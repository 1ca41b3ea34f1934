/* y += s (u B^T + b), u = x A^T;  dB += s dy^T u,  db += s sum_t dy,  du = s dy B,  dA += du^T x,  dx += du A.
 * x [T, C], A [R, C], u [T, R], B [O, R], y [T, O]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x, *u;
    tn_kept kept_x; /* of a trained A */
    const tn_weight *a, *b, *bias;
    float scale;
} low_rank_node;

static void low_rank_backward(tn_tape *tape, tn_node *base) {
    low_rank_node *node = (low_rank_node *)base;
    const tn_weight *a = node->a, *b = node->b;
    const tn_kernels *k = tape->kernels;
    tn_var *x = node->x;
    int64_t rows = base->out->rows, out = base->out->cols, in = a->tensor.shape[1], rank = a->tensor.shape[0];
    const float *dy = tn_grad_in(base);
    if (node->bias && node->bias->trainable && tn_tape_live(tape))
        k->sum_rows(node->bias->grad, dy, node->scale, rows, out);
    if (b->trainable) {
        tape->flops += 2.0 * (double)rows * (double)out * (double)rank;
        if (tn_tape_live(tape))
            k->gemm(b->grad, rank, tn_transpose_of(dy, TN_DTYPE_F32, out), tn_rows_of(node->u->data, TN_DTYPE_F32, rank),
                    node->scale, 1, out, rank, rows);
    }
    if (!a->trainable && !x->needs_grad)
        return;
    tn_block du = tn_scratch_take(tape, rows * rank);
    tape->flops += 2.0 * (double)rows * (double)out * (double)rank;
    if (tn_tape_live(tape))
        k->gemm(du.data, rank, tn_rows_of(dy, TN_DTYPE_F32, out), tn_weight_rows(b), node->scale, 0, rows, rank, out);
    if (a->trainable) {
        tape->flops += 2.0 * (double)rows * (double)in * (double)rank;
        tn_block wide = {0};
        tn_operand kept_x = tn_kept_rows(tape, &node->kept_x, &wide);
        if (tn_tape_live(tape))
            k->gemm(a->grad, in, tn_transpose_of(du.data, TN_DTYPE_F32, rank), kept_x, 1, 1, rank, in, rows);
        tn_scratch_give(tape, &wide);
    }
    if (x->needs_grad) {
        bool accumulate;
        float *dx = tn_grad_of(tape, x, &accumulate);
        tape->flops += 2.0 * (double)rows * (double)in * (double)rank;
        if (tn_tape_live(tape))
            k->gemm(dx, in, tn_rows_of(du.data, TN_DTYPE_F32, rank), tn_weight_rows(a), 1, accumulate, rows, in, rank);
    }
    tn_scratch_give(tape, &du);
}

void tn_op_low_rank(tn_tape *tape, tn_var *y, tn_var *x, const tn_weight *a, const tn_weight *b, const tn_weight *bias,
                    float scale) {
    tn_op_begin(tape, "low rank");
    int64_t rows = x->rows, out = b->tensor.shape[0], in = a->tensor.shape[1], rank = a->tensor.shape[0];
    const tn_kernels *k = tape->kernels;
    y->needs_grad = y->needs_grad || x->needs_grad || a->trainable || b->trainable || (bias && bias->trainable);
    tn_var *u = tn_var_new(tape, rows, rank, false);
    tape->flops += 2.0 * (double)rows * (double)rank * (double)(in + out);
    if (tn_tape_live(tape)) {
        k->gemm(u->data, rank, tn_rows_of(x->data, TN_DTYPE_F32, in), tn_weight_transpose(a), 1, 0, rows, rank, in);
        k->gemm(y->data, out, tn_rows_of(u->data, TN_DTYPE_F32, rank), tn_weight_transpose(b), scale, 1, rows, out, rank);
        if (bias)
            k->add_bias(y->data, bias->tensor.data, scale, rows, out);
    }
    low_rank_node *node = tn_node_new(tape, sizeof *node, low_rank_backward, y);
    if (node) {
        node->x = x;
        if (a->trainable)
            node->kept_x = tn_node_keep_8bit(tape, &node->node, x);
        node->u = b->trainable ? tn_node_save(&node->node, u) : NULL;
        node->a = a;
        node->b = b;
        node->bias = bias;
        node->scale = scale;
    }
    tn_drop(tape, u);
    tn_op_end(tape);
}
