/* The training loop: what a step's loss and gradient depend on, reproducibility, memory, failures, and what a run writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/json.h"
#include "format/safetensors.h"
#include "tiny.h"
#include "train/trainer.h"

enum { STEPS = 12 };

typedef struct {
    double losses[STEPS], norms[STEPS];
    size_t used[STEPS];
} recording;

static bool record(void *cookie, const tn_train_step *step) {
    recording *r = cookie;
    r->losses[step->step - 1] = step->loss;
    r->norms[step->step - 1] = step->grad_norm;
    r->used[step->step - 1] = tn_memory_used();
    return true;
}

static tiny_run start_recording(const char *out, recording *r) {
    tiny_run run = tiny_start(out);
    run.callbacks = (tn_train_callbacks){.cookie = r, .step = record};
    return run;
}

/* Largest difference between two adapters' values. */
static double adapter_distance(const char *out1, const char *out2) {
    char path[TN_PATH_MAX];
    tn_safetensors files[2];
    double largest = 0;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tn_path_join(path, tiny_path(i ? out2 : out1), "adapter_model.safetensors"), TN_OK);
        assert_int_equal(tn_safetensors_open(path, &files[i]), TN_OK);
    }
    assert_int_equal(files[0].count, files[1].count);
    for (size_t i = 0; i < files[0].count; i++) {
        const float *a = files[0].entries[i].tensor.data, *b = files[1].entries[i].tensor.data;
        for (int64_t j = 0; j < tn_tensor_count(&files[0].entries[i].tensor); j++)
            largest = fmax(largest, fabs((double)a[j] - b[j]));
    }
    tn_safetensors_close(&files[0]);
    tn_safetensors_close(&files[1]);
    return largest;
}

/* --- what a step is --- */

static void splitting_a_step_into_micro_batches_changes_nothing(void **state) {
    (void)state;
    static const char *const outs[] = {"split-8x1", "split-4x2", "split-1x8", "split-parts"};
    const int64_t sizes[] = {8, 4, 1, 8}, pass_tokens[] = {0, 0, 0, 2 * TINY_LENGTH};
    recording r[4];
    tiny_write_rows(tiny_path("sixteen.jsonl"), 16, 1);
    for (int i = 0; i < 4; i++) {
        tiny_run run = start_recording(outs[i], &r[i]);
        run.data = "sixteen.jsonl";
        run.train.pass_tokens = pass_tokens[i];
        run.train.batch_size = sizes[i];
        run.train.accumulate = 8 / sizes[i];
        tiny_train_well(&run);
        assert_int_equal(run.result.steps, STEPS);
        for (int step = 0; step < STEPS; step++) {
            assert_true(fabs(r[i].losses[step] - r[0].losses[step]) < 1e-5);
            assert_true(fabs(r[i].norms[step] - r[0].norms[step]) < 1e-5 * r[0].norms[step]);
        }
        assert_true(adapter_distance(outs[i], outs[0]) < 1e-4);
    }
    assert_true(r[0].losses[STEPS - 1] < r[0].losses[0]);
}

static void same_seed_gives_the_same_bytes_and_another_seed_others(void **state) {
    (void)state;
    tiny_run one = tiny_start("seed-1"), again = tiny_start("seed-1-again"), other = tiny_start("seed-2");
    one.adapter.dropout = again.adapter.dropout = other.adapter.dropout = 0.2;
    one.train.seed = again.train.seed = 1;
    other.train.seed = 2;
    tiny_train_well(&one);
    tiny_train_well(&again);
    tiny_train_well(&other);
    tiny_assert_same_file("seed-1", "seed-1-again", "adapter_model.safetensors");
    tiny_assert_same_metrics("seed-1", "seed-1-again");
    tiny_assert_other_file("seed-1", "seed-2", "adapter_model.safetensors");
}

