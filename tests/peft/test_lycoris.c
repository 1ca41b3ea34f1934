/* LoHa and LoKr: starting values, sizes of the factors, dropping, merging, and what is refused. That they compute what PEFT
 * computes is for the golden cases. */
#include "support/support.h"

#include "peft/lycoris.h"
#include "peft/methods.h"

#define SIZES                                                                                                               \
    "{\"model_type\": \"llama\", \"vocab_size\": 37, \"hidden_size\": %d, \"intermediate_size\": %d, "                      \
    "\"num_hidden_layers\": 1, \"num_attention_heads\": %d, \"num_key_value_heads\": 1, \"initializer_range\": 0.2, "       \
    "\"attention_bias\": true, \"tie_word_embeddings\": true}"

enum { ROWS = 5, MOST_WIDTH = 160 };

/* A llama of one layer: q_proj [hidden, hidden], k_proj [hidden / heads, hidden], up_proj [inner, hidden]. */
static tn_model *model_of(int hidden, int inner, int heads) {
    char text[512];
    snprintf(text, sizeof text, SIZES, hidden, inner, heads);
    return create_model(text, 2);
}

static tn_status attach(tn_model *model, const tn_peft_method *method, const char *members, uint64_t seed,
                        tn_adapter **out) {
    char text[512];
    tn_peft_config config;
    snprintf(text, sizeof text, "{\"peft_type\": \"%s\"%s%s}", method->peft_type, members[0] ? ", " : "", members);
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    tn_status status = tn_peft_config_parse(json, "here", &config);
    cJSON_Delete(json);
    *out = NULL;
    return status == TN_OK ? tn_adapter_create(model->network, method, &config, true, seed, out) : status;
}

static const tn_tensor *tensor_of(const tn_adapter *adapter, const char *leaf, const char *suffix) {
    char name[160];
    const char *part = strchr(leaf, 'u') ? "mlp" : "self_attn";
    snprintf(name, sizeof name, "model.layers.0.%s.%s.%s", part, leaf, suffix);
    const tn_param *param = tn_params_find(&adapter->params, name);
    return param ? &param->weight->tensor : NULL;
}

static void assert_shape(const tn_adapter *adapter, const char *leaf, const char *suffix, int64_t rows, int64_t cols) {
    const tn_tensor *t = tensor_of(adapter, leaf, suffix);
    if (!t || t->ndim != 2 || t->shape[0] != rows || t->shape[1] != cols)
        fail_msg("%s.%s is not [%lld, %lld]", leaf, suffix, (long long)rows, (long long)cols);
}

/* Uniform within 1 / sqrt(cols), or nothing but zeros. */
static void assert_values(const tn_adapter *adapter, const char *leaf, const char *suffix, bool zero) {
    const tn_tensor *t = tensor_of(adapter, leaf, suffix);
    assert_non_null(t);
    double bound = 1 / sqrt((double)t->shape[1]), largest = 0, sum = 0;
    for (int64_t i = 0; i < tn_tensor_count(t); i++) {
        largest = fmax(largest, fabs(((const float *)t->data)[i]));
        sum += ((const float *)t->data)[i];
    }
    assert_true(zero ? largest == 0 : largest <= bound && largest > 0.6 * bound);
    assert_true(zero || fabs(sum) < 5 * bound / sqrt(3) * sqrt((double)tn_tensor_count(t)));
}

/* --- starting values and sizes --- */

