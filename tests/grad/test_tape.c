/* The tape: recomputation, memory given back, failures that stick. */
#include "support/support.h"

#include "grad/ops.h"

enum { T = 24, C = 16, R = 4, BLOCKS = 3, WEIGHTS = 4 };

/* A stack of small residual blocks: x + W dropout(norm(x)) + B A norm(x). */
typedef struct {
    tn_weight weights[BLOCKS][WEIGHTS]; /* norm, W, A, B */
    float values[BLOCKS][WEIGHTS][C * C], grads[BLOCKS][WEIGHTS][C * C];
    float input[T * C], dinput[T * C];
    double flops;
    int64_t peak, top;
} stack;

typedef struct {
    const tn_weight *weights;
    int block;
} block_context;

static tn_var *block(tn_tape *tape, void *context, tn_var *x) {
    const block_context *c = context;
    tn_var *h = tn_op_rmsnorm(tape, x, &c->weights[0], 1e-5f, 1);
    tn_var *dropped = tn_op_dropout(tape, h, 0.2f, 9, (uint64_t)c->block);
    tn_var *y = tn_op_linear(tape, dropped, &c->weights[1], NULL);
    tn_drop(tape, dropped);
    tn_op_low_rank(tape, y, h, &c->weights[2], &c->weights[3], NULL, 0.5f);
    tn_drop(tape, h);
    tn_op_add(tape, y, x, 1);
    return y;
}

static void fill(stack *s) {
    static const int64_t shapes[WEIGHTS][2] = {{C, 0}, {C, C}, {R, C}, {C, R}};
    *s = (stack){0};
    tn_fill_normal(s->input, T * C, 31, 0, 0, 1);
    for (int b = 0; b < BLOCKS; b++) {
        for (int w = 0; w < WEIGHTS; w++) {
            tn_weight *weight = &s->weights[b][w];
            tn_fill_normal(s->values[b][w], C * C, 31, (uint64_t)(1 + b * WEIGHTS + w), w == 0, 0.3f);
            weight->tensor = (tn_tensor){.ndim = w ? 2 : 1, .shape = {shapes[w][0], shapes[w][1]}, .data = s->values[b][w]};
            weight->trainable = true;
            weight->grad = s->grads[b][w];
        }
    }
}

/* One step on a tape that holds nothing; gradients of sum(y) are added to the stack's. */
static void step(stack *s, tn_tape *tape, bool checkpointed) {
    block_context contexts[BLOCKS];
    tape->recording = true;
    tn_var *input = tn_var_new(tape, T, C, true), *x = input;
    if (tn_tape_live(tape))
        memcpy(input->data, s->input, sizeof s->input);
    for (int b = 0; b < BLOCKS; b++) {
        contexts[b] = (block_context){s->weights[b], b};
        tn_var *y = checkpointed ? tn_checkpointed(tape, block, &contexts[b], x) : block(tape, &contexts[b], x);
        if (x != input)
            tn_drop(tape, x);
        x = y;
    }
    x->grad = tn_scratch_take(tape, T * C);
    if (tn_tape_live(tape))
        tape->kernels->fill(x->grad.data, 1, T * C);
    tn_drop(tape, x);
    tn_tape_backward(tape);
    if (tn_tape_live(tape))
        memcpy(s->dinput, input->grad.data, sizeof s->dinput);
    s->flops = tape->flops;
    s->peak = tape->heap.peak;
    s->top = tape->heap.top;
}

static tn_status run(stack *s, int64_t reserve, bool checkpointed) {
    tn_tape tape;
    TN_TRY(tn_tape_init(&tape, tn_kernels_cpu(), reserve));
    step(s, &tape, checkpointed);
    tn_status status = tn_tape_status(&tape);
    tn_tape_free(&tape);
    return status;
}

static void recomputation_changes_no_bit_and_saves_memory(void **state) {
    static stack plain, again;
    (void)state;
    fill(&plain);
    fill(&again);
    assert_ok(run(&plain, 8 << 20, false));
    assert_ok(run(&again, 8 << 20, true));
    assert_memory_equal(plain.grads, again.grads, sizeof plain.grads);
    assert_memory_equal(plain.dinput, again.dinput, sizeof plain.dinput);
    assert_true(plain.grads[0][1][0] != 0 && plain.dinput[0] != 0);
    assert_true(again.peak < plain.peak);
    assert_true(again.flops > plain.flops);
}

static void rehearsal_counts_what_a_step_needs(void **state) {
    static stack rehearsed, real;
    (void)state;
    for (int checkpointed = 0; checkpointed < 2; checkpointed++) {
        fill(&rehearsed);
        fill(&real);
        assert_ok(run(&rehearsed, 0, checkpointed));
        assert_ok(run(&real, rehearsed.peak, checkpointed));
        assert_true(rehearsed.peak > 0 && real.peak == rehearsed.peak && real.flops == rehearsed.flops);
        assert_true(rehearsed.grads[0][1][0] == 0);
    }
}

