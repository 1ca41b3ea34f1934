/* GPT-2: logits against the formula in plain loops, the two spellings of its checkpoints, and where positions end. */
#include "support/support.h"

#include <tenon/generate.h>

enum { T = 11, MOST_C = 40, MOST_F = 100, MOST_V = 64 };

/* --- the formula --- */

typedef struct {
    const tn_model *model;
    double eps;
    int64_t channels, inner, heads, vocab;
} reference;

static const float *values_of(const reference *r, const char *part, const char *format, int layer) {
    char name[128];
    snprintf(name, sizeof name, format, layer);
    const tn_module *m = tn_network_module(r->model->network, name);
    assert_non_null(m);
    return strcmp(part, "bias") == 0 ? m->bias.tensor.data : tn_module_weight(m)->tensor.data;
}

static void normalise(const reference *r, double *y, const double *x, const char *name, int layer) {
    const float *weight = values_of(r, "weight", name, layer), *bias = values_of(r, "bias", name, layer);
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < r->channels; i++)
        mean += x[i] / (double)r->channels;
    for (int64_t i = 0; i < r->channels; i++)
        variance += (x[i] - mean) * (x[i] - mean) / (double)r->channels;
    for (int64_t i = 0; i < r->channels; i++)
        y[i] = (x[i] - mean) / sqrt(variance + r->eps) * weight[i] + bias[i];
}

/* y = x W + b with W stored [in, out]. */
static void project(const reference *r, double *y, const double *x, const char *name, int layer, int64_t in, int64_t out) {
    const float *weight = values_of(r, "weight", name, layer), *bias = values_of(r, "bias", name, layer);
    for (int64_t o = 0; o < out; o++) {
        y[o] = bias[o];
        for (int64_t i = 0; i < in; i++)
            y[o] += x[i] * weight[i * out + o];
    }
}

typedef double (*activation)(double);

static double gelu(double x) {
    return x / 2 * (1 + erf(x / sqrt(2)));
}
static double gelu_tanh(double x) {
    return x / 2 * (1 + tanh(sqrt(2 / 3.14159265358979) * (x + 0.044715 * x * x * x)));
}
static double relu(double x) {
    return x > 0 ? x : 0;
}
static double silu(double x) {
    return x / (1 + exp(-x));
}

/* x[t] += attention: one head at a time, query t over keys 0 .. t. */
static void attend(const reference *r, double x[T][MOST_C], int layer, double scale) {
    double qkv[T][3 * MOST_C], mixed[MOST_C], added[MOST_C], h[MOST_C];
    int64_t c = r->channels, d = c / r->heads;
    for (int t = 0; t < T; t++) {
        normalise(r, h, x[t], "transformer.h.%d.ln_1", layer);
        project(r, qkv[t], h, "transformer.h.%d.attn.c_attn", layer, c, 3 * c);
    }
    for (int t = 0; t < T; t++) {
        for (int64_t head = 0; head < r->heads; head++) {
            double score[T], sum = 0;
            for (int s = 0; s <= t; s++) {
                score[s] = 0;
                for (int64_t i = head * d; i < (head + 1) * d; i++)
                    score[s] += qkv[t][i] * qkv[s][c + i] * scale;
                sum += score[s] = exp(score[s]);
            }
            for (int64_t i = head * d; i < (head + 1) * d; i++) {
                mixed[i] = 0;
                for (int s = 0; s <= t; s++)
                    mixed[i] += score[s] / sum * qkv[s][2 * c + i];
            }
        }
        project(r, added, mixed, "transformer.h.%d.attn.c_proj", layer, c, c);
        for (int64_t i = 0; i < c; i++)
            x[t][i] += added[i];
    }
}

