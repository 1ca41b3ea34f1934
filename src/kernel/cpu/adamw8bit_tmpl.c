/* AdamW with moments in 8 bits, compiled once per instruction set with TN_ISA naming it; the formula is in kernel.h.
 *
 * The code of y >= 0 is the number of mid points between neighbouring values of the map that lie below y. The map's values
 * are equidistant within each decade, so the decade, found by comparing, gives by a multiplication the place between them,
 * which rounds to the code; only where it is too close to half way for its own rounding error does the mid point decide. The
 * signed map is the same on both sides of 0, but that only its positive side has a 1; "exactly between takes the lower
 * value" makes the comparison inclusive on the other one. */
#include "kernel/cpu/simd.h"
#include "tensor/quant.h"

enum { DECADES = 8 }; /* the values below the first decade, which is 0 alone, and seven decades */

/* Places are right to 1e-4 of the distance between values. */
static const float CLOSE = 0x1p-10f;

/* The side y >= 0 of a map of which value `zero` is 0. Indices and codes count from there. */
typedef struct {
    float mids[256];
    float bounds[DECADES]; /* of decade d > 0, the mid point below it */
    float top;             /* the mid point below 1 */
    float scale[DECADES], shift[DECADES];
    float last[DECADES]; /* code of a decade's last value */
    int32_t zero;
    bool is_signed;
} map_side;

/* A map whose lowest decade has `first` values. */
static void map_side_init(map_side *map, const float values[256], int zero, int first, bool is_signed) {
    static const float reciprocals[DECADES] = {0, 1e6f, 1e5f, 1e4f, 1e3f, 1e2f, 1e1f, 1}; /* of a decade's upper end */
    int code = 1;
    for (int i = 0; zero + i < 255; i++)
        map->mids[i] = (values[zero + i] + values[zero + i + 1]) / 2;
    map->zero = zero;
    map->is_signed = is_signed;
    map->scale[0] = map->shift[0] = map->last[0] = map->bounds[0] = 0;
    for (int d = 1; d < DECADES; d++) {
        /* value i of n is 0.1 + 0.9 (i + 1/2) / n, times the upper end */
        int n = first << (d - 1);
        map->bounds[d] = map->mids[code - 1];
        map->scale[d] = (float)n / 0.9f * reciprocals[d];
        map->shift[d] = (float)code - (float)n / 9 - 0.5f;
        map->last[d] = (float)(code + n - 1);
        code += n;
    }
    map->top = map->mids[code - 1];
}

#if defined(__AVX512F__)
static inline tn_vec pick(const float table[DECADES], tn_mask index) {
    return _mm512_permutexvar_ps((__m512i)index, _mm512_broadcast_f32x8(_mm256_loadu_ps(table)));
}
static inline tn_vec gather(const float *table, tn_mask index) {
    return _mm512_i32gather_ps((__m512i)index, table, 4);
}
static inline tn_mask truncate_lanes(tn_vec x) {
    return (tn_mask)_mm512_cvttps_epi32(x);
}
static inline bool any_lane(tn_mask m) {
    return _mm512_movepi32_mask((__m512i)m) != 0;
}
static inline void store_codes(uint8_t *out, tn_mask codes) {
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_cvtepi32_epi8((__m512i)codes));
}
#elif defined(__AVX2__)
static inline tn_vec pick(const float table[DECADES], tn_mask index) {
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)index);
}
static inline tn_vec gather(const float *table, tn_mask index) {
    return _mm256_i32gather_ps(table, (__m256i)index, 4);
}
static inline tn_mask truncate_lanes(tn_vec x) {
    return (tn_mask)_mm256_cvttps_epi32(x);
}
static inline bool any_lane(tn_mask m) {
    return _mm256_movemask_ps((__m256)m) != 0;
}
static inline void store_codes(uint8_t *out, tn_mask codes) {
    __m256i v = (__m256i)codes;
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((__m128i *)(void *)out, _mm_packus_epi16(words, words));
}
#else
static inline tn_vec gather(const float *table, tn_mask index) {
    tn_vec value;
    for (int i = 0; i < TN_LANES; i++)
        value[i] = table[index[i]];
    return value;
}
static inline tn_vec pick(const float table[DECADES], tn_mask index) {
    return gather(table, index);
}
static inline tn_mask truncate_lanes(tn_vec x) {
    return __builtin_convertvector(x, tn_mask);
}
static inline bool any_lane(tn_mask m) {
    return (m[0] | m[1] | m[2] | m[3]) < 0;
}
static inline void store_codes(uint8_t *out, tn_mask codes) {
    for (int i = 0; i < TN_LANES; i++)
        out[i] = (uint8_t)codes[i];
}
#endif

static inline tn_vec lesser(tn_vec a, tn_vec b) {
    return -tn_vec_max(-a, -b);
}

static inline tn_vec magnitude(tn_vec x) {
    return (tn_vec)((tn_mask)x & 0x7fffffff);
}

