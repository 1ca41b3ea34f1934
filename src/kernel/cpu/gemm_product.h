/* A product on its way through the driver: shared by gemm.c, which chooses how it is computed, gemm_blocks.c and
 * gemm_few_rows.c. */
#ifndef TN_KERNEL_CPU_GEMM_PRODUCT_H
#define TN_KERNEL_CPU_GEMM_PRODUCT_H

#include <stdatomic.h>

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
    atomic_llong next_pack, next_task;
    /* Blocks. */
    int64_t mc, nc, kc, packed_depth;
    float *packed_a, *packed_b;
    bool by_strips;              /* each thread packs the B that it uses */
    bool a_in_place, b_in_place; /* A and whole panels of B are read where they are */
    bool a_by_rows;              /* each task copies the rows of A that it uses next to each other */
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

/* Of the team that works on the job, which may be smaller than was asked for. */
static inline int team_size(const product *job) {
#ifdef _OPENMP
    return job->threads > 1 ? omp_get_num_threads() : 1;
#else
    (void)job;
    return 1;
#endif
}

static inline int team_index(const product *job) {
#ifdef _OPENMP
    return job->threads > 1 ? omp_get_thread_num() : 0;
#else
    (void)job;
    return 0;
#endif
}

static inline void wait_for_all(const product *job) {
    if (job->threads > 1) {
#pragma omp barrier
    }
}

static inline int64_t take(atomic_llong *next) {
    return atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
}

static inline void run(product *job, void (*work)(product *)) {
    atomic_init(&job->next_pack, 0);
    atomic_init(&job->next_task, 0);
    if (job->threads == 1) {
        work(job);
        return;
    }
#pragma omp parallel num_threads(job->threads)
    work(job);
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
