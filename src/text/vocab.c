/* All token texts stand in one buffer; a table by id and an open-addressing hash by text point into it. */
#include "text/vocab.h"

#include <string.h>

#include "base/map.h"
#include "base/memory.h"

static size_t slot_of(const tn_vocab *vocab, const char *token, size_t length) {
    uint64_t hash = tn_hash(TN_HASH_START, token, length);
    hash = (hash ^ (hash >> 32)) * UINT64_C(0x9e3779b97f4a7c15) >> 20;
    for (size_t i = hash & (vocab->slot_count - 1);; i = (i + 1) & (vocab->slot_count - 1)) {
        if (vocab->slots[i] == 0)
            return i;
        const tn_vocab_entry *entry = &vocab->entries[vocab->slots[i] - 1];
        if (entry->length == length && memcmp(vocab->text.data + entry->offset, token, length) == 0)
            return i;
    }
}

static tn_status rehash(tn_vocab *vocab, size_t slot_count) {
    int32_t *slots = tn_calloc(slot_count, sizeof *slots);
    if (!slots)
        return tn_fail_memory("a vocabulary");
    tn_free(vocab->slots);
    vocab->slots = slots;
    vocab->slot_count = slot_count;
    for (int32_t id = 0; id < vocab->size; id++) {
        const tn_vocab_entry *entry = &vocab->entries[id];
        if (entry->flags)
            slots[slot_of(vocab, vocab->text.data + entry->offset, entry->length)] = id + 1;
    }
    return TN_OK;
}

static tn_status reserve_ids(tn_vocab *vocab, int32_t size) {
    if (size <= vocab->capacity)
        return TN_OK;
    int32_t capacity = vocab->capacity ? vocab->capacity : 256;
    while (capacity < size)
        capacity *= 2;
    tn_vocab_entry *entries = tn_realloc_array(vocab->entries, (size_t)capacity, sizeof *entries);
    if (!entries)
        return tn_fail_memory("a vocabulary");
    memset(entries + vocab->capacity, 0, (size_t)(capacity - vocab->capacity) * sizeof *entries);
    vocab->entries = entries;
    vocab->capacity = capacity;
    return TN_OK;
}

tn_status tn_vocab_reserve(tn_vocab *vocab, size_t count) {
    size_t slot_count = 1024;
    if (count > TN_TOKEN_ID_MAX)
        count = TN_TOKEN_ID_MAX;
    while (slot_count < count * 2)
        slot_count *= 2;
    TN_TRY(reserve_ids(vocab, (int32_t)count));
    return slot_count > vocab->slot_count ? rehash(vocab, slot_count) : TN_OK;
}

tn_status tn_vocab_add(tn_vocab *vocab, const char *token, size_t length, int32_t id, uint8_t flags, const char *where) {
    if (id < 0 || id > TN_TOKEN_ID_MAX)
        return tn_fail(TN_ERROR_FORMAT, "%s: token '%.100s' has the id %d; ids must be between 0 and %d", where, token,
                       (int)id, (int)TN_TOKEN_ID_MAX);
    if ((vocab->token_count + 1) * 2 > vocab->slot_count)
        TN_TRY(rehash(vocab, vocab->slot_count ? vocab->slot_count * 2 : 1024));
    TN_TRY(reserve_ids(vocab, id + 1));
    size_t slot = slot_of(vocab, token, length);
    tn_vocab_entry *entry = &vocab->entries[id];
    if (vocab->slots[slot] == id + 1) {
        entry->flags |= flags;
        return TN_OK;
    }
    if (vocab->slots[slot])
        return tn_fail(TN_ERROR_FORMAT, "%s: token '%.100s' has two ids, %d and %d", where, token,
                       (int)vocab->slots[slot] - 1, (int)id);
    if (entry->flags)
        return tn_fail(TN_ERROR_FORMAT, "%s: the id %d belongs to two tokens, '%.100s' and '%.100s'", where, (int)id,
                       vocab->text.data + entry->offset, token);
    if (vocab->text.length > UINT32_MAX - length - 1)
        return tn_fail(TN_ERROR_FORMAT, "%s: the tokens together are longer than 4 GB", where);
    *entry = (tn_vocab_entry){(uint32_t)vocab->text.length, (uint32_t)length, (uint8_t)(flags | TN_TOKEN_PRESENT)};
    tn_buf_append(&vocab->text, token, length);
    tn_buf_putc(&vocab->text, 0);
    if (vocab->text.failed) {
        entry->flags = 0;
        return tn_fail_memory("a vocabulary");
    }
    vocab->slots[slot] = id + 1;
    vocab->token_count++;
    if (id >= vocab->size)
        vocab->size = id + 1;
    return TN_OK;
}

int32_t tn_vocab_find(const tn_vocab *vocab, const char *token, size_t length, uint8_t flags) {
    if (!vocab->slot_count)
        return -1;
    int32_t id = vocab->slots[slot_of(vocab, token, length)] - 1;
    return id >= 0 && (vocab->entries[id].flags & flags) == flags ? id : -1;
}

const char *tn_vocab_token(const tn_vocab *vocab, int32_t id, size_t *length) {
    if (id < 0 || id >= vocab->size || !vocab->entries[id].flags)
        return NULL;
    if (length)
        *length = vocab->entries[id].length;
    return vocab->text.data + vocab->entries[id].offset;
}

bool tn_vocab_has_flags(const tn_vocab *vocab, int32_t id, uint8_t flags) {
    return id >= 0 && id < vocab->size && (vocab->entries[id].flags & flags) == flags;
}

void tn_vocab_free(tn_vocab *vocab) {
    tn_buf_free(&vocab->text);
    tn_free(vocab->entries);
    tn_free(vocab->slots);
    *vocab = (tn_vocab){0};
}
