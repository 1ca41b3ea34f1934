/* Generation on small models: against the model without a cache, one by one, and a real model's reference. */
#include <math.h>
#include <string.h>

#include "base/utf8.h"
#include "infer/generator.h"
#include "infer/text_stream.h"
#include "shared.h"

enum { PROMPTS = 4, STEPS = 12, LONGEST = 40 };

static const size_t prompt_lengths[PROMPTS] = {7, 1, 23, 12};

/* Prompts and what follows them, spread over the vocabulary. */
static void fill_ids(int32_t ids[PROMPTS][LONGEST], int64_t vocab) {
    for (int p = 0; p < PROMPTS; p++)
        for (int i = 0; i < LONGEST; i++)
            ids[p][i] = (int32_t)((uint32_t)(p * 977 + i * 131 + i * i) % (uint64_t)vocab);
}

typedef struct {
    int64_t vocab, calls;
    float *logits[PROMPTS]; /* [V], the latest of each sequence */
} latest;

static tn_status keep(void *cookie, int64_t sequence, const float *logits) {
    latest *kept = cookie;
    memcpy(kept->logits[sequence], logits, (size_t)kept->vocab * sizeof *logits);
    kept->calls++;
    return TN_OK;
}

static tn_status keep_first(void *cookie, int64_t first_row, int64_t rows, const float *logits) {
    latest *kept = cookie;
    assert_int_equal(first_row, 0);
    assert_int_equal(rows, 1);
    memcpy(kept->logits[0], logits, (size_t)kept->vocab * sizeof *logits);
    return TN_OK;
}

static void start(latest *kept, const tn_model *model) {
    kept->vocab = model->decoder->config.vocab_size;
    kept->calls = 0;
    for (int i = 0; i < PROMPTS; i++)
        kept->logits[i] = tn_calloc((size_t)kept->vocab, sizeof(float));
}

static void finish(latest *kept) {
    for (int i = 0; i < PROMPTS; i++)
        tn_free(kept->logits[i]);
}

/* Logits after `count` ids without any cache. */
static void uncached(tn_model *model, const int32_t *ids, int64_t count, latest *out) {
    int32_t positions[LONGEST], row = (int32_t)count - 1;
    tn_span span = {0, count, 0, count};
    tn_tokens tokens = {.ids = ids, .positions = positions, .count = count, .spans = &span, .span_count = 1};
    tn_tape tape;
    for (int i = 0; i < count; i++)
        positions[i] = i;
    assert_int_equal(tn_tape_init(&tape, model->kernels, 64 << 20), TN_OK);
    assert_int_equal(tn_pass_logits(model, &tape, &tokens, &row, 1, keep_first, out), TN_OK);
    tn_tape_free(&tape);
}

static void assert_close(const float *a, const float *b, int64_t count) {
    double largest = 0, scale = 0;
    for (int64_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)a[i] - b[i]));
        scale = fmax(scale, fabs((double)b[i]));
    }
    assert_true(scale > 0);
    assert_true(largest <= 1e-5 * scale);
}

/* Feeds fixed ids to a batch of sequences of different lengths and compares every step with a pass over the whole sequence.
 */
static void compare_with_uncached(const char *name, int64_t pass_tokens) {
    tn_model *model = load_shared(name);
    int32_t ids[PROMPTS][LONGEST], next[PROMPTS];
    int64_t sequences[PROMPTS];
    tn_prompt prompts[PROMPTS];
    tn_generator generator;
    latest got, expected;
    fill_ids(ids, model->decoder->config.vocab_size);
    for (int i = 0; i < PROMPTS; i++)
        prompts[i] = (tn_prompt){.ids = ids[i], .count = prompt_lengths[i]};
    start(&got, model);
    start(&expected, model);
    assert_int_equal(tn_generator_init(&generator, model, prompts, PROMPTS, STEPS, pass_tokens), TN_OK);
    assert_int_equal(tn_generator_read_prompts(&generator, keep, &got), TN_OK);
    assert_int_equal(got.calls, PROMPTS);
    for (int step = 0;; step++) {
        int64_t live = 0;
        for (int i = 0; i < PROMPTS; i++) {
            /* sequence i ends i steps early, so that others move up in the batch */
            if (step > STEPS - i)
                continue;
            size_t length = prompt_lengths[i] + (size_t)step;
            uncached(model, ids[i], (int64_t)length, &expected);
            assert_close(got.logits[i], expected.logits[0], got.vocab);
            sequences[live] = i;
            next[live++] = ids[i][length];
        }
        if (step == STEPS)
            break;
        assert_int_equal(tn_generator_step(&generator, sequences, next, live, keep, &got), TN_OK);
    }
    tn_generator_free(&generator);
    finish(&got);
    finish(&expected);
    tn_model_free(model);
}

