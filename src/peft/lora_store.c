/* A LoRA whose initialisation took s0 B0 A0 out of the base is saved as an ordinary one of twice the rank for the untouched
 * base: A' = [A; A0], B' = [B, -B0], the scaling being the same. */
#include <math.h>
#include <string.h>

#include "peft/lora.h"

/* The slot whose A or B a parameter is, when its initialisation reduced the base; NULL otherwise. */
static const tn_lora_slot *reduced_slot(const tn_adapter *adapter, const tn_param *param) {
    if (!tn_lora_init_reduces_base(adapter->config.init))
        return NULL;
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_lora_slot *slot = (const tn_lora_slot *)adapter->slots[i].slot;
        if (adapter->slots[i].method == &tn_lora && slot->a0.tensor.data &&
            (param->weight == &slot->a || param->weight == &slot->b))
            return slot;
    }
    return NULL;
}

tn_status tn_lora_store_tensor(const tn_adapter *adapter, const tn_param *param, tn_stored_tensor *out) {
    const tn_lora_slot *slot = reduced_slot(adapter, param);
    if (!slot)
        return TN_OK;
    bool is_a = param->weight == &slot->a;
    const float *now = out->tensor.data, *start = is_a ? slot->a0.tensor.data : slot->b0.tensor.data;
    int64_t rank = slot->a.tensor.shape[0], outputs = slot->b.tensor.shape[0];
    out->memory = tn_malloc((size_t)param->count * 2 * sizeof *out->memory);
    if (!out->memory)
        return tn_fail_memory("the adapter");
    if (is_a) {
        memcpy(out->memory, now, (size_t)param->count * sizeof *now);
        memcpy(out->memory + param->count, start, (size_t)param->count * sizeof *now);
    }
    for (int64_t o = 0; o < outputs && !is_a; o++) {
        float *row = out->memory + o * 2 * rank;
        for (int64_t r = 0; r < rank; r++) {
            row[r] = now[o * rank + r];
            row[rank + r] = -start[o * rank + r];
        }
    }
    out->tensor.shape[is_a ? 0 : 1] *= 2;
    out->tensor.data = out->memory;
    return TN_OK;
}

static tn_pattern *scaled_patterns(tn_arena *scratch, const tn_pattern *patterns, size_t count, double factor) {
    tn_pattern *out = tn_arena_array(scratch, count + 1, sizeof *out);
    for (size_t i = 0; i < count && out; i++)
        out[i] = (tn_pattern){patterns[i].key, patterns[i].value * factor};
    return out;
}

tn_status tn_lora_store_config(const tn_adapter *adapter, tn_peft_config *config, tn_arena *scratch) {
    if (!tn_lora_init_reduces_base(adapter->config.init))
        return TN_OK;
    double alpha_factor = config->use_rslora ? sqrt(2.0) : 2.0;
    config->init = "kaiming";
    config->rank *= 2;
    config->alpha *= alpha_factor;
    config->rank_pattern = scaled_patterns(scratch, config->rank_pattern, config->rank_pattern_count, 2);
    config->alpha_pattern = scaled_patterns(scratch, config->alpha_pattern, config->alpha_pattern_count, alpha_factor);
    return config->rank_pattern && config->alpha_pattern ? TN_OK : tn_fail_memory("the adapter's configuration");
}
