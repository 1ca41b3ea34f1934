/* What every adapter must do: start as its initialisation says, train itself alone, merge and come off without a trace. */
#include "support/support.h"

#include <tenon/evaluate.h>

#define TIED_WITH_BIASES                                                                                                    \
    "{\"model_type\": \"qwen2\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": 40, "                      \
    "\"num_hidden_layers\": 2, "                                                                                            \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"initializer_range\": 0.2, \"tie_word_embeddings\": true}"

/* A kind of adapter on a kind of model. */
typedef struct {
    const char *name, *config, *targets, *bias, *save, *tokens, *init, *method;
    tn_method_setting setting; /* name NULL: none */
    bool tie, lora_bias, no_merge;
} setup;

static const setup setups[] = {
    {.name = "two projections", .config = SMALL_LLAMA, .targets = "q_proj,v_proj"},
    {.name = "all linear", .config = SMALL_LLAMA, .targets = "all-linear"},
    {.name = "embedding", .config = SMALL_LLAMA, .targets = "embed_tokens,k_proj"},
    {.name = "head", .config = SMALL_LLAMA, .targets = "lm_head"},
    {.name = "bias of B", .config = SMALL_LLAMA, .targets = "q_proj", .lora_bias = true, .no_merge = true},
    {.name = "bias of B on biases", .config = TIED_WITH_BIASES, .targets = "q_proj", .lora_bias = true},
    {.name = "all biases", .config = TIED_WITH_BIASES, .targets = "v_proj", .bias = "all"},
    {.name = "biases of adapted layers", .config = TIED_WITH_BIASES, .targets = "v_proj", .bias = "lora_only"},
    {.name = "embedding that a head is tied to", .config = TIED_WITH_BIASES, .targets = "embed_tokens,q_proj"},
    {.name = "tied head", .config = TIED_WITH_BIASES, .targets = "lm_head"},
    {.name = "saved embedding", .config = TIED_WITH_BIASES, .targets = "q_proj", .save = "embed_tokens"},
    {.name = "saved tied head", .config = TIED_WITH_BIASES, .targets = "q_proj", .save = "lm_head"},
    {.name = "saved embedding and head", .config = TIED_WITH_BIASES, .targets = "q_proj", .save = "embed_tokens,lm_head"},
    {.name = "saved embedding with its head",
     .config = TIED_WITH_BIASES,
     .targets = "q_proj",
     .save = "embed_tokens",
     .tie = true},
    {.name = "saved norms and projections",
     .config = TIED_WITH_BIASES,
     .targets = "q_proj",
     .save = "model.norm,k_proj,input_layernorm"},
    {.name = "token rows", .config = SMALL_LLAMA, .targets = "o_proj", .tokens = "1,5-7"},
    {.name = "token rows with a tied head", .config = TIED_WITH_BIASES, .targets = "o_proj", .tokens = "1,5-7,24,0"},
    {.name = "pissa", .config = SMALL_LLAMA, .targets = "all-linear", .init = "pissa"},
    {.name = "fast pissa", .config = SMALL_LLAMA, .targets = "down_proj,k_proj", .init = "pissa_niter_8"},
    {.name = "olora", .config = SMALL_LLAMA, .targets = "all-linear", .init = "olora"},
    {.name = "orthogonal", .config = SMALL_LLAMA, .targets = "all-linear", .init = "orthogonal"},
    {.name = "gaussian", .config = SMALL_LLAMA, .targets = "all-linear", .init = "gaussian"},
    {.name = "vera", .config = SMALL_LLAMA, .targets = "all-linear", .method = "vera"},
    {.name = "vera of a seed alone",
     .config = TIED_WITH_BIASES,
     .targets = "down_proj,lm_head,k_proj",
     .method = "vera",
     .setting = {"save-projection", "false"}},
    {.name = "vera with biases",
     .config = TIED_WITH_BIASES,
     .targets = "v_proj,up_proj",
     .method = "vera",
     .bias = "vera_only"},
    {.name = "ia3", .config = SMALL_LLAMA, .method = "ia3"},
    {.name = "ia3 on biases", .config = TIED_WITH_BIASES, .method = "ia3", .targets = "all-linear"},
    {.name = "ia3 by expressions",
     .config = TIED_WITH_BIASES,
     .targets = ".*(q_proj|mlp[.]up_proj|lm_head)",
     .method = "ia3",
     .setting = {"feedforward-modules", ".*[.]mlp[.]up_pro(j){1,2}"}},
    {.name = "ia3 with whole modules",
     .config = SMALL_LLAMA,
     .targets = "k_proj,down_proj",
     .method = "ia3",
     .save = "lm_head"},
    {.name = "vera on transposed", .config = SMALL_GPT2, .targets = "all-linear", .method = "vera"},
    {.name = "ia3 on transposed", .config = SMALL_GPT2, .method = "ia3"},
    {.name = "the family's default", .config = SMALL_GPT2},
    {.name = "transposed", .config = SMALL_GPT2, .targets = "all-linear", .lora_bias = true},
    {.name = "transposed and both embeddings", .config = SMALL_GPT2, .targets = "c_attn,wte,wpe"},
    {.name = "transposed with biases", .config = SMALL_GPT2, .targets = "c_attn", .bias = "all"},
    {.name = "saved transposed", .config = SMALL_GPT2, .targets = "c_attn", .save = "mlp.c_proj,c_fc,ln_f,wpe"},
    {.name = "transposed and tied head", .config = SMALL_GPT2, .targets = "mlp.c_proj,lm_head"},
    {.name = "transposed and token rows", .config = SMALL_GPT2, .targets = "c_fc", .tokens = "1,5-7"},
    {.name = "transposed pissa", .config = SMALL_GPT2, .targets = "all-linear", .init = "pissa"},
    {.name = "transposed fast pissa", .config = SMALL_GPT2, .targets = "c_attn,c_fc", .init = "pissa_niter_8"},
    {.name = "transposed olora", .config = SMALL_GPT2, .targets = "all-linear", .init = "olora"},
};
enum { SETUP_COUNT = sizeof setups / sizeof *setups };

