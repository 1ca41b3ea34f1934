/* lora_training run as a whole, both networks: counts by layer and rank, what is learned, merging, the same bytes again. */
#include "example.h"

#define RUN "\"$TENON_EXAMPLE\" "
#define SMALL "--base-epochs 3 --epochs 8 --conv-epochs 6 --rank-epochs 1 --every 3 "

static const char *after(const char *words) {
    const char *found = strstr(text(), words);
    if (!found)
        fail_msg("'%s' is not in: %s", words, text());
    return found + strlen(words);
}

/* A whole number with commas between its thousands; *at goes behind it. */
static int64_t count_at(const char **at) {
    int64_t value = 0;
    *at += strspn(*at, " ");
    if (**at < '0' || **at > '9')
        fail_msg("no count at: %.40s", *at);
    for (; (**at >= '0' && **at <= '9') || **at == ','; (*at)++)
        if (**at != ',')
            value = value * 10 + (**at - '0');
    return value;
}

static void layers_are_counted(void) {
    static const struct {
        const char *row;
        int64_t parameters, trained;
    } rows[] = {{"\nfc1        256 x 128", 33024, 3072}, {"\nfc2        256 x 256", 65792, 4096},
                {"\nfc3         10 x 256", 2570, 2128},  {"\ntotal                ", 101386, 9296},
                {"\nconv1          8 x 9", 80, 136},     {"\nconv2        16 x 72", 1168, 704},
                {"\nconv3       64 x 144", 9280, 1664},  {"\nfc          10 x 576", 5770, 4688}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *at = after(rows[i].row);
        assert_int_equal(count_at(&at), rows[i].parameters);
        assert_int_equal(count_at(&at), rows[i].trained);
        assert_true(fabs(next_number(&at) - 100.0 * (double)rows[i].trained / (double)rows[i].parameters) < 0.006);
    }
    printed("3,072");
    printed("9,296");
    printed("101,386");
}

/* Lines of epochs 1, 3, 6 and 8 of `part`: losses fall, norms and times are there. */
static void epochs_are_told(const char *part, const int *epochs, int count) {
    double first = 0, loss = 0;
    const char *at = strstr(part, "valid loss     accuracy  gradient norm         time\n");
    assert_non_null(at);
    for (int i = 0; i < count; i++) {
        at = strchr(at, '\n') + 1;
        assert_true(next_number(&at) == epochs[i]);
        loss = next_number(&at);
        double valid = next_number(&at), accuracy = next_number(&at);
        at = strchr(at, '%') + 1;
        double norm = next_number(&at), milliseconds = next_number(&at);
        assert_true(loss > 0 && valid > 0 && accuracy > 0 && accuracy <= 100 && norm > 0 && milliseconds > 0);
        first = i ? first : loss;
    }
    assert_true(loss < 0.5 * first);
}

static void adapters_learn_and_merge(const char *part, double floor, int64_t parameters) {
    const char *at = part;
    assert_true(number_after("; accuracy", &at) > 80);
    double before = number_after("of which it gets", &at);
    number_after("\n  accuracy", &at);
    double adapted = number_after("% before,", &at);
    assert_true(before < 70 && adapted > floor && adapted > before + 15);
    at = strstr(at, "/merged, ") + 9;
    assert_int_equal(count_at(&at), parameters);
    double with_adapter = number_after("\n  accuracy", &at), merged = number_after("with the adapter,", &at);
    assert_true(with_adapter == adapted && fabs(merged - adapted) < 0.6);
    assert_true(number_after("of 2000 outputs", &at) < 1e-3);
}

/* Rank 1 to 64 and full: trained numbers, and their memory, four times as many floats (with their alignment). */
static void ranks_are_compared(const char *part, const int64_t trained[8]) {
    const char *at = strstr(part, "optimiser       sum      saved   accuracy\n");
    assert_non_null(at);
    for (int i = 0; i < 8; i++) {
        char name[8];
        at = strchr(at, '\n') + 1;
        assert_int_equal(sscanf(at, "%7s", name), 1);
        if (i < 7)
            assert_int_equal(atoi(name), 1 << i);
        else
            assert_string_equal(name, "full");
        at = strstr(at, name) + strlen(name);
        assert_int_equal(count_at(&at), trained[i]);
        at = strchr(at, '%') + 1;
        assert_true(fabs(next_number(&at) - (double)trained[7] / (double)trained[i]) < 0.06);
        at = strchr(at, 'x') + 1;
        double parameters = next_number(&at), gradients = next_number(&at);
        double optimizer = next_number(&at), sum = next_number(&at), saved = next_number(&at);
        assert_true(parameters >= 4e-3 * (double)trained[i] - 0.06 && parameters < 4e-3 * (double)trained[i] + 0.6);
        assert_true(gradients == parameters && fabs(optimizer - 2 * parameters) < 0.16);
        assert_true(fabs(sum - parameters - gradients - optimizer) < 0.2);
        assert_true(fabs(saved - 100 * (1 - (double)trained[i] / (double)trained[7])) < 0.6);
    }
}

