/* Tokenizers: published files against ids and texts made by the reference library, hostile files, streams. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
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

/* A small byte-level tokenizer in the ways a file can go wrong: `model` and `rest` are put into it. */
static tn_status parse_with(const char *vocab, const char *merges, const char *rest, tn_tokenizer **out) {
    tn_buf json = {0};
    tn_buf_printf(&json, "{\"version\": \"1.0\", %s \"model\": {\"type\": \"BPE\", \"vocab\": %s, \"merges\": %s}}", rest,
                  vocab, merges);
    tn_status status = tn_tokenizer_parse(tn_buf_text(&json), json.length, "test.json", out);
    tn_buf_free(&json);
    return status;
}

static const char small_vocab[] = "{\"a\": 0, \"b\": 1, \"c\": 2, \"ab\": 3, \"abc\": 4, \"bc\": 5}";

static void assert_ids(const tn_tokenizer *t, const char *text, size_t count, const int32_t *expected) {
    tn_ids ids = {0};
    assert_int_equal(tn_tokenizer_encode(t, text, strlen(text), false, &ids), TN_OK);
    if (ids.count != count || (count && memcmp(ids.data, expected, count * sizeof *expected) != 0)) {
        print_message("'%s' gave", text);
        for (size_t i = 0; i < ids.count; i++)
            print_message(" %d", (int)ids.data[i]);
        fail_msg("; %zu other ids were expected", count);
    }
    tn_ids_free(&ids);
}

#define ASSERT_IDS(tokenizer, text, ...)                                                                                    \
    assert_ids(tokenizer, text, sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t), (int32_t[]){__VA_ARGS__})

static void malformed_files_are_errors_that_say_what_is_wrong(void **state) {
    (void)state;
    static const struct {
        const char *vocab, *merges, *rest, *words;
        tn_status status;
    } cases[] = {
        {"[]", "[]", "", "must be an object", TN_ERROR_FORMAT},
        {"{\"a\": -1}", "[]", "", "'a' must be a whole number", TN_ERROR_FORMAT},
        {"{\"a\": 1.5}", "[]", "", "'a' must be a whole number", TN_ERROR_FORMAT},
        {"{\"a\": 4000000000}", "[]", "", "'a' must be a whole number", TN_ERROR_FORMAT},
        {"{\"a\": \"x\"}", "[]", "", "'a' must be a whole number", TN_ERROR_FORMAT},
        {"{\"a\": 0, \"b\": 0}", "[]", "", "two tokens, 'a' and 'b'", TN_ERROR_FORMAT},
        {"{\"a\": 0, \"a\": 1}", "[]", "", "occurs twice", TN_ERROR_FORMAT},
        {"{\"a\": 0}", "{}", "", "\"merges\" must be a list", TN_ERROR_FORMAT},
        {"{\"a\": 0}", "[\"a\"]", "", "merge 0 must be two tokens", TN_ERROR_FORMAT},
        {"{\"a\": 0}", "[\"a b c\"]", "", "merge 0 must be two tokens", TN_ERROR_FORMAT},
        {"{\"a\": 0}", "[[\"a\", 1]]", "", "merge 0 must be two tokens", TN_ERROR_FORMAT},
        {"{\"a\": 0}", "[\"a z\"]", "", "names 'z'", TN_ERROR_FORMAT},
        {"{\"a\": 0}", "[\"a a\"]", "", "makes 'aa'", TN_ERROR_FORMAT},
        {small_vocab, "[]", "\"added_tokens\": [{\"content\": \"a\", \"id\": 9}],", "'a' has two ids", TN_ERROR_FORMAT},
        {small_vocab, "[]", "\"added_tokens\": [{\"content\": \"z\", \"id\": 0}],", "two tokens, 'a' and 'z'",
         TN_ERROR_FORMAT},
        {small_vocab, "[]", "\"added_tokens\": [{\"id\": 0}],", "lacks \"content\"", TN_ERROR_FORMAT},
        {small_vocab, "[]", "\"added_tokens\": {},", "must be a list", TN_ERROR_FORMAT},
        {small_vocab, "[]", "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}},", "'('",
         TN_ERROR_FORMAT},
        {small_vocab, "[]", "\"pre_tokenizer\": {\"type\": \"Split\"},", "\"pattern\" must be", TN_ERROR_FORMAT},
        {small_vocab, "[]", "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a&&b]\"}},",
         "set operations", TN_ERROR_UNSUPPORTED},
        {small_vocab, "[]", "\"pre_tokenizer\": {\"type\": \"UnicodeScripts\"},",
         "'UnicodeScripts' is not supported (supported: ", TN_ERROR_UNSUPPORTED},
        {small_vocab, "[]", "\"normalizer\": {\"type\": \"Precompiled\"},",
         "'Precompiled' is not supported (supported: ", TN_ERROR_UNSUPPORTED},
        {small_vocab, "[]", "\"post_processor\": {\"type\": \"Odd\"},",
         "'Odd' is not supported (supported: ", TN_ERROR_UNSUPPORTED},
        {small_vocab, "[]", "\"decoder\": {\"type\": \"CTC\"},",
         "'CTC' is not supported (supported: ", TN_ERROR_UNSUPPORTED},
        {small_vocab, "[]", "\"decoder\": [1],", "must be an object with a \"type\"", TN_ERROR_FORMAT},
        {small_vocab, "[]", "\"post_processor\": {\"type\": \"BertProcessing\", \"cls\": [\"z\", 77], \"sep\": [\"a\", 0]},",
         "an id that no token has", TN_ERROR_FORMAT},
    };
    size_t used = tn_memory_used();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_tokenizer *t = NULL;
        assert_int_equal(parse_with(cases[i].vocab, cases[i].merges, cases[i].rest, &t), cases[i].status);
        assert_null(t);
        if (!strstr(tn_error_message(), cases[i].words) || !strstr(tn_error_message(), "test.json"))
            fail_msg("case %zu: '%s' lacks '%s'", i, tn_error_message(), cases[i].words);
    }
    assert_int_equal(tn_memory_used(), used);
}

