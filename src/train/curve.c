/* Curves and lines of progress for a terminal. A character cell of a Braille plot is 2 x 4 dots; bit of a dot at (x, y):
 *
 *     0 3
 *     1 4      U+2800 + bits
 *     2 5
 *     6 7
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "train/report.h"

enum { LEAST_WIDTH = 40, LEAST_HEIGHT = 8, LABEL_COLUMNS = 10 };

/* A plot of columns x rows cells, each `across` x `down` dots. */
typedef struct canvas {
    int columns, rows, across, down;
    tn_extent extent;
    unsigned char *dots;  /* per cell: bits of the first series */
    unsigned char *marks; /* per cell: 1 where the second series has a point */
} canvas;

static int scale(double value, double low, double high, int count) {
    int at = (int)lround((value - low) / (high - low) * (count - 1));
    return at < 0 ? 0 : at >= count ? count - 1 : at;
}

static int dot_x(const canvas *c, double step) {
    return scale(step, c->extent.low_step, c->extent.high_step, c->columns * c->across);
}

static int dot_y(const canvas *c, double value) {
    return c->rows * c->down - 1 - scale(value, c->extent.low_value, c->extent.high_value, c->rows * c->down);
}

static void set_dot(canvas *c, int x, int y) {
    static const unsigned char bits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    c->dots[y / c->down * c->columns + x / c->across] |= bits[y % c->down][x % c->across];
}

/* Bresenham's line. */
static void draw_line(canvas *c, int x0, int y0, int x1, int y1) {
    int dx = abs(x1 - x0), dy = -abs(y1 - y0), error = dx + dy;
    for (;;) {
        set_dot(c, x0, y0);
        if (x0 == x1 && y0 == y1)
            return;
        int twice = 2 * error;
        if (twice >= dy) {
            error += dy;
            x0 += x0 < x1 ? 1 : -1;
        }
        if (twice <= dx) {
            error += dx;
            y0 += y0 < y1 ? 1 : -1;
        }
    }
}

static bool is_point(const tn_series *series, size_t i) {
    return isfinite(series->steps[i]) && isfinite(series->values[i]);
}

static void draw_series(canvas *c, const tn_series *series) {
    int last_x = -1, last_y = -1;
    for (size_t i = 0; i < series->count; i++) {
        if (!is_point(series, i))
            continue;
        int x = dot_x(c, series->steps[i]), y = dot_y(c, series->values[i]);
        draw_line(c, last_x < 0 ? x : last_x, last_x < 0 ? y : last_y, x, y);
        last_x = x;
        last_y = y;
    }
}

static void draw_marks(canvas *c, const tn_series *series) {
    for (size_t i = 0; i < series->count; i++)
        if (is_point(series, i))
            c->marks[dot_y(c, series->values[i]) / c->down * c->columns + dot_x(c, series->steps[i]) / c->across] = 1;
}

static void put_cell(tn_buf *out, const canvas *c, int cell, bool utf8) {
    char code[4];
    if (c->marks[cell])
        tn_buf_puts(out, utf8 ? "\u25cf" : "o");
    else if (!utf8)
        tn_buf_putc(out, c->dots[cell] ? '*' : ' ');
    else if (c->dots[cell])
        tn_buf_append(out, code, tn_utf8_encode(0x2800u + c->dots[cell], code));
    else
        tn_buf_putc(out, ' ');
}

/* The text of the tick in this row of cells, or "". */
static const char *row_label(char out[TN_FORMAT_TEXT], const canvas *c, int row) {
    double ticks[TN_TICKS], distance;
    int count = tn_ticks(c->extent.low_value, c->extent.high_value, c->rows / 2 + 1, ticks, &distance);
    for (int i = 0; i < count; i++)
        if (dot_y(c, ticks[i]) / c->down == row)
            return tn_tick_text(out, ticks[i], distance);
    return "";
}

static void put_rows(tn_buf *out, const canvas *c, bool utf8) {
    char label[TN_FORMAT_TEXT];
    for (int row = 0; row < c->rows; row++) {
        const char *text = row_label(label, c, row);
        tn_buf_printf(out, "%*.*s ", LABEL_COLUMNS - 2, LABEL_COLUMNS - 2, text);
        tn_buf_puts(out, *text ? (utf8 ? "\u2524" : "+") : (utf8 ? "\u2502" : "|"));
        int last = c->columns - 1;
        while (last >= 0 && !c->dots[row * c->columns + last] && !c->marks[row * c->columns + last])
            last--;
        for (int column = 0; column <= last; column++)
            put_cell(out, c, row * c->columns + column, utf8);
        tn_buf_putc(out, '\n');
    }
}

