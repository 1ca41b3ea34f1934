/* Encoding with BPE: the symbols of a word form a linked list, candidate pairs a binary heap by (rank, position), which
 * makes a word of n characters O(n log n). Entries that later joins made stale are dropped when they come up. */
#include "text/bpe.h"

#include <string.h>

#include "base/map.h"
#include "base/memory.h"
#include "text/unicode.h"

enum { CACHED_WORD_MAX = 64, CACHE_PROBES = 16, CACHE_SLOTS = 256, CACHE_SLOTS_MAX = 1 << 17 };

void tn_bpe_scratch_free(tn_bpe_scratch *scratch) {
    tn_buf_free(&scratch->mapped);
    tn_buf_free(&scratch->affixed);
    tn_free(scratch->symbols);
    tn_free(scratch->heap);
    tn_free(scratch->cache);
    tn_buf_free(&scratch->cache_words);
    tn_ids_free(&scratch->cache_ids);
    *scratch = (tn_bpe_scratch){0};
}

static tn_status push_symbol(tn_bpe_scratch *s, int32_t id) {
    if (s->symbol_count == s->symbol_capacity) {
        size_t capacity = s->symbol_capacity ? s->symbol_capacity * 2 : 64;
        tn_bpe_symbol *symbols = capacity <= INT32_MAX ? tn_realloc_array(s->symbols, capacity, sizeof *symbols) : NULL;
        if (!symbols)
            return tn_fail_memory("a word's symbols");
        s->symbols = symbols;
        s->symbol_capacity = capacity;
    }
    s->symbols[s->symbol_count++] = (tn_bpe_symbol){.id = id};
    return TN_OK;
}

/* Puts the prefix and suffix that a character at this place carries around it. */
static tn_status add_affixes(const tn_bpe *bpe, tn_bpe_scratch *s, bool first, bool last, const char **character,
                             size_t *size) {
    const char *prefix = first ? NULL : bpe->prefix, *suffix = last ? bpe->suffix : NULL;
    if (!prefix && !suffix)
        return TN_OK;
    tn_buf_clear(&s->affixed);
    tn_buf_puts(&s->affixed, prefix ? prefix : "");
    tn_buf_append(&s->affixed, *character, *size);
    tn_buf_puts(&s->affixed, suffix ? suffix : "");
    *character = tn_buf_text(&s->affixed);
    *size = s->affixed.length;
    return tn_buf_status(&s->affixed);
}

static tn_status push_bytes(const tn_bpe *bpe, tn_bpe_scratch *s, const char *bytes, size_t size, bool *done) {
    *done = false;
    for (size_t i = 0; i < size; i++)
        if (bpe->byte_ids[(uint8_t)bytes[i]] < 0)
            return TN_OK;
    *done = true;
    for (size_t i = 0; i < size; i++)
        TN_TRY(push_symbol(s, bpe->byte_ids[(uint8_t)bytes[i]]));
    return TN_OK;
}

/* The word's characters as symbols. An unknown one waits for the next known one (not for bytes), as in the reference. */
static tn_status start_symbols(const tn_bpe *bpe, tn_bpe_scratch *s, const char *word, size_t length) {
    bool unknown_waits = false, has_affixes = bpe->prefix || bpe->suffix;
    uint32_t code = 0;
    s->symbol_count = 0;
    for (size_t at = 0, step; at < length; at += step) {
        const char *character = word + at;
        size_t size = step = tn_utf8_next(character, length - at, &code);
        if (has_affixes)
            TN_TRY(add_affixes(bpe, s, at == 0, at + step == length, &character, &size));
        int32_t id = size == step && code < TN_BPE_DIRECT ? bpe->direct[code]
                                                          : tn_vocab_find(bpe->vocab, character, size, TN_TOKEN_IN_MODEL);
        if (id >= 0) {
            if (unknown_waits)
                TN_TRY(push_symbol(s, bpe->unknown));
            unknown_waits = false;
            TN_TRY(push_symbol(s, id));
            continue;
        }
        if (bpe->byte_fallback) {
            bool done;
            TN_TRY(push_bytes(bpe, s, character, size, &done));
            if (done)
                continue;
        }
        if (bpe->unknown < 0)
            continue;
        if (unknown_waits && !bpe->fuse_unknown)
            TN_TRY(push_symbol(s, bpe->unknown));
        unknown_waits = true;
    }
    return unknown_waits ? push_symbol(s, bpe->unknown) : TN_OK;
}

