/* LoraConfig from JSON and back. Every key that PEFT 0.20 writes is known here: as a field, or as a feature that this build
 * refuses by name. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "peft/config.h"

#include <math.h>
#include <pcre2.h>
#include <string.h>

void tn_peft_config_init(tn_peft_config *config) {
    *config = (tn_peft_config){.peft_type = "LORA", .rank = 8, .alpha = 8, .init = "kaiming"};
}

void tn_peft_config_free(tn_peft_config *config) {
    tn_arena_free(&config->arena);
    *config = (tn_peft_config){0};
}

tn_status tn_peft_full_match(const char *pattern, const char *name, const char *what, bool *matches) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *regex = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                      PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF, &code, &at, NULL);
    if (!regex) {
        char text[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        return tn_fail(TN_ERROR_ARGUMENT, "%s: bad regular expression '%s' at character %zu: %s", what, pattern,
                       (size_t)at + 1, text);
    }
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(regex, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    int found = PCRE2_ERROR_NOMEMORY;
    if (data && limits) {
        pcre2_set_match_limit(limits, 1000000);
        found = pcre2_match(regex, (PCRE2_SPTR)name, PCRE2_ZERO_TERMINATED, 0, 0, data, limits);
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(data);
    pcre2_code_free(regex);
    *matches = found > 0;
    if (found < 0 && found != PCRE2_ERROR_NOMATCH)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: the regular expression '%s' cannot be matched against '%s'", what, pattern,
                       name);
    return TN_OK;
}

tn_status tn_peft_pattern_value(const tn_pattern *patterns, size_t count, const char *module, const char *what,
                                double otherwise, double *out) {
    *out = otherwise;
    for (size_t i = 0; i < count; i++) {
        tn_buf pattern = {0};
        bool matches;
        tn_buf_printf(&pattern, "(.*\\.)?(%s)", patterns[i].key);
        tn_status status = tn_buf_status(&pattern);
        if (status == TN_OK)
            status = tn_peft_full_match(tn_buf_text(&pattern), module, what, &matches);
        tn_buf_free(&pattern);
        TN_TRY(status);
        if (matches) {
            *out = patterns[i].value;
            return TN_OK;
        }
    }
    return TN_OK;
}

double tn_peft_scale(const tn_peft_config *config, double alpha, int64_t rank) {
    return config->use_rslora ? alpha / sqrt((double)rank) : alpha / (double)rank;
}

tn_status tn_peft_config_copy_list(tn_peft_config *config, tn_text_list in, tn_text_list *out) {
    const char **items = tn_arena_array(&config->arena, in.count + 1, sizeof *items);
    if (!items)
        return tn_fail_memory("the adapter's configuration");
    for (size_t i = 0; i < in.count; i++)
        if (!(items[i] = tn_arena_strdup(&config->arena, in.items[i])))
            return tn_fail_memory("the adapter's configuration");
    *out = (tn_text_list){items, in.count};
    return TN_OK;
}

static tn_status split_commas(tn_peft_config *config, const char *text, tn_text_list *out) {
    size_t count = 1;
    for (const char *c = text; *c; c++)
        count += *c == ',';
    const char **items = tn_arena_array(&config->arena, count, sizeof *items);
    if (!items)
        return tn_fail_memory("the adapter's configuration");
    for (size_t i = 0; i < count; i++) {
        size_t length = strcspn(text, ",");
        items[i] = tn_arena_strndup(&config->arena, text, length);
        if (!items[i])
            return tn_fail_memory("the adapter's configuration");
        text += length + (text[length] == ',');
    }
    *out = (tn_text_list){items, count};
    return TN_OK;
}

tn_status tn_peft_config_set_targets(tn_peft_config *config, const char *text) {
    config->all_linear = strcmp(text, "all-linear") == 0;
    config->target_regex = NULL;
    config->target_modules = (tn_text_list){0};
    if (config->all_linear)
        return TN_OK;
    if (strpbrk(text, "*+?()[]{}|^$\\")) {
        config->target_regex = tn_arena_strdup(&config->arena, text);
        return config->target_regex ? TN_OK : tn_fail_memory("the adapter's configuration");
    }
    return split_commas(config, text, &config->target_modules);
}

tn_status tn_peft_config_set_pattern(tn_peft_config *config, const char *text, const char *what, tn_pattern **out,
                                     size_t *count) {
    tn_text_list list;
    TN_TRY(split_commas(config, text, &list));
    tn_pattern *patterns = tn_arena_array(&config->arena, list.count, sizeof *patterns);
    if (!patterns)
        return tn_fail_memory("the adapter's configuration");
    for (size_t i = 0; i < list.count; i++) {
        const char *equals = strrchr(list.items[i], '=');
        char *end = NULL;
        double value = equals ? strtod(equals + 1, &end) : 0;
        if (!equals || equals == list.items[i] || end == equals + 1 || *end || !(value > 0 && isfinite(value)))
            return tn_fail(TN_ERROR_ARGUMENT, "%s: '%s' is not of the form NAME=NUMBER", what, list.items[i]);
        patterns[i].key = tn_arena_strndup(&config->arena, list.items[i], (size_t)(equals - list.items[i]));
        patterns[i].value = value;
        if (!patterns[i].key)
            return tn_fail_memory("the adapter's configuration");
    }
    *out = patterns;
    *count = list.count;
    return TN_OK;
}

/* --- reading --- */

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

