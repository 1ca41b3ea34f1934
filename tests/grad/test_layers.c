/* Norms, activations, pools and losses of plain networks: gradients by central differences, values by their formulas. */
#include "gradient_check.h"

enum { T = 6, C = 5, S = 3 };

/* --- gradients --- */

static tn_var *run_layernorm(const operands *in) {
    return tn_op_layernorm(in->tape, in->values[0], in->weights[1], NULL, 1e-5f);
}
static tn_var *run_layernorm_with_bias(const operands *in) {
    return tn_op_layernorm(in->tape, in->values[0], in->weights[1], in->weights[2], 1e-5f);
}
static tn_var *run_residual_layernorm(const operands *in) {
    tn_var *y = tn_op_layernorm(in->tape, in->values[0], in->weights[1], in->weights[2], 1e-5f);
    tn_op_add(in->tape, y, in->values[0], 1);
    return y;
}
static tn_var *batchnorm(const operands *in, const tn_weight *weight, const tn_weight *bias, int64_t channels,
                         bool training) {
    static float mean[C * S], var[C * S];
    for (int i = 0; i < C * S; i++) {
        mean[i] = (float)(i % 4) * 0.25f - 0.3f;
        var[i] = (float)(i % 3) * 0.5f + 0.6f;
    }
    return tn_op_batchnorm(in->tape, in->values[0], channels, weight, bias, mean, var, 1e-5f, 0.1f, training);
}
static tn_var *run_batchnorm(const operands *in) {
    return batchnorm(in, in->weights[1], in->weights[2], C, true);
}
static tn_var *run_batchnorm_without_weights(const operands *in) {
    return batchnorm(in, NULL, NULL, C * S, true);
}
static tn_var *run_residual_batchnorm(const operands *in) {
    tn_var *y = batchnorm(in, in->weights[1], in->weights[2], C, true);
    tn_op_add(in->tape, y, in->values[0], 1);
    return y;
}
static tn_var *run_fixed_batchnorm(const operands *in) {
    return batchnorm(in, in->weights[1], in->weights[2], C, false);
}

/* The op may write the gradient over the value, so that it is one of its own. */
static tn_var *activated(const operands *in, tn_var *(*op)(tn_tape *, tn_var *)) {
    tn_var *x = copied(in->tape, in->values[0]), *y = op(in->tape, x);
    tn_drop(in->tape, x);
    return y;
}
static tn_var *gelu(tn_tape *tape, tn_var *x) {
    return tn_op_gelu(tape, x, false);
}
static tn_var *gelu_tanh(tn_tape *tape, tn_var *x) {
    return tn_op_gelu(tape, x, true);
}
static tn_var *run_gelu(const operands *in) {
    return activated(in, gelu);
}
static tn_var *run_gelu_tanh(const operands *in) {
    return activated(in, gelu_tanh);
}
static tn_var *run_silu(const operands *in) {
    return activated(in, tn_op_silu);
}
static tn_var *run_tanh(const operands *in) {
    return activated(in, tn_op_tanh);
}
static tn_var *run_residual_tanh(const operands *in) {
    tn_var *y = tn_op_tanh(in->tape, in->values[0]);
    tn_op_add(in->tape, y, in->values[0], 1);
    return y;
}

static const tn_conv_shape strided = {.in_channels = 2,
                                      .height = 5,
                                      .width = 4,
                                      .kernel_height = 3,
                                      .kernel_width = 2,
                                      .stride_height = 2,
                                      .stride_width = 1,
                                      .padding_height = 1,
                                      .padding_width = 1,
                                      .dilation_height = 1,
                                      .dilation_width = 1};
static const tn_conv_shape same_size = {.in_channels = 2,
                                        .height = 5,
                                        .width = 4,
                                        .kernel_height = 3,
                                        .kernel_width = 3,
                                        .stride_height = 1,
                                        .stride_width = 1,
                                        .padding_height = 1,
                                        .padding_width = 1,
                                        .dilation_height = 1,
                                        .dilation_width = 1};

