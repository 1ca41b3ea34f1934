/* Composing, resizing and extracting adapters as folders, and what the base becomes with the results. */
#include <tenon/compose.h>

#include "peft/factors.h"
#include "support/support.h"

enum { WIDEST = 40 * 40 };

static tn_adapter_options lora(const char *targets, int64_t rank) {
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.target_modules = targets;
    options.rank = rank;
    return options;
}

/* The base in the folder "base" (and in f32 as "base32"), once. */
static void make_base(const char *config) {
    tn_model_free(create_stored_model(config, 7, "base", "bf16"));
}

/* An adapter with random values on the base, in the folder `name`. */
static void make_adapter(const char *name, tn_adapter_options options, uint64_t seed) {
    tn_model *model;
    assert_ok(tn_model_load(temporary("base"), &model));
    assert_ok(tn_model_add_adapter(model, &options, seed));
    randomise_adapter(model->adapter, seed, 0.3f);
    assert_ok(tn_model_save_adapter(model, temporary("%s", name)));
    tn_model_free(model);
}

static tn_model *load_with(const char *adapter) {
    tn_model *model;
    assert_ok(tn_model_load(temporary("base"), &model));
    if (adapter)
        assert_ok(tn_model_load_adapter(model, temporary("%s", adapter), false, false));
    return model;
}

/* ||W with `adapter` - sum_i weights[i] (W with inputs[i] - W) - W||_F over all modules, relative to the sum's norm. */
static double distance(const char *adapter, const char *const *inputs, const double *weights, size_t count) {
    tn_model *made = load_with(adapter), *parts[4];
    float got[WIDEST], part[WIDEST], base[WIDEST];
    double wrong = 0, exact = 0;
    bool has_bias;
    assert_true(count <= 4);
    for (size_t i = 0; i < count; i++)
        parts[i] = load_with(inputs[i]);
    for (int64_t m = 0; m < made->network->module_count; m++) {
        const tn_module *module = &made->network->modules[m];
        const tn_tensor *w = &module->weight.tensor;
        double sum[WIDEST] = {0};
        assert_true(tn_tensor_count(w) <= WIDEST);
        tn_convert_to_f32(base, w->data, w->dtype, tn_tensor_count(w));
        assert_ok(tn_adapter_merged_weight(made->adapter, module, got, NULL, &has_bias));
        for (size_t i = 0; i < count; i++) {
            assert_ok(tn_adapter_merged_weight(parts[i]->adapter, &parts[i]->network->modules[m], part, NULL, &has_bias));
            for (int64_t j = 0; j < tn_tensor_count(w); j++)
                sum[j] += weights[i] * ((double)part[j] - base[j]);
        }
        for (int64_t j = 0; j < tn_tensor_count(w); j++) {
            double difference = (double)got[j] - base[j] - sum[j];
            wrong += difference * difference;
            exact += sum[j] * sum[j];
        }
    }
    for (size_t i = 0; i < count; i++)
        tn_model_free(parts[i]);
    tn_model_free(made);
    return sqrt(wrong / exact);
}

static tn_compose_options mode(const char *name, int64_t rank) {
    tn_compose_options options;
    tn_compose_options_default(&options);
    options.mode = name;
    options.rank = rank;
    return options;
}

static tn_status compose(const char *const *names, const double *weights, size_t count, const tn_compose_options *options,
                         const char *out, tn_low_rank_report *report) {
    char paths[4][512];
    const char *dirs[4];
    for (size_t i = 0; i < count; i++) {
        snprintf(paths[i], sizeof paths[i], "%s", temporary("%s", names[i]));
        dirs[i] = paths[i];
    }
    return tn_compose_adapters(dirs, weights, (int64_t)count, NULL, options, temporary("%s", out), report);
}

/* Three adapters that differ in everything: ranks, targets, patterns, scalings, an embedding, the head. */
static const char *const three[] = {"a", "b", "c"};
static const double three_weights[] = {0.5, -1.5, 0.8};

