/* Training with LoRA, watched closely: what is trained in each layer, losses, gradients and time of every epoch, the curve,
 * merging, and what each rank costs and reaches; for a dense and for a convolutional network.
 *
 *     cc *.c $(pkg-config --cflags --libs tenon) -lm -o lora_training && ./lora_training
 */
#include <errno.h>
#include <getopt.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tables.h"

enum { CURVE_WIDTH = 100, CURVE_HEIGHT = 16, THREADS = 1 /* products this small gain nothing from more */ };

static bool print_base(const task *t, const char *base) {
    double loss, accuracy, shifted_loss, shifted;
    tn_model *model;
    if (!ok(tn_model_load(base, &model)))
        return false;
    bool good =
        accuracy_of(model, &t->base_valid, &loss, &accuracy) && accuracy_of(model, &t->valid, &shifted_loss, &shifted);
    if (good)
        printf("%s\n"
               "  base: trained on %lld %s; accuracy %.1f %% on %lld others\n"
               "  to learn: %s, of which it gets %.1f %%\n\n",
               t->title, (long long)t->base.count, t->base_story, 100 * accuracy, (long long)t->base_valid.count, t->story,
               100 * shifted);
    tn_model_free(model);
    return good;
}

static bool print_summary(const settings *s, const progress *p, const tn_train_result *r, int64_t epochs, double before,
                          double after) {
    char *curve;
    printf("\nSummary: %lld epochs of %lld steps on %lld samples, %lld for validation\n", (long long)epochs,
           (long long)p->per_epoch, (long long)p->plan.train_samples, (long long)p->plan.valid_samples);
    printf("  training loss    %.4f in the first epoch, %.4f in the last\n", p->first_loss, p->last_loss);
    printf("  validation loss  %.4f at the end, best %.4f after epoch %lld\n", r->valid_loss, r->best_valid_loss,
           (long long)(r->best_valid_step / p->per_epoch));
    printf("  accuracy         %.1f %% before, %.1f %% after\n", 100 * before, 100 * after);
    printf("  time             %.2f s of steps, %.1f ms an epoch, from %.1f to %.1f; %.2f s with validation\n", p->total,
           1e3 * p->total / (double)epochs, 1e3 * p->fastest, 1e3 * p->slowest, r->seconds);
    printf("  memory           trained %.1f kB, gradients %.1f kB, optimiser %.1f kB, activations of a step %.1f kB\n\n",
           (double)p->plan.adapter_bytes / 1e3, (double)p->plan.gradient_bytes / 1e3, (double)p->plan.optimizer_bytes / 1e3,
           (double)p->plan.activation_bytes / 1e3);
    if (!ok(tn_train_curve(r, CURVE_WIDTH, CURVE_HEIGHT, s->utf8, &curve)))
        return false;
    printf("Loss by step\n%s\n", curve);
    tn_free_text(curve);
    return true;
}

static bool adapt(tn_model *model, const settings *s, const task *t, const layers *l, int64_t epochs, const char *dir) {
    char adapter[PATH + NAME], merged[PATH + NAME];
    double loss, before, after;
    progress p;
    tn_train_result result;
    snprintf(adapter, sizeof adapter, "%s/adapter", dir);
    snprintf(merged, sizeof merged, "%s/merged", dir);
    if (!accuracy_of(model, &t->valid, &loss, &before) || !add_lora(model, s, t, l, s->rank, s->alpha))
        return false;
    printf("LoRA of rank %lld, alpha %g, on %s\n", (long long)s->rank, s->alpha, t->targets);
    if (!print_layers(model, l))
        return false;
    printf("\n");
    if (!fit(model, s, t, epochs, s->every, adapter, &p, &result))
        return false;
    bool good = accuracy_of(model, &t->valid, &loss, &after) && print_summary(s, &p, &result, epochs, before, after) &&
                merge(model, t, merged);
    tn_train_result_free(&result);
    return good;
}

static bool run_task(const settings *s, const task *t, int64_t epochs) {
    char dir[PATH], base[PATH];
    layers l;
    tn_model *model = NULL;
    snprintf(dir, sizeof dir, "%s/%s", s->out, t->name);
    snprintf(base, sizeof base, "%s/%s/base", s->out, t->name);
    bool good = make_base(s, t, base) && print_base(t, base) && find_layers(base, &l) && ok(tn_model_load(base, &model)) &&
                adapt(model, s, t, &l, epochs, dir) && print_ranks(s, t, &l, base, dir);
    tn_model_free(model);
    return good;
}

