/* A PEFT adapter folder: adapter_config.json and adapter_model.safetensors, whose keys are "base_model.model." + module +
 * tensor. */
#include <math.h>
#include <string.h>

#include "peft/adapter.h"

enum { CONFIG_LIMIT = 16 << 20 };
static const char PREFIX[] = "base_model.model.", SHARED_PREFIX[] = "base_model.";

static void full_key(const tn_param *param, char *key, size_t size) {
    snprintf(key, size, "%s%s", param->shared ? SHARED_PREFIX : PREFIX, param->name);
}

/* Keys that hold a tensor of the base as it was, so that a reader without the base could check it. */
static const tn_module *frozen_copy_of(const tn_adapter *adapter, const char *name) {
    const char *suffix = strstr(name, ".base_layer.weight");
    if (!suffix || strcmp(suffix, ".base_layer.weight") != 0)
        return NULL;
    char module[512];
    snprintf(module, sizeof module, "%.*s", (int)(suffix - name), name);
    return tn_network_module(adapter->model, module);
}

/* What a key of the file stands for, whatever spelling of it older and newer files have; NULL: nothing that is known. */
static tn_param *find_param(const tn_adapter *adapter, const char *name) {
    tn_param *param = tn_params_find(&adapter->params, name);
    char other[512];
    if (!param)
        param = tn_params_find(&adapter->constants, name);
    if (param)
        return param->in_file ? param : NULL;
    const char *bias = strstr(name, ".base_layer.bias");
    const char *plain = strrchr(name, '.');
    if (bias)
        snprintf(other, sizeof other, "%.*s.bias", (int)(bias - name), name);
    else if (plain && strcmp(plain, ".bias") == 0)
        snprintf(other, sizeof other, "%.*s.base_layer.bias", (int)(plain - name), name);
    else
        return NULL;
    return tn_params_find(&adapter->params, other);
}

/* The key without its prefix. */
static const char *short_name(const char *key) {
    if (strncmp(key, PREFIX, sizeof PREFIX - 1) == 0)
        return key + sizeof PREFIX - 1;
    return strncmp(key, SHARED_PREFIX, sizeof SHARED_PREFIX - 1) == 0 ? key + sizeof SHARED_PREFIX - 1 : key;
}

/* A head that ensure_weight_tying ties to a saved embedding is stored twice. */
static bool is_tied_copy(const tn_adapter *adapter, const char *name) {
    const tn_module *head = adapter->model->head;
    size_t length = head ? strlen(head->name) : 0;
    return head && head->tied && strncmp(name, head->name, length) == 0 && strcmp(name + length, ".weight") == 0;
}

/* PyTorch's batch norm counts its batches, which nothing here depends on. */
static bool is_batch_count(const char *name) {
    static const char ending[] = ".num_batches_tracked";
    size_t length = strlen(name), tail = sizeof ending - 1;
    return length > tail && strcmp(name + length - tail, ending) == 0;
}

static tn_status fail_unexpected(const tn_adapter *adapter, const char *path, const char *name) {
    const char **names = tn_malloc((size_t)(adapter->params.count + 1) * sizeof *names);
    const char *nearest = NULL;
    if (names) {
        for (int64_t i = 0; i < adapter->params.count; i++)
            names[i] = adapter->params.entries[i].name;
        nearest = tn_nearest_name(name, names, (size_t)adapter->params.count);
    }
    tn_status status =
        tn_fail(TN_ERROR_MISMATCH, "%s: key '%s%s' fits no module of the base that the configuration targets%s%s%s", path,
                PREFIX, name, nearest ? " (nearest: '" : "", nearest ? nearest : "", nearest ? "')" : "");
    tn_free(names);
    return status;
}

static tn_status fill_param(const char *path, const tn_safetensors_entry *entry, tn_param *param) {
    char want[TN_SHAPE_TEXT], got[TN_SHAPE_TEXT];
    if (!tn_tensor_same_shape(&entry->tensor, &param->weight->tensor))
        return tn_fail(TN_ERROR_MISMATCH,
                       "%s: '%s' has shape %s, but this base and configuration need %s; is it for another base model?", path,
                       entry->name, tn_shape_text(&entry->tensor, got), tn_shape_text(&param->weight->tensor, want));
    if (!tn_dtype_is_float(entry->tensor.dtype))
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' is stored as %s, not as floats", path, entry->name,
                       tn_dtype_name(entry->tensor.dtype));
    int64_t bad = tn_tensor_first_nonfinite(&entry->tensor);
    if (bad >= 0)
        return tn_fail(TN_ERROR_NUMERIC, "%s: '%s' holds a NaN or infinity at element %lld", path, entry->name,
                       (long long)bad);
    tn_convert_to_f32(param->weight->tensor.data, entry->tensor.data, entry->tensor.dtype, param->count);
    return TN_OK;
}

