/* config.json: what is refused, with which words, and what the families' switches come to. */
#include "support/support.h"

static const char llama[] = "{\"model_type\": \"llama\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": "
                            "40, \"num_hidden_layers\": 4, "
                            "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"max_position_embeddings\": 64}";

static tn_status parse_text(const char *text, tn_decoder_config *config) {
    cJSON *json;
    assert_ok(tn_json_parse(text, strlen(text), "config.json", &json));
    tn_status status = tn_decoder_config_parse(json, "config.json", config);
    cJSON_Delete(json);
    return status;
}

/* The llama above with one member replaced ("key": value; the last one of a name counts in neither) and others added. */
static tn_status parse_with(const char *old, const char *new, tn_decoder_config *config) {
    char *text = with_replaced(llama, old, new);
    tn_status status = parse_text(text, config);
    free(text);
    return status;
}

static void bad_configurations_are_explained(void **state) {
    static const struct {
        const char *old, *new;
        tn_status status;
        const char *words;
    } wrong[] = {
        {"\"llama\"", "\"opt\"", TN_ERROR_UNSUPPORTED,
         "'opt' is not supported; supported are gpt2 (GPT2LMHeadModel), llama (LlamaForCausalLM), mistral "
         "(MistralForCausalLM), qwen2 "
         "(Qwen2ForCausalLM), "
         "qwen3 (Qwen3ForCausalLM)"},
        {"\"model_type\": \"llama\"", "\"x\": 1", TN_ERROR_UNSUPPORTED, "'none given' is not supported"},
        {"\"model_type\": \"llama\"", "\"architectures\": [\"BertModel\"]", TN_ERROR_UNSUPPORTED,
         "'BertModel' is not supported"},
        {"\"model_type\": \"llama\"", "\"model_type\": 3", TN_ERROR_FORMAT, "'model_type'"},
        {"\"vocab_size\": 37", "\"x\": 1", TN_ERROR_FORMAT, "'vocab_size' is missing"},
        {"\"hidden_size\": 24", "\"x\": 1", TN_ERROR_FORMAT, "'hidden_size' is missing"},
        {"\"intermediate_size\": 40", "\"intermediate_size\": null", TN_ERROR_FORMAT, "'intermediate_size' is missing"},
        {"\"num_hidden_layers\": 4", "\"x\": 1", TN_ERROR_FORMAT, "'num_hidden_layers' is missing"},
        {"\"num_attention_heads\": 4", "\"x\": 1", TN_ERROR_FORMAT, "'num_attention_heads' is missing"},
        {"\"vocab_size\": 37", "\"vocab_size\": 0", TN_ERROR_FORMAT, "'vocab_size'"},
        {"\"vocab_size\": 37", "\"vocab_size\": -5", TN_ERROR_FORMAT, "'vocab_size'"},
        {"\"vocab_size\": 37", "\"vocab_size\": 1e15", TN_ERROR_FORMAT, "'vocab_size'"},
        {"\"vocab_size\": 37", "\"vocab_size\": 3.5", TN_ERROR_FORMAT, "'vocab_size'"},
        {"\"vocab_size\": 37", "\"vocab_size\": \"37\"", TN_ERROR_FORMAT, "'vocab_size'"},
        {"\"num_hidden_layers\": 4", "\"num_hidden_layers\": 1000000", TN_ERROR_FORMAT, "'num_hidden_layers'"},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", TN_ERROR_FORMAT,
         "num_attention_heads 4 is no multiple of num_key_value_heads 3"},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 8", TN_ERROR_FORMAT, "'num_key_value_heads'"},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 0", TN_ERROR_FORMAT, "'num_key_value_heads'"},
        {"\"hidden_size\": 24", "\"hidden_size\": 20", TN_ERROR_FORMAT, "the head size 5 must be even"},
        {"\"hidden_size\": 24", "\"hidden_size\": 2", TN_ERROR_FORMAT, "the head size 0 must be even"},
        {"\"hidden_size\": 24", "\"hidden_size\": 26", TN_ERROR_FORMAT,
         "hidden_size 26 is no multiple of num_attention_heads 4"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"head_dim\": 7", TN_ERROR_FORMAT, "the head size 7 must be even"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"head_dim\": 1000000", TN_ERROR_FORMAT, "'head_dim'"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"hidden_act\": \"gelu\"", TN_ERROR_UNSUPPORTED,
         "hidden_act 'gelu' is not supported; supported is silu"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"rms_norm_eps\": -1", TN_ERROR_FORMAT,
         "'rms_norm_eps' must be above 0"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"initializer_range\": -1", TN_ERROR_FORMAT,
         "'initializer_range' must not be negative"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"quantization_config\": {\"bits\": 4}", TN_ERROR_UNSUPPORTED,
         "weights quantised by"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"tie_word_embeddings\": \"yes\"", TN_ERROR_FORMAT,
         "'tie_word_embeddings'"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"eos_token_id\": \"</s>\"", TN_ERROR_FORMAT,
         "'eos_token_id' must be a token id or a list of them"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"eos_token_id\": [2, -7]", TN_ERROR_FORMAT, "'eos_token_id'"},
        /* rotary positions */
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"rope_theta\": 0", TN_ERROR_FORMAT,
         "rope_theta and the rope factor must be above 0"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"rope_scaling\": {\"rope_type\": \"longrope\"}", TN_ERROR_UNSUPPORTED,
         "rope_type 'longrope' is not supported; supported are default, linear, llama3 and yarn"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"rope_scaling\": {\"type\": \"linear\", \"factor\": -2}",
         TN_ERROR_FORMAT, "must be above 0"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": \"2\"}",
         TN_ERROR_FORMAT, "'factor'"},
        {"\"hidden_size\": 24",
         "\"hidden_size\": 24, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
         "\"high_freq_factor\": 4}",
         TN_ERROR_FORMAT, "0 < low_freq_factor < high_freq_factor"},
        {"\"hidden_size\": 24",
         "\"hidden_size\": 24, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 8, "
         "\"original_max_position_embeddings\": 0}",
         TN_ERROR_FORMAT, "'original_max_position_embeddings'"},
        {"\"hidden_size\": 24",
         "\"hidden_size\": 24, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 8, \"beta_fast\": 0}",
         TN_ERROR_FORMAT, "yarn rope scaling needs 0 < beta_slow < beta_fast"},
        {"\"hidden_size\": 24",
         "\"hidden_size\": 24, \"rope_theta\": 1, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 8}",
         TN_ERROR_FORMAT, "yarn rope scaling needs a rope_theta above 1"},
        {"\"hidden_size\": 24", "\"hidden_size\": 24, \"rope_scaling\": \"yarn\"", TN_ERROR_FORMAT,
         "'rope_scaling' must be an object"},
        /* windows */
        {"\"llama\"", "\"mistral\", \"sliding_window\": 0", TN_ERROR_FORMAT, "'sliding_window'"},
        {"\"llama\"", "\"mistral\", \"sliding_window\": \"all\"", TN_ERROR_FORMAT, "'sliding_window'"},
        {"\"llama\"", "\"qwen2\", \"use_sliding_window\": 1", TN_ERROR_FORMAT, "'use_sliding_window'"},
        {"\"llama\"", "\"qwen2\", \"use_sliding_window\": true, \"max_window_layers\": -1", TN_ERROR_FORMAT,
         "'max_window_layers'"},
        {"\"llama\"", "\"qwen2\", \"use_sliding_window\": true, \"layer_types\": [\"full_attention\"]", TN_ERROR_FORMAT,
         "'layer_types' must list one type for each of the 4 layers"},
        {"\"llama\"",
         "\"qwen2\", \"use_sliding_window\": true, \"layer_types\": [\"full_attention\", \"chunked_attention\", "
         "\"full_attention\", "
         "\"full_attention\"]",
         TN_ERROR_UNSUPPORTED, "layer_types[1] is neither full_attention nor sliding_attention"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tn_decoder_config config;
        size_t used = tn_memory_used();
        tn_status status = parse_with(wrong[i].old, wrong[i].new, &config);
        if (status != wrong[i].status || !strstr(tn_error_message(), wrong[i].words) ||
            strncmp(tn_error_message(), "config.json", 11) != 0)
            fail_msg("%s: got %s '%s'", wrong[i].new, tn_status_name(status), status ? tn_error_message() : "");
        assert_int_equal(tn_memory_used(), used);
    }
}

