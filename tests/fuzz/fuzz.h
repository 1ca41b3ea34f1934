/* What every fuzz target shares. A target defines LLVMFuzzerTestOneInput; libFuzzer or run_corpus.c calls it. */
#ifndef TN_TESTS_FUZZ_H
#define TN_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As assert, in every build. */
#define fuzz_require(condition)                                                                                             \
    do {                                                                                                                    \
        if (!(condition)) {                                                                                                 \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                                       \
            abort();                                                                                                        \
        }                                                                                                                   \
    } while (0)

/* The path of a file that holds these bytes until the next call; for readers that take paths. */
const char *fuzz_file(const uint8_t *data, size_t size);

/* Touches every byte, so that a sanitizer sees those that must not be touched. */
void fuzz_read(const void *bytes, size_t size);

#endif
