/* IA3 (Liu et al. 2022, arXiv 2205.05638): y = l * (W x + b) by elements, l [O, 1]; for feed-forward modules y = W (l * x) +
 * b, l [1, C]. l starts as ones. On a convolution l is [1, O, 1, 1] or [1, C, 1, 1], a factor for each channel. */
#include <string.h>

#include "base/rng.h"
#include "peft/adapter.h"
#include "peft/methods.h"

typedef struct {
    tn_text_list feedforward; /* names, or one regular expression */
    bool init_weights;
} ia3_settings;

static const char feedforward_option[] = "feedforward-modules", feedforward_key[] = "feedforward_modules";

static const tn_option ia3_options[] = {
    {.name = feedforward_option,
     .type = TN_OPTION_LIST,
     TN_FIELD(ia3_settings, feedforward),
     .help = "targets whose inputs are scaled, or a regular expression"},
    {.name = "init-ia3-weights",
     .type = TN_OPTION_BOOL,
     TN_FIELD(ia3_settings, init_weights),
     .initial = "true",
     .help = "start without an effect rather than at random"},
    {0},
};

/* PEFT's table of what is adapted when nothing is named. */
static const struct {
    const char *family, *targets, *feedforward;
} defaults[] = {
    {"llama", "k_proj,v_proj,down_proj", "down_proj"}, {"mistral", "k_proj,v_proj,down_proj", "down_proj"},
    {"qwen2", "q_proj,v_proj,down_proj", "down_proj"}, {"qwen3", "q_proj,v_proj,down_proj", "down_proj"},
    {"gemma", "q_proj,v_proj,down_proj", "down_proj"}, {"gemma2", "q_proj,v_proj,down_proj", "down_proj"},
    {"gpt2", "c_attn,mlp.c_proj", "mlp.c_proj"},       {"gpt_neox", "query_key_value,dense_4h_to_h", "dense_4h_to_h"},
};
enum { FAMILIES = sizeof defaults / sizeof *defaults };

typedef struct {
    tn_slot slot;
    tn_weight l;
    bool feedforward;
} ia3_slot;

static int64_t outputs_of(const tn_module *module) {
    return tn_weight_out(tn_module_weight(module));
}

static int64_t inputs_of(const tn_module *module) {
    return tn_weight_in(tn_module_weight(module));
}

static bool ia3_fits(const tn_module *module) {
    return module->kind == TN_MODULE_LINEAR || module->kind == TN_MODULE_CONV2D;
}

/* --- which modules are feed-forward --- */

static size_t family_of(const tn_network *model) {
    size_t i = 0;
    while (i < FAMILIES && strcmp(defaults[i].family, model->family) != 0)
        i++;
    return i;
}

static tn_status ia3_complete(const tn_network *model, tn_peft_config *config) {
    size_t family = family_of(model);
    if (config->target_modules.count || config->target_regex || config->all_linear)
        return TN_OK;
    if (family == FAMILIES)
        return tn_fail(TN_ERROR_ARGUMENT, "ia3 has no default targets for a %s model; name them", model->family);
    return tn_peft_config_set_targets(config, defaults[family].targets);
}

/* The regular expression that stands in place of names; NULL: there is none. */
static const char *regex_of(const ia3_settings *settings) {
    const tn_text_list *list = &settings->feedforward;
    return list->count == 1 && strpbrk(list->items[0], "*+?()[]{}|^$\\") ? list->items[0] : NULL;
}

static tn_status set_feedforward(tn_peft_config *config, const char *const *items, size_t count) {
    return tn_options_set_list(&config->options, feedforward_option, items, count, TN_SOURCE_FLAG);
}

/* The table's names; where targets are listed, the targets that end in one: PEFT wants feed-forward modules to be among
 * the targets. */
