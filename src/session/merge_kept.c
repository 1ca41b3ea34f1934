/* What merging loses and unmerging needs: one tensor "<module>.norm" for each slot whose method keeps numbers. */
#include <unistd.h>

#include "session/merge_parts.h"

static const char FILE_NAME[] = "merged_norms.safetensors";

enum { NAME_SIZE = 600 };

static void key_of(const tn_adapter_slot *slot, char name[NAME_SIZE]) {
    snprintf(name, NAME_SIZE, "%s.norm", slot->module->name);
}

/* The adapter in use that loses something; one among others could not be undone. */
static tn_adapter *keeper(const tn_merger *m) {
    tn_adapter *found = NULL;
    int64_t in_use = 0;
    for (tn_adapter *one = m->model->adapter; one; one = one->next) {
        in_use += one->weight != 0;
        if (one->weight != 0 && one->method && tn_adapter_keeps(one))
            found = one;
    }
    return in_use == 1 && found && found->weight == 1 ? found : NULL;
}

static tn_status write_slot(tn_merger *m, tn_safetensors_writer *writer, const tn_adapter_slot *slot, float *kept) {
    tn_weight_read(tn_module_weight(slot->module), m->weight);
    TN_TRY(slot->method->keep(slot->slot, slot->module, m->weight, kept));
    return tn_safetensors_writer_data(writer, kept, tn_adapter_kept_count(slot) * (int64_t)sizeof *kept);
}

static tn_status write_slots(tn_merger *m, const tn_adapter *adapter, tn_safetensors_writer *writer) {
    char name[NAME_SIZE];
    int64_t most = 0;
    TN_TRY(tn_safetensors_writer_metadata(writer, "format", "pt"));
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        int64_t count = tn_adapter_kept_count(&adapter->slots[i]);
        most = count > most ? count : most;
        key_of(&adapter->slots[i], name);
        if (count)
            TN_TRY(tn_safetensors_writer_declare(writer, name, TN_DTYPE_F32, 1, &count));
    }
    TN_TRY(tn_safetensors_writer_begin(writer));
    float *kept = tn_malloc((size_t)most * sizeof *kept);
    tn_status status = kept ? TN_OK : tn_fail_memory("the norms");
    for (int64_t i = 0; i < adapter->slot_count && status == TN_OK; i++)
        if (tn_adapter_kept_count(&adapter->slots[i]))
            status = write_slot(m, writer, &adapter->slots[i], kept);
    tn_free(kept);
    return status;
}

tn_status tn_merger_write_kept(tn_merger *m, const char *dir) {
    char path[TN_PATH_MAX];
    const tn_adapter *adapter = m->direction > 0 ? keeper(m) : NULL;
    TN_TRY(tn_path_join(path, dir, FILE_NAME));
    if (!adapter)
        return tn_path_exists(path) ? tn_path_remove_tree(path) : TN_OK;
    tn_safetensors_writer *writer;
    TN_TRY(tn_safetensors_writer_new(&writer, path));
    tn_status status = write_slots(m, adapter, writer);
    if (status != TN_OK) {
        tn_safetensors_writer_abort(writer);
        return status;
    }
    return tn_safetensors_writer_finish(writer);
}

static tn_status read_slot(tn_merger *m, const tn_safetensors *file, tn_adapter *adapter, const tn_adapter_slot *slot) {
    char name[NAME_SIZE];
    key_of(slot, name);
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    if (!entry || entry->tensor.dtype != TN_DTYPE_F32 || tn_tensor_count(&entry->tensor) != tn_adapter_kept_count(slot) ||
        tn_tensor_first_nonfinite(&entry->tensor) >= 0)
        return tn_fail(TN_ERROR_MISMATCH, "%s: no norms of this adapter's module '%s'; was another adapter merged?",
                       file->path, slot->module->name);
    tn_weight_read(tn_module_weight(slot->module), m->weight);
    return slot->method->use_kept(adapter, slot->slot, slot->module, m->weight, entry->tensor.data);
}

tn_status tn_merger_read_kept(tn_merger *m) {
    char path[TN_PATH_MAX];
    tn_adapter *adapter = keeper(m);
    tn_safetensors file;
    if (!adapter)
        return TN_OK;
    TN_TRY(tn_path_join(path, m->model->network->dir, FILE_NAME));
    if (!tn_path_exists(path))
        return tn_fail(
            TN_ERROR_UNSUPPORTED,
            "%s is not there: merging with %s loses the norms of the base's rows, which tenon merge keeps in that "
            "file; without them use the base that the adapter was trained on",
            path, adapter->config.use_dora ? "DoRA" : adapter->method->name);
    TN_TRY(tn_safetensors_open(path, &file));
    tn_status status = TN_OK;
    for (int64_t i = 0; i < adapter->slot_count && status == TN_OK; i++)
        if (tn_adapter_kept_count(&adapter->slots[i]))
            status = read_slot(m, &file, adapter, &adapter->slots[i]);
    tn_safetensors_close(&file);
    return status;
}
