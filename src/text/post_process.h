/* The post-processor of tokenizer.json: which special tokens stand before and after the ids of one text. */
#ifndef TN_TEXT_POST_PROCESS_H
#define TN_TEXT_POST_PROCESS_H

#include <cjson/cJSON.h>

#include "text/tokenizer.h"
#include "text/vocab.h"

typedef struct tn_post_processor {
    tn_ids before, after;
} tn_post_processor;

/* `json` may be NULL: nothing is added. Every id must be in the vocabulary. Pairs of texts are not dealt with. */
tn_status tn_post_processor_parse(const cJSON *json, const char *where, const tn_vocab *vocab, tn_post_processor *out);
void tn_post_processor_free(tn_post_processor *post_processor);

#endif
