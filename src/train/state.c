/* Writing, finding and reading checkpoints of a run. */
#include "train/state.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/format.h"

enum { NAME_SIZE = 640 };

static tn_status checkpoint_folder(const char *out_dir, char path[TN_PATH_MAX]) {
    return tn_path_join(path, out_dir, "checkpoints");
}

int64_t tn_train_state_bytes(const tn_adapter *adapter, tn_optimizer_kind kind) {
    int64_t bytes = (1 << 20) + tn_optimizer_bytes(&adapter->params, kind);
    for (int64_t i = 0; i < adapter->params.count; i++)
        bytes += adapter->params.entries[i].count * (int64_t)sizeof(float) + 1024;
    for (int64_t i = 0; i < adapter->constants.count; i++)
        bytes += adapter->constants.entries[i].count * (int64_t)sizeof(float) + 512;
    return bytes;
}

static tn_status write_metadata(tn_safetensors_writer *writer, const tn_train_state *state) {
    char text[64];
    snprintf(text, sizeof text, "%" PRId64, state->step);
    TN_TRY(tn_safetensors_writer_metadata(writer, "step", text));
    snprintf(text, sizeof text, "%016" PRIx64, state->data_hash);
    TN_TRY(tn_safetensors_writer_metadata(writer, "data_hash", text));
    snprintf(text, sizeof text, "%" PRId64, state->metrics_bytes);
    TN_TRY(tn_safetensors_writer_metadata(writer, "metrics_bytes", text));
    TN_TRY(tn_safetensors_writer_metadata(writer, "best_valid_loss", tn_format_double(text, state->best_valid_loss)));
    snprintf(text, sizeof text, "%" PRId64, state->best_valid_step);
    TN_TRY(tn_safetensors_writer_metadata(writer, "best_valid_step", text));
    TN_TRY(tn_safetensors_writer_metadata(writer, "settings", state->settings));
    return tn_safetensors_writer_metadata(writer, "config", state->config ? state->config : "");
}

/* What a checkpoint holds of each parameter. */
enum { PARTS = 5 };
static const char *const parts[PARTS] = {"param", "exp_avg", "exp_avg_sq", "exp_avg_absmax", "exp_avg_sq_absmax"};

/* Part `part` of parameter i as a tensor and its name; false when the parameter does not have it. */
static bool part_of(const tn_adapter *adapter, const tn_optimizer *optimizer, int part, int64_t i, tn_tensor *out,
                    char name[NAME_SIZE]) {
    const tn_param *param = &adapter->params.entries[i];
    const tn_moments *moments = &optimizer->moments[i];
    const tn_moments8 *codes = &moments->codes;
    void *const data[PARTS] = {adapter->params.values + param->offset, moments->m ? (void *)moments->m : codes->m,
                               moments->v ? (void *)moments->v : codes->v, codes->m_absmax, codes->v_absmax};
    *out = param->weight->tensor;
    out->data = data[part];
    if (part > 2)
        *out = (tn_tensor){TN_DTYPE_F32, 1, {tn_moment_blocks(param->count)}, data[part]};
    else if (part > 0 && !moments->m)
        out->dtype = TN_DTYPE_U8;
    snprintf(name, NAME_SIZE, "%s.%s", parts[part], param->name);
    return out->data;
}

