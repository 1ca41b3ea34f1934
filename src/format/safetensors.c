/* safetensors files: one validator that runs before any use, and a streaming writer. Layout: see the header. */
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "format/json.h"

enum { PREFIX = 8, ALIGNMENT = 8, MAX_HEADER = 100000000 };

#define METADATA_KEY "__metadata__"

static uint64_t read_u64(const uint8_t *bytes) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

/* A whole number from 0 on that a double holds exactly. */
static bool whole_number(const cJSON *item, int64_t *out) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble >= 0x1p53)
        return false;
    *out = (int64_t)item->valuedouble;
    return (double)*out == item->valuedouble;
}

static tn_status parse_metadata(tn_safetensors *file, const cJSON *object) {
    if (cJSON_IsNull(object)) /* as mlx writes it */
        return TN_OK;
    if (!cJSON_IsObject(object))
        return tn_fail(TN_ERROR_FORMAT, METADATA_KEY " must be an object of strings");
    const char *duplicate = tn_json_duplicate_key(object);
    if (duplicate)
        return tn_fail(TN_ERROR_FORMAT, METADATA_KEY " has the key '%s' twice", duplicate);
    file->metadata = tn_arena_array(&file->arena, (size_t)cJSON_GetArraySize(object), sizeof *file->metadata);
    if (!file->metadata)
        return tn_fail_memory(METADATA_KEY);
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        if (!cJSON_IsString(item))
            return tn_fail(TN_ERROR_FORMAT, METADATA_KEY ": the value of '%s' is not a string", item->string);
        struct tn_safetensors_meta *meta = &file->metadata[file->metadata_count];
        meta->key = tn_arena_strdup(&file->arena, item->string);
        meta->value = tn_arena_strdup(&file->arena, item->valuestring);
        if (!meta->key || !meta->value)
            return tn_fail_memory(METADATA_KEY);
        file->metadata_count++;
    }
    return TN_OK;
}

static tn_status parse_dtype(const char *name, const cJSON *dtype, tn_tensor *tensor) {
    if (!cJSON_IsString(dtype))
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s': dtype must be a string", name);
    if (!tn_dtype_from_name(dtype->valuestring, &tensor->dtype) ||
        strcmp(dtype->valuestring, tn_dtype_name(tensor->dtype)) != 0)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "tensor '%s': dtype %s is not supported (F64, F32, F16, BF16, I64, I32, I16, I8, U8 and BOOL are)",
                       name, dtype->valuestring);
    return TN_OK;
}

/* Sets the shape and *bytes = its product times the element size. */
static tn_status parse_shape(const char *name, const cJSON *shape, tn_tensor *tensor, int64_t *bytes) {
    if (!cJSON_IsArray(shape))
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s': shape must be a list", name);
    if (cJSON_GetArraySize(shape) > TN_MAX_DIMS)
        return tn_fail(TN_ERROR_UNSUPPORTED, "tensor '%s' has %d dimensions; up to %d are supported", name,
                       cJSON_GetArraySize(shape), TN_MAX_DIMS);
    *bytes = tn_dtype_size(tensor->dtype);
    const cJSON *item;
    cJSON_ArrayForEach(item, shape) {
        int64_t *dim = &tensor->shape[tensor->ndim++];
        if (!whole_number(item, dim))
            return tn_fail(TN_ERROR_FORMAT, "tensor '%s': every dimension of its shape must be a whole number from 0 on",
                           name);
        if (!tn_mul_i64(*bytes, *dim, bytes))
            return tn_fail(TN_ERROR_FORMAT, "tensor '%s': the product of its shape overflows", name);
    }
    return TN_OK;
}

/* `data` holds `size` bytes: what follows the header. */
static tn_status parse_offsets(const char *name, const cJSON *offsets, const uint8_t *data, int64_t size, int64_t bytes,
                               tn_tensor *tensor) {
    int64_t begin, end;
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 || !whole_number(offsets->child, &begin) ||
        !whole_number(offsets->child->next, &end))
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s': data_offsets must be two whole numbers from 0 on", name);
    if (begin > end)
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s': its data ends (%lld) before it begins (%lld)", name, (long long)end,
                       (long long)begin);
    char shape[TN_SHAPE_TEXT];
    if (end - begin != bytes)
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s': its data_offsets span %lld bytes and %s of shape %s takes %lld", name,
                       (long long)(end - begin), tn_dtype_name(tensor->dtype), tn_shape_text(tensor, shape),
                       (long long)bytes);
    if (end > size)
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s': its data ends at byte %lld of %lld: the file is truncated", name,
                       (long long)end, (long long)size);
    tensor->data = (void *)(uintptr_t)(data + begin);
    return TN_OK;
}

