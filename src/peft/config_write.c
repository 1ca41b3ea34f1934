/* LoraConfig as JSON. */
#include <string.h>

#include "peft/config.h"

static cJSON *names_array(tn_text_list names) {
    cJSON *array = cJSON_CreateArray();
    for (size_t i = 0; i < names.count; i++)
        cJSON_AddItemToArray(array, cJSON_CreateString(names.items[i]));
    return array;
}

static void add_names(cJSON *object, const char *key, const char *regex, tn_text_list names) {
    if (regex) {
        cJSON_AddStringToObject(object, key, regex);
        return;
    }
    if (!names.count) {
        cJSON_AddNullToObject(object, key);
        return;
    }
    cJSON_AddItemToObject(object, key, names_array(names));
}

static void add_patterns(cJSON *object, const char *key, const tn_pattern *patterns, size_t count) {
    cJSON *entries = cJSON_AddObjectToObject(object, key);
    for (size_t i = 0; i < count; i++)
        cJSON_AddNumberToObject(entries, patterns[i].key, patterns[i].value);
}

static void add_text(cJSON *object, const char *key, const char *text) {
    if (text)
        cJSON_AddStringToObject(object, key, text);
    else
        cJSON_AddNullToObject(object, key);
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

static void add_integers(cJSON *object, const char *key, const int64_t *values, size_t count) {
    if (!count) {
        cJSON_AddNullToObject(object, key);
        return;
    }
    cJSON *array = cJSON_AddArrayToObject(object, key);
    for (size_t i = 0; i < count; i++)
        cJSON_AddItemToArray(array, cJSON_CreateNumber((double)values[i]));
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
    if (b->blocks) {
        cJSON *blocks = cJSON_AddObjectToObject(object, "use_bdlora");
        cJSON_AddBoolToObject(blocks, "match_strict", b->strict);
        cJSON_AddNumberToObject(blocks, "nblocks", (double)b->blocks);
        cJSON_AddItemToObject(blocks, "target_modules_bd_a", names_array(b->a_modules));
        cJSON_AddItemToObject(blocks, "target_modules_bd_b", names_array(b->b_modules));
    }
}

tn_status tn_peft_config_print(const tn_peft_config *c, tn_buf *out) {
    static const char *const bias_names[] = {"none", "all", "lora_only"};
    cJSON *o = cJSON_CreateObject();
    add_variants(o, c);
    add_patterns(o, "alpha_pattern", c->alpha_pattern, c->alpha_pattern_count);
    cJSON_AddNullToObject(o, "auto_mapping");
    add_text(o, "base_model_name_or_path", c->base_model);
    cJSON_AddStringToObject(o, "bias", bias_names[c->bias]);
    if (c->ensure_weight_tying)
        cJSON_AddTrueToObject(o, "ensure_weight_tying");
    add_names(o, "exclude_modules", c->exclude_regex, c->exclude_modules);
    cJSON_AddBoolToObject(o, "fan_in_fan_out", c->fan_in_fan_out);
    cJSON_AddTrueToObject(o, "inference_mode");
    if (strcmp(c->init, "kaiming") == 0)
        cJSON_AddTrueToObject(o, "init_lora_weights");
    else if (strcmp(c->init, "random") == 0)
        cJSON_AddFalseToObject(o, "init_lora_weights");
    else
        cJSON_AddStringToObject(o, "init_lora_weights", c->init);
    add_replication(o, c);
    add_names(o, "layers_pattern", NULL, c->layers_pattern);
    add_integers(o, "layers_to_transform", c->layers, c->layers_count);
    cJSON_AddNumberToObject(o, "lora_alpha", c->alpha);
    cJSON_AddBoolToObject(o, "lora_bias", c->lora_bias);
    cJSON_AddNumberToObject(o, "lora_dropout", c->dropout);
    add_names(o, "modules_to_save", NULL, c->modules_to_save);
    cJSON_AddStringToObject(o, "peft_type", c->peft_type);
    cJSON_AddNumberToObject(o, "r", (double)c->rank);
    add_patterns(o, "rank_pattern", c->rank_pattern, c->rank_pattern_count);
    cJSON_AddNullToObject(o, "revision");
    add_names(o, "target_modules", c->all_linear ? "all-linear" : c->target_regex, c->target_modules);
    add_names(o, "target_parameters", NULL, c->target_parameters);
    add_text(o, "task_type", c->task_type ? c->task_type : "CAUSAL_LM");
    add_token_rows(o, c);
    cJSON_AddBoolToObject(o, "use_dora", c->use_dora);
    cJSON_AddBoolToObject(o, "use_rslora", c->use_rslora);
    tn_json_print(out, o, true);
    tn_buf_putc(out, '\n');
    cJSON_Delete(o);
    return tn_buf_status(out);
}
