/* Rows of training data: what is encoded, what is trained, and what is refused. */
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
#include "base/memory.h"
#include "data/dataset.h"
#include "small_tokenizer.h"

static char folder[] = "/tmp/tenon-data-XXXXXX";
static tn_tokenizer *plain, *with_bos, *sentencepiece;
static tn_chat_template *chatml;

static const char chatml_source[] =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

static void assert_ok(tn_status status) {
    if (status != TN_OK)
        fail_msg("%s: %s", tn_status_name(status), tn_error_message());
}

static int make_fixtures(void **state) {
    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_ok(small_tokenizer(folder, false, false, &plain));
    assert_ok(small_tokenizer(folder, false, true, &with_bos));
    assert_ok(small_tokenizer(folder, true, true, &sentencepiece));
    assert_ok(tn_chat_template_parse(chatml_source, "chatml", &chatml));
    return 0;
}

static int remove_fixtures(void **state) {
    (void)state;
    tn_chat_template_free(chatml);
    tn_tokenizer_free(plain);
    tn_tokenizer_free(with_bos);
    tn_tokenizer_free(sentencepiece);
    return tn_path_remove_tree(folder) == TN_OK ? 0 : -1;
}

static const char *path_of(const char *name) {
    static char path[TN_PATH_MAX];
    assert_ok(tn_path_join(path, folder, name));
    return path;
}

static tn_status read_bytes(const char *name, const char *text, size_t length, const tn_dataset_options *options,
                            tn_dataset *out) {
    assert_ok(tn_file_write(path_of(name), text, length));
    return tn_dataset_read(path_of(name), options, out);
}

static tn_dataset read_text(const char *text, const tn_dataset_options *options) {
    tn_dataset dataset;
    assert_ok(read_bytes("rows.jsonl", text, strlen(text), options, &dataset));
    return dataset;
}

/* Text of sample `index`, or only of its trained tokens. */
static const char *text_of(const tn_dataset *d, int64_t index, const tn_tokenizer *tokenizer, bool trained_only) {
    static char text[1 << 16];
    tn_ids ids = {0};
    tn_buf out = {0};
    for (int64_t i = d->starts[index]; i < d->starts[index + 1]; i++)
        if (!trained_only || d->labels[i] != TN_LABEL_IGNORED)
            assert_ok(tn_ids_push(&ids, trained_only ? d->labels[i] : d->ids[i]));
    assert_ok(tn_tokenizer_decode(tokenizer, ids.data, ids.count, false, &out));
    snprintf(text, sizeof text, "%s", tn_buf_text(&out));
    tn_buf_free(&out);
    tn_ids_free(&ids);
    return text;
}

static void text_rows_are_trained_whole_and_end_with_eos(void **state) {
    (void)state;
    tn_dataset d =
        read_text("{\"text\": \"Hi \\u00e9\"}\n{\"text\": \"Done</s>\"}\n", &(tn_dataset_options){.tokenizer = with_bos});
    assert_int_equal(d.count, 2);
    assert_string_equal(text_of(&d, 0, with_bos, false), "<s>Hi \u00e9</s>");
    assert_string_equal(text_of(&d, 0, with_bos, true), "Hi \u00e9</s>");
    assert_string_equal(text_of(&d, 1, with_bos, false), "<s>Done</s>");
    assert_int_equal(d.ids[0], BOS);
    assert_int_equal(d.prompt_tokens[0], 1);
    tn_dataset_free(&d);
    d = read_text("{\"text\": \"Hi\"}", &(tn_dataset_options){.tokenizer = plain});
    assert_string_equal(text_of(&d, 0, plain, false), "Hi</s>");
    assert_string_equal(text_of(&d, 0, plain, true), "i</s>"); /* nothing predicts the first token */
    tn_dataset_free(&d);
}

static void completion_is_trained_and_prompt_is_not(void **state) {
    (void)state;
    tn_dataset d =
        read_text("{\"prompt\": \"Two and two?\", \"completion\": \"Four\"}", &(tn_dataset_options){.tokenizer = with_bos});
    assert_string_equal(text_of(&d, 0, with_bos, false), "<s>Two and two?Four</s>");
    assert_string_equal(text_of(&d, 0, with_bos, true), "Four</s>");
    assert_int_equal(d.prompt_tokens[0], 13);
    assert_null(d.prompts);
    tn_dataset_free(&d);
}

