/* The sampler on logits made by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "infer/sampler.h"

enum { VOCAB = 6, DRAWS = 4000 };

/* log of these probabilities, so that sums are easy to see: 0.4, 0.3, 0.15, 0.1, 0.04, 0.01, at mixed ids */
static const double probability[VOCAB] = {0.1, 0.4, 0.01, 0.3, 0.04, 0.15};

static void log_probabilities(float logits[VOCAB]) {
    for (int i = 0; i < VOCAB; i++)
        logits[i] = (float)log(probability[i]);
}

static tn_generate_options defaults(void) {
    tn_generate_options options;
    tn_generate_options_default(&options);
    return options;
}

static int32_t pick_of(const tn_generate_options *options, const float *logits, int64_t vocab, const tn_seen *seen,
                       int64_t step) {
    tn_sampler sampler;
    int32_t id = -1;
    assert_int_equal(tn_sampler_init(&sampler, options, vocab), TN_OK);
    assert_int_equal(tn_sampler_pick(&sampler, logits, seen, step, &id), TN_OK);
    tn_sampler_free(&sampler);
    return id;
}

/* How often each id comes in DRAWS steps. */
static void histogram(const tn_generate_options *options, const float logits[VOCAB], int counts[VOCAB]) {
    tn_sampler sampler;
    memset(counts, 0, VOCAB * sizeof *counts);
    assert_int_equal(tn_sampler_init(&sampler, options, VOCAB), TN_OK);
    for (int step = 0; step < DRAWS; step++) {
        int32_t id = -1;
        assert_int_equal(tn_sampler_pick(&sampler, logits, NULL, step, &id), TN_OK);
        assert_in_range(id, 0, VOCAB - 1);
        counts[id]++;
    }
    tn_sampler_free(&sampler);
}

/* Only ids of the mask come, as often as their probabilities among themselves say (within four standard deviations). */
static void expect_ids(const tn_generate_options *options, const float logits[VOCAB], unsigned mask) {
    int counts[VOCAB];
    double sum = 0;
    histogram(options, logits, counts);
    for (int i = 0; i < VOCAB; i++)
        sum += mask >> i & 1 ? probability[i] : 0;
    for (int i = 0; i < VOCAB; i++) {
        double p = mask >> i & 1 ? probability[i] / sum : 0;
        assert_true(fabs(counts[i] - p * DRAWS) <= 4 * sqrt(p * (1 - p) * DRAWS) + 1e-6 * DRAWS);
    }
}

static void greedy_takes_the_smallest_id_of_equals(void **state) {
    (void)state;
    tn_generate_options options = defaults();
    assert_int_equal(pick_of(&options, (float[]){0, 3, 1, 3, 2}, 5, NULL, 0), 1);
    assert_int_equal(pick_of(&options, (float[]){-INFINITY, -3, -INFINITY, -3}, 4, NULL, 0), 1);
}

static void plain_sampling_follows_the_softmax(void **state) {
    (void)state;
    float logits[VOCAB];
    tn_generate_options options = defaults();
    log_probabilities(logits);
    options.temperature = 1;
    expect_ids(&options, logits, 0x3f);
}

static void temperature_sharpens_the_softmax(void **state) {
    (void)state;
    tn_generate_options options = defaults();
    float logits[VOCAB];
    int counts[VOCAB];
    log_probabilities(logits);
    options.temperature = 0.5; /* squares the probabilities */
    histogram(&options, logits, counts);
    double sum = 0;
    for (int i = 0; i < VOCAB; i++)
        sum += probability[i] * probability[i];
    double p = probability[1] * probability[1] / sum;
    assert_true(fabs(counts[1] - p * DRAWS) < 4 * sqrt(p * (1 - p) * DRAWS));
}

static void top_k_keeps_the_k_most_likely(void **state) {
    (void)state;
    float logits[VOCAB];
    tn_generate_options options = defaults();
    log_probabilities(logits);
    options.temperature = 1;
    options.top_k = 3;
    expect_ids(&options, logits, 1 << 1 | 1 << 3 | 1 << 5);
    options.top_k = 1;
    expect_ids(&options, logits, 1 << 1);
    options.top_k = 100;
    expect_ids(&options, logits, 0x3f);
}

static void top_k_keeps_all_that_equal_the_last(void **state) {
    (void)state;
    tn_generate_options options = defaults();
    const float logits[VOCAB] = {1, 2, 1, 0, 1, 0};
    int counts[VOCAB];
    options.temperature = 1;
    options.top_k = 2;
    histogram(&options, logits, counts);
    assert_true(counts[0] > 0 && counts[1] > 0 && counts[2] > 0 && counts[4] > 0);
    assert_int_equal(counts[3] + counts[5], 0);
}

static void top_p_keeps_the_smallest_set_that_reaches_it(void **state) {
    (void)state;
    float logits[VOCAB];
    tn_generate_options options = defaults();
    log_probabilities(logits);
    options.temperature = 1;
    options.top_p = 0.75; /* 0.4 + 0.3 fall short */
    expect_ids(&options, logits, 1 << 1 | 1 << 3 | 1 << 5);
    options.top_p = 0.65;
    expect_ids(&options, logits, 1 << 1 | 1 << 3);
    options.top_p = 0;
    expect_ids(&options, logits, 1 << 1);
}

