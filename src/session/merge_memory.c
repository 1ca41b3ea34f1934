/* Merged weights in memory, for a forward pass without the adapter's own arithmetic. */
#include <string.h>

#include "session/merge.h"

/* Backwards, so that a tied head sees the embedding's own weight. */
static tn_status merge_modules(tn_model *model, float *place) {
    tn_network *d = model->network;
    for (int64_t i = d->module_count; i-- > 0;) {
        tn_module *module = &d->modules[i];
        tn_tensor *weight = &module->weight.tensor;
        const tn_tensor merged = tn_adapter_merged_shape(model->adapter, module);
        int64_t count = tn_tensor_count(&merged), outputs = tn_weight_out(tn_module_weight(module));
        bool has_bias;
        if (!tn_adapter_changes(model->adapter, module))
            continue;
        float *bias = place + count;
        TN_TRY(tn_adapter_merged_weight(model->adapter, module, place, bias, &has_bias));
        if (tn_adapter_widens(model->adapter, module))
            module->conv.groups = 1;
        *weight = merged;
        weight->dtype = TN_DTYPE_F32;
        weight->data = place;
        module->bias.tensor = (tn_tensor){.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {outputs}, .data = bias};
        module->has_bias = has_bias;
        module->tied = NULL;
        place = bias + outputs;
    }
    return TN_OK;
}

tn_status tn_session_merge_in_memory(tn_model *model, tn_merged *out) {
    tn_network *d = model->network;
    tn_adapter *adapter = model->adapter;
    int64_t floats = 0;
    *out = (tn_merged){0};
    TN_TRY(tn_session_check_can_merge(adapter));
    tn_adapter_enable(adapter, true);
    for (int64_t i = 0; i < d->module_count; i++) {
        const tn_tensor merged = tn_adapter_merged_shape(adapter, &d->modules[i]);
        if (tn_adapter_changes(adapter, &d->modules[i]))
            floats += tn_tensor_count(&merged) + tn_weight_out(tn_module_weight(&d->modules[i]));
    }
    out->bytes = floats * (int64_t)sizeof(float);
    out->memory = tn_pages_alloc((size_t)out->bytes);
    out->modules = tn_malloc((size_t)d->module_count * sizeof *out->modules);
    if (!out->memory || !out->modules) {
        tn_pages_free(out->memory, (size_t)out->bytes);
        tn_free(out->modules);
        *out = (tn_merged){0};
        return tn_fail_memory("the merged weights");
    }
    memcpy(out->modules, d->modules, (size_t)d->module_count * sizeof *d->modules);
    tn_status status = merge_modules(model, out->memory);
    tn_adapter_mute(adapter, true);
    if (status != TN_OK)
        tn_session_merged_free(model, out);
    return status;
}

void tn_session_merged_free(tn_model *model, tn_merged *merged) {
    if (!merged->modules)
        return;
    memcpy(model->network->modules, merged->modules, (size_t)model->network->module_count * sizeof *merged->modules);
    tn_adapter_mute(model->adapter, false);
    tn_pages_free(merged->memory, (size_t)merged->bytes);
    tn_free(merged->modules);
    *merged = (tn_merged){0};
}
