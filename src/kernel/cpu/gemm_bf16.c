/* Matrix products whose operands are rounded to bf16 while they are packed: pairs of bf16 along the depth take the place of
 * the floats of gemm_blocks.c, and VDPBF16PS adds both products of a pair to an f32. It takes subnormal numbers for zeros.
 *
 * Products that reading one operand dominates stay in f32: few rows or columns, and the branches of low-rank updates. */
#include "kernel/cpu/gemm_avx512.h"
#include "kernel/cpu/gemm_product.h"

#define INLINE static inline __attribute__((always_inline))
enum { MR = 14, NR = 2 * W, MC = 1120, KC = 576, PAIR = 2, LEAST_SIDE = 32, LEAST_DEPTH = 32, AHEAD = 8, FURTHER = 2 };

INLINE vec v_step(vec a, vec b, vec c) {
    return _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
}

#include "kernel/cpu/gemm_tile_tmpl.h"

/* n (at most W) elements from data[low] and from data[high] as bf16, the latter in the upper half; zeros after each. */
INLINE __m512i two_of(const void *data, int64_t low, int64_t high, int64_t n, const tn_dtype dtype) {
    if (dtype == TN_DTYPE_BF16) {
        const uint16_t *from = data;
        __m256i x =
            n == W ? _mm256_loadu_si256((const __m256i *)(from + low)) : _mm256_maskz_loadu_epi16(first(n), from + low);
        __m256i y =
            n == W ? _mm256_loadu_si256((const __m256i *)(from + high)) : _mm256_maskz_loadu_epi16(first(n), from + high);
        return _mm512_inserti64x4(_mm512_castsi256_si512(x), y, 1);
    }
    vec x = n == W ? v_load_as(data, low, dtype) : v_load_part(data, low, n, dtype);
    vec y = n == W ? v_load_as(data, high, dtype) : v_load_part(data, high, n, dtype);
    return (__m512i)_mm512_cvtne2ps_pbh(y, x);
}

/* The same for low elements from data[at] and the high ones that follow them, where low < W or high < W. */
INLINE __m512i part_of_column(const void *data, int64_t at, int64_t low, int64_t high, const tn_dtype dtype) {
    if (dtype == TN_DTYPE_BF16)
        return _mm512_maskz_loadu_epi16((__mmask32)((UINT64_C(1) << (low + high)) - 1), (const uint16_t *)data + at);
    vec x = v_load_part(data, at, low, dtype), y = v_load_part(data, at + low, high, dtype);
    return (__m512i)_mm512_cvtne2ps_pbh(y, x);
}

/* Asks for n elements from data[index] to be near soon: rows are too far apart for the processor to foresee. */
INLINE void foresee(const void *data, int64_t index, int64_t n, const tn_dtype dtype) {
    const int64_t size = dtype == TN_DTYPE_F32 ? 4 : 2;
    const char *from = (const char *)data + index * size;
    for (int64_t at = 0; at < n * size; at += 64)
        __builtin_prefetch(from + at);
}

/* Rows of depth whose columns are contiguous: two rows are interleaved. */
INLINE void pack_rows(float *out, int64_t out_stride, tn_operand src, int64_t rows, int64_t cols, int64_t width,
                      const tn_dtype dtype) {
    const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t r = 0; r < rows; r += PAIR, out += out_stride) {
        int64_t low = r * src.row_stride, high = r + 1 < rows ? low + src.row_stride : low;
        __mmask32 kept = r + 1 < rows ? UINT32_MAX : UINT32_MAX / 3; /* the low half of each pair */
        foresee(src.data, low + AHEAD * src.row_stride, width, dtype);
        foresee(src.data, high + AHEAD * src.row_stride, width, dtype);
        for (int64_t c = 0; c < width; c += W) {
            int64_t n = smaller(cols - c, W);
            __m512i pairs = _mm512_setzero_si512();
            if (n == W)
                pairs = two_of(src.data, low + c, high + c, W, dtype);
            else if (n > 0)
                pairs = two_of(src.data, low + c, high + c, n, dtype);
            v_store(out + c, _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(kept, turns, pairs)));
        }
    }
}

