/* Stopping and going on: the same bytes as without the stop, refusals when something changed, and broken checkpoints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "session/gguf_write.h"
#include "tiny.h"

static char warned[256];

static void note_warning(void *cookie, const char *text) {
    (void)cookie;
    snprintf(warned, sizeof warned, "%s", text);
}

static void note_resumed(void *cookie, int64_t step) {
    *(int64_t *)cookie = step;
}

/* A run that goes on; *from gets the step of the checkpoint, 0 when it begins anew. */
static tiny_run go_on(tiny_run run, int64_t *from) {
    *from = 0;
    warned[0] = 0;
    run.train.resume = true;
    run.stop_after = 0;
    run.callbacks = (tn_train_callbacks){.cookie = from, .resumed = note_resumed, .warning = note_warning};
    return run;
}

static void stop_at(tiny_run run, int64_t step) {
    run.stop_after = step;
    tiny_train_badly(&run, TN_ERROR_INTERRUPTED, "the checkpoint is in");
}

/* Twelve steps at once and with stops after these steps must end in the same files. */
static void check_resuming(tiny_run run, const char *name, const int64_t *stops, size_t count) {
    tiny_run straight = run, parts = run;
    straight.out = "straight";
    parts.out = "parts";
    tiny_train_well(&straight);
    for (size_t i = 0; i <= count; i++) {
        int64_t from;
        parts = go_on(parts, &from);
        parts.stop_after = i < count ? stops[i] : 0;
        tn_status status = tiny_train(&parts);
        if (status != (i < count ? TN_ERROR_INTERRUPTED : TN_OK))
            fail_msg("%s", tn_error_message());
        assert_int_equal(from, i ? stops[i - 1] : 0);
        if (status == TN_OK)
            assert_int_equal(parts.result.first_step, from + 1);
        tn_train_result_free(&parts.result);
    }
    tiny_assert_same_file("straight", "parts", name);
    tiny_assert_same_metrics("straight", "parts");
    assert_int_equal(tn_path_remove_tree(tiny_path("straight")), TN_OK);
    assert_int_equal(tn_path_remove_tree(tiny_path("parts")), TN_OK);
}

/* 20 rows in batches of 8 are epochs of three batches, the last of 4 rows: stops lie within, at and behind their ends. */
static const int64_t stops[] = {1, 3, 5, 9, 11};
enum { STOPS = 5 };

static void stopping_changes_no_byte(void **state) {
    (void)state;
    tiny_run run = tiny_start("");
    run.train.batch_size = 8;
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
    run.train.accumulate = 2;
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
}

static void stopping_changes_no_byte_with_dropout_and_validation(void **state) {
    (void)state;
    tiny_run run = tiny_start("");
    run.train.batch_size = 8;
    run.train.valid_fraction = 0.2;
    run.train.eval_every = 2;
    run.train.seed = 7;
    run.train.warmup = 4;
    run.adapter.dropout = 0.3;
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
}

static void stopping_changes_no_byte_with_pissa(void **state) {
    (void)state;
    tiny_run run = tiny_start("");
    run.adapter.init = "pissa";
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
    run.adapter.init = "olora";
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
}

static void stopping_changes_no_byte_with_biases_and_whole_modules(void **state) {
    (void)state;
    tiny_run run = tiny_start("");
    run.adapter.bias = "all";
    run.adapter.modules_to_save = "embed_tokens,lm_head";
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
    run.adapter.modules_to_save = NULL;
    run.adapter.token_indices = "5,17";
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
}

static void stopping_changes_no_byte_with_dropped_updates(void **state) {
    static const tn_method_setting dropping[] = {{"rank-dropout", "0.3"}, {"module-dropout", "0.25"}};
    static const char *const methods[] = {"loha", "lokr"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        tiny_run run = tiny_start("");
        run.adapter.method = methods[i];
        run.adapter.settings = dropping;
        run.adapter.setting_count = 2;
        run.train.batch_size = 8;
        check_resuming(run, "adapter_model.safetensors", stops, STOPS);
    }
}

static uint32_t in_q8_0(void *context, const char *name, const tn_tensor *tensor, uint32_t stored) {
    (void)context;
    (void)name;
    return tensor->shape[1] % 32 == 0 ? (uint32_t)TN_GGML_Q8_0 : stored;
}

