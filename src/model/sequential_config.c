/* The layers of a sequential model: types and settings from config.json, shapes from one layer to the next. */
#include <string.h>

#include "base/map.h"
#include "model/sequential.h"

/* Sizes beyond these are lies or mistakes; they also keep all products below within 64 bits. */
enum { MOST_LAYERS = 10000, MOST_SIDE = 1 << 20 };
static const int64_t MOST_CHANNELS = INT64_C(1) << 28, MOST_VALUES = INT32_MAX;

/* In the order of tn_layer_kind: the spelling in config.json and the settings that the layer knows. */
static const struct {
    const char *type, *keys;
} kinds[TN_LAYER_KIND_COUNT] = {
    {"linear", " in_features out_features bias "},
    {"conv2d", " in_channels out_channels kernel_size stride padding dilation groups bias "},
    {"max_pool2d", " kernel_size stride padding "},
    {"avg_pool2d", " kernel_size stride padding "},
    {"global_avg_pool", " "},
    {"flatten", " "},
    {"relu", " "},
    {"gelu", " approximate "},
    {"silu", " "},
    {"tanh", " "},
    {"dropout", " p "},
    {"layer_norm", " num_features eps bias "},
    {"batch_norm", " num_features eps momentum "},
};

const char *tn_layer_kind_name(tn_layer_kind kind) {
    return kinds[kind].type;
}

const char *tn_layer_shape_text(const tn_layer_shape *shape, char out[TN_LAYER_SHAPE_TEXT]) {
    if (shape->height)
        snprintf(out, TN_LAYER_SHAPE_TEXT, "%lld x %lld x %lld", (long long)shape->channels, (long long)shape->height,
                 (long long)shape->width);
    else
        snprintf(out, TN_LAYER_SHAPE_TEXT, "%lld", (long long)shape->channels);
    return out;
}

static tn_status find_kind(const char *type, const char *where, tn_layer_kind *out) {
    const char *names[TN_LAYER_KIND_COUNT];
    tn_buf list = {0};
    for (int i = 0; i < TN_LAYER_KIND_COUNT; i++) {
        names[i] = kinds[i].type;
        *out = (tn_layer_kind)i;
        if (strcmp(type, names[i]) == 0)
            return TN_OK;
    }
    for (int i = 0; i < TN_LAYER_KIND_COUNT; i++)
        tn_buf_printf(&list, "%s%s", i ? ", " : "", names[i]);
    const char *nearest = tn_nearest_name(type, names, TN_LAYER_KIND_COUNT);
    tn_status status =
        tn_fail(TN_ERROR_UNSUPPORTED, "%s: there is no layer type '%s'%s%s%s; there are %s", where, type,
                nearest ? " (did you mean '" : "", nearest ? nearest : "", nearest ? "'?)" : "", tn_buf_text(&list));
    tn_buf_free(&list);
    return status;
}

/* A setting that no code reads would be a wrong result. */
static tn_status check_keys(const cJSON *json, tn_layer_kind kind, const char *where) {
    const cJSON *item;
    char padded[64];
    cJSON_ArrayForEach(item, json) {
        bool known = strcmp(item->string, "type") == 0 || strcmp(item->string, "name") == 0;
        snprintf(padded, sizeof padded, " %s ", item->string);
        known = known || (!strchr(item->string, ' ') && strstr(kinds[kind].keys, padded));
        if (!known)
            return tn_fail(TN_ERROR_UNSUPPORTED, "%s: the setting '%s' is not known; those of %s are type, name%s", where,
                           item->string, kinds[kind].type, kinds[kind].keys);
    }
    return TN_OK;
}

/* An integer or [height, width]; absent leaves both as they are. */
static tn_status get_pair(const cJSON *json, const char *key, const char *where, int64_t low, int64_t *height,
                          int64_t *width) {
    const cJSON *value = tn_json_get(json, key);
    if (!cJSON_IsArray(value)) {
        TN_TRY(tn_json_get_int(json, key, where, low, MOST_SIDE, height));
        if (value)
            *width = *height;
        return TN_OK;
    }
    if (cJSON_GetArraySize(value) != 2)
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' must be one number or two, [height, width]", where, key);
    for (int i = 0; i < 2; i++) {
        const cJSON *item = cJSON_GetArrayItem(value, i);
        double side = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(side >= (double)low && side <= MOST_SIDE) || side != (double)(int64_t)side)
            return tn_fail(TN_ERROR_FORMAT, "%s: '%s' must be whole numbers from %lld to %d", where, key, (long long)low,
                           MOST_SIDE);
        *(i ? width : height) = (int64_t)side;
    }
    return TN_OK;
}