/* Maxima change where two elements are equal: they are moved far apart. */
static tn_var *spread_out(const operands *in) {
    tn_var *x = copied(in->tape, in->values[0]);
    for (int64_t i = 0; x->data && i < x->rows * x->cols; i++)
        x->data[i] += (float)(i * 37 % 41) * 8;
    return x;
}
static tn_var *run_max_pool(const operands *in) {
    tn_var *x = spread_out(in), *y = tn_op_max_pool2d(in->tape, x, &strided);
    tn_drop(in->tape, x);
    return y;
}
static tn_var *run_residual_max_pool(const operands *in) {
    tn_var *x = spread_out(in), *y = tn_op_max_pool2d(in->tape, x, &same_size);
    tn_op_add(in->tape, y, x, 1);
    tn_drop(in->tape, x);
    return y;
}
static tn_var *run_avg_pool(const operands *in) {
    return tn_op_avg_pool2d(in->tape, in->values[0], &strided);
}
static tn_var *run_residual_avg_pool(const operands *in) {
    tn_var *y = tn_op_avg_pool2d(in->tape, in->values[0], &same_size);
    tn_op_add(in->tape, y, in->values[0], 1);
    return y;
}
static tn_var *run_global_avg_pool(const operands *in) {
    return tn_op_global_avg_pool(in->tape, in->values[0], C);
}
static const float some_norms[C] = {0.5f, 2, 1.5f, 0.75f, 3};
static tn_var *run_magnitude_of_channels(const operands *in) {
    return tn_op_magnitude(in->tape, in->values[0], in->weights[1], some_norms, in->weights[2]);
}
static tn_var *run_scale_channels(const operands *in) {
    return tn_op_scale_columns(in->tape, in->values[0], in->weights[1]);
}

static const op_case op_cases[] = {
    {"layernorm", run_layernorm, 2, {{T, C *S, false}, {1, C *S, true}}},
    {"layernorm with bias", run_layernorm_with_bias, 3, {{T, C *S, false}, {1, C *S, true}, {1, C *S, true}}},
    {"residual layernorm", run_residual_layernorm, 3, {{T, C *S, false}, {1, C *S, true}, {1, C *S, true}}},
    {"batchnorm", run_batchnorm, 3, {{T, C *S, false}, {1, C, true}, {1, C, true}}},
    {"batchnorm without weights", run_batchnorm_without_weights, 1, {{2 * T, C *S, false}}},
    {"residual batchnorm", run_residual_batchnorm, 3, {{T, C *S, false}, {1, C, true}, {1, C, true}}},
    {"batchnorm by running statistics", run_fixed_batchnorm, 3, {{T, C *S, false}, {1, C, true}, {1, C, true}}},
    {"gelu", run_gelu, 1, {{T, C, false}}},
    {"gelu by tanh", run_gelu_tanh, 1, {{T, C, false}}},
    {"silu", run_silu, 1, {{T, C, false}}},
    {"tanh", run_tanh, 1, {{T, C, false}}},
    {"residual tanh", run_residual_tanh, 1, {{T, C, false}}},
    {"max pool", run_max_pool, 1, {{3, 2 * 5 * 4, false}}},
    {"residual max pool", run_residual_max_pool, 1, {{3, 2 * 5 * 4, false}}},
    {"average pool", run_avg_pool, 1, {{3, 2 * 5 * 4, false}}},
    {"residual average pool", run_residual_avg_pool, 1, {{3, 2 * 5 * 4, false}}},
    {"global average pool", run_global_avg_pool, 1, {{T, C *S, false}}},
    {"magnitude of channels", run_magnitude_of_channels, 3, {{T, C *S, false}, {1, C, true}, {1, C, true}}},
    {"scale channels", run_scale_channels, 2, {{T, C *S, false}, {1, C, true}}},
};

/* --- values --- */

static tn_var *value_of(tn_tape *tape, const float *numbers, int64_t rows, int64_t cols) {
    tn_var *x = tn_var_new(tape, rows, cols, true);
    memcpy(x->data, numbers, (size_t)(rows * cols) * sizeof(float));
    return x;
}

static tn_weight frozen(float *numbers, int64_t count) {
    return (tn_weight){.tensor = {.ndim = 1, .shape = {count}, .data = numbers}};
}

