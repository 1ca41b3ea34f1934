/* Checkpoints of bitsandbytes whose pieces do not fit together: tests/golden_quant with single tensors changed. */
#include <tenon/quantize.h>

#include "support/support.h"

#define WEIGHT "model.layers.0.self_attn.q_proj.weight"
#define STATE WEIGHT ".quant_state.bitsandbytes__nf4"

/* What becomes of one tensor of the checkpoint; the others stay as they are. */
typedef struct {
    const char *base, *tensor;
    const char *text; /* the tensor's new bytes, as u8; NULL: see `value` and `keep` */
    float value;      /* of the first f32 element, when it is not 0 */
    int64_t keep;     /* elements of a vector that are left; 0: all, -1: the tensor goes */
    const char *words;
} change;

static void write_changed(const char *to, const char *from, const change *c) {
    tn_safetensors file;
    tn_safetensors_writer *writer;
    int changed = 0;
    assert_ok(tn_safetensors_open(from, &file));
    assert_ok(tn_safetensors_writer_new(&writer, to));
    for (int writing = 0; writing < 2; writing++) {
        for (size_t i = 0; i < file.count; i++) {
            tn_tensor t = file.entries[i].tensor;
            bool here = strcmp(file.entries[i].name, c->tensor) == 0;
            changed += here;
            if (here && c->keep < 0)
                continue;
            if (here && c->keep)
                t.shape[0] = c->keep;
            if (here && c->text)
                t = (tn_tensor){TN_DTYPE_U8, 1, {(int64_t)strlen(c->text)}, (void *)(uintptr_t)c->text};
            if (!writing) {
                assert_ok(tn_safetensors_writer_declare(writer, file.entries[i].name, t.dtype, t.ndim, t.shape));
                continue;
            }
            char *data = malloc((size_t)tn_tensor_bytes(&t));
            assert_non_null(data);
            memcpy(data, t.data, (size_t)tn_tensor_bytes(&t));
            if (here && c->value != 0)
                memcpy(data, &c->value, sizeof c->value);
            assert_ok(tn_safetensors_writer_data(writer, data, tn_tensor_bytes(&t)));
            free(data);
        }
        if (!writing)
            assert_ok(tn_safetensors_writer_begin(writer));
    }
    assert_ok(tn_safetensors_writer_finish(writer));
    tn_safetensors_close(&file);
    assert_int_equal(changed, 2);
}

static void copy_config(const char *base, const char *old, const char *new) {
    tn_buf text = {0};
    char from[TN_PATH_MAX];
    snprintf(from, sizeof from, TENON_SOURCE_ROOT "/tests/golden_quant/%s/base/config.json", base);
    assert_ok(tn_file_read(from, 1 << 20, &text));
    char *changed = with_replaced(tn_buf_text(&text), old, new);
    assert_ok(tn_dir_create(temporary("changed")));
    write_text(temporary("changed/config.json"), changed);
    free(changed);
    tn_buf_free(&text);
}

static tn_status load_changed(const change *c) {
    char from[TN_PATH_MAX];
    tn_model *model;
    copy_config(c->base, "\"model_type\"", "\"model_type\"");
    snprintf(from, sizeof from, TENON_SOURCE_ROOT "/tests/golden_quant/%s/base/model.safetensors", c->base);
    write_changed(temporary("changed/model.safetensors"), from, c);
    tn_status status = tn_model_load(temporary("changed"), &model);
    if (status == TN_OK)
        tn_model_free(model);
    return status;
}

static void check_changes(const change *changes, size_t count, tn_status want) {
    for (size_t i = 0; i < count; i++) {
        tn_status status = load_changed(&changes[i]);
        if (status != want || !strstr(tn_error_message(), changes[i].words) || !strstr(tn_error_message(), "q_proj"))
            fail_msg("%s, %s: %s: %s", changes[i].base, changes[i].tensor, tn_status_name(status),
                     status == TN_OK ? "" : tn_error_message());
    }
}

#define STATE_OF(more) "{\"quant_type\": \"nf4\", \"shape\": [32, 32], " more "}"

