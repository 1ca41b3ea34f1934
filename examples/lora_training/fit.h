/* What lora_training does with a model: makes it, fits it, measures it, merges it. Functions that return false have said
 * why on the standard error stream. */
#ifndef LORA_TRAINING_FIT_H
#define LORA_TRAINING_FIT_H

#include "tasks.h"

enum { PATH = 1024, NAME = 64, MOST_LAYERS = 16 };

typedef struct settings {
    int64_t rank, epochs, conv_epochs, rank_epochs, batch_size, every;
    int64_t base_epochs; /* 0: the task's */
    double alpha, rate;
    uint64_t seed;
    bool dense, conv;
    bool utf8;
    const char *out;
} settings;

/* A layer with weights: the base's matrix [out, in] (a convolution's with in = channels x kernel) and its bias. */
typedef struct layer {
    char name[NAME];
    int64_t out, in, parameters;
} layer;

typedef struct layers {
    layer items[MOST_LAYERS];
    int count;
    int64_t parameters;
} layers;

/* Says what went wrong where it did; the caller only has to stop. */
bool ok(tn_status status);

/* "101,386" into `out`, which is returned. */
enum { COUNT_TEXT = 32 };
const char *count_text(char out[COUNT_TEXT], int64_t count);

/* Trains a network with random weights in full on the problem before and saves it to `dir`. */
bool make_base(const settings *s, const task *t, const char *dir);

/* The layers of the base, found by asking for a training of everything. */
bool find_layers(const char *base, layers *out);

/* Puts a fresh LoRA on all layers of the task. A layer gets no more rank than its matrix has. */
bool add_lora(tn_model *model, const settings *s, const task *t, const layers *l, int64_t rank, double alpha);

/* A run as it goes: sums of the epoch at hand, and what the library planned for it. */
typedef struct progress {
    int64_t every; /* epochs from one printed line to the next; 0: nothing is printed */
    int64_t steps, per_epoch, samples;
    double loss, norm, seconds;
    double first_loss, last_loss, fastest, slowest, total; /* of epochs: mean losses, seconds */
    tn_train_plan plan;
} progress;

/* Trains what is on the model on the task; `result` may be NULL. */
bool fit(tn_model *model, const settings *s, const task *t, int64_t epochs, int64_t every, const char *dir, progress *p,
         tn_train_result *result);

bool accuracy_of(tn_model *model, const tn_feature_set *set, double *loss, double *accuracy);

/* Merges the adapter into a checkpoint, loads that and compares the outputs for all validation samples. */
bool merge(tn_model *model, const task *t, const char *dir);

#endif