static tn_status required(const cJSON *json, const char *key, const char *where) {
    return tn_json_get(json, key) ? TN_OK : tn_fail(TN_ERROR_FORMAT, "%s: '%s' is missing", where, key);
}

/* A size that config.json may repeat must be the one that arrives. */
static tn_status check_repeated(const cJSON *json, const char *key, const char *where, const tn_layer *layer) {
    char shape[TN_LAYER_SHAPE_TEXT];
    int64_t given = layer->in.channels;
    TN_TRY(tn_json_get_int(json, key, where, 1, MOST_CHANNELS, &given));
    if (given == layer->in.channels)
        return TN_OK;
    return tn_fail(TN_ERROR_FORMAT, "%s: '%s' is %lld, but what arrives here has shape %s; it must be %lld", where, key,
                   (long long)given, tn_layer_shape_text(&layer->in, shape), (long long)layer->in.channels);
}

static tn_status need_image(const tn_layer *layer, const char *where) {
    if (layer->in.height)
        return TN_OK;
    return tn_fail(TN_ERROR_FORMAT,
                   "%s: needs an image, [channels, height, width], but what arrives here is a vector of %lld numbers", where,
                   (long long)layer->in.channels);
}

static tn_status need_vector(const tn_layer *layer, const char *where) {
    char shape[TN_LAYER_SHAPE_TEXT];
    if (!layer->in.height)
        return TN_OK;
    return tn_fail(TN_ERROR_FORMAT,
                   "%s: needs a vector, but what arrives here is an image of %s; put a layer of type flatten (all %lld "
                   "numbers) or global_avg_pool (%lld channels) before it",
                   where, tn_layer_shape_text(&layer->in, shape), (long long)tn_layer_shape_count(&layer->in),
                   (long long)layer->in.channels);
}

static tn_status read_linear(const cJSON *json, const char *where, tn_layer *layer) {
    TN_TRY(need_vector(layer, where));
    TN_TRY(check_repeated(json, "in_features", where, layer));
    TN_TRY(required(json, "out_features", where));
    TN_TRY(tn_json_get_int(json, "out_features", where, 1, MOST_CHANNELS, &layer->out.channels));
    layer->bias = true;
    return tn_json_get_bool(json, "bias", where, &layer->bias);
}

/* The window's size and steps. */
static tn_status read_window(const cJSON *json, const char *where, tn_layer *layer) {
    tn_conv_shape *w = &layer->window;
    TN_TRY(need_image(layer, where));
    *w = (tn_conv_shape){.in_channels = layer->in.channels,
                         .out_channels = layer->in.channels,
                         .height = layer->in.height,
                         .width = layer->in.width,
                         .stride_height = 1,
                         .stride_width = 1,
                         .dilation_height = 1,
                         .dilation_width = 1,
                         .groups = 1};
    TN_TRY(required(json, "kernel_size", where));
    TN_TRY(get_pair(json, "kernel_size", where, 1, &w->kernel_height, &w->kernel_width));
    if (layer->kind != TN_LAYER_CONV2D) {
        w->stride_height = w->kernel_height;
        w->stride_width = w->kernel_width;
    }
    TN_TRY(get_pair(json, "stride", where, 1, &w->stride_height, &w->stride_width));
    TN_TRY(get_pair(json, "padding", where, 0, &w->padding_height, &w->padding_width));
    return get_pair(json, "dilation", where, 1, &w->dilation_height, &w->dilation_width);
}

static tn_status take_window(tn_layer *layer, tn_status fits, const char *where) {
    const tn_conv_shape *w = &layer->window;
    if (fits != TN_OK)
        return tn_fail_context(fits, "%s", where);
    layer->out = (tn_layer_shape){w->out_channels, tn_conv_out_height(w), tn_conv_out_width(w)};
    return TN_OK;
}

static tn_status read_conv(const cJSON *json, const char *where, tn_layer *layer) {
    tn_conv_shape *w = &layer->window;
    TN_TRY(read_window(json, where, layer));
    TN_TRY(check_repeated(json, "in_channels", where, layer));
    TN_TRY(required(json, "out_channels", where));
    TN_TRY(tn_json_get_int(json, "out_channels", where, 1, MOST_CHANNELS, &w->out_channels));
    TN_TRY(tn_json_get_int(json, "groups", where, 1, MOST_CHANNELS, &w->groups));
    TN_TRY(take_window(layer, tn_conv_shape_check(w), where));
    layer->bias = true;
    return tn_json_get_bool(json, "bias", where, &layer->bias);
}

