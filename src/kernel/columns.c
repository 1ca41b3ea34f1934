/* Scaling columns and choosing rows, for the narrow inner values of adapters: plain loops serve every table. */
#include <string.h>

#include "kernel/cpu/tables.h"

void tn_scale_columns(float *y, bool accumulate, const float *x, const float *factors, int64_t rows, int64_t cols) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t c = 0; c < cols; c++)
            y[t * cols + c] = (accumulate ? y[t * cols + c] : 0) + x[t * cols + c] * factors[c];
}

void tn_sum_products(float *out, const float *x, const float *y, int64_t rows, int64_t cols) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t c = 0; c < cols; c++)
            out[c] += x[t * cols + c] * y[t * cols + c];
}

void tn_keep_rows(float *y, bool accumulate, const float *x, const bool *keep, int64_t rows, int64_t cols) {
    for (int64_t t = 0; t < rows; t++) {
        for (int64_t c = 0; c < cols && keep[t]; c++)
            y[t * cols + c] = (accumulate ? y[t * cols + c] : 0) + x[t * cols + c];
        if (!keep[t] && !accumulate)
            memset(y + t * cols, 0, (size_t)cols * sizeof *y);
    }
}
