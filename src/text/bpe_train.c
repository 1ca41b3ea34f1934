/* Learns BPE merges over the distinct words of a text and how often each occurs. Pair counts are kept up to date merge by
 * merge: only the words that hold the merged pair are visited, and the next pair comes from a heap whose outdated entries
 * are put right when they come up. */
#include <string.h>

#include "base/map.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "format/json.h"
#include "text/added_tokens.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/tokenizer_train.h"
#include "text/unicode.h"
#include "text/vocab.h"

enum { TEXT_MAX = 1 << 30 };

typedef struct word {
    size_t start; /* of its symbols */
    size_t length;
    int64_t count;
} word;

typedef struct pair {
    int32_t left, right;
    int64_t count;     /* of all words, with their counts */
    int32_t last_link; /* the words it was seen in, -1 for none; some may have lost it since */
    bool touched;      /* grew during the merge that is being applied */
} pair;

typedef struct link {
    int32_t word, previous;
} link;

typedef struct candidate {
    int64_t count; /* when it was pushed */
    int32_t pair;
} candidate;

typedef struct trainer {
    tn_added_tokens specials;
    tn_pretokenizer pretokenizer;
    tn_pretokenize_scratch scratch;
    tn_vocab vocab;
    int32_t byte_ids[256];
    tn_map word_index;
    word *words;
    size_t word_count, word_capacity;
    tn_ids symbols; /* of all words, one after the other */
    tn_map pair_index;
    pair *pairs;
    size_t pair_count, pair_capacity;
    link *links;
    size_t link_count, link_capacity;
    candidate *heap;
    size_t heap_count, heap_capacity;
    tn_ids touched; /* pairs */
    tn_ids merges;  /* left and right ids in turn */
} trainer;

static void trainer_free(trainer *t) {
    tn_added_tokens_free(&t->specials);
    tn_pretokenizer_free(&t->pretokenizer);
    tn_pretokenize_scratch_free(&t->scratch);
    tn_vocab_free(&t->vocab);
    tn_map_free(&t->word_index);
    tn_free(t->words);
    tn_ids_free(&t->symbols);
    tn_map_free(&t->pair_index);
    tn_free(t->pairs);
    tn_free(t->links);
    tn_free(t->heap);
    tn_ids_free(&t->touched);
    tn_ids_free(&t->merges);
}

/* Room for one more element of a growing array; its numbers must fit an int32_t. */
static tn_status reserve(void **array, size_t count, size_t *capacity, size_t size) {
    if (count < *capacity)
        return TN_OK;
    size_t larger = *capacity ? *capacity * 2 : 1024;
    void *data = larger <= INT32_MAX ? tn_realloc_array(*array, larger, size) : NULL;
    if (!data)
        return tn_fail_memory("training a tokenizer");
    *array = data;
    *capacity = larger;
    return TN_OK;
}

static tn_status add_specials(trainer *t, const char *const *specials, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(specials[i]);
        if (length == 0 || tn_utf8_valid_prefix(specials[i], length) != length)
            return tn_fail(TN_ERROR_ARGUMENT, "special token %zu is empty or not UTF-8", i);
        if (tn_vocab_find(&t->vocab, specials[i], length, 0) >= 0)
            return tn_fail(TN_ERROR_ARGUMENT, "the special token '%.100s' is given twice", specials[i]);
        int32_t id = (int32_t)i;
        TN_TRY(tn_vocab_add(&t->vocab, specials[i], length, id, TN_TOKEN_SPECIAL, "the special tokens"));
        TN_TRY(tn_added_tokens_add(&t->specials, specials[i], length, (tn_added_token){.id = id}, "the special tokens"));
    }
    return TN_OK;
}

/* Ids in the order of the characters that stand for the bytes, as GPT-2 numbers them. */
static tn_status add_bytes(trainer *t) {
    for (uint32_t code = 0; code < 0x144; code++) {
        int byte = tn_char_to_byte(code);
        char text[4];
        if (byte < 0)
            continue;
        size_t length = tn_utf8_encode(code, text);
        if (tn_vocab_find(&t->vocab, text, length, 0) >= 0)
            return tn_fail(TN_ERROR_ARGUMENT, "the special token '%.*s' is one of the 256 byte symbols; choose another",
                           (int)length, text);
        t->byte_ids[byte] = t->vocab.size;
        TN_TRY(tn_vocab_add(&t->vocab, text, length, t->vocab.size, TN_TOKEN_IN_MODEL, "the byte symbols"));
    }
    return TN_OK;
}

