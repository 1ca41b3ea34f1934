/* Choosing the next token from logits, as transformers' logits processors do. */
#ifndef TN_INFER_SAMPLER_H
#define TN_INFER_SAMPLER_H

#include <tenon/generate.h>

/* The ids that a repetition penalty acts on: a bit for each id of the vocabulary. */
typedef uint64_t tn_seen;
static inline size_t tn_seen_words(int64_t vocab) {
    return (size_t)(vocab + 63) / 64;
}
static inline void tn_seen_add(tn_seen *seen, int32_t id) {
    seen[id / 64] |= UINT64_C(1) << (id % 64);
}

/* Scratch for a vocabulary of V ids; serves any number of sequences. */
typedef struct tn_sampler {
    const tn_generate_options *options; /* the caller's */
    int64_t vocab;
    float *logits;  /* [V] after the penalty, then the weights exp((logit - max) / temperature) */
    int32_t *order; /* [V] a heap of ids */
} tn_sampler;

/* Checks the options that concern sampling. Free with tn_sampler_free, also after a failure. */
tn_status tn_sampler_init(tn_sampler *sampler, const tn_generate_options *options, int64_t vocab);
void tn_sampler_free(tn_sampler *sampler);

/* The id that follows logits [V] as new token number `step` of its sequence. `seen` is NULL or the ids so far. Allocates
 * nothing. TN_ERROR_NUMERIC when a logit is NaN or +infinity or none is finite. */
tn_status tn_sampler_pick(tn_sampler *sampler, const float *logits, const tn_seen *seen, int64_t step, int32_t *id);

#endif
