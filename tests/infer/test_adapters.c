/* Several adapters on one model: each alone, weighted, stacked, and different ones for the rows of a batch. */
#include <math.h>

#include "../session/small_model.h"
#include "infer/generator.h"

enum { VOCAB = 97, PROBE = 16 * VOCAB, ROWS = 5, LENGTH = 6, STEPS = 4 };

static const struct {
    const char *name;
    tn_adapter_options options;
} kinds[] = {
    {"low", {.method = "lora", .rank = 2, .alpha = 4, .target_modules = "q_proj,v_proj"}},
    {"wide", {.method = "lora", .rank = 4, .alpha = 4, .target_modules = "all-linear", .lora_bias = true}},
    {"dora", {.method = "dora", .rank = 3, .alpha = 6, .target_modules = "o_proj,down_proj"}},
    {"words", {.method = "lora", .rank = 3, .alpha = 3, .target_modules = "embed_tokens,lm_head"}},
    {"whole", {.method = "lora", .rank = 2, .alpha = 2, .target_modules = "q_proj", .modules_to_save = "norm,down_proj"}},
};
enum { KINDS = sizeof kinds / sizeof *kinds, WHOLE = 4 };

/* A folder for each kind, with random values. */
static int make_adapters(void **state) {
    if (make_folder(state) != 0)
        return -1;
    make_base("base", false, "f32");
    for (int i = 0; i < KINDS; i++)
        tn_model_free(load_with_adapter("base", kinds[i].name, &kinds[i].options));
    return 0;
}

static tn_model *load_all(void) {
    tn_model *model;
    OK(tn_model_load(at("base"), &model));
    for (int i = 0; i < KINDS; i++)
        OK(tn_model_attach_adapter(model, at(kinds[i].name), kinds[i].name));
    return model;
}

static void use(tn_model *model, const char *first, double first_weight, const char *second, double second_weight) {
    const char *names[] = {first, second};
    const double weights[] = {first_weight, second_weight};
    const tn_adapter_mix mix = {names, weights, !first ? 0 : second ? 2 : 1};
    OK(tn_model_use_adapters(model, &mix));
}

static float *probe(tn_model *model) {
    float *logits;
    int64_t count;
    OK(tn_session_probe_logits(model, &logits, &count));
    assert_int_equal(count, PROBE);
    return logits;
}

static double difference(const float *a, const float *b, int64_t count) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)a[i] - b[i]));
    return largest;
}

static float *alone(const char *name) {
    tn_model *model;
    OK(tn_model_load(at("base"), &model));
    if (name)
        OK(tn_model_load_adapter(model, at(name), false, false));
    float *logits = probe(model);
    tn_model_free(model);
    return logits;
}

static void assert_probe(tn_model *model, const float *expected, double tolerance) {
    float *got = probe(model);
    double off = difference(got, expected, PROBE);
    if (!(off <= tolerance))
        fail_msg("logits differ by %g", off);
    tn_free(got);
}

/* Switching gives the same bits as loading that adapter alone. */
static void each_adapter_acts_as_if_alone(void **state) {
    tn_model *model = load_all();
    float *base = alone(NULL);
    (void)state;
    assert_probe(model, base, 0);
    for (int i = KINDS; i-- > 0;) {
        float *expected = alone(kinds[i].name);
        use(model, kinds[i].name, 1, NULL, 0);
        assert_probe(model, expected, 0);
        assert_true(difference(expected, base, PROBE) > 1e-3);
        tn_free(expected);
    }
    use(model, NULL, 0, NULL, 0);
    assert_probe(model, base, 0);
    tn_free(base);
    tn_model_free(model);
}

/* f32 sums in another order: 2e-5 of logits of the size of 5. */
static void weights_and_stacks_equal_merged_weights(void **state) {
    static const struct {
        const char *first, *second;
        double first_weight, second_weight;
    } cases[] = {
        {"low", NULL, 0.5, 0},    {"dora", NULL, 0.25, 0},  {"words", NULL, -1.5, 0},   {"low", "wide", 1, 1},
        {"wide", "low", -0.5, 2}, {"dora", "low", 0.75, 1}, {"words", "whole", 0.5, 1}, {"wide", "words", 0.3, 0.7},
    };
    tn_model *model = load_all();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_merged merged;
        use(model, cases[i].first, cases[i].first_weight, cases[i].second, cases[i].second_weight);
        float *logits = probe(model);
        OK(tn_session_merge_in_memory(model, &merged));
        assert_probe(model, logits, 2e-5);
        tn_session_merged_free(model, &merged);
        assert_probe(model, logits, 0);
        tn_free(logits);
    }
    tn_model_free(model);
}

