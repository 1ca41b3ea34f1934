/* LoRA (Hu et al. 2021, arXiv 2106.09685): y = W x + b + s (B A dropout(x) + b_B), s = alpha / r, or alpha / sqrt(r) for
 * rsLoRA (arXiv 2312.03732). A [R, C], B [O, R]. Embedding: y = E[i] + s B A[:, i], A [R, V], B [C, R]. When s0 B0 A0 was
 * taken out of the base (PiSSA, OLoRA, KaSA), - s0 B0 A0 x is added instead of changing W. Variants have their own files. */
#include "peft/lora.h"

#include "base/rng.h"

static tn_var *lora_linear(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x, tn_var *y) {
    const tn_lora_slot *slot = (const tn_lora_slot *)base;
    tn_tape *tape = forward->tape;
    if (slot->has_magnitude)
        return tn_dora_linear(forward, slot, module, x, y);
    if (slot->a0.tensor.data)
        tn_op_low_rank(tape, y, x, &slot->a0, &slot->b0, NULL, -slot->scale0);
    tn_var *input = x;
    if (slot->needs_invocation && forward->invoked)
        input = tn_op_keep_rows(tape, x, forward->invoked);
    if (forward->training && slot->dropout > 0) {
        tn_var *dropped =
            tn_op_dropout(tape, input, slot->dropout, forward->dropout_seed, tn_stream(TN_STREAM_DROPOUT, base->id));
        if (input != x)
            tn_drop(tape, input);
        input = dropped;
    }
    if (tn_lora_is_plain(slot))
        tn_op_low_rank(tape, y, input, &slot->a, &slot->b, slot->has_bias ? &slot->bias : NULL, slot->scale);
    else
        tn_lora_variant_forward(tape, slot, y, input);
    if (input != x)
        tn_drop(tape, input);
    return y;
}

static tn_var *lora_embedding(const tn_forward *forward, const tn_slot *base, const tn_module *module, const int32_t *ids,
                              tn_var *y) {
    const tn_lora_slot *slot = (const tn_lora_slot *)base;
    if (slot->has_magnitude)
        return tn_dora_embedding(forward, slot, module, ids, y);
    tn_op_low_rank_embedding(forward->tape, y, ids, &slot->a, &slot->b, slot->scale);
    return y;
}

static bool lora_fits(const tn_module *module) {
    return module->kind == TN_MODULE_LINEAR || module->kind == TN_MODULE_EMBEDDING || module->kind == TN_MODULE_CONV2D;
}

static tn_weight matrix(int64_t rows, int64_t cols) {
    return (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {rows, cols}}};
}

static tn_status lora_create(tn_adapter *adapter, tn_slot *base, tn_module *module, int64_t rank, double alpha) {
    tn_lora_slot *slot = (tn_lora_slot *)base;
    const tn_peft_config *config = &adapter->config;
    int64_t rows = tn_weight_out(tn_module_weight(module)), cols = tn_weight_in(tn_module_weight(module));
    slot->embedding = module->kind == TN_MODULE_EMBEDDING;
    slot->scale = (float)tn_peft_scale(config, alpha, rank);
    slot->dropout = (float)config->dropout;
    TN_TRY(tn_lora_variant_choose(config, module, rank, adapter->model->vocab_size, slot));
    slot->a = matrix(rank, slot->embedding ? rows : cols / slot->a_blocks);
    slot->b = matrix(slot->embedding ? cols : rows, rank / slot->b_blocks);
    slot->magnitude = (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {slot->b.tensor.shape[0]}}};
    if (module->kind == TN_MODULE_CONV2D)
        TN_TRY(tn_lora_conv_create(config, slot, module, rank));
    const char *a_name = slot->embedding ? "lora_embedding_A" : "lora_A.weight";
    bool freeze_a = config->freeze_a && !slot->embedding; /* an embedding's A starts at zero */
    TN_TRY(freeze_a ? tn_adapter_declare_constant(adapter, module, a_name, true, &slot->a)
                    : tn_adapter_declare(adapter, module, a_name, &slot->a));
    if (freeze_a && adapter->trainable)
        TN_TRY(tn_lora_fa_declare(adapter, module, slot));
    TN_TRY(tn_adapter_declare(adapter, module, slot->embedding ? "lora_embedding_B" : "lora_B.weight", &slot->b));
    if (config->kasa || (tn_lora_init_reduces_base(config->init) && !slot->embedding)) {
        slot->a0 = matrix(rank, cols);
        slot->b0 = matrix(rows, rank);
        TN_TRY(tn_adapter_declare_constant(adapter, module, "lora_A0", false, &slot->a0));
        TN_TRY(tn_adapter_declare_constant(adapter, module, "lora_B0", false, &slot->b0));
    }
    if (slot->has_magnitude)
        TN_TRY(tn_adapter_declare(adapter, module, "lora_magnitude_vector", &slot->magnitude));
    if (slot->has_diagonal) {
        slot->diagonal = (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {rank}}};
        TN_TRY(tn_adapter_declare(adapter, module, "lora_diag", &slot->diagonal));
    }
    slot->has_bias = config->lora_bias && !slot->embedding;
    if (slot->has_bias) {
        slot->bias = (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {rows}}};
        TN_TRY(tn_adapter_declare(adapter, module, "lora_B.bias", &slot->bias));
    }
    return TN_OK;
}

