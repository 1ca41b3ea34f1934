/* From a folder to a decoder: modules are named as in the checkpoint, weights point into its mapping. */
#include <stdlib.h>
#include <string.h>

#include "model/decoder.h"

enum { MODULES_PER_LAYER = 11 };

/* layer -1: outside the blocks. */
static tn_module *add_module(tn_decoder *model, tn_module_kind kind, int layer, const char *name, int64_t rows, int64_t cols,
                             bool bias) {
    char full[128];
    if (layer < 0)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, model->config.is_gpt2 ? "transformer.h.%d.%s" : "model.layers.%d.%s", layer, name);
    const tn_tensor weight = {.dtype = TN_DTYPE_F32, .ndim = cols ? 2 : 1, .shape = {rows, cols}};
    return tn_network_add(&model->net, kind, layer, full, weight, rows, bias);
}

static tn_status build_layer(tn_decoder *model, int layer) {
    const tn_decoder_config *c = &model->config;
    tn_decoder_layer *l = &model->layers[layer];
    int64_t hidden = c->hidden_size, q = c->heads * c->head_size, kv = c->kv_heads * c->head_size,
            inner = c->intermediate_size;
    l->input_norm = add_module(model, TN_MODULE_NORM, layer, "input_layernorm", hidden, 0, false);
    l->q = add_module(model, TN_MODULE_LINEAR, layer, "self_attn.q_proj", q, hidden, c->qkv_bias);
    l->k = add_module(model, TN_MODULE_LINEAR, layer, "self_attn.k_proj", kv, hidden, c->qkv_bias);
    l->v = add_module(model, TN_MODULE_LINEAR, layer, "self_attn.v_proj", kv, hidden, c->qkv_bias);
    if (c->qk_norm) {
        l->q_norm = add_module(model, TN_MODULE_NORM, layer, "self_attn.q_norm", c->head_size, 0, false);
        l->k_norm = add_module(model, TN_MODULE_NORM, layer, "self_attn.k_norm", c->head_size, 0, false);
    }
    l->o = add_module(model, TN_MODULE_LINEAR, layer, "self_attn.o_proj", hidden, q, c->output_bias);
    l->post_norm = add_module(model, TN_MODULE_NORM, layer, "post_attention_layernorm", hidden, 0, false);
    l->gate = add_module(model, TN_MODULE_LINEAR, layer, "mlp.gate_proj", inner, hidden, c->mlp_bias);
    l->up = add_module(model, TN_MODULE_LINEAR, layer, "mlp.up_proj", inner, hidden, c->mlp_bias);
    l->down = add_module(model, TN_MODULE_LINEAR, layer, "mlp.down_proj", hidden, inner, c->mlp_bias);
    return l->down && l->up && l->gate && l->post_norm && l->o && l->v && l->k && l->q && l->input_norm
               ? TN_OK
               : tn_fail_memory("the modules");
}

/* A Conv1D: stored [in, out]. */
static tn_module *add_transposed(tn_decoder *model, int layer, const char *name, int64_t out, int64_t in) {
    tn_module *m = add_module(model, TN_MODULE_LINEAR, layer, name, in, out, true);
    if (m) {
        m->weight.transposed = true;
        m->bias.tensor.shape[0] = out;
    }
    return m;
}

static tn_status build_gpt2_layer(tn_decoder *model, int layer) {
    const tn_decoder_config *c = &model->config;
    tn_decoder_layer *l = &model->layers[layer];
    int64_t hidden = c->hidden_size, inner = c->intermediate_size;
    l->input_norm = add_module(model, TN_MODULE_NORM, layer, "ln_1", hidden, 0, true);
    l->qkv = add_transposed(model, layer, "attn.c_attn", 3 * hidden, hidden);
    l->o = add_transposed(model, layer, "attn.c_proj", hidden, hidden);
    l->post_norm = add_module(model, TN_MODULE_NORM, layer, "ln_2", hidden, 0, true);
    l->up = add_transposed(model, layer, "mlp.c_fc", inner, hidden);
    l->down = add_transposed(model, layer, "mlp.c_proj", hidden, inner);
    return l->down && l->up && l->post_norm && l->o && l->qkv && l->input_norm ? TN_OK : tn_fail_memory("the modules");
}

static tn_status replicate(tn_network *network, const int64_t (*ranges)[2], int64_t count);
static void unreplicate(tn_network *network);
static const tn_network_kind decoder_kind = {.replicate = replicate, .unreplicate = unreplicate};
static const tn_network_kind gpt2_kind = {0};

