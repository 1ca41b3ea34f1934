/* Which modules a configuration selects: PEFT's rules, and the words for what matches nothing. */
#include "support/support.h"

static tn_model *model;

static int open_model(void **state) {
    (void)state;
    model = create_model(SMALL_LLAMA, 1);
    return 0;
}

static int close_model(void **state) {
    tn_model_free(model);
    return remove_temporary(state);
}

/* adapter_config.json with these members besides peft_type and r. */
static tn_status parse(const char *members, tn_peft_config *config) {
    char text[2048];
    cJSON *json;
    snprintf(text, sizeof text, "{\"peft_type\": \"LORA\", \"r\": 2%s%s}", *members ? ", " : "", members);
    assert_ok(tn_json_parse(text, strlen(text), "adapter_config.json", &json));
    tn_status status = tn_peft_config_parse(json, "adapter_config.json", config);
    cJSON_Delete(json);
    return status;
}

/* The selected modules without "model." and "layers.", separated by blanks, into `out`. */
static tn_status select_names(const char *members, char out[1024]) {
    tn_peft_config config;
    bool selected[64] = {false};
    out[0] = 0;
    assert_true(model->network->module_count <= 64);
    TN_TRY(parse(members, &config));
    tn_status status = tn_peft_select(model->network, &config, &tn_lora, selected);
    tn_peft_config_free(&config);
    for (int64_t i = 0; i < model->network->module_count && status == TN_OK; i++) {
        const char *name = model->network->modules[i].name;
        name += strncmp(name, "model.", 6) == 0 ? 6 : 0;
        name += strncmp(name, "layers.", 7) == 0 ? 7 : 0;
        if (selected[i])
            snprintf(out + strlen(out), 1024 - strlen(out), "%s%s", *out ? " " : "", name);
    }
    return status;
}

static void assert_selects(const char *members, const char *want) {
    char names[1024];
    assert_ok(select_names(members, names));
    assert_string_equal(names, want);
}

static void list_matches_names_and_suffixes_after_a_dot(void **state) {
    (void)state;
    assert_selects("\"target_modules\": [\"q_proj\"]", "0.self_attn.q_proj 1.self_attn.q_proj");
    assert_selects("\"target_modules\": [\"self_attn.v_proj\"]", "0.self_attn.v_proj 1.self_attn.v_proj");
    assert_selects("\"target_modules\": [\"1.mlp.up_proj\"]", "1.mlp.up_proj");
    assert_selects("\"target_modules\": [\"model.layers.0.mlp.down_proj\"]", "0.mlp.down_proj");
    assert_selects("\"target_modules\": [\"lm_head\"]", "lm_head");
    assert_selects("\"target_modules\": [\"embed_tokens\", \"k_proj\"]",
                   "embed_tokens 0.self_attn.k_proj 1.self_attn.k_proj");
    assert_selects("\"target_modules\": [\"q_proj\", \"0.self_attn.q_proj\"]", "0.self_attn.q_proj 1.self_attn.q_proj");
}

static void suffix_must_begin_after_a_dot(void **state) {
    char names[1024];
    (void)state;
    assert_fails(select_names("\"target_modules\": [\"proj\"]", names), TN_ERROR_ARGUMENT, "'proj' matches nothing");
    assert_fails(select_names("\"target_modules\": [\"attn.q_proj\"]", names), TN_ERROR_ARGUMENT, "did you mean 'q_proj'");
    assert_fails(select_names("\"target_modules\": [\".q_proj\"]", names), TN_ERROR_ARGUMENT, "matches nothing");
    assert_fails(select_names("\"target_modules\": [\"\"]", names), TN_ERROR_ARGUMENT, "matches nothing");
}

