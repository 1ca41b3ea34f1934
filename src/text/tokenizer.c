/* tokenizer.json as a whole. Encoding: added tokens are cut out of the raw text; what is between is normalised, searched for
 * the added tokens of normalised text, pre-tokenised into words, and the words go through the model. */
#include "text/tokenizer.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "format/json.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decode.h"
#include "text/gguf_tokenizer.h"
#include "text/normalize.h"
#include "text/post_process.h"
#include "text/pretokenize.h"
#include "text/unicode.h"
#include "text/vocab.h"

enum { TOKENIZER_FILE_MAX = 512 << 20, CONFIG_FILE_MAX = 64 << 20, TEXT_MAX = 1 << 30 };

struct tn_tokenizer {
    tn_arena arena;
    tn_vocab vocab;
    tn_added_tokens raw_added, normalized_added;
    tn_normalizer normalizer;
    tn_pretokenizer pretokenizer;
    tn_bpe bpe;
    tn_post_processor post_processor;
    tn_text_decoder decoder;
    int32_t bos, eos, pad;
};

struct tn_decode_stream {
    const tn_tokenizer *tokenizer;
    bool skip_special;
    tn_decode_state state;
};

tn_status tn_ids_append(tn_ids *ids, const int32_t *more, size_t count) {
    if (count > ids->capacity - ids->count) {
        size_t capacity = ids->capacity ? ids->capacity * 2 : 64;
        if (capacity < ids->count + count)
            capacity = ids->count + count;
        int32_t *data = tn_realloc_array(ids->data, capacity, sizeof *data);
        if (!data)
            return tn_fail_memory("token ids");
        ids->data = data;
        ids->capacity = capacity;
    }
    if (count)
        memcpy(ids->data + ids->count, more, count * sizeof *more);
    ids->count += count;
    return TN_OK;
}

tn_status tn_ids_push(tn_ids *ids, int32_t id) {
    return tn_ids_append(ids, &id, 1);
}

void tn_ids_free(tn_ids *ids) {
    tn_free(ids->data);
    *ids = (tn_ids){0};
}

/* Files from before the type was written down are told apart by what their models hold. */
static const char *model_type(const cJSON *model) {
    const cJSON *type = tn_json_get(model, "type");
    if (cJSON_IsString(type))
        return type->valuestring;
    if (cJSON_IsArray(tn_json_get(model, "vocab")))
        return "Unigram";
    if (tn_json_get(model, "merges"))
        return "BPE";
    return tn_json_get(model, "max_input_chars_per_word") ? "WordPiece" : "WordLevel";
}

static tn_status parse_model(const cJSON *model, const char *where, tn_tokenizer *t) {
    if (!cJSON_IsObject(model))
        return tn_fail(TN_ERROR_FORMAT, "%s: there is no \"model\" object; is this a tokenizer.json?", where);
    const char *type = model_type(model);
    if (strcmp(type, "BPE") != 0)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: model type '%.100s' is not supported (supported: BPE)", where, type);
    return tn_bpe_parse(model, where, &t->vocab, &t->bpe);
}

/* Tokens of normalised text are themselves compared in normalised form. */
static tn_status add_searchable(tn_tokenizer *t, const char *content, bool normalized, tn_added_token token,
                                const char *where) {
    size_t length = strlen(content);
    if (!normalized)
        return tn_added_tokens_add(&t->raw_added, content, length, token, where);
    tn_normalize_scratch scratch = {0};
    tn_status status = tn_normalizer_apply(&t->normalizer, &scratch, &content, &length);
    if (status == TN_OK)
        status = tn_added_tokens_add(&t->normalized_added, content, length, token, where);
    tn_normalize_scratch_free(&scratch);
    return status;
}

static tn_status parse_added_token(const cJSON *item, const char *where, tn_tokenizer *t) {
    const char *content = NULL;
    int64_t id = -1;
    bool special = false, normalized = true;
    tn_added_token token = {0};
    TN_TRY(tn_json_get_string(item, "content", where, &content));
    TN_TRY(tn_json_get_int(item, "id", where, 0, TN_TOKEN_ID_MAX, &id));
    TN_TRY(tn_json_get_bool(item, "special", where, &special));
    TN_TRY(tn_json_get_bool(item, "normalized", where, &normalized));
    TN_TRY(tn_json_get_bool(item, "single_word", where, &token.single_word));
    TN_TRY(tn_json_get_bool(item, "lstrip", where, &token.lstrip));
    TN_TRY(tn_json_get_bool(item, "rstrip", where, &token.rstrip));
    if (!content || id < 0)
        return tn_fail(TN_ERROR_FORMAT, "%s: an added token lacks \"content\" or \"id\"", where);
    token.id = (int32_t)id;
    TN_TRY(tn_vocab_add(&t->vocab, content, strlen(content), token.id, special ? TN_TOKEN_SPECIAL : 0, where));
    return add_searchable(t, content, normalized, token, where);
}

