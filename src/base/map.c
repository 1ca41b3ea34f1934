/* Open addressing with linear probing, at most half full. */
#include "base/map.h"

#include <string.h>

struct tn_map_entry {
    const char *key; /* NULL marks an empty slot */
    size_t length;
    uint64_t hash;
    int64_t value;
};

uint64_t tn_hash(uint64_t hash, const void *bytes, size_t length) {
    const unsigned char *p = bytes;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static struct tn_map_entry *find_slot(struct tn_map_entry *entries, size_t capacity, const char *key, size_t length,
                                      uint64_t hash) {
    for (size_t i = hash & (capacity - 1);; i = (i + 1) & (capacity - 1)) {
        struct tn_map_entry *e = &entries[i];
        if (!e->key || (e->hash == hash && e->length == length && memcmp(e->key, key, length) == 0))
            return e;
    }
}

static tn_status grow(tn_map *map) {
    size_t capacity = map->capacity ? map->capacity * 2 : 64;
    struct tn_map_entry *entries = tn_calloc(capacity, sizeof *entries);
    if (!entries)
        return tn_fail_memory("a hash map");
    for (size_t i = 0; i < map->capacity; i++) {
        const struct tn_map_entry *e = &map->entries[i];
        if (e->key)
            *find_slot(entries, capacity, e->key, e->length, e->hash) = *e;
    }
    tn_free(map->entries);
    map->entries = entries;
    map->capacity = capacity;
    return TN_OK;
}

/* FNV's low bits mix badly for short keys. */
static uint64_t key_hash(const char *key, size_t length) {
    uint64_t h = tn_hash(TN_HASH_START, key, length);
    return (h ^ (h >> 32)) * UINT64_C(0x9e3779b97f4a7c15) >> 7;
}

tn_status tn_map_put(tn_map *map, const char *key, size_t length, int64_t value) {
    if ((map->count + 1) * 2 > map->capacity)
        TN_TRY(grow(map));
    uint64_t hash = key_hash(key, length);
    struct tn_map_entry *e = find_slot(map->entries, map->capacity, key, length, hash);
    if (!e->key) {
        const char *copy = tn_arena_strndup(&map->keys, key, length);
        if (!copy)
            return tn_fail_memory("a hash map");
        *e = (struct tn_map_entry){.key = copy, .length = length, .hash = hash};
        map->count++;
    }
    e->value = value;
    return TN_OK;
}

bool tn_map_get(const tn_map *map, const char *key, size_t length, int64_t *value) {
    if (!map->count)
        return false;
    const struct tn_map_entry *e = find_slot(map->entries, map->capacity, key, length, key_hash(key, length));
    if (!e->key)
        return false;
    if (value)
        *value = e->value;
    return true;
}

tn_status tn_map_put_text(tn_map *map, const char *key, int64_t value) {
    return tn_map_put(map, key, strlen(key), value);
}

bool tn_map_get_text(const tn_map *map, const char *key, int64_t *value) {
    return tn_map_get(map, key, strlen(key), value);
}

void tn_map_free(tn_map *map) {
    tn_free(map->entries);
    tn_arena_free(&map->keys);
    *map = (tn_map){0};
}

enum { LONGEST_NAME = 127 };

/* Levenshtein distance, one row at a time. */
static size_t edit_distance(const char *a, size_t n, const char *b, size_t m) {
    size_t row[LONGEST_NAME + 1];
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t substitute = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            size_t best = row[j] + 1 < row[j - 1] + 1 ? row[j] + 1 : row[j - 1] + 1;
            row[j] = substitute < best ? substitute : best;
        }
    }
    return row[m];
}

const char *tn_nearest_name(const char *name, const char *const *names, size_t count) {
    size_t length = strlen(name), best_distance = length / 2 + 2;
    const char *best = NULL;
    if (length > LONGEST_NAME)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t other = strlen(names[i]);
        if (other > LONGEST_NAME)
            continue;
        size_t distance = edit_distance(name, length, names[i], other);
        if (distance < best_distance) {
            best_distance = distance;
            best = names[i];
        }
    }
    return best;
}