static void pieces_that_are_missing_or_cut_are_named(void **state) {
    (void)state;
    static const change changes[] = {
        {"base_nf4_llama", WEIGHT ".absmax", .keep = -1, .words = "the scales are missing"},
        {"base_nf4_llama", WEIGHT ".absmax", .keep = 15, .words = "the scales have 60 bytes where 64 are needed"},
        {"base_nf4_llama", WEIGHT, .keep = 511, .words = "the codes have 511 bytes where 512 are needed"},
        {"base_nf4_llama", STATE, .keep = -1, .words = "no quant_state says how it is quantised"},
        {"base_nf4_llama", STATE, .text = "", .words = "quant_state, column 1"},
        {"base_nf4_llama", STATE, .text = "{\"quant_type\": ", .words = "quant_state, column"},
        {"base_nf4_llama", WEIGHT ".absmax", .text = "0123456789012345", .words = "absmax must not be U8"},
        {"base_nf4_nested_qwen2", WEIGHT ".nested_absmax", .keep = -1, .words = "the nested scales are missing"},
        {"base_nf4_nested_qwen2", WEIGHT ".absmax", .keep = 3, .words = "the quantised scales have 3 bytes"},
        {"base_int8_llama", "model.layers.0.self_attn.q_proj.SCB", .keep = 31, .words = "the scales have 124 bytes"},
        {"base_int8_llama", "model.layers.0.self_attn.q_proj.SCB", .text = "0123", .words = "SCB must be F32"},
    };
    check_changes(changes, sizeof changes / sizeof *changes, TN_ERROR_FORMAT);
}

static void absurd_numbers_are_refused(void **state) {
    (void)state;
    static const change changes[] = {
        {"base_nf4_llama", STATE, .text = STATE_OF("\"blocksize\": 0"), .words = "the block size of nf4 is a power of two"},
        {"base_nf4_llama", STATE, .text = STATE_OF("\"blocksize\": 3"), .words = "the block size of nf4 is a power of two"},
        {"base_nf4_llama", STATE, .text = STATE_OF("\"blocksize\": 1099511627776"), .words = "blocksize"},
        {"base_nf4_llama", STATE, .text = STATE_OF("\"blocksize\": -64"), .words = "blocksize"},
        {"base_nf4_llama", STATE, .text = STATE_OF("\"blocksize\": \"64\""), .words = "blocksize"},
        {"base_nf4_llama", STATE, .text = STATE_OF("\"blocksize\": 64, \"nested_blocksize\": 7"),
         .words = "absmax must not"},
        {"base_nf4_llama", WEIGHT ".absmax", .value = NAN, .words = "the scale of block 0 is nan"},
        {"base_nf4_llama", WEIGHT ".absmax", .value = INFINITY, .words = "the scale of block 0 is inf"},
        {"base_nf4_nested_qwen2", WEIGHT ".nested_absmax", .value = NAN, .words = "the scale of block 0 is"},
        {"base_nf4_nested_qwen2", STATE, .text = STATE_OF("\"blocksize\": 64, \"nested_blocksize\": 7"),
         .words = "the nested block size is a power of two"},
        {"base_nf4_nested_qwen2", STATE,
         .text = STATE_OF("\"blocksize\": 64, \"nested_blocksize\": 256, \"nested_offset\": 1e39"),
         .words = "the scale of block 0 is inf"},
        {"base_int8_llama", "model.layers.0.self_attn.q_proj.SCB", .value = NAN, .words = "the scale of block 0 is nan"},
        {"base_nf4_llama", STATE, .text = "{\"quant_type\": \"fp4\", \"blocksize\": 64, \"shape\": [32, 32]}",
         .words = "quant_type is 'fp4'"},
    };
    check_changes(changes, sizeof changes / sizeof *changes, TN_ERROR_FORMAT);
}

static void shapes_that_config_json_does_not_make_are_refused(void **state) {
    (void)state;
    static const char *const shapes[] = {"[32, 16]", "[16, 64]", "[32]",         "[32, 32, 1]",
                                         "[1024]",   "\"32\"",   "[\"32\", 32]", "{}"};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        char text[100];
        snprintf(text, sizeof text, "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"shape\": %s}", shapes[i]);
        const change c = {"base_nf4_llama", STATE, .text = text, .words = "its shape is not the [32, 32]"};
        check_changes(&c, 1, TN_ERROR_MISMATCH);
    }
    const change c = {"base_nf4_llama", STATE, .text = "{\"quant_type\": \"nf4\", \"blocksize\": 64}",
                      .words = "its shape is not the [32, 32]"};
    check_changes(&c, 1, TN_ERROR_MISMATCH);
}

