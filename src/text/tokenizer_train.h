/* Training a byte-level BPE vocabulary (Sennrich et al. 2016, over bytes as GPT-2 does). */
#ifndef TN_TEXT_TOKENIZER_TRAIN_H
#define TN_TEXT_TOKENIZER_TRAIN_H

#include <stdint.h>

#include "base/buf.h"

/* Learns merges from `text` until the vocabulary has `vocab_size` entries: first the special tokens in their order, then the 256
 * byte symbols, then merges by falling pair count (ties: the pair whose ids are smaller). Writes a complete
 * tokenizer.json into `out` (ByteLevel pre-tokenizer and decoder, GPT-2 split, no prefix space) that tn_tokenizer_load and the
 * Hugging Face library both read. The same text gives the same bytes. */
tn_status tn_tokenizer_train(const char *text, size_t length, int32_t vocab_size, const char *const *special_tokens,
                             size_t special_count, tn_buf *out);

#endif
