/* LoRA from the beginning: a small network, an adapter on it, what is trained, and the same network with the adapter merged.
 *
 *     cc lora_basics.c $(pkg-config --cflags --libs tenon) -lm -o lora_basics && ./lora_basics
 */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <tenon/tenon.h>

#define CONFIG                                                                                                              \
    "{\"model_type\": \"sequential\", \"task\": \"classification\", \"input_shape\": [1, 28, 28], \"layers\": [\n"          \
    "  {\"type\": \"flatten\"},\n"                                                                                          \
    "  {\"type\": \"linear\", \"name\": \"fc1\", \"out_features\": 128}, {\"type\": \"relu\"},\n"                           \
    "  {\"type\": \"linear\", \"name\": \"fc2\", \"out_features\": 64}, {\"type\": \"relu\"},\n"                            \
    "  {\"type\": \"linear\", \"name\": \"fc3\", \"out_features\": 10}]}\n"

enum { CLASSES = 10, PIXELS = 784, BASE_SAMPLES = 4000, SAMPLES = 2000, TEST_SAMPLES = 500, MOST_TENSORS = 32, PATH = 1024 };
enum { THREADS = 1 };                    /* products this small gain nothing from more */
static const char TARGETS[] = "fc1,fc2"; /* the head of ten rows stays as it is, as is usual */
static const double BASE_RATE = 1e-3, RATE = 6e-3, VARIANT_DROPOUT = 0.1;

typedef struct settings {
    int64_t rank, base_epochs, epochs;
    double alpha, dropout;
    const char *bias;
    bool rslora;
    uint64_t seed;
    const char *data, *out;
} settings;

typedef struct images {
    tn_feature_set train, test;
} images;

/* What became of one adapter. */
typedef struct outcome {
    int64_t trained;
    double accuracy, difference; /* largest |LoRA - merged| of all outputs */
} outcome;

/* Says what went wrong where it did; the caller only has to stop. */
static bool ok(tn_status status) {
    if (status != TN_OK)
        fprintf(stderr, "lora_basics: %s\n", tn_error_message());
    return status == TN_OK;
}

static bool write_config(const char *out, char path[PATH]) {
    if (mkdir(out, 0777) != 0 && errno != EEXIST) {
        fprintf(stderr, "lora_basics: cannot make the folder %s: %s\n", out, strerror(errno));
        return false;
    }
    snprintf(path, PATH, "%s/config.json", out);
    FILE *file = fopen(path, "w");
    bool written = file && fputs(CONFIG, file) >= 0;
    if (file && fclose(file) != 0)
        written = false;
    if (!written)
        fprintf(stderr, "lora_basics: cannot write %s: %s\n", path, strerror(errno));
    return written;
}

/* Grey around 0 leaves the network as well prepared for black on white as for white on black. */
static bool read_images(const tn_model *model, const char *data, bool invert, images *out) {
    const tn_feature_options options = {.invert = invert, .mean = 0.5, .std = 1};
    return ok(tn_feature_set_load(model, data, TN_FEATURE_TRAIN, &options, &out->train)) &&
           ok(tn_feature_set_load(model, data, TN_FEATURE_TEST, &options, &out->test));
}

/* At most `count` samples of a set from `first` on; they stay the set's. */
static tn_feature_set part_of(const tn_feature_set *set, int64_t first, int64_t count) {
    tn_feature_set part = *set;
    first = first < set->count ? first : 0;
    part.x += first * set->inputs;
    part.labels += first;
    part.count = set->count - first < count ? set->count - first : count;
    part.owner = NULL;
    return part;
}

static bool accuracy_of(tn_model *model, const tn_feature_set *set, double *accuracy) {
    tn_feature_evaluation found;
    if (!ok(tn_evaluate_features(model, set, 0, &found)))
        return false;
    *accuracy = found.accuracy;
    tn_feature_evaluation_free(&found);
    return true;
}

static bool train(tn_model *model, const settings *s, const tn_feature_set *set, double rate, int64_t epochs,
                  const char *out) {
    tn_train_options options = {0};
    tn_train_options_default(&options);
    options.train_set = set;
    options.valid_fraction = 0;
    options.epochs = (double)epochs;
    options.batch_size = 32;
    options.lr = rate;
    options.seed = s->seed;
    options.save_every = 0;
    options.out = out;
    return ok(tn_train(model, &options, NULL, NULL));
}

