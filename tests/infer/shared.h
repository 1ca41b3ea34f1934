/* Finding test data: the bundled model and golden cases in the repository, other data below $TENON_SHARED, or ../shared
 * beside the source. */
#ifndef TN_TESTS_INFER_SHARED_H
#define TN_TESTS_INFER_SHARED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "session/session.h"

#define STORIES "data/models/stories260K" /* a real language model with 260 thousand weights and 512 tokens */

#define BUNDLED "assets/base-model"

/* The path of `name` in the repository or among the shared data; the test is skipped where it is in neither. */
static inline const char *shared(const char *name, char path[TN_PATH_MAX]) {
    const char *dir = getenv("TENON_SHARED");
    const char *const roots[] = {TENON_SOURCE_ROOT, TENON_SOURCE_ROOT "/tests", dir ? dir : TENON_SOURCE_ROOT "/../shared"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, TN_PATH_MAX, "%s/%s", roots[i], name);
        if (tn_path_exists(path))
            return path;
    }
    skip();
    return path;
}

static inline tn_model *load_shared(const char *name) {
    char path[TN_PATH_MAX];
    tn_model *model;
    assert_int_equal(tn_model_load(shared(name, path), &model), TN_OK);
    return model;
}

static inline cJSON *read_stories_golden(void) {
    char path[TN_PATH_MAX];
    cJSON *golden;
    assert_int_equal(tn_json_read(shared(STORIES "/golden.json", path), 1 << 20, &golden), TN_OK);
    return golden;
}

#endif
