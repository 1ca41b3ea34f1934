/* Pretrained weights become LoRA models: a base as it is, and a fine-tuned checkpoint by what it changed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tour.h"

static const int64_t ranks[] = {2, 8, 32};
enum { RANKS = sizeof ranks / sizeof *ranks };

static double largest_difference(const float *a, const float *b, int64_t count) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)a[i] - b[i]));
    return largest;
}

/* A fresh adapter changes nothing, with LoRA's own start exactly, with PiSSA's (which takes the main directions out of the
 * base) up to rounding. */
static bool show_fresh(const tour *t, const char *init, const float *before, float *after) {
    const tn_feature_set *test = &t->tasks[UPRIGHT].test;
    tn_adapter_options options = {0};
    tn_adapter_info info;
    tn_model *model = NULL;
    tn_adapter_options_default(&options);
    options.init = init;
    options.rank = t->s.rank;
    options.target_modules = "fc1,fc2";
    bool good = ok(tn_model_load(t->base, &model)) && ok(tn_model_add_adapter(model, &options, t->s.seed)) &&
                ok(tn_model_describe_adapter(model, &info)) && ok(tn_predict(model, test->x, test->count, after));
    if (good)
        printf("  base -> LoRA, init %-9s %lld layers, %lld trained; largest change of %lld outputs: %.3g\n", init,
               (long long)info.modules, (long long)info.parameters, (long long)(test->count * CLASSES),
               largest_difference(before, after, test->count * CLASSES));
    tn_model_free(model);
    return good;
}

static bool convert_base(const tour *t) {
    const tn_feature_set *test = &t->tasks[UPRIGHT].test;
    size_t numbers = (size_t)test->count * CLASSES;
    float *rows = calloc(2 * numbers, sizeof *rows);
    tn_model *model = NULL;
    bool good = rows || complain("out of memory for", "outputs");
    good = good && ok(tn_model_load(t->base, &model)) && ok(tn_predict(model, test->x, test->count, rows)) &&
           show_fresh(t, "kaiming", rows, rows + numbers) && show_fresh(t, "pissa", rows, rows + numbers);
    tn_model_free(model);
    free(rows);
    return good;
}

static bool extract(const tour *t, const char *tuned, int64_t rank) {
    tn_extract_options options = {0};
    tn_low_rank_report report = {0};
    char name[64], dir[PATH];
    tn_model *model = NULL;
    double accuracy = NAN;
    tn_extract_options_default(&options);
    options.rank = rank;
    options.keep_rest = true; /* the biases, which are no matrices, go along whole */
    snprintf(name, sizeof name, "extracted-%lld", (long long)rank);
    if (!join(dir, t->s.out, name) || !ok(tn_extract_adapter(t->base, tuned, &options, dir, &report)))
        return false;
    if (ok(tn_model_load(t->base, &model)) && ok(tn_model_load_adapter(model, dir, false, false)))
        accuracy = accuracy_of(model, &t->tasks[TURNED]);
    if (!isnan(accuracy))
        printf("    LoRA of rank %-3lld %7lld numbers, keeps %5.1f %% of the change, accuracy %5.1f %%\n", (long long)rank,
               (long long)report.parameters, 100 * tn_low_rank_energy(report.error), 100 * accuracy);
    tn_low_rank_report_free(&report);
    tn_model_free(model);
    return !isnan(accuracy);
}

static bool convert_tuned(const tour *t) {
    char tuned[PATH];
    tn_model *model = NULL;
    double accuracy = NAN;
    if (!join(tuned, t->s.out, "full") || !train_full(t, &t->tasks[TURNED], tuned))
        return false;
    if (ok(tn_model_load(tuned, &model)))
        accuracy = accuracy_of(model, &t->tasks[TURNED]);
    tn_model_free(model);
    if (isnan(accuracy))
        return false;
    printf("  fine-tuned in full on turned digits: accuracy %.1f %%; its difference from the base by truncated SVD:\n",
           100 * accuracy);
    for (int i = 0; i < RANKS; i++)
        if (!extract(t, tuned, ranks[i]))
            return false;
    return true;
}

bool convert_weights(const tour *t) {
    printf("\n== Pretrained weights converted\n\n");
    return convert_base(t) && convert_tuned(t);
}
