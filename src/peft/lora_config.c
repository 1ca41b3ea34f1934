/* What LoraConfig holds besides rank, alpha, dropout and targets. */
#include <math.h>
#include <string.h>

#include "peft/lora.h"

static tn_status read_token_rows(const tn_config_reader *r) {
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
        TN_TRY(tn_config_read_integers(r, "trainable_token_indices", item, INT32_MAX, &indices, &count));
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

static tn_status read_replication(const tn_config_reader *r) {
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
            return tn_config_wrong_type(r, "layer_replication", "a list of [start, end] pairs");
        int64_t *range = c->replication[c->replication_count++];
        range[0] = (int64_t)from->valuedouble;
        range[1] = (int64_t)to->valuedouble;
    }
    return TN_OK;
}

static tn_status read_invocation(const tn_config_reader *r) {
    tn_peft_config *c = r->config;
    const char *key = "alora_invocation_tokens";
    int64_t *tokens = NULL;
    TN_TRY(tn_config_read_integers(r, key, tn_json_get(r->json, key), INT32_MAX, &tokens, &c->invocation_count));
    if (c->invocation_count > TN_MOST_INVOCATION)
        return tn_config_wrong_type(r, key, "a list of at most 256 tokens");
    c->invocation_tokens = tn_arena_array(&c->arena, c->invocation_count + 1, sizeof *c->invocation_tokens);
    if (!c->invocation_tokens)
        return tn_fail_memory("the adapter's configuration");
    for (size_t i = 0; i < c->invocation_count; i++)
        c->invocation_tokens[i] = (int32_t)tokens[i];
    return TN_OK;
}

static tn_status read_block_diagonal(const tn_config_reader *r) {
    tn_block_diagonal *b = &r->config->block_diagonal;
    const cJSON *value = tn_json_get(r->json, "use_bdlora");
    const tn_config_reader inner = {r->config, value, r->where};
    if (!value || tn_config_is_unset(value))
        return TN_OK;
    if (!cJSON_IsObject(value))
        return tn_config_wrong_type(r, "use_bdlora", "an object");
    b->blocks = 1;
    b->strict = true;
    TN_TRY(tn_json_get_int(value, "nblocks", r->where, 1, INT32_MAX, &b->blocks));
    TN_TRY(tn_json_get_bool(value, "match_strict", r->where, &b->strict));
    TN_TRY(tn_config_read_names(&inner, "target_modules_bd_a", tn_json_get(value, "target_modules_bd_a"), &b->a_modules));
    return tn_config_read_names(&inner, "target_modules_bd_b", tn_json_get(value, "target_modules_bd_b"), &b->b_modules);
}

static tn_status read_kasa(const tn_config_reader *r) {
    tn_peft_config *c = r->config;
    const cJSON *value = tn_json_get(r->json, "kasa_config");
    if (!value)
        return TN_OK;
    if (!cJSON_IsObject(value))
        return tn_config_wrong_type(r, "kasa_config", "an object");
    c->kasa = true;
    c->kasa_beta = 1e-4;
    c->kasa_gamma = 1e-3;
    TN_TRY(tn_json_get_double(value, "beta", r->where, &c->kasa_beta));
    return tn_json_get_double(value, "gamma", r->where, &c->kasa_gamma);
}

static tn_status read_init(const tn_config_reader *r) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(r->json, "init_lora_weights");
    if (!value || cJSON_IsTrue(value))
        return TN_OK;
    if (cJSON_IsFalse(value)) {
        r->config->init = "random";
        return TN_OK;
    }
    return tn_config_read_text(r, "init_lora_weights", &r->config->init);
}

static tn_status read_loftq(const tn_config_reader *r) {
    tn_peft_config *c = r->config;
    const cJSON *value = tn_json_get(r->json, "loftq_config");
    if (!value || tn_config_is_unset(value))
        return TN_OK;
    if (!cJSON_IsObject(value))
        return tn_config_wrong_type(r, "loftq_config", "an object");
    const cJSON *item;
    cJSON_ArrayForEach(item,
                       value) if (strcmp(item->string, "loftq_bits") != 0 &&
                                  strcmp(item->string, "loftq_iter") !=
                                      0) return tn_fail(TN_ERROR_UNSUPPORTED,
                                                        "%s: 'loftq_config' holds '%s', which this build does not support",
                                                        r->where, item->string);
    TN_TRY(tn_json_get_int(value, "loftq_bits", r->where, 1, INT32_MAX, &c->loftq_bits));
    return tn_json_get_int(value, "loftq_iter", r->where, 1, TN_MOST_LOFTQ_ITERATIONS, &c->loftq_iterations);
}

const char *const tn_lora_keys[] = {
    "use_rslora",
    "use_dora",
    "lora_bias",
    "init_lora_weights",
    "target_parameters",
    "layer_replication",
    "use_bdlora",
    "kasa_config",
    "loftq_config",
    "ensure_weight_tying",
    "trainable_token_indices",
    "megatron_core",
    "qalora_group_size",
    "alora_invocation_tokens",
    NULL,
};

