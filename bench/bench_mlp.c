/* Small dense models and the LoRA branch alone, on the floors that the product runs on: modules with LoRA slots, the tape,
 * the parameter store; and the square product that shows what the machine can do. bench_mlp [threads] reads lines "CASE
 * SECONDS" and answers each with one line of JSON, so that another program can take its turns in between; bench_mlp THREADS
 * SECONDS runs every case once. A third argument, f32 or bf16, is the precision of products; SECONDS 0 reads lines. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "nn/params.h"
#include "peft/lora.h"

enum { BATCH = 64, CLASSES = 10, LAYERS = 3, MAX_RUNS = 20000 };

typedef enum weights { FULL, LORA, MERGED, NONE } weights;

/* A dense model 784-wide-narrow-10, or (narrow 0) the LoRA branch of a square layer alone, or (NONE) a square product. */
typedef struct bench_case {
    const char *name;
    int64_t wide, narrow, rank;
    weights weights;
    bool backward; /* forward and backward; otherwise forward alone, not recorded */
} bench_case;

static const bench_case cases[] = {
    {"mlp512-forward-full", 512, 256, 8, FULL, false},
    {"mlp512-forward-lora", 512, 256, 8, LORA, false},
    {"mlp512-forward-merged", 512, 256, 8, MERGED, false},
    {"mlp512-backward-full", 512, 256, 8, FULL, true},
    {"mlp512-backward-lora", 512, 256, 8, LORA, true},
    {"mlp2048-forward-full", 2048, 1024, 8, FULL, false},
    {"mlp2048-forward-lora", 2048, 1024, 8, LORA, false},
    {"mlp2048-forward-merged", 2048, 1024, 8, MERGED, false},
    {"mlp2048-backward-full", 2048, 1024, 8, FULL, true},
    {"mlp2048-backward-lora", 2048, 1024, 8, LORA, true},
    {"limit", 512, 0, 0, NONE, false},
    {"branch512-r8-forward", 512, 0, 8, LORA, false},
    {"branch512-r8-backward", 512, 0, 8, LORA, true},
    {"branch1024-r8-forward", 1024, 0, 8, LORA, false},
    {"branch1024-r8-backward", 1024, 0, 8, LORA, true},
    {"branch2048-r8-forward", 2048, 0, 8, LORA, false},
    {"branch2048-r8-backward", 2048, 0, 8, LORA, true},
    {"branch512-r16-forward", 512, 0, 16, LORA, false},
    {"branch512-r16-backward", 512, 0, 16, LORA, true},
};

typedef struct bench {
    const bench_case *what;
    tn_module layers[LAYERS];
    tn_lora_slot slots[LAYERS];
    tn_params params;
    tn_tape tape;
    float *memory; /* frozen weights, the input, the branch's output */
    int64_t used;
    float *x, *y, losses[BATCH];
    int32_t rows[BATCH], labels[BATCH];
} bench;

static void check(tn_status status) {
    if (status == TN_OK)
        return;
    fprintf(stderr, "bench_mlp: %s\n", tn_error_message());
    exit(1);
}

static const int64_t memory_floats = 8 << 20;

static float *random_floats(bench *b, int64_t count, float std) {
    float *values = b->memory + b->used;
    b->used += (count + 15) / 16 * 16;
    tn_fill_normal(values, (size_t)count, 1, (uint64_t)b->used, 0, std);
    return values;
}

static tn_weight weight_of(float *data, int64_t rows, int64_t cols) {
    return (tn_weight){
        .tensor = {.dtype = TN_DTYPE_F32, .ndim = rows > 1 ? 2 : 1, .shape = {rows > 1 ? rows : cols, cols}, .data = data}};
}

static void attach_lora(bench *b, int layer, int64_t out, int64_t in) {
    tn_lora_slot *slot = &b->slots[layer];
    *slot = (tn_lora_slot){.slot = {.hooks = &tn_lora.hooks, .weight = 1}, .scale = 2};
    slot->a = weight_of(random_floats(b, b->what->rank * in, 0.05f), b->what->rank, in);
    slot->b = weight_of(random_floats(b, out * b->what->rank, 0.05f), out, b->what->rank);
    check(tn_params_add(&b->params, "lora_A", &slot->a));
    check(tn_params_add(&b->params, "lora_B", &slot->b));
    tn_module_attach(&b->layers[layer], &slot->slot);
}

