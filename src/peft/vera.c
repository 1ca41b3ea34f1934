/* VeRA (Kopiczko et al. 2023, arXiv 2310.11454): y = W x + b + lambda_b * (B (lambda_d * (A dropout(x)))), by elements.
 * A [r, largest in] and B [largest out, r] are random constants that all layers share: a layer of C inputs and O outputs
 * uses A's first C columns and B's first O rows. Trained are lambda_b [O] and lambda_d [r].
 *
 * A and B are PyTorch's kaiming_uniform, U(-sqrt(6 / fan in), +sqrt(6 / fan in)), by a generator that is seeded with
 * projection_prng_key: first A, then B. So a file need not hold them. */
#include <math.h>

#include "base/rng.h"
#include "base/torch_rng.h"
#include "peft/adapter.h"
#include "peft/methods.h"

enum { MOST_RANK = 1 << 16 };

typedef struct {
    int64_t projection_prng_key;
    bool save_projection, init_weights;
    double d_initial;
} vera_settings;

static const tn_option vera_options[] = {
    {.name = "projection-prng-key",
     .type = TN_OPTION_INT,
     TN_FIELD(vera_settings, projection_prng_key),
     .initial = "0",
     .high = 0x1p53,
     .help = "seed of the frozen projections"},
    {.name = "save-projection",
     .type = TN_OPTION_BOOL,
     TN_FIELD(vera_settings, save_projection),
     .initial = "true",
     .help = "store the frozen projections and not only their seed"},
    {.name = "d-initial",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(vera_settings, d_initial),
     .initial = "0.1",
     .low = -INFINITY,
     .high = INFINITY,
     .help = "starting value of lambda_d"},
    {.name = "init-weights",
     .type = TN_OPTION_BOOL,
     TN_FIELD(vera_settings, init_weights),
     .initial = "true",
     .help = "start without an effect rather than at random"},
    {0},
};

typedef struct {
    tn_weight a, b; /* A [r, largest in], B [largest out, r] */
} projections;

typedef struct {
    tn_slot slot;
    const projections *shared;
    tn_weight b, d; /* lambda_b [O], lambda_d [r] */
    float dropout;
} vera_slot;

static int64_t outputs_of(const tn_module *module) {
    return tn_weight_out(tn_module_weight(module));
}

static int64_t inputs_of(const tn_module *module) {
    return tn_weight_in(tn_module_weight(module));
}

static bool vera_fits(const tn_module *module) {
    return module->kind == TN_MODULE_LINEAR;
}

static tn_status vera_complete(const tn_network *model, tn_peft_config *config) {
    (void)model;
    if (config->exclude_modules.count || config->exclude_regex)
        return tn_fail(TN_ERROR_UNSUPPORTED, "PEFT's configuration of VeRA has no exclude_modules; choose the targets by a "
                                             "regular expression instead");
    if (config->rank > MOST_RANK)
        return tn_fail(TN_ERROR_ARGUMENT, "rank %lld is too large for vera; choose 1 to %d", (long long)config->rank,
                       MOST_RANK);
    return TN_OK;
}

static tn_weight matrix(int64_t rows, int64_t cols) {
    return (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {rows, cols}}};
}

static tn_weight vector(int64_t size) {
    return (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {size}}};
}

static tn_status vera_begin(tn_adapter *adapter, const bool *selected) {
    const tn_network *model = adapter->model;
    const vera_settings *settings = adapter->config.settings;
    int64_t in = 1, out = 1, rank = adapter->config.rank;
    for (int64_t i = 0; i < model->module_count; i++) {
        const tn_module *module = &model->modules[i];
        if (!selected[i])
            continue;
        in = inputs_of(module) > in ? inputs_of(module) : in;
        out = outputs_of(module) > out ? outputs_of(module) : out;
    }
    projections *shared = adapter->shared = tn_arena_alloc(&adapter->arena, sizeof *shared);
    if (!shared)
        return tn_fail_memory("the adapter");
    shared->a = matrix(rank, in);
    shared->b = matrix(out, rank);
    TN_TRY(tn_adapter_declare_shared(adapter, "vera_A", settings->save_projection, &shared->a));
    return tn_adapter_declare_shared(adapter, "vera_B", settings->save_projection, &shared->b);
}

static tn_status vera_create(tn_adapter *adapter, tn_slot *base, tn_module *module, int64_t rank, double alpha) {
    vera_slot *slot = (vera_slot *)base;
    (void)alpha;
    slot->shared = adapter->shared;
    slot->dropout = (float)adapter->config.dropout;
    slot->b = vector(outputs_of(module));
    slot->d = vector(rank);
    TN_TRY(tn_adapter_declare(adapter, module, "vera_lambda_b", &slot->b));
    return tn_adapter_declare(adapter, module, "vera_lambda_d", &slot->d);
}

