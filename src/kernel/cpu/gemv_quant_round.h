/* Part of gemv_quant_tmpl.c, whose sizes it needs: a row of A rounded to integers, in the order of the weight's codes. */

/* Of whole chunks; zeros beyond the row. */
typedef struct {
    int16_t *x;     /* in the order in which codes fall out of the weight; for Q4_0 planes of bytes */
    float *scales;  /* s over the weight's unit: by runs of bytes; of 4-bit codes [LANES] for each chunk */
    int32_t *begin; /* [LANES] for each chunk, what sums begin at: for Q4_0, whose values are q - 8, -8 times those of x */
} rounded;

/* Rounds a run of `count` elements to integers; returns s. Runs so small that LARGEST / max would overflow are 0; NaN and
 * infinities make s NaN. */
INLINE float round_run(int16_t *restrict out, const float *restrict x, const int count) {
    const float shift = 0x1.8p23f, least = 0x1p-110f;
    uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int i = 0; i < count; i++) {
        uint32_t magnitude = tn_bits_of_float(x[i]) & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    float max = tn_float_of_bits(largest);
    if (!(max >= least && largest < 0x7f800000)) {
        memset(out, 0, (size_t)count * sizeof *out);
        return max < least ? 0 : NAN;
    }
    float factor = LARGEST / max;
#pragma omp simd
    for (int i = 0; i < count; i++) { /* the low bits of the shifted product are its nearest integer */
        float shifted = x[i] * factor + shift;
        out[i] = (int16_t)(tn_bits_of_float(shifted) - 0x4b400000u);
    }
    return max / LARGEST;
}

/* Puts a chunk in the order of words that hold 4 codes: vector c has the elements of those at bit 4 c. */
INLINE void sort_by_words(int16_t *restrict out, const int16_t *restrict natural) {
    enum { VECTOR = CHUNK / 4 };
    static const int shifts[4] = {16, 0, 48, 32}; /* the first of two elements has the high half of a byte */
    uint64_t fours[VECTOR];
    memcpy(fours, natural, sizeof fours);
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++)
        for (int word = 0; word < VECTOR; word++)
            out[c * VECTOR + word] = (int16_t)(fours[word] >> shifts[c]);
}

/* Splits the integers of a chunk, X = 256 high + low, into planes of signed bytes in the order of the bytes of codes: high
 * and low ones of elements that have the low halves of bytes of codes, then those of the others. */
INLINE void split_bytes(int8_t *restrict out, const int16_t *restrict natural) {
    enum { PLANE = CHUNK / 2, HALF_RUN = RUN / 2 };
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++)
        for (int run = 0; run < RUNS; run++)
            for (int i = 0; i < HALF_RUN; i++) {
                const int16_t x = natural[run * RUN + half * HALF_RUN + i];
                out[2 * half * PLANE + run * HALF_RUN + i] = (int8_t)((x + 128) >> 8);
                out[(2 * half + 1) * PLANE + run * HALF_RUN + i] = (int8_t)x;
            }
}

/* Sums of the lanes of planes, times -8. */
INLINE void begin_chunk(int32_t *begin, const int16_t *planes) {
    const words ones = (words){0} + 0x1111; /* codes */
    for (int half = 0; half < HALVES; half++) {
        words of_x[4];
        for (int i = 0; i < 4; i++)
            of_x[i] = load_words(planes + i * (CHUNK / 4) + half * WORDS);
        const tn_mask sums = -8 * add_halves((tn_mask){0}, ones, of_x);
        memcpy(begin + half * TN_LANES, &sums, sizeof sums);
    }
}

INLINE void round_row_as(rounded *out, const float *x, const weight *w, const int run) {
    int16_t natural[CHUNK];
    for (int64_t at = 0; at < w->k; at += CHUNK) {
        int16_t *to = w->layout >= BYTES ? out->x + at : natural;
        for (int64_t begin = 0; begin < CHUNK; begin += run) {
            float scale = 0;
            if (at + begin < w->k)
                scale = round_run(to + begin, x + at + begin, run) / w->unit;
            else
                memset(to + begin, 0, (size_t)run * sizeof *to);
            if (w->layout >= BYTES)
                out->scales[(at + begin) / run] = scale;
            else
                for (int lane = 0; lane < LANES * run / CHUNK; lane++)
                    out->scales[(at + begin) * LANES / CHUNK + lane] = scale;
        }
        if (w->layout == HIGH_FIRST) {
            sort_by_words(out->x + at, natural);
        } else if (w->layout == Q4_0_BLOCKS) {
            split_bytes((int8_t *)(out->x + at), natural);
            begin_chunk(out->begin + at / CHUNK * LANES, out->x + at);
        }
    }
}

static void round_row(rounded *out, const float *x, const weight *w) {
    w->run == RUN ? round_row_as(out, x, w, RUN) : round_row_as(out, x, w, WIDE_RUN);
}
