/* What a token adds to a text depends on its neighbours (blanks between words, bytes of one code point), so the last ids are
 * decoded with and without the new one and the difference is what it added. */
#include "infer/text_stream.h"

#include <string.h>

enum { PROMPT_TAIL = 16 };

static const char replacement[] = "\xef\xbf\xbd";

static size_t without_replacements(const tn_buf *text) {
    size_t length = text->length, mark = sizeof replacement - 1;
    while (length >= mark && memcmp(text->data + length - mark, replacement, mark) == 0)
        length -= mark;
    return length;
}

static tn_status decode(const tn_text_stream *s, size_t count, tn_buf *out) {
    tn_buf_clear(out);
    TN_TRY(tn_tokenizer_decode(s->tokenizer, s->window.data, count, true, out));
    return tn_buf_status(out);
}

/* Appends what the fresh ids of the window add. The end of a sequence that may still become whole waits unless this is the
 * end. */
static tn_status decode_fresh(tn_text_stream *s, bool at_end) {
    TN_TRY(decode(s, s->fresh, &s->before));
    TN_TRY(decode(s, s->window.count, &s->now));
    size_t shown = without_replacements(&s->before), whole = without_replacements(&s->now);
    if (!at_end && whole < s->now.length)
        return TN_OK;
    if (s->now.length > shown) {
        tn_buf_append(&s->text, s->now.data + shown, s->now.length - shown);
        /* the ids that gave this text are the neighbours of the next one */
        memmove(s->window.data, s->window.data + s->fresh, (s->window.count - s->fresh) * sizeof *s->window.data);
        s->window.count -= s->fresh;
    }
    s->fresh = s->window.count;
    return tn_buf_status(&s->text);
}

/* The length of the longest end of `text` that begins a stop text, or the whole stop text found at *match. */
static size_t find_stop(const tn_text_stream *s, size_t *match) {
    size_t longest = 0;
    *match = s->text.length;
    for (size_t i = 0; i < s->options->stop_count; i++) {
        const char *stop = s->options->stop[i];
        size_t length = strlen(stop);
        for (size_t at = s->certain; at < s->text.length; at++) {
            size_t here = s->text.length - at < length ? s->text.length - at : length;
            if (memcmp(s->text.data + at, stop, here) != 0)
                continue;
            if (here == length && at < *match)
                *match = at;
            else if (here < length && s->text.length - at > longest)
                longest = s->text.length - at;
        }
    }
    return longest;
}

static void settle(tn_text_stream *s) {
    size_t match, held = find_stop(s, &match);
    if (match < s->text.length) {
        s->text.length = match;
        s->text.data[match] = '\0';
        s->stopped = true;
        held = 0;
    }
    s->certain = s->text.length - held;
}

tn_status tn_text_stream_init(tn_text_stream *s, const tn_tokenizer *tokenizer, const tn_generate_options *options,
                              const tn_prompt *prompt) {
    *s = (tn_text_stream){.tokenizer = tokenizer, .options = options};
    if (!tokenizer && options->stop_count)
        return tn_fail(TN_ERROR_UNSUPPORTED, "stop texts need a tokenizer, and the model has none");
    for (size_t i = 0; i < options->stop_count; i++)
        if (!options->stop[i] || !options->stop[i][0])
            return tn_fail(TN_ERROR_ARGUMENT, "a stop text is empty");
    if (!tokenizer)
        return TN_OK;
    for (size_t i = prompt->count > PROMPT_TAIL ? prompt->count - PROMPT_TAIL : 0; i < prompt->count; i++)
        if (tn_tokenizer_token(tokenizer, prompt->ids[i]))
            TN_TRY(tn_ids_push(&s->window, prompt->ids[i]));
    s->fresh = s->window.count;
    return TN_OK;
}

void tn_text_stream_free(tn_text_stream *s) {
    tn_ids_free(&s->window);
    tn_buf_free(&s->before);
    tn_buf_free(&s->now);
    tn_buf_free(&s->text);
    *s = (tn_text_stream){0};
}

tn_status tn_text_stream_push(tn_text_stream *s, int32_t id) {
    /* rows of the embedding beyond the vocabulary have no text */
    if (!s->tokenizer || s->stopped || !tn_tokenizer_token(s->tokenizer, id))
        return TN_OK;
    TN_TRY(tn_ids_push(&s->window, id));
    TN_TRY(decode_fresh(s, false));
    settle(s);
    return TN_OK;
}

tn_status tn_text_stream_finish(tn_text_stream *s) {
    if (s->tokenizer && !s->stopped && s->fresh < s->window.count) {
        TN_TRY(decode_fresh(s, true));
        settle(s);
    }
    s->certain = s->text.length;
    return TN_OK;
}
