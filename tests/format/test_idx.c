/* IDX files of every kind, plain and packed, and each way to break one. */
#include "support/support.h"

#include <zlib.h>

#include "base/memory.h"
#include "format/idx.h"

#define BYTES(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

static const uint8_t six_bytes[] = {0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255};

static const char *written(const char *name, const uint8_t *bytes, size_t length) {
    const char *path = temporary("%s", name);
    assert_ok(tn_file_write(path, bytes, length));
    return path;
}

/* The gzip member that zlib makes of these bytes; *packed is freed by the caller. */
static size_t pack(const uint8_t *bytes, size_t length, uint8_t **packed) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    size_t room = deflateBound(&z, length);
    *packed = malloc(room);
    assert_non_null(*packed);
    z.next_in = (uint8_t *)(uintptr_t)bytes;
    z.avail_in = (uInt)length;
    z.next_out = *packed;
    z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t size = room - z.avail_out;
    deflateEnd(&z);
    return size;
}

static void refuses(tn_status status, const char *words, const uint8_t *bytes, size_t length) {
    tn_tensor tensor;
    assert_fails(tn_idx_read(written("broken.idx", bytes, length), &tensor), status, words);
    assert_non_null(strstr(tn_error_message(), "broken.idx"));
    assert_null(tensor.data);
}

static void reads_bytes_by_their_shape(void **state) {
    (void)state;
    tn_tensor tensor;
    assert_ok(tn_idx_read(written("six.idx", six_bytes, sizeof six_bytes), &tensor));
    assert_int_equal(tensor.dtype, TN_DTYPE_U8);
    assert_int_equal(tensor.ndim, 2);
    assert_int_equal(tensor.shape[0], 2);
    assert_int_equal(tensor.shape[1], 3);
    assert_memory_equal(tensor.data, six_bytes + 12, 6);
    tn_free(tensor.data);
}

static void reads_every_type_in_big_endian_order(void **state) {
    (void)state;
    tn_tensor t;
    assert_ok(tn_idx_read(written("t", BYTES(0, 0, 9, 1, 0, 0, 0, 1, 0xfe)), &t));
    assert_int_equal(((int8_t *)t.data)[0], -2);
    tn_free(t.data);
    assert_ok(tn_idx_read(written("t", BYTES(0, 0, 11, 1, 0, 0, 0, 2, 0x01, 0x02, 0xff, 0xfe)), &t));
    assert_int_equal(((int16_t *)t.data)[0], 258);
    assert_int_equal(((int16_t *)t.data)[1], -2);
    tn_free(t.data);
    assert_ok(tn_idx_read(written("t", BYTES(0, 0, 12, 1, 0, 0, 0, 1, 0x01, 0x02, 0x03, 0x04)), &t));
    assert_int_equal(((int32_t *)t.data)[0], 0x01020304);
    tn_free(t.data);
    assert_ok(tn_idx_read(written("t", BYTES(0, 0, 13, 1, 0, 0, 0, 1, 0xc0, 0x20, 0, 0)), &t));
    assert_true(((float *)t.data)[0] == -2.5f);
    tn_free(t.data);
    assert_ok(tn_idx_read(written("t", BYTES(0, 0, 14, 1, 0, 0, 0, 1, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0)), &t));
    assert_true(((double *)t.data)[0] == 1.5);
    tn_free(t.data);
}

static void what_is_written_reads_back(void **state) {
    (void)state;
    static const tn_dtype dtypes[] = {TN_DTYPE_U8, TN_DTYPE_I8, TN_DTYPE_I16, TN_DTYPE_I32, TN_DTYPE_F32, TN_DTYPE_F64};
    static uint8_t elements[3 * 1000 * 8];
    for (size_t i = 0; i < sizeof elements; i++)
        elements[i] = (uint8_t)(i * 37 + i / 256);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        tn_tensor again, tensor = {.dtype = dtypes[i], .ndim = 3, .shape = {3, 10, 100}, .data = elements};
        assert_ok(tn_idx_write(temporary("written"), &tensor));
        assert_ok(tn_idx_read(temporary("written"), &again));
        assert_int_equal(again.dtype, tensor.dtype);
        assert_true(tn_tensor_same_shape(&again, &tensor));
        assert_memory_equal(again.data, elements, (size_t)tn_tensor_bytes(&tensor));
        tn_free(again.data);
    }
    tn_tensor words = {.dtype = TN_DTYPE_I64, .ndim = 1, .shape = {1}, .data = elements};
    assert_fails(tn_idx_write(temporary("written"), &words), TN_ERROR_ARGUMENT, "IDX cannot hold I64");
    words = (tn_tensor){.dtype = TN_DTYPE_U8, .ndim = 1, .shape = {INT64_C(1) << 33}, .data = elements};
    assert_fails(tn_idx_write(temporary("written"), &words), TN_ERROR_ARGUMENT, "size of 8589934592");
}

static void reads_gzip_whatever_its_name(void **state) {
    (void)state;
    uint8_t *packed, joined[512];
    tn_tensor tensor;
    size_t size = pack(six_bytes, sizeof six_bytes, &packed);
    assert_ok(tn_idx_read(written("six.idx", packed, size), &tensor));
    assert_memory_equal(tensor.data, six_bytes + 12, 6);
    tn_free(tensor.data);
    free(packed);

    size_t first = pack(six_bytes, 7, &packed);
    memcpy(joined, packed, first);
    free(packed);
    size_t second = pack(six_bytes + 7, sizeof six_bytes - 7, &packed);
    memcpy(joined + first, packed, second);
    free(packed);
    assert_ok(tn_idx_read(written("members.gz", joined, first + second), &tensor));
    assert_memory_equal(tensor.data, six_bytes + 12, 6);
    tn_free(tensor.data);
}

