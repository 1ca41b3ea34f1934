/* safetensors: round trips, every rule of the validator, and the writer's refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "format/safetensors.h"

static char dir[64], path[TN_PATH_MAX];

static int make_folder(void **state) {
    (void)state;
    strcpy(dir, "/tmp/tenon-test-XXXXXX");
    return !mkdtemp(dir) || tn_path_join(path, dir, "t.safetensors") != TN_OK;
}

static int remove_folder(void **state) {
    (void)state;
    return tn_path_remove_tree(dir) != TN_OK;
}

/* Writes `length` as the header's, then the header and `data` zero bytes. */
static void write_raw(uint64_t length, const char *header, size_t header_length, size_t data) {
    tn_buf bytes = {0};
    for (int i = 0; i < 8; i++)
        tn_buf_putc(&bytes, (char)(length >> (8 * i)));
    tn_buf_append(&bytes, header, header_length);
    for (size_t i = 0; i < data; i++)
        tn_buf_putc(&bytes, 0);
    assert_int_equal(tn_buf_status(&bytes), TN_OK);
    assert_int_equal(tn_file_write(path, bytes.data, bytes.length), TN_OK);
    tn_buf_free(&bytes);
}

static void assert_refused(tn_status expected, const char *message) {
    tn_safetensors file;
    size_t before = tn_memory_used();
    tn_status status = tn_safetensors_open(path, &file);
    if (status != expected || !strstr(tn_error_message(), message))
        fail_msg("status %d, \"%s\" lacks \"%s\"", status, tn_error_message(), message);
    assert_ptr_equal(strstr(tn_error_message(), path), tn_error_message());
    assert_int_equal(tn_memory_used(), before);
}

static tn_status write_sample(void) {
    static const float matrix[6] = {1, 2, 3, 4, 5, 6};
    static const uint16_t row[3] = {0x3f80, 0x4000, 0x4040};
    static const uint8_t bytes[3] = {7, 8, 9};
    static const double scalar = 0.25;
    tn_safetensors_writer *w = NULL;
    tn_status status = TN_OK;
    TN_TRY_GOTO(tn_safetensors_writer_new(&w, path));
    TN_TRY_GOTO(tn_safetensors_writer_metadata(w, "format", "pt"));
    TN_TRY_GOTO(tn_safetensors_writer_metadata(w, "note", "\"quoted\"\n\xc3\xa9"));
    TN_TRY_GOTO(tn_safetensors_writer_declare(w, "matrix", TN_DTYPE_F32, 2, (int64_t[]){2, 3}));
    TN_TRY_GOTO(tn_safetensors_writer_declare(w, "row", TN_DTYPE_BF16, 1, (int64_t[]){3}));
    TN_TRY_GOTO(tn_safetensors_writer_declare(w, "empty", TN_DTYPE_I64, 3, (int64_t[]){4, 0, 2}));
    TN_TRY_GOTO(tn_safetensors_writer_declare(w, "\xc3\xa9\\", TN_DTYPE_U8, 4, (int64_t[]){1, 3, 1, 1}));
    TN_TRY_GOTO(tn_safetensors_writer_declare(w, "scalar", TN_DTYPE_F64, 0, NULL));
    TN_TRY_GOTO(tn_safetensors_writer_begin(w));
    TN_TRY_GOTO(tn_safetensors_writer_data(w, matrix, 5));
    TN_TRY_GOTO(tn_safetensors_writer_data(w, (const char *)matrix + 5, sizeof matrix - 5));
    TN_TRY_GOTO(tn_safetensors_writer_data(w, row, sizeof row));
    TN_TRY_GOTO(tn_safetensors_writer_data(w, bytes, sizeof bytes));
    TN_TRY_GOTO(tn_safetensors_writer_data(w, &scalar, sizeof scalar));
    return tn_safetensors_writer_finish(w);
fail:
    tn_safetensors_writer_abort(w);
    return status;
}

