/* One forward (and backward) pass over a packed batch, for real or as a rehearsal that only counts. */
#include <math.h>
#include <string.h>

#include "peft/lora.h"
#include "session/session.h"

void tn_pass_from_batch(const tn_batch *batch, tn_span *spans, tn_pass *pass) {
    for (int64_t i = 0; i < batch->sequences; i++) {
        int64_t start = batch->starts[i], rows = batch->starts[i + 1] - start;
        spans[i] = (tn_span){start, rows, start, rows};
    }
    *pass = (tn_pass){.tokens = {.ids = batch->ids,
                                 .positions = batch->positions,
                                 .count = batch->tokens,
                                 .spans = spans,
                                 .span_count = batch->sequences},
                      .label_rows = batch->label_rows,
                      .label_ids = batch->label_ids,
                      .labelled = batch->labelled};
}

/* Rows behind an adapter's invocation tokens, on the tape's storage; NULL when no adapter has such tokens. */
static const bool *find_invoked(const tn_model *model, tn_tape *tape, const tn_tokens *tokens) {
    const tn_peft_config *config = tn_adapter_invocation(model->adapter);
    if (!config || tokens->cache)
        return config ? tokens->invoked : NULL;
    bool *invoked = tn_tape_store(tape, (size_t)tokens->count * sizeof *invoked);
    for (int64_t i = 0; i < tokens->span_count && invoked && tn_tape_live(tape); i++) {
        const tn_span *span = &tokens->spans[i];
        tn_lora_mark_invoked(config, tokens->ids + span->q_start, span->q_rows, invoked + span->q_start);
    }
    return invoked;
}

/* Routing of the rows of the pass, or of output rows first .. first + count - 1. */
static const tn_routing *routing_of(tn_tape *tape, const tn_row_mixes *mixes, const int32_t *owners, const tn_tokens *tokens,
                                    int64_t first, int64_t count) {
    const int32_t *rows = tokens->output_rows;
    if (!mixes)
        return NULL;
    if (!rows)
        return tn_session_routing(tape, mixes, owners + first, count);
    int32_t *picked = tn_tape_store(tape, (size_t)count * sizeof *picked);
    for (int64_t i = 0; i < count && picked && !tape->rehearsal; i++)
        picked[i] = owners[rows[first + i]];
    return tn_session_routing(tape, mixes, picked ? picked : owners, count);
}

typedef struct {
    const tn_decoder *decoder;
    const tn_forward *forward;
    const tn_tokens *tokens;
    const tn_row_mixes *mixes; /* NULL unless adapters act by rows; then */
    const int32_t *owners;     /* [tokens->count] of the rows */
} output_head;

/* A tn_head_fn: adapters that act by rows act on the rows that are there. No adapter waits for tokens at a head. */
static tn_var *logits_of(tn_tape *tape, void *context, tn_var *hidden, int64_t first) {
    const output_head *h = context;
    tn_forward forward = *h->forward;
    forward.invoked = NULL;
    forward.routing = routing_of(tape, h->mixes, h->owners, h->tokens, first, hidden->rows);
    return tn_linear_forward(&forward, h->decoder->net.head, hidden);
}

void tn_pass_loss(tn_model *model, const tn_forward *given, const tn_pass *pass, tn_checkpointing checkpointing,
                  float grad_scale, float *losses, uint8_t *correct) {
    tn_tape *tape = given->tape;
    tn_forward forward = *given;
    tn_tokens tokens = pass->tokens;
    tokens.output_rows = pass->label_rows;
    tokens.output_count = pass->labelled;
    forward.invoked = find_invoked(model, tape, &tokens);
    tn_var *hidden = tn_decoder_hidden(model->decoder, &forward, &tokens, checkpointing);
    output_head head = {.decoder = model->decoder, .forward = &forward, .tokens = &tokens};
    tn_op_head_loss(tape, hidden, logits_of, &head, model->decoder->config.vocab_size,
                    tn_decoder_narrows(&forward, &tokens) ? NULL : pass->label_rows, pass->label_ids, pass->labelled,
                    grad_scale, losses, correct);
    tn_drop(tape, hidden);
    if (tape->recording)
        tn_tape_backward(tape);
}

tn_status tn_pass_rehearse(tn_model *model, const int64_t *starts, int64_t sequences, int64_t labelled, bool recording,
                           tn_checkpointing checkpointing, tn_pass_cost *out) {
    tn_tape tape;
    tn_span *spans = tn_calloc((size_t)sequences + 1, sizeof *spans);
    if (!spans)
        return tn_fail_memory("the plan");
    tn_status status = tn_tape_init(&tape, model->kernels, 0);
    if (status == TN_OK) {
        for (int64_t i = 0; i < sequences; i++)
            spans[i] = (tn_span){starts[i], starts[i + 1] - starts[i], starts[i], starts[i + 1] - starts[i]};
        tn_pass pass = {.tokens = {.count = starts[sequences], .spans = spans, .span_count = sequences},
                        .labelled = labelled};
        tn_forward forward = {.tape = &tape, .training = recording};
        tape.recording = recording;
        tn_pass_loss(model, &forward, &pass, checkpointing, 1, NULL, NULL);
        status = tn_tape_status(&tape);
        *out = (tn_pass_cost){.heap_bytes = tape.heap.peak, .flops = tape.flops};
    }
    tn_tape_free(&tape);
    tn_free(spans);
    return status;
}

