/* Generation: each pass gives every live sequence its next token, until all have ended. */
#include <string.h>

#include "base/clock.h"
#include "infer/generator.h"
#include "infer/sampler.h"
#include "infer/stop_tokens.h"
#include "infer/text_stream.h"

enum { BATCH_PROMPTS = 32 };
static const int64_t batch_cache_bytes = INT64_C(1) << 29;

typedef struct {
    int32_t *ids; /* [limit] new tokens */
    int64_t count, limit;
    bool limited_by_context;
    tn_seen *seen; /* NULL without a repetition penalty */
    tn_text_stream stream;
    size_t shown; /* bytes of the stream's text that the callback got */
    tn_stop_reason reason;
} sequence;

typedef struct {
    const tn_generate_options *options;
    tn_token_fn token;
    void *cookie;
    tn_ids stop_tokens;
    tn_sampler sampler;
    tn_generator generator;
    sequence *sequences; /* [count] */
    int64_t count;
    int64_t *live;     /* [live_count] sequences that go on, in order ... */
    int32_t *next_ids; /* ... and the last token of each */
    int64_t live_count;
    double prompt_seconds, seconds;
    tn_arena arena;
} generation;

void tn_generate_options_default(tn_generate_options *options) {
    *options = (tn_generate_options){.max_tokens = 256, .top_p = 1, .repetition_penalty = 1};
}

const char *tn_stop_reason_name(tn_stop_reason reason) {
    static const char *const names[] = {"end of text", "length", "stop text", "stopped", "context"};
    return reason <= TN_STOP_CONTEXT ? names[reason] : "unknown";
}

void tn_generate_result_free(tn_generate_result *result) {
    if (!result)
        return;
    tn_free(result->ids);
    tn_free(result->text);
    *result = (tn_generate_result){0};
}

/* False when the callback wants to stop. */
static bool show(generation *g, sequence *s, int32_t id) {
    size_t from = s->shown;
    s->shown = s->stream.certain;
    return !g->token || g->token(g->cookie, id, tn_buf_text(&s->stream.text) + from, s->stream.certain - from);
}

static tn_status end(generation *g, sequence *s, tn_stop_reason reason) {
    s->reason = reason;
    TN_TRY(tn_text_stream_finish(&s->stream));
    if (s->shown < s->stream.certain && reason != TN_STOP_STOPPED)
        show(g, s, -1);
    return TN_OK;
}

/* What follows the last token of a sequence: a tn_next_fn. */
static tn_status take_next(void *cookie, int64_t index, const float *logits) {
    generation *g = cookie;
    sequence *s = &g->sequences[index];
    int32_t id;
    if (s->count == s->limit)
        return end(g, s, s->limited_by_context ? TN_STOP_CONTEXT : TN_STOP_LENGTH);
    TN_TRY(tn_sampler_pick(&g->sampler, logits, s->seen, s->count, &id));
    if (!g->options->ignore_eos && tn_stop_tokens_has(&g->stop_tokens, id))
        return end(g, s, TN_STOP_EOS);
    s->ids[s->count++] = id;
    if (s->seen)
        tn_seen_add(s->seen, id);
    TN_TRY(tn_text_stream_push(&s->stream, id));
    if (!show(g, s, id))
        return end(g, s, TN_STOP_STOPPED);
    if (s->stream.stopped)
        return end(g, s, TN_STOP_STRING);
    if (s->count == s->limit)
        return end(g, s, s->limited_by_context ? TN_STOP_CONTEXT : TN_STOP_LENGTH);
    g->live[g->live_count] = index;
    g->next_ids[g->live_count++] = id;
    return TN_OK;
}