static void add_layer(bench *b, int layer, int64_t out, int64_t in) {
    tn_module *module = &b->layers[layer];
    float *weight = random_floats(b, out * in, 0.03f);
    *module = (tn_module){.name = "layer", .kind = TN_MODULE_LINEAR, .has_bias = true};
    module->weight = weight_of(weight, out, in);
    module->bias = weight_of(random_floats(b, out, 0.03f), 1, out);
    if (b->what->weights == FULL) {
        check(tn_params_add(&b->params, "weight", &module->weight));
        check(tn_params_add(&b->params, "bias", &module->bias));
    } else {
        attach_lora(b, layer, out, in);
    }
    if (b->what->weights == MERGED) {
        check(tn_lora.merge(&b->slots[layer].slot, module, weight, NULL));
        tn_module_detach(module, &b->slots[layer].slot);
    }
}

static tn_var *last_layer(tn_tape *tape, void *context, tn_var *hidden, int64_t first) {
    (void)first;
    bench *b = context;
    tn_forward forward = {.tape = tape, .training = b->what->backward};
    return tn_linear_forward(&forward, &b->layers[LAYERS - 1], hidden);
}

/* A value of the tape over memory of our own. */
static tn_var *outer_value(tn_tape *tape, float *data, int64_t cols) {
    tn_var *var = tn_var_new(tape, 0, cols, false);
    var->rows = BATCH;
    var->data = tape->rehearsal ? NULL : data;
    return var;
}

static void run_model(bench *b, tn_tape *tape) {
    tn_forward forward = {.tape = tape, .training = b->what->backward};
    tn_var *x = outer_value(tape, b->x, b->layers[0].weight.tensor.shape[1]);
    for (int i = 0; i < LAYERS - 1; i++) {
        tn_var *y = tn_linear_forward(&forward, &b->layers[i], x);
        tn_op_relu(tape, y);
        tn_drop(tape, x);
        x = y;
    }
    if (b->what->backward)
        tn_op_head_loss(tape, x, last_layer, b, CLASSES, b->rows, b->labels, BATCH, 1.0f / BATCH, b->losses, NULL);
    else
        tn_drop(tape, last_layer(tape, b, x, 0));
    tn_drop(tape, x);
}

/* The branch adds to the base's output in place, as in a model; its gradient is all ones. */
static void run_branch(bench *b, tn_tape *tape) {
    tn_forward forward = {.tape = tape, .training = b->what->backward};
    tn_var *x = outer_value(tape, b->x, b->what->wide), *y = outer_value(tape, b->y, b->what->wide);
    tn_lora.hooks.linear(&forward, &b->slots[0].slot, &b->layers[0], x, y);
    tn_drop(tape, x);
    if (b->what->backward) {
        bool accumulate;
        float *dy = tn_grad_of(tape, y, &accumulate);
        if (tn_tape_live(tape))
            tape->kernels->fill(dy, 1, BATCH * b->what->wide);
    }
    tn_drop(tape, y);
}

static void run_product(bench *b, tn_tape *tape) {
    int64_t n = b->what->wide;
    tape->flops += 2.0 * (double)(n * n * n);
    if (tn_tape_live(tape))
        tape->kernels->gemm(b->y, n, tn_rows_of(b->x, TN_DTYPE_F32, n), tn_weight_rows(&b->layers[0].weight), 1, 0, n, n, n);
}

static void run_once(bench *b, tn_tape *tape) {
    tn_tape_reset(tape);
    tape->recording = b->what->backward;
    if (b->what->backward && !tape->rehearsal)
        tape->kernels->fill(b->params.grads, 0, b->params.total);
    if (b->what->weights == NONE)
        run_product(b, tape);
    else if (b->what->narrow)
        run_model(b, tape);
    else
        run_branch(b, tape);
    if (b->what->backward)
        tn_tape_backward(tape);
    check(tn_tape_status(tape));
}

