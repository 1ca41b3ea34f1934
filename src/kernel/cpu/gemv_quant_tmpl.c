/* Products of few rows with a quantised weight, compiled once per instruction set: C[m,n] = A[m,k] B[k,n] with B = W^T, W
 * [n, k] by rows of NF4, FP4, Q4_0, Q8_0 or int8 codes.
 *
 * Widening each code to f32 would cost more than reading it, so products are of 16-bit integers and exact. A row of A is
 * rounded once, by runs of RUN elements, to x ~ X s with |X| < 2^15 and s = max|x| / 32767 (of the run); codes stand for
 * integers of at most 14 bits, w ~ q d. A row of C is the sum over runs of (sum of X q) (s d), where
 *
 *   - the inner sums are of the terms of one lane, at most 8, in int32, and then rounded to f32;
 *   - 4-bit codes: a run has 4 lanes, a chunk of 4 runs all 16; bytes: a run has 16 lanes, lane j of elements 2j and 2j + 1;
 *   - each of 16 lanes adds up its f32 terms along the row by tn_muladd, and the lanes are folded by halves.
 *
 * So all instruction sets with fused operations give the same bits, whatever the threads and the number of rows. */
#include "kernel/cpu/simd.h"
#include "tensor/quant_ggml.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    RUN = 32,           /* elements of A of one scale */
    RUNS = 4,           /* of a chunk */
    CHUNK = RUN * RUNS, /* elements of 64 bytes of 4-bit codes */
    LANES = 16,
    HALVES = LANES / TN_LANES, /* vectors that hold them */
    WORDS = 2 * TN_LANES,      /* 16-bit integers of a vector */
    ROWS = 4,                  /* of W at once */
    COLUMNS = 16,              /* of C that all rows of A take before the next */
    MOST = 1 << 15,            /* elements of A rounded at once */
    LEAST_BYTES = 1 << 13,     /* of W for each thread that is woken */
    Q4_0_BYTES = 18,           /* of a block */
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

/* What loops over a weight are compiled for. */
typedef struct {
    code_order layout;
    int block; /* elements of a scale of 4-bit floats: RUN, CHUNK / 2 or CHUNK, which stands for all above */
    bool nested;
} form;

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

/* Of whole chunks; zeros beyond the row. */
typedef struct {
    int16_t *x;     /* in the order in which codes fall out of the weight */
    float *scales;  /* by runs: s over the weight's unit */
    int32_t *begin; /* [LANES] for each chunk, what sums begin at: for Q4_0, whose values are q - 8, -8 times those of x */
} rounded;

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

/* Puts a chunk in the order in which codes fall out of the weight: vector c has the words' codes at bit 4 c. */
INLINE void sort_chunk(int16_t *restrict out, const int16_t *restrict natural, const code_order layout) {
    enum { VECTOR = CHUNK / 4, WORDS_OF_RUN = VECTOR / RUNS };
    static const int of_nf4[4] = {1, 0, 3, 2}; /* the first of two elements has the high half of a byte */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        if (layout == HIGH_FIRST)
            for (int word = 0; word < VECTOR; word++)
                out[c * VECTOR + word] = natural[4 * word + of_nf4[c]];
        else
            for (int run = 0; run < RUNS; run++)
                for (int word = 0; word < WORDS_OF_RUN; word++)
                    out[c * VECTOR + run * WORDS_OF_RUN + word] = natural[run * RUN + c % 2 * (RUN / 2) + 2 * word + c / 2];
    }
}

/* Sums of a sorted chunk by lanes, times -8. */
INLINE void begin_chunk(int32_t *restrict begin, const int16_t *restrict x) {
    for (int lane = 0; lane < LANES; lane++) {
        int32_t sum = 0;
        for (int c = 0; c < 4; c++)
            sum += x[c * (CHUNK / 4) + 2 * lane] + x[c * (CHUNK / 4) + 2 * lane + 1];
        begin[lane] = -8 * sum;
    }
}

