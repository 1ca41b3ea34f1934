/* tenon version: the version and how it was built. */
#include "cli/commands.h"

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "an unknown compiler"
#endif

static int run(const tn_invocation *call) {
    (void)call;
    tn_buf text = {0};
    tn_buf_puts(&text, "tenon " TENON_VERSION "\nbuilt with " COMPILER);
#ifdef _OPENMP
    tn_buf_puts(&text, " and OpenMP");
#endif
    tn_buf_putc(&text, '\n');
    tn_status status = tn_cli_print(&text);
    tn_buf_free(&text);
    return tn_cli_exit(status);
}

const tn_command tn_command_version = {
    .name = "version",
    .summary = "print the version and how it was built",
    .description = "Prints the version on the first line and the compiler on the second. `tenon --version` prints the "
                   "first line only.",
    .run = run,
};
