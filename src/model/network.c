/* From a checkpoint to modules: named as in the file, weights pointing into its mapping. */
#include "model/quantised.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "model/gguf_config.h"

enum { CONFIG_LIMIT = 4 << 20 };

tn_status tn_network_locate(const char *path, char dir[TN_PATH_MAX], char config_path[TN_PATH_MAX]) {
    snprintf(dir, TN_PATH_MAX, "%s", path);
    if (tn_path_is_dir(path))
        return tn_path_join(config_path, path, "config.json");
    snprintf(config_path, TN_PATH_MAX, "%s", path);
    char *slash = strrchr(dir, '/');
    if (slash)
        *slash = 0;
    else
        strcpy(dir, ".");
    return TN_OK;
}

tn_status tn_network_init(tn_network *network, const tn_network_kind *kind, const char *dir, const char *config_path) {
    *network = (tn_network){.kind = kind, .dir = tn_strdup(dir), .default_targets = "all-linear"};
    if (!network->dir)
        return tn_fail_memory("the model");
    return tn_gguf_is_file(config_path) ? tn_gguf_config_read(config_path, &network->json)
                                        : tn_json_read(config_path, CONFIG_LIMIT, &network->json);
}

tn_status tn_network_reserve(tn_network *network, int64_t modules) {
    network->modules = tn_calloc((size_t)modules, sizeof *network->modules);
    return network->modules ? TN_OK : tn_fail_memory("the modules");
}

void tn_network_free(tn_network *network) {
    tn_checkpoint_close(&network->checkpoint);
    for (tn_quantised_node *node = network->quantised; node; node = node->next)
        tn_quantised_free(&node->array);
    tn_page_arena_free(&network->quantised_memory);
    cJSON_Delete(network->json);
    tn_map_free(&network->by_name);
    tn_pages_free(network->random_weights, (size_t)network->random_bytes);
    tn_pages_free(network->vectors, (size_t)network->vector_bytes);
    tn_arena_free(&network->arena);
    tn_free(network->modules);
    tn_free(network->dir);
}

tn_module *tn_network_add(tn_network *network, tn_module_kind kind, int layer, const char *name, tn_tensor weight,
                          int64_t outputs, bool bias) {
    tn_module *m = &network->modules[network->module_count];
    *m = (tn_module){.kind = kind, .layer = layer, .has_bias = bias, .name = tn_arena_strdup(&network->arena, name)};
    m->weight.tensor = weight;
    m->bias.tensor = (tn_tensor){.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {outputs}};
    if (!m->name || tn_map_put_text(&network->by_name, m->name, network->module_count) != TN_OK)
        return NULL;
    network->module_count++;
    return m;
}

enum { NAME_SIZE = 512 };

static void stored_name(const tn_network *network, const char *module, const char *part, char name[NAME_SIZE]) {
    size_t skipped = network->bare ? strlen(network->optional_prefix) : 0;
    if (skipped && strncmp(module, network->optional_prefix, skipped) == 0)
        module += skipped;
    snprintf(name, NAME_SIZE, "%s.%s", module, part);
}

const tn_tensor *tn_network_stored(const tn_network *network, const char *module, const char *part) {
    char name[NAME_SIZE];
    stored_name(network, module, part, name);
    return tn_checkpoint_find(&network->checkpoint, name);
}

static tn_status find_tensor(tn_network *network, const char *module, const char *part, tn_weight *weight) {
    tn_tensor *tensor = &weight->tensor;
    char name[NAME_SIZE], want[TN_SHAPE_TEXT], got[TN_SHAPE_TEXT];
    bool quantised;
    stored_name(network, module, part, name);
    TN_TRY(tn_network_find_quantised(network, name, weight, &quantised));
    if (quantised)
        return TN_OK;
    const tn_tensor *found = tn_checkpoint_find(&network->checkpoint, name);
    if (!found)
        return tn_fail(TN_ERROR_MISMATCH, "%s: the checkpoint has no tensor '%s', which config.json calls for", network->dir,
                       name);
    if (!tn_tensor_same_shape(found, tensor))
        return tn_fail(TN_ERROR_MISMATCH, "%s: tensor '%s' has shape %s, but config.json makes it %s", network->dir, name,
                       tn_shape_text(found, got), tn_shape_text(tensor, want));
    if (found->dtype != TN_DTYPE_F32 && found->dtype != TN_DTYPE_BF16 && found->dtype != TN_DTYPE_F16 &&
        found->dtype != TN_DTYPE_QUANTISED)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: tensor '%s' is stored as %s; supported are F32, BF16 and F16",
                       network->dir, name, tn_dtype_name(found->dtype));
    int64_t bad = tn_tensor_first_nonfinite(found);
    if (bad >= 0)
        return tn_fail(TN_ERROR_NUMERIC,
                       "%s: tensor '%s' holds a NaN or infinity at element %lld; the checkpoint is damaged", network->dir,
                       name, (long long)bad);
    tn_checkpoint_forget(&network->checkpoint, found);
    *tensor = *found;
    return TN_OK;
}