static tn_status read_pool(const cJSON *json, const char *where, tn_layer *layer) {
    TN_TRY(read_window(json, where, layer));
    return take_window(layer, tn_pool_shape_check(&layer->window), where);
}

static tn_status read_real(const cJSON *json, const char *key, const char *where, double low, double high, float *out) {
    double value = *out;
    TN_TRY(tn_json_get_double(json, key, where, &value));
    if (!(value >= low && value <= high))
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' is %g, but must be from %g to %g", where, key, value, low, high);
    *out = (float)value;
    return TN_OK;
}

static tn_status read_norm(const cJSON *json, const char *where, tn_layer *layer) {
    layer->eps = 1e-5f;
    layer->momentum = 0.1f;
    layer->bias = true;
    if (layer->kind == TN_LAYER_LAYER_NORM)
        TN_TRY(need_vector(layer, where));
    TN_TRY(check_repeated(json, "num_features", where, layer));
    TN_TRY(tn_json_get_bool(json, "bias", where, &layer->bias));
    TN_TRY(read_real(json, "momentum", where, 0, 1, &layer->momentum));
    return read_real(json, "eps", where, 1e-30, 1, &layer->eps);
}

static tn_status read_gelu(const cJSON *json, const char *where, tn_layer *layer) {
    const char *approximate = "none";
    TN_TRY(tn_json_get_string(json, "approximate", where, &approximate));
    layer->tanh_gelu = strcmp(approximate, "tanh") == 0;
    if (layer->tanh_gelu || strcmp(approximate, "none") == 0)
        return TN_OK;
    return tn_fail(TN_ERROR_FORMAT, "%s: 'approximate' is '%s', but must be none or tanh", where, approximate);
}

static tn_status read_settings(const cJSON *json, const char *where, tn_layer *layer) {
    switch (layer->kind) {
    case TN_LAYER_LINEAR: return read_linear(json, where, layer);
    case TN_LAYER_CONV2D: return read_conv(json, where, layer);
    case TN_LAYER_MAX_POOL2D:
    case TN_LAYER_AVG_POOL2D: return read_pool(json, where, layer);
    case TN_LAYER_GLOBAL_AVG_POOL:
        layer->out = (tn_layer_shape){.channels = layer->in.channels};
        return need_image(layer, where);
    case TN_LAYER_FLATTEN: layer->out = (tn_layer_shape){.channels = tn_layer_shape_count(&layer->in)}; return TN_OK;
    case TN_LAYER_GELU: return read_gelu(json, where, layer);
    case TN_LAYER_DROPOUT: layer->p = 0.5f; return read_real(json, "p", where, 0, 0.999, &layer->p);
    case TN_LAYER_LAYER_NORM:
    case TN_LAYER_BATCH_NORM: return read_norm(json, where, layer);
    default: return TN_OK;
    }
}

static tn_status check_size(const tn_layer_shape *shape, const char *where) {
    int64_t count = shape->channels;
    bool fits = !shape->height || (tn_mul_i64(count, shape->height, &count) && tn_mul_i64(count, shape->width, &count));
    if (fits && count <= MOST_VALUES)
        return TN_OK;
    return tn_fail(TN_ERROR_FORMAT, "%s: %lld channels of %lld x %lld are too large", where, (long long)shape->channels,
                   (long long)shape->height, (long long)shape->width);
}

static bool is_name(const char *name) {
    enum { LONGEST = 200 };
    size_t length = strlen(name);
    for (const char *c = name; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c == 0x7f)
            return false;
    return length > 0 && length <= LONGEST && name[0] != '.' && name[length - 1] != '.';
}

static tn_status read_layer(const cJSON *json, const char *where, int64_t number, tn_sequential_config *c, tn_layer *layer) {
    const char *type = NULL, *name = NULL;
    char place[600];
    snprintf(place, sizeof place, "%.300s: layers[%lld]", where, (long long)number);
    if (!cJSON_IsObject(json))
        return tn_fail(TN_ERROR_FORMAT, "%s must be an object with a 'type'", place);
    TN_TRY(required(json, "type", place));
    TN_TRY(tn_json_get_string(json, "type", place, &type));
    TN_TRY(find_kind(type, place, &layer->kind));
    TN_TRY(tn_json_get_string(json, "name", place, &name));
    if (name && !is_name(name))
        return tn_fail(TN_ERROR_FORMAT, "%s: a 'name' has 1 to 200 visible characters and no dot at either end", place);
    layer->name = name ? tn_arena_strdup(&c->arena, name) : tn_arena_printf(&c->arena, "%lld", (long long)number);
    if (!layer->name)
        return tn_fail_memory("the layers");
    snprintf(place, sizeof place, "%.300s: layers[%lld] (%s '%s')", where, (long long)number, type, layer->name);
    TN_TRY(check_keys(json, layer->kind, place));
    layer->out = layer->in;
    TN_TRY(read_settings(json, place, layer));
    return check_size(&layer->out, place);
}

