/* What a command that writes a folder says about it. */
#ifndef TN_CLI_OUTPUT_FILES_H
#define TN_CLI_OUTPUT_FILES_H

#include "base/buf.h"

/* Appends one line per file of `dir`, in the order of their names, with its size. */
tn_status tn_cli_print_files(tn_buf *out, const char *dir);

#endif
