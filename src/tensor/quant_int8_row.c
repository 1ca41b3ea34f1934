/* LLM.int8 (Dettmers et al., 2022): the weight is rounded to float16 first, then row by row
 *
 *   scale[o] = max_c |w[o, c]|    q[o, c] = rint(w[o, c] (127 / scale[o]))    w[o, c] ~ q[o, c] scale[o] (1 / 127)
 *
 * all in float32, ties to even. Codes are int8 in row-major order, `CB` and `SCB` of bitsandbytes. */
#include "tensor/quant.h"

#include <math.h>

static float through_half(float x) {
    return tn_f16_to_f32(tn_f32_to_f16(x));
}

static tn_status encode(const tn_quantised *array, const float *x, int64_t first, int64_t count, int64_t *bad) {
    int8_t *codes = (int8_t *)array->codes + first;
    for (int64_t row = 0; row < count; row += array->block) {
        float largest = 0;
        for (int64_t i = row; i < row + array->block; i++) {
            float magnitude = fabsf(through_half(x[i]));
            if (isinf(magnitude)) {
                *bad = i;
                return tn_fail(TN_ERROR_NUMERIC, "%g is too large for int8_row, which rounds weights to float16",
                               (double)x[i]);
            }
            largest = magnitude > largest ? magnitude : largest;
        }
        float inverse = largest > 0 ? 127 / largest : 0;
        for (int64_t i = row; i < row + array->block; i++)
            codes[i] = (int8_t)rintf(through_half(x[i]) * inverse);
        array->scales[(first + row) / array->block] = largest;
    }
    return TN_OK;
}

static void decode(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    const int8_t *codes = (const int8_t *)array->codes;
    for (int64_t i = first; i < first + count; i++)
        *out++ = (float)codes[i] * array->scales[i / array->block] * (1.0f / 127);
}

const tn_quant_codec tn_codec_int8_row = {
    .name = "int8_row",
    .bits = 8,
    .min_block = 1,
    .max_block = INT64_MAX,
    .rows = true,
    .ranges = 1u << TN_QUANT_ABSMAX,
    .encode = encode,
    .decode = decode,
};
