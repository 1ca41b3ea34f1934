/* Y = kron(W1, W2): Y[i K + a, j N + b] = W1[i, j] W2[a, b], for a weight that has to be formed, as a convolution's.
 * dW1[i, j] += sum_ab dY[i K + a, j N + b] W2[a, b],  dW2[a, b] += sum_ij dY[i K + a, j N + b] W1[i, j].
 * W1 [L, M], W2 [K, N], Y [L K, M N]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *w1, *w2;
} kronecker_weight_node;

void tn_kronecker_add(float *y, const float *w1, const float *w2, float scale, int64_t l, int64_t m, int64_t k, int64_t n) {
    for (int64_t row = 0; row < l * k; row++) {
        const float *from = w2 + row % k * n;
        for (int64_t j = 0; j < m; j++) {
            float factor = scale * w1[row / k * m + j], *to = y + (row * m + j) * n;
            for (int64_t b = 0; b < n; b++)
                to[b] += factor * from[b];
        }
    }
}

/* Both gradients, each NULL or added to. */
static void add_gradients(float *dw1, float *dw2, const float *dy, const tn_var *w1, const tn_var *w2) {
    int64_t k = w2->rows, n = w2->cols, m = w1->cols;
    for (int64_t row = 0; row < w1->rows * k; row++) {
        for (int64_t j = 0; j < m; j++) {
            const float *d = dy + (row * m + j) * n, *other = w2->data + row % k * n;
            float factor = w1->data[row / k * m + j], sum = 0;
            for (int64_t b = 0; b < n && dw1; b++)
                sum += d[b] * other[b];
            for (int64_t b = 0; b < n && dw2; b++)
                dw2[row % k * n + b] += factor * d[b];
            if (dw1)
                dw1[row / k * m + j] += sum;
        }
    }
}

/* The gradient to add to, cleared when it is new. */
static float *cleared_gradient(tn_tape *tape, tn_var *var) {
    bool accumulate = false;
    float *gradient = tn_grad_of(tape, var, &accumulate);
    if (gradient && !accumulate && tn_tape_live(tape))
        tape->kernels->fill(gradient, 0, var->rows * var->cols);
    return gradient;
}

static void kronecker_weight_backward(tn_tape *tape, tn_node *base) {
    kronecker_weight_node *node = (kronecker_weight_node *)base;
    float *dw1 = cleared_gradient(tape, node->w1), *dw2 = cleared_gradient(tape, node->w2);
    if (tn_tape_live(tape))
        add_gradients(dw1, dw2, tn_grad_in(base), node->w1, node->w2);
}

tn_var *tn_op_kronecker_weight(tn_tape *tape, tn_var *w1, tn_var *w2) {
    tn_op_begin(tape, "kronecker weight");
    tn_var *y = tn_var_new(tape, w1->rows * w2->rows, w1->cols * w2->cols, w1->needs_grad || w2->needs_grad);
    if (tn_tape_live(tape)) {
        tape->kernels->fill(y->data, 0, y->rows * y->cols);
        tn_kronecker_add(y->data, w1->data, w2->data, 1, w1->rows, w1->cols, w2->rows, w2->cols);
    }
    kronecker_weight_node *node = tn_node_new(tape, sizeof *node, kronecker_weight_backward, y);
    if (node) {
        node->w1 = tn_node_save(&node->node, w1);
        node->w2 = tn_node_save(&node->node, w2);
    }
    tn_op_end(tape);
    return y;
}
