/* Runs the real program, and one with every kind of option, as child processes: exit codes and what they print. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"

/* Output and errors of the last child, together. */
static tn_buf output;
static char folder[] = "/tmp/tenon-cli-XXXXXX";

/* Runs "$TENON_PROGRAM ..." or "$TENON_SAMPLE ..." through the shell, in the test's folder; returns the exit code. */
static int run(const char *command) {
    char line[4096], chunk[4096];
    snprintf(line, sizeof line, "cd '%s' && exec 2>&1; %s", folder, command);
    tn_buf_clear(&output);
    FILE *pipe = popen(line, "r");
    assert_non_null(pipe);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, pipe)) > 0;)
        tn_buf_append(&output, chunk, n);
    int status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static const char *text(void) {
    return tn_buf_text(&output);
}

#define PRINTED(words) assert_non_null(strstr(text(), words))
#define NOT_PRINTED(words) assert_null(strstr(text(), words))

static void write_file(const char *name, const char *contents) {
    char path[TN_PATH_MAX];
    assert_int_equal(tn_path_join(path, folder, name), TN_OK);
    assert_int_equal(tn_file_write(path, contents, strlen(contents)), TN_OK);
}

static void version_prints_one_line(void **state) {
    (void)state;
    assert_int_equal(run("$TENON_PROGRAM --version"), 0);
    assert_string_equal(text(), "tenon " TENON_VERSION "\n");
    assert_int_equal(run("$TENON_PROGRAM version"), 0);
    PRINTED("tenon " TENON_VERSION "\nbuilt with ");
}

static void overview_lists_commands_but_no_hidden_one(void **state) {
    (void)state;
    static const char *const ways[] = {"$TENON_PROGRAM --help", "$TENON_PROGRAM -h", "$TENON_PROGRAM help"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(run(ways[i]), 0);
        PRINTED("usage: tenon COMMAND");
        PRINTED("\n  version ");
        NOT_PRINTED("generate-docs");
    }
}

static void methods_are_listed_with_their_numbers(void **state) {
    (void)state;
    assert_int_equal(run("$TENON_PROGRAM methods"), 0);
    PRINTED("one linear layer of 4096 x 4096");
    PRINTED("  lora                  65,536   0.391 %  yes    yes      arXiv:2106.09685");
    PRINTED("  dora                  69,632   0.415 %  yes    yes ");
    PRINTED("  adalora               98,316");
    PRINTED("  full              16,777,216     100 %");
    assert_int_equal(run("$TENON_PROGRAM methods adalora --rows 64 --cols 32 --rank 4"), 0);
    PRINTED("64 x 32, rank 4: 388 trained, 18.9 % of the layer\n");
    PRINTED("--delta-t            steps between two choices of ranks (at least 1; default 1; key deltaT)\n");
    assert_int_equal(run("$TENON_PROGRAM methods lora-fa --json"), 0);
    PRINTED("\"trained\": 32768,\n    \"frozen\": 32768,");
    assert_int_equal(run("$TENON_PROGRAM methods --rows 4 --json"), 0);
    PRINTED("\"trained\": null");
    assert_int_equal(run("$TENON_PROGRAM methods lora --rows 4"), 1);
    PRINTED("tenon: rank 8 does not fit layer, whose weight is 4 x 4096; choose 1 to 4\n");
    assert_int_equal(run("$TENON_PROGRAM methods lorra"), 1);
    PRINTED("there is no method 'lorra' (did you mean 'lora'?)");
}

