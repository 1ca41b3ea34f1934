/* Hugging Face tokenizer.json: text to ids and back, and training a byte-level BPE vocabulary from text. */
#ifndef TN_TEXT_TOKENIZER_H
#define TN_TEXT_TOKENIZER_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

typedef struct tn_tokenizer tn_tokenizer;

/* A growable list of token ids; zero-initialise, free with tn_ids_free. */
typedef struct tn_ids {
    int32_t *data;
    size_t count, capacity;
} tn_ids;

tn_status tn_ids_push(tn_ids *ids, int32_t id);
tn_status tn_ids_append(tn_ids *ids, const int32_t *more, size_t count);
void tn_ids_free(tn_ids *ids);

/* `path` is a tokenizer.json, the model folder that holds one, or what tn_gguf_locate takes; tokenizer_config.json and
 * special_tokens_map.json beside a tokenizer.json are read for the bos, eos and pad tokens. Free with tn_tokenizer_free
 * (NULL is fine). Safe for concurrent use by several threads. */
tn_status tn_tokenizer_load(const char *path, tn_tokenizer **out);
void tn_tokenizer_free(tn_tokenizer *tokenizer);

/* As load, from the text of a tokenizer.json; without the files beside it there are no bos, eos and pad tokens. `where`
 * names the text in errors. */
tn_status tn_tokenizer_parse(const char *json, size_t length, const char *where, tn_tokenizer **out);

/* From the contents of a tokenizer.json and, unless NULL, a tokenizer_config.json. */
tn_status tn_tokenizer_build(const cJSON *json, const cJSON *config, const char *where, tn_tokenizer **out);

/* Appends the ids of `text` (any bytes; invalid UTF-8 becomes U+FFFD as the reference library's callers do). With
 * `add_special` the post-processor's special tokens (such as a leading <s>) are added. */
tn_status tn_tokenizer_encode(const tn_tokenizer *tokenizer, const char *text, size_t length, bool add_special, tn_ids *out);

/* Appends the text of `ids`. `skip_special` leaves special tokens out. An id outside the vocabulary is TN_ERROR_ARGUMENT. */
tn_status tn_tokenizer_decode(const tn_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                              tn_buf *out);

/* Decoding ids as they are generated. What is appended by the pushes and the finish together equals tn_tokenizer_decode of
 * all ids; a push holds back what the next id may change, such as an unfinished character. */
typedef struct tn_decode_stream tn_decode_stream;

/* The tokenizer must outlive the stream. Free with tn_decode_stream_free (NULL is fine). */
tn_status tn_decode_stream_new(const tn_tokenizer *tokenizer, bool skip_special, tn_decode_stream **out);
tn_status tn_decode_stream_push(tn_decode_stream *stream, int32_t id, tn_buf *out);
tn_status tn_decode_stream_finish(tn_decode_stream *stream, tn_buf *out); /* the stream then starts anew */
void tn_decode_stream_free(tn_decode_stream *stream);

int32_t tn_tokenizer_vocab_size(const tn_tokenizer *tokenizer);            /* largest id + 1, added tokens included */
int32_t tn_tokenizer_id(const tn_tokenizer *tokenizer, const char *token); /* exact token -> id, or -1 */
const char *tn_tokenizer_token(const tn_tokenizer *tokenizer, int32_t id); /* id -> token as stored, or NULL */
int32_t tn_tokenizer_bos(const tn_tokenizer *tokenizer);                   /* -1 when there is none */
int32_t tn_tokenizer_eos(const tn_tokenizer *tokenizer);
int32_t tn_tokenizer_pad(const tn_tokenizer *tokenizer);
bool tn_tokenizer_adds_bos(const tn_tokenizer *tokenizer); /* encode(add_special) begins with bos */

#endif
