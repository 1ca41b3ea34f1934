/* Descriptions of real and made folders. */
#include "small_model.h"

#include <math.h>

#include "session/inspect.h"

static cJSON *tree;

static void look(const char *path, bool tensors, bool verify) {
    const tn_inspect_options options = {.tensors = tensors, .fold = true, .verify = verify};
    cJSON_Delete(tree);
    OK(tn_inspect(path, &options, &tree));
}

/* The member at a path such as "train.kinds.0.rows"; fails the test when there is none. */
static const cJSON *member(const char *path) {
    const cJSON *value = tree;
    char part[64];
    for (const char *c = path; *c;) {
        size_t length = strcspn(c, ".");
        snprintf(part, sizeof part, "%.*s", (int)length, c);
        value = cJSON_IsArray(value) ? cJSON_GetArrayItem(value, atoi(part)) : cJSON_GetObjectItemCaseSensitive(value, part);
        if (!value)
            fail_msg("there is no %s", path);
        c += length + (c[length] == '.');
    }
    return value;
}

static void text_is(const char *path, const char *want) {
    assert_true(cJSON_IsString(member(path)));
    assert_string_equal(member(path)->valuestring, want);
}

static void number_is(const char *path, double want) {
    const cJSON *value = member(path);
    if (!cJSON_IsNumber(value) || value->valuedouble != want)
        fail_msg("%s is %g, not %g", path, value->valuedouble, want);
}

static void text_holds(const char *path, const char *words) {
    assert_true(cJSON_IsString(member(path)));
    if (!strstr(member(path)->valuestring, words))
        fail_msg("'%s' is not in: %s", words, member(path)->valuestring);
}

static void is_true(const char *path, bool want) {
    assert_true(cJSON_IsBool(member(path)));
    assert_int_equal(cJSON_IsTrue(member(path)), want);
}

/* A path below ../shared, or a skipped test. */
static const char *shared(const char *name) {
    static char path[TN_PATH_MAX];
    const char *root = getenv("TENON_SHARED");
    OK(tn_path_join(path, root ? root : TENON_SOURCE_ROOT "/../shared", name));
    if (!tn_path_exists(path)) {
        print_message("no %s\n", path);
        skip();
    }
    return path;
}

static void peft_adapter_of_gpt2_is_described(void **state) {
    (void)state;
    look(shared("data/adapters/peft-gpt2-seqcls"), false, false);
    text_is("kind", "peft adapter");
    text_is("peft_type", "LORA");
    text_is("base_model", "gpt2");
    text_is("task_type", "SEQ_CLS");
    number_is("r", 8);
    number_is("scaling", 1);
    text_is("target_modules.0", "c_attn");
    number_is("modules", 12);
    number_is("whole_tensors", 1);
    text_is("layers", "0-11");
    is_true("can_apply", false);
    text_holds("why_not", "GPT-2");
}

static void peft_adapter_of_qwen_is_described(void **state) {
    (void)state;
    look(shared("data/adapters/peft-qwen2.5-0.5b"), true, true);
    number_is("scaling", 2);
    number_is("dropout", 0.05);
    number_is("modules", 48);
    number_is("tensors", 96);
    number_is("parameters", 540672);
    number_is("dtypes.F32.bytes", 540672 * 4);
    is_true("can_apply", true);
    is_true("sound", true);
    text_is("list.0.name", "base_model.model.model.layers.{0..23}.self_attn.q_proj.lora_A.weight");
    number_is("list.0.count", 24);
    number_is("list.0.shape.1", 896);
    assert_int_equal(cJSON_GetArraySize(member("list")), 4);
}

static void peft_adapter_of_gemma_is_described(void **state) {
    (void)state;
    look(shared("data/adapters/peft-gemma3-270m"), false, false);
    number_is("r", 4);
    number_is("scaling", 4);
    number_is("modules", 72);
    text_is("layers", "0-17");
    assert_int_equal(cJSON_GetArraySize(member("target_modules")), 4);
    assert_null(member("settings")->child);
}

