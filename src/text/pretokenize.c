/* Each step cuts a piece further and hands every part to the next step at once (depth first), so that no list of pieces is
 * ever held. A step that changes the text does so in its own buffer. */
#include "text/pretokenize.h"

#include <string.h>

#include "format/json.h"
#include "text/unicode.h"

static const char gpt2_split[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char supported[] = "ByteLevel, Split, Metaspace, Digits, Punctuation, Whitespace, WhitespaceSplit, "
                                "CharDelimiterSplit, FixedLength, BertPreTokenizer, Sequence";

static tn_status parse_behavior(const cJSON *json, const char *where, tn_split_behavior *out) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = NULL;
    TN_TRY(tn_json_get_string(json, "behavior", where, &name));
    if (!name)
        return TN_OK;
    for (int i = 0; i < 5; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (tn_split_behavior)i;
            return TN_OK;
        }
    return tn_fail(TN_ERROR_FORMAT,
                   "%s: \"behavior\" must be Removed, Isolated, MergedWithPrevious, MergedWithNext or "
                   "Contiguous, not '%.100s'",
                   where, name);
}

static tn_status parse_character(const cJSON *json, const char *key, const char *where, uint32_t *out) {
    const char *text = NULL;
    TN_TRY(tn_json_get_string(json, key, where, &text));
    if (!text)
        return TN_OK;
    if (!*text || tn_utf8_next(text, strlen(text), out) != strlen(text))
        return tn_fail(TN_ERROR_FORMAT, "%s: \"%s\" must be one character, not '%.100s'", where, key, text);
    return TN_OK;
}

tn_status tn_metaspace_parse(const cJSON *json, const char *where, uint32_t *replacement, tn_prepend_scheme *prepend) {
    const char *scheme = NULL;
    bool add_prefix_space = true; /* how older files say it */
    *replacement = 0x2581;
    TN_TRY(parse_character(json, "replacement", where, replacement));
    TN_TRY(tn_json_get_bool(json, "add_prefix_space", where, &add_prefix_space));
    TN_TRY(tn_json_get_string(json, "prepend_scheme", where, &scheme));
    *prepend = add_prefix_space ? TN_PREPEND_ALWAYS : TN_PREPEND_NEVER;
    if (!scheme)
        return TN_OK;
    if (strcmp(scheme, "first") == 0)
        *prepend = TN_PREPEND_FIRST;
    else if (strcmp(scheme, "never") == 0)
        *prepend = TN_PREPEND_NEVER;
    else if (strcmp(scheme, "always") == 0)
        *prepend = TN_PREPEND_ALWAYS;
    else
        return tn_fail(TN_ERROR_FORMAT, "%s: \"prepend_scheme\" must be first, never or always, not '%.100s'", where,
                       scheme);
    return TN_OK;
}

static tn_status parse_byte_level(const cJSON *json, const char *where, tn_pretokenize_step *step) {
    bool use_regex = true;
    step->kind = TN_PRETOKENIZE_BYTE_LEVEL;
    step->prefix_space = true;
    TN_TRY(tn_json_get_bool(json, "add_prefix_space", where, &step->prefix_space));
    TN_TRY(tn_json_get_bool(json, "use_regex", where, &use_regex));
    return use_regex ? tn_pattern_compile(gpt2_split, where, &step->pattern) : TN_OK;
}

static tn_status parse_split(const cJSON *json, const char *where, tn_pretokenize_step *step) {
    step->kind = TN_PRETOKENIZE_SPLIT;
    TN_TRY(parse_behavior(json, where, &step->behavior));
    TN_TRY(tn_json_get_bool(json, "invert", where, &step->invert));
    return tn_pattern_parse(tn_json_get(json, "pattern"), where, &step->pattern);
}

/* Words are runs of \w or of neither \w nor blank; all else goes. */
static tn_status parse_whitespace(const char *where, tn_pretokenize_step *step) {
    step->kind = TN_PRETOKENIZE_SPLIT;
    step->behavior = TN_SPLIT_REMOVED;
    step->invert = true;
    return tn_pattern_compile("\\w+|[^\\w\\s]+", where, &step->pattern);
}

