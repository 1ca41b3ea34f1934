/* One row for each option of a run, and from them to a model that is ready to train. */
#include "cli/train_options.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/format.h"

static const char *const too_long_choices[] = {"cut", "drop", NULL};
static const char *const schedule_choices[] = {"constant", "linear", "cosine", NULL};
static const char *const optimizer_choices[] = {"adamw", "adamw8bit", NULL};
const char *const tn_cli_checkpointing_choices[] = {"auto", "off", "8bit", "on", NULL};

static const tn_option files[] = {
    {.name = "data",
     .type = TN_OPTION_PATH,
     TN_FIELD(tn_cli_train, train.data),
     .value_name = "PATH",
     .group = "Data",
     .help = "JSONL file, or folder with train.jsonl and valid.jsonl; for sequential models IDX (MNIST), CSV or safetensors "
             "files or folders of them, or digits: images that are drawn",
     .flags = TN_OPTION_REQUIRED},
    {.name = "max-length",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, train.max_length),
     .initial = "1024",
     .low = 0,
     .high = INFINITY,
     .value_name = "N",
     .help = "tokens per sample; 0: the model's positions"},
    {.name = "too-long",
     .type = TN_OPTION_CHOICE,
     TN_FIELD(tn_cli_train, too_long),
     .initial = "cut",
     .choices = too_long_choices,
     .help = "what happens to longer samples"},
    {.name = "train-on-prompt",
     .type = TN_OPTION_BOOL,
     TN_FIELD(tn_cli_train, train.train_on_prompt),
     .help = "put the loss on prompts too"},
    {.name = "valid-fraction",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_train, train.valid_fraction),
     .initial = "0.05",
     .low = 0,
     .high = 0.9,
     .value_name = "X",
     .help = "share of a single file kept for validation"},
    {.name = "shuffle",
     .type = TN_OPTION_BOOL,
     TN_FIELD(tn_cli_train, train.shuffle),
     .initial = "true",
     .help = "a new order of samples every epoch"},
    {0},
};

static const tn_option output[] = {
    {.name = "out",
     .type = TN_OPTION_PATH,
     TN_FIELD(tn_cli_train, train.out),
     .value_name = "DIR",
     .group = "Output",
     .help = "folder for the adapter, metrics, report and checkpoints"},
    {.name = "log-every",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, train.log_every),
     .initial = "1",
     .low = 1,
     .high = INFINITY,
     .value_name = "N",
     .help = "steps between lines of metrics.jsonl"},
    {.name = "eval-every",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, train.eval_every),
     .initial = "100",
     .low = 0,
     .high = INFINITY,
     .value_name = "N",
     .help = "steps between validations; 0: at the end only"},
    {.name = "save-every",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, train.save_every),
     .initial = "100",
     .low = 0,
     .high = INFINITY,
     .value_name = "N",
     .help = "steps between checkpoints; 0: at the end only"},
    {.name = "keep-checkpoints",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, train.keep_checkpoints),
     .initial = "2",
     .low = 1,
     .high = INFINITY,
     .value_name = "N",
     .help = "newest checkpoints kept"},
    {.name = "profile",
     .type = TN_OPTION_BOOL,
     TN_FIELD(tn_cli_train, profile),
     .help = "print at the end where the time went, by phase and op"},
    {.name = "resume",
     .type = TN_OPTION_BOOL,
     TN_FIELD(tn_cli_train, train.resume),
     .help = "go on from the newest checkpoint in --out, from the start when there is none"},
    {.name = "resume-changed",
     .type = TN_OPTION_BOOL,
     TN_FIELD(tn_cli_train, train.resume_changed),
     .help = "with --resume: go on although data or settings changed"},
    {.name = "config",
     .type = TN_OPTION_PATH,
     TN_FIELD(tn_cli_train, config),
     .value_name = "FILE",
     .group = "Run file",
     .help = "YAML file with options; flags win",
     .flags = TN_OPTION_RUN_FILE},
    {0},
};

