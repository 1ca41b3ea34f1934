/* Public data sets with public tokenizers and chat templates: nothing is lost, and the right part is trained. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/dataset.h"
#include "data/jsonl.h"
#include "format/json.h"

static void assert_ok(tn_status status) {
    if (status != TN_OK)
        fail_msg("%s: %s", tn_status_name(status), tn_error_message());
}

static const char *shared(const char *name) {
    static char path[TN_PATH_MAX];
    const char *root = getenv("TENON_SHARED");
    snprintf(path, sizeof path, "%s/data/%s", root ? root : TENON_SOURCE_ROOT "/../shared", name);
    return path;
}

typedef struct totals {
    int64_t count, tokens, labelled;
} totals;

static totals read_shared(const char *tokenizer_name, const char *text_name) {
    char folder_name[128];
    snprintf(folder_name, sizeof folder_name, "tokenizers/%s", tokenizer_name);
    tn_tokenizer *tokenizer;
    tn_chat_template *chat;
    tn_dataset d;
    tn_dataset_stats stats;
    assert_ok(tn_tokenizer_load(shared(folder_name), &tokenizer));
    assert_ok(tn_chat_template_load(shared(folder_name), &chat));
    tn_dataset_options options = {.tokenizer = tokenizer, .chat_template = chat, .now = "2024-07-01"};
    assert_ok(tn_dataset_read(shared(text_name), &options, &d));
    assert_ok(tn_dataset_measure(&d, &stats));
    assert_int_equal(d.cut + d.dropped + d.unlabelled, 0);
    tn_dataset_free(&d);
    tn_chat_template_free(chat);
    tn_tokenizer_free(tokenizer);
    return (totals){stats.count, stats.total, stats.labelled};
}

static void public_data_sets_are_read(void **state) {
    (void)state;
    static const struct {
        const char *tokenizer, *text;
        int64_t count;
    } sets[] = {
        {"gpt2", "text/wikisql/train.jsonl", 1000},
        {"llama2", "text/completions/train.jsonl", 300},
        {"qwen2.5", "text/completions/train.jsonl", 300},
        {"qwen2.5", "text/alpaca/alpaca_en_600.json", 600},
        {"qwen2.5", "text/chat/train.jsonl", 400},
        {"qwen2.5", "text/chat/multi_turn.jsonl", 200},
        {"qwen2.5", "text/chat/tools.jsonl", 120},
        {"qwen3", "text/chat/multi_turn.jsonl", 200},
        {"qwen3", "text/chat/tools.jsonl", 120},
        {"phi-3-mini", "text/chat/multi_turn.jsonl", 200},
        {"minimind", "text/alpaca/alpaca_zh_150.json", 150},
    };
    if (!tn_path_is_dir(shared("tokenizers")))
        skip();
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        totals t = read_shared(sets[i].tokenizer, sets[i].text);
        print_message("%s with %s: %ld samples, %ld tokens, %ld trained\n", sets[i].text, sets[i].tokenizer, (long)t.count,
                      (long)t.tokens, (long)t.labelled);
        assert_int_equal(t.count, sets[i].count);
        assert_true(t.labelled > 5 * t.count && t.labelled < t.tokens);
    }
}

static const char *string_of(const cJSON *object, const char *key) {
    const cJSON *value = tn_json_get(object, key);
    assert_true(cJSON_IsString(value));
    return value->valuestring;
}

/* Whatever the tokenizer does with spaces, the tokens say prompt + completion, and the trained ones the completion. */
static void trained_tokens_of_public_prompts_say_the_completion(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2",         "qwen2.5",    "llama3",   "llama2",
                                        "mistral-v0.3", "phi-3-mini", "minimind", "tok512"};
    if (!tn_path_is_dir(shared("tokenizers")))
        skip();
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
        char name[128];
        snprintf(name, sizeof name, "tokenizers/%s", names[n]);
        tn_tokenizer *tokenizer;
        tn_dataset d;
        tn_jsonl rows;
        tn_buf expected = {0}, got = {0};
        assert_ok(tn_tokenizer_load(shared(name), &tokenizer));
        tn_dataset_options options = {.tokenizer = tokenizer, .keep_text = true};
        assert_ok(tn_dataset_read(shared("text/completions/valid.jsonl"), &options, &d));
        assert_ok(tn_jsonl_open(&rows, shared("text/completions/valid.jsonl")));
        for (int64_t i = 0; i < d.count; i++) {
            assert_ok(tn_jsonl_next(&rows));
            const char *prompt = string_of(rows.row, "prompt"), *completion = string_of(rows.row, "completion");
            assert_string_equal(d.prompts[i], prompt);
            assert_string_equal(d.completions[i], completion);
            tn_buf_clear(&expected);
            tn_buf_printf(&expected, "%s%s", prompt, completion);
            tn_buf_clear(&got);
            assert_ok(
                tn_tokenizer_decode(tokenizer, d.ids + d.starts[i], (size_t)(d.starts[i + 1] - d.starts[i]), true, &got));
            assert_string_equal(tn_buf_text(&got), tn_buf_text(&expected));
        }
        tn_buf_free(&expected);
        tn_buf_free(&got);
        tn_jsonl_close(&rows);
        tn_dataset_free(&d);
        tn_tokenizer_free(tokenizer);
    }
}

