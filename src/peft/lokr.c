/* LoKr (LyCORIS, Yeh et al. 2023, arXiv 2309.14859; KronA, arXiv 2212.10650): y = W x + b + s kron(w1, w2) x, s = alpha / r.
 * With O = L K and C = M N by the rule of `factorise`, w1 is [L, M], w2 [K, N], either of them in full or as a product
 * _a _b of rank R.
 *
 * On a convolution kron(w1, w2) is the weight of one more, w2 being [K, N kh kw] and C the channels of one group; with
 * use_effective_conv2d w2 = sum_ij t2[i, j, :, :] w2_a[i, k] w2_b[j, n], t2 [R, R, kh, kw], w2_a [R, K], w2_b [R, N]. */
#include "peft/lycoris.h"
#include "peft/methods.h"

/* One side of the Kronecker product. */
typedef struct {
    tn_weight full, a, b, core; /* full, or a b, or a and b around a core */
    bool is_full, has_core;
    int64_t rows, cols; /* as a matrix */
} factor;

typedef enum { BY_RANK, WIDE_FIRST, NARROW_FIRST } order;

typedef struct {
    tn_lycoris_slot shared;
    int64_t l, k, m, n;
    factor w1, w2;
    order order; /* of the products */
} lokr_slot;

/* The divisor of `size` up to its square root and up to `most` (-1: any) that is the largest; `most` itself where it is a
 * divisor. */
static int64_t factorise(int64_t size, int64_t most) {
    int64_t best = 1;
    if (most > 0 && size % most == 0)
        return most;
    for (int64_t d = 2; d <= size / d && (most == -1 || d <= most); d++)
        if (size % d == 0)
            best = d;
    return best;
}

/* How to multiply a row by w2 (first N, then K) and w1 in the fewest multiplications, those of forming w2 aside. */
static order cheapest_order(const lokr_slot *s, int64_t rank) {
    double l = (double)s->l, k = (double)s->k, m = (double)s->m, n = (double)s->n, r = (double)rank;
    double wide = m * n * k + l * m * k, narrow = l * m * n + l * n * k, by_rank = r * (m * n + l * m + l * k);
    if (!s->w2.is_full && by_rank <= wide && by_rank <= narrow)
        return BY_RANK;
    return wide <= narrow ? WIDE_FIRST : NARROW_FIRST;
}

static tn_var *value_of(tn_tape *tape, const factor *f) {
    if (f->has_core)
        return tn_op_tucker(tape, &f->core, &f->a, &f->b);
    return f->is_full ? tn_op_weight_product(tape, &f->full, NULL) : tn_op_weight_product(tape, &f->a, &f->b);
}

static tn_var *lokr_linear(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x, tn_var *y) {
    const lokr_slot *slot = (const lokr_slot *)base;
    tn_tape *tape = forward->tape;
    tn_var *w1 = value_of(tape, &slot->w1), *r1 = NULL, *r2 = NULL;
    float scale;
    (void)module;
    if (slot->order == BY_RANK) {
        r1 = tn_op_weight_product(tape, &slot->w2.b, NULL);
        r2 = tn_op_weight_product(tape, &slot->w2.a, NULL);
    } else {
        *(slot->order == WIDE_FIRST ? &r1 : &r2) = value_of(tape, &slot->w2);
    }
    tn_var *update = tn_lycoris_open(forward, &slot->shared, y, &scale);
    tn_op_kronecker(tape, update, x, w1, r1, r2, scale);
    tn_lycoris_close(forward, &slot->shared, y, update);
    tn_drop(tape, w1);
    tn_drop(tape, r1);
    tn_drop(tape, r2);
    return y;
}

static tn_var *lokr_conv(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x, tn_var *y) {
    const lokr_slot *slot = (const lokr_slot *)base;
    tn_tape *tape = forward->tape;
    tn_var *w1 = value_of(tape, &slot->w1), *w2 = value_of(tape, &slot->w2), *w = tn_op_kronecker_weight(tape, w1, w2);
    tn_lycoris_convolve(forward, &slot->shared, module, y, x, w);
    tn_drop(tape, w);
    tn_drop(tape, w2);
    tn_drop(tape, w1);
    return y;
}

