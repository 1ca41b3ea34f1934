/* Variants of LoRA and several adapters on one model: what does not fit is refused, names choose, and a step of training
 * changes what it should. That they compute what PEFT computes is for the golden cases. */
#include "support/support.h"

#define GOLDEN TENON_SOURCE_ROOT "/tests/golden/"
#define LLAMA                                                                                                               \
    "{\"model_type\": \"llama\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": 40, "                      \
    "\"num_hidden_layers\": 2, "                                                                                            \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"initializer_range\": 0.2, \"tie_word_embeddings\": true}"

/* Puts an adapter of this configuration on the model. */
static tn_status attach(tn_model *model, const char *members, tn_adapter **out) {
    char text[512];
    tn_peft_config config;
    snprintf(text, sizeof text, "{\"peft_type\": \"LORA\", %s}", members);
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    tn_status status = tn_peft_config_parse(json, "here", &config);
    cJSON_Delete(json);
    assert_ok(status);
    return tn_adapter_create(model->network, &tn_lora, &config, true, 1, out);
}

static void what_does_not_fit_is_refused(void **state) {
    static const struct {
        const char *members, *words;
    } wrong[] = {
        {"\"r\": 12, \"kasa_config\": {}, \"target_modules\": [\"v_proj\"]", "needs a rank below 12"},
        {"\"kasa_config\": {}, \"use_bdlora\": {\"nblocks\": 2}, \"target_modules\": [\"q_proj\"]", "no use_bdlora"},
        {"\"kasa_config\": {}, \"lora_bias\": true, \"target_modules\": [\"q_proj\"]", "do not go with lora_bias"},
        {"\"kasa_config\": {}, \"init_lora_weights\": \"pissa\", \"target_modules\": [\"q_proj\"]", "pissa"},
        {"\"kasa_config\": {}, \"target_modules\": [\"embed_tokens\"]", "'model.embed_tokens': kasa_config"},
        {"\"alora_invocation_tokens\": [3], \"target_modules\": [\"lm_head\"]", "'lm_head': kasa_config"},
        {"\"use_dora\": true, \"lora_bias\": true, \"target_modules\": [\"q_proj\"]", "use_dora does not go with"},
        {"\"use_dora\": true, \"init_lora_weights\": \"olora\", \"target_modules\": [\"q_proj\"]", "olora"},
        {"\"use_dora\": true, \"kasa_config\": {}, \"target_modules\": [\"q_proj\"]", "use_dora does not go with"},
        {"\"alora_invocation_tokens\": [37], \"target_modules\": [\"q_proj\"]", "37 is outside the vocabulary"},
        {"\"use_bdlora\": {\"nblocks\": 2}, \"target_modules\": [\"q_proj\"]", "is in neither target_modules_bd_a"},
        {"\"r\": 4, \"use_bdlora\": {\"nblocks\": 3, \"target_modules_bd_a\": [\"q_proj\"]}, \"target_modules\": "
         "[\"q_proj\"]",
         "the input width of 'model.layers.0.self_attn.q_proj' (24) and its rank (4) must be multiples of nblocks 3"},
        {"\"r\": 7, \"use_bdlora\": {\"nblocks\": 7, \"target_modules_bd_b\": [\"q_proj\"]}, \"target_modules\": "
         "[\"q_proj\"]",
         "the output width"},
    };
    tn_adapter *adapter;
    tn_model *model = create_model(LLAMA, 2);
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tn_status status = attach(model, wrong[i].members, &adapter);
        if (status == TN_OK || !strstr(tn_error_message(), wrong[i].words))
            fail_msg("%s: %s", wrong[i].members, status == TN_OK ? "accepted" : tn_error_message());
    }
    /* without match_strict what is in neither list is plain */
    assert_ok(attach(model, "\"use_bdlora\": {\"match_strict\": false}, \"target_modules\": [\"q_proj\"]", &adapter));
    assert_true(tn_lora_is_plain((const tn_lora_slot *)adapter->slots[0].slot));
    tn_adapter_free(adapter);
    tn_model_free(model);
}

