/* Any bytes as a file: what tn_gguf_open accepts must be readable in full, and what it holds must be writable again. */
#include "format/gguf.h"
#include "fuzz.h"

static void read_value(const tn_gguf_value *value) {
    int64_t integer;
    double number;
    bool truth;
    for (int64_t i = -1; i <= value->count; i++) {
        bool inside = i >= 0 && i < value->count;
        if (tn_gguf_integer_at(value, i, &integer))
            fuzz_require(inside && tn_gguf_number_at(value, i, &number));
        if (tn_gguf_bool_at(value, i, &truth))
            fuzz_require(inside && value->kind == TN_GGUF_BOOL);
        if (value->kind == TN_GGUF_STRING && inside)
            fuzz_read(value->strings[i].bytes, value->strings[i].length);
    }
}

static void read_tensor(const tn_gguf_tensor *tensor) {
    enum { ENOUGH = 1 << 16 };
    static float values[ENOUGH];
    tn_tensor plain;
    fuzz_read(tensor->data, (size_t)tensor->bytes);
    if (tensor->rows * tensor->columns <= ENOUGH) {
        tn_status status = tn_ggml_decode(tensor->type, values, tensor->data, tensor->rows, tensor->columns);
        fuzz_require(status == TN_OK || status == TN_ERROR_UNSUPPORTED);
    }
    if (tn_gguf_plain_tensor(tensor, &plain))
        fuzz_require(tn_tensor_bytes(&plain) == tensor->bytes);
}

/* Into memory that nobody reads: the writer must take all that the reader gives. */
static void write_again(const tn_gguf *file) {
    tn_gguf_writer *writer;
    if (tn_gguf_writer_new(&writer, "/dev/shm/tenon-fuzz-gguf") != TN_OK)
        return;
    for (size_t i = 0; i < file->value_count; i++)
        fuzz_require(tn_gguf_writer_value(writer, &file->values[i]) == TN_OK);
    for (size_t i = 0; i < file->tensor_count; i++) {
        const tn_gguf_tensor *tensor = &file->tensors[i];
        fuzz_require(tn_gguf_writer_declare(writer, tensor->name, tensor->type, tensor->ndim, tensor->shape) == TN_OK);
    }
    tn_gguf_writer_begin(writer);
    tn_gguf_writer_abort(writer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tn_gguf file;
    tn_status status = tn_gguf_open(fuzz_file(data, size), &file);
    fuzz_require(status == TN_OK || status == TN_ERROR_FORMAT || status == TN_ERROR_UNSUPPORTED);
    if (status != TN_OK)
        return 0;
    for (size_t i = 0; i < file.value_count; i++) {
        const char *text;
        fuzz_require(tn_gguf_find(&file, file.values[i].key) == &file.values[i]);
        read_value(&file.values[i]);
        if (tn_gguf_get_string(&file, file.values[i].key, &text) == TN_OK)
            fuzz_read(text, strlen(text) + 1);
    }
    for (size_t i = 0; i < file.tensor_count; i++) {
        fuzz_require(tn_gguf_find_tensor(&file, file.tensors[i].name) == &file.tensors[i]);
        read_tensor(&file.tensors[i]);
    }
    write_again(&file);
    tn_gguf_close(&file);
    return 0;
}
