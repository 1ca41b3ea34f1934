/* Products of few rows with a quantised weight, compiled once per instruction set: C[m,n] = A[m,k] B[k,n] with B = W^T, W
 * [n, k] by rows of NF4, FP4, Q4_0, Q8_0 or int8 codes.
 *
 * Widening each code to f32 would cost more than reading it, so products are of integers and exact. A row of A is rounded
 * once, by runs of 32 elements (64 for 4-bit floats of blocks of 64 and more), to x ~ X s with |X| <= LARGEST and s =
 * max|x| / LARGEST (of the run); codes stand for integers, w ~ q d. A row of C is the sum over runs of
 * (sum of X q) (s d), where
 *
 *   - the inner sums are of the terms of one lane, at most 8, in int32, and then rounded to f32;
 *   - 4-bit codes: 16 lanes share a chunk of 128 elements, 4 bytes each; bytes: a run has 16 lanes of 2 elements;
 *   - each of 16 lanes adds up its f32 terms along the row by tn_muladd, (sum s) d of 4-bit codes and sum (s d) of bytes,
 *     and the lanes are folded by halves.
 *
 * So all instruction sets with fused operations give the same bits, whatever the threads and the number of rows. */
#include "kernel/cpu/simd.h"
#include "tensor/quant_ggml.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    RUN = 32, /* elements of A of one scale; of 4-bit floats with blocks of at least WIDE_RUN, that many */
    WIDE_RUN = 64,
    RUNS = 4,           /* of RUN elements in a chunk */
    CHUNK = RUN * RUNS, /* elements of 64 bytes of 4-bit codes */
    LANES = 16,
    HALVES = LANES / TN_LANES,      /* vectors that hold them */
    SUMS = HALVES > 1 ? HALVES : 2, /* vectors that add them up: see add_floats */
    WORDS = 2 * TN_LANES,           /* 16-bit integers of a vector */
    ROWS = 4,                       /* of W at once */
    COLUMNS = 16,                   /* of C that all rows of A take before the next */
    LARGEST = 127 << 8,             /* of A's integers, which are two signed bytes for Q4_0 */
    MOST = 1 << 15,                 /* elements of A rounded at once */
    LEAST_BYTES = 1 << 13,          /* of W for each thread that is woken */
    Q4_0_BYTES = 18,                /* of a block */
    Q8_0_BYTES = 34,
    LINE = 64,
    AHEAD = 2048 /* bytes from what is read to what is asked for */
};

typedef int16_t words __attribute__((vector_size(WORDS * sizeof(int16_t))));

/* NF4's values times NF4_UNIT, which of all that leave sums in range rounds them best (rms 1.9e-5); FP4's are whole. */
enum { NF4_UNIT = 7854, FP4_UNIT = 8064 };
static const int16_t nf4[16] = {-7854, -5468, -4124, -3102, -2234, -1451, -715, 0,
                                625,   1264,  1933,  2654,  3461,  4419,  5678, 7854};
static const int16_t fp4[16] = {0, 42, 5376, 8064, 2688, 4032, 1344, 2016, 0, -42, -5376, -8064, -2688, -4032, -1344, -2016};

typedef enum { HIGH_FIRST, Q4_0_BLOCKS, BYTES, Q8_0_BLOCKS } code_order;

/* What loops over a weight of 4-bit codes are compiled for. */
typedef struct {
    code_order layout;
    int run;          /* RUN or WIDE_RUN */
    bool long_blocks; /* of 4-bit floats: longer than a run */
    bool nested;
} form;

/* A weight: rows of k elements of an array from element `first` on. */
typedef struct {
    const tn_quantised *array;
    int64_t first, stride, k;
    code_order layout;
    int run;
    const int16_t *values;       /* of the codes of 4-bit floats */
    float unit;                  /* what the integers are divided by, in A's scale */
    int block_bits, nested_bits; /* of 4-bit floats: block sizes are powers of two */
} weight;

