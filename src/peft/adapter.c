/* Building an adapter on a model: slots for the selected modules, trained copies for modules_to_save and biases. */
#include "peft/adapter.h"

#include <math.h>
#include <string.h>

#include "peft/token_rows.h"

static tn_status declare(tn_adapter *adapter, tn_params *store, const tn_module *module, const char *suffix, bool in_file,
                         tn_weight *weight) {
    const char *name =
        module ? tn_arena_printf(&adapter->arena, "%s.%s", module->name, suffix) : tn_arena_strdup(&adapter->arena, suffix);
    if (!name)
        return tn_fail_memory("the adapter");
    TN_TRY(tn_params_add(store, name, weight));
    tn_param *param = &store->entries[store->count - 1];
    param->shared = !module;
    param->in_file = in_file;
    param->is_sparse = module && module->kind == TN_MODULE_EMBEDDING;
    return TN_OK;
}

tn_status tn_adapter_declare(tn_adapter *adapter, const tn_module *module, const char *suffix, tn_weight *weight) {
    return declare(adapter, &adapter->params, module, suffix, true, weight);
}

tn_status tn_adapter_declare_constant(tn_adapter *adapter, const tn_module *module, const char *suffix, bool in_file,
                                      tn_weight *weight) {
    return declare(adapter, &adapter->constants, module, suffix, in_file, weight);
}

tn_status tn_adapter_declare_shared(tn_adapter *adapter, const char *name, bool in_file, tn_weight *weight) {
    return declare(adapter, &adapter->constants, NULL, name, in_file, weight);
}

static tn_status add_slot(tn_adapter *adapter, tn_module *module, const tn_peft_method *method, const tn_slot_hooks *hooks,
                          size_t size, tn_slot **out) {
    tn_slot *slot = tn_arena_alloc(&adapter->arena, size);
    if (!slot)
        return tn_fail_memory("the adapter");
    slot->hooks = hooks;
    slot->weight = 1;
    slot->id = (uint32_t)(module - adapter->model->modules);
    adapter->slots[adapter->slot_count++] = (tn_adapter_slot){module, slot, method};
    *out = slot;
    return TN_OK;
}

/* rank_pattern and alpha_pattern resolved; the rank must fit the module. */
static tn_status add_method_slot(tn_adapter *adapter, tn_module *module) {
    const tn_peft_config *config = &adapter->config;
    int64_t out = tn_weight_out(tn_module_weight(module)), in = tn_weight_in(tn_module_weight(module));
    double rank, alpha;
    TN_TRY(tn_peft_pattern_value(config->rank_pattern, config->rank_pattern_count, module->name, "rank_pattern",
                                 (double)config->rank, &rank));
    TN_TRY(tn_peft_pattern_value(config->alpha_pattern, config->alpha_pattern_count, module->name, "alpha_pattern",
                                 config->alpha, &alpha));
    if (module->kind == TN_MODULE_CONV2D)
        in *= module->conv.groups;
    int64_t most = out < in ? out : in;
    if (adapter->method->rank_key &&
        (!(rank >= 1) || rank != floor(rank) || (rank > (double)most && !adapter->method->any_rank)))
        return tn_fail(TN_ERROR_ARGUMENT, "rank %g does not fit %s, whose weight is %lld x %lld; choose 1 to %lld", rank,
                       module->name, (long long)out, (long long)in, (long long)most);
    tn_slot *slot = NULL;
    TN_TRY(add_slot(adapter, module, adapter->method, &adapter->method->hooks, adapter->method->slot_size, &slot));
    return adapter->method->create(adapter, slot, module, (int64_t)rank, alpha);
}

static tn_status add_replaced(tn_adapter *adapter, tn_module *module, tn_weight *weight, tn_replaced **out) {
    if (adapter->replaced_count == adapter->replaced_capacity) {
        int64_t capacity = adapter->replaced_capacity ? adapter->replaced_capacity * 2 : 32;
        tn_replaced *replaced = tn_realloc_array(adapter->replaced, (size_t)capacity, sizeof *replaced);
        if (!replaced)
            return tn_fail_memory("the adapter");
        adapter->replaced = replaced;
        adapter->replaced_capacity = capacity;
    }
    *out = &adapter->replaced[adapter->replaced_count++];
    **out = (tn_replaced){.module = module,
                          .place = weight,
                          .is_bias = weight == &module->bias,
                          .original = *weight,
                          .tied = module->tied,
                          .was_tied = weight == &module->weight && module->tied};
    return TN_OK;
}

