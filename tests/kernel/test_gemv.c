/* Products of few rows, as generation makes them, of every table against the reference. */
#include "kernel_test.h"

static const tn_dtype dtypes[] = {TN_DTYPE_F32, TN_DTYPE_BF16, TN_DTYPE_F16};

/* The values in another type, between guards of exactly their size. */
static void *narrowed(const float *values, int64_t count, tn_dtype dtype) {
    void *data = array_new((size_t)(count * tn_dtype_size(dtype)));
    tn_convert_from_f32(data, dtype, values, count);
    return data;
}

static void check_product(const tn_kernels *table, int64_t m, int64_t n, int64_t k, tn_dtype dtype, float alpha,
                          float beta) {
    int64_t gap = (m + n + k) % 3, ldc = n + gap, x_stride = k + gap;
    float *x = noise(m * x_stride, 1), *values = noise(n * k, 1), *c = noise(m * ldc, 1), *want = copy_of(c, m * ldc);
    const void *w = narrowed(values, n * k, dtype);
    tn_operand a = tn_rows_of(x, TN_DTYPE_F32, x_stride), b = tn_transpose_of(w, dtype, k);
    table->gemm(c, ldc, a, b, alpha, beta, m, n, k);
    reference()->gemm(want, ldc, a, b, alpha, beta, m, n, k);
    expect_close("product", c, want, m * ldc, 1e-5);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = n; j < ldc; j++)
            assert_true(c[i * ldc + j] == want[i * ldc + j]);
    }
    release_arrays();
}

static void odd_sizes(const tn_kernels *table) {
    static const int64_t depths[] = {1, 3, 8, 15, 16, 17, 31, 33, 64, 65, 100, 127, 129, 576};
    static const float scales[][2] = {{1, 0}, {1, 1}, {-0.5f, 0.25f}};
    int which = 0;
    for (size_t d = 0; d < sizeof depths / sizeof *depths; d++)
        for (int64_t m = 1; m <= 9; m++, which++)
            for (int t = 0; t < 3; t++)
                check_product(table, m, m + 1 + which % 37, depths[d], dtypes[t], scales[which % 3][0],
                              scales[which % 3][1]);
}

static void large_sizes(const tn_kernels *table) {
    for (int t = 0; t < 3; t++) {
        check_product(table, 1, 3001, 577, dtypes[t], 1, 0);
        check_product(table, 4, 1999, 300, dtypes[t], 1, 1);
        check_product(table, 7, 700, 1500, dtypes[t], 2, 0);
        check_product(table, 1, 5003, 8, dtypes[t], 1, 1);
        check_product(table, 2, 20001, 16, dtypes[t], 0.5f, 1);
        check_product(table, 3, 8, 5000, dtypes[t], 1, 0);
    }
}

static void product_is_that_of_the_reference(void **state) {
    (void)state;
    FOR_EACH_TABLE(table) {
        odd_sizes(table);
        large_sizes(table);
    }
}

static void bits_do_not_depend_on_the_number_of_threads(void **state) {
    (void)state;
    expect_thread_invariance(large_sizes);
}

/* A sequence generated alone and one generated among others take the same way. */
static void bits_of_a_row_do_not_depend_on_the_others(void **state) {
    (void)state;
    enum { M = 8, N = 300, K = 203 };
    FOR_EACH_TABLE(table) {
        for (int t = 0; t < 3; t++) {
            float *x = noise(M * K, 1), *values = noise(N * K, 1), *all = floats(M * N), *one = floats(N);
            tn_operand b = tn_transpose_of(narrowed(values, N * K, dtypes[t]), dtypes[t], K);
            for (int64_t m = 1; m <= M; m++) {
                table->gemm(all, N, tn_rows_of(x, TN_DTYPE_F32, K), b, 1, 0, m, N, K);
                for (int64_t i = 0; i < m; i++) {
                    table->gemm(one, N, tn_rows_of(x + i * K, TN_DTYPE_F32, K), b, 1, 0, 1, N, K);
                    expect_same_bytes("row", all + i * N, one, N * sizeof *one);
                }
            }
            release_arrays();
        }
    }
}

