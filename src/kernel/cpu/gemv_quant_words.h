/* Part of gemv_quant_tmpl.c, whose sizes it needs: vectors of 16-bit integers, products and sums of them, for each
 * instruction set. */

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

/* Brings zeros in. */
INLINE words shift_right(words codes, const int bits) {
    typedef uint16_t unsigned_words __attribute__((vector_size(sizeof(words))));
    return (words)((unsigned_words)codes >> bits);
}

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

/* sums + the products of pairs. */
INLINE tn_mask add_pairs(tn_mask sums, words a, words b) {
#if defined(__AVX512VNNI__)
    return (tn_mask)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
#else
    return sums + multiply_pairs(a, b);
#endif
}

/* Keeps the compiler from loading a value again wherever it is used: two loads a cycle are all there are. */
INLINE words in_register(words value) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(value));
#elif defined(__AVX2__)
    __asm__("" : "+x"(value));
#endif
    return value;
}

/* sums + the products of four unsigned bytes of codes, none above 15, with four signed ones in each lane. */
INLINE tn_mask add_fours(tn_mask sums, words codes, words x) {
#if defined(__AVX512VNNI__)
    return (tn_mask)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)codes, (__m512i)x);
#elif defined(__AVX512F__)
    __m512i pairs = _mm512_maddubs_epi16((__m512i)codes, (__m512i)x);
    return sums + (tn_mask)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__)
    __m256i pairs = _mm256_maddubs_epi16((__m256i)codes, (__m256i)x);
    return sums + (tn_mask)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    const uint8_t *code = (const uint8_t *)&codes;
    const int8_t *byte = (const int8_t *)&x;
    for (int i = 0; i < 4 * TN_LANES; i++)
        sums[i / 4] += code[i] * byte[i];
    return sums;
#endif
}

/* sums + those of lanes of X times both halves of bytes of codes; X in planes of split_bytes. */
INLINE tn_mask add_halves(tn_mask sums, words codes, const words planes[4]) {
    const words mask = (words){0} + 0x0f0f;
    const words low = codes & mask, high = shift_right(codes, 4) & mask;
    const tn_mask of_high = add_fours(add_fours((tn_mask){0}, low, planes[0]), high, planes[2]);
    return add_fours(add_fours(sums, low, planes[1]), high, planes[3]) + (of_high << 8);
}

/* A chunk's 4-bit codes. */
INLINE void load_codes(words codes[HALVES], const uint8_t *from) {
#pragma GCC unroll 4
    for (int half = 0; half < HALVES; half++) {
        memcpy(&codes[half], from + half * (int)sizeof(words), sizeof(words));
        codes[half] = in_register(codes[half]);
    }
}

/* Asks for what lies AHEAD in the second cache: the processor itself does not ask early enough, and the first is small. */
INLINE void foresee(const uint8_t *from) {
    __builtin_prefetch(from + AHEAD, 0, 2);
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
    return tn_broadcast(runs[half]);
#endif
}

/* out[j] = the sum of the 16 lanes of row j: halves are added to each other until one is left. `split`: the second half of
 * the lanes is that of the second half of acc's vectors, even if these are more than hold 16 lanes. */
INLINE void fold(float *out, tn_vec acc[][SUMS], const int rows, const bool split) {
    quad sums[ROWS];
    (void)split;
#pragma GCC unroll 4
    for (int j = 0; j < rows; j++) {
#if defined(__AVX512F__)
        __m512 lanes = split ? _mm512_mask_mov_ps((__m512)acc[j][0], 0xff00, (__m512)acc[j][1]) : (__m512)acc[j][0];
        __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
        sums[j] = (quad)_mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#elif defined(__AVX2__)
        __m256 eight = (__m256)(acc[j][0] + acc[j][1]);
        sums[j] = (quad)_mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#else
        sums[j] = (acc[j][0] + acc[j][2]) + (acc[j][1] + acc[j][3]);
#endif
    }
#if defined(__AVX2__)
    if (rows == ROWS) {
        __m128 a = (__m128)sums[0], b = (__m128)sums[1], c = (__m128)sums[2], d = (__m128)sums[3];
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d)));
        return;
    }
#endif
    for (int j = 0; j < rows; j++)
        out[j] = (sums[j][0] + sums[j][2]) + (sums[j][1] + sums[j][3]);
}
