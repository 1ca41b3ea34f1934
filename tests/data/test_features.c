/* Sets of features: every kind of file, every transform, each error; splitting and batches. */
#include "support/support.h"

#include "base/memory.h"
#include "data/features.h"
#include "format/idx.h"
#include "format/safetensors.h"

static const tn_features_options plain;

static void write_idx(const char *path, tn_dtype dtype, int ndim, const int64_t *shape, void *data) {
    tn_tensor tensor = {.dtype = dtype, .ndim = ndim, .data = data};
    memcpy(tensor.shape, shape, (size_t)ndim * sizeof *shape);
    assert_ok(tn_idx_write(path, &tensor));
}

/* `count` images of 2 x 3 whose bytes count up from `first`, with labels s % classes. */
static void write_images(const char *images, const char *labels, int64_t count, int first, int classes) {
    uint8_t pixels[64 * 6], answers[64];
    for (int64_t i = 0; i < count * 6; i++)
        pixels[i] = (uint8_t)(first + i);
    for (int64_t i = 0; i < count; i++)
        answers[i] = (uint8_t)(i % classes);
    write_idx(images, TN_DTYPE_U8, 3, (int64_t[]){count, 2, 3}, pixels);
    write_idx(labels, TN_DTYPE_U8, 1, (int64_t[]){count}, answers);
}

static const char *image_folder(const char *name) {
    assert_ok(tn_dir_create(temporary("%s", name)));
    write_images(temporary("%s/train-images-idx3-ubyte", name), temporary("%s/train-labels.idx1-ubyte", name), 8, 0, 4);
    write_images(temporary("%s/t10k-images.idx3-ubyte", name), temporary("%s/t10k-labels-idx1-ubyte", name), 4, 100, 2);
    return temporary("%s", name);
}

static tn_features read_csv(const char *text, const tn_features_options *options) {
    tn_features f;
    write_text(temporary("rows.csv"), text);
    assert_ok(tn_features_read(temporary("rows.csv"), options, &f));
    return f;
}

static void refuses_csv(tn_status status, const char *words, const char *text, const tn_features_options *options) {
    tn_features f;
    write_text(temporary("rows.csv"), text);
    assert_fails(tn_features_read(temporary("rows.csv"), options, &f), status, words);
    assert_non_null(strstr(tn_error_message(), "rows.csv"));
    assert_null(f.x);
}

typedef struct part {
    const char *name;
    tn_dtype dtype;
    int ndim;
    int64_t shape[TN_MAX_DIMS];
    const void *data;
} part;

static const char *write_tensors(const char *name, const part *parts, int count) {
    tn_safetensors_writer *writer;
    const char *path = temporary("%s", name);
    assert_ok(tn_safetensors_writer_new(&writer, path));
    for (int i = 0; i < count; i++)
        assert_ok(tn_safetensors_writer_declare(writer, parts[i].name, parts[i].dtype, parts[i].ndim, parts[i].shape));
    assert_ok(tn_safetensors_writer_begin(writer));
    for (int i = 0; i < count; i++) {
        tn_tensor t = {.dtype = parts[i].dtype, .ndim = parts[i].ndim};
        memcpy(t.shape, parts[i].shape, sizeof t.shape);
        assert_ok(tn_safetensors_writer_data(writer, parts[i].data, tn_tensor_bytes(&t)));
    }
    assert_ok(tn_safetensors_writer_finish(writer));
    return path;
}

static void folders_of_idx_files_are_images_in_0_to_1(void **state) {
    (void)state;
    tn_features f;
    assert_ok(tn_features_read(image_folder("images"), &plain, &f));
    assert_int_equal(f.count, 8);
    assert_int_equal(f.width, 6);
    assert_int_equal(f.ndim, 3);
    assert_memory_equal(f.shape, ((int64_t[]){1, 2, 3}), 3 * sizeof(int64_t));
    assert_int_equal(f.classes, 4);
    assert_null(f.class_names);
    assert_null(f.targets);
    for (int i = 0; i < 48; i++)
        assert_true(f.x[i] == (float)i / 255);
    assert_int_equal(f.labels[7], 3);
    tn_features_free(&f);
    assert_ok(tn_features_read(temporary("images"), &(tn_features_options){.part = TN_FEATURES_TEST}, &f));
    assert_int_equal(f.count, 4);
    assert_true(f.x[0] == 100.0f / 255);
    assert_int_equal(f.classes, 2);
    tn_features_free(&f);
}

