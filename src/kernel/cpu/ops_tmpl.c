/* Every kernel but the matrix product and attention, compiled once per instruction set with TN_ISA naming it. Formulas and
 * shapes are in kernel.h. Work is cut into rows, or chunks of TN_CHUNK elements, or blocks of columns, never by the number
 * of threads; sums over rows belong to one thread and run in row order. */
#include "kernel/cpu/simd.h"

/* Columns that one thread sums down all rows: in double, as many as keep the sums in the first-level cache. */
enum { COLUMNS = 64 };

static void rmsnorm_forward(float *y, float *rstd, const float *x, const float *weight, float eps, int64_t rows,
                            int64_t cols) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * cols))
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;
        float r = 1 / sqrtf(tn_dot(in, in, cols) / (float)cols + eps);
#pragma omp simd
        for (int64_t j = 0; j < cols; j++)
            out[j] = in[j] * r * weight[j];
        if (rstd)
            rstd[row] = r;
    }
}

static void rmsnorm_backward_weight(float *dweight, const float *dy, const float *x, const float *rstd, int64_t rows,
                                    int64_t cols) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * cols))
    for (int64_t at = 0; at < cols; at += COLUMNS) {
        double sums[COLUMNS] = {0};
        int64_t columns = tn_min_i64(COLUMNS, cols - at);
        for (int64_t row = 0; row < rows; row++) {
            const float *dy_row = dy + row * cols + at, *x_row = x + row * cols + at;
            float r = rstd[row];
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                sums[j] += dy_row[j] * x_row[j] * r;
        }
        for (int64_t j = 0; j < columns; j++)
            dweight[at + j] += (float)sums[j];
    }
}

static void rmsnorm_backward(float *dx, bool accumulate, float *dweight, const float *dy, const float *x, const float *rstd,
                             const float *weight, int64_t rows, int64_t cols) {
    if (dweight)
        rmsnorm_backward_weight(dweight, dy, x, rstd, rows, cols);
    if (!dx)
        return;
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * cols))
    for (int64_t row = 0; row < rows; row++) {
        const float *dy_row = dy + row * cols, *x_row = x + row * cols;
        float *dx_row = dx + row * cols, r = rstd[row];
        float slope = r * r * (tn_dot_weighted(dy_row, x_row, weight, cols) / (float)cols);
        if (accumulate) {
#pragma omp simd
            for (int64_t j = 0; j < cols; j++)
                dx_row[j] += r * (dy_row[j] * weight[j] - x_row[j] * slope);
        } else {
#pragma omp simd
            for (int64_t j = 0; j < cols; j++)
                dx_row[j] = r * (dy_row[j] * weight[j] - x_row[j] * slope);
        }
    }
}

static void center_rows(float *y, bool accumulate, const float *x, int64_t rows, int64_t cols) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * cols))
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols, mean = tn_sum(in, cols) / (float)cols, rest = 0; /* what rounding has left */
#pragma omp simd reduction(+ : rest)
        for (int64_t j = 0; j < cols; j++)
            rest += in[j] - mean;
        mean += rest / (float)cols;
#pragma omp simd
        for (int64_t j = 0; j < cols; j++)
            out[j] = (accumulate ? out[j] : 0) + (in[j] - mean);
    }
}

static void rope(float *x, const int32_t *positions, const float *cosines, const float *sines, bool inverse, int64_t rows,
                 int64_t heads, int64_t head_size) {
    int64_t half = head_size / 2;
    float sign = inverse ? -1.0f : 1.0f;
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * heads * head_size))
    for (int64_t row = 0; row < rows; row++) {
        const float *c = cosines + positions[row] * half, *s = sines + positions[row] * half;
        for (int64_t head = 0; head < heads; head++) {
            float *low = x + (row * heads + head) * head_size, *high = low + half;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                float a = low[i], b = high[i], sine = sign * s[i];
                low[i] = a * c[i] - b * sine;
                high[i] = b * c[i] + a * sine;
            }
        }
    }
}

