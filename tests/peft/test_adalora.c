/* AdaLoRA: its starting values, penalty, schedule and masks against plain references in double, and what goes into files.
 * The golden case train_adalora follows twenty steps of PEFT. */
#include "support/support.h"

#include "peft/adalora.h"
#include "peft/methods.h"

#define GOLDEN TENON_SOURCE_ROOT "/tests/golden/"

/* A fresh adapter of the options; "name=value" settings end with NULL. */
static void add(tn_model *model, const char *targets, int64_t rank, uint64_t seed, const char *const *settings) {
    tn_method_setting list[8];
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.method = "adalora";
    options.target_modules = targets;
    options.rank = rank;
    options.settings = list;
    static char names[8][32];
    for (; settings && *settings; settings++) {
        size_t at = options.setting_count++, length = strcspn(*settings, "=");
        snprintf(names[at], sizeof names[at], "%.*s", (int)length, *settings);
        list[at] = (tn_method_setting){names[at], *settings + length + 1};
    }
    assert_ok(tn_model_add_adapter(model, &options, seed));
}

static tn_adalora_slot *slot_at(const tn_model *model, int64_t i) {
    return (tn_adalora_slot *)model->adapter->slots[i].slot;
}

static const tn_adalora_factor *factor_at(const tn_adalora_slot *slot, int which) {
    const tn_adalora_factor *const factors[] = {&slot->a, &slot->e, &slot->b};
    return factors[which];
}

static float *values_of(const tn_weight *weight) {
    return weight->tensor.data;
}

static void fresh_adapter_changes_nothing(void **state) {
    tn_model *model = create_model(SMALL_LLAMA, 2);
    int64_t count;
    float *base = probe(model, &count);
    double square = 0, number = 0;
    (void)state;
    add(model, "all-linear", 6, 3, NULL);
    assert_true(probe_difference(model, base) == 0);
    for (int64_t i = 0; i < model->adapter->slot_count; i++) {
        for (int which = 0; which < 3; which += 2) {
            const tn_tensor *t = &factor_at(slot_at(model, i), which)->value.tensor;
            square += tn_kernels_cpu()->sum_squares(t->data, tn_tensor_count(t));
            number += (double)tn_tensor_count(t);
        }
        for (int64_t k = 0; k < 6; k++)
            assert_true(values_of(&slot_at(model, i)->e.value)[k] == 0);
    }
    assert_true(fabs(sqrt(square / number) / 0.02 - 1) < 0.05);
    tn_free(base);
    tn_model_free(model);
}

/* s B diag(E) A added to the weight, in double. */
static void merged_weight_is_the_formula_and_acts_alike(void **state) {
    static const int64_t ranks[] = {1, 3, 7, 12};
    (void)state;
    for (int r = 0; r < 4; r++) {
        tn_model *model = create_model(SMALL_LLAMA, 2);
        tn_merged kept = {0};
        int64_t count;
        bool has_bias;
        add(model, "all-linear", ranks[r], 3, NULL);
        randomise_adapter(model->adapter, 4 + (uint64_t)r, 0.5f);
        const tn_adalora_slot *slot = slot_at(model, 4);
        const tn_module *module = model->adapter->slots[4].module;
        int64_t rows = module->weight.tensor.shape[0], cols = module->weight.tensor.shape[1];
        float *merged = malloc((size_t)(rows * cols) * sizeof *merged);
        assert_ok(tn_adapter_merged_weight(model->adapter, module, merged, NULL, &has_bias));
        for (int64_t i = 0; i < rows * cols; i++) {
            double want = ((const float *)module->weight.tensor.data)[i], update = 0;
            for (int64_t k = 0; k < ranks[r]; k++)
                update += (double)values_of(&slot->b.value)[i / cols * ranks[r] + k] * values_of(&slot->e.value)[k] *
                          values_of(&slot->a.value)[k * cols + i % cols];
            want += update * 8 / ((double)ranks[r] + 1e-5);
            assert_true(fabs(merged[i] - want) < 1e-5);
        }
        free(merged);
        float *unmerged = probe(model, &count);
        assert_ok(tn_session_merge_in_memory(model, &kept));
        /* logits are of size 1 to 10: some hundred roundings of f32 */
        assert_true(probe_difference(model, unmerged) < 1e-4);
        tn_session_merged_free(model, &kept);
        tn_free(unmerged);
        tn_model_free(model);
    }
}

