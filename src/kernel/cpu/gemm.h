/* Matrix multiplication on the CPU: one portable driver (gemm.c) over a handful of inner kernels per instruction set
 * (gemm_tmpl.h compiled by gemm_generic.c, gemm_avx2.c and gemm_avx512.c). */
#ifndef TN_KERNEL_CPU_GEMM_H
#define TN_KERNEL_CPU_GEMM_H

#include "kernel/kernel.h"

enum {
    TN_GEMM_FEW = 16,     /* rows of coefficients that `axpys` finds side by side */
    TN_GEMM_ROW_CHUNK = 4 /* most rows of the wide operand that `dots` takes at once */
};

/* The inner kernels of one instruction set. W is its vector width in floats. */
typedef struct tn_gemm_kernel {
    int64_t width; /* W */

    /* A packed panel of A holds mr rows as [depth, panel_a]. B is packed as [depth, columns], and used by panels of nr. */
    int64_t mr, nr, panel_a;
    int64_t mc, kc; /* most rows of A and depth packed at once */
    int64_t unit;   /* elements of depth in each step of a panel: 1, or 2 in the place of a float. kc counts steps. */
    int64_t group;  /* few-row kernels take at most this many rows at once */

    void (*dequantise)(float *out, const tn_quantised *array, int64_t first, int64_t count); /* as in the table */

    /* out[r * out_stride + c] = src(r, c), not quantised, as f32 for r < rows, c < cols; 0 for cols <= c < width. width is a
     * multiple of W and may be below neither cols nor W. This packs both operands and widens small ones. With units of 2,
     * rows 2 i and 2 i + 1 as bf16 share row i of out; a missing last one is 0. */
    void (*widen)(float *out, int64_t out_stride, tn_operand src, int64_t rows, int64_t cols, int64_t width);

    /* C[rows, cols] = alpha * A B + beta * C; rows <= mr, cols <= nr. Element (i, p) of A is a[i * a_row + p * a_step]: 1
     * and panel_a in a packed panel. Row p of B is the nr floats from b + p * b_step. */
    void (*tile)(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step,
                 float alpha, float beta, int64_t rows, int64_t cols, int64_t depth);

    /* The same with element (i, j) of C at c[i + j * ldc]. */
    void (*tile_across)(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step,
                        float alpha, float beta, int64_t rows, int64_t cols, int64_t depth);

    /* x *= factor; count is a multiple of W. */
    void (*scale)(float *x, float factor, int64_t count);

    /* C[rows, cols] = A B + beta * C; cols <= nr, any rows, small depth. A as in `tile`, B packed. */
    void (*shallow)(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, float beta,
                    int64_t rows, int64_t cols, int64_t depth);

    /* C[rows, cols] = alpha * A B + beta * C; cols <= width, any rows. A as in `tile`, B packed as [depth, width]. */
    void (*narrow)(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, float alpha,
                   float beta, int64_t rows, int64_t cols, int64_t depth);

    /* out[j * rows + i] += sum over p of x[i * x_stride + p] * w[j * w_stride + p]: i < rows <= group, j < count. */
    void (*dots)(float *out, const float *x, int64_t x_stride, const void *w, tn_dtype dtype, int64_t w_stride, int64_t rows,
                 int64_t count, int64_t depth);

    /* acc[i * acc_stride + j] += sum over p of coef[p * TN_GEMM_FEW + i] * w[p * w_stride + j]: i < rows <= group,
     * j < cols, p < depth (a few). acc is written up to a multiple of 2 W columns. */
    void (*axpys)(float *acc, int64_t acc_stride, const float *coef, const void *w, tn_dtype dtype, int64_t w_stride,
                  int64_t rows, int64_t cols, int64_t depth);
} tn_gemm_kernel;

/* kernel.h's gemm over the given inner kernels, by all threads (or the calling one inside a parallel region) or, not
 * `parallel`, by the calling one. Needs no memory to succeed, but is slow when scratch cannot be had. The bits depend
 * on neither the threads nor the memory, except that products of few rows differ in rounding without scratch. */
void tn_gemm_run(const tn_gemm_kernel *kernel, bool parallel, float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha,
                 float beta, int64_t m, int64_t n, int64_t k);

/* The same when k or n is as small as a rank and m is not (gemm_low_rank.c); false when it is not so. */
bool tn_gemm_low_rank(const tn_gemm_kernel *kernel, bool parallel, float *c, int64_t ldc, tn_operand a, tn_operand b,
                      float alpha, float beta, int64_t m, int64_t n, int64_t k);

/* Threads that a product is worth; 1 unless `parallel`, and inside a parallel region. */
int tn_gemm_threads(bool parallel, int64_t m, int64_t n, int64_t k);

/* Frees the packing buffers of the calling thread (at most a few MB); its next product allocates them again. */
void tn_gemm_release_scratch(void);

/* The table's dequantise; dequantise_tmpl.c is compiled once per instruction set. */
void tn_dequantise_generic(float *out, const tn_quantised *array, int64_t first, int64_t count);
void tn_dequantise_avx2(float *out, const tn_quantised *array, int64_t first, int64_t count);
void tn_dequantise_avx512(float *out, const tn_quantised *array, int64_t first, int64_t count);
void tn_dequantise_avx512_bf16(float *out, const tn_quantised *array, int64_t first, int64_t count);

/* The table's gemm and gemm_serial. avx2 and avx512 exist on x86-64 only and need tn_cpu_has_avx2 or _avx512. */
void tn_gemm_generic(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                     int64_t k);
void tn_gemm_generic_serial(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                            int64_t k);
void tn_gemm_avx2(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                  int64_t k);
void tn_gemm_avx2_serial(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                         int64_t k);
void tn_gemm_avx512(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                    int64_t k);
void tn_gemm_avx512_serial(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                           int64_t k);
/* Operands rounded to bf16, sums in f32; needs tn_cpu_has_avx512_bf16. */
void tn_gemm_avx512_bf16(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                         int64_t k);
void tn_gemm_avx512_bf16_serial(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m,
                                int64_t n, int64_t k);

#endif