static void reference_logits(const reference *r, const int32_t *ids, activation f, const double scales[2],
                             double out[T][MOST_V]) {
    static double x[T][MOST_C], h[MOST_C], inner[MOST_F], added[MOST_C];
    const float *words = values_of(r, "weight", "transformer.wte", 0),
                *places = values_of(r, "weight", "transformer.wpe", 0), *head = values_of(r, "weight", "lm_head", 0);
    int64_t c = r->channels;
    for (int t = 0; t < T; t++)
        for (int64_t i = 0; i < c; i++)
            x[t][i] = (double)words[ids[t] * c + i] + places[t * c + i];
    for (int layer = 0; layer < 2; layer++) {
        attend(r, x, layer, scales[layer]);
        for (int t = 0; t < T; t++) {
            normalise(r, h, x[t], "transformer.h.%d.ln_2", layer);
            project(r, inner, h, "transformer.h.%d.mlp.c_fc", layer, c, r->inner);
            for (int64_t i = 0; i < r->inner; i++)
                inner[i] = f(inner[i]);
            project(r, added, inner, "transformer.h.%d.mlp.c_proj", layer, r->inner, c);
            for (int64_t i = 0; i < c; i++)
                x[t][i] += added[i];
        }
    }
    for (int t = 0; t < T; t++) {
        normalise(r, h, x[t], "transformer.ln_f", 0);
        for (int64_t v = 0; v < r->vocab; v++) {
            out[t][v] = 0;
            for (int64_t i = 0; i < c; i++)
                out[t][v] += h[i] * head[v * c + i];
        }
    }
}

static tn_status copy_rows(void *cookie, int64_t first, int64_t rows, const float *logits) {
    float(*out)[MOST_V] = cookie;
    for (int64_t t = 0; t < rows; t++)
        memcpy(out[first + t], logits + t * 37, 37 * sizeof *logits);
    return TN_OK;
}

static void model_logits(tn_model *model, const int32_t *ids, float out[T][MOST_V]) {
    int32_t positions[T];
    tn_span span = {0, T, 0, T};
    tn_tokens tokens = {.ids = ids, .positions = positions, .count = T, .spans = &span, .span_count = 1};
    tn_tape tape;
    for (int t = 0; t < T; t++)
        positions[t] = t;
    assert_ok(tn_decoder_prepare(model->decoder, T));
    assert_ok(tn_tape_init(&tape, model->kernels, 4 << 20));
    assert_ok(tn_pass_logits(model, &tape, &tokens, NULL, T, copy_rows, out));
    tn_tape_free(&tape);
}

/* Sums of some dozens of products of numbers around 1 in f32, through two layers: about 1e-5 on logits around 5. */
static void logits_are_those_of_the_formula(void **state) {
    static const struct {
        const char *options; /* beside vocab_size, n_layer and initializer_range */
        int64_t channels, inner, heads;
        activation f;
        double eps, scales[2];
    } cases[] = {
        {"\"n_embd\": 24, \"n_head\": 4", 24, 96, 4, gelu_tanh, 1e-5, {0.40824829, 0.40824829}},
        {"\"n_embd\": 24, \"n_head\": 4, \"n_inner\": 50, \"activation_function\": \"gelu\"",
         24,
         50,
         4,
         gelu,
         1e-5,
         {0.40824829, 0.40824829}},
        {"\"n_embd\": 15, \"n_head\": 3, \"activation_function\": \"relu\", \"layer_norm_epsilon\": 0.25",
         15,
         60,
         3,
         relu,
         0.25,
         {0.44721360, 0.44721360}},
        {"\"n_embd\": 20, \"n_head\": 1, \"activation_function\": \"silu\", \"scale_attn_weights\": false",
         20,
         80,
         1,
         silu,
         1e-5,
         {1, 1}},
        {"\"n_embd\": 16, \"n_head\": 16, \"activation_function\": \"tanh\", \"scale_attn_by_inverse_layer_idx\": true",
         16,
         64,
         16,
         tanh,
         1e-5,
         {1, 0.5}},
        {"\"n_embd\": 24, \"n_head\": 4, \"tie_word_embeddings\": false, \"scale_attn_by_inverse_layer_idx\": true",
         24,
         96,
         4,
         gelu_tanh,
         1e-5,
         {0.40824829, 0.20412415}},
    };
    static double want[T][MOST_V];
    static float got[T][MOST_V];
    int32_t ids[T];
    (void)state;
    for (int t = 0; t < T; t++)
        ids[t] = (t * t * 5 + t * 11 + 3) % 37;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char config[400];
        snprintf(config, sizeof config,
                 "{\"model_type\": \"gpt2\", \"vocab_size\": 37, \"n_layer\": 2, \"n_positions\": 16, "
                 "\"initializer_range\": 0.3, %s}",
                 cases[i].options);
        tn_model *model = create_model(config, 40 + i);
        const reference r = {model, cases[i].eps, cases[i].channels, cases[i].inner, cases[i].heads, 37};
        reference_logits(&r, ids, cases[i].f, cases[i].scales, want);
        model_logits(model, ids, got);
        for (int t = 0; t < T; t++)
            for (int v = 0; v < 37; v++)
                if (!(fabs(want[t][v] - (double)got[t][v]) < 1e-4))
                    fail_msg("%s: logit %d at %d is %g, not %g", cases[i].options, v, t, (double)got[t][v], want[t][v]);
        tn_model_free(model);
    }
}

