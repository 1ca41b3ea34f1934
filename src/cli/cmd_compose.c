/* tenon compose: several LoRA adapters as one. */
#include <tenon/compose.h>
#include <tenon/model.h>

#include "base/format.h"
#include "cli/commands.h"
#include "cli/low_rank_report.h"

typedef struct {
    tn_text_list adapters, weights;
    const char *model;
    int mode, majority_sign;
    int64_t rank, seed;
    double density, svd_clamp;
    tn_cli_low_rank result;
} config;

static const char *const modes[] = {"linear",
                                    "cat",
                                    "svd",
                                    "ties",
                                    "dare_linear",
                                    "dare_ties",
                                    "magnitude_prune",
                                    "ties_svd",
                                    "dare_linear_svd",
                                    "dare_ties_svd",
                                    "magnitude_prune_svd",
                                    NULL};
static const char *const signs[] = {"total", "frequency", NULL};

static const tn_option options[] = {
    {.name = "adapter",
     .type = TN_OPTION_LIST,
     TN_FIELD(config, adapters),
     .value_name = "DIR",
     .group = "Adapters",
     .help = "folder of a LoRA adapter; once for each",
     .flags = TN_OPTION_REQUIRED | TN_OPTION_REPEATABLE},
    {.name = "weight",
     .type = TN_OPTION_LIST,
     TN_FIELD(config, weights),
     .value_name = "X",
     .help = "its weight, may be negative; once for each adapter in their order, or not at all: 1",
     .flags = TN_OPTION_REPEATABLE},
    {.name = "model",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, model),
     .value_name = "DIR",
     .help = "a base that each adapter must fit; without it the adapters are only compared with each other"},
    {.name = "mode",
     .type = TN_OPTION_CHOICE,
     TN_FIELD(config, mode),
     .initial = "cat",
     .choices = modes,
     .group = "Composition",
     .help = "how they are combined; see the description"},
    {.name = "rank",
     .type = TN_OPTION_INT,
     TN_FIELD(config, rank),
     .low = 1,
     .high = 1 << 20,
     .help = "of svd and the _svd modes; without it the highest of the adapters'"},
    {.name = "density",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(config, density),
     .low = 0,
     .high = 1,
     .help = "share of entries that ties, dare and magnitude_prune keep",
     .flags = TN_OPTION_ABOVE_LOW},
    {.name = "majority-sign",
     .type = TN_OPTION_CHOICE,
     TN_FIELD(config, majority_sign),
     .initial = "total",
     .choices = signs,
     .help = "what elects the sign of an entry in the ties modes: the sum of the values, or the number of signs"},
    {.name = "svd-clamp",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(config, svd_clamp),
     .low = 0,
     .high = 1,
     .value_name = "Q",
     .help = "svd and _svd: cut the factors' entries at this quantile of their magnitudes, counted with both signs",
     .flags = TN_OPTION_ABOVE_LOW},
    {.name = "seed",
     .type = TN_OPTION_INT,
     TN_FIELD(config, seed),
     .initial = "0",
     .low = 0,
     .high = 9007199254740992.0,
     .help = "of the random masks of the dare modes"},
    {0},
};

static tn_status read_weights(const config *c, double *weights) {
    if (c->weights.count && c->weights.count != c->adapters.count)
        return tn_fail(TN_ERROR_ARGUMENT, "%zu adapters and %zu weights: give one --weight for each --adapter",
                       c->adapters.count, c->weights.count);
    for (size_t i = 0; i < c->adapters.count; i++) {
        weights[i] = 1;
        if (c->weights.count && !tn_parse_double(c->weights.items[i], &weights[i]))
            return tn_fail(TN_ERROR_ARGUMENT, "--weight: '%.100s' is not a number", c->weights.items[i]);
    }
    return TN_OK;
}

static int run(const tn_invocation *call) {
    const config *c = call->config;
    tn_low_rank_report report = {0};
    char title[64];
    double *weights = tn_calloc(c->adapters.count, sizeof *weights);
    const tn_compose_options how = {.mode = modes[c->mode],
                                    .rank = c->rank,
                                    .density = c->density,
                                    .majority_sign = signs[c->majority_sign],
                                    .svd_clamp = c->svd_clamp,
                                    .seed = (uint64_t)c->seed};
    tn_set_threads(c->result.threads);
    tn_format(title, sizeof title, "composed %zu adapters", c->adapters.count);
    tn_status status = weights ? read_weights(c, weights) : tn_fail_memory("the weights");
    bool usage = status == TN_ERROR_ARGUMENT;
    if (status == TN_OK)
        status = tn_compose_adapters(c->adapters.items, weights, (int64_t)c->adapters.count, c->model, &how, c->result.out,
                                     &report);
    if (status == TN_OK)
        status = tn_cli_show_low_rank(&c->result, title, &report, false);
    tn_low_rank_report_free(&report);
    tn_free(weights);
    return usage ? TN_EXIT_USAGE : tn_cli_exit(status);
}

const tn_command tn_command_compose = {
    .name = "compose",
    .summary = "combine LoRA adapters into one",
    .description =
        "Writes one LoRA adapter that stands for the weighted sum of several, under PEFT's names of the modes. Ranks, "
        "target "
        "modules and scalings of the adapters may differ; a module that one of them does not have counts as zero there. The "
        "report says how far the result is from the exact weighted sum of the updates.\n\n"
        "cat is the exact sum; its rank is the sum of the ranks. svd truncates the exact sum to --rank. linear combines A "
        "and "
        "B on their own, each with the root of the weight, so that the product holds cross terms between the adapters. "
        "ties, "
        "dare_linear, dare_ties and magnitude_prune prune A and B to --density first; ties elects a sign for each entry. "
        "These and linear need equal ranks. The modes that end in _svd do the same with whole updates, one module at a "
        "time, "
        "and truncate the result.\n\n"
        "Unlike PEFT's, svd and the _svd modes count an adapter's scaling (alpha / rank) once: PEFT multiplies by it twice, "
        "so "
        "that its svd is no weighted sum unless the scaling is 1.\n\n"
        "DoRA, KaSA, aLoRA, BD-LoRA and lora_bias are refused, since their updates are more than a product of two factors. "
        "modules_to_save and trained biases must be equal in all adapters.",
    .usage = "--adapter DIR [--weight X] [--adapter DIR [--weight X]]... --out DIR",
    .tables = (const tn_option_table[]){{options, 0}, {tn_cli_low_rank_options, offsetof(config, result)}, {0}},
    .config_size = sizeof(config),
    .examples =
        (const tn_example[]){
            {"tenon compose --adapter sql --weight 0.7 --adapter chat --weight 0.5 --out both", "the exact weighted sum"},
            {"tenon compose --adapter a --adapter b --mode svd --rank 16 --out both", "at most rank 16"},
            {"tenon compose --adapter a --adapter b --mode ties --density 0.5 --out both", "without what contradicts"},
            {0}},
    .run = run,
};
