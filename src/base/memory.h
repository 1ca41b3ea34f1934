/* Counting allocator, checked size arithmetic, page-backed regions and arenas of small objects. */
#ifndef TN_BASE_MEMORY_H
#define TN_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* malloc and friends with the bytes in use counted. NULL on failure or on overflow of count * size; the caller turns
 * that into tn_fail_memory. A size of 0 gives a valid pointer. tn_free(NULL) is fine. */
void *tn_malloc(size_t size);
void *tn_calloc(size_t count, size_t size);
void *tn_realloc_array(void *old, size_t count, size_t size);
void tn_free(void *pointer);
char *tn_strdup(const char *text);
char *tn_strndup(const char *text, size_t length);

/* Bytes now allocated through this file (heap and pages). */
size_t tn_memory_used(void);

/* Test hook: the allocation after `count` more successful ones fails, once; negative switches off. */
void tn_memory_fail_after(int64_t count);

/* result = a * b or a + b; false on overflow or when a or b is negative. */
bool tn_mul_i64(int64_t a, int64_t b, int64_t *result);
bool tn_add_i64(int64_t a, int64_t b, int64_t *result);

/* Zeroed page-aligned memory for large buffers, committed by the system as it is touched. */
void *tn_pages_alloc(size_t size);
void tn_pages_free(void *pages, size_t size);

/* Asks for huge pages behind mapped memory, from TN_HUGE_REGION bytes on, where they pay. A file whose file system keeps it
 * in such ones is then read in them and mapped whole. */
enum { TN_HUGE_REGION = 8 << 20 };
void tn_pages_ask_huge(const void *pages, size_t size);

/* Bump allocator for objects that live and die together. Zero-initialise to start; everything is zeroed memory. */
typedef struct tn_arena {
    struct tn_arena_block *blocks;
} tn_arena;

void *tn_arena_alloc(tn_arena *arena, size_t size);
void *tn_arena_array(tn_arena *arena, size_t count, size_t size);
char *tn_arena_strdup(tn_arena *arena, const char *text);
char *tn_arena_strndup(tn_arena *arena, const char *text, size_t length);
char *tn_arena_printf(tn_arena *arena, const char *format, ...) TN_PRINTF(2, 3);
void tn_arena_free(tn_arena *arena);

/* The same for large buffers: zeroed, aligned to 64 bytes, next to each other in regions that grow, since large ones lie in
 * huge pages. */
typedef struct tn_page_arena {
    struct tn_page_region *regions;
} tn_page_arena;

void *tn_page_arena_alloc(tn_page_arena *arena, size_t size);
void tn_page_arena_free(tn_page_arena *arena);

#endif
