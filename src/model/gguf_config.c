#include "model/gguf_config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const families[][2] = {{"llama", "LlamaForCausalLM"}, {"qwen2", "Qwen2ForCausalLM"}};
enum { FAMILY_COUNT = sizeof families / sizeof *families };

typedef struct builder {
    tn_gguf *file;
    const char *architecture;
    cJSON *json;
} builder;

enum { KEY_SIZE = 128 };

/* "llama.block_count"; NULL when the file does not have it. */
static const tn_gguf_value *find(const builder *b, const char *name, char key[KEY_SIZE]) {
    snprintf(key, KEY_SIZE, "%s.%s", b->architecture, name);
    return tn_gguf_find(b->file, key);
}

static tn_status read_integer(const builder *b, const char *name, bool required, int64_t *out) {
    char key[KEY_SIZE];
    return required || find(b, name, key) ? (find(b, name, key), tn_gguf_get_integer(b->file, key, out)) : TN_OK;
}

/* The decimal number with the fewest digits that is this f32: 1e-05 rather than 9.999999747378752e-06, as in config.json. */
static double shortest_decimal(float value) {
    char text[32];
    for (int digits = 6; digits < 9; digits++) {
        int length = snprintf(text, sizeof text, "%.*g", digits, (double)value);
        char *comma = strchr(text, ','); /* in some locales */
        if (comma)
            *comma = '.';
        double shorter = tn_json_number(text, (size_t)length);
        if ((float)shorter == value)
            return shorter;
    }
    return (double)value;
}

static tn_status read_number(const builder *b, const char *name, bool required, double *out) {
    char key[KEY_SIZE];
    const tn_gguf_value *value = find(b, name, key);
    if (!value && !required)
        return TN_OK;
    TN_TRY(tn_gguf_get_number(b->file, key, out));
    if (value->kind == TN_GGUF_F32)
        *out = shortest_decimal((float)*out);
    return isfinite(*out) ? TN_OK : tn_fail(TN_ERROR_FORMAT, "%s: the key '%s' is not finite", b->file->path, key);
}

static tn_status read_architecture(builder *b) {
    TN_TRY(tn_gguf_get_string(b->file, "general.architecture", &b->architecture));
    for (int i = 0; i < FAMILY_COUNT; i++) {
        if (strcmp(b->architecture, families[i][0]) != 0)
            continue;
        cJSON *list = cJSON_AddArrayToObject(b->json, "architectures");
        cJSON_AddItemToArray(list, cJSON_CreateString(families[i][1]));
        cJSON_AddStringToObject(b->json, "model_type", families[i][0]);
        return TN_OK;
    }
    return tn_fail(TN_ERROR_UNSUPPORTED,
                   "%s: GGUF models of the architecture '%.64s' are not supported; supported are llama and qwen2",
                   b->file->path, b->architecture);
}

static tn_status add_integer(builder *b, const char *key, const char *name) {
    int64_t value = 0;
    TN_TRY(read_integer(b, name, true, &value));
    cJSON_AddNumberToObject(b->json, key, (double)value);
    return TN_OK;
}

/* Rotation of a part of each head and values of another size than keys have no place in these families. */
static tn_status add_heads(builder *b, int64_t *head_size) {
    int64_t hidden = 0, heads = 0, kv_heads, value_length;
    TN_TRY(read_integer(b, "embedding_length", true, &hidden));
    TN_TRY(read_integer(b, "attention.head_count", true, &heads));
    kv_heads = heads;
    TN_TRY(read_integer(b, "attention.head_count_kv", false, &kv_heads));
    *head_size = heads > 0 && hidden > 0 ? hidden / heads : 0;
    TN_TRY(read_integer(b, "attention.key_length", false, head_size));
    value_length = *head_size;
    TN_TRY(read_integer(b, "attention.value_length", false, &value_length));
    int64_t rotated = *head_size;
    TN_TRY(read_integer(b, "rope.dimension_count", false, &rotated));
    if (value_length != *head_size || rotated != *head_size)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s: heads of %lld with values of %lld and %lld rotated dimensions are not supported; all three must "
                       "be the same",
                       b->file->path, (long long)*head_size, (long long)value_length, (long long)rotated);
    cJSON_AddNumberToObject(b->json, "num_attention_heads", (double)heads);
    cJSON_AddNumberToObject(b->json, "num_key_value_heads", (double)kv_heads);
    cJSON_AddNumberToObject(b->json, "head_dim", (double)*head_size);
    return TN_OK;
}

void tn_llama3_frequency_factors(float *out, int64_t head_size, double theta, const tn_llama3_scaling *s) {
    const double full_turn = 6.283185307179586;
    for (int64_t i = 0; i < head_size / 2; i++) {
        double turns = s->original_max_positions / (full_turn * pow(theta, 2 * (double)i / (double)head_size));
        double smooth = (turns - s->low_freq_factor) / (s->high_freq_factor - s->low_freq_factor);
        if (turns > s->high_freq_factor)
            out[i] = 1;
        else if (turns < s->low_freq_factor)
            out[i] = (float)s->factor;
        else
            out[i] = (float)(1 / ((1 - smooth) / s->factor + smooth));
    }
}

