/* Real steps over one batch of made-up tokens; their phases by profile. */
#include "base/clock.h"
#include "base/rng.h"
#include "bench/parts.h"
#include "train/trainer.h"

static tn_status make_batch(tn_bench_training *t, const tn_bench_options *o) {
    int64_t tokens = o->batch_size * o->length, vocab = t->model->decoder->config.vocab_size, labelled = 0;
    int64_t first = o->length - (int64_t)((double)o->length * o->labelled + 0.5);
    t->ids = tn_arena_array(&t->arena, (size_t)tokens, sizeof *t->ids);
    t->positions = tn_arena_array(&t->arena, (size_t)tokens, sizeof *t->positions);
    t->label_rows = tn_arena_array(&t->arena, (size_t)tokens, sizeof *t->label_rows);
    t->labels = tn_arena_array(&t->arena, (size_t)tokens, sizeof *t->labels);
    t->losses = tn_arena_array(&t->arena, (size_t)tokens, sizeof *t->losses);
    t->spans = tn_arena_array(&t->arena, (size_t)o->batch_size, sizeof *t->spans);
    if (!t->ids || !t->positions || !t->label_rows || !t->labels || !t->losses || !t->spans)
        return tn_fail_memory("the batch");
    tn_rng rng = tn_rng_start(0, tn_stream(TN_STREAM_DATA, 0));
    for (int64_t s = 0; s < o->batch_size; s++) {
        t->spans[s] = (tn_span){s * o->length, o->length, s * o->length, o->length};
        for (int64_t i = 0; i < o->length; i++) {
            int64_t row = s * o->length + i;
            t->ids[row] = (int32_t)tn_rng_below(&rng, (uint32_t)vocab);
            t->positions[row] = (int32_t)i;
            if (i < first)
                continue;
            t->label_rows[labelled] = (int32_t)row;
            t->labels[labelled++] = (int32_t)tn_rng_below(&rng, (uint32_t)vocab);
        }
    }
    t->pass = (tn_pass){.tokens = {.ids = t->ids,
                                   .positions = t->positions,
                                   .count = tokens,
                                   .spans = t->spans,
                                   .span_count = o->batch_size},
                        .label_rows = t->label_rows,
                        .label_ids = t->labels,
                        .labelled = labelled};
    return TN_OK;
}

/* Bytes of the pass, and its FLOPs by phase into flops[TN_PHASES]. */
static tn_status rehearse(tn_bench_training *t, bool recording, tn_checkpointing checkpointing, int64_t *bytes,
                          double *flops) {
    tn_tape tape;
    tn_profile profile = {0};
    TN_TRY(tn_tape_init(&tape, t->model->kernels, 0));
    tn_forward forward = {.tape = &tape, .training = recording};
    tape.recording = recording;
    tape.profile = &profile;
    tn_pass_loss(t->model, &forward, &t->pass, checkpointing, 1, NULL, NULL);
    tn_status status = tn_tape_status(&tape);
    *bytes = tape.heap.peak;
    for (int phase = 0; phase < TN_PHASES; phase++)
        flops[phase] = tn_profile_sum(&profile, (tn_phase)phase, NULL).flops;
    tn_tape_free(&tape);
    return status;
}

tn_status tn_bench_training_init(tn_bench_training *t, tn_model *model, const tn_bench_options *options) {
    double inference[TN_PHASES], ignored[TN_PHASES];
    int64_t bytes, step_bytes = 0;
    bool trains = model->adapter && model->adapter->params.grads;
    *t = (tn_bench_training){.model = model, .profile = options->profile};
    TN_TRY(tn_decoder_prepare(model->decoder, options->length));
    TN_TRY(make_batch(t, options));
    TN_TRY(rehearse(t, false, TN_CHECKPOINTING_OFF, &bytes, inference));
    t->inference_flops = inference[TN_PHASE_FORWARD];
    if (trains) {
        TN_TRY(rehearse(t, true, TN_CHECKPOINTING_OFF, &step_bytes, t->flops));
        TN_TRY(tn_checkpointing_choose(options->checkpointing, step_bytes, &t->checkpointing));
        if (t->checkpointing == TN_CHECKPOINTING_ON)
            TN_TRY(rehearse(t, true, TN_CHECKPOINTING_ON, &step_bytes, ignored));
        TN_TRY(tn_optimizer_init(&t->optimizer, &model->adapter->params, model->kernels));
    }
    bytes = step_bytes > bytes ? step_bytes : bytes;
    /* passes of two kinds may lie in the heap differently than each alone, and reserve costs nothing */
    return tn_tape_init(&t->tape, model->kernels, bytes + bytes / 2 + (1 << 20));
}

