/* C[m,n] = alpha * A[m,k] B[k,n] + beta * C for small k, as in the second half of a low-rank update: a panel of B, times
 * alpha, stays in registers while some rows of C pass by, each read and written once. Only B is packed. */
#include "kernel/cpu/gemm.h"

enum {
    ROWS = 128, /* of C in one task */
    PANELS = 8, /* of columns in one task */
    ROWS_AT_ONCE = 8,
    MAX_DEPTH = 16,  /* with more, tiles of C in registers are better */
    LEAST_ROWS = 16, /* with fewer, the panel is not used often enough */
    MAX_NR = 32,
};

typedef struct shallow {
    const tn_gemm_kernel *kernel;
    float *c;
    int64_t ldc;
    tn_operand a, b;
    float alpha, beta;
    int64_t m, n, k;
} shallow;

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static tn_operand part(tn_operand x, int64_t row, int64_t col) {
    x.data = (const char *)x.data + (row * x.row_stride + col * x.col_stride) * tn_dtype_size(x.dtype);
    return x;
}

/* Few rows of C pass by at a time, all columns of the task each: their lines are near each other, and rows whose addresses
 * compete for the same lines of a cache are few. */
static void run_task(const shallow *job, int64_t row, int64_t col) {
    const tn_gemm_kernel *kernel = job->kernel;
    float packed[PANELS * MAX_DEPTH * MAX_NR];
    int64_t end = smaller(job->m, row + ROWS), cols = smaller(job->n - col, PANELS * kernel->nr), size = job->k * kernel->nr;
    for (int64_t j = 0; j < cols; j += kernel->nr)
        kernel->widen(packed + j * job->k, kernel->nr, part(job->b, 0, col + j), job->k, smaller(cols - j, kernel->nr),
                      kernel->nr);
    for (int64_t i = 0; i < (cols + kernel->nr - 1) / kernel->nr * size && job->alpha != 1.0f; i++)
        packed[i] *= job->alpha;
    for (; row < end; row += ROWS_AT_ONCE) {
        const float *a = part(job->a, row, 0).data;
        float *c = job->c + row * job->ldc + col;
        for (int64_t j = 0; j < cols; j += kernel->nr)
            kernel->shallow(c + j, job->ldc, a, job->a.row_stride, job->a.col_stride, packed + j * job->k, job->beta,
                            smaller(end - row, ROWS_AT_ONCE), smaller(cols - j, kernel->nr), job->k);
    }
}

bool tn_gemm_shallow(const tn_gemm_kernel *kernel, bool parallel, float *c, int64_t ldc, tn_operand a, tn_operand b,
                     float alpha, float beta, int64_t m, int64_t n, int64_t k) {
    if (k > MAX_DEPTH || m < LEAST_ROWS || n < kernel->nr || a.dtype != TN_DTYPE_F32)
        return false;
    shallow job = {kernel, c, ldc, a, b, alpha, beta, m, n, k};
    int64_t width = PANELS * kernel->nr, down = (m + ROWS - 1) / ROWS, across = (n + width - 1) / width;
    int threads = tn_gemm_threads(parallel, m, n, k);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (int64_t task = 0; task < down * across; task++)
        run_task(&job, task / across * ROWS, task % across * width);
    return true;
}
