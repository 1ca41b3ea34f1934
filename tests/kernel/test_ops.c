/* Every table against the plain reference on sizes that leave remainders, with guards around all arrays. */
#include "kernel_test.h"

#include "kernel/cpu/simd.h"

static const double ELEMENTWISE = 1e-6, SUMS = 1e-5;

static void check_rmsnorm(const tn_kernels *t, int64_t rows, int64_t cols) {
    const tn_kernels *r = reference();
    int64_t count = rows * cols;
    float *x = noise(count, 2), *weight = noise(cols, 1), *dy = noise(count, 1), *start = noise(count, 1);
    float *want = floats(count), *got = floats(count), *want_rstd = floats(rows), *got_rstd = floats(rows);
    r->rmsnorm_forward(want, want_rstd, x, weight, 1e-5f, rows, cols);
    t->rmsnorm_forward(got, got_rstd, x, weight, 1e-5f, rows, cols);
    expect_close("rmsnorm", got, want, count, SUMS);
    expect_close("rmsnorm rstd", got_rstd, want_rstd, rows, SUMS);
    t->rmsnorm_forward(got, NULL, x, weight, 1e-5f, rows, cols);
    expect_close("rmsnorm without rstd", got, want, count, SUMS);

    float *dweight = noise(cols, 1), *want_dweight = copy_of(dweight, cols), *got_dweight = copy_of(dweight, cols);
    r->rmsnorm_backward(want, false, want_dweight, dy, x, want_rstd, weight, rows, cols);
    t->rmsnorm_backward(got, false, got_dweight, dy, x, want_rstd, weight, rows, cols);
    expect_close("rmsnorm dx", got, want, count, SUMS);
    expect_close("rmsnorm dweight", got_dweight, want_dweight, cols, SUMS);
    float *want_sum = copy_of(start, count), *got_sum = copy_of(start, count);
    r->rmsnorm_backward(want_sum, true, NULL, dy, x, want_rstd, weight, rows, cols);
    t->rmsnorm_backward(got_sum, true, NULL, dy, x, want_rstd, weight, rows, cols);
    expect_close("rmsnorm dx +=", got_sum, want_sum, count, SUMS);
    memcpy(want_dweight, dweight, (size_t)cols * sizeof *dweight);
    memcpy(got_dweight, dweight, (size_t)cols * sizeof *dweight);
    r->rmsnorm_backward(NULL, false, want_dweight, dy, x, want_rstd, weight, rows, cols);
    t->rmsnorm_backward(NULL, false, got_dweight, dy, x, want_rstd, weight, rows, cols);
    expect_close("rmsnorm dweight alone", got_dweight, want_dweight, cols, SUMS);
    release_arrays();
}

static void check_rope(const tn_kernels *t, int64_t rows, int64_t heads, int64_t head_size) {
    enum { POSITIONS = 50 };
    int64_t count = rows * heads * head_size, half = head_size / 2;
    float *cosines = floats(POSITIONS * half), *sines = floats(POSITIONS * half);
    for (int64_t i = 0; i < POSITIONS * half; i++) {
        double angle = (double)(i / half) * pow(10000, -(double)(i % half) / (double)half);
        cosines[i] = (float)cos(angle);
        sines[i] = (float)sin(angle);
    }
    int32_t *positions = integers_below(POSITIONS, rows);
    float *x = noise(count, 1), *want = copy_of(x, count), *got = copy_of(x, count);
    reference()->rope(want, positions, cosines, sines, false, rows, heads, head_size);
    t->rope(got, positions, cosines, sines, false, rows, heads, head_size);
    expect_close("rope", got, want, count, ELEMENTWISE);
    t->rope(got, positions, cosines, sines, true, rows, heads, head_size);
    expect_close("rope and back", got, x, count, ELEMENTWISE);
    release_arrays();
}

static const tn_dtype kept_types[] = {TN_DTYPE_F32, TN_DTYPE_BF16, TN_DTYPE_F16, TN_DTYPE_INT8_BLOCKS};

/* A copy of x, which release_arrays frees. */
static tn_stored stored(const float *x, tn_dtype dtype, int64_t count) {
    void *data = array_new((size_t)tn_array_bytes(dtype, count));
    tn_convert_from_f32(data, dtype, x, count);
    return (tn_stored){data, dtype};
}