static const char gpt2[] = "{\"model_type\": \"gpt2\", \"vocab_size\": 37, \"n_embd\": 24, \"n_layer\": 2, \"n_head\": 4}";

static void gpt2_has_its_own_members(void **state) {
    static const struct {
        const char *old, *new;
        tn_status status;
        const char *words;
    } wrong[] = {
        {"\"n_embd\": 24", "\"hidden_size\": 24", TN_ERROR_FORMAT, "'n_embd' is missing"},
        {"\"n_layer\": 2", "\"x\": 2", TN_ERROR_FORMAT, "'n_layer' is missing"},
        {"\"n_head\": 4", "\"x\": 4", TN_ERROR_FORMAT, "'n_head' is missing"},
        {"\"n_head\": 4", "\"n_head\": 5", TN_ERROR_FORMAT, "n_embd 24 is no multiple of n_head 5"},
        {"\"n_embd\": 24", "\"n_embd\": 268435456", TN_ERROR_FORMAT, "n_embd 268435456 is too large"},
        {"\"n_head\": 4", "\"n_head\": 4, \"n_inner\": 0", TN_ERROR_FORMAT, "'n_inner'"},
        {"\"n_head\": 4", "\"n_head\": 4, \"n_positions\": 0", TN_ERROR_FORMAT, "'n_positions'"},
        {"\"n_head\": 4", "\"n_head\": 4, \"layer_norm_epsilon\": 0", TN_ERROR_FORMAT,
         "'layer_norm_epsilon' must be above 0"},
        {"\"n_head\": 4", "\"n_head\": 4, \"activation_function\": \"mish\"", TN_ERROR_UNSUPPORTED,
         "activation_function 'mish' is not supported; supported are gelu_new, gelu"},
        {"\"n_head\": 4", "\"n_head\": 4, \"scale_attn_weights\": 1", TN_ERROR_FORMAT, "'scale_attn_weights'"},
        {"\"n_head\": 4", "\"n_head\": 4, \"add_cross_attention\": true", TN_ERROR_UNSUPPORTED, "add_cross_attention"},
    };
    tn_decoder_config config;
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char *text = with_replaced(gpt2, wrong[i].old, wrong[i].new);
        assert_fails(parse_text(text, &config), wrong[i].status, wrong[i].words);
        free(text);
    }
    assert_ok(parse_text(gpt2, &config));
    assert_true(config.is_gpt2 && config.tied && config.feed_forward == TN_FEED_FORWARD_GELU_TANH);
    assert_true(config.kv_heads == 4 && config.head_size == 6 && config.intermediate_size == 96);
    assert_true(config.max_positions == 1024 && config.norm_eps == 1e-5 && config.initializer_range == 0.02);
    assert_true(tn_decoder_length(&config, 0) == 1024 && tn_decoder_length(&config, 2000) == 1024);
    assert_int_equal(tn_decoder_length(&config, 9), 9);
    assert_true(config.window == 0 && config.bos == -1 && config.eos_count == 0);
    assert_true(tn_decoder_attention_scale(&config, 1) == 1 / sqrtf(6));
    tn_decoder_config_free(&config);
    char *text = with_replaced(gpt2, "\"n_head\": 4",
                               "\"n_head\": 4, \"n_ctx\": 32, \"n_inner\": null, \"scale_attn_weights\": false, "
                               "\"scale_attn_by_inverse_layer_idx\": true, \"tie_word_embeddings\": false");
    assert_ok(parse_text(text, &config));
    assert_true(config.max_positions == 32 && config.intermediate_size == 96 && !config.tied);
    assert_true(tn_decoder_attention_scale(&config, 0) == 1 && tn_decoder_attention_scale(&config, 1) == 0.5f);
    tn_decoder_config_free(&config);
    free(text);
}

