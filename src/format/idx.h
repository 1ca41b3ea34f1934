/* IDX files, as MNIST and its family come in, plain or in gzip:
 *
 *   u8 0, u8 0, u8 type, u8 D, D x u32 size (big-endian), then the elements (big-endian), the last index fastest
 *
 * type: 8 unsigned byte, 9 signed byte, 11 short, 12 int, 13 float, 14 double. */
#ifndef TN_FORMAT_IDX_H
#define TN_FORMAT_IDX_H

#include "tensor/tensor.h"

/* Elements of one file may take this many bytes, which also bounds what a small gzip file can unfold to. */
#define TN_IDX_LIMIT ((int64_t)4 << 30)

/* Reads a whole file into `out`, whose data (in this machine's byte order) the caller frees with tn_free. gzip is recognised
 * by its first bytes, not by the name. Refused, naming the file: another magic, more than TN_MAX_DIMS dimensions, sizes that
 * overflow or exceed TN_IDX_LIMIT, fewer or more bytes than the sizes ask for, damaged gzip. On failure out->data is NULL.
 */
tn_status tn_idx_read(const char *path, tn_tensor *out);

/* Writes u8, i8, i16, i32, f32 or f64 of 1 to 4 dimensions, plain, so that the file appears whole or not at all. */
tn_status tn_idx_write(const char *path, const tn_tensor *tensor);

#endif
