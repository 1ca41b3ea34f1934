/* Merging into checkpoints on disk and taking out again. */
#include "small_model.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>

static tn_adapter_options lora(const char *targets) {
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.rank = 4;
    options.target_modules = targets;
    return options;
}

static void failed_with(tn_status status, tn_status expected, const char *words) {
    assert_int_equal(status, expected);
    if (!strstr(tn_error_message(), words))
        fail_msg("'%s' is not in: %s", words, tn_error_message());
}

static int64_t integer_of(const char *dir, const char *key) {
    char path[TN_PATH_MAX];
    cJSON *config;
    OK(tn_path_join(path, dir, "config.json"));
    OK(tn_json_read(path, 1 << 20, &config));
    const cJSON *value = tn_json_get(config, key);
    int64_t result = !value ? -1 : cJSON_IsBool(value) ? cJSON_IsTrue(value) : (int64_t)value->valuedouble;
    cJSON_Delete(config);
    return result;
}

static void merged_checkpoint_equals_base_and_adapter(void **state) {
    (void)state;
    make_base("base", false, "f32");
    tn_adapter_options options = lora("all-linear");
    tn_model *model = load_with_adapter("base", "adapter", &options), *merged;
    tn_merge_report report;
    OK(tn_model_merge(model, at("merged"), "keep", &report));
    assert_int_equal(report.modules, 14);
    assert_true(report.logit_difference < 1e-4);
    assert_true(report.largest_rounding == 0);
    OK(tn_model_load(at("merged"), &merged));
    float *weight = tn_malloc(97 * 24 * sizeof *weight);
    for (int64_t i = 0; i < model->network->module_count; i++) {
        const tn_module *module = &model->network->modules[i];
        bool has_bias;
        OK(tn_adapter_merged_weight(model->adapter, module, weight, NULL, &has_bias));
        assert_memory_equal(weight, merged->network->modules[i].weight.tensor.data, tn_tensor_bytes(&module->weight.tensor));
    }
    tn_free(weight);
    tn_model_free(merged);
    tn_model_free(model);
}

/* Rewrites model.safetensors as two shards with an index; a tensor of the first lies in the second too, without being named
 * there. */
