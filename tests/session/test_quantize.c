/* Quantising models, writing them, and merging into them. */
#include "support/support.h"

#include <tenon/quantize.h>

#include "format/safetensors.h"
#include "session/quantize.h"

/* Rows of 64 and 128 elements, which all types can hold but the K types. */
#define MODEL                                                                                                               \
    "{\"model_type\": \"llama\", \"vocab_size\": 37, \"hidden_size\": 64, \"intermediate_size\": 128, "                     \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"max_position_embeddings\": 64, "   \
    "\"rms_norm_eps\": 1e-06, \"initializer_range\": 0.2, \"torch_dtype\": \"float32\", \"tie_word_embeddings\": false}"

static tn_model *base(const char *dtype) {
    return create_stored_model(MODEL, 5, "base", dtype);
}

static tn_module *module_named(tn_model *model, const char *name) {
    tn_module *module = tn_network_module(model->network, name);
    assert_non_null(module);
    return module;
}

static void count_layers(void *cookie, const tn_quantize_layer *layer) {
    assert_true(layer->mse >= 0 && layer->largest_error >= 0 && layer->cosine <= 1.000001);
    assert_true(layer->largest_error * layer->largest_error >= layer->mse);
    ++*(int *)cookie;
}

/* Figures of a standard normal matrix stand in the golden README; here weights are N(0, 0.2), errors scale along. */
static void errors_are_those_of_the_type(void **state) {
    (void)state;
    static const struct {
        const char *type;
        double bits, mse; /* of a standard normal matrix */
    } rows[] = {{"nf4", 4.5, 8.4574e-3},  {"fp4", 4.5, 1.4865e-2},  {"q4_0", 4.5, 7.3727e-3},
                {"q5_0", 5.5, 1.8201e-3}, {"q8_0", 8.5, 2.8610e-5}, {"q4_1", 5, 6.1156e-3}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tn_model *model = base("f32");
        const tn_quantize_options options = {.type = rows[i].type};
        tn_quantize_summary summary;
        tn_quantize_layer layer;
        int layers = 0;
        const tn_quantize_callbacks callbacks = {&layers, count_layers};
        assert_ok(tn_model_quantize(model, &options, &callbacks));
        assert_int_equal(layers, 14);
        tn_model_describe_quantized(model, &summary);
        assert_int_equal(summary.modules, 14);
        assert_true(fabs(summary.bits - rows[i].bits) < 1e-9);
        tn_model *plain = base("f32");
        tn_quantize_compare(&layer, &module_named(plain, "model.layers.0.mlp.up_proj")->weight.tensor,
                            &module_named(model, "model.layers.0.mlp.up_proj")->weight.tensor);
        assert_true(fabs(layer.mse / (0.04 * rows[i].mse) - 1) < 0.15);
        assert_true(layer.cosine > 0.98);
        tn_model_free(plain);
        tn_model_free(model);
    }
}

/* What is written and loaded again computes the very same. */
static void saved_weights_give_the_same_logits(void **state) {
    (void)state;
    static const tn_quantize_options forms[] = {
        {.type = "nf4"},
        {.type = "nf4", .double_quant = true},
        {.type = "fp4", .block = 128, .double_quant = true},
        {.type = "int8_row"},
        {.type = "int4", .range = "mse"},
        {.type = "int5_affine", .block = 32, .range = "minmax"},
        {.type = "int6", .block = -1},
        {.type = "nf4", .mix = "down_proj=int8,lm_head=int6_affine,embed_tokens=nf4"},
        {.type = "nf4", .modules = "q_proj,v_proj", .exclude = "layers.1.self_attn.v_proj"},
    };
    static const char *const dtypes[] = {"f32", "bf16"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        int64_t count;
        tn_model *model = base(dtypes[i % 2]), *loaded;
        assert_ok(tn_model_quantize(model, &forms[i], NULL));
        float *logits = probe(model, &count);
        assert_ok(tn_model_save_quantized(model, temporary("quantised-%zu", i)));
        tn_quantize_summary before, after;
        assert_ok(tn_model_load(temporary("quantised-%zu", i), &loaded));
        tn_model_describe_quantized(model, &before);
        tn_model_describe_quantized(loaded, &after);
        assert_memory_equal(&before, &after, sizeof before);
        tn_model_info info;
        tn_model_describe(loaded, &info);
        assert_int_equal(info.unused_tensors, 0);
        assert_true(probe_difference(loaded, logits) == 0);
        tn_free(logits);
        tn_model_free(model);
        tn_model_free(loaded);
    }
}

