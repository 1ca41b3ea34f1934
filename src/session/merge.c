/* Merging an adapter into its base as a checkpoint on disk, and taking it out again. Sums are in f32; one
 * rounding to the stored type follows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "session/merge_parts.h"

/* Elements of the largest tensor of the merged modules and of what the checkpoint holds besides. */
static int64_t largest_tensor(const tn_model *model) {
    const tn_network *network = model->network;
    int64_t most = 1;
    for (int64_t i = 0; i < network->module_count; i++) {
        const tn_tensor merged = tn_adapter_merged_shape(model->adapter, &network->modules[i]);
        int64_t count = tn_tensor_count(&merged);
        most = count > most ? count : most;
    }
    for (size_t f = 0; f < network->checkpoint.file_count; f++) {
        const tn_safetensors *file = &network->checkpoint.files[f];
        for (size_t e = 0; e < file->count; e++) {
            int64_t count = tn_tensor_count(&file->entries[e].tensor);
            most = count > most ? count : most;
        }
    }
    return most;
}

/* Tensors are written as the checkpoint has them; not so when there is none, or its weights are codes. */
static bool follows_files(const tn_network *network) {
    const tn_checkpoint *checkpoint = &network->checkpoint;
    for (size_t i = 0; checkpoint->gguf && i < checkpoint->files[0].count; i++)
        if (checkpoint->files[0].entries[i].tensor.dtype == TN_DTYPE_QUANTISED)
            return false;
    return checkpoint->file_count > 0 && !network->quantised;
}

/* A model made from a config.json alone has no stored type to keep, nor has one of codes: the one that config.json names is
 * meant. */
static const char *named_dtype(const tn_model *model) {
    static const char *const names[][2] = {{"float32", "f32"}, {"bfloat16", "bf16"}, {"float16", "f16"}};
    const cJSON *json = model->network->json, *named = tn_json_get(json, "dtype");
    named = named ? named : tn_json_get(json, "torch_dtype");
    for (int i = 0; i < 3; i++)
        if (cJSON_IsString(named) && strcmp(named->valuestring, names[i][0]) == 0)
            return names[i][1];
    return "keep";
}

static tn_status merger_init(tn_merger *m, tn_model *model, const char *dtype, int direction) {
    bool keep = !dtype || strcmp(dtype, "keep") == 0;
    if (keep && !follows_files(model->network))
        dtype = named_dtype(model);
    *m = (tn_merger){.model = model, .direction = direction, .keep_dtype = !dtype || strcmp(dtype, "keep") == 0};
    if (!m->keep_dtype && (!tn_dtype_from_name(dtype, &m->dtype) || m->dtype > TN_DTYPE_BF16))
        return tn_fail(TN_ERROR_ARGUMENT, "dtype '%s' is not one of keep, f32, bf16, f16", dtype);
    m->scratch = largest_tensor(model);
    size_t most = (size_t)m->scratch;
    m->weight = tn_pages_alloc(most * sizeof(float));
    m->bias = tn_pages_alloc(most * sizeof(float));
    m->original = tn_pages_alloc(most * sizeof(float));
    m->stored = tn_pages_alloc(most * sizeof(float));
    return m->weight && m->bias && m->original && m->stored ? TN_OK : tn_fail_memory("the merged weights");
}

static void merger_free(tn_merger *m) {
    size_t bytes = (size_t)m->scratch * sizeof(float);
    tn_pages_free(m->weight, bytes);
    tn_pages_free(m->bias, bytes);
    tn_pages_free(m->original, bytes);
    tn_pages_free(m->stored, bytes);
    tn_free(m->factors);
}

/* What is replaced whole cannot be found again from the adapter, nor can what was computed from a base that is not there. */
static tn_status check_can_unmerge(const tn_adapter *adapter) {
    const tn_peft_method *method = adapter->method;
    if (adapter->replaced_count && !adapter->replaced[0].quantised)
        return tn_fail(
            TN_ERROR_UNSUPPORTED,
            "this adapter replaced '%s' in full (modules_to_save or bias), so the base's own weights cannot be restored "
            "from it; use the base that it was trained on",
            adapter->replaced[0].module->name);
    if (adapter->config.token_rows_count)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "this adapter replaced rows of the embedding (trainable_token_indices), so the base's "
                       "own cannot be restored from it; use the base that it was trained on");
    if (!method->subtractable && !method->unmerge)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s changes weights in a way that cannot be undone from the merged ones; use the base that it was "
                       "trained on",
                       method->name);
    return method->check_unmerge ? method->check_unmerge(adapter) : TN_OK;
}

