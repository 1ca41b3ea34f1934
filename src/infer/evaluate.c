/* loss = sum of -log p(label) / labels, summed in double over batches in the order of the file; and, when asked for, greedy
 * completions beside the reference. */
#include <math.h>
#include <string.h>
#include <tenon/evaluate.h>
#include <tenon/generate.h>

#include "base/clock.h"
#include "session/session.h"

void tn_evaluate_options_default(tn_evaluate_options *options) {
    *options = (tn_evaluate_options){.batch_size = 8, .max_tokens = 64};
}

/* Buffers for the largest batch of a data set. */
typedef struct {
    tn_model *model;
    tn_order order;
    tn_batch_builder builder;
    tn_tape tape;
    tn_span *spans;
    float *losses;
    uint8_t *correct;
    tn_arena arena;
} scorer;

/* Every batch is rehearsed, so that memory runs out before the work or not at all. */
static tn_status plan(scorer *s) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < tn_order_per_epoch(&s->order); i++) {
        const tn_batch *batch;
        tn_pass_cost cost;
        TN_TRY(tn_batch_at(&s->builder, &s->order, i, &batch));
        TN_TRY(tn_pass_rehearse(s->model, batch->starts, batch->sequences, batch->labelled, false, TN_CHECKPOINTING_OFF,
                                &cost));
        bytes = cost.heap_bytes > bytes ? cost.heap_bytes : bytes;
    }
    return tn_tape_init(&s->tape, s->model->kernels, bytes);
}

static tn_status start_scorer(scorer *s, tn_model *model, const tn_dataset *data, int64_t batch_size) {
    int64_t longest = 0;
    *s = (scorer){.model = model};
    TN_TRY(tn_order_init(&s->order, data, batch_size, false, 0));
    tn_batch_size bounds = tn_order_bounds(&s->order, 0, tn_order_per_epoch(&s->order));
    TN_TRY(tn_batch_builder_init(&s->builder, bounds));
    s->spans = tn_arena_array(&s->arena, (size_t)bounds.sequences, sizeof *s->spans);
    s->losses = tn_arena_array(&s->arena, (size_t)bounds.labelled, sizeof *s->losses);
    s->correct = tn_arena_array(&s->arena, (size_t)bounds.labelled, sizeof *s->correct);
    if (!s->spans || !s->losses || !s->correct)
        return tn_fail_memory("the losses");
    for (int64_t i = 0; i < data->count; i++)
        if (data->starts[i + 1] - data->starts[i] > longest)
            longest = data->starts[i + 1] - data->starts[i];
    TN_TRY(tn_decoder_prepare(model->decoder, longest));
    return plan(s);
}

static void free_scorer(scorer *s) {
    tn_tape_free(&s->tape);
    tn_batch_builder_free(&s->builder);
    tn_order_free(&s->order);
    tn_arena_free(&s->arena);
}

static tn_status score(scorer *s, tn_evaluation *out) {
    tn_forward forward = {.tape = &s->tape};
    double sum = 0;
    int64_t correct = 0;
    for (int64_t i = 0; i < tn_order_per_epoch(&s->order); i++) {
        const tn_batch *batch;
        tn_pass pass;
        TN_TRY(tn_batch_at(&s->builder, &s->order, i, &batch));
        tn_pass_from_batch(batch, s->spans, &pass);
        tn_tape_reset(&s->tape);
        tn_pass_loss(s->model, &forward, &pass, TN_CHECKPOINTING_OFF, 0, s->losses, s->correct);
        TN_TRY(tn_tape_status(&s->tape));
        for (int64_t j = 0; j < batch->labelled; j++) {
            sum += s->losses[j];
            correct += s->correct[j];
        }
        out->samples += batch->sequences;
        out->tokens += batch->tokens;
        out->labelled += batch->labelled;
    }
    if (!isfinite(sum))
        return tn_fail(TN_ERROR_NUMERIC, "the loss is not finite: the model's weights or the adapter are damaged");
    out->loss = sum / (double)out->labelled;
    out->perplexity = exp(out->loss);
    out->token_accuracy = (double)correct / (double)out->labelled;
    return TN_OK;
}

/* The prompts of the samples that have one. */
typedef struct {
    const tn_dataset *data;
    const tn_evaluate_options *options;
    tn_prompt *prompts;
    int64_t *samples;
    size_t count;
    tn_evaluation *out;
} exam;

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool equal_but_for_blanks(const char *a, const char *b) {
    while (is_blank(*a))
        a++;
    while (is_blank(*b))
        b++;
    size_t length_a = strlen(a), length_b = strlen(b);
    while (length_a && is_blank(a[length_a - 1]))
        length_a--;
    while (length_b && is_blank(b[length_b - 1]))
        length_b--;
    return length_a == length_b && memcmp(a, b, length_a) == 0;
}