static bool is_default(const cJSON *value) {
    return cJSON_IsNull(value) || cJSON_IsFalse(value) ||
           ((cJSON_IsArray(value) || cJSON_IsObject(value)) && !value->child) ||
           (cJSON_IsString(value) && !value->valuestring[0]);
}

/* Keys read here, and keys that say nothing about the maths. */
static const char *const known_keys[] = {"peft_type",
                                         "r",
                                         "lora_alpha",
                                         "lora_dropout",
                                         "use_rslora",
                                         "lora_bias",
                                         "bias",
                                         "init_lora_weights",
                                         "target_modules",
                                         "exclude_modules",
                                         "modules_to_save",
                                         "layers_pattern",
                                         "layers_to_transform",
                                         "target_parameters",
                                         "rank_pattern",
                                         "alpha_pattern",
                                         "trainable_token_indices",
                                         "layer_replication",
                                         "ensure_weight_tying",
                                         "base_model_name_or_path",
                                         "task_type",
                                         "auto_mapping",
                                         "peft_version",
                                         "revision",
                                         "inference_mode",
                                         "fan_in_fan_out",
                                         "megatron_core",
                                         "qalora_group_size",
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

/* --- writing --- */

static void add_names(cJSON *object, const char *key, const char *regex, tn_text_list names) {
    if (regex) {
        cJSON_AddStringToObject(object, key, regex);
        return;
    }
    if (!names.count) {
        cJSON_AddNullToObject(object, key);
        return;
    }
    cJSON *array = cJSON_AddArrayToObject(object, key);
    for (size_t i = 0; i < names.count; i++)
        cJSON_AddItemToArray(array, cJSON_CreateString(names.items[i]));
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

tn_status tn_peft_config_print(const tn_peft_config *c, tn_buf *out) {
    static const char *const bias_names[] = {"none", "all", "lora_only"};
    cJSON *o = cJSON_CreateObject();
    add_patterns(o, "alpha_pattern", c->alpha_pattern, c->alpha_pattern_count);
    cJSON_AddNullToObject(o, "auto_mapping");
    add_text(o, "base_model_name_or_path", c->base_model);
    cJSON_AddStringToObject(o, "bias", bias_names[c->bias]);
    if (c->ensure_weight_tying)
        cJSON_AddTrueToObject(o, "ensure_weight_tying");
    add_names(o, "exclude_modules", c->exclude_regex, c->exclude_modules);
    cJSON_AddFalseToObject(o, "fan_in_fan_out");
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
    cJSON_AddFalseToObject(o, "use_dora");
    cJSON_AddBoolToObject(o, "use_rslora", c->use_rslora);
    tn_json_print(out, o, true);
    tn_buf_putc(out, '\n');
    cJSON_Delete(o);
    return tn_buf_status(out);
}
