/* A language model fine-tuned with LoRA on its query and value projections: trained, saved with metadata, loaded into a new
 * adapter, and swapped with another while the model generates.
 *
 *     cc *.c $(pkg-config --cflags --libs tenon) -o llm_lora && ./llm_lora --model MODEL --data DATA
 */
#include "llm_lora.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "restyle.h"

enum { PROGRESS_LINES = 10, MOST_NOTES = 16, ANSWER_TOKENS = 48 };
static const char TARGETS[] = "q_proj,v_proj", NAME[] = "llm_lora";
static const double WEIGHT_DECAY = 0.01;

bool ok(tn_status status) {
    if (status != TN_OK)
        fprintf(stderr, "llm_lora: %s\n", tn_error_message());
    return status == TN_OK;
}

/* out = folder/name. */
static bool join(char out[PATH], const char *folder, const char *name) {
    int length = snprintf(out, PATH, "%s/%s", folder, name);
    if (length < 0 || length >= PATH)
        fprintf(stderr, "llm_lora: the path %s/%s is too long\n", folder, name);
    return length >= 0 && length < PATH;
}

static bool make_folder(const char *path) {
    if (mkdir(path, 0777) == 0 || errno == EEXIST)
        return true;
    fprintf(stderr, "llm_lora: cannot make the folder %s: %s\n", path, strerror(errno));
    return false;
}

/* --- showing --- */

static void show_model(const tn_model *model, const char *dir) {
    tn_model_info info;
    tn_model_describe(model, &info);
    printf("Model %s: %s, %lld layers of %lld, %lld heads (%lld of keys and values), vocabulary %lld\n"
           "  %lld parameters, stored as %s\n",
           dir, info.family, (long long)info.layers, (long long)info.hidden_size, (long long)info.heads,
           (long long)info.kv_heads, (long long)info.vocab_size, (long long)info.parameters, info.dtype);
}

static bool show_fresh_adapter(tn_model *model, const settings *s) {
    tn_adapter_info adapter;
    tn_model_info base;
    if (!ok(tn_model_describe_adapter(model, &adapter)))
        return false;
    tn_model_describe(model, &base);
    printf("\nLoRA of rank %lld and alpha %g on %s: %lld layers, %lld trained numbers (%.2f %% of the base)\n"
           "  largest change of the outputs by the fresh adapter: %g\n",
           (long long)s->rank, s->alpha, TARGETS, (long long)adapter.modules, (long long)adapter.parameters,
           100.0 * (double)adapter.parameters / (double)base.parameters, adapter.logit_difference);
    return true;
}

static void show_plan(void *cookie, const tn_train_plan *plan) {
    (void)cookie;
    printf("  %lld samples, %lld steps, %.1f MB at most\n  %5s %9s %9s %10s %9s\n", (long long)plan->train_samples,
           (long long)plan->steps, (double)plan->peak_bytes / 1e6, "step", "loss", "lr", "gradient", "tokens/s");
}

/* The gradient's norm is the one before clipping. */
static bool show_step(void *cookie, const tn_train_step *step) {
    (void)cookie;
    int64_t each = step->steps / PROGRESS_LINES > 0 ? step->steps / PROGRESS_LINES : 1;
    if (step->step == 1 || step->step % each == 0 || step->step == step->steps)
        printf("  %5lld %9.4f %9.2e %10.3f %9.0f\n", (long long)step->step, step->loss, step->lr, step->grad_norm,
               step->tokens_per_second);
    return true;
}

static void show_warning(void *cookie, const char *text) {
    (void)cookie;
    printf("  warning: %s\n", text);
}

static bool measure(tn_model *model, const settings *s, const char *path, const char *name, tn_evaluation *out) {
    tn_evaluate_options options = {0};
    tn_evaluate_options_default(&options);
    options.limit = s->samples;
    options.generate = true;
    options.max_tokens = ANSWER_TOKENS;
    if (!ok(tn_evaluate(model, path, &options, out)))
        return false;
    printf("  %-22s loss %.4f, perplexity %.3f, tokens %.1f %%, answers %lld of %lld\n", name, out->loss, out->perplexity,
           100 * out->token_accuracy, (long long)out->exact, (long long)out->generated);
    return true;
}

/* --- training --- */

static bool train(tn_model *model, const settings *s, const char *data, int64_t steps, double lr, const char *out,
                  tn_train_result *result) {
    const tn_train_callbacks callbacks = {.start = show_plan, .step = show_step, .warning = show_warning};
    tn_train_options options = {0};
    tn_train_options_default(&options);
    options.data = data;
    options.out = out;
    options.steps = steps;
    options.batch_size = s->batch;
    options.lr = lr;
    options.schedule = "cosine";
    options.warmup = s->warmup < steps ? s->warmup : steps - 1;
    options.weight_decay = WEIGHT_DECAY;
    options.grad_clip = s->clip;
    options.seed = s->seed;
    options.eval_every = 0;
    options.save_every = 0;
    return ok(tn_train(model, &options, &callbacks, result));
}

static bool note_number(tn_model *model, const char *key, const char *format, double value) {
    char text[64];
    snprintf(text, sizeof text, format, value);
    return ok(tn_model_set_metadata(model, NULL, key, text));
}

/* PEFT reads the folder as any other: it ignores what it does not know of the file's metadata. */
static bool save(tn_model *model, const settings *s, const char *task, const tn_train_result *result, const char *dir) {
    return ok(tn_model_set_metadata(model, NULL, "task", task)) &&
           ok(tn_model_set_metadata(model, NULL, "trained_by", NAME)) &&
           ok(tn_model_set_metadata(model, NULL, "tenon_version", tn_version())) &&
           note_number(model, "steps", "%.0f", (double)result->steps) && note_number(model, "peak_lr", "%g", s->lr) &&
           note_number(model, "train_loss", "%.6f", result->loss) &&
           note_number(model, "valid_loss", "%.6f", result->valid_loss) && ok(tn_model_save_adapter(model, dir));
}

