/* Matrix products of every instruction set that this machine has, against a plain triple loop in double.
 * Tolerance: |error| <= 4 k 2^-24 sum |a| |b| for the product, and 4 roundings of alpha * AB + beta * C. Where operands are
 * rounded to bf16, that holds for the product of the rounded operands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "kernel/cpu/cpu.h"
#include "kernel/cpu/gemm.h"

#ifdef _OPENMP
#include <omp.h>
#endif

typedef void gemm_function(float *c, int64_t ldc, tn_operand a, tn_operand b, float alpha, float beta, int64_t m, int64_t n,
                           int64_t k);

typedef struct isa {
    const char *name;
    gemm_function *gemm, *gemm_serial;
    bool rounds; /* operands to bf16, of products that are not thin */
} isa;

static isa isas[4];
static int isa_count;

static int find_isas(void **state) {
    (void)state;
    isas[isa_count++] = (isa){"generic", tn_gemm_generic, tn_gemm_generic_serial, false};
#ifdef __x86_64__
    if (tn_cpu_has_avx2())
        isas[isa_count++] = (isa){"avx2", tn_gemm_avx2, tn_gemm_avx2_serial, false};
    if (tn_cpu_has_avx512())
        isas[isa_count++] = (isa){"avx512", tn_gemm_avx512, tn_gemm_avx512_serial, false};
    if (tn_cpu_has_avx512_bf16())
        isas[isa_count++] = (isa){"avx512_bf16", tn_gemm_avx512_bf16, tn_gemm_avx512_bf16_serial, true};
    else
        print_message("avx512_bf16 is left out: this CPU lacks it\n");
#endif
    return 0;
}

static void use_threads(int count) {
#ifdef _OPENMP
    omp_set_num_threads(count);
#else
    (void)count;
#endif
}

enum { GUARD = 24 };
static const float guard_value = -12345.5f;

/* One product with its operands on the heap at their exact size, so that a sanitizer sees any read outside. */
typedef struct problem {
    int64_t m, n, k, ldc;
    tn_operand a, b;
    float *c;
    float alpha, beta;
} problem;

static tn_operand random_operand(int64_t rows, int64_t cols, tn_dtype dtype, bool by_rows, uint64_t seed, int64_t gap) {
    int64_t outer = by_rows ? rows : cols, inner = by_rows ? cols : rows, stride = inner + gap;
    int64_t count = outer && inner ? (outer - 1) * stride + inner : 0;
    float *values = malloc((size_t)count * sizeof(float) + 1);
    void *data = malloc((size_t)(count * tn_dtype_size(dtype)) + !count);
    assert_true(values && data);
    tn_fill_normal(values, (size_t)count, seed, 7, 0.0f, 1.0f);
    tn_convert_from_f32(data, dtype, values, count);
    free(values);
    return by_rows ? tn_rows_of(data, dtype, stride) : tn_transpose_of(data, dtype, stride);
}

static float element(tn_operand x, int64_t row, int64_t col) {
    int64_t at = row * x.row_stride + col * x.col_stride;
    if (x.dtype == TN_DTYPE_F32)
        return ((const float *)x.data)[at];
    uint16_t half = ((const uint16_t *)x.data)[at];
    return x.dtype == TN_DTYPE_BF16 ? tn_bf16_to_f32(half) : tn_f16_to_f32(half);
}

static float rounded(float value) {
    return tn_bf16_to_f32(tn_f32_to_bf16(value));
}

static bool is_thin(const problem *p) {
    return p->m < 32 || p->n < 32 || p->k < 32;
}

static float *fresh_c(const problem *p) {
    size_t count = (size_t)(p->m * p->ldc + 2 * GUARD);
    float *c = malloc(count * sizeof(float));
    assert_non_null(c);
    for (size_t i = 0; i < count; i++)
        c[i] = guard_value;
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t j = 0; j < p->n; j++)
            c[GUARD + i * p->ldc + j] = p->beta == 0.0f ? NAN : (float)((i * 31 + j * 17) % 101) / 50.0f - 1.0f;
    }
    return c;
}

