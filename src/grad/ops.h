/* The differentiable ops. Each stands in a file of its own with its formula. Values are [rows, cols]; T is the number of
 * rows of the packed batch. Ops "in place" change their first value and return nothing new. */
#ifndef TN_GRAD_OPS_H
#define TN_GRAD_OPS_H

#include "grad/tape.h"

/* y[t] = table[ids[t]], table [V, C]. ids must stay until backward. */
tn_var *tn_op_embedding(tn_tape *tape, const int32_t *ids, int64_t count, const tn_weight *table);

/* y = x W^T (+ bias): x [T, C], W [O, C], stored either way, bias [O] or NULL. */
tn_var *tn_op_linear(tn_tape *tape, tn_var *x, const tn_weight *weight, const tn_weight *bias);

/* The same of several weights, on a tape that infers: ys[i] = x W_i^T (+ bias i). */
enum { TN_LINEARS_TOGETHER = 4 };
void tn_op_linears_inferred(tn_tape *tape, tn_var *x, const tn_weight *const *weights, const tn_weight *const *biases,
                            int64_t count, tn_var **ys);

/* In place: y += scale * x W^T: x [T, C], W [O, C], y [T, O]. */
void tn_op_add_linear(tn_tape *tape, tn_var *y, tn_var *x, const tn_weight *weight, float scale);

/* In place: y += scale * ((x A^T) B^T + bias): A [R, C], B [O, R], bias [O] or NULL. */
void tn_op_low_rank(tn_tape *tape, tn_var *y, tn_var *x, const tn_weight *a, const tn_weight *b, const tn_weight *bias,
                    float scale);

/* The factors of D = (A1 B1) * (A2 B2) by elements: A1 [O, P], B1 [P, C], A2 [O, Q], B2 [Q, C], all f32. */
typedef struct tn_hadamard_factors {
    const tn_weight *a1, *b1, *a2, *b2;
} tn_hadamard_factors;

/* In place: y += scale * x D^T: x [T, C], y [T, O]. */
void tn_op_hadamard_low_rank(tn_tape *tape, tn_var *y, tn_var *x, const tn_hadamard_factors *factors, float scale);

/* Rows [first, first + rows) of D into d [rows, C]; scratch [rows, C]. No op: for merging. */
void tn_hadamard_rows(const tn_kernels *kernels, float *d, float *scratch, const tn_hadamard_factors *factors, int64_t first,
                      int64_t rows);

/* A B as a value [O, C], A [O, R], B [R, C]; without B it is A, all dimensions after the first as one. All f32. */
tn_var *tn_op_weight_product(tn_tape *tape, const tn_weight *a, const tn_weight *b);

/* sum_ij core[i, j, s] A[i, p] B[j, c] as a value [O, C * S], for p, c and s: core [R, R, ...], A [R, O], B [R, C]. */
tn_var *tn_op_tucker(tn_tape *tape, const tn_weight *core, const tn_weight *a, const tn_weight *b);

/* The same into y [O, C * S]; scratch [R, C * S]. No op: for merging. */
void tn_tucker_weight(const tn_kernels *kernels, float *y, float *scratch, const tn_weight *core, const tn_weight *a,
                      const tn_weight *b);

/* a * b by elements. */
tn_var *tn_op_multiply(tn_tape *tape, tn_var *a, tn_var *b);

/* kron(W1, W2) as a value [L * K, M * N]: W1 [L, M], W2 [K, N]. */
tn_var *tn_op_kronecker_weight(tn_tape *tape, tn_var *w1, tn_var *w2);

/* y += scale * kron(W1, W2): y [L * K, M * N]. No op: for merging. */
void tn_kronecker_add(float *y, const float *w1, const float *w2, float scale, int64_t l, int64_t m, int64_t k, int64_t n);

/* In place: y += scale * x kron(W1, R2 R1)^T: x [T, M * N], y [T, L * K], W1 [L, M], R1 [P, N], R2 [K, P]; NULL stands for
 * the identity, in one of both at most. */
void tn_op_kronecker(tn_tape *tape, tn_var *y, tn_var *x, tn_var *w1, tn_var *r1, tn_var *r2, float scale);

/* In place: the columns of each of `groups` equal parts of y become 0 together, with probability p; with `rescale` the rest
 * is multiplied so that the factors' mean is 1. */
void tn_op_drop_columns(tn_tape *tape, tn_var *y, int64_t groups, float p, bool rescale, uint64_t seed, uint64_t stream);

/* In place: y += l * (((x A^T) * d) B^T) by columns, with frozen A and B that others share: A [R, >= C], of which the first
 * C columns count, B [>= O, R], the first O rows; d [R], l [O]. */
