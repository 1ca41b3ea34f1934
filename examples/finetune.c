/* Fine-tunes a model with LoRA, shows what it says before and after, saves the adapter and a merged checkpoint:
 *
 *     cc finetune.c $(pkg-config --cflags --libs tenon) -o finetune
 *     ./finetune MODEL DATA.jsonl PROMPT OUT
 */
#include <stdio.h>
#include <string.h>
#include <tenon/tenon.h>

enum { EPOCHS = 3, RANK = 8, NEW_TOKENS = 32 };

static void show_plan(void *cookie, const tn_train_plan *plan) {
    (void)cookie;
    printf("%lld of %lld parameters, %lld steps, %.0f MB of memory\n", (long long)plan->trainable,
           (long long)plan->parameters, (long long)plan->steps, (double)plan->peak_bytes / 1e6);
}

/* A program with a window would draw here; returning false stops the run, and a later one with `resume` goes on. */
static bool show_step(void *cookie, const tn_train_step *step) {
    (void)cookie;
    printf("step %lld of %lld, loss %.4f, %.0f tokens/s\n", (long long)step->step, (long long)step->steps, step->loss,
           step->tokens_per_second);
    return true;
}

static void show_warning(void *cookie, const char *text) {
    (void)cookie;
    printf("warning: %s\n", text);
}

static bool print_token(void *cookie, int32_t id, const char *text, size_t length) {
    (void)id;
    return fwrite(text, 1, length, cookie) == length;
}

static tn_status generate(tn_model *model, const char *when, const char *prompt) {
    tn_generate_options options = {0};
    tn_generate_result result;
    int32_t *ids;
    size_t count;
    tn_status status = tn_model_encode(model, prompt, strlen(prompt), true, &ids, &count);
    if (status != TN_OK)
        return status;
    tn_generate_options_default(&options);
    options.max_tokens = NEW_TOKENS;
    options.temperature = 0;
    printf("%s: %s", when, prompt);
    status = tn_generate(model, ids, count, &options, print_token, stdout, &result);
    printf("\n");
    if (status == TN_OK)
        tn_generate_result_free(&result);
    tn_free_ids(ids);
    return status;
}

static tn_status train(tn_model *model, const char *data, const char *out) {
    const tn_train_callbacks callbacks = {.start = show_plan, .step = show_step, .warning = show_warning};
    tn_adapter_options adapter = {0};
    tn_train_options options = {0};
    tn_adapter_options_default(&adapter);
    adapter.rank = RANK;
    adapter.target_modules = "all-linear";
    tn_train_options_default(&options);
    options.data = data;
    options.out = out;
    options.epochs = EPOCHS;
    tn_status status = tn_model_add_adapter(model, &adapter, options.seed);
    return status == TN_OK ? tn_train(model, &options, &callbacks, NULL) : status; /* writes the adapter into `out` */
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: finetune MODEL DATA.jsonl PROMPT OUT\n");
        return 2;
    }
    const char *prompt = argv[3], *out = argv[4];
    char merged[4096];
    tn_model *model = NULL;
    snprintf(merged, sizeof merged, "%s/merged", out);
    tn_status status = tn_model_load(argv[1], &model);
    if (status == TN_OK)
        status = generate(model, "before", prompt);
    if (status == TN_OK)
        status = train(model, argv[2], out);
    if (status == TN_OK)
        status = generate(model, "after", prompt);
    if (status == TN_OK)
        status = tn_model_merge(model, merged, "keep", NULL);
    if (status != TN_OK)
        fprintf(stderr, "finetune: %s\n", tn_error_message());
    tn_model_free(model);
    return status == TN_OK ? 0 : 1;
}
