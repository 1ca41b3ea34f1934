/* The table of ggml's types, and rows of blocks. */
#include "tensor/quant_ggml.h"

#include <math.h>
#include <strings.h>

#include "base/memory.h"

#define PLAIN(type, size)                                                                                                   \
    { .name = #type, .block = 1, .bytes = size, .plain = true, .dtype = TN_DTYPE_##type }
#define CODEC(upper, lower, block, bytes)                                                                                   \
    { #upper, block, bytes, false, TN_DTYPE_F32, tn_##lower##_decode, tn_##lower##_encode }
#define DECODED(upper, lower, block, bytes)                                                                                 \
    { #upper, block, bytes, false, TN_DTYPE_F32, tn_##lower##_decode, NULL }
#define SIZED(upper, block, bytes)                                                                                          \
    { #upper, block, bytes, false, TN_DTYPE_F32, NULL, NULL }

/* Types without functions have their sizes here so that a file that holds some can be checked and listed. */
static const tn_ggml_info types[TN_GGML_TYPE_LIMIT] = {
    [TN_GGML_F32] = PLAIN(F32, 4),
    [TN_GGML_F16] = PLAIN(F16, 2),
    [TN_GGML_Q4_0] = CODEC(Q4_0, q4_0, 32, 18),
    [TN_GGML_Q4_1] = CODEC(Q4_1, q4_1, 32, 20),
    [TN_GGML_Q5_0] = CODEC(Q5_0, q5_0, 32, 22),
    [TN_GGML_Q5_1] = CODEC(Q5_1, q5_1, 32, 24),
    [TN_GGML_Q8_0] = CODEC(Q8_0, q8_0, 32, 34),
    [9] = SIZED(Q8_1, 32, 36),
    [TN_GGML_Q2_K] = DECODED(Q2_K, q2_k, 256, 84),
    [TN_GGML_Q3_K] = DECODED(Q3_K, q3_k, 256, 110),
    [TN_GGML_Q4_K] = CODEC(Q4_K, q4_k, 256, 144),
    [TN_GGML_Q5_K] = CODEC(Q5_K, q5_k, 256, 176),
    [TN_GGML_Q6_K] = CODEC(Q6_K, q6_k, 256, 210),
    [15] = SIZED(Q8_K, 256, 292),
    [16] = SIZED(IQ2_XXS, 256, 66),
    [17] = SIZED(IQ2_XS, 256, 74),
    [18] = SIZED(IQ3_XXS, 256, 98),
    [19] = SIZED(IQ1_S, 256, 50),
    [TN_GGML_IQ4_NL] = DECODED(IQ4_NL, iq4_nl, 32, 18),
    [21] = SIZED(IQ3_S, 256, 110),
    [22] = SIZED(IQ2_S, 256, 82),
    [23] = SIZED(IQ4_XS, 256, 136),
    [TN_GGML_I8] = PLAIN(I8, 1),
    [TN_GGML_I16] = PLAIN(I16, 2),
    [TN_GGML_I32] = PLAIN(I32, 4),
    [TN_GGML_I64] = PLAIN(I64, 8),
    [TN_GGML_F64] = PLAIN(F64, 8),
    [29] = SIZED(IQ1_M, 256, 56),
    [TN_GGML_BF16] = PLAIN(BF16, 2),
    [34] = SIZED(TQ1_0, 256, 54),
    [35] = SIZED(TQ2_0, 256, 66),
    [39] = SIZED(MXFP4, 32, 17),
};

const tn_ggml_info *tn_ggml_type_info(uint32_t type) {
    return type < TN_GGML_TYPE_LIMIT && types[type].name ? &types[type] : NULL;
}

bool tn_ggml_type_from_name(const char *name, uint32_t *type) {
    for (uint32_t i = 0; i < TN_GGML_TYPE_LIMIT; i++) {
        if (types[i].name && strcasecmp(types[i].name, name) == 0) {
            *type = i;
            return true;
        }
    }
    return false;
}

bool tn_ggml_type_from_dtype(tn_dtype dtype, uint32_t *type) {
    for (uint32_t i = 0; i < TN_GGML_TYPE_LIMIT; i++) {
        if (types[i].plain && types[i].dtype == dtype) {
            *type = i;
            return true;
        }
    }
    return false;
}

tn_status tn_ggml_bytes(uint32_t type, int64_t rows, int64_t columns, int64_t *bytes) {
    const tn_ggml_info *info = tn_ggml_type_info(type);
    if (!info)
        return tn_fail(TN_ERROR_FORMAT, "the ggml type %u is not known", (unsigned)type);
    if (columns % info->block != 0)
        return tn_fail(TN_ERROR_FORMAT, "rows of %lld values are not a whole number of the %d-value blocks of %s",
                       (long long)columns, info->block, info->name);
    if (!tn_mul_i64(columns / info->block, info->bytes, bytes) || !tn_mul_i64(*bytes, rows, bytes))
        return tn_fail(TN_ERROR_FORMAT, "the size of %lld rows of %lld values is negative or overflows", (long long)rows,
                       (long long)columns);
    return TN_OK;
}

tn_status tn_ggml_decode(uint32_t type, float *out, const void *in, int64_t rows, int64_t columns) {
    int64_t bytes;
    TN_TRY(tn_ggml_bytes(type, rows, columns, &bytes));
    const tn_ggml_info *info = tn_ggml_type_info(type);
    if (info->plain && tn_dtype_is_float(info->dtype)) {
        tn_convert_to_f32(out, in, info->dtype, rows * columns);
        return TN_OK;
    }
    if (!info->decode)
        return tn_fail(TN_ERROR_UNSUPPORTED, "weights of the ggml type %s cannot be read", info->name);
    const uint8_t *block = in;
    for (int64_t i = 0; i < bytes / info->bytes; i++)
        info->decode(out + i * info->block, block + i * info->bytes);
    return TN_OK;
}

static tn_status encode_failure(const tn_ggml_info *info, const float *block, int64_t row, int64_t column) {
    for (int i = 0; i < info->block; i++)
        if (!isfinite(block[i]))
            return tn_fail(TN_ERROR_NUMERIC, "the value in row %lld, column %lld is not finite; %s cannot hold it",
                           (long long)row, (long long)column + i, info->name);
    return tn_fail(TN_ERROR_NUMERIC, "the values in row %lld from column %lld on are too large for the scales of %s",
                   (long long)row, (long long)column, info->name);
}

static bool all_finite(const float *values, int count) {
    bool finite = true;
    for (int i = 0; i < count; i++)
        finite &= isfinite(values[i]) != 0;
    return finite;
}

tn_status tn_ggml_encode(uint32_t type, void *out, const float *in, int64_t rows, int64_t columns) {
    int64_t bytes;
    TN_TRY(tn_ggml_bytes(type, rows, columns, &bytes));
    const tn_ggml_info *info = tn_ggml_type_info(type);
    if (info->plain && tn_dtype_is_float(info->dtype)) {
        tn_convert_from_f32(out, info->dtype, in, rows * columns);
        return TN_OK;
    }
    if (!info->encode)
        return tn_fail(TN_ERROR_UNSUPPORTED, "weights of the ggml type %s cannot be written", info->name);
    for (int64_t i = 0; i < bytes / info->bytes; i++) {
        const float *block = in + i * info->block;
        if (!all_finite(block, info->block) || !info->encode((uint8_t *)out + i * info->bytes, block))
            return encode_failure(info, block, i * info->block / columns, i * info->block % columns);
    }
    return TN_OK;
}
