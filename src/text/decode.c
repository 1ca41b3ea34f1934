/* Each step receives tokens and passes tokens on. After Fuse or ByteLevel there is only one token, which arrives in parts:
 * a step that cannot work on parts then holds them until the end. */
#include "text/decode.h"

#include <string.h>

#include "base/utf8.h"
#include "format/json.h"
#include "text/unicode.h"

static const char supported[] = "ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, BPEDecoder, Sequence";

static tn_status copy_string(const cJSON *json, const char *key, const char *where, tn_arena *arena, const char **out) {
    const char *text = NULL;
    TN_TRY(tn_json_get_string(json, key, where, &text));
    if (!text)
        return tn_fail(TN_ERROR_FORMAT, "%s: a decoder lacks \"%s\"", where, key);
    *out = tn_arena_strdup(arena, text);
    return *out ? TN_OK : tn_fail_memory("a decoder");
}

static tn_status parse_strip(const cJSON *json, const char *where, tn_arena *arena, tn_decode_step *step) {
    uint32_t code = 0;
    step->kind = TN_DECODE_STRIP;
    TN_TRY(copy_string(json, "content", where, arena, &step->content));
    TN_TRY(tn_json_get_int(json, "start", where, 0, INT32_MAX, &step->start));
    TN_TRY(tn_json_get_int(json, "stop", where, 0, INT32_MAX, &step->stop));
    if (!*step->content || tn_utf8_next(step->content, strlen(step->content), &code) != strlen(step->content))
        return tn_fail(TN_ERROR_FORMAT, "%s: the \"content\" of a Strip decoder must be one character, not '%.100s'", where,
                       step->content);
    return TN_OK;
}

static tn_status parse_step(const cJSON *json, const char *type, const char *where, tn_arena *arena, tn_decode_step *step) {
    if (strcmp(type, "ByteLevel") == 0) {
        step->kind = TN_DECODE_BYTE_LEVEL;
        return TN_OK;
    }
    if (strcmp(type, "ByteFallback") == 0) {
        step->kind = TN_DECODE_BYTE_FALLBACK;
        return TN_OK;
    }
    if (strcmp(type, "Fuse") == 0) {
        step->kind = TN_DECODE_FUSE;
        return TN_OK;
    }
    if (strcmp(type, "Replace") == 0) {
        step->kind = TN_DECODE_REPLACE;
        TN_TRY(copy_string(json, "content", where, arena, &step->content));
        return tn_pattern_parse(tn_json_get(json, "pattern"), where, &step->pattern);
    }
    if (strcmp(type, "Strip") == 0)
        return parse_strip(json, where, arena, step);
    if (strcmp(type, "Metaspace") == 0) {
        step->kind = TN_DECODE_METASPACE;
        return tn_metaspace_parse(json, where, &step->replacement, &step->prepend);
    }
    if (strcmp(type, "BPEDecoder") == 0) {
        const char *suffix = "</w>";
        step->kind = TN_DECODE_BPE;
        TN_TRY(tn_json_get_string(json, "suffix", where, &suffix));
        return tn_pattern_literal(suffix, &step->pattern);
    }
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s: decoder type '%.100s' is not supported (supported: %s)", where, type,
                   supported);
}

static tn_status parse_nested(const cJSON *json, const char *where, tn_arena *arena, int depth, tn_text_decoder *out) {
    const char *type = NULL;
    TN_TRY(tn_json_get_string(json, "type", where, &type));
    if (!type)
        return tn_fail(TN_ERROR_FORMAT, "%s: a decoder must be an object with a \"type\"", where);
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *list = tn_json_get(json, "decoders"), *item;
        if (!cJSON_IsArray(list) || depth >= TN_DECODE_STEPS)
            return tn_fail(TN_ERROR_FORMAT, "%s: a decoder Sequence needs \"decoders\", at most %d deep", where,
                           TN_DECODE_STEPS);
        cJSON_ArrayForEach(item, list) {
            TN_TRY(parse_nested(item, where, arena, depth + 1, out));
        }
        return TN_OK;
    }
    if (out->count == TN_DECODE_STEPS)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: more than %d decoder steps", where, TN_DECODE_STEPS);
    tn_decode_step *step = &out->steps[out->count++];
    *step = (tn_decode_step){0};
    return parse_step(json, type, where, arena, step);
}

tn_status tn_text_decoder_parse(const cJSON *json, const char *where, tn_arena *arena, tn_text_decoder *out) {
    bool fused = false;
    out->count = 0;
    if (json)
        TN_TRY(parse_nested(json, where, arena, 0, out));
    else
        out->steps[out->count++] = (tn_decode_step){.kind = TN_DECODE_JOIN};
    for (int i = 0; i < out->count; i++) {
        out->steps[i].fused = fused;
        fused = fused || out->steps[i].kind == TN_DECODE_FUSE || out->steps[i].kind == TN_DECODE_BYTE_LEVEL;
    }
    return TN_OK;
}

