/* y[t] += s B a_t, a_t = A[:, ids[t]];  dB += s sum_t dy[t] a_t^T,  dA[:, ids[t]] += s B^T dy[t].
 * A [R, V], B [C, R], y [T, C]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *u;
    const int32_t *ids;
    const tn_weight *a, *b;
    float scale;
} low_rank_embedding_node;

static void low_rank_embedding_backward(tn_tape *tape, tn_node *base) {
    low_rank_embedding_node *node = (low_rank_embedding_node *)base;
    const tn_kernels *k = tape->kernels;
    int64_t rows = base->out->rows, cols = base->out->cols, rank = node->a->tensor.shape[0],
            vocab = node->a->tensor.shape[1];
    const float *dy = tn_grad_in(base);
    tape->flops += 4.0 * (double)rows * (double)cols * (double)rank;
    if (node->b->trainable && tn_tape_live(tape))
        k->gemm(node->b->grad, rank, tn_transpose_of(dy, TN_DTYPE_F32, cols), tn_rows_of(node->u->data, TN_DTYPE_F32, rank),
                node->scale, 1, cols, rank, rows);
    if (!node->a->trainable)
        return;
    tn_block du = tn_scratch_take(tape, rows * rank);
    if (tn_tape_live(tape)) {
        k->gemm(du.data, rank, tn_rows_of(dy, TN_DTYPE_F32, cols), tn_weight_rows(node->b), node->scale, 0, rows, rank,
                cols);
        k->scatter_columns(node->a->grad, node->ids, du.data, rows, rank, vocab);
    }
    tn_scratch_give(tape, &du);
}

void tn_op_low_rank_embedding(tn_tape *tape, tn_var *y, const int32_t *ids, const tn_weight *a, const tn_weight *b,
                              float scale) {
    tn_op_begin(tape, "low rank embedding");
    int64_t rows = y->rows, cols = y->cols, rank = a->tensor.shape[0], vocab = a->tensor.shape[1];
    y->needs_grad = y->needs_grad || a->trainable || b->trainable;
    tn_var *u = tn_var_new(tape, rows, rank, false);
    tape->flops += 2.0 * (double)rows * (double)cols * (double)rank;
    if (tn_tape_live(tape)) {
        tape->kernels->gather_columns(u->data, ids, a->tensor.data, rows, rank, vocab);
        tape->kernels->gemm(y->data, cols, tn_rows_of(u->data, TN_DTYPE_F32, rank), tn_weight_transpose(b), scale, 1, rows,
                            cols, rank);
    }
    low_rank_embedding_node *node = tn_node_new(tape, sizeof *node, low_rank_embedding_backward, y);
    if (node) {
        node->u = tn_node_save(&node->node, u);
        node->ids = ids;
        node->a = a;
        node->b = b;
        node->scale = scale;
    }
    tn_drop(tape, u);
    tn_op_end(tape);
}
