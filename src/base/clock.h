/* Time, and what the system says of this process and machine. */
#ifndef TN_BASE_CLOCK_H
#define TN_BASE_CLOCK_H

#include <stdint.h>

double tn_seconds(void);            /* monotonic */
uint64_t tn_memory_peak(void);      /* bytes: largest resident set of this process so far; 0 when unknown */
uint64_t tn_memory_resident(void);  /* bytes: resident set now; 0 when unknown */
uint64_t tn_memory_available(void); /* bytes the machine can still give; 0 when unknown */

#endif