static void split(const char *dir) {
    char path[TN_PATH_MAX], index_path[TN_PATH_MAX];
    tn_safetensors file;
    tn_buf index = {0};
    OK(tn_path_join(path, dir, "model.safetensors"));
    OK(tn_safetensors_open(path, &file));
    tn_buf_puts(&index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {");
    for (size_t shard = 0; shard < 2; shard++) {
        char name[64], shard_path[TN_PATH_MAX];
        size_t half = file.count / 2, first = shard ? half - 1 : 0, last = shard ? file.count : half;
        tn_safetensors_writer *writer;
        snprintf(name, sizeof name, "model-%05zu-of-00002.safetensors", shard + 1);
        OK(tn_path_join(shard_path, dir, name));
        OK(tn_safetensors_writer_new(&writer, shard_path));
        for (size_t i = first; i < last; i++) {
            const tn_tensor *t = &file.entries[i].tensor;
            OK(tn_safetensors_writer_declare(writer, file.entries[i].name, t->dtype, t->ndim, t->shape));
            if (!shard || i >= half)
                tn_buf_printf(&index, "%s\"%s\": \"%s\"", i ? ", " : "", file.entries[i].name, name);
        }
        OK(tn_safetensors_writer_begin(writer));
        for (size_t i = first; i < last; i++)
            OK(tn_safetensors_writer_data(writer, file.entries[i].tensor.data, tn_tensor_bytes(&file.entries[i].tensor)));
        OK(tn_safetensors_writer_finish(writer));
    }
    tn_buf_puts(&index, "}}");
    OK(tn_path_join(index_path, dir, "model.safetensors.index.json"));
    write_text(index_path, tn_buf_text(&index));
    tn_buf_free(&index);
    tn_safetensors_close(&file);
    OK(tn_path_remove_tree(path));
}

static void shards_and_index_stay(void **state) {
    (void)state;
    make_base("sharded", true, "f32");
    split(at("sharded"));
    tn_adapter_options options = lora("q_proj,embed_tokens");
    tn_model *model = load_with_adapter("sharded", "sharded_adapter", &options), *merged;
    tn_merge_report report;
    OK(tn_model_merge(model, at("sharded_merged"), "keep", &report));
    assert_int_equal(report.modules, 3);
    assert_true(report.logit_difference < 1e-4);
    OK(tn_model_load(at("sharded_merged"), &merged));
    assert_true(merged->network->checkpoint.sharded);
    assert_int_equal(merged->network->checkpoint.file_count, 2);
    assert_int_equal(merged->network->checkpoint.by_name.count, model->network->checkpoint.by_name.count + 1);
    assert_false(tn_path_exists(at("sharded_merged/model.safetensors")));
    tn_model_free(merged);
    cJSON *index;
    OK(tn_json_read(at("sharded_merged/model.safetensors.index.json"), 1 << 20, &index));
    int64_t total = (int64_t)tn_json_get(tn_json_get(index, "metadata"), "total_size")->valuedouble;
    assert_int_equal(total, tn_network_bytes(model->network) + 97 * 16 * 4);
    cJSON_Delete(index);
    tn_model_free(model);
}

static void stored_type_follows_the_request(void **state) {
    (void)state;
    static const struct {
        const char *dtype, *name;
        double rounding, difference;
    } cases[] = {{"bf16", "bfloat16", 0.02, 1.0}, {"f16", "float16", 0.002, 0.1}, {"f32", "float32", 0, 1e-4}};
    make_base("typed", false, "f32");
    tn_adapter_options options = lora("all-linear");
    for (size_t i = 0; i < 3; i++) {
        tn_model *model = load_with_adapter("typed", "typed_adapter", &options), *merged;
        tn_merge_report report;
        OK(tn_model_merge(model, at(cases[i].dtype), cases[i].dtype, &report));
        assert_true(report.largest_rounding <= cases[i].rounding && (report.largest_rounding > 0) == (i < 2));
        assert_true(report.logit_difference < cases[i].difference);
        OK(tn_model_load(at(cases[i].dtype), &merged));
        for (size_t e = 0; e < merged->network->checkpoint.files[0].count; e++)
            assert_int_equal(merged->network->checkpoint.files[0].entries[e].tensor.dtype, i == 0   ? TN_DTYPE_BF16
                                                                                           : i == 1 ? TN_DTYPE_F16
                                                                                                    : TN_DTYPE_F32);
        const char *dtype = NULL;
        OK(tn_json_get_string(merged->network->json, "torch_dtype", "config.json", &dtype));
        assert_string_equal(dtype, cases[i].name);
        tn_model_free(merged);
        failed_with(tn_model_merge(model, at("never"), "f8", &report), TN_ERROR_ARGUMENT, "not one of keep, f32, bf16, f16");
        tn_model_free(model);
    }
}

static void value_that_does_not_fit_the_type_is_refused(void **state) {
    (void)state;
    make_base("wide", false, "f32");
    tn_adapter_options options = lora("q_proj");
    tn_model *model = load_with_adapter("wide", "wide_adapter", &options);
    for (int64_t i = 0; i < model->adapter->params.total; i++)
        model->adapter->params.values[i] *= 1000;
    failed_with(tn_model_merge(model, at("wide_merged"), "f16", NULL), TN_ERROR_NUMERIC, "does not fit F16");
    assert_false(tn_path_exists(at("wide_merged/model.safetensors")));
    tn_model_free(model);
}

static void folders_in_use_are_refused(void **state) {
    (void)state;
    make_base("own", false, "f32");
    tn_adapter_options options = lora("q_proj");
    tn_model *model = load_with_adapter("own", "own_adapter", &options);
    failed_with(tn_model_merge(model, at("own"), "keep", NULL), TN_ERROR_ARGUMENT, "the model's own folder");
    failed_with(tn_model_merge(model, at("own/../own/"), "keep", NULL), TN_ERROR_ARGUMENT, "the model's own folder");
    failed_with(tn_model_merge(model, at("own_adapter"), "keep", NULL), TN_ERROR_ARGUMENT, "the adapter's folder");
    OK(tn_dir_create(at("stale")));
    write_text(at("stale/model.safetensors.index.json"), "{}");
    failed_with(tn_model_merge(model, at("stale"), "keep", NULL), TN_ERROR_ARGUMENT, "belongs to another checkpoint");
    tn_model_free(model);
}

static int count_files(const char *dir) {
    DIR *listing = opendir(dir);
    int count = 0;
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing));)
        count += entry->d_name[0] != '.';
    closedir(listing);
    return count;
}

