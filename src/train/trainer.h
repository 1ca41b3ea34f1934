/* The parts of a run that tn_train and tn_plan share: data, order, sizes and the plan. */
#ifndef TN_TRAIN_TRAINER_H
#define TN_TRAIN_TRAINER_H

#include <tenon/train.h>

#include "session/session.h"
#include "train/optimizer.h"
#include "train/schedule.h"

typedef struct tn_trainer {
    tn_model *model;
    const tn_train_options *options;
    const tn_train_callbacks *callbacks; /* never NULL; its members may be */
    tn_schedule schedule;
    tn_dataset train, valid;
    tn_order order, valid_order;
    tn_batch_builder builder; /* for the largest batch of both */
    tn_span *spans;           /* [largest number of sequences] */
    float *losses;            /* [largest number of labels] */
    int64_t steps;
    int64_t part_tokens;  /* of a micro-batch that go through the model at once, unless a sequence is longer */
    int64_t largest_part; /* tokens of the largest one that there is */
    tn_checkpointing checkpointing;
    int64_t heap_bytes;
    tn_tape tape;
    tn_optimizer optimizer;
    char *settings; /* what resuming compares */
    tn_buf sample;
} tn_trainer;

/* Checks model and options. Free with tn_trainer_free also after a failure. */
tn_status tn_trainer_init(tn_trainer *trainer, tn_model *model, const tn_train_options *options,
                          const tn_train_callbacks *callbacks);

/* Reads the data, fixes their order and the number of steps. */
tn_status tn_trainer_load(tn_trainer *trainer);
void tn_trainer_free(tn_trainer *trainer);

/* Rehearses the largest passes, decides activation checkpointing, fills the plan (`calibrate`: measures the machine
 * briefly). */
tn_status tn_trainer_plan(tn_trainer *trainer, bool calibrate, tn_train_plan *plan);

/* Whether activations are recomputed: `wish` is "auto", "on" or "off", `heap` the bytes of a step that keeps them. */
tn_status tn_checkpointing_choose(const char *wish, int64_t heap, tn_checkpointing *out);

/* Mean loss over the validation set; an error when it is not finite. */
tn_status tn_trainer_validate(tn_trainer *trainer, double *loss);

/* metrics.c: the record of a run. */
typedef struct tn_metrics {
    FILE *file; /* out/metrics.jsonl */
    double *steps, *losses, *rates, *norms, *valid_steps, *valid_losses;
    int64_t count, capacity, valid_count, valid_capacity;
} tn_metrics;

/* Opens out/metrics.jsonl cut to `bytes` (0: from the start) and reads back what it keeps. */
tn_status tn_metrics_open(tn_metrics *metrics, const char *out_dir, int64_t bytes);
tn_status tn_metrics_step(tn_metrics *metrics, const tn_train_step *step, bool logged);
tn_status tn_metrics_validation(tn_metrics *metrics, int64_t step, double loss);
/* Flushes and syncs; *bytes is the length so far. */
tn_status tn_metrics_sync(tn_metrics *metrics, int64_t *bytes);
void tn_metrics_free(tn_metrics *metrics);

/* out/report.html */
tn_status tn_metrics_report(const tn_metrics *metrics, const char *out_dir, const tn_train_plan *plan,
                            const tn_train_result *result, const char *model_dir);

#endif
