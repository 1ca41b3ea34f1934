/* The table of kernels that every backend fills. Nothing above this floor knows which backend it runs on.
 *
 * Conventions: outputs first, inputs const, sizes last; arrays are f32 and row-major unless they carry a dtype; "+="
 * in a comment means that the kernel adds to what is there. Kernels are void: arguments were checked above. For given
 * inputs a kernel gives the same bits whatever the number of threads: work is cut into pieces of fixed size, each
 * computed by one thread, and no sum is split between threads but in a fixed order. */
#ifndef TN_KERNEL_KERNEL_H
#define TN_KERNEL_KERNEL_H

#include "tensor/quant.h"

/* A matrix operand: element (i, j) is data[i * row_stride + j * col_stride]; one of the strides is 1. Of a quantised one,
 * data is a tn_quantised and the element is number offset + i * row_stride + j * col_stride of it. */
typedef struct tn_operand {
    const void *data;
    tn_dtype dtype; /* F32, BF16, F16 or QUANTISED */
    int64_t row_stride, col_stride;
    int64_t offset; /* 0 unless quantised */
} tn_operand;

static inline tn_operand tn_rows_of(const void *data, tn_dtype dtype, int64_t stride) {
    return (tn_operand){data, dtype, stride, 1, 0};
}
static inline tn_operand tn_transpose_of(const void *data, tn_dtype dtype, int64_t stride) {
    return (tn_operand){data, dtype, 1, stride, 0};
}

/* The operand from element (row, col) on, and with rows and columns exchanged. */
static inline tn_operand tn_operand_part(tn_operand x, int64_t row, int64_t col) {
    int64_t skipped = row * x.row_stride + col * x.col_stride;
    if (x.dtype == TN_DTYPE_QUANTISED)
        x.offset += skipped;
    else
        x.data = (const char *)x.data + skipped * tn_dtype_size(x.dtype);
    return x;
}
static inline tn_operand tn_operand_transposed(tn_operand x) {
    return (tn_operand){x.data, x.dtype, x.col_stride, x.row_stride, x.offset};
}

/* Values that were kept for the way back, as F32, BF16, F16 or INT8_BLOCKS. */
typedef struct tn_stored {
    const void *data;
    tn_dtype dtype;
} tn_stored;

/* One sequence of a packed batch: query rows [q_start, q_start + q_rows) see keys [kv_start, kv_start + kv_rows), the
 * last query standing on the last key: query i has position kv_rows - q_rows + i among its keys and sees those up to it. */
typedef struct tn_span {
    int64_t q_start, q_rows, kv_start, kv_rows;
} tn_span;

typedef struct tn_attention_shape {
    int64_t heads, kv_heads, head_size; /* H, K, D; query head h uses key head h / (H / K) */
    int64_t window;                     /* a query sees its last `window` keys, itself included; 0: all */
    float scale;                        /* on the scores, usually 1 / sqrt(D) */
} tn_attention_shape;

/* A convolution over planes of height * width, as torch.nn.Conv2d's: x [N, C, height, width] -> [N, O, out height, out
 * width] with C in_channels and O out_channels, each group of output channels reading its own group of input channels. A
 * pool is a window of the same kind over each channel by itself: out_channels and groups do not matter, dilation is 1. */
typedef struct tn_conv_shape {
    int64_t in_channels, out_channels, height, width;
    int64_t kernel_height, kernel_width, stride_height, stride_width;
    int64_t padding_height, padding_width, dilation_height, dilation_width;
    int64_t groups;
} tn_conv_shape;

static inline int64_t tn_conv_out_height(const tn_conv_shape *s) {
    return (s->height + 2 * s->padding_height - s->dilation_height * (s->kernel_height - 1) - 1) / s->stride_height + 1;
}
static inline int64_t tn_conv_out_width(const tn_conv_shape *s) {
    return (s->width + 2 * s->padding_width - s->dilation_width * (s->kernel_width - 1) - 1) / s->stride_width + 1;
}

/* Phi is the distribution function of the standard normal. */
typedef enum tn_activation {
    TN_ACTIVATION_GELU,      /* x Phi(x) */
    TN_ACTIVATION_GELU_TANH, /* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
    TN_ACTIVATION_SILU,      /* x / (1 + exp(-x)) */
    TN_ACTIVATION_TANH
} tn_activation;

