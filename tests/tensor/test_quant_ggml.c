/* ggml's block formats against ggml's own bytes and values, against the errors to expect, and at their edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "format/safetensors.h"
#include "tensor/quant.h"
#include "tensor/quant_ggml.h"

#define GOLDEN TENON_SOURCE_ROOT "/tests/golden_quant/ggml_blocks.safetensors"

static const struct {
    uint32_t type;
    const char *name;
    double mse; /* of a standard normal matrix, by ggml; the K types' encoder must do no worse */
    bool search, read_only;
} types[] = {
    {TN_GGML_Q4_0, "q4_0", 7.3727e-03, false, false},   {TN_GGML_Q4_1, "q4_1", 6.1156e-03, false, false},
    {TN_GGML_Q5_0, "q5_0", 1.8201e-03, false, false},   {TN_GGML_Q5_1, "q5_1", 1.4313e-03, false, false},
    {TN_GGML_Q8_0, "q8_0", 2.8610e-05, false, false},   {TN_GGML_Q4_K, "q4_k", 5.0871e-03, true, false},
    {TN_GGML_Q5_K, "q5_k", 1.3050e-03, true, false},    {TN_GGML_Q6_K, "q6_k", 3.1421e-04, true, false},
    {TN_GGML_Q2_K, "q2_k", 8.7160e-02, true, true},     {TN_GGML_Q3_K, "q3_k", 2.2747e-02, true, true},
    {TN_GGML_IQ4_NL, "iq4_nl", 6.1879e-03, true, true},
};
enum { TYPES = sizeof types / sizeof types[0] };

static void *allocate(int64_t bytes) {
    void *memory = malloc((size_t)bytes);
    assert_non_null(memory);
    return memory;
}

static void check_ok(tn_status status) {
    if (status != TN_OK)
        fail_msg("%s", tn_error_message());
}

static void check_fails(tn_status got, tn_status expected, const char *words) {
    if (got != expected || !strstr(tn_error_message(), words))
        fail_msg("status %d, \"%s\" lacks \"%s\"", got, tn_error_message(), words);
}

static double squared_error(const float *a, const float *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sum;
}

/* [rows, columns] of a wider matrix as a matrix of its own. */
static float *cut(const tn_tensor *x, int64_t rows, int64_t columns) {
    float *out = allocate(rows * columns * 4);
    assert_true(rows <= x->shape[0] && columns <= x->shape[1]);
    for (int64_t r = 0; r < rows; r++)
        memcpy(out + r * columns, (const float *)x->data + r * x->shape[1], (size_t)columns * 4);
    return out;
}

static void check_decoding(uint32_t type, const char *name, const tn_tensor *raw, const tn_tensor *dequant) {
    int64_t rows = dequant->shape[0], columns = dequant->shape[1], bytes;
    check_ok(tn_ggml_bytes(type, rows, columns, &bytes));
    assert_int_equal(bytes, tn_tensor_bytes(raw));
    /* at an odd address, and with what must not be written before and behind it */
    uint8_t *moved = allocate(bytes + 1);
    float *out = allocate((rows * columns + 2) * 4);
    memcpy(moved + 1, raw->data, (size_t)bytes);
    out[0] = out[rows * columns + 1] = 12345;
    check_ok(tn_ggml_decode(type, out + 1, moved + 1, rows, columns));
    if (memcmp(out + 1, dequant->data, (size_t)(rows * columns) * 4) != 0)
        fail_msg("%s: decoded values differ from ggml's", name);
    assert_true(out[0] == 12345 && out[rows * columns + 1] == 12345);
    free(moved);
    free(out);
}