static void swiglu_forward(float *y, const float *gate, const float *up, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        int64_t end = tn_min_i64(at + TN_CHUNK, count);
#pragma omp simd
        for (int64_t i = at; i < end; i++)
            y[i] = gate[i] / (1.0f + tn_exp(-gate[i])) * up[i];
    }
}

static void swiglu_backward(float *dgate, float *dup, const float *dy, const float *gate, const float *up, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        int64_t end = tn_min_i64(at + TN_CHUNK, count);
#pragma omp simd
        for (int64_t i = at; i < end; i++) {
            float g = gate[i], u = up[i], d = dy[i], e = tn_exp(-g), sigmoid = 1.0f / (1.0f + e);
            /* 1 - sigmoid without cancellation; e overflows only where the product is 0 either way */
            float rest = e < INFINITY ? e * sigmoid : 1.0f;
            dgate[i] = d * u * sigmoid * (1.0f + g * rest);
            dup[i] = d * (g * sigmoid);
        }
    }
}

/* x Phi(x) and its slope Phi(x) + x phi(x). For x <= 0, Phi(x) = exp(-x^2 / 2) t P(t), t = 1 / (1 + 0.35 |x|), with P fitted
 * to a relative error of 3e-8 for |x| < 13.5, so that the tail keeps all its digits. The square's upper half is exact, and
 * the small rest d is a factor exp(-d) of its own. */
static inline float gelu_of(float x, float *slope) {
    float size = fabsf(x), a = size < 13.5f ? size : 13.5f, t = 1.0f / (1.0f + 0.35f * a);
    float high = tn_float_of_bits(tn_bits_of_float(a) & 0xfffff000), d = 0.5f * (a - high) * (a + high);
    float e = tn_exp(-0.5f * high * high) * (1.0f - d * (1.0f - d * (0.5f - d * 0.16666667f)));
    float p = tn_muladd(-0.0291259638f, t, 0.143872698f);
    p = tn_muladd(p, t, -0.255505481f);
    p = tn_muladd(p, t, 0.158930286f);
    p = tn_muladd(p, t, -0.0229377819f);
    p = tn_muladd(p, t, 0.105433189f);
    p = tn_muladd(p, t, 0.119852379f);
    p = tn_muladd(p, t, 0.139859089f);
    p = tn_muladd(p, t, 0.139621569f);
    float tail = e * t * p, distribution = x > 0 ? 1.0f - tail : tail;
    *slope = distribution + x * e * 0.39894228f;
    return x * distribution;
}

/* x sigmoid(z), z = factor x (1 + cubic x^2), and its slope: SiLU, and GELU by tanh, as 1 + tanh(u) is 2 sigmoid(2 u).
 * Beyond `limit` the sigmoid is 0 or 1, and terms must not overflow. */
typedef struct {
    float factor, cubic, limit;
} gate;

static inline float gated_by(gate g, float x, float *slope) {
    float c = x < -g.limit ? -g.limit : x > g.limit ? g.limit : x, square = g.cubic * c * c;
    float e = tn_exp(-g.factor * c * (1.0f + square)), sigmoid = 1.0f / (1.0f + e);
    float rest = e < INFINITY ? e * sigmoid : 1.0f;
    *slope = sigmoid * (1.0f + g.factor * c * (1.0f + 3.0f * square) * rest);
    return (x > g.limit ? x : c) * sigmoid;
}

/* The exponential away from 0; the series near it, where 1 - exp(-2 x) would cancel. */
static inline float tanh_of(float x, float *slope) {
    float size = fabsf(x), s = x * x, e = tn_exp(-2.0f * size), far = (1.0f - e) / (1.0f + e);
    float p = tn_muladd(-8.8632355e-3f, s, 2.1869489e-2f);
    p = tn_muladd(p, s, -5.3968254e-2f);
    p = tn_muladd(p, s, 1.3333333e-1f);
    p = tn_muladd(p, s, -3.3333333e-1f);
    float y = size < 0.3f ? tn_muladd(p * s, x, x) : copysignf(far, x);
    *slope = size < 0.3f ? 1.0f - y * y : 4.0f * e / ((1.0f + e) * (1.0f + e));
    return y;
}

