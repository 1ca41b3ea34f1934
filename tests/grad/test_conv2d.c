/* Convolutions: their gradients by central differences, and everything beside a plain loop over all seven indices. */
#include "gradient_check.h"

#include "tensor/tensor.h"

static tn_conv_shape shape_of(int64_t in, int64_t out, int64_t height, int64_t width, int64_t kernel_height,
                              int64_t kernel_width) {
    return (tn_conv_shape){.in_channels = in,
                           .out_channels = out,
                           .height = height,
                           .width = width,
                           .kernel_height = kernel_height,
                           .kernel_width = kernel_width,
                           .stride_height = 1,
                           .stride_width = 1,
                           .dilation_height = 1,
                           .dilation_width = 1,
                           .groups = 1};
}

static tn_conv_shape with_steps(tn_conv_shape s, int64_t stride_height, int64_t stride_width, int64_t padding_height,
                                int64_t padding_width, int64_t dilation_height, int64_t dilation_width, int64_t groups) {
    s.stride_height = stride_height;
    s.stride_width = stride_width;
    s.padding_height = padding_height;
    s.padding_width = padding_width;
    s.dilation_height = dilation_height;
    s.dilation_width = dilation_width;
    s.groups = groups;
    return s;
}

/* --- gradients --- */

static tn_var *run_plain(const operands *in) {
    tn_conv_shape s = with_steps(shape_of(2, 3, 4, 5, 3, 2), 1, 1, 1, 0, 1, 1, 1);
    return tn_op_conv2d(in->tape, in->values[0], &s, in->weights[1], in->weights[2]);
}
static tn_var *run_in_groups(const operands *in) {
    tn_conv_shape s = with_steps(shape_of(4, 6, 5, 4, 2, 2), 2, 1, 1, 2, 1, 2, 2);
    return tn_op_conv2d(in->tape, in->values[0], &s, in->weights[1], NULL);
}
static tn_var *run_depthwise(const operands *in) {
    tn_conv_shape s = with_steps(shape_of(3, 3, 4, 4, 3, 3), 1, 1, 1, 1, 1, 1, 3);
    return tn_op_conv2d(in->tape, in->values[0], &s, in->weights[1], in->weights[2]);
}
static tn_var *run_point(const operands *in) {
    tn_conv_shape s = shape_of(4, 3, 2, 3, 1, 1);
    return tn_op_conv2d(in->tape, in->values[0], &s, in->weights[1], in->weights[2]);
}
static tn_var *run_point_of_large_planes(const operands *in) {
    tn_conv_shape s = shape_of(2, 3, 8, 8, 1, 1);
    return tn_op_conv2d(in->tape, in->values[0], &s, in->weights[1], in->weights[2]);
}
/* Convolutions that keep the size, added to their input: gradients of x add up. */
static tn_var *run_residual(const operands *in) {
    tn_conv_shape s = with_steps(shape_of(2, 2, 4, 4, 3, 3), 1, 1, 1, 1, 1, 1, 1);
    tn_var *y = tn_op_conv2d(in->tape, in->values[0], &s, in->weights[1], NULL);
    tn_op_add(in->tape, y, in->values[0], 1);
    return y;
}
static tn_var *run_residual_point(const operands *in) {
    tn_conv_shape s = with_steps(shape_of(2, 2, 8, 8, 1, 1), 1, 1, 0, 0, 1, 1, 2);
    tn_var *y = tn_op_conv2d(in->tape, in->values[0], &s, in->weights[1], NULL);
    tn_op_add(in->tape, y, in->values[0], 1);
    return y;
}
/* LoRA of a convolution: A with the base's geometry, B a 1 x 1 kernel in as many groups. */
static tn_var *run_low_rank(const operands *in) {
    tn_conv_shape a = with_steps(shape_of(4, 2, 4, 4, 3, 3), 2, 1, 1, 1, 1, 1, 2), b = shape_of(2, 6, 2, 4, 1, 1);
    b.groups = 2;
    tn_var *u = tn_op_conv2d(in->tape, in->values[0], &a, in->weights[1], NULL);
    tn_var *y = tn_op_conv2d(in->tape, u, &b, in->weights[2], NULL);
    tn_drop(in->tape, u);
    return y;
}

