/* The adapters of a model by name: attaching, detaching, choosing. */
#include <math.h>
#include <string.h>

#include "session/session.h"

static tn_status fail_unknown(const tn_model *model, const char *name) {
    tn_buf list = {0};
    for (const tn_adapter *one = model->adapter; one; one = one->next)
        tn_buf_printf(&list, "%s%s", one == model->adapter ? "" : ", ", one->name ? one->name : "default");
    tn_status status = tn_fail(TN_ERROR_ARGUMENT, "the model has no adapter '%s'; it has %s", name,
                               list.length ? tn_buf_text(&list) : "none");
    tn_buf_free(&list);
    return status;
}

static tn_status find(const tn_model *model, const char *name, tn_adapter **out) {
    *out = tn_adapter_find(model->adapter, name);
    return *out ? TN_OK : fail_unknown(model, name);
}

/* Loads beside the others, which stand aside meanwhile: a configuration may compute from the base's weights. */
static tn_status load_aside(tn_model *model, const char *dir, tn_adapter **out) {
    const tn_adapter_load_options options = {0};
    bool on = !model->adapter || model->adapter->on;
    tn_adapter_enable(model->adapter, false);
    tn_status status = tn_adapter_load(model->network, dir, &options, NULL, out);
    if (status == TN_OK) {
        tn_adapter_enable(*out, false);
        status = tn_adapter_set_weight(*out, *out, 0);
    }
    tn_adapter_enable(model->adapter, on);
    return status;
}

tn_status tn_model_attach_adapter(tn_model *model, const char *dir, const char *name) {
    tn_adapter *adapter;
    if (!name || !name[0])
        return tn_fail(TN_ERROR_ARGUMENT, "%s: an adapter beside others needs a name", dir);
    if (tn_adapter_find(model->adapter, name))
        return tn_fail(TN_ERROR_ARGUMENT, "the model has an adapter '%s' already; detach it or choose another name", name);
    if (model->adapter && !model->adapter->method)
        return tn_fail(TN_ERROR_UNSUPPORTED, "the whole model is being trained; adapters cannot be attached to it");
    TN_TRY(load_aside(model, dir, &adapter));
    if (model->adapter)
        return tn_adapter_append(model->adapter, adapter, name);
    adapter->name = tn_arena_strdup(&adapter->arena, name);
    if (!adapter->name) {
        tn_adapter_free(adapter);
        return tn_fail_memory("the adapter");
    }
    tn_adapter_enable(adapter, true);
    model->adapter = adapter;
    return TN_OK;
}

tn_status tn_model_detach_adapter(tn_model *model, const char *name) {
    tn_adapter *one;
    TN_TRY(find(model, name, &one));
    model->adapter = tn_adapter_remove(model->adapter, one);
    return TN_OK;
}

tn_status tn_model_reload_adapter(tn_model *model, const char *name) {
    tn_adapter *old, *fresh;
    TN_TRY(find(model, name, &old));
    if (!old->dir)
        return tn_fail(TN_ERROR_ARGUMENT, "adapter '%s' came from no folder, so it cannot be read again", name);
    TN_TRY(load_aside(model, old->dir, &fresh));
    fresh->name = tn_arena_strdup(&fresh->arena, name);
    if (!fresh->name) {
        tn_adapter_free(fresh);
        return tn_fail_memory("the adapter");
    }
    float weight = old->weight;
    model->adapter = tn_adapter_replace(model->adapter, old, fresh);
    return tn_adapter_set_weight(model->adapter, fresh, weight);
}

static tn_status check_mix(const tn_model *model, const tn_adapter_mix *mix) {
    for (size_t i = 0; i < mix->count; i++) {
        tn_adapter *one;
        TN_TRY(find(model, mix->names[i], &one));
        if (mix->weights && !isfinite(mix->weights[i]))
            return tn_fail(TN_ERROR_ARGUMENT, "adapter '%s': %g is no weight", mix->names[i], mix->weights[i]);
        for (size_t j = 0; j < i; j++)
            if (strcmp(mix->names[i], mix->names[j]) == 0)
                return tn_fail(TN_ERROR_ARGUMENT, "adapter '%s' is named twice", mix->names[i]);
    }
    return TN_OK;
}

static float weight_of(const tn_adapter_mix *mix, size_t i) {
    return mix->weights ? (float)mix->weights[i] : 1;
}

static tn_status set_weights(tn_model *model, const tn_adapter_mix *mix) {
    for (tn_adapter *one = model->adapter; one; one = one->next)
        TN_TRY(tn_adapter_set_weight(model->adapter, one, 0));
    for (size_t i = 0; i < mix->count; i++)
        TN_TRY(tn_adapter_set_weight(model->adapter, tn_adapter_find(model->adapter, mix->names[i]), weight_of(mix, i)));
    return TN_OK;
}

tn_status tn_model_use_adapters(tn_model *model, const tn_adapter_mix *mix) {
    TN_TRY(check_mix(model, mix));
    size_t count = tn_model_list_adapters(model, NULL, NULL, 0);
    const char **names = tn_malloc((count + 1) * sizeof *names);
    double *weights = tn_malloc((count + 1) * sizeof *weights);
    tn_status status = names && weights ? TN_OK : tn_fail_memory("the adapters");
    if (status == TN_OK) {
        tn_model_list_adapters(model, names, weights, count);
        status = set_weights(model, mix);
        if (status != TN_OK)
            set_weights(model, &(tn_adapter_mix){names, weights, count});
    }
    tn_free(names);
    tn_free(weights);
    return status;
}

