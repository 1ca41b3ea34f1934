/* Drawn digits: the same bytes everywhere, different hands, learnable but not by their mean alone. */
#include "support/support.h"

#include "base/map.h"
#include "base/memory.h"
#include "data/digits.h"

static void the_same_seed_draws_the_same_bytes_on_every_machine(void **state) {
    (void)state;
    uint8_t pixels[TN_DIGITS_PIXELS];
    uint64_t hash = TN_HASH_START;
    for (uint32_t i = 0; i < 1000; i++) {
        assert_int_equal(tn_digits_draw(5, i, pixels), i % 10);
        hash = tn_hash(hash, pixels, sizeof pixels);
    }
    assert_true(hash == UINT64_C(0xd218212d69027904));
}

static void digits_depend_on_seed_and_index_alone(void **state) {
    (void)state;
    tn_features few, many, other;
    assert_ok(tn_digits_generate(10, 1, &few));
    assert_ok(tn_digits_generate(30, 1, &many));
    assert_ok(tn_digits_generate(10, 2, &other));
    assert_int_equal(many.classes, 10);
    assert_memory_equal(many.shape, ((int64_t[]){1, 28, 28}), 3 * sizeof(int64_t));
    assert_memory_equal(few.x, many.x, 10 * TN_DIGITS_PIXELS * sizeof(float));
    assert_memory_not_equal(few.x, other.x, 10 * TN_DIGITS_PIXELS * sizeof(float));
    assert_memory_not_equal(many.x, many.x + 10 * TN_DIGITS_PIXELS, TN_DIGITS_PIXELS * sizeof(float));
    assert_true(few.hash != other.hash);
    tn_features_free(&few);
    tn_features_free(&many);
    tn_features_free(&other);
    assert_fails(tn_digits_generate(0, 1, &few), TN_ERROR_ARGUMENT, "not 0");
}

static void ink_is_bright_and_its_surroundings_are_dark(void **state) {
    (void)state;
    uint8_t pixels[TN_DIGITS_PIXELS];
    for (uint32_t i = 0; i < 500; i++) {
        int bright = 0, edge = 0;
        tn_digits_draw(3, i, pixels);
        for (int p = 0; p < TN_DIGITS_PIXELS; p++) {
            int r = p / TN_DIGITS_SIDE, c = p % TN_DIGITS_SIDE;
            bright += pixels[p] > 120;
            edge += (r == 0 || c == 0 || r == TN_DIGITS_SIDE - 1 || c == TN_DIGITS_SIDE - 1) && pixels[p] > 120;
        }
        assert_in_range(bright, 15, 260);
        assert_int_equal(edge, 0);
    }
}

static void written_files_read_back_as_generated(void **state) {
    (void)state;
    tn_features train, test, drawn;
    assert_ok(tn_digits_write(temporary("digits"), TN_FEATURES_TRAIN, 50, 1));
    assert_ok(tn_digits_write(temporary("digits"), TN_FEATURES_TEST, 20, 2));
    assert_ok(tn_features_read_both(temporary("digits"), &(tn_features_options){0}, &train, &test));
    assert_ok(tn_digits_generate(50, 1, &drawn));
    assert_true(drawn.hash == train.hash);
    assert_int_equal(test.count, 20);
    tn_features_free(&drawn);
    tn_features_free(&train);
    tn_features_free(&test);
    write_text(temporary("file"), "");
    assert_fails(tn_digits_write(temporary("file"), TN_FEATURES_TRAIN, 1, 1), TN_ERROR_IO, "in the way");
}

/* The share of `test` whose nearest class mean of `train` is its own class. */
static double nearest_mean_accuracy(const tn_features *train, const tn_features *test) {
    static double means[10][TN_DIGITS_PIXELS];
    int64_t right = 0;
    memset(means, 0, sizeof means);
    for (int64_t s = 0; s < train->count; s++)
        for (int p = 0; p < TN_DIGITS_PIXELS; p++)
            means[train->labels[s]][p] += (double)train->x[s * TN_DIGITS_PIXELS + p] * 10 / (double)train->count;
    for (int64_t s = 0; s < test->count; s++) {
        int best = 0;
        double least = HUGE_VAL;
        for (int c = 0; c < 10; c++) {
            double distance = 0;
            for (int p = 0; p < TN_DIGITS_PIXELS; p++) {
                double d = (double)test->x[s * TN_DIGITS_PIXELS + p] - means[c][p];
                distance += d * d;
            }
            if (distance < least) {
                least = distance;
                best = c;
            }
        }
        right += best == test->labels[s];
    }
    return (double)right / (double)test->count;
}

static void class_means_tell_most_digits_apart_but_not_all(void **state) {
    (void)state;
    tn_features train, test;
    assert_ok(tn_digits_generate(2000, 1, &train));
    assert_ok(tn_digits_generate(1000, 2, &test));
    double accuracy = nearest_mean_accuracy(&train, &test);
    print_message("nearest class mean: %.3f\n", accuracy);
    assert_true(accuracy > 0.5 && accuracy < 0.9);
    tn_features_free(&train);
    tn_features_free(&test);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_seed_draws_the_same_bytes_on_every_machine),
        cmocka_unit_test(digits_depend_on_seed_and_index_alone),
        cmocka_unit_test(ink_is_bright_and_its_surroundings_are_dark),
        cmocka_unit_test(written_files_read_back_as_generated),
        cmocka_unit_test(class_means_tell_most_digits_apart_but_not_all),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