static void the_test_set_has_the_classes_of_the_training_set(void **state) {
    (void)state;
    tn_features train, test;
    assert_ok(tn_features_read_both(image_folder("both"), &plain, &train, &test));
    assert_int_equal(test.count, 4);
    assert_int_equal(test.classes, 4);
    tn_features_free(&train);
    tn_features_free(&test);
    write_images(temporary("both/t10k-images.idx3-ubyte"), temporary("both/t10k-labels-idx1-ubyte"), 5, 0, 5);
    assert_fails(tn_features_read_both(temporary("both"), &plain, &train, &test), TN_ERROR_MISMATCH,
                 "t10k-labels-idx1-ubyte: the label 4 is out of range; there are 4 classes");
    assert_null(train.x);

    assert_ok(tn_dir_create(temporary("names")));
    write_text(temporary("names/train.csv"), "1,2,pear\n3,4,apple\n5,6,fig\n");
    write_text(temporary("names/valid.csv"), "1,2,fig\n");
    assert_ok(tn_features_read_both(temporary("names"), &plain, &train, &test));
    assert_int_equal(test.classes, 3);
    assert_int_equal(test.labels[0], 1);
    assert_string_equal(test.class_names[2], "pear");
    tn_features_free(&train);
    tn_features_free(&test);
    write_text(temporary("names/valid.csv"), "1,2,fig\n1,2,plum\n");
    assert_fails(tn_features_read_both(temporary("names"), &plain, &train, &test), TN_ERROR_FORMAT,
                 "valid.csv line 2 column 3: 'plum' is none of the classes given");
    write_text(temporary("names/test.csv"), "1,fig\n");
    assert_fails(tn_features_read_both(temporary("names"), &plain, &train, &test), TN_ERROR_MISMATCH,
                 "test.csv: its samples of 1 values");
    assert_ok(tn_features_read_both(temporary("names/train.csv"), &plain, &train, &test));
    assert_int_equal(train.count, 3);
    assert_int_equal(test.count, 0);
    tn_features_free(&train);
}

static void incomplete_folders_are_errors_that_name_what_is_missing(void **state) {
    (void)state;
    tn_features f;
    assert_ok(tn_dir_create(temporary("bare")));
    assert_fails(tn_features_read(temporary("bare"), &plain, &f), TN_ERROR_IO,
                 "bare holds no training data: train-images-idx3-ubyte (plain or .gz), train.csv or train.safetensors");
    write_images(temporary("bare/train-images-idx3-ubyte"), temporary("bare/other"), 8, 0, 4);
    assert_fails(tn_features_read(temporary("bare"), &plain, &f), TN_ERROR_IO, "train-labels-idx1-ubyte");
    write_idx(temporary("bare/train-labels-idx1-ubyte"), TN_DTYPE_U8, 1, (int64_t[]){7}, "1234567");
    assert_fails(tn_features_read(temporary("bare"), &plain, &f), TN_ERROR_FORMAT,
                 "train-labels-idx1-ubyte has 7 entries for the 8 samples of ");
    assert_fails(tn_features_read(temporary("bare/train-labels-idx1-ubyte"), &plain, &f), TN_ERROR_ARGUMENT,
                 "give the folder");
    write_idx(temporary("bare/train-images-idx3-ubyte"), TN_DTYPE_U8, 3, (int64_t[]){0, 2, 3}, "");
    assert_fails(tn_features_read(temporary("bare"), &plain, &f), TN_ERROR_FORMAT, "it holds nothing (shape [0, 2, 3])");
    assert_fails(tn_features_read(temporary("nowhere"), &plain, &f), TN_ERROR_IO, "nowhere");
}

