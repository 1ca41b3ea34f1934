/* LoftQ: what the base becomes, what the adapter starts as, and that the base is itself again without it. */
#include <tenon/adapters.h>
#include <tenon/quantize.h>

#include "method_test.h"

enum { MOST = 40 * 72 };

static tn_adapter_options loftq(int64_t rank, int64_t bits, int64_t iterations) {
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.init = "loftq";
    options.target_modules = "all-linear";
    options.rank = rank;
    options.alpha = (double)rank;
    options.loftq_bits = bits;
    options.loftq_iterations = iterations;
    return options;
}

static tn_model *with_loftq(tn_model *model, const tn_adapter_options *options) {
    assert_ok(tn_model_add_adapter(model, options, 1));
    return model;
}

/* The distance of Q, and of Q + B A, from the weights of another model, over all slots. */
static void distances(const tn_model *model, const tn_model *original, double *quantised, double *adapted) {
    static float w[MOST], q[MOST], merged[MOST];
    double squares[2] = {0, 0};
    const tn_adapter *adapter = model->adapter;
    assert_true(adapter->slot_count > 0);
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_module *module = adapter->slots[i].module;
        int64_t count = tn_tensor_count(&module->weight.tensor);
        bool has_bias;
        assert_true(count <= MOST);
        assert_int_equal(module->weight.tensor.dtype, TN_DTYPE_QUANTISED);
        tn_tensor_read(w, &tn_network_module(original->network, module->name)->weight.tensor, 0, count);
        tn_tensor_read(q, &module->weight.tensor, 0, count);
        assert_ok(tn_adapter_merged_weight(adapter, module, merged, NULL, &has_bias));
        for (int64_t j = 0; j < count; j++) {
            squares[0] += (double)(w[j] - q[j]) * (w[j] - q[j]);
            squares[1] += (double)(w[j] - merged[j]) * (w[j] - merged[j]);
        }
    }
    *quantised = sqrt(squares[0]);
    *adapted = sqrt(squares[1]);
}

static void the_adapter_makes_up_for_what_quantising_loses(void **state) {
    (void)state;
    static const char *const configs[] = {SMALL_LLAMA, SMALL_GPT2};
    for (size_t c = 0; c < 2; c++) {
        tn_model *original = create_model(configs[c], 5);
        double plain, adapted, before = INFINITY;
        for (int64_t iterations = 1; iterations <= 4; iterations++) {
            tn_adapter_options options = loftq(8, 4, iterations);
            tn_model *model = with_loftq(create_model(configs[c], 5), &options);
            distances(model, original, &plain, &adapted);
            assert_true(adapted < 0.7 * plain);
            assert_true(iterations > 2 || adapted < before);
            before = adapted;
            tn_model_free(model);
        }
        /* of full rank, what is left is the error of the sum */
        tn_adapter_options options = loftq(24, 4, 1);
        options.target_modules = c == 0 ? "q_proj,down_proj" : "c_attn,c_fc";
        tn_model *model = with_loftq(create_model(configs[c], 5), &options);
        distances(model, original, &plain, &adapted);
        assert_true(plain > 0.01 && adapted < 1e-4);
        tn_model_free(model);
        tn_model_free(original);
    }
}

static void eight_bits_are_nearer_than_four(void **state) {
    (void)state;
    tn_model *original = create_model(SMALL_LLAMA, 5);
    double plain[2], adapted[2];
    for (int i = 0; i < 2; i++) {
        tn_adapter_options options = loftq(4, 4 + 4 * i, 1);
        tn_model *model = with_loftq(create_model(SMALL_LLAMA, 5), &options);
        const tn_quantised *array = model->adapter->slots[0].module->weight.tensor.data;
        assert_string_equal(array->codec->name, i ? "nf8" : "nf4");
        assert_int_equal(array->block, 64);
        distances(model, original, &plain[i], &adapted[i]);
        tn_model_free(model);
    }
    assert_true(plain[1] < 0.1 * plain[0] && adapted[1] < 0.1 * adapted[0] && plain[1] > 0);
    tn_model_free(original);
}

/* Without its adapter a model holds what it held before, to the byte; embeddings are never touched. */
static void the_base_is_itself_without_the_adapter(void **state) {
    (void)state;
    tn_model *model = create_model(SMALL_LLAMA, 5);
    tn_adapter_options options = loftq(4, 0, 2);
    int64_t count;
    float *base = probe(model, &count);
    size_t used = tn_memory_used();
    options.target_modules = "q_proj,down_proj,embed_tokens";
    with_loftq(model, &options);
    assert_int_equal(model->network->embedding->weight.tensor.dtype, TN_DTYPE_F32);
    assert_int_equal(tn_network_module(model->network, "model.layers.0.self_attn.k_proj")->weight.tensor.dtype,
                     TN_DTYPE_F32);
    assert_true(probe_difference(model, base) > 1e-3);
    tn_model_enable_adapter(model, false);
    assert_true(probe_difference(model, base) == 0);
    tn_model_enable_adapter(model, true);
    assert_true(probe_difference(model, base) > 1e-3);
    tn_model_remove_adapter(model);
    assert_true(probe_difference(model, base) == 0);
    assert_int_equal(tn_memory_used(), used);
    tn_free(base);
    tn_model_free(model);
}

