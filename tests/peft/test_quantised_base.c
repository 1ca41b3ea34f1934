/* What an adapter's configuration can ask for besides its method, on a base whose weights are codes. A model of codes
 * computes as one of the values that they stand for. */
#include <tenon/adapters.h>
#include <tenon/quantize.h>

#include "method_test.h"

static const char biased_llama[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": 40, \"num_hidden_layers\": "
    "2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"max_position_embeddings\": 64, \"initializer_range\": "
    "0.2, "
    "\"attention_bias\": true, \"tie_word_embeddings\": false}";

/* With nested scales. */
static tn_model *quantised(const char *config, const char *modules) {
    const tn_quantize_options form = {.type = "nf4", .double_quant = true, .modules = modules};
    tn_model *model = create_stored_model(config, 5, "base", "f32");
    assert_ok(tn_model_quantize(model, &form, NULL));
    return model;
}

/* The same model, without an adapter, from a checkpoint of the values in f32. */
static tn_model *twin_of(tn_model *model) {
    tn_model *twin;
    assert_ok(tn_session_write_checkpoint(model, temporary("twin"), "f32", 1, NULL));
    assert_ok(tn_model_load(temporary("twin"), &twin));
    return twin;
}

static int64_t count_quantised(const tn_model *model) {
    tn_quantize_summary summary;
    tn_model_describe_quantized(model, &summary);
    return summary.modules;
}

/* --- initialisations --- */

/* Those that change the base do so from its values; the adapter of each but LoftQ starts as the base. */
static void every_initialisation_starts_from_the_values(void **state) {
    (void)state;
    for (const tn_peft_preset *init = tn_lora_inits; init->name; init++) {
        tn_model *model = quantised(SMALL_LLAMA, NULL), *twin = twin_of(model);
        tn_adapter_options options;
        tn_merge_report report;
        int64_t count;
        bool loftq = strcmp(init->name, "loftq") == 0;
        tn_adapter_options_default(&options);
        options.init = init->apply ? "pissa_niter_4" : init->name;
        options.rank = 4;
        options.alpha = 6;
        options.target_modules = "q_proj,down_proj";
        float *base = probe(model, &count);
        assert_true(probe_difference(twin, base) < 1e-5);
        assert_ok(tn_model_add_adapter(model, &options, 3));
        assert_ok(tn_model_add_adapter(twin, &options, 3));
        assert_true((probe_difference(model, base) < 2e-5) == !loftq);
        randomise_adapter(model->adapter, 4, 0.1f);
        randomise_adapter(twin->adapter, 4, 0.1f);
        float *with = probe(model, &count);
        assert_true(probe_difference(model, base) > 1e-3);
        assert_true(loftq || probe_difference(twin, with) < 2e-4);
        assert_ok(tn_model_merge(model, temporary("merged"), "f32", &report));
        assert_true(report.logit_difference < 1e-4);
        assert_ok(tn_model_save_adapter(model, temporary("adapter")));
        assert_ok(tn_model_load_adapter(model, temporary("adapter"), false, false));
        assert_true(probe_difference(model, with) < 1e-4);
        tn_free(base);
        tn_free(with);
        tn_model_free(model);
        tn_model_free(twin);
    }
}

/* --- whole tensors --- */

static void full_fine_tuning_is_refused(void **state) {
    (void)state;
    tn_model *model = quantised(SMALL_LLAMA, "q_proj");
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.method = "full";
    assert_fails(tn_model_add_adapter(model, &options, 1), TN_ERROR_UNSUPPORTED,
                 "'model.layers.0.self_attn.q_proj' is quantised (nf4), and codes cannot be trained");
    tn_model_free(model);
}

/* The adapter on the model, with random values in all that it trains: merged and loaded again it is the same, and the
 * base's own without it. */
static void check_adapter(tn_model *model, const tn_adapter_options *options) {
    tn_model *twin = twin_of(model);
    tn_merge_report report;
    int64_t count, codes = count_quantised(model);
    float *base = probe(model, &count);
    assert_true(codes > 0);
    assert_ok(tn_model_add_adapter(model, options, 3));
    assert_true(probe_difference(model, base) < 1e-5);
    randomise_adapter(model->adapter, 4, 0.1f);
    float *with = probe(model, &count);
    assert_true(probe_difference(model, base) > 1e-3);
    assert_ok(tn_model_merge(model, temporary("merged"), "f32", &report));
    assert_true(report.logit_difference < 1e-4);
    assert_ok(tn_model_save_adapter(model, temporary("adapter")));
    assert_ok(tn_model_load_adapter(model, temporary("adapter"), false, false));
    assert_true(probe_difference(model, with) == 0);
    assert_ok(tn_model_load_adapter(twin, temporary("adapter"), false, false));
    assert_true(probe_difference(twin, with) < 1e-4);
    tn_model_remove_adapter(model);
    assert_true(probe_difference(model, base) == 0);
    assert_int_equal(count_quantised(model), codes);
    tn_free(base);
    tn_free(with);
    tn_model_free(twin);
    tn_model_free(model);
}

static tn_adapter_options lora_on_q(void) {
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.rank = 3;
    options.target_modules = "q_proj";
    return options;
}

static void a_quantised_module_is_trained_in_full_as_a_copy_of_its_values(void **state) {
    (void)state;
    tn_adapter_options options = lora_on_q();
    options.modules_to_save = "down_proj,embed_tokens";
    check_adapter(quantised(SMALL_LLAMA, "q_proj,down_proj,embed_tokens"), &options);
}

static void biases_of_quantised_layers_are_trained(void **state) {
    (void)state;
    tn_adapter_options options = lora_on_q();
    options.bias = "all";
    check_adapter(quantised(biased_llama, NULL), &options);
}

static void rows_of_a_quantised_embedding_are_trained(void **state) {
    (void)state;
    tn_adapter_options options = lora_on_q();
    options.token_indices = "0,1,5,7,11,36";
    check_adapter(quantised(SMALL_LLAMA, "q_proj,embed_tokens"), &options);
}

static void layers_of_codes_are_stacked(void **state) {
    (void)state;
    tn_model *model = quantised(SMALL_LLAMA, NULL), *twin = twin_of(model);
    tn_model *const both[] = {model, twin};
    int64_t count;
    float *base = probe(model, &count);
    for (int i = 0; i < 2; i++) {
        tn_adapter *adapter;
        assert_ok(attach(both[i],
                         "{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": [\"q_proj\"], \"layer_replication\": "
                         "[[0, 2], [0, 2]]}",
                         &adapter));
        randomise_adapter(adapter, 4, 0.2f);
        both[i]->adapter = adapter;
    }
    float *with = probe(model, &count);
    assert_true(probe_difference(model, base) > 1e-2);
    assert_true(probe_difference(twin, with) < 1e-4);
    tn_model_remove_adapter(model);
    assert_true(probe_difference(model, base) == 0);
    tn_free(base);
    tn_free(with);
    tn_model_free(model);
    tn_model_free(twin);
}

/* --- QDoRA --- */

/* The magnitudes start as the norms of what the codes stand for, and the update is over norms of those. */
static void magnitudes_are_norms_of_the_values(void **state) {
    (void)state;
    tn_model *model = quantised(SMALL_LLAMA, NULL);
    tn_adapter_options options = lora_on_q();
    float values[24 * 24];
    options.method = "dora";
    assert_ok(tn_model_add_adapter(model, &options, 3));
    const tn_adapter_slot *s = &model->adapter->slots[0];
    const tn_lora_slot *slot = (const tn_lora_slot *)s->slot;
    assert_int_equal(s->module->weight.tensor.dtype, TN_DTYPE_QUANTISED);
    assert_true(((const tn_quantised *)s->module->weight.tensor.data)->params.nested_block > 0);
    tn_weight_read(&s->module->weight, values);
    for (int o = 0; o < 24; o++) {
        double square = 0;
        for (int i = 0; i < 24; i++)
            square += (double)values[o * 24 + i] * values[o * 24 + i];
        assert_true(fabs(((const float *)slot->magnitude.tensor.data)[o] - sqrt(square)) < 1e-6);
    }
    tn_model_remove_adapter(model);
    check_adapter(model, &options);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_initialisation_starts_from_the_values),
        cmocka_unit_test(full_fine_tuning_is_refused),
        cmocka_unit_test(a_quantised_module_is_trained_in_full_as_a_copy_of_its_values),
        cmocka_unit_test(biases_of_quantised_layers_are_trained),
        cmocka_unit_test(rows_of_a_quantised_embedding_are_trained),
        cmocka_unit_test(layers_of_codes_are_stacked),
        cmocka_unit_test(magnitudes_are_norms_of_the_values),
    };
    return cmocka_run_group_tests_name("quantised_base", tests, NULL, remove_temporary);
}
