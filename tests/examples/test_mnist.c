/* The example mnist: what it says about drawn digits, and that real ones are learned as promised. */
#include "../cli/program.h"

#include <math.h>

enum { WAYS = 3, TEST_DIGITS = 2000, TILE = 30, BORDER = 2 };

/* Sanitizers slow training down tenfold: there a tenth of the real samples has to do, and cannot teach as much. */
#ifdef __SANITIZE_ADDRESS__
#define REAL_LIMIT "6000"
enum { REAL_SAMPLES = 6000, REAL_ACCURACY = 90 };
#else
#define REAL_LIMIT "0"
enum { REAL_SAMPLES = 60000, REAL_ACCURACY = 97 };
#endif

/* The numbers behind `title` in the last run's output, one for each way of training. */
static void read_row(const char *title, double *values, int count) {
    char line[64];
    snprintf(line, sizeof line, "\n%s ", title);
    const char *at = strstr(text(), line);
    if (!at)
        fail_msg("no line '%s' in: %s", title, text());
    at += strlen(line);
    for (int i = 0; i < count; i++) {
        int read = 0;
        if (sscanf(at, " %lf%n", &values[i], &read) != 1)
            fail_msg("'%s' has no number %d in: %s", title, i, text());
        at += read;
        at += strspn(at, " %kBs");
    }
}

static double number_after(const char *words) {
    const char *at = strstr(text(), words);
    if (!at)
        fail_msg("'%s' is not in: %s", words, text());
    return atof(at + strlen(words));
}

static int count_of(const char *words) {
    int count = 0;
    for (const char *at = text(); (at = strstr(at, words)); at += strlen(words))
        count++;
    return count;
}

static void check_row(const char *title, double base, double lora, double full) {
    const double want[WAYS] = {base, lora, full};
    double got[WAYS];
    read_row(title, got, WAYS);
    for (int i = 0; i < WAYS; i++)
        if (fabs(got[i] - want[i]) > 0.051)
            fail_msg("%s, column %d: %g, not %g", title, i, got[i], want[i]);
}

/* A grey picture of `count` tiles, ten in a row. */
static void check_picture(const char *name, int count) {
    char path[TN_PATH_MAX], header[64];
    tn_mapping picture;
    int rows = (count + 9) / 10, width = 10 * TILE + BORDER, height = rows * TILE + BORDER;
    assert_int_equal(tn_path_join(path, folder, name), TN_OK);
    assert_int_equal(tn_file_map(path, &picture), TN_OK);
    size_t length = (size_t)snprintf(header, sizeof header, "P5\n%d %d\n255\n", width, height);
    assert_int_equal(picture.size, length + (size_t)(width * height));
    assert_memory_equal(picture.data, header, length);
    tn_file_unmap(&picture);
}

/* What infer shows agrees with itself and with what training measured. */
static void check_inference(double accuracy, int samples, int test_samples) {
    double right = number_after("accuracy: ");
    assert_true(fabs(right - accuracy) < 0.0051);
    assert_int_equal(count_of("\n\xe2\x9c\x93  sample ") + count_of("\n\xe2\x9c\x97  sample ") +
                         (strncmp(text(), "\xe2\x9c", 2) == 0),
                     samples);
    int wrong = (int)number_after("wrong: ");
    assert_int_equal(wrong, (int)lround((100 - right) / 100 * test_samples));
    assert_int_equal(count_of(">") - 1, wrong < 100 ? wrong : 100); /* one is in the heading */
    check_picture("out/wrong.pgm", wrong < 100 ? wrong : 100);
}

static void new_digits_are_learned(void **state) {
    double accuracy[WAYS], known[WAYS], fresh[WAYS];
    (void)state;
    exits(0, "$TENON_EXAMPLE train --out out --limit 4000 --base-epochs 2 --epochs 3");
    printed("4000 training and 2000 test samples of digits; 784-512-256-10, 535818 parameters");
    printed("fc1  784 x 512:  10368 of 401920 parameters");
    printed("fc2  512 x 256:   6144 of 131328 parameters");
    printed("fc3  256 x  10:   2128 of   2570 parameters");
    assert_int_equal(count_of("   epoch "), 2 + 3 + 3);
    check_row("trained numbers", 535818, 18640, 535818);
    check_row("gradients", 2143.3, 74.6, 2143.3);
    check_row("optimiser", 4286.6, 149.1, 4286.6);
    read_row("accuracy", accuracy, WAYS);
    read_row("  digits 0 to 4", known, WAYS);
    read_row("  digits 5 to 9", fresh, WAYS);
    assert_true(fresh[0] == 0 && known[0] > 95 && fabs(accuracy[0] - known[0] / 2) < 0.011);
    assert_true(accuracy[1] > 90 && fresh[1] > 85);
    assert_true(accuracy[2] > 95);
    exits(0, "$TENON_EXAMPLE infer --out out --samples 25 --shown 2");
    check_inference(accuracy[1], 25, TEST_DIGITS);
    char base[64];
    snprintf(base, sizeof base, "(the base alone: %.2f %%)", accuracy[0]);
    printed(base);
    exits(0, "$TENON_EXAMPLE infer --out out --samples 0 --picture other.pgm && cmp out/wrong.pgm other.pgm");
    exits(0, "$TENON_PROGRAM merge --model out/base --adapter out/adapter --out merged");
    /* the same seed, the same bytes */
    exits(0, "$TENON_EXAMPLE train --out again --limit 4000 --base-epochs 2 --epochs 3 --no-full");
    exits(0, "cmp out/adapter/adapter_model.safetensors again/adapter/adapter_model.safetensors");
}

