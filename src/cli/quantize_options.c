#include "cli/quantize_options.h"

#include <stdio.h>
#include <string.h>

#include "base/format.h"
#include "cli/cli.h"
#include "cli/output_files.h"

#define TYPES                                                                                                               \
    "nf4, fp4, nf8, int4 to int8, int4_affine to int8_affine, int8_row, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k or q6_k"

#define HOW                                                                                                                 \
    {.name = "quant-block",                                                                                                 \
     .type = TN_OPTION_INT,                                                                                                 \
     TN_FIELD(tn_quantize_options, block),                                                                                  \
     .initial = "0",                                                                                                        \
     .low = -1,                                                                                                             \
     .high = 4096,                                                                                                          \
     .value_name = "N",                                                                                                     \
     .help = "elements per scale, a power of two from 32; 0: the type's own, 64 mostly; -1: one scale for a weight"},       \
        {.name = "double-quant",                                                                                            \
         .type = TN_OPTION_BOOL,                                                                                            \
         TN_FIELD(tn_quantize_options, double_quant),                                                                       \
         .help = "quantise the scales of nf4 and fp4 as well, to 8 bits"},                                                  \
        {.name = "quant-range",                                                                                             \
         .type = TN_OPTION_STRING,                                                                                          \
         TN_FIELD(tn_quantize_options, range),                                                                              \
         .value_name = "RANGE",                                                                                             \
         .help = "what integer scales are made from: absmax, minmax, or mse, which searches the least error"},              \
        {.name = "quant-modules",                                                                                           \
         .type = TN_OPTION_STRING,                                                                                          \
         TN_FIELD(tn_quantize_options, modules),                                                                            \
         .value_name = "NAMES",                                                                                             \
         .help = "modules to quantise: all-linear (without the head), names, or a regular expression; all-linear unless "   \
                 "given"},                                                                                                  \
        {.name = "quant-exclude",                                                                                           \
         .type = TN_OPTION_STRING,                                                                                          \
         TN_FIELD(tn_quantize_options, exclude),                                                                            \
         .value_name = "NAMES",                                                                                             \
         .help = "modules that stay as they are"},                                                                          \
    {                                                                                                                       \
        .name = "quant-mix", .type = TN_OPTION_STRING, TN_FIELD(tn_quantize_options, mix), .value_name = "NAME=TYPE,...",   \
        .help = "other types for some modules, such as down_proj=int8,lm_head=q6_k"                                         \
    }

const tn_option tn_cli_load_quantized_options[] = {
    {.name = "quantize",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_quantize_options, type),
     .value_name = "TYPE",
     .group = "Quantisation",
     .help = "quantise the weights of linear layers as they are loaded: " TYPES},
    HOW,
    {0},
};

const tn_option tn_cli_quantize_options[] = {
    {.name = "type",
     .type = TN_OPTION_STRING,
     TN_FIELD(tn_quantize_options, type),
     .initial = "nf4",
     .value_name = "TYPE",
     .group = "Quantisation",
     .help = TYPES},
    HOW,
    {0},
};

void tn_cli_print_memory_table(tn_buf *out, const tn_memory_row table[TN_MEMORY_ROWS]) {
    tn_buf_printf(out, "  %-20s %14s %10s %10s %10s %10s %10s\n", "", "trained", "base", "adapter", "gradients", "optimiser",
                  "total, MB");
    for (int i = 0; i < TN_MEMORY_ROWS; i++) {
        const tn_memory_row *r = &table[i];
        tn_buf_printf(out, "  %-20s %14lld %10.2f %10.2f %10.2f %10.2f %10.2f\n", r->name, (long long)r->trained,
                      (double)r->base / 1e6, (double)r->adapter / 1e6, (double)r->gradients / 1e6,
                      (double)r->optimizer / 1e6, (double)r->total / 1e6);
    }
}

void tn_cli_print_quantized_layer(tn_buf *out, const tn_quantize_layer *layer) {
    enum { NAME_WIDTH = 40 };
    size_t start = out->length;
    tn_cli_print_text(out, layer->module);
    while (out->length < start + NAME_WIDTH && !out->failed)
        tn_buf_putc(out, ' ');
    tn_buf_printf(out, " %-11s %6.3f bits  MSE %-9.3g  cosine %.6f  largest error %.3g\n", layer->type, layer->bits,
                  layer->mse, layer->cosine, layer->largest_error);
}

tn_status tn_cli_quantize_loaded(tn_model *model, const tn_quantize_options *options) {
    tn_quantize_summary summary;
    if (!options->type) {
        if (options->block || options->double_quant || options->range || options->modules || options->exclude ||
            options->mix)
            return tn_fail(TN_ERROR_ARGUMENT, "options of quantisation without --quantize have no effect; add it or leave "
                                              "them out");
        return TN_OK;
    }
    TN_TRY(tn_model_quantize(model, options, NULL));
    tn_model_describe_quantized(model, &summary);
    fprintf(stderr, "quantised %lld weights, %.3f bits each: %.1f MB instead of %.1f MB in bf16\n",
            (long long)summary.modules, summary.bits, (double)summary.bytes / 1e6, (double)summary.elements * 2 / 1e6);
    return TN_OK;
}
