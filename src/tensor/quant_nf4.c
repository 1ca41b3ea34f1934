/* NF4 (Dettmers et al., 2023) and FP4, as bitsandbytes stores them: x ~ value[code] absmax of the block. Two codes a byte,
 * the first element in the high four bits; the spare half of an odd length holds the code of 0.
 *
 * FP4 codes are sign, two bits of exponent, one of mantissa, over 12: 8 would be -0 and is written as 0. */
#include "tensor/quant.h"

#include <math.h>

/* The float32 values are bitsandbytes' own; quantiles of N(0, 1) computed anew differ in the last bits. */
const float tn_nf4_values[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

const float tn_fp4_values[16] = {
    0.0f, 0.0625f / 12,  8.0f / 12,  1.0f,  4.0f / 12,  6.0f / 12,  2.0f / 12,  3.0f / 12,
    0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12,
};

/* FP4's values in rising order, and their codes. */
static const float fp4_sorted[15] = {
    -1.0f,        -8.0f / 12, -6.0f / 12, -4.0f / 12, -3.0f / 12, -2.0f / 12, -0.0625f / 12, 0.0f,
    0.0625f / 12, 2.0f / 12,  3.0f / 12,  4.0f / 12,  6.0f / 12,  8.0f / 12,  1.0f,
};
static const uint8_t fp4_codes[15] = {11, 10, 13, 12, 15, 14, 9, 0, 1, 6, 7, 4, 5, 2, 3};

/* A code is found by counting the mid points of neighbouring values, in f32, that x is above. */
typedef struct {
    float middle[16]; /* rising; infinite where there are fewer values */
    uint8_t codes[16];
} ranking;

static ranking rank_values(const float *sorted, const uint8_t *codes, int count) {
    ranking r;
    for (int i = 0; i < 16; i++) {
        r.middle[i] = i + 1 < count ? (sorted[i] + sorted[i + 1]) / 2 : INFINITY;
        r.codes[i] = (uint8_t)(i >= count ? 0 : codes ? codes[i] : i);
    }
    return r;
}

static unsigned code_of(const ranking *r, float unit) {
    int below = 0;
    for (int i = 0; i < 16; i++)
        below += unit > r->middle[i];
    return r->codes[below];
}

static void encode(const tn_quantised *array, const float *x, int64_t first, int64_t count, const ranking *r) {
    for (int64_t at = 0; at < count; at += array->block) {
        int64_t length = count - at < array->block ? count - at : array->block;
        tn_quant_unit unit = tn_quant_unit_of(x + at, length, array->block);
        array->scales[(first + at) / array->block] = unit.absmax;
        uint8_t *out = array->codes + (first + at) / 2; /* blocks are even */
        for (int64_t i = 0; i < length; i += 2) {
            unsigned high = code_of(r, tn_quant_to_unit(&unit, x[at + i]));
            unsigned low = code_of(r, i + 1 < length ? tn_quant_to_unit(&unit, x[at + i + 1]) : 0);
            out[i / 2] = (uint8_t)(high << 4 | low);
        }
    }
}

static void decode(float *out, const tn_quantised *array, int64_t first, int64_t count, const float *values) {
    int64_t end = first + count;
    for (int64_t i = first; i < end;) {
        int64_t block = i / array->block, block_end = (block + 1) * array->block;
        float scale = tn_quantised_scale(array, block);
        for (int64_t stop = block_end < end ? block_end : end; i < stop; i++) {
            uint8_t pair = array->codes[i / 2];
            *out++ = values[i % 2 ? pair & 15 : pair >> 4] * scale;
        }
    }
}

static tn_status nf4_encode(const tn_quantised *array, const float *x, int64_t first, int64_t count, int64_t *bad) {
    (void)bad;
    ranking r = rank_values(tn_nf4_values, NULL, 16);
    encode(array, x, first, count, &r);
    return TN_OK;
}

static tn_status fp4_encode(const tn_quantised *array, const float *x, int64_t first, int64_t count, int64_t *bad) {
    (void)bad;
    ranking r = rank_values(fp4_sorted, fp4_codes, 15);
    encode(array, x, first, count, &r);
    return TN_OK;
}

static void nf4_decode(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    decode(out, array, first, count, tn_nf4_values);
}

static void fp4_decode(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    decode(out, array, first, count, tn_fp4_values);
}

#define FOUR_BITS(title, direction)                                                                                         \
    {                                                                                                                       \
        .name = title, .bits = 4, .min_block = 32, .max_block = 4096, .nests = true, .ranges = 1u << TN_QUANT_ABSMAX,       \
        .defaults = {64, 0, TN_QUANT_ABSMAX}, .encode = direction##_encode, .decode = direction##_decode                    \
    }
const tn_quant_codec tn_codec_nf4 = FOUR_BITS("nf4", nf4);
const tn_quant_codec tn_codec_fp4 = FOUR_BITS("fp4", fp4);