static void append_without_spaces(tn_buf *out, const char *text) {
    for (; *text; text++)
        if (*text != ' ' && *text != '\n')
            tn_buf_putc(out, *text);
}

/* What assistants say in `row`, each turn followed by `end`, without spaces: some templates trim or add them. */
static void append_answers(tn_buf *out, const cJSON *row, const char *end) {
    const cJSON *message;
    cJSON_ArrayForEach(message, tn_json_get(row, "messages")) {
        if (strcmp(string_of(message, "role"), "assistant") == 0) {
            append_without_spaces(out, string_of(message, "content"));
            append_without_spaces(out, end);
        }
    }
}

static void check_conversations(const char *name, const char *end, const char *last_end) {
    char folder[128];
    snprintf(folder, sizeof folder, "tokenizers/%s", name);
    tn_tokenizer *tokenizer;
    tn_chat_template *chat;
    tn_dataset d;
    tn_jsonl rows;
    tn_buf expected = {0}, decoded = {0}, got = {0};
    tn_ids trained = {0};
    assert_ok(tn_tokenizer_load(shared(folder), &tokenizer));
    assert_ok(tn_chat_template_load(shared(folder), &chat));
    tn_dataset_options options = {.tokenizer = tokenizer, .chat_template = chat};
    assert_ok(tn_dataset_read(shared("text/chat/multi_turn.jsonl"), &options, &d));
    assert_ok(tn_jsonl_open(&rows, shared("text/chat/multi_turn.jsonl")));
    for (int64_t i = 0; i < d.count; i++) {
        assert_ok(tn_jsonl_next(&rows));
        tn_buf_clear(&expected);
        append_answers(&expected, rows.row, end);
        append_without_spaces(&expected, last_end);
        trained.count = 0;
        for (int64_t t = d.starts[i]; t < d.starts[i + 1]; t++)
            if (d.labels[t] != TN_LABEL_IGNORED)
                assert_ok(tn_ids_push(&trained, d.labels[t]));
        tn_buf_clear(&decoded);
        tn_buf_clear(&got);
        assert_ok(tn_tokenizer_decode(tokenizer, trained.data, trained.count, false, &decoded));
        append_without_spaces(&got, tn_buf_text(&decoded));
        assert_string_equal(tn_buf_text(&got), tn_buf_text(&expected));
    }
    tn_buf_free(&expected);
    tn_buf_free(&decoded);
    tn_buf_free(&got);
    tn_ids_free(&trained);
    tn_jsonl_close(&rows);
    tn_dataset_free(&d);
    tn_chat_template_free(chat);
    tn_tokenizer_free(tokenizer);
}

static void trained_tokens_of_public_conversations_say_the_answers(void **state) {
    (void)state;
    if (!tn_path_is_dir(shared("tokenizers")))
        skip();
    check_conversations("qwen2.5", "<|im_end|>", "");
    check_conversations("phi-3-mini", "<|end|>", "<|endoftext|>");
    check_conversations("llama3", "<|eot_id|>", "");
    check_conversations("minimind", "<|im_end|>", "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(public_data_sets_are_read),
        cmocka_unit_test(trained_tokens_of_public_prompts_say_the_completion),
        cmocka_unit_test(trained_tokens_of_public_conversations_say_the_answers),
    };
    return cmocka_run_group_tests_name("public_data", tests, NULL, NULL);
}
