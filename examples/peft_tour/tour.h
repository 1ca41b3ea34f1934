/* What the stations of the tour share. Functions that return false have said on standard error why. */
#ifndef TOUR_H
#define TOUR_H

#include <tenon/tenon.h>

enum { PATH = 1024, CLASSES = 10, PIXELS = 784 };

typedef struct settings {
    const char *data, *out;
    int64_t rank, samples, tests, base_epochs, epochs, rounds;
    double alpha, lr, ratio;
    uint64_t seed;
} settings;

/* Digits to learn a task from, and others to see whether it was learnt. */
typedef struct task {
    const char *name;
    tn_feature_set train, test; /* parts of what is owned */
    tn_feature_set owned_train, owned_test;
} task;

enum { UPRIGHT, TURNED, CLASSES_4_5, CLASSES_6_7, CLASSES_8_9, TASKS };

typedef struct tour {
    settings s;
    task tasks[TASKS];
    char base[PATH]; /* folder of the base, trained on the upright digits 0 to 3 */
} tour;

/* How an adapter is made and trained; NULL and 0: as LoRA is, by the settings. */
typedef struct recipe {
    const char *name; /* of its folder */
    const char *method, *init;
    double lr, ratio; /* ratio: of LoRA+ */
} recipe;

bool ok(tn_status status); /* prints the library's message when there is one to print */
bool complain(const char *what, const char *where);
bool join(char out[PATH], const char *folder, const char *name); /* folder/name */
bool make_folder(const char *path);
double accuracy_of(tn_model *model, const task *t); /* NaN after a failure */

/* tasks.c */
bool open_tour(tour *t);
void close_tour(tour *t);

/* training.c: the base, and an adapter on it, which goes to OUT/name; model is the caller's to free, also on failure.
 * result may be NULL. */
bool train_base(tour *t);
bool train_adapter(const tour *t, const task *on, const recipe *how, tn_model **model, tn_train_result *result);
bool train_full(const tour *t, const task *on, const char *dir);

/* chart.c: curves over a common axis, one mark each. */
typedef struct curve {
    const char *name;
    char mark;
    const double *x, *y;
    int64_t count;
} curve;
void draw_curves(const curve *curves, int count, const char *x_name, const char *y_name);

/* The stations. */
bool compare_methods(const tour *t);
bool convert_weights(const tour *t);
bool compose_tasks(const tour *t);
bool time_merged(const tour *t);
bool show_memory(const tour *t);

#endif
