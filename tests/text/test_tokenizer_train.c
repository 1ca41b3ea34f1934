/* Training byte-level BPE vocabularies: against plain counting, round trips, unusable options, speed. */
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
#include "base/rng.h"
#include "format/json.h"
#include "text/tokenizer.h"
#include "text/tokenizer_train.h"
#include "text/unicode.h"

enum { WORDS_MAX = 400, WORD_MAX = 12 };

typedef struct plain_words {
    char symbols[WORDS_MAX][WORD_MAX][WORD_MAX + 1];
    int lengths[WORDS_MAX], count;
} plain_words;

/* Byte symbols come in code order, later ones as they were learned. */
static int plain_id(char learned[][WORD_MAX + 1], int count, const char *symbol) {
    for (int i = 0; i < count; i++)
        if (strcmp(learned[i], symbol) == 0)
            return 1000 + i;
    return (unsigned char)symbol[0];
}

/* Counts all pairs anew and picks the most frequent one, the smaller ids on ties; false when there is none. */
static bool plain_best_pair(const plain_words *w, char learned[][WORD_MAX + 1], int learned_count, char left[],
                            char right[]) {
    int best = 0, best_left = 0, best_right = 0;
    for (int a = 0; a < w->count; a++)
        for (int i = 0; i + 1 < w->lengths[a]; i++) {
            int count = 0, l = plain_id(learned, learned_count, w->symbols[a][i]);
            int r = plain_id(learned, learned_count, w->symbols[a][i + 1]);
            for (int b = 0; b < w->count; b++)
                for (int j = 0; j + 1 < w->lengths[b]; j++)
                    count += strcmp(w->symbols[b][j], w->symbols[a][i]) == 0 &&
                             strcmp(w->symbols[b][j + 1], w->symbols[a][i + 1]) == 0;
            if (count > best || (count == best && (l < best_left || (l == best_left && r < best_right)))) {
                best = count;
                best_left = l;
                best_right = r;
                strcpy(left, w->symbols[a][i]);
                strcpy(right, w->symbols[a][i + 1]);
            }
        }
    return best > 0;
}

static void plain_merge(plain_words *w, const char *left, const char *right) {
    for (int a = 0; a < w->count; a++) {
        int kept = 0;
        for (int i = 0; i < w->lengths[a]; i++, kept++) {
            bool joins =
                i + 1 < w->lengths[a] && strcmp(w->symbols[a][i], left) == 0 && strcmp(w->symbols[a][i + 1], right) == 0;
            char joined[2 * WORD_MAX + 1];
            snprintf(joined, sizeof joined, "%s%s", w->symbols[a][i], joins ? w->symbols[a][i + 1] : "");
            memcpy(w->symbols[a][kept], joined, WORD_MAX + 1);
            i += joins;
        }
        w->lengths[a] = kept;
    }
}

static void trained_merges_equal_those_of_plain_counting(void **state) {
    (void)state;
    enum { MERGES = 60 };
    static plain_words w;
    static char learned[MERGES][WORD_MAX + 1];
    tn_buf text = {0}, json = {0};
    tn_rng rng = tn_rng_start(5, 5);
    for (w.count = 0; w.count < WORDS_MAX; w.count++) {
        w.lengths[w.count] = 1 + (int)tn_rng_below(&rng, WORD_MAX);
        for (int i = 0; i < w.lengths[w.count]; i++) {
            w.symbols[w.count][i][0] = (char)('a' + tn_rng_below(&rng, 3));
            tn_buf_putc(&text, w.symbols[w.count][i][0]);
        }
        tn_buf_putc(&text, '\n');
    }
    assert_int_equal(tn_tokenizer_train(text.data, text.length, 256 + MERGES, NULL, 0, &json), TN_OK);
    cJSON *parsed = NULL;
    assert_int_equal(tn_json_parse(json.data, json.length, "trained", &parsed), TN_OK);
    const cJSON *merges = tn_json_get(tn_json_get(parsed, "model"), "merges"), *merge = merges->child;
    int learned_count = 0;
    for (; merge; merge = merge->next) {
        char left[WORD_MAX + 1], right[WORD_MAX + 1], both[2 * WORD_MAX + 2];
        assert_true(plain_best_pair(&w, learned, learned_count, left, right));
        snprintf(both, sizeof both, "%s %s", left, right);
        assert_string_equal(merge->valuestring, both);
        plain_merge(&w, left, right);
        snprintf(both, sizeof both, "%s%s", left, right);
        if (plain_id(learned, learned_count, both) < 1000)
            memcpy(learned[learned_count++], both, WORD_MAX + 1);
    }
    assert_int_equal(learned_count, MERGES);
    cJSON_Delete(parsed);
    tn_buf_free(&json);
    tn_buf_free(&text);
}

static void assert_round_trip(const tn_tokenizer *t, const char *text, size_t length) {
    tn_ids ids = {0};
    tn_buf back = {0};
    assert_int_equal(tn_tokenizer_encode(t, text, length, false, &ids), TN_OK);
    assert_int_equal(tn_tokenizer_decode(t, ids.data, ids.count, false, &back), TN_OK);
    assert_int_equal(back.length, length);
    assert_memory_equal(tn_buf_text(&back), text, length);
    tn_ids_free(&ids);
    tn_buf_free(&back);
}

