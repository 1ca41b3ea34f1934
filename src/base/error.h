/* How functions fail: return tn_fail(...), which leaves the words for tn_error_message(). */
#ifndef TN_BASE_ERROR_H
#define TN_BASE_ERROR_H

#include <stdarg.h>
#include <tenon/error.h>

#if defined(__GNUC__)
#define TN_PRINTF(format_at, args_at) __attribute__((format(printf, format_at, args_at)))
#else
#define TN_PRINTF(format_at, args_at)
#endif

/* Records the message and returns `status`, so that a failure is one statement. */
tn_status tn_fail(tn_status status, const char *format, ...) TN_PRINTF(2, 3);

/* Puts "<context>: " in front of the current message; returns `status`. */
tn_status tn_fail_context(tn_status status, const char *format, ...) TN_PRINTF(2, 3);

/* tn_fail(TN_ERROR_MEMORY) naming what was being allocated. */
tn_status tn_fail_memory(const char *what);

/* Evaluates a call and returns its status from the enclosing function when it failed. */
#define TN_TRY(call)                                                                                                        \
    do {                                                                                                                    \
        tn_status tn_try_status_ = (call);                                                                                  \
        if (tn_try_status_ != TN_OK)                                                                                        \
            return tn_try_status_;                                                                                          \
    } while (0)

/* As TN_TRY for functions that clean up: sets `status` and jumps to `fail`. */
#define TN_TRY_GOTO(call)                                                                                                   \
    do {                                                                                                                    \
        status = (call);                                                                                                    \
        if (status != TN_OK)                                                                                                \
            goto fail;                                                                                                      \
    } while (0)

#endif
