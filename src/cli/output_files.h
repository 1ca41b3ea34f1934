/* Names from files in a command's output, and what one that writes a folder says about it. */
#ifndef TN_CLI_OUTPUT_FILES_H
#define TN_CLI_OUTPUT_FILES_H

#include "base/buf.h"

/* Appends one line per file of `dir`, in the order of their names, with its size. */
tn_status tn_cli_print_files(tn_buf *out, const char *dir);

/* Appends text that comes from a file, quoted and escaped when it could steer the terminal. */
void tn_cli_print_text(tn_buf *out, const char *text);

#endif
