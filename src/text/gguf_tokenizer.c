/* Byte-level BPE comes with its merges, SentencePiece with scores that stand for them (gguf_scores.c). */
#include "text/gguf_tokenizer.h"

#include <math.h>
#include <string.h>

#include "base/utf8.h"
#include "text/vocab.h"

typedef struct reader {
    tn_gguf *file;
    bool spm;
    const tn_gguf_pre *pre; /* unless spm */
    const char **tokens;    /* [count] */
    int32_t *types;         /* [count] of TN_GGUF_TOKEN_... */
    int64_t count;
    int64_t bos, eos, unknown, pad; /* -1: none */
    bool adds_bos, adds_eos, adds_space;
    tn_arena arena;
} reader;

static tn_status copy_text(reader *r, const tn_gguf_string *string, const char *what, int64_t index, const char **out) {
    if (memchr(string->bytes, 0, string->length) || tn_utf8_valid_prefix(string->bytes, string->length) != string->length)
        return tn_fail(TN_ERROR_FORMAT, "%s: %s %lld of the tokenizer is not valid UTF-8", r->file->path, what,
                       (long long)index);
    *out = tn_arena_strndup(&r->arena, string->bytes, string->length);
    return *out ? TN_OK : tn_fail_memory("a tokenizer");
}

/* An empty token has the name that llama.cpp gives it. */
static tn_status read_tokens(reader *r) {
    const tn_gguf_value *tokens, *types = tn_gguf_find(r->file, "tokenizer.ggml.token_type");
    TN_TRY(tn_gguf_get_array(r->file, "tokenizer.ggml.tokens", TN_GGUF_STRING, &tokens));
    r->count = tokens->count;
    if (r->count < 1 || r->count > TN_TOKEN_ID_MAX)
        return tn_fail(TN_ERROR_FORMAT, "%s: a vocabulary of %lld tokens is not possible", r->file->path,
                       (long long)r->count);
    if (types && (!types->is_array || types->count != r->count))
        return tn_fail(TN_ERROR_FORMAT, "%s: 'tokenizer.ggml.token_type' must be an array of %lld numbers", r->file->path,
                       (long long)r->count);
    r->tokens = tn_arena_array(&r->arena, (size_t)r->count, sizeof *r->tokens);
    r->types = tn_arena_array(&r->arena, (size_t)r->count, sizeof *r->types);
    if (!r->tokens || !r->types)
        return tn_fail_memory("a tokenizer");
    for (int64_t i = 0; i < r->count; i++) {
        int64_t type = TN_GGUF_TOKEN_NORMAL;
        TN_TRY(copy_text(r, &tokens->strings[i], "token", i, &r->tokens[i]));
        if (!*r->tokens[i] && !(r->tokens[i] = tn_arena_printf(&r->arena, "[EMPTY_%lld]", (long long)i)))
            return tn_fail_memory("a tokenizer");
        if (types && !tn_gguf_integer_at(types, i, &type))
            return tn_fail(TN_ERROR_FORMAT, "%s: 'tokenizer.ggml.token_type' must hold whole numbers", r->file->path);
        r->types[i] = type >= 0 && type <= TN_GGUF_TOKEN_BYTE ? (int32_t)type : 0;
    }
    return TN_OK;
}

static tn_status read_id(const reader *r, const char *key, int64_t *id) {
    if (tn_gguf_find(r->file, key))
        TN_TRY(tn_gguf_get_integer(r->file, key, id));
    if (*id >= r->count || *id < 0)
        *id = -1; /* llama.cpp ignores such ids, too */
    return TN_OK;
}

static tn_status read_switch(const reader *r, const char *key, bool *on) {
    return tn_gguf_find(r->file, key) ? tn_gguf_get_bool(r->file, key, on) : TN_OK;
}

