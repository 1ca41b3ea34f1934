/* Variants of LoRA that PEFT configures in LoraConfig. With u = A x and z = B u:
 *   KaSA (arXiv 2412.06071)   z = B (d * u), d [R]; the base is W without its R smallest singular components
 *   BD-LoRA                   A or B is block-diagonal, stored as its blocks below each other: [R, C/N] or [O, R/N]
 *   aLoRA (arXiv 2504.12397)  the update acts on the rows from the last occurrence of the invocation tokens on */
#include <string.h>

#include "base/rng.h"
#include "peft/lora.h"
#include "tensor/linalg.h"

bool tn_lora_is_plain(const tn_lora_slot *slot) {
    return !slot->has_diagonal && slot->a_blocks <= 1 && slot->b_blocks <= 1;
}

void tn_lora_variant_forward(tn_tape *tape, const tn_lora_slot *slot, tn_var *y, tn_var *x) {
    tn_var *u = tn_op_block_linear(tape, x, &slot->a, slot->a_blocks);
    if (slot->has_diagonal) {
        tn_var *scaled = tn_op_scale_columns(tape, u, &slot->diagonal);
        tn_drop(tape, u);
        u = scaled;
    }
    tn_var *z = tn_op_block_linear(tape, u, &slot->b, slot->b_blocks);
    tn_op_add(tape, y, z, slot->scale);
    tn_drop(tape, u);
    tn_drop(tape, z);
}

/* The blocks of a stored factor [rows, cols / blocks] in their places of dense [rows, cols], which is zero elsewhere. */
static void spread_blocks(float *dense, const tn_weight *factor, int64_t blocks) {
    int64_t rows = factor->tensor.shape[0], width = factor->tensor.shape[1], height = rows / blocks;
    const float *stored = factor->tensor.data;
    for (int64_t i = 0; i < rows; i++)
        memcpy(dense + i * width * blocks + i / height * width, stored + i * width, (size_t)width * sizeof *dense);
}

tn_status tn_lora_variant_merge(const tn_lora_slot *slot, float *weight) {
    int64_t rank = slot->a.tensor.shape[0], in = slot->a.tensor.shape[1] * slot->a_blocks, out = slot->b.tensor.shape[0];
    float *a = tn_calloc((size_t)(rank * in), sizeof *a), *b = tn_calloc((size_t)(out * rank), sizeof *b);
    tn_status status = a && b ? TN_OK : tn_fail_memory("the merged weights");
    if (status == TN_OK) {
        const tn_kernels *kernels = tn_kernels_cpu();
        spread_blocks(a, &slot->a, slot->a_blocks);
        spread_blocks(b, &slot->b, slot->b_blocks);
        for (int64_t r = 0; r < rank && slot->has_diagonal; r++)
            kernels->scale(a + r * in, ((const float *)slot->diagonal.tensor.data)[r], in);
        kernels->gemm(weight, in, tn_rows_of(b, TN_DTYPE_F32, rank), tn_rows_of(a, TN_DTYPE_F32, in), slot->scale, 1, out,
                      in, rank);
    }
    tn_free(a);
    tn_free(b);
    return status;
}

static tn_status check_blocks(const tn_module *module, int64_t blocks, int64_t rank, int64_t size, const char *what) {
    if (rank % blocks == 0 && size % blocks == 0)
        return TN_OK;
    return tn_fail(TN_ERROR_ARGUMENT,
                   "use_bdlora: the %s of '%s' (%lld) and its rank (%lld) must be multiples of nblocks %lld", what,
                   module->name, (long long)size, (long long)rank, (long long)blocks);
}

static tn_status choose_blocks(const tn_peft_config *config, const tn_module *module, int64_t rank, tn_lora_slot *slot) {
    const tn_block_diagonal *b = &config->block_diagonal;
    const tn_weight *weight = tn_module_weight(module);
    slot->a_blocks = slot->b_blocks = 1;
    if (!b->blocks)
        return TN_OK;
    if (tn_peft_names_module(b->a_modules, module->name)) {
        slot->a_blocks = b->blocks;
        return check_blocks(module, b->blocks, rank, tn_weight_in(weight), "input width");
    }
    if (tn_peft_names_module(b->b_modules, module->name)) {
        slot->b_blocks = b->blocks;
        return check_blocks(module, b->blocks, rank, tn_weight_out(weight), "output width");
    }
    if (b->strict)
        return tn_fail(TN_ERROR_ARGUMENT,
                       "use_bdlora: '%s' is in neither target_modules_bd_a nor target_modules_bd_b, and match_strict is set",
                       module->name);
    return TN_OK;
}

