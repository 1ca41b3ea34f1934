/* Tokenizers of GGUF files: published vocabularies against ids of the original tokenizers, tokenizers written and read
 * again, and metadata that is no tokenizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "text/gguf_tokenizer.h"
#include "text/tokenizer.h"

static const char *scratch(void) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/tenon-gguf-tokenizer-%d.gguf", (int)getpid());
    return path;
}

static int remove_scratch(void **state) {
    (void)state;
    unlink(scratch());
    return 0;
}

static void must(tn_status status) {
    if (status != TN_OK)
        fail_msg("%s", tn_error_message());
}

static void assert_fails(tn_status status, tn_status want, const char *words) {
    if (status != want || !strstr(tn_error_message(), words))
        fail_msg("wanted %s '%s', got %s '%s'", tn_status_name(want), words, tn_status_name(status), tn_error_message());
}

/* A path among the shared data; the test is skipped where they are not. */
static const char *shared(const char *format, const char *name) {
    static char path[TN_PATH_MAX];
    char below[256];
    const char *dir = getenv("TENON_SHARED");
    snprintf(below, sizeof below, format, name);
    must(tn_path_join(path, dir ? dir : TENON_SOURCE_ROOT "/../shared", below));
    if (!tn_path_exists(path))
        skip();
    return path;
}

static bool encodes_to(const tn_tokenizer *t, const char *text, size_t length, bool special, const cJSON *want) {
    tn_ids ids = {0};
    size_t at = 0;
    const cJSON *id;
    must(tn_tokenizer_encode(t, text, length, special, &ids));
    bool same = ids.count == (size_t)cJSON_GetArraySize(want);
    for (id = want->child; id && same; id = id->next)
        same = ids.data[at++] == id->valueint;
    tn_ids_free(&ids);
    return same;
}

/* How many of llama.cpp's texts get the ids that its files give. */
static void vocabulary_agrees(const char *name) {
    static const char separator[] = "\n__ggml_vocab_test__\n";
    tn_buf texts = {0}, lines = {0};
    tn_tokenizer *tokenizer;
    int checked = 0;
    must(tn_tokenizer_load(shared("data/gguf/ggml-vocab-%s.gguf", name), &tokenizer));
    must(tn_file_read(shared("data/gguf/ggml-vocab-%s.gguf.inp", name), 1 << 20, &texts));
    must(tn_file_read(shared("data/gguf/ggml-vocab-%s.gguf.out", name), 1 << 20, &lines));
    const char *text = texts.data, *line = lines.data;
    for (; text && *line; checked++) {
        const char *end = strstr(text, separator), *line_end = strchr(line, '\n');
        cJSON *want = cJSON_CreateArray();
        for (char *at = (char *)(uintptr_t)line; at < line_end;) {
            char *next;
            long id = strtol(at, &next, 10);
            if (next == at || next > line_end)
                break;
            cJSON_AddItemToArray(want, cJSON_CreateNumber((double)id));
            at = next;
        }
        size_t length = end ? (size_t)(end - text) : strlen(text);
        if (!encodes_to(tokenizer, text, length, false, want))
            fail_msg("%s: '%.*s' gets other ids", name, (int)length, text);
        cJSON_Delete(want);
        text = end ? end + strlen(separator) : NULL;
        line = line_end + 1;
    }
    assert_true(checked > 40);
    tn_tokenizer_free(tokenizer);
    tn_buf_free(&texts);
    tn_buf_free(&lines);
}

