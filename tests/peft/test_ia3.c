/* IA3: which modules are feed-forward, several adapters at once, and the way back from merged weights. */
#include "method_test.h"

#define FAMILY(name)                                                                                                        \
    "{\"model_type\": \"" name "\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": 40, "                   \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"initializer_range\": 0.2, "        \
    "\"tie_word_embeddings\": false}"
#define IA3(members) "{\"peft_type\": \"IA3\"" members "}"

/* The shape of l tells outputs, [O, 1], from inputs, [1, C]. Sizes: q_proj 24 x 24, k_proj and v_proj 12 x 24, down_proj
 * 24 x 40, up_proj 40 x 24. */
typedef struct {
    const char *family, *config;
    struct {
        const char *module;
        int64_t rows, cols;
    } wanted[3];
    const char *printed; /* in the saved configuration; NULL: of no interest */
} choice;

static void feedforward_modules_scale_their_inputs(void **state) {
    static const choice choices[] = {
        {FAMILY("llama"),
         IA3(""),
         {{"self_attn.k_proj", 12, 1}, {"self_attn.v_proj", 12, 1}, {"mlp.down_proj", 1, 40}},
         NULL},
        {FAMILY("qwen2"),
         IA3(""),
         {{"self_attn.q_proj", 24, 1}, {"self_attn.v_proj", 12, 1}, {"mlp.down_proj", 1, 40}},
         NULL},
        {SMALL_GPT2, IA3(""), {{"attn.c_attn", 72, 1}, {"mlp.c_proj", 1, 40}}, NULL},
        {FAMILY("llama"),
         IA3(", \"target_modules\": [\"up_proj\", \"mlp.down_proj\"], \"feedforward_modules\": [\"up_proj\"]"),
         {{"mlp.up_proj", 1, 24}, {"mlp.down_proj", 24, 1}},
         "[\"up_proj\"]"},
        /* left open: the family's, as far as they are targets */
        {FAMILY("llama"),
         IA3(", \"target_modules\": [\"q_proj\", \"mlp.down_proj\"]"),
         {{"self_attn.q_proj", 24, 1}, {"mlp.down_proj", 1, 40}},
         "[\"mlp.down_proj\"]"},
        {FAMILY("llama"), IA3(", \"target_modules\": [\"q_proj\"]"), {{"self_attn.q_proj", 24, 1}}, "[]"},
        {FAMILY("llama"),
         IA3(", \"target_modules\": [\"down_proj\"], \"feedforward_modules\": []"),
         {{"mlp.down_proj", 24, 1}},
         "[]"},
        {FAMILY("llama"),
         IA3(", \"target_modules\": \"all-linear\""),
         {{"mlp.down_proj", 1, 40}, {"mlp.up_proj", 40, 1}},
         NULL},
        {FAMILY("llama"),
         IA3(", \"target_modules\": \".*(down|k)_proj\""),
         {{"mlp.down_proj", 1, 40}, {"self_attn.k_proj", 12, 1}},
         NULL},
        /* one expression, commas and all; and PEFT's way to end in a name, dot or not */
        {FAMILY("llama"),
         IA3(", \"target_modules\": [\"up_proj\", \"down_proj\"], \"feedforward_modules\": \".*u{1,2}p_proj\""),
         {{"mlp.up_proj", 1, 24}, {"mlp.down_proj", 24, 1}},
         "\".*u{1,2}p_proj\""},
        {FAMILY("llama"),
         IA3(", \"target_modules\": \".*mlp.*\", \"feedforward_modules\": [\"n_proj\", \"e_proj\"]"),
         {{"mlp.down_proj", 1, 40}, {"mlp.gate_proj", 1, 24}, {"mlp.up_proj", 40, 1}},
         "[\"n_proj\",\"e_proj\"]"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        tn_model *model = create_model(choices[i].family, 2);
        const char *layer = strstr(choices[i].family, "gpt2") ? "transformer.h.0." : "model.layers.0.";
        char name[128];
        assert_ok(attach(model, choices[i].config, &model->adapter));
        for (int k = 0; k < 3 && choices[i].wanted[k].module; k++) {
            snprintf(name, sizeof name, "%s%s.ia3_l", layer, choices[i].wanted[k].module);
            const tn_param *l = tn_params_find(&model->adapter->params, name);
            if (!l)
                fail_msg("%s: no %s", choices[i].config, name);
            assert_int_equal(l->weight->tensor.shape[0], choices[i].wanted[k].rows);
            assert_int_equal(l->weight->tensor.shape[1], choices[i].wanted[k].cols);
            for (int64_t j = 0; j < l->count; j++)
                assert_true(((const float *)l->weight->tensor.data)[j] == 1);
        }
        assert_ok(tn_model_save_adapter(model, temporary("choice")));
        assert_same_keys(temporary("choice/adapter_config.json"), GOLDEN "ia3_bias/adapter/adapter_config.json");
        cJSON *json;
        assert_ok(tn_json_read(temporary("choice/adapter_config.json"), 1 << 20, &json));
        char *printed = cJSON_PrintUnformatted(tn_json_get(json, "feedforward_modules"));
        if (choices[i].printed)
            assert_string_equal(printed, choices[i].printed);
        cJSON_free(printed);
        cJSON_Delete(json);
        tn_params *params = &model->adapter->params;
        int64_t total = params->total;
        assert_ok(tn_model_load_adapter(model, temporary("choice"), false, false));
        assert_int_equal(model->adapter->params.total, total);
        tn_model_free(model);
    }
}

static void what_does_not_fit_is_refused(void **state) {
    static const wrong_config wrong[] = {
        {IA3(", \"target_modules\": [\"q_proj\"], \"feedforward_modules\": [\"down_proj\"]"),
         "feedforward_modules: 'down_proj' is not one of the target modules"},
        {IA3(", \"target_modules\": [\"q_proj\"], \"feedforward_modules\": \"(\""),
         "feedforward_modules: bad regular expression"},
        {IA3(", \"target_modules\": [\"embed_tokens\"]"), "'model.embed_tokens' is of a kind that ia3 cannot adapt"},
        {IA3(", \"r\": 4"), "uses 'r'"},
        {IA3(", \"bias\": \"all\""), "PEFT's configuration of ia3 has no bias"},
        {IA3(", \"layers_to_transform\": [0]"), "has no layers_to_transform"},
        {IA3(", \"rank_pattern\": {\"q_proj\": 3}"), "has no rank_pattern"},
        {IA3(", \"target_modules\": [\"k_prok\"]"), "did you mean 'k_proj'?"},
    };
    tn_model *model = create_model(SMALL_LLAMA, 2);
    tn_adapter_options options;
    (void)state;
    assert_refused(model, wrong, sizeof wrong / sizeof *wrong);
    tn_adapter_options_default(&options);
    options.method = "ia3";
    options.rank = 4;
    assert_fails(tn_model_add_adapter(model, &options, 1), TN_ERROR_ARGUMENT, "ia3 makes no use of rank");
    tn_model_free(model);
    model = create_model(FAMILY("llama"), 2);
    model->network->family = "unheard_of";
    tn_adapter *adapter;
    assert_fails(attach(model, IA3(""), &adapter), TN_ERROR_ARGUMENT, "no default targets for a unheard_of model");
    tn_model_free(model);
}

static void random_start_acts(void **state) {
    int64_t count;
    tn_model *model = create_model(SMALL_LLAMA, 2);
    float *base = probe(model, &count);
    (void)state;
    assert_ok(attach(model, IA3(", \"init_ia3_weights\": false"), &model->adapter));
    assert_true(probe_difference(model, base) > 0.01);
    tn_free(base);
    tn_model_free(model);
}

/* Factors of several adapters multiply, be it in the forward pass or in merged weights, and come out again. */
static void several_adapters_multiply(void **state) {
    tn_model *model = create_model(SMALL_LLAMA, 2);
    tn_adapter *second;
    (void)state;
    assert_ok(attach(model, IA3(""), &model->adapter));
    assert_ok(attach(model, IA3(""), &second));
    randomise_adapter(model->adapter, 5, 1);
    randomise_adapter(second, 6, 1);
    assert_ok(tn_adapter_append(model->adapter, second, "second"));
    for (int64_t i = 0; i < second->slot_count; i++) {
        enum { MOST = 40 * 24 };
        const tn_module *module = second->slots[i].module;
        const float *a = model->adapter->params.values + model->adapter->params.entries[i].offset,
                    *b = second->params.values + second->params.entries[i].offset, *w = module->weight.tensor.data;
        const int64_t *shape = module->weight.tensor.shape, *l = second->params.entries[i].weight->tensor.shape;
        float x[40], y[40], merged[MOST];
        bool has_bias;
        tn_fill_normal(x, 40, 1, 1, 0, 1);
        run_linear(module, false, x, 1, y);
        assert_ok(tn_adapter_merged_weight(model->adapter, module, merged, NULL, &has_bias));
        for (int64_t o = 0; o < shape[0]; o++) {
            double sum = 0, of_merged = 0;
            for (int64_t c = 0; c < shape[1]; c++) {
                int64_t at = l[0] == 1 ? c : o;
                sum += (double)w[o * shape[1] + c] * a[at] * b[at] * x[c];
                of_merged += (double)merged[o * shape[1] + c] * x[c];
            }
            assert_true(fabs(sum - y[o]) < 2e-5 && fabs(sum - of_merged) < 2e-5);
        }
    }
    tn_model_free(model);
}

/* With a weight of w factors are 1 + w (l - 1), on all rows or on those of a route, merged or not. */
static void a_share_of_an_adapter_is_a_share_of_its_factors(void **state) {
    enum { MOST = 40 * 24 };
    static const int32_t rows[1] = {1};
    tn_model *model = create_model(SMALL_LLAMA, 2);
    (void)state;
    assert_ok(attach(model, IA3(""), &model->adapter));
    randomise_adapter(model->adapter, 5, 1);
    assert_ok(tn_adapter_set_weight(model->adapter, model->adapter, 0.25f));
    for (int64_t i = 0; i < model->adapter->slot_count; i++) {
        const tn_module *module = model->adapter->slots[i].module;
        const int64_t *shape = module->weight.tensor.shape;
        const float *w = module->weight.tensor.data;
        const tn_tensor *l = &model->adapter->params.entries[i].weight->tensor;
        float x[2 * 40], y[2 * 40], merged[MOST], routed[2 * 40];
        bool has_bias;
        tn_tape tape;
        tn_fill_normal(x, 2 * 40, 1, 1, 0, 1);
        run_linear(module, false, x, 2, y);
        assert_ok(tn_adapter_merged_weight(model->adapter, module, merged, NULL, &has_bias));
        const tn_route route = {.adapter = 0, .weight = 0.25f, .rows = rows, .count = 1};
        const tn_routing routing = {&route, 1};
        assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), 1 << 20));
        tn_forward forward = {.tape = &tape, .routing = &routing};
        tn_var *in = tn_var_new(&tape, 2, shape[1], false);
        memcpy(in->data, x, (size_t)(2 * shape[1]) * sizeof *x);
        memcpy(routed, tn_linear_forward(&forward, module, in)->data, (size_t)(2 * shape[0]) * sizeof *x);
        assert_memory_equal(in->data, x, (size_t)(2 * shape[1]) * sizeof *x);
        assert_ok(tn_tape_status(&tape));
        tn_tape_free(&tape);
        for (int64_t row = 0; row < 2; row++) {
            for (int64_t o = 0; o < shape[0]; o++) {
                double sum = 0, plain = 0, of_merged = 0;
                for (int64_t c = 0; c < shape[1]; c++) {
                    double factor = 1 + 0.25 * (((const float *)l->data)[l->shape[0] == 1 ? c : o] - 1);
                    sum += (double)w[o * shape[1] + c] * factor * x[row * shape[1] + c];
                    plain += (double)w[o * shape[1] + c] * x[row * shape[1] + c];
                    of_merged += (double)merged[o * shape[1] + c] * x[row * shape[1] + c];
                }
                assert_true(fabs(sum - y[row * shape[0] + o]) < 2e-5 && fabs(sum - of_merged) < 2e-5);
                assert_true(fabs((row ? sum : plain) - routed[row * shape[0] + o]) < 2e-5);
            }
        }
    }
    tn_model_free(model);
}

