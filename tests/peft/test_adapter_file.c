/* Adapter folders that do not fit, and ones that are spelt in other ways: errors that name the thing. */
#include "support/support.h"

#define QWEN2                                                                                                               \
    "{\"model_type\": \"qwen2\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": 40, "                      \
    "\"num_hidden_layers\": 2, "                                                                                            \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"initializer_range\": 0.2, \"tie_word_embeddings\": true}"
#define KEY "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
#define OTHER_KEY "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

/* What to change of an adapter file on the way; NULL and 0 change nothing. */
typedef struct {
    const char *drop, *rename, *to, *poison, *transpose, *extra;
    bool bare; /* without "base_model.model." */
    tn_dtype dtype;
} change;

static void declare(tn_safetensors_writer *writer, const tn_safetensors_entry *entry, const change *c) {
    const tn_tensor *t = &entry->tensor;
    const char *name = c->rename && strcmp(c->rename, entry->name) == 0 ? c->to : entry->name;
    int64_t shape[2] = {t->shape[0], t->shape[1]};
    if (c->transpose && strcmp(c->transpose, entry->name) == 0) {
        shape[0] = t->shape[1];
        shape[1] = t->shape[0];
    }
    assert_ok(
        tn_safetensors_writer_declare(writer, name + (c->bare ? strlen("base_model.model.") : 0), c->dtype, t->ndim, shape));
}

static void write_values(tn_safetensors_writer *writer, const tn_safetensors_entry *entry, const change *c) {
    int64_t count = tn_tensor_count(&entry->tensor);
    float *values = malloc((size_t)count * sizeof *values);
    void *stored = calloc((size_t)count, 8);
    assert_true(values && stored);
    memcpy(values, entry->tensor.data, (size_t)count * sizeof *values);
    if (c->poison && strcmp(c->poison, entry->name) == 0)
        values[count - 1] = NAN;
    if (tn_dtype_is_float(c->dtype))
        tn_convert_from_f32(stored, c->dtype, values, count);
    assert_ok(tn_safetensors_writer_data(writer, stored, count * tn_dtype_size(c->dtype)));
    free(values);
    free(stored);
}

/* A copy of the folder `from` under the name `to` with the change. */
static void copy_changed(const char *to, const char *from, const change *c) {
    tn_safetensors file;
    tn_safetensors_writer *writer;
    tn_buf config = {0};
    static const float one[2] = {1, 2};
    static const int64_t shape[1] = {2};
    assert_ok(tn_dir_create(temporary("%s", to)));
    assert_ok(tn_file_read(temporary("%s/adapter_config.json", from), 1 << 20, &config));
    assert_ok(tn_file_write(temporary("%s/adapter_config.json", to), config.data, config.length));
    tn_buf_free(&config);
    assert_ok(tn_safetensors_open(temporary("%s/adapter_model.safetensors", from), &file));
    assert_ok(tn_safetensors_writer_new(&writer, temporary("%s/adapter_model.safetensors", to)));
    for (int writing = 0; writing < 2; writing++) {
        for (size_t i = 0; i < file.count; i++) {
            if (c->drop && strcmp(c->drop, file.entries[i].name) == 0)
                continue;
            if (writing)
                write_values(writer, &file.entries[i], c);
            else
                declare(writer, &file.entries[i], c);
        }
        if (c->extra && !writing)
            assert_ok(tn_safetensors_writer_declare(writer, c->extra, TN_DTYPE_F32, 1, shape));
        if (c->extra && writing)
            assert_ok(tn_safetensors_writer_data(writer, one, sizeof one));
        if (!writing)
            assert_ok(tn_safetensors_writer_begin(writer));
    }
    assert_ok(tn_safetensors_writer_finish(writer));
    tn_safetensors_close(&file);
}

/* An adapter with random values in the folder `name`; returns the logits of the probe with it. */
static float *save_adapter(const char *config, const char *name, const char *targets, const char *bias) {
    tn_model *model = create_model(config, 2);
    tn_adapter_options options;
    int64_t count;
    tn_adapter_options_default(&options);
    options.rank = 4;
    options.target_modules = targets;
    options.bias = bias;
    assert_ok(tn_model_add_adapter(model, &options, 3));
    randomise_adapter(model->adapter, 4, 0.3f);
    assert_ok(tn_model_save_adapter(model, temporary("%s", name)));
    float *logits = probe(model, &count);
    tn_model_free(model);
    return logits;
}

