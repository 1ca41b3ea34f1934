/* tenon train and tenon plan as child processes: killed, interrupted, short of disk, measured, and asked for nonsense. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../train/tiny.h"
#include "base/clock.h"
#include "base/rng.h"
#include "kernel/kernel.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static const double PATIENCE = 120; /* seconds for anything a child should do; much more than it takes */

/* Output and errors of the last child that was waited for, together. */
static tn_buf output;

#define PRINTED(words)                                                                                                      \
    do {                                                                                                                    \
        if (!strstr(tn_buf_text(&output), words))                                                                           \
            fail_msg("'%s' is not in: %s", words, tn_buf_text(&output));                                                    \
    } while (0)

static void take_a_nap(double seconds) {
    const struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

/* Runs "tenon ..." in the test's folder with output into output.txt; files may grow to `file_limit` bytes (0: any size). */
static pid_t start(const char *arguments, long file_limit) {
    char line[2048];
    snprintf(line, sizeof line, "exec \"$TENON_PROGRAM\" %s", arguments);
    const char *log = tiny_path("output.txt");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0)
        return child;
    if (chdir(tiny_folder()) != 0 || !freopen(log, "w", stdout) || dup2(STDOUT_FILENO, STDERR_FILENO) < 0)
        _exit(126);
    if (file_limit) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){(rlim_t)file_limit, (rlim_t)file_limit});
    }
    execl("/bin/sh", "sh", "-c", line, (char *)NULL);
    _exit(127);
}

static bool has_ended(pid_t child, int *status) {
    pid_t ended = waitpid(child, status, WNOHANG);
    assert_true(ended >= 0);
    return ended == child;
}

/* Waits; the exit code, or minus the signal that ended the child. */
static int finish(pid_t child) {
    int status;
    double give_up = tn_seconds() + PATIENCE;
    while (!has_ended(child, &status)) {
        if (tn_seconds() > give_up) {
            kill(child, SIGKILL);
            fail_msg("a child did not end");
        }
        take_a_nap(0.002);
    }
    tn_buf_free(&output);
    output = tiny_read(tiny_path("output.txt"));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int tenon(const char *arguments) {
    return finish(start(arguments, 0));
}

static void tenon_well(const char *arguments) {
    if (tenon(arguments) != 0)
        fail_msg("tenon %s: %s", arguments, tn_buf_text(&output));
}

static void tenon_badly(const char *arguments, const char *words) {
    assert_int_not_equal(tenon(arguments), 0);
    PRINTED(words);
}

/* The step of the newest checkpoint, 0 when there is none. */
static int newest_checkpoint(const char *out) {
    char name[128];
    for (int step = 200; step > 0; step--) {
        snprintf(name, sizeof name, "%s/checkpoints/step-%08d.safetensors", out, step);
        if (tn_path_exists(tiny_path(name)))
            return step;
    }
    return 0;
}

/* Until there is a newer checkpoint than `step` or the child has ended; false then. */
static bool wait_for_checkpoint(pid_t child, const char *out, int step) {
    double give_up = tn_seconds() + PATIENCE;
    while (newest_checkpoint(out) <= step) {
        siginfo_t info = {0};
        assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT), 0);
        if (info.si_pid == child)
            return false;
        assert_true(tn_seconds() < give_up);
        take_a_nap(0.0005);
    }
    return true;
}

#define COMMON "train --model base --data data.jsonl --threads 1 --valid-fraction 0.2 --lr 0.01 --rank 4 --batch-size 4 "

/* --- ends that were not planned --- */

