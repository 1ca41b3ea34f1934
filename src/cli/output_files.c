/* The files of an output folder with their sizes, and text that is safe to print. */
#include "cli/output_files.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/format.h"
#include "format/json.h"

static int is_shown(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

tn_status tn_cli_print_files(tn_buf *out, const char *dir) {
    char path[TN_PATH_MAX], size[TN_FORMAT_TEXT];
    struct dirent **entries;
    int count = scandir(dir, &entries, is_shown, alphasort);
    if (count < 0)
        return tn_fail(TN_ERROR_IO, "cannot list %s: %s", dir, strerror(errno));
    tn_status status = TN_OK;
    for (int i = 0; i < count; i++) {
        struct stat info;
        if (status == TN_OK)
            status = tn_path_join(path, dir, entries[i]->d_name);
        if (status == TN_OK && stat(path, &info) == 0 && S_ISREG(info.st_mode))
            tn_buf_printf(out, "  %s  %s\n", path, tn_format_bytes(size, (double)info.st_size));
        free(entries[i]);
    }
    free(entries);
    return status;
}

void tn_cli_print_text(tn_buf *out, const char *text) {
    bool plain = *text != 0;
    for (const char *c = text; *c; c++)
        plain =
            plain && (unsigned char)*c >= 0x20 && *c != 0x7f && !((unsigned char)*c == 0xc2 && (unsigned char)c[1] < 0xa0);
    if (plain)
        tn_buf_puts(out, text);
    else
        tn_json_print_string(out, text, strlen(text));
}