static tn_status write_state(tn_safetensors_writer *writer, const tn_adapter *adapter, const tn_optimizer *optimizer,
                             const tn_train_state *state) {
    char name[NAME_SIZE];
    tn_tensor tensor;
    TN_TRY(write_metadata(writer, state));
    for (int part = 0; part < PARTS; part++)
        for (int64_t i = 0; i < adapter->params.count; i++)
            if (part_of(adapter, optimizer, part, i, &tensor, name))
                TN_TRY(tn_safetensors_writer_declare(writer, name, tensor.dtype, tensor.ndim, tensor.shape));
    const tn_params *constants = &adapter->constants;
    for (int64_t i = 0; i < constants->count; i++) {
        const tn_tensor *constant = &constants->entries[i].weight->tensor;
        snprintf(name, sizeof name, "constant.%s", constants->entries[i].name);
        TN_TRY(tn_safetensors_writer_declare(writer, name, TN_DTYPE_F32, constant->ndim, constant->shape));
    }
    TN_TRY(tn_safetensors_writer_begin(writer));
    for (int part = 0; part < PARTS; part++)
        for (int64_t i = 0; i < adapter->params.count; i++)
            if (part_of(adapter, optimizer, part, i, &tensor, name))
                TN_TRY(tn_safetensors_writer_data(writer, tensor.data, tn_tensor_bytes(&tensor)));
    for (int64_t i = 0; i < constants->count; i++)
        TN_TRY(tn_safetensors_writer_data(writer, constants->values + constants->entries[i].offset,
                                          constants->entries[i].count * (int64_t)sizeof(float)));
    return TN_OK;
}

/* Steps of the checkpoints in a folder, newest first; *steps is freed by the caller. */
static tn_status list_checkpoints(const char *folder, int64_t **steps, size_t *count) {
    DIR *dir = opendir(folder);
    size_t capacity = 0;
    *steps = NULL;
    *count = 0;
    if (!dir)
        return TN_OK;
    tn_status status = TN_OK;
    for (struct dirent *entry; status == TN_OK && (entry = readdir(dir));) {
        long long step;
        char expected[64];
        if (sscanf(entry->d_name, "step-%lld.safetensors", &step) != 1)
            continue;
        snprintf(expected, sizeof expected, "step-%08lld.safetensors", step);
        if (strcmp(expected, entry->d_name) != 0)
            continue;
        if (*count == capacity) {
            capacity = capacity ? capacity * 2 : 16;
            int64_t *grown = tn_realloc_array(*steps, capacity, sizeof *grown);
            if (!grown) {
                status = tn_fail_memory("the list of checkpoints");
                break;
            }
            *steps = grown;
        }
        size_t at = (*count)++;
        for (; at > 0 && (*steps)[at - 1] < step; at--)
            (*steps)[at] = (*steps)[at - 1];
        (*steps)[at] = step;
    }
    closedir(dir);
    return status;
}

tn_status tn_train_state_count(const char *out_dir, int64_t *count) {
    char folder[TN_PATH_MAX];
    int64_t *steps;
    size_t found;
    TN_TRY(checkpoint_folder(out_dir, folder));
    tn_status status = list_checkpoints(folder, &steps, &found);
    tn_free(steps);
    *count = (int64_t)found;
    return status;
}

static tn_status checkpoint_path(const char *folder, int64_t step, char path[TN_PATH_MAX]) {
    char name[64];
    snprintf(name, sizeof name, "step-%08" PRId64 ".safetensors", step);
    return tn_path_join(path, folder, name);
}

/* Files that a killed process was writing: a name of ours, then tn_writer's ".tmp-PID". */
static bool is_leftover(const char *name) {
    static const char *const ours[] = {"step-", "adapter_", "model", "config", "report.html"};
    const char *mark = strstr(name, ".tmp-");
    bool known = false;
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        known = known || strncmp(name, ours[i], strlen(ours[i])) == 0;
    return known && mark && mark[5] && strspn(mark + 5, "0123456789") == strlen(mark + 5);
}

static tn_status remove_leftovers_of(const char *folder) {
    DIR *dir = opendir(folder);
    tn_status status = TN_OK;
    if (!dir)
        return TN_OK;
    for (struct dirent *entry; status == TN_OK && (entry = readdir(dir));) {
        char path[TN_PATH_MAX];
        if (!is_leftover(entry->d_name))
            continue;
        status = tn_path_join(path, folder, entry->d_name);
        if (status == TN_OK)
            status = tn_path_remove_tree(path);
    }
    closedir(dir);
    return status;
}