static void cached_logits_equal_those_without_cache(void **state) {
    (void)state;
    compare_with_uncached("golden/base_llama/base", 0);
}

static void a_window_of_attention_is_the_same_with_a_cache(void **state) {
    (void)state;
    compare_with_uncached("golden/base_mistral/base", 0);
}

static void prompts_may_be_read_in_pieces(void **state) {
    (void)state;
    compare_with_uncached("golden/base_llama/base", 5);
    compare_with_uncached("golden/base_gpt2/base", 5);
}

/* The first six ids as a prompt, then the rest one by one. */
static void compare_adapter_with_uncached(const char *name, const int32_t *ids, int64_t count) {
    char base[128], path[TN_PATH_MAX];
    snprintf(base, sizeof base, "golden/%s/base", name);
    tn_model *model = load_shared(base);
    tn_prompt prompt = {.ids = ids, .count = 6};
    const int64_t sequence = 0;
    tn_generator generator;
    latest got, expected;
    snprintf(base, sizeof base, "golden/%s/adapter", name);
    assert_int_equal(tn_model_load_adapter(model, shared(base, path), false, false), TN_OK);
    start(&got, model);
    start(&expected, model);
    assert_int_equal(tn_generator_init(&generator, model, &prompt, 1, count - 6, 4), TN_OK);
    assert_int_equal(tn_generator_read_prompts(&generator, keep, &got), TN_OK);
    for (int64_t length = 6;; length++) {
        uncached(model, ids, length, &expected);
        assert_close(got.logits[0], expected.logits[0], got.vocab);
        if (length == count)
            break;
        assert_int_equal(tn_generator_step(&generator, &sequence, &ids[length], 1, keep, &got), TN_OK);
    }
    tn_generator_free(&generator);
    finish(&got);
    finish(&expected);
    tn_model_free(model);
}

static void an_adapter_acts_with_a_cache_too(void **state) {
    static const int32_t ids[9] = {1, 5, 9, 2, 7, 30, 3, 4, 8};
    (void)state;
    compare_adapter_with_uncached("lora_basic", ids, 9);
    compare_adapter_with_uncached("vera_basic", ids, 9);
    compare_adapter_with_uncached("ia3_basic", ids, 9);
}

/* The invocation lies across two pieces of the prompt; without one the adapter rests. */
static void an_invocation_is_remembered_with_the_cache(void **state) {
    static const int32_t invoked[9] = {1, 5, 9, 11, 12, 30, 3, 4, 8}, silent[9] = {1, 5, 12, 11, 7, 30, 3, 4, 8};
    (void)state;
    compare_adapter_with_uncached("lora_alora", invoked, 9);
    compare_adapter_with_uncached("lora_alora", silent, 9);
}

/* One entry of the reference of the small real model. */
typedef struct {
    int32_t *ids;
    size_t count;
} id_list;

static id_list ids_of(const cJSON *array) {
    id_list list = {tn_calloc((size_t)cJSON_GetArraySize(array), sizeof(int32_t)), 0};
    const cJSON *item;
    cJSON_ArrayForEach(item, array) list.ids[list.count++] = (int32_t)item->valuedouble;
    return list;
}

static void assert_result_is(const tn_generate_result *result, const cJSON *entry, bool has_text) {
    id_list expected = ids_of(tn_json_get(entry, "greedy_ids"));
    assert_int_equal(result->count, expected.count);
    assert_memory_equal(result->ids, expected.ids, expected.count * sizeof(int32_t));
    assert_int_equal(result->reason, TN_STOP_LENGTH);
    if (has_text) {
        const char *whole = tn_json_get(entry, "text")->valuestring, *prompt = tn_json_get(entry, "prompt")->valuestring;
        assert_string_equal(result->text, whole + strlen(prompt));
    }
    tn_free(expected.ids);
}

