/* Any JSON as the config.json of a sequential model: what is accepted has shapes that follow from each other and can be
 * counted. */
#include "base/memory.h"
#include "fuzz.h"
#include "model/sequential.h"

static void check_layer(const tn_layer *layer) {
    int64_t in = tn_layer_shape_count(&layer->in), out = tn_layer_shape_count(&layer->out);
    fuzz_require(in > 0 && in <= INT32_MAX && out > 0 && out <= INT32_MAX);
    fuzz_require(layer->name && layer->p >= 0 && layer->p < 1);
    if (layer->kind == TN_LAYER_CONV2D)
        fuzz_require(tn_conv_shape_check(&layer->window) == TN_OK && layer->window.out_channels == layer->out.channels);
    if (layer->kind == TN_LAYER_MAX_POOL2D || layer->kind == TN_LAYER_AVG_POOL2D)
        fuzz_require(tn_pool_shape_check(&layer->window) == TN_OK && layer->in.channels == layer->out.channels);
    if (layer->kind == TN_LAYER_LAYER_NORM || layer->kind == TN_LAYER_BATCH_NORM)
        fuzz_require(layer->eps > 0 && in == out);
}

static void check(const tn_sequential_config *c) {
    fuzz_require(c->count > 0 && c->inputs == tn_layer_shape_count(&c->layers[0].in));
    for (int64_t i = 0; i < c->count; i++) {
        const tn_layer *layer = &c->layers[i];
        check_layer(layer);
        if (i > 0)
            fuzz_require(layer->in.channels == layer[-1].out.channels && layer->in.height == layer[-1].out.height &&
                         layer->in.width == layer[-1].out.width);
    }
    fuzz_require(c->outputs == c->layers[c->count - 1].out.channels && !c->layers[c->count - 1].out.height);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tn_sequential_config config;
    cJSON *json;
    size_t used = tn_memory_used();
    if (tn_json_parse((const char *)data, size, "config.json", &json) != TN_OK)
        return 0;
    tn_status status = tn_sequential_config_parse(json, "config.json", &config);
    fuzz_require(status == TN_OK || status == TN_ERROR_FORMAT || status == TN_ERROR_UNSUPPORTED);
    if (status == TN_OK) {
        check(&config);
        tn_sequential_config_free(&config);
    }
    cJSON_Delete(json);
    fuzz_require(tn_memory_used() == used);
    return 0;
}