static void tensors_that_do_not_fit_are_named(void **state) {
    static const struct {
        change change;
        tn_status status;
        const char *words[2];
    } wrong[] = {
        {{.drop = KEY}, TN_ERROR_MISMATCH, {"no tensor '" KEY "', which the configuration calls for", ""}},
        {{.extra = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"},
         TN_ERROR_MISMATCH,
         {"'base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight' fits no module", "nearest: 'model.layers."}},
        {{.rename = KEY, .to = "base_model.model.model.layers.1.self_attn.v_porj.lora_B.weight"},
         TN_ERROR_MISMATCH,
         {"v_porj.lora_B.weight' fits no module", "nearest: 'model.layers.1.self_attn.v_proj.lora_B.weight'"}},
        {{.transpose = KEY}, TN_ERROR_MISMATCH, {"'" KEY "' has shape [4, 12]", "need [12, 4]"}},
        {{.poison = KEY}, TN_ERROR_NUMERIC, {"'" KEY "' holds a NaN or infinity at element 47", ""}},
        {{.dtype = TN_DTYPE_I32}, TN_ERROR_FORMAT, {"is stored as I32, not as floats", ""}},
        {{.extra = "model.layers.1.self_attn.v_proj.lora_B.weight"},
         TN_ERROR_MISMATCH,
         {"model.layers.1.self_attn.v_proj.lora_B.weight", ""}},
        {{.extra = "base_model.model.model.layers.0.self_attn.k_proj.base_layer.weight"},
         TN_ERROR_MISMATCH,
         {"k_proj.base_layer.weight' is not the base's weight; is the adapter for another base model?", ""}},
    };
    tn_model *model = create_model(SMALL_LLAMA, 2);
    int64_t count;
    (void)state;
    tn_free(save_adapter(SMALL_LLAMA, "good", "q_proj,v_proj", NULL));
    float *base = probe(model, &count);
    size_t used = tn_memory_used();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        copy_changed("wrong", "good", &wrong[i].change);
        assert_fails(tn_model_load_adapter(model, temporary("wrong"), false, false), wrong[i].status, wrong[i].words[0]);
        assert_non_null(strstr(tn_error_message(), wrong[i].words[1]));
        assert_non_null(strstr(tn_error_message(), "wrong/adapter_model.safetensors"));
        assert_null(model->adapter);
        assert_int_equal(tn_memory_used(), used);
        assert_true(probe_difference(model, base) == 0);
    }
    tn_free(base);
    tn_model_free(model);
}