const tn_option tn_cli_method_options[] = {
    {.name = "method",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, adapter.method),
     .initial = "lora",
     .value_name = "NAME",
     .group = "Adapter",
     .help = "as `tenon methods` lists them, or full for every weight"},
    {.name = "rank",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, adapter.rank),
     .low = 1,
     .high = INFINITY,
     .value_name = "N",
     .help = "rank of the update, by default 8 for LoRA"},
    {.name = "alpha",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_train, adapter.alpha),
     .low = 0,
     .high = INFINITY,
     .value_name = "X",
     .help = "the update is scaled by alpha / rank, by default 16 for LoRA, with --init loftq the rank",
     .flags = TN_OPTION_ABOVE_LOW},
    {.name = "dropout",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_train, adapter.dropout),
     .initial = "0",
     .low = 0,
     .high = 1,
     .value_name = "P",
     .help = "dropout on the adapter's input",
     .flags = TN_OPTION_BELOW_HIGH},
    {.name = "target-modules",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, adapter.target_modules),
     .value_name = "NAMES",
     .help = "names separated by commas, all-linear, or one regular expression; by default q_proj,v_proj or what the family "
             "and the method usually change, and of a sequential model all-linear"},
    {.name = "exclude-modules",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, adapter.exclude_modules),
     .value_name = "NAMES",
     .help = "modules left out of the targets"},
    {.name = "bias",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, adapter.bias),
     .initial = "none",
     .value_name = "MODE",
     .help = "biases to train: none, all, or those of adapted layers (lora_only)"},
    {.name = "rslora",
     .type = TN_OPTION_BOOL,
     TN_FIELD(tn_cli_train, adapter.rslora),
     .help = "scale by alpha / sqrt(rank)"},
    {.name = "lora-bias", .type = TN_OPTION_BOOL, TN_FIELD(tn_cli_train, adapter.lora_bias), .help = "give B a bias"},
    {.name = "init",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, adapter.init),
     .initial = "kaiming",
     .value_name = "NAME",
     .help = "kaiming, gaussian, pissa, pissa_niter_K, olora, loftq, orthogonal; random: a new model from config.json "
             "alone"},
    {.name = "loftq-bits",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, adapter.loftq_bits),
     .initial = "0",
     .low = 0,
     .high = 8,
     .value_name = "N",
     .help = "bits of the base's weights with --init loftq: 4 or 8 (0: 4)"},
    {.name = "loftq-iter",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, adapter.loftq_iterations),
     .initial = "0",
     .low = 0,
     .high = 1000,
     .value_name = "N",
     .help = "alternating steps of --init loftq (0: 1)"},
    {.name = "rank-pattern",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, adapter.rank_pattern),
     .value_name = "NAME=N,...",
     .help = "ranks by module, names as regular expressions"},
    {.name = "alpha-pattern",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, adapter.alpha_pattern),
     .value_name = "NAME=X,...",
     .help = "alphas by module"},
    {.name = "layers",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, adapter.layers),
     .value_name = "LIST",
     .help = "layers to transform, such as 0,1,5-8"},
    {.name = "modules-to-save",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, adapter.modules_to_save),
     .value_name = "NAMES",
     .help = "modules trained and saved in full"},
    {.name = "train-tokens",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, adapter.token_indices),
     .value_name = "IDS",
     .help = "embedding rows to train, such as 5,17"},
    {.name = "tie-weights",
     .type = TN_OPTION_BOOL,
     TN_FIELD(tn_cli_train, adapter.ensure_weight_tying),
     .help = "a tied head follows an embedding in --modules-to-save"},
    {.name = "from-adapter",
     .type = TN_OPTION_PATH,
     TN_FIELD(tn_cli_train, from_adapter),
     .value_name = "DIR",
     .help = "start from this adapter; its configuration replaces the options above, but for --method lora-fa"},
    {0},
};

