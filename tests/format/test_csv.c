/* CSV records: RFC 4180's rules, what is allowed beyond them, and each way to break them. */
#include "support/support.h"

#include "base/memory.h"
#include "format/csv.h"

static tn_csv opened(const char *text, size_t length, char separator) {
    static char path[512];
    snprintf(path, sizeof path, "%s", temporary("rows.csv"));
    tn_csv reader;
    assert_ok(tn_file_write(path, text, length));
    assert_ok(tn_csv_open(&reader, path, separator));
    return reader;
}

/* The file's records as "line: [field][field]\n". */
static const char *records(const char *text, char separator) {
    static char out[4096];
    tn_csv reader = opened(text, strlen(text), separator);
    int at = 0;
    for (;;) {
        assert_ok(tn_csv_next(&reader));
        if (!reader.columns)
            break;
        at += snprintf(out + at, sizeof out - (size_t)at, "%d: ", (int)reader.line);
        for (int64_t i = 0; i < reader.columns; i++)
            at += snprintf(out + at, sizeof out - (size_t)at, "[%s]", tn_csv_field(&reader, i));
        at += snprintf(out + at, sizeof out - (size_t)at, "\n");
    }
    out[at] = 0;
    tn_csv_close(&reader);
    return out;
}

static void refuses_bytes(const char *words, const char *text, size_t length) {
    tn_csv reader = opened(text, length, 0);
    tn_status status = TN_OK;
    do
        status = tn_csv_next(&reader);
    while (status == TN_OK && reader.columns);
    assert_fails(status, TN_ERROR_FORMAT, words);
    assert_int_equal(reader.columns, 0);
    tn_csv_close(&reader);
}

static void refuses(const char *words, const char *text) {
    refuses_bytes(words, text, strlen(text));
}

static void reads_plain_and_quoted_fields(void **state) {
    (void)state;
    assert_string_equal(records("a,b\r\n1,2\r\n", 0), "1: [a][b]\n2: [1][2]\n");
    assert_string_equal(records("\"a,b\",\"say \"\"hi\"\"\",\"\"", 0), "1: [a,b][say \"hi\"][]\n");
    assert_string_equal(records("\"two\r\nlines\",1\n2,3", 0), "1: [two\r\nlines][1]\n3: [2][3]\n");
    assert_string_equal(records(",\n1,", 0), "1: [][]\n2: [1][]\n");
    assert_string_equal(records("1;\"a;b\";2,5\n", ';'), "1: [1][a;b][2,5]\n");
    assert_string_equal(records("1\t\t3\n\t\t\n", '\t'), "1: [1][][3]\n2: [][][]\n");
}

static void skips_blank_lines_blanks_around_fields_and_a_byte_order_mark(void **state) {
    (void)state;
    assert_string_equal(records("", 0), "");
    assert_string_equal(records("\n \r\n\n", 0), "");
    assert_string_equal(records("\xef\xbb\xbf"
                                "1, 2 ,\tx y \n\n  \n 3 , \" 4 \" ,5\n",
                                0),
                        "1: [1][2][x y]\n4: [3][ 4 ][5]\n");
}

static void refuses_broken_records_with_line_and_column(void **state) {
    (void)state;
    refuses("rows.csv line 2 column 2: a quote inside a field", "1,2\n3,4\"5\n");
    refuses("rows.csv line 1 column 2: the quote opened on line 2 is never closed", "\"a\nb\",\"c\n\n");
    refuses("rows.csv line 1 column 1: text behind a closing quote", "\"a\"b,c\n");
    refuses("rows.csv line 3 column 1: a carriage return without a line feed", "1\n2\n3\r4\n");
    refuses("rows.csv line 1 column 1: a carriage return", "1\r");
    refuses("rows.csv line 1 column 2: not valid UTF-8", "1,\xff\n");
    refuses_bytes("rows.csv line 1 column 2: a NUL byte", "1,a\0b\n", 6);
}

static void refuses_what_is_no_csv_file(void **state) {
    (void)state;
    tn_csv reader;
    assert_fails(tn_csv_open(&reader, temporary("absent.csv"), 0), TN_ERROR_IO, "absent.csv");
    write_text(temporary("wide.csv"), "\xff\xfe"
                                      "1");
    assert_fails(tn_csv_open(&reader, temporary("wide.csv"), 0), TN_ERROR_FORMAT, "UTF-16");
    assert_fails(tn_csv_open(&reader, temporary("wide.csv"), '"'), TN_ERROR_ARGUMENT, "separated by");
    assert_fails(tn_csv_open(&reader, temporary("wide.csv"), '\xe4'), TN_ERROR_ARGUMENT, "separated by");
}

static void wide_records_keep_every_field(void **state) {
    (void)state;
    tn_buf text = {0};
    for (int i = 0; i < 1000; i++)
        tn_buf_printf(&text, "%s%d", i ? "," : "", i);
    tn_csv reader = opened(text.data, text.length, 0);
    assert_ok(tn_csv_next(&reader));
    assert_int_equal(reader.columns, 1000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(atoi(tn_csv_field(&reader, i)), i);
    tn_csv_close(&reader);
    tn_buf_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_plain_and_quoted_fields),
        cmocka_unit_test(skips_blank_lines_blanks_around_fields_and_a_byte_order_mark),
        cmocka_unit_test(refuses_broken_records_with_line_and_column),
        cmocka_unit_test(refuses_what_is_no_csv_file),
        cmocka_unit_test(wide_records_keep_every_field),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
