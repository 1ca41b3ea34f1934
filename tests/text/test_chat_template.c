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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recorded_renderings_are_reproduced_byte_for_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
