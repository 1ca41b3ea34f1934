/* For every method and preset of the registry, on a language model, whose base may be quantised, and on a plain network: a
 * run that is killed between two checkpoints and goes on with another number of threads ends in the same bytes. */
#include <dirent.h>

#include "peft/properties.h"
#include "tiny.h"

enum { STEPS = 5, INPUTS = 2 * 6 * 5 };

#define PLAIN_NET                                                                                                           \
    "{\"model_type\": \"sequential\", \"input_shape\": [2, 6, 5], \"layers\": [{\"type\": \"conv2d\", \"name\": \"conv\", " \
    "\"out_channels\": 4, \"kernel_size\": 3, \"padding\": 1}, {\"type\": \"batch_norm\", \"name\": \"bn\"}, {\"type\": "   \
    "\"relu\"}, {\"type\": \"max_pool2d\", \"kernel_size\": 2}, {\"type\": \"flatten\"}, {\"type\": \"linear\", \"name\": " \
    "\"fc\", \"out_features\": 7}, {\"type\": \"tanh\"}, {\"type\": \"dropout\", \"p\": 0.2}, {\"type\": \"linear\", "      \
    "\"name\": \"head\", \"out_features\": 3}]}"

static void write_plain_net(void) {
    float row[INPUTS];
    tn_model *model;
    tn_buf text = {0};
    tiny_write_text(tiny_path("plain.json"), PLAIN_NET);
    assert_ok(tn_model_create(tiny_path("plain.json"), 3, &model));
    assert_ok(tn_session_write_checkpoint(model, tiny_path("plain"), "f32", 1, NULL));
    tn_model_free(model);
    for (uint64_t i = 0; i < 22; i++) {
        tn_fill_normal(row, INPUTS, 5, i, 0, 1);
        for (int j = 0; j < INPUTS; j++)
            tn_buf_printf(&text, "%.4f,", (double)row[j]);
        tn_buf_printf(&text, "%d\n", row[0] > 0 ? 0 : row[1] > 0 ? 1 : 2);
    }
    assert_ok(tn_file_write(tiny_path("plain.csv"), text.data, text.length));
    tn_buf_free(&text);
}

/* Removes what the stop itself saved: the run was killed at that step, which metrics.jsonl already tells of. */
static void forget_newest_checkpoint(const char *out) {
    char newest[300] = "", path[TN_PATH_MAX];
    assert_ok(tn_path_join(path, tiny_path(out), "checkpoints"));
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, newest) > 0)
            snprintf(newest, sizeof newest, "%s", entry->d_name);
    closedir(dir);
    char file[TN_PATH_MAX];
    assert_ok(tn_path_join(file, path, newest));
    assert_ok(tn_path_remove_tree(file));
}

static void note_resumed(void *cookie, int64_t step) {
    *(int64_t *)cookie = step;
}

static void check_resuming(tiny_run run, const char *what, bool full) {
    tiny_run straight = run, killed = run;
    int64_t from = 0;
    straight.out = "straight";
    killed.out = "killed";
    killed.stop_after = 3;
    tn_set_threads(1);
    tn_status status = tiny_train(&straight);
    tn_train_result_free(&straight.result);
    if (status != TN_OK)
        fail_msg("%s: %s", what, tn_error_message());
    tn_set_threads(2);
    tiny_train_badly(&killed, TN_ERROR_INTERRUPTED, "the checkpoint is in");
    forget_newest_checkpoint("killed");
    killed.stop_after = 0;
    killed.train.resume = true;
    killed.callbacks = (tn_train_callbacks){.cookie = &from, .resumed = note_resumed};
    tiny_train_well(&killed);
    tn_set_threads(0);
    if (from != 2)
        fail_msg("%s: went on from step %lld", what, (long long)from);
    if (full) {
        tiny_assert_same_file("straight", "killed", "model.safetensors");
    } else {
        tiny_assert_same_file("straight", "killed", "adapter_model.safetensors");
        tiny_assert_same_file("straight", "killed", "adapter_config.json");
    }
    tiny_assert_same_metrics("straight", "killed");
    assert_ok(tn_path_remove_tree(tiny_path("straight")));
    assert_ok(tn_path_remove_tree(tiny_path("killed")));
}

