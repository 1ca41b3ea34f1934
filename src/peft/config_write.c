/* adapter_config.json as PEFT loads it. */
#include "peft/method.h"

#include <stdlib.h>
#include <string.h>

cJSON *tn_config_names(tn_text_list names) {
    cJSON *array = cJSON_CreateArray();
    for (size_t i = 0; i < names.count; i++)
        cJSON_AddItemToArray(array, cJSON_CreateString(names.items[i]));
    return array;
}

void tn_config_add_names(cJSON *object, const char *key, const char *regex, tn_text_list names) {
    if (regex) {
        cJSON_AddStringToObject(object, key, regex);
        return;
    }
    if (!names.count) {
        cJSON_AddNullToObject(object, key);
        return;
    }
    cJSON_AddItemToObject(object, key, tn_config_names(names));
}

void tn_config_add_patterns(cJSON *object, const char *key, const tn_pattern *patterns, size_t count) {
    cJSON *entries = cJSON_AddObjectToObject(object, key);
    for (size_t i = 0; i < count; i++)
        cJSON_AddNumberToObject(entries, patterns[i].key, patterns[i].value);
}

void tn_config_add_text(cJSON *object, const char *key, const char *text) {
    if (text)
        cJSON_AddStringToObject(object, key, text);
    else
        cJSON_AddNullToObject(object, key);
}

void tn_config_add_integers(cJSON *object, const char *key, const int64_t *values, size_t count) {
    if (!count) {
        cJSON_AddNullToObject(object, key);
        return;
    }
    cJSON *array = cJSON_AddArrayToObject(object, key);
    for (size_t i = 0; i < count; i++)
        cJSON_AddItemToArray(array, cJSON_CreateNumber((double)values[i]));
}

/* Whole numbers, truths and texts as JSON has them; a text that says true or false is one. */
static cJSON *value_of(const tn_option_slot *slot) {
    tn_buf text = {0};
    if (slot->option->type == TN_OPTION_LIST) {
        const tn_text_list *list = slot->field;
        return list->count ? tn_config_names(*list) : cJSON_CreateNull();
    }
    tn_options_print_value(&text, slot);
    const char *value = tn_buf_text(&text);
    bool is_text = slot->option->type == TN_OPTION_STRING || slot->option->type == TN_OPTION_CHOICE;
    cJSON *out;
    if (!text.length)
        out = cJSON_CreateNull();
    else if (is_text && strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
        out = cJSON_CreateString(value);
    else
        out = cJSON_Parse(value);
    tn_buf_free(&text);
    return out;
}

static void add_options(cJSON *object, const tn_peft_config *c) {
    for (size_t i = 0; i < c->options.count; i++) {
        char key[TN_CONFIG_KEY];
        tn_config_option_key(c->options.slots[i].option, key);
        cJSON_AddItemToObject(object, key, value_of(&c->options.slots[i]));
    }
}

static void add_common(cJSON *o, const tn_peft_config *c) {
    cJSON_AddNullToObject(o, "auto_mapping");
    tn_config_add_text(o, "base_model_name_or_path", c->base_model);
    tn_config_add_names(o, "exclude_modules", c->exclude_regex, c->exclude_modules);
    if (!c->method->no_fan_in_fan_out)
        cJSON_AddBoolToObject(o, "fan_in_fan_out", c->fan_in_fan_out);
    cJSON_AddTrueToObject(o, "inference_mode");
    tn_config_add_names(o, "modules_to_save", NULL, c->modules_to_save);
    cJSON_AddStringToObject(o, "peft_type", c->method->peft_type);
    cJSON_AddNullToObject(o, "revision");
    tn_config_add_names(o, "target_modules", c->all_linear ? "all-linear" : c->target_regex, c->target_modules);
    tn_config_add_text(o, "task_type", c->task_type ? c->task_type : "CAUSAL_LM");
}

/* What only some methods have, and PEFT would not accept from the others. */
static void add_sizes(cJSON *o, const tn_peft_config *c) {
    const tn_peft_method *m = c->method;
    if (m->bias_name)
        cJSON_AddStringToObject(o, "bias", c->bias == TN_BIAS_NONE ? "none" : c->bias == TN_BIAS_ALL ? "all" : m->bias_name);
    if (m->rank_key) {
        cJSON_AddNumberToObject(o, m->rank_key, (double)c->rank);
        tn_config_add_names(o, "layers_pattern", NULL, c->layers_pattern);
        tn_config_add_integers(o, "layers_to_transform", c->layers, c->layers_count);
    }
    if (m->alpha_key) {
        cJSON_AddNumberToObject(o, m->alpha_key, c->alpha);
        tn_config_add_patterns(o, "alpha_pattern", c->alpha_pattern, c->alpha_pattern_count);
        tn_config_add_patterns(o, "rank_pattern", c->rank_pattern, c->rank_pattern_count);
    }
    if (m->dropout_key)
        cJSON_AddNumberToObject(o, m->dropout_key, c->dropout);
}

static int by_key(const void *a, const void *b) {
    return strcmp((*(cJSON *const *)a)->string, (*(cJSON *const *)b)->string);
}

/* A new object with the members in the order of their keys; takes `object`. NULL without memory. */
static cJSON *sorted(cJSON *object) {
    int count = cJSON_GetArraySize(object);
    cJSON **items = tn_malloc((size_t)(count + 1) * sizeof *items), *out = cJSON_CreateObject();
    for (int i = 0; items && i < count; i++)
        items[i] = cJSON_DetachItemFromArray(object, 0);
    if (items)
        qsort(items, (size_t)count, sizeof *items, by_key);
    for (int i = 0; items && i < count; i++) {
        char *key = items[i]->string;
        items[i]->string = NULL;
        cJSON_AddItemToObject(out, key, items[i]);
        cJSON_free(key);
    }
    cJSON_Delete(object);
    tn_free(items);
    return out;
}

tn_status tn_peft_config_print(const tn_peft_config *c, tn_buf *out) {
    cJSON *o = cJSON_CreateObject();
    add_common(o, c);
    add_sizes(o, c);
    add_options(o, c);
    if (c->method->write_config)
        c->method->write_config(c, o);
    o = sorted(o);
    tn_json_print(out, o, true);
    tn_buf_putc(out, '\n');
    cJSON_Delete(o);
    return tn_buf_status(out);
}
