/* ggml's blocks of 32 values: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, and reading of IQ4_NL.
 *
 * Element j < 16 is the low half of qs[j], element j + 16 its high half. The fifth bit of element j is bit j of the
 * little-endian qh. Scales are rounded to halves only when stored: the codes come from the unrounded ones. All as ggml does,
 * for the same bytes. */
#include <math.h>
#include <string.h>

#include "tensor/quant_ggml.h"

enum { BLOCK = 32, HALF = BLOCK / 2 };

/* ggml rounds each product before it adds. */
#pragma STDC FP_CONTRACT OFF

static void decode_4_bits(int codes[BLOCK], const uint8_t *qs) {
    for (int j = 0; j < HALF; j++) {
        codes[j] = qs[j] & 15;
        codes[j + HALF] = qs[j] >> 4;
    }
}

static void decode_5_bits(int codes[BLOCK], const uint8_t *qh, const uint8_t *qs) {
    decode_4_bits(codes, qs);
    for (int j = 0; j < BLOCK; j++)
        codes[j] |= (qh[j / 8] >> (j % 8) & 1) << 4;
}

static void encode_4_bits(uint8_t *qs, const int codes[BLOCK]) {
    for (int j = 0; j < HALF; j++)
        qs[j] = (uint8_t)((codes[j] & 15) | (codes[j + HALF] & 15) << 4);
}

static void encode_5_bits(uint8_t *qh, uint8_t *qs, const int codes[BLOCK]) {
    encode_4_bits(qs, codes);
    memset(qh, 0, BLOCK / 8);
    for (int j = 0; j < BLOCK; j++)
        qh[j / 8] |= (uint8_t)((codes[j] >> 4) << (j % 8));
}

/* 1 / scale; 0 for scales so small that it overflows, which a half rounds to 0 anyway. */
static float reciprocal(float scale) {
    float inverse = scale != 0 ? 1.0f / scale : 0.0f;
    return isfinite(inverse) ? inverse : 0.0f;
}

/* Signed codes around `zero`, which is also their count below zero: the value of largest magnitude gets the code 0. */
static bool encode_signed(uint8_t *scale, int codes[BLOCK], const float *in, int zero) {
    float largest = 0, magnitude = 0;
    for (int j = 0; j < BLOCK; j++) {
        if (fabsf(in[j]) > magnitude) {
            magnitude = fabsf(in[j]);
            largest = in[j];
        }
    }
    float d = largest / (float)-zero, inverse = reciprocal(d), shift = (float)zero + 0.5f;
    for (int j = 0; j < BLOCK; j++) {
        int code = (int)(in[j] * inverse + shift);
        codes[j] = code < 2 * zero - 1 ? code : 2 * zero - 1;
    }
    return tn_ggml_store_half(scale, d);
}

/* Codes 0 .. top between the smallest and the largest value. */
static bool encode_range(uint8_t *scale, int codes[BLOCK], const float *in, int top) {
    float min = in[0], max = in[0];
    for (int j = 1; j < BLOCK; j++) {
        min = in[j] < min ? in[j] : min;
        max = in[j] > max ? in[j] : max;
    }
    float d = (max - min) / (float)top, inverse = reciprocal(d);
    if (!tn_ggml_store_half(scale, d) || !tn_ggml_store_half(scale + 2, min))
        return false;
    for (int j = 0; j < BLOCK; j++) {
        int code = (int)((in[j] - min) * inverse + 0.5f);
        codes[j] = code < top ? code : top;
    }
    return true;
}

void tn_q4_0_decode(float *out, const uint8_t *in) {
    int codes[BLOCK];
    float d = tn_ggml_half(in);
    decode_4_bits(codes, in + 2);
    for (int j = 0; j < BLOCK; j++)
        out[j] = (float)(codes[j] - 8) * d;
}

bool tn_q4_0_encode(uint8_t *out, const float *in) {
    int codes[BLOCK];
    bool fits = encode_signed(out, codes, in, 8);
    encode_4_bits(out + 2, codes);
    return fits;
}

void tn_q4_1_decode(float *out, const uint8_t *in) {
    int codes[BLOCK];
    float d = tn_ggml_half(in), m = tn_ggml_half(in + 2);
    decode_4_bits(codes, in + 4);
    for (int j = 0; j < BLOCK; j++)
        out[j] = (float)codes[j] * d + m;
}

bool tn_q4_1_encode(uint8_t *out, const float *in) {
    int codes[BLOCK];
    if (!encode_range(out, codes, in, 15))
        return false;
    encode_4_bits(out + 4, codes);
    return true;
}

void tn_q5_0_decode(float *out, const uint8_t *in) {
    int codes[BLOCK];
    float d = tn_ggml_half(in);
    decode_5_bits(codes, in + 2, in + 6);
    for (int j = 0; j < BLOCK; j++)
        out[j] = (float)(codes[j] - 16) * d;
}

bool tn_q5_0_encode(uint8_t *out, const float *in) {
    int codes[BLOCK];
    bool fits = encode_signed(out, codes, in, 16);
    encode_5_bits(out + 2, out + 6, codes);
    return fits;
}

void tn_q5_1_decode(float *out, const uint8_t *in) {
    int codes[BLOCK];
    float d = tn_ggml_half(in), m = tn_ggml_half(in + 2);
    decode_5_bits(codes, in + 4, in + 8);
    for (int j = 0; j < BLOCK; j++)
        out[j] = (float)codes[j] * d + m;
}

bool tn_q5_1_encode(uint8_t *out, const float *in) {
    int codes[BLOCK];
    if (!encode_range(out, codes, in, 31))
        return false;
    encode_5_bits(out + 4, out + 8, codes);
    return true;
}

void tn_q8_0_decode(float *out, const uint8_t *in) {
    float d = tn_ggml_half(in);
    for (int j = 0; j < BLOCK; j++)
        out[j] = (float)(int8_t)in[2 + j] * d;
}

bool tn_q8_0_encode(uint8_t *out, const float *in) {
    float magnitude = 0;
    for (int j = 0; j < BLOCK; j++)
        magnitude = fmaxf(magnitude, fabsf(in[j]));
    float d = magnitude / 127, inverse = reciprocal(d);
    for (int j = 0; j < BLOCK; j++)
        out[2 + j] = (uint8_t)(int8_t)roundf(in[j] * inverse);
    return tn_ggml_store_half(out, d);
}

void tn_iq4_nl_decode(float *out, const uint8_t *in) {
    static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    int codes[BLOCK];
    float d = tn_ggml_half(in);
    decode_4_bits(codes, in + 2);
    for (int j = 0; j < BLOCK; j++)
        out[j] = (float)values[codes[j]] * d;
}
