/* Quantising a loaded model by tn_quantize_options. */
#include "session/quantize.h"

#include <math.h>
#include <string.h>

#include "model/quantised.h"
#include "peft/lora.h"
#include "session/session.h"

enum { NESTED_BLOCK = 256 };

/* The type of modules whose name ends in `module`. */
typedef struct {
    const char *module;
    const tn_quant_codec *codec;
} exception;

typedef struct {
    const tn_quantize_options *options;
    const tn_quant_codec *codec;
    tn_quant_params params;
    exception *exceptions;
    size_t exception_count;
    bool *selected; /* [modules] */
    tn_arena arena;
} choice;

/* The dynamic maps are for optimisers. */
static tn_status find_codec(const char *name, const tn_quant_codec **codec) {
    TN_TRY(tn_quant_codec_find(name, codec));
    if (*codec == &tn_codec_dynamic8 || *codec == &tn_codec_dynamic8_unsigned || !(*codec)->encode)
        return tn_fail(TN_ERROR_UNSUPPORTED, "weights cannot be quantised to '%s'; choose nf4, say", name);
    return TN_OK;
}

static tn_status choose_params(choice *c) {
    static const char *const ranges[] = {"absmax", "minmax", "mse", NULL};
    const tn_quantize_options *o = c->options;
    c->params = c->codec->defaults;
    if (o->block < -1)
        return tn_fail(TN_ERROR_ARGUMENT, "a block of %lld elements makes no sense", (long long)o->block);
    if (o->block)
        c->params.block = o->block < 0 ? 0 : o->block;
    if (o->block && (c->codec->rows || c->codec->block_bytes))
        return tn_fail(TN_ERROR_ARGUMENT, "%s has blocks of its own; leave the block size out", c->codec->name);
    if (o->double_quant)
        c->params.nested_block = NESTED_BLOCK;
    for (int i = 0; o->range && strcmp(o->range, ranges[c->params.range = (tn_quant_range)i]) != 0; i++)
        if (!ranges[i + 1])
            return tn_fail(TN_ERROR_ARGUMENT, "the range '%s' is not one of absmax, minmax, mse", o->range);
    tn_quant_sizes unused;
    return c->codec->rows ? TN_OK : tn_quant_sizes_of(c->codec, &c->params, c->params.block ? c->params.block : 1, &unused);
}

static tn_status parse_mix(choice *c) {
    const char *text = c->options->mix;
    size_t most = 1;
    for (const char *at = text; *at; at++)
        most += *at == ',';
    c->exceptions = tn_arena_array(&c->arena, most, sizeof *c->exceptions);
    char *copy = tn_arena_strdup(&c->arena, text);
    if (!c->exceptions || !copy)
        return tn_fail_memory("the quantisation's options");
    for (char *at = copy, *next; at; at = next) {
        next = strchr(at, ',');
        if (next)
            *next++ = 0;
        char *equals = strchr(at, '=');
        if (!equals || equals == at || !equals[1])
            return tn_fail(TN_ERROR_ARGUMENT, "mixed precision is given as NAME=TYPE,NAME=TYPE, not as '%s'", text);
        *equals = 0;
        c->exceptions[c->exception_count].module = at;
        TN_TRY(find_codec(equals + 1, &c->exceptions[c->exception_count++].codec));
    }
    return TN_OK;
}

/* The same rules that choose an adapter's target modules. */
static tn_status select_modules(choice *c, const tn_network *network) {
    const tn_quantize_options *o = c->options;
    tn_peft_config config;
    tn_status status = tn_peft_config_init(&config, &tn_lora);
    c->selected = tn_arena_array(&c->arena, (size_t)network->module_count, sizeof *c->selected);
    if (status == TN_OK && !c->selected)
        status = tn_fail_memory("the quantisation's options");
    if (status == TN_OK)
        status = tn_peft_config_set_targets(&config, o->modules ? o->modules : "all-linear");
    if (status == TN_OK && o->exclude)
        status = tn_peft_config_parse_names(&config, o->exclude, &config.exclude_modules);
    if (status == TN_OK)
        status = tn_peft_select(network, &config, &tn_lora, c->selected);
    tn_peft_config_free(&config);
    return status;
}

static tn_status read_options(choice *c, const tn_network *network) {
    const tn_quantize_options *o = c->options;
    TN_TRY(find_codec(o->type ? o->type : "nf4", &c->codec));
    TN_TRY(choose_params(c));
    if (o->mix)
        TN_TRY(parse_mix(c));
    TN_TRY(select_modules(c, network));
    for (size_t e = 0; e < c->exception_count; e++) {
        const char *const names[] = {c->exceptions[e].module};
        bool found = false;
        for (int64_t i = 0; i < network->module_count; i++)
            found = found || tn_peft_names_module((tn_text_list){names, 1}, network->modules[i].name);
        if (!found)
            return tn_fail(TN_ERROR_ARGUMENT, "mixed precision: no module of this model is named '%s'", names[0]);
    }
    return TN_OK;
}

