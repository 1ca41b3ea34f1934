/* The list of methods: complete, and with the numbers that adapters of those shapes have. */
#include "support/support.h"

#include <tenon/methods.h>

static size_t index_of(const char *name) {
    size_t index;
    assert_ok(tn_method_find(name, &index));
    return index;
}

static void every_registered_method_describes_itself(void **state) {
    tn_method_info info;
    size_t own = 0, presets = 0, methods = 0, names = 0;
    (void)state;
    for (size_t i = 0; i < tn_method_count(); i++) {
        assert_ok(tn_method_describe(i, &info));
        assert_true(info.name && info.method && *info.flags && info.summary && info.formula);
        assert_int_equal(index_of(info.name), i);
        assert_true(info.mergeable || *info.obstacle);
        own += info.kind == TN_METHOD_OWN;
        presets += info.kind == TN_METHOD_PRESET;
        for (size_t k = 0; k < info.option_count; k++) {
            tn_method_option option;
            tn_method_describe_option(i, k, &option);
            assert_true(option.name && option.help && *option.key);
        }
    }
    while (tn_peft_methods[methods])
        methods++;
    while (tn_peft_presets[names].name)
        names++;
    assert_int_equal(own, methods + 1); /* and full */
    assert_int_equal(presets, names);
    size_t index;
    assert_fails(tn_method_find("lorra", &index), TN_ERROR_ARGUMENT, "did you mean 'lora'");
}

static void numbers_are_those_of_the_formulas(void **state) {
    static const struct {
        const char *name;
        int64_t rank, trained, frozen;
    } wanted[] = {
        {"lora", 3, 3 * (20 + 12), 0},
        {"lora", 0, 8 * (20 + 12), 0},
        {"dora", 3, 3 * (20 + 12) + 20, 0},
        {"lora-fa", 3, 3 * 20, 3 * 12},
        {"adalora", 3, 3 * (20 + 12 + 1), 0},
        {"rslora", 4, 4 * (20 + 12), 0},
        {"pissa", 3, 3 * (20 + 12), 0},
        {"full", 0, 20 * 12, 0},
        {"ia3", 0, 20, 0},
        {"vera", 4, 20 + 4, 4 * (20 + 12)},
        {"pissa_niter_K", 2, 2 * (20 + 12), 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        int64_t trained, frozen;
        assert_ok(tn_method_parameters(index_of(wanted[i].name), 20, 12, wanted[i].rank, &trained, &frozen));
        assert_int_equal(trained, wanted[i].trained);
        assert_int_equal(frozen, wanted[i].frozen);
    }
}

/* The layer has no memory: one of petabytes is as good as any. */
static void large_layers_cost_nothing(void **state) {
    int64_t trained, frozen;
    size_t used = tn_memory_used();
    (void)state;
    assert_ok(tn_method_parameters(index_of("lora"), 1 << 24, 1 << 24, 8, &trained, &frozen));
    assert_int_equal(trained, INT64_C(16) << 24);
    assert_int_equal(tn_memory_used(), used);
    assert_fails(tn_method_parameters(index_of("lora"), INT64_C(1) << 40, INT64_C(1) << 40, 8, &trained, &frozen),
                 TN_ERROR_ARGUMENT, "makes no sense");
    assert_fails(tn_method_parameters(index_of("lora"), 4, 6, 5, &trained, &frozen), TN_ERROR_ARGUMENT, "choose 1 to 4");
    assert_int_equal(tn_memory_used(), used);
}

static void merging_is_possible_where_it_is_said_to_be(void **state) {
    static const struct {
        const char *name, *obstacle;
        bool mergeable, unmergeable;
    } wanted[] = {
        {"lora", "", true, true}, {"adalora", "", true, true}, {"dora", "", true, true},
        {"ia3", "", true, true},  {"olora", "", true, true},   {"full", "no adapter to merge", false, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        tn_method_info info;
        assert_ok(tn_method_describe(index_of(wanted[i].name), &info));
        assert_int_equal(info.mergeable, wanted[i].mergeable);
        assert_int_equal(info.unmergeable, wanted[i].unmergeable);
        assert_non_null(strstr(info.obstacle, wanted[i].obstacle));
    }
}

static void options_have_their_names_in_files(void **state) {
    tn_method_info info;
    tn_method_option option;
    size_t index = index_of("adalora");
    (void)state;
    assert_ok(tn_method_describe(index, &info));
    assert_int_equal(info.option_count, 8);
    tn_method_describe_option(index, 3, &option);
    assert_string_equal(option.name, "delta-t");
    assert_string_equal(option.key, "deltaT");
    assert_string_equal(option.initial, "1");
    assert_string_equal(option.range, "at least 1");
    tn_method_describe_option(index, 0, &option);
    assert_string_equal(option.key, "target_r");
}

static void failed_listing_frees_what_it_took(void **state) {
    tn_method_info info;
    size_t used = tn_memory_used();
    tn_status status = TN_ERROR_MEMORY;
    (void)state;
    for (int count = 0; status != TN_OK && count < 200; count++) {
        tn_memory_fail_after(count);
        status = tn_method_describe(index_of("adalora"), &info);
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
        assert_int_equal(tn_memory_used(), used);
    }
    assert_ok(status);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_registered_method_describes_itself),
        cmocka_unit_test(numbers_are_those_of_the_formulas),
        cmocka_unit_test(large_layers_cost_nothing),
        cmocka_unit_test(merging_is_possible_where_it_is_said_to_be),
        cmocka_unit_test(options_have_their_names_in_files),
        cmocka_unit_test(failed_listing_frees_what_it_took),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
