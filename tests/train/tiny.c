/* Models, data and comparisons for tests of training. */
#include "tiny.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "session/merge.h"

static char folder[64];

const char *tiny_path(const char *name) {
    enum { BUFFERS = 8 };
    static char paths[BUFFERS][TN_PATH_MAX];
    static int next;
    char *path = paths[next++ % BUFFERS];
    assert_int_equal(tn_path_join(path, tiny_folder(), name), TN_OK);
    return path;
}

const char *tiny_folder(void) {
    if (!folder[0]) {
        strcpy(folder, "/tmp/tenon-train-XXXXXX");
        assert_non_null(mkdtemp(folder));
        tiny_write_model(tiny_path("base"), "llama", "\"attention_bias\": true, \"mlp_bias\": true, ", 32, 2, TINY_VOCAB, 5);
        tiny_write_model(tiny_path("qwen2"), "qwen2", "\"tie_word_embeddings\": true, ", 32, 2, TINY_VOCAB, 5);
        tiny_write_rows(tiny_path("data.jsonl"), 20, 1);
    }
    return folder;
}

void tiny_remove(void) {
    if (folder[0])
        assert_int_equal(tn_path_remove_tree(folder), TN_OK);
    folder[0] = 0;
}

void tiny_write_text(const char *path, const char *text) {
    assert_int_equal(tn_file_write(path, text, strlen(text)), TN_OK);
}

void tiny_write_rows(const char *path, int rows, unsigned seed) {
    tn_buf text = {0};
    for (int row = 0; row < rows; row++) {
        int length = 4 + (row * 5 + (int)seed) % (TINY_LENGTH - 3), ids[TINY_LENGTH];
        tn_buf_puts(&text, "{\"input_ids\": [");
        for (int i = 0; i < length; i++) {
            ids[i] =
                i < 2 ? (row * 7 + i * 3 + (int)seed * 11) % TINY_VOCAB : (ids[i - 1] * 3 + ids[i - 2] + 1) % TINY_VOCAB;
            tn_buf_printf(&text, "%s%d", i ? ", " : "", ids[i]);
        }
        tn_buf_puts(&text, "], \"labels\": [");
        for (int i = 0; i < length; i++)
            tn_buf_printf(&text, "%s%d", i ? ", " : "", row % 3 == 0 && i < length / 2 ? -100 : ids[i]);
        tn_buf_puts(&text, "]}\n");
    }
    assert_int_equal(tn_file_write(path, text.data, text.length), TN_OK);
    tn_buf_free(&text);
}

void tiny_write_model(const char *dir, const char *family, const char *more, int hidden, int layers, int vocab,
                      unsigned seed) {
    char plain[TN_PATH_MAX], path[TN_PATH_MAX], json[1024];
    tn_model *model;
    assert_int_equal(tn_path_join(plain, dir, "new"), TN_OK);
    assert_int_equal(tn_dir_create(plain), TN_OK);
    assert_int_equal(tn_path_join(path, plain, "config.json"), TN_OK);
    snprintf(json, sizeof json,
             "{\"model_type\": \"%s\", %s\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, "
             "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": %d, \"max_position_embeddings\": 256, "
             "\"initializer_range\": 0.1, \"torch_dtype\": \"float32\"}\n",
             family, more, hidden, hidden * 2, layers, vocab);
    tiny_write_text(path, json);
    if (tn_model_create(plain, seed, &model) != TN_OK)
        fail_msg("%s", tn_error_message());
    if (tn_session_write_checkpoint(model, dir, "f32", 1, NULL) != TN_OK)
        fail_msg("%s", tn_error_message());
    tn_model_free(model);
    assert_int_equal(tn_path_remove_tree(plain), TN_OK);
}

tiny_run tiny_start(const char *out) {
    tiny_run run = {.base = "base", .data = "data.jsonl", .out = out};
    tn_adapter_options_default(&run.adapter);
    run.adapter.rank = 4;
    tn_train_options_default(&run.train);
    run.train.batch_size = 4;
    run.train.steps = 12;
    run.train.lr = 1e-2;
    run.train.valid_fraction = 0;
    run.train.save_every = 5;
    return run;
}

static bool stop_in_time(void *cookie, const tn_train_step *step) {
    const tiny_run *run = cookie;
    bool go_on = !run->callbacks.step || run->callbacks.step(run->callbacks.cookie, step);
    return go_on && step->step != run->stop_after;
}

static void pass_start(void *cookie, const tn_train_plan *plan) {
    const tiny_run *run = cookie;
    if (run->callbacks.start)
        run->callbacks.start(run->callbacks.cookie, plan);
}

