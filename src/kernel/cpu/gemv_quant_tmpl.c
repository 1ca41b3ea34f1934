/* Products of few rows with a quantised weight, compiled once per instruction set: C[m,n] = A[m,k] B[k,n] with B = W^T, W
 * [n, k] by rows of NF4, FP4, Q4_0, Q8_0 or int8 codes.
 *
 * Widening each code to f32 would cost more than reading it, so products are of 16-bit integers and exact. A row of A is
 * rounded once, by runs of RUN elements, to x ~ X s with |X| < 2^15 and s = max|x| / 32767 (of the run); codes stand for
 * integers of at most 14 bits, w ~ q d. A row of C is the sum over runs of (sum of X q) (s d), where
 *
 *   - the inner sums are of the terms of one lane, at most 8, in int32, and then rounded to f32;
 *   - 4-bit codes: a run has 4 lanes, a chunk of 4 runs all 16; bytes: a run has 16 lanes, lane j of elements 2j and 2j + 1;
 *   - each of 16 lanes adds up its f32 terms along the row, without fused operations, and the lanes are folded by halves.
 *
 * So all instruction sets give the same bits, whatever the threads and the number of rows. */
#include "kernel/cpu/simd.h"
#include "tensor/quant_ggml.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    RUN = 32,               /* elements of A of one scale */
    RUNS = 4,               /* of a chunk */
    CHUNK = RUN * RUNS,     /* elements of 64 bytes of 4-bit codes */
    HALVES = 16 / TN_LANES, /* vectors that hold them */
    WORDS = 2 * TN_LANES,   /* 16-bit integers of a vector */
    ROWS = 4,               /* of W at once */
    COLUMNS = 16,           /* of C that all rows of A take before the next */
    MOST = 1 << 15,         /* elements of A rounded at once */
    LEAST_BYTES = 1 << 13,  /* of W for each thread that is woken */
    Q4_0_BYTES = 18,        /* of a block */
    Q8_0_BYTES = 34
};

typedef int16_t words __attribute__((vector_size(WORDS * sizeof(int16_t))));

/* NF4's values times NF4_UNIT, which of all that leave sums in range rounds them best (rms 1.9e-5); FP4's are whole. */
enum { NF4_UNIT = 7854, FP4_UNIT = 8064 };
static const int16_t nf4[16] = {-7854, -5468, -4124, -3102, -2234, -1451, -715, 0,
                                625,   1264,  1933,  2654,  3461,  4419,  5678, 7854};
static const int16_t fp4[16] = {0, 42, 5376, 8064, 2688, 4032, 1344, 2016, 0, -42, -5376, -8064, -2688, -4032, -1344, -2016};

typedef enum { HIGH_FIRST, Q4_0_BLOCKS, BYTES, Q8_0_BLOCKS } code_order;

/* A weight: rows of k elements of an array from element `first` on. */
typedef struct {
    const tn_quantised *array;
    int64_t first, stride, k;
    code_order layout;
    const int16_t *values;       /* of the codes of 4-bit floats */
    float unit;                  /* what the integers are divided by, in A's scale */
    int block_bits, nested_bits; /* of 4-bit floats: block sizes are powers of two */
} weight;

/* False when the codec has no such product, or rows do not consist of whole runs and blocks. */
static bool describe(weight *w, tn_operand b, int64_t k) {
    const tn_quantised *array = b.data;
    const tn_quant_codec *codec = array->codec;
    *w = (weight){.array = array, .first = b.offset, .stride = b.col_stride, .k = k, .unit = 1};
    if (codec == &tn_codec_nf4 || codec == &tn_codec_fp4) {
        w->layout = HIGH_FIRST;
        w->block_bits = __builtin_ctzll((unsigned long long)array->block);
        w->nested_bits = array->scales ? 0 : __builtin_ctzll((unsigned long long)array->params.nested_block);
        w->values = codec == &tn_codec_nf4 ? nf4 : fp4;
        w->unit = codec == &tn_codec_nf4 ? NF4_UNIT : FP4_UNIT;
    } else if (codec == &tn_codec_q4_0) {
        w->layout = Q4_0_BLOCKS;
    } else if (codec == &tn_codec_q8_0) {
        w->layout = Q8_0_BLOCKS;
    } else if (codec == &tn_codec_int8_row) {
        w->layout = BYTES;
        w->unit = 127;
    } else {
        return false;
    }
    const int64_t unit = tn_max_i64(array->block, RUN);
    if (w->layout == BYTES && array->block != k)
        return false;
    return b.row_stride == 1 && k <= MOST && k % unit == 0 && w->first % unit == 0 && w->stride % unit == 0;
}