static void check_swiglu(const tn_kernels *t, int64_t count, float std) {
    float *gate = noise(count, std), *up = noise(count, 1), *dy = noise(count, 1);
    float *want = floats(count), *got = floats(count), *want_dup = floats(count), *got_dup = floats(count);
    reference()->swiglu_forward(want, gate, up, count, NULL, NULL, TN_DTYPE_F32);
    for (size_t i = 0; i < sizeof kept_types / sizeof *kept_types; i++) {
        size_t bytes = (size_t)tn_array_bytes(kept_types[i], count);
        void *gate_copy = array_new(bytes), *up_copy = array_new(bytes);
        t->swiglu_forward(got, gate, up, count, gate_copy, i == 1 ? NULL : up_copy, kept_types[i]);
        expect_close("swiglu", got, want, count, ELEMENTWISE);
        expect_same_bytes("copy of gate", gate_copy, stored(gate, kept_types[i], count).data, bytes);
        if (i != 1)
            expect_same_bytes("copy of up", up_copy, stored(up, kept_types[i], count).data, bytes);
    }
    for (size_t i = 0; i < sizeof kept_types / sizeof *kept_types; i++) {
        tn_stored kept_gate = stored(gate, kept_types[i], count), kept_up = stored(up, kept_types[i], count);
        reference()->swiglu_backward(want, want_dup, dy, kept_gate, kept_up, count);
        t->swiglu_backward(got, got_dup, dy, kept_gate, kept_up, count);
        expect_close("swiglu dgate", got, want, count, ELEMENTWISE);
        expect_close("swiglu dup", got_dup, want_dup, count, ELEMENTWISE);
    }
    tn_stored same_gate = {gate, TN_DTYPE_F32}, same_up = {up, TN_DTYPE_F32};
    t->swiglu_backward(got, got_dup, dy, same_gate, same_up, count);
    t->swiglu_backward(gate, up, dy, same_gate, same_up, count);
    expect_same_bytes("swiglu dgate in place", gate, got, (size_t)count * sizeof *got);
    expect_same_bytes("swiglu dup in place", up, got_dup, (size_t)count * sizeof *got);
    release_arrays();
}

static void check_center_rows(const tn_kernels *t, int64_t rows, int64_t cols) {
    int64_t count = rows * cols;
    float *x = noise(count, 1), *start = noise(count, 1), *want = copy_of(start, count), *got = copy_of(start, count);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        reference()->center_rows(want, accumulate, x, rows, cols);
        t->center_rows(got, accumulate, x, rows, cols);
        expect_close("center_rows", got, want, count, ELEMENTWISE);
    }
    reference()->center_rows(want, false, x, rows, cols);
    t->center_rows(x, false, x, rows, cols);
    expect_close("center_rows in place", x, want, count, ELEMENTWISE);
    release_arrays();
}

static void check_activations(const tn_kernels *t, int64_t count, float std) {
    for (tn_activation f = TN_ACTIVATION_GELU; f <= TN_ACTIVATION_TANH; f++) {
        float *x = noise(count, std), *dy = noise(count, 1), *start = noise(count, 1);
        float *want = copy_of(start, count), *got = copy_of(start, count);
        for (int i = 0; i < 8; i++) {
            bool accumulate = i % 2;
            tn_stored kept = stored(x, kept_types[i / 2], count);
            reference()->activation_backward(want, accumulate, dy, kept, f, count);
            t->activation_backward(got, accumulate, dy, kept, f, count);
            expect_close("activation dx", got, want, count, ELEMENTWISE);
        }
        tn_stored same = {x, TN_DTYPE_F32};
        reference()->activation_forward(want, x, f, count);
        t->activation_forward(got, x, f, count);
        expect_close("activation", got, want, count, ELEMENTWISE);
        t->activation_backward(want, false, dy, same, f, count);
        t->activation_backward(x, false, dy, same, f, count);
        expect_same_bytes("activation dx in place", x, want, (size_t)count * sizeof *x);
        release_arrays();
    }
}