/* A network with random weights, trained in full: the pretrained base that adapters need. */
static bool make_base(const settings *s, const images *upright, const char *config, const char *dir) {
    const tn_feature_set set = part_of(&upright->train, 0, BASE_SAMPLES);
    tn_adapter_options full = {0};
    tn_model *model;
    tn_adapter_options_default(&full);
    full.method = "full";
    if (!ok(tn_model_create(config, s->seed, &model)))
        return false;
    bool good = ok(tn_model_add_adapter(model, &full, s->seed)) && train(model, s, &set, BASE_RATE, s->base_epochs, dir);
    tn_model_free(model);
    return good;
}

static bool add_adapter(tn_model *model, const settings *s) {
    tn_adapter_options lora = {0};
    tn_adapter_options_default(&lora);
    lora.rank = s->rank;
    lora.alpha = s->alpha;
    lora.dropout = s->dropout;
    lora.bias = s->bias;
    lora.rslora = s->rslora;
    lora.target_modules = TARGETS;
    return ok(tn_model_add_adapter(model, &lora, s->seed));
}

static double largest_difference(const float *a, const float *b, int64_t count) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)a[i] - b[i]));
    return largest;
}

/* Prints the trained tensors; returns how many numbers they hold. */
static int64_t show_trained(const tn_model *model, bool print) {
    tn_trained_tensor tensors[MOST_TENSORS];
    size_t count = tn_model_list_trained(model, tensors, MOST_TENSORS);
    int64_t sum = 0;
    for (size_t i = 0; i < count && i < MOST_TENSORS; i++) {
        char shape[64];
        int length = snprintf(shape, sizeof shape, "%lld", (long long)tensors[i].shape[0]);
        for (int d = 1; d < tensors[i].dims; d++)
            length += snprintf(shape + length, sizeof shape - (size_t)length, " x %lld", (long long)tensors[i].shape[d]);
        if (print)
            printf("  %-22s %10s %7lld\n", tensors[i].name, shape, (long long)tensors[i].count);
        sum += tensors[i].count;
    }
    return sum;
}

/* Merges into a checkpoint of its own, loads that and the saved adapter again, and compares both with the adapter at work.
 */
static bool compare_merged(tn_model *model, const char *base, const char *dir, const tn_feature_set *test,
                           const float *outputs, float *merged_outputs, outcome *out, double *loaded_difference) {
    char merged_dir[PATH + 16];
    tn_model *merged = NULL, *loaded = NULL;
    snprintf(merged_dir, sizeof merged_dir, "%s/merged", dir);
    int64_t numbers = test->count * CLASSES;
    bool good = ok(tn_model_load(base, &loaded)) && ok(tn_model_load_adapter(loaded, dir, false, false)) &&
                ok(tn_predict(loaded, test->x, test->count, merged_outputs));
    if (good)
        *loaded_difference = largest_difference(outputs, merged_outputs, numbers);
    good = good && ok(tn_model_merge(model, merged_dir, "f32", NULL)) && ok(tn_model_load(merged_dir, &merged)) &&
           ok(tn_predict(merged, test->x, test->count, merged_outputs));
    if (good)
        out->difference = largest_difference(outputs, merged_outputs, numbers);
    tn_model_free(loaded);
    tn_model_free(merged);
    return good;
}

static void show_row(const char *name, const float *outputs) {
    printf("  %-7s", name);
    for (int k = 0; k < CLASSES; k++)
        printf(" %8.3f", outputs[k]);
    printf("\n");
}

static void show_sample(const tn_feature_set *test, const float *base, const float *lora, const float *merged) {
    printf("\nThe outputs for the first test sample, a %d:\n  %-7s", test->labels[0], "class");
    for (int k = 0; k < CLASSES; k++)
        printf(" %8d", k);
    printf("\n");
    show_row("base", base);
    show_row("LoRA", lora);
    show_row("merged", merged);
}

static void show_adapter(const tn_model *model, const settings *s) {
    tn_model_info info;
    tn_model_describe(model, &info);
    printf("\nLoRA of rank %lld and alpha %g on %s, scaling %s = %.4g, dropout %g, bias %s:\n", (long long)s->rank, s->alpha,
           TARGETS, s->rslora ? "alpha / sqrt(rank)" : "alpha / rank",
           s->alpha / (s->rslora ? sqrt((double)s->rank) : (double)s->rank), s->dropout, s->bias);
    int64_t trained = show_trained(model, true);
    printf("  trained %lld of %lld parameters: %.2f %%, a reduction by %.2f %%\n", (long long)trained,
           (long long)info.parameters, 100.0 * (double)trained / (double)info.parameters,
           100.0 - 100.0 * (double)trained / (double)info.parameters);
}

/* Trains one adapter on the base and merges it; tells each step when `verbose`. rows [3][test->count * CLASSES] is room for
 * outputs. */
