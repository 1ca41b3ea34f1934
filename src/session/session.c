/* Putting the parts of a model together, and the public functions that need no more than them. */
#include "session/session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/gguf_tokenizer.h"

const char *tn_version(void) {
    return TENON_VERSION;
}

int tn_set_threads(int count) {
    return tn_threads_set(count);
}

static tn_status load_gguf_words(tn_model *model, const char *path) {
    cJSON *json, *config;
    TN_TRY(tn_gguf_tokenizer_read(path, &json, &config));
    tn_status status = json ? tn_tokenizer_build(json, config, path, &model->tokenizer) : TN_OK;
    if (status == TN_OK)
        status = tn_chat_template_build(config, path, &model->chat_template);
    cJSON_Delete(json);
    cJSON_Delete(config);
    return status;
}

/* The tokenizer is optional: rows of input_ids need none. A broken one is an error all the same. */
static tn_status load_words(tn_model *model, const char *dir) {
    char path[TN_PATH_MAX];
    bool is_gguf = model->network->checkpoint.gguf != NULL;
    TN_TRY(tn_path_join(path, dir, "tokenizer.json"));
    model->tokenizer_dir = tn_strdup(dir);
    if (!model->tokenizer_dir)
        return tn_fail_memory("the model");
    if (is_gguf)
        TN_TRY(load_gguf_words(model, dir));
    else if (tn_path_exists(path))
        TN_TRY(tn_tokenizer_load(dir, &model->tokenizer));
    if (model->tokenizer && tn_tokenizer_vocab_size(model->tokenizer) > model->network->vocab_size) {
        int32_t bos = tn_tokenizer_bos(model->tokenizer);
        if (bos >= model->network->vocab_size)
            return tn_fail(TN_ERROR_MISMATCH, "%s: the tokenizer's tokens go beyond the model's vocabulary of %lld", path,
                           (long long)model->network->vocab_size);
    }
    return is_gguf ? TN_OK : tn_chat_template_load(dir, &model->chat_template);
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
    model->matmul_precision = "f32";
    tn_status status = decoder ? load_words(model, model->network->dir) : TN_OK;
    if (status != TN_OK) {
        tn_model_free(model);
        return status;
    }
    *out = model;
    return TN_OK;
}

/* What cannot be read is left to the loader of decoders, which says why. */
static tn_status find_kind(const char *path, bool *sequential) {
    enum { CONFIG_LIMIT = 4 << 20 };
    char dir[TN_PATH_MAX], config_path[TN_PATH_MAX];
    cJSON *json = NULL;
    tn_status status = tn_network_locate(path, dir, config_path);
    if (status == TN_OK)
        status = tn_json_read(config_path, CONFIG_LIMIT, &json);
    *sequential = status == TN_OK && tn_sequential_is_named(json);
    cJSON_Delete(json);
    return status == TN_ERROR_MEMORY ? status : TN_OK;
}

tn_status tn_model_load(const char *dir, tn_model **out) {
    tn_decoder *decoder = NULL;
    tn_sequential *sequential = NULL;
    char gguf[TN_PATH_MAX];
    bool is_gguf, is_sequential = false;
    *out = NULL;
    TN_TRY(tn_gguf_locate(dir, gguf, &is_gguf));
    if (!is_gguf)
        TN_TRY(find_kind(dir, &is_sequential));
    if (is_sequential && tn_path_is_dir(dir))
        TN_TRY(tn_sequential_load(dir, &sequential));
    else
        TN_TRY(tn_decoder_load(dir, &decoder));
    return assemble(decoder, sequential, out);
}

tn_status tn_model_create(const char *config_path, uint64_t seed, tn_model **out) {
    tn_decoder *decoder = NULL;
    tn_sequential *sequential = NULL;
    bool is_sequential;
    *out = NULL;
    TN_TRY(find_kind(config_path, &is_sequential));
    if (is_sequential)
        TN_TRY(tn_sequential_create(config_path, seed, &sequential));
    else
        TN_TRY(tn_decoder_create(config_path, seed, &decoder));
    return assemble(decoder, sequential, out);
}

tn_status tn_model_set_matmul_precision(tn_model *model, const char *precision) {
    const bool rounded = strcmp(precision, "bf16") == 0;
    if (!rounded && strcmp(precision, "f32") != 0)
        return tn_fail(TN_ERROR_ARGUMENT, "matmul precision '%s' is neither f32 nor bf16", precision);
    const tn_kernels *kernels = rounded ? tn_kernels_cpu_bf16() : tn_kernels_cpu();
    if (!kernels)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "matmul precision bf16 needs a CPU with AVX-512 BF16, and this one runs the %s kernels; use f32",
                       tn_kernels_cpu()->name);
    model->kernels = kernels;
    model->matmul_precision = rounded ? "bf16" : "f32";
    return TN_OK;
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

