/* GGUF: round trips, the bytes on disk, every rule of the validator, the writer's refusals, and files of others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/gguf.h"
#include "format/json.h"

static char dir[64], path[TN_PATH_MAX], other[TN_PATH_MAX];

static int make_folder(void **state) {
    (void)state;
    strcpy(dir, "/tmp/tenon-test-XXXXXX");
    return !mkdtemp(dir) || tn_path_join(path, dir, "t.gguf") != TN_OK || tn_path_join(other, dir, "o.gguf") != TN_OK;
}

static int remove_folder(void **state) {
    (void)state;
    return tn_path_remove_tree(dir) != TN_OK;
}

static void check_ok(tn_status status) {
    if (status != TN_OK)
        fail_msg("%s", tn_error_message());
}

static void check_fails(tn_status got, tn_status expected, const char *words) {
    if (got != expected || !strstr(tn_error_message(), words))
        fail_msg("%s, \"%s\" lacks \"%s\"", tn_status_name(got), tn_error_message(), words);
}

static void assert_refused(tn_status expected, const char *message) {
    tn_gguf file;
    size_t before = tn_memory_used();
    check_fails(tn_gguf_open(path, &file), expected, message);
    assert_ptr_equal(strstr(tn_error_message(), path), tn_error_message());
    assert_int_equal(tn_memory_used(), before);
}

static const tn_gguf_string words[3] = {{"a", 1}, {"", 0}, {"\xff\0b", 3}};
static const int32_t numbers[3] = {-5, 0, INT32_MAX};

static tn_status write_metadata(tn_gguf_writer *w) {
    static const double pi = 3.141592653589793;
    static const uint64_t large = UINT64_MAX;
    static const uint8_t truths[2] = {1, 0};
    TN_TRY(tn_gguf_writer_string(w, "general.architecture", "llama"));
    TN_TRY(tn_gguf_writer_integer(w, "k.u8", TN_GGUF_U8, 255));
    TN_TRY(tn_gguf_writer_integer(w, "k.i8", TN_GGUF_I8, -128));
    TN_TRY(tn_gguf_writer_integer(w, "k.u16", TN_GGUF_U16, 65535));
    TN_TRY(tn_gguf_writer_integer(w, "k.i16", TN_GGUF_I16, -32768));
    TN_TRY(tn_gguf_writer_integer(w, "k.u32", TN_GGUF_U32, UINT32_MAX));
    TN_TRY(tn_gguf_writer_integer(w, "k.i32", TN_GGUF_I32, INT32_MIN));
    TN_TRY(tn_gguf_writer_integer(w, "k.i64", TN_GGUF_I64, INT64_MIN));
    TN_TRY(tn_gguf_writer_integer(w, "k.u64", TN_GGUF_U64, INT64_MAX));
    TN_TRY(tn_gguf_writer_float(w, "k.f32", 1e-5f));
    TN_TRY(tn_gguf_writer_bool(w, "k.bool", true));
    TN_TRY(tn_gguf_writer_value(w, &(tn_gguf_value){.key = "k.f64", .kind = TN_GGUF_F64, .count = 1, .elements = &pi}));
    TN_TRY(tn_gguf_writer_value(w, &(tn_gguf_value){.key = "large", .kind = TN_GGUF_U64, .count = 1, .elements = &large}));
    TN_TRY(tn_gguf_writer_value(w, &(tn_gguf_value){"words", TN_GGUF_STRING, true, 3, NULL, words}));
    TN_TRY(tn_gguf_writer_value(w, &(tn_gguf_value){"numbers", TN_GGUF_I32, true, 3, numbers, NULL}));
    TN_TRY(tn_gguf_writer_value(w, &(tn_gguf_value){"truths", TN_GGUF_BOOL, true, 2, truths, NULL}));
    return tn_gguf_writer_value(w, &(tn_gguf_value){"none", TN_GGUF_STRING, true, 0, NULL, NULL});
}

static const float matrix[6] = {1, 2, 3, 4, 5, 6};

static tn_status write_sample(void) {
    uint8_t blocks[2 * 18];
    tn_gguf_writer *w = NULL;
    tn_status status;
    memset(blocks, 7, sizeof blocks);
    TN_TRY_GOTO(tn_gguf_writer_new(&w, path));
    TN_TRY_GOTO(write_metadata(w));
    TN_TRY_GOTO(tn_gguf_writer_declare(w, "empty", TN_GGML_F16, 2, (int64_t[]){0, 5}));
    TN_TRY_GOTO(tn_gguf_writer_declare(w, "matrix", TN_GGML_F32, 2, (int64_t[]){2, 3}));
    TN_TRY_GOTO(tn_gguf_writer_declare(w, "scalar", TN_GGML_F32, 0, NULL));
    TN_TRY_GOTO(tn_gguf_writer_declare(w, "blocks", TN_GGML_Q4_0, 4, (int64_t[]){1, 2, 1, 32}));
    TN_TRY_GOTO(tn_gguf_writer_begin(w));
    TN_TRY_GOTO(tn_gguf_writer_data(w, matrix, 5));
    TN_TRY_GOTO(tn_gguf_writer_data(w, (const char *)matrix + 5, sizeof matrix - 5));
    TN_TRY_GOTO(tn_gguf_writer_data(w, matrix + 3, 4));
    TN_TRY_GOTO(tn_gguf_writer_data(w, blocks, sizeof blocks));
    return tn_gguf_writer_finish(w);
fail:
    tn_gguf_writer_abort(w);
    return status;
}

static int64_t integer(const tn_gguf *file, const char *key) {
    int64_t value = 0;
    check_ok(tn_gguf_get_integer(file, key, &value));
    return value;
}

static void check_sample_metadata(tn_gguf *file) {
    double number;
    bool truth = false;
    const char *text;
    const tn_gguf_value *array;
    assert_int_equal(file->value_count, 17);
    assert_int_equal(integer(file, "k.u8"), 255);
    assert_int_equal(integer(file, "k.i8"), -128);
    assert_int_equal(integer(file, "k.u16"), 65535);
    assert_int_equal(integer(file, "k.i16"), -32768);
    assert_int_equal(integer(file, "k.u32"), UINT32_MAX);
    assert_int_equal(integer(file, "k.i32"), INT32_MIN);
    assert_true(integer(file, "k.i64") == INT64_MIN && integer(file, "k.u64") == INT64_MAX);
    check_ok(tn_gguf_get_number(file, "k.f32", &number));
    assert_true(number == (double)1e-5f);
    check_ok(tn_gguf_get_number(file, "k.f64", &number));
    assert_true(number == 3.141592653589793);
    check_ok(tn_gguf_get_number(file, "k.i8", &number));
    assert_true(number == -128);
    check_ok(tn_gguf_get_bool(file, "k.bool", &truth));
    assert_true(truth);
    check_ok(tn_gguf_get_string(file, "general.architecture", &text));
    assert_string_equal(text, "llama");
    check_ok(tn_gguf_get_array(file, "words", TN_GGUF_STRING, &array));
    assert_int_equal(array->count, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(array->strings[i].length, words[i].length);
        assert_memory_equal(array->strings[i].bytes, words[i].bytes, words[i].length);
    }
    check_ok(tn_gguf_get_array(file, "numbers", TN_GGUF_I32, &array));
    for (int i = 0; i < 3; i++) {
        int64_t value;
        assert_true(tn_gguf_integer_at(array, i, &value) && value == numbers[i]);
        assert_false(tn_gguf_integer_at(array, i - 3, &value) || tn_gguf_integer_at(array, i + 3, &value));
    }
    check_ok(tn_gguf_get_array(file, "truths", TN_GGUF_BOOL, &array));
    assert_true(tn_gguf_bool_at(array, 1, &truth) && !truth);
    check_ok(tn_gguf_get_array(file, "none", TN_GGUF_STRING, &array));
    assert_int_equal(array->count, 0);
}

static void what_is_written_reads_back(void **state) {
    (void)state;
    tn_gguf file;
    tn_tensor plain;
    check_ok(write_sample());
    check_ok(tn_gguf_open(path, &file));
    assert_int_equal(file.version, 3);
    check_sample_metadata(&file);
    assert_int_equal(file.tensor_count, 4);
    const tn_gguf_tensor *tensor = tn_gguf_find_tensor(&file, "matrix");
    assert_ptr_equal(tensor, &file.tensors[1]);
    assert_true(tensor->ndim == 2 && tensor->shape[0] == 2 && tensor->shape[1] == 3);
    assert_true(tensor->rows == 2 && tensor->columns == 3 && tensor->bytes == 24);
    assert_memory_equal(tensor->data, matrix, sizeof matrix);
    assert_true(tn_gguf_plain_tensor(tensor, &plain));
    assert_true(plain.dtype == TN_DTYPE_F32 && plain.ndim == 2 && plain.shape[1] == 3 && plain.data == tensor->data);
    tensor = tn_gguf_find_tensor(&file, "blocks");
    assert_true(tensor->type == TN_GGML_Q4_0 && tensor->ndim == 4 && tensor->rows == 2 && tensor->columns == 32);
    assert_int_equal((uintptr_t)tensor->data % 32, 0);
    assert_int_equal(((const uint8_t *)tensor->data)[35], 7);
    assert_false(tn_gguf_plain_tensor(tensor, &plain));
    tensor = tn_gguf_find_tensor(&file, "scalar");
    assert_true(tensor->ndim == 0 && *(const float *)tensor->data == 4);
    assert_int_equal(tn_gguf_find_tensor(&file, "empty")->bytes, 0);
    assert_null(tn_gguf_find_tensor(&file, "Matrix"));
    tn_gguf_close(&file);
    tn_gguf_close(&file);
}

static void values_of_another_sort_are_refused_by_file_and_key(void **state) {
    (void)state;
    tn_gguf file;
    int64_t number;
    bool truth;
    const char *text;
    const tn_gguf_value *array;
    check_ok(write_sample());
    check_ok(tn_gguf_open(path, &file));
    check_fails(tn_gguf_get_integer(&file, "absent", &number), TN_ERROR_FORMAT, "lacks the key 'absent' (a whole number)");
    assert_ptr_equal(strstr(tn_error_message(), path), tn_error_message());
    check_fails(tn_gguf_get_integer(&file, "k.f32", &number), TN_ERROR_FORMAT, "'k.f32' must be a whole number; it is f32");
    check_fails(tn_gguf_get_integer(&file, "large", &number), TN_ERROR_FORMAT, "'large' must be a whole number; it is u64");
    check_fails(tn_gguf_get_integer(&file, "numbers", &number), TN_ERROR_FORMAT, "it is an array of i32");
    check_fails(tn_gguf_get_bool(&file, "k.u8", &truth), TN_ERROR_FORMAT, "must be a bool");
    check_fails(tn_gguf_get_string(&file, "k.u8", &text), TN_ERROR_FORMAT, "must be a string");
    check_fails(tn_gguf_get_array(&file, "k.i32", TN_GGUF_I32, &array), TN_ERROR_FORMAT, "an array of i32; it is i32");
    check_fails(tn_gguf_get_array(&file, "words", TN_GGUF_F32, &array), TN_ERROR_FORMAT, "it is an array of string");
    tn_gguf_close(&file);
}

/* The bytes that a table of pieces gives: text as it is, and numbers of a width. */
typedef struct piece {
    const char *text;
    uint64_t number;
    int size;
} piece;

