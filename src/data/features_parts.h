/* What the readers of features share. */
#ifndef TN_DATA_FEATURES_PARTS_H
#define TN_DATA_FEATURES_PARTS_H

#include "data/features.h"

/* Fills a set from x [N, ...] of floats or u8 and y, integers [N] or floats [N] or [N, K], which are copied; no transforms
 * yet. `where_x` and `where_y` begin the errors. */
tn_status tn_features_from_tensors(const tn_tensor *x, const char *where_x, const tn_tensor *y, const char *where_y,
                                   const tn_features_options *options, tn_features *out);

/* A CSV file, no transforms yet. */
tn_status tn_features_read_csv(const char *path, const tn_features_options *options, tn_features *out);

/* Frees class names [count] and their array; NULL is fine. */
void tn_class_names_free(char **names, int64_t count);

/* Copies of names [count]; NULL when memory is short. */
char **tn_class_names_copy(const char *const *names, int64_t count);

/* The classes that labels up to `largest` need, or options->classes when that is given; an error where they do not fit. */
tn_status tn_count_classes(int64_t largest, const tn_features_options *options, const char *where, int64_t *classes);

#endif
