/* AdaLoRA (Zhang et al. 2023, arXiv 2303.10512): y = W x + b + s B diag(E) A dropout(x), s = alpha / (init_r + 1e-5), where
 * s stays what it was when ranks are taken away. A [K, C], E [K, 1], B [O, K]. Row k of A, E_k and column k of B are a
 * triplet; training takes the least important ones away (adalora_budget.c) and keeps A and B nearly orthogonal. */
#include "peft/adalora.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "peft/methods.h"

static int64_t outputs_of(const tn_module *module) {
    return tn_weight_out(tn_module_weight(module));
}

static int64_t inputs_of(const tn_module *module) {
    return tn_weight_in(tn_module_weight(module));
}

static tn_var *adalora_linear(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x,
                              tn_var *y) {
    const tn_adalora_slot *slot = (const tn_adalora_slot *)base;
    tn_tape *tape = forward->tape;
    tn_var *input = x;
    (void)module;
    if (slot->a.value.tensor.shape[0] == 0)
        return y;
    if (forward->training && slot->dropout > 0)
        input = tn_op_dropout(tape, x, slot->dropout, forward->dropout_seed, tn_stream(TN_STREAM_DROPOUT, base->id));
    tn_var *u = tn_op_linear(tape, input, &slot->a.value, NULL);
    tn_var *v = tn_op_scale_columns(tape, u, &slot->e.value);
    tn_op_add_linear(tape, y, v, &slot->b.value, slot->scale);
    tn_drop(tape, v);
    tn_drop(tape, u);
    if (input != x)
        tn_drop(tape, input);
    return y;
}

static bool adalora_fits(const tn_module *module) {
    return module->kind == TN_MODULE_LINEAR;
}

static tn_status adalora_begin(tn_adapter *adapter, const bool *selected) {
    const tn_adalora_settings *settings = adapter->config.settings;
    tn_adalora_budget *budget = adapter->shared = tn_arena_alloc(&adapter->arena, sizeof *budget);
    if (!budget)
        return tn_fail_memory("the adapter");
    TN_TRY(tn_adalora_check_masks(adapter, selected));
    if (!adapter->trainable || settings->mask_count)
        return TN_OK;
    budget->is_final.tensor = (tn_tensor){.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {1}};
    return tn_adapter_declare_shared(adapter, "adalora_is_final", false, &budget->is_final);
}

/* Ranks will be chosen: the adapter is to be trained, and its file has not settled them. */
static bool has_budget(const tn_adapter *adapter) {
    return ((const tn_adalora_budget *)adapter->shared)->is_final.tensor.ndim > 0;
}

static tn_status declare(tn_adapter *adapter, const tn_module *module, const char *name, int64_t rows, int64_t cols,
                         tn_adalora_factor *out) {
    char suffix[64];
    tn_weight *const averages[] = {&out->importance, &out->uncertainty};
    static const char *const names[] = {"importance", "uncertainty"};
    const tn_tensor matrix = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {rows, cols}};
    out->value.tensor = matrix;
    TN_TRY(tn_adapter_declare(adapter, module, name, &out->value));
    for (int i = 0; i < 2 && has_budget(adapter); i++) {
        averages[i]->tensor = matrix;
        snprintf(suffix, sizeof suffix, "%s.%s", name, names[i]);
        TN_TRY(tn_adapter_declare_constant(adapter, module, suffix, false, averages[i]));
    }
    return TN_OK;
}

static tn_status adalora_create(tn_adapter *adapter, tn_slot *base, tn_module *module, int64_t rank, double alpha) {
    tn_adalora_slot *slot = (tn_adalora_slot *)base;
    tn_adalora_budget *budget = adapter->shared;
    const tn_rank_mask *mask = tn_adalora_mask_of(adapter->config.settings, module->name);
    int64_t left = mask ? 0 : rank;
    if (mask && mask->count != rank)
        return tn_fail(TN_ERROR_MISMATCH, "rank_pattern: '%s' has %lld entries, but init_r is %lld", mask->key,
                       (long long)mask->count, (long long)rank);
    for (int64_t i = 0; mask && i < rank; i++)
        left += mask->kept[i];
    if (!budget->gram && !(budget->gram = tn_arena_array(&adapter->arena, (size_t)(rank * rank), sizeof(float))))
        return tn_fail_memory("the adapter");
    slot->scale = (float)((alpha > 0 ? alpha : (double)left) / ((double)rank + 1e-5));
    slot->dropout = (float)adapter->config.dropout;
    TN_TRY(declare(adapter, module, "lora_A", left, inputs_of(module), &slot->a));
    TN_TRY(declare(adapter, module, "lora_E", left, 1, &slot->e));
    TN_TRY(declare(adapter, module, "lora_B", outputs_of(module), left, &slot->b));
    if (!has_budget(adapter))
        return TN_OK;
    slot->mask.tensor = (tn_tensor){.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {left}};
    return tn_adapter_declare_constant(adapter, module, "lora_mask", false, &slot->mask);
}

static void fill_normal(tn_weight *weight, uint64_t seed, uint64_t stream) {
    tn_fill_normal(weight->tensor.data, (size_t)tn_tensor_count(&weight->tensor), seed, stream, 0, 0.02f);
}

