/* Reading the YAML of configuration files, and writing it back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "format/json.h"
#include "format/yaml.h"

static void assert_reads_as(const char *text, const char *json) {
    cJSON *value;
    tn_buf out = {0};
    if (tn_yaml_parse(text, strlen(text), "c.yaml", &value) != TN_OK)
        fail_msg("%s: %s", text, tn_error_message());
    tn_json_print(&out, value, false);
    assert_string_equal(tn_buf_text(&out), json);
    tn_buf_free(&out);
    cJSON_Delete(value);
}

static void blocks_flows_and_scalars_are_read(void **state) {
    (void)state;
    assert_reads_as("model: ./qwen  # where\nlora:\n  rank: 16\n  targets: [q_proj, 'v_proj']\nlist:\n- 1\n-  - a\n   - "
                    "b\n- x: 1\n  y: 2\n",
                    "{\"model\":\"./qwen\",\"lora\":{\"rank\":16,\"targets\":[\"q_proj\",\"v_proj\"]},"
                    "\"list\":[1,[\"a\",\"b\"],{\"x\":1,\"y\":2}]}");
    assert_reads_as("a: |\n  one\n  two\nb: >-\n  folded\n  text\nc: \"tab\\t\\u00e9\"\nd:\n",
                    "{\"a\":\"one\\ntwo\\n\",\"b\":\"folded text\","
                    "\"c\":\"tab\\t\xc3\xa9\",\"d\":null}");
    assert_reads_as("", "null");
    assert_reads_as("# nothing\n", "null");
    assert_reads_as("--- {a: 1}\n...\n", "{\"a\":1}");
    assert_reads_as("\xef\xbb\xbf"
                    "a: 1\r\nb: 2\r\n",
                    "{\"a\":1,\"b\":2}");
    assert_reads_as("{\"json\": [1, {\"is\": \"yaml\"}]}", "{\"json\":[1,{\"is\":\"yaml\"}]}");
}

static void plain_scalars_follow_the_core_schema(void **state) {
    (void)state;
    assert_reads_as("[null, ~, Null, true, TRUE, False, nUll, tRUE]", "[null,null,null,true,true,false,\"nUll\",\"tRUE\"]");
    assert_reads_as("[no, yes, on, off, y, n, No]", "[\"no\",\"yes\",\"on\",\"off\",\"y\",\"n\",\"No\"]");
    assert_reads_as("[1, -2, +3, 007, 0x1F, 0o17, 1_000, 1:30, 0x, 0xG]",
                    "[1,-2,3,7,31,15,\"1_000\",\"1:30\",\"0x\",\"0xG\"]");
    assert_reads_as("[1e-4, 2., .5, -1.5E+3, 1e, '.', 1.2.3, 1-2]", "[0.0001,2,0.5,-1500,\"1e\",\".\",\"1.2.3\",\"1-2\"]");
    assert_reads_as("['1', \"true\", 'null', '']", "[\"1\",\"true\",\"null\",\"\"]");
    assert_reads_as("[2024-01-01, a b, http://x/y#z]", "[\"2024-01-01\",\"a b\",\"http://x/y#z\"]");
    const char *text = "lr: .inf\nx: -.INF\nn: .nan";
    cJSON *value;
    assert_int_equal(tn_yaml_parse(text, strlen(text), "c.yaml", &value), TN_OK);
    double lr = 1;
    assert_int_equal(tn_json_get_double(value, "lr", "c.yaml", &lr), TN_ERROR_FORMAT);
    assert_true(value->child->valuedouble > 1e308 && value->child->next->valuedouble < -1e308);
    assert_true(value->child->prev->valuedouble != value->child->prev->valuedouble);
    cJSON_Delete(value);
}

static void what_is_not_read_is_refused_with_its_place(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"a: &x 1\nb: *x\n", "c.yaml, line 1, column 4: anchors (&) and aliases (*) are not read"},
        {"a: 1\nb: *x\n", "c.yaml, line 2, column 4: anchors"},
        {"a: &x [1]\n", "c.yaml, line 1, column 4: anchors"},
        {"&x {a: 1}\n", "c.yaml, line 1, column 1: anchors"},
        {"a: !!str 5\n", "c.yaml, line 1, column 4: tags (!) are not read"},
        {"a: !x [5]\n", "c.yaml, line 1, column 4: tags"},
        {"a: 1\nb: 2\na: 3\n", "c.yaml, line 3, column 1: this key is there twice"},
        {"x: {a: 1, 'a': 2}\n", "c.yaml, line 1, column 11: this key is there twice"},
        {"? [a]\n: 1\n", "c.yaml, line 1, column 3: a key must be a word"},
        {"a: \"x\\0y\"\n", "c.yaml, line 1, column 4: the character \\0 cannot"},
        {"a: 1\n---\nb: 2\n", "c.yaml, line 2, column 1: a second document begins here"},
        {"---\n---\n", "c.yaml, line 2, column 1: a second document begins here"},
        {"a: [1, 2\nb: 3\n", "c.yaml, line 2"},
        {"a: 'x\n", "c.yaml, line 2, column 1: found unexpected end of stream"},
        {"a:\n\t- 1\n", "c.yaml, line 2, column 1: found character that cannot start any token"},
        {"a: b: c\n", "c.yaml, line 1, column 5: mapping values are not allowed"},
        {"a: \xff\n", "c.yaml, byte 4: invalid leading UTF-8 octet"},
        {"a: \x01\n", "c.yaml, byte 4: control characters are not allowed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cJSON *value = (cJSON *)1;
        tn_status status = tn_yaml_parse(cases[i].text, strlen(cases[i].text), "c.yaml", &value);
        assert_null(value);
        if (status != TN_ERROR_FORMAT || !strstr(tn_error_message(), cases[i].message))
            fail_msg("%s: \"%s\" lacks \"%s\"", cases[i].text, tn_error_message(), cases[i].message);
    }
}

static void nesting_ends_at_64(void **state) {
    (void)state;
    char text[200];
    for (int depth = 64; depth <= 65; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        cJSON *value;
        assert_int_equal(tn_yaml_parse(text, 2 * (size_t)depth, "c.yaml", &value), depth == 64 ? TN_OK : TN_ERROR_FORMAT);
        cJSON_Delete(value);
    }
    assert_string_equal(tn_error_message(), "c.yaml, line 1, column 65: nested more than 64 deep");
}

static void assert_round_trip(const cJSON *value) {
    tn_buf text = {0};
    cJSON *back;
    tn_yaml_print(&text, value);
    if (tn_yaml_parse(tn_buf_text(&text), text.length, "printed", &back) != TN_OK)
        fail_msg("%s\n%s", tn_error_message(), tn_buf_text(&text));
    if (!cJSON_Compare(value, back, true))
        fail_msg("reads back as something else:\n%s", tn_buf_text(&text));
    cJSON_Delete(back);
    tn_buf_free(&text);
}

static void printed_text_is_block_style(void **state) {
    (void)state;
    cJSON *value;
    const char *json =
        "{\"model\":\"Qwen/Qwen3-0.6B\",\"lora\":{\"rank\":16,\"dropout\":0.05,\"targets\":[\"q_proj\",\"no\"]},"
        "\"none\":null,\"flag\":true,\"lr\":1e-5,\"text\":\"a: b\",\"empty\":{},\"list\":[[1,2],[],{\"x\":1,\"y\":\"\"}]}";
    assert_int_equal(tn_json_parse(json, strlen(json), "json", &value), TN_OK);
    tn_buf text = {0};
    tn_yaml_print(&text, value);
    assert_string_equal(tn_buf_text(&text),
                        "model: Qwen/Qwen3-0.6B\nlora:\n  rank: 16\n  dropout: 0.05\n  targets:\n    - q_proj\n"
                        "    - \"no\"\nnone: null\nflag: true\nlr: 1.0e-05\ntext: \"a: b\"\nempty: {}\n"
                        "list:\n  - - 1\n    - 2\n  - []\n  - x: 1\n    \"y\": \"\"\n");
    tn_buf_free(&text);
    assert_round_trip(value);
    cJSON_Delete(value);
}

static void every_string_reads_back_the_same(void **state) {
    (void)state;
    static const char *const strings[] = {"",
                                          " ",
                                          "a ",
                                          " a",
                                          "-",
                                          "- a",
                                          "a: b",
                                          "a #b",
                                          "#",
                                          "null",
                                          "True",
                                          "no",
                                          "~",
                                          "1",
                                          "1.5",
                                          "0x10",
                                          ".inf",
                                          "1e5",
                                          "a\nb",
                                          "\n",
                                          "a\r\n",
                                          "\t",
                                          "\"",
                                          "'",
                                          "\\n",
                                          "{}",
                                          "[a]",
                                          "*x",
                                          "&x",
                                          "!x",
                                          "%a",
                                          "@a",
                                          "`",
                                          "|",
                                          ">",
                                          "?",
                                          "? a",
                                          ":",
                                          "<<",
                                          "---",
                                          "...",
                                          "=",
                                          "\x7f",
                                          "\xc2\x85",
                                          "\xe2\x80\xa8",
                                          "\xef\xbb\xbf",
                                          "\xef\xbf\xbe",
                                          "\xef\xbf\xbd",
                                          "\xf0\x9f\x98\x80",
                                          "\x01\x1f",
                                          "caf\xc3\xa9",
                                          "a, b",
                                          "a\\"};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        cJSON *object = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(object, strings[i]);
        cJSON_AddItemToArray(list, cJSON_CreateString(strings[i]));
        cJSON_AddStringToObject(object, "other", strings[i]);
        assert_round_trip(object);
        assert_round_trip(list->child);
        cJSON_Delete(object);
    }
}

static cJSON *random_tree(tn_rng *rng, int depth) {
    char text[64] = "";
    uint32_t kind = tn_rng_below(rng, depth > 0 ? 7 : 5);
    if (kind == 0)
        return cJSON_CreateNull();
    if (kind == 1)
        return cJSON_CreateBool((int)tn_rng_below(rng, 2));
    if (kind == 2)
        return cJSON_CreateNumber(((double)tn_rng_below(rng, 2000000) - 1e6) / (tn_rng_below(rng, 2) ? 1 : 1e9));
    size_t length = 0;
    for (uint32_t n = tn_rng_below(rng, 8); n > 0; n--)
        length += tn_utf8_encode(1 + tn_rng_below(rng, tn_rng_below(rng, 4) ? 0x7f : 0xd000), text + length);
    text[length] = 0;
    if (kind <= 4)
        return cJSON_CreateString(text);
    cJSON *container = kind == 5 ? cJSON_CreateObject() : cJSON_CreateArray();
    for (uint32_t i = 0, n = tn_rng_below(rng, 4); i < n; i++) {
        snprintf(text + length, sizeof text - length, "%u", i);
        if (kind == 5)
            cJSON_AddItemToObject(container, text, random_tree(rng, depth - 1));
        else
            cJSON_AddItemToArray(container, random_tree(rng, depth - 1));
    }
    return container;
}

static void random_trees_read_back_the_same(void **state) {
    (void)state;
    tn_rng rng = tn_rng_start(1, 2);
    for (int i = 0; i < 3000; i++) {
        cJSON *tree = random_tree(&rng, 5);
        assert_round_trip(tree);
        cJSON_Delete(tree);
    }
}

static void files_have_a_size_limit(void **state) {
    (void)state;
    char dir[] = "/tmp/tenon-test-XXXXXX", path[TN_PATH_MAX];
    cJSON *value;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(tn_path_join(path, dir, "c.yaml"), TN_OK);
    assert_int_equal(tn_file_write(path, "a: 1\n", 5), TN_OK);
    assert_int_equal(tn_yaml_read(path, 5, &value), TN_OK);
    cJSON_Delete(value);
    assert_int_equal(tn_yaml_read(path, 4, &value), TN_ERROR_FORMAT);
    assert_int_equal(tn_path_remove_tree(dir), TN_OK);
    assert_int_equal(tn_yaml_read(path, 5, &value), TN_ERROR_IO);
    assert_null(value);
}

static int64_t allowed;

static void *limited_malloc(size_t size) {
    return allowed-- > 0 ? malloc(size) : NULL;
}

static void memory_may_end_anywhere(void **state) {
    (void)state;
    const char *text = "a: [1, 2.5, {b: text, c: null}]\nd: true\n";
    cJSON_Hooks hooks = {.malloc_fn = limited_malloc, .free_fn = free};
    size_t before = tn_memory_used();
    for (int ours = 0; ours < 2; ours++) {
        tn_status status = TN_ERROR_MEMORY;
        for (int64_t count = 0; status != TN_OK; count++) {
            cJSON *value;
            allowed = ours ? INT64_MAX : count;
            cJSON_InitHooks(&hooks);
            tn_memory_fail_after(ours ? count : -1);
            status = tn_yaml_parse(text, strlen(text), "text", &value);
            tn_memory_fail_after(-1);
            cJSON_InitHooks(NULL);
            assert_true(status == TN_ERROR_MEMORY || status == TN_OK);
            assert_true((status == TN_OK) == (value != NULL));
            assert_int_equal(tn_memory_used(), before);
            cJSON_Delete(value);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_flows_and_scalars_are_read),
        cmocka_unit_test(plain_scalars_follow_the_core_schema),
        cmocka_unit_test(what_is_not_read_is_refused_with_its_place),
        cmocka_unit_test(nesting_ends_at_64),
        cmocka_unit_test(printed_text_is_block_style),
        cmocka_unit_test(every_string_reads_back_the_same),
        cmocka_unit_test(random_trees_read_back_the_same),
        cmocka_unit_test(files_have_a_size_limit),
        cmocka_unit_test(memory_may_end_anywhere),
    };
    return cmocka_run_group_tests_name("yaml", tests, NULL, NULL);
}
