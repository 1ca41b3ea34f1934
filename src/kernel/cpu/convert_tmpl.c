/* Conversions between f32 and smaller types, compiled once per instruction set. */
#include <float.h>

#include "kernel/cpu/simd.h"

#define widen TN_FOR_ISA(tn_widen_, )
#define narrow TN_FOR_ISA(tn_narrow_, )

static void widen_bf16(float *restrict out, const uint16_t *restrict in, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        out[i] = tn_float_of_bits((uint32_t)in[i] << 16);
}

static void narrow_bf16(uint16_t *restrict out, const float *restrict in, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = tn_bits_of_float(in[i]), nan = bits >> 16 | 0x40, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        out[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
    }
}

static void widen_f16(float *out, const uint16_t *in, int64_t count) {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(in + i))));
#endif
    tn_convert_to_f32(out + i, in + i, TN_DTYPE_F16, count - i);
}

static void narrow_f16(uint16_t *out, const float *in, int64_t count) {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((void *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    tn_convert_from_f32(out + i, TN_DTYPE_F16, in + i, count - i);
}

static void decode_int8_blocks(float *restrict out, const tn_int8_block *restrict blocks, int64_t count) {
    for (; count > 0; blocks++, out += TN_INT8_BLOCK, count -= TN_INT8_BLOCK) {
        const float scale = blocks->scale;
        const int64_t here = tn_min_i64(TN_INT8_BLOCK, count);
#pragma omp simd
        for (int64_t i = 0; i < here; i++)
            out[i] = scale * (float)blocks->codes[i];
    }
}

/* Adding `shift` leaves the rounded number, to even, in the low bits. */
static void encode_int8_block(tn_int8_block *restrict block, const float *restrict x) {
    const float shift = 0x1.8p23f;
    uint32_t largest = 0; /* bits of magnitudes rise with them, and those of infinities and NaN are above all others */
#pragma omp simd reduction(max : largest)
    for (int i = 0; i < TN_INT8_BLOCK; i++) {
        uint32_t bits = tn_bits_of_float(x[i]) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float scale = tn_float_of_bits(largest) / 127;
    if (largest >= 0x7f800000 || scale < FLT_MIN) {
        *block = (tn_int8_block){.scale = largest >= 0x7f800000 ? NAN : 0};
        return;
    }
    const float inverse = 1 / scale;
    block->scale = scale;
#pragma omp simd
    for (int i = 0; i < TN_INT8_BLOCK; i++)
        block->codes[i] = (int8_t)(tn_bits_of_float(x[i] * inverse + shift) & 0xff);
}

static void encode_int8_blocks(tn_int8_block *blocks, const float *x, int64_t count) {
    for (; count >= TN_INT8_BLOCK; x += TN_INT8_BLOCK, count -= TN_INT8_BLOCK)
        encode_int8_block(blocks++, x);
    if (count > 0)
        tn_convert_from_f32(blocks, TN_DTYPE_INT8_BLOCKS, x, count);
}

void widen(float *out, const void *in, tn_dtype dtype, int64_t count) {
    switch (dtype) {
    case TN_DTYPE_BF16: widen_bf16(out, in, count); break;
    case TN_DTYPE_F16: widen_f16(out, in, count); break;
    case TN_DTYPE_INT8_BLOCKS: decode_int8_blocks(out, in, count); break;
    default: tn_convert_to_f32(out, in, dtype, count); break;
    }
}

void narrow(void *out, tn_dtype dtype, const float *in, int64_t count) {
    switch (dtype) {
    case TN_DTYPE_BF16: narrow_bf16(out, in, count); break;
    case TN_DTYPE_F16: narrow_f16(out, in, count); break;
    case TN_DTYPE_INT8_BLOCKS: encode_int8_blocks(out, in, count); break;
    default: tn_convert_from_f32(out, dtype, in, count); break;
    }
}

void TN_FOR_ISA(tn_to_f32_, )(float *out, const void *in, tn_dtype dtype, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK)
        widen(out + at, (const char *)in + tn_array_bytes(dtype, at), dtype, tn_min_i64(TN_CHUNK, count - at));
}

void TN_FOR_ISA(tn_from_f32_, )(void *out, tn_dtype dtype, const float *in, int64_t count) {
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t at = 0; at < count; at += TN_CHUNK)
        narrow((char *)out + tn_array_bytes(dtype, at), dtype, in + at, tn_min_i64(TN_CHUNK, count - at));
}