/* NULL: the module stays as it is. Only what products or look-ups of rows read can be codes. */
static const tn_quant_codec *codec_of(const choice *c, const tn_network *network, const tn_module *module,
                                      tn_quant_params *params) {
    const tn_quant_codec *codec = c->selected[module - network->modules] ? c->codec : NULL;
    bool possible = module->kind == TN_MODULE_LINEAR || module->kind == TN_MODULE_EMBEDDING;
    *params = c->params;
    for (size_t e = 0; e < c->exception_count; e++) {
        const char *const names[] = {c->exceptions[e].module};
        if (tn_peft_names_module((tn_text_list){names, 1}, module->name)) {
            codec = c->exceptions[e].codec;
            *params = codec->defaults;
        }
    }
    return possible && !module->tied && module->weight.tensor.dtype != TN_DTYPE_QUANTISED ? codec : NULL;
}

void tn_quantize_compare(tn_quantize_layer *out, const tn_tensor *before, const tn_tensor *after) {
    enum { PIECE = 4096 };
    float x[PIECE], y[PIECE];
    double errors = 0, product = 0, xx = 0, yy = 0, largest = 0;
    int64_t count = tn_tensor_count(before);
    for (int64_t at = 0; at < count; at += PIECE) {
        int64_t n = count - at < PIECE ? count - at : PIECE;
        tn_tensor_read(x, before, at, n);
        tn_tensor_read(y, after, at, n);
        for (int64_t i = 0; i < n; i++) {
            double d = (double)y[i] - x[i];
            errors += d * d;
            product += (double)x[i] * y[i];
            xx += (double)x[i] * x[i];
            yy += (double)y[i] * y[i];
            largest = fmax(largest, fabs(d));
        }
    }
    out->rows = before->shape[0];
    out->cols = count / before->shape[0];
    out->type = tn_tensor_type(after);
    out->bytes = tn_tensor_bytes(after);
    out->bits = 8.0 * (double)out->bytes / (double)count;
    out->mse = errors / (double)count;
    out->cosine = xx > 0 && yy > 0 ? product / sqrt(xx * yy) : xx == yy;
    out->largest_error = largest;
}

static tn_status quantise_module(const choice *c, tn_network *network, tn_module *module,
                                 const tn_quantize_callbacks *callbacks, int64_t *count) {
    tn_quant_params params;
    const tn_quant_codec *codec = codec_of(c, network, module, &params);
    const tn_tensor before = module->weight.tensor;
    if (!codec)
        return TN_OK;
    TN_TRY(tn_network_quantise(network, module, codec, &params));
    if (callbacks && callbacks->layer) {
        tn_quantize_layer layer = {.module = module->name};
        tn_quantize_compare(&layer, &before, &module->weight.tensor);
        callbacks->layer(callbacks->cookie, &layer);
        tn_checkpoint_forget(&network->checkpoint, &before);
    }
    ++*count;
    return TN_OK;
}

void tn_model_describe_quantized(const tn_model *model, tn_quantize_summary *out) {
    *out = (tn_quantize_summary){0};
    for (int64_t i = 0; i < model->network->module_count; i++) {
        const tn_module *module = &model->network->modules[i];
        const tn_tensor *weight = &module->weight.tensor;
        if (module->tied || weight->dtype != TN_DTYPE_QUANTISED)
            continue;
        out->modules++;
        out->elements += tn_tensor_count(weight);
        out->bytes += tn_tensor_bytes(weight);
    }
    out->bits = out->elements ? 8.0 * (double)out->bytes / (double)out->elements : 0;
}

tn_status tn_model_quantize(tn_model *model, const tn_quantize_options *options, const tn_quantize_callbacks *callbacks) {
    tn_network *network = model->network;
    choice c = {.options = options};
    int64_t count = 0;
    if (model->adapter)
        return tn_fail(TN_ERROR_ARGUMENT, "a model is quantised before adapters are put on it");
    tn_status status = read_options(&c, network);
    for (int64_t i = 0; i < network->module_count && status == TN_OK; i++)
        status = quantise_module(&c, network, &network->modules[i], callbacks, &count);
    if (status == TN_OK && count == 0)
        status = tn_fail(TN_ERROR_ARGUMENT, "there is nothing to quantise: the chosen modules are quantised already or of "
                                            "kinds that cannot be");
    tn_arena_free(&c.arena);
    return status;
}

tn_status tn_model_quantize_reported(tn_model *model, const tn_quantize_options *options,
                                     const tn_quantize_callbacks *callbacks, tn_quantize_report *report) {
    float *before = NULL, *after = NULL;
    double differences = 0, squares = 0;
    int64_t count = 0;
    tn_status status;
    *report = (tn_quantize_report){0};
    TN_TRY_GOTO(tn_session_probe_logits(model, &before, &count));
    TN_TRY_GOTO(tn_model_quantize(model, options, callbacks));
    TN_TRY_GOTO(tn_session_probe_logits(model, &after, &count));
    for (int64_t i = 0; i < count; i++) {
        double d = (double)after[i] - before[i];
        report->largest_logit_difference = fmax(report->largest_logit_difference, fabs(d));
        differences += d * d;
        squares += (double)before[i] * before[i];
    }
    report->logit_difference_rms = sqrt(differences / (double)count);
    report->logit_rms = sqrt(squares / (double)count);
fail:
    tn_free(before);
    tn_free(after);
    return status;
}
