/* One set of digits seen in five ways. */
#include "tour.h"

#include <math.h>
#include <stdio.h>

static const char CONFIG[] =
    "{\"model_type\": \"sequential\", \"task\": \"classification\", \"input_shape\": [1, 28, 28], \"layers\": [\n"
    "  {\"type\": \"flatten\"},\n"
    "  {\"type\": \"linear\", \"name\": \"fc1\", \"out_features\": 256}, {\"type\": \"relu\"},\n"
    "  {\"type\": \"linear\", \"name\": \"fc2\", \"out_features\": 128}, {\"type\": \"relu\"},\n"
    "  {\"type\": \"linear\", \"name\": \"fc3\", \"out_features\": 10}]}\n";

/* The base knows four classes. Three tasks teach it two more each, and are trained with the four, so as not to forget them.
 */
static const int32_t known[] = {0, 1, 2, 3}, with_4_5[] = {0, 1, 2, 3, 4, 5}, with_6_7[] = {0, 1, 2, 3, 6, 7},
                     with_8_9[] = {0, 1, 2, 3, 8, 9};

typedef struct view {
    const char *name;
    const int32_t *classes;
    size_t count, new_classes; /* the last ones, which alone are tested; 0: all are */
    int quarter_turns;
} view;

static const view views[TASKS] = {
    [UPRIGHT] = {"upright 0-3", known, 4, 0, 0},     [TURNED] = {"turned 0-3", known, 4, 0, 1},
    [CLASSES_4_5] = {"new 4, 5", with_4_5, 6, 2, 0}, [CLASSES_6_7] = {"new 6, 7", with_6_7, 6, 2, 0},
    [CLASSES_8_9] = {"new 8, 9", with_8_9, 6, 2, 0},
};

static tn_feature_set first_of(const tn_feature_set *set, int64_t count) {
    tn_feature_set part = *set;
    part.count = count < set->count ? count : set->count;
    part.owner = NULL;
    return part;
}

static bool load_task(const tn_model *model, const settings *s, const view *v, task *out) {
    const tn_feature_options train = {.keep_classes = v->classes, .keep_count = v->count, .quarter_turns = v->quarter_turns};
    tn_feature_options test = train;
    if (v->new_classes) {
        test.keep_classes += v->count - v->new_classes;
        test.keep_count = v->new_classes;
    }
    if (!ok(tn_feature_set_load(model, s->data, TN_FEATURE_TRAIN, &train, &out->owned_train)) ||
        !ok(tn_feature_set_load(model, s->data, TN_FEATURE_TEST, &test, &out->owned_test)))
        return false;
    out->name = v->name;
    out->train = first_of(&out->owned_train, s->samples);
    out->test = first_of(&out->owned_test, s->tests);
    return true;
}

static bool write_config(const char *path) {
    FILE *file = fopen(path, "w");
    bool good = file && fputs(CONFIG, file) >= 0;
    if (file && fclose(file) != 0)
        good = false;
    return good || complain("cannot write", path);
}

bool open_tour(tour *t) {
    char config[PATH];
    tn_model *model = NULL;
    bool good = make_folder(t->s.out) && join(config, t->s.out, "config.json") && join(t->base, t->s.out, "base") &&
                write_config(config) && ok(tn_model_create(config, t->s.seed, &model));
    for (int i = 0; i < TASKS && good; i++)
        good = load_task(model, &t->s, &views[i], &t->tasks[i]);
    tn_model_free(model);
    return good;
}

void close_tour(tour *t) {
    for (int i = 0; i < TASKS; i++) {
        tn_feature_set_free(&t->tasks[i].owned_train);
        tn_feature_set_free(&t->tasks[i].owned_test);
    }
}

double accuracy_of(tn_model *model, const task *t) {
    tn_feature_evaluation found;
    if (!ok(tn_evaluate_features(model, &t->test, 0, &found)))
        return NAN;
    double accuracy = found.accuracy;
    tn_feature_evaluation_free(&found);
    return accuracy;
}
