/* tenon extract: the difference of two checkpoints as a LoRA. */
#include <tenon/compose.h>
#include <tenon/model.h>

#include "cli/commands.h"
#include "cli/low_rank_report.h"

typedef struct {
    const char *base, *tuned;
    tn_extract_options how;
    int64_t seed;
    tn_cli_low_rank result;
} config;

static const tn_option options[] = {
    {.name = "base",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, base),
     .value_name = "DIR",
     .group = "Checkpoints",
     .help = "folder of the checkpoint that the adapter is for",
     .flags = TN_OPTION_REQUIRED},
    {.name = "tuned",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, tuned),
     .value_name = "DIR",
     .help = "folder of the checkpoint that base and adapter shall be",
     .flags = TN_OPTION_REQUIRED},
    {.name = "rank",
     .type = TN_OPTION_INT,
     TN_FIELD(config, how.rank),
     .low = 1,
     .high = 1 << 20,
     .group = "Adapter",
     .help = "the rank of every module"},
    {.name = "energy",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(config, how.energy),
     .low = 0,
     .high = 1,
     .help = "instead of --rank: the lowest rank of each module that keeps this share of the difference's squared norm",
     .flags = TN_OPTION_ABOVE_LOW},
    {.name = "target-modules",
     .type = TN_OPTION_STRING,
     TN_FIELD(config, how.target_modules),
     .value_name = "NAME,...",
     .help = "modules by name, one regular expression, or all-linear (all but the head); without it all that differ"},
    {.name = "embeddings", .type = TN_OPTION_BOOL, TN_FIELD(config, how.embeddings), .help = "embeddings too"},
    {.name = "keep-rest",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, how.keep_rest),
     .help = "put other tensors that differ (norms, biases, embeddings) into the adapter whole"},
    {.name = "seed",
     .type = TN_OPTION_INT,
     TN_FIELD(config, seed),
     .initial = "0",
     .low = 0,
     .high = 9007199254740992.0,
     .help = "of the randomised decomposition of large weights"},
    {0},
};

static int run(const tn_invocation *call) {
    const config *c = call->config;
    tn_low_rank_report report;
    if (!c->how.rank == !(c->how.energy > 0)) {
        tn_fail(TN_ERROR_ARGUMENT, "give either --rank or --energy");
        return TN_EXIT_USAGE;
    }
    tn_extract_options how = c->how;
    how.seed = (uint64_t)c->seed;
    tn_set_threads(c->result.threads);
    tn_status status = tn_extract_adapter(c->base, c->tuned, &how, c->result.out, &report);
    if (status == TN_OK)
        status = tn_cli_show_low_rank(&c->result, "extracted an adapter", &report, true);
    tn_low_rank_report_free(&report);
    return tn_cli_exit(status);
}

const tn_command tn_command_extract = {
    .name = "extract",
    .summary = "make a LoRA of the difference of two checkpoints",
    .description =
        "Takes tuned - base of every linear or convolutional weight that differs and writes its largest singular components "
        "as a LoRA adapter for the base, with alpha = rank. The report says for each module how much of the difference's "
        "squared norm (its energy) was kept. Weights may be of any float type; both checkpoints must hold the same tensors "
        "in "
        "the same shapes.\n\n"
        "Tensors that differ and are no such weight (norms, biases, and embeddings without --embeddings) are listed with "
        "the "
        "size of their difference; the adapter is without them unless --keep-rest is given.",
    .usage = "--base DIR --tuned DIR (--rank N | --energy X) --out DIR",
    .tables = (const tn_option_table[]){{options, 0}, {tn_cli_low_rank_options, offsetof(config, result)}, {0}},
    .config_size = sizeof(config),
    .examples = (const tn_example[]){{"tenon extract --base base --tuned tuned --rank 16 --out lora", "a fixed rank"},
                                     {"tenon extract --base base --tuned tuned --energy 0.95 --keep-rest --out lora",
                                      "what each weight needs, and everything else whole"},
                                     {0}},
    .run = run,
};
