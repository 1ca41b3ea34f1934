/* Reports, curves and lines of progress. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tenon/train.h>

#include "base/memory.h"
#include "train/report.h"

enum { MANY = 20000 };

static double steps[MANY], values[MANY];

static size_t count_of(const char *text, const char *part) {
    size_t count = 0;
    for (; (text = strstr(text, part)); text += strlen(part))
        count++;
    return count;
}

/* The positions in the n-th polyline. */
static size_t polyline_points(const char *html, int n) {
    for (; n >= 0; n--) {
        html = strstr(html, "<polyline");
        assert_non_null(html);
        html += strlen("<polyline");
    }
    html = strstr(html, "points=\"") + strlen("points=\"");
    size_t count = 0;
    for (; *html != '"'; html++)
        count += *html == ',';
    return count;
}

static void make_page(tn_buf *page, const tn_series *series, size_t count) {
    const tn_plot plot = {"Loss", series, count};
    const struct tn_report report = {.title = "Run", .plots = &plot, .plot_count = 1};
    tn_buf_clear(page);
    assert_int_equal(tn_report_html(page, &report), TN_OK);
    assert_null(strstr(page->data, "nan"));
    assert_null(strstr(page->data, "inf"));
}

static void report_draws_every_point_of_a_short_series(void **state) {
    (void)state;
    tn_buf page = {0};
    for (int i = 0; i < 1000; i++) {
        steps[i] = i;
        values[i] = 3 * exp(-i / 300.0);
    }
    const tn_series series[] = {{"training", steps, values, 1000}, {"validation", steps, values, 7}};
    make_page(&page, series, 2);
    assert_int_equal(polyline_points(page.data, 0), 1000);
    assert_int_equal(polyline_points(page.data, 1), 7);
    assert_non_null(strstr(page.data, ">validation</text>"));
    assert_int_equal(count_of(page.data, "class=\"hover s0\""), 100);
    assert_int_equal(count_of(page.data, "class=\"hover s1\""), 7);
    assert_null(strstr(page.data, "<script"));
    assert_null(strstr(page.data, "http"));
    tn_buf_free(&page);
}

static void long_series_is_thinned_and_keeps_its_extremes(void **state) {
    (void)state;
    static const int counts[] = {1001, 1002, 1499, 5000, MANY};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        tn_buf page = {0};
        for (int i = 0; i < counts[c]; i++) {
            steps[i] = i;
            values[i] = 1 + 0.3 * sin(i * 0.7);
        }
        values[counts[c] / 3] = 5;
        values[counts[c] / 2] = -2;
        const tn_series series = {"training", steps, values, (size_t)counts[c]};
        make_page(&page, &series, 1);
        size_t points = polyline_points(page.data, 0);
        assert_in_range(points, TN_REPORT_POINTS / 2, TN_REPORT_POINTS);
        /* The highest and the lowest value lie on the edges of the frame, the first and last step too. */
        const char *line = strstr(page.data, "<polyline"), *end = strstr(line, "\">");
        assert_true(strstr(line, ",14.0") && strstr(line, ",14.0") < end);
        assert_true(strstr(line, ",256.0") && strstr(line, ",256.0") < end);
        assert_non_null(strstr(line, "points=\"70.0,"));
        assert_true(strstr(line, " 784.0,") && strstr(line, " 784.0,") < end);
        tn_buf_free(&page);
    }
}

static void values_that_are_not_finite_are_left_out(void **state) {
    (void)state;
    const double s[] = {1, 2, 3, 4, NAN, 6}, v[] = {3, NAN, 2, INFINITY, 1, 1.5};
    const tn_series series = {"training", s, v, 6};
    tn_buf page = {0};
    make_page(&page, &series, 1);
    assert_int_equal(polyline_points(page.data, 0), 3);
    tn_buf_free(&page);
}

static void single_point_is_a_dot_and_no_point_a_sentence(void **state) {
    (void)state;
    const double one[] = {5}, value[] = {0}, bad[] = {NAN};
    const tn_series single = {"training", one, value, 1}, none = {"training", NULL, NULL, 0},
                    nan = {"training", one, bad, 1};
    tn_buf page = {0};
    make_page(&page, &single, 1);
    assert_int_equal(count_of(page.data, "<polyline"), 0);
    assert_int_equal(count_of(page.data, "class=\"only s0\""), 1);
    make_page(&page, &none, 1);
    assert_non_null(strstr(page.data, "No values were recorded."));
    assert_int_equal(count_of(page.data, "<svg"), 0);
    make_page(&page, &nan, 1);
    assert_non_null(strstr(page.data, "No values were recorded."));
    make_page(&page, NULL, 0);
    tn_buf_free(&page);
}