static void what_is_written_reads_back(void **state) {
    (void)state;
    assert_int_equal(write_sample(), TN_OK);
    tn_safetensors file;
    assert_int_equal(tn_safetensors_open(path, &file), TN_OK);
    assert_string_equal(file.path, path);
    assert_int_equal(file.count, 5);
    const tn_safetensors_entry *matrix = tn_safetensors_find(&file, "matrix");
    assert_non_null(matrix);
    assert_ptr_equal(matrix, &file.entries[0]);
    assert_int_equal(matrix->tensor.dtype, TN_DTYPE_F32);
    assert_int_equal(matrix->tensor.ndim, 2);
    assert_int_equal(matrix->tensor.shape[1], 3);
    assert_true(((const float *)matrix->tensor.data)[5] == 6);
    assert_int_equal(tn_tensor_count(&tn_safetensors_find(&file, "empty")->tensor), 0);
    assert_int_equal(((const uint8_t *)tn_safetensors_find(&file, "\xc3\xa9\\")->tensor.data)[2], 9);
    /* 24 + 6 + 3 bytes before it: not where a double may lie, so a copy */
    const tn_tensor *scalar = &tn_safetensors_find(&file, "scalar")->tensor;
    assert_int_equal(scalar->ndim, 0);
    assert_true(*(const double *)scalar->data == 0.25);
    assert_null(tn_safetensors_find(&file, "Matrix"));
    assert_int_equal(file.metadata_count, 2);
    assert_string_equal(tn_safetensors_metadata(&file, "format"), "pt");
    assert_string_equal(tn_safetensors_metadata(&file, "note"), "\"quoted\"\n\xc3\xa9");
    assert_null(tn_safetensors_metadata(&file, "absent"));
    tn_safetensors_close(&file);
    tn_safetensors_close(&file);
}

static void header_is_padded_to_eight_bytes_and_metadata_is_first(void **state) {
    (void)state;
    assert_int_equal(write_sample(), TN_OK);
    tn_buf bytes = {0};
    assert_int_equal(tn_file_read(path, 10000, &bytes), TN_OK);
    assert_int_equal((unsigned char)bytes.data[0] % 8, 0);
    assert_memory_equal(bytes.data + 8, "{\"__metadata__\":{\"format\":\"pt\",", 31);
    assert_non_null(strstr(bytes.data + 8, "\"matrix\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"));
    tn_buf_free(&bytes);
}

static void empty_file_of_no_tensors_is_valid(void **state) {
    (void)state;
    tn_safetensors_writer *writer;
    assert_int_equal(tn_safetensors_writer_new(&writer, path), TN_OK);
    assert_int_equal(tn_safetensors_writer_begin(writer), TN_OK);
    assert_int_equal(tn_safetensors_writer_finish(writer), TN_OK);
    tn_safetensors file;
    assert_int_equal(tn_safetensors_open(path, &file), TN_OK);
    assert_int_equal(file.count, 0);
    assert_null(tn_safetensors_find(&file, "x"));
    tn_safetensors_close(&file);
}

