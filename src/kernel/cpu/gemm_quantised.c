/* Quantised operands: runs of their elements are decoded to f32 in a buffer that stays in the cache, and widened from there.
 */
#include <string.h>

#include "kernel/cpu/gemm_product.h"

enum { RUN = 128, COLUMNS = 32, ROWS = 16 };

static void widen_rows(const tn_gemm_kernel *kernel, float *out, int64_t out_stride, const tn_operand *src, int64_t rows,
                       int64_t cols, int64_t width) {
    for (int64_t r = 0; r < rows; r++, out += out_stride) {
        kernel->dequantise(out, src->data, src->offset + r * src->row_stride, cols);
        memset(out + cols, 0, (size_t)(width - cols) * sizeof *out);
    }
}

/* For kernels that pack several rows into one. */
static void widen_units(const tn_gemm_kernel *kernel, float *out, int64_t out_stride, const tn_operand *src, int64_t rows,
                        int64_t cols, int64_t width) {
    float some[ROWS * RUN];
    for (int64_t r = 0; r < rows; r += ROWS, out += ROWS / kernel->unit * out_stride) {
        int64_t height = smaller(rows - r, ROWS);
        for (int64_t c = 0; c < cols; c += RUN) {
            int64_t count = smaller(cols - c, RUN);
            for (int64_t i = 0; i < height; i++)
                kernel->dequantise(some + i * RUN, src->data, src->offset + (r + i) * src->row_stride + c, count);
            kernel->widen(out + c, out_stride, tn_rows_of(some, TN_DTYPE_F32, RUN), height, count,
                          c + count == cols ? width - c : RUN);
        }
    }
}

static void widen_columns(const tn_gemm_kernel *kernel, float *out, int64_t out_stride, const tn_operand *src, int64_t rows,
                          int64_t cols, int64_t width) {
    float runs[COLUMNS * RUN];
    for (int64_t r = 0; r < rows; r += RUN) {
        int64_t length = smaller(rows - r, RUN);
        for (int64_t c = 0; c < cols; c += COLUMNS) {
            int64_t count = smaller(cols - c, COLUMNS);
            for (int64_t i = 0; i < count; i++)
                kernel->dequantise(runs + i * RUN, src->data, src->offset + r + (c + i) * src->col_stride, length);
            kernel->widen(out + r / kernel->unit * out_stride + c, out_stride, tn_transpose_of(runs, TN_DTYPE_F32, RUN),
                          length, count, c + count == cols ? width - c : COLUMNS);
        }
    }
}

void tn_gemm_widen(const tn_gemm_kernel *kernel, float *out, int64_t out_stride, tn_operand src, int64_t rows, int64_t cols,
                   int64_t width) {
    if (src.dtype != TN_DTYPE_QUANTISED)
        kernel->widen(out, out_stride, src, rows, cols, width);
    else if (src.col_stride == 1 && kernel->unit > 1)
        widen_units(kernel, out, out_stride, &src, rows, cols, width);
    else if (src.col_stride == 1)
        widen_rows(kernel, out, out_stride, &src, rows, cols, width);
    else
        widen_columns(kernel, out, out_stride, &src, rows, cols, width);
}