static void round_row(rounded *out, const float *x, const weight *w) {
    int16_t natural[CHUNK];
    for (int64_t at = 0; at < w->k; at += CHUNK) {
        int16_t *to = w->layout >= BYTES ? out->x + at : natural;
        for (int64_t run = 0; run < RUNS; run++) {
            float *scale = out->scales + at / RUN + run;
            if (at + run * RUN < w->k) {
                *scale = round_run(to + run * RUN, x + at + run * RUN) / w->unit;
            } else {
                memset(to + run * RUN, 0, RUN * sizeof *to);
                *scale = 0;
            }
        }
        if (w->layout == HIGH_FIRST) {
            sort_chunk(out->x + at, natural, HIGH_FIRST);
        } else if (w->layout == Q4_0_BLOCKS) {
            sort_chunk(out->x + at, natural, Q4_0_BLOCKS);
            begin_chunk(out->begin + at / CHUNK * LANES, out->x + at);
        }
    }
}

#include "kernel/cpu/gemv_quant_words.h"

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
INLINE void load_high_first(words codes[HALVES], const uint8_t *from, int64_t runs) {
    foresee(from);
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

INLINE float scale_of(const weight *w, int64_t block, const bool nested) {
    const tn_quantised *array = w->array;
    if (!nested)
        return array->scales[block];
    return tn_muladd(tn_dynamic_signed[array->scale_codes[block]], array->nested_scales[block >> w->nested_bits],
                     array->nested_offset);
}

/* The first half of the 16 lanes from one place, the second from another. Broadcasts from memory leave the shuffling units
 * to the codes. */
INLINE void halves_of(tn_vec lanes[HALVES], const float *first, const float *second) {
#if defined(__AVX512F__)
    lanes[0] = (tn_vec)_mm512_mask_broadcastss_ps(_mm512_set1_ps(*first), 0xff00, _mm_load_ss(second));
#else
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++)
        lanes[half] = (tn_vec){0} + (half < HALVES / 2 ? *first : *second);
#endif
}

/* The scales of a chunk of a few runs by lanes; `block` is that of its first element. */
INLINE void lanes_of(tn_vec lanes[HALVES], const weight *w, const form f, int64_t block, int64_t runs) {
    const tn_quantised *array = w->array;
    if (f.block == CHUNK / 2 && runs == RUNS && !f.nested) {
        halves_of(lanes, array->scales + block, array->scales + block + 1);
    } else if (f.block == CHUNK / 2 && runs == RUNS) {
        tn_vec scale[HALVES];
        halves_of(lanes, tn_dynamic_signed + array->scale_codes[block], tn_dynamic_signed + array->scale_codes[block + 1]);
        halves_of(scale, array->nested_scales + (block >> w->nested_bits),
                  array->nested_scales + ((block + 1) >> w->nested_bits));
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++)
            lanes[half] = tn_vec_muladd(lanes[half], scale[half], (tn_vec){0} + array->nested_offset);
    } else if (f.block >= CHUNK / 2) { /* beyond the runs sums are 0 */
        const float scale = scale_of(w, block, f.nested);
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++)
            lanes[half] = (tn_vec){0} + scale;
    } else {
        quad scales = {0};
        for (int64_t i = 0; i < runs; i++)
            scales[i] = scale_of(w, block + i, f.nested);
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++)
            lanes[half] = spread(scales, half);
    }
}

/* The nine words of a block of Q4_0 are its scale and eight words of codes. */
INLINE void load_q4_0(words codes[HALVES], quad *scales, const uint8_t *from, int64_t runs) {
    foresee(from); /* a chunk is a line and an eighth */
    foresee(from + RUNS * Q4_0_BYTES - LINE);
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

/* A chunk of x, which rows of W share. */
typedef struct {
    const int16_t *x;
    tn_vec lanes[HALVES]; /* scales */
    tn_mask begin[HALVES];
} x_chunk;

INLINE x_chunk chunk_at(const rounded *a, int64_t at, const code_order layout) {
    x_chunk chunk = {.x = a->x + at};
    quad scales;
    memcpy(&scales, a->scales + at / RUN, sizeof scales);
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++) {
        chunk.lanes[half] = spread(scales, half);
        if (layout == Q4_0_BLOCKS)
            memcpy(&chunk.begin[half], a->begin + at / CHUNK * LANES + half * TN_LANES, sizeof(tn_mask));
        else
            chunk.begin[half] = (tn_mask){0};
    }
    return chunk;
}

/* Rows of W and their sums; pieces point to the first chunk. */
typedef struct {
    const uint8_t *codes[ROWS];
    int64_t block[ROWS];
    tn_vec acc[ROWS][HALVES];
} some_rows;

