/* adapter_config.json: the keys that all methods share, the method's options, and through its hook what else it has. Every
 * key is known, or refused by name when it says something. */
#include "peft/method.h"

#include <math.h>
#include <string.h>

tn_status tn_config_wrong_type(const tn_config_reader *r, const char *key, const char *want) {
    return tn_fail(TN_ERROR_FORMAT, "%s: '%s' must be %s", r->where, key, want);
}

tn_status tn_config_read_text(const tn_config_reader *r, const char *key, const char **out) {
    const char *text = NULL;
    TN_TRY(tn_json_get_string(r->json, key, r->where, &text));
    if (text && !(*out = tn_arena_strdup(&r->config->arena, text)))
        return tn_fail_memory("the adapter's configuration");
    return TN_OK;
}

tn_status tn_config_read_names(const tn_config_reader *r, const char *key, const cJSON *value, tn_text_list *out) {
    if (!value)
        return TN_OK;
    if (!cJSON_IsArray(value))
        return tn_config_wrong_type(r, key, "a list of names");
    const char **items = tn_arena_array(&r->config->arena, (size_t)cJSON_GetArraySize(value) + 1, sizeof *items);
    size_t count = 0;
    if (!items)
        return tn_fail_memory("the adapter's configuration");
    const cJSON *item;
    cJSON_ArrayForEach(item, value) {
        if (!cJSON_IsString(item))
            return tn_config_wrong_type(r, key, "a list of names");
        if (!(items[count++] = tn_arena_strdup(&r->config->arena, item->valuestring)))
            return tn_fail_memory("the adapter's configuration");
    }
    *out = (tn_text_list){items, count};
    return TN_OK;
}

/* A string is a regular expression, a list holds names. */
static tn_status read_selection(const tn_config_reader *r, const char *key, const char **regex, tn_text_list *names) {
    const cJSON *value = tn_json_get(r->json, key);
    if (cJSON_IsString(value))
        return tn_config_read_text(r, key, regex);
    return tn_config_read_names(r, key, value, names);
}

tn_status tn_config_read_patterns(const tn_config_reader *r, const char *key, tn_pattern **out, size_t *count) {
    const cJSON *value = tn_json_get(r->json, key), *item;
    if (!value)
        return TN_OK;
    if (!cJSON_IsObject(value))
        return tn_config_wrong_type(r, key, "an object of numbers");
    tn_pattern *patterns = tn_arena_array(&r->config->arena, (size_t)cJSON_GetArraySize(value) + 1, sizeof *patterns);
    if (!patterns)
        return tn_fail_memory("the adapter's configuration");
    cJSON_ArrayForEach(item, value) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble > 0))
            return tn_config_wrong_type(r, key, "an object of numbers above 0");
        tn_pattern *p = &patterns[(*count)++];
        *p = (tn_pattern){tn_arena_strdup(&r->config->arena, item->string), item->valuedouble};
        if (!p->key)
            return tn_fail_memory("the adapter's configuration");
    }
    *out = patterns;
    return TN_OK;
}

tn_status tn_config_read_integers(const tn_config_reader *r, const char *key, const cJSON *value, int64_t high,
                                  int64_t **out, size_t *count) {
    bool single = cJSON_IsNumber(value);
    if (!value)
        return TN_OK;
    if (!single && !cJSON_IsArray(value))
        return tn_config_wrong_type(r, key, "a number or a list of numbers");
    *out = tn_arena_array(&r->config->arena, single ? 1 : (size_t)cJSON_GetArraySize(value) + 1, sizeof **out);
    if (!*out)
        return tn_fail_memory("the adapter's configuration");
    for (const cJSON *item = single ? value : value->child; item; item = single ? NULL : item->next) {
        if (!cJSON_IsNumber(item) || item->valuedouble < 0 || item->valuedouble > (double)high ||
            item->valuedouble != floor(item->valuedouble))
            return tn_config_wrong_type(r, key, "a whole number or a list of them");
        (*out)[(*count)++] = (int64_t)item->valuedouble;
    }
    return TN_OK;
}

bool tn_config_is_unset(const cJSON *value) {
    return cJSON_IsNull(value) || cJSON_IsFalse(value) ||
           ((cJSON_IsArray(value) || cJSON_IsObject(value)) && !value->child) ||
           (cJSON_IsString(value) && !value->valuestring[0]);
}

