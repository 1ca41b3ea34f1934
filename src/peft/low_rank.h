/* Updates as factors, and low-rank approximations of sums of them: scale * B A with A [R, C], B [O, R]. */
#ifndef TN_PEFT_LOW_RANK_H
#define TN_PEFT_LOW_RANK_H

#include <stdint.h>

#include "base/memory.h"

typedef struct tn_factors {
    int64_t out, in, rank; /* O, C, R */
    double scale;
    const float *a, *b; /* A [R, C], B [O, R]; owned elsewhere */
} tn_factors;

/* How many singular components to keep, one at least. */
typedef struct tn_rank_choice {
    int64_t rank;  /* that many, or as many as there are; 0: by energy */
    double energy; /* the fewest whose squares reach this share of the sum of all squares */
} tn_rank_choice;

/* W ~ B A with B = U S and A = V^T of the truncated SVD, scale 1. */
typedef struct tn_low_rank {
    tn_factors factors;    /* in the arena that was given */
    double total, dropped; /* ||W||_F^2 and ||W - B A||_F^2 */
} tn_low_rank;

/* W = sum_i weights[i] * scale_i B_i A_i, never formed: [O, C] costs QR of [O, K] and [C, K] and an SVD of [K, K], K being
 * the sum of the ranks. All terms have the same O and C. */
tn_status tn_low_rank_of_sum(const tn_factors *terms, const double *weights, size_t count, tn_rank_choice choice,
                             tn_arena *arena, tn_low_rank *out);

/* W [O, C] given. Full SVD of small matrices, else randomised (`seed`) with more components until the choice is met;
 * `dropped` is exact in both cases, since the kept part is a projection of W. */
tn_status tn_low_rank_of_dense(const float *w, int64_t rows, int64_t cols, tn_rank_choice choice, uint64_t seed,
                               tn_arena *arena, tn_low_rank *out);

/* ||sum_i weights[i] * scale_i B_i A_i||_F, by Gram matrices in double: sqrt(sum of (B^T B) o (A A^T)) of the stacked
 * factors. *terms_norm (may be NULL) gets the root of the sum of the magnitudes: a norm far below it is what cancellation
 * left. */
tn_status tn_factors_norm(const tn_factors *terms, const double *weights, size_t count, double *out, double *terms_norm);

#endif
