/* Products of few rows with quantised weights by integers, as inference takes them: every table against a plain version of
 * the same arithmetic bit for bit, and against the product with the decoded weight. */
#include "kernel_test.h"

#include "kernel/cpu/tables.h"
#include "tensor/quant_ggml.h"

static const struct {
    const tn_quant_codec *codec;
    int64_t block, nested_block; /* block 0: a row */
} forms[] = {
    {&tn_codec_nf4, 32, 0},   {&tn_codec_nf4, 64, 0},  {&tn_codec_nf4, 64, 256},
    {&tn_codec_nf4, 256, 32}, {&tn_codec_fp4, 64, 0},  {&tn_codec_fp4, 128, 0},
    {&tn_codec_q4_0, 32, 0},  {&tn_codec_q8_0, 32, 0}, {&tn_codec_int8_row, 0, 0},
};
enum { FORMS = sizeof forms / sizeof *forms, WIDEST = 64, LANES = 16, LARGEST = 127 * 256 };

static tn_quantised quantised_of(int form, float *values, int64_t rows, int64_t cols) {
    tn_quantised array;
    tn_quant_params params = forms[form].codec->defaults;
    params.block = forms[form].block ? forms[form].block : cols;
    params.nested_block = forms[form].nested_block;
    tn_tensor tensor = {TN_DTYPE_F32, 2, {rows, cols}, values};
    assert_int_equal(tn_quantised_new(&array, forms[form].codec, &params, rows * cols), TN_OK);
    assert_int_equal(tn_quantise(&array, &tensor), TN_OK);
    return array;
}

/* ---- the definition ---- */

/* Only the table that every CPU runs has no fused operations. */
static bool fuses(const tn_kernels *table) {
    return strcmp(table->name, "generic") != 0;
}

static float muladd(float a, float b, float c, bool fused) {
    volatile float product = a * b;
    return fused ? fmaf(a, b, c) : product + c;
}

typedef struct {
    int value, lane; /* of an element's code; lane: of its 16 */
    float scale, unit;
} element;

static float scale_at(const tn_quantised *w, int64_t block, bool fused) {
    if (w->scales)
        return w->scales[block];
    return muladd(tn_dynamic_signed[w->scale_codes[block]], w->nested_scales[block / w->params.nested_block],
                  w->nested_offset, fused);
}

/* Elements of x with one scale. */
static int run_of(const tn_quantised *w) {
    return (w->codec == &tn_codec_nf4 || w->codec == &tn_codec_fp4) && w->block >= WIDEST ? WIDEST : 32;
}

static element element_at(const tn_quantised *w, int64_t at, int64_t in_row, bool fused) {
    const tn_quant_codec *codec = w->codec;
    if (codec == &tn_codec_nf4 || codec == &tn_codec_fp4) {
        int unit = codec == &tn_codec_nf4 ? 7854 : 8064, code = at % 2 ? w->codes[at / 2] & 15 : w->codes[at / 2] >> 4;
        float value = codec == &tn_codec_nf4 ? tn_nf4_values[code] : tn_fp4_values[code];
        return (element){(int)lrint((double)value * unit), (int)(in_row / 8 % LANES), scale_at(w, at / w->block, fused),
                         (float)unit};
    }
    int within = (int)(in_row % 32);
    if (codec == &tn_codec_q4_0) {
        const uint8_t *block = w->codes + at / 32 * 18;
        int code = within < 16 ? block[2 + within] & 15 : block[2 + within - 16] >> 4;
        return (element){code - 8, (int)(in_row / 32 % 4 * 4) + within % 16 / 4, tn_ggml_half(block), 1};
    }
    if (codec == &tn_codec_q8_0) {
        const uint8_t *block = w->codes + at / 32 * 34;
        return (element){(int8_t)block[2 + within], within / 2, tn_ggml_half(block), 1};
    }
    return (element){(int8_t)w->codes[at], within / 2, w->scales[at / w->block], 127};
}

static float round_run(int *out, const float *x, int count) {
    float max = 0, broken = 0;
    for (int i = 0; i < count; i++) {
        max = fmaxf(max, fabsf(x[i]));
        broken += isfinite(x[i]) ? 0 : NAN;
    }
    bool none = !(max >= 0x1p-110f) || isnan(broken);
    float factor = none ? 0 : LARGEST / max;
    for (int i = 0; i < count; i++)
        out[i] = none ? 0 : (int)lrintf(x[i] * factor);
    return isnan(broken) ? NAN : none ? 0 : max / LARGEST;
}