static void training_on_prompts_trains_all_that_is_predicted(void **state) {
    (void)state;
    tn_dataset_options options = {.tokenizer = with_bos, .train_on_prompt = true, .keep_text = true};
    tn_dataset d = read_text("{\"prompt\": \"Q?\", \"completion\": \"A\"}", &options);
    assert_string_equal(text_of(&d, 0, with_bos, true), "Q?A</s>");
    assert_int_equal(d.prompt_tokens[0], 3);
    assert_string_equal(d.prompts[0], "Q?");
    assert_string_equal(d.completions[0], "A");
    tn_dataset_free(&d);
}

static void sentencepiece_puts_no_space_between_prompt_and_completion(void **state) {
    (void)state;
    tn_dataset_options options = {.tokenizer = sentencepiece, .keep_text = true};
    tn_dataset d =
        read_text("{\"prompt\": \"ab\", \"completion\": \"cd\"}\n{\"prompt\": \"ab\", \"completion\": \" cd\"}", &options);
    assert_string_equal(text_of(&d, 0, sentencepiece, false), "<s> abcd</s>");
    assert_string_equal(text_of(&d, 1, sentencepiece, false), "<s> ab cd</s>");
    assert_string_equal(text_of(&d, 0, sentencepiece, true), "cd</s>");
    assert_int_equal(d.starts[1], 7);
    assert_int_equal(d.starts[2], 15);
    assert_string_equal(d.completions[0], "cd");
    tn_dataset_free(&d);
}

static void instruction_rows_use_the_alpaca_prompts(void **state) {
    (void)state;
    tn_dataset_options options = {.tokenizer = plain, .keep_text = true};
    tn_dataset d = read_text("{\"instruction\": \"Add.\", \"input\": \"1 1\", \"output\": \"2\"}\n"
                             "{\"instruction\": \"Sing.\", \"input\": \"\", \"output\": \"La\"}\n",
                             &options);
    assert_string_equal(d.prompts[0],
                        "Below is an instruction that describes a task, paired with an input that provides further "
                        "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
                        "Add.\n\n### Input:\n1 1\n\n### Response:\n");
    assert_string_equal(d.prompts[1], "Below is an instruction that describes a task. Write a response that appropriately "
                                      "completes the request.\n\n### Instruction:\nSing.\n\n### Response:\n");
    assert_string_equal(text_of(&d, 0, plain, true), "2</s>");
    assert_string_equal(text_of(&d, 1, plain, true), "La</s>");
    tn_dataset_free(&d);
}

static void token_rows_are_taken_as_they_are(void **state) {
    (void)state;
    tn_dataset d =
        read_text("{\"input_ids\": [5, 6, 7]}\n{\"input_ids\": [5, 6, 7, 8], \"labels\": [-100, -100, 9, -100]}\n",
                  &(tn_dataset_options){.vocab_size = 10});
    const int32_t ids[] = {5, 6, 7, 5, 6, 7, 8}, labels[] = {-100, 6, 7, -100, -100, 9, -100};
    const int64_t starts[] = {0, 3, 7};
    assert_int_equal(d.count, 2);
    assert_memory_equal(d.ids, ids, sizeof ids);
    assert_memory_equal(d.labels, labels, sizeof labels);
    assert_memory_equal(d.starts, starts, sizeof starts);
    assert_int_equal(d.prompt_tokens[1], 2);
    tn_dataset_free(&d);
}

static const char dialogue[] = "{\"messages\": [{\"role\": \"system\", \"content\": \"Be kind.\"}, {\"role\": \"user\", "
                               "\"content\": \"Hi\"}, {\"role\": "
                               "\"assistant\", \"content\": \"Hello!\"}, {\"role\": \"user\", \"content\": [{\"type\": "
                               "\"text\", \"text\": \"By\"}, {\"type\": "
                               "\"text\", \"text\": \"e\"}]}, {\"role\": \"assistant\", \"content\": \"See you\"}]}\n";

