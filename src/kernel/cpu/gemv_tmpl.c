/* Products of few rows, compiled once per instruction set: C[m,n] = alpha A[m,k] B[k,n] + beta C with B = W^T, W [n, k] by
 * rows, as generation makes them for each token.
 *
 * They cost what reading W costs. So W is read once and each thread walks a few long runs of consecutive rows, which is the
 * pattern that processors fetch ahead; rows taken side by side would be many short runs. bf16 and f16 are widened in
 * registers. An element is summed by one thread in an order that depends on k alone: the bits depend neither on the threads
 * nor on the number of rows. */
#include "kernel/cpu/simd.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    FEW_ROWS = 8,         /* of A */
    GROUP = 4,            /* rows of A at once: their sums stay in registers */
    WIDE = 4,             /* rows of W at once, for one row of A */
    SHALLOW = 16,         /* depth up to which rows of W are shorter than is worth a sum over lanes */
    COLUMNS = 16,         /* of C that several rows of A take before the next of A */
    TOGETHER = 4,         /* products that share A */
    LEAST_BYTES = 1 << 14 /* of W for each thread that is woken */
};
#ifdef __AVX512F__
enum { SUMS = 4 }; /* of a row at once, for the latency of additions */
#else
enum { SUMS = 2 };
#endif

#if defined(__AVX512F__)
INLINE tn_vec load_half(const uint16_t *w, const tn_dtype dtype) {
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)w);
    if (dtype == TN_DTYPE_BF16)
        return (tn_vec)_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    return (tn_vec)_mm512_cvtph_ps(half);
}
#elif defined(__AVX2__)
INLINE tn_vec load_half(const uint16_t *w, const tn_dtype dtype) {
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)w);
    if (dtype == TN_DTYPE_BF16)
        return (tn_vec)_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
    return (tn_vec)_mm256_cvtph_ps(half);
}
#else
/* f16 by its bits: exponent and fraction moved into place as a float are the value times 2^-112, subnormals too. */
INLINE tn_vec load_half(const uint16_t *w, const tn_dtype dtype) {
    tn_mask bits = {0};
    for (int i = 0; i < TN_LANES; i++)
        bits[i] = w[i];
    if (dtype == TN_DTYPE_BF16)
        return (tn_vec)(bits << 16);
    tn_mask magnitude = bits & 0x7fff, broken = magnitude >= 0x7c00;
    tn_vec value = (tn_vec)(magnitude << 13) * 0x1p112f;
    return (tn_vec)((tn_mask)value | (broken & 0x7f800000) | (bits & 0x8000) << 16);
}
#endif

INLINE tn_vec load_as(const void *w, int64_t index, const tn_dtype dtype) {
    return dtype == TN_DTYPE_F32 ? tn_load((const float *)w + index) : load_half((const uint16_t *)w + index, dtype);
}

/* The last `count` elements of a row, zeros above. */
static tn_vec load_rest(const void *w, int64_t index, int64_t count, tn_dtype dtype) {
    float rest[TN_LANES] = {0};
    tn_convert_to_f32(rest, (const char *)w + index * tn_dtype_size(dtype), dtype, count);
    return tn_load(rest);
}

/* out[i] = sum over p of x[i * x_stride + p] w[index + p] for i < rows. */
INLINE void dot_rows(float *out, const float *x, int64_t x_stride, const void *w, int64_t index, int64_t depth,
                     const tn_dtype dtype, const int rows) {
    tn_vec acc[GROUP][SUMS];
    const int64_t step = SUMS * TN_LANES;
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
        for (int s = 0; s < SUMS; s++)
            acc[i][s] = (tn_vec){0};
    int64_t p = 0;
    for (; p + step <= depth; p += step) {
#pragma GCC unroll 16
        for (int s = 0; s < SUMS; s++) {
            tn_vec y = load_as(w, index + p + s * TN_LANES, dtype);
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++)
                acc[i][s] = tn_vec_muladd(tn_load(x + i * x_stride + p + s * TN_LANES), y, acc[i][s]);
        }
    }
    for (; p + TN_LANES <= depth; p += TN_LANES) {
        tn_vec y = load_as(w, index + p, dtype);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            acc[i][0] = tn_vec_muladd(tn_load(x + i * x_stride + p), y, acc[i][0]);
    }
    if (p < depth) {
        tn_vec y = load_rest(w, index + p, depth - p, dtype);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
            acc[i][0] = tn_vec_muladd(load_rest(x, i * x_stride + p, depth - p, TN_DTYPE_F32), y, acc[i][0]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
#pragma GCC unroll 16
        for (int s = SUMS / 2; s > 0; s /= 2)
#pragma GCC unroll 16
            for (int t = 0; t < s; t++)
                acc[i][t] += acc[i][t + s];
        out[i] = tn_sum_lanes(acc[i][0]);
    }
}

