/* Writing checkpoints: base plus or minus adapter, or a model trained in full. */
#ifndef TN_SESSION_MERGE_H
#define TN_SESSION_MERGE_H

#include "session/session.h"

/* Writes the model with its adapter merged in (direction +1) or taken out (-1) into `dir`, with config.json and the tokenizer's
 * files. report (may be NULL) gets the modules and the largest rounding; its logit_difference is 0. */
tn_status tn_session_write_checkpoint(tn_model *model, const char *dir, const char *dtype, int direction, tn_merge_report *report);

/* Copies tokenizer, chat template and generation configuration beside a saved model. */
tn_status tn_session_copy_words(const tn_model *model, const char *dir);

/* Replaces the weights of all adapted modules by merged f32 ones and switches the adapter's slots off, for good. The memory must
 * outlive the model's use and is freed with tn_pages_free(memory, bytes). */
tn_status tn_session_merge_in_memory(tn_model *model, float **memory, int64_t *bytes);

#endif
