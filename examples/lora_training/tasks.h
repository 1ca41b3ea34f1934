/* The two problems that lora_training solves, each with the one before it that the base is trained on. */
#ifndef LORA_TRAINING_TASKS_H
#define LORA_TRAINING_TASKS_H

#include <tenon/tenon.h>

enum { TRAIN_SAMPLES = 1000, VALID_SAMPLES = 200, DENSE_BASE_SAMPLES = 4000, CONV_BASE_SAMPLES = 2000 };

typedef struct task {
    const char *name, *title, *base_story, *story;
    const char *config;  /* of the network, as config.json */
    const char *targets; /* layers that get an update: all with weights */
    double base_rate;
    int64_t base_epochs;
    tn_feature_set base, base_valid; /* the problem before */
    tn_feature_set train, valid;     /* the one to adapt to */
} task;

/* Vectors of 128 numbers in ten classes, drawn by `seed`, for a network 128-256-256-10. Two clusters of normal numbers make
 * a class; the problem to adapt to is the same after turning the pairs of coordinates (i, i + 64) by sixty degrees. False
 * without memory. */
bool make_dense_task(task *out, uint64_t seed);

/* Drawn digits for three convolutions and a linear layer; those to adapt to are inverted. False, with the words in
 * tn_error_message, when they could not be drawn. */
bool make_conv_task(task *out, uint64_t seed);

void free_task(task *t);

#endif
