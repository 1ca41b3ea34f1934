/* UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef TN_BASE_UTF8_H
#define TN_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length in bytes (1 to 4) of the valid code point at `text`, its value in *code; 0 when the bytes are not valid. */
size_t tn_utf8_decode(const char *text, size_t length, uint32_t *code);

/* Writes 1 to 4 bytes; returns how many. The code point must be valid. */
size_t tn_utf8_encode(uint32_t code, char out[4]);

/* Offset of the first invalid byte, or `length` when all is valid. */
size_t tn_utf8_valid_prefix(const char *text, size_t length);

#endif