static void check_encoding(uint32_t type, const char *name, bool search, const tn_tensor *x, const tn_tensor *raw,
                           const tn_tensor *dequant) {
    int64_t rows = dequant->shape[0], columns = dequant->shape[1], bytes = tn_tensor_bytes(raw);
    float *values = cut(x, rows, columns), *again = allocate(rows * columns * 4);
    uint8_t *encoded = allocate(bytes + 2);
    encoded[0] = encoded[bytes + 1] = 0xa5;
    check_ok(tn_ggml_encode(type, encoded + 1, values, rows, columns));
    assert_true(encoded[0] == 0xa5 && encoded[bytes + 1] == 0xa5);
    check_ok(tn_ggml_decode(type, again, encoded + 1, rows, columns));
    if (!search && memcmp(encoded + 1, raw->data, (size_t)bytes) != 0)
        fail_msg("%s: encoded bytes differ from ggml's", name);
    /* Single rows differ by how scales happen to round, and a value far above all others is as exact as the half of its
     * block; over all rows the error is to be smaller. */
    double ratios = 0;
    for (int64_t r = 0; r < rows && search; r++) {
        const float *row = values + r * columns;
        double half = 0, ours = squared_error(row, again + r * columns, columns);
        double ggml = squared_error(row, (const float *)dequant->data + r * columns, columns);
        for (int64_t i = 0; i < columns; i++)
            half = fmax(half, pow(row[i] * 0x1p-11, 2));
        if (!(ours <= 1.15 * ggml + half))
            fail_msg("%s, row %lld: squared error %.4e, ggml's %.4e", name, (long long)r, ours, ggml);
        ratios += ggml > 0 ? fmax(0, ours - half) / ggml : 0;
    }
    if (!(ratios <= (double)rows))
        fail_msg("%s: %.4g times ggml's error", name, ratios / (double)rows);
    free(values);
    free(again);
    free(encoded);
}

static const tn_tensor *golden(const tn_safetensors *file, const char *prefix, const char *part) {
    char name[64];
    snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "", part);
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    if (!entry)
        fail_msg("%s has no %s", file->path, name);
    return &entry->tensor;
}

static void every_type_decodes_to_the_bits_of_ggml(void **state) {
    (void)state;
    tn_safetensors file;
    check_ok(tn_safetensors_open(GOLDEN, &file));
    for (int i = 0; i < TYPES; i++)
        check_decoding(types[i].type, types[i].name, golden(&file, types[i].name, "raw"),
                       golden(&file, types[i].name, "dequant"));
    tn_safetensors_close(&file);
}

static void plain_types_encode_to_the_bytes_of_ggml_and_k_types_with_no_more_error(void **state) {
    (void)state;
    tn_safetensors file;
    check_ok(tn_safetensors_open(GOLDEN, &file));
    for (int i = 0; i < TYPES; i++)
        if (!types[i].read_only)
            check_encoding(types[i].type, types[i].name, types[i].search, golden(&file, "", "x"),
                           golden(&file, types[i].name, "raw"), golden(&file, types[i].name, "dequant"));
    tn_safetensors_close(&file);
}

/* The whole of the files that the bundled rows are from. */
static void shared_golden_blocks_hold(void **state) {
    (void)state;
    const char *given = getenv("TENON_SHARED");
    for (int i = 0; i < TYPES; i++) {
        char path[TN_PATH_MAX];
        tn_safetensors file;
        snprintf(path, sizeof path, "%s/golden_quant/blocks/ggml_%s.safetensors",
                 given ? given : TENON_SOURCE_ROOT "/../shared", types[i].name);
        if (i == 0 && !tn_path_exists(path))
            skip();
        check_ok(tn_safetensors_open(path, &file));
        const tn_tensor *raw = golden(&file, "", "raw"), *dequant = golden(&file, "", "dequant");
        check_decoding(types[i].type, types[i].name, raw, dequant);
        if (!types[i].read_only)
            check_encoding(types[i].type, types[i].name, types[i].search, golden(&file, "", "x"), raw, dequant);
        tn_safetensors_close(&file);
    }
}