static bool lokr_fits(const tn_module *module) {
    return module->kind == TN_MODULE_LINEAR || module->kind == TN_MODULE_CONV2D;
}

static tn_status declare(tn_adapter *adapter, const tn_module *module, factor *f, const char *const names[4]) {
    if (f->is_full)
        return tn_adapter_declare(adapter, module, names[0], &f->full);
    if (f->has_core)
        TN_TRY(tn_adapter_declare(adapter, module, names[3], &f->core));
    TN_TRY(tn_adapter_declare(adapter, module, names[1], &f->a));
    return tn_adapter_declare(adapter, module, names[2], &f->b);
}

static factor matrix_factor(int64_t rows, int64_t cols, int64_t rank, bool is_full) {
    return (factor){.full = tn_lycoris_matrix(rows, cols),
                    .a = tn_lycoris_matrix(rows, rank),
                    .b = tn_lycoris_matrix(rank, cols),
                    .is_full = is_full,
                    .rows = rows,
                    .cols = cols};
}

/* w2 [K, N] of a convolution, as kernels. */
static factor kernel_factor(const lokr_slot *slot, const tn_adapter *adapter, const tn_module *module, int64_t rank,
                            bool is_full) {
    int64_t window = module->conv.kernel_height * module->conv.kernel_width;
    factor f = matrix_factor(slot->k, slot->n * window, rank, is_full);
    f.full = tn_lycoris_kernels(slot->k, slot->n, module);
    f.has_core = !is_full && tn_lycoris_has_core(adapter, module);
    if (f.has_core) {
        f.core = tn_lycoris_kernels(rank, rank, module);
        f.a = tn_lycoris_matrix(rank, slot->k);
        f.b = tn_lycoris_matrix(rank, slot->n);
    }
    return f;
}

static tn_status lokr_create(tn_adapter *adapter, tn_slot *base, tn_module *module, int64_t rank, double alpha) {
    static const char *const w1_names[] = {"lokr_w1", "lokr_w1_a", "lokr_w1_b", NULL};
    static const char *const w2_names[] = {"lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"};
    const tn_lycoris_settings *settings = adapter->config.settings;
    lokr_slot *slot = (lokr_slot *)base;
    bool is_conv = module->kind == TN_MODULE_CONV2D;
    tn_lycoris_start(&slot->shared, adapter, module, rank, alpha, settings->rank_dropout_scale);
    int64_t out = slot->shared.out, in = is_conv ? module->weight.tensor.shape[1] : slot->shared.in;
    slot->l = factorise(out, settings->decompose_factor);
    slot->m = factorise(in, settings->decompose_factor);
    slot->k = out / slot->l;
    slot->n = in / slot->m;
    bool w1_is_full = !settings->decompose_both || 2 * rank >= (slot->l > slot->m ? slot->l : slot->m);
    bool w2_is_full = 2 * rank >= (slot->k > slot->n ? slot->k : slot->n);
    slot->w1 = matrix_factor(slot->l, slot->m, rank, w1_is_full);
    slot->w2 =
        is_conv ? kernel_factor(slot, adapter, module, rank, w2_is_full) : matrix_factor(slot->k, slot->n, rank, w2_is_full);
    slot->order = cheapest_order(slot, rank);
    TN_TRY(declare(adapter, module, &slot->w1, w1_names));
    return declare(adapter, module, &slot->w2, w2_names);
}