void tn_bench_training_free(tn_bench_training *t) {
    tn_tape_free(&t->tape);
    tn_optimizer_free(&t->optimizer);
    tn_arena_free(&t->arena);
    *t = (tn_bench_training){0};
}

tn_status tn_bench_forward(tn_bench_training *t, tn_bench_sample *out) {
    tn_forward forward = {.tape = &t->tape};
    double start = tn_seconds();
    tn_tape_reset(&t->tape);
    t->tape.recording = false;
    t->tape.profile = NULL;
    tn_pass_loss(t->model, &forward, &t->pass, TN_CHECKPOINTING_OFF, 0, t->losses, NULL);
    double seconds = tn_seconds() - start;
    *out = (tn_bench_sample){t->pass.tokens.count, seconds, seconds, t->inference_flops, 0};
    return tn_tape_status(&t->tape);
}

static tn_bench_sample sample_of(const tn_bench_training *t, double seconds, double flops) {
    return (tn_bench_sample){t->pass.tokens.count, seconds, seconds, flops, 0};
}

static void add_to_caller(tn_bench_training *t, const tn_profile *profile, double update, double seconds) {
    if (!t->profile)
        return;
    for (int64_t i = 0; i < profile->count; i++)
        tn_profile_merge(t->profile, &profile->rows[i]);
    tn_profile_add(t->profile, TN_PHASE_OPTIMIZER, "adamw", update, 0);
    t->profile->seconds += seconds;
}

tn_status tn_bench_train(tn_bench_training *t, tn_bench_step *out) {
    tn_forward forward = {.tape = &t->tape, .training = true, .dropout_seed = (uint64_t)t->steps};
    tn_profile profile = {0};
    double start = tn_seconds(), total = 0;
    tn_tape_reset(&t->tape);
    t->tape.recording = true;
    t->tape.profile = &profile;
    tn_optimizer_zero_grad(&t->optimizer);
    double update = tn_seconds() - start;
    tn_pass_loss(t->model, &forward, &t->pass, t->checkpointing, 1.0f / (float)t->pass.labelled, t->losses, NULL);
    TN_TRY(tn_tape_status(&t->tape));
    double back = tn_seconds(), norm = tn_optimizer_grad_norm(&t->optimizer);
    tn_optimizer_step(&t->optimizer, ++t->steps, 1e-5, norm, 1);
    double seconds = tn_seconds() - start;
    update += tn_seconds() - back;
    add_to_caller(t, &profile, update, seconds);
    for (int phase = 0; phase < TN_PHASES; phase++)
        total += t->flops[phase];
    *out = (tn_bench_step){
        .step = sample_of(t, seconds, total),
        .forward = sample_of(t, tn_profile_sum(&profile, TN_PHASE_FORWARD, NULL).seconds, t->flops[TN_PHASE_FORWARD]),
        .recomputation = sample_of(t, tn_profile_sum(&profile, TN_PHASE_RECOMPUTATION, NULL).seconds, 0),
        .backward = sample_of(t, tn_profile_sum(&profile, TN_PHASE_BACKWARD, NULL).seconds, t->flops[TN_PHASE_BACKWARD]),
        .optimizer = sample_of(t, update, 0),
    };
    return TN_OK;
}
