/* Each product runs by Tenon's own kernels and by OpenBLAS, and the faster counts, so that the limit is the machine's and
 * not that of the code under test. */
#include "bench/limits.h"

#include <cblas.h>

#include "base/clock.h"
#include "base/rng.h"

enum {
    WIDEST = 16384, /* columns of a vocabulary that are enough to tell how fast its product is */
    MEMORY = 256 << 20,
    PIECE_FLOATS = 1 << 20, /* of a convolution's operands */
    READS = 4,              /* in a round */
    MOST_PRODUCTS = 100,    /* of a shape in a round */
};

/* Small products are repeated for so long in a round: the first of them finds its operands in no cache. */
static const double PRODUCT_SECONDS = 0.005;

static void add_product(tn_limits *l, int64_t rows, int64_t in, int64_t out, bool backward) {
    for (int64_t i = 0; i < l->count; i++)
        if (l->shapes[i].rows == rows && l->shapes[i].in == in && l->shapes[i].out == out &&
            l->shapes[i].backward == backward)
            return;
    if (rows > 0 && l->count < TN_LIMIT_SHAPES)
        l->shapes[l->count++] = (tn_limit_shape){.rows = rows, .in = in, .out = out, .backward = backward};
}

static void add_linear(tn_limits *l, int64_t rows, const tn_module *module, bool backward) {
    const tn_weight *w = tn_module_weight(module);
    int64_t out = tn_weight_out(w) < WIDEST ? tn_weight_out(w) : WIDEST;
    add_product(l, rows, tn_weight_in(w), out, backward);
}

/* A convolution is a product whose rows are the output's positions, as many at a time as caches hold. */
static void add_conv(tn_limits *l, int64_t samples, const tn_module *module) {
    const tn_conv_shape *s = &module->conv;
    int64_t in = s->in_channels / s->groups * s->kernel_height * s->kernel_width, out = s->out_channels / s->groups;
    int64_t rows = samples * tn_conv_out_height(s) * tn_conv_out_width(s), most = PIECE_FLOATS / (in + out) + 1;
    add_product(l, rows < most ? rows : most, in, out, false);
    add_product(l, rows < most ? rows : most, in, out, true);
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static float *random_floats(int64_t count, uint32_t which) {
    float *values = tn_pages_alloc((size_t)count * sizeof *values);
    if (values)
        tn_fill_uniform(values, (size_t)count, 0, tn_stream(TN_STREAM_DATA, which), -1, 1);
    return values;
}

/* The blocks of a language model are alike: its first, and the head. */
static void add_decoder(tn_limits *l, const tn_model *model, int64_t training_rows, int64_t prompt_rows) {
    const tn_network *n = model->network;
    for (int64_t i = 0; i < n->module_count; i++) {
        const tn_module *module = &n->modules[i];
        if (module->kind != TN_MODULE_LINEAR || module->layer != 0)
            continue;
        add_linear(l, training_rows, module, false);
        add_linear(l, training_rows, module, true);
        add_linear(l, prompt_rows, module, false);
    }
    int64_t head_rows = tn_head_loss_rows(l->kernels, false, model->decoder->config.vocab_size, training_rows);
    add_linear(l, head_rows, n->head, false);
    add_linear(l, head_rows, n->head, true);
}

static void add_sequential(tn_limits *l, const tn_network *n, int64_t rows) {
    for (int64_t i = 0; i < n->module_count; i++) {
        const tn_module *module = &n->modules[i];
        if (module->kind == TN_MODULE_CONV2D)
            add_conv(l, rows, module);
        if (module->kind != TN_MODULE_LINEAR)
            continue;
        add_linear(l, rows, module, false);
        add_linear(l, rows, module, true);
    }
}

tn_status tn_limits_init(tn_limits *l, const tn_model *model, int64_t training_rows, int64_t prompt_rows) {
    *l = (tn_limits){.kernels = model->kernels};
    if (model->decoder)
        add_decoder(l, model, training_rows, prompt_rows);
    else
        add_sequential(l, model->network, training_rows);
    for (int64_t i = 0; i < l->count; i++) {
        const tn_limit_shape *s = &l->shapes[i];
        l->x_count = larger(l->x_count, s->rows * larger(s->in, s->out));
        l->w_count = larger(l->w_count, s->in * s->out);
    }
    l->y_count = l->x_count;
    l->x = random_floats(l->x_count, 0);
    l->w = random_floats(l->w_count, 1);
    l->y = random_floats(l->y_count, 2);
    l->memory = tn_pages_alloc(MEMORY);
    if (!l->x || !l->w || !l->y || !l->memory)
        return tn_fail_memory("the measurement of the machine");
    for (int64_t i = 0; i < MEMORY; i += 4096) /* untouched pages would all be the one page of zeros */
        l->memory[i] = 1;
    openblas_set_num_threads(tn_threads());
    return TN_OK;
}

void tn_limits_free(tn_limits *l) {
    tn_pages_free(l->x, (size_t)l->x_count * sizeof *l->x);
    tn_pages_free(l->w, (size_t)l->w_count * sizeof *l->w);
    tn_pages_free(l->y, (size_t)l->y_count * sizeof *l->y);
    tn_pages_free(l->memory, MEMORY);
    *l = (tn_limits){0};
}

static double time_ours(const tn_limits *l, const tn_limit_shape *s) {
    tn_operand w = s->backward ? tn_rows_of(l->w, TN_DTYPE_F32, s->in) : tn_transpose_of(l->w, TN_DTYPE_F32, s->in);
    int64_t depth = s->backward ? s->out : s->in, width = s->backward ? s->in : s->out;
    double start = tn_seconds();
    l->kernels->gemm(l->y, width, tn_rows_of(l->x, TN_DTYPE_F32, depth), w, 1, 0, s->rows, width, depth);
    return tn_seconds() - start;
}

static double time_blas(const tn_limits *l, const tn_limit_shape *s) {
    int64_t depth = s->backward ? s->out : s->in, width = s->backward ? s->in : s->out;
    double start = tn_seconds();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, s->backward ? CblasNoTrans : CblasTrans, (blasint)s->rows, (blasint)width,
                (blasint)depth, 1, l->x, (blasint)depth, l->w, (blasint)s->in, 0, l->y, (blasint)width);
    return tn_seconds() - start;
}

