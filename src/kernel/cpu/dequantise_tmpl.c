/* Runs of quantised elements to f32 with the bits of tn_dequantise, compiled once per instruction set. What is not here, and
 * the ends of a run that are no whole blocks or vectors, is left to the codecs. */
#include "kernel/cpu/simd.h"
#include "tensor/quant_ggml.h"

/* ---- 4-bit floats: table[code] * scale, the first code of each byte in its high bits ---- */

#if defined(__AVX2__)
enum { STEP = 16 };

static void decode_table(float *out, const uint8_t *codes, const float *table, float scale, int64_t count) {
#if defined(__AVX512F__)
    const __m512 values = _mm512_mul_ps(_mm512_loadu_ps(table), _mm512_set1_ps(scale));
    for (int64_t i = 0; i < count; i += STEP) {
        __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(codes + i / 2));
        __m128i both = _mm_unpacklo_epi8(_mm_srli_epi16(bytes, 4), bytes); /* only the low 4 bits count */
        _mm512_storeu_ps(out + i, _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(both), values));
    }
#else
    const __m256 factor = _mm256_set1_ps(scale);
    const __m256 low = _mm256_mul_ps(_mm256_loadu_ps(table), factor);
    const __m256 high = _mm256_mul_ps(_mm256_loadu_ps(table + 8), factor);
    for (int64_t i = 0; i < count; i += STEP) {
        __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(codes + i / 2));
        __m128i both = _mm_unpacklo_epi8(_mm_srli_epi16(bytes, 4), bytes);
        for (int j = 0; j < 2; j++, both = _mm_srli_si128(both, 8)) {
            __m256i code = _mm256_cvtepu8_epi32(both);
            __m256 is_high = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)); /* bit 3 becomes the sign */
            _mm256_storeu_ps(out + i + j * 8, _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code),
                                                               _mm256_permutevar8x32_ps(high, code), is_high));
        }
    }
#endif
}
#else
enum { STEP = 2 };

static void decode_table(float *out, const uint8_t *codes, const float *table, float scale, int64_t count) {
    for (int64_t i = 0; i < count; i += STEP) {
        out[i] = table[codes[i / 2] >> 4] * scale;
        out[i + 1] = table[codes[i / 2] & 15] * scale;
    }
}
#endif

/* ---- whole numbers with a scale for each block ---- */

static void decode_bytes(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    const int8_t *codes = (const int8_t *)array->codes + first;
    const float scale = array->scales[first / array->block], factor = 1.0f / 127;
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)codes[i] * scale * factor;
}

static int zero_of(const tn_quantised *array, int64_t block) {
    return array->zeros ? array->zeros[block] : 1 << (array->codec->bits - 1);
}

static void decode_int8(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    const uint8_t *codes = array->codes + first;
    const float scale = array->scales[first / array->block];
    const int zero = zero_of(array, first / array->block);
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        out[i] = scale * (float)(codes[i] - zero);
}

static void decode_int4(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    const uint8_t *codes = array->codes + first / 2;
    const float scale = array->scales[first / array->block];
    const int zero = zero_of(array, first / array->block);
#pragma omp simd
    for (int64_t i = 0; i < count / 2; i++) {
        out[2 * i] = scale * (float)((codes[i] & 15) - zero);
        out[2 * i + 1] = scale * (float)((codes[i] >> 4) - zero);
    }
}

static void decode_nf4(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    decode_table(out, array->codes + first / 2, tn_nf4_values, tn_quantised_scale(array, first / array->block), count);
}

static void decode_fp4(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    decode_table(out, array->codes + first / 2, tn_fp4_values, tn_quantised_scale(array, first / array->block), count);
}

/* ---- ggml's blocks, as quant_ggml.h has them ---- */

enum { SMALL = 32, LARGE = 256 };

static float half_at(const uint8_t *at) {
#if defined(__F16C__)
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return _cvtsh_ss(bits);
#else
    return tn_ggml_half(at);
#endif
}

static void decode_q4_0(float *out, const uint8_t *in) {
    const float d = half_at(in);
#pragma omp simd
    for (int j = 0; j < SMALL / 2; j++) {
        out[j] = (float)((in[2 + j] & 15) - 8) * d;
        out[j + SMALL / 2] = (float)((in[2 + j] >> 4) - 8) * d;
    }
}

static void decode_q4_1(float *out, const uint8_t *in) {
    const float d = half_at(in), m = half_at(in + 2);
#pragma omp simd
    for (int j = 0; j < SMALL / 2; j++) {
        out[j] = (float)(in[4 + j] & 15) * d + m;
        out[j + SMALL / 2] = (float)(in[4 + j] >> 4) * d + m;
    }
}

static void decode_q8_0(float *out, const uint8_t *in) {
    const float d = half_at(in);
#pragma omp simd
    for (int j = 0; j < SMALL; j++)
        out[j] = (float)(int8_t)in[2 + j] * d;
}

/* Scales and offsets of 6 bits in 12 bytes; see quant_ggml_k.c. */
static void unpack_scales(float s[8], float m[8], const uint8_t in[12], float d, float dmin) {
    for (int j = 0; j < 4; j++) {
        s[j] = d * (float)(in[j] & 63);
        m[j] = dmin * (float)(in[j + 4] & 63);
        s[j + 4] = d * (float)((in[j + 8] & 15) | in[j] >> 6 << 4);
        m[j + 4] = dmin * (float)(in[j + 8] >> 4 | in[j + 4] >> 6 << 4);
    }
}

