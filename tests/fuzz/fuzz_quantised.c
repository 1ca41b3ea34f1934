/* Any bytes as the checkpoint of a network whose weights may be quantised: what is loaded can be read in full, and is
 * finite where it is codes and scales. */
#include <math.h>
#include <unistd.h>

#include "base/memory.h"
#include "fuzz.h"
#include "model/network.h"

static char dir[64];

static void remove_folder(void) {
    tn_path_remove_tree(dir);
}

/* The bytes appear in it as model.safetensors. */
static const char *folder_of(const uint8_t *data, size_t size) {
    const char *file = fuzz_file(data, size);
    char link[96];
    if (dir[0])
        return dir;
    strcpy(dir, "/tmp/tenon-fuzz-XXXXXX");
    fuzz_require(mkdtemp(dir));
    snprintf(link, sizeof link, "%s/model.safetensors", dir);
    fuzz_require(symlink(file, link) == 0 && atexit(remove_folder) == 0);
    return dir;
}

static void add(tn_network *network, tn_module_kind kind, const char *name, int64_t rows, int64_t cols, bool transposed) {
    const tn_tensor weight = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {rows, cols}};
    tn_module *module = tn_network_add(network, kind, 0, name, weight, rows, kind == TN_MODULE_LINEAR);
    fuzz_require(module);
    module->weight.transposed = transposed;
}

static void check(const tn_module *module) {
    enum { MOST = 8 * 16 };
    const tn_tensor *weight = &module->weight.tensor;
    int64_t count = tn_tensor_count(weight);
    float values[MOST], middle[3];
    fuzz_require(count <= MOST && weight->data);
    tn_tensor_read(values, weight, 0, count);
    tn_tensor_read(middle, weight, count / 2, 3);
    fuzz_require(memcmp(middle, values + count / 2, sizeof middle) == 0);
    fuzz_read(values, (size_t)count * sizeof *values);
    if (weight->dtype != TN_DTYPE_QUANTISED)
        return;
    const tn_quantised *array = weight->data;
    fuzz_require(array->count == count);
    for (int64_t i = 0; i < array->sizes.blocks; i++)
        fuzz_require(isfinite(tn_quantised_scale(array, i)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const tn_network_kind kind;
    size_t used = tn_memory_used();
    tn_network network = {.kind = &kind, .family = "linear", .dir = tn_strdup(folder_of(data, size))};
    fuzz_require(network.dir && tn_network_reserve(&network, 3) == TN_OK);
    add(&network, TN_MODULE_EMBEDDING, "e", 5, 7, false);
    add(&network, TN_MODULE_LINEAR, "a", 8, 16, false);
    add(&network, TN_MODULE_LINEAR, "t", 6, 6, true);
    tn_status status = tn_network_load(&network);
    fuzz_require(status == TN_OK || status == TN_ERROR_FORMAT || status == TN_ERROR_MISMATCH ||
                 status == TN_ERROR_UNSUPPORTED || status == TN_ERROR_NUMERIC);
    for (int64_t i = 0; status == TN_OK && i < network.module_count; i++)
        check(&network.modules[i]);
    tn_network_free(&network);
    fuzz_require(tn_memory_used() == used);
    return 0;
}
