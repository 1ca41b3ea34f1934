/* tenon eval for sequential models. */
#ifndef TN_CLI_EVAL_FEATURES_H
#define TN_CLI_EVAL_FEATURES_H

#include <tenon/features.h>

typedef struct tn_cli_feature_eval {
    const char *data, *name; /* name: of the model's row in the table, "adapter" or "model" */
    tn_feature_options features;
    int64_t batch_size, limit;
    bool compare, json;
} tn_cli_feature_eval;

tn_status tn_cli_eval_features(tn_model *model, const tn_cli_feature_eval *options);

#endif