static void names_are_those_of_bitsandbytes(void **state) {
    (void)state;
    static const char *const endings[] = {
        "", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4"};
    tn_model *model = base("bf16");
    const tn_quantize_options options = {.type = "nf4", .double_quant = true};
    tn_safetensors file;
    cJSON *config;
    char path[600], name[200];
    assert_ok(tn_model_quantize(model, &options, NULL));
    assert_ok(tn_model_save_quantized(model, temporary("bnb")));
    snprintf(path, sizeof path, "%s/model.safetensors", temporary("bnb"));
    assert_ok(tn_safetensors_open(path, &file));
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        snprintf(name, sizeof name, "model.layers.1.mlp.up_proj.weight%s", endings[i]);
        assert_non_null(tn_safetensors_find(&file, name));
    }
    const tn_tensor *state_text = &tn_safetensors_find(&file, name)->tensor;
    char text[400];
    snprintf(text, sizeof text, "%.*s", (int)tn_tensor_bytes(state_text), (const char *)state_text->data);
    assert_non_null(strstr(text, "\"dtype\":\"bfloat16\""));
    assert_non_null(strstr(text, "\"shape\":[128,64]"));
    assert_int_equal(tn_safetensors_find(&file, "model.norm.weight")->tensor.dtype, TN_DTYPE_BF16);
    tn_safetensors_close(&file);
    snprintf(path, sizeof path, "%s/config.json", temporary("bnb"));
    assert_ok(tn_json_read(path, 1 << 20, &config));
    const cJSON *quantisation = tn_json_get(config, "quantization_config");
    assert_string_equal(tn_json_get(quantisation, "quant_method")->valuestring, "bitsandbytes");
    assert_true(cJSON_IsTrue(tn_json_get(quantisation, "load_in_4bit")));
    cJSON_Delete(config);
    tn_model_free(model);
}

static tn_model *quantised_with_adapter(const char *targets) {
    tn_model *model = base("f32");
    const tn_quantize_options options = {.type = "nf4", .double_quant = true};
    tn_adapter_options adapter;
    tn_adapter_options_default(&adapter);
    adapter.rank = 4;
    adapter.target_modules = targets;
    assert_ok(tn_model_quantize(model, &options, NULL));
    assert_ok(tn_model_add_adapter(model, &adapter, 3));
    randomise_adapter(model->adapter, 4, 0.05f);
    return model;
}

static void merging_into_full_precision_is_exact(void **state) {
    (void)state;
    tn_model *model = quantised_with_adapter("all-linear"), *merged;
    int64_t count;
    tn_merge_report report;
    float *logits = probe(model, &count);
    assert_ok(tn_model_merge(model, temporary("merged"), "keep", &report));
    assert_int_equal(report.modules, 14);
    assert_true(report.largest_rounding == 0);
    assert_ok(tn_model_load(temporary("merged"), &merged));
    assert_true(probe_difference(merged, logits) < 1e-4);
    assert_int_equal(module_named(merged, "model.layers.0.mlp.up_proj")->weight.tensor.dtype, TN_DTYPE_F32);
    assert_null(tn_json_get(merged->network->json, "quantization_config"));
    tn_free(logits);
    tn_model_free(merged);
    tn_model_free(model);
}

