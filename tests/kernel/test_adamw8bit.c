/* AdamW with moments in 8 bits: every table against the plain reference, and that against the maps. */
#include "kernel_test.h"

#include "tensor/quant.h"

static float *moments_of(uint8_t *codes, float *absmax, const float map[256], int64_t count) {
    float *x = floats(count);
    for (int64_t i = 0; i < count; i++)
        x[i] = map[codes[i]] * absmax[i / TN_MOMENT_BLOCK];
    return x;
}

/* From moments of 0 on, with gradients of many sizes so that all decades of the maps are met. */
static void check_adamw8bit(const tn_kernels *t, int64_t count) {
    const tn_adamw_step step = {0.01f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.19f, 0.001999f, 0.7f};
    int64_t blocks = (count + TN_MOMENT_BLOCK - 1) / TN_MOMENT_BLOCK;
    size_t bytes = (size_t)count * sizeof(float), scales = (size_t)blocks * sizeof(float);
    float *param = noise(count, 1), *want_param = copy_of(param, count);
    tn_moments8 moments[2];
    for (int i = 0; i < 2; i++) {
        moments[i] = (tn_moments8){array_new((size_t)count), array_new((size_t)count), floats(blocks), floats(blocks)};
        memset(moments[i].m, 0, (size_t)count);
        memset(moments[i].v, 0, (size_t)count);
        memset(moments[i].m_absmax, 0, scales);
        memset(moments[i].v_absmax, 0, scales);
    }
    for (int i = 0; i < 3; i++) {
        float *grad = noise(count, 1), *size = noise(count, 3);
        for (int64_t j = 0; j < count; j++)
            grad[j] = j % 7 == 0 ? 0 : grad[j] * expf(-fabsf(size[j]));
        reference()->adamw8bit(want_param, grad, &moments[0], &step, count);
        t->adamw8bit(param, grad, &moments[1], &step, count);
        expect_same_bytes("adamw8bit parameters", param, want_param, bytes);
        expect_same_bytes("adamw8bit m", moments[1].m, moments[0].m, (size_t)count);
        expect_same_bytes("adamw8bit v", moments[1].v, moments[0].v, (size_t)count);
        expect_same_bytes("adamw8bit scales of m", moments[1].m_absmax, moments[0].m_absmax, scales);
        expect_same_bytes("adamw8bit scales of v", moments[1].v_absmax, moments[0].v_absmax, scales);
    }
    /* the next step is that of adamw from the decoded moments */
    float *m = moments_of(moments[1].m, moments[1].m_absmax, tn_dynamic_signed, count);
    float *v = moments_of(moments[1].v, moments[1].v_absmax, tn_dynamic_unsigned, count), *grad = noise(count, 1);
    reference()->adamw(want_param, grad, m, v, &step, count);
    t->adamw8bit(param, grad, &moments[1], &step, count);
    expect_same_bytes("adamw8bit as adamw", param, want_param, bytes);
    release_arrays();
}

static void check_large(const tn_kernels *t) {
    check_adamw8bit(t, 100003);
}

static void every_table_agrees_with_the_reference(void **state) {
    static const int64_t counts[] = {0, 1, 7, 64, 255, 256, 257, 500, 512, 4096, 16384, 16385, 40000};
    (void)state;
    FOR_EACH_TABLE(t) {
        noise_stream = 0;
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            check_adamw8bit(t, counts[i]);
    }
}

static void bits_do_not_depend_on_the_number_of_threads(void **state) {
    (void)state;
    expect_thread_invariance(check_large);
}

/* A step with beta 0 and no rate quantises the gradients themselves: the values of both maps, the points between them, and
 * the floats around each. A block's first gradient is 1, so that its absmax is. */
