/* What AdaLoRA leaves behind: once the budget is final, the triplets that are left and a rank_pattern that says which they
 * are; before that, every triplet, since a masked one may come back. */
#include <string.h>

#include "peft/adalora.h"

static tn_adalora_slot *slot_of(const tn_adapter *adapter, const tn_param *param) {
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        tn_adalora_slot *slot = (tn_adalora_slot *)adapter->slots[i].slot;
        if (adapter->slots[i].method == adapter->method &&
            (param->weight == &slot->a.value || param->weight == &slot->e.value || param->weight == &slot->b.value))
            return slot;
    }
    return NULL;
}

tn_status tn_adalora_store_tensor(const tn_adapter *adapter, const tn_param *param, tn_stored_tensor *out) {
    const tn_adalora_slot *slot = tn_adalora_is_final(adapter) ? slot_of(adapter, param) : NULL;
    if (!slot)
        return TN_OK;
    const float *mask = slot->mask.tensor.data, *from = out->tensor.data;
    int64_t rows = out->tensor.shape[0], cols = out->tensor.shape[1], left = 0, at = 0;
    bool by_columns = param->weight == &slot->b.value;
    for (int64_t k = 0; k < slot->mask.tensor.shape[0]; k++)
        left += mask[k] != 0;
    out->memory = tn_malloc((size_t)param->count * sizeof *out->memory);
    if (!out->memory)
        return tn_fail_memory("the adapter");
    for (int64_t i = 0; i < rows * cols; i++)
        if (mask[by_columns ? i % cols : i / cols] != 0)
            out->memory[at++] = from[i];
    out->tensor.shape[by_columns] = left;
    out->tensor.data = out->memory;
    return TN_OK;
}

/* Masks of every slot, in `scratch`; NULL without memory. */
static tn_rank_mask *collect_masks(const tn_adapter *adapter, tn_arena *scratch, size_t *count) {
    tn_rank_mask *masks = tn_arena_array(scratch, (size_t)adapter->slot_count + 1, sizeof *masks);
    *count = 0;
    for (int64_t i = 0; i < adapter->slot_count && masks; i++) {
        const tn_adalora_slot *slot = (const tn_adalora_slot *)adapter->slots[i].slot;
        if (adapter->slots[i].method != adapter->method)
            continue;
        const float *mask = slot->mask.tensor.data;
        int64_t rank = slot->mask.tensor.shape[0];
        bool *kept = tn_arena_array(scratch, (size_t)rank + 1, sizeof *kept);
        const char *key = tn_arena_printf(scratch, "%s.lora_E", adapter->slots[i].module->name);
        if (!kept || !key)
            return NULL;
        for (int64_t k = 0; k < rank; k++)
            kept[k] = mask[k] != 0;
        masks[(*count)++] = (tn_rank_mask){.key = key, .kept = kept, .count = rank};
    }
    return masks;
}

tn_status tn_adalora_store_config(const tn_adapter *adapter, tn_peft_config *config, tn_arena *scratch) {
    const tn_adalora_settings *own = config->settings;
    if (own->total_step == 0)
        return tn_fail(TN_ERROR_ARGUMENT, "an AdaLoRA adapter cannot be saved without total_step, which PEFT calls for; set "
                                          "it, or train the adapter, which sets it to the run's steps");
    if (!tn_adalora_is_final(adapter))
        return TN_OK;
    tn_adalora_settings *settings = tn_arena_alloc(scratch, sizeof *settings);
    if (!settings)
        return tn_fail_memory("the adapter's configuration");
    *settings = *own;
    settings->masks = collect_masks(adapter, scratch, &settings->mask_count);
    config->settings = settings;
    /* alpha 0 stands for the rank, which is another one when the file is read */
    config->alpha = config->alpha > 0 ? config->alpha : (double)config->rank;
    return settings->masks ? TN_OK : tn_fail_memory("the adapter's configuration");
}

static int64_t rank_of(const tn_adalora_slot *slot) {
    const float *mask = slot->mask.tensor.data;
    int64_t left = mask ? 0 : slot->a.value.tensor.shape[0];
    for (int64_t k = 0; mask && k < slot->mask.tensor.shape[0]; k++)
        left += mask[k] != 0;
    return left;
}

static const char *leaf(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

/* A line for each kind of module: its ranks from the first layer to the last. */
void tn_adalora_report(const tn_adapter *adapter, tn_buf *out) {
    int64_t all = 0, left = 0;
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        if (adapter->slots[i].method != adapter->method)
            continue;
        all += adapter->config.rank;
        left += rank_of((const tn_adalora_slot *)adapter->slots[i].slot);
    }
    tn_buf_printf(out, "ranks      %lld of %lld left%s\n", (long long)left, (long long)all,
                  tn_adalora_is_final(adapter) || ((const tn_adalora_settings *)adapter->config.settings)->mask_count
                      ? ""
                      : " so far: the run ended before total_step - tfinal, so the file holds them all");
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const char *name = leaf(adapter->slots[i].module->name);
        bool seen = adapter->slots[i].method != adapter->method;
        for (int64_t j = 0; j < i && !seen; j++)
            seen = adapter->slots[j].method == adapter->method && strcmp(leaf(adapter->slots[j].module->name), name) == 0;
        if (seen)
            continue;
        tn_buf_printf(out, "  %-12s", name);
        for (int64_t j = i; j < adapter->slot_count; j++)
            if (adapter->slots[j].method == adapter->method && strcmp(leaf(adapter->slots[j].module->name), name) == 0)
                tn_buf_printf(out, " %lld", (long long)rank_of((const tn_adalora_slot *)adapter->slots[j].slot));
        tn_buf_putc(out, '\n');
    }
}
