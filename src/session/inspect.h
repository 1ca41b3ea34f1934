/* What a path is and holds, as plain data: models, adapters, tensor files, data sets, runs and tokenizers. */
#ifndef TN_SESSION_INSPECT_H
#define TN_SESSION_INSPECT_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "base/error.h"

typedef struct tn_inspect_options {
    bool tensors; /* list the tensors of models and adapters; those of a single file are always listed */
    bool fold;    /* show tensors that differ in one number of their name only as one: "layers.{0..29}.mlp.weight" */
    bool verify; /* read every value: NaN, infinities, smallest, largest, root mean square; load a model of a known family */
} tn_inspect_options;

/* Describes a file or folder as an object with at least "path" and "kind": "model", "peft adapter", "mlx-lm adapter",
 * "tensors", "data set", "run", "metrics" or "tokenizer". Things that are whole but of no use to this build are described
 * all the same, with the reason under "why_not". With `verify`, "sound" says whether every value is finite and a known model
 * loads, and "problem" what is wrong. A file that breaks its format is an error. *out belongs to the caller (cJSON_Delete).
 */
tn_status tn_inspect(const char *path, const tn_inspect_options *options, cJSON **out);

#endif