/* Only the input and its gradient are left, which the caller holds. */
static void memory_is_given_back_on_the_way(void **state) {
    static stack s;
    (void)state;
    for (int checkpointed = 0; checkpointed < 2; checkpointed++) {
        tn_tape tape;
        int64_t free_bytes = 0;
        fill(&s);
        assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), 8 << 20));
        step(&s, &tape, checkpointed);
        for (int64_t i = 0; i < tape.heap.hole_count; i++)
            free_bytes += tape.heap.holes[i].size;
        assert_int_equal(tape.heap.top - free_bytes, 2 * T * C * sizeof(float));
        tn_tape_free(&tape);
    }
}

static int64_t calls_of(const tn_profile *profile, tn_phase phase, const char *op) {
    return tn_profile_sum(profile, phase, op).calls;
}

/* Ops are counted in the phase they ran in, their FLOPs are the tape's, and a rehearsal counts the same. */
static void profile_counts_every_op_in_its_phase(void **state) {
    static stack s;
    (void)state;
    for (int rehearsal = 0; rehearsal < 2; rehearsal++) {
        for (int checkpointed = 0; checkpointed < 2; checkpointed++) {
            tn_tape tape;
            tn_profile profile = {0};
            double flops = 0, seconds = 0;
            fill(&s);
            assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), rehearsal ? 0 : 8 << 20));
            tape.profile = &profile;
            step(&s, &tape, checkpointed);
            for (int64_t i = 0; i < profile.count; i++) {
                flops += profile.rows[i].flops;
                seconds += profile.rows[i].seconds;
                assert_true(profile.rows[i].seconds >= 0);
            }
            assert_true(flops == s.flops && seconds > 0);
            assert_int_equal(calls_of(&profile, TN_PHASE_FORWARD, "linear"), BLOCKS);
            assert_int_equal(calls_of(&profile, TN_PHASE_RECOMPUTATION, "linear"), checkpointed ? BLOCKS : 0);
            assert_int_equal(calls_of(&profile, TN_PHASE_BACKWARD, "linear"), BLOCKS);
            assert_int_equal(calls_of(&profile, TN_PHASE_BACKWARD, "low rank"), BLOCKS);
            assert_true(tn_profile_sum(&profile, TN_PHASE_FORWARD, "rmsnorm").flops == 0);
            assert_true(tn_profile_sum(&profile, TN_PHASE_FORWARD, "linear").flops == 2.0 * BLOCKS * T * C * C);
            tn_tape_free(&tape);
        }
    }
}

/* What comes up after the table is full is added to its last row. */
static void full_profile_keeps_the_sum(void **state) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    tn_profile profile = {0};
    double flops = 0;
    (void)state;
    for (int phase = 0; phase < TN_PHASES; phase++)
        for (int i = 0; i < 26; i++)
            tn_profile_add(&profile, (tn_phase)phase, letters + i, 0, 1);
    assert_int_equal(profile.count, TN_PROFILE_ROWS);
    for (int64_t i = 0; i < profile.count; i++)
        flops += profile.rows[i].flops;
    assert_true(flops == TN_PHASES * 26);
    assert_string_equal(profile.rows[TN_PROFILE_ROWS - 1].op, "rest");
}

static void reset_tape_gives_the_same_step_again(void **state) {
    static stack first, second;
    tn_tape tape;
    (void)state;
    fill(&first);
    fill(&second);
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), 8 << 20));
    step(&first, &tape, true);
    tn_tape_reset(&tape);
    size_t used = tn_memory_used();
    step(&second, &tape, true);
    assert_int_equal(tn_memory_used(), used);
    assert_memory_equal(first.grads, second.grads, sizeof first.grads);
    assert_true(first.flops == second.flops);
    tn_tape_free(&tape);
}

/* Whatever op it happens in, forward or backward. */
static void exhausted_memory_is_an_error_at_every_size(void **state) {
    static stack s;
    (void)state;
    for (int checkpointed = 0; checkpointed < 2; checkpointed++) {
        fill(&s);
        assert_ok(run(&s, 0, checkpointed));
        int64_t peak = s.peak;
        for (int64_t reserve = TN_HEAP_ALIGN; reserve < peak; reserve += 4 * TN_HEAP_ALIGN)
            assert_fails(run(&s, reserve, checkpointed), TN_ERROR_MEMORY, "more than the memory planned");
        assert_fails(run(&s, peak - TN_HEAP_ALIGN, checkpointed), TN_ERROR_MEMORY, "more than the memory planned");
        assert_ok(run(&s, peak, checkpointed));
    }
}