/* --- checkpoints --- */

/* The tensors of `from` as the hub has GPT-2's: without "transformer.", with the masks that old classes kept; one left out.
 */
static void write_bare(const char *to, const char *from, const char *left_out) {
    static const float mask[4] = {1, 0, 1, 1};
    tn_safetensors file;
    tn_safetensors_writer *writer;
    assert_ok(tn_dir_create(temporary("%s", to)));
    write_text(temporary("%s/config.json", to), SMALL_GPT2);
    assert_ok(tn_safetensors_open(temporary("%s/model.safetensors", from), &file));
    assert_ok(tn_safetensors_writer_new(&writer, temporary("%s/model.safetensors", to)));
    for (int writing = 0; writing < 2; writing++) {
        for (size_t i = 0; i < file.count; i++) {
            const tn_tensor *t = &file.entries[i].tensor;
            const char *name = file.entries[i].name + strlen("transformer.");
            if (left_out && strcmp(name, left_out) == 0)
                continue;
            assert_ok(writing ? tn_safetensors_writer_data(writer, t->data, tn_tensor_bytes(t))
                              : tn_safetensors_writer_declare(writer, name, t->dtype, t->ndim, t->shape));
        }
        if (writing) {
            assert_ok(tn_safetensors_writer_data(writer, mask, sizeof mask));
            assert_ok(tn_safetensors_writer_data(writer, mask, sizeof *mask));
        } else {
            assert_ok(tn_safetensors_writer_declare(writer, "h.0.attn.bias", TN_DTYPE_F32, 4, (int64_t[]){1, 1, 2, 2}));
            assert_ok(tn_safetensors_writer_declare(writer, "h.0.attn.masked_bias", TN_DTYPE_F32, 0, (int64_t[]){0}));
            assert_ok(tn_safetensors_writer_begin(writer));
        }
    }
    assert_ok(tn_safetensors_writer_finish(writer));
    tn_safetensors_close(&file);
}

static tn_model *load_model(const char *name) {
    tn_model *model;
    assert_ok(tn_model_load(temporary("%s", name), &model));
    return model;
}

static void both_spellings_are_one_model(void **state) {
    int64_t count;
    tn_model_info info;
    (void)state;
    tn_model *full = create_stored_model(SMALL_GPT2, 1, "full", "f32");
    write_bare("bare", "full", NULL);
    tn_model *bare = load_model("bare");
    float *logits = probe(full, &count);
    assert_true(probe_difference(bare, logits) == 0);
    tn_model_describe(bare, &info);
    assert_int_equal(info.unused_tensors, 0);
    assert_string_equal(info.family, "gpt2");
    assert_int_equal(info.parameters, 37 * 24 + 64 * 24 + 2 * (25 * 72 + 25 * 24 + 25 * 40 + 41 * 24 + 4 * 24) + 2 * 24);
    tn_free(logits);
    tn_model_free(bare);
    tn_model_free(full);
}