static void make_three(void) {
    make_base(SMALL_LLAMA);
    tn_adapter_options a = lora("q_proj,v_proj", 4), b = lora("all-linear", 3), c = lora("embed_tokens,lm_head,q_proj", 5);
    b.rslora = true;
    b.rank_pattern = "layers.1.mlp.up_proj=7,k_proj=1";
    b.alpha_pattern = "o_proj=3";
    make_adapter("a", a, 1);
    make_adapter("b", b, 2);
    make_adapter("c", c, 3);
}

static void composed_adapter_acts_as_the_weighted_sum(void **state) {
    (void)state;
    tn_low_rank_report report;
    tn_compose_options cat = mode("cat", 0), svd = mode("svd", 100), cut = mode("svd", 2);
    make_three();
    assert_ok(compose(three, three_weights, 3, &cat, "cat", &report));
    assert_int_equal(report.layer_count, 16);
    assert_int_equal(report.lowest_rank, 1);
    assert_int_equal(report.highest_rank, 12); /* q_proj is in all three */
    assert_true(report.error < 1e-6);
    assert_true(distance("cat", three, three_weights, 3) < 2e-6);
    tn_low_rank_report_free(&report);
    assert_ok(compose(three, three_weights, 3, &svd, "svd", &report));
    assert_true(report.error < 2e-6);
    assert_true(distance("svd", three, three_weights, 3) < 2e-6);
    tn_low_rank_report_free(&report);
    assert_ok(compose(three, three_weights, 3, &cut, "cut", &report));
    assert_int_equal(report.highest_rank, 2);
    assert_true(report.error > 0.1);
    assert_true(fabs(distance("cut", three, three_weights, 3) - report.error) < 1e-5);
    double worst = 0;
    for (int64_t i = 0; i < report.layer_count; i++)
        worst = fmax(worst, report.layers[i].error);
    assert_true(report.layers[report.worst].error == worst && worst >= report.error);
    tn_low_rank_report_free(&report);
}

static void adapters_can_be_checked_on_their_model(void **state) {
    (void)state;
    char a[512], c[512];
    make_three();
    snprintf(a, sizeof a, "%s", temporary("a"));
    snprintf(c, sizeof c, "%s", temporary("c"));
    const char *dirs[] = {a, c};
    tn_compose_options cat = mode("cat", 0);
    assert_ok(tn_compose_adapters(dirs, three_weights, 2, temporary("base"), &cat, temporary("out"), NULL));
    char *other = with_replaced(SMALL_LLAMA, "\"vocab_size\": 37", "\"vocab_size\": 39");
    tn_model_free(create_stored_model(other, 7, "other", "f32"));
    free(other);
    assert_fails(tn_compose_adapters(dirs, three_weights, 2, temporary("other"), &cat, temporary("out2"), NULL),
                 TN_ERROR_MISMATCH, "embed_tokens");
    assert_false(tn_path_exists(temporary("out2")));
}

static tn_peft_config config_of(const char *name) {
    cJSON *json;
    tn_peft_config config;
    assert_ok(tn_json_read(temporary("%s/adapter_config.json", name), 1 << 20, &json));
    assert_ok(tn_peft_config_parse(json, "config", &config));
    cJSON_Delete(json);
    return config;
}

static void result_is_a_plain_lora_with_scaling_one(void **state) {
    (void)state;
    make_three();
    tn_compose_options cat = mode("cat", 0);
    static const char *const pair[] = {"a", "c"}, *const regex[] = {"a", "regex"};
    make_adapter("regex", lora(".*layers.0.*(q|k)_proj", 2), 4);
    assert_ok(compose(three, three_weights, 3, &cat, "cat", NULL));
    tn_peft_config c = config_of("cat");
    assert_true(c.alpha == (double)c.rank && !c.use_rslora);
    assert_int_equal(c.rank_pattern_count, c.alpha_pattern_count);
    for (size_t i = 0; i < c.rank_pattern_count; i++)
        assert_true(c.rank_pattern[i].value == c.alpha_pattern[i].value);
    assert_int_equal(c.target_modules.count, 9); /* seven, the embedding and the head */
    tn_peft_config_free(&c);
    assert_ok(compose(regex, three_weights, 2, &cat, "regex_too", NULL));
    c = config_of("regex_too");
    assert_int_equal(c.target_modules.count, 5); /* no list of names stands for an expression, so they are all named */
    assert_string_equal(c.target_modules.items[0], "model.layers.0.self_attn.q_proj");
    tn_peft_config_free(&c);
    assert_true(distance("regex_too", regex, three_weights, 2) < 2e-6);
    assert_ok(compose(pair, three_weights, 2, &cat, "pair", NULL));
    c = config_of("pair");
    assert_int_equal(c.target_modules.count, 4);
    assert_string_equal(c.target_modules.items[3], "lm_head");
    tn_peft_config_free(&c);
}

