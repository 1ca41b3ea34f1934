/* What a measurement found, for people and as JSON. */
#ifndef TN_CLI_BENCH_REPORT_H
#define TN_CLI_BENCH_REPORT_H

#include <tenon/bench.h>

void tn_cli_print_bench(const tn_bench_options *options, const tn_model_info *info, const tn_bench_result *result);

/* Writes the file `path`; `model` is the folder that was measured. */
tn_status tn_cli_write_bench(const char *path, const char *model, const tn_bench_options *options, const tn_model_info *info,
                             const tn_bench_result *result);

#endif
