/* tenon inspect as its users see it. */
#include "program.h"

#include "format/json.h"
#include "format/safetensors.h"

static void make_tensors(const char *name, float last) {
    char path[TN_PATH_MAX], tensor[32];
    const int64_t shape[] = {2, 3};
    const float values[] = {1, 2, 3, 4, 5, last};
    tn_safetensors_writer *writer;
    assert_int_equal(tn_path_join(path, folder, name), TN_OK);
    assert_int_equal(tn_safetensors_writer_new(&writer, path), TN_OK);
    for (int i = 0; i < 12; i++) {
        snprintf(tensor, sizeof tensor, "h.%d.weight", i);
        assert_int_equal(tn_safetensors_writer_declare(writer, tensor, TN_DTYPE_F32, 2, shape), TN_OK);
    }
    assert_int_equal(tn_safetensors_writer_begin(writer), TN_OK);
    for (int i = 0; i < 12; i++)
        assert_int_equal(tn_safetensors_writer_data(writer, values, sizeof values), TN_OK);
    assert_int_equal(tn_safetensors_writer_finish(writer), TN_OK);
}

static void tensors_are_listed_with_repeats_folded(void **state) {
    (void)state;
    make_tensors("t.safetensors", 6);
    exits(0, "$TENON_PROGRAM inspect t.safetensors");
    printed("t.safetensors: tensors\n");
    printed("\n    h.{0..11}.weight  [2, 3]  F32  x12\n");
    exits(0, "$TENON_PROGRAM inspect t.safetensors --no-fold");
    printed("\n    h.0.weight   [2, 3]  F32\n    h.1.weight   [2, 3]  F32\n");
    printed("\n    h.11.weight  [2, 3]  F32\n");
}

static void verifying_ends_with_1_on_a_nan(void **state) {
    (void)state;
    make_tensors("good.safetensors", 6);
    make_tensors("bad.safetensors", 0.0f / 0.0f);
    exits(0, "$TENON_PROGRAM inspect good.safetensors --verify");
    printed("  min 1  max 6  rms 3.894\n");
    printed("  sound              yes\n");
    exits(0, "$TENON_PROGRAM inspect bad.safetensors");
    exits(1, "$TENON_PROGRAM inspect bad.safetensors --verify");
    printed("sound              no");
    printed("the first tensor that holds one is 'h.0.weight'");
    assert_null(strstr(text(), "tenon:"));
}

static void json_holds_what_the_text_says(void **state) {
    (void)state;
    cJSON *tree;
    make_tensors("t.safetensors", 6);
    exits(0, "$TENON_PROGRAM inspect t.safetensors --json --verify");
    assert_int_equal(tn_json_parse(output.data, output.length, "output", &tree), TN_OK);
    assert_string_equal(tn_json_get(tree, "kind")->valuestring, "tensors");
    assert_true(tn_json_get(tree, "parameters")->valuedouble == 72);
    const cJSON *first = cJSON_GetArrayItem(tn_json_get(tree, "list"), 0);
    assert_string_equal(tn_json_get(first, "name")->valuestring, "h.{0..11}.weight");
    assert_true(tn_json_get(first, "max")->valuedouble == 6);
    cJSON_Delete(tree);
}

static void texts_of_files_do_not_steer_the_terminal(void **state) {
    (void)state;
    write_file("x.jsonl", "{\"text\": \"a\\u001b[31m\\nb\\u009bc\"}\n");
    exits(0, "$TENON_PROGRAM inspect x.jsonl");
    printed("  rows               1\n");
    printed("\"a\\u001b[31m\\nb");
    assert_null(strchr(text(), '\033'));
}

static void wrong_paths_are_explained(void **state) {
    (void)state;
    exits(2, "$TENON_PROGRAM inspect");
    exits(1, "$TENON_PROGRAM inspect nothing");
    printed("tenon: cannot open nothing: No such file or directory\n");
    exits(1, "mkdir -p empty && $TENON_PROGRAM inspect empty");
    printed("tenon: empty holds nothing that is known here");
}

static void adapters_of_other_tools_are_described(void **state) {
    (void)state;
    need_shared("ADAPTERS", "data/adapters");
    exits(0, "for a in \"$ADAPTERS\"/*/; do $TENON_PROGRAM inspect $a --tensors || exit 1; done");
    printed("peft-gpt2-seqcls/: peft adapter\n");
    printed("mlx-qwen2.5-0.5b/: mlx-lm adapter\n");
    printed("  scaling            4\n");
    printed("    model.layers.{20..23}.self_attn.q_proj.lora_a  [896, 8]  F32  x4\n");
}

static void tokenizers_are_described(void **state) {
    (void)state;
    need_shared("TOKENIZER", "data/tokenizers/tok512");
    exits(0, "$TENON_PROGRAM inspect \"$TOKENIZER\"");
    printed(": tokenizer\n");
    printed("    vocabulary         512\n");
    exits(0, "$TENON_PROGRAM inspect \"$TOKENIZER\"/tokenizer.json");
    printed("    type               BPE\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_listed_with_repeats_folded),
        cmocka_unit_test(verifying_ends_with_1_on_a_nan),
        cmocka_unit_test(json_holds_what_the_text_says),
        cmocka_unit_test(texts_of_files_do_not_steer_the_terminal),
        cmocka_unit_test(wrong_paths_are_explained),
        cmocka_unit_test(adapters_of_other_tools_are_described),
        cmocka_unit_test(tokenizers_are_described),
    };
    return cmocka_run_group_tests_name("cli_inspect", tests, make_folder, remove_folder);
}
