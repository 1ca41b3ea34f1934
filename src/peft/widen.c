/* A grouped convolution whose merged weight is one without groups, since an update reads all channels: [O, C / G, kh, kw]
 * with zeros around becomes [O, C, kh, kw]. */
#include <string.h>

#include "peft/adapter.h"

bool tn_adapter_widens(const tn_adapter *adapter, const tn_module *module) {
    if (module->kind != TN_MODULE_CONV2D || module->conv.groups == 1)
        return false;
    for (; adapter; adapter = adapter->next)
        for (int64_t i = 0; i < adapter->slot_count && adapter->weight != 0; i++)
            if (adapter->slots[i].module == module && adapter->slots[i].method && adapter->slots[i].method->widens_groups)
                return true;
    return false;
}

tn_tensor tn_adapter_merged_shape(const tn_adapter *adapter, const tn_module *module) {
    tn_tensor shape = tn_module_weight(module)->tensor;
    if (tn_adapter_widens(adapter, module))
        shape.shape[1] = module->conv.in_channels;
    return shape;
}

void tn_widen_groups(const tn_module *module, float *weight) {
    const tn_conv_shape *c = &module->conv;
    int64_t wide = c->in_channels * c->kernel_height * c->kernel_width, narrow = wide / c->groups;
    /* backwards: a wide row lies behind all narrow ones before it */
    for (int64_t o = c->out_channels; o-- > 0;) {
        float *row = weight + o * wide;
        int64_t at = o / (c->out_channels / c->groups) * narrow;
        memmove(row + at, weight + o * narrow, (size_t)narrow * sizeof *row);
        memset(row, 0, (size_t)at * sizeof *row);
        memset(row + at + narrow, 0, (size_t)(wide - at - narrow) * sizeof *row);
    }
}