static float defined_product(const tn_quantised *w, int64_t row, int64_t k, const float *x, bool fused) {
    float acc[LANES] = {0};
    const int run = run_of(w);
    const bool bytes = w->codec == &tn_codec_q8_0 || w->codec == &tn_codec_int8_row;
    for (int64_t p = 0; p < k; p += run) {
        int rounded[WIDEST], sums[LANES] = {0};
        bool touched[LANES] = {false};
        volatile float s = round_run(rounded, x + p, run), scale = 0, of_x = 0, term;
        for (int i = 0; i < run; i++) {
            element e = element_at(w, row * k + p + i, p + i, fused);
            sums[e.lane] += e.value * rounded[i];
            touched[e.lane] = true;
            of_x = s / e.unit;
            scale = e.scale;
        }
        for (int lane = 0; lane < LANES; lane++) {
            if (!touched[lane])
                continue;
            term = bytes ? scale * of_x : (float)sums[lane] * of_x;
            acc[lane] = bytes ? muladd((float)sums[lane], term, acc[lane], fused) : muladd(term, scale, acc[lane], fused);
        }
    }
    for (int step = LANES / 2; step > 0; step /= 2)
        for (int lane = 0; lane < step; lane++)
            acc[lane] += acc[lane + step];
    return acc[0];
}

/* ---- tests ---- */

/* Normal; one element a thousand times the others; runs of zeros and of tiny numbers. */
enum { NORMAL, SPIKY, SPARSE, ZERO, KINDS };
static float *input(int kind, int64_t count) {
    float *x = noise(count, 1);
    if (kind == SPIKY)
        x[count / 3] = 1000;
    for (int64_t i = 0; i < count && kind >= SPARSE; i++)
        x[i] = kind == ZERO || i / 40 % 2 ? 0 : i / 80 % 3 == 1 ? x[i] * 1e-39f : x[i];
    return x;
}

static int64_t depth_of(int form, int64_t wanted) {
    int64_t unit = forms[form].block > 32 ? forms[form].block : 32;
    return (wanted + unit - 1) / unit * unit;
}

typedef void infer(const tn_shared_product *products, int64_t count, tn_operand a, int64_t m, int64_t k);

static void check(infer *infer_products, bool fused, int form, int kind, int64_t m, int64_t n, int64_t wanted) {
    int64_t k = depth_of(form, wanted), ldc = n + 3;
    tn_quantised w = quantised_of(form, noise(n * k, 0.1f), n, k);
    float *x = input(kind, m * (k + 5)), *c = noise(m * ldc, 1), *want = copy_of(c, m * ldc);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            want[i * ldc + j] = defined_product(&w, j, k, x + i * (k + 5), fused);
    tn_shared_product product = {c, ldc, tn_transpose_of(&w, TN_DTYPE_QUANTISED, k), n};
    infer_products(&product, 1, tn_rows_of(x, TN_DTYPE_F32, k + 5), m, k);
    expect_same_bytes(forms[form].codec->name, c, want, (size_t)(m * ldc) * sizeof *c);
    tn_quantised_free(&w);
    release_arrays();
}

static void check_all(infer *infer_products, bool fused) {
    static const int64_t shapes[][3] = {{1, 1, 32}, {1, 9, 160}, {2, 5, 96}, {3, 37, 576}, {8, 21, 300}, {1, 67, 1000}};
    for (int form = 0; form < FORMS; form++)
        for (int kind = 0; kind < KINDS; kind++)
            for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
                check(infer_products, fused, form, kind, shapes[s][0], shapes[s][1], shapes[s][2]);
}

static void every_table_computes_the_definition(void **state) {
    (void)state;
    FOR_EACH_TABLE(table) {
        check_all(table->gemm_infer, fuses(table));
    }
}

#ifdef __x86_64__
static void infer_without_vnni(const tn_shared_product *products, int64_t count, tn_operand a, int64_t m, int64_t k) {
    assert_true(tn_gemv_quantised_avx512(products, count, a, m, k));
}
#endif

/* Tables with AVX-512 take VNNI where it is. */
static void avx512_without_vnni_computes_the_definition(void **state) {
    (void)state;
#ifdef __x86_64__
    if (tn_cpu_has_avx512())
        check_all(infer_without_vnni, true);
    else
        skip();
#else
    skip();
#endif
}