static void set_class(tn_pretokenize_step *step, bool (*in_class)(uint32_t), tn_split_behavior behavior) {
    step->kind = TN_PRETOKENIZE_CLASS;
    step->in_class = in_class;
    step->behavior = behavior;
}

static tn_status parse_fixed_length(const cJSON *json, const char *where, tn_pretokenize_step *step) {
    int64_t length = 5;
    TN_TRY(tn_json_get_int(json, "length", where, 1, INT32_MAX, &length));
    step->kind = TN_PRETOKENIZE_FIXED_LENGTH;
    step->fixed_length = (size_t)length;
    return TN_OK;
}

static tn_status parse_class(const cJSON *json, const char *type, const char *where, tn_pretokenize_step *step) {
    if (strcmp(type, "WhitespaceSplit") == 0) {
        set_class(step, tn_char_is_whitespace, TN_SPLIT_REMOVED);
        return TN_OK;
    }
    if (strcmp(type, "Digits") == 0) {
        bool individual = false;
        TN_TRY(tn_json_get_bool(json, "individual_digits", where, &individual));
        set_class(step, tn_char_is_number, individual ? TN_SPLIT_ISOLATED : TN_SPLIT_CONTIGUOUS);
        return TN_OK;
    }
    if (strcmp(type, "Punctuation") == 0) {
        set_class(step, tn_char_is_punctuation, TN_SPLIT_ISOLATED);
        return parse_behavior(json, where, &step->behavior);
    }
    if (strcmp(type, "CharDelimiterSplit") == 0) {
        set_class(step, NULL, TN_SPLIT_REMOVED);
        return parse_character(json, "delimiter", where, &step->character);
    }
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s: pre-tokenizer type '%.100s' is not supported (supported: %s)", where, type,
                   supported);
}

static tn_status parse_step(const cJSON *json, const char *type, const char *where, tn_pretokenize_step *step) {
    if (strcmp(type, "ByteLevel") == 0)
        return parse_byte_level(json, where, step);
    if (strcmp(type, "Split") == 0)
        return parse_split(json, where, step);
    if (strcmp(type, "Whitespace") == 0)
        return parse_whitespace(where, step);
    if (strcmp(type, "FixedLength") == 0)
        return parse_fixed_length(json, where, step);
    if (strcmp(type, "Metaspace") == 0) {
        step->kind = TN_PRETOKENIZE_METASPACE;
        step->split = true;
        TN_TRY(tn_json_get_bool(json, "split", where, &step->split));
        return tn_metaspace_parse(json, where, &step->character, &step->prepend);
    }
    return parse_class(json, type, where, step);
}

static tn_status next_step(const char *where, tn_pretokenizer *out, tn_pretokenize_step **step) {
    if (out->count == TN_PRETOKENIZE_STEPS)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: more than %d pre-tokenizer steps", where, TN_PRETOKENIZE_STEPS);
    *step = &out->steps[out->count++];
    **step = (tn_pretokenize_step){.behavior = TN_SPLIT_ISOLATED};
    return TN_OK;
}

static tn_status parse_nested(const cJSON *json, const char *where, int depth, tn_pretokenizer *out) {
    const char *type = NULL;
    tn_pretokenize_step *step = NULL;
    TN_TRY(tn_json_get_string(json, "type", where, &type));
    if (!type)
        return tn_fail(TN_ERROR_FORMAT, "%s: a pre-tokenizer must be an object with a \"type\"", where);
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *list = tn_json_get(json, "pretokenizers"), *item;
        if (!cJSON_IsArray(list) || depth >= TN_PRETOKENIZE_STEPS)
            return tn_fail(TN_ERROR_FORMAT, "%s: a pre-tokenizer Sequence needs \"pretokenizers\", at most %d deep", where,
                           TN_PRETOKENIZE_STEPS);
        cJSON_ArrayForEach(item, list) {
            TN_TRY(parse_nested(item, where, depth + 1, out));
        }
        return TN_OK;
    }
    TN_TRY(next_step(where, out, &step));
    if (strcmp(type, "BertPreTokenizer") == 0) {
        set_class(step, tn_char_is_whitespace, TN_SPLIT_REMOVED);
        TN_TRY(next_step(where, out, &step));
        set_class(step, tn_char_is_punctuation, TN_SPLIT_ISOLATED);
        return TN_OK;
    }
    return parse_step(json, type, where, step);
}

