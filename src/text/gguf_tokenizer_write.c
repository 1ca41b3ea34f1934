/* tokenizer.json to GGUF's metadata. Scores of SentencePiece stand for the order of merges: they are -0, -1, -2, ... in the
 * order in which merges first make a piece, and the list of merges that a reader gets out of them is compared with the
 * tokenizer's own. */
#include <string.h>

#include "base/map.h"
#include "base/memory.h"
#include "text/gguf_tokenizer.h"
#include "text/vocab.h"

static const char word_start[] = "\xe2\x96\x81"; /* U+2581 */

typedef struct table {
    const char *where;
    int64_t count;
    const char **tokens; /* [count] */
    int32_t *types;      /* [count] */
    float *scores;       /* [count] */
    tn_arena arena;
} table;

static tn_status cannot(const char *where, const char *what) {
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s: %s has no counterpart in GGUF", where, what);
}

static tn_status put_token(table *t, const char *text, double id, int32_t type) {
    if (!(id >= 0 && id < (double)t->count))
        return tn_fail(TN_ERROR_MISMATCH, "%s: token '%.100s' has the id %g, but the model has %lld tokens", t->where, text,
                       id, (long long)t->count);
    t->tokens[(int64_t)id] = text;
    t->types[(int64_t)id] = type;
    return TN_OK;
}

static bool is_byte_token(const char *text) {
    return strlen(text) == 6 && strncmp(text, "<0x", 3) == 0 && text[5] == '>';
}

static tn_status fill_tokens(table *t, const cJSON *tokenizer, bool spm, int32_t unknown) {
    const cJSON *item;
    cJSON_ArrayForEach(item, tn_json_get(tn_json_get(tokenizer, "model"), "vocab")) TN_TRY(put_token(
        t, item->string, item->valuedouble, spm && is_byte_token(item->string) ? TN_GGUF_TOKEN_BYTE : TN_GGUF_TOKEN_NORMAL));
    cJSON_ArrayForEach(item, tn_json_get(tokenizer, "added_tokens")) {
        const char *content = "";
        bool special = false;
        double id = -1;
        TN_TRY(tn_json_get_string(item, "content", t->where, &content));
        TN_TRY(tn_json_get_bool(item, "special", t->where, &special));
        TN_TRY(tn_json_get_double(item, "id", t->where, &id));
        TN_TRY(put_token(t, content, id, special ? TN_GGUF_TOKEN_CONTROL : TN_GGUF_TOKEN_USER_DEFINED));
    }
    for (int64_t i = 0; i < t->count; i++) {
        if (t->tokens[i])
            continue;
        const char *name = tn_arena_printf(&t->arena, "[PAD%lld]", (long long)i);
        if (!name)
            return tn_fail_memory("a tokenizer");
        TN_TRY(put_token(t, name, (double)i, TN_GGUF_TOKEN_UNUSED));
    }
    if (spm && unknown >= 0 && unknown < t->count)
        t->types[unknown] = TN_GGUF_TOKEN_UNKNOWN;
    return TN_OK;
}

/* "a b" or ["a", "b"], as "a b"; a token with a space in it cannot be told apart. */
static tn_status merge_text(const cJSON *item, const char *where, tn_buf *out) {
    const cJSON *left = cJSON_IsArray(item) ? item->child : NULL, *right = left ? left->next : NULL;
    tn_buf_clear(out);
    if (cJSON_IsString(item))
        tn_buf_puts(out, item->valuestring);
    else if (cJSON_IsString(left) && cJSON_IsString(right))
        tn_buf_printf(out, "%s %s", left->valuestring, right->valuestring);
    TN_TRY(tn_buf_status(out));
    const char *text = tn_buf_text(out), *space = strchr(text, ' ');
    if (!space || strchr(space + 1, ' '))
        return cannot(where, "a merge of tokens with spaces");
    return TN_OK;
}