tn_status tn_lora_read_config(const tn_config_reader *r) {
    tn_peft_config *c = r->config;
    TN_TRY(tn_json_get_bool(r->json, "use_rslora", r->where, &c->use_rslora));
    TN_TRY(tn_json_get_bool(r->json, "use_dora", r->where, &c->use_dora));
    TN_TRY(tn_json_get_bool(r->json, "lora_bias", r->where, &c->lora_bias));
    TN_TRY(tn_json_get_bool(r->json, "ensure_weight_tying", r->where, &c->ensure_weight_tying));
    TN_TRY(read_init(r));
    TN_TRY(tn_config_read_names(r, "target_parameters", tn_json_get(r->json, "target_parameters"), &c->target_parameters));
    TN_TRY(read_token_rows(r));
    TN_TRY(read_replication(r));
    TN_TRY(read_invocation(r));
    TN_TRY(read_block_diagonal(r));
    TN_TRY(read_loftq(r));
    return read_kasa(r);
}

static void add_token_rows(cJSON *object, const tn_peft_config *c) {
    cJSON *by_module =
        c->token_rows_count && c->token_rows[0].module ? cJSON_AddObjectToObject(object, "trainable_token_indices") : NULL;
    if (!c->token_rows_count)
        cJSON_AddNullToObject(object, "trainable_token_indices");
    for (size_t i = 0; i < c->token_rows_count; i++) {
        cJSON *indices = by_module ? cJSON_AddArrayToObject(by_module, c->token_rows[i].module)
                                   : cJSON_AddArrayToObject(object, "trainable_token_indices");
        for (int64_t j = 0; j < c->token_rows[i].count; j++)
            cJSON_AddItemToArray(indices, cJSON_CreateNumber(c->token_rows[i].indices[j]));
    }
}

static void add_replication(cJSON *object, const tn_peft_config *c) {
    if (!c->replication_count) {
        cJSON_AddNullToObject(object, "layer_replication");
        return;
    }
    cJSON *array = cJSON_AddArrayToObject(object, "layer_replication");
    for (size_t i = 0; i < c->replication_count; i++) {
        cJSON *range = cJSON_CreateArray();
        cJSON_AddItemToArray(range, cJSON_CreateNumber((double)c->replication[i][0]));
        cJSON_AddItemToArray(range, cJSON_CreateNumber((double)c->replication[i][1]));
        cJSON_AddItemToArray(array, range);
    }
}

static void add_variants(cJSON *object, const tn_peft_config *c) {
    const tn_block_diagonal *b = &c->block_diagonal;
    if (c->invocation_count) {
        cJSON *tokens = cJSON_AddArrayToObject(object, "alora_invocation_tokens");
        for (size_t i = 0; i < c->invocation_count; i++)
            cJSON_AddItemToArray(tokens, cJSON_CreateNumber(c->invocation_tokens[i]));
    }
    if (c->kasa) {
        cJSON *kasa = cJSON_AddObjectToObject(object, "kasa_config");
        cJSON_AddNumberToObject(kasa, "beta", c->kasa_beta);
        cJSON_AddNumberToObject(kasa, "gamma", c->kasa_gamma);
    }
    if (strcmp(c->init, "loftq") == 0) {
        cJSON *loftq = cJSON_AddObjectToObject(object, "loftq_config");
        cJSON_AddNumberToObject(loftq, "loftq_bits", c->loftq_bits ? (double)c->loftq_bits : 4);
        cJSON_AddNumberToObject(loftq, "loftq_iter", c->loftq_iterations ? (double)c->loftq_iterations : 1);
    }
    if (b->blocks) {
        cJSON *blocks = cJSON_AddObjectToObject(object, "use_bdlora");
        cJSON_AddBoolToObject(blocks, "match_strict", b->strict);
        cJSON_AddNumberToObject(blocks, "nblocks", (double)b->blocks);
        cJSON_AddItemToObject(blocks, "target_modules_bd_a", tn_config_names(b->a_modules));
        cJSON_AddItemToObject(blocks, "target_modules_bd_b", tn_config_names(b->b_modules));
    }
}

void tn_lora_write_config(const tn_peft_config *c, cJSON *o) {
    add_variants(o, c);
    if (c->ensure_weight_tying)
        cJSON_AddTrueToObject(o, "ensure_weight_tying");
    if (strcmp(c->init, "kaiming") == 0)
        cJSON_AddTrueToObject(o, "init_lora_weights");
    else if (strcmp(c->init, "random") == 0)
        cJSON_AddFalseToObject(o, "init_lora_weights");
    else
        cJSON_AddStringToObject(o, "init_lora_weights", c->init);
    add_replication(o, c);
    cJSON_AddBoolToObject(o, "lora_bias", c->lora_bias);
    tn_config_add_names(o, "target_parameters", NULL, c->target_parameters);
    add_token_rows(o, c);
    cJSON_AddBoolToObject(o, "use_dora", c->use_dora);
    cJSON_AddBoolToObject(o, "use_rslora", c->use_rslora);
}