typedef struct {
    tn_buf text;
    size_t tokens;
    size_t stop_after;
} heard;

static bool listen(void *cookie, int32_t id, const char *text, size_t length) {
    heard *h = cookie;
    tn_buf_append(&h->text, text, length);
    h->tokens += id >= 0;
    return h->tokens != h->stop_after;
}

static void greedy_generation_equals_the_reference(void **state) {
    (void)state;
    cJSON *golden = read_stories_golden();
    tn_model *model = load_shared(STORIES);
    tn_generate_options options;
    const cJSON *entry;
    tn_generate_options_default(&options);
    options.max_tokens = 120;
    cJSON_ArrayForEach(entry, golden) {
        id_list prompt = ids_of(tn_json_get(entry, "prompt_ids"));
        tn_generate_result result;
        heard h = {.stop_after = SIZE_MAX};
        assert_int_equal(tn_generate(model, prompt.ids, prompt.count, &options, listen, &h, &result), TN_OK);
        assert_result_is(&result, entry, model->tokenizer != NULL);
        assert_int_equal(h.tokens, result.count);
        assert_string_equal(tn_buf_text(&h.text), result.text);
        tn_buf_free(&h.text);
        tn_generate_result_free(&result);
        tn_free(prompt.ids);
    }
    tn_model_free(model);
    cJSON_Delete(golden);
}

typedef struct {
    const cJSON *golden;
    bool has_text;
    size_t next, stop_at;
} checker;

static bool check_next(void *cookie, size_t index, const tn_generate_result *result) {
    checker *c = cookie;
    assert_int_equal(index, c->next);
    assert_result_is(result, cJSON_GetArrayItem(c->golden, (int)(index % (size_t)cJSON_GetArraySize(c->golden))),
                     c->has_text);
    return ++c->next != c->stop_at;
}

static void many_prompts_together_give_what_each_gives_alone(void **state) {
    (void)state;
    cJSON *golden = read_stories_golden();
    tn_model *model = load_shared(STORIES);
    tn_generate_options options;
    tn_prompt prompts[7];
    checker c = {.golden = golden, .has_text = model->tokenizer != NULL};
    for (int i = 0; i < 7; i++) {
        id_list ids = ids_of(tn_json_get(cJSON_GetArrayItem(golden, i % cJSON_GetArraySize(golden)), "prompt_ids"));
        prompts[i] = (tn_prompt){.ids = ids.ids, .count = ids.count};
    }
    tn_generate_options_default(&options);
    options.max_tokens = 120;
    assert_int_equal(tn_generate_many(model, prompts, 7, 0, &options, check_next, &c), TN_OK);
    assert_int_equal(c.next, 7);
    c.next = 0;
    c.stop_at = 4;
    assert_int_equal(tn_generate_many(model, prompts, 7, 3, &options, check_next, &c), TN_ERROR_INTERRUPTED);
    assert_int_equal(c.next, 4);
    for (int i = 0; i < 7; i++)
        tn_free((void *)(uintptr_t)prompts[i].ids);
    tn_model_free(model);
    cJSON_Delete(golden);
}

static tn_status compare_first_logits(void *cookie, int64_t sequence, const float *logits) {
    const cJSON *expected = cookie, *value;
    int at = 0;
    (void)sequence;
    cJSON_ArrayForEach(value, expected) assert_true(fabs(logits[at++] - value->valuedouble) < 2e-4);
    assert_int_equal(at, 512);
    return TN_OK;
}

static void first_logits_equal_the_reference(void **state) {
    (void)state;
    cJSON *golden = read_stories_golden();
    tn_model *model = load_shared(STORIES);
    const cJSON *entry;
    cJSON_ArrayForEach(entry, golden) {
        id_list ids = ids_of(tn_json_get(entry, "prompt_ids"));
        tn_prompt prompt = {.ids = ids.ids, .count = ids.count};
        tn_generator generator;
        assert_int_equal(tn_generator_init(&generator, model, &prompt, 1, 1, 0), TN_OK);
        assert_int_equal(tn_generator_read_prompts(&generator, compare_first_logits,
                                                   (void *)(uintptr_t)tn_json_get(entry, "first_step_logits")),
                         TN_OK);
        tn_generator_free(&generator);
        tn_free(ids.ids);
    }
    tn_model_free(model);
    cJSON_Delete(golden);
}