static void runs_as_it_says(void **state) {
    static const int dense_epochs[] = {1, 3, 6, 8}, conv_epochs[] = {1, 3, 6};
    /* fc3 and the convolutions have no more rank than their matrices */
    static const int64_t dense[8] = {1162, 2324, 4648, 9296, 16996, 31332, 60004, 101386};
    static const int64_t conv[8] = {899, 1798, 3596, 7192, 10732, 14060, 20716, 16298};
    (void)state;
    exits(0, "LC_ALL=C " RUN SMALL);
    layers_are_counted();
    const char *second = after("Convolutional network");
    epochs_are_told(text(), dense_epochs, 4);
    epochs_are_told(second, conv_epochs, 3);
    adapters_learn_and_merge(text(), 75, 101386);
    adapters_learn_and_merge(second, 60, 16298);
    ranks_are_compared(text(), dense);
    ranks_are_compared(second, conv);
    printed("** training   o validation");
    for (const char *p = text(); *p; p++)
        assert_true((unsigned char)*p < 128);
}

/* The files of the run above: the adapter gives what its merged network gives. */
static void files_load_again(void **state) {
    static const char *const networks[] = {"dense", "conv"};
    static const int64_t inputs[] = {128, 784};
    (void)state;
    for (int n = 0; n < 2; n++) {
        char name[128];
        float x[784], lora[10], merged[10], base[10];
        double change = 0;
        for (int64_t i = 0; i < inputs[n]; i++)
            x[i] = (float)(sin((double)i) / 2);
        snprintf(name, sizeof name, "lora_training.out/%s/base", networks[n]);
        tn_model *model = load(name);
        assert_ok(tn_predict(model, x, 1, base));
        snprintf(name, sizeof name, "lora_training.out/%s/adapter", networks[n]);
        assert_ok(tn_model_load_adapter(model, below(name), false, false));
        snprintf(name, sizeof name, "lora_training.out/%s/merged", networks[n]);
        tn_model *plain = load(name);
        assert_ok(tn_predict(model, x, 1, lora));
        assert_ok(tn_predict(plain, x, 1, merged));
        for (int k = 0; k < 10; k++) {
            assert_true(fabsf(lora[k] - merged[k]) < 1e-3f);
            change = fmax(change, fabsf(lora[k] - base[k]));
        }
        assert_true(change > 0.01);
        tn_model_free(plain);
        tn_model_free(model);
    }
}

static void the_same_seed_gives_the_same_bytes(void **state) {
    (void)state;
    exits(0, RUN "--network dense --out again " SMALL);
    exits(0, "cmp again/dense/adapter/adapter_model.safetensors lora_training.out/dense/adapter/adapter_model.safetensors");
    exits(0, RUN "--network dense --seed 2 --out other --base-epochs 1 --epochs 1 --rank-epochs 1");
    exits(1, "cmp -s other/dense/base/model.safetensors again/dense/base/model.safetensors");
}

static void wrong_options_are_errors(void **state) {
    static const struct {
        const char *command, *words;
        int code;
    } wrong[] = {
        {RUN "--network wide", "--network cannot be 'wide'", 2},
        {RUN "--rank 0", "--rank cannot be '0'", 2},
        {RUN "--lr nan", "--lr cannot be 'nan'", 2},
        {RUN "--wrong", "wrong", 2},
        {RUN "more", "'more' is no option", 2},
        {RUN "--out /dev/null/x", "cannot make the folder /dev/null/x", 1},
        {RUN "--network dense --base-epochs 1 --lr 100000 --epochs 2", "lora_training: ", 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        exits(wrong[i].code, wrong[i].command);
        printed(wrong[i].words);
    }
    exits(0, RUN "--help");
    printed("--rank-epochs");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_as_it_says),
        cmocka_unit_test(files_load_again),
        cmocka_unit_test(the_same_seed_gives_the_same_bytes),
        cmocka_unit_test(wrong_options_are_errors),
    };
    return cmocka_run_group_tests_name("example lora_training", tests, make_folder, remove_folder);
}
