/* The ids that end a text. */
#ifndef TN_INFER_STOP_TOKENS_H
#define TN_INFER_STOP_TOKENS_H

#include "session/session.h"

/* Appends the end-of-text ids of the model's config.json, generation_config.json and tokenizer to `out`. */
tn_status tn_stop_tokens_read(const tn_model *model, tn_ids *out);
bool tn_stop_tokens_has(const tn_ids *tokens, int32_t id);

#endif
