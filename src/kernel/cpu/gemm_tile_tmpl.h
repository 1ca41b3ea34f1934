/* Tiles of C from packed panels, part of gemm_tmpl.h and of files with a step of their own: v_step(a, b, c) adds to c what a
 * step of depth brings, from the 32 bits of A in each element of a and those of B in b. Needs INLINE, MR and NR and, of
 * gemm_tmpl.h's list, vec, W, v_zero, v_set1, v_load, v_store, v_mul, v_fma, v_load_part, v_store_part and v_transpose. */

enum { FORESEEN = 8 };

INLINE void put_whole(float *c, vec value, vec alpha, float beta) {
    value = v_mul(alpha, value);
    v_store(c, beta == 0.0f ? value : v_fma(v_set1(beta), v_load(c), value));
}

INLINE void put_part(float *c, vec value, vec alpha, float beta, int64_t cols) {
    value = v_mul(alpha, value);
    v_store_part(c, beta == 0.0f ? value : v_fma(v_set1(beta), v_load_part(c, 0, cols, TN_DTYPE_F32), value), cols);
}

/* The tile's part of C whose rows are contiguous. */
INLINE void put_rows(float *c, int64_t ldc, vec acc[MR][2], vec scale, float beta, int64_t cols, const int rows) {
    if (cols == NR) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            put_whole(c + i * ldc, acc[i][0], scale, beta);
            put_whole(c + i * ldc + W, acc[i][1], scale, beta);
        }
        return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        put_part(c + i * ldc, acc[i][0], scale, beta, cols < W ? cols : W);
        if (cols > W)
            put_part(c + i * ldc + W, acc[i][1], scale, beta, cols - W);
    }
}

/* The same when its columns are, ldc apart. */
INLINE void put_columns(float *c, int64_t ldc, vec acc[MR][2], vec scale, float beta, int64_t cols, const int rows) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
#pragma GCC unroll 4
        for (int from = 0; from < rows; from += W) {
            vec block[W];
            int high = rows - from < W ? rows - from : W;
#pragma GCC unroll 16
            for (int i = 0; i < W; i++)
                block[i] = i < high ? acc[from + i][half] : v_zero();
            v_transpose(block);
#pragma GCC unroll 16
            for (int j = 0; j < W; j++) {
                int64_t col = half * W + j;
                if (col < cols && high == W)
                    put_whole(c + col * ldc + from, block[j], scale, beta);
                else if (col < cols)
                    put_part(c + col * ldc + from, block[j], scale, beta, high);
            }
        }
    }
}

/* The micro-kernel: a tile of C stays in registers through one update per step of depth. */
INLINE void tile_rows(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step,
                      float alpha, float beta, int64_t cols, int64_t depth, const bool across, const int rows) {
    vec acc[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        acc[i][0] = acc[i][1] = v_zero();
        if (!across) {
            __builtin_prefetch(c + i * ldc, 1);
            __builtin_prefetch(c + i * ldc + cols - 1, 1);
        }
    }
    for (int64_t p = 0; p < depth; p++, a += a_step, b += b_step) {
        __builtin_prefetch(b + FORESEEN * b_step);
        __builtin_prefetch(b + FORESEEN * b_step + W);
        vec b0 = v_load(b), b1 = v_load(b + W);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            vec x = v_set1(a[i * a_row]);
            acc[i][0] = v_step(x, b0, acc[i][0]);
            acc[i][1] = v_step(x, b1, acc[i][1]);
        }
    }
    if (across)
        put_columns(c, ldc, acc, v_set1(alpha), beta, cols, rows);
    else
        put_rows(c, ldc, acc, v_set1(alpha), beta, cols, rows);
}

INLINE void tile_as(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step,
                    float alpha, float beta, int64_t cols, int64_t depth, const bool across, const int rows) {
    if (a_row == 1)
        tile_rows(c, ldc, a, 1, a_step, b, b_step, alpha, beta, cols, depth, across, rows);
    else
        tile_rows(c, ldc, a, a_row, a_step, b, b_step, alpha, beta, cols, depth, across, rows);
}

static void tile(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step,
                 float alpha, float beta, int64_t rows, int64_t cols, int64_t depth) {
#define ROWS(r)                                                                                                             \
    case r: tile_as(c, ldc, a, a_row, a_step, b, b_step, alpha, beta, cols, depth, false, r <= MR ? r : 1); break
    switch (rows) {
        ROWS(1);
        ROWS(2);
        ROWS(3);
        ROWS(4);
        ROWS(5);
        ROWS(6);
        ROWS(7);
        ROWS(8);
        ROWS(9);
        ROWS(10);
        ROWS(11);
        ROWS(12);
        ROWS(13);
        ROWS(14);
    }
#undef ROWS
}

/* Tiles of fewer rows, of which a product has few, are turned outside of the registers: that takes less code. */
static void tile_across(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_step,
                        float alpha, float beta, int64_t rows, int64_t cols, int64_t depth) {
    float turned[MR * NR];
    if (rows == MR) {
        tile_as(c, ldc, a, a_row, a_step, b, b_step, alpha, beta, cols, depth, true, MR);
        return;
    }
    tile(turned, NR, a, a_row, a_step, b, b_step, alpha, 0, rows, cols, depth);
    for (int64_t j = 0; j < cols; j++) {
        for (int64_t i = 0; i < rows; i++) {
            float *to = c + i + j * ldc, value = turned[i * NR + j];
            *to = beta == 0.0f ? value : beta * *to + value;
        }
    }
}