static void wrong_usage_ends_with_2_and_a_hint(void **state) {
    (void)state;
    static const struct {
        const char *line, *said;
    } cases[] = {
        {"$TENON_PROGRAM", "tenon: a command is missing\nsee tenon --help\n"},
        {"$TENON_PROGRAM verison", "tenon: there is no command 'verison'; did you mean version?\nsee tenon --help\n"},
        {"$TENON_PROGRAM ''", "tenon: there is no command ''"},
        {"$TENON_PROGRAM --verbose version",
         "tenon: unknown option --verbose; options follow the command\nsee tenon --help\n"},
        {"$TENON_PROGRAM help trian", "tenon: there is no command 'trian'"},
        {"$TENON_PROGRAM version now", "tenon: unexpected argument 'now'\nsee tenon version --help\n"},
        {"$TENON_SAMPLE train", "tenon: missing: --model\nsee tenon train --help\n"},
        {"$TENON_SAMPLE train --rnak 8", "tenon: unknown option --rnak; did you mean --rank?\nsee tenon train --help\n"},
        {"$TENON_SAMPLE train -m x --rank 0", "tenon: --rank: '0' is not a whole number from 1 to 4096\n"},
        {"$TENON_SAMPLE train -m x --prompt usage", "tenon: these do not go together\nsee tenon train --help\n"},
        {"$TENON_SAMPLE train -m x --rank \"$(printf '\\033[31m')\"", "' [31m' is not"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(run(cases[i].line), 2);
        PRINTED(cases[i].said);
    }
}

static void failure_ends_with_1(void **state) {
    (void)state;
    assert_int_equal(run("$TENON_SAMPLE train -m x --prompt fail"), 1);
    assert_string_equal(text(), "tenon: the disk is full\n");
    assert_int_equal(run("$TENON_SAMPLE train -m x --prompt reported"), 1);
    assert_string_equal(text(), "");
    assert_int_equal(run("$TENON_SAMPLE generate-docs /proc/nothing"), 1);
    PRINTED("tenon: cannot create the folder /proc/nothing");
}

static void full_disk_under_the_output_is_a_failure(void **state) {
    (void)state;
    if (!tn_path_exists("/dev/full"))
        skip();
    assert_int_equal(run("$TENON_SAMPLE train --help > /dev/full"), 1);
    PRINTED("tenon: cannot write to standard output: No space left on device");
    assert_int_equal(run("$TENON_SAMPLE train -m x > /dev/full"), 1);
    assert_int_equal(run("$TENON_PROGRAM --version > /dev/full"), 1);
}

static void help_shows_every_option_with_its_default(void **state) {
    (void)state;
    assert_int_equal(run("$TENON_SAMPLE train --rank bad --help"), 0);
    PRINTED("usage: tenon train --model DIR [options] [FILE...]\n");
    PRINTED("\nArguments:\n  FILE... ");
    PRINTED("\nAdapter:\n      --rank N ");
    PRINTED("(from 1 to 4096; default 8)");
    PRINTED("\n  -m, --model DIR           the pretrained model (required)\n");
    PRINTED("\n      --[no-]pack           pack samples (default true)\n");
    PRINTED("k_proj, v_proj; default q_proj,v_proj)\n");
    PRINTED("\n  -h, --help ");
    PRINTED("\n      --learning-rate X     (default 1e-4)\n");
    PRINTED("(may be repeated)");
    PRINTED("\nExamples:\n  # the shortest run\n  sample train --model base data.jsonl\n");
    NOT_PRINTED("--end");
    /* One heading, though its rows are in two tables. */
    assert_null(strstr(strstr(text(), "\nRun:\n") + 1, "\nRun:\n"));
    tn_buf first = {0};
    tn_buf_puts(&first, text());
    assert_int_equal(run("$TENON_SAMPLE help train"), 0);
    assert_string_equal(text(), first.data);
    tn_buf_free(&first);
}

static void help_fits_the_width(void **state) {
    (void)state;
    for (int width = 20; width <= 200; width += 20) {
        char line[200];
        int limit = width < 40 ? 40 : width > 100 ? 100 : width;
        snprintf(line, sizeof line, "COLUMNS=%d $TENON_SAMPLE help train | sed '/^Examples/,$d'", width);
        assert_int_equal(run(line), 0);
        for (char *part = strtok(output.data, "\n"); part; part = strtok(NULL, "\n")) {
            /* A word that does not fit has a line of its own; the em dash is three bytes of one column. */
            bool one_word = !strchr(part + strspn(part, " "), ' ');
            if (!one_word && (int)strlen(part) > limit + 2)
                fail_msg("wider than %d: %s", limit, part);
        }
    }
}

static void help_after_a_lone_double_dash_is_an_argument(void **state) {
    (void)state;
    assert_int_equal(run("$TENON_SAMPLE train -m x -- --help"), 0);
    PRINTED("file: [\"--help\"]");
}

static void effective_configuration_names_every_option(void **state) {
    (void)state;
    assert_int_equal(run("$TENON_SAMPLE train -m base --seed 9223372036854775807 --prompt 'a \"b\" \\ #c' -s no -s 'x, y' "
                         "--schedule off --no-pack one.jsonl"),
                     0);
    assert_string_equal(text(), "# Run\nmodel: base\nout: out\nseed: \"9223372036854775807\"\nverbose: null\nend: null\n"
                                "\n# Adapter\nrank: 8\ntargets: [q_proj, v_proj]\n"
                                "\n# Optimiser\nlearning-rate: 0.0001\nschedule: \"off\"\n"
                                "\n# Data\npack: false\nprompt: \"a \\\"b\\\" \\\\ #c\"\n"
                                "\n# Run\nstop: [\"no\", \"x, y\"]\nfile: [one.jsonl]\n");
}

static bool reads_yaml(void) {
    write_file("empty.yaml", "{}\n");
    run("$TENON_SAMPLE train -m x --config empty.yaml");
    return !strstr(text(), "this build cannot read YAML");
}

static void run_file_fills_in_what_no_flag_sets(void **state) {
    (void)state;
    if (!reads_yaml())
        skip();
    write_file("run.yaml", "# a run\nmodel: base\nrank: 16\nlearning_rate: 2e-5\ntargets: [k_proj]\npack: false\n"
                           "prompt: \"it: x\"\nseed: \"9007199254740993\"\nout: null\nstop: [a]\n");
    assert_int_equal(run("$TENON_SAMPLE train --config run.yaml --rank 4 --stop b"), 0);
    PRINTED("model: base\nout: out\nseed: \"9007199254740993\"\n");
    PRINTED("rank: 4\ntargets: [k_proj]\n");
    PRINTED("learning-rate: 2e-05\n");
    PRINTED("prompt: \"it: x\"\n");
    PRINTED("stop: [b]\n");
    assert_int_equal(run("$TENON_SAMPLE train --config run.yaml --rank 4 > again.yaml && cp again.yaml one.yaml && "
                         "$TENON_SAMPLE train --config one.yaml > two.yaml && cmp one.yaml two.yaml"),
                     0);
}

static void run_file_is_checked_like_the_command_line(void **state) {
    (void)state;
    static const struct {
        const char *yaml, *said;
    } cases[] = {
        {"model: x\nrnak: 8\n", "tenon: run.yaml: unknown option rnak; did you mean rank?\nsee tenon train --help\n"},
        {"model: x\nrank: 0\n", "run.yaml: rank: '0' is not a whole number from 1 to 4096"},
        {"model: x\nrank: 8.5\n", "'8.5' is not a whole number"},
        {"model: x\nrank: [8]\n", "rank: a single value is needed, not a list"},
        {"model: x\nrank: {r: 8}\n", "rank: options are not nested"},
        {"model: x\nseed: 9007199254740994\n", "seed: the value cannot be read without loss; put it in quotes"},
        {"model: x\nprompt: 1.10\n", "prompt: the value cannot be read without loss; put it in quotes"},
        {"model: x\ntargets: [q_proj, 7]\n", "put it in quotes"},
        {"model: x\ntargets: [q_prj]\n", "'q_prj' is not one of"},
        {"model: x\nconfig: run.yaml\n", "config: a run file cannot name another"},
        {"model: x\nlearning-rate: 1\nlearning_rate: 2\n", "learning-rate is set twice"},
        {"- model\n", "run.yaml: each line must be an option: value pair"},
        {"rank: 8\n", "missing: --model"},
        {"# nothing\n", "missing: --model"},
    };
    if (!reads_yaml())
        skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file("run.yaml", cases[i].yaml);
        assert_int_equal(run("$TENON_SAMPLE train --config run.yaml"), 2);
        PRINTED(cases[i].said);
    }
    assert_int_equal(run("$TENON_SAMPLE train --config absent.yaml"), 1);
    PRINTED("absent.yaml");
}