#define T(dtype, shape, begin, end) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void every_rule_has_its_refusal(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        tn_status status;
        const char *message;
    } cases[] = {
        {"[]", 0, TN_ERROR_FORMAT, "does not begin with '{'"},
        {" {}", 0, TN_ERROR_FORMAT, "does not begin with '{'"},
        {"\xef\xbb\xbf{}", 0, TN_ERROR_FORMAT, "does not begin with '{'"},
        {"", 0, TN_ERROR_FORMAT, "does not begin with '{'"},
        {"{", 0, TN_ERROR_FORMAT, "header, column 2: the text ends"},
        {"{}x", 0, TN_ERROR_FORMAT, "header, column 3: expected the end"},
        {"{\"\xff\":1}", 0, TN_ERROR_FORMAT, "header, column 3: the bytes are not valid UTF-8"},
        {"{\"t\":1}", 0, TN_ERROR_FORMAT, "tensor 't' must be an object"},
        {"{\"t\":{}}", 0, TN_ERROR_FORMAT, "tensor 't': dtype must be a string"},
        {"{\"t\":{\"dtype\":4}}", 0, TN_ERROR_FORMAT, "tensor 't': dtype must be a string"},
        {"{\"t\":" T("F8_E4M3", "[2]", 0, 2) "}", 2, TN_ERROR_UNSUPPORTED, "tensor 't': dtype F8_E4M3 is not supported"},
        {"{\"t\":" T("C64", "[1]", 0, 8) "}", 8, TN_ERROR_UNSUPPORTED, "tensor 't': dtype C64"},
        {"{\"t\":" T("f32", "[1]", 0, 4) "}", 4, TN_ERROR_UNSUPPORTED, "tensor 't': dtype f32"},
        {"{\"t\":" T("F99", "[1]", 0, 4) "}", 4, TN_ERROR_UNSUPPORTED, "tensor 't': dtype F99"},
        {"{\"t\":" T("F32", "3", 0, 4) "}", 4, TN_ERROR_FORMAT, "tensor 't': shape must be a list"},
        {"{\"t\":" T("F32", "[1,1,1,1,1]", 0, 4) "}", 4, TN_ERROR_UNSUPPORTED, "tensor 't' has 5 dimensions"},
        {"{\"t\":" T("F32", "[-1]", 0, 4) "}", 4, TN_ERROR_FORMAT, "tensor 't': every dimension"},
        {"{\"t\":" T("F32", "[1.5]", 0, 6) "}", 6, TN_ERROR_FORMAT, "tensor 't': every dimension"},
        {"{\"t\":" T("F32", "[\"1\"]", 0, 4) "}", 4, TN_ERROR_FORMAT, "tensor 't': every dimension"},
        {"{\"t\":" T("F32", "[1e300]", 0, 4) "}", 4, TN_ERROR_FORMAT, "tensor 't': every dimension"},
        {"{\"t\":" T("F32", "[4294967296,4294967296]", 0, 4) "}", 4, TN_ERROR_FORMAT, "tensor 't': the product"},
        {"{\"t\":" T("F32", "[2147483648,1073741824]", 0, 4) "}", 4, TN_ERROR_FORMAT, "tensor 't': the product"},
        {"{\"t\":" T("F32", "[1]", -4, 0) "}", 4, TN_ERROR_FORMAT, "tensor 't': data_offsets must be"},
        {"{\"t\":" T("F32", "[1]", 0.5, 4.5) "}", 8, TN_ERROR_FORMAT, "tensor 't': data_offsets must be"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,2,4]}}", 4, TN_ERROR_FORMAT, "data_offsets must be"},
        {"{\"t\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, TN_ERROR_FORMAT, "data_offsets must be"},
        {"{\"t\":" T("F32", "[1]", 4, 0) "}", 4, TN_ERROR_FORMAT, "tensor 't': its data ends (0) before it begins (4)"},
        {"{\"t\":" T("F32", "[3]", 0, 8) "}", 8, TN_ERROR_FORMAT, "span 8 bytes and F32 of shape [3] takes 12"},
        {"{\"t\":" T("F32", "[2]", 0, 8) "}", 7, TN_ERROR_FORMAT, "tensor 't': its data ends at byte 8 of 7"},
        {"{\"t\":" T("U8", "[9007199254740991]", 0, 9007199254740991) "}", 7, TN_ERROR_FORMAT, "file is truncated"},
        {"{\"t\":" T("F32", "[1]", 0, 4) "}", 5, TN_ERROR_FORMAT, "1 bytes follow the last tensor's data"},
        {"{}", 3, TN_ERROR_FORMAT, "3 bytes follow"},
        {"{\"t\":" T("F32", "[1]", 4, 8) "}", 8, TN_ERROR_FORMAT, "tensor 't': a hole of 4 bytes"},
        {"{\"b\":" T("F32", "[1]", 6, 10) ",\"a\":" T("F32", "[1]", 0, 4) "}", 10, TN_ERROR_FORMAT,
         "tensor 'b': a hole of 2 bytes"},
        {"{\"b\":" T("F32", "[1]", 2, 6) ",\"a\":" T("F32", "[1]", 0, 4) "}", 6, TN_ERROR_FORMAT,
         "tensor 'b': its data overlaps that of 'a'"},
        {"{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 0, 4) "}", 4, TN_ERROR_FORMAT, "overlaps"},
        {"{\"a\":" T("F32", "[1]", 0, 4) ",\"a\":" T("F32", "[1]", 4, 8) "}", 8, TN_ERROR_FORMAT,
         "tensor 'a' is there twice"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, TN_ERROR_FORMAT,
         "tensor 'a' has the key 'dtype' twice"},
        {"{\"__metadata__\":[]}", 0, TN_ERROR_FORMAT, "__metadata__ must be an object"},
        {"{\"__metadata__\":{\"k\":1}}", 0, TN_ERROR_FORMAT, "the value of 'k' is not a string"},
        {"{\"__metadata__\":{\"k\":\"\",\"k\":\"\"}}", 0, TN_ERROR_FORMAT, "has the key 'k' twice"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, TN_ERROR_FORMAT, "__metadata__ is there twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t length = strlen(cases[i].header);
        write_raw(length, cases[i].header, length, cases[i].data);
        assert_refused(cases[i].status, cases[i].message);
    }
}