static bool reduces_base(const setup *s) {
    return s->init && tn_lora_init_reduces_base(s->init);
}

static tn_status add(tn_model *model, const setup *s, uint64_t seed) {
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.method = s->method;
    options.settings = &s->setting;
    options.setting_count = s->setting.name != NULL;
    options.rank = s->method && strcmp(s->method, "ia3") == 0 ? 0 : 4;
    options.target_modules = s->targets;
    options.bias = s->bias;
    options.modules_to_save = s->save;
    options.token_indices = s->tokens;
    options.init = s->init;
    options.ensure_weight_tying = s->tie;
    options.lora_bias = s->lora_bias;
    return tn_model_add_adapter(model, &options, seed);
}

static uint64_t hash_of_tensor(uint64_t hash, const tn_tensor *t) {
    hash = tn_hash(hash, &t->dtype, sizeof t->dtype);
    hash = tn_hash(hash, t->shape, sizeof t->shape);
    return t->data ? tn_hash(hash, t->data, (size_t)tn_tensor_bytes(t)) : hash;
}

/* Every weight, bias and tie of the model. */
static uint64_t hash_of_base(const tn_model *model) {
    uint64_t hash = TN_HASH_START;
    for (int64_t i = 0; i < model->network->module_count; i++) {
        const tn_module *module = &model->network->modules[i];
        hash = hash_of_tensor(hash, &tn_module_weight(module)->tensor);
        hash = module->has_bias ? hash_of_tensor(hash, &module->bias.tensor) : hash;
        hash = tn_hash(hash, &module->tied, sizeof module->tied);
        hash = tn_hash(hash, module->name, strlen(module->name));
    }
    return hash;
}

static float *params_of(const tn_model *model) {
    size_t bytes = (size_t)model->adapter->params.total * sizeof(float);
    float *kept = malloc(bytes);
    assert_non_null(kept);
    return memcpy(kept, model->adapter->params.values, bytes);
}