static void documents_pass_their_checkers(void **state) {
    (void)state;
    assert_int_equal(run("$TENON_SAMPLE generate-docs docs && ls docs/man/man1"), 0);
    assert_string_equal(text(), "tenon-help.1\ntenon-train.1\ntenon-version.1\ntenon.1\n");
    if (run("command -v groff") == 0) {
        assert_int_equal(run("for page in docs/man/man1/*; do groff -man -Tascii -ww $page > /dev/null; done"), 0);
        assert_string_equal(text(), "");
        assert_int_equal(run("groff -man -Tutf8 -P -cbou -rLL=100n docs/man/man1/tenon-train.1"), 0);
        PRINTED("tenon train --model DIR [options] [FILE...]");
        PRINTED("which of \\them\\ are");
        PRINTED(".a line that begins with a dot.");
        PRINTED(".how the learning rate moves\u2014over time");
        PRINTED("sample train --config run.yaml --stop '\\n'");
        NOT_PRINTED("--end");
    }
    static const char *const shells[][2] = {{"bash", "docs/bash-completion/completions/tenon"},
                                            {"zsh", "docs/zsh/site-functions/_tenon"},
                                            {"fish", "docs/fish/vendor_completions.d/tenon.fish"}};
    for (size_t i = 0; i < 3; i++) {
        char line[200];
        snprintf(line, sizeof line, "! command -v %s > /dev/null || %s -n %s", shells[i][0], shells[i][0], shells[i][1]);
        assert_int_equal(run(line), 0);
        assert_string_equal(text(), "");
    }
}