static void assert_same_factors(const tn_adapter *a, const tn_adapter *b) {
    assert_int_equal(a->params.total, b->params.total);
    assert_memory_equal(a->params.values, b->params.values, (size_t)a->params.total * sizeof(float));
}

/* The weights as they were are read from the checkpoint again; one step of LoftQ leaves the codes that are there. */
static void a_base_quantised_on_loading_is_started_from_its_checkpoint(void **state) {
    (void)state;
    const tn_quantize_options nf4 = {0};
    for (int64_t iterations = 1; iterations <= 2; iterations++) {
        tn_model *plain = create_stored_model(SMALL_LLAMA, 5, "base", "bf16"), *quantised;
        tn_adapter_options options = loftq(4, 0, iterations);
        int64_t count;
        with_loftq(plain, &options);
        assert_ok(tn_model_load(temporary("base"), &quantised));
        assert_ok(tn_model_quantize(quantised, &nf4, NULL));
        float *base = probe(quantised, &count), *logits = probe(plain, &count);
        with_loftq(quantised, &options);
        assert_same_factors(plain->adapter, quantised->adapter);
        assert_true(probe_difference(quantised, logits) == 0);
        assert_int_equal(quantised->adapter->replaced_count, iterations == 1 ? 0 : quantised->adapter->slot_count);
        tn_model_remove_adapter(quantised);
        assert_true(probe_difference(quantised, base) == 0);
        tn_free(base);
        tn_free(logits);
        tn_model_free(plain);
        tn_model_free(quantised);
    }
}

static void a_checkpoint_of_codes_alone_is_refused(void **state) {
    (void)state;
    const tn_quantize_options nf4 = {0};
    tn_adapter_options options = loftq(4, 0, 1);
    tn_model *model = create_stored_model(SMALL_LLAMA, 5, "base", "f32"), *loaded;
    assert_ok(tn_model_quantize(model, &nf4, NULL));
    assert_ok(tn_model_save_quantized(model, temporary("codes")));
    assert_ok(tn_model_load(temporary("codes"), &loaded));
    assert_fails(tn_model_add_adapter(loaded, &options, 1), TN_ERROR_UNSUPPORTED,
                 "holds 'model.layers.0.self_attn.q_proj' in a quantised form only");
    tn_model_free(loaded);
    tn_model_free(model);
}

/* The initialisation runs again on the base, as in PEFT. */
static void saved_and_loaded_it_is_the_same(void **state) {
    (void)state;
    tn_model *model = create_stored_model(SMALL_LLAMA, 5, "base", "f16");
    tn_adapter_options options = loftq(4, 8, 3);
    int64_t count;
    cJSON *json;
    with_loftq(model, &options);
    randomise_adapter(model->adapter, 4, 0.1f);
    float *logits = probe(model, &count);
    assert_ok(tn_model_save_adapter(model, temporary("adapter")));
    assert_ok(tn_json_read(temporary("adapter/adapter_config.json"), 1 << 20, &json));
    const cJSON *config = tn_json_get(json, "loftq_config");
    assert_string_equal(tn_json_get(json, "init_lora_weights")->valuestring, "loftq");
    assert_true(tn_json_get(config, "loftq_bits")->valuedouble == 8 && tn_json_get(config, "loftq_iter")->valuedouble == 3);
    cJSON_Delete(json);
    assert_ok(tn_model_load_adapter(model, temporary("adapter"), false, false));
    assert_true(probe_difference(model, logits) == 0);
    assert_ok(tn_model_continue_adapter(model, temporary("adapter"), "lora"));
    assert_true(probe_difference(model, logits) == 0);
    tn_free(logits);
    tn_model_free(model);
}

/* Q + s B A in the base's type, in the base's file; the base cannot be had back from it. */
static void merging_is_from_the_quantised_weights(void **state) {
    (void)state;
    tn_model *model = create_stored_model(SMALL_LLAMA, 5, "base", "f32"), *merged;
    tn_adapter_options options = loftq(4, 0, 1);
    tn_merge_report report;
    int64_t count;
    with_loftq(model, &options);
    randomise_adapter(model->adapter, 4, 0.1f);
    float *logits = probe(model, &count);
    assert_ok(tn_model_merge(model, temporary("merged"), "keep", &report));
    assert_int_equal(report.modules, model->adapter->slot_count);
    assert_ok(tn_model_load(temporary("merged"), &merged));
    assert_true(probe_difference(merged, logits) < 1e-4);
    assert_ok(tn_model_save_adapter(model, temporary("adapter")));
    assert_ok(tn_model_load_adapter(merged, temporary("adapter"), false, false));
    assert_fails(tn_model_unmerge(merged, temporary("back"), "keep", &report), TN_ERROR_UNSUPPORTED,
                 "put quantised weights in the place of the base's");
    tn_free(logits);
    tn_model_free(merged);
    tn_model_free(model);
}