/* The trained copy starts from the base's tensor; until then `weight` still points at it. */
static tn_status replace_part(tn_adapter *adapter, tn_module *module, tn_weight *weight, const char *key) {
    tn_replaced *r;
    TN_TRY(add_replaced(adapter, module, weight, &r));
    if (r->was_tied) {
        weight->tensor = module->tied->weight.tensor;
        module->tied = NULL;
    }
    const char *name = tn_arena_printf(&adapter->arena, "%s.%s", module->name, key);
    if (!name)
        return tn_fail_memory("the adapter");
    TN_TRY(tn_params_add(&adapter->params, name, weight));
    adapter->params.entries[adapter->params.count - 1].is_sparse = module->kind == TN_MODULE_EMBEDDING;
    return TN_OK;
}

tn_status tn_adapter_replace_weight(tn_adapter *adapter, tn_module *module, tn_quantised *array) {
    tn_replaced *r;
    tn_quantised *kept = tn_arena_alloc(&adapter->arena, sizeof *kept);
    tn_status status = kept ? add_replaced(adapter, module, &module->weight, &r) : tn_fail_memory("the adapter");
    if (status != TN_OK) {
        tn_quantised_free(array);
        return status;
    }
    *kept = *array;
    r->quantised = kept;
    module->weight.tensor.dtype = TN_DTYPE_QUANTISED;
    module->weight.tensor.data = kept;
    tn_checkpoint_forget(&adapter->model->checkpoint, &r->original.tensor);
    return TN_OK;
}

static tn_status replace_tensor(tn_adapter *adapter, tn_module *module, bool is_bias, const char *key) {
    return replace_part(adapter, module, is_bias ? &module->bias : &module->weight, key);
}

/* Batch norm's running statistics are learned with its weights, though by no gradient. */
static tn_status replace_running(tn_adapter *adapter, tn_module *module) {
    tn_weight *const parts[2] = {&module->running_mean, &module->running_var};
    static const char *const keys[2] = {"running_mean", "running_var"};
    for (int i = 0; i < 2 && module->has_running; i++) {
        TN_TRY(replace_part(adapter, module, parts[i], keys[i]));
        tn_param *param = &adapter->params.entries[adapter->params.count - 1];
        param->is_buffer = true;
        param->decay = false;
        param->lr_scale = 0;
    }
    return TN_OK;
}

static tn_status check_saved_names(const tn_network *model, tn_text_list names) {
    for (size_t i = 0; i < names.count; i++) {
        bool found = false;
        for (int64_t m = 0; m < model->module_count && !found; m++)
            found = tn_peft_saves_module((tn_text_list){&names.items[i], 1}, model->modules[m].name);
        if (!found)
            return tn_fail(TN_ERROR_ARGUMENT, "modules_to_save: '%s' matches no module", names.items[i]);
    }
    return TN_OK;
}

/* With ensure_weight_tying a tied head stays tied to the trained embedding; otherwise each goes its own way, as in PEFT. */
static tn_status add_saved_modules(tn_adapter *adapter) {
    tn_network *model = adapter->model;
    tn_text_list names = adapter->config.modules_to_save;
    TN_TRY(check_saved_names(model, names));
    for (int64_t i = 0; i < model->module_count; i++) {
        tn_module *module = &model->modules[i];
        if (!tn_peft_saves_module(names, module->name))
            continue;
        if (module->tied && adapter->config.ensure_weight_tying && tn_peft_saves_module(names, module->tied->name))
            continue;
        if (module == model->embedding && model->head && model->head->tied && !adapter->config.ensure_weight_tying) {
            adapter->untied_head = true;
            model->head->weight = module->weight;
            model->head->tied = NULL;
        }
        TN_TRY(replace_tensor(adapter, module, false, "weight"));
        if (module->has_bias)
            TN_TRY(replace_tensor(adapter, module, true, "bias"));
        TN_TRY(replace_running(adapter, module));
    }
    return TN_OK;
}

static tn_status add_biases(tn_adapter *adapter, const bool *selected) {
    tn_network *model = adapter->model;
    for (int64_t i = 0; i < model->module_count && adapter->config.bias != TN_BIAS_NONE; i++) {
        tn_module *module = &model->modules[i];
        if (module->has_bias && (selected[i] || adapter->config.bias == TN_BIAS_ALL))
            TN_TRY(replace_tensor(adapter, module, true, selected[i] ? "base_layer.bias" : "bias"));
    }
    return TN_OK;
}

/* A token listed twice would have two rows, of which one is never used. */
static tn_status check_token_indices(const tn_token_rows *rows, int64_t vocab) {
    bool *seen = tn_calloc((size_t)vocab, sizeof *seen);
    tn_status status = seen ? TN_OK : tn_fail_memory("the adapter");
    for (int64_t k = 0; k < rows->count && status == TN_OK; k++) {
        if (rows->indices[k] >= vocab)
            status = tn_fail(TN_ERROR_ARGUMENT, "trainable_token_indices: %d is outside the vocabulary of %lld tokens",
                             rows->indices[k], (long long)vocab);
        else if (seen[rows->indices[k]])
            status = tn_fail(TN_ERROR_ARGUMENT, "trainable_token_indices: %d is listed twice", rows->indices[k]);
        else
            seen[rows->indices[k]] = true;
    }
    tn_free(seen);
    return status;
}

