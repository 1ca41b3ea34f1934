/* Codecs of quantised arrays against the codes, scales and values of bitsandbytes 0.50.2.dev0 (its PyTorch code for the
 * CPU): tests/golden_quant, where bnb8_blockwise and int8_rowwise hold part of what golden_quant has under that name, and
 * all of golden_quant where it is. */
#include "support/support.h"

#include "format/safetensors.h"
#include "tensor/quant.h"

enum { MOST = 20000 };

static const char *golden_path(bool shared, const char *name) {
    static char path[TN_PATH_MAX];
    const char *root = getenv("TENON_SHARED");
    if (shared)
        snprintf(path, sizeof path, "%s/golden_quant/blocks/%s.safetensors", root ? root : TENON_SOURCE_ROOT "/../shared",
                 name);
    else
        snprintf(path, sizeof path, TENON_SOURCE_ROOT "/tests/golden_quant/%s.safetensors", name);
    return path;
}

/* The tensor called "<a>.<b>"; NULL when there is none. */
static const tn_tensor *find(const tn_safetensors *file, const char *a, const char *b) {
    char name[128];
    snprintf(name, sizeof name, "%s.%s", a, b);
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    return entry ? &entry->tensor : NULL;
}

static const tn_tensor *get(const tn_safetensors *file, const char *a, const char *b) {
    const tn_tensor *tensor = find(file, a, b);
    if (!tensor)
        fail_msg("%s lacks %s.%s", file->path, a, b);
    return tensor;
}

static tn_quant_piece piece_of(const tn_tensor *tensor) {
    return (tn_quant_piece){tensor->data, tn_tensor_bytes(tensor)};
}

static void assert_same_bytes(const char *what, const void *got, const tn_tensor *want) {
    const uint8_t *a = got, *b = want->data;
    for (int64_t i = 0; i < tn_tensor_bytes(want); i++)
        if (a[i] != b[i])
            fail_msg("%s: byte %lld is %d, not %d", what, (long long)i, a[i], b[i]);
}

/* Decodes all of the array in the type of `want`, bit for bit. */
static void assert_decodes(const char *what, const tn_quantised *array, const tn_tensor *want) {
    static float decoded[MOST], rounded[MOST];
    assert_true(array->count <= MOST);
    tn_dequantise(decoded, array, 0, array->count);
    tn_convert_from_f32(rounded, want->dtype, decoded, array->count);
    assert_same_bytes(what, rounded, want);
}

/* FP4 has two codes for 0: 8 counts as 0. */
static void assert_four_bit_codes(const char *what, const tn_quantised *array, const tn_tensor *want, bool fp4) {
    const uint8_t *codes = want->data;
    assert_int_equal(array->sizes.codes, tn_tensor_bytes(want));
    for (int64_t i = 0; i < 2 * array->sizes.codes; i++) {
        int shift = i % 2 ? 0 : 4, got = array->codes[i / 2] >> shift & 15, wanted = codes[i / 2] >> shift & 15;
        if (got != (fp4 && wanted == 8 ? 0 : wanted))
            fail_msg("%s: code %lld is %d, not %d", what, (long long)i, got, wanted);
    }
}