static void conversations_train_assistant_turns_only(void **state) {
    (void)state;
    tn_dataset_options options = {.tokenizer = plain, .chat_template = chatml, .keep_text = true};
    tn_dataset d = read_text(dialogue, &options);
    assert_string_equal(text_of(&d, 0, plain, false),
                        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
                        "Hello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSee you<|im_end|>\n");
    assert_string_equal(text_of(&d, 0, plain, true), "Hello!<|im_end|>\nSee you<|im_end|>\n");
    assert_string_equal(d.completions[0], "See you\n");
    assert_string_equal(d.prompts[0] + strlen(d.prompts[0]) - 22, "<|im_start|>assistant\n");
    assert_int_equal(d.ids[d.prompt_tokens[0]], 'S');
    tn_dataset_free(&d);
}

/* As Qwen3: an empty block of reasoning in the last turn only. */
static void turns_are_found_when_a_template_rewrites_earlier_ones(void **state) {
    (void)state;
    tn_chat_template *template;
    assert_ok(tn_chat_template_parse(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
        "<think>\n\n</think>\n\n{% endif %}{{ m.content | trim }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "thinking", &template));
    tn_dataset d = read_text(dialogue, &(tn_dataset_options){.tokenizer = plain, .chat_template = template});
    assert_string_equal(text_of(&d, 0, plain, true), "Hello!<|im_end|>\n<think>\n\n</think>\n\nSee you<|im_end|>\n");
    tn_dataset_free(&d);
    tn_chat_template_free(template);
}

/* As Phi-3: what ends a conversation and what goes on with one begin alike, inside a special token. */
static void turns_end_between_tokens(void **state) {
    (void)state;
    tn_chat_template *template;
    assert_ok(
        tn_chat_template_parse("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                               "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}</s>{% endif %}",
                               "closed", &template));
    tn_dataset d = read_text(dialogue, &(tn_dataset_options){.tokenizer = plain, .chat_template = template});
    assert_string_equal(text_of(&d, 0, plain, true), "Hello!<|im_end|>\nSee you<|im_end|>\n</s>");
    tn_dataset_free(&d);
    tn_chat_template_free(template);
}

/* As Llama 2: a conversation that does not begin with the user is refused, and nothing opens an assistant turn. */
static void turns_are_found_when_a_template_refuses_beginnings(void **state) {
    (void)state;
    tn_chat_template *template;
    assert_ok(tn_chat_template_parse(
        "{% if messages | length < 2 %}{{ raise_exception('too short') }}{% endif %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + ' </s>' }}{% else %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}",
        "strict", &template));
    tn_dataset d =
        read_text("{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": "
                  "\"Hello\"}]}",
                  &(tn_dataset_options){.tokenizer = plain, .chat_template = template});
    assert_string_equal(text_of(&d, 0, plain, false), "[INST] Hi [/INST] Hello </s>");
    assert_string_equal(text_of(&d, 0, plain, true), "Hello </s>");
    tn_dataset_free(&d);
    tn_chat_template_free(template);
}

static void turns_that_a_template_drops_are_an_error(void **state) {
    (void)state;
    tn_chat_template *template;
    tn_dataset d;
    assert_ok(tn_chat_template_parse(
        "{{ messages | length }}:{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}"
        "{% endfor %}",
        "deaf", &template));
    tn_dataset_options options = {.tokenizer = plain, .chat_template = template};
    assert_int_equal(read_bytes("rows.jsonl", dialogue, strlen(dialogue), &options, &d), TN_ERROR_UNSUPPORTED);
    assert_non_null(strstr(tn_error_message(), "rows.jsonl line 1: the turn of message 2 cannot be found"));
    tn_chat_template_free(template);
}

static void long_samples_are_cut_or_dropped_and_counted(void **state) {
    (void)state;
    const char *text = "{\"prompt\": \"12\", \"completion\": \"3\"}\n"
                       "{\"prompt\": \"123\", \"completion\": \"456789\"}\n"
                       "\n"
                       "{\"prompt\": \"123456\", \"completion\": \"7\"}\n";
    tn_dataset_options options = {.tokenizer = plain, .max_length = 5};
    tn_dataset d = read_text(text, &options);
    assert_int_equal(d.count, 2);
    assert_int_equal(d.cut, 2);
    assert_int_equal(d.unlabelled, 1);
    assert_int_equal(d.first_unlabelled_line, 4);
    assert_int_equal(d.lines[1], 2);
    assert_string_equal(text_of(&d, 1, plain, false), "12345");
    assert_string_equal(text_of(&d, 1, plain, true), "45");
    tn_dataset_free(&d);
    options.too_long = TN_TOO_LONG_DROP;
    d = read_text(text, &options);
    assert_int_equal(d.count, 1);
    assert_int_equal(d.dropped, 2);
    assert_int_equal(d.cut + d.unlabelled, 0);
    tn_dataset_free(&d);
}

static void lines_may_end_and_be_blank_in_any_common_way(void **state) {
    (void)state;
    tn_dataset_options options = {.tokenizer = plain};
    tn_dataset a = read_text("{\"text\": \"one\"}\n{\"text\": \"two\"}\n", &options);
    tn_dataset b = read_text("\xef\xbb\xbf\r\n  \n{\"text\": \"one\"}\r\n\t\r\n {\"text\": \"two\"}  ", &options);
    assert_int_equal(a.hash, b.hash);
    assert_int_equal(b.lines[0], 3);
    assert_int_equal(b.lines[1], 5);
    tn_dataset c;
    const char *array = "[\n {\"text\":\n  \"one\"},\n {\"text\": \"two\"}\n]\n";
    assert_ok(read_bytes("rows.json", array, strlen(array), &options, &c));
    assert_int_equal(a.hash, c.hash);
    assert_int_equal(c.lines[0], 2);
    assert_int_equal(c.lines[1], 4);
    tn_dataset other = read_text("{\"text\": \"onet\"}\n{\"text\": \"wo\"}\n", &options);
    assert_int_not_equal(a.hash, other.hash);
    tn_dataset_free(&a);
    tn_dataset_free(&b);
    tn_dataset_free(&c);
    tn_dataset_free(&other);
}

static void bad_rows_are_errors_that_name_line_and_problem(void **state) {
    (void)state;
    static const struct {
        const char *row, *words;
    } bad[] = {
        {"{\"text\": \"x\"", "line 2"},
        {"{\"text\": \"\xff\"}", "UTF-8"},
        {"{\"text\": \"a\\u0000b\"}", "u0000"},
        {"[1, 2]", "expected an object"},
        {"\"text\"", "expected an object"},
        {"{\"text\": 5}", "must be a string"},
        {"{\"text\": \"a\", \"text\": \"b\"}", "occurs twice"},
        {"{\"prompt\": \"a\", \"completion\": [\"b\"]}", "completion"},
        {"{\"prompt\": \"a\"}", "lacks \"completion\" (found: \"prompt\")"},
        {"{\"prompt\": \"a\", \"completion\": null}", "lacks \"completion\""},
        {"{\"question\": \"a\", \"answer\": \"b\"}",
         "(found: \"question\", \"answer\"); a row needs \"text\", or \"prompt\""},
        {"{}", "found: no fields"},
        {"{\"instruction\": \"a\", \"input\": 3, \"output\": \"b\"}", "input"},
        {"{\"input_ids\": [1, 500]}", "token id 500 at position 1 is outside the vocabulary of 262"},
        {"{\"input_ids\": [1, -1]}", "item 1 of \"input_ids\" is not a token id"},
        {"{\"input_ids\": [1, 2.5]}", "item 1 of \"input_ids\""},
        {"{\"input_ids\": [1, 1e300]}", "item 1 of \"input_ids\""},
        {"{\"input_ids\": \"1 2\"}", "must be a list of token ids"},
        {"{\"input_ids\": [1, 2], \"labels\": [2]}", "1 labels for 2 input_ids"},
        {"{\"input_ids\": [1, 2], \"labels\": [1, -5]}", "label -5 at position 1"},
        {"{\"input_ids\": [1, 2], \"labels\": [1, 300]}", "label 300 at position 1"},
        {"{\"messages\": []}", "\"messages\" must be a list"},
        {"{\"messages\": {\"role\": \"user\"}}", "\"messages\" must be a list"},
        {"{\"messages\": [\"hi\"]}", "message 0 has no \"role\""},
        {"{\"messages\": [{\"role\": \"user\", \"content\": 5}]}", "\"content\" of message 0"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}]}", "only text can be trained on"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"tools\": 3}", "\"tools\" must be a list"},
    };
    tn_dataset_options options = {.tokenizer = plain, .chat_template = chatml, .vocab_size = 262};
    size_t before = tn_memory_used();
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[512];
        tn_dataset d;
        snprintf(text, sizeof text, "{\"text\": \"fine\"}\n%s\n", bad[i].row);
        assert_int_equal(read_bytes("bad.jsonl", text, strlen(text), &options, &d), TN_ERROR_FORMAT);
        if (!strstr(tn_error_message(), "bad.jsonl line 2") || !strstr(tn_error_message(), bad[i].words))
            fail_msg("%s gives: %s", bad[i].row, tn_error_message());
        assert_null(d.ids);
        assert_int_equal(tn_memory_used(), before);
    }
}

