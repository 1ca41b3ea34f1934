/* Numbers to text and back, independent of the locale. */
#include "base/format.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* glibc hands out its built-in C locale here without allocating; where newlocale can fail, the old locale stays in force. */
static locale_t enter_c_locale(locale_t *c_locale) {
    *c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return *c_locale ? uselocale(*c_locale) : (locale_t)0;
}

static void leave_c_locale(locale_t c_locale, locale_t before) {
    if (!c_locale)
        return;
    uselocale(before);
    freelocale(c_locale);
}

int tn_format(char *out, size_t size, const char *format, ...) {
    locale_t c_locale, before = enter_c_locale(&c_locale);
    va_list args;
    va_start(args, format);
    int length = vsnprintf(out, size, format, args);
    va_end(args);
    leave_c_locale(c_locale, before);
    return length;
}

static const char *format_shortest(char out[TN_FORMAT_TEXT], double value, bool single) {
    for (int digits = 1; digits <= 17; digits++) {
        double again = 0;
        tn_format(out, TN_FORMAT_TEXT, "%.*g", digits, value);
        bool same = tn_parse_double(out, &again) && (single ? (float)again == (float)value : again == value);
        if (same || !isfinite(value))
            break;
    }
    return out;
}

const char *tn_format_double(char out[TN_FORMAT_TEXT], double value) {
    return format_shortest(out, isnan(value) ? fabs(value) : value, false);
}

const char *tn_format_float(char out[TN_FORMAT_TEXT], float value) {
    return format_shortest(out, isnan(value) ? fabsf(value) : value, true);
}

const char *tn_format_duration(char out[TN_FORMAT_TEXT], double seconds) {
    enum { MINUTE = 60, HOUR = 60 * MINUTE, DAY = 24 * HOUR };
    if (!(seconds >= 0 && seconds < 1e12)) {
        tn_format(out, TN_FORMAT_TEXT, "-:--");
        return out;
    }
    long long total = llround(seconds);
    int second = (int)(total % MINUTE), minute = (int)(total / MINUTE % 60), hour = (int)(total / HOUR % 24);
    if (total >= DAY)
        tn_format(out, TN_FORMAT_TEXT, "%lld d %02d:%02d", total / DAY, hour, minute);
    else if (total >= HOUR)
        tn_format(out, TN_FORMAT_TEXT, "%d:%02d:%02d", hour, minute, second);
    else
        tn_format(out, TN_FORMAT_TEXT, "%d:%02d", minute, second);
    return out;
}

static const char *format_prefixed(char out[TN_FORMAT_TEXT], double value, const char *unit) {
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
    const size_t last = sizeof prefixes / sizeof *prefixes - 1;
    if (!isfinite(value)) {
        tn_format(out, TN_FORMAT_TEXT, "-");
        return out;
    }
    size_t prefix = 0;
    double scaled = fabs(value);
    /* 999.5 of one prefix would round to four digits. */
    while (scaled >= 999.5 && prefix < last) {
        scaled /= 1000;
        prefix++;
    }
    bool whole = prefix == 0 && scaled == floor(scaled);
    int decimals = whole || scaled >= 99.95 ? 0 : scaled >= 9.995 ? 1 : 2;
    const char *space = *prefixes[prefix] || *unit ? " " : "";
    tn_format(out, TN_FORMAT_TEXT, "%.*f%s%s%s", decimals, copysign(scaled, value), space, prefixes[prefix], unit);
    return out;
}

const char *tn_format_count(char out[TN_FORMAT_TEXT], double count) {
    return format_prefixed(out, count, "");
}

const char *tn_format_bytes(char out[TN_FORMAT_TEXT], double bytes) {
    return format_prefixed(out, bytes, "B");
}

static const char *skip_digits(const char *p) {
    while (isdigit((unsigned char)*p))
        p++;
    return p;
}

static const char *skip_sign(const char *p) {
    return *p == '+' || *p == '-' ? p + 1 : p;
}

bool tn_parse_int(const char *text, int64_t *out) {
    const char *digits = skip_sign(text), *end = skip_digits(digits);
    if (end == digits || *end)
        return false;
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    if (errno == ERANGE)
        return false;
    *out = value;
    return true;
}

static bool is_decimal(const char *text) {
    const char *whole = skip_sign(text), *p = skip_digits(whole);
    bool any = p > whole;
    if (*p == '.') {
        const char *fraction = p + 1;
        p = skip_digits(fraction);
        any |= p > fraction;
    }
    if (any && (*p == 'e' || *p == 'E')) {
        const char *exponent = skip_sign(p + 1);
        p = skip_digits(exponent);
        any = p > exponent;
    }
    return any && *p == 0;
}

bool tn_parse_double(const char *text, double *out) {
    if (!is_decimal(text))
        return false;
    locale_t c_locale, before = enter_c_locale(&c_locale);
    double value = strtod(text, NULL);
    leave_c_locale(c_locale, before);
    if (!isfinite(value))
        return false;
    *out = value;
    return true;
}
