/* y[t] = E[ids[t]];  dE[ids[t]] += dy[t].  E [V, C], y [T, C]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    const int32_t *ids;
    const tn_weight *table;
} embedding_node;

static void embedding_backward(tn_tape *tape, tn_node *base) {
    embedding_node *node = (embedding_node *)base;
    if (tn_tape_live(tape))
        tape->kernels->embedding_backward(node->table->grad, node->ids, tn_grad_in(base), base->out->rows, base->out->cols);
}

tn_var *tn_op_embedding(tn_tape *tape, const int32_t *ids, int64_t count, const tn_weight *table) {
    tn_op_begin(tape, "embedding");
    int64_t cols = table->tensor.shape[1];
    tn_var *y = tn_var_new(tape, count, cols, table->trainable);
    if (tn_tape_live(tape))
        tape->kernels->embedding_forward(y->data, ids, table->tensor.data, table->tensor.dtype, count, cols);
    embedding_node *node = tn_node_new(tape, sizeof *node, embedding_backward, y);
    if (node) {
        node->ids = ids;
        node->table = table;
    }
    tn_op_end(tape);
    return y;
}