static void fresh_adapter_does_what_its_initialisation_says(void **state) {
    static const struct {
        const tn_peft_method *method;
        const char *members;
        bool changes;
    } cases[] = {
        {&tn_loha, "", false},
        {&tn_loha, "\"init_weights\": false", true},
        {&tn_loha, "\"r\": 100", false},
        {&tn_lokr, "", false},
        {&tn_lokr, "\"init_weights\": \"lycoris\", \"r\": 2", false},
        {&tn_lokr, "\"init_weights\": \"lycoris\", \"r\": 100", false},
        {&tn_lokr, "\"decompose_both\": true, \"r\": 1, \"decompose_factor\": 8", false},
        {&tn_lokr, "\"init_weights\": false", true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_model *model = model_of(24, 40, 4);
        tn_adapter *adapter;
        int64_t count;
        float *base = probe(model, &count);
        assert_ok(attach(model, cases[i].method, cases[i].members, 3, &adapter));
        assert_true((probe_difference(model, base) > 0) == cases[i].changes);
        randomise_adapter(adapter, 4, 0.3f);
        assert_true(probe_difference(model, base) > 1e-3);
        tn_adapter_free(adapter);
        assert_true(probe_difference(model, base) == 0);
        tn_free(base);
        tn_model_free(model);
    }
}

static void starting_values_are_those_of_torch(void **state) {
    static const char *const loha_names[] = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"};
    tn_model *model = model_of(48, 96, 4);
    tn_adapter *adapter, *again;
    (void)state;
    assert_ok(attach(model, &tn_loha, "\"target_modules\": [\"up_proj\"], \"r\": 4", 3, &adapter));
    for (int i = 0; i < 4; i++)
        assert_values(adapter, "up_proj", loha_names[i], i == 3);
    assert_ok(attach(model, &tn_loha, "\"target_modules\": [\"up_proj\"], \"r\": 4", 3, &again));
    assert_memory_equal(adapter->params.values, again->params.values, (size_t)adapter->params.total * sizeof(float));
    tn_adapter_free(again);
    tn_adapter_free(adapter);
    const struct {
        const char *members;
        bool w1, w2_a, w2_b; /* zero */
    } lokr[] = {{"\"r\": 2", true, false, false},
                {"\"r\": 2, \"init_weights\": \"lycoris\"", false, false, true},
                {"\"r\": 2, \"init_weights\": false", false, false, false}};
    for (int i = 0; i < 3; i++) {
        char members[128];
        snprintf(members, sizeof members, "\"target_modules\": [\"up_proj\"], %s", lokr[i].members);
        assert_ok(attach(model, &tn_lokr, members, 3, &adapter));
        assert_values(adapter, "up_proj", "lokr_w1", lokr[i].w1);
        assert_values(adapter, "up_proj", "lokr_w2_a", lokr[i].w2_a);
        assert_values(adapter, "up_proj", "lokr_w2_b", lokr[i].w2_b);
        tn_adapter_free(adapter);
    }
    tn_model_free(model);
}

/* up_proj of 48 inputs is [outputs, 48]; w1 [l, m], w2 [k, n]. A factor of 0 stands for a factor of rank. */
static void sizes_of_kronecker_factors_follow_the_rule(void **state) {
    static const struct {
        int outputs;
        const char *members;
        int l, m, k, n, rank; /* 0: full */
        bool both;
    } cases[] = {
        {96, "\"r\": 2", 8, 6, 12, 8, 2, false},
        {96, "\"r\": 5", 8, 6, 12, 8, 5, false},
        {96, "\"r\": 6", 8, 6, 12, 8, 0, false},
        {97, "\"r\": 8", 1, 6, 97, 8, 8, false},
        {100, "\"r\": 2, \"decompose_factor\": 8", 5, 8, 20, 6, 2, false},
        {96, "\"r\": 2, \"decompose_factor\": 48", 48, 48, 2, 1, 0, false},
        {96, "\"r\": 2, \"decompose_factor\": 5", 4, 4, 24, 12, 2, false},
        {96, "\"r\": 1, \"decompose_factor\": 0", 1, 1, 96, 48, 1, false},
        {96, "\"r\": 2, \"decompose_both\": true", 8, 6, 12, 8, 2, true},
        {96, "\"r\": 4, \"decompose_both\": true", 8, 6, 12, 8, 4, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_model *model = model_of(48, cases[i].outputs, 4);
        tn_adapter *adapter;
        char members[160];
        int rank = cases[i].rank;
        snprintf(members, sizeof members, "\"target_modules\": [\"up_proj\"], %s", cases[i].members);
        assert_ok(attach(model, &tn_lokr, members, 3, &adapter));
        if (cases[i].both) {
            assert_shape(adapter, "up_proj", "lokr_w1_a", cases[i].l, rank);
            assert_shape(adapter, "up_proj", "lokr_w1_b", rank, cases[i].m);
        } else {
            assert_shape(adapter, "up_proj", "lokr_w1", cases[i].l, cases[i].m);
        }
        if (rank) {
            assert_shape(adapter, "up_proj", "lokr_w2_a", cases[i].k, rank);
            assert_shape(adapter, "up_proj", "lokr_w2_b", rank, cases[i].n);
        } else {
            assert_shape(adapter, "up_proj", "lokr_w2", cases[i].k, cases[i].n);
        }
        assert_int_equal(adapter->params.count, 2 + cases[i].both + (rank > 0));
        tn_adapter_free(adapter);
        tn_model_free(model);
    }
}

/* --- passes --- */

/* Output [ROWS, outputs] for fixed inputs; returns the bytes that the pass takes, in a rehearsal (out NULL) or live. */
static int64_t run_module(const tn_module *module, int64_t inputs, bool training, uint64_t seed, float *out) {
    tn_tape tape;
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), out ? 4 << 20 : 0));
    tn_forward forward = {.tape = &tape, .training = training, .dropout_seed = seed};
    tn_var *x = tn_var_new(&tape, ROWS, inputs, false);
    if (out)
        tn_fill_normal(x->data, (size_t)(ROWS * inputs), 4, 4, 0, 1);
    tape.recording = true;
    tn_var *y = tn_linear_forward(&forward, module, x);
    if (out)
        memcpy(out, y->data, (size_t)(ROWS * y->cols) * sizeof *out);
    y->grad = tn_scratch_take(&tape, y->rows * y->cols);
    if (out)
        tape.kernels->fill(y->grad.data, 1, y->rows * y->cols);
    tn_drop(&tape, y);
    tn_tape_backward(&tape);
    assert_ok(tn_tape_status(&tape));
    int64_t peak = tape.heap.peak;
    tn_tape_free(&tape);
    return peak;
}

