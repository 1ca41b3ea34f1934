/* tenon unmerge: takes an adapter out of a checkpoint that it was merged into. */
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/output_files.h"

typedef struct {
    tn_cli_model model;
    const char *out;
    int dtype;
} config;

static const char *const dtypes[] = {"keep", "f32", "bf16", "f16", NULL};

static const tn_option options[] = {
    {.name = "adapter",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, model.adapter),
     .value_name = "DIR",
     .group = "Model",
     .help = "the adapter that was merged into the model",
     .flags = TN_OPTION_REQUIRED},
    {.name = "allow-partial",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, model.allow_partial),
     .help = "also when tensors are missing or left over, or copies of base weights in the adapter's file differ from the "
             "merged ones"},
    {.name = "out",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, out),
     .value_name = "DIR",
     .group = "Output",
     .help = "folder to write; it is created",
     .flags = TN_OPTION_REQUIRED},
    {.name = "dtype",
     .type = TN_OPTION_CHOICE,
     TN_FIELD(config, dtype),
     .initial = "keep",
     .choices = dtypes,
     .help = "how weights are stored; keep: as in the merged checkpoint"},
    {0},
};

static tn_status print_report(const config *c, const tn_merge_report *report) {
    tn_buf text = {0};
    tn_buf_printf(&text, "took the adapter out of %lld modules; the restored base is in %s\n", (long long)report->modules,
                  c->out);
    tn_buf_printf(&text,
                  "each restored weight is within %.3g of the base's, the roundings of merging and restoring together\n",
                  report->largest_rounding);
    tn_buf_printf(&text, "largest logit difference on a probe, merged against restored base with the adapter: %.3g\n",
                  report->logit_difference);
    tn_status status = tn_cli_print_files(&text, c->out);
    if (status == TN_OK)
        status = tn_cli_print(&text);
    tn_buf_free(&text);
    return status;
}

static int run(const tn_invocation *call) {
    const config *c = call->config;
    tn_model *model = NULL;
    tn_merge_report report;
    tn_status status = tn_cli_load_model(&c->model, false, &model);
    if (status == TN_OK)
        status = tn_model_unmerge(model, c->out, dtypes[c->dtype], &report);
    if (status == TN_OK)
        status = print_report(c, &report);
    tn_model_free(model);
    return tn_cli_exit(status);
}

const tn_command tn_command_unmerge = {
    .name = "unmerge",
    .summary = "take an adapter out of a merged checkpoint",
    .description = "The reverse of `tenon merge`: subtracts the adapter from the weights that it was merged into and "
                   "writes the base again.\n\n"
                   "The base comes back as exactly as the stored type allows: what merging rounded away is lost, and the "
                   "report says how much that is at most. Weights that the adapter replaced as a whole (modules_to_save, "
                   "trained biases, trained token rows) cannot be restored; such adapters are refused. An adapter on the "
                   "embedding or the output head that PEFT wrote holds a copy of the base's weight, which the merged one "
                   "cannot match: give --allow-partial.",
    .tables = (const tn_option_table[]){{tn_cli_model_options, offsetof(config, model)}, {options, 0}, {0}},
    .config_size = sizeof(config),
    .examples =
        (const tn_example[]){
            {"tenon unmerge --model merged --adapter out --out base", "the base as it was, but for rounding"}, {0}},
    .run = run,
};