static void sift_up(tn_bpe_candidate *heap, size_t at) {
    tn_bpe_candidate moving = heap[at];
    while (at > 0 && moving.order < heap[(at - 1) / 2].order) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = moving;
}

static tn_bpe_candidate pop_candidate(tn_bpe_scratch *s) {
    tn_bpe_candidate top = s->heap[0], moving = s->heap[--s->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < s->heap_count; at = child) {
        if (child + 1 < s->heap_count && s->heap[child + 1].order < s->heap[child].order)
            child++;
        if (moving.order <= s->heap[child].order)
            break;
        s->heap[at] = s->heap[child];
    }
    s->heap[at] = moving;
    return top;
}

static tn_status push_candidate(const tn_bpe *bpe, tn_bpe_scratch *s, int32_t left) {
    int32_t right = s->symbols[left].next;
    if (left < 0 || right < 0)
        return TN_OK;
    const tn_merge *merge = tn_bpe_merge_slot(bpe, s->symbols[left].id, s->symbols[right].id);
    if (merge->rank < 0)
        return TN_OK;
    if (s->heap_count == s->heap_capacity) {
        size_t capacity = s->heap_capacity ? s->heap_capacity * 2 : 64;
        tn_bpe_candidate *heap = tn_realloc_array(s->heap, capacity, sizeof *heap);
        if (!heap)
            return tn_fail_memory("a word's merges");
        s->heap = heap;
        s->heap_capacity = capacity;
    }
    s->heap[s->heap_count] = (tn_bpe_candidate){(uint64_t)merge->rank << 32 | (uint32_t)left, merge->id};
    sift_up(s->heap, s->heap_count++);
    return TN_OK;
}

static bool is_stale(const tn_bpe *bpe, const tn_bpe_symbol *symbols, tn_bpe_candidate candidate) {
    const tn_bpe_symbol *left = &symbols[(uint32_t)candidate.order];
    if (left->id < 0 || left->next < 0)
        return true;
    const tn_merge *merge = tn_bpe_merge_slot(bpe, left->id, symbols[left->next].id);
    return merge->rank < 0 || merge->id != candidate.id;
}

static tn_status merge_symbols(const tn_bpe *bpe, tn_bpe_scratch *s) {
    tn_bpe_symbol *symbols = s->symbols;
    int32_t count = (int32_t)s->symbol_count;
    s->heap_count = 0;
    for (int32_t i = 0; i < count; i++) {
        symbols[i].previous = i - 1;
        symbols[i].next = i + 1 < count ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < count; i++)
        TN_TRY(push_candidate(bpe, s, i));
    while (s->heap_count) {
        tn_bpe_candidate candidate = pop_candidate(s);
        if (is_stale(bpe, symbols, candidate))
            continue;
        int32_t at = (int32_t)(uint32_t)candidate.order, right = symbols[at].next;
        symbols[at].id = candidate.id;
        symbols[at].next = symbols[right].next;
        symbols[right].id = -1;
        if (symbols[at].next >= 0)
            symbols[symbols[at].next].previous = at;
        if (symbols[at].previous >= 0)
            TN_TRY(push_candidate(bpe, s, symbols[at].previous));
        TN_TRY(push_candidate(bpe, s, at));
    }
    return TN_OK;
}