/* ---- a row of A ---- */

/* Place of the elements of a chunk in X: vector c of a chunk has the words' codes at bit 4 c. */
static int element_at(code_order layout, int c, int word) {
    static const int within[4] = {1, 0, 3, 2};
    if (layout == HIGH_FIRST)
        return 4 * word + within[c];
    return word / 8 * RUN + c % 2 * 16 + 2 * (word % 8) + c / 2;
}

/* Rounds a run to integers; returns s. Runs so small that 32767 / max would overflow are 0; NaN and infinities make s NaN.
 */
static float round_run(int16_t *out, const float *x) {
    const float shift = 0x1.8p23f, least = 0x1p-110f;
    uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int i = 0; i < RUN; i++) {
        uint32_t magnitude = tn_bits_of_float(x[i]) & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    float max = tn_float_of_bits(largest);
    if (!(max >= least && largest < 0x7f800000)) {
        memset(out, 0, RUN * sizeof *out);
        return max < least ? 0 : NAN;
    }
    float factor = 32767 / max;
#pragma omp simd
    for (int i = 0; i < RUN; i++) { /* the low bits of the shifted product are its nearest integer */
        float shifted = x[i] * factor + shift;
        out[i] = (int16_t)(tn_bits_of_float(shifted) - 0x4b400000u);
    }
    return max / 32767;
}

/* X of one row in the order in which codes fall out of the weight, and s / unit by runs; zeros up to a whole chunk. */
static void round_row(int16_t *out, float *scales, const float *x, const weight *w) {
    int16_t natural[CHUNK];
    for (int64_t at = 0; at < w->k; at += CHUNK, out += CHUNK, scales += RUNS) {
        memset(natural, 0, sizeof natural);
        memset(scales, 0, RUNS * sizeof *scales);
        for (int64_t run = 0; run < RUNS && at + run * RUN < w->k; run++)
            scales[run] = round_run(natural + run * RUN, x + at + run * RUN) / w->unit;
        if (w->layout >= BYTES) {
            memcpy(out, natural, sizeof natural);
            continue;
        }
        for (int c = 0; c < 4; c++)
            for (int word = 0; word < CHUNK / 4; word++)
                out[c * (CHUNK / 4) + word] = natural[element_at(w->layout, c, word)];
    }
}

/* ---- vectors ---- */

/* The values of the lowest 4 bits of each word. */
#if defined(__AVX512F__)
typedef __m512i table;
INLINE table table_of(const int16_t values[16]) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)values));
}
INLINE words look_up(words codes, table values) {
    return (words)_mm512_permutexvar_epi16((__m512i)codes, values); /* bit 4 picks one of two copies */
}
#elif defined(__AVX2__)
typedef struct {
    __m256i low, high; /* bytes of the values, twice */
} table;
INLINE table table_of(const int16_t values[16]) {
    __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)values);
    __m256i low = _mm256_and_si256(both, _mm256_set1_epi16(255)), high = _mm256_srli_epi16(both, 8);
    return (table){_mm256_permute4x64_epi64(_mm256_packus_epi16(low, low), 0x88),
                   _mm256_permute4x64_epi64(_mm256_packus_epi16(high, high), 0x88)};
}
INLINE words look_up(words codes, table values) {
    __m256i code = _mm256_and_si256((__m256i)codes, _mm256_set1_epi16(15)); /* an index with bit 7 gives 0 */
    __m256i low = _mm256_shuffle_epi8(values.low, _mm256_or_si256(code, _mm256_set1_epi16((short)0x8000)));
    __m256i high = _mm256_shuffle_epi8(values.high, _mm256_or_si256(_mm256_slli_epi16(code, 8), _mm256_set1_epi16(0x80)));
    return (words)_mm256_or_si256(low, high);
}
#else
typedef const int16_t *table;
INLINE table table_of(const int16_t values[16]) {
    return values;
}
INLINE words look_up(words codes, table values) {
    words found;
    for (int i = 0; i < WORDS; i++)
        found[i] = values[codes[i] & 15];
    return found;
}
#endif