static tn_status count_word(void *context, const char *text, size_t length) {
    trainer *t = context;
    int64_t index = 0;
    if (tn_map_get(&t->word_index, text, length, &index)) {
        t->words[index].count++;
        return TN_OK;
    }
    TN_TRY(reserve((void **)&t->words, t->word_count, &t->word_capacity, sizeof *t->words));
    TN_TRY(tn_map_put(&t->word_index, text, length, (int64_t)t->word_count));
    t->words[t->word_count++] = (word){t->symbols.count, length, 1};
    for (size_t i = 0; i < length; i++)
        TN_TRY(tn_ids_push(&t->symbols, t->byte_ids[(uint8_t)text[i]]));
    return TN_OK;
}

static tn_status count_stretch(void *context, const char *stretch, size_t length, bool at_start, int32_t id) {
    trainer *t = context;
    return id >= 0 ? TN_OK : tn_pretokenize(&t->pretokenizer, &t->scratch, stretch, length, at_start, count_word, t);
}

static tn_status count_words(trainer *t, const char *text, size_t length) {
    static const char byte_level[] = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}";
    cJSON *json = NULL;
    TN_TRY(tn_json_parse(byte_level, sizeof byte_level - 1, "the pre-tokenizer", &json));
    tn_status status = tn_pretokenizer_parse(json, "the pre-tokenizer", &t->pretokenizer);
    cJSON_Delete(json);
    if (status != TN_OK)
        return status;
    tn_buf clean = {0};
    tn_utf8_append_lossy(&clean, text, length, true);
    status = tn_buf_status(&clean);
    if (status == TN_OK)
        status = tn_added_tokens_split(&t->specials, tn_buf_text(&clean), clean.length, true, count_stretch, t);
    tn_buf_free(&clean);
    return status;
}

static tn_status find_pair(trainer *t, int32_t left, int32_t right, int32_t *out) {
    const int32_t key[2] = {left, right};
    int64_t index = 0;
    if (!tn_map_get(&t->pair_index, (const char *)key, sizeof key, &index)) {
        TN_TRY(reserve((void **)&t->pairs, t->pair_count, &t->pair_capacity, sizeof *t->pairs));
        index = (int64_t)t->pair_count;
        TN_TRY(tn_map_put(&t->pair_index, (const char *)key, sizeof key, index));
        t->pairs[t->pair_count++] = (pair){.left = left, .right = right, .last_link = -1};
    }
    *out = (int32_t)index;
    return TN_OK;
}

static tn_status grow_pair(trainer *t, int32_t left, int32_t right, size_t in_word) {
    int32_t index;
    TN_TRY(find_pair(t, left, right, &index));
    pair *p = &t->pairs[index];
    p->count += t->words[in_word].count;
    if (!p->touched)
        TN_TRY(tn_ids_push(&t->touched, index));
    p->touched = true;
    if (p->last_link >= 0 && t->links[p->last_link].word == (int32_t)in_word)
        return TN_OK;
    TN_TRY(reserve((void **)&t->links, t->link_count, &t->link_capacity, sizeof *t->links));
    t->links[t->link_count] = (link){(int32_t)in_word, p->last_link};
    p->last_link = (int32_t)t->link_count++;
    return TN_OK;
}

static tn_status shrink_pair(trainer *t, int32_t left, int32_t right, size_t in_word) {
    int32_t index;
    TN_TRY(find_pair(t, left, right, &index));
    t->pairs[index].count -= t->words[in_word].count;
    return TN_OK;
}

/* Higher counts first, then smaller ids. */
static bool comes_before(const trainer *t, candidate a, candidate b) {
    const pair *p = &t->pairs[a.pair], *q = &t->pairs[b.pair];
    if (a.count != b.count)
        return a.count > b.count;
    return p->left != q->left ? p->left < q->left : p->right < q->right;
}

