/* Runs with moments in 8 bits: they learn as those with f32 do, take the memory that the plan says, and resume to the same
 * bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/safetensors.h"
#include "tiny.h"
#include "train/optimizer.h"

enum { HIDDEN = 64, STEPS = 60, LAST = 5 };

/* A model of which q_proj has 4096 elements and up_proj 8192, so that a rank of 64 gives factors of that size too. */
static int prepare(void **state) {
    (void)state;
    tiny_write_model(tiny_path("wide"), "llama", "", HIDDEN, 2, TINY_VOCAB, 5);
    return 0;
}

static tiny_run start(const char *out, const char *method) {
    tiny_run run = tiny_start(out);
    run.base = "wide";
    run.adapter.method = method;
    run.adapter.rank = HIDDEN;
    run.adapter.target_modules = "q_proj,up_proj";
    run.train.optimizer = "adamw8bit";
    run.train.lr = 2e-3;
    return run;
}

typedef struct {
    double losses[STEPS];
    size_t used[STEPS];
} recording;

static bool record(void *cookie, const tn_train_step *step) {
    recording *r = cookie;
    r->losses[step->step - 1] = step->loss;
    r->used[step->step - 1] = tn_memory_used();
    return true;
}

static double mean_of_last(const recording *r) {
    double sum = 0;
    for (int i = STEPS - LAST; i < STEPS; i++)
        sum += r->losses[i] / LAST;
    return sum;
}

static void learning_goes_as_with_moments_in_f32(void **state) {
    static const char *const methods[] = {"full", "lora", "dora", "adalora", "loha"};
    (void)state;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        recording r[2];
        for (int eight = 0; eight < 2; eight++) {
            tiny_run run = start(eight ? "eight" : "thirty-two", methods[i]);
            run.adapter.target_modules = "q_proj,o_proj,gate_proj,up_proj,down_proj";
            run.train.steps = STEPS;
            run.train.lr = 5e-3;
            run.train.optimizer = eight ? "adamw8bit" : "adamw";
            run.callbacks = (tn_train_callbacks){.cookie = &r[eight], .step = record};
            tiny_train_well(&run);
        }
        double first = r[0].losses[0], last = mean_of_last(&r[0]), last8 = mean_of_last(&r[1]);
        print_message("%-8s loss %.4f -> %.4f with f32, %.4f with 8 bits\n", methods[i], first, last, last8);
        assert_true(r[1].losses[0] == first && last8 != last);
        assert_true(last < 0.9 * first && fabs(last8 - last) < 0.02 * last);
    }
}

static void nothing_is_allocated_between_steps(void **state) {
    (void)state;
    recording r;
    tiny_run run = start("allocations", "full");
    run.callbacks = (tn_train_callbacks){.cookie = &r, .step = record};
    run.train.save_every = 0;
    tiny_train_well(&run);
    for (int step = 3; step < 10; step++)
        assert_int_equal(r.used[step], r.used[2]);
}

/* --- memory --- */

static void note_plan(void *cookie, const tn_train_plan *plan) {
    *(tn_train_plan *)cookie = *plan;
}

static int64_t planned(const char *optimizer, const char *saved) {
    tn_train_plan plan = {0};
    tiny_run run = start("plan", "lora");
    run.train.optimizer = optimizer;
    run.train.steps = 1;
    run.adapter.rank = 4;
    run.adapter.target_modules = "v_proj";
    run.adapter.modules_to_save = saved;
    run.callbacks = (tn_train_callbacks){.cookie = &plan, .start = note_plan};
    tiny_train_well(&run);
    return plan.optimizer_bytes;
}

/* Beside two LoRA factors of two layers, 4 x 64 and 32 x 4. The head has 64 x 64 elements, and so has the embedding, of
 * which the moments stay f32. */
static void bytes_of_moments_are_those_of_codes_and_scales(void **state) {
    const int64_t factors = 2 * 2 * (4 * 64 + 32 * 4) * 4, f32 = 2 * 4096 * 4, codes = 2 * (4096 + 16 * 4);
    (void)state;
    assert_int_equal(planned("adamw", NULL), factors);
    assert_int_equal(planned("adamw8bit", NULL), factors);
    assert_int_equal(planned("adamw", "lm_head"), factors + f32);
    assert_int_equal(planned("adamw8bit", "lm_head"), factors + codes);
    assert_int_equal(planned("adamw8bit", "lm_head,embed_tokens"), factors + codes + f32);
}

/* Tensors of these sizes, the last one an embedding's. */
enum { TENSORS = 5 };
static const int64_t counts[TENSORS] = {1, 4095, 4096, 4097, 5000};

