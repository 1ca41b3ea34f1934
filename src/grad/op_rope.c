/* Rotary positions (Su et al. 2021), pairs (i, i + D/2): (a, b) -> (a cos - b sin, b cos + a sin). The backward pass rotates
 * the gradient the other way. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    const int32_t *positions;
    tn_rope_table table;
    int64_t heads, head_size;
} rope_node;

static void rope_backward(tn_tape *tape, tn_node *base) {
    rope_node *node = (rope_node *)base;
    if (tn_tape_live(tape))
        tape->kernels->rope(base->out->grad.data, node->positions, node->table.cos, node->table.sin, true, base->out->rows,
                            node->heads, node->head_size);
}

void tn_op_rope(tn_tape *tape, tn_var *x, const int32_t *positions, const tn_rope_table *table, int64_t heads,
                int64_t head_size) {
    tn_op_begin(tape, "rope");
    if (tn_tape_live(tape))
        tape->kernels->rope(x->data, positions, table->cos, table->sin, false, x->rows, heads, head_size);
    rope_node *node = tn_node_new(tape, sizeof *node, rope_backward, x);
    if (node) {
        node->positions = positions;
        node->table = *table;
        node->heads = heads;
        node->head_size = head_size;
    }
    tn_op_end(tape);
}
