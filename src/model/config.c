/* Families differ in a few switches; everything else is shared. */
#include "model/config.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

typedef struct {
    const char *model_type, *architecture;
    bool is_gpt2, qkv_bias, qk_norm, reads_attention_bias, reads_mlp_bias, always_windowed, optional_window;
} family;

static const family families[] = {
    {.model_type = "gpt2", .architecture = "GPT2LMHeadModel", .is_gpt2 = true},
    {.model_type = "llama", .architecture = "LlamaForCausalLM", .reads_attention_bias = true, .reads_mlp_bias = true},
    {.model_type = "mistral", .architecture = "MistralForCausalLM", .always_windowed = true},
    {.model_type = "qwen2", .architecture = "Qwen2ForCausalLM", .qkv_bias = true, .optional_window = true},
    {.model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .qk_norm = true,
     .reads_attention_bias = true,
     .optional_window = true},
};
enum { FAMILY_COUNT = sizeof families / sizeof *families };

/* Sizes beyond these are lies or mistakes; they also keep all products of two within 64 bits. */
enum { MOST_LAYERS = 10000 };
static const int64_t MOST_SIZE = INT64_C(1) << 28, MOST_HEAD_SIZE = 4096;

static tn_status find_family(const cJSON *json, const char *where, const family **out) {
    const char *model_type = NULL;
    TN_TRY(tn_json_get_string(json, "model_type", where, &model_type));
    const cJSON *architecture = cJSON_GetArrayItem(tn_json_get(json, "architectures"), 0);
    for (int i = 0; i < FAMILY_COUNT; i++) {
        bool by_type = model_type && strcmp(model_type, families[i].model_type) == 0;
        bool by_class =
            !model_type && cJSON_IsString(architecture) && strcmp(architecture->valuestring, families[i].architecture) == 0;
        if (by_type || by_class) {
            *out = &families[i];
            return TN_OK;
        }
    }
    tn_buf names = {0};
    for (int i = 0; i < FAMILY_COUNT; i++)
        tn_buf_printf(&names, "%s%s (%s)", i ? ", " : "", families[i].model_type, families[i].architecture);
    const char *found = model_type ? model_type : cJSON_IsString(architecture) ? architecture->valuestring : "none given";
    tn_status status = tn_fail(TN_ERROR_UNSUPPORTED, "%s: the architecture '%s' is not supported; supported are %s", where,
                               found, tn_buf_text(&names));
    tn_buf_free(&names);
    return status;
}

static tn_status required_size(const cJSON *json, const char *key, const char *where, int64_t high, int64_t *out) {
    if (!tn_json_get(json, key))
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' is missing", where, key);
    return tn_json_get_int(json, key, where, 1, high, out);
}

static tn_status parse_rope_type(const char *name, const char *where, tn_rope_type *out) {
    static const char *const names[] = {"default", "linear", "llama3", "yarn"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (tn_rope_type)i;
            return TN_OK;
        }
    }
    return tn_fail(TN_ERROR_UNSUPPORTED,
                   "%s: rope_type '%s' is not supported; supported are default, linear, llama3 and yarn", where, name);
}

/* transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters. */
static tn_status parse_rope(const cJSON *json, const char *where, tn_decoder_config *c) {
    tn_rope_config *rope = &c->rope;
    *rope = (tn_rope_config){.theta = 10000,
                             .factor = 1,
                             .low_freq_factor = 1,
                             .high_freq_factor = 4,
                             .beta_fast = 32,
                             .beta_slow = 1,
                             .truncate = true,
                             .original_max_positions = c->max_positions};
    TN_TRY(tn_json_get_double(json, "rope_theta", where, &rope->theta));
    const cJSON *scaling = tn_json_get(json, "rope_parameters");
    if (!scaling)
        scaling = tn_json_get(json, "rope_scaling");
    if (scaling && !cJSON_IsObject(scaling))
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' must be an object", where, scaling->string);
    if (scaling) {
        const char *type = "default";
        TN_TRY(tn_json_get_string(scaling, "type", where, &type));
        TN_TRY(tn_json_get_string(scaling, "rope_type", where, &type));
        TN_TRY(parse_rope_type(type, where, &rope->type));
        TN_TRY(tn_json_get_double(scaling, "rope_theta", where, &rope->theta));
        TN_TRY(tn_json_get_double(scaling, "factor", where, &rope->factor));
        TN_TRY(tn_json_get_double(scaling, "low_freq_factor", where, &rope->low_freq_factor));
        TN_TRY(tn_json_get_double(scaling, "high_freq_factor", where, &rope->high_freq_factor));
        TN_TRY(tn_json_get_double(scaling, "beta_fast", where, &rope->beta_fast));
        TN_TRY(tn_json_get_double(scaling, "beta_slow", where, &rope->beta_slow));
        TN_TRY(tn_json_get_double(scaling, "attention_factor", where, &rope->attention_factor));
        TN_TRY(tn_json_get_double(scaling, "mscale", where, &rope->mscale));
        TN_TRY(tn_json_get_double(scaling, "mscale_all_dim", where, &rope->mscale_all_dim));
        TN_TRY(tn_json_get_bool(scaling, "truncate", where, &rope->truncate));
        TN_TRY(tn_json_get_int(scaling, "original_max_position_embeddings", where, 1, MOST_SIZE,
                               &rope->original_max_positions));
    }
    if (!(rope->theta > 0) || !(rope->factor > 0))
        return tn_fail(TN_ERROR_FORMAT, "%s: rope_theta and the rope factor must be above 0", where);
    if (rope->type == TN_ROPE_LLAMA3 && !(rope->high_freq_factor > rope->low_freq_factor && rope->low_freq_factor > 0))
        return tn_fail(TN_ERROR_FORMAT, "%s: llama3 rope scaling needs 0 < low_freq_factor < high_freq_factor", where);
    if (rope->type == TN_ROPE_YARN && !(rope->beta_fast > rope->beta_slow && rope->beta_slow > 0))
        return tn_fail(TN_ERROR_FORMAT, "%s: yarn rope scaling needs 0 < beta_slow < beta_fast", where);
    if (rope->type == TN_ROPE_YARN && !(rope->theta > 1))
        return tn_fail(TN_ERROR_FORMAT, "%s: yarn rope scaling needs a rope_theta above 1", where);
    return TN_OK;
}

/* layer_types (transformers 5) wins over use_sliding_window and max_window_layers (transformers 4). */
static tn_status parse_window(const cJSON *json, const char *where, const family *f, tn_decoder_config *c) {
    bool use_window = f->always_windowed;
    int64_t window = f->always_windowed || f->optional_window ? 4096 : 0;
    if (cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(json, "sliding_window")))
        window = 0;
    TN_TRY(tn_json_get_int(json, "sliding_window", where, 1, MOST_SIZE, &window));
    if (f->optional_window) {
        TN_TRY(tn_json_get_bool(json, "use_sliding_window", where, &use_window));
        c->first_window_layer = 28;
        TN_TRY(tn_json_get_int(json, "max_window_layers", where, 0, MOST_SIZE, &c->first_window_layer));
    }
    c->window = use_window ? window : 0;
    const cJSON *types = tn_json_get(json, "layer_types");
    if (!types || !c->window)
        return TN_OK;
    if (!cJSON_IsArray(types) || cJSON_GetArraySize(types) != (int)c->layers)
        return tn_fail(TN_ERROR_FORMAT, "%s: 'layer_types' must list one type for each of the %lld layers", where,
                       (long long)c->layers);
    c->layer_window = tn_calloc((size_t)c->layers, 1);
    if (!c->layer_window)
        return tn_fail_memory("the layer types");
    int64_t layer = 0;
    const cJSON *type;
    cJSON_ArrayForEach(type, types) {
        bool sliding = cJSON_IsString(type) && strcmp(type->valuestring, "sliding_attention") == 0;
        if (!sliding && !(cJSON_IsString(type) && strcmp(type->valuestring, "full_attention") == 0))
            return tn_fail(TN_ERROR_UNSUPPORTED, "%s: layer_types[%lld] is neither full_attention nor sliding_attention",
                           where, (long long)layer);
        c->layer_window[layer++] = sliding;
    }
    return TN_OK;
}