static void top_p_counts_among_what_top_k_left(void **state) {
    (void)state;
    float logits[VOCAB];
    tn_generate_options options = defaults();
    log_probabilities(logits);
    options.temperature = 1;
    options.top_k = 2;
    options.top_p = 0.56; /* 0.4 / 0.7 reaches it, 0.4 alone would not */
    expect_ids(&options, logits, 1 << 1);
}

static void min_p_is_relative_to_the_most_likely(void **state) {
    (void)state;
    float logits[VOCAB];
    tn_generate_options options = defaults();
    log_probabilities(logits);
    options.temperature = 1;
    options.min_p = 0.3; /* of 0.4: 0.12 */
    expect_ids(&options, logits, 1 << 1 | 1 << 3 | 1 << 5);
    options.min_p = 1;
    expect_ids(&options, logits, 1 << 1);
}

static void repetition_penalty_divides_above_zero_and_multiplies_below(void **state) {
    (void)state;
    tn_generate_options options = defaults();
    tn_seen seen[1] = {0};
    const float above[] = {4, 3, 1}, below[] = {-2, -3, -9};
    options.repetition_penalty = 2;
    assert_int_equal(pick_of(&options, above, 3, seen, 0), 0);
    tn_seen_add(seen, 0);
    tn_seen_add(seen, 0); /* being seen twice counts once */
    assert_int_equal(pick_of(&options, above, 3, seen, 0), 1);
    assert_int_equal(pick_of(&options, below, 3, seen, 0), 1);
    options.repetition_penalty = 1.25;
    assert_int_equal(pick_of(&options, above, 3, seen, 0), 0);
}

static void a_draw_depends_on_seed_and_step_alone(void **state) {
    (void)state;
    tn_generate_options options = defaults();
    float logits[VOCAB] = {0};
    tn_sampler sampler;
    int differences = 0;
    options.temperature = 1;
    options.seed = 7;
    assert_int_equal(tn_sampler_init(&sampler, &options, VOCAB), TN_OK);
    for (int64_t step = 99; step >= 0; step--) {
        int32_t id;
        assert_int_equal(tn_sampler_pick(&sampler, logits, NULL, step, &id), TN_OK);
        assert_int_equal(id, pick_of(&options, logits, VOCAB, NULL, step));
        tn_generate_options other = options;
        other.seed = 8;
        differences += id != pick_of(&other, logits, VOCAB, NULL, step);
    }
    tn_sampler_free(&sampler);
    assert_true(differences > 50);
}

static void an_impossible_token_is_never_drawn(void **state) {
    (void)state;
    tn_generate_options options = defaults();
    const float logits[VOCAB] = {-INFINITY, 0, -INFINITY, 0, -INFINITY, -INFINITY};
    int counts[VOCAB];
    options.temperature = 2;
    options.top_p = 0.999;
    for (int with_top_p = 0; with_top_p < 2; with_top_p++) {
        histogram(&options, logits, counts);
        assert_int_equal(counts[1] + counts[3], DRAWS);
        options.top_p = 1;
    }
}

static void logits_that_are_not_finite_are_an_error(void **state) {
    (void)state;
    tn_generate_options options = defaults();
    const float cases[3][2] = {{0, NAN}, {INFINITY, 0}, {-INFINITY, -INFINITY}};
    tn_sampler sampler;
    int32_t id;
    assert_int_equal(tn_sampler_init(&sampler, &options, 2), TN_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(tn_sampler_pick(&sampler, cases[i], NULL, 0, &id), TN_ERROR_NUMERIC);
    tn_sampler_free(&sampler);
}

static void options_out_of_range_are_an_error(void **state) {
    (void)state;
    tn_generate_options bad[6];
    for (int i = 0; i < 6; i++)
        bad[i] = defaults();
    bad[0].temperature = -1;
    bad[1].top_k = -1;
    bad[2].top_p = 1.5;
    bad[3].min_p = NAN;
    bad[4].repetition_penalty = 0;
    bad[5].temperature = INFINITY;
    for (int i = 0; i < 6; i++) {
        tn_sampler sampler;
        assert_int_equal(tn_sampler_init(&sampler, &bad[i], VOCAB), TN_ERROR_ARGUMENT);
        tn_sampler_free(&sampler);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_smallest_id_of_equals),
        cmocka_unit_test(plain_sampling_follows_the_softmax),
        cmocka_unit_test(temperature_sharpens_the_softmax),
        cmocka_unit_test(top_k_keeps_the_k_most_likely),
        cmocka_unit_test(top_k_keeps_all_that_equal_the_last),
        cmocka_unit_test(top_p_keeps_the_smallest_set_that_reaches_it),
        cmocka_unit_test(top_p_counts_among_what_top_k_left),
        cmocka_unit_test(min_p_is_relative_to_the_most_likely),
        cmocka_unit_test(repetition_penalty_divides_above_zero_and_multiplies_below),
        cmocka_unit_test(a_draw_depends_on_seed_and_step_alone),
        cmocka_unit_test(an_impossible_token_is_never_drawn),
        cmocka_unit_test(logits_that_are_not_finite_are_an_error),
        cmocka_unit_test(options_out_of_range_are_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