static void what_is_no_object_is_refused(void **state) {
    tn_decoder_config config;
    (void)state;
    assert_fails(parse_text("[]", &config), TN_ERROR_FORMAT, "config.json: not a JSON object");
    assert_fails(parse_text("3", &config), TN_ERROR_FORMAT, "not a JSON object");
    assert_fails(tn_decoder_config_parse(NULL, "config.json", &config), TN_ERROR_FORMAT, "not a JSON object");
}

static void absent_members_have_the_families_defaults(void **state) {
    tn_decoder_config config;
    (void)state;
    assert_ok(parse_with("\"num_key_value_heads\": 2, \"max_position_embeddings\": 64", "\"x\": null", &config));
    assert_int_equal(config.kv_heads, 4);
    assert_int_equal(config.head_size, 6);
    assert_int_equal(config.max_positions, 2048);
    assert_true(config.norm_eps == 1e-6 && config.initializer_range == 0.02 && config.rope.theta == 10000);
    assert_true(!config.tied && !config.qkv_bias && !config.output_bias && !config.mlp_bias && !config.qk_norm &&
                config.window == 0);
    assert_true(config.rope.type == TN_ROPE_DEFAULT && config.bos == -1 && config.eos_count == 0);
    tn_decoder_config_free(&config);
    assert_ok(parse_with("\"llama\"", "\"qwen3\"", &config));
    assert_true(config.head_size == 128 && config.qk_norm && !config.qkv_bias);
    tn_decoder_config_free(&config);
    assert_ok(parse_with("\"llama\"", "\"qwen2\"", &config));
    assert_true(config.qkv_bias && !config.output_bias && !config.qk_norm && config.window == 0);
    tn_decoder_config_free(&config);
    assert_ok(parse_with("\"model_type\": \"llama\"", "\"architectures\": [\"MistralForCausalLM\"]", &config));
    assert_string_equal(config.family, "mistral");
    tn_decoder_config_free(&config);
    assert_ok(parse_with("\"llama\"", "\"llama\", \"attention_bias\": true, \"mlp_bias\": true, \"eos_token_id\": [2, 5]",
                         &config));
    assert_true(config.qkv_bias && config.output_bias && config.mlp_bias && config.eos_count == 2 && config.eos[1] == 5);
    tn_decoder_config_free(&config);
}

