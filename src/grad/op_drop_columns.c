/* y[t, o] *= f[o],  dy likewise;  f[o] = 0 with probability p, else 1, or, rescaled, O over the number that were kept. One
 * f for each of `groups` equal parts of the columns, from a counter, so that the backward pass draws the same. */
#include "base/rng.h"
#include "grad/ops.h"

typedef struct {
    tn_node node;
    int64_t groups;
    float p;
    bool rescale;
    uint64_t seed, stream;
} drop_columns_node;

static void draw(float *factors, int64_t cols, const drop_columns_node *d) {
    tn_rng rng = tn_rng_start(d->seed, d->stream);
    int64_t kept = 0, width = cols / d->groups;
    for (int64_t g = 0; g < d->groups; g++) {
        bool keep = tn_rng_uniform(&rng) >= d->p;
        kept += keep;
        for (int64_t j = 0; j < width; j++)
            factors[g * width + j] = keep;
    }
    for (int64_t i = 0; i < cols && d->rescale && kept; i++)
        factors[i] *= (float)d->groups / (float)kept;
}

static void drop(tn_tape *tape, float *y, int64_t rows, int64_t cols, const drop_columns_node *d) {
    tn_block factors = tn_scratch_take(tape, cols);
    if (tn_tape_live(tape)) {
        draw(factors.data, cols, d);
        tape->kernels->scale_columns(y, false, y, factors.data, rows, cols);
    }
    tn_scratch_give(tape, &factors);
}

static void drop_columns_backward(tn_tape *tape, tn_node *base) {
    drop(tape, base->out->grad.data, base->out->rows, base->out->cols, (drop_columns_node *)base);
}

void tn_op_drop_columns(tn_tape *tape, tn_var *y, int64_t groups, float p, bool rescale, uint64_t seed, uint64_t stream) {
    const drop_columns_node d = {.groups = groups, .p = p, .rescale = rescale, .seed = seed, .stream = stream};
    tn_op_begin(tape, "drop columns");
    drop(tape, y->data, y->rows, y->cols, &d);
    drop_columns_node *node = tn_node_new(tape, sizeof *node, drop_columns_backward, y);
    if (node) {
        tn_node kept = node->node;
        *node = d;
        node->node = kept;
    }
    tn_op_end(tape);
}
