/* Memory of one step: blocks inside a single region, placed best-fit. The same sequence of requests always lands on the same
 * offsets, so a rehearsal without memory (no region) tells exactly how large the region must be. */
#ifndef TN_GRAD_HEAP_H
#define TN_GRAD_HEAP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct tn_hole {
    int64_t offset, size;
} tn_hole;

typedef struct tn_heap {
    char *region;     /* NULL in a rehearsal */
    int64_t reserved; /* bytes of the region */
    int64_t top;      /* end of the highest block */
    int64_t peak;     /* largest `top` so far */
    tn_hole *holes;   /* free space below `top`, by offset */
    int64_t hole_count, hole_capacity;
} tn_heap;

enum { TN_HEAP_ALIGN = 64 };

/* reserve = 0 makes a rehearsal heap. Untouched reserve costs no memory. */
tn_status tn_heap_init(tn_heap *heap, int64_t reserve);
void tn_heap_free(tn_heap *heap);

/* Offset of a new block, or -1 when the region is exhausted or the bookkeeping cannot grow. */
int64_t tn_heap_take(tn_heap *heap, int64_t size);
void tn_heap_give(tn_heap *heap, int64_t offset, int64_t size);

/* Forgets all blocks; keeps the region and the peak. */
void tn_heap_reset(tn_heap *heap);

#endif
