/* tenon bench: how fast a model runs and trains here, beside what the machine could do. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/format.h"
#include "cli/commands.h"
#include "cli/profile_table.h"
#include "cli/train_options.h"
#include "format/json.h"

typedef struct {
    tn_cli_train train; /* first, since its tables are shared */
    tn_bench_options bench;
    const char *json;
    bool full, profile;
} config;

static const char *const checkpointing_choices[] = {"auto", "on", "off", NULL};

static const tn_option options[] = {
    {.name = "batch-size",
     .type = TN_OPTION_INT,
     TN_FIELD(config, bench.batch_size),
     .initial = "4",
     .low = 1,
     .high = 1 << 20,
     .value_name = "N",
     .group = "Measurement",
     .help = "samples of a training step"},
    {.name = "max-length",
     .type = TN_OPTION_INT,
     TN_FIELD(config, bench.length),
     .initial = "256",
     .low = 1,
     .high = INFINITY,
     .value_name = "N",
     .help = "tokens of each sample"},
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
    {.name = "checkpointing",
     .type = TN_OPTION_STRING,
     TN_FIELD(config, bench.checkpointing),
     .initial = "auto",
     .choices = checkpointing_choices,
     .value_name = "MODE",
     .help = "recompute activations to save memory"},
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
    bool found = false;
    *random = true;
    if (!tn_path_is_dir(c->train.model.model) || (c->train.adapter.init && strcmp(c->train.adapter.init, "random") == 0))
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

static void print_row(const tn_bench_row *row) {
    printf("%-8s %-14s %10.1f %10.2f %10.2f", row->weights, row->work, (double)row->tokens / row->seconds,
           1e3 * row->seconds, 1e3 * row->best_seconds);
    if (row->bytes > 0)
        printf(" %8.1f GB/s   ", row->bytes / row->seconds / 1e9);
    else if (row->flops > 0)
        printf(" %8.1f GFLOP/s", row->flops / row->seconds / 1e9);
    else
        printf("%17s", "");
    if (row->share > 0)
        printf(" %6.1f %% %6.1f %%", 100 * row->share, 100 * row->median_share);
    printf("\n");
}

static void print_table(const config *c, const tn_model_info *info, const tn_bench_result *r) {
    char parameters[TN_FORMAT_TEXT];
    tn_format_count(parameters, (double)info->parameters);
    printf("model      %s, %s parameters (%s), %lld layers of %lld, vocabulary %lld\n", info->family, parameters,
           info->dtype, (long long)info->layers, (long long)info->hidden_size, (long long)info->vocab_size);
    printf("work       training %lld x %lld tokens, %.3g %% labelled%s; prompt of %lld tokens, %lld more generated\n",
           (long long)c->bench.batch_size, (long long)c->bench.length, 100 * c->bench.labelled,
           r->recomputed ? ", activations recomputed" : "", (long long)c->bench.prompt_tokens, (long long)c->bench.tokens);
    printf("machine    %d threads, %s; sgemm %.1f GFLOP/s at best, %.1f over all shapes of a layer; reads %.1f GB/s\n\n",
           r->threads, r->kernels, r->limits.sgemm_flops / 1e9, r->limits.sgemm_mix_flops / 1e9,
           r->limits.read_bandwidth / 1e9);
    printf("%-8s %-14s %10s %10s %10s %16s %8s %8s\n", "weights", "work", "tokens/s", "ms", "best ms", "rate", "share",
           "median");
    for (int64_t i = 0; i < r->count; i++)
        print_row(&r->rows[i]);
    printf(
        "\nshare: the best time against the best of sgemm (decode: of reading memory); median: of the rounds, each against "
        "its own limit\n");
}

static cJSON *row_to_json(const tn_bench_row *row) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "weights", row->weights);
    cJSON_AddStringToObject(json, "work", row->work);
    cJSON_AddNumberToObject(json, "tokens", (double)row->tokens);
    cJSON_AddNumberToObject(json, "seconds", row->seconds);
    cJSON_AddNumberToObject(json, "best_seconds", row->best_seconds);
    cJSON_AddNumberToObject(json, "tokens_per_second", (double)row->tokens / row->seconds);
    cJSON_AddNumberToObject(json, "flops", row->flops);
    cJSON_AddNumberToObject(json, "bytes", row->bytes);
    if (row->share > 0) {
        cJSON_AddNumberToObject(json, "share", row->share);
        cJSON_AddNumberToObject(json, "median_share", row->median_share);
    }
    return json;
}

static tn_status write_json(const config *c, const tn_model_info *info, const tn_bench_result *r) {
    cJSON *json = cJSON_CreateObject(), *limits = cJSON_AddObjectToObject(json, "limits");
    tn_buf text = {0};
    cJSON_AddStringToObject(json, "model", c->train.model.model);
    cJSON_AddStringToObject(json, "family", info->family);
    cJSON_AddStringToObject(json, "dtype", info->dtype);
    cJSON_AddNumberToObject(json, "parameters", (double)info->parameters);
    cJSON_AddNumberToObject(json, "batch_size", (double)c->bench.batch_size);
    cJSON_AddNumberToObject(json, "max_length", (double)c->bench.length);
    cJSON_AddNumberToObject(json, "labelled", c->bench.labelled);
    cJSON_AddNumberToObject(json, "prompt", (double)c->bench.prompt_tokens);
    cJSON_AddNumberToObject(json, "tokens", (double)c->bench.tokens);
    cJSON_AddNumberToObject(json, "rounds", (double)c->bench.rounds);
    cJSON_AddBoolToObject(json, "recomputed", r->recomputed);
    cJSON_AddNumberToObject(json, "threads", r->threads);
    cJSON_AddStringToObject(json, "kernels", r->kernels);
    cJSON_AddNumberToObject(limits, "sgemm_flops_per_second", r->limits.sgemm_flops);
    cJSON_AddNumberToObject(limits, "sgemm_mix_flops_per_second", r->limits.sgemm_mix_flops);
    cJSON_AddNumberToObject(limits, "read_bytes_per_second", r->limits.read_bandwidth);
    cJSON *rows = cJSON_AddArrayToObject(json, "rows");
    for (int64_t i = 0; i < r->count; i++)
        cJSON_AddItemToArray(rows, row_to_json(&r->rows[i]));
    tn_json_print(&text, json, true);
    tn_buf_putc(&text, '\n');
    cJSON_Delete(json);
    tn_status status = tn_buf_status(&text);
    if (status == TN_OK)
        status = tn_file_write(c->json, tn_buf_text(&text), text.length);
    tn_buf_free(&text);
    return status;
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
    print_table(c, &info, &result);
    if (why)
        printf("full fine-tuning was left out: %s\n", why);
    if (c->profile)
        tn_cli_print_profile(&profile);
    TN_TRY(c->json ? write_json(c, &info, &result) : TN_OK);
    return fflush(stdout) == 0 ? TN_OK : tn_fail(TN_ERROR_IO, "cannot write to standard output");
}

static int run(const tn_invocation *call) {
    const config *c = call->config;
    tn_model *model = NULL;
    bool random;
    tn_status status = needs_weights(c, &random);
    if (status == TN_OK)
        status = tn_cli_prepare_model(call, &c->train, random, &model);
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
        "processing and greedy decoding: for the base, with the adapter unmerged, merged, and for full fine-tuning.\n\n"
        "FLOPs are those of the model, as plan counts them; what is recomputed to save memory earns nothing. The tokens "
        "are made up, and nothing is written but --json. A folder without weights is measured with random ones.",
    .tables = (const tn_option_table[]){{tn_cli_model_options, offsetof(config, train.model)},
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
