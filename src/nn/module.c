/* The base's part of a module's forward, then its adapters' in order. */
#include "nn/module.h"

/* The base's product of x, or of what slots make of it. */
static tn_var *base_linear(const tn_forward *forward, const tn_module *module, tn_var *x) {
    tn_var *in = x;
    for (const tn_slot *slot = module->slots; slot; slot = slot->next) {
        if (slot->disabled || !slot->hooks->input)
            continue;
        tn_var *changed = slot->hooks->input(forward, slot, module, in);
        if (changed != in && in != x)
            tn_drop(forward->tape, in);
        in = changed;
    }
    tn_var *y = tn_op_linear(forward->tape, in, tn_module_weight(module), module->has_bias ? &module->bias : NULL);
    if (in != x)
        tn_drop(forward->tape, in);
    return y;
}

tn_var *tn_linear_forward(const tn_forward *forward, const tn_module *module, tn_var *x) {
    tn_var *y = base_linear(forward, module, x);
    for (const tn_slot *slot = module->slots; slot; slot = slot->next)
        if (!slot->disabled && slot->hooks->linear)
            y = slot->hooks->linear(forward, slot, module, x, y);
    return y;
}

tn_var *tn_embedding_forward(const tn_forward *forward, const tn_module *module, const int32_t *ids, int64_t count) {
    tn_var *y = tn_op_embedding(forward->tape, ids, count, tn_module_weight(module));
    for (const tn_slot *slot = module->slots; slot; slot = slot->next)
        if (!slot->disabled && slot->hooks->embedding)
            y = slot->hooks->embedding(forward, slot, module, ids, y);
    return y;
}

tn_var *tn_norm_forward(const tn_forward *forward, const tn_module *module, tn_var *x, float eps, int64_t groups) {
    return tn_op_rmsnorm(forward->tape, x, &module->weight, eps, groups);
}

void tn_module_attach(tn_module *module, tn_slot *slot) {
    tn_slot **end = &module->slots;
    while (*end)
        end = &(*end)->next;
    slot->next = NULL;
    *end = slot;
}

void tn_module_detach(tn_module *module, tn_slot *slot) {
    for (tn_slot **at = &module->slots; *at; at = &(*at)->next) {
        if (*at == slot) {
            *at = slot->next;
            slot->next = NULL;
            return;
        }
    }
}
