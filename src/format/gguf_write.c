/* Writing GGUF version 3: the header is gathered in memory, tensor data is streamed behind it. Layout: see gguf.h. */
#include <string.h>

#include "base/utf8.h"
#include "format/gguf.h"

enum { VERSION = 3 };

typedef struct declared_tensor {
    char name[TN_GGUF_NAME_LIMIT];
    uint32_t type;
    int ndim;
    int64_t shape[TN_MAX_DIMS], bytes;
} declared_tensor;

struct tn_gguf_writer {
    tn_writer file;
    tn_buf metadata, tensors; /* encoded values; an array of declared_tensor */
    tn_map keys, names;
    int64_t alignment;
    size_t current; /* the tensor whose data is due, of which `written` bytes came */
    int64_t written;
    bool begun, failed;
};

tn_status tn_gguf_writer_new(tn_gguf_writer **out, const char *path) {
    *out = NULL;
    tn_gguf_writer *writer = tn_calloc(1, sizeof *writer);
    if (!writer)
        return tn_fail_memory("a GGUF writer");
    writer->alignment = TN_GGUF_DEFAULT_ALIGNMENT;
    tn_status status = tn_writer_open(&writer->file, path);
    if (status != TN_OK) {
        tn_free(writer);
        return status;
    }
    *out = writer;
    return TN_OK;
}

static size_t tensor_count(const tn_gguf_writer *writer) {
    return writer->tensors.length / sizeof(declared_tensor);
}

static declared_tensor *tensor_at(const tn_gguf_writer *writer, size_t i) {
    return (declared_tensor *)(void *)writer->tensors.data + i;
}

static void put_integer(tn_buf *out, uint64_t value, int size) {
    for (int i = 0; i < size; i++)
        tn_buf_putc(out, (char)(value >> (8 * i)));
}

static void put_string(tn_buf *out, const char *bytes, size_t length) {
    put_integer(out, length, 8);
    tn_buf_append(out, bytes, length);
}

/* Registers a key or name, once. */
static tn_status add_name(tn_gguf_writer *writer, tn_map *names, const char *name, size_t limit) {
    const char *path = writer->file.path;
    size_t length = strlen(name);
    if (writer->begun)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: '%s' comes after the header is written", path, name);
    if (length >= limit || tn_utf8_valid_prefix(name, length) != length)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: the name '%.80s' is not UTF-8 of up to %zu bytes", path, name, limit - 1);
    if (tn_map_get_text(names, name, NULL))
        return tn_fail(TN_ERROR_ARGUMENT, "%s: '%s' is given twice", path, name);
    return tn_map_put_text(names, name, 0);
}

static tn_status set_alignment(tn_gguf_writer *writer, const tn_gguf_value *value) {
    int64_t alignment = 0;
    if (value->is_array || value->kind != TN_GGUF_U32 || !tn_gguf_integer_at(value, 0, &alignment) || alignment < 1 ||
        alignment > TN_GGUF_LARGEST_ALIGNMENT || (alignment & (alignment - 1)) != 0)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: general.alignment must be a u32, a power of two up to %d", writer->file.path,
                       (int)TN_GGUF_LARGEST_ALIGNMENT);
    writer->alignment = alignment;
    return TN_OK;
}

static int kind_size(tn_gguf_kind kind) {
    switch (kind) {
    case TN_GGUF_U8:
    case TN_GGUF_I8:
    case TN_GGUF_BOOL: return 1;
    case TN_GGUF_U16:
    case TN_GGUF_I16: return 2;
    case TN_GGUF_U32:
    case TN_GGUF_I32:
    case TN_GGUF_F32: return 4;
    default: return 8;
    }
}