static tn_status read_input_shape(const cJSON *json, const char *where, tn_layer_shape *out) {
    const cJSON *shape = tn_json_get(json, "input_shape"), *side;
    int64_t sides[3] = {0};
    int count = cJSON_GetArraySize(shape), i = 0;
    if (!cJSON_IsArray(shape) || (count != 1 && count != 3))
        return tn_fail(TN_ERROR_FORMAT,
                       "%s: 'input_shape' must be [n] for vectors or [channels, height, width] for images%s", where,
                       cJSON_IsArray(shape) && count == 2 ? "; grey images are [1, height, width]" : "");
    cJSON_ArrayForEach(side, shape) {
        double most = count == 1 || i == 0 ? (double)MOST_CHANNELS : MOST_SIDE;
        if (!cJSON_IsNumber(side) || !(side->valuedouble >= 1 && side->valuedouble <= most) ||
            side->valuedouble != (double)(int64_t)side->valuedouble)
            return tn_fail(TN_ERROR_FORMAT, "%s: input_shape[%d] must be a whole number from 1 to %.0f", where, i, most);
        sides[i++] = (int64_t)side->valuedouble;
    }
    *out = (tn_layer_shape){sides[0], sides[1], sides[2]};
    return check_size(out, where);
}

static tn_status read_task(const cJSON *json, const char *where, bool *regression) {
    const char *task = "classification";
    TN_TRY(tn_json_get_string(json, "task", where, &task));
    *regression = strcmp(task, "regression") == 0;
    if (*regression || strcmp(task, "classification") == 0)
        return TN_OK;
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s: task '%s' is not one of classification, regression", where, task);
}

static tn_status check_output(const tn_sequential_config *c, const tn_layer_shape *out, const char *where) {
    char shape[TN_LAYER_SHAPE_TEXT];
    bool has_weights = false;
    for (int64_t i = 0; i < c->count; i++)
        has_weights = has_weights || c->layers[i].kind == TN_LAYER_LINEAR || c->layers[i].kind == TN_LAYER_CONV2D;
    if (!has_weights)
        return tn_fail(TN_ERROR_FORMAT, "%s: none of the layers is a linear or conv2d one, so there is nothing to learn",
                       where);
    if (out->height)
        return tn_fail(TN_ERROR_FORMAT,
                       "%s: the last layer gives an image of %s; end with flatten or global_avg_pool and a linear layer",
                       where, tn_layer_shape_text(out, shape));
    if (!c->regression && out->channels < 2)
        return tn_fail(TN_ERROR_FORMAT, "%s: the last layer gives 1 number, but a classification needs one for each class",
                       where);
    return TN_OK;
}

static tn_status parse(const cJSON *json, const char *where, tn_sequential_config *c) {
    tn_layer_shape shape;
    if (!cJSON_IsObject(json))
        return tn_fail(TN_ERROR_FORMAT, "%s: not a JSON object", where);
    const cJSON *layers = tn_json_get(json, "layers"), *item;
    TN_TRY(read_task(json, where, &c->regression));
    TN_TRY(read_input_shape(json, where, &shape));
    int count = cJSON_GetArraySize(layers);
    if (!cJSON_IsArray(layers) || count < 1 || count > MOST_LAYERS)
        return tn_fail(TN_ERROR_FORMAT, "%s: 'layers' must be a list of 1 to %d layers", where, MOST_LAYERS);
    c->inputs = tn_layer_shape_count(&shape);
    c->layers = tn_arena_array(&c->arena, (size_t)count, sizeof *c->layers);
    if (!c->layers)
        return tn_fail_memory("the layers");
    cJSON_ArrayForEach(item, layers) {
        tn_layer *layer = &c->layers[c->count];
        layer->in = shape;
        TN_TRY(read_layer(item, where, c->count, c, layer));
        shape = layer->out;
        c->count++;
    }
    c->outputs = tn_layer_shape_count(&shape);
    return check_output(c, &shape, where);
}

tn_status tn_sequential_config_parse(const cJSON *json, const char *where, tn_sequential_config *out) {
    *out = (tn_sequential_config){0};
    tn_status status = parse(json, where, out);
    if (status != TN_OK)
        tn_sequential_config_free(out);
    return status;
}

void tn_sequential_config_free(tn_sequential_config *config) {
    tn_arena_free(&config->arena);
    *config = (tn_sequential_config){0};
}