static bool run(const settings *s) {
    task t;
    bool good = true;
    if (s->dense) {
        good = make_dense_task(&t, s->seed) && run_task(s, &t, s->epochs);
        free_task(&t);
    }
    if (good && s->conv) {
        printf(s->dense ? "\n\n" : "");
        good = make_conv_task(&t, s->seed) && run_task(s, &t, s->conv_epochs);
        free_task(&t);
    }
    return good;
}

static void print_help(void) {
    printf("usage: lora_training [options]\n"
           "Adapts a dense and a convolutional network with LoRA and shows all there is to see.\n\n"
           "  --network NAME    dense, conv or both (both)\n"
           "  --rank N          (8)\n"
           "  --alpha X         the update is scaled by alpha / rank (16)\n"
           "  --epochs N        of the dense network's adapter (100)\n"
           "  --conv-epochs N   of the convolutional one's (30)\n"
           "  --base-epochs N   of the bases (10 for the dense, 6 for the convolutional one)\n"
           "  --rank-epochs N   of each row in the tables of ranks (10)\n"
           "  --every N         epochs from one line to the next (1)\n"
           "  --batch-size N    (32)\n"
           "  --lr X            learning rate of the adapters (0.002)\n"
           "  --seed N          of samples, weights and order (1)\n"
           "  --out DIR         where models and adapters go (lora_training.out)\n");
}

/* A whole number from 1 on, or 0. */
static int64_t whole(const char *text) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    return *text && !*end && !errno && value > 0 && value < 1000000000 ? value : 0;
}

static double positive(const char *text) {
    char *end;
    double value = strtod(text, &end);
    return *text && !*end && value > 0 && value < 1e6 ? value : 0;
}

static bool choose_network(settings *s, const char *name) {
    bool both = strcmp(name, "both") == 0;
    s->dense = both || strcmp(name, "dense") == 0;
    s->conv = both || strcmp(name, "conv") == 0;
    return s->dense || s->conv;
}

static bool set_option(settings *s, int key, const char *text) {
    int64_t *const numbers[] = {&s->rank,  &s->epochs,     &s->conv_epochs, &s->rank_epochs,
                                &s->every, &s->batch_size, &s->base_epochs};
    static const char keys[] = "recktbf";
    const char *at = strchr(keys, key);
    if (at)
        return (*numbers[at - keys] = whole(text)) > 0;
    switch (key) {
    case 'a': return (s->alpha = positive(text)) > 0;
    case 'l': return (s->rate = positive(text)) > 0;
    case 's': return (s->seed = (uint64_t)whole(text)) > 0;
    case 'o': s->out = text; return *text && strlen(text) < PATH / 2;
    default: return choose_network(s, text);
    }
}

/* -1 to go on, else the exit code. */
static int read_options(int argc, char **argv, settings *s) {
    static const struct option names[] = {{"network", required_argument, 0, 'n'},
                                          {"rank", required_argument, 0, 'r'},
                                          {"alpha", required_argument, 0, 'a'},
                                          {"epochs", required_argument, 0, 'e'},
                                          {"conv-epochs", required_argument, 0, 'c'},
                                          {"rank-epochs", required_argument, 0, 'k'},
                                          {"every", required_argument, 0, 't'},
                                          {"batch-size", required_argument, 0, 'b'},
                                          {"base-epochs", required_argument, 0, 'f'},
                                          {"lr", required_argument, 0, 'l'},
                                          {"seed", required_argument, 0, 's'},
                                          {"out", required_argument, 0, 'o'},
                                          {"help", no_argument, 0, 'h'},
                                          {0}};
    int key, index = 0;
    while ((key = getopt_long(argc, argv, "", names, &index)) != -1) {
        if (key == '?')
            return 2;
        if (key == 'h') {
            print_help();
            return 0;
        }
        if (!set_option(s, key, optarg)) {
            fprintf(stderr, "lora_training: --%s cannot be '%s'; see --help\n", names[index].name, optarg);
            return 2;
        }
    }
    if (optind == argc)
        return -1;
    fprintf(stderr, "lora_training: '%s' is no option; see --help\n", argv[optind]);
    return 2;
}

int main(int argc, char **argv) {
    settings s = {.rank = 8,
                  .alpha = 16,
                  .epochs = 100,
                  .conv_epochs = 30,
                  .rank_epochs = 10,
                  .every = 1,
                  .batch_size = 32,
                  .rate = 2e-3,
                  .seed = 1,
                  .dense = true,
                  .conv = true,
                  .out = "lora_training.out"};
    int code = read_options(argc, argv, &s);
    if (code >= 0)
        return code;
    setlocale(LC_CTYPE, "");
    s.utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    tn_set_threads(THREADS);
    return run(&s) ? 0 : 1;
}
