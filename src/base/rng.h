/* Counter-based random numbers: Philox 4x32-10 (Salmon et al., SC 2011). A value depends only on (seed, stream, index),
 * never on how many were drawn before or by which thread, so that runs can be resumed and replayed bit for bit. */
#ifndef TN_BASE_RNG_H
#define TN_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

/* The four 32-bit words of block `index` of `stream` under `seed`. */
void tn_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);

/* Stream numbers: what a random number is for, in the upper half; which one, in the lower. */
enum {
    TN_STREAM_INIT = 1,
    TN_STREAM_SHUFFLE,
    TN_STREAM_DROPOUT,
    TN_STREAM_SAMPLE,
    TN_STREAM_DATA,
    TN_STREAM_DIGITS,
    TN_STREAM_PRUNE,
};
static inline uint64_t tn_stream(uint32_t purpose, uint32_t which) {
    return (uint64_t)purpose << 32 | which;
}

/* A cursor over a stream for sequential use. */
typedef struct tn_rng {
    uint64_t seed, stream, index;
    uint32_t block[4];
    int left;
} tn_rng;

tn_rng tn_rng_start(uint64_t seed, uint64_t stream);
uint32_t tn_rng_u32(tn_rng *rng);
uint32_t tn_rng_below(tn_rng *rng, uint32_t bound); /* uniform in [0, bound), unbiased; bound > 0 */
float tn_rng_uniform(tn_rng *rng);                  /* [0, 1), 24 bits */
double tn_rng_uniform64(tn_rng *rng);               /* [0, 1), 53 bits */

/* Fills with U(low, high) or N(mean, std); element i depends only on (seed, stream, i). */
void tn_fill_uniform(float *out, size_t count, uint64_t seed, uint64_t stream, float low, float high);
void tn_fill_normal(float *out, size_t count, uint64_t seed, uint64_t stream, float mean, float std);

/* Fisher-Yates over 0..count-1. */
void tn_shuffle(int64_t *out, int64_t count, uint64_t seed, uint64_t stream);

#endif