/* Vectors (norms, biases) are widened to f32 once: they are tiny, and kernels then need one type for them. */
static void place_vector(tn_tensor *tensor, float **place) {
    int64_t count = tn_tensor_count(tensor);
    tn_tensor_read(*place, tensor, 0, count);
    tensor->data = *place;
    tensor->dtype = TN_DTYPE_F32;
    *place += count;
}

/* A running variance below 0 has no root. */
static tn_status check_variance(const tn_network *network, const tn_module *module) {
    const float *variance = module->running_var.tensor.data;
    for (int64_t i = 0; module->has_running && i < module->running_var.tensor.shape[0]; i++)
        if (!(variance[i] >= 0))
            return tn_fail(TN_ERROR_NUMERIC, "%s: '%s.running_var' holds %g, but a variance is not negative", network->dir,
                           module->name, (double)variance[i]);
    return TN_OK;
}

static tn_status load_weights(tn_network *network) {
    int64_t vectors = 0;
    for (int64_t i = 0; i < network->module_count * TN_MODULE_PARTS; i++) {
        tn_module *m = &network->modules[i / TN_MODULE_PARTS];
        int part = (int)(i % TN_MODULE_PARTS);
        tn_weight *weight = tn_module_part(m, part);
        if (!weight)
            continue;
        TN_TRY(find_tensor(network, m->name, tn_module_part_name(part), weight));
        vectors += weight->tensor.ndim == 1 ? weight->tensor.shape[0] : 0;
    }
    network->vector_bytes = vectors * (int64_t)sizeof(float);
    network->vectors = vectors ? tn_pages_alloc((size_t)network->vector_bytes) : NULL;
    if (vectors && !network->vectors)
        return tn_fail_memory("the norm weights");
    float *place = network->vectors;
    for (int64_t i = 0; i < network->module_count; i++) {
        tn_module *m = &network->modules[i];
        for (int part = 0; part < TN_MODULE_PARTS; part++) {
            tn_weight *weight = tn_module_part(m, part);
            if (weight && weight->tensor.ndim == 1)
                place_vector(&weight->tensor, &place);
        }
        TN_TRY(check_variance(network, m));
    }
    return TN_OK;
}

bool tn_network_find_part(const tn_network *network, const char *tensor, tn_module **module, int *part) {
    char full[NAME_SIZE];
    const char *dot = strrchr(tensor, '.');
    int64_t at;
    if (!dot)
        return false;
    int length = (int)(dot - tensor);
    bool found = tn_map_get(&network->by_name, tensor, (size_t)length, &at);
    if (!found && network->bare) {
        snprintf(full, sizeof full, "%s%.*s", network->optional_prefix, length, tensor);
        found = tn_map_get_text(&network->by_name, full, &at);
    }
    if (!found)
        return false;
    *module = &network->modules[at];
    for (*part = 0; *part < TN_MODULE_PARTS; ++*part)
        if (strcmp(dot + 1, tn_module_part_name(*part)) == 0)
            return *part == 0 || tn_module_part(*module, *part);
    return false;
}

/* What is stored beside weights: masks of GPT-2's attention, rotary frequencies, how many batches a batch norm saw. */
static bool is_buffer(const char *name) {
    static const char *const endings[] = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", ".num_batches_tracked"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (length > strlen(endings[i]) && strcmp(name + length - strlen(endings[i]), endings[i]) == 0)
            return true;
    return false;
}

/* Buffers that old checkpoints carry along are no surprise; anything else is counted for the caller to show. */
static void count_unused(tn_network *network) {
    for (size_t f = 0; f < network->checkpoint.file_count; f++) {
        const tn_safetensors *file = &network->checkpoint.files[f];
        for (size_t e = 0; e < file->count; e++) {
            const char *name = file->entries[e].name;
            tn_module *module;
            int part;
            if (tn_network_find_part(network, name, &module, &part) || is_buffer(name) ||
                tn_network_is_quantised_piece(network, name) || !tn_checkpoint_find(&network->checkpoint, name))
                continue;
            if (network->unused_tensors++ == 0)
                network->first_unused = name;
        }
    }
}