tn_status tn_pretokenizer_parse(const cJSON *json, const char *where, tn_pretokenizer *out) {
    out->count = 0;
    out->leaves_bytes = false;
    if (json)
        TN_TRY(parse_nested(json, where, 0, out));
    for (int i = 0; i + 1 < out->count; i++)
        out->steps[i].maps_bytes = out->steps[i].kind == TN_PRETOKENIZE_BYTE_LEVEL;
    out->leaves_bytes = out->count && out->steps[out->count - 1].kind == TN_PRETOKENIZE_BYTE_LEVEL;
    return TN_OK;
}

void tn_pretokenizer_free(tn_pretokenizer *pretokenizer) {
    for (int i = 0; i < pretokenizer->count; i++)
        tn_pattern_free(&pretokenizer->steps[i].pattern);
    pretokenizer->count = 0;
}

void tn_pretokenize_scratch_free(tn_pretokenize_scratch *scratch) {
    for (int i = 0; i < TN_PRETOKENIZE_STEPS; i++) {
        tn_buf_free(&scratch->texts[i]);
        tn_buf_free(&scratch->mapped[i]);
    }
    tn_matcher_free(&scratch->matcher);
}

typedef struct walk {
    const tn_pretokenizer *pretokenizer;
    tn_pretokenize_scratch *scratch;
    tn_word_sink sink;
    void *context;
} walk;

static tn_status run_step(const walk *w, int index, const char *text, size_t length, bool at_start);

/* One step's cutting of one text. A part waits until it is known whether its neighbour joins it. */
typedef struct cutter {
    const walk *walk;
    int index;
    const char *text;
    bool at_start;
    tn_split_behavior behavior;
    bool waiting, last_was_match;
    size_t start, end; /* of the waiting part */
} cutter;

static tn_status emit(const cutter *c, size_t start, size_t end) {
    if (start == end)
        return TN_OK;
    const char *part = c->text + start;
    size_t length = end - start;
    if (c->walk->pretokenizer->steps[c->index].maps_bytes) {
        tn_buf *mapped = &c->walk->scratch->mapped[c->index];
        tn_buf_clear(mapped);
        tn_bytes_to_chars(mapped, part, length);
        TN_TRY(tn_buf_status(mapped));
        part = mapped->data;
        length = mapped->length;
    }
    return run_step(c->walk, c->index + 1, part, length, c->at_start && start == 0);
}

static tn_status flush(cutter *c) {
    bool waiting = c->waiting;
    c->waiting = false;
    return waiting ? emit(c, c->start, c->end) : TN_OK;
}

static bool joins_waiting(const cutter *c, bool is_match) {
    switch (c->behavior) {
    case TN_SPLIT_CONTIGUOUS: return is_match == c->last_was_match;
    case TN_SPLIT_MERGED_WITH_PREVIOUS: return is_match && !c->last_was_match;
    case TN_SPLIT_MERGED_WITH_NEXT: return !is_match && c->last_was_match;
    default: return false;
    }
}

static tn_status add_part(cutter *c, size_t start, size_t end, bool is_match) {
    if (c->behavior == TN_SPLIT_ISOLATED)
        return emit(c, start, end);
    if (c->behavior == TN_SPLIT_REMOVED)
        return is_match ? TN_OK : emit(c, start, end);
    bool joins = c->waiting && joins_waiting(c, is_match);
    c->last_was_match = is_match;
    if (joins) {
        c->end = end;
        return TN_OK;
    }
    TN_TRY(flush(c));
    c->waiting = true;
    c->start = start;
    c->end = end;
    return TN_OK;
}

static tn_status cut_at_pattern(cutter *c, const tn_pattern *pattern, bool invert, size_t length) {
    tn_match match = {0};
    size_t done = 0;
    for (bool found;;) {
        TN_TRY(tn_pattern_next(pattern, &c->walk->scratch->matcher, c->text, length, &match, &found));
        if (!found)
            break;
        if (done != match.start)
            TN_TRY(add_part(c, done, match.start, invert));
        TN_TRY(add_part(c, match.start, match.end, !invert));
        done = match.end;
    }
    if (done != length)
        TN_TRY(add_part(c, done, length, invert));
    return flush(c);
}