/* Looking for NaN takes no time beside reading; each thread walks a part of the memory with wide loads. */
static double time_read(const tn_limits *l) {
    double start = tn_seconds();
    bool finite = l->kernels->all_finite((const float *)(const void *)l->memory, MEMORY / (int64_t)sizeof(float));
    return finite ? tn_seconds() - start : 0;
}

static double at_least(double a, double b) {
    return a > b ? a : b;
}

double tn_limits_read(tn_limits *l) {
    const double bandwidth = MEMORY / time_read(l);
    l->round.read_bandwidth = at_least(l->round.read_bandwidth, bandwidth);
    l->best.read_bandwidth = at_least(l->best.read_bandwidth, bandwidth);
    return bandwidth;
}

/* Seconds of a product by whoever is faster. */
static double time_fastest(const tn_limits *l, const tn_limit_shape *s) {
    double fastest = 0, begin = tn_seconds();
    for (int i = 0; i == 0 || (i < MOST_PRODUCTS && tn_seconds() - begin < PRODUCT_SECONDS); i++) {
        double ours = time_ours(l, s), blas = time_blas(l, s), one = ours < blas ? ours : blas;
        fastest = i == 0 || one < fastest ? one : fastest;
    }
    return fastest;
}

void tn_limits_measure(tn_limits *l) {
    double flops = 0, seconds = 0, best_seconds = 0;
    l->round = (tn_bench_limits){0};
    for (int64_t i = 0; i < l->count; i++) {
        tn_limit_shape *s = &l->shapes[i];
        double work = 2.0 * (double)s->rows * (double)s->in * (double)s->out;
        double fastest = time_fastest(l, s);
        s->best = s->best > 0 && s->best < fastest ? s->best : fastest;
        l->round.sgemm_flops = at_least(l->round.sgemm_flops, work / fastest);
        flops += work;
        seconds += fastest;
        best_seconds += s->best;
    }
    if (seconds > 0) {
        l->round.sgemm_mix_flops = flops / seconds;
        l->best.sgemm_mix_flops = flops / best_seconds;
    }
    l->best.sgemm_flops = at_least(l->best.sgemm_flops, l->round.sgemm_flops);
    for (int i = 0; i < READS; i++)
        tn_limits_read(l);
}
