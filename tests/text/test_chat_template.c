/* Chat templates: every recorded rendering, the language as Jinja2 3.1 has it, errors and limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "text/chat_template.h"

#ifndef TENON_SOURCE_ROOT
#define TENON_SOURCE_ROOT "."
#endif

/* ---- the recorded renderings ---- */

static const char *data_dir(void) {
    static char path[TN_PATH_MAX];
    const char *shared = getenv("TENON_SHARED");
    snprintf(path, sizeof path, "%s/data/chat_templates", shared ? shared : TENON_SOURCE_ROOT "/../shared");
    return path;
}

/* The text of a file in the folder of recorded renderings; free with tn_free. */
static char *read_data(const char *name) {
    char path[TN_PATH_MAX];
    tn_buf text = {0};
    assert_int_equal(tn_path_join(path, data_dir(), name), TN_OK);
    assert_int_equal(tn_file_read(path, 64 << 20, &text), TN_OK);
    return tn_buf_take(&text);
}

static const cJSON *member(const cJSON *row, const char *key) {
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(row, key);
    return cJSON_IsNull(found) ? NULL : found;
}

static const char *text_of(const cJSON *row, const char *key) {
    return cJSON_GetStringValue(member(row, key));
}

static bool row_matches(const tn_chat_template *chat_template, const cJSON *row) {
    tn_buf text = {0};
    tn_chat_render render = {
        .messages = member(row, "messages"),
        .tools = member(row, "tools"),
        .variables = member(row, "vars"),
        .add_generation_prompt = cJSON_IsTrue(member(row, "add_generation_prompt")),
        .bos_token = text_of(row, "bos_token"),
        .eos_token = text_of(row, "eos_token"),
        .now = text_of(row, "now"),
    };
    tn_status status = tn_chat_template_render(chat_template, &render, &text);
    const char *expected = text_of(row, "text");
    bool matches = expected ? status == TN_OK && strcmp(tn_buf_text(&text), expected) == 0
                            : status == TN_ERROR_ARGUMENT && text.length == 0;
    if (!matches)
        print_message("%s / %s: %s\n got:      %s\n expected: %s\n", text_of(row, "template"), text_of(row, "case"),
                      status == TN_OK ? "differs" : tn_error_message(), tn_buf_text(&text),
                      expected ? expected : "an error");
    tn_buf_free(&text);
    return matches;
}

static void recorded_renderings_are_reproduced_byte_for_byte(void **state) {
    (void)state;
    if (!tn_path_is_dir(data_dir()))
        skip();
    char *rows = read_data("golden.jsonl"), *line = rows, loaded[64] = "";
    tn_chat_template *chat_template = NULL;
    int count = 0, matching = 0;
    while (*line) {
        char *end = strchr(line, '\n');
        if (end)
            *end = 0;
        cJSON *row = cJSON_Parse(line);
        assert_non_null(row);
        const char *name = text_of(row, "template");
        if (strcmp(loaded, name) != 0) {
            char file[96];
            snprintf(loaded, sizeof loaded, "%s", name);
            snprintf(file, sizeof file, "%s.jinja", name);
            char *source = read_data(file);
            tn_chat_template_free(chat_template);
            assert_int_equal(tn_chat_template_parse(source, file, &chat_template), TN_OK);
            tn_free(source);
        }
        count++;
        matching += row_matches(chat_template, row);
        cJSON_Delete(row);
        line = end ? end + 1 : line + strlen(line);
    }
    tn_chat_template_free(chat_template);
    tn_free(rows);
    print_message("%d of %d rows match\n", matching, count);
    assert_int_equal(count, 1596);
    assert_int_equal(matching, count);
}

/* ---- the language ---- */

/* Renders a template with some variables; NULL where it fails. Free with tn_free. */
static char *render(const char *source, const cJSON *variables, tn_status *status) {
    tn_chat_template *chat_template;
    tn_buf text = {0};
    tn_chat_render options = {
        .messages = member(variables, "messages"), .variables = variables, .now = "2026-01-31T13:05:09"};
    *status = tn_chat_template_parse(source, "test", &chat_template);
    if (*status == TN_OK)
        *status = tn_chat_template_render(chat_template, &options, &text);
    if (*status == TN_OK) {
        tn_chat_template_free(chat_template);
        return tn_buf_take(&text);
    }
    assert_int_equal(text.length, 0);
    tn_chat_template_free(chat_template);
    tn_buf_free(&text);
    return NULL;
}