static void invocation_is_the_last_occurrence(void **state) {
    int32_t tokens[2] = {4, 5};
    const tn_peft_config config = {.invocation_tokens = tokens, .invocation_count = 2};
    const int32_t ids[9] = {4, 5, 1, 4, 4, 5, 2, 5, 4};
    bool invoked[9];
    (void)state;
    tn_lora_mark_invoked(&config, ids, 9, invoked);
    for (int i = 0; i < 9; i++)
        assert_int_equal(invoked[i], i >= 4);
    tn_lora_mark_invoked(&config, ids + 6, 3, invoked);
    for (int i = 0; i < 3; i++)
        assert_false(invoked[i]);
    tn_lora_mark_invoked(&config, ids, 1, invoked);
    assert_false(invoked[0]);
}

/* The probe's prompt holds the invocation tokens, so that the proof sees the adapter act. */
static void the_probe_invokes_the_adapter(void **state) {
    tn_adapter_info info;
    tn_model *model;
    (void)state;
    assert_ok(tn_model_load(GOLDEN "lora_alora/base", &model));
    assert_ok(tn_model_load_adapter(model, GOLDEN "lora_alora/adapter", false, false));
    assert_ok(tn_model_describe_adapter(model, &info));
    assert_true(info.logit_difference > 0.01);
    tn_model_free(model);
}

static void names_choose_among_several_adapters(void **state) {
    const char *dir = GOLDEN "lora_mixed_two_adapters/adapter";
    static const struct {
        const char *name;
        int64_t adapters, modules, parameters;
    } wanted[] = {{NULL, 2, 6, 1312}, {"default", 1, 4, 896}, {"other", 1, 4, 416}};
    tn_adapter_info info;
    tn_model *model;
    double differences[3];
    (void)state;
    assert_ok(tn_model_load(GOLDEN "lora_mixed_two_adapters/base", &model));
    for (int i = 0; i < 3; i++) {
        assert_ok(tn_model_load_named_adapter(model, dir, wanted[i].name, false, false));
        assert_ok(tn_model_describe_adapter(model, &info));
        assert_int_equal(info.adapters, wanted[i].adapters);
        assert_int_equal(info.modules, wanted[i].modules);
        assert_int_equal(info.parameters, wanted[i].parameters);
        differences[i] = info.change_norm;
    }
    assert_true(differences[0] > differences[1] && differences[0] > differences[2]);
    assert_fails(tn_model_load_named_adapter(model, dir, "third", false, false), TN_ERROR_IO,
                 "adapter/third is not a folder");
    tn_model_free(model);
}

/* What is saved beside another adapter would be read along with it. */
static void adapters_are_not_saved_beside_others(void **state) {
    tn_model *model;
    (void)state;
    assert_ok(tn_model_load(GOLDEN "lora_mixed_two_adapters/base", &model));
    assert_ok(tn_model_load_adapter(model, GOLDEN "lora_mixed_two_adapters/adapter", false, false));
    assert_ok(tn_model_save_adapter(model, temporary("several")));
    assert_ok(tn_model_save_adapter(model, temporary("several")));
    assert_ok(tn_model_load_named_adapter(model, temporary("several"), "default", false, false));
    assert_fails(tn_model_save_adapter(model, temporary("several")), TN_ERROR_ARGUMENT, "holds another adapter, 'other'");
    /* the folder of a run is no adapter saved along */
    assert_ok(tn_file_write(temporary("several/other/metrics.jsonl"), "\n", 1));
    assert_ok(tn_model_save_adapter(model, temporary("several")));
    assert_ok(tn_model_load_adapter(model, temporary("several"), false, false));
    assert_null(model->adapter->next);
    tn_model_free(model);
}

static void adapters_that_replace_the_same_tensor_do_not_go_together(void **state) {
    static const char *const members[] = {
        "\"target_modules\": [\"q_proj\"], \"modules_to_save\": [\"down_proj\"]",
        "\"target_modules\": [\"v_proj\"], \"modules_to_save\": [\"down_proj\"]",
        "\"target_modules\": [\"v_proj\"], \"modules_to_save\": [\"up_proj\"]",
        "\"target_modules\": [\"v_proj\"], \"alora_invocation_tokens\": [1]",
    };
    tn_adapter *first, *second;
    tn_model *model = create_model(LLAMA, 2);
    const void *original = tn_network_module(model->network, "model.layers.0.mlp.down_proj")->weight.tensor.data;
    (void)state;
    assert_ok(attach(model, members[0], &first));
    assert_ok(attach(model, members[1], &second));
    assert_fails(tn_adapter_append(first, second, "b"), TN_ERROR_ARGUMENT,
                 "two adapters replace the weight of 'model.layers.0.mlp.down_proj'");
    assert_ok(attach(model, members[3], &second));
    assert_fails(tn_adapter_append(first, second, "b"), TN_ERROR_UNSUPPORTED, "alora_invocation_tokens");
    assert_ok(attach(model, members[2], &second));
    assert_ok(tn_adapter_append(first, second, "b"));
    tn_adapter_free(first);
    assert_ptr_equal(tn_network_module(model->network, "model.layers.0.mlp.down_proj")->weight.tensor.data, original);
    assert_null(tn_network_module(model->network, "model.layers.0.self_attn.v_proj")->slots);
    tn_model_free(model);
}

