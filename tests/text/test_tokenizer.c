/* Tokenizers: published files against ids and texts made by the reference library, hostile files, streams. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "format/json.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

/* JSON strings cannot hold NUL here, so the rows' \u0000 travel as this noncharacter, which no row uses. */
static const char nul_escape[] = "\\u0000", nul_stand_in[] = "\\ufdd0", nul_bytes[] = "\xef\xb7\x90";

static const char *shared_folder(void) {
    static char path[TN_PATH_MAX];
    const char *given = getenv("TENON_SHARED");
    snprintf(path, sizeof path, "%s", given ? given : TENON_SOURCE_ROOT "/../shared");
    return path;
}

static void shared_path(char out[TN_PATH_MAX], const char *name) {
    assert_int_equal(tn_path_join(out, shared_folder(), name), TN_OK);
}

static tn_tokenizer *load_shared(const char *name) {
    char path[TN_PATH_MAX], below[256];
    tn_tokenizer *tokenizer = NULL;
    snprintf(below, sizeof below, "data/tokenizers/%s", name);
    shared_path(path, below);
    if (!tn_path_exists(path))
        skip();
    if (tn_tokenizer_load(path, &tokenizer) != TN_OK)
        fail_msg("%s: %s", name, tn_error_message());
    return tokenizer;
}

/* The row's member with every stand-in turned back into a NUL. */
static void row_text(const cJSON *row, const char *key, tn_buf *out) {
    const char *at = tn_json_get(row, key)->valuestring;
    tn_buf_clear(out);
    for (const char *found; (found = strstr(at, nul_bytes)); at = found + 3) {
        tn_buf_append(out, at, (size_t)(found - at));
        tn_buf_putc(out, 0);
    }
    tn_buf_puts(out, at);
}

static bool ids_equal(const tn_ids *ids, const cJSON *expected) {
    size_t i = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, expected) {
        if (i >= ids->count || ids->data[i++] != item->valueint)
            return false;
    }
    return i == ids->count;
}

static bool texts_equal(const tn_buf *a, const tn_buf *b) {
    return a->length == b->length && memcmp(tn_buf_text(a), tn_buf_text(b), a->length) == 0;
}

static bool encodes_to(const tn_tokenizer *t, const tn_buf *text, bool add_special, const cJSON *expected, tn_ids *ids) {
    ids->count = 0;
    assert_int_equal(tn_tokenizer_encode(t, tn_buf_text(text), text->length, add_special, ids), TN_OK);
    return ids_equal(ids, expected);
}

static bool decodes_to(const tn_tokenizer *t, const tn_ids *ids, bool skip_special, const cJSON *row, const char *key) {
    tn_buf expected = {0}, whole = {0}, streamed = {0};
    tn_decode_stream *stream = NULL;
    row_text(row, key, &expected);
    assert_int_equal(tn_tokenizer_decode(t, ids->data, ids->count, skip_special, &whole), TN_OK);
    assert_int_equal(tn_decode_stream_new(t, skip_special, &stream), TN_OK);
    for (int round = 0; round < 2; round++) {
        tn_buf_clear(&streamed);
        for (size_t i = 0; i < ids->count; i++) {
            assert_int_equal(tn_decode_stream_push(stream, ids->data[i], &streamed), TN_OK);
            /* What is out cannot be taken back. */
            assert_true(streamed.length <= whole.length);
            assert_memory_equal(tn_buf_text(&streamed), tn_buf_text(&whole), streamed.length);
        }
        assert_int_equal(tn_decode_stream_finish(stream, &streamed), TN_OK);
        assert_true(texts_equal(&streamed, &whole));
    }
    bool equal = texts_equal(&whole, &expected);
    tn_decode_stream_free(stream);
    tn_buf_free(&expected);
    tn_buf_free(&whole);
    tn_buf_free(&streamed);
    return equal;
}

static bool row_holds(const tn_tokenizer *t, const cJSON *row) {
    tn_buf text = {0};
    tn_ids ids = {0};
    bool holds = true;
    row_text(row, "text", &text);
    if (tn_json_get(row, "ids_special"))
        holds = encodes_to(t, &text, true, tn_json_get(row, "ids_special"), &ids);
    holds = encodes_to(t, &text, false, tn_json_get(row, "ids"), &ids) && holds;
    if (tn_json_get(row, "decoded")) {
        holds = decodes_to(t, &ids, false, row, "decoded") && holds;
        holds = decodes_to(t, &ids, true, row, "decoded_skip") && holds;
    }
    tn_ids_free(&ids);
    tn_buf_free(&text);
    return holds;
}

/* How many rows of a .jsonl file hold; says which do not. */
static void check_rows(const tn_tokenizer *t, const char *name, const char *file, int *rows, int *held) {
    char path[TN_PATH_MAX], below[256];
    tn_buf lines = {0};
    snprintf(below, sizeof below, "data/tokenizers/%s/%s", name, file);
    shared_path(path, below);
    if (!tn_path_exists(path))
        return;
    assert_int_equal(tn_file_read(path, 1 << 26, &lines), TN_OK);
    for (char *escape = lines.data; (escape = strstr(escape, nul_escape));)
        memcpy(escape, nul_stand_in, strlen(nul_stand_in));
    for (char *line = strtok(lines.data, "\n"); line; line = strtok(NULL, "\n")) {
        cJSON *row = NULL;
        if (tn_json_parse(line, strlen(line), path, &row) != TN_OK)
            fail_msg("%s", tn_error_message());
        ++*rows;
        if (row_holds(t, row))
            ++*held;
        else
            print_message("%s %s: %.200s\n", name, file, line);
        cJSON_Delete(row);
    }
    tn_buf_free(&lines);
}

static void every_published_row_holds(void **state) {
    const char *name = *state;
    tn_tokenizer *t = load_shared(name);
    int rows = 0, held = 0;
    check_rows(t, name, "golden.jsonl", &rows, &held);
    check_rows(t, name, "published.jsonl", &rows, &held);
    print_message("%s: %d of %d rows\n", name, held, rows);
    tn_tokenizer_free(t);
    assert_true(rows >= 198);
    assert_int_equal(held, rows);
}

#define PUBLISHED(name)                                                                                                     \
    { "every_published_row_holds: " name, every_published_row_holds, NULL, NULL, (void *)(uintptr_t)name }

int main(void) {
    const struct CMUnitTest tests[] = {
        PUBLISHED("gpt2"),           PUBLISHED("qwen2.5"),      PUBLISHED("qwen3"),        PUBLISHED("llama2"),
        PUBLISHED("llama3"),         PUBLISHED("mistral-v0.3"), PUBLISHED("tok512"),       PUBLISHED("phi-3-mini"),
        PUBLISHED("deepseek-coder"), PUBLISHED("starcoder"),    PUBLISHED("falcon"),       PUBLISHED("gpt-neox-20b"),
        PUBLISHED("command"),        PUBLISHED("minimind"),     PUBLISHED("roberta-base"), PUBLISHED("smolvlm"),
        PUBLISHED("clip"),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
