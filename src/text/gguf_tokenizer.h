/* The tokenizer in the metadata of a GGUF model as the tokenizer.json and tokenizer_config.json that Hugging Face gives the
 * same tokenizer. */
#ifndef TN_TEXT_GGUF_TOKENIZER_H
#define TN_TEXT_GGUF_TOKENIZER_H

#include "format/gguf.h"
#include "format/json.h"

/* tokenizer.ggml.model "gpt2" (byte-level BPE with one of the known tokenizer.ggml.pre) and "llama" (SentencePiece BPE).
 * *tokenizer is NULL, with TN_OK, when the file has no tokenizer; *config may still hold a chat template. Unknown kinds are
 * TN_ERROR_UNSUPPORTED. Free both with cJSON_Delete. */
tn_status tn_gguf_tokenizer(tn_gguf *file, cJSON **tokenizer, cJSON **config);

/* The same from a path to the file. */
tn_status tn_gguf_tokenizer_read(const char *path, cJSON **tokenizer, cJSON **config);

/* The way back: adds the metadata of a tokenizer.json and a tokenizer_config.json (NULL: none) to a file that is being
 * written, with `vocab_size` tokens, those that the tokenizer lacks being unused ones. What llama.cpp would not treat in the
 * same way is TN_ERROR_UNSUPPORTED, `where` naming the tokenizer; but a Metaspace that puts its space before the first word
 * only is written as one that does so behind every special token, which is all that GGUF knows. The ids of bos and eos are
 * left to the caller, who may know more of them. */
typedef struct tn_gguf_tokenizer_roles {
    int32_t bos, eos, unknown, pad; /* -1: none */
    bool adds_bos, adds_eos;
} tn_gguf_tokenizer_roles;
tn_status tn_gguf_write_tokenizer(tn_gguf_writer *writer, const cJSON *tokenizer, const cJSON *config,
                                  const tn_gguf_tokenizer_roles *roles, int64_t vocab_size, const char *where);

/* gguf_scores.c: a piece cut in two. Appends the cuts of all pieces, which are the merges of the tokenizer, best first. */
typedef struct tn_gguf_cut {
    float score;
    int32_t piece, left, right; /* ids */
} tn_gguf_cut;
tn_status tn_gguf_cuts(const char *const *tokens, const int32_t *types, const float *scores, int64_t count,
                       const char *where, tn_buf *out);

/* gguf_pre.c: what a tokenizer.ggml.pre stands for. */
typedef struct tn_gguf_pre {
    const char *names[8];    /* up to the first NULL; the first is the one to write */
    const char *patterns[6]; /* up to the first NULL: text is cut at the matches of one after the other */
    bool ignores_merges;     /* a word that is a token stays one */
    bool adds_bos;           /* unless the file says otherwise */
    bool composes;           /* text is normalised to NFC */
} tn_gguf_pre;

/* NULL when unknown. */
const tn_gguf_pre *tn_gguf_pre_find(const char *name);

/* The entry with just these patterns and properties, or NULL. */
const tn_gguf_pre *tn_gguf_pre_match(const char *const *patterns, int count, bool ignores_merges, bool composes);

/* The expression of GPT-2, which tokenizer.json leaves to a ByteLevel step with use_regex. */
const char *tn_gguf_pre_words(void);

/* Appends the known names, with commas. */
void tn_gguf_pre_list(tn_buf *out);

/* Types of tokens, as tokenizer.ggml.token_type numbers them. */
enum {
    TN_GGUF_TOKEN_NORMAL = 1,
    TN_GGUF_TOKEN_UNKNOWN,
    TN_GGUF_TOKEN_CONTROL,
    TN_GGUF_TOKEN_USER_DEFINED,
    TN_GGUF_TOKEN_UNUSED,
    TN_GGUF_TOKEN_BYTE
};

#endif
