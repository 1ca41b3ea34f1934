/* Curves as characters: the vertical axis is logarithmic, since losses fall by factors. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tour.h"

enum { ROWS = 16, COLUMNS = 72, LABELS = 3 };
static const double SMALLEST = 1e-9; /* of a loss, for its logarithm */

typedef struct range {
    double low, high;
} range;

static double height(double value) {
    return log(fmax(value, SMALLEST));
}

static void widen(range *r, double value) {
    r->low = fmin(r->low, value);
    r->high = fmax(r->high, value);
}

/* Cell of a value among `cells`; the ends are the range's. */
static int cell(range r, double value, int cells) {
    double share = r.high > r.low ? (value - r.low) / (r.high - r.low) : 0;
    return (int)lround(share * (cells - 1));
}

static void draw_one(const curve *c, range x, range y, char grid[ROWS][COLUMNS]) {
    for (int64_t i = 0; i < c->count; i++) {
        int column = cell(x, c->x[i], COLUMNS), next = i + 1 < c->count ? cell(x, c->x[i + 1], COLUMNS) : column + 1;
        for (int at = column; at < next && at < COLUMNS; at++) {
            /* between two points the curve is straight on the chart */
            double part = (double)(at - column) / (next - column);
            double later = i + 1 < c->count ? c->y[i + 1] : c->y[i];
            double value = (1 - part) * height(c->y[i]) + part * height(later);
            grid[ROWS - 1 - cell(y, value, ROWS)][at] = c->mark;
        }
    }
}

/* Without blanks at its end; every third row says what it stands for. */
static void print_row(const char *cells, int row, double value) {
    int length = COLUMNS;
    while (length > 0 && cells[length - 1] == ' ')
        length--;
    if (row % LABELS == 0 || row == ROWS - 1)
        printf("  %8.3g |%.*s\n", value, length, cells);
    else
        printf("  %8s |%.*s\n", "", length, cells);
}

void draw_curves(const curve *curves, int count, const char *x_name, const char *y_name) {
    char grid[ROWS][COLUMNS];
    range x = {INFINITY, -INFINITY}, y = {INFINITY, -INFINITY};
    for (int c = 0; c < count; c++)
        for (int64_t i = 0; i < curves[c].count; i++) {
            widen(&x, curves[c].x[i]);
            widen(&y, height(curves[c].y[i]));
        }
    memset(grid, ' ', sizeof grid);
    for (int c = 0; c < count; c++)
        draw_one(&curves[c], x, y, grid);
    printf("  %s:", y_name);
    for (int c = 0; c < count; c++)
        printf("   %c %s", curves[c].mark, curves[c].name);
    printf("\n");
    for (int row = 0; row < ROWS; row++)
        print_row(grid[row], row, exp(y.high - (y.high - y.low) * row / (ROWS - 1)));
    printf("  %8s +", "");
    for (int i = 0; i < COLUMNS; i++)
        putchar('-');
    printf("\n  %8s  %-8.6g%*s %.6g\n", "", x.low, COLUMNS - 14, x_name, x.high);
}