/* So many that what nobody wants of them, values or slopes, stays in the first-level cache. */
enum { ACTIVATION_PIECE = 256 };

static void activate(float *values, float *slopes, const float *x, tn_activation f, int64_t count) {
    const gate g = f == TN_ACTIVATION_SILU ? (gate){1, 0, 100} : (gate){1.59576912f, 0.044715f, 12};
    switch (f) {
    case TN_ACTIVATION_GELU:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            values[i] = gelu_of(x[i], &slopes[i]);
        break;
    case TN_ACTIVATION_GELU_TANH:
    case TN_ACTIVATION_SILU:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            values[i] = gated_by(g, x[i], &slopes[i]);
        break;
    default:
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            values[i] = tanh_of(x[i], &slopes[i]);
    }
}

static void activation_forward(float *y, const float *x, tn_activation f, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += ACTIVATION_PIECE) {
        float slopes[ACTIVATION_PIECE];
        activate(y + at, slopes, x + at, f, tn_min_i64(ACTIVATION_PIECE, count - at));
    }
}

static void activation_backward(float *dx, bool accumulate, const float *dy, const float *x, tn_activation f,
                                int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += ACTIVATION_PIECE) {
        float values[ACTIVATION_PIECE], slopes[ACTIVATION_PIECE];
        int64_t piece = tn_min_i64(ACTIVATION_PIECE, count - at);
        activate(values, slopes, x + at, f, piece);
#pragma omp simd
        for (int64_t i = 0; i < piece; i++)
            dx[at + i] = (accumulate ? dx[at + i] : 0) + dy[at + i] * slopes[i];
    }
}

static void relu_forward(float *y, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        int64_t end = tn_min_i64(at + TN_CHUNK, count);
#pragma omp simd
        for (int64_t i = at; i < end; i++)
            y[i] = y[i] < 0 ? 0 : y[i];
    }
}

static void relu_backward(float *dy, const float *y, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        int64_t end = tn_min_i64(at + TN_CHUNK, count);
#pragma omp simd
        for (int64_t i = at; i < end; i++)
            dy[i] = y[i] == 0 ? 0 : dy[i];
    }
}

/* The first of equal logits counts as the largest. */
static bool label_is_largest(const float *x, int32_t label, float max) {
    uint32_t beaten = 0;
    float at_label = x[label];
#pragma omp simd reduction(| : beaten)
    for (int64_t j = 0; j < label; j++)
        beaten |= x[j] >= at_label;
    return !beaten && at_label >= max;
}

/* Sum of exp(x - max), in double over pieces; `keep` leaves the exponentials in x. */
static double sum_exponentials(float *x, float max, bool keep, int64_t cols) {
    enum { PIECE = 2048 };
    double total = 0;
    for (int64_t at = 0; at < cols; at += PIECE) {
        int64_t end = tn_min_i64(at + PIECE, cols);
        float sum = 0;
        if (keep) {
#pragma omp simd reduction(+ : sum)
            for (int64_t j = at; j < end; j++)
                sum += x[j] = tn_exp(x[j] - max);
        } else {
#pragma omp simd reduction(+ : sum)
            for (int64_t j = at; j < end; j++)
                sum += tn_exp(x[j] - max);
        }
        total += sum;
    }
    return total;
}

static void cross_entropy(float *losses, uint8_t *correct, float *logits, const int32_t *labels, float grad_scale,
                          int64_t rows, int64_t cols) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * cols))
    for (int64_t row = 0; row < rows; row++) {
        float *x = logits + row * cols, at_label = x[labels[row]], max = tn_max_of(x, cols);
        bool broken = tn_has_nonfinite(x, cols); /* even -inf, which the exponential would hide */
        if (correct)
            correct[row] = !broken && label_is_largest(x, labels[row], max);
        double sum = sum_exponentials(x, max, grad_scale != 0, cols);
        losses[row] = broken ? NAN : (float)(max + log(sum) - at_label);
        if (grad_scale != 0) {
            tn_scale_in_place(x, (float)(grad_scale / sum), cols);
            x[labels[row]] -= grad_scale;
        }
    }
}

