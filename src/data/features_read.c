/* Finding and reading sets of features: IDX pairs, CSV, safetensors. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/features_parts.h"
#include "format/idx.h"
#include "format/safetensors.h"

/* More classes than this are taken for targets that were read as classes by mistake. */
enum { MOST_INFERRED_CLASSES = 65536 };

tn_status tn_count_classes(int64_t largest, const tn_features_options *options, const char *where, int64_t *classes) {
    *classes = options->classes ? options->classes : largest + 1;
    if (largest >= *classes)
        return tn_fail(TN_ERROR_MISMATCH, "%s: the label %lld is out of range; there are %lld classes, counted from 0",
                       where, (long long)largest, (long long)*classes);
    if (!options->classes && *classes > MOST_INFERRED_CLASSES)
        return tn_fail(TN_ERROR_FORMAT,
                       "%s: the label %lld would make %lld classes; say how many there are, or that these are numbers to "
                       "predict (regression)",
                       where, (long long)largest, (long long)*classes);
    return TN_OK;
}

static int64_t integer_at(const tn_tensor *tensor, int64_t i) {
    switch (tensor->dtype) {
    case TN_DTYPE_I64: return ((const int64_t *)tensor->data)[i];
    case TN_DTYPE_I32: return ((const int32_t *)tensor->data)[i];
    case TN_DTYPE_I16: return ((const int16_t *)tensor->data)[i];
    case TN_DTYPE_I8: return ((const int8_t *)tensor->data)[i];
    default: return ((const uint8_t *)tensor->data)[i];
    }
}

/* A new array of all elements as f32, finite; they are `width` to a sample. */
static tn_status to_floats(const tn_tensor *tensor, const char *where, int64_t width, float scale, float **out) {
    int64_t count = tn_tensor_count(tensor), bytes;
    if (!tn_mul_i64(count, sizeof **out, &bytes) || !(*out = tn_malloc((size_t)bytes)))
        return tn_fail_memory("a set of features");
    if (tn_dtype_is_float(tensor->dtype)) {
        tn_convert_to_f32(*out, tensor->data, tensor->dtype, count);
        tn_tensor floats = {.dtype = TN_DTYPE_F32, .ndim = 1, .shape = {count}, .data = *out};
        int64_t bad = tn_tensor_first_nonfinite(&floats);
        if (bad >= 0)
            return tn_fail(TN_ERROR_FORMAT, "%s: value %lld of sample %lld (both from 0) is not a finite number", where,
                           (long long)(bad % width), (long long)(bad / width));
        return TN_OK;
    }
    for (int64_t i = 0; i < count; i++)
        (*out)[i] = (float)integer_at(tensor, i) / scale;
    return TN_OK;
}

static tn_status take_samples(const tn_tensor *x, const char *where, tn_features *out) {
    char shape[TN_SHAPE_TEXT];
    if (x->ndim < 1 || x->dtype == TN_DTYPE_I64 || x->dtype == TN_DTYPE_BOOL)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: %s of shape %s cannot be features; floats or u8 of shape [N, ...] can",
                       where, tn_dtype_name(x->dtype), tn_shape_text(x, shape));
    out->count = x->shape[0];
    out->width = 1;
    if (x->ndim == 3)
        out->shape[out->ndim++] = 1;
    for (int i = 1; i < x->ndim; i++) {
        out->shape[out->ndim++] = x->shape[i];
        out->width *= x->shape[i];
    }
    if (x->ndim == 1)
        out->shape[out->ndim++] = 1;
    if (out->count == 0 || out->width == 0)
        return tn_fail(TN_ERROR_FORMAT, "%s: it holds nothing (shape %s)", where, tn_shape_text(x, shape));
    if (out->count > INT32_MAX)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: more than %d samples", where, INT32_MAX);
    return to_floats(x, where, out->width, x->dtype == TN_DTYPE_U8 ? 255 : 1, &out->x);
}

