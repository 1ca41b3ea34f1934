/* The example llm_lora. */
#include "example.h"

#define BASE TENON_SOURCE_ROOT "/assets/base-model"
#define RUN                                                                                                                 \
    "\"$TENON_EXAMPLE\" --model " BASE " --data " TENON_SOURCE_ROOT "/assets/sql --out made --steps 60 --style-steps 30 "   \
    "--batch 8 --samples 8"

static const char *metadata_of(const tn_model *model, const char *adapter, const char *key) {
    const char *keys[16], *values[16];
    size_t count = tn_model_list_metadata(model, adapter, keys, values, 16);
    for (size_t i = 0; i < count && i < 16; i++)
        if (strcmp(keys[i], key) == 0)
            return values[i];
    return "";
}

static void trains_saves_loads_and_swaps(void **state) {
    tn_model *model;
    (void)state;
    exits(0, RUN);
    printed("llama, 4 layers of 192");
    printed("on q_proj,v_proj: 8 layers, 43008 trained numbers (2.24 % of the base)");
    printed("by the fresh adapter: 0\n");
    double base = nth_number_after("base, held-out", 0), adapted = nth_number_after("adapted, held-out", 0);
    assert_true(base > 1 && adapted > 0 && adapted < base / 4);
    printed("differs from the trained one by 0 in loss, 0 answers");
    assert_true(nth_number_after("lower case, held-out", 0) < 2);
    /* rounding may part greedy answers of a batch from single ones, though hardly all of them */
    assert_true(nth_number_after("the same as one by one:", 0) >= 2);
    printed("  base                ");
    printed("  0.5 sql + 0.5 lower ");

    assert_ok(tn_model_load(BASE, &model));
    assert_ok(tn_model_attach_adapter(model, below("made/sql"), "sql"));
    assert_ok(tn_model_attach_adapter(model, below("made/lower"), "lower"));
    assert_string_equal(metadata_of(model, "sql", "steps"), "60");
    assert_string_equal(metadata_of(model, "lower", "steps"), "30");
    assert_string_equal(metadata_of(model, "lower", "task"), "lower case");
    assert_true(atof(metadata_of(model, "sql", "valid_loss")) > 0);
    tn_model_free(model);
}

static void refuses_what_it_cannot_use(void **state) {
    (void)state;
    exits(0, "\"$TENON_EXAMPLE\" --help");
    printed("--style-steps N");
    exits(1, "\"$TENON_EXAMPLE\" --model nowhere --out bad");
    printed("llm_lora: ");
    printed("nowhere");
    exits(1, "\"$TENON_EXAMPLE\" --model " BASE " --data nowhere --out bad");
    printed("nowhere/test.jsonl");
    exits(2, "\"$TENON_EXAMPLE\" --rank none");
    printed("--rank cannot be 'none'; see --help");
    exits(2, "\"$TENON_EXAMPLE\" more");
    printed("'more' is no option");
    write_file("plain", "");
    exits(1, "\"$TENON_EXAMPLE\" --model " BASE " --out plain/below");
    printed("plain/below");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trains_saves_loads_and_swaps),
        cmocka_unit_test(refuses_what_it_cannot_use),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
