/* mnist train: a base that knows half of the digits learns the others, by LoRA and, for comparison, by all its weights. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "mnist.h"

static const double FULL_RATE = 1e-3, LORA_RATE = 5e-3;

typedef struct {
    const tn_feature_set *train, *test;
    int64_t epochs, seed;
    double lr;
    char out[PATH];
} run;

/* What one way of training took and brought. */
typedef struct {
    const char *name;
    double trained, gradient_bytes, optimizer_bytes, activation_bytes, file_bytes;
    double seconds, accuracy, known, new_ones; /* shares of the digits that are found */
    double epoch_loss;                         /* sum over the steps of the epoch so far */
    int64_t epoch_steps;
} outcome;

static void note_plan(void *cookie, const tn_train_plan *plan) {
    outcome *o = cookie;
    o->trained = (double)plan->trainable;
    o->gradient_bytes = (double)plan->gradient_bytes;
    o->optimizer_bytes = (double)plan->optimizer_bytes;
    o->activation_bytes = (double)plan->activation_bytes;
}

/* Validation comes at the end of each epoch. */
static bool note_step(void *cookie, const tn_train_step *step) {
    outcome *o = cookie;
    o->epoch_loss += step->loss;
    o->epoch_steps++;
    o->seconds += step->seconds;
    if (isnan(step->valid_loss))
        return true;
    printf("   epoch %.0f  loss %.4f  test loss %.4f  accuracy %.2f %%  %.1f s\n", step->epoch,
           o->epoch_loss / (double)o->epoch_steps, step->valid_loss, 100 * step->valid_accuracy, o->seconds);
    fflush(stdout);
    o->epoch_loss = 0;
    o->epoch_steps = 0;
    return true;
}

static bool train_model(tn_model *model, const run *r, outcome *o) {
    const tn_train_callbacks callbacks = {.cookie = o, .start = note_plan, .step = note_step};
    tn_train_options options = {0};
    tn_train_options_default(&options);
    options.train_set = r->train;
    options.valid_set = r->test;
    options.out = r->out;
    options.batch_size = BATCH;
    options.epochs = (double)r->epochs;
    options.eval_every = (r->train->count + BATCH - 1) / BATCH;
    options.save_every = 0;
    options.lr = r->lr;
    options.seed = (uint64_t)r->seed;
    return ok(tn_train(model, &options, &callbacks, NULL));
}

static bool evaluate(tn_model *model, const tn_feature_set *test, outcome *o) {
    tn_feature_evaluation e;
    int64_t right[2] = {0}, all[2] = {0};
    if (!ok(tn_evaluate_features(model, test, 0, &e)))
        return false;
    for (int64_t digit = 0; digit < e.classes; digit++) {
        int half = digit >= KNOWN;
        right[half] += e.confusion[digit * e.classes + digit];
        for (int64_t found = 0; found < e.classes; found++)
            all[half] += e.confusion[digit * e.classes + found];
    }
    o->accuracy = e.accuracy;
    o->known = (double)right[0] / (double)all[0];
    o->new_ones = (double)right[1] / (double)all[1];
    tn_feature_evaluation_free(&e);
    return true;
}

static bool measure_file(const char *dir, const char *name, outcome *o) {
    char path[PATH];
    struct stat info;
    if (!join(path, dir, name))
        return false;
    if (stat(path, &info) != 0) {
        fprintf(stderr, "mnist: there is no %s\n", path);
        return false;
    }
    o->file_bytes = (double)info.st_size;
    return true;
}

static bool pretrain(const settings *s, tn_model *model, const tn_feature_set *test, outcome *base) {
    tn_feature_set known = {0}, known_test = {0};
    run r = {.train = &known, .test = &known_test, .epochs = s->base_epochs, .seed = s->seed, .lr = FULL_RATE};
    printf("\n1. All weights learn the digits 0 to %d\n", KNOWN - 1);
    bool done = load_digits(model, s, TN_FEATURE_TRAIN, true, s->limit, &known) &&
                load_digits(model, s, TN_FEATURE_TEST, true, 0, &known_test) && join(r.out, s->out, "base") &&
                add_full(model, (uint64_t)s->seed) && train_model(model, &r, base) && evaluate(model, test, base) &&
                measure_file(r.out, "model.safetensors", base);
    tn_feature_set_free(&known);
    tn_feature_set_free(&known_test);
    return done;
}

