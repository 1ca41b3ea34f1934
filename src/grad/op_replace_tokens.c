/* Trained rows in place of the base's for a few tokens, at the input and at a tied output.
 * Embedding: y[t] = rows[k] where ids[t] = indices[k];  drows[k] += dy[t], dy[t] = 0 below.
 * Logits:    y[:, indices[k]] = x rows[k]^T;  drows += dz^T x, dx += dz rows, dy[:, indices] = 0 below;  z [T, K]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    const int32_t *ids, *indices;
    const tn_weight *rows;
} replace_node;

static void replace_embeddings_backward(tn_tape *tape, tn_node *base) {
    replace_node *node = (replace_node *)base;
    if (tn_tape_live(tape))
        tape->kernels->replace_rows_backward(node->rows->grad, base->out->grad.data, node->ids, node->indices,
                                             base->out->rows, base->out->cols, node->rows->tensor.shape[0]);
}

void tn_op_replace_embeddings(tn_tape *tape, tn_var *y, const int32_t *ids, const tn_weight *rows, const int32_t *indices) {
    tn_op_begin(tape, "replace tokens");
    y->needs_grad = y->needs_grad || rows->trainable;
    if (tn_tape_live(tape))
        tape->kernels->replace_rows(y->data, ids, rows->tensor.data, indices, y->rows, y->cols, rows->tensor.shape[0]);
    replace_node *node = tn_node_new(tape, sizeof *node, replace_embeddings_backward, y);
    if (node) {
        node->ids = ids;
        node->indices = indices;
        node->rows = rows;
    }
    tn_op_end(tape);
}

static void replace_logits_backward(tn_tape *tape, tn_node *base) {
    replace_node *node = (replace_node *)base;
    const tn_kernels *k = tape->kernels;
    tn_var *x = node->x;
    int64_t rows = x->rows, cols = x->cols, count = node->rows->tensor.shape[0];
    tn_block dz = tn_scratch_take(tape, rows * count);
    if (tn_tape_live(tape)) {
        k->gather_columns_and_clear(dz.data, node->indices, base->out->grad.data, rows, count, base->out->cols);
        if (node->rows->trainable)
            k->gemm(node->rows->grad, cols, tn_transpose_of(dz.data, TN_DTYPE_F32, count),
                    tn_rows_of(x->data, TN_DTYPE_F32, cols), 1, 1, count, cols, rows);
    }
    if (x->needs_grad) {
        bool accumulate;
        float *dx = tn_grad_of(tape, x, &accumulate);
        if (tn_tape_live(tape))
            k->gemm(dx, cols, tn_rows_of(dz.data, TN_DTYPE_F32, count), tn_weight_rows(node->rows), 1, accumulate, rows,
                    cols, count);
    }
    tn_scratch_give(tape, &dz);
}

void tn_op_replace_logits(tn_tape *tape, tn_var *y, tn_var *x, const tn_weight *rows, const int32_t *indices) {
    tn_op_begin(tape, "replace tokens");
    int64_t count = rows->tensor.shape[0];
    y->needs_grad = y->needs_grad || x->needs_grad || rows->trainable;
    tn_block z = tn_scratch_take(tape, x->rows * count);
    if (tn_tape_live(tape)) {
        tape->kernels->gemm(z.data, count, tn_rows_of(x->data, TN_DTYPE_F32, x->cols), tn_weight_transpose(rows), 1, 0,
                            x->rows, count, x->cols);
        tape->kernels->put_columns(y->data, indices, z.data, y->rows, count, y->cols);
    }
    tn_scratch_give(tape, &z);
    replace_node *node = tn_node_new(tape, sizeof *node, replace_logits_backward, y);
    if (node) {
        node->x = tn_node_save(&node->node, x);
        node->indices = indices;
        node->rows = rows;
    }
    tn_op_end(tape);
}