/* One layer's worth of the report: the merged weight is off by what quantising it again costs, no more. */
static void requantised_merging_says_what_it_lost(void **state) {
    (void)state;
    tn_model *model = quantised_with_adapter("q_proj,down_proj"), *merged;
    int64_t count;
    int layers = 0;
    const tn_quantize_callbacks callbacks = {&layers, count_layers};
    tn_merge_report report;
    float *logits = probe(model, &count);
    assert_ok(tn_model_merge_requantized(model, temporary("requantised"), &callbacks, &report));
    assert_int_equal(layers, 4);
    assert_int_equal(report.modules, 4);
    assert_true(report.largest_rounding > 0 && report.largest_rounding < 0.2);
    assert_ok(tn_model_load(temporary("requantised"), &merged));
    double difference = probe_difference(merged, logits);
    assert_true(difference > 0 && fabs(difference - report.logit_difference) < 1e-5);
    assert_int_equal(module_named(merged, "model.layers.0.mlp.down_proj")->weight.tensor.dtype, TN_DTYPE_QUANTISED);
    assert_true(probe_difference(model, logits) == 0); /* the model in memory is as it was */
    tn_free(logits);
    tn_model_free(merged);
    tn_model_free(model);
}

static void reports_of_logits_are_measured(void **state) {
    (void)state;
    tn_model *model = base("f32");
    int64_t count;
    float *logits = probe(model, &count);
    const tn_quantize_options options = {.type = "int4"};
    tn_quantize_report report;
    assert_ok(tn_model_quantize_reported(model, &options, NULL, &report));
    assert_true(report.largest_logit_difference > 0 && report.logit_difference_rms < report.logit_rms);
    assert_true(fabs(probe_difference(model, logits) - report.largest_logit_difference) < 1e-9);
    tn_free(logits);
    tn_model_free(model);
}

static void conv1d_weights_are_quantised_as_they_are_stored(void **state) {
    (void)state;
    tn_model *model = create_stored_model(SMALL_GPT2, 6, "gpt2", "f32"), *loaded;
    const tn_quantize_options options = {.type = "nf4"};
    int64_t count;
    assert_ok(tn_model_quantize(model, &options, NULL));
    float *logits = probe(model, &count);
    assert_ok(tn_model_save_quantized(model, temporary("gpt2-nf4")));
    assert_ok(tn_model_load(temporary("gpt2-nf4"), &loaded));
    assert_true(probe_difference(loaded, logits) == 0);
    tn_free(logits);
    tn_model_free(model);
    tn_model_free(loaded);
}

/* The rows agree with adapters and weights that are really there. */
static void memory_tables_count_what_there_is(void **state) {
    (void)state;
    tn_model *model = base("f32");
    tn_adapter_options adapter;
    tn_memory_row table[TN_MEMORY_ROWS], layer[TN_MEMORY_ROWS];
    tn_adapter_options_default(&adapter);
    adapter.rank = 4;
    adapter.target_modules = "all-linear";
    assert_ok(tn_memory_table(model, &adapter, table));
    assert_ok(tn_memory_table_of_layer(4096, 4096, 8, layer));
    assert_int_equal(layer[1].base, INT64_C(64) << 20);
    assert_int_equal(layer[1].adapter + layer[1].gradients, INT64_C(1) << 19);
    assert_int_equal(layer[3].base, INT64_C(9) << 20);
    assert_int_equal(layer[4].base, (INT64_C(8) << 20) + (INT64_C(1) << 18) + (INT64_C(1) << 12));
    static const char *const methods[] = {"lora", "dora"};
    tn_model_info info;
    for (int quantised = 0; quantised < 2; quantised++) {
        const tn_quantize_options options = {.type = "nf4", .double_quant = true};
        if (quantised)
            assert_ok(tn_model_quantize(model, &options, NULL));
        tn_model_describe(model, &info);
        for (int i = 0; i < 2; i++) {
            const tn_memory_row *row = &table[quantised ? 4 + 2 * i : 1 + i];
            tn_adapter_info described;
            adapter.method = methods[i];
            assert_ok(tn_model_add_adapter(model, &adapter, 1));
            assert_ok(tn_model_describe_adapter(model, &described));
            assert_int_equal(row->trained, described.parameters);
            assert_int_equal(row->base, info.bytes);
            assert_int_equal(row->total, row->base + 4 * 4 * row->trained);
            tn_model_remove_adapter(model);
        }
    }
    assert_int_equal(table[0].trained, info.parameters);
    assert_fails(tn_memory_table_of_layer(0, 3, 8, layer), TN_ERROR_ARGUMENT, "0 x 3");
    tn_model_free(model);
}

