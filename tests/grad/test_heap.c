/* Placement of blocks in a step's memory. */
#include "support/support.h"

#include "grad/heap.h"

enum { BLOCKS = 300, TURNS = 20000 };

typedef struct {
    int64_t offset, size;
    bool taken;
} block;

static int64_t padded(int64_t size) {
    return (size + TN_HEAP_ALIGN - 1) / TN_HEAP_ALIGN * TN_HEAP_ALIGN;
}

static void assert_apart(const block *blocks, int at) {
    const block *b = &blocks[at];
    assert_int_equal(b->offset % TN_HEAP_ALIGN, 0);
    for (int i = 0; i < BLOCKS; i++) {
        const block *other = &blocks[i];
        bool apart = i == at || !other->taken || b->size == 0 || other->size == 0 || b->offset + b->size <= other->offset ||
                     other->offset + other->size <= b->offset;
        assert_true(apart);
    }
}

/* Holes are sorted, apart from each other, and below the top. */
static void assert_holes_in_order(const tn_heap *heap) {
    int64_t end = -1;
    for (int64_t i = 0; i < heap->hole_count; i++) {
        assert_true(heap->holes[i].offset > end && heap->holes[i].size > 0);
        end = heap->holes[i].offset + heap->holes[i].size;
    }
    assert_true(end < heap->top);
}

static void random_blocks_never_overlap(void **state) {
    (void)state;
    static block blocks[BLOCKS];
    tn_heap heap;
    tn_rng rng = tn_rng_start(3, 1);
    int64_t in_use = 0;
    assert_ok(tn_heap_init(&heap, 0));
    for (int turn = 0; turn < TURNS; turn++) {
        int at = (int)tn_rng_below(&rng, BLOCKS);
        block *b = &blocks[at];
        if (b->taken) {
            tn_heap_give(&heap, b->offset, b->size);
            in_use -= padded(b->size);
            b->taken = false;
        } else {
            b->size = tn_rng_below(&rng, tn_rng_below(&rng, 4) ? 300 : 5000);
            b->offset = tn_heap_take(&heap, b->size);
            assert_true(b->offset >= 0);
            b->taken = true;
            in_use += padded(b->size);
            assert_apart(blocks, at);
        }
        assert_true(heap.top >= in_use && heap.peak >= heap.top);
        if (turn % 100 == 0)
            assert_holes_in_order(&heap);
    }
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].taken)
            tn_heap_give(&heap, blocks[i].offset, blocks[i].size);
    assert_int_equal(heap.top, 0);
    assert_int_equal(heap.hole_count, 0);
    tn_heap_free(&heap);
}

/* The same requests to both; the real one holds exactly what the rehearsal found. */
static void rehearsal_gives_the_offsets_and_the_peak(void **state) {
    (void)state;
    enum { REQUESTS = 64 };
    tn_heap rehearsal, real;
    int64_t offsets[REQUESTS], peak = 0;
    for (int run = 0; run < 2; run++) {
        tn_heap *heap = run ? &real : &rehearsal;
        assert_ok(tn_heap_init(heap, run ? peak : 0));
        for (int i = 0; i < REQUESTS; i++) {
            int64_t offset = tn_heap_take(heap, 100 + 37 * i % 500);
            assert_true(offset >= 0);
            assert_true(!run || offset == offsets[i]);
            offsets[i] = offset;
            if (run)
                memset(heap->region + offset, i, (size_t)(100 + 37 * i % 500));
            if (i % 3 == 2)
                tn_heap_give(heap, offsets[i - 1], 100 + 37 * (i - 1) % 500);
        }
        peak = heap->peak;
    }
    assert_int_equal(real.peak, rehearsal.peak);
    assert_int_equal(real.reserved, real.peak);
    tn_heap_free(&real);
    tn_heap_free(&rehearsal);
}

static void smallest_hole_that_fits_is_taken(void **state) {
    (void)state;
    tn_heap heap;
    assert_ok(tn_heap_init(&heap, 0));
    int64_t wide = tn_heap_take(&heap, 640), wall = tn_heap_take(&heap, 64), narrow = tn_heap_take(&heap, 128);
    int64_t end = tn_heap_take(&heap, 64);
    tn_heap_give(&heap, wide, 640);
    tn_heap_give(&heap, narrow, 128);
    assert_int_equal(tn_heap_take(&heap, 100), narrow);
    assert_int_equal(tn_heap_take(&heap, 100), wide);
    assert_int_equal(tn_heap_take(&heap, 1000), end + 64);
    (void)wall;
    tn_heap_free(&heap);
}

static void exhausted_region_and_absurd_sizes_are_refused(void **state) {
    (void)state;
    tn_heap heap;
    assert_ok(tn_heap_init(&heap, 1024));
    int64_t first = tn_heap_take(&heap, 1000);
    assert_int_equal(first, 0);
    assert_int_equal(tn_heap_take(&heap, 1), -1);
    tn_heap_give(&heap, first, 1000);
    assert_int_equal(tn_heap_take(&heap, 1025), -1);
    assert_int_equal(tn_heap_take(&heap, -1), -1);
    assert_int_equal(tn_heap_take(&heap, INT64_MAX), -1);
    assert_int_equal(tn_heap_take(&heap, 1024), 0);
    tn_heap_reset(&heap);
    assert_int_equal(tn_heap_take(&heap, 1024), 0);
    assert_int_equal(heap.peak, 1024);
    tn_heap_free(&heap);
    assert_fails(tn_heap_init(&heap, INT64_MAX / 2), TN_ERROR_MEMORY, "cannot reserve");
}

/* Without memory for another hole the block is lost until the reset, but nothing else is. */
static void bookkeeping_without_memory_loses_only_the_block(void **state) {
    (void)state;
    tn_heap heap;
    assert_ok(tn_heap_init(&heap, 0));
    int64_t a = tn_heap_take(&heap, 64), b = tn_heap_take(&heap, 64);
    tn_memory_fail_after(0);
    tn_heap_give(&heap, a, 64);
    tn_memory_fail_after(-1);
    assert_int_equal(tn_heap_take(&heap, 64), b + 64);
    tn_heap_reset(&heap);
    assert_int_equal(tn_heap_take(&heap, 64), 0);
    tn_heap_free(&heap);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_blocks_never_overlap),
        cmocka_unit_test(rehearsal_gives_the_offsets_and_the_peak),
        cmocka_unit_test(smallest_hole_that_fits_is_taken),
        cmocka_unit_test(exhausted_region_and_absurd_sizes_are_refused),
        cmocka_unit_test(bookkeeping_without_memory_loses_only_the_block),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
