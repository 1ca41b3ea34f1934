/* Training a byte-level BPE vocabulary (Sennrich et al. 2016, over bytes as GPT-2 does). */
#ifndef TN_TEXT_TOKENIZER_TRAIN_H
#define TN_TEXT_TOKENIZER_TRAIN_H

#include <stdint.h>

#include "base/buf.h"

/* Learns merges from `text` until the vocabulary has `vocab_size` entries, or fewer when the text has no more pairs: first
 * the special tokens in their order, then the 256 byte symbols, then merges by falling pair count (ties: the pair whose ids
 * are smaller). Special tokens that occur in the text are left out of the count. Appends a complete tokenizer.json to `out`
 * (ByteLevel pre-tokenizer and decoder, GPT-2 split, no prefix space) that tn_tokenizer_load and the Hugging Face library
 * both read. The same text gives the same bytes. A vocabulary without room for special tokens and bytes, and a special
 * token that is empty, no UTF-8, given twice or itself a byte symbol, are TN_ERROR_ARGUMENT. */
tn_status tn_tokenizer_train(const char *text, size_t length, int32_t vocab_size, const char *const *special_tokens,
                             size_t special_count, tn_buf *out);

#endif
