/* JSON lines in memory. */
#ifndef TN_GENERATE_ROWS_H
#define TN_GENERATE_ROWS_H

#include "base/buf.h"

/* Appends a quoted JSON string; UTF-8 goes through as it is. */
void tn_rows_put_string(tn_buf *out, const char *text);

/* Writes the rows to dir/name, creating the folder. */
tn_status tn_rows_save(const tn_buf *rows, const char *dir, const char *name);

#endif