INLINE tn_mask multiply_pairs(words a, words b) {
#if defined(__AVX512F__)
    return (tn_mask)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (tn_mask)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    tn_mask sums;
    for (int i = 0; i < TN_LANES; i++)
        sums[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return sums;
#endif
}

INLINE tn_vec to_float(tn_mask v) {
    return __builtin_convertvector(v, tn_vec);
}

INLINE words load_words(const void *x) {
    words value;
    memcpy(&value, x, sizeof value);
    return value;
}

INLINE words widen_bytes(const int8_t *x) {
#if defined(__AVX512F__)
    return (words)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)x));
#elif defined(__AVX2__)
    return (words)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)x));
#else
    words value;
    for (int i = 0; i < WORDS; i++)
        value[i] = x[i];
    return value;
#endif
}

typedef float quad __attribute__((vector_size(RUNS * sizeof(float))));

/* Vector `half` of the 16 lanes, each with its run's element. */
INLINE tn_vec spread(quad runs, int half) {
#if defined(__AVX512F__)
    (void)half;
    const __m512i run = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return (tn_vec)_mm512_permutexvar_ps(run, _mm512_castps128_ps512((__m128)runs));
#elif defined(__AVX2__)
    const __m256i run = half ? _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3) : _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    return (tn_vec)_mm256_permutevar8x32_ps(_mm256_castps128_ps256((__m128)runs), run);
#else
    return (tn_vec){0} + runs[half];
#endif
}

INLINE float fold(const tn_vec acc[HALVES]) {
    tn_vec sums[HALVES];
    memcpy(sums, acc, sizeof sums);
#pragma GCC unroll 4
    for (int step = HALVES / 2; step > 0; step /= 2)
#pragma GCC unroll 4
        for (int i = 0; i < step; i++)
            sums[i] += sums[i + step];
    return tn_sum_lanes(sums[0]);
}

/* ---- a chunk of W ---- */

INLINE float half_at(const uint8_t *at) {
#if defined(__F16C__)
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return _cvtsh_ss(bits);
#else
    return tn_ggml_half(at);
#endif
}

/* 4-bit codes of a chunk of a few runs; what is beyond them is 0. */
INLINE void load_high_first(words codes[HALVES], const weight *w, int64_t at, int64_t runs) {
    const uint8_t *from = w->array->codes + at / 2;
#if defined(__AVX512F__)
    codes[0] = (words)_mm512_maskz_loadu_epi64((__mmask8)((1 << 2 * runs) - 1), from);
#else
    if (runs == RUNS) {
        memcpy(codes, from, CHUNK / 2);
    } else {
        uint8_t some[CHUNK / 2] = {0};
        for (int64_t i = 0; i < runs; i++)
            memcpy(some + i * RUN / 2, from + i * RUN / 2, RUN / 2);
        memcpy(codes, some, sizeof some);
    }
#endif
}

/* Their scales by lanes. Broadcasts from memory leave the shuffling units to the codes. */
INLINE void lanes_of(tn_vec lanes[HALVES], const weight *w, const float *d, int64_t runs) {
    if (w->block_bits >= 7 || (w->block_bits == 6 && runs < RUNS)) { /* beyond the runs sums are 0 */
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++)
            lanes[half] = (tn_vec){0} + d[0];
        return;
    }
    if (w->block_bits == 6) {
#if defined(__AVX512F__)
        lanes[0] = (tn_vec)_mm512_mask_broadcastss_ps(_mm512_set1_ps(d[0]), 0xff00, _mm_load_ss(d + 1));
#else
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++)
            lanes[half] = (tn_vec){0} + d[half / (HALVES / 2)];
#endif
        return;
    }
    const quad scales = {d[0], runs > 1 ? d[1] : 0, runs > 2 ? d[2] : 0, runs > 3 ? d[3] : 0};
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++)
        lanes[half] = spread(scales, half);
}

