/* Added tokens: texts that become one id before the model sees them, found leftmost-longest. */
#ifndef TN_TEXT_ADDED_TOKENS_H
#define TN_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { TN_ADDED_TOKEN_MAX = 1024 }; /* bytes of one token */

typedef struct tn_added_token {
    int32_t id;
    bool single_word, lstrip, rstrip; /* whole words only; blanks to the left or right belong to the token */
} tn_added_token;

typedef struct tn_trie_node {
    int32_t child, sibling; /* 0: none */
    int32_t token;          /* index + 1; 0: no token ends here */
    uint8_t byte;
} tn_trie_node;

/* A trie over the texts; zero-initialise. Read-only once all tokens are in. */
typedef struct tn_added_tokens {
    tn_added_token *tokens;
    int32_t token_count, token_capacity;
    tn_trie_node *nodes;
    int32_t node_count, node_capacity;
    int32_t first[256]; /* the root's children by byte */
} tn_added_tokens;

/* Empty texts are ignored; of two tokens with one text the first stays. */
tn_status tn_added_tokens_add(tn_added_tokens *added, const char *text, size_t length, tn_added_token token,
                              const char *where);
void tn_added_tokens_free(tn_added_tokens *added);

/* Calls `sink` with the stretches of `text` in order: those between added tokens with id -1, and the tokens. */
typedef tn_status (*tn_stretch_sink)(void *context, const char *stretch, size_t length, bool at_start, int32_t id);
tn_status tn_added_tokens_split(const tn_added_tokens *added, const char *text, size_t length, bool at_start,
                                tn_stretch_sink sink, void *context);

#endif
