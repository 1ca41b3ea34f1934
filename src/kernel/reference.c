/* The plain scalar reference of every kernel: one thread, sums in double, no cleverness. Every other table is tested
 * against it. Formulas and shapes are in kernel.h. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "kernel/cpu/tables.h"
#include "tensor/quant.h"

static double operand_at(const tn_operand *operand, int64_t i, int64_t j) {
    int64_t at = i * operand->row_stride + j * operand->col_stride;
    float value;
    switch (operand->dtype) {
    case TN_DTYPE_BF16: return tn_bf16_to_f32(((const uint16_t *)operand->data)[at]);
    case TN_DTYPE_F16: return tn_f16_to_f32(((const uint16_t *)operand->data)[at]);
    case TN_DTYPE_QUANTISED: tn_dequantise(&value, operand->data, operand->offset + at, 1); return value;
    default: return ((const float *)operand->data)[at];
    }
}

void tn_gemm_reference(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                       int64_t k) {
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += operand_at(&a, i, l) * operand_at(&b, l, j);
            double old = beta == 0 ? 0 : (double)beta * c[i * ldc + j];
            c[i * ldc + j] = (float)(alpha * sum + old);
        }
    }
}

static void gemm_infer(const tn_shared_product *products, int64_t count, tn_operand a, int64_t m, int64_t k) {
    for (int64_t i = 0; i < count; i++)
        tn_gemm_reference(products[i].c, products[i].ldc, a, products[i].b, 1, 0, m, products[i].n, k);
}

static void rmsnorm_forward(float *y, float *rstd, const float *x, const float *weight, float eps, int64_t rows,
                            int64_t cols) {
    for (int64_t row = 0; row < rows; row++, x += cols, y += cols) {
        double squares = 0;
        for (int64_t j = 0; j < cols; j++)
            squares += (double)x[j] * x[j];
        float r = (float)(1 / sqrt(squares / (double)cols + eps));
        for (int64_t j = 0; j < cols; j++)
            y[j] = x[j] * r * weight[j];
        if (rstd)
            rstd[row] = r;
    }
}

static void rmsnorm_backward(float *dx, bool accumulate, float *dweight, const float *dy, const float *x, const float *rstd,
                             const float *weight, int64_t rows, int64_t cols) {
    for (int64_t j = 0; dweight && j < cols; j++) {
        double sum = 0;
        for (int64_t row = 0; row < rows; row++)
            sum += (double)dy[row * cols + j] * x[row * cols + j] * rstd[row];
        dweight[j] += (float)sum;
    }
    for (int64_t row = 0; dx && row < rows; row++, dx += cols, dy += cols, x += cols) {
        double r = rstd[row], mean = 0;
        for (int64_t j = 0; j < cols; j++)
            mean += (double)dy[j] * weight[j] * x[j] / (double)cols;
        for (int64_t j = 0; j < cols; j++) {
            double value = r * ((double)dy[j] * weight[j] - x[j] * r * r * mean);
            dx[j] = (float)(accumulate ? dx[j] + value : value);
        }
    }
}

static void center_rows(float *y, bool accumulate, const float *x, int64_t rows, int64_t cols) {
    for (int64_t row = 0; row < rows; row++, x += cols, y += cols) {
        double mean = 0;
        for (int64_t j = 0; j < cols; j++)
            mean += x[j] / (double)cols;
        for (int64_t j = 0; j < cols; j++)
            y[j] = (float)((accumulate ? y[j] : 0) + (x[j] - mean));
    }
}

static void rope(float *x, const int32_t *positions, const float *cosines, const float *sines, bool inverse, int64_t rows,
                 int64_t heads, int64_t head_size) {
    int64_t half = head_size / 2;
    for (int64_t row = 0; row < rows; row++) {
        const float *c = cosines + positions[row] * half, *s = sines + positions[row] * half;
        for (int64_t head = 0; head < heads; head++, x += head_size) {
            for (int64_t i = 0; i < half; i++) {
                double a = x[i], b = x[i + half], sine = inverse ? -s[i] : s[i];
                x[i] = (float)(a * c[i] - b * sine);
                x[i + half] = (float)(b * c[i] + a * sine);
            }
        }
    }
}

/* One head of one span: rows of q, k, v and friends are at these strides. */
typedef struct {
    const float *q, *k, *v;
    int64_t q_stride, kv_stride, head_size, offset, window;
    double scale;
} head_view;