static void check_relu(const tn_kernels *t, int64_t count) {
    size_t bytes = (size_t)count * sizeof(float);
    float *x = noise(count, 1), *dy = noise(count, 1);
    for (int64_t i = 0; i < count; i += 3)
        x[i] = i % 2 ? NAN : -0.0f;
    float *want = copy_of(x, count), *got = copy_of(x, count), *want_dy = copy_of(dy, count), *got_dy = copy_of(dy, count);
    reference()->relu_forward(want, count);
    t->relu_forward(got, count);
    expect_same_bytes("relu", got, want, bytes);
    reference()->relu_backward(want_dy, want, count);
    t->relu_backward(got_dy, got, count);
    expect_same_bytes("relu dy", got_dy, want_dy, bytes);
    release_arrays();
}

static void check_cross_entropy(const tn_kernels *t, int64_t rows, int64_t cols) {
    int64_t count = rows * cols;
    size_t bytes = (size_t)count * sizeof(float);
    float *logits = noise(count, 4), *want = copy_of(logits, count), *got = copy_of(logits, count);
    float *want_losses = floats(rows), *got_losses = floats(rows);
    int32_t *labels = integers_below((int32_t)cols, rows);
    uint8_t *want_correct = array_new((size_t)rows), *got_correct = array_new((size_t)rows);
    if (rows > 0) {
        logits[0] = want[0] = got[0] = logits[cols - 1] = want[cols - 1] = got[cols - 1] = 30; /* the first of equals */
        labels[0] = noise_stream % 2 ? 0 : (int32_t)cols - 1;
    }
    reference()->cross_entropy(want_losses, want_correct, want, labels, 0.125f, rows, cols);
    t->cross_entropy(got_losses, got_correct, got, labels, 0, rows, cols);
    expect_same_bytes("logits without gradient", got, logits, bytes);
    expect_close("losses without gradient", got_losses, want_losses, rows, ELEMENTWISE);
    t->cross_entropy(got_losses, NULL, got, labels, 0.125f, rows, cols);
    expect_close("losses", got_losses, want_losses, rows, ELEMENTWISE);
    expect_close("logit gradients", got, want, count, SUMS);
    expect_same_bytes("correct", got_correct, want_correct, (size_t)rows);
    release_arrays();
}

static void check_embedding(const tn_kernels *t, tn_dtype dtype, int64_t rows, int64_t cols) {
    enum { VOCABULARY = 17 };
    int64_t count = rows * cols;
    float *values = noise(VOCABULARY * cols, 1), *dy = noise(count, 1), *want = floats(count), *got = floats(count);
    void *table = array_new((size_t)(VOCABULARY * cols * tn_dtype_size(dtype)));
    int32_t *ids = integers_below(VOCABULARY, rows);
    tn_convert_from_f32(table, dtype, values, VOCABULARY * cols);
    reference()->embedding_forward(want, ids, table, dtype, rows, cols);
    t->embedding_forward(got, ids, table, dtype, rows, cols);
    expect_same_bytes("embedding", got, want, (size_t)count * sizeof *got);
    float *want_table = copy_of(values, VOCABULARY * cols), *got_table = copy_of(values, VOCABULARY * cols);
    reference()->embedding_backward(want_table, ids, dy, rows, cols);
    t->embedding_backward(got_table, ids, dy, rows, cols);
    expect_same_bytes("embedding gradient", got_table, want_table, (size_t)(VOCABULARY * cols) * sizeof *got);
    release_arrays();
}

static void check_rows(const tn_kernels *t, int64_t rows, int64_t cols) {
    int64_t count = rows * cols;
    float *x = noise(count, 1), *bias = noise(cols, 1), *want = copy_of(x, count), *got = copy_of(x, count);
    reference()->add_bias(want, bias, 0.5f, rows, cols);
    t->add_bias(got, bias, 0.5f, rows, cols);
    expect_close("add_bias", got, want, count, ELEMENTWISE);
    float *want_sum = copy_of(bias, cols), *got_sum = copy_of(bias, cols);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        reference()->scale_columns(want, accumulate, x, bias, rows, cols);
        t->scale_columns(got, accumulate, x, bias, rows, cols);
        expect_close("scale_columns", got, want, count, ELEMENTWISE);
    }

    reference()->sum_products(want_sum, x, want, rows, cols);
    t->sum_products(got_sum, x, want, rows, cols);
    expect_close("sum_products", got_sum, want_sum, cols, SUMS);

    reference()->sum_rows(want_sum, x, -2, rows, cols);
    t->sum_rows(got_sum, x, -2, rows, cols);
    expect_close("sum_rows", got_sum, want_sum, cols, SUMS);
    release_arrays();
}

