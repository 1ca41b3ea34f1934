/* Kernels on quantised operands against the reference on the decoded weight. Products decode to f32 and are then
 * ordinary ones: sums of up to 600 terms in another order, 1e-5 of the largest. Those of few rows may take integers of 16
 * bits instead, 2e-3. */
#include "kernel_test.h"

static const struct {
    const tn_quant_codec *codec;
    int64_t block, nested_block; /* block 0: the codec's own, or a row */
} forms[] = {
    {&tn_codec_nf4, 64, 0},  {&tn_codec_nf4, 64, 256}, {&tn_codec_fp4, 128, 0},        {&tn_codec_int8_row, 0, 0},
    {&tn_codec_int4, 32, 0}, {&tn_codec_int5, 64, 0},  {&tn_codec_int6_affine, 64, 0}, {&tn_codec_int8_affine, 128, 0},
    {&tn_codec_q4_0, 32, 0}, {&tn_codec_q4_1, 32, 0},  {&tn_codec_q5_0, 32, 0},        {&tn_codec_q5_1, 32, 0},
    {&tn_codec_q8_0, 32, 0}, {&tn_codec_q4_k, 256, 0}, {&tn_codec_q5_k, 256, 0},       {&tn_codec_q6_k, 256, 0},
};
enum { FORMS = sizeof forms / sizeof *forms };

static tn_quantised quantised_noise(int form, int64_t rows, int64_t cols) {
    tn_quantised array;
    tn_quant_params params = forms[form].codec->defaults;
    params.block = forms[form].block ? forms[form].block : cols;
    params.nested_block = forms[form].nested_block;
    tn_tensor values = {TN_DTYPE_F32, 2, {rows, cols}, noise(rows * cols, 1)};
    assert_int_equal(tn_quantised_new(&array, forms[form].codec, &params, rows * cols), TN_OK);
    assert_int_equal(tn_quantise(&array, &values), TN_OK);
    return array;
}

/* Rows of W are whole blocks of the ggml types; others may begin anywhere in a block. */
static int64_t width_of(int form, int64_t wanted) {
    int64_t whole = forms[form].codec->block_bytes ? forms[form].block : 1;
    return (wanted + whole - 1) / whole * whole;
}

static void compare_product(const tn_kernels *table, int form, int64_t m, int64_t rows, int64_t wanted, bool by_rows) {
    static const float alphas[] = {1, -0.5f}, betas[] = {0, 1};
    int64_t cols = width_of(form, wanted), n = by_rows ? cols : rows, k = by_rows ? rows : cols;
    tn_quantised w = quantised_noise(form, rows, cols);
    tn_operand a = tn_rows_of(noise(m * k, 1), TN_DTYPE_F32, k);
    tn_operand b = by_rows ? tn_rows_of(&w, TN_DTYPE_QUANTISED, cols) : tn_transpose_of(&w, TN_DTYPE_QUANTISED, cols);
    float *decoded = floats(rows * cols);
    tn_dequantise(decoded, &w, 0, rows * cols);
    tn_operand plain = by_rows ? tn_rows_of(decoded, TN_DTYPE_F32, cols) : tn_transpose_of(decoded, TN_DTYPE_F32, cols);
    for (int i = 0; i < 2; i++) {
        float *got = noise(m * n, 1), *want = copy_of(got, m * n);
        table->gemm(got, n, a, b, alphas[i], betas[i], m, n, k);
        if (rounds_to_bf16(table) && m >= 32 && n >= 32 && k >= 32) /* decoded before it is rounded */
            table->gemm(want, n, a, plain, alphas[i], betas[i], m, n, k);
        else
            reference()->gemm(want, n, a, plain, alphas[i], betas[i], m, n, k);
        expect_close(forms[form].codec->name, got, want, m * n, m > 8 ? 1e-5 : 2e-3);
    }
    release_arrays();
    tn_quantised_free(&w);
}

