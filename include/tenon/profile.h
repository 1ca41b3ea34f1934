/* Where the time of a run goes, by phase and op. */
#ifndef TENON_PROFILE_H
#define TENON_PROFILE_H

#include <stdint.h>

#include <tenon/error.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tn_phase {
    TN_PHASE_FORWARD,
    TN_PHASE_RECOMPUTATION, /* of activations that were dropped to save memory */
    TN_PHASE_BACKWARD,
    TN_PHASE_OPTIMIZER,
    TN_PHASE_DATA,
    TN_PHASE_OTHER, /* validation, checkpoints and metrics */
    TN_PHASES       /* their number */
} tn_phase;

/* "forward", "recomputation", ...; never NULL. */
TN_API const char *tn_phase_name(tn_phase phase);

typedef struct tn_profile_row {
    tn_phase phase;
    const char *op; /* "linear", "attention", ...; static text */
    int64_t calls;
    double seconds;
    double flops; /* 2 for each multiply-add of its matrix products; 0 for ops that are none */
} tn_profile_row;

enum { TN_PROFILE_ROWS = 96 };

/* Zero-initialise. Runs that are given one add to it. */
typedef struct tn_profile {
    tn_profile_row rows[TN_PROFILE_ROWS]; /* as they first came up; should there be more, the last one holds the rest */
    int64_t count;
    double seconds; /* of the whole; what is in no row was spent between ops */
} tn_profile;

#ifdef __cplusplus
}
#endif
#endif
