/* Loading what --model and --adapter name. */
#include "cli/model_options.h"

#include <stdio.h>

static const char *const precisions[] = {"f32", "bf16", NULL};

const tn_option tn_cli_model_options[] = {
    {.name = "model",
     .type = TN_OPTION_PATH,
     TN_FIELD(tn_cli_model, model),
     .value_name = "DIR",
     .group = "Model",
     .help = "folder with config.json, model.safetensors and tokenizer.json, or a GGUF file",
     .flags = TN_OPTION_REQUIRED},
    {.name = "threads",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_model, threads),
     .initial = "0",
     .low = 0,
     .high = 4096,
     .value_name = "N",
     .help = "threads to use; 0: one per core"},
    {0},
};

const tn_option tn_cli_precision_options[] = {
    {.name = "matmul-precision",
     .type = TN_OPTION_CHOICE,
     TN_FIELD(tn_cli_model, matmul_precision),
     .initial = "f32",
     .choices = precisions,
     .group = "Model",
     .help = "bf16: round the operands of large matrix products to bf16, with sums in f32; about twice as fast on CPUs with "
             "AVX-512 BF16, an error on others"},
    {0},
};

const tn_option tn_cli_adapter_options[] = {
    {.name = "adapter",
     .type = TN_OPTION_PATH,
     TN_FIELD(tn_cli_model, adapter),
     .value_name = "DIR",
     .group = "Model",
     .help = "folder with adapter_config.json and adapter_model.safetensors"},
    {.name = "adapter-name",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_cli_model, adapter_name),
     .value_name = "NAME",
     .help = "of a folder with several adapters only this one, such as default; without it all act at once"},
    {.name = "allow-partial",
     .type = TN_OPTION_BOOL,
     TN_FIELD(tn_cli_model, allow_partial),
     .help = "load an adapter although tensors are missing or left over"},
    {0},
};

void tn_cli_warn_about_model(const tn_model *model) {
    tn_model_info info;
    tn_model_describe(model, &info);
    if (info.unused_tensors)
        fprintf(stderr, "warning: %lld tensors of the checkpoint are not used by the %s family, '%s' among them\n",
                (long long)info.unused_tensors, info.family, info.first_unused);
}

tn_status tn_cli_prove_adapter(tn_model *model, const char *dir) {
    tn_adapter_info info;
    TN_TRY(tn_model_describe_adapter(model, &info));
    if (info.adapters > 1)
        fprintf(stderr, "adapter %s holds %lld adapters, all of them active; --adapter-name chooses one\n", dir,
                (long long)info.adapters);
    fprintf(stderr,
            "adapter %s: %lld modules changed, |change| %.4g of |weights| %.4g, largest logit difference on a probe %.4g\n",
            dir, (long long)info.modules, info.change_norm, info.base_norm, info.logit_difference);
    if (info.logit_difference == 0)
        fprintf(stderr, "warning: the adapter changes nothing: its output is exactly the base's\n");
    return TN_OK;
}

tn_status tn_cli_set_precision(const tn_cli_model *options, tn_model *model) {
    return tn_model_set_matmul_precision(model, precisions[options->matmul_precision]);
}

tn_status tn_cli_load_model(const tn_cli_model *options, bool trainable, tn_model **out) {
    tn_set_threads(options->threads);
    TN_TRY(tn_model_load(options->model, out));
    tn_cli_warn_about_model(*out);
    tn_status status = tn_cli_set_precision(options, *out);
    if (status == TN_OK)
        status = tn_cli_quantize_loaded(*out, &options->quantize);
    if (status == TN_OK && options->adapter)
        status =
            tn_model_load_named_adapter(*out, options->adapter, options->adapter_name, trainable, options->allow_partial);
    if (status == TN_OK && options->adapter)
        status = tn_cli_prove_adapter(*out, options->adapter);
    if (status != TN_OK) {
        tn_model_free(*out);
        *out = NULL;
    }
    return status;
}