static tn_status take_labels(const tn_tensor *y, const char *where, const tn_features_options *options, tn_features *out) {
    int64_t largest = 0;
    if (tn_tensor_count(y) != out->count)
        return tn_fail(TN_ERROR_FORMAT, "%s: class labels must be one per sample", where);
    for (int64_t i = 0; i < out->count; i++) {
        int64_t label = integer_at(y, i);
        if (label < 0 || label >= INT32_MAX)
            return tn_fail(TN_ERROR_FORMAT, "%s: sample %lld (from 0) has the label %lld; classes are counted from 0", where,
                           (long long)i, (long long)label);
        largest = label > largest ? label : largest;
    }
    TN_TRY(tn_count_classes(largest, options, where, &out->classes));
    out->labels = tn_malloc((size_t)out->count * sizeof *out->labels);
    if (!out->labels)
        return tn_fail_memory("labels");
    for (int64_t i = 0; i < out->count; i++)
        out->labels[i] = (int32_t)integer_at(y, i);
    return TN_OK;
}

static tn_status take_answers(const tn_tensor *y, const char *where_x, const char *where, const tn_features_options *options,
                              tn_features *out) {
    char shape[TN_SHAPE_TEXT];
    if (y->ndim < 1 || y->ndim > 2)
        return tn_fail(TN_ERROR_FORMAT, "%s: shape %s; [N] or [N, outputs] is needed", where, tn_shape_text(y, shape));
    if (y->shape[0] != out->count)
        return tn_fail(TN_ERROR_FORMAT, "%s has %lld entries for the %lld samples of %s", where, (long long)y->shape[0],
                       (long long)out->count, where_x);
    bool whole = !tn_dtype_is_float(y->dtype);
    if (whole && options->task != TN_FEATURES_TARGETS)
        return take_labels(y, where, options, out);
    if (options->task == TN_FEATURES_CLASSES)
        return tn_fail(TN_ERROR_FORMAT, "%s: %s numbers; classes must be integers", where, tn_dtype_name(y->dtype));
    out->outputs = y->ndim == 2 ? y->shape[1] : 1;
    if (out->outputs == 0)
        return tn_fail(TN_ERROR_FORMAT, "%s: it holds nothing (shape %s)", where, tn_shape_text(y, shape));
    return to_floats(y, where, out->outputs, 1, &out->targets);
}

tn_status tn_features_from_tensors(const tn_tensor *x, const char *where_x, const tn_tensor *y, const char *where_y,
                                   const tn_features_options *options, tn_features *out) {
    *out = (tn_features){0};
    tn_status status = take_samples(x, where_x, out);
    if (status == TN_OK)
        status = take_answers(y, where_x, where_y, options, out);
    if (status != TN_OK)
        tn_features_free(out);
    return status;
}

static tn_status read_safetensors(const char *path, const tn_features_options *options, tn_features *out) {
    static const char *const names[] = {"label", "labels", "target", "targets"};
    char where_x[TN_PATH_MAX + 16], where_y[TN_PATH_MAX + 16];
    const tn_safetensors_entry *x, *y = NULL;
    tn_safetensors file;
    tn_status status;
    TN_TRY(tn_safetensors_open(path, &file));
    x = tn_safetensors_find(&file, "x");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const tn_safetensors_entry *found = tn_safetensors_find(&file, names[i]);
        if (found && y)
            TN_TRY_GOTO(tn_fail(TN_ERROR_FORMAT, "%s has both '%s' and '%s'; which is to be predicted? Leave one", path,
                                y->name, found->name));
        y = found ? found : y;
    }
    if (!x || !y)
        TN_TRY_GOTO(tn_fail(TN_ERROR_FORMAT, "%s has no tensor %s", path,
                            x ? "'labels' (integer classes) or 'targets' (floats)" : "'x' (the features)"));
    snprintf(where_x, sizeof where_x, "%s: x", path);
    snprintf(where_y, sizeof where_y, "%s: %s", path, y->name);
    TN_TRY_GOTO(tn_features_from_tensors(&x->tensor, where_x, &y->tensor, where_y, options, out));
