/* Integers of b = 4, 5, 6 and 8 bits: x ~ s (q - z), q = clamp(rint(x / s + z), 0, L), L = 2^b - 1. Codes are a stream of
 * bits: element i is bits b i to b i + b - 1, the lowest bit of a byte first, so that 8 elements are b bytes.
 *
 *   symmetric   z = 2^(b-1), H = z - 1    absmax: s = max|x| / H          minmax: s = max(-min / z, max / H)
 *   affine      lo = min(x, 0), hi = max(x, 0), s = (hi - lo) / L, z = floor(-lo / s + 1/2), stored as u8 per block; absmax:
 *               as symmetric
 *   MSE         of the ranges by minmax times f = 1, 63/64, .., 13/64, the one with the least squared error, the largest f
 * on a tie
 *
 * Zero is always a code, and s is rounded down: the ends of a range then get the outermost codes, decoding never exceeds
 * the range of the symmetric codes, and encoding what was decoded gives the same codes. */
#include "tensor/quant.h"

#include <float.h>
#include <math.h>

enum { MSE_STEPS = 64, MSE_FIRST = 13 };

/* Scale and zero point of one block. */
typedef struct {
    float scale;
    int zero;
} affine;

static int largest_code(const tn_quantised *array) {
    return (1 << array->codec->bits) - 1;
}

/* range / steps rounded down; 0, which makes a block of zeros, where f32 has no normal number for it. */
static float scale_below(double range, int steps) {
    double wanted = range / steps;
    float scale = (float)wanted;
    if ((double)scale > wanted)
        scale = nextafterf(scale, 0);
    return scale < FLT_MIN ? 0 : scale;
}

static affine affine_of(const tn_quantised *array, double low, double high) {
    int last = largest_code(array), middle = (last + 1) / 2;
    bool absmax = array->params.range == TN_QUANT_ABSMAX;
    if (array->codec->zero_point && !absmax) {
        affine a = {scale_below(high - low, last), 0};
        if (a.scale > 0)
            a.zero = (int)fmin(last, floor(-low / (double)a.scale + 0.5));
        return a;
    }
    affine a = {0, middle};
    if (!absmax && -low * (middle - 1) > high * middle)
        a.scale = scale_below(-low, middle);
    else
        a.scale = scale_below(absmax ? fmax(-low, high) : high, middle - 1);
    return a;
}

/* In double, so that the ends of the range do not fall on the wrong side of a half. */
static int code_of(const affine *a, float x, int last) {
    if (!(a->scale > 0))
        return a->zero;
    double code = (double)x / (double)a->scale + a->zero;
    return (int)lrint(code < 0 ? 0 : code > last ? last : code);
}

static float value_of(const affine *a, int code) {
    return a->scale * (float)(code - a->zero);
}

/* Stops where the sum exceeds `limit`. */
static double squared_error(const affine *a, const float *x, int64_t count, int last, double limit) {
    double sum = 0;
    for (int64_t i = 0; i < count && sum <= limit; i++) {
        double error = (double)value_of(a, code_of(a, x[i], last)) - (double)x[i];
        sum += error * error;
    }
    return sum;
}

static affine search(const tn_quantised *array, const float *x, int64_t count, double low, double high) {
    affine best = affine_of(array, low, high);
    double least = squared_error(&best, x, count, largest_code(array), INFINITY);
    for (int step = MSE_STEPS - 1; step >= MSE_FIRST && least > 0; step--) {
        double factor = (double)step / MSE_STEPS;
        affine a = affine_of(array, low * factor, high * factor);
        double error = squared_error(&a, x, count, largest_code(array), least);
        if (error < least) {
            least = error;
            best = a;
        }
    }
    return best;
}

/* Any bits of a code lie in two bytes; the second is not touched when the code ends in the first. */
static void put_code(uint8_t *codes, int64_t index, int bits, int code) {
    int64_t bit = index * bits;
    int shift = (int)(bit % 8);
    unsigned mask = ((1u << bits) - 1) << shift, value = (unsigned)code << shift;
    uint8_t *at = codes + bit / 8;
    at[0] = (uint8_t)((at[0] & ~mask) | value);
    if (shift + bits > 8)
        at[1] = (uint8_t)((at[1] & ~(mask >> 8)) | value >> 8);
}