static void bad_files_are_errors(void **state) {
    (void)state;
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"", "has no rows"},
        {"\n\n", "has no rows"},
        {"[]", "has no rows"},
        {"\xff\xfe{", "UTF-16"},
        {"[{\"text\": \"a\"}", "line 1: the array is not closed"},
        {"[{\"text\": \"a\"},\n", "line 2"},
        {"[{\"text\": \"a\"},]", "line 1"},
        {"[{\"text\": \"a\"}]\n]", "line 2: more text after the end of the array"},
        {"[\n\n\"x]", "line 3"},
        {"[}}}", "line 1"},
        {"{\"text\": \"\"}\n{\"input_ids\": [3]}", "2 without any trained token (the first on line 1)"},
    };
    tn_dataset_options options = {.tokenizer = plain};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tn_dataset d;
        assert_int_equal(read_bytes("bad.json", bad[i].text, strlen(bad[i].text), &options, &d), TN_ERROR_FORMAT);
        if (!strstr(tn_error_message(), bad[i].words))
            fail_msg("%s gives: %s", bad[i].text, tn_error_message());
    }
    tn_dataset d;
    assert_int_equal(tn_dataset_read(path_of("absent.jsonl"), &options, &d), TN_ERROR_IO);
    options = (tn_dataset_options){.tokenizer = plain, .max_length = 2, .too_long = TN_TOO_LONG_DROP};
    assert_int_equal(read_bytes("rows.jsonl", "{\"text\": \"long\"}", 16, &options, &d), TN_ERROR_FORMAT);
    assert_non_null(strstr(tn_error_message(), "all 1 samples are longer than the maximum length of 2"));
}

