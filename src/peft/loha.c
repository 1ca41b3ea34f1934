/* LoHa (FedPara, Hyeon-Woo et al. 2021, arXiv 2108.06098): y = W x + b + s D x, D = (w1_a w1_b) * (w2_a w2_b) by elements,
 * s = alpha / r. w1_a, w2_a [O, R], w1_b, w2_b [R, C]. PEFT names the tensors hada_*. */
#include "peft/lycoris.h"
#include "peft/methods.h"

enum { FACTORS = 4, MERGE_ROWS = 64 };

typedef struct {
    tn_lycoris_slot shared;
    tn_weight factors[FACTORS]; /* w1_a, w1_b, w2_a, w2_b */
} loha_slot;

static tn_hadamard_factors factors_of(const loha_slot *slot) {
    const tn_weight *f = slot->factors;
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

static bool loha_fits(const tn_module *module) {
    return module->kind == TN_MODULE_LINEAR;
}

static tn_status loha_create(tn_adapter *adapter, tn_slot *base, tn_module *module, int64_t rank, double alpha) {
    static const char *const names[FACTORS] = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"};
    loha_slot *slot = (loha_slot *)base;
    tn_lycoris_start(&slot->shared, adapter, module, rank, alpha, true);
    for (int i = 0; i < FACTORS; i++) {
        slot->factors[i] = i % 2 ? tn_lycoris_matrix(rank, slot->shared.in) : tn_lycoris_matrix(slot->shared.out, rank);
        TN_TRY(tn_adapter_declare(adapter, module, names[i], &slot->factors[i]));
    }
    return TN_OK;
}

/* w2_b = 0 makes a fresh adapter do nothing. */
static tn_status loha_init(tn_adapter *adapter, tn_slot *base, tn_module *module, uint64_t seed) {
    const tn_lycoris_settings *settings = adapter->config.settings;
    loha_slot *slot = (loha_slot *)base;
    (void)module;
    for (uint32_t i = 0; i < FACTORS; i++)
        if (i < 3 || settings->init == TN_LYCORIS_RANDOM)
            tn_lycoris_fill(&slot->shared, &slot->factors[i], seed, i);
    return TN_OK;
}

static tn_status loha_merge(const tn_slot *base, const tn_module *module, float *weight, float *bias) {
    const loha_slot *slot = (const loha_slot *)base;
    const tn_hadamard_factors factors = factors_of(slot);
    int64_t out = slot->shared.out, in = slot->shared.in;
    float *rows = tn_malloc((size_t)(2 * MERGE_ROWS * in) * sizeof *rows);
    (void)module;
    (void)bias;
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
    .summary = "elementwise product of two low-rank updates",
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
    .hooks = {.linear = loha_linear},
    .fits = loha_fits,
    .create = loha_create,
    .init = loha_init,
    .merge = loha_merge,
};