static void decode_q4_k(float *out, const uint8_t *in) {
    float s[8], m[8];
    unpack_scales(s, m, in + 4, half_at(in), half_at(in + 2));
    for (int j = 0; j < 8; j += 2) {
        const uint8_t *codes = in + 16 + j / 2 * 32;
        float *to = out + j * 32;
#pragma omp simd
        for (int l = 0; l < 32; l++) {
            to[l] = s[j] * (float)(codes[l] & 15) - m[j];
            to[32 + l] = s[j + 1] * (float)(codes[l] >> 4) - m[j + 1];
        }
    }
}

static void decode_q5_k(float *out, const uint8_t *in) {
    float s[8], m[8];
    const uint8_t *qh = in + 16;
    unpack_scales(s, m, in + 4, half_at(in), half_at(in + 2));
    for (int j = 0; j < 8; j += 2) {
        const uint8_t *codes = in + 48 + j / 2 * 32;
        float *to = out + j * 32;
#pragma omp simd
        for (int l = 0; l < 32; l++) {
            to[l] = s[j] * (float)((codes[l] & 15) | (qh[l] >> j & 1) << 4) - m[j];
            to[32 + l] = s[j + 1] * (float)(codes[l] >> 4 | (qh[l] >> (j + 1) & 1) << 4) - m[j + 1];
        }
    }
}

static void decode_q6_k(float *out, const uint8_t *in) {
    const float d = half_at(in + 208);
    for (int h = 0; h < 2; h++, out += LARGE / 2) {
        for (int half = 0; half < 2; half++) { /* of the 32 places of a run, which have a scale each */
            const uint8_t *ql = in + 64 * h + 16 * half, *qh = in + 128 + 32 * h + 16 * half;
            const int8_t *scales = (const int8_t *)in + 192 + 8 * h + half;
            const float s0 = d * (float)scales[0], s1 = d * (float)scales[2], s2 = d * (float)scales[4];
            const float s3 = d * (float)scales[6];
            float *to = out + 16 * half;
#pragma omp simd
            for (int l = 0; l < 16; l++) {
                to[l] = s0 * (float)(((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
                to[l + 32] = s1 * (float)(((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32);
                to[l + 64] = s2 * (float)((ql[l] >> 4 | (qh[l] >> 4 & 3) << 4) - 32);
                to[l + 96] = s3 * (float)((ql[l + 32] >> 4 | (qh[l] >> 6) << 4) - 32);
            }
        }
    }
}

/* ---- the table ---- */

static const struct {
    const tn_quant_codec *codec;
    int unit; /* elements: pieces of a block that begin and end at multiples of it are decoded here */
    void (*decode_piece)(float *out, const tn_quantised *array, int64_t first, int64_t count); /* within a block */
    void (*decode_block)(float *out, const uint8_t *in);
} decoders[] = {
    {&tn_codec_nf4, STEP, decode_nf4, NULL},       {&tn_codec_fp4, STEP, decode_fp4, NULL},
    {&tn_codec_int8_row, 1, decode_bytes, NULL},   {&tn_codec_int8, 1, decode_int8, NULL},
    {&tn_codec_int8_affine, 1, decode_int8, NULL}, {&tn_codec_int4, 2, decode_int4, NULL},
    {&tn_codec_int4_affine, 2, decode_int4, NULL}, {&tn_codec_q4_0, SMALL, NULL, decode_q4_0},
    {&tn_codec_q4_1, SMALL, NULL, decode_q4_1},    {&tn_codec_q8_0, SMALL, NULL, decode_q8_0},
    {&tn_codec_q4_k, LARGE, NULL, decode_q4_k},    {&tn_codec_q5_k, LARGE, NULL, decode_q5_k},
    {&tn_codec_q6_k, LARGE, NULL, decode_q6_k},
};
enum { DECODERS = sizeof decoders / sizeof *decoders };

static inline int64_t round_up(int64_t at, int64_t unit) {
    return (at + unit - 1) / unit * unit;
}

static void decode_blocks(float *out, const tn_quantised *array, int64_t first, int64_t count, int which) {
    const uint8_t *in = array->codes + first / array->block * array->codec->block_bytes;
    for (int64_t i = 0; i < count; i += array->block, in += array->codec->block_bytes)
        decoders[which].decode_block(out + i, in);
}

static void decode_pieces(float *out, const tn_quantised *array, int64_t first, int64_t count, int which) {
    for (int64_t i = first, end = first + count; i < end;) {
        int64_t stop = tn_min_i64((i / array->block + 1) * array->block, end);
        decoders[which].decode_piece(out + (i - first), array, i, stop - i);
        i = stop;
    }
}

void TN_FOR_ISA(tn_dequantise_, )(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    int which = 0;
    while (which < DECODERS && decoders[which].codec != array->codec)
        which++;
    const int64_t unit = which < DECODERS ? decoders[which].unit : 1, end = first + count;
    const int64_t from = round_up(first, unit), to = end / unit * unit;
    if (which == DECODERS || from >= to || (!decoders[which].decode_block && unit > 1 && array->block % unit)) {
        tn_dequantise(out, array, first, count);
        return;
    }
    if (first < from)
        tn_dequantise(out, array, first, from - first);
    if (decoders[which].decode_block)
        decode_blocks(out + (from - first), array, from, to - from, which);
    else
        decode_pieces(out + (from - first), array, from, to - from, which);
    if (to < end)
        tn_dequantise(out + (to - first), array, to, end - to);
}