tn_status tn_train_state_remove_leftovers(const char *out_dir) {
    char folder[TN_PATH_MAX];
    TN_TRY(checkpoint_folder(out_dir, folder));
    TN_TRY(remove_leftovers_of(folder));
    return remove_leftovers_of(out_dir);
}

static tn_status remove_old(const char *folder, int64_t keep, int64_t newest) {
    int64_t *steps;
    size_t count;
    tn_status status = list_checkpoints(folder, &steps, &count);
    for (size_t i = (size_t)keep; i < count && status == TN_OK; i++) {
        char path[TN_PATH_MAX];
        if (steps[i] == newest)
            continue;
        status = checkpoint_path(folder, steps[i], path);
        if (status == TN_OK)
            status = tn_path_remove_tree(path);
    }
    tn_free(steps);
    return status;
}

tn_status tn_train_state_save(const char *out_dir, const tn_adapter *adapter, const tn_optimizer *optimizer,
                              const tn_train_state *state, int64_t keep) {
    char folder[TN_PATH_MAX], path[TN_PATH_MAX];
    tn_safetensors_writer *writer;
    TN_TRY(checkpoint_folder(out_dir, folder));
    TN_TRY(tn_dir_create(folder));
    TN_TRY(checkpoint_path(folder, state->step, path));
    TN_TRY(tn_safetensors_writer_new(&writer, path));
    tn_status status = write_state(writer, adapter, optimizer, state);
    if (status != TN_OK) {
        tn_safetensors_writer_abort(writer);
        return status;
    }
    TN_TRY(tn_safetensors_writer_finish(writer));
    return remove_old(folder, keep, state->step);
}

/* --- loading --- */

static const cJSON *first_changed(const cJSON *now, const cJSON *stored) {
    const cJSON *item;
    cJSON_ArrayForEach(item, now) {
        if (!cJSON_Compare(cJSON_GetObjectItemCaseSensitive(stored, item->string), item, true))
            return item;
    }
    return NULL;
}

static tn_status first_difference(const char *path, const char *stored_text, const char *now_text) {
    cJSON *all_stored = cJSON_Parse(stored_text), *all_now = cJSON_Parse(now_text);
    const cJSON *stored = all_stored, *now = all_now, *item = first_changed(now, stored);
    tn_buf was = {0}, is = {0};
    if (cJSON_IsObject(item) && cJSON_IsObject(tn_json_get(stored, item->string))) {
        stored = tn_json_get(stored, item->string);
        now = item;
        item = first_changed(now, stored);
    }
    item = item ? item : first_changed(stored, now);
    const char *name = item ? item->string : "something";
    const cJSON *old = item ? tn_json_get(stored, name) : NULL, *new = item ? tn_json_get(now, name) : NULL;
    if (old)
        tn_json_print(&was, old, false);
    if (new)
        tn_json_print(&is, new, false);
    tn_status status =
        tn_fail(TN_ERROR_MISMATCH,
                "%s was written with other settings: %s was %.200s and is now %.200s; use the same settings, "
                "another --out, or --resume-changed",
                path, name, was.length ? tn_buf_text(&was) : "absent", is.length ? tn_buf_text(&is) : "absent");
    tn_buf_free(&was);
    tn_buf_free(&is);
    cJSON_Delete(all_stored);
    cJSON_Delete(all_now);
    return status;
}

static tn_status check_unchanged(const tn_safetensors *file, const tn_train_state *now) {
    const char *hash = tn_safetensors_metadata(file, "data_hash"), *settings = tn_safetensors_metadata(file, "settings");
    char text[32];
    snprintf(text, sizeof text, "%016" PRIx64, now->data_hash);
    if (!hash || strcmp(hash, text) != 0)
        return tn_fail(TN_ERROR_MISMATCH,
                       "%s was written with other training data; use the same data, another --out, or --resume-changed",
                       file->path);
    if (!settings || strcmp(settings, now->settings) != 0)
        return first_difference(file->path, settings ? settings : "{}", now->settings);
    return TN_OK;
}

