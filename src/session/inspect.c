/* Telling what a path is, and describing models, runs and tokenizers. */
#include "session/inspect.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <tenon/model.h>

#include "format/json.h"
#include "model/decoder.h"
#include "model/sequential.h"
#include "session/inspect_parts.h"
#include "session/session.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

void tn_inspect_add_refusal(cJSON *out, const char *key) {
    cJSON_AddFalseToObject(out, key);
    cJSON_AddStringToObject(out, "why_not", tn_error_message());
}

void tn_inspect_add_problem(cJSON *out, const char *problem) {
    cJSON_DeleteItemFromObjectCaseSensitive(out, "sound");
    cJSON_AddFalseToObject(out, "sound");
    if (!cJSON_GetObjectItemCaseSensitive(out, "problem"))
        cJSON_AddStringToObject(out, "problem", problem);
}

bool tn_inspect_has(char path[TN_PATH_MAX], const char *dir, const char *name) {
    return tn_path_join(path, dir, name) == TN_OK && tn_path_exists(path);
}

void tn_inspect_add_numbers(cJSON *out, const char *key, const int64_t *numbers, size_t count) {
    tn_buf text = {0};
    for (size_t i = 0; i < count;) {
        size_t last = i;
        while (last + 1 < count && numbers[last + 1] == numbers[last] + 1)
            last++;
        tn_buf_printf(&text, "%s%lld", i ? ", " : "", (long long)numbers[i]);
        if (last > i)
            tn_buf_printf(&text, "-%lld", (long long)numbers[last]);
        i = last + 1;
    }
    cJSON_AddStringToObject(out, key, tn_buf_text(&text));
    tn_buf_free(&text);
}

/* Copies the first of `keys` that config.json sets, under the first one's name. */
static void copy_size(cJSON *out, const char *as, const cJSON *config, const char *key, const char *other,
                      const char *third) {
    const cJSON *value = tn_json_get(config, key);
    if (!value && other)
        value = tn_json_get(config, other);
    if (!value && third)
        value = tn_json_get(config, third);
    if (value)
        cJSON_AddItemToObject(out, as, cJSON_Duplicate(value, true));
}

static void add_rope(cJSON *out, const tn_rope_config *rope) {
    static const char *const types[] = {"default", "linear", "llama3", "yarn"};
    cJSON *o = cJSON_AddObjectToObject(out, "rope");
    cJSON_AddStringToObject(o, "type", types[rope->type]);
    cJSON_AddNumberToObject(o, "theta", rope->theta);
    if (rope->type == TN_ROPE_DEFAULT)
        return;
    cJSON_AddNumberToObject(o, "factor", rope->factor);
    cJSON_AddNumberToObject(o, "original_max_positions", (double)rope->original_max_positions);
}

static void add_known_config(cJSON *out, const tn_decoder_config *c) {
    cJSON_AddNumberToObject(out, "layers", (double)c->layers);
    cJSON_AddNumberToObject(out, "hidden_size", (double)c->hidden_size);
    cJSON_AddNumberToObject(out, "intermediate_size", (double)c->intermediate_size);
    cJSON_AddNumberToObject(out, "heads", (double)c->heads);
    cJSON_AddNumberToObject(out, "kv_heads", (double)c->kv_heads);
    cJSON_AddNumberToObject(out, "head_size", (double)c->head_size);
    cJSON_AddNumberToObject(out, "vocab_size", (double)c->vocab_size);
    cJSON_AddNumberToObject(out, "max_positions", (double)c->max_positions);
    if (c->window)
        cJSON_AddNumberToObject(out, "sliding_window", (double)c->window);
    cJSON_AddBoolToObject(out, "tied", c->tied);
    if (!c->is_gpt2)
        add_rope(out, &c->rope);
}

