/* A tour of parameter-efficient fine-tuning on digits: methods and how they converge, conversion, composition, merging,
 * memory.
 *
 *     cc *.c $(pkg-config --cflags --libs tenon) -lm -o peft_tour && ./peft_tour
 */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tour.h"

bool ok(tn_status status) {
    if (status != TN_OK)
        fprintf(stderr, "peft_tour: %s\n", tn_error_message());
    return status == TN_OK;
}

bool complain(const char *what, const char *where) {
    fprintf(stderr, "peft_tour: %s %s%s%s\n", what, where, errno ? ": " : "", errno ? strerror(errno) : "");
    return false;
}

bool join(char out[PATH], const char *folder, const char *name) {
    int length = snprintf(out, PATH, "%s/%s", folder, name);
    if (length < 0 || length >= PATH)
        fprintf(stderr, "peft_tour: the path %s/%s is too long\n", folder, name);
    return length >= 0 && length < PATH;
}

bool make_folder(const char *path) {
    return mkdir(path, 0777) == 0 || errno == EEXIST || complain("cannot make the folder", path);
}

static void print_help(void) {
    printf(
        "usage: peft_tour [options]\n"
        "Trains a small network on digits and shows on it what adapters do: LoRA, DoRA and LoRA+, conversion, composition,\n"
        "merging, memory.\n\n"
        "  --rank N          of the adapters, from 1 to 128 (8)\n"
        "  --alpha X         the update is scaled by alpha / rank (16)\n"
        "  --lr X            of the adapters (5e-4)\n"
        "  --ratio X         LoRA+: learning rate of B over that of A (16)\n"
        "  --epochs N        of each adapter (6)\n"
        "  --base-epochs N   of the base (6)\n"
        "  --samples N       to train each with (2000)\n"
        "  --tests N         to measure each with (500)\n"
        "  --rounds N        of timing (200)\n"
        "  --data DIR        MNIST's files; digits: drawn ones (digits)\n"
        "  --seed N          (1)\n"
        "  --out DIR         where the models go (peft_tour.out)\n");
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

/* False when the value is none of that option's. */
static bool take(int key, const char *value, settings *s) {
    int64_t number = whole(value);
    double x = real(value);
    switch (key) {
    case 'd': s->data = value; return true;
    case 'o': s->out = value; return true;
    case 'r': s->rank = number; return number > 0;
    case 'a': s->alpha = x; return x > 0;
    case 'l': s->lr = x; return x > 0;
    case 'x': s->ratio = x; return x > 0;
    case 'e': s->epochs = number; return number > 0;
    case 'b': s->base_epochs = number; return number > 0;
    case 'n': s->samples = number; return number > 0;
    case 't': s->tests = number; return number > 0;
    case 'i': s->rounds = number; return number > 0;
    case 's': s->seed = (uint64_t)number; return number >= 0;
    default: return false;
    }
}

/* -1 to go on, else the exit code. What is out of range for the library is its to say. */
static int read_options(int argc, char **argv, settings *s) {
    static const struct option names[] = {{"data", required_argument, 0, 'd'},
                                          {"out", required_argument, 0, 'o'},
                                          {"rank", required_argument, 0, 'r'},
                                          {"alpha", required_argument, 0, 'a'},
                                          {"lr", required_argument, 0, 'l'},
                                          {"ratio", required_argument, 0, 'x'},
                                          {"epochs", required_argument, 0, 'e'},
                                          {"samples", required_argument, 0, 'n'},
                                          {"base-epochs", required_argument, 0, 'b'},
                                          {"tests", required_argument, 0, 't'},
                                          {"rounds", required_argument, 0, 'i'},
                                          {"seed", required_argument, 0, 's'},
                                          {"help", no_argument, 0, 'h'},
                                          {0}};
    for (int key, at; at = 0, (key = getopt_long(argc, argv, "", names, &at)) != -1;) {
        if (key == '?')
            return 2;
        if (key == 'h') {
            print_help();
            return 0;
        }
        if (!take(key, optarg, s)) {
            fprintf(stderr, "peft_tour: --%s cannot be '%s'; see --help\n", names[at].name, optarg);
            return 2;
        }
    }
    if (optind < argc)
        fprintf(stderr, "peft_tour: '%s' is no option; see --help\n", argv[optind]);
    return optind < argc ? 2 : -1;
}

int main(int argc, char **argv) {
    tour t = {.s = {.data = "digits",
                    .out = "peft_tour.out",
                    .rank = 8,
                    .samples = 2000,
                    .tests = 500,
                    .base_epochs = 6,
                    .epochs = 6,
                    .rounds = 200,
                    .alpha = 16,
                    .lr = 5e-4,
                    .ratio = 16,
                    .seed = 1}};
    int code = read_options(argc, argv, &t.s);
    if (code >= 0)
        return code;
    bool good = open_tour(&t) && train_base(&t) && compare_methods(&t) && convert_weights(&t) && compose_tasks(&t) &&
                time_merged(&t) && show_memory(&t);
    if (good)
        printf("\nEverything made on the way is in %s, the adapters as PEFT folders.\n", t.s.out);
    close_tour(&t);
    return good ? 0 : 1;
}