static void published_vocabulary_gives_the_original_ids(void **state) {
    static const char *const names[] = {"gpt-2", "llama-spm", "deepseek-coder", "starcoder", "phi-3"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        vocabulary_agrees(names[i]);
}

static void other_kind_of_tokenizer_is_refused_by_name(void **state) {
    tn_tokenizer *tokenizer;
    (void)state;
    assert_fails(tn_tokenizer_load(shared("data/gguf/ggml-vocab-%s.gguf", "bert-bge"), &tokenizer), TN_ERROR_UNSUPPORTED,
                 "'bert'");
}

/* Writes the tokenizer of a folder as GGUF metadata. */
static tn_status write_tokenizer(const char *dir, const tn_tokenizer *tokenizer) {
    enum { LIMIT = 256 << 20 };
    char path[TN_PATH_MAX];
    cJSON *json = NULL;
    tn_gguf_writer *writer;
    const tn_gguf_tokenizer_roles roles = {.bos = tn_tokenizer_bos(tokenizer),
                                           .eos = tn_tokenizer_eos(tokenizer),
                                           .unknown = tn_tokenizer_id(tokenizer, "<unk>"),
                                           .pad = tn_tokenizer_pad(tokenizer),
                                           .adds_bos = tn_tokenizer_adds_bos(tokenizer)};
    must(tn_path_join(path, dir, "tokenizer.json"));
    must(tn_json_read(path, LIMIT, &json));
    must(tn_gguf_writer_new(&writer, scratch()));
    tn_status status =
        tn_gguf_write_tokenizer(writer, json, NULL, &roles, tn_tokenizer_vocab_size(tokenizer) + 3, "tokenizer.json");
    if (status == TN_OK) {
        if (roles.bos >= 0)
            must(tn_gguf_writer_integer(writer, "tokenizer.ggml.bos_token_id", TN_GGUF_U32, roles.bos));
        if (roles.eos >= 0)
            must(tn_gguf_writer_integer(writer, "tokenizer.ggml.eos_token_id", TN_GGUF_U32, roles.eos));
        must(tn_gguf_writer_begin(writer));
        must(tn_gguf_writer_finish(writer));
    } else {
        tn_gguf_writer_abort(writer);
    }
    cJSON_Delete(json);
    return status;
}

/* The rows that the reference library made; `special` where the file has the bos token that the tokenizer adds. */
static void rows_agree(const char *name, const tn_tokenizer *tokenizer, bool special) {
    tn_buf text = {0};
    int checked = 0;
    must(tn_file_read(shared("data/tokenizers/%s/golden.jsonl", name), 64 << 20, &text));
    for (char *line = text.data, *end; line && *line; line = end ? end + 1 : NULL) {
        cJSON *row;
        if ((end = strchr(line, '\n')))
            *end = 0;
        if (strstr(line, "\\u0000")) /* our JSON has no NUL in strings */
            continue;
        must(tn_json_parse(line, strlen(line), "golden.jsonl", &row));
        const char *words = tn_json_get(row, "text")->valuestring;
        if (!encodes_to(tokenizer, words, strlen(words), false, tn_json_get(row, "ids")) ||
            (special && !encodes_to(tokenizer, words, strlen(words), true, tn_json_get(row, "ids_special"))))
            fail_msg("%s: '%s' gets other ids", name, words);
        cJSON_Delete(row);
        checked++;
    }
    assert_true(checked > 150);
    tn_buf_free(&text);
}

static void tokenizer_written_as_metadata_reads_back_the_same(void **state) {
    static const char *const names[] = {"tok512",  "llama2", "gpt2",           "minimind",
                                        "qwen2.5", "llama3", "deepseek-coder", "smolvlm"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tn_tokenizer *original, *again;
        char dir[TN_PATH_MAX];
        snprintf(dir, sizeof dir, "%s", shared("data/tokenizers/%s", names[i]));
        must(tn_tokenizer_load(dir, &original));
        must(write_tokenizer(dir, original));
        must(tn_tokenizer_load(scratch(), &again));
        assert_int_equal(tn_tokenizer_vocab_size(again), tn_tokenizer_vocab_size(original) + 3);
        assert_int_equal(tn_tokenizer_bos(again), tn_tokenizer_bos(original));
        assert_int_equal(tn_tokenizer_eos(again), tn_tokenizer_eos(original));
        for (int32_t id = 0; id < tn_tokenizer_vocab_size(original); id++)
            if (tn_tokenizer_token(original, id))
                assert_string_equal(tn_tokenizer_token(again, id), tn_tokenizer_token(original, id));
        rows_agree(names[i], again, tn_tokenizer_bos(original) >= 0);
        tn_tokenizer_free(original);
        tn_tokenizer_free(again);
    }
}

static void tokenizer_without_a_counterpart_is_not_written(void **state) {
    static const char *const names[] = {"falcon", "gpt-neox-20b", "command", "clip"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tn_tokenizer *original;
        char dir[TN_PATH_MAX];
        snprintf(dir, sizeof dir, "%s", shared("data/tokenizers/%s", names[i]));
        must(tn_tokenizer_load(dir, &original));
        assert_fails(write_tokenizer(dir, original), TN_ERROR_UNSUPPORTED, "no counterpart in GGUF");
        tn_tokenizer_free(original);
    }
}

/* The bundled file of a trained model, whose prompt is a known text. */
static void bundled_file_encodes_a_known_text(void **state) {
    static const int32_t expected[] = {1, 403, 407, 261, 378, 432};
    static const char text[] = "Once upon a time,";
    tn_tokenizer *tokenizer;
    tn_ids ids = {0};
    tn_buf back = {0};
    (void)state;
    must(tn_tokenizer_load(TENON_SOURCE_ROOT "/tests/golden_quant/gguf_stories_q4_0/base", &tokenizer));
    must(tn_tokenizer_encode(tokenizer, text, strlen(text), true, &ids));
    assert_int_equal(ids.count, 6);
    assert_memory_equal(ids.data, expected, sizeof expected);
    must(tn_tokenizer_decode(tokenizer, ids.data, ids.count, true, &back));
    assert_string_equal(tn_buf_text(&back), text);
    assert_int_equal(tn_tokenizer_bos(tokenizer), 1);
    assert_int_equal(tn_tokenizer_eos(tokenizer), 2);
    tn_ids_free(&ids);
    tn_buf_free(&back);
    tn_tokenizer_free(tokenizer);
}

/* A vocabulary of a few tokens, and what to spoil in it. */
typedef struct small {
    const char *model, *pre;
    const char *tokens[12];
    int32_t types[12];
    float scores[12];
    const char *merges[6];
    const char *chat_template;
    bool no_scores, no_merges;
    int type_count; /* 0: as many as tokens */
} small;

static const small bpe = {.model = "gpt2",
                          .pre = "llama-bpe",
                          .tokens = {"a", "b", "c", "ab", "abc", "<s>", "<tool>"},
                          .types = {1, 1, 1, 1, 1, 3, 4},
                          .merges = {"a b"}};
static const small spm = {.model = "llama",
                          .tokens = {"<unk>", "<s>", "</s>", "<0x61>", "\xe2\x96\x81", "b", "c", "bc",
                                     "\xe2\x96\x81"
                                     "b"},
                          .types = {2, 3, 3, 6, 1, 1, 1, 1, 1},
                          .scores = {0, 0, 0, 0, -3, -4, -5, -2, -1}};

static void put_strings(tn_gguf_writer *writer, const char *key, const char *const *strings, int count) {
    tn_gguf_string list[12];
    for (int i = 0; i < count; i++)
        list[i] = (tn_gguf_string){strings[i], strlen(strings[i])};
    must(tn_gguf_writer_value(
        writer, &(tn_gguf_value){.key = key, .kind = TN_GGUF_STRING, .is_array = true, .count = count, .strings = list}));
}

static void write_small(const small *s) {
    tn_gguf_writer *writer;
    int tokens = 0, merges = 0;
    while (tokens < 12 && s->tokens[tokens])
        tokens++;
    while (merges < 6 && s->merges[merges])
        merges++;
    must(tn_gguf_writer_new(&writer, scratch()));
    if (s->model)
        must(tn_gguf_writer_string(writer, "tokenizer.ggml.model", s->model));
    if (s->pre)
        must(tn_gguf_writer_string(writer, "tokenizer.ggml.pre", s->pre));
    put_strings(writer, "tokenizer.ggml.tokens", s->tokens, tokens);
    if (!s->no_merges)
        put_strings(writer, "tokenizer.ggml.merges", s->merges, merges);
    must(tn_gguf_writer_value(writer, &(tn_gguf_value){.key = "tokenizer.ggml.token_type",
                                                       .kind = TN_GGUF_I32,
                                                       .is_array = true,
                                                       .count = s->type_count ? s->type_count : tokens,
                                                       .elements = s->types}));
    if (!s->no_scores)
        must(tn_gguf_writer_value(writer, &(tn_gguf_value){.key = "tokenizer.ggml.scores",
                                                           .kind = TN_GGUF_F32,
                                                           .is_array = true,
                                                           .count = tokens,
                                                           .elements = s->scores}));
    if (s->chat_template)
        must(tn_gguf_writer_string(writer, "tokenizer.chat_template", s->chat_template));
    must(tn_gguf_writer_integer(writer, "tokenizer.ggml.bos_token_id", TN_GGUF_U32, 5));
    must(tn_gguf_writer_begin(writer));
    must(tn_gguf_writer_finish(writer));
}

static void small_gives(const small *s, const char *text, bool special, const char *expected) {
    tn_tokenizer *tokenizer;
    cJSON *want;
    write_small(s);
    must(tn_tokenizer_load(scratch(), &tokenizer));
    must(tn_json_parse(expected, strlen(expected), "expected", &want));
    if (!encodes_to(tokenizer, text, strlen(text), special, want))
        fail_msg("'%s' is not %s", text, expected);
    cJSON_Delete(want);
    tn_tokenizer_free(tokenizer);
}

static void kind_of_pre_tokenizer_decides_on_whole_words_and_bos(void **state) {
    small other = bpe;
    (void)state;
    small_gives(&bpe, "abc", false, "[4]"); /* a token, though no merge makes it */
    small_gives(&bpe, "abca", false, "[3, 2, 0]");
    small_gives(&bpe, "a<tool>b<s>", false, "[0, 6, 1, 5]");
    small_gives(&bpe, "a", true, "[5, 0]");
    other.pre = "gpt-2";
    small_gives(&other, "abc", false, "[3, 2]");
    small_gives(&other, "a", true, "[0]");
    other.pre = NULL; /* as "default" */
    small_gives(&other, "abc", false, "[3, 2]");
}

static void best_score_is_merged_first(void **state) {
    (void)state;
    small_gives(&spm, "bc", false, "[8, 6]"); /* "_b" before "bc" */
    small_gives(&spm, "cbc", false, "[4, 6, 7]");
    small_gives(&spm, "a", false, "[4, 3]");
    small_gives(&spm, "d", false, "[4, 0]");
    small_gives(&spm, "b</s>b", false, "[8, 2, 8]"); /* every stretch of text begins with a space */
}

static void chat_template_comes_along(void **state) {
    small with = bpe;
    cJSON *json, *config;
    (void)state;
    with.chat_template = "{{ bos_token }}";
    write_small(&with);
    must(tn_gguf_tokenizer_read(scratch(), &json, &config));
    assert_string_equal(tn_json_get(config, "chat_template")->valuestring, "{{ bos_token }}");
    assert_string_equal(tn_json_get(config, "bos_token")->valuestring, "<s>");
    cJSON_Delete(json);
    cJSON_Delete(config);
}

static void check_refused(small s, tn_status status, const char *words) {
    tn_tokenizer *tokenizer;
    size_t used = tn_memory_used();
    write_small(&s);
    assert_fails(tn_tokenizer_load(scratch(), &tokenizer), status, words);
    assert_int_equal(tn_memory_used(), used);
}

static void spoiled_metadata_is_refused(void **state) {
    small s = bpe;
    (void)state;
    s.model = NULL;
    check_refused(s, TN_ERROR_UNSUPPORTED, "holds no tokenizer");
    s = bpe;
    s.pre = "klingon";
    check_refused(s, TN_ERROR_UNSUPPORTED, "known are default, llama-bpe");
    s = bpe;
    s.no_merges = true;
    check_refused(s, TN_ERROR_FORMAT, "tokenizer.ggml.merges");
    s = bpe;
    s.merges[0] = "a x";
    check_refused(s, TN_ERROR_FORMAT, "'x'");
    s.merges[0] = "ab";
    check_refused(s, TN_ERROR_FORMAT, "merge 0");
    s = bpe;
    s.tokens[1] = "a";
    check_refused(s, TN_ERROR_FORMAT, "'a' occurs twice");
    s.tokens[1] = "\xff";
    check_refused(s, TN_ERROR_FORMAT, "token 1 of the tokenizer is not valid UTF-8");
    s = bpe;
    s.type_count = 3;
    check_refused(s, TN_ERROR_FORMAT, "tokenizer.ggml.token_type");
    s = spm;
    s.no_scores = true;
    check_refused(s, TN_ERROR_FORMAT, "tokenizer.ggml.scores");
    s = spm;
    s.scores[7] = NAN;
    check_refused(s, TN_ERROR_UNSUPPORTED, "token 7");
    s = spm;
    s.tokens[6] = "b";
    check_refused(s, TN_ERROR_FORMAT, "'b'");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_vocabulary_gives_the_original_ids),
        cmocka_unit_test(other_kind_of_tokenizer_is_refused_by_name),
        cmocka_unit_test(tokenizer_written_as_metadata_reads_back_the_same),
        cmocka_unit_test(tokenizer_without_a_counterpart_is_not_written),
        cmocka_unit_test(bundled_file_encodes_a_known_text),
        cmocka_unit_test(kind_of_pre_tokenizer_decides_on_whole_words_and_bos),
        cmocka_unit_test(best_score_is_merged_first),
        cmocka_unit_test(chat_template_comes_along),
        cmocka_unit_test(spoiled_metadata_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, remove_scratch);
}