/* What the file does not say is as in llama.cpp. */
static tn_status read_settings(reader *r) {
    r->bos = r->spm ? 1 : -1;
    r->eos = r->spm ? 2 : -1;
    r->unknown = r->spm ? 0 : -1;
    r->pad = -1;
    r->adds_bos = r->spm || r->pre->adds_bos;
    r->adds_space = r->spm;
    TN_TRY(read_id(r, "tokenizer.ggml.bos_token_id", &r->bos));
    TN_TRY(read_id(r, "tokenizer.ggml.eos_token_id", &r->eos));
    TN_TRY(read_id(r, "tokenizer.ggml.unknown_token_id", &r->unknown));
    TN_TRY(read_id(r, "tokenizer.ggml.padding_token_id", &r->pad));
    TN_TRY(read_switch(r, "tokenizer.ggml.add_bos_token", &r->adds_bos));
    TN_TRY(read_switch(r, "tokenizer.ggml.add_eos_token", &r->adds_eos));
    return read_switch(r, "tokenizer.ggml.add_space_prefix", &r->adds_space);
}

/* *found is false when there is no tokenizer. */
static tn_status read_kind(reader *r, bool *found) {
    const char *model = "none", *pre = "default";
    if (tn_gguf_find(r->file, "tokenizer.ggml.model"))
        TN_TRY(tn_gguf_get_string(r->file, "tokenizer.ggml.model", &model));
    *found = strcmp(model, "none") != 0 && strcmp(model, "no_vocab") != 0;
    if (!*found)
        return TN_OK;
    r->spm = strcmp(model, "llama") == 0;
    if (!r->spm && strcmp(model, "gpt2") != 0)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s: the tokenizer model '%.64s' is not supported; supported are gpt2 (byte-level BPE) and llama "
                       "(SentencePiece BPE)",
                       r->file->path, model);
    if (tn_gguf_find(r->file, "tokenizer.ggml.pre"))
        TN_TRY(tn_gguf_get_string(r->file, "tokenizer.ggml.pre", &pre));
    r->pre = tn_gguf_pre_find(pre);
    if (r->spm || r->pre)
        return TN_OK;
    tn_buf names = {0};
    tn_gguf_pre_list(&names);
    tn_status status = tn_fail(TN_ERROR_UNSUPPORTED, "%s: the pre-tokenizer '%.64s' is not known; known are %s",
                               r->file->path, pre, tn_buf_text(&names));
    tn_buf_free(&names);
    return status;
}

static tn_status add_stored_merges(reader *r, cJSON *merges) {
    const tn_gguf_value *list;
    TN_TRY(tn_gguf_get_array(r->file, "tokenizer.ggml.merges", TN_GGUF_STRING, &list));
    for (int64_t i = 0; i < list->count; i++) {
        const char *merge;
        TN_TRY(copy_text(r, &list->strings[i], "merge", i, &merge));
        cJSON_AddItemToArray(merges, cJSON_CreateString(merge));
    }
    return TN_OK;
}

static tn_status add_scored_merges(reader *r, cJSON *merges) {
    const tn_gguf_value *stored = tn_gguf_find(r->file, "tokenizer.ggml.scores");
    tn_buf list = {0}, text = {0};
    float *scores = tn_arena_array(&r->arena, (size_t)r->count, sizeof *scores);
    if (!scores)
        return tn_fail_memory("a tokenizer");
    if (!stored || !stored->is_array || stored->count != r->count)
        return tn_fail(TN_ERROR_FORMAT, "%s: 'tokenizer.ggml.scores' must be an array of %lld numbers", r->file->path,
                       (long long)r->count);
    for (int64_t i = 0; i < r->count; i++) {
        double score = NAN;
        tn_gguf_number_at(stored, i, &score);
        scores[i] = (float)score;
    }
    tn_status status = tn_gguf_cuts(r->tokens, r->types, scores, r->count, r->file->path, &list);
    const tn_gguf_cut *cuts = (const tn_gguf_cut *)(const void *)list.data;
    for (size_t i = 0; status == TN_OK && i < list.length / sizeof *cuts; i++) {
        tn_buf_clear(&text);
        tn_buf_printf(&text, "%s %s", r->tokens[cuts[i].left], r->tokens[cuts[i].right]);
        status = tn_buf_status(&text);
        cJSON_AddItemToArray(merges, cJSON_CreateString(tn_buf_text(&text)));
    }
    tn_buf_free(&list);
    tn_buf_free(&text);
    return status;
}

