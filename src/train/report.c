/* report.html: the run's summary as a table and its metrics as SVG plots. The page is well-formed XML as well as HTML, takes
 * its colours from the reader's light or dark preference, and shows a point's numbers on hover through <title>. */
#include "train/report.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

/* The drawing in its own units; margins hold the labels of the axes. */
enum { VIEW_WIDTH = 800, VIEW_HEIGHT = 300, LEFT = 70, RIGHT = 16, TOP = 14, BOTTOM = 44, HOVER_POINTS = 100, COLOURS = 4 };

static const char page_style[] =
    ":root { color-scheme: light dark; --ink: #1d2430; --soft: #667085; --line: #d9dde3; --page: #fff;\n"
    "  --s0: #2563b8; --s1: #c2521b; --s2: #27824a; --s3: #8442a8; }\n"
    "@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #9aa3b2; --line: #343b47; --page: #14171c;\n"
    "  --s0: #6ea8f0; --s1: #f0935c; --s2: #63c88b; --s3: #c58be6; } }\n"
    "body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 860px;\n"
    "  margin: 2rem auto; padding: 0 1rem; }\n"
    "h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }\n"
    "table { border-collapse: collapse; } th, td { text-align: left; vertical-align: top; padding: .25rem 1.5rem .25rem 0;\n"
    "  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; } th { font-weight: 400; color: var(--soft);\n"
    "  white-space: nowrap; }\n"
    "svg { width: 100%; height: auto; font-size: 12px; } svg text { fill: var(--soft); }\n"
    ".grid { stroke: var(--line); } .axis { stroke: var(--soft); }\n"
    "polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .hover { opacity: 0; } .hover:hover { opacity: 1; "
    "}\n"
    ".s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); } .s3 { stroke: var(--s3); }\n"
    "circle.s0 { fill: var(--s0); } circle.s1 { fill: var(--s1); } circle.s2 { fill: var(--s2); }\n"
    "circle.s3 { fill: var(--s3); }\n"
    ".none { color: var(--soft); }\n";

typedef struct point {
    double step, value;
} point;

/* Where a point lies in the drawing. */
static double frame_x(const tn_extent *extent, double step) {
    double share = (step - extent->low_step) / (extent->high_step - extent->low_step);
    return LEFT + share * (VIEW_WIDTH - LEFT - RIGHT);
}

static double frame_y(const tn_extent *extent, double value) {
    double share = (value - extent->low_value) / (extent->high_value - extent->low_value);
    return VIEW_HEIGHT - BOTTOM - share * (VIEW_HEIGHT - TOP - BOTTOM);
}

/* Characters that XML forbids and bytes that are not UTF-8 become U+FFFD. */
static void put_text(tn_buf *out, const char *text) {
    size_t length = text ? strlen(text) : 0;
    while (length) {
        uint32_t code;
        size_t size = tn_utf8_decode(text, length, &code);
        bool forbidden = !size || (code < ' ' && !strchr("\t\n\r", (int)code)) || code == 0x7f ||
                         (code & 0xfffe) == 0xfffe || (code >= 0x80 && code < 0xa0) || (code >= 0xfdd0 && code <= 0xfdef);
        size += !size;
        if (forbidden)
            tn_buf_puts(out, "\ufffd");
        else if (code == '&')
            tn_buf_puts(out, "&amp;");
        else if (code == '<')
            tn_buf_puts(out, "&lt;");
        else if (code == '>')
            tn_buf_puts(out, "&gt;");
        else if (code == '"')
            tn_buf_puts(out, "&quot;");
        else
            tn_buf_append(out, text, size);
        text += size;
        length -= size;
    }
}

static void put_position(tn_buf *out, double x, double y) {
    char text[TN_FORMAT_TEXT * 2];
    tn_format(text, sizeof text, "%.1f,%.1f", x, y);
    tn_buf_puts(out, text);
}

/* Appends the extremes of points [first, end) in their order. */
static size_t keep_extremes(point *kept, const point *points, size_t first, size_t end) {
    size_t low = first, high = first;
    for (size_t i = first + 1; i < end; i++) {
        low = points[i].value < points[low].value ? i : low;
        high = points[i].value > points[high].value ? i : high;
    }
    kept[0] = points[low < high ? low : high];
    kept[1] = points[low < high ? high : low];
    return low == high ? 1 : 2;
}

