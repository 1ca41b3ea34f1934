/* Moving, adding and choosing rows and columns, and the losses of small outputs. Few elements are touched, or rarely, so
 * plain loops serve every table. */
#include <string.h>

#include "kernel/cpu/tables.h"

void tn_gather_columns(float *out, const int32_t *ids, const float *table, int64_t rows, int64_t table_rows,
                       int64_t table_cols) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t r = 0; r < table_rows; r++)
            out[t * table_rows + r] = table[r * table_cols + ids[t]];
}

void tn_scatter_columns(float *table, const int32_t *ids, const float *in, int64_t rows, int64_t table_rows,
                        int64_t table_cols) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t r = 0; r < table_rows; r++)
            table[r * table_cols + ids[t]] += in[t * table_rows + r];
}

void tn_replace_rows(float *y, const int32_t *ids, const float *replacement, const int32_t *indices, int64_t rows,
                     int64_t cols, int64_t count) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t k = 0; k < count; k++)
            if (ids[t] == indices[k])
                memcpy(y + t * cols, replacement + k * cols, (size_t)cols * sizeof *y);
}

void tn_replace_rows_backward(float *dreplacement, float *dy, const int32_t *ids, const int32_t *indices, int64_t rows,
                              int64_t cols, int64_t count) {
    for (int64_t t = 0; t < rows; t++) {
        for (int64_t k = 0; k < count; k++) {
            if (ids[t] != indices[k])
                continue;
            for (int64_t c = 0; dreplacement && c < cols; c++)
                dreplacement[k * cols + c] += dy[t * cols + c];
            memset(dy + t * cols, 0, (size_t)cols * sizeof *dy);
        }
    }
}

void tn_put_columns(float *y, const int32_t *indices, const float *in, int64_t rows, int64_t count, int64_t cols) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t k = 0; k < count; k++)
            y[t * cols + indices[k]] = in[t * count + k];
}

void tn_gather_columns_and_clear(float *out, const int32_t *indices, float *y, int64_t rows, int64_t count, int64_t cols) {
    for (int64_t t = 0; t < rows; t++) {
        for (int64_t k = 0; k < count; k++) {
            out[t * count + k] = y[t * cols + indices[k]];
            y[t * cols + indices[k]] = 0;
        }
    }
}

void tn_keep_rows(float *y, bool accumulate, const float *x, const bool *keep, int64_t rows, int64_t cols) {
    for (int64_t t = 0; t < rows; t++) {
        for (int64_t c = 0; c < cols && keep[t]; c++)
            y[t * cols + c] = (accumulate ? y[t * cols + c] : 0) + x[t * cols + c];
        if (!keep[t] && !accumulate)
            memset(y + t * cols, 0, (size_t)cols * sizeof *y);
    }
}

void tn_spread_channels(float *out, const float *values, int64_t channels, int64_t span) {
    for (int64_t c = 0; c < channels; c++)
        for (int64_t s = 0; s < span; s++)
            out[c * span + s] = values[c];
}

void tn_sum_channels(float *out, const float *values, int64_t channels, int64_t span) {
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0;
        for (int64_t s = 0; s < span; s++)
            sum += values[c * span + s];
        out[c] += (float)sum;
    }
}

void tn_squared_error(float *losses, float *y, const float *targets, float grad_scale, int64_t rows, int64_t cols) {
    for (int64_t t = 0; t < rows; t++, y += cols, targets += cols) {
        double sum = 0;
        for (int64_t c = 0; c < cols; c++) {
            double difference = (double)y[c] - targets[c];
            sum += difference * difference;
            if (grad_scale != 0)
                y[c] = (float)(grad_scale * 2 / (double)cols * difference);
        }
        losses[t] = (float)(sum / (double)cols);
    }
}