/* x W'^T + b with the merged weight, summed in double: y agrees up to the rounding of its own sums, of at most 160 products
 * in f32 and of the factors: within 1e-5 of the sum of magnitudes. */
static void compare_with_merged(const tn_adapter *adapter, const tn_module *module, int64_t outputs, int64_t inputs) {
    static float weight[MOST_WIDTH * MOST_WIDTH], x[ROWS * MOST_WIDTH], y[ROWS * MOST_WIDTH];
    bool has_bias;
    tn_fill_normal(x, (size_t)(ROWS * inputs), 4, 4, 0, 1);
    run_module(module, inputs, false, 0, y);
    assert_ok(tn_adapter_merged_weight(adapter, module, weight, NULL, &has_bias));
    for (int64_t t = 0; t < ROWS; t++) {
        for (int64_t o = 0; o < outputs; o++) {
            double want = module->has_bias ? ((float *)module->bias.tensor.data)[o] : 0, scale = 1;
            for (int64_t c = 0; c < inputs; c++) {
                double term = (double)x[t * inputs + c] * weight[o * inputs + c];
                want += term;
                scale += fabs(term);
            }
            if (!(fabs(y[t * outputs + o] - want) <= 1e-5 * scale))
                fail_msg("%s: %g instead of %g", module->name, (double)y[t * outputs + o], want);
        }
    }
}

static void merged_is_unmerged_for_random_sizes(void **state) {
    static const char *const variants[] = {"", ", \"decompose_both\": true", ", \"decompose_factor\": 4",
                                           ", \"decompose_both\": true, \"decompose_factor\": 16"};
    tn_rng rng = tn_rng_start(41, 1);
    (void)state;
    for (int i = 0; i < 24; i++) {
        int heads = 1 + (int)tn_rng_below(&rng, 5), inputs = heads * 2 * (1 + (int)tn_rng_below(&rng, 14));
        int inner = 1 + (int)tn_rng_below(&rng, MOST_WIDTH), rank = 1 + (int)tn_rng_below(&rng, i % 3 ? 6 : 40);
        const tn_peft_method *method = i % 2 ? &tn_lokr : &tn_loha;
        tn_model *model = model_of(inputs, inner, heads);
        tn_adapter *adapter;
        char members[200];
        snprintf(members, sizeof members, "\"target_modules\": [\"q_proj\", \"k_proj\", \"up_proj\"], \"r\": %d%s", rank,
                 i % 2 ? variants[i / 2 % 4] : "");
        assert_ok(attach(model, method, members, 3, &adapter));
        randomise_adapter(adapter, 5, 0.5f);
        for (int64_t s = 0; s < adapter->slot_count; s++) {
            const tn_tensor *weight = &adapter->slots[s].module->weight.tensor;
            compare_with_merged(adapter, adapter->slots[s].module, weight->shape[0], weight->shape[1]);
        }
        tn_adapter_free(adapter);
        tn_model_free(model);
    }
}