/* The library puts special tokens into its search first; with equal texts after normalisation the first counts. */
static tn_status parse_added_tokens(const cJSON *list, const char *where, tn_tokenizer *t) {
    const cJSON *item;
    if (list && !cJSON_IsArray(list))
        return tn_fail(TN_ERROR_FORMAT, "%s: \"added_tokens\" must be a list", where);
    for (int pass = 0; pass < 2; pass++)
        cJSON_ArrayForEach(item, list) {
            bool special = false;
            TN_TRY(tn_json_get_bool(item, "special", where, &special));
            if (special == (pass == 0))
                TN_TRY(parse_added_token(item, where, t));
        }
    return TN_OK;
}

static tn_status parse_parts(const cJSON *json, const char *where, tn_tokenizer *t) {
    const char *version = "1.0";
    if (!cJSON_IsObject(json))
        return tn_fail(TN_ERROR_FORMAT, "%s: a tokenizer.json must be one JSON object", where);
    TN_TRY(tn_json_get_string(json, "version", where, &version));
    if (strcmp(version, "1.0") != 0)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: version '%.100s' is not supported (supported: 1.0)", where, version);
    TN_TRY(parse_model(tn_json_get(json, "model"), where, t));
    TN_TRY(tn_normalizer_parse(tn_json_get(json, "normalizer"), where, &t->arena, &t->normalizer));
    TN_TRY(parse_added_tokens(tn_json_get(json, "added_tokens"), where, t));
    TN_TRY(tn_pretokenizer_parse(tn_json_get(json, "pre_tokenizer"), where, &t->pretokenizer));
    TN_TRY(tn_post_processor_parse(tn_json_get(json, "post_processor"), where, &t->vocab, &t->post_processor));
    return tn_text_decoder_parse(tn_json_get(json, "decoder"), where, &t->arena, &t->decoder);
}

static tn_status from_json(const cJSON *json, const char *where, tn_tokenizer **out) {
    *out = NULL;
    tn_tokenizer *t = tn_calloc(1, sizeof *t);
    if (!t)
        return tn_fail_memory("a tokenizer");
    t->bos = t->eos = t->pad = -1;
    tn_status status = parse_parts(json, where, t);
    if (status == TN_OK)
        *out = t;
    else
        tn_tokenizer_free(t);
    return status;
}

tn_status tn_tokenizer_parse(const char *json, size_t length, const char *where, tn_tokenizer **out) {
    cJSON *parsed = NULL;
    *out = NULL;
    TN_TRY(tn_json_parse(json, length, where, &parsed));
    tn_status status = from_json(parsed, where, out);
    cJSON_Delete(parsed);
    return status;
}

/* A token text, or the "content" of an AddedToken object; an id that is already known stays. */
static void read_role(const cJSON *config, const char *key, const tn_tokenizer *t, int32_t *id) {
    const cJSON *value = tn_json_get(config, key);
    if (cJSON_IsObject(value))
        value = tn_json_get(value, "content");
    if (*id < 0 && cJSON_IsString(value))
        *id = tn_tokenizer_id(t, value->valuestring);
}

static void read_all_roles(const cJSON *config, tn_tokenizer *t) {
    read_role(config, "bos_token", t, &t->bos);
    read_role(config, "eos_token", t, &t->eos);
    read_role(config, "pad_token", t, &t->pad);
}

tn_status tn_tokenizer_build(const cJSON *json, const cJSON *config, const char *where, tn_tokenizer **out) {
    TN_TRY(from_json(json, where, out));
    read_all_roles(config, *out);
    return TN_OK;
}

static tn_status load_gguf(const char *path, tn_tokenizer **out) {
    cJSON *json, *config;
    TN_TRY(tn_gguf_tokenizer_read(path, &json, &config));
    tn_status status =
        json ? tn_tokenizer_build(json, config, path, out) : tn_fail(TN_ERROR_UNSUPPORTED, "%s holds no tokenizer", path);
    cJSON_Delete(json);
    cJSON_Delete(config);
    return status;
}