static const op_case op_cases[] = {
    {"conv2d", run_plain, 3, {{2, 2 * 4 * 5, false}, {3, 2 * 3 * 2, true}, {1, 3, true}}},
    {"conv2d in groups", run_in_groups, 2, {{2, 4 * 5 * 4, false}, {6, 2 * 2 * 2, true}}},
    {"depthwise conv2d", run_depthwise, 3, {{3, 3 * 4 * 4, false}, {3, 9, true}, {1, 3, true}}},
    {"1 x 1 conv2d", run_point, 3, {{3, 4 * 2 * 3, false}, {3, 4, true}, {1, 3, true}}},
    {"1 x 1 conv2d of large planes", run_point_of_large_planes, 3, {{2, 2 * 64, false}, {3, 2, true}, {1, 3, true}}},
    {"residual conv2d", run_residual, 2, {{2, 2 * 16, false}, {2, 18, true}}},
    {"residual 1 x 1 conv2d", run_residual_point, 2, {{2, 2 * 64, false}, {2, 1, true}}},
    {"low-rank conv2d", run_low_rank, 3, {{2, 4 * 16, false}, {2, 2 * 9, true}, {6, 1, true}}},
};

/* --- beside plain loops --- */

typedef struct {
    const char *name;
    int64_t samples;
    tn_conv_shape shape;
} reference_case;

/* One run's numbers; all but x, w, dy are results. */
typedef struct {
    int64_t x_count, w_count, y_count, bias_count;
    float *x, *w, *bias, *dy, *y, *dx, *dw, *dbias;
} numbers;

static numbers new_numbers(const reference_case *c) {
    const tn_conv_shape *s = &c->shape;
    numbers n = {.x_count = c->samples * s->in_channels * s->height * s->width,
                 .w_count = s->out_channels * s->in_channels / s->groups * s->kernel_height * s->kernel_width,
                 .y_count = c->samples * s->out_channels * tn_conv_out_height(s) * tn_conv_out_width(s),
                 .bias_count = s->out_channels};
    float **all[] = {&n.x, &n.dx, &n.w, &n.dw, &n.y, &n.dy, &n.bias, &n.dbias};
    int64_t counts[] = {n.x_count, n.x_count, n.w_count, n.w_count, n.y_count, n.y_count, n.bias_count, n.bias_count};
    for (int i = 0; i < 8; i++) {
        *all[i] = calloc((size_t)counts[i], sizeof(float));
        assert_non_null(*all[i]);
    }
    tn_fill_normal(n.x, (size_t)n.x_count, 5, 1, 0, 1);
    tn_fill_normal(n.w, (size_t)n.w_count, 5, 2, 0, 1);
    tn_fill_normal(n.bias, (size_t)n.bias_count, 5, 3, 0, 1);
    tn_fill_normal(n.dy, (size_t)n.y_count, 5, 4, 0, 1);
    return n;
}

static void free_numbers(numbers *n) {
    float *all[] = {n->x, n->dx, n->w, n->dw, n->y, n->dy, n->bias, n->dbias};
    for (int i = 0; i < 8; i++)
        free(all[i]);
}

/* One output element with its share of the gradients. */
static void element_of_reference(numbers *n, const tn_conv_shape *s, int64_t sample, int64_t o, int64_t oy, int64_t ox,
                                 double *dx, double *dw) {
    int64_t in = s->in_channels / s->groups, first = o / (s->out_channels / s->groups) * in;
    int64_t at = ((sample * s->out_channels + o) * tn_conv_out_height(s) + oy) * tn_conv_out_width(s) + ox;
    double sum = n->bias[o];
    for (int64_t c = 0; c < in; c++) {
        for (int64_t i = 0; i < s->kernel_height; i++) {
            for (int64_t j = 0; j < s->kernel_width; j++) {
                int64_t y = oy * s->stride_height - s->padding_height + i * s->dilation_height;
                int64_t x = ox * s->stride_width - s->padding_width + j * s->dilation_width;
                if (y < 0 || y >= s->height || x < 0 || x >= s->width)
                    continue;
                int64_t from = ((sample * s->in_channels + first + c) * s->height + y) * s->width + x;
                int64_t weight = ((o * in + c) * s->kernel_height + i) * s->kernel_width + j;
                sum += (double)n->w[weight] * n->x[from];
                dx[from] += (double)n->w[weight] * n->dy[at];
                dw[weight] += (double)n->x[from] * n->dy[at];
            }
        }
    }
    n->y[at] = (float)sum;
    n->dbias[o] += n->dy[at];
}

