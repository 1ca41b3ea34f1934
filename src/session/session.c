/* Putting the parts of a model together, and the public functions that need no more than them. */
#include "session/session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *tn_version(void) {
    return TENON_VERSION;
}

int tn_set_threads(int count) {
    return tn_threads_set(count);
}

/* The tokenizer is optional: rows of input_ids need none. A broken one is an error all the same. */
static tn_status load_words(tn_model *model, const char *dir) {
    char path[TN_PATH_MAX];
    TN_TRY(tn_path_join(path, dir, "tokenizer.json"));
    model->tokenizer_dir = tn_strdup(dir);
    if (!model->tokenizer_dir)
        return tn_fail_memory("the model");
    if (tn_path_exists(path))
        TN_TRY(tn_tokenizer_load(dir, &model->tokenizer));
    if (model->tokenizer && tn_tokenizer_vocab_size(model->tokenizer) > model->network->vocab_size) {
        int32_t bos = tn_tokenizer_bos(model->tokenizer);
        if (bos >= model->network->vocab_size)
            return tn_fail(TN_ERROR_MISMATCH, "%s: the tokenizer's tokens go beyond the model's vocabulary of %lld", path,
                           (long long)model->network->vocab_size);
    }
    return tn_chat_template_load(dir, &model->chat_template);
}

/* Takes the network, also on failure: one of the two. */
static tn_status assemble(tn_decoder *decoder, tn_sequential *sequential, tn_model **out) {
    tn_model *model = tn_calloc(1, sizeof *model);
    if (!model) {
        tn_decoder_free(decoder);
        tn_sequential_free(sequential);
        return tn_fail_memory("the model");
    }
    model->network = decoder ? &decoder->net : &sequential->net;
    model->decoder = decoder;
    model->sequential = sequential;
    model->kernels = tn_kernels_cpu();
    tn_status status = decoder ? load_words(model, model->network->dir) : TN_OK;
    if (status != TN_OK) {
        tn_model_free(model);
        return status;
    }
    *out = model;
    return TN_OK;
}

/* What cannot be read is left to the loader of decoders, which says why. */
static bool is_sequential(const char *path) {
    enum { CONFIG_LIMIT = 4 << 20 };
    char dir[TN_PATH_MAX], config_path[TN_PATH_MAX];
    cJSON *json = NULL;
    bool is = tn_network_locate(path, dir, config_path) == TN_OK && tn_path_exists(config_path) &&
              tn_json_read(config_path, CONFIG_LIMIT, &json) == TN_OK && tn_sequential_is_named(json);
    cJSON_Delete(json);
    return is;
}

tn_status tn_model_load(const char *dir, tn_model **out) {
    tn_decoder *decoder = NULL;
    tn_sequential *sequential = NULL;
    *out = NULL;
    if (tn_path_is_dir(dir) && is_sequential(dir))
        TN_TRY(tn_sequential_load(dir, &sequential));
    else
        TN_TRY(tn_decoder_load(dir, &decoder));
    return assemble(decoder, sequential, out);
}

tn_status tn_model_create(const char *config_path, uint64_t seed, tn_model **out) {
    tn_decoder *decoder = NULL;
    tn_sequential *sequential = NULL;
    *out = NULL;
    if (is_sequential(config_path))
        TN_TRY(tn_sequential_create(config_path, seed, &sequential));
    else
        TN_TRY(tn_decoder_create(config_path, seed, &decoder));
    return assemble(decoder, sequential, out);
}

tn_status tn_session_need_decoder(const tn_model *model, const char *what) {
    if (model->decoder)
        return TN_OK;
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s is a %s model; %s needs a language model", model->network->dir,
                   model->network->family, what);
}

void tn_model_free(tn_model *model) {
    if (!model)
        return;
    tn_model_remove_adapter(model);
    tn_chat_template_free(model->chat_template);
    tn_tokenizer_free(model->tokenizer);
    tn_decoder_free(model->decoder);
    tn_sequential_free(model->sequential);
    tn_free(model->tokenizer_dir);
    tn_free(model);
}