static void composing_one_adapter_is_the_identity(void **state) {
    (void)state;
    static const double one[] = {1};
    static const char *const modes[] = {"linear", "cat", "svd"};
    make_three();
    for (size_t m = 0; m < 3; m++)
        for (size_t i = 0; i < 3; i++) {
            tn_compose_options options = mode(modes[m], 0);
            assert_ok(compose(&three[i], one, 1, &options, "same", NULL));
            assert_true(distance("same", &three[i], one, 1) < 2e-6);
        }
}

static void updates_that_cancel_leave_no_error(void **state) {
    (void)state;
    static const char *const same[] = {"b", "b"};
    static const double opposite[] = {0.7, -0.7};
    static const char *const modes[] = {"linear", "cat", "svd"};
    make_three();
    for (size_t m = 0; m < 3; m++) {
        tn_compose_options options = mode(modes[m], 0);
        tn_low_rank_report report;
        assert_ok(compose(same, opposite, 2, &options, "nothing", &report));
        assert_true(report.norm == 0 && report.error == 0);
        tn_low_rank_report_free(&report);
    }
}

/* --- tensors that were trained whole --- */

static void equal_whole_tensors_are_kept_and_others_refused(void **state) {
    (void)state;
    static const double weights[] = {1, 1};
    static const char *const same[] = {"x", "x"}, *const other[] = {"x", "y"}, *const none[] = {"x", "plain"};
    tn_compose_options cat = mode("cat", 0);
    char *biased = with_replaced(SMALL_LLAMA, "\"attention_bias\": false", "\"attention_bias\": true");
    make_base(biased);
    free(biased);
    tn_adapter_options options = lora("q_proj", 2);
    options.modules_to_save = "norm";
    options.bias = "lora_only";
    make_adapter("x", options, 1);
    make_adapter("y", options, 2);
    make_adapter("plain", lora("q_proj", 2), 3);
    assert_ok(compose(same, weights, 2, &cat, "kept", NULL));
    tn_model *kept = load_with("kept"), *x = load_with("x");
    assert_int_equal(kept->adapter->replaced_count, x->adapter->replaced_count);
    for (int64_t i = 0; i < x->adapter->replaced_count; i++) {
        const tn_module *m = x->adapter->replaced[i].module, *n = kept->adapter->replaced[i].module;
        bool bias = x->adapter->replaced[i].is_bias;
        const tn_tensor *a = bias ? &m->bias.tensor : &m->weight.tensor, *b = bias ? &n->bias.tensor : &n->weight.tensor;
        assert_memory_equal(a->data, b->data, (size_t)tn_tensor_bytes(a));
    }
    tn_model_free(kept);
    tn_model_free(x);
    assert_fails(compose(other, weights, 2, &cat, "no", NULL), TN_ERROR_MISMATCH, "cannot be composed");
    assert_fails(compose(none, weights, 2, &cat, "no", NULL), TN_ERROR_MISMATCH, "differ in their bias setting");
    options.bias = "none";
    make_adapter("x", options, 1);
    assert_fails(compose(none, weights, 2, &cat, "no", NULL), TN_ERROR_MISMATCH, "must be equal in all adapters");
    assert_false(tn_path_exists(temporary("no")));
}