static void unsupported_models_are_named(void **state) {
    (void)state;
    static const char *const models[][2] = {
        {"{\"model\": {\"type\": \"WordPiece\", \"vocab\": {}}}", "'WordPiece' is not supported (supported: BPE)"},
        {"{\"model\": {\"unk_id\": 2, \"vocab\": [[\"a\", 0]]}}", "'Unigram' is not supported"},
        {"{\"version\": \"2.0\", \"model\": {\"type\": \"BPE\"}}", "version '2.0' is not supported"},
    };
    for (size_t i = 0; i < 3; i++) {
        tn_tokenizer *t = NULL;
        assert_int_equal(tn_tokenizer_parse(models[i][0], strlen(models[i][0]), "x", &t), TN_ERROR_UNSUPPORTED);
        assert_non_null(strstr(tn_error_message(), models[i][1]));
    }
}

static void deep_sequences_are_refused(void **state) {
    (void)state;
    static const char *const parts[][2] = {{"normalizer", "normalizers"},
                                           {"pre_tokenizer", "pretokenizers"},
                                           {"post_processor", "processors"},
                                           {"decoder", "decoders"}};
    for (int p = 0; p < 4; p++) {
        tn_buf rest = {0};
        tn_tokenizer *t = NULL;
        tn_buf_printf(&rest, "\"%s\": ", parts[p][0]);
        for (int i = 0; i < 200; i++)
            tn_buf_printf(&rest, "{\"type\": \"Sequence\", \"%s\": [", parts[p][1]);
        for (int i = 0; i < 200; i++)
            tn_buf_puts(&rest, "]}");
        tn_buf_putc(&rest, ',');
        assert_int_equal(parse_with(small_vocab, "[]", tn_buf_text(&rest), &t), TN_ERROR_FORMAT);
        tn_buf_free(&rest);
    }
}

