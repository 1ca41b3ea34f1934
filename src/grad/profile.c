/* A few dozen rows, found by walking them: much less work than any op. */
#include "grad/profile.h"

#include <string.h>

const char *tn_phase_name(tn_phase phase) {
    static const char *const names[TN_PHASES] = {"forward", "recomputation", "backward", "optimiser", "data", "other"};
    return phase < TN_PHASES ? names[phase] : "unknown";
}

static tn_profile_row *find_row(tn_profile *profile, tn_phase phase, const char *op) {
    for (int64_t i = 0; i < profile->count; i++) {
        tn_profile_row *row = &profile->rows[i];
        if (row->phase == phase && (row->op == op || strcmp(row->op, op) == 0))
            return row;
    }
    if (profile->count == TN_PROFILE_ROWS) {
        profile->rows[TN_PROFILE_ROWS - 1].op = "rest";
        return &profile->rows[TN_PROFILE_ROWS - 1];
    }
    tn_profile_row *row = &profile->rows[profile->count++];
    *row = (tn_profile_row){.phase = phase, .op = op};
    return row;
}

void tn_profile_add(tn_profile *profile, tn_phase phase, const char *op, double seconds, double flops) {
    tn_profile_row *row = find_row(profile, phase, op);
    row->calls++;
    row->seconds += seconds;
    row->flops += flops;
}

void tn_profile_merge(tn_profile *profile, const tn_profile_row *from) {
    tn_profile_row *row = find_row(profile, from->phase, from->op);
    row->calls += from->calls;
    row->seconds += from->seconds;
    row->flops += from->flops;
}

tn_profile_row tn_profile_sum(const tn_profile *profile, tn_phase phase, const char *op) {
    tn_profile_row sum = {.phase = phase, .op = op ? op : "all"};
    for (int64_t i = 0; i < profile->count; i++) {
        const tn_profile_row *row = &profile->rows[i];
        if (row->phase != phase || (op && strcmp(row->op, op) != 0))
            continue;
        sum.calls += row->calls;
        sum.seconds += row->seconds;
        sum.flops += row->flops;
    }
    return sum;
}