static void string_is_a_regular_expression_for_the_whole_name(void **state) {
    char names[1024];
    (void)state;
    assert_selects("\"target_modules\": \".*\\\\.1\\\\.self_attn\\\\.(q|v)_proj\"", "1.self_attn.q_proj 1.self_attn.v_proj");
    assert_selects("\"target_modules\": \".*down_proj\"", "0.mlp.down_proj 1.mlp.down_proj");
    assert_selects("\"target_modules\": \"model.layers.0.mlp.up_proj|lm_head\"", "0.mlp.up_proj lm_head");
    assert_fails(select_names("\"target_modules\": \"q_proj\"", names), TN_ERROR_ARGUMENT, "'q_proj' matches nothing");
    assert_fails(select_names("\"target_modules\": \".*q_pro\"", names), TN_ERROR_ARGUMENT, "matches nothing");
    assert_fails(select_names("\"target_modules\": \"(q_proj\"", names), TN_ERROR_ARGUMENT,
                 "target_modules: bad regular expression");
    assert_fails(select_names("\"target_modules\": \".*\"", names), TN_ERROR_UNSUPPORTED,
                 "is of a kind that lora cannot adapt");
    assert_fails(select_names("\"target_modules\": \"(([a-z._0-9]+)*)*[A-Z]\"", names), TN_ERROR_ARGUMENT,
                 "cannot be matched");
}

static void all_linear_is_every_linear_layer_but_the_head(void **state) {
    (void)state;
    assert_selects(
        "\"target_modules\": \"all-linear\"",
        "0.self_attn.q_proj 0.self_attn.k_proj 0.self_attn.v_proj 0.self_attn.o_proj 0.mlp.gate_proj 0.mlp.up_proj "
        "0.mlp.down_proj 1.self_attn.q_proj 1.self_attn.k_proj 1.self_attn.v_proj 1.self_attn.o_proj 1.mlp.gate_proj "
        "1.mlp.up_proj 1.mlp.down_proj");
}

static void exclusion_wins_over_selection(void **state) {
    (void)state;
    assert_selects("\"target_modules\": [\"q_proj\", \"v_proj\"], \"exclude_modules\": [\"v_proj\"]",
                   "0.self_attn.q_proj 1.self_attn.q_proj");
    assert_selects("\"target_modules\": [\"q_proj\"], \"exclude_modules\": [\"0.self_attn.q_proj\"]", "1.self_attn.q_proj");
    assert_selects("\"target_modules\": [\"q_proj\"], \"exclude_modules\": \".*\\\\.1\\\\..*\"", "0.self_attn.q_proj");
    assert_selects("\"target_modules\": \"all-linear\", \"exclude_modules\": \".*(mlp|k_proj|o_proj).*\"",
                   "0.self_attn.q_proj 0.self_attn.v_proj 1.self_attn.q_proj 1.self_attn.v_proj");
}

static void layers_to_transform_limit_the_selection(void **state) {
    char names[1024];
    (void)state;
    assert_selects("\"target_modules\": [\"q_proj\"], \"layers_to_transform\": 1", "1.self_attn.q_proj");
    assert_selects("\"target_modules\": [\"q_proj\"], \"layers_to_transform\": [0, 1]",
                   "0.self_attn.q_proj 1.self_attn.q_proj");
    assert_selects("\"target_modules\": [\"q_proj\"], \"layers_to_transform\": [0], \"layers_pattern\": \"layers\"",
                   "0.self_attn.q_proj");
    assert_selects("\"target_modules\": [\"q_proj\", \"lm_head\"], \"layers_to_transform\": [0]", "0.self_attn.q_proj");
    assert_fails(select_names("\"target_modules\": [\"q_proj\"], \"layers_to_transform\": [7]", names), TN_ERROR_ARGUMENT,
                 "no target module lies in the chosen layers");
    assert_fails(
        select_names("\"target_modules\": [\"q_proj\"], \"layers_to_transform\": [0], \"layers_pattern\": [\"h\"]", names),
        TN_ERROR_ARGUMENT, "no target module lies in the chosen layers");
}

static void near_names_are_suggested(void **state) {
    char names[1024];
    (void)state;
    assert_fails(select_names("\"target_modules\": [\"q_porj\"]", names), TN_ERROR_ARGUMENT, "did you mean 'q_proj'");
    assert_fails(select_names("\"target_modules\": [\"q_proj\", \"c_attn\"]", names), TN_ERROR_ARGUMENT,
                 "'c_attn' matches nothing");
    assert_fails(select_names("\"target_modules\": [\"zzzzzzzz\"]", names), TN_ERROR_ARGUMENT,
                 "it has embed_tokens, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head");
}

/* --- patterns --- */

static const tn_adapter_slot *slot_of(const char *name) {
    const tn_adapter *adapter = model->adapter;
    for (int64_t i = 0; i < adapter->slot_count; i++)
        if (strcmp(adapter->slots[i].module->name, name) == 0)
            return &adapter->slots[i];
    fail_msg("no adapter on %s", name);
    return NULL;
}