static tn_status parse_tensor(tn_safetensors *file, const cJSON *item, const uint8_t *data, int64_t size) {
    const char *name = item->string, *duplicate = tn_json_duplicate_key(item);
    if (tn_map_get_text(&file->by_name, name, NULL))
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s' is there twice", name);
    if (!cJSON_IsObject(item))
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s' must be an object with dtype, shape and data_offsets", name);
    if (duplicate)
        return tn_fail(TN_ERROR_FORMAT, "tensor '%s' has the key '%s' twice", name, duplicate);
    tn_safetensors_entry *entry = &file->entries[file->count];
    int64_t bytes = 0;
    TN_TRY(parse_dtype(name, tn_json_get(item, "dtype"), &entry->tensor));
    TN_TRY(parse_shape(name, tn_json_get(item, "shape"), &entry->tensor, &bytes));
    TN_TRY(parse_offsets(name, tn_json_get(item, "data_offsets"), data, size, bytes, &entry->tensor));
    TN_TRY(tn_map_put_text(&file->by_name, name, (int64_t)file->count));
    entry->name = tn_arena_strdup(&file->arena, name);
    if (!entry->name)
        return tn_fail_memory("tensor names");
    file->count++;
    return TN_OK;
}

static int by_offset(const void *a, const void *b) {
    const tn_tensor *x = &((const tn_safetensors_entry *)a)->tensor, *y = &((const tn_safetensors_entry *)b)->tensor;
    uintptr_t at_x = (uintptr_t)x->data, at_y = (uintptr_t)y->data;
    if (at_x != at_y)
        return at_x < at_y ? -1 : 1;
    /* empty tensors come before the one that begins at the same byte */
    int64_t bytes_x = tn_tensor_bytes(x), bytes_y = tn_tensor_bytes(y);
    return (bytes_x > bytes_y) - (bytes_x < bytes_y);
}

/* Orders the entries by their bytes, which must follow each other without hole, overlap or rest. */
static tn_status check_layout(tn_safetensors *file, const uint8_t *data, int64_t size) {
    qsort(file->entries, file->count, sizeof *file->entries, by_offset);
    int64_t at = 0;
    for (size_t i = 0; i < file->count; i++) {
        const tn_safetensors_entry *entry = &file->entries[i];
        int64_t begin = (const uint8_t *)entry->tensor.data - data;
        if (begin > at)
            return tn_fail(TN_ERROR_FORMAT, "tensor '%s': a hole of %lld bytes lies before its data", entry->name,
                           (long long)(begin - at));
        if (begin < at)
            return tn_fail(TN_ERROR_FORMAT, "tensor '%s': its data overlaps that of '%s'", entry->name,
                           file->entries[i - 1].name);
        at += tn_tensor_bytes(&entry->tensor);
        TN_TRY(tn_map_put_text(&file->by_name, entry->name, (int64_t)i));
    }
    if (at != size)
        return tn_fail(TN_ERROR_FORMAT, "%lld bytes follow the last tensor's data", (long long)(size - at));
    return TN_OK;
}

static tn_status align_tensors(tn_safetensors *file) {
    for (size_t i = 0; i < file->count; i++) {
        tn_tensor *tensor = &file->entries[i].tensor;
        size_t bytes = (size_t)tn_tensor_bytes(tensor);
        if ((uintptr_t)tensor->data % (uintptr_t)tn_dtype_size(tensor->dtype) == 0)
            continue;
        void *copy = tn_arena_alloc(&file->arena, bytes);
        if (!copy)
            return tn_fail_memory("a copy of misaligned tensors");
        memcpy(copy, tensor->data, bytes);
        tensor->data = copy;
    }
    return TN_OK;
}

static tn_status parse_header(tn_safetensors *file, const cJSON *root, const uint8_t *data, int64_t size) {
    file->entries = tn_calloc((size_t)cJSON_GetArraySize(root), sizeof *file->entries);
    if (!file->entries)
        return tn_fail_memory("the list of tensors");
    bool has_metadata = false;
    const cJSON *item;
    cJSON_ArrayForEach(item, root) {
        if (strcmp(item->string, METADATA_KEY) != 0) {
            TN_TRY(parse_tensor(file, item, data, size));
            continue;
        }
        if (has_metadata)
            return tn_fail(TN_ERROR_FORMAT, METADATA_KEY " is there twice");
        has_metadata = true;
        TN_TRY(parse_metadata(file, item));
    }
    TN_TRY(check_layout(file, data, size));
    return align_tensors(file);
}