/* What scales the base's input leaves alone what another method adds; merged, it would scale both. */
static tn_status check_inputs(const tn_adapter *adapter) {
    for (const tn_adapter *one = adapter; one; one = one->next)
        for (const tn_adapter *other = adapter; other; other = other->next)
            if (one->weight != 0 && other->weight != 0 && one->method != other->method && one->method &&
                one->method->hooks.input)
                return tn_fail(TN_ERROR_UNSUPPORTED,
                               "%s cannot be merged together with adapters of other methods; merge one after the other",
                               one->method->name);
    return TN_OK;
}

static tn_status check_keeps_groups(const tn_model *model) {
    for (int64_t i = 0; i < model->network->module_count; i++)
        if (tn_adapter_widens(model->adapter, &model->network->modules[i]))
            return tn_fail(TN_ERROR_MISMATCH,
                           "nothing was merged into this model: its convolution '%s' is still in groups, and would not be",
                           model->network->modules[i].name);
    return TN_OK;
}

tn_status tn_session_check_can_merge(const tn_adapter *adapter) {
    TN_TRY(check_inputs(adapter));
    for (; adapter; adapter = adapter->next)
        if (adapter->method && adapter->method->check_merge)
            TN_TRY(adapter->method->check_merge(adapter));
    return TN_OK;
}

static tn_status check_layers_are_separate(const tn_adapter *adapter) {
    for (; adapter; adapter = adapter->next)
        if (adapter->config.replication_count)
            return tn_fail(TN_ERROR_UNSUPPORTED,
                           "an adapter with layer_replication cannot be merged, since its layers share weights");
    return TN_OK;
}

/* In the checkpoint that is read; what merging adds is like the embedding there. */
static tn_dtype stored_dtype(const tn_merger *m, const tn_output_tensor *t) {
    const tn_network *d = m->model->network;
    const tn_tensor *embedding = d->embedding ? tn_network_stored(d, d->embedding->name, "weight") : NULL;
    const tn_tensor *like = t->source ? t->source : embedding;
    return like && like->dtype != TN_DTYPE_QUANTISED ? like->dtype : TN_DTYPE_F32;
}

static tn_dtype output_dtype(const tn_merger *m, const tn_output_tensor *t) {
    tn_dtype stored = stored_dtype(m, t);
    return m->keep_dtype || !tn_dtype_is_float(stored) ? stored : m->dtype;
}

static const tn_tensor *shape_of(const tn_output_tensor *t) {
    if (t->wide.ndim)
        return &t->wide;
    if (t->source)
        return t->source;
    if (t->running)
        return t->running;
    return t->is_bias ? &t->module->bias.tensor : &tn_module_weight(t->module)->tensor;
}

static tn_status write_tensor(tn_merger *m, tn_safetensors_writer *writer, const tn_output_tensor *t) {
    tn_dtype dtype = output_dtype(m, t);
    const tn_tensor *shape = shape_of(t);
    int64_t count = tn_tensor_count(shape);
    const tn_adapter *adapter = m->model->adapter;
    bool changed = t->module && adapter && tn_adapter_changes(adapter, t->module);
    if (!changed && t->source && t->source->dtype == dtype)
        return tn_safetensors_writer_data(writer, t->source->data, tn_tensor_bytes(t->source));
    const float *values = m->weight;
    if (t->running)
        values = t->running->data;
    else if (changed)
        TN_TRY(tn_merger_values(m, t, &values));
    else
        tn_tensor_read(m->weight, shape, 0, count);
    m->model->kernels->from_f32(m->stored, dtype, values, count);
    const tn_tensor stored = {.dtype = dtype, .ndim = 1, .shape = {count}, .data = m->stored};
    int64_t bad = tn_tensor_first_nonfinite(&stored);
    if (bad >= 0)
        return tn_fail(TN_ERROR_NUMERIC, "'%s': the value %g at element %lld does not fit %s; choose another dtype", t->name,
                       (double)values[bad], (long long)bad, tn_dtype_name(dtype));
    tn_merger_note_rounding(m, values, changed && m->direction < 0 ? m->original : NULL, stored_dtype(m, t), dtype, count);
    m->modules += changed && !t->is_bias && !t->running && tn_adapter_has(adapter, t->module);
    return tn_safetensors_writer_data(writer, m->stored, count * tn_dtype_size(dtype));
}