/* A pass with gradients over the probe's length of tokens. */
static void backward(tn_model *model) {
    enum { COUNT = 12 };
    int32_t ids[COUNT], positions[COUNT], rows[COUNT - 1];
    float losses[COUNT - 1];
    tn_span span = {0, COUNT, 0, COUNT};
    tn_tape tape;
    for (int32_t i = 0; i < COUNT; i++) {
        ids[i] = i * 5 % 37;
        positions[i] = i;
        if (i < COUNT - 1)
            rows[i] = i;
    }
    tn_pass pass = {.tokens = {.ids = ids, .positions = positions, .count = COUNT, .spans = &span, .span_count = 1},
                    .label_rows = rows,
                    .label_ids = ids + 1,
                    .labelled = COUNT - 1};
    assert_ok(tn_decoder_prepare(model->decoder, COUNT));
    assert_ok(tn_tape_init(&tape, model->kernels, 16 << 20));
    tn_forward forward = {.tape = &tape, .training = true};
    tape.recording = true;
    tn_pass_loss(model, &forward, &pass, TN_CHECKPOINTING_OFF, 1, losses, NULL);
    assert_ok(tn_tape_status(&tape));
    tn_tape_free(&tape);
}

/* --- starting values --- */

static void fresh_adapter_has_the_effect_that_its_initialisation_says(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = create_model(setups[i].config, 2);
        int64_t count;
        float *base = probe(model, &count);
        assert_ok(add(model, &setups[i], 3));
        bool cancels = reduces_base(&setups[i]) || (setups[i].init && strcmp(setups[i].init, "orthogonal") == 0);
        double difference = probe_difference(model, base);
        if (!(cancels ? difference < 1e-4 : difference == 0))
            fail_msg("%s: logits of a fresh adapter differ by %g", setups[i].name, difference);
        randomise_adapter(model->adapter, 4, 0.3f);
        assert_true(probe_difference(model, base) > 1e-3);
        tn_free(base);
        tn_model_free(model);
    }
}

/* Mean and variance of a sample of at least a few hundred. */
static void assert_distribution(const tn_tensor *t, double bound, double deviation) {
    const float *x = t->data;
    int64_t count = tn_tensor_count(t);
    double sum = 0, square = 0;
    for (int64_t i = 0; i < count; i++) {
        assert_true(fabs((double)x[i]) <= bound);
        sum += x[i];
        square += (double)x[i] * x[i];
    }
    assert_true(fabs(sum / (double)count) < 5 * deviation / sqrt((double)count));
    assert_true(fabs(sqrt(square / (double)count) / deviation - 1) < 0.25);
}

static void starting_values_have_their_distributions(void **state) {
    static const char *const inits[] = {"kaiming", "gaussian"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        tn_model *model = create_model(SMALL_LLAMA, 2);
        setup s = {.targets = "down_proj,embed_tokens", .init = inits[i]};
        assert_ok(add(model, &s, 3));
        tn_adapter *adapter = model->adapter;
        const tn_weight *a = tn_params_find(&adapter->params, "model.layers.0.mlp.down_proj.lora_A.weight")->weight;
        const tn_weight *b = tn_params_find(&adapter->params, "model.layers.0.mlp.down_proj.lora_B.weight")->weight;
        double bound = 1 / sqrt(40);
        if (i == 1)
            assert_distribution(&a->tensor, 2, 0.25);
        else
            assert_distribution(&a->tensor, bound, bound / sqrt(3));
        for (int64_t j = 0; j < tn_tensor_count(&b->tensor); j++)
            assert_true(((float *)b->tensor.data)[j] == 0);
        const tn_weight *ea = tn_params_find(&adapter->params, "model.embed_tokens.lora_embedding_A")->weight;
        const tn_weight *eb = tn_params_find(&adapter->params, "model.embed_tokens.lora_embedding_B")->weight;
        for (int64_t j = 0; j < tn_tensor_count(&ea->tensor); j++)
            assert_true(((float *)ea->tensor.data)[j] == 0);
        assert_distribution(&eb->tensor, 6, 1);
        tn_model_free(model);
    }
}