static tn_status build_modules(tn_decoder *model) {
    const tn_decoder_config *c = &model->config;
    tn_network *net = &model->net;
    net->family = c->family;
    net->layer_count = c->layers;
    net->vocab_size = c->vocab_size;
    net->tied = c->tied;
    net->default_targets = c->is_gpt2 ? "c_attn" : "q_proj,v_proj";
    if (c->is_gpt2) {
        net->kind = &gpt2_kind;
        net->optional_prefix = "transformer.";
    }
    TN_TRY(tn_network_reserve(net, c->layers * MODULES_PER_LAYER + 4));
    model->layers = tn_calloc((size_t)c->layers, sizeof *model->layers);
    if (!model->layers)
        return tn_fail_memory("the modules");
    net->embedding = add_module(model, TN_MODULE_EMBEDDING, -1, c->is_gpt2 ? "transformer.wte" : "model.embed_tokens",
                                c->vocab_size, c->hidden_size, false);
    if (c->is_gpt2) {
        model->positions =
            add_module(model, TN_MODULE_EMBEDDING, -1, "transformer.wpe", c->max_positions, c->hidden_size, false);
        if (!model->positions)
            return tn_fail_memory("the modules");
    }
    for (int64_t i = 0; i < c->layers; i++)
        TN_TRY(c->is_gpt2 ? build_gpt2_layer(model, (int)i) : build_layer(model, (int)i));
    model->final_norm =
        add_module(model, TN_MODULE_NORM, -1, c->is_gpt2 ? "transformer.ln_f" : "model.norm", c->hidden_size, 0, c->is_gpt2);
    net->head = add_module(model, TN_MODULE_LINEAR, -1, "lm_head", c->vocab_size, c->hidden_size, false);
    if (!net->embedding || !model->final_norm || !net->head)
        return tn_fail_memory("the modules");
    net->head->is_head = true;
    if (c->tied)
        net->head->tied = net->embedding;
    return TN_OK;
}

static tn_status new_decoder(const char *dir, const char *config_path, tn_decoder **out) {
    tn_decoder *model = tn_calloc(1, sizeof *model);
    tn_status status;
    if (!model)
        return tn_fail_memory("the model");
    TN_TRY_GOTO(tn_network_init(&model->net, &decoder_kind, dir, config_path));
    TN_TRY_GOTO(tn_decoder_config_parse(model->net.json, config_path, &model->config));
    TN_TRY_GOTO(build_modules(model));
    *out = model;
    return TN_OK;
fail:
    tn_decoder_free(model);
    return status;
}

tn_status tn_decoder_load(const char *dir, tn_decoder **out) {
    char config_path[TN_PATH_MAX];
    bool is_gguf;
    tn_decoder *model = NULL;
    *out = NULL;
    TN_TRY(tn_gguf_locate(dir, config_path, &is_gguf));
    if (is_gguf)
        dir = config_path;
    else if (!tn_path_is_dir(dir))
        return tn_fail(
            TN_ERROR_IO,
            "%s is not a folder; a model is a folder with config.json, model.safetensors and tokenizer.json, or a "
            "GGUF file",
            dir);
    else
        TN_TRY(tn_path_join(config_path, dir, "config.json"));
    TN_TRY(new_decoder(dir, config_path, &model));
    tn_status status = tn_network_load(&model->net);
    if (status != TN_OK) {
        tn_decoder_free(model);
        return status;
    }
    *out = model;
    return TN_OK;
}

tn_status tn_decoder_create(const char *path, uint64_t seed, tn_decoder **out) {
    char config_path[TN_PATH_MAX], dir[TN_PATH_MAX];
    tn_decoder *model = NULL;
    *out = NULL;
    TN_TRY(tn_network_locate(path, dir, config_path));
    TN_TRY(new_decoder(dir, config_path, &model));
    tn_status status = tn_network_fill_random(&model->net, (float)model->config.initializer_range, seed);
    if (status != TN_OK) {
        tn_decoder_free(model);
        return status;
    }
    *out = model;
    return TN_OK;
}

void tn_decoder_free(tn_decoder *model) {
    if (!model)
        return;
    unreplicate(&model->net);
    tn_network_free(&model->net);
    tn_pages_free(model->rope_cos, (size_t)(model->rope_positions * model->config.head_size) * sizeof(float));
    tn_decoder_config_free(&model->config);
    tn_free(model->layers);
    tn_free(model);
}