/* At most TN_REPORT_POINTS of the points, in place: the first, the last, and the extremes of equal stretches between. */
static size_t decimate(point *points, size_t count) {
    const size_t stretches = TN_REPORT_POINTS / 2 - 1, between = count - 2;
    if (count <= TN_REPORT_POINTS)
        return count;
    size_t kept = 1;
    point last = points[count - 1];
    /* A stretch holds at least two points, so that writing never overtakes reading. */
    for (size_t s = 0; s < stretches; s++) {
        point pair[2];
        size_t first = 1 + (size_t)((double)between * (double)s / (double)stretches);
        size_t end = s + 1 == stretches ? count - 1 : 1 + (size_t)((double)between * (double)(s + 1) / (double)stretches);
        size_t n = keep_extremes(pair, points, first, end);
        memcpy(points + kept, pair, n * sizeof *pair);
        kept += n;
    }
    points[kept++] = last;
    return kept;
}

static size_t collect(point *points, const tn_series *series) {
    size_t count = 0;
    for (size_t i = 0; i < series->count; i++)
        if (isfinite(series->steps[i]) && isfinite(series->values[i]))
            points[count++] = (point){series->steps[i], series->values[i]};
    return decimate(points, count);
}

static void put_circle(tn_buf *out, const tn_extent *extent, const tn_series *series, const point *p, const char *class,
                       size_t colour) {
    char text[TN_FORMAT_TEXT * 3], step[TN_FORMAT_TEXT];
    tn_format(text, sizeof text, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\"", frame_x(extent, p->step),
              frame_y(extent, p->value));
    tn_buf_printf(out, "%s class=\"%s s%zu\"><title>", text, class, colour);
    put_text(out, series->name);
    tn_format(text, sizeof text, "%.6g", p->value);
    tn_buf_printf(out, ", step %s: %s</title></circle>\n", tn_format_double(step, p->step), text);
}

static tn_status put_series(tn_buf *out, const tn_extent *extent, const tn_series *series, size_t colour) {
    point *points = tn_realloc_array(NULL, series->count, sizeof *points);
    if (!points)
        return tn_fail_memory("the points of a plot");
    size_t count = collect(points, series);
    if (count > 1) {
        tn_buf_printf(out, "<polyline class=\"s%zu\" points=\"", colour);
        for (size_t i = 0; i < count; i++) {
            tn_buf_puts(out, i ? " " : "");
            put_position(out, frame_x(extent, points[i].step), frame_y(extent, points[i].value));
        }
        tn_buf_puts(out, "\"><title>");
        put_text(out, series->name);
        tn_buf_puts(out, "</title></polyline>\n");
    }
    size_t stride = (count + HOVER_POINTS - 1) / HOVER_POINTS;
    for (size_t i = 0; i < count; i += stride)
        put_circle(out, extent, series, &points[i], count == 1 ? "only" : "hover", colour);
    tn_free(points);
    return TN_OK;
}

static void put_line(tn_buf *out, const char *class, double x1, double y1, double x2, double y2) {
    char text[TN_FORMAT_TEXT * 4];
    tn_format(text, sizeof text, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class, x1, y1, x2,
              y2);
    tn_buf_puts(out, text);
}

static void put_label(tn_buf *out, double x, double y, const char *anchor, const char *text) {
    char position[TN_FORMAT_TEXT * 2];
    tn_format(position, sizeof position, "x=\"%.1f\" y=\"%.1f\"", x, y);
    tn_buf_printf(out, "<text %s text-anchor=\"%s\">", position, anchor);
    put_text(out, text);
    tn_buf_puts(out, "</text>\n");
}

static void put_axes(tn_buf *out, const tn_extent *extent) {
    enum { STEP_TICKS = 8, VALUE_TICKS = 6 };
    const double bottom = VIEW_HEIGHT - BOTTOM, right = VIEW_WIDTH - RIGHT;
    double ticks[TN_TICKS], distance;
    char text[TN_FORMAT_TEXT];
    int count = tn_ticks(extent->low_value, extent->high_value, VALUE_TICKS, ticks, &distance);
    for (int i = 0; i < count; i++) {
        double y = frame_y(extent, ticks[i]);
        put_line(out, "grid", LEFT, y, right, y);
        put_label(out, LEFT - 8, y + 4, "end", tn_tick_text(text, ticks[i], distance));
    }
    count = tn_ticks(extent->low_step, extent->high_step, STEP_TICKS, ticks, &distance);
    for (int i = 0; i < count; i++) {
        double x = frame_x(extent, ticks[i]);
        put_line(out, "axis", x, bottom, x, bottom + 5);
        put_label(out, x, bottom + 19, "middle", tn_tick_text(text, ticks[i], distance));
    }
    put_line(out, "axis", LEFT, bottom, right, bottom);
    put_line(out, "axis", LEFT, TOP, LEFT, bottom);
    put_label(out, (LEFT + right) / 2, VIEW_HEIGHT - 6, "middle", "step");
}

