/* Normalisation steps run one after the other, from one of two buffers into the other. */
#include "text/normalize.h"

#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "format/json.h"
#include "text/unicode.h"

static const char supported[] =
    "NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Prepend, Replace, ByteLevel, Sequence";

static tn_status copy_string(const cJSON *json, const char *key, const char *where, tn_arena *arena, const char **out) {
    const char *text = NULL;
    TN_TRY(tn_json_get_string(json, key, where, &text));
    if (!text)
        return tn_fail(TN_ERROR_FORMAT, "%s: a normalizer lacks \"%s\"", where, key);
    *out = tn_arena_strdup(arena, text);
    return *out ? TN_OK : tn_fail_memory("a normalizer");
}

static tn_status parse_step(const cJSON *json, const char *type, const char *where, tn_arena *arena,
                            tn_normalize_step *step) {
    *step = (tn_normalize_step){0};
    if (strncmp(type, "NF", 2) == 0 && (strcmp(type + 2, "C") == 0 || strcmp(type + 2, "D") == 0 ||
                                        strcmp(type + 2, "KC") == 0 || strcmp(type + 2, "KD") == 0)) {
        step->kind = TN_NORMALIZE_FORM;
        step->compatible = type[2] == 'K';
        step->compose = type[strlen(type) - 1] == 'C';
        return TN_OK;
    }
    if (strcmp(type, "Lowercase") == 0) {
        step->kind = TN_NORMALIZE_LOWERCASE;
        return TN_OK;
    }
    if (strcmp(type, "StripAccents") == 0) {
        step->kind = TN_NORMALIZE_STRIP_ACCENTS;
        return TN_OK;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        step->kind = TN_NORMALIZE_BYTE_LEVEL;
        return TN_OK;
    }
    if (strcmp(type, "Strip") == 0) {
        step->kind = TN_NORMALIZE_STRIP;
        step->left = step->right = true;
        TN_TRY(tn_json_get_bool(json, "strip_left", where, &step->left));
        return tn_json_get_bool(json, "strip_right", where, &step->right);
    }
    if (strcmp(type, "Prepend") == 0) {
        step->kind = TN_NORMALIZE_PREPEND;
        return copy_string(json, "prepend", where, arena, &step->content);
    }
    if (strcmp(type, "Replace") == 0) {
        step->kind = TN_NORMALIZE_REPLACE;
        TN_TRY(copy_string(json, "content", where, arena, &step->content));
        return tn_pattern_parse(tn_json_get(json, "pattern"), where, &step->pattern);
    }
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s: normalizer type '%.100s' is not supported (supported: %s)", where, type,
                   supported);
}

static tn_status parse_nested(const cJSON *json, const char *where, tn_arena *arena, int depth, tn_normalizer *out) {
    const char *type = NULL;
    TN_TRY(tn_json_get_string(json, "type", where, &type));
    if (!type)
        return tn_fail(TN_ERROR_FORMAT, "%s: a normalizer must be an object with a \"type\"", where);
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *list = tn_json_get(json, "normalizers"), *item;
        if (!cJSON_IsArray(list) || depth >= TN_NORMALIZE_STEPS)
            return tn_fail(TN_ERROR_FORMAT, "%s: a normalizer Sequence needs \"normalizers\", at most %d deep", where,
                           TN_NORMALIZE_STEPS);
        cJSON_ArrayForEach(item, list) {
            TN_TRY(parse_nested(item, where, arena, depth + 1, out));
        }
        return TN_OK;
    }
    if (out->count == TN_NORMALIZE_STEPS)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: more than %d normalizer steps", where, TN_NORMALIZE_STEPS);
    return parse_step(json, type, where, arena, &out->steps[out->count++]);
}

tn_status tn_normalizer_parse(const cJSON *json, const char *where, tn_arena *arena, tn_normalizer *out) {
    out->count = 0;
    return json ? parse_nested(json, where, arena, 0, out) : TN_OK;
}

void tn_normalizer_free(tn_normalizer *normalizer) {
    for (int i = 0; i < normalizer->count; i++)
        tn_pattern_free(&normalizer->steps[i].pattern);
    normalizer->count = 0;
}

void tn_normalize_scratch_free(tn_normalize_scratch *scratch) {
    tn_buf_free(&scratch->buffers[0]);
    tn_buf_free(&scratch->buffers[1]);
    tn_free(scratch->codes);
    tn_matcher_free(&scratch->matcher);
    *scratch = (tn_normalize_scratch){0};
}

/* Below U+0300 nothing composes, and below U+00A0 nothing decomposes either. */
static bool is_already_normal(const tn_normalize_step *step, const char *text, size_t length) {
    unsigned char first_suspect = step->compose && !step->compatible ? 0xcc : 0xc2;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] >= first_suspect)
            return false;
    return true;
}