static void updates_that_are_no_product_are_refused_by_name(void **state) {
    (void)state;
    static const char *const changes[][3] = {
        {"\"use_dora\": false", "\"use_dora\": true", "DoRA (use_dora)"},
        {"\"lora_bias\": false", "\"lora_bias\": true", "lora_bias"},
        {"\"auto_mapping\": null", "\"kasa_config\": {\"beta\": 1}", "KaSA"},
        {"\"auto_mapping\": null", "\"alora_invocation_tokens\": [1]", "aLoRA"},
        {"\"auto_mapping\": null", "\"use_bdlora\": {\"nblocks\": 2}", "BD-LoRA"},
        {"\"target_parameters\": null", "\"target_parameters\": [\"w\"]", "target_parameters"},
        {"\"layer_replication\": null", "\"layer_replication\": [[0, 2]]", "layer_replication"},
        {"\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", "init_lora_weights pissa"},
    };
    make_base(SMALL_LLAMA);
    make_adapter("good", lora("q_proj", 2), 1);
    make_adapter("bad", lora("q_proj", 2), 1);
    tn_buf good = {0};
    assert_ok(tn_file_read(temporary("good/adapter_config.json"), 1 << 20, &good));
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char *bad = with_replaced(tn_buf_text(&good), changes[i][0], changes[i][1]);
        write_text(temporary("bad/adapter_config.json"), bad);
        free(bad);
        assert_fails(tn_resize_adapter(temporary("bad"), 1, 0, temporary("no"), NULL), TN_ERROR_UNSUPPORTED, changes[i][2]);
    }
    char *wrong_rank = with_replaced(tn_buf_text(&good), "\"r\": 2", "\"r\": 3");
    write_text(temporary("bad/adapter_config.json"), wrong_rank);
    free(wrong_rank);
    assert_fails(tn_resize_adapter(temporary("bad"), 1, 0, temporary("no"), NULL), TN_ERROR_MISMATCH,
                 "has rank 2, but adapter_config.json says 3");
    assert_false(tn_path_exists(temporary("no")));
    tn_buf_free(&good);
}

static void wrong_arguments_are_explained(void **state) {
    (void)state;
    static const double weights[] = {1, NAN};
    static const char *const pair[] = {"good", "good"};
    make_base(SMALL_LLAMA);
    make_adapter("good", lora("q_proj", 2), 1);
    tn_compose_options o = mode("ties", 0);
    assert_fails(compose(pair, weights, 1, &o, "no", NULL), TN_ERROR_ARGUMENT, "mode ties needs a density");
    o = mode("cat", 3);
    assert_fails(compose(pair, weights, 1, &o, "no", NULL), TN_ERROR_ARGUMENT, "mode cat has no use for a rank");
    o = mode("linear", 0);
    o.density = 0.5;
    assert_fails(compose(pair, weights, 1, &o, "no", NULL), TN_ERROR_ARGUMENT, "mode linear has no use for a density");
    o = mode("svd", 0);
    o.majority_sign = "frequency";
    assert_fails(compose(pair, weights, 1, &o, "no", NULL), TN_ERROR_ARGUMENT, "no use for a majority sign");
    o = mode("cat", 0);
    assert_fails(compose(pair, weights, 2, &o, "no", NULL), TN_ERROR_ARGUMENT, "is not a finite number");
    assert_fails(compose(pair, weights, 0, &o, "no", NULL), TN_ERROR_ARGUMENT, "0 adapters cannot be composed");
    assert_fails(compose(pair, weights, 1, &o, "good", NULL), TN_ERROR_ARGUMENT, "is read from and cannot be written to");
    assert_fails(tn_resize_adapter(temporary("good"), 0, 0, temporary("no"), NULL), TN_ERROR_ARGUMENT, "needs a rank");
    assert_fails(tn_resize_adapter(temporary("nowhere"), 1, 0, temporary("no"), NULL), TN_ERROR_IO, "is not a folder");
}

/* --- resizing --- */

static void resizing_to_the_same_rank_keeps_the_update(void **state) {
    (void)state;
    static const double one[] = {1};
    make_three();
    for (size_t i = 0; i < 3; i++) {
        tn_low_rank_report report;
        assert_ok(tn_resize_adapter(temporary("%s", three[i]), 7, 0, temporary("same"), &report));
        assert_true(report.error < 1e-6);
        assert_true(distance("same", &three[i], one, 1) < 2e-6);
        tn_low_rank_report_free(&report);
    }
}