static void check_four_bit(const tn_safetensors *file, const char *code, int64_t block, const char *name) {
    char plain[64], nested[64];
    snprintf(plain, sizeof plain, "%s.%s", code, name);
    snprintf(nested, sizeof nested, "%s_nested.%s", code, name);
    const tn_tensor *x = get(file, "x", name), *weight = get(file, plain, "weight"), *absmax = get(file, plain, "absmax");
    const tn_quant_codec *codec;
    assert_ok(tn_quant_codec_find(code, &codec));
    tn_quantised array;
    tn_quant_params params = {block, 0, TN_QUANT_ABSMAX};
    int64_t count = tn_tensor_count(x);
    assert_ok(tn_quantised_new(&array, codec, &params, count));
    assert_ok(tn_quantise(&array, x));
    assert_four_bit_codes(plain, &array, weight, codec == &tn_codec_fp4);
    assert_same_bytes(plain, array.scales, absmax);
    assert_decodes(plain, &array, get(file, plain, "dequant"));
    tn_quantised_free(&array);

    /* nested: the offset is the mean of the scales, added up in another order there */
    params.nested_block = 256;
    float offset = *(const float *)get(file, nested, "nested_offset")->data;
    assert_ok(tn_quantised_new(&array, codec, &params, count));
    assert_ok(tn_quantise(&array, x));
    assert_four_bit_codes(nested, &array, weight, codec == &tn_codec_fp4);
    assert_true(fabsf(array.nested_offset - offset) <= 2e-6f * fabsf(offset));
    tn_quantised_nest(&array, absmax->data, offset);
    assert_same_bytes(nested, array.scale_codes, get(file, nested, "absmax"));
    assert_same_bytes(nested, array.nested_scales, get(file, nested, "nested_absmax"));
    tn_quantised_free(&array);

    /* the stored pieces, used in place */
    tn_quant_pieces pieces = {.codes = piece_of(weight),
                              .scale_codes = piece_of(get(file, nested, "absmax")),
                              .nested_scales = piece_of(get(file, nested, "nested_absmax")),
                              .nested_offset = offset};
    assert_ok(tn_quantised_view(&array, codec, &params, count, &pieces));
    const float *restored = get(file, nested, "absmax_restored")->data;
    for (int64_t i = 0; i < array.sizes.blocks; i++)
        assert_true(tn_quantised_scale(&array, i) == restored[i]);
    assert_decodes(nested, &array, get(file, nested, "dequant"));
    tn_quantised_free(&array);
}

static void check_bnb4(bool shared, int64_t block) {
    static const char *const names[] = {"normal_f32",  "normal_f16",   "normal_bf16", "awkward_f32",
                                        "awkward_f16", "awkward_bf16", "partial_f32", "zero_tail_f32"};
    char name[32];
    snprintf(name, sizeof name, "bnb4_%lld", (long long)block);
    tn_safetensors file;
    assert_ok(tn_safetensors_open(golden_path(shared, name), &file));
    assert_same_bytes("nf4 values", tn_nf4_values, get(&file, "quant_map", "nf4"));
    assert_same_bytes("fp4 values", tn_fp4_values, get(&file, "quant_map", "fp4"));
    assert_same_bytes("signed map", tn_dynamic_signed, &tn_safetensors_find(&file, "nested_quant_map")->tensor);
    int seen = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!find(&file, "x", names[i]))
            continue;
        check_four_bit(&file, "nf4", block, names[i]);
        check_four_bit(&file, "fp4", block, names[i]);
        seen++;
    }
    assert_true(seen >= 2);
    tn_safetensors_close(&file);
}

static void four_bit_codes_are_those_of_bitsandbytes(void **state) {
    (void)state;
    check_bnb4(false, 32);
}

static void four_bit_codes_of_all_block_sizes_are_those_of_bitsandbytes(void **state) {
    (void)state;
    if (!tn_path_exists(golden_path(true, "bnb4_64")))
        skip();
    for (int64_t block = 32; block <= 4096; block *= 2)
        check_bnb4(true, block);
}

static void check_dynamic(const tn_safetensors *file, const tn_quant_codec *codec, const char *map, const char *type,
                          int64_t block, bool ties) {
    char name[64];
    if (ties)
        snprintf(name, sizeof name, "%s.ties", map);
    else
        snprintf(name, sizeof name, "%s.%lld.%s", map, (long long)block, type);
    if (!find(file, name, "codes"))
        return;
    char source[64];
    snprintf(source, sizeof source, "%s.%s", map, type);
    const tn_tensor *x = get(file, "x", source);
    tn_quantised array;
    tn_quant_params params = {block, 0, TN_QUANT_ABSMAX};
    assert_ok(tn_quantised_new(&array, codec, &params, tn_tensor_count(x)));
    assert_ok(tn_quantise(&array, x));
    assert_same_bytes(name, array.codes, get(file, name, "codes"));
    assert_same_bytes(name, array.scales, get(file, name, "absmax"));
    assert_decodes(name, &array, get(file, name, "dequant"));
    tn_quantised_free(&array);
}