static void memory_is_counted(void **state) {
    (void)state;
    exits(0, "$TENON_EXAMPLE bench --out out --passes 2 --steps 2");
    printed("small: 784-512-256-10");
    printed("parameters: 535818, with LoRA of rank 8 18640 are trained, 28.7 times fewer");
    printed("medium: 784-2048-1024-10");
    printed("parameters: 3716106, with LoRA of rank 8 55504 are trained, 67.0 times fewer");
    check_row("     full     ", 0, 2143.3, 2143.3);
    check_row("     LoRA     ", 2143.3, 74.6, 74.6);
    /* 535040 weights of half a byte, 8360 blocks of 64 with a byte, 34 of 256 such bytes with an f32, 778 f32 biases */
    check_row("     QLoRA", (535040 / 2 + 8360 + 34 * 4 + 778 * 4) / 1e3, 74.6, 74.6);
    assert_int_equal(count_of(" samples/s"), 2 * 7);
    exits(0, "$TENON_EXAMPLE bench --out out --passes 20 --steps 10 --rank 4 --no-medium");
    printed("with LoRA of rank 4 9320 are trained");
    assert_int_equal(count_of(" samples/s"), 7);
}

static void mistakes_are_explained(void **state) {
    (void)state;
    exits(0, "$TENON_EXAMPLE --help");
    printed("usage: mnist train | infer | bench");
    exits(0, "$TENON_EXAMPLE train --help");
    exits(2, "$TENON_EXAMPLE");
    exits(2, "$TENON_EXAMPLE guess");
    exits(2, "$TENON_EXAMPLE train --rank 0");
    printed("--rank cannot be '0'");
    exits(2, "$TENON_EXAMPLE infer --epochs 2");
    printed("infer has no option --epochs");
    exits(2, "$TENON_EXAMPLE bench extra");
    exits(1, "$TENON_EXAMPLE infer --out nowhere");
    printed("nowhere/base");
    exits(1, "$TENON_EXAMPLE train --data nowhere --out out2");
    printed("nowhere");
    exits(1, "$TENON_EXAMPLE train --out missing/deeper");
    exits(1, "$TENON_EXAMPLE train --rank 300 --limit 64 --out out3");
    exits(1, "$TENON_EXAMPLE bench --passes 100000 --steps 10 --no-medium --out out3");
}

static void real_digits_reach_97_percent(void **state) {
    double accuracy[WAYS], fresh[WAYS];
    char samples[64];
    (void)state;
    need_shared("MNIST", "data/images/mnist");
    exits(0, "$TENON_EXAMPLE train --data $MNIST --out real --base-epochs 2 --epochs 3 --no-full --limit " REAL_LIMIT);
    snprintf(samples, sizeof samples, "%d training and 10000 test samples", REAL_SAMPLES);
    printed(samples);
    read_row("accuracy", accuracy, 2);
    read_row("  digits 5 to 9", fresh, 2);
    assert_true(fresh[0] == 0);
    if (accuracy[1] < REAL_ACCURACY)
        fail_msg("%g %% of the test digits are found after 3 epochs", accuracy[1]);
    exits(0, "rm -rf out && mv real out && $TENON_EXAMPLE infer --data $MNIST --out out");
    check_inference(accuracy[1], 10, 10000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_digits_are_learned),
        cmocka_unit_test(memory_is_counted),
        cmocka_unit_test(mistakes_are_explained),
        cmocka_unit_test(real_digits_reach_97_percent),
    };
    return cmocka_run_group_tests_name("example_mnist", tests, make_folder, remove_folder);
}