static void number_of_threads_changes_no_byte(void **state) {
    (void)state;
    static const char *const outs[] = {"threads-1", "threads-2", "threads-3"};
    tiny_write_model(tiny_path("wide"), "llama", "", 128, 2, 1000, 5); /* wide enough for products to be shared out */
    for (int i = 0; i < 3; i++) {
        tiny_run run = tiny_start(outs[i]);
        run.base = "wide";
        run.train.batch_size = 20;
        run.train.steps = 4;
        run.adapter.dropout = 0.1;
        run.adapter.target_modules = "all-linear";
        tn_set_threads(i + 1);
        tiny_train_well(&run);
        tiny_assert_same_file(outs[0], outs[i], "adapter_model.safetensors");
        tiny_assert_same_metrics(outs[0], outs[i]);
    }
    tn_set_threads(1);
}

static void recomputing_activations_changes_no_byte(void **state) {
    (void)state;
    static const char *const methods[] = {"lora", "vera", "ia3", "full"};
    for (int i = 0; i < 4; i++) {
        bool full = i == 3, sized = i < 2;
        tiny_run off = tiny_start("recompute-off"), on = tiny_start("recompute-on");
        off.train.checkpointing = "off";
        on.train.checkpointing = "on";
        off.adapter.dropout = on.adapter.dropout = sized || full ? 0.1 : 0;
        off.adapter.rank = on.adapter.rank = sized || full ? 4 : 0;
        off.adapter.method = on.adapter.method = methods[i];
        off.adapter.target_modules = on.adapter.target_modules = "all-linear";
        tiny_train_well(&off);
        tiny_train_well(&on);
        tiny_assert_same_file("recompute-off", "recompute-on", full ? "model.safetensors" : "adapter_model.safetensors");
        tiny_assert_same_metrics("recompute-off", "recompute-on");
    }
}

/* The mask of a block that runs again is the same. */
static void recomputing_dropped_updates_changes_no_byte(void **state) {
    static const tn_method_setting dropping[] = {{"rank-dropout", "0.3"}, {"module-dropout", "0.25"}};
    static const char *const methods[] = {"loha", "lokr"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        for (int on = 0; on < 2; on++) {
            tiny_run run = tiny_start(on ? "recompute-on" : "recompute-off");
            run.train.checkpointing = on ? "on" : "off";
            run.adapter.method = methods[i];
            run.adapter.target_modules = "all-linear";
            run.adapter.settings = dropping;
            run.adapter.setting_count = 2;
            tiny_train_well(&run);
        }
        tiny_assert_same_file("recompute-off", "recompute-on", "adapter_model.safetensors");
        tiny_assert_same_metrics("recompute-off", "recompute-on");
    }
}

static void every_kind_of_trained_tensor_learns(void **state) {
    (void)state;
    static const struct {
        const char *base, *method, *init, *bias, *save, *tokens;
    } kinds[] = {
        {"base", "lora", "pissa", "none", NULL, NULL},
        {"base", "lora", "olora", "all", NULL, NULL},
        {"base", "lora", "gaussian", "lora_only", NULL, "5,17"},
        {"base", "lora", "kaiming", "none", "embed_tokens,lm_head", NULL},
        {"base", "loha", "kaiming", "none", "lm_head", NULL},
        {"base", "lokr", "kaiming", "none", "lm_head", NULL},
        {"base", "full", "kaiming", "none", NULL, NULL},
        {"qwen2", "full", "kaiming", "none", NULL, NULL},
        {"qwen2", "vera", "kaiming", "vera_only", NULL, NULL},
        {"qwen2", "ia3", "kaiming", "none", "norm", NULL},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        recording r;
        tiny_run run = start_recording("kinds", &r);
        run.base = kinds[i].base;
        run.adapter.method = kinds[i].method;
        run.adapter.rank = strcmp(kinds[i].method, "ia3") == 0 ? 0 : 4;
        run.adapter.init = kinds[i].init;
        run.adapter.bias = kinds[i].bias;
        run.adapter.modules_to_save = kinds[i].save;
        run.adapter.token_indices = kinds[i].tokens;
        tiny_train_well(&run);
        assert_true(r.losses[STEPS - 1] < r.losses[0]);
        assert_int_equal(tn_path_remove_tree(tiny_path("kinds")), TN_OK);
    }
}

/* --- memory --- */

