/* Values of GGUF metadata as the types of C, whatever width the file's writer chose. */
#include <string.h>

#include "base/utf8.h"
#include "format/gguf.h"

#define READ(type)                                                                                                          \
    do {                                                                                                                    \
        type element;                                                                                                       \
        memcpy(&element, (const char *)value->elements + (size_t)i * sizeof element, sizeof element);                       \
        *out = element;                                                                                                     \
        return true;                                                                                                        \
    } while (0)

bool tn_gguf_integer_at(const tn_gguf_value *value, int64_t i, int64_t *out) {
    uint64_t large;
    if (i < 0 || i >= value->count)
        return false;
    switch (value->kind) {
    case TN_GGUF_U8: READ(uint8_t);
    case TN_GGUF_I8: READ(int8_t);
    case TN_GGUF_U16: READ(uint16_t);
    case TN_GGUF_I16: READ(int16_t);
    case TN_GGUF_U32: READ(uint32_t);
    case TN_GGUF_I32: READ(int32_t);
    case TN_GGUF_I64: READ(int64_t);
    case TN_GGUF_U64:
        memcpy(&large, (const char *)value->elements + (size_t)i * sizeof large, sizeof large);
        *out = (int64_t)(large & INT64_MAX);
        return large <= INT64_MAX;
    default: return false;
    }
}

bool tn_gguf_number_at(const tn_gguf_value *value, int64_t i, double *out) {
    int64_t integer;
    if (tn_gguf_integer_at(value, i, &integer)) {
        *out = (double)integer;
        return true;
    }
    if (i < 0 || i >= value->count)
        return false;
    switch (value->kind) {
    case TN_GGUF_F32: READ(float);
    case TN_GGUF_F64: READ(double);
    default: return false;
    }
}

bool tn_gguf_bool_at(const tn_gguf_value *value, int64_t i, bool *out) {
    if (value->kind != TN_GGUF_BOOL || i < 0 || i >= value->count)
        return false;
    *out = ((const uint8_t *)value->elements)[i] != 0;
    return true;
}

static tn_status find(const tn_gguf *file, const char *key, const char *wanted, const tn_gguf_value **out) {
    *out = tn_gguf_find(file, key);
    if (!*out)
        return tn_fail(TN_ERROR_FORMAT, "%s: the metadata lacks the key '%s' (%s)", file->path, key, wanted);
    return TN_OK;
}

static tn_status wrong_sort(const tn_gguf *file, const tn_gguf_value *value, const char *wanted) {
    return tn_fail(TN_ERROR_FORMAT, "%s: the key '%s' must be %s; it is %s%s", file->path, value->key, wanted,
                   value->is_array ? "an array of " : "", tn_gguf_kind_name(value->kind));
}

tn_status tn_gguf_get_integer(const tn_gguf *file, const char *key, int64_t *out) {
    static const char wanted[] = "a whole number";
    const tn_gguf_value *value;
    TN_TRY(find(file, key, wanted, &value));
    return !value->is_array && tn_gguf_integer_at(value, 0, out) ? TN_OK : wrong_sort(file, value, wanted);
}

tn_status tn_gguf_get_number(const tn_gguf *file, const char *key, double *out) {
    static const char wanted[] = "a number";
    const tn_gguf_value *value;
    TN_TRY(find(file, key, wanted, &value));
    return !value->is_array && tn_gguf_number_at(value, 0, out) ? TN_OK : wrong_sort(file, value, wanted);
}

tn_status tn_gguf_get_bool(const tn_gguf *file, const char *key, bool *out) {
    static const char wanted[] = "a bool";
    const tn_gguf_value *value;
    TN_TRY(find(file, key, wanted, &value));
    return !value->is_array && tn_gguf_bool_at(value, 0, out) ? TN_OK : wrong_sort(file, value, wanted);
}

tn_status tn_gguf_get_string(tn_gguf *file, const char *key, const char **out) {
    static const char wanted[] = "a string";
    const tn_gguf_value *value;
    TN_TRY(find(file, key, wanted, &value));
    if (value->is_array || value->kind != TN_GGUF_STRING)
        return wrong_sort(file, value, wanted);
    const tn_gguf_string *string = value->strings;
    if (memchr(string->bytes, 0, string->length) || tn_utf8_valid_prefix(string->bytes, string->length) != string->length)
        return tn_fail(TN_ERROR_FORMAT, "%s: the string of the key '%s' is not valid UTF-8", file->path, key);
    *out = tn_arena_strndup(&file->arena, string->bytes, string->length);
    return *out ? TN_OK : tn_fail_memory("metadata");
}

tn_status tn_gguf_get_array(const tn_gguf *file, const char *key, tn_gguf_kind kind, const tn_gguf_value **out) {
    const tn_gguf_value *value;
    char wanted[32] = "an array of ";
    strcat(wanted, tn_gguf_kind_name(kind));
    TN_TRY(find(file, key, wanted, &value));
    if (!value->is_array || value->kind != kind)
        return wrong_sort(file, value, wanted);
    *out = value;
    return TN_OK;
}