typedef struct tn_adamw_step {
    float lr, beta1, beta2, eps, weight_decay;
    float correction1, correction2; /* 1 - beta^step */
    float grad_scale;               /* from clipping */
} tn_adamw_step;

/* One of several products that share their A. */
typedef struct tn_shared_product {
    float *c;
    int64_t ldc;
    tn_operand b;
    int64_t n;
} tn_shared_product;

/* Both moments of a parameter in 8 bits (quant_dynamic.c): the first in the signed map, the second in the unsigned one, each
 * code [count] to be multiplied by the absmax [blocks] of its block. All zero to start with. */
enum { TN_MOMENT_BLOCK = 256 };
typedef struct tn_moments8 {
    uint8_t *m, *v;
    float *m_absmax, *v_absmax;
} tn_moments8;

static inline int64_t tn_moment_blocks(int64_t count) {
    return (count + TN_MOMENT_BLOCK - 1) / TN_MOMENT_BLOCK;
}

typedef struct tn_kernels {
    const char *name;

    /* Operands of matrix products, attention's among them, are rounded to bf16 unless the product is thin (a side below 32).
     */
    bool rounds;

    /* C[m,n] = alpha * A[m,k] B[k,n] + beta * C (beta 0 does not read C); ldc is C's row stride. `gemm` uses all
     * threads, `gemm_serial` the calling one (it may be called inside a parallel region). */
    void (*gemm)(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                 int64_t k);
    void (*gemm_serial)(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                        int64_t k);

    /* C = A B for each, for inference. With gemm's bits, unless a B is quantised and m small: A may then be rounded to 16
     * bits by runs of a row. The bits of a row do not depend on the others, nor on what else is computed. */
    void (*gemm_infer)(const tn_shared_product *products, int64_t count, tn_operand a, int64_t m, int64_t k);

    /* y = x * rstd * weight by rows, rstd = 1 / sqrt(mean(x^2) + eps). rstd [rows] is written when not NULL. */
    void (*rmsnorm_forward)(float *y, float *rstd, const float *x, const float *weight, float eps, int64_t rows,
                            int64_t cols);
    /* dx (+)= rstd * (dy*weight - x * rstd^2 * mean(dy*weight*x)); dweight += sum over rows of dy * x * rstd. dx and
     * dweight may be NULL; `accumulate` says whether dx is added to. */
    void (*rmsnorm_backward)(float *dx, bool accumulate, float *dweight, const float *dy, const float *x, const float *rstd,
                             const float *weight, int64_t rows, int64_t cols);

    /* y (+)= x - mean(x) by rows; y may be x. */
    void (*center_rows)(float *y, bool accumulate, const float *x, int64_t rows, int64_t cols);

    /* Rotates in place, by rows of [rows, heads * head_size]: the pair (i, i + D/2) of each head by the angle whose cos
     * and sin are table rows positions[row] of [.., D/2]; `inverse` rotates back (the backward pass). */
    void (*rope)(float *x, const int32_t *positions, const float *cos, const float *sin, bool inverse, int64_t rows,
                 int64_t heads, int64_t head_size);

    /* out = softmax(scale * q k^T + causal and window mask) v. q, out [.., H*D]; k, v [.., K*D]; lse [q rows, H] gets the
     * log of each row's sum of exponentials when not NULL. Never forms a T x T matrix; skips what the mask kills. */
    void (*attention_forward)(float *out, float *lse, const float *q, const float *k, const float *v, const tn_span *spans,
                              int64_t span_count, const tn_attention_shape *shape);
    /* dq =, dk +=, dv += (the caller zeroes dk and dv). Spans must not share keys. */
    void (*attention_backward)(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                               const float *q, const float *k, const float *v, const tn_span *spans, int64_t span_count,
                               const tn_attention_shape *shape);

    /* y = silu(gate) * up, silu(z) = z / (1 + exp(-z)). The copies get gate and up in a smaller type; NULL: none. */
    void (*swiglu_forward)(float *y, const float *gate, const float *up, int64_t count, void *gate_copy, void *up_copy,
                           tn_dtype dtype);
    /* dgate and dup may be the same memory as gate and up in f32. */
    void (*swiglu_backward)(float *dgate, float *dup, const float *dy, tn_stored gate, tn_stored up, int64_t count);

    /* y = f(x); dx (+)= dy * f'(x), and dx may be the same memory as x in f32. */
    void (*activation_forward)(float *y, const float *x, tn_activation f, int64_t count);
    void (*activation_backward)(float *dx, bool accumulate, const float *dy, tn_stored x, tn_activation f, int64_t count);

    /* y = max(y, 0); dy is cleared where y, the result, is 0. NaN stays NaN. */
    void (*relu_forward)(float *y, int64_t count);
    void (*relu_backward)(float *dy, const float *y, int64_t count);

    /* Softmax cross-entropy by rows of logits [rows, cols] against labels[rows]: losses[row] = logsumexp - logit[label];
     * correct[row] = whether the label has the largest logit (first of equals; may be NULL). With grad_scale != 0 the
     * logits are replaced by their gradient grad_scale * (softmax - onehot). */
    void (*cross_entropy)(float *losses, uint8_t *correct, float *logits, const int32_t *labels, float grad_scale,
                          int64_t rows, int64_t cols);

    /* losses[row] = mean((y - target)^2) by rows. With grad_scale != 0, y is replaced by the gradient of grad_scale *
     * losses: grad_scale * 2 / cols * (y - target). */
    void (*squared_error)(float *losses, float *y, const float *targets, float grad_scale, int64_t rows, int64_t cols);

    /* out[row] = index of the row's largest element, the first of equals. */
    void (*argmax_rows)(int32_t *out, const float *x, int64_t rows, int64_t cols);

    /* y[row] = table[ids[row]] widened to f32 (table: a tn_quantised when dtype is QUANTISED); the reverse adds rows of dy
     * to an f32 table in row order. */
    void (*embedding_forward)(float *y, const int32_t *ids, const void *table, tn_dtype dtype, int64_t rows, int64_t cols);
    void (*embedding_backward)(float *dtable, const int32_t *ids, const float *dy, int64_t rows, int64_t cols);

    /* Columns of a table [table_rows, table_cols]: out[row][r] = table[r][ids[row]], out [rows, table_rows]; the reverse
     * adds rows of `in` to the table's columns in row order. */
    void (*gather_columns)(float *out, const int32_t *ids, const float *table, int64_t rows, int64_t table_rows,
                           int64_t table_cols);
    void (*scatter_columns)(float *table, const int32_t *ids, const float *in, int64_t rows, int64_t table_rows,
                            int64_t table_cols);

    /* y[row] = replacement[k] where ids[row] == indices[k] (indices are distinct); the reverse adds dy[row] to
     * dreplacement[k] (may be NULL) and clears dy[row]. */
    void (*replace_rows)(float *y, const int32_t *ids, const float *replacement, const int32_t *indices, int64_t rows,
                         int64_t cols, int64_t count);
    void (*replace_rows_backward)(float *dreplacement, float *dy, const int32_t *ids, const int32_t *indices, int64_t rows,
                                  int64_t cols, int64_t count);

    /* y[row][indices[k]] = in[row][k]; the reverse moves those columns of y to out and leaves zeros. in, out [rows, count].
     */
    void (*put_columns)(float *y, const int32_t *indices, const float *in, int64_t rows, int64_t count, int64_t cols);
    void (*gather_columns_and_clear)(float *out, const int32_t *indices, float *y, int64_t rows, int64_t count,
                                     int64_t cols);

    /* y[t] (+)= x[t] * factors by elements, factors [cols]; out += sum over rows of x * y by elements, out [cols]. */
    void (*scale_columns)(float *y, bool accumulate, const float *x, const float *factors, int64_t rows, int64_t cols);
    void (*sum_products)(float *out, const float *x, const float *y, int64_t rows, int64_t cols);

    /* y (+)= a * b by elements; y may be a or b. */
    void (*multiply)(float *y, bool accumulate, const float *a, const float *b, int64_t count);

    /* Values of channels and of the `span` columns that belong to each: out[c * span + s] = values[c], out[c] += sum over s
     * of values[c * span + s]. */
    void (*spread_channels)(float *out, const float *values, int64_t channels, int64_t span);
    void (*sum_channels)(float *out, const float *values, int64_t channels, int64_t span);

    /* Output positions q = n * OH * OW + oy * OW + ox of x [N, C, H, W] from `first` on: cols[(c * kh + i) * kw + j][q -
     * first] is what tap (i, j) of the window at q reads from channel c, 0 in the padding. cols [C * kh * kw, count]. The
     * reverse adds cols to where they were read. */
    void (*im2col)(float *cols, const float *x, const tn_conv_shape *shape, int64_t first, int64_t count);
    void (*col2im)(float *dx, const float *cols, const tn_conv_shape *shape, int64_t first, int64_t count);

    /* y[n][c][s] = in[c][q - first] for q = n * span + s from `first` on, and the reverse. in, out [channels, count]. */
    void (*put_positions)(float *y, const float *in, int64_t channels, int64_t span, int64_t first, int64_t count);
    void (*take_positions)(float *out, const float *y, int64_t channels, int64_t span, int64_t first, int64_t count);

    /* Largest element of each window of each of `planes` planes, padding left out, NaN being the largest; index gets where
     * in its plane the first of equals stands (may be NULL). The reverse adds dy there. */
    void (*max_pool)(float *y, int32_t *index, const float *x, const tn_conv_shape *shape, int64_t planes);
    void (*max_pool_backward)(float *dx, const float *dy, const int32_t *index, const tn_conv_shape *shape, int64_t planes);
    /* Mean of each window, padding counted as zeros; the reverse adds to dx. */
    void (*avg_pool)(float *y, const float *x, const tn_conv_shape *shape, int64_t planes);
    void (*avg_pool_backward)(float *dx, const float *dy, const tn_conv_shape *shape, int64_t planes);

    /* y[t] (+)= x[t] where keep[t], else nothing (0 without accumulate). */
    void (*keep_rows)(float *y, bool accumulate, const float *x, const bool *keep, int64_t rows, int64_t cols);

    void (*add_bias)(float *y, const float *bias, float scale, int64_t rows, int64_t cols); /* y += scale * bias */
    void (*sum_rows)(float *out, const float *x, float scale, int64_t rows, int64_t cols);  /* out += scale * sum */
    void (*add)(float *y, const float *x, float scale, int64_t count);                      /* y += scale * x */
    void (*copy)(float *y, const float *x, int64_t count);
    void (*fill)(float *y, float value, int64_t count);
    void (*scale)(float *y, float factor, int64_t count);

    /* y (+)= x * keep / (1 - p); element i is kept when Philox word i of (seed, stream) is >= p * 2^32. */
    void (*dropout)(float *y, bool accumulate, const float *x, float p, uint64_t seed, uint64_t stream, int64_t count);

    /* Decoupled weight decay, then the bias-corrected update (Loshchilov & Hutter 2019), as torch.optim.AdamW:
     * g = grad*grad_scale; p *= 1 - lr*wd; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= lr/c1 * m / (sqrt(v/c2) + eps).
     */
    void (*adamw)(float *param, const float *grad, float *m, float *v, const tn_adamw_step *step, int64_t count);
    /* The same with m = m_map[code] m_absmax and v likewise; the step uses the new m and v before they are quantised: a
     * block's absmax is its largest magnitude, codes are those of the nearest values of m / absmax, exactly between two of
     * the lower one (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization"). */
    void (*adamw8bit)(float *param, const float *grad, const tn_moments8 *moments, const tn_adamw_step *step, int64_t count);

    /* out [count] = elements first .. first + count - 1 of the array, with the bits of tn_dequantise; by the calling thread.
     */
    void (*dequantise)(float *out, const tn_quantised *array, int64_t first, int64_t count);

    double (*sum_squares)(const float *x, int64_t count); /* double sums over chunks of fixed size, in order */
    bool (*all_finite)(const float *x, int64_t count);

    void (*to_f32)(float *out, const void *in, tn_dtype dtype, int64_t count);   /* any float type, or INT8_BLOCKS */
    void (*from_f32)(void *out, tn_dtype dtype, const float *in, int64_t count); /* rounds to nearest even */
} tn_kernels;

/* The fastest table that this CPU runs ("avx512", "avx2" or "generic"); the environment variable TENON_CPU names a slower
 * one. Chosen once; never NULL. */
const tn_kernels *tn_kernels_cpu(void);

/* The same with operands of most matrix products rounded to bf16 and sums in f32 ("avx512_bf16"), or NULL where the CPU
 * (or the slower table that TENON_CPU names) cannot do that. */
const tn_kernels *tn_kernels_cpu_bf16(void);

/* A table by name, or NULL when this CPU or build does not have it; "reference" is the plain scalar one. */
const tn_kernels *tn_kernels_by_name(const char *name);

/* Threads that kernels use in the calling thread's parallel regions; 0 asks for one per available core. Returns the number
 * set. */
int tn_threads_set(int count);
int tn_threads(void);

#endif