static void build(tn_params *params, tn_weight weights[TENSORS]) {
    *params = (tn_params){0};
    for (int i = 0; i < TENSORS; i++) {
        weights[i] = (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {counts[i]}}};
        assert_int_equal(tn_params_add(params, "tensor", &weights[i]), TN_OK);
        params->entries[i].is_sparse = i == TENSORS - 1;
    }
    assert_int_equal(tn_params_build(params, true), TN_OK);
}

static void only_large_dense_tensors_are_in_8_bits(void **state) {
    tn_weight weights[TENSORS];
    tn_params params;
    tn_optimizer optimizer;
    (void)state;
    build(&params, weights);
    for (tn_optimizer_kind kind = TN_OPTIMIZER_ADAMW; kind <= TN_OPTIMIZER_ADAMW8BIT; kind++) {
        size_t before = tn_memory_used();
        assert_int_equal(tn_optimizer_init(&optimizer, &params, tn_kernels_cpu(), kind), TN_OK);
        for (int i = 0; i < TENSORS; i++) {
            const tn_moments *m = &optimizer.moments[i];
            bool codes = kind == TN_OPTIMIZER_ADAMW8BIT && (counts[i] == 4096 || counts[i] == 4097);
            assert_true(codes == !m->m && codes == !m->v && codes == !!m->codes.m && codes == !!m->codes.v_absmax);
        }
        assert_int_equal(optimizer.bytes, tn_optimizer_bytes(&params, kind));
        assert_true(tn_memory_used() - before >= (size_t)optimizer.bytes);
        assert_true(tn_memory_used() - before < (size_t)optimizer.bytes + 8192);
        tn_optimizer_free(&optimizer);
        assert_int_equal(tn_memory_used(), before);
    }
    tn_params_free(&params);
}

static void want_of_memory_is_told_and_leaks_nothing(void **state) {
    tn_weight weights[TENSORS];
    tn_params params;
    tn_optimizer optimizer;
    (void)state;
    build(&params, weights);
    for (int allocation = 0; allocation < 2; allocation++) {
        size_t before = tn_memory_used();
        tn_memory_fail_after(allocation);
        assert_int_equal(tn_optimizer_init(&optimizer, &params, tn_kernels_cpu(), TN_OPTIMIZER_ADAMW8BIT), TN_ERROR_MEMORY);
        tn_memory_fail_after(-1);
        tn_optimizer_free(&optimizer);
        assert_int_equal(tn_memory_used(), before);
    }
    tn_params_free(&params);
}

/* --- checkpoints --- */

static void note_resumed(void *cookie, int64_t step) {
    *(int64_t *)cookie = step;
}

/* Metadata tell the length of metrics.jsonl, which holds times. */
static void assert_same_checkpoint(const char *path1, const char *path2) {
    tn_safetensors one, two;
    assert_int_equal(tn_safetensors_open(path1, &one), TN_OK);
    assert_int_equal(tn_safetensors_open(path2, &two), TN_OK);
    assert_int_equal(one.count, two.count);
    for (size_t i = 0; i < one.count; i++) {
        const tn_tensor *a = &one.entries[i].tensor, *b = &two.entries[i].tensor;
        assert_string_equal(one.entries[i].name, two.entries[i].name);
        assert_int_equal(tn_tensor_bytes(a), tn_tensor_bytes(b));
        if (memcmp(a->data, b->data, (size_t)tn_tensor_bytes(a)) != 0)
            fail_msg("%s differs", one.entries[i].name);
    }
    tn_safetensors_close(&one);
    tn_safetensors_close(&two);
}

/* With stops, other numbers of threads in between, and at once. */
static void check_resuming(tiny_run run, const char *name) {
    static const int stops[] = {1, 5, 9, 0};
    tiny_run straight = run, parts = run;
    int64_t from = 0;
    straight.out = "straight";
    parts.out = "parts";
    parts.train.resume = true;
    parts.callbacks = (tn_train_callbacks){.cookie = &from, .resumed = note_resumed};
    tiny_train_well(&straight);
    for (int i = 0; i < 4; i++) {
        tn_set_threads(1 + i % 3);
        parts.stop_after = stops[i];
        if (stops[i])
            tiny_train_badly(&parts, TN_ERROR_INTERRUPTED, "the checkpoint is in");
        else
            tiny_train_well(&parts);
        assert_int_equal(from, i ? stops[i - 1] : 0);
    }
    tn_set_threads(0);
    assert_same_checkpoint(tiny_path("straight/checkpoints/step-00000012.safetensors"),
                           tiny_path("parts/checkpoints/step-00000012.safetensors"));
    tiny_assert_same_file("straight", "parts", name);
    tiny_assert_same_metrics("straight", "parts");
    assert_int_equal(tn_path_remove_tree(tiny_path("straight")), TN_OK);
    assert_int_equal(tn_path_remove_tree(tiny_path("parts")), TN_OK);
}

