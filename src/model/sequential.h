/* A plain network: layers in order, from a vector or an image to the logits of classes or to numbers. Values are rows of one
 * sample each; an image is its channels one after another, [C, H, W]. */
#ifndef TN_MODEL_SEQUENTIAL_H
#define TN_MODEL_SEQUENTIAL_H

#include "model/network.h"

typedef enum tn_layer_kind {
    TN_LAYER_LINEAR,
    TN_LAYER_CONV2D,
    TN_LAYER_MAX_POOL2D,
    TN_LAYER_AVG_POOL2D,
    TN_LAYER_GLOBAL_AVG_POOL,
    TN_LAYER_FLATTEN,
    TN_LAYER_RELU,
    TN_LAYER_GELU,
    TN_LAYER_SILU,
    TN_LAYER_TANH,
    TN_LAYER_DROPOUT,
    TN_LAYER_LAYER_NORM,
    TN_LAYER_BATCH_NORM,
    TN_LAYER_KIND_COUNT
} tn_layer_kind;

/* What flows between layers. */
typedef struct tn_layer_shape {
    int64_t channels, height, width; /* height 0: a vector of `channels` numbers */
} tn_layer_shape;

static inline int64_t tn_layer_shape_count(const tn_layer_shape *shape) {
    return shape->height ? shape->channels * shape->height * shape->width : shape->channels;
}

typedef struct tn_layer {
    tn_layer_kind kind;
    const char *name; /* as given, or its number in the list, as torch.nn.Sequential counts */
    tn_layer_shape in, out;
    tn_conv_shape window;   /* of conv2d and the pools */
    bool bias, tanh_gelu;   /* gelu's approximation by tanh */
    float p, eps, momentum; /* of dropout; of norms; of batch_norm's running statistics */
    tn_module *module;      /* of layers with weights, else NULL */
} tn_layer;

typedef struct tn_sequential_config {
    bool regression; /* else a classification */
    tn_layer *layers;
    int64_t count;
    int64_t inputs, outputs; /* numbers per sample */
    tn_arena arena;          /* owns everything above */
} tn_sequential_config;

/* From config.json: `task` (classification or regression), `input_shape` ([n] or [C, H, W]) and `layers`. Shapes are worked
 * out layer by layer; one that does not fit is an error naming the layer. */
tn_status tn_sequential_config_parse(const cJSON *json, const char *where, tn_sequential_config *out);
void tn_sequential_config_free(tn_sequential_config *config);

/* As config.json spells it: "conv2d". */
const char *tn_layer_kind_name(tn_layer_kind kind);

/* "784", or "3 x 9 x 8" in a buffer of the caller's. */
enum { TN_LAYER_SHAPE_TEXT = 72 };
const char *tn_layer_shape_text(const tn_layer_shape *shape, char out[TN_LAYER_SHAPE_TEXT]);

typedef struct tn_sequential {
    tn_network net; /* first, as in tn_decoder */
    tn_sequential_config config;
} tn_sequential;

/* True for a config.json whose model_type is "sequential". */
bool tn_sequential_is_named(const cJSON *json);

/* As tn_decoder_load and tn_decoder_create. Random weights are N(0, 2 / inputs of the layer). */
tn_status tn_sequential_load(const char *dir, tn_sequential **out);
tn_status tn_sequential_create(const char *path, uint64_t seed, tn_sequential **out);
void tn_sequential_free(tn_sequential *model);

/* Logits [N, outputs] of x [N, inputs], which layers may change in place; the result belongs to the caller, x stays his.
 * Statistics of batch_norm are the batch's, and move the running ones, when training and they are trained; else the running
 * ones. */
tn_var *tn_sequential_forward(const tn_sequential *model, const tn_forward *forward, tn_var *x);

#endif