static tn_status check_frozen_copy(const tn_adapter *adapter, const char *path, const tn_safetensors_entry *entry,
                                   const tn_module *module) {
    const tn_tensor *base = &tn_module_weight(module)->tensor;
    for (int64_t i = 0; i < adapter->replaced_count; i++)
        if (adapter->replaced[i].place == &module->weight)
            base = &adapter->replaced[i].original.tensor;
    int64_t count = tn_tensor_count(base);
    if (!tn_tensor_same_shape(base, &entry->tensor) || !tn_dtype_is_float(entry->tensor.dtype))
        return tn_fail(TN_ERROR_MISMATCH, "%s: '%s' is not the base's weight; is the adapter for another base model?", path,
                       entry->name);
    float *a = tn_malloc((size_t)count * sizeof *a), *b = tn_malloc((size_t)count * sizeof *b);
    tn_status status = a && b ? TN_OK : tn_fail_memory("the adapter");
    if (status == TN_OK) {
        tn_convert_to_f32(a, base->data, base->dtype, count);
        tn_convert_to_f32(b, entry->tensor.data, entry->tensor.dtype, count);
        for (int64_t i = 0; i < count && status == TN_OK; i++)
            if (!(fabsf(a[i] - b[i]) <= 1e-2f * (fabsf(a[i]) + 1e-3f)))
                status = tn_fail(TN_ERROR_MISMATCH,
                                 "%s: '%s' differs from the base's weight; is the adapter for another base model?", path,
                                 entry->name);
    }
    tn_free(a);
    tn_free(b);
    return status;
}

/* A shared tensor may be repeated for each module, "<module>.<name>", or be there although its seed is all that the
 * configuration wants. NULL: the key is no such tensor. */
static const tn_param *shared_copy_of(const tn_adapter *adapter, const char *name) {
    const char *dot = strrchr(name, '.'), *own = dot ? dot + 1 : name;
    for (int64_t i = 0; i < adapter->constants.count; i++) {
        const tn_param *param = &adapter->constants.entries[i];
        if (param->shared && strcmp(param->name, own) == 0)
            return param;
    }
    return NULL;
}

static tn_status check_shared_copy(const tn_safetensors *file, const tn_safetensors_entry *entry, const tn_param *param) {
    char key[600];
    full_key(param, key, sizeof key);
    const tn_safetensors_entry *stored = param->in_file ? tn_safetensors_find(file, key) : NULL;
    const tn_tensor *want = stored ? &stored->tensor : &param->weight->tensor, *have = &entry->tensor;
    bool same = tn_tensor_same_shape(want, have) && tn_dtype_is_float(want->dtype) && tn_dtype_is_float(have->dtype);
    for (int64_t i = 0; same && i < tn_tensor_count(want); i++) {
        float a, b;
        tn_convert_to_f32(&a, (const char *)want->data + i * tn_dtype_size(want->dtype), want->dtype, 1);
        tn_convert_to_f32(&b, (const char *)have->data + i * tn_dtype_size(have->dtype), have->dtype, 1);
        same = fabsf(a - b) <= 1e-6f * (1 + fabsf(a));
    }
    if (same)
        return TN_OK;
    return tn_fail(TN_ERROR_MISMATCH, "%s: '%s' is not the tensor that all modules share, %s", file->path, entry->name,
                   stored ? key : "as the configuration's seed gives it");
}

/* Which tensors of the adapter the file has had so far. */
typedef struct {
    const tn_adapter *adapter;
    bool *params, *constants;
} seen_tensors;

static bool *mark_of(const seen_tensors *seen, const tn_param *param) {
    const tn_params *p = &seen->adapter->params;
    bool trained = param >= p->entries && param < p->entries + p->count;
    return trained ? &seen->params[param - p->entries] : &seen->constants[param - seen->adapter->constants.entries];
}

static tn_status read_tensor(const seen_tensors *seen, const tn_safetensors *file, const tn_safetensors_entry *entry,
                             const tn_adapter_load_options *options, tn_adapter_load_report *report) {
    const tn_adapter *adapter = seen->adapter;
    const char *name = short_name(entry->name);
    tn_param *param = find_param(adapter, name);
    if (param) {
        if (*mark_of(seen, param))
            return tn_fail(TN_ERROR_MISMATCH, "%s: '%s' is there twice, under two spellings", file->path, param->name);
        *mark_of(seen, param) = true;
        report->tensors++;
        return fill_param(file->path, entry, param);
    }
    const tn_module *frozen = frozen_copy_of(adapter, name);
    if (frozen)
        return options->allow_partial ? TN_OK : check_frozen_copy(adapter, file->path, entry, frozen);
    if (is_tied_copy(adapter, name) || is_batch_count(name))
        return TN_OK;
    const tn_param *shared = shared_copy_of(adapter, name);
    if (shared)
        return options->allow_partial ? TN_OK : check_shared_copy(file, entry, shared);
    report->unexpected++;
    return options->allow_partial ? TN_OK : fail_unexpected(adapter, file->path, name);
}