static void starting_values_depend_on_the_seed_alone(void **state) {
    static const char *const inits[] = {"kaiming", "gaussian", "orthogonal"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        tn_model *model = create_model(SMALL_LLAMA, 2);
        setup s = {.targets = "q_proj,embed_tokens", .init = inits[i]};
        float *values[3];
        for (int run = 0; run < 3; run++) {
            assert_ok(add(model, &s, run == 2 ? 8 : 7));
            values[run] = params_of(model);
        }
        size_t bytes = (size_t)model->adapter->params.total * sizeof(float);
        assert_memory_equal(values[0], values[1], bytes);
        assert_true(memcmp(values[0], values[2], bytes) != 0);
        for (int run = 0; run < 3; run++)
            free(values[run]);
        tn_model_free(model);
    }
}

/* --- gradients --- */

static void gradient_reaches_only_the_adapter(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = create_model(setups[i].config, 2);
        assert_ok(add(model, &setups[i], 3));
        randomise_adapter(model->adapter, 4, 0.3f);
        uint64_t before = hash_of_base(model);
        float *values = params_of(model);
        const tn_params *params = &model->adapter->params;
        backward(model);
        assert_true(hash_of_base(model) == before);
        assert_memory_equal(values, params->values, (size_t)params->total * sizeof(float));
        for (int64_t k = 0; k < params->count; k++) {
            double square =
                tn_kernels_cpu()->sum_squares(params->grads + params->entries[k].offset, params->entries[k].count);
            if (!(square > 0 && isfinite(square)))
                fail_msg("%s: no gradient on %s", setups[i].name, params->entries[k].name);
        }
        for (int64_t m = 0; m < model->network->module_count; m++) {
            const tn_weight *weights[2] = {&model->network->modules[m].weight, &model->network->modules[m].bias};
            for (int w = 0; w < 2; w++) {
                bool in_store = (char *)weights[w]->grad >= (char *)params->grads &&
                                (char *)weights[w]->grad < (char *)(params->grads + params->total);
                assert_true(weights[w]->trainable ? in_store : !weights[w]->grad);
            }
        }
        free(values);
        tn_model_free(model);
    }
}

/* --- coming and going --- */

static void switching_off_and_removing_leave_the_base_bit_for_bit(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = create_model(setups[i].config, 2);
        uint64_t before = hash_of_base(model);
        int64_t count;
        float *base = probe(model, &count);
        size_t used = tn_memory_used();
        for (int round = 0; round < 3; round++) {
            assert_ok(add(model, &setups[i], 3));
            randomise_adapter(model->adapter, 4, 0.3f);
            float *with = probe(model, &count);
            tn_model_enable_adapter(model, false);
            tn_model_enable_adapter(model, false);
            assert_true(probe_difference(model, base) == 0);
            if (round < 2) {
                tn_model_enable_adapter(model, true);
                assert_true(probe_difference(model, with) == 0);
            }
            if (round == 1)
                backward(model);
            tn_free(with);
            tn_model_remove_adapter(model); /* in the last round while it is off */
            assert_true(hash_of_base(model) == before);
            assert_true(probe_difference(model, base) == 0);
        }
        assert_int_equal(tn_memory_used(), used);
        tn_free(base);
        tn_model_free(model);
    }
}

static void failed_adapter_leaves_the_base_bit_for_bit(void **state) {
    (void)state;
    tn_model *model = create_model(TIED_WITH_BIASES, 2);
    uint64_t before = hash_of_base(model);
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_status status = TN_ERROR_MEMORY;
        if (strcmp(setups[i].config, TIED_WITH_BIASES) != 0)
            continue;
        for (int count = 0; status != TN_OK && count < 2000; count++) {
            size_t used = tn_memory_used();
            tn_memory_fail_after(count);
            status = add(model, &setups[i], 3);
            tn_memory_fail_after(-1);
            assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
            if (status == TN_OK)
                tn_model_remove_adapter(model);
            assert_null(model->adapter);
            assert_int_equal(tn_memory_used(), used);
            assert_true(hash_of_base(model) == before);
        }
        assert_ok(status);
    }
    tn_model_free(model);
}