/* These adapters and no others. */
static tn_status use(tn_model *model, const char *a, const char *b, double weight_of_b) {
    const char *names[] = {a, b};
    const double weights[] = {1, weight_of_b};
    return tn_model_use_adapters(model, &(tn_adapter_mix){names, weights, b ? 2 : 1});
}

static void only_one_of_two_can_act(void **state) {
    (void)state;
    tn_model *model = create_stored_model(SMALL_LLAMA, 5, "base", "f32");
    tn_adapter_options options = loftq(4, 0, 1);
    int64_t count;
    float *base = probe(model, &count);
    with_loftq(model, &options);
    assert_ok(tn_model_save_adapter(model, temporary("one")));
    options.init = "kaiming";
    options.loftq_iterations = 0;
    assert_ok(tn_model_add_adapter(model, &options, 3));
    randomise_adapter(model->adapter, 4, 0.1f);
    assert_ok(tn_model_save_adapter(model, temporary("plain")));
    tn_model_remove_adapter(model);
    assert_ok(tn_model_attach_adapter(model, temporary("one"), "one"));
    assert_ok(tn_model_attach_adapter(model, temporary("one"), "two"));
    assert_ok(tn_model_attach_adapter(model, temporary("plain"), "plain"));
    assert_ok(use(model, "one", NULL, 0));
    float *one = probe(model, &count);
    assert_fails(use(model, "one", "two", 1), TN_ERROR_ARGUMENT, "two adapters replace the weight");
    assert_ok(use(model, "one", "plain", 0.5));
    assert_true(probe_difference(model, one) > 1e-3);
    assert_ok(use(model, "plain", NULL, 0));
    assert_true(probe_difference(model, base) > 1e-3);
    assert_ok(use(model, "two", NULL, 0));
    assert_true(probe_difference(model, one) == 0);
    assert_ok(tn_model_reload_adapter(model, "two"));
    assert_ok(tn_model_detach_adapter(model, "one"));
    assert_true(probe_difference(model, one) == 0);
    assert_ok(tn_model_detach_adapter(model, "two"));
    assert_true(probe_difference(model, base) == 0);
    tn_free(base);
    tn_free(one);
    tn_model_free(model);
}

#define CONFIG(more) "{\"peft_type\": \"LORA\", \"r\": 4, \"init_lora_weights\": \"loftq\"" more "}"

static void what_does_not_go_together_is_refused(void **state) {
    (void)state;
    static const wrong_config wrong[] = {
        {CONFIG(", \"loftq_config\": {\"loftq_bits\": 2}"), "loftq_bits 2 is not supported; choose 4 or 8"},
        {CONFIG(", \"loftq_config\": {\"loftq_iter\": 0}"), "loftq_iter"},
        {CONFIG(", \"loftq_config\": [1]"), "'loftq_config' must be an object"},
        {CONFIG(", \"use_dora\": true"), "init_lora_weights loftq"},
        {CONFIG(", \"lora_alpha\": 4, \"use_bdlora\": {\"nblocks\": 2}"), "init_lora_weights loftq"},
        {CONFIG(", \"target_modules\": [\"lm_head\"]"), "'lm_head' shares its weight with 'transformer.wte'"},
        {"{\"peft_type\": \"LORA\", \"r\": 4, \"loftq_config\": {\"loftq_bits\": 4}}", "is for init_lora_weights loftq"},
    };
    tn_model *model = create_model(SMALL_GPT2, 5);
    tn_adapter_options options = loftq(2, 4, 1);
    tn_adapter *adapter;
    assert_refused(model, wrong, sizeof wrong / sizeof *wrong);
    assert_ok(attach(model, CONFIG(""), &adapter));
    tn_adapter_free(adapter);
    options.loftq_iterations = 2000;
    assert_fails(tn_model_add_adapter(model, &options, 1), TN_ERROR_ARGUMENT, "2000 iterations of LoftQ");
    options = loftq(2, 4, 1);
    options.init = "kaiming";
    assert_fails(tn_model_add_adapter(model, &options, 1), TN_ERROR_ARGUMENT, "is for init_lora_weights loftq");
    options.method = "ia3";
    options.rank = 0;
    options.alpha = 0;
    assert_fails(tn_model_add_adapter(model, &options, 1), TN_ERROR_ARGUMENT, "no use of loftq-bits");
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_adapter_makes_up_for_what_quantising_loses),
        cmocka_unit_test(eight_bits_are_nearer_than_four),
        cmocka_unit_test(the_base_is_itself_without_the_adapter),
        cmocka_unit_test(a_base_quantised_on_loading_is_started_from_its_checkpoint),
        cmocka_unit_test(a_checkpoint_of_codes_alone_is_refused),
        cmocka_unit_test(saved_and_loaded_it_is_the_same),
        cmocka_unit_test(merging_is_from_the_quantised_weights),
        cmocka_unit_test(only_one_of_two_can_act),
        cmocka_unit_test(what_does_not_go_together_is_refused),
    };
    return cmocka_run_group_tests_name("loftq", tests, NULL, remove_temporary);
}