static tn_status lokr_init(tn_adapter *adapter, tn_slot *base, tn_module *module, uint64_t seed) {
    const tn_lycoris_settings *settings = adapter->config.settings;
    lokr_slot *s = (lokr_slot *)base;
    bool first_zero = settings->init == TN_LYCORIS_NO_OP, second_zero = settings->init == TN_LYCORIS_SECOND_ZERO;
    const struct {
        tn_weight *weight;
        bool is_used, is_zero;
    } tensors[] = {
        {&s->w1.full, s->w1.is_full, first_zero}, {&s->w1.a, !s->w1.is_full, first_zero},
        {&s->w1.b, !s->w1.is_full, false},        {&s->w2.full, s->w2.is_full, second_zero},
        {&s->w2.a, !s->w2.is_full, false},        {&s->w2.b, !s->w2.is_full, second_zero},
        {&s->w2.core, s->w2.has_core, false},
    };
    (void)module;
    for (uint32_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        if (tensors[i].is_used && !tensors[i].is_zero)
            tn_lycoris_fill(&s->shared, tensors[i].weight, seed, i);
    return TN_OK;
}

/* The factor in full, into `memory` where it is a product; `scratch` [rank, cols] is for a core. */
static const float *full_values(const factor *f, float *memory, float *scratch) {
    if (f->is_full)
        return f->full.tensor.data;
    if (f->has_core)
        tn_tucker_weight(tn_kernels_cpu(), memory, scratch, &f->core, &f->a, &f->b);
    else
        tn_kernels_cpu()->gemm(memory, f->cols, tn_weight_rows(&f->a), tn_weight_rows(&f->b), 1, 0, f->rows, f->cols,
                               f->b.tensor.shape[0]);
    return memory;
}

static tn_status lokr_merge(const tn_slot *base, const tn_module *module, float *weight, float *bias) {
    const lokr_slot *s = (const lokr_slot *)base;
    int64_t w1_count = s->w1.rows * s->w1.cols, w2_count = s->w2.rows * s->w2.cols;
    int64_t scratch = s->w2.has_core ? s->w2.a.tensor.shape[0] * s->w2.cols : 0;
    float *memory = tn_malloc((size_t)(w1_count + w2_count + scratch) * sizeof *memory);
    (void)module;
    (void)bias;
    if (!memory)
        return tn_fail_memory("the merged weights");
    const float *w1 = full_values(&s->w1, memory, NULL);
    const float *w2 = full_values(&s->w2, memory + w1_count, memory + w1_count + w2_count);
    tn_kronecker_add(weight, w1, w2, s->shared.scale, s->w1.rows, s->w1.cols, s->w2.rows, s->w2.cols);
    tn_free(memory);
    return TN_OK;
}

static const char *const inits[] = {"true", "false", "lycoris", NULL}; /* as tn_lycoris_init */

static const tn_option options[] = {
    {.name = "decompose-both",
     .type = TN_OPTION_BOOL,
     TN_FIELD(tn_lycoris_settings, decompose_both),
     .initial = "false",
     .help = "the left Kronecker factor is a low-rank product too, where that is smaller"},
    {.name = "decompose-factor",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_lycoris_settings, decompose_factor),
     .initial = "-1",
     .low = -1,
     .high = INT32_MAX,
     .help = "largest size of the left Kronecker factor; -1: the most balanced sizes"},
    TN_LYCORIS_OPTIONS,
    {.name = "rank-dropout-scale",
     .type = TN_OPTION_BOOL,
     TN_FIELD(tn_lycoris_settings, rank_dropout_scale),
     .initial = "false",
     .help = "the rows that rank-dropout keeps are scaled up"},
    {.name = "init-weights",
     .type = TN_OPTION_CHOICE,
     TN_FIELD(tn_lycoris_settings, init),
     .initial = "true",
     .choices = inits,
     .help = "true starts as the base model with a zero left factor, lycoris with a zero right one, false somewhere else"},
    {0},
};

const tn_peft_method tn_lokr = {
    .name = "lokr",
    .peft_type = "LOKR",
    .summary = "Kronecker product of two small matrices, the larger of them of low rank",
    .formula = "y = W x + alpha/r kron(w1, w2) x",
    .paper = "arXiv:2309.14859",
    .rank_key = "r",
    .alpha_key = "alpha",
    .rank = 8,
    .alpha = 8,
    .any_rank = true,
    .no_fan_in_fan_out = true,
    .options = options,
    .settings_size = sizeof(tn_lycoris_settings),
    .subtractable = true,
    .slot_size = sizeof(lokr_slot),
    .hooks = {.linear = lokr_linear, .conv = lokr_conv},
    .fits = lokr_fits,
    .create = lokr_create,
    .init = lokr_init,
    .merge = lokr_merge,
};
