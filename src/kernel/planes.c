/* Convolutions as matrix products, and pools: windows over planes [height, width]. Plain loops serve every table, since they
 * mostly move numbers; each output element, and each plane that is added to, belongs to one thread. */
#include <math.h>
#include <string.h>

#include "kernel/cpu/tables.h"

enum { SERIAL_BELOW = 32768 }; /* elements */

static int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t max_i64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Positions of one output row that tap (i, j) reads from plane[at + k * stride_width] for k in [from, to); the others lie in
 * the padding. */
typedef struct {
    int64_t at, from, to;
} tap_run;

static tap_run run_of_tap(const tn_conv_shape *s, int64_t i, int64_t j, int64_t oy, int64_t ox, int64_t count) {
    int64_t y = oy * s->stride_height - s->padding_height + i * s->dilation_height;
    int64_t x = ox * s->stride_width - s->padding_width + j * s->dilation_width, stride = s->stride_width;
    if (y < 0 || y >= s->height || x >= s->width)
        return (tap_run){0, count, count};
    int64_t from = x < 0 ? min_i64((stride - 1 - x) / stride, count) : 0;
    int64_t to = min_i64((s->width - 1 - x) / stride + 1, count);
    return (tap_run){y * s->width + x, from, max_i64(from, to)};
}

static void read_run(float *out, const float *plane, tap_run run, int64_t stride, int64_t count) {
    for (int64_t k = 0; k < run.from; k++)
        out[k] = 0;
    if (stride == 1 && run.to > run.from)
        memcpy(out + run.from, plane + run.at + run.from, (size_t)(run.to - run.from) * sizeof *out);
    for (int64_t k = run.from; stride != 1 && k < run.to; k++)
        out[k] = plane[run.at + k * stride];
    for (int64_t k = run.to; k < count; k++)
        out[k] = 0;
}

void tn_im2col(float *cols, const float *x, const tn_conv_shape *s, int64_t first, int64_t count) {
    const int64_t width = tn_conv_out_width(s), positions = tn_conv_out_height(s) * width, plane = s->height * s->width;
    const int64_t taps = s->kernel_height * s->kernel_width, rows = s->in_channels * taps;
#pragma omp parallel for schedule(static) if (rows * count >= SERIAL_BELOW)
    for (int64_t row = 0; row < rows; row++) {
        int64_t i = row % taps / s->kernel_width, j = row % s->kernel_width, run;
        for (int64_t q = first; q < first + count; q += run) {
            int64_t oy = q % positions / width, ox = q % width;
            const float *from = x + (q / positions * s->in_channels + row / taps) * plane;
            run = min_i64(width - ox, first + count - q);
            read_run(cols + row * count + (q - first), from, run_of_tap(s, i, j, oy, ox, run), s->stride_width, run);
        }
    }
}

/* The windows [first, last) of sample n, their columns from row `c` on, into one plane. */
static void add_windows(float *plane, const float *cols, const tn_conv_shape *s, int64_t first, int64_t last,
                        int64_t row_size) {
    int64_t width = tn_conv_out_width(s), run;
    for (int64_t tap = 0; tap < s->kernel_height * s->kernel_width; tap++, cols += row_size) {
        for (int64_t q = first; q < last; q += run) {
            const float *from = cols + (q - first);
            run = min_i64(width - q % width, last - q);
            tap_run reads = run_of_tap(s, tap / s->kernel_width, tap % s->kernel_width, q / width, q % width, run);
            for (int64_t k = reads.from; k < reads.to; k++)
                plane[reads.at + k * s->stride_width] += from[k];
        }
    }
}

void tn_col2im(float *dx, const float *cols, const tn_conv_shape *s, int64_t first, int64_t count) {
    const int64_t positions = tn_conv_out_height(s) * tn_conv_out_width(s), channels = s->in_channels;
    const int64_t taps = s->kernel_height * s->kernel_width, sample = first / positions;
    const int64_t planes = ((first + count - 1) / positions - sample + 1) * channels;
#pragma omp parallel for schedule(static) if (channels * taps * count >= SERIAL_BELOW)
    for (int64_t i = 0; i < planes; i++) {
        int64_t start = (sample + i / channels) * positions;
        int64_t from = max_i64(first, start), to = min_i64(first + count, start + positions);
        add_windows(dx + (sample * channels + i) * s->height * s->width, cols + i % channels * taps * count + (from - first),
                    s, from - start, to - start, count);
    }
}

