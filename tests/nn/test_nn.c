/* The parameter store and the slots of a module. */
#include "support/support.h"

static void parameters_lie_aligned_in_one_store(void **state) {
    static const float norm[3] = {1, 2, 3};
    static const uint16_t half[4] = {0x3f80, 0xbf80, 0x4000, 0x0000}; /* 1, -1, 2, 0 as bf16 */
    tn_weight weights[3] = {
        {.tensor = {.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {3}, .data = (void *)(uintptr_t)norm}},
        {.tensor = {.dtype = TN_DTYPE_BF16, .ndim = 2, .shape = {2, 2}, .data = (void *)(uintptr_t)half}},
        {.tensor = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {5, 4}}},
    };
    static const char *const names[] = {"norm", "half", "fresh"};
    size_t used = tn_memory_used();
    (void)state;
    for (int with_grads = 0; with_grads < 2; with_grads++) {
        tn_params params = {0};
        tn_weight copies[3];
        memcpy(copies, weights, sizeof copies);
        for (int i = 0; i < 3; i++)
            assert_ok(tn_params_add(&params, names[i], &copies[i]));
        assert_ok(tn_params_build(&params, with_grads));
        assert_int_equal(params.total, 16 + 16 + 32);
        assert_true((params.grads != NULL) == with_grads);
        for (int i = 0; i < 3; i++) {
            assert_ptr_equal(copies[i].tensor.data, params.values + params.entries[i].offset);
            assert_int_equal(params.entries[i].offset % 16, 0);
            assert_int_equal(copies[i].tensor.dtype, TN_DTYPE_F32);
            assert_true(copies[i].trainable == (bool)with_grads);
            assert_ptr_equal(copies[i].grad, with_grads ? params.grads + params.entries[i].offset : NULL);
            assert_true(params.entries[i].lr_scale == 1 && params.entries[i].decay);
        }
        assert_memory_equal(copies[0].tensor.data, norm, sizeof norm);
        static const float widened[4] = {1, -1, 2, 0};
        assert_memory_equal(copies[1].tensor.data, widened, sizeof widened);
        for (int64_t i = 0; i < 20; i++)
            assert_true(((float *)copies[2].tensor.data)[i] == 0);
        assert_ptr_equal(tn_params_find(&params, "half"), &params.entries[1]);
        assert_null(tn_params_find(&params, "hal"));
        tn_params_free(&params);
        assert_int_equal(tn_memory_used(), used);
    }
}

static void store_without_memory_is_an_error(void **state) {
    size_t used = tn_memory_used();
    (void)state;
    for (int count = 0; count < 3; count++) {
        tn_params params = {0};
        tn_weight weight = {.tensor = {.ndim = 1, .shape = {3}}};
        tn_memory_fail_after(count);
        tn_status status = tn_params_add(&params, "one", &weight);
        if (status == TN_OK)
            status = tn_params_build(&params, true);
        tn_memory_fail_after(-1);
        assert_int_equal(status, TN_ERROR_MEMORY);
        tn_params_free(&params);
        assert_int_equal(tn_memory_used(), used);
    }
}

/* A slot that multiplies by ten and adds its number, so that the order shows. */
static tn_var *number_hook(const tn_forward *forward, const tn_slot *slot, const tn_module *module, tn_var *x, tn_var *y) {
    (void)module;
    (void)x;
    forward->tape->kernels->scale(y->data, 10, 1);
    y->data[0] += (float)slot->id;
    return y;
}

static float forward_of(const tn_module *module) {
    tn_tape tape;
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), 4096));
    tn_forward forward = {.tape = &tape};
    tn_var *x = tn_var_new(&tape, 1, 1, false);
    x->data[0] = 1;
    float y = tn_linear_forward(&forward, module, x)->data[0];
    assert_ok(tn_tape_status(&tape));
    tn_tape_free(&tape);
    return y;
}

static void slots_act_in_the_order_of_attaching(void **state) {
    static float four = 4;
    static const tn_slot_hooks hooks = {.linear = number_hook}, none = {0};
    tn_slot one = {.hooks = &hooks, .weight = 1, .id = 1}, two = {.hooks = &hooks, .weight = 1, .id = 2},
            idle = {.hooks = &none, .weight = 1};
    tn_module module = {.weight = {.tensor = {.ndim = 2, .shape = {1, 1}, .data = &four}}};
    (void)state;
    assert_true(forward_of(&module) == 4);
    tn_module_attach(&module, &one);
    tn_module_attach(&module, &idle);
    tn_module_attach(&module, &two);
    assert_true(forward_of(&module) == 412);
    one.disabled = true;
    assert_true(forward_of(&module) == 42);
    one.disabled = false;
    tn_module_detach(&module, &two);
    tn_module_detach(&module, &two);
    assert_true(forward_of(&module) == 41);
    tn_module_detach(&module, &one);
    tn_module_detach(&module, &idle);
    assert_null(module.slots);
    tn_module follower = {.tied = &module};
    assert_true(forward_of(&follower) == 4);
}

/* Adds its number to the input of the base's product, or lets it be. */
static tn_var *input_hook(const tn_forward *forward, const tn_slot *slot, const tn_module *module, tn_var *in) {
    (void)module;
    if (slot->id == 0)
        return in;
    tn_var *out = tn_var_new(forward->tape, 1, 1, false);
    out->data[0] = in->data[0] + (float)slot->id;
    return out;
}

static tn_var *add_input(const tn_forward *forward, const tn_slot *slot, const tn_module *module, tn_var *x, tn_var *y) {
    (void)module;
    (void)slot;
    forward->tape->kernels->add(y->data, x->data, 1, 1);
    return y;
}

/* W (x + 1 + 2) + x + x + x: only the base's product sees what the hooks make of x. Nothing of it is left on the tape. */
static void input_hooks_change_what_the_base_sees_alone(void **state) {
    static float four = 4;
    static const tn_slot_hooks hooks = {.input = input_hook, .linear = add_input};
    tn_slot one = {.hooks = &hooks, .weight = 1, .id = 1}, none = {.hooks = &hooks, .weight = 1},
            two = {.hooks = &hooks, .weight = 1, .id = 2};
    tn_module module = {.weight = {.tensor = {.ndim = 2, .shape = {1, 1}, .data = &four}}};
    tn_tape tape;
    (void)state;
    tn_module_attach(&module, &none);
    assert_true(forward_of(&module) == 4 + 1);
    tn_module_attach(&module, &one);
    tn_module_attach(&module, &two);
    assert_true(forward_of(&module) == 16 + 3);
    one.disabled = true;
    assert_true(forward_of(&module) == 12 + 2);
    one.disabled = false;
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), 4096));
    tn_forward forward = {.tape = &tape};
    tn_var *x = tn_var_new(&tape, 1, 1, false);
    x->data[0] = 1;
    int64_t top = tape.heap.top;
    tn_drop(&tape, tn_linear_forward(&forward, &module, x));
    assert_int_equal(tape.heap.top, top);
    assert_true(x->data[0] == 1);
    tn_tape_free(&tape);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_lie_aligned_in_one_store),
        cmocka_unit_test(store_without_memory_is_an_error),
        cmocka_unit_test(slots_act_in_the_order_of_attaching),
        cmocka_unit_test(input_hooks_change_what_the_base_sees_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