static tn_status encode_word(const tn_bpe *bpe, tn_bpe_scratch *s, const char *word, size_t length, tn_ids *out) {
    if (bpe->ignore_merges) {
        int32_t id = tn_vocab_find(bpe->vocab, word, length, TN_TOKEN_IN_MODEL);
        if (id >= 0)
            return tn_ids_push(out, id);
    }
    TN_TRY(start_symbols(bpe, s, word, length));
    TN_TRY(merge_symbols(bpe, s));
    for (size_t i = 0; i < s->symbol_count; i++)
        if (s->symbols[i].id >= 0)
            TN_TRY(tn_ids_push(out, s->symbols[i].id));
    return TN_OK;
}

static tn_status grow_cache(tn_bpe_scratch *s) {
    size_t slots = s->cache_slots ? s->cache_slots * 4 : CACHE_SLOTS;
    tn_bpe_cached *cache = tn_calloc(slots, sizeof *cache);
    if (!cache)
        return tn_fail_memory("the words met before");
    for (size_t i = 0; i < s->cache_slots; i++) {
        if (!s->cache[i].length)
            continue;
        size_t at = s->cache[i].hash & (slots - 1);
        while (cache[at].length)
            at = (at + 1) & (slots - 1);
        cache[at] = s->cache[i];
    }
    tn_free(s->cache);
    s->cache = cache;
    s->cache_slots = slots;
    return TN_OK;
}

/* The word's entry, the empty one where it may go, or NULL when there is no room near its place. */
static tn_bpe_cached *find_cached(const tn_bpe_scratch *s, const char *word, size_t length, uint64_t hash) {
    for (size_t probe = 0; probe < CACHE_PROBES; probe++) {
        tn_bpe_cached *entry = &s->cache[(hash + probe) & (s->cache_slots - 1)];
        if (!entry->length)
            return entry;
        if (entry->hash == hash && entry->length == length && memcmp(s->cache_words.data + entry->word, word, length) == 0)
            return entry;
    }
    return NULL;
}

static tn_status encode_mapped(const tn_bpe *bpe, tn_bpe_scratch *s, const char *word, size_t length, bool as_bytes,
                               tn_ids *out) {
    if (!as_bytes)
        return encode_word(bpe, s, word, length, out);
    tn_buf_clear(&s->mapped);
    tn_bytes_to_chars(&s->mapped, word, length);
    TN_TRY(tn_buf_status(&s->mapped));
    return encode_word(bpe, s, s->mapped.data, s->mapped.length, out);
}

tn_status tn_bpe_encode(const tn_bpe *bpe, tn_bpe_scratch *s, const char *word, size_t length, bool as_bytes, tn_ids *out) {
    if (length == 0)
        return TN_OK;
    if (length > CACHED_WORD_MAX)
        return encode_mapped(bpe, s, word, length, as_bytes, out);
    if (s->cache_count * 2 >= s->cache_slots && s->cache_slots < CACHE_SLOTS_MAX)
        TN_TRY(grow_cache(s));
    uint64_t hash = tn_hash(TN_HASH_START, word, length);
    hash = (hash ^ (hash >> 32)) * UINT64_C(0x9e3779b97f4a7c15) >> 20;
    tn_bpe_cached *entry = find_cached(s, word, length, hash);
    if (entry && entry->length)
        return entry->count ? tn_ids_append(out, s->cache_ids.data + entry->ids, entry->count) : TN_OK;
    size_t before = out->count;
    TN_TRY(encode_mapped(bpe, s, word, length, as_bytes, out));
    if (!entry || s->cache_count * 4 >= s->cache_slots * 3)
        return TN_OK;
    *entry = (tn_bpe_cached){hash, s->cache_words.length, s->cache_ids.count, 0, (uint32_t)(out->count - before)};
    tn_buf_append(&s->cache_words, word, length);
    TN_TRY(tn_buf_status(&s->cache_words));
    if (out->count > before)
        TN_TRY(tn_ids_append(&s->cache_ids, out->data + before, out->count - before));
    entry->length = (uint32_t)length;
    s->cache_count++;
    return TN_OK;
}
