/* Quantised arrays: codes of 4 to 8 bits and a scale per block of elements. Blocks run over the flattened tensor in
 * row-major order, the last one may be incomplete. One array is up to four pieces of memory, each a tensor of a file, so
 * that weights can be used where they are mapped:
 *
 *   codes          u8  [ceil(n bits / 8)]        packed as the codec's file says
 *   scales         f32 [blocks]                  or, when the scales are quantised themselves (double quantisation):
 *     scale_codes    u8  [blocks]                into the signed dynamic map of quant_dynamic.c
 *     nested_scales  f32 [ceil(blocks / nested_block)], and one f32 offset
 *   zeros          u8  [blocks]                  codecs with a zero point only
 *
 * Everything here is the plain scalar version, which faster ones must agree with bit for bit. */
#ifndef TN_TENSOR_QUANT_H
#define TN_TENSOR_QUANT_H

#include "base/memory.h"
#include "tensor/tensor.h"

/* What a scale is made from. */
typedef enum tn_quant_range {
    TN_QUANT_ABSMAX, /* the largest magnitude of the block */
    TN_QUANT_MINMAX, /* its smallest and its largest value */
    TN_QUANT_MSE,    /* the range, shrunk as far as lowers the block's squared error */
    TN_QUANT_RANGE_COUNT
} tn_quant_range;

typedef struct tn_quant_params {
    int64_t block;        /* elements per scale; 0: one scale for all elements */
    int64_t nested_block; /* scales per scale of theirs; 0: scales are f32 */
    tn_quant_range range;
} tn_quant_params;

typedef struct tn_quantised tn_quantised;

/* A codec. Block sizes are powers of two but where `rows` is set: there a block is a row of the matrix, of any length. */
typedef struct tn_quant_codec {
    const char *name;
    int bits;        /* per code; of codecs of blocks, see below, 0 */
    int block_bytes; /* not 0: codes are blocks of params.block elements, min_block = max_block, with their scales inside */
    uint32_t ggml_type; /* of codecs of blocks */
    int halves[2];      /* where in such a block its f16 scales are, the only ones that can be other than finite; -1: none */
    int64_t min_block, max_block;
    bool rows;       /* a block is a row, and there are whole rows only */
    bool whole;      /* params.block may be 0 */
    bool zero_point; /* has `zeros` */
    bool nests;      /* scales may be quantised; nested blocks are powers of two from 32 to 4096 */
    unsigned ranges; /* bit set of tn_quant_range */
    tn_quant_params defaults;
    /* NULL: only read. Encodes x [count] as elements first .. first + count - 1; `first` and `first + count` begin blocks or
     * end the array. All x are finite. Sets codes, scales and zeros; scales are f32 at this point. Fails with
     * TN_ERROR_NUMERIC for values that the codec cannot hold, and sets *bad to their index into x. */
    tn_status (*encode)(const tn_quantised *array, const float *x, int64_t first, int64_t count, int64_t *bad);
    /* Decodes elements first .. first + count - 1, any within the array. */
    void (*decode)(float *out, const tn_quantised *array, int64_t first, int64_t count);
} tn_quant_codec;

/* 4-bit floats of bitsandbytes (quant_nf4.c), rows of LLM.int8 (quant_int8_row.c), integers (quant_affine.c) and the dynamic
 * 8-bit maps of bitsandbytes' optimizers (quant_dynamic.c). */
extern const tn_quant_codec tn_codec_nf4, tn_codec_fp4, tn_codec_int8_row;
extern const tn_quant_codec tn_codec_nf8; /* quant_nf8.c: of LoftQ in 8 bits */
extern const tn_quant_codec tn_codec_int4, tn_codec_int5, tn_codec_int6, tn_codec_int8;
extern const tn_quant_codec tn_codec_int4_affine, tn_codec_int5_affine, tn_codec_int6_affine, tn_codec_int8_affine;
extern const tn_quant_codec tn_codec_dynamic8, tn_codec_dynamic8_unsigned;

/* The types of ggml (quant_ggml.h) that can be read. */
extern const tn_quant_codec tn_codec_q4_0, tn_codec_q4_1, tn_codec_q5_0, tn_codec_q5_1, tn_codec_q8_0, tn_codec_iq4_nl;
extern const tn_quant_codec tn_codec_q2_k, tn_codec_q3_k, tn_codec_q4_k, tn_codec_q5_k, tn_codec_q6_k;

/* The codec of a ggml type, or NULL. */
const tn_quant_codec *tn_quant_codec_of_ggml(uint32_t type);

/* All of them; ends with NULL. */
extern const tn_quant_codec *const tn_quant_codecs[];

/* By name; TN_ERROR_ARGUMENT with the nearest name when there is none. */
tn_status tn_quant_codec_find(const char *name, const tn_quant_codec **out);