static tn_status check_missing(const seen_tensors *seen, const tn_params *params, const tn_safetensors *file,
                               const tn_adapter_load_options *options, tn_adapter_load_report *report) {
    for (int64_t i = 0; i < params->count; i++) {
        const tn_param *param = &params->entries[i];
        char key[600];
        if (!param->in_file || *mark_of(seen, param))
            continue;
        report->missing++;
        full_key(param, key, sizeof key);
        if (!options->allow_partial)
            return tn_fail(TN_ERROR_MISMATCH, "%s: no tensor '%s', which the configuration calls for", file->path, key);
    }
    return TN_OK;
}

static tn_status read_tensors(tn_adapter *adapter, const tn_safetensors *file, const tn_adapter_load_options *options,
                              tn_adapter_load_report *report) {
    bool *marks = tn_calloc((size_t)(adapter->params.count + adapter->constants.count) + 1, 1);
    const seen_tensors seen = {adapter, marks, marks + adapter->params.count};
    tn_status status = TN_OK;
    if (!marks)
        return tn_fail_memory("the adapter");
    for (size_t i = 0; i < file->count; i++)
        TN_TRY_GOTO(read_tensor(&seen, file, &file->entries[i], options, report));
    TN_TRY_GOTO(check_missing(&seen, &adapter->params, file, options, report));
    TN_TRY_GOTO(check_missing(&seen, &adapter->constants, file, options, report));
fail:
    tn_free(marks);
    return status;
}

static tn_status open_tensors(const char *dir, tn_safetensors *file) {
    char path[TN_PATH_MAX], other[TN_PATH_MAX];
    TN_TRY(tn_path_join(path, dir, "adapter_model.safetensors"));
    TN_TRY(tn_path_join(other, dir, "adapter_model.bin"));
    if (!tn_path_exists(path) && tn_path_exists(other))
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s: pickled adapters are not read, since unpickling runs code; save it as safetensors", other);
    return tn_safetensors_open(path, file);
}

static tn_status read_config(const char *dir, tn_peft_config *config) {
    char path[TN_PATH_MAX];
    cJSON *json = NULL;
    TN_TRY(tn_path_join(path, dir, "adapter_config.json"));
    TN_TRY(tn_json_read(path, CONFIG_LIMIT, &json));
    tn_status status = tn_peft_config_parse(json, path, config);
    cJSON_Delete(json);
    return status;
}

static tn_status apply_preset(const char *dir, const tn_peft_preset *preset, tn_peft_config *config) {
    if (!preset)
        return TN_OK;
    if (preset->method != config->method)
        return tn_fail(TN_ERROR_ARGUMENT, "%s is an adapter of %s; %s trains those of %s", dir, config->method->name,
                       preset->name, preset->method->name);
    preset->apply(config);
    return TN_OK;
}

tn_status tn_adapter_load(tn_network *model, const char *dir, const tn_adapter_load_options *options,
                          tn_adapter_load_report *report, tn_adapter **out) {
    tn_peft_config config;
    tn_safetensors file;
    tn_adapter_load_report unused;
    tn_adapter *adapter = NULL;
    tn_status status;
    *out = NULL;
    report = report ? report : &unused;
    *report = (tn_adapter_load_report){0};
    if (!tn_path_is_dir(dir))
        return tn_fail(TN_ERROR_IO,
                       "%s is not a folder; an adapter is a folder with adapter_config.json and adapter_model.safetensors",
                       dir);
    TN_TRY(read_config(dir, &config));
    status = apply_preset(dir, options->preset, &config);
    if (status == TN_OK)
        status = open_tensors(dir, &file);
    if (status != TN_OK) {
        tn_peft_config_free(&config);
        return status;
    }
    status = options->allow_partial
                 ? tn_adapter_create(model, config.method, &config, options->trainable, 0, &adapter)
                 : tn_adapter_create_for_file(model, config.method, &config, options->trainable, &adapter);
    if (status != TN_OK) {
        tn_fail_context(status, "%s", dir);
        goto fail;
    }
    TN_TRY_GOTO(read_tensors(adapter, &file, options, report));
    TN_TRY_GOTO(tn_adapter_read_metadata(adapter, &file));
    for (int64_t i = 0; i < adapter->slot_count; i++)
        if (adapter->slots[i].method && adapter->slots[i].method->loaded)
            TN_TRY_GOTO(adapter->slots[i].method->loaded(adapter, adapter->slots[i].slot, adapter->slots[i].module));
    if (!(adapter->dir = tn_arena_strdup(&adapter->arena, dir))) {
        status = tn_fail_memory("the adapter");
        goto fail;
    }
    tn_safetensors_close(&file);
    *out = adapter;
    return TN_OK;
fail:
    tn_safetensors_close(&file);
    tn_adapter_free(adapter);
    return status;
}