static void mistakes_are_refused_with_words(void **state) {
    (void)state;
    static const struct {
        tn_quantize_options options;
        tn_status status;
        const char *words;
    } rows[] = {
        {{.type = "nf5"}, TN_ERROR_ARGUMENT, "did you mean 'nf4'"},
        {{.type = "dynamic8"}, TN_ERROR_UNSUPPORTED, "dynamic8"},
        {{.type = "q2_k"}, TN_ERROR_UNSUPPORTED, "q2_k"},
        {{.type = "nf4", .block = 48}, TN_ERROR_ARGUMENT, "power of two"},
        {{.type = "nf4", .block = -2}, TN_ERROR_ARGUMENT, "block"},
        {{.type = "nf4", .block = -1}, TN_ERROR_ARGUMENT, "block"},
        {{.type = "q4_0", .block = 64}, TN_ERROR_ARGUMENT, "leave the block size out"},
        {{.type = "q4_k"}, TN_ERROR_ARGUMENT, "whole blocks"},
        {{.type = "int4", .double_quant = true}, TN_ERROR_ARGUMENT, "double"},
        {{.type = "nf4", .range = "mse"}, TN_ERROR_ARGUMENT, "MSE"},
        {{.type = "int4", .range = "best"}, TN_ERROR_ARGUMENT, "absmax, minmax, mse"},
        {{.modules = "w1"}, TN_ERROR_ARGUMENT, "w1"},
        {{.mix = "w1=int8"}, TN_ERROR_ARGUMENT, "w1"},
        {{.mix = "up_proj"}, TN_ERROR_ARGUMENT, "NAME=TYPE"},
        {{.mix = "up_proj=int9"}, TN_ERROR_ARGUMENT, "int9"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tn_model *model = base("f32");
        assert_fails(tn_model_quantize(model, &rows[i].options, NULL), rows[i].status, rows[i].words);
        tn_model_free(model);
    }
    tn_model *model = base("f32");
    assert_fails(tn_model_save_quantized(model, temporary("none")), TN_ERROR_ARGUMENT, "quantise it first");
    const tn_quantize_options ggml = {.type = "q4_0"}, nf4 = {.type = "nf4"};
    assert_ok(tn_model_quantize(model, &ggml, NULL));
    assert_fails(tn_model_save_quantized(model, temporary("none")), TN_ERROR_UNSUPPORTED, "GGUF");
    assert_fails(tn_model_quantize(model, &nf4, NULL), TN_ERROR_ARGUMENT, "nothing to quantise");
    tn_model_free(model);
}

static void a_value_that_is_not_finite_is_named(void **state) {
    (void)state;
    tn_model *model = create_model(MODEL, 8);
    const tn_quantize_options options = {.type = "nf4"};
    ((float *)module_named(model, "model.layers.1.mlp.up_proj")->weight.tensor.data)[64 * 3 + 5] = NAN;
    assert_fails(tn_model_quantize(model, &options, NULL), TN_ERROR_NUMERIC, "'model.layers.1.mlp.up_proj': element [3, 5]");
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_those_of_the_type),
        cmocka_unit_test(saved_weights_give_the_same_logits),
        cmocka_unit_test(names_are_those_of_bitsandbytes),
        cmocka_unit_test(merging_into_full_precision_is_exact),
        cmocka_unit_test(requantised_merging_says_what_it_lost),
        cmocka_unit_test(reports_of_logits_are_measured),
        cmocka_unit_test(conv1d_weights_are_quantised_as_they_are_stored),
        cmocka_unit_test(memory_tables_count_what_there_is),
        cmocka_unit_test(mistakes_are_refused_with_words),
        cmocka_unit_test(a_value_that_is_not_finite_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