/* The merges as strings, without the version line that old files begin with. */
static tn_status read_merges(table *t, const cJSON *tokenizer, tn_gguf_string **out, int64_t *count) {
    const cJSON *list = tn_json_get(tn_json_get(tokenizer, "model"), "merges"), *item;
    tn_buf text = {0};
    tn_status status = TN_OK;
    *count = 0;
    *out = tn_arena_array(&t->arena, (size_t)cJSON_GetArraySize(list) + 1, sizeof **out);
    if (!*out)
        return tn_fail_memory("a tokenizer");
    cJSON_ArrayForEach(item, list) {
        if (cJSON_IsString(item) && strncmp(item->valuestring, "#version", 8) == 0)
            continue;
        TN_TRY_GOTO(merge_text(item, t->where, &text));
        char *copy = tn_arena_strdup(&t->arena, tn_buf_text(&text));
        if (!copy) {
            status = tn_fail_memory("a tokenizer");
            goto fail;
        }
        (*out)[(*count)++] = (tn_gguf_string){copy, text.length};
    }
fail:
    tn_buf_free(&text);
    return status;
}

/* Scores by the order in which merges first make a piece; pieces that no merge makes come last. */
static tn_status fill_scores(table *t, const tn_gguf_string *merges, int64_t count) {
    tn_map ids = {0};
    tn_buf joined = {0};
    int64_t made = 0;
    tn_status status = TN_OK;
    bool *done = tn_arena_array(&t->arena, (size_t)t->count, sizeof *done);
    if (!done)
        return tn_fail_memory("a tokenizer");
    for (int64_t i = 0; i < t->count; i++)
        TN_TRY_GOTO(tn_map_put_text(&ids, t->tokens[i], i));
    for (int64_t i = 0; i < count; i++) {
        const char *space = strchr(merges[i].bytes, ' ');
        int64_t id;
        tn_buf_clear(&joined);
        tn_buf_append(&joined, merges[i].bytes, (size_t)(space - merges[i].bytes));
        tn_buf_puts(&joined, space + 1);
        TN_TRY_GOTO(tn_buf_status(&joined));
        if (tn_map_get_text(&ids, tn_buf_text(&joined), &id) && !done[id]) {
            t->scores[id] = -(float)made++;
            done[id] = true;
        }
    }
    for (int64_t i = 0; i < t->count; i++)
        if (!done[i] && t->types[i] == TN_GGUF_TOKEN_NORMAL)
            t->scores[i] = -(float)made++;
fail:
    tn_map_free(&ids);
    tn_buf_free(&joined);
    return status;
}

/* The merges that a reader gets from the scores must be the tokenizer's own. */
static tn_status check_scores(const table *t, const tn_gguf_string *merges, int64_t count) {
    tn_buf list = {0};
    tn_status status = tn_gguf_cuts(t->tokens, t->types, t->scores, t->count, t->where, &list);
    const tn_gguf_cut *cuts = (const tn_gguf_cut *)(const void *)list.data;
    bool same = list.length / sizeof *cuts == (size_t)count;
    for (int64_t i = 0; status == TN_OK && same && i < count; i++) {
        const char *left = t->tokens[cuts[i].left], *right = t->tokens[cuts[i].right];
        size_t length = strlen(left);
        same = merges[i].length == length + 1 + strlen(right) && memcmp(merges[i].bytes, left, length) == 0 &&
               strcmp(merges[i].bytes + length + 1, right) == 0;
    }
    tn_buf_free(&list);
    return status == TN_OK && !same ? cannot(t->where, "an order of merges that no scores stand for") : status;
}

/* The members of a Sequence, or the one step itself; NULL when there is none. */
static const cJSON *first_step(const cJSON *step, const char *list) {
    const cJSON *type = tn_json_get(step, "type");
    if (cJSON_IsString(type) && strcmp(type->valuestring, "Sequence") == 0)
        step = tn_json_get(step, list) ? tn_json_get(step, list)->child : NULL;
    return step;
}

/* The step after this one: steps of a Sequence are items of a list, a lone step is a member of an object. */
static const cJSON *next_step(const cJSON *step) {
    return step->string ? NULL : step->next;
}

static bool is_step(const cJSON *step, const char *wanted) {
    const cJSON *type = tn_json_get(step, "type");
    return cJSON_IsString(type) && strcmp(type->valuestring, wanted) == 0;
}

static bool is_on(const cJSON *step, const char *key, bool otherwise) {
    const cJSON *value = tn_json_get(step, key);
    return value ? cJSON_IsTrue(value) : otherwise;
}

