/* y = w r z + b, z = x - mean, r = 1 / sqrt(var + eps), for each channel over its n = N S elements (Ioffe & Szegedy 2015).
 * db += sum dy,  dw += r sum dy z,  dx += w r dy, and in training, where mean and var depend on x,
 * dx += -w r / n (sum dy + r^2 z sum dy z).  x, y [N, C * S], w, b, mean, var [C]. */
#include <math.h>

#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x, *stats; /* stats [2, C]: mean, r */
    int64_t channels;
    const tn_weight *weight, *bias;
    bool training, reads_x;
} batchnorm_node;

/* z, with `wide` [C * S] for the means of all columns. */
static void centre(const tn_kernels *k, float *z, float *wide, const tn_var *x, const float *mean, int64_t channels) {
    k->copy(z, x->data, x->rows * x->cols);
    k->spread_channels(wide, mean, channels, x->cols / channels);
    k->add_bias(z, wide, -1, x->rows, x->cols);
}

/* sums [C] = sum over rows and a channel's columns of a, or of a * b. */
static void sum_of(const tn_kernels *k, float *sums, float *wide, const float *a, const float *b, const tn_var *x,
                   int64_t channels) {
    k->fill(wide, 0, x->cols);
    k->fill(sums, 0, channels);
    if (b)
        k->sum_products(wide, a, b, x->rows, x->cols);
    else
        k->sum_rows(wide, a, 1, x->rows, x->cols);
    k->sum_channels(sums, wide, channels, x->cols / channels);
}

static float weight_at(const tn_weight *weight, int64_t c) {
    return weight ? ((const float *)weight->tensor.data)[c] : 1;
}

static void add_weight_gradients(const batchnorm_node *node, const float *sums, const float *products) {
    const float *r = node->stats->data + node->channels;
    for (int64_t c = 0; c < node->channels; c++) {
        if (node->weight && node->weight->trainable)
            node->weight->grad[c] += r[c] * products[c];
        if (node->bias && node->bias->trainable)
            node->bias->grad[c] += sums[c];
    }
}

/* factors [3, C]: of dy, of z and of 1. */
static void find_factors(float *factors, const batchnorm_node *node, const float *sums, const float *products) {
    int64_t channels = node->channels;
    const float *r = node->stats->data + channels;
    float count = (float)(node->x->rows * (node->x->cols / channels));
    for (int64_t c = 0; c < channels; c++) {
        float f = weight_at(node->weight, c) * r[c];
        factors[c] = f;
        factors[channels + c] = -f * r[c] * r[c] * products[c] / count;
        factors[2 * channels + c] = -f * sums[c] / count;
    }
}

/* dx (+)= f dy, and in training what mean and var add. */
static void input_gradient(const tn_kernels *k, float *dx, bool accumulate, const float *dy, const float *z, float *wide,
                           const float *factors, const batchnorm_node *node) {
    int64_t channels = node->channels, rows = node->x->rows, cols = node->x->cols, span = cols / channels;
    k->spread_channels(wide, factors, channels, span);
    k->scale_columns(dx, accumulate, dy, wide, rows, cols);
    if (!node->training)
        return;
    k->spread_channels(wide, factors + channels, channels, span);
    k->scale_columns(dx, true, z, wide, rows, cols);
    k->spread_channels(wide, factors + 2 * channels, channels, span);
    k->add_bias(dx, wide, 1, rows, cols);
}

static void batchnorm_backward(tn_tape *tape, tn_node *base) {
    batchnorm_node *node = (batchnorm_node *)base;
    const tn_kernels *k = tape->kernels;
    tn_var *x = node->x;
    int64_t channels = node->channels;
    const float *dy = tn_grad_in(base);
    bool accumulate = false;
    float *dx = tn_grad_of(tape, x, &accumulate);
    tn_block z = tn_scratch_take(tape, node->reads_x ? x->rows * x->cols : 0), wide = tn_scratch_take(tape, x->cols);
    tn_block small = tn_scratch_take(tape, 5 * channels);
    if (tn_tape_live(tape)) {
        float *sums = small.data, *products = sums + channels, *factors = products + channels;
        sum_of(k, sums, wide.data, dy, NULL, x, channels);
        k->fill(products, 0, channels);
        if (node->reads_x) {
            centre(k, z.data, wide.data, x, node->stats->data, channels);
            sum_of(k, products, wide.data, dy, z.data, x, channels);
        }
        add_weight_gradients(node, sums, products);
        find_factors(factors, node, sums, products);
        if (dx)
            input_gradient(k, dx, accumulate, dy, z.data, wide.data, factors, node);
    }
    tn_scratch_give(tape, &small);
    tn_scratch_give(tape, &wide);
    tn_scratch_give(tape, &z);
}