static tn_status set_default(const tn_network *model, tn_peft_config *config) {
    size_t family = family_of(model), count = 0;
    const tn_text_list targets = config->target_modules;
    if (family == FAMILIES)
        return set_feedforward(config, NULL, 0);
    const char *name = defaults[family].feedforward;
    if (config->target_regex)
        return set_feedforward(config, &name, 1);
    const char **items = tn_arena_array(&config->arena, targets.count + 1, sizeof *items);
    if (!items)
        return tn_fail_memory("the adapter's configuration");
    for (size_t i = 0; i < targets.count; i++)
        if (tn_peft_saves_module((tn_text_list){&name, 1}, targets.items[i]))
            items[count++] = targets.items[i];
    return set_feedforward(config, items, count);
}

/* A regular expression with commas was taken for a list. */
static tn_status join_regex(tn_peft_config *config, const ia3_settings *settings) {
    const tn_text_list *list = &settings->feedforward;
    tn_buf text = {0};
    bool regex = false;
    for (size_t i = 0; i < list->count; i++) {
        regex = regex || strpbrk(list->items[i], "*+?()[]{}|^$\\");
        tn_buf_printf(&text, "%s%s", i ? "," : "", list->items[i]);
    }
    const char *joined = tn_buf_text(&text);
    tn_status status = regex ? tn_buf_status(&text) : TN_OK;
    if (regex && status == TN_OK)
        status = set_feedforward(config, &joined, 1);
    tn_buf_free(&text);
    return status;
}

static tn_status check_subset(const tn_peft_config *config, const ia3_settings *settings) {
    const tn_text_list *list = &settings->feedforward, *targets = &config->target_modules;
    for (size_t i = 0; i < list->count && targets->count; i++) {
        bool found = false;
        for (size_t j = 0; j < targets->count; j++)
            found = found || strcmp(list->items[i], targets->items[j]) == 0;
        if (!found)
            return tn_fail(TN_ERROR_ARGUMENT, "feedforward_modules: '%s' is not one of the target modules; add it there",
                           list->items[i]);
    }
    return TN_OK;
}

static tn_status ia3_begin(tn_adapter *adapter, const bool *selected) {
    tn_peft_config *config = &adapter->config;
    const ia3_settings *settings = config->settings;
    (void)selected;
    if (!tn_options_given(&config->options, feedforward_option))
        return set_default(adapter->model, config);
    TN_TRY(join_regex(config, settings));
    return regex_of(settings) ? TN_OK : check_subset(config, settings);
}

/* A name means all modules that end in it, after a dot or not, as in PEFT. */
static tn_status is_feedforward(const ia3_settings *settings, const char *name, bool *out) {
    const char *regex = regex_of(settings);
    if (regex)
        return tn_peft_full_match(regex, name, feedforward_key, out);
    *out = tn_peft_saves_module(settings->feedforward, name);
    return TN_OK;
}

static void ia3_write_config(const tn_peft_config *config, cJSON *out) {
    const ia3_settings *settings = config->settings;
    const char *regex = regex_of(settings);
    if (regex)
        cJSON_ReplaceItemInObjectCaseSensitive(out, feedforward_key, cJSON_CreateString(regex));
    else if (!settings->feedforward.count) /* null would be read as the family's default */
        cJSON_ReplaceItemInObjectCaseSensitive(out, feedforward_key, cJSON_CreateArray());
}

/* --- the slot --- */

static tn_status ia3_create(tn_adapter *adapter, tn_slot *base, tn_module *module, int64_t rank, double alpha) {
    ia3_slot *slot = (ia3_slot *)base;
    (void)rank;
    (void)alpha;
    TN_TRY(is_feedforward(adapter->config.settings, module->name, &slot->feedforward));
    if (module->kind == TN_MODULE_CONV2D) {
        int64_t channels = slot->feedforward ? module->conv.in_channels : module->conv.out_channels;
        slot->l = (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 4, .shape = {1, channels, 1, 1}}};
    } else {
        slot->l = (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {1, 1}}};
        slot->l.tensor.shape[slot->feedforward] = slot->feedforward ? inputs_of(module) : outputs_of(module);
    }
    return tn_adapter_declare(adapter, module, "ia3_l", &slot->l);
}