/* The nine words of a block of Q4_0 are its scale and eight words of codes. */
INLINE void load_q4_0(words codes[HALVES], quad *scales, const weight *w, int64_t at, int64_t runs) {
    const uint8_t *from = w->array->codes + at / RUN * Q4_0_BYTES;
#if defined(__AVX512F__)
    const int present = (int)runs * Q4_0_BYTES / 2, behind = 4;
    const __mmask32 first = (__mmask32)((UINT64_C(1) << tn_min_i64(present, 32)) - 1);
    const __mmask32 last = (__mmask32)((UINT64_C(1) << (present - behind)) - 1);
    __m512i begin = _mm512_maskz_loadu_epi16(first, from);
    __m512i end = present == 36 ? _mm512_loadu_si512(from + 2 * behind) : _mm512_maskz_loadu_epi16(last, from + 2 * behind);
    /* word i of the second vector, which is word i + 4 of all, has number 32 + i */
    static const _Alignas(64) uint16_t of_codes[32] = {1,  2,  3,  4,  5,  6,  7,  8,  10, 11, 12, 13, 14, 15, 16, 17,
                                                       19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31, 60, 61, 62, 63};
    static const _Alignas(64) uint16_t of_scales[32] = {0, 9, 18, 27};
    codes[0] = (words)_mm512_permutex2var_epi16(begin, _mm512_load_si512(of_codes), end);
    *scales = (quad)_mm_cvtph_ps(_mm512_castsi512_si128(_mm512_permutexvar_epi16(_mm512_load_si512(of_scales), begin)));
#else
    uint8_t some[CHUNK / 2] = {0};
    quad d = {0};
    for (int64_t i = 0; i < runs; i++) {
        memcpy(some + i * RUN / 2, from + i * Q4_0_BYTES + 2, RUN / 2);
        d[i] = half_at(from + i * Q4_0_BYTES);
    }
    memcpy(codes, some, sizeof some);
    *scales = d;
#endif
}

/* A chunk of x, which rows of W share: its integers, scales by lanes, and for Q4_0, whose values are q - 8, 8 times the sums
 * of the integers by lanes. */
typedef struct {
    const int16_t *x;
    tn_vec lanes[HALVES];
    tn_mask eights[HALVES];
} x_chunk;

INLINE void look_at_chunk(x_chunk *out, const int16_t *x, const float *x_scales, const code_order layout) {
    quad scales;
    memcpy(&scales, x_scales, sizeof scales);
    out->x = x;
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++) {
        out->lanes[half] = spread(scales, half);
        out->eights[half] = (tn_mask){0};
#pragma GCC unroll 4
        for (int c = 0; c < 4 && layout == Q4_0_BLOCKS; c++)
            out->eights[half] += multiply_pairs((words){0} + 8, load_words(x + c * (CHUNK / 4) + half * WORDS));
    }
}

/* Adds a chunk of some runs of one row of W from element `at` on; d: its scales when they are not inside the codes. */
INLINE void add_chunk(tn_vec acc[HALVES], const weight *w, const code_order layout, table values, int64_t at, const float *d,
                      const x_chunk *x, int64_t runs) {
    words codes[HALVES];
    tn_vec lanes[HALVES];
    if (layout == HIGH_FIRST) {
        load_high_first(codes, w, at, runs);
        lanes_of(lanes, w, d, runs);
    } else {
        quad scales;
        load_q4_0(codes, &scales, w, at, runs);
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++)
            lanes[half] = spread(scales, half);
    }
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++) {
        tn_mask sums = layout == Q4_0_BLOCKS ? -x->eights[half] : (tn_mask){0};
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            const words code = codes[half] >> 4 * c, value = layout == Q4_0_BLOCKS ? code & 15 : look_up(code, values);
            sums += multiply_pairs(value, load_words(x->x + c * (CHUNK / 4) + half * WORDS));
        }
        acc[half] += to_float(sums) * (lanes[half] * x->lanes[half]);
    }
}

/* A run of bytes. */
INLINE void add_run(tn_vec acc[HALVES], const int8_t *codes, const int16_t *x, float scale) {
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++)
        acc[half] += to_float(multiply_pairs(widen_bytes(codes + half * WORDS), load_words(x + half * WORDS))) * scale;
}

/* ---- rows of W ---- */

typedef struct {
    const int16_t *x;
    const float *x_scales;
} rounded;