/* From the base to an adapter in `dir`. */
static bool train_first(const settings *s, const char *test, const char *run, const char *dir, tn_evaluation *after) {
    tn_adapter_options lora = {0};
    tn_train_result result = {0};
    tn_evaluation before;
    tn_model *model = NULL;
    tn_adapter_options_default(&lora);
    lora.rank = s->rank;
    lora.alpha = s->alpha;
    lora.target_modules = TARGETS;
    bool good = ok(tn_model_load(s->model, &model));
    if (good) {
        show_model(model, s->model);
        good = measure(model, s, test, "base, held-out", &before);
    }
    good = good && ok(tn_model_add_adapter(model, &lora, s->seed)) && show_fresh_adapter(model, s);
    if (good)
        printf("Training with AdamW, gradients clipped at %g, %lld steps of warm-up, then a cosine:\n", s->clip,
               (long long)s->warmup);
    good = good && train(model, s, s->data, s->steps, s->lr, run, &result);
    if (good)
        printf("  %.1f s, validation loss %.4f\n", result.seconds, result.valid_loss);
    good = good && measure(model, s, test, "adapted, held-out", after) && save(model, s, s->data, &result, dir);
    tn_train_result_free(&result);
    tn_model_free(model);
    return good;
}

/* --- loading --- */

static void show_metadata(const tn_model *model) {
    const char *keys[MOST_NOTES], *values[MOST_NOTES];
    size_t count = tn_model_list_metadata(model, NULL, keys, values, MOST_NOTES);
    for (size_t i = 0; i < count && i < MOST_NOTES; i++)
        printf("  %-14s %s\n", keys[i], values[i]);
}

/* A new adapter on a freshly loaded base, filled from the file, does what the trained one did. */
static bool load(const settings *s, const char *test, const char *dir, const tn_evaluation *trained, tn_model **model) {
    tn_evaluation loaded;
    if (!ok(tn_model_load(s->model, model)) || !ok(tn_model_load_adapter(*model, dir, true, false)))
        return false;
    printf("\nLoaded %s into a new adapter:\n", dir);
    show_metadata(*model);
    if (!measure(*model, s, test, "loaded, held-out", &loaded))
        return false;
    printf("  differs from the trained one by %g in loss, %lld answers\n", fabs(loaded.loss - trained->loss),
           (long long)(loaded.exact - trained->exact));
    return true;
}

/* The data of the second style, as a folder beside the adapters. */
static bool restyle(const settings *s, const char *to) {
    static const char *const files[] = {"train.jsonl", "test.jsonl"};
    char from_file[PATH], to_file[PATH];
    if (!make_folder(to))
        return false;
    for (int i = 0; i < 2; i++)
        if (!join(from_file, s->data, files[i]) || !join(to_file, to, files[i]) || !restyle_file(from_file, to_file))
            return false;
    return true;
}

/* Trained on, a loaded adapter becomes another: its own file stays as it is. */
static bool train_second(tn_model *model, const settings *s, const char *data, const char *run, const char *dir) {
    tn_train_result result = {0};
    tn_evaluation after;
    char test[PATH];
    if (!join(test, data, "test.jsonl") || !restyle(s, data))
        return false;
    printf("\nTraining it on in another style (completions in lower case):\n");
    bool good = train(model, s, data, s->style_steps, s->lr, run, &result) &&
                measure(model, s, test, "lower case, held-out", &after) && save(model, s, "lower case", &result, dir);
    tn_train_result_free(&result);
    return good;
}

/* The folders of a run: what training writes (curves, checkpoints) apart from the adapters themselves. */
static bool run(const settings *s) {
    static const char *const names[] = {"sql-run", "sql", "lower-data", "lower-run", "lower"};
    enum { SQL_RUN, SQL, LOWER_DATA, LOWER_RUN, LOWER, FOLDERS };
    char paths[FOLDERS][PATH], test[PATH];
    tn_evaluation trained;
    tn_model *model = NULL;
    for (int i = 0; i < FOLDERS; i++)
        if (!join(paths[i], s->out, names[i]))
            return false;
    bool good = join(test, s->data, "test.jsonl") && make_folder(s->out) &&
                train_first(s, test, paths[SQL_RUN], paths[SQL], &trained) && load(s, test, paths[SQL], &trained, &model) &&
                train_second(model, s, paths[LOWER_DATA], paths[LOWER_RUN], paths[LOWER]);
    tn_model_free(model);
    if (!good || !swap_adapters(s, paths[SQL], paths[LOWER]))
        return false;
    printf("\n%s and %s are PEFT folders; %s/report.html has the loss curve.\n", paths[SQL], paths[LOWER], paths[SQL_RUN]);
    return true;
}

int main(int argc, char **argv) {
    settings s = {
        .model = "assets/base-model",
        .data = "assets/sql",
        .out = "llm_lora.out",
        .prompt = "Table: boats (name, city, price)\nQuestion: List the names of boats with a price above 300.\nSQL:",
        .rank = 16,
        .alpha = 32,
        .steps = 200,
        .style_steps = 100,
        .warmup = 20,
        .lr = 6e-3,
        .clip = 1,
        .batch = 16,
        .samples = 60,
        .seed = 1,
    };
    int code = read_options(argc, argv, &s);
    if (code >= 0)
        return code;
    return run(&s) ? 0 : 1;
}