/* The codes of the nearest values; as in tn_dynamic_nearest, those of NaN are 0. */
static inline tn_mask nearest_codes(const map_side *map, tn_vec x) {
    tn_mask negative = (tn_mask)x < 0, number = x == x, decade = {0};
    tn_vec y = lesser(tn_vec_max(map->is_signed ? magnitude(x) : x, (tn_vec){0}), tn_broadcast(1));
    if (map->is_signed)
        y = (tn_vec)((tn_mask)y - negative); /* a unit in the last place more turns "above" into "not below" */
    for (int d = 1; d < DECADES; d++)
        decade -= y > tn_broadcast(map->bounds[d]);
    tn_vec place = lesser(y * pick(map->scale, decade) + pick(map->shift, decade), pick(map->last, decade));
    tn_mask code = truncate_lanes(place + 0.5f);
    tn_vec above = place + 0.5f - __builtin_convertvector(code, tn_vec); /* half way to the code below is 0, above is 1 */
    code -= y > tn_broadcast(map->top);
    if (any_lane((above < tn_broadcast(CLOSE)) | (above > tn_broadcast(1 - CLOSE)))) {
        code = truncate_lanes(place);
        code -= y > gather(map->mids, code);
    }
    if (map->is_signed)
        code = map->zero + ((code & ~negative) - ((code + (code > map->zero)) & negative));
    return code & number;
}

/* x [TN_MOMENT_BLOCK] into codes, of which the first `count` are written; what lies behind is 0. Returns the absmax. See
 * tn_quant_unit. */
static float quantise_moments(uint8_t *codes, const map_side *map, const float *x, int64_t count) {
    uint8_t all[TN_MOMENT_BLOCK];
    tn_vec largest = {0};
    const float least = 1e-38f;
    for (int i = 0; i < TN_MOMENT_BLOCK; i += TN_LANES)
        largest = tn_vec_max(magnitude(tn_load(x + i)), largest);
    float absmax = tn_max_lanes(largest), bounded = absmax > least ? absmax : least, inverse = 1 / bounded;
    bool whole = count == TN_MOMENT_BLOCK;
    for (int i = 0; i < TN_MOMENT_BLOCK; i += TN_LANES) {
        tn_vec value = tn_load(x + i);
        store_codes(all + i, nearest_codes(map, whole ? value * inverse : value / bounded));
    }
    memcpy(codes, all, (size_t)count);
    return whole ? absmax : bounded;
}

static void dequantise_moments(float *x, const uint8_t *codes, const float values[256], float absmax, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        x[i] = values[codes[i]] * absmax;
    memset(x + count, 0, (size_t)(TN_MOMENT_BLOCK - count) * sizeof *x);
}

/* AdamW on a block; rate and decay are what stands before the quotient and before the parameter. */
static void update_block(float *param, const float *grad, float *m, float *v, const tn_adamw_step *step, float rate,
                         float decay, int64_t count) {
    const tn_adamw_step s = *step;
    const float rest1 = 1 - s.beta1, rest2 = 1 - s.beta2;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        float g = grad[i] * s.grad_scale;
        m[i] = s.beta1 * m[i] + rest1 * g;
        v[i] = s.beta2 * v[i] + rest2 * g * g;
        param[i] = param[i] * decay - rate * m[i] / (sqrtf(v[i] / s.correction2) + s.eps);
    }
}

void TN_FOR_ISA(tn_adamw8bit_, )(float *param, const float *grad, const tn_moments8 *moments, const tn_adamw_step *step,
                                 int64_t count) {
    const float decay = 1 - step->lr * step->weight_decay, rate = step->lr / step->correction1;
    map_side first, second;
    map_side_init(&first, tn_dynamic_signed, 127, 1, true);
    map_side_init(&second, tn_dynamic_unsigned, 0, 2, false);
#pragma omp parallel for schedule(static) if (tn_worth_threads(count))
    for (int64_t chunk = 0; chunk < count; chunk += TN_CHUNK) {
        int64_t end = tn_min_i64(chunk + TN_CHUNK, count);
        float m[TN_MOMENT_BLOCK], v[TN_MOMENT_BLOCK];
        for (int64_t at = chunk; at < end; at += TN_MOMENT_BLOCK) {
            int64_t block = at / TN_MOMENT_BLOCK, length = tn_min_i64(TN_MOMENT_BLOCK, end - at);
            dequantise_moments(m, moments->m + at, tn_dynamic_signed, moments->m_absmax[block], length);
            dequantise_moments(v, moments->v + at, tn_dynamic_unsigned, moments->v_absmax[block], length);
            update_block(param + at, grad + at, m, v, step, rate, decay, length);
            moments->m_absmax[block] = quantise_moments(moments->m + at, &first, m, length);
            moments->v_absmax[block] = quantise_moments(moments->v + at, &second, v, length);
        }
    }
}