/* The expression that a step of the pre-tokenizer cuts at; "" for none, NULL when GGUF has no such step. */
static const char *pattern_of(const cJSON *step) {
    const cJSON *regex = tn_json_get(tn_json_get(step, "pattern"), "Regex"), *behavior = tn_json_get(step, "behavior");
    if (is_step(step, "Split") && cJSON_IsString(regex) && !is_on(step, "invert", false) && cJSON_IsString(behavior) &&
        strcmp(behavior->valuestring, "Isolated") == 0)
        return regex->valuestring;
    if (is_step(step, "Digits") && is_on(step, "individual_digits", false))
        return "\\p{N}";
    if (is_step(step, "ByteLevel") && !is_on(step, "add_prefix_space", true))
        return is_on(step, "use_regex", true) ? tn_gguf_pre_words() : "";
    return NULL;
}

static tn_status find_pre(const cJSON *tokenizer, const char *where, const tn_gguf_pre **out) {
    enum { MOST = 8 };
    const char *patterns[MOST];
    int count = 0;
    const cJSON *normalizer = first_step(tn_json_get(tokenizer, "normalizer"), "normalizers");
    bool composes = normalizer && is_step(normalizer, "NFC") && !next_step(normalizer);
    if (normalizer && !composes)
        return cannot(where, "this normalizer of a byte-level tokenizer");
    for (const cJSON *step = first_step(tn_json_get(tokenizer, "pre_tokenizer"), "pretokenizers"); step;
         step = next_step(step)) {
        const char *pattern = pattern_of(step);
        if (!pattern || count == MOST)
            return cannot(where, "this pre-tokenizer");
        if (*pattern)
            patterns[count++] = pattern;
    }
    *out = tn_gguf_pre_match(patterns, count, is_on(tn_json_get(tokenizer, "model"), "ignore_merges", false), composes);
    return *out ? TN_OK : cannot(where, "this pre-tokenizer");
}

/* Whether a space is put in front of the text; fails for what else may be done to it. */
static tn_status find_space(const cJSON *tokenizer, const char *where, bool *adds_space) {
    const cJSON *step = first_step(tn_json_get(tokenizer, "normalizer"), "normalizers");
    const cJSON *words = first_step(tn_json_get(tokenizer, "pre_tokenizer"), "pretokenizers");
    bool replaces = false;
    *adds_space = false;
    for (; step; step = next_step(step)) {
        const cJSON *from = tn_json_get(tn_json_get(step, "pattern"), "String"), *to = tn_json_get(step, "content");
        if (is_step(step, "Prepend") && !replaces)
            *adds_space = true;
        else if (is_step(step, "Replace") && cJSON_IsString(from) && strcmp(from->valuestring, " ") == 0 &&
                 cJSON_IsString(to) && strcmp(to->valuestring, word_start) == 0)
            replaces = true;
        else
            return cannot(where, "this normalizer");
    }
    if (words) {
        const cJSON *scheme = tn_json_get(words, "prepend_scheme"), *split = tn_json_get(words, "split");
        if (!is_step(words, "Metaspace") || next_step(words) || !cJSON_IsFalse(split))
            return cannot(where, "this pre-tokenizer");
        *adds_space |= !cJSON_IsString(scheme) || strcmp(scheme->valuestring, "never") != 0;
        replaces = true;
    }
    return replaces ? TN_OK : cannot(where, "a tokenizer that leaves spaces alone");
}

static tn_status write_strings(tn_gguf_writer *writer, const char *key, const tn_gguf_string *strings, int64_t count) {
    return tn_gguf_writer_value(
        writer, &(tn_gguf_value){.key = key, .kind = TN_GGUF_STRING, .is_array = true, .count = count, .strings = strings});
}

static tn_status write_numbers(tn_gguf_writer *writer, const char *key, tn_gguf_kind kind, const void *values,
                               int64_t count) {
    return tn_gguf_writer_value(
        writer, &(tn_gguf_value){.key = key, .kind = kind, .is_array = true, .count = count, .elements = values});
}

static tn_status write_role(tn_gguf_writer *writer, const char *key, int32_t id) {
    return id < 0 ? TN_OK : tn_gguf_writer_integer(writer, key, TN_GGUF_U32, id);
}