static void header_length_cannot_lie(void **state) {
    (void)state;
    assert_int_equal(tn_file_write(path, "", 0), TN_OK);
    assert_refused(TN_ERROR_FORMAT, "0 bytes are too few");
    assert_int_equal(tn_file_write(path, "\2\0\0\0\0\0\0", 7), TN_OK);
    assert_refused(TN_ERROR_FORMAT, "7 bytes are too few");
    write_raw(3, "{}", 2, 0);
    assert_refused(TN_ERROR_FORMAT, "header of 3 bytes goes past the end");
    write_raw(100000000, "{}", 2, 0);
    assert_refused(TN_ERROR_FORMAT, "goes past the end");
    write_raw(100000001, "{}", 2, 0);
    assert_refused(TN_ERROR_FORMAT, "header of 100000001 bytes is more than");
    write_raw(UINT64_MAX, "{}", 2, 0);
    assert_refused(TN_ERROR_FORMAT, "is more than the 100000000");
    write_raw(0, "{}", 2, 0);
    assert_refused(TN_ERROR_FORMAT, "does not begin with '{'");
    write_raw(1, "{}", 2, 0);
    assert_refused(TN_ERROR_FORMAT, "header, column 2");
}

static void every_truncation_and_every_longer_file_is_refused(void **state) {
    (void)state;
    assert_int_equal(write_sample(), TN_OK);
    tn_buf bytes = {0};
    assert_int_equal(tn_file_read(path, 10000, &bytes), TN_OK);
    tn_safetensors file;
    for (size_t length = 0; length < bytes.length; length++) {
        assert_int_equal(tn_file_write(path, bytes.data, length), TN_OK);
        assert_int_equal(tn_safetensors_open(path, &file), TN_ERROR_FORMAT);
    }
    assert_int_equal(tn_file_write(path, bytes.data, bytes.length + 1), TN_OK);
    assert_int_equal(tn_safetensors_open(path, &file), TN_ERROR_FORMAT);
    tn_buf_free(&bytes);
}

static void missing_file_is_named_once(void **state) {
    (void)state;
    tn_safetensors file;
    assert_int_equal(tn_safetensors_open("/nowhere/t.safetensors", &file), TN_ERROR_IO);
    assert_string_equal(tn_error_message(), "cannot open /nowhere/t.safetensors: No such file or directory");
}

static void null_metadata_is_none(void **state) {
    (void)state;
    write_raw(21, "{\"__metadata__\":null}", 21, 0);
    tn_safetensors file;
    assert_int_equal(tn_safetensors_open(path, &file), TN_OK);
    assert_int_equal(file.metadata_count, 0);
    assert_null(tn_safetensors_metadata(&file, "format"));
    tn_safetensors_close(&file);
}

static void extra_keys_spaces_and_empty_tensors_are_accepted(void **state) {
    (void)state;
    const char *header = "{\"e\":" T("F32", "[0]", 4, 4) ",\"t\":" T("F32", "[1]", 4, 8) ",\"f\":" T(
        "F32", "[]", 0, 4) ",\"g\":{"
                           "\"dtype\":\"I8\",\"shape\":[0,9],\"data_offsets\":[8,8],\"later\":null}}     ";
    write_raw(strlen(header), header, strlen(header), 8);
    tn_safetensors file;
    assert_int_equal(tn_safetensors_open(path, &file), TN_OK);
    static const char *const order[] = {"f", "e", "t", "g"};
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(file.entries[i].name, order[i]);
        assert_ptr_equal(tn_safetensors_find(&file, order[i]), &file.entries[i]);
    }
    tn_safetensors_close(&file);
}