static void resizing_by_energy_takes_the_lowest_rank_that_keeps_it(void **state) {
    (void)state;
    static const double one[] = {1};
    tn_low_rank_report report, less;
    make_three();
    assert_ok(tn_resize_adapter(temporary("b"), 0, 0.8, temporary("small"), &report));
    assert_true(fabs(distance("small", &three[1], one, 1) - report.error) < 1e-5);
    assert_true(tn_low_rank_energy(report.error) >= 0.8);
    assert_true(report.highest_rank > report.lowest_rank);
    for (int64_t i = 0; i < report.layer_count; i++) {
        const tn_low_rank_layer *l = &report.layers[i];
        assert_true(tn_low_rank_energy(l->error) >= 0.8 - 1e-6);
        if (l->rank == 1)
            continue;
        assert_ok(tn_resize_adapter(temporary("b"), l->rank - 1, 0, temporary("less"), &less));
        assert_string_equal(less.layers[i].module, l->module);
        assert_true(tn_low_rank_energy(less.layers[i].error) < 0.8);
        tn_low_rank_report_free(&less);
    }
    tn_low_rank_report_free(&report);
}

/* --- convolutions, which the decoder has none of --- */

static void write_conv(const char *name, int64_t rank, int64_t groups, uint64_t seed) {
    const int64_t a[4] = {rank, 3, 2, 2}, b[4] = {8, rank / groups, 1, 1};
    float values[512];
    char config[256];
    tn_safetensors_writer *writer;
    assert_ok(tn_dir_create(temporary("%s", name)));
    snprintf(config, sizeof config,
             "{\"peft_type\": \"LORA\", \"r\": %d, \"lora_alpha\": 6, \"target_modules\": [\"conv\"]}", (int)rank);
    write_text(temporary("%s/adapter_config.json", name), config);
    assert_ok(tn_safetensors_writer_new(&writer, temporary("%s/adapter_model.safetensors", name)));
    assert_ok(tn_safetensors_writer_declare(writer, "base_model.model.conv.lora_A.weight", TN_DTYPE_F32, 4, a));
    assert_ok(tn_safetensors_writer_declare(writer, "base_model.model.conv.lora_B.weight", TN_DTYPE_F32, 4, b));
    assert_ok(tn_safetensors_writer_begin(writer));
    int64_t count = rank * 12 + 8 * rank / groups;
    tn_fill_normal(values, (size_t)count, seed, tn_stream(TN_STREAM_DATA, 0), 0, 1);
    assert_ok(tn_safetensors_writer_data(writer, values, count * 4));
    assert_ok(tn_safetensors_writer_finish(writer));
}

static void convolutions_are_composed_in_their_own_shape(void **state) {
    (void)state;
    static const char *const pair[] = {"conv2", "conv4"};
    static const double weights[] = {0.3, 2};
    tn_compose_options svd = mode("svd", 6);
    tn_low_rank_report report;
    tn_factor_folder folder;
    write_conv("conv2", 2, 1, 1);
    write_conv("conv4", 4, 1, 2);
    assert_ok(compose(pair, weights, 2, &svd, "conv", &report));
    assert_true(report.error < 1e-6);
    tn_low_rank_report_free(&report);
    assert_ok(tn_factor_folder_open(temporary("conv"), &folder));
    assert_int_equal(folder.count, 1);
    assert_int_equal(folder.modules[0].kind, TN_FACTOR_CONV2D);
    assert_int_equal(folder.modules[0].a->shape[0], 6);
    assert_int_equal(folder.modules[0].a->shape[1], 3);
    assert_int_equal(folder.modules[0].a->shape[3], 2);
    assert_int_equal(folder.modules[0].b->ndim, 4);
    tn_factor_folder_close(&folder);
    write_conv("grouped", 4, 2, 3);
    assert_fails(tn_resize_adapter(temporary("grouped"), 1, 0, temporary("no"), NULL), TN_ERROR_UNSUPPORTED,
                 "grouped convolution");
}