/* A LoRA's update is not scaled by factors on the base's input, but would be in merged weights. */
static void merging_with_other_methods_is_refused(void **state) {
    tn_model *model = create_model(SMALL_LLAMA, 2);
    tn_adapter *lora;
    (void)state;
    assert_ok(attach(model, IA3(""), &model->adapter));
    assert_ok(attach(model, "{\"peft_type\": \"LORA\", \"target_modules\": [\"down_proj\"]}", &lora));
    assert_ok(tn_adapter_append(model->adapter, lora, "lora"));
    assert_fails(tn_model_merge(model, temporary("mixed"), "f32", NULL), TN_ERROR_UNSUPPORTED,
                 "ia3 cannot be merged together with adapters of other methods");
    assert_ok(tn_adapter_set_weight(model->adapter, lora, 0));
    assert_ok(tn_model_merge(model, temporary("mixed"), "f32", NULL));
    tn_model_free(model);
}

static void dividing_restores_the_base_within_what_it_reports(void **state) {
    static const struct {
        const char *dtype;
        double bound;
    } cases[] = {{"f32", 1e-6}, {"bf16", 0.05}, {"f16", 0.005}};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        tn_merge_report report;
        tn_model *model = create_stored_model(FAMILY("qwen2"), 2, "there", cases[i].dtype), *merged, *restored;
        assert_ok(attach(model, IA3(", \"target_modules\": \"all-linear\""), &model->adapter));
        randomise_adapter(model->adapter, 5, 1);
        assert_ok(tn_model_save_adapter(model, temporary("factors")));
        assert_ok(tn_model_merge(model, temporary("merged"), "keep", NULL));
        tn_model_remove_adapter(model);
        assert_ok(tn_model_load(temporary("merged"), &merged));
        assert_true(largest_weight_difference(model, merged) > 0.05);
        assert_ok(tn_model_load_adapter(merged, temporary("factors"), false, false));
        assert_ok(tn_model_unmerge(merged, temporary("back"), "keep", &report));
        assert_int_equal(report.modules, 14);
        assert_true(report.largest_rounding < cases[i].bound);
        assert_ok(tn_model_load(temporary("back"), &restored));
        assert_true(largest_weight_difference(model, restored) <= report.largest_rounding);
        tn_model_free(restored);
        tn_model_free(merged);
        tn_model_free(model);
    }
}

