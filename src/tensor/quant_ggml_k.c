/* ggml's super-blocks of 256 values: Q4_K, Q5_K, Q6_K, and reading of Q2_K and Q3_K.
 *
 * A super-block is 8 or 16 runs. A run has a small whole scale s (and offset m), to be multiplied with the super-block's d
 * (and dmin): value = d s q - dmin m. Decoding multiplies the scales first; every product that meets a sum is then exact in
 * f32, so that fused multiply-adds change nothing.
 *
 * Encoding: for each run the best real scale and offset over a few ways to round, by least squares; d and dmin such that the
 * largest of them fit; then for each run the whole s and m, among the nearest, whose codes give the least squared error. */
#include <math.h>
#include <string.h>

#include "tensor/quant_ggml.h"

enum { BLOCK = 256, LONG_RUN = 32, LONG_RUNS = BLOCK / LONG_RUN, SHORT_RUN = 16, SHORT_RUNS = BLOCK / SHORT_RUN };

/* Scales and offsets of Q4_K and Q5_K have 6 bits: the low six bits of bytes 0 to 7 for runs 0 to 3; for runs 4 to 7 nibbles
 * of bytes 8 to 11, with the upper bits of bytes 0 to 7 on top. */
static void unpack_scales(int s[LONG_RUNS], int m[LONG_RUNS], const uint8_t in[12]) {
    for (int j = 0; j < 4; j++) {
        s[j] = in[j] & 63;
        m[j] = in[j + 4] & 63;
        s[j + 4] = (in[j + 8] & 15) | in[j] >> 6 << 4;
        m[j + 4] = in[j + 8] >> 4 | in[j + 4] >> 6 << 4;
    }
}

static void pack_scales(uint8_t out[12], const int s[LONG_RUNS], const int m[LONG_RUNS]) {
    for (int j = 0; j < 4; j++) {
        out[j] = (uint8_t)(s[j] | s[j + 4] >> 4 << 6);
        out[j + 4] = (uint8_t)(m[j] | m[j + 4] >> 4 << 6);
        out[j + 8] = (uint8_t)((s[j + 4] & 15) | (m[j + 4] & 15) << 4);
    }
}

/* Runs 2g and 2g + 1 are the low and the high halves of 32 bytes of qs. With qh, bit j of qh[l] is the fifth bit of element
 * l of run j. */
static void decode_long_runs(float *out, const uint8_t *in, const uint8_t *qh, const uint8_t *qs) {
    float d = tn_ggml_half(in), dmin = tn_ggml_half(in + 2);
    int s[LONG_RUNS], m[LONG_RUNS];
    unpack_scales(s, m, in + 4);
    for (int j = 0; j < LONG_RUNS; j++) {
        float scale = d * (float)s[j], offset = dmin * (float)m[j];
        const uint8_t *codes = qs + j / 2 * LONG_RUN;
        for (int l = 0; l < LONG_RUN; l++) {
            int code = codes[l] >> (j % 2 * 4) & 15;
            if (qh)
                code |= (qh[l] >> j & 1) << 4;
            out[j * LONG_RUN + l] = scale * (float)code - offset;
        }
    }
}

void tn_q4_k_decode(float *out, const uint8_t *in) {
    decode_long_runs(out, in, NULL, in + 16);
}

void tn_q5_k_decode(float *out, const uint8_t *in) {
    decode_long_runs(out, in, in + 16, in + 48);
}

/* Two halves of 128 values. Four runs of 32 share 64 bytes of ql and 32 of qh: the low half of a code is in ql, its upper
 * two bits in qh. Where code l (0 to 31) of run k (0 to 3) of a half lies: */
static int q6_low(int k, int l) {
    return k % 2 * 32 + l;
}

void tn_q6_k_decode(float *out, const uint8_t *in) {
    float d = tn_ggml_half(in + 208);
    for (int h = 0; h < 2; h++) {
        const uint8_t *ql = in + 64 * h, *qh = in + 128 + 32 * h, *scales = in + 192 + 8 * h;
        for (int k = 0; k < 4; k++) {
            for (int l = 0; l < 32; l++) {
                int code = (ql[q6_low(k, l)] >> (k / 2 * 4) & 15) | (qh[l] >> (2 * k) & 3) << 4;
                float scale = d * (float)(int8_t)scales[2 * k + l / SHORT_RUN];
                out[128 * h + 32 * k + l] = scale * (float)(code - 32);
            }
        }
    }
}

