/* Several adapters on one model: a list whose updates add, each with a weight. */
#include <math.h>
#include <string.h>

#include "peft/adapter.h"

/* Restores the base's tensors in reverse order of their replacement. */
static void restore_base(tn_adapter *adapter) {
    for (int64_t i = adapter->replaced_count; i-- > 0;) {
        tn_replaced *r = &adapter->replaced[i];
        *r->place = r->original;
        if (r->was_tied)
            r->module->tied = r->tied;
        if (r->quantised)
            tn_quantised_free(r->quantised);
    }
    if (adapter->untied_head)
        adapter->model->head->tied = adapter->model->embedding;
}

static void exchange_replaced(tn_adapter *adapter, bool enabled) {
    for (int64_t i = 0; i < adapter->replaced_count; i++) {
        tn_replaced *r = &adapter->replaced[i];
        tn_weight other = r->original;
        r->original = *r->place;
        *r->place = other;
        if (r->was_tied)
            r->module->tied = enabled ? NULL : r->tied;
    }
}

static void mute_one(tn_adapter *one, bool muted) {
    for (int64_t i = 0; i < one->slot_count; i++)
        one->slots[i].slot->disabled = muted;
}

static void enable_one(tn_adapter *one, bool enabled) {
    mute_one(one, !enabled);
    if (one->enabled != enabled)
        exchange_replaced(one, enabled);
    one->enabled = enabled;
}

static void free_one(tn_adapter *one) {
    if (one->attached) {
        enable_one(one, true);
        for (int64_t i = 0; i < one->slot_count; i++)
            tn_module_detach(one->slots[i].module, one->slots[i].slot);
    }
    restore_base(one);
    if (one->replicated)
        one->model->kind->unreplicate(one->model);
    tn_adapter_free_metadata(one);
    tn_params_free(&one->params);
    tn_params_free(&one->constants);
    tn_peft_config_free(&one->config);
    tn_arena_free(&one->arena);
    tn_free(one->slots);
    tn_free(one->replaced);
    tn_free(one);
}

void tn_adapter_free(tn_adapter *adapter) {
    if (!adapter)
        return;
    tn_adapter_free(adapter->next);
    free_one(adapter);
}

static void number(tn_adapter *list) {
    int index = 0;
    for (; list; list = list->next, index++)
        for (int64_t i = 0; i < list->slot_count; i++)
            list->slots[i].slot->adapter = index;
}

/* Fails when both replace the same tensor. */
static tn_status check_replaced(const tn_adapter *one, const tn_adapter *other) {
    for (int64_t i = 0; i < one->replaced_count; i++)
        for (int64_t j = 0; j < other->replaced_count; j++)
            if (one->replaced[i].place == other->replaced[j].place)
                return tn_fail(TN_ERROR_ARGUMENT, "two adapters replace the %s of '%s'; only one of them can act",
                               one->replaced[i].is_bias ? "bias" : "weight", one->replaced[i].module->name);
    return TN_OK;
}

static tn_status check_together(const tn_adapter *list, const tn_adapter *one) {
    for (const tn_adapter *other = list; other; other = other->next) {
        if (other == one || other->weight == 0)
            continue;
        if (one->config.invocation_count || other->config.invocation_count)
            return tn_fail(TN_ERROR_UNSUPPORTED,
                           "alora_invocation_tokens work for a single adapter, not for several at once");
        TN_TRY(check_replaced(one, other));
    }
    return TN_OK;
}

tn_status tn_adapter_append(tn_adapter *adapter, tn_adapter *other, const char *name) {
    tn_status status = TN_OK;
    tn_adapter *last = adapter;
    while (last->next)
        last = last->next;
    if (other->weight != 0)
        TN_TRY_GOTO(check_together(adapter, other));
    other->name = tn_arena_strdup(&other->arena, name);
    if (!other->name) {
        status = tn_fail_memory("the adapter");
        goto fail;
    }
    other->on = adapter->on;
    enable_one(other, other->on && other->weight != 0);
    last->next = other;
    number(adapter);
    return TN_OK;
fail:
    tn_adapter_free(other);
    return status;
}

tn_adapter *tn_adapter_remove(tn_adapter *list, tn_adapter *one) {
    tn_adapter **at = &list;
    while (*at != one)
        at = &(*at)->next;
    *at = one->next;
    free_one(one);
    number(list);
    return list;
}

/* Slots act in the order of the list. */
static void attach_in_order(tn_adapter *list) {
    for (tn_adapter *one = list; one; one = one->next)
        for (int64_t i = 0; i < one->slot_count; i++)
            tn_module_detach(one->slots[i].module, one->slots[i].slot);
    for (tn_adapter *one = list; one; one = one->next)
        for (int64_t i = 0; i < one->slot_count; i++)
            tn_module_attach(one->slots[i].module, one->slots[i].slot);
}

tn_adapter *tn_adapter_replace(tn_adapter *list, tn_adapter *old, tn_adapter *fresh) {
    tn_adapter **at = &list;
    while (*at != old)
        at = &(*at)->next;
    fresh->next = old->next;
    fresh->on = old->on;
    *at = fresh;
    free_one(old);
    number(list);
    attach_in_order(list);
    return list;
}

tn_adapter *tn_adapter_find(tn_adapter *list, const char *name) {
    for (; list; list = list->next)
        if (strcmp(list->name ? list->name : "default", name) == 0)
            return list;
    return NULL;
}

tn_status tn_adapter_set_weight(tn_adapter *list, tn_adapter *one, float weight) {
    if (!isfinite(weight))
        return tn_fail(TN_ERROR_ARGUMENT, "%g is no weight for an adapter", (double)weight);
    if (weight != 0 && weight != 1 && one->replaced_count)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "adapter '%s' replaces '%s' in full, so it can be used whole or not at all, not with a weight of %g",
                       one->name ? one->name : "default", one->replaced[0].module->name, (double)weight);
    if (weight != 0)
        TN_TRY(check_together(list, one));
    one->weight = weight;
    for (int64_t i = 0; i < one->slot_count; i++)
        one->slots[i].slot->weight = weight;
    enable_one(one, one->on && weight != 0);
    return TN_OK;
}

void tn_adapter_mute(tn_adapter *adapter, bool muted) {
    for (; adapter; adapter = adapter->next)
        mute_one(adapter, muted || adapter->weight == 0);
}

void tn_adapter_enable(tn_adapter *adapter, bool enabled) {
    for (; adapter; adapter = adapter->next) {
        adapter->on = enabled;
        enable_one(adapter, enabled && adapter->weight != 0);
    }
}

const tn_peft_config *tn_adapter_invocation(const tn_adapter *adapter) {
    for (; adapter; adapter = adapter->next)
        if (adapter->weight != 0 && adapter->config.invocation_count)
            return &adapter->config;
    return NULL;
}