#define T(text)                                                                                                             \
    { text, 0, 0 }
#define U32(number)                                                                                                         \
    { NULL, number, 4 }
#define U64(number)                                                                                                         \
    { NULL, number, 8 }
#define S(text) U64(sizeof(text) - 1), T(text)
#define HEAD(tensors, values) T("GGUF"), U32(3), U64(tensors), U64(values)
#define ZEROS(count)                                                                                                        \
    { NULL, 0, count }

static void write_pieces(const piece *pieces, size_t count) {
    tn_buf bytes = {0};
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].text)
            tn_buf_puts(&bytes, pieces[i].text);
        for (int k = 0; k < pieces[i].size; k++)
            tn_buf_putc(&bytes, k < 8 ? (char)(pieces[i].number >> (8 * k)) : 0);
    }
    check_ok(tn_buf_status(&bytes));
    check_ok(tn_file_write(path, tn_buf_text(&bytes), bytes.length));
    tn_buf_free(&bytes);
}

static void every_rule_of_metadata_has_its_refusal(void **state) {
    (void)state;
    static const struct {
        piece pieces[12];
        tn_status status;
        const char *message;
    } cases[] = {
        {{T("")}, TN_ERROR_FORMAT, "does not begin with 'GGUF'"},
        {{T("GGU")}, TN_ERROR_FORMAT, "does not begin with 'GGUF'"},
        {{T("GGML"), U32(3)}, TN_ERROR_FORMAT, "does not begin with 'GGUF'"},
        {{T("GGUF"), U32(1), U64(0), U64(0)}, TN_ERROR_UNSUPPORTED, "version 1 is not supported"},
        {{T("GGUF"), U32(0), U64(0), U64(0)}, TN_ERROR_UNSUPPORTED, "version 0 is not supported"},
        {{T("GGUF"), U32(4), U64(0), U64(0)}, TN_ERROR_UNSUPPORTED, "version 4 is not supported"},
        {{T("GGUF"), U32(3 << 24), U64(0), U64(0)}, TN_ERROR_UNSUPPORTED, "big-endian"},
        {{T("GGUF"), U32(3), U64(0), U32(0)}, TN_ERROR_FORMAT, "truncated"},
        {{HEAD(0, UINT64_MAX)}, TN_ERROR_FORMAT, "metadata keys are more than the file can hold"},
        {{HEAD(UINT64_MAX, 0)}, TN_ERROR_FORMAT, "tensors are more than the file can hold"},
        {{HEAD(0, 1), U64(UINT64_MAX), ZEROS(20)}, TN_ERROR_FORMAT, "key 1 of 1: a string of 18446744073709551615"},
        {{HEAD(0, 1), U64(70000), ZEROS(70010)}, TN_ERROR_FORMAT, "a name of 70000 bytes"},
        {{HEAD(0, 1), U64(2), ZEROS(20)}, TN_ERROR_FORMAT, "not valid UTF-8"},
        {{HEAD(0, 1), S("\xff"), U32(0), ZEROS(1)}, TN_ERROR_FORMAT, "not valid UTF-8"},
        {{HEAD(0, 1), S("a"), U32(13), ZEROS(8)}, TN_ERROR_FORMAT, "the key 'a': values of the type 13"},
        {{HEAD(0, 1), S("a"), U32(10), ZEROS(7)}, TN_ERROR_FORMAT, "the key 'a': its 1 values of u64 go past"},
        {{HEAD(0, 1), S("a"), U32(7), {NULL, 2, 1}}, TN_ERROR_FORMAT, "the key 'a': a bool has the value 2"},
        {{HEAD(0, 1), S("a"), U32(8), U64(9), ZEROS(8)}, TN_ERROR_FORMAT, "the key 'a': a string of 9 bytes"},
        {{HEAD(0, 1), S("a"), U32(9), U32(9), U64(0)}, TN_ERROR_UNSUPPORTED, "the key 'a': arrays of arrays"},
        {{HEAD(0, 1), S("a"), U32(9), U32(99), U64(0)}, TN_ERROR_FORMAT, "the key 'a': values of the type 99"},
        {{HEAD(0, 1), S("a"), U32(9), U32(0), U64(UINT64_MAX), ZEROS(9)}, TN_ERROR_FORMAT, "values of u8 go past"},
        {{HEAD(0, 1), S("a"), U32(9), U32(12), U64(2), ZEROS(15)}, TN_ERROR_FORMAT, "its 2 values of f64 go past"},
        {{HEAD(0, 1), S("a"), U32(9), U32(8), U64(1ull << 61), ZEROS(64)}, TN_ERROR_FORMAT, "values of string go past"},
        {{HEAD(0, 1), S("a"), U32(9), U32(8), U64(2), U64(0), U64(1)}, TN_ERROR_FORMAT, "a string of 1 bytes goes past"},
        {{HEAD(0, 2), S("a"), U32(0), {NULL, 1, 1}, S("a"), U32(0), ZEROS(1)}, TN_ERROR_FORMAT, "'a' is there twice"},
        {{HEAD(0, 1), S("general.alignment"), U32(4), U32(0)}, TN_ERROR_FORMAT, "'general.alignment' must be"},
        {{HEAD(0, 1), S("general.alignment"), U32(4), U32(48)}, TN_ERROR_FORMAT, "'general.alignment' must be"},
        {{HEAD(0, 1), S("general.alignment"), U32(4), U32(1u << 31)}, TN_ERROR_FORMAT, "'general.alignment' must be"},
        {{HEAD(0, 1), S("general.alignment"), U32(5), U32(32)}, TN_ERROR_FORMAT, "'general.alignment' must be"},
        {{HEAD(0, 1), S("general.alignment"), U32(9), U32(4), U64(0)}, TN_ERROR_FORMAT, "'general.alignment' must be"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_pieces(cases[i].pieces, 12);
        assert_refused(cases[i].status, cases[i].message);
    }
}

/* A tensor of two dimensions, innermost first. */
#define TENSOR(name, columns, rows, type, offset) S(name), U32(2), U64(columns), U64(rows), U32(type), U64(offset)

static void every_rule_of_tensors_has_its_refusal(void **state) {
    (void)state;
    static const char long_name[] = "0123456789012345678901234567890123456789012345678901234567890123";
    const struct {
        piece pieces[24];
        tn_status status;
        const char *message;
    } cases[] = {
        {{HEAD(1, 0), S("t"), U32(5), ZEROS(60)}, TN_ERROR_FORMAT, "tensor 't': it has 5 dimensions"},
        {{HEAD(1, 0), S("t"), U32(UINT32_MAX), ZEROS(60)}, TN_ERROR_FORMAT, "tensor 't': it has 4294967295 dimensions"},
        {{HEAD(1, 0), U64(64), T(long_name), ZEROS(60)}, TN_ERROR_FORMAT, "tensor 1 of 1: a name of 64 bytes is longer"},
        {{HEAD(1, 0), TENSOR("t", UINT64_MAX, 1, 0, 0)}, TN_ERROR_FORMAT, "the product of its shape overflows"},
        {{HEAD(1, 0), TENSOR("t", 1ull << 40, 1ull << 40, 0, 0)}, TN_ERROR_FORMAT, "the product of its shape overflows"},
        {{HEAD(1, 0), S("t"), U32(3), U64(0), U64(1ull << 40), U64(1ull << 40), U32(0), U64(0)},
         TN_ERROR_FORMAT,
         "the product of its shape overflows"},
        {{HEAD(1, 0), TENSOR("t", 1ull << 62, 1, 0, 0)}, TN_ERROR_FORMAT, "is negative or overflows"},
        {{HEAD(1, 0), TENSOR("t", 4, 2, 4, 0)}, TN_ERROR_FORMAT, "tensor 't': the ggml type 4 is not known"},
        {{HEAD(1, 0), TENSOR("t", 4, 2, UINT32_MAX, 0)}, TN_ERROR_FORMAT, "the ggml type 4294967295 is not known"},
        {{HEAD(1, 0), TENSOR("t", 33, 2, 2, 0)}, TN_ERROR_FORMAT, "rows of 33 values are not a whole number"},
        {{HEAD(1, 0), TENSOR("t", 4, 2, 0, 32), ZEROS(96)}, TN_ERROR_FORMAT, "begins at byte 32 where"},
        {{HEAD(1, 0), TENSOR("t", 4, 2, 0, UINT64_MAX), ZEROS(96)}, TN_ERROR_FORMAT, "begins at byte 18446744073709551615"},
        {{HEAD(2, 0), TENSOR("a", 4, 3, 0, 0), TENSOR("b", 4, 2, 0, 32), ZEROS(99)},
         TN_ERROR_FORMAT,
         "tensor 'b': its data begins at byte 32 where that of the tensor before it ends at 64"},
        {{HEAD(2, 0), TENSOR("a", 4, 2, 0, 0), TENSOR("a", 4, 2, 0, 32), ZEROS(99)}, TN_ERROR_FORMAT, "'a' is there twice"},
        {{HEAD(2, 0), TENSOR("a", 1ull << 60, 7, 24, 0), TENSOR("b", 1ull << 60, 7, 24, 7ull << 60)},
         TN_ERROR_FORMAT,
         "the sizes of the tensors overflow"},
        {{HEAD(1, 0), TENSOR("t", 4, 2, 0, 0), ZEROS(22)}, TN_ERROR_FORMAT, "its 32 bytes of data go past the end"},
        {{HEAD(1, 0), TENSOR("t", 4, 2, 0, 0)}, TN_ERROR_FORMAT, "'t': its 32 bytes of data go past the end"},
        {{HEAD(2, 0), TENSOR("t", 4, 2, 0, 0), ZEROS(22)}, TN_ERROR_FORMAT, "tensor '': the file ends in the middle"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_pieces(cases[i].pieces, 24);
        assert_refused(cases[i].status, cases[i].message);
    }
}

/* dims are innermost first, data begins at a multiple of 32, and so does the second tensor's. Version 2 reads alike. */
static void bytes_on_disk_are_those_of_the_format(void **state) {
    (void)state;
    static const piece expected[] = {
        HEAD(2, 2),
        S("k"),
        U32(4),
        U32(9),
        S("l"),
        U32(9),
        U32(8),
        U64(1),
        S("xyz"),
        TENSOR("a", 3, 2, 24, 0),
        TENSOR("b", 2, 1, 25, 32),
        /* 24 + 17 + 36 + 41 + 41 = 159 bytes so far */
        ZEROS(1),
        T("\1\2\3\4\5\6"),
        ZEROS(26),
        T("\7\7\7\7"),
        ZEROS(28),
    };
    tn_gguf_writer *w;
    tn_buf written = {0}, wanted = {0};
    tn_gguf file;
    check_ok(tn_gguf_writer_new(&w, path));
    check_ok(tn_gguf_writer_integer(w, "k", TN_GGUF_U32, 9));
    check_ok(tn_gguf_writer_value(w, &(tn_gguf_value){"l", TN_GGUF_STRING, true, 1, NULL, &(tn_gguf_string){"xyz", 3}}));
    check_ok(tn_gguf_writer_declare(w, "a", TN_GGML_I8, 2, (int64_t[]){2, 3}));
    check_ok(tn_gguf_writer_declare(w, "b", TN_GGML_I16, 2, (int64_t[]){1, 2}));
    check_ok(tn_gguf_writer_begin(w));
    check_ok(tn_gguf_writer_data(w, "\1\2\3\4\5\6\7\7\7\7", 10));
    check_ok(tn_gguf_writer_finish(w));
    check_ok(tn_file_read(path, 10000, &written));
    write_pieces(expected, sizeof expected / sizeof expected[0]);
    check_ok(tn_file_read(path, 10000, &wanted));
    assert_int_equal(written.length, wanted.length);
    assert_memory_equal(written.data, wanted.data, wanted.length);
    written.data[4] = 2;
    check_ok(tn_file_write(path, written.data, written.length));
    check_ok(tn_gguf_open(path, &file));
    assert_int_equal(file.version, 2);
    assert_int_equal(((const uint8_t *)tn_gguf_find_tensor(&file, "b")->data)[3], 7);
    tn_gguf_close(&file);
    tn_buf_free(&written);
    tn_buf_free(&wanted);
}

/* Only the padding behind the last tensor may be missing. */
static void a_file_cut_anywhere_is_refused(void **state) {
    (void)state;
    tn_buf bytes = {0};
    tn_gguf file;
    check_ok(write_sample());
    check_ok(tn_file_read(path, 10000, &bytes));
    enum { PADDING = 64 - 36 };
    for (size_t length = 0; length < bytes.length; length++) {
        check_ok(tn_file_write(path, bytes.data, length));
        if (length < bytes.length - PADDING) {
            assert_refused(TN_ERROR_FORMAT, "");
        } else {
            check_ok(tn_gguf_open(path, &file));
            tn_gguf_close(&file);
        }
    }
    tn_buf_free(&bytes);
}

static void alignment_is_read_and_obeyed(void **state) {
    (void)state;
    static const int alignments[] = {1, 8, 64, 4096};
    for (int i = 0; i < 4; i++) {
        tn_gguf_writer *w;
        tn_gguf file;
        tn_tensor plain;
        check_ok(tn_gguf_writer_new(&w, path));
        check_ok(tn_gguf_writer_integer(w, "general.alignment", TN_GGUF_U32, alignments[i]));
        check_ok(tn_gguf_writer_declare(w, "a", TN_GGML_I8, 1, (int64_t[]){5}));
        check_ok(tn_gguf_writer_declare(w, "b", TN_GGML_F32, 1, (int64_t[]){1}));
        check_ok(tn_gguf_writer_begin(w));
        check_ok(tn_gguf_writer_data(w, "abcdefghi", 9));
        check_ok(tn_gguf_writer_finish(w));
        check_ok(tn_gguf_open(path, &file));
        assert_int_equal(file.alignment, alignments[i]);
        assert_memory_equal(file.tensors[1].data, "fghi", 4);
        const uint8_t *first = file.tensors[0].data, *second = file.tensors[1].data;
        assert_int_equal(second - first, alignments[i] == 1 ? 5 : alignments[i]);
        /* a float at an odd address is no tensor to compute with */
        assert_int_equal(tn_gguf_plain_tensor(&file.tensors[1], &plain), (uintptr_t)second % 4 == 0);
        tn_gguf_close(&file);
    }
}

static void writer_refuses_what_would_not_read_back(void **state) {
    (void)state;
    static const char name[] = "0123456789012345678901234567890123456789012345678901234567890123";
    tn_gguf_writer *w;
    check_ok(tn_gguf_writer_new(&w, path));
    check_ok(tn_gguf_writer_bool(w, "a", true));
    check_fails(tn_gguf_writer_bool(w, "a", true), TN_ERROR_ARGUMENT, "'a' is given twice");
    check_fails(tn_gguf_writer_bool(w, "\xff", true), TN_ERROR_ARGUMENT, "is not UTF-8");
    check_fails(tn_gguf_writer_integer(w, "b", TN_GGUF_U8, 256), TN_ERROR_ARGUMENT, "256 is no u8, as 'b' is to be");
    check_fails(tn_gguf_writer_integer(w, "b", TN_GGUF_U64, -1), TN_ERROR_ARGUMENT, "-1 is no u64");
    check_fails(tn_gguf_writer_integer(w, "b", TN_GGUF_F32, 1), TN_ERROR_ARGUMENT, "1 is no f32");
    check_fails(tn_gguf_writer_integer(w, "general.alignment", TN_GGUF_U32, 3), TN_ERROR_ARGUMENT, "power of two");
    check_ok(tn_gguf_writer_declare(w, "t", TN_GGML_Q4_0, 1, (int64_t[]){64}));
    check_fails(tn_gguf_writer_declare(w, "t", TN_GGML_F32, 0, NULL), TN_ERROR_ARGUMENT, "'t' is given twice");
    check_fails(tn_gguf_writer_declare(w, name, TN_GGML_F32, 0, NULL), TN_ERROR_ARGUMENT, "up to 63 bytes");
    check_fails(tn_gguf_writer_declare(w, "u", TN_GGML_Q4_0, 1, (int64_t[]){40}), TN_ERROR_ARGUMENT,
                "tensor 'u': rows of 40");
    check_fails(tn_gguf_writer_declare(w, "u", 4, 1, (int64_t[]){40}), TN_ERROR_ARGUMENT, "type 4 is not known");
    check_fails(tn_gguf_writer_declare(w, "u", 0, 5, NULL), TN_ERROR_ARGUMENT, "5 dimensions");
    check_fails(tn_gguf_writer_declare(w, "u", 0, 2, (int64_t[]){-1, 4}), TN_ERROR_ARGUMENT, "negative");
    tn_gguf_writer_abort(w);
    tn_gguf_writer_abort(NULL);
}

static void writer_counts_the_bytes_and_leaves_no_half_file(void **state) {
    (void)state;
    static const char bytes[64];
    for (int wrong = 0; wrong < 4; wrong++) {
        tn_gguf_writer *w;
        unlink(path);
        check_ok(tn_gguf_writer_new(&w, path));
        check_ok(tn_gguf_writer_declare(w, "t", TN_GGML_Q4_0, 1, (int64_t[]){64}));
        if (wrong == 0)
            check_fails(tn_gguf_writer_data(w, bytes, 1), TN_ERROR_ARGUMENT, "before the header");
        else
            check_ok(tn_gguf_writer_begin(w));
        if (wrong == 1)
            check_fails(tn_gguf_writer_data(w, bytes, 37), TN_ERROR_ARGUMENT, "1 bytes of tensor data more than declared");
        if (wrong == 2)
            check_ok(tn_gguf_writer_data(w, bytes, 35));
        if (wrong == 3) {
            check_fails(tn_gguf_writer_begin(w), TN_ERROR_ARGUMENT, "written already");
            check_fails(tn_gguf_writer_bool(w, "late", true), TN_ERROR_ARGUMENT, "'late' comes after the header");
        }
        check_fails(tn_gguf_writer_finish(w), TN_ERROR_ARGUMENT,
                    wrong < 2    ? "is not written"
                    : wrong == 2 ? "only 35 of the 36 bytes of tensor 't'"
                                 : "only 0 of");
        assert_false(tn_path_exists(path));
    }
}

static void failed_allocations_are_errors_and_leak_nothing(void **state) {
    (void)state;
    size_t before = tn_memory_used();
    tn_status status = TN_ERROR_MEMORY;
    for (int i = 0; status != TN_OK; i++) {
        tn_memory_fail_after(i);
        status = write_sample();
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || (status == TN_ERROR_MEMORY && i < 1000));
        assert_int_equal(tn_memory_used(), before);
    }
    status = TN_ERROR_MEMORY;
    for (int i = 0; status != TN_OK; i++) {
        tn_gguf file;
        tn_memory_fail_after(i);
        status = tn_gguf_open(path, &file);
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || (status == TN_ERROR_MEMORY && i < 1000));
        if (status == TN_OK)
            tn_gguf_close(&file);
        assert_int_equal(tn_memory_used(), before);
    }
}

