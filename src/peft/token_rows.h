/* Trained rows of the embedding (PEFT's trainable_token_indices), which a tied output head follows. */
#ifndef TN_PEFT_TOKEN_ROWS_H
#define TN_PEFT_TOKEN_ROWS_H

#include "peft/adapter.h"

typedef struct tn_token_rows_slot {
    tn_slot slot;
    const tn_weight *rows; /* [K, C], shared by the embedding's slot and a tied head's */
    const int32_t *indices;
    tn_weight storage;
} tn_token_rows_slot;

extern const tn_slot_hooks tn_token_rows_hooks;

/* Overwrites rows of a weight [V, C]. */
void tn_token_rows_merge(const tn_token_rows_slot *slot, float *weight, int64_t cols);

#endif