/* One type over a matrix and back, then once more from the values that came back. */
static void round_trips(int i, const float *x, int64_t rows, int64_t columns) {
    int64_t bytes, count = rows * columns;
    check_ok(tn_ggml_bytes(types[i].type, rows, columns, &bytes));
    uint8_t *first = allocate(bytes), *second = allocate(bytes);
    float *values = allocate(count * 4), *again = allocate(count * 4);
    check_ok(tn_ggml_encode(types[i].type, first, x, rows, columns));
    check_ok(tn_ggml_decode(types[i].type, values, first, rows, columns));
    double mse = squared_error(x, values, count) / (double)count, expected = types[i].mse;
    /* a quarter of a million samples: the mean is known to about half a percent */
    if (!(mse <= 1.02 * expected && (types[i].search || mse >= 0.98 * expected)))
        fail_msg("%s: mean squared error %.4e where %.4e is expected", types[i].name, mse, expected);
    check_ok(tn_ggml_encode(types[i].type, second, values, rows, columns));
    check_ok(tn_ggml_decode(types[i].type, again, second, rows, columns));
    if (!types[i].search)
        assert_memory_equal(first, second, (size_t)bytes);
    else if (!(squared_error(values, again, count) <= 0.05 * mse * (double)count))
        fail_msg("%s: encoding its own values again costs %.2g of the first error", types[i].name,
                 squared_error(values, again, count) / (mse * (double)count));
    free(first);
    free(second);
    free(values);
    free(again);
}

static void errors_are_as_expected_and_decoded_values_encode_to_the_same(void **state) {
    (void)state;
    enum { ROWS = 64, COLUMNS = 4096 };
    float *x = allocate(ROWS * COLUMNS * 4);
    tn_fill_normal(x, ROWS * COLUMNS, 7, tn_stream(TN_STREAM_DATA, 0), 0, 1);
    for (int i = 0; i < TYPES; i++)
        if (!types[i].read_only)
            round_trips(i, x, ROWS, COLUMNS);
    free(x);
}

static void tiny_and_flat_blocks_come_back_finite_and_near(void **state) {
    (void)state;
    static const float scales[] = {0,      -0.0f, FLT_TRUE_MIN, FLT_MIN, 1e-38f, 1e-30f, 1e-21f,
                                   1e-12f, 3e-8f, 1e-6f,        1,       -3,     6e4f};
    for (int i = 0; i < TYPES; i++) {
        for (size_t k = 0; k < sizeof scales / sizeof scales[0] && !types[i].read_only; k++) {
            for (int flat = 0; flat < 2; flat++) {
                float x[TN_GGML_BLOCK_MAX], y[TN_GGML_BLOCK_MAX];
                uint8_t bytes[8 * 34];
                for (int j = 0; j < TN_GGML_BLOCK_MAX; j++)
                    x[j] = flat ? scales[k] : scales[k] * sinf((float)j);
                check_ok(tn_ggml_encode(types[i].type, bytes, x, 1, TN_GGML_BLOCK_MAX));
                check_ok(tn_ggml_decode(types[i].type, y, bytes, 1, TN_GGML_BLOCK_MAX));
                /* Q4_0 is a whole step of 1/8 off opposite the largest value; or what the smallest half can make of it */
                float allowed = fmaxf(0.126f * fabsf(scales[k]), 31 * 0x1p-24f);
                for (int j = 0; j < TN_GGML_BLOCK_MAX; j++)
                    if (!(fabsf(x[j] - y[j]) <= allowed))
                        fail_msg("%s: %g came back as %g", types[i].name, (double)x[j], (double)y[j]);
            }
        }
    }
}

