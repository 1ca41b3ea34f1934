/* Rounds: the machine's limits, then each kind of work on each kind of weights, so that all see the same neighbours. */
#include <stdlib.h>
#include <string.h>

#include "bench/parts.h"
#include "session/merge.h"

typedef struct {
    tn_model *model;
    const tn_bench_options *options;
    tn_bench_result *result;
    tn_limits limits;
    tn_bench_training training;
    int64_t round;
    double seconds[TN_BENCH_ROWS][TN_BENCH_ROUNDS], shares[TN_BENCH_ROWS][TN_BENCH_ROUNDS];
    int64_t first_row; /* of this call */
} bench;

void tn_bench_options_default(tn_bench_options *options) {
    *options = (tn_bench_options){
        .length = 256, .labelled = 1, .prompt_tokens = 512, .tokens = 32, .rounds = 3, .checkpointing = "auto"};
}

static tn_status check_count(const char *name, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high)
        return TN_OK;
    return tn_fail(TN_ERROR_ARGUMENT, "%s is %lld; it must be from %lld to %lld", name, (long long)value, (long long)low,
                   (long long)high);
}

static tn_status check_text_options(const tn_bench_options *o, int64_t positions) {
    TN_TRY(check_count("length", o->length, 1, positions));
    TN_TRY(check_count("tokens", o->tokens, 1, positions - 1));
    TN_TRY(check_count("prompt_tokens", o->prompt_tokens, 1, positions - o->tokens));
    if (!(o->labelled > 0 && o->labelled <= 1) || (double)o->length * o->labelled < 0.5)
        return tn_fail(TN_ERROR_ARGUMENT, "labelled is %g; it must be above 0 and at most 1, and leave a label",
                       o->labelled);
    return TN_OK;
}

static tn_status check_options(const tn_bench_options *o, const tn_model *model) {
    TN_TRY(check_count("batch_size", o->batch_size, 0, 1 << 20));
    TN_TRY(check_count("rounds", o->rounds, 1, TN_BENCH_ROUNDS));
    TN_TRY(check_count("passes", o->passes, 0, TN_BENCH_PASSES));
    TN_TRY(check_count("steps", o->steps, 0, TN_BENCH_PASSES));
    return model->decoder ? check_text_options(o, model->decoder->config.max_positions) : TN_OK;
}

static int64_t batch_size_of(const tn_bench_options *o, const tn_model *model) {
    enum { SEQUENCES = 4, ROWS = 64 };
    if (o->batch_size)
        return o->batch_size;
    return model->decoder ? SEQUENCES : ROWS;
}

static int64_t row_of(bench *b, const char *weights, const char *work) {
    tn_bench_result *r = b->result;
    for (int64_t i = b->first_row; i < r->count; i++)
        if (strcmp(r->rows[i].weights, weights) == 0 && strcmp(r->rows[i].work, work) == 0)
            return i;
    if (r->count == TN_BENCH_ROWS)
        return -1;
    r->rows[r->count] = (tn_bench_row){.weights = weights, .work = work};
    return r->count++;
}

static void record(bench *b, const char *weights, const char *work, const tn_bench_sample *sample) {
    int64_t index = row_of(b, weights, work);
    if (index < 0)
        return;
    tn_bench_row *row = &b->result->rows[index];
    row->tokens = sample->tokens;
    row->flops = sample->flops;
    row->bytes = sample->bytes;
    if (b->round == 0 || sample->best_seconds < row->best_seconds)
        row->best_seconds = sample->best_seconds;
    const tn_bench_limits *limits = &b->limits.round;
    b->seconds[index][b->round] = sample->seconds;
    b->shares[index][b->round] = sample->share > 0 ? sample->share : sample->flops / sample->seconds / limits->sgemm_flops;
}

static tn_status generate(bench *b, const char *weights, bool with_adapter) {
    tn_bench_sample prompt, decode;
    TN_TRY(tn_bench_generate(b->model, b->options, &b->limits, with_adapter, &prompt, &decode));
    record(b, weights, "prompt", &prompt);
    record(b, weights, "decode", &decode);
    return TN_OK;
}

static tn_status infer(bench *b, const char *weights) {
    tn_bench_sample forward;
    TN_TRY(tn_bench_forward(&b->training, &forward));
    record(b, weights, b->training.batch->forward, &forward);
    return b->model->decoder ? generate(b, weights, false) : TN_OK;
}

static tn_status infer_adapter(bench *b) {
    return b->model->decoder ? generate(b, "adapter", true) : infer(b, "adapter");
}