static void csv_with_whole_numbers_to_predict_is_classification(void **state) {
    (void)state;
    tn_features f = read_csv("label,a,b\n2,0.5,-1e2\n0,3,+4\n", &plain);
    assert_int_equal(f.count, 2);
    assert_int_equal(f.width, 2);
    assert_int_equal(f.ndim, 1);
    assert_int_equal(f.classes, 3);
    assert_memory_equal(f.x, ((float[]){0.5f, -100, 3, 4}), 4 * sizeof(float));
    assert_memory_equal(f.labels, ((int32_t[]){2, 0}), 2 * sizeof(int32_t));
    tn_features_free(&f);
    f = read_csv("1,2,0\n3,4,1.0\n", &plain);
    assert_int_equal(f.classes, 2);
    tn_features_free(&f);
    f = read_csv("1,2,0\n3,4,1\n", &(tn_features_options){.classes = 10});
    assert_int_equal(f.classes, 10);
    tn_features_free(&f);
}

static void csv_with_text_to_predict_numbers_classes_in_sorted_order(void **state) {
    (void)state;
    tn_features f = read_csv("5.1,3.5,setosa\n4.9,3.0,\"iris, blue\"\n6,2,setosa\n", &plain);
    assert_int_equal(f.classes, 2);
    assert_string_equal(f.class_names[0], "iris, blue");
    assert_string_equal(f.class_names[1], "setosa");
    assert_memory_equal(f.labels, ((int32_t[]){1, 0, 1}), 3 * sizeof(int32_t));
    tn_features_free(&f);
    f = read_csv("x;kind;z\n1;10;3\n2;9;5\n",
                 &(tn_features_options){
                     .separator = ';', .target = "kind", .classes = 2, .class_names = (const char *const[]){"9", "10"}});
    assert_memory_equal(f.labels, ((int32_t[]){1, 0}), 2 * sizeof(int32_t));
    assert_memory_equal(f.x, ((float[]){1, 3, 2, 5}), 4 * sizeof(float));
    tn_features_free(&f);
}

static void csv_with_fractions_to_predict_is_regression(void **state) {
    (void)state;
    tn_features f = read_csv("x,y\n1,0.5\n2,-3\n", &plain);
    assert_int_equal(f.outputs, 1);
    assert_int_equal(f.classes, 0);
    assert_null(f.labels);
    assert_memory_equal(f.targets, ((float[]){0.5f, -3}), 2 * sizeof(float));
    tn_features_free(&f);
    f = read_csv("7,1\n9,2\n", &(tn_features_options){.task = TN_FEATURES_TARGETS, .target = "1"});
    assert_memory_equal(f.targets, ((float[]){7, 9}), 2 * sizeof(float));
    assert_memory_equal(f.x, ((float[]){1, 2}), 2 * sizeof(float));
    tn_features_free(&f);
}

static void headers_are_found_or_taken_by_option(void **state) {
    (void)state;
    tn_features f = read_csv("1,2,3\n4,5,6\n", &(tn_features_options){.header = TN_HEADER_PRESENT});
    assert_int_equal(f.count, 1);
    tn_features_free(&f);
    f = read_csv("a,b,Class\n1,0,1\n", &plain);
    assert_int_equal(f.count, 1);
    assert_int_equal(f.classes, 2);
    tn_features_free(&f);
    f = read_csv("label,1,2\n1,0.25,0.5\n", &(tn_features_options){.header = TN_HEADER_PRESENT});
    assert_memory_equal(f.x, ((float[]){0.25f, 0.5f}), 2 * sizeof(float));
    tn_features_free(&f);
    f = read_csv("1,2,z\n0.5,0.25,1\n", &(tn_features_options){.target = "z"});
    assert_int_equal(f.labels[0], 1);
    tn_features_free(&f);
    refuses_csv(TN_ERROR_FORMAT, "line 1 column 1: 'label' is not a number, but others", "label,1,2\n1,2,3\n", &plain);
    refuses_csv(TN_ERROR_FORMAT, "line 1 column 1: 'a' is not a finite number", "a,b\n1,2\n",
                &(tn_features_options){.header = TN_HEADER_ABSENT});
    refuses_csv(TN_ERROR_ARGUMENT, "there is no column 'kind'", "a,b\n1,2\n", &(tn_features_options){.target = "kind"});
    refuses_csv(TN_ERROR_ARGUMENT, "no column '3' to be predicted among its 2", "1,2\n",
                &(tn_features_options){.target = "3"});
}

