/* Methods that take part in the training itself: LoRA-FA's update against its formula, AdaLoRA's runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "peft/lora.h"
#include "session/session.h"
#include "tiny.h"

#define OK(call)                                                                                                            \
    do {                                                                                                                    \
        if ((call) != TN_OK)                                                                                                \
            fail_msg("%s: %s", #call, tn_error_message());                                                                  \
    } while (0)

static tn_model *model_with(const char *method, const char *targets, int64_t rank) {
    tn_adapter_options options;
    tn_model *model;
    tn_adapter_options_default(&options);
    options.method = method;
    options.target_modules = targets;
    options.rank = rank;
    options.alpha = 6;
    OK(tn_model_load(tiny_path("base"), &model));
    OK(tn_model_add_adapter(model, &options, 3));
    return model;
}

/* X in X (A A^T + 1e-8 I) = `row` / s^2 by elimination in double; `row` becomes X. */
static void solve_in_double(const float *a, int64_t rank, int64_t in, double scale, double *row) {
    double m[8][8];
    for (int64_t i = 0; i < rank; i++)
        for (int64_t j = 0; j < rank; j++) {
            m[i][j] = i == j ? 1e-8 : 0;
            for (int64_t c = 0; c < in; c++)
                m[i][j] += (double)a[i * in + c] * a[j * in + c];
        }
    for (int64_t i = 0; i < rank; i++)
        row[i] /= scale * scale;
    for (int64_t i = 0; i < rank; i++)
        for (int64_t j = i + 1; j < rank; j++) {
            double f = m[j][i] / m[i][i];
            for (int64_t k = i; k < rank; k++)
                m[j][k] -= f * m[i][k];
            row[j] -= f * row[i];
        }
    for (int64_t i = rank - 1; i >= 0; i--) {
        for (int64_t k = i + 1; k < rank; k++)
            row[i] -= m[i][k] * row[k];
        row[i] /= m[i][i];
    }
}

static void lora_fa_updates_along_the_preconditioned_gradient(void **state) {
    static const int64_t ranks[] = {1, 3, 6};
    (void)state;
    for (int r = 0; r < 3; r++) {
        tn_model *model = model_with("lora-fa", "q_proj,down_proj", ranks[r]);
        tn_params *params = &model->adapter->params;
        const tn_peft_method *method = model->adapter->method;
        tn_fill_normal(params->grads, (size_t)params->total, 9, 1, 0, 1);
        float *raw = malloc((size_t)params->total * sizeof *raw);
        memcpy(raw, params->grads, (size_t)params->total * sizeof *raw);
        OK(method->start_training(model->adapter, 10));
        method->before_step(model->adapter);
        for (int64_t i = 0; i < model->adapter->slot_count; i++) {
            const tn_lora_slot *slot = (const tn_lora_slot *)model->adapter->slots[i].slot;
            const float *before = raw + (slot->b.grad - params->grads);
            for (int64_t o = 0; o < slot->b.tensor.shape[0]; o++) {
                double row[8], largest = 0;
                for (int64_t k = 0; k < ranks[r]; k++)
                    row[k] = before[o * ranks[r] + k];
                solve_in_double(slot->a.tensor.data, ranks[r], slot->a.tensor.shape[1], 6.0 / (double)ranks[r], row);
                for (int64_t k = 0; k < ranks[r]; k++)
                    largest = fmax(largest, fabs(row[k]));
                for (int64_t k = 0; k < ranks[r]; k++)
                    assert_true(fabs(slot->b.grad[o * ranks[r] + k] - row[k]) < 1e-4 * largest + 1e-6);
            }
        }
        free(raw);
        tn_model_free(model);
    }
}

/* With dB = s G A^T the change s dB' A of W is the projection of its gradient G onto the rows of A: what is left of G has
 * no part along them, and along A the change is G itself. */
