/* tenon eval: loss, accuracy and exact match on a data set, beside the base's when asked for. */
#include <stdio.h>
#include <string.h>
#include <tenon/tenon.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/eval_features.h"
#include "cli/feature_options.h"
#include "cli/model_options.h"
#include "format/json.h"

typedef struct {
    tn_cli_model model;
    const char *data;
    int64_t max_length, batch_size, max_tokens, limit, show;
    bool train_on_prompt, generate, exact_match, compare, json;
    tn_cli_features features;
} config;

static const tn_option options[] = {
    {.name = "data",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, data),
     .value_name = "FILE|DIR",
     .group = "Data",
     .help =
         "JSON lines, of a folder test.jsonl, else valid.jsonl; for sequential models IDX, CSV or safetensors as for train",
     .flags = TN_OPTION_REQUIRED},
    {.name = "max-length",
     .type = TN_OPTION_INT,
     TN_FIELD(config, max_length),
     .initial = "0",
     .low = 0,
     .high = 1e9,
     .value_name = "N",
     .help = "longer samples are cut to this many tokens; 0: the model's positions"},
    {.name = "limit",
     .type = TN_OPTION_INT,
     TN_FIELD(config, limit),
     .initial = "0",
     .low = 0,
     .high = 1e12,
     .value_name = "N",
     .help = "samples at most; 0: all"},
    {.name = "batch-size",
     .type = TN_OPTION_INT,
     TN_FIELD(config, batch_size),
     .initial = "8",
     .low = 1,
     .high = 65536,
     .value_name = "N",
     .help = "samples per pass; the results do not depend on it but for rounding"},
    {.name = "train-on-prompt",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, train_on_prompt),
     .group = "Measures",
     .help = "score prompts as well as completions"},
    {.name = "generate",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, generate),
     .help = "exact match too: generate each completion greedily and compare it with the data's"},
    {.name = "exact-match",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, exact_match),
     .help = "the same as --generate",
     .flags = TN_OPTION_HIDDEN},
    {.name = "max-tokens",
     .type = TN_OPTION_INT,
     TN_FIELD(config, max_tokens),
     .initial = "64",
     .low = 1,
     .high = 1e9,
     .value_name = "N",
     .help = "of a generated completion"},
    {.name = "compare",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, compare),
     .help = "measure the base without the adapter too"},
    {.name = "show",
     .type = TN_OPTION_INT,
     TN_FIELD(config, show),
     .initial = "0",
     .low = 0,
     .high = 1e9,
     .value_name = "N",
     .group = "Output",
     .help = "print this many samples with what was generated; implies --generate"},
    {.name = "json", .type = TN_OPTION_BOOL, TN_FIELD(config, json), .help = "one JSON object instead of a table"},
    {0},
};

typedef struct {
    int64_t left;
    FILE *out;
} shower;

/* Further lines stand below the first; labels are 13 columns wide. */
static void show_text(FILE *out, const char *label, const char *text) {
    fputs(label, out);
    text += strspn(text, " \n");
    for (; *text; text++) {
        /* what a terminal would obey is not shown */
        bool control = (unsigned char)*text < ' ' && *text != '\n' && *text != '\t';
        fputc(control ? ' ' : *text, out);
        if (*text == '\n' && text[1])
            fputs("             ", out);
    }
    fputc('\n', out);
}

static bool show_sample(void *cookie, const char *prompt, const char *reference, const char *text, bool exact) {
    shower *s = cookie;
    if (s->left-- <= 0)
        return true;
    show_text(s->out, "  prompt     ", prompt);
    show_text(s->out, "  reference  ", reference);
    show_text(s->out, exact ? "\xe2\x9c\x93 generated  " : "\xe2\x9c\x97 generated  ", text);
    fputc('\n', s->out);
    return true;
}

static tn_status find_data(const char *data, char path[TN_PATH_MAX]) {
    static const char *const names[] = {"test.jsonl", "valid.jsonl"};
    if (!tn_path_is_dir(data)) {
        if (snprintf(path, TN_PATH_MAX, "%s", data) >= TN_PATH_MAX)
            return tn_fail(TN_ERROR_ARGUMENT, "--data: the path is too long");
        return TN_OK;
    }
    for (int i = 0; i < 2; i++) {
        TN_TRY(tn_path_join(path, data, names[i]));
        if (tn_path_exists(path))
            return TN_OK;
    }
    return tn_fail(TN_ERROR_IO, "%s holds neither test.jsonl nor valid.jsonl; name the file to evaluate on", data);
}

static void print_row(const char *name, const tn_evaluation *e, bool with_exact) {
    printf("%-8s %10.4f %12.4g %9.2f %%", name, e->loss, e->perplexity, 100 * e->token_accuracy);
    if (with_exact)
        printf(" %8lld/%lld (%.1f %%)", (long long)e->exact, (long long)e->generated,
               100 * (double)e->exact / (double)e->generated);
    printf("\n");
}

static void print_table(const tn_evaluation *main, const char *name, const tn_evaluation *base, bool with_exact) {
    printf("%lld samples, %lld tokens, %lld of them scored\n\n", (long long)main->samples, (long long)main->tokens,
           (long long)main->labelled);
    printf("%-8s %10s %12s %11s%s\n", "", "loss", "perplexity", "accuracy", with_exact ? "     exact match" : "");
    print_row(name, main, with_exact);
    if (base)
        print_row("base", base, with_exact);
}

