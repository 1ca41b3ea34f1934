/* Reads a BPE model: {"vocab": {token: id}, "merges": [["a", "b"]] or ["a b"], ...}. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "format/json.h"
#include "text/bpe.h"

static tn_status parse_vocab(const cJSON *vocab_json, const char *where, tn_vocab *vocab) {
    const cJSON *item;
    if (!cJSON_IsObject(vocab_json))
        return tn_fail(TN_ERROR_FORMAT, "%s: the model's \"vocab\" must be an object of tokens and ids", where);
    TN_TRY(tn_vocab_reserve(vocab, (size_t)cJSON_GetArraySize(vocab_json)));
    cJSON_ArrayForEach(item, vocab_json) {
        double id = item->valuedouble;
        if (!cJSON_IsNumber(item) || !(id >= 0 && id <= TN_TOKEN_ID_MAX) || id != (double)(int32_t)id)
            return tn_fail(TN_ERROR_FORMAT, "%s: the id of token '%.100s' must be a whole number between 0 and %d", where,
                           item->string, (int)TN_TOKEN_ID_MAX);
        size_t length = strlen(item->string);
        if (tn_vocab_find(vocab, item->string, length, 0) >= 0)
            return tn_fail(TN_ERROR_FORMAT, "%s: the token '%.100s' occurs twice in the vocabulary", where, item->string);
        TN_TRY(tn_vocab_add(vocab, item->string, length, (int32_t)id, TN_TOKEN_IN_MODEL, where));
    }
    return TN_OK;
}

/* The two halves of a merge; the left one may be cut out of "a b". */
static bool read_merge(const cJSON *item, const char **left, size_t *left_length, const char **right) {
    if (cJSON_IsString(item)) {
        const char *space = strchr(item->valuestring, ' ');
        if (!space || strchr(space + 1, ' '))
            return false;
        *left = item->valuestring;
        *left_length = (size_t)(space - *left);
        *right = space + 1;
        return true;
    }
    const cJSON *first = cJSON_IsArray(item) ? item->child : NULL, *second = first ? first->next : NULL;
    if (!cJSON_IsString(first) || !cJSON_IsString(second) || second->next)
        return false;
    *left = first->valuestring;
    *left_length = strlen(*left);
    *right = second->valuestring;
    return true;
}

static tn_status parse_merge(const cJSON *item, int32_t rank, const char *where, tn_bpe *bpe, tn_buf *joined) {
    const char *left, *right;
    size_t left_length;
    if (!read_merge(item, &left, &left_length, &right))
        return tn_fail(TN_ERROR_FORMAT, "%s: merge %d must be two tokens, as [\"a\", \"b\"] or \"a b\"", where, (int)rank);
    size_t right_length = strlen(right), prefix = bpe->prefix ? strlen(bpe->prefix) : 0;
    int32_t left_id = tn_vocab_find(bpe->vocab, left, left_length, TN_TOKEN_IN_MODEL);
    int32_t right_id = tn_vocab_find(bpe->vocab, right, right_length, TN_TOKEN_IN_MODEL);
    if (left_id < 0 || right_id < 0)
        return tn_fail(TN_ERROR_FORMAT, "%s: merge %d names '%.100s', which is not in the vocabulary", where, (int)rank,
                       left_id < 0 ? left : right);
    if (prefix > right_length)
        prefix = right_length;
    tn_buf_clear(joined);
    tn_buf_append(joined, left, left_length);
    tn_buf_append(joined, right + prefix, right_length - prefix);
    TN_TRY(tn_buf_status(joined));
    int32_t id = tn_vocab_find(bpe->vocab, tn_buf_text(joined), joined->length, TN_TOKEN_IN_MODEL);
    if (id < 0)
        return tn_fail(TN_ERROR_FORMAT, "%s: merge %d makes '%.100s', which is not in the vocabulary", where, (int)rank,
                       tn_buf_text(joined));
    *tn_bpe_merge_slot(bpe, left_id, right_id) = (tn_merge){tn_bpe_pair(left_id, right_id), rank, id};
    return TN_OK;
}

