/* From a folder to a decoder: modules are named as in the checkpoint, weights point into its mapping. */
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/decoder.h"

enum { CONFIG_LIMIT = 4 << 20, MODULES_PER_LAYER = 11 };

static tn_module *add_module(tn_decoder *model, tn_module_kind kind, int layer, const char *name, int64_t rows, int64_t cols,
                             bool bias) {
    tn_module *m = &model->modules[model->module_count];
    *m = (tn_module){.kind = kind, .layer = layer, .has_bias = bias};
    m->name =
        layer < 0 ? tn_arena_strdup(&model->arena, name) : tn_arena_printf(&model->arena, "model.layers.%d.%s", layer, name);
    m->weight.tensor = (tn_tensor){.dtype = TN_DTYPE_F32, .ndim = cols ? 2 : 1, .shape = {rows, cols}};
    m->bias.tensor = (tn_tensor){.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {rows}};
    if (!m->name || tn_map_put_text(&model->by_name, m->name, model->module_count) != TN_OK)
        return NULL;
    model->module_count++;
    return m;
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

static tn_status build_modules(tn_decoder *model) {
    const tn_decoder_config *c = &model->config;
    model->layer_count = c->layers;
    model->modules = tn_calloc((size_t)c->layers * MODULES_PER_LAYER + 3, sizeof *model->modules);
    model->layers = tn_calloc((size_t)c->layers, sizeof *model->layers);
    if (!model->modules || !model->layers)
        return tn_fail_memory("the modules");
    model->embedding =
        add_module(model, TN_MODULE_EMBEDDING, -1, "model.embed_tokens", c->vocab_size, c->hidden_size, false);
    for (int64_t i = 0; i < c->layers; i++)
        TN_TRY(build_layer(model, (int)i));
    model->final_norm = add_module(model, TN_MODULE_NORM, -1, "model.norm", c->hidden_size, 0, false);
    model->head = add_module(model, TN_MODULE_LINEAR, -1, "lm_head", c->vocab_size, c->hidden_size, false);
    if (!model->embedding || !model->final_norm || !model->head)
        return tn_fail_memory("the modules");
    model->head->is_head = true;
    if (c->tied)
        model->head->tied = model->embedding;
    return TN_OK;
}

static tn_status find_tensor(const tn_decoder *model, const char *module, const char *part, tn_tensor *tensor) {
    char name[512], want[TN_SHAPE_TEXT], got[TN_SHAPE_TEXT];
    snprintf(name, sizeof name, "%s.%s", module, part);
    const tn_tensor *found = tn_checkpoint_find(&model->checkpoint, name);
    if (!found)
        return tn_fail(TN_ERROR_MISMATCH, "%s: the checkpoint has no tensor '%s', which config.json calls for", model->dir,
                       name);
    if (!tn_tensor_same_shape(found, tensor))
        return tn_fail(TN_ERROR_MISMATCH, "%s: tensor '%s' has shape %s, but config.json makes it %s", model->dir, name,
                       tn_shape_text(found, got), tn_shape_text(tensor, want));
    if (found->dtype != TN_DTYPE_F32 && found->dtype != TN_DTYPE_BF16 && found->dtype != TN_DTYPE_F16)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: tensor '%s' is stored as %s; supported are F32, BF16 and F16", model->dir,
                       name, tn_dtype_name(found->dtype));
    int64_t bad = tn_tensor_first_nonfinite(found);
    if (bad >= 0)
        return tn_fail(TN_ERROR_NUMERIC,
                       "%s: tensor '%s' holds a NaN or infinity at element %lld; the checkpoint is damaged", model->dir,
                       name, (long long)bad);
    *tensor = *found;
    return TN_OK;
}

/* Vectors (norms, biases) are widened to f32 once: they are tiny, and kernels then need one type for them. */
static void place_vector(tn_tensor *tensor, float **place) {
    int64_t count = tn_tensor_count(tensor);
    tn_convert_to_f32(*place, tensor->data, tensor->dtype, count);
    tensor->data = *place;
    tensor->dtype = TN_DTYPE_F32;
    *place += count;
}