/* W + w (merge(W) - W) in the weights themselves, for one module. */
static void a_weight_scales_the_update(void **state) {
    tn_model *model = load_all();
    const tn_module *module = tn_network_module(model->network, "model.layers.0.self_attn.q_proj");
    float half[16 * 16], full[16 * 16];
    const float *base = module->weight.tensor.data;
    bool has_bias;
    (void)state;
    use(model, "low", 1, NULL, 0);
    OK(tn_adapter_merged_weight(model->adapter, module, full, NULL, &has_bias));
    use(model, "low", 0.5, NULL, 0);
    OK(tn_adapter_merged_weight(model->adapter, module, half, NULL, &has_bias));
    for (int i = 0; i < 16 * 16; i++)
        assert_float_equal(half[i] - base[i], 0.5f * (full[i] - base[i]), 1e-6);
    tn_model_free(model);
}

typedef struct {
    float logits[ROWS][VOCAB];
} latest;

static tn_status keep(void *cookie, int64_t sequence, const float *logits) {
    memcpy(((latest *)cookie)->logits[sequence], logits, VOCAB * sizeof(float));
    return TN_OK;
}

/* The logits of every row after its prompt and STEPS more tokens. */
static void generate(tn_model *model, const tn_prompt *prompts, int64_t count, latest *out) {
    tn_generator generator;
    int64_t sequences[ROWS];
    int32_t ids[ROWS];
    OK(tn_generator_init(&generator, model, prompts, count, STEPS, 0));
    OK(tn_generator_read_prompts(&generator, keep, out));
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < count; i++) {
            sequences[i] = i;
            ids[i] = (int32_t)(prompts[i].ids[0] + step * 7) % VOCAB;
        }
        OK(tn_generator_step(&generator, sequences, ids, count, keep, out));
    }
    tn_generator_free(&generator);
}

static void each_row_may_use_its_own(void **state) {
    static const char *const names[ROWS][2] = {{"low"}, {"wide", "low"}, {"dora"}, {NULL}, {"words", "dora"}};
    static const double weights[ROWS][2] = {{1}, {0.5, 1}, {1}, {0}, {2, 0.5}};
    tn_model *model = load_all();
    int32_t ids[ROWS][LENGTH];
    tn_adapter_mix mixes[ROWS];
    tn_prompt prompts[ROWS];
    latest together, apart;
    (void)state;
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < LENGTH; i++)
            ids[r][i] = (r * 31 + i * 17 + 3) % VOCAB;
        mixes[r] = (tn_adapter_mix){names[r], weights[r], !names[r][0] ? 0 : names[r][1] ? 2 : 1};
        prompts[r] = (tn_prompt){.ids = ids[r], .count = (size_t)(LENGTH - r % 3), .adapters = &mixes[r]};
    }
    use(model, "wide", 1, NULL, 0); /* must not matter */
    generate(model, prompts, ROWS, &together);
    for (int r = 0; r < ROWS; r++) {
        const tn_prompt prompt = {.ids = prompts[r].ids, .count = prompts[r].count};
        OK(tn_model_use_adapters(model, &mixes[r]));
        generate(model, &prompt, 1, &apart);
        assert_true(difference(together.logits[r], apart.logits[0], VOCAB) <= 1e-5);
    }
    tn_model_free(model);
}

static void rows_without_a_choice_use_what_is_in_use(void **state) {
    static const char *const low[] = {"low"};
    const tn_adapter_mix mix = {low, NULL, 1};
    const int32_t ids[] = {5, 9, 11};
    const tn_prompt prompts[] = {{.ids = ids, .count = 3}, {.ids = ids, .count = 3, .adapters = &mix}};
    tn_model *model = load_all();
    latest together, apart;
    (void)state;
    use(model, "dora", 1, NULL, 0);
    generate(model, prompts, 2, &together);
    generate(model, prompts, 1, &apart);
    assert_true(difference(together.logits[0], apart.logits[0], VOCAB) <= 1e-5);
    assert_true(difference(together.logits[0], together.logits[1], VOCAB) > 1e-3);
    tn_model_free(model);
}

static void adapters_come_and_go(void **state) {
    tn_model *model = load_all();
    const char *names[KINDS];
    double weights[KINDS];
    float *base = alone(NULL), *low = alone("low"), *wide = alone("wide");
    (void)state;
    use(model, "whole", 1, NULL, 0);
    OK(tn_model_detach_adapter(model, "whole"));
    assert_probe(model, base, 0);
    use(model, "low", 1, NULL, 0);
    OK(tn_model_detach_adapter(model, "wide"));
    assert_probe(model, low, 0);
    assert_int_equal(tn_model_list_adapters(model, names, weights, KINDS), KINDS - 2);
    assert_string_equal(names[1], "dora");
    assert_true(weights[0] == 1 && weights[1] == 0);
    OK(tn_model_detach_adapter(model, "low"));
    OK(tn_model_attach_adapter(model, at("wide"), "again"));
    use(model, "again", 1, NULL, 0);
    assert_probe(model, wide, 0);
    tn_free(base);
    tn_free(low);
    tn_free(wide);
    tn_model_free(model);
}