static void lora_fa_projects_the_gradient_of_the_weight(void **state) {
    enum { RANK = 4 };
    tn_model *model = model_with("lora-fa", "q_proj", RANK);
    const tn_peft_method *method = model->adapter->method;
    (void)state;
    OK(method->start_training(model->adapter, 10));
    const tn_lora_slot *slot = (const tn_lora_slot *)model->adapter->slots[0].slot;
    int64_t out = slot->b.tensor.shape[0], in = slot->a.tensor.shape[1];
    const float *a = slot->a.tensor.data;
    float *g = malloc((size_t)(out * in) * sizeof *g);
    tn_fill_normal(g, (size_t)(out * in), 9, 2, 0, 1);
    for (int64_t o = 0; o < out; o++)
        for (int64_t k = 0; k < RANK; k++) {
            double dot = 0;
            for (int64_t c = 0; c < in; c++)
                dot += (double)g[o * in + c] * a[k * in + c];
            slot->b.grad[o * RANK + k] = (float)(slot->scale * dot);
        }
    method->before_step(model->adapter);
    for (int64_t o = 0; o < out; o++) {
        double rest[RANK] = {0};
        for (int64_t c = 0; c < in; c++) {
            double change = 0;
            for (int64_t k = 0; k < RANK; k++)
                change += (double)slot->scale * slot->b.grad[o * RANK + k] * a[k * in + c];
            for (int64_t k = 0; k < RANK; k++)
                rest[k] += (g[o * in + c] - change) * a[k * in + c];
        }
        for (int64_t k = 0; k < RANK; k++)
            assert_true(fabs(rest[k]) < 1e-4);
    }
    free(g);
    tn_model_free(model);
}

static const tn_param *find(const tn_params *params, const char *name) {
    const tn_param *param = tn_params_find(params, name);
    assert_non_null(param);
    return param;
}

static void lora_fa_trains_b_alone_and_learns(void **state) {
    static const char *const a = "model.layers.0.self_attn.q_proj.lora_A.weight";
    static const char *const b = "model.layers.0.self_attn.q_proj.lora_B.weight";
    tiny_run run = tiny_start("fa");
    tn_model *fresh, *trained;
    (void)state;
    run.adapter.method = "lora-fa";
    run.adapter.target_modules = "all-linear";
    run.train.steps = 40;
    OK(tn_model_load(tiny_path("base"), &fresh));
    OK(tn_model_add_adapter(fresh, &run.adapter, 0));
    assert_null(tn_params_find(&fresh->adapter->params, a));
    OK(tiny_train(&run));
    double first = 0, last = 0; /* an epoch each */
    for (int i = 0; i < 5; i++) {
        first += run.result.curve_losses[i];
        last += run.result.curve_losses[run.result.curve_points - 1 - i];
    }
    assert_true(last < 0.8 * first);
    tn_train_result_free(&run.result);
    OK(tn_model_load(tiny_path("base"), &trained));
    OK(tn_model_load_adapter(trained, tiny_path("fa"), true, false));
    const tn_param *was = find(&fresh->adapter->constants, a), *is = find(&trained->adapter->params, a);
    assert_memory_equal(was->weight->tensor.data, is->weight->tensor.data, (size_t)was->count * sizeof(float));
    was = find(&fresh->adapter->params, b);
    is = find(&trained->adapter->params, b);
    assert_memory_not_equal(was->weight->tensor.data, is->weight->tensor.data, (size_t)was->count * sizeof(float));
    /* the file is plain LoRA, which may be trained on as such, or with its A frozen again */
    OK(tn_model_continue_adapter(trained, tiny_path("fa"), "lora"));
    assert_non_null(tn_params_find(&trained->adapter->params, a));
    OK(tn_model_continue_adapter(trained, tiny_path("fa"), "lora-fa"));
    assert_null(tn_params_find(&trained->adapter->params, a));
    is = find(&trained->adapter->constants, a);
    was = find(&fresh->adapter->constants, a);
    assert_memory_equal(was->weight->tensor.data, is->weight->tensor.data, (size_t)was->count * sizeof(float));
    tn_model_free(trained);
    tn_model_free(fresh);
}