static void broken_csv_files_name_line_and_column(void **state) {
    (void)state;
    refuses_csv(TN_ERROR_FORMAT, "has no rows", "", &plain);
    refuses_csv(TN_ERROR_FORMAT, "has a header and no rows", "a,b\n", &plain);
    refuses_csv(TN_ERROR_FORMAT, "line 1 column 1: a single column", "1\n2\n", &plain);
    refuses_csv(TN_ERROR_FORMAT, "line 3: 2 columns; the first row has 3", "1,2,0\n3,4,1\n5,6\n", &plain);
    refuses_csv(TN_ERROR_FORMAT, "line 2 column 2: 'nan' is not a finite number", "1,2,0\n3,nan,1\n", &plain);
    refuses_csv(TN_ERROR_FORMAT, "line 2 column 1: 'inf' is", "1,2,0\ninf,3,1\n", &plain);
    refuses_csv(TN_ERROR_FORMAT, "line 2 column 1: '1e39' is not a finite number", "1,2,0\n1e39,3,1\n", &plain);
    refuses_csv(TN_ERROR_FORMAT, "line 2 column 1: the value is missing", "1,2,0\n,3,1\n", &plain);
    refuses_csv(TN_ERROR_FORMAT, "line 2 column 3: the value to be predicted is missing", "1,2,0\n3,3,\n", &plain);
    refuses_csv(TN_ERROR_FORMAT, "line 2 column 3: '-1' is no class", "1,2,0\n3,3,-1\n", &plain);
    refuses_csv(TN_ERROR_FORMAT, "line 2 column 3: 'x' is no number as others", "1,2,0.5\n3,3,x\n", &plain);
    refuses_csv(TN_ERROR_FORMAT, "line 2 column 3: '0.5' is no class", "1,2,1\n3,3,0.5\n",
                &(tn_features_options){.task = TN_FEATURES_CLASSES});
    refuses_csv(TN_ERROR_FORMAT, "line 2 column 3: 'x' is not a finite number", "1,2,1\n3,3,x\n",
                &(tn_features_options){.task = TN_FEATURES_TARGETS});
    refuses_csv(TN_ERROR_FORMAT, "line 2 column 3: '2' is out of range", "1,2,1\n3,3,2\n",
                &(tn_features_options){.classes = 2});
    refuses_csv(TN_ERROR_FORMAT, "would make 250001 classes; say how many", "1,2,1\n3,3,250000\n", &plain);
    refuses_csv(TN_ERROR_MISMATCH, "3 different texts; there should be 2", "1,2,a\n3,3,b\n1,1,c\n",
                &(tn_features_options){.classes = 2});
    refuses_csv(TN_ERROR_FORMAT, "line 1 column 2: the quote opened on line 1 is never closed", "1,\"2\n", &plain);
}

static const float six[] = {1, 2, 3, 4, 5, 6};
#define X6                                                                                                                  \
    { "x", TN_DTYPE_F32, 2, {2, 3}, six }

static void safetensors_hold_classes_as_integers_and_targets_as_floats(void **state) {
    (void)state;
    tn_features f;
    const part classes[] = {{"labels", TN_DTYPE_I64, 1, {2}, (int64_t[]){3, 0}}, X6};
    assert_ok(tn_features_read(write_tensors("c.safetensors", classes, 2), &plain, &f));
    assert_int_equal(f.classes, 4);
    assert_memory_equal(f.x, six, sizeof six);
    assert_memory_equal(f.labels, ((int32_t[]){3, 0}), 2 * sizeof(int32_t));
    tn_features_free(&f);
    assert_ok(tn_features_read(temporary("c.safetensors"), &(tn_features_options){.task = TN_FEATURES_TARGETS}, &f));
    assert_memory_equal(f.targets, ((float[]){3, 0}), 2 * sizeof(float));
    tn_features_free(&f);

    const part targets[] = {{"targets", TN_DTYPE_F64, 2, {2, 2}, (double[]){0.5, 1, 2, -4}}, X6};
    assert_ok(tn_features_read(write_tensors("t", targets, 2), &plain, &f)); /* known by its bytes */
    assert_int_equal(f.outputs, 2);
    assert_memory_equal(f.targets, ((float[]){0.5f, 1, 2, -4}), 4 * sizeof(float));
    tn_features_free(&f);

    const part images[] = {{"x", TN_DTYPE_U8, 4, {1, 2, 1, 3}, "\0\1\2\3\4\377"}, {"target", TN_DTYPE_U8, 1, {1}, "\1"}};
    assert_ok(tn_dir_create(temporary("st")));
    write_tensors("st/valid.safetensors", images, 2);
    assert_ok(tn_features_read(temporary("st"), &(tn_features_options){.part = TN_FEATURES_TEST}, &f));
    assert_memory_equal(f.shape, ((int64_t[]){2, 1, 3}), 3 * sizeof(int64_t));
    assert_true(f.x[4] == 4.0f / 255 && f.x[5] == 1);
    tn_features_free(&f);
}

