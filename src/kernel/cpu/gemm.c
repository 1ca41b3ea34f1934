/* C[m,n] = alpha * A[m,k] B[k,n] + beta * C by blocks, after Goto & van de Geijn (2008) and Van Zee & van de Geijn (2015),
 * or, with few rows (or columns: the product is then transposed), straight through the wide operand.
 *
 * Every element of C is summed over k in an order that depends on the shape alone, by one thread at a time. */
#include "kernel/cpu/gemm_product.h"

#include "base/memory.h"

enum {
    DOT_ROWS = 32,           /* most rows of a product computed as dot products */
    CACHED_FLOATS = 1 << 17, /* of B, up to which products of few rows take its rows in tiles */
    ALIASED = 1024,          /* rows as many floats apart compete for the same lines of a cache */
};

/* Fewer multiplications than this for each thread are not worth waking it. */
static const int64_t thread_work = 1 << 18;

static _Thread_local struct {
    void *pages;
    size_t size;
} scratch;

void tn_gemm_release_scratch(void) {
    tn_pages_free(scratch.pages, scratch.size);
    scratch.pages = NULL;
    scratch.size = 0;
}

float *tn_gemm_scratch(int64_t count) {
    size_t size = (size_t)round_up(count * (int64_t)sizeof(float), 256 << 10);
    if (size > scratch.size) {
        tn_gemm_release_scratch();
        scratch.pages = tn_pages_alloc(size);
        if (scratch.pages)
            scratch.size = size;
    }
    return scratch.pages;
}

int tn_gemm_threads(bool parallel, int64_t m, int64_t n, int64_t k) {
#ifdef _OPENMP
    if (!parallel || omp_in_parallel())
        return 1;
    double useful = (double)m * (double)n * (double)k / (double)thread_work;
    int most = omp_get_max_threads();
    return useful >= most ? most : useful < 1 ? 1 : (int)useful;
#else
    (void)parallel, (void)m, (void)n, (void)k;
    return 1;
#endif
}

/* C^T = B^T A^T takes B's columns as they are, as the rows of a tile, where A B would transpose all of B into panels. The
 * price is to transpose the tiles of C, and A, which are smaller: few rows against a depth of many. */
static bool is_better_transposed(const product *job) {
    const tn_gemm_kernel *kernel = job->kernel;
    return job->m <= IN_PLACE_COLS && job->k >= 2 * job->m && job->n > job->m && job->b.row_stride == 1 &&
           8 * round_up(job->m, kernel->nr) <= 9 * round_up(job->m, kernel->mr); /* tiles are not padded much more */
}

/* B's rows fit in the caches and several rows of C share each: no need to read them one after another. */
static bool fits_in_tiles(const product *job) {
    return job->m > 4 && job->b.col_stride == 1 && job->b.dtype == TN_DTYPE_F32 && job->k * job->n <= CACHED_FLOATS;
}

static void scale_only(const product *job) {
    for (int64_t i = 0; i < job->m; i++) {
        for (int64_t j = 0; j < job->n; j++)
            put(job, i, j, 0.0f);
    }
}

static void transpose_product(product *job) {
    tn_operand a = job->a;
    int64_t m = job->m;
    job->a = tn_operand_transposed(job->b);
    job->b = tn_operand_transposed(a);
    job->m = job->n;
    job->n = m;
    job->c = (matrix){job->c.data, job->c.col_stride, job->c.row_stride};
}

void tn_gemm_run(const tn_gemm_kernel *kernel, bool parallel, float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha,
                 float beta, int64_t m, int64_t n, int64_t k) {
    if (m <= 0 || n <= 0)
        return;
    product job = {.kernel = kernel, .c = {c, ldc, 1}, .a = a, .b = b, .alpha = alpha, .beta = beta, .m = m, .n = n, .k = k};
    if (k <= 0) {
        scale_only(&job);
        return;
    }
    if (tn_gemm_low_rank(kernel, parallel, c, ldc, a, b, alpha, beta, m, n, k))
        return;
    job.threads = tn_gemm_threads(parallel, m, n, k);
    if (smaller(m, n) <= DOT_ROWS) {
        if (n < m)
            transpose_product(&job);
        if (!fits_in_tiles(&job)) {
            if (tn_gemm_few_rows(&job))
                return;
            if (n < m)
                transpose_product(&job);
        }
    } else if (is_better_transposed(&job)) {
        transpose_product(&job);
        job.a_by_rows = job.a.dtype != TN_DTYPE_F32 || job.a.row_stride % ALIASED == 0;
    }
    tn_gemm_by_blocks(&job);
}
