/* What the tests of kernels share: guarded arrays of noise, comparison, and a digest of all that was compared. */
#ifndef TENON_TESTS_KERNEL_TEST_H
#define TENON_TESTS_KERNEL_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernel/kernel.h"

enum { GUARD = 64, MAX_ARRAYS = 64 }; /* guard bytes on each side */

static struct {
    unsigned char *block;
    size_t size;
} arrays[MAX_ARRAYS];
static int array_count;
static uint64_t noise_stream, digest;

/* Bytes between guards; everything is 0xA5 at first. */
static inline void *array_new(size_t size) {
    assert_true(array_count < MAX_ARRAYS);
    unsigned char *block = malloc(size + 2 * GUARD);
    assert_non_null(block);
    memset(block, 0xA5, size + 2 * GUARD);
    arrays[array_count].block = block;
    arrays[array_count++].size = size;
    return block + GUARD;
}

/* Ends a case: no kernel has written outside its arrays. */
static inline void release_arrays(void) {
    while (array_count > 0) {
        unsigned char *block = arrays[--array_count].block;
        size_t size = arrays[array_count].size;
        for (size_t i = 0; i < GUARD; i++) {
            assert_int_equal(block[i], 0xA5);
            assert_int_equal(block[GUARD + size + i], 0xA5);
        }
        free(block);
    }
}

static inline float *floats(int64_t count) {
    return array_new((size_t)count * sizeof(float));
}

static inline float *noise(int64_t count, float std) {
    float *x = floats(count);
    tn_fill_normal(x, (size_t)count, 7, noise_stream++, 0, std);
    return x;
}

static inline float *copy_of(const float *x, int64_t count) {
    float *y = floats(count);
    memcpy(y, x, (size_t)count * sizeof *y);
    return y;
}

static inline int32_t *integers_below(int32_t bound, int64_t count) {
    int32_t *x = array_new((size_t)count * sizeof *x);
    tn_rng rng = tn_rng_start(9, noise_stream++);
    for (int64_t i = 0; i < count; i++)
        x[i] = (int32_t)tn_rng_below(&rng, (uint32_t)bound);
    return x;
}

static inline void add_to_digest(const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++)
        digest = (digest ^ ((const unsigned char *)bytes)[i]) * UINT64_C(0x100000001b3);
}

/* |got - want| <= tolerance * the largest |want|, everywhere. Inputs are of order 1, so that what is below a tenth in all
 * elements has cancelled. */
static inline void expect_close(const char *what, const float *got, const float *want, int64_t count, double tolerance) {
    double largest = 0.1;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)want[i]));
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - want[i]) <= tolerance * largest))
            fail_msg("%s: element %lld of %lld is %.9g, not %.9g (largest %.3g)", what, (long long)i, (long long)count,
                     (double)got[i], (double)want[i], largest);
    add_to_digest(got, (size_t)count * sizeof *got);
}

static inline void expect_same_bytes(const char *what, const void *got, const void *want, size_t size) {
    if (memcmp(got, want, size) != 0)
        fail_msg("%s: bytes differ", what);
    add_to_digest(got, size);
}

static const char *const fast_tables[] = {"generic", "avx2", "avx512", "avx512_bf16"};

/* Runs a list of cases for every table that this CPU has. */
#define FOR_EACH_TABLE(table)                                                                                               \
    for (int table_at_ = 0; table_at_ < 4; table_at_++)                                                                     \
        for (const tn_kernels *table = tn_kernels_by_name(fast_tables[table_at_]); table; table = NULL)

static inline bool rounds_to_bf16(const tn_kernels *table) {
    return strcmp(table->name, "avx512_bf16") == 0;
}

static inline const tn_kernels *reference(void) {
    return tn_kernels_by_name("reference");
}

/* The same bits whatever the number of threads. */
static inline void expect_thread_invariance(void (*cases)(const tn_kernels *table)) {
    FOR_EACH_TABLE(table) {
        uint64_t first = 0;
        for (int threads = 1; threads <= 3; threads++) {
            tn_threads_set(threads);
            digest = noise_stream = 0;
            cases(table);
            if (threads == 1)
                first = digest;
            assert_true(digest == first);
        }
        tn_threads_set(0);
    }
}

#endif
