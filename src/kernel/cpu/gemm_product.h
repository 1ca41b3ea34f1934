/* A product on its way through the driver: shared by gemm.c, which chooses how it is computed, gemm_blocks.c and
 * gemm_few_rows.c. */
#ifndef TN_KERNEL_CPU_GEMM_PRODUCT_H
#define TN_KERNEL_CPU_GEMM_PRODUCT_H

#ifdef _OPENMP
#include <omp.h>
#endif

#include "kernel/cpu/gemm.h"

enum {
    MAX_PANEL = 16,     /* largest panel_a */
    IN_PLACE_COLS = 96, /* of C: with more, packing A pays */
};

typedef struct matrix {
    float *data;
    int64_t row_stride, col_stride;
} matrix;

typedef struct product {
    const tn_gemm_kernel *kernel;
    matrix c;
    tn_operand a, b;
    float alpha, beta;
    int64_t m, n, k;
    int threads;
    /* Blocks. */
    float *packed_a, *packed_b;  /* of the calling thread */
    bool a_in_place, b_in_place; /* A and whole panels of B are read where they are */
    bool a_by_rows;              /* the rows of A that tiles need are copied next to each other as f32 */
    /* Few rows, for dot products: f32 [m, k]. */
    const float *few;
    int64_t few_stride;
} product;

static inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

/* `size` cut into equal blocks of at most `most`, each a multiple of `unit`. */
static inline int64_t even_block(int64_t size, int64_t most, int64_t unit) {
    int64_t blocks = (size + most - 1) / most;
    return round_up((size + blocks - 1) / blocks, unit);
}

/* Calls `work` in each thread, with its number and how many there are: maybe fewer than were asked for. */
static inline void run(const product *job, void (*work)(const product *job, int64_t index, int64_t team)) {
    if (job->threads == 1) {
        work(job, 0, 1);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel num_threads(job->threads)
    work(job, omp_get_thread_num(), omp_get_num_threads());
#endif
}

/* kernel->widen, of quantised operands too. */
void tn_gemm_widen(const tn_gemm_kernel *kernel, float *out, int64_t out_stride, tn_operand src, int64_t rows, int64_t cols,
                   int64_t width);

/* At least `count` floats that the calling thread owns until its next call, or NULL. */
float *tn_gemm_scratch(int64_t count);

void tn_gemm_by_blocks(product *job);

/* m <= 32. False when this is no product of few rows after all, or there is no memory to treat it as one. */
bool tn_gemm_few_rows(product *job);

/* C = alpha * value + beta * C at (i, j). */
static inline void put(const product *job, int64_t i, int64_t j, float value) {
    float *c = job->c.data + i * job->c.row_stride + j * job->c.col_stride;
    *c = job->beta == 0.0f ? job->alpha * value : job->alpha * value + job->beta * *c;
}

#endif