static bool try_on(tn_model *model, const settings *s, const images *inverted, const char *base, const char *name,
                   bool verbose, float *rows, outcome *out) {
    const tn_feature_set set = part_of(&inverted->train, BASE_SAMPLES, SAMPLES);
    const tn_feature_set test = part_of(&inverted->test, 0, TEST_SAMPLES);
    int64_t numbers = test.count * CLASSES;
    float *before = rows, *after = rows + numbers, *merged = rows + 2 * numbers;
    char dir[PATH];
    double loaded;
    snprintf(dir, sizeof dir, "%s/%s", s->out, name);
    if (!ok(tn_predict(model, test.x, test.count, before)) || !add_adapter(model, s) ||
        !ok(tn_predict(model, test.x, test.count, after)))
        return false;
    out->trained = show_trained(model, false);
    if (verbose) {
        show_adapter(model, s);
        printf("  largest difference between the base and the fresh adapter: %.3g\n",
               largest_difference(before, after, numbers));
    }
    if (!train(model, s, &set, RATE, s->epochs, dir) || !ok(tn_predict(model, test.x, test.count, after)) ||
        !accuracy_of(model, &test, &out->accuracy) || !compare_merged(model, base, dir, &test, after, merged, out, &loaded))
        return false;
    if (!verbose)
        return true;
    printf("\nAfter %lld epochs on %lld inverted digits: accuracy %.1f %%\n", (long long)s->epochs, (long long)set.count,
           100 * out->accuracy);
    printf("  largest difference between LoRA and merged: %.3g over %lld outputs\n", out->difference, (long long)numbers);
    printf("  largest difference between LoRA and LoRA saved and loaded: %.3g\n", loaded);
    show_sample(&test, before, after, merged);
    return true;
}

static bool try_adapter(const settings *s, const images *inverted, const char *name, bool verbose, outcome *out) {
    char base[PATH];
    tn_model *model = NULL;
    float *rows = calloc(3 * TEST_SAMPLES * CLASSES, sizeof *rows);
    snprintf(base, sizeof base, "%s/base", s->out);
    if (!rows)
        fprintf(stderr, "lora_basics: out of memory\n");
    bool good = rows && ok(tn_model_load(base, &model)) && try_on(model, s, inverted, base, name, verbose, rows, out);
    tn_model_free(model);
    free(rows);
    return good;
}

/* The same adapter with one option changed at a time. */
static bool compare_variants(const settings *asked, const images *inverted, int64_t parameters) {
    settings plain = *asked;
    plain.dropout = 0;
    plain.bias = "none";
    plain.rslora = false;
    settings variants[4] = {plain, plain, plain, plain};
    static const char *const names[] = {"plain", "dropout", "bias-all", "rslora"};
    variants[1].dropout = asked->dropout > 0 ? asked->dropout : VARIANT_DROPOUT;
    variants[2].bias = "all";
    variants[3].rslora = true;
    printf("\n%-9s %7s %7s %5s %8s %8s %10s %9s %14s\n", "variant", "dropout", "bias", "rank", "scaling", "trained",
           "reduction", "accuracy", "|LoRA-merged|");
    for (int i = 0; i < 4; i++) {
        const settings *s = &variants[i];
        outcome found;
        if (!try_adapter(s, inverted, names[i], false, &found))
            return false;
        printf("%-9s %7g %7s %5lld %8.4g %8lld %8.2f %% %7.1f %% %14.3g\n", names[i], s->dropout, s->bias,
               (long long)s->rank, s->alpha / (s->rslora ? sqrt((double)s->rank) : (double)s->rank),
               (long long)found.trained, 100.0 - 100.0 * (double)found.trained / (double)parameters, 100 * found.accuracy,
               found.difference);
    }
    return true;
}

static bool show_base(const settings *s, const images *upright, const images *inverted, int64_t *parameters) {
    const tn_feature_set same = part_of(&upright->test, 0, TEST_SAMPLES), other = part_of(&inverted->test, 0, TEST_SAMPLES);
    char dir[PATH];
    double on_same = 0, on_other = 0;
    tn_model_info info;
    tn_model *model;
    snprintf(dir, sizeof dir, "%s/base", s->out);
    if (!ok(tn_model_load(dir, &model)))
        return false;
    tn_model_describe(model, &info);
    *parameters = info.parameters;
    bool good = accuracy_of(model, &same, &on_same) && accuracy_of(model, &other, &on_other);
    if (good)
        printf("Base: 784-128-64-10, %lld parameters, trained in full on white digits on black.\n"
               "  accuracy %.1f %% on %lld others like them, %.1f %% on the same ones inverted\n",
               (long long)info.parameters, 100 * on_same, (long long)same.count, 100 * on_other);
    tn_model_free(model);
    return good;
}