static void full_disk_leaves_no_half_file(void **state) {
    (void)state;
    struct rlimit kept, limit;
    make_base("large", false, "f32");
    tn_adapter_options options = lora("q_proj");
    tn_model *model = load_with_adapter("large", "large_adapter", &options);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &kept), 0);
    limit = (struct rlimit){.rlim_cur = 8192, .rlim_max = kept.rlim_max};
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    tn_status status = tn_model_merge(model, at("full"), "keep", NULL);
    setrlimit(RLIMIT_FSIZE, &kept);
    signal(SIGXFSZ, handler);
    failed_with(status, TN_ERROR_IO, "full/model.safetensors");
    assert_int_equal(count_files(at("full")), 0);
    OK(tn_model_merge(model, at("full"), "keep", NULL));
    tn_model_free(model);
}

static void tied_head_comes_apart_when_only_one_side_changes(void **state) {
    (void)state;
    static const char *const targets[] = {"embed_tokens", "lm_head"};
    make_base("tied", true, "f32");
    assert_int_equal(integer_of(at("tied"), "tie_word_embeddings"), 1);
    for (size_t i = 0; i < 2; i++) {
        tn_adapter_options options = lora(targets[i]);
        tn_model *model = load_with_adapter("tied", "tied_adapter", &options), *merged;
        tn_merge_report report;
        OK(tn_model_merge(model, at(targets[i]), "keep", &report));
        assert_int_equal(report.modules, 1);
        assert_true(report.logit_difference < 1e-4);
        assert_int_equal(integer_of(at(targets[i]), "tie_word_embeddings"), 0);
        OK(tn_model_load(at(targets[i]), &merged));
        assert_null(merged->network->head->tied);
        const tn_module *same = i ? merged->network->embedding : merged->network->head;
        assert_memory_equal(same->weight.tensor.data, model->network->embedding->weight.tensor.data,
                            97 * 16 * sizeof(float));
        tn_model_free(merged);
        tn_model_free(model);
    }
}

static void tied_head_stays_tied_when_both_sides_change(void **state) {
    (void)state;
    make_base("rows", true, "f32");
    tn_adapter_options options = lora("q_proj");
    options.token_indices = "3,50";
    tn_model *model = load_with_adapter("rows", "rows_adapter", &options);
    tn_merge_report report;
    OK(tn_model_merge(model, at("rows_merged"), "keep", &report));
    assert_true(report.logit_difference < 1e-4);
    assert_int_equal(integer_of(at("rows_merged"), "tie_word_embeddings"), 1);
    tn_model_free(model);
}

