/* What codecs have in common: sizes, memory, and scales that are quantised themselves. */
#include "tensor/quant.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/map.h"
#include "base/memory.h"

const tn_quant_codec *const tn_quant_codecs[] = {
    &tn_codec_nf4,         &tn_codec_fp4,
    &tn_codec_nf8,         &tn_codec_int8_row,
    &tn_codec_int4,        &tn_codec_int5,
    &tn_codec_int6,        &tn_codec_int8,
    &tn_codec_int4_affine, &tn_codec_int5_affine,
    &tn_codec_int6_affine, &tn_codec_int8_affine,
    &tn_codec_dynamic8,    &tn_codec_dynamic8_unsigned,
    &tn_codec_q4_0,        &tn_codec_q4_1,
    &tn_codec_q5_0,        &tn_codec_q5_1,
    &tn_codec_q8_0,        &tn_codec_iq4_nl,
    &tn_codec_q2_k,        &tn_codec_q3_k,
    &tn_codec_q4_k,        &tn_codec_q5_k,
    &tn_codec_q6_k,        NULL,
};
enum { CODEC_COUNT = sizeof tn_quant_codecs / sizeof *tn_quant_codecs - 1 };

tn_status tn_quant_codec_find(const char *name, const tn_quant_codec **out) {
    const char *names[CODEC_COUNT];
    for (int i = 0; i < CODEC_COUNT; i++) {
        names[i] = tn_quant_codecs[i]->name;
        *out = tn_quant_codecs[i];
        if (strcmp(names[i], name) == 0)
            return TN_OK;
    }
    *out = NULL;
    const char *nearest = tn_nearest_name(name, names, CODEC_COUNT);
    return tn_fail(TN_ERROR_ARGUMENT, "there is no quantisation '%s'; did you mean '%s'?", name, nearest ? nearest : "nf4");
}

const tn_quant_codec *tn_quant_codec_of_ggml(uint32_t type) {
    for (int i = 0; i < CODEC_COUNT; i++)
        if (tn_quant_codecs[i]->block_bytes && tn_quant_codecs[i]->ggml_type == type)
            return tn_quant_codecs[i];
    return NULL;
}

static bool is_power_of_two(int64_t n) {
    return n > 0 && (n & (n - 1)) == 0;
}

static tn_status check_block(const tn_quant_codec *codec, int64_t block, int64_t count) {
    const char *name = codec->name;
    if (codec->rows) {
        if (block < 1 || count % block)
            return tn_fail(TN_ERROR_ARGUMENT, "%s takes whole rows: %lld elements are not rows of %lld", name,
                           (long long)count, (long long)block);
        return TN_OK;
    }
    if (block == 0 && codec->whole)
        return TN_OK;
    if (codec->block_bytes && block == codec->min_block && count % block)
        return tn_fail(TN_ERROR_ARGUMENT, "%s takes whole blocks of %lld elements, which %lld are not", name,
                       (long long)block, (long long)count);
    if (block < codec->min_block || block > codec->max_block || !is_power_of_two(block))
        return tn_fail(TN_ERROR_ARGUMENT, "the block size of %s is a power of two from %lld to %lld%s, not %lld", name,
                       (long long)codec->min_block, (long long)codec->max_block, codec->whole ? ", or 0 for one scale" : "",
                       (long long)block);
    return TN_OK;
}

static tn_status check_params(const tn_quant_codec *codec, const tn_quant_params *params, int64_t count) {
    static const char *const range_names[] = {"abs-max", "min-max", "MSE"};
    if (count < 1)
        return tn_fail(TN_ERROR_ARGUMENT, "%s cannot hold %lld elements", codec->name, (long long)count);
    TN_TRY(check_block(codec, params->block, count));
    if ((unsigned)params->range >= TN_QUANT_RANGE_COUNT)
        return tn_fail(TN_ERROR_ARGUMENT, "there is no range %d to make scales from", (int)params->range);
    if (!(codec->ranges >> params->range & 1))
        return tn_fail(TN_ERROR_ARGUMENT, "%s has no %s scales", codec->name, range_names[params->range]);
    if (params->nested_block == 0)
        return TN_OK;
    if (!codec->nests)
        return tn_fail(TN_ERROR_ARGUMENT, "%s has no double quantisation of its scales", codec->name);
    if (params->nested_block < 32 || params->nested_block > 4096 || !is_power_of_two(params->nested_block))
        return tn_fail(TN_ERROR_ARGUMENT, "the nested block size is a power of two from 32 to 4096, not %lld",
                       (long long)params->nested_block);
    return TN_OK;
}