static void templates_render_as_jinja2_renders_them(void **state) {
    (void)state;
    tn_buf file = {0};
    assert_int_equal(tn_file_read(TENON_SOURCE_ROOT "/tests/text/jinja_cases.json", 1 << 20, &file), TN_OK);
    cJSON *all = cJSON_Parse(file.data);
    const cJSON *row;
    int wrong = 0;
    cJSON_ArrayForEach(row, member(all, "cases")) {
        tn_status status;
        char *text = render(text_of(row, "template"), member(all, "variables"), &status);
        const char *expected = text_of(row, "text");
        if (expected ? !text || strcmp(text, expected) != 0 : text != NULL) {
            print_message("%s\n got:      %s\n expected: %s\n", text_of(row, "template"), text ? text : tn_error_message(),
                          expected ? expected : "an error");
            wrong++;
        }
        tn_free(text);
    }
    assert_true(cJSON_GetArraySize(member(all, "cases")) > 200);
    assert_int_equal(wrong, 0);
    cJSON_Delete(all);
    tn_buf_free(&file);
}

static void variables_and_tokens_reach_the_template(void **state) {
    (void)state;
    tn_chat_template *chat_template;
    tn_buf text = {0};
    cJSON *messages = cJSON_Parse("[{\"role\": \"user\", \"content\": \"hi\"}]"),
          *variables = cJSON_Parse("{\"x\": [1, 2.5]}");
    assert_int_equal(tn_chat_template_parse("{{ bos_token }}{{ messages[0].content }}{{ x }}{{ tools }}{{ eos_token }}"
                                            "{{ add_generation_prompt }}{{ strftime_now('%Y') }}",
                                            "t", &chat_template),
                     TN_OK);
    tn_chat_render options = {.messages = messages, .variables = variables, .bos_token = "<s>", .now = "1999-12-31"};
    tn_buf_puts(&text, "before ");
    assert_int_equal(tn_chat_template_render(chat_template, &options, &text), TN_OK);
    assert_string_equal(text.data, "before <s>hi[1, 2.5]NoneFalse1999");
    options.now = "yesterday";
    assert_int_equal(tn_chat_template_render(chat_template, &options, &text), TN_ERROR_ARGUMENT);
    assert_string_equal(text.data, "before <s>hi[1, 2.5]NoneFalse1999");
    tn_chat_template_free(chat_template);
    tn_buf_free(&text);
    cJSON_Delete(messages);
    cJSON_Delete(variables);
}

/* ---- errors ---- */

static void malformed_templates_name_the_line(void **state) {
    (void)state;
    static const struct {
        const char *source, *words;
    } cases[] = {
        {"a\n{% if x %}\nb", "line 3: the template ends, but the \"if\" of line 2 is not closed: \"endif\" is missing"},
        {"{% for x in y %}\n{% endif %}", "line 2: unknown tag \"endif\""},
        {"\n\n{{ a", "line 3: expected \"}}\", found the end of the template"},
        {"{{ a b }}", "line 1: expected \"}}\", found \"b\""},
        {"{{ }}", "line 1: expected an expression, found the end of the tag"},
        {"{% %}", "line 1: expected the name of a tag"},
        {"{{ (1 }}", "line 1: unexpected '}', expected ')'"},
        {"{{ 'abc }}", "line 1: a string is not closed"},
        {"\n{# abc", "line 2: a comment is not closed"},
        {"{% raw %}abc", "line 1: a raw block is not closed"},
        {"{{ x|nothing }}", "line 1: no filter named \"nothing\""},
        {"{{ x is nothing }}", "line 1: no test named \"nothing\""},
        {"{% break %}", "line 1: \"break\" outside of a loop"},
        {"{% include 'x' %}", "line 1: the tag \"include\" is not supported"},
        {"{% set 1 = 2 %}", "line 1: expected a name"},
        {"{% set none = 2 %}", "line 1: cannot assign to \"none\""},
        {"{{ f(a=1, 2) }}", "line 1: invalid order of the arguments"},
        {"{{ \"\\u12\" }}", "line 1: a string holds a malformed escape"},
        {"{{ 99999999999999999999 }}", "line 1: \"99999999999999999999\" is not an integer of 64 bits"},
        {"{{ a \x01 }}", "line 1: unexpected character"},
        {"\xff", "not UTF-8 at byte 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_chat_template *chat_template;
        tn_status status = tn_chat_template_parse(cases[i].source, "name", &chat_template);
        assert_true(status == TN_ERROR_FORMAT || status == TN_ERROR_UNSUPPORTED);
        assert_null(chat_template);
        if (!strstr(tn_error_message(), cases[i].words))
            fail_msg("%s: \"%s\" lacks \"%s\"", cases[i].source, tn_error_message(), cases[i].words);
        assert_non_null(strstr(tn_error_message(), "name"));
    }
}

static void failing_renderings_say_the_templates_words_and_line(void **state) {
    (void)state;
    static const struct {
        const char *source, *words;
    } cases[] = {
        {"{{ raise_exception('roles must alternate') }}", "test line 1: roles must alternate"},
        {"a\nb{{ nothing.at_all }}", "test line 2: 'nothing' is undefined"},
        {"{{ d.a.b.c }}", "'dict object' has no attribute 'b'"},
        {"{{ 'a' + 1 }}", "can only concatenate str (not \"int\") to str"},
        {"{{ 1 < 'a' }}", "'<' not supported between instances of 'int' and 'str'"},
        {"{{ 1 / 0 }}", "division by zero"},
        {"{{ 9223372036854775807 + 1 }}", "an integer needs more than 64 bits"},
        {"{{ d.update({}) }}", "a template may not change lists or dicts"},
        {"{% for a, b in [(1, 2, 3)] %}{% endfor %}", "too many values to unpack (expected 2)"},
        {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "macro 'f' takes not more than 1 argument(s)"},
        {"{{ 'a'.replace('b') }}", "replace() misses an argument: it takes (old new count?)"},
        {"{{ 'a'|trim(x=1) }}", "trim() got an unexpected keyword argument 'x'"},
        {"{{ nothing|tojson }}", "Object of type Undefined is not JSON serializable"},
    };
    cJSON *variables = cJSON_Parse("{\"d\": {\"a\": {}}}");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_status status;
        assert_null(render(cases[i].source, variables, &status));
        assert_int_equal(status, TN_ERROR_ARGUMENT);
        if (!strstr(tn_error_message(), cases[i].words))
            fail_msg("%s: \"%s\" lacks \"%s\"", cases[i].source, tn_error_message(), cases[i].words);
    }
    cJSON_Delete(variables);
}