static tn_status parse_special_tokens(const cJSON *json, const char *where, tn_decoder_config *c) {
    int64_t bos = -1;
    TN_TRY(tn_json_get_int(json, "bos_token_id", where, -1, INT32_MAX, &bos));
    c->bos = (int32_t)bos;
    const cJSON *eos = tn_json_get(json, "eos_token_id");
    int count = cJSON_IsArray(eos) ? cJSON_GetArraySize(eos) : eos ? 1 : 0;
    for (int i = 0; i < count && i < 8; i++) {
        const cJSON *id = cJSON_IsArray(eos) ? cJSON_GetArrayItem(eos, i) : eos;
        if (!cJSON_IsNumber(id) || id->valuedouble < 0 || id->valuedouble > INT32_MAX)
            return tn_fail(TN_ERROR_FORMAT, "%s: 'eos_token_id' must be a token id or a list of them", where);
        c->eos[c->eos_count++] = (int32_t)id->valuedouble;
    }
    return TN_OK;
}

static tn_status parse_head_size(const cJSON *json, const char *where, const family *f, tn_decoder_config *c) {
    bool is_given = tn_json_get(json, "head_dim") != NULL;
    c->head_size = f->qk_norm ? 128 : c->hidden_size / c->heads;
    TN_TRY(tn_json_get_int(json, "head_dim", where, 2, MOST_HEAD_SIZE, &c->head_size));
    if (c->head_size > MOST_HEAD_SIZE)
        return tn_fail(TN_ERROR_FORMAT, "%s: heads of %lld (hidden_size / num_attention_heads) are too large", where,
                       (long long)c->head_size);
    if (c->head_size < 2 || c->head_size % 2)
        return tn_fail(TN_ERROR_FORMAT, "%s: the head size %lld must be even for rotary positions", where,
                       (long long)c->head_size);
    if (!is_given && !f->qk_norm && c->hidden_size % c->heads)
        return tn_fail(TN_ERROR_FORMAT,
                       "%s: hidden_size %lld is no multiple of num_attention_heads %lld, and there is no head_dim", where,
                       (long long)c->hidden_size, (long long)c->heads);
    if (c->heads * c->head_size > MOST_SIZE)
        return tn_fail(TN_ERROR_FORMAT, "%s: %lld heads of %lld are too large", where, (long long)c->heads,
                       (long long)c->head_size);
    return TN_OK;
}