static bool run(const settings *s) {
    images upright = {0}, inverted = {0};
    char config[PATH], base[PATH];
    int64_t parameters;
    outcome found;
    tn_model *model = NULL;
    snprintf(base, sizeof base, "%s/base", s->out);
    bool good = write_config(s->out, config) && ok(tn_model_create(config, s->seed, &model)) &&
                add_adapter(model, s) && /* tells at once what does not fit */
                read_images(model, s->data, false, &upright) && read_images(model, s->data, true, &inverted) &&
                make_base(s, &upright, config, base) && show_base(s, &upright, &inverted, &parameters) &&
                try_adapter(s, &inverted, "adapter", true, &found) && compare_variants(s, &inverted, parameters);
    if (good)
        printf("\n%s/adapter holds the adapter for PEFT and Tenon, %s/adapter/merged the merged network.\n", s->out, s->out);
    tn_model_free(model);
    tn_feature_set_free(&upright.train);
    tn_feature_set_free(&upright.test);
    tn_feature_set_free(&inverted.train);
    tn_feature_set_free(&inverted.test);
    return good;
}

static void print_help(void) {
    printf("usage: lora_basics [options]\n"
           "Trains a small network on digits, adapts it to inverted ones with LoRA, and merges the two.\n\n"
           "  --rank N          of the adapter, from 1 to 64 (8)\n"
           "  --alpha X         the update is scaled by alpha / rank (16)\n"
           "  --dropout P       on the adapter's input while training (0)\n"
           "  --bias MODE       none, or all: train the network's biases too (none)\n"
           "  --rslora          scale by alpha / sqrt(rank) instead\n"
           "  --epochs N        of the adapter (8)\n"
           "  --base-epochs N   of the base (8)\n"
           "  --data DIR        MNIST's files; digits: drawn ones (digits)\n"
           "  --seed N          (1)\n"
           "  --out DIR         where the models go (lora_basics.out)\n");
}

/* A whole number from 0 on, or -1. */
static int64_t whole(const char *text) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    return *text && !*end && !errno && value >= 0 && value < 1000000000 ? value : -1;
}

static double real(const char *text) {
    char *end;
    double value = strtod(text, &end);
    return *text && !*end ? value : NAN;
}

/* -1 to go on, else the exit code. What is out of range for the library is its to say. */
static int read_options(int argc, char **argv, settings *s) {
    static const struct option names[] = {{"rank", required_argument, 0, 'r'},    {"alpha", required_argument, 0, 'a'},
                                          {"dropout", required_argument, 0, 'p'}, {"bias", required_argument, 0, 'b'},
                                          {"rslora", no_argument, 0, 's'},        {"epochs", required_argument, 0, 'e'},
                                          {"seed", required_argument, 0, 'n'},    {"base-epochs", required_argument, 0, 'f'},
                                          {"data", required_argument, 0, 'd'},    {"out", required_argument, 0, 'o'},
                                          {"help", no_argument, 0, 'h'},          {0}};
    bool good = true;
    for (int key, at; good && (at = optind, key = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        int64_t number = optarg ? whole(optarg) : 0;
        double value = optarg ? real(optarg) : 0;
        switch (key) {
        case 'r':
            s->rank = number;
            good = number > 0;
            break;
        case 'a':
            s->alpha = value;
            good = value > 0;
            break;
        case 'p':
            s->dropout = value;
            good = value >= 0;
            break;
        case 'b': s->bias = optarg; break;
        case 's': s->rslora = true; break;
        case 'e':
            s->epochs = number;
            good = number > 0;
            break;
        case 'f':
            s->base_epochs = number;
            good = number > 0;
            break;
        case 'n':
            s->seed = (uint64_t)number;
            good = number >= 0;
            break;
        case 'd': s->data = optarg; break;
        case 'o':
            s->out = optarg;
            good = strlen(optarg) < PATH - 64;
            break;
        case 'h': print_help(); return 0;
        default: return 2;
        }
        if (!good)
            fprintf(stderr, "lora_basics: %s cannot be '%s'; see --help\n", argv[at], optarg);
    }
    if (good && optind < argc)
        fprintf(stderr, "lora_basics: '%s' is no option; see --help\n", argv[optind]);
    return good && optind == argc ? -1 : 2;
}

int main(int argc, char **argv) {
    settings s = {.rank = 8,
                  .alpha = 16,
                  .bias = "none",
                  .epochs = 8,
                  .base_epochs = 8,
                  .seed = 1,
                  .data = "digits",
                  .out = "lora_basics.out"};
    int code = read_options(argc, argv, &s);
    if (code >= 0)
        return code;
    tn_set_threads(THREADS);
    return run(&s) ? 0 : 1;
}