void tn_text_decoder_free(tn_text_decoder *decoder) {
    for (int i = 0; i < decoder->count; i++)
        tn_pattern_free(&decoder->steps[i].pattern);
    decoder->count = 0;
}

void tn_decode_state_free(tn_decode_state *state) {
    for (int i = 0; i < TN_DECODE_STEPS; i++) {
        tn_buf_free(&state->steps[i].whole);
        tn_buf_free(&state->steps[i].held);
        tn_buf_free(&state->steps[i].work);
    }
    tn_matcher_free(&state->matcher);
}

typedef struct chain {
    const tn_text_decoder *decoder;
    tn_decode_state *state;
    tn_buf *out;
} chain;

static tn_status run_step(const chain *c, int index, const char *token, size_t length);

/* Passes on what the step put in its work buffer. */
static tn_status pass_work(const chain *c, int index) {
    const tn_buf *work = &c->state->steps[index].work;
    TN_TRY(tn_buf_status(work));
    return run_step(c, index + 1, tn_buf_text(work), work->length);
}

static void drop_front(tn_buf *buf, size_t count) {
    if (!count)
        return;
    memmove(buf->data, buf->data + count, buf->length - count + 1);
    buf->length -= count;
}

static tn_status join(const chain *c, int index, const char *token, size_t length) {
    if (c->state->steps[index].started)
        TN_TRY(run_step(c, index + 1, " ", 1));
    c->state->steps[index].started = true;
    return run_step(c, index + 1, token, length);
}

/* A token all of whose characters stand for bytes becomes those bytes, any other its own UTF-8. */
static void append_token_bytes(tn_buf *out, const char *token, size_t length) {
    size_t before = out->length;
    uint32_t code = 0;
    for (size_t at = 0; at < length;) {
        at += tn_utf8_next(token + at, length - at, &code);
        int byte = tn_char_to_byte(code);
        if (byte < 0) {
            out->length = before;
            tn_buf_append(out, token, length);
            return;
        }
        tn_buf_putc(out, (char)byte);
    }
}

static tn_status pass_lossy(const chain *c, int index, bool final) {
    tn_buf *held = &c->state->steps[index].held, *work = &c->state->steps[index].work;
    TN_TRY(tn_buf_status(held));
    tn_buf_clear(work);
    drop_front(held, tn_utf8_append_lossy(work, tn_buf_text(held), held->length, final));
    return work->length ? pass_work(c, index) : TN_OK;
}

