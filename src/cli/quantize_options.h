/* The options that say how weights are quantised, shared by the commands that load a model and by tenon quantize. */
#ifndef TN_CLI_QUANTIZE_OPTIONS_H
#define TN_CLI_QUANTIZE_OPTIONS_H

#include <tenon/quantize.h>

#include "base/options.h"

extern const tn_option tn_cli_load_quantized_options[]; /* of a tn_quantize_options: --quantize TYPE and how */
extern const tn_option tn_cli_quantize_options[];       /* --type TYPE and how */

/* Memory by ways of training, in MB. */
void tn_cli_print_memory_table(tn_buf *out, const tn_memory_row table[TN_MEMORY_ROWS]);

/* What happened to a module, as a line of a table. */
void tn_cli_print_quantized_layer(tn_buf *out, const tn_quantize_layer *layer);

/* Quantises a model just loaded when --quantize was given; one line on stderr says what came of it. */
tn_status tn_cli_quantize_loaded(tn_model *model, const tn_quantize_options *options);

#endif
