/* Adapter folders of PEFT, of any peft_type, and of mlx-lm. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "peft/config.h"
#include "session/inspect_parts.h"

static const char PEFT_PREFIX[] = "base_model.model.";

/* Copies the first of `keys` that is set under the name `as`; all but the last are older or other methods' spellings. */
static void copy_first(cJSON *out, const char *as, const cJSON *config, const char *const *keys) {
    for (; *keys; keys++) {
        const cJSON *value = tn_json_get(config, *keys);
        if (!value)
            continue;
        cJSON_AddItemToObject(out, as, cJSON_Duplicate(value, true));
        return;
    }
}

#define COPY(out, as, config, ...) copy_first(out, as, config, (const char *const[]){__VA_ARGS__, NULL})

static bool is_unset(const cJSON *value) {
    return cJSON_IsNull(value) || cJSON_IsFalse(value) ||
           ((cJSON_IsArray(value) || cJSON_IsObject(value)) && !value->child) ||
           (cJSON_IsString(value) && !value->valuestring[0]);
}

/* What the configuration sets besides what has a line of its own, so that no variant goes unseen. */
static void add_other_settings(cJSON *out, const cJSON *config) {
    static const char *const shown[] = {"peft_type",
                                        "base_model_name_or_path",
                                        "task_type",
                                        "r",
                                        "lora_alpha",
                                        "alpha",
                                        "lora_dropout",
                                        "target_modules",
                                        "bias",
                                        "peft_version",
                                        "inference_mode",
                                        "megatron_core",
                                        "qalora_group_size",
                                        "auto_mapping",
                                        "revision",
                                        "runtime_config"};
    cJSON *settings = cJSON_CreateObject();
    const cJSON *item;
    cJSON_ArrayForEach(item, config) {
        bool skip = is_unset(item);
        for (size_t i = 0; i < sizeof shown / sizeof *shown && !skip; i++)
            skip = strcmp(item->string, shown[i]) == 0;
        if (strncmp(item->string, "init_", 5) == 0 && cJSON_IsTrue(item))
            skip = true;
        if (!skip)
            cJSON_AddItemToObject(settings, item->string, cJSON_Duplicate(item, true));
    }
    cJSON_AddItemToObject(out, "settings", settings);
}

static void add_scaling(cJSON *out, const cJSON *config, const char *peft_type) {
    static const char *const divided[] = {"LORA", "LOHA", "LOKR"};
    const cJSON *rank = tn_json_get(out, "r"), *alpha = tn_json_get(out, "alpha");
    if (!cJSON_IsNumber(rank) || !cJSON_IsNumber(alpha) || !(rank->valuedouble > 0))
        return;
    bool rslora = cJSON_IsTrue(tn_json_get(config, "use_rslora"));
    for (size_t i = 0; i < sizeof divided / sizeof *divided; i++)
        if (strcmp(peft_type, divided[i]) == 0)
            cJSON_AddNumberToObject(out, "scaling",
                                    alpha->valuedouble / (rslora ? sqrt(rank->valuedouble) : rank->valuedouble));
}

/* Whether this build can apply it to a base of its families. What a base decides (shapes, names) shows when it is loaded. */
static void add_use(cJSON *out, const cJSON *config, const char *path) {
    tn_peft_config parsed;
    if (tn_peft_config_parse(config, path, &parsed) != TN_OK) {
        tn_inspect_add_refusal(out, "can_apply");
        return;
    }
    tn_peft_config_free(&parsed);
    const cJSON *task = tn_json_get(config, "task_type");
    if (cJSON_IsTrue(tn_json_get(config, "fan_in_fan_out")) && cJSON_IsString(task) &&
        strcmp(task->valuestring, "SEQ_CLS") == 0) {
        tn_fail(TN_ERROR_UNSUPPORTED, "%s: models of the GPT-2 family are language models here, without a classifier", path);
        tn_inspect_add_refusal(out, "can_apply");
        return;
    }
    cJSON_AddTrueToObject(out, "can_apply");
}

/* Distinct modules and layers in the names of tensors. */
typedef struct {
    tn_map modules;
    int64_t *layers;
    size_t layer_count, capacity;
    int64_t whole; /* tensors that replace those of the base */
} names;