static bool equals_first(void *cookie, size_t index, const tn_generate_result *result) {
    const tn_generate_result *first = cookie;
    assert_true(index < 3);
    assert_int_equal(result->count, first->count);
    assert_memory_equal(result->ids, first->ids, first->count * sizeof(int32_t));
    return true;
}

static void sampling_repeats_with_its_seed_alone_and_in_a_batch(void **state) {
    (void)state;
    tn_model *model = load_shared(BUNDLED);
    const int32_t ids[] = {1, 403, 407, 261, 378};
    tn_generate_options options;
    tn_generate_result first, again, other;
    tn_generate_options_default(&options);
    options.max_tokens = 40;
    options.temperature = 1;
    options.top_k = 50;
    options.repetition_penalty = 1.1;
    options.seed = 3;
    assert_int_equal(tn_generate(model, ids, 5, &options, NULL, NULL, &first), TN_OK);
    assert_int_equal(tn_generate(model, ids, 5, &options, NULL, NULL, &again), TN_OK);
    const tn_prompt same[] = {{.ids = ids, .count = 5}, {.ids = ids, .count = 5}, {.ids = ids, .count = 5}};
    assert_int_equal(tn_generate_many(model, same, 3, 0, &options, equals_first, &first), TN_OK);
    options.seed = 4;
    assert_int_equal(tn_generate(model, ids, 5, &options, NULL, NULL, &other), TN_OK);
    assert_int_equal(first.count, again.count);
    assert_memory_equal(first.ids, again.ids, first.count * sizeof(int32_t));
    assert_true(first.count != other.count || memcmp(first.ids, other.ids, first.count * sizeof(int32_t)) != 0);
    tn_generate_result_free(&first);
    tn_generate_result_free(&again);
    tn_generate_result_free(&other);
    tn_model_free(model);
}

static void generation_stops_where_positions_end(void **state) {
    (void)state;
    tn_model *model = load_shared(BUNDLED);
    int32_t ids[513];
    tn_generate_options options;
    tn_generate_result result;
    for (int i = 0; i < 513; i++)
        ids[i] = 3 + i % 500;
    tn_generate_options_default(&options);
    options.ignore_eos = true;
    assert_int_equal(tn_generate(model, ids, 500, &options, NULL, NULL, &result), TN_OK);
    assert_int_equal(result.count, 12);
    assert_int_equal(result.reason, TN_STOP_CONTEXT);
    tn_generate_result_free(&result);
    assert_int_equal(tn_generate(model, ids, 512, &options, NULL, NULL, &result), TN_OK);
    assert_int_equal(result.count, 0);
    assert_int_equal(result.reason, TN_STOP_CONTEXT);
    tn_generate_result_free(&result);
    assert_int_equal(tn_generate(model, ids, 513, &options, NULL, NULL, &result), TN_ERROR_ARGUMENT);
    options.max_tokens = 0;
    assert_int_equal(tn_generate(model, ids, 5, &options, NULL, NULL, &result), TN_OK);
    assert_int_equal(result.count, 0);
    assert_int_equal(result.reason, TN_STOP_LENGTH);
    tn_generate_result_free(&result);
    tn_model_free(model);
}

static void prompts_are_checked(void **state) {
    (void)state;
    tn_model *model = load_shared(STORIES);
    tn_generate_result result;
    tn_generate_options options;
    assert_int_equal(tn_generate(model, NULL, 0, NULL, NULL, NULL, &result), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_generate(model, (int32_t[]){1, 512}, 2, NULL, NULL, NULL, &result), TN_ERROR_ARGUMENT);
    assert_int_equal(tn_generate(model, (int32_t[]){-1}, 1, NULL, NULL, NULL, &result), TN_ERROR_ARGUMENT);
    tn_generate_options_default(&options);
    options.max_tokens = -1;
    assert_int_equal(tn_generate(model, (int32_t[]){1}, 1, &options, NULL, NULL, &result), TN_ERROR_ARGUMENT);
    tn_model_free(model);
}