/* Adds the chunk of some runs at element p of each row. Step by step for all rows, so that none waits for the step before.
 */
INLINE void add_chunk(some_rows *of, const weight *w, const form f, table values, int64_t p, const x_chunk *x, int64_t runs,
                      const int rows) {
    words codes[ROWS][HALVES];
    tn_vec lanes[ROWS][HALVES];
    tn_mask sums[ROWS][HALVES];
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++) {
        if (f.layout == HIGH_FIRST) {
            load_high_first(codes[j], of->codes[j] + p / 2, runs);
            lanes_of(lanes[j], w, f, of->block[j] + (p >> w->block_bits), runs);
        } else {
            quad scales;
            load_q4_0(codes[j], &scales, of->codes[j] + p / RUN * Q4_0_BYTES, runs);
#pragma GCC unroll 4
            for (int half = 0; half < HALVES; half++)
                lanes[j][half] = spread(scales, half);
        }
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++) {
            lanes[j][half] *= x->lanes[half];
            sums[j][half] = x->begin[half];
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++) {
            const words of_x = load_words(x->x + c * (CHUNK / 4) + half * WORDS);
#pragma GCC unroll 4
            for (int j = 0; j < rows; j++) {
                const words code = shift_right(codes[j][half], 4 * c);
                const words value = f.layout == HIGH_FIRST ? look_up(code, values) : c < 3 ? code & 15 : code;
                sums[j][half] = add_pairs(sums[j][half], value, of_x);
            }
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++)
#pragma GCC unroll 4
        for (int half = 0; half < HALVES; half++)
            of->acc[j][half] = tn_vec_muladd(to_float(sums[j][half]), lanes[j][half], of->acc[j][half]);
}

/* A run of bytes. */
INLINE void add_run(tn_vec acc[HALVES], const int8_t *codes, const int16_t *x, float scale) {
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++) {
        const tn_mask sums = multiply_pairs(widen_bytes(codes + half * WORDS), load_words(x + half * WORDS));
        acc[half] = tn_vec_muladd(to_float(sums), (tn_vec){0} + scale, acc[half]);
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
        for (int half = 0; half < HALVES; half++)
            of.acc[j][half] = (tn_vec){0};
    }
    const int64_t whole = w->k / CHUNK * CHUNK;
    for (int64_t p = 0; p < whole; p += CHUNK) {
        const x_chunk x = chunk_at(a, p, f.layout);
        add_chunk(&of, w, f, values, p, &x, RUNS, rows);
    }
    if (whole < w->k) {
        const x_chunk x = chunk_at(a, whole, f.layout);
        add_chunk(&of, w, f, values, whole, &x, (w->k - whole) / RUN, rows);
    }
    fold(out, of.acc, rows);
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
    fold(out, acc, rows);
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
    switch (w->layout) {
    case HIGH_FIRST:
        if (w->array->scales)
            w->block_bits == 5   ? AS(HIGH_FIRST, RUN, false)
            : w->block_bits == 6 ? AS(HIGH_FIRST, CHUNK / 2, false)
                                 : AS(HIGH_FIRST, CHUNK, false);
        else
            w->block_bits == 5   ? AS(HIGH_FIRST, RUN, true)
            : w->block_bits == 6 ? AS(HIGH_FIRST, CHUNK / 2, true)
                                 : AS(HIGH_FIRST, CHUNK, true);
        break;
    case Q4_0_BLOCKS: AS(Q4_0_BLOCKS, RUN, false); break;
    case BYTES: AS(BYTES, RUN, false); break;
    case Q8_0_BLOCKS: AS(Q8_0_BLOCKS, RUN, false); break;
    }
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
    float scales[MOST / RUN];
    int32_t begin[MOST / CHUNK * LANES];
    rounded rows[TN_QUANT_FEW_ROWS];
    const int64_t width = (weights->k + CHUNK - 1) / CHUNK * CHUNK;
    for (int64_t p = 0; p < count; p++) {
        const weight *w = &weights[p];
        if (p == 0 || w->layout != w[-1].layout || w->unit != w[-1].unit) {
            for (int64_t i = 0; i < m; i++) {
                rows[i] = (rounded){integers + i * width, scales + i * width / RUN, begin + i * width / CHUNK * LANES};
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