static void misaligned_tensors_are_copied(void **state) {
    (void)state;
    const char *header = "{\"t\":" T("F64", "[2]", 0, 16) "}";
    for (size_t pad = 0; pad < 8; pad++) {
        char padded[128];
        int length = snprintf(padded, sizeof padded, "%s%*s", header, (int)pad, "");
        write_raw((uint64_t)length, padded, (size_t)length, 16);
        tn_safetensors file;
        assert_int_equal(tn_safetensors_open(path, &file), TN_OK);
        const tn_tensor *tensor = &tn_safetensors_find(&file, "t")->tensor;
        assert_int_equal((uintptr_t)tensor->data % 8, 0);
        assert_true(((const double *)tensor->data)[1] == 0);
        tn_safetensors_close(&file);
    }
}

static void ten_thousand_tensors_are_no_burden(void **state) {
    (void)state;
    enum { MANY = 10000 };
    tn_safetensors_writer *writer;
    char name[64];
    assert_int_equal(tn_safetensors_writer_new(&writer, path), TN_OK);
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "model.layers.%d.weight", (i * 7919) % MANY);
        assert_int_equal(tn_safetensors_writer_declare(writer, name, TN_DTYPE_I32, 1, (int64_t[]){1}), TN_OK);
    }
    assert_int_equal(tn_safetensors_writer_begin(writer), TN_OK);
    for (int32_t i = 0; i < MANY; i++)
        assert_int_equal(tn_safetensors_writer_data(writer, &i, sizeof i), TN_OK);
    assert_int_equal(tn_safetensors_writer_finish(writer), TN_OK);
    tn_safetensors file;
    assert_int_equal(tn_safetensors_open(path, &file), TN_OK);
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "model.layers.%d.weight", (i * 7919) % MANY);
        const tn_safetensors_entry *entry = tn_safetensors_find(&file, name);
        assert_non_null(entry);
        assert_int_equal(*(const int32_t *)entry->tensor.data, i);
    }
    tn_safetensors_close(&file);
}

/* Fails a step of a new writer, then checks that nothing of it is left on disk. */
static void assert_step_fails(tn_status status, const char *message) {
    assert_int_equal(status, TN_ERROR_ARGUMENT);
    if (!strstr(tn_error_message(), message))
        fail_msg("\"%s\" lacks \"%s\"", tn_error_message(), message);
}

static void writer_refuses_wrong_declarations(void **state) {
    (void)state;
    int64_t shape[5] = {1, 1, 1, 1, 1}, negative[1] = {-1}, huge[2] = {INT64_MAX / 4, 4};
    tn_safetensors_writer *w;
    assert_int_equal(tn_safetensors_writer_new(&w, path), TN_OK);
    assert_int_equal(tn_safetensors_writer_declare(w, "a", TN_DTYPE_F32, 1, shape), TN_OK);
    assert_step_fails(tn_safetensors_writer_declare(w, "a", TN_DTYPE_F32, 1, shape), "'a' is declared twice");
    assert_step_fails(tn_safetensors_writer_declare(w, "b", TN_DTYPE_F32, 5, shape), "5 dimensions");
    assert_step_fails(tn_safetensors_writer_declare(w, "b", TN_DTYPE_F32, 1, negative), "negative or overflows");
    assert_step_fails(tn_safetensors_writer_declare(w, "b", TN_DTYPE_F32, 2, huge), "negative or overflows");
    assert_step_fails(tn_safetensors_writer_declare(w, "c", TN_DTYPE_U8, 1, (int64_t[]){INT64_MAX}), "overflow");
    assert_step_fails(tn_safetensors_writer_declare(w, "__metadata__", TN_DTYPE_F32, 1, shape), "cannot be written");
    assert_step_fails(tn_safetensors_writer_declare(w, "\xff", TN_DTYPE_F32, 1, shape), "not valid UTF-8");
    assert_int_equal(tn_safetensors_writer_metadata(w, "k", "v"), TN_OK);
    assert_step_fails(tn_safetensors_writer_metadata(w, "k", "v"), "'k' is declared twice");
    assert_step_fails(tn_safetensors_writer_metadata(w, "l", "\xff"), "not valid UTF-8");
    assert_int_equal(tn_safetensors_writer_begin(w), TN_OK);
    assert_step_fails(tn_safetensors_writer_declare(w, "z", TN_DTYPE_F32, 1, shape), "after the header");
    assert_step_fails(tn_safetensors_writer_begin(w), "written already");
    tn_safetensors_writer_abort(w);
    tn_safetensors_writer_abort(NULL);
    assert_int_equal(tn_safetensors_writer_new(&w, "/proc/nothing/t"), TN_ERROR_IO);
    assert_null(w);
}