fail:
    tn_safetensors_close(&file);
    return status;
}

static tn_status read_idx(const char *images, const char *labels, const tn_features_options *options, tn_features *out) {
    tn_tensor x, y;
    TN_TRY(tn_idx_read(images, &x));
    tn_status status = tn_idx_read(labels, &y);
    if (status == TN_OK)
        status = tn_features_from_tensors(&x, images, &y, labels, options, out);
    tn_free(x.data);
    tn_free(y.data);
    return status;
}

typedef enum set_kind { SET_NONE, SET_IDX, SET_CSV, SET_SAFETENSORS } set_kind;

typedef struct set_files {
    set_kind kind;
    char path[TN_PATH_MAX], labels[TN_PATH_MAX]; /* labels: of IDX */
} set_files;

/* The first spelling of "<part>-<what>-idx<dims>-ubyte" that is there. */
static bool find_idx(const char *folder, const char *part, const char *what, int dims, char out[TN_PATH_MAX]) {
    for (int spelling = 0; spelling < 4; spelling++) {
        char name[64];
        snprintf(name, sizeof name, "%s-%s%cidx%d-ubyte%s", part, what, spelling & 1 ? '.' : '-', dims,
                 spelling & 2 ? ".gz" : "");
        if (tn_path_join(out, folder, name) == TN_OK && tn_path_exists(out))
            return true;
    }
    return false;
}

static tn_status locate_in_folder(const char *folder, tn_features_part part, set_files *files) {
    static const char *const train[] = {"train", NULL}, *const test[] = {"t10k", "test", "valid", NULL};
    static const struct {
        const char *ending;
        set_kind kind;
    } endings[] = {{".csv", SET_CSV}, {".safetensors", SET_SAFETENSORS}};
    const char *const *names = part == TN_FEATURES_TRAIN ? train : test;
    for (int i = 0; names[i]; i++)
        if (find_idx(folder, names[i], "images", 3, files->path)) {
            files->kind = SET_IDX;
            if (find_idx(folder, names[i], "labels", 1, files->labels))
                return TN_OK;
            return tn_fail(TN_ERROR_IO, "%s has no labels beside it: %s-labels-idx1-ubyte, plain or .gz, is missing",
                           files->path, names[i]);
        }
    for (int e = 0; e < 2; e++)
        for (int i = 0; names[i]; i++) {
            char name[32];
            snprintf(name, sizeof name, "%s%s", names[i], endings[e].ending);
            TN_TRY(tn_path_join(files->path, folder, name));
            files->kind = endings[e].kind;
            if (tn_path_exists(files->path))
                return TN_OK;
        }
    files->kind = SET_NONE;
    return TN_OK;
}

static bool ends_with(const char *text, const char *ending) {
    size_t length = strlen(text), tail = strlen(ending);
    return length >= tail && strcmp(text + length - tail, ending) == 0;
}

/* A single file by its name, else by its first bytes. */
static tn_status recognise_file(const char *path, set_files *files) {
    if (snprintf(files->path, sizeof files->path, "%s", path) >= TN_PATH_MAX)
        return tn_fail(TN_ERROR_ARGUMENT, "the path %.100s... is too long", path);
    files->kind = ends_with(path, ".safetensors") ? SET_SAFETENSORS : SET_CSV;
    if (files->kind == SET_SAFETENSORS || ends_with(path, ".csv"))
        return TN_OK;
    tn_mapping mapping;
    TN_TRY(tn_file_map(path, &mapping));
    const uint8_t *b = mapping.data;
    size_t size = mapping.size;
    bool packed = size >= 2 && b[0] == 0x1f && b[1] == 0x8b, idx = size >= 4 && b[0] == 0 && b[1] == 0;
    if (size > 8 && b[8] == '{' && b[6] == 0 && b[7] == 0)
        files->kind = SET_SAFETENSORS;
    tn_file_unmap(&mapping);
    if (files->kind == SET_CSV && (packed || idx))
        return tn_fail(TN_ERROR_ARGUMENT, "%s: give the folder that holds the IDX files of images and of labels", path);
    return TN_OK;
}

