/* The forward pass: every supported family is this block with switches from its config. */
#include "model/decoder.h"

#include <string.h>

typedef struct {
    tn_decoder *model;
    const tn_forward *forward;
    const tn_tokens *tokens;
    int64_t layer;
} block_context;

/* Copies new keys and values to their rows in the cache, which then serves all positions so far. */
static void append_to_cache(const block_context *c, const tn_var *k, const tn_var *v) {
    tn_kv_cache *cache = c->tokens->cache;
    if (!tn_tape_live(c->forward->tape))
        return;
    const tn_kernels *kernels = c->forward->tape->kernels;
    for (int64_t t = 0; t < c->tokens->count; t++) {
        int64_t at = c->tokens->cache_rows[t] * cache->row;
        kernels->copy(cache->k[c->layer] + at, k->data + t * cache->row, cache->row);
        kernels->copy(cache->v[c->layer] + at, v->data + t * cache->row, cache->row);
    }
}

static tn_var *normed_heads(const block_context *c, const tn_module *norm, tn_var *x, int64_t heads) {
    if (!norm)
        return x;
    tn_var *y = tn_norm_forward(c->forward, norm, x, (float)c->model->config.norm_eps, heads);
    tn_drop(c->forward->tape, x);
    return y;
}

/* Attention over normed input h: [T, C] -> [T, H*D]. */
static tn_var *attend(const block_context *c, tn_var *h) {
    const tn_decoder_layer *layer = &c->model->layers[c->layer];
    const tn_decoder_config *config = &c->model->config;
    const tn_tokens *tokens = c->tokens;
    tn_tape *tape = c->forward->tape;
    tn_rope_table table = {c->model->rope_cos, c->model->rope_sin};
    tn_attention_shape shape = {.heads = config->heads,
                                .kv_heads = config->kv_heads,
                                .head_size = config->head_size,
                                .window = tn_decoder_window(config, c->layer),
                                .scale = 1.0f / __builtin_sqrtf((float)config->head_size)};
    tn_var *q = normed_heads(c, layer->q_norm, tn_linear_forward(c->forward, layer->q, h), config->heads);
    tn_var *k = normed_heads(c, layer->k_norm, tn_linear_forward(c->forward, layer->k, h), config->kv_heads);
    tn_var *v = tn_linear_forward(c->forward, layer->v, h);
    tn_op_rope(tape, q, tokens->positions, &table, config->heads, config->head_size);
    tn_op_rope(tape, k, tokens->positions, &table, config->kv_heads, config->head_size);
    tn_var *out;
    if (tokens->cache) {
        append_to_cache(c, k, v);
        out = tn_op_attention_cached(tape, q, tokens->cache->k[c->layer], tokens->cache->v[c->layer], tokens->spans,
                                     tokens->span_count, &shape);
    } else {
        out = tn_op_attention(tape, q, k, v, tokens->spans, tokens->span_count, &shape);
    }
    tn_drop(tape, q);
    tn_drop(tape, k);
    tn_drop(tape, v);
    return out;
}

/* x + o(attention(norm(x))), then x + down(silu(gate) * up) of its norm. */
static tn_var *block(tn_tape *tape, void *context, tn_var *x) {
    const block_context *c = context;
    const tn_decoder_layer *layer = &c->model->layers[c->layer];
    float eps = (float)c->model->config.norm_eps;
    tn_var *h = tn_norm_forward(c->forward, layer->input_norm, x, eps, 1);
    tn_var *attended = attend(c, h);
    tn_drop(tape, h);
    tn_var *middle = tn_linear_forward(c->forward, layer->o, attended);
    tn_drop(tape, attended);
    tn_op_add(tape, middle, x, 1);

    h = tn_norm_forward(c->forward, layer->post_norm, middle, eps, 1);
    tn_var *gate = tn_linear_forward(c->forward, layer->gate, h), *up = tn_linear_forward(c->forward, layer->up, h);
    tn_drop(tape, h);
    tn_var *inner = tn_op_swiglu(tape, gate, up);
    tn_drop(tape, gate);
    tn_drop(tape, up);
    tn_var *y = tn_linear_forward(c->forward, layer->down, inner);
    tn_drop(tape, inner);
    tn_op_add(tape, y, middle, 1);
    tn_drop(tape, middle);
    return y;
}

tn_var *tn_decoder_hidden(tn_decoder *model, const tn_forward *forward, const tn_tokens *tokens,
                          tn_checkpointing checkpointing) {
    tn_tape *tape = forward->tape;
    tn_var *x = tn_embedding_forward(forward, model->net.embedding, tokens->ids, tokens->count);
    block_context *contexts = tn_tape_store(tape, (size_t)model->net.layer_count * sizeof *contexts);
    for (int64_t i = 0; i < model->net.layer_count && contexts; i++) {
        contexts[i] = (block_context){model, forward, tokens, i};
        tn_var *y = checkpointing == TN_CHECKPOINTING_ON ? tn_checkpointed(tape, block, &contexts[i], x)
                                                         : block(tape, &contexts[i], x);
        tn_drop(tape, x);
        x = y;
    }
    tn_var *hidden = tn_norm_forward(forward, model->final_norm, x, (float)model->config.norm_eps, 1);
    tn_drop(tape, x);
    return hidden;
}

tn_var *tn_decoder_logits(tn_tape *tape, void *context, tn_var *hidden) {
    const tn_decoder_head *head = context;
    (void)tape;
    return tn_linear_forward(head->forward, head->model->net.head, hidden);
}

tn_status tn_kv_cache_init(tn_kv_cache *cache, const tn_decoder *model, int64_t sequences, int64_t capacity) {
    int64_t row = model->config.kv_heads * model->config.head_size, rows, floats, bytes;
    *cache = (tn_kv_cache){.sequences = sequences, .capacity = capacity, .row = row, .layers = model->net.layer_count};
    if (!tn_mul_i64(sequences, capacity, &rows) || !tn_mul_i64(rows, row * 2 * model->net.layer_count, &floats) ||
        !tn_mul_i64(floats, (int64_t)sizeof(float), &bytes))
        return tn_fail(TN_ERROR_ARGUMENT, "a cache of %lld positions is too large", (long long)capacity);
    cache->bytes = bytes;
    cache->memory = tn_pages_alloc((size_t)bytes);
    cache->k = tn_calloc((size_t)model->net.layer_count * 2, sizeof *cache->k);
    cache->lengths = tn_calloc((size_t)sequences, sizeof *cache->lengths);
    if (!cache->memory || !cache->k || !cache->lengths) {
        tn_kv_cache_free(cache);
        return tn_fail_memory("the key and value cache");
    }
    cache->v = cache->k + model->net.layer_count;
    for (int64_t i = 0; i < model->net.layer_count * 2; i++)
        cache->k[i] = (float *)(void *)cache->memory + i * rows * row;
    return TN_OK;
}

void tn_kv_cache_free(tn_kv_cache *cache) {
    tn_pages_free(cache->memory, (size_t)cache->bytes);
    tn_free(cache->k);
    tn_free(cache->lengths);
    *cache = (tn_kv_cache){0};
}
