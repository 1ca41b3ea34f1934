/* tenon tokenize: JSON lines in, JSON lines out. */
#include "program.h"

#include "text/tokenizer_train.h"

static void make_tokenizer(void) {
    static const char corpus[] = "low lower lowest new newer newest wide wider widest low low new new";
    static const char *const special[] = {"<s>", "</s>"};
    tn_buf json = {0};
    assert_int_equal(tn_tokenizer_train(corpus, sizeof corpus - 1, 300, special, 2, &json), TN_OK);
    assert_int_equal(run("mkdir -p model"), 0);
    write_file("model/tokenizer.json", tn_buf_text(&json));
    tn_buf_free(&json);
}

static void texts_come_back_from_their_ids(void **state) {
    (void)state;
    make_tokenizer();
    write_file("in.jsonl", "{\"text\": \"lowest\"}\n\n{\"text\": \"new \\u00e9\\n\\\\ \\\"x\\\"\"}\n{\"text\": "
                           "\"\"}\n{\"text\": \"<s>low</s>\"}");
    exits(
        0,
        "$TENON_PROGRAM tokenize --model model < in.jsonl | $TENON_PROGRAM tokenize --model model/tokenizer.json --decode");
    assert_string_equal(text(), "{\"text\": \"lowest\"}\n{\"text\": \"new \xc3\xa9\\n\\\\ \\\"x\\\"\"}\n{\"text\": \"\"}\n"
                                "{\"text\": \"<s>low</s>\"}\n");
    exits(0, "$TENON_PROGRAM tokenize --model model < in.jsonl | tail -1 | "
             "$TENON_PROGRAM tokenize --model model --decode --skip-special");
    assert_string_equal(text(), "{\"text\": \"low\"}\n");
}

static void nul_is_a_character_like_any_other(void **state) {
    (void)state;
    make_tokenizer();
    write_file("nul.jsonl", "{\"text\": \"a\\u0000b\\\\u0000\\u0000\\ue000\"}\n");
    exits(0, "$TENON_PROGRAM tokenize --model model < nul.jsonl | $TENON_PROGRAM tokenize --model model --decode");
    assert_string_equal(text(), "{\"text\": \"a\\u0000b\\\\u0000\\u0000\xee\x80\x80\"}\n");
}

static void errors_name_the_line(void **state) {
    (void)state;
    static const struct {
        const char *in, *options, *words;
    } cases[] = {
        {"{\"text\": \"a\"}\\n\\n{\"txt\": 1}\\n", "", "tenon: standard input line 3: expected an object"},
        {"{\"text\": 5}\\n", "", "standard input line 1"},
        {"{\"text\": \"a\\n", "", "standard input line 1"},
        {"[1]\\n[1, -1]\\n", "--decode", "standard input line 2: element 1 is no token id"},
        {"[1]\\n[1e9]\\n", "--decode", "standard input line 2: no token has the id"},
        {"[1.5]\\n", "--decode", "element 0 is no token id"},
        {"{}\\n", "--decode", "expected an array of token ids"},
    };
    make_tokenizer();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[512];
        snprintf(line, sizeof line, "printf '%s' | $TENON_PROGRAM tokenize --model model %s", cases[i].in, cases[i].options);
        exits(1, line);
        printed(cases[i].words);
    }
    exits(2, "$TENON_PROGRAM tokenize --model model --skip-special < /dev/null");
    exits(2, "$TENON_PROGRAM tokenize --model model --special --decode < /dev/null");
    exits(1, "$TENON_PROGRAM tokenize --model nowhere < /dev/null");
    printed("nowhere");
}

/* The answer to the first line must come while the second is still to be written. */
static void each_line_is_answered_at_once(void **state) {
    (void)state;
    make_tokenizer();
    exits(0, "rm -f in out; mkfifo in; timeout 20 $TENON_PROGRAM tokenize --model model < in > out & exec 3> in; "
             "echo '{\"text\": \"low\"}' >&3; n=0; until grep -q ] out; do n=$((n + 1)); [ $n -lt 150 ] || exit 1; sleep "
             "0.1; done; "
             "echo '{\"text\": \"low\"}' >&3; exec 3>&-; wait; test $(wc -l < out) = 2");
}

static void published_tokenizers_agree(void **state) {
    (void)state;
    need_shared("TOKENIZERS", "data/tokenizers");
    if (run("command -v python3") != 0)
        skip();
    write_file("check.py",
               "import json, subprocess, sys\n"
               "d, program = sys.argv[1], sys.argv[2]\n"
               "rows = [json.loads(line) for line in open(d + '/golden.jsonl', encoding='utf-8')]\n"
               "def ask(options, values):\n"
               "    text = ''.join(json.dumps(v) + '\\n' for v in values)\n"
               "    out = subprocess.run([program, 'tokenize', '--model', d] + options, input=text.encode(),\n"
               "                         stdout=subprocess.PIPE, check=True).stdout.decode()\n"
               "    return [json.loads(line) for line in out.split('\\n') if line]\n"
               "texts = [{'text': r['text']} for r in rows]\n"
               "assert ask([], texts) == [r['ids'] for r in rows]\n"
               "assert ask(['--special'], texts) == [r['ids_special'] for r in rows]\n"
               "ids = [r['ids'] for r in rows]\n"
               "assert ask(['--decode'], ids) == [{'text': r['decoded']} for r in rows]\n"
               "assert ask(['--decode', '--skip-special'], ids) == [{'text': r['decoded_skip']} for r in rows]\n");
    exits(0, "for t in llama2 qwen2.5 tok512; do python3 check.py \"$TOKENIZERS\"/$t $TENON_PROGRAM || exit 1; done");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_come_back_from_their_ids), cmocka_unit_test(nul_is_a_character_like_any_other),
        cmocka_unit_test(errors_name_the_line),           cmocka_unit_test(each_line_is_answered_at_once),
        cmocka_unit_test(published_tokenizers_agree),
    };
    return cmocka_run_group_tests_name("cli_tokenize", tests, make_folder, remove_folder);
}