static void check_vectors(const tn_kernels *t, int64_t count) {
    size_t bytes = (size_t)count * sizeof(float);
    float *x = noise(count, 1), *y = noise(count, 1), *want = copy_of(y, count), *got = copy_of(y, count);
    reference()->add(want, x, 0.3f, count);
    t->add(got, x, 0.3f, count);
    expect_close("add", got, want, count, ELEMENTWISE);
    reference()->scale(want, 1.7f, count);
    t->scale(got, 1.7f, count);
    expect_close("scale", got, want, count, ELEMENTWISE);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        reference()->multiply(want, accumulate, want, x, count);
        t->multiply(got, accumulate, got, x, count);
        expect_close("multiply", got, want, count, ELEMENTWISE);
    }
    t->copy(got, x, count);
    expect_same_bytes("copy", got, x, bytes);
    reference()->fill(want, -3.5f, count);
    t->fill(got, -3.5f, count);
    expect_same_bytes("fill", got, want, bytes);
    double sum = t->sum_squares(x, count), want_sum = reference()->sum_squares(x, count);
    assert_true(fabs(sum - want_sum) <= 1e-12 * want_sum);
    add_to_digest(&sum, sizeof sum);
    release_arrays();
}

static void check_dropout(const tn_kernels *t, int64_t count) {
    const float rates[] = {0, 0.1f, 0.5f, 0.999f};
    float *x = noise(count, 1), *y = noise(count, 1), *want = floats(count), *got = floats(count);
    for (int i = 0; i < 4; i++) {
        uint64_t stream = tn_stream(TN_STREAM_DROPOUT, (uint32_t)i), seed = UINT64_C(0x123456789abcdef0);
        reference()->dropout(want, false, x, rates[i], seed, stream, count);
        t->dropout(got, false, x, rates[i], seed, stream, count);
        expect_same_bytes("dropout", got, want, (size_t)count * sizeof *got);
        memcpy(want, y, (size_t)count * sizeof *got);
        memcpy(got, y, (size_t)count * sizeof *got);
        reference()->dropout(want, true, x, rates[i], seed, stream, count);
        t->dropout(got, true, x, rates[i], seed, stream, count);
        expect_same_bytes("dropout +=", got, want, (size_t)count * sizeof *got);
    }
    release_arrays();
}

static void check_adamw(const tn_kernels *t, int64_t count) {
    const tn_adamw_step step = {0.01f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.19f, 0.001999f, 0.7f};
    size_t bytes = (size_t)count * sizeof(float);
    float *param = noise(count, 1), *grad = noise(count, 1), *m = noise(count, 0.1f), *v = noise(count, 0.1f);
    for (int64_t i = 0; i < count; i++)
        v[i] *= v[i];
    float *want_param = copy_of(param, count), *want_m = copy_of(m, count), *want_v = copy_of(v, count);
    reference()->adamw(want_param, grad, want_m, want_v, &step, count);
    t->adamw(param, grad, m, v, &step, count);
    expect_same_bytes("adamw parameters", param, want_param, bytes);
    expect_same_bytes("adamw m", m, want_m, bytes);
    expect_same_bytes("adamw v", v, want_v, bytes);
    release_arrays();
}

static void check_conversions(const tn_kernels *t, int64_t count) {
    const tn_dtype dtypes[] = {TN_DTYPE_F32, TN_DTYPE_BF16, TN_DTYPE_F16, TN_DTYPE_F64, TN_DTYPE_INT8_BLOCKS};
    float *x = noise(count, 100), *want = floats(count), *got = floats(count);
    for (int i = 0; i < 5; i++) {
        size_t bytes = (size_t)tn_array_bytes(dtypes[i], count);
        void *want_narrow = array_new(bytes), *got_narrow = array_new(bytes);
        reference()->from_f32(want_narrow, dtypes[i], x, count);
        t->from_f32(got_narrow, dtypes[i], x, count);
        expect_same_bytes("from_f32", got_narrow, want_narrow, bytes);
        reference()->to_f32(want, want_narrow, dtypes[i], count);
        t->to_f32(got, want_narrow, dtypes[i], count);
        expect_same_bytes("to_f32", got, want, (size_t)count * sizeof *got);
    }
    release_arrays();
}

