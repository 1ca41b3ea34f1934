/* The inner kernels of gemm.h, written over a vector type. The including file defines, as static inline functions:
 *   vec, W (floats in it), MR (rows of a tile), SHALLOW_UNITS (1 or 2 vectors, eight of which fit in registers), GROUP (rows
 * of the few-row kernels), MC KC (tn_gemm_kernel); v_zero, v_set1, v_load, v_store, v_add, v_mul, v_fma(a, b, c) = a*b +
 * c; v_sums(vec[W]), the sum of each of W vectors, all in the same order; v_load_as(data, index, dtype), v_load_part(data,
 * index, n, dtype): W or n elements from data[index] as f32, zero above; v_store_part(out, v, n), v_transpose(vec[W]); or
 * also V_TRANSPOSES_HALVES. */

#define INLINE static inline __attribute__((always_inline))
#define v_step v_fma /* one step of a tile's depth adds one product to each of its elements */
enum { NR = 2 * W };

INLINE void widen_rows(float *out, int64_t out_stride, tn_operand src, int64_t rows, int64_t cols, int64_t width,
                       const tn_dtype dtype) {
    for (int64_t r = 0; r < rows; r++) {
        float *to = out + r * out_stride;
        int64_t from = r * src.row_stride, c = 0;
        for (; c + W <= cols; c += W)
            v_store(to + c, v_load_as(src.data, from + c, dtype));
        for (; c < width; c += W)
            v_store(to + c, c < cols ? v_load_part(src.data, from + c, cols - c, dtype) : v_zero());
    }
}

INLINE void widen_columns(float *out, int64_t out_stride, tn_operand src, int64_t rows, int64_t cols, int64_t width,
                          const tn_dtype dtype) {
    for (int64_t r = 0; r < rows; r += W) {
        int64_t height = rows - r < W ? rows - r : W;
        for (int64_t c = 0; c < width; c += W) {
            vec block[W];
            float *to = out + r * out_stride + c;
#ifdef V_TRANSPOSES_HALVES
            if (height == W / 2 && c + W <= cols && dtype == TN_DTYPE_F32) {
                v_transpose_halves(block, (const float *)src.data + r + c * src.col_stride, src.col_stride);
#pragma GCC unroll 8
                for (int i = 0; i < W / 2; i++)
                    v_store(to + i * out_stride, block[i]);
                continue;
            }
#endif
            if (height == W && c + W <= cols) {
#pragma GCC unroll 16
                for (int i = 0; i < W; i++)
                    block[i] = v_load_as(src.data, r + (c + i) * src.col_stride, dtype);
            } else {
#pragma GCC unroll 16
                for (int i = 0; i < W; i++)
                    block[i] = c + i < cols ? v_load_part(src.data, r + (c + i) * src.col_stride, height, dtype) : v_zero();
            }
            v_transpose(block);
#pragma GCC unroll 16
            for (int i = 0; i < W; i++) {
                if (i < height)
                    v_store(to + i * out_stride, block[i]);
            }
        }
    }
}

INLINE void widen_as(float *out, int64_t out_stride, tn_operand src, int64_t rows, int64_t cols, int64_t width,
                     const tn_dtype dtype) {
    if (src.col_stride == 1)
        widen_rows(out, out_stride, src, rows, cols, width, dtype);
    else
        widen_columns(out, out_stride, src, rows, cols, width, dtype);
}

static void widen(float *out, int64_t out_stride, tn_operand src, int64_t rows, int64_t cols, int64_t width) {
    if (src.dtype == TN_DTYPE_F32)
        widen_as(out, out_stride, src, rows, cols, width, TN_DTYPE_F32);
    else if (src.dtype == TN_DTYPE_BF16)
        widen_as(out, out_stride, src, rows, cols, width, TN_DTYPE_BF16);
    else
        widen_as(out, out_stride, src, rows, cols, width, TN_DTYPE_F16);
}

