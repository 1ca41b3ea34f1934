/* LoHa (FedPara, Hyeon-Woo et al. 2021, arXiv 2108.06098): y = W x + b + s D x, D = (w1_a w1_b) * (w2_a w2_b) by elements,
 * s = alpha / r. w1_a, w2_a [O, R], w1_b, w2_b [R, C]. PEFT names the tensors hada_*.
 *
 * On a convolution D is the weight [O, C kh kw] of one more; with use_effective_conv2d either factor of D has a core
 * instead, sum_ij t[i, j, :, :] w_a[i, o] w_b[j, c], t [R, R, kh, kw], w_a [R, O], w_b [R, C]. C is that of one group. */
#include "peft/lycoris.h"
#include "peft/methods.h"

enum { FACTORS = 4, TENSORS = 6, MERGE_ROWS = 64 };

typedef struct {
    tn_lycoris_slot shared;
    bool has_core;
    tn_weight tensors[TENSORS]; /* w1_a, w1_b, w2_a, w2_b, and where there are cores t1, t2 */
} loha_slot;

static tn_hadamard_factors factors_of(const loha_slot *slot) {
    const tn_weight *f = slot->tensors;
    return (tn_hadamard_factors){.a1 = &f[0], .b1 = &f[1], .a2 = &f[2], .b2 = &f[3]};
}

static tn_var *loha_linear(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x, tn_var *y) {
    const loha_slot *slot = (const loha_slot *)base;
    const tn_hadamard_factors factors = factors_of(slot);
    float scale;
    (void)module;
    tn_var *update = tn_lycoris_open(forward, &slot->shared, y, &scale);
    tn_op_hadamard_low_rank(forward->tape, update, x, &factors, scale);
    tn_lycoris_close(forward, &slot->shared, y, update);
    return y;
}

/* w1 or w2, the whole of it. */
static tn_var *product(tn_tape *tape, const loha_slot *slot, int which) {
    const tn_weight *a = &slot->tensors[2 * which], *b = a + 1;
    return slot->has_core ? tn_op_tucker(tape, &slot->tensors[FACTORS + which], a, b) : tn_op_weight_product(tape, a, b);
}

static tn_var *loha_conv(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x, tn_var *y) {
    const loha_slot *slot = (const loha_slot *)base;
    tn_tape *tape = forward->tape;
    tn_var *w1 = product(tape, slot, 0), *w2 = product(tape, slot, 1), *w = tn_op_multiply(tape, w1, w2);
    tn_lycoris_convolve(forward, &slot->shared, module, y, x, w);
    tn_drop(tape, w);
    tn_drop(tape, w2);
    tn_drop(tape, w1);
    return y;
}

static bool loha_fits(const tn_module *module) {
    return module->kind == TN_MODULE_LINEAR || module->kind == TN_MODULE_CONV2D;
}

static tn_status loha_create(tn_adapter *adapter, tn_slot *base, tn_module *module, int64_t rank, double alpha) {
    static const char *const names[TENSORS] = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"};
    loha_slot *slot = (loha_slot *)base;
    tn_lycoris_start(&slot->shared, adapter, module, rank, alpha, true);
    slot->has_core = tn_lycoris_has_core(adapter, module);
    for (int i = 0; i < (slot->has_core ? TENSORS : FACTORS); i++) {
        if (i >= FACTORS)
            slot->tensors[i] = tn_lycoris_kernels(rank, rank, module);
        else if (slot->has_core)
            slot->tensors[i] = tn_lycoris_matrix(rank, module->weight.tensor.shape[i % 2]);
        else
            slot->tensors[i] = i % 2 ? tn_lycoris_matrix(rank, slot->shared.in) : tn_lycoris_matrix(slot->shared.out, rank);
        TN_TRY(tn_adapter_declare(adapter, module, names[i], &slot->tensors[i]));
    }
    return TN_OK;
}

/* w2_b = 0 makes a fresh adapter do nothing. */
static tn_status loha_init(tn_adapter *adapter, tn_slot *base, tn_module *module, uint64_t seed) {
    const tn_lycoris_settings *settings = adapter->config.settings;
    loha_slot *slot = (loha_slot *)base;
    (void)module;
    for (uint32_t i = 0; i < (slot->has_core ? TENSORS : FACTORS); i++)
        if (i != 3 || settings->init == TN_LYCORIS_RANDOM)
            tn_lycoris_fill(&slot->shared, &slot->tensors[i], seed, i);
    return TN_OK;
}

/* The weight of a convolution is formed as a whole, as in a pass. */
static tn_status merge_with_cores(const loha_slot *slot, float *weight) {
    int64_t count = slot->shared.out * slot->shared.in, rank = slot->tensors[0].tensor.shape[0];
    const tn_kernels *k = tn_kernels_cpu();
    const tn_weight *t = slot->tensors;
    float *w1 = tn_malloc((size_t)(2 * count + rank * slot->shared.in) * sizeof *w1);
    if (!w1)
        return tn_fail_memory("the merged weights");
    tn_tucker_weight(k, w1, w1 + 2 * count, &t[FACTORS], &t[0], &t[1]);
    tn_tucker_weight(k, w1 + count, w1 + 2 * count, &t[FACTORS + 1], &t[2], &t[3]);
    k->multiply(w1, false, w1, w1 + count, count);
    k->add(weight, w1, slot->shared.scale, count);
    tn_free(w1);
    return TN_OK;
}

static tn_status loha_merge(const tn_slot *base, const tn_module *module, float *weight, float *bias) {
    const loha_slot *slot = (const loha_slot *)base;
    const tn_hadamard_factors factors = factors_of(slot);
    int64_t out = slot->shared.out, in = slot->shared.in;
    (void)module;
    (void)bias;
    if (slot->has_core)
        return merge_with_cores(slot, weight);
    float *rows = tn_malloc((size_t)(2 * MERGE_ROWS * in) * sizeof *rows);
    if (!rows)
        return tn_fail_memory("the merged weights");
    for (int64_t first = 0; first < out; first += MERGE_ROWS) {
        int64_t count = out - first < MERGE_ROWS ? out - first : MERGE_ROWS;
        tn_hadamard_rows(tn_kernels_cpu(), rows, rows + count * in, &factors, first, count);
        tn_kernels_cpu()->add(weight + first * in, rows, slot->shared.scale, count * in);
    }
    tn_free(rows);
    return TN_OK;
}

static const char *const inits[] = {"true", "false", NULL}; /* as tn_lycoris_init */

static const tn_option options[] = {
    TN_LYCORIS_OPTIONS,
    {.name = "init-weights",
     .type = TN_OPTION_CHOICE,
     TN_FIELD(tn_lycoris_settings, init),
     .initial = "true",
     .choices = inits,
     .help = "true starts as the base model, false somewhere else"},
    {0},
};

const tn_peft_method tn_loha = {
    .name = "loha",
    .peft_type = "LOHA",
    .summary = "elementwise product of two low-rank updates, on linear layers and convolutions",
    .formula = "y = W x + alpha/r ((w1_a w1_b) * (w2_a w2_b)) x",
    .paper = "arXiv:2108.06098",
    .rank_key = "r",
    .alpha_key = "alpha",
    .rank = 8,
    .alpha = 8,
    .any_rank = true,
    .no_fan_in_fan_out = true,
    .options = options,
    .settings_size = sizeof(tn_lycoris_settings),
    .subtractable = true,
    .slot_size = sizeof(loha_slot),
    .hooks = {.linear = loha_linear, .conv = loha_conv},
    .fits = loha_fits,
    .create = loha_create,
    .init = loha_init,
    .merge = loha_merge,
};