static void check_all(const tn_kernels *t, int64_t rows, int64_t cols) {
    int64_t count = rows * cols;
    check_rmsnorm(t, rows, cols);
    check_center_rows(t, rows, cols);
    check_swiglu(t, count, 3);
    check_activations(t, count, 3);
    check_relu(t, count);
    check_cross_entropy(t, rows, cols);
    check_embedding(t, TN_DTYPE_BF16, rows, cols);
    check_embedding(t, TN_DTYPE_F16, rows, cols);
    check_embedding(t, TN_DTYPE_F32, rows, cols);
    check_rows(t, rows, cols);
    check_vectors(t, count);
    check_dropout(t, count);
    check_adamw(t, count);
    check_conversions(t, count);
}

static void check_large(const tn_kernels *t) {
    check_all(t, 61, 2077);
    check_rope(t, 67, 9, 64);
}

static void every_table_agrees_with_the_reference(void **state) {
    (void)state;
    FOR_EACH_TABLE(t) {
        noise_stream = 0;
        for (int64_t cols = 1; cols <= 40; cols++)
            check_all(t, 1 + cols % 5, cols);
        check_all(t, 1, 577);
        check_all(t, 300, 129);
        check_rope(t, 1, 1, 2);
        check_rope(t, 13, 3, 10);
        check_rope(t, 5, 2, 80);
        check_rope(t, 3, 1, 128);
        check_swiglu(t, 5000, 60); /* where exp overflows and underflows */
        check_activations(t, 5000, 60);
        check_large(t);
    }
}

static void bits_do_not_depend_on_the_number_of_threads(void **state) {
    (void)state;
    expect_thread_invariance(check_large);
}

static void no_rows_and_no_elements_are_fine(void **state) {
    (void)state;
    FOR_EACH_TABLE(t) {
        check_all(t, 0, 8);
    }
}

static void exponential_is_within_two_ulp(void **state) {
    (void)state;
    double worst = 0;
    for (int64_t i = -87336; i <= 88722; i++) {
        float x = (float)((double)i * 0.001 + (i < 0 ? 1e-5 : -1e-5) * (double)(i % 97)), got = tn_exp(x);
        double want = exp((double)x);
        worst = fmax(worst, fabs(got - want) / ldexp(1, ilogb(want) - 23));
    }
    assert_true(worst <= 2);
    assert_true(tn_exp(-INFINITY) == 0 && tn_exp(-200) == 0 && tn_exp(-87.4f) == 0 && tn_exp(0) == 1);
    assert_true(isinf(tn_exp(INFINITY)) && isinf(tn_exp(89)) && isnan(tn_exp(NAN)));
}

/* Each digit counts, down to where results are next to nothing. GELU by tanh is x exp(z) there, z down to -50 with rounding
 * errors of 2^-24 of its own size. */
static void activations_keep_their_digits_at_both_ends(void **state) {
    enum { COUNT = 20001 };
    static const struct {
        tn_activation f;
        double from, tolerance;
    } cases[] = {{TN_ACTIVATION_GELU, -12, 1e-6},
                 {TN_ACTIVATION_GELU_TANH, -8, 6e-6},
                 {TN_ACTIVATION_SILU, -80, 1e-6},
                 {TN_ACTIVATION_TANH, -20, 1e-6}};
    (void)state;
    FOR_EACH_TABLE(t) {
        for (int i = 0; i < 4; i++) {
            float *x = floats(COUNT), *y = floats(COUNT), *want = floats(COUNT);
            for (int64_t j = 0; j < COUNT; j++)
                x[j] = (float)(cases[i].from * pow((double)(j - COUNT / 2) / (COUNT / 2), 3));
            t->activation_forward(y, x, cases[i].f, COUNT);
            reference()->activation_forward(want, x, cases[i].f, COUNT);
            for (int64_t j = 0; j < COUNT; j++)
                if (!(fabs((double)y[j] - want[j]) <= cases[i].tolerance * fabs((double)want[j])))
                    fail_msg("activation %d of %s: f(%.9g) is %.9g, not %.9g", i, t->name, (double)x[j], (double)y[j],
                             (double)want[j]);
            release_arrays();
        }
    }
}

