/* Single and sharded checkpoints, good and broken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "tensor/checkpoint.h"

static char dir[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(dir, "/tmp/tenon-test-XXXXXX");
    return !mkdtemp(dir);
}

static int remove_folder(void **state) {
    (void)state;
    return tn_path_remove_tree(dir) != TN_OK;
}

static void write_text(const char *name, const char *text) {
    char path[TN_PATH_MAX];
    assert_int_equal(tn_path_join(path, dir, name), TN_OK);
    assert_int_equal(tn_file_write(path, text, strlen(text)), TN_OK);
}

/* A file of one-element tensors, the values given behind their names; ends with NULL. */
static void write_tensors(const char *name, const char *const *names, const float *values, int count) {
    char path[TN_PATH_MAX];
    tn_safetensors_writer *writer;
    assert_int_equal(tn_path_join(path, dir, name), TN_OK);
    assert_int_equal(tn_safetensors_writer_new(&writer, path), TN_OK);
    for (int i = 0; i < count; i++)
        assert_int_equal(tn_safetensors_writer_declare(writer, names[i], TN_DTYPE_F32, 1, (int64_t[]){1}), TN_OK);
    assert_int_equal(tn_safetensors_writer_begin(writer), TN_OK);
    assert_int_equal(tn_safetensors_writer_data(writer, values, count * (int64_t)sizeof *values), TN_OK);
    assert_int_equal(tn_safetensors_writer_finish(writer), TN_OK);
}

static void write_shards(const char *index) {
    write_tensors("one.safetensors", (const char *[]){"a", "b"}, (float[]){1, 2}, 2);
    write_tensors("two.safetensors", (const char *[]){"c", "a"}, (float[]){3, 4}, 2);
    write_text("model.safetensors.index.json", index);
}

static float value_of(const tn_checkpoint *checkpoint, const char *name) {
    const tn_tensor *tensor = tn_checkpoint_find(checkpoint, name);
    assert_non_null(tensor);
    return *(const float *)tensor->data;
}

static void assert_refused(tn_status expected, const char *message) {
    tn_checkpoint checkpoint;
    size_t before = tn_memory_used();
    tn_status status = tn_checkpoint_open(dir, &checkpoint);
    if (status != expected || !strstr(tn_error_message(), message))
        fail_msg("status %d, \"%s\" lacks \"%s\"", status, tn_error_message(), message);
    assert_int_equal(tn_memory_used(), before);
    assert_int_equal(checkpoint.file_count, 0);
}

static void single_file_is_opened(void **state) {
    (void)state;
    write_tensors("model.safetensors", (const char *[]){"a", "b"}, (float[]){1, 2}, 2);
    tn_checkpoint checkpoint;
    assert_int_equal(tn_checkpoint_open(dir, &checkpoint), TN_OK);
    assert_false(checkpoint.sharded);
    assert_true(value_of(&checkpoint, "b") == 2);
    assert_null(tn_checkpoint_find(&checkpoint, "c"));
    tn_checkpoint_close(&checkpoint);
    tn_checkpoint_close(&checkpoint);
}