static void widen_bf16(float *restrict out, const uint16_t *restrict in, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        out[i] = tn_float_of_bits((uint32_t)in[i] << 16);
}

static void narrow_bf16(uint16_t *restrict out, const float *restrict in, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = tn_bits_of_float(in[i]), nan = bits >> 16 | 0x40, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        out[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
    }
}

static void widen_f16(float *out, const uint16_t *in, int64_t count) {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(in + i))));
#endif
    tn_convert_to_f32(out + i, in + i, TN_DTYPE_F16, count - i);
}

static void narrow_f16(uint16_t *out, const float *in, int64_t count) {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((void *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    tn_convert_from_f32(out + i, TN_DTYPE_F16, in + i, count - i);
}

static void widen(float *out, const void *in, tn_dtype dtype, int64_t count) {
    switch (dtype) {
    case TN_DTYPE_BF16: widen_bf16(out, in, count); break;
    case TN_DTYPE_F16: widen_f16(out, in, count); break;
    default: tn_convert_to_f32(out, in, dtype, count); break;
    }
}

static void to_f32(float *out, const void *in, tn_dtype dtype, int64_t count) {
    int64_t size = tn_dtype_size(dtype);
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK)
        widen(out + at, (const char *)in + at * size, dtype, tn_min_i64(TN_CHUNK, count - at));
}

static void from_f32(void *out, tn_dtype dtype, const float *in, int64_t count) {
    int64_t size = tn_dtype_size(dtype);
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        void *to = (char *)out + at * size;
        int64_t piece = tn_min_i64(TN_CHUNK, count - at);
        switch (dtype) {
        case TN_DTYPE_BF16: narrow_bf16(to, in + at, piece); break;
        case TN_DTYPE_F16: narrow_f16(to, in + at, piece); break;
        default: tn_convert_from_f32(to, dtype, in + at, piece); break;
        }
    }
}

/* By blocks, of which only the first with the largest value is looked at again. NaN as in the reference: it is never larger,
 * and nothing is larger than it. */
static void argmax_rows(int32_t *out, const float *x, int64_t rows, int64_t cols) {
    enum { BLOCK = 512 };
    for (int64_t row = 0; row < rows; row++, x += cols) {
        float largest = x[0];
        int64_t best = 0;
        for (int64_t at = 0; at < cols && !isnan(largest); at += BLOCK) {
            int64_t end = tn_min_i64(at + BLOCK, cols);
            float here = tn_max_of(x + at, end - at);
            if (!(here > largest))
                continue;
            largest = here;
            for (best = at; x[best] != here;)
                best++;
        }
        out[row] = (int32_t)best;
    }
}

static void embedding_forward(float *y, const int32_t *ids, const void *table, tn_dtype dtype, int64_t rows, int64_t cols) {
    int64_t size = tn_dtype_size(dtype);
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * cols))
    for (int64_t row = 0; row < rows; row++)
        if (dtype == TN_DTYPE_QUANTISED)
            TN_FOR_ISA(tn_dequantise_, )(y + row * cols, table, ids[row] * cols, cols);
        else
            widen(y + row * cols, (const char *)table + ids[row] * cols * size, dtype, cols);
}

static void embedding_backward(float *dtable, const int32_t *ids, const float *dy, int64_t rows, int64_t cols) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * cols))
    for (int64_t at = 0; at < cols; at += COLUMNS) {
        int64_t columns = tn_min_i64(COLUMNS, cols - at);
        for (int64_t row = 0; row < rows; row++) {
            float *to = dtable + ids[row] * cols + at;
            const float *from = dy + row * cols + at;
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                to[j] += from[j];
        }
    }
}

static void add_bias(float *y, const float *bias, float factor, int64_t rows, int64_t cols) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * cols))
    for (int64_t row = 0; row < rows; row++) {
        float *to = y + row * cols;
#pragma omp simd
        for (int64_t j = 0; j < cols; j++)
            to[j] += factor * bias[j];
    }
}