static void refuses_tensors(tn_status status, const char *words, part x, part y, const tn_features_options *options) {
    tn_features f;
    part parts[] = {x, y};
    assert_fails(tn_features_read(write_tensors("b.safetensors", parts, 2), options, &f), status, words);
    assert_non_null(strstr(tn_error_message(), "b.safetensors"));
    assert_null(f.x);
}

static void broken_safetensors_name_the_tensor(void **state) {
    (void)state;
    const part x = X6, labels = {"labels", TN_DTYPE_I32, 1, {2}, (int32_t[]){0, 1}};
    const part long_labels = {"labels", TN_DTYPE_I32, 1, {3}, (int32_t[]){0, 1, 0}};
    const part negative = {"labels", TN_DTYPE_I32, 1, {2}, (int32_t[]){0, -1}};
    const part wide = {"labels", TN_DTYPE_I32, 2, {2, 2}, (int32_t[]){0, 1, 0, 1}};
    const part floats = {"targets", TN_DTYPE_F32, 1, {2}, six}, scalar = {"targets", TN_DTYPE_F32, 0, {0}, six};
    const part infinite = {"targets", TN_DTYPE_F64, 1, {2}, (double[]){0, 1e300}};
    const part nan = {"x", TN_DTYPE_F32, 2, {2, 3}, (float[]){0, 1, 2, 3, NAN, 5}};
    const part words = {"x", TN_DTYPE_I64, 1, {2}, (int64_t[]){1, 2}}, other = {"y", TN_DTYPE_F32, 2, {2, 3}, six};
    const part empty = {"x", TN_DTYPE_F32, 2, {2, 0}, six}, more = {"label", TN_DTYPE_I32, 1, {2}, (int32_t[]){0, 1}};
    refuses_tensors(TN_ERROR_FORMAT, "no tensor 'x'", other, labels, &plain);
    refuses_tensors(TN_ERROR_FORMAT, "no tensor 'labels'", x, other, &plain);
    refuses_tensors(TN_ERROR_FORMAT, "both 'label' and 'labels'", labels, more, &plain);
    refuses_tensors(TN_ERROR_FORMAT, "labels has 3 entries for the 2 samples of", x, long_labels, &plain);
    refuses_tensors(TN_ERROR_FORMAT, "labels: sample 1 (from 0) has the label -1", x, negative, &plain);
    refuses_tensors(TN_ERROR_MISMATCH, "the label 1 is out of range; there are 1 classes", x, labels,
                    &(tn_features_options){.classes = 1});
    refuses_tensors(TN_ERROR_FORMAT, "class labels must be one per sample", x, wide, &plain);
    refuses_tensors(TN_ERROR_FORMAT, "targets: F32 numbers; classes must be integers", x, floats,
                    &(tn_features_options){.task = TN_FEATURES_CLASSES});
    refuses_tensors(TN_ERROR_FORMAT, "targets: shape []", x, scalar, &plain);
    refuses_tensors(TN_ERROR_FORMAT, "targets: value 0 of sample 1", x, infinite, &plain);
    refuses_tensors(TN_ERROR_FORMAT, "x: value 1 of sample 1 (both from 0) is not a finite number", nan, labels, &plain);
    refuses_tensors(TN_ERROR_UNSUPPORTED, "x: I64 of shape [2] cannot be features", words, labels, &plain);
    refuses_tensors(TN_ERROR_FORMAT, "x: it holds nothing", empty, labels, &plain);
    refuses_tensors(TN_ERROR_ARGUMENT, "only images can be turned", x, labels, &(tn_features_options){.quarter_turns = 1});
    refuses_tensors(TN_ERROR_ARGUMENT, "sample 0 has the value 2; only values in 0..1", x, labels,
                    &(tn_features_options){.invert = true});
}

