/* A classifier of digits that is taught new ones by LoRA: trained, used and measured. See README.md. */
#include "mnist.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const network small_network = {"small", {PIXELS, 512, 256, DIGITS}};
const network medium_network = {"medium", {PIXELS, 2048, 1024, DIGITS}};

bool ok(tn_status status) {
    if (status != TN_OK)
        fprintf(stderr, "mnist: %s\n", tn_error_message());
    return status == TN_OK;
}

static bool complain(const char *what, const char *path) {
    fprintf(stderr, "mnist: cannot %s %s: %s\n", what, path, strerror(errno));
    return false;
}

bool join(char path[PATH], const char *dir, const char *name) {
    if (snprintf(path, PATH, "%s/%s", dir, name) < PATH)
        return true;
    fprintf(stderr, "mnist: the path %s/%s is too long\n", dir, name);
    return false;
}

int64_t network_parameters(const network *n) {
    int64_t sum = 0;
    for (int i = 0; i < LAYERS; i++)
        sum += n->sizes[i + 1] * (n->sizes[i] + 1);
    return sum;
}

int64_t lora_parameters(const network *n, int64_t rank) {
    int64_t sum = 0;
    for (int i = 0; i < LAYERS; i++)
        sum += rank * (n->sizes[i] + n->sizes[i + 1]);
    return sum;
}

static bool write_network(const network *n, const char *path) {
    FILE *file = fopen(path, "w");
    if (!file)
        return complain("write", path);
    fprintf(file, "{\"model_type\": \"sequential\", \"task\": \"classification\", \"input_shape\": [%d], \"layers\": [",
            PIXELS);
    for (int i = 0; i < LAYERS; i++)
        fprintf(file, "%s{\"type\": \"linear\", \"name\": \"fc%d\", \"out_features\": %lld}",
                i ? ", {\"type\": \"relu\"}, " : "", i + 1, (long long)n->sizes[i + 1]);
    fprintf(file, "]}\n");
    return fclose(file) == 0 || complain("write", path);
}

bool create_network(const network *n, const char *out, uint64_t seed, tn_model **model) {
    char path[PATH], name[64];
    if (mkdir(out, 0777) != 0 && errno != EEXIST)
        return complain("make the folder", out);
    snprintf(name, sizeof name, "%s.json", n->name);
    return join(path, out, name) && write_network(n, path) && ok(tn_model_create(path, seed, model));
}

bool add_lora(tn_model *model, int64_t rank, uint64_t seed) {
    tn_adapter_options options = {0};
    tn_adapter_options_default(&options);
    options.rank = rank;
    options.target_modules = "fc1,fc2,fc3"; /* the last one too: it has never been asked for the new digits */
    return ok(tn_model_add_adapter(model, &options, seed));
}

bool add_full(tn_model *model, uint64_t seed) {
    tn_adapter_options options = {0};
    tn_adapter_options_default(&options);
    options.method = "full";
    return ok(tn_model_add_adapter(model, &options, seed));
}

bool load_digits(const tn_model *model, const settings *s, tn_feature_part part, bool known, int64_t limit,
                 tn_feature_set *set) {
    static const int32_t known_classes[KNOWN] = {0, 1, 2, 3, 4};
    const tn_feature_options options = {.keep_classes = known_classes, .keep_count = KNOWN};
    if (!ok(tn_feature_set_load(model, s->data, part, known ? &options : NULL, set)))
        return false;
    if (limit && set->count > limit)
        set->count = limit;
    return true;
}

static const char *const usage =
    "usage: mnist train | infer | bench [options]\n\n"
    "train: pretrains 784-512-256-10 on the digits 0 to 4, teaches it all ten with LoRA, and with all its weights too\n"
    "  --data DIR        folder of MNIST's or Fashion-MNIST's four files, plain or .gz (digits drawn by the library)\n"
    "  --out DIR         where base, adapter and full go (mnist.out)\n"
    "  --rank N          of LoRA (8)\n"
    "  --epochs N        of LoRA, and of full fine-tuning (3)\n"
    "  --base-epochs N   of pretraining (3)\n"
    "  --no-full         without full fine-tuning for comparison\n"
    "  --limit N         training samples at most; 0: all (0)\n"
    "  --seed N          (0)\n\n"
    "infer: names digits of the test set with what train has left\n"
    "  --data DIR        as above\n"
    "  --out DIR         as above\n"
    "  --samples N       shown one by one (10)\n"
    "  --shown N         wrong ones shown in the terminal (3)\n"
    "  --picture FILE    where a picture of the wrong ones goes, as PGM (OUT/wrong.pgm)\n\n"
    "bench: memory and speed of full weights, LoRA and merged weights, for batches of 64\n"
    "  --out DIR         where the networks' configurations go (mnist.out)\n"
    "  --rank N          of LoRA (8)\n"
    "  --passes N        forward passes, at most 10000 (1000)\n"
    "  --steps N         training steps, at most 10000 (100)\n"
    "  --no-medium       without 784-2048-1024-10\n";