static tn_status add_token_rows(tn_adapter *adapter, const tn_token_rows *rows) {
    tn_network *model = adapter->model;
    tn_module *module = model->embedding;
    if (!module)
        return tn_fail(TN_ERROR_ARGUMENT, "trainable_token_indices: this model takes no tokens");
    if (rows->module && strcmp(rows->module, "embed_tokens") != 0 && strcmp(rows->module, module->name) != 0)
        return tn_fail(TN_ERROR_UNSUPPORTED, "trainable_token_indices: only the input embedding '%s' is supported, not '%s'",
                       module->name, rows->module);
    int64_t cols = module->weight.tensor.shape[1];
    TN_TRY(check_token_indices(rows, module->weight.tensor.shape[0]));
    tn_slot *base = NULL;
    TN_TRY(add_slot(adapter, module, NULL, &tn_token_rows_hooks, sizeof(tn_token_rows_slot), &base));
    tn_token_rows_slot *slot = (tn_token_rows_slot *)base;
    slot->indices = rows->indices;
    slot->rows = &slot->storage;
    slot->storage.tensor = (tn_tensor){.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {rows->count, cols}};
    TN_TRY(tn_adapter_declare(adapter, module, "token_adapter.trainable_tokens_delta", &slot->storage));
    if (!model->head || !model->head->tied)
        return TN_OK;
    TN_TRY(add_slot(adapter, model->head, NULL, &tn_token_rows_hooks, sizeof(tn_token_rows_slot), &base));
    tn_token_rows_slot *follower = (tn_token_rows_slot *)base;
    follower->indices = slot->indices;
    follower->rows = slot->rows;
    return TN_OK;
}

static const char *leaf_of(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

/* The shortest ending of names that a list of targets can hold for this module and no unselected one. */
static const char *target_name(const tn_network *model, const bool *selected, const char *name) {
    const char *leaf = leaf_of(name);
    for (int64_t i = 0; i < model->module_count; i++)
        if (!selected[i] && strcmp(leaf_of(model->modules[i].name), leaf) == 0)
            return name;
    return leaf;
}

/* A saved configuration names modules, so that it means the same in every tool. */
static tn_status resolve_all_linear(tn_adapter *adapter, const bool *selected) {
    const tn_network *model = adapter->model;
    size_t count = 0;
    if (!adapter->config.all_linear)
        return TN_OK;
    const char **names = tn_arena_array(&adapter->arena, (size_t)model->module_count, sizeof *names);
    if (!names)
        return tn_fail_memory("the adapter");
    for (int64_t i = 0; i < model->module_count; i++) {
        const char *name = selected[i] ? target_name(model, selected, model->modules[i].name) : NULL;
        bool seen = !name;
        for (size_t j = 0; j < count && !seen; j++)
            seen = strcmp(names[j], name) == 0;
        if (!seen)
            names[count++] = name;
    }
    adapter->config.all_linear = false;
    return tn_peft_config_copy_list(&adapter->config, (tn_text_list){names, count}, &adapter->config.target_modules);
}

static tn_status build(tn_adapter *adapter, bool *selected) {
    tn_network *model = adapter->model;
    tn_peft_config *config = &adapter->config;
    if (config->replication_count) {
        if (!model->kind->replicate)
            return tn_fail(TN_ERROR_UNSUPPORTED, "layer_replication: the layers of a %s model cannot be stacked",
                           model->family);
        TN_TRY(model->kind->replicate(model, (const int64_t(*)[2])config->replication, (int64_t)config->replication_count));
        adapter->replicated = true;
    }
    TN_TRY(tn_peft_config_check(config));
    if (adapter->method->complete)
        TN_TRY(adapter->method->complete(model, config));
    if (!config->target_modules.count && !config->target_regex && !config->all_linear && !config->target_parameters.count)
        TN_TRY(tn_peft_config_set_targets(config, model->default_targets));
    TN_TRY(tn_peft_select(model, config, adapter->method, selected));
    TN_TRY(resolve_all_linear(adapter, selected));
    adapter->slots = tn_calloc((size_t)model->module_count + 2 * config->token_rows_count + 2, sizeof *adapter->slots);
    if (!adapter->slots)
        return tn_fail_memory("the adapter");
    if (adapter->method->begin)
        TN_TRY(adapter->method->begin(adapter, selected));
    config->fan_in_fan_out = false; /* how the layers are stored counts, not what a file says */
    for (int64_t i = 0; i < model->module_count; i++) {
        if (!selected[i])
            continue;
        config->fan_in_fan_out = config->fan_in_fan_out || model->modules[i].weight.transposed;
        TN_TRY(add_method_slot(adapter, &model->modules[i]));
    }
    for (size_t i = 0; i < config->token_rows_count; i++)
        TN_TRY(add_token_rows(adapter, &config->token_rows[i]));
    TN_TRY(add_biases(adapter, selected));
    return add_saved_modules(adapter);
}

static tn_status start_values(tn_adapter *adapter, uint64_t seed) {
    if (adapter->method->init_shared)
        TN_TRY(adapter->method->init_shared(adapter, seed));
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_adapter_slot *s = &adapter->slots[i];
        if (s->method) {
            TN_TRY(s->method->init(adapter, s->slot, s->module, seed));
            continue;
        }
        tn_token_rows_slot *rows = (tn_token_rows_slot *)s->slot;
        const tn_tensor *table = &tn_module_weight(s->module)->tensor;
        int64_t cols = table->shape[1];
        for (int64_t k = 0; k < rows->rows->tensor.shape[0]; k++)
            tn_tensor_read((float *)rows->rows->tensor.data + k * cols, table, rows->indices[k] * cols, cols);
    }
    return TN_OK;
}

