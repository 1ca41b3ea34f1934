/* Token ids arriving one by one to text: whole UTF-8 sequences only, ended by stop texts. */
#ifndef TN_INFER_TEXT_STREAM_H
#define TN_INFER_TEXT_STREAM_H

#include <tenon/generate.h>

#include "text/tokenizer.h"

typedef struct tn_text_stream {
    const tn_tokenizer *tokenizer;      /* NULL: there is never any text */
    const tn_generate_options *options; /* whose stop texts end the stream; the caller's */
    tn_decode_stream *decoder;
    size_t prompt_left; /* bytes of the prompt's text that the decoder still holds back */
    tn_buf text;        /* so far; without the stop text at its end */
    size_t certain;     /* bytes of `text` that can no longer become part of a stop text */
    bool stopped;       /* by a stop text */
} tn_text_stream;

/* A stream of the text behind `prompt`, which decides such things as whether a blank comes first. Free with
 * tn_text_stream_free, also after a failure. */
tn_status tn_text_stream_init(tn_text_stream *stream, const tn_tokenizer *tokenizer, const tn_generate_options *options,
                              const tn_prompt *prompt);
void tn_text_stream_free(tn_text_stream *stream);

/* Takes one more id; ignored after a stop text. */
tn_status tn_text_stream_push(tn_text_stream *stream, int32_t id);

/* Nothing more comes: what was held back becomes certain, cut-off UTF-8 sequences as U+FFFD. */
tn_status tn_text_stream_finish(tn_text_stream *stream);

#endif