/* The same of one row of A with WIDE rows of W at once, in the same order: x is loaded once for them. */
INLINE void dot_wide(float *out, const float *x, const void *w, int64_t index, int64_t w_stride, int64_t depth,
                     const tn_dtype dtype) {
    tn_vec acc[WIDE][SUMS];
    const int64_t step = SUMS * TN_LANES;
#pragma GCC unroll 16
    for (int j = 0; j < WIDE; j++)
#pragma GCC unroll 16
        for (int s = 0; s < SUMS; s++)
            acc[j][s] = (tn_vec){0};
    int64_t p = 0;
    for (; p + step <= depth; p += step) {
        tn_vec part[SUMS];
#pragma GCC unroll 16
        for (int s = 0; s < SUMS; s++)
            part[s] = tn_load(x + p + s * TN_LANES);
#pragma GCC unroll 16
        for (int j = 0; j < WIDE; j++) {
#pragma GCC unroll 16
            for (int s = 0; s < SUMS; s++)
                acc[j][s] = tn_vec_muladd(part[s], load_as(w, index + j * w_stride + p + s * TN_LANES, dtype), acc[j][s]);
        }
    }
    for (; p + TN_LANES <= depth; p += TN_LANES) {
#pragma GCC unroll 16
        for (int j = 0; j < WIDE; j++)
            acc[j][0] = tn_vec_muladd(tn_load(x + p), load_as(w, index + j * w_stride + p, dtype), acc[j][0]);
    }
    if (p < depth) {
        tn_vec part = load_rest(x, p, depth - p, TN_DTYPE_F32);
#pragma GCC unroll 16
        for (int j = 0; j < WIDE; j++)
            acc[j][0] = tn_vec_muladd(part, load_rest(w, index + j * w_stride + p, depth - p, dtype), acc[j][0]);
    }
#pragma GCC unroll 16
    for (int j = 0; j < WIDE; j++) {
#pragma GCC unroll 16
        for (int s = SUMS / 2; s > 0; s /= 2)
#pragma GCC unroll 16
            for (int t = 0; t < s; t++)
                acc[j][t] += acc[j][t + s];
        out[j] = tn_sum_lanes(acc[j][0]);
    }
}

typedef struct {
    float *c;
    int64_t ldc;
    const float *x;
    int64_t x_stride;
    const void *w;
    int64_t w_stride;
    tn_dtype dtype;
    float alpha, beta;
    int64_t rows, depth, cols;
} product;

INLINE void put(const product *job, int64_t row, int64_t col, float sum) {
    float *c = job->c + row * job->ldc + col;
    *c = job->beta == 0 ? job->alpha * sum : tn_muladd(job->beta, *c, job->alpha * sum);
}

/* Rows [first, first + rows) of columns [from, to) of C. */
INLINE void columns_of_rows(const product *job, int64_t first, int64_t from, int64_t to, const tn_dtype dtype,
                            const int rows) {
    float sums[COLUMNS][GROUP];
    const float *x = job->x + first * job->x_stride;
    for (int64_t j = from; j < to; j++)
        dot_rows(sums[j - from], x, job->x_stride, job->w, j * job->w_stride, job->depth, dtype, rows);
    for (int i = 0; i < rows; i++)
        for (int64_t j = from; j < to; j++)
            put(job, first + i, j, sums[j - from][i]);
}

INLINE void piece_as(const product *job, int64_t from, int64_t to, const tn_dtype dtype) {
    for (int64_t i = 0; i < job->rows; i += GROUP) {
        switch (tn_min_i64(GROUP, job->rows - i)) {
        case 1: columns_of_rows(job, i, from, to, dtype, 1); break;
        case 2: columns_of_rows(job, i, from, to, dtype, 2); break;
        case 3: columns_of_rows(job, i, from, to, dtype, 3); break;
        default: columns_of_rows(job, i, from, to, dtype, 4); break;
        }
    }
}

/* The same for little depth: lanes are columns. */
INLINE void shallow_columns(const product *job, int64_t from, int64_t to, const int64_t depth) {
    for (int64_t i = 0; i < job->rows; i++) {
        float sums[COLUMNS] = {0};
        const float *w = (const float *)job->w + from * job->w_stride, *x = job->x + i * job->x_stride;
        const int64_t stride = job->w_stride;
        for (int64_t p = 0; p < depth; p++) {
#pragma omp simd
            for (int64_t j = 0; j < to - from; j++)
                sums[j] = tn_muladd(x[p], w[j * stride + p], sums[j]);
        }
        for (int64_t j = from; j < to; j++)
            put(job, i, j, sums[j - from]);
    }
}

