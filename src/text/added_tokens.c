/* The trie is walked from every byte that can begin a token. Its size is bounded by TN_ADDED_TOKEN_MAX, and so is a walk. */
#include "text/added_tokens.h"

#include "base/memory.h"
#include "text/unicode.h"

enum { NODES_MAX = 1 << 27 };

static tn_status new_node(tn_added_tokens *added, uint8_t byte, int32_t *out) {
    if (added->node_count == added->node_capacity) {
        int32_t capacity = added->node_capacity ? added->node_capacity * 2 : 256;
        tn_trie_node *nodes = capacity <= NODES_MAX ? tn_realloc_array(added->nodes, (size_t)capacity, sizeof *nodes) : NULL;
        if (!nodes)
            return tn_fail_memory("the added tokens");
        added->nodes = nodes;
        added->node_capacity = capacity;
        if (added->node_count == 0)
            added->nodes[added->node_count++] = (tn_trie_node){0}; /* the root, so that 0 can mean none */
    }
    added->nodes[added->node_count] = (tn_trie_node){.byte = byte};
    *out = added->node_count++;
    return TN_OK;
}

static int32_t child_of(const tn_added_tokens *added, int32_t node, uint8_t byte) {
    if (node == 0)
        return added->first[byte];
    for (int32_t child = added->nodes[node].child; child; child = added->nodes[child].sibling)
        if (added->nodes[child].byte == byte)
            return child;
    return 0;
}

static tn_status new_token(tn_added_tokens *added, tn_added_token token) {
    if (added->token_count == added->token_capacity) {
        int32_t capacity = added->token_capacity ? added->token_capacity * 2 : 16;
        tn_added_token *tokens = tn_realloc_array(added->tokens, (size_t)capacity, sizeof *tokens);
        if (!tokens)
            return tn_fail_memory("the added tokens");
        added->tokens = tokens;
        added->token_capacity = capacity;
    }
    added->tokens[added->token_count++] = token;
    return TN_OK;
}

tn_status tn_added_tokens_add(tn_added_tokens *added, const char *text, size_t length, tn_added_token token,
                              const char *where) {
    int32_t node = 0;
    if (length > TN_ADDED_TOKEN_MAX)
        return tn_fail(TN_ERROR_FORMAT, "%s: the added token '%.60s...' is longer than %d bytes", where, text,
                       TN_ADDED_TOKEN_MAX);
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)text[i];
        int32_t child = child_of(added, node, byte);
        if (!child) {
            TN_TRY(new_node(added, byte, &child));
            if (node == 0) {
                added->first[byte] = child;
            } else {
                added->nodes[child].sibling = added->nodes[node].child;
                added->nodes[node].child = child;
            }
        }
        node = child;
    }
    if (!node || added->nodes[node].token)
        return TN_OK;
    TN_TRY(new_token(added, token));
    added->nodes[node].token = added->token_count;
    return TN_OK;
}

void tn_added_tokens_free(tn_added_tokens *added) {
    tn_free(added->tokens);
    tn_free(added->nodes);
    *added = (tn_added_tokens){0};
}

/* The longest token that begins at `at`, its end in *end; NULL when there is none. */
static const tn_added_token *match_at(const tn_added_tokens *added, const char *text, size_t length, size_t at,
                                      size_t *end) {
    const tn_added_token *found = NULL;
    int32_t node = added->first[(uint8_t)text[at]];
    while (node) {
        at++;
        if (added->nodes[node].token) {
            found = &added->tokens[added->nodes[node].token - 1];
            *end = at;
        }
        node = at < length ? child_of(added, node, (uint8_t)text[at]) : 0;
    }
    return found;
}

/* Where the character that ends at `end` begins. */
static size_t character_before(const char *text, size_t end) {
    do
        end--;
    while (end && ((uint8_t)text[end] & 0xc0) == 0x80);
    return end;
}

static bool touches_word(const char *text, size_t length, size_t start, size_t end) {
    uint32_t code = 0;
    if (start > 0) {
        size_t before = character_before(text, start);
        tn_utf8_next(text + before, length - before, &code);
        if (tn_char_is_word(code))
            return true;
    }
    if (end < length) {
        tn_utf8_next(text + end, length - end, &code);
        return tn_char_is_word(code);
    }
    return false;
}

static size_t blanks_before(const char *text, size_t length, size_t start, size_t limit) {
    uint32_t code = 0;
    while (start > limit) {
        size_t before = character_before(text, start);
        tn_utf8_next(text + before, length - before, &code);
        if (!tn_char_is_whitespace(code))
            break;
        start = before;
    }
    return start;
}

static size_t blanks_after(const char *text, size_t length, size_t end) {
    uint32_t code = 0;
    while (end < length) {
        size_t size = tn_utf8_next(text + end, length - end, &code);
        if (!tn_char_is_whitespace(code))
            break;
        end += size;
    }
    return end;
}

tn_status tn_added_tokens_split(const tn_added_tokens *added, const char *text, size_t length, bool at_start,
                                tn_stretch_sink sink, void *context) {
    size_t done = 0; /* the text before this has been handed out */
    for (size_t at = 0; at < length;) {
        size_t end = at;
        const tn_added_token *token = match_at(added, text, length, at, &end);
        if (!token) {
            at++;
            continue;
        }
        size_t start = at, found_end = end;
        at = end;
        if (token->single_word && touches_word(text, length, start, end))
            continue;
        if (token->lstrip)
            start = blanks_before(text, length, start, done);
        if (token->rstrip)
            end = blanks_after(text, length, end);
        if (done < start)
            TN_TRY(sink(context, text + done, start - done, at_start && done == 0, -1));
        TN_TRY(sink(context, text + start, found_end - start, false, token->id));
        done = end;
    }
    return done < length ? sink(context, text + done, length - done, at_start && done == 0, -1) : TN_OK;
}
