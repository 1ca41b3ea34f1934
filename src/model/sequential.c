/* Sequential networks: modules for the layers with weights, and the forward pass through all of them. */
#include "model/sequential.h"

#include <string.h>

#include "base/rng.h"

static const tn_network_kind sequential_kind = {0};

bool tn_sequential_is_named(const cJSON *json) {
    const cJSON *type = tn_json_get(json, "model_type");
    return cJSON_IsString(type) && strcmp(type->valuestring, "sequential") == 0;
}

/* The weight's shape; ndim 0 for a layer without weights. */
static tn_tensor weight_of(const tn_layer *layer, tn_module_kind *kind) {
    const tn_conv_shape *w = &layer->window;
    switch (layer->kind) {
    case TN_LAYER_LINEAR:
        *kind = TN_MODULE_LINEAR;
        return (tn_tensor){.ndim = 2, .shape = {layer->out.channels, layer->in.channels}};
    case TN_LAYER_CONV2D:
        *kind = TN_MODULE_CONV2D;
        return (tn_tensor){.ndim = 4,
                           .shape = {w->out_channels, w->in_channels / w->groups, w->kernel_height, w->kernel_width}};
    case TN_LAYER_LAYER_NORM:
    case TN_LAYER_BATCH_NORM: *kind = TN_MODULE_NORM; return (tn_tensor){.ndim = 1, .shape = {layer->in.channels}};
    default: return (tn_tensor){0};
    }
}

static tn_status add_module(tn_sequential *model, tn_layer *layer, int64_t number) {
    tn_module_kind kind = TN_MODULE_LINEAR;
    tn_network *net = &model->net;
    const tn_tensor weight = weight_of(layer, &kind);
    if (!weight.ndim)
        return TN_OK;
    if (tn_network_module(net, layer->name))
        return tn_fail(TN_ERROR_FORMAT, "%s: layers[%lld] (%s '%s'): another layer has this name", net->dir,
                       (long long)number, tn_layer_kind_name(layer->kind), layer->name);
    tn_module *m = tn_network_add(net, kind, -1, layer->name, weight, layer->out.channels, layer->bias);
    if (!m)
        return tn_fail_memory("the modules");
    m->conv = layer->window;
    m->has_running = layer->kind == TN_LAYER_BATCH_NORM;
    m->running_mean = m->running_var = (tn_weight){.tensor = weight};
    layer->module = m;
    if (kind != TN_MODULE_NORM)
        net->head = m;
    return TN_OK;
}

static tn_status build_modules(tn_sequential *model) {
    tn_sequential_config *c = &model->config;
    tn_network *net = &model->net;
    net->family = "sequential";
    TN_TRY(tn_network_reserve(net, c->count));
    for (int64_t i = 0; i < c->count; i++)
        TN_TRY(add_module(model, &c->layers[i], i));
    if (net->head)
        net->head->is_head = true;
    return TN_OK;
}

static tn_status new_model(const char *dir, const char *config_path, tn_sequential **out) {
    tn_sequential *model = tn_calloc(1, sizeof *model);
    tn_status status;
    if (!model)
        return tn_fail_memory("the model");
    TN_TRY_GOTO(tn_network_init(&model->net, &sequential_kind, dir, config_path));
    TN_TRY_GOTO(tn_sequential_config_parse(model->net.json, config_path, &model->config));
    TN_TRY_GOTO(build_modules(model));
    *out = model;
    return TN_OK;
fail:
    tn_sequential_free(model);
    return status;
}

static tn_status finish(tn_sequential *model, tn_status status, tn_sequential **out) {
    if (status != TN_OK) {
        tn_sequential_free(model);
        return status;
    }
    *out = model;
    return TN_OK;
}

tn_status tn_sequential_load(const char *dir, tn_sequential **out) {
    char config_path[TN_PATH_MAX];
    tn_sequential *model = NULL;
    *out = NULL;
    TN_TRY(tn_path_join(config_path, dir, "config.json"));
    TN_TRY(new_model(dir, config_path, &model));
    return finish(model, tn_network_load(&model->net), out);
}