static void assert_windows(const char *members, const int64_t want[4]) {
    tn_decoder_config config;
    assert_ok(parse_with("\"llama\"", members, &config));
    for (int64_t layer = 0; layer < 4; layer++)
        if (tn_decoder_window(&config, layer) != want[layer])
            fail_msg("%s: window %lld of layer %lld", members, (long long)tn_decoder_window(&config, layer),
                     (long long)layer);
    tn_decoder_config_free(&config);
}

static void windows_follow_each_family(void **state) {
    (void)state;
    assert_windows("\"llama\", \"sliding_window\": 9", (int64_t[]){0, 0, 0, 0});
    assert_windows("\"mistral\"", (int64_t[]){4096, 4096, 4096, 4096});
    assert_windows("\"mistral\", \"sliding_window\": 9", (int64_t[]){9, 9, 9, 9});
    assert_windows("\"mistral\", \"sliding_window\": null", (int64_t[]){0, 0, 0, 0});
    assert_windows("\"qwen2\", \"sliding_window\": 9", (int64_t[]){0, 0, 0, 0});
    assert_windows("\"qwen2\", \"sliding_window\": 9, \"use_sliding_window\": true, \"max_window_layers\": 3",
                   (int64_t[]){0, 0, 0, 9});
    assert_windows("\"qwen2\", \"sliding_window\": 9, \"use_sliding_window\": true", (int64_t[]){0, 0, 0, 0});
    assert_windows(
        "\"qwen3\", \"sliding_window\": 9, \"use_sliding_window\": true, \"max_window_layers\": 0, \"layer_types\": "
        "[\"sliding_attention\", \"full_attention\", \"full_attention\", \"sliding_attention\"]",
        (int64_t[]){9, 0, 0, 9});
    assert_windows("\"qwen2\", \"sliding_window\": 9, \"use_sliding_window\": false, \"layer_types\": [\"full_attention\", "
                   "\"full_attention\", \"full_attention\", \"full_attention\"]",
                   (int64_t[]){0, 0, 0, 0});
}