static tn_status write_roles(tn_gguf_writer *writer, const tn_gguf_tokenizer_roles *roles, const cJSON *config) {
    const cJSON *source = tn_json_get(config, "chat_template");
    TN_TRY(write_role(writer, "tokenizer.ggml.unknown_token_id", roles->unknown));
    TN_TRY(write_role(writer, "tokenizer.ggml.padding_token_id", roles->pad));
    TN_TRY(tn_gguf_writer_bool(writer, "tokenizer.ggml.add_bos_token", roles->adds_bos));
    TN_TRY(tn_gguf_writer_bool(writer, "tokenizer.ggml.add_eos_token", roles->adds_eos));
    return cJSON_IsString(source) ? tn_gguf_writer_string(writer, "tokenizer.chat_template", source->valuestring) : TN_OK;
}

static tn_status write_spm(tn_gguf_writer *writer, table *t, const cJSON *tokenizer) {
    tn_gguf_string *merges;
    int64_t count;
    bool adds_space;
    TN_TRY(find_space(tokenizer, t->where, &adds_space));
    TN_TRY(read_merges(t, tokenizer, &merges, &count));
    TN_TRY(fill_scores(t, merges, count));
    TN_TRY(check_scores(t, merges, count));
    TN_TRY(tn_gguf_writer_string(writer, "tokenizer.ggml.model", "llama"));
    TN_TRY(tn_gguf_writer_string(writer, "tokenizer.ggml.pre", "default"));
    TN_TRY(write_numbers(writer, "tokenizer.ggml.scores", TN_GGUF_F32, t->scores, t->count));
    return tn_gguf_writer_bool(writer, "tokenizer.ggml.add_space_prefix", adds_space);
}

static tn_status write_bpe(tn_gguf_writer *writer, table *t, const cJSON *tokenizer) {
    tn_gguf_string *merges;
    int64_t count;
    const tn_gguf_pre *pre;
    TN_TRY(find_pre(tokenizer, t->where, &pre));
    TN_TRY(read_merges(t, tokenizer, &merges, &count));
    TN_TRY(tn_gguf_writer_string(writer, "tokenizer.ggml.model", "gpt2"));
    TN_TRY(tn_gguf_writer_string(writer, "tokenizer.ggml.pre", pre->names[0]));
    return write_strings(writer, "tokenizer.ggml.merges", merges, count);
}

tn_status tn_gguf_write_tokenizer(tn_gguf_writer *writer, const cJSON *tokenizer, const cJSON *config,
                                  const tn_gguf_tokenizer_roles *roles, int64_t vocab_size, const char *where) {
    table t = {.where = where, .count = vocab_size};
    const cJSON *model = tn_json_get(tokenizer, "model");
    bool spm = is_on(model, "byte_fallback", false);
    tn_status status;
    t.tokens = tn_arena_array(&t.arena, (size_t)vocab_size, sizeof *t.tokens);
    t.types = tn_arena_array(&t.arena, (size_t)vocab_size, sizeof *t.types);
    t.scores = tn_arena_array(&t.arena, (size_t)vocab_size, sizeof *t.scores);
    tn_gguf_string *strings = tn_arena_array(&t.arena, (size_t)vocab_size, sizeof *strings);
    if (!t.tokens || !t.types || !t.scores || !strings) {
        status = tn_fail_memory("a tokenizer");
        goto fail;
    }
    TN_TRY_GOTO(fill_tokens(&t, tokenizer, spm, roles->unknown));
    TN_TRY_GOTO(spm ? write_spm(writer, &t, tokenizer) : write_bpe(writer, &t, tokenizer));
    for (int64_t i = 0; i < t.count; i++)
        strings[i] = (tn_gguf_string){t.tokens[i], strlen(t.tokens[i])};
    TN_TRY_GOTO(write_strings(writer, "tokenizer.ggml.tokens", strings, t.count));
    TN_TRY_GOTO(write_numbers(writer, "tokenizer.ggml.token_type", TN_GGUF_I32, t.types, t.count));
    status = write_roles(writer, roles, config);
fail:
    tn_arena_free(&t.arena);
    return status;
}
