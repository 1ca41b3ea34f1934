/* Bounds and round ticks of the axes of a plot. */
#include <math.h>

#include "train/report.h"

static void widen(double *low, double *high) {
    if (*low < *high)
        return;
    double margin = *low == 0 ? 1 : fabs(*low) * 0.1;
    *low -= margin;
    *high += margin;
}

bool tn_series_extent(const tn_series *series, size_t count, tn_extent *extent) {
    tn_extent e = {INFINITY, -INFINITY, INFINITY, -INFINITY};
    for (size_t s = 0; s < count; s++)
        for (size_t i = 0; i < series[s].count; i++) {
            double step = series[s].steps[i], value = series[s].values[i];
            if (!isfinite(step) || !isfinite(value))
                continue;
            e.low_step = fmin(e.low_step, step);
            e.high_step = fmax(e.high_step, step);
            e.low_value = fmin(e.low_value, value);
            e.high_value = fmax(e.high_value, value);
        }
    if (e.low_step > e.high_step)
        return false;
    widen(&e.low_step, &e.high_step);
    widen(&e.low_value, &e.high_value);
    *extent = e;
    return isfinite(e.high_step - e.low_step) && isfinite(e.high_value - e.low_value);
}

/* The smallest of 1, 2, 5 times a power of ten that is not below `least`. */
static double round_distance(double least) {
    double power = pow(10, floor(log10(least)));
    double digit = least / power;
    return power * (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10);
}

int tn_ticks(double low, double high, int most, double ticks[TN_TICKS], double *distance) {
    int limit = most < TN_TICKS ? most : TN_TICKS, count = 0;
    *distance = 0;
    if (!(low < high) || !isfinite(high - low) || limit < 1)
        return 0;
    double step = round_distance((high - low) / limit), first, last;
    /* A tick on the very edge is inside, whatever the division's last bit says. */
    for (;; step = round_distance(step * 1.5)) {
        first = ceil(low / step - 1e-9);
        last = floor(high / step + 1e-9);
        if (!(step > 0) || !isfinite(last) || !isfinite(first))
            return 0;
        if (last - first < limit)
            break;
    }
    for (double k = first; k <= last && count < limit; k++)
        ticks[count++] = k == 0 ? 0 : k * step;
    *distance = step;
    return count;
}

const char *tn_tick_text(char out[TN_FORMAT_TEXT], double tick, double distance) {
    double size = fmax(fabs(tick), distance);
    if (size >= 1e6 || distance < 1e-6) {
        int digits = size > 0 && distance > 0 ? (int)(floor(log10(size)) - floor(log10(distance) + 1e-9)) + 1 : 1;
        tn_format(out, TN_FORMAT_TEXT, "%.*g", digits < 1 ? 1 : digits < 15 ? digits : 15, tick);
    } else {
        int decimals = distance > 0 ? (int)ceil(-log10(distance) - 1e-9) : 0;
        tn_format(out, TN_FORMAT_TEXT, "%.*f", decimals < 0 ? 0 : decimals < 15 ? decimals : 15, tick);
    }
    return out;
}
