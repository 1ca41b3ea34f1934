/* LoraConfig from JSON. Every key that PEFT 0.20 writes is known here: as a field, or as a feature that this build refuses
 * by name. */
#include <math.h>
#include <string.h>

#include "peft/config.h"

typedef struct {
    tn_peft_config *config;
    const cJSON *json;
    const char *where;
} reader;

static tn_status wrong_type(const reader *r, const char *key, const char *want) {
    return tn_fail(TN_ERROR_FORMAT, "%s: '%s' must be %s", r->where, key, want);
}

static tn_status read_text(const reader *r, const char *key, const char **out) {
    const char *text = NULL;
    TN_TRY(tn_json_get_string(r->json, key, r->where, &text));
    if (text && !(*out = tn_arena_strdup(&r->config->arena, text)))
        return tn_fail_memory("the adapter's configuration");
    return TN_OK;
}

static tn_status read_names(const reader *r, const char *key, const cJSON *value, tn_text_list *out) {
    if (!value)
        return TN_OK;
    if (!cJSON_IsArray(value))
        return wrong_type(r, key, "a list of names");
    const char **items = tn_arena_array(&r->config->arena, (size_t)cJSON_GetArraySize(value) + 1, sizeof *items);
    size_t count = 0;
    if (!items)
        return tn_fail_memory("the adapter's configuration");
    const cJSON *item;
    cJSON_ArrayForEach(item, value) {
        if (!cJSON_IsString(item))
            return wrong_type(r, key, "a list of names");
        if (!(items[count++] = tn_arena_strdup(&r->config->arena, item->valuestring)))
            return tn_fail_memory("the adapter's configuration");
    }
    *out = (tn_text_list){items, count};
    return TN_OK;
}

/* A string is a regular expression, a list holds names. */
static tn_status read_selection(const reader *r, const char *key, const char **regex, tn_text_list *names) {
    const cJSON *value = tn_json_get(r->json, key);
    if (cJSON_IsString(value))
        return read_text(r, key, regex);
    return read_names(r, key, value, names);
}

static tn_status read_patterns(const reader *r, const char *key, tn_pattern **out, size_t *count) {
    const cJSON *value = tn_json_get(r->json, key), *item;
    if (!value)
        return TN_OK;
    if (!cJSON_IsObject(value))
        return wrong_type(r, key, "an object of numbers");
    tn_pattern *patterns = tn_arena_array(&r->config->arena, (size_t)cJSON_GetArraySize(value) + 1, sizeof *patterns);
    if (!patterns)
        return tn_fail_memory("the adapter's configuration");
    cJSON_ArrayForEach(item, value) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble > 0))
            return wrong_type(r, key, "an object of numbers above 0");
        tn_pattern *p = &patterns[(*count)++];
        *p = (tn_pattern){tn_arena_strdup(&r->config->arena, item->string), item->valuedouble};
        if (!p->key)
            return tn_fail_memory("the adapter's configuration");
    }
    *out = patterns;
    return TN_OK;
}

static tn_status read_integers(const reader *r, const char *key, const cJSON *value, int64_t high, int64_t **out,
                               size_t *count) {
    bool single = cJSON_IsNumber(value);
    if (!value)
        return TN_OK;
    if (!single && !cJSON_IsArray(value))
        return wrong_type(r, key, "a number or a list of numbers");
    *out = tn_arena_array(&r->config->arena, single ? 1 : (size_t)cJSON_GetArraySize(value) + 1, sizeof **out);
    if (!*out)
        return tn_fail_memory("the adapter's configuration");
    for (const cJSON *item = single ? value : value->child; item; item = single ? NULL : item->next) {
        if (!cJSON_IsNumber(item) || item->valuedouble < 0 || item->valuedouble > (double)high ||
            item->valuedouble != floor(item->valuedouble))
            return wrong_type(r, key, "a whole number or a list of them");
        (*out)[(*count)++] = (int64_t)item->valuedouble;
    }
    return TN_OK;
}

static tn_status read_token_rows(const reader *r) {
    tn_peft_config *c = r->config;
    const cJSON *value = tn_json_get(r->json, "trainable_token_indices");
    if (!value)
        return TN_OK;
    bool by_module = cJSON_IsObject(value);
    size_t entries = by_module ? (size_t)cJSON_GetArraySize(value) : 1;
    c->token_rows = tn_arena_array(&c->arena, entries + 1, sizeof *c->token_rows);
    if (!c->token_rows)
        return tn_fail_memory("the adapter's configuration");
    for (const cJSON *item = by_module ? value->child : value; item; item = by_module ? item->next : NULL) {
        tn_token_rows *rows = &c->token_rows[c->token_rows_count++];
        int64_t *indices = NULL;
        size_t count = 0;
        TN_TRY(read_integers(r, "trainable_token_indices", item, INT32_MAX, &indices, &count));
        rows->module = by_module ? tn_arena_strdup(&c->arena, item->string) : NULL;
        rows->indices = tn_arena_array(&c->arena, count + 1, sizeof *rows->indices);
        if (!rows->indices || (by_module && !rows->module))
            return tn_fail_memory("the adapter's configuration");
        rows->count = (int64_t)count;
        for (size_t i = 0; i < count; i++)
            rows->indices[i] = (int32_t)indices[i];
    }
    return TN_OK;
}