/* Weights that are stored transposed are merged the same way. */
static void merged_is_unmerged_on_gpt2(void **state) {
    static const char *const methods[] = {"loha", "lokr"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        tn_model *model = create_model(SMALL_GPT2, 2);
        tn_adapter_options options;
        tn_merged kept;
        int64_t count;
        float *base = probe(model, &count);
        tn_adapter_options_default(&options);
        options.method = methods[i];
        options.target_modules = "all-linear";
        options.rank = 2;
        assert_ok(tn_model_add_adapter(model, &options, 1));
        randomise_adapter(model->adapter, 5, 0.5f);
        float *with = probe(model, &count);
        assert_true(largest_difference(base, with, count) > 1e-2);
        assert_ok(tn_session_merge_in_memory(model, &kept));
        assert_true(probe_difference(model, with) < 1e-4);
        tn_session_merged_free(model, &kept);
        tn_free(base);
        tn_free(with);
        tn_model_free(model);
    }
}

/* Per output either the base's value, or that of the whole update times the rest of the mean. */
static void rank_dropout_drops_rows_of_the_update(void **state) {
    static const struct {
        const tn_peft_method *method;
        const char *members;
        bool rescales;
    } cases[] = {{&tn_loha, "\"rank_dropout\": 0.5", true},
                 {&tn_lokr, "\"rank_dropout\": 0.5", false},
                 {&tn_lokr, "\"rank_dropout\": 0.5, \"rank_dropout_scale\": true", true}};
    enum { OUT = 96, IN = 48 };
    static float base[ROWS * OUT], whole[ROWS * OUT], dropped[ROWS * OUT], again[ROWS * OUT];
    (void)state;
    for (int i = 0; i < 3; i++) {
        tn_model *model = model_of(IN, OUT, 4);
        const tn_module *module = tn_network_module(model->network, "model.layers.0.mlp.up_proj");
        tn_adapter *adapter;
        char members[160];
        int kept = 0;
        run_module(module, IN, false, 0, base);
        snprintf(members, sizeof members, "\"target_modules\": [\"up_proj\"], %s", cases[i].members);
        assert_ok(attach(model, cases[i].method, members, 3, &adapter));
        randomise_adapter(adapter, 5, 0.5f);
        run_module(module, IN, false, 8, whole);
        run_module(module, IN, true, 8, dropped);
        run_module(module, IN, true, 8, again);
        assert_memory_equal(dropped, again, sizeof dropped);
        for (int o = 0; o < OUT; o++)
            kept += dropped[o] != base[o];
        assert_in_range(kept, OUT / 2 - 24, OUT / 2 + 24); /* standard deviation 4.9 */
        double factor = cases[i].rescales ? (double)OUT / kept : 1;
        for (int at = 0; at < ROWS * OUT; at++) {
            double want = dropped[at % OUT] == base[at % OUT] ? 0 : factor * ((double)whole[at] - base[at]);
            assert_true(fabs(dropped[at] - base[at] - want) < 1e-4 * (1 + fabs(want)));
        }
        tn_adapter_free(adapter);
        tn_model_free(model);
    }
}

/* All or nothing by the seed of the micro-batch, and always in the memory of a rehearsal. */
static void module_dropout_leaves_out_whole_updates(void **state) {
    enum { WIDTH = 24, SEEDS = 200 };
    static float base[ROWS * WIDTH], whole[ROWS * WIDTH], out[ROWS * WIDTH];
    (void)state;
    for (int i = 0; i < 2; i++) {
        tn_model *model = model_of(WIDTH, 40, 4);
        const tn_module *module = tn_network_module(model->network, "model.layers.0.self_attn.q_proj");
        tn_adapter *adapter;
        int dropped = 0;
        run_module(module, WIDTH, false, 0, base);
        assert_ok(attach(model, i ? &tn_lokr : &tn_loha,
                         "\"target_modules\": [\"q_proj\"], \"r\": 2, \"module_dropout\": 0.25", 3, &adapter));
        randomise_adapter(adapter, 5, 0.5f);
        run_module(module, WIDTH, false, 0, whole);
        int64_t planned = run_module(module, WIDTH, true, 0, NULL);
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            memset(adapter->params.grads, 0, (size_t)adapter->params.total * sizeof(float));
            assert_int_equal(run_module(module, WIDTH, true, seed, out), planned);
            bool is_base = memcmp(out, base, sizeof out) == 0;
            assert_true(is_base || memcmp(out, whole, sizeof out) == 0);
            assert_true((tn_kernels_cpu()->sum_squares(adapter->params.grads, adapter->params.total) == 0) == is_base);
            dropped += is_base;
        }
        assert_in_range(dropped, 50 - 25, 50 + 25); /* standard deviation 6.1 */
        tn_adapter_free(adapter);
        tn_model_free(model);
    }
}