static void activations_of_extremes_are_their_limits(void **state) {
    const float x[] = {1e30f, -1e30f, 0, NAN};
    (void)state;
    FOR_EACH_TABLE(t) {
        for (tn_activation f = TN_ACTIVATION_GELU; f <= TN_ACTIVATION_TANH; f++) {
            const float ones[] = {1, 1, 1, 1};
            float y[4], dx[4], top = f == TN_ACTIVATION_TANH ? 1 : 1e30f;
            t->activation_forward(y, x, f, 4);
            t->activation_backward(dx, false, ones, (tn_stored){x, TN_DTYPE_F32}, f, 4);
            assert_true(y[0] == top && y[1] == (f == TN_ACTIVATION_TANH ? -1 : 0) && y[2] == 0 && isnan(y[3]));
            assert_true(dx[0] == (f != TN_ACTIVATION_TANH) && dx[1] == 0 && isnan(dx[3]));
            assert_true(dx[2] == (f == TN_ACTIVATION_TANH ? 1 : 0.5f));
        }
    }
}

static void non_finite_logits_give_a_non_finite_loss(void **state) {
    (void)state;
    enum { COLS = 300 };
    const float bad[] = {NAN, INFINITY, -INFINITY};
    FOR_EACH_TABLE(t) {
        for (int i = 0; i < 3; i++) {
            for (int32_t label = 0; label < COLS; label += 299) {
                float *logits = noise(COLS, 1), loss = 0;
                uint8_t correct = 1;
                logits[117] = bad[i];
                t->cross_entropy(&loss, &correct, logits, &label, 1, 1, COLS);
                assert_false(isfinite(loss));
                assert_false(correct);
                release_arrays();
            }
        }
    }
}

static void one_bad_element_is_found_anywhere(void **state) {
    (void)state;
    enum { COUNT = 70001 };
    FOR_EACH_TABLE(t) {
        float *x = noise(COUNT, 1);
        assert_true(t->all_finite(x, COUNT));
        for (int64_t i = 0; i < COUNT; i += 1999) {
            float old = x[i];
            x[i] = i % 2 ? NAN : -INFINITY;
            assert_false(t->all_finite(x, COUNT));
            x[i] = old;
        }
        x[0] = 3.4e38f;
        assert_true(t->all_finite(x, COUNT));
        release_arrays();
    }
}

/* All 16-bit patterns widened, and as many floats with random bits narrowed: NaN stays NaN, all else to the bit. */
static void half_precision_conversions_are_exact(void **state) {
    (void)state;
    enum { COUNT = 65536 };
    const tn_dtype dtypes[] = {TN_DTYPE_BF16, TN_DTYPE_F16};
    FOR_EACH_TABLE(t) {
        for (int i = 0; i < 2; i++) {
            uint16_t *bits = array_new(COUNT * sizeof *bits), *want_bits = array_new(COUNT * sizeof *bits);
            float *want = floats(COUNT), *got = floats(COUNT);
            for (uint32_t b = 0; b < COUNT; b++)
                bits[b] = (uint16_t)b;
            reference()->to_f32(want, bits, dtypes[i], COUNT);
            t->to_f32(got, bits, dtypes[i], COUNT);
            for (int b = 0; b < COUNT; b++)
                assert_true(isnan(want[b]) ? isnan(got[b]) : memcmp(&want[b], &got[b], sizeof *got) == 0);
            tn_rng rng = tn_rng_start(3, (uint64_t)i);
            for (int b = 0; b < COUNT; b++) {
                uint32_t random = tn_rng_u32(&rng) & (b % 2 ? 0xffffffff : 0xbfffffff);
                random = b % 3 ? random : (random & 0xffff0000) | 0x8000; /* ties */
                memcpy(&got[b], &random, sizeof random);
            }
            reference()->from_f32(want_bits, dtypes[i], got, COUNT);
            t->from_f32(bits, dtypes[i], got, COUNT);
            reference()->to_f32(want, bits, dtypes[i], COUNT);
            for (int b = 0; b < COUNT; b++)
                assert_true(isnan(got[b]) ? isnan(want[b]) : bits[b] == want_bits[b]);
            release_arrays();
        }
    }
}