/* A family that this build cannot run: what its config.json says, as it spells it. */
static void add_unknown_config(cJSON *out, const cJSON *json) {
    copy_size(out, "layers", json, "num_hidden_layers", "n_layer", "num_layers");
    copy_size(out, "hidden_size", json, "hidden_size", "n_embd", "d_model");
    copy_size(out, "intermediate_size", json, "intermediate_size", "n_inner", "d_ff");
    copy_size(out, "heads", json, "num_attention_heads", "n_head", "num_heads");
    copy_size(out, "kv_heads", json, "num_key_value_heads", NULL, NULL);
    copy_size(out, "head_size", json, "head_dim", NULL, NULL);
    copy_size(out, "vocab_size", json, "vocab_size", NULL, NULL);
    copy_size(out, "max_positions", json, "max_position_embeddings", "n_positions", NULL);
    copy_size(out, "sliding_window", json, "sliding_window", NULL, NULL);
    copy_size(out, "tied", json, "tie_word_embeddings", NULL, NULL);
    copy_size(out, "rope", json, "rope_parameters", "rope_scaling", "rope_theta");
    copy_size(out, "quantization", json, "quantization_config", "quantization", NULL);
}

tn_status tn_inspect_config(cJSON *out, const cJSON *json, const char *path, bool *supported) {
    tn_decoder_config config;
    if (tn_sequential_is_named(json))
        return tn_inspect_sequential(out, json, path, supported);
    const cJSON *architecture = cJSON_GetArrayItem(tn_json_get(json, "architectures"), 0);
    if (!cJSON_IsObject(json))
        return tn_fail(TN_ERROR_FORMAT, "%s: not a JSON object", path);
    copy_size(out, "family", json, "model_type", NULL, NULL);
    if (cJSON_IsString(architecture))
        cJSON_AddStringToObject(out, "architecture", architecture->valuestring);
    tn_status status = tn_decoder_config_parse(json, path, &config);
    *supported = status == TN_OK;
    if (status == TN_OK) {
        cJSON_AddTrueToObject(out, "supported");
        add_known_config(out, &config);
        tn_decoder_config_free(&config);
    } else {
        tn_inspect_add_refusal(out, "supported");
        add_unknown_config(out, json);
    }
    return status == TN_ERROR_MEMORY ? status : TN_OK;
}

static void add_token(cJSON *out, const char *key, const tn_tokenizer *tokenizer, int32_t id) {
    const char *token = id >= 0 ? tn_tokenizer_token(tokenizer, id) : NULL;
    if (!token)
        return;
    cJSON *o = cJSON_AddObjectToObject(out, key);
    cJSON_AddStringToObject(o, "token", token);
    cJSON_AddNumberToObject(o, "id", id);
}

void tn_inspect_tokenizer(cJSON *out, const cJSON *json, const tn_tokenizer *tokenizer) {
    const cJSON *model = tn_json_get(json, "model"), *vocab = tn_json_get(model, "vocab"),
                *merges = tn_json_get(model, "merges");
    const cJSON *type = tn_json_get(model, "type"), *added = tn_json_get(json, "added_tokens");
    if (json) {
        cJSON_AddStringToObject(out, "type", cJSON_IsString(type) ? type->valuestring : "not named");
        cJSON_AddNumberToObject(out, "vocabulary", vocab ? cJSON_GetArraySize(vocab) : 0);
        if (merges)
            cJSON_AddNumberToObject(out, "merges", cJSON_GetArraySize(merges));
        cJSON_AddNumberToObject(out, "added_tokens", added ? cJSON_GetArraySize(added) : 0);
    }
    if (!tokenizer) {
        tn_inspect_add_refusal(out, "supported");
        return;
    }
    cJSON_AddTrueToObject(out, "supported");
    cJSON_AddNumberToObject(out, "size", tn_tokenizer_vocab_size(tokenizer));
    add_token(out, "bos", tokenizer, tn_tokenizer_bos(tokenizer));
    add_token(out, "eos", tokenizer, tn_tokenizer_eos(tokenizer));
    add_token(out, "pad", tokenizer, tn_tokenizer_pad(tokenizer));
    cJSON_AddBoolToObject(out, "adds_bos", tn_tokenizer_adds_bos(tokenizer));
}