/* Mean and biased variance of count elements. */
static void moments(double *mean, double *var, const float *x, int64_t count) {
    *mean = *var = 0;
    for (int64_t i = 0; i < count; i++)
        *mean += x[i] / (double)count;
    for (int64_t i = 0; i < count; i++)
        *var += (x[i] - *mean) * (x[i] - *mean) / (double)count;
}

/* Also far from 0, where the mean is a thousand deviations large and f32 holds x to 2^-14 of one. */
static void layernorm_is_its_formula(void **state) {
    enum { COLS = 77 };
    static float x[T * COLS], w[COLS], b[COLS];
    (void)state;
    for (int far = 0; far < 2; far++) {
        tn_tape tape;
        tn_fill_normal(x, T * COLS, 3, 1, far ? 1000 : 0.5f, 1);
        tn_fill_normal(w, COLS, 3, 2, 0, 1);
        tn_fill_normal(b, COLS, 3, 3, 0, 1);
        tn_weight weight = frozen(w, COLS), bias = frozen(b, COLS);
        assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), RESERVE));
        tn_var *y = tn_op_layernorm(&tape, value_of(&tape, x, T, COLS), &weight, &bias, 1e-3f);
        for (int t = 0; t < T; t++) {
            double mean, var;
            moments(&mean, &var, x + t * COLS, COLS);
            for (int c = 0; c < COLS; c++) {
                double want = (x[t * COLS + c] - mean) / sqrt(var + 1e-3) * w[c] + b[c];
                assert_true(fabs(y->data[t * COLS + c] - want) <= (far ? 3e-4 : 3e-6));
            }
        }
        tn_tape_free(&tape);
    }
}

/* What channel c of x [T, C * S] holds, together. */
static void channel_of(float out[T * S], const float *x, int c) {
    for (int t = 0; t < T; t++)
        memcpy(out + t * S, x + t * C * S + c * S, S * sizeof(float));
}

static void batchnorm_is_its_formula_and_keeps_running_statistics(void **state) {
    float x[T * C * S], w[C], b[C], mean[C], var[C], kept_mean[C], kept_var[C];
    (void)state;
    tn_fill_normal(x, T * C * S, 4, 1, 3, 2);
    tn_fill_normal(w, C, 4, 2, 0, 1);
    tn_fill_normal(b, C, 4, 3, 0, 1);
    for (int training = 0; training < 2; training++) {
        tn_tape tape;
        tn_weight weight = frozen(w, C), bias = frozen(b, C);
        for (int c = 0; c < C; c++) {
            mean[c] = kept_mean[c] = 2.5f + (float)c / 8;
            var[c] = kept_var[c] = 3 + (float)c / 4;
        }
        assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), RESERVE));
        tn_var *y =
            tn_op_batchnorm(&tape, value_of(&tape, x, T, C * S), C, &weight, &bias, mean, var, 1e-3f, 0.3f, training);
        for (int c = 0; c < C; c++) {
            float column[T * S], got[T * S];
            double m = kept_mean[c], v = kept_var[c];
            channel_of(column, x, c);
            channel_of(got, y->data, c);
            if (training)
                moments(&m, &v, column, T * S);
            for (int i = 0; i < T * S; i++)
                assert_true(fabs(got[i] - ((column[i] - m) / sqrt(v + 1e-3) * w[c] + b[c])) <= 3e-6);
            assert_true(fabs(mean[c] - (training ? 0.7 * kept_mean[c] + 0.3 * m : m)) <= 2e-6);
            assert_true(fabs(var[c] - (training ? 0.7 * kept_var[c] + 0.3 * v * (T * S) / (T * S - 1.0) : v)) <= 2e-6);
        }
        tn_tape_free(&tape);
    }
}

typedef struct {
    float mean[C], var[C];
} running;

static tn_var *normalised(tn_tape *tape, void *context, tn_var *in) {
    running *r = context;
    return tn_op_batchnorm(tape, in, C, NULL, NULL, r->mean, r->var, 1e-5f, 0.1f, true);
}