static void check_bnb8(bool shared) {
    tn_safetensors file;
    assert_ok(tn_safetensors_open(golden_path(shared, "bnb8_blockwise"), &file));
    assert_same_bytes("signed map", tn_dynamic_signed, get(&file, "quant_map", "signed"));
    assert_same_bytes("unsigned map", tn_dynamic_unsigned, get(&file, "quant_map", "unsigned"));
    for (int k = 0; k < 2; k++) {
        const tn_quant_codec *codec = k ? &tn_codec_dynamic8_unsigned : &tn_codec_dynamic8;
        const char *map = k ? "unsigned" : "signed";
        get(&file, map, "64.f32.codes");
        check_dynamic(&file, codec, map, "ties", 256, true);
        for (int64_t block = 64; block <= 4096; block *= 2) {
            check_dynamic(&file, codec, map, "f32", block, false);
            check_dynamic(&file, codec, map, "f16", block, false);
            check_dynamic(&file, codec, map, "bf16", block, false);
        }
    }
    tn_safetensors_close(&file);
}

static void dynamic_codes_are_those_of_bitsandbytes(void **state) {
    (void)state;
    check_bnb8(false);
}

static void dynamic_codes_of_all_types_are_those_of_bitsandbytes(void **state) {
    (void)state;
    if (!tn_path_exists(golden_path(true, "bnb8_blockwise")))
        skip();
    check_bnb8(true);
}

static void check_int8_rows(const tn_safetensors *file, const char *type, tn_dtype dtype) {
    static float typed[MOST];
    const tn_tensor *weight = &tn_safetensors_find(file, "weight")->tensor;
    tn_tensor x = *weight;
    x.dtype = dtype;
    x.data = typed;
    tn_convert_from_f32(typed, dtype, weight->data, tn_tensor_count(weight));
    tn_quantised array;
    tn_quant_params params = {.block = x.shape[1]};
    assert_ok(tn_quantised_new(&array, &tn_codec_int8_row, &params, tn_tensor_count(&x)));
    assert_ok(tn_quantise(&array, &x));
    assert_same_bytes(type, array.codes, get(file, type, "CB"));
    assert_same_bytes(type, array.scales, get(file, type, "SCB"));
    assert_decodes(type, &array, get(file, type, "dequant"));
    tn_quantised_free(&array);
}

static void int8_rows_are_those_of_bitsandbytes(void **state) {
    (void)state;
    tn_safetensors file;
    assert_ok(tn_safetensors_open(golden_path(false, "int8_rowwise"), &file));
    check_int8_rows(&file, "f32", TN_DTYPE_F32);
    check_int8_rows(&file, "bf16", TN_DTYPE_BF16);
    tn_safetensors_close(&file);
}

/* Activations of LLM.int8 without outliers are quantised as the rows of a weight are. */
static void int8_rows_of_activations_are_those_of_bitsandbytes(void **state) {
    (void)state;
    if (!tn_path_exists(golden_path(true, "int8_rowwise")))
        skip();
    tn_safetensors file;
    assert_ok(tn_safetensors_open(golden_path(true, "int8_rowwise"), &file));
    const tn_tensor *x = &tn_safetensors_find(&file, "x")->tensor;
    tn_quantised array;
    tn_quant_params params = {.block = x->shape[1]};
    assert_ok(tn_quantised_new(&array, &tn_codec_int8_row, &params, tn_tensor_count(x)));
    assert_ok(tn_quantise(&array, x));
    assert_same_bytes("CA", array.codes, get(&file, "threshold0", "CA"));
    assert_same_bytes("SCA", array.scales, get(&file, "threshold0", "SCA"));
    tn_quantised_free(&array);
    tn_safetensors_close(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(four_bit_codes_are_those_of_bitsandbytes),
        cmocka_unit_test(four_bit_codes_of_all_block_sizes_are_those_of_bitsandbytes),
        cmocka_unit_test(dynamic_codes_are_those_of_bitsandbytes),
        cmocka_unit_test(dynamic_codes_of_all_types_are_those_of_bitsandbytes),
        cmocka_unit_test(int8_rows_are_those_of_bitsandbytes),
        cmocka_unit_test(int8_rows_of_activations_are_those_of_bitsandbytes),
    };
    return cmocka_run_group_tests_name("quant golden", tests, NULL, NULL);
}