static void missing_tokenizer_or_template_is_named(void **state) {
    (void)state;
    tn_dataset d;
    assert_int_equal(read_bytes("rows.jsonl", "{\"text\": \"a\"}", 13, &(tn_dataset_options){.vocab_size = 9}, &d),
                     TN_ERROR_ARGUMENT);
    assert_non_null(strstr(tn_error_message(), "tokenizer.json"));
    assert_int_equal(read_bytes("rows.jsonl", dialogue, strlen(dialogue), &(tn_dataset_options){.tokenizer = plain}, &d),
                     TN_ERROR_ARGUMENT);
    assert_non_null(strstr(tn_error_message(), "chat_template.jinja"));
    assert_non_null(strstr(tn_error_message(), "\"prompt\" and \"completion\""));
}

static tn_dataset numbered_rows(int count, bool keep_text) {
    tn_buf text = {0};
    for (int i = 0; i < count; i++)
        tn_buf_printf(&text, "{\"prompt\": \"row\", \"completion\": \"%d\"}\n", i);
    tn_dataset d = read_text(tn_buf_text(&text), &(tn_dataset_options){.tokenizer = plain, .keep_text = keep_text});
    tn_buf_free(&text);
    return d;
}

static void split_is_disjoint_stable_and_keeps_the_order(void **state) {
    (void)state;
    tn_dataset train = numbered_rows(100, true), valid, train2 = numbered_rows(100, true), valid2;
    uint64_t whole_hash = train.hash;
    assert_ok(tn_dataset_split(&train, &valid, 0.1, 42));
    assert_ok(tn_dataset_split(&train2, &valid2, 0.1, 42));
    assert_int_equal(train.count, 90);
    assert_int_equal(valid.count, 10);
    assert_int_equal(train.hash, train2.hash);
    assert_int_equal(valid.hash, valid2.hash);
    assert_int_not_equal(train.hash, whole_hash);
    int seen[101] = {0};
    for (int64_t i = 0; i < train.count; i++) {
        assert_true(i == 0 || train.lines[i] > train.lines[i - 1]);
        assert_int_equal(atoi(train.completions[i]), train.lines[i] - 1);
        assert_int_equal(atoi(text_of(&train, i, plain, true)), train.lines[i] - 1);
        seen[train.lines[i]]++;
    }
    for (int64_t i = 0; i < valid.count; i++) {
        assert_true(i == 0 || valid.lines[i] > valid.lines[i - 1]);
        assert_int_equal(atoi(valid.completions[i]), valid.lines[i] - 1);
        assert_int_equal(atoi(text_of(&valid, i, plain, true)), valid.lines[i] - 1);
        seen[valid.lines[i]]++;
    }
    for (int line = 1; line <= 100; line++)
        assert_int_equal(seen[line], 1);
    tn_dataset_free(&train2);
    tn_dataset_free(&valid2);
    train2 = numbered_rows(100, false);
    assert_ok(tn_dataset_split(&train2, &valid2, 0.1, 43));
    assert_int_not_equal(valid2.hash, valid.hash);
    tn_dataset_free(&train);
    tn_dataset_free(&valid);
    tn_dataset_free(&train2);
    tn_dataset_free(&valid2);
}