static int64_t rank_of(const char *name) {
    return ((const tn_lora_slot *)slot_of(name)->slot)->a.tensor.shape[0];
}

static double scale_of(const char *name) {
    return (double)((const tn_lora_slot *)slot_of(name)->slot)->scale;
}

static tn_status add(const tn_adapter_options *options) {
    return tn_model_add_adapter(model, options, 1);
}

static tn_adapter_options options_for(const char *targets) {
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.rank = 4;
    options.alpha = 8;
    options.target_modules = targets;
    return options;
}

static void first_pattern_that_matches_counts(void **state) {
    tn_adapter_options options = options_for("q_proj,v_proj,up_proj");
    (void)state;
    options.rank_pattern = "0.self_attn.q_proj=2,q_proj=3,v_pro=9,self_attn=8";
    options.alpha_pattern = "layers.1.*=6,q_proj=20";
    assert_ok(add(&options));
    assert_int_equal(rank_of("model.layers.0.self_attn.q_proj"), 2);
    assert_int_equal(rank_of("model.layers.1.self_attn.q_proj"), 3);
    assert_int_equal(rank_of("model.layers.0.self_attn.v_proj"), 4);
    assert_true(scale_of("model.layers.0.self_attn.q_proj") == 10);
    assert_true(scale_of("model.layers.1.self_attn.q_proj") == 2);
    assert_true(scale_of("model.layers.1.mlp.up_proj") == 1.5);
    assert_true(scale_of("model.layers.0.mlp.up_proj") == 2);
    options.rslora = true;
    assert_ok(add(&options));
    assert_true(scale_of("model.layers.0.mlp.up_proj") == 4);
    tn_model_remove_adapter(model);
}

static void rank_that_does_not_fit_is_refused(void **state) {
    tn_adapter_options options = options_for("q_proj,down_proj");
    (void)state;
    options.rank = 0;
    assert_ok(add(&options)); /* LoRA's own */
    assert_int_equal(model->adapter->config.rank, 8);
    options.rank = -3;
    assert_fails(add(&options), TN_ERROR_ARGUMENT, "rank -3 does not fit");
    options.rank = 25;
    assert_fails(add(&options), TN_ERROR_ARGUMENT,
                 "rank 25 does not fit model.layers.0.self_attn.q_proj, whose weight is 24 x 24");
    options.rank = 24;
    assert_ok(add(&options));
    options.rank_pattern = "down_proj=25";
    assert_fails(add(&options), TN_ERROR_ARGUMENT, "rank 25 does not fit model.layers.0.mlp.down_proj");
    options.rank_pattern = "down_proj=1.5";
    assert_fails(add(&options), TN_ERROR_ARGUMENT, "rank 1.5 does not fit");
    options.rank_pattern = "down_proj=";
    assert_fails(add(&options), TN_ERROR_ARGUMENT, "rank-pattern: 'down_proj=' is not of the form");
    options.rank_pattern = "(=2";
    assert_fails(add(&options), TN_ERROR_ARGUMENT, "rank_pattern: bad regular expression");
    tn_model_remove_adapter(model);
}