static void fill_projection(tn_torch_rng *rng, const tn_weight *weight) {
    const tn_tensor *t = &weight->tensor;
    double bound = sqrt(3.0) * (sqrt(2.0) / sqrt((double)t->shape[1]));
    tn_torch_fill_uniform(rng, t->data, (size_t)tn_tensor_count(t), (float)-bound, (float)bound);
}

static tn_status vera_init_shared(tn_adapter *adapter, uint64_t seed) {
    const vera_settings *settings = adapter->config.settings;
    const projections *shared = adapter->shared;
    tn_torch_rng rng;
    (void)seed;
    tn_torch_rng_seed(&rng, (uint64_t)settings->projection_prng_key);
    fill_projection(&rng, &shared->a);
    fill_projection(&rng, &shared->b);
    return TN_OK;
}

/* lambda_b = 0 and lambda_d = d_initial; without init_weights PEFT leaves ones and N(0, 1). */
static tn_status vera_init(tn_adapter *adapter, tn_slot *base, tn_module *module, uint64_t seed) {
    const vera_settings *settings = adapter->config.settings;
    const vera_slot *slot = (const vera_slot *)base;
    const tn_kernels *kernels = tn_kernels_cpu();
    int64_t rank = slot->d.tensor.shape[0];
    (void)module;
    kernels->fill(slot->b.tensor.data, settings->init_weights ? 0 : 1, slot->b.tensor.shape[0]);
    if (settings->init_weights)
        kernels->fill(slot->d.tensor.data, (float)settings->d_initial, rank);
    else
        tn_fill_normal(slot->d.tensor.data, (size_t)rank, seed, tn_stream(TN_STREAM_INIT, base->id), 0, 1);
    return TN_OK;
}

static tn_var *vera_linear(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x, tn_var *y) {
    const vera_slot *slot = (const vera_slot *)base;
    tn_tape *tape = forward->tape;
    tn_var *input = x;
    (void)module;
    if (forward->training && slot->dropout > 0)
        input = tn_op_dropout(tape, x, slot->dropout, forward->dropout_seed, tn_stream(TN_STREAM_DROPOUT, base->id));
    tn_op_scaled_low_rank(tape, y, input, &slot->shared->a, &slot->shared->b, &slot->d, &slot->b);
    if (input != x)
        tn_drop(tape, input);
    return y;
}

/* W += (lambda_b * B * lambda_d) A. */
static tn_status vera_merge(const tn_slot *base, const tn_module *module, float *weight, float *bias) {
    const vera_slot *slot = (const vera_slot *)base;
    const projections *shared = slot->shared;
    const float *b = shared->b.tensor.data, *lambda_b = slot->b.tensor.data, *lambda_d = slot->d.tensor.data;
    int64_t out = outputs_of(module), in = inputs_of(module), rank = slot->d.tensor.shape[0];
    float *scaled = tn_malloc((size_t)(out * rank) * sizeof *scaled);
    (void)bias;
    if (!scaled)
        return tn_fail_memory("the merged weights");
    for (int64_t o = 0; o < out; o++)
        for (int64_t k = 0; k < rank; k++)
            scaled[o * rank + k] = lambda_b[o] * b[o * rank + k] * lambda_d[k];
    tn_kernels_cpu()->gemm(weight, in, tn_rows_of(scaled, TN_DTYPE_F32, rank), tn_weight_rows(&shared->a), 1, 1, out, in,
                           rank);
    tn_free(scaled);
    return TN_OK;
}

static void vera_write_config(const tn_peft_config *config, cJSON *out) {
    (void)config;
    cJSON_DeleteItemFromObjectCaseSensitive(out, "exclude_modules");
}

const tn_peft_method tn_vera = {
    .name = "vera",
    .peft_type = "VERA",
    .summary = "trained scales around one frozen random pair of factors that all layers share",
    .formula = "y = W x + lambda_b * B (lambda_d * A x)",
    .paper = "arXiv:2310.11454",
    .rank_key = "r",
    .dropout_key = "vera_dropout",
    .rank = 256,
    .any_rank = true,
    .bias_name = "vera_only",
    .options = vera_options,
    .settings_size = sizeof(vera_settings),
    .subtractable = true,
    .write_config = vera_write_config,
    .complete = vera_complete,
    .slot_size = sizeof(vera_slot),
    .hooks = {.linear = vera_linear},
    .fits = vera_fits,
    .begin = vera_begin,
    .create = vera_create,
    .init_shared = vera_init_shared,
    .init = vera_init,
    .merge = vera_merge,
};