static void base_comes_back_from_merged_weights(void **state) {
    tn_model *model = create_stored_model(SMALL_LLAMA, 2, "base", "f32"), *merged, *back;
    int64_t count;
    float *base = probe(model, &count);
    (void)state;
    add(model, "all-linear", 4, 3, (const char *const[]){"total_step=10", NULL});
    randomise_adapter(model->adapter, 4, 0.3f);
    assert_ok(tn_model_save_adapter(model, temporary("adapter")));
    assert_ok(tn_model_merge(model, temporary("merged"), "f32", NULL));
    assert_ok(tn_model_load(temporary("merged"), &merged));
    assert_true(probe_difference(merged, base) > 1e-3);
    tn_model_remove_adapter(merged);
    assert_ok(tn_model_load_adapter(merged, temporary("adapter"), false, false));
    tn_model_free(merged);
    assert_ok(tn_model_load(temporary("merged"), &merged));
    assert_ok(tn_model_load_adapter(merged, temporary("adapter"), false, false));
    assert_ok(tn_model_unmerge(merged, temporary("back"), "f32", NULL));
    assert_ok(tn_model_load(temporary("back"), &back));
    assert_true(probe_difference(back, base) < 1e-4);
    tn_free(base);
    tn_model_free(back);
    tn_model_free(merged);
    tn_model_free(model);
}

/* --- training --- */

/* weight * mean of |P P^T - I|_F over A and B^T, one number moved by `step`. */
static double penalty_in_double(const tn_model *model, double weight, const float *moved, double step) {
    double sum = 0;
    int64_t slots = model->adapter->slot_count;
    for (int64_t i = 0; i < 2 * slots; i++) {
        const tn_tensor *t = &factor_at(slot_at(model, i / 2), i % 2 ? 2 : 0)->value.tensor;
        int64_t rank = t->shape[i % 2], length = t->shape[!(i % 2)], along = i % 2 ? rank : 1, across = i % 2 ? 1 : length;
        const float *p = t->data;
        double square = 0;
        for (int64_t k = 0; k < rank * rank; k++) {
            double dot = k / rank == k % rank ? -1 : 0;
            for (int64_t j = 0; j < length; j++) {
                const float *x = p + k / rank * across + j * along, *y = p + k % rank * across + j * along;
                dot += (*x + (x == moved ? step : 0)) * (*y + (y == moved ? step : 0));
            }
            square += dot * dot;
        }
        sum += sqrt(square);
    }
    return weight * sum / (double)(2 * slots);
}

static void penalty_and_its_gradient_agree_with_the_formula(void **state) {
    tn_model *model = create_model(SMALL_LLAMA, 2);
    const double h = 1e-4;
    int compared = 0;
    (void)state;
    add(model, "v_proj,down_proj", 3, 3, (const char *const[]){"orth-reg-weight=0.3", NULL});
    randomise_adapter(model->adapter, 4, 0.3f);
    tn_params *params = &model->adapter->params;
    memset(params->grads, 0, (size_t)params->total * sizeof(float));
    double got = tn_adalora_penalty(model->adapter), want = penalty_in_double(model, 0.3, NULL, 0);
    assert_true(fabs(got - want) < 1e-6 * want);
    for (int64_t i = 0; i < 2; i++) {
        for (int which = 0; which < 3; which++) {
            const tn_weight *w = &factor_at(slot_at(model, i), which)->value;
            for (int64_t j = 0; j < tn_tensor_count(&w->tensor); j += 5) {
                const float *at = values_of(w) + j;
                double slope = (penalty_in_double(model, 0.3, at, h) - penalty_in_double(model, 0.3, at, -h)) / (2 * h);
                assert_true(fabs(w->grad[j] - slope) < 1e-5);
                compared++;
            }
        }
    }
    assert_true(compared > 50);
    /* it is added to what is there */
    float before = slot_at(model, 0)->a.value.grad[0];
    tn_adalora_penalty(model->adapter);
    assert_true(fabsf(slot_at(model, 0)->a.value.grad[0] - 2 * before) < 1e-6f);
    tn_model_free(model);
}

