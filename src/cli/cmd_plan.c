/* tenon plan: what a run would need, without running it. */
#include <stdio.h>

#include "base/format.h"
#include "cli/commands.h"
#include "cli/train_options.h"
#include "session/session.h"

/* Trained parameters by the last part of the module's name. */
static void print_parameters(const tn_model *model) {
    const tn_params *params = &model->adapter->params;
    printf("\ntrained parameters by module\n");
    for (int64_t i = 0; i < params->count; i++) {
        const tn_param *param = &params->entries[i];
        char shape[TN_SHAPE_TEXT];
        printf("  %-60s %-16s %12lld\n", param->name, tn_shape_text(&param->weight->tensor, shape), (long long)param->count);
    }
}

static tn_status print_memory(tn_model *model, const tn_adapter_options *options) {
    tn_memory_row table[TN_MEMORY_ROWS];
    tn_buf text = {0};
    TN_TRY(tn_memory_table(model, options, table));
    tn_buf_puts(&text,
                "\nmemory of weights by ways of training, without activations (qlora, qdora: linear layers in NF4)\n");
    tn_cli_print_memory_table(&text, table);
    tn_status status = tn_cli_print(&text);
    tn_buf_free(&text);
    return status;
}

static int run(const tn_invocation *call) {
    tn_train_options options;
    tn_train_plan plan;
    int32_t classes[TN_CLI_MOST_CLASSES];
    tn_model *model = NULL;
    tn_status status = tn_cli_prepare_training(call, &options, classes, &model);
    if (status == TN_OK)
        status = tn_plan(model, &options, &plan);
    if (status == TN_OK) {
        char each[TN_FORMAT_TEXT], all[TN_FORMAT_TEXT];
        tn_format_duration(each, plan.seconds_per_step);
        tn_format_duration(all, plan.seconds_per_step * (double)plan.steps);
        tn_cli_print_plan(model, &plan);
        printf("time       about %s per step, %s in all, by a short calibration of this machine\n", each, all);
        print_parameters(model);
        status = print_memory(model, &((const tn_cli_train *)call->config)->adapter);
    }
    tn_model_free(model);
    return tn_cli_exit(status);
}

const tn_command tn_command_plan = {
    .name = "plan",
    .summary = "say what a training run would need",
    .description =
        "Takes the options of train and says, without training: what would be trained, how much memory each part needs, "
        "how many FLOPs a step takes and about how long the run would be. The figures come from a rehearsal of the run's "
        "own largest step.",
    .tables = tn_cli_train_tables,
    .config_size = sizeof(tn_cli_train),
    .examples = (const tn_example[]){{"tenon plan --model base --data train.jsonl --rank 16", "before a run of train"}, {0}},
    .run = run,
};
