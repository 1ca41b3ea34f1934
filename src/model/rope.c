/* Angles of the rotary positions: position p turns pair i by p * f_i, f_i = theta^(-2i/D) (Su et al. 2021), with the ways of
 * stretching them to longer contexts as transformers' modeling_rope_utils defines them:
 *   linear  f / factor;
 *   llama3  f / factor for wavelengths above original/low, f below original/high, blended between;
 *   yarn    blend of f / factor and f by a ramp over dimensions, cos and sin times an attention factor (Peng et al. 2023).
 */
#include <math.h>

#include "model/config.h"

static const double TWO_PI = 6.283185307179586476925;

static double llama3_frequency(const tn_rope_config *rope, double f) {
    double wavelength = TWO_PI / f, original = (double)rope->original_max_positions;
    if (wavelength > original / rope->low_freq_factor)
        return f / rope->factor;
    if (wavelength < original / rope->high_freq_factor)
        return f;
    double smooth = (original / wavelength - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * f / rope->factor + smooth * f;
}

/* The dimension whose pair turns `rotations` times over the original context. */
static double yarn_dimension(const tn_rope_config *rope, double rotations, double head_size) {
    return head_size * log((double)rope->original_max_positions / (rotations * TWO_PI)) / (2 * log(rope->theta));
}

static double yarn_frequency(const tn_rope_config *rope, double f, int64_t pair, double head_size) {
    double low = yarn_dimension(rope, rope->beta_fast, head_size), high = yarn_dimension(rope, rope->beta_slow, head_size);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, head_size - 1);
    if (low == high)
        high += 0.001;
    double ramp = fmin(fmax(((double)pair - low) / (high - low), 0), 1);
    return f / rope->factor * ramp + f * (1 - ramp);
}

static double yarn_mscale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double yarn_attention_factor(const tn_rope_config *rope) {
    if (rope->attention_factor > 0)
        return rope->attention_factor;
    if (rope->mscale > 0 && rope->mscale_all_dim > 0)
        return yarn_mscale(rope->factor, rope->mscale) / yarn_mscale(rope->factor, rope->mscale_all_dim);
    return yarn_mscale(rope->factor, 1);
}

/* Frequencies and angles are rounded to f32 where PyTorch rounds them, so that long positions agree. */
void tn_rope_fill(const tn_decoder_config *config, int64_t positions, float *cos_table, float *sin_table) {
    const tn_rope_config *rope = &config->rope;
    int64_t half = config->head_size / 2;
    double attention = rope->type == TN_ROPE_YARN ? yarn_attention_factor(rope) : 1;
    for (int64_t i = 0; i < half; i++) {
        double f = pow(rope->theta, -2.0 * (double)i / (double)config->head_size);
        switch (rope->type) {
        case TN_ROPE_DEFAULT: break;
        case TN_ROPE_LINEAR: f /= rope->factor; break;
        case TN_ROPE_LLAMA3: f = llama3_frequency(rope, f); break;
        case TN_ROPE_YARN: f = yarn_frequency(rope, f, i, (double)config->head_size); break;
        }
        float frequency = (float)f;
        for (int64_t p = 0; p < positions; p++) {
            float angle = (float)p * frequency;
            cos_table[p * half + i] = (float)(cos((double)angle) * attention);
            sin_table[p * half + i] = (float)(sin((double)angle) * attention);
        }
    }
}