/* `path` is the tokenizer.json. */
static tn_status add_tokenizer(cJSON *out, const char *path) {
    cJSON *json;
    tn_tokenizer *tokenizer = NULL;
    TN_TRY(tn_json_read(path, TN_INSPECT_JSON_LIMIT, &json));
    tn_status status = tn_tokenizer_load(path, &tokenizer);
    tn_inspect_tokenizer(out, json, tokenizer);
    tn_tokenizer_free(tokenizer);
    cJSON_Delete(json);
    return status == TN_ERROR_MEMORY ? status : TN_OK;
}

/* Tokenizer, chat template and generation configuration of a folder. */
static tn_status add_words(cJSON *out, const char *dir) {
    char path[TN_PATH_MAX];
    tn_chat_template *chat_template = NULL;
    cJSON *generation = NULL;
    if (tn_inspect_has(path, dir, "tokenizer.json"))
        TN_TRY(add_tokenizer(cJSON_AddObjectToObject(out, "tokenizer"), path));
    tn_status status = tn_chat_template_load(dir, &chat_template);
    if (status == TN_OK)
        cJSON_AddBoolToObject(out, "chat_template", chat_template != NULL);
    else
        cJSON_AddStringToObject(out, "chat_template", tn_error_message());
    tn_chat_template_free(chat_template);
    if (tn_inspect_has(path, dir, "generation_config.json")) {
        TN_TRY(tn_json_read(path, TN_INSPECT_JSON_LIMIT, &generation));
        cJSON_AddItemToObject(out, "generation", generation);
    }
    return TN_OK;
}

static tn_status add_weights(cJSON *out, const char *dir, const tn_inspect_options *options) {
    char path[TN_PATH_MAX];
    tn_checkpoint checkpoint;
    if (!tn_inspect_has(path, dir, "model.safetensors") && !tn_inspect_has(path, dir, "model.safetensors.index.json")) {
        cJSON_AddNumberToObject(out, "shards", 0);
        return TN_OK;
    }
    TN_TRY(tn_checkpoint_open(dir, &checkpoint));
    cJSON_AddNumberToObject(out, "shards", (double)checkpoint.file_count);
    tn_status status = tn_inspect_tensors(out, checkpoint.files, checkpoint.file_count, &checkpoint, false, options);
    tn_checkpoint_close(&checkpoint);
    return status;
}

/* Weights by how they are quantised, where some are: what a model makes of its tensors. */
static tn_status add_quantised(cJSON *out, const char *dir) {
    tn_model *model = NULL;
    cJSON *types = NULL;
    tn_status status = tn_model_load(dir, &model);
    for (const tn_quant_codec *const *codec = tn_quant_codecs; *codec && status == TN_OK; codec++) {
        double weights = 0, elements = 0, bytes = 0;
        for (int64_t i = 0; i < model->network->module_count; i++) {
            const tn_tensor *weight = &model->network->modules[i].weight.tensor;
            if (model->network->modules[i].tied || weight->dtype != TN_DTYPE_QUANTISED ||
                ((const tn_quantised *)weight->data)->codec != *codec)
                continue;
            weights++;
            elements += (double)tn_tensor_count(weight);
            bytes += (double)tn_tensor_bytes(weight);
        }
        if (weights == 0)
            continue;
        types = types ? types : cJSON_AddObjectToObject(out, "quantised");
        cJSON *one = cJSON_AddObjectToObject(types, (*codec)->name);
        cJSON_AddNumberToObject(one, "weights", weights);
        cJSON_AddNumberToObject(one, "parameters", elements);
        cJSON_AddNumberToObject(one, "bytes", bytes);
        cJSON_AddNumberToObject(one, "bits_per_weight", 8 * bytes / elements);
    }
    if (types)
        cJSON_ReplaceItemInObjectCaseSensitive(out, "parameters",
                                               cJSON_CreateNumber((double)tn_network_parameters(model->network)));
    tn_model_free(model);
    return status == TN_ERROR_MEMORY ? status : TN_OK;
}

