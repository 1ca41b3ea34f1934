/* Hash map from byte strings to 64-bit integers (usually an index into an array). Keys are copied. */
#ifndef TN_BASE_MAP_H
#define TN_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

/* Zero-initialise to start. */
typedef struct tn_map {
    struct tn_map_entry *entries;
    size_t capacity, count;
    tn_arena keys;
} tn_map;

/* Inserts or replaces. */
tn_status tn_map_put(tn_map *map, const char *key, size_t length, int64_t value);

/* True and *value set when the key is there; value may be NULL. */
bool tn_map_get(const tn_map *map, const char *key, size_t length, int64_t *value);

/* The same for NUL-terminated keys. */
tn_status tn_map_put_text(tn_map *map, const char *key, int64_t value);
bool tn_map_get_text(const tn_map *map, const char *key, int64_t *value);

void tn_map_free(tn_map *map);

/* FNV-1a over bytes, continued from `hash` (start with TN_HASH_START); also used to fingerprint data. */
#define TN_HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t tn_hash(uint64_t hash, const void *bytes, size_t length);

/* The key of `names` nearest to `name` by edit distance, or NULL when nothing is near; for "did you mean". */
const char *tn_nearest_name(const char *name, const char *const *names, size_t count);

#endif