static void refuses_broken_headers(void **state) {
    (void)state;
    refuses(TN_ERROR_FORMAT, "ends within the header", NULL, 0);
    refuses(TN_ERROR_FORMAT, "ends within the header", six_bytes, 3);
    refuses(TN_ERROR_FORMAT, "ends within the header", six_bytes, 11);
    refuses(TN_ERROR_FORMAT, "not an IDX file: it begins with 50 4b 03 04", BYTES(0x50, 0x4b, 3, 4, 0));
    refuses(TN_ERROR_FORMAT, "not an IDX file", BYTES(0, 0, 10, 1, 0, 0, 0, 1, 7));
    refuses(TN_ERROR_UNSUPPORTED, "0 dimensions", BYTES(0, 0, 8, 0, 7));
    refuses(TN_ERROR_UNSUPPORTED, "5 dimensions", BYTES(0, 0, 8, 5, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0));
    tn_tensor tensor;
    assert_fails(tn_idx_read(temporary("absent.idx"), &tensor), TN_ERROR_IO, "absent.idx");
}

static void refuses_promises_the_file_does_not_keep(void **state) {
    (void)state;
    refuses(TN_ERROR_FORMAT, "promises U8 of shape [2, 3], 6 bytes, and the file has 5: it is truncated", six_bytes, 17);
    refuses(TN_ERROR_FORMAT, "more than the", BYTES(0, 0, 14, 2, 255, 255, 255, 255, 255, 255, 255, 255, 0));
    refuses(TN_ERROR_FORMAT, "more than the", BYTES(0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255));
    refuses(TN_ERROR_FORMAT, "truncated", BYTES(0, 0, 8, 1, 0x7f, 255, 255, 255, 1, 2));
    refuses(TN_ERROR_FORMAT, "bytes follow", BYTES(0, 0, 8, 1, 0, 0, 0, 1, 1, 2));
}

static void refuses_damaged_gzip(void **state) {
    (void)state;
    uint8_t *packed, broken[512];
    size_t size = pack(six_bytes, sizeof six_bytes, &packed);
    for (size_t length = 2; length < size; length++)
        refuses(TN_ERROR_FORMAT, "damaged gzip: it ends too early", packed, length);
    memcpy(broken, packed, size);
    broken[size - 8] ^= 1;
    refuses(TN_ERROR_FORMAT, "damaged gzip: incorrect data check", broken, size);
    memcpy(broken, packed, size);
    memcpy(broken + size, "rest", 4);
    refuses(TN_ERROR_FORMAT, "damaged gzip: incorrect header check", broken, size + 4);
    free(packed);
}

static void takes_no_more_memory_than_a_packed_header_promises(void **state) {
    (void)state;
    enum { BOMB = 1 << 22 };
    uint8_t *packed, *bomb = calloc(BOMB, 1);
    assert_non_null(bomb);
    memcpy(bomb, six_bytes, sizeof six_bytes);
    size_t size = pack(bomb, BOMB, &packed);
    refuses(TN_ERROR_FORMAT, "bytes follow", packed, size);
    free(packed);
    /* all of the promise, one byte short, and one that no deflate stream of this length could keep */
    const uint8_t honest[] = {0, 0, 8, 1, 0, 0x3f, 0xff, 0xf8}, greedy[] = {0, 0, 8, 1, 0, 0x3f, 0xff, 0xf9},
                  impossible[] = {0, 0, 8, 1, 0x7f, 0xff, 0xff, 0xff};
    tn_tensor tensor;
    memcpy(bomb, honest, 8);
    size = pack(bomb, BOMB, &packed);
    assert_ok(tn_idx_read(written("full.gz", packed, size), &tensor));
    assert_int_equal(tensor.shape[0], BOMB - 8);
    tn_free(tensor.data);
    free(packed);
    memcpy(bomb, greedy, 8);
    size = pack(bomb, BOMB, &packed);
    refuses(TN_ERROR_FORMAT, "4194297 bytes, and the file has 4194296: it is truncated", packed, size);
    free(packed);
    memcpy(bomb, impossible, 8);
    size = pack(bomb, BOMB, &packed);
    refuses(TN_ERROR_FORMAT, "packed ones: it is truncated", packed, size);
    free(packed);
    free(bomb);
}

static void a_failed_allocation_leaks_nothing(void **state) {
    (void)state;
    uint8_t *packed;
    size_t size = pack(six_bytes, sizeof six_bytes, &packed), before = tn_memory_used();
    const char *path = written("six.gz", packed, size);
    tn_status status = TN_ERROR_MEMORY;
    for (int64_t i = 0; status == TN_ERROR_MEMORY; i++) {
        tn_tensor tensor;
        tn_memory_fail_after(i);
        status = tn_idx_read(path, &tensor);
        tn_memory_fail_after(-1);
        tn_free(tensor.data);
        assert_int_equal(tn_memory_used(), before);
    }
    assert_int_equal(status, TN_OK);
    free(packed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_bytes_by_their_shape),
        cmocka_unit_test(reads_every_type_in_big_endian_order),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(reads_gzip_whatever_its_name),
        cmocka_unit_test(refuses_broken_headers),
        cmocka_unit_test(refuses_promises_the_file_does_not_keep),
        cmocka_unit_test(refuses_damaged_gzip),
        cmocka_unit_test(takes_no_more_memory_than_a_packed_header_promises),
        cmocka_unit_test(a_failed_allocation_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