/* prefix, then `count` times `middle`, then suffix */
static char *repeated(const char *prefix, const char *middle, int count, const char *suffix) {
    tn_buf text = {0};
    tn_buf_puts(&text, prefix);
    for (int i = 0; i < count; i++)
        tn_buf_puts(&text, middle);
    tn_buf_puts(&text, suffix);
    return tn_buf_take(&text);
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *prefix, *middle, *suffix;
    } cases[] = {
        {"{{ ", "(", "1 }}"},
        {"{{ ", "[", "1 }}"},
        {"{{ ", "-", "1 }}"},
        {"{{ ", "f(", "1 }}"},
        {"", "{% if x %}", ""},
        {"", "{% for x in y %}", ""},
        {"{{ 1", " if 1 else 1", " }}"},
        {"{{ x", "[x", "}}"},
        {"{% set ", "(", "x = 1 %}"},
        {"", "{% macro f() %}", ""},
        {"{{ 1", " + 1", " }}"},
        {"{{ x", "|trim", " }}"},
        {"{{ x", ".x", " }}"},
        {"{{ 1", "~ 1 + 1", "}}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_status status;
        char *source = repeated(cases[i].prefix, cases[i].middle, 20000, cases[i].suffix);
        tn_free(render(source, NULL, &status));
        assert_true(status == TN_ERROR_FORMAT || status == TN_ERROR_ARGUMENT);
        tn_free(source);
    }
    char *json = repeated("{\"x\": ", "[", 400, "");
    tn_buf whole = {0};
    tn_buf_puts(&whole, json);
    for (int i = 0; i < 400; i++)
        tn_buf_putc(&whole, ']');
    tn_buf_putc(&whole, '}');
    cJSON *variables = cJSON_Parse(whole.data);
    assert_non_null(variables);
    tn_status status;
    assert_null(render("{{ x }}", variables, &status));
    assert_non_null(strstr(tn_error_message(), "JSON is nested deeper than 200 levels"));
    cJSON_Delete(variables);
    tn_buf_free(&whole);
    tn_free(json);
}