static void killed_at_any_moment_it_goes_on_to_the_same_bytes(void **state) {
    (void)state;
    enum { KILLS = 8 };
    static const char run[] = COMMON "--dropout 0.1 --steps 40 --save-every 1 --eval-every 10 --out ";
    tn_rng random = tn_rng_start(11, tn_stream(TN_STREAM_DATA, 0));
    char line[512];
    snprintf(line, sizeof line, "%s straight", run);
    tenon_well(line);
    snprintf(line, sizeof line, "%s killed --resume", run);
    int kills = 0;
    while (kills < KILLS) {
        pid_t child = start(line, 0);
        if (!wait_for_checkpoint(child, "killed", newest_checkpoint("killed"))) {
            finish(child); /* faster than the watch: it is done */
            break;
        }
        take_a_nap(tn_rng_uniform64(&random) * 0.01);
        kill(child, SIGKILL);
        int code = finish(child);
        if (code == 0)
            break;
        assert_int_equal(code, -SIGKILL);
        kills++;
    }
    assert_true(kills >= 2);
    tenon_well(line);
    tiny_assert_same_file("straight", "killed", "adapter_model.safetensors");
    tiny_assert_same_metrics("straight", "killed");
    assert_int_equal(tiny_count_files("killed", "tmp-") + tiny_count_files("killed/checkpoints", "tmp-"), 0);
}

static void interrupted_it_saves_and_says_how_to_go_on(void **state) {
    (void)state;
    static const char run[] =
        "train --model wide --data data.jsonl --threads 1 --valid-fraction 0 --lr 0.01 --batch-size 20 "
        "--steps 60 --save-every 10 --log-every 7 --out ";
    const int signals[] = {SIGINT, SIGTERM};
    char line[512];
    snprintf(line, sizeof line, "%s calm", run);
    tenon_well(line);
    for (int i = 0; i < 2; i++) {
        snprintf(line, sizeof line, "%s interrupted-%d", run, i);
        const char *out = strrchr(line, ' ') + 1;
        pid_t child = start(line, 0);
        assert_true(wait_for_checkpoint(child, out, 0));
        kill(child, signals[i]);
        assert_int_equal(finish(child), 1);
        PRINTED("stopped after step ");
        PRINTED("run the same command with --resume to go on");
        assert_int_equal(tiny_count_files(out, "adapter_model"), 0);
        strcat(line, " --resume");
        tenon_well(line);
        PRINTED("resumed from the checkpoint of step ");
        char name[64];
        snprintf(name, sizeof name, "interrupted-%d", i);
        tiny_assert_same_file("calm", name, "adapter_model.safetensors");
        tiny_assert_same_metrics("calm", name);
    }
}

static void a_full_disk_costs_neither_checkpoint_nor_adapter(void **state) {
    (void)state;
    static const char earlier[] = COMMON "--steps 30 --save-every 5 --out full-disk",
                      later[] = COMMON "--steps 60 --save-every 5 "
                                       "--resume --resume-changed --out full-disk";
    tenon_well(earlier);
    tn_buf adapter = tiny_read(tiny_path("full-disk/adapter_model.safetensors"));
    tn_buf checkpoint = tiny_read(tiny_path("full-disk/checkpoints/step-00000030.safetensors"));
    const long limits[] = {(long)checkpoint.length - 1, (long)checkpoint.length / 2, 6000, (long)checkpoint.length / 2};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(finish(start(i < 3 ? later : earlier, limits[i])), 1); /* the last one begins anew */
        PRINTED("cannot write ");
        PRINTED("File too large");
        tn_buf now = tiny_read(tiny_path("full-disk/adapter_model.safetensors"));
        assert_int_equal(now.length, adapter.length);
        assert_memory_equal(now.data, adapter.data, adapter.length);
        tn_buf_free(&now);
        now = tiny_read(tiny_path("full-disk/checkpoints/step-00000030.safetensors"));
        assert_int_equal(now.length, checkpoint.length);
        assert_memory_equal(now.data, checkpoint.data, checkpoint.length);
        tn_buf_free(&now);
        assert_int_equal(tiny_count_files("full-disk", "tmp-") + tiny_count_files("full-disk/checkpoints", "tmp-"), 0);
    }
    tn_buf_free(&adapter);
    tn_buf_free(&checkpoint);
    tenon_well(later);
    PRINTED("resumed from the checkpoint of step 30");
}

