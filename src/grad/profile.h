/* Adding up where time goes; <tenon/profile.h> has the sums. */
#ifndef TN_GRAD_PROFILE_H
#define TN_GRAD_PROFILE_H

#include <tenon/profile.h>

/* One more call of `op`, which must be a literal. */
void tn_profile_add(tn_profile *profile, tn_phase phase, const char *op, double seconds, double flops);

/* Adds a row of another profile. */
void tn_profile_merge(tn_profile *profile, const tn_profile_row *row);

/* The row's sums; zeros when there is none. op NULL: all ops of the phase. */
tn_profile_row tn_profile_sum(const tn_profile *profile, tn_phase phase, const char *op);

#endif