void tn_put_positions(float *y, const float *in, int64_t channels, int64_t span, int64_t first, int64_t count) {
#pragma omp parallel for schedule(static) if (channels * count >= SERIAL_BELOW)
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t q = first, run; q < first + count; q += run) {
            run = min_i64(span - q % span, first + count - q);
            memcpy(y + (q / span * channels + c) * span + q % span, in + c * count + (q - first), (size_t)run * sizeof *y);
        }
    }
}

void tn_take_positions(float *out, const float *y, int64_t channels, int64_t span, int64_t first, int64_t count) {
#pragma omp parallel for schedule(static) if (channels * count >= SERIAL_BELOW)
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t q = first, run; q < first + count; q += run) {
            run = min_i64(span - q % span, first + count - q);
            memcpy(out + c * count + (q - first), y + (q / span * channels + c) * span + q % span, (size_t)run * sizeof *y);
        }
    }
}

/* What of the window at (oy, ox) lies in the plane: rows [y, y_end), columns [x, x_end). */
typedef struct {
    int64_t y, y_end, x, x_end;
} pool_window;

static pool_window window_at(const tn_conv_shape *s, int64_t oy, int64_t ox) {
    int64_t y = oy * s->stride_height - s->padding_height, x = ox * s->stride_width - s->padding_width;
    return (pool_window){max_i64(y, 0), min_i64(y + s->kernel_height, s->height), max_i64(x, 0),
                         min_i64(x + s->kernel_width, s->width)};
}

static int64_t largest_in(const float *plane, pool_window w, int64_t width) {
    int64_t best = w.y * width + w.x;
    for (int64_t y = w.y; y < w.y_end; y++)
        for (int64_t x = w.x; x < w.x_end; x++)
            if (plane[y * width + x] > plane[best] || isnan(plane[y * width + x]))
                best = y * width + x;
    return best;
}

void tn_max_pool(float *y, int32_t *index, const float *x, const tn_conv_shape *s, int64_t planes) {
    const int64_t width = tn_conv_out_width(s), positions = tn_conv_out_height(s) * width, plane = s->height * s->width;
#pragma omp parallel for schedule(static) if (planes * plane >= SERIAL_BELOW)
    for (int64_t i = 0; i < planes; i++) {
        for (int64_t q = 0; q < positions; q++) {
            int64_t best = largest_in(x + i * plane, window_at(s, q / width, q % width), s->width);
            y[i * positions + q] = x[i * plane + best];
            if (index)
                index[i * positions + q] = (int32_t)best;
        }
    }
}

void tn_max_pool_backward(float *dx, const float *dy, const int32_t *index, const tn_conv_shape *s, int64_t planes) {
    const int64_t positions = tn_conv_out_height(s) * tn_conv_out_width(s), plane = s->height * s->width;
#pragma omp parallel for schedule(static) if (planes * plane >= SERIAL_BELOW)
    for (int64_t i = 0; i < planes; i++)
        for (int64_t q = i * positions; q < (i + 1) * positions; q++)
            dx[i * plane + index[q]] += dy[q];
}

static float window_sum(const float *plane, pool_window w, int64_t width) {
    double sum = 0;
    for (int64_t y = w.y; y < w.y_end; y++)
        for (int64_t x = w.x; x < w.x_end; x++)
            sum += plane[y * width + x];
    return (float)sum;
}

void tn_avg_pool(float *y, const float *x, const tn_conv_shape *s, int64_t planes) {
    const int64_t width = tn_conv_out_width(s), positions = tn_conv_out_height(s) * width, plane = s->height * s->width;
    const float size = (float)(s->kernel_height * s->kernel_width);
#pragma omp parallel for schedule(static) if (planes * plane >= SERIAL_BELOW)
    for (int64_t i = 0; i < planes; i++)
        for (int64_t q = 0; q < positions; q++)
            y[i * positions + q] = window_sum(x + i * plane, window_at(s, q / width, q % width), s->width) / size;
}

void tn_avg_pool_backward(float *dx, const float *dy, const tn_conv_shape *s, int64_t planes) {
    const int64_t width = tn_conv_out_width(s), positions = tn_conv_out_height(s) * width, plane = s->height * s->width;
    const float size = (float)(s->kernel_height * s->kernel_width);
#pragma omp parallel for schedule(static) if (planes * plane >= SERIAL_BELOW)
    for (int64_t i = 0; i < planes; i++) {
        for (int64_t q = 0; q < positions; q++) {
            pool_window w = window_at(s, q / width, q % width);
            float share = dy[i * positions + q] / size;
            for (int64_t at = w.y; at < w.y_end; at++)
                for (int64_t k = w.x; k < w.x_end; k++)
                    dx[i * plane + at * s->width + k] += share;
        }
    }
}