/* Fills what a stored tensor is to the model, if it is anything. */
static void find_module(const tn_model *model, const char *stored, tn_output_tensor *t) {
    tn_module *module;
    int part;
    if (!tn_network_find_part(model->network, stored, &module, &part))
        return;
    if (part == 0 && tn_adapter_widens(model->adapter, module))
        t->wide = tn_adapter_merged_shape(model->adapter, module);
    t->module = module;
    t->is_bias = part == 1;
    t->running = part > 1 ? &tn_module_part(module, part)->tensor : NULL;
}

/* What a merged model has and the base has not: a bias from lora_bias, a head that no longer follows the embedding. */
static bool head_comes_apart(const tn_model *model) {
    const tn_network *d = model->network;
    const tn_adapter *adapter = model->adapter;
    if (!d->tied || !adapter)
        return false;
    bool separate = !d->head->tied, follows = true;
    for (; adapter; adapter = adapter->next)
        for (int64_t i = 0; i < adapter->slot_count; i++)
            if ((adapter->slots[i].module == d->head || adapter->slots[i].module == d->embedding) &&
                adapter->slots[i].method)
                follows = false;
    return separate || !follows;
}

static tn_status check_new_biases(tn_merger *m) {
    const tn_network *d = m->model->network;
    for (int64_t i = 0; i < d->module_count && m->model->adapter; i++) {
        const tn_module *module = &d->modules[i];
        bool has_bias = module->has_bias;
        if (module->kind == TN_MODULE_NORM || !tn_adapter_changes(m->model->adapter, module) || module->has_bias)
            continue;
        TN_TRY(tn_adapter_merged_weight(m->model->adapter, module, m->weight, m->bias, &has_bias));
        if (has_bias)
            return tn_fail(
                TN_ERROR_UNSUPPORTED,
                "lora_bias gives '%s' a bias, which this architecture has no place for; keep the adapter unmerged",
                module->name);
    }
    return TN_OK;
}

static tn_status write_file(tn_merger *m, const char *path, const tn_output_tensor *tensors, size_t count, int64_t *bytes) {
    tn_safetensors_writer *writer;
    TN_TRY(tn_safetensors_writer_new(&writer, path));
    tn_status status;
    TN_TRY_GOTO(tn_safetensors_writer_metadata(writer, "format", "pt"));
    for (size_t i = 0; i < count; i++) {
        const tn_tensor *shape = shape_of(&tensors[i]);
        if (!tensors[i].name) {
            status = tn_fail_memory("the names of tensors");
            goto fail;
        }
        TN_TRY_GOTO(
            tn_safetensors_writer_declare(writer, tensors[i].name, output_dtype(m, &tensors[i]), shape->ndim, shape->shape));
        *bytes += tn_tensor_count(shape) * tn_dtype_size(output_dtype(m, &tensors[i]));
    }
    TN_TRY_GOTO(tn_safetensors_writer_begin(writer));
    for (size_t i = 0; i < count; i++)
        TN_TRY_GOTO(write_tensor(m, writer, &tensors[i]));
    return tn_safetensors_writer_finish(writer);
fail:
    tn_safetensors_writer_abort(writer);
    return status;
}

static const char *const head_weight = "lm_head.weight";

/* A tensor may lie in a shard that the index does not name for it; then it is no part of the checkpoint. */
static bool is_indexed(const tn_network *network, const tn_safetensors_entry *entry) {
    return tn_checkpoint_find(&network->checkpoint, entry->name) == &entry->tensor;
}

/* transformers reads names without the family's prefix only where all lack it; that of a head never has one. */
static const char *output_name(const tn_network *network, const char *name, bool with_head, tn_arena *names) {
    return with_head && network->bare ? tn_arena_printf(names, "%s%s", network->optional_prefix, name) : name;
}

/* Appends a file's tensors, in its order, to `list`. A tied head that is stored all the same stays what it was for the
 * model: the embedding. */
