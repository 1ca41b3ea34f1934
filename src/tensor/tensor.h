/* Element types and tensors: contiguous row-major arrays of at most four dimensions over bytes owned elsewhere.
 *
 * One alphabet of dimensions is used everywhere: B sequences, T tokens (of the whole packed batch), C channels in,
 * O channels out, H heads, K key/value heads, D head size, F feed-forward size, V vocabulary, R rank, L layers. */
#ifndef TN_TENSOR_TENSOR_H
#define TN_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef enum tn_dtype {
    TN_DTYPE_F32,
    TN_DTYPE_F16,
    TN_DTYPE_BF16,
    TN_DTYPE_F64,
    TN_DTYPE_I64,
    TN_DTYPE_I32,
    TN_DTYPE_I16,
    TN_DTYPE_I8,
    TN_DTYPE_U8,
    TN_DTYPE_BOOL,
    TN_DTYPE_COUNT,                      /* of those that safetensors files hold */
    TN_DTYPE_QUANTISED = TN_DTYPE_COUNT, /* codes of a tn_quantised (quant.h): elements have no address of their own */
    TN_DTYPE_INT8_BLOCKS                 /* array of tn_int8_block, whose last may be incomplete; in memory only */
} tn_dtype;

/* x = scale code, code = round(x / scale), scale = max |x| / 127; 0 where that is below the normal numbers, and NaN where an
 * x is not finite. */
enum { TN_INT8_BLOCK = 64 };
typedef struct tn_int8_block {
    float scale;
    int8_t codes[TN_INT8_BLOCK];
} tn_int8_block;

/* "F32", "BF16", ... as safetensors spells them. */
const char *tn_dtype_name(tn_dtype dtype);
bool tn_dtype_from_name(const char *name, tn_dtype *dtype); /* exact upper-case spelling, or f32/bf16/f16 */
int64_t tn_dtype_size(tn_dtype dtype);                      /* bytes per element; 0 when quantised or in blocks */
bool tn_dtype_is_float(tn_dtype dtype);

/* Bytes of an array of `count` elements, blocks as a whole. Not of QUANTISED. */
static inline int64_t tn_array_bytes(tn_dtype dtype, int64_t count) {
    return dtype == TN_DTYPE_INT8_BLOCKS ? (count + TN_INT8_BLOCK - 1) / TN_INT8_BLOCK * (int64_t)sizeof(tn_int8_block)
                                         : count * tn_dtype_size(dtype);
}

enum { TN_MAX_DIMS = 4 };

/* A view: `data` points into a mapping, an arena or a store that outlives the tensor. */
typedef struct tn_tensor {
    tn_dtype dtype;
    int ndim;
    int64_t shape[TN_MAX_DIMS];
    void *data; /* never written when it points into a mapping; quantised: a tn_quantised over all elements in order */
} tn_tensor;

int64_t tn_tensor_count(const tn_tensor *tensor); /* elements; shapes are checked for overflow where they enter */
int64_t tn_tensor_bytes(const tn_tensor *tensor); /* as stored, with the scales of quantised ones */
bool tn_tensor_same_shape(const tn_tensor *a, const tn_tensor *b);

/* How elements are stored: "BF16", or the codec's name when quantised: "nf4". */
const char *tn_tensor_type(const tn_tensor *tensor);

/* out [count] = elements first .. first + count - 1 of a tensor of any float type or a quantised one, as f32. */
void tn_tensor_read(float *out, const tn_tensor *tensor, int64_t first, int64_t count);

/* "[32, 64]" in a buffer of the caller's. */
enum { TN_SHAPE_TEXT = 96 };
const char *tn_shape_text(const tn_tensor *tensor, char out[TN_SHAPE_TEXT]);

/* Scalar conversions; bf16 and f16 round to nearest even. */
float tn_bf16_to_f32(uint16_t bits);
uint16_t tn_f32_to_bf16(float value);
float tn_f16_to_f32(uint16_t bits);
uint16_t tn_f32_to_f16(float value);

/* Converts `count` elements between any float type, or INT8_BLOCKS, and f32. Plain loops; the hot paths have kernels of
 * their own. */
void tn_convert_to_f32(float *out, const void *in, tn_dtype dtype, int64_t count);
void tn_convert_from_f32(void *out, tn_dtype dtype, const float *in, int64_t count);

/* Index of the first element that is NaN or infinite, or -1. Of ggml's blocks the first element stands for all. */
int64_t tn_tensor_first_nonfinite(const tn_tensor *tensor);

#endif
