/* tenon train, eval and merge of sequential models on broken input: one line that names the file and what is wrong with it,
 * and nothing half-written. */
#include "program.h"

#include <math.h>

#include "base/rng.h"
#include "session/merge.h"

enum { ROWS = 12, INPUTS = 16 };

#define NET                                                                                                                 \
    "{\"model_type\": \"sequential\", \"input_shape\": [1, 4, 4], \"layers\": [{\"type\": \"conv2d\", \"name\": \"conv\", " \
    "\"out_channels\": 4, \"kernel_size\": 3}, {\"type\": \"relu\"}, {\"type\": \"flatten\"}, {\"type\": \"linear\", "      \
    "\"name\": \"fc\", \"out_features\": 6}, {\"type\": \"tanh\"}, {\"type\": \"linear\", \"name\": \"head\", "             \
    "\"out_features\": 3}]}"
#define WIDE                                                                                                                \
    "{\"model_type\": \"sequential\", \"input_shape\": [1, 5, 5], \"layers\": [{\"type\": \"conv2d\", \"name\": \"conv\", " \
    "\"out_channels\": 8, \"kernel_size\": 3}, {\"type\": \"flatten\"}, {\"type\": \"linear\", \"name\": \"fc\", "          \
    "\"out_features\": 6}, {\"type\": \"linear\", \"name\": \"head\", \"out_features\": 3}]}"
#define CONVOLUTION                                                                                                         \
    "{\"model_type\": \"sequential\", \"input_shape\": [1, 4, 4], \"layers\": [{\"type\": \"conv2d\", \"name\": \"conv\", " \
    "\"out_channels\": 4, \"kernel_size\": 3}, {\"type\": \"flatten\"}, {\"type\": \"linear\", \"name\": \"head\", "        \
    "\"out_features\": 3}]}"
#define NUMBERS                                                                                                             \
    "{\"model_type\": \"sequential\", \"task\": \"regression\", \"input_shape\": [16], \"layers\": [{\"type\": "            \
    "\"linear\", "                                                                                                          \
    "\"name\": \"fc\", \"out_features\": 2}]}"
#define LLAMA                                                                                                               \
    "{\"model_type\": \"llama\", \"vocab_size\": 9, \"hidden_size\": 8, \"intermediate_size\": 8, \"num_hidden_layers\": "  \
    "1, "                                                                                                                   \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1}"

/* A path in the test's folder; good until the next call. */
static const char *in_folder(const char *name) {
    static char path[TN_PATH_MAX];
    assert_int_equal(tn_path_join(path, folder, name), TN_OK);
    return path;
}

static void write_model(const char *name, const char *config) {
    tn_model *model;
    write_file("config.json", config);
    assert_int_equal(tn_model_create(in_folder("config.json"), 3, &model), TN_OK);
    assert_int_equal(tn_session_write_checkpoint(model, in_folder(name), "f32", 1, NULL), TN_OK);
    tn_model_free(model);
}

/* ROWS rows of numbers and a class each; `bad` stands in place of the field at (row, column). */
static void write_rows(const char *name, int row, int column, const char *bad) {
    float x[ROWS * INPUTS];
    tn_buf text = {0};
    tn_fill_uniform(x, ROWS * INPUTS, 1, 1, 0, 1);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j <= INPUTS; j++) {
            if (bad && i == row && j == column)
                tn_buf_printf(&text, "%s", bad);
            else if (j < INPUTS)
                tn_buf_printf(&text, "%.3f", (double)x[i * INPUTS + j]);
            else
                tn_buf_printf(&text, "%d", i % 3);
            tn_buf_puts(&text, j < INPUTS ? "," : "\n");
        }
    write_file(name, tn_buf_text(&text));
    tn_buf_free(&text);
}

static void write_bytes(const char *name, const void *bytes, size_t count) {
    assert_int_equal(tn_file_write(in_folder(name), bytes, count), TN_OK);
}

/* An IDX file of bytes: its sizes, then `count` elements. */
static void write_idx(const char *name, const uint8_t *sizes, int dims, int count, uint8_t value) {
    uint8_t bytes[512] = {0, 0, 8, (uint8_t)dims};
    for (int d = 0; d < dims; d++)
        bytes[4 + 4 * d + 3] = sizes[d];
    for (int i = 0; i < count; i++)
        bytes[4 + 4 * dims + i] = (uint8_t)(value ? value : i % 3);
    write_bytes(name, bytes, (size_t)(4 + 4 * dims + count));
}

/* A copy of the adapter whose last value is a NaN. */
static void write_nan_adapter(const char *from, const char *to) {
    tn_buf bytes = {0};
    char path[TN_PATH_MAX], line[200];
    const float nan = NAN;
    snprintf(line, sizeof line, "cp -r %s %s", from, to);
    exits(0, line);
    snprintf(path, sizeof path, "%s/%s/adapter_model.safetensors", folder, to);
    assert_int_equal(tn_file_read(path, 1 << 20, &bytes), TN_OK);
    memcpy(bytes.data + bytes.length - sizeof nan, &nan, sizeof nan);
    assert_int_equal(tn_file_write(path, bytes.data, bytes.length), TN_OK);
    tn_buf_free(&bytes);
}