static void values_that_no_scale_can_hold_are_refused_by_place(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 1e30f};
    float *x = allocate(2 * 512 * 4);
    uint8_t *bytes = allocate(2 * 512 * 4);
    for (int i = 0; i < TYPES; i++) {
        for (size_t k = 0; k < sizeof bad / sizeof bad[0] && !types[i].read_only; k++) {
            memset(x, 0, 2 * 512 * 4);
            x[512 + 300] = bad[k];
            check_fails(tn_ggml_encode(types[i].type, bytes, x, 2, 512), TN_ERROR_NUMERIC,
                        isfinite(bad[k]) ? "row 1 from column" : "row 1, column 300 is not finite");
        }
        for (int j = 0; j < 512 && !types[i].read_only; j++)
            x[j] = j % 2 ? FLT_MAX : -FLT_MAX;
        if (!types[i].read_only)
            check_fails(tn_ggml_encode(types[i].type, bytes, x, 2, 512), TN_ERROR_NUMERIC, "row 0 from column 0 on");
    }
    free(x);
    free(bytes);
}

/* Each byte pattern is a block: nothing may be read or written outside, which the sanitizers watch. */
static void any_bytes_decode(void **state) {
    (void)state;
    float out[TN_GGML_BLOCK_MAX];
    for (int i = 0; i < TYPES; i++) {
        const tn_ggml_info *info = tn_ggml_type_info(types[i].type);
        uint8_t *bytes = allocate(info->bytes);
        for (int fill = 0; fill < 256; fill += 17) {
            memset(bytes, fill, (size_t)info->bytes);
            check_ok(tn_ggml_decode(types[i].type, out, bytes, 1, info->block));
        }
        free(bytes);
    }
}

static void float_types_are_converted(void **state) {
    (void)state;
    static const float x[3] = {1.5f, -2.0f, 0.25f};
    static const tn_dtype dtypes[] = {TN_DTYPE_F32, TN_DTYPE_F16, TN_DTYPE_BF16, TN_DTYPE_F64};
    for (int i = 0; i < 4; i++) {
        uint8_t bytes[3 * 8];
        float y[3];
        uint32_t type;
        assert_true(tn_ggml_type_from_dtype(dtypes[i], &type));
        check_ok(tn_ggml_encode(type, bytes, x, 1, 3));
        check_ok(tn_ggml_decode(type, y, bytes, 1, 3));
        assert_memory_equal(x, y, sizeof x);
    }
}

static void types_have_names_and_sizes_and_refusals(void **state) {
    (void)state;
    uint32_t type;
    int64_t bytes;
    float x[256] = {0};
    assert_true(tn_ggml_type_from_name("q4_k", &type));
    assert_int_equal(type, TN_GGML_Q4_K);
    assert_false(tn_ggml_type_from_name("q4_k_m", &type));
    assert_false(tn_ggml_type_from_dtype(TN_DTYPE_BOOL, &type));
    check_ok(tn_ggml_bytes(TN_GGML_Q6_K, 3, 512, &bytes));
    assert_int_equal(bytes, 3 * 2 * 210);
    check_ok(tn_ggml_bytes(TN_GGML_Q6_K, 0, 512, &bytes));
    assert_int_equal(bytes, 0);
    check_fails(tn_ggml_bytes(TN_GGML_Q6_K, 1, 384, &bytes), TN_ERROR_FORMAT, "256-value blocks of Q6_K");
    check_fails(tn_ggml_bytes(TN_GGML_Q4_0, INT64_MAX / 8, 64, &bytes), TN_ERROR_FORMAT, "overflows");
    check_fails(tn_ggml_bytes(TN_GGML_Q4_0, -1, 64, &bytes), TN_ERROR_FORMAT, "negative");
    for (uint32_t unknown = 0; unknown < 3; unknown++)
        check_fails(tn_ggml_bytes((uint32_t[]){4, 40, UINT32_MAX}[unknown], 1, 256, &bytes), TN_ERROR_FORMAT, "not known");
    check_fails(tn_ggml_decode(16, x, x, 1, 256), TN_ERROR_UNSUPPORTED, "IQ2_XXS cannot be read");
    check_fails(tn_ggml_encode(TN_GGML_Q2_K, x, x, 1, 256), TN_ERROR_UNSUPPORTED, "Q2_K cannot be written");
    check_fails(tn_ggml_decode(TN_GGML_I32, x, x, 1, 256), TN_ERROR_UNSUPPORTED, "I32 cannot be read");
}

