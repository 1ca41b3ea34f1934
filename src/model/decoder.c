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

static tn_var *normed(const block_context *c, const tn_module *norm, tn_var *x) {
    float eps = (float)c->model->config.norm_eps;
    return c->model->config.is_gpt2 ? tn_layernorm_forward(c->forward, norm, x, eps)
                                    : tn_norm_forward(c->forward, norm, x, eps, 1);
}

/* GPT-2: columns of one projection, without rotation. */
static void project_fused(const block_context *c, tn_var *h, tn_var *qkv[3]) {
    tn_tape *tape = c->forward->tape;
    tn_var *all = tn_linear_forward(c->forward, c->model->layers[c->layer].qkv, h);
    int64_t width = c->model->config.hidden_size;
    for (int i = 0; i < 3; i++)
        qkv[i] = tn_op_take_columns(tape, all, i * width, width);
    tn_drop(tape, all);
}

static void project(const block_context *c, tn_var *h, tn_var *qkv[3]) {
    const tn_decoder_layer *layer = &c->model->layers[c->layer];
    const tn_decoder_config *config = &c->model->config;
    tn_tape *tape = c->forward->tape;
    tn_rope_table table = {c->model->rope_cos, c->model->rope_sin};
    tn_linear_forward_each(c->forward, (const tn_module *[]){layer->q, layer->k, layer->v}, 3, h, qkv);
    qkv[0] = normed_heads(c, layer->q_norm, qkv[0], config->heads);
    qkv[1] = normed_heads(c, layer->k_norm, qkv[1], config->kv_heads);
    tn_op_rope(tape, qkv[0], c->tokens->positions, &table, config->heads, config->head_size);
    tn_op_rope(tape, qkv[1], c->tokens->positions, &table, config->kv_heads, config->head_size);
}

/* Attention over normed input h: [T, C] -> [T, H*D]. */
static tn_var *attend(const block_context *c, tn_var *h) {
    const tn_decoder_config *config = &c->model->config;
    const tn_tokens *tokens = c->tokens;
    tn_tape *tape = c->forward->tape;
    tn_attention_shape shape = {.heads = config->heads,
                                .kv_heads = config->kv_heads,
                                .head_size = config->head_size,
                                .window = tn_decoder_window(config, c->layer),
                                .scale = tn_decoder_attention_scale(config, c->layer)};
    tn_var *qkv[3], *out;
    if (config->is_gpt2)
        project_fused(c, h, qkv);
    else
        project(c, h, qkv);
    if (tokens->cache) {
        append_to_cache(c, qkv[1], qkv[2]);
        out = tn_op_attention_cached(tape, qkv[0], tokens->cache->k[c->layer], tokens->cache->v[c->layer], tokens->spans,
                                     tokens->span_count, &shape);
    } else {
        out = tn_op_attention(tape, qkv[0], qkv[1], qkv[2], tokens->spans, tokens->span_count, &shape);
    }
    for (int i = 0; i < 3; i++)
        tn_drop(tape, qkv[i]);
    return out;
}

/* What `down` reads, of normed input h. */
static tn_var *feed(const block_context *c, tn_var *h) {
    const tn_decoder_layer *layer = &c->model->layers[c->layer];
    tn_tape *tape = c->forward->tape;
    tn_var *both[2] = {NULL}, *inner = NULL;
    if (layer->gate)
        tn_linear_forward_each(c->forward, (const tn_module *[]){layer->gate, layer->up}, 2, h, both);
    else
        both[1] = tn_linear_forward(c->forward, layer->up, h);
    tn_var *gate = both[0], *up = both[1];
    switch (c->model->config.feed_forward) {
    case TN_FEED_FORWARD_SWIGLU: inner = tn_op_swiglu(tape, gate, up); break;
    case TN_FEED_FORWARD_GELU: inner = tn_op_gelu(tape, up, false); break;
    case TN_FEED_FORWARD_GELU_TANH: inner = tn_op_gelu(tape, up, true); break;
    case TN_FEED_FORWARD_SILU: inner = tn_op_silu(tape, up); break;
    case TN_FEED_FORWARD_TANH: inner = tn_op_tanh(tape, up); break;
    case TN_FEED_FORWARD_RELU: tn_op_relu(tape, up); return up;
    }
    tn_drop(tape, gate);
    tn_drop(tape, up);
    return inner;
}

bool tn_decoder_narrows(const tn_forward *forward, const tn_tokens *tokens) {
    return tokens->output_count < tokens->count && !forward->invoked && !forward->routing;
}

/* The asked for rows instead of *x, which is let go. */
static void narrow(const block_context *c, tn_var **x) {
    tn_var *all = *x;
    *x = tn_op_take_rows(c->forward->tape, all, c->tokens->output_rows, 0, c->tokens->output_count);
    tn_drop(c->forward->tape, all);
}

/* x + o(attention(norm(x))), then x + down(silu(gate) * up), or down(f(up)), of its norm. */
static tn_var *block(tn_tape *tape, void *context, tn_var *x) {
    const block_context *c = context;
    const tn_decoder_layer *layer = &c->model->layers[c->layer];
    tn_var *h = normed(c, layer->input_norm, x);
    tn_var *attended = attend(c, h), *rest = tn_hold(x);
    tn_drop(tape, h);
    if (c->layer == c->model->net.layer_count - 1 && tn_decoder_narrows(c->forward, c->tokens)) {
        narrow(c, &attended);
        narrow(c, &rest);
    }
    tn_var *middle = tn_linear_forward(c->forward, layer->o, attended);
    tn_drop(tape, attended);
    tn_op_add(tape, middle, rest, 1);
    tn_drop(tape, rest);

    h = normed(c, layer->post_norm, middle);
    tn_var *inner = feed(c, h);
    tn_drop(tape, h);
    tn_var *y = tn_linear_forward(c->forward, layer->down, inner);
    tn_drop(tape, inner);
    tn_op_add(tape, y, middle, 1);
    tn_drop(tape, middle);
    return y;
}

tn_var *tn_decoder_hidden(tn_decoder *model, const tn_forward *forward, const tn_tokens *tokens,
                          tn_checkpointing checkpointing) {
    tn_tape *tape = forward->tape;
    tape->keeps_8bit = checkpointing == TN_CHECKPOINTING_8BIT;
    tn_var *x = tn_embedding_forward(forward, model->net.embedding, tokens->ids, tokens->count);
    if (model->positions) {
        tn_var *places = tn_embedding_forward(forward, model->positions, tokens->positions, tokens->count);
        tn_op_add(tape, x, places, 1);
        tn_drop(tape, places);
    }
    block_context *contexts = tn_tape_store(tape, (size_t)model->net.layer_count * sizeof *contexts);
    for (int64_t i = 0; i < model->net.layer_count && contexts; i++) {
        contexts[i] = (block_context){model, forward, tokens, i};
        tn_var *y = checkpointing == TN_CHECKPOINTING_ON ? tn_checkpointed(tape, block, &contexts[i], x)
                                                         : block(tape, &contexts[i], x);
        tn_drop(tape, x);
        x = y;
    }
    tn_var *hidden = normed(&(block_context){.model = model, .forward = forward}, model->final_norm, x);
    tn_drop(tape, x);
    return hidden;
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