tn_status tn_quant_sizes_of(const tn_quant_codec *codec, const tn_quant_params *params, int64_t count, tn_quant_sizes *out) {
    tn_quant_sizes sizes = {0};
    memset(out, 0, sizeof *out);
    TN_TRY(check_params(codec, params, count));
    int64_t bits;
    /* No piece has more bytes than this many bits, and the sum has not either: a block has 32 elements or one scale. */
    if (!tn_mul_i64(count, 64, &bits))
        return tn_fail(TN_ERROR_ARGUMENT, "%s cannot hold %lld elements", codec->name, (long long)count);
    sizes.blocks = params->block ? tn_quant_ceil(count, params->block) : 1;
    sizes.codes = codec->block_bytes ? sizes.blocks * codec->block_bytes : tn_quant_ceil(count * codec->bits, 8);
    sizes.zeros = codec->zero_point ? sizes.blocks : 0;
    if (codec->block_bytes) {
        sizes.scales = 0; /* they are in the blocks */
    } else if (params->nested_block) {
        sizes.scale_codes = sizes.blocks;
        sizes.nested_scales = tn_quant_ceil(sizes.blocks, params->nested_block) * (int64_t)sizeof(float);
    } else {
        sizes.scales = sizes.blocks * (int64_t)sizeof(float);
    }
    sizes.total = sizes.codes + sizes.scales + sizes.zeros + sizes.scale_codes + sizes.nested_scales;
    *out = sizes;
    return TN_OK;
}

static tn_status describe(tn_quantised *out, const tn_quant_codec *codec, const tn_quant_params *params, int64_t count) {
    memset(out, 0, sizeof *out);
    TN_TRY(tn_quant_sizes_of(codec, params, count, &out->sizes));
    out->codec = codec;
    out->params = *params;
    out->count = count;
    out->block = params->block ? params->block : count;
    return TN_OK;
}

/* f32 first, so that they are aligned; bytes are not copied for pieces that are empty. */
static tn_status place_pieces(tn_quantised *out, uint8_t *at) {
    const tn_quant_sizes *sizes = &out->sizes;
    if (!at)
        return tn_fail_memory("a quantised array");
    out->scales = sizes->scales ? (float *)(void *)at : NULL;
    out->nested_scales = sizes->nested_scales ? (float *)(void *)at : NULL;
    at += sizes->scales + sizes->nested_scales;
    out->scale_codes = sizes->scale_codes ? at : NULL;
    at += sizes->scale_codes;
    out->zeros = sizes->zeros ? at : NULL;
    out->codes = at + sizes->zeros;
    return TN_OK;
}

tn_status tn_quantised_new(tn_quantised *out, const tn_quant_codec *codec, const tn_quant_params *params, int64_t count) {
    TN_TRY(describe(out, codec, params, count));
    out->memory = tn_pages_alloc((size_t)out->sizes.total);
    return place_pieces(out, out->memory);
}

tn_status tn_quantised_new_in(tn_page_arena *arena, tn_quantised *out, const tn_quant_codec *codec,
                              const tn_quant_params *params, int64_t count) {
    TN_TRY(describe(out, codec, params, count));
    return place_pieces(out, tn_page_arena_alloc(arena, (size_t)out->sizes.total));
}

void tn_quantised_free(tn_quantised *array) {
    if (array->memory)
        tn_pages_free(array->memory, (size_t)array->sizes.total);
    memset(array, 0, sizeof *array);
}

static tn_status check_piece(const char *name, const tn_quant_piece *piece, int64_t size, size_t alignment) {
    if (!piece->data && size)
        return tn_fail(TN_ERROR_FORMAT, "the %s are missing", name);
    if (piece->data && !size)
        return tn_fail(TN_ERROR_FORMAT, "there are %s, which this form of quantisation does not have", name);
    if (piece->data && piece->size != size)
        return tn_fail(TN_ERROR_FORMAT, "the %s have %lld bytes where %lld are needed", name, (long long)piece->size,
                       (long long)size);
    if ((uintptr_t)piece->data % alignment)
        return tn_fail(TN_ERROR_FORMAT, "the %s do not begin at a multiple of %zu bytes", name, alignment);
    return TN_OK;
}

