/* Learning-rate schedules and the optimiser over a parameter store. */
#ifndef TN_TRAIN_SCHEDULE_H
#define TN_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "base/error.h"

typedef enum tn_schedule { TN_SCHEDULE_CONSTANT, TN_SCHEDULE_LINEAR, TN_SCHEDULE_COSINE } tn_schedule;

tn_status tn_schedule_from_name(const char *name, tn_schedule *out);

/* The factor on the learning rate after `finished` of `steps` steps, as transformers' get_*_schedule_with_warmup: warmup
 * rises from 0, then 1, a line or half a cosine down to 0. */
double tn_schedule_factor(tn_schedule schedule, int64_t finished, int64_t steps, int64_t warmup);

#endif
