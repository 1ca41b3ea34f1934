/* The base's part of a module's forward, then its adapters' in order. */
#include "nn/module.h"

tn_var *tn_linear_forward(const tn_forward *forward, const tn_module *module, tn_var *x) {
    tn_var *y = tn_op_linear(forward->tape, x, tn_module_weight(module), module->has_bias ? &module->bias : NULL);
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

tn_var *tn_conv_forward(const tn_forward *forward, const tn_module *module, tn_var *x) {
    tn_var *y = tn_op_conv2d(forward->tape, x, &module->conv, &module->weight, module->has_bias ? &module->bias : NULL);
    for (const tn_slot *slot = module->slots; slot; slot = slot->next)
        if (!slot->disabled && slot->hooks->conv)
            y = slot->hooks->conv(forward, slot, module, x, y);
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

const char *tn_module_part_name(int part) {
    static const char *const names[TN_MODULE_PARTS] = {"weight", "bias", "running_mean", "running_var"};
    return names[part];
}

tn_weight *tn_module_part(tn_module *module, int part) {
    switch (part) {
    case 0: return module->tied ? NULL : &module->weight;
    case 1: return module->has_bias ? &module->bias : NULL;
    case 2: return module->has_running ? &module->running_mean : NULL;
    default: return module->has_running ? &module->running_var : NULL;
    }
}