/* Room for the code points and for the terminator that utf8proc_reencode writes after the last byte. */
static tn_status reserve_codes(tn_normalize_scratch *scratch, size_t count) {
    if (count < scratch->code_capacity)
        return TN_OK;
    int32_t *codes = tn_realloc_array(scratch->codes, count + 1, sizeof *codes);
    if (!codes)
        return tn_fail_memory("text normalisation");
    scratch->codes = codes;
    scratch->code_capacity = count + 1;
    return TN_OK;
}

static tn_status apply_form(const tn_normalize_step *step, tn_normalize_scratch *scratch, const char *text, size_t length,
                            tn_buf *out) {
    utf8proc_option_t options = UTF8PROC_STABLE | (step->compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
    if (step->compatible)
        options |= UTF8PROC_COMPAT;
    TN_TRY(reserve_codes(scratch, length));
    for (;;) {
        utf8proc_ssize_t count = utf8proc_decompose((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, scratch->codes,
                                                    (utf8proc_ssize_t)scratch->code_capacity - 1, options);
        if (count < 0)
            return tn_fail(TN_ERROR_ARGUMENT, "the text cannot be normalised: %s", utf8proc_errmsg(count));
        if ((size_t)count < scratch->code_capacity) {
            utf8proc_ssize_t bytes = utf8proc_reencode(scratch->codes, count, options);
            if (bytes < 0)
                return tn_fail(TN_ERROR_ARGUMENT, "the text cannot be normalised: %s", utf8proc_errmsg(bytes));
            tn_buf_append(out, scratch->codes, (size_t)bytes);
            return TN_OK;
        }
        TN_TRY(reserve_codes(scratch, (size_t)count));
    }
}

static void apply_lowercase(const char *text, size_t length, tn_buf *out) {
    uint32_t code = 0;
    for (size_t at = 0; at < length;) {
        at += tn_utf8_next(text + at, length - at, &code);
        if (code == 0x130) /* the one letter whose lower case is two code points */
            tn_buf_puts(out, "i\xcc\x87");
        else
            tn_utf8_append(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)code));
    }
}

static void apply_strip(const tn_normalize_step *step, const char *text, size_t length, tn_buf *out) {
    uint32_t code = 0;
    size_t start = 0, end = length;
    while (step->left && start < end) {
        size_t size = tn_utf8_next(text + start, end - start, &code);
        if (!tn_char_is_whitespace(code))
            break;
        start += size;
    }
    while (step->right && end > start) {
        size_t at = end - 1;
        while (((unsigned char)text[at] & 0xc0) == 0x80)
            at--;
        tn_utf8_next(text + at, end - at, &code);
        if (!tn_char_is_whitespace(code))
            break;
        end = at;
    }
    tn_buf_append(out, text + start, end - start);
}

static void apply_strip_accents(const char *text, size_t length, tn_buf *out) {
    uint32_t code = 0;
    for (size_t at = 0; at < length;) {
        size_t size = tn_utf8_next(text + at, length - at, &code);
        if (!tn_char_is_mark(code))
            tn_buf_append(out, text + at, size);
        at += size;
    }
}

static tn_status apply_step(const tn_normalize_step *step, tn_normalize_scratch *scratch, const char *text, size_t length,
                            tn_buf *out) {
    switch (step->kind) {
    case TN_NORMALIZE_FORM: return apply_form(step, scratch, text, length, out);
    case TN_NORMALIZE_REPLACE:
        return tn_pattern_replace(&step->pattern, &scratch->matcher, text, length, step->content, out);
    case TN_NORMALIZE_LOWERCASE: apply_lowercase(text, length, out); break;
    case TN_NORMALIZE_STRIP: apply_strip(step, text, length, out); break;
    case TN_NORMALIZE_STRIP_ACCENTS: apply_strip_accents(text, length, out); break;
    case TN_NORMALIZE_BYTE_LEVEL: tn_bytes_to_chars(out, text, length); break;
    case TN_NORMALIZE_PREPEND:
        if (length)
            tn_buf_puts(out, step->content);
        tn_buf_append(out, text, length);
        break;
    }
    return TN_OK;
}

tn_status tn_normalizer_apply(const tn_normalizer *normalizer, tn_normalize_scratch *scratch, const char **text,
                              size_t *length) {
    int target = 0;
    for (int i = 0; i < normalizer->count; i++) {
        const tn_normalize_step *step = &normalizer->steps[i];
        if (step->kind == TN_NORMALIZE_FORM && is_already_normal(step, *text, *length))
            continue;
        tn_buf *out = &scratch->buffers[target];
        tn_buf_clear(out);
        TN_TRY(apply_step(step, scratch, *text, *length, out));
        TN_TRY(tn_buf_status(out));
        *text = tn_buf_text(out);
        *length = out->length;
        target = !target;
    }
    return TN_OK;
}
