/* Strict reading, typed members and printing of JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "format/json.h"

static cJSON *parse(const char *text) {
    cJSON *value = NULL;
    if (tn_json_parse(text, strlen(text), "text", &value) != TN_OK)
        fail_msg("%s", tn_error_message());
    return value;
}

static void assert_prints(const cJSON *value, bool indented, const char *expected) {
    tn_buf out = {0};
    tn_json_print(&out, value, indented);
    assert_string_equal(tn_buf_text(&out), expected);
    tn_buf_free(&out);
}

static void what_is_not_json_is_refused_with_its_place(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "text, column 1: the text ends where a value was expected"},
        {"  ", "text, column 3: the text ends where a value was expected"},
        {"{} x", "text, column 4: expected the end of the text, not 'x'"},
        {"{\n \"a\": 1,\n}", "text, line 3, column 1: expected a key in double quotes, not '}'"},
        {"[1 2]", "column 4: expected ',' or ']', not '2'"},
        {"[1,]", "column 4: expected a value, not ']'"},
        {"{\"a\" 1}", "column 6: expected ':', not '1'"},
        {"{\"a\":1", "column 7: the text ends where ',' or '}' was expected"},
        {"{'a':1}", "column 2: expected a key in double quotes"},
        {"[nul]", "column 2: expected a value, not 'n'"},
        {"NaN", "expected a value, not 'N'"},
        {"[-Infinity]", "column 3: expected a digit, not 'I'"},
        {"[01]", "column 2: a number must not begin with 0"},
        {"[1.]", "column 4: expected a digit, not ']'"},
        {"[1e+]", "column 5: expected a digit, not ']'"},
        {"[.5]", "column 2: expected a value, not '.'"},
        {"[+1]", "column 2: expected a value, not '+'"},
        {"[-1e999]", "column 2: the number is too large"},
        {"[0.1234567890123456789012345678901234567890123456789012345678901234]", "more than 63 characters"},
        {"\"abc", "column 1: the string that begins here has no end"},
        {"\"a\tb\"", "column 3: a string holds the bare control character 0x09"},
        {"\"\\x\"", "column 2: a backslash must be followed by"},
        {"\"\\u12g4\"", "column 2: \\u must be followed by four hexadecimal digits"},
        {"\"\\u12\"", "column 2: \\u must be followed by four hexadecimal digits"},
        {"\"a\\u0000b\"", "column 3: the character \\u0000 cannot be part of a string here"},
        {"\"\\ud83d\"", "column 2: \\ud83d is half of a surrogate pair"},
        {"\"\\ud83d\\u0041\"", "column 2: \\ud83d is half of a surrogate pair"},
        {"\"\\ude00\"", "column 2: \\ude00 is half of a surrogate pair"},
        {"\"\xc3\xa9\xff\"", "column 3: the bytes are not valid UTF-8"},
        {"[\xff]", "column 2: the bytes are not valid UTF-8"},
        {"[\xc3\xa9]", "column 2: expected a value, not the character U+00E9"},
        {"[\x0c]", "column 2: expected a value, not the character U+000C"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cJSON *value = (cJSON *)1;
        assert_int_equal(tn_json_parse(cases[i].text, strlen(cases[i].text), "text", &value), TN_ERROR_FORMAT);
        assert_null(value);
        if (!strstr(tn_error_message(), cases[i].message))
            fail_msg("%s: \"%s\" lacks \"%s\"", cases[i].text, tn_error_message(), cases[i].message);
    }
    cJSON *value;
    assert_int_equal(tn_json_parse("[\0]", 3, "text", &value), TN_ERROR_FORMAT);
}

static void text_needs_no_terminator(void **state) {
    (void)state;
    static const char *const texts[] = {"1", "-1.5e3", "true", "\"a\"", "[1]", "{\"a\":null} ", "[[],{}]"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        size_t length = strlen(texts[i]);
        char *exact = malloc(length);
        memcpy(exact, texts[i], length);
        cJSON *value;
        assert_int_equal(tn_json_parse(exact, length, "text", &value), TN_OK);
        cJSON_Delete(value);
        for (size_t cut = 0; cut + 1 < length; cut++) {
            char *part = malloc(cut ? cut : 1);
            memcpy(part, texts[i], cut);
            if (tn_json_parse(part, cut, "text", &value) == TN_OK)
                cJSON_Delete(value);
            free(part);
        }
        free(exact);
    }
}

static void nesting_ends_at_512(void **state) {
    (void)state;
    char text[2048];
    for (int depth = 512; depth <= 513; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        cJSON *value;
        assert_int_equal(tn_json_parse(text, 2 * (size_t)depth, "text", &value), depth == 512 ? TN_OK : TN_ERROR_FORMAT);
        cJSON_Delete(value);
    }
    assert_string_equal(tn_error_message(), "text, column 513: nested more than 512 deep");
}

static void byte_order_mark_is_skipped(void **state) {
    (void)state;
    cJSON *value = parse("\xef\xbb\xbf{\"a\": 1}");
    assert_prints(value, false, "{\"a\":1}");
    cJSON_Delete(value);
}

static void escapes_become_utf8(void **state) {
    (void)state;
    cJSON *value = parse("\"\\u00e9\\ud83d\\ude00\\n\\\"\\\\\\/\\u001f\\u007f\"");
    assert_string_equal(value->valuestring, "\xc3\xa9\xf0\x9f\x98\x80\n\"\\/\x1f\x7f");
    assert_prints(value, false, "\"\xc3\xa9\xf0\x9f\x98\x80\\n\\\"\\\\/\\u001f\x7f\"");
    cJSON_Delete(value);
}

static void members_are_typed(void **state) {
    (void)state;
    cJSON *object =
        parse("{\"i\":3,\"f\":0.5,\"big\":9007199254740992,\"e\":1e3,\"s\":\"x\",\"b\":true,\"n\":null,\"l\":[]}");
    int64_t integer = -7;
    double real = -7;
    bool flag = false;
    const char *text = "kept";
    assert_int_equal(tn_json_get_int(object, "i", "c.json", 0, 10, &integer), TN_OK);
    assert_int_equal(integer, 3);
    assert_int_equal(tn_json_get_int(object, "e", "c.json", 0, 1000, &integer), TN_OK);
    assert_int_equal(integer, 1000);
    assert_int_equal(tn_json_get_int(object, "absent", "c.json", 0, 10, &integer), TN_OK);
    assert_int_equal(tn_json_get_int(object, "n", "c.json", 0, 10, &integer), TN_OK);
    assert_int_equal(integer, 1000);
    assert_int_equal(tn_json_get_int(object, "i", "c.json", 4, 10, &integer), TN_ERROR_FORMAT);
    assert_string_equal(tn_error_message(), "c.json: 'i' is 3 and must be between 4 and 10");
    assert_int_equal(tn_json_get_int(object, "f", "c.json", 0, 10, &integer), TN_ERROR_FORMAT);
    assert_string_equal(tn_error_message(), "c.json: 'f' must be a whole number, not 0.5");
    assert_int_equal(tn_json_get_int(object, "big", "c.json", 0, INT64_MAX, &integer), TN_ERROR_FORMAT);
    assert_int_equal(tn_json_get_int(object, "s", "c.json", 0, 10, &integer), TN_ERROR_FORMAT);
    assert_int_equal(integer, 1000);
    assert_int_equal(tn_json_get_double(object, "f", "c.json", &real), TN_OK);
    assert_true(real == 0.5);
    assert_int_equal(tn_json_get_double(object, "l", "c.json", &real), TN_ERROR_FORMAT);
    assert_string_equal(tn_error_message(), "c.json: 'l' must be a number, not a list");
    assert_int_equal(tn_json_get_bool(object, "b", "c.json", &flag), TN_OK);
    assert_true(flag);
    assert_int_equal(tn_json_get_bool(object, "i", "c.json", &flag), TN_ERROR_FORMAT);
    assert_string_equal(tn_error_message(), "c.json: 'i' must be true or false, not 3");
    assert_int_equal(tn_json_get_string(object, "n", "c.json", &text), TN_OK);
    assert_string_equal(text, "kept");
    assert_int_equal(tn_json_get_string(object, "s", "c.json", &text), TN_OK);
    assert_string_equal(text, "x");
    assert_int_equal(tn_json_get_string(object, "b", "c.json", &text), TN_ERROR_FORMAT);
    assert_null(tn_json_get(object, "S"));
    assert_null(tn_json_get(object->child, "i"));
    assert_null(tn_json_get(NULL, "i"));
    cJSON_Delete(object);
}

static void duplicate_keys_are_found(void **state) {
    (void)state;
    cJSON *object = parse("{\"a\":1,\"b\":2,\"A\":3,\"b\":4}");
    assert_string_equal(tn_json_duplicate_key(object), "b");
    cJSON_Delete(object);
    object = cJSON_CreateObject();
    char key[16];
    for (int i = 0; i < 10000; i++) {
        snprintf(key, sizeof key, "k%d", i);
        cJSON_AddNullToObject(object, key);
    }
    assert_null(tn_json_duplicate_key(object));
    cJSON_AddNullToObject(object, "k5000");
    assert_string_equal(tn_json_duplicate_key(object), "k5000");
    tn_memory_fail_after(0);
    assert_string_equal(tn_json_duplicate_key(object), "k5000");
    tn_memory_fail_after(-1);
    cJSON_Delete(object);
}

static void indented_text_looks_like_pythons(void **state) {
    (void)state;
    cJSON *value = parse("{\"a\":[1,2.5,[],{}],\"\xc3\xa9\":{\"x\":null,\"y\":false},\"z\":\"\"}");
    assert_prints(value, true,
                  "{\n  \"a\": [\n    1,\n    2.5,\n    [],\n    {}\n  ],\n  \"\xc3\xa9\": {\n    \"x\": null,\n"
                  "    \"y\": false\n  },\n  \"z\": \"\"\n}");
    cJSON_Delete(value);
}

static void numbers_print_with_the_fewest_digits(void **state) {
    (void)state;
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0, "0"},
        {-3, "-3"},
        {0.1, "0.1"},
        {1e-5, "1e-05"},
        {5e-324, "4.94065645841247e-324"},
        {1.0 / 3, "0.3333333333333333"},
        {9007199254740991, "9007199254740991"},
        {1e30, "1e+30"},
        {0.1 + 0.2, "0.30000000000000004"},
        {(double)NAN, "null"},
        {-(double)INFINITY, "null"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cJSON *number = cJSON_CreateNumber(cases[i].value);
        assert_prints(number, false, cases[i].text);
        cJSON_Delete(number);
    }
}

static void every_double_reads_back_the_same(void **state) {
    (void)state;
    tn_rng rng = tn_rng_start(5, 6);
    tn_buf out = {0};
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = (uint64_t)tn_rng_u32(&rng) << 32 | tn_rng_u32(&rng);
        double value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        tn_buf_clear(&out);
        tn_json_print_number(&out, value);
        cJSON *back = parse(tn_buf_text(&out));
        assert_true(back->valuedouble == value);
        cJSON_Delete(back);
    }
    tn_buf_free(&out);
}

static void invalid_utf8_prints_as_replacement_character(void **state) {
    (void)state;
    tn_buf out = {0};
    tn_json_print_string(&out, "a\xff\0z", 4);
    assert_string_equal(tn_buf_text(&out), "\"a\xef\xbf\xbd\\u0000z\"");
    tn_buf_free(&out);
}

static void files_have_a_size_limit(void **state) {
    (void)state;
    char dir[] = "/tmp/tenon-test-XXXXXX", path[TN_PATH_MAX];
    assert_non_null(mkdtemp(dir));
    assert_int_equal(tn_path_join(path, dir, "c.json"), TN_OK);
    assert_int_equal(tn_file_write(path, "[1, 2]", 6), TN_OK);
    cJSON *value;
    assert_int_equal(tn_json_read(path, 6, &value), TN_OK);
    assert_int_equal(cJSON_GetArraySize(value), 2);
    cJSON_Delete(value);
    assert_int_equal(tn_json_read(path, 5, &value), TN_ERROR_FORMAT);
    assert_null(value);
    assert_int_equal(tn_file_write(path, "", 0), TN_OK);
    assert_int_equal(tn_json_read(path, 5, &value), TN_ERROR_FORMAT);
    assert_int_equal(tn_path_remove_tree(dir), TN_OK);
    assert_int_equal(tn_json_read(path, 5, &value), TN_ERROR_IO);
}

static int64_t allowed;

static void *limited_malloc(size_t size) {
    return allowed-- > 0 ? malloc(size) : NULL;
}

static void memory_may_end_anywhere(void **state) {
    (void)state;
    cJSON_Hooks hooks = {.malloc_fn = limited_malloc, .free_fn = free};
    const char *text = "{\"a\": [1, 2.5, {\"b\": \"text\", \"c\": null}], \"d\": true}";
    cJSON_InitHooks(&hooks);
    tn_status status = TN_ERROR_MEMORY;
    for (int64_t count = 0; status != TN_OK; count++) {
        cJSON *value;
        allowed = count;
        status = tn_json_parse(text, strlen(text), "text", &value);
        assert_true(status == TN_ERROR_MEMORY || status == TN_OK);
        assert_true((status == TN_OK) == (value != NULL));
        cJSON_Delete(value);
    }
    cJSON_InitHooks(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_json_is_refused_with_its_place),
        cmocka_unit_test(text_needs_no_terminator),
        cmocka_unit_test(nesting_ends_at_512),
        cmocka_unit_test(byte_order_mark_is_skipped),
        cmocka_unit_test(escapes_become_utf8),
        cmocka_unit_test(members_are_typed),
        cmocka_unit_test(duplicate_keys_are_found),
        cmocka_unit_test(indented_text_looks_like_pythons),
        cmocka_unit_test(numbers_print_with_the_fewest_digits),
        cmocka_unit_test(every_double_reads_back_the_same),
        cmocka_unit_test(invalid_utf8_prints_as_replacement_character),
        cmocka_unit_test(files_have_a_size_limit),
        cmocka_unit_test(memory_may_end_anywhere),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