/* Of one nested block. */
INLINE void nested_scales(float *restrict out, const uint8_t *restrict codes, float scale, float offset, int64_t count) {
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + TN_LANES <= count; i += TN_LANES) {
        __m512i at = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(codes + i)));
        __m512 value = _mm512_i32gather_ps(at, tn_dynamic_signed, sizeof(float));
        _mm512_storeu_ps(out + i, _mm512_add_ps(_mm512_mul_ps(value, _mm512_set1_ps(scale)), _mm512_set1_ps(offset)));
    }
#endif
    for (; i < count; i++)
        out[i] = tn_dynamic_signed[codes[i]] * scale + offset;
}

/* The scales of the row that begins at element `at`, in `buffer` when they are nested. */
static const float *scales_of(const weight *w, int64_t at, float *buffer) {
    const tn_quantised *array = w->array;
    const int64_t first = at >> w->block_bits, count = w->k >> w->block_bits;
    if (array->scales)
        return array->scales + first;
    for (int64_t i = 0, end; i < count; i = end) {
        const int64_t nested = (first + i) >> w->nested_bits;
        const float scale = array->nested_scales[nested], offset = array->nested_offset;
        end = tn_min_i64(((nested + 1) << w->nested_bits) - first, count);
        nested_scales(buffer + i, array->scale_codes + first + i, scale, offset, end - i);
    }
    return buffer;
}

INLINE void rows_of_nibbles(float *out, const weight *w, const code_order layout, const rounded *a, int64_t at,
                            int64_t apart, const int rows) {
    float buffers[ROWS][MOST / RUN];
    const float *d[ROWS];
    const table values = table_of(layout == HIGH_FIRST ? w->values : nf4); /* Q4_0 has no use for it */
    const int64_t k = w->k;
    tn_vec acc[ROWS][HALVES];
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++) {
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++)
            acc[j][half] = (tn_vec){0};
        d[j] = layout == HIGH_FIRST ? scales_of(w, at + j * apart, buffers[j]) : buffers[j];
    }
    for (int64_t p = 0; p < k; p += CHUNK) {
        const int64_t runs = tn_min_i64((k - p) / RUN, RUNS), of_block = layout == HIGH_FIRST ? p >> w->block_bits : 0;
        x_chunk x;
        look_at_chunk(&x, a->x + p, a->x_scales + p / RUN, layout);
        if (runs == RUNS) {
#pragma GCC unroll 4
            for (int j = 0; j < rows; j++)
                add_chunk(acc[j], w, layout, values, at + j * apart + p, d[j] + of_block, &x, RUNS);
        } else {
#pragma GCC unroll 4
            for (int j = 0; j < rows; j++)
                add_chunk(acc[j], w, layout, values, at + j * apart + p, d[j] + of_block, &x, runs);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++)
        out[j] = fold(acc[j]);
}

INLINE void rows_of_bytes(float *out, const weight *w, const code_order layout, const rounded *a, int64_t at, int64_t apart,
                          const int rows) {
    tn_vec acc[ROWS][HALVES];
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++)
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++)
            acc[j][half] = (tn_vec){0};
    float scales[ROWS];
    for (int j = 0; j < rows && layout == BYTES; j++)
        scales[j] = w->array->scales[(at + j * apart) / w->k];
    for (int64_t p = 0; p < w->k; p += RUN) {
        const float x_scale = a->x_scales[p / RUN];
#pragma GCC unroll 4
        for (int j = 0; j < rows; j++) {
            const int64_t element = at + j * apart + p;
            const uint8_t *codes = w->array->codes + (layout == BYTES ? element : element / RUN * Q8_0_BYTES);
            float scale = layout == BYTES ? scales[j] : half_at(codes);
            add_run(acc[j], (const int8_t *)codes + (layout == BYTES ? 0 : 2), a->x + p, x_scale * scale);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++)
        out[j] = fold(acc[j]);
}

/* out[j] of ROWS or one row, whose elements begin `apart` from each other. */
static void rows_of(float *out, const weight *w, const rounded *a, int64_t at, int64_t apart, bool several) {
    switch (w->layout) {
    case HIGH_FIRST:
        several ? rows_of_nibbles(out, w, HIGH_FIRST, a, at, apart, ROWS)
                : rows_of_nibbles(out, w, HIGH_FIRST, a, at, apart, 1);
        break;
    case Q4_0_BLOCKS:
        several ? rows_of_nibbles(out, w, Q4_0_BLOCKS, a, at, apart, ROWS)
                : rows_of_nibbles(out, w, Q4_0_BLOCKS, a, at, apart, 1);
        break;
    case BYTES:
        several ? rows_of_bytes(out, w, BYTES, a, at, apart, ROWS) : rows_of_bytes(out, w, BYTES, a, at, apart, 1);
        break;
    case Q8_0_BLOCKS:
        several ? rows_of_bytes(out, w, Q8_0_BLOCKS, a, at, apart, ROWS)
                : rows_of_bytes(out, w, Q8_0_BLOCKS, a, at, apart, 1);
        break;
    }
}