static const tn_option training[] = {
    {.name = "batch-size",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, train.batch_size),
     .initial = "8",
     .low = 1,
     .high = INFINITY,
     .value_name = "N",
     .group = "Training",
     .help = "samples per micro-batch"},
    {.name = "accumulate",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, train.accumulate),
     .initial = "1",
     .low = 1,
     .high = INFINITY,
     .value_name = "N",
     .help = "micro-batches per step"},
    {.name = "pass-tokens",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, train.pass_tokens),
     .initial = "512",
     .low = 0,
     .high = INFINITY,
     .value_name = "N",
     .help = "tokens of a micro-batch in memory at once, in whole samples; 0: all of it"},
    {.name = "steps",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, train.steps),
     .initial = "0",
     .low = 0,
     .high = INFINITY,
     .value_name = "N",
     .help = "optimiser steps; 0: as many as --epochs makes"},
    {.name = "epochs",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_train, train.epochs),
     .initial = "3",
     .low = 0,
     .high = INFINITY,
     .value_name = "X",
     .help = "passes over the data"},
    {.name = "lr",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_train, train.lr),
     .initial = "1e-4",
     .low = 0,
     .high = INFINITY,
     .value_name = "X",
     .help = "learning rate"},
    {.name = "optimizer",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, train.optimizer),
     .initial = "adamw",
     .choices = optimizer_choices,
     .value_name = "NAME",
     .help = "adamw8bit keeps the moments of large tensors, but not of embeddings, in 8 bits"},
    {.name = "schedule",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_train, train.schedule),
     .initial = "cosine",
     .choices = schedule_choices,
     .value_name = "NAME",
     .help = "learning rate after the warmup"},
    {.name = "warmup",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, train.warmup),
     .initial = "0",
     .low = 0,
     .high = INFINITY,
     .value_name = "N",
     .help = "steps of linear warmup"},
    {.name = "weight-decay",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_train, train.weight_decay),
     .initial = "0.01",
     .low = 0,
     .high = INFINITY,
     .value_name = "X",
     .help = "decoupled weight decay"},
    {.name = "beta1",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_train, train.beta1),
     .initial = "0.9",
     .low = 0,
     .high = 1,
     .value_name = "X",
     .help = "decay of the first moment",
     .flags = TN_OPTION_BELOW_HIGH},
    {.name = "beta2",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_train, train.beta2),
     .initial = "0.999",
     .low = 0,
     .high = 1,
     .value_name = "X",
     .help = "decay of the second moment",
     .flags = TN_OPTION_BELOW_HIGH},
    {.name = "eps",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_train, train.eps),
     .initial = "1e-8",
     .low = 0,
     .high = 1,
     .value_name = "X",
     .help = "added to the root of the second moment"},
    {.name = "grad-clip",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_train, train.grad_clip),
     .initial = "1",
     .low = 0,
     .high = INFINITY,
     .value_name = "X",
     .help = "largest norm of all gradients; 0: no clipping"},
    {.name = "lora-plus-ratio",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_train, train.lora_plus_ratio),
     .initial = "1",
     .low = 0,
     .high = INFINITY,
     .value_name = "X",
     .help = "LoRA+: B learns at this multiple of the rate, 16 in its paper"},
    TN_CLI_CHECKPOINTING(tn_cli_train, train.checkpointing),
    {.name = "seed",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_train, train.seed),
     .initial = "0",
     .low = 0,
     .high = 9e15,
     .value_name = "N",
     .help = "order of samples, dropout and starting values"},
    {0},
};

const tn_option_table tn_cli_train_tables[] = {
    {tn_cli_model_options, offsetof(tn_cli_train, model)},
    {tn_cli_precision_options, offsetof(tn_cli_train, model)},
    {tn_cli_load_quantized_options, offsetof(tn_cli_train, model.quantize)},
    {files, 0},
    {tn_cli_feature_options, offsetof(tn_cli_train, features)},
    {tn_cli_method_options, 0},
    {tn_cli_setting_options, offsetof(tn_cli_train, settings)},
    {training, 0},
    {output, 0},
    {0},
};

tn_status tn_cli_prepare_training(const tn_invocation *call, tn_train_options *train, int32_t *classes, tn_model **out) {
    static const char *const words[] = {"max-length", "too-long", "train-on-prompt", "pass-tokens", "checkpointing", NULL};
    const tn_cli_train *c = call->config;
    *out = NULL;
    *train = c->train;
    TN_TRY(tn_cli_feature_choice(&c->features, classes, &train->features));
    train->drop_long = c->too_long == 1;
    TN_TRY(tn_cli_prepare_model(call, c, c->adapter.init && strcmp(c->adapter.init, "random") == 0, out));
    tn_status status = tn_cli_check_data_options(call->options, *out, words);
    if (status != TN_OK) {
        tn_model_free(*out);
        *out = NULL;
    }
    return status;
}

static tn_status add_adapter(const tn_invocation *call, const tn_cli_train *c, tn_model *model) {
    tn_adapter_options options = c->adapter;
    tn_method_setting settings[TN_CLI_MOST_SETTINGS];
    if (options.init && strcmp(options.init, "random") == 0)
        options.init = "kaiming";
    tn_status status = tn_cli_given_settings(call->options, settings, &options.setting_count);
    options.settings = settings;
    if (status == TN_OK)
        status = tn_model_add_adapter(model, &options, c->train.seed);
    tn_cli_free_settings(settings, options.setting_count);
    return status;
}

tn_status tn_cli_prepare_model(const tn_invocation *call, const tn_cli_train *c, bool create, tn_model **out) {
    tn_set_threads(c->model.threads);
    TN_TRY(create ? tn_model_create(c->model.model, c->train.seed, out) : tn_model_load(c->model.model, out));
    tn_cli_warn_about_model(*out);
    tn_status status = tn_cli_set_precision(&c->model, *out);
    if (status == TN_OK)
        status = tn_cli_quantize_loaded(*out, &c->model.quantize);
    if (status == TN_OK && c->from_adapter) {
        status = tn_model_continue_adapter(*out, c->from_adapter, c->adapter.method);
        if (status == TN_OK)
            status = tn_cli_prove_adapter(*out, c->from_adapter);
    } else if (status == TN_OK) {
        status = add_adapter(call, c, *out);
    }
    if (status != TN_OK) {
        tn_model_free(*out);
        *out = NULL;
    }
    return status;
}