static void hostile_templates_are_stopped(void **state) {
    (void)state;
    static const struct {
        const char *source, *words;
    } cases[] = {
        {"{{ 'a' * 1000000000 }}", "longer than 64 MB"},
        {"{{ 'a'|center(1000000000) }}", "longer than 64 MB"},
        {"{{ '%999999999d' % 1 }}", "too large"},
        {"{{ [0] * 1000000000 }}", "more than 512 MB"},
        {"{{ range(1000000000) }}", "Range too big"},
        {"{% set x = 'a' * 60000000 %}{{ x }}{{ x }}", "longer than 64 MB"},
        {"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "more than 10 million steps"},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "deeper than 200 levels"},
        {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "deeper than 200 levels"},
        {"{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}", "too deeply"},
        {"{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "longer than 64 MB"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_status status;
        assert_null(render(cases[i].source, NULL, &status));
        assert_int_equal(status, TN_ERROR_ARGUMENT);
        if (!strstr(tn_error_message(), cases[i].words))
            fail_msg("%s: \"%s\" lacks \"%s\"", cases[i].source, tn_error_message(), cases[i].words);
    }
}

static void failed_allocations_are_errors_without_leaks(void **state) {
    (void)state;
    const char *source =
        "{% macro f(a, b=[1, {'x': 2}]) %}{{ a ~ b|tojson(indent=2) }}{% endmacro %}"
        "{% for m in ['b', 'a']|sort %}{{ f(m.upper(), *[[m] * 3000]) }}{% set q %}{{ m }}{% endset %}{% endfor %}"
        "{{ 'x' * 100000 }}{{ range(200)|map('string')|join(', ') }}";
    for (int count = 0;; count++) {
        size_t before = tn_memory_used();
        tn_status status;
        tn_memory_fail_after(count);
        char *text = render(source, NULL, &status);
        tn_memory_fail_after(-1);
        tn_free(text);
        assert_int_equal(tn_memory_used(), before);
        if (status == TN_OK)
            break;
        assert_int_equal(status, TN_ERROR_MEMORY);
        assert_true(count < 1000);
    }
}

/* ---- model folders ---- */

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/tenon_chat_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return tn_path_remove_tree(folder) == TN_OK ? 0 : -1;
}

static void put_file(const char *name, const char *text) {
    char path[TN_PATH_MAX];
    assert_int_equal(tn_path_join(path, folder, name), TN_OK);
    assert_int_equal(tn_file_write(path, text, strlen(text)), TN_OK);
}

static void assert_folder_renders(const char *expected) {
    tn_chat_template *chat_template;
    tn_buf text = {0};
    assert_int_equal(tn_chat_template_load(folder, &chat_template), TN_OK);
    assert_non_null(chat_template);
    assert_int_equal(tn_chat_template_render(chat_template, &(tn_chat_render){0}, &text), TN_OK);
    assert_string_equal(tn_buf_text(&text), expected);
    tn_chat_template_free(chat_template);
    tn_buf_free(&text);
}

static void folder_without_template_gives_none(void **state) {
    (void)state;
    tn_chat_template *chat_template = (tn_chat_template *)folder;
    assert_int_equal(tn_chat_template_load(folder, &chat_template), TN_OK);
    assert_null(chat_template);
    put_file("tokenizer_config.json", "{\"bos_token\": \"<s>\", \"chat_template\": null}");
    assert_int_equal(tn_chat_template_load(folder, &chat_template), TN_OK);
    assert_null(chat_template);
}

static void template_is_found_in_every_place(void **state) {
    (void)state;
    put_file("tokenizer_config.json", "{\"chat_template\": \"a{{ bos_token }}{{ eos_token }}\", \"bos_token\": \"<s>\","
                                      " \"eos_token\": {\"content\": \"</s>\", \"lstrip\": false}}");
    assert_folder_renders("a<s></s>");
    put_file("tokenizer_config.json",
             "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"t\"}, {\"name\": \"default\", \"template\": "
             "\"d{{ bos_token }}{{ eos_token }}\"}], \"bos_token\": null}");
    assert_folder_renders("d");
    put_file("special_tokens_map.json", "{\"bos_token\": {\"content\": \"[B]\"}, \"eos_token\": \"[E]\"}");
    assert_folder_renders("d[B][E]");
    put_file("chat_template.jinja", "file {{ eos_token }}\n");
    assert_folder_renders("file [E]");
}

static void broken_folders_are_errors(void **state) {
    (void)state;
    tn_chat_template *chat_template;
    put_file("tokenizer_config.json", "{\"chat_template\": \"\\n{% if %}\"}");
    assert_int_equal(tn_chat_template_load(folder, &chat_template), TN_ERROR_FORMAT);
    assert_null(chat_template);
    assert_non_null(strstr(tn_error_message(), "tokenizer_config.json line 2"));
    put_file("tokenizer_config.json", "{\"chat_template\": ");
    assert_int_equal(tn_chat_template_load(folder, &chat_template), TN_ERROR_FORMAT);
    put_file("chat_template.jinja", "{{ ok }}");
    assert_int_equal(tn_chat_template_load(folder, &chat_template), TN_ERROR_FORMAT);
    assert_null(chat_template);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recorded_renderings_are_reproduced_byte_for_byte),
        cmocka_unit_test(templates_render_as_jinja2_renders_them),
        cmocka_unit_test(variables_and_tokens_reach_the_template),
        cmocka_unit_test(malformed_templates_name_the_line),
        cmocka_unit_test(failing_renderings_say_the_templates_words_and_line),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(hostile_templates_are_stopped),
        cmocka_unit_test(failed_allocations_are_errors_without_leaks),
        cmocka_unit_test_setup_teardown(folder_without_template_gives_none, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(template_is_found_in_every_place, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(broken_folders_are_errors, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
