/* The gradients of the reference kernels against central differences of their own forward passes. */
#include "kernel_test.h"

/* loss(x) = sum of weights * f(x), for the array being differentiated; `context` holds the other arguments. */
typedef double (*loss_of)(void *context);

static double weighted_sum(const float *y, const float *weights, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)weights[i] * y[i];
    return sum;
}

static void expect_gradient(const char *what, float *x, const float *dx, int64_t count, loss_of loss, void *context) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)dx[i]));
    for (int64_t i = 0; i < count; i++) {
        float old = x[i], high = old + 5e-3f, low = old - 5e-3f;
        x[i] = high;
        double up = loss(context);
        x[i] = low;
        double down = loss(context), slope = (up - down) / ((double)high - low);
        x[i] = old;
        if (!(fabs(slope - dx[i]) <= 1e-3 * largest))
            fail_msg("%s: gradient %lld is %.7g, the slope is %.7g", what, (long long)i, (double)dx[i], slope);
    }
}

typedef struct {
    float *x, *weight, *y, *dy;
    int64_t rows, cols;
} rmsnorm_arguments;

static double rmsnorm_loss(void *context) {
    rmsnorm_arguments *a = context;
    reference()->rmsnorm_forward(a->y, NULL, a->x, a->weight, 1e-5f, a->rows, a->cols);
    return weighted_sum(a->y, a->dy, a->rows * a->cols);
}

static void rmsnorm_gradient_is_the_slope(void **state) {
    (void)state;
    enum { ROWS = 3, COLS = 11, COUNT = ROWS * COLS };
    rmsnorm_arguments a = {noise(COUNT, 1), noise(COLS, 1), floats(COUNT), noise(COUNT, 1), ROWS, COLS};
    float *rstd = floats(ROWS), *dx = floats(COUNT), *dweight = floats(COLS);
    memset(dweight, 0, COLS * sizeof *dweight);
    reference()->rmsnorm_forward(a.y, rstd, a.x, a.weight, 1e-5f, ROWS, COLS);
    reference()->rmsnorm_backward(dx, false, dweight, a.dy, a.x, rstd, a.weight, ROWS, COLS);
    expect_gradient("dx", a.x, dx, COUNT, rmsnorm_loss, &a);
    expect_gradient("dweight", a.weight, dweight, COLS, rmsnorm_loss, &a);
    release_arrays();
}

typedef struct {
    float *gate, *up, *y, *dy;
    int64_t count;
} swiglu_arguments;

static double swiglu_loss(void *context) {
    swiglu_arguments *a = context;
    reference()->swiglu_forward(a->y, a->gate, a->up, a->count, NULL, NULL, TN_DTYPE_F32);
    return weighted_sum(a->y, a->dy, a->count);
}

static void swiglu_gradient_is_the_slope(void **state) {
    (void)state;
    enum { COUNT = 40 };
    swiglu_arguments a = {noise(COUNT, 3), noise(COUNT, 1), floats(COUNT), noise(COUNT, 1), COUNT};
    float *dgate = floats(COUNT), *dup = floats(COUNT);
    reference()->swiglu_backward(dgate, dup, a.dy, (tn_stored){a.gate, TN_DTYPE_F32}, (tn_stored){a.up, TN_DTYPE_F32},
                                 COUNT);
    expect_gradient("dgate", a.gate, dgate, COUNT, swiglu_loss, &a);
    expect_gradient("dup", a.up, dup, COUNT, swiglu_loss, &a);
    release_arrays();
}

typedef struct {
    float *logits, *losses;
    int32_t *labels;
    int64_t rows, cols;
} cross_entropy_arguments;

static double cross_entropy_loss(void *context) {
    cross_entropy_arguments *a = context;
    double sum = 0;
    reference()->cross_entropy(a->losses, NULL, a->logits, a->labels, 0, a->rows, a->cols);
    for (int64_t row = 0; row < a->rows; row++)
        sum += a->losses[row] * 0.25;
    return sum;
}

static void cross_entropy_gradient_is_the_slope(void **state) {
    (void)state;
    enum { ROWS = 4, COLS = 9, COUNT = ROWS * COLS };
    cross_entropy_arguments a = {noise(COUNT, 2), floats(ROWS), integers_below(COLS, ROWS), ROWS, COLS};
    float *gradient = copy_of(a.logits, COUNT);
    reference()->cross_entropy(a.losses, NULL, gradient, a.labels, 0.25f, ROWS, COLS);
    expect_gradient("logits", a.logits, gradient, COUNT, cross_entropy_loss, &a);
    release_arrays();
}

typedef struct {
    float *q, *k, *v, *out, *lse, *dout;
    const tn_span *spans;
    tn_attention_shape shape;
    int64_t q_count;
} attention_arguments;

static double attention_loss(void *context) {
    attention_arguments *a = context;
    reference()->attention_forward(a->out, a->lse, a->q, a->k, a->v, a->spans, 2, &a->shape);
    return weighted_sum(a->out, a->dout, a->q_count);
}

static void check_attention_gradient(int64_t window) {
    enum { Q_ROWS = 9, KV_ROWS = 12, HEADS = 4, KV_HEADS = 2, SIZE = 6 };
    enum { Q_COUNT = Q_ROWS * HEADS * SIZE, KV_COUNT = KV_ROWS * KV_HEADS * SIZE };
    const tn_span spans[2] = {{0, 4, 0, 7}, {4, 5, 7, 5}};
    attention_arguments a = {.q = noise(Q_COUNT, 1),
                             .k = noise(KV_COUNT, 1),
                             .v = noise(KV_COUNT, 1),
                             .out = floats(Q_COUNT),
                             .lse = floats(Q_ROWS * HEADS),
                             .dout = noise(Q_COUNT, 1),
                             .spans = spans,
                             .shape = {HEADS, KV_HEADS, SIZE, window, 0.4f},
                             .q_count = Q_COUNT};
    float *dq = floats(Q_COUNT), *dk = floats(KV_COUNT), *dv = floats(KV_COUNT);
    memset(dk, 0, KV_COUNT * sizeof *dk);
    memset(dv, 0, KV_COUNT * sizeof *dv);
    attention_loss(&a);
    reference()->attention_backward(dq, dk, dv, a.dout, a.out, a.lse, a.q, a.k, a.v, spans, 2, &a.shape);
    expect_gradient("dq", a.q, dq, Q_COUNT, attention_loss, &a);
    expect_gradient("dk", a.k, dk, KV_COUNT, attention_loss, &a);
    expect_gradient("dv", a.v, dv, KV_COUNT, attention_loss, &a);
    release_arrays();
}

static void attention_gradient_is_the_slope(void **state) {
    (void)state;
    check_attention_gradient(0);
    check_attention_gradient(3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_gradient_is_the_slope),
        cmocka_unit_test(swiglu_gradient_is_the_slope),
        cmocka_unit_test(cross_entropy_gradient_is_the_slope),
        cmocka_unit_test(attention_gradient_is_the_slope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
