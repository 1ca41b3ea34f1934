#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "llm_lora.h"

static void print_help(void) {
    printf("usage: llm_lora [options]\n"
           "Fine-tunes a language model with LoRA on its query and value projections, saves the adapter, loads it into a\n"
           "new one, and swaps adapters while generating. Run it from the top folder, or name model and data.\n\n"
           "  --model DIR       config.json, *.safetensors and tokenizer.json (assets/base-model)\n"
           "  --data DIR        train.jsonl, valid.jsonl and test.jsonl of prompts and completions (assets/sql)\n"
           "  --out DIR         where the adapters go (llm_lora.out)\n"
           "  --rank N          (16)\n"
           "  --alpha X         the update is scaled by alpha / rank (32)\n"
           "  --steps N         of the optimiser, for the first adapter (200)\n"
           "  --style-steps N   for the second one, which starts from the first (100)\n"
           "  --warmup N        steps in which the learning rate rises, before it falls as a cosine (20)\n"
           "  --lr X            its highest value (6e-3)\n"
           "  --clip X          largest norm of the gradient; 0: any (1)\n"
           "  --batch N         samples per step (16)\n"
           "  --samples N       of test.jsonl, to measure with (60)\n"
           "  --prompt TEXT     shown with each adapter (a question about a table)\n"
           "  --seed N          (1)\n");
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
    case 'm': s->model = value; return true;
    case 'd': s->data = value; return true;
    case 'o': s->out = value; return true;
    case 'p': s->prompt = value; return value[0] != 0;
    case 'r': s->rank = number; return number > 0;
    case 'a': s->alpha = x; return x > 0;
    case 's': s->steps = number; return number > 0;
    case 't': s->style_steps = number; return number > 0;
    case 'w': s->warmup = number; return number >= 0;
    case 'l': s->lr = x; return x > 0;
    case 'c': s->clip = x; return x >= 0;
    case 'b': s->batch = number; return number > 0;
    case 'n': s->samples = number; return number > 0;
    case 'e': s->seed = (uint64_t)number; return number >= 0;
    default: return false;
    }
}

int read_options(int argc, char **argv, settings *s) {
    static const struct option names[] = {{"model", required_argument, 0, 'm'},       {"data", required_argument, 0, 'd'},
                                          {"out", required_argument, 0, 'o'},         {"prompt", required_argument, 0, 'p'},
                                          {"rank", required_argument, 0, 'r'},        {"alpha", required_argument, 0, 'a'},
                                          {"steps", required_argument, 0, 's'},       {"warmup", required_argument, 0, 'w'},
                                          {"style-steps", required_argument, 0, 't'}, {"lr", required_argument, 0, 'l'},
                                          {"clip", required_argument, 0, 'c'},        {"batch", required_argument, 0, 'b'},
                                          {"seed", required_argument, 0, 'e'},        {"help", no_argument, 0, 'h'},
                                          {"samples", required_argument, 0, 'n'},     {0}};
    for (int key, at; at = 0, (key = getopt_long(argc, argv, "", names, &at)) != -1;) {
        if (key == '?')
            return 2;
        if (key == 'h') {
            print_help();
            return 0;
        }
        if (!take(key, optarg, s)) {
            fprintf(stderr, "llm_lora: --%s cannot be '%s'; see --help\n", names[at].name, optarg);
            return 2;
        }
    }
    if (optind < argc)
        fprintf(stderr, "llm_lora: '%s' is no option; see --help\n", argv[optind]);
    return optind < argc ? 2 : -1;
}