static void stopping_changes_no_byte_on_a_quantised_base(void **state) {
    (void)state;
    tn_model *model;
    tiny_run run = tiny_start("");
    assert_int_equal(tn_model_load(tiny_path("base"), &model), TN_OK);
    assert_int_equal(tn_session_write_gguf(model, tiny_path("base.gguf"), in_q8_0, NULL), TN_OK);
    tn_model_free(model);
    run.base = "base.gguf";
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
}

static void stopping_changes_no_byte_of_full_training(void **state) {
    (void)state;
    tiny_run run = tiny_start("");
    run.adapter.method = "full";
    run.train.batch_size = 8;
    check_resuming(run, "model.safetensors", stops, STOPS);
    run.base = "qwen2";
    check_resuming(run, "model.safetensors", stops, STOPS);
}

/* The projections of VeRA are in the checkpoints, but here not in the file. */
static void stopping_changes_no_byte_with_vera_and_ia3(void **state) {
    static const tn_method_setting seed_alone = {"save-projection", "false"};
    (void)state;
    tiny_run run = tiny_start("");
    run.adapter.method = "vera";
    run.adapter.settings = &seed_alone;
    run.adapter.setting_count = 1;
    run.adapter.dropout = 0.3;
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
    run = tiny_start("");
    run.adapter.method = "ia3";
    run.adapter.rank = 0;
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
}

static void stopping_changes_no_byte_with_groups(void **state) {
    (void)state;
    const tn_lr_group groups[] = {{".*lora_B.*", 16, true}};
    tiny_run run = tiny_start("");
    run.train.lr = 1e-3;
    run.train.groups = groups;
    run.train.group_count = 1;
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
}

/* Before ranks are chosen, between two choices, and after the last. */
static void stopping_changes_no_byte_of_adalora(void **state) {
    (void)state;
    static const tn_method_setting schedule[] = {{"target_r", "2"}, {"tinit", "2"}, {"tfinal", "3"}, {"delta-t", "2"}};
    tiny_run run = tiny_start("");
    run.adapter.method = "adalora";
    run.adapter.settings = schedule;
    run.adapter.setting_count = 4;
    run.adapter.dropout = 0.2;
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
    check_resuming(run, "adapter_config.json", stops, STOPS);
}

static void stopping_changes_no_byte_of_lora_fa(void **state) {
    (void)state;
    tiny_run run = tiny_start("");
    run.adapter.method = "lora-fa";
    check_resuming(run, "adapter_model.safetensors", stops, STOPS);
}

/* --- refusals --- */

static void changed_settings_are_refused_by_name(void **state) {
    (void)state;
    static const tn_lr_group group = {".*lora_B.*", 2, false};
    tiny_run first = tiny_start("settings"), changed;
    stop_at(first, 5);
    int64_t from;
    const char *words[] = {"lr was 0.01 and is now 0.02",
                           "r was 4 and is now 8",
                           "seed was \"0\" and is now \"1\"",
                           "batch-size was 4 and is now 2",
                           "steps was 12 and is now 13",
                           "groups was",
                           "bias was \"none\" and is now \"all\"",
                           "method was \"lora\" and is now \"full\"",
                           "base was",
                           "checkpointing was absent and is now \"8bit\""};
    for (int i = 0; i < 10; i++) {
        changed = go_on(first, &from);
        switch (i) {
        case 0: changed.train.lr = 0.02; break;
        case 1: changed.adapter.rank = 8; break;
        case 2: changed.train.seed = 1; break;
        case 3: changed.train.batch_size = 2; break;
        case 4: changed.train.steps = 13; break;
        case 5:
            changed.train.groups = &group;
            changed.train.group_count = 1;
            break;
        case 6: changed.adapter.bias = "all"; break;
        case 7: changed.adapter.method = "full"; break;
        case 8: changed.base = "other-base"; break;
        case 9: changed.train.checkpointing = "8bit"; break;
        }
        tiny_train_badly(&changed, TN_ERROR_MISMATCH, words[i]);
    }
    assert_int_equal(tiny_count_files("settings/checkpoints", "step-00000005"), 1);
}

