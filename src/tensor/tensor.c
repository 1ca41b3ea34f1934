/* Element types, shapes and scalar conversions. */
#include "tensor/quant.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    int size;
    bool is_float;
} dtypes[TN_DTYPE_COUNT + 1] = {
    [TN_DTYPE_F32] = {"F32", 4, true},
    [TN_DTYPE_F16] = {"F16", 2, true},
    [TN_DTYPE_BF16] = {"BF16", 2, true},
    [TN_DTYPE_F64] = {"F64", 8, true},
    [TN_DTYPE_I64] = {"I64", 8, false},
    [TN_DTYPE_I32] = {"I32", 4, false},
    [TN_DTYPE_I16] = {"I16", 2, false},
    [TN_DTYPE_I8] = {"I8", 1, false},
    [TN_DTYPE_U8] = {"U8", 1, false},
    [TN_DTYPE_BOOL] = {"BOOL", 1, false},
    [TN_DTYPE_QUANTISED] = {"quantised", 0, false},
};

const char *tn_dtype_name(tn_dtype dtype) {
    return dtypes[dtype].name;
}

bool tn_dtype_from_name(const char *name, tn_dtype *dtype) {
    for (int i = 0; i < TN_DTYPE_COUNT; i++) {
        if (strcmp(name, dtypes[i].name) == 0 || (i <= TN_DTYPE_BF16 && strcasecmp(name, dtypes[i].name) == 0)) {
            *dtype = (tn_dtype)i;
            return true;
        }
    }
    return false;
}

int64_t tn_dtype_size(tn_dtype dtype) {
    return dtypes[dtype].size;
}

bool tn_dtype_is_float(tn_dtype dtype) {
    return dtypes[dtype].is_float;
}

int64_t tn_tensor_count(const tn_tensor *tensor) {
    int64_t count = 1;
    for (int i = 0; i < tensor->ndim; i++)
        count *= tensor->shape[i];
    return count;
}

int64_t tn_tensor_bytes(const tn_tensor *tensor) {
    if (tensor->dtype == TN_DTYPE_QUANTISED)
        return ((const tn_quantised *)tensor->data)->sizes.total;
    return tn_tensor_count(tensor) * tn_dtype_size(tensor->dtype);
}

bool tn_tensor_same_shape(const tn_tensor *a, const tn_tensor *b) {
    if (a->ndim != b->ndim)
        return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->shape[i] != b->shape[i])
            return false;
    return true;
}

const char *tn_tensor_type(const tn_tensor *tensor) {
    return tensor->dtype == TN_DTYPE_QUANTISED ? ((const tn_quantised *)tensor->data)->codec->name
                                               : tn_dtype_name(tensor->dtype);
}

void tn_tensor_read(float *out, const tn_tensor *tensor, int64_t first, int64_t count) {
    if (tensor->dtype == TN_DTYPE_QUANTISED)
        tn_dequantise(out, tensor->data, first, count);
    else
        tn_convert_to_f32(out, (const char *)tensor->data + first * tn_dtype_size(tensor->dtype), tensor->dtype, count);
}

