/* tenon train: fine-tuning with everything shown that a person wants to see. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/profile_table.h"
#include "cli/train_options.h"
#include "train/report.h"

static volatile sig_atomic_t stop_requested;

static void request_stop(int number) {
    (void)number;
    stop_requested = 1;
}

/* The first signal asks to stop after the step; a second one, while that takes long, ends the program at once. */
static void stop_on(int number) {
    struct sigaction action = {.sa_handler = request_stop, .sa_flags = SA_RESETHAND | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

typedef struct {
    const tn_model *model;
    const char *unit; /* of the speed */
    bool terminal;
    int width;
    double last_line; /* seconds of the run when a plain line was last printed */
    double elapsed;
} display;

static void show_start(void *cookie, const tn_train_plan *plan) {
    display *d = cookie;
    d->unit = plan->inputs ? "samples/s" : "tok/s";
    tn_cli_print_plan(d->model, plan);
    if (plan->inputs)
        printf("\n");
    else
        printf("\nfirst sample, trained part marked:\n%s\n", plan->sample);
    fflush(stdout);
}

static void show_resumed(void *cookie, int64_t step) {
    (void)cookie;
    printf("resumed from the checkpoint of step %lld\n", (long long)step);
}

static void show_warning(void *cookie, const char *text) {
    (void)cookie;
    printf("warning    %s\n", text);
}

/* A terminal shows one line that changes; elsewhere a line every few seconds and for every validation. */
static bool show_step(void *cookie, const tn_train_step *step) {
    display *d = cookie;
    char line[TN_PROGRESS_TEXT];
    const tn_progress progress = {.step = step->step,
                                  .steps = step->steps,
                                  .loss = step->loss,
                                  .learning_rate = step->lr,
                                  .tokens_per_second = step->tokens_per_second,
                                  .unit = d->unit,
                                  .seconds_left = step->seconds_left};
    enum { SECONDS_BETWEEN_LINES = 5 };
    d->elapsed += step->seconds;
    bool validated = isfinite(step->valid_loss), last = step->step == step->steps;
    tn_progress_line(line, &progress, d->width);
    if (d->terminal)
        printf("\r\033[K%s", line);
    else if (validated || last || step->step == 1 || d->elapsed - d->last_line >= SECONDS_BETWEEN_LINES) {
        printf("%s\n", line);
        d->last_line = d->elapsed;
    }
    if (validated)
        printf("%sstep %lld: validation loss %.4f", d->terminal ? "\r\033[K" : "", (long long)step->step, step->valid_loss);
    if (validated && isfinite(step->valid_accuracy))
        printf(", accuracy %.2f %%", 100 * step->valid_accuracy);
    if (validated)
        printf("\n");
    fflush(stdout);
    return !stop_requested;
}

static bool is_utf8_terminal(void) {
    const char *names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (int i = 0; i < 3; i++) {
        const char *value = getenv(names[i]);
        if (value && *value)
            return strstr(value, "UTF-8") || strstr(value, "utf8") || strstr(value, "UTF8");
    }
    return false;
}

static void show_result(const display *d, const tn_train_result *r, const tn_train_options *options) {
    tn_buf curve = {0};
    char seconds[TN_FORMAT_TEXT];
    enum { CURVE_HEIGHT = 12 };
    printf("%s\n", d->terminal ? "\r\033[K" : "");
    tn_curve_draw(&curve, r->curve_steps, r->curve_losses, (size_t)r->curve_points, r->valid_steps, r->valid_losses,
                  (size_t)r->valid_points, d->width, CURVE_HEIGHT, is_utf8_terminal());
    printf("%s\n", tn_buf_text(&curve));
    tn_buf_free(&curve);
    tn_format_duration(seconds, r->seconds);
    printf("finished   step %lld, training loss %.4f\n", (long long)r->steps, r->loss);
    if (isfinite(r->best_valid_loss))
        printf("validation best loss %.4f at step %lld, last %.4f\n", r->best_valid_loss, (long long)r->best_valid_step,
               r->valid_loss);
    if (r->notes)
        printf("%s", r->notes);
    if (isfinite(r->valid_accuracy))
        printf("accuracy   %.2f %% of the validation samples\n", 100 * r->valid_accuracy);
    printf("time       %s, %.0f %s\n", seconds, r->tokens_per_second, strcmp(d->unit, "tok/s") == 0 ? "tokens/s" : d->unit);
    printf("memory     peak %.0f MB, predicted %.0f MB\n", (double)r->peak_bytes / 1e6,
           (double)r->predicted_peak_bytes / 1e6);
    printf("written    %s (metrics.jsonl, report.html, checkpoints)\n", options->out);
}

static tn_status train(const tn_invocation *call, tn_buf *effective) {
    const tn_cli_train *c = call->config;
    display d = {.terminal = isatty(STDOUT_FILENO) == 1, .width = tn_cli_width()};
    tn_train_callbacks callbacks = {
        .cookie = &d, .start = show_start, .step = show_step, .resumed = show_resumed, .warning = show_warning};
    tn_train_options options;
    tn_train_result result;
    tn_profile profile = {0};
    int32_t classes[TN_CLI_MOST_CLASSES];
    tn_model *model;
    if (!c->train.out)
        return tn_fail(TN_ERROR_ARGUMENT, "--out is missing: name a folder for the result");
    TN_TRY(tn_cli_prepare_training(call, &options, classes, &model));
    tn_cli_effective_config(effective, call->options);
    options.run_config = tn_buf_text(effective);
    options.profile = c->profile ? &profile : NULL;
    d.model = model;
    stop_on(SIGINT);
    stop_on(SIGTERM);
    tn_status status = tn_train(model, &options, &callbacks, &result);
    if (status == TN_OK)
        show_result(&d, &result, &options);
    if (options.profile && (status == TN_OK || status == TN_ERROR_INTERRUPTED))
        tn_cli_print_profile(&profile);
    tn_train_result_free(&result);
    tn_model_free(model);
    if (status == TN_ERROR_INTERRUPTED) {
        printf("\n%s\nrun the same command with --resume to go on\n", tn_error_message());
        return status;
    }
    if (d.terminal && status != TN_OK)
        printf("\n");
    return status;
}

static int run(const tn_invocation *call) {
    tn_buf effective = {0};
    tn_status status = train(call, &effective);
    tn_buf_free(&effective);
    return status == TN_ERROR_INTERRUPTED ? TN_EXIT_REPORTED : tn_cli_exit(status);
}

const tn_command tn_command_train = {
    .name = "train",
    .summary = "fine-tune a model on JSON lines or features",
    .description =
        "Fits a LoRA adapter to a pretrained model (or trains all of it with --method full) and writes the adapter in the "
        "files of Hugging Face PEFT, with metrics.jsonl, report.html and checkpoints.\n\n"
        "Each line of the data is a JSON object with one of these sets of fields: text; prompt and completion; messages "
        "(role, content); instruction, input and output; input_ids and labels. The loss is on completions and assistant "
        "turns unless --train-on-prompt.\n\n"
        "Sequential models (MLPs and convolutional networks) train on features instead: a folder of IDX files as MNIST's, "
        "CSV "
        "or safetensors files, or digits, which the program draws.\n\n"
        "Ctrl-C saves a checkpoint and stops; the same command with --resume goes on and ends in the same bytes.",
    .tables = tn_cli_train_tables,
    .config_size = sizeof(tn_cli_train),
    .examples =
        (const tn_example[]){
            {"tenon train --model base --data train.jsonl --out adapter", "LoRA on the query and value projections"},
            {"tenon train --model base --data data/ --out adapter --target-modules all-linear --rank 16 --epochs 2",
             "LoRA on every linear layer"},
            {"tenon train --config run.yaml --resume", "go on with a run described in a file"},
            {"tenon train --model digits.json --init random --method full --data digits --out digits-base",
             "a sequential model from scratch"},
            {0}},
    .run = run,
};