static cJSON *to_json(const tn_evaluation *e, bool with_exact) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "samples", (double)e->samples);
    cJSON_AddNumberToObject(json, "tokens", (double)e->tokens);
    cJSON_AddNumberToObject(json, "scored_tokens", (double)e->labelled);
    cJSON_AddNumberToObject(json, "loss", e->loss);
    cJSON_AddNumberToObject(json, "perplexity", e->perplexity);
    cJSON_AddNumberToObject(json, "token_accuracy", e->token_accuracy);
    if (with_exact) {
        cJSON_AddNumberToObject(json, "generated", (double)e->generated);
        cJSON_AddNumberToObject(json, "exact", (double)e->exact);
        cJSON_AddNumberToObject(json, "exact_match", (double)e->exact / (double)e->generated);
    }
    cJSON_AddNumberToObject(json, "seconds", e->seconds);
    return json;
}

static tn_status print_json(const tn_evaluation *main, const tn_evaluation *base, bool with_exact) {
    cJSON *json = to_json(main, with_exact);
    tn_buf text = {0};
    if (base)
        cJSON_AddItemToObject(json, "base", to_json(base, with_exact));
    tn_json_print(&text, json, false);
    tn_buf_putc(&text, '\n');
    cJSON_Delete(json);
    tn_status status = tn_buf_status(&text);
    if (status == TN_OK)
        status = tn_cli_print(&text);
    tn_buf_free(&text);
    return status;
}

static void warn_about_data(const tn_evaluation *e) {
    if (e->cut)
        fprintf(stderr, "warning: %lld samples were cut at the maximum length\n", (long long)e->cut);
    if (e->unlabelled)
        fprintf(stderr, "warning: %lld samples were left out: nothing in them is to be predicted\n",
                (long long)e->unlabelled);
}

static tn_status evaluate(tn_model *model, const config *c) {
    char path[TN_PATH_MAX];
    bool generate = c->generate || c->exact_match || c->show > 0;
    shower showing = {.left = c->show, .out = c->json ? stderr : stdout};
    tn_evaluation with, base;
    const tn_evaluate_options how = {.batch_size = c->batch_size,
                                     .max_length = c->max_length,
                                     .train_on_prompt = c->train_on_prompt,
                                     .generate = generate,
                                     .max_tokens = c->max_tokens,
                                     .limit = c->limit,
                                     .generated = c->show > 0 ? show_sample : NULL,
                                     .cookie = &showing};
    TN_TRY(find_data(c->data, path));
    TN_TRY(tn_evaluate(model, path, &how, &with));
    warn_about_data(&with);
    if (c->compare) {
        tn_evaluate_options quiet = how;
        quiet.generated = NULL;
        tn_model_enable_adapter(model, false);
        TN_TRY(tn_evaluate(model, path, &quiet, &base));
    }
    if (c->json)
        return print_json(&with, c->compare ? &base : NULL, generate);
    print_table(&with, c->model.adapter ? "adapter" : "model", c->compare ? &base : NULL, generate);
    return fflush(stdout) == 0 ? TN_OK : tn_fail(TN_ERROR_IO, "cannot write to standard output");
}

static tn_status evaluate_features(tn_model *model, const config *c) {
    int32_t classes[TN_CLI_MOST_CLASSES];
    tn_cli_feature_eval how = {.data = c->data,
                               .name = c->model.adapter ? "adapter" : "model",
                               .batch_size = c->batch_size,
                               .limit = c->limit,
                               .compare = c->compare,
                               .json = c->json};
    TN_TRY(tn_cli_feature_choice(&c->features, classes, &how.features));
    return tn_cli_eval_features(model, &how);
}

static int run(const tn_invocation *call) {
    static const char *const words[] = {"train-on-prompt", "generate", "max-tokens", "max-length", "show", NULL};
    const config *c = call->config;
    tn_model *model = NULL;
    tn_model_info info;
    if (c->compare && !c->model.adapter) {
        tn_fail(TN_ERROR_ARGUMENT, "--compare needs --adapter: it sets an adapter against its base");
        return TN_EXIT_USAGE;
    }
    tn_status status = tn_cli_load_model(&c->model, false, &model);
    if (status == TN_OK)
        status = tn_cli_check_data_options(call->options, model, words);
    if (status == TN_OK) {
        tn_model_describe(model, &info);
        status = info.inputs ? evaluate_features(model, c) : evaluate(model, c);
    }
    tn_model_free(model);
    return tn_cli_exit(status);
}

const tn_command tn_command_eval = {
    .name = "eval",
    .summary = "measure a model on a data set",
    .description =
        "Loss is the mean cross-entropy of the tokens that training would learn from (completions and answers, or all of a "
        "plain text), perplexity its exponential, accuracy the share of these tokens that the model finds most likely.\n\n"
        "With --generate each completion is also generated greedily from its prompt; it matches when it equals the data's "
        "but for blanks at both ends.\n\n"
        "A sequential model is measured on features: loss, accuracy and the confusion matrix of classes, or the mean "
        "squared "
        "error and r2 of numbers.",
    .tables = (const tn_option_table[]){{tn_cli_model_options, offsetof(config, model)},
                                        {tn_cli_precision_options, offsetof(config, model)},
                                        {tn_cli_load_quantized_options, offsetof(config, model.quantize)},
                                        {tn_cli_adapter_options, offsetof(config, model)},
                                        {options, 0},
                                        {tn_cli_feature_options, offsetof(config, features)},
                                        {0}},
    .config_size = sizeof(config),
    .examples =
        (const tn_example[]){
            {"tenon eval --model base --adapter out --data data --compare", "what did training gain?"},
            {"tenon eval --model base --adapter out --data test.jsonl --show 5", "exact match, with five samples"},
            {"tenon eval --model digits-base --data mnist/ --rotate 90", "a sequential model on turned images"},
            {0}},
    .run = run,
};
