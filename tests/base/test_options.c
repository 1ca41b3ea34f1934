/* Tables of options: defaults, checking, the command line, lists, sources. And numbers to text and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <locale.h>
#include <math.h>
#include <string.h>

#include "base/format.h"
#include "base/options.h"

enum schedule { SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_LINEAR };

struct adapter {
    int r;
    float alpha;
    double dropout;
    bool use_rslora;
    tn_text_list targets;
};

struct config {
    int64_t seed;
    const char *model, *run_file, *tag;
    enum schedule schedule;
    double learning_rate;
    bool pack;
    int max_steps, bits;
    tn_text_list files, stop;
    struct adapter adapter;
};

static const char *const schedules[] = {"constant", "cosine", "linear", NULL};
static const char *const widths[] = {"4", "8", NULL};
static const char *const layers[] = {"q_proj", "v_proj", "o_proj", NULL};

static const tn_option common_options[] = {
    {.name = "model", .type = TN_OPTION_PATH, TN_FIELD(struct config, model), .flags = TN_OPTION_REQUIRED, .alias = 'm'},
    {.name = "seed", .type = TN_OPTION_INT, TN_FIELD(struct config, seed), .initial = "42"},
    {.name = "tag", .type = TN_OPTION_STRING, TN_FIELD(struct config, tag)},
    {.name = "schedule",
     .type = TN_OPTION_CHOICE,
     TN_FIELD(struct config, schedule),
     .initial = "cosine",
     .choices = schedules},
    {.name = "learning-rate",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(struct config, learning_rate),
     .initial = "1e-4",
     .high = INFINITY,
     .flags = TN_OPTION_ABOVE_LOW},
    {.name = "pack", .type = TN_OPTION_BOOL, TN_FIELD(struct config, pack), .initial = "true"},
    {.name = "max-steps", .type = TN_OPTION_INT, TN_FIELD(struct config, max_steps), .low = 1, .high = INFINITY},
    {.name = "bits", .type = TN_OPTION_CHOICE, TN_FIELD(struct config, bits), .choices = widths},
    {.name = "stop", .type = TN_OPTION_LIST, TN_FIELD(struct config, stop), .flags = TN_OPTION_REPEATABLE},
    {.name = "file",
     .type = TN_OPTION_LIST,
     TN_FIELD(struct config, files),
     .flags = TN_OPTION_POSITIONAL,
     .value_name = "FILE"},
    {0},
};

static const tn_option adapter_options[] = {
    {.name = "lora-r", .type = TN_OPTION_INT, TN_FIELD(struct adapter, r), .initial = "8", .low = 1, .high = 4096},
    {.name = "lora-alpha", .type = TN_OPTION_FLOAT, TN_FIELD(struct adapter, alpha), .initial = "16.1"},
    {.name = "lora-dropout",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(struct adapter, dropout),
     .initial = "0",
     .high = 1,
     .flags = TN_OPTION_BELOW_HIGH},
    {.name = "use-rslora", .type = TN_OPTION_BOOL, TN_FIELD(struct adapter, use_rslora)},
    {.name = "target-modules",
     .type = TN_OPTION_LIST,
     TN_FIELD(struct adapter, targets),
     .initial = "q_proj,v_proj",
     .choices = layers},
    {0},
};

static const tn_option_table tables[] = {{common_options, 0}, {adapter_options, offsetof(struct config, adapter)}, {0}};

struct fixture {
    struct config config;
    tn_options options;
    size_t memory;
};

static int start(void **state) {
    static struct fixture fixture;
    fixture.memory = tn_memory_used();
    memset(&fixture.config, 0xee, sizeof fixture.config);
    *state = &fixture;
    return tn_options_start(&fixture.options, tables, &fixture.config);
}

static int stop(void **state) {
    struct fixture *f = *state;
    tn_options_free(&f->options);
    return tn_memory_used() == f->memory ? 0 : -1;
}

#define PARSE(...)                                                                                                          \
    tn_options_parse(&f->options, (int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)), (char *const[]){__VA_ARGS__})
#define SET(name, text) tn_options_set(&f->options, name, text, TN_SOURCE_FLAG)
#define MESSAGE_HAS(words) assert_non_null(strstr(tn_error_message(), words))

static void every_default_is_set(void **state) {
    struct fixture *f = *state;
    const struct config *c = &f->config;
    assert_null(c->model);
    assert_null(c->tag);
    assert_int_equal(c->seed, 42);
    assert_int_equal(c->schedule, SCHEDULE_COSINE);
    assert_true(c->learning_rate == 1e-4 && c->pack && !c->adapter.use_rslora);
    assert_int_equal(c->max_steps, 0);
    assert_int_equal(c->bits, -1);
    assert_int_equal(c->files.count, 0);
    assert_int_equal(c->adapter.r, 8);
    assert_true(c->adapter.alpha == 16.1f);
    assert_int_equal(c->adapter.targets.count, 2);
    assert_string_equal(c->adapter.targets.items[1], "v_proj");
    assert_false(tn_options_given(&f->options, "seed"));
}

static void command_line_is_read_in_all_its_forms(void **state) {
    struct fixture *f = *state;
    const struct config *c = &f->config;
    assert_int_equal(PARSE("--seed", "-7", "--lora-r=16", "-m", "base", "one", "--no-pack", "--use_rslora", "two,three", "-",
                           "--learning-rate", "2E-5", "--tag=", "--schedule=linear", "--", "--seed"),
                     TN_OK);
    assert_int_equal(c->seed, -7);
    assert_int_equal(c->adapter.r, 16);
    assert_string_equal(c->model, "base");
    assert_true(!c->pack && c->adapter.use_rslora && c->learning_rate == 2e-5);
    assert_string_equal(c->tag, "");
    assert_int_equal(c->schedule, SCHEDULE_LINEAR);
    assert_int_equal(c->files.count, 4);
    assert_string_equal(c->files.items[1], "two,three");
    assert_string_equal(c->files.items[2], "-");
    assert_string_equal(c->files.items[3], "--seed");
    assert_true(tn_options_given(&f->options, "seed") && !tn_options_given(&f->options, "lora-alpha"));
    assert_int_equal(tn_options_check_required(&f->options), TN_OK);
}

static void last_of_a_repeated_option_wins_and_a_list_grows(void **state) {
    struct fixture *f = *state;
    assert_int_equal(PARSE("--seed=1", "--seed=2", "--pack=no", "--pack", "--target-modules", "o_proj,q_proj",
                           "--target-modules=v_proj", "--stop", "a,b", "--stop", ""),
                     TN_OK);
    assert_int_equal(f->config.seed, 2);
    assert_true(f->config.pack);
    assert_int_equal(f->config.adapter.targets.count, 3);
    assert_string_equal(f->config.adapter.targets.items[0], "o_proj");
    assert_string_equal(f->config.adapter.targets.items[2], "v_proj");
    assert_int_equal(f->config.stop.count, 2);
    assert_string_equal(f->config.stop.items[0], "a,b");
    assert_string_equal(f->config.stop.items[1], "");
}

static void unknown_option_suggests_the_nearest(void **state) {
    struct fixture *f = *state;
    assert_int_equal(PARSE("--lerning-rate", "1"), TN_ERROR_ARGUMENT);
    assert_string_equal(tn_error_message(), "unknown option --lerning-rate; did you mean --learning-rate?");
    assert_int_equal(PARSE("--zzzzzzzzzzzzzzz"), TN_ERROR_ARGUMENT);
    assert_string_equal(tn_error_message(), "unknown option --zzzzzzzzzzzzzzz");
    assert_int_equal(PARSE("--no-seed"), TN_ERROR_ARGUMENT);
    assert_int_equal(PARSE("--no-pack=1"), TN_ERROR_ARGUMENT);
    assert_int_equal(PARSE("-x"), TN_ERROR_ARGUMENT);
    assert_int_equal(PARSE("--file", "x"), TN_ERROR_ARGUMENT);
    MESSAGE_HAS("FILE is given as a plain argument");
    assert_int_equal(SET("file_", "x"), TN_ERROR_ARGUMENT);
}

static void value_that_is_missing_is_an_error(void **state) {
    struct fixture *f = *state;
    assert_int_equal(PARSE("--seed"), TN_ERROR_ARGUMENT);
    assert_string_equal(tn_error_message(), "--seed needs a value");
    assert_int_equal(PARSE("--tag", "--seed", "1"), TN_ERROR_ARGUMENT);
    MESSAGE_HAS("--tag needs a value");
    assert_int_equal(PARSE("--tag=--seed"), TN_OK);
    assert_int_equal(tn_options_check_required(&f->options), TN_ERROR_ARGUMENT);
    assert_string_equal(tn_error_message(), "missing: --model");
}

static void bad_value_names_option_value_and_what_is_allowed(void **state) {
    struct fixture *f = *state;
    static const struct {
        const char *name, *text, *message;
    } cases[] = {
        {"lora-r", "0", "--lora-r: '0' is not a whole number from 1 to 4096"},
        {"lora-r", "4097", "from 1 to 4096"},
        {"lora-r", "8.0", "a whole number"},
        {"lora-r", "10k", "'10k'"},
        {"lora-r", "", "''"},
        {"lora-r", " 8", "' 8'"},
        {"lora-r", "0x10", "'0x10'"},
        {"seed", "9223372036854775808", "--seed: '9223372036854775808' is not a whole number"},
        {"max-steps", "2147483648", "a whole number at least 1"},
        {"learning-rate", "0", "a number above 0"},
        {"learning-rate", "nan", "a number above 0"},
        {"learning-rate", "inf", "a number"},
        {"learning-rate", "1e999", "a number"},
        {"learning-rate", "1e-999", "a number above 0"},
        {"learning-rate", "1e", "a number"},
        {"learning-rate", "1,5", "a number"},
        {"lora-alpha", "1e300", "a number"},
        {"lora-dropout", "1", "a number at least 0 and below 1"},
        {"schedule", "cosin", "'cosin' is not one of constant, cosine, linear; did you mean cosine?"},
        {"pack", "maybe", "true or false"},
        {"model", "", "the path is empty"},
        {"tag", "\xff", "valid UTF-8"},
        {"stop", "\xff", "valid UTF-8"},
        {"target-modules", "q_proj,k_prj", "'k_prj' is not one of q_proj, v_proj, o_proj"},
        {"target-modules", "q_proj,,v_proj", "empty item"},
        {"target-modules", "q_proj,", "empty item"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(SET(cases[i].name, cases[i].text), TN_ERROR_ARGUMENT);
        MESSAGE_HAS(cases[i].message);
        assert_false(tn_options_given(&f->options, cases[i].name));
    }
}

static void flag_wins_over_file_but_the_file_is_still_checked(void **state) {
    struct fixture *f = *state;
    assert_int_equal(PARSE("--lora-r=4", "--target-modules=o_proj"), TN_OK);
    assert_int_equal(tn_options_set(&f->options, "lora_r", "2", TN_SOURCE_FILE), TN_OK);
    assert_int_equal(tn_options_set(&f->options, "lora_r", "x", TN_SOURCE_FILE), TN_ERROR_ARGUMENT);
    MESSAGE_HAS("lora-r: 'x'");
    assert_int_equal(tn_options_set(&f->options, "seed", "5", TN_SOURCE_FILE), TN_OK);
    const char *items[] = {"q_proj"};
    assert_int_equal(tn_options_set_list(&f->options, "target-modules", items, 1, TN_SOURCE_FILE), TN_OK);
    assert_int_equal(tn_options_set_list(&f->options, "stop", items, 1, TN_SOURCE_FILE), TN_OK);
    assert_int_equal(tn_options_set_list(&f->options, "seed", items, 1, TN_SOURCE_FILE), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_options_set_list(&f->options, "sead", items, 1, TN_SOURCE_FILE), TN_ERROR_ARGUMENT);
    assert_string_equal(tn_error_message(), "unknown option sead; did you mean seed?");
    assert_int_equal(f->config.adapter.r, 4);
    assert_int_equal(f->config.seed, 5);
    assert_string_equal(f->config.adapter.targets.items[0], "o_proj");
    assert_int_equal(f->config.stop.count, 1);
}

static void values_print_as_they_were_given(void **state) {
    struct fixture *f = *state;
    static const char *const pairs[][2] = {{"seed", "-9223372036854775808"},    {"lora-r", "12"},  {"lora-alpha", "0.1"},
                                           {"learning-rate", "3e-05"},          {"pack", "false"}, {"schedule", "linear"},
                                           {"target-modules", "v_proj,q_proj"}, {"bits", "4"},     {"tag", "a b"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        tn_buf text = {0};
        assert_int_equal(SET(pairs[i][0], pairs[i][1]), TN_OK);
        tn_options_print_value(&text, tn_options_find(&f->options, pairs[i][0]));
        assert_string_equal(tn_buf_text(&text), pairs[i][1]);
        tn_buf_free(&text);
    }
    tn_buf nothing = {0};
    tn_options_print_value(&nothing, tn_options_find(&f->options, "max-steps"));
    assert_int_equal(nothing.length, 0);
}

static void argument_too_many_is_an_error(void **state) {
    (void)state;
    struct {
        const char *name;
    } config;
    const tn_option one[] = {{.name = "name",
                              .type = TN_OPTION_STRING,
                              .offset = 0,
                              .size = sizeof config.name,
                              .flags = TN_OPTION_POSITIONAL | TN_OPTION_REQUIRED,
                              .value_name = "NAME"},
                             {0}};
    const tn_option_table joined[] = {{one, 0}, {0}};
    tn_options options;
    assert_int_equal(tn_options_start(&options, joined, &config), TN_OK);
    assert_int_equal(tn_options_check_required(&options), TN_ERROR_ARGUMENT);
    assert_string_equal(tn_error_message(), "missing: NAME");
    assert_int_equal(tn_options_parse(&options, 1, (char *[]){"-5"}), TN_OK);
    assert_string_equal(config.name, "-5");
    assert_int_equal(tn_options_parse(&options, 2, (char *[]){"a", "b"}), TN_ERROR_ARGUMENT);
    assert_string_equal(tn_error_message(), "unexpected argument 'b'");
    tn_options_free(&options);
}

static void table_that_contradicts_itself_is_refused(void **state) {
    (void)state;
    struct config config;
    const tn_option twice[] = {{.name = "a", .type = TN_OPTION_BOOL, TN_FIELD(struct config, pack)},
                               {.name = "a", .type = TN_OPTION_BOOL, TN_FIELD(struct config, pack)},
                               {0}};
    const tn_option wrong_field[] = {{.name = "a", .type = TN_OPTION_BOOL, TN_FIELD(struct config, seed)}, {0}};
    const tn_option wrong_default[] = {
        {.name = "a", .type = TN_OPTION_INT, TN_FIELD(struct config, seed), .initial = "9", .low = 1, .high = 2}, {0}};
    const tn_option *const bad[] = {twice, wrong_field, wrong_default};
    for (size_t i = 0; i < 3; i++) {
        tn_options options;
        const tn_option_table joined[] = {{bad[i], 0}, {0}};
        assert_int_equal(tn_options_start(&options, joined, &config), TN_ERROR_ARGUMENT);
        tn_options_free(&options);
    }
}

static void failed_allocations_are_errors(void **state) {
    (void)state;
    char *line[] = {"--target-modules=q_proj", "--model", "x", "--stop=a", "--stop=b", "f"};
    size_t before = tn_memory_used();
    tn_status status = TN_ERROR_MEMORY;
    for (int64_t count = 0; status != TN_OK && count < 100; count++) {
        struct config config;
        tn_options options;
        tn_memory_fail_after(count);
        status = tn_options_start(&options, tables, &config);
        if (status == TN_OK)
            status = tn_options_parse(&options, 6, line);
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
        tn_options_free(&options);
        assert_int_equal(tn_memory_used(), before);
    }
    assert_int_equal(status, TN_OK);
}

static void numbers_read_for_people(void **state) {
    (void)state;
    static const struct {
        const char *(*format)(char *, double);
        double value;
        const char *text;
    } cases[] = {
        {tn_format_duration, 0, "0:00"},
        {tn_format_duration, 59.6, "1:00"},
        {tn_format_duration, 3599.9, "1:00:00"},
        {tn_format_duration, 11045, "3:04:05"},
        {tn_format_duration, 183840, "2 d 03:04"},
        {tn_format_duration, -1, "-:--"},
        {tn_format_duration, NAN, "-:--"},
        {tn_format_duration, INFINITY, "-:--"},
        {tn_format_count, 0, "0"},
        {tn_format_count, 999, "999"},
        {tn_format_count, 0.5, "0.50"},
        {tn_format_count, 1234, "1.23 k"},
        {tn_format_count, 9996, "10.0 k"},
        {tn_format_count, 999499, "999 k"},
        {tn_format_count, 999500, "1.00 M"},
        {tn_format_count, 1.2345e6, "1.23 M"},
        {tn_format_count, -7e9, "-7.00 G"},
        {tn_format_count, NAN, "-"},
        {tn_format_count, 1e30, "1000000000000 E"},
        {tn_format_bytes, 512, "512 B"},
        {tn_format_bytes, 1e6, "1.00 MB"},
        {tn_format_bytes, 3.5149e9, "3.51 GB"},
        {tn_format_double, 0.1, "0.1"},
        {tn_format_double, 1e-5, "1e-05"},
        {tn_format_double, 1.0 / 3, "0.3333333333333333"},
        {tn_format_double, -0.0, "-0"},
        {tn_format_double, -NAN, "nan"},
        {tn_format_double, INFINITY, "inf"},
    };
    char text[TN_FORMAT_TEXT];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(cases[i].format(text, cases[i].value), cases[i].text);
    assert_string_equal(tn_format_float(text, 0.1f), "0.1");
}

static void numbers_do_not_follow_the_locale(void **state) {
    (void)state;
    char text[TN_FORMAT_TEXT];
    double number = 0;
    if (!setlocale(LC_ALL, "de_DE.UTF-8"))
        skip();
    bool read = tn_parse_double("1.5", &number);
    tn_format(text, sizeof text, "%.2f", 2.25);
    setlocale(LC_ALL, "C");
    assert_true(read && number == 1.5);
    assert_string_equal(text, "2.25");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_default_is_set, start, stop),
        cmocka_unit_test_setup_teardown(command_line_is_read_in_all_its_forms, start, stop),
        cmocka_unit_test_setup_teardown(last_of_a_repeated_option_wins_and_a_list_grows, start, stop),
        cmocka_unit_test_setup_teardown(unknown_option_suggests_the_nearest, start, stop),
        cmocka_unit_test_setup_teardown(value_that_is_missing_is_an_error, start, stop),
        cmocka_unit_test_setup_teardown(bad_value_names_option_value_and_what_is_allowed, start, stop),
        cmocka_unit_test_setup_teardown(flag_wins_over_file_but_the_file_is_still_checked, start, stop),
        cmocka_unit_test_setup_teardown(values_print_as_they_were_given, start, stop),
        cmocka_unit_test(argument_too_many_is_an_error),
        cmocka_unit_test(table_that_contradicts_itself_is_refused),
        cmocka_unit_test(failed_allocations_are_errors),
        cmocka_unit_test(numbers_read_for_people),
        cmocka_unit_test(numbers_do_not_follow_the_locale),
    };
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
