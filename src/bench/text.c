/* A batch of made-up tokens for language models. */
#include "base/rng.h"
#include "bench/parts.h"

static tn_status make_batch(tn_bench_training *t, const tn_bench_options *o) {
    int64_t tokens = t->batch_size * o->length, vocab = t->model->decoder->config.vocab_size, labelled = 0;
    int64_t first = o->length - (int64_t)((double)o->length * o->labelled + 0.5);
    int32_t *ids = tn_arena_array(&t->arena, (size_t)tokens, sizeof *ids);
    int32_t *positions = tn_arena_array(&t->arena, (size_t)tokens, sizeof *positions);
    int32_t *rows = tn_arena_array(&t->arena, (size_t)tokens, sizeof *rows);
    int32_t *labels = tn_arena_array(&t->arena, (size_t)tokens, sizeof *labels);
    tn_span *spans = tn_arena_array(&t->arena, (size_t)t->batch_size, sizeof *spans);
    t->losses = tn_arena_array(&t->arena, (size_t)tokens, sizeof *t->losses);
    if (!ids || !positions || !rows || !labels || !spans || !t->losses)
        return tn_fail_memory("the batch");
    tn_rng rng = tn_rng_start(0, tn_stream(TN_STREAM_DATA, 0));
    for (int64_t s = 0; s < t->batch_size; s++) {
        spans[s] = (tn_span){s * o->length, o->length, s * o->length, o->length};
        for (int64_t i = 0; i < o->length; i++) {
            int64_t row = s * o->length + i;
            ids[row] = (int32_t)tn_rng_below(&rng, (uint32_t)vocab);
            positions[row] = (int32_t)i;
            if (i < first)
                continue;
            rows[labelled] = (int32_t)row;
            labels[labelled++] = (int32_t)tn_rng_below(&rng, (uint32_t)vocab);
        }
    }
    t->pass = (tn_pass){
        .tokens = {.ids = ids, .positions = positions, .count = tokens, .spans = spans, .span_count = t->batch_size},
        .label_rows = rows,
        .label_ids = labels,
        .labelled = labelled};
    t->tokens = tokens;
    t->terms = labelled;
    return tn_decoder_prepare(t->model->decoder, o->length);
}

static void train(tn_bench_training *t, const tn_forward *forward, tn_checkpointing checkpointing, float grad_scale) {
    tn_pass_loss(t->model, forward, &t->pass, checkpointing, grad_scale, t->losses, NULL);
}

static void infer(tn_bench_training *t, tn_tape *tape) {
    const tn_forward forward = {.tape = tape};
    train(t, &forward, TN_CHECKPOINTING_OFF, 0);
}

const tn_bench_batch tn_bench_text = {
    .forward = "forward",
    .make = make_batch,
    .infer = infer,
    .train = train,
    .can_recompute = true,
};
