/* A sample as people see it: what is only read and what is learned. */
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "data/dataset.h"

enum { SHOWN_BYTES = 1500, SHOWN_IDS = 16 };

/* Text of one run of tokens that are all trained or all not. */
typedef struct run {
    size_t end; /* in the text of the whole sample */
    bool trained;
} run;

typedef struct picture {
    tn_buf text;
    run *runs;
    size_t count;
} picture;

/* Appends what ids [from, to) add to the text of the run before them, ids [before_from, from): the first token of a text
 * decodes otherwise (SentencePiece drops its space). */
static tn_status append_text(const tn_tokenizer *tokenizer, const int32_t *ids, int64_t before_from, int64_t from,
                             int64_t to, tn_buf *out) {
    tn_buf before = {0}, joined = {0};
    tn_status status = TN_OK;
    if (!tokenizer) {
        for (int64_t i = from; i < to; i++)
            tn_buf_printf(out, "%s%d", i ? " " : "", ids[i]);
        return tn_buf_status(out);
    }
    TN_TRY_GOTO(tn_tokenizer_decode(tokenizer, ids + before_from, (size_t)(from - before_from), false, &before));
    TN_TRY_GOTO(tn_tokenizer_decode(tokenizer, ids + before_from, (size_t)(to - before_from), false, &joined));
    if (joined.length >= before.length && memcmp(tn_buf_text(&joined), tn_buf_text(&before), before.length) == 0)
        tn_buf_append(out, tn_buf_text(&joined) + before.length, joined.length - before.length);
    else
        TN_TRY_GOTO(tn_tokenizer_decode(tokenizer, ids + from, (size_t)(to - from), false, out));
    status = tn_buf_status(out);
fail:
    tn_buf_free(&joined);
    tn_buf_free(&before);
    return status;
}

static tn_status draw(const tn_tokenizer *tokenizer, const int32_t *ids, const int32_t *labels, int64_t length,
                      picture *out) {
    int64_t runs = 0;
    for (int64_t i = 0; i < length; i++)
        runs += i == 0 || (labels[i] == TN_LABEL_IGNORED) != (labels[i - 1] == TN_LABEL_IGNORED);
    out->runs = tn_calloc((size_t)runs, sizeof *out->runs);
    if (!out->runs)
        return tn_fail_memory("showing a sample");
    for (int64_t before_from = 0, from = 0, to; from < length; before_from = from, from = to) {
        bool trained = labels[from] != TN_LABEL_IGNORED;
        for (to = from + 1; to < length && (labels[to] != TN_LABEL_IGNORED) == trained;)
            to++;
        TN_TRY(append_text(tokenizer, ids, before_from, from, to, &out->text));
        out->runs[out->count++] = (run){out->text.length, trained};
    }
    return TN_OK;
}

/* Nothing that a terminal would obey: control characters (C0, C1), marks that turn the direction of text, broken UTF-8. */
static void append_escaped(tn_buf *out, const char *text, size_t length) {
    for (size_t i = 0; i < length;) {
        uint32_t code;
        size_t size = tn_utf8_decode(text + i, length - i, &code);
        bool turns = size && ((code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069));
        if (!size) {
            tn_buf_printf(out, "\\x%02x", (unsigned char)text[i]);
        } else if (code == '\t') {
            tn_buf_puts(out, "\\t");
        } else if (code == '\r') {
            tn_buf_puts(out, "\\r");
        } else if (turns || (code < 0x20 && code != '\n') || (code >= 0x7f && code < 0xa0)) {
            tn_buf_printf(out, code < 0x80 ? "\\x%02x" : "\\u%04x", (unsigned)code);
        } else {
            tn_buf_append(out, text + i, size);
        }
        i += size ? size : 1;
    }
}

static void append_run(tn_buf *out, const char *text, size_t length, bool trained, bool colour) {
    if (!length)
        return;
    tn_buf_puts(out, colour ? (trained ? "\x1b[32m" : "\x1b[2m") : (trained ? "[[" : ""));
    append_escaped(out, text, length);
    tn_buf_puts(out, colour ? "\x1b[0m" : (trained ? "]]" : ""));
}

/* The runs inside bytes [from, to). */
static void append_range(tn_buf *out, const picture *p, size_t from, size_t to, bool colour) {
    size_t start = 0;
    for (size_t i = 0; i < p->count; start = p->runs[i++].end) {
        size_t low = start > from ? start : from, high = p->runs[i].end < to ? p->runs[i].end : to;
        if (low < high)
            append_run(out, tn_buf_text(&p->text) + low, high - low, p->runs[i].trained, colour);
    }
}

static size_t character_border(const tn_buf *text, size_t at) {
    while (at < text->length && ((unsigned char)text->data[at] & 0xc0) == 0x80)
        at++;
    return at;
}

static void append_shortened(tn_buf *out, const picture *p, bool colour) {
    size_t length = p->text.length;
    if (length <= SHOWN_BYTES) {
        append_range(out, p, 0, length, colour);
        return;
    }
    size_t head = character_border(&p->text, SHOWN_BYTES / 2), tail = character_border(&p->text, length - SHOWN_BYTES / 2);
    append_range(out, p, 0, head, colour);
    tn_buf_printf(out, "\n... (%zu bytes left out) ...\n", tail - head);
    append_range(out, p, tail, length, colour);
}

tn_status tn_dataset_show(const tn_dataset *dataset, int64_t index, const tn_tokenizer *tokenizer, bool colour,
                          tn_buf *out) {
    if (index < 0 || index >= dataset->count)
        return tn_fail(TN_ERROR_ARGUMENT, "there is no sample %lld; the data has %lld", (long long)index,
                       (long long)dataset->count);
    int64_t start = dataset->starts[index], length = dataset->starts[index + 1] - start, labelled = 0;
    const int32_t *ids = dataset->ids + start, *labels = dataset->labels + start;
    for (int64_t i = 0; i < length; i++)
        labelled += labels[i] != TN_LABEL_IGNORED;
    picture p = {0};
    tn_status status;
    TN_TRY_GOTO(draw(tokenizer, ids, labels, length, &p));
    append_shortened(out, &p, colour);
    tn_buf_printf(out, "\nsample %lld (line %d): %lld tokens, %lld of them trained\nfirst ids:", (long long)index,
                  dataset->lines[index], (long long)length, (long long)labelled);
    for (int64_t i = 0; i < length && i < SHOWN_IDS; i++)
        tn_buf_printf(out, " %d", ids[i]);
    tn_buf_puts(out, length > SHOWN_IDS ? " ...\n" : "\n");
    status = tn_buf_status(out);
fail:
    tn_free(p.runs);
    tn_buf_free(&p.text);
    return status;
}
