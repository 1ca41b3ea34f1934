/* Several sequences on their way through the model: their keys and values, and passes that carry each of them on by one
 * token. What the next token is to be is the caller's business. */
#ifndef TN_INFER_GENERATOR_H
#define TN_INFER_GENERATOR_H

#include <tenon/generate.h>

#include "session/session.h"

typedef struct tn_generator {
    tn_model *model;
    const tn_prompt *prompts; /* [count], the caller's */
    int64_t count;
    tn_kv_cache cache; /* sequence s owns rows [s * capacity, (s + 1) * capacity); lengths[s] of them are filled */
    tn_tape tape;
    int64_t pass_tokens; /* at most in one pass */
    tn_tokens tokens;    /* of the pass being put together, with views of the arrays below */
    int32_t *ids, *positions;
    int64_t *cache_rows;
    bool *invoked;         /* see tn_forward */
    tn_row_mixes mixes;    /* of prompts that chose their adapters; no sequences: none did */
    int32_t *owners;       /* [pass_tokens] the sequence of each token */
    int64_t *invoked_from; /* [count] position of each sequence's invocation; INT64_MAX: none */
    tn_span *spans;
    int32_t *logit_rows;   /* tokens of the pass whose logits are wanted ... */
    int64_t *logit_owners; /* ... and the sequences they belong to */
    int64_t logit_count;
    tn_arena arena;
} tn_generator;

/* For `count` >= 1 prompts with up to `max_tokens` more tokens each, as far as the model's positions go. Prompts are
 * checked, and all memory that any pass will need is planned and taken. pass_tokens: longer prompts are read in pieces of
 * this many tokens; 0: 1024. `prompts` must outlive the generator. Free with tn_generator_free; a failed init needs none. */
tn_status tn_generator_init(tn_generator *generator, tn_model *model, const tn_prompt *prompts, int64_t count,
                            int64_t max_tokens, int64_t pass_tokens);
void tn_generator_free(tn_generator *generator);

/* Bytes of keys and values for each position of a sequence. */
int64_t tn_generator_position_bytes(const tn_model *model);

/* Receives the logits [V] after the last token so far of one sequence; they are gone after the call. A failure ends the
 * pass. */
typedef tn_status (*tn_next_fn)(void *cookie, int64_t sequence, const float *logits);

/* Reads all prompts; `next` is called once for each, in order. */
tn_status tn_generator_read_prompts(tn_generator *generator, tn_next_fn next, void *cookie);

/* Appends ids[i] to sequence sequences[i], i < count, in one pass; then `next` is called for each in this order and may
 * write to the two arrays, which are not read any more. Each must have room. Allocates nothing. */
tn_status tn_generator_step(tn_generator *generator, const int64_t *sequences, const int32_t *ids, int64_t count,
                            tn_next_fn next, void *cookie);

#endif