/* Elements of the matrices stored in this type. */
static int64_t elements_of_type(const tn_network *network, const char *type) {
    int64_t elements = 0;
    for (int64_t i = 0; i < network->module_count; i++) {
        const tn_module *module = &network->modules[i];
        const tn_tensor *weight = &module->weight.tensor;
        if (!module->tied && weight->ndim > 1 && strcmp(tn_tensor_type(weight), type) == 0)
            elements += tn_tensor_count(weight);
    }
    return elements;
}

/* As most of the base is stored; vectors are widened on loading. */
static const char *stored_dtype(const tn_network *network) {
    const char *best = tn_dtype_name(TN_DTYPE_F32);
    int64_t most = elements_of_type(network, best);
    for (int64_t i = 0; i < network->module_count; i++) {
        const char *type = network->modules[i].tied ? best : tn_tensor_type(&network->modules[i].weight.tensor);
        int64_t elements = strcmp(type, best) != 0 ? elements_of_type(network, type) : most;
        if (elements > most) {
            most = elements;
            best = type;
        }
    }
    return best;
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
        .matmul_precision = model->matmul_precision,
    };
    if (model->decoder) {
        const tn_decoder_config *c = &model->decoder->config;
        out->hidden_size = c->hidden_size;
        out->heads = c->heads;
        out->kv_heads = c->kv_heads;
        out->max_positions = c->max_positions;
    }
    if (model->sequential) {
        out->inputs = model->sequential->config.inputs;
        out->outputs = model->sequential->config.outputs;
        out->regression = model->sequential->config.regression;
    }
}

static tn_status need_tokenizer(const tn_model *model) {
    if (model->tokenizer)
        return TN_OK;
    TN_TRY(tn_session_need_decoder(model, "text"));
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s holds no tokenizer, so text cannot be turned into tokens", model->network->dir);
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

static tn_status load_adapter(tn_model *model, const char *dir, const char *name, const tn_adapter_load_options *options) {
    tn_model_remove_adapter(model);
    TN_TRY(tn_adapter_load_all(model->network, dir, name, options, &model->adapter));
    model->adapter_dir = tn_strdup(dir);
    if (model->adapter_dir)
        return TN_OK;
    tn_model_remove_adapter(model);
    return tn_fail_memory("the adapter");
}

tn_status tn_model_load_named_adapter(tn_model *model, const char *dir, const char *name, bool trainable,
                                      bool allow_partial) {
    tn_adapter_load_options options = {.trainable = trainable, .allow_partial = allow_partial};
    return load_adapter(model, dir, name, &options);
}

tn_status tn_model_continue_adapter(tn_model *model, const char *dir, const char *method) {
    const tn_peft_method *unused;
    const tn_peft_preset *preset = NULL;
    if (strcmp(method, "full") != 0)
        TN_TRY(tn_peft_method_by_name(method, &unused, &preset));
    tn_adapter_load_options options = {.trainable = true, .preset = preset && preset->training_only ? preset : NULL};
    return load_adapter(model, dir, NULL, &options);
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

/* The module in whose name a tensor's begins; names of modules hold dots themselves. */
static const char *module_of(const tn_network *network, const char *tensor) {
    char name[512];
    if ((size_t)snprintf(name, sizeof name, "%s", tensor) >= sizeof name)
        return NULL;
    for (char *dot; (dot = strrchr(name, '.'));) {
        *dot = 0;
        const tn_module *module = tn_network_module(network, name);
        if (module)
            return module->name;
    }
    return NULL;
}

_Static_assert((int)TN_TRAINED_DIMS == (int)TN_MAX_DIMS, "a shape of the one must hold any of the other");

static tn_trained_tensor trained_tensor(const tn_network *network, const tn_param *param) {
    const tn_tensor *tensor = &param->weight->tensor;
    tn_trained_tensor out = {.name = param->name,
                             .module = param->shared ? NULL : module_of(network, param->name),
                             .dims = tensor->ndim,
                             .count = param->count};
    for (int i = 0; i < tensor->ndim; i++)
        out.shape[i] = tensor->shape[i];
    return out;
}

size_t tn_model_list_trained(const tn_model *model, tn_trained_tensor *tensors, size_t capacity) {
    size_t count = 0;
    for (const tn_adapter *one = model->adapter; one; one = one->next) {
        for (int64_t i = 0; i < one->params.count; i++) {
            if (one->params.entries[i].is_buffer)
                continue;
            if (tensors && count < capacity)
                tensors[count] = trained_tensor(model->network, &one->params.entries[i]);
            count++;
        }
    }
    return count;
}