static tn_status begin_sequence(generation *g, sequence *s, const tn_prompt *prompt, const tn_model *model) {
    const tn_decoder_config *config = &model->decoder->config;
    int64_t room = config->max_positions - (int64_t)prompt->count;
    s->limited_by_context = room < g->options->max_tokens;
    s->limit = s->limited_by_context ? room : g->options->max_tokens;
    s->ids = tn_malloc((size_t)s->limit * sizeof *s->ids);
    if (!s->ids)
        return tn_fail_memory("the new tokens");
    if (g->options->repetition_penalty != 1) {
        s->seen = tn_arena_array(&g->arena, tn_seen_words(config->vocab_size), sizeof *s->seen);
        if (!s->seen)
            return tn_fail_memory("the sampler");
        for (size_t i = 0; i < prompt->count; i++)
            tn_seen_add(s->seen, prompt->ids[i]);
    }
    return tn_text_stream_init(&s->stream, model->tokenizer, g->options, prompt);
}

static tn_status begin(generation *g, tn_model *model, const tn_prompt *prompts, int64_t count) {
    TN_TRY(tn_session_need_decoder(model, "generating text"));
    if (g->options->max_tokens < 0)
        return tn_fail(TN_ERROR_ARGUMENT, "%lld new tokens are fewer than none", (long long)g->options->max_tokens);
    TN_TRY(tn_sampler_init(&g->sampler, g->options, model->decoder->config.vocab_size));
    TN_TRY(tn_stop_tokens_read(model, &g->stop_tokens));
    TN_TRY(tn_generator_init(&g->generator, model, prompts, count, g->options->max_tokens, 0));
    g->sequences = tn_arena_array(&g->arena, (size_t)count, sizeof *g->sequences);
    g->live = tn_arena_array(&g->arena, (size_t)count, sizeof *g->live);
    g->next_ids = tn_arena_array(&g->arena, (size_t)count, sizeof *g->next_ids);
    if (!g->sequences || !g->live || !g->next_ids)
        return tn_fail_memory("the generation");
    for (g->count = 0; g->count < count; g->count++) {
        tn_status status = begin_sequence(g, &g->sequences[g->count], &prompts[g->count], model);
        if (status != TN_OK) {
            g->count++; /* what it holds so far is freed with the others */
            return status;
        }
    }
    return TN_OK;
}

static tn_status run(generation *g) {
    double start = tn_seconds();
    tn_status status = tn_generator_read_prompts(&g->generator, take_next, g);
    g->prompt_seconds = tn_seconds() - start;
    while (status == TN_OK && g->live_count > 0) {
        int64_t count = g->live_count;
        g->live_count = 0;
        status = tn_generator_step(&g->generator, g->live, g->next_ids, count, take_next, g);
    }
    g->seconds = tn_seconds() - start - g->prompt_seconds;
    return status;
}

static tn_status take_result(const generation *g, sequence *s, tn_generate_result *out) {
    char *text = s->stream.text.length ? tn_buf_take(&s->stream.text) : tn_strdup("");
    if (!text)
        return tn_fail_memory("the generated text");
    *out = (tn_generate_result){.ids = s->ids,
                                .count = (size_t)s->count,
                                .text = text,
                                .reason = s->reason,
                                .prompt_seconds = g->prompt_seconds,
                                .seconds = g->seconds};
    s->ids = NULL;
    return TN_OK;
}

static void finish(generation *g) {
    for (int64_t i = 0; i < g->count; i++) {
        tn_text_stream_free(&g->sequences[i].stream);
        tn_free(g->sequences[i].ids);
    }
    tn_generator_free(&g->generator);
    tn_sampler_free(&g->sampler);
    tn_ids_free(&g->stop_tokens);
    tn_arena_free(&g->arena);
}

tn_status tn_generate(tn_model *model, const int32_t *prompt, size_t count, const tn_generate_options *options,
                      tn_token_fn token, void *cookie, tn_generate_result *out) {
    tn_generate_options defaults;
    tn_prompt one = {.ids = prompt, .count = count};
    tn_generate_options_default(&defaults);
    generation g = {.options = options ? options : &defaults, .token = token, .cookie = cookie};
    *out = (tn_generate_result){0};
    tn_status status = begin(&g, model, &one, 1);
    if (status == TN_OK)
        status = run(&g);
    if (status == TN_OK)
        status = take_result(&g, &g.sequences[0], out);
    finish(&g);
    return status;
}

