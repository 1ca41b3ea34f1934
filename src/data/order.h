/* In which order samples are seen: epochs, each shuffled by (seed, epoch), cut into batches. */
#ifndef TN_DATA_ORDER_H
#define TN_DATA_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* The samples 0..count-1 of a whole run in batches of `batch_size`, numbered from 0 through all epochs; the last one of an
 * epoch may be smaller. Any of them can be had at any time, so a run is resumed by a number. Not for concurrent use: it
 * holds the permutation of one epoch. Epochs beyond 2^32 repeat. */
typedef struct tn_epoch_order {
    int64_t count, batch_size, per_epoch;
    bool shuffled;
    uint64_t seed;
    int64_t epoch;        /* that `permutation` holds */
    int64_t *permutation; /* [count]; NULL in the order of the data */
} tn_epoch_order;

/* count and batch_size must be at least 1. Free with tn_epoch_order_free; a failed init needs none. */
tn_status tn_epoch_order_init(tn_epoch_order *order, int64_t count, int64_t batch_size, bool shuffled, uint64_t seed);
void tn_epoch_order_free(tn_epoch_order *order);

/* Places [*first, *end) of its epoch that batch `index` >= 0 takes; tn_epoch_order_at then speaks of that epoch. */
void tn_epoch_order_places(tn_epoch_order *order, int64_t index, int64_t *first, int64_t *end);

/* The sample at a place of the epoch asked for last. */
int64_t tn_epoch_order_at(const tn_epoch_order *order, int64_t place);

/* Marks round(fraction * count) samples, at least one and never all when there are two or more, by seed: chosen[i] of
 * [count]; *moved counts them. A fraction of 0 marks none; one outside [0, 1) is an error. What both splits share. */
tn_status tn_choose_validation(bool *chosen, int64_t count, double fraction, uint64_t seed, int64_t *moved);

#endif