static void attach(tn_adapter *adapter) {
    for (int64_t i = 0; i < adapter->slot_count; i++)
        tn_module_attach(adapter->slots[i].module, adapter->slots[i].slot);
    adapter->attached = adapter->on = adapter->enabled = true;
    adapter->weight = 1;
}

tn_status tn_adapter_outline(tn_network *model, const tn_peft_method *method, tn_peft_config *config, bool trainable,
                             tn_adapter **out) {
    tn_adapter *adapter = tn_calloc(1, sizeof *adapter);
    *out = NULL;
    if (!adapter) {
        tn_peft_config_free(config);
        return tn_fail_memory("the adapter");
    }
    adapter->model = model;
    adapter->method = method;
    adapter->trainable = trainable;
    adapter->config = *config;
    *config = (tn_peft_config){0};
    int64_t modules = model->module_count;
    for (size_t i = 0; i < adapter->config.replication_count; i++)
        modules += model->module_count;
    bool *selected = tn_calloc((size_t)modules, 1);
    tn_status status = selected ? build(adapter, selected) : tn_fail_memory("the adapter");
    tn_free(selected);
    if (status == TN_OK)
        *out = adapter;
    else
        tn_adapter_free(adapter);
    return status;
}

static tn_status create(tn_network *model, const tn_peft_method *method, tn_peft_config *config, bool trainable,
                        bool from_file, uint64_t seed, tn_adapter **out) {
    tn_adapter *adapter;
    tn_status status;
    *out = NULL;
    TN_TRY(tn_adapter_outline(model, method, config, trainable, &adapter));
    adapter->from_file = from_file;
    TN_TRY_GOTO(tn_params_build(&adapter->params, trainable));
    TN_TRY_GOTO(tn_params_build(&adapter->constants, false));
    TN_TRY_GOTO(start_values(adapter, seed));
    attach(adapter);
    *out = adapter;
    return TN_OK;
fail:
    tn_adapter_free(adapter);
    return status;
}

tn_status tn_adapter_create(tn_network *model, const tn_peft_method *method, tn_peft_config *config, bool trainable,
                            uint64_t seed, tn_adapter **out) {
    return create(model, method, config, trainable, false, seed, out);
}

tn_status tn_adapter_create_for_file(tn_network *model, const tn_peft_method *method, tn_peft_config *config, bool trainable,
                                     tn_adapter **out) {
    return create(model, method, config, trainable, true, 0, out);
}

tn_status tn_adapter_create_full(tn_network *model, bool trainable, tn_adapter **out) {
    tn_adapter *adapter = tn_calloc(1, sizeof *adapter);
    tn_status status;
    *out = NULL;
    if (!adapter)
        return tn_fail_memory("the trained weights");
    adapter->model = model;
    adapter->trainable = trainable;
    for (int64_t i = 0; i < model->module_count; i++) {
        tn_module *module = &model->modules[i];
        if (!module->tied)
            TN_TRY_GOTO(replace_tensor(adapter, module, false, "weight"));
        if (module->has_bias)
            TN_TRY_GOTO(replace_tensor(adapter, module, true, "bias"));
        TN_TRY_GOTO(replace_running(adapter, module));
    }
    TN_TRY_GOTO(tn_params_build(&adapter->params, trainable));
    for (int64_t i = 0; i < adapter->params.count; i++)
        adapter->params.entries[i].decay = adapter->params.entries[i].weight->tensor.ndim > 1;
    adapter->attached = adapter->on = adapter->enabled = true;
    adapter->weight = 1;
    *out = adapter;
    return TN_OK;
fail:
    tn_adapter_free(adapter);
    return status;
}