/* The axis with its ticks, and below it their texts, each centred where there is room. */
static void put_step_axis(tn_buf *out, const canvas *c, bool utf8) {
    enum { COLUMNS_PER_TICK = 10 };
    char texts[512], label[TN_FORMAT_TEXT];
    bool at_tick[512] = {0};
    double ticks[TN_TICKS], distance;
    int free_from = 0,
        count = tn_ticks(c->extent.low_step, c->extent.high_step, c->columns / COLUMNS_PER_TICK, ticks, &distance);
    memset(texts, ' ', sizeof texts);
    for (int i = 0; i < count; i++) {
        int column = dot_x(c, ticks[i]) / c->across;
        int length = (int)strlen(tn_tick_text(label, ticks[i], distance)), start = column - length / 2;
        if (start + length > c->columns)
            start = c->columns - length;
        start = start < 0 ? 0 : start;
        at_tick[column] = true;
        if (start < free_from)
            continue;
        memcpy(texts + start, label, (size_t)length);
        free_from = start + length + 1;
    }
    tn_buf_printf(out, "%*s%s", LABEL_COLUMNS - 1, "", utf8 ? "\u2514" : "+");
    for (int column = 0; column < c->columns; column++)
        tn_buf_puts(out, at_tick[column] ? (utf8 ? "\u252c" : "+") : (utf8 ? "\u2500" : "-"));
    tn_buf_printf(out, "\n%*s%.*s\n", LABEL_COLUMNS, "", free_from > 0 ? free_from - 1 : 0, texts);
}

void tn_curve_draw(tn_buf *out, const double *steps, const double *values, size_t count, const double *steps2,
                   const double *values2, size_t count2, int width, int height, bool utf8) {
    enum { MOST_WIDTH = 500, MOST_HEIGHT = 200 };
    const tn_series series[2] = {{NULL, steps, values, count}, {NULL, steps2, values2, count2}};
    width = width < LEAST_WIDTH ? LEAST_WIDTH : width > MOST_WIDTH ? MOST_WIDTH : width;
    height = height < LEAST_HEIGHT ? LEAST_HEIGHT : height > MOST_HEIGHT ? MOST_HEIGHT : height;
    canvas c = {
        .columns = width - LABEL_COLUMNS, .rows = height - 2 - (count2 > 0), .across = utf8 ? 2 : 1, .down = utf8 ? 4 : 1};
    if (!tn_series_extent(series, 2, &c.extent)) {
        tn_buf_puts(out, "no values yet\n");
        return;
    }
    size_t cells = (size_t)c.columns * (size_t)c.rows;
    c.dots = tn_calloc(2 * cells, 1);
    if (!c.dots) {
        out->failed = true;
        return;
    }
    c.marks = c.dots + cells;
    draw_series(&c, &series[0]);
    draw_marks(&c, &series[1]);
    if (count2)
        tn_buf_printf(out, "%*s%s training   %s validation\n", LABEL_COLUMNS, "", utf8 ? "\u2812\u2812" : "**",
                      utf8 ? "\u25cf" : "o");
    put_rows(out, &c, utf8);
    put_step_axis(out, &c, utf8);
    tn_free(c.dots);
}

/* The parts of a line of progress in the order they are shown. */
enum { PART_STEP, PART_LOSS, PART_RATE, PART_SPEED, PART_LEFT, PART_COUNT };

static void format_parts(char parts[PART_COUNT][48], const tn_progress *p) {
    char text[TN_FORMAT_TEXT];
    memset(parts, 0, PART_COUNT * sizeof *parts);
    if (p->steps > 0)
        tn_format(parts[PART_STEP], 48, "step %lld/%lld", (long long)p->step, (long long)p->steps);
    else
        tn_format(parts[PART_STEP], 48, "step %lld", (long long)p->step);
    if (!isnan(p->loss))
        tn_format(parts[PART_LOSS], 48, fabs(p->loss) < 1e4 ? "loss %.3f" : "loss %.2e", p->loss);
    if (isfinite(p->learning_rate))
        tn_format(parts[PART_RATE], 48, "lr %.1e", p->learning_rate);
    const char *unit = p->unit ? p->unit : "tok/s";
    if (isfinite(p->tokens_per_second) && p->tokens_per_second < 1e5)
        tn_format(parts[PART_SPEED], 48, "%.*f %s", p->tokens_per_second < 10 ? 1 : 0, p->tokens_per_second, unit);
    else if (isfinite(p->tokens_per_second))
        tn_format(parts[PART_SPEED], 48, "%s %s", tn_format_count(text, p->tokens_per_second), unit);
    if (isfinite(p->seconds_left) && p->seconds_left >= 0)
        tn_format(parts[PART_LEFT], 48, "%s left", tn_format_duration(text, p->seconds_left));
}

static int join_parts(char out[TN_PROGRESS_TEXT], char parts[PART_COUNT][48]) {
    int length = 0;
    for (int i = 0; i < PART_COUNT; i++)
        if (*parts[i])
            length += tn_format(out + length, (size_t)(TN_PROGRESS_TEXT - length), "%s%s", length ? "  " : "", parts[i]);
    return length;
}

int tn_progress_line(char out[TN_PROGRESS_TEXT], const tn_progress *progress, int width) {
    static const int give_way[] = {PART_RATE, PART_SPEED, PART_LEFT, PART_LOSS};
    char parts[PART_COUNT][48];
    format_parts(parts, progress);
    int length = join_parts(out, parts);
    for (size_t i = 0; length > width && i < sizeof give_way / sizeof *give_way; i++) {
        *parts[give_way[i]] = 0;
        length = join_parts(out, parts);
    }
    if (length > width) {
        length = width > 0 ? width : 0;
        out[length] = 0;
    }
    return length;
}
