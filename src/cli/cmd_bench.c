/* tenon bench: how fast a model runs and trains here, beside what the machine could do. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/profile_table.h"
#include "cli/train_options.h"
#include "format/gguf.h"

typedef struct {
    tn_cli_train train; /* first, since its tables are shared */
    tn_bench_options bench;
    const char *json;
    bool full, profile;
} config;

static const tn_option options[] = {
    {.name = "batch-size",
     .type = TN_OPTION_INT,
     TN_FIELD(config, bench.batch_size),
     .initial = "0",
     .low = 0,
     .high = 1 << 20,
     .value_name = "N",
     .group = "Measurement",
     .help = "samples of a training step; 0: 4, of a sequential model 64"},
    {.name = "max-length",
     .type = TN_OPTION_INT,
     TN_FIELD(config, bench.length),
     .initial = "256",
     .low = 1,
     .high = INFINITY,
     .value_name = "N",
     .help = "tokens of each sample of a language model"},
    {.name = "labelled",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(config, bench.labelled),
     .initial = "1",
     .low = 0,
     .high = 1,
     .value_name = "X",
     .help = "share of the tokens that the loss is on",
     .flags = TN_OPTION_ABOVE_LOW},
    {.name = "prompt",
     .type = TN_OPTION_INT,
     TN_FIELD(config, bench.prompt_tokens),
     .initial = "512",
     .low = 1,
     .high = INFINITY,
     .value_name = "N",
     .help = "tokens of the prompt"},
    {.name = "tokens",
     .type = TN_OPTION_INT,
     TN_FIELD(config, bench.tokens),
     .initial = "32",
     .low = 1,
     .high = INFINITY,
     .value_name = "N",
     .help = "tokens generated after it"},
    {.name = "rounds",
     .type = TN_OPTION_INT,
     TN_FIELD(config, bench.rounds),
     .initial = "3",
     .low = 1,
     .high = 100,
     .value_name = "N",
     .help = "measurements of everything, in turns"},
    {.name = "passes",
     .type = TN_OPTION_INT,
     TN_FIELD(config, bench.passes),
     .initial = "0",
     .low = 0,
     .high = 1000,
     .value_name = "N",
     .help = "forward passes of a kind in each round; 0: as many as 0.1 s takes"},
    {.name = "steps",
     .type = TN_OPTION_INT,
     TN_FIELD(config, bench.steps),
     .initial = "0",
     .low = 0,
     .high = 1000,
     .value_name = "N",
     .help = "training steps of a kind in each round; 0: as many as 0.1 s takes"},
    TN_CLI_CHECKPOINTING(config, bench.checkpointing),
    {.name = "full",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, full),
     .initial = "true",
     .help = "measure full fine-tuning too, if memory allows"},
    {.name = "json",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, json),
     .value_name = "FILE",
     .group = "Output",
     .help = "write all figures to this file too"},
    {.name = "profile",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, profile),
     .help = "print where the time of the training steps went, by phase and op"},
    {0},
};

static tn_status has_file(const char *dir, const char *name, bool *found) {
    char path[TN_PATH_MAX];
    TN_TRY(tn_path_join(path, dir, name));
    *found = *found || tn_path_exists(path);
    return TN_OK;
}

/* A folder without weights is measured with random ones. */
static tn_status needs_weights(const config *c, bool *random) {
    char gguf[TN_PATH_MAX];
    bool found = false;
    *random = true;
    TN_TRY(tn_gguf_locate(c->train.model.model, gguf, &found));
    if (found)
        *random = false;
    if (found || !tn_path_is_dir(c->train.model.model) ||
        (c->train.adapter.init && strcmp(c->train.adapter.init, "random") == 0))
        return TN_OK;
    TN_TRY(has_file(c->train.model.model, "model.safetensors", &found));
    TN_TRY(has_file(c->train.model.model, "model.safetensors.index.json", &found));
    *random = !found;
    return TN_OK;
}