static void missing_tensors_are_named_as_the_checkpoint_spells_them(void **state) {
    tn_model *model;
    (void)state;
    tn_model_free(create_stored_model(SMALL_GPT2, 1, "full", "f32"));
    write_bare("bare", "full", "h.1.mlp.c_fc.bias");
    assert_fails(tn_model_load(temporary("bare"), &model), TN_ERROR_MISMATCH, "no tensor 'h.1.mlp.c_fc.bias'");
    write_bare("bare", "full", "wte.weight");
    assert_fails(tn_model_load(temporary("bare"), &model), TN_ERROR_MISMATCH, "no tensor 'transformer.wte.weight'");
}

static tn_model *load_with_adapter(const char *base, const char *targets) {
    tn_model *model = load_model(base);
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.rank = 3;
    options.target_modules = targets;
    assert_ok(tn_model_add_adapter(model, &options, 5));
    randomise_adapter(model->adapter, 6, 0.3f);
    return model;
}

/* A merged checkpoint keeps the base's spelling, and takes the full one when it gets a head of its own. */
static void merging_keeps_the_spelling(void **state) {
    static const struct {
        const char *targets, *holds, *holds_not;
    } cases[] = {{"c_attn,c_fc,wpe", "h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.weight"},
                 {"c_attn,lm_head", "transformer.h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"}};
    (void)state;
    tn_model_free(create_stored_model(SMALL_GPT2, 1, "full", "f32"));
    write_bare("bare", "full", NULL);
    for (int i = 0; i < 2; i++) {
        tn_merge_report report;
        int64_t count;
        tn_model *model = load_with_adapter("bare", cases[i].targets);
        float *logits = probe(model, &count);
        assert_ok(tn_model_merge(model, temporary("merged"), "keep", &report));
        assert_true(report.logit_difference < 1e-4);
        tn_model *merged = load_model("merged");
        const tn_checkpoint *checkpoint = &merged->network->checkpoint;
        assert_true(probe_difference(merged, logits) < 1e-4);
        assert_int_equal(merged->network->unused_tensors, 0);
        assert_non_null(tn_checkpoint_find(checkpoint, cases[i].holds));
        assert_null(tn_checkpoint_find(checkpoint, cases[i].holds_not));
        assert_true((tn_checkpoint_find(checkpoint, "lm_head.weight") != NULL) == (i == 1));
        assert_non_null(tn_checkpoint_find(checkpoint, i ? "transformer.h.0.attn.bias" : "h.0.attn.bias"));
        tn_free(logits);
        tn_model_free(merged);
        tn_model_free(model);
    }
}

/* Keys are those of a model with the full names, and readers are told how the layers are stored. */
static void adapters_are_spelt_in_full(void **state) {
    static const struct {
        const char *targets;
        bool transposed;
    } cases[] = {{NULL, true}, {"wte", false}};
    (void)state;
    tn_model_free(create_stored_model(SMALL_GPT2, 1, "full", "f32"));
    write_bare("bare", "full", NULL);
    for (int i = 0; i < 2; i++) {
        tn_safetensors file;
        cJSON *json;
        int64_t count;
        tn_model *model = load_with_adapter("bare", cases[i].targets);
        float *logits = probe(model, &count);
        assert_ok(tn_model_save_adapter(model, temporary("adapter")));
        assert_ok(tn_json_read(temporary("adapter/adapter_config.json"), 1 << 16, &json));
        assert_true(cJSON_IsTrue(tn_json_get(json, "fan_in_fan_out")) == cases[i].transposed);
        if (!cases[i].targets)
            assert_string_equal(cJSON_GetArrayItem(tn_json_get(json, "target_modules"), 0)->valuestring, "c_attn");
        cJSON_Delete(json);
        assert_ok(tn_safetensors_open(temporary("adapter/adapter_model.safetensors"), &file));
        const char *key = i ? "base_model.model.transformer.wte.lora_embedding_A"
                            : "base_model.model.transformer.h.1.attn.c_attn.lora_B.weight";
        assert_non_null(tn_safetensors_find(&file, key));
        if (!i)
            assert_int_equal(tn_safetensors_find(&file, key)->tensor.shape[0], 72);
        tn_safetensors_close(&file);
        tn_model_free(model);
        model = load_model("full");
        assert_ok(tn_model_load_adapter(model, temporary("adapter"), false, false));
        assert_true(probe_difference(model, logits) == 0);
        tn_free(logits);
        tn_model_free(model);
    }
}