static void sum_rows(float *out, const float *x, float factor, int64_t rows, int64_t cols) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * cols))
    for (int64_t at = 0; at < cols; at += COLUMNS) {
        double sums[COLUMNS] = {0};
        int64_t columns = tn_min_i64(COLUMNS, cols - at);
        for (int64_t row = 0; row < rows; row++) {
            const float *from = x + row * cols + at;
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                sums[j] += from[j];
        }
        for (int64_t j = 0; j < columns; j++)
            out[at + j] += (float)(factor * sums[j]);
    }
}

static void scale_columns(float *y, bool accumulate, const float *x, const float *factors, int64_t rows, int64_t cols) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * cols))
    for (int64_t row = 0; row < rows; row++) {
        float *to = y + row * cols;
        const float *from = x + row * cols;
        if (accumulate) {
#pragma omp simd
            for (int64_t j = 0; j < cols; j++)
                to[j] += from[j] * factors[j];
        } else {
#pragma omp simd
            for (int64_t j = 0; j < cols; j++)
                to[j] = from[j] * factors[j];
        }
    }
}

static void sum_products(float *out, const float *x, const float *y, int64_t rows, int64_t cols) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(rows * cols))
    for (int64_t at = 0; at < cols; at += COLUMNS) {
        double sums[COLUMNS] = {0};
        int64_t columns = tn_min_i64(COLUMNS, cols - at);
        for (int64_t row = 0; row < rows; row++) {
            const float *a = x + row * cols + at, *b = y + row * cols + at;
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                sums[j] += (double)a[j] * b[j];
        }
        for (int64_t j = 0; j < columns; j++)
            out[at + j] += (float)sums[j];
    }
}

static void multiply(float *y, bool accumulate, const float *a, const float *b, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        int64_t end = tn_min_i64(at + TN_CHUNK, count);
        if (accumulate) {
#pragma omp simd
            for (int64_t i = at; i < end; i++)
                y[i] += a[i] * b[i];
        } else {
#pragma omp simd
            for (int64_t i = at; i < end; i++)
                y[i] = a[i] * b[i];
        }
    }
}

static void add(float *y, const float *x, float factor, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        int64_t end = tn_min_i64(at + TN_CHUNK, count);
#pragma omp simd
        for (int64_t i = at; i < end; i++)
            y[i] += factor * x[i];
    }
}

static void copy(float *y, const float *x, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK)
        memcpy(y + at, x + at, (size_t)tn_min_i64(TN_CHUNK, count - at) * sizeof *y);
}

static void fill(float *y, float value, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        int64_t end = tn_min_i64(at + TN_CHUNK, count);
#pragma omp simd
        for (int64_t i = at; i < end; i++)
            y[i] = value;
    }
}

static void scale(float *y, float factor, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK)
        tn_scale_in_place(y + at, factor, tn_min_i64(TN_CHUNK, count - at));
}

/* Philox blocks [first, first + BLOCKS) side by side; word w of block b is words[4 * b + w]. See base/rng.c. */
enum { BLOCKS = 64 };