static const char *shared_folder(void) {
    const char *given = getenv("TENON_SHARED");
    return given ? given : TENON_SOURCE_ROOT "/../shared";
}

/* Everything the file holds goes through the writer; what llama.cpp wrote comes out as the same bytes. */
static void check_rewriting(const tn_gguf *file) {
    tn_gguf_writer *w;
    tn_mapping copy;
    check_ok(tn_gguf_writer_new(&w, other));
    for (size_t i = 0; i < file->value_count; i++)
        check_ok(tn_gguf_writer_value(w, &file->values[i]));
    for (size_t i = 0; i < file->tensor_count; i++) {
        const tn_gguf_tensor *tensor = &file->tensors[i];
        check_ok(tn_gguf_writer_declare(w, tensor->name, tensor->type, tensor->ndim, tensor->shape));
    }
    check_ok(tn_gguf_writer_begin(w));
    for (size_t i = 0; i < file->tensor_count; i++)
        check_ok(tn_gguf_writer_data(w, file->tensors[i].data, file->tensors[i].bytes));
    check_ok(tn_gguf_writer_finish(w));
    check_ok(tn_file_map(other, &copy));
    /* of a vocabulary without tensors some writers pad the header and some do not */
    size_t size = file->tensor_count ? file->mapping.size : (size_t)file->data_start;
    if (size > file->mapping.size)
        size = file->mapping.size;
    if (copy.size < size || (file->version == 3 && memcmp(copy.data, file->mapping.data, size) != 0))
        fail_msg("%s: written again it is another file", file->path);
    tn_file_unmap(&copy);
}

