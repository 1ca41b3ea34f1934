/* ggml's block formats, as GGUF files hold them: rows are cut into blocks of 32 or 256 values, each with its own scales.
 *
 *   type   block  bytes  layout (halves are IEEE f16, little-endian)            value
 *   Q4_0      32     18  half d; u8 qs[16]                                      (q - 8) d
 *   Q4_1      32     20  half d, m; u8 qs[16]                                   q d + m
 *   Q5_0      32     22  half d; u8 qh[4]; u8 qs[16]                            (q - 16) d
 *   Q5_1      32     24  half d, m; u8 qh[4]; u8 qs[16]                         q d + m
 *   Q8_0      32     34  half d; i8 qs[32]                                      q d
 *   IQ4_NL    32     18  half d; u8 qs[16]                                      v[q] d
 *   Q2_K     256     84  u8 scales[16]; u8 qs[64]; half d, dmin                 d s q - dmin m, runs of 16
 *   Q3_K     256    110  u8 hmask[32]; u8 qs[64]; u8 scales[12]; half d         d s q, runs of 16
 *   Q4_K     256    144  half d, dmin; u8 scales[12]; u8 qs[128]                d s q - dmin m, runs of 32
 *   Q5_K     256    176  half d, dmin; u8 scales[12]; u8 qh[32]; u8 qs[128]     d s q - dmin m, runs of 32
 *   Q6_K     256    210  u8 ql[128]; u8 qh[64]; i8 scales[16]; half d           d s (q - 32), runs of 16
 *
 * Decoding gives ggml's values bit for bit, and so does encoding of the types without K in their name. The encoders of the
 * K types search for the least squared error and may write other bytes than ggml, which searches in another way. */
#ifndef TN_TENSOR_QUANT_GGML_H
#define TN_TENSOR_QUANT_GGML_H

#include "tensor/tensor.h"

/* Numbers as in GGUF. Types that are not named here are known by their size alone: see tn_ggml_type_info. */
typedef enum tn_ggml_type {
    TN_GGML_F32 = 0,
    TN_GGML_F16 = 1,
    TN_GGML_Q4_0 = 2,
    TN_GGML_Q4_1 = 3,
    TN_GGML_Q5_0 = 6,
    TN_GGML_Q5_1 = 7,
    TN_GGML_Q8_0 = 8,
    TN_GGML_Q2_K = 10,
    TN_GGML_Q3_K = 11,
    TN_GGML_Q4_K = 12,
    TN_GGML_Q5_K = 13,
    TN_GGML_Q6_K = 14,
    TN_GGML_IQ4_NL = 20,
    TN_GGML_I8 = 24,
    TN_GGML_I16 = 25,
    TN_GGML_I32 = 26,
    TN_GGML_I64 = 27,
    TN_GGML_F64 = 28,
    TN_GGML_BF16 = 30,
    TN_GGML_TYPE_LIMIT = 40
} tn_ggml_type;

enum { TN_GGML_BLOCK_MAX = 256, TN_GGML_BLOCK_BYTES_MAX = 292 };

/* One block to values and back. The encoder takes finite values; it is false when a scale is too large for a half. */
typedef void tn_ggml_block_decoder(float *out, const uint8_t *in);
typedef bool tn_ggml_block_encoder(uint8_t *out, const float *in);

typedef struct tn_ggml_info {
    const char *name;              /* "Q4_K", as llama.cpp spells it in capitals; NULL: no such type */
    int block;                     /* values per block: a row is a whole number of them */
    int bytes;                     /* of a block */
    bool plain;                    /* one element a block, of the type `dtype` */
    tn_dtype dtype;                /* only when plain */
    tn_ggml_block_decoder *decode; /* NULL: plain, or a type that is not read */
    tn_ggml_block_encoder *encode; /* NULL: plain, or a type that is not written */
} tn_ggml_info;

/* What is known of a type; NULL when ggml has no such type, or one newer than this file. */
const tn_ggml_info *tn_ggml_type_info(uint32_t type);

/* By name in any case, "q4_k"; false when there is none. */
bool tn_ggml_type_from_name(const char *name, uint32_t *type);

/* The element type of weights that are not quantised; false for integers other than ggml has. */
bool tn_ggml_type_from_dtype(tn_dtype dtype, uint32_t *type);

/* Bytes of `rows` rows of `columns` values. Fails with TN_ERROR_FORMAT for unknown types, rows that are not whole blocks,
 * negative sizes and products that overflow; the words are to be put behind a tensor's name. */
tn_status tn_ggml_bytes(uint32_t type, int64_t rows, int64_t columns, int64_t *bytes);

/* `in` holds tn_ggml_bytes(type, rows, columns) bytes of any alignment, `out` [rows, columns]. Fails for types that cannot
 * be decoded (TN_ERROR_UNSUPPORTED) and as tn_ggml_bytes does. Every pattern of bytes has a value, perhaps not finite. */
tn_status tn_ggml_decode(uint32_t type, float *out, const void *in, int64_t rows, int64_t columns);

/* The way back; the float types round to nearest even. Fails with TN_ERROR_NUMERIC at a value that is not finite or too
 * large for the type's scales, naming its row and column; `out` then holds nothing of use. */
tn_status tn_ggml_encode(uint32_t type, void *out, const float *in, int64_t rows, int64_t columns);

/* The blocks themselves: quant_ggml_legacy.c and quant_ggml_k.c. */
tn_ggml_block_decoder tn_q4_0_decode, tn_q4_1_decode, tn_q5_0_decode, tn_q5_1_decode, tn_q8_0_decode, tn_iq4_nl_decode;
tn_ggml_block_encoder tn_q4_0_encode, tn_q4_1_encode, tn_q5_0_encode, tn_q5_1_encode, tn_q8_0_encode;
tn_ggml_block_decoder tn_q2_k_decode, tn_q3_k_decode, tn_q4_k_decode, tn_q5_k_decode, tn_q6_k_decode;
tn_ggml_block_encoder tn_q4_k_encode, tn_q5_k_encode, tn_q6_k_encode;

/* A half at any address. */
static inline float tn_ggml_half(const uint8_t *at) {
    return tn_f16_to_f32((uint16_t)(at[0] | at[1] << 8));
}

/* Stores the nearest half; false when that is not finite. */
static inline bool tn_ggml_store_half(uint8_t *at, float value) {
    uint16_t bits = tn_f32_to_f16(value);
    at[0] = (uint8_t)bits;
    at[1] = (uint8_t)(bits >> 8);
    return (bits & 0x7c00) != 0x7c00;
}

#endif
