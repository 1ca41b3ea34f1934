/* Numbers as people and files read them. A decimal point is '.' in every locale, so that what is written can be read back.
 */
#ifndef TN_BASE_FORMAT_H
#define TN_BASE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Holds any text that the functions below write. */
enum { TN_FORMAT_TEXT = 40 };

/* snprintf in the C locale. */
int tn_format(char *out, size_t size, const char *format, ...) TN_PRINTF(3, 4);

/* The fewest digits that read back as the same double or float: "0.1", "1e-05", "nan". */
const char *tn_format_double(char out[TN_FORMAT_TEXT], double value);
const char *tn_format_float(char out[TN_FORMAT_TEXT], float value);

/* "0:42", "12:05", "3:04:05", "2 d 03:04"; "-:--" when negative or not finite. Rounded to whole seconds. */
const char *tn_format_duration(char out[TN_FORMAT_TEXT], double seconds);

/* Three significant digits and a decimal prefix: "999", "1.23 k", "12.3 M", "7.00 G"; "-" when not finite. */
const char *tn_format_count(char out[TN_FORMAT_TEXT], double count);

/* The same with a unit, in powers of 1000: "512 B", "1.23 kB", "3.52 GB". */
const char *tn_format_bytes(char out[TN_FORMAT_TEXT], double bytes);

/* A whole text as a number: an optional sign, decimal digits, and for doubles a fraction and an exponent. False for anything
 * else (blanks, hexadecimal, infinities, suffixes) and for values that the type cannot hold; *out is then untouched. */
bool tn_parse_int(const char *text, int64_t *out);
bool tn_parse_double(const char *text, double *out);

#endif
