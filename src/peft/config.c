/* The fields of a configuration, set one by one, and what its patterns match. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "peft/method.h"

#include <math.h>
#include <pcre2.h>
#include <string.h>

tn_status tn_peft_config_init(tn_peft_config *config, const tn_peft_method *method) {
    *config = (tn_peft_config){.method = method, .rank = (int64_t)method->rank, .alpha = method->alpha, .init = "kaiming"};
    const tn_option_table tables[] = {{method->options, 0}, {0}};
    if (!method->options)
        return TN_OK;
    config->settings = tn_arena_alloc(&config->arena, method->settings_size);
    return config->settings ? tn_options_start(&config->options, tables, config->settings)
                            : tn_fail_memory("the adapter's configuration");
}

void tn_peft_config_free(tn_peft_config *config) {
    tn_options_free(&config->options);
    tn_arena_free(&config->arena);
    *config = (tn_peft_config){0};
}

tn_status tn_peft_config_set(tn_peft_config *config, const char *name, const char *text) {
    const tn_option *option = tn_config_find_option(config->method, name);
    if (option || tn_options_find(&config->options, name))
        return tn_options_set(&config->options, option ? option->name : name, text, TN_SOURCE_FLAG);
    tn_buf list = {0};
    for (size_t i = 0; i < config->options.count; i++)
        tn_buf_printf(&list, "%s%s", i ? ", " : "", config->options.slots[i].option->name);
    tn_status status = tn_fail(TN_ERROR_ARGUMENT, "%s has no option '%s'; %s%s", config->method->name, name,
                               list.length ? "it has " : "it has none of its own", list.length ? tn_buf_text(&list) : "");
    tn_buf_free(&list);
    return status;
}

tn_status tn_peft_config_check(const tn_peft_config *config) {
    const tn_peft_method *m = config->method;
    const struct {
        const char *name;
        bool lost;
    } settings[] = {
        {"bias", config->bias != TN_BIAS_NONE && !m->bias_name},
        {"layers_to_transform", config->layers_count && !m->rank_key},
        {"layers_pattern", config->layers_pattern.count && !m->rank_key},
        {"rank_pattern", config->rank_pattern_count && !m->alpha_key},
        {"alpha_pattern", config->alpha_pattern_count && !m->alpha_key},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (settings[i].lost)
            return tn_fail(TN_ERROR_UNSUPPORTED, "PEFT's configuration of %s has no %s; leave it out", m->name,
                           settings[i].name);
    return TN_OK;
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

tn_status tn_peft_config_parse_names(tn_peft_config *config, const char *text, tn_text_list *out) {
    tn_peft_config kept = *config;
    tn_status status = tn_peft_config_set_targets(config, text);
    *out = config->target_modules;
    config->target_modules = kept.target_modules;
    config->target_regex = kept.target_regex;
    config->all_linear = kept.all_linear;
    return status;
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