static tn_status byte_level(const chain *c, int index, const char *token, size_t length) {
    append_token_bytes(&c->state->steps[index].held, token, length);
    return pass_lossy(c, index, false);
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that <0x..> names, or -1. */
static int named_byte(const char *token, size_t length) {
    if (length != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>')
        return -1;
    int high = hex_digit(token[3]), low = hex_digit(token[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of bytes is one token when it is UTF-8, else one U+FFFD token per byte. */
static tn_status pass_byte_run(const chain *c, int index) {
    tn_buf *held = &c->state->steps[index].held, *work = &c->state->steps[index].work;
    TN_TRY(tn_buf_status(held));
    if (!held->length)
        return TN_OK;
    size_t count = held->length;
    bool valid = tn_utf8_valid_prefix(held->data, count) == count;
    tn_buf_clear(work);
    tn_buf_append(work, valid ? held->data : "\xef\xbf\xbd", valid ? count : 3);
    tn_buf_clear(held);
    for (size_t i = 0; i < (valid ? 1 : count); i++)
        TN_TRY(pass_work(c, index));
    return TN_OK;
}

static tn_status byte_fallback(const chain *c, int index, const char *token, size_t length) {
    int byte = named_byte(token, length);
    if (byte >= 0) {
        tn_buf_putc(&c->state->steps[index].held, (char)byte);
        return TN_OK;
    }
    TN_TRY(pass_byte_run(c, index));
    return run_step(c, index + 1, token, length);
}

static tn_status replace(const chain *c, int index, const char *token, size_t length) {
    const tn_decode_step *step = &c->decoder->steps[index];
    tn_buf *work = &c->state->steps[index].work;
    tn_buf_clear(work);
    TN_TRY(tn_pattern_replace(&step->pattern, &c->state->matcher, token, length, step->content, work));
    return pass_work(c, index);
}

static tn_status strip(const chain *c, int index, const char *token, size_t length, bool whole) {
    const tn_decode_step *step = &c->decoder->steps[index];
    size_t size = strlen(step->content);
    int64_t *stripped = &c->state->steps[index].stripped;
    if (whole)
        *stripped = 0;
    while (*stripped < step->start && length >= size && memcmp(token, step->content, size) == 0) {
        token += size;
        length -= size;
        ++*stripped;
    }
    if (length)
        *stripped = INT64_MAX; /* the front is over for the parts to come */
    for (int64_t i = 0; i < step->stop && length >= size && memcmp(token + length - size, step->content, size) == 0; i++)
        length -= size;
    return run_step(c, index + 1, token, length);
}

static tn_status metaspace(const chain *c, int index, const char *token, size_t length) {
    const tn_decode_step *step = &c->decoder->steps[index];
    tn_buf *work = &c->state->steps[index].work;
    bool drops = !c->state->steps[index].started && step->prepend != TN_PREPEND_NEVER;
    uint32_t code = 0;
    tn_buf_clear(work);
    for (size_t at = 0, size; at < length; at += size) {
        size = tn_utf8_next(token + at, length - at, &code);
        if (code != step->replacement)
            tn_buf_append(work, token + at, size);
        else if (!drops)
            tn_buf_putc(work, ' ');
    }
    if (!step->fused)
        c->state->steps[index].started = true;
    return pass_work(c, index);
}

/* The suffix of the last token goes, of all others it becomes a space. */
static tn_status pass_held_word(const chain *c, int index, bool last) {
    const tn_pattern *suffix = &c->decoder->steps[index].pattern;
    tn_buf *held = &c->state->steps[index].held, *work = &c->state->steps[index].work;
    TN_TRY(tn_buf_status(held));
    tn_buf_clear(work);
    TN_TRY(tn_pattern_replace(suffix, &c->state->matcher, tn_buf_text(held), held->length, last ? "" : " ", work));
    return pass_work(c, index);
}

static tn_status bpe_suffix(const chain *c, int index, const char *token, size_t length) {
    if (c->state->steps[index].started)
        TN_TRY(pass_held_word(c, index, false));
    c->state->steps[index].started = true;
    tn_buf_clear(&c->state->steps[index].held);
    tn_buf_append(&c->state->steps[index].held, token, length);
    return TN_OK;
}

/* Whether a step on a token that comes in parts must wait for all of it. */
static bool waits_for_whole(const tn_decode_step *step) {
    uint32_t code = 0;
    if (!step->fused)
        return false;
    switch (step->kind) {
    case TN_DECODE_FUSE:
    case TN_DECODE_METASPACE: return false;
    case TN_DECODE_STRIP: return step->stop > 0;
    case TN_DECODE_REPLACE:
        return !step->pattern.literal_length ||
               tn_utf8_next(step->pattern.literal, step->pattern.literal_length, &code) != step->pattern.literal_length;
    default: return true;
    }
}

static tn_status transform(const chain *c, int index, const char *token, size_t length, bool whole) {
    switch (c->decoder->steps[index].kind) {
    case TN_DECODE_JOIN: return join(c, index, token, length);
    case TN_DECODE_BYTE_LEVEL: return byte_level(c, index, token, length);
    case TN_DECODE_BYTE_FALLBACK: return byte_fallback(c, index, token, length);
    case TN_DECODE_FUSE: return run_step(c, index + 1, token, length);
    case TN_DECODE_REPLACE: return replace(c, index, token, length);
    case TN_DECODE_STRIP: return strip(c, index, token, length, whole);
    case TN_DECODE_METASPACE: return metaspace(c, index, token, length);
    case TN_DECODE_BPE: return bpe_suffix(c, index, token, length);
    }
    return TN_OK;
}

static tn_status run_step(const chain *c, int index, const char *token, size_t length) {
    if (index == c->decoder->count) {
        tn_buf_append(c->out, token, length);
        return tn_buf_status(c->out);
    }
    const tn_decode_step *step = &c->decoder->steps[index];
    if (waits_for_whole(step)) {
        tn_buf_append(&c->state->steps[index].whole, token, length);
        return tn_buf_status(&c->state->steps[index].whole);
    }
    return transform(c, index, token, length, !step->fused);
}

tn_status tn_text_decoder_push(const tn_text_decoder *decoder, tn_decode_state *state, const char *token, size_t length,
                               tn_buf *out) {
    chain c = {decoder, state, out};
    return run_step(&c, 0, token, length);
}

/* Lets out what a step still holds and makes it ready for the next text. */
static tn_status finish_step(const chain *c, int index) {
    const tn_decode_step *step = &c->decoder->steps[index];
    const tn_buf *whole = &c->state->steps[index].whole;
    if (whole->length)
        TN_TRY(transform(c, index, whole->data, whole->length, true));
    if (step->kind == TN_DECODE_BYTE_LEVEL)
        TN_TRY(pass_lossy(c, index, true));
    else if (step->kind == TN_DECODE_BYTE_FALLBACK)
        TN_TRY(pass_byte_run(c, index));
    else if (step->kind == TN_DECODE_BPE && c->state->steps[index].started)
        TN_TRY(pass_held_word(c, index, true));
    return TN_OK;
}

static void restart(tn_decode_state *state) {
    for (int i = 0; i < TN_DECODE_STEPS; i++) {
        tn_buf_clear(&state->steps[i].whole);
        tn_buf_clear(&state->steps[i].held);
        state->steps[i].started = false;
        state->steps[i].stripped = 0;
    }
}

tn_status tn_text_decoder_finish(const tn_text_decoder *decoder, tn_decode_state *state, tn_buf *out) {
    chain c = {decoder, state, out};
    tn_status status = TN_OK;
    for (int i = 0; i < decoder->count && status == TN_OK; i++)
        status = finish_step(&c, i);
    restart(state);
    return status;
}
