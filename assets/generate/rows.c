/* JSON lines in memory. */
#include "rows.h"

#include "base/file.h"

void tn_rows_put_string(tn_buf *out, const char *text) {
    tn_buf_putc(out, '"');
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '\n')
            tn_buf_puts(out, "\\n");
        else if (c == '"' || c == '\\')
            tn_buf_printf(out, "\\%c", c);
        else if (c < 0x20)
            tn_buf_printf(out, "\\u%04x", c);
        else
            tn_buf_putc(out, (char)c);
    }
    tn_buf_putc(out, '"');
}

tn_status tn_rows_save(const tn_buf *rows, const char *dir, const char *name) {
    char path[TN_PATH_MAX];
    TN_TRY(tn_buf_status(rows));
    TN_TRY(tn_dir_create(dir));
    TN_TRY(tn_path_join(path, dir, name));
    return tn_file_write(path, rows->data, rows->length);
}