/* --- DoRA --- */

#define BIASED                                                                                                              \
    "{\"model_type\": \"llama\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": 40, "                      \
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"initializer_range\": 0.2, "        \
    "\"attention_bias\": true, \"tie_word_embeddings\": true}"

/* The module's output for fixed inputs, [5, 24]. */
static void run_module(const tn_module *module, bool training, float out[5 * 24]) {
    tn_tape tape;
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), 1 << 20));
    tn_forward forward = {.tape = &tape, .training = training, .dropout_seed = 3};
    tn_var *x = tn_var_new(&tape, 5, 24, false);
    tn_fill_normal(x->data, 5 * 24, 4, 4, 0, 1);
    tn_var *y = tn_linear_forward(&forward, module, x);
    assert_ok(tn_tape_status(&tape));
    memcpy(out, y->data, 5 * 24 * sizeof *out);
    tn_tape_free(&tape);
}

/* The sums of the dropout path are others, but with next to nothing dropped they come to the same. */
static void dora_with_dropout_is_dora_where_nothing_is_dropped(void **state) {
    float without[5 * 24], with[5 * 24];
    tn_adapter *adapter;
    tn_model *model = create_model(BIASED, 2);
    (void)state;
    assert_ok(
        attach(model, "\"r\": 4, \"use_dora\": true, \"lora_dropout\": 1e-30, \"target_modules\": [\"q_proj\"]", &adapter));
    randomise_adapter(adapter, 5, 0.5f);
    const tn_module *module = tn_network_module(model->network, "model.layers.0.self_attn.q_proj");
    run_module(module, false, without);
    run_module(module, true, with);
    assert_true(largest_difference(with, without, 5 * 24) < 1e-5);
    ((tn_lora_slot *)adapter->slots[0].slot)->dropout = 0.5f;
    run_module(module, true, with);
    assert_true(largest_difference(with, without, 5 * 24) > 0.01);
    tn_adapter_free(adapter);
    tn_model_free(model);
}

/* A fresh one changes nothing; and a row of zeros, which has no direction, stays zero. */
static void fresh_dora_changes_nothing(void **state) {
    float before[5 * 24], after[5 * 24], weight[24 * 24];
    bool has_bias;
    tn_adapter *adapter;
    tn_model *model = create_model(BIASED, 2);
    tn_module *module = tn_network_module(model->network, "model.layers.0.self_attn.q_proj");
    (void)state;
    memset(module->weight.tensor.data, 0, 24 * sizeof(float));
    run_module(module, false, before);
    assert_ok(attach(model, "\"r\": 4, \"use_dora\": true, \"target_modules\": [\"q_proj\"]", &adapter));
    run_module(module, false, after);
    assert_true(largest_difference(after, before, 5 * 24) < 1e-5);
    assert_ok(tn_adapter_merged_weight(adapter, module, weight, NULL, &has_bias));
    assert_true(largest_difference(weight, module->weight.tensor.data, 24 * 24) < 1e-6);
    tn_adapter_free(adapter);
    tn_model_free(model);
}

/* Away from 0, by which nothing can be divided back. */
static void raise_magnitudes(tn_adapter *adapter) {
    for (int64_t i = 0; i < adapter->params.count; i++) {
        const tn_param *param = &adapter->params.entries[i];
        for (int64_t j = 0; j < param->count && strstr(param->name, "magnitude"); j++)
            adapter->params.values[param->offset + j] = 0.5f + fabsf(adapter->params.values[param->offset + j]);
    }
}