static size_t list_file(const tn_model *model, const tn_safetensors *file, bool with_head, tn_output_tensor *list,
                        tn_arena *names) {
    const tn_network *network = model->network;
    size_t count = 0;
    for (size_t e = 0; e < file->count; e++) {
        const tn_safetensors_entry *entry = &file->entries[e];
        if (!is_indexed(network, entry))
            continue;
        tn_output_tensor *t = &list[count++];
        *t = (tn_output_tensor){.name = output_name(network, entry->name, with_head, names), .source = &entry->tensor};
        find_module(model, entry->name, t);
        if (t->module == network->head && network->tied)
            t->source = NULL;
    }
    return count;
}

static void append_created(const tn_model *model, const char *name, tn_module *module, int part, tn_output_tensor *list,
                           size_t *count) {
    tn_output_tensor *t = &list[(*count)++];
    *t = (tn_output_tensor){.name = name, .module = module, .is_bias = part == 1};
    if (part > 1)
        t->running = &tn_module_part(module, part)->tensor;
    if (part == 0 && tn_adapter_widens(model->adapter, module))
        t->wide = tn_adapter_merged_shape(model->adapter, module);
}

static size_t list_created(const tn_model *model, tn_output_tensor *list, tn_arena *names) {
    const tn_network *network = model->network;
    size_t count = 0;
    for (int64_t i = 0; i < network->module_count; i++)
        for (int part = 0; part < TN_MODULE_PARTS; part++) {
            tn_module *module = &network->modules[i];
            const char *name = tn_arena_printf(names, "%s.%s", module->name, tn_module_part_name(part));
            if (tn_module_part(module, part))
                append_created(model, name, module, part, list, &count);
        }
    return count;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static tn_status write_index(const tn_network *network, const char *dir, bool with_head, int64_t bytes) {
    char path[TN_PATH_MAX];
    tn_buf text = {0};
    tn_arena names = {0};
    cJSON *index = cJSON_CreateObject(), *metadata = cJSON_AddObjectToObject(index, "metadata");
    cJSON *map = cJSON_AddObjectToObject(index, "weight_map");
    cJSON_AddNumberToObject(metadata, "total_size", (double)bytes);
    const char *last = "";
    for (size_t f = 0; f < network->checkpoint.file_count; f++) {
        const tn_safetensors *file = &network->checkpoint.files[f];
        last = base_name(file->path);
        for (size_t e = 0; e < file->count; e++)
            if (is_indexed(network, &file->entries[e]))
                cJSON_AddStringToObject(map, output_name(network, file->entries[e].name, with_head, &names), last);
    }
    if (with_head)
        cJSON_AddStringToObject(map, head_weight, last);
    tn_json_print(&text, index, true);
    tn_buf_putc(&text, '\n');
    cJSON_Delete(index);
    tn_arena_free(&names);
    tn_status status = tn_buf_status(&text);
    if (status == TN_OK)
        status = tn_path_join(path, dir, "model.safetensors.index.json");
    if (status == TN_OK)
        status = tn_file_write(path, text.data, text.length);
    tn_buf_free(&text);
    return status;
}

static bool writes_shards(const tn_network *network) {
    return network->checkpoint.sharded && follows_files(network);
}

static tn_status write_weights(tn_merger *m, const char *dir, bool with_head) {
    const tn_network *d = m->model->network;
    char path[TN_PATH_MAX];
    size_t most = (size_t)d->module_count * TN_MODULE_PARTS + 2;
    int64_t bytes = 0;
    tn_arena names = {0};
    tn_status status = TN_OK;
    for (size_t f = 0; f < d->checkpoint.file_count; f++)
        most += d->checkpoint.files[f].count;
    tn_output_tensor *list = tn_calloc(most, sizeof *list);
    if (!list)
        return tn_fail_memory("the list of tensors");
    size_t files = follows_files(d) ? d->checkpoint.file_count : 1;
    for (size_t f = 0; f < files; f++) {
        bool from_disk = follows_files(d);
        size_t count = from_disk ? list_file(m->model, &d->checkpoint.files[f], with_head, list, &names)
                                 : list_created(m->model, list, &names);
        const char *name = from_disk && !d->checkpoint.gguf ? base_name(d->checkpoint.files[f].path) : "model.safetensors";
        if (with_head && f + 1 == files)
            list[count++] = (tn_output_tensor){.name = head_weight, .module = d->head};
        TN_TRY_GOTO(tn_path_join(path, dir, name));
        TN_TRY_GOTO(write_file(m, path, list, count, &bytes));
    }
    if (writes_shards(d))
        status = write_index(d, dir, with_head, bytes);
fail:
    tn_arena_free(&names);
    tn_free(list);
    return status;
}

/* In the layers of a sequential model whose merged weight has none. */
static void drop_groups(const tn_model *model, cJSON *json) {
    for (int64_t i = 0; model->sequential && i < model->sequential->config.count; i++) {
        const tn_module *module = model->sequential->config.layers[i].module;
        cJSON *layers = cJSON_GetObjectItemCaseSensitive(json, "layers");
        if (module && tn_adapter_widens(model->adapter, module))
            cJSON_ReplaceItemInObjectCaseSensitive(cJSON_GetArrayItem(layers, (int)i), "groups", cJSON_CreateNumber(1));
    }
}

static tn_status write_config(const tn_merger *m, const char *dir, bool untied) {
    static const char *const torch_names[] = {"float32", "float16", "bfloat16"};
    cJSON *json = cJSON_Duplicate(m->model->network->json, true);
    if (!json)
        return tn_fail_memory("config.json");
    if (untied) {
        cJSON_DeleteItemFromObjectCaseSensitive(json, "tie_word_embeddings");
        cJSON_AddFalseToObject(json, "tie_word_embeddings");
    }
    drop_groups(m->model, json);
    cJSON_DeleteItemFromObjectCaseSensitive(json, "quantization_config");
    if (!m->keep_dtype) {
        const char *key = tn_json_get(json, "dtype") ? "dtype" : "torch_dtype";
        cJSON_DeleteItemFromObjectCaseSensitive(json, key);
        cJSON_AddStringToObject(json, key, torch_names[m->dtype]);
    }
    tn_status status = tn_session_write_json(dir, "config.json", json);
    cJSON_Delete(json);
    return status;
}

static bool same_folder(const char *one, const char *other) {
    char mine[TN_PATH_MAX], theirs[TN_PATH_MAX];
    const char *a = realpath(one, mine), *b = realpath(other, theirs);
    return a && b && strcmp(a, b) == 0;
}

/* The folder of a GGUF file, or the model's own. */
static const char *folder_of(const tn_network *network, char folder[TN_PATH_MAX]) {
    snprintf(folder, TN_PATH_MAX, "%s", network->dir);
    if (!network->checkpoint.gguf)
        return folder;
    char *slash = strrchr(folder, '/');
    if (!slash)
        return ".";
    slash[slash == folder] = 0;
    return folder;
}

tn_status tn_session_check_output(const tn_model *model, const char *dir, bool sharded) {
    char path[TN_PATH_MAX], own[TN_PATH_MAX];
    if (same_folder(folder_of(model->network, own), dir))
        return tn_fail(TN_ERROR_ARGUMENT, "%s is the model's own folder; choose another one for the output", dir);
    if (model->adapter_dir && same_folder(model->adapter_dir, dir))
        return tn_fail(TN_ERROR_ARGUMENT, "%s is the adapter's folder; choose another one for the output", dir);
    TN_TRY(tn_path_join(path, dir, sharded ? "model.safetensors" : "model.safetensors.index.json"));
    if (tn_path_exists(path))
        return tn_fail(TN_ERROR_ARGUMENT,
                       "%s belongs to another checkpoint; remove it or choose another folder for the output", path);
    return TN_OK;
}

static uint64_t output_bytes(const tn_merger *m) {
    const tn_network *d = m->model->network;
    return (uint64_t)(m->keep_dtype ? tn_network_bytes(d) : tn_network_parameters(d) * tn_dtype_size(m->dtype));
}

/* What is merged is the adapter, whether it acts at the moment or not. */
bool tn_session_switch_on(tn_model *model) {
    bool was_on = model->adapter && model->adapter->enabled;
    tn_model_enable_adapter(model, true);
    return was_on;
}

tn_status tn_session_write_checkpoint(tn_model *model, const char *dir, const char *dtype, int direction,
                                      tn_merge_report *report) {
    tn_merger m;
    bool was_on = tn_session_switch_on(model);
    tn_status status = merger_init(&m, model, dtype, direction);
    bool untied = head_comes_apart(model);
    if (status != TN_OK)
        goto fail;
    TN_TRY_GOTO(tn_session_check_can_merge(model->adapter));
    TN_TRY_GOTO(check_layers_are_separate(model->adapter));
    for (const tn_adapter *one = model->adapter; one && direction < 0; one = one->next)
        TN_TRY_GOTO(check_can_unmerge(one));
    if (direction < 0) {
        TN_TRY_GOTO(check_keeps_groups(model));
        TN_TRY_GOTO(tn_merger_read_kept(&m));
    }
    TN_TRY_GOTO(tn_dir_create(dir));
    TN_TRY_GOTO(tn_session_check_output(model, dir, writes_shards(model->network)));
    TN_TRY_GOTO(tn_dir_check_writable(dir));
    TN_TRY_GOTO(tn_disk_check_free(dir, output_bytes(&m)));
    TN_TRY_GOTO(check_new_biases(&m));
    TN_TRY_GOTO(tn_merger_write_kept(&m, dir));
    TN_TRY_GOTO(write_weights(&m, dir, untied && !tn_checkpoint_find(&model->network->checkpoint, head_weight)));
    TN_TRY_GOTO(write_config(&m, dir, untied));
    TN_TRY_GOTO(tn_session_copy_words(model, dir));
    if (report)
        *report = (tn_merge_report){.modules = m.modules, .largest_rounding = m.largest_rounding};
fail:
    merger_free(&m);
    tn_model_enable_adapter(model, was_on);
    return status;
}

double tn_session_largest_difference(const float *a, const float *b, int64_t count) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)a[i] - b[i]));
    return largest;
}