void tn_op_scaled_low_rank(tn_tape *tape, tn_var *y, tn_var *x, const tn_weight *a, const tn_weight *b, const tn_weight *d,
                           const tn_weight *l);

/* In place: y += scale * A[:, ids]^T B^T: A [R, V], B [C, R]. */
void tn_op_low_rank_embedding(tn_tape *tape, tn_var *y, const int32_t *ids, const tn_weight *a, const tn_weight *b,
                              float scale);

/* In place: y[t] = rows[k] where ids[t] == indices[k]: rows [K, C]. */
void tn_op_replace_embeddings(tn_tape *tape, tn_var *y, const int32_t *ids, const tn_weight *rows, const int32_t *indices);

/* In place: y[:, indices[k]] = x rows[k]: the logits of replaced tokens. y [T, V], x [T, C], rows [K, C]. */
void tn_op_replace_logits(tn_tape *tape, tn_var *y, tn_var *x, const tn_weight *rows, const int32_t *indices);

/* RMS norm over each of `groups` equal parts of a row (1 for the hidden state, H for query heads): weight [C / groups]. */
tn_var *tn_op_rmsnorm(tn_tape *tape, tn_var *x, const tn_weight *weight, float eps, int64_t groups);

/* (x - mean(x)) / sqrt(var(x) + eps) * weight + bias by rows, the variance being the biased one: weight, bias [C]; bias may
 * be NULL. */
tn_var *tn_op_layernorm(tn_tape *tape, tn_var *x, const tn_weight *weight, const tn_weight *bias, float eps);

/* Batch norm over the rows and the columns of each channel, as torch.nn.BatchNorm1d and 2d: x [N, C * S], all else [C],
 * weight and bias may be NULL. In training by the statistics of x, with N * S > 1, and the running ones become (1 -
 * momentum) * running + momentum * (mean or unbiased variance), but not when a block runs again for its gradient; else by
 * the running ones. */
tn_var *tn_op_batchnorm(tn_tape *tape, tn_var *x, int64_t channels, const tn_weight *weight, const tn_weight *bias,
                        float *running_mean, float *running_var, float eps, float momentum, bool training);

/* Cos and sin of the rotary angles, [positions, D/2] each. */
typedef struct tn_rope_table {
    const float *cos, *sin;
} tn_rope_table;

/* In place: rotates each head of x [T, heads * D]. */
void tn_op_rope(tn_tape *tape, tn_var *x, const int32_t *positions, const tn_rope_table *table, int64_t heads,
                int64_t head_size);

/* Causal attention over a packed batch: q [T, H*D], k and v [T, K*D] -> [T, H*D]. spans must stay until backward. No later
 * op may read q, k or v. */
tn_var *tn_op_attention(tn_tape *tape, tn_var *q, tn_var *k, tn_var *v, const tn_span *spans, int64_t span_count,
                        const tn_attention_shape *shape);

/* The same over cached keys and values; not differentiable. */
tn_var *tn_op_attention_cached(tn_tape *tape, tn_var *q, const float *k, const float *v, const tn_span *spans,
                               int64_t span_count, const tn_attention_shape *shape);

/* silu(gate) * up. No later op may read gate or up. */
tn_var *tn_op_swiglu(tn_tape *tape, tn_var *gate, tn_var *up);

/* In place: x = max(x, 0). No later op may change x. */
void tn_op_relu(tn_tape *tape, tn_var *x);

/* x Phi(x), or its approximation by tanh, which transformers calls gelu_new; x / (1 + exp(-x)); tanh(x). No later op may
 * read x. */
tn_var *tn_op_gelu(tn_tape *tape, tn_var *x, bool by_tanh);
tn_var *tn_op_silu(tn_tape *tape, tn_var *x);
tn_var *tn_op_tanh(tn_tape *tape, tn_var *x);

/* In place: y += scale * x. */
void tn_op_add(tn_tape *tape, tn_var *y, tn_var *x, float scale);

/* y = x W^T with W [O, C] block-diagonal, stored as its blocks below each other: weight [O, C / blocks]. Rows i O / blocks
 * and on belong to columns i C / blocks and on. */
tn_var *tn_op_block_linear(tn_tape *tape, tn_var *x, const tn_weight *weight, int64_t blocks);

/* y[t] = x[t] * factors by elements: factors [C], each for the C-th part of the columns (one column, or a plane's). */
tn_var *tn_op_scale_columns(tn_tape *tape, tn_var *x, const tn_weight *factors);

/* y[t] = (magnitude / norms) * (x[t] - bias) + bias by elements, norms being constants: magnitude, norms, bias [O], each for
 * the O-th part of the columns; bias may be NULL. norms must stay until backward. */
