/* Tokens and their ids, both ways. */
#ifndef TN_TEXT_VOCAB_H
#define TN_TEXT_VOCAB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

enum { TN_TOKEN_ID_MAX = (4 << 20) - 1 }; /* larger ids are taken for damage */

enum { TN_TOKEN_PRESENT = 1, TN_TOKEN_IN_MODEL = 2, TN_TOKEN_SPECIAL = 4 };

typedef struct tn_vocab_entry {
    uint32_t offset, length; /* of the NUL-terminated token in `text` */
    uint8_t flags;           /* 0: no token has this id */
} tn_vocab_entry;

/* Zero-initialise to start. */
typedef struct tn_vocab {
    tn_buf text;
    tn_vocab_entry *entries; /* by id */
    int32_t size, capacity;  /* size: largest id + 1 */
    int32_t *slots;          /* hash of the texts: id + 1, 0 when empty */
    size_t slot_count, token_count;
} tn_vocab;

/* Room for `count` tokens at once, so that adding them does not rehash. */
tn_status tn_vocab_reserve(tn_vocab *vocab, size_t count);

/* Adds a token, or flags to one that is there with the same id. A text with two ids, an id with two texts and an id
 * outside 0..TN_TOKEN_ID_MAX are TN_ERROR_FORMAT naming `where`. */
tn_status tn_vocab_add(tn_vocab *vocab, const char *token, size_t length, int32_t id, uint8_t flags, const char *where);

/* -1 when no token with at least `flags` has this text. */
int32_t tn_vocab_find(const tn_vocab *vocab, const char *token, size_t length, uint8_t flags);

/* NULL when no token has this id; owned by the vocabulary. */
const char *tn_vocab_token(const tn_vocab *vocab, int32_t id, size_t *length);
bool tn_vocab_has_flags(const tn_vocab *vocab, int32_t id, uint8_t flags);

void tn_vocab_free(tn_vocab *vocab);

#endif
