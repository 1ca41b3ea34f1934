/* Growable bytes. */
#include "base/buf.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static bool reserve(tn_buf *buf, size_t more) {
    if (buf->failed || more > SIZE_MAX / 2 - buf->length) {
        buf->failed = true;
        return false;
    }
    size_t need = buf->length + more + 1;
    if (need <= buf->capacity)
        return true;
    size_t capacity = buf->capacity ? buf->capacity * 2 : 64;
    while (capacity < need)
        capacity *= 2;
    char *data = tn_realloc_array(buf->data, capacity, 1);
    if (!data) {
        buf->failed = true;
        return false;
    }
    buf->data = data;
    buf->capacity = capacity;
    return true;
}

void tn_buf_append(tn_buf *buf, const void *bytes, size_t length) {
    if (!reserve(buf, length))
        return;
    if (length)
        memcpy(buf->data + buf->length, bytes, length);
    buf->length += length;
    buf->data[buf->length] = 0;
}

void tn_buf_puts(tn_buf *buf, const char *text) {
    tn_buf_append(buf, text, strlen(text));
}

void tn_buf_putc(tn_buf *buf, char c) {
    tn_buf_append(buf, &c, 1);
}

void tn_buf_printf(tn_buf *buf, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0)
        buf->failed = true;
    else if (reserve(buf, (size_t)length)) {
        vsnprintf(buf->data + buf->length, (size_t)length + 1, format, again);
        buf->length += (size_t)length;
    }
    va_end(again);
}

void tn_buf_clear(tn_buf *buf) {
    buf->length = 0;
    buf->failed = false;
    if (buf->data)
        buf->data[0] = 0;
}

void tn_buf_free(tn_buf *buf) {
    tn_free(buf->data);
    *buf = (tn_buf){0};
}

tn_status tn_buf_status(const tn_buf *buf) {
    return buf->failed ? tn_fail_memory("a text buffer") : TN_OK;
}

const char *tn_buf_text(const tn_buf *buf) {
    return buf->data ? buf->data : "";
}

char *tn_buf_take(tn_buf *buf) {
    char *text = NULL;
    if (!buf->failed) {
        if (!buf->data)
            reserve(buf, 0);
        text = buf->data;
        if (text)
            text[buf->length] = 0;
    } else {
        tn_free(buf->data);
    }
    *buf = (tn_buf){0};
    return text;
}