tn_status tn_gguf_writer_value(tn_gguf_writer *writer, const tn_gguf_value *value) {
    tn_buf *out = &writer->metadata;
    TN_TRY(add_name(writer, &writer->keys, value->key, TN_GGUF_KEY_LIMIT));
    if (strcmp(value->key, "general.alignment") == 0)
        TN_TRY(set_alignment(writer, value));
    put_string(out, value->key, strlen(value->key));
    if (value->is_array)
        put_integer(out, TN_GGUF_ARRAY, 4);
    put_integer(out, value->kind, 4);
    if (value->is_array)
        put_integer(out, (uint64_t)value->count, 8);
    for (int64_t i = 0; value->kind == TN_GGUF_STRING && i < value->count; i++)
        put_string(out, value->strings[i].bytes, value->strings[i].length);
    if (value->kind != TN_GGUF_STRING)
        tn_buf_append(out, value->elements, (size_t)value->count * (size_t)kind_size(value->kind));
    return tn_buf_status(out);
}

tn_status tn_gguf_writer_integer(tn_gguf_writer *writer, const char *key, tn_gguf_kind kind, int64_t value) {
    uint8_t bytes[8];
    int64_t back;
    tn_gguf_value one = {.key = key, .kind = kind, .count = 1, .elements = bytes};
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)value >> (8 * i));
    if (!tn_gguf_integer_at(&one, 0, &back) || back != value)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: %lld is no %s, as '%s' is to be", writer->file.path, (long long)value,
                       tn_gguf_kind_name(kind), key);
    return tn_gguf_writer_value(writer, &one);
}

tn_status tn_gguf_writer_float(tn_gguf_writer *writer, const char *key, float value) {
    return tn_gguf_writer_value(writer, &(tn_gguf_value){.key = key, .kind = TN_GGUF_F32, .count = 1, .elements = &value});
}

tn_status tn_gguf_writer_bool(tn_gguf_writer *writer, const char *key, bool value) {
    uint8_t byte = value;
    return tn_gguf_writer_value(writer, &(tn_gguf_value){.key = key, .kind = TN_GGUF_BOOL, .count = 1, .elements = &byte});
}

tn_status tn_gguf_writer_string(tn_gguf_writer *writer, const char *key, const char *text) {
    tn_gguf_string string = {text, strlen(text)};
    return tn_gguf_writer_value(writer,
                                &(tn_gguf_value){.key = key, .kind = TN_GGUF_STRING, .count = 1, .strings = &string});
}

tn_status tn_gguf_writer_declare(tn_gguf_writer *writer, const char *name, uint32_t type, int ndim, const int64_t *shape) {
    const char *path = writer->file.path;
    declared_tensor tensor = {.type = type, .ndim = ndim};
    int64_t rows = 1;
    if (ndim < 0 || ndim > TN_MAX_DIMS)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: a tensor '%s' of %d dimensions cannot be written", path, name, ndim);
    for (int i = 0; i < ndim; i++) {
        tensor.shape[i] = shape[i];
        if (shape[i] < 0 || (i < ndim - 1 && !tn_mul_i64(rows, shape[i], &rows)))
            return tn_fail(TN_ERROR_ARGUMENT, "%s: the shape of tensor '%s' is negative or overflows", path, name);
    }
    tn_status status = tn_ggml_bytes(type, rows, ndim ? shape[ndim - 1] : 1, &tensor.bytes);
    if (status != TN_OK)
        return tn_fail_context(TN_ERROR_ARGUMENT, "%s: tensor '%s'", path, name);
    TN_TRY(add_name(writer, &writer->names, name, TN_GGUF_NAME_LIMIT));
    memcpy(tensor.name, name, strlen(name));
    tn_buf_append(&writer->tensors, &tensor, sizeof tensor);
    return tn_buf_status(&writer->tensors);
}

static tn_status write_padding(tn_gguf_writer *writer, int64_t written) {
    static const char zeros[256];
    int64_t rest = -written & (writer->alignment - 1);
    for (; rest > 0; rest -= (int64_t)sizeof zeros)
        TN_TRY(tn_writer_write(&writer->file, zeros, rest < (int64_t)sizeof zeros ? (size_t)rest : sizeof zeros));
    return TN_OK;
}

