/* Character classes from utf8proc's categories; lossy UTF-8; the byte-level alphabet: bytes 0x21-0x7E, 0xA1-0xAC and
 * 0xAE-0xFF stand for themselves, the other 68, in order, are U+0100 + n. */
#include "text/unicode.h"

#include <utf8proc.h>

#include "base/utf8.h"

bool tn_char_is_whitespace(uint32_t code) {
    if (code < 0x80)
        return code == ' ' || (code >= '\t' && code <= '\r');
    return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

static utf8proc_category_t category(uint32_t code) {
    return utf8proc_category((utf8proc_int32_t)code);
}

static bool is_circled_letter(uint32_t code) {
    return (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
           (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189);
}

bool tn_char_is_word(uint32_t code) {
    switch (category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return code == 0x200c || code == 0x200d || is_circled_letter(code);
    }
}

bool tn_char_is_punctuation(uint32_t code) {
    if (code < 0x80)
        return (code > ' ' && code < '0') || (code > '9' && code < 'A') || (code > 'Z' && code < 'a') ||
               (code > 'z' && code < 0x7f);
    utf8proc_category_t c = category(code);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool tn_char_is_number(uint32_t code) {
    if (code < 0x80)
        return code >= '0' && code <= '9';
    utf8proc_category_t c = category(code);
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

bool tn_char_is_mark(uint32_t code) {
    utf8proc_category_t c = category(code);
    return c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME;
}

size_t tn_utf8_next(const char *text, size_t length, uint32_t *code) {
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80) {
        *code = s[0];
        return 1;
    }
    return tn_utf8_decode(text, length, code);
}

void tn_utf8_append(tn_buf *out, uint32_t code) {
    char bytes[4];
    tn_buf_append(out, bytes, tn_utf8_encode(code, bytes));
}

/* How many of the first bytes could begin a character: the maximal subpart of an ill-formed sequence. */
static size_t plausible_prefix(const unsigned char *s, size_t length) {
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    size_t size = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    size_t n = 1;
    while (n < size && n < length && s[n] >= low && s[n] <= high) {
        low = 0x80;
        high = 0xbf;
        n++;
    }
    return n;
}

size_t tn_utf8_append_lossy(tn_buf *out, const char *text, size_t length, bool final) {
    size_t at = 0;
    for (;;) {
        size_t valid = tn_utf8_valid_prefix(text + at, length - at);
        tn_buf_append(out, text + at, valid);
        at += valid;
        if (at == length)
            return at;
        size_t bad = plausible_prefix((const unsigned char *)text + at, length - at);
        if (bad && at + bad == length && !final)
            return at;
        tn_buf_puts(out, "\xef\xbf\xbd");
        at += bad ? bad : 1;
    }
}

uint32_t tn_byte_to_char(uint8_t byte) {
    if (byte <= 0x20)
        return 0x100 + (uint32_t)byte;
    if (byte >= 0x7f && byte <= 0xa0)
        return 0x100 + 33 + (uint32_t)byte - 0x7f;
    return byte == 0xad ? 0x143 : byte;
}

int tn_char_to_byte(uint32_t code) {
    if (code < 0x100)
        return tn_byte_to_char((uint8_t)code) == code ? (int)code : -1;
    if (code <= 0x120)
        return (int)(code - 0x100);
    if (code <= 0x142)
        return (int)(code - 0x121 + 0x7f);
    return code == 0x143 ? 0xad : -1;
}

void tn_bytes_to_chars(tn_buf *out, const char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++)
        tn_utf8_append(out, tn_byte_to_char((uint8_t)bytes[i]));
}
