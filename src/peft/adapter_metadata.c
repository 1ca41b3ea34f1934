/* Text kept with an adapter: the __metadata__ of its adapter_model.safetensors besides "format", in the order of setting. */
#include <string.h>

#include "base/utf8.h"
#include "peft/adapter.h"

static const char FORMAT_KEY[] = "format";

/* key and value lie behind the entry, as one allocation. */
struct tn_adapter_note {
    tn_adapter_note *next;
    const char *key, *value;
};

static tn_adapter_note *note_new(const char *key, const char *value) {
    size_t key_size = strlen(key) + 1, value_size = strlen(value) + 1;
    tn_adapter_note *note = tn_malloc(sizeof *note + key_size + value_size);
    if (!note)
        return NULL;
    char *text = (char *)(note + 1);
    memcpy(text, key, key_size);
    memcpy(text + key_size, value, value_size);
    *note = (tn_adapter_note){NULL, text, text + key_size};
    return note;
}

static bool is_text(const char *text) {
    return tn_utf8_valid_prefix(text, strlen(text)) == strlen(text);
}

tn_status tn_adapter_set_metadata(tn_adapter *adapter, const char *key, const char *value) {
    tn_adapter_note **at = &adapter->notes, *fresh = NULL;
    if (!key[0] || strcmp(key, FORMAT_KEY) == 0)
        return tn_fail(TN_ERROR_ARGUMENT, "the metadata key '%s' is not free; choose another name", key);
    if (!is_text(key) || (value && !is_text(value)))
        return tn_fail(TN_ERROR_ARGUMENT, "the metadata '%s' is not valid UTF-8", key);
    if (value && !(fresh = note_new(key, value)))
        return tn_fail_memory("the adapter's metadata");
    while (*at && strcmp((*at)->key, key) != 0)
        at = &(*at)->next;
    tn_adapter_note *old = *at;
    if (old)
        *at = old->next;
    if (fresh) {
        fresh->next = *at;
        *at = fresh;
    }
    tn_free(old);
    return TN_OK;
}

size_t tn_adapter_list_metadata(const tn_adapter *adapter, const char **keys, const char **values, size_t capacity) {
    size_t count = 0;
    for (const tn_adapter_note *note = adapter->notes; note; note = note->next, count++) {
        if (count < capacity && keys)
            keys[count] = note->key;
        if (count < capacity && values)
            values[count] = note->value;
    }
    return count;
}

tn_status tn_adapter_read_metadata(tn_adapter *adapter, const tn_safetensors *file) {
    tn_adapter_note **end = &adapter->notes;
    for (size_t i = 0; i < file->metadata_count; i++) {
        const tn_safetensors_meta *meta = &file->metadata[i];
        if (!meta->key[0] || strcmp(meta->key, FORMAT_KEY) == 0)
            continue;
        if (!(*end = note_new(meta->key, meta->value)))
            return tn_fail_memory("the adapter's metadata");
        end = &(*end)->next;
    }
    return TN_OK;
}

tn_status tn_adapter_write_metadata(const tn_adapter *adapter, tn_safetensors_writer *writer) {
    TN_TRY(tn_safetensors_writer_metadata(writer, FORMAT_KEY, "pt"));
    for (const tn_adapter_note *note = adapter->notes; note; note = note->next)
        TN_TRY(tn_safetensors_writer_metadata(writer, note->key, note->value));
    return TN_OK;
}

void tn_adapter_free_metadata(tn_adapter *adapter) {
    while (adapter->notes) {
        tn_adapter_note *next = adapter->notes->next;
        tn_free(adapter->notes);
        adapter->notes = next;
    }
}