static int get_code(const uint8_t *codes, int64_t index, int bits) {
    int64_t bit = index * bits;
    int shift = (int)(bit % 8);
    unsigned pair = codes[bit / 8];
    if (shift + bits > 8)
        pair |= (unsigned)codes[bit / 8 + 1] << 8;
    return (int)(pair >> shift & ((1u << bits) - 1));
}

/* A zero point rounded up lets the lowest code stand for a little less than the smallest value. */
static tn_status check_ends(const tn_quantised *array, const affine *a, const float *x, int64_t count, int64_t *bad) {
    if (isfinite(value_of(a, 0)) && isfinite(value_of(a, largest_code(array))))
        return TN_OK;
    float largest = tn_quant_absmax(x, count);
    for (*bad = 0; fabsf(x[*bad]) != largest;)
        ++*bad;
    return tn_fail(TN_ERROR_NUMERIC, "%g is too large for %s", (double)x[*bad], array->codec->name);
}

static tn_status encode_block(const tn_quantised *array, const float *x, int64_t first, int64_t count, int64_t *bad) {
    float low = 0, high = 0;
    for (int64_t i = 0; i < count; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    affine a = array->params.range == TN_QUANT_MSE ? search(array, x, count, (double)low, (double)high)
                                                   : affine_of(array, (double)low, (double)high);
    TN_TRY(check_ends(array, &a, x, count, bad));
    int64_t block = first / array->block;
    array->scales[block] = a.scale;
    if (array->codec->zero_point)
        array->zeros[block] = (uint8_t)a.zero;
    for (int64_t i = 0; i < count; i++)
        put_code(array->codes, first + i, array->codec->bits, code_of(&a, x[i], largest_code(array)));
    return TN_OK;
}

static tn_status encode(const tn_quantised *array, const float *x, int64_t first, int64_t count, int64_t *bad) {
    int64_t bits = first + count == array->count ? array->count * array->codec->bits : 0;
    if (bits % 8) /* the spare bits of the last byte are 0 */
        array->codes[bits / 8] = 0;
    for (int64_t at = 0; at < count; at += array->block) {
        int64_t length = count - at < array->block ? count - at : array->block;
        tn_status status = encode_block(array, x + at, first + at, length, bad);
        if (status != TN_OK) {
            *bad += at;
            return status;
        }
    }
    return TN_OK;
}

static void decode(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    int bits = array->codec->bits;
    affine a = {0, 1 << (bits - 1)};
    for (int64_t i = first; i < first + count; i++) {
        int64_t block = i / array->block;
        a.scale = array->scales[block];
        if (array->codec->zero_point)
            a.zero = array->zeros[block];
        *out++ = value_of(&a, get_code(array->codes, i, bits));
    }
}

#define ALL_RANGES (1u << TN_QUANT_ABSMAX | 1u << TN_QUANT_MINMAX | 1u << TN_QUANT_MSE)
#define INTEGER(title, width, has_zero, made_from)                                                                          \
    {                                                                                                                       \
        .name = title, .bits = width, .min_block = 32, .max_block = 128, .whole = true, .zero_point = has_zero,             \
        .ranges = ALL_RANGES, .defaults = {64, 0, made_from}, .encode = encode, .decode = decode                            \
    }
const tn_quant_codec tn_codec_int4 = INTEGER("int4", 4, false, TN_QUANT_ABSMAX);
const tn_quant_codec tn_codec_int5 = INTEGER("int5", 5, false, TN_QUANT_ABSMAX);
const tn_quant_codec tn_codec_int6 = INTEGER("int6", 6, false, TN_QUANT_ABSMAX);
const tn_quant_codec tn_codec_int8 = INTEGER("int8", 8, false, TN_QUANT_ABSMAX);
const tn_quant_codec tn_codec_int4_affine = INTEGER("int4_affine", 4, true, TN_QUANT_MINMAX);
const tn_quant_codec tn_codec_int5_affine = INTEGER("int5_affine", 5, true, TN_QUANT_MINMAX);
const tn_quant_codec tn_codec_int6_affine = INTEGER("int6_affine", 6, true, TN_QUANT_MINMAX);
const tn_quant_codec tn_codec_int8_affine = INTEGER("int8_affine", 8, true, TN_QUANT_MINMAX);