static tn_status note_layer(names *n, const char *name) {
    for (const char *part = name; part; part = strchr(part, '.') ? strchr(part, '.') + 1 : NULL) {
        size_t digits = strspn(part, "0123456789");
        if (!digits || digits > 9 || part[digits] != '.')
            continue;
        int64_t layer = strtol(part, NULL, 10);
        for (size_t i = 0; i < n->layer_count; i++)
            if (n->layers[i] == layer)
                return TN_OK;
        if (n->layer_count == n->capacity) {
            size_t capacity = n->capacity ? n->capacity * 2 : 64;
            int64_t *grown = tn_realloc_array(n->layers, capacity, sizeof *grown);
            if (!grown)
                return tn_fail_memory("the layers");
            n->layers = grown;
            n->capacity = capacity;
        }
        n->layers[n->layer_count++] = layer;
        return TN_OK;
    }
    return TN_OK;
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Where the module's part of a name ends: before the component that begins with a method's mark. 0: no module's tensor. */
static size_t module_length(const char *name, const char *const *marks) {
    for (const char *part = name; part; part = strchr(part, '.') ? strchr(part, '.') + 1 : NULL)
        for (const char *const *mark = marks; *mark; mark++)
            if (strncmp(part, *mark, strlen(*mark)) == 0)
                return part > name ? (size_t)(part - name) - 1 : 0;
    return 0;
}

static tn_status note_tensor(names *n, const char *name, const char *const *marks) {
    size_t prefix = sizeof PEFT_PREFIX - 1;
    bool is_module = true;
    if (strncmp(name, PEFT_PREFIX, prefix) == 0)
        name += prefix;
    else
        is_module = strncmp(name, "base_model.", 11) != 0;
    size_t length = is_module ? module_length(name, marks) : 0;
    const char *ending = strrchr(name, '.');
    if (!length) {
        n->whole += is_module && ending && (strcmp(ending, ".weight") == 0 || strcmp(ending, ".bias") == 0);
        return TN_OK;
    }
    if (strncmp(name + length, ".base_layer.", 12) == 0)
        return TN_OK;
    TN_TRY(tn_map_put(&n->modules, name, length, 0));
    return note_layer(n, name);
}

static tn_status add_names(cJSON *out, const tn_safetensors *file, const char *const *marks) {
    names n = {0};
    tn_status status = TN_OK;
    for (size_t i = 0; i < file->count && status == TN_OK; i++)
        status = note_tensor(&n, file->entries[i].name, marks);
    if (status == TN_OK) {
        cJSON_AddNumberToObject(out, "modules", (double)n.modules.count);
        cJSON_AddNumberToObject(out, "whole_tensors", (double)n.whole);
        if (n.layer_count) {
            qsort(n.layers, n.layer_count, sizeof *n.layers, ascending);
            tn_inspect_add_numbers(out, "layers", n.layers, n.layer_count);
        }
    }
    tn_map_free(&n.modules);
    tn_free(n.layers);
    return status;
}

/* Adds what the tensors say; without a readable file, why. */
static tn_status add_file(cJSON *out, const char *dir, const char *name, const char *const *marks,
                          const tn_inspect_options *options) {
    char path[TN_PATH_MAX];
    tn_safetensors file;
    if (!tn_inspect_has(path, dir, name)) {
        cJSON_AddStringToObject(out, "weights", "none: the folder has no such file");
        cJSON_AddStringToObject(out, "weights_file", name);
        return TN_OK;
    }
    TN_TRY(tn_safetensors_open(path, &file));
    cJSON_AddStringToObject(out, "weights_file", name);
    tn_status status = add_names(out, &file, marks);
    if (status == TN_OK)
        status = tn_inspect_tensors(out, &file, 1, NULL, false, options);
    tn_safetensors_close(&file);
    return status;
}

static tn_status inspect_peft(cJSON *out, const char *dir, const char *path, const cJSON *config,
                              const tn_inspect_options *options) {
    const char *peft_type = NULL;
    char mark[64];
    TN_TRY(tn_json_get_string(config, "peft_type", path, &peft_type));
    if (!peft_type)
        return tn_fail(TN_ERROR_FORMAT, "%s: 'peft_type' is missing, and mlx-lm's 'fine_tune_type' as well", path);
    snprintf(mark, sizeof mark, "%.60s_", peft_type);
    for (char *c = mark; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    const char *const marks[] = {mark,          "lora_",     "hada_", "trainable_tokens", "token_adapter",
                                 "base_layer.", "adaption_", NULL};
    cJSON_AddStringToObject(out, "kind", "peft adapter");
    cJSON_AddStringToObject(out, "peft_type", peft_type);
    COPY(out, "base_model", config, "base_model_name_or_path");
    COPY(out, "task_type", config, "task_type");
    COPY(out, "r", config, "init_r", "r", "rank"); /* AdaLoRA makes no use of r */
    COPY(out, "alpha", config, "lora_alpha", "alpha");
    COPY(out, "dropout", config, "lora_dropout", "module_dropout", "vera_dropout", "dropout");
    COPY(out, "target_modules", config, "target_modules");
    COPY(out, "bias", config, "bias");
    add_scaling(out, config, peft_type);
    add_other_settings(out, config);
    add_use(out, config, path);
    return add_file(out, dir, "adapter_model.safetensors", marks, options);
}

static tn_status inspect_mlx(cJSON *out, const char *dir, const char *path, const cJSON *config,
                             const tn_inspect_options *options) {
    static const char *const marks[] = {"lora_a", "lora_b", NULL};
    const cJSON *lora = tn_json_get(config, "lora_parameters");
    const char *type = "lora";
    TN_TRY(tn_json_get_string(config, "fine_tune_type", path, &type));
    cJSON_AddStringToObject(out, "kind", "mlx-lm adapter");
    cJSON_AddStringToObject(out, "fine_tune_type", type);
    COPY(out, "base_model", config, "model");
    COPY(out, "rank", lora, "rank");
    COPY(out, "scale", lora, "scale");
    COPY(out, "dropout", lora, "dropout");
    COPY(out, "keys", lora, "keys");
    COPY(out, "num_layers", config, "num_layers", "lora_layers");
    tn_fail(TN_ERROR_UNSUPPORTED, "this build applies PEFT folders only, and this one is mlx-lm's");
    tn_inspect_add_refusal(out, "can_apply");
    return add_file(out, dir, "adapters.safetensors", marks, options);
}

tn_status tn_inspect_adapter(cJSON *out, const char *dir, const tn_inspect_options *options) {
    char path[TN_PATH_MAX], other[TN_PATH_MAX];
    cJSON *config;
    tn_inspect_has(path, dir, "adapter_config.json");
    TN_TRY(tn_json_read(path, TN_INSPECT_JSON_LIMIT, &config));
    bool mlx = !tn_json_get(config, "peft_type") &&
               (tn_json_get(config, "fine_tune_type") || tn_json_get(config, "lora_parameters") ||
                tn_inspect_has(other, dir, "adapters.safetensors"));
    tn_status status = mlx ? inspect_mlx(out, dir, path, config, options) : inspect_peft(out, dir, path, config, options);
    cJSON_Delete(config);
    return status;
}