static void the_callback_stops_generation(void **state) {
    (void)state;
    tn_model *model = load_shared(STORIES);
    heard h = {.stop_after = 5};
    tn_generate_result result;
    assert_int_equal(tn_generate(model, (int32_t[]){1, 403}, 2, NULL, listen, &h, &result), TN_OK);
    assert_int_equal(result.count, 5);
    assert_int_equal(result.reason, TN_STOP_STOPPED);
    tn_buf_free(&h.text);
    tn_generate_result_free(&result);
    tn_model_free(model);
}

static tn_model *load_with_tokenizer(void) {
    tn_model *model = load_shared(STORIES);
    assert_non_null(model->tokenizer);
    return model;
}

/* Generates with stop texts from the first reference prompt, whose continuation is known. */
static void stop_at(const char *const *stop, size_t count, const char *expected, tn_stop_reason reason) {
    cJSON *golden = read_stories_golden();
    tn_model *model = load_with_tokenizer();
    id_list prompt = ids_of(tn_json_get(cJSON_GetArrayItem(golden, 0), "prompt_ids"));
    tn_generate_options options;
    tn_generate_result result;
    heard h = {.stop_after = SIZE_MAX};
    tn_generate_options_default(&options);
    options.max_tokens = 16;
    options.stop = stop;
    options.stop_count = count;
    assert_int_equal(tn_generate(model, prompt.ids, prompt.count, &options, listen, &h, &result), TN_OK);
    assert_string_equal(result.text, expected);
    assert_string_equal(tn_buf_text(&h.text), expected);
    assert_int_equal(result.reason, reason);
    tn_buf_free(&h.text);
    tn_generate_result_free(&result);
    tn_free(prompt.ids);
    tn_model_free(model);
    cJSON_Delete(golden);
}

static void a_stop_text_ends_the_text_before_itself(void **state) {
    (void)state;
    stop_at((const char *const[]){"outs"}, 1, " She loved to play ", TN_STOP_STRING);
    stop_at((const char *const[]){"never", "e loved to p"}, 2, " Sh", TN_STOP_STRING);
    stop_at((const char *const[]){" She"}, 1, "", TN_STOP_STRING);
}

static void the_beginning_of_a_stop_text_is_shown_when_it_does_not_come(void **state) {
    (void)state;
    const char *const stop[] = {"play outside in the parliament", "park. Then"};
    stop_at(stop, 2, " She loved to play outside in the park.", TN_STOP_LENGTH);
}

static void bytes_are_held_until_the_character_is_whole(void **state) {
    (void)state;
    tn_model *model = load_with_tokenizer();
    int32_t euro[3] = {tn_tokenizer_id(model->tokenizer, "<0xE2>"), tn_tokenizer_id(model->tokenizer, "<0x82>"),
                       tn_tokenizer_id(model->tokenizer, "<0xAC>")};
    tn_generate_options options;
    tn_text_stream stream;
    tn_generate_options_default(&options);
    tn_prompt prompt = {.ids = (int32_t[]){1, 403}, .count = 2};
    assert_int_equal(tn_text_stream_init(&stream, model->tokenizer, &options, &prompt), TN_OK);
    for (int i = 0; i < 3; i++) {
        assert_true(euro[i] >= 0);
        assert_int_equal(stream.certain, 0);
        assert_int_equal(tn_text_stream_push(&stream, euro[i]), TN_OK);
    }
    assert_int_equal(tn_text_stream_push(&stream, 403), TN_OK);
    assert_int_equal(tn_text_stream_push(&stream, euro[0]), TN_OK);
    assert_memory_equal(stream.text.data, "\xe2\x82\xac", 3);
    assert_int_equal(tn_utf8_valid_prefix(stream.text.data, stream.certain), stream.certain);
    size_t before = stream.certain;
    assert_int_equal(tn_text_stream_finish(&stream), TN_OK);
    assert_string_equal(stream.text.data + before, "\xef\xbf\xbd");
    tn_text_stream_free(&stream);
    tn_model_free(model);
}