/* What PEFT's budget_schedule gives for these settings, and from total_step - tfinal on a choice at every step. */
static void budget_falls_by_a_cube(void **state) {
    const tn_adalora_settings settings = {.target_rank = 3, .tinit = 3, .tfinal = 5, .delta_t = 2, .total_step = 20};
    static const int64_t budgets[] = {24, 24, 24, 21, 18, 17, 15, 14, 13, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12};
    (void)state;
    for (int64_t step = 1; step <= 20; step++) {
        bool allocate;
        assert_int_equal(tn_adalora_schedule(&settings, step, 24, 4, &allocate), budgets[step - 1]);
        assert_int_equal(allocate, step >= 15 || (step > 3 && step % 2 == 0));
    }
}

static void fill_gradients(tn_model *model, uint64_t seed) {
    tn_params *params = &model->adapter->params;
    tn_fill_normal(params->grads, (size_t)params->total, seed, tn_stream(TN_STREAM_DATA, 99), 0, 1);
}

/* One step of both averages from zero, in double: S = (1 - b1) I, U = (1 - b2) |I - S|. */
static double score_in_double(const tn_adalora_factor *factor, int64_t first, int64_t stride, int64_t count, double scale) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t at = first + i * stride;
        double now = fabs(values_of(&factor->value)[at] * factor->value.grad[at] * scale), s = (1 - 0.6) * now;
        sum += s * (1 - 0.7) * fabs(now - s);
    }
    return sum / (double)count;
}

static int falling(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static void masks_keep_the_best_triplets_of_all_modules(void **state) {
    enum { RANK = 5, MODULES = 4, ALL = RANK * MODULES };
    static const char *const settings[] = {"target_r=2",           "tinit=0",   "tfinal=1", "total_step=9",
                                           "importance-beta1=0.6", "beta2=0.7", NULL};
    tn_model *model = create_model(SMALL_LLAMA, 2);
    double scores[ALL], sorted[ALL];
    bool allocate;
    (void)state;
    add(model, "q_proj,v_proj", RANK, 3, settings);
    assert_ok(tn_adalora_start_training(model->adapter, 9));
    randomise_adapter(model->adapter, 4, 0.5f);
    fill_gradients(model, 5);
    for (int i = 0; i < ALL; i++) {
        const tn_adalora_slot *slot = slot_at(model, i / RANK);
        int64_t k = i % RANK, in = slot->a.value.tensor.shape[1], out = slot->b.value.tensor.shape[0];
        scores[i] = score_in_double(&slot->e, k, 1, 1, 0.25) + score_in_double(&slot->a, k * in, 1, in, 0.25) +
                    score_in_double(&slot->b, k, RANK, out, 0.25);
    }
    memcpy(sorted, scores, sizeof sorted);
    qsort(sorted, ALL, sizeof *sorted, falling);
    int64_t budget = tn_adalora_schedule(model->adapter->config.settings, 1, ALL, MODULES, &allocate);
    assert_true(allocate && budget > 8 && budget < ALL);
    tn_adalora_after_step(model->adapter, 1, 9, 0.25f);
    for (int i = 0; i < ALL; i++) {
        bool kept = scores[i] >= sorted[budget - 1];
        assert_int_equal(values_of(&slot_at(model, i / RANK)->mask)[i % RANK], kept);
        assert_int_equal(values_of(&slot_at(model, i / RANK)->e.value)[i % RANK] != 0, kept);
    }
    tn_model_free(model);
}

/* torch.kthvalue's value is the threshold: all that are equal to it go, though the budget would hold some of them. */
static void equal_scores_share_their_fate(void **state) {
    static const char *const settings[] = {"target_r=2", "total_step=3", "delta-t=1", NULL};
    tn_model *model = create_model(SMALL_LLAMA, 2);
    tn_params *params;
    (void)state;
    add(model, "q_proj", 4, 3, settings);
    assert_ok(tn_adalora_start_training(model->adapter, 3));
    randomise_adapter(model->adapter, 4, 0.5f);
    params = &model->adapter->params;
    memset(params->grads, 0, (size_t)params->total * sizeof(float));
    slot_at(model, 0)->e.value.grad[2] = 1; /* one of eight triplets matters, the budget is 5 */
    tn_adalora_after_step(model->adapter, 1, 3, 1);
    for (int i = 0; i < 8; i++)
        assert_int_equal(values_of(&slot_at(model, i / 4)->mask)[i % 4], i == 2);
    tn_model_free(model);
}

static void schedules_that_cannot_be_are_refused(void **state) {
    static const struct {
        const char *settings[4], *words;
    } wrong[] = {
        {{"target_r=5", NULL}, "target_r 5 is above init_r 4"},
        {{"target_r=2", "tinit=5", "tfinal=5", NULL}, "tinit 5 and tfinal 5 leave none of total_step 10"},
        {{"target_r=2", "tinit=8", "total_step=8", NULL}, "leave none of total_step 8"},
    };
    tn_model *model = create_model(SMALL_LLAMA, 2);
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        add(model, "q_proj", 4, 3, wrong[i].settings);
        assert_fails(tn_adalora_start_training(model->adapter, 10), TN_ERROR_ARGUMENT, wrong[i].words);
    }
    tn_model_free(model);
}