const char *tn_shape_text(const tn_tensor *tensor, char out[TN_SHAPE_TEXT]) {
    int at = snprintf(out, TN_SHAPE_TEXT, "[");
    for (int i = 0; i < tensor->ndim && at < TN_SHAPE_TEXT; i++)
        at += snprintf(out + at, (size_t)(TN_SHAPE_TEXT - at), "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
    if (at < TN_SHAPE_TEXT)
        snprintf(out + at, (size_t)(TN_SHAPE_TEXT - at), "]");
    return out;
}

static float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float tn_bf16_to_f32(uint16_t bits) {
    return float_of_bits((uint32_t)bits << 16);
}

uint16_t tn_f32_to_bf16(float value) {
    uint32_t bits = bits_of_float(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float tn_f16_to_f32(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
    if (exponent == 0x1f)
        return float_of_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) {
        float value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t tn_f32_to_f16(float value) {
    uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x47800000)
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) {
        /* adding 0.5 aligns the subnormal's last bit with the float's, so the FPU does the rounding */
        uint32_t rounded = bits_of_float(float_of_bits(magnitude) + 0.5f);
        return (uint16_t)(sign | (rounded - 0x3f000000));
    }
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000;
    return (uint16_t)(sign | rounded >> 13);
}

static void decode_int8_blocks(float *out, const tn_int8_block *blocks, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        out[i] = blocks[i / TN_INT8_BLOCK].scale * (float)blocks[i / TN_INT8_BLOCK].codes[i % TN_INT8_BLOCK];
}

static void encode_int8_block(tn_int8_block *block, const float *x, int64_t count) {
    float largest = 0;
    bool finite = true;
    for (int64_t i = 0; i < count; i++) {
        finite = finite && isfinite(x[i]);
        largest = fmaxf(largest, fabsf(x[i]));
    }
    float scale = largest / 127;
    scale = scale < FLT_MIN ? 0 : scale;
    *block = (tn_int8_block){.scale = finite ? scale : NAN};
    float inverse = scale > 0 ? 1 / scale : 0;
    for (int64_t i = 0; i < count && finite; i++)
        block->codes[i] = (int8_t)lrintf(x[i] * inverse);
}

static void encode_int8_blocks(tn_int8_block *blocks, const float *x, int64_t count) {
    for (int64_t at = 0; at < count; at += TN_INT8_BLOCK)
        encode_int8_block(blocks++, x + at, count - at < TN_INT8_BLOCK ? count - at : TN_INT8_BLOCK);
}

void tn_convert_to_f32(float *out, const void *in, tn_dtype dtype, int64_t count) {
    switch (dtype) {
    case TN_DTYPE_F32: memcpy(out, in, (size_t)count * sizeof *out); break;
    case TN_DTYPE_BF16:
        for (int64_t i = 0; i < count; i++)
            out[i] = tn_bf16_to_f32(((const uint16_t *)in)[i]);
        break;
    case TN_DTYPE_F16:
        for (int64_t i = 0; i < count; i++)
            out[i] = tn_f16_to_f32(((const uint16_t *)in)[i]);
        break;
    case TN_DTYPE_F64:
        for (int64_t i = 0; i < count; i++)
            out[i] = (float)((const double *)in)[i];
        break;
    case TN_DTYPE_INT8_BLOCKS: decode_int8_blocks(out, in, count); break;
    default: memset(out, 0, (size_t)count * sizeof *out); break;
    }
}

void tn_convert_from_f32(void *out, tn_dtype dtype, const float *in, int64_t count) {
    switch (dtype) {
    case TN_DTYPE_F32: memcpy(out, in, (size_t)count * sizeof *in); break;
    case TN_DTYPE_BF16:
        for (int64_t i = 0; i < count; i++)
            ((uint16_t *)out)[i] = tn_f32_to_bf16(in[i]);
        break;
    case TN_DTYPE_F16:
        for (int64_t i = 0; i < count; i++)
            ((uint16_t *)out)[i] = tn_f32_to_f16(in[i]);
        break;
    case TN_DTYPE_F64:
        for (int64_t i = 0; i < count; i++)
            ((double *)out)[i] = in[i];
        break;
    case TN_DTYPE_INT8_BLOCKS: encode_int8_blocks(out, in, count); break;
    default: break;
    }
}

/* Exponent bits all ones mean NaN or infinity. A block is looked at as a whole first, which the compiler makes a vector
 * loop. */
enum { SCAN_BLOCK = 4096 };

#define DEFINE_SCAN(name, type, mask)                                                                                       \
    static int64_t name(const type *bits, int64_t count) {                                                                  \
        for (int64_t at = 0; at < count; at += SCAN_BLOCK) {                                                                \
            int64_t end = count - at < SCAN_BLOCK ? count : at + SCAN_BLOCK;                                                \
            int bad = 0;                                                                                                    \
            for (int64_t i = at; i < end; i++)                                                                              \
                bad |= (bits[i] & (mask)) == (mask);                                                                        \
            for (int64_t i = at; bad && i < end; i++)                                                                       \
                if ((bits[i] & (mask)) == (mask))                                                                           \
                    return i;                                                                                               \
        }                                                                                                                   \
        return -1;                                                                                                          \
    }
DEFINE_SCAN(scan_f16, uint16_t, 0x7c00u)
DEFINE_SCAN(scan_bf16, uint16_t, 0x7f80u)
DEFINE_SCAN(scan_f32, uint32_t, 0x7f800000u)
DEFINE_SCAN(scan_f64, uint64_t, UINT64_C(0x7ff0000000000000))

/* Of blocks their scales are looked at: what they are multiplied with is small. The first element stands for its block. */
static int64_t scan_blocks(const tn_quantised *array) {
    const tn_quant_codec *codec = array->codec;
    for (int64_t block = 0; block < array->sizes.blocks; block++) {
        for (int i = 0; i < 2 && codec->halves[i] >= 0; i++) {
            const uint8_t *half = array->codes + block * codec->block_bytes + codec->halves[i];
            if ((half[1] & 0x7c) == 0x7c)
                return block * array->block;
        }
    }
    return -1;
}

static int64_t scan_quantised(const tn_quantised *array, int64_t count) {
    float values[SCAN_BLOCK];
    if (array->codec->block_bytes)
        return scan_blocks(array);
    for (int64_t at = 0; at < count; at += SCAN_BLOCK) {
        int64_t length = count - at < SCAN_BLOCK ? count - at : SCAN_BLOCK;
        tn_dequantise(values, array, at, length);
        int64_t bad = scan_f32((const uint32_t *)(const void *)values, length);
        if (bad >= 0)
            return at + bad;
    }
    return -1;
}

int64_t tn_tensor_first_nonfinite(const tn_tensor *tensor) {
    int64_t count = tn_tensor_count(tensor);
    switch (tensor->dtype) {
    case TN_DTYPE_F32: return scan_f32(tensor->data, count);
    case TN_DTYPE_F64: return scan_f64(tensor->data, count);
    case TN_DTYPE_BF16: return scan_bf16(tensor->data, count);
    case TN_DTYPE_F16: return scan_f16(tensor->data, count);
    case TN_DTYPE_QUANTISED: return scan_quantised(tensor->data, count);
    default: return -1;
    }
}
