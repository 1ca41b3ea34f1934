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