/* A block that runs again for its gradient has seen the batch already. */
static void recomputation_leaves_running_statistics(void **state) {
    float x[T * C * S];
    running plain = {{0}, {1, 1, 1, 1, 1}}, again = plain;
    (void)state;
    tn_fill_normal(x, T * C * S, 4, 1, 3, 2);
    for (int checkpointed = 0; checkpointed < 2; checkpointed++) {
        tn_tape tape;
        assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), RESERVE));
        tape.recording = true;
        tn_var *in = value_of(&tape, x, T, C * S);
        tn_var *y = checkpointed ? tn_checkpointed(&tape, normalised, &again, in) : normalised(&tape, &plain, in);
        y->grad = tn_scratch_take(&tape, T * C * S);
        tape.kernels->fill(y->grad.data, 1, T * C * S);
        tn_drop(&tape, y);
        tn_tape_backward(&tape);
        assert_true(in->grad.taken);
        assert_ok(tn_tape_status(&tape));
        tn_tape_free(&tape);
    }
    assert_memory_equal(&plain, &again, sizeof plain);
    assert_true(plain.mean[0] != 0);
}

/* Over the elements of the window that exist, in order. */
static double pooled(const float *plane, const tn_conv_shape *s, int64_t oy, int64_t ox, bool largest) {
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < s->kernel_height; i++) {
        for (int64_t j = 0; j < s->kernel_width; j++) {
            int64_t y = oy * s->stride_height - s->padding_height + i, x = ox * s->stride_width - s->padding_width + j;
            if (y < 0 || y >= s->height || x < 0 || x >= s->width)
                continue;
            max = fmax(max, plane[y * s->width + x]);
            sum += plane[y * s->width + x];
        }
    }
    return largest ? max : sum / (double)(s->kernel_height * s->kernel_width);
}

static void pools_are_their_formulas(void **state) {
    const tn_conv_shape *shapes[] = {&strided, &same_size};
    float x[3 * 40];
    (void)state;
    tn_fill_normal(x, 3 * 40, 6, 1, -5, 1);
    for (int i = 0; i < 4; i++) {
        const tn_conv_shape *s = shapes[i / 2];
        int64_t width = tn_conv_out_width(s), positions = tn_conv_out_height(s) * width;
        tn_tape tape;
        assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), RESERVE));
        assert_ok(tn_pool_shape_check(s));
        tn_var *in = value_of(&tape, x, 3, 40), *y = i % 2 ? tn_op_max_pool2d(&tape, in, s) : tn_op_avg_pool2d(&tape, in, s);
        assert_int_equal(y->cols, 2 * positions);
        for (int64_t at = 0; at < 3 * 2 * positions; at++) {
            int64_t q = at % positions;
            double want = pooled(x + at / positions * 20, s, q / width, q % width, i % 2);
            assert_true(fabs(y->data[at] - want) <= 1e-6);
        }
        tn_tape_free(&tape);
    }
}

/* Equal elements: the first gets the gradient. NaN is the largest of all. */
static void first_maximum_gets_the_gradient_and_nan_wins(void **state) {
    const tn_conv_shape whole = {.in_channels = 1,
                                 .height = 2,
                                 .width = 3,
                                 .kernel_height = 2,
                                 .kernel_width = 3,
                                 .stride_height = 1,
                                 .stride_width = 1,
                                 .dilation_height = 1,
                                 .dilation_width = 1};
    const float x[3 * 6] = {1, 7, 2, 7, 7, 0, -4, -4, -4, -4, -4, -4, 3, NAN, 9, 1, 2, 3};
    const float want[3 * 6] = {0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0};
    tn_tape tape;
    (void)state;
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), RESERVE));
    tape.recording = true;
    tn_var *in = value_of(&tape, x, 3, 6), *y = tn_op_max_pool2d(&tape, in, &whole);
    assert_true(y->data[0] == 7 && y->data[1] == -4 && isnan(y->data[2]));
    y->grad = tn_scratch_take(&tape, 3);
    tape.kernels->fill(y->grad.data, 1, 3);
    tn_drop(&tape, y);
    tn_tape_backward(&tape);
    assert_memory_equal(in->grad.data, want, sizeof want);
    tn_tape_free(&tape);
}

/* --- losses --- */

enum { K = 4 };

/* The loss of a copy of x, or of max(x, 0), whose op needs the value for its way back. Returns scale * sum(losses), and x's
 * gradient when recording. */