static void products_are_within_a_thousandth_of_the_decoded_weights(void **state) {
    (void)state;
    enum { M = 3, N = 150, K = 1024 };
    FOR_EACH_TABLE(table) {
        for (int form = 0; form < FORMS; form++) {
            for (int kind = 0; kind < KINDS; kind++) {
                tn_quantised w = quantised_of(form, noise(N * K, 0.1f), N, K);
                float *x = input(kind, M * K), *got = floats(M * N), *want = floats(M * N), *decoded = floats(N * K);
                tn_dequantise(decoded, &w, 0, N * K);
                reference()->gemm(want, N, tn_rows_of(x, TN_DTYPE_F32, K), tn_transpose_of(decoded, TN_DTYPE_F32, K), 1, 0,
                                  M, N, K);
                tn_shared_product product = {got, N, tn_transpose_of(&w, TN_DTYPE_QUANTISED, K), N};
                table->gemm_infer(&product, 1, tn_rows_of(x, TN_DTYPE_F32, K), M, K);
                double errors = 0, squares = 0;
                for (int i = 0; i < M * N; i++) {
                    errors += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
                    squares += (double)want[i] * want[i];
                }
                assert_true(sqrt(errors) <= 1e-3 * sqrt(squares));
                tn_quantised_free(&w);
                release_arrays();
            }
        }
    }
}

static void large_products(const tn_kernels *table) {
    for (int form = 0; form < FORMS; form++) {
        enum { M = 5, N = 403, K = 768 };
        tn_quantised w = quantised_of(form, noise(N * K, 1), N, K);
        float *x = noise(M * K, 1), *c = floats(M * N);
        tn_shared_product product = {c, N, tn_transpose_of(&w, TN_DTYPE_QUANTISED, K), N};
        table->gemm_infer(&product, 1, tn_rows_of(x, TN_DTYPE_F32, K), M, K);
        expect_close("product", c, c, M * N, 0);
        tn_quantised_free(&w);
        release_arrays();
    }
}

static void bits_do_not_depend_on_the_number_of_threads(void **state) {
    (void)state;
    expect_thread_invariance(large_products);
}

/* Different codecs, a float weight and rows that are no whole blocks, in one call and for rows alone. */
static void bits_do_not_depend_on_what_else_is_computed(void **state) {
    (void)state;
    enum { M = 6, N = 90, K = 320, MANY = 7 };
    static const int mixed[MANY - 1] = {1, 1, 6, 7, 4, 2};
    FOR_EACH_TABLE(table) {
        tn_quantised weights[MANY - 1];
        tn_shared_product products[MANY];
        float *x = noise(M * K, 1), *one = floats(N);
        for (int i = 0; i < MANY - 1; i++) {
            weights[i] = quantised_of(mixed[i], noise(N * K, 1), N, K);
            products[i] = (tn_shared_product){floats(M * N), N, tn_transpose_of(&weights[i], TN_DTYPE_QUANTISED, K), N};
        }
        products[MANY - 1] = (tn_shared_product){floats(M * N), N, tn_transpose_of(noise(N * K, 1), TN_DTYPE_F32, K), N};
        for (int count = MANY; count > 0; count -= 3) {
            table->gemm_infer(products, count, tn_rows_of(x, TN_DTYPE_F32, K), M, K);
            for (int i = 0; i < count; i++) {
                for (int row = 0; row < M; row++) {
                    tn_shared_product alone = products[i];
                    alone.c = one;
                    table->gemm_infer(&alone, 1, tn_rows_of(x + row * K, TN_DTYPE_F32, K), 1, K);
                    expect_same_bytes("row", products[i].c + row * N, one, sizeof *one * N);
                }
            }
        }
        for (int i = 0; i < MANY - 1; i++)
            tn_quantised_free(&weights[i]);
        release_arrays();
    }
}

static void what_is_not_finite_reaches_all_columns(void **state) {
    (void)state;
    enum { N = 20, K = 128 };
    FOR_EACH_TABLE(table) {
        for (int form = 0; form < FORMS; form++) {
            for (int kind = 0; kind < 2; kind++) {
                int64_t k = depth_of(form, K);
                tn_quantised w = quantised_of(form, noise(N * k, 1), N, k);
                float *x = noise(k, 1), *c = floats(N);
                x[77] = kind ? INFINITY : NAN;
                tn_shared_product product = {c, N, tn_transpose_of(&w, TN_DTYPE_QUANTISED, k), N};
                table->gemm_infer(&product, 1, tn_rows_of(x, TN_DTYPE_F32, k), 1, k);
                for (int i = 0; i < N; i++)
                    assert_true(isnan(c[i]));
                tn_quantised_free(&w);
                release_arrays();
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_table_computes_the_definition),
        cmocka_unit_test(avx512_without_vnni_computes_the_definition),
        cmocka_unit_test(products_are_within_a_thousandth_of_the_decoded_weights),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(bits_do_not_depend_on_what_else_is_computed),
        cmocka_unit_test(what_is_not_finite_reaches_all_columns),
    };
    return cmocka_run_group_tests_name("gemv_quantised", tests, NULL, NULL);
}