tn_status tn_pass_mixed_logits(tn_model *model, tn_tape *tape, const tn_tokens *given, const tn_row_mixes *mixes,
                               const int32_t *owners, const int32_t *rows, int64_t count, tn_logits_sink sink,
                               void *cookie) {
    int64_t vocab = model->decoder->config.vocab_size, piece = tn_head_loss_rows(tape->kernels, false, vocab, count);
    tn_tokens tokens = *given;
    tokens.output_rows = rows;
    tokens.output_count = count;
    tn_forward forward = {.tape = tape,
                          .invoked = find_invoked(model, tape, &tokens),
                          .routing = routing_of(tape, mixes, owners, given, 0, tokens.count)};
    output_head head = {model->decoder, &forward, &tokens, mixes, owners};
    const int32_t *left = tn_decoder_narrows(&forward, &tokens) ? NULL : rows;
    tn_status status = TN_OK;
    tape->recording = false;
    tn_var *hidden = tn_decoder_hidden(model->decoder, &forward, &tokens, TN_CHECKPOINTING_OFF);
    for (int64_t at = 0; at < count && status == TN_OK; at += piece) {
        int64_t n = count - at < piece ? count - at : piece;
        tn_var *picked = tn_op_take_rows(tape, hidden, left, at, n);
        tn_var *logits = logits_of(tape, &head, picked, at);
        tn_drop(tape, picked);
        status = tn_tape_status(tape);
        if (status == TN_OK && !tape->rehearsal)
            status = sink(cookie, at, n, logits->data);
        tn_drop(tape, logits);
    }
    tn_drop(tape, hidden);
    return status;
}

tn_status tn_pass_logits(tn_model *model, tn_tape *tape, const tn_tokens *tokens, const int32_t *rows, int64_t count,
                         tn_logits_sink sink, void *cookie) {
    return tn_pass_mixed_logits(model, tape, tokens, NULL, NULL, rows, count, sink, cookie);
}

/* Tokens spread over the vocabulary, behind those that invoke the adapter if it waits for any: enough to see whether it
 * acts, whatever the tokenizer. */
enum { PROBE_TOKENS = 16 };

typedef struct {
    float *logits;
    int64_t vocab;
} kept_logits;

static tn_status copy_logits(void *cookie, int64_t first_row, int64_t rows, const float *logits) {
    kept_logits *kept = cookie;
    memcpy(kept->logits + first_row * kept->vocab, logits, (size_t)(rows * kept->vocab) * sizeof *logits);
    return TN_OK;
}

static tn_status probe_tokens(tn_model *model, float **logits, int64_t *floats) {
    int64_t vocab = model->decoder->config.vocab_size;
    int32_t ids[TN_MOST_INVOCATION + PROBE_TOKENS], positions[TN_MOST_INVOCATION + PROBE_TOKENS], rows[PROBE_TOKENS];
    const tn_peft_config *invoked = tn_adapter_invocation(model->adapter);
    int32_t first = invoked ? (int32_t)invoked->invocation_count : 0, total = first + PROBE_TOKENS;
    tn_span span = {0, total, 0, total};
    tn_tokens tokens = {.ids = ids, .positions = positions, .count = total, .spans = &span, .span_count = 1};
    tn_tape rehearsal, tape = {0};
    *logits = NULL;
    *floats = vocab * PROBE_TOKENS;
    for (int32_t i = 0; i < first; i++)
        ids[i] = invoked->invocation_tokens[i];
    for (int32_t i = 0; i < PROBE_TOKENS; i++) {
        ids[first + i] = (int32_t)((uint64_t)(i + 1) * 2654435761u % (uint64_t)vocab);
        rows[i] = first + i;
    }
    int32_t most = model->decoder->config.max_positions < total ? (int32_t)model->decoder->config.max_positions : total;
    for (int32_t i = 0; i < total; i++)
        positions[i] = i % most;
    TN_TRY(tn_decoder_prepare(model->decoder, most));
    TN_TRY(tn_tape_init(&rehearsal, model->kernels, 0));
    tn_status status = tn_pass_logits(model, &rehearsal, &tokens, rows, PROBE_TOKENS, NULL, NULL);
    int64_t peak = rehearsal.heap.peak;
    tn_tape_free(&rehearsal);
    TN_TRY(status);
    kept_logits kept = {tn_malloc((size_t)*floats * sizeof(float)), vocab};
    if (!kept.logits)
        return tn_fail_memory("the probe");
    status = tn_tape_init(&tape, model->kernels, peak);
    if (status == TN_OK)
        status = tn_pass_logits(model, &tape, &tokens, rows, PROBE_TOKENS, copy_logits, &kept);
    tn_tape_free(&tape);
    if (status != TN_OK) {
        tn_free(kept.logits);
        return status;
    }
    *logits = kept.logits;
    return TN_OK;
}

tn_status tn_session_probe_logits(tn_model *model, float **logits, int64_t *floats) {
    return model->decoder ? probe_tokens(model, logits, floats) : tn_session_probe_features(model, logits, floats);
}

tn_status tn_session_probe(tn_model *model, double *largest_difference) {
    float *with = NULL, *without = NULL;
    int64_t count = 0;
    bool was_on = model->adapter && model->adapter->enabled;
    tn_model_enable_adapter(model, true);
    tn_status status = tn_session_probe_logits(model, &with, &count);
    if (status == TN_OK) {
        tn_model_enable_adapter(model, false);
        status = tn_session_probe_logits(model, &without, &count);
    }
    tn_model_enable_adapter(model, was_on);
    *largest_difference = 0;
    for (int64_t i = 0; i < count && status == TN_OK; i++)
        *largest_difference = fmax(*largest_difference, fabs((double)with[i] - without[i]));
    tn_free(with);
    tn_free(without);
    return status;
}
