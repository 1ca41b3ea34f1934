/* IDX in and out. A file is read through `source`, which hides whether its bytes are packed. */
#include "format/idx.h"

#include <limits.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"

enum { PREFIX = 4, SIZE_BYTES = 4, GZIP_WINDOW = 15 + 16 };

/* No deflate stream unfolds to more than 1032 times its length (zlib's technical notes), so a promise beyond that is known
 * to be broken before memory is taken for it. */
enum { DEFLATE_RATIO = 1032 };

static const struct {
    uint8_t code;
    tn_dtype dtype;
} types[] = {{8, TN_DTYPE_U8},   {9, TN_DTYPE_I8},   {11, TN_DTYPE_I16},
             {12, TN_DTYPE_I32}, {13, TN_DTYPE_F32}, {14, TN_DTYPE_F64}};
enum { TYPE_COUNT = sizeof types / sizeof *types };

typedef struct source {
    tn_mapping mapping;
    size_t offset; /* into the mapping, of bytes not yet taken; those of a stream are in stream.next_in */
    bool packed, member_ended;
    z_stream stream;
} source;

static void *allocate(void *cookie, uInt count, uInt size) {
    (void)cookie;
    return tn_calloc(count, size);
}

static void release(void *cookie, void *pointer) {
    (void)cookie;
    tn_free(pointer);
}

static tn_status open_source(source *s, const char *path) {
    *s = (source){.stream = {.zalloc = allocate, .zfree = release}};
    TN_TRY(tn_file_map(path, &s->mapping));
    s->packed = s->mapping.size >= 2 && s->mapping.data[0] == 0x1f && s->mapping.data[1] == 0x8b;
    if (!s->packed || inflateInit2(&s->stream, GZIP_WINDOW) == Z_OK)
        return TN_OK;
    tn_file_unmap(&s->mapping);
    return tn_fail_memory("unpacking gzip");
}

static void close_source(source *s) {
    if (s->packed)
        inflateEnd(&s->stream);
    tn_file_unmap(&s->mapping);
}

static tn_status fail_gzip(const char *path, const char *why) {
    return tn_fail(TN_ERROR_FORMAT, "%s: damaged gzip: %s", path, why);
}

/* One call of inflate, which counts in unsigned ints; a file may be several gzip members one after another. */
static tn_status inflate_some(source *s, const char *path, uint8_t *out, size_t length, size_t *got, bool *ended) {
    z_stream *z = &s->stream;
    size_t left = s->mapping.size - s->offset;
    if (s->member_ended) {
        *ended = left == 0;
        if (*ended)
            return TN_OK;
        inflateReset(z);
        s->member_ended = false;
    }
    uInt given = left > UINT_MAX ? UINT_MAX : (uInt)left, room = length > UINT_MAX ? UINT_MAX : (uInt)length;
    z->next_in = (Bytef *)(uintptr_t)(s->mapping.data + s->offset);
    z->avail_in = given;
    z->next_out = out;
    z->avail_out = room;
    int code = inflate(z, Z_NO_FLUSH);
    s->offset += given - z->avail_in;
    *got = room - z->avail_out;
    s->member_ended = code == Z_STREAM_END;
    if (code == Z_MEM_ERROR)
        return tn_fail_memory("unpacking gzip");
    if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
        return fail_gzip(path, z->msg ? z->msg : "it needs a dictionary");
    if (*got == 0 && z->avail_in == 0 && !s->member_ended)
        return fail_gzip(path, "it ends too early");
    return TN_OK;
}

/* Up to `length` bytes; *got is smaller only at the end of the data. */
static tn_status take(source *s, const char *path, void *out, size_t length, size_t *got) {
    *got = 0;
    if (!s->packed) {
        size_t left = s->mapping.size - s->offset;
        *got = length < left ? length : left;
        if (*got)
            memcpy(out, s->mapping.data + s->offset, *got);
        s->offset += *got;
        return TN_OK;
    }
    for (bool ended = false; *got < length && !ended;) {
        size_t some = 0;
        TN_TRY(inflate_some(s, path, (uint8_t *)out + *got, length - *got, &some, &ended));
        *got += some;
    }
    return TN_OK;
}

static tn_status take_header(source *s, const char *path, void *out, size_t length) {
    size_t got;
    TN_TRY(take(s, path, out, length, &got));
    if (got < length)
        return tn_fail(TN_ERROR_FORMAT, "%s: it ends within the header of an IDX file", path);
    return TN_OK;
}

static tn_status read_header(source *s, const char *path, tn_tensor *out, int64_t *bytes) {
    uint8_t head[PREFIX], sizes[TN_MAX_DIMS * SIZE_BYTES];
    TN_TRY(take_header(s, path, head, PREFIX));
    int type = 0;
    while (type < TYPE_COUNT && types[type].code != head[2])
        type++;
    if (head[0] || head[1] || type == TYPE_COUNT)
        return tn_fail(
            TN_ERROR_FORMAT,
            "%s: not an IDX file: it begins with %02x %02x %02x %02x where 00 00, a type (08 to 0e) and the number "
            "of dimensions belong",
            path, head[0], head[1], head[2], head[3]);
    if (head[3] < 1 || head[3] > TN_MAX_DIMS)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: an IDX file of %d dimensions; 1 to %d are supported", path, head[3],
                       TN_MAX_DIMS);
    out->dtype = types[type].dtype;
    TN_TRY(take_header(s, path, sizes, (size_t)head[3] * SIZE_BYTES));
    *bytes = tn_dtype_size(out->dtype);
    bool fits = true;
    for (; out->ndim < head[3]; out->ndim++) {
        const uint8_t *b = sizes + out->ndim * SIZE_BYTES;
        out->shape[out->ndim] = (int64_t)((uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3]);
        fits = fits && tn_mul_i64(*bytes, out->shape[out->ndim], bytes);
    }
    char shape[TN_SHAPE_TEXT];
    if (!fits || *bytes > TN_IDX_LIMIT)
        return tn_fail(TN_ERROR_FORMAT, "%s: its header promises elements of shape %s, more than the %lld bytes allowed",
                       path, tn_shape_text(out, shape), (long long)TN_IDX_LIMIT);
    return TN_OK;
}

