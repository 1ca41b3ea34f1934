/* AdamW over a parameter store against the formula in double precision. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "base/rng.h"
#include "train/optimizer.h"

enum { STEPS = 10, TENSORS = 3 };

static const int64_t shapes[TENSORS][2] = {{5, 7}, {33, 1}, {2, 16}};

typedef struct {
    tn_params params;
    tn_weight weights[TENSORS];
    float start[TENSORS][64];
} store;

static void build(store *s) {
    static const char *const names[] = {"a", "b", "c"};
    *s = (store){0};
    for (int i = 0; i < TENSORS; i++) {
        int64_t count = shapes[i][0] * shapes[i][1];
        tn_fill_normal(s->start[i], (size_t)count, 3, tn_stream(TN_STREAM_INIT, (uint32_t)i), 0, 1);
        s->weights[i].tensor =
            (tn_tensor){.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {shapes[i][0], shapes[i][1]}, .data = s->start[i]};
        assert_int_equal(tn_params_add(&s->params, names[i], &s->weights[i]), TN_OK);
    }
    assert_int_equal(tn_params_build(&s->params, true), TN_OK);
}

/* Loshchilov & Hutter 2019, algorithm 2, with the order of torch.optim.AdamW. */
typedef struct {
    double p, m, v;
} reference;

static void reference_step(reference *r, double g, int step, double lr, double decay) {
    r->p *= 1 - lr * decay;
    r->m = 0.9 * r->m + 0.1 * g;
    r->v = 0.99 * r->v + 0.01 * g * g;
    r->p -= lr * (r->m / (1 - pow(0.9, step))) / (sqrt(r->v / (1 - pow(0.99, step))) + 1e-8);
}

static void gradient_at(store *s, int step, float size) {
    for (int64_t i = 0; i < s->params.count; i++) {
        tn_param *param = &s->params.entries[i];
        tn_fill_normal(param->weight->grad, (size_t)param->count, 4,
                       tn_stream(TN_STREAM_DATA, (uint32_t)(step * TENSORS + i)), 0, size);
    }
}

static double norm_of(const store *s) {
    double sum = 0;
    for (int64_t i = 0; i < s->params.count; i++)
        for (int64_t j = 0; j < s->params.entries[i].count; j++)
            sum += pow(s->params.entries[i].weight->grad[j], 2);
    return sqrt(sum);
}

/* Ten steps on random gradients of this size; every value must follow the reference. */
static void compare(float size, double clip, const double *scales, const bool *decays) {
    store s;
    tn_optimizer optimizer;
    reference wanted[TENSORS][64] = {{{0}}};
    build(&s);
    assert_int_equal(tn_optimizer_init(&optimizer, &s.params, tn_kernels_cpu(), TN_OPTIMIZER_ADAMW), TN_OK);
    optimizer.beta2 = 0.99;
    optimizer.weight_decay = 0.1;
    for (int i = 0; i < TENSORS; i++) {
        s.params.entries[i].lr_scale = (float)scales[i];
        s.params.entries[i].decay = decays[i];
        for (int64_t j = 0; j < s.params.entries[i].count; j++)
            wanted[i][j].p = s.start[i][j];
    }
    for (int step = 1; step <= STEPS; step++) {
        double lr = 0.01 * step;
        tn_optimizer_zero_grad(&optimizer);
        assert_true(tn_optimizer_grad_norm(&optimizer) == 0);
        gradient_at(&s, step, size);
        double norm = tn_optimizer_grad_norm(&optimizer), factor = clip > 0 ? fmin(1, clip / (norm + 1e-6)) : 1;
        assert_true(fabs(norm - norm_of(&s)) < 1e-6 * norm);
        for (int i = 0; i < TENSORS; i++)
            for (int64_t j = 0; j < s.params.entries[i].count; j++)
                reference_step(&wanted[i][j], s.weights[i].grad[j] * factor, step, lr * scales[i], decays[i] ? 0.1 : 0);
        tn_optimizer_step(&optimizer, step, lr, norm, clip);
        for (int i = 0; i < TENSORS; i++)
            for (int64_t j = 0; j < s.params.entries[i].count; j++)
                assert_true(fabs(((const float *)s.weights[i].tensor.data)[j] - wanted[i][j].p) < 2e-6 * fmax(1, scales[i]));
    }
    tn_optimizer_free(&optimizer);
    tn_params_free(&s.params);
}

static void steps_follow_the_formula(void **state) {
    (void)state;
    compare(1, 0, (const double[]){1, 1, 1}, (const bool[]){true, true, true});
}

static void groups_have_rates_of_their_own_and_may_not_decay(void **state) {
    (void)state;
    compare(1, 0, (const double[]){1, 16, 0}, (const bool[]){true, false, false});
}

static void long_gradients_are_clipped_and_short_ones_are_not(void **state) {
    (void)state;
    compare(100, 1, (const double[]){1, 2, 1}, (const bool[]){true, true, false});
    compare(1e-3f, 1, (const double[]){1, 2, 1}, (const bool[]){true, true, false});
}

static void a_rate_of_zero_changes_nothing(void **state) {
    (void)state;
    store s;
    tn_optimizer optimizer;
    build(&s);
    assert_int_equal(tn_optimizer_init(&optimizer, &s.params, tn_kernels_cpu(), TN_OPTIMIZER_ADAMW), TN_OK);
    gradient_at(&s, 1, 1);
    tn_optimizer_step(&optimizer, 1, 0, tn_optimizer_grad_norm(&optimizer), 1);
    for (int i = 0; i < TENSORS; i++)
        assert_memory_equal(s.weights[i].tensor.data, s.start[i], (size_t)s.params.entries[i].count * sizeof(float));
    tn_optimizer_free(&optimizer);
    tn_params_free(&s.params);
}

static void want_of_memory_is_told_and_leaks_nothing(void **state) {
    (void)state;
    store s;
    build(&s);
    for (int allocation = 0; allocation < 2; allocation++) {
        tn_optimizer optimizer;
        size_t before = tn_memory_used();
        tn_memory_fail_after(allocation);
        assert_int_equal(tn_optimizer_init(&optimizer, &s.params, tn_kernels_cpu(), TN_OPTIMIZER_ADAMW), TN_ERROR_MEMORY);
        tn_memory_fail_after(-1);
        tn_optimizer_free(&optimizer);
        assert_int_equal(tn_memory_used(), before);
    }
    tn_params_free(&s.params);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_follow_the_formula),
        cmocka_unit_test(groups_have_rates_of_their_own_and_may_not_decay),
        cmocka_unit_test(long_gradients_are_clipped_and_short_ones_are_not),
        cmocka_unit_test(a_rate_of_zero_changes_nothing),
        cmocka_unit_test(want_of_memory_is_told_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