/* --- rotary tables --- */

enum { POSITIONS = 40 };
static float cos_table[POSITIONS * 64], sin_table[POSITIONS * 64];

static void fill_tables(const char *members, tn_decoder_config *config) {
    assert_ok(parse_with("\"llama\"", members, config));
    assert_true(config->head_size <= 128);
    tn_rope_fill(config, POSITIONS, cos_table, sin_table);
    tn_decoder_config_free(config);
}

/* Pair i of head size 6 turns by `frequencies[i]` per position, scaled by `factor`. */
static void assert_turns(const double frequencies[3], double factor) {
    for (int p = 0; p < POSITIONS; p++) {
        for (int i = 0; i < 3; i++) {
            assert_true(fabs((double)cos_table[p * 3 + i] - factor * cos(p * frequencies[i])) < 1e-5);
            assert_true(fabs((double)sin_table[p * 3 + i] - factor * sin(p * frequencies[i])) < 1e-5);
        }
    }
}

static void rotary_tables_follow_their_formulas(void **state) {
    const double pi2 = 6.283185307179586, f1 = pow(10000, -2.0 / 6), f2 = pow(10000, -4.0 / 6);
    tn_decoder_config config;
    (void)state;
    fill_tables("\"llama\"", &config);
    assert_turns((double[]){1, f1, f2}, 1);
    fill_tables("\"llama\", \"rope_theta\": 500", &config);
    assert_turns((double[]){1, pow(500, -1.0 / 3), pow(500, -2.0 / 3)}, 1);
    fill_tables("\"llama\", \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 500}", &config);
    assert_turns((double[]){1, pow(500, -1.0 / 3), pow(500, -2.0 / 3)}, 1);
    fill_tables("\"llama\", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}", &config);
    assert_turns((double[]){0.25, f1 / 4, f2 / 4}, 1);
    /* wavelengths 6.3, 135 and 2915 against bands 100 / 4 and 100 / 0.5: kept, blended, divided */
    fill_tables("\"llama\", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 0.5, "
                "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 100}",
                &config);
    double smooth = (100 / (pi2 / f1) - 0.5) / (4 - 0.5);
    assert_turns((double[]){1, (1 - smooth) * f1 / 8 + smooth * f1, f2 / 8}, 1);
    /* bounds of the ramp: 6 ln(100 / (2 pi b)) / (2 ln 10000) = -0.23 for b = 32, 0.90 for b = 1, rounded outwards: 0 and 1
     */
    fill_tables(
        "\"llama\", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 8, \"original_max_position_embeddings\": 100}",
        &config);
    assert_turns((double[]){1, f1 / 8, f2 / 8}, 0.1 * log(8) + 1);
    double high = 6 * log(100 / pi2) / (2 * log(10000)), ramp = fmin(1 / high, 1);
    fill_tables(
        "\"llama\", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 8, \"original_max_position_embeddings\": 100, "
        "\"truncate\": false, \"attention_factor\": 1.5}",
        &config);
    assert_turns((double[]){1, f1 / 8 * ramp + f1 * (1 - ramp), f2 / 8}, 1.5);
    fill_tables(
        "\"llama\", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 8, \"original_max_position_embeddings\": 100, "
        "\"mscale\": 0.5, \"mscale_all_dim\": 2}",
        &config);
    assert_turns((double[]){1, f1 / 8, f2 / 8}, (0.05 * log(8) + 1) / (0.2 * log(8) + 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_configurations_are_explained),          cmocka_unit_test(what_is_no_object_is_refused),
        cmocka_unit_test(absent_members_have_the_families_defaults), cmocka_unit_test(windows_follow_each_family),
        cmocka_unit_test(rotary_tables_follow_their_formulas),       cmocka_unit_test(gpt2_has_its_own_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
