/* A pass is a packed batch: of each sequence its next tokens, whose keys and values go to the cache and which see all that
 * are there.
 *
 *     tokens     [ a4 a5 a6 | b0 b1 ]        positions  [ 4 5 6 | 0 1 ]
 *     spans      q rows 0..2 with keys 0..6 of sequence a; q rows 3..4 with keys 0..1 of sequence b */
#include "infer/generator.h"

#include "peft/lora.h"

#include <string.h>

/* Enough for the products to be efficient; activations of longer prompts would only take memory. */
enum { PASS_TOKENS = 1024 };

int64_t tn_generator_position_bytes(const tn_model *model) {
    const tn_decoder_config *config = &model->decoder->config;
    return config->kv_heads * config->head_size * 2 * model->network->layer_count * (int64_t)sizeof(float);
}

static tn_status check_prompts(const tn_model *model, const tn_prompt *prompts, int64_t count) {
    int64_t vocab = model->decoder->config.vocab_size, positions = model->decoder->config.max_positions;
    for (int64_t i = 0; i < count; i++) {
        if (prompts[i].count == 0)
            return tn_fail(TN_ERROR_ARGUMENT, "the prompt is empty: there is nothing to continue");
        if (prompts[i].count > (uint64_t)positions)
            return tn_fail(TN_ERROR_ARGUMENT, "the prompt has %zu tokens, but the model only %lld positions; shorten it",
                           prompts[i].count, (long long)positions);
        for (size_t t = 0; t < prompts[i].count; t++)
            if (prompts[i].ids[t] < 0 || prompts[i].ids[t] >= vocab)
                return tn_fail(TN_ERROR_ARGUMENT, "token %lld of the prompt is outside the model's vocabulary of %lld",
                               (long long)prompts[i].ids[t], (long long)vocab);
    }
    return TN_OK;
}

static void begin_pass(tn_generator *g) {
    g->tokens.count = g->tokens.span_count = g->logit_count = 0;
}

static void add_tokens(tn_generator *g, int64_t sequence, const int32_t *ids, int64_t count, bool wants_logits) {
    int64_t at = g->tokens.count, length = g->cache.lengths[sequence], first_row = sequence * g->cache.capacity;
    for (int64_t i = 0; i < count; i++) {
        g->ids[at + i] = ids[i];
        g->positions[at + i] = (int32_t)(length + i);
        g->cache_rows[at + i] = first_row + length + i;
        g->owners[at + i] = (int32_t)sequence;
        g->invoked[at + i] = length + i >= g->invoked_from[sequence];
    }
    g->spans[g->tokens.span_count++] = (tn_span){at, count, first_row, length + count};
    g->tokens.count += count;
    g->cache.lengths[sequence] += count;
    if (wants_logits) {
        g->logit_rows[g->logit_count] = (int32_t)(at + count - 1);
        g->logit_owners[g->logit_count++] = sequence;
    }
}

typedef struct {
    const tn_generator *generator;
    tn_next_fn next;
    void *cookie;
} next_context;

static tn_status hand_out(void *cookie, int64_t first_row, int64_t rows, const float *logits) {
    const next_context *c = cookie;
    int64_t vocab = c->generator->model->decoder->config.vocab_size;
    for (int64_t i = 0; i < rows; i++)
        TN_TRY(c->next(c->cookie, c->generator->logit_owners[first_row + i], logits + i * vocab));
    return TN_OK;
}

static tn_status run_pass(tn_generator *g, tn_tape *tape, tn_next_fn next, void *cookie) {
    next_context context = {g, next, cookie};
    tn_tape_reset(tape);
    TN_TRY(tn_pass_mixed_logits(g->model, tape, &g->tokens, g->mixes.sequences ? &g->mixes : NULL, g->owners, g->logit_rows,
                                g->logit_count, hand_out, &context));
    return tn_tape_status(tape);
}

/* Fills passes with one prompt after another; a prompt may be spread over several. */
static tn_status read_prompts(tn_generator *g, tn_tape *tape, tn_next_fn next, void *cookie) {
    begin_pass(g);
    for (int64_t s = 0; s < g->count; s++) {
        const tn_prompt *prompt = &g->prompts[s];
        for (int64_t at = 0, n; at < (int64_t)prompt->count; at += n) {
            int64_t room = g->pass_tokens - g->tokens.count, left = (int64_t)prompt->count - at;
            n = left < room ? left : room;
            add_tokens(g, s, prompt->ids + at, n, n == left);
            if (g->tokens.count == g->pass_tokens) {
                TN_TRY(run_pass(g, tape, next, cookie));
                begin_pass(g);
            }
        }
    }
    return g->tokens.count ? run_pass(g, tape, next, cookie) : TN_OK;
}

static tn_status rehearse(tn_generator *g, tn_tape *tape) {
    size_t lengths = (size_t)g->count * sizeof *g->cache.lengths;
    TN_TRY(read_prompts(g, tape, NULL, NULL));
    for (int64_t live = 1; live <= g->count; live++) {
        memset(g->cache.lengths, 0, lengths);
        begin_pass(g);
        for (int64_t s = 0; s < live; s++)
            add_tokens(g, s, g->prompts[s].ids, 1, true);
        TN_TRY(run_pass(g, tape, NULL, NULL));
    }
    memset(g->cache.lengths, 0, lengths);
    return TN_OK;
}

/* Rehearses every kind of pass that can come, so that the heap of the real tape is large enough for all. */
static tn_status plan(tn_generator *g) {
    tn_tape tape;
    TN_TRY(tn_tape_init(&tape, g->model->kernels, 0));
    tape.inferring = true;
    tn_status status = rehearse(g, &tape);
    int64_t peak = tape.heap.peak;
    tn_tape_free(&tape);
    TN_TRY(status);
    /* the worst is known, but rows of several adapters may fragment otherwise; reserve costs nothing */
    TN_TRY(tn_tape_init(&g->tape, g->model->kernels, g->mixes.sequences ? peak + peak / 2 + (1 << 20) : peak));
    g->tape.inferring = true;
    return TN_OK;
}

