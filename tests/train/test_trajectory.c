/* Twenty steps of PyTorch and PEFT, step by step: losses, norms, rates, and the adapter at the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "format/safetensors.h"
#include "tiny.h"

/* Cases lie in the source tree, or in a folder beside it. */
static bool find_case(const char *name, char path[TN_PATH_MAX]) {
    const char *shared = getenv("TENON_SHARED");
    char root[TN_PATH_MAX];
    const char *const roots[] = {TENON_SOURCE_ROOT "/tests/golden", TENON_SOURCE_ROOT "/tests/golden_quant", root,
                                 TENON_SOURCE_ROOT "/../shared/golden"};
    assert_int_equal(tn_path_join(root, shared ? shared : "/nowhere", "golden"), TN_OK);
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
        assert_int_equal(tn_path_join(path, roots[i], name), TN_OK);
        if (tn_path_is_dir(path))
            return true;
    }
    return false;
}

static const tn_tensor *find_input(const tn_safetensors *file, const char *name) {
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    assert_non_null(entry);
    assert_int_equal(entry->tensor.dtype, TN_DTYPE_I64);
    assert_int_equal(entry->tensor.ndim, 3);
    return &entry->tensor;
}

static void print_row(tn_buf *text, const char *key, const int64_t *values, int64_t count) {
    tn_buf_printf(text, "\"%s\": [", key);
    for (int64_t i = 0; i < count; i++)
        tn_buf_printf(text, "%s%lld", i ? ", " : "", (long long)values[i]);
    tn_buf_puts(text, "]");
}

/* Rows of a case in the order of its steps, without padding; returns the batch size. */
static int64_t write_rows(const char *dir, const char *out) {
    char path[TN_PATH_MAX];
    tn_safetensors file;
    tn_buf text = {0};
    assert_int_equal(tn_path_join(path, dir, "io.safetensors"), TN_OK);
    assert_int_equal(tn_safetensors_open(path, &file), TN_OK);
    const tn_tensor *ids = find_input(&file, "train_input_ids"), *labels = find_input(&file, "train_labels");
    const tn_tensor *mask = find_input(&file, "train_attention_mask");
    int64_t batch = ids->shape[1], length = ids->shape[2];
    for (int64_t row = 0; row < ids->shape[0] * batch; row++) {
        int64_t count = 0, at = row * length;
        while (count < length && ((const int64_t *)mask->data)[at + count])
            count++;
        tn_buf_puts(&text, "{");
        print_row(&text, "input_ids", (const int64_t *)ids->data + at, count);
        tn_buf_puts(&text, ", ");
        print_row(&text, "labels", (const int64_t *)labels->data + at, count);
        tn_buf_puts(&text, "}\n");
    }
    assert_int_equal(tn_file_write(out, text.data, text.length), TN_OK);
    tn_buf_free(&text);
    tn_safetensors_close(&file);
    return batch;
}

static double number(const cJSON *json, const char *key) {
    const cJSON *value = tn_json_get(json, key);
    return cJSON_IsNumber(value) ? value->valuedouble : 0;
}

static bool check_step(void *cookie, const tn_train_step *step) {
    const cJSON *t = cookie;
    int at = (int)step->step - 1;
    assert_true(fabs(step->loss - cJSON_GetArrayItem(tn_json_get(t, "losses"), at)->valuedouble) < 1e-4);
    assert_true(fabs(step->lr - cJSON_GetArrayItem(tn_json_get(t, "lrs"), at)->valuedouble) < 1e-12);
    double norm = cJSON_GetArrayItem(tn_json_get(t, "grad_norms"), at)->valuedouble;
    assert_true(fabs(step->grad_norm - norm) < 1e-3 * norm);
    return true;
}

static void compare_adapters(const char *got_dir, const char *dir) {
    char path[TN_PATH_MAX];
    tn_safetensors got, wanted;
    assert_int_equal(tn_path_join(path, got_dir, "adapter_model.safetensors"), TN_OK);
    assert_int_equal(tn_safetensors_open(path, &got), TN_OK);
    assert_int_equal(tn_path_join(path, dir, "adapter_final/adapter_model.safetensors"), TN_OK);
    assert_int_equal(tn_safetensors_open(path, &wanted), TN_OK);
    assert_int_equal(got.count, wanted.count);
    for (int64_t i = 0; i < (int64_t)wanted.count; i++) {
        const tn_tensor *w = &wanted.entries[i].tensor;
        const tn_safetensors_entry *g = tn_safetensors_find(&got, wanted.entries[i].name);
        assert_non_null(g);
        assert_true(tn_tensor_same_shape(&g->tensor, w));
        for (int64_t j = 0; j < tn_tensor_count(w); j++)
            assert_true(fabsf(((const float *)g->tensor.data)[j] - ((const float *)w->data)[j]) < 1e-4f);
    }
    tn_safetensors_close(&got);
    tn_safetensors_close(&wanted);
}

