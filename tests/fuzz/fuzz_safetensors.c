/* Any bytes as a file: what tn_safetensors_open accepts must be readable in full. */
#include "format/safetensors.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tn_safetensors file;
    tn_status status = tn_safetensors_open(fuzz_file(data, size), &file);
    fuzz_require(status == TN_OK || status == TN_ERROR_FORMAT || status == TN_ERROR_UNSUPPORTED);
    if (status != TN_OK)
        return 0;
    for (size_t i = 0; i < file.count; i++) {
        const tn_safetensors_entry *entry = &file.entries[i];
        fuzz_require(tn_safetensors_find(&file, entry->name) == entry);
        fuzz_read(entry->tensor.data, (size_t)tn_tensor_bytes(&entry->tensor));
        tn_tensor_first_nonfinite(&entry->tensor);
    }
    for (size_t i = 0; i < file.metadata_count; i++)
        fuzz_require(tn_safetensors_metadata(&file, file.metadata[i].key) != NULL);
    tn_safetensors_close(&file);
    return 0;
}