static void lowest_rank_merges_first_and_leftmost_on_ties(void **state) {
    (void)state;
    tn_tokenizer *t = NULL;
    assert_int_equal(parse_with(small_vocab, "[[\"b\", \"c\"], [\"a\", \"b\"], [\"ab\", \"c\"]]", "", &t), TN_OK);
    ASSERT_IDS(t, "abc", 0, 5);
    ASSERT_IDS(t, "abab", 3, 3);
    ASSERT_IDS(t, "zabz", 3);
    tn_tokenizer_free(t);
    assert_int_equal(parse_with("{\"a\": 0, \"aa\": 1}", "[\"a a\"]", "", &t), TN_OK);
    ASSERT_IDS(t, "aaa", 1, 0);
    tn_tokenizer_free(t);
}

static void added_tokens_match_longest_and_take_their_blanks(void **state) {
    (void)state;
    tn_tokenizer *t = NULL;
    assert_int_equal(
        parse_with(small_vocab, "[]",
                   "\"added_tokens\": [{\"content\": \"<x\", \"id\": 10, \"normalized\": false},"
                   "{\"content\": \"<x>\", \"id\": 11, \"normalized\": false, \"lstrip\": true, \"rstrip\": true},"
                   "{\"content\": \"cab\", \"id\": 12, \"normalized\": false, \"single_word\": true},"
                   "{\"content\": \"QQ\", \"id\": 13, \"normalized\": true}],"
                   "\"normalizer\": {\"type\": \"Lowercase\"},",
                   &t),
        TN_OK);
    ASSERT_IDS(t, "a<x>b", 0, 11, 1);
    ASSERT_IDS(t, "a \n<x>\t b", 0, 11, 1);
    ASSERT_IDS(t, "a<xb", 0, 10, 1);
    ASSERT_IDS(t, "cab", 12);
    ASSERT_IDS(t, "cab cabb acab", 12, 2, 0, 1, 1, 0, 2, 0, 1);
    ASSERT_IDS(t, "aqQb", 0, 13, 1);
    assert_int_equal(tn_tokenizer_vocab_size(t), 14);
    assert_int_equal(tn_tokenizer_id(t, "<x>"), 11);
    assert_string_equal(tn_tokenizer_token(t, 11), "<x>");
    assert_null(tn_tokenizer_token(t, 7));
    tn_tokenizer_free(t);
}

static void splits_follow_their_behaviors(void **state) {
    (void)state;
    static const struct {
        const char *behavior, *invert, *joined;
    } cases[] = {
        /* The words that "a--b-a" becomes, each starting at a bar of Prepend's making. */
        {"Removed", "false", "a|b|a"},
        {"Isolated", "false", "a|-|-|b|-|a"},
        {"MergedWithPrevious", "false", "a-|-|b-|a"},
        {"MergedWithNext", "false", "a|-|-b|-a"},
        {"Contiguous", "false", "a|--|b|-|a"},
        {"Removed", "true", "-|-|-"},
    };
    static const char vocab[] = "{\"a\": 0, \"b\": 1, \"-\": 2, \"a.\": 3, \"b.\": 4, \"-.\": 5}";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_buf json = {0}, words = {0};
        tn_tokenizer *t = NULL;
        tn_ids ids = {0};
        /* The suffix marks where words end. */
        tn_buf_printf(&json,
                      "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"%s\", "
                      "\"invert\": %s}, \"model\": {\"type\": \"BPE\", \"end_of_word_suffix\": \".\", \"vocab\": %s, "
                      "\"merges\": []}}",
                      cases[i].behavior, cases[i].invert, vocab);
        assert_int_equal(tn_tokenizer_parse(json.data, json.length, "x", &t), TN_OK);
        assert_int_equal(tn_tokenizer_encode(t, "a--b-a", 6, false, &ids), TN_OK);
        for (size_t j = 0; j < ids.count; j++) {
            tn_buf_putc(&words, "ab-"[ids.data[j] % 3]);
            if (ids.data[j] >= 3 && j + 1 < ids.count)
                tn_buf_putc(&words, '|');
        }
        assert_string_equal(tn_buf_text(&words), cases[i].joined);
        tn_ids_free(&ids);
        tn_buf_free(&words);
        tn_buf_free(&json);
        tn_tokenizer_free(t);
    }
}