/* Behind the size of the activations. */
static const char *kept_how(const char *checkpointing) {
    if (strcmp(checkpointing, "on") == 0)
        return " (recomputed)";
    return strcmp(checkpointing, "8bit") == 0 ? " (in 8 bits)" : "";
}

static double megabytes(int64_t bytes) {
    return (double)bytes / 1e6;
}

static void print_trained(const tn_model_info *info, const tn_train_plan *p, const char *trained) {
    const bool rounded = strcmp(info->matmul_precision, "f32") != 0;
    printf("training   %s parameters, %.3g %% of the model%s%s\n", trained,
           100.0 * (double)p->trainable / (double)p->parameters, rounded ? ", matrix products in " : "",
           rounded ? info->matmul_precision : "");
}

static void print_features(const tn_model_info *info, const tn_train_plan *p, const char *parameters, const char *trained) {
    printf("model      %s, %s parameters (%s), from %lld numbers to %lld %s\n", info->family, parameters, info->dtype,
           (long long)info->inputs, (long long)info->outputs, info->regression ? "numbers" : "classes");
    print_trained(info, p, trained);
    printf("data       %lld samples and %lld for validation\n", (long long)p->train_samples, (long long)p->valid_samples);
    printf("steps      %lld (%lld per epoch), %.3g GFLOP per step\n", (long long)p->steps, (long long)p->steps_per_epoch,
           p->flops_per_step / 1e9);
}

static void print_text(const tn_model_info *info, const tn_train_plan *p, const char *parameters, const char *trained) {
    char tokens[TN_FORMAT_TEXT];
    tn_format_count(tokens, (double)p->train_tokens);
    printf("model      %s, %s parameters (%s), %lld layers of %lld, vocabulary %lld\n", info->family, parameters,
           info->dtype, (long long)info->layers, (long long)info->hidden_size, (long long)info->vocab_size);
    print_trained(info, p, trained);
    printf("data       %lld samples (%lld for validation), %s tokens, %.3g %% of them trained on\n",
           (long long)p->train_samples, (long long)p->valid_samples, tokens,
           100.0 * (double)p->labelled_tokens / (double)p->train_tokens);
    printf("lengths    shortest %lld, median %lld, 95 %% below %lld, longest %lld tokens\n", (long long)p->shortest,
           (long long)p->median, (long long)p->p95 + 1, (long long)p->longest);
    printf("steps      %lld (%lld per epoch), at most %lld tokens per micro-batch and %lld at once, %.3g GFLOP per step\n",
           (long long)p->steps, (long long)p->steps_per_epoch, (long long)p->largest_batch_tokens,
           (long long)p->largest_pass_tokens, p->flops_per_step / 1e9);
}

void tn_cli_print_plan(const tn_model *model, const tn_train_plan *p) {
    tn_model_info info;
    char parameters[TN_FORMAT_TEXT], trained[TN_FORMAT_TEXT];
    tn_model_describe(model, &info);
    tn_format_count(parameters, (double)p->parameters);
    tn_format_count(trained, (double)p->trainable);
    if (info.inputs)
        print_features(&info, p, parameters, trained);
    else
        print_text(&info, p, parameters, trained);
    if (p->cut)
        printf("warning    %lld samples were longer than allowed and were cut\n", (long long)p->cut);
    if (p->dropped)
        printf("warning    %lld samples were longer than allowed and were dropped\n", (long long)p->dropped);
    if (p->unlabelled)
        printf("warning    %lld samples have no label and were left out, the first in line %lld\n", (long long)p->unlabelled,
               (long long)p->first_unlabelled_line);
    printf("memory     predicted peak %.0f MB: base %.1f, trained %.1f, gradients %.1f, optimiser %.1f, activations %.1f%s, "
           "data %.1f, "
           "program %.1f\n",
           megabytes(p->peak_bytes), megabytes(p->base_bytes), megabytes(p->adapter_bytes), megabytes(p->gradient_bytes),
           megabytes(p->optimizer_bytes), megabytes(p->activation_bytes), kept_how(p->checkpointing),
           megabytes(p->data_bytes), megabytes(p->runtime_bytes));
}
