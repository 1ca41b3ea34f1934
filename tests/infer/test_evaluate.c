/* Loss, accuracy and exact match on a small real model. */
#include <math.h>
#include <string.h>
#include <tenon/evaluate.h>
#include <unistd.h>

#include "shared.h"

/* A data file of rows for the entries of the reference, removed by the test. */
static void write_rows(char path[TN_PATH_MAX], const cJSON *golden, void (*row)(tn_buf *out, const cJSON *entry)) {
    tn_buf text = {0};
    const cJSON *entry;
    snprintf(path, TN_PATH_MAX, "test_evaluate.%ld.jsonl", (long)getpid());
    cJSON_ArrayForEach(entry, golden) {
        row(&text, entry);
        tn_buf_putc(&text, '\n');
    }
    assert_int_equal(tn_file_write(path, text.data, text.length), TN_OK);
    tn_buf_free(&text);
}

static void ids_row(tn_buf *out, const cJSON *entry) {
    tn_buf_puts(out, "{\"input_ids\": ");
    tn_json_print(out, tn_json_get(entry, "prompt_ids"), false);
    tn_buf_putc(out, '}');
}

static const char *completion_of(const cJSON *entry) {
    return tn_json_get(entry, "text")->valuestring + strlen(tn_json_get(entry, "prompt")->valuestring);
}

static void prompt_row(tn_buf *out, const cJSON *entry) {
    const char *completion = completion_of(entry);
    tn_buf_puts(out, "{\"prompt\": ");
    tn_json_print(out, tn_json_get(entry, "prompt"), false);
    tn_buf_puts(out, ", \"completion\": ");
    tn_json_print_string(out, completion, strlen(completion));
    tn_buf_putc(out, '}');
}

static void text_row(tn_buf *out, const cJSON *entry) {
    tn_buf_puts(out, "{\"text\": ");
    tn_json_print(out, tn_json_get(entry, "text"), false);
    tn_buf_putc(out, '}');
}

static void loss_equals_the_reference(void **state) {
    (void)state;
    cJSON *golden = read_stories_golden();
    tn_model *model = load_shared(STORIES);
    char path[TN_PATH_MAX];
    double sum = 0, labels = 0;
    const cJSON *entry;
    cJSON_ArrayForEach(entry, golden) {
        int count = cJSON_GetArraySize(tn_json_get(entry, "prompt_ids")) - 1;
        sum += tn_json_get(entry, "prompt_loss")->valuedouble * count;
        labels += count;
    }
    write_rows(path, golden, ids_row);
    for (int64_t batch_size = 1; batch_size <= 3; batch_size++) {
        tn_evaluate_options options;
        tn_evaluation got;
        tn_evaluate_options_default(&options);
        options.batch_size = batch_size;
        assert_int_equal(tn_evaluate(model, path, &options, &got), TN_OK);
        assert_true(fabs(got.loss - sum / labels) < 1e-5);
        assert_true(fabs(got.perplexity - exp(sum / labels)) < 1e-4);
        assert_true(got.token_accuracy > 0.5 && got.token_accuracy < 1);
        assert_int_equal(got.samples, 3);
        assert_int_equal(got.labelled, (int64_t)labels);
        assert_int_equal(got.tokens, (int64_t)labels + 3);
        options.limit = 1;
        assert_int_equal(tn_evaluate(model, path, &options, &got), TN_OK);
        assert_int_equal(got.samples, 1);
        assert_true(fabs(got.loss - tn_json_get(cJSON_GetArrayItem(golden, 0), "prompt_loss")->valuedouble) < 1e-5);
    }
    unlink(path);
    tn_model_free(model);
    cJSON_Delete(golden);
}

typedef struct {
    const cJSON *golden;
    int seen, stop_at;
} witness;

static bool watch(void *cookie, const char *prompt, const char *reference, const char *text, bool exact) {
    witness *w = cookie;
    const cJSON *entry = cJSON_GetArrayItem(w->golden, w->seen++);
    const char *completion = completion_of(entry);
    assert_string_equal(prompt, tn_json_get(entry, "prompt")->valuestring);
    assert_non_null(strstr(reference, completion + 1));
    assert_string_equal(text, completion);
    assert_true(exact);
    return w->seen != w->stop_at;
}

static void generated_completions_are_compared_with_the_reference(void **state) {
    (void)state;
    cJSON *golden = read_stories_golden();
    tn_model *model = load_shared(STORIES);
    char path[TN_PATH_MAX];
    witness w = {.golden = golden};
    tn_evaluate_options options;
    tn_evaluation got;
    tn_evaluate_options_default(&options);
    options.generate = true;
    options.max_tokens = 120;
    options.generated = watch;
    options.cookie = &w;
    write_rows(path, golden, prompt_row);
    assert_int_equal(tn_evaluate(model, path, &options, &got), TN_OK);
    assert_int_equal(w.seen, 3);
    assert_int_equal(got.generated, 3);
    assert_int_equal(got.exact, 3);
    w = (witness){.golden = golden, .stop_at = 2};
    assert_int_equal(tn_evaluate(model, path, &options, &got), TN_ERROR_INTERRUPTED);
    assert_int_equal(w.seen, 2);
    options.generated = NULL;
    options.max_tokens = 119; /* one short */
    assert_int_equal(tn_evaluate(model, path, &options, &got), TN_OK);
    assert_int_equal(got.generated, 3);
    assert_int_equal(got.exact, 0);
    unlink(path);
    tn_model_free(model);
    cJSON_Delete(golden);
}

static void plain_text_is_scored_but_not_generated(void **state) {
    (void)state;
    cJSON *golden = read_stories_golden();
    tn_model *model = load_shared(STORIES);
    char path[TN_PATH_MAX];
    tn_evaluate_options options;
    tn_evaluation got;
    tn_evaluate_options_default(&options);
    write_rows(path, golden, text_row);
    assert_int_equal(tn_evaluate(model, path, &options, &got), TN_OK);
    assert_true(got.loss > 0.1 && got.loss < 2);
    options.generate = true;
    assert_int_equal(tn_evaluate(model, path, &options, &got), TN_ERROR_ARGUMENT);
    unlink(path);
    tn_model_free(model);
    cJSON_Delete(golden);
}

static void options_and_data_are_checked(void **state) {
    (void)state;
    tn_model *model = load_shared(STORIES);
    tn_evaluate_options options;
    tn_evaluation got;
    char path[TN_PATH_MAX];
    assert_int_equal(tn_evaluate(model, "there is no such file.jsonl", NULL, &got), TN_ERROR_IO);
    tn_evaluate_options_default(&options);
    options.batch_size = 0;
    assert_int_equal(tn_evaluate(model, shared(STORIES "/golden.json", path), &options, &got), TN_ERROR_ARGUMENT);
    tn_evaluate_options_default(&options);
    options.max_length = 513;
    assert_int_equal(tn_evaluate(model, path, &options, &got), TN_ERROR_ARGUMENT);
    tn_evaluate_options_default(&options);
    assert_int_equal(tn_evaluate(model, path, &options, &got), TN_OK); /* an array of rows with text */
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_equals_the_reference),
        cmocka_unit_test(generated_completions_are_compared_with_the_reference),
        cmocka_unit_test(plain_text_is_scored_but_not_generated),
        cmocka_unit_test(options_and_data_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