static void catastrophic_expressions_give_up(void **state) {
    (void)state;
    tn_tokenizer *t = NULL;
    tn_ids ids = {0};
    char text[5000];
    memset(text, 'a', sizeof text);
    assert_int_equal(parse_with(small_vocab, "[]",
                                "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a+)+$\"}, "
                                "\"behavior\": \"Isolated\"},",
                                &t),
                     TN_OK);
    text[sizeof text - 1] = 'b';
    double start = tn_seconds();
    assert_int_equal(tn_tokenizer_encode(t, text, sizeof text, false, &ids), TN_ERROR_UNSUPPORTED);
    assert_true(tn_seconds() - start < 5);
    assert_int_equal(ids.count, 0);
    tn_ids_free(&ids);
    tn_tokenizer_free(t);
}

static void invalid_utf8_becomes_replacement_characters(void **state) {
    (void)state;
    /* Unicode 15, table 3-8: U+FFFD for each maximal subpart. */
    static const char text[] = "\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64";
    tn_buf out = {0};
    assert_int_equal(tn_utf8_append_lossy(&out, text, sizeof text - 1, true), sizeof text - 1);
    assert_string_equal(tn_buf_text(&out), "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                                           "b\xef\xbf\xbd"
                                           "c\xef\xbf\xbd\xef\xbf\xbd"
                                           "d");
    tn_buf_clear(&out);
    assert_int_equal(tn_utf8_append_lossy(&out, "x\xf0\x9f\x98", 4, false), 1);
    assert_string_equal(tn_buf_text(&out), "x");
    tn_buf_free(&out);
}

static void byte_alphabet_maps_both_ways(void **state) {
    (void)state;
    for (int byte = 0; byte < 256; byte++)
        assert_int_equal(tn_char_to_byte(tn_byte_to_char((uint8_t)byte)), byte);
    assert_int_equal(tn_byte_to_char(' '), 0x120);
    assert_int_equal(tn_char_to_byte(' '), -1);
    assert_int_equal(tn_char_to_byte(0x144), -1);
}

static void ids_outside_the_vocabulary_cannot_be_decoded(void **state) {
    (void)state;
    static const int32_t bad[] = {-1, 6, INT32_MAX, INT32_MIN};
    tn_tokenizer *t = NULL;
    tn_buf out = {0};
    assert_int_equal(parse_with(small_vocab, "[]", "", &t), TN_OK);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(tn_tokenizer_decode(t, &bad[i], 1, false, &out), TN_ERROR_ARGUMENT);
    tn_buf_free(&out);
    tn_tokenizer_free(t);
}

static void special_roles_come_from_the_files_beside(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int32_t bos, eos, pad;
        bool adds_bos;
    } cases[] = {{"llama2", 1, 2, -1, true},           {"qwen2.5", -1, 151645, 151643, false},
                 {"llama3", 128000, 128009, -1, true}, {"gpt2", 50256, 50256, -1, false},
                 {"tok512", 1, 2, -1, true},           {"clip", 49406, 49407, 49407, true},
                 {"mistral-v0.3", -1, -1, -1, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_tokenizer *t = load_shared(cases[i].name);
        assert_int_equal(tn_tokenizer_bos(t), cases[i].bos);
        assert_int_equal(tn_tokenizer_eos(t), cases[i].eos);
        assert_int_equal(tn_tokenizer_pad(t), cases[i].pad);
        assert_int_equal(tn_tokenizer_adds_bos(t), cases[i].adds_bos);
        tn_tokenizer_free(t);
    }
}