static void vocabularies_and_models_of_llama_cpp_are_read_in_full(void **state) {
    (void)state;
    char folder[TN_PATH_MAX], name[TN_PATH_MAX];
    check_ok(tn_path_join(folder, shared_folder(), "data/gguf"));
    DIR *listing = opendir(folder);
    if (!listing)
        skip();
    int count = 0;
    for (struct dirent *entry; (entry = readdir(listing));) {
        size_t length = strlen(entry->d_name);
        if (length < 5 || strcmp(entry->d_name + length - 5, ".gguf") != 0)
            continue;
        tn_gguf file;
        const tn_gguf_value *tokens;
        check_ok(tn_path_join(name, folder, entry->d_name));
        check_ok(tn_gguf_open(name, &file));
        check_ok(tn_gguf_get_array(&file, "tokenizer.ggml.tokens", TN_GGUF_STRING, &tokens));
        assert_true(tokens->count > 100);
        check_rewriting(&file);
        tn_gguf_close(&file);
        count++;
    }
    closedir(listing);
    assert_true(count >= 2);
}

/* The types that case.json names, and finite values in every tensor. */
static void check_golden_model(const char *folder) {
    char name[TN_PATH_MAX];
    tn_buf text = {0};
    cJSON *root;
    tn_gguf file;
    check_ok(tn_path_join(name, folder, "case.json"));
    check_ok(tn_file_read(name, 1 << 20, &text));
    check_ok(tn_json_parse(text.data, text.length, name, &root));
    check_ok(tn_path_join(name, folder, "base/model.gguf"));
    check_ok(tn_gguf_open(name, &file));
    const cJSON *types = tn_json_get(root, "tensor_types"), *type;
    assert_true(cJSON_GetArraySize(types) > 0);
    cJSON_ArrayForEach(type, types) {
        const tn_gguf_tensor *tensor = tn_gguf_find_tensor(&file, type->string);
        if (!tensor || strcmp(tn_ggml_type_info(tensor->type)->name, type->valuestring) != 0)
            fail_msg("%s: %s is not of type %s", name, type->string, type->valuestring);
    }
    for (size_t i = 0; i < file.tensor_count; i++) {
        const tn_gguf_tensor *tensor = &file.tensors[i];
        tn_tensor values = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {tensor->rows, tensor->columns}};
        values.data = malloc((size_t)tn_tensor_bytes(&values) + 1);
        assert_non_null(values.data);
        check_ok(tn_ggml_decode(tensor->type, values.data, tensor->data, tensor->rows, tensor->columns));
        assert_int_equal(tn_tensor_first_nonfinite(&values), -1);
        free(values.data);
    }
    check_rewriting(&file);
    tn_gguf_close(&file);
    cJSON_Delete(root);
    tn_buf_free(&text);
}