/* Reads back what was written and compares it with the model in memory on the probe. */
static tn_status compare_with_written(tn_model *model, const char *dir, double *difference) {
    tn_model *written = NULL;
    float *before = NULL, *after = NULL;
    int64_t count;
    tn_status status;
    TN_TRY_GOTO(tn_session_probe_logits(model, &before, &count));
    TN_TRY_GOTO(tn_model_load(dir, &written));
    TN_TRY_GOTO(tn_session_probe_logits(written, &after, &count));
    *difference = tn_session_largest_difference(before, after, count);
fail:
    tn_model_free(written);
    tn_free(before);
    tn_free(after);
    return status;
}

tn_status tn_model_merge(tn_model *model, const char *dir, const char *dtype, tn_merge_report *report) {
    tn_merge_report unused;
    report = report ? report : &unused;
    if (!model->adapter)
        return tn_fail(TN_ERROR_ARGUMENT, "the model has no adapter to merge");
    bool was_on = tn_session_switch_on(model);
    tn_status status = tn_session_write_checkpoint(model, dir, dtype, 1, report);
    if (status == TN_OK)
        status = compare_with_written(model, dir, &report->logit_difference);
    tn_model_enable_adapter(model, was_on);
    return status;
}

tn_status tn_model_unmerge(tn_model *model, const char *dir, const char *dtype, tn_merge_report *report) {
    tn_merge_report unused;
    report = report ? report : &unused;
    if (!model->adapter)
        return tn_fail(TN_ERROR_ARGUMENT, "the model has no adapter to take out");
    TN_TRY(tn_session_write_checkpoint(model, dir, dtype, -1, report));
    /* merged weights alone against restored base + adapter, which was let in already and so is again */
    tn_model *restored = NULL;
    float *before = NULL, *after = NULL;
    int64_t count;
    tn_status status;
    tn_model_enable_adapter(model, false);
    TN_TRY_GOTO(tn_session_probe_logits(model, &before, &count));
    TN_TRY_GOTO(tn_model_load(dir, &restored));
    if (model->adapter_dir)
        TN_TRY_GOTO(tn_model_load_adapter(restored, model->adapter_dir, false, true));
    TN_TRY_GOTO(tn_session_probe_logits(restored, &after, &count));
    report->logit_difference = tn_session_largest_difference(before, after, count);
fail:
    tn_model_enable_adapter(model, true);
    tn_model_free(restored);
    tn_free(before);
    tn_free(after);
    return status;
}

tn_status tn_model_save_adapter(const tn_model *model, const char *dir) {
    if (!model->adapter)
        return tn_fail(TN_ERROR_ARGUMENT, "the model has no adapter to save");
    if (model->adapter->method)
        return tn_adapter_save_all(model->adapter, dir);
    return tn_session_write_checkpoint((tn_model *)(uintptr_t)model, dir, "keep", 1, NULL);
}