static void a_prompt_may_end_inside_a_character(void **state) {
    (void)state;
    tn_model *model = load_with_tokenizer();
    int32_t cut[3] = {1, tn_tokenizer_id(model->tokenizer, "<0xC3>")};
    tn_generate_options options;
    tn_text_stream stream;
    tn_generate_options_default(&options);
    assert_int_equal(tn_text_stream_init(&stream, model->tokenizer, &options, &(tn_prompt){.ids = cut, .count = 2}), TN_OK);
    assert_int_equal(tn_text_stream_push(&stream, tn_tokenizer_id(model->tokenizer, "<0xA9>")), TN_OK);
    assert_int_equal(tn_text_stream_finish(&stream), TN_OK);
    assert_string_equal(tn_buf_text(&stream.text), "\xc3\xa9");
    tn_text_stream_free(&stream);
    tn_model_free(model);
}

static void a_conversation_goes_through_the_chat_template(void **state) {
    (void)state;
    tn_model *model = load_with_tokenizer();
    const char *messages = "[{\"role\": \"user\", \"content\": \"Lily\"}]";
    int32_t *ids, *expected;
    size_t count, expected_count;
    assert_int_equal(tn_chat_prompt(model, messages, true, &ids, &count), TN_ERROR_UNSUPPORTED);
    assert_int_equal(
        tn_chat_template_parse("{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
                               "{% if add_generation_prompt %}[assistant]{% endif %}",
                               "test", &model->chat_template),
        TN_OK);
    assert_int_equal(tn_chat_prompt(model, messages, true, &ids, &count), TN_OK);
    const char *text = "[user] Lily\n[assistant]";
    assert_int_equal(tn_model_encode(model, text, strlen(text), false, &expected, &expected_count), TN_OK);
    assert_int_equal(count, expected_count);
    assert_memory_equal(ids, expected, count * sizeof *ids);
    tn_free_ids(ids);
    tn_free_ids(expected);
    assert_int_equal(tn_chat_prompt(model, "{}", true, &ids, &count), TN_ERROR_FORMAT);
    assert_int_equal(tn_chat_prompt(model, "[", true, &ids, &count), TN_ERROR_FORMAT);
    tn_model_free(model);
}

static void failing_allocations_leave_nothing_behind(void **state) {
    (void)state;
    tn_model *model = load_shared(STORIES);
    tn_generate_options options;
    tn_generate_options_default(&options);
    options.max_tokens = 3;
    options.repetition_penalty = 1.5;
    tn_generate_result result;
    assert_int_equal(tn_generate(model, (int32_t[]){1, 403}, 2, &options, NULL, NULL, &result), TN_OK);
    tn_generate_result_free(&result);
    size_t used = tn_memory_used();
    tn_status status = TN_ERROR_MEMORY;
    for (int64_t after = 0; status != TN_OK; after++) {
        assert_true(after < 1000);
        tn_memory_fail_after(after);
        status = tn_generate(model, (int32_t[]){1, 403}, 2, &options, NULL, NULL, &result);
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
        tn_generate_result_free(&result);
        assert_int_equal(tn_memory_used(), used);
    }
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cached_logits_equal_those_without_cache),
        cmocka_unit_test(a_window_of_attention_is_the_same_with_a_cache),
        cmocka_unit_test(prompts_may_be_read_in_pieces),
        cmocka_unit_test(an_adapter_acts_with_a_cache_too),
        cmocka_unit_test(an_invocation_is_remembered_with_the_cache),
        cmocka_unit_test(greedy_generation_equals_the_reference),
        cmocka_unit_test(many_prompts_together_give_what_each_gives_alone),
        cmocka_unit_test(first_logits_equal_the_reference),
        cmocka_unit_test(sampling_repeats_with_its_seed_alone_and_in_a_batch),
        cmocka_unit_test(generation_stops_where_positions_end),
        cmocka_unit_test(prompts_are_checked),
        cmocka_unit_test(the_callback_stops_generation),
        cmocka_unit_test(a_stop_text_ends_the_text_before_itself),
        cmocka_unit_test(the_beginning_of_a_stop_text_is_shown_when_it_does_not_come),
        cmocka_unit_test(bytes_are_held_until_the_character_is_whole),
        cmocka_unit_test(a_prompt_may_end_inside_a_character),
        cmocka_unit_test(a_conversation_goes_through_the_chat_template),
        cmocka_unit_test(failing_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
