/* The options that single methods have, as flags. */
#ifndef TN_CLI_METHOD_OPTIONS_H
#define TN_CLI_METHOD_OPTIONS_H

#include <tenon/model.h>

#include "base/options.h"

enum { TN_CLI_MOST_SETTINGS = 128 };

/* The value of one flag, of whichever type. */
typedef union tn_cli_setting {
    bool truth;
    int64_t integer;
    double number;
    const char *text;
    int choice;
    tn_text_list list;
} tn_cli_setting;

/* Rows for every option of every method, once per name, over an array of tn_cli_setting; filled by tn_cli_collect_settings.
 */
extern tn_option tn_cli_setting_options[TN_CLI_MOST_SETTINGS + 1];
void tn_cli_collect_settings(void);

/* What was given, as the library takes it: settings [TN_CLI_MOST_SETTINGS], freed by tn_cli_free_settings also after a
 * failure. */
tn_status tn_cli_given_settings(const tn_options *options, tn_method_setting *settings, size_t *count);
void tn_cli_free_settings(tn_method_setting *settings, size_t count);

#endif