/* A whole number from `low` on; false for anything else. */
static bool whole(const char *text, int64_t low, int64_t *out) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    *out = value;
    return *text && !*end && !errno && value >= low && value <= 1000000000;
}

/* False when the value is none of that option's. */
static bool take(int key, const char *value, settings *s) {
    switch (key) {
    case 'd': s->data = value; return true;
    case 'o': s->out = value; return true;
    case 'p': s->picture = value; return true;
    case 'r': return whole(value, 1, &s->rank);
    case 'e': return whole(value, 1, &s->epochs);
    case 'b': return whole(value, 1, &s->base_epochs);
    case 'l': return whole(value, 0, &s->limit);
    case 's': return whole(value, 0, &s->seed);
    case 'n': return whole(value, 0, &s->samples);
    case 'w': return whole(value, 0, &s->shown);
    case 'f': return whole(value, 1, &s->passes);
    case 't': return whole(value, 1, &s->steps);
    case 'a': s->full = false; return true;
    case 'm': s->medium = false; return true;
    default: return false;
    }
}

/* Which options belong to which sub-command. */
typedef struct command {
    const char *name, *keys;
    bool (*run)(const settings *s);
} command;
static const command commands[] = {{"train", "doreblsa", train}, {"infer", "dopnw", infer}, {"bench", "orftm", bench}};

static const struct option names[] = {{"data", required_argument, 0, 'd'},    {"out", required_argument, 0, 'o'},
                                      {"picture", required_argument, 0, 'p'}, {"rank", required_argument, 0, 'r'},
                                      {"epochs", required_argument, 0, 'e'},  {"base-epochs", required_argument, 0, 'b'},
                                      {"limit", required_argument, 0, 'l'},   {"seed", required_argument, 0, 's'},
                                      {"samples", required_argument, 0, 'n'}, {"shown", required_argument, 0, 'w'},
                                      {"passes", required_argument, 0, 'f'},  {"steps", required_argument, 0, 't'},
                                      {"no-full", no_argument, 0, 'a'},       {"no-medium", no_argument, 0, 'm'},
                                      {"help", no_argument, 0, 'h'},          {0}};

/* -1 to go on, else the exit code. */
static int read_options(int argc, char **argv, const command *c, settings *s) {
    for (int key, at = 0; (key = getopt_long(argc, argv, "", names, &at)) != -1;) {
        if (key == '?')
            return 2;
        if (key == 'h') {
            printf("%s", usage);
            return 0;
        }
        if (!strchr(c->keys, key)) {
            fprintf(stderr, "mnist: %s has no option --%s; see --help\n", c->name, names[at].name);
            return 2;
        }
        if (!take(key, optarg, s)) {
            fprintf(stderr, "mnist: --%s cannot be '%s'; see --help\n", names[at].name, optarg);
            return 2;
        }
    }
    if (optind < argc)
        fprintf(stderr, "mnist: '%s' is no option; see --help\n", argv[optind]);
    return optind < argc ? 2 : -1;
}

int main(int argc, char **argv) {
    settings s = {.data = "digits",
                  .out = "mnist.out",
                  .rank = 8,
                  .epochs = 3,
                  .base_epochs = 3,
                  .samples = 10,
                  .shown = 3,
                  .passes = 1000,
                  .steps = 100,
                  .full = true,
                  .medium = true};
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        int code = read_options(argc - 1, argv + 1, &commands[i], &s);
        return code >= 0 ? code : !commands[i].run(&s);
    }
    bool asked = argc > 1 && strcmp(argv[1], "--help") == 0;
    fprintf(asked ? stdout : stderr, "%s", usage);
    return asked ? 0 : 2;
}