static void adapter_for_another_base_is_refused(void **state) {
    char *wider = with_replaced(SMALL_LLAMA, "\"hidden_size\": 24", "\"hidden_size\": 32");
    char *shallow = with_replaced(SMALL_LLAMA, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    char *deep = with_replaced(SMALL_LLAMA, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    const char *const configs[] = {wider, shallow, deep};
    static const char *const words[] = {
        "has shape [4, 24], but this base and configuration need [4, 32]; is it for another base model?",
        "'base_model.model.model.layers.1.", "no tensor 'base_model.model.model.layers.2."};
    (void)state;
    tn_free(save_adapter(SMALL_LLAMA, "good", "q_proj,v_proj", NULL));
    for (int i = 0; i < 3; i++) {
        tn_model *model = create_model(configs[i], 2);
        assert_fails(tn_model_load_adapter(model, temporary("good"), false, false), TN_ERROR_MISMATCH, words[i]);
        tn_model_free(model);
    }
    free(wider);
    free(shallow);
    free(deep);
}

static void folders_that_are_no_adapters_are_explained(void **state) {
    tn_model *model = create_model(SMALL_LLAMA, 2);
    (void)state;
    tn_free(save_adapter(SMALL_LLAMA, "good", "q_proj,v_proj", NULL));
    assert_fails(tn_model_load_adapter(model, temporary("nowhere"), false, false), TN_ERROR_IO,
                 "is not a folder; an adapter is a folder");
    assert_fails(tn_model_load_adapter(model, temporary("good/adapter_config.json"), false, false), TN_ERROR_IO,
                 "is not a folder");
    assert_ok(tn_dir_create(temporary("empty")));
    assert_fails(tn_model_load_adapter(model, temporary("empty"), false, false), TN_ERROR_IO, "empty/adapter_config.json");

    copy_changed("pickled", "good", &(change){0});
    assert_int_equal(rename(temporary("pickled/adapter_model.safetensors"), temporary("pickled/adapter_model.bin")), 0);
    assert_fails(tn_model_load_adapter(model, temporary("pickled"), false, false), TN_ERROR_UNSUPPORTED,
                 "pickled adapters are not read, since unpickling runs code");
    assert_int_equal(unlink(temporary("pickled/adapter_model.bin")), 0);
    assert_fails(tn_model_load_adapter(model, temporary("pickled"), false, false), TN_ERROR_IO, "adapter_model.safetensors");
    assert_int_equal(truncate(temporary("good/adapter_model.safetensors"), 700), 0);
    assert_fails(tn_model_load_adapter(model, temporary("good"), false, false), TN_ERROR_FORMAT,
                 "good/adapter_model.safetensors");
    tn_model_free(model);
}

static void configuration_errors_name_the_file_and_the_key(void **state) {
    static const struct {
        const char *old, *new, *words;
        tn_status status;
    } wrong[] = {
        {"\"use_dora\": false", "\"use_qalora\": true", "'use_qalora', which this build does not support",
         TN_ERROR_UNSUPPORTED},
        {"\"r\": 4", "\"r\": \"four\"", "'r'", TN_ERROR_FORMAT},
        {"\"r\": 4", "\"r\": 0", "rank 0 does not fit model.layers.0.self_attn.q_proj", TN_ERROR_ARGUMENT},
        {"\"r\": 4", "\"r\": 4,", "adapter_config.json", TN_ERROR_FORMAT},
        {"\"q_proj\"", "\"q_projection\"", "target module 'q_projection' matches nothing", TN_ERROR_ARGUMENT},
        {"\"LORA\"", "\"OFT\"", "peft_type 'OFT' is not supported", TN_ERROR_UNSUPPORTED},
        {"\"init_lora_weights\": true", "\"init_lora_weights\": \"eva\"", "'eva' is not supported", TN_ERROR_UNSUPPORTED},
    };
    tn_model *model = create_model(SMALL_LLAMA, 2);
    tn_buf text = {0};
    (void)state;
    tn_free(save_adapter(SMALL_LLAMA, "good", "q_proj,v_proj", NULL));
    assert_ok(tn_file_read(temporary("good/adapter_config.json"), 1 << 20, &text));
    size_t used = tn_memory_used();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char *changed = with_replaced(tn_buf_text(&text), wrong[i].old, wrong[i].new);
        write_text(temporary("good/adapter_config.json"), changed);
        free(changed);
        assert_fails(tn_model_load_adapter(model, temporary("good"), false, false), wrong[i].status, wrong[i].words);
        assert_non_null(strstr(tn_error_message(), "good"));
        assert_int_equal(tn_memory_used(), used);
    }
    tn_buf_free(&text);
    tn_model_free(model);
}

static void partial_files_are_taken_when_allowed_and_counted(void **state) {
    tn_model *model = create_model(SMALL_LLAMA, 2);
    tn_adapter_load_options options = {.allow_partial = true};
    tn_adapter_load_report report;
    const change partial = {.drop = KEY, .extra = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"};
    (void)state;
    tn_free(save_adapter(SMALL_LLAMA, "good", "q_proj,v_proj", NULL));
    copy_changed("partial", "good", &partial);
    assert_ok(tn_adapter_load(model->network, temporary("partial"), &options, &report, &model->adapter));
    assert_int_equal(report.tensors, 7);
    assert_int_equal(report.missing, 1);
    assert_int_equal(report.unexpected, 1);
    /* what is missing is as fresh: B is zero */
    const tn_param *param = tn_params_find(&model->adapter->params, "model.layers.1.self_attn.v_proj.lora_B.weight");
    for (int64_t i = 0; i < param->count; i++)
        assert_true(((float *)param->weight->tensor.data)[i] == 0);
    /* but not what contradicts */
    copy_changed("partial", "good", &(change){.transpose = KEY});
    assert_fails(tn_model_load_adapter(model, temporary("partial"), false, true), TN_ERROR_MISMATCH, "has shape [4, 12]");
    assert_ok(tn_model_load_adapter(model, temporary("good"), false, true));
    tn_model_free(model);
}

static void narrow_types_and_bare_keys_are_read(void **state) {
    static const struct {
        change change;
        double tolerance;
    } variants[] = {
        {{.bare = true}, 0}, {{.dtype = TN_DTYPE_F64}, 0}, {{.dtype = TN_DTYPE_BF16}, 1}, {{.dtype = TN_DTYPE_F16}, 0.1}};
    tn_model *model = create_model(SMALL_LLAMA, 2);
    (void)state;
    float *logits = save_adapter(SMALL_LLAMA, "good", "q_proj,v_proj", NULL);
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        copy_changed("variant", "good", &variants[i].change);
        assert_ok(tn_model_load_adapter(model, temporary("variant"), true, false));
        assert_true(probe_difference(model, logits) <= variants[i].tolerance);
    }
    tn_free(logits);
    tn_model_free(model);
}

/* PEFT writes the bias of an adapted layer with "base_layer", older versions without. */
static void biases_are_found_under_both_names(void **state) {
    static const char *const renames[][2] = {
        {"base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias",
         "base_model.model.model.layers.0.self_attn.q_proj.bias"},
        {"base_model.model.model.layers.1.self_attn.k_proj.bias",
         "base_model.model.model.layers.1.self_attn.k_proj.base_layer.bias"},
    };
    tn_model *model = create_model(QWEN2, 2);
    (void)state;
    float *logits = save_adapter(QWEN2, "biases", "q_proj", "all");
    for (int i = 0; i < 2; i++) {
        copy_changed("variant", "biases", &(change){.rename = renames[i][0], .to = renames[i][1]});
        assert_ok(tn_model_load_adapter(model, temporary("variant"), false, false));
        assert_true(probe_difference(model, logits) == 0);
    }
    tn_free(logits);
    tn_model_free(model);
}

static void metadata_is_saved_beside_the_tensors_and_read_back(void **state) {
    static const char *const texts[][2] = {{"task", "SQL \"quoted\"\n\xc3\xa9"}, {"note", ""}};
    const char *keys[4] = {NULL}, *values[4] = {NULL};
    tn_model *model = create_model(SMALL_LLAMA, 2);
    tn_safetensors file;
    (void)state;
    assert_fails(tn_model_set_metadata(model, NULL, "task", "x"), TN_ERROR_ARGUMENT, "no adapter to keep 'task' with");
    assert_int_equal(tn_model_list_metadata(model, NULL, keys, values, 4), 0);
    float *logits = save_adapter(SMALL_LLAMA, "good", "q_proj,v_proj", NULL);
    assert_ok(tn_model_load_adapter(model, temporary("good"), true, false));
    assert_int_equal(tn_model_list_metadata(model, "default", keys, values, 4), 0);
    assert_ok(tn_model_set_metadata(model, NULL, "task", "before"));
    assert_ok(tn_model_set_metadata(model, "default", "gone", "soon"));
    for (int i = 0; i < 2; i++)
        assert_ok(tn_model_set_metadata(model, NULL, texts[i][0], texts[i][1]));
    assert_ok(tn_model_set_metadata(model, NULL, "gone", NULL));
    assert_ok(tn_model_set_metadata(model, NULL, "never there", NULL));
    assert_ok(tn_model_save_adapter(model, temporary("noted")));
    assert_ok(tn_safetensors_open(temporary("noted/adapter_model.safetensors"), &file));
    assert_int_equal(file.metadata_count, 3);
    assert_string_equal(tn_safetensors_metadata(&file, "format"), "pt");
    tn_safetensors_close(&file);
    assert_ok(tn_model_load_adapter(model, temporary("good"), false, false));
    assert_int_equal(tn_model_list_metadata(model, NULL, NULL, NULL, 0), 0);
    assert_ok(tn_model_attach_adapter(model, temporary("noted"), "other"));
    assert_int_equal(tn_model_list_metadata(model, "other", keys, values, 1), 2);
    assert_null(keys[1]);
    assert_int_equal(tn_model_list_metadata(model, "other", keys, values, 4), 2);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(keys[i], texts[i][0]);
        assert_string_equal(values[i], texts[i][1]);
    }
    assert_ok(tn_model_detach_adapter(model, "other"));
    assert_true(probe_difference(model, logits) == 0);
    tn_free(logits);
    tn_model_free(model);
}

