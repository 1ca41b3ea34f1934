/* The example peft_tour. */
#include "example.h"

#define RUN "\"$TENON_EXAMPLE\" --out made --base-epochs 4 --epochs 3 --samples 800 --tests 200 --rounds 3 --lr 1e-3"

static double after_loss(const char *method) {
    return nth_number_after(method, 4);
}

static void shows_methods_conversion_composition_merging_and_memory(void **state) {
    (void)state;
    exits(0, RUN);
    printed("235146 parameters");
    assert_true(nth_number_after("upright 0-3 ", 0) > 85);
    assert_true(nth_number_after("turned 0-3 ", 0) < 70);

    /* lr, lr of B, trained, train loss, test loss, accuracy */
    assert_true(nth_number_after("  LoRA   ", 2) == 11392 && nth_number_after("  DoRA   ", 2) == 11776);
    assert_true(after_loss("  LoRA+  ") < after_loss("  LoRA   "));
    assert_true(nth_number_after("  LoRA+  ", 1) == 0.016);
    printed("test loss:   o LoRA   f LoRA-faster   d DoRA   + LoRA+");

    assert_true(nth_number_after("init kaiming", 3) == 0);
    assert_true(nth_number_after("init pissa", 3) > 0 && nth_number_after("init pissa", 3) < 1e-4);
    assert_true(nth_number_after("LoRA of rank 32", 1) > nth_number_after("LoRA of rank 8", 1));
    assert_true(nth_number_after("LoRA of rank 32", 1) > 80);
    assert_true(nth_number_after("LoRA of rank 32", 2) > nth_number_after("LoRA of rank 2 ", 2));

    /* weight, rank, distance, then accuracies */
    assert_true(nth_number_after("  cat   ", 1) == 24 && nth_number_after("  cat   ", 2) < 1e-6);
    assert_true(nth_number_after("  svd   ", 1) == 8 &&
                nth_number_after("  svd   ", 2) < nth_number_after("  linear   ", 2));
    assert_true(nth_number_after("  linear   ", 2) > 0.1);
    for (int i = 0; i < 4; i++)
        assert_true(fabs(nth_number_after("  cat   ", 3 + i) - nth_number_after("  attached   ", 1 + i)) <= 1);

    assert_true(nth_number_after("layers merged; largest difference of an output:", 0) < 1e-4);
    assert_true(nth_number_after("  LoRA, merged", 0) > 0);
    assert_true(nth_number_after("  lora   ", 1) == 65536 && nth_number_after("  lora   ", 6) == 0.52);
    assert_true(nth_number_after("  full   ", 0) == 16777216 && nth_number_after("  full   ", 6) == 268.44);
    assert_true(nth_number_after("  qlora   ", 3) == 8.65);
    assert_true(nth_number_after("  qdora   ", 1) == 69632);
    printed("  lora     65536 trained, base 67.11 MB, adapter 0.26 MB, gradients 0.26 MB, moments 0.52 MB");
    printed("  lora     65536 trained, base 8.65 MB, adapter 0.26 MB, gradients 0.26 MB, moments 0.52 MB");
    printed("  dora     69632 trained, base 8.65 MB, adapter 0.28 MB, gradients 0.28 MB, moments 0.56 MB");
}

static void what_it_wrote_loads_again(void **state) {
    static const char *const adapters[] = {"made/LoRA",        "made/DoRA",  "made/LoRA+",
                                           "made/extracted-8", "made/cat-1", "made/svd-0.7"};
    tn_model *model;
    (void)state;
    assert_ok(tn_model_load(below("made/base"), &model));
    for (size_t i = 0; i < sizeof adapters / sizeof *adapters; i++)
        assert_ok(tn_model_load_adapter(model, below(adapters[i]), false, false));
    tn_model_free(model);
    assert_ok(tn_model_load(below("made/merged"), &model));
    tn_model_free(model);
}

static void refuses_what_it_cannot_use(void **state) {
    (void)state;
    exits(0, "\"$TENON_EXAMPLE\" --help");
    printed("--ratio X");
    exits(1, "\"$TENON_EXAMPLE\" --data nowhere --out bad");
    printed("peft_tour: ");
    printed("nowhere");
    exits(1, "\"$TENON_EXAMPLE\" --rank 129 --epochs 1 --base-epochs 1 --samples 64 --tests 16 --out bad");
    printed("rank 129 does not fit fc2");
    exits(2, "\"$TENON_EXAMPLE\" --lr fast");
    printed("--lr cannot be 'fast'; see --help");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_methods_conversion_composition_merging_and_memory),
        cmocka_unit_test(what_it_wrote_loads_again),
        cmocka_unit_test(refuses_what_it_cannot_use),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
