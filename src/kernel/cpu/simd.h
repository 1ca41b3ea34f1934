/* Helpers of the files that are compiled once per instruction set: loops that the compiler turns into vectors, and the
 * exponential. Include only there. Sums run over as many lanes as the registers have, then over the lanes in order. */
#ifndef TN_KERNEL_CPU_SIMD_H
#define TN_KERNEL_CPU_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "kernel/cpu/tables.h"

/* With TN_ISA avx2, TN_FOR_ISA(tn_gemm_, _serial) is tn_gemm_avx2_serial. */
#define TN_JOIN_(prefix, isa, suffix) prefix##isa##suffix
#define TN_JOIN(prefix, isa, suffix) TN_JOIN_(prefix, isa, suffix)
#define TN_FOR_ISA(prefix, suffix) TN_JOIN(prefix, TN_ISA, suffix)
#define TN_SERIAL_GEMM TN_FOR_ISA(tn_gemm_, _serial)

/* Elements of one piece of work, and the least for which waking other threads pays. */
enum { TN_CHUNK = 16384, TN_SERIAL_BELOW = 32768 };

static inline bool tn_worth_threads(int64_t work) {
#ifdef _OPENMP
    return work >= TN_SERIAL_BELOW && !omp_in_parallel();
#else
    (void)work;
    return false;
#endif
}

static inline int64_t tn_min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t tn_max_i64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* a * b + c: in one rounding where the hardware has it. Other expressions are compiled without contraction. */
static inline float tn_muladd(float a, float b, float c) {
#ifdef __FMA__
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

static inline float tn_float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t tn_bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* e^x without branches, within 2 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, the polynomial of Cephes' expf for e^r, and n added
 * to the exponent bits. Below the normal numbers it is 0: subnormals would slow softmax down and change nothing there. */
static inline float tn_exp(float x) {
    const float shift = 0x1.8p23f; /* adding it leaves round(x / ln 2) in the low bits */
    const float lowest = -87.3365f, highest = 88.7228f;
    float shifted = tn_muladd(x, 1.44269504f, shift), n = shifted - shift;
    float r = tn_muladd(n, 2.12194440e-4f, tn_muladd(n, -0.693359375f, x));
    float p = tn_muladd(1.9875691500e-4f, r, 1.3981999507e-3f);
    p = tn_muladd(p, r, 8.3334519073e-3f);
    p = tn_muladd(p, r, 4.1665795894e-2f);
    p = tn_muladd(p, r, 1.6666665459e-1f);
    p = tn_muladd(p, r, 5.0000001201e-1f);
    p = tn_muladd(p, r * r, r) + 1.0f;
    float value = tn_float_of_bits(tn_bits_of_float(p) + (tn_bits_of_float(shifted) << 23));
    value = x < lowest ? 0.0f : value;
    return x <= highest ? value : x + INFINITY; /* NaN goes this way and stays */
}

static inline float tn_dot(const float *restrict a, const float *restrict b, int64_t count) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
        sum = tn_muladd(a[i], b[i], sum);
    return sum;
}

/* NaN is passed over; it comes back out of the exponentials. */
static inline float tn_max_of(const float *x, int64_t count) {
    float max = -INFINITY;
#pragma omp simd reduction(max : max)
    for (int64_t i = 0; i < count; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

static inline bool tn_has_nonfinite(const float *x, int64_t count) {
    uint32_t found = 0;
#pragma omp simd reduction(| : found)
    for (int64_t i = 0; i < count; i++)
        found |= (tn_bits_of_float(x[i]) & 0x7f800000) == 0x7f800000;
    return found;
}

/* x = exp(x - max), returns the sum. */
static inline float tn_exp_in_place(float *x, float max, int64_t count) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++) {
        float e = tn_exp(x[i] - max);
        x[i] = e;
        sum += e;
    }
    return sum;
}

static inline void tn_scale_in_place(float *x, float factor, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        x[i] *= factor;
}

#endif