static head_view view_head(const float *q, const float *k, const float *v, const tn_span *span,
                           const tn_attention_shape *shape, int64_t head) {
    int64_t d = shape->head_size, q_stride = shape->heads * d, kv_stride = shape->kv_heads * d;
    int64_t kv_at = span->kv_start * kv_stride + head / (shape->heads / shape->kv_heads) * d;
    return (head_view){.q = q + span->q_start * q_stride + head * d,
                       .k = k + kv_at,
                       .v = v + kv_at,
                       .q_stride = q_stride,
                       .kv_stride = kv_stride,
                       .head_size = d,
                       .offset = span->kv_rows - span->q_rows,
                       .window = shape->window,
                       .scale = shape->scale};
}

static double dot(const float *a, const float *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

static double score(const head_view *view, int64_t i, int64_t j) {
    return view->scale * dot(view->q + i * view->q_stride, view->k + j * view->kv_stride, view->head_size);
}

/* Query i sees keys [first, last). */
static int64_t first_key(const head_view *view, int64_t i) {
    int64_t first = view->offset + i + 1 - view->window;
    return view->window > 0 && first > 0 ? first : 0;
}

static int64_t last_key(const head_view *view, int64_t i) {
    return view->offset + i + 1;
}

/* Sums over many keys or queries are kept in double for this many channels at a time. */
enum { CHANNELS = 64 };

static int64_t channels_from(int64_t at, int64_t head_size) {
    return head_size - at < CHANNELS ? head_size - at : CHANNELS;
}

/* Returns the row's log-sum-exp. */
static double attend_row(float *out, const head_view *view, int64_t i) {
    double max = -INFINITY, sum = 0;
    for (int64_t j = first_key(view, i); j < last_key(view, i); j++)
        max = fmax(max, score(view, i, j));
    for (int64_t j = first_key(view, i); j < last_key(view, i); j++)
        sum += exp(score(view, i, j) - max);
    for (int64_t at = 0; at < view->head_size; at += CHANNELS) {
        double acc[CHANNELS] = {0};
        int64_t channels = channels_from(at, view->head_size);
        for (int64_t j = first_key(view, i); j < last_key(view, i); j++) {
            double p = exp(score(view, i, j) - max) / sum;
            for (int64_t c = 0; c < channels; c++)
                acc[c] += p * view->v[j * view->kv_stride + at + c];
        }
        for (int64_t c = 0; c < channels; c++)
            out[at + c] = (float)acc[c];
    }
    return max + log(sum);
}

static void attention_forward(float *out, float *lse, const float *q, const float *k, const float *v, const tn_span *spans,
                              int64_t span_count, const tn_attention_shape *shape) {
    for (const tn_span *span = spans; span < spans + span_count; span++) {
        for (int64_t head = 0; head < shape->heads; head++) {
            head_view view = view_head(q, k, v, span, shape, head);
            for (int64_t i = 0; i < span->q_rows; i++) {
                int64_t row = span->q_start + i;
                double row_lse = attend_row(out + row * view.q_stride + head * view.head_size, &view, i);
                if (lse)
                    lse[row * shape->heads + head] = (float)row_lse;
            }
        }
    }
}

/* P = exp(S - lse); dV = P^T dO; dP = dO V^T; dS = P * (dP - rowsum(dO * O)); dQ = scale dS K; dK = scale dS^T Q. */
typedef struct {
    head_view view;
    const float *dout, *out, *lse; /* from the span's first query on, at this head */
    int64_t heads;
} backward_view;

static double probability(const backward_view *back, int64_t i, int64_t j) {
    return exp(score(&back->view, i, j) - back->lse[i * back->heads]);
}

static double score_gradient(const backward_view *back, int64_t i, int64_t j) {
    const head_view *view = &back->view;
    const float *dout = back->dout + i * view->q_stride;
    double delta = dot(dout, back->out + i * view->q_stride, view->head_size);
    return probability(back, i, j) * (dot(dout, view->v + j * view->kv_stride, view->head_size) - delta) * view->scale;
}

static backward_view view_backward(const float *dout, const float *out, const float *lse, const float *q, const float *k,
                                   const float *v, const tn_span *span, const tn_attention_shape *shape, int64_t head) {
    head_view view = view_head(q, k, v, span, shape, head);
    int64_t at = span->q_start * view.q_stride + head * view.head_size;
    return (backward_view){view, dout + at, out + at, lse + span->q_start * shape->heads + head, shape->heads};
}

static void query_gradient(float *dq, const backward_view *back, int64_t i) {
    const head_view *view = &back->view;
    for (int64_t at = 0; at < view->head_size; at += CHANNELS) {
        double acc[CHANNELS] = {0};
        int64_t channels = channels_from(at, view->head_size);
        for (int64_t j = first_key(view, i); j < last_key(view, i); j++) {
            double ds = score_gradient(back, i, j);
            for (int64_t c = 0; c < channels; c++)
                acc[c] += ds * view->k[j * view->kv_stride + at + c];
        }
        for (int64_t c = 0; c < channels; c++)
            dq[at + c] = (float)acc[c];
    }
}

static void add_key_gradients(float *dk, float *dv, const backward_view *back, int64_t q_rows, int64_t j) {
    const head_view *view = &back->view;
    for (int64_t at = 0; at < view->head_size; at += CHANNELS) {
        double k_acc[CHANNELS] = {0}, v_acc[CHANNELS] = {0};
        int64_t channels = channels_from(at, view->head_size);
        for (int64_t i = 0; i < q_rows; i++) {
            if (j < first_key(view, i) || j >= last_key(view, i))
                continue;
            double p = probability(back, i, j), ds = score_gradient(back, i, j);
            for (int64_t c = 0; c < channels; c++) {
                k_acc[c] += ds * view->q[i * view->q_stride + at + c];
                v_acc[c] += p * back->dout[i * view->q_stride + at + c];
            }
        }
        for (int64_t c = 0; c < channels; c++) {
            dk[at + c] += (float)k_acc[c];
            dv[at + c] += (float)v_acc[c];
        }
    }
}

static void attention_backward(float *dq, float *dk, float *dv, const float *dout, const float *out, const float *lse,
                               const float *q, const float *k, const float *v, const tn_span *spans, int64_t span_count,
                               const tn_attention_shape *shape) {
    for (const tn_span *span = spans; span < spans + span_count; span++) {
        for (int64_t head = 0; head < shape->heads; head++) {
            backward_view back = view_backward(dout, out, lse, q, k, v, span, shape, head);
            for (int64_t i = 0; i < span->q_rows; i++)
                query_gradient(dq + (span->q_start + i) * back.view.q_stride + head * shape->head_size, &back, i);
            for (int64_t j = 0; j < span->kv_rows; j++) {
                int64_t at = back.view.k + j * back.view.kv_stride - k;
                add_key_gradients(dk + at, dv + at, &back, span->q_rows, j);
            }
        }
    }
}

static void swiglu_forward(float *y, const float *gate, const float *up, int64_t count, void *gate_copy, void *up_copy,
                           tn_dtype dtype) {
    if (gate_copy)
        tn_convert_from_f32(gate_copy, dtype, gate, count);
    if (up_copy)
        tn_convert_from_f32(up_copy, dtype, up, count);
    for (int64_t i = 0; i < count; i++)
        y[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

static double stored_at(tn_stored x, int64_t i) {
    const tn_operand plain = tn_rows_of(x.data, x.dtype, 1);
    const tn_int8_block *block = (const tn_int8_block *)x.data + i / TN_INT8_BLOCK;
    return x.dtype == TN_DTYPE_INT8_BLOCKS ? block->scale * (float)block->codes[i % TN_INT8_BLOCK]
                                           : operand_at(&plain, i, 0);
}

static void swiglu_backward(float *dgate, float *dup, const float *dy, tn_stored gate, tn_stored up, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        double g = stored_at(gate, i), u = stored_at(up, i), sigmoid = 1 / (1 + exp(-g));
        dgate[i] = (float)(dy[i] * u * sigmoid * (1 + g * (1 - sigmoid)));
        dup[i] = (float)(dy[i] * g * sigmoid);
    }
}

/* f(x), and its slope. */
static double activate(double *slope, double x, tn_activation f) {
    double phi = exp(-x * x / 2) / sqrt(2 * M_PI), distribution = erfc(-x / M_SQRT2) / 2, z, s;
    switch (f) {
    case TN_ACTIVATION_GELU: *slope = distribution + x * phi; return x * distribution;
    case TN_ACTIVATION_GELU_TANH: /* (1 + tanh(z / 2)) / 2 is 1 / (1 + exp(-z)) */
        z = 2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
        s = 1 / (1 + exp(-z));
        *slope = s + x * s * (1 - s) * 2 * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
        return x * s;
    case TN_ACTIVATION_SILU:
        s = 1 / (1 + exp(-x));
        *slope = s * (1 + x * (1 - s));
        return x * s;
    default:
        z = tanh(x);
        *slope = 1 - z * z;
        return z;
    }
}

static void activation_forward(float *y, const float *x, tn_activation f, int64_t count) {
    double slope;
    for (int64_t i = 0; i < count; i++)
        y[i] = (float)activate(&slope, x[i], f);
}

static void activation_backward(float *dx, bool accumulate, const float *dy, tn_stored x, tn_activation f, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        double slope;
        activate(&slope, stored_at(x, i), f);
        dx[i] = (float)((accumulate ? dx[i] : 0) + dy[i] * slope);
    }
}

static void relu_forward(float *y, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        y[i] = y[i] < 0 ? 0 : y[i];
}

static void relu_backward(float *dy, const float *y, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        dy[i] = y[i] == 0 ? 0 : dy[i];
}

static void cross_entropy(float *losses, uint8_t *correct, float *logits, const int32_t *labels, float grad_scale,
                          int64_t rows, int64_t cols) {
    for (int64_t row = 0; row < rows; row++, logits += cols) {
        int32_t label = labels[row];
        double max = -INFINITY, sum = 0, at_label = logits[label];
        bool finite = true, largest = true;
        for (int64_t j = 0; j < cols; j++) {
            max = fmax(max, logits[j]);
            finite = finite && isfinite(logits[j]); /* even -inf, which the exponential would hide */
            largest = largest && (j < label ? logits[j] < at_label : logits[j] <= at_label);
        }
        for (int64_t j = 0; j < cols; j++)
            sum += exp(logits[j] - max);
        losses[row] = finite ? (float)(max + log(sum) - at_label) : NAN;
        if (correct)
            correct[row] = finite && largest;
        for (int64_t j = 0; grad_scale != 0 && j < cols; j++)
            logits[j] = (float)(grad_scale * (exp(logits[j] - max) / sum - (j == label)));
    }
}

static void argmax_rows(int32_t *out, const float *x, int64_t rows, int64_t cols) {
    for (int64_t t = 0; t < rows; t++, x += cols) {
        int64_t best = 0;
        for (int64_t c = 1; c < cols; c++)
            best = x[c] > x[best] ? c : best;
        out[t] = (int32_t)best;
    }
}

static void embedding_forward(float *y, const int32_t *ids, const void *table, tn_dtype dtype, int64_t rows, int64_t cols) {
    const tn_tensor tensor = {.dtype = dtype, .data = (void *)(uintptr_t)table};
    for (int64_t row = 0; row < rows; row++)
        tn_tensor_read(y + row * cols, &tensor, ids[row] * cols, cols);
}

static void embedding_backward(float *dtable, const int32_t *ids, const float *dy, int64_t rows, int64_t cols) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t j = 0; j < cols; j++)
            dtable[ids[row] * cols + j] += dy[row * cols + j];
}