static void quantised_golden_models_are_read_in_full(void **state) {
    (void)state;
    char models[TN_PATH_MAX], folder[TN_PATH_MAX];
    check_ok(tn_path_join(models, shared_folder(), "golden_quant/models"));
    DIR *listing = opendir(models);
    if (!listing)
        skip();
    int count = 0;
    for (struct dirent *entry; (entry = readdir(listing));) {
        if (strncmp(entry->d_name, "gguf_", 5) != 0)
            continue;
        check_ok(tn_path_join(folder, models, entry->d_name));
        check_golden_model(folder);
        count++;
    }
    closedir(listing);
    assert_true(count >= 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(values_of_another_sort_are_refused_by_file_and_key),
        cmocka_unit_test(every_rule_of_metadata_has_its_refusal),
        cmocka_unit_test(every_rule_of_tensors_has_its_refusal),
        cmocka_unit_test(bytes_on_disk_are_those_of_the_format),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(alignment_is_read_and_obeyed),
        cmocka_unit_test(writer_refuses_what_would_not_read_back),
        cmocka_unit_test(writer_counts_the_bytes_and_leaves_no_half_file),
        cmocka_unit_test(failed_allocations_are_errors_and_leak_nothing),
        cmocka_unit_test(vocabularies_and_models_of_llama_cpp_are_read_in_full),
        cmocka_unit_test(quantised_golden_models_are_read_in_full),
    };
    return cmocka_run_group_tests_name("gguf", tests, make_folder, remove_folder);
}