static void full_training_starts_as_the_base_and_leaves_it(void **state) {
    static const char *const configs[] = {SMALL_LLAMA, TIED_WITH_BIASES};
    (void)state;
    for (int i = 0; i < 2; i++) {
        tn_model *model = create_model(configs[i], 2), *saved;
        tn_adapter_options options;
        int64_t count;
        uint64_t before = hash_of_base(model);
        float *base = probe(model, &count);
        tn_adapter_options_default(&options);
        options.method = "full";
        assert_ok(tn_model_add_adapter(model, &options, 1));
        assert_true(probe_difference(model, base) == 0);
        int64_t trained = 0;
        for (int64_t k = 0; k < model->adapter->params.count; k++)
            trained += model->adapter->params.entries[k].count;
        assert_int_equal(trained, tn_network_parameters(model->network));
        randomise_adapter(model->adapter, 4, 0.3f);
        float *moved = probe(model, &count);
        assert_true(largest_difference(moved, base, count) > 1e-3);
        assert_ok(tn_model_save_adapter(model, temporary("full-%d", i)));
        assert_ok(tn_model_load(temporary("full-%d", i), &saved));
        assert_true(probe_difference(saved, moved) == 0);
        tn_model_free(saved);
        tn_model_remove_adapter(model);
        assert_true(hash_of_base(model) == before);
        tn_free(base);
        tn_free(moved);
        tn_model_free(model);
    }
}

/* --- files --- */

static void saved_adapter_reads_back_bit_for_bit(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = create_model(setups[i].config, 2);
        int64_t count;
        assert_ok(add(model, &setups[i], 3));
        randomise_adapter(model->adapter, 4, 0.3f);
        float *logits = probe(model, &count), *values = params_of(model);
        int64_t total = model->adapter->params.total;
        assert_ok(tn_model_save_adapter(model, temporary("adapter-%d", i)));
        tn_model_remove_adapter(model);
        assert_ok(tn_model_load_adapter(model, temporary("adapter-%d", i), false, false));
        if (reduces_base(&setups[i])) {
            assert_true(probe_difference(model, logits) < 1e-4);
            assert_int_equal(model->adapter->config.rank, 8);
        } else {
            assert_int_equal(model->adapter->params.total, total);
            assert_memory_equal(model->adapter->params.values, values, (size_t)total * sizeof(float));
            assert_true(probe_difference(model, logits) == 0);
        }
        /* on and off, the same file */
        for (int enabled = 0; enabled < 2; enabled++) {
            tn_buf first = {0}, second = {0};
            tn_model_enable_adapter(model, enabled);
            assert_ok(tn_model_save_adapter(model, temporary("again")));
            for (int f = 0; f < 2; f++) {
                const char *file = f ? "adapter_config.json" : "adapter_model.safetensors";
                assert_ok(tn_file_read(temporary("adapter-%d/%s", i, file), 1 << 20, &first));
                assert_ok(tn_file_read(temporary("again/%s", file), 1 << 20, &second));
                assert_int_equal(first.length, second.length);
                assert_memory_equal(first.data, second.data, first.length);
            }
            tn_buf_free(&first);
            tn_buf_free(&second);
        }
        tn_free(logits);
        free(values);
        tn_model_free(model);
    }
}

/* --- merging --- */

static void merged_model_is_the_model_with_the_adapter(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = create_stored_model(setups[i].config, 2, "merge-base", "f32"), *merged;
        tn_merge_report report;
        int64_t count;
        assert_ok(add(model, &setups[i], 3));
        randomise_adapter(model->adapter, 4, 0.3f);
        float *logits = probe(model, &count);
        const char *dir = temporary("merged");
        if (setups[i].no_merge) {
            assert_fails(tn_model_merge(model, dir, "f32", &report), TN_ERROR_UNSUPPORTED,
                         "lora_bias gives 'model.layers.0.self_attn.q_proj'");
            assert_false(tn_path_exists(temporary("merged/model.safetensors")));
        } else {
            assert_ok(tn_model_merge(model, dir, "f32", &report));
            assert_true(report.logit_difference < 1e-3 && report.modules > 0);
            assert_ok(tn_model_load(dir, &merged));
            assert_true(probe_difference(merged, logits) < 1e-3);
            tn_model_free(merged);
            /* it makes no difference that the adapter is off */
            tn_model_enable_adapter(model, false);
            assert_ok(tn_model_merge(model, dir, "f32", &report));
            assert_ok(tn_model_load(dir, &merged));
            assert_true(probe_difference(merged, logits) < 1e-3);
            tn_model_free(merged);
        }
        assert_ok(tn_path_remove_tree(dir));
        tn_free(logits);
        tn_model_free(model);
    }
}