/* --- configuration --- */

static void what_makes_no_sense_is_refused(void **state) {
    static const struct {
        const tn_peft_method *method;
        const char *members, *words;
    } wrong[] = {
        {&tn_loha, "\"init_weights\": \"abba\"", "init-weights"},
        {&tn_loha, "\"init_weights\": \"lycoris\"", "true"},
        {&tn_loha, "\"rank_dropout\": 1", "rank-dropout"},
        {&tn_loha, "\"module_dropout\": -0.5", "module-dropout"},
        {&tn_loha, "\"rank_dropout_scale\": true", "'rank_dropout_scale'"},
        {&tn_loha, "\"r\": 0", "rank 0 does not fit"},
        {&tn_loha, "\"target_modules\": [\"embed_tokens\"]", "embed_tokens"},
        {&tn_lokr, "\"decompose_factor\": -2", "decompose-factor"},
        {&tn_lokr, "\"decompose_both\": 3", "decompose-both"},
        {&tn_lokr, "\"lora_alpha\": 16", "'lora_alpha'"},
    };
    tn_model *model = model_of(24, 40, 4);
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tn_adapter *adapter;
        tn_status status = attach(model, wrong[i].method, wrong[i].members, 3, &adapter);
        if (status == TN_OK || !strstr(tn_error_message(), wrong[i].words))
            fail_msg("%s: %s", wrong[i].members, status == TN_OK ? "accepted" : tn_error_message());
    }
    tn_model_free(model);
}

static void options_are_written_as_peft_reads_them(void **state) {
    static const char *const loha[] = {"\"alpha\": 3", "\"init_weights\": true", "\"module_dropout\": 0.25",
                                       "\"rank_dropout\": 0", "\"use_effective_conv2d\": true"};
    static const char *const lokr[] = {"\"decompose_both\": true", "\"decompose_factor\": 4",
                                       "\"init_weights\": \"lycoris\"", "\"rank_dropout_scale\": false",
                                       "\"rank_pattern\": {\"q_proj\": 3}"};
    tn_model *model = model_of(24, 40, 4);
    (void)state;
    for (int i = 0; i < 2; i++) {
        tn_adapter *adapter;
        tn_buf text = {0};
        cJSON_bool same;
        assert_ok(attach(model, i ? &tn_lokr : &tn_loha,
                         i ? "\"decompose_both\": true, \"decompose_factor\": 4, \"init_weights\": \"lycoris\", "
                             "\"rank_pattern\": {\"q_proj\": 3}"
                           : "\"alpha\": 3, \"module_dropout\": 0.25, \"use_effective_conv2d\": true",
                         3, &adapter));
        assert_ok(tn_peft_config_print(&adapter->config, &text));
        cJSON *written = cJSON_Parse(tn_buf_text(&text));
        assert_non_null(written);
        for (int at = 0; at < 5; at++) {
            char member[128];
            snprintf(member, sizeof member, "{%s}", (i ? lokr : loha)[at]);
            cJSON *want = cJSON_Parse(member);
            same = cJSON_Compare(cJSON_GetObjectItem(written, want->child->string), want->child, true);
            if (!same)
                fail_msg("not as %s: %s", member, tn_buf_text(&text));
            cJSON_Delete(want);
        }
        cJSON_Delete(written);
        tn_buf_free(&text);
        tn_adapter_free(adapter);
    }
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fresh_adapter_does_what_its_initialisation_says),
        cmocka_unit_test(starting_values_are_those_of_torch),
        cmocka_unit_test(sizes_of_kronecker_factors_follow_the_rule),
        cmocka_unit_test(merged_is_unmerged_for_random_sizes),
        cmocka_unit_test(merged_is_unmerged_on_gpt2),
        cmocka_unit_test(rank_dropout_drops_rows_of_the_update),
        cmocka_unit_test(module_dropout_leaves_out_whole_updates),
        cmocka_unit_test(what_makes_no_sense_is_refused),
        cmocka_unit_test(options_are_written_as_peft_reads_them),
    };
    return cmocka_run_group_tests_name("lycoris", tests, NULL, remove_temporary);
}