static tn_status add_model(reader *r, cJSON *json) {
    cJSON *model = cJSON_AddObjectToObject(json, "model"), *vocab, *merges;
    cJSON_AddStringToObject(model, "type", "BPE");
    cJSON_AddNullToObject(model, "dropout");
    if (r->spm && r->unknown >= 0)
        cJSON_AddStringToObject(model, "unk_token", r->tokens[r->unknown]);
    else
        cJSON_AddNullToObject(model, "unk_token");
    cJSON_AddNullToObject(model, "continuing_subword_prefix");
    cJSON_AddNullToObject(model, "end_of_word_suffix");
    cJSON_AddBoolToObject(model, "fuse_unk", r->spm);
    cJSON_AddBoolToObject(model, "byte_fallback", r->spm);
    cJSON_AddBoolToObject(model, "ignore_merges", !r->spm && r->pre->ignores_merges);
    vocab = cJSON_AddObjectToObject(model, "vocab");
    for (int64_t i = 0; i < r->count; i++)
        cJSON_AddNumberToObject(vocab, r->tokens[i], (double)i);
    merges = cJSON_AddArrayToObject(model, "merges");
    if (!vocab || !merges)
        return tn_fail_memory("a tokenizer");
    return r->spm ? add_scored_merges(r, merges) : add_stored_merges(r, merges);
}

/* Control tokens and the like are searched for in the raw text before anything else happens to it. */
static void add_added_tokens(const reader *r, cJSON *json) {
    static const char *const off[] = {"single_word", "lstrip", "rstrip", "normalized"};
    cJSON *list = cJSON_AddArrayToObject(json, "added_tokens");
    for (int64_t i = 0; i < r->count; i++) {
        int32_t type = r->types[i];
        if (type != TN_GGUF_TOKEN_CONTROL && type != TN_GGUF_TOKEN_USER_DEFINED && type != TN_GGUF_TOKEN_UNKNOWN)
            continue;
        cJSON *token = cJSON_CreateObject();
        cJSON_AddNumberToObject(token, "id", (double)i);
        cJSON_AddStringToObject(token, "content", r->tokens[i]);
        for (size_t n = 0; n < sizeof off / sizeof *off; n++)
            cJSON_AddFalseToObject(token, off[n]);
        cJSON_AddBoolToObject(token, "special", type != TN_GGUF_TOKEN_USER_DEFINED);
        cJSON_AddItemToArray(list, token);
    }
}

static cJSON *typed(const char *type) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "type", type);
    return object;
}

/* {"type": "Sequence", list: [...]}; returns the list. */
static cJSON *add_sequence(cJSON *json, const char *key, const char *list) {
    cJSON *sequence = typed("Sequence");
    cJSON_AddItemToObject(json, key, sequence);
    return cJSON_AddArrayToObject(sequence, list);
}

static cJSON *replacement(const char *from, const char *to) {
    cJSON *replace = typed("Replace");
    cJSON_AddStringToObject(cJSON_AddObjectToObject(replace, "pattern"), "String", from);
    cJSON_AddStringToObject(replace, "content", to);
    return replace;
}

static const char word_start[] = "\xe2\x96\x81"; /* U+2581 */

