/* The options of `train`, which `plan` shares. */
#ifndef TN_CLI_TRAIN_OPTIONS_H
#define TN_CLI_TRAIN_OPTIONS_H

#include "cli/cli.h"
#include "cli/feature_options.h"
#include "cli/method_options.h"
#include "cli/model_options.h"

typedef struct tn_cli_train {
    tn_cli_model model;
    tn_adapter_options adapter;
    tn_train_options train;
    const char *from_adapter, *config;
    int too_long;
    bool profile;
    tn_cli_features features;
    tn_cli_setting settings[TN_CLI_MOST_SETTINGS];
} tn_cli_train;

extern const tn_option_table tn_cli_train_tables[];
extern const tn_option tn_cli_method_options[]; /* those of them that say what is trained */

/* --checkpointing, kept in a member of the struct `config`. */
extern const char *const tn_cli_checkpointing_choices[];
#define TN_CLI_CHECKPOINTING(config, member)                                                                                \
    {                                                                                                                       \
        .name = "checkpointing", .type = TN_OPTION_STRING, TN_FIELD(config, member), .initial = "auto",                     \
        .choices = tn_cli_checkpointing_choices, .value_name = "MODE",                                                      \
        .help =                                                                                                             \
            "activations until the backward pass: kept (off), kept in 8 bits but for attention's (8bit), or recomputed "    \
            "(on); auto: off where memory suffices, else on"                                                                \
    }

/* Loads or creates the model with its adapter and completes `train` from the other options; classes
 * [TN_CLI_MOST_CLASSES] must outlive it. */
tn_status tn_cli_prepare_training(const tn_invocation *call, tn_train_options *train, int32_t *classes, tn_model **out);

/* The model, from config.json alone when `create`, with the adapter that the options describe. */
tn_status tn_cli_prepare_model(const tn_invocation *call, const tn_cli_train *train, bool create, tn_model **out);

/* Prints what a plan says: model, trained share, data, memory. */
void tn_cli_print_plan(const tn_model *model, const tn_train_plan *plan);

#endif
