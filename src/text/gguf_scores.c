/* The merges that scores of SentencePiece pieces stand for: it joins the two neighbours whose union has the best score, the
 * leftmost first. As a list that is: every way to cut a piece into two pieces, ranked by the score of the whole, then by the
 * ids of its left and right part. Hugging Face's converter makes the same list. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/gguf_tokenizer.h"
#include "text/vocab.h"

enum { PIECE_MAX = 256 }; /* bytes of a piece that is made by merges */

static int by_rank(const void *a, const void *b) {
    const tn_gguf_cut *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->piece != y->piece)
        return x->piece < y->piece ? -1 : 1;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

static bool is_piece(int32_t type) {
    return type == TN_GGUF_TOKEN_NORMAL || type == TN_GGUF_TOKEN_USER_DEFINED || type == TN_GGUF_TOKEN_UNUSED;
}

static void cut_piece(const char *piece, int32_t id, float score, const tn_vocab *pieces, tn_buf *out) {
    size_t length = strlen(piece);
    for (size_t at = 1; at < length; at++) {
        if (((uint8_t)piece[at] & 0xc0) == 0x80)
            continue;
        tn_gguf_cut cut = {.score = score, .piece = id, .left = tn_vocab_find(pieces, piece, at, 0)};
        if (cut.left < 0)
            continue;
        cut.right = tn_vocab_find(pieces, piece + at, length - at, 0);
        if (cut.right >= 0)
            tn_buf_append(out, &cut, sizeof cut);
    }
}

tn_status tn_gguf_cuts(const char *const *tokens, const int32_t *types, const float *scores, int64_t count,
                       const char *where, tn_buf *out) {
    tn_vocab pieces = {0};
    tn_status status;
    TN_TRY_GOTO(tn_vocab_reserve(&pieces, (size_t)count));
    for (int64_t i = 0; i < count; i++)
        if (is_piece(types[i]))
            TN_TRY_GOTO(tn_vocab_add(&pieces, tokens[i], strlen(tokens[i]), (int32_t)i, 0, where));
    for (int64_t i = 0; i < count; i++) {
        /* user-defined tokens are searched for beforehand, and no text that gets here holds a space */
        if (!is_piece(types[i]) || types[i] == TN_GGUF_TOKEN_USER_DEFINED || strchr(tokens[i], ' '))
            continue;
        if (strlen(tokens[i]) > PIECE_MAX || isnan(scores[i])) {
            status = tn_fail(TN_ERROR_UNSUPPORTED, "%s: token %lld has a score that is no number or more than %d bytes",
                             where, (long long)i, (int)PIECE_MAX);
            goto fail;
        }
        cut_piece(tokens[i], (int32_t)i, scores[i], &pieces, out);
    }
    TN_TRY_GOTO(tn_buf_status(out));
    if (out->length)
        qsort(out->data, out->length / sizeof(tn_gguf_cut), sizeof(tn_gguf_cut), by_rank);
fail:
    tn_vocab_free(&pieces);
    return status;
}