static tn_status read_roles(const char *dir, const char *name, tn_tokenizer *t) {
    char path[TN_PATH_MAX];
    cJSON *config = NULL;
    TN_TRY(tn_path_join(path, dir, name));
    if (!tn_path_exists(path))
        return TN_OK;
    TN_TRY(tn_json_read(path, CONFIG_FILE_MAX, &config));
    read_all_roles(config, t);
    cJSON_Delete(config);
    return TN_OK;
}

/* The folder and the file in it that `path`, either of them, means. */
static tn_status locate(const char *path, char dir[TN_PATH_MAX], char file[TN_PATH_MAX]) {
    size_t length = strlen(path);
    if (length >= TN_PATH_MAX)
        return tn_fail(TN_ERROR_ARGUMENT, "the path %.100s... is too long", path);
    memcpy(dir, path, length + 1);
    if (tn_path_is_dir(path))
        return tn_path_join(file, path, "tokenizer.json");
    memcpy(file, path, length + 1);
    char *slash = strrchr(dir, '/');
    if (!slash)
        memcpy(dir, ".", 2);
    else
        slash[slash == dir] = 0;
    return TN_OK;
}

tn_status tn_tokenizer_load(const char *path, tn_tokenizer **out) {
    char dir[TN_PATH_MAX], file[TN_PATH_MAX];
    cJSON *json = NULL;
    bool is_gguf;
    *out = NULL;
    TN_TRY(tn_gguf_locate(path, file, &is_gguf));
    if (is_gguf)
        return load_gguf(file, out);
    TN_TRY(locate(path, dir, file));
    TN_TRY(tn_json_read(file, TOKENIZER_FILE_MAX, &json));
    tn_status status = from_json(json, file, out);
    cJSON_Delete(json);
    if (status == TN_OK)
        status = read_roles(dir, "tokenizer_config.json", *out);
    if (status == TN_OK)
        status = read_roles(dir, "special_tokens_map.json", *out);
    if (status != TN_OK) {
        tn_tokenizer_free(*out);
        *out = NULL;
    }
    return status;
}

void tn_tokenizer_free(tn_tokenizer *tokenizer) {
    if (!tokenizer)
        return;
    tn_text_decoder_free(&tokenizer->decoder);
    tn_post_processor_free(&tokenizer->post_processor);
    tn_bpe_free(&tokenizer->bpe);
    tn_pretokenizer_free(&tokenizer->pretokenizer);
    tn_normalizer_free(&tokenizer->normalizer);
    tn_added_tokens_free(&tokenizer->normalized_added);
    tn_added_tokens_free(&tokenizer->raw_added);
    tn_vocab_free(&tokenizer->vocab);
    tn_arena_free(&tokenizer->arena);
    tn_free(tokenizer);
}

/* One call of encode. */
typedef struct encoding {
    const tn_tokenizer *tokenizer;
    tn_normalize_scratch normalize;
    tn_pretokenize_scratch pretokenize;
    tn_bpe_scratch bpe;
    tn_ids *out;
} encoding;

static tn_status encode_word(void *context, const char *word, size_t length) {
    encoding *e = context;
    const tn_tokenizer *t = e->tokenizer;
    return tn_bpe_encode(&t->bpe, &e->bpe, word, length, t->pretokenizer.leaves_bytes, e->out);
}

static tn_status encode_normalized(void *context, const char *stretch, size_t length, bool at_start, int32_t id) {
    encoding *e = context;
    if (id >= 0)
        return tn_ids_push(e->out, id);
    return tn_pretokenize(&e->tokenizer->pretokenizer, &e->pretokenize, stretch, length, at_start, encode_word, e);
}

static tn_status encode_raw(void *context, const char *stretch, size_t length, bool at_start, int32_t id) {
    encoding *e = context;
    if (id >= 0)
        return tn_ids_push(e->out, id);
    TN_TRY(tn_normalizer_apply(&e->tokenizer->normalizer, &e->normalize, &stretch, &length));
    return tn_added_tokens_split(&e->tokenizer->normalized_added, stretch, length, at_start, encode_normalized, e);
}

static tn_status encode_valid(const tn_tokenizer *t, const char *text, size_t length, tn_ids *out) {
    encoding e = {.tokenizer = t, .out = out};
    tn_status status = tn_added_tokens_split(&t->raw_added, text, length, true, encode_raw, &e);
    tn_normalize_scratch_free(&e.normalize);
    tn_pretokenize_scratch_free(&e.pretokenize);
    tn_bpe_scratch_free(&e.bpe);
    return status;
}