/* --- files --- */

/* Everything but the first module's triplets is worthless, so that all of its are left and none of the last. */
static void train_to_the_end(tn_model *model) {
    tn_params *params = &model->adapter->params;
    assert_ok(tn_adalora_start_training(model->adapter, 6));
    randomise_adapter(model->adapter, 4, 0.4f);
    for (int64_t step = 1; step <= 6; step++) {
        memset(params->grads, 0, (size_t)params->total * sizeof(float));
        for (int64_t k = 0; k < 4; k++)
            slot_at(model, 0)->e.value.grad[k] = 5 + (float)k;
        slot_at(model, 1)->e.value.grad[1] = slot_at(model, 1)->e.value.grad[3] = 1;
        slot_at(model, 2)->e.value.grad[0] = slot_at(model, 2)->e.value.grad[2] = 1;
        tn_adalora_after_step(model->adapter, step, 6, 1);
    }
}

static const int64_t *shape_of(const tn_safetensors *file, const char *module, const char *part) {
    char name[160];
    snprintf(name, sizeof name, "base_model.model.model.layers.%s_proj.%s", module, part);
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    assert_non_null(entry);
    return entry->tensor.shape;
}

static void final_ranks_are_all_that_is_saved(void **state) {
    static const char *const settings[] = {"target_r=2", "tfinal=2", NULL};
    static const char *const modules[] = {"0.self_attn.q", "0.self_attn.v", "1.self_attn.q", "1.self_attn.v"};
    static const int64_t ranks[] = {4, 2, 2, 0};
    tn_model *model = create_model(SMALL_LLAMA, 2);
    tn_safetensors file;
    tn_buf first = {0}, second = {0}, report = {0};
    int64_t count;
    (void)state;
    add(model, "q_proj,v_proj", 4, 3, settings);
    train_to_the_end(model);
    float *logits = probe(model, &count);
    tn_adalora_report(model->adapter, &report);
    assert_string_equal(tn_buf_text(&report), "ranks      8 of 16 left\n  q_proj       4 2\n  v_proj       2 0\n");
    assert_ok(tn_model_save_adapter(model, temporary("final")));
    assert_ok(tn_safetensors_open(temporary("final/adapter_model.safetensors"), &file));
    for (int i = 0; i < 4; i++) {
        assert_int_equal(shape_of(&file, modules[i], "lora_A")[0], ranks[i]);
        assert_int_equal(shape_of(&file, modules[i], "lora_E")[0], ranks[i]);
        assert_int_equal(shape_of(&file, modules[i], "lora_B")[1], ranks[i]);
    }
    tn_safetensors_close(&file);
    assert_ok(tn_model_load_adapter(model, temporary("final"), true, false));
    assert_true(probe_difference(model, logits) < 1e-5);
    assert_ok(tn_model_save_adapter(model, temporary("again")));
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "adapter_model.safetensors" : "adapter_config.json";
        assert_ok(tn_file_read(temporary("final/%s", name), 1 << 20, &first));
        assert_ok(tn_file_read(temporary("again/%s", name), 1 << 20, &second));
        assert_int_equal(first.length, second.length);
        assert_memory_equal(first.data, second.data, first.length);
        tn_buf_clear(&first);
        tn_buf_clear(&second);
    }
    /* trained on, it keeps its ranks */
    assert_ok(tn_adalora_start_training(model->adapter, 100));
    tn_adalora_after_step(model->adapter, 50, 100, 1);
    tn_buf_clear(&report);
    tn_adalora_report(model->adapter, &report);
    assert_non_null(strstr(tn_buf_text(&report), "8 of 16 left\n"));
    tn_buf_free(&first);
    tn_buf_free(&second);
    tn_buf_free(&report);
    tn_free(logits);
    tn_model_free(model);
}