static tn_status write_header(tn_gguf_writer *writer, tn_buf *header) {
    size_t count = tensor_count(writer);
    int64_t offset = 0, padded;
    tn_buf_puts(header, "GGUF");
    put_integer(header, VERSION, 4);
    put_integer(header, count, 8);
    put_integer(header, writer->keys.count, 8);
    tn_buf_append(header, writer->metadata.data, writer->metadata.length);
    for (size_t i = 0; i < count; i++) {
        const declared_tensor *tensor = tensor_at(writer, i);
        put_string(header, tensor->name, strlen(tensor->name));
        put_integer(header, (uint64_t)tensor->ndim, 4);
        for (int k = tensor->ndim - 1; k >= 0; k--)
            put_integer(header, (uint64_t)tensor->shape[k], 8);
        put_integer(header, tensor->type, 4);
        put_integer(header, (uint64_t)offset, 8);
        if (!tn_add_i64(tensor->bytes, writer->alignment - 1, &padded) ||
            !tn_add_i64(offset, padded & ~(writer->alignment - 1), &offset))
            return tn_fail(TN_ERROR_ARGUMENT, "%s: the sizes of its tensors overflow", writer->file.path);
    }
    TN_TRY(tn_buf_status(header));
    TN_TRY(tn_writer_write(&writer->file, header->data, header->length));
    return write_padding(writer, (int64_t)header->length);
}

/* Pads a tensor that is complete and goes on to the next that is not empty. */
static tn_status advance(tn_gguf_writer *writer) {
    while (writer->current < tensor_count(writer) && writer->written == tensor_at(writer, writer->current)->bytes) {
        TN_TRY(write_padding(writer, writer->written));
        writer->current++;
        writer->written = 0;
    }
    return TN_OK;
}

tn_status tn_gguf_writer_begin(tn_gguf_writer *writer) {
    if (writer->begun)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: its header is written already", writer->file.path);
    /* a declaration that failed half way must not get into a file */
    TN_TRY(tn_buf_status(&writer->metadata));
    TN_TRY(tn_buf_status(&writer->tensors));
    tn_buf header = {0};
    writer->begun = true;
    tn_status status = write_header(writer, &header);
    if (status == TN_OK)
        status = advance(writer);
    writer->failed = status != TN_OK;
    tn_buf_free(&header);
    return status;
}

tn_status tn_gguf_writer_data(tn_gguf_writer *writer, const void *bytes, int64_t length) {
    const char *at = bytes;
    tn_status status = TN_OK;
    if (!writer->begun || length < 0)
        status = tn_fail(TN_ERROR_ARGUMENT, "%s: tensor data comes before the header", writer->file.path);
    while (status == TN_OK && length > 0) {
        if (writer->current == tensor_count(writer)) {
            status = tn_fail(TN_ERROR_ARGUMENT, "%s: %lld bytes of tensor data more than declared", writer->file.path,
                             (long long)length);
            break;
        }
        int64_t rest = tensor_at(writer, writer->current)->bytes - writer->written, piece = length < rest ? length : rest;
        status = tn_writer_write(&writer->file, at, (size_t)piece);
        at += piece;
        length -= piece;
        writer->written += piece;
        if (status == TN_OK)
            status = advance(writer);
    }
    writer->failed |= status != TN_OK;
    return status;
}

static void writer_free(tn_gguf_writer *writer) {
    tn_buf_free(&writer->metadata);
    tn_buf_free(&writer->tensors);
    tn_map_free(&writer->keys);
    tn_map_free(&writer->names);
    tn_free(writer);
}

tn_status tn_gguf_writer_finish(tn_gguf_writer *writer) {
    tn_status status;
    if (writer->failed || !writer->begun)
        status = tn_fail(TN_ERROR_ARGUMENT, "%s is not written: %s", writer->file.path,
                         writer->failed ? "an earlier step failed" : "its header was never begun");
    else if (writer->current < tensor_count(writer))
        status = tn_fail(TN_ERROR_ARGUMENT, "%s: only %lld of the %lld bytes of tensor '%s' came", writer->file.path,
                         (long long)writer->written, (long long)tensor_at(writer, writer->current)->bytes,
                         tensor_at(writer, writer->current)->name);
    else
        status = tn_writer_commit(&writer->file);
    tn_writer_abort(&writer->file);
    writer_free(writer);
    return status;
}

void tn_gguf_writer_abort(tn_gguf_writer *writer) {
    if (!writer)
        return;
    tn_writer_abort(&writer->file);
    writer_free(writer);
}