static void stopping_changes_no_byte(void **state) {
    static const tn_method_setting schedule[] = {{"target_r", "8"}, {"tinit", "2"}, {"tfinal", "3"}, {"delta-t", "2"}};
    (void)state;
    check_resuming(start("", "full"), "model.safetensors");
    tiny_run lora = start("", "lora");
    lora.adapter.dropout = 0.1;
    lora.adapter.modules_to_save = "lm_head,embed_tokens";
    check_resuming(lora, "adapter_model.safetensors");
    check_resuming(start("", "dora"), "adapter_model.safetensors");
    tiny_run adalora = start("", "adalora");
    adalora.adapter.settings = schedule;
    adalora.adapter.setting_count = 4;
    check_resuming(adalora, "adapter_model.safetensors");
}

static void assert_stored(const tn_safetensors *file, const char *name, tn_dtype dtype, int64_t count) {
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    if (!entry)
        fail_msg("%s lacks %s", file->path, name);
    assert_int_equal(entry->tensor.dtype, dtype);
    assert_int_equal(tn_tensor_count(&entry->tensor), count);
}

static void checkpoints_hold_codes_and_scales(void **state) {
    tn_safetensors file;
    tiny_run run = start("stored", "full");
    (void)state;
    tiny_train_well(&run);
    assert_int_equal(tn_safetensors_open(tiny_path("stored/checkpoints/step-00000012.safetensors"), &file), TN_OK);
#define UP "model.layers.1.mlp.up_proj.weight"
    assert_stored(&file, "param." UP, TN_DTYPE_F32, 8192);
    assert_stored(&file, "exp_avg." UP, TN_DTYPE_U8, 8192);
    assert_stored(&file, "exp_avg_sq." UP, TN_DTYPE_U8, 8192);
    assert_stored(&file, "exp_avg_absmax." UP, TN_DTYPE_F32, 32);
    assert_stored(&file, "exp_avg_sq_absmax." UP, TN_DTYPE_F32, 32);
    assert_stored(&file, "exp_avg.model.norm.weight", TN_DTYPE_F32, HIDDEN);
    assert_null(tn_safetensors_find(&file, "exp_avg_absmax.model.norm.weight"));
    assert_stored(&file, "exp_avg.model.embed_tokens.weight", TN_DTYPE_F32, TINY_VOCAB * HIDDEN);
    tn_safetensors_close(&file);
}

/* Refused by settings, and where settings may differ, by what is stored. */
static void moments_of_the_other_kind_are_refused(void **state) {
    (void)state;
    for (int eight = 0; eight < 2; eight++) {
        tiny_run run = start(eight ? "refused-8" : "refused-32", "lora");
        run.train.optimizer = eight ? "adamw8bit" : "adamw";
        run.stop_after = 5;
        tiny_train_badly(&run, TN_ERROR_INTERRUPTED, "the checkpoint is in");
        run.train.optimizer = eight ? "adamw" : "adamw8bit";
        run.train.resume = true;
        tiny_train_badly(&run, TN_ERROR_MISMATCH,
                         eight ? "optimizer was \"adamw8bit\" and is now \"adamw\""
                               : "optimizer was \"adamw\" and is now \"adamw8bit\"");
        run.train.resume_changed = true;
        tiny_train_badly(&run, TN_ERROR_MISMATCH,
                         eight
                             ? "step-00000005.safetensors keeps the moments of the optimiser in 8 bits, which this run does "
                               "not; go on with the optimizer adamw8bit"
                             : "step-00000005.safetensors keeps the moments of the optimiser in f32, which this run does "
                               "not; go on with the optimizer adamw");
    }
}

static void unknown_optimizers_are_refused(void **state) {
    tiny_run run = start("never", "lora");
    (void)state;
    run.train.optimizer = "adam";
    tiny_train_badly(&run, TN_ERROR_ARGUMENT, "optimizer 'adam' is not one of adamw, adamw8bit");
}

static int remove_folder(void **state) {
    (void)state;
    tiny_remove();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learning_goes_as_with_moments_in_f32),
        cmocka_unit_test(nothing_is_allocated_between_steps),
        cmocka_unit_test(bytes_of_moments_are_those_of_codes_and_scales),
        cmocka_unit_test(only_large_dense_tensors_are_in_8_bits),
        cmocka_unit_test(want_of_memory_is_told_and_leaks_nothing),
        cmocka_unit_test(stopping_changes_no_byte),
        cmocka_unit_test(checkpoints_hold_codes_and_scales),
        cmocka_unit_test(moments_of_the_other_kind_are_refused),
        cmocka_unit_test(unknown_optimizers_are_refused),
    };
    return cmocka_run_group_tests_name("train_adamw8bit", tests, prepare, remove_folder);
}
