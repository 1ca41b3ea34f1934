/* tenon forward: logits, loss and gradients of given token ids, for comparing with other frameworks. */
#include "cli/commands.h"
#include "cli/model_options.h"

typedef struct {
    tn_cli_model model;
    const char *input, *output;
    bool grad, merged;
} config;

static const tn_option options[] = {
    {.name = "input",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, input),
     .value_name = "FILE",
     .group = "Files",
     .help =
         "safetensors with input_ids [B, T] and optional attention_mask and labels; or x and target for a sequential model",
     .flags = TN_OPTION_REQUIRED},
    {.name = "output",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, output),
     .value_name = "FILE",
     .help = "safetensors to write: logits [B, T, V] and, with labels, loss",
     .flags = TN_OPTION_REQUIRED},
    {.name = "grad",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, grad),
     .group = "What to compute",
     .help = "also write grad.KEY for every tensor of the adapter, or of the base without one"},
    {.name = "merged", .type = TN_OPTION_BOOL, TN_FIELD(config, merged), .help = "merge the adapter into f32 weights first"},
    {0},
};

static int run(const tn_invocation *call) {
    const config *c = call->config;
    tn_model *model = NULL;
    tn_status status = tn_cli_load_model(&c->model, c->grad, &model);
    if (status == TN_OK)
        status = tn_forward_file(model, c->input, c->output, c->grad, c->merged);
    tn_model_free(model);
    return tn_cli_exit(status);
}

const tn_command tn_command_forward = {
    .name = "forward",
    .summary = "write logits, loss and gradients of given token ids",
    .description =
        "Runs the model on the token ids of a safetensors file and writes what comes out into another, so that results can "
        "be compared with other frameworks tensor by tensor.\n\n"
        "The loss is the mean cross-entropy of labels[:, 1:] under logits[:, :-1] over labels that are not -100; of a "
        "sequential model it is the mean over the rows of x of the cross-entropy (or squared error) of target.",
    .tables = (const tn_option_table[]){{tn_cli_model_options, offsetof(config, model)},
                                        {tn_cli_precision_options, offsetof(config, model)},
                                        {tn_cli_load_quantized_options, offsetof(config, model.quantize)},
                                        {tn_cli_adapter_options, offsetof(config, model)},
                                        {options, 0},
                                        {0}},
    .config_size = sizeof(config),
    .examples =
        (const tn_example[]){{"tenon forward --model base --adapter out --input ids.safetensors --output logits.safetensors",
                              "logits with an adapter"},
                             {0}},
    .run = run,
};