/* What is kept exactly may be recomputed after a stop and back, but not be rounded. */
static void activations_in_8_bits_resume_to_the_same_bytes(void **state) {
    (void)state;
    tiny_run straight = tiny_start("straight-8bit"), first = tiny_start("parts-8bit"), rest;
    int64_t from;
    straight.train.checkpointing = first.train.checkpointing = "8bit";
    tiny_train_well(&straight);
    stop_at(first, 5);
    rest = go_on(first, &from);
    rest.train.checkpointing = "on";
    tiny_train_badly(&rest, TN_ERROR_MISMATCH, "checkpointing was \"8bit\" and is now absent");
    rest.train.checkpointing = "8bit";
    tiny_train_well(&rest);
    assert_int_equal(from, 5);
    tiny_assert_same_file("straight-8bit", "parts-8bit", "adapter_model.safetensors");
    tiny_assert_same_metrics("straight-8bit", "parts-8bit");
}

static void changed_data_are_refused(void **state) {
    (void)state;
    int64_t from;
    tiny_write_rows(tiny_path("other.jsonl"), 20, 2);
    tiny_run first = tiny_start("data-changed");
    stop_at(first, 5);
    tiny_run changed = go_on(first, &from);
    changed.data = "other.jsonl";
    tiny_train_badly(&changed, TN_ERROR_MISMATCH, "was written with other training data");
    changed.data = "data.jsonl";
    changed.train.max_length = 4;
    tiny_train_badly(&changed, TN_ERROR_MISMATCH, "was written with other training data");
}

static void changes_that_are_wanted_go_on(void **state) {
    (void)state;
    int64_t from;
    tiny_run first = tiny_start("wanted");
    stop_at(first, 5);
    tiny_run changed = go_on(first, &from);
    changed.data = "other.jsonl";
    changed.train.lr = 0.02;
    changed.train.steps = 15;
    changed.train.resume_changed = true;
    tiny_train_well(&changed);
    assert_int_equal(from, 5);
    assert_int_equal(changed.result.steps, 15);
    changed.adapter.rank = 8; /* does not fit whatever one wishes */
    tiny_train_badly(&changed, TN_ERROR_MISMATCH, "is missing or of another shape");
}

static void fewer_steps_than_done_end_at_once(void **state) {
    (void)state;
    int64_t from;
    tiny_run first = tiny_start("fewer");
    stop_at(first, 7);
    tiny_run changed = go_on(first, &from);
    changed.train.steps = 6;
    changed.train.resume_changed = true;
    tiny_train_well(&changed);
    assert_int_equal(from, 7);
    assert_int_equal(changed.result.steps, 7);
    assert_int_equal(tiny_count_files("fewer", "adapter_model.safetensors"), 1);
}

/* --- checkpoints --- */

static void nothing_to_resume_begins_at_the_beginning(void **state) {
    (void)state;
    int64_t from;
    tiny_run plain = tiny_start("plain"), resumed = go_on(tiny_start("empty"), &from);
    tiny_train_well(&plain);
    assert_int_equal(tn_dir_create(tiny_path("empty")), TN_OK);
    tiny_train_well(&resumed);
    assert_int_equal(from, 0);
    assert_int_equal(resumed.result.first_step, 1);
    tiny_assert_same_file("plain", "empty", "adapter_model.safetensors");
}

static void a_finished_run_writes_its_outputs_again_and_trains_nothing(void **state) {
    (void)state;
    static const char *const names[] = {"adapter_model.safetensors", "adapter_config.json", "report.html"};
    int64_t from;
    char path[TN_PATH_MAX];
    tiny_run run = tiny_start("finished"), copy = tiny_start("finished-copy");
    run.train.valid_fraction = copy.train.valid_fraction = 0.2;
    tiny_train_well(&run);
    tiny_train_well(&copy);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(tn_path_join(path, tiny_path("finished"), names[i]), TN_OK);
        assert_int_equal(unlink(path), 0);
    }
    tn_train_result before = run.result;
    run = go_on(run, &from);
    tiny_train_well(&run);
    assert_int_equal(from, 12);
    assert_int_equal(run.result.first_step, 13);
    assert_int_equal(run.result.steps, 12);
    assert_int_equal(run.result.curve_points, 12);
    assert_true(fabs(run.result.loss - before.loss) < 1e-8);
    assert_true(fabs(run.result.best_valid_loss - before.best_valid_loss) < 1e-8);
    tiny_assert_same_file("finished", "finished-copy", "adapter_model.safetensors");
    tiny_assert_same_file("finished", "finished-copy", "adapter_config.json");
    tiny_assert_same_metrics("finished", "finished-copy");
    assert_int_equal(tiny_count_files("finished", "report.html"), 1);
}

