/* The base's part of a module's forward, then its adapters' in order. */
#include "nn/module.h"

typedef struct {
    const tn_forward *forward;
    const tn_module *module;
    bool embedding;
    tn_var *x;          /* of other modules */
    const int32_t *ids; /* of an embedding; NULL in a rehearsal */
} inputs;

static tn_var *call(const inputs *in, const tn_slot *slot, tn_var *x, const int32_t *ids, tn_var *y) {
    if (in->embedding)
        return slot->hooks->embedding(in->forward, slot, in->module, ids, y);
    if (in->module->kind == TN_MODULE_CONV2D)
        return slot->hooks->conv(in->forward, slot, in->module, x, y);
    return slot->hooks->linear(in->forward, slot, in->module, x, y);
}

static const int32_t *take_ids(tn_tape *tape, const int32_t *ids, const tn_route *route) {
    int32_t *taken = tn_tape_store(tape, (size_t)route->count * sizeof *taken);
    for (int64_t i = 0; i < route->count && taken && tn_tape_live(tape); i++)
        taken[i] = ids[route->rows[i]];
    return taken;
}

/* The slot on some rows, or with a weight: on a copy, of which y then takes its share. */
static tn_var *call_on(const inputs *in, const tn_slot *slot, const tn_route *route, tn_var *y) {
    tn_tape *tape = in->forward->tape;
    tn_var *x = in->x;
    const int32_t *ids = in->ids;
    if (route->rows && in->embedding && !(ids = take_ids(tape, ids, route)))
        return y;
    if (route->rows && !in->embedding)
        x = tn_op_take_rows(tape, x, route->rows, 0, route->count);
    tn_var *part = call(in, slot, x, ids, tn_op_take_rows(tape, y, route->rows, 0, route->count));
    if (x != in->x)
        tn_drop(tape, x);
    tn_op_blend_rows(tape, y, part, route->rows, route->weight);
    tn_drop(tape, part);
    return y;
}

static tn_var *apply(const inputs *in, const tn_slot *slot, tn_var *y) {
    const tn_routing *routing = in->forward->routing;
    if (!routing && slot->disabled)
        return y;
    if (!routing && slot->weight == 1)
        return call(in, slot, in->x, in->ids, y);
    if (!routing) {
        const tn_route all = {.weight = slot->weight, .count = y->rows};
        return call_on(in, slot, &all, y);
    }
    for (int64_t i = 0; i < routing->count; i++)
        if (routing->routes[i].adapter == slot->adapter)
            y = call_on(in, slot, &routing->routes[i], y);
    return y;
}

/* The input that a slot makes of `in`, on some rows or with a weight: of a copy, which takes its share. */
static tn_var *input_on(const tn_forward *forward, const tn_module *module, const tn_slot *slot, const tn_route *route,
                        tn_var *in) {
    tn_tape *tape = forward->tape;
    tn_var *part = tn_op_take_rows(tape, in, route->rows, 0, route->count), *out = in;
    tn_var *changed = slot->hooks->input(forward, slot, module, part);
    if (changed != part) {
        out = tn_op_take_rows(tape, in, NULL, 0, in->rows);
        tn_op_blend_rows(tape, out, changed, route->rows, route->weight);
        tn_drop(tape, changed);
    }
    tn_drop(tape, part);
    return out;
}

/* `out` instead of `in`, which is let go unless it is the module's own input x. */
static tn_var *instead(tn_tape *tape, tn_var *x, tn_var *in, tn_var *out) {
    if (out != in && in != x)
        tn_drop(tape, in);
    return out;
}

static tn_var *apply_input(const tn_forward *forward, const tn_module *module, const tn_slot *slot, tn_var *x, tn_var *in) {
    const tn_routing *routing = forward->routing;
    const tn_route all = {.weight = slot->weight, .count = in->rows};
    if (!routing && slot->disabled)
        return in;
    if (!routing && slot->weight == 1)
        return instead(forward->tape, x, in, slot->hooks->input(forward, slot, module, in));
    if (!routing)
        return instead(forward->tape, x, in, input_on(forward, module, slot, &all, in));
    for (int64_t i = 0; i < routing->count; i++)
        if (routing->routes[i].adapter == slot->adapter)
            in = instead(forward->tape, x, in, input_on(forward, module, slot, &routing->routes[i], in));
    return in;
}

