/* One prompt in one pass, then greedy tokens one by one, as `tenon generate` makes them. */
#include "base/clock.h"
#include "base/rng.h"
#include "bench/parts.h"
#include "infer/generator.h"
#include "infer/sampler.h"

typedef struct {
    tn_sampler sampler;
    int32_t id;
} greedy;

static tn_status pick(void *cookie, int64_t sequence, const float *logits) {
    greedy *g = cookie;
    (void)sequence;
    return tn_sampler_pick(&g->sampler, logits, NULL, 0, &g->id);
}

/* A trained copy of a base tensor is counted as that tensor. */
static bool replaces_base(const tn_adapter *adapter, const tn_weight *weight) {
    for (int64_t i = 0; i < adapter->replaced_count; i++)
        if (weight == &adapter->replaced[i].module->weight || weight == &adapter->replaced[i].module->bias)
            return true;
    return false;
}

/* Bytes of weights that a token reads: all but the embedding, of which it is one row unless the head reads it too. */
static double weight_bytes(const tn_model *model, bool with_adapter) {
    const tn_network *d = model->network;
    double bytes = 0;
    for (int64_t i = 0; i < d->module_count; i++) {
        const tn_module *m = &d->modules[i];
        const tn_tensor *w = &tn_module_weight(m)->tensor;
        bytes +=
            m->kind == TN_MODULE_EMBEDDING ? (double)tn_tensor_bytes(w) / (double)w->shape[0] : (double)tn_tensor_bytes(w);
        bytes += m->has_bias ? (double)tn_tensor_bytes(&m->bias.tensor) : 0;
    }
    for (int64_t i = 0; with_adapter && i < model->adapter->params.count; i++) {
        const tn_param *param = &model->adapter->params.entries[i];
        bytes += replaces_base(model->adapter, param->weight) ? 0 : (double)param->count * sizeof(float);
    }
    return bytes;
}

/* Memory's speed changes within seconds with its other users, so it is read again after so much decoding; each of these
 * stretches has a share of what is measured before and after it. */
static const double STRETCH_SECONDS = 0.1;

typedef struct {
    tn_limits *limits;
    double before;         /* bandwidth */
    double seconds, count; /* of tokens since */
    double *shares;        /* over the bytes of a token */
    int64_t stretches;
} reading;

static void count_token(reading *r, double seconds, bool last) {
    r->seconds += seconds;
    r->count++;
    if (r->seconds < STRETCH_SECONDS && !last)
        return;
    const double after = tn_limits_read(r->limits);
    r->shares[r->stretches++] = r->count / r->seconds / ((r->before + after) / 2);
    r->before = after;
    r->seconds = r->count = 0;
}

static tn_status measure(tn_generator *g, greedy *next, const tn_bench_options *o, reading *r, bool with_adapter,
                         tn_bench_sample *prompt, tn_bench_sample *decode) {
    double start = tn_seconds(), sum = 0, best = 0, flops = 0;
    TN_TRY(tn_generator_read_prompts(g, pick, next));
    double seconds = tn_seconds() - start;
    *prompt =
        (tn_bench_sample){.tokens = o->prompt_tokens, .seconds = seconds, .best_seconds = seconds, .flops = g->tape.flops};
    r->before = tn_limits_read(r->limits);
    for (int64_t i = 0; i < o->tokens; i++) {
        const int64_t sequence = 0;
        const int32_t id = next->id;
        start = tn_seconds();
        TN_TRY(tn_generator_step(g, &sequence, &id, 1, pick, next));
        seconds = tn_seconds() - start;
        sum += seconds;
        best = i == 0 || seconds < best ? seconds : best;
        flops += g->tape.flops;
        count_token(r, seconds, i + 1 == o->tokens);
    }
    double count = (double)o->tokens, positions = (double)o->prompt_tokens + (count + 1) / 2;
    *decode = (tn_bench_sample){.tokens = 1,
                                .seconds = sum / count,
                                .best_seconds = best,
                                .flops = flops / count,
                                .bytes = weight_bytes(g->model, with_adapter) +
                                         positions * (double)tn_generator_position_bytes(g->model)};
    decode->share = decode->bytes * tn_bench_median(r->shares, r->stretches);
    return TN_OK;
}

tn_status tn_bench_generate(tn_model *model, const tn_bench_options *o, tn_limits *limits, bool with_adapter,
                            tn_bench_sample *prompt, tn_bench_sample *decode) {
    int64_t vocab = model->decoder->config.vocab_size;
    int32_t *ids = tn_malloc((size_t)o->prompt_tokens * sizeof *ids);
    tn_prompt text = {.ids = ids, .count = (size_t)o->prompt_tokens};
    tn_generate_options options;
    tn_generator generator = {0};
    greedy next = {0};
    reading r = {.limits = limits, .shares = tn_malloc((size_t)o->tokens * sizeof(double))};
    tn_status status = TN_OK;
    if (!ids || !r.shares)
        TN_TRY_GOTO(tn_fail_memory("the measurement of generation"));
    tn_rng rng = tn_rng_start(0, tn_stream(TN_STREAM_DATA, 1));
    for (int64_t i = 0; i < o->prompt_tokens; i++)
        ids[i] = (int32_t)tn_rng_below(&rng, (uint32_t)vocab);
    tn_generate_options_default(&options);
    TN_TRY_GOTO(tn_sampler_init(&next.sampler, &options, vocab));
    TN_TRY_GOTO(tn_generator_init(&generator, model, &text, 1, o->tokens, o->prompt_tokens));
    TN_TRY_GOTO(measure(&generator, &next, o, &r, with_adapter, prompt, decode));
fail:
    tn_generator_free(&generator);
    tn_sampler_free(&next.sampler);
    tn_free(ids);
    tn_free(r.shares);
    return status;
}
