/* Inner kernels of the matrix product for AVX2 with FMA and F16C. */
#include "kernel/cpu/gemm.h"

#include <immintrin.h>
#include <string.h>

enum { W = 8, MR = 6, SHALLOW_UNITS = 1, GROUP = 4, MC = 768, KC = 576 };

typedef __m256 vec;

static inline vec v_set1(float x) {
    return _mm256_set1_ps(x);
}
static inline vec v_zero(void) {
    return _mm256_setzero_ps();
}
static inline vec v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, vec v) {
    _mm256_storeu_ps(p, v);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline vec v_mul(vec a, vec b) {
    return _mm256_mul_ps(a, b);
}
static inline vec v_add(vec a, vec b) {
    return _mm256_add_ps(a, b);
}

/* Two horizontal additions sum the 128-bit lanes of four vectors, then the lanes are added across. */
static inline vec v_sums(const vec r[W]) {
    vec low = _mm256_hadd_ps(_mm256_hadd_ps(r[0], r[1]), _mm256_hadd_ps(r[2], r[3]));
    vec high = _mm256_hadd_ps(_mm256_hadd_ps(r[4], r[5]), _mm256_hadd_ps(r[6], r[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

static inline vec v_load_as(const void *data, int64_t index, tn_dtype dtype) {
    if (dtype == TN_DTYPE_F32)
        return v_load((const float *)data + index);
    __m128i half = _mm_loadu_si128((const __m128i *)((const uint16_t *)data + index));
    if (dtype == TN_DTYPE_BF16)
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
    return _mm256_cvtph_ps(half);
}

static inline vec v_load_part(const void *data, int64_t index, int64_t n, tn_dtype dtype) {
    uint32_t buffer[W] = {0};
    int64_t size = dtype == TN_DTYPE_F32 ? 4 : 2;
    memcpy(buffer, (const char *)data + index * size, (size_t)(n * size));
    return v_load_as(buffer, 0, dtype);
}

static inline void v_store_part(float *p, vec v, int64_t n) {
    float buffer[W];
    v_store(buffer, v);
    memcpy(p, buffer, (size_t)n * sizeof(float));
}

static inline void v_transpose(vec r[W]) {
    vec s[W];
#pragma GCC unroll 4
    for (int i = 0; i < W; i += 4) {
        vec t0 = _mm256_unpacklo_ps(r[i], r[i + 1]), t1 = _mm256_unpackhi_ps(r[i], r[i + 1]);
        vec t2 = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), t3 = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        s[i] = _mm256_shuffle_ps(t0, t2, 0x44);
        s[i + 1] = _mm256_shuffle_ps(t0, t2, 0xee);
        s[i + 2] = _mm256_shuffle_ps(t1, t3, 0x44);
        s[i + 3] = _mm256_shuffle_ps(t1, t3, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(s[i], s[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(s[i], s[i + 4], 0x31);
    }
}

#define DEQUANTISE tn_dequantise_avx2
#include "kernel/cpu/gemm_tmpl.h"

void tn_gemm_avx2(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                  int64_t k) {
    tn_gemm_run(&kernel, true, c, ldc, a, b, alpha, beta, m, n, k);
}

void tn_gemm_avx2_serial(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                         int64_t k) {
    tn_gemm_run(&kernel, false, c, ldc, a, b, alpha, beta, m, n, k);
}
