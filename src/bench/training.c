/* Real passes and steps over one batch; their phases by profile. */
#include <string.h>

#include "base/clock.h"
#include "bench/parts.h"
#include "train/trainer.h"

/* How long passes are repeated for in a round when their number is not given. */
static const double ROUND_SECONDS = 0.1;

/* Bytes of the pass, and its FLOPs by phase into flops[TN_PHASES]. */
static tn_status rehearse(tn_bench_training *t, bool recording, tn_checkpointing checkpointing, int64_t *bytes,
                          double *flops) {
    tn_tape tape;
    tn_profile profile = {0};
    TN_TRY(tn_tape_init(&tape, t->model->kernels, 0));
    tn_forward forward = {.tape = &tape, .training = recording};
    tape.recording = recording;
    tape.profile = &profile;
    if (recording)
        t->batch->train(t, &forward, checkpointing, 1);
    else
        t->batch->infer(t, &tape);
    tn_status status = tn_tape_status(&tape);
    *bytes = tape.heap.peak;
    for (int phase = 0; phase < TN_PHASES; phase++)
        flops[phase] = tn_profile_sum(&profile, (tn_phase)phase, NULL).flops;
    tn_tape_free(&tape);
    return status;
}

static tn_status prepare_steps(tn_bench_training *t) {
    double ignored[TN_PHASES];
    TN_TRY(rehearse(t, true, TN_CHECKPOINTING_OFF, &t->step_bytes, t->flops));
    TN_TRY(tn_checkpointing_choose(t->options->checkpointing, t->step_bytes, &t->checkpointing));
    if (!t->batch->can_recompute)
        t->checkpointing = TN_CHECKPOINTING_OFF;
    if (t->checkpointing != TN_CHECKPOINTING_OFF)
        TN_TRY(rehearse(t, true, t->checkpointing, &t->step_bytes, ignored));
    return tn_optimizer_init(&t->optimizer, &t->model->adapter->params, t->model->kernels, TN_OPTIMIZER_ADAMW);
}

tn_status tn_bench_training_init(tn_bench_training *t, tn_model *model, const tn_bench_options *options,
                                 int64_t batch_size) {
    double ignored[TN_PHASES];
    int64_t bytes;
    *t = (tn_bench_training){.model = model,
                             .options = options,
                             .batch_size = batch_size,
                             .batch = model->decoder ? &tn_bench_text : &tn_bench_features};
    TN_TRY(t->batch->make(t, options));
    TN_TRY(rehearse(t, false, TN_CHECKPOINTING_OFF, &bytes, ignored));
    if (model->adapter && model->adapter->params.grads)
        TN_TRY(prepare_steps(t));
    bytes = t->step_bytes > bytes ? t->step_bytes : bytes;
    /* passes of two kinds may lie in the heap differently than each alone, and reserve costs nothing */
    return tn_tape_init(&t->tape, model->kernels, bytes + bytes / 2 + (1 << 20));
}

void tn_bench_training_free(tn_bench_training *t) {
    tn_tape_free(&t->tape);
    tn_optimizer_free(&t->optimizer);
    tn_arena_free(&t->arena);
    *t = (tn_bench_training){0};
}

/* Whether to run once more after `done` runs since `start`; `wanted` 0: by time. */
static bool goes_on(int64_t wanted, int64_t done, double start) {
    if (wanted)
        return done < wanted;
    return done == 0 || (done < TN_BENCH_PASSES && tn_seconds() - start < ROUND_SECONDS);
}

static tn_bench_sample summarise(tn_bench_training *t, tn_bench_part part, int64_t count, double flops) {
    double *times = t->times[part], seconds = tn_bench_median(times, count);
    return (tn_bench_sample){.tokens = t->tokens, .seconds = seconds, .best_seconds = times[0], .flops = flops};
}

tn_status tn_bench_forward(tn_bench_training *t, tn_bench_sample *out) {
    int64_t count = 0;
    t->tape.recording = false;
    t->tape.profile = NULL;
    for (double begin = tn_seconds(); goes_on(t->options->passes, count, begin); count++) {
        double start = tn_seconds();
        tn_tape_reset(&t->tape);
        t->batch->infer(t, &t->tape);
        t->times[TN_BENCH_FORWARD][count] = tn_seconds() - start;
        TN_TRY(tn_tape_status(&t->tape));
    }
    *out = summarise(t, TN_BENCH_FORWARD, count, t->tape.flops);
    return TN_OK;
}

static void add_to_caller(tn_bench_training *t, const tn_profile *profile, double update, double seconds) {
    tn_profile *out = t->options->profile;
    if (!out)
        return;
    for (int64_t i = 0; i < profile->count; i++)
        tn_profile_merge(out, &profile->rows[i]);
    tn_profile_add(out, TN_PHASE_OPTIMIZER, "adamw", update, 0);
    out->seconds += seconds;
}

/* The times of one step into times[...][index]. */
static tn_status run_step(tn_bench_training *t, int64_t index) {
    tn_forward forward = {.tape = &t->tape, .training = true, .dropout_seed = (uint64_t)t->steps};
    tn_profile profile = {0};
    double start = tn_seconds();
    tn_tape_reset(&t->tape);
    t->tape.recording = true;
    t->tape.profile = &profile;
    tn_optimizer_zero_grad(&t->optimizer);
    double update = tn_seconds() - start;
    t->batch->train(t, &forward, t->checkpointing, 1.0f / (float)t->terms);
    TN_TRY(tn_tape_status(&t->tape));
    double back = tn_seconds(), norm = tn_optimizer_grad_norm(&t->optimizer);
    tn_optimizer_step(&t->optimizer, ++t->steps, 1e-5, norm, 1);
    double end = tn_seconds();
    update += end - back;
    add_to_caller(t, &profile, update, end - start);
    t->times[TN_BENCH_FORWARD][index] = tn_profile_sum(&profile, TN_PHASE_FORWARD, NULL).seconds;
    t->times[TN_BENCH_RECOMPUTATION][index] = tn_profile_sum(&profile, TN_PHASE_RECOMPUTATION, NULL).seconds;
    t->times[TN_BENCH_BACKWARD][index] = tn_profile_sum(&profile, TN_PHASE_BACKWARD, NULL).seconds;
    t->times[TN_BENCH_OPTIMIZER][index] = update;
    t->times[TN_BENCH_STEP][index] = end - start;
    return TN_OK;
}

tn_status tn_bench_train(tn_bench_training *t, tn_bench_sample out[TN_BENCH_PARTS]) {
    double flops[TN_BENCH_PARTS] = {
        [TN_BENCH_FORWARD] = t->flops[TN_PHASE_FORWARD], [TN_BENCH_BACKWARD] = t->flops[TN_PHASE_BACKWARD]};
    int64_t count = 0;
    for (int phase = 0; phase < TN_PHASES; phase++)
        flops[TN_BENCH_STEP] += t->flops[phase];
    for (double begin = tn_seconds(); goes_on(t->options->steps, count, begin); count++)
        TN_TRY(run_step(t, count));
    for (int part = 0; part < TN_BENCH_PARTS; part++)
        out[part] = summarise(t, (tn_bench_part)part, count, flops[part]);
    return TN_OK;
}