/* False when the codec has no such product, or rows do not consist of whole runs and blocks. */
static bool describe(weight *w, tn_operand b, int64_t k) {
    const tn_quantised *array = b.data;
    const tn_quant_codec *codec = array->codec;
    *w = (weight){.array = array, .first = b.offset, .stride = b.col_stride, .k = k, .run = RUN, .unit = 1};
    if (codec == &tn_codec_nf4 || codec == &tn_codec_fp4) {
        w->layout = HIGH_FIRST;
        w->run = array->block < WIDE_RUN ? RUN : WIDE_RUN;
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

/* in this order */
#include "kernel/cpu/gemv_quant_words.h"

#include "kernel/cpu/gemv_quant_round.h"

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

/* 4-bit codes of a chunk as words, and the same without their lowest 8 bits: loading from the next byte on costs less than
 * shifting. Where the row ends in the chunk, of `runs` of RUN elements, nothing is read beyond it, and the rest is 0. */
INLINE void load_high_first(words codes[2][HALVES], const uint8_t *from, const bool inner, int64_t runs) {
    foresee(from);
    if (inner) {
        load_codes(codes[0], from);
        load_codes(codes[1], from + 1);
        return;
    }
#if defined(__AVX512F__)
    codes[0][0] = (words)_mm512_maskz_loadu_epi64((__mmask8)((1 << 2 * runs) - 1), from);
#else
    uint8_t some[CHUNK / 2] = {0};
    for (int64_t i = 0; i < runs; i++)
        memcpy(some + i * RUN / 2, from + i * RUN / 2, RUN / 2);
    load_codes(codes[0], some);
#endif
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++)
        codes[1][half] = shift_right(codes[0][half], 8);
}

/* The nine words of a block of Q4_0 are its scale and eight words of codes. Scales come out by lanes. */
INLINE void load_q4_0(words codes[HALVES], tn_vec scales[HALVES], const uint8_t *from, int64_t runs) {
    foresee(from); /* a chunk is a line and an eighth */
    foresee(from + RUNS * Q4_0_BYTES - LINE);
#if defined(__AVX512F__)
    const int present = (int)runs * Q4_0_BYTES / 2, behind = 4;
    const __mmask32 first = (__mmask32)((UINT64_C(1) << tn_min_i64(present, 32)) - 1);
    const __mmask32 last = (__mmask32)((UINT64_C(1) << (present - behind)) - 1);
    __m512i begin = present == 36 ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16(first, from);
    __m512i end = present == 36 ? _mm512_loadu_si512(from + 2 * behind) : _mm512_maskz_loadu_epi16(last, from + 2 * behind);
    /* word i of the second vector, which is word i + 4 of all, has number 32 + i */
    static const _Alignas(64) uint16_t of_codes[32] = {1,  2,  3,  4,  5,  6,  7,  8,  10, 11, 12, 13, 14, 15, 16, 17,
                                                       19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31, 60, 61, 62, 63};
    static const _Alignas(64) uint16_t of_lanes[32] = {0, 0, 0, 0, 9, 9, 9, 9, 18, 18, 18, 18, 27, 27, 27, 27};
    codes[0] = (words)_mm512_permutex2var_epi16(begin, _mm512_load_si512(of_codes), end);
    scales[0] =
        (tn_vec)_mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutexvar_epi16(_mm512_load_si512(of_lanes), begin)));
#else
    uint8_t some[CHUNK / 2] = {0};
    quad four = {0};
    for (int64_t i = 0; i < runs; i++) {
        memcpy(some + i * RUN / 2, from + i * Q4_0_BYTES + 2, RUN / 2);
        four[i] = half_at(from + i * Q4_0_BYTES);
    }
    memcpy(codes, some, sizeof some);
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++)
        scales[half] = spread(four, half);
#endif
}

/* In all lanes; broadcast before it is computed, which is done by loading. */
INLINE tn_vec scale_of(const weight *w, int64_t block, const bool nested) {
    const tn_quantised *array = w->array;
    if (!nested)
        return tn_broadcast(array->scales[block]);
    return tn_vec_muladd(tn_broadcast(tn_dynamic_signed[array->scale_codes[block]]),
                         tn_broadcast(array->nested_scales[block >> w->nested_bits]), tn_broadcast(array->nested_offset));
}

/* Rows of W and their sums; codes point to the first chunk. */
typedef struct {
    const uint8_t *codes[ROWS];
    int64_t block[ROWS]; /* of 4-bit floats */
    tn_vec acc[ROWS][SUMS];
} some_rows;

/* Adds terms, sums of lanes times A's scales, times the scales of a chunk of `runs` runs of 4-bit floats at `block`. Of wide
 * runs each has half of the lanes: where these are one vector, two add up all of them with a scale each, and half of each
 * counts. */