/* What bash offers after the words of a line, the last one being completed. */
static const char *bash_offers(const char *words) {
    char line[600];
    snprintf(line, sizeof line,
             "bash -c 'compopt() { :; }; . docs/bash-completion/completions/tenon; COMP_WORDS=(%s); "
             "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _tenon; echo \"${COMPREPLY[*]}\"'",
             words);
    assert_int_equal(run(line), 0);
    return text();
}

static void bash_completes_commands_options_choices_and_files(void **state) {
    (void)state;
    if (run("command -v bash") != 0)
        skip();
    assert_int_equal(run("$TENON_SAMPLE generate-docs docs"), 0);
    write_file("spaced name.jsonl", "");
    assert_string_equal(bash_offers("tenon tr"), "train\n");
    assert_string_equal(bash_offers("tenon help v"), "version\n");
    assert_string_equal(bash_offers("tenon train --se"), "--seed\n");
    assert_string_equal(bash_offers("tenon train --no"), "--no-pack\n");
    assert_string_equal(bash_offers("tenon train --end"), "\n");
    assert_string_equal(bash_offers("tenon train --schedule of"), "off\n");
    assert_string_equal(bash_offers("tenon train --schedule = of"), "off\n");
    assert_string_equal(bash_offers("tenon train --model spa"), "spaced name.jsonl\n");
    assert_string_equal(bash_offers("tenon train -o spa"), "spaced name.jsonl\n");
    assert_string_equal(bash_offers("tenon train spa"), "spaced name.jsonl\n");
    assert_string_equal(bash_offers("tenon train --seed o"), "\n");
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    tn_buf_free(&output);
    return tn_path_remove_tree(folder) == TN_OK ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_prints_one_line),
        cmocka_unit_test(overview_lists_commands_but_no_hidden_one),
        cmocka_unit_test(methods_are_listed_with_their_numbers),
        cmocka_unit_test(wrong_usage_ends_with_2_and_a_hint),
        cmocka_unit_test(failure_ends_with_1),
        cmocka_unit_test(full_disk_under_the_output_is_a_failure),
        cmocka_unit_test(help_shows_every_option_with_its_default),
        cmocka_unit_test(help_fits_the_width),
        cmocka_unit_test(help_after_a_lone_double_dash_is_an_argument),
        cmocka_unit_test(effective_configuration_names_every_option),
        cmocka_unit_test(run_file_fills_in_what_no_flag_sets),
        cmocka_unit_test(run_file_is_checked_like_the_command_line),
        cmocka_unit_test(documents_pass_their_checkers),
        cmocka_unit_test(bash_completes_commands_options_choices_and_files),
    };
    return cmocka_run_group_tests_name("cli", tests, make_folder, remove_folder);
}