static void mlx_adapter_is_described(void **state) {
    (void)state;
    look(shared("data/adapters/mlx-qwen2.5-0.5b"), true, false);
    text_is("kind", "mlx-lm adapter");
    text_is("fine_tune_type", "lora");
    text_is("base_model", "Qwen2.5-0.5B-Instruct");
    number_is("rank", 8);
    number_is("scale", 10);
    number_is("num_layers", 4);
    number_is("modules", 8);
    text_is("layers", "20-23");
    is_true("can_apply", false);
    text_is("list.0.name", "model.layers.{20..23}.self_attn.q_proj.lora_a");
}

static void every_method_of_the_golden_data_is_named(void **state) {
    (void)state;
    static const struct {
        const char *folder, *type;
        int modules;
        bool can_apply;
        const char *why;
    } cases[] = {
        {"golden/lora_basic/adapter", "LORA", 4, true, NULL},
        {"golden/lora_embedding/adapter", "LORA", 3, true, NULL},
        {"golden/dora_basic/adapter", "LORA", 4, true, NULL},
        {"golden/loha_basic/adapter", "LOHA", 4, true, NULL},
        {"golden/lokr_basic/adapter", "LOKR", 4, true, NULL},
        {"golden/vera_basic/adapter", "VERA", 6, true, NULL},
        {"golden/ia3_basic/adapter", "IA3", 6, true, NULL},
        {"golden/c3a_basic/adapter", "C3A", 4, false, "'C3A'"},
        {"golden/prompt_tuning/adapter", "PROMPT_TUNING", 0, false, "'PROMPT_TUNING'"},
        {"golden/trainable_tokens_basic/adapter", "TRAINABLE_TOKENS", 1, false, "'TRAINABLE_TOKENS'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        look(shared(cases[i].folder), true, true);
        text_is("kind", "peft adapter");
        text_is("peft_type", cases[i].type);
        number_is("modules", cases[i].modules);
        is_true("can_apply", cases[i].can_apply);
        is_true("sound", true);
        if (cases[i].why)
            text_holds("why_not", cases[i].why);
    }
}

static void sharded_model_of_the_golden_data_is_described(void **state) {
    (void)state;
    look(shared("golden/base_qwen2_sharded/base"), true, true);
    text_is("family", "qwen2");
    is_true("supported", true);
    is_true("sound", true);
    assert_true(member("shards")->valuedouble >= 2);
    look(shared("golden/base_gpt_neox/base"), false, true);
    is_true("supported", false);
    text_holds("why_not", "'gpt_neox'");
    number_is("layers", 2);
    look(shared("golden/base_gpt2/base"), true, true);
    is_true("supported", true);
    number_is("max_positions", 32);
}

static void model_is_described_with_its_sizes(void **state) {
    (void)state;
    make_base("model", true, "bf16");
    write_text(at("model/generation_config.json"), "{\"eos_token_id\": [2, 3]}");
    look(at("model"), true, true);
    text_is("kind", "model");
    text_is("family", "llama");
    number_is("layers", 2);
    number_is("kv_heads", 2);
    number_is("head_size", 4);
    number_is("vocab_size", 97);
    is_true("tied", true);
    text_is("rope.type", "default");
    number_is("rope.theta", 10000);
    number_is("tensors", 20);
    number_is("bytes", member("parameters")->valuedouble * 2);
    number_is("dtypes.BF16.tensors", 20);
    number_is("generation.eos_token_id.1", 3);
    number_is("values.nan", 0);
    is_true("sound", true);
    is_true("chat_template", false);
    text_is("list.0.name", "model.embed_tokens.weight");
    text_is("list.1.name", "model.layers.{0,1}.input_layernorm.weight");
    number_is("list.1.rms", 1);
}

static void verifying_finds_what_is_broken(void **state) {
    (void)state;
    tn_safetensors_writer *writer;
    const float values[] = {1, -3, NAN, INFINITY};
    const int64_t shape[] = {4};
    OK(tn_safetensors_writer_new(&writer, at("bad.safetensors")));
    OK(tn_safetensors_writer_metadata(writer, "made", "here"));
    OK(tn_safetensors_writer_declare(writer, "blocks.0.w", TN_DTYPE_F32, 1, shape));
    OK(tn_safetensors_writer_begin(writer));
    OK(tn_safetensors_writer_data(writer, values, sizeof values));
    OK(tn_safetensors_writer_finish(writer));
    look(at("bad.safetensors"), false, true);
    text_is("kind", "tensors");
    text_is("metadata.made", "here");
    text_is("list.0.name", "blocks.0.w");
    is_true("sound", false);
    text_holds("problem", "'blocks.0.w'");
    number_is("values.nan", 1);
    number_is("values.inf", 1);
    number_is("values.min", -3);
    number_is("values.max", 1);
    make_base("cut", false, "f32");
    write_text(at("cut/config.json"),
               "{\"model_type\": \"llama\", \"vocab_size\": 97, \"hidden_size\": 16, \"intermediate_size\": 24, "
               "\"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2}");
    look(at("cut"), false, false);
    assert_null(cJSON_GetObjectItemCaseSensitive(tree, "sound"));
    look(at("cut"), false, true);
    is_true("sound", false);
    text_holds("problem", "model.layers.2");
}

static void data_is_described_by_its_kinds(void **state) {
    (void)state;
    write_text(at("rows.jsonl"),
               "{\"text\": \"a\xc3\xa9\"}\n{\"text\": \"abcde\"}\n\n"
               "{\"prompt\": \"ab\", \"completion\": \"c\"}\n{\"input_ids\": [1, 2, 3]}\n"
               "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"abcd\"}]}]}\n"
               "{\"question\": \"?\"}\n");
    look(at("rows.jsonl"), false, false);
    text_is("kind", "data set");
    number_is("rows", 6);
    text_is("kinds.0.kind", "input_ids");
    text_is("kinds.0.unit", "tokens");
    text_is("kinds.1.kind", "messages");
    number_is("kinds.1.median", 4);
    number_is("kinds.2.longest", 3);
    text_is("kinds.3.kind", "text");
    number_is("kinds.3.shortest", 2);
    number_is("kinds.3.longest", 5);
    number_is("kinds.4.first_line", 7);
    number_is("fields.text", 2);
    text_is("sample.text", "a\xc3\xa9");
    OK(tn_dir_create(at("data")));
    write_text(at("data/train.jsonl"), "{\"text\": \"a\"}\n");
    write_text(at("data/test.json"), "[{\"text\": \"a\"}, {\"text\": \"b\"}]");
    look(at("data"), false, false);
    number_is("train.rows", 1);
    number_is("test.rows", 2);
}

static void sample_is_short(void **state) {
    (void)state;
    tn_buf row = {0};
    tn_buf_puts(&row, "{\"text\": \"");
    for (int i = 0; i < 1000; i++)
        tn_buf_puts(&row, "\xc3\xa9");
    tn_buf_puts(&row, "\", \"more\": [");
    for (int i = 0; i < 1000; i++)
        tn_buf_printf(&row, "%d, ", i);
    tn_buf_puts(&row, "0]}\n");
    write_text(at("long.jsonl"), tn_buf_text(&row));
    tn_buf_free(&row);
    look(at("long.jsonl"), false, false);
    assert_int_equal(strlen(member("sample.text")->valuestring), 160 * 2 + 3);
    assert_int_equal(cJSON_GetArraySize(member("sample.more")), 16);
    number_is("kinds.0.longest", 1000);
}

static void run_is_described_with_its_adapter(void **state) {
    (void)state;
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    make_base("run_base", false, "f32");
    tn_model_free(load_with_adapter("run_base", "run", &options));
    write_text(at("run/metrics.jsonl"),
               "{\"step\": 1, \"loss\": 3.5}\n{\"step\": 2, \"valid_loss\": 3.25}\n{\"step\": 2, \"loss\": 3}\n"
               "{\"step\": 3, \"valid_loss\": 3.5}\n{\"step\": 4, \"lo");
    OK(tn_dir_create(at("run/checkpoints/step-00000002")));
    write_text(at("run/checkpoints/step-00000004.safetensors"), "");
    look(at("run"), true, true);
    text_is("kind", "run");
    number_is("metrics.logged_steps", 2);
    number_is("metrics.last_step", 3);
    number_is("metrics.last_loss", 3);
    number_is("metrics.best_valid_loss", 3.25);
    number_is("metrics.best_valid_step", 2);
    text_is("checkpoints.1", "step-00000004.safetensors");
    text_is("adapter.kind", "peft adapter");
    number_is("adapter.modules", 4);
    is_true("adapter.can_apply", true);
}

static void repeated_layers_fold_over_gaps(void **state) {
    (void)state;
    static const char *const names[] = {"h.0.w", "h.2.w", "h.1.w", "h.7.w", "h.10.w", "h.3.w", "h.03.w", "w.5"};
    tn_safetensors_writer *writer;
    const int64_t shape[] = {0}, other[] = {0, 2};
    OK(tn_safetensors_writer_new(&writer, at("fold.safetensors")));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        OK(tn_safetensors_writer_declare(writer, names[i], TN_DTYPE_I8, strcmp(names[i], "h.3.w") == 0 ? 2 : 1,
                                         strcmp(names[i], "h.3.w") == 0 ? other : shape));
    OK(tn_safetensors_writer_begin(writer));
    OK(tn_safetensors_writer_finish(writer));
    look(at("fold.safetensors"), false, true);
    text_is("list.0.name", "h.{0..2,7,10}.w");
    assert_int_equal(cJSON_GetArraySize(member("list")), 4);
    const tn_inspect_options plain = {0};
    cJSON_Delete(tree);
    OK(tn_inspect(at("fold.safetensors"), &plain, &tree));
    assert_int_equal(cJSON_GetArraySize(member("list")), 8);
    text_is("list.6.name", "h.10.w");
}

static void gguf_file_is_a_model_with_metadata_and_types(void **state) {
    (void)state;
    look(TENON_SOURCE_ROOT "/tests/golden_quant/gguf_stories_q4_0/base", true, true);
    text_is("kind", "model");
    text_is("format", "GGUF 3");
    text_is("family", "llama");
    is_true("supported", true);
    is_true("tied", true);
    is_true("sound", true);
    number_is("tensors", 47);
    number_is("dtypes.q4_0.tensors", 35);
    number_is("dtypes.q8_0.bytes", 512 * 68);
    text_is("list.0.name", "blk.{0..4}.attn_k.weight");
    text_is("list.0.dtype", "q4_0");
    number_is("tokenizer.vocabulary", 512);
    is_true("tokenizer.adds_bos", true);
    is_true("chat_template", false);
    const cJSON *metadata = member("metadata");
    assert_int_equal(cJSON_GetObjectItemCaseSensitive(metadata, "llama.block_count")->valueint, 5);
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(metadata, "tokenizer.ggml.tokens")->valuestring, "512 x string");
}

