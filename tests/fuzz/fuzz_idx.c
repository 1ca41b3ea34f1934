/* Any bytes as an IDX file, plain or packed: what is read can be written and read again. */
#include <unistd.h>

#include "base/memory.h"
#include "format/idx.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tn_tensor tensor, again;
    size_t before = tn_memory_used();
    if (tn_idx_read(fuzz_file(data, size), &tensor) == TN_OK) {
        char path[64];
        snprintf(path, sizeof path, "/tmp/tenon-fuzz-idx-%ld", (long)getpid());
        fuzz_read(tensor.data, (size_t)tn_tensor_bytes(&tensor));
        fuzz_require(tn_idx_write(path, &tensor) == TN_OK && tn_idx_read(path, &again) == TN_OK);
        fuzz_require(remove(path) == 0);
        fuzz_require(again.dtype == tensor.dtype && tn_tensor_same_shape(&again, &tensor));
        fuzz_require(memcmp(again.data, tensor.data, (size_t)tn_tensor_bytes(&tensor)) == 0);
        tn_free(again.data);
    }
    tn_free(tensor.data);
    fuzz_require(tn_memory_used() == before);
    return 0;
}