static void wrong_amounts_of_data_leave_the_older_file(void **state) {
    (void)state;
    assert_int_equal(tn_file_write(path, "older", 5), TN_OK);
    for (int which = 0; which < 4; which++) {
        tn_safetensors_writer *w;
        assert_int_equal(tn_safetensors_writer_new(&w, path), TN_OK);
        assert_int_equal(tn_safetensors_writer_declare(w, "a", TN_DTYPE_U8, 1, (int64_t[]){4}), TN_OK);
        if (which != 2)
            assert_int_equal(tn_safetensors_writer_begin(w), TN_OK);
        if (which == 0) {
            assert_int_equal(tn_safetensors_writer_data(w, "abc", 3), TN_OK);
            assert_step_fails(tn_safetensors_writer_data(w, "de", 2), "2 bytes of tensor data come behind 3 of 4");
            assert_step_fails(tn_safetensors_writer_finish(w), "an earlier step failed");
        } else if (which == 1) {
            assert_int_equal(tn_safetensors_writer_data(w, "abc", 3), TN_OK);
            assert_step_fails(tn_safetensors_writer_finish(w), "only 3 of the 4 bytes");
        } else if (which == 2) {
            assert_step_fails(tn_safetensors_writer_finish(w), "never begun");
        } else {
            assert_int_equal(tn_safetensors_writer_data(w, "abcd", 4), TN_OK);
            tn_safetensors_writer_abort(w);
        }
    }
    tn_buf text = {0};
    assert_int_equal(tn_file_read(path, 100, &text), TN_OK);
    assert_string_equal(tn_buf_text(&text), "older");
    tn_buf_free(&text);
    /* nothing but that file: rmdir would fail otherwise */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(tn_dir_create(dir), TN_OK);
}

static void memory_may_end_anywhere(void **state) {
    (void)state;
    size_t before = tn_memory_used();
    tn_status status = TN_ERROR_MEMORY;
    for (int64_t count = 0; status != TN_OK; count++) {
        tn_memory_fail_after(count);
        status = write_sample();
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
        assert_int_equal(tn_memory_used(), before);
    }
    status = TN_ERROR_MEMORY;
    for (int64_t count = 0; status != TN_OK; count++) {
        tn_safetensors file;
        tn_memory_fail_after(count);
        status = tn_safetensors_open(path, &file);
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
        if (status == TN_OK)
            tn_safetensors_close(&file);
        assert_int_equal(tn_memory_used(), before);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(header_is_padded_to_eight_bytes_and_metadata_is_first),
        cmocka_unit_test(empty_file_of_no_tensors_is_valid),
        cmocka_unit_test(every_rule_has_its_refusal),
        cmocka_unit_test(header_length_cannot_lie),
        cmocka_unit_test(every_truncation_and_every_longer_file_is_refused),
        cmocka_unit_test(missing_file_is_named_once),
        cmocka_unit_test(null_metadata_is_none),
        cmocka_unit_test(extra_keys_spaces_and_empty_tensors_are_accepted),
        cmocka_unit_test(misaligned_tensors_are_copied),
        cmocka_unit_test(ten_thousand_tensors_are_no_burden),
        cmocka_unit_test(writer_refuses_wrong_declarations),
        cmocka_unit_test(wrong_amounts_of_data_leave_the_older_file),
        cmocka_unit_test(memory_may_end_anywhere),
    };
    return cmocka_run_group_tests_name("safetensors", tests, make_folder, remove_folder);
}
