/* C[m,n] = alpha * A[m,k] B[k,n] + beta * C where k or n is as small as the rank of an update, and m is not.
 *
 * Shallow (u B^T, du A): a panel of B, times alpha, stays in registers while some rows of C pass by, each read and written
 * once. Narrow (x A^T, dy B, dy^T u): a row of C is one vector; a few of them stay in registers over a depth of A, read in
 * place, and B. Both pack B only. */
#include "kernel/cpu/gemm_product.h"

enum {
    MAX_SHALLOW = 16, /* depth; with more, tiles of C in registers are better */
    LEAST_ROWS = 16,  /* with fewer, what is packed is not used often enough */
    ROWS = 128,       /* of C at once */
    PANELS = 8,       /* of columns at once */
    ROWS_AT_ONCE = 8,
    DEPTH = 512, /* of B packed at once in a narrow task */
    MAX_W = 16,
    MAX_NR = 32,
};

/* Few rows of C pass by at a time, all columns of the task each: their lines are near each other, and rows whose addresses
 * compete for the same lines of a cache are few. */
static void run_shallow(const product *job, int64_t row, int64_t rows, int64_t col) {
    const tn_gemm_kernel *kernel = job->kernel;
    float packed[PANELS * MAX_SHALLOW * MAX_NR];
    int64_t end = smaller(job->m, row + rows), cols = smaller(job->n - col, PANELS * kernel->nr);
    for (int64_t j = 0; j < cols; j += kernel->nr)
        tn_gemm_widen(kernel, packed + j * job->k, kernel->nr, tn_operand_part(job->b, 0, col + j), job->k,
                      smaller(cols - j, kernel->nr), kernel->nr);
    if (job->alpha != 1.0f)
        kernel->scale(packed, job->alpha, (cols + kernel->nr - 1) / kernel->nr * job->k * kernel->nr);
    for (; row < end; row += ROWS_AT_ONCE) {
        const float *a = tn_operand_part(job->a, row, 0).data;
        float *c = job->c.data + row * job->c.row_stride + col;
        for (int64_t j = 0; j < cols; j += kernel->nr)
            kernel->shallow(c + j, job->c.row_stride, a, job->a.row_stride, job->a.col_stride, packed + j * job->k,
                            job->beta, smaller(end - row, ROWS_AT_ONCE), smaller(cols - j, kernel->nr), job->k);
    }
}

/* Threads share rows out as multiply_narrow does, so that what a thread has just computed for its rows is near. */
static void multiply_shallow(const product *job, int64_t index, int64_t team) {
    int64_t share = ((job->m + team - 1) / team + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE * ROWS_AT_ONCE;
    int64_t rows = smaller(share > LEAST_ROWS ? share : LEAST_ROWS, ROWS), width = PANELS * job->kernel->nr;
    int64_t down = (job->m + rows - 1) / rows, across = (job->n + width - 1) / width, tasks = down * across;
    for (int64_t task = tasks * index / team; task < tasks * (index + 1) / team; task++)
        run_shallow(job, task / across * rows, rows, task % across * width);
}

static void run_narrow(const product *job, int64_t row, int64_t rows) {
    const tn_gemm_kernel *kernel = job->kernel;
    float packed[DEPTH * MAX_W];
    for (int64_t p = 0; p < job->k; p += DEPTH) {
        int64_t depth = smaller(job->k - p, DEPTH);
        tn_gemm_widen(kernel, packed, kernel->width, tn_operand_part(job->b, p, 0), depth, job->n, kernel->width);
        kernel->narrow(job->c.data + row * job->c.row_stride, job->c.row_stride, tn_operand_part(job->a, row, p).data,
                       job->a.row_stride, job->a.col_stride, packed, job->alpha, p ? 1.0f : job->beta, rows, job->n, depth);
    }
}

/* Rows do not depend on each other: sharing them out by the number of threads changes no bits. */
static void multiply_narrow(const product *job, int64_t index, int64_t team) {
    int64_t units = (job->m + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    int64_t end = smaller(units * (index + 1) / team * ROWS_AT_ONCE, job->m);
    for (int64_t row = units * index / team * ROWS_AT_ONCE; row < end; row += ROWS)
        run_narrow(job, row, smaller(end - row, ROWS));
}

bool tn_gemm_low_rank(const tn_gemm_kernel *kernel, bool parallel, float *c, int64_t ldc, tn_operand a, tn_operand b,
                      float alpha, float beta, int64_t m, int64_t n, int64_t k) {
    if (m < LEAST_ROWS || a.dtype != TN_DTYPE_F32)
        return false;
    product job = {.kernel = kernel, .c = {c, ldc, 1}, .a = a, .b = b, .alpha = alpha, .beta = beta, .m = m, .n = n, .k = k};
    job.threads = tn_gemm_threads(parallel, m, n, k);
    if (k <= MAX_SHALLOW && n >= kernel->nr)
        run(&job, multiply_shallow);
    else if (n > kernel->width / 2 && n <= kernel->width && k > MAX_SHALLOW)
        run(&job, multiply_narrow);
    else
        return false;
    return true;
}