static problem random_problem(int64_t m, int64_t n, int64_t k, uint64_t seed) {
    static const float alphas[] = {1.0f, -0.5f, 2.25f}, betas[] = {0.0f, 1.0f, -0.75f};
    static const tn_dtype dtypes[] = {TN_DTYPE_F32, TN_DTYPE_BF16, TN_DTYPE_F16};
    tn_rng rng = tn_rng_start(seed, 3);
    problem p = {.m = m, .n = n, .k = k, .ldc = n + tn_rng_below(&rng, 4)};
    p.a = random_operand(m, k, dtypes[tn_rng_below(&rng, 3)], tn_rng_below(&rng, 2), seed, tn_rng_below(&rng, 3));
    p.b = random_operand(k, n, dtypes[tn_rng_below(&rng, 3)], tn_rng_below(&rng, 2), seed + 1, tn_rng_below(&rng, 3));
    p.alpha = alphas[tn_rng_below(&rng, 3)];
    p.beta = betas[tn_rng_below(&rng, 3)];
    p.c = fresh_c(&p);
    return p;
}

static void free_problem(problem *p) {
    free((void *)p->a.data);
    free((void *)p->b.data);
    free(p->c);
}

static float *solve(const problem *p, gemm_function *gemm) {
    float *c = fresh_c(p);
    gemm(c + GUARD, p->ldc, p->a, p->b, p->alpha, p->beta, p->m, p->n, p->k);
    return c;
}

static void check_element(const problem *p, const float *c, int64_t i, int64_t j, const isa *with) {
    const bool rounds = with->rounds && !is_thin(p);
    double sum = 0, size = 0;
    for (int64_t q = 0; q < p->k; q++) {
        float x = element(p->a, i, q), y = element(p->b, q, j);
        double term = rounds ? (double)rounded(x) * rounded(y) : (double)x * y;
        sum += term;
        size += fabs(term);
    }
    double before = p->beta == 0.0f ? 0.0 : (double)p->beta * p->c[GUARD + i * p->ldc + j];
    double expected = p->alpha * sum + before;
    double bound = (4.0 * (double)p->k * fabs(p->alpha) * size + 4 * fabs(before) + 4 * fabs(expected)) * 0x1p-24;
    double got = c[GUARD + i * p->ldc + j];
    if (!(fabs(got - expected) <= bound))
        fail_msg("%s %lldx%lldx%lld at (%lld, %lld): got %.9g, expected %.9g", with->name, (long long)p->m, (long long)p->n,
                 (long long)p->k, (long long)i, (long long)j, got, expected);
}

/* All elements of small products; every so many of large ones (by a prime, so that all rows and columns are met), and that
 * the others were written: a product without beta starts from NaN. */
static void check(const problem *p, const float *c, const isa *with) {
    static const int64_t primes[] = {1, 3, 7, 17, 37, 101, 251, 503, 1009, 2003};
    size_t pick = 0;
    while (p->m * p->n * p->k / primes[pick] > 400000 && pick + 1 < sizeof primes / sizeof *primes)
        pick++;
    for (int64_t i = 0; i < GUARD; i++)
        assert_true(c[i] == guard_value && c[GUARD + p->m * p->ldc + i] == guard_value);
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t j = p->n; j < p->ldc; j++)
            assert_true(c[GUARD + i * p->ldc + j] == guard_value);
        for (int64_t j = 0; j < p->n; j++) {
            if ((i * p->n + j) % primes[pick] == 0)
                check_element(p, c, i, j, with);
            else if (!isfinite(c[GUARD + i * p->ldc + j]))
                fail_msg("%s: (%lld, %lld) is not finite", with->name, (long long)i, (long long)j);
        }
    }
}

static void check_shape(int64_t m, int64_t n, int64_t k, uint64_t seed) {
    problem p = random_problem(m, n, k, seed);
    for (int i = 0; i < isa_count; i++) {
        float *c = solve(&p, seed % 2 ? isas[i].gemm : isas[i].gemm_serial);
        check(&p, c, &isas[i]);
        free(c);
    }
    free_problem(&p);
}