static bool nearly_equal(const float *a, const float *b, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!(fabsf(a[i] - b[i]) <= 1e-4f * fabsf(b[i])))
            return false;
    return true;
}

/* rope_freqs.weight holds what Llama 3's scaling divides frequencies by; its parameters are found again by the largest one,
 * the other three being those of all Llama 3 models unless the file names the original context. */
static tn_status add_frequency_factors(builder *b, const tn_gguf_tensor *tensor, int64_t head_size, double theta) {
    const int64_t count = head_size / 2;
    int64_t original = 8192;
    tn_tensor plain;
    if (count < 1 || tensor->rows != 1 || tensor->columns != count || tensor->type != TN_GGML_F32 ||
        !tn_gguf_plain_tensor(tensor, &plain))
        return tn_fail(TN_ERROR_FORMAT, "%s: tensor 'rope_freqs.weight' must hold %lld aligned values of F32", b->file->path,
                       (long long)count);
    TN_TRY(read_integer(b, "rope.scaling.original_context_length", false, &original));
    const float *stored = plain.data;
    tn_llama3_scaling scaling = {.factor = 1, .low_freq_factor = 1, .high_freq_factor = 4};
    scaling.original_max_positions = (double)original;
    for (int64_t i = 0; i < count; i++)
        scaling.factor = stored[i] > scaling.factor ? shortest_decimal(stored[i]) : scaling.factor;
    float *expected = tn_malloc((size_t)count * sizeof *expected);
    if (!expected)
        return tn_fail_memory("rotary frequencies");
    tn_llama3_frequency_factors(expected, head_size, theta, &scaling);
    bool known = nearly_equal(stored, expected, count);
    tn_free(expected);
    if (!known)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s: the factors of tensor 'rope_freqs.weight' are not those of Llama 3 (low_freq_factor 1, "
                       "high_freq_factor 4, %lld original positions), and others are not supported",
                       b->file->path, (long long)original);
    if (scaling.factor == 1)
        return TN_OK;
    cJSON *o = cJSON_AddObjectToObject(b->json, "rope_scaling");
    cJSON_AddStringToObject(o, "rope_type", "llama3");
    cJSON_AddNumberToObject(o, "factor", scaling.factor);
    cJSON_AddNumberToObject(o, "low_freq_factor", scaling.low_freq_factor);
    cJSON_AddNumberToObject(o, "high_freq_factor", scaling.high_freq_factor);
    cJSON_AddNumberToObject(o, "original_max_position_embeddings", (double)original);
    return TN_OK;
}

/* llama.cpp multiplies cos and sin of yarn by attn_factor (1 + 0.1 ln factor). */
static tn_status add_scaling(builder *b) {
    char key[KEY_SIZE];
    const char *type = "none";
    double factor = 0, attention_factor = 1, beta_fast = 0, beta_slow = 0;
    int64_t original = 0;
    if (find(b, "rope.scaling.type", key))
        TN_TRY(tn_gguf_get_string(b->file, key, &type));
    else if (find(b, "rope.scale_linear", key))
        type = "linear"; /* as old files spell it */
    TN_TRY(read_number(b, "rope.scale_linear", false, &factor));
    TN_TRY(read_number(b, "rope.scaling.factor", false, &factor));
    TN_TRY(read_number(b, "rope.scaling.attn_factor", false, &attention_factor));
    TN_TRY(read_number(b, "rope.scaling.yarn_beta_fast", false, &beta_fast));
    TN_TRY(read_number(b, "rope.scaling.yarn_beta_slow", false, &beta_slow));
    TN_TRY(read_integer(b, "rope.scaling.original_context_length", false, &original));
    if (strcmp(type, "none") == 0 || factor == 1 || factor == 0)
        return TN_OK;
    if (strcmp(type, "linear") != 0 && strcmp(type, "yarn") != 0)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s: rope scaling '%.64s' is not supported; supported are none, linear and yarn", b->file->path,
                       type);
    cJSON *o = cJSON_AddObjectToObject(b->json, "rope_scaling");
    cJSON_AddStringToObject(o, "rope_type", type);
    cJSON_AddNumberToObject(o, "factor", factor);
    if (strcmp(type, "linear") == 0)
        return TN_OK;
    if (original)
        cJSON_AddNumberToObject(o, "original_max_position_embeddings", (double)original);
    if (beta_fast != 0)
        cJSON_AddNumberToObject(o, "beta_fast", beta_fast);
    if (beta_slow != 0)
        cJSON_AddNumberToObject(o, "beta_slow", beta_slow);
    if (attention_factor != 1)
        cJSON_AddNumberToObject(o, "attention_factor", attention_factor * (factor > 1 ? 1 + 0.1 * log(factor) : 1));
    return TN_OK;
}

