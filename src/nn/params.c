/* The parameter store. Entries begin at multiples of 16 floats so that vector kernels see aligned rows. */
#include "nn/params.h"

#include <string.h>

tn_status tn_params_add(tn_params *params, const char *name, tn_weight *weight) {
    if (params->count == params->capacity) {
        int64_t capacity = params->capacity ? params->capacity * 2 : 64;
        tn_param *entries = tn_realloc_array(params->entries, (size_t)capacity, sizeof *entries);
        if (!entries)
            return tn_fail_memory("the list of parameters");
        params->entries = entries;
        params->capacity = capacity;
    }
    params->entries[params->count++] =
        (tn_param){.name = name, .weight = weight, .lr_scale = 1, .decay = true, .in_file = true};
    return TN_OK;
}

tn_status tn_params_build(tn_params *params, bool with_grads) {
    int64_t total = 0;
    for (int64_t i = 0; i < params->count; i++) {
        tn_param *param = &params->entries[i];
        param->offset = total;
        param->count = tn_tensor_count(&param->weight->tensor);
        total += (param->count + 15) / 16 * 16;
    }
    size_t bytes = (size_t)total * sizeof(float);
    params->total = total;
    params->values = tn_pages_alloc(bytes);
    params->grads = with_grads ? tn_pages_alloc(bytes) : NULL;
    if (!params->values || (with_grads && !params->grads))
        return tn_fail(TN_ERROR_MEMORY, "out of memory for %.1f MB of trainable parameters",
                       (double)bytes * (with_grads ? 2 : 1) / 1e6);
    for (int64_t i = 0; i < params->count; i++) {
        tn_param *param = &params->entries[i];
        tn_tensor *tensor = &param->weight->tensor;
        float *values = params->values + param->offset;
        if (tensor->data)
            tn_tensor_read(values, tensor, 0, param->count);
        tensor->data = values;
        tensor->dtype = TN_DTYPE_F32;
        param->weight->trainable = with_grads;
        param->weight->grad = with_grads ? params->grads + param->offset : NULL;
    }
    return TN_OK;
}

void tn_params_free(tn_params *params) {
    size_t bytes = (size_t)params->total * sizeof(float);
    if (params->values)
        tn_pages_free(params->values, bytes);
    if (params->grads)
        tn_pages_free(params->grads, bytes);
    tn_free(params->entries);
    *params = (tn_params){0};
}

tn_param *tn_params_find(const tn_params *params, const char *name) {
    for (int64_t i = 0; i < params->count; i++)
        if (strcmp(params->entries[i].name, name) == 0)
            return &params->entries[i];
    return NULL;
}