static tn_status ia3_init(tn_adapter *adapter, tn_slot *base, tn_module *module, uint64_t seed) {
    const ia3_settings *settings = adapter->config.settings;
    const tn_tensor *l = &((const ia3_slot *)base)->l.tensor;
    (void)module;
    if (settings->init_weights)
        tn_kernels_cpu()->fill(l->data, 1, tn_tensor_count(l));
    else
        tn_fill_normal(l->data, (size_t)tn_tensor_count(l), seed, tn_stream(TN_STREAM_INIT, base->id), 0, 1);
    return TN_OK;
}

static tn_var *ia3_input(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x) {
    const ia3_slot *slot = (const ia3_slot *)base;
    (void)module;
    return slot->feedforward ? tn_op_scale_columns(forward->tape, x, &slot->l) : x;
}

/* Of a linear layer or a convolution. */
static tn_var *ia3_output(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x, tn_var *y) {
    const ia3_slot *slot = (const ia3_slot *)base;
    (void)module;
    (void)x;
    if (slot->feedforward)
        return y;
    tn_var *scaled = tn_op_scale_columns(forward->tape, y, &slot->l);
    tn_drop(forward->tape, y);
    return scaled;
}

/* --- merging --- */

/* Index of l's factor of the weight's element (o, i). Output o of a grouped convolution reads the channels of its own group,
 * `taps` elements each. */
static int64_t factor_of(const ia3_slot *slot, const tn_module *module, int64_t o, int64_t i) {
    const tn_conv_shape *conv = &module->conv;
    if (!slot->feedforward)
        return o;
    if (module->kind != TN_MODULE_CONV2D)
        return i;
    int64_t taps = conv->kernel_height * conv->kernel_width, group = o / (conv->out_channels / conv->groups);
    return group * (conv->in_channels / conv->groups) + i / taps;
}

static tn_status ia3_merge(const tn_slot *base, const tn_module *module, float *weight, float *bias) {
    const ia3_slot *slot = (const ia3_slot *)base;
    const float *l = slot->l.tensor.data;
    int64_t out = outputs_of(module), in = inputs_of(module);
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++)
            weight[o * in + i] *= l[factor_of(slot, module, o, i)];
    for (int64_t o = 0; o < out && bias && !slot->feedforward; o++)
        bias[o] *= l[o];
    return TN_OK;
}

static tn_status ia3_unmerge(const tn_slot *base, const tn_module *module, float *weight, float *bias) {
    const ia3_slot *slot = (const ia3_slot *)base;
    const float *l = slot->l.tensor.data;
    int64_t out = outputs_of(module), in = inputs_of(module);
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++)
            weight[o * in + i] /= l[factor_of(slot, module, o, i)];
    for (int64_t o = 0; o < out && bias && !slot->feedforward; o++)
        bias[o] /= l[o];
    return TN_OK;
}

static tn_status ia3_check_unmerge(const tn_adapter *adapter) {
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        if (!adapter->slots[i].method)
            continue;
        const tn_tensor *l = &((const ia3_slot *)adapter->slots[i].slot)->l.tensor;
        for (int64_t k = 0; k < tn_tensor_count(l) && l->data; k++)
            if (((const float *)l->data)[k] == 0)
                return tn_fail(TN_ERROR_UNSUPPORTED,
                               "ia3_l of '%s' is 0 at element %lld, so the base's weights there are lost in the merged "
                               "ones; use the base that it was trained on",
                               adapter->slots[i].module->name, (long long)k);
    }
    return TN_OK;
}

const tn_peft_method tn_ia3 = {
    .name = "ia3",
    .peft_type = "IA3",
    .summary = "one trained factor for each output, or input of feed-forward modules",
    .formula = "y = l * (W x), or W (l * x)",
    .paper = "arXiv:2205.05638",
    .options = ia3_options,
    .settings_size = sizeof(ia3_settings),
    .write_config = ia3_write_config,
    .complete = ia3_complete,
    .check_unmerge = ia3_check_unmerge,
    .slot_size = sizeof(ia3_slot),
    .hooks = {.input = ia3_input, .linear = ia3_output, .conv = ia3_output},
    .fits = ia3_fits,
    .begin = ia3_begin,
    .create = ia3_create,
    .init = ia3_init,
    .merge = ia3_merge,
    .unmerge = ia3_unmerge,
};
