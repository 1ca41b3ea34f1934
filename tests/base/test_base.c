/* Errors, memory, buffers, maps, random numbers, files and UTF-8. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/torch_rng.h"
#include "base/utf8.h"

static void error_message_names_context_and_hides_control_characters(void **state) {
    (void)state;
    assert_int_equal(tn_fail(TN_ERROR_FORMAT, "bad \x1b[31m name"), TN_ERROR_FORMAT);
    assert_string_equal(tn_error_message(), "bad  [31m name");
    tn_fail_context(TN_ERROR_FORMAT, "file %d", 7);
    assert_string_equal(tn_error_message(), "file 7: bad  [31m name");
}

static void allocator_counts_bytes_and_refuses_overflow(void **state) {
    (void)state;
    size_t before = tn_memory_used();
    char *p = tn_malloc(1000);
    assert_int_equal(tn_memory_used(), before + 1000);
    p = tn_realloc_array(p, 3, 500);
    assert_int_equal(tn_memory_used(), before + 1500);
    tn_free(p);
    assert_int_equal(tn_memory_used(), before);
    assert_null(tn_calloc(SIZE_MAX / 2, 4));
    int64_t product;
    assert_false(tn_mul_i64(INT64_MAX / 2, 3, &product));
    assert_false(tn_mul_i64(-1, 3, &product));
    assert_true(tn_mul_i64(6, 7, &product) && product == 42);
}

static void failed_allocation_is_an_error(void **state) {
    (void)state;
    tn_buf buf = {0};
    tn_memory_fail_after(0);
    tn_buf_puts(&buf, "text");
    tn_memory_fail_after(-1);
    assert_int_equal(tn_buf_status(&buf), TN_ERROR_MEMORY);
    tn_buf_free(&buf);
}

static void map_keeps_many_keys(void **state) {
    (void)state;
    tn_map map = {0};
    char key[32];
    for (int i = 0; i < 5000; i++) {
        snprintf(key, sizeof key, "key%d", i);
        assert_int_equal(tn_map_put_text(&map, key, i), TN_OK);
    }
    for (int i = 0; i < 5000; i++) {
        int64_t value = -1;
        snprintf(key, sizeof key, "key%d", i);
        assert_true(tn_map_get_text(&map, key, &value));
        assert_int_equal(value, i);
    }
    assert_false(tn_map_get_text(&map, "key5000", NULL));
    assert_int_equal(map.count, 5000);
    tn_map_free(&map);
}

static void nearest_name_suggests_only_what_is_near(void **state) {
    (void)state;
    const char *names[] = {"learning-rate", "rank", "alpha"};
    assert_string_equal(tn_nearest_name("rnak", names, 3), "rank");
    assert_string_equal(tn_nearest_name("learnin-rate", names, 3), "learning-rate");
    assert_null(tn_nearest_name("zzzzzzzzz", names, 3));
}

/* torch.empty(1000).uniform_(-0.5, 0.25, generator=torch.Generator().manual_seed(3)) in PyTorch 1.13, past the 624 words of
 * a state; of a larger seed the low half counts. */
static void torch_generator_gives_the_numbers_of_torch(void **state) {
    static const struct {
        int at;
        float value;
    } known[] = {{0, -0x1.fcb9c2p-2f},   {1, -0x1.aeec38p-2f},   {2, -0x1.247914p-2f},
                 {623, -0x1.0302f8p-4f}, {624, -0x1.201be0p-4f}, {999, -0x1.2ada82p-3f}};
    tn_torch_rng rng;
    float values[1000];
    (void)state;
    tn_torch_rng_seed(&rng, 3);
    tn_torch_fill_uniform(&rng, values, 1000, -0.5f, 0.25f);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_true(values[known[i].at] == known[i].value);
    tn_torch_rng_seed(&rng, ((uint64_t)7 << 32) + 5);
    tn_torch_fill_uniform(&rng, values, 1000, -0.0625f, 0.0625f);
    assert_true(values[0] == 0x1.522d8cp-5f && values[999] == 0x1.6a9e50p-7f);
}

/* Known answers of the Random123 distribution (kat_vectors, philox4x32 10). */
static void philox_gives_known_answers(void **state) {
    (void)state;
    uint32_t out[4];
    tn_philox(0, 0, 0, out);
    assert_int_equal(out[0], 0x6627e8d5);
    assert_int_equal(out[1], 0xe169c58d);
    assert_int_equal(out[2], 0xbc57ac4c);
    assert_int_equal(out[3], 0x9b00dbd8);
    tn_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX, out);
    assert_int_equal(out[0], 0x408f276d);
    assert_int_equal(out[3], 0x6d5451fd);
}

static void normal_numbers_have_their_moments(void **state) {
    (void)state;
    enum { N = 100000 };
    float *x = malloc(N * sizeof *x);
    tn_fill_normal(x, N, 3, 4, 1.0f, 2.0f);
    double mean = 0, variance = 0;
    for (int i = 0; i < N; i++)
        mean += x[i] / N;
    for (int i = 0; i < N; i++)
        variance += (x[i] - mean) * (x[i] - mean) / N;
    assert_true(fabs(mean - 1) < 0.03 && fabs(variance - 4) < 0.1);
    free(x);
}