tn_var *tn_op_magnitude(tn_tape *tape, tn_var *x, const tn_weight *magnitude, const float *norms, const tn_weight *bias);

/* y[t] = x[t] where keep[t], else 0; keep [T] must stay until backward. */
tn_var *tn_op_keep_rows(tn_tape *tape, tn_var *x, const bool *keep);

/* x with each element zeroed with probability p and the others scaled by 1 / (1 - p); the mask depends on (seed, stream). */
tn_var *tn_op_dropout(tn_tape *tape, tn_var *x, float p, uint64_t seed, uint64_t stream);

/* `count` rows of x: y[i] = x[rows[first + i]], in any order, or without rows x[first + i]. rows must stay until backward.
 */
tn_var *tn_op_take_rows(tn_tape *tape, tn_var *x, const int32_t *rows, int64_t first, int64_t count);

/* In place: y[rows[i]] += weight * (part[i] - y[rows[i]]): rows ascending, or NULL for all. rows must stay until backward.
 */
void tn_op_blend_rows(tn_tape *tape, tn_var *y, tn_var *part, const int32_t *rows, float weight);
/* `count` columns of x from `first` on. */
tn_var *tn_op_take_columns(tn_tape *tape, tn_var *x, int64_t first, int64_t count);

/* A batch of images is a value with a row for each, its columns channels of planes: [N, C * height * width]. */

/* OK when the numbers make a convolution or a pool whose sizes can be counted; else TN_ERROR_FORMAT says what is wrong. A
 * pool's padding is at most half its kernel and its dilation 1. Ops take shapes that passed. */
tn_status tn_conv_shape_check(const tn_conv_shape *shape);
tn_status tn_pool_shape_check(const tn_conv_shape *shape);

/* y = conv2d(x, weight) (+ bias), as torch.nn.functional's: x [N, C * height * width], weight [O, C / groups, kernel height,
 * kernel width], bias [O] or NULL -> [N, O * out height * out width]. */
tn_var *tn_op_conv2d(tn_tape *tape, tn_var *x, const tn_conv_shape *shape, const tn_weight *weight, const tn_weight *bias);

/* The same with a weight that is a value, [O, C / groups * kernel height * kernel width], and no bias. */
tn_var *tn_op_conv2d_by(tn_tape *tape, tn_var *x, const tn_conv_shape *shape, tn_var *w);

/* Largest element or mean of each window over each channel, padding counting as zeros in the mean:
 * [N, C * height * width] -> [N, C * out height * out width]. */
tn_var *tn_op_max_pool2d(tn_tape *tape, tn_var *x, const tn_conv_shape *shape);
tn_var *tn_op_avg_pool2d(tn_tape *tape, tn_var *x, const tn_conv_shape *shape);

/* Mean of each channel: [N, C * S] -> [N, C]. */
tn_var *tn_op_global_avg_pool(tn_tape *tape, tn_var *x, int64_t channels);

/* Losses that end a pass: losses [N] gets each row's. When recording, the gradient of grad_scale * sum(losses) lies on the
 * value, which may be overwritten by it and had none before.
 * Cross-entropy of logits [N, K] against labels [N] in [0, K); predicted [N] (or NULL) gets the largest logit's index, the
 * first of equals. */
void tn_op_class_loss(tn_tape *tape, tn_var *logits, const int32_t *labels, float grad_scale, float *losses,
                      int32_t *predicted);
/* mean over the K outputs of (y - targets)^2: y, targets [N, K]. */
void tn_op_squared_error(tn_tape *tape, tn_var *y, const float *targets, float grad_scale, float *losses);

/* Logits of hidden states, e.g. the output head with its adapters. The states are those of the labels from `first` on. */
typedef tn_var *(*tn_head_fn)(tn_tape *tape, void *context, tn_var *hidden, int64_t first);

/* Cross-entropy of head(hidden[rows[i]]), or without rows of head(hidden[i]), against labels[i], over pieces of rows so that
 * [T, V] never exists as a whole. losses [count] gets the loss of each label, correct [count] (or NULL) whether it was the
 * most likely token. When recording, the gradient of grad_scale * sum(losses) is computed in the same pass and lies on
 * `hidden` and on the weights.
 */
void tn_op_head_loss(tn_tape *tape, tn_var *hidden, tn_head_fn head, void *context, int64_t vocab_size, const int32_t *rows,
                     const int32_t *labels, int64_t count, float grad_scale, float *losses, uint8_t *correct);

/* Rows of `count` that tn_op_head_loss takes at a time: as many in each piece, but for a few of the last. `sparing`: as the
 * tape keeps_8bit. */
int64_t tn_head_loss_rows(const tn_kernels *kernels, bool sparing, int64_t vocab_size, int64_t count);

#endif
