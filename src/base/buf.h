/* Growable bytes: building strings, files and id lists. A failed append is remembered in `failed`, so that a series of
 * appends needs one check at its end. */
#ifndef TN_BASE_BUF_H
#define TN_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* Zero-initialise to start. `data` is always followed by a NUL that `length` does not count (NULL while empty). */
typedef struct tn_buf {
    char *data;
    size_t length, capacity;
    bool failed;
} tn_buf;

void tn_buf_append(tn_buf *buf, const void *bytes, size_t length);
void tn_buf_puts(tn_buf *buf, const char *text);
void tn_buf_putc(tn_buf *buf, char c);
void tn_buf_printf(tn_buf *buf, const char *format, ...) TN_PRINTF(2, 3);
void tn_buf_clear(tn_buf *buf); /* keeps the capacity */
void tn_buf_free(tn_buf *buf);

/* TN_OK, or TN_ERROR_MEMORY when any append since the last clear failed. */
tn_status tn_buf_status(const tn_buf *buf);

/* The text, "" when empty; owned by the buffer. */
const char *tn_buf_text(const tn_buf *buf);

/* The text as its own allocation (free with tn_free), leaving the buffer empty; NULL when an append had failed. */
char *tn_buf_take(tn_buf *buf);

#endif
