/* The layers of a sequential model, as config.json lists them. */
#include "model/sequential.h"
#include "session/inspect_parts.h"

/* "3 x 3, stride 2, padding 1, groups 2": what is not the usual only. */
static void add_window(cJSON *out, const tn_layer *layer) {
    const tn_conv_shape *w = &layer->window;
    tn_buf text = {0};
    bool is_conv = layer->kind == TN_LAYER_CONV2D;
    int64_t usual_height = is_conv ? 1 : w->kernel_height, usual_width = is_conv ? 1 : w->kernel_width;
    tn_buf_printf(&text, "%lld x %lld", (long long)w->kernel_height, (long long)w->kernel_width);
    if (w->stride_height != usual_height || w->stride_width != usual_width)
        tn_buf_printf(&text, ", stride %lld x %lld", (long long)w->stride_height, (long long)w->stride_width);
    if (w->padding_height || w->padding_width)
        tn_buf_printf(&text, ", padding %lld x %lld", (long long)w->padding_height, (long long)w->padding_width);
    if (w->dilation_height != 1 || w->dilation_width != 1)
        tn_buf_printf(&text, ", dilation %lld x %lld", (long long)w->dilation_height, (long long)w->dilation_width);
    if (w->groups != 1)
        tn_buf_printf(&text, ", groups %lld", (long long)w->groups);
    cJSON_AddStringToObject(out, "window", tn_buf_text(&text));
    tn_buf_free(&text);
}

static int64_t parameters_of(const tn_layer *layer) {
    const tn_conv_shape *w = &layer->window;
    int64_t bias = layer->bias ? layer->out.channels : 0;
    switch (layer->kind) {
    case TN_LAYER_LINEAR: return layer->in.channels * layer->out.channels + bias;
    case TN_LAYER_CONV2D: return w->out_channels * (w->in_channels / w->groups) * w->kernel_height * w->kernel_width + bias;
    case TN_LAYER_LAYER_NORM:
    case TN_LAYER_BATCH_NORM: return layer->in.channels + bias;
    default: return 0;
    }
}

static void add_layer(cJSON *list, const tn_layer *layer) {
    char shape[TN_LAYER_SHAPE_TEXT];
    cJSON *item = cJSON_CreateObject();
    cJSON_AddItemToArray(list, item);
    cJSON_AddStringToObject(item, "name", layer->name);
    cJSON_AddStringToObject(item, "type", tn_layer_kind_name(layer->kind));
    if (layer->window.kernel_height)
        add_window(item, layer);
    cJSON_AddStringToObject(item, "in", tn_layer_shape_text(&layer->in, shape));
    cJSON_AddStringToObject(item, "out", tn_layer_shape_text(&layer->out, shape));
    if (parameters_of(layer))
        cJSON_AddNumberToObject(item, "parameters", (double)parameters_of(layer));
}

tn_status tn_inspect_sequential(cJSON *out, const cJSON *json, const char *path, bool *supported) {
    tn_sequential_config config;
    char shape[TN_LAYER_SHAPE_TEXT];
    cJSON_AddStringToObject(out, "family", "sequential");
    tn_status status = tn_sequential_config_parse(json, path, &config);
    *supported = status == TN_OK;
    if (status != TN_OK) {
        tn_inspect_add_refusal(out, "supported");
        return status == TN_ERROR_MEMORY ? status : TN_OK;
    }
    cJSON_AddTrueToObject(out, "supported");
    cJSON_AddStringToObject(out, "task", config.regression ? "regression" : "classification");
    cJSON_AddStringToObject(out, "input_shape", tn_layer_shape_text(&config.layers[0].in, shape));
    cJSON_AddNumberToObject(out, "outputs", (double)config.outputs);
    cJSON *list = cJSON_AddArrayToObject(out, "layers");
    for (int64_t i = 0; i < config.count; i++)
        add_layer(list, &config.layers[i]);
    tn_sequential_config_free(&config);
    return TN_OK;
}