static void texts_are_escaped(void **state) {
    (void)state;
    const double s[] = {1, 2}, v[] = {1, 2};
    const tn_series series[] = {{"<b>\"x\" & y</b>", s, v, 2}, {"\x1b\xff", s, v, 2}};
    const tn_plot plot = {"\"><script>", series, 2};
    const tn_report_row rows[] = {{"<key>", "a & b\nc"}, {NULL, "\xc3\xa9\xc3"}};
    const struct tn_report report = {
        .title = "</title><script>", .rows = rows, .row_count = 2, .plots = &plot, .plot_count = 1};
    tn_buf page = {0};
    assert_int_equal(tn_report_html(&page, &report), TN_OK);
    assert_null(strstr(page.data, "<script>"));
    assert_null(strstr(page.data, "<b>"));
    assert_null(strchr(page.data, '\x1b'));
    assert_non_null(strstr(page.data, "aria-label=\"&quot;&gt;&lt;script&gt; against step\""));
    assert_non_null(strstr(page.data, "<th scope=\"row\">&lt;key&gt;</th><td>a &amp; b\nc</td>"));
    assert_non_null(strstr(page.data, "<td>\u00e9\ufffd</td>"));
    assert_non_null(strstr(page.data, ">\ufffd\ufffd</text>"));
    tn_buf_free(&page);
}

static void report_without_memory_is_an_error(void **state) {
    (void)state;
    const double s[] = {1, 2}, v[] = {1, 2};
    const tn_series series = {"training", s, v, 2};
    const tn_plot plot = {"Loss", &series, 1};
    const struct tn_report report = {.title = "Run", .plots = &plot, .plot_count = 1};
    size_t before = tn_memory_used();
    tn_status status = TN_ERROR_MEMORY;
    for (int64_t n = 0; status != TN_OK && n < 100; n++) {
        tn_buf page = {0};
        tn_memory_fail_after(n);
        status = tn_report_html(&page, &report);
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
        tn_buf_free(&page);
        assert_int_equal(tn_memory_used(), before);
    }
    assert_int_equal(status, TN_OK);
}

static int columns_of_line(const char *line) {
    int columns = 0;
    for (; *line && *line != '\n'; line++)
        columns += ((unsigned char)*line & 0xc0) != 0x80;
    return columns;
}

static void curve_fits_its_box(void **state) {
    (void)state;
    static const int sizes[][2] = {{40, 8}, {80, 20}, {79, 15}, {500, 200}, {0, 0}, {100000, 100000}};
    for (int i = 0; i < 5000; i++) {
        steps[i] = i;
        values[i] = 4 * exp(-i / 900.0) + 0.2 * sin(i);
    }
    const double valid_steps[] = {1000, 2000, 4999}, valid[] = {2, 1.5, NAN};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int utf8 = 0; utf8 < 2; utf8++) {
            tn_buf text = {0};
            tn_curve_draw(&text, steps, values, 5000, valid_steps, valid, 3, sizes[i][0], sizes[i][1], utf8);
            int width = sizes[i][0] < 40 ? 40 : sizes[i][0], height = sizes[i][1] < 8 ? 8 : sizes[i][1];
            assert_int_equal(tn_buf_status(&text), TN_OK);
            assert_int_equal(count_of(text.data, "\n"), height > 200 ? 200 : height);
            for (const char *line = text.data; *line; line = strchr(line, '\n') + 1)
                assert_true(columns_of_line(line) <= width);
            /* Two marks and the one of the legend; at the smallest size both marks still have cells of their own. */
            assert_int_equal(count_of(strchr(text.data, '\n'), utf8 ? "\u25cf" : "o"), 2);
            for (const char *p = text.data; !utf8 && *p; p++)
                assert_true((unsigned char)*p < 128);
            tn_buf_free(&text);
        }
}

static void curve_of_a_line_goes_from_corner_to_corner(void **state) {
    (void)state;
    const double s[] = {0, 29}, v[] = {0, 5};
    tn_buf text = {0};
    tn_curve_draw(&text, s, v, 2, NULL, NULL, 0, 40, 8, false);
    assert_string_equal(text.data, "         |                           ***\n"
                                   "       4 +                     ******\n"
                                   "         |               ******\n"
                                   "       2 +         ******\n"
                                   "         |   ******\n"
                                   "       0 +***\n"
                                   "         ++---------+---------+---------\n"
                                   "          0        10        20\n");
    tn_buf_free(&text);
}

static void curve_takes_anything(void **state) {
    (void)state;
    const double s[] = {0, 1, 2, NAN}, flat[] = {2, 2, 2, 2}, wild[] = {-1e308, 1e308, NAN, 0}, one[] = {NAN, 7, NAN, NAN};
    const double tiny[] = {0, 5e-324, 1e-323, 0},
                 large[] = {1e15, 1e15 + 1, 1e15 + 2, 0}, *const all[] = {flat, wild, one, tiny, large};
    for (size_t i = 0; i < 5; i++) {
        tn_buf text = {0};
        tn_curve_draw(&text, s, all[i], 4, all[i], s, 4, 40, 10, true);
        assert_int_equal(tn_buf_status(&text), TN_OK);
        tn_buf_free(&text);
    }
    tn_buf none = {0};
    tn_curve_draw(&none, NULL, NULL, 0, NULL, NULL, 0, 40, 10, true);
    assert_string_equal(none.data, "no values yet\n");
    tn_buf_free(&none);
}