static void product_of_any_shape_is_that_of_the_definition(void **state) {
    (void)state;
    static const int64_t edges[] = {1, 2, 3, 5, 7, 8, 13, 14, 15, 16, 17, 31, 32, 33, 47, 64, 97, 113};
    enum { EDGES = sizeof edges / sizeof *edges };
    tn_rng rng = tn_rng_start(1, 1);
    for (uint64_t trial = 0; trial < 1200; trial++)
        check_shape(edges[tn_rng_below(&rng, EDGES)], edges[tn_rng_below(&rng, EDGES)], edges[tn_rng_below(&rng, EDGES)],
                    trial);
}

static void product_across_blocks_is_that_of_the_definition(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{30, 40, 575},   {37, 40, 576},    {37, 33, 577},  {41, 39, 1153},  {600, 500, 1200},
                                        {19, 16500, 9},  {33, 16400, 590}, {1121, 33, 9},  {1200, 17, 20},  {257, 40, 17},
                                        {20, 2049, 12},  {33, 4200, 7},    {769, 18, 10},  {1, 1500, 70},   {8, 700, 1030},
                                        {700, 5, 900},   {900, 16, 100},   {12, 530, 129}, {2, 3, 5000},    {4096, 1, 3},
                                        {1, 1, 1},       {1, 4097, 1},     {300, 300, 8},  {64, 530, 1024}, {96, 1300, 600},
                                        {62, 200, 2048}, {64, 1024, 300},  {9, 700, 150},  {130, 16, 600},  {301, 12, 1100},
                                        {130, 300, 16},  {131, 1100, 13},  {16, 64, 9},    {40, 50, 1153},  {45, 70, 2305},
                                        {32, 32, 32},    {33, 17000, 63}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (uint64_t seed = 0; seed < 8; seed++)
            check_shape(shapes[i][0], shapes[i][1], shapes[i][2], 10000 + i * 100 + seed);
    }
}

static void bits_do_not_depend_on_the_number_of_threads(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{200, 300, 500}, {1300, 64, 100},  {1, 5000, 64},   {8, 1000, 700},
                                        {700, 8, 500},   {9, 3000, 77},    {40, 3500, 33},  {64, 64, 800},
                                        {16, 16, 9000},  {41, 16700, 600}, {64, 700, 1024}, {300, 16, 700},
                                        {300, 500, 12},  {8, 900, 140},    {64, 1024, 200}, {150, 17000, 99}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (uint64_t seed = 0; seed < 8; seed++) {
            problem p = random_problem(shapes[s][0], shapes[s][1], shapes[s][2], 500 + s * 10 + seed);
            size_t size = (size_t)(p.m * p.ldc + 2 * GUARD) * sizeof(float);
            for (int i = 0; i < isa_count; i++) {
                float *serial = solve(&p, isas[i].gemm_serial);
                for (int threads = 1; threads <= 4; threads++) {
                    use_threads(threads);
                    float *c = solve(&p, isas[i].gemm);
                    assert_memory_equal(c, serial, size);
                    free(c);
                }
                free(serial);
            }
            free_problem(&p);
        }
    }
    use_threads(2);
}

static void product_inside_a_parallel_region_is_the_same(void **state) {
    (void)state;
    problem p = random_problem(150, 130, 400, 42);
    size_t size = (size_t)(p.m * p.ldc + 2 * GUARD) * sizeof(float);
    for (int i = 0; i < isa_count; i++) {
        float *results[6], *expected = solve(&p, isas[i].gemm);
#pragma omp parallel for num_threads(3)
        for (int r = 0; r < 6; r++) {
            results[r] = solve(&p, r % 2 ? isas[i].gemm : isas[i].gemm_serial);
            tn_gemm_release_scratch();
        }
        for (int r = 0; r < 6; r++) {
            assert_memory_equal(results[r], expected, size);
            free(results[r]);
        }
        free(expected);
    }
    free_problem(&p);
}

