/* AdaLoraConfig: LoraConfig's keys, of which AdaLoRA makes use of some, and rank_pattern as lists of truths. */
#include <string.h>

#include "peft/adalora.h"
#include "peft/lora.h"

/* LoraConfig's, and `r`, which AdaLoRA does not use: init_r stands in its place. */
const char *const tn_adalora_keys[] = {
    "use_rslora",
    "use_dora",
    "lora_bias",
    "init_lora_weights",
    "target_parameters",
    "layer_replication",
    "use_bdlora",
    "kasa_config",
    "ensure_weight_tying",
    "trainable_token_indices",
    "megatron_core",
    "qalora_group_size",
    "alora_invocation_tokens",
    "rank_pattern",
    "r",
    NULL,
};

enum { LORA_RANK = 8 }; /* LoraConfig's default, which PEFT wants `r` to have here */

static tn_status read_mask(const tn_config_reader *r, const cJSON *list, tn_rank_mask *out) {
    tn_arena *arena = &r->config->arena;
    bool *kept = cJSON_IsArray(list) ? tn_arena_array(arena, (size_t)cJSON_GetArraySize(list) + 1, sizeof *kept) : NULL;
    const cJSON *item;
    if (!cJSON_IsArray(list))
        return tn_config_wrong_type(r, "rank_pattern", "an object of lists of truths");
    *out = (tn_rank_mask){.key = tn_arena_strdup(arena, list->string), .kept = kept};
    if (!kept || !out->key)
        return tn_fail_memory("the adapter's configuration");
    cJSON_ArrayForEach(item, list) {
        if (!cJSON_IsBool(item))
            return tn_config_wrong_type(r, "rank_pattern", "an object of lists of truths");
        kept[out->count++] = cJSON_IsTrue(item);
    }
    return TN_OK;
}

static tn_status read_masks(const tn_config_reader *r) {
    tn_adalora_settings *settings = r->config->settings;
    const cJSON *value = tn_json_get(r->json, "rank_pattern"), *item;
    if (!value)
        return TN_OK;
    if (!cJSON_IsObject(value))
        return tn_config_wrong_type(r, "rank_pattern", "an object of lists of truths");
    tn_rank_mask *masks = tn_arena_array(&r->config->arena, (size_t)cJSON_GetArraySize(value) + 1, sizeof *masks);
    if (!masks)
        return tn_fail_memory("the adapter's configuration");
    settings->masks = masks;
    cJSON_ArrayForEach(item, value) {
        TN_TRY(read_mask(r, item, &masks[settings->mask_count]));
        settings->mask_count++;
    }
    return TN_OK;
}

tn_status tn_adalora_read_config(const tn_config_reader *r) {
    TN_TRY(tn_lora_read_config(r));
    return read_masks(r);
}

tn_status tn_adalora_complete(const tn_network *model, tn_peft_config *c) {
    const struct {
        const char *key;
        bool given;
    } unused[] = {
        {"use_rslora", c->use_rslora},
        {"use_dora", c->use_dora},
        {"lora_bias", c->lora_bias},
        {"use_bdlora", c->block_diagonal.blocks > 0},
        {"kasa_config", c->kasa},
        {"alora_invocation_tokens", c->invocation_count > 0},
        {"target_parameters", c->target_parameters.count > 0},
        {"alpha_pattern", c->alpha_pattern_count > 0},
        {"rank_pattern of numbers", c->rank_pattern_count > 0},
        {"init_lora_weights other than true and false", strcmp(c->init, "kaiming") != 0 && strcmp(c->init, "random") != 0},
    };
    (void)model;
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++)
        if (unused[i].given)
            return tn_fail(TN_ERROR_UNSUPPORTED, "adalora makes no use of %s; leave it out", unused[i].key);
    return TN_OK;
}

void tn_adalora_write_config(const tn_peft_config *c, cJSON *o) {
    const tn_adalora_settings *settings = c->settings;
    tn_lora_write_config(c, o);
    cJSON_AddNumberToObject(o, "r", LORA_RANK);
    cJSON_DeleteItemFromObjectCaseSensitive(o, "rank_pattern"); /* that of numbers */
    if (!settings->mask_count) {
        cJSON_AddNullToObject(o, "rank_pattern");
        return;
    }
    cJSON *pattern = cJSON_AddObjectToObject(o, "rank_pattern");
    for (size_t i = 0; i < settings->mask_count; i++) {
        const tn_rank_mask *mask = &settings->masks[i];
        cJSON *list = cJSON_AddArrayToObject(pattern, mask->key);
        for (int64_t k = 0; k < mask->count; k++)
            cJSON_AddItemToArray(list, cJSON_CreateBool(mask->kept[k]));
    }
}

static bool is_mask_of(const tn_rank_mask *mask, const char *module) {
    size_t length = strlen(module);
    return strncmp(mask->key, module, length) == 0 && strcmp(mask->key + length, ".lora_E") == 0;
}

const tn_rank_mask *tn_adalora_mask_of(const tn_adalora_settings *settings, const char *module) {
    for (size_t i = 0; i < settings->mask_count; i++)
        if (is_mask_of(&settings->masks[i], module))
            return &settings->masks[i];
    return NULL;
}

tn_status tn_adalora_check_masks(const tn_adapter *adapter, const bool *selected) {
    const tn_adalora_settings *settings = adapter->config.settings;
    const tn_network *model = adapter->model;
    for (size_t i = 0; i < settings->mask_count; i++) {
        bool found = false;
        for (int64_t m = 0; m < model->module_count && !found; m++)
            found = selected[m] && is_mask_of(&settings->masks[i], model->modules[m].name);
        if (!found)
            return tn_fail(TN_ERROR_MISMATCH, "rank_pattern: '%s' belongs to no module that the adapter changes",
                           settings->masks[i].key);
    }
    return TN_OK;
}