static void curve_of_a_result_is_that_of_its_losses(void **state) {
    (void)state;
    double s[] = {0, 10, 20}, v[] = {3, 2, 1}, valid_s[] = {10, 20}, valid_v[] = {2.5, 1.5};
    tn_train_result result = {.curve_points = 3,
                              .curve_steps = s,
                              .curve_losses = v,
                              .valid_points = 2,
                              .valid_steps = valid_s,
                              .valid_losses = valid_v};
    const tn_train_result empty = {0};
    char *text;
    for (int utf8 = 0; utf8 < 2; utf8++) {
        tn_buf wanted = {0};
        tn_curve_draw(&wanted, s, v, 3, valid_s, valid_v, 2, 60, 12, utf8);
        assert_int_equal(tn_train_curve(&result, 60, 12, utf8, &text), TN_OK);
        assert_string_equal(text, wanted.data);
        tn_free_text(text);
        tn_buf_free(&wanted);
    }
    assert_int_equal(tn_train_curve(&empty, 60, 12, true, &text), TN_OK);
    assert_string_equal(text, "no values yet\n");
    tn_free_text(text);
}

static void ticks_are_round_and_inside(void **state) {
    (void)state;
    static const double ranges[][2] = {{0, 1}, {0.13, 3.7}, {-5e-5, 2e-4}, {100, 100000}, {-3, -2.9}, {1e15, 1e15 + 8}};
    double ticks[TN_TICKS], distance;
    char text[TN_FORMAT_TEXT];
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        int count = tn_ticks(ranges[i][0], ranges[i][1], 6, ticks, &distance);
        assert_in_range(count, 2, 6);
        for (int k = 0; k < count; k++)
            assert_true(ticks[k] >= ranges[i][0] - distance * 1e-6 && ticks[k] <= ranges[i][1] + distance * 1e-6);
    }
    assert_int_equal(tn_ticks(1, 1, 6, ticks, &distance), 0);
    assert_int_equal(tn_ticks(0, INFINITY, 6, ticks, &distance), 0);
    assert_int_equal(tn_ticks(NAN, 1, 6, ticks, &distance), 0);
    assert_string_equal(tn_tick_text(text, 0.25, 0.05), "0.25");
    assert_string_equal(tn_tick_text(text, 0, 0.05), "0.00");
    assert_string_equal(tn_tick_text(text, 1500, 500), "1500");
    assert_string_equal(tn_tick_text(text, 2e-4, 1e-4), "0.0002");
    assert_string_equal(tn_tick_text(text, 5e-5, 5e-5), "0.00005");
    assert_string_equal(tn_tick_text(text, 1.25e7, 5e5), "1.25e+07");
}

static void progress_line_gives_way_to_the_width(void **state) {
    (void)state;
    char line[TN_PROGRESS_TEXT];
    tn_progress p = {120, 500, 1.2341, 1e-4, 1234, 42, NULL};
    assert_int_equal(tn_progress_line(line, &p, 80), 59);
    assert_string_equal(line, "step 120/500  loss 1.234  lr 1.0e-04  1234 tok/s  0:42 left");
    for (int width = 100; width >= -1; width--)
        assert_true(tn_progress_line(line, &p, width) <= (width < 0 ? 0 : width));
    tn_progress_line(line, &p, 50);
    assert_string_equal(line, "step 120/500  loss 1.234  1234 tok/s  0:42 left");
    tn_progress_line(line, &p, 30);
    assert_string_equal(line, "step 120/500  loss 1.234");
    p = (tn_progress){7, 0, NAN, NAN, NAN, NAN, NULL};
    tn_progress_line(line, &p, 80);
    assert_string_equal(line, "step 7");
    p = (tn_progress){INT64_MIN, INT64_MAX, -1e308, 1e-300, -1e300, 1e11, "samples/s"};
    int length = tn_progress_line(line, &p, 10000);
    assert_int_equal(length, strlen(line));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(report_draws_every_point_of_a_short_series),
        cmocka_unit_test(long_series_is_thinned_and_keeps_its_extremes),
        cmocka_unit_test(values_that_are_not_finite_are_left_out),
        cmocka_unit_test(single_point_is_a_dot_and_no_point_a_sentence),
        cmocka_unit_test(texts_are_escaped),
        cmocka_unit_test(report_without_memory_is_an_error),
        cmocka_unit_test(curve_fits_its_box),
        cmocka_unit_test(curve_of_a_line_goes_from_corner_to_corner),
        cmocka_unit_test(curve_takes_anything),
        cmocka_unit_test(curve_of_a_result_is_that_of_its_losses),
        cmocka_unit_test(ticks_are_round_and_inside),
        cmocka_unit_test(progress_line_gives_way_to_the_width),
    };
    return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