/* --- extracting --- */

static tn_extract_options by_energy(double energy) {
    tn_extract_options options;
    tn_extract_options_default(&options);
    options.energy = energy;
    return options;
}

static tn_status extract(const tn_extract_options *options, const char *out, tn_low_rank_report *report) {
    return tn_extract_adapter(temporary("base"), temporary("tuned"), options, temporary("%s", out), report);
}

static void merge_into_tuned(const char *adapter) {
    tn_model *model = load_with(adapter);
    assert_ok(tn_model_merge(model, temporary("tuned"), "f32", NULL));
    tn_model_free(model);
}

static void extracting_recovers_what_was_merged(void **state) {
    (void)state;
    static const char *const names[] = {"b"};
    static const double one[] = {1};
    tn_low_rank_report report;
    tn_extract_options options = by_energy(0.999999);
    make_three();
    merge_into_tuned("b");
    assert_ok(extract(&options, "found", &report));
    assert_int_equal(report.layer_count, 14);
    assert_int_equal(report.rest_count, 0);
    assert_int_equal(report.lowest_rank, 1);
    assert_int_equal(report.highest_rank, 7);
    assert_true(distance("found", names, one, 1) < 1e-5);
    tn_low_rank_report_free(&report);
    tn_peft_config c = config_of("found");
    assert_int_equal(c.target_modules.count, 7); /* every layer's, so by their last names */
    tn_peft_config_free(&c);
    options.target_modules = "q_proj,layers.1.self_attn.v_proj";
    options.rank = 2;
    assert_ok(extract(&options, "some", &report));
    assert_int_equal(report.layer_count, 3);
    assert_int_equal(report.highest_rank, 2);
    assert_int_equal(report.rest_count, 11);
    assert_true(!report.rest[0].kept && report.rest[0].norm > 0);
    tn_low_rank_report_free(&report);
    c = config_of("some");
    assert_int_equal(c.target_modules.count, 2);
    tn_peft_config_free(&c);
}

static double tuned_difference(const char *adapter) {
    tn_model *tuned, *model = load_with(adapter);
    int64_t count;
    assert_ok(tn_model_load(temporary("tuned"), &tuned));
    float *want = probe(tuned, &count);
    double difference = probe_difference(model, want);
    tn_free(want);
    tn_model_free(tuned);
    tn_model_free(model);
    return difference;
}

static void base_with_everything_kept_is_the_tuned_model(void **state) {
    (void)state;
    char *biased = with_replaced(SMALL_LLAMA, "\"attention_bias\": false", "\"attention_bias\": true");
    tn_low_rank_report report;
    tn_extract_options options = by_energy(0.9999999);
    make_base(biased);
    free(biased);
    tn_adapter_options adapter = lora("q_proj,up_proj,embed_tokens", 3);
    adapter.modules_to_save = "norm"; /* all five, since PEFT compares the ends of names */
    adapter.bias = "all";
    make_adapter("a", adapter, 4);
    merge_into_tuned("a");
    assert_ok(extract(&options, "without", &report));
    assert_int_equal(report.rest_count, 1 + 5 + 8); /* embedding, norms, biases */
    tn_low_rank_report_free(&report);
    assert_true(tuned_difference("without") > 1e-2);
    options.keep_rest = true;
    assert_ok(extract(&options, "with", &report));
    assert_true(report.rest[0].kept);
    tn_low_rank_report_free(&report);
    assert_true(tuned_difference("with") < 1e-4);
    options.embeddings = true;
    assert_ok(extract(&options, "embeddings", &report));
    assert_int_equal(report.rest_count, 5 + 8);
    tn_low_rank_report_free(&report);
    assert_true(tuned_difference("embeddings") < 1e-4);
}