static void add_spm_steps(const reader *r, cJSON *json) {
    cJSON *steps = add_sequence(json, "normalizer", "normalizers");
    if (r->adds_space) {
        cJSON *prepend = typed("Prepend");
        cJSON_AddStringToObject(prepend, "prepend", word_start);
        cJSON_AddItemToArray(steps, prepend);
    }
    cJSON_AddItemToArray(steps, replacement(" ", word_start));
    cJSON_AddNullToObject(json, "pre_tokenizer");
    steps = add_sequence(json, "decoder", "decoders");
    cJSON_AddItemToArray(steps, replacement(word_start, " "));
    cJSON_AddItemToArray(steps, typed("ByteFallback"));
    cJSON_AddItemToArray(steps, typed("Fuse"));
    if (r->adds_space) {
        cJSON *strip = typed("Strip");
        cJSON_AddStringToObject(strip, "content", " ");
        cJSON_AddNumberToObject(strip, "start", 1);
        cJSON_AddNumberToObject(strip, "stop", 0);
        cJSON_AddItemToArray(steps, strip);
    }
}

static cJSON *byte_level(void) {
    cJSON *step = typed("ByteLevel");
    cJSON_AddFalseToObject(step, "add_prefix_space");
    cJSON_AddTrueToObject(step, "trim_offsets");
    cJSON_AddFalseToObject(step, "use_regex");
    return step;
}

static void add_bpe_steps(const reader *r, cJSON *json) {
    if (r->pre->composes)
        cJSON_AddItemToObject(json, "normalizer", typed("NFC"));
    else
        cJSON_AddNullToObject(json, "normalizer");
    cJSON *steps = add_sequence(json, "pre_tokenizer", "pretokenizers");
    for (size_t i = 0; i < sizeof r->pre->patterns / sizeof *r->pre->patterns && r->pre->patterns[i]; i++) {
        cJSON *split = typed("Split");
        cJSON_AddStringToObject(cJSON_AddObjectToObject(split, "pattern"), "Regex", r->pre->patterns[i]);
        cJSON_AddStringToObject(split, "behavior", "Isolated");
        cJSON_AddFalseToObject(split, "invert");
        cJSON_AddItemToArray(steps, split);
    }
    cJSON_AddItemToArray(steps, byte_level());
    cJSON_AddItemToObject(json, "decoder", byte_level());
}

static void add_to_template(const reader *r, int64_t id, int second, cJSON *single, cJSON *pair, cJSON *tokens) {
    for (int part = 0; part < 2; part++) {
        cJSON *item = cJSON_CreateObject(), *special = cJSON_AddObjectToObject(item, "SpecialToken");
        cJSON_AddStringToObject(special, "id", r->tokens[id]);
        cJSON_AddNumberToObject(special, "type_id", part ? second : 0);
        cJSON_AddItemToArray(part ? pair : single, item);
    }
    if (cJSON_GetObjectItemCaseSensitive(tokens, r->tokens[id]))
        return;
    const char *text = r->tokens[id];
    double number = (double)id;
    cJSON *token = cJSON_AddObjectToObject(tokens, text);
    cJSON_AddStringToObject(token, "id", text);
    cJSON_AddItemToObject(token, "ids", cJSON_CreateDoubleArray(&number, 1));
    cJSON_AddItemToObject(token, "tokens", cJSON_CreateStringArray(&text, 1));
}

static void add_text_to_template(const char *id, int type, cJSON *list) {
    cJSON *item = cJSON_CreateObject(), *sequence = cJSON_AddObjectToObject(item, "Sequence");
    cJSON_AddStringToObject(sequence, "id", id);
    cJSON_AddNumberToObject(sequence, "type_id", type);
    cJSON_AddItemToArray(list, item);
}