/* A LoRA comes out again; what replaced the base's own numbers cannot. */
static void taking_out_restores_the_base_or_is_refused(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        bool replaces = setups[i].save || setups[i].bias || setups[i].tokens;
        tn_model *model = create_stored_model(setups[i].config, 2, "unmerge-base", "f32"), *merged, *restored;
        tn_merge_report report;
        int64_t count;
        float *base = probe(model, &count);
        assert_ok(add(model, &setups[i], 3));
        randomise_adapter(model->adapter, 4, 0.1f);
        assert_ok(tn_model_save_adapter(model, temporary("unmerge-adapter")));
        if (!setups[i].no_merge) {
            assert_ok(tn_model_merge(model, temporary("unmerge-merged"), "f32", &report));
            assert_ok(tn_model_load(temporary("unmerge-merged"), &merged));
            assert_ok(tn_model_load_adapter(merged, temporary("unmerge-adapter"), false, false));
            tn_status status = tn_model_unmerge(merged, temporary("unmerge-out"), "f32", &report);
            if (replaces) {
                assert_int_equal(status, TN_ERROR_UNSUPPORTED);
            } else {
                assert_ok(status);
                assert_true(report.logit_difference < 1e-3);
                assert_ok(tn_model_load(temporary("unmerge-out"), &restored));
                assert_true(probe_difference(restored, base) < 1e-3);
                tn_model_free(restored);
            }
            tn_model_free(merged);
        }
        assert_ok(tn_path_remove_tree(temporary("unmerge-merged")));
        assert_ok(tn_path_remove_tree(temporary("unmerge-out")));
        tn_free(base);
        tn_model_free(model);
    }
}

/* The base's share is known only from the base, not from a model it was merged into. */
static void adapter_trained_against_a_reduced_base_cannot_be_taken_out(void **state) {
    static const setup pissa = {.targets = "q_proj", .init = "pissa"};
    tn_model *model = create_stored_model(SMALL_LLAMA, 2, "reduced-base", "f32");
    (void)state;
    assert_ok(add(model, &pissa, 3));
    assert_fails(tn_model_unmerge(model, temporary("reduced-out"), "f32", NULL), TN_ERROR_UNSUPPORTED, "pissa");
    tn_model_free(model);
}

static void merging_into_a_narrow_type_reports_what_it_lost(void **state) {
    static const char *const dtypes[] = {"bf16", "f16", "keep"};
    static const double bounds[] = {1.0 / 256, 1.0 / 2048, 1.0 / 256}; /* half an ulp of values below 2 */
    (void)state;
    for (int i = 0; i < 3; i++) {
        tn_model *model = create_stored_model(SMALL_LLAMA, 2, "narrow-base", "bf16"), *merged;
        tn_merge_report report;
        assert_ok(add(model, &setups[0], 3));
        randomise_adapter(model->adapter, 4, 0.1f);
        assert_ok(tn_model_save_adapter(model, temporary("narrow-adapter")));
        assert_ok(tn_model_merge(model, temporary("narrow"), dtypes[i], &report));
        assert_true(report.largest_rounding > 0 && report.largest_rounding <= bounds[i]);
        assert_true(report.logit_difference > 0 && report.logit_difference < 1);
        assert_ok(tn_model_load(temporary("narrow"), &merged));
        assert_int_equal(merged->network->embedding->weight.tensor.dtype, i == 1 ? TN_DTYPE_F16 : TN_DTYPE_BF16);
        assert_ok(tn_model_load_adapter(merged, temporary("narrow-adapter"), false, false));
        assert_ok(tn_model_unmerge(merged, temporary("narrow-out"), dtypes[i], &report));
        assert_true(report.largest_rounding > 0 && report.largest_rounding <= 2 * bounds[i]);
        tn_model_free(merged);
        tn_model_free(model);
    }
    tn_model *model = create_model(SMALL_LLAMA, 2);
    assert_ok(add(model, &setups[0], 3));
    assert_fails(tn_model_merge(model, temporary("narrow"), "int8", NULL), TN_ERROR_ARGUMENT,
                 "dtype 'int8' is not one of keep, f32");
    tn_model_remove_adapter(model);
    assert_fails(tn_model_merge(model, temporary("narrow"), "f32", NULL), TN_ERROR_ARGUMENT, "no adapter to merge");
    tn_model_free(model);
}

