/* Roles of weights by the names that Hugging Face's models use. */
#include "session/weight_role.h"

#include <stdio.h>
#include <string.h>

const char *tn_module_last_part(const char *module) {
    const char *dot = strrchr(module, '.');
    return dot ? dot + 1 : module;
}

static bool is_one_of(const char *word, const char *const *words) {
    while (*words && strcmp(*words, word) != 0)
        words++;
    return *words;
}

static const char *model_type(const cJSON *config) {
    const cJSON *type = tn_json_get(config, "model_type");
    return cJSON_IsString(type) ? type->valuestring : "";
}

static bool is_transposed(const cJSON *config, const char *module) {
    static const char *const families[] = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", NULL};
    static const char *const layers[] = {"c_attn", "q_attn", "c_proj", "c_fc", NULL};
    return is_one_of(model_type(config), families) && is_one_of(tn_module_last_part(module), layers);
}

static bool is_embedding(const char *module) {
    static const char *const others[] = {"wte", "wpe", "emb", NULL};
    const char *name = tn_module_last_part(module);
    return (strstr(name, "embed") && !tn_weight_is_head(module)) || is_one_of(name, others);
}

/* Plain networks list their layers; a grouped convolution's update is no single product. */
static bool is_grouped(const cJSON *config, const char *module) {
    const cJSON *layers = tn_json_get(config, "layers"), *layer;
    char number[24]; /* the name of a layer that has none */
    int at = 0;
    cJSON_ArrayForEach(layer, layers) {
        const cJSON *name = tn_json_get(layer, "name"), *groups = tn_json_get(layer, "groups");
        snprintf(number, sizeof number, "%d", at++);
        if (strcmp(cJSON_IsString(name) ? name->valuestring : number, module) == 0)
            return cJSON_IsNumber(groups) && groups->valuedouble > 1;
    }
    return false;
}

tn_weight_role tn_weight_role_of(const cJSON *config, const char *name, const char *module, const tn_tensor *tensor) {
    const char *dot = strrchr(name, '.');
    if (!module || !dot || strcmp(dot, ".weight") != 0)
        return TN_WEIGHT_OTHER;
    if (tensor->ndim == 4)
        return is_grouped(config, module) ? TN_WEIGHT_OTHER : TN_WEIGHT_CONV2D;
    if (tensor->ndim != 2)
        return TN_WEIGHT_OTHER;
    if (is_embedding(module))
        return TN_WEIGHT_EMBEDDING;
    return is_transposed(config, module) ? TN_WEIGHT_TRANSPOSED : TN_WEIGHT_LINEAR;
}

bool tn_weight_is_head(const char *module) {
    static const char *const names[] = {"lm_head", "embed_out", "score", NULL}; /* embed_out: GPT-NeoX's */
    return is_one_of(tn_module_last_part(module), names);
}

bool tn_weight_is_input_embedding(const char *module) {
    static const char *const names[] = {"embed_tokens", "wte", "embed_in", "word_embeddings", NULL};
    return is_one_of(tn_module_last_part(module), names);
}

bool tn_weight_head_is_tied(const cJSON *config) {
    static const char *const tied_by_default[] = {"gpt2", "gemma", "gemma2", NULL};
    const cJSON *tie = tn_json_get(config, "tie_word_embeddings");
    return tie ? cJSON_IsTrue(tie) : is_one_of(model_type(config), tied_by_default);
}