static tiny_run start(const char *base, const char *data) {
    tiny_run run = tiny_start("");
    run.base = base;
    run.data = data;
    run.train.steps = STEPS;
    run.train.save_every = 2;
    return run;
}

/* Ranks are chosen after steps 1 and 2. */
static const tn_method_setting adalora[] = {{"target_r", "1"}, {"tinit", "1"}, {"tfinal", "2"}, {"delta-t", "1"}};

static tiny_run with_method(tiny_run run, const method_name *name) {
    const tn_peft_method *method = name->method;
    run.adapter.method = name->name;
    run.adapter.rank = method->rank_key ? 2 : 0;
    run.adapter.dropout = method->dropout_key ? 0.2 : 0;
    run.adapter.settings = strcmp(name->name, "adalora") == 0 ? adalora : NULL;
    run.adapter.setting_count = run.adapter.settings ? 4 : 0;
    return run;
}

static void language_models_go_on_bit_for_bit(void **state) {
    method_name methods[MOST_METHODS];
    int count = list_methods(methods);
    (void)state;
    for (int m = 0; m < count; m++) {
        tiny_run run = with_method(start("qwen2", "data.jsonl"), &methods[m]);
        run.adapter.target_modules = "k_proj,up_proj,down_proj";
        check_resuming(run, methods[m].name, false);
    }
}

static void language_models_of_codes_go_on_bit_for_bit(void **state) {
    const tn_quantize_options nf4 = {.double_quant = true};
    method_name methods[MOST_METHODS];
    int count = list_methods(methods);
    tn_model *model;
    (void)state;
    assert_ok(tn_model_load(tiny_path("qwen2"), &model));
    assert_ok(tn_model_quantize(model, &nf4, NULL));
    assert_ok(tn_model_save_quantized(model, tiny_path("codes")));
    tn_model_free(model);
    for (int m = 0; m < count; m++) {
        tiny_run run = with_method(start("codes", "data.jsonl"), &methods[m]);
        run.adapter.target_modules = "k_proj,up_proj,down_proj";
        check_resuming(run, methods[m].name, false);
    }
}

static void loftq_goes_on_bit_for_bit(void **state) {
    (void)state;
    for (int64_t bits = 4; bits <= 8; bits += 4) {
        tiny_run run = start("qwen2", "data.jsonl");
        run.adapter.init = "loftq";
        run.adapter.loftq_bits = bits;
        run.adapter.loftq_iterations = 3;
        run.adapter.rank = 2;
        check_resuming(run, "loftq", false);
    }
}

/* The convolution too where the method fits it; batch norm is trained in full, running statistics and all. */
static void plain_networks_go_on_bit_for_bit(void **state) {
    static const tn_module conv = {.kind = TN_MODULE_CONV2D, .conv = {.groups = 1}};
    method_name methods[MOST_METHODS];
    int count = list_methods(methods);
    (void)state;
    write_plain_net();
    for (int m = 0; m < count; m++) {
        tiny_run run = with_method(start("plain", "plain.csv"), &methods[m]);
        run.adapter.target_modules = methods[m].method->fits(&conv) ? "conv,fc" : "fc";
        run.adapter.modules_to_save = "bn,head";
        check_resuming(run, methods[m].name, false);
    }
    tiny_run full = start("plain", "plain.csv");
    full.adapter.method = "full";
    full.adapter.rank = 0;
    check_resuming(full, "full", true);
}

static int remove_folder(void **state) {
    (void)state;
    tiny_remove();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(language_models_go_on_bit_for_bit),
        cmocka_unit_test(language_models_of_codes_go_on_bit_for_bit),
        cmocka_unit_test(loftq_goes_on_bit_for_bit),
        cmocka_unit_test(plain_networks_go_on_bit_for_bit),
    };
    return cmocka_run_group_tests_name("method_runs", tests, NULL, remove_folder);
}