/* One image [[0 1 2] [3 4 5]] / 8 of two channels, the second 1 - the first. */
static tn_features one_image(void) {
    tn_features f = {.count = 1, .width = 12, .ndim = 3, .shape = {2, 2, 3}, .classes = 1};
    f.x = tn_malloc(12 * sizeof *f.x);
    f.labels = tn_calloc(1, sizeof *f.labels);
    assert_non_null(f.x);
    assert_non_null(f.labels);
    for (int i = 0; i < 6; i++) {
        f.x[i] = (float)i / 8;
        f.x[6 + i] = 1 - f.x[i];
    }
    return f;
}

static void images_turn_counter_clockwise(void **state) {
    (void)state;
    static const int turned[4][6] = {{0, 1, 2, 3, 4, 5}, {2, 5, 1, 4, 0, 3}, {5, 4, 3, 2, 1, 0}, {3, 0, 4, 1, 5, 2}};
    for (int turns = 0; turns < 4; turns++) {
        tn_features f = one_image();
        assert_ok(tn_features_transform(&f, &(tn_features_options){.quarter_turns = turns}, "images"));
        assert_int_equal(f.shape[1], turns % 2 ? 3 : 2);
        assert_int_equal(f.shape[2], turns % 2 ? 2 : 3);
        for (int i = 0; i < 6; i++) {
            assert_true(f.x[i] == (float)turned[turns][i] / 8);
            assert_true(f.x[6 + i] == 1 - f.x[i]);
        }
        assert_fails(tn_features_transform(&f, &(tn_features_options){.quarter_turns = 4}, "images"), TN_ERROR_ARGUMENT,
                     "not 4 times");
        tn_features_free(&f);
    }
}

static void images_are_inverted_before_they_are_normalised(void **state) {
    (void)state;
    const float mean[] = {0.5f, 0.25f}, std[] = {2, 0.5f}, zero[] = {0};
    tn_features f = one_image();
    assert_ok(tn_features_transform(&f, &(tn_features_options){.invert = true, .mean = mean, .std = std, .norm_count = 2},
                                    "images"));
    for (int i = 0; i < 6; i++) {
        assert_true(f.x[i] == (1 - (float)i / 8 - 0.5f) / 2);
        assert_true(f.x[6 + i] == ((float)i / 8 - 0.25f) / 0.5f);
    }
    assert_fails(tn_features_transform(&f, &(tn_features_options){.mean = mean, .std = std, .norm_count = 3}, "images"),
                 TN_ERROR_MISMATCH, "1 or 2 would fit");
    assert_fails(tn_features_transform(&f, &(tn_features_options){.mean = mean, .std = zero, .norm_count = 1}, "images"),
                 TN_ERROR_ARGUMENT, "above 0");
    assert_fails(tn_features_transform(&f, &(tn_features_options){.mean = mean, .norm_count = 1}, "images"),
                 TN_ERROR_ARGUMENT, "both");
    tn_features_free(&f);
}

static void measured_columns_normalise_to_mean_0_and_deviation_1(void **state) {
    (void)state;
    float mean[3], std[3];
    tn_features f = read_csv("1,0.1,9,0\n3,0.1,1,1\n5,0.1,5,0\n7,0.1,5,1\n", &plain);
    tn_features_measure(&f, mean, std);
    assert_true(mean[0] == 4 && std[1] == 1 && mean[2] == 5);
    assert_true(fabs((double)std[0] - sqrt(5.0)) < 1e-6 && fabs((double)std[2] - sqrt(8.0)) < 1e-6);
    assert_ok(tn_features_transform(&f, &(tn_features_options){.mean = mean, .std = std, .norm_count = 3}, "rows"));
    tn_features_measure(&f, mean, std);
    for (int i = 0; i < 3; i++) {
        assert_true(fabs((double)mean[i]) < 1e-6);
        assert_true(fabs((double)std[i] - 1) < 1e-6);
    }
    tn_features_free(&f);
}