static void philox_blocks(uint32_t words[4 * BLOCKS], uint64_t seed, uint64_t stream, uint64_t first) {
    uint32_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (uint32_t b = 0; b < BLOCKS; b++) {
        c0[b] = (uint32_t)(first + b);
        c1[b] = (uint32_t)((first + b) >> 32);
        c2[b] = (uint32_t)stream;
        c3[b] = (uint32_t)(stream >> 32);
    }
    for (int round = 0; round < 10; round++) {
#pragma omp simd
        for (int b = 0; b < BLOCKS; b++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0[b], p1 = (uint64_t)0xCD9E8D57u * c2[b];
            c0[b] = (uint32_t)(p1 >> 32) ^ c1[b] ^ k0;
            c2[b] = (uint32_t)(p0 >> 32) ^ c3[b] ^ k1;
            c1[b] = (uint32_t)p1;
            c3[b] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int b = 0; b < BLOCKS; b++) {
        words[4 * b] = c0[b];
        words[4 * b + 1] = c1[b];
        words[4 * b + 2] = c2[b];
        words[4 * b + 3] = c3[b];
    }
}

static void dropout(float *y, bool accumulate, const float *x, float p, uint64_t seed, uint64_t stream, int64_t count) {
    const double bound = ceil(p * 0x1p32); /* words below it are dropped */
    const uint32_t last_dropped = (uint32_t)(tn_min_i64((int64_t)bound, INT64_C(1) << 32) - 1);
    const float factor = 1 / (1 - p);
    if (bound < 1 && accumulate) {
        add(y, x, 1, count);
        return;
    }
    if (bound < 1) {
        copy(y, x, count);
        return;
    }
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += 4 * BLOCKS) {
        uint32_t words[4 * BLOCKS];
        int64_t piece = tn_min_i64(4 * BLOCKS, count - at);
        philox_blocks(words, seed, stream, (uint64_t)at / 4);
#pragma omp simd
        for (int64_t i = 0; i < piece; i++) {
            float value = words[i] > last_dropped ? x[at + i] * factor : 0.0f;
            y[at + i] = accumulate ? y[at + i] + value : value;
        }
    }
}

static void adamw(float *param, const float *grad, float *m, float *v, const tn_adamw_step *step, int64_t count) {
    const tn_adamw_step s = *step;
    const float decay = 1 - s.lr * s.weight_decay, rate = s.lr / s.correction1;
    const float rest1 = 1 - s.beta1, rest2 = 1 - s.beta2;
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        int64_t end = tn_min_i64(at + TN_CHUNK, count);
#pragma omp simd
        for (int64_t i = at; i < end; i++) {
            float g = grad[i] * s.grad_scale;
            m[i] = s.beta1 * m[i] + rest1 * g;
            v[i] = s.beta2 * v[i] + rest2 * g * g;
            param[i] = param[i] * decay - rate * m[i] / (sqrtf(v[i] / s.correction2) + s.eps);
        }
    }
}

static double sum_squares(const float *x, int64_t count) {
    enum { PARTS = 512 };
    double total = 0, parts[PARTS];
    for (; count > 0; x += PARTS * TN_CHUNK, count -= PARTS * TN_CHUNK) {
        int64_t chunks = tn_min_i64(PARTS, (count + TN_CHUNK - 1) / TN_CHUNK);
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            int64_t end = tn_min_i64((chunk + 1) * TN_CHUNK, count);
            double sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = chunk * TN_CHUNK; i < end; i++)
                sum += (double)x[i] * (double)x[i];
            parts[chunk] = sum;
        }
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            total += parts[chunk];
    }
    return total;
}

static bool all_finite(const float *x, int64_t count) {
    uint32_t bad = 0;
#pragma omp parallel for schedule(static) reduction(| : bad) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        bad |= tn_has_nonfinite(x + at, tn_min_i64(TN_CHUNK, count - at));
    }
    return !bad;
}

#define TN_TEXT_(name) #name
#define TN_TEXT(name) TN_TEXT_(name)

const tn_kernels TN_FOR_ISA(tn_kernels_, ) = {
    .name = TN_TEXT(TN_ISA),
#ifdef __AVX512BF16__
    .rounds = true,
#endif
    TN_PLAIN_KERNELS,
    .gemm = TN_FOR_ISA(tn_product_, ),
    .gemm_serial = TN_SERIAL_GEMM,
    .gemm_infer = TN_FOR_ISA(tn_infer_products_, ),
    .rmsnorm_forward = rmsnorm_forward,
    .rmsnorm_backward = rmsnorm_backward,
    .center_rows = center_rows,
    .rope = rope,
    .attention_forward = TN_FOR_ISA(tn_attention_forward_, ),
    .attention_backward = TN_FOR_ISA(tn_attention_backward_, ),
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
    .adamw8bit = TN_FOR_ISA(tn_adamw8bit_, ),
    .sum_squares = sum_squares,
    .all_finite = all_finite,
    .dequantise = TN_FOR_ISA(tn_dequantise_, ),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
};