static void broken_paths_are_errors(void **state) {
    (void)state;
    static const struct {
        const char *name, *contents, *words;
    } cases[] = {
        {"absent", NULL, "cannot open"},
        {"x.gguf", "GGUF....", "GGUF"},
        {"x.bin", "PK\x03\x04", "pickled"},
        {"x.txt", "hello", "not known here"},
        {"config.json", "{}", "give its folder"},
        {"x.safetensors", "1234", "too few"},
        {"x.jsonl", "{\"text\": \"a\"}\n{\"text\": }\n", "line 2"},
        {"e/config.json", "[]", "not a JSON object"},
        {"f/adapter_config.json", "{}", "peft_type"},
        {"g/adapter_config.json", "{\"peft_type\": 3}", "peft_type"},
        {"h/readme", "", "holds nothing that is known"},
    };
    const tn_inspect_options options = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[TN_PATH_MAX];
        cJSON *out;
        snprintf(path, sizeof path, "%s", at(cases[i].name));
        bool in_folder = strchr(cases[i].name, '/');
        if (in_folder)
            *strrchr(path, '/') = 0, assert_int_equal(tn_dir_create(path), TN_OK);
        if (cases[i].contents)
            write_text(at(cases[i].name), cases[i].contents);
        assert_int_not_equal(tn_inspect(path, &options, &out), TN_OK);
        assert_null(out);
        if (!strstr(tn_error_message(), cases[i].words))
            fail_msg("%s: '%s' is not in: %s", cases[i].name, cases[i].words, tn_error_message());
    }
}