tn_status tn_sequential_create(const char *path, uint64_t seed, tn_sequential **out) {
    char config_path[TN_PATH_MAX], dir[TN_PATH_MAX];
    tn_sequential *model = NULL;
    *out = NULL;
    TN_TRY(tn_network_locate(path, dir, config_path));
    TN_TRY(new_model(dir, config_path, &model));
    return finish(model, tn_network_fill_random(&model->net, 0, seed), out);
}

void tn_sequential_free(tn_sequential *model) {
    if (!model)
        return;
    tn_network_free(&model->net);
    tn_sequential_config_free(&model->config);
    tn_free(model);
}

static tn_var *batch_norm(const tn_forward *forward, const tn_layer *layer, tn_var *x) {
    const tn_module *m = layer->module;
    bool training = forward->training && m->running_mean.trainable;
    if (training && x->rows * x->cols == m->weight.tensor.shape[0] && tn_tape_status(forward->tape) == TN_OK)
        forward->tape->status = tn_fail(TN_ERROR_ARGUMENT,
                                        "'%s': a batch of one sample has no variance to train by; "
                                        "choose a larger batch",
                                        m->name);
    return tn_op_batchnorm(forward->tape, x, m->weight.tensor.shape[0], &m->weight, m->has_bias ? &m->bias : NULL,
                           m->running_mean.tensor.data, m->running_var.tensor.data, layer->eps, layer->momentum, training);
}

/* Streams of random numbers beyond those of adapters' slots, which count modules. */
static uint64_t dropout_stream(int64_t layer) {
    return tn_stream(TN_STREAM_DROPOUT, (uint32_t)layer + (UINT32_C(1) << 31));
}

/* The layer's result: x itself when it changes nothing or works in place, else a value of its own. */
static tn_var *layer_forward(const tn_forward *forward, const tn_layer *layer, int64_t number, tn_var *x) {
    tn_tape *tape = forward->tape;
    const tn_module *m = layer->module;
    switch (layer->kind) {
    case TN_LAYER_LINEAR: return tn_linear_forward(forward, m, x);
    case TN_LAYER_CONV2D: return tn_conv_forward(forward, m, x);
    case TN_LAYER_MAX_POOL2D: return tn_op_max_pool2d(tape, x, &layer->window);
    case TN_LAYER_AVG_POOL2D: return tn_op_avg_pool2d(tape, x, &layer->window);
    case TN_LAYER_GLOBAL_AVG_POOL: return tn_op_global_avg_pool(tape, x, layer->in.channels);
    case TN_LAYER_RELU: tn_op_relu(tape, x); return x;
    case TN_LAYER_GELU: return tn_op_gelu(tape, x, layer->tanh_gelu);
    case TN_LAYER_SILU: return tn_op_silu(tape, x);
    case TN_LAYER_TANH: return tn_op_tanh(tape, x);
    case TN_LAYER_LAYER_NORM: return tn_op_layernorm(tape, x, &m->weight, m->has_bias ? &m->bias : NULL, layer->eps);
    case TN_LAYER_BATCH_NORM: return batch_norm(forward, layer, x);
    case TN_LAYER_DROPOUT:
        if (forward->training && layer->p > 0)
            return tn_op_dropout(tape, x, layer->p, forward->dropout_seed, dropout_stream(number));
        return x;
    default: return x; /* flatten: a row is its numbers in order either way */
    }
}

tn_var *tn_sequential_forward(const tn_sequential *model, const tn_forward *forward, tn_var *x) {
    tn_var *value = x;
    for (int64_t i = 0; i < model->config.count; i++) {
        tn_var *next = layer_forward(forward, &model->config.layers[i], i, value);
        if (next != value && value != x)
            tn_drop(forward->tape, value);
        value = next;
    }
    return value;
}