static tn_status lora_init(tn_adapter *adapter, tn_slot *slot, tn_module *module, uint64_t seed) {
    return tn_lora_init(adapter, (tn_lora_slot *)slot, module, seed);
}

static tn_status lora_loaded(tn_adapter *adapter, tn_slot *slot, tn_module *module) {
    return tn_lora_init_residual(adapter, (tn_lora_slot *)slot, module);
}

/* weight += factor B A, or its transpose for an embedding, whose weight is [V, C] = (B A)^T. */
static void add_product(float *weight, const tn_weight *a, const tn_weight *b, bool transposed, float factor) {
    const tn_kernels *kernels = tn_kernels_cpu();
    int64_t rank = a->tensor.shape[0], in = a->tensor.shape[1], out = b->tensor.shape[0];
    if (transposed)
        kernels->gemm(weight, out, tn_weight_transpose(a), tn_weight_transpose(b), factor, 1, in, out, rank);
    else
        kernels->gemm(weight, in, tn_weight_rows(b), tn_weight_rows(a), factor, 1, out, in, rank);
}

/* weight += the update, before any magnitude. */
static tn_status add_update(const tn_lora_slot *slot, const tn_module *module, float *weight) {
    if (module->kind == TN_MODULE_CONV2D)
        tn_lora_conv_merge(slot, module, weight);
    else if (tn_lora_is_plain(slot))
        add_product(weight, &slot->a, &slot->b, slot->embedding, slot->scale);
    else
        TN_TRY(tn_lora_variant_merge(slot, weight));
    if (slot->a0.tensor.data)
        add_product(weight, &slot->a0, &slot->b0, slot->embedding, -slot->scale0);
    return TN_OK;
}

static tn_status lora_merge(const tn_slot *base, const tn_module *module, float *weight, float *bias) {
    const tn_lora_slot *slot = (const tn_lora_slot *)base;
    TN_TRY(add_update(slot, module, weight));
    if (slot->has_magnitude)
        tn_dora_scale(slot, weight);
    if (slot->has_bias && bias)
        tn_kernels_cpu()->add(bias, slot->bias.tensor.data, slot->scale, slot->bias.tensor.shape[0]);
    return TN_OK;
}

/* Of DoRA, since subtracting undoes the rest: m / n is taken out again, then the update. */
static tn_status lora_unmerge(const tn_slot *base, const tn_module *module, float *weight, float *bias) {
    const tn_lora_slot *slot = (const tn_lora_slot *)base;
    int64_t count = tn_tensor_count(&tn_module_weight(module)->tensor);
    float *update = tn_calloc((size_t)count, sizeof *update);
    tn_status status = update ? add_update(slot, module, update) : tn_fail_memory("the restored weights");
    if (status == TN_OK) {
        tn_dora_unscale(slot, weight);
        tn_kernels_cpu()->add(weight, update, -1, count);
    }
    if (status == TN_OK && slot->has_bias && bias)
        tn_kernels_cpu()->add(bias, slot->bias.tensor.data, -slot->scale, slot->bias.tensor.shape[0]);
    tn_free(update);
    return status;
}