/* In the upper right corner, one line per series. */
static void put_legend(tn_buf *out, const tn_plot *plot) {
    const double x = VIEW_WIDTH - RIGHT - 130;
    for (size_t i = 0; plot->series_count > 1 && i < plot->series_count; i++) {
        char class[8];
        double y = TOP + 12 + 18 * (double)i;
        tn_format(class, sizeof class, "s%zu", i % COLOURS);
        put_line(out, class, x, y - 4, x + 22, y - 4);
        put_label(out, x + 28, y, "start", plot->series[i].name);
    }
}

static tn_status put_plot(tn_buf *out, const tn_plot *plot) {
    tn_extent extent;
    tn_buf_puts(out, "<h2>");
    put_text(out, plot->title);
    tn_buf_puts(out, "</h2>\n");
    if (!tn_series_extent(plot->series, plot->series_count, &extent)) {
        tn_buf_puts(out, "<p class=\"none\">No values were recorded.</p>\n");
        return TN_OK;
    }
    tn_buf_printf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", VIEW_WIDTH, VIEW_HEIGHT);
    put_text(out, plot->title);
    tn_buf_puts(out, " against step\">\n");
    put_axes(out, &extent);
    for (size_t i = 0; i < plot->series_count; i++)
        TN_TRY(put_series(out, &extent, &plot->series[i], i % COLOURS));
    put_legend(out, plot);
    tn_buf_puts(out, "</svg>\n");
    return TN_OK;
}

static void put_summary(tn_buf *out, const struct tn_report *report) {
    if (!report->row_count)
        return;
    tn_buf_puts(out, "<table>\n");
    for (size_t i = 0; i < report->row_count; i++) {
        tn_buf_puts(out, "<tr><th scope=\"row\">");
        put_text(out, report->rows[i].key);
        tn_buf_puts(out, "</th><td>");
        put_text(out, report->rows[i].value);
        tn_buf_puts(out, "</td></tr>\n");
    }
    tn_buf_puts(out, "</table>\n");
}

/* The diagonal, what was right, stands out. */
static void put_matrix(tn_buf *out, const tn_report_matrix *matrix) {
    tn_buf_puts(out, "<h2>");
    put_text(out, matrix->title);
    tn_buf_puts(out, "</h2>\n<table class=\"matrix\">\n<tr><th></th>");
    for (int64_t c = 0; c < matrix->classes; c++)
        tn_buf_printf(out, "<th scope=\"col\">%lld</th>", (long long)c);
    tn_buf_puts(out, "</tr>\n");
    for (int64_t r = 0; r < matrix->classes; r++) {
        tn_buf_printf(out, "<tr><th scope=\"row\">%lld</th>", (long long)r);
        for (int64_t c = 0; c < matrix->classes; c++)
            tn_buf_printf(out, r == c ? "<td><strong>%lld</strong></td>" : "<td>%lld</td>",
                          (long long)matrix->values[r * matrix->classes + c]);
        tn_buf_puts(out, "</tr>\n");
    }
    tn_buf_puts(out, "</table>\n");
}

tn_status tn_report_html(tn_buf *out, const struct tn_report *report) {
    tn_buf_puts(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
                     "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>");
    put_text(out, report->title);
    tn_buf_puts(out, "</title>\n<style>\n");
    tn_buf_puts(out, page_style);
    tn_buf_puts(out, "</style>\n</head>\n<body>\n<h1>");
    put_text(out, report->title);
    tn_buf_puts(out, "</h1>\n");
    put_summary(out, report);
    for (size_t i = 0; i < report->plot_count; i++)
        TN_TRY(put_plot(out, &report->plots[i]));
    if (report->matrix)
        put_matrix(out, report->matrix);
    tn_buf_puts(out, "</body>\n</html>\n");
    return tn_buf_status(out);
}
