/* What adapters make of weights: merged ones, the way back, and how far they are from the base's. */
#include <math.h>
#include <string.h>

#include "peft/adapter.h"
#include "peft/token_rows.h"

bool tn_adapter_has(const tn_adapter *adapter, const tn_module *module) {
    for (; adapter; adapter = adapter->next) {
        if (adapter->weight == 0)
            continue;
        for (int64_t i = 0; i < adapter->slot_count; i++)
            if (adapter->slots[i].module == module)
                return true;
        for (int64_t i = 0; i < adapter->replaced_count; i++)
            if (adapter->replaced[i].module == module)
                return true;
    }
    return false;
}

bool tn_adapter_changes(const tn_adapter *adapter, const tn_module *module) {
    return tn_adapter_has(adapter, module) || (module->tied && tn_adapter_has(adapter, module->tied));
}

/* What one adapter's slots make of a weight and bias. */
static tn_status merge_slots(const tn_adapter *adapter, const tn_module *module, bool widened, float *weight, float *bias,
                             bool *has_bias) {
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_adapter_slot *s = &adapter->slots[i];
        if (s->module != module)
            continue;
        if (!s->method) {
            tn_token_rows_merge((const tn_token_rows_slot *)s->slot, weight, tn_module_weight(module)->tensor.shape[1]);
            continue;
        }
        if (widened && !s->method->widens_groups)
            return tn_fail(TN_ERROR_UNSUPPORTED, "'%s': %s and an adapter that reads all channels cannot be merged together",
                           module->name, s->method->name);
        TN_TRY(s->method->merge(s->slot, module, weight, bias));
        *has_bias = *has_bias || (s->method->merge_adds_bias && s->method->merge_adds_bias(s->slot));
    }
    return TN_OK;
}

/* values = before + share (values - before) */
static void take_share(float *values, const float *before, float share, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        values[i] = before[i] + share * (values[i] - before[i]);
}

/* The same for an adapter of which only a share counts. */
static tn_status merge_share(const tn_adapter *adapter, const tn_module *module, bool widened, float *weight, float *bias,
                             bool *has_bias) {
    int64_t count = tn_tensor_count(&tn_module_weight(module)->tensor) * (widened ? module->conv.groups : 1);
    int64_t outputs = bias ? module->bias.tensor.shape[0] : 0;
    if (adapter->weight == 1)
        return merge_slots(adapter, module, widened, weight, bias, has_bias);
    float *before = tn_malloc((size_t)(count + outputs) * sizeof *before);
    if (!before)
        return tn_fail_memory("the merged weights");
    memcpy(before, weight, (size_t)count * sizeof *before);
    if (bias)
        memcpy(before + count, bias, (size_t)outputs * sizeof *before);
    tn_status status = merge_slots(adapter, module, widened, weight, bias, has_bias);
    take_share(weight, before, adapter->weight, count);
    if (bias)
        take_share(bias, before + count, adapter->weight, outputs);
    tn_free(before);
    return status;
}

tn_status tn_adapter_merged_weight(const tn_adapter *adapter, const tn_module *module, float *weight, float *bias,
                                   bool *has_bias) {
    const tn_weight *base = tn_module_weight(module);
    bool widened = tn_adapter_widens(adapter, module);
    tn_status status = TN_OK;
    float *merged = weight; /* as methods see it: [O, C] */
    if (base->transposed)
        merged = tn_malloc((size_t)tn_tensor_count(&base->tensor) * sizeof *merged);
    if (!merged)
        return tn_fail_memory("the merged weights");
    tn_weight_read(base, merged);
    if (widened)
        tn_widen_groups(module, merged);
    *has_bias = module->has_bias;
    if (bias && module->has_bias)
        tn_convert_to_f32(bias, module->bias.tensor.data, module->bias.tensor.dtype, module->bias.tensor.shape[0]);
    else if (bias)
        memset(bias, 0, (size_t)tn_weight_out(base) * sizeof *bias);
    for (; adapter; adapter = adapter->next)
        if (adapter->weight != 0)
            TN_TRY_GOTO(merge_share(adapter, module, widened, merged, bias, has_bias));
    if (merged != weight)
        tn_weight_lay_out(base, merged, weight);
fail:
    if (merged != weight)
        tn_free(merged);
    return status;
}

int64_t tn_adapter_kept_count(const tn_adapter_slot *slot) {
    return slot->method && slot->method->kept_count ? slot->method->kept_count(slot->slot) : 0;
}

bool tn_adapter_keeps(const tn_adapter *adapter) {
    for (int64_t i = 0; i < adapter->slot_count; i++)
        if (tn_adapter_kept_count(&adapter->slots[i]) > 0)
            return true;
    return false;
}