static tn_status cut_at_class(cutter *c, bool (*in_class)(uint32_t), uint32_t character, size_t length) {
    size_t done = 0;
    uint32_t code = 0;
    for (size_t at = 0, size; at < length; at += size) {
        size = tn_utf8_next(c->text + at, length - at, &code);
        if (in_class ? !in_class(code) : code != character)
            continue;
        if (done < at)
            TN_TRY(add_part(c, done, at, false));
        done = at + size;
        TN_TRY(add_part(c, at, done, true));
    }
    if (done < length)
        TN_TRY(add_part(c, done, length, false));
    return flush(c);
}

static tn_status cut_fixed(cutter *c, size_t characters, size_t length) {
    uint32_t code = 0;
    size_t start = 0, count = 0;
    for (size_t at = 0; at < length;) {
        at += tn_utf8_next(c->text + at, length - at, &code);
        if (++count == characters || at == length) {
            TN_TRY(emit(c, start, at));
            start = at;
            count = 0;
        }
    }
    return TN_OK;
}

static tn_status run_byte_level(cutter *c, const tn_pretokenize_step *step, size_t length) {
    if (step->prefix_space && c->text[0] != ' ') {
        tn_buf *prefixed = &c->walk->scratch->texts[c->index];
        tn_buf_clear(prefixed);
        tn_buf_putc(prefixed, ' ');
        tn_buf_append(prefixed, c->text, length);
        TN_TRY(tn_buf_status(prefixed));
        c->text = prefixed->data;
        length++;
    }
    if (!step->pattern.code)
        return emit(c, 0, length);
    return cut_at_pattern(c, &step->pattern, false, length);
}

static tn_status run_metaspace(cutter *c, const tn_pretokenize_step *step, size_t length) {
    tn_buf *out = &c->walk->scratch->texts[c->index];
    uint32_t first = 0;
    tn_utf8_next(c->text, length, &first);
    bool prepends = step->prepend == TN_PREPEND_ALWAYS || (step->prepend == TN_PREPEND_FIRST && c->at_start);
    tn_buf_clear(out);
    if (prepends && first != ' ' && first != step->character)
        tn_utf8_append(out, step->character);
    for (size_t at = 0; at < length;) {
        const char *space = memchr(c->text + at, ' ', length - at);
        size_t end = space ? (size_t)(space - c->text) : length;
        tn_buf_append(out, c->text + at, end - at);
        if (space)
            tn_utf8_append(out, step->character);
        at = end + (space != NULL);
    }
    TN_TRY(tn_buf_status(out));
    c->text = out->data;
    if (!step->split)
        return emit(c, 0, out->length);
    c->behavior = TN_SPLIT_MERGED_WITH_NEXT;
    return cut_at_class(c, NULL, step->character, out->length);
}

static tn_status run_step(const walk *w, int index, const char *text, size_t length, bool at_start) {
    if (index == w->pretokenizer->count)
        return w->sink(w->context, text, length);
    const tn_pretokenize_step *step = &w->pretokenizer->steps[index];
    cutter c = {.walk = w, .index = index, .text = text, .at_start = at_start, .behavior = step->behavior};
    switch (step->kind) {
    case TN_PRETOKENIZE_BYTE_LEVEL: return run_byte_level(&c, step, length);
    case TN_PRETOKENIZE_SPLIT: return cut_at_pattern(&c, &step->pattern, step->invert, length);
    case TN_PRETOKENIZE_CLASS: return cut_at_class(&c, step->in_class, step->character, length);
    case TN_PRETOKENIZE_METASPACE: return run_metaspace(&c, step, length);
    case TN_PRETOKENIZE_FIXED_LENGTH: return cut_fixed(&c, step->fixed_length, length);
    }
    return TN_OK;
}

tn_status tn_pretokenize(const tn_pretokenizer *pretokenizer, tn_pretokenize_scratch *scratch, const char *text,
                         size_t length, bool at_start, tn_word_sink sink, void *context) {
    walk w = {pretokenizer, scratch, sink, context};
    return length ? run_step(&w, 0, text, length, at_start) : TN_OK;
}
