/* y[rows[i]] += w (part[i] - y[rows[i]]);  dpart[i] += w dy[rows[i]], then dy[rows[i]] *= 1 - w.  y [T, C], part [R, C]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *part;
    const int32_t *rows;
    float weight;
} blend_node;

/* Rows that lie next to each other are taken at once: all of them when `rows` is NULL. */
static int64_t pieces_of(const tn_var *part, const int32_t *rows) {
    return rows ? part->rows : part->rows > 0;
}

static int64_t length_of(const tn_var *part, const int32_t *rows) {
    return rows ? part->cols : part->rows * part->cols;
}

static int64_t offset_of(const tn_var *part, const int32_t *rows, int64_t piece) {
    return rows ? rows[piece] * part->cols : 0;
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
    const int64_t length = length_of(part, node->rows);
    bool accumulate;
    float *dy = base->out->grad.data, *dpart = part->needs_grad ? tn_grad_of(tape, part, &accumulate) : NULL;
    for (int64_t i = 0; i < pieces_of(part, node->rows) && tn_tape_live(tape); i++) {
        float *from = dy + offset_of(part, node->rows, i);
        if (dpart && !accumulate)
            k->fill(dpart + i * length, 0, length);
        if (dpart)
            k->add(dpart + i * length, from, node->weight, length);
        k->scale(from, 1 - node->weight, length);
    }
}

void tn_op_blend_rows(tn_tape *tape, tn_var *y, tn_var *part, const int32_t *rows, float weight) {
    tn_op_begin(tape, "blend rows");
    y->needs_grad = y->needs_grad || part->needs_grad;
    const int64_t length = length_of(part, rows);
    for (int64_t i = 0; i < pieces_of(part, rows) && tn_tape_live(tape); i++)
        blend(tape->kernels, y->data + offset_of(part, rows, i), part->data + i * length, weight, length);
    blend_node *node = tn_node_new(tape, sizeof *node, blend_backward, y);
    if (node) {
        node->part = part;
        node->rows = rows;
        node->weight = weight;
    }
    tn_op_end(tape);
}
