/* The demo's data: run as a user would (argument 1 is the program) and read back from its files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>
#include <cmocka.h>
#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/map.h"
#include "base/utf8.h"

static const char *program;
static char folder[] = "/tmp/tenon-make-data-XXXXXX";

/* Runs the program on words separated by spaces and returns its exit status; its messages are not shown. */
static int run(const char *subcommand, const char *options, const char *out) {
    char text[512], *argv[24] = {(char *)(uintptr_t)program};
    snprintf(text, sizeof text, "%s %s %s %s%s%s", subcommand, options, out ? "--out" : "", out ? folder : "",
             out ? "/" : "", out ? out : "");
    int argc = 1;
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    pid_t child = fork();
    if (child == 0) {
        int nothing = open("/dev/null", O_WRONLY);
        dup2(nothing, 1);
        dup2(nothing, 2);
        execv(program, argv);
        _exit(127);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* A written file as text; free with tn_buf_free. */
static tn_buf read_output(const char *out, const char *name) {
    char path[TN_PATH_MAX];
    tn_buf text = {0};
    snprintf(path, sizeof path, "%s/%s/%s", folder, out, name);
    assert_int_equal(tn_file_read(path, 1 << 28, &text), TN_OK);
    assert_int_equal(tn_utf8_valid_prefix(text.data, text.length), text.length);
    return text;
}

/* Calls `check` with each line's object; returns how many lines there were. */
static int for_each_row(tn_buf *text, void (*check)(const cJSON *row, void *context), void *context) {
    int count = 0;
    for (char *line = text->data, *end; (end = strchr(line, '\n')); line = end + 1, count++) {
        *end = 0;
        cJSON *row = cJSON_Parse(line);
        assert_non_null(row);
        check(row, context);
        cJSON_Delete(row);
        *end = '\n';
    }
    assert_int_equal(text->data[text->length - 1], '\n');
    return count;
}

static const char *field(const cJSON *row, const char *key) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, key));
    assert_non_null(text);
    return text;
}

