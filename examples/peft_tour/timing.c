/* What an adapter costs while it is not merged. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tour.h"

enum { VARIANTS = 4, SIZES = 2, MOST_ROUNDS = 1000 };
static const int64_t sizes[SIZES] = {1, 256};
static const char *const names[VARIANTS] = {"base", "LoRA, unmerged", "DoRA, unmerged", "LoRA, merged"};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* In turns, so that what else the machine does falls on all of them alike. seconds [VARIANTS][rounds]. */
static bool time_all(tn_model *const models[VARIANTS], const tn_feature_set *set, int64_t rows, int64_t rounds,
                     float *outputs, double *seconds) {
    for (int64_t r = -1; r < rounds; r++)
        for (int v = 0; v < VARIANTS; v++) {
            double start = now();
            if (!ok(tn_predict(models[v], set->x, rows, outputs)))
                return false;
            if (r >= 0) /* the first round is to warm up */
                seconds[v * rounds + r] = now() - start;
        }
    for (int v = 0; v < VARIANTS; v++)
        qsort(seconds + v * rounds, (size_t)rounds, sizeof *seconds, compare);
    return true;
}

static bool open_models(const tour *t, tn_model *models[VARIANTS], tn_merge_report *merged) {
    char lora[PATH], dora[PATH], dir[PATH];
    return join(lora, t->s.out, "LoRA") && join(dora, t->s.out, "DoRA") && join(dir, t->s.out, "merged") &&
           ok(tn_model_load(t->base, &models[0])) && ok(tn_model_load(t->base, &models[1])) &&
           ok(tn_model_load(t->base, &models[2])) && ok(tn_model_load_adapter(models[1], lora, false, false)) &&
           ok(tn_model_load_adapter(models[2], dora, false, false)) && ok(tn_model_merge(models[1], dir, "f32", merged)) &&
           ok(tn_model_load(dir, &models[3]));
}

static bool time_models(const tour *t, tn_model *const models[VARIANTS]) {
    const tn_feature_set *set = &t->tasks[TURNED].test;
    int64_t rounds = t->s.rounds < MOST_ROUNDS ? t->s.rounds : MOST_ROUNDS;
    double *seconds = calloc((size_t)(VARIANTS * rounds), sizeof *seconds);
    float *outputs = calloc((size_t)(sizes[SIZES - 1] * CLASSES), sizeof *outputs);
    bool good = (seconds && outputs) || complain("out of memory for", "timing");
    printf("  %-16s %12s %12s %11s   (%lld rounds in turns)\n", "", "best", "median", "best / base", (long long)rounds);
    for (int i = 0; i < SIZES && good; i++) {
        int64_t rows = sizes[i] < set->count ? sizes[i] : set->count;
        good = time_all(models, set, rows, rounds, outputs, seconds);
        printf("  batches of %lld\n", (long long)rows);
        for (int v = 0; v < VARIANTS && good; v++) {
            const double *own = seconds + v * rounds;
            printf("  %-16s %9.1f us %9.1f us %11.2f\n", names[v], 1e6 * own[0], 1e6 * own[rounds / 2], own[0] / seconds[0]);
        }
    }
    free(seconds);
    free(outputs);
    return good;
}

bool time_merged(const tour *t) {
    tn_model *models[VARIANTS] = {NULL};
    tn_merge_report merged;
    printf("\n== Merged and unmerged\n\n");
    bool good = open_models(t, models, &merged);
    if (good) {
        printf("  %lld layers merged; largest difference of an output: %.3g\n\n", (long long)merged.modules,
               merged.logit_difference);
        good = time_models(t, models);
    }
    for (int v = 0; v < VARIANTS; v++)
        tn_model_free(models[v]);
    return good;
}
