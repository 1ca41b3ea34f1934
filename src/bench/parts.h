/* The parts of a measurement: training steps, generation, and the rows they fill. */
#ifndef TN_BENCH_PARTS_H
#define TN_BENCH_PARTS_H

#include <tenon/bench.h>

#include "bench/limits.h"
#include "train/optimizer.h"

enum { TN_BENCH_ROUNDS = 100, TN_BENCH_PASSES = 1000 };

/* What one round saw of a row. */
typedef struct tn_bench_sample {
    int64_t tokens;
    double seconds, best_seconds; /* median and best of several runs within the round */
    double flops, bytes;
    double share; /* of a limit measured in between; 0: none was */
} tn_bench_sample;

/* The median; puts the values in order. */
double tn_bench_median(double *values, int64_t count);

typedef struct tn_bench_training tn_bench_training;

/* Batches of one kind of model: text.c, features.c. */
typedef struct tn_bench_batch {
    const char *forward; /* the row of the pass without gradients */
    tn_status (*make)(tn_bench_training *training, const tn_bench_options *options);
    void (*infer)(tn_bench_training *training, tn_tape *tape);
    void (*train)(tn_bench_training *training, const tn_forward *forward, tn_checkpointing checkpointing, float grad_scale);
    bool can_recompute;
} tn_bench_batch;
extern const tn_bench_batch tn_bench_text, tn_bench_features;

/* What of a training step is timed. */
typedef enum tn_bench_part {
    TN_BENCH_FORWARD,
    TN_BENCH_RECOMPUTATION,
    TN_BENCH_BACKWARD,
    TN_BENCH_OPTIMIZER,
    TN_BENCH_STEP,
    TN_BENCH_PARTS
} tn_bench_part;

/* training.c: one batch that is passed forward and trained on again and again. */
struct tn_bench_training {
    tn_model *model;
    const tn_bench_options *options;
    const tn_bench_batch *batch;
    int64_t batch_size, tokens, terms; /* samples; tokens, or samples again; terms of the loss */
    tn_pass pass;                      /* of text */
    tn_feature_pass features;
    float *losses, *logits;
    tn_tape tape;
    tn_optimizer optimizer;
    tn_checkpointing checkpointing;
    double flops[TN_PHASES]; /* of the model in a step, without recomputation */
    int64_t step_bytes;      /* of the heap */
    int64_t steps;
    double times[TN_BENCH_PARTS][TN_BENCH_PASSES]; /* of a round */
    tn_arena arena;
};

/* With an adapter that has gradients: steps; else forward passes alone. */
tn_status tn_bench_training_init(tn_bench_training *training, tn_model *model, const tn_bench_options *options,
                                 int64_t batch_size);
void tn_bench_training_free(tn_bench_training *training);

/* Forward passes without gradients. */
tn_status tn_bench_forward(tn_bench_training *training, tn_bench_sample *out);

/* Whole steps and their parts. */
tn_status tn_bench_train(tn_bench_training *training, tn_bench_sample out[TN_BENCH_PARTS]);

/* generation.c: a prompt, and greedy tokens after it; memory is read in between. */
tn_status tn_bench_generate(tn_model *model, const tn_bench_options *options, tn_limits *limits, bool with_adapter,
                            tn_bench_sample *prompt, tn_bench_sample *decode);

#endif