/* The last that was merged is the first to be undone. */
static tn_status unmerge_slots(const tn_adapter *adapter, const tn_module *module, float *weight, float *bias) {
    if (!adapter)
        return TN_OK;
    TN_TRY(unmerge_slots(adapter->next, module, weight, bias));
    if (adapter->weight == 0)
        return TN_OK;
    if (adapter->weight != 1)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s can be taken out whole only, not with a weight of %g",
                       adapter->method->name, (double)adapter->weight);
    for (int64_t i = adapter->slot_count; i-- > 0;) {
        const tn_adapter_slot *s = &adapter->slots[i];
        if (s->module == module && s->method)
            TN_TRY(s->method->unmerge(s->slot, module, weight, bias));
    }
    return TN_OK;
}

tn_status tn_adapter_unmerged_weight(const tn_adapter *adapter, const tn_module *module, float stretch, float *weight,
                                     float *bias) {
    const tn_weight *merged = tn_module_weight(module);
    const tn_kernels *kernels = tn_kernels_cpu();
    float *values = weight; /* as methods see it: [O, C] */
    if (merged->transposed)
        values = tn_malloc((size_t)tn_tensor_count(&merged->tensor) * sizeof *values);
    if (!values)
        return tn_fail_memory("the restored weights");
    tn_weight_read(merged, values);
    kernels->scale(values, stretch, tn_tensor_count(&merged->tensor));
    bias = module->has_bias ? bias : NULL;
    if (bias) {
        tn_convert_to_f32(bias, module->bias.tensor.data, module->bias.tensor.dtype, module->bias.tensor.shape[0]);
        kernels->scale(bias, stretch, module->bias.tensor.shape[0]);
    }
    tn_status status = unmerge_slots(adapter, module, values, bias);
    if (values != weight) {
        tn_weight_lay_out(merged, values, weight);
        tn_free(values);
    }
    return status;
}

/* Squared norm of (merged - base) of one module, and of the base. */
static tn_status change_of(const tn_adapter *adapter, const tn_module *module, double *change, double *base_square) {
    const tn_tensor *base = &tn_module_weight(module)->tensor;
    const tn_kernels *kernels = tn_kernels_cpu();
    for (const tn_adapter *one = adapter; one; one = one->next)
        for (int64_t i = 0; i < one->replaced_count; i++)
            if (one->replaced[i].place == &module->weight && !one->replaced[i].was_tied)
                base = &one->replaced[i].original.tensor;
    const tn_tensor shape = tn_adapter_merged_shape(adapter, module);
    int64_t count = tn_tensor_count(&shape);
    bool has_bias;
    float *merged = tn_malloc((size_t)count * sizeof *merged), *original = tn_malloc((size_t)count * sizeof *original);
    tn_status status = merged && original ? tn_adapter_merged_weight(adapter, module, merged, NULL, &has_bias)
                                          : tn_fail_memory("the norm of the change");
    if (status == TN_OK) {
        tn_tensor_read(original, base, 0, tn_tensor_count(base));
        if (tn_adapter_widens(adapter, module))
            tn_widen_groups(module, original);
        *base_square += kernels->sum_squares(original, count);
        kernels->add(merged, original, -1, count);
        *change += kernels->sum_squares(merged, count);
    }
    tn_free(merged);
    tn_free(original);
    return status;
}

/* A tied head without a method of its own is the embedding again. */
static bool follows_embedding(const tn_adapter *adapter, const tn_module *module) {
    for (; adapter; adapter = adapter->next)
        for (int64_t i = 0; i < adapter->slot_count; i++)
            if (adapter->slots[i].module == module && adapter->slots[i].method)
                return false;
    return module->tied != NULL;
}

double tn_adapter_penalty(tn_adapter *adapter) {
    double sum = 0;
    for (; adapter; adapter = adapter->next)
        if (adapter->method && adapter->method->penalty)
            sum += adapter->method->penalty(adapter);
    return sum;
}

tn_status tn_adapter_summarise(const tn_adapter *adapter, tn_adapter_summary *out) {
    double change = 0, base = 0;
    *out = (tn_adapter_summary){0};
    for (int64_t i = 0; i < adapter->model->module_count; i++) {
        const tn_module *module = &adapter->model->modules[i];
        if (!tn_adapter_changes(adapter, module) || follows_embedding(adapter, module))
            continue;
        out->modules++;
        TN_TRY(change_of(adapter, module, &change, &base));
    }
    for (const tn_adapter *one = adapter; one; one = one->next)
        for (int64_t i = 0; i < one->params.count; i++)
            out->parameters += one->params.entries[i].is_buffer ? 0 : one->params.entries[i].count;
    out->change_norm = sqrt(change);
    out->base_norm = sqrt(base);
    return TN_OK;
}
