/* tenon resize: an adapter with another rank. */
#include <tenon/compose.h>
#include <tenon/model.h>

#include "cli/commands.h"
#include "cli/low_rank_report.h"

typedef struct {
    const char *adapter, *out;
    int64_t rank;
    double energy;
    int threads;
    bool json;
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
    {.name = "threads",
     .type = TN_OPTION_INT,
     TN_FIELD(config, threads),
     .initial = "0",
     .low = 0,
     .high = 4096,
     .help = "threads to use; 0: one per core"},
    {.name = "out",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, out),
     .value_name = "DIR",
     .group = "Output",
     .help = "folder to write; it is created",
     .flags = TN_OPTION_REQUIRED},
    {.name = "json", .type = TN_OPTION_BOOL, TN_FIELD(config, json), .help = "print one JSON object"},
    {0},
};

static tn_status print(const config *c, const tn_low_rank_report *report) {
    tn_buf text = {0};
    tn_status status = c->json ? tn_cli_print_low_rank_json(&text, report, true)
                               : tn_cli_print_low_rank(&text, "resized the adapter", report, true, c->out);
    if (status == TN_OK)
        status = tn_cli_print(&text);
    tn_buf_free(&text);
    return status;
}

static int run(const tn_invocation *call) {
    const config *c = call->config;
    tn_low_rank_report report;
    if (!c->rank == !(c->energy > 0)) {
        tn_fail(TN_ERROR_ARGUMENT, "give either --rank or --energy");
        return TN_EXIT_USAGE;
    }
    tn_set_threads(c->threads);
    tn_status status = tn_resize_adapter(c->adapter, c->rank, c->energy, c->out, &report);
    if (status == TN_OK)
        status = print(c, &report);
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
    .tables = (const tn_option_table[]){{options, 0}, {0}},
    .config_size = sizeof(config),
    .examples = (const tn_example[]){{"tenon resize --adapter a --rank 4 --out small", "one rank for all modules"},
                                     {"tenon resize --adapter a --energy 0.99 --out small", "what each module needs"},
                                     {0}},
    .run = run,
};
