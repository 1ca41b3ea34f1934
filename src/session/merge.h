/* Writing checkpoints: base plus or minus adapter, or a model trained in full. */
#ifndef TN_SESSION_MERGE_H
#define TN_SESSION_MERGE_H

#include "session/session.h"

/* Writes the model with its adapter merged in (direction +1) or taken out (-1) into `dir`, with config.json and the
 * tokenizer's files. report (may be NULL) gets the modules and the largest rounding; its logit_difference is 0. */
tn_status tn_session_write_checkpoint(tn_model *model, const char *dir, const char *dtype, int direction,
                                      tn_merge_report *report);

/* Fails for adapters whose update is no change of weights. */
tn_status tn_session_check_can_merge(const tn_adapter *adapter);

/* Writes the file `name` of a folder as indented JSON. */
tn_status tn_session_write_json(const char *dir, const char *name, const cJSON *json);

/* Copies tokenizer, chat template and generation configuration beside a saved model; from a GGUF file as the files that
 * Hugging Face would have. */
tn_status tn_session_copy_words(const tn_model *model, const char *dir);

/* Fails where the output would overwrite the model or its adapter, or lie in a folder with files that readers would take for
 * a part of the checkpoint. */
tn_status tn_session_check_output(const tn_model *model, const char *dir, bool sharded);

/* Switches the adapter on and says whether it was. */
bool tn_session_switch_on(tn_model *model);

double tn_session_largest_difference(const float *a, const float *b, int64_t count);

/* A model whose adapter is merged for a while: what its modules were before. */
typedef struct tn_merged {
    tn_module *modules; /* NULL: not merged */
    float *memory;
    int64_t bytes;
} tn_merged;

/* Replaces the weights of all adapted modules by merged f32 ones and lets the adapter's slots rest. Until it is undone the
 * adapter must stay as it is. */
tn_status tn_session_merge_in_memory(tn_model *model, tn_merged *out);

/* Undoes it, the adapter being on afterwards; fine when nothing was merged. */
void tn_session_merged_free(tn_model *model, tn_merged *merged);

#endif