/* As most of the base is stored; vectors are widened on loading. */
static const char *stored_dtype(const tn_network *network) {
    for (int64_t i = 0; i < network->module_count; i++)
        if (network->modules[i].weight.tensor.ndim > 1)
            return tn_dtype_name(network->modules[i].weight.tensor.dtype);
    return tn_dtype_name(TN_DTYPE_F32);
}

void tn_model_describe(const tn_model *model, tn_model_info *out) {
    const tn_network *n = model->network;
    *out = (tn_model_info){
        .family = n->family,
        .dtype = stored_dtype(n),
        .parameters = tn_network_parameters(n),
        .bytes = tn_network_bytes(n),
        .layers = model->sequential ? model->sequential->config.count : n->layer_count,
        .vocab_size = n->vocab_size,
        .unused_tensors = n->unused_tensors,
        .first_unused = n->first_unused,
        .has_tokenizer = model->tokenizer != NULL,
        .has_chat_template = model->chat_template != NULL,
    };
    if (model->decoder) {
        const tn_decoder_config *c = &model->decoder->config;
        out->hidden_size = c->hidden_size;
        out->heads = c->heads;
        out->kv_heads = c->kv_heads;
        out->max_positions = c->max_positions;
    }
}

static tn_status need_tokenizer(const tn_model *model) {
    if (model->tokenizer)
        return TN_OK;
    TN_TRY(tn_session_need_decoder(model, "text"));
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s holds no tokenizer.json, so text cannot be turned into tokens",
                   model->network->dir);
}

tn_status tn_model_encode(const tn_model *model, const char *text, size_t length, bool add_special, int32_t **ids,
                          size_t *count) {
    tn_ids list = {0};
    *ids = NULL;
    *count = 0;
    TN_TRY(need_tokenizer(model));
    tn_status status = tn_tokenizer_encode(model->tokenizer, text, length, add_special, &list);
    if (status != TN_OK) {
        tn_ids_free(&list);
        return status;
    }
    *ids = list.data;
    *count = list.count;
    return TN_OK;
}

void tn_free_ids(int32_t *ids) {
    tn_free(ids);
}

tn_status tn_model_decode(const tn_model *model, const int32_t *ids, size_t count, char **text) {
    tn_buf out = {0};
    *text = NULL;
    TN_TRY(need_tokenizer(model));
    tn_status status = tn_tokenizer_decode(model->tokenizer, ids, count, true, &out);
    if (status == TN_OK && !(*text = tn_buf_take(&out)))
        status = tn_fail_memory("decoded text");
    tn_buf_free(&out);
    return status;
}

void tn_free_text(char *text) {
    tn_free(text);
}

void tn_adapter_options_default(tn_adapter_options *options) {
    *options = (tn_adapter_options){.method = "lora", .rank = 8, .alpha = 16, .bias = "none", .init = "kaiming"};
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

static tn_status parse_bias(const char *text, tn_bias_mode *out) {
    static const char *const names[] = {"none", "all", "lora_only"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (tn_bias_mode)i;
            return TN_OK;
        }
    }
    return tn_fail(TN_ERROR_ARGUMENT, "bias '%s' is not one of none, all, lora_only", text);
}

/* Lists on the command line are the target syntax without "all-linear". */
static tn_status parse_names(tn_peft_config *config, const char *text, tn_text_list *out) {
    tn_peft_config kept = *config;
    tn_status status = tn_peft_config_set_targets(config, text);
    *out = config->target_modules;
    config->target_modules = kept.target_modules;
    config->target_regex = kept.target_regex;
    config->all_linear = kept.all_linear;
    return status;
}

