/* Weights as matrices [O, C], whichever way they are stored. */
#include "grad/weight.h"

#include <string.h>

/* Row by row of what is read; converts one row at a time, so that no copy of the whole is needed. */
void tn_weight_read(const tn_weight *w, float *out) {
    const tn_tensor *t = &w->tensor;
    if (!w->transposed) {
        tn_tensor_read(out, t, 0, tn_tensor_count(t));
        return;
    }
    enum { PIECE = 256 };
    float piece[PIECE];
    int64_t in = t->shape[0], outputs = t->shape[1];
    for (int64_t i = 0; i < in; i++) {
        for (int64_t at = 0; at < outputs; at += PIECE) {
            int64_t count = outputs - at < PIECE ? outputs - at : PIECE;
            tn_tensor_read(piece, t, i * outputs + at, count);
            for (int64_t j = 0; j < count; j++)
                out[(at + j) * in + i] = piece[j];
        }
    }
}

void tn_weight_lay_out(const tn_weight *w, const float *values, float *out) {
    int64_t rows = w->tensor.shape[0], cols = w->tensor.shape[1];
    if (!w->transposed) {
        memcpy(out, values, (size_t)tn_tensor_count(&w->tensor) * sizeof *out);
        return;
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            out[i * cols + j] = values[j * rows + i];
}