static void moments_get_the_nearest_codes(void **state) {
    enum { NEAR = 5, COUNT = (4 * 255 * NEAR + TN_MOMENT_BLOCK - 2) / (TN_MOMENT_BLOCK - 1) * TN_MOMENT_BLOCK };
    const tn_adamw_step step = {.eps = 1, .correction1 = 1, .correction2 = 1, .grad_scale = 1};
    static const float *const maps[] = {tn_dynamic_signed, tn_dynamic_unsigned};
    (void)state;
    FOR_EACH_TABLE(t) {
        float *grad = floats(COUNT), *param = noise(COUNT, 1);
        int64_t at = 0;
        for (int64_t i = 0; i < COUNT; i++)
            grad[i] = 1;
        for (int i = 0; i < 2 * 255; i++) {
            const float *value = &maps[i / 255][i % 255];
            for (int between = 0; between < 2; between++) {
                float x = between ? (value[0] + value[1]) / 2 : value[0];
                for (int side = 0; side < NEAR; side++) {
                    float near = side < 2 ? nextafterf(x, -9) : side > 2 ? nextafterf(x, 9) : x;
                    near = side == 0 ? nextafterf(near, -9) : side == 4 ? nextafterf(near, 9) : near;
                    at += at % TN_MOMENT_BLOCK == 0;
                    grad[at++] = near > -1 && near < 1 ? near : 1;
                }
            }
        }
        assert_true(at <= COUNT);
        tn_moments8 moments = {array_new(COUNT), array_new(COUNT), floats(COUNT / TN_MOMENT_BLOCK),
                               floats(COUNT / TN_MOMENT_BLOCK)};
        memset(moments.m, 0, COUNT);
        memset(moments.v, 0, COUNT);
        memset(moments.m_absmax, 0, COUNT / TN_MOMENT_BLOCK * sizeof(float));
        memset(moments.v_absmax, 0, COUNT / TN_MOMENT_BLOCK * sizeof(float));
        t->adamw8bit(param, grad, &moments, &step, COUNT);
        for (int64_t i = 0; i < COUNT; i++) {
            uint8_t m = tn_dynamic_nearest(tn_dynamic_signed, grad[i]);
            uint8_t v = tn_dynamic_nearest(tn_dynamic_unsigned, grad[i] * grad[i]);
            if (moments.m[i] != m || moments.v[i] != v)
                fail_msg("%s: the codes of %.9g are %d and %d, not %d and %d", t->name, (double)grad[i], moments.m[i],
                         moments.v[i], m, v);
        }
        release_arrays();
    }
}

/* What is not finite stays visible and reads nothing outside of the maps. */
static void moments_that_are_not_finite_are_those_of_the_reference(void **state) {
    enum { COUNT = 300 };
    const tn_adamw_step step = {0.01f, 0.9f, 0.999f, 1e-8f, 0, 0.1f, 0.001f, 1};
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY, 1e38f, -1e38f, 1e-45f, 1e-30f};
    (void)state;
    FOR_EACH_TABLE(t) {
        for (int i = 0; i < 8; i++) {
            uint8_t codes[2][2][COUNT] = {{{0}}};
            float scales[2][2][2] = {{{0}}}, *grad = noise(COUNT, i < 6 ? 1 : 0), *params[] = {noise(COUNT, 1), NULL};
            params[1] = copy_of(params[0], COUNT);
            grad[3] = grad[280] = bad[i];
            for (int run = 0; run < 2; run++) {
                tn_moments8 moments = {codes[run][0], codes[run][1], scales[run][0], scales[run][1]};
                for (int n = 0; n < 2; n++)
                    (run ? reference() : t)->adamw8bit(params[run], grad, &moments, &step, COUNT);
            }
            for (int j = 0; j < COUNT; j++)
                assert_true(params[0][j] == params[1][j] || (isnan(params[0][j]) && isnan(params[1][j])));
            assert_memory_equal(codes[0], codes[1], sizeof codes[0]);
            assert_true(isfinite(params[0][3]) == (i >= 6));
            release_arrays();
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_table_agrees_with_the_reference),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(moments_get_the_nearest_codes),
        cmocka_unit_test(moments_that_are_not_finite_are_those_of_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