/* --- saving --- */

/* The saved embedding that a head still follows; PEFT writes it under both names. NULL when there is none. */
static const tn_param *embedding_of_tied_head(const tn_adapter *adapter) {
    const tn_module *head = adapter->model->head;
    for (int64_t i = 0; i < adapter->params.count && adapter->config.ensure_weight_tying && head && head->tied; i++)
        if (adapter->params.entries[i].weight == &head->tied->weight)
            return &adapter->params.entries[i];
    return NULL;
}

/* One tensor of the file: a parameter or a constant, as the method stores it. */
typedef struct {
    char name[600];
    const tn_param *param;
    tn_stored_tensor stored;
} file_tensor;

/* From the store: while the adapter is off, a replaced module's weight is the base's again. */
static tn_status fill_stored(const tn_adapter *adapter, const tn_params *params, const tn_param *param, file_tensor *out) {
    full_key(param, out->name, sizeof out->name);
    out->param = param;
    out->stored = (tn_stored_tensor){.tensor = param->weight->tensor};
    out->stored.tensor.data = params->values + param->offset;
    const tn_peft_method *method = adapter->method;
    return method->store_tensor ? method->store_tensor(adapter, param, &out->stored) : TN_OK;
}

static tn_status collect_tensors(const tn_adapter *adapter, file_tensor *tensors, size_t *count) {
    const tn_params *const stores[] = {&adapter->params, &adapter->constants};
    for (int s = 0; s < 2; s++)
        for (int64_t i = 0; i < stores[s]->count; i++)
            if (stores[s]->entries[i].in_file)
                TN_TRY(fill_stored(adapter, stores[s], &stores[s]->entries[i], &tensors[(*count)++]));
    const tn_param *embedding = embedding_of_tied_head(adapter);
    if (!embedding)
        return TN_OK;
    TN_TRY(fill_stored(adapter, &adapter->params, embedding, &tensors[*count]));
    snprintf(tensors[*count].name, sizeof tensors->name, "%s%s.weight", PREFIX, adapter->model->head->name);
    (*count)++;
    return TN_OK;
}

static tn_status write_tensors(const tn_adapter *adapter, tn_safetensors_writer *writer) {
    size_t count = 0;
    file_tensor *tensors = tn_calloc((size_t)(adapter->params.count + adapter->constants.count + 1), sizeof *tensors);
    if (!tensors)
        return tn_fail_memory("the adapter");
    tn_status status;
    TN_TRY_GOTO(collect_tensors(adapter, tensors, &count));
    TN_TRY_GOTO(tn_adapter_write_metadata(adapter, writer));
    for (size_t i = 0; i < count; i++) {
        const tn_tensor *t = &tensors[i].stored.tensor;
        TN_TRY_GOTO(tn_safetensors_writer_declare(writer, tensors[i].name, TN_DTYPE_F32, t->ndim, t->shape));
    }
    TN_TRY_GOTO(tn_safetensors_writer_begin(writer));
    for (size_t i = 0; i < count; i++)
        TN_TRY_GOTO(
            tn_safetensors_writer_data(writer, tensors[i].stored.tensor.data, tn_tensor_bytes(&tensors[i].stored.tensor)));
fail:
    for (size_t i = 0; i < count; i++)
        tn_free(tensors[i].stored.memory);
    tn_free(tensors);
    return status;
}

tn_status tn_adapter_save(const tn_adapter *adapter, const char *dir) {
    char path[TN_PATH_MAX];
    tn_safetensors_writer *writer = NULL;
    tn_arena scratch = {0};
    tn_buf text = {0};
    tn_status status;
    TN_TRY(tn_dir_create(dir));
    TN_TRY(tn_path_join(path, dir, "adapter_model.safetensors"));
    TN_TRY(tn_safetensors_writer_new(&writer, path));
    status = write_tensors(adapter, writer);
    if (status != TN_OK) {
        tn_safetensors_writer_abort(writer);
        return status;
    }
    TN_TRY(tn_safetensors_writer_finish(writer));
    TN_TRY(tn_path_join(path, dir, "adapter_config.json"));
    tn_peft_config config = adapter->config;
    status = adapter->method->store_config ? adapter->method->store_config(adapter, &config, &scratch) : TN_OK;
    if (status == TN_OK)
        status = tn_peft_config_print(&config, &text);
    if (status == TN_OK)
        status = tn_file_write(path, text.data, text.length);
    tn_buf_free(&text);
    tn_arena_free(&scratch);
    return status;
}