/* Columns [from, to) of one row of C: rows of W from as many places as are taken at once, so that each is a long run. */
static void columns_of_row(float *c, const weight *w, const rounded *a, int64_t from, int64_t to) {
    const int64_t apart = (to - from) / ROWS;
    for (int64_t j = from; j < from + apart; j++) {
        float sums[ROWS] = {0};
        rows_of(sums, w, a, w->first + j * w->stride, apart * w->stride, true);
        for (int i = 0; i < ROWS; i++)
            c[j + i * apart] = sums[i];
    }
    for (int64_t j = from + apart * ROWS; j < to; j++)
        rows_of(&c[j], w, a, w->first + j * w->stride, 0, false);
}

static void columns(const tn_shared_product *p, const weight *w, const rounded *rows, int64_t m, int64_t from, int64_t to) {
    const int64_t piece = m == 1 ? to - from : COLUMNS;
    for (int64_t j = from; j < to; j += piece)
        for (int64_t i = 0; i < m; i++)
            columns_of_row(p->c + i * p->ldc, w, &rows[i], j, tn_min_i64(j + piece, to));
}

/* The share of thread `index` in some rows of A, which each thread rounds for itself: that takes less time than waiting. */
static void run_share(const tn_shared_product *products, const weight *weights, int64_t count, const float *x,
                      int64_t x_stride, int64_t m, int64_t index, int64_t team) {
    _Alignas(64) int16_t integers[MOST];
    float scales[MOST / RUN];
    rounded rows[TN_QUANT_FEW_ROWS];
    const int64_t width = (weights->k + CHUNK - 1) / CHUNK * CHUNK;
    for (int64_t p = 0; p < count; p++) {
        const weight *w = &weights[p];
        if (p == 0 || w->layout != w[-1].layout || w->unit != w[-1].unit) {
            for (int64_t i = 0; i < m; i++) {
                rows[i] = (rounded){integers + i * width, scales + i * width / RUN};
                round_row(integers + i * width, scales + i * width / RUN, x + i * x_stride, w);
            }
        }
        columns(&products[p], w, rows, m, products[p].n * index / team, products[p].n * (index + 1) / team);
    }
}

bool TN_FOR_ISA(tn_gemv_quantised_, )(const tn_shared_product *products, int64_t count, tn_operand a, int64_t m, int64_t k) {
    weight weights[TN_QUANT_TOGETHER];
    double bytes = 0;
    if (m < 1 || m > TN_QUANT_FEW_ROWS || count > TN_QUANT_TOGETHER || a.dtype != TN_DTYPE_F32 || a.col_stride != 1)
        return false;
    for (int64_t i = 0; i < count; i++) {
        if (products[i].b.dtype != TN_DTYPE_QUANTISED || !describe(&weights[i], products[i].b, k))
            return false;
        bytes += (double)products[i].n * (double)k / 2;
    }
    const int64_t most = MOST / ((k + CHUNK - 1) / CHUNK * CHUNK);
#ifdef _OPENMP
    const bool parallel = bytes >= 2 * LEAST_BYTES && !omp_in_parallel();
#endif
#pragma omp parallel if (parallel)
    {
        int64_t team = 1, index = 0;
#ifdef _OPENMP
        team = omp_get_num_threads();
        index = omp_get_thread_num();
#endif
        for (int64_t i = 0; i < m; i += most) {
            tn_shared_product some[TN_QUANT_TOGETHER];
            for (int64_t p = 0; p < count; p++) {
                some[p] = products[p];
                some[p].c += i * products[p].ldc;
            }
            run_share(some, weights, count, (const float *)a.data + i * a.row_stride, a.row_stride, tn_min_i64(most, m - i),
                      index, team);
        }
    }
    return true;
}