static tn_status read_replication(const reader *r) {
    tn_peft_config *c = r->config;
    const cJSON *value = tn_json_get(r->json, "layer_replication"), *item;
    if (!value)
        return TN_OK;
    c->replication = tn_arena_array(&c->arena, (size_t)cJSON_GetArraySize(value) + 1, sizeof *c->replication);
    if (!c->replication)
        return tn_fail_memory("the adapter's configuration");
    cJSON_ArrayForEach(item, value) {
        const cJSON *from = cJSON_GetArrayItem(item, 0), *to = cJSON_GetArrayItem(item, 1);
        if (!cJSON_IsArray(value) || cJSON_GetArraySize(item) != 2 || !cJSON_IsNumber(from) || !cJSON_IsNumber(to) ||
            fabs(from->valuedouble) > 1e6 || fabs(to->valuedouble) > 1e6)
            return wrong_type(r, "layer_replication", "a list of [start, end] pairs");
        int64_t *range = c->replication[c->replication_count++];
        range[0] = (int64_t)from->valuedouble;
        range[1] = (int64_t)to->valuedouble;
    }
    return TN_OK;
}

static bool is_default(const cJSON *value) {
    return cJSON_IsNull(value) || cJSON_IsFalse(value) ||
           ((cJSON_IsArray(value) || cJSON_IsObject(value)) && !value->child) ||
           (cJSON_IsString(value) && !value->valuestring[0]);
}

static tn_status read_invocation(const reader *r) {
    tn_peft_config *c = r->config;
    const char *key = "alora_invocation_tokens";
    int64_t *tokens = NULL;
    TN_TRY(read_integers(r, key, tn_json_get(r->json, key), INT32_MAX, &tokens, &c->invocation_count));
    if (c->invocation_count > TN_MOST_INVOCATION)
        return wrong_type(r, key, "a list of at most 256 tokens");
    c->invocation_tokens = tn_arena_array(&c->arena, c->invocation_count + 1, sizeof *c->invocation_tokens);
    if (!c->invocation_tokens)
        return tn_fail_memory("the adapter's configuration");
    for (size_t i = 0; i < c->invocation_count; i++)
        c->invocation_tokens[i] = (int32_t)tokens[i];
    return TN_OK;
}

static tn_status read_block_diagonal(const reader *r) {
    tn_block_diagonal *b = &r->config->block_diagonal;
    const cJSON *value = tn_json_get(r->json, "use_bdlora");
    const reader inner = {r->config, value, r->where};
    if (!value || is_default(value))
        return TN_OK;
    if (!cJSON_IsObject(value))
        return wrong_type(r, "use_bdlora", "an object");
    b->blocks = 1;
    b->strict = true;
    TN_TRY(tn_json_get_int(value, "nblocks", r->where, 1, INT32_MAX, &b->blocks));
    TN_TRY(tn_json_get_bool(value, "match_strict", r->where, &b->strict));
    TN_TRY(read_names(&inner, "target_modules_bd_a", tn_json_get(value, "target_modules_bd_a"), &b->a_modules));
    return read_names(&inner, "target_modules_bd_b", tn_json_get(value, "target_modules_bd_b"), &b->b_modules);
}

static tn_status read_kasa(const reader *r) {
    tn_peft_config *c = r->config;
    const cJSON *value = tn_json_get(r->json, "kasa_config");
    if (!value)
        return TN_OK;
    if (!cJSON_IsObject(value))
        return wrong_type(r, "kasa_config", "an object");
    c->kasa = true;
    c->kasa_beta = 1e-4;
    c->kasa_gamma = 1e-3;
    TN_TRY(tn_json_get_double(value, "beta", r->where, &c->kasa_beta));
    return tn_json_get_double(value, "gamma", r->where, &c->kasa_gamma);
}

static tn_status read_init(const reader *r) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(r->json, "init_lora_weights");
    if (!value || cJSON_IsTrue(value))
        return TN_OK;
    if (cJSON_IsFalse(value)) {
        r->config->init = "random";
        return TN_OK;
    }
    return read_text(r, "init_lora_weights", &r->config->init);
}

static tn_status read_bias(const reader *r) {
    const char *bias = "none";
    TN_TRY(tn_json_get_string(r->json, "bias", r->where, &bias));
    if (strcmp(bias, "none") == 0)
        r->config->bias = TN_BIAS_NONE;
    else if (strcmp(bias, "all") == 0)
        r->config->bias = TN_BIAS_ALL;
    else if (strcmp(bias, "lora_only") == 0)
        r->config->bias = TN_BIAS_LORA_ONLY;
    else
        return wrong_type(r, "bias", "none, all or lora_only");
    return TN_OK;
}

