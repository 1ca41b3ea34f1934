/* Reading GGUF: a cursor that never passes the end, one validator that runs before any use. Layout: see the header. */
#include "format/gguf.h"

#include <string.h>

#include "base/utf8.h"

static const struct {
    const char *name;
    int size; /* 0: of varying size */
} kinds[TN_GGUF_KIND_COUNT] = {
    [TN_GGUF_U8] = {"u8", 1},       [TN_GGUF_I8] = {"i8", 1},     [TN_GGUF_U16] = {"u16", 2},
    [TN_GGUF_I16] = {"i16", 2},     [TN_GGUF_U32] = {"u32", 4},   [TN_GGUF_I32] = {"i32", 4},
    [TN_GGUF_F32] = {"f32", 4},     [TN_GGUF_BOOL] = {"bool", 1}, [TN_GGUF_STRING] = {"string", 0},
    [TN_GGUF_ARRAY] = {"array", 0}, [TN_GGUF_U64] = {"u64", 8},   [TN_GGUF_I64] = {"i64", 8},
    [TN_GGUF_F64] = {"f64", 8},
};

const char *tn_gguf_kind_name(tn_gguf_kind kind) {
    return kinds[kind].name;
}

typedef struct cursor {
    const uint8_t *at, *end;
} cursor;

static uint64_t left(const cursor *in) {
    return (uint64_t)(in->end - in->at);
}

static tn_status truncated(void) {
    return tn_fail(TN_ERROR_FORMAT, "the file ends in the middle: it is truncated, or a size in it is wrong");
}

