/* What compose, extract and resize say about the adapter that they wrote. */
#ifndef TN_CLI_LOW_RANK_REPORT_H
#define TN_CLI_LOW_RANK_REPORT_H

#include <tenon/compose.h>

#include "base/buf.h"

/* Appends "<title>: 24 modules, rank 8, 1.2 M parameters", then the errors (compose) or, with `energy`, a line per module
 * with the share of the update's squared norm that was kept, then the files of `dir`. */
tn_status tn_cli_print_low_rank(tn_buf *out, const char *title, const tn_low_rank_report *report, bool energy,
                                const char *dir);

/* The same as one JSON object. */
tn_status tn_cli_print_low_rank_json(tn_buf *out, const tn_low_rank_report *report, bool energy);

#endif
