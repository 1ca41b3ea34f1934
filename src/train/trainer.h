/* The parts of a run that tn_train and tn_plan share: data, order, sizes and the plan. */
#ifndef TN_TRAIN_TRAINER_H
#define TN_TRAIN_TRAINER_H

#include <tenon/train.h>

#include "session/session.h"
#include "train/optimizer.h"
#include "train/schedule.h"

typedef struct tn_trainer tn_trainer;

/* What a pass over the validation data found. */
typedef struct tn_validation {
    double loss;
    double accuracy; /* share of samples whose class was found; NaN where there are no classes */
} tn_validation;

/* Where a run's samples come from. Micro-batches are numbered from 0 through all epochs. */
typedef struct tn_source {
    /* Reads the data; calls tn_trainer_set_steps once their number is known; sets data_hash and has_valid. */
    tn_status (*load)(tn_trainer *trainer);
    void (*free)(tn_trainer *trainer);

    /* Terms of a micro-batch's loss: labelled tokens, or samples. */
    int64_t (*terms)(tn_trainer *trainer, int64_t index);

    /* Forward and backward of a micro-batch: its losses are added in order to *loss_sum, the gradients of grad_scale times
     * their sum to the store. out gets what it counts. */
    tn_status (*run)(tn_trainer *trainer, int64_t index, int64_t step, float grad_scale, double *loss_sum,
                     tn_train_step *out);
    tn_status (*validate)(tn_trainer *trainer, tn_validation *out);

    /* By rehearsal: the tape's bytes for the largest micro-batch; FLOPs of one. */
    tn_status (*training_heap)(tn_trainer *trainer, tn_checkpointing checkpointing, int64_t *bytes);
    tn_status (*validation_heap)(tn_trainer *trainer, int64_t *bytes);
    tn_status (*flops)(tn_trainer *trainer, int64_t index, double *flops);

    /* What the plan says of the data; trainer->sample gets the first sample as people read it. */
    tn_status (*describe)(tn_trainer *trainer, tn_train_plan *plan);
} tn_source;

extern const tn_source tn_text_source, tn_feature_source;

/* Rows of text as token ids. */
typedef struct tn_text_data {
    tn_dataset train, valid;
    tn_order order, valid_order;
    tn_batch_builder builder; /* for the largest batch of both */
    tn_span *spans;           /* [largest number of sequences] */
    float *losses;            /* [largest number of labels] */
    int64_t part_tokens;      /* of a micro-batch that go through the model at once, unless a sequence is longer */
} tn_text_data;

/* Rows of numbers. */
typedef struct tn_feature_data {
    tn_features train, valid;
    tn_epoch_order order, valid_order;
    float *x, *targets, *losses; /* of the micro-batch at hand */
    int32_t *labels, *predicted;
    int64_t *confusion; /* [outputs, outputs] of the last validation, by class and predicted class; NULL of numbers */
} tn_feature_data;

struct tn_trainer {
    tn_model *model;
    const tn_train_options *options;
    const tn_train_callbacks *callbacks; /* never NULL; its members may be */
    tn_schedule schedule;
    tn_optimizer_kind optimizer_kind;
    const tn_source *source;
    tn_text_data text;        /* of tn_text_source */
    tn_feature_data features; /* of tn_feature_source */
    uint64_t data_hash;
    bool has_valid;
    int64_t steps, per_epoch; /* optimiser steps of the run, micro-batches of an epoch */
    int64_t largest_pass;     /* rows of the largest pass: tokens, or samples */
    tn_checkpointing checkpointing;
    int64_t heap_bytes;
    tn_tape tape;
    tn_optimizer optimizer;
    char *settings; /* what resuming compares */
    tn_buf sample;
};

/* Fixes the number of steps by the options and the micro-batches of an epoch. */
void tn_trainer_set_steps(tn_trainer *trainer, int64_t per_epoch);

/* Adds a stretch of time up to now to the profile, when there is one. */
void tn_trainer_count_time(const tn_trainer *trainer, tn_phase phase, const char *op, double since);

/* The seed of dropout in one pass. */
uint64_t tn_trainer_dropout_seed(const tn_trainer *trainer, int64_t micro_batch, int64_t part);

/* Checks model and options. Free with tn_trainer_free also after a failure. */
tn_status tn_trainer_init(tn_trainer *trainer, tn_model *model, const tn_train_options *options,
                          const tn_train_callbacks *callbacks);

/* Reads the data, fixes their order and the number of steps. */
tn_status tn_trainer_load(tn_trainer *trainer);
void tn_trainer_free(tn_trainer *trainer);

/* Rehearses the largest passes, decides activation checkpointing, fills the plan (`calibrate`: measures the machine
 * briefly). */
tn_status tn_trainer_plan(tn_trainer *trainer, bool calibrate, tn_train_plan *plan);

/* How activations are kept: `wish` is "auto", "off", "8bit" or "on", `heap` the bytes of a step that keeps them as they are.
 */
tn_status tn_checkpointing_choose(const char *wish, int64_t heap, tn_checkpointing *out);
const char *tn_checkpointing_name(tn_checkpointing checkpointing);

/* Over the validation set; an error when the loss is not finite. */
tn_status tn_trainer_validate(tn_trainer *trainer, tn_validation *out);

/* metrics.c: the record of a run. */
typedef struct tn_metrics {
    FILE *file; /* out/metrics.jsonl */
    double *steps, *losses, *rates, *norms, *valid_steps, *valid_losses;
    int64_t count, capacity, valid_count, valid_capacity;
} tn_metrics;

/* Opens out/metrics.jsonl cut to `bytes` (0: from the start) and reads back what it keeps. */
tn_status tn_metrics_open(tn_metrics *metrics, const char *out_dir, int64_t bytes);
tn_status tn_metrics_step(tn_metrics *metrics, const tn_train_step *step, bool logged);
tn_status tn_metrics_validation(tn_metrics *metrics, int64_t step, double loss, double accuracy); /* NaN: none */
/* Flushes and syncs; *bytes is the length so far. */
tn_status tn_metrics_sync(tn_metrics *metrics, int64_t *bytes);
void tn_metrics_free(tn_metrics *metrics);

/* out/report.html; confusion [plan->outputs, plan->outputs] or NULL */
tn_status tn_metrics_report(const tn_metrics *metrics, const char *out_dir, const tn_train_plan *plan,
                            const tn_train_result *result, const char *model_dir, const int64_t *confusion);

#endif