/* Two halves of 128 values: run k of 32 values takes bits 2k and 2k + 1 of the half's 32 bytes. */
void tn_q2_k_decode(float *out, const uint8_t *in) {
    float d = tn_ggml_half(in + 80), dmin = tn_ggml_half(in + 82);
    for (int i = 0; i < BLOCK; i++) {
        int h = i / 128, k = i / 32 % 4, code = in[16 + 32 * h + i % 32] >> (2 * k) & 3;
        uint8_t scales = in[i / SHORT_RUN];
        out[i] = d * (float)(scales & 15) * (float)code - dmin * (float)(scales >> 4);
    }
}

/* As Q2_K; a clear bit of hmask, bit 4h + k of byte l, takes 4 off the code. The low halves of the 16 scales are the halves
 * of bytes 0 to 7, their upper two bits lie in bytes 8 to 11. */
void tn_q3_k_decode(float *out, const uint8_t *in) {
    const uint8_t *scales = in + 96;
    float d = tn_ggml_half(in + 108);
    for (int i = 0; i < BLOCK; i++) {
        int h = i / 128, k = i / 32 % 4, r = i / SHORT_RUN;
        int code = (in[32 + 32 * h + i % 32] >> (2 * k) & 3) - (in[i % 32] >> (4 * h + k) & 1 ? 0 : 4);
        int scale = (scales[r % 8] >> (r / 8 * 4) & 15) | (scales[8 + r % 4] >> (r / 4 * 2) & 3) << 4;
        out[i] = d * (float)(scale - 32) * (float)code;
    }
}

/* Below this, steps round to 0 in any half scale; above, their reciprocals are finite. */
#define TINY 1e-20f

/* A half such that `largest`, in its units, rounds to at most `top`, and as near to largest / top as that allows: halves
 * near 0 are coarse, and rounding down would clip. Of largest's sign; false when too large for a half. */
static bool store_scale(uint8_t *at, float largest, int top, float *scale) {
    uint16_t bits = tn_f32_to_f16(largest / (float)top);
    while (tn_f16_to_f32(bits) != 0 && fabsf(largest / tn_f16_to_f32(bits)) >= (float)top + 0.5f)
        bits++;
    if ((bits & 0x7fff) == 0 && fabsf(largest) > 0x1p-26f)
        bits |= 1;
    *scale = tn_f16_to_f32(bits);
    return tn_ggml_store_half(at, *scale);
}