static tn_status locate(const char *path, tn_features_part part, set_files *files) {
    if (tn_path_is_dir(path))
        return locate_in_folder(path, part, files);
    return recognise_file(path, files);
}

static tn_status read_set(const char *folder, const set_files *files, const tn_features_options *options, tn_features *out) {
    const char *part = options->part == TN_FEATURES_TRAIN ? "train" : "test";
    *out = (tn_features){0};
    if (options->classes < 0 || options->classes > INT32_MAX || (options->class_names && options->classes < 1))
        return tn_fail(TN_ERROR_ARGUMENT, "there cannot be %lld classes", (long long)options->classes);
    switch (files->kind) {
    case SET_IDX: return read_idx(files->path, files->labels, options, out);
    case SET_CSV: return tn_features_read_csv(files->path, options, out);
    case SET_SAFETENSORS: return read_safetensors(files->path, options, out);
    default: break;
    }
    return tn_fail(TN_ERROR_IO, "%s holds no %sing data: %s-images-idx3-ubyte (plain or .gz), %s.csv or %s.safetensors",
                   folder, part, options->part == TN_FEATURES_TRAIN ? part : "t10k", part, part);
}

tn_status tn_features_read(const char *path, const tn_features_options *options, tn_features *out) {
    set_files files;
    *out = (tn_features){0};
    TN_TRY(locate(path, options->part, &files));
    TN_TRY(read_set(path, &files, options, out));
    tn_status status = tn_features_transform(out, options, files.path);
    if (status != TN_OK)
        tn_features_free(out);
    return status;
}

static tn_status read_second(const char *path, const set_files *files, const tn_features_options *options,
                             const tn_features *train, tn_features *test) {
    tn_features_options like = *options;
    like.part = TN_FEATURES_TEST;
    like.task = train->labels ? TN_FEATURES_CLASSES : TN_FEATURES_TARGETS;
    like.classes = train->classes;
    like.class_names = (const char *const *)train->class_names;
    TN_TRY(read_set(path, files, &like, test));
    bool same = test->ndim == train->ndim && test->outputs == train->outputs;
    for (int i = 0; same && i < train->ndim; i++)
        same = test->shape[i] == train->shape[i];
    if (!same)
        return tn_fail(TN_ERROR_MISMATCH,
                       "%s: its samples of %lld values (%lld outputs) are not shaped as the training set's, "
                       "of %lld (%lld)",
                       files->path, (long long)test->width, (long long)test->outputs, (long long)train->width,
                       (long long)train->outputs);
    return tn_features_transform(test, options, files->path);
}

tn_status tn_features_read_both(const char *path, const tn_features_options *options, tn_features *train,
                                tn_features *test) {
    set_files first, second = {0};
    tn_features_options raw = *options;
    tn_status status;
    raw.part = TN_FEATURES_TRAIN;
    *train = *test = (tn_features){0};
    TN_TRY(locate(path, TN_FEATURES_TRAIN, &first));
    if (tn_path_is_dir(path))
        TN_TRY(locate(path, TN_FEATURES_TEST, &second));
    TN_TRY(read_set(path, &first, &raw, train));
    if (second.kind != SET_NONE)
        TN_TRY_GOTO(read_second(path, &second, options, train, test));
    TN_TRY_GOTO(tn_features_transform(train, options, first.path));
    return TN_OK;
fail:
    tn_features_free(train);
    tn_features_free(test);
    return status;
}
