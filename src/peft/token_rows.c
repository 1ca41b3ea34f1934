/* E'[i_k] = row_k; logits of those tokens with a tied head: z[i_k] = row_k . h. */
#include "peft/token_rows.h"

#include <string.h>

static tn_var *token_rows_linear(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x,
                                 tn_var *y) {
    const tn_token_rows_slot *slot = (const tn_token_rows_slot *)base;
    (void)module;
    tn_op_replace_logits(forward->tape, y, x, slot->rows, slot->indices);
    return y;
}

static tn_var *token_rows_embedding(const tn_forward *forward, const tn_slot *base, const tn_module *module,
                                    const int32_t *ids, tn_var *y) {
    const tn_token_rows_slot *slot = (const tn_token_rows_slot *)base;
    (void)module;
    tn_op_replace_embeddings(forward->tape, y, ids, slot->rows, slot->indices);
    return y;
}

const tn_slot_hooks tn_token_rows_hooks = {.linear = token_rows_linear, .embedding = token_rows_embedding};

void tn_token_rows_merge(const tn_token_rows_slot *slot, float *weight, int64_t cols) {
    const float *rows = slot->rows->tensor.data;
    for (int64_t k = 0; k < slot->rows->tensor.shape[0]; k++)
        memcpy(weight + slot->indices[k] * cols, rows + k * cols, (size_t)cols * sizeof *weight);
}
