/* Activation functions and their slopes, compiled once per instruction set. The way back reads values as they were kept and
 * widens them in pieces that stay in the first-level cache. */
#include "kernel/cpu/simd.h"

/* Elements of a piece: as many as keep what nobody else reads of them in the first-level cache. */
enum { PIECE = 256 };

static const float *widened(float buffer[PIECE], tn_stored x, int64_t at, int64_t count) {
    if (x.dtype == TN_DTYPE_F32)
        return (const float *)x.data + at;
    TN_FOR_ISA(tn_widen_, )(buffer, (const char *)x.data + tn_array_bytes(x.dtype, at), x.dtype, count);
    return buffer;
}

static void copy_piece(void *copy, tn_dtype dtype, const float *x, int64_t at, int64_t count) {
    if (copy)
        TN_FOR_ISA(tn_narrow_, )((char *)copy + tn_array_bytes(dtype, at), dtype, x + at, count);
}

void TN_FOR_ISA(tn_swiglu_forward_, )(float *y, const float *gate, const float *up, int64_t count, void *gate_copy,
                                      void *up_copy, tn_dtype dtype) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += PIECE) {
        const int64_t end = tn_min_i64(at + PIECE, count);
#pragma omp simd
        for (int64_t i = at; i < end; i++)
            y[i] = gate[i] / (1.0f + tn_exp(-gate[i])) * up[i];
        copy_piece(gate_copy, dtype, gate, at, end - at);
        copy_piece(up_copy, dtype, up, at, end - at);
    }
}

void TN_FOR_ISA(tn_swiglu_backward_, )(float *dgate, float *dup, const float *dy, tn_stored gate, tn_stored up,
                                       int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += PIECE) {
        float gate_buffer[PIECE], up_buffer[PIECE];
        const int64_t piece = tn_min_i64(PIECE, count - at);
        const float *gates = widened(gate_buffer, gate, at, piece), *ups = widened(up_buffer, up, at, piece);
#pragma omp simd
        for (int64_t i = 0; i < piece; i++) {
            float g = gates[i], u = ups[i], d = dy[at + i], e = tn_exp(-g), sigmoid = 1.0f / (1.0f + e);
            /* 1 - sigmoid without cancellation; e overflows only where the product is 0 either way */
            float rest = e < INFINITY ? e * sigmoid : 1.0f;
            dgate[at + i] = d * u * sigmoid * (1.0f + g * rest);
            dup[at + i] = d * (g * sigmoid);
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

void TN_FOR_ISA(tn_activation_forward_, )(float *y, const float *x, tn_activation f, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += PIECE) {
        float slopes[PIECE];
        activate(y + at, slopes, x + at, f, tn_min_i64(PIECE, count - at));
    }
}

void TN_FOR_ISA(tn_activation_backward_, )(float *dx, bool accumulate, const float *dy, tn_stored x, tn_activation f,
                                           int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += PIECE) {
        float values[PIECE], slopes[PIECE], buffer[PIECE];
        int64_t piece = tn_min_i64(PIECE, count - at);
        activate(values, slopes, widened(buffer, x, at, piece), f, piece);
#pragma omp simd
        for (int64_t i = 0; i < piece; i++)
            dx[at + i] = (accumulate ? dx[at + i] : 0) + dy[at + i] * slopes[i];
    }
}

void TN_FOR_ISA(tn_relu_forward_, )(float *y, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        int64_t end = tn_min_i64(at + TN_CHUNK, count);
#pragma omp simd
        for (int64_t i = at; i < end; i++)
            y[i] = y[i] < 0 ? 0 : y[i];
    }
}

void TN_FOR_ISA(tn_relu_backward_, )(float *dy, const float *y, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK) {
        int64_t end = tn_min_i64(at + TN_CHUNK, count);
#pragma omp simd
        for (int64_t i = at; i < end; i++)
            dy[i] = y[i] == 0 ? 0 : dy[i];
    }
}