/* Adds a tied head's copy and a tensor of no module, larger than all of them, to a checkpoint. */
static void add_strangers(const char *dir) {
    enum { LARGE = 97 * 24 * 3 };
    char path[TN_PATH_MAX], other[TN_PATH_MAX];
    tn_safetensors file;
    tn_safetensors_writer *writer;
    const int64_t head[] = {97, 16}, stranger[] = {LARGE}, bias[] = {16};
    float *values = tn_calloc(LARGE, sizeof *values);
    for (int i = 0; i < LARGE; i++)
        values[i] = (float)i;
    OK(tn_path_join(path, dir, "model.safetensors"));
    OK(tn_path_join(other, dir, "other"));
    OK(tn_safetensors_open(path, &file));
    OK(tn_safetensors_writer_new(&writer, other));
    for (size_t i = 0; i < file.count; i++)
        OK(tn_safetensors_writer_declare(writer, file.entries[i].name, file.entries[i].tensor.dtype,
                                         file.entries[i].tensor.ndim, file.entries[i].tensor.shape));
    OK(tn_safetensors_writer_declare(writer, "lm_head.weight", TN_DTYPE_F32, 2, head));
    OK(tn_safetensors_writer_declare(writer, "stranger", TN_DTYPE_F32, 1, stranger));
    OK(tn_safetensors_writer_declare(writer, "model.layers.0.self_attn.q_proj.bias", TN_DTYPE_F32, 1, bias));
    OK(tn_safetensors_writer_begin(writer));
    for (size_t i = 0; i < file.count; i++)
        OK(tn_safetensors_writer_data(writer, file.entries[i].tensor.data, tn_tensor_bytes(&file.entries[i].tensor)));
    OK(tn_safetensors_writer_data(writer, values, 97 * 16 * sizeof *values));
    OK(tn_safetensors_writer_data(writer, values, LARGE * sizeof *values));
    OK(tn_safetensors_writer_data(writer, values, 16 * sizeof *values));
    OK(tn_safetensors_writer_finish(writer));
    tn_safetensors_close(&file);
    tn_free(values);
    assert_int_equal(rename(other, path), 0);
}

static void tensors_of_no_module_are_carried_along(void **state) {
    (void)state;
    make_base("odd", true, "f32");
    add_strangers(at("odd"));
    static const char *const targets[] = {"q_proj", "q_proj,lm_head"};
    for (size_t i = 0; i < 2; i++) {
        tn_adapter_options options = lora(targets[i]);
        tn_model *model = load_with_adapter("odd", "odd_adapter", &options), *merged;
        tn_merge_report report;
        OK(tn_model_merge(model, at("odd_merged"), "f32", &report));
        assert_true(report.logit_difference < 1e-4);
        OK(tn_model_merge(model, at("odd_merged"), "bf16", &report));
        OK(tn_model_load(at("odd_merged"), &merged));
        const tn_tensor *stranger = tn_checkpoint_find(&merged->network->checkpoint, "stranger");
        assert_non_null(stranger);
        assert_int_equal(stranger->dtype, TN_DTYPE_BF16);
        assert_true(tn_bf16_to_f32(((const uint16_t *)stranger->data)[4096]) == 4096);
        const tn_tensor *bias = tn_checkpoint_find(&merged->network->checkpoint, "model.layers.0.self_attn.q_proj.bias");
        assert_true(tn_bf16_to_f32(((const uint16_t *)bias->data)[9]) == 9);
        tn_model_free(merged);
        tn_model_free(model);
    }
}

static double farthest(const tn_model *a, const tn_model *b) {
    double most = 0;
    for (int64_t i = 0; i < a->network->module_count; i++) {
        const tn_tensor *x = &tn_module_weight(&a->network->modules[i])->tensor,
                        *y = &tn_module_weight(&b->network->modules[i])->tensor;
        for (int64_t j = 0; j < tn_tensor_count(x); j++) {
            float p, q;
            tn_convert_to_f32(&p, (const char *)x->data + j * tn_dtype_size(x->dtype), x->dtype, 1);
            tn_convert_to_f32(&q, (const char *)y->data + j * tn_dtype_size(y->dtype), y->dtype, 1);
            most = fmax(most, fabs((double)p - q));
        }
    }
    return most;
}

