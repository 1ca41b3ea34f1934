/* Philox 4x32-10 and what is drawn from it. */
#include "base/rng.h"

#include <math.h>

void tn_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

tn_rng tn_rng_start(uint64_t seed, uint64_t stream) {
    return (tn_rng){.seed = seed, .stream = stream};
}

uint32_t tn_rng_u32(tn_rng *rng) {
    if (rng->left == 0) {
        tn_philox(rng->seed, rng->stream, rng->index++, rng->block);
        rng->left = 4;
    }
    return rng->block[4 - rng->left--];
}

uint32_t tn_rng_below(tn_rng *rng, uint32_t bound) {
    uint32_t reject_below = -bound % bound;
    for (;;) {
        uint64_t product = (uint64_t)tn_rng_u32(rng) * bound;
        if ((uint32_t)product >= reject_below)
            return (uint32_t)(product >> 32);
    }
}

static float unit_float(uint32_t bits) {
    return (float)(bits >> 8) * 0x1p-24f;
}

float tn_rng_uniform(tn_rng *rng) {
    return unit_float(tn_rng_u32(rng));
}

double tn_rng_uniform64(tn_rng *rng) {
    uint64_t high = tn_rng_u32(rng), low = tn_rng_u32(rng);
    return (double)((high << 32 | low) >> 11) * 0x1p-53;
}

void tn_fill_uniform(float *out, size_t count, uint64_t seed, uint64_t stream, float low, float high) {
    uint32_t words[4];
    for (size_t i = 0; i < count; i++) {
        if (i % 4 == 0)
            tn_philox(seed, stream, i / 4, words);
        out[i] = low + (high - low) * unit_float(words[i % 4]);
    }
}

/* Box-Muller on pairs of one block, in double so that every libm rounds to the same float in practice. */
void tn_fill_normal(float *out, size_t count, uint64_t seed, uint64_t stream, float mean, float std) {
    uint32_t words[4];
    for (size_t i = 0; i < count; i += 2) {
        if (i % 4 == 0)
            tn_philox(seed, stream, i / 4, words);
        double u = ((double)words[i % 4] + 1.0) * 0x1p-32, angle = (double)words[i % 4 + 1] * 0x1p-32 * 6.283185307179586;
        double radius = sqrt(-2.0 * log(u));
        out[i] = mean + std * (float)(radius * cos(angle));
        if (i + 1 < count)
            out[i + 1] = mean + std * (float)(radius * sin(angle));
    }
}

void tn_shuffle(int64_t *out, int64_t count, uint64_t seed, uint64_t stream) {
    tn_rng rng = tn_rng_start(seed, stream);
    for (int64_t i = 0; i < count; i++)
        out[i] = i;
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = (int64_t)tn_rng_below(&rng, (uint32_t)(i + 1)), swap = out[i];
        out[i] = out[j];
        out[j] = swap;
    }
}