static tn_status train(bench *b, const char *weights) {
    static const char *const names[TN_BENCH_PARTS] = {"forward", "recomputation", "backward", "optimiser", "step"};
    tn_bench_sample parts[TN_BENCH_PARTS];
    TN_TRY(tn_bench_train(&b->training, parts));
    for (int part = 0; part < TN_BENCH_PARTS; part++)
        if (part != TN_BENCH_RECOMPUTATION || b->training.checkpointing == TN_CHECKPOINTING_ON)
            record(b, weights, names[part], &parts[part]);
    return TN_OK;
}

static tn_status infer_merged(bench *b) {
    tn_merged merged;
    TN_TRY(tn_session_merge_in_memory(b->model, &merged));
    tn_status status = infer(b, "merged");
    tn_session_merged_free(b->model, &merged);
    return status;
}

static tn_status run_round(bench *b) {
    const tn_adapter *adapter = b->model->adapter;
    tn_limits_measure(&b->limits);
    if (adapter && !adapter->method)
        return train(b, "full");
    tn_model_enable_adapter(b->model, false);
    tn_status status = infer(b, "base");
    tn_model_enable_adapter(b->model, true);
    TN_TRY(status);
    if (!adapter)
        return TN_OK;
    if (adapter->params.grads)
        TN_TRY(train(b, "adapter"));
    TN_TRY(infer_adapter(b));
    return infer_merged(b);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double tn_bench_median(double *values, int64_t count) {
    qsort(values, (size_t)count, sizeof *values, by_value);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static double larger(double a, double b) {
    return a > b ? a : b;
}

static void count_memory(bench *b) {
    tn_bench_result *r = b->result;
    const tn_adapter *adapter = b->model->adapter;
    if (!adapter || !adapter->params.grads || r->memory_count == TN_BENCH_MEMORIES)
        return;
    const int64_t store = adapter->params.total * (int64_t)sizeof(float);
    tn_bench_memory *m = &r->memory[r->memory_count++];
    *m = (tn_bench_memory){.weights = adapter->method ? "adapter" : "full",
                           .parameter_bytes = store,
                           .gradient_bytes = store,
                           .optimizer_bytes = 2 * store,
                           .activation_bytes = b->training.step_bytes};
    for (int64_t i = 0; i < adapter->params.count; i++)
        m->trained += adapter->params.entries[i].is_buffer ? 0 : adapter->params.entries[i].count;
}

static void summarise(bench *b) {
    tn_bench_result *r = b->result;
    tn_bench_limits *best = &r->limits;
    best->sgemm_flops = larger(best->sgemm_flops, b->limits.best.sgemm_flops);
    best->sgemm_mix_flops = larger(best->sgemm_mix_flops, b->limits.best.sgemm_mix_flops);
    best->read_bandwidth = larger(best->read_bandwidth, b->limits.best.read_bandwidth);
    for (int64_t i = 0; i < r->count; i++) {
        tn_bench_row *row = &r->rows[i];
        if (i >= b->first_row) {
            row->seconds = tn_bench_median(b->seconds[i], b->options->rounds);
            row->median_share = tn_bench_median(b->shares[i], b->options->rounds);
        }
        row->share = row->bytes > 0 ? row->bytes / row->best_seconds / best->read_bandwidth
                                    : row->flops / row->best_seconds / best->sgemm_flops;
    }
    r->kernels = b->model->kernels->name;
    r->threads = tn_threads();
    r->batch_size = b->training.batch_size;
    r->recomputed = r->recomputed || b->training.checkpointing == TN_CHECKPOINTING_ON;
    count_memory(b);
}

tn_status tn_bench(tn_model *model, const tn_bench_options *options, tn_bench_result *result) {
    tn_status status = TN_OK;
    TN_TRY(check_options(options, model));
    const int64_t batch_size = batch_size_of(options, model);
    bench *b = tn_calloc(1, sizeof *b);
    if (!b)
        return tn_fail_memory("the measurement");
    b->model = model;
    b->options = options;
    b->result = result;
    b->first_row = result->count;
    tn_model_enable_adapter(model, false);
    result->base_bytes = tn_network_bytes(model->network);
    tn_model_enable_adapter(model, true);
    TN_TRY_GOTO(tn_limits_init(&b->limits, model, model->decoder ? batch_size * options->length : batch_size,
                               model->decoder ? options->prompt_tokens : 0));
    TN_TRY_GOTO(tn_bench_training_init(&b->training, model, options, batch_size));
    for (b->round = 0; b->round < options->rounds; b->round++)
        TN_TRY_GOTO(run_round(b));
    summarise(b);
fail:
    tn_bench_training_free(&b->training);
    tn_limits_free(&b->limits);
    tn_free(b);
    return status;
}

/* Values, gradients and two moments, all f32. */
int64_t tn_bench_full_bytes(const tn_model *model) {
    return tn_network_parameters(model->network) * 4 * (int64_t)sizeof(float);
}