/* mean and var [C] of x, which leaves z in y. */
static void batch_statistics(const tn_kernels *k, float *mean, float *var, tn_var *y, float *wide, const tn_var *x,
                             int64_t channels) {
    float count = (float)(x->rows * (x->cols / channels));
    sum_of(k, mean, wide, x->data, NULL, x, channels);
    k->scale(mean, 1 / count, channels);
    centre(k, y->data, wide, x, mean, channels);
    sum_of(k, var, wide, y->data, y->data, x, channels);
    k->scale(var, 1 / count, channels);
}

/* running = (1 - momentum) * running + momentum * factor * batch. */
static void update(float *running, const float *batch, float momentum, float factor, int64_t channels) {
    for (int64_t c = 0; c < channels; c++)
        running[c] = (1 - momentum) * running[c] + momentum * factor * batch[c];
}

/* y = w r z + b where y holds z; factors is scratch of [C]. */
static void scale_and_shift(const tn_kernels *k, tn_var *y, float *wide, float *factors, const float *r, int64_t channels,
                            const tn_weight *weight, const tn_weight *bias) {
    int64_t span = y->cols / channels;
    for (int64_t c = 0; c < channels; c++)
        factors[c] = weight_at(weight, c) * r[c];
    k->spread_channels(wide, factors, channels, span);
    k->scale_columns(y->data, false, y->data, wide, y->rows, y->cols);
    if (!bias)
        return;
    k->spread_channels(wide, bias->tensor.data, channels, span);
    k->add_bias(y->data, wide, 1, y->rows, y->cols);
}

tn_var *tn_op_batchnorm(tn_tape *tape, tn_var *x, int64_t channels, const tn_weight *weight, const tn_weight *bias,
                        float *running_mean, float *running_var, float eps, float momentum, bool training) {
    const tn_kernels *k = tape->kernels;
    bool trained = weight && weight->trainable;
    tn_op_begin(tape, "batchnorm");
    tn_var *y = tn_var_new(tape, x->rows, x->cols, x->needs_grad || trained || (bias && bias->trainable));
    tn_var *stats = tn_var_new(tape, 2, channels, false);
    tn_block wide = tn_scratch_take(tape, x->cols), small = tn_scratch_take(tape, channels);
    if (tn_tape_live(tape)) {
        float *mean = stats->data, *r = mean + channels, count = (float)(x->rows * (x->cols / channels));
        if (training) {
            batch_statistics(k, mean, r, y, wide.data, x, channels);
        } else {
            k->copy(mean, running_mean, channels);
            k->copy(r, running_var, channels);
            centre(k, y->data, wide.data, x, mean, channels);
        }
        if (training && tape->phase != TN_PHASE_RECOMPUTATION) {
            update(running_mean, mean, momentum, 1, channels);
            update(running_var, r, momentum, count / (count - 1), channels);
        }
        for (int64_t c = 0; c < channels; c++)
            r[c] = 1 / sqrtf(r[c] + eps);
        scale_and_shift(k, y, wide.data, small.data, r, channels, weight, bias);
    }
    tn_scratch_give(tape, &small);
    tn_scratch_give(tape, &wide);
    batchnorm_node *node = tn_node_new(tape, sizeof *node, batchnorm_backward, y);
    if (node) {
        node->x = training || trained ? tn_node_save(&node->node, x) : x;
        node->reads_x = training || trained;
        node->stats = tn_node_save(&node->node, stats);
        node->channels = channels;
        node->weight = weight;
        node->bias = bias;
        node->training = training;
    }
    tn_drop(tape, stats);
    tn_op_end(tape);
    return y;
}