static tn_status config_of_options(const tn_adapter_options *o, tn_peft_config *config) {
    config->rank = o->rank;
    config->alpha = o->alpha;
    config->dropout = o->dropout;
    config->use_rslora = o->rslora;
    config->lora_bias = o->lora_bias;
    config->ensure_weight_tying = o->ensure_weight_tying;
    if (!(o->dropout >= 0 && o->dropout < 1))
        return tn_fail(TN_ERROR_ARGUMENT, "dropout %g is not at least 0 and below 1", o->dropout);
    if (!isfinite(o->alpha))
        return tn_fail(TN_ERROR_ARGUMENT, "alpha %g is not a finite number", o->alpha);
    config->init = tn_arena_strdup(&config->arena, o->init ? o->init : "kaiming");
    if (!config->init)
        return tn_fail_memory("the adapter's configuration");
    TN_TRY(parse_bias(o->bias ? o->bias : "none", &config->bias));
    if (o->target_modules)
        TN_TRY(tn_peft_config_set_targets(config, o->target_modules));
    if (o->exclude_modules)
        TN_TRY(parse_names(config, o->exclude_modules, &config->exclude_modules));
    if (o->modules_to_save)
        TN_TRY(parse_names(config, o->modules_to_save, &config->modules_to_save));
    if (o->rank_pattern)
        TN_TRY(tn_peft_config_set_pattern(config, o->rank_pattern, "rank-pattern", &config->rank_pattern,
                                          &config->rank_pattern_count));
    if (o->alpha_pattern)
        TN_TRY(tn_peft_config_set_pattern(config, o->alpha_pattern, "alpha-pattern", &config->alpha_pattern,
                                          &config->alpha_pattern_count));
    if (o->layers)
        TN_TRY(parse_layers(config, o->layers, "layers", &config->layers, &config->layers_count));
    if (o->token_indices) {
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
    }
    return TN_OK;
}

tn_status tn_model_add_adapter(tn_model *model, const tn_adapter_options *options, uint64_t seed) {
    const char *name = options->method ? options->method : "lora";
    tn_model_remove_adapter(model);
    if (strcmp(name, "full") == 0)
        return tn_adapter_create_full(model->network, true, &model->adapter);
    bool dora = strcmp(name, "dora") == 0; /* to PEFT a variant of LoRA */
    const tn_peft_method *const *method = tn_peft_methods;
    while (*method && strcmp((*method)->name, dora ? "lora" : name) != 0)
        method++;
    if (!*method)
        return tn_fail(TN_ERROR_ARGUMENT, "there is no method '%s'; there are lora, dora and full", name);
    tn_peft_config config;
    tn_peft_config_init(&config);
    tn_status status = config_of_options(options, &config);
    config.use_dora = dora;
    config.base_model = tn_arena_strdup(&config.arena, model->network->dir);
    if (status != TN_OK) {
        tn_peft_config_free(&config);
        return status;
    }
    return tn_adapter_create(model->network, *method, &config, true, seed, &model->adapter);
}

tn_status tn_model_load_named_adapter(tn_model *model, const char *dir, const char *name, bool trainable,
                                      bool allow_partial) {
    tn_adapter_load_options options = {.trainable = trainable, .allow_partial = allow_partial};
    tn_model_remove_adapter(model);
    TN_TRY(tn_adapter_load_all(model->network, dir, name, &options, &model->adapter));
    model->adapter_dir = tn_strdup(dir);
    if (model->adapter_dir)
        return TN_OK;
    tn_model_remove_adapter(model);
    return tn_fail_memory("the adapter");
}

tn_status tn_model_load_adapter(tn_model *model, const char *dir, bool trainable, bool allow_partial) {
    return tn_model_load_named_adapter(model, dir, NULL, trainable, allow_partial);
}

void tn_model_remove_adapter(tn_model *model) {
    tn_adapter_free(model->adapter);
    tn_free(model->adapter_dir);
    model->adapter = NULL;
    model->adapter_dir = NULL;
}

void tn_model_enable_adapter(tn_model *model, bool enabled) {
    if (model->adapter)
        tn_adapter_enable(model->adapter, enabled);
}

tn_status tn_model_describe_adapter(tn_model *model, tn_adapter_info *out) {
    tn_adapter_summary summary;
    *out = (tn_adapter_info){0};
    if (!model->adapter)
        return tn_fail(TN_ERROR_ARGUMENT, "the model has no adapter");
    TN_TRY(tn_adapter_summarise(model->adapter, &summary));
    out->modules = summary.modules;
    out->parameters = summary.parameters;
    for (const tn_adapter *one = model->adapter; one; one = one->next) {
        out->adapters++;
        out->tensors += model->adapter_dir ? one->params.count : 0;
    }
    out->change_norm = summary.change_norm;
    out->base_norm = summary.base_norm;
    return tn_session_probe(model, &out->logit_difference);
}
