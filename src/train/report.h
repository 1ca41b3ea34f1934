/* What a run shows people: a line of progress, a curve in the terminal, a report as one HTML file. Pure functions from
 * recorded metrics to text. */
#ifndef TN_TRAIN_REPORT_H
#define TN_TRAIN_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/format.h"

/* A metric against the step. Points with a step or a value that is not finite are left out of every picture. */
typedef struct tn_series {
    const char *name; /* for the legend: "training" */
    const double *steps, *values;
    size_t count;
} tn_series;

/* Series that share their axes. */
typedef struct tn_plot {
    const char *title; /* "Loss" */
    const tn_series *series;
    size_t series_count;
} tn_plot;

typedef struct tn_report_row {
    const char *key, *value;
} tn_report_row;

/* Whole numbers by class and predicted class. */
typedef struct tn_report_matrix {
    const char *title;
    const int64_t *values; /* [classes, classes] */
    int64_t classes;
} tn_report_matrix;

struct tn_report {
    const char *title;
    const tn_report_row *rows; /* the summary table */
    size_t row_count;
    const tn_plot *plots; /* usually loss (training and validation), learning rate, gradient norm */
    size_t plot_count;
    const tn_report_matrix *matrix; /* NULL: none */
};

/* Appends a self-contained page: no script, nothing loaded from elsewhere. At most TN_REPORT_POINTS points of a series are
 * drawn, its extremes among them. Texts may hold anything; what is not UTF-8 is replaced. Fails only for lack of memory. */
enum { TN_REPORT_POINTS = 1000 };
tn_status tn_report_html(tn_buf *out, const struct tn_report *report);

/* Appends a curve of `height` lines and at most `width` columns (at least 8 and 40 are used): a legend line when there is a
 * second series, the plot with labelled axes. The first series is a line, the second one marks. Braille patterns and box
 * drawing with `utf8`, ASCII without. Says "no values yet" when no point is finite. Without memory out->failed is set. */
void tn_curve_draw(tn_buf *out, const double *steps, const double *values, size_t count, const double *steps2,
                   const double *values2, size_t count2, int width, int height, bool utf8);

/* What a line of progress tells; numbers that are not known are NAN. */
typedef struct tn_progress {
    int64_t step, steps; /* steps 0: unknown */
    double loss, learning_rate, tokens_per_second, seconds_left;
    const char *unit; /* of tokens_per_second; NULL: "tok/s" */
} tn_progress;

/* "step 120/500  loss 1.234  lr 1.0e-04  1234 tok/s  0:42 left" in at most `width` columns: what is unknown is left out, and
 * the rate of learning, the speed, the time and the loss give way in that order. Returns the length. */
enum { TN_PROGRESS_TEXT = 256 };
int tn_progress_line(char out[TN_PROGRESS_TEXT], const tn_progress *progress, int width);

/* At most `most` round numbers (1, 2 or 5 times a power of ten apart) inside [low, high], ascending; returns how many. The
 * distance goes to *distance. None when the bounds are not finite or not in order. */
enum { TN_TICKS = 16 };
int tn_ticks(double low, double high, int most, double ticks[TN_TICKS], double *distance);

/* A tick's text, with as many decimals as its distance to the next asks for. */
const char *tn_tick_text(char out[TN_FORMAT_TEXT], double tick, double distance);

/* The bounds of the finite points of some series, widened a little where they coincide; false when there is no point. */
typedef struct tn_extent {
    double low_step, high_step, low_value, high_value;
} tn_extent;
bool tn_series_extent(const tn_series *series, size_t count, tn_extent *extent);

#endif
