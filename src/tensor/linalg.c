/* LAPACK stores by columns, so a row-major matrix is seen as its transpose: the SVD of A^T = V S U^T gives both sides, and
 * QR goes through an explicit transpose. */
#include "tensor/linalg.h"

#include <limits.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"

extern void sgesdd_(const char *job, const int *m, const int *n, float *a, const int *lda, float *s, float *u,
                    const int *ldu, float *vt, const int *ldvt, float *work, const int *lwork, int *iwork, int *info);
extern void sgeqrf_(const int *m, const int *n, float *a, const int *lda, float *tau, float *work, const int *lwork,
                    int *info);
extern void sorgqr_(const int *m, const int *n, const int *k, float *a, const int *lda, const float *tau, float *work,
                    const int *lwork, int *info);
extern void sgemm_(const char *transa, const char *transb, const int *m, const int *n, const int *k, const float *alpha,
                   const float *a, const int *lda, const float *b, const int *ldb, const float *beta, float *c,
                   const int *ldc);
extern void dsyrk_(const char *uplo, const char *trans, const int *n, const int *k, const double *alpha, const double *a,
                   const int *lda, const double *beta, double *c, const int *ldc);

static tn_status check_sizes(int64_t m, int64_t n) {
    if (m < 1 || n < 1 || m > INT_MAX / 64 || n > INT_MAX / 64)
        return tn_fail(TN_ERROR_ARGUMENT, "a %lld x %lld matrix cannot be decomposed", (long long)m, (long long)n);
    return TN_OK;
}

tn_status tn_svd(const float *a, int64_t m, int64_t n, float *u, float *s, float *vt) {
    TN_TRY(check_sizes(m, n));
    int rows = (int)n, cols = (int)m, k = (int)(m < n ? m : n), info = 0, query = -1;
    float best = 0;
    tn_status status = TN_OK;
    float *copy = tn_malloc((size_t)(m * n) * sizeof *copy), *work = NULL;
    int *integers = tn_malloc((size_t)k * 8 * sizeof *integers);
    if (!copy || !integers) {
        status = tn_fail_memory("a singular value decomposition");
        goto fail;
    }
    memcpy(copy, a, (size_t)(m * n) * sizeof *copy);
    sgesdd_("S", &rows, &cols, copy, &rows, s, vt, &rows, u, &k, &best, &query, integers, &info);
    int length = (int)best + 1;
    work = tn_malloc((size_t)length * sizeof *work);
    if (!work) {
        status = tn_fail_memory("a singular value decomposition");
        goto fail;
    }
    /* column-major U of A^T is [n, k], whose bytes are row-major V^T [k, n]; likewise for the other side */
    sgesdd_("S", &rows, &cols, copy, &rows, s, vt, &rows, u, &k, work, &length, integers, &info);
    if (info != 0)
        status = tn_fail(TN_ERROR_NUMERIC, "the singular value decomposition of a %lld x %lld weight did not converge",
                         (long long)m, (long long)n);
fail:
    tn_free(work);
    tn_free(integers);
    tn_free(copy);
    return status;
}

static void transpose(float *out, const float *in, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            out[j * rows + i] = in[i * cols + j];
}

tn_status tn_qr(const float *a, int64_t m, int64_t n, float *q, float *r) {
    TN_TRY(check_sizes(m, n));
    int rows = (int)m, cols = (int)n, k = (int)(m < n ? m : n), info = 0, length = (int)(64 * n);
    tn_status status = TN_OK;
    float *columns = tn_malloc((size_t)(m * n) * sizeof *columns), *tau = tn_malloc((size_t)k * sizeof *tau);
    float *work = tn_malloc((size_t)length * sizeof *work);
    if (!columns || !tau || !work) {
        status = tn_fail_memory("a QR decomposition");
        goto fail;
    }
    transpose(columns, a, m, n);
    sgeqrf_(&rows, &cols, columns, &rows, tau, work, &length, &info);
    for (int64_t i = 0; i < k && r; i++)
        for (int64_t j = 0; j < n; j++)
            r[i * n + j] = j >= i ? columns[j * m + i] : 0;
    if (info == 0)
        sorgqr_(&rows, &k, &k, columns, &rows, tau, work, &length, &info);
    if (info != 0)
        status =
            tn_fail(TN_ERROR_NUMERIC, "the QR decomposition of a %lld x %lld weight failed", (long long)m, (long long)n);
    else
        transpose(q, columns, k, m);
fail:
    tn_free(work);
    tn_free(tau);
    tn_free(columns);
    return status;
}

/* c [m, n] = a b (or a^T b with a [k, m]), as c^T = b^T a^T of column-major matrices. */
static void multiply(float *c, const float *a, const float *b, int64_t m, int64_t n, int64_t k, int a_transposed) {
    const float one = 1, zero = 0;
    int rows = (int)n, cols = (int)m, inner = (int)k, lda = a_transposed ? cols : inner;
    sgemm_("N", a_transposed ? "T" : "N", &rows, &cols, &inner, &one, b, &rows, a, &lda, &zero, c, &rows);
}

/* Y = A G, then A (A^T Q) `iterations` times with QR between; the SVD of the small Q^T A gives the rest. */
tn_status tn_svd_randomised(const float *a, int64_t m, int64_t n, int64_t rank, int iterations, uint64_t seed, float *u,
                            float *s, float *vt) {
    TN_TRY(check_sizes(m, n));
    int64_t k = rank;
    tn_status status = TN_OK;
    float *y = tn_malloc((size_t)(m * k) * sizeof *y), *q = tn_malloc((size_t)(m * k) * sizeof *q);
    float *z = tn_malloc((size_t)(n * k) * sizeof *z), *p = tn_malloc((size_t)(n * k) * sizeof *p);
    float *small = tn_malloc((size_t)(k * n) * sizeof *small), *small_u = tn_malloc((size_t)(k * k) * sizeof *small_u);
    if (!y || !q || !z || !p || !small || !small_u) {
        status = tn_fail_memory("a singular value decomposition");
        goto fail;
    }
    tn_fill_normal(z, (size_t)(n * k), seed, tn_stream(TN_STREAM_INIT, 0xffff), 0, 1);
    multiply(y, a, z, m, k, n, 0);
    TN_TRY_GOTO(tn_qr(y, m, k, q, NULL));
    for (int i = 0; i < iterations; i++) {
        multiply(z, a, q, n, k, m, 1);
        TN_TRY_GOTO(tn_qr(z, n, k, p, NULL));
        multiply(y, a, p, m, k, n, 0);
        TN_TRY_GOTO(tn_qr(y, m, k, q, NULL));
    }
    multiply(small, q, a, k, n, m, 1);
    TN_TRY_GOTO(tn_svd(small, k, n, small_u, s, vt));
    multiply(u, q, small_u, m, k, k, 0);
fail:
    tn_free(small_u);
    tn_free(small);
    tn_free(p);
    tn_free(z);
    tn_free(q);
    tn_free(y);
    return status;
}

void tn_gram_add(double *g, const double *x, int64_t m, int64_t n) {
    const double one = 1;
    int rows = (int)m, cols = (int)n;
    /* the upper triangle by columns is the lower one by rows */
    dsyrk_("U", "T", &rows, &cols, &one, x, &cols, &one, g, &rows);
}