static void nothing_is_allocated_between_steps(void **state) {
    (void)state;
    recording r;
    tiny_run run = start_recording("allocations", &r);
    run.train.save_every = 0;
    tiny_train_well(&run);
    for (int step = 3; step < 10; step++)
        assert_int_equal(r.used[step], r.used[2]);
}

/* Most memory is needed by a sample that has neither most tokens nor most labels. */
static void plan_finds_the_largest_of_mixed_samples(void **state) {
    (void)state;
    static const int sizes[][2] = {{12, 1}, {10, 9}, {11, 8}}; /* tokens, labels */
    int64_t heaps[3], starts[2] = {0};
    tn_trainer t;
    tn_train_plan plan;
    tn_model *model;
    tn_pass_cost cost;
    tn_buf text = {0};
    for (int i = 0; i < 3; i++) {
        for (int labels = 0; labels < 2; labels++) {
            tn_buf_printf(&text, labels ? "], \"labels\": [" : "{\"input_ids\": [");
            for (int j = 0; j < sizes[i][0]; j++)
                tn_buf_printf(&text, "%s%d", j ? ", " : "", labels && j < sizes[i][0] - sizes[i][1] ? -100 : 1 + j);
        }
        tn_buf_printf(&text, "]}\n");
    }
    tiny_write_text(tiny_path("mixed.jsonl"), tn_buf_text(&text));
    tn_buf_free(&text);
    tiny_run run = tiny_start("unused");
    run.train.data = tiny_path("mixed.jsonl");
    run.train.batch_size = 1;
    run.train.valid_fraction = 0;
    run.train.checkpointing = "off";
    assert_int_equal(tn_model_load(tiny_path("base"), &model), TN_OK);
    assert_int_equal(tn_model_add_adapter(model, &run.adapter, 0), TN_OK);
    assert_int_equal(tn_trainer_init(&t, model, &run.train, NULL), TN_OK);
    assert_int_equal(tn_trainer_load(&t), TN_OK);
    assert_int_equal(tn_trainer_plan(&t, false, &plan), TN_OK);
    for (int i = 0; i < 3; i++) {
        starts[1] = sizes[i][0];
        assert_int_equal(tn_pass_rehearse(model, starts, 1, sizes[i][1], true, TN_CHECKPOINTING_OFF, &cost), TN_OK);
        heaps[i] = cost.heap_bytes;
    }
    assert_true(heaps[2] > heaps[0] && heaps[2] > heaps[1]);
    assert_int_equal(plan.activation_bytes, heaps[2]);
    tn_trainer_free(&t);
    tn_model_free(model);
}

static void tape_needs_exactly_what_the_plan_says(void **state) {
    static const char *const methods[] = {"lora", "full", "loha", "lokr", "vera", "ia3"};
    (void)state;
    for (int variant = 0; variant < 24; variant++) {
        tn_trainer t;
        tn_train_plan plan;
        tn_model *model;
        const tn_batch *batch;
        tiny_run run = tiny_start("unused");
        run.train.data = tiny_path("data.jsonl");
        run.adapter.method = methods[variant % 6];
        run.adapter.rank = variant % 6 == 5 ? 0 : 4;
        run.train.checkpointing = variant / 6 & 1 ? "on" : "off";
        run.train.valid_fraction = 0.2;
        run.train.pass_tokens = variant / 12 ? 2 * TINY_LENGTH : 0;
        assert_int_equal(tn_model_load(tiny_path("base"), &model), TN_OK);
        assert_int_equal(tn_model_add_adapter(model, &run.adapter, 0), TN_OK);
        assert_int_equal(tn_trainer_init(&t, model, &run.train, NULL), TN_OK);
        assert_int_equal(tn_trainer_load(&t), TN_OK);
        assert_int_equal(tn_trainer_plan(&t, false, &plan), TN_OK);
        assert_int_equal(tn_tape_init(&t.tape, model->kernels, 2 * plan.activation_bytes), TN_OK);
        for (int64_t i = 0; i < t.steps; i++) {
            tn_batch_part part = {0};
            assert_int_equal(tn_batch_at(&t.text.builder, &t.text.order, i, &batch), TN_OK);
            while (tn_batch_next_part(&t.text.builder, t.text.part_tokens, &part)) {
                tn_pass pass;
                tn_pass_from_batch(&part.batch, t.text.spans, &pass);
                tn_tape_reset(&t.tape);
                t.tape.recording = true;
                tn_forward forward = {.tape = &t.tape, .training = true};
                tn_pass_loss(model, &forward, &pass, t.checkpointing, 1, t.text.losses, NULL);
                assert_int_equal(tn_tape_status(&t.tape), TN_OK);
            }
        }
        tn_validation found;
        assert_int_equal(tn_trainer_validate(&t, &found), TN_OK);
        assert_int_equal(t.tape.heap.peak, plan.activation_bytes);
        tn_trainer_free(&t);
        tn_model_free(model);
    }
}