/* The values that codes stand for, as bitsandbytes stores them in quant_map and nested_quant_map. */
extern const float tn_nf4_values[16], tn_fp4_values[16];
extern const float tn_nf8_values[256];
extern const float tn_dynamic_signed[256], tn_dynamic_unsigned[256]; /* rising */

/* Bytes of the pieces; those an array does not have are 0. */
typedef struct tn_quant_sizes {
    int64_t blocks;
    int64_t codes, scales, zeros, scale_codes, nested_scales; /* bytes */
    int64_t total;
} tn_quant_sizes;

/* Checks the parameters and computes the sizes for `count` elements. TN_ERROR_ARGUMENT for block sizes, ranges and nesting
 * that the codec does not have and for counts that are not positive or overflow. */
tn_status tn_quant_sizes_of(const tn_quant_codec *codec, const tn_quant_params *params, int64_t count, tn_quant_sizes *out);

struct tn_quantised {
    const tn_quant_codec *codec;
    tn_quant_params params;
    int64_t count; /* elements */
    int64_t block; /* params.block, or count */
    tn_quant_sizes sizes;
    uint8_t *codes; /* pieces are never written when they point into a mapping */
    float *scales;
    uint8_t *zeros, *scale_codes;
    float *nested_scales;
    float nested_offset;
    void *memory; /* of the pieces, when the array owns it */
};

/* An array with memory of its own, not yet encoded. Free with tn_quantised_free, which is also fine after a failure. */
tn_status tn_quantised_new(tn_quantised *out, const tn_quant_codec *codec, const tn_quant_params *params, int64_t count);
void tn_quantised_free(tn_quantised *array);

/* The same in memory of an arena, with which it goes. */
tn_status tn_quantised_new_in(tn_page_arena *arena, tn_quantised *out, const tn_quant_codec *codec,
                              const tn_quant_params *params, int64_t count);

/* A piece found in a file. */
typedef struct tn_quant_piece {
    const void *data;
    int64_t size; /* bytes */
} tn_quant_piece;

typedef struct tn_quant_pieces {
    tn_quant_piece codes, scales, zeros, scale_codes, nested_scales;
    float nested_offset;
} tn_quant_pieces;

/* An array over memory of others, which must outlive it. TN_ERROR_FORMAT when a piece is missing, superfluous, misaligned or
 * not of its size, and when a scale is not finite; the words name the piece and are to be put behind a tensor's name. */
tn_status tn_quantised_view(tn_quantised *out, const tn_quant_codec *codec, const tn_quant_params *params, int64_t count,
                            const tn_quant_pieces *pieces);

/* Encodes a tensor of any float type into the array's pieces, which must be writable. TN_ERROR_NUMERIC at an element that is
 * not finite or too large for the codec, naming it; TN_ERROR_MISMATCH when the tensor has another number of elements. The
 * array's contents are then of no use. Holds a copy in f32 of a block, of at least 4096 elements, for types other than f32.
 */
tn_status tn_quantise(tn_quantised *array, const tn_tensor *x);

/* out [count] = elements first .. first + count - 1, which must lie within the array. */
void tn_dequantise(float *out, const tn_quantised *array, int64_t first, int64_t count);

/* The scale of a block, taken back from its code when nested. */
float tn_quantised_scale(const tn_quantised *array, int64_t block);

/* Storage over elements, in bits. */
double tn_quantised_bits(const tn_quantised *array);

/* Quantises the scales of an array with nesting, given as f32 [blocks]: sets scale_codes, nested_scales and nested_offset.
 * tn_quantise calls it with the mean of the scales as offset. */
void tn_quantised_nest(tn_quantised *array, const float *scales, float offset);

/* Parts that codecs share. An integer division of positive numbers, rounded up. */
static inline int64_t tn_quant_ceil(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

/* max |x|, x [count]. */
float tn_quant_absmax(const float *x, int64_t count);

/* How bitsandbytes brings a block to [-1, 1]: a whole one is multiplied by the reciprocal of its absmax, rounded, an
 * incomplete one divided by absmax. An absmax below 1e-38 counts as that, and is stored as that for an incomplete block. */
typedef struct tn_quant_unit {
    float absmax, inverse;
    bool whole;
} tn_quant_unit;

tn_quant_unit tn_quant_unit_of(const float *x, int64_t count, int64_t block);
static inline float tn_quant_to_unit(const tn_quant_unit *unit, float x) {
    return unit->whole ? x * unit->inverse : x / unit->absmax;
}

/* The index of the value nearest to x in a dynamic map: by mid points in f32, exactly on one the lower value. */
uint8_t tn_dynamic_nearest(const float values[256], float x);

#endif