static void lack_of_memory_changes_no_result(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{100, 90, 800}, {2, 300, 90}, {90, 3, 700}, {20, 100, 30}, {64, 200, 800}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (uint64_t seed = 0; seed < 16; seed++) {
            problem p = random_problem(shapes[s][0], shapes[s][1], shapes[s][2], 900 + seed);
            for (int i = 0; i < isa_count; i++) {
                tn_gemm_release_scratch();
                for (int64_t refused = 0; refused < 2; refused++) {
                    tn_memory_fail_after(refused);
                    float *c = solve(&p, isas[i].gemm);
                    tn_memory_fail_after(-1);
                    check(&p, c, &isas[i]);
                    free(c);
                }
            }
            free_problem(&p);
        }
    }
}

static void empty_sizes_do_nothing_but_scale(void **state) {
    (void)state;
    tn_operand none = tn_rows_of(NULL, TN_DTYPE_F32, 1);
    for (int i = 0; i < isa_count; i++) {
        float c[4] = {1, 2, 3, NAN};
        isas[i].gemm(c, 2, none, none, 1.0f, 0.5f, 0, 2, 3);
        isas[i].gemm(c, 2, none, none, 1.0f, 0.5f, 2, 0, 3);
        assert_true(c[0] == 1 && c[1] == 2 && c[2] == 3);
        isas[i].gemm(c, 2, none, none, 1.0f, 0.5f, 1, 2, 0);
        assert_true(c[0] == 0.5f && c[1] == 1 && c[2] == 3);
        isas[i].gemm(c, 2, none, none, 1.0f, 0.0f, 2, 2, 0);
        assert_true(c[0] == 0 && c[1] == 0 && c[2] == 0 && c[3] == 0);
    }
}

/* Row 0 of A holds an infinity and row 1 a NaN: only these rows of C may feel it. */
static void infinities_and_nan_stay_in_their_rows(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{2, 50}, {9, 50}, {20, 70}, {50, 3}, {50, 70}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t m = shapes[s][0], n = shapes[s][1], k = 33;
        for (int dtype = TN_DTYPE_F32; dtype <= TN_DTYPE_BF16; dtype++) {
            float a[50 * 33], b[33 * 70], c[50 * 70];
            uint8_t narrow[sizeof a];
            for (int64_t i = 0; i < m * k; i++)
                a[i] = 1.0f;
            for (int64_t i = 0; i < k * n; i++)
                b[i] = 2.0f;
            a[5] = INFINITY;
            a[k + 20] = NAN;
            tn_convert_from_f32(narrow, dtype, a, m * k);
            for (int i = 0; i < isa_count; i++) {
                isas[i].gemm(c, n, tn_rows_of(narrow, dtype, k), tn_rows_of(b, TN_DTYPE_F32, n), 1.0f, 0.0f, m, n, k);
                for (int64_t j = 0; j < n; j++)
                    assert_true(c[j] == INFINITY && isnan(c[n + j]));
                for (int64_t j = 2 * n; j < m * n; j++)
                    assert_true(c[j] == 66.0f);
            }
        }
    }
}

/* Every f16 there is, as a row of weights times one. */
static void every_half_is_widened_exactly(void **state) {
    (void)state;
    enum { COUNT = 1 << 16 };
    uint16_t *halves = malloc(COUNT * sizeof *halves);
    float *c = malloc(COUNT * sizeof *c), one = 1.0f;
    assert_true(halves && c);
    for (int i = 0; i < COUNT; i++)
        halves[i] = (uint16_t)i;
    for (int dtype = TN_DTYPE_F16; dtype <= TN_DTYPE_BF16; dtype++) {
        for (int i = 0; i < isa_count; i++) {
            isas[i].gemm(c, COUNT, tn_rows_of(&one, TN_DTYPE_F32, 1), tn_rows_of(halves, dtype, COUNT), 1.0f, 0.0f, 1, COUNT,
                         1);
            for (int j = 0; j < COUNT; j++) {
                float expected = dtype == TN_DTYPE_F16 ? tn_f16_to_f32((uint16_t)j) : tn_bf16_to_f32((uint16_t)j);
                assert_true(c[j] == expected || (isnan(c[j]) && isnan(expected)));
            }
        }
    }
    free(halves);
    free(c);
}