static void run_reference(numbers *n, const reference_case *c) {
    const tn_conv_shape *s = &c->shape;
    double *dx = calloc((size_t)n->x_count, sizeof *dx), *dw = calloc((size_t)n->w_count, sizeof *dw);
    assert_true(dx && dw);
    for (int64_t sample = 0; sample < c->samples; sample++)
        for (int64_t o = 0; o < s->out_channels; o++)
            for (int64_t oy = 0; oy < tn_conv_out_height(s); oy++)
                for (int64_t ox = 0; ox < tn_conv_out_width(s); ox++)
                    element_of_reference(n, s, sample, o, oy, ox, dx, dw);
    for (int64_t i = 0; i < n->x_count; i++)
        n->dx[i] = (float)dx[i];
    for (int64_t i = 0; i < n->w_count; i++)
        n->dw[i] = (float)dw[i];
    free(dx);
    free(dw);
}

/* Forward and back with everything trained; a frozen weight is given in `dtype`, and only x gets a gradient. */
static void run_op(numbers *n, const reference_case *c, const tn_kernels *kernels, tn_dtype dtype, int64_t reserve,
                   int64_t *peak, double *flops) {
    tn_tape tape;
    void *stored = malloc((size_t)(n->w_count * tn_dtype_size(dtype)));
    bool trained = dtype == TN_DTYPE_F32;
    assert_non_null(stored);
    tn_convert_from_f32(stored, dtype, n->w, n->w_count);
    memset(n->dw, 0, (size_t)n->w_count * sizeof(float));
    memset(n->dbias, 0, (size_t)n->bias_count * sizeof(float));
    tn_weight weight = {.tensor = {.dtype = dtype, .ndim = 1, .shape = {n->w_count}, .data = stored},
                        .trainable = trained,
                        .grad = trained ? n->dw : NULL};
    tn_weight bias = {.tensor = {.ndim = 1, .shape = {n->bias_count}, .data = n->bias},
                      .trainable = trained,
                      .grad = trained ? n->dbias : NULL};
    assert_ok(tn_tape_init(&tape, kernels, reserve));
    tape.recording = true;
    tn_var *x = tn_var_new(&tape, c->samples, n->x_count / c->samples, true);
    if (reserve > 0)
        memcpy(x->data, n->x, (size_t)n->x_count * sizeof(float));
    tn_var *y = tn_op_conv2d(&tape, x, &c->shape, &weight, &bias);
    y->grad = tn_scratch_take(&tape, n->y_count);
    if (reserve > 0) {
        memcpy(n->y, y->data, (size_t)n->y_count * sizeof(float));
        memcpy(y->grad.data, n->dy, (size_t)n->y_count * sizeof(float));
    }
    tn_drop(&tape, y);
    tn_tape_backward(&tape);
    assert_ok(tn_tape_status(&tape));
    if (reserve > 0)
        memcpy(n->dx, x->grad.data, (size_t)n->x_count * sizeof(float));
    *peak = tape.heap.peak;
    *flops = tape.flops;
    tn_tape_free(&tape);
    free(stored);
}

/* Sums of n products of order 1 in f32: n errors of 2^-24 of partial sums of up to sqrt(n), adding up at random to 2^-24 n;
 * the largest of many is some four times that. */
static void expect_near(const char *name, const char *what, const float *got, const float *want, int64_t count,
                        double terms) {
    double difference = largest_difference(got, want, count), bound = 3e-6 + 2.5e-7 * terms;
    if (!(difference <= bound))
        fail_msg("%s: %s is off by %g, more than %g", name, what, difference, bound);
}