static tn_status parse_merges(const cJSON *list, const char *where, tn_bpe *bpe) {
    const cJSON *item;
    if (!cJSON_IsArray(list))
        return tn_fail(TN_ERROR_FORMAT, "%s: the model's \"merges\" must be a list", where);
    size_t count = (size_t)cJSON_GetArraySize(list);
    bpe->merge_slots = 16;
    while (bpe->merge_slots < count + count / 2)
        bpe->merge_slots *= 2;
    bpe->merges = tn_malloc(bpe->merge_slots * sizeof *bpe->merges);
    if (!bpe->merges)
        return tn_fail_memory("the merges of a tokenizer");
    for (size_t i = 0; i < bpe->merge_slots; i++)
        bpe->merges[i] = (tn_merge){.rank = -1};
    tn_buf joined = {0};
    tn_status status = TN_OK;
    int32_t rank = 0;
    cJSON_ArrayForEach(item, list) {
        /* The header line of a merges.txt, which some files carry over. */
        if (cJSON_IsString(item) && strncmp(item->valuestring, "#version", 8) == 0)
            continue;
        status = parse_merge(item, rank++, where, bpe, &joined);
        if (status != TN_OK)
            break;
    }
    tn_buf_free(&joined);
    return status;
}

/* NULL for an absent or empty affix. */
static tn_status parse_affix(const cJSON *model, const char *key, const char *where, char **out) {
    const char *text = NULL;
    TN_TRY(tn_json_get_string(model, key, where, &text));
    if (!text || !*text)
        return TN_OK;
    *out = tn_strdup(text);
    return *out ? TN_OK : tn_fail_memory("a tokenizer");
}

static tn_status parse_options(const cJSON *model, const char *where, tn_bpe *bpe) {
    double dropout = 0;
    TN_TRY(tn_json_get_double(model, "dropout", where, &dropout));
    if (dropout != 0)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s: BPE with \"dropout\" gives other ids at every run and is not supported; set "
                       "it to null",
                       where);
    TN_TRY(parse_affix(model, "continuing_subword_prefix", where, &bpe->prefix));
    TN_TRY(parse_affix(model, "end_of_word_suffix", where, &bpe->suffix));
    TN_TRY(tn_json_get_bool(model, "fuse_unk", where, &bpe->fuse_unknown));
    TN_TRY(tn_json_get_bool(model, "byte_fallback", where, &bpe->byte_fallback));
    return tn_json_get_bool(model, "ignore_merges", where, &bpe->ignore_merges);
}

static tn_status find_fixed_ids(const cJSON *model, const char *where, tn_bpe *bpe) {
    const char *unknown = NULL;
    TN_TRY(tn_json_get_string(model, "unk_token", where, &unknown));
    bpe->unknown = -1;
    if (unknown) {
        bpe->unknown = tn_vocab_find(bpe->vocab, unknown, strlen(unknown), TN_TOKEN_IN_MODEL);
        if (bpe->unknown < 0)
            return tn_fail(TN_ERROR_FORMAT, "%s: the \"unk_token\" '%.100s' is not in the vocabulary", where, unknown);
    }
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", byte);
        bpe->byte_ids[byte] = tn_vocab_find(bpe->vocab, name, 6, TN_TOKEN_IN_MODEL);
    }
    for (uint32_t code = 0; code < TN_BPE_DIRECT; code++) {
        char character[4];
        size_t length = tn_utf8_encode(code, character);
        bpe->direct[code] = tn_vocab_find(bpe->vocab, character, length, TN_TOKEN_IN_MODEL);
    }
    return TN_OK;
}

tn_status tn_bpe_parse(const cJSON *model, const char *where, tn_vocab *vocab, tn_bpe *out) {
    *out = (tn_bpe){.vocab = vocab};
    TN_TRY(parse_options(model, where, out));
    TN_TRY(parse_vocab(tn_json_get(model, "vocab"), where, vocab));
    TN_TRY(find_fixed_ids(model, where, out));
    return parse_merges(tn_json_get(model, "merges"), where, out);
}

void tn_bpe_free(tn_bpe *bpe) {
    tn_free(bpe->merges);
    tn_free(bpe->prefix);
    tn_free(bpe->suffix);
    *bpe = (tn_bpe){0};
}