/* --- memory --- */

/* The number in MB behind the words in the last output. */
static double megabytes_behind(const char *words) {
    const char *at = strstr(tn_buf_text(&output), words);
    if (!at)
        fail_msg("'%s' is not in: %s", words, tn_buf_text(&output));
    return strtod(at + strlen(words), NULL);
}

static void predicted_memory_is_what_training_takes(void **state) {
    (void)state;
    if (SANITIZED)
        skip(); /* its shadow is resident as well */
    static const char *const variants[] = {
        "--init random --method full", "--init random --method full --optimizer adamw8bit", "--init random --method lora",
        "--method lora --target-modules all-linear --checkpointing on"};
    tn_buf rows = {0};
    for (int row = 0; row < 16; row++) {
        tn_buf_puts(&rows, "{\"input_ids\": [1");
        for (int i = 1; i < 128; i++)
            tn_buf_printf(&rows, ", %d", (row * 131 + i * 37) % 4096);
        tn_buf_puts(&rows, "]}\n");
    }
    assert_int_equal(tn_file_write(tiny_path("long.jsonl"), rows.data, rows.length), TN_OK);
    tn_buf_free(&rows);
    tiny_write_model(tiny_path("middle"), "llama", "", 256, 4, 4096, 5);
    for (int i = 0; i < 4; i++) {
        char line[512];
        snprintf(line, sizeof line,
                 "plan --model middle --data long.jsonl --batch-size 8 --steps 1 --valid-fraction 0 --threads 2 %s",
                 variants[i]);
        tenon_well(line);
        double planned = megabytes_behind("predicted peak ");
        PRINTED("per step");
        snprintf(line, sizeof line,
                 "train --model middle --data long.jsonl --batch-size 8 --steps 1 --valid-fraction 0 --threads 2 %s --out "
                 "memory-%d",
                 variants[i], i);
        tenon_well(line);
        double predicted = megabytes_behind("predicted peak "), taken = megabytes_behind("memory     peak ");
        print_message("%-62s planned %.0f MB, predicted %.0f MB, taken %.0f MB\n", variants[i], planned, predicted, taken);
        assert_true(planned > 0.9 * taken && planned < 1.1 * taken);
        assert_true(predicted > 0.9 * taken && predicted < 1.1 * taken);
    }
}

/* --- run files and options --- */

static void the_config_of_a_run_gives_the_same_bytes_again(void **state) {
    (void)state;
    tenon_well(COMMON
               "--steps 8 --seed 3 --alpha 12.5 --target-modules 'q_proj,k_proj,down_proj' --schedule linear --warmup 2 "
               "--rank-pattern 'k_proj=2' --bias lora_only --eval-every 3 --out again-1");
    tenon_well("train --config again-1/config.yaml --out again-2");
    tiny_assert_same_file("again-1", "again-2", "adapter_model.safetensors");
    tiny_assert_same_file("again-1", "again-2", "adapter_config.json");
    tiny_assert_same_metrics("again-1", "again-2");
}

