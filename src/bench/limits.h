/* What the machine can do: matrix products of a model's own shapes and reading memory. */
#ifndef TN_BENCH_LIMITS_H
#define TN_BENCH_LIMITS_H

#include <tenon/bench.h>

#include "session/session.h"

/* One product of a layer, x [rows, in] by a weight [out, in], forward or backward. */
typedef struct tn_limit_shape {
    int64_t rows, in, out;
    bool backward;
    double best; /* seconds */
} tn_limit_shape;

enum { TN_LIMIT_SHAPES = 32 };

typedef struct tn_limits {
    const tn_kernels *kernels;
    tn_limit_shape shapes[TN_LIMIT_SHAPES];
    int64_t count;
    float *x, *w, *y; /* operands as large as the largest shape's */
    int64_t x_count, w_count, y_count;
    char *memory; /* far larger than caches */
    tn_bench_limits best, round;
} tn_limits;

/* For products of `training_rows` rows (of a sequential model samples) and `prompt_rows` rows (0: none). Free with
 * tn_limits_free, also after a failure. */
tn_status tn_limits_init(tn_limits *limits, const tn_model *model, int64_t training_rows, int64_t prompt_rows);
void tn_limits_free(tn_limits *limits);

/* Measures once more: `round` is this time's, `best` the best so far. */
void tn_limits_measure(tn_limits *limits);

/* Reading alone once more, still in the same round; returns this time's bandwidth. */
double tn_limits_read(tn_limits *limits);

#endif