/* Leaves the first `keep` bytes of a file, or `keep` less than all when negative. */
static void cut(const char *path, long keep) {
    tn_buf bytes = tiny_read(path);
    assert_int_equal(truncate(path, keep < 0 ? (off_t)bytes.length + keep : keep), 0);
    tn_buf_free(&bytes);
}

static void a_truncated_checkpoint_gives_way_to_the_one_before(void **state) {
    (void)state;
    static const long cuts[] = {0, 5, 300, -1};
    tiny_run straight = tiny_start("whole");
    straight.train.save_every = 2;
    tiny_train_well(&straight);
    for (int i = 0; i < 4; i++) {
        int64_t from;
        tiny_run run = tiny_start("truncated");
        run.train.save_every = 2;
        stop_at(run, 7);
        cut(tiny_path("truncated/checkpoints/step-00000007.safetensors"), cuts[i]);
        run = go_on(run, &from);
        tiny_train_well(&run);
        assert_int_equal(from, 6);
        assert_string_equal(warned, "1 damaged checkpoint passed over; an older one is used");
        tiny_assert_same_file("whole", "truncated", "adapter_model.safetensors");
        tiny_assert_same_metrics("whole", "truncated");
    }
}

static void checkpoints_that_are_all_broken_begin_at_the_beginning(void **state) {
    (void)state;
    int64_t from;
    tiny_run run = tiny_start("broken");
    stop_at(run, 5);
    cut(tiny_path("broken/checkpoints/step-00000005.safetensors"), 100);
    run = go_on(run, &from);
    tiny_train_well(&run);
    assert_int_equal(from, 0);
    assert_string_equal(warned, "1 damaged checkpoint passed over; training begins at the beginning");
    assert_int_equal(run.result.first_step, 1);
}

static void a_run_that_begins_anew_replaces_checkpoints_with_its_first(void **state) {
    (void)state;
    int64_t from;
    tiny_run old = tiny_start("anew");
    old.train.steps = 40;
    stop_at(old, 30);
    assert_int_equal(tiny_count_files("anew/checkpoints", ""), 2);
    tiny_run new = tiny_start("anew");
    new.train.save_every = 4;
    stop_at(new, 6);
    assert_int_equal(tiny_count_files("anew/checkpoints", ""), 2);
    assert_int_equal(tiny_count_files("anew/checkpoints", "step-00000004."), 1);
    new = go_on(new, &from);
    tiny_train_well(&new);
    assert_int_equal(from, 6);
}

static void the_newest_checkpoints_are_kept_and_others_files_are_left_alone(void **state) {
    (void)state;
    tiny_run run = tiny_start("kept");
    run.train.save_every = 1;
    run.train.keep_checkpoints = 3;
    run.train.resume = true;
    assert_int_equal(tn_dir_create(tiny_path("kept/checkpoints")), TN_OK);
    tiny_write_text(tiny_path("kept/checkpoints/notes.txt"), "mine");
    tiny_write_text(tiny_path("kept/checkpoints/step-5.safetensors"), "mine");
    tiny_write_text(tiny_path("kept/mine.tmp-1"), "mine");
    tiny_write_text(tiny_path("kept/adapter_model.safetensors.tmp-99999"), "half");
    tiny_write_text(tiny_path("kept/checkpoints/step-00000003.safetensors.tmp-99999"), "half");
    tiny_train_well(&run);
    assert_int_equal(tiny_count_files("kept/checkpoints", ""), 5);
    for (int step = 10; step <= 12; step++) {
        char name[64];
        snprintf(name, sizeof name, "step-%08d.safetensors", step);
        assert_int_equal(tiny_count_files("kept/checkpoints", name), 1);
    }
    assert_int_equal(tiny_count_files("kept/checkpoints", "notes.txt"), 1);
    assert_int_equal(tiny_count_files("kept", "mine.tmp-1"), 1);
    assert_int_equal(tiny_count_files("kept", "tmp-99999"), 0);
}

