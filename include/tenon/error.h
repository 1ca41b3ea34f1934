/* Status codes and the words that go with them. */
#ifndef TENON_ERROR_H
#define TENON_ERROR_H

#if defined(_WIN32)
#define TN_API
#else
#define TN_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What kind of thing went wrong. Every function of the library that can fail returns one of these. */
typedef enum tn_status {
    TN_OK = 0,
    TN_ERROR_MEMORY,      /* an allocation failed */
    TN_ERROR_IO,          /* a file could not be opened, read, written or synced */
    TN_ERROR_FORMAT,      /* a file's contents break its format */
    TN_ERROR_ARGUMENT,    /* a caller's option or argument is unusable */
    TN_ERROR_MISMATCH,    /* two valid things do not fit each other (adapter and base, resume and data) */
    TN_ERROR_UNSUPPORTED, /* valid, but not something this build does */
    TN_ERROR_NUMERIC,     /* a value is not finite, or nothing is being learned */
    TN_ERROR_INTERRUPTED, /* a callback or a signal asked to stop */
} tn_status;

/* One line about the last failure in the calling thread: what, where, and what to do. Never NULL; owned by the
 * library; valid until the next failing call in the same thread. */
TN_API const char *tn_error_message(void);

/* The name of a status, such as "format". Never NULL. */
TN_API const char *tn_status_name(tn_status status);

#ifdef __cplusplus
}
#endif
#endif