static void pass_resumed(void *cookie, int64_t step) {
    const tiny_run *run = cookie;
    if (run->callbacks.resumed)
        run->callbacks.resumed(run->callbacks.cookie, step);
}

static void pass_warning(void *cookie, const char *text) {
    const tiny_run *run = cookie;
    if (run->callbacks.warning)
        run->callbacks.warning(run->callbacks.cookie, text);
}

tn_status tiny_train(tiny_run *run) {
    const tn_train_callbacks callbacks = {run, pass_start, stop_in_time, pass_resumed, pass_warning};
    tn_train_options options = run->train;
    tn_model *model;
    options.data = tiny_path(run->data);
    options.out = run->out[0] == '/' ? run->out : tiny_path(run->out);
    run->result = (tn_train_result){0};
    tn_status status = tn_model_load(tiny_path(run->base), &model);
    if (status == TN_OK && run->precision)
        status = tn_model_set_matmul_precision(model, run->precision);
    if (status == TN_OK)
        status = tn_model_add_adapter(model, &run->adapter, options.seed);
    if (status == TN_OK)
        status = tn_train(model, &options, &callbacks, &run->result);
    tn_model_free(model);
    return status;
}

void tiny_train_well(tiny_run *run) {
    if (tiny_train(run) != TN_OK)
        fail_msg("%s", tn_error_message());
    tn_train_result kept = run->result;
    tn_train_result_free(&run->result);
    kept.notes = NULL;
    kept.curve_steps = kept.curve_losses = kept.valid_steps = kept.valid_losses = NULL;
    run->result = kept;
}

void tiny_train_badly(tiny_run *run, tn_status status, const char *words) {
    tn_status got = tiny_train(run);
    if (got != status || !strstr(tn_error_message(), words))
        fail_msg("expected %s '%s', got %s: %s", tn_status_name(status), words, tn_status_name(got),
                 got == TN_OK ? "" : tn_error_message());
}

tn_buf tiny_read(const char *path) {
    tn_buf bytes = {0};
    if (tn_file_read(path, (size_t)1 << 30, &bytes) != TN_OK)
        fail_msg("%s", tn_error_message());
    return bytes;
}

static tn_buf read_output(const char *out, const char *name) {
    char path[TN_PATH_MAX];
    assert_int_equal(tn_path_join(path, tiny_path(out), name), TN_OK);
    return tiny_read(path);
}

static bool is_same_file(const char *out1, const char *out2, const char *name) {
    tn_buf one = read_output(out1, name), two = read_output(out2, name);
    bool same = one.length == two.length && memcmp(tn_buf_text(&one), tn_buf_text(&two), one.length) == 0;
    tn_buf_free(&one);
    tn_buf_free(&two);
    return same;
}

void tiny_assert_same_file(const char *out1, const char *out2, const char *name) {
    if (!is_same_file(out1, out2, name))
        fail_msg("%s of %s and of %s differ", name, out1, out2);
}

void tiny_assert_other_file(const char *out1, const char *out2, const char *name) {
    if (is_same_file(out1, out2, name))
        fail_msg("%s of %s and of %s are the same", name, out1, out2);
}

/* The next line as JSON without what depends on the clock; NULL at the end. */
static cJSON *next_metrics(const char **text) {
    const char *end = strchr(*text, '\n');
    if (!end)
        return NULL;
    cJSON *json = cJSON_ParseWithLength(*text, (size_t)(end - *text));
    assert_true(cJSON_IsObject(json));
    cJSON_DeleteItemFromObject(json, "seconds");
    cJSON_DeleteItemFromObject(json, "tokens_per_second");
    *text = end + 1;
    return json;
}

void tiny_assert_same_metrics(const char *out1, const char *out2) {
    tn_buf one = read_output(out1, "metrics.jsonl"), two = read_output(out2, "metrics.jsonl");
    const char *at1 = tn_buf_text(&one), *at2 = tn_buf_text(&two);
    for (int line = 1;; line++) {
        cJSON *json1 = next_metrics(&at1), *json2 = next_metrics(&at2);
        if (!json1 && !json2)
            break;
        if (!cJSON_Compare(json1, json2, true))
            fail_msg("line %d of metrics.jsonl differs between %s and %s", line, out1, out2);
        cJSON_Delete(json1);
        cJSON_Delete(json2);
    }
    tn_buf_free(&one);
    tn_buf_free(&two);
}

int tiny_count_files(const char *name, const char *part) {
    int count = 0;
    DIR *dir = opendir(tiny_path(name));
    if (!dir)
        return 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        count += entry->d_name[0] != '.' && strstr(entry->d_name, part) != NULL;
    closedir(dir);
    return count;
}