static void unmerging_restores_the_base_within_what_it_reports(void **state) {
    (void)state;
    static const struct {
        const char *dtype;
        double bound;
    } cases[] = {{"f32", 1e-6}, {"bf16", 0.05}, {"f16", 0.005}};
    for (size_t i = 0; i < 3; i++) {
        make_base("there", false, cases[i].dtype);
        tn_adapter_options options = lora("all-linear");
        tn_model *model = load_with_adapter("there", "back_adapter", &options), *merged, *restored;
        tn_merge_report report;
        OK(tn_model_merge(model, at("there_merged"), "keep", NULL));
        OK(tn_model_load(at("there_merged"), &merged));
        OK(tn_model_load_adapter(merged, at("back_adapter"), false, false));
        OK(tn_model_unmerge(merged, at("back"), "keep", &report));
        assert_int_equal(report.modules, 14);
        assert_true(report.largest_rounding < cases[i].bound);
        OK(tn_model_load(at("back"), &restored));
        assert_true(farthest(model, restored) <= report.largest_rounding);
        assert_true(farthest(model, merged) > 0.05);
        tn_model_free(restored);
        tn_model_free(merged);
        tn_model_free(model);
    }
}

static void what_cannot_be_restored_is_refused(void **state) {
    (void)state;
    make_base("gone", true, "f32");
    tn_adapter_options saved = lora("q_proj"), rows = lora("q_proj");
    saved.modules_to_save = "norm";
    rows.token_indices = "1";
    tn_model *model = load_with_adapter("gone", "gone_adapter", &saved);
    failed_with(tn_model_unmerge(model, at("gone_back"), "keep", NULL), TN_ERROR_UNSUPPORTED, "cannot be restored");
    tn_model_free(model);
    model = load_with_adapter("gone", "gone_adapter", &rows);
    failed_with(tn_model_unmerge(model, at("gone_back"), "keep", NULL), TN_ERROR_UNSUPPORTED, "trainable_token_indices");
    tn_model_free(model);
    tn_adapter_options pissa = lora("q_proj");
    pissa.init = "pissa";
    OK(tn_model_load(at("gone"), &model));
    OK(tn_model_add_adapter(model, &pissa, 1));
    failed_with(tn_model_unmerge(model, at("gone_back"), "keep", NULL), TN_ERROR_UNSUPPORTED, "'pissa'");
    tn_model_remove_adapter(model);
    failed_with(tn_model_unmerge(model, at("gone_back"), "keep", NULL), TN_ERROR_ARGUMENT, "no adapter");
    failed_with(tn_model_merge(model, at("gone_back"), "keep", NULL), TN_ERROR_ARGUMENT, "no adapter");
    tn_model_free(model);
}

static void words_come_along(void **state) {
    (void)state;
    make_base("words", false, "f32");
    write_text(at("words/generation_config.json"), "{\"eos_token_id\": 2}\n");
    write_text(at("words/merges.txt"), "");
    tn_adapter_options options = lora("q_proj");
    tn_model *model = load_with_adapter("words", "words_adapter", &options);
    OK(tn_model_merge(model, at("words_merged"), "keep", NULL));
    assert_true(tn_path_exists(at("words_merged/generation_config.json")));
    assert_true(tn_path_exists(at("words_merged/merges.txt")));
    assert_false(tn_path_exists(at("words_merged/tokenizer.json")));
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merged_checkpoint_equals_base_and_adapter),
        cmocka_unit_test(shards_and_index_stay),
        cmocka_unit_test(stored_type_follows_the_request),
        cmocka_unit_test(value_that_does_not_fit_the_type_is_refused),
        cmocka_unit_test(folders_in_use_are_refused),
        cmocka_unit_test(full_disk_leaves_no_half_file),
        cmocka_unit_test(tied_head_comes_apart_when_only_one_side_changes),
        cmocka_unit_test(tied_head_stays_tied_when_both_sides_change),
        cmocka_unit_test(tensors_of_no_module_are_carried_along),
        cmocka_unit_test(unmerging_restores_the_base_within_what_it_reports),
        cmocka_unit_test(what_cannot_be_restored_is_refused),
        cmocka_unit_test(words_come_along),
    };
    return cmocka_run_group_tests_name("merge", tests, make_folder, remove_folder);
}
