/* The thread's last error message. */
#include "base/error.h"

#include <stdio.h>
#include <string.h>

enum { MESSAGE_SIZE = 2048 };

static _Thread_local char message[MESSAGE_SIZE];

const char *tn_error_message(void) {
    return message;
}

const char *tn_status_name(tn_status status) {
    switch (status) {
    case TN_OK: return "ok";
    case TN_ERROR_MEMORY: return "memory";
    case TN_ERROR_IO: return "io";
    case TN_ERROR_FORMAT: return "format";
    case TN_ERROR_ARGUMENT: return "argument";
    case TN_ERROR_MISMATCH: return "mismatch";
    case TN_ERROR_UNSUPPORTED: return "unsupported";
    case TN_ERROR_NUMERIC: return "numeric";
    case TN_ERROR_INTERRUPTED: return "interrupted";
    }
    return "unknown";
}

/* Messages quote names out of hostile files: control characters never reach a terminal. */
static void make_printable(char *text) {
    for (unsigned char *c = (unsigned char *)text; *c; c++)
        if (*c < 0x20 || *c == 0x7f)
            *c = ' ';
}

tn_status tn_fail(tn_status status, const char *format, ...) {
    char text[MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    make_printable(text);
    memcpy(message, text, sizeof message);
    return status;
}

tn_status tn_fail_context(tn_status status, const char *format, ...) {
    char context[MESSAGE_SIZE / 2], text[MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    make_printable(context);
    snprintf(text, sizeof text, "%s: %.*s", context, MESSAGE_SIZE / 2 - 4, message);
    memcpy(message, text, sizeof message);
    return status;
}

tn_status tn_fail_memory(const char *what) {
    return tn_fail(TN_ERROR_MEMORY, "out of memory for %s", what);
}
