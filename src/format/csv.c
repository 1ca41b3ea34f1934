/* CSV records out of a mapped file. */
#include "format/csv.h"

#include <stdarg.h>
#include <string.h>

#include "base/utf8.h"

tn_status tn_csv_fail(const tn_csv *reader, int64_t column, const char *format, ...) {
    char words[512];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    return tn_fail(TN_ERROR_FORMAT, "%s line %lld column %lld: %s", reader->path, (long long)reader->line,
                   (long long)column + 1, words);
}

tn_status tn_csv_open(tn_csv *reader, const char *path, char separator) {
    *reader = (tn_csv){.path = path, .separator = separator ? separator : ',', .next_line = 1};
    if ((unsigned char)reader->separator > 127 || strchr("\"\r\n", reader->separator))
        return tn_fail(TN_ERROR_ARGUMENT,
                       "the fields of a CSV file are separated by one ASCII character, no quote or line end");
    TN_TRY(tn_file_map(path, &reader->mapping));
    const uint8_t *data = reader->mapping.data;
    size_t size = reader->mapping.size;
    if (size >= 2 && ((data[0] == 0xff && data[1] == 0xfe) || (data[0] == 0xfe && data[1] == 0xff))) {
        tn_csv_close(reader);
        return tn_fail(TN_ERROR_FORMAT, "%s is UTF-16 text; save it as UTF-8", path);
    }
    if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0)
        reader->offset = 3;
    return TN_OK;
}

void tn_csv_close(tn_csv *reader) {
    tn_free(reader->starts);
    tn_buf_free(&reader->text);
    tn_file_unmap(&reader->mapping);
    *reader = (tn_csv){0};
}

const char *tn_csv_field(const tn_csv *reader, int64_t column) {
    return reader->text.data + reader->starts[column];
}

/* The byte at `offset`, or -1 at the end. */
static int peek(const tn_csv *reader) {
    return reader->offset < reader->mapping.size ? reader->mapping.data[reader->offset] : -1;
}

/* Passes a line end when one is here. */
static bool skip_line_end(tn_csv *reader) {
    size_t left = reader->mapping.size - reader->offset, length = 0;
    if (peek(reader) == '\n')
        length = 1;
    else if (peek(reader) == '\r' && left >= 2 && reader->mapping.data[reader->offset + 1] == '\n')
        length = 2;
    reader->offset += length;
    reader->next_line += length > 0;
    return length > 0;
}

static bool is_blank(int c) {
    return c == ' ' || c == '\t';
}

static void skip_blanks(tn_csv *reader) {
    while (is_blank(peek(reader)) && peek(reader) != reader->separator)
        reader->offset++;
}

static tn_status read_quoted(tn_csv *reader) {
    int64_t column = reader->columns, opened = reader->next_line;
    for (reader->offset++;; reader->offset++) {
        int c = peek(reader);
        if (c < 0)
            return tn_csv_fail(reader, column, "the quote opened on line %lld is never closed", (long long)opened);
        if (c == '"') {
            reader->offset++;
            if (peek(reader) != '"')
                break;
        }
        reader->next_line += c == '\n';
        tn_buf_putc(&reader->text, (char)c);
    }
    skip_blanks(reader);
    return TN_OK;
}

static tn_status read_unquoted(tn_csv *reader) {
    size_t start = reader->offset, end;
    for (int c; (c = peek(reader)) >= 0 && c != reader->separator && c != '\n' && c != '\r'; reader->offset++)
        if (c == '"')
            return tn_csv_fail(reader, reader->columns,
                               "a quote inside a field that does not begin with one; quote the field and double it");
    for (end = reader->offset; end > start && is_blank(reader->mapping.data[end - 1]);)
        end--;
    tn_buf_append(&reader->text, reader->mapping.data + start, end - start);
    return TN_OK;
}

static tn_status add_start(tn_csv *reader) {
    if (reader->columns == reader->capacity) {
        int64_t capacity = reader->capacity ? 2 * reader->capacity : 64;
        size_t *starts = tn_realloc_array(reader->starts, (size_t)capacity, sizeof *starts);
        if (!starts)
            return tn_fail_memory("the fields of a CSV file");
        reader->starts = starts;
        reader->capacity = capacity;
    }
    reader->starts[reader->columns] = reader->text.length;
    return TN_OK;
}

static tn_status read_field(tn_csv *reader) {
    TN_TRY(add_start(reader));
    size_t start = reader->text.length;
    skip_blanks(reader);
    TN_TRY(peek(reader) == '"' ? read_quoted(reader) : read_unquoted(reader));
    TN_TRY(tn_buf_status(&reader->text));
    size_t length = reader->text.length - start;
    if (length && memchr(reader->text.data + start, 0, length))
        return tn_csv_fail(reader, reader->columns, "a NUL byte; this is not text");
    if (length && tn_utf8_valid_prefix(reader->text.data + start, length) != length)
        return tn_csv_fail(reader, reader->columns, "not valid UTF-8");
    tn_buf_putc(&reader->text, 0);
    return tn_buf_status(&reader->text);
}

tn_status tn_csv_next(tn_csv *reader) {
    tn_buf_clear(&reader->text);
    reader->columns = 0;
    skip_blanks(reader);
    while (skip_line_end(reader))
        skip_blanks(reader);
    reader->line = reader->next_line;
    size_t start = reader->offset;
    for (bool more = peek(reader) >= 0; more;) {
        tn_status status = read_field(reader);
        int c = peek(reader);
        if (status == TN_OK && reader->offset - start > TN_CSV_RECORD_LIMIT)
            status = tn_csv_fail(reader, reader->columns, "a record of more than %zu bytes", TN_CSV_RECORD_LIMIT);
        more = c == reader->separator;
        if (status == TN_OK && !more && c >= 0 && !skip_line_end(reader))
            status = tn_csv_fail(reader, reader->columns,
                                 c == '\r' ? "a carriage return without a line feed" : "text behind a closing quote");
        if (status != TN_OK) {
            reader->columns = 0;
            return status;
        }
        reader->offset += more;
        reader->columns++;
    }
    return TN_OK;
}