size_t tn_model_list_adapters(const tn_model *model, const char **names, double *weights, size_t capacity) {
    size_t count = 0;
    for (const tn_adapter *one = model->adapter; one; one = one->next, count++) {
        if (count < capacity && names)
            names[count] = one->name ? one->name : "default";
        if (count < capacity && weights)
            weights[count] = one->weight;
    }
    return count;
}

tn_status tn_model_set_metadata(tn_model *model, const char *adapter, const char *key, const char *value) {
    tn_adapter *one = model->adapter;
    if (adapter)
        TN_TRY(find(model, adapter, &one));
    if (!one)
        return tn_fail(TN_ERROR_ARGUMENT, "the model has no adapter to keep '%s' with", key);
    if (!one->method)
        return tn_fail(TN_ERROR_UNSUPPORTED, "the whole model is being trained; only an adapter's file keeps metadata");
    return tn_adapter_set_metadata(one, key, value);
}

size_t tn_model_list_metadata(const tn_model *model, const char *adapter, const char **keys, const char **values,
                              size_t capacity) {
    const tn_adapter *one = adapter ? tn_adapter_find(model->adapter, adapter) : model->adapter;
    return one ? tn_adapter_list_metadata(one, keys, values, capacity) : 0;
}

tn_status tn_session_mix_weights(const tn_model *model, const tn_adapter_mix *mix, float *weights) {
    size_t index = 0;
    if (mix)
        TN_TRY(check_mix(model, mix));
    for (const tn_adapter *one = model->adapter; one; one = one->next, index++) {
        weights[index] = mix ? 0 : one->weight;
        for (size_t i = 0; mix && i < mix->count; i++)
            if (tn_adapter_find(model->adapter, mix->names[i]) == one)
                weights[index] = weight_of(mix, i);
        if (mix && weights[index] != 0 && (one->replaced_count || one->config.invocation_count))
            return tn_fail(
                TN_ERROR_UNSUPPORTED,
                "adapter '%s' replaces tensors of the base or waits for invocation tokens, so it cannot be chosen "
                "for single rows of a batch; use it for the whole model",
                one->name ? one->name : "default");
    }
    return TN_OK;
}

static float row_weight(const tn_row_mixes *mixes, size_t adapter, int32_t owner) {
    return mixes->weights[(size_t)owner * mixes->adapters + adapter];
}

/* Distinct weights of one adapter among rows, each a route. */
static size_t add_routes(const tn_row_mixes *mixes, size_t adapter, const int32_t *owners, int64_t rows, tn_route *routes,
                         int32_t **places) {
    size_t count = 0;
    for (int64_t i = 0; i < rows; i++) {
        float weight = row_weight(mixes, adapter, owners[i]);
        bool seen = weight == 0;
        for (size_t r = 0; r < count && !seen; r++)
            seen = routes[r].weight == weight;
        if (seen)
            continue;
        tn_route *route = &routes[count++];
        *route = (tn_route){.adapter = (int)adapter, .weight = weight, .rows = *places};
        for (int64_t j = i; j < rows; j++)
            if (row_weight(mixes, adapter, owners[j]) == weight)
                (*places)[route->count++] = (int32_t)j;
        *places += route->count;
    }
    return count;
}

static const tn_routing *actual_routing(tn_tape *tape, const tn_row_mixes *mixes, const int32_t *owners, int64_t rows,
                                        tn_routing *routing, tn_route *routes) {
    size_t used = 0;
    for (size_t a = 0; a < mixes->adapters; a++)
        for (int64_t i = 0; i < rows; i++)
            used += row_weight(mixes, a, owners[i]) != 0;
    int32_t *places = tn_tape_store(tape, used * sizeof *places);
    for (size_t a = 0; a < mixes->adapters && places; a++)
        routing->count += (int64_t)add_routes(mixes, a, owners, rows, routes + routing->count, &places);
    return routing;
}

/* What a rehearsal plans for: every adapter on every row, on copies. */
static const tn_routing *worst_routing(tn_tape *tape, const tn_row_mixes *mixes, int64_t rows, tn_routing *routing,
                                       tn_route *routes) {
    const int32_t *places = tn_tape_store(tape, (size_t)rows * sizeof *places);
    for (size_t a = 0; a < mixes->adapters; a++)
        routes[a] = (tn_route){.adapter = (int)a, .weight = 0.5f, .rows = places, .count = rows};
    routing->count = (int64_t)mixes->adapters;
    return routing;
}

const tn_routing *tn_session_routing(tn_tape *tape, const tn_row_mixes *mixes, const int32_t *owners, int64_t rows) {
    tn_routing *routing = tn_tape_store(tape, sizeof *routing);
    tn_route *routes = tn_tape_store(tape, mixes->adapters * mixes->sequences * sizeof *routes);
    if (!routing || !routes)
        return NULL;
    routing->routes = routes;
    return tape->rehearsal ? worst_routing(tape, mixes, rows, routing, routes)
                           : actual_routing(tape, mixes, owners, rows, routing, routes);
}
