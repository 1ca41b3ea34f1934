/* tenon resize: an adapter with another rank. */
#include <tenon/compose.h>
#include <tenon/model.h>

#include "cli/commands.h"
#include "cli/low_rank_report.h"

typedef struct {
    const char *adapter;
    int64_t rank;
    double energy;
    tn_cli_low_rank result;
} config;

static const tn_option options[] = {
    {.name = "adapter",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, adapter),
     .value_name = "DIR",
     .group = "Adapter",
     .help = "folder of a LoRA adapter",
     .flags = TN_OPTION_REQUIRED},
    {.name = "rank",
     .type = TN_OPTION_INT,
     TN_FIELD(config, rank),
     .low = 1,
     .high = 1 << 20,
     .help = "the new rank; a module of lower rank keeps its own"},
    {.name = "energy",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(config, energy),
     .low = 0,
     .high = 1,
     .help = "instead of --rank: the lowest rank of each module that keeps this share of its squared norm",
     .flags = TN_OPTION_ABOVE_LOW},
    {0},
};

static int run(const tn_invocation *call) {
    const config *c = call->config;
    tn_low_rank_report report;
    if (!c->rank == !(c->energy > 0)) {
        tn_fail(TN_ERROR_ARGUMENT, "give either --rank or --energy");
        return TN_EXIT_USAGE;
    }
    tn_set_threads(c->result.threads);
    tn_status status = tn_resize_adapter(c->adapter, c->rank, c->energy, c->result.out, &report);
    if (status == TN_OK)
        status = tn_cli_show_low_rank(&c->result, "resized the adapter", &report, true);
    tn_low_rank_report_free(&report);
    return tn_cli_exit(status);
}

const tn_command tn_command_resize = {
    .name = "resize",
    .summary = "change the rank of a LoRA adapter",
    .description =
        "Writes the adapter with another rank: of each module's update the largest singular components stay. The "
        "result has alpha = rank, so that its scaling is 1, and rank_pattern where modules differ. Nothing is "
        "lost at the old rank, nor with --energy 1.\n\n"
        "DoRA, KaSA, aLoRA, BD-LoRA and lora_bias are refused, since their updates are more than a product of two "
        "factors. Trained biases and modules_to_save are carried over.",
    .usage = "--adapter DIR (--rank N | --energy X) --out DIR",
    .tables = (const tn_option_table[]){{options, 0}, {tn_cli_low_rank_options, offsetof(config, result)}, {0}},
    .config_size = sizeof(config),
    .examples = (const tn_example[]){{"tenon resize --adapter a --rank 4 --out small", "one rank for all modules"},
                                     {"tenon resize --adapter a --energy 0.99 --out small", "what each module needs"},
                                     {0}},
    .run = run,
};