static void base_is_never_overwritten(void **state) {
    tn_model *model = create_stored_model(SMALL_LLAMA, 2, "precious", "f32");
    (void)state;
    assert_ok(add(model, &setups[0], 3));
    assert_fails(tn_model_merge(model, temporary("precious"), "f32", NULL), TN_ERROR_ARGUMENT, "is the model's own folder");
    assert_fails(tn_model_merge(model, temporary("precious/../precious"), "f32", NULL), TN_ERROR_ARGUMENT,
                 "is the model's own folder");
    tn_model_free(model);
}

/* The merged pass of a file leaves a model that works as before. */
static void merging_for_a_file_is_undone(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = create_model(setups[i].config, 2);
        tn_safetensors_writer *writer;
        static const int64_t shape[] = {2, 3}, ids[] = {1, 2, 3, 4, 5, 36};
        int64_t count;
        const char *input = temporary("input.safetensors"), *output = temporary("output.safetensors");
        assert_ok(tn_safetensors_writer_new(&writer, input));
        assert_ok(tn_safetensors_writer_declare(writer, "input_ids", TN_DTYPE_I64, 2, shape));
        assert_ok(tn_safetensors_writer_begin(writer));
        assert_ok(tn_safetensors_writer_data(writer, ids, sizeof ids));
        assert_ok(tn_safetensors_writer_finish(writer));
        assert_ok(add(model, &setups[i], 3));
        randomise_adapter(model->adapter, 4, 0.3f);
        uint64_t before = hash_of_base(model);
        float *logits = probe(model, &count);
        assert_ok(tn_forward_file(model, input, output, false, true));
        assert_true(hash_of_base(model) == before);
        assert_true(model->adapter && probe_difference(model, logits) == 0);
        tn_free(logits);
        tn_model_free(model);
    }
}

/* --- figures --- */

static void figures_say_what_the_adapter_does(void **state) {
    (void)state;
    for (int i = 0; i < SETUP_COUNT; i++) {
        tn_model *model = create_model(setups[i].config, 2);
        tn_adapter_info info;
        int64_t parameters = 0, count;
        float *base = probe(model, &count);
        assert_fails(tn_model_describe_adapter(model, &info), TN_ERROR_ARGUMENT, "no adapter");
        assert_ok(add(model, &setups[i], 3));
        assert_ok(tn_model_describe_adapter(model, &info));
        assert_true(info.change_norm < 1e-3 && info.logit_difference < 1e-4 && info.base_norm > 0);
        randomise_adapter(model->adapter, 4, 0.3f);
        assert_ok(tn_model_describe_adapter(model, &info));
        for (int64_t k = 0; k < model->adapter->params.count; k++)
            parameters += model->adapter->params.entries[k].count;
        assert_int_equal(info.parameters, parameters);
        assert_true(info.modules > 0 && info.logit_difference > 1e-3);
        assert_true(info.change_norm > 0.1 || setups[i].lora_bias || setups[i].bias);
        assert_true(fabs(info.logit_difference - probe_difference(model, base)) < 1e-6);
        /* one that is off stays off */
        tn_model_enable_adapter(model, false);
        assert_ok(tn_model_describe_adapter(model, &info));
        assert_true(info.logit_difference > 1e-3 && probe_difference(model, base) == 0);
        tn_free(base);
        tn_model_free(model);
    }
}