/* The text, or two of them, each between bos and eos as the file wishes. */
static void add_post_processor(const reader *r, cJSON *json) {
    bool bos = r->adds_bos && r->bos >= 0, eos = r->adds_eos && r->eos >= 0;
    if (!bos && !eos) {
        cJSON_AddNullToObject(json, "post_processor");
        return;
    }
    cJSON *post = typed("TemplateProcessing"), *single = cJSON_AddArrayToObject(post, "single");
    cJSON *pair = cJSON_AddArrayToObject(post, "pair"), *tokens = cJSON_AddObjectToObject(post, "special_tokens");
    cJSON *unused = cJSON_CreateArray();
    cJSON_AddItemToObject(json, "post_processor", post);
    for (int text = 0; text < 2; text++) {
        cJSON *one = text ? unused : single;
        if (bos)
            add_to_template(r, r->bos, text, one, pair, tokens);
        add_text_to_template(text ? "B" : "A", text, pair);
        if (!text)
            add_text_to_template("A", 0, single);
        if (eos)
            add_to_template(r, r->eos, text, one, pair, tokens);
    }
    cJSON_Delete(unused);
}

static tn_status build_tokenizer(reader *r, cJSON *json) {
    TN_TRY(read_tokens(r));
    TN_TRY(read_settings(r));
    cJSON_AddStringToObject(json, "version", "1.0");
    cJSON_AddNullToObject(json, "truncation");
    cJSON_AddNullToObject(json, "padding");
    add_added_tokens(r, json);
    if (r->spm)
        add_spm_steps(r, json);
    else
        add_bpe_steps(r, json);
    add_post_processor(r, json);
    return add_model(r, json);
}

static void add_role(const reader *r, cJSON *config, const char *key, int64_t id) {
    if (id >= 0)
        cJSON_AddStringToObject(config, key, r->tokens[id]);
}

static tn_status build_config(reader *r, bool has_tokenizer, cJSON *config) {
    const char *chat_template;
    if (has_tokenizer) {
        /* takes tokenizer.json as it is; classes of families change it by settings of their own */
        cJSON_AddStringToObject(config, "tokenizer_class", "PreTrainedTokenizerFast");
        cJSON_AddBoolToObject(config, "add_bos_token", r->adds_bos && r->bos >= 0);
        cJSON_AddBoolToObject(config, "add_eos_token", r->adds_eos && r->eos >= 0);
        cJSON_AddFalseToObject(config, "clean_up_tokenization_spaces");
        add_role(r, config, "bos_token", r->bos);
        add_role(r, config, "eos_token", r->eos);
        add_role(r, config, "unk_token", r->unknown);
        add_role(r, config, "pad_token", r->pad);
    }
    if (!tn_gguf_find(r->file, "tokenizer.chat_template"))
        return TN_OK;
    TN_TRY(tn_gguf_get_string(r->file, "tokenizer.chat_template", &chat_template));
    cJSON_AddStringToObject(config, "chat_template", chat_template);
    return TN_OK;
}

tn_status tn_gguf_tokenizer(tn_gguf *file, cJSON **tokenizer, cJSON **config) {
    reader r = {.file = file};
    bool found = false;
    tn_status status = TN_OK;
    *tokenizer = NULL;
    *config = cJSON_CreateObject();
    TN_TRY_GOTO(*config ? TN_OK : tn_fail_memory("a tokenizer"));
    TN_TRY_GOTO(read_kind(&r, &found));
    if (found) {
        *tokenizer = cJSON_CreateObject();
        TN_TRY_GOTO(*tokenizer ? TN_OK : tn_fail_memory("a tokenizer"));
        TN_TRY_GOTO(build_tokenizer(&r, *tokenizer));
    }
    status = build_config(&r, found, *config);
fail:
    tn_arena_free(&r.arena);
    if (status != TN_OK) {
        cJSON_Delete(*tokenizer);
        cJSON_Delete(*config);
        *tokenizer = *config = NULL;
    }
    return status;
}

tn_status tn_gguf_tokenizer_read(const char *path, cJSON **tokenizer, cJSON **config) {
    tn_gguf file;
    *tokenizer = *config = NULL;
    TN_TRY(tn_gguf_open(path, &file));
    tn_status status = tn_gguf_tokenizer(&file, tokenizer, config);
    tn_gguf_close(&file);
    return status;
}