/* A sum or product of scales may overflow though each of them is finite. */
static tn_status check_scales(const tn_quantised *array, tn_status error) {
    if (array->codec->block_bytes)
        return TN_OK;
    for (int64_t block = 0; block < array->sizes.blocks; block++) {
        float scale = tn_quantised_scale(array, block);
        if (!isfinite(scale))
            return tn_fail(error, "the scale of block %lld is %g", (long long)block, (double)scale);
    }
    return TN_OK;
}

tn_status tn_quantised_view(tn_quantised *out, const tn_quant_codec *codec, const tn_quant_params *params, int64_t count,
                            const tn_quant_pieces *pieces) {
    TN_TRY(describe(out, codec, params, count));
    const tn_quant_sizes *sizes = &out->sizes;
    TN_TRY(check_piece("codes", &pieces->codes, sizes->codes, 1));
    TN_TRY(check_piece("scales", &pieces->scales, sizes->scales, _Alignof(float)));
    TN_TRY(check_piece("zero points", &pieces->zeros, sizes->zeros, 1));
    TN_TRY(check_piece("quantised scales", &pieces->scale_codes, sizes->scale_codes, 1));
    TN_TRY(check_piece("nested scales", &pieces->nested_scales, sizes->nested_scales, _Alignof(float)));
    out->codes = (uint8_t *)pieces->codes.data;
    out->scales = (float *)pieces->scales.data;
    out->zeros = (uint8_t *)pieces->zeros.data;
    out->scale_codes = (uint8_t *)pieces->scale_codes.data;
    out->nested_scales = (float *)pieces->nested_scales.data;
    out->nested_offset = pieces->nested_offset;
    return check_scales(out, TN_ERROR_FORMAT);
}

float tn_quantised_scale(const tn_quantised *array, int64_t block) {
    if (array->scales)
        return array->scales[block];
    float value = tn_dynamic_signed[array->scale_codes[block]];
    return value * array->nested_scales[block / array->params.nested_block] + array->nested_offset;
}

double tn_quantised_bits(const tn_quantised *array) {
    return 8.0 * (double)array->sizes.total / (double)array->count;
}