static void damage_that_cannot_be_seen_from_outside_is_an_error(void **state) {
    (void)state;
    int64_t from;
    tiny_run run = tiny_start("foreign");
    assert_int_equal(tn_dir_create(tiny_path("foreign/checkpoints")), TN_OK);
    tn_buf other = tiny_read(tiny_path("base/model.safetensors"));
    assert_int_equal(tn_file_write(tiny_path("foreign/checkpoints/step-00000009.safetensors"), other.data, other.length),
                     TN_OK);
    tn_buf_free(&other);
    run = go_on(run, &from);
    tiny_train_badly(&run, TN_ERROR_MISMATCH, "was written with other training data");
    run.train.resume_changed = true;
    tiny_train_badly(&run, TN_ERROR_FORMAT, "is not a training checkpoint");
}

static void lost_metrics_do_not_stop_a_run(void **state) {
    (void)state;
    int64_t from;
    tiny_run run = tiny_start("lost");
    stop_at(run, 5);
    assert_int_equal(unlink(tiny_path("lost/metrics.jsonl")), 0);
    run = go_on(run, &from);
    tiny_train_well(&run);
    assert_int_equal(from, 5);
    assert_int_equal(run.result.curve_points, 7);
}

/* The last steps of a cosine are too short to move any weight by one unit in the last place (but biases, which are near 0).
 */
static void going_on_shortly_before_the_end_is_not_taken_for_standing_still(void **state) {
    (void)state;
    int64_t from;
    tiny_run run = tiny_start("late");
    run.base = "unbiased";
    run.adapter.method = "full";
    run.train.lr = 1e-9;
    run.train.weight_decay = 0;
    run.train.steps = 400;
    run.train.save_every = 0;
    stop_at(run, 398);
    run = go_on(run, &from);
    tiny_train_well(&run);
    assert_int_equal(from, 398);
}

static int prepare(void **state) {
    (void)state;
    tn_set_threads(1);
    tiny_write_model(tiny_path("other-base"), "llama", "\"attention_bias\": true, \"mlp_bias\": true, ", 32, 2, TINY_VOCAB,
                     6);
    tiny_write_model(tiny_path("unbiased"), "llama", "", 32, 2, TINY_VOCAB, 5);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    tiny_remove();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stopping_changes_no_byte),
        cmocka_unit_test(stopping_changes_no_byte_with_dropout_and_validation),
        cmocka_unit_test(stopping_changes_no_byte_with_pissa),
        cmocka_unit_test(stopping_changes_no_byte_with_biases_and_whole_modules),
        cmocka_unit_test(stopping_changes_no_byte_with_dropped_updates),
        cmocka_unit_test(stopping_changes_no_byte_on_a_quantised_base),
        cmocka_unit_test(stopping_changes_no_byte_of_full_training),
        cmocka_unit_test(stopping_changes_no_byte_with_vera_and_ia3),
        cmocka_unit_test(stopping_changes_no_byte_with_groups),
        cmocka_unit_test(stopping_changes_no_byte_of_adalora),
        cmocka_unit_test(stopping_changes_no_byte_of_lora_fa),
        cmocka_unit_test(changed_settings_are_refused_by_name),
        cmocka_unit_test(activations_in_8_bits_resume_to_the_same_bytes),
        cmocka_unit_test(changed_data_are_refused),
        cmocka_unit_test(changes_that_are_wanted_go_on),
        cmocka_unit_test(fewer_steps_than_done_end_at_once),
        cmocka_unit_test(nothing_to_resume_begins_at_the_beginning),
        cmocka_unit_test(a_finished_run_writes_its_outputs_again_and_trains_nothing),
        cmocka_unit_test(a_truncated_checkpoint_gives_way_to_the_one_before),
        cmocka_unit_test(checkpoints_that_are_all_broken_begin_at_the_beginning),
        cmocka_unit_test(a_run_that_begins_anew_replaces_checkpoints_with_its_first),
        cmocka_unit_test(the_newest_checkpoints_are_kept_and_others_files_are_left_alone),
        cmocka_unit_test(damage_that_cannot_be_seen_from_outside_is_an_error),
        cmocka_unit_test(lost_metrics_do_not_stop_a_run),
        cmocka_unit_test(going_on_shortly_before_the_end_is_not_taken_for_standing_still),
    };
    return cmocka_run_group_tests(tests, prepare, remove_folder);
}