/* --- limits --- */

static void positions_end_where_they_were_learned(void **state) {
    tn_model *model = create_model(SMALL_GPT2, 1);
    int32_t ids[65] = {0};
    tn_generate_options options;
    tn_generate_result result;
    (void)state;
    assert_ok(tn_decoder_prepare(model->decoder, 64));
    assert_fails(tn_decoder_prepare(model->decoder, 65), TN_ERROR_ARGUMENT,
                 "65 positions are more than the 64 that this model learned");
    tn_generate_options_default(&options);
    options.ignore_eos = true;
    options.max_tokens = 100;
    assert_ok(tn_generate(model, ids, 60, &options, NULL, NULL, &result));
    assert_int_equal(result.count, 4);
    assert_int_equal(result.reason, TN_STOP_CONTEXT);
    tn_generate_result_free(&result);
    assert_int_equal(tn_generate(model, ids, 65, &options, NULL, NULL, &result), TN_ERROR_ARGUMENT);
    tn_model_free(model);
}

/* The probe is longer than such a model, and merging compares by it all the same. */
static void a_model_of_few_positions_can_be_merged(void **state) {
    char *config = with_replaced(SMALL_GPT2, "\"n_positions\": 64", "\"n_positions\": 5");
    tn_merge_report report;
    (void)state;
    tn_model_free(create_stored_model(config, 1, "short", "f32"));
    tn_model *model = load_with_adapter("short", "all-linear");
    assert_ok(tn_model_merge(model, temporary("short-merged"), "keep", &report));
    assert_true(report.modules == 8 && report.logit_difference < 1e-4);
    tn_model_free(model);
    free(config);
}

static void layers_cannot_be_stacked(void **state) {
    tn_model *model = create_model(SMALL_GPT2, 1);
    (void)state;
    assert_ok(tn_dir_create(temporary("stacked")));
    write_text(
        temporary("stacked/adapter_config.json"),
        "{\"peft_type\": \"LORA\", \"r\": 2, \"target_modules\": [\"c_attn\"], \"layer_replication\": [[0, 2], [1, 2]]}");
    tn_model *other = load_with_adapter("full", NULL);
    assert_ok(tn_model_save_adapter(other, temporary("plain")));
    tn_model_free(other);
    tn_buf bytes = {0};
    assert_ok(tn_file_read(temporary("plain/adapter_model.safetensors"), 1 << 20, &bytes));
    assert_ok(tn_file_write(temporary("stacked/adapter_model.safetensors"), bytes.data, bytes.length));
    tn_buf_free(&bytes);
    assert_fails(tn_model_load_adapter(model, temporary("stacked"), false, false), TN_ERROR_UNSUPPORTED,
                 "the layers of a gpt2 model cannot be stacked");
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_the_formula),
        cmocka_unit_test(both_spellings_are_one_model),
        cmocka_unit_test(missing_tensors_are_named_as_the_checkpoint_spells_them),
        cmocka_unit_test(merging_keeps_the_spelling),
        cmocka_unit_test(adapters_are_spelt_in_full),
        cmocka_unit_test(positions_end_where_they_were_learned),
        cmocka_unit_test(a_model_of_few_positions_can_be_merged),
        cmocka_unit_test(layers_cannot_be_stacked),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
