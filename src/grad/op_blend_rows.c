/* y[rows[i]] += w (part[i] - y[rows[i]]);  dpart[i] += w dy[rows[i]], then dy[rows[i]] *= 1 - w.  y [T, C], part [R, C]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *part;
    const int32_t *rows;
    float weight;
} blend_node;

static int64_t row_of(const int32_t *rows, int64_t i) {
    return rows ? rows[i] : i;
}

/* target = (1 - weight) target + weight source; a weight of 1 replaces it, NaN or not. */
static void blend(const tn_kernels *k, float *target, const float *source, float weight, int64_t count) {
    if (weight == 1) {
        k->copy(target, source, count);
        return;
    }
    k->scale(target, 1 - weight, count);
    k->add(target, source, weight, count);
}

static void blend_backward(tn_tape *tape, tn_node *base) {
    blend_node *node = (blend_node *)base;
    const tn_kernels *k = tape->kernels;
    tn_var *part = node->part;
    int64_t cols = part->cols;
    bool accumulate;
    float *dy = base->out->grad.data, *dpart = part->needs_grad ? tn_grad_of(tape, part, &accumulate) : NULL;
    for (int64_t i = 0; i < part->rows && tn_tape_live(tape); i++) {
        float *from = dy + row_of(node->rows, i) * cols;
        if (dpart && !accumulate)
            k->fill(dpart + i * cols, 0, cols);
        if (dpart)
            k->add(dpart + i * cols, from, node->weight, cols);
        k->scale(from, 1 - node->weight, cols);
    }
}

void tn_op_blend_rows(tn_tape *tape, tn_var *y, tn_var *part, const int32_t *rows, float weight) {
    tn_op_begin(tape, "blend rows");
    y->needs_grad = y->needs_grad || part->needs_grad;
    for (int64_t i = 0; i < part->rows && tn_tape_live(tape); i++)
        blend(tape->kernels, y->data + row_of(rows, i) * y->cols, part->data + i * y->cols, weight, y->cols);
    blend_node *node = tn_node_new(tape, sizeof *node, blend_backward, y);
    if (node) {
        node->part = part;
        node->rows = rows;
        node->weight = weight;
    }
    tn_op_end(tape);
}