/* One row of A: rows of W from as many places of the range as are taken at once, so that each place is a long run. */
INLINE void row_as(const product *job, int64_t from, int64_t to, const tn_dtype dtype) {
    const int64_t apart = (to - from) / WIDE;
    for (int64_t j = from; j < from + apart; j++) {
        float sums[WIDE];
        dot_wide(sums, job->x, job->w, j * job->w_stride, apart * job->w_stride, job->depth, dtype);
        for (int i = 0; i < WIDE; i++)
            put(job, 0, j + i * apart, sums[i]);
    }
    for (int64_t j = from + apart * WIDE; j < to; j++) {
        float sum[GROUP];
        dot_rows(sum, job->x, job->x_stride, job->w, j * job->w_stride, job->depth, dtype, 1);
        put(job, 0, j, sum[0]);
    }
}

INLINE void columns_as(const product *job, int64_t from, int64_t to, const tn_dtype dtype) {
    if (job->rows == 1)
        row_as(job, from, to, dtype);
    else
        for (int64_t j = from; j < to; j += COLUMNS)
            piece_as(job, j, tn_min_i64(j + COLUMNS, to), dtype);
}

static void columns(const product *job, int64_t from, int64_t to) {
    if (job->dtype == TN_DTYPE_F32 && job->depth <= SHALLOW)
        for (int64_t j = from; j < to; j += COLUMNS)
            shallow_columns(job, j, tn_min_i64(j + COLUMNS, to), job->depth);
    else if (job->dtype == TN_DTYPE_F32)
        columns_as(job, from, to, TN_DTYPE_F32);
    else if (job->dtype == TN_DTYPE_BF16)
        columns_as(job, from, to, TN_DTYPE_BF16);
    else
        columns_as(job, from, to, TN_DTYPE_F16);
}

static bool is_few(tn_operand a, tn_operand b, int64_t m, int64_t n, int64_t k) {
    return m >= 1 && k >= 1 && m <= FEW_ROWS && a.dtype == TN_DTYPE_F32 && a.col_stride == 1 && b.row_stride == 1 &&
           n >= m && b.dtype != TN_DTYPE_QUANTISED;
}

/* Products of few rows that read `bytes` of weights in all: each thread takes its share of the columns of each. */
static void run(const product *jobs, int64_t count, int64_t bytes) {
#ifdef _OPENMP
    const bool parallel = bytes >= 2 * LEAST_BYTES && !omp_in_parallel();
#else
    (void)bytes;
#endif
#pragma omp parallel if (parallel)
    {
        int64_t team = 1, index = 0;
#ifdef _OPENMP
        team = omp_get_num_threads();
        index = omp_get_thread_num();
#endif
        for (const product *job = jobs; job < jobs + count; job++)
            columns(job, job->cols * index / team, job->cols * (index + 1) / team);
    }
}

void TN_FOR_ISA(tn_product_, )(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m,
                               int64_t n, int64_t k) {
    if (!is_few(a, b, m, n, k)) {
        TN_FOR_ISA(tn_gemm_, )(c, ldc, a, b, alpha, beta, m, n, k);
        return;
    }
    const product job = {c, ldc, a.data, a.row_stride, b.data, b.col_stride, b.dtype, alpha, beta, m, k, n};
    run(&job, 1, n * k * tn_dtype_size(b.dtype));
}

/* Of AVX-512, two kinds: with and without dot products of integers. */
static bool run_quantised(const tn_shared_product *products, int64_t count, tn_operand a, int64_t m, int64_t k) {
#if defined(__AVX512F__)
    return (tn_cpu_has_avx512_vnni() ? tn_gemv_quantised_avx512_vnni : tn_gemv_quantised_avx512)(products, count, a, m, k);
#else
    return TN_FOR_ISA(tn_gemv_quantised_, )(products, count, a, m, k);
#endif
}

void TN_FOR_ISA(tn_infer_products_, )(const tn_shared_product *products, int64_t count, tn_operand a, int64_t m, int64_t k) {
    product jobs[TOGETHER];
    int64_t waiting = 0, bytes = 0;
    if (run_quantised(products, count, a, m, k))
        return;
    for (int64_t i = 0; i < count; i++) {
        const tn_shared_product *p = &products[i];
        if (p->b.dtype == TN_DTYPE_QUANTISED && run_quantised(p, 1, a, m, k))
            continue;
        if (!is_few(a, p->b, m, p->n, k)) {
            TN_FOR_ISA(tn_gemm_, )(p->c, p->ldc, a, p->b, 1, 0, m, p->n, k);
            continue;
        }
        jobs[waiting++] =
            (product){p->c, p->ldc, a.data, a.row_stride, p->b.data, p->b.col_stride, p->b.dtype, 1, 0, m, k, p->n};
        bytes += p->n * k * tn_dtype_size(p->b.dtype);
        if (waiting == TOGETHER) {
            run(jobs, waiting, bytes);
            waiting = bytes = 0;
        }
    }
    if (waiting)
        run(jobs, waiting, bytes);
}