/* Exactly one line, which is an error. */
static void fails(const char *command, const char *words) {
    int code = run(command);
    const char *end = strchr(text(), '\n');
    if (code != 1 || strncmp(text(), "tenon: ", 7) != 0 || !end || end[1] || !strstr(text(), words))
        fail_msg("%s: exit code %d, wanted '%s': %s", command, code, words, text());
    exits(0, "test ! -e out/adapter_model.safetensors && test ! -e out/model.safetensors");
}

static int make_files(void **state) {
    if (make_folder(state) != 0)
        return -1;
    write_model("net", NET);
    write_model("wide", WIDE);
    write_model("convolution", CONVOLUTION);
    write_model("numbers", NUMBERS);
    write_model("llama", LLAMA);
    write_rows("good.csv", 0, 0, NULL);
    write_file("good.jsonl", "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [3, 2, 1]}\n");
    return run("\"$TENON_PROGRAM\" train --model net --data good.csv --steps 2 --rank 2 --out adapter");
}

#define TRAIN "\"$TENON_PROGRAM\" train --model net --rank 2 --steps 2 --out out --data "

static void broken_csv_names_line_and_column(void **state) {
    static const struct {
        int row, column;
        const char *bad, *words;
    } cases[] = {
        {2, 0, "nan", "bad.csv line 3 column 1: 'nan' is not a finite number"},
        {2, 5, "-inf", "bad.csv line 3 column 6: '-inf' is not a finite number"},
        {2, 5, "1e39", "bad.csv line 3 column 6: '1e39' is not a finite number"},
        {2, 5, "", "bad.csv line 3 column 6: the value is missing"},
        {2, 5, "x", "bad.csv line 3 column 6: 'x' is not a finite number"},
        {2, 5, "1,2", "bad.csv line 3: 18 columns; the first row has 17"},
        {2, 5, "\"1", "bad.csv line 3 column 6: the quote opened on line 3 is never closed"},
        {11, INPUTS, "3", "bad.csv line 12 column 17: '3' is out of range; there are 3 classes, counted from 0"},
        {2, INPUTS, "-1", "bad.csv line 3 column 17: '-1' is no class"},
        {2, INPUTS, "1.5", "bad.csv line 3 column 17: '1.5' is no class"},
        {2, INPUTS, "cat", "bad.csv: its labels are 4 different texts; there should be 3 classes"},
        {2, INPUTS, "", "bad.csv line 3 column 17: the value to be predicted is missing"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_rows("bad.csv", cases[i].row, cases[i].column, cases[i].bad);
        fails(TRAIN "bad.csv", cases[i].words);
        fails("\"$TENON_PROGRAM\" eval --model net --data bad.csv", cases[i].words);
    }
    write_file("empty.csv", "");
    fails(TRAIN "empty.csv", "empty.csv has no rows");
    fails(TRAIN "missing.csv", "cannot open missing.csv");
    fails(TRAIN "digits", "digits: samples have 784 numbers, but the model takes 16");
    fails(TRAIN "net", "net holds no training data");
    fails(TRAIN "net/model.safetensors", "net/model.safetensors has no tensor 'x'");
}

static void broken_idx_names_the_file(void **state) {
    static const uint8_t images[] = {12, 4, 4}, few[] = {11}, all[] = {12}, wide[] = {12, 5, 4};
    static const char image_file[] = "idx/train-images-idx3-ubyte", label_file[] = "idx/train-labels-idx1-ubyte";
    (void)state;
    exits(0, "mkdir idx");
    write_idx(image_file, images, 3, 12 * INPUTS, 0);
    fails(TRAIN "idx", "train-images-idx3-ubyte has no labels beside it");
    write_idx(label_file, few, 1, 11, 0);
    fails(TRAIN "idx", "has 11 entries for the 12 samples of idx/train-images-idx3-ubyte");
    write_idx(label_file, all, 1, 12, 3);
    fails(TRAIN "idx", "train-labels-idx1-ubyte: the label 3 is out of range; there are 3 classes");
    write_idx(label_file, all, 1, 11, 0);
    fails(TRAIN "idx", "train-labels-idx1-ubyte: its header promises");
    write_idx(label_file, all, 1, 13, 0);
    fails(TRAIN "idx", "train-labels-idx1-ubyte: bytes follow");
    write_idx(label_file, all, 1, 12, 0);
    write_bytes(image_file, "\0\0\x08", 3);
    fails(TRAIN "idx", "train-images-idx3-ubyte: it ends within the header");
    write_bytes(image_file, "\x1f\x8b\x08nonsense", 11);
    fails(TRAIN "idx", "train-images-idx3-ubyte: damaged gzip");
    write_idx(image_file, wide, 3, 12 * 20, 0);
    fails(TRAIN "idx", "samples have 20 numbers, but the model takes 16");
    write_idx(image_file, images, 3, 12 * INPUTS, 0);
    exits(0, TRAIN "idx && rm -r out");
}

static void options_that_do_not_fit_are_refused(void **state) {
    static const struct {
        const char *command, *words;
    } cases[] = {
        {TRAIN "good.csv --target-column nope", "good.csv: there is no column 'nope'"},
        {TRAIN "good.csv --target-column 99", "good.csv: there is no column '99'"},
        {TRAIN "good.csv --classes 7", "good.csv: class 7 cannot be kept; the classes are 0 to 2"},
        {TRAIN "good.csv --classes one", "--classes: 'one' is no class number"},
        {TRAIN "good.csv --mean 3", "--mean does nothing without --std"},
        {TRAIN "good.csv --layers 0", "the layers of a sequential model have no numbers"},
        {TRAIN "good.csv --train-tokens 1", "this model takes no tokens"},
        {TRAIN "good.csv --modules-to-save nope", "modules_to_save: 'nope' matches no module"},
        {TRAIN "good.csv --rank 9", "rank 9 does not fit conv, whose weight is 4 x 9; choose 1 to 4"},
        {TRAIN "good.csv --max-length 9", "--max-length is for language models"},
        {TRAIN "good.csv --pass-tokens 9", "--pass-tokens is for language models"},
        {"\"$TENON_PROGRAM\" bench --model net --rank 1 --prompt 9", "--prompt is for language models"},
        {TRAIN "good.csv --train-on-prompt", "--train-on-prompt is for language models"},
        {TRAIN "good.csv --method vera --target-modules conv", "'conv' is of a kind that vera cannot adapt"},
        {TRAIN "good.csv --method adalora --target-modules conv", "'conv' is of a kind that adalora cannot adapt"},
        {"\"$TENON_PROGRAM\" train --model convolution --data good.csv --out out --method vera",
         "all-linear leaves the output layer alone, and vera can adapt no other layer"},
        {"\"$TENON_PROGRAM\" train --model numbers --data good.csv --out out --rank 2 --target-modules fc --classes 1",
         "good.csv: its answers are numbers, so there are no classes to keep"},
        {"\"$TENON_PROGRAM\" train --model llama --data good.jsonl --out out --rank 2 --rotate 90",
         "--rotate is for sequential models, and a llama model is none"},
        {"\"$TENON_PROGRAM\" eval --model llama --data good.jsonl --classes 1", "--classes is for sequential models"},
        {"\"$TENON_PROGRAM\" eval --model net --data good.csv --generate", "--generate is for language models"},
        {"\"$TENON_PROGRAM\" eval --model net --data good.csv --show 1", "--show is for language models"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        fails(cases[i].command, cases[i].words);
}

static void wrong_adapters_and_weights_are_refused(void **state) {
    tn_buf bytes = {0};
    const float nan = NAN;
    (void)state;
    fails("\"$TENON_PROGRAM\" eval --model wide --adapter adapter --data good.csv",
          "adapter/adapter_model.safetensors: 'base_model.model.conv.lora_B.weight' has shape [4, 2, 1, 1], but");
    fails("\"$TENON_PROGRAM\" merge --model wide --adapter adapter --out out", "adapter/adapter_model.safetensors: ");
    fails("\"$TENON_PROGRAM\" eval --model convolution --adapter adapter --data good.csv",
          "adapter: target module 'fc' matches nothing in this model; it has conv, head");
    fails("\"$TENON_PROGRAM\" train --model wide --from-adapter adapter --data good.csv --out out",
          "adapter/adapter_model.safetensors: ");
    write_nan_adapter("adapter", "broken");
    fails("\"$TENON_PROGRAM\" eval --model net --adapter broken --data good.csv", "broken/adapter_model.safetensors: ");
    assert_int_equal(tn_file_read(in_folder("net/model.safetensors"), 1 << 20, &bytes), TN_OK);
    memcpy(bytes.data + bytes.length - sizeof nan, &nan, sizeof nan);
    exits(0, "cp -r net nan");
    write_bytes("nan/model.safetensors", bytes.data, bytes.length);
    fails("\"$TENON_PROGRAM\" eval --model nan --data good.csv",
          "nan: tensor 'head.bias' holds a NaN or infinity at element 2");
    write_bytes("nan/model.safetensors", bytes.data, bytes.length - 1);
    fails("\"$TENON_PROGRAM\" eval --model nan --data good.csv", "nan/model.safetensors");
    tn_buf_free(&bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_csv_names_line_and_column),
        cmocka_unit_test(broken_idx_names_the_file),
        cmocka_unit_test(options_that_do_not_fit_are_refused),
        cmocka_unit_test(wrong_adapters_and_weights_are_refused),
    };
    return cmocka_run_group_tests_name("features_command", tests, make_files, remove_folder);
}
