/* A program with every kind of option, for the tests of the command line. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"

struct config {
    const char *model, *out, *run_file, *prompt, *end;
    int rank;
    int64_t seed;
    double learning_rate;
    bool pack, verbose;
    int schedule;
    tn_text_list targets, stop, files;
};

static const char *const schedules[] = {"constant", "off", "one-cycle", NULL};
static const char *const layers[] = {"q_proj", "k_proj", "v_proj", NULL};

static const tn_option run_options[] = {
    {.name = "config",
     .type = TN_OPTION_PATH,
     TN_FIELD(struct config, run_file),
     .value_name = "FILE",
     .flags = TN_OPTION_RUN_FILE,
     .group = "Run",
     .help = "read options from a YAML file"},
    {.name = "model",
     .type = TN_OPTION_PATH,
     TN_FIELD(struct config, model),
     .value_name = "DIR",
     .flags = TN_OPTION_REQUIRED,
     .alias = 'm',
     .help = "the pretrained model"},
    {.name = "out",
     .type = TN_OPTION_PATH,
     TN_FIELD(struct config, out),
     .initial = "out",
     .alias = 'o',
     .help = "the folder to write"},
    {.name = "seed", .type = TN_OPTION_INT, TN_FIELD(struct config, seed), .initial = "42", .help = "of all random numbers"},
    {.name = "verbose", .type = TN_OPTION_BOOL, TN_FIELD(struct config, verbose), .alias = 'v', .help = "say more"},
    {.name = "end", .type = TN_OPTION_STRING, TN_FIELD(struct config, end), .flags = TN_OPTION_HIDDEN},
    {0},
};

static const tn_option train_options[] = {
    {.name = "rank",
     .type = TN_OPTION_INT,
     TN_FIELD(struct config, rank),
     .initial = "8",
     .low = 1,
     .high = 4096,
     .group = "Adapter",
     .help = "rank of the update; a larger one learns more and takes more memory, which is why it has a limit"},
    {.name = "targets",
     .type = TN_OPTION_LIST,
     TN_FIELD(struct config, targets),
     .initial = "q_proj,v_proj",
     .choices = layers,
     .help = "layers [by name]: which of \\them\\ are adapted, and 'why'"},
    {.name = "learning-rate",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(struct config, learning_rate),
     .initial = "1e-4",
     .group = "Optimiser"},
    {.name = "schedule",
     .type = TN_OPTION_CHOICE,
     TN_FIELD(struct config, schedule),
     .initial = "constant",
     .choices = schedules,
     .help = ".how the learning rate moves\u2014over time"},
    {.name = "pack",
     .type = TN_OPTION_BOOL,
     TN_FIELD(struct config, pack),
     .initial = "true",
     .group = "Data",
     .help = "pack samples"},
    {.name = "prompt", .type = TN_OPTION_STRING, TN_FIELD(struct config, prompt), .help = "a text"},
    {.name = "stop",
     .type = TN_OPTION_LIST,
     TN_FIELD(struct config, stop),
     .flags = TN_OPTION_REPEATABLE,
     .alias = 's',
     .group = "Run",
     .help = "text to stop at"},
    {.name = "file",
     .type = TN_OPTION_LIST,
     TN_FIELD(struct config, files),
     .value_name = "FILE",
     .flags = TN_OPTION_POSITIONAL,
     .help = "data to read"},
    {0},
};

static const tn_option_table tables[] = {{run_options, 0}, {train_options, 0}, {0}};

static const tn_example examples[] = {
    {"sample train --model base data.jsonl", "the shortest run"},
    {"sample train --config run.yaml --stop '\\n'", "with a run file"},
    {0},
};

/* Prints the effective configuration; "--prompt fail" and "--prompt usage" end as those errors. */
static int run_train(const tn_invocation *call) {
    const struct config *config = call->config;
    tn_buf text = {0};
    if (config->prompt && strcmp(config->prompt, "fail") == 0)
        return tn_cli_exit(tn_fail(TN_ERROR_IO, "the disk is full"));
    if (config->prompt && strcmp(config->prompt, "usage") == 0) {
        tn_fail(TN_ERROR_ARGUMENT, "these do not go together");
        return TN_EXIT_USAGE;
    }
    if (config->prompt && strcmp(config->prompt, "reported") == 0)
        return TN_EXIT_REPORTED;
    tn_cli_effective_config(&text, call->options);
    tn_status status = tn_cli_print(&text);
    tn_buf_free(&text);
    return tn_cli_exit(status);
}

static const tn_command train = {
    .name = "train",
    .summary = "fit an adapter to data, as it's done",
    .description = "Fits an adapter.\n\nA second paragraph with a \\backslash, a -dash and\n.a line that begins with a dot.",
    .tables = tables,
    .config_size = sizeof(struct config),
    .examples = examples,
    .run = run_train,
};

static const tn_command *const commands[] = {&train, &tn_command_help, &tn_command_version, &tn_command_generate_docs, NULL};

int main(int argc, char **argv) {
    return tn_cli_main(commands, argc, argv);
}