tn_status tn_decoder_prepare(tn_decoder *model, int64_t positions) {
    if (model->positions && positions > model->config.max_positions)
        return tn_fail(TN_ERROR_ARGUMENT,
                       "%s: %lld positions are more than the %lld that this model learned; shorten the text", model->net.dir,
                       (long long)positions, (long long)model->config.max_positions);
    if (model->positions || positions <= model->rope_positions)
        return TN_OK;
    int64_t head_size = model->config.head_size, floats;
    if (!tn_mul_i64(positions, head_size, &floats) || floats > (INT64_C(1) << 40))
        return tn_fail(TN_ERROR_ARGUMENT, "%lld positions are too many", (long long)positions);
    float *table = tn_pages_alloc((size_t)floats * sizeof *table);
    if (!table)
        return tn_fail_memory("the rotary table");
    tn_pages_free(model->rope_cos, (size_t)(model->rope_positions * head_size) * sizeof(float));
    model->rope_cos = table;
    model->rope_sin = table + positions * (head_size / 2);
    model->rope_positions = positions;
    tn_rope_fill(&model->config, positions, model->rope_cos, model->rope_sin);
    return TN_OK;
}

/* Copies a module into a new array under the name of its place in the stack. */
static tn_module *stack_module(tn_decoder *model, tn_module *modules, int64_t *count, tn_map *by_name,
                               const tn_module *source, int layer) {
    if (!source)
        return NULL;
    tn_module *m = &modules[*count];
    *m = *source;
    if (layer >= 0) {
        const char *tail = strchr(source->name + strlen("model.layers."), '.');
        m->layer = layer;
        m->name = tn_arena_printf(&model->net.arena, "model.layers.%d%s", layer, tail);
    }
    if (!m->name || tn_map_put_text(by_name, m->name, *count) != TN_OK)
        return NULL;
    (*count)++;
    return m;
}

static void unreplicate(tn_network *network) {
    tn_decoder *model = (tn_decoder *)network;
    const tn_decoder_stack *base = &model->base_stack;
    if (!base->modules)
        return;
    tn_free(network->modules);
    tn_free(model->layers);
    tn_map_free(&network->by_name);
    network->modules = base->modules;
    network->module_count = base->module_count;
    network->by_name = base->by_name;
    model->layers = base->layers;
    network->layer_count = base->layer_count;
    network->embedding = base->embedding;
    model->final_norm = base->final_norm;
    network->head = base->head;
    model->base_stack = (tn_decoder_stack){0};
}

static tn_status replicate(tn_network *network, const int64_t (*ranges)[2], int64_t count) {
    tn_decoder *model = (tn_decoder *)network;
    int64_t layers = 0;
    if (model->base_stack.modules)
        return tn_fail(TN_ERROR_ARGUMENT, "layer_replication: the layers of this model are replicated already");
    for (int64_t i = 0; i < count; i++) {
        if (ranges[i][0] < 0 || ranges[i][1] <= ranges[i][0] || ranges[i][1] > model->config.layers)
            return tn_fail(TN_ERROR_ARGUMENT, "layer_replication: [%lld, %lld] is no range of the model's %lld layers",
                           (long long)ranges[i][0], (long long)ranges[i][1], (long long)model->config.layers);
        layers += ranges[i][1] - ranges[i][0];
    }
    tn_module *modules = tn_calloc((size_t)layers * MODULES_PER_LAYER + 3, sizeof *modules);
    tn_decoder_layer *stack = tn_calloc((size_t)layers, sizeof *stack);
    tn_map by_name = {0};
    int64_t filled = 0, at = 0;
    tn_module *embedding = NULL, *norm = NULL, *head = NULL;
    if (!modules || !stack)
        goto fail;
    embedding = stack_module(model, modules, &filled, &by_name, network->embedding, -1);
    for (int64_t i = 0; i < count; i++) {
        for (int64_t from = ranges[i][0]; from < ranges[i][1]; from++, at++) {
            tn_module *const *source = (tn_module *const *)&model->layers[from];
            tn_module **target = (tn_module **)&stack[at];
            for (size_t m = 0; m < sizeof *stack / sizeof *target; m++)
                if (source[m] && !(target[m] = stack_module(model, modules, &filled, &by_name, source[m], (int)at)))
                    goto fail;
        }
    }
    norm = stack_module(model, modules, &filled, &by_name, model->final_norm, -1);
    head = stack_module(model, modules, &filled, &by_name, network->head, -1);
    if (!embedding || !norm || !head)
        goto fail;
    if (head->tied)
        head->tied = embedding;
    model->base_stack = (tn_decoder_stack){.modules = network->modules,
                                           .module_count = network->module_count,
                                           .by_name = network->by_name,
                                           .layers = model->layers,
                                           .layer_count = network->layer_count,
                                           .embedding = network->embedding,
                                           .final_norm = model->final_norm,
                                           .head = network->head};
    network->modules = modules;
    network->module_count = filled;
    model->layers = stack;
    network->layer_count = layers;
    network->by_name = by_name;
    network->embedding = embedding;
    model->final_norm = norm;
    network->head = head;
    return TN_OK;
fail:
    tn_free(modules);
    tn_free(stack);
    tn_map_free(&by_name);
    return tn_fail_memory("the replicated layers");
}
