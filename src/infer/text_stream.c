/* The decoder has seen the prompt too, so its output minus the prompt's text is what the new tokens add. */
#include "infer/text_stream.h"

#include <string.h>

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

static void find_certain(tn_text_stream *s) {
    size_t match, held = find_stop(s, &match);
    if (match < s->text.length) {
        s->text.length = match;
        s->text.data[match] = '\0';
        s->stopped = true;
        held = 0;
    }
    s->certain = s->text.length - held;
}

/* The prompt's text lies at the front of the first new text when the decoder had held it back. */
static void drop_prompt(tn_text_stream *s) {
    size_t drop = s->prompt_left < s->text.length ? s->prompt_left : s->text.length;
    if (!drop)
        return;
    memmove(s->text.data, s->text.data + drop, s->text.length - drop + 1);
    s->text.length -= drop;
    s->prompt_left -= drop;
}

/* Rows of the embedding beyond the vocabulary have no text. */
static tn_status decode(tn_text_stream *s, int32_t id) {
    return tn_tokenizer_token(s->tokenizer, id) ? tn_decode_stream_push(s->decoder, id, &s->text) : TN_OK;
}

static tn_status decode_prompt(tn_text_stream *s, const tn_prompt *prompt) {
    for (size_t i = 0; i < prompt->count; i++)
        TN_TRY(decode(s, prompt->ids[i]));
    size_t passed = s->text.length;
    TN_TRY(tn_decode_stream_finish(s->decoder, &s->text));
    TN_TRY(tn_buf_status(&s->text));
    s->prompt_left = s->text.length - passed;
    /* an unfinished character is the new text's */
    while (s->prompt_left >= 3 && memcmp(s->text.data + passed + s->prompt_left - 3, "\xef\xbf\xbd", 3) == 0)
        s->prompt_left -= 3;
    /* finishing began the decoder anew */
    for (size_t i = 0; i < prompt->count; i++)
        TN_TRY(decode(s, prompt->ids[i]));
    tn_status status = tn_buf_status(&s->text);
    tn_buf_clear(&s->text);
    return status;
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
    TN_TRY(tn_decode_stream_new(tokenizer, true, &s->decoder));
    return decode_prompt(s, prompt);
}

void tn_text_stream_free(tn_text_stream *s) {
    tn_decode_stream_free(s->decoder);
    tn_buf_free(&s->text);
    *s = (tn_text_stream){0};
}

static tn_status settle(tn_text_stream *s) {
    TN_TRY(tn_buf_status(&s->text));
    drop_prompt(s);
    find_certain(s);
    return TN_OK;
}

tn_status tn_text_stream_push(tn_text_stream *s, int32_t id) {
    if (!s->tokenizer || s->stopped)
        return TN_OK;
    TN_TRY(decode(s, id));
    return settle(s);
}

tn_status tn_text_stream_finish(tn_text_stream *s) {
    if (s->tokenizer && !s->stopped) {
        TN_TRY(tn_decode_stream_finish(s->decoder, &s->text));
        TN_TRY(settle(s));
    }
    s->certain = s->text.length;
    return TN_OK;
}