static tn_status parse_llama(const cJSON *json, const char *where, const family *f, tn_decoder_config *c) {
    c->qkv_bias = f->qkv_bias;
    c->qk_norm = f->qk_norm;
    TN_TRY(required_size(json, "hidden_size", where, MOST_SIZE, &c->hidden_size));
    TN_TRY(required_size(json, "intermediate_size", where, MOST_SIZE, &c->intermediate_size));
    TN_TRY(required_size(json, "num_hidden_layers", where, MOST_LAYERS, &c->layers));
    TN_TRY(required_size(json, "num_attention_heads", where, MOST_SIZE, &c->heads));
    c->kv_heads = c->heads;
    TN_TRY(tn_json_get_int(json, "num_key_value_heads", where, 1, c->heads, &c->kv_heads));
    if (c->heads % c->kv_heads)
        return tn_fail(TN_ERROR_FORMAT, "%s: num_attention_heads %lld is no multiple of num_key_value_heads %lld", where,
                       (long long)c->heads, (long long)c->kv_heads);
    TN_TRY(parse_head_size(json, where, f, c));
    c->attention_scale = 1.0f / sqrtf((float)c->head_size);
    c->max_positions = 2048;
    TN_TRY(tn_json_get_int(json, "max_position_embeddings", where, 1, MOST_SIZE, &c->max_positions));
    c->norm_eps = 1e-6;
    TN_TRY(tn_json_get_double(json, "rms_norm_eps", where, &c->norm_eps));
    if (!(c->norm_eps > 0))
        return tn_fail(TN_ERROR_FORMAT, "%s: 'rms_norm_eps' must be above 0", where);
    if (f->reads_attention_bias) {
        TN_TRY(tn_json_get_bool(json, "attention_bias", where, &c->qkv_bias));
        c->output_bias = c->qkv_bias;
    }
    if (f->reads_mlp_bias)
        TN_TRY(tn_json_get_bool(json, "mlp_bias", where, &c->mlp_bias));
    const char *activation = "silu";
    TN_TRY(tn_json_get_string(json, "hidden_act", where, &activation));
    if (strcmp(activation, "silu") != 0)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: hidden_act '%s' is not supported; supported is silu", where, activation);
    TN_TRY(parse_rope(json, where, c));
    return parse_window(json, where, f, c);
}

static tn_status parse_activation(const cJSON *json, const char *where, tn_feed_forward *out) {
    static const struct {
        const char *name;
        tn_feed_forward value;
    } names[] = {{"gelu_new", TN_FEED_FORWARD_GELU_TANH},
                 {"gelu", TN_FEED_FORWARD_GELU},
                 {"gelu_pytorch_tanh", TN_FEED_FORWARD_GELU_TANH},
                 {"gelu_fast", TN_FEED_FORWARD_GELU_TANH},
                 {"relu", TN_FEED_FORWARD_RELU},
                 {"silu", TN_FEED_FORWARD_SILU},
                 {"swish", TN_FEED_FORWARD_SILU},
                 {"tanh", TN_FEED_FORWARD_TANH}};
    const char *name = "gelu_new";
    TN_TRY(tn_json_get_string(json, "activation_function", where, &name));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i].name) == 0) {
            *out = names[i].value;
            return TN_OK;
        }
    }
    return tn_fail(TN_ERROR_UNSUPPORTED,
                   "%s: activation_function '%s' is not supported; supported are gelu_new, gelu, gelu_pytorch_tanh, "
                   "gelu_fast, relu, silu, swish and tanh",
                   where, name);
}

/* Dropouts are for training in full and left out, as for the other families; reorder_and_upcast_attn changes no result. */
static tn_status parse_gpt2(const cJSON *json, const char *where, tn_decoder_config *c) {
    bool scaled = true, cross_attention = false;
    c->is_gpt2 = c->tied = c->qkv_bias = c->output_bias = c->mlp_bias = true;
    TN_TRY(required_size(json, "n_embd", where, MOST_SIZE, &c->hidden_size));
    TN_TRY(required_size(json, "n_layer", where, MOST_LAYERS, &c->layers));
    TN_TRY(required_size(json, "n_head", where, MOST_SIZE, &c->heads));
    if (c->hidden_size % c->heads)
        return tn_fail(TN_ERROR_FORMAT, "%s: n_embd %lld is no multiple of n_head %lld", where, (long long)c->hidden_size,
                       (long long)c->heads);
    c->kv_heads = c->heads;
    c->head_size = c->hidden_size / c->heads;
    if (c->head_size > MOST_HEAD_SIZE || c->hidden_size > MOST_SIZE / 4)
        return tn_fail(TN_ERROR_FORMAT, "%s: n_embd %lld is too large", where, (long long)c->hidden_size);
    c->intermediate_size = 4 * c->hidden_size;
    TN_TRY(tn_json_get_int(json, "n_inner", where, 1, MOST_SIZE, &c->intermediate_size));
    c->max_positions = 1024;
    TN_TRY(tn_json_get_int(json, "n_ctx", where, 1, MOST_SIZE, &c->max_positions));
    TN_TRY(tn_json_get_int(json, "n_positions", where, 1, MOST_SIZE, &c->max_positions));
    c->norm_eps = 1e-5;
    TN_TRY(tn_json_get_double(json, "layer_norm_epsilon", where, &c->norm_eps));
    if (!(c->norm_eps > 0))
        return tn_fail(TN_ERROR_FORMAT, "%s: 'layer_norm_epsilon' must be above 0", where);
    TN_TRY(parse_activation(json, where, &c->feed_forward));
    TN_TRY(tn_json_get_bool(json, "scale_attn_weights", where, &scaled));
    TN_TRY(tn_json_get_bool(json, "scale_attn_by_inverse_layer_idx", where, &c->scale_by_layer));
    c->attention_scale = scaled ? 1.0f / sqrtf((float)c->head_size) : 1;
    TN_TRY(tn_json_get_bool(json, "add_cross_attention", where, &cross_attention));
    if (cross_attention)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s: add_cross_attention is for an encoder beside the model, which is not "
                       "supported",
                       where);
    return TN_OK;
}

