/* A pretrained decoder-only language model of the Hugging Face families: modules over mapped weights, and one forward for
 * training, evaluation and generation. */
#ifndef TN_MODEL_DECODER_H
#define TN_MODEL_DECODER_H

#include "model/config.h"
#include "model/network.h"

typedef struct tn_decoder_layer {
    tn_module *input_norm, *q, *k, *v, *o, *q_norm, *k_norm, *post_norm, *gate, *up, *down;
    tn_module *qkv; /* GPT-2: instead of q, k and v; there is no gate either */
} tn_decoder_layer;

/* The base's own layers, put aside while a stack of them is in use. */
typedef struct tn_decoder_stack {
    tn_module *modules; /* NULL: nothing was put aside */
    int64_t module_count;
    tn_map by_name;
    tn_decoder_layer *layers;
    int64_t layer_count;
    tn_module *embedding, *final_norm, *head;
} tn_decoder_stack;

typedef struct tn_decoder {
    tn_network net; /* first, so that hooks of its kind find the decoder */
    tn_decoder_config config;
    tn_decoder_layer *layers; /* [net.layer_count]: config.layers unless layers were replicated */
    tn_module *final_norm;
    tn_module *positions; /* embedding of learned positions, or NULL */
    tn_decoder_stack base_stack;
    float *rope_cos, *rope_sin;
    int64_t rope_positions;
} tn_decoder;

/* Loads config.json and maps the weights of `dir`, or of a GGUF file (tn_gguf_locate). Every tensor of the architecture must
 * be there with its shape and without a NaN or infinity. Free with tn_decoder_free (NULL is fine). */
tn_status tn_decoder_load(const char *dir, tn_decoder **out);

/* From config.json alone (`path`: the file or its folder): weights N(0, initializer_range), norms 1, biases 0, by `seed`. */
tn_status tn_decoder_create(const char *path, uint64_t seed, tn_decoder **out);
void tn_decoder_free(tn_decoder *model);

/* Prepares positions 0 .. positions - 1; call before a forward that needs them. Fails where positions are learned and these
 * are more than the model has. */
tn_status tn_decoder_prepare(tn_decoder *model, int64_t positions);

/* Keys and values of earlier positions, one row [K*D] per position and layer. */
typedef struct tn_kv_cache {
    float **k, **v; /* [layers] of [sequences * capacity, K*D] */
    int64_t sequences, capacity;
    int64_t *lengths; /* [sequences] positions filled */
    int64_t row;      /* K*D */
    int64_t layers, bytes;
    char *memory;
} tn_kv_cache;

tn_status tn_kv_cache_init(tn_kv_cache *cache, const tn_decoder *model, int64_t sequences, int64_t capacity);
void tn_kv_cache_free(tn_kv_cache *cache);

/* A packed batch. Arrays must stay until the tape went back. */
typedef struct tn_tokens {
    const int32_t *ids, *positions; /* [count] */
    int64_t count;
    const tn_span *spans;
    int64_t span_count;
    tn_kv_cache *cache;        /* NULL, or where keys and values are appended and read */
    const int64_t *cache_rows; /* with a cache: [count] its row for each token */
    const bool *invoked;       /* with a cache: [count] see tn_forward; without one it is found from the ids */
    /* set by a pass: rows whose hidden states are asked for; NULL: all of them, or in a rehearsal any */
    const int32_t *output_rows; /* [output_count] */
    int64_t output_count;
} tn_tokens;

/* How activations are kept for the way back. */
typedef enum tn_checkpointing {
    TN_CHECKPOINTING_OFF,  /* as they are */
    TN_CHECKPOINTING_8BIT, /* in 8 bits where that will do (tn_node_keep_8bit) */
    TN_CHECKPOINTING_ON    /* recomputed from the input of each block */
} tn_checkpointing;

/* Whether the last block goes on with the asked for rows alone behind its attention: not when something acts by rows. */
bool tn_decoder_narrows(const tn_forward *forward, const tn_tokens *tokens);

/* Hidden states after the final norm: [output_count, C] of the asked for rows when tn_decoder_narrows, else [count, C].
 * Belongs to the caller. */
tn_var *tn_decoder_hidden(tn_decoder *model, const tn_forward *forward, const tn_tokens *tokens,
                          tn_checkpointing checkpointing);

#endif
