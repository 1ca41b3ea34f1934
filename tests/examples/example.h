/* What the tests of the examples share: running the program, and numbers out of its text. */
#ifndef TESTS_EXAMPLES_EXAMPLE_H
#define TESTS_EXAMPLES_EXAMPLE_H

#include "cli/program.h"

#include <math.h>
#include <tenon/tenon.h>

#define assert_ok(call)                                                                                                     \
    do {                                                                                                                    \
        if ((call) != TN_OK)                                                                                                \
            fail_msg("%s: %s", #call, tn_error_message());                                                                  \
    } while (0)

/* The number at *at, blanks before it apart; *at goes behind it. */
static inline double next_number(const char **at) {
    double value;
    int length = 0;
    if (sscanf(*at, "%lf%n", &value, &length) != 1)
        fail_msg("no number at: %.60s", *at);
    *at += length;
    return value;
}

/* The one that follows `words`; *at, when given, is where to look from, and goes behind it. */
static inline double number_after(const char *words, const char **at) {
    const char *found = strstr(at ? *at : text(), words);
    if (!found)
        fail_msg("'%s' is not in: %s", words, text());
    found += strlen(words);
    double value = next_number(&found);
    if (at)
        *at = found;
    return value;
}

/* The `index`th of the numbers that follow `words` anywhere behind them, whatever is between. */
static inline double nth_number_after(const char *words, int index) {
    const char *at = strstr(text(), words);
    if (!at)
        fail_msg("'%s' is not in: %s", words, text());
    for (at += strlen(words);; at++) {
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

/* A path below the test's folder; good until the next call but three. */
static inline const char *below(const char *name) {
    static char paths[4][TN_PATH_MAX];
    static int next;
    char *path = paths[next++ % 4];
    assert_int_equal(tn_path_join(path, folder, name), TN_OK);
    return path;
}

static inline tn_model *load(const char *name) {
    tn_model *model = NULL;
    assert_ok(tn_model_load(below(name), &model));
    return model;
}

#endif