static tn_status add_rope(builder *b, int64_t head_size) {
    double theta = 10000;
    TN_TRY(read_number(b, "rope.freq_base", false, &theta));
    cJSON_AddNumberToObject(b->json, "rope_theta", theta);
    const tn_gguf_tensor *factors = tn_gguf_find_tensor(b->file, "rope_freqs.weight");
    TN_TRY(add_scaling(b));
    if (!factors)
        return TN_OK;
    if (tn_json_get(b->json, "rope_scaling"))
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: rope scaling and tensor 'rope_freqs.weight' together are not supported",
                       b->file->path);
    return add_frequency_factors(b, factors, head_size, theta);
}

static tn_status add_vocabulary(builder *b) {
    static const char *const end_keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};
    const tn_gguf_value *tokens = tn_gguf_find(b->file, "tokenizer.ggml.tokens");
    int64_t bos = -1, last = -1;
    if (tokens && tokens->is_array)
        cJSON_AddNumberToObject(b->json, "vocab_size", (double)tokens->count);
    else
        TN_TRY(add_integer(b, "vocab_size", "vocab_size"));
    if (tn_gguf_find(b->file, "tokenizer.ggml.bos_token_id"))
        TN_TRY(tn_gguf_get_integer(b->file, "tokenizer.ggml.bos_token_id", &bos));
    if (bos >= 0)
        cJSON_AddNumberToObject(b->json, "bos_token_id", (double)bos);
    cJSON *ends = cJSON_CreateArray();
    for (int i = 0; i < 2; i++) {
        int64_t id = -1;
        tn_status status = tn_gguf_find(b->file, end_keys[i]) ? tn_gguf_get_integer(b->file, end_keys[i], &id) : TN_OK;
        if (status != TN_OK) {
            cJSON_Delete(ends);
            return status;
        }
        if (id >= 0 && id != last)
            cJSON_AddItemToArray(ends, cJSON_CreateNumber((double)id));
        last = id;
    }
    if (cJSON_GetArraySize(ends) > 1) {
        cJSON_AddItemToObject(b->json, "eos_token_id", ends);
        return TN_OK;
    }
    if (ends && ends->child)
        cJSON_AddNumberToObject(b->json, "eos_token_id", ends->child->valuedouble);
    cJSON_Delete(ends);
    return TN_OK;
}

static void add_dtype(builder *b, const tn_gguf_tensor *embedding) {
    const char *name = "float32";
    if (embedding && embedding->type == TN_GGML_F16)
        name = "float16";
    else if (embedding && embedding->type == TN_GGML_BF16)
        name = "bfloat16";
    cJSON_AddStringToObject(b->json, "torch_dtype", name);
}

static tn_status build(builder *b) {
    int64_t head_size, experts = 0;
    double eps = 0;
    TN_TRY(read_architecture(b));
    bool is_llama = strcmp(b->architecture, "llama") == 0;
    TN_TRY(read_integer(b, "expert_count", false, &experts));
    if (experts)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: mixtures of experts are not supported", b->file->path);
    TN_TRY(add_integer(b, "hidden_size", "embedding_length"));
    TN_TRY(add_integer(b, "intermediate_size", "feed_forward_length"));
    TN_TRY(add_integer(b, "num_hidden_layers", "block_count"));
    TN_TRY(add_integer(b, "max_position_embeddings", "context_length"));
    TN_TRY(add_heads(b, &head_size));
    TN_TRY(read_number(b, "attention.layer_norm_rms_epsilon", true, &eps));
    cJSON_AddNumberToObject(b->json, "rms_norm_eps", eps);
    TN_TRY(add_rope(b, head_size));
    TN_TRY(add_vocabulary(b));
    cJSON_AddStringToObject(b->json, "hidden_act", "silu");
    cJSON_AddNumberToObject(b->json, "initializer_range", 0.02);
    if (is_llama) {
        cJSON_AddBoolToObject(b->json, "attention_bias", tn_gguf_find_tensor(b->file, "blk.0.attn_q.bias") != NULL);
        cJSON_AddBoolToObject(b->json, "mlp_bias", tn_gguf_find_tensor(b->file, "blk.0.ffn_up.bias") != NULL);
    } else {
        cJSON_AddFalseToObject(b->json, "use_sliding_window");
    }
    cJSON_AddBoolToObject(b->json, "tie_word_embeddings", !tn_gguf_find_tensor(b->file, "output.weight"));
    add_dtype(b, tn_gguf_find_tensor(b->file, "token_embd.weight"));
    return TN_OK;
}

tn_status tn_gguf_config(tn_gguf *file, cJSON **out) {
    builder b = {.file = file, .json = cJSON_CreateObject()};
    *out = NULL;
    tn_status status = b.json ? build(&b) : tn_fail_memory("the configuration");
    if (status == TN_OK)
        *out = b.json;
    else
        cJSON_Delete(b.json);
    return status;
}

tn_status tn_gguf_config_read(const char *path, cJSON **out) {
    tn_gguf file;
    *out = NULL;
    TN_TRY(tn_gguf_open(path, &file));
    tn_status status = tn_gguf_config(&file, out);
    tn_gguf_close(&file);
    return status;
}
