/* Every heap allocation carries a header with its size, so that the bytes in use are always known. */
#include "base/memory.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef union {
    size_t size;
    max_align_t align;
} header;

static atomic_size_t used;
static atomic_llong fail_countdown = -1;

static bool should_fail(void) {
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) < 0)
        return false;
    return atomic_fetch_sub(&fail_countdown, 1) == 0;
}

void tn_memory_fail_after(int64_t count) {
    atomic_store(&fail_countdown, count);
}

size_t tn_memory_used(void) {
    return atomic_load(&used);
}

static void *track(header *block, size_t size) {
    if (!block)
        return NULL;
    block->size = size;
    atomic_fetch_add(&used, size);
    return block + 1;
}

void *tn_malloc(size_t size) {
    if (size > SIZE_MAX - sizeof(header) || should_fail())
        return NULL;
    return track(malloc(sizeof(header) + size), size);
}

void *tn_calloc(size_t count, size_t size) {
    if (size && count > (SIZE_MAX - sizeof(header)) / size)
        return NULL;
    if (should_fail())
        return NULL;
    return track(calloc(1, sizeof(header) + count * size), count * size);
}

void *tn_realloc_array(void *old, size_t count, size_t size) {
    if (size && count > (SIZE_MAX - sizeof(header)) / size)
        return NULL;
    if (!old)
        return tn_malloc(count * size);
    if (should_fail())
        return NULL;
    header *block = (header *)old - 1;
    size_t old_size = block->size;
    block = realloc(block, sizeof(header) + count * size);
    if (!block)
        return NULL;
    atomic_fetch_sub(&used, old_size);
    return track(block, count * size);
}

void tn_free(void *pointer) {
    if (!pointer)
        return;
    header *block = (header *)pointer - 1;
    atomic_fetch_sub(&used, block->size);
    free(block);
}

char *tn_strndup(const char *text, size_t length) {
    char *copy = tn_malloc(length + 1);
    if (copy) {
        memcpy(copy, text, length);
        copy[length] = 0;
    }
    return copy;
}

char *tn_strdup(const char *text) {
    return tn_strndup(text, strlen(text));
}

bool tn_mul_i64(int64_t a, int64_t b, int64_t *result) {
    return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, result);
}

bool tn_add_i64(int64_t a, int64_t b, int64_t *result) {
    return a >= 0 && b >= 0 && !__builtin_add_overflow(a, b, result);
}

void tn_pages_ask_huge(const void *pages, size_t size) {
#ifdef MADV_HUGEPAGE
    if (size >= TN_HUGE_REGION)
        madvise((void *)(uintptr_t)pages, size, MADV_HUGEPAGE);
#endif
}

void *tn_pages_alloc(size_t size) {
    if (should_fail())
        return NULL;
    if (size == 0)
        size = 1;
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
    tn_pages_ask_huge(pages, size);
    atomic_fetch_add(&used, size);
    return pages;
}

void tn_pages_free(void *pages, size_t size) {
    if (!pages)
        return;
    if (size == 0)
        size = 1;
    munmap(pages, size);
    atomic_fetch_sub(&used, size);
}

enum { ARENA_BLOCK = 16 << 10 };

struct tn_arena_block {
    struct tn_arena_block *next;
    size_t size, filled;
    max_align_t data[];
};

void *tn_arena_alloc(tn_arena *arena, size_t size) {
    size_t rounded = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    if (rounded < size)
        return NULL;
    struct tn_arena_block *block = arena->blocks;
    if (!block || block->size - block->filled < rounded) {
        size_t capacity = rounded > ARENA_BLOCK ? rounded : ARENA_BLOCK;
        if (capacity > SIZE_MAX - sizeof *block)
            return NULL;
        block = tn_calloc(1, sizeof *block + capacity);
        if (!block)
            return NULL;
        block->size = capacity;
        block->next = arena->blocks;
        arena->blocks = block;
    }
    void *result = (char *)block->data + block->filled;
    block->filled += rounded;
    return result;
}

void *tn_arena_array(tn_arena *arena, size_t count, size_t size) {
    if (size && count > SIZE_MAX / 2 / size)
        return NULL;
    return tn_arena_alloc(arena, count * size);
}

char *tn_arena_strndup(tn_arena *arena, const char *text, size_t length) {
    char *copy = tn_arena_alloc(arena, length + 1);
    if (copy)
        memcpy(copy, text, length);
    return copy;
}

char *tn_arena_strdup(tn_arena *arena, const char *text) {
    return tn_arena_strndup(arena, text, strlen(text));
}

char *tn_arena_printf(tn_arena *arena, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = length < 0 ? NULL : tn_arena_alloc(arena, (size_t)length + 1);
    if (text)
        vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

void tn_arena_free(tn_arena *arena) {
    for (struct tn_arena_block *block = arena->blocks, *next; block; block = next) {
        next = block->next;
        tn_free(block);
    }
    arena->blocks = NULL;
}

enum { PAGE_ALIGN = 64 };
static const size_t LEAST_REGION = (size_t)1 << 20, MOST_REGION = (size_t)32 << 20;

struct tn_page_region {
    struct tn_page_region *next;
    char *pages;
    size_t size, filled;
};

/* As large as all regions so far, within bounds. */
static struct tn_page_region *add_region(tn_page_arena *arena, size_t least) {
    size_t size = 0;
    for (const struct tn_page_region *region = arena->regions; region; region = region->next)
        size += region->size;
    size = size < LEAST_REGION ? LEAST_REGION : size > MOST_REGION ? MOST_REGION : size;
    struct tn_page_region *region = tn_calloc(1, sizeof *region);
    if (!region)
        return NULL;
    region->size = size < least ? least : size;
    region->pages = tn_pages_alloc(region->size);
    if (!region->pages) {
        tn_free(region);
        return NULL;
    }
    region->next = arena->regions;
    return arena->regions = region;
}

void *tn_page_arena_alloc(tn_page_arena *arena, size_t size) {
    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size + PAGE_ALIGN - 1) / PAGE_ALIGN * PAGE_ALIGN;
    struct tn_page_region *region = arena->regions;
    if (!region || region->size - region->filled < size)
        region = add_region(arena, size);
    if (!region)
        return NULL;
    region->filled += size;
    return region->pages + region->filled - size;
}

void tn_page_arena_free(tn_page_arena *arena) {
    for (struct tn_page_region *region = arena->regions, *next; region; region = next) {
        next = region->next;
        tn_pages_free(region->pages, region->size);
        tn_free(region);
    }
    *arena = (tn_page_arena){0};
}
