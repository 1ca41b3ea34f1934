/* tenon merge: base and adapter as one checkpoint that any tool loads. */
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/output_files.h"

typedef struct {
    tn_cli_model model;
    const char *out;
    int dtype;
    bool requantize;
} config;

static const char *const dtypes[] = {"keep", "f32", "bf16", "f16", NULL};

static const tn_option options[] = {
    {.name = "adapter",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, model.adapter),
     .value_name = "DIR",
     .group = "Model",
     .help = "folder with adapter_config.json and adapter_model.safetensors",
     .flags = TN_OPTION_REQUIRED},
    {.name = "allow-partial",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, model.allow_partial),
     .help = "merge an adapter although tensors are missing or left over"},
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
     .help = "how weights are stored; keep: as in the base, of a quantised one as its config.json names"},
    {.name = "requantize",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, requantize),
     .help = "keep a quantised base quantised: merged weights are quantised again, and what that loses is said"},
    {0},
};

static tn_status print_report(const config *c, const tn_merge_report *report) {
    tn_buf text = {0};
    tn_buf_printf(&text, "merged %lld modules into %s\n", (long long)report->modules, c->out);
    tn_buf_printf(&text, "largest logit difference on a probe, merged against unmerged: %.3g\n", report->logit_difference);
    tn_buf_printf(&text, "largest rounding of a stored weight: %.3g\n", report->largest_rounding);
    if (c->requantize)
        tn_buf_puts(&text, "merging without --requantize loses none of it\n");
    tn_status status = tn_cli_print_files(&text, c->out);
    if (status == TN_OK)
        status = tn_cli_print(&text);
    tn_buf_free(&text);
    return status;
}

static void show_layer(void *cookie, const tn_quantize_layer *layer) {
    tn_cli_print_quantized_layer(cookie, layer);
}

static tn_status requantize(const config *c, tn_model *model, tn_merge_report *report) {
    tn_buf layers = {0};
    const tn_quantize_callbacks callbacks = {&layers, show_layer};
    if (c->dtype)
        return tn_fail(TN_ERROR_ARGUMENT, "--requantize stores codes; it does not go with --dtype %s", dtypes[c->dtype]);
    tn_status status = tn_model_merge_requantized(model, c->out, &callbacks, report);
    if (status == TN_OK)
        status = tn_cli_print(&layers);
    tn_buf_free(&layers);
    return status;
}

static int run(const tn_invocation *call) {
    const config *c = call->config;
    tn_model *model = NULL;
    tn_merge_report report;
    tn_status status = tn_cli_load_model(&c->model, false, &model);
    if (status == TN_OK && c->requantize)
        status = requantize(c, model, &report);
    else if (status == TN_OK)
        status = tn_model_merge(model, c->out, dtypes[c->dtype], &report);
    if (status == TN_OK)
        status = print_report(c, &report);
    tn_model_free(model);
    return tn_cli_exit(status);
}

const tn_command tn_command_merge = {
    .name = "merge",
    .summary = "write a base and an adapter as one checkpoint",
    .description =
        "Adds the adapter to the base's weights and writes a full checkpoint, in as many shards as the base has, with its "
        "config.json and tokenizer, that loads everywhere without the adapter. Sums are in f32 and rounded once to the "
        "stored type.\n\n"
        "What was written is read back and compared with base and adapter on a probe. An output head that shares the "
        "embedding's weight gets one of its own when the adapter changes only one of the two.",
    .tables = (const tn_option_table[]){{tn_cli_model_options, offsetof(config, model)},
                                        {tn_cli_load_quantized_options, offsetof(config, model.quantize)},
                                        {options, 0},
                                        {0}},
    .config_size = sizeof(config),
    .examples = (const tn_example[]){{"tenon merge --model base --adapter out --out merged", "in the base's own types"},
                                     {"tenon merge --model base --adapter out --out merged --dtype f32", "without rounding"},
                                     {0}},
    .run = run,
};