static void check_case(const reference_case *c, const tn_kernels *kernels, tn_dtype dtype) {
    const tn_conv_shape *s = &c->shape;
    numbers want = new_numbers(c), got = new_numbers(c);
    int64_t planned, peak;
    double planned_flops, flops, width = (double)(want.w_count / s->out_channels);
    assert_ok(tn_conv_shape_check(s));
    for (int64_t i = 0; i < want.w_count && dtype == TN_DTYPE_BF16; i++)
        want.w[i] = got.w[i] = tn_bf16_to_f32(tn_f32_to_bf16(want.w[i]));
    for (int64_t i = 0; i < want.w_count && dtype == TN_DTYPE_F16; i++)
        want.w[i] = got.w[i] = tn_f16_to_f32(tn_f32_to_f16(want.w[i]));
    run_reference(&want, c);
    run_op(&got, c, kernels, dtype, 0, &planned, &planned_flops);
    run_op(&got, c, kernels, dtype, planned, &peak, &flops);
    assert_true(peak == planned && flops == planned_flops);
    assert_true(flops == (dtype == TN_DTYPE_F32 ? 6 : 4) * (double)want.y_count * width);
    expect_near(c->name, "y", got.y, want.y, want.y_count, width);
    expect_near(c->name, "dx", got.dx, want.dx, want.x_count, width * (double)s->out_channels);
    if (dtype == TN_DTYPE_F32) {
        expect_near(c->name, "dw", got.dw, want.dw, want.w_count, (double)(want.y_count / s->out_channels));
        expect_near(c->name, "dbias", got.dbias, want.dbias, want.bias_count, (double)(want.y_count / s->out_channels));
    }
    free_numbers(&want);
    free_numbers(&got);
}

enum { REFERENCE_CASES = 9 };

/* The last two take several pieces, whose borders lie inside samples. */
static void fill_cases(reference_case cases[REFERENCE_CASES]) {
    const reference_case all[REFERENCE_CASES] = {
        {"3 x 3", 3, with_steps(shape_of(5, 7, 9, 11, 3, 3), 1, 1, 1, 1, 1, 1, 1)},
        {"strides", 2, with_steps(shape_of(3, 4, 13, 10, 5, 3), 3, 2, 2, 1, 1, 1, 1)},
        {"wide padding", 2, with_steps(shape_of(2, 2, 3, 4, 2, 3), 1, 2, 4, 5, 1, 1, 1)},
        {"dilation and groups", 2, with_steps(shape_of(6, 9, 12, 13, 3, 2), 2, 1, 2, 3, 2, 4, 3)},
        {"depthwise", 2, with_steps(shape_of(16, 32, 17, 16, 3, 3), 1, 1, 1, 1, 1, 1, 16)},
        {"1 x 1", 3, with_steps(shape_of(12, 8, 10, 9, 1, 1), 1, 1, 0, 0, 1, 1, 4)},
        {"1 x 1 with stride", 3, with_steps(shape_of(12, 8, 20, 9, 1, 1), 2, 1, 0, 0, 1, 1, 1)},
        {"pieces", 3, with_steps(shape_of(600, 3, 10, 9, 3, 3), 1, 1, 1, 1, 1, 1, 1)},
        {"pieces of large planes", 2, with_steps(shape_of(256, 2, 33, 31, 3, 3), 1, 2, 0, 1, 1, 1, 2)},
    };
    memcpy(cases, all, sizeof all);
}

static void results_are_those_of_plain_loops(void **state) {
    reference_case cases[REFERENCE_CASES];
    (void)state;
    fill_cases(cases);
    for (int i = 0; i < REFERENCE_CASES; i++) {
        check_case(&cases[i], tn_kernels_cpu(), TN_DTYPE_F32);
        check_case(&cases[i], tn_kernels_cpu(), TN_DTYPE_BF16);
        check_case(&cases[i], tn_kernels_cpu(), TN_DTYPE_F16);
    }
    for (int i = 0; i < REFERENCE_CASES - 2; i++)
        check_case(&cases[i], tn_kernels_by_name("reference"), TN_DTYPE_F32);
}

static void bits_do_not_depend_on_the_number_of_threads(void **state) {
    reference_case cases[REFERENCE_CASES];
    (void)state;
    fill_cases(cases);
    for (int i = 0; i < REFERENCE_CASES; i++) {
        numbers one = new_numbers(&cases[i]), more = new_numbers(&cases[i]);
        int64_t peaks[2];
        double flops;
        tn_threads_set(1);
        run_op(&one, &cases[i], tn_kernels_cpu(), TN_DTYPE_F32, 64 << 20, &peaks[0], &flops);
        tn_threads_set(3);
        run_op(&more, &cases[i], tn_kernels_cpu(), TN_DTYPE_F32, 64 << 20, &peaks[1], &flops);
        tn_threads_set(0);
        assert_int_equal(peaks[0], peaks[1]);
        assert_memory_equal(one.y, more.y, (size_t)one.y_count * sizeof(float));
        assert_memory_equal(one.dx, more.dx, (size_t)one.x_count * sizeof(float));
        assert_memory_equal(one.dw, more.dw, (size_t)one.w_count * sizeof(float));
        assert_memory_equal(one.dbias, more.dbias, (size_t)one.bias_count * sizeof(float));
        free_numbers(&one);
        free_numbers(&more);
    }
}