/* Linear layers with and without a bias, a tied embedding; merged with and without rounding. */
static void merged_dora_is_taken_out_again_by_its_norms(void **state) {
    static const char *const dtypes[] = {"f32", "bf16"};
    tn_adapter_options options;
    tn_merge_report report;
    tn_model *model, *merged, *restored;
    (void)state;
    for (int i = 0; i < 2; i++) {
        model = create_stored_model(BIASED, 2, "dora-base", dtypes[i]);
        tn_adapter_options_default(&options);
        options.method = "dora";
        options.rank = 4;
        options.target_modules = "q_proj,down_proj,embed_tokens";
        assert_ok(tn_model_add_adapter(model, &options, 1));
        randomise_adapter(model->adapter, 5, 0.4f);
        raise_magnitudes(model->adapter);
        assert_ok(tn_model_save_adapter(model, temporary("dora-adapter")));
        assert_ok(tn_model_merge(model, temporary("dora-merged"), "keep", NULL));
        tn_model_remove_adapter(model);
        assert_ok(tn_model_load(temporary("dora-merged"), &merged));
        assert_true(largest_weight_difference(model, merged) > 0.1);
        assert_ok(tn_model_load_adapter(merged, temporary("dora-adapter"), false, true));
        assert_ok(tn_model_unmerge(merged, temporary("dora-back"), "keep", &report));
        assert_ok(tn_model_load(temporary("dora-back"), &restored));
        assert_true(largest_weight_difference(model, restored) <= report.largest_rounding);
        assert_true(report.largest_rounding < (i ? 0.3 : 1e-5));
        tn_model_free(restored);
        tn_model_free(merged);
        tn_model_free(model);
    }
}

static void dora_is_not_taken_out_of_anything_else(void **state) {
    tn_adapter_options options;
    tn_model *model = create_stored_model(BIASED, 2, "dora-base", "f32"), *merged;
    char norms[512];
    (void)state;
    tn_adapter_options_default(&options);
    options.method = "dora";
    assert_ok(tn_model_add_adapter(model, &options, 1));
    randomise_adapter(model->adapter, 5, 0.4f);
    assert_ok(tn_model_merge(model, temporary("dora-merged"), "f32", NULL));
    assert_ok(tn_model_save_adapter(model, temporary("dora-adapter")));
    ((float *)tn_params_find(&model->adapter->params, "model.layers.0.self_attn.q_proj.lora_magnitude_vector")
         ->weight->tensor.data)[3] = 0;
    assert_ok(tn_model_save_adapter(model, temporary("dora-zero")));
    tn_model_free(model);
    assert_ok(tn_model_load(temporary("dora-merged"), &merged));
    assert_ok(tn_model_load_adapter(merged, temporary("dora-zero"), false, false));
    assert_fails(tn_model_unmerge(merged, temporary("never"), "f32", NULL), TN_ERROR_UNSUPPORTED, "0 at element 3");
    randomise_adapter(merged->adapter, 6, 0.4f);
    assert_fails(tn_model_unmerge(merged, temporary("never"), "f32", NULL), TN_ERROR_MISMATCH, "not hold this adapter");
    assert_ok(tn_model_load_adapter(merged, temporary("dora-adapter"), false, false));
    snprintf(norms, sizeof norms, "%s", temporary("dora-merged/merged_norms.safetensors"));
    assert_ok(tn_path_remove_tree(norms));
    assert_fails(tn_model_unmerge(merged, temporary("never"), "f32", NULL), TN_ERROR_UNSUPPORTED, "merged_norms");
    assert_false(tn_path_exists(temporary("never")));
    tn_model_free(merged);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(invocation_is_the_last_occurrence),
        cmocka_unit_test(the_probe_invokes_the_adapter),
        cmocka_unit_test(names_choose_among_several_adapters),
        cmocka_unit_test(adapters_are_not_saved_beside_others),
        cmocka_unit_test(adapters_that_replace_the_same_tensor_do_not_go_together),
        cmocka_unit_test(dora_with_dropout_is_dora_where_nothing_is_dropped),
        cmocka_unit_test(fresh_dora_changes_nothing),
        cmocka_unit_test(merged_dora_is_taken_out_again_by_its_norms),
        cmocka_unit_test(dora_is_not_taken_out_of_anything_else),
    };
    return cmocka_run_group_tests_name("variants", tests, NULL, remove_temporary);
}