float tn_quant_absmax(const float *x, int64_t count) {
    float largest = 0;
    for (int64_t i = 0; i < count; i++) {
        float magnitude = fabsf(x[i]);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

tn_quant_unit tn_quant_unit_of(const float *x, int64_t count, int64_t block) {
    const float least = 1e-38f;
    float absmax = tn_quant_absmax(x, count), bounded = fmaxf(absmax, least);
    if (count < block)
        return (tn_quant_unit){bounded, 0, false};
    return (tn_quant_unit){absmax, 1 / bounded, true};
}

void tn_quantised_nest(tn_quantised *array, const float *scales, float offset) {
    int64_t nested_block = array->params.nested_block;
    array->nested_offset = offset;
    for (int64_t at = 0; at < array->sizes.blocks; at += nested_block) {
        float centred[4096];
        int64_t length = array->sizes.blocks - at < nested_block ? array->sizes.blocks - at : nested_block;
        for (int64_t i = 0; i < length; i++)
            centred[i] = scales[at + i] - offset;
        tn_quant_unit unit = tn_quant_unit_of(centred, length, nested_block);
        array->nested_scales[at / nested_block] = unit.absmax;
        for (int64_t i = 0; i < length; i++)
            array->scale_codes[at + i] = tn_dynamic_nearest(tn_dynamic_signed, tn_quant_to_unit(&unit, centred[i]));
    }
}

/* "[3, 17]", the place of an element in its tensor. */
static const char *place_text(char out[TN_SHAPE_TEXT], const tn_tensor *x, int64_t index) {
    tn_tensor place = *x;
    for (int i = x->ndim - 1; i >= 0; i--) {
        place.shape[i] = index % x->shape[i];
        index /= x->shape[i];
    }
    return tn_shape_text(&place, out);
}

/* Blocks of at least this many elements are converted and encoded at a time. */
enum { CHUNK = 4096 };

/* Elements first .. first + length - 1, with room for that many in `converted` unless x is f32. */
static tn_status encode_chunk(const tn_quantised *array, const tn_tensor *x, float *converted, int64_t first,
                              int64_t length) {
    char place[TN_SHAPE_TEXT];
    const uint8_t *source = (const uint8_t *)x->data + first * tn_dtype_size(x->dtype);
    const float *values = (const float *)(const void *)source;
    if (converted) {
        tn_convert_to_f32(converted, source, x->dtype, length);
        values = converted;
    }
    tn_tensor view = {TN_DTYPE_F32, 1, {length}, (void *)values};
    int64_t bad = tn_tensor_first_nonfinite(&view);
    if (bad >= 0)
        return tn_fail(TN_ERROR_NUMERIC, "element %s is %g; only finite values can be quantised",
                       place_text(place, x, first + bad), (double)values[bad]);
    tn_status status = array->codec->encode(array, values, first, length, &bad);
    return status == TN_OK ? TN_OK : tn_fail_context(status, "element %s", place_text(place, x, first + bad));
}

/* Chunks do not depend on each other. Errors are words of a thread: the first chunk that fails is encoded again by the
 * caller's. */
static tn_status encode_chunks(const tn_quantised *array, const tn_tensor *x, int64_t chunk) {
    const int64_t chunks = tn_quant_ceil(array->count, chunk), last = array->count - (chunks - 1) * chunk;
    int64_t failed = chunks;
    bool no_memory = false;
#pragma omp parallel if (chunks > 16)
    {
        float *converted = x->dtype == TN_DTYPE_F32 ? NULL : tn_malloc((size_t)chunk * sizeof *converted);
        bool ready = converted || x->dtype == TN_DTYPE_F32;
        if (!ready) {
#pragma omp atomic write
            no_memory = true;
        }
#pragma omp for schedule(static) reduction(min : failed)
        for (int64_t i = 0; i < chunks; i++) {
            int64_t length = i + 1 < chunks ? chunk : last;
            if (ready && encode_chunk(array, x, converted, i * chunk, length) != TN_OK && i < failed)
                failed = i;
        }
        tn_free(converted);
    }
    if (no_memory)
        return tn_fail_memory("a block to be quantised");
    if (failed == chunks)
        return TN_OK;
    float *converted = x->dtype == TN_DTYPE_F32 ? NULL : tn_malloc((size_t)chunk * sizeof *converted);
    if (!converted && x->dtype != TN_DTYPE_F32)
        return tn_fail_memory("a block to be quantised");
    tn_status status = encode_chunk(array, x, converted, failed * chunk, failed + 1 < chunks ? chunk : last);
    tn_free(converted);
    return status;
}

tn_status tn_quantise(tn_quantised *array, const tn_tensor *x) {
    char shape[TN_SHAPE_TEXT];
    if (tn_tensor_count(x) != array->count || !tn_dtype_is_float(x->dtype))
        return tn_fail(TN_ERROR_MISMATCH, "a tensor %s %s cannot fill a quantised array of %lld elements",
                       tn_dtype_name(x->dtype), tn_shape_text(x, shape), (long long)array->count);
    if (!array->codec->encode)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s is only read, not written", array->codec->name);
    int64_t chunk = array->block < CHUNK ? CHUNK / array->block * array->block : array->block;
    float *scales = NULL;
    tn_status status = TN_OK;
    tn_quantised plain = *array;
    if (array->params.nested_block) {
        scales = plain.scales = tn_malloc((size_t)array->sizes.blocks * sizeof *scales);
        if (!scales) {
            status = tn_fail_memory("scales to be quantised");
            goto fail;
        }
    }
    TN_TRY_GOTO(encode_chunks(&plain, x, chunk));
    if (scales) {
        double sum = 0;
        for (int64_t i = 0; i < array->sizes.blocks; i++)
            sum += (double)scales[i];
        tn_quantised_nest(array, scales, (float)(sum / (double)array->sizes.blocks));
    }
    status = check_scales(array, TN_ERROR_NUMERIC);
fail:
    tn_free(scales);
    return status;
}

void tn_dequantise(float *out, const tn_quantised *array, int64_t first, int64_t count) {
    assert(first >= 0 && count >= 0 && first <= array->count - count);
    if (count)
        array->codec->decode(out, array, first, count);
}