static int compare_words(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "employees (name, city)" as "employees city name": the same key for every order of the columns. */
static void schema_key(const char *start, char key[256]) {
    char text[256], *words[16];
    size_t length = strcspn(start, ")");
    assert_true(length < sizeof text);
    memcpy(text, start, length);
    text[length] = 0;
    int count = 0;
    for (char *word = strtok(text, " (,"); word; word = strtok(NULL, " (,"))
        words[count++] = word;
    assert_in_range(count, 4, 6);
    qsort(words + 1, (size_t)count - 1, sizeof *words, compare_words);
    key[0] = 0;
    for (int i = 0; i < count; i++) {
        strcat(key, words[i]);
        strcat(key, " ");
    }
}

typedef struct split_check {
    tn_map *prompts, *schemas; /* schema -> the first split it was seen in */
    int split;
} split_check;

static void check_disjoint(const cJSON *row, void *context) {
    split_check *check = context;
    const char *prompt = field(row, "prompt");
    assert_false(tn_map_get_text(check->prompts, prompt, NULL));
    assert_int_equal(tn_map_put_text(check->prompts, prompt, 1), TN_OK);
    char key[256];
    int64_t split = check->split;
    assert_int_equal(strncmp(prompt, "Table: ", 7), 0);
    schema_key(prompt + 7, key);
    tn_map_get_text(check->schemas, key, &split);
    assert_int_equal(split, check->split);
    assert_int_equal(tn_map_put_text(check->schemas, key, split), TN_OK);
}

static const char *const splits[] = {"train.jsonl", "valid.jsonl", "test.jsonl"};

static void no_prompt_and_no_schema_is_shared(void **state) {
    (void)state;
    static const int rows[] = {3000, 300, 300};
    tn_map prompts = {0}, schemas = {0};
    assert_int_equal(run("sql", "--train 3000 --valid 300 --test 300", "disjoint"), 0);
    for (int i = 0; i < 3; i++) {
        split_check check = {&prompts, &schemas, i};
        tn_buf text = read_output("disjoint", splits[i]);
        assert_int_equal(for_each_row(&text, check_disjoint, &check), rows[i]);
        tn_buf_free(&text);
    }
    tn_map_free(&prompts);
    tn_map_free(&schemas);
}

/* Every lower-case word outside quotes is the table or a column; every value is in the question. */
static void check_answerable(const cJSON *row, void *context) {
    (void)context;
    const char *prompt = field(row, "prompt"), *sql = field(row, "completion");
    const char *question = strstr(prompt, ")\nQuestion: ");
    assert_non_null(question);
    assert_string_equal(prompt + strlen(prompt) - 5, "\nSQL:");
    assert_int_equal(strncmp(sql, " SELECT ", 8), 0);
    assert_int_equal(sql[strlen(sql) - 1], ';');
    assert_true(strlen(sql) <= 120);
    for (const char *p = sql; *p;) {
        char word[64];
        size_t length = 1;
        bool quoted = *p == '\'';
        if (quoted)
            length = strcspn(++p, "'");
        else if (isalnum((unsigned char)*p))
            length = strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789");
        assert_true(length < sizeof word);
        memcpy(word, p, length);
        word[length] = 0;
        const char *found = strstr(prompt, word);
        if (!quoted && islower((unsigned char)*word))
            assert_true(found && found < question);
        else if (quoted || (isdigit((unsigned char)*word) && !strstr(sql, "LIMIT 1;")))
            assert_non_null(strstr(question, word));
        p += length + quoted;
    }
}

static void every_completion_uses_only_what_the_prompt_says(void **state) {
    (void)state;
    assert_int_equal(run("sql", "--seed 3 --train 3000 --valid 100 --test 100", "answerable"), 0);
    for (int i = 0; i < 3; i++) {
        tn_buf text = read_output("answerable", splits[i]);
        for_each_row(&text, check_answerable, NULL);
        tn_buf_free(&text);
    }
}

/* The program itself refuses a prompt that comes up with two different answers. */
static void no_prompt_of_a_large_draw_has_two_answers(void **state) {
    (void)state;
    assert_int_equal(run("sql", "--seed 5 --train 60000 --valid 3000 --test 3000", "large"), 0);
}

static void check_text(const cJSON *row, void *context) {
    tn_map *schemas = context;
    const char *text = field(row, "text");
    assert_in_range(strlen(text), 100, 800);
    assert_null(strstr(text, "SQL"));
    const char *question = strstr(text, "Question:");
    assert_true(!question || !strstr(question, "SELECT"));
    if (strncmp(text, "Table: ", 7) == 0) {
        char key[256];
        schema_key(text + 7, key);
        assert_int_equal(tn_map_put_text(schemas, key, 1), TN_OK);
    }
}

static void check_unseen(const cJSON *row, void *context) {
    char key[256];
    schema_key(field(row, "prompt") + 7, key);
    assert_false(tn_map_get_text(context, key, NULL));
}

static void corpus_never_shows_the_task_nor_held_out_schemas(void **state) {
    (void)state;
    tn_map schemas = {0};
    assert_int_equal(run("corpus", "--bytes 1000000", "corpus"), 0);
    tn_buf text = read_output("corpus", "corpus.jsonl");
    assert_in_range(text.length, 1000000, 1002000);
    assert_true(for_each_row(&text, check_text, &schemas) > 1000);
    tn_buf_free(&text);
    assert_true(schemas.count > 100);
    assert_int_equal(run("sql", "--train 10 --valid 1000 --test 1000", "held-out"), 0);
    for (int i = 1; i < 3; i++) {
        text = read_output("held-out", splits[i]);
        for_each_row(&text, check_unseen, &schemas);
        tn_buf_free(&text);
    }
    tn_map_free(&schemas);
}

static void assert_same_file(const char *a, const char *b, const char *name, bool same) {
    tn_buf first = read_output(a, name), second = read_output(b, name);
    assert_int_equal(first.length == second.length && memcmp(first.data, second.data, first.length) == 0, same);
    tn_buf_free(&first);
    tn_buf_free(&second);
}

static void equal_seeds_write_equal_bytes(void **state) {
    (void)state;
    const char *const runs[][2] = {{"--seed 8", "a"}, {"--seed 8", "b"}, {"--seed 9", "c"}};
    for (int i = 0; i < 3; i++) {
        char options[64];
        snprintf(options, sizeof options, "%s --bytes 100000", runs[i][0]);
        assert_int_equal(run("corpus", options, runs[i][1]), 0);
        snprintf(options, sizeof options, "%s --train 200", runs[i][0]);
        assert_int_equal(run("sql", options, runs[i][1]), 0);
    }
    static const char *const names[] = {"corpus.jsonl", "train.jsonl", "valid.jsonl", "test.jsonl"};
    for (int i = 0; i < 4; i++) {
        assert_same_file("a", "b", names[i], true);
        assert_same_file("a", "c", names[i], false);
    }
}

static void unusable_options_are_refused(void **state) {
    (void)state;
    assert_int_equal(run("", "", NULL), 2);
    assert_int_equal(run("stories", "", "x"), 2);
    assert_int_equal(run("sql", "", NULL), 2);
    assert_int_equal(run("sql", "--train many", "x"), 2);
    assert_int_equal(run("sql", "--train 0", "x"), 2);
    assert_int_equal(run("sql", "--bytes 10", "x"), 2);
    assert_int_equal(run("corpus", "--bytes", NULL), 2);
    assert_int_equal(run("corpus", "--seed -1", "x"), 2);
    assert_int_equal(run("corpus", "--bytes 1000", "a/corpus.jsonl"), 1);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_prompt_and_no_schema_is_shared),
        cmocka_unit_test(every_completion_uses_only_what_the_prompt_says),
        cmocka_unit_test(no_prompt_of_a_large_draw_has_two_answers),
        cmocka_unit_test(corpus_never_shows_the_task_nor_held_out_schemas),
        cmocka_unit_test(equal_seeds_write_equal_bytes),
        cmocka_unit_test(unusable_options_are_refused),
    };
    if (argc < 2 || !mkdtemp(folder)) {
        fprintf(stderr, "usage: test_make_data PROGRAM\n");
        return 2;
    }
    program = argv[1];
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tn_path_remove_tree(folder);
    return failed;
}