/* A tied head is the embedding, not a second module. */
static void tied_modules_count_once(void **state) {
    tn_model *model = create_model(TIED_WITH_BIASES, 2);
    tn_adapter_info info;
    static const setup saved = {.targets = "q_proj", .save = "embed_tokens", .tie = true},
                       rows = {.targets = "q_proj", .tokens = "3"};
    (void)state;
    assert_ok(add(model, &saved, 3));
    assert_ok(tn_model_describe_adapter(model, &info));
    assert_int_equal(info.modules, 3);
    assert_ok(add(model, &rows, 3));
    assert_ok(tn_model_describe_adapter(model, &info));
    assert_int_equal(info.modules, 3);
    tn_model_free(model);
}

/* --- layer replication --- */

static tn_status replicate(tn_model *model, const char *ranges) {
    char text[512];
    snprintf(text, sizeof text,
             "{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": [\"q_proj\"], \"layer_replication\": %s}", ranges);
    cJSON *json = cJSON_Parse(text);
    tn_peft_config config;
    tn_status status = tn_peft_config_parse(json, "test", &config);
    cJSON_Delete(json);
    TN_TRY(status);
    return tn_adapter_create(model->network, &tn_lora, &config, true, 3, &model->adapter);
}

static void replicated_layers_go_with_their_adapter(void **state) {
    tn_model *model = create_model(SMALL_LLAMA, 2);
    uint64_t before = hash_of_base(model);
    int64_t count;
    float *base = probe(model, &count), *stacked = NULL;
    (void)state;
    for (int round = 0; round < 3; round++) {
        assert_ok(replicate(model, "[[0, 2], [1, 2], [0, 1]]"));
        assert_int_equal(model->network->layer_count, 4);
        assert_int_equal(model->adapter->slot_count, 4);
        assert_string_equal(model->adapter->slots[3].module->name, "model.layers.3.self_attn.q_proj");
        if (!stacked)
            stacked = probe(model, &count);
        assert_true(largest_difference(stacked, base, count) > 1e-3);
        assert_true(probe_difference(model, stacked) == 0);
        backward(model);
        tn_model_remove_adapter(model);
        assert_int_equal(model->network->layer_count, 2);
        assert_true(hash_of_base(model) == before && probe_difference(model, base) == 0);
    }
    assert_fails(replicate(model, "[[0, 3]]"), TN_ERROR_ARGUMENT, "[0, 3] is no range of the model's 2 layers");
    assert_fails(replicate(model, "[[-1, 1]]"), TN_ERROR_ARGUMENT, "[-1, 1] is no range");
    assert_fails(replicate(model, "[[1, 1]]"), TN_ERROR_ARGUMENT, "[1, 1] is no range");
    assert_true(hash_of_base(model) == before);
    tn_free(base);
    tn_free(stacked);
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fresh_adapter_has_the_effect_that_its_initialisation_says),
        cmocka_unit_test(starting_values_have_their_distributions),
        cmocka_unit_test(starting_values_depend_on_the_seed_alone),
        cmocka_unit_test(gradient_reaches_only_the_adapter),
        cmocka_unit_test(switching_off_and_removing_leave_the_base_bit_for_bit),
        cmocka_unit_test(failed_adapter_leaves_the_base_bit_for_bit),
        cmocka_unit_test(full_training_starts_as_the_base_and_leaves_it),
        cmocka_unit_test(saved_adapter_reads_back_bit_for_bit),
        cmocka_unit_test(merged_model_is_the_model_with_the_adapter),
        cmocka_unit_test(taking_out_restores_the_base_or_is_refused),
        cmocka_unit_test(adapter_trained_against_a_reduced_base_cannot_be_taken_out),
        cmocka_unit_test(merging_into_a_narrow_type_reports_what_it_lost),
        cmocka_unit_test(base_is_never_overwritten),
        cmocka_unit_test(merging_for_a_file_is_undone),
        cmocka_unit_test(figures_say_what_the_adapter_does),
        cmocka_unit_test(tied_modules_count_once),
        cmocka_unit_test(replicated_layers_go_with_their_adapter),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