static void metadata_that_a_file_cannot_keep_is_refused(void **state) {
    tn_model *model = create_model(SMALL_LLAMA, 2);
    tn_adapter_options full = {0};
    (void)state;
    tn_free(save_adapter(SMALL_LLAMA, "good", "q_proj,v_proj", NULL));
    assert_ok(tn_model_load_adapter(model, temporary("good"), true, false));
    assert_fails(tn_model_set_metadata(model, NULL, "format", "np"), TN_ERROR_ARGUMENT, "'format' is not free");
    assert_fails(tn_model_set_metadata(model, NULL, "", "x"), TN_ERROR_ARGUMENT, "is not free");
    assert_fails(tn_model_set_metadata(model, NULL, "task", "\xff"), TN_ERROR_ARGUMENT, "'task' is not valid UTF-8");
    assert_fails(tn_model_set_metadata(model, NULL, "\xc3", "x"), TN_ERROR_ARGUMENT, "is not valid UTF-8");
    assert_fails(tn_model_set_metadata(model, "other", "task", "x"), TN_ERROR_ARGUMENT,
                 "no adapter 'other'; it has default");
    assert_int_equal(tn_model_list_metadata(model, NULL, NULL, NULL, 0), 0);
    tn_model_remove_adapter(model);
    tn_adapter_options_default(&full);
    full.method = "full";
    assert_ok(tn_model_add_adapter(model, &full, 1));
    assert_fails(tn_model_set_metadata(model, NULL, "task", "x"), TN_ERROR_UNSUPPORTED, "the whole model is being trained");
    tn_model_free(model);
}

