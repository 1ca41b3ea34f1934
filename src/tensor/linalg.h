/* Decompositions through LAPACK, on row-major f32 matrices. */
#ifndef TN_TENSOR_LINALG_H
#define TN_TENSOR_LINALG_H

#include <stdint.h>

#include "base/error.h"

/* Thin SVD A [m, n] = U diag(s) V^T, s falling, k = min(m, n): u [m, k], s [k], vt [k, n]. A is not changed. */
tn_status tn_svd(const float *a, int64_t m, int64_t n, float *u, float *s, float *vt);

/* The leading `rank` triplets by randomised subspace iteration (Halko et al. 2011, algorithm 5.1 after `iterations` power
 * steps): u [m, rank], s [rank], vt [rank, n]. The same seed gives the same result. */
tn_status tn_svd_randomised(const float *a, int64_t m, int64_t n, int64_t rank, int iterations, uint64_t seed, float *u,
                            float *s, float *vt);

/* Reduced QR A [m, n] = Q R, k = min(m, n): q [m, k] with orthonormal columns, r [k, n] upper triangular. */
tn_status tn_qr(const float *a, int64_t m, int64_t n, float *q, float *r);

/* The lower triangle of g [m, m] += X X^T, X [m, n], in double. */
void tn_gram_add(double *g, const double *x, int64_t m, int64_t n);

#endif