static tn_status load_weights(tn_decoder *model) {
    int64_t vectors = 0;
    for (int64_t i = 0; i < model->module_count; i++) {
        tn_module *m = &model->modules[i];
        if (!m->tied)
            TN_TRY(find_tensor(model, m->name, "weight", &m->weight.tensor));
        if (m->has_bias)
            TN_TRY(find_tensor(model, m->name, "bias", &m->bias.tensor));
        vectors += (m->kind == TN_MODULE_NORM ? m->weight.tensor.shape[0] : 0) + (m->has_bias ? m->bias.tensor.shape[0] : 0);
    }
    model->norm_bytes = vectors * (int64_t)sizeof(float);
    model->norm_weights = tn_pages_alloc((size_t)model->norm_bytes);
    if (!model->norm_weights)
        return tn_fail_memory("the norm weights");
    float *place = model->norm_weights;
    for (int64_t i = 0; i < model->module_count; i++) {
        tn_module *m = &model->modules[i];
        if (m->kind == TN_MODULE_NORM)
            place_vector(&m->weight.tensor, &place);
        if (m->has_bias)
            place_vector(&m->bias.tensor, &place);
    }
    return TN_OK;
}

/* Buffers that old checkpoints carry along are no surprise; anything else is counted for the caller to show. */
static void count_unused(tn_decoder *model) {
    for (size_t f = 0; f < model->checkpoint.file_count; f++) {
        const tn_safetensors *file = &model->checkpoint.files[f];
        for (size_t e = 0; e < file->count; e++) {
            const char *name = file->entries[e].name, *dot = strrchr(name, '.');
            size_t length = dot ? (size_t)(dot - name) : 0;
            int64_t at;
            bool known = dot && tn_map_get(&model->by_name, name, length, &at) &&
                         (strcmp(dot, ".weight") == 0 || (strcmp(dot, ".bias") == 0 && model->modules[at].has_bias));
            if (known || strstr(name, "rotary_emb.inv_freq") || !tn_checkpoint_find(&model->checkpoint, name))
                continue;
            if (model->unused_tensors++ == 0)
                model->first_unused = name;
        }
    }
}

static tn_status load_config(tn_decoder *model, const char *config_path) {
    TN_TRY(tn_json_read(config_path, CONFIG_LIMIT, &model->json));
    TN_TRY(tn_decoder_config_parse(model->json, config_path, &model->config));
    return build_modules(model);
}

static tn_status new_decoder(const char *dir, tn_decoder **out) {
    tn_decoder *model = tn_calloc(1, sizeof *model);
    if (!model || !(model->dir = tn_strdup(dir))) {
        tn_free(model);
        return tn_fail_memory("the model");
    }
    *out = model;
    return TN_OK;
}

tn_status tn_decoder_load(const char *dir, tn_decoder **out) {
    char config_path[TN_PATH_MAX];
    tn_decoder *model = NULL;
    *out = NULL;
    if (!tn_path_is_dir(dir))
        return tn_fail(TN_ERROR_IO,
                       "%s is not a folder; a model is a folder with config.json, model.safetensors and tokenizer.json",
                       dir);
    TN_TRY(tn_path_join(config_path, dir, "config.json"));
    TN_TRY(new_decoder(dir, &model));
    tn_status status;
    TN_TRY_GOTO(load_config(model, config_path));
    TN_TRY_GOTO(tn_checkpoint_open(dir, &model->checkpoint));
    TN_TRY_GOTO(load_weights(model));
    count_unused(model);
    *out = model;
    return TN_OK;
fail:
    tn_decoder_free(model);
    return status;
}

static tn_status fill_random(tn_decoder *model, uint64_t seed) {
    int64_t floats = 0;
    for (int64_t i = 0; i < model->module_count; i++) {
        tn_module *m = &model->modules[i];
        int64_t count = (m->tied ? 0 : tn_tensor_count(&m->weight.tensor)) + (m->has_bias ? m->bias.tensor.shape[0] : 0);
        if (!tn_add_i64(floats, count, &floats) || floats > INT64_MAX / (int64_t)sizeof(float))
            return tn_fail(TN_ERROR_FORMAT, "%s: a model of this configuration is too large", model->dir);
    }
    model->random_bytes = floats * (int64_t)sizeof(float);
    model->random_weights = tn_pages_alloc((size_t)model->random_bytes);
    if (!model->random_weights)
        return tn_fail_memory("the weights");
    float *place = model->random_weights;
    for (int64_t i = 0; i < model->module_count; i++) {
        tn_module *m = &model->modules[i];
        int64_t count = m->tied ? 0 : tn_tensor_count(&m->weight.tensor);
        m->weight.tensor.data = count ? place : NULL;
        if (m->kind == TN_MODULE_NORM)
            for (int64_t j = 0; j < count; j++)
                place[j] = 1;
        else
            tn_fill_normal(place, (size_t)count, seed, tn_stream(TN_STREAM_INIT, (uint32_t)i), 0,
                           (float)model->config.initializer_range);
        place += count;
        if (m->has_bias) {
            m->bias.tensor.data = place;
            place += m->bias.tensor.shape[0];
        }
    }
    return TN_OK;
}

