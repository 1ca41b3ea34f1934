/* ggml's block types as codecs: the codes of an array are the raw blocks, one after another, rows being whole blocks. */
#include <string.h>

#include "tensor/quant.h"
#include "tensor/quant_ggml.h"

static tn_status encode(const tn_quantised *array, const float *x, int64_t first, int64_t count, int64_t *bad) {
    const tn_quant_codec *codec = array->codec;
    const tn_ggml_info *info = tn_ggml_type_info(codec->ggml_type);
    uint8_t *out = array->codes + first / array->block * codec->block_bytes;
    for (*bad = 0; *bad < count; *bad += array->block, out += codec->block_bytes)
        if (!info->encode(out, x + *bad))
            return tn_fail(TN_ERROR_NUMERIC, "the values of its block are too large for the scales of %s", codec->name);
    return TN_OK;
}

static void decode(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    tn_ggml_block_decoder *decode_block = tn_ggml_type_info(array->codec->ggml_type)->decode;
    const int64_t block = array->block, end = first + count;
    const uint8_t *at = array->codes + first / block * array->codec->block_bytes;
    for (int64_t i = first; i < end; at += array->codec->block_bytes) {
        int64_t skipped = i % block, length = block - skipped < end - i ? block - skipped : end - i;
        if (length == block) {
            decode_block(out, at);
        } else {
            float values[TN_GGML_BLOCK_MAX];
            decode_block(values, at);
            memcpy(out, values + skipped, (size_t)length * sizeof *out);
        }
        out += length;
        i += length;
    }
}

#define GGML_BLOCKS(title, type, elements, size, half, other)                                                               \
    .name = title, .block_bytes = size, .ggml_type = type, .halves = {half, other}, .min_block = elements,                  \
    .max_block = elements, .ranges = 1u << TN_QUANT_ABSMAX, .defaults = {elements, 0, TN_QUANT_ABSMAX}, .decode = decode
const tn_quant_codec tn_codec_q4_0 = {GGML_BLOCKS("q4_0", TN_GGML_Q4_0, 32, 18, 0, -1), .encode = encode};
const tn_quant_codec tn_codec_q4_1 = {GGML_BLOCKS("q4_1", TN_GGML_Q4_1, 32, 20, 0, 2), .encode = encode};
const tn_quant_codec tn_codec_q5_0 = {GGML_BLOCKS("q5_0", TN_GGML_Q5_0, 32, 22, 0, -1), .encode = encode};
const tn_quant_codec tn_codec_q5_1 = {GGML_BLOCKS("q5_1", TN_GGML_Q5_1, 32, 24, 0, 2), .encode = encode};
const tn_quant_codec tn_codec_q8_0 = {GGML_BLOCKS("q8_0", TN_GGML_Q8_0, 32, 34, 0, -1), .encode = encode};
const tn_quant_codec tn_codec_iq4_nl = {GGML_BLOCKS("iq4_nl", TN_GGML_IQ4_NL, 32, 18, 0, -1)};
const tn_quant_codec tn_codec_q2_k = {GGML_BLOCKS("q2_k", TN_GGML_Q2_K, 256, 84, 80, 82)};
const tn_quant_codec tn_codec_q3_k = {GGML_BLOCKS("q3_k", TN_GGML_Q3_K, 256, 110, 108, -1)};
const tn_quant_codec tn_codec_q4_k = {GGML_BLOCKS("q4_k", TN_GGML_Q4_K, 256, 144, 0, 2), .encode = encode};
const tn_quant_codec tn_codec_q5_k = {GGML_BLOCKS("q5_k", TN_GGML_Q5_K, 256, 176, 0, 2), .encode = encode};
const tn_quant_codec tn_codec_q6_k = {GGML_BLOCKS("q6_k", TN_GGML_Q6_K, 256, 210, 208, -1), .encode = encode};
