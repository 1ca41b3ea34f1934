/* MT19937 as PyTorch seeds and reads it. */
#include "base/torch_rng.h"

#include <math.h>

enum { MIDDLE = 397 };

void tn_torch_rng_seed(tn_torch_rng *rng, uint64_t seed) {
    rng->words[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < TN_MT19937_WORDS; i++) {
        uint32_t before = rng->words[i - 1];
        rng->words[i] = 1812433253u * (before ^ before >> 30) + i;
    }
    rng->used = TN_MT19937_WORDS;
}

/* The next 624 words: x[i+624] = x[i+397] ^ (upper bit of x[i], lower bits of x[i+1]) M. */
static void twist(tn_torch_rng *rng) {
    uint32_t *x = rng->words;
    for (int i = 0; i < TN_MT19937_WORDS; i++) {
        uint32_t joined = (x[i] & 0x80000000u) | (x[(i + 1) % TN_MT19937_WORDS] & 0x7fffffffu);
        x[i] = x[(i + MIDDLE) % TN_MT19937_WORDS] ^ joined >> 1 ^ (joined & 1 ? 0x9908b0dfu : 0);
    }
    rng->used = 0;
}

uint32_t tn_torch_rng_u32(tn_torch_rng *rng) {
    if (rng->used == TN_MT19937_WORDS)
        twist(rng);
    uint32_t y = rng->words[rng->used++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* PyTorch's builds fuse the product and the sum. */
void tn_torch_fill_uniform(tn_torch_rng *rng, float *out, size_t count, float low, float high) {
    for (size_t i = 0; i < count; i++) {
        float unit = (float)(tn_torch_rng_u32(rng) & 0xffffffu) * 0x1p-24f;
        out[i] = fmaf(unit, high - low, low);
    }
}
