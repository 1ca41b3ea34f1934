/* Kernels on rows and vectors that need no file of their own, compiled once per instruction set with TN_ISA naming it.
 * Formulas and shapes are in kernel.h. Work is cut into rows, or chunks of TN_CHUNK elements, or blocks of columns, never by
 * the number of threads; sums over rows belong to one thread and run in row order. */
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
            TN_FOR_ISA(tn_widen_, )(y + row * cols, (const char *)table + ids[row] * cols * size, dtype, cols);
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
    .swiglu_forward = TN_FOR_ISA(tn_swiglu_forward_, ),
    .swiglu_backward = TN_FOR_ISA(tn_swiglu_backward_, ),
    .activation_forward = TN_FOR_ISA(tn_activation_forward_, ),
    .activation_backward = TN_FOR_ISA(tn_activation_backward_, ),
    .relu_forward = TN_FOR_ISA(tn_relu_forward_, ),
    .relu_backward = TN_FOR_ISA(tn_relu_backward_, ),
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
    .to_f32 = TN_FOR_ISA(tn_to_f32_, ),
    .from_f32 = TN_FOR_ISA(tn_from_f32_, ),
};