static void what_other_tools_mean_is_not_guessed(void **state) {
    (void)state;
    static const change changes[] = {
        {"base_nf4_llama", WEIGHT ".quant_map", .value = 0.5f, .words = "other values than bitsandbytes' own"},
        {"base_nf4_llama", WEIGHT ".quant_map", .keep = 15, .words = "other values than bitsandbytes' own"},
        {"base_nf4_nested_qwen2", WEIGHT ".nested_quant_map", .value = 0.5f, .words = "other values than"},
        {"base_nf4_nested_qwen2", STATE,
         .text = STATE_OF("\"blocksize\": 64, \"nested_blocksize\": 256, \"nested_dtype\": \"float16\""),
         .words = "nested scales of type float16"},
        {"base_int8_llama", "model.layers.0.self_attn.q_proj.weight_format", .text = "\1",
         .words = "weight_format is not 0"},
    };
    tn_model *model;
    check_changes(changes, sizeof changes / sizeof *changes, TN_ERROR_UNSUPPORTED);
    copy_config("base_nf4_llama", "\"quant_method\": \"bitsandbytes\"", "\"quant_method\": \"gptq\"");
    assert_fails(tn_model_load(temporary("changed"), &model), TN_ERROR_UNSUPPORTED, "weights quantised by 'gptq'");
}

/* A square matrix does not tell whether it was turned around. */
static void conv1d_of_bitsandbytes_is_refused(void **state) {
    (void)state;
    const tn_quantize_options nf4 = {0};
    const char *name = "transformer.h.0.attn.c_proj.weight";
    char key[128];
    tn_safetensors file;
    tn_safetensors_writer *writer;
    tn_model *model = create_model(SMALL_GPT2, 1);
    assert_ok(tn_model_quantize(model, &nf4, NULL));
    assert_ok(tn_model_save_quantized(model, temporary("own")));
    tn_model_free(model);
    assert_ok(tn_model_load(temporary("own"), &model));
    tn_model_free(model);
    assert_ok(tn_safetensors_open(temporary("own/model.safetensors"), &file));
    assert_ok(tn_safetensors_writer_new(&writer, temporary("own/changed")));
    for (int writing = 0; writing < 2; writing++) {
        for (size_t i = 0; i < file.count; i++) {
            const tn_tensor *t = &file.entries[i].tensor;
            snprintf(key, sizeof key, "%s", file.entries[i].name);
            if (strncmp(key, name, strlen(name)) == 0 && strstr(key, "quant_state"))
                snprintf(key, sizeof key, "%s.quant_state.bitsandbytes__nf4", name);
            if (!writing)
                assert_ok(tn_safetensors_writer_declare(writer, key, t->dtype, t->ndim, t->shape));
            else
                assert_ok(tn_safetensors_writer_data(writer, t->data, tn_tensor_bytes(t)));
        }
        if (!writing)
            assert_ok(tn_safetensors_writer_begin(writer));
    }
    assert_ok(tn_safetensors_writer_finish(writer));
    tn_safetensors_close(&file);
    assert_int_equal(rename(temporary("own/changed"), temporary("own/model.safetensors")), 0);
    assert_fails(tn_model_load(temporary("own"), &model), TN_ERROR_UNSUPPORTED, "c_proj.weight': bitsandbytes stores this");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_that_are_missing_or_cut_are_named),
        cmocka_unit_test(absurd_numbers_are_refused),
        cmocka_unit_test(shapes_that_config_json_does_not_make_are_refused),
        cmocka_unit_test(what_other_tools_mean_is_not_guessed),
        cmocka_unit_test(conv1d_of_bitsandbytes_is_refused),
    };
    return cmocka_run_group_tests_name("quantised_checkpoints", tests, NULL, remove_temporary);
}
