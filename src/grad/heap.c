/* Best-fit placement over a sorted list of holes. */
#include "grad/heap.h"

#include <string.h>

#include "base/memory.h"

tn_status tn_heap_init(tn_heap *heap, int64_t reserve) {
    *heap = (tn_heap){.reserved = reserve};
    if (reserve > 0) {
        heap->region = tn_pages_alloc((size_t)reserve);
        if (!heap->region)
            return tn_fail(TN_ERROR_MEMORY, "cannot reserve %.1f MB for activations", (double)reserve / 1e6);
    }
    return TN_OK;
}

void tn_heap_free(tn_heap *heap) {
    tn_pages_free(heap->region, (size_t)heap->reserved);
    tn_free(heap->holes);
    *heap = (tn_heap){0};
}

void tn_heap_reset(tn_heap *heap) {
    heap->top = 0;
    heap->hole_count = 0;
}

static int64_t rounded(int64_t size) {
    return (size + TN_HEAP_ALIGN - 1) / TN_HEAP_ALIGN * TN_HEAP_ALIGN;
}

static void remove_hole(tn_heap *heap, int64_t at) {
    heap->hole_count--;
    memmove(&heap->holes[at], &heap->holes[at + 1], (size_t)(heap->hole_count - at) * sizeof *heap->holes);
}

int64_t tn_heap_take(tn_heap *heap, int64_t size) {
    if (size < 0 || size > INT64_MAX / 4)
        return -1;
    size = rounded(size);
    int64_t best = -1;
    for (int64_t i = 0; i < heap->hole_count; i++)
        if (heap->holes[i].size >= size && (best < 0 || heap->holes[i].size < heap->holes[best].size))
            best = i;
    if (best >= 0) {
        tn_hole *hole = &heap->holes[best];
        int64_t offset = hole->offset;
        hole->offset += size;
        hole->size -= size;
        if (hole->size == 0)
            remove_hole(heap, best);
        return offset;
    }
    int64_t offset = heap->top;
    if (heap->region && offset + size > heap->reserved)
        return -1;
    heap->top += size;
    if (heap->top > heap->peak)
        heap->peak = heap->top;
    return offset;
}

void tn_heap_give(tn_heap *heap, int64_t offset, int64_t size) {
    size = rounded(size);
    if (size == 0)
        return;
    int64_t at = 0;
    while (at < heap->hole_count && heap->holes[at].offset < offset)
        at++;
    tn_hole *before = at > 0 ? &heap->holes[at - 1] : NULL, *after = at < heap->hole_count ? &heap->holes[at] : NULL;
    bool joins_before = before && before->offset + before->size == offset;
    bool joins_after = after && offset + size == after->offset;
    if (joins_before && joins_after) {
        before->size += size + after->size;
        remove_hole(heap, at);
        at--;
    } else if (joins_before) {
        before->size += size;
        at--;
    } else if (joins_after) {
        after->offset = offset;
        after->size += size;
    } else {
        if (heap->hole_count == heap->hole_capacity) {
            int64_t capacity = heap->hole_capacity ? heap->hole_capacity * 2 : 256;
            tn_hole *holes = tn_realloc_array(heap->holes, (size_t)capacity, sizeof *holes);
            if (!holes)
                return; /* the block stays taken until the next reset */
            heap->holes = holes;
            heap->hole_capacity = capacity;
        }
        memmove(&heap->holes[at + 1], &heap->holes[at], (size_t)(heap->hole_count - at) * sizeof *heap->holes);
        heap->holes[at] = (tn_hole){offset, size};
        heap->hole_count++;
    }
    if (heap->holes[at].offset + heap->holes[at].size == heap->top) {
        heap->top = heap->holes[at].offset;
        remove_hole(heap, at);
    }
}