static void add_bias(float *y, const float *bias, float factor, int64_t rows, int64_t cols) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t j = 0; j < cols; j++)
            y[row * cols + j] += factor * bias[j];
}

static void sum_rows(float *out, const float *x, float factor, int64_t rows, int64_t cols) {
    for (int64_t j = 0; j < cols; j++) {
        double sum = 0;
        for (int64_t row = 0; row < rows; row++)
            sum += x[row * cols + j];
        out[j] += (float)(factor * sum);
    }
}

static void scale_columns(float *y, bool accumulate, const float *x, const float *factors, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows * cols; i++)
        y[i] = (accumulate ? y[i] : 0) + x[i] * factors[i % cols];
}

static void sum_products(float *out, const float *x, const float *y, int64_t rows, int64_t cols) {
    for (int64_t j = 0; j < cols; j++) {
        double sum = 0;
        for (int64_t i = 0; i < rows; i++)
            sum += (double)x[i * cols + j] * y[i * cols + j];
        out[j] += (float)sum;
    }
}

static void multiply(float *y, bool accumulate, const float *a, const float *b, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        y[i] = (accumulate ? y[i] : 0) + a[i] * b[i];
}

static void add(float *y, const float *x, float factor, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        y[i] += factor * x[i];
}

static void copy(float *y, const float *x, int64_t count) {
    memcpy(y, x, (size_t)count * sizeof *y);
}