static bool mark(void *cookie, size_t index, const tn_generate_result *result) {
    exam *e = cookie;
    int64_t sample = e->samples[index];
    const char *reference = e->data->completions[sample];
    bool exact = equal_but_for_blanks(result->text, reference);
    e->out->generated++;
    e->out->exact += exact;
    return !e->options->generated ||
           e->options->generated(e->options->cookie, e->data->prompts[sample], reference, result->text, exact);
}

static void collect_prompts(exam *e, int64_t positions) {
    const tn_dataset *d = e->data;
    for (int64_t i = 0; i < d->count; i++) {
        int64_t tokens = d->prompt_tokens[i], length = d->starts[i + 1] - d->starts[i];
        /* plain text has no prompt but a leading <s>; a sample cut inside its prompt has no reference */
        if (tokens == 0 || tokens >= length || tokens > positions || !d->prompts[i][0])
            continue;
        e->samples[e->count] = i;
        e->prompts[e->count++] = (tn_prompt){.ids = d->ids + d->starts[i], .count = (size_t)tokens};
    }
}

static tn_status examine(tn_model *model, const tn_dataset *data, const tn_evaluate_options *options, tn_evaluation *out) {
    tn_generate_options how;
    tn_arena arena = {0};
    exam e = {.data = data, .options = options, .out = out};
    tn_generate_options_default(&how);
    how.max_tokens = options->max_tokens;
    e.prompts = tn_arena_array(&arena, (size_t)data->count, sizeof *e.prompts);
    e.samples = tn_arena_array(&arena, (size_t)data->count, sizeof *e.samples);
    tn_status status = e.prompts && e.samples ? TN_OK : tn_fail_memory("the prompts");
    if (status == TN_OK) {
        collect_prompts(&e, model->decoder->config.max_positions);
        if (e.count == 0)
            status = tn_fail(TN_ERROR_ARGUMENT,
                             "no sample has a prompt that a completion could be generated for; rows of plain text "
                             "can only be scored");
    }
    if (status == TN_OK)
        status = tn_generate_many(model, e.prompts, e.count, 0, &how, mark, &e);
    tn_arena_free(&arena);
    return status;
}

static tn_status check_options(const tn_model *model, const tn_evaluate_options *o) {
    int64_t positions = model->decoder->config.max_positions;
    if (o->batch_size < 1)
        return tn_fail(TN_ERROR_ARGUMENT, "a batch of %lld samples is none", (long long)o->batch_size);
    if (o->max_length < 0 || o->max_length > positions)
        return tn_fail(TN_ERROR_ARGUMENT, "a maximum length of %lld tokens is not from 1 to the model's %lld positions",
                       (long long)o->max_length, (long long)positions);
    if (o->limit < 0)
        return tn_fail(TN_ERROR_ARGUMENT, "a limit of %lld samples is below 0", (long long)o->limit);
    if (o->generate && !model->tokenizer)
        return tn_fail(TN_ERROR_UNSUPPORTED, "comparing completions needs a tokenizer, and the model has none");
    return TN_OK;
}

static tn_status evaluate(tn_model *model, const tn_dataset *data, const tn_evaluate_options *options, tn_evaluation *out) {
    scorer s;
    tn_status status = start_scorer(&s, model, data, options->batch_size);
    if (status == TN_OK)
        status = score(&s, out);
    free_scorer(&s);
    if (status == TN_OK && options->generate)
        status = examine(model, data, options, out);
    return status;
}

tn_status tn_evaluate(tn_model *model, const char *data_path, const tn_evaluate_options *options, tn_evaluation *out) {
    tn_evaluate_options defaults;
    tn_dataset data;
    double start = tn_seconds();
    tn_evaluate_options_default(&defaults);
    options = options ? options : &defaults;
    *out = (tn_evaluation){0};
    TN_TRY(tn_session_need_decoder(model, "evaluating on text"));
    TN_TRY(check_options(model, options));
    const tn_decoder_config *config = &model->decoder->config;
    const tn_dataset_options reading = {.tokenizer = model->tokenizer,
                                        .chat_template = model->chat_template,
                                        .vocab_size = config->vocab_size,
                                        .max_length = tn_decoder_length(config, options->max_length),
                                        .train_on_prompt = options->train_on_prompt,
                                        .keep_text = options->generate,
                                        .now = TN_DATA_DATE};
    TN_TRY(tn_dataset_read(data_path, &reading, &data));
    out->cut = data.cut;
    out->unlabelled = data.unlabelled;
    tn_dataset view = data;
    if (options->limit && options->limit < view.count)
        view.count = options->limit;
    tn_status status = evaluate(model, &view, options, out);
    tn_dataset_free(&data);
    out->seconds = tn_seconds() - start;
    return status;
}
