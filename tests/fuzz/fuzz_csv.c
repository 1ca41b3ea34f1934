/* Any bytes as a CSV file (or what its first bytes say it is): records, and features with every kind of answer. */
#include <math.h>

#include "base/memory.h"
#include "data/features.h"
#include "format/csv.h"
#include "fuzz.h"

static void read_records(const char *path) {
    tn_csv reader;
    if (tn_csv_open(&reader, path, 0) != TN_OK)
        return;
    while (tn_csv_next(&reader) == TN_OK && reader.columns)
        for (int64_t i = 0; i < reader.columns; i++)
            fuzz_read(tn_csv_field(&reader, i), strlen(tn_csv_field(&reader, i)));
    tn_csv_close(&reader);
}

static void pack_all(const tn_features *f) {
    tn_epoch_order order;
    int64_t rows = 0;
    float *x = malloc((size_t)(2 * f->width) * sizeof *x), *targets = malloc((size_t)(2 * f->outputs) * sizeof *targets);
    int32_t labels[2];
    fuzz_require(x && targets && tn_epoch_order_init(&order, f->count, 2, true, 1) == TN_OK);
    for (int64_t i = 0; i < order.per_epoch; i++)
        rows += tn_features_batch(f, &order, i, x, labels, targets);
    fuzz_require(rows == f->count);
    tn_epoch_order_free(&order);
    free(targets);
    free(x);
}

static void use(tn_features *f) {
    tn_features valid;
    fuzz_require(f->count > 0 && f->width > 0 && !f->labels == !f->classes && !f->targets == !f->outputs);
    for (int64_t i = 0; i < f->count * f->width; i++)
        fuzz_require(isfinite(f->x[i]));
    for (int64_t i = 0; f->labels && i < f->count; i++)
        fuzz_require(f->labels[i] >= 0 && f->labels[i] < f->classes);
    fuzz_require(tn_features_split(f, &valid, 0.3, 1) == TN_OK);
    pack_all(f);
    tn_features_free(&valid);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const int32_t kept[] = {1, 0};
    static const char *const names[] = {"setosa", "1"};
    const tn_features_options options[] = {
        {0},
        {.task = TN_FEATURES_CLASSES, .header = TN_HEADER_ABSENT, .target = "1"},
        {.task = TN_FEATURES_TARGETS, .header = TN_HEADER_PRESENT, .separator = ';', .quarter_turns = 1},
        {.classes = 2, .class_names = names},
        {.keep_classes = kept, .keep_count = 2, .remap = true, .invert = true},
    };
    const char *path = fuzz_file(data, size);
    size_t before = tn_memory_used();
    read_records(path);
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        tn_features features;
        if (tn_features_read(path, &options[i], &features) == TN_OK)
            use(&features);
        tn_features_free(&features);
        fuzz_require(tn_memory_used() == before);
    }
    return 0;
}
