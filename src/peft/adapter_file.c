/* A PEFT adapter folder: adapter_config.json and adapter_model.safetensors, whose keys are "base_model.model." + module +
 * tensor. */
#include <math.h>
#include <string.h>

#include "peft/lora.h"

enum { CONFIG_LIMIT = 16 << 20 };
static const char PREFIX[] = "base_model.model.";

/* Keys that hold a tensor of the base as it was, so that a reader without the base could check it. */
static const tn_module *frozen_copy_of(const tn_adapter *adapter, const char *name) {
    const char *suffix = strstr(name, ".base_layer.weight");
    if (!suffix || strcmp(suffix, ".base_layer.weight") != 0)
        return NULL;
    char module[512];
    snprintf(module, sizeof module, "%.*s", (int)(suffix - name), name);
    return tn_network_module(adapter->model, module);
}

/* Older and newer files spell a few keys differently. */
static tn_param *find_param(const tn_adapter *adapter, const char *name) {
    tn_param *param = tn_params_find(&adapter->params, name);
    char other[512];
    if (param)
        return param;
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

static tn_status read_tensors(tn_adapter *adapter, const tn_safetensors *file, const tn_adapter_load_options *options,
                              tn_adapter_load_report *report) {
    bool *seen = tn_calloc((size_t)adapter->params.count + 1, 1);
    tn_status status = TN_OK;
    if (!seen)
        return tn_fail_memory("the adapter");
    for (size_t i = 0; i < file->count; i++) {
        const tn_safetensors_entry *entry = &file->entries[i];
        const char *name = entry->name;
        if (strncmp(name, PREFIX, sizeof PREFIX - 1) == 0)
            name += sizeof PREFIX - 1;
        tn_param *param = find_param(adapter, name);
        const tn_module *frozen = param ? NULL : frozen_copy_of(adapter, name);
        if (param && seen[param - adapter->params.entries]) {
            status = tn_fail(TN_ERROR_MISMATCH, "%s: '%s' is there twice, under two spellings", file->path, param->name);
            goto fail;
        } else if (param) {
            TN_TRY_GOTO(fill_param(file->path, entry, param));
            seen[param - adapter->params.entries] = true;
            report->tensors++;
        } else if (frozen) {
            if (!options->allow_partial)
                TN_TRY_GOTO(check_frozen_copy(adapter, file->path, entry, frozen));
        } else if (!is_tied_copy(adapter, name) && !is_batch_count(name)) {
            report->unexpected++;
            if (!options->allow_partial) {
                status = fail_unexpected(adapter, file->path, name);
                goto fail;
            }
        }
    }
    for (int64_t i = 0; i < adapter->params.count; i++) {
        if (seen[i])
            continue;
        report->missing++;
        if (!options->allow_partial) {
            status = tn_fail(TN_ERROR_MISMATCH, "%s: no tensor '%s%s', which the configuration calls for", file->path,
                             PREFIX, adapter->params.entries[i].name);
            goto fail;
        }
    }
fail:
    tn_free(seen);
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
    status = open_tensors(dir, &file);
    if (status != TN_OK) {
        tn_peft_config_free(&config);
        return status;
    }
    const tn_peft_method *method = tn_peft_method_by_type(config.peft_type);
    status = tn_adapter_create(model, method, &config, options->trainable, 0, &adapter);
    if (status != TN_OK) {
        tn_fail_context(status, "%s", dir);
        goto fail;
    }
    TN_TRY_GOTO(read_tensors(adapter, &file, options, report));
    for (int64_t i = 0; i < adapter->slot_count; i++)
        if (adapter->slots[i].method && adapter->slots[i].method->loaded)
            TN_TRY_GOTO(adapter->slots[i].method->loaded(adapter, adapter->slots[i].slot, adapter->slots[i].module));
    tn_safetensors_close(&file);
    *out = adapter;
    return TN_OK;
fail:
    tn_safetensors_close(&file);
    tn_adapter_free(adapter);
    return status;
}

/* --- saving --- */

/* The slot whose A or B a parameter is, when its initialisation reduced the base; NULL otherwise. */
static const tn_lora_slot *reduced_slot(const tn_adapter *adapter, const tn_param *param, bool *is_a) {
    if (!adapter->config.init || !tn_lora_init_reduces_base(adapter->config.init))
        return NULL;
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_lora_slot *slot = (const tn_lora_slot *)adapter->slots[i].slot;
        if (adapter->slots[i].method != &tn_lora || !slot->a0.tensor.data)
            continue;
        if (param->weight == &slot->a || param->weight == &slot->b) {
            *is_a = param->weight == &slot->a;
            return slot;
        }
    }
    return NULL;
}

