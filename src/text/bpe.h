/* Byte-pair encoding: a word starts as characters, and the adjacent pair of the lowest merge rank is joined until no pair
 * has a merge (Sennrich et al. 2016; details as Hugging Face's BPE model has them). */
#ifndef TN_TEXT_BPE_H
#define TN_TEXT_BPE_H

#include <cjson/cJSON.h>
#include <stdint.h>

#include "text/tokenizer.h"
#include "text/vocab.h"

typedef struct tn_merge {
    uint64_t pair; /* left id << 32 | right id */
    int32_t rank;  /* -1 marks an empty slot */
    int32_t id;    /* of the joined token */
} tn_merge;

enum { TN_BPE_DIRECT = 0x200 }; /* characters below, which include the byte-level alphabet, are found without hashing */

typedef struct tn_bpe {
    const tn_vocab *vocab;
    tn_merge *merges; /* open addressing */
    size_t merge_slots;
    char *prefix, *suffix;         /* of all but a word's first character, of its last; NULL when unused */
    int32_t unknown;               /* -1: unknown characters vanish */
    int32_t byte_ids[256];         /* <0x00>..<0xFF>, -1 where absent */
    int32_t direct[TN_BPE_DIRECT]; /* ids of bare characters, -1 where absent */
    bool fuse_unknown, byte_fallback, ignore_merges;
} tn_bpe;

/* Reads the model object of tokenizer.json; its tokens go into `vocab`, which must outlive `out`. */
tn_status tn_bpe_parse(const cJSON *model, const char *where, tn_vocab *vocab, tn_bpe *out);
void tn_bpe_free(tn_bpe *bpe);

static inline uint64_t tn_bpe_pair(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The slot of a pair's merge, or the empty one where it would go. */
static inline tn_merge *tn_bpe_merge_slot(const tn_bpe *bpe, int32_t left, int32_t right) {
    uint64_t pair = tn_bpe_pair(left, right);
    for (size_t i = (pair * UINT64_C(0x9e3779b97f4a7c15)) >> 32 & (bpe->merge_slots - 1);;
         i = (i + 1) & (bpe->merge_slots - 1))
        if (bpe->merges[i].rank < 0 || bpe->merges[i].pair == pair)
            return &bpe->merges[i];
}

typedef struct tn_bpe_symbol {
    int32_t id; /* -1: joined to the symbol before */
    int32_t previous, next;
} tn_bpe_symbol;

typedef struct tn_bpe_candidate {
    uint64_t order; /* rank << 32 | position of the left symbol */
    int32_t id;     /* what the pair would become */
} tn_bpe_candidate;

typedef struct tn_bpe_cached {
    uint64_t hash;
    size_t word, ids; /* where the word and its ids begin */
    uint32_t length, count;
} tn_bpe_cached;

/* Room for one thread, and the ids of words met before; zero-initialise. Serves one tokenizer only. */
typedef struct tn_bpe_scratch {
    tn_buf mapped, affixed;
    tn_bpe_symbol *symbols;
    size_t symbol_count, symbol_capacity;
    tn_bpe_candidate *heap;
    size_t heap_count, heap_capacity;
    tn_bpe_cached *cache;
    size_t cache_slots, cache_count;
    tn_buf cache_words;
    tn_ids cache_ids;
} tn_bpe_scratch;

void tn_bpe_scratch_free(tn_bpe_scratch *scratch);

/* Appends the ids of a word, valid UTF-8 unless `as_bytes`: then it is bytes, first put into the byte-level alphabet. */
tn_status tn_bpe_encode(const tn_bpe *bpe, tn_bpe_scratch *scratch, const char *word, size_t length, bool as_bytes,
                        tn_ids *out);

#endif
