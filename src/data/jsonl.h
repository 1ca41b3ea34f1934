/* Rows of a file of JSON lines, or of one JSON array, one at a time with their line numbers. */
#ifndef TN_DATA_JSONL_H
#define TN_DATA_JSONL_H

#include <cjson/cJSON.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/file.h"

/* One row may have this many bytes. */
#define TN_JSONL_ROW_LIMIT ((size_t)64 << 20)

typedef struct tn_jsonl {
    tn_mapping mapping;
    const char *path; /* the caller's; outlives the reader */
    size_t offset;
    bool is_array, started;
    int64_t next_line; /* of the byte at `offset`, from 1 */
    int64_t line;      /* where the current row begins */
    tn_buf where;      /* "<path> line <n>" of the current row, for errors */
    cJSON *row;        /* current row; owned */
} tn_jsonl;

/* A file that begins with '[' is read as one array of rows, any other as one row per line. A UTF-8 byte order mark is
 * skipped. Close with tn_jsonl_close also after errors of tn_jsonl_next; a failed open needs no close. */
tn_status tn_jsonl_open(tn_jsonl *reader, const char *path);

/* Parses the next row into reader->row (NULL at the end), which lives until the next call. Blank lines are skipped. Errors
 * name file and line: malformed JSON, invalid UTF-8, rows that are no objects, keys that occur twice. */
tn_status tn_jsonl_next(tn_jsonl *reader);
void tn_jsonl_close(tn_jsonl *reader);

#endif
