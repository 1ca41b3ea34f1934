/* lora_basics run as a whole: its counts, what it learns, that merged and saved adapters are the one that was trained. */
#include "example.h"

#define RUN "\"$TENON_EXAMPLE\" "

enum { INPUTS = 784, CLASSES = 10, SAMPLES = 500 };

static void counts_what_is_trained(void) {
    printed("784-128-64-10, 109386 parameters");
    printed("scaling alpha / rank = 2, dropout 0, bias none");
    assert_true(number_after("fc1.lora_A.weight         8 x 784", NULL) == 8 * 784);
    assert_true(number_after("fc1.lora_B.weight         128 x 8", NULL) == 128 * 8);
    assert_true(number_after("fc2.lora_A.weight         8 x 128", NULL) == 8 * 128);
    assert_true(number_after("fc2.lora_B.weight          64 x 8", NULL) == 64 * 8);
    printed("trained 8832 of 109386 parameters: 8.07 %, a reduction by 91.93 %");
}

static void learns_and_merges(void) {
    double base = number_after("\n  accuracy", NULL), inverted = number_after("others like them,", NULL);
    double adapted = number_after("inverted digits: accuracy", NULL);
    assert_true(base > 75 && inverted < 30 && adapted > 60);
    assert_true(number_after("between the base and the fresh adapter:", NULL) == 0);
    assert_true(number_after("between LoRA and merged:", NULL) < 1e-3);
    assert_true(number_after("LoRA saved and loaded:", NULL) == 0);
}

static void shows_a_row(void) {
    const char *base = strstr(text(), "\n  base "), *lora = strstr(text(), "\n  LoRA   "),
               *merged = strstr(text(), "\n  merged");
    assert_true(base && lora && merged);
    base += 9;
    lora += 9;
    merged += 9;
    double most = 0;
    for (int k = 0; k < CLASSES; k++) {
        double b = next_number(&base), l = next_number(&lora), m = next_number(&merged);
        assert_true(fabs(l - m) <= 0.002);
        most = fmax(most, fabs(b - l));
    }
    assert_true(most > 0.1);
}

static void compares_variants(void) {
    static const char *const rows[] = {
        "\nplain           0    none     8        2", "\ndropout       0.1    none     8        2",
        "\nbias-all        0     all     8        2", "\nrslora          0    none     8    5.657"};
    static const int64_t trained[] = {8832, 8832, 9034, 8832};
    for (int i = 0; i < 4; i++) {
        const char *at = text();
        assert_true(number_after(rows[i], &at) == (double)trained[i]);
        assert_true(fabs(next_number(&at) - (100 - 100 * (double)trained[i] / 109386)) < 0.006);
        at = strchr(at, '%') + 1;
        assert_true(next_number(&at) > 50);
        at = strchr(at, '%') + 1;
        assert_true(next_number(&at) < 1e-3);
    }
}

static void runs_as_it_says(void **state) {
    (void)state;
    exits(0, RUN "--base-epochs 3 --epochs 4");
    counts_what_is_trained();
    learns_and_merges();
    shows_a_row();
    compares_variants();
}

/* The files of the run above, used by another program. */
static void files_load_again(void **state) {
    const tn_feature_options inverted = {.invert = true, .mean = 0.5, .std = 1};
    float *lora = malloc(SAMPLES * CLASSES * sizeof *lora), *merged = malloc(SAMPLES * CLASSES * sizeof *merged);
    double printed_accuracy = number_after("inverted digits: accuracy", NULL), largest = 0;
    tn_feature_set set;
    tn_feature_evaluation found;
    tn_model *model = load("lora_basics.out/base"), *plain = load("lora_basics.out/adapter/merged");
    (void)state;
    assert_true(lora && merged);
    assert_ok(tn_feature_set_load(model, "digits", TN_FEATURE_TEST, &inverted, &set));
    tn_feature_set part = {.count = SAMPLES, .inputs = INPUTS, .x = set.x, .labels = set.labels};
    assert_ok(tn_model_load_adapter(model, below("lora_basics.out/adapter"), false, false));
    assert_ok(tn_evaluate_features(model, &part, 0, &found));
    assert_true(fabs(100 * found.accuracy - printed_accuracy) < 0.06);
    tn_feature_evaluation_free(&found);
    assert_ok(tn_predict(model, part.x, SAMPLES, lora));
    assert_ok(tn_predict(plain, part.x, SAMPLES, merged));
    for (int i = 0; i < SAMPLES * CLASSES; i++)
        largest = fmax(largest, fabs((double)lora[i] - merged[i]));
    assert_true(largest < 1e-3);
    tn_feature_set_free(&set);
    tn_model_free(plain);
    tn_model_free(model);
    free(lora);
    free(merged);
}

static void options_change_the_adapter(void **state) {
    (void)state;
    exits(0, RUN "--base-epochs 1 --epochs 1 --rank 4 --alpha 8 --dropout 0.2 --bias all --rslora --out other");
    printed("LoRA of rank 4 and alpha 8 on fc1,fc2, scaling alpha / sqrt(rank) = 4, dropout 0.2, bias all:");
    printed("trained 4618 of 109386 parameters"); /* 4 (784 + 128) + 4 (128 + 64) + 202 biases */
    assert_true(number_after("between LoRA and merged:", NULL) < 1e-3);
    assert_true(tn_path_exists(below("other/adapter/adapter_model.safetensors")));
}

static void wrong_options_are_errors(void **state) {
    static const struct {
        const char *command, *words;
        int code;
    } wrong[] = {
        {RUN "--rank 65", "rank 65 does not fit fc2", 1},
        {RUN "--dropout 1", "dropout 1 is not at least 0 and below 1", 1},
        {RUN "--bias some", "bias 'some' is not one of none, all", 1},
        {RUN "--data nowhere", "nowhere", 1},
        {RUN "--out /dev/null/x", "cannot make the folder /dev/null/x", 1},
        {RUN "--rank eight", "--rank cannot be 'eight'", 2},
        {RUN "--epochs 0", "--epochs cannot be '0'", 2},
        {RUN "--alpha=-1", "--alpha", 2},
        {RUN "--wrong", "wrong", 2},
        {RUN "more", "'more' is no option", 2},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        exits(wrong[i].code, wrong[i].command);
        printed(wrong[i].words);
    }
    exits(0, RUN "--help");
    printed("--rslora");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_as_it_says),
        cmocka_unit_test(files_load_again),
        cmocka_unit_test(options_change_the_adapter),
        cmocka_unit_test(wrong_options_are_errors),
    };
    return cmocka_run_group_tests_name("example lora_basics", tests, make_folder, remove_folder);
}