static const tn_kernels *kernels;

static void set_up(bench *b, const bench_case *what) {
    tn_tape rehearsal;
    *b = (bench){.what = what, .memory = tn_pages_alloc((size_t)memory_floats * sizeof(float))};
    if (!b->memory)
        check(tn_fail_memory("the model"));
    if (what->narrow) {
        add_layer(b, 0, what->wide, 784);
        add_layer(b, 1, what->narrow, what->wide);
        add_layer(b, 2, CLASSES, what->narrow);
    } else if (what->weights == NONE) {
        b->layers[0].weight = weight_of(random_floats(b, what->wide * what->wide, 1), what->wide, what->wide);
        b->y = random_floats(b, what->wide * what->wide, 1);
    } else {
        attach_lora(b, 0, what->wide, what->wide);
        b->y = random_floats(b, BATCH * what->wide, 1);
    }
    b->x = random_floats(b, what->weights == NONE ? what->wide * what->wide : BATCH * (what->narrow ? 784 : what->wide), 1);
    for (int i = 0; i < BATCH; i++) {
        b->rows[i] = i;
        b->labels[i] = i % CLASSES;
    }
    check(tn_params_build(&b->params, what->backward));
    check(tn_tape_init(&rehearsal, kernels, 0));
    run_once(b, &rehearsal);
    check(tn_tape_init(&b->tape, kernels, rehearsal.heap.peak + TN_HEAP_ALIGN));
    tn_tape_free(&rehearsal);
}

static void tear_down(bench *b) {
    tn_tape_free(&b->tape);
    tn_params_free(&b->params);
    tn_pages_free(b->memory, (size_t)memory_floats * sizeof(float));
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void measure(bench *b, double seconds) {
    static double times[MAX_RUNS];
    int runs = 0;
    run_once(b, &b->tape);
    for (double begin = tn_seconds(); runs < 5 || (runs < MAX_RUNS && tn_seconds() - begin < seconds); runs++) {
        double start = tn_seconds();
        run_once(b, &b->tape);
        times[runs] = tn_seconds() - start;
    }
    qsort(times, (size_t)runs, sizeof *times, by_value);
    double loss = 0;
    for (int i = 0; i < BATCH; i++)
        loss += (double)b->losses[i] / BATCH;
    printf("{\"case\": \"%s\", \"seconds\": %.9f, \"fastest\": %.9f, \"runs\": %d, \"flops\": %.0f, \"loss\": %.6f}\n",
           b->what->name, times[runs / 2], times[0], runs, b->tape.flops, loss);
    fflush(stdout);
}

static bench *find(bench *benches, const char *name) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(cases[i].name, name) != 0)
            continue;
        if (!benches[i].what)
            set_up(&benches[i], &cases[i]);
        return &benches[i];
    }
    return NULL;
}

int main(int argc, char **argv) {
    enum { CASES = sizeof cases / sizeof *cases };
    static bench benches[CASES];
    char line[256], name[64];
    double seconds = argc > 2 ? atof(argv[2]) : 0;
    const bool all = seconds > 0;
    kernels = argc > 3 && strcmp(argv[3], "bf16") == 0 ? tn_kernels_cpu_bf16() : tn_kernels_cpu();
    if (!kernels) {
        fprintf(stderr, "bench_mlp: this CPU has no products of bf16\n");
        return 2;
    }
    tn_threads_set(argc > 1 ? atoi(argv[1]) : 0);
    for (int i = 0; i < CASES && all; i++)
        measure(find(benches, cases[i].name), seconds);
    while (!all && fgets(line, sizeof line, stdin)) {
        bench *b = sscanf(line, "%63s %lf", name, &seconds) == 2 ? find(benches, name) : NULL;
        if (!b) {
            fprintf(stderr, "bench_mlp: no case in \"%s\"; lines are CASE SECONDS\n", line);
            return 2;
        }
        measure(b, seconds);
    }
    for (int i = 0; i < CASES; i++)
        if (benches[i].what)
            tear_down(&benches[i]);
    return 0;
}
