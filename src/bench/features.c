/* A batch of made-up rows for sequential models: x ~ N(0, 1), and any classes or numbers to be predicted. */
#include "base/rng.h"
#include "bench/parts.h"

static tn_status make_batch(tn_bench_training *t, const tn_bench_options *options) {
    const tn_sequential_config *c = &t->model->sequential->config;
    int64_t rows = t->batch_size, outputs = rows * c->outputs;
    float *x = tn_arena_array(&t->arena, (size_t)(rows * c->inputs), sizeof *x);
    float *targets = tn_arena_array(&t->arena, (size_t)outputs, sizeof *targets);
    int32_t *labels = tn_arena_array(&t->arena, (size_t)rows, sizeof *labels);
    t->losses = tn_arena_array(&t->arena, (size_t)rows, sizeof *t->losses);
    t->logits = tn_arena_array(&t->arena, (size_t)outputs, sizeof *t->logits);
    (void)options;
    if (!x || !targets || !labels || !t->losses || !t->logits)
        return tn_fail_memory("the batch");
    tn_fill_normal(x, (size_t)(rows * c->inputs), 0, tn_stream(TN_STREAM_DATA, 0), 0, 1);
    tn_fill_normal(targets, (size_t)outputs, 0, tn_stream(TN_STREAM_DATA, 1), 0, 1);
    tn_rng rng = tn_rng_start(0, tn_stream(TN_STREAM_DATA, 2));
    for (int64_t i = 0; i < rows; i++)
        labels[i] = (int32_t)tn_rng_below(&rng, (uint32_t)c->outputs);
    t->features = (tn_feature_pass){.x = x, .count = rows, .labels = labels, .targets = targets};
    t->tokens = t->terms = rows;
    return TN_OK;
}

static void train(tn_bench_training *t, const tn_forward *forward, tn_checkpointing checkpointing, float grad_scale) {
    (void)checkpointing;
    tn_pass_features(t->model, forward, &t->features, grad_scale, t->losses, NULL);
}

/* A failure stays on the tape. */
static void infer(tn_bench_training *t, tn_tape *tape) {
    tn_pass_feature_logits(t->model, tape, t->features.x, t->features.count, t->logits);
}

const tn_bench_batch tn_bench_features = {
    .forward = "inference",
    .make = make_batch,
    .infer = infer,
    .train = train,
};
