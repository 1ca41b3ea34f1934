/* The options that name a model and an adapter on it, shared by most commands. */
#ifndef TN_CLI_MODEL_OPTIONS_H
#define TN_CLI_MODEL_OPTIONS_H

#include <tenon/tenon.h>

#include "cli/quantize_options.h"

typedef struct tn_cli_model {
    const char *model, *adapter, *adapter_name;
    bool allow_partial;
    int threads, matmul_precision;
    tn_quantize_options quantize;
} tn_cli_model;

extern const tn_option tn_cli_model_options[];     /* --model, --threads */
extern const tn_option tn_cli_precision_options[]; /* --matmul-precision */
extern const tn_option tn_cli_adapter_options[];   /* --adapter, --adapter-name, --allow-partial */

/* Loads the model and, when one is named, its adapter (trainable: with gradients); one line on stderr proves that the
 * adapter acts. */
tn_status tn_cli_load_model(const tn_cli_model *options, bool trainable, tn_model **out);

/* What --matmul-precision says. */
tn_status tn_cli_set_precision(const tn_cli_model *options, tn_model *model);

/* That line: modules changed, norm of the change, logit difference on a probe. */
tn_status tn_cli_prove_adapter(tn_model *model, const char *dir);

/* Prints to stderr what loading should not leave unsaid: tensors that this family does not use. */
void tn_cli_warn_about_model(const tn_model *model);

#endif