static tn_status read_bias(const tn_config_reader *r, const char *adapted) {
    const char *bias = "none";
    TN_TRY(tn_json_get_string(r->json, "bias", r->where, &bias));
    if (strcmp(bias, "none") == 0)
        r->config->bias = TN_BIAS_NONE;
    else if (strcmp(bias, "all") == 0)
        r->config->bias = TN_BIAS_ALL;
    else if (adapted && strcmp(bias, adapted) == 0)
        r->config->bias = TN_BIAS_ADAPTED;
    else
        return tn_fail(TN_ERROR_FORMAT, "%s: 'bias' is '%s', not none, all%s%s", r->where, bias, adapted ? " or " : "",
                       adapted ? adapted : "");
    return TN_OK;
}

void tn_config_option_key(const tn_option *option, char key[TN_CONFIG_KEY]) {
    snprintf(key, TN_CONFIG_KEY, "%s", option->json_key ? option->json_key : option->name);
    for (char *at = key; *at && !option->json_key; at++)
        *at = *at == '-' ? '_' : *at;
}

const tn_option *tn_config_find_option(const tn_peft_method *method, const char *key) {
    for (const tn_option *o = method->options; o && o->name; o++) {
        char own[TN_CONFIG_KEY];
        tn_config_option_key(o, own);
        if (strcmp(own, key) == 0)
            return o;
    }
    return NULL;
}

/* Keys read here, and keys that say nothing about the maths. */
static const char *const common_keys[] = {
    "peft_type",           "bias",         "target_modules", "exclude_modules",         "modules_to_save", "layers_pattern",
    "layers_to_transform", "rank_pattern", "alpha_pattern",  "base_model_name_or_path", "task_type",       "auto_mapping",
    "peft_version",        "revision",     "inference_mode", "fan_in_fan_out",          "runtime_config",
};

static bool is_known(const tn_peft_method *m, const char *key) {
    const char *const sizes[] = {m->rank_key, m->alpha_key, m->dropout_key};
    for (size_t i = 0; i < 3; i++)
        if (sizes[i] && strcmp(key, sizes[i]) == 0)
            return true;
    for (size_t i = 0; i < sizeof common_keys / sizeof *common_keys; i++)
        if (strcmp(key, common_keys[i]) == 0)
            return true;
    for (const char *const *own = m->keys; own && *own; own++)
        if (strcmp(key, *own) == 0)
            return true;
    return tn_config_find_option(m, key) != NULL;
}

static tn_status refuse_unknown_keys(const tn_config_reader *r) {
    const cJSON *item;
    cJSON_ArrayForEach(item, r->json) {
        if (!tn_config_is_unset(item) && !is_known(r->config->method, item->string))
            return tn_fail(TN_ERROR_UNSUPPORTED, "%s: this adapter uses '%s', which this build does not support", r->where,
                           item->string);
    }
    return TN_OK;
}

static tn_status read_sizes(const tn_config_reader *r) {
    tn_peft_config *c = r->config;
    const tn_peft_method *m = c->method;
    if (m->rank_key)
        TN_TRY(tn_json_get_int(r->json, m->rank_key, r->where, 0, INT32_MAX, &c->rank));
    if (m->alpha_key)
        TN_TRY(tn_json_get_double(r->json, m->alpha_key, r->where, &c->alpha));
    if (m->dropout_key)
        TN_TRY(tn_json_get_double(r->json, m->dropout_key, r->where, &c->dropout));
    return c->dropout >= 0 && c->dropout < 1 ? TN_OK : tn_config_wrong_type(r, m->dropout_key, "at least 0 and below 1");
}

static tn_status read_targets(const tn_config_reader *r) {
    tn_peft_config *c = r->config;
    TN_TRY(read_selection(r, "target_modules", &c->target_regex, &c->target_modules));
    if (c->target_regex && strcmp(c->target_regex, "all-linear") == 0) {
        c->target_regex = NULL;
        c->all_linear = true;
    }
    TN_TRY(read_selection(r, "exclude_modules", &c->exclude_regex, &c->exclude_modules));
    TN_TRY(tn_config_read_names(r, "modules_to_save", tn_json_get(r->json, "modules_to_save"), &c->modules_to_save));
    const cJSON *pattern = tn_json_get(r->json, "layers_pattern");
    if (cJSON_IsString(pattern)) {
        const char *const one[] = {pattern->valuestring};
        TN_TRY(tn_peft_config_copy_list(c, (tn_text_list){one, 1}, &c->layers_pattern));
    } else {
        TN_TRY(tn_config_read_names(r, "layers_pattern", pattern, &c->layers_pattern));
    }
    return tn_config_read_integers(r, "layers_to_transform", tn_json_get(r->json, "layers_to_transform"), 1000000,
                                   &c->layers, &c->layers_count);
}