static void fill(float *y, float value, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        y[i] = value;
}

static void scale(float *y, float factor, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        y[i] *= factor;
}

static void dropout(float *y, bool accumulate, const float *x, float p, uint64_t seed, uint64_t stream, int64_t count) {
    uint32_t words[4];
    float factor = 1 / (1 - p);
    for (int64_t i = 0; i < count; i++) {
        if (i % 4 == 0)
            tn_philox(seed, stream, (uint64_t)i / 4, words);
        float value = words[i % 4] >= p * 0x1p32 ? x[i] * factor : 0;
        y[i] = accumulate ? y[i] + value : value;
    }
}

static void adamw(float *param, const float *grad, float *m, float *v, const tn_adamw_step *step, int64_t count) {
    float decay = 1 - step->lr * step->weight_decay, rate = step->lr / step->correction1;
    for (int64_t i = 0; i < count; i++) {
        float g = grad[i] * step->grad_scale;
        m[i] = step->beta1 * m[i] + (1 - step->beta1) * g;
        v[i] = step->beta2 * v[i] + (1 - step->beta2) * g * g;
        param[i] = param[i] * decay - rate * m[i] / (sqrtf(v[i] / step->correction2) + step->eps);
    }
}

/* A block of at most TN_MOMENT_BLOCK elements back into codes. */
static float quantise_moments(uint8_t *codes, const float *x, const float map[256], int64_t count) {
    tn_quant_unit unit = tn_quant_unit_of(x, count, TN_MOMENT_BLOCK);
    for (int64_t i = 0; i < count; i++)
        codes[i] = tn_dynamic_nearest(map, tn_quant_to_unit(&unit, x[i]));
    return unit.absmax;
}