/* Fills `out` from the tensor of its name. */
static tn_status read_tensor(const tn_safetensors *file, const char *name, const tn_tensor *out) {
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    if (!entry || entry->tensor.dtype != out->dtype || !tn_tensor_same_shape(&entry->tensor, out))
        return tn_fail(TN_ERROR_MISMATCH, "%s: tensor '%s' is missing or of another shape", file->path, name);
    memcpy(out->data, entry->tensor.data, (size_t)tn_tensor_bytes(out));
    return TN_OK;
}

/* Moments in the other form are the likeliest reason why a type differs. */
static tn_status check_moments(const tn_safetensors *file, const char *name, const tn_tensor *moments) {
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    if (!entry || entry->tensor.dtype == moments->dtype)
        return TN_OK;
    bool has_codes = entry->tensor.dtype == TN_DTYPE_U8;
    return tn_fail(TN_ERROR_MISMATCH, "%s keeps the moments of the optimiser in %s, which this run does not; go on with %s",
                   file->path, has_codes ? "8 bits" : "f32", has_codes ? "the optimizer adamw8bit" : "the optimizer adamw");
}

static tn_status read_state(const tn_safetensors *file, tn_adapter *adapter, tn_optimizer *optimizer,
                            tn_train_state *state) {
    char name[NAME_SIZE];
    tn_tensor tensor;
    const char *step = tn_safetensors_metadata(file, "step"), *metrics = tn_safetensors_metadata(file, "metrics_bytes");
    const char *best = tn_safetensors_metadata(file, "best_valid_loss"),
               *best_step = tn_safetensors_metadata(file, "best_valid_step");
    if (!step || !metrics || !best || !best_step || !tn_parse_int(step, &state->step) || state->step < 1 ||
        !tn_parse_int(metrics, &state->metrics_bytes) || !tn_parse_int(best_step, &state->best_valid_step))
        return tn_fail(TN_ERROR_FORMAT, "%s is not a training checkpoint: its metadata lacks the step", file->path);
    if (!tn_parse_double(best, &state->best_valid_loss))
        state->best_valid_loss = NAN; /* no validation yet */
    for (int part = 0; part < PARTS; part++) {
        for (int64_t i = 0; i < adapter->params.count; i++) {
            if (!part_of(adapter, optimizer, part, i, &tensor, name))
                continue;
            if (part > 0)
                TN_TRY(check_moments(file, name, &tensor));
            TN_TRY(read_tensor(file, name, &tensor));
        }
    }
    for (int64_t i = 0; i < adapter->constants.count; i++) {
        const tn_param *constant = &adapter->constants.entries[i];
        snprintf(name, sizeof name, "constant.%s", constant->name);
        tensor = constant->weight->tensor;
        tensor.data = adapter->constants.values + constant->offset;
        TN_TRY(read_tensor(file, name, &tensor));
    }
    return TN_OK;
}

tn_status tn_train_state_load(const char *out_dir, tn_adapter *adapter, tn_optimizer *optimizer, bool changed_is_fine,
                              tn_train_state *state, bool *found) {
    char folder[TN_PATH_MAX], path[TN_PATH_MAX];
    int64_t *steps;
    size_t count;
    *found = false;
    state->broken = 0;
    TN_TRY(checkpoint_folder(out_dir, folder));
    TN_TRY(list_checkpoints(folder, &steps, &count));
    tn_status status = TN_OK;
    for (size_t i = 0; i < count && !*found; i++) {
        tn_safetensors file;
        TN_TRY_GOTO(checkpoint_path(folder, steps[i], path));
        if (tn_safetensors_open(path, &file) != TN_OK) {
            state->broken++; /* cut short by a crash of the machine: the one before it counts */
            continue;
        }
        if (!changed_is_fine)
            status = check_unchanged(&file, state);
        if (status == TN_OK)
            status = read_state(&file, adapter, optimizer, state);
        tn_safetensors_close(&file);
        if (status != TN_OK)
            goto fail;
        *found = true;
    }
fail:
    tn_free(steps);
    return status;
}