static tn_status read_file(tn_safetensors *file) {
    TN_TRY(tn_file_map(file->path, &file->mapping));
    const uint8_t *bytes = file->mapping.data;
    size_t size = file->mapping.size;
    if (size < PREFIX)
        return tn_fail(TN_ERROR_FORMAT, "%zu bytes are too few for a safetensors file", size);
    uint64_t header = read_u64(bytes);
    if (header > MAX_HEADER)
        return tn_fail(TN_ERROR_FORMAT, "a header of %llu bytes is more than the %d a safetensors file may have",
                       (unsigned long long)header, (int)MAX_HEADER);
    if (header > size - PREFIX)
        return tn_fail(TN_ERROR_FORMAT, "its header of %llu bytes goes past the end: the file is truncated",
                       (unsigned long long)header);
    const char *text = (const char *)bytes + PREFIX;
    if (header == 0 || text[0] != '{')
        return tn_fail(TN_ERROR_FORMAT, "its header does not begin with '{'");
    cJSON *root;
    TN_TRY(tn_json_parse(text, (size_t)header, "header", &root));
    tn_status status = parse_header(file, root, bytes + PREFIX + header, (int64_t)(size - PREFIX - header));
    cJSON_Delete(root);
    return status;
}

tn_status tn_safetensors_open(const char *path, tn_safetensors *out) {
    *out = (tn_safetensors){.path = tn_strdup(path)};
    tn_status status = out->path ? read_file(out) : tn_fail_memory("a path");
    if (status != TN_OK) {
        tn_safetensors_close(out);
        /* a failed open names the path already */
        return status == TN_ERROR_IO ? status : tn_fail_context(status, "%s", path);
    }
    return TN_OK;
}

void tn_safetensors_close(tn_safetensors *file) {
    tn_free(file->path);
    tn_free(file->entries);
    tn_map_free(&file->by_name);
    tn_arena_free(&file->arena);
    tn_file_unmap(&file->mapping);
    *file = (tn_safetensors){0};
}

const tn_safetensors_entry *tn_safetensors_find(const tn_safetensors *file, const char *name) {
    int64_t index;
    return tn_map_get_text(&file->by_name, name, &index) ? &file->entries[index] : NULL;
}

const char *tn_safetensors_metadata(const tn_safetensors *file, const char *key) {
    for (size_t i = 0; i < file->metadata_count; i++)
        if (strcmp(file->metadata[i].key, key) == 0)
            return file->metadata[i].value;
    return NULL;
}

struct tn_safetensors_writer {
    tn_writer file;
    tn_buf metadata, tensors; /* members of the header's objects, each but the first behind a comma */
    tn_map metadata_keys, names;
    int64_t declared, written; /* bytes of tensor data */
    bool begun, failed;
};

tn_status tn_safetensors_writer_new(tn_safetensors_writer **out, const char *path) {
    *out = NULL;
    tn_safetensors_writer *writer = tn_calloc(1, sizeof *writer);
    if (!writer)
        return tn_fail_memory("a safetensors writer");
    tn_status status = tn_writer_open(&writer->file, path);
    if (status != TN_OK) {
        tn_free(writer);
        return status;
    }
    *out = writer;
    return TN_OK;
}

/* Appends `"<key>":` to `members`; refuses keys that came before. */
static tn_status add_key(tn_safetensors_writer *writer, tn_buf *members, tn_map *keys, const char *key) {
    size_t length = strlen(key);
    if (writer->begun)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: '%s' comes after the header was written", writer->file.path, key);
    if (tn_utf8_valid_prefix(key, length) != length)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: the name '%s' is not valid UTF-8", writer->file.path, key);
    if (tn_map_get(keys, key, length, NULL))
        return tn_fail(TN_ERROR_ARGUMENT, "%s: '%s' is declared twice", writer->file.path, key);
    TN_TRY(tn_map_put(keys, key, length, 0));
    if (members->length)
        tn_buf_putc(members, ',');
    tn_json_print_string(members, key, length);
    tn_buf_putc(members, ':');
    return tn_buf_status(members);
}

tn_status tn_safetensors_writer_metadata(tn_safetensors_writer *writer, const char *key, const char *value) {
    if (tn_utf8_valid_prefix(value, strlen(value)) != strlen(value))
        return tn_fail(TN_ERROR_ARGUMENT, "%s: the metadata '%s' is not valid UTF-8", writer->file.path, key);
    TN_TRY(add_key(writer, &writer->metadata, &writer->metadata_keys, key));
    tn_json_print_string(&writer->metadata, value, strlen(value));
    return tn_buf_status(&writer->metadata);
}

