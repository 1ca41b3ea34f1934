/* Three adapters for three tasks, added up: as they are, and in smaller shares. */
#include <math.h>
#include <stdio.h>

#include "tour.h"

enum { PARTS = 3, SHOWN = 4 };
static const int parts[PARTS] = {CLASSES_4_5, CLASSES_6_7, CLASSES_8_9},
                 shown[SHOWN] = {UPRIGHT, CLASSES_4_5, CLASSES_6_7, CLASSES_8_9};
static const char *const folders[PARTS] = {"task-4-5", "task-6-7", "task-8-9"};
static const double weights_tried[] = {1, 0.7};

/* The last column is the mean of the three tasks. */
static bool print_accuracies(tn_model *model, const tour *t) {
    double sum = 0;
    for (int i = 0; i < SHOWN; i++) {
        double accuracy = accuracy_of(model, &t->tasks[shown[i]]);
        if (isnan(accuracy))
            return false;
        printf(" %10.1f %%", 100 * accuracy);
        sum += shown[i] == UPRIGHT ? 0 : accuracy;
    }
    printf(" %8.1f %%\n", 100 * sum / PARTS);
    return true;
}

static bool train_parts(const tour *t, char dirs[PARTS][PATH]) {
    for (int i = 0; i < PARTS; i++) {
        const recipe how = {.name = folders[i], .ratio = t->s.ratio};
        tn_model *model = NULL;
        bool good = join(dirs[i], t->s.out, folders[i]) && train_adapter(t, &t->tasks[parts[i]], &how, &model, NULL);
        if (good) {
            printf("  %-10s %6s %5lld %9s", folders[i], "alone", (long long)t->s.rank, "");
            good = print_accuracies(model, t);
        }
        tn_model_free(model);
        if (!good)
            return false;
    }
    return true;
}

/* The three by one of compose's modes, into a folder of its own. */
static bool compose(const tour *t, char dirs[PARTS][PATH], const char *mode, double weight) {
    const char *const from[PARTS] = {dirs[0], dirs[1], dirs[2]};
    const double weights[PARTS] = {weight, weight, weight};
    tn_compose_options options = {0};
    tn_low_rank_report report = {0};
    char name[64], dir[PATH];
    tn_model *model = NULL;
    tn_compose_options_default(&options);
    options.mode = mode;
    snprintf(name, sizeof name, "%s-%g", mode, weight);
    if (!join(dir, t->s.out, name) || !ok(tn_compose_adapters(from, weights, PARTS, t->base, &options, dir, &report)))
        return false;
    bool good = ok(tn_model_load(t->base, &model)) && ok(tn_model_load_adapter(model, dir, false, false));
    if (good) {
        printf("  %-10s %6g %5lld %9.1e", mode, weight, (long long)report.highest_rank, report.error);
        good = print_accuracies(model, t);
    }
    tn_low_rank_report_free(&report);
    tn_model_free(model);
    return good;
}

/* The sum without a file of its own: all three at work on one model. */
static bool sum_at_run_time(const tour *t, char dirs[PARTS][PATH], double weight) {
    const double weights[PARTS] = {weight, weight, weight};
    const tn_adapter_mix mix = {folders, weights, PARTS};
    tn_model *model = NULL;
    bool good = ok(tn_model_load(t->base, &model));
    for (int i = 0; i < PARTS && good; i++)
        good = ok(tn_model_attach_adapter(model, dirs[i], folders[i]));
    good = good && ok(tn_model_use_adapters(model, &mix));
    if (good) {
        printf("  %-10s %6g %5s %9s", "attached", weight, "", "");
        good = print_accuracies(model, t);
    }
    tn_model_free(model);
    return good;
}

bool compose_tasks(const tour *t) {
    /* concatenation and, by way of the SVD, its best approximation of an adapter's rank; the weighted sum of A and of B */
    static const char *const modes[] = {"cat", "svd", "linear"};
    char dirs[PARTS][PATH];
    printf("\n== Three task adapters composed; distance: |composed - exact sum| / |exact sum| of the weight changes\n\n");
    printf("  %-10s %6s %5s %9s", "mode", "weight", "rank", "distance");
    for (int i = 0; i < SHOWN; i++)
        printf(" %12s", t->tasks[shown[i]].name);
    printf(" %10s\n", "new, mean");
    bool good = train_parts(t, dirs);
    for (size_t w = 0; w < sizeof weights_tried / sizeof *weights_tried && good; w++) {
        for (size_t i = 0; i < sizeof modes / sizeof *modes && good; i++)
            good = compose(t, dirs, modes[i], weights_tried[w]);
        good = good && sum_at_run_time(t, dirs, weights_tried[w]);
    }
    return good;
}