static void kept_classes_keep_their_numbers_unless_remapped(void **state) {
    (void)state;
    static const int32_t kept[] = {2, 0}, twice[] = {1, 1}, beyond[] = {3}, other[] = {1};
    const char *rows = "1,a\n2,b\n3,c\n4,a\n";
    tn_features_options options = {.keep_classes = kept, .keep_count = 2};
    tn_features f = read_csv(rows, &options);
    assert_int_equal(f.count, 3);
    assert_int_equal(f.classes, 3);
    assert_memory_equal(f.x, ((float[]){1, 3, 4}), 3 * sizeof(float));
    assert_memory_equal(f.labels, ((int32_t[]){0, 2, 0}), 3 * sizeof(int32_t));
    tn_features_free(&f);
    options.remap = true;
    f = read_csv(rows, &options);
    assert_int_equal(f.classes, 2);
    assert_memory_equal(f.labels, ((int32_t[]){1, 0, 1}), 3 * sizeof(int32_t));
    assert_string_equal(f.class_names[0], "c");
    assert_string_equal(f.class_names[1], "a");
    tn_features_free(&f);
    refuses_csv(TN_ERROR_ARGUMENT, "class 1 is named twice", rows,
                &(tn_features_options){.keep_classes = twice, .keep_count = 2});
    refuses_csv(TN_ERROR_ARGUMENT, "class 3 cannot be kept; the classes are 0 to 2", rows,
                &(tn_features_options){.keep_classes = beyond, .keep_count = 1});
    refuses_csv(TN_ERROR_ARGUMENT, "no sample is of a class that is kept", "1,0\n2,2\n",
                &(tn_features_options){.keep_classes = other, .keep_count = 1});
    refuses_csv(TN_ERROR_ARGUMENT, "no classes to keep", "1,0.5\n", &options);
}

static void splitting_moves_samples_with_their_answers_by_seed(void **state) {
    (void)state;
    tn_buf text = {0};
    for (int i = 0; i < 40; i++)
        tn_buf_printf(&text, "%d,%d,%s\n", i, 2 * i, i % 3 ? "yes" : "no");
    tn_features a = read_csv(text.data, &plain), b = read_csv(text.data, &plain), c = read_csv(text.data, &plain), va, vb,
                vc;
    assert_true(a.hash == b.hash);
    uint64_t whole = a.hash;
    assert_ok(tn_features_split(&a, &va, 0.25, 7));
    assert_ok(tn_features_split(&b, &vb, 0.25, 7));
    assert_ok(tn_features_split(&c, &vc, 0.25, 8));
    assert_true(a.hash == b.hash && va.hash == vb.hash && vc.hash != va.hash && a.hash != whole);
    assert_int_equal(a.count, 30);
    assert_int_equal(va.count, 10);
    bool seen[40] = {0};
    const tn_features *sets[] = {&a, &va};
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < sets[k]->count; i++) {
            int value = (int)sets[k]->x[2 * i];
            assert_true(!seen[value] && (i == 0 || value > (int)sets[k]->x[2 * i - 2]));
            seen[value] = true;
            assert_true(sets[k]->x[2 * i + 1] == (float)(2 * value));
            assert_string_equal(sets[k]->class_names[sets[k]->labels[i]], value % 3 ? "yes" : "no");
        }
    tn_features *all[] = {&b, &vb, &c, &vc, &va};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tn_features_free(all[i]);
    assert_fails(tn_features_split(&a, &va, 1, 7), TN_ERROR_ARGUMENT, "below 1");
    assert_ok(tn_features_split(&a, &va, 0, 7));
    assert_int_equal(va.count, 0);
    tn_features_free(&a);
    tn_buf_free(&text);
}

static void batches_of_an_epoch_hold_each_sample_once(void **state) {
    (void)state;
    tn_features f = read_csv("0,0.5\n1,1.5\n2,2.5\n3,3.5\n4,4.5\n", &plain);
    tn_epoch_order order;
    assert_ok(tn_epoch_order_init(&order, f.count, 2, true, 3));
    float x[2], targets[2], first[5], sum = 0;
    bool differs = false;
    for (int64_t i = 0; i < 6; i++) {
        int64_t rows = tn_features_batch(&f, &order, i, x, NULL, targets);
        assert_int_equal(rows, i % 3 == 2 ? 1 : 2);
        for (int64_t r = 0; r < rows; r++) {
            assert_true(targets[r] == x[r] + 0.5f);
            sum += x[r];
            if (i < 3)
                first[2 * i + r] = x[r];
            else
                differs |= first[2 * (i - 3) + r] != x[r];
        }
    }
    assert_true(sum == 20 && differs);
    tn_features_batch(&f, &order, 1, x, NULL, targets);
    assert_true(x[0] == first[2] && x[1] == first[3]);
    tn_epoch_order_free(&order);
    tn_features_free(&f);
}

