/* config.json of a Hugging Face checkpoint, as the one configurable decoder block understands it. */
#ifndef TN_MODEL_CONFIG_H
#define TN_MODEL_CONFIG_H

#include "format/json.h"

typedef enum tn_rope_type { TN_ROPE_DEFAULT, TN_ROPE_LINEAR, TN_ROPE_LLAMA3, TN_ROPE_YARN } tn_rope_type;

typedef struct tn_rope_config {
    tn_rope_type type;
    double theta, factor;
    double low_freq_factor, high_freq_factor;      /* llama3 */
    double beta_fast, beta_slow, attention_factor; /* yarn; attention_factor 0: derived from factor */
    double mscale, mscale_all_dim;                 /* yarn; 0: absent */
    bool truncate;                                 /* yarn: whole-number correction range */
    int64_t original_max_positions;
} tn_rope_config;

/* The feed-forward network: down(silu(gate) * up), or down(f(up)) without a gate. */
typedef enum tn_feed_forward {
    TN_FEED_FORWARD_SWIGLU,
    TN_FEED_FORWARD_GELU,
    TN_FEED_FORWARD_GELU_TANH,
    TN_FEED_FORWARD_RELU,
    TN_FEED_FORWARD_SILU,
    TN_FEED_FORWARD_TANH,
} tn_feed_forward;

typedef struct tn_decoder_config {
    const char *family; /* model_type: "gpt2", "llama", "mistral", "qwen2", "qwen3" */
    int64_t vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_size, max_positions;
    double norm_eps, initializer_range;
    bool qkv_bias, output_bias, mlp_bias; /* biases of q, k, v; of o; of gate, up, down */
    bool qk_norm;                         /* RMS norm of every query and key head before the rotation */
    bool is_gpt2;          /* LayerNorm, learned positions, one projection for q, k and v, weights stored [in, out] */
    bool scale_by_layer;   /* attention scores of layer i are divided by i + 1 as well */
    float attention_scale; /* on the scores, usually 1 / sqrt(head_size) */
    tn_feed_forward feed_forward;
    bool tied;                  /* the output head is the embedding */
    int64_t window;             /* sliding window of the layers that have one; 0: none */
    int64_t first_window_layer; /* layers from this on have the window ... */
    uint8_t *layer_window;      /* ... unless layer_types lists them: [layers] of 0 or 1; NULL when absent */
    tn_rope_config rope;
    int32_t bos, eos[8];
    int eos_count;
} tn_decoder_config;

/* Validates and fills; `where` names the file in errors. Unsupported architectures list the supported ones. */
tn_status tn_decoder_config_parse(const cJSON *json, const char *where, tn_decoder_config *out);
void tn_decoder_config_free(tn_decoder_config *config);

/* Tokens of a sample where `wish` were wished for (0: the model's positions): no more than there are learned positions. */
int64_t tn_decoder_length(const tn_decoder_config *config, int64_t wish);

/* The factor on the attention scores of one layer. */
float tn_decoder_attention_scale(const tn_decoder_config *config, int64_t layer);

/* The window of one layer; 0: none. */
int64_t tn_decoder_window(const tn_decoder_config *config, int64_t layer);

/* Fills cos and sin, [positions, D/2] each, for `config->rope`. */
void tn_rope_fill(const tn_decoder_config *config, int64_t positions, float *cos_table, float *sin_table);

#endif