tn_status tn_decoder_create(const char *path, uint64_t seed, tn_decoder **out) {
    char config_path[TN_PATH_MAX], dir[TN_PATH_MAX];
    tn_decoder *model = NULL;
    *out = NULL;
    if (tn_path_is_dir(path)) {
        TN_TRY(tn_path_join(config_path, path, "config.json"));
        snprintf(dir, sizeof dir, "%s", path);
    } else {
        snprintf(config_path, sizeof config_path, "%s", path);
        snprintf(dir, sizeof dir, "%s", path);
        char *slash = strrchr(dir, '/');
        if (slash)
            *slash = 0;
        else
            strcpy(dir, ".");
    }
    TN_TRY(new_decoder(dir, &model));
    tn_status status;
    TN_TRY_GOTO(load_config(model, config_path));
    TN_TRY_GOTO(fill_random(model, seed));
    *out = model;
    return TN_OK;
fail:
    tn_decoder_free(model);
    return status;
}

void tn_decoder_free(tn_decoder *model) {
    if (!model)
        return;
    tn_decoder_unreplicate(model);
    tn_checkpoint_close(&model->checkpoint);
    cJSON_Delete(model->json);
    tn_map_free(&model->by_name);
    tn_pages_free(model->random_weights, (size_t)model->random_bytes);
    tn_pages_free(model->norm_weights, (size_t)model->norm_bytes);
    tn_pages_free(model->rope_cos, (size_t)(model->rope_positions * model->config.head_size) * sizeof(float));
    tn_decoder_config_free(&model->config);
    tn_arena_free(&model->arena);
    tn_free(model->modules);
    tn_free(model->layers);
    tn_free(model->dir);
    tn_free(model);
}

tn_module *tn_decoder_module(const tn_decoder *model, const char *name) {
    int64_t at;
    return tn_map_get_text(&model->by_name, name, &at) ? &model->modules[at] : NULL;
}

tn_status tn_decoder_prepare(tn_decoder *model, int64_t positions) {
    if (positions <= model->rope_positions)
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

int64_t tn_decoder_parameters(const tn_decoder *model) {
    int64_t count = 0;
    for (int64_t i = 0; i < model->module_count; i++) {
        const tn_module *m = &model->modules[i];
        count += (m->tied ? 0 : tn_tensor_count(&m->weight.tensor)) + (m->has_bias ? m->bias.tensor.shape[0] : 0);
    }
    return count;
}

int64_t tn_decoder_bytes(const tn_decoder *model) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < model->module_count; i++) {
        const tn_module *m = &model->modules[i];
        bytes += (m->tied ? 0 : tn_tensor_bytes(&m->weight.tensor)) + (m->has_bias ? tn_tensor_bytes(&m->bias.tensor) : 0);
    }
    return bytes;
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
        m->name = tn_arena_printf(&model->arena, "model.layers.%d%s", layer, tail);
    }
    if (!m->name || tn_map_put_text(by_name, m->name, *count) != TN_OK)
        return NULL;
    (*count)++;
    return m;
}

void tn_decoder_unreplicate(tn_decoder *model) {
    const tn_decoder_stack *base = &model->base_stack;
    if (!base->modules)
        return;
    tn_free(model->modules);
    tn_free(model->layers);
    tn_map_free(&model->by_name);
    model->modules = base->modules;
    model->module_count = base->module_count;
    model->by_name = base->by_name;
    model->layers = base->layers;
    model->layer_count = base->layer_count;
    model->embedding = base->embedding;
    model->final_norm = base->final_norm;
    model->head = base->head;
    model->base_stack = (tn_decoder_stack){0};
}

tn_status tn_decoder_replicate(tn_decoder *model, const int64_t (*ranges)[2], int64_t count) {
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
    embedding = stack_module(model, modules, &filled, &by_name, model->embedding, -1);
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
    head = stack_module(model, modules, &filled, &by_name, model->head, -1);
    if (!embedding || !norm || !head)
        goto fail;
    if (head->tied)
        head->tied = embedding;
    model->base_stack = (tn_decoder_stack){.modules = model->modules,
                                           .module_count = model->module_count,
                                           .by_name = model->by_name,
                                           .layers = model->layers,
                                           .layer_count = model->layer_count,
                                           .embedding = model->embedding,
                                           .final_norm = model->final_norm,
                                           .head = model->head};
    model->modules = modules;
    model->module_count = filled;
    model->layers = stack;
    model->layer_count = layers;
    model->by_name = by_name;
    model->embedding = embedding;
    model->final_norm = norm;
    model->head = head;
    return TN_OK;
fail:
    tn_free(modules);
    tn_free(stack);
    tn_map_free(&by_name);
    return tn_fail_memory("the replicated layers");
}
