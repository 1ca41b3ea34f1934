/* f(k) = k / warmup below warmup; then 1, (steps - k) / (steps - warmup), or (1 + cos(pi (k - warmup) / (steps - warmup)))
 * / 2. */
#include "train/schedule.h"

#include <math.h>
#include <string.h>

tn_status tn_schedule_from_name(const char *name, tn_schedule *out) {
    static const char *const names[] = {"constant", "linear", "cosine"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (tn_schedule)i;
            return TN_OK;
        }
    }
    return tn_fail(TN_ERROR_ARGUMENT, "schedule '%s' is not one of constant, linear, cosine", name);
}

double tn_schedule_factor(tn_schedule schedule, int64_t finished, int64_t steps, int64_t warmup) {
    if (finished < warmup)
        return (double)finished / (double)warmup;
    double span = steps > warmup ? (double)(steps - warmup) : 1, done = (double)(finished - warmup) / span;
    switch (schedule) {
    case TN_SCHEDULE_CONSTANT: return 1;
    case TN_SCHEDULE_LINEAR: return fmax(0, (double)(steps - finished) / span);
    case TN_SCHEDULE_COSINE: return fmax(0, 0.5 * (1 + cos(3.14159265358979323846 * done)));
    }
    return 1;
}
