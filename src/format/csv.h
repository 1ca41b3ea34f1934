/* CSV as RFC 4180 has it, one record at a time:
 *
 *     record  = field *( separator field ) ( CRLF / LF / end of file )
 *     field   = "any text, line ends too, with "" for one quote" / text without quotes
 *
 * Beyond the RFC, LF alone ends a line, blank lines are skipped, a byte order mark is skipped, blanks around fields without
 * quotes are dropped, and the separator may be another than a comma. */
#ifndef TN_FORMAT_CSV_H
#define TN_FORMAT_CSV_H

#include "base/buf.h"
#include "base/file.h"

/* One record may have this many bytes. */
#define TN_CSV_RECORD_LIMIT ((size_t)64 << 20)

typedef struct tn_csv {
    tn_mapping mapping;
    const char *path; /* the caller's; outlives the reader */
    char separator;
    size_t offset;
    int64_t next_line; /* of the byte at `offset`, from 1 */
    int64_t line;      /* where the current record begins */
    int64_t columns;   /* fields of the current record; 0 at the end of the file */
    tn_buf text;       /* its fields, each with a NUL behind it */
    size_t *starts;    /* [columns] into `text` */
    int64_t capacity;
} tn_csv;

/* `separator` 0 is a comma. Close with tn_csv_close also after errors of tn_csv_next; a failed open needs no close. */
tn_status tn_csv_open(tn_csv *reader, const char *path, char separator);
void tn_csv_close(tn_csv *reader);

/* Reads the next record; reader->columns is 0 when there is none. Errors name file, line and column (counted in fields, from
 * 1): a quote inside an unquoted field or never closed, text behind a closing quote, a lone CR, NUL, invalid UTF-8. */
tn_status tn_csv_next(tn_csv *reader);

/* Field 0 <= column < columns of the current record; lives until the next call of tn_csv_next. */
const char *tn_csv_field(const tn_csv *reader, int64_t column);

/* tn_fail(TN_ERROR_FORMAT) with "<path> line <n> column <m>: " before the words; `column` counts from 0. */
tn_status tn_csv_fail(const tn_csv *reader, int64_t column, const char *format, ...) TN_PRINTF(3, 4);

#endif
