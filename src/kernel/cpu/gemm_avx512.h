/* The vector of gemm_tmpl.h and gemm_tile_tmpl.h for AVX-512 (F, BW, DQ, VL). Include only in files compiled for it. */
#ifndef TN_KERNEL_CPU_GEMM_AVX512_H
#define TN_KERNEL_CPU_GEMM_AVX512_H

#include <immintrin.h>

#include "kernel/cpu/gemm.h"

enum { W = 16 };

typedef __m512 vec;

static inline vec v_set1(float x) {
    return _mm512_set1_ps(x);
}
static inline vec v_zero(void) {
    return _mm512_setzero_ps();
}
static inline vec v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vec v) {
    _mm512_storeu_ps(p, v);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline vec v_mul(vec a, vec b) {
    return _mm512_mul_ps(a, b);
}
static inline vec v_add(vec a, vec b) {
    return _mm512_add_ps(a, b);
}

/* A binary tree: floats of 128-bit lanes first (four vectors to one), then the lanes. */
static inline vec v_sums(const vec r[W]) {
    vec lanes[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const vec *v = r + 4 * i;
        __m512d t0 = _mm512_castps_pd(v_add(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1])));
        __m512d t1 = _mm512_castps_pd(v_add(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3])));
        lanes[i] = v_add(_mm512_castpd_ps(_mm512_unpacklo_pd(t0, t1)), _mm512_castpd_ps(_mm512_unpackhi_pd(t0, t1)));
    }
    vec low = v_add(_mm512_shuffle_f32x4(lanes[0], lanes[1], 0x88), _mm512_shuffle_f32x4(lanes[0], lanes[1], 0xdd));
    vec high = v_add(_mm512_shuffle_f32x4(lanes[2], lanes[3], 0x88), _mm512_shuffle_f32x4(lanes[2], lanes[3], 0xdd));
    return v_add(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}

static inline vec widen_half(__m256i half, tn_dtype dtype) {
    if (dtype == TN_DTYPE_BF16)
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    return _mm512_cvtph_ps(half);
}

static inline vec v_load_as(const void *data, int64_t index, tn_dtype dtype) {
    if (dtype == TN_DTYPE_F32)
        return v_load((const float *)data + index);
    return widen_half(_mm256_loadu_si256((const __m256i *)((const uint16_t *)data + index)), dtype);
}

static inline __mmask16 first(int64_t n) {
    return (__mmask16)((1u << n) - 1);
}

static inline vec v_load_part(const void *data, int64_t index, int64_t n, tn_dtype dtype) {
    if (dtype == TN_DTYPE_F32)
        return _mm512_maskz_loadu_ps(first(n), (const float *)data + index);
    return widen_half(_mm256_maskz_loadu_epi16(first(n), (const uint16_t *)data + index), dtype);
}

static inline void v_store_part(float *p, vec v, int64_t n) {
    _mm512_mask_storeu_ps(p, first(n), v);
}

/* Rows r[0..3] to columns by 128-bit lanes: s[i] holds, in its lane l, column 4l + i. */
static inline void v_transpose_lanes(vec s[4], const vec r[4]) {
    vec t0 = _mm512_unpacklo_ps(r[0], r[1]), t1 = _mm512_unpackhi_ps(r[0], r[1]);
    vec t2 = _mm512_unpacklo_ps(r[2], r[3]), t3 = _mm512_unpackhi_ps(r[2], r[3]);
    s[0] = _mm512_shuffle_ps(t0, t2, 0x44);
    s[1] = _mm512_shuffle_ps(t0, t2, 0xee);
    s[2] = _mm512_shuffle_ps(t1, t3, 0x44);
    s[3] = _mm512_shuffle_ps(t1, t3, 0xee);
}

static inline void v_transpose(vec r[W]) {
    vec s[W];
#pragma GCC unroll 4
    for (int i = 0; i < W; i += 4)
        v_transpose_lanes(s + i, r + i);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        vec t0 = _mm512_shuffle_f32x4(s[i], s[i + 4], 0x88), t1 = _mm512_shuffle_f32x4(s[i], s[i + 4], 0xdd);
        vec t2 = _mm512_shuffle_f32x4(s[i + 8], s[i + 12], 0x88), t3 = _mm512_shuffle_f32x4(s[i + 8], s[i + 12], 0xdd);
        r[i] = _mm512_shuffle_f32x4(t0, t2, 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t0, t2, 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(t1, t3, 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(t1, t3, 0xdd);
    }
}

/* r[0..7] = the W rows of W / 2 floats at x, transposed: for the usual rank of an update. */
#define V_TRANSPOSES_HALVES
static inline void v_transpose_halves(vec r[W], const float *x, int64_t stride) {
    vec pairs[W / 2], s[W / 2];
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; i++) {
        const float *row = x + (i / 4 * 8 + i % 4) * stride;
        pairs[i] = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(row)), _mm256_loadu_ps(row + 4 * stride), 1);
    }
    v_transpose_lanes(s, pairs);
    v_transpose_lanes(s + 4, pairs + 4);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(s[i], s[i + 4], 0x88);
        r[i + 4] = _mm512_shuffle_f32x4(s[i], s[i + 4], 0xdd);
    }
}

#endif
