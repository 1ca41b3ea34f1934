/* GGUF metadata as config.json: the keys, what is left out, and values that no model has. */
#include "model/gguf_config.h"

#include "model/config.h"
#include "support/support.h"

/* One value to write in place of the usual one; kind LEFT_OUT: none. */
typedef struct change {
    const char *key;
    tn_gguf_kind kind;
    double number;
    const char *text;
} change;

static const change usual[] = {
    {"general.architecture", TN_GGUF_STRING, 0, "llama"},
    {"llama.block_count", TN_GGUF_U32, 2, NULL},
    {"llama.context_length", TN_GGUF_U32, 128, NULL},
    {"llama.embedding_length", TN_GGUF_U32, 32, NULL},
    {"llama.feed_forward_length", TN_GGUF_U64, 48, NULL},
    {"llama.attention.head_count", TN_GGUF_U32, 4, NULL},
    {"llama.attention.head_count_kv", TN_GGUF_I32, 2, NULL},
    {"llama.attention.layer_norm_rms_epsilon", TN_GGUF_F32, 1e-5, NULL},
    {"llama.vocab_size", TN_GGUF_U32, 77, NULL},
};
enum { USUAL = sizeof usual / sizeof *usual };
#define LEFT_OUT TN_GGUF_ARRAY

static void put(tn_gguf_writer *writer, const change *c) {
    if (c->kind == TN_GGUF_STRING)
        assert_ok(tn_gguf_writer_string(writer, c->key, c->text));
    else if (c->kind == TN_GGUF_F32)
        assert_ok(tn_gguf_writer_float(writer, c->key, (float)c->number));
    else if (c->kind != LEFT_OUT)
        assert_ok(tn_gguf_writer_integer(writer, c->key, c->kind, (int64_t)c->number));
}

/* The usual values but for the changes, and rope_freqs.weight [4] unless NULL. */
static const char *write_file(const change *changes, int count, const float *factors) {
    const char *path = temporary("config.gguf");
    tn_gguf_writer *writer;
    const int64_t four = 4;
    assert_ok(tn_gguf_writer_new(&writer, path));
    for (int i = 0; i < USUAL; i++) {
        bool changed = false;
        for (int k = 0; k < count; k++)
            changed |= strcmp(changes[k].key, usual[i].key) == 0;
        if (!changed)
            put(writer, &usual[i]);
    }
    for (int k = 0; k < count; k++)
        put(writer, &changes[k]);
    if (factors)
        assert_ok(tn_gguf_writer_declare(writer, "rope_freqs.weight", TN_GGML_F32, 1, &four));
    assert_ok(tn_gguf_writer_begin(writer));
    if (factors)
        assert_ok(tn_gguf_writer_data(writer, factors, 4 * (int64_t)sizeof *factors));
    assert_ok(tn_gguf_writer_finish(writer));
    return path;
}

/* As a model is loaded: metadata, config.json, its validator. */
static tn_status parse(const char *path, tn_decoder_config *out) {
    cJSON *json;
    TN_TRY(tn_gguf_config_read(path, &json));
    tn_status status = tn_decoder_config_parse(json, path, out);
    cJSON_Delete(json);
    return status;
}

static void usual_keys_give_the_usual_configuration(void **state) {
    tn_decoder_config c;
    (void)state;
    assert_ok(parse(write_file(NULL, 0, NULL), &c));
    assert_string_equal(c.family, "llama");
    assert_int_equal(c.layers, 2);
    assert_int_equal(c.hidden_size, 32);
    assert_int_equal(c.intermediate_size, 48);
    assert_int_equal(c.heads, 4);
    assert_int_equal(c.kv_heads, 2);
    assert_int_equal(c.head_size, 8);
    assert_int_equal(c.vocab_size, 77);
    assert_int_equal(c.max_positions, 128);
    assert_true(c.norm_eps == 1e-5); /* though f32 in the file */
    assert_true(c.rope.theta == 10000 && c.rope.type == TN_ROPE_DEFAULT);
    assert_true(c.tied && !c.qkv_bias && !c.mlp_bias);
    assert_int_equal(c.bos, -1);
    assert_int_equal(c.eos_count, 0);
    tn_decoder_config_free(&c);
}

static void optional_keys_change_what_they_name(void **state) {
    const change changes[] = {
        {"llama.attention.head_count_kv", LEFT_OUT, 0, NULL},
        {"llama.attention.key_length", TN_GGUF_U32, 6, NULL},
        {"llama.attention.value_length", TN_GGUF_U32, 6, NULL},
        {"llama.rope.dimension_count", TN_GGUF_U32, 6, NULL},
        {"llama.rope.freq_base", TN_GGUF_F32, 500000, NULL},
        {"llama.rope.scaling.type", TN_GGUF_STRING, 0, "yarn"},
        {"llama.rope.scaling.factor", TN_GGUF_F32, 4, NULL},
        {"llama.rope.scaling.original_context_length", TN_GGUF_U32, 32, NULL},
        {"tokenizer.ggml.bos_token_id", TN_GGUF_U32, 1, NULL},
        {"tokenizer.ggml.eos_token_id", TN_GGUF_U32, 2, NULL},
        {"tokenizer.ggml.eot_token_id", TN_GGUF_U32, 5, NULL},
    };
    tn_decoder_config c;
    (void)state;
    assert_ok(parse(write_file(changes, sizeof changes / sizeof *changes, NULL), &c));
    assert_int_equal(c.kv_heads, 4);
    assert_int_equal(c.head_size, 6);
    assert_true(c.rope.type == TN_ROPE_YARN && c.rope.theta == 500000 && c.rope.factor == 4);
    assert_int_equal(c.rope.original_max_positions, 32);
    assert_int_equal(c.bos, 1);
    assert_int_equal(c.eos_count, 2);
    assert_int_equal(c.eos[1], 5);
    tn_decoder_config_free(&c);
}

