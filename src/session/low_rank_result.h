/* An adapter in the making, module by module, and the report on it: shared by compose, resize and extract. */
#ifndef TN_SESSION_LOW_RANK_RESULT_H
#define TN_SESSION_LOW_RANK_RESULT_H

#include <tenon/compose.h>

#include "peft/factors.h"

typedef struct tn_low_rank_result {
    tn_factor_module *modules;
    tn_low_rank_layer *layers; /* parallel to modules */
    size_t count, capacity;
    tn_arena arena; /* factors and names */
} tn_low_rank_result;

/* Appends a module whose factors are in the arena; `exact` and `difference` are Frobenius norms. */
tn_status tn_low_rank_result_add(tn_low_rank_result *result, const tn_factor_module *module, double exact,
                                 double difference);
void tn_low_rank_result_free(tn_low_rank_result *result);

/* Fills a report that owns what it points to; `rest` is copied. NULL as report is fine. */
tn_status tn_low_rank_result_report(const tn_low_rank_result *result, const tn_rest_tensor *rest, size_t rest_count,
                                    tn_low_rank_report *report);

/* An error when `out` is the folder `dir`: two files cannot be replaced at once. */
tn_status tn_check_other_folder(const char *out, const char *dir);

#endif