/* Sums of few products of small integers are exact in f32: the result is that of the reference to the last bit. */
static void what_bf16_holds_is_multiplied_exactly(void **state) {
    (void)state;
    enum { M = 45, N = 70, K = 99 };
    static float a[M * K], b[K * N], c[M * N];
    for (int64_t i = 0; i < M * K; i++)
        a[i] = (float)(i * 7 % 41 - 20) / 4;
    for (int64_t i = 0; i < K * N; i++)
        b[i] = (float)(i * 11 % 43 - 21);
    for (int i = 0; i < isa_count; i++) {
        isas[i].gemm(c, N, tn_rows_of(a, TN_DTYPE_F32, K), tn_rows_of(b, TN_DTYPE_F32, N), 1, 0, M, N, K);
        for (int64_t at = 0; at < M * N; at++) {
            float sum = 0;
            for (int64_t p = 0; p < K; p++)
                sum += a[at / N * K + p] * b[p * N + at % N];
            assert_true(c[at] == sum);
        }
    }
}

/* 1 + 2^-8 lies halfway between two bf16 and goes to the even one, 1; 1 + 3 * 2^-8 to 1 + 2^-6. */
static void operands_are_rounded_to_the_nearest_even(void **state) {
    (void)state;
    enum { SIDE = 40 };
    static const float values[][2] = {{1 + 0x1p-8f, 1}, {1 + 0x3p-8f, 1 + 0x1p-6f}, {-1 - 0x1.8p-8f, -1 - 0x1p-7f}};
    static float a[SIDE * SIDE], b[SIDE * SIDE], c[SIDE * SIDE];
    for (int which = 0; which < 3; which++) {
        for (int64_t i = 0; i < SIDE * SIDE; i++) {
            a[i] = i / SIDE == i % SIDE;
            b[i] = values[which][0];
        }
        for (int i = 0; i < isa_count; i++) {
            tn_operand x = tn_rows_of(a, TN_DTYPE_F32, SIDE), y = tn_rows_of(b, TN_DTYPE_F32, SIDE);
            isas[i].gemm(c, SIDE, x, y, 1, 0, SIDE, SIDE, SIDE);
            assert_true(c[41] == values[which][isas[i].rounds]);
            isas[i].gemm(c, SIDE, y, x, 1, 0, SIDE, SIDE, SIDE);
            assert_true(c[41] == values[which][isas[i].rounds]);
        }
    }
}

static void scratch_is_given_back(void **state) {
    (void)state;
    use_threads(1);
    tn_gemm_release_scratch();
    size_t before = tn_memory_used();
    problem p = random_problem(200, 200, 200, 5);
    float *c = solve(&p, isas[0].gemm);
    assert_true(tn_memory_used() > before && tn_memory_used() < before + (1 << 20));
    tn_gemm_release_scratch();
    assert_int_equal(tn_memory_used(), before);
    free(c);
    free_problem(&p);
    use_threads(2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(product_of_any_shape_is_that_of_the_definition),
        cmocka_unit_test(product_across_blocks_is_that_of_the_definition),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(product_inside_a_parallel_region_is_the_same),
        cmocka_unit_test(lack_of_memory_changes_no_result),
        cmocka_unit_test(empty_sizes_do_nothing_but_scale),
        cmocka_unit_test(infinities_and_nan_stay_in_their_rows),
        cmocka_unit_test(every_half_is_widened_exactly),
        cmocka_unit_test(what_bf16_holds_is_multiplied_exactly),
        cmocka_unit_test(operands_are_rounded_to_the_nearest_even),
        cmocka_unit_test(scratch_is_given_back),
    };
    return cmocka_run_group_tests(tests, find_isas, NULL);
}
