/* GGUF, versions 2 and 3: metadata and tensors in one file. All numbers are little-endian.
 *
 *   "GGUF"  u32 version  u64 tensor count  u64 metadata count
 *   metadata:  string key, u32 kind, value           string: u64 length, bytes; array: u32 kind, u64 count, elements
 *   tensors:   string name, u32 n, u64 dims[n] (innermost first), u32 ggml type, u64 offset
 *   padding to a multiple of general.alignment (32 when absent)
 *   data:      each tensor at its offset from here, one behind the other, each padded to the alignment
 *
 * The limits are ggml's: names below 64 bytes, up to 4 dimensions, no arrays of arrays, nothing twice. */
#ifndef TN_FORMAT_GGUF_H
#define TN_FORMAT_GGUF_H

#include "base/file.h"
#include "base/map.h"
#include "tensor/quant_ggml.h"

/* Lengths with the NUL that ends names in memory. */
enum {
    TN_GGUF_NAME_LIMIT = 64,
    TN_GGUF_KEY_LIMIT = 65536,
    TN_GGUF_DEFAULT_ALIGNMENT = 32,
    TN_GGUF_LARGEST_ALIGNMENT = 1 << 20
};

typedef enum tn_gguf_kind {
    TN_GGUF_U8,
    TN_GGUF_I8,
    TN_GGUF_U16,
    TN_GGUF_I16,
    TN_GGUF_U32,
    TN_GGUF_I32,
    TN_GGUF_F32,
    TN_GGUF_BOOL,
    TN_GGUF_STRING,
    TN_GGUF_ARRAY,
    TN_GGUF_U64,
    TN_GGUF_I64,
    TN_GGUF_F64,
    TN_GGUF_KIND_COUNT
} tn_gguf_kind;

/* Bytes of any values, not NUL-terminated; into the mapping. */
typedef struct tn_gguf_string {
    const char *bytes;
    size_t length;
} tn_gguf_string;

/* A value, or an array when `is_array`; `count` is 1 for a value. */
typedef struct tn_gguf_value {
    const char *key;
    tn_gguf_kind kind; /* of the value or of the array's elements; never TN_GGUF_ARRAY */
    bool is_array;
    int64_t count;
    const void *elements;          /* numbers and bools as in the file, at any address */
    const tn_gguf_string *strings; /* of kind TN_GGUF_STRING instead of elements */
} tn_gguf_value;

typedef struct tn_gguf_tensor {
    const char *name;
    uint32_t type; /* always one that tn_ggml_type_info knows */
    int ndim;
    int64_t shape[TN_MAX_DIMS]; /* row-major: the innermost dimension last, as everywhere else */
    int64_t rows, columns;      /* columns: the innermost dimension; rows: the product of the others */
    const void *data;           /* into the mapping, aligned to the file's alignment or the page */
    int64_t bytes;
} tn_gguf_tensor;

/* An open file: mapped, validated as a whole; metadata and tensors in file order. */
typedef struct tn_gguf {
    char *path;
    tn_mapping mapping;
    uint32_t version;
    int64_t alignment, data_start;
    tn_gguf_value *values;
    size_t value_count;
    tn_gguf_tensor *tensors;
    size_t tensor_count;
    tn_map value_index, tensor_index; /* key or name -> index */
    tn_arena arena;
} tn_gguf;

/* Opens and validates; errors say the file, the key or tensor, and the rule broken. */
tn_status tn_gguf_open(const char *path, tn_gguf *out);
void tn_gguf_close(tn_gguf *file);

const tn_gguf_value *tn_gguf_find(const tn_gguf *file, const char *key);          /* NULL when absent */
const tn_gguf_tensor *tn_gguf_find_tensor(const tn_gguf *file, const char *name); /* NULL when absent */

/* Whether a path is a GGUF file. */
bool tn_gguf_is_file(const char *path);

/* The GGUF file that a path to a model means: the file itself, or model.gguf or else the only *.gguf of a folder without
 * safetensors weights. Not found is no error; several files to choose from are. */
tn_status tn_gguf_locate(const char *path, char file[TN_PATH_MAX], bool *found);

/* "u32", "string", ... */
const char *tn_gguf_kind_name(tn_gguf_kind kind);

/* Element `i` of a value or array as a number of any width; false when it is not of that sort or does not fit. */
bool tn_gguf_integer_at(const tn_gguf_value *value, int64_t i, int64_t *out); /* integers */
bool tn_gguf_number_at(const tn_gguf_value *value, int64_t i, double *out);   /* integers and floats */
bool tn_gguf_bool_at(const tn_gguf_value *value, int64_t i, bool *out);

/* Single values by key. Absent keys and values of another sort are TN_ERROR_FORMAT, naming file and key. A string is copied:
 * NUL-terminated UTF-8 without NUL inside, which the file owns. */
tn_status tn_gguf_get_integer(const tn_gguf *file, const char *key, int64_t *out);
tn_status tn_gguf_get_number(const tn_gguf *file, const char *key, double *out);
tn_status tn_gguf_get_bool(const tn_gguf *file, const char *key, bool *out);
tn_status tn_gguf_get_string(tn_gguf *file, const char *key, const char **out);

/* An array by key whose elements are of just this kind; errors as above. */
tn_status tn_gguf_get_array(const tn_gguf *file, const char *key, tn_gguf_kind kind, const tn_gguf_value **out);

/* A tensor of a plain type as one of ours, into the mapping; false for blocks, and for data that lies at an address which is
 * no multiple of its element size, as general.alignment may make it: decode or copy those. */
bool tn_gguf_plain_tensor(const tn_gguf_tensor *tensor, tn_tensor *out);

/* Writing, streamed: give metadata and declare every tensor in any order, begin, give the data in the order of declaration,
 * finish. The file appears under its name only when finished (tn_writer). Version 3; `general.alignment` is obeyed. Keys and
 * names are UTF-8; each may come once. A writer whose step failed is good for abort only. */
typedef struct tn_gguf_writer tn_gguf_writer;

tn_status tn_gguf_writer_new(tn_gguf_writer **out, const char *path);
tn_status tn_gguf_writer_integer(tn_gguf_writer *writer, const char *key, tn_gguf_kind kind, int64_t value);
tn_status tn_gguf_writer_float(tn_gguf_writer *writer, const char *key, float value);
tn_status tn_gguf_writer_bool(tn_gguf_writer *writer, const char *key, bool value);
tn_status tn_gguf_writer_string(tn_gguf_writer *writer, const char *key, const char *text);
/* Any value or array, as one that was read; strings may hold any bytes. */
tn_status tn_gguf_writer_value(tn_gguf_writer *writer, const tn_gguf_value *value);
/* Rows must be whole blocks of the type. */
tn_status tn_gguf_writer_declare(tn_gguf_writer *writer, const char *name, uint32_t type, int ndim, const int64_t *shape);
tn_status tn_gguf_writer_begin(tn_gguf_writer *writer);
tn_status tn_gguf_writer_data(tn_gguf_writer *writer, const void *bytes, int64_t length); /* in pieces, too */
tn_status tn_gguf_writer_finish(tn_gguf_writer *writer); /* checks that all bytes came; frees the writer */
void tn_gguf_writer_abort(tn_gguf_writer *writer);       /* removes what was written; frees the writer */

#endif