static void trained_tokenizer_loads_and_round_trips(void **state) {
    (void)state;
    static const char text[] =
        "the cat sat on the mat<|end|>the hat of the cat sat too\r\n\tna\xc3\xafve \xf0\x9f\x98\x80<|end|>";
    static const char *const specials[] = {"<|end|>", "<|pad|>"};
    tn_buf json = {0}, again = {0};
    tn_tokenizer *t = NULL;
    assert_int_equal(tn_tokenizer_train(text, sizeof text - 1, 270, specials, 2, &json), TN_OK);
    assert_int_equal(tn_tokenizer_train(text, sizeof text - 1, 270, specials, 2, &again), TN_OK);
    assert_true(json.length == again.length && memcmp(json.data, again.data, json.length) == 0);
    if (tn_tokenizer_parse(json.data, json.length, "trained", &t) != TN_OK)
        fail_msg("%s", tn_error_message());
    assert_int_equal(tn_tokenizer_vocab_size(t), 270);
    assert_int_equal(tn_tokenizer_id(t, "<|end|>"), 0);
    assert_int_equal(tn_tokenizer_id(t, "<|pad|>"), 1);
    assert_int_equal(tn_tokenizer_id(t, "!"), 2);
    assert_int_equal(tn_tokenizer_id(t, "en"), -1); /* special tokens were not learned from */
    tn_ids ids = {0};
    assert_int_equal(tn_tokenizer_encode(t, "<|end|><|pad|>", 14, false, &ids), TN_OK);
    assert_int_equal(ids.count, 2);
    assert_true(ids.data[0] == 0 && ids.data[1] == 1);
    tn_ids_free(&ids);
    assert_round_trip(t, text, sizeof text - 1);
    char every_ascii[128];
    for (int i = 0; i < 128; i++)
        every_ascii[i] = (char)i;
    assert_round_trip(t, every_ascii, sizeof every_ascii);
    tn_buf wide = {0};
    for (uint32_t code = 0x80; code < 0x110000; code += code < 0x1000 ? 1 : 997)
        if (code < 0xd800 || code > 0xdfff)
            tn_utf8_append(&wide, code);
    assert_round_trip(t, wide.data, wide.length);
    tn_buf_free(&wide);
    tn_buf_free(&json);
    tn_buf_free(&again);
    tn_tokenizer_free(t);
}

static void unusable_training_options_are_errors(void **state) {
    (void)state;
    static const char *const twice[] = {"<s>", "<s>"}, *const byte[] = {"a"}, *const empty[] = {""},
                             *const broken[] = {"\xff"};
    tn_buf json = {0};
    assert_int_equal(tn_tokenizer_train("abc", 3, 255, NULL, 0, &json), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_tokenizer_train("abc", 3, 257, twice, 2, &json), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_tokenizer_train("abc", 3, 300, twice, 2, &json), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_tokenizer_train("abc", 3, 300, byte, 1, &json), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_tokenizer_train("abc", 3, 300, empty, 1, &json), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_tokenizer_train("abc", 3, 300, broken, 1, &json), TN_ERROR_ARGUMENT);
    assert_int_equal(json.length, 0);
    /* No text: the bytes alone. A special token is not made from bytes either. */
    tn_tokenizer *t = NULL;
    assert_int_equal(tn_tokenizer_train("", 0, 300, NULL, 0, &json), TN_OK);
    assert_int_equal(tn_tokenizer_parse(json.data, json.length, "trained", &t), TN_OK);
    assert_int_equal(tn_tokenizer_vocab_size(t), 256);
    tn_tokenizer_free(t);
    tn_buf_free(&json);
}

static void a_megabyte_trains_in_seconds(void **state) {
    (void)state;
    char path[TN_PATH_MAX];
    tn_buf text = {0}, json = {0};
    tn_tokenizer *t = NULL;
    tn_ids ids = {0};
    const char *given = getenv("TENON_SHARED");
    snprintf(path, sizeof path, "%s/data/text/tinyshakespeare.txt", given ? given : TENON_SOURCE_ROOT "/../shared");
    if (!tn_path_exists(path))
        skip();
    assert_int_equal(tn_file_read(path, 1 << 24, &text), TN_OK);
    double start = tn_seconds();
    assert_int_equal(tn_tokenizer_train(text.data, text.length, 4096, NULL, 0, &json), TN_OK);
    double trained = tn_seconds();
    assert_int_equal(tn_tokenizer_parse(json.data, json.length, "trained", &t), TN_OK);
    assert_int_equal(tn_tokenizer_encode(t, text.data, text.length, false, &ids), TN_OK);
    print_message("4096 tokens in %.2f s, %.2f bytes per token\n", trained - start, (double)text.length / (double)ids.count);
    assert_true((double)text.length / (double)ids.count > 3);
    assert_round_trip(t, text.data, text.length);
    tn_ids_free(&ids);
    tn_tokenizer_free(t);
    tn_buf_free(&json);
    tn_buf_free(&text);
}

/* Every allocation in turn fails. */
static void lack_of_memory_while_training_leaks_nothing(void **state) {
    (void)state;
    static const char *const specials[] = {"<s>"};
    size_t used = tn_memory_used();
    int failures = 0;
    for (int after = 0; after < 150; after++) {
        tn_buf json = {0};
        tn_memory_fail_after(after);
        failures += tn_tokenizer_train("abab abab <s> ab", 16, 260, specials, 1, &json) != TN_OK;
        tn_memory_fail_after(-1);
        tn_buf_free(&json);
        assert_int_equal(tn_memory_used(), used);
    }
    assert_true(failures > 10 && failures < 150);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trained_merges_equal_those_of_plain_counting),
        cmocka_unit_test(trained_tokenizer_loads_and_round_trips),
        cmocka_unit_test(unusable_training_options_are_errors),
        cmocka_unit_test(lack_of_memory_while_training_leaks_nothing),
        cmocka_unit_test(a_megabyte_trains_in_seconds),
    };
    return cmocka_run_group_tests_name("tokenizer_train", tests, NULL, NULL);
}