static void shuffle_is_a_permutation_fixed_by_its_seed(void **state) {
    (void)state;
    int64_t a[100], b[100];
    int seen[100] = {0};
    tn_shuffle(a, 100, 1, 2);
    tn_shuffle(b, 100, 1, 2);
    assert_memory_equal(a, b, sizeof a);
    for (int i = 0; i < 100; i++)
        seen[a[i]]++;
    for (int i = 0; i < 100; i++)
        assert_int_equal(seen[i], 1);
    tn_shuffle(b, 100, 2, 2);
    assert_memory_not_equal(a, b, sizeof a);
}

static void written_file_appears_whole_or_not_at_all(void **state) {
    (void)state;
    char dir[] = "/tmp/tenon-test-XXXXXX", path[TN_PATH_MAX];
    assert_non_null(mkdtemp(dir));
    assert_int_equal(tn_path_join(path, dir, "file"), TN_OK);
    assert_int_equal(tn_file_write(path, "one", 3), TN_OK);
    tn_writer writer;
    assert_int_equal(tn_writer_open(&writer, path), TN_OK);
    assert_int_equal(tn_writer_write(&writer, "two", 3), TN_OK);
    tn_writer_abort(&writer);
    tn_buf text = {0};
    assert_int_equal(tn_file_read(path, 100, &text), TN_OK);
    assert_string_equal(tn_buf_text(&text), "one");
    assert_int_equal(tn_file_read(path, 2, &text), TN_ERROR_FORMAT);
    tn_buf_free(&text);
    assert_int_equal(tn_path_remove_tree(dir), TN_OK);
    assert_false(tn_path_exists(dir));
}

static void unwritable_places_are_errors(void **state) {
    (void)state;
    assert_int_equal(tn_file_write("/proc/nothing/here", "x", 1), TN_ERROR_IO);
    assert_int_equal(tn_dir_create("/proc/nothing"), TN_ERROR_IO);
    assert_int_equal(tn_disk_check_free("/tmp", UINT64_MAX), TN_ERROR_IO);
}

static void utf8_accepts_what_the_rfc_accepts(void **state) {
    (void)state;
    uint32_t code;
    char out[4];
    for (uint32_t c = 1; c < 0x110000; c += 37) {
        if (c >= 0xd800 && c <= 0xdfff)
            continue;
        size_t size = tn_utf8_encode(c, out);
        assert_int_equal(tn_utf8_decode(out, size, &code), size);
        assert_int_equal(code, c);
        assert_int_equal(tn_utf8_decode(out, size - 1, &code), 0);
    }
    assert_int_equal(tn_utf8_decode("\xc0\x80", 2, &code), 0);
    assert_int_equal(tn_utf8_decode("\xed\xa0\x80", 3, &code), 0);
    assert_int_equal(tn_utf8_decode("\xf4\x90\x80\x80", 4, &code), 0);
    assert_int_equal(tn_utf8_valid_prefix("ab\xff", 3), 2);
}

static void page_arena_gives_zeros_side_by_side(void **state) {
    (void)state;
    const size_t before = tn_memory_used();
    tn_page_arena arena = {0};
    char *last = NULL;
    int neighbours = 0;
    for (size_t i = 0; i < 300; i++) {
        const size_t size = i == 100 ? (size_t)40 << 20 : 1 + i * 997;
        char *memory = tn_page_arena_alloc(&arena, size);
        assert_non_null(memory);
        assert_true((uintptr_t)memory % 64 == 0 && memory[0] == 0 && memory[size - 1] == 0);
        memset(memory, 1, i == 100 ? 1 : size);
        neighbours += last && memory > last && memory - last < 1 << 19;
        last = memory;
    }
    assert_true(neighbours > 250);
    assert_null(tn_page_arena_alloc(&arena, SIZE_MAX - 5));
    tn_page_arena_free(&arena);
    assert_true(tn_memory_used() == before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_message_names_context_and_hides_control_characters),
        cmocka_unit_test(allocator_counts_bytes_and_refuses_overflow),
        cmocka_unit_test(failed_allocation_is_an_error),
        cmocka_unit_test(map_keeps_many_keys),
        cmocka_unit_test(nearest_name_suggests_only_what_is_near),
        cmocka_unit_test(philox_gives_known_answers),
        cmocka_unit_test(torch_generator_gives_the_numbers_of_torch),
        cmocka_unit_test(normal_numbers_have_their_moments),
        cmocka_unit_test(shuffle_is_a_permutation_fixed_by_its_seed),
        cmocka_unit_test(written_file_appears_whole_or_not_at_all),
        cmocka_unit_test(unwritable_places_are_errors),
        cmocka_unit_test(page_arena_gives_zeros_side_by_side),
        cmocka_unit_test(utf8_accepts_what_the_rfc_accepts),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