static void split_moves_at_least_one_and_never_all(void **state) {
    (void)state;
    static const struct {
        int count;
        double fraction;
        int moved;
    } cases[] = {{2, 0.001, 1}, {2, 0.999, 1}, {1, 0.5, 0}, {10, 0.0, 0}, {10, 0.25, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tn_dataset train = numbered_rows(cases[i].count, false), valid;
        assert_ok(tn_dataset_split(&train, &valid, cases[i].fraction, 1));
        assert_int_equal(valid.count, cases[i].moved);
        assert_int_equal(train.count, cases[i].count - cases[i].moved);
        tn_dataset_free(&train);
        tn_dataset_free(&valid);
    }
    tn_dataset train = numbered_rows(3, false), valid;
    assert_int_equal(tn_dataset_split(&train, &valid, 1.0, 1), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_dataset_split(&train, &valid, -0.1, 1), TN_ERROR_ARGUMENT);
    tn_dataset_free(&train);
}

static void shown_sample_marks_what_is_trained(void **state) {
    (void)state;
    tn_dataset d = read_text("{\"prompt\": \"a\\u001b[2J\\tb\\nc\\u202e\", \"completion\": \"d e\"}",
                             &(tn_dataset_options){.tokenizer = sentencepiece});
    tn_buf out = {0};
    assert_ok(tn_dataset_show(&d, 0, sentencepiece, false, &out));
    assert_non_null(
        strstr(tn_buf_text(&out), "a\\x1b[2J\\tb\nc\\u202e[[d e</s>]]\nsample 0 (line 1): 18 tokens, 4 of them trained\n"));
    assert_non_null(strstr(tn_buf_text(&out), "first ids: 256 261 97 27 "));
    tn_buf_clear(&out);
    assert_ok(tn_dataset_show(&d, 0, sentencepiece, true, &out));
    assert_non_null(strstr(tn_buf_text(&out), "\x1b[32md e</s>\x1b[0m"));
    tn_buf_clear(&out);
    assert_ok(tn_dataset_show(&d, 0, NULL, false, &out));
    assert_non_null(strstr(tn_buf_text(&out), "256 261 97 27"));
    assert_non_null(strstr(tn_buf_text(&out), "[[ 100 261 101 257]]"));
    assert_int_equal(tn_dataset_show(&d, 1, NULL, false, &out), TN_ERROR_ARGUMENT);
    tn_dataset_free(&d);
    tn_buf_clear(&out);
    tn_buf row = {0};
    tn_buf_puts(&row, "{\"prompt\": \"first\", \"completion\": \"");
    for (int i = 0; i < 5000; i++)
        tn_buf_puts(&row, "\u00e9");
    tn_buf_puts(&row, "last\"}");
    d = read_text(tn_buf_text(&row), &(tn_dataset_options){.tokenizer = plain});
    assert_ok(tn_dataset_show(&d, 0, plain, false, &out));
    assert_true(out.length < 1800);
    assert_non_null(strstr(tn_buf_text(&out), "first[[\u00e9"));
    assert_non_null(strstr(tn_buf_text(&out), "\u00e9last</s>]]"));
    assert_non_null(strstr(tn_buf_text(&out), "bytes left out"));
    assert_null(strstr(tn_buf_text(&out), "\\x"));
    tn_buf_free(&row);
    tn_buf_free(&out);
    tn_dataset_free(&d);
}

static void lengths_are_measured(void **state) {
    (void)state;
    tn_dataset d = numbered_rows(100, false);
    tn_dataset_stats stats;
    assert_ok(tn_dataset_measure(&d, &stats));
    assert_int_equal(stats.count, 100);
    assert_int_equal(stats.total, 10 * 5 + 90 * 6);
    assert_int_equal(stats.labelled, 10 * 2 + 90 * 3);
    assert_int_equal(stats.shortest, 5);
    assert_int_equal(stats.median, 6);
    assert_int_equal(stats.percentile95, 6);
    assert_int_equal(stats.longest, 6);
    tn_dataset_free(&d);
}

static void failed_allocations_are_errors_without_leaks(void **state) {
    (void)state;
    tn_dataset_options options = {.tokenizer = sentencepiece, .chat_template = chatml, .keep_text = true};
    tn_buf text = {0};
    tn_buf_puts(&text, dialogue);
    tn_buf_puts(&text, "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"text\": \"c\"}\n{\"input_ids\": [1, 2]}\n");
    assert_ok(tn_file_write(path_of("small.jsonl"), tn_buf_text(&text), text.length));
    tn_buf_free(&text);
    size_t before = tn_memory_used();
    bool done = false;
    int64_t allocations = 0;
    for (; !done; allocations++) {
        tn_dataset train, valid;
        tn_buf out = {0};
        tn_memory_fail_after(allocations);
        tn_status status = tn_dataset_read(path_of("small.jsonl"), &options, &train);
        if (status == TN_OK)
            status = tn_dataset_split(&train, &valid, 0.5, 1);
        if (status == TN_OK) {
            tn_dataset_stats stats;
            status = tn_dataset_measure(&train, &stats);
            if (status == TN_OK)
                status = tn_dataset_show(&train, 0, sentencepiece, false, &out);
            tn_dataset_free(&valid);
        }
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
        done = status == TN_OK;
        tn_buf_free(&out);
        tn_dataset_free(&train);
        assert_int_equal(tn_memory_used(), before);
    }
    assert_true(allocations > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_rows_are_trained_whole_and_end_with_eos),
        cmocka_unit_test(completion_is_trained_and_prompt_is_not),
        cmocka_unit_test(training_on_prompts_trains_all_that_is_predicted),
        cmocka_unit_test(sentencepiece_puts_no_space_between_prompt_and_completion),
        cmocka_unit_test(instruction_rows_use_the_alpaca_prompts),
        cmocka_unit_test(token_rows_are_taken_as_they_are),
        cmocka_unit_test(conversations_train_assistant_turns_only),
        cmocka_unit_test(turns_are_found_when_a_template_rewrites_earlier_ones),
        cmocka_unit_test(turns_end_between_tokens),
        cmocka_unit_test(turns_are_found_when_a_template_refuses_beginnings),
        cmocka_unit_test(turns_that_a_template_drops_are_an_error),
        cmocka_unit_test(long_samples_are_cut_or_dropped_and_counted),
        cmocka_unit_test(lines_may_end_and_be_blank_in_any_common_way),
        cmocka_unit_test(bad_rows_are_errors_that_name_line_and_problem),
        cmocka_unit_test(bad_files_are_errors),
        cmocka_unit_test(missing_tokenizer_or_template_is_named),
        cmocka_unit_test(split_is_disjoint_stable_and_keeps_the_order),
        cmocka_unit_test(split_moves_at_least_one_and_never_all),
        cmocka_unit_test(shown_sample_marks_what_is_trained),
        cmocka_unit_test(lengths_are_measured),
        cmocka_unit_test(failed_allocations_are_errors_without_leaks),
    };
    return cmocka_run_group_tests_name("dataset", tests, make_fixtures, remove_fixtures);
}