static int64_t lora_kept_count(const tn_slot *base) {
    const tn_lora_slot *slot = (const tn_lora_slot *)base;
    return slot->has_magnitude ? tn_tensor_count(&slot->magnitude.tensor) : 0;
}

static tn_status lora_keep(const tn_slot *base, const tn_module *module, float *weight, float *kept) {
    const tn_lora_slot *slot = (const tn_lora_slot *)base;
    TN_TRY(add_update(slot, module, weight));
    tn_dora_merged_norms(slot, weight, kept);
    return TN_OK;
}

static tn_status lora_use_kept(tn_adapter *adapter, tn_slot *slot, const tn_module *module, const float *merged,
                               const float *kept) {
    return tn_dora_use_norms(adapter, (tn_lora_slot *)slot, module, merged, kept);
}

static bool lora_merge_adds_bias(const tn_slot *slot) {
    return ((const tn_lora_slot *)slot)->has_bias;
}

static tn_status lora_complete(const tn_network *model, tn_peft_config *config) {
    (void)model;
    if (config->freeze_a && (config->use_dora || config->kasa || config->block_diagonal.blocks))
        return tn_fail(TN_ERROR_UNSUPPORTED, "lora-fa trains B of plain LoRA; it does not go with %s",
                       config->use_dora ? "use_dora"
                       : config->kasa   ? "kasa_config"
                                        : "use_bdlora");
    TN_TRY(tn_lora_init_check(config->init));
    return tn_lora_loftq_check(config);
}

static tn_status lora_check_merge(const tn_adapter *adapter) {
    if (!adapter->config.invocation_count)
        return TN_OK;
    return tn_fail(TN_ERROR_UNSUPPORTED,
                   "an adapter with alora_invocation_tokens cannot be merged, since it acts only behind "
                   "those tokens; keep it beside the base");
}

static tn_status lora_check_unmerge(const tn_adapter *adapter) {
    const tn_peft_config *config = &adapter->config;
    if (tn_lora_init_quantises_base(config->init))
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "init_lora_weights '%s' put quantised weights in the place of the base's, which cannot be had back "
                       "from the merged ones; use the base that it was trained on",
                       config->init);
    if (config->kasa || tn_lora_init_reduces_base(config->init))
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s '%s' took a part out of the base that is computed from the base itself, so it cannot be undone "
                       "from the merged weights; use the base that it was trained on",
                       config->kasa ? "the variant" : "init_lora_weights", config->kasa ? "KaSA" : config->init);
    return TN_OK;
}

const tn_peft_method tn_lora = {
    .name = "lora",
    .peft_type = "LORA",
    .summary = "low-rank update of linear, embedding and convolutional layers",
    .formula = "y = W x + alpha/r B A x",
    .paper = "arXiv:2106.09685",
    .rank_key = "r",
    .alpha_key = "lora_alpha",
    .dropout_key = "lora_dropout",
    .rank = 8,
    .alpha = 8,
    .new_alpha = 16,
    .bias_name = "lora_only",
    .keys = tn_lora_keys,
    .read_config = tn_lora_read_config,
    .write_config = tn_lora_write_config,
    .subtractable = true,
    .complete = lora_complete,
    .check_merge = lora_check_merge,
    .check_unmerge = lora_check_unmerge,
    .store_tensor = tn_lora_store_tensor,
    .store_config = tn_lora_store_config,
    .slot_size = sizeof(tn_lora_slot),
    .hooks = {.linear = lora_linear, .embedding = lora_embedding, .conv = tn_lora_conv},
    .fits = lora_fits,
    .create = lora_create,
    .init = lora_init,
    .loaded = lora_loaded,
    .merge = lora_merge,
    .unmerge = lora_unmerge,
    .kept_count = lora_kept_count,
    .keep = lora_keep,
    .use_kept = lora_use_kept,
    .widens_groups = true,
    .merge_adds_bias = lora_merge_adds_bias,
    .start_training = tn_lora_fa_start_training,
    .before_step = tn_lora_fa_before_step,
};