/* Prompts from `first` on that are generated together: up to `most`, as long as their cache stays small. */
static int64_t group_size(const tn_model *model, const tn_prompt *prompts, size_t first, size_t count, int64_t most,
                          int64_t max_tokens) {
    int64_t positions = model->decoder->config.max_positions, longest = 0, size = 0;
    for (; size < most && first + (size_t)size < count; size++) {
        size_t tokens = prompts[first + (size_t)size].count;
        int64_t whole = tokens < (uint64_t)positions ? (int64_t)tokens : positions;
        whole += max_tokens < positions - whole ? max_tokens : positions - whole;
        longest = whole > longest ? whole : longest;
        if (size > 0 && longest * (size + 1) > batch_cache_bytes / tn_generator_position_bytes(model))
            break;
    }
    return size;
}

static tn_status generate_group(tn_model *model, const tn_prompt *prompts, size_t first, int64_t size,
                                const tn_generate_options *options, tn_generated_fn generated, void *cookie) {
    generation g = {.options = options};
    tn_status status = begin(&g, model, prompts + first, size);
    if (status == TN_OK)
        status = run(&g);
    for (int64_t i = 0; i < size && status == TN_OK; i++) {
        tn_generate_result result = {0};
        status = take_result(&g, &g.sequences[i], &result);
        if (status == TN_OK && !generated(cookie, first + (size_t)i, &result))
            status = tn_fail(TN_ERROR_INTERRUPTED, "generation was stopped");
        tn_generate_result_free(&result);
    }
    finish(&g);
    return status;
}

tn_status tn_generate_many(tn_model *model, const tn_prompt *prompts, size_t count, int64_t batch_size,
                           const tn_generate_options *options, tn_generated_fn generated, void *cookie) {
    tn_generate_options defaults;
    tn_generate_options_default(&defaults);
    TN_TRY(tn_session_need_decoder(model, "generating text"));
    if (batch_size < 0)
        return tn_fail(TN_ERROR_ARGUMENT, "a batch of %lld prompts is none", (long long)batch_size);
    for (size_t first = 0; first < count;) {
        const tn_generate_options *chosen = options ? options : &defaults;
        int64_t size = group_size(model, prompts, first, count, batch_size ? batch_size : BATCH_PROMPTS, chosen->max_tokens);
        TN_TRY(generate_group(model, prompts, first, size, chosen, generated, cookie));
        first += (size_t)size;
    }
    return TN_OK;
}

static tn_status render_chat(const tn_model *model, const char *messages_json, bool add_generation_prompt, tn_buf *out) {
    cJSON *messages;
    TN_TRY(tn_json_parse(messages_json, strlen(messages_json), "messages", &messages));
    tn_chat_render render = {.messages = messages, .add_generation_prompt = add_generation_prompt};
    tn_status status = cJSON_IsArray(messages)
                           ? tn_chat_template_render(model->chat_template, &render, out)
                           : tn_fail(TN_ERROR_FORMAT, "messages must be an array of {\"role\", \"content\"}");
    cJSON_Delete(messages);
    return status == TN_OK ? tn_buf_status(out) : status;
}

tn_status tn_chat_prompt(const tn_model *model, const char *messages_json, bool add_generation_prompt, int32_t **ids,
                         size_t *count) {
    tn_buf text = {0};
    *ids = NULL;
    *count = 0;
    TN_TRY(tn_session_need_decoder(model, "a conversation"));
    if (!model->chat_template)
        return tn_fail(
            TN_ERROR_UNSUPPORTED,
            "%s has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); give a plain prompt "
            "instead of a conversation",
            model->network->dir);
    tn_status status = render_chat(model, messages_json, add_generation_prompt, &text);
    if (status == TN_OK)
        status = tn_model_encode(model, tn_buf_text(&text), text.length, false, ids, count);
    tn_buf_free(&text);
    return status;
}
