/* Products of few rows: nothing is packed and the wide operand is read once, in place. */
#include "kernel/cpu/gemm_product.h"

enum {
    DOT_COLS = 16,   /* columns of it at once */
    DOT_DEPTH = 768, /* most of their depth at once */
    STRIP = 4096,    /* sums that are kept at once for columns times rows, by adding up rows of B */
    COEF_DEPTH = 64, /* coefficients widened at once for that */
    MAX_GROUP = 8,
    MAX_BESIDE = 8,        /* rows of B added up at once */
    MAX_WIDENED = 1 << 16, /* longest few rows that are copied */
};

/* Rows of a quantised operand [rows, cols], its columns being contiguous, to f32 in `buffer`; others stay where they are. */
static tn_operand decoded(const tn_gemm_kernel *kernel, tn_operand src, float *buffer, int64_t rows, int64_t cols) {
    if (src.dtype != TN_DTYPE_QUANTISED)
        return src;
    tn_gemm_widen(kernel, buffer, cols, src, rows, cols, cols);
    return tn_rows_of(buffer, TN_DTYPE_F32, cols);
}

/* B's columns are contiguous over k: dot products of the few rows with each, by pieces of k that keep the few rows in
 * the first-level cache. */
static void run_dots(const product *job, int64_t index, int64_t team) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t depth = even_block(job->k, DOT_DEPTH, 16);
    float sums[DOT_COLS * MAX_GROUP], buffer[DOT_COLS * DOT_DEPTH];
    const int64_t units = (job->n + DOT_COLS - 1) / DOT_COLS, end = units * (index + 1) / team * DOT_COLS;
    for (int64_t j = units * index / team * DOT_COLS; j < end; j += DOT_COLS) {
        int64_t cols = smaller(job->n - j, DOT_COLS);
        for (int64_t i = 0; i < job->m; i += kernel->group) {
            int64_t rows = smaller(job->m - i, kernel->group);
            for (int64_t q = 0; q < rows * cols; q++)
                sums[q] = 0.0f;
            for (int64_t p = 0; p < job->k; p += depth) {
                int64_t length = smaller(job->k - p, depth);
                tn_operand w = tn_operand_transposed(tn_operand_part(job->b, p, j));
                w = decoded(kernel, w, buffer, cols, length);
                kernel->dots(sums, job->few + i * job->few_stride + p, job->few_stride, w.data, w.dtype, w.row_stride, rows,
                             cols, length);
            }
            for (int64_t q = 0; q < cols; q++) {
                for (int64_t r = 0; r < rows; r++)
                    put(job, i + r, j + q, sums[q * rows + r]);
            }
        }
    }
}

/* One strip of columns of B whose rows are contiguous: acc += a[:, p] b[p, :] over p, some rows of B at a time. */
static void add_up_strip(const product *job, int64_t col, int64_t cols, int64_t stride) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t side_by_side = job->m < 4 ? MAX_BESIDE / 2 : MAX_BESIDE;
    float acc[STRIP], coef[COEF_DEPTH * TN_GEMM_FEW], buffer[MAX_BESIDE * STRIP / 4];
    for (int64_t i = 0; i < job->m * stride; i++)
        acc[i] = 0.0f;
    for (int64_t p = 0; p < job->k; p += COEF_DEPTH) {
        int64_t depth = smaller(job->k - p, COEF_DEPTH);
        tn_gemm_widen(kernel, coef, TN_GEMM_FEW, tn_operand_transposed(tn_operand_part(job->a, 0, p)), depth, job->m,
                      TN_GEMM_FEW);
        for (int64_t q = 0; q < depth; q += side_by_side) {
            int64_t beside = smaller(depth - q, side_by_side);
            tn_operand w = decoded(kernel, tn_operand_part(job->b, p + q, col), buffer, beside, cols);
            for (int64_t i = 0; i < job->m; i += kernel->group)
                kernel->axpys(acc + i * stride, stride, coef + q * TN_GEMM_FEW + i, w.data, w.dtype, w.row_stride,
                              smaller(job->m - i, kernel->group), cols, beside);
        }
    }
    bool by_rows = job->c.col_stride == 1;
    int64_t outer = by_rows ? job->m : cols, inner = by_rows ? cols : job->m;
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < inner; i++) {
            int64_t row = by_rows ? o : i, j = by_rows ? i : o;
            put(job, row, col + j, acc[row * stride + j]);
        }
    }
}

static void run_sums(const product *job, int64_t index, int64_t team) {
    int64_t unit = job->kernel->nr, units = (job->n + unit - 1) / unit;
    int64_t strip = STRIP / job->m / unit * unit, from = units * index / team * unit;
    int64_t to = smaller(units * (index + 1) / team * unit, job->n);
    for (; from < to; from += strip)
        add_up_strip(job, from, smaller(to - from, strip), strip);
}

bool tn_gemm_few_rows(product *job) {
    if (job->b.row_stride != 1) {
        if (job->m > TN_GEMM_FEW)
            return false;
        run(job, run_sums);
        return true;
    }
    job->few = job->a.data;
    job->few_stride = job->a.row_stride;
    if (job->a.dtype != TN_DTYPE_F32 || job->a.col_stride != 1) {
        job->few_stride = round_up(job->k, MAX_PANEL);
        float *copy = job->k > MAX_WIDENED ? NULL : tn_gemm_scratch(job->m * job->few_stride);
        if (!copy)
            return false;
        tn_gemm_widen(job->kernel, copy, job->few_stride, job->a, job->m, job->k, job->few_stride);
        job->few = copy;
    }
    run(job, run_dots);
    return true;
}