/* Keys read here, and keys that say nothing about the maths. */
static const char *const known_keys[] = {"peft_type",           "r",
                                         "lora_alpha",          "lora_dropout",
                                         "use_rslora",          "use_dora",
                                         "lora_bias",           "bias",
                                         "init_lora_weights",   "target_modules",
                                         "exclude_modules",     "modules_to_save",
                                         "layers_pattern",      "layers_to_transform",
                                         "target_parameters",   "rank_pattern",
                                         "alpha_pattern",       "trainable_token_indices",
                                         "layer_replication",   "alora_invocation_tokens",
                                         "use_bdlora",          "kasa_config",
                                         "ensure_weight_tying", "base_model_name_or_path",
                                         "task_type",           "auto_mapping",
                                         "peft_version",        "revision",
                                         "inference_mode",      "fan_in_fan_out",
                                         "megatron_core",       "qalora_group_size",
                                         "runtime_config"};

static tn_status refuse_unknown_keys(const reader *r) {
    const cJSON *item;
    cJSON_ArrayForEach(item, r->json) {
        bool known = is_default(item);
        for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys && !known; i++)
            known = strcmp(item->string, known_keys[i]) == 0;
        if (!known)
            return tn_fail(TN_ERROR_UNSUPPORTED, "%s: this adapter uses '%s', which this build does not support", r->where,
                           item->string);
    }
    return TN_OK;
}

static tn_status read_all(const reader *r) {
    tn_peft_config *c = r->config;
    if (!cJSON_IsObject(r->json))
        return tn_fail(TN_ERROR_FORMAT, "%s: not a JSON object", r->where);
    TN_TRY(read_text(r, "peft_type", &c->peft_type));
    if (strcmp(c->peft_type, "LORA") != 0)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: peft_type '%s' is not supported; supported is LORA", r->where,
                       c->peft_type);
    TN_TRY(refuse_unknown_keys(r));
    TN_TRY(tn_json_get_int(r->json, "r", r->where, 0, INT32_MAX, &c->rank));
    TN_TRY(tn_json_get_double(r->json, "lora_alpha", r->where, &c->alpha));
    TN_TRY(tn_json_get_double(r->json, "lora_dropout", r->where, &c->dropout));
    if (!(c->dropout >= 0 && c->dropout < 1))
        return wrong_type(r, "lora_dropout", "at least 0 and below 1");
    TN_TRY(tn_json_get_bool(r->json, "use_rslora", r->where, &c->use_rslora));
    TN_TRY(tn_json_get_bool(r->json, "use_dora", r->where, &c->use_dora));
    TN_TRY(tn_json_get_bool(r->json, "lora_bias", r->where, &c->lora_bias));
    TN_TRY(tn_json_get_bool(r->json, "ensure_weight_tying", r->where, &c->ensure_weight_tying));
    TN_TRY(read_bias(r));
    TN_TRY(read_init(r));
    TN_TRY(read_selection(r, "target_modules", &c->target_regex, &c->target_modules));
    if (c->target_regex && strcmp(c->target_regex, "all-linear") == 0) {
        c->target_regex = NULL;
        c->all_linear = true;
    }
    TN_TRY(read_selection(r, "exclude_modules", &c->exclude_regex, &c->exclude_modules));
    TN_TRY(read_names(r, "modules_to_save", tn_json_get(r->json, "modules_to_save"), &c->modules_to_save));
    TN_TRY(read_names(r, "target_parameters", tn_json_get(r->json, "target_parameters"), &c->target_parameters));
    const cJSON *pattern = tn_json_get(r->json, "layers_pattern");
    if (cJSON_IsString(pattern)) {
        const char *const one[] = {pattern->valuestring};
        TN_TRY(tn_peft_config_copy_list(c, (tn_text_list){one, 1}, &c->layers_pattern));
    } else {
        TN_TRY(read_names(r, "layers_pattern", pattern, &c->layers_pattern));
    }
    TN_TRY(read_integers(r, "layers_to_transform", tn_json_get(r->json, "layers_to_transform"), 1000000, &c->layers,
                         &c->layers_count));
    TN_TRY(read_patterns(r, "rank_pattern", &c->rank_pattern, &c->rank_pattern_count));
    TN_TRY(read_patterns(r, "alpha_pattern", &c->alpha_pattern, &c->alpha_pattern_count));
    TN_TRY(read_token_rows(r));
    TN_TRY(read_replication(r));
    TN_TRY(read_invocation(r));
    TN_TRY(read_block_diagonal(r));
    TN_TRY(read_kasa(r));
    TN_TRY(read_text(r, "base_model_name_or_path", &c->base_model));
    return read_text(r, "task_type", &c->task_type);
}

tn_status tn_peft_config_parse(const cJSON *json, const char *where, tn_peft_config *out) {
    tn_peft_config_init(out);
    const reader r = {out, json, where};
    tn_status status = read_all(&r);
    if (status != TN_OK)
        tn_peft_config_free(out);
    return status;
}