static void adamw8bit(float *param, const float *grad, const tn_moments8 *moments, const tn_adamw_step *step,
                      int64_t count) {
    float m[TN_MOMENT_BLOCK], v[TN_MOMENT_BLOCK];
    for (int64_t block = 0; block * TN_MOMENT_BLOCK < count; block++) {
        int64_t at = block * TN_MOMENT_BLOCK, length = count - at < TN_MOMENT_BLOCK ? count - at : TN_MOMENT_BLOCK;
        for (int64_t i = 0; i < length; i++) {
            m[i] = tn_dynamic_signed[moments->m[at + i]] * moments->m_absmax[block];
            v[i] = tn_dynamic_unsigned[moments->v[at + i]] * moments->v_absmax[block];
        }
        adamw(param + at, grad + at, m, v, step, length);
        moments->m_absmax[block] = quantise_moments(moments->m + at, m, tn_dynamic_signed, length);
        moments->v_absmax[block] = quantise_moments(moments->v + at, v, tn_dynamic_unsigned, length);
    }
}

static double sum_squares(const float *x, int64_t count) {
    return dot(x, x, count);
}

static bool all_finite(const float *x, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

const tn_kernels tn_kernels_reference = {
    .name = "reference",
    TN_PLAIN_KERNELS,
    .gemm = tn_gemm_reference,
    .gemm_serial = tn_gemm_reference,
    .gemm_infer = gemm_infer,
    .rmsnorm_forward = rmsnorm_forward,
    .rmsnorm_backward = rmsnorm_backward,
    .center_rows = center_rows,
    .rope = rope,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .swiglu_forward = swiglu_forward,
    .swiglu_backward = swiglu_backward,
    .activation_forward = activation_forward,
    .activation_backward = activation_backward,
    .relu_forward = relu_forward,
    .relu_backward = relu_backward,
    .cross_entropy = cross_entropy,
    .argmax_rows = argmax_rows,
    .embedding_forward = embedding_forward,
    .embedding_backward = embedding_backward,
    .add_bias = add_bias,
    .sum_rows = sum_rows,
    .scale_columns = scale_columns,
    .sum_products = sum_products,
    .multiply = multiply,
    .add = add,
    .copy = copy,
    .fill = fill,
    .scale = scale,
    .dropout = dropout,
    .adamw = adamw,
    .adamw8bit = adamw8bit,
    .sum_squares = sum_squares,
    .all_finite = all_finite,
    .dequantise = tn_dequantise,
    .to_f32 = tn_convert_to_f32,
    .from_f32 = tn_convert_from_f32,
};