static double loss_of(const tn_kernels *kernels, const float *x, bool classes, bool recording, bool keep_value,
                      float *losses, int32_t *predicted, float *dx) {
    static const int32_t labels[T] = {0, 3, 1, 1, 2, 0};
    static const float targets[T * K] = {1, -1, 0.5f, 2, 0, 0, 0.25f, -3};
    tn_tape tape;
    double sum = 0;
    const float scale = 0.75f;
    assert_ok(tn_tape_init(&tape, kernels, RESERVE));
    tape.recording = recording;
    tn_var *in = value_of(&tape, x, T, K), *y = copied(&tape, in);
    if (keep_value)
        tn_op_relu(&tape, y);
    if (classes)
        tn_op_class_loss(&tape, y, labels, scale, losses, predicted);
    else
        tn_op_squared_error(&tape, y, targets, scale, losses);
    for (int t = 0; t < T; t++) {
        double want = 0, total = 0;
        for (int k = 0; k < K; k++) {
            double z = keep_value ? fmax(x[t * K + k], 0) : x[t * K + k];
            double label = keep_value ? fmax(x[t * K + labels[t]], 0) : x[t * K + labels[t]];
            total += exp(z - label);
            want += (z - targets[t * K + k]) * (z - targets[t * K + k]) / K;
        }
        assert_true(fabs(losses[t] - (classes ? log(total) : want)) <= 2e-6 * (1 + want));
        sum += (double)scale * losses[t];
    }
    tn_drop(&tape, y);
    assert_true(y->grad.taken == recording);
    tn_tape_backward(&tape);
    if (recording)
        memcpy(dx, in->grad.data, T * K * sizeof(float));
    assert_ok(tn_tape_status(&tape));
    tn_tape_free(&tape);
    return sum;
}

static void losses_are_their_formulas_with_their_gradients(void **state) {
    const tn_kernels *tables[] = {tn_kernels_by_name("reference"), tn_kernels_cpu()};
    float x[T * K], losses[T], dx[T * K];
    int32_t predicted[T];
    (void)state;
    tn_fill_normal(x, T * K, 8, 1, 0, 1);
    for (int i = 0; i < T * K; i++)
        x[i] += x[i] > 0 ? 0.1f : -0.1f; /* away from where relu turns */
    x[4] = x[5] = 3;
    for (int i = 0; i < 8; i++) {
        bool classes = i % 2, keep = i / 2 % 2;
        loss_of(tables[i / 4], x, classes, true, keep, losses, predicted, dx);
        for (int j = 0; j < T * K; j++) {
            float kept = x[j], ignored[T];
            x[j] = kept + STEP;
            double up = loss_of(tables[0], x, classes, false, keep, losses, NULL, ignored);
            x[j] = kept - STEP;
            double down = loss_of(tables[0], x, classes, false, keep, losses, NULL, ignored);
            x[j] = kept;
            assert_true(fabs((up - down) / (2 * (double)STEP) - (double)dx[j]) <= 2e-4);
        }
        for (int t = 0; classes && !keep && t < T; t++)
            for (int k = 0; k < K; k++)
                assert_true(x[t * K + k] < x[t * K + predicted[t]] ||
                            (x[t * K + k] == x[t * K + predicted[t]] && k >= predicted[t]));
    }
}

int main(void) {
    enum { CASES = sizeof op_cases / sizeof *op_cases, OTHERS = 6 };
    const struct CMUnitTest others[OTHERS] = {
        cmocka_unit_test(layernorm_is_its_formula),
        cmocka_unit_test(batchnorm_is_its_formula_and_keeps_running_statistics),
        cmocka_unit_test(recomputation_leaves_running_statistics),
        cmocka_unit_test(pools_are_their_formulas),
        cmocka_unit_test(first_maximum_gets_the_gradient_and_nan_wins),
        cmocka_unit_test(losses_are_their_formulas_with_their_gradients),
    };
    struct CMUnitTest tests[CASES + OTHERS];
    add_gradient_tests(tests, op_cases, CASES);
    memcpy(tests + CASES, others, sizeof others);
    return cmocka_run_group_tests_name("layers of plain networks", tests, NULL, NULL);
}