INLINE void add_floats(tn_vec acc[SUMS], const tn_vec terms[HALVES], const weight *w, const form f, int64_t block,
                       int64_t runs) {
    if (f.run == WIDE_RUN) {
        const tn_vec first = scale_of(w, block, f.nested);
        const tn_vec second = f.long_blocks || runs < 2 ? first : scale_of(w, block + 1, f.nested);
#pragma GCC unroll 4
        for (int i = 0; i < SUMS; i++)
            acc[i] = tn_vec_muladd(terms[i % HALVES], i < SUMS / 2 ? first : second, acc[i]);
        return;
    }
    quad scales = {0};
    for (int64_t i = 0; i < runs; i++)
        scales[i] = scale_of(w, block + i, f.nested)[0];
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++)
        acc[half] = tn_vec_muladd(terms[half], spread(scales, half), acc[half]);
}

/* Adds the chunk at element p of each row; `runs` of RUN elements are there, and in an inner chunk all and a byte behind.
 * Step by step for all rows, so that none waits for the step before. */
INLINE void add_chunk(some_rows *of, const weight *w, const form f, table values, const rounded *a, int64_t p,
                      const bool inner, int64_t runs, const int rows) {
    tn_mask sums[ROWS][HALVES];
    tn_vec scales[ROWS][HALVES];
    if (f.layout == HIGH_FIRST) {
        words codes[ROWS][2][HALVES];
#pragma GCC unroll 4
        for (int j = 0; j < rows; j++) {
            load_high_first(codes[j], of->codes[j] + p / 2, inner, runs);
#pragma GCC unroll 4
            for (int half = 0; half < HALVES; half++)
                sums[j][half] = (tn_mask){0};
        }
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
#pragma GCC unroll 4
            for (int half = 0; half < HALVES; half++) {
                const words of_x = in_register(load_words(a->x + p + c * (CHUNK / 4) + half * WORDS));
#pragma GCC unroll 4
                for (int j = 0; j < rows; j++) {
                    const words code = shift_right(codes[j][c / 2][half], c % 2 * 4);
                    sums[j][half] = add_pairs(sums[j][half], look_up(code, values), of_x);
                }
            }
        }
    } else {
        words codes[ROWS][HALVES];
#pragma GCC unroll 4
        for (int j = 0; j < rows; j++)
            load_q4_0(codes[j], scales[j], of->codes[j] + p / RUN * Q4_0_BYTES, runs);
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++) {
            words planes[4];
            tn_mask begin;
            memcpy(&begin, a->begin + p / CHUNK * LANES + half * TN_LANES, sizeof begin);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                planes[i] = in_register(load_words(a->x + p + i * (CHUNK / 4) + half * WORDS));
#pragma GCC unroll 4
            for (int j = 0; j < rows; j++)
                sums[j][half] = add_halves(begin, codes[j][half], planes);
        }
    }
    tn_vec of_x[HALVES];
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++)
        of_x[half] = tn_load(a->scales + p / CHUNK * LANES + half * TN_LANES);
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++) {
        tn_vec terms[HALVES];
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++)
            terms[half] = to_float(sums[j][half]) * of_x[half];
        if (f.layout == HIGH_FIRST) {
            add_floats(of->acc[j], terms, w, f, of->block[j] + (p >> w->block_bits), runs * RUN / f.run);
        } else {
#pragma GCC unroll 4
            for (int half = 0; half < HALVES; half++)
                of->acc[j][half] = tn_vec_muladd(terms[half], scales[j][half], of->acc[j][half]);
        }
    }
}

/* A run of bytes. */
INLINE void add_run(tn_vec acc[HALVES], const int8_t *codes, const int16_t *x, float scale) {
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++) {
        const tn_mask sums = multiply_pairs(widen_bytes(codes + half * WORDS), load_words(x + half * WORDS));
        acc[half] = tn_vec_muladd(to_float(sums), tn_broadcast(scale), acc[half]);
    }
}

/* ---- rows of W ---- */

