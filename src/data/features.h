/* Data of plain networks: vectors or images with a class or with numbers to be predicted. */
#ifndef TN_DATA_FEATURES_H
#define TN_DATA_FEATURES_H

#include "data/order.h"
#include "tensor/tensor.h"

/* Exactly one of labels and targets is there. */
typedef struct tn_features {
    int64_t count, width;
    int ndim;                   /* of one sample */
    int64_t shape[TN_MAX_DIMS]; /* of one sample: [width], or [channels, height, width] for images; its product is `width` */
    float *x;                   /* [count, width], finite */
    int32_t *labels;            /* [count] in [0, classes) */
    float *targets;             /* [count, outputs], finite */
    int64_t classes, outputs;   /* the one that does not apply is 0 */
    char **class_names;         /* [classes]; NULL when the file has numbers for classes */
    uint64_t hash;              /* of sizes, x, labels and targets */
} tn_features;

void tn_features_free(tn_features *features);

/* Which set of a folder. TEST takes files named test (t10k in MNIST's family), or valid where there is no test. */
typedef enum tn_features_part { TN_FEATURES_TRAIN, TN_FEATURES_TEST } tn_features_part;

typedef enum tn_features_task {
    TN_FEATURES_AUTO, /* text and whole numbers are classes, other numbers are targets */
    TN_FEATURES_CLASSES,
    TN_FEATURES_TARGETS
} tn_features_task;

typedef enum tn_csv_header { TN_HEADER_AUTO, TN_HEADER_PRESENT, TN_HEADER_ABSENT } tn_csv_header;

/* All zero: as the files have it. What is done to x comes in this order: invert, rotate, normalise. */
typedef struct tn_features_options {
    tn_features_part part; /* for folders; a single file is the set that is asked for */
    tn_features_task task;
    int64_t classes;                /* labels reach from 0 to classes - 1; 0: as many as the labels need */
    const char *const *class_names; /* [classes] of a set read before, to number text classes alike; or NULL */
    bool invert;                    /* x = 1 - x; values must lie in 0..1 */
    int quarter_turns;              /* images turned counter-clockwise by so many times 90 degrees, 0 to 3 */
    const float *mean, *std;        /* x = (x - mean) / std; both or neither */
    int64_t norm_count;             /* of mean and std: 1, or one for each entry of a sample's first dimension */
    const int32_t *keep_classes;    /* only samples of these classes stay; NULL: all */
    int64_t keep_count;             /* of keep_classes */
    bool remap;                     /* kept classes become 0..keep_count-1 in the order of keep_classes */
    tn_csv_header header;           /* AUTO: a first row whose features are all no numbers is a header */
    const char *target;             /* CSV: name in the header, or number from 1, of the column to be predicted. NULL: the
                                       one headed label, labels, class, target, targets or y, else the last */
    char separator;                 /* CSV: 0 is a comma */
} tn_features_options;

/* Reads one set into `out`, which is overwritten and left empty by an error. `path` is
 * - a folder with IDX files named {train,t10k,test}-{images-idx3,labels-idx1}-ubyte[.gz], or with '.' before idx; or with
 *   train.csv, or train.safetensors, and their test or valid; looked for in this order;
 * - a CSV file: numbers and one column of labels or targets;
 * - a safetensors file: `x` [N, ...] of floats or u8, and one of `label`, `labels`, `target`, `targets`: integers [N] are
 *   classes, floats [N] or [N, K] targets.
 * u8 values are scaled to value / 255; images [N, H, W] become samples of shape [1, H, W]. Errors name the file, and where
 * there is one the line and column or the sample: values that are not finite, labels out of range, counts that differ,
 * nothing in it, more than 2^31 - 1 samples, 65536 classes or more without `classes`. */
tn_status tn_features_read(const char *path, const tn_features_options *options, tn_features *out);

/* Reads both sets of a folder, the second with the classes of the first (options->part is ignored), and checks that their
 * samples have one shape. A file, or a folder without a second set, leaves `test` empty (count 0). */
tn_status tn_features_read_both(const char *path, const tn_features_options *options, tn_features *train, tn_features *test);

/* Applies what `options` says of invert, quarter_turns, mean, std, keep_classes and remap; `where` begins its errors. On
 * failure the set may be half done: free it. Reading does this already; it is for sets that come from elsewhere. */
tn_status tn_features_transform(tn_features *features, const tn_features_options *options, const char *where);

/* Mean and standard deviation (of the population; 1 where it is 0) of each entry of a sample's first dimension, over all
 * samples: `mean` and `std` hold shape[0] values each. What options->mean and std want, from the training set. */
void tn_features_measure(const tn_features *features, float *mean, float *std);

/* Moves a validation set, chosen as tn_dataset_split does, into `valid`, which is overwritten. Both keep their order. */
tn_status tn_features_split(tn_features *train, tn_features *valid, double fraction, uint64_t seed);

/* Copies the samples of batch `index` of `order` (made for features->count) to x [rows, width] and to labels [rows] or
 * targets [rows, outputs], whichever the set has; returns rows. Room for order->batch_size rows is the caller's. */
int64_t tn_features_batch(const tn_features *features, tn_epoch_order *order, int64_t index, float *x, int32_t *labels,
                          float *targets);

/* Renews `hash` after changes by hand. */
void tn_features_rehash(tn_features *features);

#endif
