/* Running an example, $TENON_EXAMPLE, and reading numbers from what it prints. */
#ifndef TESTS_EXAMPLES_EXAMPLE_H
#define TESTS_EXAMPLES_EXAMPLE_H

#include <math.h>

#include "cli/program.h"

/* The `index`th number after the first `words` that the last run printed; percent signs and letters are passed over. */
static inline double number_after(const char *words, int index) {
    const char *at = strstr(text(), words);
    if (!at)
        fail_msg("'%s' is not in: %s", words, text());
    at += strlen(words);
    for (;; at++) {
        char *end;
        at += strcspn(at, "-0123456789");
        if (!*at)
            fail_msg("there are no %d numbers after '%s' in: %s", index + 1, words, text());
        double value = strtod(at, &end);
        if (end != at && index-- == 0)
            return value;
        at = end != at ? end - 1 : at;
    }
}

/* A path in the test's folder; good until the next call. */
static inline const char *made(const char *name) {
    static char path[TN_PATH_MAX];
    assert_int_equal(tn_path_join(path, folder, name), TN_OK);
    return path;
}

#endif