/* Codes are nearest multiples of a block's largest magnitude / 127, those of no worth are 0, and what is not finite makes a
 * block that says so. */
static void int8_blocks_hold_what_they_say(void **state) {
    (void)state;
    enum { COUNT = 5 * TN_INT8_BLOCK + 3 };
    FOR_EACH_TABLE(t) {
        float *x = noise(COUNT, 3), *back = floats(COUNT);
        for (int i = 0; i < TN_INT8_BLOCK; i++) {
            x[TN_INT8_BLOCK + i] = 0;
            x[2 * TN_INT8_BLOCK + i] = 1e-40f;
        }
        x[3 * TN_INT8_BLOCK + 5] = NAN;
        x[4 * TN_INT8_BLOCK + 60] = -INFINITY;
        x[COUNT - 1] = 127;
        x[COUNT - 2] = -64.5f; /* a tie goes to even */
        x[COUNT - 3] = 3.25f;
        tn_int8_block *blocks = array_new((size_t)tn_array_bytes(TN_DTYPE_INT8_BLOCKS, COUNT));
        t->from_f32(blocks, TN_DTYPE_INT8_BLOCKS, x, COUNT);
        t->to_f32(back, blocks, TN_DTYPE_INT8_BLOCKS, COUNT);
        float largest = 0;
        for (int i = 0; i < TN_INT8_BLOCK; i++)
            largest = fmaxf(largest, fabsf(x[i]));
        assert_true(blocks[0].scale == largest / 127);
        for (int i = 0; i < TN_INT8_BLOCK; i++) {
            assert_true(fabsf(back[i] - x[i]) <= blocks[0].scale * 0.50001f);
            assert_true(back[TN_INT8_BLOCK + i] == 0 && back[2 * TN_INT8_BLOCK + i] == 0);
            assert_true(isnan(back[3 * TN_INT8_BLOCK + i]) && isnan(back[4 * TN_INT8_BLOCK + i]));
        }
        assert_true(back[COUNT - 1] == 127 && back[COUNT - 2] == -64 && back[COUNT - 3] == 3);
        release_arrays();
    }
}

static void tables_are_found_by_name(void **state) {
    (void)state;
    assert_null(tn_kernels_by_name("abacus"));
    assert_string_equal(reference()->name, "reference");
    assert_string_equal(tn_kernels_by_name("generic")->name, "generic");
    assert_non_null(tn_kernels_cpu());
    assert_ptr_equal(tn_kernels_cpu(), tn_kernels_cpu());
    assert_true(tn_threads_set(0) >= 1);
}

static void the_first_of_the_largest_is_found(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 5, 511, 512, 513, 1100, 3000};
    FOR_EACH_TABLE(table) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (int kind = 0; kind < 5; kind++) {
                enum { ROWS = 3 };
                int64_t cols = sizes[s];
                float *x = noise(ROWS * cols, 1);
                int32_t got[ROWS], want[ROWS];
                for (int64_t i = 0; i < ROWS * cols; i++) /* few different values; infinities; NaN, also first */
                    x[i] = kind == 0                      ? x[i]
                           : kind == 1                    ? floorf(x[i])
                           : kind == 2                    ? -INFINITY
                           : i % 7 == (kind == 3 ? 0 : 3) ? NAN
                                                          : x[i];
                reference()->argmax_rows(want, x, ROWS, cols);
                table->argmax_rows(got, x, ROWS, cols);
                expect_same_bytes("argmax", got, want, sizeof got);
                release_arrays();
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_table_agrees_with_the_reference),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(the_first_of_the_largest_is_found),
        cmocka_unit_test(no_rows_and_no_elements_are_fine),
        cmocka_unit_test(exponential_is_within_two_ulp),
        cmocka_unit_test(activations_keep_their_digits_at_both_ends),
        cmocka_unit_test(activations_of_extremes_are_their_limits),
        cmocka_unit_test(non_finite_logits_give_a_non_finite_loss),
        cmocka_unit_test(one_bad_element_is_found_anywhere),
        cmocka_unit_test(half_precision_conversions_are_exact),
        cmocka_unit_test(int8_blocks_hold_what_they_say),
        cmocka_unit_test(tables_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
