/* The parts of tn_inspect. Each fills an object that stays the caller's. */
#ifndef TN_SESSION_INSPECT_PARTS_H
#define TN_SESSION_INSPECT_PARTS_H

#include "session/inspect.h"
#include "tensor/checkpoint.h"
#include "text/tokenizer.h"

enum { TN_INSPECT_JSON_LIMIT = 256 << 20 };

/* Adds "tensors", "parameters", "bytes", "dtypes", and as the options ask "values" and "list". `listed` lists in any case.
 * With `index`, only tensors that it finds in these files count. */
tn_status tn_inspect_tensors(cJSON *out, const tn_safetensors *files, size_t count, const tn_checkpoint *index, bool listed,
                             const tn_inspect_options *options);

/* The config.json of a sequential model: its layers with the shapes that arrive and leave. *supported: it is sound. */
tn_status tn_inspect_sequential(cJSON *out, const cJSON *json, const char *path, bool *supported);

/* What a config.json says, or what a GGUF file says in its place. *supported: a model of this configuration can be built. */
tn_status tn_inspect_config(cJSON *out, const cJSON *json, const char *path, bool *supported);

/* A tokenizer.json, NULL when there is none to show, and the tokenizer it makes; NULL: none, for the current error. */
void tn_inspect_tokenizer(cJSON *out, const cJSON *json, const tn_tokenizer *tokenizer);

/* Loads the model, which checks names and shapes of its tensors; a refusal becomes the "problem". */
tn_status tn_inspect_load(cJSON *out, const char *path);

/* A GGUF file. */
tn_status tn_inspect_gguf(cJSON *out, const char *path, const tn_inspect_options *options);

/* A folder with adapter_config.json, of PEFT or of mlx-lm. */
tn_status tn_inspect_adapter(cJSON *out, const char *dir, const tn_inspect_options *options);

/* One file of rows, or the folder of train, valid and test files. */
tn_status tn_inspect_data_file(cJSON *out, const char *path);
tn_status tn_inspect_data_folder(cJSON *out, const char *dir);
bool tn_inspect_is_data_folder(const char *dir);

/* The metrics.jsonl of a run. */
tn_status tn_inspect_metrics(cJSON *out, const char *path);

/* Adds "<key>": false and "why_not": the current error message. */
void tn_inspect_add_refusal(cJSON *out, const char *key);

/* Sets "sound" to false and "problem" to the text, unless a problem is there already. */
void tn_inspect_add_problem(cJSON *out, const char *problem);

/* dir + name exists; `path` then holds it. */
bool tn_inspect_has(char path[TN_PATH_MAX], const char *dir, const char *name);

/* Adds whole numbers as text: "0-3, 7"; numbers must be ascending. */
void tn_inspect_add_numbers(cJSON *out, const char *key, const int64_t *numbers, size_t count);

#endif