static tn_status push_candidate(trainer *t, int32_t index) {
    candidate moving = {t->pairs[index].count, index};
    TN_TRY(reserve((void **)&t->heap, t->heap_count, &t->heap_capacity, sizeof *t->heap));
    size_t at = t->heap_count++;
    while (at > 0 && comes_before(t, moving, t->heap[(at - 1) / 2])) {
        t->heap[at] = t->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    t->heap[at] = moving;
    return TN_OK;
}

static candidate pop_candidate(trainer *t) {
    candidate top = t->heap[0], moving = t->heap[--t->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < t->heap_count; at = child) {
        if (child + 1 < t->heap_count && comes_before(t, t->heap[child + 1], t->heap[child]))
            child++;
        if (!comes_before(t, t->heap[child], moving))
            break;
        t->heap[at] = t->heap[child];
    }
    t->heap[at] = moving;
    return top;
}

static tn_status push_touched(trainer *t) {
    for (size_t i = 0; i < t->touched.count; i++) {
        pair *p = &t->pairs[t->touched.data[i]];
        p->touched = false;
        if (p->count > 0)
            TN_TRY(push_candidate(t, t->touched.data[i]));
    }
    t->touched.count = 0;
    return TN_OK;
}

static tn_status count_pairs(trainer *t) {
    for (size_t w = 0; w < t->word_count; w++) {
        const int32_t *symbols = t->symbols.data + t->words[w].start;
        for (size_t i = 0; i + 1 < t->words[w].length; i++)
            TN_TRY(grow_pair(t, symbols[i], symbols[i + 1], w));
    }
    return push_touched(t);
}

/* Replaces left, right by joined in one word, from left to right. */
static tn_status merge_in_word(trainer *t, size_t index, int32_t left, int32_t right, int32_t joined) {
    int32_t *symbols = t->symbols.data + t->words[index].start;
    size_t length = t->words[index].length, kept = 0;
    for (size_t i = 0; i < length; i++) {
        if (symbols[i] != left || i + 1 == length || symbols[i + 1] != right) {
            symbols[kept++] = symbols[i];
            continue;
        }
        if (kept > 0) {
            TN_TRY(shrink_pair(t, symbols[kept - 1], left, index));
            TN_TRY(grow_pair(t, symbols[kept - 1], joined, index));
        }
        i++;
        if (i + 1 < length) {
            TN_TRY(shrink_pair(t, right, symbols[i + 1], index));
            TN_TRY(grow_pair(t, joined, symbols[i + 1], index));
        }
        symbols[kept++] = joined;
    }
    t->words[index].length = kept;
    return TN_OK;
}

/* The id of the pair's joined text, new or known from another pair; -1 when that text is a special token's. */
static tn_status join_tokens(trainer *t, const pair *p, int32_t *out) {
    size_t left_length = 0, right_length = 0;
    const char *left = tn_vocab_token(&t->vocab, p->left, &left_length);
    const char *right = tn_vocab_token(&t->vocab, p->right, &right_length);
    tn_buf text = {0};
    tn_buf_append(&text, left, left_length);
    tn_buf_append(&text, right, right_length);
    tn_status status = tn_buf_status(&text);
    if (status == TN_OK) {
        *out = tn_vocab_find(&t->vocab, text.data, text.length, 0);
        if (*out < 0) {
            *out = t->vocab.size;
            status = tn_vocab_add(&t->vocab, text.data, text.length, *out, TN_TOKEN_IN_MODEL, "the vocabulary");
        } else if (tn_vocab_has_flags(&t->vocab, *out, TN_TOKEN_SPECIAL)) {
            *out = -1;
        }
    }
    tn_buf_free(&text);
    return status;
}

static tn_status merge_pair(trainer *t, int32_t index) {
    const pair p = t->pairs[index];
    int32_t joined = -1;
    TN_TRY(join_tokens(t, &p, &joined));
    if (joined >= 0) {
        TN_TRY(tn_ids_push(&t->merges, p.left));
        TN_TRY(tn_ids_push(&t->merges, p.right));
        for (int32_t link_at = p.last_link; link_at >= 0; link_at = t->links[link_at].previous)
            TN_TRY(merge_in_word(t, (size_t)t->links[link_at].word, p.left, p.right, joined));
        t->pairs[index].count = 0;
        t->pairs[index].last_link = -1;
    }
    return push_touched(t);
}

static tn_status learn_merges(trainer *t, int32_t vocab_size) {
    TN_TRY(count_pairs(t));
    while (t->vocab.size < vocab_size && t->heap_count) {
        candidate best = pop_candidate(t);
        int64_t count = t->pairs[best.pair].count;
        if (count <= 0)
            continue;
        if (best.count == count)
            TN_TRY(merge_pair(t, best.pair));
        else
            TN_TRY(push_candidate(t, best.pair));
    }
    return TN_OK;
}

static void print_token(const trainer *t, int32_t id, tn_buf *out) {
    size_t length = 0;
    const char *token = tn_vocab_token(&t->vocab, id, &length);
    tn_json_print_string(out, token, length);
}

static void print_added_tokens(const trainer *t, size_t count, tn_buf *out) {
    tn_buf_puts(out, "  \"added_tokens\": [");
    for (size_t i = 0; i < count; i++) {
        tn_buf_printf(out, "%s\n    {\"id\": %zu, \"content\": ", i ? "," : "", i);
        print_token(t, (int32_t)i, out);
        tn_buf_puts(out, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                         "\"special\": true}");
    }
    tn_buf_puts(out, count ? "\n  ],\n" : "],\n");
}

/* A merge is printed as "a b", which every version of the reference library reads; byte symbols hold no space. */
static void print_model(const trainer *t, tn_buf *out) {
    tn_buf_puts(out, "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
                     "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
                     "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
                     "    \"vocab\": {");
    for (int32_t id = 0; id < t->vocab.size; id++) {
        tn_buf_puts(out, id ? ",\n      " : "\n      ");
        print_token(t, id, out);
        tn_buf_printf(out, ": %d", (int)id);
    }
    tn_buf_puts(out, "\n    },\n    \"merges\": [");
    for (size_t i = 0; i < t->merges.count; i += 2) {
        size_t left_length = 0, right_length = 0;
        const char *left = tn_vocab_token(&t->vocab, t->merges.data[i], &left_length);
        const char *right = tn_vocab_token(&t->vocab, t->merges.data[i + 1], &right_length);
        tn_buf merge = {0};
        tn_buf_append(&merge, left, left_length);
        tn_buf_putc(&merge, ' ');
        tn_buf_append(&merge, right, right_length);
        tn_buf_puts(out, i ? ",\n      " : "\n      ");
        tn_json_print_string(out, tn_buf_text(&merge), merge.length);
        out->failed = out->failed || merge.failed;
        tn_buf_free(&merge);
    }
    tn_buf_puts(out, "\n    ]\n  }\n");
}

static void print_tokenizer(const trainer *t, size_t special_count, tn_buf *out) {
    tn_buf_puts(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    print_added_tokens(t, special_count, out);
    tn_buf_puts(out, "  \"normalizer\": null,\n"
                     "  \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                     "\"use_regex\": true},\n"
                     "  \"post_processor\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": false, "
                     "\"use_regex\": true},\n"
                     "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
                     "\"use_regex\": true},\n");
    print_model(t, out);
    tn_buf_puts(out, "}\n");
}

tn_status tn_tokenizer_train(const char *text, size_t length, int32_t vocab_size, const char *const *special_tokens,
                             size_t special_count, tn_buf *out) {
    if (vocab_size < 256 || vocab_size > TN_TOKEN_ID_MAX || special_count > (size_t)vocab_size - 256)
        return tn_fail(TN_ERROR_ARGUMENT,
                       "a vocabulary of %d cannot be trained: with %zu special tokens and the 256 byte "
                       "symbols it must be between %zu and %d",
                       (int)vocab_size, special_count, special_count + 256, (int)TN_TOKEN_ID_MAX);
    if (length > TEXT_MAX)
        return tn_fail(TN_ERROR_ARGUMENT, "a text of %zu bytes is too long to train a tokenizer on; %d are enough", length,
                       TEXT_MAX);
    trainer t = {0};
    size_t before = out->length;
    tn_status status = add_specials(&t, special_tokens, special_count);
    if (status == TN_OK)
        status = add_bytes(&t);
    if (status == TN_OK)
        status = count_words(&t, text, length);
    if (status == TN_OK)
        status = learn_merges(&t, vocab_size);
    if (status == TN_OK) {
        print_tokenizer(&t, special_count, out);
        status = tn_buf_status(out);
    }
    if (status != TN_OK)
        out->length = before;
    trainer_free(&t);
    return status;
}
