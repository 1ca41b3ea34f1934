/* Windows of k positions over each channel's plane:  y = max(window), dx += dy at the first maximum;
 * y = sum(window) / k, dx += dy / k in the whole window. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x, *index; /* index: int32 in the memory of floats; NULL for means */
    tn_conv_shape shape;
} pool_node;

static void pool_backward(tn_tape *tape, tn_node *base) {
    pool_node *node = (pool_node *)base;
    const tn_kernels *k = tape->kernels;
    const float *dy = tn_grad_in(base);
    tn_var *x = node->x;
    bool accumulate = false;
    float *dx = tn_grad_of(tape, x, &accumulate);
    if (!tn_tape_live(tape))
        return;
    if (!accumulate)
        k->fill(dx, 0, x->rows * x->cols);
    if (node->index)
        k->max_pool_backward(dx, dy, (const int32_t *)(const void *)node->index->data, &node->shape,
                             x->rows * node->shape.in_channels);
    else
        k->avg_pool_backward(dx, dy, &node->shape, x->rows * node->shape.in_channels);
}

static tn_var *new_result(tn_tape *tape, const tn_var *x, const tn_conv_shape *s, bool needs_grad) {
    return tn_var_new(tape, x->rows, s->in_channels * tn_conv_out_height(s) * tn_conv_out_width(s), needs_grad);
}

static pool_node *record(tn_tape *tape, tn_var *y, tn_var *x, const tn_conv_shape *shape) {
    pool_node *node = tn_node_new(tape, sizeof *node, pool_backward, y);
    if (node) {
        node->x = x;
        node->shape = *shape;
    }
    return node;
}

tn_var *tn_op_max_pool2d(tn_tape *tape, tn_var *x, const tn_conv_shape *shape) {
    tn_op_begin(tape, "max pool");
    tn_var *y = new_result(tape, x, shape, x->needs_grad);
    tn_var *index = tape->recording && x->needs_grad ? new_result(tape, x, shape, false) : NULL;
    if (tn_tape_live(tape))
        tape->kernels->max_pool(y->data, index ? (int32_t *)(void *)index->data : NULL, x->data, shape,
                                x->rows * shape->in_channels);
    pool_node *node = record(tape, y, x, shape);
    if (node)
        node->index = tn_node_save(&node->node, index);
    tn_drop(tape, index);
    tn_op_end(tape);
    return y;
}

static tn_var *mean(tn_tape *tape, tn_var *x, const tn_conv_shape *shape, const char *name) {
    tn_op_begin(tape, name);
    tn_var *y = new_result(tape, x, shape, x->needs_grad);
    if (tn_tape_live(tape))
        tape->kernels->avg_pool(y->data, x->data, shape, x->rows * shape->in_channels);
    record(tape, y, x, shape);
    tn_op_end(tape);
    return y;
}

tn_var *tn_op_avg_pool2d(tn_tape *tape, tn_var *x, const tn_conv_shape *shape) {
    return mean(tape, x, shape, "average pool");
}

tn_var *tn_op_global_avg_pool(tn_tape *tape, tn_var *x, int64_t channels) {
    int64_t span = x->cols / channels;
    tn_conv_shape whole = {.in_channels = channels,
                           .height = 1,
                           .width = span,
                           .kernel_height = 1,
                           .kernel_width = span,
                           .stride_height = 1,
                           .stride_width = 1,
                           .dilation_height = 1,
                           .dilation_width = 1};
    return mean(tape, x, &whole, "global average pool");
}