/* Its A starts at zero, and B alone would learn nothing. */
static void lora_fa_trains_embeddings_as_lora_does(void **state) {
    tn_model *model = model_with("lora-fa", "embed_tokens,q_proj", 3);
    (void)state;
    assert_non_null(tn_params_find(&model->adapter->params, "model.embed_tokens.lora_embedding_A"));
    assert_null(tn_params_find(&model->adapter->params, "model.layers.0.self_attn.q_proj.lora_A.weight"));
    tn_model_free(model);
}

static void lora_fa_trains_no_variant_of_lora(void **state) {
    tiny_run run = tiny_start("variant");
    tn_model *model;
    (void)state;
    run.train.steps = 1;
    run.adapter.method = "dora";
    tiny_train_well(&run);
    OK(tn_model_load(tiny_path("base"), &model));
    assert_int_equal(tn_model_continue_adapter(model, tiny_path("variant"), "lora-fa"), TN_ERROR_UNSUPPORTED);
    assert_non_null(strstr(tn_error_message(), "does not go with use_dora"));
    run.adapter.method = "adalora";
    run.adapter.settings = &(tn_method_setting){"target_r", "2"};
    run.adapter.setting_count = 1;
    run.train.steps = 3;
    tiny_train_well(&run);
    assert_int_equal(tn_model_continue_adapter(model, tiny_path("variant"), "lora-fa"), TN_ERROR_ARGUMENT);
    assert_non_null(strstr(tn_error_message(), "is an adapter of adalora; lora-fa trains those of lora"));
    tn_model_free(model);
}

static const tn_method_setting schedule[] = {{"target_r", "2"}, {"tinit", "2"}, {"tfinal", "3"}, {"delta-t", "2"}};

static tiny_run adalora_run(const char *out) {
    tiny_run run = tiny_start(out);
    run.adapter.method = "adalora";
    run.adapter.settings = schedule;
    run.adapter.setting_count = 4;
    return run;
}

static void adalora_reports_the_ranks_that_are_left(void **state) {
    tiny_run run = adalora_run("ranks");
    (void)state;
    OK(tiny_train(&run));
    assert_non_null(run.result.notes);
    assert_non_null(strstr(run.result.notes, "ranks      8 of 16 left\n"));
    assert_non_null(strstr(run.result.notes, "  q_proj  "));
    tn_train_result_free(&run.result);
}

/* The penalty counts once per step however the micro-batch is cut, and recomputed activations are the same ones. */
static void parts_and_checkpointing_leave_adalora_alone(void **state) {
    tiny_run whole = adalora_run("whole"), parts = adalora_run("in-parts"), again = adalora_run("again");
    (void)state;
    whole.train.pass_tokens = parts.train.pass_tokens = 0;
    again.train.pass_tokens = 0;
    again.train.checkpointing = "on";
    parts.train.pass_tokens = 12;
    OK(tiny_train(&whole));
    OK(tiny_train(&parts));
    for (int i = 0; i < 12; i++)
        assert_true(fabs(whole.result.curve_losses[i] - parts.result.curve_losses[i]) < 1e-4);
    tiny_train_well(&again);
    tiny_assert_same_file("whole", "again", "adapter_model.safetensors");
    tn_train_result_free(&whole.result);
    tn_train_result_free(&parts.result);
}

static int remove_folder(void **state) {
    (void)state;
    tiny_remove();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lora_fa_updates_along_the_preconditioned_gradient),
        cmocka_unit_test(lora_fa_projects_the_gradient_of_the_weight),
        cmocka_unit_test(lora_fa_trains_b_alone_and_learns),
        cmocka_unit_test(lora_fa_trains_embeddings_as_lora_does),
        cmocka_unit_test(lora_fa_trains_no_variant_of_lora),
        cmocka_unit_test(adalora_reports_the_ranks_that_are_left),
        cmocka_unit_test(parts_and_checkpointing_leave_adalora_alone),
    };
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}