static void ranks_that_are_not_final_are_saved_whole(void **state) {
    static const char *const settings[] = {"target_r=2", "total_step=50", NULL};
    tn_model *model = create_model(SMALL_LLAMA, 2);
    int64_t count;
    cJSON *json;
    (void)state;
    add(model, "q_proj,v_proj", 4, 3, settings);
    train_to_the_end(model);
    float *logits = probe(model, &count);
    assert_ok(tn_model_save_adapter(model, temporary("early")));
    assert_ok(tn_json_read(temporary("early/adapter_config.json"), 1 << 20, &json));
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(json, "rank_pattern")));
    assert_ok(tn_model_load_adapter(model, temporary("early"), false, false));
    assert_true(probe_difference(model, logits) == 0);
    assert_int_equal(slot_at(model, 3)->a.value.tensor.shape[0], 4);
    cJSON_Delete(json);
    tn_free(logits);
    tn_model_free(model);
}

static void saved_configuration_is_one_that_peft_reads(void **state) {
    static const char *const settings[] = {"target_r=2", "deltaT=3", "beta1=0.5", "importance-beta2=0.25", NULL};
    static const struct {
        const char *key;
        double value;
    } numbers[] = {
        {"init_r", 4},     {"r", 8},     {"target_r", 2},          {"deltaT", 3},    {"beta1", 0.5}, {"beta2", 0.25},
        {"total_step", 7}, {"tinit", 0}, {"orth_reg_weight", 0.5}, {"lora_alpha", 8}};
    tn_model *model = create_model(SMALL_LLAMA, 2);
    cJSON *golden, *saved;
    const cJSON *item;
    (void)state;
    add(model, "q_proj,v_proj", 4, 3, settings);
    assert_fails(tn_model_save_adapter(model, temporary("unset")), TN_ERROR_ARGUMENT, "without total_step");
    assert_ok(tn_adalora_start_training(model->adapter, 7));
    assert_ok(tn_model_save_adapter(model, temporary("keys")));
    assert_ok(tn_json_read(GOLDEN "train_adalora/adapter/adapter_config.json", 1 << 20, &golden));
    assert_ok(tn_json_read(temporary("keys/adapter_config.json"), 1 << 20, &saved));
    cJSON_ArrayForEach(item, saved) {
        if (!cJSON_HasObjectItem(golden, item->string))
            fail_msg("PEFT has no key '%s'", item->string);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        assert_true(tn_json_get(saved, numbers[i].key)->valuedouble == numbers[i].value);
    cJSON_Delete(golden);
    cJSON_Delete(saved);
    tn_model_free(model);
}

static tn_status attach(tn_model *model, const char *members, tn_adapter **out) {
    char text[600];
    tn_peft_config config;
    snprintf(text, sizeof text,
             "{\"peft_type\": \"ADALORA\", \"init_r\": 3, \"total_step\": 9, \"target_modules\": [\"q_proj\"], %s}",
             members);
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    *out = NULL;
    tn_status status = tn_peft_config_parse(json, "here", &config);
    cJSON_Delete(json);
    return status == TN_OK ? tn_adapter_create(model->network, &tn_adalora, &config, true, 1, out) : status;
}

static void what_it_makes_no_use_of_is_refused(void **state) {
    static const struct {
        const char *members, *words;
    } wrong[] = {
        {"\"use_rslora\": true", "use_rslora"},
        {"\"use_dora\": true", "use_dora"},
        {"\"lora_bias\": true", "lora_bias"},
        {"\"use_bdlora\": {\"nblocks\": 2}", "use_bdlora"},
        {"\"kasa_config\": {}", "kasa_config"},
        {"\"alora_invocation_tokens\": [3]", "alora_invocation_tokens"},
        {"\"target_parameters\": [\"x\"]", "target_parameters"},
        {"\"alpha_pattern\": {\"q_proj\": 2}", "alpha_pattern"},
        {"\"init_lora_weights\": \"pissa\"", "init_lora_weights"},
        {"\"loftq_config\": {\"loftq_bits\": 4}", "loftq_config"},
        {"\"beta1\": 1", "below 1"},
        {"\"deltaT\": 0", "deltaT"},
        {"\"rank_pattern\": [true]", "'rank_pattern' must be an object of lists of truths"},
        {"\"rank_pattern\": {\"model.layers.0.self_attn.q_proj.lora_E\": 2}", "an object of lists of truths"},
        {"\"rank_pattern\": {\"model.layers.0.self_attn.q_proj.lora_E\": [1, 0, 1]}", "an object of lists of truths"},
        {"\"rank_pattern\": {\"model.layers.0.self_attn.q_proj.lora_E\": [true]}", "has 1 entries, but init_r is 3"},
        {"\"rank_pattern\": {\"model.layers.0.self_attn.k_proj.lora_E\": [true, true, true]}", "belongs to no module"},
        {"\"rank_pattern\": {\"model.layers.0.self_attn.q_proj\": [true, true, true]}", "belongs to no module"},
    };
    tn_adapter *adapter;
    tn_model *model = create_model(SMALL_LLAMA, 2);
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tn_status status = attach(model, wrong[i].members, &adapter);
        /* the option is named as on the command line, too */
        const char *words = strcmp(wrong[i].words, "deltaT") == 0 ? "delta-t" : wrong[i].words;
        if (status == TN_OK || !strstr(tn_error_message(), words))
            fail_msg("%s: %s", wrong[i].members, status == TN_OK ? "accepted" : tn_error_message());
    }
    assert_ok(
        attach(model, "\"rank_pattern\": {\"model.layers.1.self_attn.q_proj.lora_E\": [false, true, false]}", &adapter));
    assert_int_equal(((tn_adalora_slot *)adapter->slots[0].slot)->a.value.tensor.shape[0], 3);
    assert_int_equal(((tn_adalora_slot *)adapter->slots[1].slot)->a.value.tensor.shape[0], 1);
    tn_adapter_free(adapter);
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fresh_adapter_changes_nothing),
        cmocka_unit_test(merged_weight_is_the_formula_and_acts_alike),
        cmocka_unit_test(base_comes_back_from_merged_weights),
        cmocka_unit_test(penalty_and_its_gradient_agree_with_the_formula),
        cmocka_unit_test(budget_falls_by_a_cube),
        cmocka_unit_test(masks_keep_the_best_triplets_of_all_modules),
        cmocka_unit_test(equal_scores_share_their_fate),
        cmocka_unit_test(schedules_that_cannot_be_are_refused),
        cmocka_unit_test(final_ranks_are_all_that_is_saved),
        cmocka_unit_test(ranks_that_are_not_final_are_saved_whole),
        cmocka_unit_test(saved_configuration_is_one_that_peft_reads),
        cmocka_unit_test(what_it_makes_no_use_of_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