/* A failed step leaves a tape that works after a reset. */
static void failure_sticks_until_the_reset(void **state) {
    static stack s;
    tn_tape tape;
    (void)state;
    fill(&s);
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), 4096));
    step(&s, &tape, false);
    assert_int_equal(tn_tape_status(&tape), TN_ERROR_MEMORY);
    tn_var *none = tn_var_new(&tape, 1, 1, false);
    tn_drop(&tape, none);
    assert_int_equal(tn_tape_status(&tape), TN_ERROR_MEMORY);
    tn_tape_reset(&tape);
    tape.recording = false;
    tn_var *small = tn_var_new(&tape, 4, 4, false);
    assert_non_null(small->data);
    assert_ok(tn_tape_status(&tape));
    tn_tape_free(&tape);
}

static void failed_allocations_are_errors(void **state) {
    static stack s;
    tn_status status = TN_ERROR_MEMORY;
    size_t used = tn_memory_used();
    (void)state;
    fill(&s);
    assert_ok(run(&s, 8 << 20, true)); /* kernels have their scratch now */
    used = tn_memory_used();
    for (int count = 0; status != TN_OK && count < 1000; count++) {
        tn_memory_fail_after(count);
        status = run(&s, 8 << 20, true);
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
        assert_int_equal(tn_memory_used(), used);
    }
    assert_ok(status);
}

/* Sizes that overflow, and more nodes than one piece of storage holds. */
static void absurd_sizes_fail_and_long_tapes_work(void **state) {
    tn_tape tape;
    (void)state;
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), 1 << 20));
    tn_var_new(&tape, INT64_MAX / 2, 4, false);
    assert_int_equal(tn_tape_status(&tape), TN_ERROR_MEMORY);
    tn_tape_reset(&tape);
    tn_var_new(&tape, INT64_MAX / 8, 4, false);
    assert_int_equal(tn_tape_status(&tape), TN_ERROR_MEMORY);
    tn_tape_reset(&tape);
    tape.recording = true;
    float *dx;
    tn_var *input = tn_var_new(&tape, 1, 4, true), *x = input;
    static const int32_t row = 0;
    memset(input->data, 0, 4 * sizeof(float));
    for (int i = 0; i < 5000; i++) {
        tn_var *y = tn_op_take_rows(&tape, x, &row, 0, 1);
        if (x != input)
            tn_drop(&tape, x);
        x = y;
    }
    x->grad = tn_scratch_take(&tape, 4);
    tape.kernels->fill(x->grad.data, 2, 4);
    tn_tape_backward(&tape);
    dx = input->grad.data;
    assert_true(dx[0] == 2 && dx[3] == 2);
    assert_ok(tn_tape_status(&tape));
    tn_tape_free(&tape);
}

/* A branch without a gradient costs no backward, and frozen weights get none. */
static void unused_results_and_frozen_weights_get_no_gradient(void **state) {
    static stack s;
    tn_tape tape;
    (void)state;
    fill(&s);
    s.weights[0][1].trainable = false;
    s.weights[0][1].grad = NULL;
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), 8 << 20));
    tape.recording = true;
    tn_var *x = tn_var_new(&tape, T, C, false);
    memcpy(x->data, s.input, sizeof s.input);
    tn_var *frozen = tn_op_linear(&tape, x, &s.weights[0][1], NULL);
    assert_false(frozen->needs_grad);
    assert_null(tape.last);
    tn_var *unused = tn_op_linear(&tape, x, &s.weights[1][1], NULL);
    tn_var *y = tn_op_linear(&tape, x, &s.weights[2][1], NULL);
    tn_drop(&tape, unused);
    y->grad = tn_scratch_take(&tape, T * C);
    tape.kernels->fill(y->grad.data, 1, T * C);
    tn_tape_backward(&tape);
    assert_false(x->grad.taken);
    assert_true(s.grads[1][1][0] == 0 && s.grads[2][1][0] != 0);
    tn_tape_free(&tape);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recomputation_changes_no_bit_and_saves_memory),
        cmocka_unit_test(rehearsal_counts_what_a_step_needs),
        cmocka_unit_test(memory_is_given_back_on_the_way),
        cmocka_unit_test(profile_counts_every_op_in_its_phase),
        cmocka_unit_test(full_profile_keeps_the_sum),
        cmocka_unit_test(reset_tape_gives_the_same_step_again),
        cmocka_unit_test(exhausted_memory_is_an_error_at_every_size),
        cmocka_unit_test(failure_sticks_until_the_reset),
        cmocka_unit_test(failed_allocations_are_errors),
        cmocka_unit_test(absurd_sizes_fail_and_long_tapes_work),
        cmocka_unit_test(unused_results_and_frozen_weights_get_no_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