/* The base's product of x, or of what slots make of it. */
static tn_var *base_product(const tn_forward *forward, const tn_module *module, tn_var *x) {
    const tn_weight *weight = tn_module_weight(module), *bias = module->has_bias ? &module->bias : NULL;
    tn_var *in = x;
    for (const tn_slot *slot = module->slots; slot; slot = slot->next)
        if (slot->hooks->input)
            in = apply_input(forward, module, slot, x, in);
    tn_var *y = module->kind == TN_MODULE_CONV2D ? tn_op_conv2d(forward->tape, in, &module->conv, weight, bias)
                                                 : tn_op_linear(forward->tape, in, weight, bias);
    if (in != x)
        tn_drop(forward->tape, in);
    return y;
}

static tn_var *apply_linear_slots(const tn_forward *forward, const tn_module *module, tn_var *x, tn_var *y) {
    const inputs in = {.forward = forward, .module = module, .x = x};
    for (const tn_slot *slot = module->slots; slot; slot = slot->next)
        if (slot->hooks->linear)
            y = apply(&in, slot, y);
    return y;
}

tn_var *tn_linear_forward(const tn_forward *forward, const tn_module *module, tn_var *x) {
    return apply_linear_slots(forward, module, x, base_product(forward, module, x));
}

static bool reads_own_input(const tn_module *module) {
    for (const tn_slot *slot = module->slots; slot; slot = slot->next)
        if (slot->hooks->input)
            return false;
    return true;
}

void tn_linear_forward_each(const tn_forward *forward, const tn_module *const *modules, int64_t count, tn_var *x,
                            tn_var **ys) {
    const tn_weight *weights[TN_LINEARS_TOGETHER], *biases[TN_LINEARS_TOGETHER];
    bool together = forward->tape->inferring && count <= TN_LINEARS_TOGETHER;
    for (int64_t i = 0; i < count && together; i++) {
        together = reads_own_input(modules[i]);
        weights[i] = tn_module_weight(modules[i]);
        biases[i] = modules[i]->has_bias ? &modules[i]->bias : NULL;
    }
    if (together)
        tn_op_linears_inferred(forward->tape, x, weights, biases, count, ys);
    for (int64_t i = 0; i < count; i++)
        ys[i] = together ? apply_linear_slots(forward, modules[i], x, ys[i]) : tn_linear_forward(forward, modules[i], x);
}

tn_var *tn_embedding_forward(const tn_forward *forward, const tn_module *module, const int32_t *ids, int64_t count) {
    tn_var *y = tn_op_embedding(forward->tape, ids, count, tn_module_weight(module));
    const inputs in = {.forward = forward, .module = module, .embedding = true, .ids = ids};
    for (const tn_slot *slot = module->slots; slot; slot = slot->next)
        if (slot->hooks->embedding)
            y = apply(&in, slot, y);
    return y;
}

tn_var *tn_conv_forward(const tn_forward *forward, const tn_module *module, tn_var *x) {
    tn_var *y = base_product(forward, module, x);
    const inputs in = {.forward = forward, .module = module, .x = x};
    for (const tn_slot *slot = module->slots; slot; slot = slot->next)
        if (slot->hooks->conv)
            y = apply(&in, slot, y);
    return y;
}

tn_var *tn_norm_forward(const tn_forward *forward, const tn_module *module, tn_var *x, float eps, int64_t groups) {
    return tn_op_rmsnorm(forward->tape, x, &module->weight, eps, groups);
}

tn_var *tn_layernorm_forward(const tn_forward *forward, const tn_module *module, tn_var *x, float eps) {
    return tn_op_layernorm(forward->tape, x, &module->weight, module->has_bias ? &module->bias : NULL, eps);
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