static void wrong_options_are_named(void **state) {
    static const struct {
        const char *key, *value, *words;
    } wrong[] = {
        {"method", "lora-xs", "no method 'lora-xs'; there are lora, "},
        {"init", "svd", "initialisation 'svd' is not supported; there are kaiming"},
        {"init", "pissa_niter_0", "'pissa_niter_0' is not supported"},
        {"init", "pissa_niter_K", "'pissa_niter_K' is not supported"},
        {"bias", "some", "bias 'some' is not one of none, all, lora_only"},
        {"layers", "0,x", "layers: '0,x' is no list of numbers"},
        {"layers", "5-3", "layers: '5-3' is no list of numbers"},
        {"token_indices", "99999", "trainable_token_indices: 99999 is outside the vocabulary of 37"},
        {"token_indices", "3,5,3", "trainable_token_indices: 3 is listed twice"},
        {"modules_to_save", "embed_tokns", "modules_to_save: 'embed_tokns' matches no module"},
        {"modules_to_save", "norm,embed_tokns", "modules_to_save: 'embed_tokns' matches no module"},
        {"alpha_pattern", "q_proj=inf", "alpha-pattern: 'q_proj=inf' is not of the form"},
        {"exclude_modules", "proj", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tn_adapter_options options = options_for("q_proj");
        const char **field = strcmp(wrong[i].key, "method") == 0            ? &options.method
                             : strcmp(wrong[i].key, "init") == 0            ? &options.init
                             : strcmp(wrong[i].key, "bias") == 0            ? &options.bias
                             : strcmp(wrong[i].key, "layers") == 0          ? &options.layers
                             : strcmp(wrong[i].key, "token_indices") == 0   ? &options.token_indices
                             : strcmp(wrong[i].key, "exclude_modules") == 0 ? &options.exclude_modules
                             : strcmp(wrong[i].key, "alpha_pattern") == 0   ? &options.alpha_pattern
                                                                            : &options.modules_to_save;
        *field = wrong[i].value;
        tn_status status = add(&options);
        if (!wrong[i].words) {
            assert_ok(status);
            continue;
        }
        if (status == TN_OK || !strstr(tn_error_message(), wrong[i].words))
            fail_msg("%s '%s': %s", wrong[i].key, wrong[i].value, status == TN_OK ? "accepted" : tn_error_message());
        assert_null(model->adapter);
    }
    tn_adapter_options options = options_for("q_proj");
    options.dropout = 1;
    assert_fails(add(&options), TN_ERROR_ARGUMENT, "dropout 1");
    options.dropout = NAN;
    assert_fails(add(&options), TN_ERROR_ARGUMENT, "dropout");
    options = options_for("q_proj");
    options.alpha = NAN;
    assert_fails(add(&options), TN_ERROR_ARGUMENT, "alpha");
    options = options_for("q_proj");
    options.init = "orthogonal";
    options.rank = 3;
    assert_fails(add(&options), TN_ERROR_ARGUMENT, "needs an even rank, not 3");
    tn_model_remove_adapter(model);
}

/* --- adapter_config.json --- */

static void configuration_that_this_build_cannot_honour_is_refused(void **state) {
    static const struct {
        const char *members, *words;
    } wrong[] = {
        {"\"use_qalora\": true", "this adapter uses 'use_qalora', which this build does not support"},
        {"\"use_dora\": 1", "use_dora"},
        {"\"alora_invocation_tokens\": [1, -2]", "'alora_invocation_tokens' must be a whole number"},
        {"\"alora_invocation_tokens\": \"hi\"", "'alora_invocation_tokens' must be a number or a list"},
        {"\"use_bdlora\": 3", "'use_bdlora' must be an object"},
        {"\"use_bdlora\": {\"nblocks\": 0}", "nblocks"},
        {"\"use_bdlora\": {\"nblocks\": 2, \"target_modules_bd_a\": \"q_proj\"}", "'target_modules_bd_a' must be a list"},
        {"\"kasa_config\": 0.5", "'kasa_config' must be an object"},
        {"\"kasa_config\": {\"beta\": \"small\"}", "beta"},
        {"\"something_new\": 3", "'something_new'"},
        {"\"loftq_config\": {\"bits\": 4}", "'loftq_config'"},
        {"\"bias\": \"most\"", "'bias' is 'most', not none, all or lora_only"},
        {"\"bias\": 3", "bias"},
        {"\"lora_alpha\": \"big\"", "lora_alpha"},
        {"\"target_modules\": 7", "'target_modules' must be a list of names"},
        {"\"target_modules\": [\"q_proj\", 7]", "'target_modules' must be a list of names"},
        {"\"rank_pattern\": [1]", "'rank_pattern' must be an object of numbers"},
        {"\"rank_pattern\": {\"q_proj\": -1}", "'rank_pattern' must be an object of numbers above 0"},
        {"\"layers_to_transform\": [0.5]", "'layers_to_transform' must be a whole number"},
        {"\"layer_replication\": [[0, 1, 2]]", "'layer_replication' must be a list of [start, end] pairs"},
        {"\"layer_replication\": {\"a\": [0, 1]}", "'layer_replication' must be a list of [start, end] pairs"},
        {"\"trainable_token_indices\": [-1]", "'trainable_token_indices'"},
        {"\"init_lora_weights\": 5", "init_lora_weights"},
        {"\"lora_dropout\": 1.5", "'lora_dropout' must be at least 0 and below 1"},
    };
    tn_peft_config config;
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tn_status status = parse(wrong[i].members, &config);
        if (status == TN_OK || !strstr(tn_error_message(), wrong[i].words))
            fail_msg("%s: %s", wrong[i].members, status == TN_OK ? "accepted" : tn_error_message());
        if (status == TN_OK)
            tn_peft_config_free(&config);
    }
    assert_fails(tn_peft_config_parse(NULL, "here", &config), TN_ERROR_FORMAT, "here: not a JSON object");
    cJSON *json = cJSON_Parse("{\"peft_type\": \"NEWTYPE\"}");
    assert_fails(tn_peft_config_parse(json, "here", &config), TN_ERROR_UNSUPPORTED,
                 "peft_type 'NEWTYPE' is not supported; there are LORA");
    cJSON_Delete(json);
}

