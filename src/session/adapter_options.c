/* From the public options of a new adapter to its configuration. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "peft/lora.h"
#include "session/session.h"

void tn_adapter_options_default(tn_adapter_options *options) {
    *options = (tn_adapter_options){.method = "lora", .bias = "none", .init = "kaiming"};
}

/* "0,1,5-8" into the configuration's layer list. */
static tn_status parse_layers(tn_peft_config *config, const char *text, const char *what, int64_t **out, size_t *out_count) {
    int64_t *layers = NULL;
    size_t count = 0;
    for (int pass = 0; pass < 2; pass++) {
        const char *at = text;
        count = 0;
        while (*at) {
            char *end;
            long first = strtol(at, &end, 10), last = first;
            bool good = end != at;
            if (good && *end == '-') {
                at = end + 1;
                last = strtol(at, &end, 10);
                good = end != at;
            }
            if (!good || first < 0 || last < first || last > 10000000 || (*end && *end != ',') || last - first > 100000)
                return tn_fail(TN_ERROR_ARGUMENT, "%s: '%s' is no list of numbers such as 0,1,5-8", what, text);
            for (long i = first; i <= last; i++, count++)
                if (layers)
                    layers[count] = i;
            at = *end ? end + 1 : end;
        }
        if (!layers && !(layers = tn_arena_array(&config->arena, count + 1, sizeof *layers)))
            return tn_fail_memory("the adapter's configuration");
    }
    *out = layers;
    *out_count = count;
    return TN_OK;
}

static tn_status parse_bias(const tn_peft_method *method, const char *text, tn_bias_mode *out) {
    const char *const names[] = {"none", "all", method->bias_name};
    for (int i = 0; i < 3; i++) {
        if (names[i] && strcmp(text, names[i]) == 0) {
            *out = (tn_bias_mode)i;
            return TN_OK;
        }
    }
    return tn_fail(TN_ERROR_ARGUMENT, "bias '%s' is not one of none, all%s%s", text, method->bias_name ? ", " : "",
                   method->bias_name ? method->bias_name : "");
}

/* Options that this method would not heed are mistakes. */
static tn_status refuse_unused(const tn_adapter_options *o, const tn_peft_method *m) {
    bool lora = m == &tn_lora, other_init = o->init && strcmp(o->init, "kaiming") != 0;
    const struct {
        const char *name;
        bool given;
    } unused[] = {
        {"rank", o->rank != 0 && !m->rank_key},
        {"alpha", o->alpha != 0 && !m->alpha_key},
        {"dropout", o->dropout != 0 && !m->dropout_key},
        {"rank-pattern", o->rank_pattern && !m->rank_key},
        {"alpha-pattern", o->alpha_pattern && !m->alpha_key},
        {"rslora", o->rslora && !lora},
        {"lora-bias", o->lora_bias && !lora},
        {"init", other_init && !lora},
        {"token-indices", o->token_indices && !lora},
        {"ensure-weight-tying", o->ensure_weight_tying && !lora},
        {"loftq-bits", o->loftq_bits && !lora},
        {"loftq-iter", o->loftq_iterations && !lora},
    };
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++)
        if (unused[i].given)
            return tn_fail(TN_ERROR_ARGUMENT, "%s makes no use of %s; leave it out", m->name, unused[i].name);
    return TN_OK;
}

static tn_status set_sizes(const tn_adapter_options *o, tn_peft_config *config) {
    const tn_peft_method *m = config->method;
    config->rank = o->rank ? o->rank : config->rank;
    config->alpha = o->alpha != 0 ? o->alpha : m->new_alpha > 0 ? m->new_alpha : config->alpha;
    config->dropout = o->dropout;
    if (!(o->dropout >= 0 && o->dropout < 1))
        return tn_fail(TN_ERROR_ARGUMENT, "dropout %g is not at least 0 and below 1", o->dropout);
    if (!isfinite(o->alpha))
        return tn_fail(TN_ERROR_ARGUMENT, "alpha %g is not a finite number", o->alpha);
    return TN_OK;
}

static tn_status set_token_rows(const tn_adapter_options *o, tn_peft_config *config) {
    int64_t *indices;
    size_t count;
    TN_TRY(parse_layers(config, o->token_indices, "token-indices", &indices, &count));
    tn_token_rows *rows = config->token_rows = tn_arena_array(&config->arena, 1, sizeof *rows);
    int32_t *narrow = tn_arena_array(&config->arena, count + 1, sizeof *narrow);
    if (!rows || !narrow)
        return tn_fail_memory("the adapter's configuration");
    for (size_t i = 0; i < count; i++)
        narrow[i] = (int32_t)indices[i];
    *rows = (tn_token_rows){.indices = narrow, .count = (int64_t)count};
    config->token_rows_count = 1;
    return TN_OK;
}

