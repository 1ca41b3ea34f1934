/* y = m x / (1 - p), m ~ Bernoulli(1 - p) from a counter, so that the backward pass draws the same mask;  dx += m dy / (1 -
 * p). */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x;
    float p;
    uint64_t seed, stream;
} dropout_node;

static void dropout_backward(tn_tape *tape, tn_node *base) {
    dropout_node *node = (dropout_node *)base;
    bool accumulate;
    if (!node->x->needs_grad)
        return;
    float *dx = tn_grad_of(tape, node->x, &accumulate);
    if (tn_tape_live(tape))
        tape->kernels->dropout(dx, accumulate, tn_grad_in(base), node->p, node->seed, node->stream,
                               node->x->rows * node->x->cols);
}

tn_var *tn_op_dropout(tn_tape *tape, tn_var *x, float p, uint64_t seed, uint64_t stream) {
    tn_op_begin(tape, "dropout");
    tn_var *y = tn_var_new(tape, x->rows, x->cols, x->needs_grad);
    if (tn_tape_live(tape))
        tape->kernels->dropout(y->data, false, x->data, p, seed, stream, x->rows * x->cols);
    dropout_node *node = tn_node_new(tape, sizeof *node, dropout_backward, y);
    if (node) {
        node->x = x;
        node->p = p;
        node->seed = seed;
        node->stream = stream;
    }
    tn_op_end(tape);
    return y;
}
