/* Inner kernels of the matrix product in portable C over four-float vectors (SSE2, NEON or whatever the compiler has). */
#include "kernel/cpu/gemm.h"

#include <string.h>

enum { W = 4, MR = 4, SHALLOW_UNITS = 1, GROUP = 4, MC = 256, KC = 576 };

typedef float vec __attribute__((vector_size(16)));
typedef uint32_t bits __attribute__((vector_size(16)));
typedef uint16_t halves __attribute__((vector_size(8)));

static inline vec v_set1(float x) {
    return (vec){x, x, x, x};
}
static inline vec v_zero(void) {
    return v_set1(0.0f);
}
static inline vec v_load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void v_store(float *p, vec v) {
    memcpy(p, &v, sizeof v);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return a * b + c;
}
static inline vec v_mul(vec a, vec b) {
    return a * b;
}
static inline vec v_add(vec a, vec b) {
    return a + b;
}
static inline vec v_sums(const vec r[W]) {
    vec sums;
    for (int i = 0; i < W; i++)
        sums[i] = (r[i][0] + r[i][2]) + (r[i][1] + r[i][3]);
    return sums;
}

/* The exponent is re-biased by a multiplication, which also normalises subnormals; infinities and NaN get theirs set. */
static inline vec widen_f16(bits half) {
    bits magnitude = (half & 0x7fff) << 13, sign = (half & 0x8000) << 16;
    bits special = (bits)(magnitude >= 0x7c00u << 13) & 0x7f800000u;
    return (vec)((bits)((vec)magnitude * v_set1(0x1p112f)) | special | sign);
}

static inline vec v_load_as(const void *data, int64_t index, tn_dtype dtype) {
    if (dtype == TN_DTYPE_F32)
        return v_load((const float *)data + index);
    halves half;
    memcpy(&half, (const uint16_t *)data + index, sizeof half);
    bits word = __builtin_convertvector(half, bits);
    return dtype == TN_DTYPE_BF16 ? (vec)(word << 16) : widen_f16(word);
}

static inline vec v_load_part(const void *data, int64_t index, int64_t n, tn_dtype dtype) {
    uint32_t buffer[W] = {0};
    int64_t size = dtype == TN_DTYPE_F32 ? 4 : 2;
    memcpy(buffer, (const char *)data + index * size, (size_t)(n * size));
    return v_load_as(buffer, 0, dtype);
}

static inline void v_store_part(float *p, vec v, int64_t n) {
    memcpy(p, &v, (size_t)n * sizeof(float));
}

static inline void v_transpose(vec r[W]) {
    vec t[W] = {{r[0][0], r[1][0], r[2][0], r[3][0]},
                {r[0][1], r[1][1], r[2][1], r[3][1]},
                {r[0][2], r[1][2], r[2][2], r[3][2]},
                {r[0][3], r[1][3], r[2][3], r[3][3]}};
    memcpy(r, t, sizeof t);
}

#define DEQUANTISE tn_dequantise_generic
#include "kernel/cpu/gemm_tmpl.h"

void tn_gemm_generic(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                     int64_t k) {
    tn_gemm_run(&kernel, true, c, ldc, a, b, alpha, beta, m, n, k);
}

void tn_gemm_generic_serial(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                            int64_t k) {
    tn_gemm_run(&kernel, false, c, ldc, a, b, alpha, beta, m, n, k);
}