/* A profile adds up, and changes nothing that is written. */
/* What only one method has to set is in the run's configuration like the rest, expressions with commas too. */
static void settings_of_methods_are_part_of_the_run(void **state) {
#define RUN "train --model base --data data.jsonl --threads 1 --lr 0.01 --batch-size 4 --steps 4 "
    static const struct {
        const char *flags, *printed;
    } runs[] = {
        {"--method vera --rank 8 --no-save-projection --projection-prng-key 7 --d-initial -0.5 --dropout 0.1 --bias "
         "vera_only",
         "\"projection_prng_key\": 7"},
        {"--method ia3 --target-modules 'k_proj,up_proj,down_proj' --feedforward-modules '.*[.](down|u{1,2}p)_proj'",
         "\"feedforward_modules\": \".*[.](down|u{1,2}p)_proj\""},
        {"--method ia3 --target-modules k_proj,up_proj,down_proj --feedforward-modules up_proj,down_proj "
         "--no-init-ia3-weights",
         "\"init_ia3_weights\": false"},
    };
    char line[512];
    (void)state;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        snprintf(line, sizeof line, RUN "%s --out settings-1", runs[i].flags);
        tenon_well(line);
        tn_buf config = tiny_read(tiny_path("settings-1/adapter_config.json"));
        if (!strstr(tn_buf_text(&config), runs[i].printed))
            fail_msg("'%s' is not in %s", runs[i].printed, tn_buf_text(&config));
        tn_buf_free(&config);
        tenon_well("train --config settings-1/config.yaml --out settings-2");
        tiny_assert_same_file("settings-1", "settings-2", "adapter_model.safetensors");
        tiny_assert_same_file("settings-1", "settings-2", "adapter_config.json");
        assert_int_equal(tn_path_remove_tree(tiny_path("settings-1")), TN_OK);
        assert_int_equal(tn_path_remove_tree(tiny_path("settings-2")), TN_OK);
    }
    tenon_badly(RUN "--method vera --feedforward-modules q_proj --out never", "vera has no option 'feedforward-modules'");
    tenon_badly(RUN "--method ia3 --rank 4 --out never", "ia3 makes no use of rank");
    tenon_badly(RUN "--method ia3 --target-modules q_proj --feedforward-modules up_proj --out never",
                "'up_proj' is not one of the target modules");
}

static void profile_says_where_the_time_went(void **state) {
    (void)state;
    tenon_well(COMMON "--steps 4 --checkpointing on --out unprofiled");
    assert_null(strstr(tn_buf_text(&output), "recomputation"));
    tenon_well(COMMON "--steps 4 --checkpointing on --profile --out profiled");
    PRINTED("\nprofile ");
    PRINTED("\nforward ");
    PRINTED("\n  linear ");
    PRINTED("\nrecomputation ");
    PRINTED("\nbackward ");
    PRINTED("\n  adamw                        4 ");
    PRINTED("\n  validation ");
    PRINTED("\nwhole ");
    tiny_assert_same_file("unprofiled", "profiled", "adapter_model.safetensors");
    tiny_assert_same_metrics("unprofiled", "profiled");
}

static void the_end_of_a_run_says_which_ranks_are_left(void **state) {
    (void)state;
    tenon_well("train --model base --data data.jsonl --out ranks --method adalora --rank 4 --target-r 2 --delta-t 2 "
               "--importance-beta1 0.9 --steps 8 --valid-fraction 0");
    PRINTED("ranks      8 of 16 left\n  q_proj       ");
    tenon_badly("train --model base --data data.jsonl --out ranks --method adalora --rank 4 --steps 8",
                "target_r 8 is above");
}

static void precision_is_an_option_of_a_run(void **state) {
    (void)state;
    tiny_write_text(tiny_path("precise.yaml"), "model: base\ndata: data.jsonl\nmatmul-precision: bf16\nsteps: 2\n");
    setenv("TENON_CPU", "generic", 1);
    tenon_badly("train --config precise.yaml --out never", "bf16 needs a CPU with AVX-512 BF16");
    assert_false(tn_path_exists(tiny_path("never")));
    unsetenv("TENON_CPU");
    tenon_badly("train --config precise.yaml --matmul-precision f16 --out never", "f32, bf16");
    if (!tn_kernels_cpu_bf16())
        skip();
    tenon_well("train --config precise.yaml --out precise");
    PRINTED("matrix products in bf16");
    tenon_well("eval --model base --adapter precise --data data.jsonl --matmul-precision bf16");
    tenon_well("plan --config precise.yaml");
    PRINTED("matrix products in bf16");
    tenon_badly("train --config precise.yaml --matmul-precision f32 --out precise --steps 4 --resume",
                "matmul-precision was \"bf16\" and is now \"f32\"");
}

