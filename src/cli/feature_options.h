/* How the data of sequential models are read: flags that training and evaluation share. */
#ifndef TN_CLI_FEATURE_OPTIONS_H
#define TN_CLI_FEATURE_OPTIONS_H

#include <tenon/features.h>

#include "base/options.h"

typedef struct tn_cli_features {
    bool invert;
    int rotate; /* choice: 0, 90, 180, 270 degrees */
    double mean, std;
    tn_text_list classes;
    const char *target_column;
} tn_cli_features;

extern const tn_option tn_cli_feature_options[];

enum { TN_CLI_MOST_CLASSES = 1024 };

/* From the flags to the library's options; `classes` has room for TN_CLI_MOST_CLASSES and must outlive them. */
tn_status tn_cli_feature_choice(const tn_cli_features *flags, int32_t *classes, tn_feature_options *out);

/* Fails where an option has another value than its default that this model's data make no use of: those above for a language
 * model, the NULL-terminated `words` for a sequential one. */
tn_status tn_cli_check_data_options(const tn_options *options, const tn_model *model, const char *const *words);

#endif