/* A' = [A; A0], B' = [B, -B0]. */
static tn_status write_doubled(tn_safetensors_writer *writer, const tn_lora_slot *slot, bool is_a) {
    const tn_tensor *now = is_a ? &slot->a.tensor : &slot->b.tensor, *start = is_a ? &slot->a0.tensor : &slot->b0.tensor;
    if (is_a) {
        TN_TRY(tn_safetensors_writer_data(writer, now->data, tn_tensor_bytes(now)));
        return tn_safetensors_writer_data(writer, start->data, tn_tensor_bytes(start));
    }
    int64_t rank = now->shape[1];
    float *row = tn_malloc((size_t)rank * 2 * sizeof *row);
    tn_status status = row ? TN_OK : tn_fail_memory("the adapter");
    for (int64_t i = 0; i < now->shape[0] && status == TN_OK; i++) {
        memcpy(row, (const float *)now->data + i * rank, (size_t)rank * sizeof *row);
        for (int64_t r = 0; r < rank; r++)
            row[rank + r] = -((const float *)start->data)[i * rank + r];
        status = tn_safetensors_writer_data(writer, row, rank * 2 * (int64_t)sizeof *row);
    }
    tn_free(row);
    return status;
}

/* The saved embedding that a head still follows; PEFT writes it under both names. NULL when there is none. */
static const tn_param *embedding_of_tied_head(const tn_adapter *adapter) {
    const tn_module *head = adapter->model->head;
    for (int64_t i = 0; i < adapter->params.count && adapter->config.ensure_weight_tying && head && head->tied; i++)
        if (adapter->params.entries[i].weight == &head->tied->weight)
            return &adapter->params.entries[i];
    return NULL;
}

static tn_status declare_tensors(const tn_adapter *adapter, tn_safetensors_writer *writer) {
    char name[600];
    for (int64_t i = 0; i < adapter->params.count; i++) {
        const tn_param *param = &adapter->params.entries[i];
        tn_tensor tensor = param->weight->tensor;
        bool is_a;
        if (reduced_slot(adapter, param, &is_a))
            tensor.shape[is_a ? 0 : 1] *= 2;
        snprintf(name, sizeof name, "%s%s", PREFIX, param->name);
        TN_TRY(tn_safetensors_writer_declare(writer, name, TN_DTYPE_F32, tensor.ndim, tensor.shape));
    }
    const tn_param *embedding = embedding_of_tied_head(adapter);
    if (embedding) {
        snprintf(name, sizeof name, "%s%s.weight", PREFIX, adapter->model->head->name);
        TN_TRY(tn_safetensors_writer_declare(writer, name, TN_DTYPE_F32, 2, embedding->weight->tensor.shape));
    }
    return TN_OK;
}

/* From the store: while the adapter is off, a replaced module's weight is the base's again. */
static tn_status write_param(const tn_adapter *adapter, tn_safetensors_writer *writer, const tn_param *param) {
    return tn_safetensors_writer_data(writer, adapter->params.values + param->offset, param->count * (int64_t)sizeof(float));
}

static tn_status write_tensors(const tn_adapter *adapter, tn_safetensors_writer *writer) {
    TN_TRY(tn_safetensors_writer_metadata(writer, "format", "pt"));
    TN_TRY(declare_tensors(adapter, writer));
    TN_TRY(tn_safetensors_writer_begin(writer));
    for (int64_t i = 0; i < adapter->params.count; i++) {
        const tn_param *param = &adapter->params.entries[i];
        bool is_a;
        const tn_lora_slot *reduced = reduced_slot(adapter, param, &is_a);
        if (reduced)
            TN_TRY(write_doubled(writer, reduced, is_a));
        else
            TN_TRY(write_param(adapter, writer, param));
    }
    const tn_param *embedding = embedding_of_tied_head(adapter);
    return embedding ? write_param(adapter, writer, embedding) : TN_OK;
}

/* The configuration that belongs to doubled factors: twice the rank, and the alpha that keeps the scaling. */
static tn_peft_config saved_config(const tn_adapter *adapter, tn_arena *scratch) {
    tn_peft_config config = adapter->config;
    if (!tn_lora_init_reduces_base(config.init))
        return config;
    double alpha_factor = config.use_rslora ? sqrt(2.0) : 2.0;
    config.init = "kaiming";
    config.rank *= 2;
    config.alpha *= alpha_factor;
    tn_pattern *ranks = tn_arena_array(scratch, config.rank_pattern_count + 1, sizeof *ranks);
    tn_pattern *alphas = tn_arena_array(scratch, config.alpha_pattern_count + 1, sizeof *alphas);
    for (size_t i = 0; i < config.rank_pattern_count && ranks; i++)
        ranks[i] = (tn_pattern){config.rank_pattern[i].key, config.rank_pattern[i].value * 2};
    for (size_t i = 0; i < config.alpha_pattern_count && alphas; i++)
        alphas[i] = (tn_pattern){config.alpha_pattern[i].key, config.alpha_pattern[i].value * alpha_factor};
    config.rank_pattern = ranks;
    config.alpha_pattern = alphas;
    return config;
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
    tn_peft_config config = saved_config(adapter, &scratch);
    status = tn_peft_config_print(&config, &text);
    if (status == TN_OK)
        status = tn_file_write(path, text.data, text.length);
    tn_buf_free(&text);
    tn_arena_free(&scratch);
    return status;
}