/* `why` says in a few words what kept it from being measured, if anything. */
static tn_status measure_full(tn_model *model, const tn_bench_options *bench, tn_bench_result *result, const char **why) {
    tn_adapter_options full;
    uint64_t available = tn_memory_available();
    *why = NULL;
    /* a step needs activations too, and the system something to live on */
    if (available && 1.3 * (double)tn_bench_full_bytes(model) > (double)available) {
        *why = "memory is too small for it";
        return TN_OK;
    }
    tn_adapter_options_default(&full);
    full.method = "full";
    TN_TRY(tn_model_add_adapter(model, &full, 0));
    return tn_bench(model, bench, result);
}

static tn_status measure(const config *c, tn_model *model) {
    tn_bench_result result = {0};
    tn_profile profile = {0};
    tn_bench_options bench = c->bench;
    tn_model_info info;
    const char *why = NULL;
    bool full_only = strcmp(c->train.adapter.method, "full") == 0 && !c->train.from_adapter;
    bench.profile = c->profile ? &profile : NULL;
    tn_model_describe(model, &info);
    TN_TRY(tn_bench(model, &bench, &result));
    bench.profile = NULL;
    if (c->full && !full_only)
        TN_TRY(measure_full(model, &bench, &result, &why));
    tn_cli_print_bench(&bench, &info, &result);
    if (why)
        printf("full fine-tuning was left out: %s\n", why);
    if (c->profile)
        tn_cli_print_profile(&profile);
    TN_TRY(c->json ? tn_cli_write_bench(c->json, c->train.model.model, &bench, &info, &result) : TN_OK);
    return fflush(stdout) == 0 ? TN_OK : tn_fail(TN_ERROR_IO, "cannot write to standard output");
}

static int run(const tn_invocation *call) {
    static const char *const words[] = {"max-length", "labelled", "prompt", "tokens", "checkpointing", NULL};
    const config *c = call->config;
    tn_model *model = NULL;
    bool random;
    tn_status status = needs_weights(c, &random);
    if (status == TN_OK)
        status = tn_cli_prepare_model(call, &c->train, random, &model);
    if (status == TN_OK)
        status = tn_cli_check_data_options(call->options, model, words);
    if (status == TN_OK)
        status = measure(c, model);
    tn_model_free(model);
    return tn_cli_exit(status);
}

const tn_command tn_command_bench = {
    .name = "bench",
    .summary = "measure speed beside what the machine can do",
    .description =
        "Measures, in turns and in one process, the fastest matrix products of the model's own shapes (by Tenon or "
        "OpenBLAS) "
        "and the bandwidth of reading memory, and then the forward pass, training steps with their phases, prompt "
        "processing and greedy decoding: for the base, with the adapter unmerged, merged, and for full fine-tuning. Of a "
        "sequential model it measures inference in place of prompts and decoding, and counts samples.\n\n"
        "FLOPs are those of the model, as plan counts them; what is recomputed to save memory earns nothing. The tokens "
        "or rows are made up, and nothing is written but --json. A folder without weights is measured with random ones.",
    .tables = (const tn_option_table[]){{tn_cli_model_options, offsetof(config, train.model)},
                                        {tn_cli_precision_options, offsetof(config, train.model)},
                                        {tn_cli_load_quantized_options, offsetof(config, train.model.quantize)},
                                        {options, 0},
                                        {tn_cli_method_options, 0},
                                        {tn_cli_setting_options, offsetof(config, train.settings)},
                                        {0}},
    .config_size = sizeof(config),
    .examples = (const tn_example[]){{"tenon bench --model base", "LoRA of rank 8 on the query and value projections"},
                                     {"tenon bench --model base --target-modules all-linear --rank 16 --json bench.json",
                                      "LoRA on every linear layer, figures as JSON"},
                                     {0}},
    .run = run,
};