static tn_status fail_short(const char *path, const tn_tensor *tensor, int64_t bytes, const char *has) {
    char shape[TN_SHAPE_TEXT];
    return tn_fail(TN_ERROR_FORMAT, "%s: its header promises %s of shape %s, %lld bytes, and the file %s: it is truncated",
                   path, tn_dtype_name(tensor->dtype), tn_shape_text(tensor, shape), (long long)bytes, has);
}

static tn_status read_elements(source *s, const char *path, tn_tensor *out, int64_t bytes) {
    size_t left = s->mapping.size - s->offset, got;
    char has[64];
    snprintf(has, sizeof has, "has %zu%s", left, s->packed ? " packed ones" : "");
    if ((uint64_t)bytes > (s->packed ? ((uint64_t)left + 64) * DEFLATE_RATIO : left))
        return fail_short(path, out, bytes, has);
    out->data = tn_malloc((size_t)bytes);
    if (!out->data)
        return tn_fail_memory("the elements of an IDX file");
    TN_TRY(take(s, path, out->data, (size_t)bytes, &got));
    snprintf(has, sizeof has, "has %zu", got);
    if ((int64_t)got < bytes)
        return fail_short(path, out, bytes, has);
    uint8_t more;
    TN_TRY(take(s, path, &more, 1, &got));
    if (got)
        return tn_fail(TN_ERROR_FORMAT, "%s: bytes follow the elements that its header promises", path);
    return TN_OK;
}

/* Between big-endian bytes and this machine's elements; its own inverse. */
static void swap_order(void *elements, int64_t count, int64_t size) {
    const uint16_t one = 1;
    if (size == 1 || *(const uint8_t *)&one == 0)
        return;
    for (uint8_t *at = elements, *end = at + count * size; at < end; at += size)
        for (int64_t i = 0; i < size / 2; i++) {
            uint8_t byte = at[i];
            at[i] = at[size - 1 - i];
            at[size - 1 - i] = byte;
        }
}

tn_status tn_idx_read(const char *path, tn_tensor *out) {
    *out = (tn_tensor){0};
    source s;
    int64_t bytes;
    tn_status status;
    TN_TRY(open_source(&s, path));
    TN_TRY_GOTO(read_header(&s, path, out, &bytes));
    TN_TRY_GOTO(read_elements(&s, path, out, bytes));
    swap_order(out->data, tn_tensor_count(out), tn_dtype_size(out->dtype));
fail:
    if (status != TN_OK) {
        tn_free(out->data);
        *out = (tn_tensor){0};
    }
    close_source(&s);
    return status;
}

static tn_status write_elements(tn_writer *writer, const tn_tensor *tensor) {
    uint8_t block[4096];
    const uint8_t *at = tensor->data;
    int64_t size = tn_dtype_size(tensor->dtype);
    for (int64_t left = tn_tensor_bytes(tensor), some; left > 0; left -= some, at += some) {
        some = left < (int64_t)sizeof block ? left : (int64_t)sizeof block;
        memcpy(block, at, (size_t)some);
        swap_order(block, some / size, size);
        TN_TRY(tn_writer_write(writer, block, (size_t)some));
    }
    return TN_OK;
}

tn_status tn_idx_write(const char *path, const tn_tensor *tensor) {
    int type = 0;
    while (type < TYPE_COUNT && types[type].dtype != tensor->dtype)
        type++;
    if (type == TYPE_COUNT || tensor->ndim < 1 || tensor->ndim > TN_MAX_DIMS)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: IDX cannot hold %s of %d dimensions", path, tn_dtype_name(tensor->dtype),
                       tensor->ndim);
    uint8_t head[PREFIX + TN_MAX_DIMS * SIZE_BYTES] = {0, 0, types[type].code, (uint8_t)tensor->ndim};
    for (int i = 0; i < tensor->ndim; i++) {
        if (tensor->shape[i] < 0 || tensor->shape[i] > UINT32_MAX)
            return tn_fail(TN_ERROR_ARGUMENT, "%s: IDX cannot hold a size of %lld", path, (long long)tensor->shape[i]);
        for (int b = 0; b < SIZE_BYTES; b++)
            head[PREFIX + i * SIZE_BYTES + b] = (uint8_t)(tensor->shape[i] >> (24 - 8 * b));
    }
    tn_writer writer;
    tn_status status;
    TN_TRY(tn_writer_open(&writer, path));
    TN_TRY_GOTO(tn_writer_write(&writer, head, PREFIX + (size_t)tensor->ndim * SIZE_BYTES));
    TN_TRY_GOTO(write_elements(&writer, tensor));
    return tn_writer_commit(&writer);
fail:
    tn_writer_abort(&writer);
    return status;
}