tn_status tn_lora_variant_choose(const tn_peft_config *config, const tn_module *module, int64_t rank, int64_t vocab,
                                 tn_lora_slot *slot) {
    int64_t out = tn_weight_out(tn_module_weight(module)), in = tn_weight_in(tn_module_weight(module));
    int64_t least = out < in ? out : in;
    bool is_variant = config->kasa || config->block_diagonal.blocks || config->invocation_count;
    slot->a_blocks = slot->b_blocks = 1;
    slot->has_magnitude = config->use_dora;
    if (config->use_dora && (is_variant || config->lora_bias || tn_lora_init_changes_base(config->init)))
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "use_dora does not go with kasa_config, use_bdlora, alora_invocation_tokens, lora_bias or "
                       "init_lora_weights %s",
                       config->init);
    if (!is_variant)
        return TN_OK;
    if (module->kind != TN_MODULE_LINEAR || module->is_head)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "'%s': kasa_config, use_bdlora and alora_invocation_tokens apply to the linear layers of the blocks",
                       module->name);
    if (tn_lora_init_changes_base(config->init) || config->lora_bias)
        return tn_fail(
            TN_ERROR_UNSUPPORTED,
            "kasa_config, use_bdlora and alora_invocation_tokens do not go with lora_bias or init_lora_weights %s",
            config->init);
    if (config->kasa && (config->block_diagonal.blocks || rank >= least))
        return tn_fail(TN_ERROR_ARGUMENT,
                       "kasa_config: '%s' needs a rank below %lld (its smaller dimension), and no use_bdlora", module->name,
                       (long long)least);
    for (size_t i = 0; i < config->invocation_count; i++)
        if (config->invocation_tokens[i] >= vocab)
            return tn_fail(TN_ERROR_ARGUMENT, "alora_invocation_tokens: %d is outside the vocabulary of %lld tokens",
                           config->invocation_tokens[i], (long long)vocab);
    slot->has_diagonal = config->kasa;
    slot->needs_invocation = config->invocation_count > 0;
    return choose_blocks(config, module, rank, slot);
}

tn_status tn_lora_truncate_base(tn_lora_slot *slot, const tn_module *module) {
    const tn_weight *weight = tn_module_weight(module);
    int64_t rows = tn_weight_out(weight), cols = tn_weight_in(weight), rank = slot->a.tensor.shape[0];
    int64_t k = rows < cols ? rows : cols;
    tn_status status = TN_OK;
    float *w = tn_malloc((size_t)(rows * cols) * sizeof *w), *u = tn_malloc((size_t)(rows * k) * sizeof *u);
    float *s = tn_malloc((size_t)k * sizeof *s), *vt = tn_malloc((size_t)(k * cols) * sizeof *vt);
    float *a0 = slot->a0.tensor.data, *b0 = slot->b0.tensor.data;
    if (!w || !u || !s || !vt) {
        status = tn_fail_memory("KaSA's singular components");
        goto fail;
    }
    tn_weight_read(weight, w);
    TN_TRY_GOTO(tn_svd(w, rows, cols, u, s, vt));
    for (int64_t r = 0; r < rank; r++) {
        int64_t component = k - rank + r;
        memcpy(a0 + r * cols, vt + component * cols, (size_t)cols * sizeof *a0);
        for (int64_t i = 0; i < rows; i++)
            b0[i * rank + r] = u[i * k + component] * s[component];
    }
    slot->scale0 = 1;
fail:
    tn_free(vt);
    tn_free(s);
    tn_free(u);
    tn_free(w);
    return status;
}

void tn_lora_mark_invoked(const tn_peft_config *config, const int32_t *ids, int64_t count, bool *invoked) {
    int64_t length = (int64_t)config->invocation_count, start = count;
    for (int64_t i = 0; i + length <= count; i++)
        if (memcmp(ids + i, config->invocation_tokens, (size_t)length * sizeof *ids) == 0)
            start = i;
    for (int64_t i = 0; i < count; i++)
        invoked[i] = i >= start;
}