static uint64_t little_endian(const uint8_t *bytes, int size) {
    uint64_t value = 0;
    for (int i = 0; i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static tn_status read_u32(cursor *in, uint32_t *out) {
    if (left(in) < 4)
        return truncated();
    *out = (uint32_t)little_endian(in->at, 4);
    in->at += 4;
    return TN_OK;
}

static tn_status read_u64(cursor *in, uint64_t *out) {
    if (left(in) < 8)
        return truncated();
    *out = little_endian(in->at, 8);
    in->at += 8;
    return TN_OK;
}

static tn_status read_string(cursor *in, tn_gguf_string *out) {
    uint64_t length = 0;
    TN_TRY(read_u64(in, &length));
    if (length > left(in))
        return tn_fail(TN_ERROR_FORMAT, "a string of %llu bytes goes past the end of the file", (unsigned long long)length);
    *out = (tn_gguf_string){(const char *)in->at, (size_t)length};
    in->at += length;
    return TN_OK;
}

/* A key or a tensor's name: text that can stand in messages and be compared. */
static tn_status read_name(cursor *in, tn_arena *arena, size_t limit, const char **out) {
    tn_gguf_string name = {0};
    TN_TRY(read_string(in, &name));
    if (name.length >= limit)
        return tn_fail(TN_ERROR_FORMAT, "a name of %zu bytes is longer than the %zu that GGUF allows", name.length,
                       limit - 1);
    if (memchr(name.bytes, 0, name.length) || tn_utf8_valid_prefix(name.bytes, name.length) != name.length)
        return tn_fail(TN_ERROR_FORMAT, "the name is not valid UTF-8");
    *out = tn_arena_strndup(arena, name.bytes, name.length);
    return *out ? TN_OK : tn_fail_memory("names");
}

static tn_status read_strings(cursor *in, tn_arena *arena, tn_gguf_value *value) {
    tn_gguf_string *strings = tn_arena_array(arena, (size_t)value->count, sizeof *strings);
    if (!strings)
        return tn_fail_memory("metadata");
    value->strings = strings;
    for (int64_t i = 0; i < value->count; i++)
        TN_TRY(read_string(in, &strings[i]));
    return TN_OK;
}

static tn_status read_elements(cursor *in, tn_arena *arena, tn_gguf_value *value, uint64_t count) {
    /* each string takes at least its length: what is allocated stays in proportion to the file */
    uint64_t size = value->kind == TN_GGUF_STRING ? 8 : (uint64_t)kinds[value->kind].size;
    if (count > left(in) / size)
        return tn_fail(TN_ERROR_FORMAT, "its %llu values of %s go past the end of the file", (unsigned long long)count,
                       kinds[value->kind].name);
    value->count = (int64_t)count;
    if (value->kind == TN_GGUF_STRING)
        return read_strings(in, arena, value);
    value->elements = in->at;
    for (uint64_t i = 0; value->kind == TN_GGUF_BOOL && i < count; i++)
        if (in->at[i] > 1)
            return tn_fail(TN_ERROR_FORMAT, "a bool has the value %d", in->at[i]);
    in->at += count * size;
    return TN_OK;
}

static tn_status read_kind(cursor *in, tn_gguf_kind *out) {
    uint32_t kind = 0;
    TN_TRY(read_u32(in, &kind));
    if (kind >= TN_GGUF_KIND_COUNT)
        return tn_fail(TN_ERROR_FORMAT, "values of the type %u are not known", (unsigned)kind);
    *out = (tn_gguf_kind)kind;
    return TN_OK;
}

static tn_status read_value(cursor *in, tn_arena *arena, tn_gguf_value *value) {
    uint64_t count = 1;
    TN_TRY(read_kind(in, &value->kind));
    value->is_array = value->kind == TN_GGUF_ARRAY;
    if (value->is_array) {
        TN_TRY(read_kind(in, &value->kind));
        TN_TRY(read_u64(in, &count));
        if (value->kind == TN_GGUF_ARRAY)
            return tn_fail(TN_ERROR_UNSUPPORTED, "arrays of arrays are not supported");
    }
    return read_elements(in, arena, value, count);
}

static tn_status read_metadata(tn_gguf *file, cursor *in, uint64_t count) {
    enum { SMALLEST = 8 + 4 + 1 };
    if (count > left(in) / SMALLEST)
        return tn_fail(TN_ERROR_FORMAT, "%llu metadata keys are more than the file can hold", (unsigned long long)count);
    file->values = tn_calloc((size_t)count, sizeof *file->values);
    if (!file->values)
        return tn_fail_memory("metadata");
    for (; file->value_count < count; file->value_count++) {
        tn_gguf_value *value = &file->values[file->value_count];
        tn_status status = read_name(in, &file->arena, TN_GGUF_KEY_LIMIT, &value->key);
        if (status != TN_OK)
            return tn_fail_context(status, "metadata key %zu of %llu", file->value_count + 1, (unsigned long long)count);
        if (tn_map_get_text(&file->value_index, value->key, NULL))
            return tn_fail(TN_ERROR_FORMAT, "the key '%s' is there twice", value->key);
        TN_TRY(tn_map_put_text(&file->value_index, value->key, (int64_t)file->value_count));
        status = read_value(in, &file->arena, value);
        if (status != TN_OK)
            return tn_fail_context(status, "the key '%s'", value->key);
    }
    return TN_OK;
}

static tn_status read_alignment(tn_gguf *file) {
    const tn_gguf_value *value = tn_gguf_find(file, "general.alignment");
    file->alignment = TN_GGUF_DEFAULT_ALIGNMENT;
    if (!value)
        return TN_OK;
    if (value->is_array || value->kind != TN_GGUF_U32 || !tn_gguf_integer_at(value, 0, &file->alignment) ||
        file->alignment < 1 || file->alignment > TN_GGUF_LARGEST_ALIGNMENT || (file->alignment & (file->alignment - 1)) != 0)
        return tn_fail(TN_ERROR_FORMAT, "the key 'general.alignment' must be a u32, a power of two up to %d",
                       (int)TN_GGUF_LARGEST_ALIGNMENT);
    return TN_OK;
}

/* The file's first dimension is the innermost. */
static tn_status read_shape(cursor *in, tn_gguf_tensor *tensor) {
    uint32_t ndim = 0;
    TN_TRY(read_u32(in, &ndim));
    if (ndim > TN_MAX_DIMS)
        return tn_fail(TN_ERROR_FORMAT, "it has %u dimensions; GGUF allows %d", (unsigned)ndim, (int)TN_MAX_DIMS);
    tensor->ndim = (int)ndim;
    tensor->rows = tensor->columns = 1;
    /* without the zeros, whose place would decide which partial product overflows */
    int64_t product = 1;
    for (int i = tensor->ndim - 1; i >= 0; i--) {
        uint64_t dim = 0;
        TN_TRY(read_u64(in, &dim));
        if (dim > INT64_MAX || !tn_mul_i64(product, dim ? (int64_t)dim : 1, &product))
            return tn_fail(TN_ERROR_FORMAT, "the product of its shape overflows");
        tensor->shape[i] = (int64_t)dim;
        if (i == tensor->ndim - 1)
            tensor->columns = (int64_t)dim;
        else
            tensor->rows *= (int64_t)dim;
    }
    return TN_OK;
}

/* *end: where the padded data of the tensors before it ends, and then where that of this one does. */
static tn_status read_tensor(const tn_gguf *file, cursor *in, tn_gguf_tensor *tensor, uint64_t *offset, int64_t *end) {
    TN_TRY(read_shape(in, tensor));
    TN_TRY(read_u32(in, &tensor->type));
    TN_TRY(read_u64(in, offset));
    TN_TRY(tn_ggml_bytes(tensor->type, tensor->rows, tensor->columns, &tensor->bytes));
    if (*offset != (uint64_t)*end)
        return tn_fail(TN_ERROR_FORMAT, "its data begins at byte %llu where that of the tensor before it ends at %lld",
                       (unsigned long long)*offset, (long long)*end);
    int64_t padded;
    if (!tn_add_i64(tensor->bytes, file->alignment - 1, &padded) || !tn_add_i64(*end, padded & ~(file->alignment - 1), end))
        return tn_fail(TN_ERROR_FORMAT, "the sizes of the tensors overflow");
    return TN_OK;
}

static tn_status read_tensors(tn_gguf *file, cursor *in, uint64_t count, uint64_t *offsets) {
    int64_t end = 0;
    for (; file->tensor_count < count; file->tensor_count++) {
        tn_gguf_tensor *tensor = &file->tensors[file->tensor_count];
        tn_status status = read_name(in, &file->arena, TN_GGUF_NAME_LIMIT, &tensor->name);
        if (status != TN_OK)
            return tn_fail_context(status, "tensor %zu of %llu", file->tensor_count + 1, (unsigned long long)count);
        if (tn_map_get_text(&file->tensor_index, tensor->name, NULL))
            return tn_fail(TN_ERROR_FORMAT, "tensor '%s' is there twice", tensor->name);
        TN_TRY(tn_map_put_text(&file->tensor_index, tensor->name, (int64_t)file->tensor_count));
        status = read_tensor(file, in, tensor, &offsets[file->tensor_count], &end);
        if (status != TN_OK)
            return tn_fail_context(status, "tensor '%s'", tensor->name);
    }
    return TN_OK;
}

/* `at`: the first byte behind the tensors' descriptions. The padding behind the last tensor may be missing. */
static tn_status place_tensors(tn_gguf *file, const uint8_t *at, const uint64_t *offsets) {
    uint64_t size = file->mapping.size, header = (uint64_t)(at - file->mapping.data), mask = (uint64_t)file->alignment - 1;
    uint64_t start = (header + mask) & ~mask;
    file->data_start = (int64_t)start;
    for (size_t i = 0; i < file->tensor_count; i++) {
        tn_gguf_tensor *tensor = &file->tensors[i];
        /* an empty tensor may stand at the end of a file whose padding is missing */
        if (tensor->bytes &&
            (start > size || offsets[i] > size - start || (uint64_t)tensor->bytes > size - start - offsets[i]))
            return tn_fail(TN_ERROR_FORMAT,
                           "tensor '%s': its %lld bytes of data go past the end of the file, which is truncated",
                           tensor->name, (long long)tensor->bytes);
        tensor->data = tensor->bytes ? file->mapping.data + start + offsets[i] : file->mapping.data;
    }
    return TN_OK;
}

static tn_status read_header(tn_gguf *file, cursor *in, uint64_t *tensors, uint64_t *values) {
    if (left(in) < 4 || memcmp(in->at, "GGUF", 4) != 0)
        return tn_fail(TN_ERROR_FORMAT, "it is not a GGUF file: it does not begin with 'GGUF'");
    in->at += 4;
    TN_TRY(read_u32(in, &file->version));
    if (file->version && (file->version & 0xffff) == 0)
        return tn_fail(TN_ERROR_UNSUPPORTED, "it is in big-endian byte order; convert it for little-endian machines");
    if (file->version != 2 && file->version != 3)
        return tn_fail(TN_ERROR_UNSUPPORTED, "GGUF version %u is not supported (2 and 3 are)", (unsigned)file->version);
    TN_TRY(read_u64(in, tensors));
    return read_u64(in, values);
}

static tn_status read_file(tn_gguf *file) {
    enum { SMALLEST = 8 + 4 + 4 + 8 };
    uint64_t tensors = 0, values = 0;
    TN_TRY(tn_file_map(file->path, &file->mapping));
    /* of an empty file nothing is mapped */
    const uint8_t *bytes = file->mapping.data ? file->mapping.data : (const uint8_t *)"";
    cursor in = {bytes, bytes + file->mapping.size};
    TN_TRY(read_header(file, &in, &tensors, &values));
    TN_TRY(read_metadata(file, &in, values));
    TN_TRY(read_alignment(file));
    if (tensors > left(&in) / SMALLEST)
        return tn_fail(TN_ERROR_FORMAT, "%llu tensors are more than the file can hold", (unsigned long long)tensors);
    file->tensors = tn_calloc((size_t)tensors, sizeof *file->tensors);
    uint64_t *offsets = tn_calloc((size_t)tensors, sizeof *offsets);
    tn_status status = file->tensors && offsets ? read_tensors(file, &in, tensors, offsets) : tn_fail_memory("tensors");
    if (status == TN_OK)
        status = place_tensors(file, in.at, offsets);
    tn_free(offsets);
    return status;
}

tn_status tn_gguf_open(const char *path, tn_gguf *out) {
    *out = (tn_gguf){.path = tn_strdup(path)};
    tn_status status = out->path ? read_file(out) : tn_fail_memory("a path");
    if (status != TN_OK) {
        tn_gguf_close(out);
        /* a failed open names the path already */
        return status == TN_ERROR_IO ? status : tn_fail_context(status, "%s", path);
    }
    return TN_OK;
}

void tn_gguf_close(tn_gguf *file) {
    tn_free(file->path);
    tn_free(file->values);
    tn_free(file->tensors);
    tn_map_free(&file->value_index);
    tn_map_free(&file->tensor_index);
    tn_arena_free(&file->arena);
    tn_file_unmap(&file->mapping);
    *file = (tn_gguf){0};
}

const tn_gguf_value *tn_gguf_find(const tn_gguf *file, const char *key) {
    int64_t index;
    return tn_map_get_text(&file->value_index, key, &index) ? &file->values[index] : NULL;
}

const tn_gguf_tensor *tn_gguf_find_tensor(const tn_gguf *file, const char *name) {
    int64_t index;
    return tn_map_get_text(&file->tensor_index, name, &index) ? &file->tensors[index] : NULL;
}

bool tn_gguf_plain_tensor(const tn_gguf_tensor *tensor, tn_tensor *out) {
    const tn_ggml_info *info = tn_ggml_type_info(tensor->type);
    if (!info->plain || (uintptr_t)tensor->data % (uintptr_t)info->bytes != 0)
        return false;
    *out = (tn_tensor){.dtype = info->dtype, .ndim = tensor->ndim, .data = (void *)(uintptr_t)tensor->data};
    memcpy(out->shape, tensor->shape, sizeof out->shape);
    return true;
}
