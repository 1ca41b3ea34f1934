/* safetensors: u64 N (little-endian), N bytes of JSON header, then the tensors' bytes back to back.
 *
 *   { "__metadata__": {string: string}, "<name>": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]} }
 *
 * Offsets count from the first byte behind the header; tensors leave no holes and no trailing bytes. */
#ifndef TN_FORMAT_SAFETENSORS_H
#define TN_FORMAT_SAFETENSORS_H

#include "base/file.h"
#include "base/map.h"
#include "tensor/tensor.h"

typedef struct tn_safetensors_entry {
    const char *name;
    tn_tensor tensor; /* data points into the mapping; shapes of more than TN_MAX_DIMS dimensions are refused */
} tn_safetensors_entry;

typedef struct tn_safetensors_meta {
    const char *key, *value;
} tn_safetensors_meta;

/* An open file: mapped, validated as a whole, tensors in the order of their bytes. */
typedef struct tn_safetensors {
    char *path;
    tn_mapping mapping;
    tn_safetensors_entry *entries;
    size_t count;
    tn_map by_name;                /* name -> index into entries */
    tn_safetensors_meta *metadata; /* in file order */
    size_t metadata_count;
    tn_arena arena; /* names and metadata */
} tn_safetensors;

/* Opens and validates; errors say the file, the tensor and the rule broken. A misaligned tensor's bytes are refused only
 * when the element size demands alignment the file does not give: such data is copied into the arena instead. */
tn_status tn_safetensors_open(const char *path, tn_safetensors *out);
void tn_safetensors_close(tn_safetensors *file);

const tn_safetensors_entry *tn_safetensors_find(const tn_safetensors *file, const char *name); /* NULL when absent */
const char *tn_safetensors_metadata(const tn_safetensors *file, const char *key);              /* NULL when absent */

/* Writing, streamed: declare every tensor, begin, give the data in the order of declaration, finish. The file appears
 * under its name only when finished (tn_writer). Header bytes are padded so that data starts 8-aligned; data lies in the
 * order of declaration, so declare large element types before small ones. A writer whose step failed is good for abort only.
 * Names and metadata are UTF-8; each may come once. */
typedef struct tn_safetensors_writer tn_safetensors_writer;

tn_status tn_safetensors_writer_new(tn_safetensors_writer **out, const char *path);
tn_status tn_safetensors_writer_metadata(tn_safetensors_writer *writer, const char *key, const char *value);
tn_status tn_safetensors_writer_declare(tn_safetensors_writer *writer, const char *name, tn_dtype dtype, int ndim,
                                        const int64_t *shape);
tn_status tn_safetensors_writer_begin(tn_safetensors_writer *writer);
tn_status tn_safetensors_writer_data(tn_safetensors_writer *writer, const void *bytes, int64_t length); /* in pieces, too */
tn_status tn_safetensors_writer_finish(tn_safetensors_writer *writer); /* checks that all bytes came; frees the writer */
void tn_safetensors_writer_abort(tn_safetensors_writer *writer);       /* removes what was written; frees the writer */

#endif
