/* Running the built program through the shell, in a folder of the test's own. */
#ifndef TESTS_CLI_PROGRAM_H
#define TESTS_CLI_PROGRAM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "base/file.h"

static tn_buf output; /* of the last run, errors included */
static char folder[] = "/tmp/tenon-cli-XXXXXX";

/* Returns the exit code. */
static inline int run(const char *command) {
    char line[8192], chunk[4096];
    assert_true((size_t)snprintf(line, sizeof line, "cd '%s' && exec 2>&1; %s", folder, command) < sizeof line);
    tn_buf_clear(&output);
    FILE *pipe = popen(line, "r");
    assert_non_null(pipe);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, pipe)) > 0;)
        tn_buf_append(&output, chunk, n);
    int status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static inline const char *text(void) {
    return tn_buf_text(&output);
}

static inline void printed(const char *words) {
    if (!strstr(text(), words))
        fail_msg("'%s' is not in: %s", words, text());
}

static inline void exits(int code, const char *command) {
    int got = run(command);
    if (got != code)
        fail_msg("%s: exit code %d: %s", command, got, text());
}

static inline void write_file(const char *name, const char *contents) {
    char path[TN_PATH_MAX];
    assert_int_equal(tn_path_join(path, folder, name), TN_OK);
    assert_int_equal(tn_file_write(path, contents, strlen(contents)), TN_OK);
}

/* Puts a folder of ../shared into $NAME; skips the test when it is not there. */
static inline void need_shared(const char *variable, const char *name) {
    char path[TN_PATH_MAX];
    const char *root = getenv("TENON_SHARED");
    assert_int_equal(tn_path_join(path, root ? root : TENON_SOURCE_ROOT "/../shared", name), TN_OK);
    if (!tn_path_exists(path)) {
        print_message("no %s\n", path);
        skip();
    }
    setenv(variable, path, 1);
}

static inline int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state) {
    (void)state;
    tn_buf_free(&output);
    return tn_path_remove_tree(folder) == TN_OK ? 0 : -1;
}

#endif