static void old_spelling_of_linear_scaling_is_read(void **state) {
    const change changes[] = {{"llama.rope.scale_linear", TN_GGUF_F32, 2.5, NULL}};
    tn_decoder_config c;
    (void)state;
    assert_ok(parse(write_file(changes, 1, NULL), &c));
    assert_true(c.rope.type == TN_ROPE_LINEAR && c.rope.factor == 2.5);
    tn_decoder_config_free(&c);
}

static void llama3_scaling_is_found_again_in_its_factors(void **state) {
    const tn_llama3_scaling scaling = {32, 1, 4, 8192};
    const change changes[] = {{"llama.rope.freq_base", TN_GGUF_F32, 500000, NULL}};
    float factors[4];
    tn_decoder_config c;
    (void)state;
    tn_llama3_frequency_factors(factors, 8, 500000, &scaling);
    assert_true(factors[0] == 1 && factors[3] == 32);
    assert_ok(parse(write_file(changes, 1, factors), &c));
    assert_true(c.rope.type == TN_ROPE_LLAMA3 && c.rope.factor == 32 && c.rope.low_freq_factor == 1 &&
                c.rope.high_freq_factor == 4);
    assert_int_equal(c.rope.original_max_positions, 8192);
    tn_decoder_config_free(&c);
    for (int i = 0; i < 4; i++)
        factors[i] = 1;
    assert_ok(parse(write_file(changes, 1, factors), &c));
    assert_true(c.rope.type == TN_ROPE_DEFAULT);
    tn_decoder_config_free(&c);
    factors[1] = 7;
    assert_fails(parse(write_file(changes, 1, factors), &c), TN_ERROR_UNSUPPORTED, "rope_freqs.weight");
    factors[1] = NAN;
    assert_fails(parse(write_file(changes, 1, factors), &c), TN_ERROR_UNSUPPORTED, "rope_freqs.weight");
}

static void impossible_value_is_refused_by_name(void **state) {
    static const struct {
        change changes[2];
        tn_status status;
        const char *words;
    } cases[] = {
        {{{"general.architecture", LEFT_OUT, 0, NULL}}, TN_ERROR_FORMAT, "general.architecture"},
        {{{"general.architecture", TN_GGUF_STRING, 0, "bert"}}, TN_ERROR_UNSUPPORTED, "llama and qwen2"},
        {{{"llama.block_count", LEFT_OUT, 0, NULL}}, TN_ERROR_FORMAT, "llama.block_count"},
        {{{"llama.block_count", TN_GGUF_I64, -1, NULL}}, TN_ERROR_FORMAT, "num_hidden_layers"},
        {{{"llama.block_count", TN_GGUF_STRING, 0, "two"}}, TN_ERROR_FORMAT, "llama.block_count"},
        {{{"llama.embedding_length", TN_GGUF_U64, 9e15, NULL}}, TN_ERROR_FORMAT, "hidden_size"},
        {{{"llama.attention.head_count", TN_GGUF_U32, 0, NULL}}, TN_ERROR_FORMAT, "num_attention_heads"},
        {{{"llama.attention.head_count_kv", TN_GGUF_U32, 3, NULL}}, TN_ERROR_FORMAT, "num_key_value_heads"},
        {{{"llama.attention.layer_norm_rms_epsilon", TN_GGUF_F32, 0, NULL}}, TN_ERROR_FORMAT, "rms_norm_eps"},
        {{{"llama.attention.layer_norm_rms_epsilon", TN_GGUF_F32, INFINITY, NULL}}, TN_ERROR_FORMAT, "not finite"},
        {{{"llama.attention.layer_norm_rms_epsilon", LEFT_OUT, 0, NULL}}, TN_ERROR_FORMAT, "layer_norm_rms_epsilon"},
        {{{"llama.rope.dimension_count", TN_GGUF_U32, 4, NULL}}, TN_ERROR_UNSUPPORTED, "rotated dimensions"},
        {{{"llama.rope.freq_base", TN_GGUF_F32, -1, NULL}}, TN_ERROR_FORMAT, "rope_theta"},
        {{{"llama.rope.scaling.type", TN_GGUF_STRING, 0, "longrope"}, {"llama.rope.scaling.factor", TN_GGUF_F32, 2, NULL}},
         TN_ERROR_UNSUPPORTED,
         "longrope"},
        {{{"llama.rope.scaling.type", TN_GGUF_STRING, 0, "linear"}, {"llama.rope.scaling.factor", TN_GGUF_F32, -2, NULL}},
         TN_ERROR_FORMAT,
         "factor"},
        {{{"llama.expert_count", TN_GGUF_U32, 8, NULL}}, TN_ERROR_UNSUPPORTED, "experts"},
        {{{"llama.vocab_size", LEFT_OUT, 0, NULL}}, TN_ERROR_FORMAT, "vocab_size"},
    };
    tn_decoder_config c;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = write_file(cases[i].changes, cases[i].changes[1].key ? 2 : 1, NULL);
        assert_fails(parse(path, &c), cases[i].status, cases[i].words);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usual_keys_give_the_usual_configuration),
        cmocka_unit_test(optional_keys_change_what_they_name),
        cmocka_unit_test(old_spelling_of_linear_scaling_is_read),
        cmocka_unit_test(llama3_scaling_is_found_again_in_its_factors),
        cmocka_unit_test(impossible_value_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