static tn_status config_of_options(const tn_adapter_options *o, tn_peft_config *config) {
    TN_TRY(refuse_unused(o, config->method));
    TN_TRY(set_sizes(o, config));
    config->use_rslora = config->use_rslora || o->rslora;
    config->lora_bias = o->lora_bias;
    config->ensure_weight_tying = o->ensure_weight_tying;
    config->loftq_bits = o->loftq_bits;
    config->loftq_iterations = o->loftq_iterations;
    if (o->loftq_iterations < 0 || o->loftq_iterations > TN_MOST_LOFTQ_ITERATIONS)
        return tn_fail(TN_ERROR_ARGUMENT, "%lld iterations of LoftQ are not 1 to %d", (long long)o->loftq_iterations,
                       TN_MOST_LOFTQ_ITERATIONS);
    config->init = tn_arena_strdup(&config->arena, o->init ? o->init : "kaiming");
    if (!config->init)
        return tn_fail_memory("the adapter's configuration");
    TN_TRY(parse_bias(config->method, o->bias ? o->bias : "none", &config->bias));
    if (o->target_modules)
        TN_TRY(tn_peft_config_set_targets(config, o->target_modules));
    if (o->exclude_modules)
        TN_TRY(tn_peft_config_parse_names(config, o->exclude_modules, &config->exclude_modules));
    if (o->modules_to_save)
        TN_TRY(tn_peft_config_parse_names(config, o->modules_to_save, &config->modules_to_save));
    if (o->rank_pattern)
        TN_TRY(tn_peft_config_set_pattern(config, o->rank_pattern, "rank-pattern", &config->rank_pattern,
                                          &config->rank_pattern_count));
    if (o->alpha_pattern)
        TN_TRY(tn_peft_config_set_pattern(config, o->alpha_pattern, "alpha-pattern", &config->alpha_pattern,
                                          &config->alpha_pattern_count));
    if (o->layers)
        TN_TRY(parse_layers(config, o->layers, "layers", &config->layers, &config->layers_count));
    for (size_t i = 0; i < o->setting_count; i++)
        TN_TRY(tn_peft_config_set(config, o->settings[i].name, o->settings[i].value));
    return o->token_indices ? set_token_rows(o, config) : TN_OK;
}

/* An f32 copy of every weight is what nobody means who has them in 4 bits. */
static tn_status check_can_train_all(const tn_network *network) {
    for (int64_t i = 0; i < network->module_count; i++)
        if (network->modules[i].weight.tensor.dtype == TN_DTYPE_QUANTISED)
            return tn_fail(TN_ERROR_UNSUPPORTED,
                           "full fine-tuning: '%s' is quantised (%s), and codes cannot be trained; load the checkpoint that "
                           "is not quantised, or train an adapter, with modules_to_save for single modules in full",
                           network->modules[i].name, tn_tensor_type(&network->modules[i].weight.tensor));
    return TN_OK;
}

tn_status tn_session_adapter_config(const tn_model *model, const tn_adapter_options *options, tn_peft_config *config) {
    const tn_peft_method *method;
    const tn_peft_preset *preset;
    TN_TRY(tn_peft_method_by_name(options->method ? options->method : "lora", &method, &preset));
    tn_status status = tn_peft_config_init(config, method);
    if (status == TN_OK && preset)
        preset->apply(config);
    if (status == TN_OK)
        status = config_of_options(options, config);
    config->base_model = tn_arena_strdup(&config->arena, model->network->dir);
    config->task_type = model->decoder ? "CAUSAL_LM" : NULL;
    if (status != TN_OK)
        tn_peft_config_free(config);
    return status;
}

tn_status tn_model_add_adapter(tn_model *model, const tn_adapter_options *options, uint64_t seed) {
    tn_peft_config config;
    tn_model_remove_adapter(model);
    if (options->method && strcmp(options->method, "full") == 0) {
        TN_TRY(check_can_train_all(model->network));
        return tn_adapter_create_full(model->network, true, &model->adapter);
    }
    TN_TRY(tn_session_adapter_config(model, options, &config));
    return tn_adapter_create(model->network, config.method, &config, true, seed, &model->adapter);
}