/* --- shapes --- */

static void output_sizes_are_those_of_pytorch(void **state) {
    (void)state;
    tn_conv_shape s = with_steps(shape_of(3, 64, 224, 225, 7, 7), 2, 2, 3, 3, 1, 1, 1);
    assert_int_equal(tn_conv_out_height(&s), 112);
    assert_int_equal(tn_conv_out_width(&s), 113);
    s = with_steps(shape_of(1, 1, 28, 17, 3, 5), 3, 4, 1, 2, 2, 3, 1);
    assert_int_equal(tn_conv_out_height(&s), 9);
    assert_int_equal(tn_conv_out_width(&s), 3);
}

static void unusable_shapes_are_refused(void **state) {
    (void)state;
    const tn_conv_shape good = with_steps(shape_of(4, 6, 8, 9, 3, 3), 1, 1, 1, 1, 1, 1, 2);
    const struct {
        size_t field;
        int64_t value;
        const char *words;
    } bad[] = {
        {offsetof(tn_conv_shape, in_channels), 0, "input channels is 0"},
        {offsetof(tn_conv_shape, out_channels), -2, "output channels is -2"},
        {offsetof(tn_conv_shape, groups), 0, "groups is 0"},
        {offsetof(tn_conv_shape, groups), 4, "cannot be divided into 4 groups"},
        {offsetof(tn_conv_shape, height), 0, "height: the input's size is 0"},
        {offsetof(tn_conv_shape, kernel_width), 0, "width: the kernel's size is 0"},
        {offsetof(tn_conv_shape, stride_height), 0, "height: the stride is 0"},
        {offsetof(tn_conv_shape, padding_width), -1, "width: the padding is -1"},
        {offsetof(tn_conv_shape, dilation_height), 0, "height: the dilation is 0"},
        {offsetof(tn_conv_shape, dilation_height), 5, "reaches over 11 positions, but the padded input has only 10"},
        {offsetof(tn_conv_shape, padding_width), INT64_MAX, "it must be from 0"},
        {offsetof(tn_conv_shape, width), 1 << 30, "too large"},
        {offsetof(tn_conv_shape, padding_height), 1 << 30, "too large"},
    };
    assert_ok(tn_conv_shape_check(&good));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tn_conv_shape s = good;
        memcpy((char *)&s + bad[i].field, &bad[i].value, sizeof bad[i].value);
        assert_fails(tn_conv_shape_check(&s), TN_ERROR_FORMAT, bad[i].words);
    }
    tn_conv_shape s = shape_of(1 << 30, 1 << 30, 40000, 40000, 40000, 40000);
    assert_fails(tn_conv_shape_check(&s), TN_ERROR_FORMAT, "too large");
    s = with_steps(good, 2, 2, 1, 1, 1, 1, 0);
    assert_ok(tn_pool_shape_check(&s));
    s.padding_height = 2;
    assert_fails(tn_pool_shape_check(&s), TN_ERROR_FORMAT, "more than half its kernel");
    s = with_steps(good, 1, 1, 0, 0, 2, 1, 0);
    assert_fails(tn_pool_shape_check(&s), TN_ERROR_UNSUPPORTED, "dilation");
}

int main(void) {
    enum { CASES = sizeof op_cases / sizeof *op_cases };
    struct CMUnitTest tests[CASES + 4];
    add_gradient_tests(tests, op_cases, CASES);
    tests[CASES] = (struct CMUnitTest)cmocka_unit_test(results_are_those_of_plain_loops);
    tests[CASES + 1] = (struct CMUnitTest)cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads);
    tests[CASES + 2] = (struct CMUnitTest)cmocka_unit_test(output_sizes_are_those_of_pytorch);
    tests[CASES + 3] = (struct CMUnitTest)cmocka_unit_test(unusable_shapes_are_refused);
    return cmocka_run_group_tests_name("convolutions", tests, NULL, NULL);
}