static bool is_own_key(const tn_peft_method *method, const char *key) {
    for (const char *const *own = method->keys; own && *own; own++)
        if (strcmp(key, *own) == 0)
            return true;
    return false;
}

static tn_status set_option(const tn_config_reader *r, const tn_option *option, const cJSON *value) {
    tn_options *options = &r->config->options;
    tn_buf text = {0};
    if (cJSON_IsArray(value)) {
        tn_text_list names = {0};
        TN_TRY(tn_config_read_names(r, value->string, value, &names));
        return tn_options_set_list(options, option->name, names.items, names.count, TN_SOURCE_FILE);
    }
    if (cJSON_IsString(value) && option->type == TN_OPTION_LIST) { /* a regular expression, commas and all */
        const char *const one[] = {value->valuestring};
        return tn_options_set_list(options, option->name, one, 1, TN_SOURCE_FILE);
    }
    if (cJSON_IsString(value))
        tn_buf_puts(&text, value->valuestring);
    else
        tn_json_print(&text, value, false);
    tn_status status = tn_buf_status(&text);
    if (status == TN_OK)
        status = tn_options_set(options, option->name, tn_buf_text(&text), TN_SOURCE_FILE);
    tn_buf_free(&text);
    return status;
}

static tn_status read_options(const tn_config_reader *r) {
    const cJSON *value;
    cJSON_ArrayForEach(value, r->json) {
        const tn_option *option = tn_config_find_option(r->config->method, value->string);
        tn_status status = option && !cJSON_IsNull(value) ? set_option(r, option, value) : TN_OK;
        if (status == TN_ERROR_ARGUMENT) /* from the table, which knows no file */
            return tn_fail_context(TN_ERROR_FORMAT, "%s", r->where);
        TN_TRY(status);
    }
    return TN_OK;
}

static tn_status read_all(const tn_config_reader *r) {
    tn_peft_config *c = r->config;
    const tn_peft_method *m = c->method;
    TN_TRY(refuse_unknown_keys(r));
    TN_TRY(read_sizes(r));
    TN_TRY(read_bias(r, m->bias_name));
    TN_TRY(read_targets(r));
    if (!is_own_key(m, "rank_pattern"))
        TN_TRY(tn_config_read_patterns(r, "rank_pattern", &c->rank_pattern, &c->rank_pattern_count));
    TN_TRY(tn_config_read_patterns(r, "alpha_pattern", &c->alpha_pattern, &c->alpha_pattern_count));
    TN_TRY(tn_config_read_text(r, "base_model_name_or_path", &c->base_model));
    TN_TRY(tn_config_read_text(r, "task_type", &c->task_type));
    TN_TRY(read_options(r));
    return m->read_config ? m->read_config(r) : TN_OK;
}

static tn_status fail_type(const char *where, const char *type) {
    tn_buf list = {0};
    for (const tn_peft_method *const *m = tn_peft_methods; *m; m++)
        tn_buf_printf(&list, "%s%s", m == tn_peft_methods ? "" : ", ", (*m)->peft_type);
    tn_status status =
        tn_fail(TN_ERROR_UNSUPPORTED, "%s: peft_type '%s' is not supported; there are %s", where, type, tn_buf_text(&list));
    tn_buf_free(&list);
    return status;
}

tn_status tn_peft_config_parse(const cJSON *json, const char *where, tn_peft_config *out) {
    const char *type = "LORA";
    *out = (tn_peft_config){0};
    if (!cJSON_IsObject(json))
        return tn_fail(TN_ERROR_FORMAT, "%s: not a JSON object", where);
    TN_TRY(tn_json_get_string(json, "peft_type", where, &type));
    const tn_peft_method *method = tn_peft_method_by_type(type);
    if (!method)
        return fail_type(where, type);
    const tn_config_reader r = {out, json, where};
    tn_status status = tn_peft_config_init(out, method);
    if (status == TN_OK)
        status = read_all(&r);
    if (status != TN_OK)
        tn_peft_config_free(out);
    return status;
}