/* All 65536 of them, as the weights of rows of every part of a vector: x is one at one place. */
static void every_half_is_widened_exactly(void **state) {
    (void)state;
    enum { K = 149, N = 440 }; /* N * K is a little more than 2^16 */
    FOR_EACH_TABLE(table) {
        for (int t = 1; t < 3; t++) {
            uint16_t *w = array_new(N * K * sizeof *w);
            float *x = floats(K), *c = floats(N);
            for (int i = 0; i < N * K; i++) {
                float value = dtypes[t] == TN_DTYPE_F16 ? tn_f16_to_f32((uint16_t)i) : tn_bf16_to_f32((uint16_t)i);
                w[i] = isfinite(value) ? (uint16_t)i : 0; /* else all of the row's sums would be NaN */
            }
            for (int64_t p = 0; p < K; p++) {
                for (int64_t q = 0; q < K; q++)
                    x[q] = q == p;
                table->gemm(c, N, tn_rows_of(x, TN_DTYPE_F32, K), tn_transpose_of(w, dtypes[t], K), 1, 0, 1, N, K);
                for (int64_t j = 0; j < N; j++) {
                    uint16_t half = w[j * K + p];
                    assert_true(c[j] == (dtypes[t] == TN_DTYPE_F16 ? tn_f16_to_f32(half) : tn_bf16_to_f32(half)));
                }
            }
            release_arrays();
        }
    }
}

/* One infinity and one NaN in the weight: only these columns feel it. */
static void infinities_and_nan_stay_in_their_columns(void **state) {
    (void)state;
    enum { N = 40, K = 70 };
    FOR_EACH_TABLE(table) {
        for (int t = 0; t < 3; t++) {
            for (int64_t m = 1; m <= 5; m += 4) {
                float *x = floats(m * K), *values = floats(N * K), *c = floats(m * N);
                for (int64_t i = 0; i < m * K; i++)
                    x[i] = 1;
                for (int64_t i = 0; i < N * K; i++)
                    values[i] = 2;
                values[3 * K + 5] = INFINITY;
                values[7 * K + K - 1] = NAN;
                table->gemm(c, N, tn_rows_of(x, TN_DTYPE_F32, K),
                            tn_transpose_of(narrowed(values, N * K, dtypes[t]), dtypes[t], K), 1, 0, m, N, K);
                for (int64_t i = 0; i < m * N; i++)
                    assert_true(i % N == 3 ? c[i] == INFINITY : i % N == 7 ? isnan(c[i]) : c[i] == 2 * K);
                release_arrays();
            }
        }
    }
}

/* Also with more products than are taken at once, of one size and another, and rows too many for the short way. */
static void products_of_one_input_are_those_one_by_one(void **state) {
    (void)state;
    enum { MOST = 6, N = 200, K = 203 };
    FOR_EACH_TABLE(table) {
        for (int64_t m = 1; m <= 10; m += 3) {
            tn_shared_product products[MOST];
            float *x = noise(m * K, 1), *want[MOST];
            for (int i = 0; i < MOST; i++) {
                tn_dtype dtype = dtypes[i % 3];
                int64_t n = N - 31 * i;
                products[i] = (tn_shared_product){noise(m * n, 1), n,
                                                  tn_transpose_of(narrowed(noise(n * K, 1), n * K, dtype), dtype, K), n};
                want[i] = floats(m * n);
                table->gemm(want[i], n, tn_rows_of(x, TN_DTYPE_F32, K), products[i].b, 1, 0, m, n, K);
            }
            table->gemm_infer(products, MOST, tn_rows_of(x, TN_DTYPE_F32, K), m, K);
            for (int i = 0; i < MOST; i++)
                expect_same_bytes("product", products[i].c, want[i], (size_t)(m * products[i].n) * sizeof(float));
            release_arrays();
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(product_is_that_of_the_reference),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(bits_of_a_row_do_not_depend_on_the_others),
        cmocka_unit_test(products_of_one_input_are_those_one_by_one),
        cmocka_unit_test(every_half_is_widened_exactly),
        cmocka_unit_test(infinities_and_nan_stay_in_their_columns),
    };
    return cmocka_run_group_tests_name("gemv", tests, NULL, NULL);
}