static void a_reloaded_adapter_has_the_new_values(void **state) {
    tn_model *model, *trainer;
    (void)state;
    OK(tn_model_load(at("base"), &model));
    OK(tn_model_load(at("base"), &trainer));
    tn_model_free(load_with_adapter("base", "moving", &kinds[1].options));
    OK(tn_model_attach_adapter(model, at("moving"), "moving"));
    OK(tn_model_attach_adapter(model, at("low"), "low"));
    use(model, "moving", 1, "low", 0.5);
    float *before = probe(model);
    OK(tn_model_load_adapter(trainer, at("moving"), true, false));
    trainer->adapter->params.values[0] += 3;
    OK(tn_model_save_adapter(trainer, at("moving")));
    assert_probe(model, before, 0);
    OK(tn_model_reload_adapter(model, "moving"));
    float *after = probe(model);
    assert_true(difference(before, after, PROBE) > 1e-3);
    OK(tn_path_remove_tree(at("moving")));
    assert_int_equal(tn_model_reload_adapter(model, "moving"), TN_ERROR_IO);
    assert_probe(model, after, 0);
    tn_free(before);
    tn_free(after);
    tn_model_free(trainer);
    tn_model_free(model);
}

#define FAILS(call, words)                                                                                                  \
    do {                                                                                                                    \
        assert_int_not_equal(call, TN_OK);                                                                                  \
        if (!strstr(tn_error_message(), words))                                                                             \
            fail_msg("%s", tn_error_message());                                                                             \
    } while (0)

static void wrong_choices_are_explained(void **state) {
    static const char *const names[] = {"low", "lwo"}, *const twice[] = {"low", "low"}, *const whole[] = {"whole"};
    const double half = 0.5, not_finite = NAN;
    const int32_t id = 1;
    const tn_adapter_mix row = {whole, NULL, 1};
    const tn_prompt prompt = {.ids = &id, .count = 1, .adapters = &row};
    tn_model *model = load_all();
    tn_generator generator;
    float *low = alone("low");
    (void)state;
    use(model, "low", 1, NULL, 0);
    FAILS(tn_model_use_adapters(model, &(tn_adapter_mix){names, NULL, 2}), "no adapter 'lwo'; it has low, wide");
    FAILS(tn_model_use_adapters(model, &(tn_adapter_mix){twice, NULL, 2}), "named twice");
    FAILS(tn_model_use_adapters(model, &(tn_adapter_mix){names, &not_finite, 1}), "no weight");
    FAILS(tn_model_use_adapters(model, &(tn_adapter_mix){whole, &half, 1}), "whole or not at all");
    FAILS(tn_model_attach_adapter(model, at("low"), "low"), "has an adapter 'low' already");
    FAILS(tn_model_attach_adapter(model, at("nowhere"), "other"), "not a folder");
    FAILS(tn_model_detach_adapter(model, "other"), "no adapter 'other'");
    FAILS(tn_generator_init(&generator, model, &prompt, 1, 1, 0), "cannot be chosen for single rows");
    assert_probe(model, low, 0);
    OK(tn_model_attach_adapter(model, at("whole"), "second"));
    use(model, "whole", 1, NULL, 0);
    static const char *const both[] = {"whole", "second"};
    FAILS(tn_model_use_adapters(model, &(tn_adapter_mix){both, NULL, 2}), "two adapters replace");
    use(model, "second", 1, NULL, 0);
    float *second = alone("whole");
    assert_probe(model, second, 0);
    tn_free(second);
    tn_free(low);
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_adapter_acts_as_if_alone),
        cmocka_unit_test(weights_and_stacks_equal_merged_weights),
        cmocka_unit_test(a_weight_scales_the_update),
        cmocka_unit_test(each_row_may_use_its_own),
        cmocka_unit_test(rows_without_a_choice_use_what_is_in_use),
        cmocka_unit_test(adapters_come_and_go),
        cmocka_unit_test(a_reloaded_adapter_has_the_new_values),
        cmocka_unit_test(wrong_choices_are_explained),
    };
    return cmocka_run_group_tests(tests, make_adapters, remove_folder);
}