INLINE void rows_of_nibbles(float *out, const weight *w, const form f, const rounded *a, int64_t at, int64_t apart,
                            const int rows) {
    const table values = table_of(f.layout == HIGH_FIRST ? w->values : nf4); /* Q4_0 has no use for it */
    some_rows of;
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++) {
        const int64_t first = at + j * apart;
        of.codes[j] = w->array->codes + (f.layout == HIGH_FIRST ? first / 2 : first / RUN * Q4_0_BYTES);
        of.block[j] = first >> w->block_bits;
#pragma GCC unroll 4
        for (int i = 0; i < SUMS; i++)
            of.acc[j][i] = (tn_vec){0};
    }
    int64_t p = 0;
    for (; p + CHUNK < w->k; p += CHUNK)
        add_chunk(&of, w, f, values, a, p, true, RUNS, rows);
    add_chunk(&of, w, f, values, a, p, false, (w->k - p) / RUN, rows);
    fold(out, of.acc, rows, f.run == WIDE_RUN);
}

INLINE void rows_of_bytes(float *out, const weight *w, const code_order layout, const rounded *a, int64_t at, int64_t apart,
                          const int rows) {
    tn_vec acc[ROWS][SUMS];
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++)
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++)
            acc[j][half] = (tn_vec){0};
    float scales[ROWS];
    for (int j = 0; j < rows && layout == BYTES; j++)
        scales[j] = w->array->scales[(at + j * apart) / w->k];
    for (int64_t p = 0; p < w->k; p += RUN) {
        const float x_scale = a->scales[p / RUN];
#pragma GCC unroll 4
        for (int j = 0; j < rows; j++) {
            const int64_t element = at + j * apart + p;
            const uint8_t *codes = w->array->codes + (layout == BYTES ? element : element / RUN * Q8_0_BYTES);
            float scale = layout == BYTES ? scales[j] : half_at(codes);
            foresee(codes);
            add_run(acc[j], (const int8_t *)codes + (layout == BYTES ? 0 : 2), a->x + p, x_scale * scale);
        }
    }
    fold(out, acc, rows, false);
}

INLINE void rows_as(float *out, const weight *w, const form f, const rounded *a, int64_t at, int64_t apart, bool several) {
    if (f.layout <= Q4_0_BLOCKS)
        several ? rows_of_nibbles(out, w, f, a, at, apart, ROWS) : rows_of_nibbles(out, w, f, a, at, apart, 1);
    else
        several ? rows_of_bytes(out, w, f.layout, a, at, apart, ROWS) : rows_of_bytes(out, w, f.layout, a, at, apart, 1);
}

/* out[j] of ROWS or one row, whose elements begin `apart` from each other. */
static void rows_of(float *out, const weight *w, const rounded *a, int64_t at, int64_t apart, bool several) {
#define AS(...) rows_as(out, w, (form){__VA_ARGS__}, a, at, apart, several)
#define FLOATS(nested)                                                                                                      \
    (w->run == RUN           ? AS(HIGH_FIRST, RUN, false, nested)                                                           \
     : w->block_bits == WIDE ? AS(HIGH_FIRST, WIDE_RUN, false, nested)                                                      \
                             : AS(HIGH_FIRST, WIDE_RUN, true, nested))
    enum { WIDE = 6 }; /* bits of WIDE_RUN */
    switch (w->layout) {
    case HIGH_FIRST: w->array->scales ? FLOATS(false) : FLOATS(true); break;
    case Q4_0_BLOCKS: AS(Q4_0_BLOCKS, RUN, false, false); break;
    case BYTES: AS(BYTES, RUN, false, false); break;
    case Q8_0_BLOCKS: AS(Q8_0_BLOCKS, RUN, false, false); break;
    }
#undef FLOATS
#undef AS
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
    _Alignas(64) float scales[MOST / CHUNK * LANES];
    _Alignas(64) int32_t begin[MOST / CHUNK * LANES];
    rounded rows[TN_QUANT_FEW_ROWS];
    const int64_t width = tn_quant_ceil(weights->k, CHUNK) * CHUNK, lanes = width / CHUNK * LANES;
    for (int64_t p = 0; p < count; p++) {
        const weight *w = &weights[p];
        if (p == 0 || w->layout != w[-1].layout || w->run != w[-1].run || w->unit != w[-1].unit) {
            for (int64_t i = 0; i < m; i++) {
                rows[i] = (rounded){integers + i * width, scales + i * lanes, begin + i * lanes};
                round_row(&rows[i], x + i * x_stride, w);
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
    const int64_t most = MOST / (tn_quant_ceil(k, CHUNK) * CHUNK);
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