/* A, B ~ N(0, 0.02^2), E = 0. */
static tn_status adalora_init(tn_adapter *adapter, tn_slot *base, tn_module *module, uint64_t seed) {
    tn_adalora_slot *slot = (tn_adalora_slot *)base;
    uint64_t stream = tn_stream(TN_STREAM_INIT, base->id * 2);
    (void)module;
    fill_normal(&slot->a.value, seed, stream);
    fill_normal(&slot->b.value, seed, stream + 1);
    float *mask = slot->mask.tensor.data;
    for (int64_t k = 0; has_budget(adapter) && k < slot->mask.tensor.shape[0]; k++)
        mask[k] = 1;
    return TN_OK;
}

/* weight += s B (E * A): the copy of A is small beside the weight. */
static tn_status adalora_merge(const tn_slot *base, const tn_module *module, float *weight, float *bias) {
    const tn_adalora_slot *slot = (const tn_adalora_slot *)base;
    const tn_kernels *kernels = tn_kernels_cpu();
    const tn_weight *a = &slot->a.value, *b = &slot->b.value;
    int64_t rank = a->tensor.shape[0], in = a->tensor.shape[1], out = b->tensor.shape[0];
    const float *e = slot->e.value.tensor.data;
    (void)module;
    (void)bias;
    if (rank == 0)
        return TN_OK;
    float *scaled = tn_malloc((size_t)(rank * in) * sizeof *scaled);
    if (!scaled)
        return tn_fail_memory("the merged weights");
    memcpy(scaled, a->tensor.data, (size_t)(rank * in) * sizeof *scaled);
    for (int64_t k = 0; k < rank; k++)
        kernels->scale(scaled + k * in, e[k], in);
    kernels->gemm(weight, in, tn_weight_rows(b), tn_rows_of(scaled, TN_DTYPE_F32, in), slot->scale, 1, out, in, rank);
    tn_free(scaled);
    return TN_OK;
}

static const tn_option options[] = {
    {.name = "target-r",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_adalora_settings, target_rank),
     .initial = "8",
     .low = 1,
     .high = 1e9,
     .help = "mean rank at the end"},
    {.name = "tinit",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_adalora_settings, tinit),
     .initial = "0",
     .low = 0,
     .high = INFINITY,
     .help = "steps before ranks are taken away"},
    {.name = "tfinal",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_adalora_settings, tfinal),
     .initial = "0",
     .low = 0,
     .high = INFINITY,
     .help = "steps at the end whose ranks are final"},
    {.name = "delta-t",
     .json_key = "deltaT",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_adalora_settings, delta_t),
     .initial = "1",
     .low = 1,
     .high = INFINITY,
     .help = "steps between two choices of ranks"},
    {.name = "importance-beta1",
     .json_key = "beta1",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_adalora_settings, beta1),
     .initial = "0.85",
     .low = 0,
     .high = 1,
     .help = "decay of the importances",
     .flags = TN_OPTION_ABOVE_LOW | TN_OPTION_BELOW_HIGH},
    {.name = "importance-beta2",
     .json_key = "beta2",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_adalora_settings, beta2),
     .initial = "0.85",
     .low = 0,
     .high = 1,
     .help = "decay of their uncertainties",
     .flags = TN_OPTION_ABOVE_LOW | TN_OPTION_BELOW_HIGH},
    {.name = "orth-reg-weight",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_adalora_settings, orth_reg_weight),
     .initial = "0.5",
     .low = 0,
     .high = 1e6,
     .help = "of the term that keeps A and B orthogonal"},
    {.name = "total-step",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_adalora_settings, total_step),
     .initial = "0",
     .low = 0,
     .high = INFINITY,
     .help = "steps of the schedule; 0: of the run"},
    {0},
};

const tn_peft_method tn_adalora = {
    .name = "adalora",
    .peft_type = "ADALORA",
    .summary = "low-rank update as triplets, of which training keeps the most important ones of all modules",
    .formula = "y = W x + alpha/init_r B diag(E) A x",
    .paper = "arXiv:2303.10512",
    .rank_key = "init_r",
    .alpha_key = "lora_alpha",
    .dropout_key = "lora_dropout",
    .rank = 12,
    .alpha = 8,
    .bias_name = "lora_only",
    .options = options,
    .settings_size = sizeof(tn_adalora_settings),
    .subtractable = true,
    .keys = tn_adalora_keys,
    .read_config = tn_adalora_read_config,
    .write_config = tn_adalora_write_config,
    .complete = tn_adalora_complete,
    .slot_size = sizeof(tn_adalora_slot),
    .hooks = {.linear = adalora_linear},
    .fits = adalora_fits,
    .begin = adalora_begin,
    .create = adalora_create,
    .init = adalora_init,
    .merge = adalora_merge,
    .start_training = tn_adalora_start_training,
    .penalty = tn_adalora_penalty,
    .after_step = tn_adalora_after_step,
    .store_tensor = tn_adalora_store_tensor,
    .store_config = tn_adalora_store_config,
    .report = tn_adalora_report,
};