/* Columns contiguous along the depth hold pairs as they are: W of each of W columns are transposed. */
INLINE void pack_columns(float *out, int64_t out_stride, tn_operand src, int64_t rows, int64_t cols, int64_t width,
                         const tn_dtype dtype) {
    for (int64_t c = 0; c < width; c += W) {
        for (int64_t r = 0; r < rows; r += PAIR * W) {
            int64_t low = smaller(rows - r, W), high = smaller(rows - r - low, W), pairs = (low + high + 1) / PAIR;
            vec block[W];
            float *to = out + r / PAIR * out_stride + c;
#pragma GCC unroll 16
            for (int i = 0; i < W; i++) {
                int64_t at = r + (c + i) * src.col_stride;
                foresee(src.data, at + FURTHER * PAIR * W, PAIR * W, dtype);
                __m512i halves = _mm512_setzero_si512();
                if (c + i < cols && high == W)
                    halves = two_of(src.data, at, at + W, W, dtype);
                else if (c + i < cols)
                    halves = part_of_column(src.data, at, low, high, dtype);
                block[i] = _mm512_castsi512_ps(halves);
            }
            v_transpose(block);
#pragma GCC unroll 16
            for (int i = 0; i < W; i++) {
                if (i < pairs)
                    v_store(to + i * out_stride, block[i]);
            }
        }
    }
}

INLINE void pack_as(float *out, int64_t out_stride, tn_operand src, int64_t rows, int64_t cols, int64_t width,
                    const tn_dtype dtype) {
    if (src.col_stride == 1)
        pack_rows(out, out_stride, src, rows, cols, width, dtype);
    else
        pack_columns(out, out_stride, src, rows, cols, width, dtype);
}

static void pack(float *out, int64_t out_stride, tn_operand src, int64_t rows, int64_t cols, int64_t width) {
    if (src.dtype == TN_DTYPE_F32)
        pack_as(out, out_stride, src, rows, cols, width, TN_DTYPE_F32);
    else if (src.dtype == TN_DTYPE_BF16)
        pack_as(out, out_stride, src, rows, cols, width, TN_DTYPE_BF16);
    else
        pack_as(out, out_stride, src, rows, cols, width, TN_DTYPE_F16);
}

static const tn_gemm_kernel kernel = {
    .width = W,
    .dequantise = tn_dequantise_avx512_bf16,
    .mr = MR,
    .nr = NR,
    .panel_a = W,
    .mc = MC,
    .kc = KC,
    .unit = PAIR,
    .widen = pack,
    .tile = tile,
    .tile_across = tile_across,
};

static bool is_worth_rounding(int64_t m, int64_t n, int64_t k) {
    return m >= LEAST_SIDE && n >= LEAST_SIDE && k >= LEAST_DEPTH;
}

static void multiply(bool parallel, float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m,
                     int64_t n, int64_t k) {
    product job = {
        .kernel = &kernel, .c = {c, ldc, 1}, .a = a, .b = b, .alpha = alpha, .beta = beta, .m = m, .n = n, .k = k};
    job.threads = tn_gemm_threads(parallel, m, n, k);
    tn_gemm_by_blocks(&job);
}

void tn_gemm_avx512_bf16(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                         int64_t k) {
    if (is_worth_rounding(m, n, k))
        multiply(true, c, ldc, a, b, alpha, beta, m, n, k);
    else
        tn_gemm_avx512(c, ldc, a, b, alpha, beta, m, n, k);
}

void tn_gemm_avx512_bf16_serial(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m,
                                int64_t n, int64_t k) {
    if (is_worth_rounding(m, n, k))
        multiply(false, c, ldc, a, b, alpha, beta, m, n, k);
    else
        tn_gemm_avx512_serial(c, ldc, a, b, alpha, beta, m, n, k);
}
