/* What the tokenizer asks of Unicode: classes of characters, lossy UTF-8, and the byte-level alphabet. */
#ifndef TN_TEXT_UNICODE_H
#define TN_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

bool tn_char_is_whitespace(uint32_t code);  /* the White_Space property */
bool tn_char_is_word(uint32_t code);        /* \w: letters, marks, decimal digits, connectors, joiners */
bool tn_char_is_punctuation(uint32_t code); /* ASCII punctuation and symbols, and the categories P* */
bool tn_char_is_number(uint32_t code);      /* Nd, Nl and No */
bool tn_char_is_mark(uint32_t code);        /* Mn, Mc and Me */

/* The code point at a position of valid UTF-8, its length returned. */
size_t tn_utf8_next(const char *text, size_t length, uint32_t *code);
void tn_utf8_append(tn_buf *out, uint32_t code);

/* Appends `text` with each maximal ill-formed sequence (Unicode 3.9, U+FFFD substitution) replaced by U+FFFD. Returns how
 * many bytes were used: all of them when `final`, else all but an unfinished character at the end. */
size_t tn_utf8_append_lossy(tn_buf *out, const char *text, size_t length, bool final);

/* GPT-2's alphabet of printable characters for the 256 bytes. */
uint32_t tn_byte_to_char(uint8_t byte);
int tn_char_to_byte(uint32_t code); /* -1 when the character stands for no byte */
void tn_bytes_to_chars(tn_buf *out, const char *bytes, size_t length);

#endif