static void flags_win_over_the_run_file(void **state) {
    (void)state;
    tiny_write_text(tiny_path("run.yaml"), "model: base\ndata: data.jsonl\nout: from-file\nsteps: 5\nrank: 2\nthreads: 1\n");
    tenon_well("train --config run.yaml --steps 3 --out from-flag");
    PRINTED("step 3/3");
    assert_false(tn_path_exists(tiny_path("from-file")));
    tn_buf config = tiny_read(tiny_path("from-flag/adapter_config.json"));
    assert_non_null(strstr(tn_buf_text(&config), "\"r\": 2"));
    tn_buf_free(&config);
}

static void the_optimizer_of_a_run_file_is_used_and_kept(void **state) {
    (void)state;
    tiny_write_text(tiny_path("eight.yaml"), "model: base\ndata: data.jsonl\nsteps: 4\nthreads: 1\noptimizer: adamw8bit\n");
    tenon_well("train --config eight.yaml --profile --out eight");
    PRINTED("\n  adamw8bit                    4 ");
    tn_buf config = tiny_read(tiny_path("eight/config.yaml"));
    assert_non_null(strstr(tn_buf_text(&config), "optimizer: adamw8bit\n"));
    tn_buf_free(&config);
}

static void wrong_options_and_keys_name_the_nearest(void **state) {
    (void)state;
    tiny_write_text(tiny_path("typo.yaml"), "model: base\ndata: data.jsonl\nlearning-rat: 3\nstepps: 5\n");
    tenon_badly("train --config typo.yaml --out never", "typo.yaml");
    tiny_write_text(tiny_path("typo.yaml"), "model: base\ndata: data.jsonl\nstepps: 5\n");
    tenon_badly("train --config typo.yaml --out never", "did you mean steps?");
    tenon_badly("train --model base --data data.jsonl --out never --batchsize 3", "did you mean --batch-size?");
    tenon_badly("train --model base --data data.jsonl --out never --schedule cosin", "cosine");
    tenon_badly("train --model base --data data.jsonl --out never --optimizer adamw8", "adamw, adamw8bit");
    tenon_badly("plan --model base --data data.jsonl --optimizer sgd", "adamw, adamw8bit");
    tenon_badly("train --model base --data data.jsonl", "--out is missing");
    tenon_badly("train --out never", "missing: --model, --data");
    assert_false(tn_path_exists(tiny_path("never")));
}

static void ranks_that_do_not_fit_are_explained(void **state) {
    (void)state;
    tenon_badly("train --model base --data data.jsonl --out never --rank 0", "rank");
    tenon_badly("train --model base --data data.jsonl --out never --rank -3", "rank");
    tenon_badly("train --model base --data data.jsonl --out never --rank 33", "33");
    PRINTED("_proj");
    assert_false(tn_path_exists(tiny_path("never")));
}

static void targets_that_match_nothing_list_near_names(void **state) {
    (void)state;
    tenon_badly("train --model base --data data.jsonl --out never --target-modules q_prj", "q_prj");
    PRINTED("q_proj");
    tenon_badly("train --model base --data data.jsonl --out never --target-modules '.*attention.*'", "attention");
}

/* Another base than the one that is quantised on loading, by one step and by more. */
static void loftq_starts_from_the_checkpoint_whatever_was_quantised_on_loading(void **state) {
    (void)state;
    static const char run[] = COMMON "--steps 4 --target-modules all-linear --init loftq ";
    char line[512];
    snprintf(line, sizeof line, "%s --out loftq-plain --loftq-iter 2", run);
    tenon_well(line);
    snprintf(line, sizeof line, "%s --out loftq-codes --loftq-iter 2 --quantize nf4", run);
    tenon_well(line);
    tiny_assert_same_file("loftq-plain", "loftq-codes", "adapter_model.safetensors");
    snprintf(line, sizeof line, "%s --out loftq-once", run);
    tenon_well(line);
    tiny_assert_other_file("loftq-plain", "loftq-once", "adapter_model.safetensors");
    tenon_well("merge --model base --adapter loftq-plain --out loftq-merged");
    tenon_badly("train --model base --data data.jsonl --out never --loftq-bits 4", "is for init_lora_weights loftq");
    tenon_badly("train --model base --data data.jsonl --out never --init loftq --loftq-bits 3", "choose 4 or 8");
    tenon_badly("train --model base --data data.jsonl --out never --method full --quantize nf4", "codes cannot be trained");
}

