/* Learning-rate schedules against the formulas of transformers' optimization.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "train/schedule.h"

/* get_constant_schedule_with_warmup, get_linear_schedule_with_warmup, get_cosine_schedule_with_warmup (half a cycle). */
static double reference(tn_schedule schedule, double current, double steps, double warmup) {
    if (current < warmup)
        return current / fmax(1, warmup);
    double progress = (current - warmup) / fmax(1, steps - warmup);
    switch (schedule) {
    case TN_SCHEDULE_CONSTANT: return 1;
    case TN_SCHEDULE_LINEAR: return fmax(0, (steps - current) / fmax(1, steps - warmup));
    case TN_SCHEDULE_COSINE: return fmax(0, 0.5 * (1 + cos(acos(-1) * 0.5 * 2 * progress)));
    }
    return NAN;
}

static void every_factor_is_that_of_transformers(void **state) {
    (void)state;
    const int64_t lengths[] = {1, 2, 3, 10, 97}, warmups[] = {0, 1, 4, 10, 200};
    for (int s = 0; s < 3; s++)
        for (size_t l = 0; l < 5; l++)
            for (size_t w = 0; w < 5; w++)
                for (int64_t k = 0; k <= lengths[l]; k++)
                    assert_true(fabs(tn_schedule_factor((tn_schedule)s, k, lengths[l], warmups[w]) -
                                     reference((tn_schedule)s, (double)k, (double)lengths[l], (double)warmups[w])) < 1e-15);
}

static void factors_by_hand(void **state) {
    (void)state;
    assert_true(tn_schedule_factor(TN_SCHEDULE_CONSTANT, 0, 10, 0) == 1);
    assert_true(tn_schedule_factor(TN_SCHEDULE_CONSTANT, 0, 10, 4) == 0);
    assert_true(tn_schedule_factor(TN_SCHEDULE_CONSTANT, 1, 10, 4) == 0.25);
    assert_true(tn_schedule_factor(TN_SCHEDULE_CONSTANT, 4, 10, 4) == 1);
    assert_true(tn_schedule_factor(TN_SCHEDULE_LINEAR, 9, 10, 0) - 0.1 < 1e-15);
    assert_true(tn_schedule_factor(TN_SCHEDULE_LINEAR, 7, 10, 4) == 0.5);
    assert_true(tn_schedule_factor(TN_SCHEDULE_LINEAR, 10, 10, 4) == 0);
    assert_true(tn_schedule_factor(TN_SCHEDULE_COSINE, 0, 8, 0) == 1);
    assert_true(fabs(tn_schedule_factor(TN_SCHEDULE_COSINE, 4, 8, 0) - 0.5) < 1e-15);
    assert_true(fabs(tn_schedule_factor(TN_SCHEDULE_COSINE, 2, 8, 0) - (2 + sqrt(2)) / 4) < 1e-15);
    assert_true(tn_schedule_factor(TN_SCHEDULE_COSINE, 8, 8, 0) == 0);
}

static void unknown_schedule_lists_the_known_ones(void **state) {
    (void)state;
    tn_schedule schedule;
    assert_int_equal(tn_schedule_from_name("linear", &schedule), TN_OK);
    assert_int_equal(schedule, TN_SCHEDULE_LINEAR);
    assert_int_equal(tn_schedule_from_name("polynomial", &schedule), TN_ERROR_ARGUMENT);
    assert_non_null(strstr(tn_error_message(), "'polynomial' is not one of constant, linear, cosine"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_factor_is_that_of_transformers),
        cmocka_unit_test(factors_by_hand),
        cmocka_unit_test(unknown_schedule_lists_the_known_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