/* The sum in a fixed order that is also a vector's. */
static float sum_of_products(const float *a, const float *b, int count) {
    float lanes[8] = {0};
    for (int i = 0; i < count; i += 8)
        for (int l = 0; l < 8; l++)
            lanes[l] += a[i + l] * b[i + l];
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/* x ~ scale q - offset with scale, offset >= 0 and codes q of 0 .. top; x has LONG_RUN values. For codes from one rounding,
 * with y = x - low and y ~ scale q + c:  scale = (n Sqy - Sq Sy) / (n Sqq - Sq^2), c = (Sy - scale Sq) / n, c <= -low; the
 * share of the sum of squares that is explained, 2 scale Sqy + 2 c Sy - |scale q + c|^2, is to be largest. */
static void fit_range(const float *x, int top, float *scale, float *offset) {
    float low = 0, high = x[0], y[LONG_RUN], q[LONG_RUN], ones[LONG_RUN];
    for (int i = 0; i < LONG_RUN; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    *scale = 0;
    *offset = -low;
    if (high - low < TINY)
        return;
    for (int i = 0; i < LONG_RUN; i++) {
        y[i] = x[i] - low;
        ones[i] = 1;
    }
    double n = LONG_RUN, best = -INFINITY, sy = sum_of_products(y, ones, LONG_RUN);
    for (int step = -10; step <= 6; step += 2) {
        float inverse = ((float)top + 0.1f * (float)step) / (high - low);
        for (int i = 0; i < LONG_RUN; i++) {
            int code = (int)(y[i] * inverse + 0.5f);
            q[i] = (float)(code < top ? code : top);
        }
        double sq = sum_of_products(q, ones, LONG_RUN), sqq = sum_of_products(q, q, LONG_RUN);
        double sqy = sum_of_products(q, y, LONG_RUN), det = n * sqq - sq * sq;
        double s = (n * sqy - sq * sy) / det, c = (sy - s * sq) / n;
        if (!(det > 0) || c > -low) {
            c = -low;
            s = sqq > 0 ? (sqy - c * sq) / sqq : 0;
        }
        double explained = 2 * (s * sqy + c * sy) - (s * s * sqq + 2 * s * c * sq + n * c * c);
        if (s > 0 && explained > best) {
            best = explained;
            *scale = (float)s;
            *offset = (float)-(c + low);
        }
    }
}

/* Codes of x in steps of `scale` above -offset; returns the squared error. */
static float round_range(int q[LONG_RUN], const float *x, float scale, float offset, int top) {
    float inverse = scale > 0 ? 1 / scale : 0, error[LONG_RUN];
    for (int i = 0; i < LONG_RUN; i++) {
        float steps = (x[i] + offset) * inverse + 0.5f;
        steps = steps > 0 ? steps : 0;
        q[i] = (int)(steps < (float)top ? steps : (float)top);
        error[i] = x[i] - (scale * (float)q[i] - offset);
    }
    return sum_of_products(error, error, LONG_RUN);
}

static int clamp(int value, int low, int high) {
    return value < low ? low : value > high ? high : value;
}

/* The whole number of steps nearest to `value`. */
static int in_steps(float value, float step, int low, int high) {
    return step != 0 ? clamp((int)lrintf(value / step), low, high) : 0;
}

/* With s, m and q settled, the halves d and dmin that leave the least error: the optimum falls between halves, and those
 * next to it are tried for d, each with the dmin that goes with it. With the sums a = x.sq, b = x.m, c = sq.sq, e = sq.m, f
 * = m.m, the error is |x|^2 - 2 d a + 2 dmin b + d^2 c - 2 d dmin e + dmin^2 f. */
static void refine_scales(uint8_t *scales, const int s[LONG_RUNS], const int m[LONG_RUNS], const int q[BLOCK],
                          const float *x) {
    double a = 0, b = 0, c = 0, e = 0, f = 0;
    for (int i = 0; i < BLOCK; i++) {
        double step = s[i / LONG_RUN] * q[i], offset = m[i / LONG_RUN];
        a += step * x[i];
        b += offset * x[i];
        c += step * step;
        e += step * offset;
        f += offset * offset;
    }
    double d = tn_ggml_half(scales), dmin = tn_ggml_half(scales + 2), det = c * f - e * e;
    double least = d * d * c - 2 * d * a + 2 * dmin * b - 2 * d * dmin * e + dmin * dmin * f;
    int nearest = tn_f32_to_f16((float)(det > 0 ? fmax(0, (a * f - b * e) / det) : d));
    for (int bits = nearest < 2 ? 0 : nearest - 2; bits <= nearest + 2 && bits < 0x7c00; bits++) {
        d = tn_f16_to_f32((uint16_t)bits);
        uint16_t dmin_bits = f > 0 ? tn_f32_to_f16((float)fmax(0, (d * e - b) / f)) : 0;
        dmin = tn_f16_to_f32(dmin_bits);
        double error = d * d * c - 2 * d * a + 2 * dmin * b - 2 * d * dmin * e + dmin * dmin * f;
        if (error < least && isfinite(dmin)) {
            least = error;
            tn_ggml_store_half(scales, (float)d);
            tn_ggml_store_half(scales + 2, (float)dmin);
        }
    }
}

/* Scales and offsets to `out`, codes 0 .. top to q. */
static bool encode_long_runs(uint8_t *out, int q[BLOCK], const float *in, int top) {
    enum { MOST = 63 };
    float scales[LONG_RUNS], offsets[LONG_RUNS], largest_scale = 0, largest_offset = 0, d, dmin;
    int s[LONG_RUNS], m[LONG_RUNS];
    for (int i = 0; i < BLOCK; i++)
        if (fabsf(in[i]) > 65504.0f * MOST * (float)top)
            return false;
    for (int j = 0; j < LONG_RUNS; j++) {
        fit_range(in + j * LONG_RUN, top, &scales[j], &offsets[j]);
        largest_scale = fmaxf(largest_scale, scales[j]);
        largest_offset = fmaxf(largest_offset, offsets[j]);
    }
    if (!store_scale(out, largest_scale, MOST, &d) || !store_scale(out + 2, largest_offset, MOST, &dmin))
        return false;
    for (int j = 0; j < LONG_RUNS; j++) {
        int s0 = in_steps(scales[j], d, 0, MOST), m0 = in_steps(offsets[j], dmin, 0, MOST), codes[LONG_RUN];
        float least = INFINITY;
        for (int k = 0; k < 9; k++) {
            int sk = clamp(s0 + k / 3 - 1, 0, MOST), mk = clamp(m0 + k % 3 - 1, 0, MOST);
            float error = round_range(codes, in + j * LONG_RUN, d * (float)sk, dmin * (float)mk, top);
            if (error < least) {
                least = error;
                s[j] = sk;
                m[j] = mk;
                memcpy(q + j * LONG_RUN, codes, sizeof codes);
            }
        }
    }
    refine_scales(out, s, m, q, in);
    pack_scales(out + 4, s, m);
    return true;
}

static void pack_long_runs(uint8_t *qh, uint8_t *qs, const int q[BLOCK]) {
    for (int i = 0; i < BLOCK / 2; i++) {
        const int *pair = q + i / LONG_RUN * 2 * LONG_RUN + i % LONG_RUN;
        qs[i] = (uint8_t)((pair[0] & 15) | (pair[LONG_RUN] & 15) << 4);
    }
    if (!qh)
        return;
    memset(qh, 0, LONG_RUN);
    for (int i = 0; i < BLOCK; i++)
        qh[i % LONG_RUN] |= (uint8_t)(q[i] >> 4 << (i / LONG_RUN));
}

bool tn_q4_k_encode(uint8_t *out, const float *in) {
    int q[BLOCK];
    if (!encode_long_runs(out, q, in, 15))
        return false;
    pack_long_runs(NULL, out + 16, q);
    return true;
}

bool tn_q5_k_encode(uint8_t *out, const float *in) {
    int q[BLOCK];
    if (!encode_long_runs(out, q, in, 31))
        return false;
    pack_long_runs(out + 16, out + 48, q);
    return true;
}

/* x ~ scale q with codes of -32 .. 31; scale = Sxq / Sqq, which explains Sxq^2 / Sqq of the sum of squares. */
static float fit_signed(const float *x) {
    float extreme = 0, q[SHORT_RUN];
    for (int i = 0; i < SHORT_RUN; i++)
        extreme = fabsf(x[i]) > fabsf(extreme) ? x[i] : extreme;
    if (fabsf(extreme) < TINY)
        return 0;
    double best = -INFINITY;
    float scale = 0;
    for (int step = -10; step <= 12; step += 2) {
        float inverse = -(32 + 0.1f * (float)step) / extreme;
        for (int i = 0; i < SHORT_RUN; i++)
            q[i] = (float)clamp((int)(x[i] * inverse + 64.5f) - 64, -32, 31);
        double sqq = sum_of_products(q, q, SHORT_RUN), sqx = sum_of_products(q, x, SHORT_RUN);
        if (sqq > 0 && sqx * sqx / sqq > best) {
            best = sqx * sqx / sqq;
            scale = (float)(sqx / sqq);
        }
    }
    return scale;
}

static float round_signed(int q[SHORT_RUN], const float *x, float scale) {
    float inverse = scale != 0 ? 1 / scale : 0, error[SHORT_RUN];
    for (int i = 0; i < SHORT_RUN; i++) {
        float steps = x[i] * inverse + 64.5f;
        steps = steps > 32 ? steps : 32;
        q[i] = (int)(steps < 95 ? steps : 95) - 64;
        error[i] = x[i] - scale * (float)q[i];
    }
    return sum_of_products(error, error, SHORT_RUN);
}

static void pack_q6(uint8_t *out, const int q[BLOCK]) {
    memset(out, 0, 192);
    for (int i = 0; i < BLOCK; i++) {
        int h = i / 128, k = i / 32 % 4, l = i % 32, code = q[i] + 32;
        out[64 * h + q6_low(k, l)] |= (uint8_t)((code & 15) << (k / 2 * 4));
        out[128 + 32 * h + l] |= (uint8_t)(code >> 4 << (2 * k));
    }
}

bool tn_q6_k_encode(uint8_t *out, const float *in) {
    float scales[SHORT_RUNS], extreme = 0, d;
    int q[BLOCK];
    for (int i = 0; i < BLOCK; i++)
        if (fabsf(in[i]) > 65504.0f * 128 * 32)
            return false;
    for (int j = 0; j < SHORT_RUNS; j++) {
        scales[j] = fit_signed(in + j * SHORT_RUN);
        extreme = fabsf(scales[j]) > fabsf(extreme) ? scales[j] : extreme;
    }
    if (!store_scale(out + 208, -extreme, 128, &d))
        return false;
    for (int j = 0; j < SHORT_RUNS; j++) {
        int nearest = in_steps(scales[j], d, -128, 127), codes[SHORT_RUN];
        float least = INFINITY;
        for (int k = -1; k <= 1; k++) {
            int s = clamp(nearest + k, -128, 127);
            float error = round_signed(codes, in + j * SHORT_RUN, d * (float)s);
            if (error < least) {
                least = error;
                out[192 + j] = (uint8_t)(int8_t)s;
                memcpy(q + j * SHORT_RUN, codes, sizeof codes);
            }
        }
    }
    pack_q6(out, q);
    return true;
}