tn_status tn_network_load(tn_network *network) {
    TN_TRY(tn_checkpoint_open(network->dir, &network->checkpoint));
    if (network->optional_prefix && !tn_network_stored(network, network->modules[0].name, "weight")) {
        network->bare = true;
        network->bare = tn_network_stored(network, network->modules[0].name, "weight") != NULL;
    }
    TN_TRY(load_weights(network));
    count_unused(network);
    return TN_OK;
}

/* He's deviation for layers in front of a rectifier. */
static float deviation_for(const tn_module *module) {
    const tn_tensor *weight = &module->weight.tensor;
    return sqrtf(2.0f * (float)weight->shape[0] / (float)tn_tensor_count(weight));
}

static void fill_part(float *place, const tn_module *module, int part, float deviation, uint64_t seed, uint32_t stream) {
    const tn_tensor *weight = &module->weight.tensor;
    int64_t count = part == 0 ? tn_tensor_count(weight) : 0;
    if (part == 0 && weight->ndim > 1) {
        tn_fill_normal(place, (size_t)count, seed, tn_stream(TN_STREAM_INIT, stream), 0,
                       deviation > 0 ? deviation : deviation_for(module));
        return;
    }
    count = part == 3 ? module->running_var.tensor.shape[0] : count;
    for (int64_t j = 0; j < count; j++)
        place[j] = 1;
}

tn_status tn_network_fill_random(tn_network *network, float deviation, uint64_t seed) {
    int64_t floats = 0;
    for (int64_t i = 0; i < network->module_count * TN_MODULE_PARTS; i++) {
        const tn_weight *weight = tn_module_part(&network->modules[i / TN_MODULE_PARTS], (int)(i % TN_MODULE_PARTS));
        if (weight &&
            (!tn_add_i64(floats, tn_tensor_count(&weight->tensor), &floats) || floats > INT64_MAX / (int64_t)sizeof(float)))
            return tn_fail(TN_ERROR_FORMAT, "%s: a model of this configuration is too large", network->dir);
    }
    network->random_bytes = floats * (int64_t)sizeof(float);
    network->random_weights = tn_pages_alloc((size_t)network->random_bytes);
    if (!network->random_weights)
        return tn_fail_memory("the weights");
    float *place = network->random_weights;
    for (int64_t i = 0; i < network->module_count; i++) {
        tn_module *m = &network->modules[i];
        for (int part = 0; part < TN_MODULE_PARTS; part++) {
            tn_weight *weight = tn_module_part(m, part);
            if (!weight)
                continue;
            weight->tensor.data = place;
            fill_part(place, m, part, deviation, seed, (uint32_t)i);
            place += tn_tensor_count(&weight->tensor);
        }
    }
    return TN_OK;
}

tn_module *tn_network_module(const tn_network *network, const char *name) {
    int64_t at;
    return tn_map_get_text(&network->by_name, name, &at) ? &network->modules[at] : NULL;
}

int64_t tn_network_parameters(const tn_network *network) {
    int64_t count = 0;
    for (int64_t i = 0; i < network->module_count; i++) {
        const tn_module *m = &network->modules[i];
        count += (m->tied ? 0 : tn_tensor_count(&m->weight.tensor)) + (m->has_bias ? m->bias.tensor.shape[0] : 0);
    }
    return count;
}

static bool is_mapped(const tn_network *network, const uint8_t *data) {
    for (size_t i = 0; i < network->checkpoint.file_count; i++) {
        const tn_mapping *mapping = &network->checkpoint.files[i].mapping;
        if (data >= mapping->data && data < mapping->data + mapping->size)
            return true;
    }
    return false;
}

int64_t tn_network_absent_bytes(const tn_network *network) {
    int64_t resident = 0, mapped = 0;
    for (int64_t i = 0; i < network->module_count; i++) {
        const tn_tensor *weight = &network->modules[i].weight.tensor;
        const void *data = weight->data;
        if (weight->dtype == TN_DTYPE_QUANTISED)
            data = ((const tn_quantised *)data)->codes;
        if (!network->modules[i].tied && is_mapped(network, data))
            mapped += tn_tensor_bytes(weight);
    }
    for (size_t i = 0; i < network->checkpoint.file_count; i++)
        resident += (int64_t)tn_file_resident(&network->checkpoint.files[i].mapping);
    return mapped > resident ? mapped - resident : 0;
}

int64_t tn_network_bytes(const tn_network *network) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < network->module_count * TN_MODULE_PARTS; i++) {
        const tn_weight *weight = tn_module_part(&network->modules[i / TN_MODULE_PARTS], (int)(i % TN_MODULE_PARTS));
        bytes += weight ? tn_tensor_bytes(&weight->tensor) : 0;
    }
    return bytes;
}
