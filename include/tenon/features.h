/* Sequential models, which map vectors or images to classes or numbers: their data, what they predict, how good it is. */
#ifndef TENON_FEATURES_H
#define TENON_FEATURES_H

#include <tenon/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Samples in memory. Made by hand the arrays are the caller's; made by the functions below they are the set's. */
typedef struct tn_feature_set {
    int64_t count;
    int64_t inputs;        /* numbers per sample; of an image channels * height * width, channel by channel */
    const float *x;        /* [count, inputs] */
    const int32_t *labels; /* [count] classes from 0; of a classification */
    const float *targets;  /* [count, outputs]; of a regression */
    int64_t outputs;       /* numbers per target; 0 with labels */
    void *owner;           /* NULL: made by hand */
} tn_feature_set;

/* How data are read and changed before a model sees them, in this order. Zero-initialised: as they are. */
typedef struct tn_feature_options {
    const int32_t *keep_classes; /* only samples of these classes; NULL: all */
    size_t keep_count;
    bool invert;               /* x = 1 - x; for values in 0..1 */
    int quarter_turns;         /* images turned counter-clockwise by so many times 90 degrees, 0 to 3 */
    double mean, std;          /* x = (x - mean) / std; std 0: not */
    const char *target_column; /* CSV: the column to be predicted by name or number from 1; NULL: the one headed label,
                                  labels, class, target, targets or y, else the last */
} tn_feature_options;

typedef enum tn_feature_part { TN_FEATURE_TRAIN, TN_FEATURE_TEST } tn_feature_part;

/* Reads samples for `model`, whose task and outputs say what labels or targets may be, from
 * - a folder of IDX files as MNIST's (plain or .gz), or with train.csv, or train.safetensors; `part` chooses the set, TEST
 *   being the files named test, t10k or valid;
 * - a CSV file, or a safetensors file with `x` and `labels` or `targets`: the set itself, whatever `part` is;
 * - "digits", where nothing of that name exists: 10000 (TEST: 2000) images of 28 x 28 digits drawn by the library itself,
 * the same every time. options may be NULL. Free with tn_feature_set_free. Errors: TN_ERROR_ARGUMENT (no sequential model),
 * _IO, _FORMAT (naming file, line or sample), _MISMATCH (sizes the model does not take), _MEMORY. */
TN_API tn_status tn_feature_set_load(const tn_model *model, const char *path, tn_feature_part part,
                                     const tn_feature_options *options, tn_feature_set *out);

/* `count` drawn digits of the endless sequence that `seed` names: x [count, 784] in 0..1, labels 0 to 9 in turn. */
TN_API tn_status tn_feature_set_digits(int64_t count, uint64_t seed, tn_feature_set *out);
TN_API void tn_feature_set_free(tn_feature_set *set); /* fine for one made by hand, and for NULL */

/* Outputs [count, outputs] of rows x [count, inputs]: logits of classes, or numbers, with the model's adapters as they are.
 * tn_model_describe tells both sizes. Errors: TN_ERROR_UNSUPPORTED (no sequential model), _ARGUMENT (no rows), _MEMORY. */
TN_API tn_status tn_predict(tn_model *model, const float *x, int64_t count, float *outputs);

/* What a sequential model does on a set. */
typedef struct tn_feature_evaluation {
    double loss;     /* mean cross-entropy, or mean squared error over samples and outputs */
    double accuracy; /* share of samples whose class was found; NaN of a regression */
    double r2;       /* 1 - squared error / variance, over all outputs; NaN of a classification */
    int64_t samples, classes;
    int64_t *confusion; /* [classes, classes] samples by class (rows) and predicted class; NULL of a regression */
    double seconds;
} tn_feature_evaluation;
TN_API void tn_feature_evaluation_free(tn_feature_evaluation *result);

/* Evaluates in passes of `batch_size` samples (0: 256). Errors: TN_ERROR_UNSUPPORTED (no sequential model), _ARGUMENT (an
 * empty set), _MISMATCH (sizes, labels or targets the model does not take), _NUMERIC (a loss that is not finite), _MEMORY.
 */
TN_API tn_status tn_evaluate_features(tn_model *model, const tn_feature_set *set, int64_t batch_size,
                                      tn_feature_evaluation *out);

#ifdef __cplusplus
}
#endif
#endif