static void other_architectures_list_the_supported_ones(void **state) {
    (void)state;
    assert_int_equal(tn_dir_create(tiny_path("bloom")), TN_OK);
    tiny_write_text(tiny_path("bloom/config.json"), "{\"model_type\": \"bloom\", \"hidden_size\": 8}");
    tenon_badly("train --model bloom --data data.jsonl --out never", "bloom");
    PRINTED("llama");
    PRINTED("qwen3");
    tenon_badly("train --model nowhere --data data.jsonl --out never", "nowhere");
}

static void failures_of_data_and_output_are_one_line(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"--data absent.jsonl --out never", "absent.jsonl"},
        {"--data broken.jsonl --out never", "broken.jsonl line 2"},
        {"--data data.jsonl --out data.jsonl", "a file of that name is in the way"},
        {"--data data.jsonl --out /proc/nothing", "/proc/nothing"},
        {"--data text.jsonl --out never", "tokenizer"},
    };
    tiny_write_text(tiny_path("broken.jsonl"), "{\"input_ids\": [1, 2]}\n{\"input_ids\": [1, 2}\n");
    tiny_write_text(tiny_path("text.jsonl"), "{\"text\": \"words\"}\n");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[512];
        snprintf(line, sizeof line, "train --model base --threads 1 %s", cases[i][0]);
        assert_int_equal(tenon(line), 1);
        PRINTED(cases[i][1]);
        assert_int_equal(strncmp(tn_buf_text(&output), "tenon: ", 7), 0);
        assert_ptr_equal(strchr(tn_buf_text(&output), '\n'), tn_buf_text(&output) + output.length - 1);
    }
}

static int prepare(void **state) {
    (void)state;
    tn_set_threads(1);
    tiny_write_model(tiny_path("wide"), "llama", "", 128, 2, 1000, 5);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    tn_buf_free(&output);
    tiny_remove();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_at_any_moment_it_goes_on_to_the_same_bytes),
        cmocka_unit_test(interrupted_it_saves_and_says_how_to_go_on),
        cmocka_unit_test(a_full_disk_costs_neither_checkpoint_nor_adapter),
        cmocka_unit_test(predicted_memory_is_what_training_takes),
        cmocka_unit_test(the_config_of_a_run_gives_the_same_bytes_again),
        cmocka_unit_test(settings_of_methods_are_part_of_the_run),
        cmocka_unit_test(loftq_starts_from_the_checkpoint_whatever_was_quantised_on_loading),
        cmocka_unit_test(profile_says_where_the_time_went),
        cmocka_unit_test(the_end_of_a_run_says_which_ranks_are_left),
        cmocka_unit_test(precision_is_an_option_of_a_run),
        cmocka_unit_test(flags_win_over_the_run_file),
        cmocka_unit_test(the_optimizer_of_a_run_file_is_used_and_kept),
        cmocka_unit_test(wrong_options_and_keys_name_the_nearest),
        cmocka_unit_test(ranks_that_do_not_fit_are_explained),
        cmocka_unit_test(targets_that_match_nothing_list_near_names),
        cmocka_unit_test(other_architectures_list_the_supported_ones),
        cmocka_unit_test(failures_of_data_and_output_are_one_line),
    };
    if (!getenv("TENON_PROGRAM"))
        return 77; /* meson's code for a skipped test */
    return cmocka_run_group_tests(tests, prepare, remove_folder);
}