#include "kernel/cpu/gemm_tile_tmpl.h"

static void scale(float *x, float factor, int64_t count) {
    for (int64_t i = 0; i < count; i += W)
        v_store(x + i, v_mul(v_load(x + i), v_set1(factor)));
}

/* UNITS vectors of columns of at most SHALLOW_DEPTH rows of B stay in registers. */
enum { SHALLOW_DEPTH = 8 };

INLINE void shallow_columns(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, float beta,
                            int64_t rows, int64_t cols, const int depth, const int units, const bool whole) {
    vec panel[SHALLOW_DEPTH][2], keep = v_set1(beta);
#pragma GCC unroll 8
    for (int p = 0; p < depth; p++) {
#pragma GCC unroll 2
        for (int u = 0; u < units; u++)
            panel[p][u] = v_load(b + p * NR + u * W);
    }
    for (int64_t i = 0; i < rows; i++, a += a_row, c += ldc) {
#pragma GCC unroll 2
        for (int u = 0; u < units; u++) {
            int64_t left = whole ? W : cols - u * W < W ? cols - u * W : W;
            vec sum =
                beta == 0.0f ? v_zero() : v_mul(keep, whole ? v_load(c + u * W) : v_load_part(c, u * W, left, TN_DTYPE_F32));
#pragma GCC unroll 8
            for (int p = 0; p < depth; p++)
                sum = v_fma(v_set1(a[p * a_step]), panel[p][u], sum);
            if (whole)
                v_store(c + u * W, sum);
            else
                v_store_part(c + u * W, sum, left);
        }
    }
}

INLINE void shallow_depth(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, float beta,
                          int64_t rows, int64_t cols, const int depth) {
    for (int64_t j = 0; j < cols; j += SHALLOW_UNITS * W) {
        int64_t left = cols - j;
        if (left >= SHALLOW_UNITS * W)
            shallow_columns(c + j, ldc, a, a_row, a_step, b + j, beta, rows, left, depth, SHALLOW_UNITS, true);
        else if (left > W)
            shallow_columns(c + j, ldc, a, a_row, a_step, b + j, beta, rows, left, depth, 2, false);
        else
            shallow_columns(c + j, ldc, a, a_row, a_step, b + j, beta, rows, left, depth, 1, false);
    }
}

static void shallow(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, float beta,
                    int64_t rows, int64_t cols, int64_t depth) {
    for (int64_t p = 0; p < depth; p += SHALLOW_DEPTH, beta = 1.0f) {
#define DEPTH(d)                                                                                                            \
    case d: shallow_depth(c, ldc, a + p * a_step, a_row, a_step, b + p * NR, beta, rows, cols, d); break
        switch (depth - p) {
            DEPTH(1);
            DEPTH(2);
            DEPTH(3);
            DEPTH(4);
            DEPTH(5);
            DEPTH(6);
            DEPTH(7);
        default: shallow_depth(c, ldc, a + p * a_step, a_row, a_step, b + p * NR, beta, rows, cols, SHALLOW_DEPTH);
        }
#undef DEPTH
    }
}