static void a_factor_of_zero_cannot_be_undone(void **state) {
    tn_model *model = create_stored_model(FAMILY("llama"), 2, "zero-base", "f32");
    (void)state;
    assert_ok(attach(model, IA3(""), &model->adapter));
    const tn_param *l = tn_params_find(&model->adapter->params, "model.layers.1.mlp.down_proj.ia3_l");
    ((float *)l->weight->tensor.data)[7] = 0;
    assert_ok(tn_model_merge(model, temporary("zero-merged"), "keep", NULL));
    assert_fails(tn_model_unmerge(model, temporary("zero-back"), "keep", NULL), TN_ERROR_UNSUPPORTED,
                 "ia3_l of 'model.layers.1.mlp.down_proj' is 0 at element 7");
    assert_false(tn_path_exists(temporary("zero-back")));
    tn_model_free(model);
}

/* A factor for each channel, of the outputs or, for feed-forward modules, of the inputs, whatever the groups. */
static void convolutions_are_scaled_by_channels(void **state) {
    static const char config[] = "{\"model_type\": \"sequential\", \"input_shape\": [6, 5, 4], \"layers\": [{\"type\": "
                                 "\"conv2d\", \"name\": \"in\", \"out_channels\": 4, \"kernel_size\": [3, 2], \"groups\": "
                                 "2}, {\"type\": \"tanh\"}, {\"type\": \"conv2d\", \"name\": \"out\", \"out_channels\": 9, "
                                 "\"kernel_size\": 1}, {\"type\": \"flatten\"}, {\"type\": \"linear\", \"name\": \"head\", "
                                 "\"out_features\": 3}]}";
    static const struct {
        const char *name;
        int64_t shape[4];
    } wanted[2] = {{"in.ia3_l", {1, 6, 1, 1}}, {"out.ia3_l", {1, 9, 1, 1}}};
    enum { IN = 4 * 3 * 3 * 2 };
    float merged[IN];
    bool has_bias;
    tn_model *model = create_model(config, 2);
    (void)state;
    assert_ok(
        attach(model, IA3(", \"target_modules\": [\"in\", \"out\"], \"feedforward_modules\": [\"in\"]"), &model->adapter));
    for (int i = 0; i < 2; i++) {
        const tn_param *l = tn_params_find(&model->adapter->params, wanted[i].name);
        assert_non_null(l);
        assert_int_equal(l->weight->tensor.ndim, 4);
        assert_memory_equal(l->weight->tensor.shape, wanted[i].shape, sizeof wanted[i].shape);
    }
    randomise_adapter(model->adapter, 5, 1);
    const tn_module *in = tn_network_module(model->network, "in");
    const float *w = in->weight.tensor.data, *l = model->adapter->params.values;
    assert_ok(tn_adapter_merged_weight(model->adapter, in, merged, NULL, &has_bias));
    for (int i = 0; i < IN; i++) {
        int o = i / 18, channel = i / 6 % 3 + (o < 2 ? 0 : 3);
        assert_true(merged[i] == w[i] * l[channel]);
    }
    assert_ok(tn_model_save_adapter(model, temporary("conv")));
    assert_same_keys(temporary("conv/adapter_config.json"), GOLDEN "conv2d_ia3/adapter/adapter_config.json");
    tn_model_free(model);
    model = create_model(config, 2);
    assert_fails(attach(model, IA3(""), &model->adapter), TN_ERROR_ARGUMENT, "no default targets for a sequential model");
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(feedforward_modules_scale_their_inputs),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(random_start_acts),
        cmocka_unit_test(several_adapters_multiply),
        cmocka_unit_test(a_share_of_an_adapter_is_a_share_of_its_factors),
        cmocka_unit_test(merging_with_other_methods_is_refused),
        cmocka_unit_test(dividing_restores_the_base_within_what_it_reports),
        cmocka_unit_test(a_factor_of_zero_cannot_be_undone),
        cmocka_unit_test(convolutions_are_scaled_by_channels),
    };
    return cmocka_run_group_tests_name("ia3", tests, NULL, remove_temporary);
}
