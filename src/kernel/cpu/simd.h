/* Helpers of the files that are compiled once per instruction set: the exponential, written so that loops over it become
 * vectors, and sums and maxima on explicit vectors, whose lanes are folded by halves. Include only there. */
#ifndef TN_KERNEL_CPU_SIMD_H
#define TN_KERNEL_CPU_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX2__
#include <immintrin.h>
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

/* Vectors of GCC and Clang as wide as the registers. */
#if defined(__AVX512F__)
enum { TN_LANES = 16 };
#define TN_LANES_XOR(k)                                                                                                     \
    0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k, 4 ^ k, 5 ^ k, 6 ^ k, 7 ^ k, 8 ^ k, 9 ^ k, 10 ^ k, 11 ^ k, 12 ^ k, 13 ^ k, 14 ^ k, 15 ^ k
#elif defined(__AVX2__)
enum { TN_LANES = 8 };
#define TN_LANES_XOR(k) 0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k, 4 ^ k, 5 ^ k, 6 ^ k, 7 ^ k
#else
enum { TN_LANES = 4 };
#define TN_LANES_XOR(k) 0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k
#endif
typedef float tn_vec __attribute__((vector_size(TN_LANES * sizeof(float))));
typedef int32_t tn_mask __attribute__((vector_size(TN_LANES * sizeof(int32_t))));

/* The vector with lane i and lane i ^ k exchanged. */
#ifdef __clang__
#define TN_SWAP_LANES(v, k) __builtin_shufflevector(v, v, TN_LANES_XOR(k))
#else
#define TN_SWAP_LANES(v, k) __builtin_shuffle(v, (tn_mask){TN_LANES_XOR(k)})
#endif

static inline tn_vec tn_load(const float *x) {
    tn_vec value;
    memcpy(&value, x, sizeof value);
    return value;
}

static inline tn_vec tn_vec_muladd(tn_vec a, tn_vec b, tn_vec c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}

/* The value in all lanes. Adding it to zeros would cost an addition: -0 + 0 is another number. */
static inline tn_vec tn_broadcast(float value) {
#if defined(__AVX512F__)
    return (tn_vec)_mm512_set1_ps(value);
#elif defined(__AVX2__)
    return (tn_vec)_mm256_set1_ps(value);
#else
    return (tn_vec){value, value, value, value};
#endif
}

/* a where it is greater, else b; so NaN in a is passed over. */
static inline tn_vec tn_vec_max(tn_vec a, tn_vec b) {
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#else
    tn_mask greater = a > b;
    return (tn_vec)(((tn_mask)a & greater) | ((tn_mask)b & ~greater));
#endif
}

static inline float tn_sum_lanes(tn_vec v) {
#if defined(__AVX512F__)
    v += TN_SWAP_LANES(v, 8);
#endif
#if defined(__AVX2__)
    v += TN_SWAP_LANES(v, 4);
#endif
    v += TN_SWAP_LANES(v, 2);
    v += TN_SWAP_LANES(v, 1);
    return v[0];
}

/* The sums of four vectors, for a third of the work of four sums. */
static inline void tn_sum_lanes_of_four(float sums[4], tn_vec a, tn_vec b, tn_vec c, tn_vec d) {
#if defined(__AVX512F__)
    __m512d low = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    __m512d high = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    __m512 all =
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)), _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif defined(__AVX2__)
    __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
    sums[0] = tn_sum_lanes(a);
    sums[1] = tn_sum_lanes(b);
    sums[2] = tn_sum_lanes(c);
    sums[3] = tn_sum_lanes(d);
#endif
}

static inline float tn_max_lanes(tn_vec v) {
#if defined(__AVX512F__)
    v = tn_vec_max(v, TN_SWAP_LANES(v, 8));
#endif
#if defined(__AVX2__)
    v = tn_vec_max(v, TN_SWAP_LANES(v, 4));
#endif
    v = tn_vec_max(v, TN_SWAP_LANES(v, 2));
    v = tn_vec_max(v, TN_SWAP_LANES(v, 1));
    return v[0];
}

static inline float tn_dot(const float *a, const float *b, int64_t count) {
    tn_vec sums = {0};
    const int64_t whole = count - count % TN_LANES;
    for (int64_t i = 0; i < whole; i += TN_LANES)
        sums = tn_vec_muladd(tn_load(a + i), tn_load(b + i), sums);
    float sum = tn_sum_lanes(sums);
    for (int64_t i = whole; i < count; i++)
        sum = tn_muladd(a[i], b[i], sum);
    return sum;
}

/* Sum of a * b * weight. */
static inline float tn_dot_weighted(const float *a, const float *b, const float *weight, int64_t count) {
    tn_vec sums = {0};
    const int64_t whole = count - count % TN_LANES;
    for (int64_t i = 0; i < whole; i += TN_LANES)
        sums = tn_vec_muladd(tn_load(a + i) * tn_load(weight + i), tn_load(b + i), sums);
    float sum = tn_sum_lanes(sums);
    for (int64_t i = whole; i < count; i++)
        sum = tn_muladd(a[i] * weight[i], b[i], sum);
    return sum;
}

static inline float tn_sum(const float *x, int64_t count) {
    tn_vec sums = {0};
    const int64_t whole = count - count % TN_LANES;
    for (int64_t i = 0; i < whole; i += TN_LANES)
        sums += tn_load(x + i);
    float sum = tn_sum_lanes(sums);
    for (int64_t i = whole; i < count; i++)
        sum += x[i];
    return sum;
}

/* NaN is passed over; it comes back out of the exponentials. */
static inline float tn_max_of(const float *x, int64_t count) {
    tn_vec maxima = tn_broadcast(-INFINITY);
    const int64_t whole = count - count % TN_LANES;
    for (int64_t i = 0; i < whole; i += TN_LANES)
        maxima = tn_vec_max(tn_load(x + i), maxima);
    float max = tn_max_lanes(maxima);
    for (int64_t i = whole; i < count; i++)
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
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        x[i] = tn_exp(x[i] - max);
    return tn_sum(x, count);
}

static inline void tn_scale_in_place(float *x, float factor, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        x[i] *= factor;
}

#endif
