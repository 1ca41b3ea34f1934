/* The parts of a measurement: training steps, generation, and the rows they fill. */
#ifndef TN_BENCH_PARTS_H
#define TN_BENCH_PARTS_H

#include <tenon/bench.h>

#include "bench/limits.h"
#include "train/optimizer.h"

enum { TN_BENCH_ROUNDS = 100 };

/* What one round saw of a row. */
typedef struct tn_bench_sample {
    int64_t tokens;
    double seconds, best_seconds; /* best: of several runs within the round, else the same */
    double flops, bytes;
} tn_bench_sample;

/* training.c: one batch that is trained on again and again. */
typedef struct tn_bench_training {
    tn_model *model;
    tn_profile *profile; /* the caller's, or NULL */
    int32_t *ids, *positions, *label_rows, *labels;
    tn_span *spans;
    float *losses;
    tn_pass pass;
    tn_tape tape;
    tn_optimizer optimizer;
    tn_checkpointing checkpointing;
    double flops[TN_PHASES]; /* of the model, without recomputation */
    double inference_flops;  /* of a forward pass without gradients */
    int64_t steps;
    tn_arena arena;
} tn_bench_training;

/* With an adapter that has gradients: steps; else forward passes alone. */
tn_status tn_bench_training_init(tn_bench_training *training, tn_model *model, const tn_bench_options *options);
void tn_bench_training_free(tn_bench_training *training);

/* The loss without gradients. */
tn_status tn_bench_forward(tn_bench_training *training, tn_bench_sample *out);

/* A whole step and its phases. */
typedef struct tn_bench_step {
    tn_bench_sample step, forward, recomputation, backward, optimizer;
} tn_bench_step;
tn_status tn_bench_train(tn_bench_training *training, tn_bench_step *out);

/* generation.c: a prompt, and greedy tokens after it. */
tn_status tn_bench_generate(tn_model *model, const tn_bench_options *options, bool with_adapter, tn_bench_sample *prompt,
                            tn_bench_sample *decode);

#endif