static void index_decides_which_shard_holds_a_tensor(void **state) {
    (void)state;
    write_shards("{\"metadata\":{\"total_size\":12},\"weight_map\":{\"c\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
    tn_checkpoint checkpoint;
    assert_int_equal(tn_checkpoint_open(dir, &checkpoint), TN_OK);
    assert_true(checkpoint.sharded);
    assert_int_equal(checkpoint.file_count, 2);
    assert_non_null(strstr(checkpoint.files[0].path, "/two.safetensors"));
    assert_true(value_of(&checkpoint, "a") == 1);
    assert_true(value_of(&checkpoint, "c") == 3);
    assert_null(tn_checkpoint_find(&checkpoint, "b"));
    tn_checkpoint_close(&checkpoint);
}

static void broken_indexes_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *index;
        tn_status status;
        const char *message;
    } cases[] = {
        {"{", TN_ERROR_FORMAT, "column 2"},
        {"[]", TN_ERROR_FORMAT, "weight_map must be an object"},
        {"{\"weight_map\":3}", TN_ERROR_FORMAT, "weight_map must be an object"},
        {"{\"weight_map\":{},\"weight_map\":{}}", TN_ERROR_FORMAT, "'weight_map' is there twice"},
        {"{\"weight_map\":{\"a\":1}}", TN_ERROR_FORMAT, "tensor 'a': its shard must be a file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", TN_ERROR_FORMAT, "tensor 'a': the shard name '' is not a plain file name"},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", TN_ERROR_FORMAT, "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", TN_ERROR_FORMAT, "not a plain file name"},
        {"{\"weight_map\":{\"a\":\".\"}}", TN_ERROR_IO, "not a regular file"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", TN_ERROR_FORMAT, "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"x\\\\one.safetensors\"}}", TN_ERROR_FORMAT, "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"three.safetensors\"}}", TN_ERROR_IO, "three.safetensors is missing"},
        {"{\"weight_map\":{\"c\":\"one.safetensors\"}}", TN_ERROR_FORMAT, "tensor 'c' is not in its shard"},
        {"{\"weight_map\":{\"a\":\"model.safetensors.index.json\"}}", TN_ERROR_FORMAT, "header"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}", TN_ERROR_FORMAT, "'a' is there twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_shards(cases[i].index);
        assert_refused(cases[i].status, cases[i].message);
        assert_non_null(strstr(tn_error_message(), "model.safetensors.index.json"));
    }
}

static void absent_weights_are_explained(void **state) {
    (void)state;
    assert_refused(TN_ERROR_IO, "holds neither model.safetensors nor model.safetensors.index.json");
    write_text("pytorch_model.bin", "");
    assert_refused(TN_ERROR_UNSUPPORTED, "holds pytorch_model.bin, but weights are read from safetensors (");
    assert_int_equal(remove_folder(NULL), 0);
    assert_int_equal(tn_dir_create(dir), TN_OK);
    write_text("tiny.Q4_0.gguf", "");
    assert_refused(TN_ERROR_FORMAT, "tiny.Q4_0.gguf");
    tn_checkpoint checkpoint;
    assert_int_equal(tn_checkpoint_open("/nowhere", &checkpoint), TN_ERROR_IO);
    assert_non_null(strstr(tn_error_message(), "/nowhere is not a folder"));
}

static void memory_may_end_anywhere(void **state) {
    (void)state;
    write_shards("{\"weight_map\":{\"c\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
    size_t before = tn_memory_used();
    tn_status status = TN_ERROR_MEMORY;
    for (int64_t count = 0; status != TN_OK; count++) {
        tn_checkpoint checkpoint;
        tn_memory_fail_after(count);
        status = tn_checkpoint_open(dir, &checkpoint);
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
        tn_checkpoint_close(&checkpoint);
        assert_int_equal(tn_memory_used(), before);
    }
}

static void shared_model_opens(void **state) {
    (void)state;
    char path[TN_PATH_MAX];
    const char *shared = getenv("TENON_SHARED");
    assert_int_equal(tn_path_join(path, shared ? shared : TENON_SOURCE_ROOT "/../shared", "data/models/stories260K"), TN_OK);
    if (!tn_path_is_dir(path))
        skip();
    tn_checkpoint checkpoint;
    assert_int_equal(tn_checkpoint_open(path, &checkpoint), TN_OK);
    const tn_tensor *embedding = tn_checkpoint_find(&checkpoint, "model.embed_tokens.weight");
    assert_non_null(embedding);
    assert_int_equal(embedding->shape[0], 512);
    assert_int_equal(tn_tensor_first_nonfinite(embedding), -1);
    tn_checkpoint_close(&checkpoint);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(single_file_is_opened, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(index_decides_which_shard_holds_a_tensor, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(broken_indexes_are_refused, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(absent_weights_are_explained, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(memory_may_end_anywhere, make_folder, remove_folder),
        cmocka_unit_test(shared_model_opens),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