/* As codecs of quantised arrays: the same blocks and values, from any element to any other. */
static void codecs_hold_the_same_blocks(void **state) {
    (void)state;
    enum { COUNT = 1024 };
    float x[COUNT], want[COUNT], got[COUNT];
    uint8_t bytes[COUNT * 2];
    tn_fill_normal(x, COUNT, 4, 4, 0, 1);
    for (int i = 0; i < TYPES; i++) {
        const tn_quant_codec *codec = tn_quant_codec_of_ggml(types[i].type);
        assert_non_null(codec);
        assert_string_equal(codec->name, types[i].name);
        tn_tensor values = {TN_DTYPE_F32, 1, {COUNT}, x};
        tn_quantised array;
        check_ok(tn_quantised_new(&array, codec, &codec->defaults, COUNT));
        if (types[i].read_only) {
            check_fails(tn_quantise(&array, &values), TN_ERROR_UNSUPPORTED, "only read");
            memset(array.codes, 0x35, (size_t)array.sizes.codes);
        } else {
            check_ok(tn_quantise(&array, &values));
            check_ok(tn_ggml_encode(types[i].type, bytes, x, 1, COUNT));
            assert_memory_equal(array.codes, bytes, (size_t)array.sizes.total);
        }
        check_ok(tn_ggml_decode(types[i].type, want, array.codes, 1, COUNT));
        for (int64_t first = 0; first < COUNT; first += 37) {
            int64_t count = first * 7 % (COUNT - first) + 1;
            tn_dequantise(got, &array, first, count);
            assert_memory_equal(got, want + first, (size_t)count * sizeof *got);
        }
        tn_tensor all = {TN_DTYPE_QUANTISED, 1, {COUNT}, &array};
        assert_int_equal(tn_tensor_first_nonfinite(&all), -1);
        for (int h = 0; h < 2 && codec->halves[h] >= 0; h++) {
            uint8_t *scale = array.codes + 3 * codec->block_bytes + codec->halves[h] + 1, before = *scale;
            *scale = 0x7c;
            assert_int_equal(tn_tensor_first_nonfinite(&all), 3 * codec->min_block);
            tn_dequantise(got, &array, 3 * codec->min_block, codec->min_block);
            bool finite = true;
            for (int64_t k = 0; k < codec->min_block; k++)
                finite = finite && isfinite(got[k]);
            assert_false(finite);
            *scale = before;
        }
        tn_quantised_free(&array);
        check_fails(tn_quantised_new(&array, codec, &codec->defaults, codec->min_block * 3 + 1), TN_ERROR_ARGUMENT,
                    "whole blocks");
    }
    assert_null(tn_quant_codec_of_ggml(TN_GGML_F16));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_decodes_to_the_bits_of_ggml),
        cmocka_unit_test(plain_types_encode_to_the_bytes_of_ggml_and_k_types_with_no_more_error),
        cmocka_unit_test(shared_golden_blocks_hold),
        cmocka_unit_test(errors_are_as_expected_and_decoded_values_encode_to_the_same),
        cmocka_unit_test(tiny_and_flat_blocks_come_back_finite_and_near),
        cmocka_unit_test(values_that_no_scale_can_hold_are_refused_by_place),
        cmocka_unit_test(any_bytes_decode),
        cmocka_unit_test(float_types_are_converted),
        cmocka_unit_test(types_have_names_and_sizes_and_refusals),
        cmocka_unit_test(codecs_hold_the_same_blocks),
    };
    return cmocka_run_group_tests_name("quant_ggml", tests, NULL, NULL);
}
