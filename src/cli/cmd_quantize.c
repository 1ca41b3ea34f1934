/* tenon quantize: a checkpoint with quantised weights, and what that cost. */
#include <math.h>
#include <stdio.h>

#include <tenon/evaluate.h>

#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/output_files.h"

typedef struct {
    tn_cli_model model;
    const char *out, *data;
    int64_t limit;
    int format;
} config;

enum { SAFETENSORS, GGUF };
static const char *const formats[] = {"safetensors", "gguf", NULL};

static const tn_option options[] = {
    {.name = "data",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, data),
     .value_name = "FILE",
     .group = "Report",
     .help = "JSONL file: perplexity on it before and after"},
    {.name = "limit",
     .type = TN_OPTION_INT,
     TN_FIELD(config, limit),
     .initial = "0",
     .low = 0,
     .high = INFINITY,
     .help = "samples of it at most; 0: all"},
    {.name = "out",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, out),
     .value_name = "DIR",
     .group = "Output",
     .help = "folder to write; it is created",
     .flags = TN_OPTION_REQUIRED},
    {.name = "format",
     .type = TN_OPTION_CHOICE,
     TN_FIELD(config, format),
     .initial = "safetensors",
     .choices = formats,
     .help = "files to write: safetensors with config.json as transformers has them, or one GGUF as llama.cpp has it"},
    {0},
};

static void show_layer(void *cookie, const tn_quantize_layer *layer) {
    tn_buf line = {0};
    (void)cookie;
    tn_cli_print_quantized_layer(&line, layer);
    tn_cli_print(&line);
    tn_buf_free(&line);
    fflush(stdout);
}

static tn_status perplexity(const config *c, tn_model *model, double *out) {
    tn_evaluate_options evaluate;
    tn_evaluation result = {0};
    tn_evaluate_options_default(&evaluate);
    evaluate.limit = c->limit;
    *out = NAN;
    if (!c->data)
        return TN_OK;
    TN_TRY(tn_evaluate(model, c->data, &evaluate, &result));
    *out = result.perplexity;
    return TN_OK;
}

static tn_status print_summary(const config *c, const tn_model *model, const tn_quantize_report *report,
                               const double perplexities[2]) {
    tn_quantize_summary s;
    tn_model_info info;
    tn_buf text = {0};
    tn_model_describe_quantized(model, &s);
    tn_model_describe(model, &info);
    tn_buf_printf(&text, "quantised %lld weights of %lld elements, %.3f bits each: %.1f MB; the whole model: %.1f MB\n",
                  (long long)s.modules, (long long)s.elements, s.bits, (double)s.bytes / 1e6, (double)info.bytes / 1e6);
    tn_buf_printf(&text, "logits on a probe: largest difference %.3g, root of the mean square %.3g of %.3g\n",
                  report->largest_logit_difference, report->logit_difference_rms, report->logit_rms);
    if (c->data)
        tn_buf_printf(&text, "perplexity on %s: %.4f before, %.4f after\n", c->data, perplexities[0], perplexities[1]);
    tn_status status = tn_cli_print_files(&text, c->out);
    if (status == TN_OK)
        status = tn_cli_print(&text);
    tn_buf_free(&text);
    return status;
}

static tn_status quantize(const config *c, tn_model *model) {
    const tn_quantize_callbacks callbacks = {.layer = show_layer};
    tn_quantize_report report;
    double perplexities[2];
    TN_TRY(perplexity(c, model, &perplexities[0]));
    TN_TRY(tn_model_quantize_reported(model, &c->model.quantize, &callbacks, &report));
    TN_TRY(perplexity(c, model, &perplexities[1]));
    TN_TRY(c->format == GGUF ? tn_model_save_gguf(model, c->out) : tn_model_save_quantized(model, c->out));
    return print_summary(c, model, &report, perplexities);
}

static int run(const tn_invocation *call) {
    const config *c = call->config;
    tn_model *model = NULL;
    tn_set_threads(c->model.threads);
    tn_status status = tn_model_load(c->model.model, &model);
    if (status == TN_OK) {
        tn_cli_warn_about_model(model);
        status = quantize(c, model);
    }
    tn_model_free(model);
    return tn_cli_exit(status);
}

const tn_command tn_command_quantize = {
    .name = "quantize",
    .summary = "write a checkpoint with quantised weights",
    .description =
        "Quantises the weights of linear layers, one after another, and writes a checkpoint that is mapped at once when it "
        "is "
        "loaded. Every layer's error is said, and how far the model's logits moved.\n\n"
        "nf4, fp4 and int8_row are written as bitsandbytes does, so that transformers reads them; the integers are this "
        "program's own; the types of ggml go into a GGUF file, with the tokenizer in it, that llama.cpp reads too. To train "
        "on a quantised base without writing it, give `tenon "
        "train --quantize`.",
    .tables = (const tn_option_table[]){{tn_cli_model_options, offsetof(config, model)},
                                        {tn_cli_quantize_options, offsetof(config, model.quantize)},
                                        {options, 0},
                                        {0}},
    .config_size = sizeof(config),
    .examples =
        (const tn_example[]){
            {"tenon quantize --model base --type nf4 --double-quant --out base-nf4", "4.13 bits per weight"},
            {"tenon quantize --model base --type q4_0 --format gguf --out base-q4_0", "for llama.cpp, too"},
            {"tenon quantize --model base --type int4 --quant-range mse --quant-mix down_proj=int8 --out b",
             "searched scales, and more bits where errors weigh most"},
            {0}},
    .run = run,
};