static void print_layers(int64_t rank) {
    const int64_t *sizes = small_network.sizes;
    for (int i = 0; i < LAYERS; i++)
        printf("   fc%d %4lld x %3lld: %6lld of %6lld parameters\n", i + 1, (long long)sizes[i], (long long)sizes[i + 1],
               (long long)(rank * (sizes[i] + sizes[i + 1])), (long long)(sizes[i + 1] * (sizes[i] + 1)));
}

/* Teaches a fresh copy of the base all ten digits. */
static bool adapt(const settings *s, bool lora, const tn_feature_set *all, const tn_feature_set *test, outcome *o) {
    run r = {.train = all, .test = test, .epochs = s->epochs, .seed = s->seed, .lr = lora ? LORA_RATE : FULL_RATE};
    char base[PATH];
    tn_model *model = NULL;
    bool done = join(base, s->out, "base") && join(r.out, s->out, lora ? "adapter" : "full") &&
                ok(tn_model_load(base, &model)) &&
                (lora ? add_lora(model, s->rank, (uint64_t)s->seed) : add_full(model, (uint64_t)s->seed)) &&
                train_model(model, &r, o) && evaluate(model, test, o) &&
                measure_file(r.out, lora ? "adapter_model.safetensors" : "model.safetensors", o);
    tn_model_free(model);
    return done;
}

/* What the field at `offset` says of each way, times `scale`. */
static void print_row(const outcome *ways, int count, size_t offset, const char *title, double scale, int digits,
                      const char *unit) {
    printf("%-18s", title);
    for (int i = 0; i < count; i++) {
        double value;
        memcpy(&value, (const char *)&ways[i] + offset, sizeof value);
        printf(" %*.*f%s", 13 - (int)strlen(unit), digits, scale * value, unit);
    }
    printf("\n");
}

static void print_table(const outcome *ways, int count) {
    printf("\n%-18s", "");
    for (int i = 0; i < count; i++)
        printf(" %13s", ways[i].name);
    printf("\n");
    print_row(ways, count, offsetof(outcome, accuracy), "accuracy", 100, 2, " %");
    print_row(ways, count, offsetof(outcome, known), "  digits 0 to 4", 100, 2, " %");
    print_row(ways, count, offsetof(outcome, new_ones), "  digits 5 to 9", 100, 2, " %");
    print_row(ways, count, offsetof(outcome, trained), "trained numbers", 1, 0, "");
    print_row(ways, count, offsetof(outcome, gradient_bytes), "gradients", 1e-3, 1, " kB");
    print_row(ways, count, offsetof(outcome, optimizer_bytes), "optimiser", 1e-3, 1, " kB");
    print_row(ways, count, offsetof(outcome, activation_bytes), "activations", 1e-3, 1, " kB");
    print_row(ways, count, offsetof(outcome, file_bytes), "saved file", 1e-3, 1, " kB");
    print_row(ways, count, offsetof(outcome, seconds), "training", 1, 1, " s");
    const outcome *base = &ways[0], *lora = &ways[1];
    printf("\nLoRA trains %.1f %% of what full training does: gradients and optimiser are %.0f times smaller\n",
           100 * lora->trained / base->trained, base->gradient_bytes / lora->gradient_bytes);
}

bool train(const settings *s) {
    outcome ways[] = {{.name = "base"}, {.name = "LoRA"}, {.name = "full"}};
    tn_feature_set all = {0}, test = {0};
    tn_model *model = NULL;
    bool done = create_network(&small_network, s->out, (uint64_t)s->seed, &model) &&
                load_digits(model, s, TN_FEATURE_TRAIN, false, s->limit, &all) &&
                load_digits(model, s, TN_FEATURE_TEST, false, 0, &test);
    if (done)
        printf("%lld training and %lld test samples of %s; 784-512-256-10, %lld parameters\n", (long long)all.count,
               (long long)test.count, s->data, (long long)network_parameters(&small_network));
    done = done && pretrain(s, model, &test, &ways[0]);
    tn_model_free(model);
    if (done) {
        printf("\n2. LoRA of rank %lld learns all ten digits; the base stays as it is\n", (long long)s->rank);
        print_layers(s->rank);
    }
    done = done && adapt(s, true, &all, &test, &ways[1]);
    if (done && s->full)
        printf("\n3. For comparison, all weights learn all ten digits\n");
    done = done && (!s->full || adapt(s, false, &all, &test, &ways[2]));
    if (done)
        print_table(ways, s->full ? 3 : 2);
    tn_feature_set_free(&all);
    tn_feature_set_free(&test);
    return done;
}