static void product_cases(const tn_kernels *table) {
    static const int64_t shapes[][3] = {{1, 40, 70},    {3, 33, 300},  {8, 70, 512},  {9, 65, 257},
                                        {16, 130, 200}, {31, 40, 520}, {50, 45, 130}, {34, 50, 700}};
    for (int form = 0; form < FORMS; form++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int by_rows = 0; by_rows < 2; by_rows++)
                compare_product(table, form, shapes[s][0], shapes[s][1], shapes[s][2], by_rows);
}

static void products_are_those_of_the_decoded_weight(void **state) {
    (void)state;
    FOR_EACH_TABLE(table) product_cases(table);
}

static void products_do_not_depend_on_threads(void **state) {
    (void)state;
    expect_thread_invariance(product_cases);
}

static void a_part_of_a_quantised_weight_is_an_operand(void **state) {
    (void)state;
    enum { ROWS = 48, COLS = 128, M = 12, SKIPPED = 16 };
    tn_quantised w = quantised_noise(0, ROWS, COLS);
    float *x = noise(M * COLS, 1), *decoded = floats(ROWS * COLS);
    tn_dequantise(decoded, &w, 0, ROWS * COLS);
    tn_operand rows = tn_operand_part(tn_rows_of(&w, TN_DTYPE_QUANTISED, COLS), SKIPPED, 0);
    FOR_EACH_TABLE(table) {
        float *got = floats(M * (ROWS - SKIPPED)), *want = floats(M * (ROWS - SKIPPED));
        table->gemm(got, ROWS - SKIPPED, tn_rows_of(x, TN_DTYPE_F32, COLS), tn_operand_transposed(rows), 1, 0, M,
                    ROWS - SKIPPED, COLS);
        reference()->gemm(want, ROWS - SKIPPED, tn_rows_of(x, TN_DTYPE_F32, COLS),
                          tn_transpose_of(decoded + SKIPPED * COLS, TN_DTYPE_F32, COLS), 1, 0, M, ROWS - SKIPPED, COLS);
        expect_close("part", got, want, M * (ROWS - SKIPPED), 1e-5);
    }
    release_arrays();
    tn_quantised_free(&w);
}

static void any_run_is_decoded_to_the_reference_bits(void **state) {
    (void)state;
    enum { ROWS = 5 };
    tn_rng rng = tn_rng_start(3, 1);
    for (int form = 0; form < FORMS; form++) {
        int64_t cols = width_of(form, 333), total = ROWS * cols;
        tn_quantised w = quantised_noise(form, ROWS, cols);
        float *got = floats(total), *want = floats(total);
        FOR_EACH_TABLE(table) {
            for (int trial = 0; trial < 200; trial++) {
                int64_t first = tn_rng_below(&rng, (uint32_t)total);
                int64_t count = trial == 0 ? total : tn_rng_below(&rng, (uint32_t)(total - first) + 1);
                first = trial == 0 ? 0 : first;
                table->dequantise(got, &w, first, count);
                tn_dequantise(want, &w, first, count);
                expect_same_bytes(forms[form].codec->name, got, want, (size_t)count * sizeof *got);
            }
        }
        release_arrays();
        tn_quantised_free(&w);
    }
}

static void rows_of_a_quantised_embedding_are_looked_up(void **state) {
    (void)state;
    enum { V = 20, C = 256, T = 9 };
    for (int form = 0; form < FORMS; form++) {
        tn_quantised table_of_rows = quantised_noise(form, V, C);
        int32_t *ids = integers_below(V, T);
        float *got = floats(T * C), *want = floats(T * C);
        for (int t = 0; t < T; t++)
            tn_dequantise(want + t * C, &table_of_rows, (int64_t)ids[t] * C, C);
        FOR_EACH_TABLE(table) {
            table->embedding_forward(got, ids, &table_of_rows, TN_DTYPE_QUANTISED, T, C);
            expect_same_bytes(forms[form].codec->name, got, want, T * C * sizeof *got);
        }
        release_arrays();
        tn_quantised_free(&table_of_rows);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_those_of_the_decoded_weight),
        cmocka_unit_test(products_do_not_depend_on_threads),
        cmocka_unit_test(a_part_of_a_quantised_weight_is_an_operand),
        cmocka_unit_test(any_run_is_decoded_to_the_reference_bits),
        cmocka_unit_test(rows_of_a_quantised_embedding_are_looked_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