/* Features that are off do not count, whatever a later PEFT calls them. */
static void unknown_keys_at_their_default_are_ignored(void **state) {
    tn_peft_config config;
    (void)state;
    assert_ok(
        parse("\"use_dora\": false, \"new_config\": null, \"new_list\": [], \"new_dict\": {}, \"new_text\": \"\"", &config));
    assert_int_equal(config.rank, 2);
    tn_peft_config_free(&config);
}

static void printed_configuration_reads_back_the_same(void **state) {
    static const char members[] =
        "\"lora_alpha\": 12.5, \"lora_dropout\": 0.25, \"use_rslora\": true, \"lora_bias\": true, \"bias\": \"lora_only\", "
        "\"init_lora_weights\": \"pissa_niter_4\", \"target_modules\": [\"q_proj\", \"v\\u00e9\"], \"exclude_modules\": "
        "\"a.*\", "
        "\"modules_to_save\": [\"norm\"], \"layers_to_transform\": [0, 3], \"layers_pattern\": \"layers\", "
        "\"rank_pattern\": {\"b\": 3, \"a\": 4}, \"alpha_pattern\": {\"c\": 0.5}, \"trainable_token_indices\": "
        "{\"embed_tokens\": [5, 2]}, "
        "\"layer_replication\": [[0, 2], [1, 2]], \"ensure_weight_tying\": true, \"task_type\": \"CAUSAL_LM\", "
        "\"target_parameters\": [\"x.weight\"], \"base_model_name_or_path\": \"some/base\"";
    tn_peft_config config, back;
    tn_buf text = {0}, again = {0};
    cJSON *json;
    (void)state;
    assert_ok(parse(members, &config));
    assert_ok(tn_peft_config_print(&config, &text));
    assert_ok(tn_json_parse(text.data, text.length, "printed", &json));
    assert_ok(tn_peft_config_parse(json, "printed", &back));
    assert_ok(tn_peft_config_print(&back, &again));
    assert_string_equal(tn_buf_text(&text), tn_buf_text(&again));
    assert_true(back.alpha == 12.5 && back.dropout == 0.25 && back.use_rslora && back.lora_bias &&
                back.bias == TN_BIAS_ADAPTED);
    assert_string_equal(back.init, "pissa_niter_4");
    assert_string_equal(back.exclude_regex, "a.*");
    /* the order decides which pattern counts */
    assert_string_equal(back.rank_pattern[0].key, "b");
    assert_int_equal(back.token_rows[0].indices[0], 5);
    assert_int_equal(back.replication[1][0], 1);
    cJSON_Delete(json);
    tn_buf_free(&text);
    tn_buf_free(&again);
    tn_peft_config_free(&config);
    tn_peft_config_free(&back);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_matches_names_and_suffixes_after_a_dot),
        cmocka_unit_test(suffix_must_begin_after_a_dot),
        cmocka_unit_test(string_is_a_regular_expression_for_the_whole_name),
        cmocka_unit_test(all_linear_is_every_linear_layer_but_the_head),
        cmocka_unit_test(exclusion_wins_over_selection),
        cmocka_unit_test(layers_to_transform_limit_the_selection),
        cmocka_unit_test(near_names_are_suggested),
        cmocka_unit_test(first_pattern_that_matches_counts),
        cmocka_unit_test(rank_that_does_not_fit_is_refused),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(configuration_that_this_build_cannot_honour_is_refused),
        cmocka_unit_test(unknown_keys_at_their_default_are_ignored),
        cmocka_unit_test(printed_configuration_reads_back_the_same),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