static void tied_embeddings_are_kept_whole_or_refused(void **state) {
    (void)state;
    char *tied = with_replaced(SMALL_LLAMA, "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    tn_extract_options options = by_energy(0.9999999);
    make_base(tied);
    free(tied);
    tn_adapter_options adapter = lora("q_proj", 3);
    adapter.modules_to_save = "embed_tokens";
    adapter.ensure_weight_tying = true;
    make_adapter("a", adapter, 4);
    merge_into_tuned("a");
    options.keep_rest = true;
    assert_ok(extract(&options, "with", NULL));
    assert_true(tuned_difference("with") < 1e-4);
    options.embeddings = true;
    assert_fails(extract(&options, "no", NULL), TN_ERROR_UNSUPPORTED, "is also the output head's weight");
}

static void checkpoints_that_do_not_go_together_are_refused(void **state) {
    (void)state;
    tn_extract_options options = by_energy(0.9), whole = by_energy(0.9);
    char *biased = with_replaced(SMALL_LLAMA, "\"attention_bias\": false", "\"attention_bias\": true");
    char *wider = with_replaced(SMALL_LLAMA, "\"vocab_size\": 37", "\"vocab_size\": 38");
    make_base(SMALL_LLAMA);
    tn_model_free(create_stored_model(SMALL_LLAMA, 7, "tuned", "bf16"));
    assert_fails(extract(&options, "no", NULL), TN_ERROR_MISMATCH, "the two checkpoints hold the same values");
    tn_model_free(create_stored_model(biased, 7, "tuned", "f32"));
    assert_fails(extract(&options, "no", NULL), TN_ERROR_MISMATCH, "is in the tuned checkpoint and not in the base one");
    tn_model_free(create_stored_model(wider, 7, "tuned", "f32"));
    assert_fails(extract(&options, "no", NULL), TN_ERROR_MISMATCH, "has shape [37, 24] in the base and [38, 24]");
    make_adapter("a", lora("embed_tokens", 2), 1);
    merge_into_tuned("a");
    whole.target_modules = "q_proj";
    assert_fails(extract(&whole, "no", NULL), TN_ERROR_MISMATCH, "no weight that a LoRA is made for differs");
    options.energy = 0;
    assert_fails(extract(&options, "no", NULL), TN_ERROR_ARGUMENT, "extracting needs a rank");
    assert_false(tn_path_exists(temporary("no")));
    free(biased);
    free(wider);
}

/* Conv1D weights lie transposed, as config.json's model_type says. */
static void write_gpt2(const char *name, const float *weight) {
    static const int64_t shape[2] = {6, 18};
    tn_safetensors_writer *writer;
    assert_ok(tn_dir_create(temporary("%s", name)));
    write_text(temporary("%s/config.json", name), "{\"model_type\": \"gpt2\"}");
    assert_ok(tn_safetensors_writer_new(&writer, temporary("%s/model.safetensors", name)));
    assert_ok(tn_safetensors_writer_declare(writer, "h.0.attn.c_attn.weight", TN_DTYPE_F32, 2, shape));
    assert_ok(tn_safetensors_writer_begin(writer));
    assert_ok(tn_safetensors_writer_data(writer, weight, 6 * 18 * 4));
    assert_ok(tn_safetensors_writer_finish(writer));
}

static void conv1d_weights_are_transposed(void **state) {
    (void)state;
    float base[6 * 18], tuned[6 * 18];
    tn_extract_options options = by_energy(1);
    tn_factor_folder folder;
    tn_factors f;
    tn_arena arena = {0};
    tn_fill_normal(base, 6 * 18, 1, tn_stream(TN_STREAM_DATA, 0), 0, 1);
    tn_fill_normal(tuned, 6 * 18, 2, tn_stream(TN_STREAM_DATA, 0), 0, 1);
    assert_ok(tn_path_remove_tree(temporary("base")));
    assert_ok(tn_path_remove_tree(temporary("tuned")));
    write_gpt2("base", base);
    write_gpt2("tuned", tuned);
    assert_ok(extract(&options, "conv1d", NULL));
    assert_ok(tn_factor_folder_open(temporary("conv1d"), &folder));
    assert_ok(tn_factor_module_read(&folder.modules[0], &arena, &f));
    assert_int_equal(f.in, 6);
    assert_int_equal(f.out, 18);
    for (int64_t i = 0; i < 18; i++)
        for (int64_t j = 0; j < 6; j++) {
            double sum = 0;
            for (int64_t r = 0; r < f.rank; r++)
                sum += (double)f.b[i * f.rank + r] * f.a[r * 6 + j];
            assert_true(fabs(sum - ((double)tuned[j * 18 + i] - base[j * 18 + i])) < 1e-5);
        }
    tn_factor_folder_close(&folder);
    tn_arena_free(&arena);
}

static tn_status run_all(int which, tn_low_rank_report *report) {
    tn_compose_options svd = mode("svd", 0);
    tn_extract_options options = by_energy(0.9);
    options.keep_rest = true;
    switch (which) {
    case 0: return compose(three, three_weights, 3, &svd, "one", report);
    case 1: return tn_resize_adapter(temporary("b"), 2, 0, temporary("two"), report);
    default: return extract(&options, "three", report);
    }
}

static void running_out_of_memory_is_an_error_without_a_leak(void **state) {
    (void)state;
    make_three();
    merge_into_tuned("c");
    for (int which = 0; which < 3; which++) {
        tn_status status = TN_ERROR_MEMORY;
        size_t before = tn_memory_used();
        int64_t fails = 0;
        for (int64_t at = 0; status != TN_OK; at += 1 + at / 16) {
            tn_low_rank_report report = {0};
            tn_memory_fail_after(at);
            status = run_all(which, &report);
            tn_memory_fail_after(-1);
            if (status != TN_OK && status != TN_ERROR_MEMORY)
                fail_msg("allocation %d of run %d: %s", (int)at, which, tn_error_message());
            fails += status != TN_OK;
            tn_low_rank_report_free(&report);
            assert_int_equal(tn_memory_used(), before);
        }
        assert_true(fails > 20);
    }
}

static void the_same_run_writes_the_same_bytes(void **state) {
    (void)state;
    tn_compose_options options = mode("dare_ties_svd", 3);
    tn_buf first = {0}, second = {0};
    options.density = 0.5;
    options.seed = 9;
    make_three();
    assert_ok(compose(three, three_weights, 3, &options, "one", NULL));
    assert_ok(compose(three, three_weights, 3, &options, "two", NULL));
    assert_ok(tn_file_read(temporary("one/adapter_model.safetensors"), 1 << 20, &first));
    assert_ok(tn_file_read(temporary("two/adapter_model.safetensors"), 1 << 20, &second));
    assert_int_equal(first.length, second.length);
    assert_memory_equal(first.data, second.data, first.length);
    tn_buf_free(&first);
    tn_buf_free(&second);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(composed_adapter_acts_as_the_weighted_sum),
        cmocka_unit_test(adapters_can_be_checked_on_their_model),
        cmocka_unit_test(result_is_a_plain_lora_with_scaling_one),
        cmocka_unit_test(composing_one_adapter_is_the_identity),
        cmocka_unit_test(updates_that_cancel_leave_no_error),
        cmocka_unit_test(equal_whole_tensors_are_kept_and_others_refused),
        cmocka_unit_test(updates_that_are_no_product_are_refused_by_name),
        cmocka_unit_test(wrong_arguments_are_explained),
        cmocka_unit_test(resizing_to_the_same_rank_keeps_the_update),
        cmocka_unit_test(resizing_by_energy_takes_the_lowest_rank_that_keeps_it),
        cmocka_unit_test(convolutions_are_composed_in_their_own_shape),
        cmocka_unit_test(extracting_recovers_what_was_merged),
        cmocka_unit_test(base_with_everything_kept_is_the_tuned_model),
        cmocka_unit_test(tied_embeddings_are_kept_whole_or_refused),
        cmocka_unit_test(checkpoints_that_do_not_go_together_are_refused),
        cmocka_unit_test(conv1d_weights_are_transposed),
        cmocka_unit_test(running_out_of_memory_is_an_error_without_a_leak),
        cmocka_unit_test(the_same_run_writes_the_same_bytes),
    };
    return cmocka_run_group_tests_name("compose_adapters", tests, NULL, remove_temporary);
}