static void follow(const char *name, const tn_lr_group *groups, size_t group_count, double lora_plus_ratio) {
    char dir[TN_PATH_MAX], base[TN_PATH_MAX], adapter[TN_PATH_MAX], path[TN_PATH_MAX];
    tn_train_options options;
    tn_model *model;
    cJSON *t;
    if (!find_case(name, dir))
        skip();
    assert_int_equal(tn_path_join(path, dir, "traj.json"), TN_OK);
    assert_int_equal(tn_json_read(path, (size_t)1 << 20, &t), TN_OK);
    const char *out = tiny_path(name), *rows = tiny_path("rows.jsonl");
    tn_train_options_default(&options);
    options.data = rows;
    options.out = out;
    options.batch_size = write_rows(dir, rows);
    options.steps = (int64_t)number(t, "steps");
    options.shuffle = false;
    options.valid_fraction = 0;
    options.lr = number(t, "lr");
    options.weight_decay = number(t, "weight_decay");
    options.grad_clip = number(t, "max_grad_norm");
    options.schedule = tn_json_get(t, "schedule")->valuestring;
    options.warmup = (int64_t)number(t, "warmup_steps");
    options.groups = groups;
    options.group_count = group_count;
    options.lora_plus_ratio = lora_plus_ratio;
    assert_int_equal(tn_path_join(base, dir, "base"), TN_OK);
    assert_int_equal(tn_path_join(adapter, dir, "adapter"), TN_OK);
    assert_int_equal(tn_model_load(base, &model), TN_OK);
    assert_int_equal(tn_model_load_adapter(model, adapter, true, false), TN_OK);
    const tn_train_callbacks callbacks = {.cookie = t, .step = check_step};
    if (tn_train(model, &options, &callbacks, NULL) != TN_OK)
        fail_msg("%s", tn_error_message());
    compare_adapters(out, dir);
    tn_model_free(model);
    cJSON_Delete(t);
}

static void lora_follows_pytorch_for_twenty_steps(void **state) {
    (void)state;
    follow("train_lora_qwen2", NULL, 0, 1);
}

static void lora_without_warmup_and_clipping_follows_pytorch(void **state) {
    (void)state;
    follow("train_lora_constant", NULL, 0, 1);
}

static void rank_stabilised_lora_follows_pytorch(void **state) {
    (void)state;
    follow("train_rslora", NULL, 0, 1);
}

static void lora_with_biases_and_embedding_follows_pytorch(void **state) {
    (void)state;
    follow("train_lora_bias_embed", NULL, 0, 1);
}

static void lora_plus_is_a_learning_rate_group(void **state) {
    (void)state;
    const tn_lr_group group = {.pattern = ".*lora_B.*", .lr_scale = 16};
    follow("train_loraplus", &group, 1, 1);
}

static void lora_plus_has_an_option_of_its_own(void **state) {
    (void)state;
    follow("train_loraplus", NULL, 0, 16);
}

static void dora(void **state) {
    (void)state;
    follow("train_dora", NULL, 0, 1);
}

static void loha(void **state) {
    (void)state;
    follow("train_loha", NULL, 0, 1);
}

static void lokr(void **state) {
    (void)state;
    follow("train_lokr", NULL, 0, 1);
}

static void vera(void **state) {
    (void)state;
    follow("train_vera", NULL, 0, 1);
}

static void ia3(void **state) {
    (void)state;
    follow("train_ia3", NULL, 0, 1);
}

static void lora_on_four_bits_with_nested_scales(void **state) {
    (void)state;
    follow("train_qlora", NULL, 0, 1);
}

static void adalora_with_its_budget(void **state) {
    (void)state;
    follow("train_adalora", NULL, 0, 1);
}

static int remove_folder(void **state) {
    (void)state;
    tiny_remove();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lora_follows_pytorch_for_twenty_steps),
        cmocka_unit_test(lora_without_warmup_and_clipping_follows_pytorch),
        cmocka_unit_test(rank_stabilised_lora_follows_pytorch),
        cmocka_unit_test(lora_with_biases_and_embedding_follows_pytorch),
        cmocka_unit_test(lora_plus_is_a_learning_rate_group),
        cmocka_unit_test(lora_plus_has_an_option_of_its_own),
        cmocka_unit_test(dora),
        cmocka_unit_test(loha),
        cmocka_unit_test(lokr),
        cmocka_unit_test(vera),
        cmocka_unit_test(ia3),
        cmocka_unit_test(lora_on_four_bits_with_nested_scales),
        cmocka_unit_test(adalora_with_its_budget),
    };
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}