/* A failed write leaves neither half a file nor the older one damaged. */
static void saving_into_what_is_no_folder_fails(void **state) {
    tn_model *model = create_model(SMALL_LLAMA, 2);
    (void)state;
    assert_fails(tn_model_save_adapter(model, temporary("none")), TN_ERROR_ARGUMENT, "no adapter to save");
    tn_free(save_adapter(SMALL_LLAMA, "good", "q_proj,v_proj", NULL));
    assert_ok(tn_model_load_adapter(model, temporary("good"), false, false));
    write_text(temporary("plain"), "text");
    assert_int_equal(tn_model_save_adapter(model, temporary("plain")), TN_ERROR_IO);
    assert_int_equal(tn_model_save_adapter(model, temporary("plain/below")), TN_ERROR_IO);
    tn_model_free(model);
}

static void every_failed_allocation_of_loading_and_saving_is_an_error(void **state) {
    tn_model *model = create_model(QWEN2, 2);
    tn_status status = TN_ERROR_MEMORY;
    (void)state;
    tn_free(save_adapter(QWEN2, "biases", "q_proj", "all"));
    assert_ok(tn_model_load_adapter(model, temporary("biases"), true, false));
    assert_ok(tn_model_set_metadata(model, NULL, "task", "test"));
    assert_ok(tn_model_save_adapter(model, temporary("biases")));
    tn_model_remove_adapter(model);
    size_t used = tn_memory_used();
    for (int count = 0; status != TN_OK && count < 3000; count++) {
        tn_memory_fail_after(count);
        status = tn_model_load_adapter(model, temporary("biases"), true, false);
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
        assert_true(status == TN_OK || tn_memory_used() == used);
    }
    assert_ok(status);
    used = tn_memory_used();
    status = TN_ERROR_MEMORY;
    for (int count = 0; status != TN_OK && count < 3000; count++) {
        tn_memory_fail_after(count);
        status = tn_model_save_adapter(model, temporary("again"));
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
        assert_int_equal(tn_memory_used(), used);
    }
    assert_ok(status);
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_that_do_not_fit_are_named),
        cmocka_unit_test(adapter_for_another_base_is_refused),
        cmocka_unit_test(folders_that_are_no_adapters_are_explained),
        cmocka_unit_test(configuration_errors_name_the_file_and_the_key),
        cmocka_unit_test(partial_files_are_taken_when_allowed_and_counted),
        cmocka_unit_test(narrow_types_and_bare_keys_are_read),
        cmocka_unit_test(biases_are_found_under_both_names),
        cmocka_unit_test(metadata_is_saved_beside_the_tensors_and_read_back),
        cmocka_unit_test(metadata_that_a_file_cannot_keep_is_refused),
        cmocka_unit_test(saving_into_what_is_no_folder_fails),
        cmocka_unit_test(every_failed_allocation_of_loading_and_saving_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