static tn_status allocate_pass(tn_generator *g) {
    size_t tokens = (size_t)g->pass_tokens, count = (size_t)g->count;
    g->ids = tn_arena_array(&g->arena, tokens, sizeof *g->ids);
    g->positions = tn_arena_array(&g->arena, tokens, sizeof *g->positions);
    g->cache_rows = tn_arena_array(&g->arena, tokens, sizeof *g->cache_rows);
    g->invoked = tn_arena_array(&g->arena, tokens, sizeof *g->invoked);
    g->owners = tn_arena_array(&g->arena, tokens, sizeof *g->owners);
    g->spans = tn_arena_array(&g->arena, count, sizeof *g->spans);
    g->logit_rows = tn_arena_array(&g->arena, count, sizeof *g->logit_rows);
    g->logit_owners = tn_arena_array(&g->arena, count, sizeof *g->logit_owners);
    if (!g->ids || !g->positions || !g->cache_rows || !g->invoked || !g->owners || !g->spans || !g->logit_rows ||
        !g->logit_owners)
        return tn_fail_memory("the generator");
    g->tokens = (tn_tokens){.ids = g->ids,
                            .positions = g->positions,
                            .spans = g->spans,
                            .cache = &g->cache,
                            .cache_rows = g->cache_rows,
                            .invoked = g->invoked};
    return TN_OK;
}

static tn_status choose_adapters(tn_generator *g) {
    size_t adapters = tn_model_list_adapters(g->model, NULL, NULL, 0);
    bool chosen = false;
    for (int64_t s = 0; s < g->count; s++)
        chosen = chosen || g->prompts[s].adapters;
    if (!chosen)
        return TN_OK;
    float *weights = tn_arena_array(&g->arena, (size_t)g->count * adapters + 1, sizeof *weights);
    if (!weights)
        return tn_fail_memory("the generator");
    for (int64_t s = 0; s < g->count; s++)
        TN_TRY(tn_session_mix_weights(g->model, g->prompts[s].adapters, weights + (size_t)s * adapters));
    g->mixes = (tn_row_mixes){.sequences = (size_t)g->count, .adapters = adapters, .weights = weights};
    return TN_OK;
}

/* The position from which on an adapter with invocation tokens acts in each sequence: by its prompt, as in PEFT. */
static tn_status find_invocations(tn_generator *g) {
    const tn_peft_config *config = tn_adapter_invocation(g->model->adapter);
    size_t longest = 0;
    g->invoked_from = tn_arena_array(&g->arena, (size_t)g->count, sizeof *g->invoked_from);
    if (!g->invoked_from)
        return tn_fail_memory("the generator");
    if (!config)
        return TN_OK;
    for (int64_t s = 0; s < g->count; s++)
        longest = g->prompts[s].count > longest ? g->prompts[s].count : longest;
    bool *invoked = tn_malloc(longest * sizeof *invoked);
    if (!invoked)
        return tn_fail_memory("the generator");
    for (int64_t s = 0; s < g->count; s++) {
        const tn_prompt *prompt = &g->prompts[s];
        tn_lora_mark_invoked(config, prompt->ids, (int64_t)prompt->count, invoked);
        size_t from = 0;
        while (from < prompt->count && !invoked[from])
            from++;
        g->invoked_from[s] = from < prompt->count ? (int64_t)from : INT64_MAX;
    }
    tn_free(invoked);
    return TN_OK;
}

tn_status tn_generator_init(tn_generator *g, tn_model *model, const tn_prompt *prompts, int64_t count, int64_t max_tokens,
                            int64_t pass_tokens) {
    int64_t positions = model->decoder->config.max_positions, capacity = 0;
    tn_status status;
    *g = (tn_generator){
        .model = model, .prompts = prompts, .count = count, .pass_tokens = pass_tokens ? pass_tokens : PASS_TOKENS};
    TN_TRY(check_prompts(model, prompts, count));
    if (g->pass_tokens < count)
        g->pass_tokens = count;
    for (int64_t i = 0; i < count; i++) {
        int64_t prompt = (int64_t)prompts[i].count, room = positions - prompt;
        int64_t whole = prompt + (max_tokens < room ? max_tokens : room);
        if (whole > capacity)
            capacity = whole;
    }
    TN_TRY(tn_decoder_prepare(model->decoder, capacity));
    TN_TRY_GOTO(tn_kv_cache_init(&g->cache, model->decoder, count, capacity));
    TN_TRY_GOTO(allocate_pass(g));
    TN_TRY_GOTO(choose_adapters(g));
    TN_TRY_GOTO(find_invocations(g));
    TN_TRY_GOTO(plan(g));
    return TN_OK;
fail:
    tn_generator_free(g);
    return status;
}

void tn_generator_free(tn_generator *g) {
    tn_tape_free(&g->tape);
    tn_kv_cache_free(&g->cache);
    tn_arena_free(&g->arena);
    *g = (tn_generator){0};
}

tn_status tn_generator_read_prompts(tn_generator *g, tn_next_fn next, void *cookie) {
    return read_prompts(g, &g->tape, next, cookie);
}

tn_status tn_generator_step(tn_generator *g, const int64_t *sequences, const int32_t *ids, int64_t count, tn_next_fn next,
                            void *cookie) {
    begin_pass(g);
    for (int64_t i = 0; i < count; i++)
        add_tokens(g, sequences[i], &ids[i], 1, true);
    return run_pass(g, &g->tape, next, cookie);
}
