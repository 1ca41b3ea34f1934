/* Text to pre-train the demo's base model on. */
#ifndef TN_GENERATE_CORPUS_H
#define TN_GENERATE_CORPUS_H

#include <stdint.h>

#include "base/error.h"

/* Writes corpus.jsonl into `dir`: rows {"text": ...} until `bytes` are reached; *rows receives how many. Only schemas of the
 * training split occur, and never the task's format. */
tn_status tn_corpus_write(uint64_t seed, int64_t bytes, const char *dir, int64_t *rows);

#endif