/* Random bytes and random ids: encoding and decoding stay sane, a stream never takes text back. */
static void noise_survives_every_pipeline(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2", "llama2", "mistral-v0.3", "deepseek-coder", "falcon", "clip"};
    size_t used = tn_memory_used();
    for (size_t n = 0; n < 6; n++) {
        tn_tokenizer *t = load_shared(names[n]);
        tn_rng rng = tn_rng_start(7, n);
        for (int round = 0; round < 200; round++) {
            char bytes[64];
            tn_ids ids = {0};
            tn_buf whole = {0}, streamed = {0};
            tn_decode_stream *stream = NULL;
            size_t length = tn_rng_below(&rng, sizeof bytes);
            for (size_t i = 0; i < length; i++)
                bytes[i] =
                    (char)(tn_rng_below(&rng, 4) ? tn_rng_below(&rng, 256) : (uint32_t) " \n<s\xe2\x96\x81\xc3"[i % 8]);
            assert_int_equal(tn_tokenizer_encode(t, bytes, length, true, &ids), TN_OK);
            for (int i = 0; i < 20; i++)
                assert_int_equal(tn_ids_push(&ids, (int32_t)tn_rng_below(&rng, i % 2 ? 300 : 30000)), TN_OK);
            assert_int_equal(tn_tokenizer_decode(t, ids.data, ids.count, round % 2, &whole), TN_OK);
            assert_int_equal(tn_decode_stream_new(t, round % 2, &stream), TN_OK);
            for (size_t i = 0; i < ids.count; i++) {
                assert_int_equal(tn_decode_stream_push(stream, ids.data[i], &streamed), TN_OK);
                assert_true(streamed.length <= whole.length);
                assert_memory_equal(tn_buf_text(&streamed), tn_buf_text(&whole), streamed.length);
            }
            assert_int_equal(tn_decode_stream_finish(stream, &streamed), TN_OK);
            assert_true(texts_equal(&streamed, &whole));
            tn_decode_stream_free(stream);
            tn_buf_free(&whole);
            tn_buf_free(&streamed);
            tn_ids_free(&ids);
        }
        tn_tokenizer_free(t);
    }
    assert_int_equal(tn_memory_used(), used);
}

/* Every allocation in turn fails: an error each time, and nothing leaks. */
static void lack_of_memory_is_an_error_and_leaks_nothing(void **state) {
    (void)state;
    static const char rest[] =
        "\"normalizer\": {\"type\": \"NFD\"}, \"pre_tokenizer\": {\"type\": \"ByteLevel\"}, "
        "\"added_tokens\": [{\"content\": \"<x>\", \"id\": 6, \"special\": true}], "
        "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": "
        "{\"String\": \"b\"}, \"content\": \"d\"}, {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}]},";
    size_t used = tn_memory_used();
    int failures = 0;
    for (int after = 0; after < 200; after++) {
        tn_tokenizer *t = NULL;
        tn_ids ids = {0};
        tn_buf out = {0};
        tn_memory_fail_after(after);
        tn_status status = parse_with(small_vocab, "[\"a b\"]", rest, &t);
        if (status == TN_OK)
            status = tn_tokenizer_encode(t, "ab <x> c\xc3\xa9", 10, false, &ids);
        if (status == TN_OK)
            status = tn_tokenizer_decode(t, ids.data, ids.count, false, &out);
        tn_memory_fail_after(-1);
        failures += status != TN_OK;
        tn_ids_free(&ids);
        tn_buf_free(&out);
        tn_tokenizer_free(t);
        assert_int_equal(tn_memory_used(), used);
    }
    assert_true(failures > 10 && failures < 200);
}