static void want_of_memory_anywhere_is_an_error_and_leaks_nothing(void **state) {
    (void)state;
    tn_model *model;
    tiny_run run = tiny_start("memory");
    tn_train_options options = run.train;
    options.data = tiny_path("data.jsonl");
    options.out = tiny_path("memory");
    options.steps = 2;
    options.valid_fraction = 0.2;
    assert_int_equal(tn_model_load(tiny_path("base"), &model), TN_OK);
    assert_int_equal(tn_model_add_adapter(model, &run.adapter, 0), TN_OK);
    assert_int_equal(tn_train(model, &options, NULL, NULL), TN_OK); /* positions and scratch stay with the model */
    size_t before = tn_memory_used();
    int64_t allocation = 0;
    for (bool finished = false; !finished; allocation++) {
        tn_memory_fail_after(allocation);
        tn_status status = tn_train(model, &options, NULL, NULL);
        tn_memory_fail_after(-1);
        assert_true(status == TN_ERROR_MEMORY || status == TN_OK);
        assert_int_equal(tn_memory_used(), before);
        finished = status == TN_OK && allocation > 200;
        if (allocation > 60)
            allocation += allocation / 16;
    }
    tn_model_free(model);
}

/* --- failures --- */

static void unusable_output_is_said_before_any_work(void **state) {
    (void)state;
    tiny_write_text(tiny_path("file"), "in the way");
    const struct {
        const char *out, *words;
    } cases[] = {{"file", "a file of that name is in the way"},
                 {"file/below", "cannot create the folder"},
                 {"/proc/tenon", "cannot create"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_run run = tiny_start(cases[i].out);
        run.data = "absent.jsonl"; /* reading the data is work */
        tiny_train_badly(&run, TN_ERROR_IO, cases[i].words);
    }
    tn_buf kept = tiny_read(tiny_path("file"));
    assert_string_equal(tn_buf_text(&kept), "in the way");
    tn_buf_free(&kept);
}

static void a_file_named_checkpoints_is_an_error_not_lost(void **state) {
    (void)state;
    tiny_run run = tiny_start("blocked");
    assert_int_equal(tn_dir_create(tiny_path("blocked")), TN_OK);
    tiny_write_text(tiny_path("blocked/checkpoints"), "mine");
    tiny_train_badly(&run, TN_ERROR_IO, "in the way");
    assert_int_equal(tiny_count_files("blocked", "tmp-"), 0);
}

static void options_out_of_range_are_named(void **state) {
    (void)state;
    tiny_run run = tiny_start("never");
    run.train.batch_size = 0;
    tiny_train_badly(&run, TN_ERROR_ARGUMENT, "batch_size is 0; it must be from 1");
    run = tiny_start("never");
    run.train.lr = NAN;
    tiny_train_badly(&run, TN_ERROR_ARGUMENT, "lr is nan");
    run = tiny_start("never");
    run.train.beta2 = 1;
    tiny_train_badly(&run, TN_ERROR_ARGUMENT, "beta2 is 1; both must be at least 0 and below 1");
    run = tiny_start("never");
    run.train.schedule = "polynomial";
    tiny_train_badly(&run, TN_ERROR_ARGUMENT, "'polynomial' is not one of constant, linear, cosine");
    run = tiny_start("never");
    run.train.checkpointing = "sometimes";
    tiny_train_badly(&run, TN_ERROR_ARGUMENT, "'sometimes' is not one of auto, off, 8bit, on");
    run = tiny_start("never");
    run.data = "absent.jsonl";
    tiny_train_badly(&run, TN_ERROR_IO, "absent.jsonl");
}

static void data_without_a_label_is_an_error(void **state) {
    (void)state;
    tiny_write_text(tiny_path("masked.jsonl"), "{\"input_ids\": [1, 2, 3], \"labels\": [-100, -100, -100]}\n"
                                               "{\"input_ids\": [4, 5], \"labels\": [4, -100]}\n");
    tiny_run run = tiny_start("masked");
    run.data = "masked.jsonl";
    tiny_train_badly(&run, TN_ERROR_FORMAT, "no sample has a token to learn: 2 without any trained token");
}

static void count_unlabelled(void *cookie, const tn_train_plan *plan) {
    *(tn_train_plan *)cookie = *plan;
}

static void single_samples_without_label_are_left_out_and_counted(void **state) {
    (void)state;
    tn_train_plan plan;
    tiny_write_text(tiny_path("some.jsonl"), "{\"input_ids\": [1, 2, 3]}\n"
                                             "{\"input_ids\": [1, 2, 3], \"labels\": [-100, -100, -100]}\n"
                                             "{\"input_ids\": [4, 5, 6]}\n{\"input_ids\": [9]}\n");
    tiny_run run = tiny_start("some");
    run.data = "some.jsonl";
    run.callbacks = (tn_train_callbacks){.cookie = &plan, .start = count_unlabelled};
    tiny_train_well(&run);
    assert_int_equal(plan.train_samples, 2);
    assert_int_equal(plan.unlabelled, 2);
    assert_int_equal(plan.first_unlabelled_line, 2);
}

static void a_learning_rate_of_zero_is_found_out_after_twenty_steps(void **state) {
    (void)state;
    tiny_run run = tiny_start("zero");
    run.train.lr = 0;
    run.train.steps = 100;
    tiny_train_badly(&run, TN_ERROR_NUMERIC, "after 20 steps no weight has changed");
    run.train.steps = 5;
    tiny_train_badly(&run, TN_ERROR_NUMERIC, "after 5 steps no weight has changed");
}

/* The checkpoint of this step holds finite values only. */
static void assert_finite_checkpoint(const char *path) {
    tn_safetensors file;
    if (tn_safetensors_open(path, &file) != TN_OK)
        fail_msg("%s", tn_error_message());
    for (size_t i = 0; i < file.count; i++)
        assert_true(tn_tensor_first_nonfinite(&file.entries[i].tensor) < 0);
    tn_safetensors_close(&file);
}

/* Makes one value NaN after step 4. */
typedef struct {
    tn_model *model;
    int64_t offset;
} poison;

static bool poison_after_4(void *cookie, const tn_train_step *step) {
    const poison *p = cookie;
    if (step->step == 4)
        p->model->adapter->params.values[p->offset] = NAN;
    return true;
}

/* With a checkpoint every other step; poisons the embedding of one token, or the adapter when that is negative. */
static tn_status train_poisoned(const char *out, const char *data, int token) {
    tn_model *model;
    tiny_run run = tiny_start(out);
    run.train.data = tiny_path(data);
    run.train.out = tiny_path(out);
    run.train.save_every = 2;
    run.adapter.method = token < 0 ? "lora" : "full";
    assert_int_equal(tn_model_load(tiny_path("base"), &model), TN_OK);
    assert_int_equal(tn_model_add_adapter(model, &run.adapter, 0), TN_OK);
    const tn_param *embedding = tn_params_find(&model->adapter->params, "model.embed_tokens.weight");
    poison p = {model, token < 0 ? 0 : embedding->offset + token * embedding->weight->tensor.shape[1]};
    const tn_train_callbacks callbacks = {.cookie = &p, .step = poison_after_4};
    tn_status status = tn_train(model, &run.train, &callbacks, NULL);
    tn_model_free(model);
    return status;
}

static void a_loss_that_is_not_finite_stops_with_step_and_line(void **state) {
    (void)state;
    assert_int_equal(train_poisoned("poison", "data.jsonl", -1), TN_ERROR_NUMERIC);
    if (!strstr(tn_error_message(), "the loss is not finite at step 5, first in the sample of line "))
        fail_msg("%s", tn_error_message());
    assert_finite_checkpoint(tiny_path("poison/checkpoints/step-00000004.safetensors"));
    assert_int_equal(tiny_count_files("poison", "adapter_model"), 0);
    tiny_run on = tiny_start("poison");
    on.train.resume = true;
    on.train.save_every = 2;
    tiny_train_well(&on);
}

static void weights_that_are_not_finite_are_never_saved(void **state) {
    (void)state;
    tiny_write_text(tiny_path("three.jsonl"), "{\"input_ids\": [1, 2, 3]}\n");
    assert_int_equal(train_poisoned("unused-row", "three.jsonl", 40), TN_ERROR_NUMERIC);
    assert_non_null(strstr(tn_error_message(), "a weight is not finite after step 6; the last checkpoint is kept"));
    assert_finite_checkpoint(tiny_path("unused-row/checkpoints/step-00000004.safetensors"));
    assert_int_equal(tiny_count_files("unused-row/checkpoints", ""), 2);
}

static void a_rate_far_too_high_stops_and_keeps_finite_checkpoints(void **state) {
    (void)state;
    tiny_run run = tiny_start("huge");
    run.train.lr = 1e6;
    run.train.schedule = "constant";
    run.train.save_every = 1;
    run.train.steps = 200;
    run.adapter.method = "full";
    tn_status status = tiny_train(&run);
    tn_train_result_free(&run.result);
    if (status != TN_ERROR_NUMERIC || !strstr(tn_error_message(), "step"))
        fail_msg("%s: %s", tn_status_name(status), tn_error_message());
    for (int step = 1; step <= 200; step++) {
        char name[64];
        snprintf(name, sizeof name, "huge/checkpoints/step-%08d.safetensors", step);
        if (tn_path_exists(tiny_path(name)))
            assert_finite_checkpoint(tiny_path(name));
    }
}

static void a_validation_loss_that_is_not_finite_stops_too(void **state) {
    (void)state;
    tn_model *model;
    tn_trainer t;
    tn_validation found;
    tiny_run run = tiny_start("unused");
    run.train.data = tiny_path("data.jsonl");
    run.train.valid_fraction = 0.2;
    assert_int_equal(tn_model_load(tiny_path("base"), &model), TN_OK);
    assert_int_equal(tn_model_add_adapter(model, &run.adapter, 0), TN_OK);
    assert_int_equal(tn_trainer_init(&t, model, &run.train, NULL), TN_OK);
    assert_int_equal(tn_trainer_load(&t), TN_OK);
    assert_int_equal(tn_tape_init(&t.tape, model->kernels, 1 << 24), TN_OK);
    assert_int_equal(tn_trainer_validate(&t, &found), TN_OK);
    assert_true(isfinite(found.loss) && isnan(found.accuracy));
    model->adapter->params.values[0] = NAN;
    assert_int_equal(tn_trainer_validate(&t, &found), TN_ERROR_NUMERIC);
    assert_non_null(strstr(tn_error_message(), "validation loss is not finite"));
    tn_trainer_free(&t);
    tn_model_free(model);
}

/* --- what a run writes --- */

static void check_step_line(const cJSON *json, const recording *r, int step) {
    static const char *const keys[] = {
        "step", "epoch", "loss", "lr", "grad_norm", "tokens", "labelled", "seconds", "tokens_per_second"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_true(cJSON_IsNumber(tn_json_get(json, keys[i])));
    assert_int_equal(tn_json_get(json, "step")->valueint, step);
    assert_true(fabs(tn_json_get(json, "loss")->valuedouble - r->losses[step - 1]) <= 1e-8 * r->losses[step - 1]);
}

static void metrics_hold_a_line_for_every_step_and_validation(void **state) {
    (void)state;
    recording r;
    tiny_run run = start_recording("metrics", &r);
    run.train.valid_fraction = 0.2;
    run.train.eval_every = 5;
    tiny_train_well(&run);
    tn_buf text = tiny_read(tiny_path("metrics/metrics.jsonl"));
    int steps = 0, validations = 0;
    for (const char *at = tn_buf_text(&text), *end; *at; at = end + 1) {
        end = strchr(at, '\n');
        assert_non_null(end);
        cJSON *json = cJSON_ParseWithLength(at, (size_t)(end - at));
        if (tn_json_get(json, "valid_loss")) {
            validations++;
            assert_int_equal(tn_json_get(json, "step")->valueint, steps);
        } else {
            check_step_line(json, &r, ++steps);
        }
        cJSON_Delete(json);
    }
    tn_buf_free(&text);
    assert_int_equal(steps, STEPS);
    assert_int_equal(validations, 3);
    assert_true(run.result.best_valid_loss <= run.result.valid_loss);
    assert_true(run.result.best_valid_step > 0);
}

static void log_every_thins_the_lines_but_keeps_the_last(void **state) {
    (void)state;
    tiny_run run = tiny_start("thin");
    run.train.log_every = 5;
    tiny_train_well(&run);
    tn_buf text = tiny_read(tiny_path("thin/metrics.jsonl"));
    int lines = 0;
    for (const char *at = tn_buf_text(&text); (at = strchr(at, '\n')); at++)
        lines++;
    assert_int_equal(lines, 3);
    assert_non_null(strstr(tn_buf_text(&text), "{\"step\": 12,"));
    tn_buf_free(&text);
}

static void a_run_leaves_its_outputs_and_no_temporary_file(void **state) {
    (void)state;
    tiny_run run = tiny_start("outputs");
    run.train.run_config = "lr: 0.01\n";
    tiny_train_well(&run);
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "report.html"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(tiny_count_files("outputs", names[i]), 1);
    tn_buf config = tiny_read(tiny_path("outputs/config.yaml"));
    assert_string_equal(tn_buf_text(&config), "lr: 0.01\n");
    tn_buf_free(&config);
    assert_int_equal(tiny_count_files("outputs", ""), 6);
    assert_int_equal(tiny_count_files("outputs/checkpoints", ""), 2);
    assert_int_equal(tiny_count_files("outputs/checkpoints", "step-00000010."), 1);
    assert_int_equal(tiny_count_files("outputs/checkpoints", "step-00000012."), 1);
}

static int remove_folder(void **state) {
    (void)state;
    tiny_remove();
    return 0;
}

int main(void) {
    tn_set_threads(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splitting_a_step_into_micro_batches_changes_nothing),
        cmocka_unit_test(same_seed_gives_the_same_bytes_and_another_seed_others),
        cmocka_unit_test(number_of_threads_changes_no_byte),
        cmocka_unit_test(recomputing_activations_changes_no_byte),
        cmocka_unit_test(recomputing_dropped_updates_changes_no_byte),
        cmocka_unit_test(every_kind_of_trained_tensor_learns),
        cmocka_unit_test(nothing_is_allocated_between_steps),
        cmocka_unit_test(plan_finds_the_largest_of_mixed_samples),
        cmocka_unit_test(tape_needs_exactly_what_the_plan_says),
        cmocka_unit_test(want_of_memory_anywhere_is_an_error_and_leaks_nothing),
        cmocka_unit_test(unusable_output_is_said_before_any_work),
        cmocka_unit_test(a_file_named_checkpoints_is_an_error_not_lost),
        cmocka_unit_test(options_out_of_range_are_named),
        cmocka_unit_test(data_without_a_label_is_an_error),
        cmocka_unit_test(single_samples_without_label_are_left_out_and_counted),
        cmocka_unit_test(a_learning_rate_of_zero_is_found_out_after_twenty_steps),
        cmocka_unit_test(a_loss_that_is_not_finite_stops_with_step_and_line),
        cmocka_unit_test(weights_that_are_not_finite_are_never_saved),
        cmocka_unit_test(a_rate_far_too_high_stops_and_keeps_finite_checkpoints),
        cmocka_unit_test(a_validation_loss_that_is_not_finite_stops_too),
        cmocka_unit_test(metrics_hold_a_line_for_every_step_and_validation),
        cmocka_unit_test(log_every_thins_the_lines_but_keeps_the_last),
        cmocka_unit_test(a_run_leaves_its_outputs_and_no_temporary_file),
    };
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}