/* Weights say themselves how they are quantised; other methods' would be taken for missing tensors. */
static tn_status check_quantization(const cJSON *json, const char *where) {
    const cJSON *quantization = tn_json_get(json, "quantization_config");
    const char *method = "unknown";
    TN_TRY(tn_json_get_string(quantization, "quant_method", where, &method));
    if (quantization && strcmp(method, "bitsandbytes") != 0 && strcmp(method, "tenon") != 0)
        return tn_fail(
            TN_ERROR_UNSUPPORTED,
            "%s: weights quantised by '%s' are not read, only those of bitsandbytes, GGUF and tenon quantize; use "
            "the checkpoint in f32, bf16 or f16",
            where, method);
    return TN_OK;
}

static tn_status parse(const cJSON *json, const char *where, tn_decoder_config *c) {
    const family *f = NULL;
    if (!cJSON_IsObject(json))
        return tn_fail(TN_ERROR_FORMAT, "%s: not a JSON object", where);
    TN_TRY(find_family(json, where, &f));
    TN_TRY(check_quantization(json, where));
    c->family = f->model_type;
    TN_TRY(required_size(json, "vocab_size", where, MOST_SIZE, &c->vocab_size));
    TN_TRY(f->is_gpt2 ? parse_gpt2(json, where, c) : parse_llama(json, where, f, c));
    c->initializer_range = 0.02;
    TN_TRY(tn_json_get_double(json, "initializer_range", where, &c->initializer_range));
    if (c->initializer_range < 0)
        return tn_fail(TN_ERROR_FORMAT, "%s: 'initializer_range' must not be negative", where);
    TN_TRY(tn_json_get_bool(json, "tie_word_embeddings", where, &c->tied));
    return parse_special_tokens(json, where, c);
}

tn_status tn_decoder_config_parse(const cJSON *json, const char *where, tn_decoder_config *out) {
    *out = (tn_decoder_config){0};
    tn_status status = parse(json, where, out);
    if (status != TN_OK)
        tn_decoder_config_free(out);
    return status;
}

void tn_decoder_config_free(tn_decoder_config *config) {
    tn_free(config->layer_window);
    *config = (tn_decoder_config){0};
}

int64_t tn_decoder_length(const tn_decoder_config *config, int64_t wish) {
    return !wish || (config->is_gpt2 && wish > config->max_positions) ? config->max_positions : wish;
}

float tn_decoder_attention_scale(const tn_decoder_config *config, int64_t layer) {
    return config->scale_by_layer ? config->attention_scale / (float)(layer + 1) : config->attention_scale;
}

int64_t tn_decoder_window(const tn_decoder_config *config, int64_t layer) {
    bool has = config->layer_window ? config->layer_window[layer] : layer >= config->first_window_layer;
    return has ? config->window : 0;
}
