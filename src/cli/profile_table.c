/* profile                  calls   seconds  share    GFLOP  GFLOP/s */
#include "cli/profile_table.h"

#include <stdio.h>
#include <stdlib.h>

#include "grad/profile.h"

static int by_seconds(const void *a, const void *b) {
    const tn_profile_row *x = a, *y = b;
    return x->seconds < y->seconds ? 1 : x->seconds > y->seconds ? -1 : 0;
}

static void print_row(const char *name, int indent, const tn_profile_row *row, double whole) {
    printf("%*s%-*s ", indent, "", 22 - indent, name);
    if (row->calls)
        printf("%9lld", (long long)row->calls);
    else
        printf("%9s", "");
    printf(" %9.3f %5.1f %%", row->seconds, whole > 0 ? 100 * row->seconds / whole : 0);
    if (row->flops > 0)
        printf(" %10.2f %8.1f", row->flops / 1e9, row->seconds > 0 ? row->flops / row->seconds / 1e9 : 0);
    printf("\n");
}

static void print_phase(const tn_profile *profile, tn_phase phase) {
    tn_profile_row rows[TN_PROFILE_ROWS], sum = tn_profile_sum(profile, phase, NULL);
    size_t count = 0;
    if (!sum.calls)
        return;
    sum.calls = 0;
    print_row(tn_phase_name(phase), 0, &sum, profile->seconds);
    for (int64_t i = 0; i < profile->count; i++)
        if (profile->rows[i].phase == phase)
            rows[count++] = profile->rows[i];
    qsort(rows, count, sizeof *rows, by_seconds);
    for (size_t i = 0; i < count; i++)
        print_row(rows[i].op, 2, &rows[i], profile->seconds);
}

void tn_cli_print_profile(const tn_profile *profile) {
    tn_profile_row between = {.seconds = profile->seconds}, whole = {.seconds = profile->seconds};
    printf("\n%-22s %9s %9s %7s %10s %8s\n", "profile", "calls", "seconds", "share", "GFLOP", "GFLOP/s");
    for (int phase = 0; phase < TN_PHASES; phase++) {
        tn_profile_row sum = tn_profile_sum(profile, (tn_phase)phase, NULL);
        print_phase(profile, (tn_phase)phase);
        between.seconds -= sum.seconds;
        whole.flops += sum.flops;
    }
    print_row("between ops", 0, &between, profile->seconds);
    print_row("whole", 0, &whole, profile->seconds);
}