/* Rows of C in registers, one vector each. */
INLINE void narrow_rows(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, float alpha,
                        float beta, int64_t cols, int64_t depth, const int rows) {
    vec acc[8], scale = v_set1(alpha);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        acc[i] = v_zero();
    for (int64_t p = 0; p < depth; p++, a += a_step, b += W) {
        vec y = v_load(b);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
            acc[i] = v_fma(v_set1(a[i * a_row]), y, acc[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        put_part(c + i * ldc, acc[i], scale, beta, cols);
}

static void narrow(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, float alpha,
                   float beta, int64_t rows, int64_t cols, int64_t depth) {
    for (; rows >= 8; rows -= 8, a += 8 * a_row, c += 8 * ldc)
        narrow_rows(c, ldc, a, a_row, a_step, b, alpha, beta, cols, depth, 8);
    for (; rows >= 4; rows -= 4, a += 4 * a_row, c += 4 * ldc)
        narrow_rows(c, ldc, a, a_row, a_step, b, alpha, beta, cols, depth, 4);
    for (; rows > 0; rows--, a += a_row, c += ldc)
        narrow_rows(c, ldc, a, a_row, a_step, b, alpha, beta, cols, depth, 1);
}

/* Asks for data[index] to be near when the next rows are read: rows are too far apart for the processor to foresee. */
INLINE void foresee(const void *data, int64_t index, const tn_dtype dtype) {
    __builtin_prefetch((const char *)data + index * (dtype == TN_DTYPE_F32 ? 4 : 2), 0, 2);
}

INLINE void dots_step(vec *acc, const float *x, const void *w, int64_t w_index, int64_t w_stride, int64_t x_stride,
                      int64_t n, const tn_dtype dtype, const int rows, const int count) {
    vec y[TN_GEMM_ROW_CHUNK];
#pragma GCC unroll 16
    for (int j = 0; j < count; j++) {
        int64_t at = w_index + j * w_stride;
        foresee(w, at + count * w_stride, dtype);
        y[j] = n == W ? v_load_as(w, at, dtype) : v_load_part(w, at, n, dtype);
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        vec z = n == W ? v_load(x + i * x_stride) : v_load_part(x, i * x_stride, n, TN_DTYPE_F32);
#pragma GCC unroll 16
        for (int j = 0; j < count; j++)
            acc[j * rows + i] = v_fma(z, y[j], acc[j * rows + i]);
    }
}

INLINE void dots_block(float *out, const float *x, int64_t x_stride, const void *w, int64_t w_index, int64_t w_stride,
                       int64_t depth, const tn_dtype dtype, const int rows, const int count) {
    enum { SLOTS = (GROUP * 2 + W - 1) / W * W };
    vec acc[SLOTS];
#pragma GCC unroll 16
    for (int i = 0; i < SLOTS; i++)
        acc[i] = v_zero();
    int64_t p = 0;
    for (; p + W <= depth; p += W)
        dots_step(acc, x + p, w, w_index + p, w_stride, x_stride, W, dtype, rows, count);
    if (p < depth)
        dots_step(acc, x + p, w, w_index + p, w_stride, x_stride, depth - p, dtype, rows, count);
#pragma GCC unroll 4
    for (int i = 0; i < rows * count; i += W) {
        vec sums = v_sums(acc + i);
        if (rows * count - i >= W)
            v_store(out + i, v_add(v_load(out + i), sums));
        else
            v_store_part(out + i, v_add(v_load_part(out, i, rows * count - i, TN_DTYPE_F32), sums), rows * count - i);
    }
}

INLINE void dots_rows(float *out, const float *x, int64_t x_stride, const void *w, int64_t w_stride, int64_t count,
                      int64_t depth, const tn_dtype dtype, const int rows) {
    const int step = rows <= GROUP / 2 ? TN_GEMM_ROW_CHUNK : 2;
    int64_t j = 0;
    for (; j + step <= count; j += step)
        dots_block(out + j * rows, x, x_stride, w, j * w_stride, w_stride, depth, dtype, rows, step);
    for (; j < count; j++)
        dots_block(out + j * rows, x, x_stride, w, j * w_stride, w_stride, depth, dtype, rows, 1);
}

/* Calls f(args..., dtype, rows) with both constant, so that every combination is compiled on its own. */
#define BY_ROWS(f, dtype, ...)                                                                                              \
    switch (rows) {                                                                                                         \
    case 1: f(__VA_ARGS__, dtype, 1); break;                                                                                \
    case 2: f(__VA_ARGS__, dtype, 2); break;                                                                                \
    case 3: f(__VA_ARGS__, dtype, 3); break;                                                                                \
    case 4: f(__VA_ARGS__, dtype, 4); break;                                                                                \
    case 5: f(__VA_ARGS__, dtype, GROUP >= 5 ? 5 : 1); break;                                                               \
    case 6: f(__VA_ARGS__, dtype, GROUP >= 6 ? 6 : 1); break;                                                               \
    case 7: f(__VA_ARGS__, dtype, GROUP >= 7 ? 7 : 1); break;                                                               \
    case 8: f(__VA_ARGS__, dtype, GROUP >= 8 ? 8 : 1); break;                                                               \
    }

static void dots(float *out, const float *x, int64_t x_stride, const void *w, tn_dtype dtype, int64_t w_stride, int64_t rows,
                 int64_t count, int64_t depth) {
    if (dtype == TN_DTYPE_F32)
        BY_ROWS(dots_rows, TN_DTYPE_F32, out, x, x_stride, w, w_stride, count, depth)
    else if (dtype == TN_DTYPE_BF16)
        BY_ROWS(dots_rows, TN_DTYPE_BF16, out, x, x_stride, w, w_stride, count, depth)
    else
        BY_ROWS(dots_rows, TN_DTYPE_F16, out, x, x_stride, w, w_stride, count, depth)
}

INLINE void axpys_rows(float *acc, int64_t acc_stride, const float *coef, const void *w, int64_t w_stride, int64_t cols,
                       int64_t depth, const tn_dtype dtype, const int rows) {
    for (int64_t j = 0; j < cols; j += NR) {
        int64_t left = cols - j;
        vec sum[GROUP][2];
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            sum[i][0] = v_load(acc + i * acc_stride + j);
            sum[i][1] = v_load(acc + i * acc_stride + j + W);
        }
        for (int64_t p = 0; p < depth; p++) {
            int64_t at = p * w_stride + j;
            foresee(w, at + depth * w_stride, dtype);
            if (dtype == TN_DTYPE_F32)
                foresee(w, at + depth * w_stride + W, dtype);
            vec y0, y1;
            if (left >= NR) {
                y0 = v_load_as(w, at, dtype);
                y1 = v_load_as(w, at + W, dtype);
            } else {
                y0 = v_load_part(w, at, left < W ? left : W, dtype);
                y1 = left > W ? v_load_part(w, at + W, left - W, dtype) : v_zero();
            }
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) {
                vec x = v_set1(coef[p * TN_GEMM_FEW + i]);
                sum[i][0] = v_fma(x, y0, sum[i][0]);
                sum[i][1] = v_fma(x, y1, sum[i][1]);
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            v_store(acc + i * acc_stride + j, sum[i][0]);
            v_store(acc + i * acc_stride + j + W, sum[i][1]);
        }
    }
}

static void axpys(float *acc, int64_t acc_stride, const float *coef, const void *w, tn_dtype dtype, int64_t w_stride,
                  int64_t rows, int64_t cols, int64_t depth) {
    if (dtype == TN_DTYPE_F32)
        BY_ROWS(axpys_rows, TN_DTYPE_F32, acc, acc_stride, coef, w, w_stride, cols, depth)
    else if (dtype == TN_DTYPE_BF16)
        BY_ROWS(axpys_rows, TN_DTYPE_BF16, acc, acc_stride, coef, w, w_stride, cols, depth)
    else
        BY_ROWS(axpys_rows, TN_DTYPE_F16, acc, acc_stride, coef, w, w_stride, cols, depth)
}

static const tn_gemm_kernel kernel = {
    .width = W,
    .dequantise = DEQUANTISE,
    .mr = MR,
    .nr = NR,
    .panel_a = W,
    .mc = MC,
    .kc = KC,
    .unit = 1,
    .group = GROUP,
    .widen = widen,
    .tile = tile,
    .tile_across = tile_across,
    .scale = scale,
    .shallow = shallow,
    .narrow = narrow,
    .dots = dots,
    .axpys = axpys,
};
