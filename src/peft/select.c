/* Which modules a configuration selects: PEFT's rules for target_modules, exclude_modules and layers_to_transform. */
#include <string.h>

#include "peft/adapter.h"

/* name == entry, or name ends in "." + entry. */
static bool names_module(const char *entry, const char *name) {
    size_t length = strlen(name), tail = strlen(entry);
    if (tail > length || strcmp(name + length - tail, entry) != 0)
        return false;
    return tail == length || name[length - tail - 1] == '.';
}

static bool in_list(tn_text_list list, const char *name, bool *used) {
    bool found = false;
    for (size_t i = 0; i < list.count; i++) {
        if (names_module(list.items[i], name)) {
            found = true;
            if (used)
                used[i] = true;
        }
    }
    return found;
}

bool tn_peft_names_module(tn_text_list list, const char *name) {
    return in_list(list, name, NULL);
}

bool tn_peft_saves_module(tn_text_list modules_to_save, const char *name) {
    for (size_t i = 0; i < modules_to_save.count; i++) {
        const char *entry = modules_to_save.items[i];
        size_t length = strlen(name), tail = strlen(entry);
        if (tail <= length && strcmp(name + length - tail, entry) == 0)
            return true;
    }
    return false;
}

/* Layer numbers follow the name given by layers_pattern, or any name: ".*\.[^.]*\.(\d+)\." */
static bool layer_is_selected(const tn_peft_config *config, const tn_module *module) {
    if (!config->layers_count)
        return true;
    if (module->layer < 0)
        return false;
    bool pattern_fits = config->layers_pattern.count == 0;
    for (size_t i = 0; i < config->layers_pattern.count; i++)
        pattern_fits = pattern_fits || strcmp(config->layers_pattern.items[i], "layers") == 0;
    for (size_t i = 0; i < config->layers_count && pattern_fits; i++)
        if (config->layers[i] == module->layer)
            return true;
    return false;
}

static tn_status is_selected(const tn_peft_config *config, const tn_module *module, bool *used, bool *selected) {
    *selected = false;
    bool named = in_list(config->target_modules, module->name, used);
    bool excluded = tn_peft_names_module(config->exclude_modules, module->name);
    if (config->exclude_regex)
        TN_TRY(tn_peft_full_match(config->exclude_regex, module->name, "exclude_modules", &excluded));
    if (excluded || tn_peft_saves_module(config->modules_to_save, module->name))
        return TN_OK;
    if (config->all_linear)
        *selected = (module->kind == TN_MODULE_LINEAR || module->kind == TN_MODULE_CONV2D) && !module->is_head;
    else if (config->target_regex)
        TN_TRY(tn_peft_full_match(config->target_regex, module->name, "target_modules", selected));
    else
        *selected = named;
    if (!*selected && config->target_parameters.count) {
        char weight[512];
        snprintf(weight, sizeof weight, "%s.weight", module->name);
        *selected = in_list(config->target_parameters, weight, NULL);
    }
    *selected = *selected && layer_is_selected(config, module);
    return TN_OK;
}

static const char *leaf(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

/* "none of the model's modules is named X; nearest: Y; it has a, b, c". */
static tn_status fail_unmatched(const tn_network *model, const char *entry) {
    const char *leaves[64];
    size_t count = 0;
    tn_buf list = {0};
    for (int64_t i = 0; i < model->module_count && count < 64; i++) {
        const char *name = leaf(model->modules[i].name);
        bool seen = model->modules[i].kind == TN_MODULE_NORM;
        for (size_t j = 0; j < count; j++)
            seen = seen || strcmp(leaves[j], name) == 0;
        if (!seen) {
            tn_buf_printf(&list, "%s%s", count ? ", " : "", name);
            leaves[count++] = name;
        }
    }
    const char *nearest = tn_nearest_name(leaf(entry), leaves, count);
    tn_status status =
        tn_fail(TN_ERROR_ARGUMENT, "target module '%s' matches nothing in this model%s%s%s; it has %s", entry,
                nearest ? " (did you mean '" : "", nearest ? nearest : "", nearest ? "'?)" : "", tn_buf_text(&list));
    tn_buf_free(&list);
    return status;
}

static tn_status fail_nothing_selected(const tn_network *model, const tn_peft_config *config, const tn_peft_method *method) {
    if (config->layers_count && model->layer_count == 0)
        return tn_fail(TN_ERROR_ARGUMENT, "the layers of a %s model have no numbers to choose by; name target modules",
                       model->family);
    if (config->layers_count)
        return tn_fail(TN_ERROR_ARGUMENT, "no target module lies in the chosen layers; the model has layers 0 to %lld",
                       (long long)model->layer_count - 1);
    if (config->all_linear)
        return tn_fail(TN_ERROR_ARGUMENT,
                       "all-linear leaves the output layer alone, and %s can adapt no other layer of this model; name "
                       "target modules or choose another method",
                       method->name);
    return fail_unmatched(model, config->target_regex ? config->target_regex : "(none given)");
}

tn_status tn_peft_select(const tn_network *model, const tn_peft_config *config, const tn_peft_method *method,
                         bool *selected) {
    int64_t count = 0;
    tn_status status = TN_OK;
    bool *used = tn_calloc(config->target_modules.count + 1, 1);
    if (!used)
        return tn_fail_memory("the target modules");
    for (int64_t i = 0; i < model->module_count; i++) {
        const tn_module *module = &model->modules[i];
        TN_TRY_GOTO(is_selected(config, module, used, &selected[i]));
        if (config->all_linear)
            selected[i] = selected[i] && method->fits(module);
        if (selected[i] && !method->fits(module)) {
            status = tn_fail(TN_ERROR_UNSUPPORTED, "target module '%s' is of a kind that %s cannot adapt", module->name,
                             method->name);
            goto fail;
        }
        count += selected[i];
    }
    for (size_t i = 0; i < config->target_modules.count; i++) {
        if (!used[i]) {
            status = fail_unmatched(model, config->target_modules.items[i]);
            goto fail;
        }
    }
    bool others = config->token_rows_count || config->modules_to_save.count;
    if (count == 0 && (!others || (config->layers_count && model->layer_count == 0)))
        status = fail_nothing_selected(model, config, method);
fail:
    tn_free(used);
    return status;
}
