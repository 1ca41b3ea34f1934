/* mnist bench: what full weights, LoRA and merged weights take of memory and time. */
#include <stdio.h>
#include <string.h>

#include "mnist.h"

enum { MOST_ROUNDS = 10 };

/* Bytes of the base as QLoRA keeps it (arXiv 2305.14314): every matrix in NF4 with quantised scales, biases in f32. */
static bool quantised_bytes(const network *n, const settings *s, int64_t *bytes) {
    const tn_quantize_options options = {.type = "nf4", .double_quant = true, .modules = ".*"};
    tn_model_info info = {0};
    tn_model *model = NULL;
    bool done = create_network(n, s->out, (uint64_t)s->seed, &model) && ok(tn_model_quantize(model, &options, NULL));
    if (done)
        tn_model_describe(model, &info);
    *bytes = info.bytes;
    tn_model_free(model);
    return done;
}

static const tn_bench_row *row_of(const tn_bench_result *r, const char *weights, const char *work) {
    for (int64_t i = 0; i < r->count; i++)
        if (strcmp(r->rows[i].weights, weights) == 0 && strcmp(r->rows[i].work, work) == 0)
            return &r->rows[i];
    return NULL;
}

static void print_time(const char *title, const tn_bench_result *r, const char *weights, const char *work,
                       const tn_bench_row *against) {
    const tn_bench_row *row = row_of(r, weights, work);
    if (!row)
        return;
    printf("   %-24s %10.1f us %12.0f samples/s", title, 1e6 * row->seconds, (double)row->tokens / row->seconds);
    if (against && against != row)
        printf("   %.2f times full's time", row->seconds / against->seconds);
    printf("\n");
}

static void print_times(const settings *s, const tn_bench_result *r) {
    const tn_bench_row *inference = row_of(r, "base", "inference");
    printf("   forward, median of %lld\n", (long long)s->passes);
    print_time("  full", r, "base", "inference", inference);
    print_time("  LoRA", r, "adapter", "inference", inference);
    print_time("  LoRA, merged", r, "merged", "inference", inference);
    printf("   training, median of %lld\n", (long long)s->steps);
    print_time("  full: backward", r, "full", "backward", NULL);
    print_time("  LoRA: backward", r, "adapter", "backward", row_of(r, "full", "backward"));
    print_time("  full: step", r, "full", "step", NULL);
    print_time("  LoRA: step", r, "adapter", "step", row_of(r, "full", "step"));
}

static void print_size(const char *title, int64_t base, int64_t adapter, int64_t gradients, int64_t optimizer) {
    printf("   %-24s %8.1f %8.1f %10.1f %10.1f %8.1f\n", title, (double)base / 1e3, (double)adapter / 1e3,
           (double)gradients / 1e3, (double)optimizer / 1e3, (double)(base + adapter + gradients + optimizer) / 1e3);
}

static bool print_memory(const network *n, const settings *s, const tn_bench_result *r) {
    const int64_t rank = s->rank, parameters = network_parameters(n), trained = lora_parameters(n, rank);
    int64_t quantised;
    if (r->memory_count != 2 || r->memory[0].trained != trained || r->memory[1].trained != parameters) {
        fprintf(stderr, "mnist: the library counts other parameters than the shapes of the layers\n");
        return false;
    }
    if (!quantised_bytes(n, s, &quantised))
        return false;
    const tn_bench_memory *lora = &r->memory[0], *full = &r->memory[1];
    printf("   parameters: %lld, with LoRA of rank %lld %lld are trained, %.1f times fewer\n", (long long)parameters,
           (long long)rank, (long long)trained, (double)parameters / (double)trained);
    printf("   %-24s %8s %8s %10s %10s %8s\n", "memory in kB", "base", "trained", "gradients", "optimiser", "in all");
    print_size("  full", 0, full->parameter_bytes, full->gradient_bytes, full->optimizer_bytes);
    print_size("  LoRA", r->base_bytes, lora->parameter_bytes, lora->gradient_bytes, lora->optimizer_bytes);
    print_size("  QLoRA", quantised, lora->parameter_bytes, lora->gradient_bytes, lora->optimizer_bytes);
    printf("   activations of a step: full %.1f kB, LoRA %.1f kB\n", (double)full->activation_bytes / 1e3,
           (double)lora->activation_bytes / 1e3);
    return true;
}

/* Rounds take turns, so that all kinds see the same neighbours on the machine. */
static tn_bench_options options_of(const settings *s) {
    int64_t rounds = s->passes < MOST_ROUNDS || s->steps < MOST_ROUNDS ? 1 : MOST_ROUNDS;
    tn_bench_options options = {0};
    tn_bench_options_default(&options);
    options.batch_size = BATCH;
    options.rounds = rounds;
    options.passes = s->passes / rounds;
    options.steps = s->steps / rounds;
    return options;
}

static bool measure(const network *n, const settings *s) {
    const tn_bench_options options = options_of(s);
    tn_bench_result result = {0};
    tn_model *model = NULL;
    bool done = create_network(n, s->out, (uint64_t)s->seed, &model) && add_lora(model, s->rank, (uint64_t)s->seed) &&
                ok(tn_bench(model, &options, &result)) && add_full(model, (uint64_t)s->seed) &&
                ok(tn_bench(model, &options, &result));
    if (done) {
        printf("%s: %lld-%lld-%lld-%lld, batches of %d samples, %d threads\n", n->name, (long long)n->sizes[0],
               (long long)n->sizes[1], (long long)n->sizes[2], (long long)n->sizes[3], BATCH, result.threads);
        done = print_memory(n, s, &result);
        print_times(s, &result);
    }
    tn_model_free(model);
    return done;
}

bool bench(const settings *s) {
    if (!measure(&small_network, s))
        return false;
    if (s->medium && !(printf("\n") && measure(&medium_network, s)))
        return false;
    return true;
}