tn_status tn_safetensors_writer_declare(tn_safetensors_writer *writer, const char *name, tn_dtype dtype, int ndim,
                                        const int64_t *shape) {
    const char *path = writer->file.path;
    int64_t bytes = tn_dtype_size(dtype), end;
    if (ndim < 0 || ndim > TN_MAX_DIMS || strcmp(name, METADATA_KEY) == 0)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: a tensor '%s' of %d dimensions cannot be written", path, name, ndim);
    for (int i = 0; i < ndim; i++)
        if (!tn_mul_i64(bytes, shape[i], &bytes))
            return tn_fail(TN_ERROR_ARGUMENT, "%s: the shape of tensor '%s' is negative or overflows", path, name);
    if (!tn_add_i64(writer->declared, bytes, &end))
        return tn_fail(TN_ERROR_ARGUMENT, "%s: the sizes of its tensors overflow", path);
    tn_buf *members = &writer->tensors;
    TN_TRY(add_key(writer, members, &writer->names, name));
    tn_buf_printf(members, "{\"dtype\":\"%s\",\"shape\":[", tn_dtype_name(dtype));
    for (int i = 0; i < ndim; i++)
        tn_buf_printf(members, "%s%lld", i ? "," : "", (long long)shape[i]);
    tn_buf_printf(members, "],\"data_offsets\":[%lld,%lld]}", (long long)writer->declared, (long long)end);
    writer->declared = end;
    return tn_buf_status(members);
}

static tn_status write_header(tn_safetensors_writer *writer, tn_buf *header) {
    tn_buf_putc(header, '{');
    if (writer->metadata.length) {
        tn_buf_puts(header, "\"" METADATA_KEY "\":{");
        tn_buf_append(header, writer->metadata.data, writer->metadata.length);
        tn_buf_puts(header, writer->tensors.length ? "}," : "}");
    }
    tn_buf_append(header, writer->tensors.data, writer->tensors.length);
    tn_buf_putc(header, '}');
    while (header->length % ALIGNMENT && !header->failed)
        tn_buf_putc(header, ' ');
    TN_TRY(tn_buf_status(header));
    if (header->length > MAX_HEADER)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: its header of %zu bytes is more than the %d a safetensors file may have",
                       writer->file.path, header->length, (int)MAX_HEADER);
    uint8_t prefix[PREFIX];
    for (int i = 0; i < PREFIX; i++)
        prefix[i] = (uint8_t)((uint64_t)header->length >> (8 * i));
    TN_TRY(tn_writer_write(&writer->file, prefix, sizeof prefix));
    return tn_writer_write(&writer->file, header->data, header->length);
}

tn_status tn_safetensors_writer_begin(tn_safetensors_writer *writer) {
    if (writer->begun)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: its header is written already", writer->file.path);
    /* a declaration that failed half way must not get into a file */
    TN_TRY(tn_buf_status(&writer->metadata));
    TN_TRY(tn_buf_status(&writer->tensors));
    tn_buf header = {0};
    writer->begun = true;
    tn_status status = write_header(writer, &header);
    writer->failed = status != TN_OK;
    tn_buf_free(&header);
    return status;
}

tn_status tn_safetensors_writer_data(tn_safetensors_writer *writer, const void *bytes, int64_t length) {
    if (!writer->begun || length < 0 || length > writer->declared - writer->written) {
        writer->failed = true;
        return tn_fail(TN_ERROR_ARGUMENT, "%s: %lld bytes of tensor data come behind %lld of %lld declared%s",
                       writer->file.path, (long long)length, (long long)writer->written, (long long)writer->declared,
                       writer->begun ? "" : ", and before the header");
    }
    tn_status status = tn_writer_write(&writer->file, bytes, (size_t)length);
    writer->failed |= status != TN_OK;
    writer->written += length;
    return status;
}

static void writer_free(tn_safetensors_writer *writer) {
    tn_buf_free(&writer->metadata);
    tn_buf_free(&writer->tensors);
    tn_map_free(&writer->metadata_keys);
    tn_map_free(&writer->names);
    tn_free(writer);
}

tn_status tn_safetensors_writer_finish(tn_safetensors_writer *writer) {
    tn_status status;
    if (writer->failed || !writer->begun)
        status = tn_fail(TN_ERROR_ARGUMENT, "%s is not written: %s", writer->file.path,
                         writer->failed ? "an earlier step failed" : "its header was never begun");
    else if (writer->written != writer->declared)
        status = tn_fail(TN_ERROR_ARGUMENT, "%s: only %lld of the %lld bytes of tensor data declared came",
                         writer->file.path, (long long)writer->written, (long long)writer->declared);
    else
        status = tn_writer_commit(&writer->file);
    tn_writer_abort(&writer->file);
    writer_free(writer);
    return status;
}

void tn_safetensors_writer_abort(tn_safetensors_writer *writer) {
    if (!writer)
        return;
    tn_writer_abort(&writer->file);
    writer_free(writer);
}