static void a_failed_allocation_leaks_nothing(void **state) {
    (void)state;
    write_text(temporary("rows.csv"), "a,b,kind\n1,2,x\n3,4,y\n5,6,x\n");
    static const int32_t kept[] = {1, 0};
    const tn_features_options options = {.keep_classes = kept, .keep_count = 2, .remap = true};
    const part parts[] = {{"labels", TN_DTYPE_I64, 1, {2}, (int64_t[]){3, 0}}, X6};
    const char *paths[] = {temporary("rows.csv"), image_folder("failing"), write_tensors("f.safetensors", parts, 2)};
    for (int i = 0; i < 3; i++) {
        tn_status status = TN_ERROR_MEMORY;
        size_t before = tn_memory_used();
        for (int64_t after = 0; status == TN_ERROR_MEMORY; after++) {
            tn_features train, test, valid = {0};
            tn_memory_fail_after(after);
            status = tn_features_read_both(paths[i], &options, &train, &test);
            if (status == TN_OK)
                status = tn_features_split(&train, &valid, 0.5, 1);
            tn_memory_fail_after(-1);
            tn_features_free(&train);
            tn_features_free(&test);
            tn_features_free(&valid);
            assert_int_equal(tn_memory_used(), before);
        }
        assert_int_equal(status, TN_OK);
    }
}

static void mnist_reads_whole(void **state) {
    (void)state;
    const char *root = getenv("TENON_SHARED");
    char path[TN_PATH_MAX];
    snprintf(path, sizeof path, "%s/data/images/mnist", root ? root : TENON_SOURCE_ROOT "/../shared");
    if (!tn_path_exists(path))
        skip();
    tn_features train, test;
    assert_ok(tn_features_read_both(path, &plain, &train, &test));
    assert_int_equal(train.count, 60000);
    assert_int_equal(test.count, 10000);
    assert_int_equal(train.classes, 10);
    assert_int_equal(train.width, 784);
    /* 0.1307 and 0.3081, which everybody normalises MNIST by */
    float mean, std;
    tn_features_measure(&train, &mean, &std);
    assert_true(fabs((double)mean - 0.1307) < 1e-4 && fabs((double)std - 0.3081) < 1e-4);
    int64_t fives = 0;
    for (int64_t i = 0; i < train.count; i++)
        fives += train.labels[i] == 5;
    assert_int_equal(fives, 5421);
    tn_features_free(&train);
    tn_features_free(&test);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folders_of_idx_files_are_images_in_0_to_1),
        cmocka_unit_test(the_test_set_has_the_classes_of_the_training_set),
        cmocka_unit_test(incomplete_folders_are_errors_that_name_what_is_missing),
        cmocka_unit_test(csv_with_whole_numbers_to_predict_is_classification),
        cmocka_unit_test(csv_with_text_to_predict_numbers_classes_in_sorted_order),
        cmocka_unit_test(csv_with_fractions_to_predict_is_regression),
        cmocka_unit_test(headers_are_found_or_taken_by_option),
        cmocka_unit_test(broken_csv_files_name_line_and_column),
        cmocka_unit_test(safetensors_hold_classes_as_integers_and_targets_as_floats),
        cmocka_unit_test(broken_safetensors_name_the_tensor),
        cmocka_unit_test(images_turn_counter_clockwise),
        cmocka_unit_test(images_are_inverted_before_they_are_normalised),
        cmocka_unit_test(measured_columns_normalise_to_mean_0_and_deviation_1),
        cmocka_unit_test(kept_classes_keep_their_numbers_unless_remapped),
        cmocka_unit_test(splitting_moves_samples_with_their_answers_by_seed),
        cmocka_unit_test(batches_of_an_epoch_hold_each_sample_once),
        cmocka_unit_test(a_failed_allocation_leaks_nothing),
        cmocka_unit_test(mnist_reads_whole),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