static tn_status encode_text(const tn_tokenizer *t, const char *text, size_t length, tn_ids *out) {
    if (tn_utf8_valid_prefix(text, length) == length)
        return encode_valid(t, text, length, out);
    tn_buf clean = {0};
    tn_utf8_append_lossy(&clean, text, length, true);
    tn_status status = tn_buf_status(&clean);
    if (status == TN_OK)
        status = encode_valid(t, clean.data, clean.length, out);
    tn_buf_free(&clean);
    return status;
}

tn_status tn_tokenizer_encode(const tn_tokenizer *tokenizer, const char *text, size_t length, bool add_special,
                              tn_ids *out) {
    const tn_post_processor *post = &tokenizer->post_processor;
    size_t before = out->count;
    tn_status status = TN_OK;
    if (length > TEXT_MAX)
        return tn_fail(TN_ERROR_ARGUMENT,
                       "a text of %zu bytes is too long to be encoded at once; cut it into parts of at most "
                       "%d bytes",
                       length, TEXT_MAX);
    if (add_special)
        status = tn_ids_append(out, post->before.data, post->before.count);
    if (status == TN_OK)
        status = encode_text(tokenizer, text, length, out);
    if (status == TN_OK && add_special)
        status = tn_ids_append(out, post->after.data, post->after.count);
    if (status != TN_OK)
        out->count = before;
    return status;
}

tn_status tn_decode_stream_new(const tn_tokenizer *tokenizer, bool skip_special, tn_decode_stream **out) {
    *out = tn_calloc(1, sizeof **out);
    if (!*out)
        return tn_fail_memory("decoding");
    (*out)->tokenizer = tokenizer;
    (*out)->skip_special = skip_special;
    return TN_OK;
}

tn_status tn_decode_stream_push(tn_decode_stream *stream, int32_t id, tn_buf *out) {
    const tn_tokenizer *t = stream->tokenizer;
    size_t length = 0;
    const char *token = tn_vocab_token(&t->vocab, id, &length);
    if (!token)
        return tn_fail(TN_ERROR_ARGUMENT, "no token has the id %d; the vocabulary ends at %d", (int)id,
                       (int)t->vocab.size - 1);
    if (stream->skip_special && tn_vocab_has_flags(&t->vocab, id, TN_TOKEN_SPECIAL))
        return TN_OK;
    return tn_text_decoder_push(&t->decoder, &stream->state, token, length, out);
}

tn_status tn_decode_stream_finish(tn_decode_stream *stream, tn_buf *out) {
    return tn_text_decoder_finish(&stream->tokenizer->decoder, &stream->state, out);
}

void tn_decode_stream_free(tn_decode_stream *stream) {
    if (!stream)
        return;
    tn_decode_state_free(&stream->state);
    tn_free(stream);
}

tn_status tn_tokenizer_decode(const tn_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                              tn_buf *out) {
    tn_decode_stream *stream = NULL;
    TN_TRY(tn_decode_stream_new(tokenizer, skip_special, &stream));
    tn_status status = TN_OK;
    for (size_t i = 0; i < count && status == TN_OK; i++)
        status = tn_decode_stream_push(stream, ids[i], out);
    if (status == TN_OK)
        status = tn_decode_stream_finish(stream, out);
    tn_decode_stream_free(stream);
    return status;
}

int32_t tn_tokenizer_vocab_size(const tn_tokenizer *tokenizer) {
    return tokenizer->vocab.size;
}

int32_t tn_tokenizer_id(const tn_tokenizer *tokenizer, const char *token) {
    return tn_vocab_find(&tokenizer->vocab, token, strlen(token), 0);
}

const char *tn_tokenizer_token(const tn_tokenizer *tokenizer, int32_t id) {
    return tn_vocab_token(&tokenizer->vocab, id, NULL);
}

int32_t tn_tokenizer_bos(const tn_tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t tn_tokenizer_eos(const tn_tokenizer *tokenizer) {
    return tokenizer->eos;
}

int32_t tn_tokenizer_pad(const tn_tokenizer *tokenizer) {
    return tokenizer->pad;
}

bool tn_tokenizer_adds_bos(const tn_tokenizer *tokenizer) {
    const tn_ids *before = &tokenizer->post_processor.before;
    return before->count > 0 && before->data[0] == tokenizer->bos;
}