/* PCRE2's own \s holds U+180E and its \w no marks; tokenizer files mean Oniguruma's. */
static void expressions_mean_what_oniguruma_means(void **state) {
    (void)state;
    static const struct {
        const char *expression, *text;
        size_t words; /* of `text` cut at the matches */
    } cases[] = {
        {"\\\\s", "a b", 3},
        {"\\\\s",
         "a\xe1\xa0\x8e"
         "b",
         1},
        {"[^\\\\s]+",
         "a\xe1\xa0\x8e"
         "b",
         1},
        {"\\\\w+", "e\xcc\x81t", 1},
        {"\\\\h", "xfx", 3},
        {"[\\\\h]+", "x f", 2},
        {"[[:digit:]]", "a1b", 3},
        {"[]a]", "b]b", 3},
        {"^b", "a\\nb", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_buf json = {0};
        tn_tokenizer *t = NULL;
        tn_ids ids = {0};
        char text[32];
        /* Every character is unknown and unknown ones fuse: one id for each word. */
        tn_buf_printf(
            &json,
            "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"%s\"}, \"behavior\": "
            "\"Isolated\"}, \"model\": {\"type\": \"BPE\", \"unk_token\": \"<unk>\", \"fuse_unk\": true, \"vocab\": "
            "{\"<unk>\": 0}, \"merges\": []}}",
            cases[i].expression);
        if (tn_tokenizer_parse(json.data, json.length, "x", &t) != TN_OK)
            fail_msg("%s", tn_error_message());
        snprintf(text, sizeof text, "%s", strcmp(cases[i].expression, "^b") == 0 ? "a\nb" : cases[i].text);
        assert_int_equal(tn_tokenizer_encode(t, text, strlen(text), false, &ids), TN_OK);
        if (ids.count != cases[i].words)
            fail_msg("'%s' cuts '%s' into %zu words", cases[i].expression, text, ids.count);
        tn_ids_free(&ids);
        tn_buf_free(&json);
        tn_tokenizer_free(t);
    }
}

typedef struct shared_use {
    const tn_tokenizer *tokenizer;
    const tn_ids *expected;
    const tn_buf *text;
    bool same;
} shared_use;

static void *encode_again(void *argument) {
    shared_use *use = argument;
    use->same = true;
    for (int i = 0; i < 20; i++) {
        tn_ids ids = {0};
        use->same =
            use->same && tn_tokenizer_encode(use->tokenizer, use->text->data, use->text->length, false, &ids) == TN_OK &&
            ids.count == use->expected->count && memcmp(ids.data, use->expected->data, ids.count * sizeof *ids.data) == 0;
        tn_ids_free(&ids);
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state) {
    (void)state;
    tn_tokenizer *t = load_shared("qwen3");
    tn_buf text = {0};
    tn_ids expected = {0};
    pthread_t threads[4];
    shared_use uses[4];
    for (int i = 0; i < 300; i++)
        tn_buf_printf(&text, "line %d, cafe\xcc\x81 \xe4\xb8\xad<|im_end|>\n", i * i);
    assert_int_equal(tn_tokenizer_encode(t, text.data, text.length, false, &expected), TN_OK);
    for (int i = 0; i < 4; i++) {
        uses[i] = (shared_use){t, &expected, &text, false};
        assert_int_equal(pthread_create(&threads[i], NULL, encode_again, &uses[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(uses[i].same);
    }
    tn_ids_free(&expected);
    tn_buf_free(&text);
    tn_tokenizer_free(t);
}

#define PUBLISHED(name)                                                                                                     \
    { "every_published_row_holds: " name, every_published_row_holds, NULL, NULL, (void *)(uintptr_t)name }

int main(void) {
    const struct CMUnitTest tests[] = {
        PUBLISHED("gpt2"),
        PUBLISHED("qwen2.5"),
        PUBLISHED("qwen3"),
        PUBLISHED("llama2"),
        PUBLISHED("llama3"),
        PUBLISHED("mistral-v0.3"),
        PUBLISHED("tok512"),
        PUBLISHED("phi-3-mini"),
        PUBLISHED("deepseek-coder"),
        PUBLISHED("starcoder"),
        PUBLISHED("falcon"),
        PUBLISHED("gpt-neox-20b"),
        PUBLISHED("command"),
        PUBLISHED("minimind"),
        PUBLISHED("roberta-base"),
        PUBLISHED("smolvlm"),
        PUBLISHED("clip"),
        cmocka_unit_test(malformed_files_are_errors_that_say_what_is_wrong),
        cmocka_unit_test(unsupported_models_are_named),
        cmocka_unit_test(deep_sequences_are_refused),
        cmocka_unit_test(lowest_rank_merges_first_and_leftmost_on_ties),
        cmocka_unit_test(added_tokens_match_longest_and_take_their_blanks),
        cmocka_unit_test(splits_follow_their_behaviors),
        cmocka_unit_test(catastrophic_expressions_give_up),
        cmocka_unit_test(invalid_utf8_becomes_replacement_characters),
        cmocka_unit_test(byte_alphabet_maps_both_ways),
        cmocka_unit_test(ids_outside_the_vocabulary_cannot_be_decoded),
        cmocka_unit_test(special_roles_come_from_the_files_beside),
        cmocka_unit_test(noise_survives_every_pipeline),
        cmocka_unit_test(expressions_mean_what_oniguruma_means),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(lack_of_memory_is_an_error_and_leaks_nothing),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