/* Names and shapes of the tensors against config.json, as loading checks them. */
tn_status tn_inspect_load(cJSON *out, const char *dir) {
    tn_model_info info;
    tn_model *model = NULL;
    tn_status status = tn_model_load(dir, &model);
    if (status == TN_ERROR_MEMORY)
        return status;
    if (status != TN_OK) {
        tn_inspect_add_problem(out, tn_error_message());
        return TN_OK;
    }
    tn_model_describe(model, &info);
    cJSON_AddNumberToObject(out, "unused_tensors", (double)info.unused_tensors);
    tn_model_free(model);
    return TN_OK;
}

static tn_status inspect_model(cJSON *out, const char *dir, const tn_inspect_options *options) {
    char path[TN_PATH_MAX];
    cJSON *json;
    bool supported = false;
    cJSON_AddStringToObject(out, "kind", "model");
    tn_inspect_has(path, dir, "config.json");
    TN_TRY(tn_json_read(path, TN_INSPECT_JSON_LIMIT, &json));
    tn_status status = tn_inspect_config(out, json, path, &supported);
    bool quantised = tn_json_get(json, "quantization_config") != NULL;
    cJSON_Delete(json);
    TN_TRY(status);
    TN_TRY(add_weights(out, dir, options));
    if (quantised && supported)
        TN_TRY(add_quantised(out, dir));
    if (options->verify && supported)
        TN_TRY(tn_inspect_load(out, dir));
    return add_words(out, dir);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a run's folder of checkpoints, in order. */
static tn_status add_checkpoints(cJSON *out, const char *folder) {
    const char *names[4096];
    size_t count = 0;
    tn_arena arena = {0};
    DIR *listing = opendir(folder);
    if (!listing)
        return tn_fail(TN_ERROR_IO, "cannot list %s: %s", folder, strerror(errno));
    for (struct dirent *entry; (entry = readdir(listing)) && count < sizeof names / sizeof *names;)
        if (strncmp(entry->d_name, "step-", 5) == 0 && !strstr(entry->d_name, ".tmp-"))
            if ((names[count] = tn_arena_strdup(&arena, entry->d_name)))
                count++;
    closedir(listing);
    qsort(names, count, sizeof *names, by_text);
    cJSON_AddItemToObject(out, "checkpoints", cJSON_CreateStringArray(names, (int)count));
    tn_arena_free(&arena);
    return TN_OK;
}

static tn_status inspect_run(cJSON *out, const char *dir, const tn_inspect_options *options) {
    char path[TN_PATH_MAX];
    cJSON_AddStringToObject(out, "kind", "run");
    if (tn_inspect_has(path, dir, "metrics.jsonl"))
        TN_TRY(tn_inspect_metrics(cJSON_AddObjectToObject(out, "metrics"), path));
    if (tn_inspect_has(path, dir, "checkpoints"))
        TN_TRY(add_checkpoints(out, path));
    if (tn_inspect_has(path, dir, "adapter_config.json"))
        return tn_inspect_adapter(cJSON_AddObjectToObject(out, "adapter"), dir, options);
    if (tn_inspect_has(path, dir, "config.json"))
        return inspect_model(cJSON_AddObjectToObject(out, "model"), dir, options);
    return TN_OK;
}

static tn_status inspect_folder(cJSON *out, const char *dir, const tn_inspect_options *options) {
    char path[TN_PATH_MAX];
    bool is_gguf;
    if (tn_inspect_has(path, dir, "metrics.jsonl") || tn_inspect_has(path, dir, "checkpoints"))
        return inspect_run(out, dir, options);
    if (tn_inspect_has(path, dir, "adapter_config.json"))
        return tn_inspect_adapter(out, dir, options);
    TN_TRY(tn_gguf_locate(dir, path, &is_gguf));
    if (is_gguf)
        return tn_inspect_gguf(out, path, options);
    if (tn_inspect_has(path, dir, "config.json"))
        return inspect_model(out, dir, options);
    if (tn_inspect_is_data_folder(dir)) {
        cJSON_AddStringToObject(out, "kind", "data set");
        return tn_inspect_data_folder(out, dir);
    }
    if (tn_inspect_has(path, dir, "tokenizer.json")) {
        cJSON_AddStringToObject(out, "kind", "tokenizer");
        return add_words(out, dir);
    }
    return tn_fail(TN_ERROR_UNSUPPORTED,
                   "%s holds nothing that is known here: no config.json or GGUF file (a model), adapter_config.json (an "
                   "adapter), metrics.jsonl "
                   "(a run), train.jsonl (a data set) or tokenizer.json",
                   dir);
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static tn_status inspect_safetensors(cJSON *out, const char *path, const tn_inspect_options *options) {
    tn_safetensors file;
    TN_TRY(tn_safetensors_open(path, &file));
    cJSON_AddStringToObject(out, "kind", "tensors");
    cJSON *metadata = cJSON_AddObjectToObject(out, "metadata");
    for (size_t i = 0; i < file.metadata_count; i++)
        cJSON_AddStringToObject(metadata, file.metadata[i].key, file.metadata[i].value);
    tn_status status = tn_inspect_tensors(out, &file, 1, NULL, true, options);
    tn_safetensors_close(&file);
    return status;
}

static tn_status refuse_other_formats(const char *path) {
    tn_mapping mapping;
    TN_TRY(tn_file_map(path, &mapping));
    bool zip = mapping.size >= 4 && memcmp(mapping.data, "PK\x03\x04", 4) == 0;
    tn_file_unmap(&mapping);
    if (zip)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s is a pickled PyTorch file, which is not read, since unpickling runs code",
                       path);
    return tn_fail(TN_ERROR_UNSUPPORTED,
                   "%s is not known here; known are folders of models, adapters, data sets and runs, and files "
                   "that end in .safetensors, .gguf, .jsonl or .json",
                   path);
}

static tn_status inspect_file(cJSON *out, const char *path, const tn_inspect_options *options) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    if (tn_gguf_is_file(path))
        return tn_inspect_gguf(out, path, options);
    if (ends_with(name, ".safetensors"))
        return inspect_safetensors(out, path, options);
    if (strcmp(name, "tokenizer.json") == 0) {
        cJSON_AddStringToObject(out, "kind", "tokenizer");
        return add_tokenizer(cJSON_AddObjectToObject(out, "tokenizer"), path);
    }
    if (strcmp(name, "metrics.jsonl") == 0) {
        cJSON_AddStringToObject(out, "kind", "metrics");
        return tn_inspect_metrics(out, path);
    }
    static const char *const of_folders[] = {"config.json", "adapter_config.json", "model.safetensors.index.json"};
    for (size_t i = 0; i < sizeof of_folders / sizeof *of_folders; i++)
        if (strcmp(name, of_folders[i]) == 0)
            return tn_fail(TN_ERROR_ARGUMENT, "%s is one file of several; give its folder", path);
    if (!ends_with(name, ".jsonl") && !ends_with(name, ".json"))
        return refuse_other_formats(path);
    cJSON_AddStringToObject(out, "kind", "data set");
    return tn_inspect_data_file(out, path);
}

tn_status tn_inspect(const char *path, const tn_inspect_options *options, cJSON **out) {
    *out = NULL;
    if (!tn_path_exists(path))
        return tn_fail(TN_ERROR_IO, "cannot open %s: %s", path, strerror(errno));
    cJSON *tree = cJSON_CreateObject();
    if (!tree)
        return tn_fail_memory("the description");
    cJSON_AddStringToObject(tree, "path", path);
    tn_status status = tn_path_is_dir(path) ? inspect_folder(tree, path, options) : inspect_file(tree, path, options);
    if (status != TN_OK) {
        cJSON_Delete(tree);
        return status;
    }
    *out = tree;
    return TN_OK;
}