static int drop_tree(void **state) {
    cJSON_Delete(tree);
    return remove_folder(state);
}

static void layers_of_sequential_models_are_listed(void **state) {
    tn_model *model;
    (void)state;
    write_text(at("net.json"), "{\"model_type\": \"sequential\", \"input_shape\": [3, 9, 8], \"layers\": [{\"type\": "
                               "\"conv2d\", \"name\": \"c\", \"out_channels\": 6, \"kernel_size\": [3, 2], \"stride\": "
                               "2, \"groups\": 3}, {\"type\": \"batch_norm\"}, {\"type\": \"global_avg_pool\"}, "
                               "{\"type\": \"linear\", \"name\": \"fc\", \"out_features\": 5}]}");
    OK(tn_model_create(at("net.json"), 1, &model));
    OK(tn_session_write_checkpoint(model, at("net"), "f16", 1, NULL));
    tn_model_free(model);
    look(at("net"), false, true);
    text_is("kind", "model");
    text_is("family", "sequential");
    is_true("supported", true);
    text_is("input_shape", "3 x 9 x 8");
    number_is("outputs", 5);
    text_is("layers.0.window", "3 x 2, stride 2 x 2, groups 3");
    text_is("layers.0.out", "6 x 4 x 4");
    number_is("layers.0.parameters", 6 * 3 * 2 + 6);
    number_is("layers.1.parameters", 12);
    text_is("layers.2.type", "global_avg_pool");
    number_is("layers.3.parameters", 35);
    number_is("parameters", 42 + 12 + 35 + 12);
    is_true("sound", true);
    write_text(at("net/config.json"), "{\"model_type\": \"sequential\", \"input_shape\": [4], \"layers\": []}");
    look(at("net"), false, true);
    is_true("supported", false);
    text_holds("why_not", "a list of 1 to 10000 layers");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_of_sequential_models_are_listed),
        cmocka_unit_test(peft_adapter_of_gpt2_is_described),
        cmocka_unit_test(peft_adapter_of_qwen_is_described),
        cmocka_unit_test(peft_adapter_of_gemma_is_described),
        cmocka_unit_test(mlx_adapter_is_described),
        cmocka_unit_test(every_method_of_the_golden_data_is_named),
        cmocka_unit_test(sharded_model_of_the_golden_data_is_described),
        cmocka_unit_test(model_is_described_with_its_sizes),
        cmocka_unit_test(verifying_finds_what_is_broken),
        cmocka_unit_test(data_is_described_by_its_kinds),
        cmocka_unit_test(sample_is_short),
        cmocka_unit_test(run_is_described_with_its_adapter),
        cmocka_unit_test(repeated_layers_fold_over_gaps),
        cmocka_unit_test(gguf_file_is_a_model_with_metadata_and_types),
        cmocka_unit_test(broken_paths_are_errors),
    };
    return cmocka_run_group_tests_name("inspect", tests, make_folder, drop_tree);
}
