/* What compose, extract and resize say about the adapter that they wrote. */
#ifndef TN_CLI_LOW_RANK_REPORT_H
#define TN_CLI_LOW_RANK_REPORT_H

#include <tenon/compose.h>

#include "base/buf.h"
#include "base/options.h"

/* The options that the three share. */
typedef struct tn_cli_low_rank {
    const char *out;
    int threads;
    bool json;
} tn_cli_low_rank;
extern const tn_option tn_cli_low_rank_options[];

/* Prints "<title>: 24 modules, rank 8, 1.2 M parameters", then the errors (compose) or, with `energy`, a line per module
 * with the share of the update's squared norm that was kept, then the files that were written; or the same as one JSON
 * object. */
tn_status tn_cli_show_low_rank(const tn_cli_low_rank *options, const char *title, const tn_low_rank_report *report,
                               bool energy);

#endif
