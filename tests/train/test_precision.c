/* Training with matrix products rounded to bf16: close to f32, repeatable, and not to be mixed with it by mistake. All of it
 * is skipped where the CPU cannot do that, but what it then says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "kernel/kernel.h"
#include "tiny.h"

enum { STEPS = 12 };

static int prepare(void **state) {
    (void)state;
    tiny_write_model(tiny_path("wide"), "llama", "", 128, 2, 1000, 5); /* products are no thinner than what is rounded */
    return 0;
}

static int clean_up(void **state) {
    (void)state;
    tiny_remove();
    return 0;
}

static void need_bf16(void) {
    if (!tn_kernels_cpu_bf16())
        skip();
}

static tiny_run start_wide(const char *out) {
    tiny_run run = tiny_start(out);
    run.base = "wide";
    run.precision = "bf16";
    run.train.batch_size = 20;
    run.train.steps = STEPS;
    run.adapter.target_modules = "all-linear";
    return run;
}

static void losses_of(tiny_run run, double losses[STEPS]) {
    if (tiny_train(&run) != TN_OK)
        fail_msg("%s", tn_error_message());
    assert_int_equal(run.result.curve_points, STEPS);
    memcpy(losses, run.result.curve_losses, STEPS * sizeof *losses);
    tn_train_result_free(&run.result);
}

/* An operand is off by 2^-9 at most and sums of many average that out: a loss by less than a hundredth of itself. */
static void losses_follow_those_of_f32(void **state) {
    (void)state;
    static const char *const methods[] = {"lora", "dora", "full"};
    need_bf16();
    for (int i = 0; i < 3; i++) {
        double exact[STEPS], rounded[STEPS];
        tiny_run run = start_wide("follow");
        run.adapter.method = methods[i];
        if (i == 2) {
            run.adapter.rank = 0;
            run.adapter.target_modules = NULL;
            run.train.lr = 1e-3;
        }
        losses_of(run, rounded);
        run.precision = "f32";
        losses_of(run, exact);
        bool differ = false;
        for (int step = 0; step < STEPS; step++) {
            if (!(fabs(rounded[step] - exact[step]) <= 0.01 * exact[step]))
                fail_msg("%s, step %d: %g is not near %g", methods[i], step + 1, rounded[step], exact[step]);
            differ = differ || rounded[step] != exact[step];
        }
        assert_true(differ);
        assert_true(rounded[STEPS - 1] < 0.9 * rounded[0]);
    }
}

static void number_of_threads_changes_no_byte(void **state) {
    (void)state;
    static const char *const outs[] = {"threads-1", "threads-2", "threads-3"};
    need_bf16();
    for (int i = 0; i < 3; i++) {
        tn_set_threads(i + 1);
        tiny_run run = start_wide(outs[i]);
        tiny_train_well(&run);
        tiny_assert_same_file(outs[0], outs[i], "adapter_model.safetensors");
        tiny_assert_same_metrics(outs[0], outs[i]);
    }
    tn_set_threads(1);
}

static void recomputing_activations_changes_no_byte(void **state) {
    (void)state;
    need_bf16();
    tiny_run kept = start_wide("kept"), again = start_wide("again");
    kept.train.checkpointing = "off";
    again.train.checkpointing = "on";
    tiny_train_well(&kept);
    tiny_train_well(&again);
    tiny_assert_same_file("kept", "again", "adapter_model.safetensors");
}

static void stopping_changes_no_byte_and_f32_does_not_go_on(void **state) {
    (void)state;
    need_bf16();
    tiny_run straight = start_wide("straight"), parts = start_wide("parts");
    tiny_train_well(&straight);
    parts.stop_after = 5;
    tiny_train_badly(&parts, TN_ERROR_INTERRUPTED, "the checkpoint is in");
    parts.stop_after = 0;
    parts.train.resume = true;
    parts.precision = "f32";
    tiny_train_badly(&parts, TN_ERROR_MISMATCH, "matmul-precision was \"bf16\" and is now \"f32\"");
    parts.precision = "bf16";
    tiny_train_well(&parts);
    assert_int_equal(parts.result.first_step, 6);
    tiny_assert_same_file("straight", "parts", "adapter_model.safetensors");
    tiny_assert_same_metrics("straight", "parts");
}

/* Values kept in bf16 for the way back take half the memory. */
static void activations_take_less_memory(void **state) {
    (void)state;
    int64_t bytes[2];
    need_bf16();
    tiny_write_model(tiny_path("deep"), "llama", "", 64, 8, TINY_VOCAB, 5);
    for (int i = 0; i < 2; i++) {
        tiny_run run = start_wide("plan");
        tn_train_plan plan;
        tn_model *model;
        run.train.data = tiny_path("data.jsonl");
        assert_int_equal(tn_model_load(tiny_path("deep"), &model), TN_OK);
        assert_int_equal(tn_model_set_matmul_precision(model, i ? "bf16" : "f32"), TN_OK);
        assert_int_equal(tn_model_add_adapter(model, &run.adapter, 0), TN_OK);
        assert_int_equal(tn_plan(model, &run.train, &plan), TN_OK);
        bytes[i] = plan.activation_bytes;
        tn_model_free(model);
    }
    assert_true(4 * bytes[1] < 3 * bytes[0]);
}

static void precision_is_set_as_it_is_called(void **state) {
    (void)state;
    tn_model *model;
    tn_model_info info;
    assert_int_equal(tn_model_load(tiny_path("base"), &model), TN_OK);
    tn_model_describe(model, &info);
    assert_string_equal(info.matmul_precision, "f32");
    assert_int_equal(tn_model_set_matmul_precision(model, "f16"), TN_ERROR_ARGUMENT);
    assert_non_null(strstr(tn_error_message(), "'f16' is neither f32 nor bf16"));
    const bool able = tn_kernels_cpu_bf16() != NULL;
    assert_int_equal(tn_model_set_matmul_precision(model, "bf16"), able ? TN_OK : TN_ERROR_UNSUPPORTED);
    tn_model_describe(model, &info);
    assert_string_equal(info.matmul_precision, able ? "bf16" : "f32");
    assert_int_equal(tn_model_set_matmul_precision(model, "f32"), TN_OK);
    tn_model_describe(model, &info);
    assert_string_equal(info.matmul_precision, "f32");
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_follow_those_of_f32),
        cmocka_unit_test(number_of_threads_changes_no_byte),
        cmocka_unit_test(recomputing_activations_changes_no_byte),
        cmocka_unit_test(stopping_changes_no_byte_and_f32_does_not_go_on),
        cmocka_unit_test(activations_take_less_memory),
        cmocka_unit_test(precision_is_set_as_it_is_called),
    };
    return cmocka_run_group_tests(tests, prepare, clean_up);
}
