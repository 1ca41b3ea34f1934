/* Models and adapters by chance, from fixed seeds: every kind of layer with random sizes, every method and preset that the
 * registry holds with random ranks and settings. */
#ifndef TENON_TESTS_PROPERTIES_H
#define TENON_TESTS_PROPERTIES_H

#include <tenon/quantize.h>

#include "support/support.h"

/* A kind of layer, and a model of which the targets are such layers. `scale` multiplies the sizes. The targets may be
 * quantised, in forms by chance. */
typedef struct {
    const char *name, *targets;
    void (*write)(tn_rng *rng, int scale, tn_buf *config);
    bool quantised;
} layer_type;

/* As the command line names it: a method, or a preset of one. */
typedef struct {
    const char *name;
    const tn_peft_method *method;
} method_name;

typedef struct {
    tn_model *model;
    const layer_type *layer;
    const method_name *method;
    tn_adapter_options options;
    tn_method_setting settings[2];
    bool grouped;
    char what[200]; /* for messages */
} trial;

enum { MOST_METHODS = 64 };

static inline int list_methods(method_name out[MOST_METHODS]) {
    int count = 0;
    for (const tn_peft_method *const *m = tn_peft_methods; *m; m++, count++)
        out[count] = (method_name){(*m)->name, *m};
    for (const tn_peft_preset *p = tn_peft_presets; p->name; p++, count++)
        out[count] = (method_name){p->name, p->method};
    assert_in_range(count, 7, MOST_METHODS);
    return count;
}

/* Uniform in low..high. */
static inline int draw(tn_rng *rng, int low, int high) {
    return low + (int)tn_rng_below(rng, (uint32_t)(high - low + 1));
}

static inline void write_decoder(tn_rng *rng, int scale, const char *family, bool tied, tn_buf *out) {
    int kv = draw(rng, 1, 2), heads = kv * draw(rng, 1, 2), size = 2 * draw(rng, 2, 4) * scale;
    tn_buf_printf(out,
                  "{\"model_type\": \"%s\", \"vocab_size\": %d, \"hidden_size\": %d, \"intermediate_size\": %d, "
                  "\"num_hidden_layers\": 2, \"num_attention_heads\": %d, \"num_key_value_heads\": %d, "
                  "\"max_position_embeddings\": 64, \"initializer_range\": 0.2, \"attention_bias\": %s, "
                  "\"tie_word_embeddings\": %s}",
                  family, draw(rng, 20, 60) * scale, heads * size, draw(rng, 9, 50) * scale, heads, kv,
                  draw(rng, 0, 1) && strcmp(family, "llama") == 0 ? "true" : "false", tied ? "true" : "false");
}

static inline void write_llama(tn_rng *rng, int scale, tn_buf *out) {
    write_decoder(rng, scale, "llama", false, out);
}

static inline void write_tied(tn_rng *rng, int scale, tn_buf *out) {
    write_decoder(rng, scale, "qwen2", true, out);
}

static inline void write_gpt2(tn_rng *rng, int scale, tn_buf *out) {
    int heads = draw(rng, 1, 3), size = draw(rng, 3, 8) * scale;
    tn_buf_printf(out,
                  "{\"model_type\": \"gpt2\", \"vocab_size\": %d, \"n_embd\": %d, \"n_inner\": %d, \"n_layer\": 2, "
                  "\"n_head\": %d, \"n_positions\": 64, \"initializer_range\": 0.2}",
                  draw(rng, 20, 60) * scale, heads * size, draw(rng, 9, 50) * scale, heads);
}

/* A convolution by any window, 1 x 1 every fourth time, in up to 3 groups, between another and two linear layers. */
static inline void write_plain(tn_rng *rng, int scale, tn_buf *out) {
    int groups = draw(rng, 1, 3), point = draw(rng, 0, 3) == 0, window[2][4];
    for (int d = 0; d < 2; d++) {
        window[d][0] = point ? 1 : draw(rng, 1, 3);
        window[d][1] = draw(rng, 1, 2);
        window[d][2] = draw(rng, 0, 2);
        window[d][3] = draw(rng, 1, 2);
    }
    tn_buf_printf(out,
                  "{\"model_type\": \"sequential\", \"input_shape\": [%d, %d, %d], \"layers\": [{\"type\": \"conv2d\", "
                  "\"name\": \"first\", \"out_channels\": %d, \"kernel_size\": 1}, {\"type\": \"tanh\"}, {\"type\": "
                  "\"conv2d\", \"name\": \"middle\", \"out_channels\": %d, \"kernel_size\": [%d, %d], \"stride\": [%d, %d], "
                  "\"padding\": [%d, %d], \"dilation\": [%d, %d], \"groups\": %d, \"bias\": %s}, {\"type\": \"silu\"}, "
                  "{\"type\": \"flatten\"}, {\"type\": \"linear\", \"name\": \"fc\", \"out_features\": %d, \"bias\": %s}, "
                  "{\"type\": \"tanh\"}, {\"type\": \"linear\", \"name\": \"head\", \"out_features\": 3}]}",
                  draw(rng, 1, 3), draw(rng, 5, 8) + scale, draw(rng, 5, 8) + scale, groups * draw(rng, 1, 3) * scale,
                  groups * draw(rng, 1, 4) * scale, window[0][0], window[1][0], window[0][1], window[1][1], window[0][2],
                  window[1][2], window[0][3], window[1][3], groups, draw(rng, 0, 1) ? "true" : "false",
                  draw(rng, 4, 9) * scale, draw(rng, 0, 1) ? "true" : "false");
}

static const layer_type layer_types[] = {
    {"linear", "q_proj,k_proj,up_proj,down_proj", write_llama, false},
    {"untied head", "lm_head,v_proj", write_llama, false},
    {"transposed linear", "c_attn,c_fc,mlp.c_proj", write_gpt2, false},
    {"embedding", "embed_tokens", write_llama, false},
    {"embedding of tokens and positions", "wte,wpe", write_gpt2, false},
    {"tied head", "lm_head", write_tied, false},
    {"tied head of transposed layers", "lm_head,c_attn", write_gpt2, false},
    {"embedding with a tied head", "embed_tokens", write_tied, false},
    {"linear of a plain network", "fc,head", write_plain, false},
    {"conv2d", "middle", write_plain, false},
    {"quantised linear", "q_proj,k_proj,up_proj,down_proj", write_llama, true},
    {"quantised transposed linear", "c_attn,c_fc,mlp.c_proj", write_gpt2, true},
    {"quantised embedding", "embed_tokens", write_llama, true},
    {"tied head of a quantised embedding", "lm_head", write_tied, true},
    {"quantised linear of a plain network", "fc,head", write_plain, true},
};
enum { LAYER_TYPES = sizeof layer_types / sizeof *layer_types };

/* What else to try of single methods; the value "targets" stands for the targets. */
static const struct {
    const char *method;
    tn_method_setting setting;
} variants[] = {
    {"ia3", {"feedforward-modules", "targets"}}, {"vera", {"save-projection", "false"}},
    {"loha", {"use-effective-conv2d", "true"}},  {"lokr", {"use-effective-conv2d", "true"}},
    {"lokr", {"decompose-both", "true"}},        {"lokr", {"decompose-factor", "3"}},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

/* AdaLoRA is saved only with a schedule. */
static inline void choose_settings(trial *t, tn_rng *rng) {
    const char *name = t->method->method->name;
    size_t count = 0;
    for (int i = 0; i < VARIANTS; i++)
        if (strcmp(variants[i].method, name) == 0 && draw(rng, 0, 1)) {
            t->settings[0] = variants[i].setting;
            count = 1;
        }
    if (count && strcmp(t->settings[0].value, "targets") == 0)
        t->settings[0].value = t->layer->targets;
    if (strcmp(name, "adalora") == 0) {
        t->settings[count++] = (tn_method_setting){"target_r", "1"};
        t->settings[count++] = (tn_method_setting){"total-step", "9"};
    }
    t->options.settings = t->settings;
    t->options.setting_count = count;
}

/* The largest rank that fits all targets; a multiple of the groups does for convolutions. */
static inline int64_t choose_rank(const trial *t, tn_rng *rng, bool any_rank) {
    const tn_network *network = t->model->network;
    const char *names[4] = {0};
    char text[100];
    size_t count = 0;
    int64_t most = any_rank ? 8 : 6, groups = 1;
    snprintf(text, sizeof text, "%s", t->layer->targets);
    for (char *name = strtok(text, ","); name; name = strtok(NULL, ","))
        names[count++] = name;
    for (int64_t i = 0; i < network->module_count; i++) {
        const tn_module *module = &network->modules[i];
        const tn_weight *w = tn_module_weight(module);
        int64_t in = tn_weight_in(w), out = tn_weight_out(w);
        if (!tn_peft_names_module((tn_text_list){names, count}, module->name))
            continue;
        if (module->kind == TN_MODULE_CONV2D) {
            groups = module->conv.groups;
            in *= groups;
        }
        if (!any_rank)
            most = out < most ? out : in < most ? in : most;
    }
    return groups * draw(rng, 1, (int)(most / groups));
}

static inline const tn_module *first_target(const tn_network *network, const char *targets) {
    char text[100];
    snprintf(text, sizeof text, "%s", targets);
    const char *name = strtok(text, ",");
    for (int64_t i = 0; i < network->module_count; i++)
        if (tn_peft_names_module((tn_text_list){&name, 1}, network->modules[i].name))
            return &network->modules[i];
    fail_msg("no module is named %s", name);
    return NULL;
}

/* A tied head has no weight of its own: the embedding is meant. */
static inline void quantise_targets(trial *t, tn_rng *rng) {
    static const tn_quantize_options forms[] = {
        {.type = "nf4"},
        {.type = "nf4", .double_quant = true, .block = 32},
        {.type = "fp4", .block = 128},
        {.type = "int8_row"},
        {.type = "int8"},
        {.type = "int5_affine", .block = -1},
    };
    tn_quantize_options form = forms[draw(rng, 0, sizeof forms / sizeof *forms - 1)];
    tn_quantize_summary summary;
    form.modules = strcmp(t->layer->targets, "lm_head") == 0 ? "embed_tokens" : t->layer->targets;
    assert_ok(tn_model_quantize(t->model, &form, NULL));
    tn_model_describe_quantized(t->model, &summary);
    assert_true(summary.modules > 0);
}

/* What PEFT's methods cannot do on a convolution in groups. */
static inline const char *refusal_of(const trial *t) {
    if (t->grouped && (strcmp(t->method->name, "dora") == 0 || strcmp(t->method->name, "lora-fa") == 0))
        return "is a convolution in";
    return NULL;
}

/* A model without an adapter; in `dtype` it is one on disk. False where the method does not fit the layer or is known not
 * to, and it is seen that it then refuses. */
static inline bool trial_start(trial *t, const method_name *method, const layer_type *layer, uint64_t seed, int scale,
                               const char *dtype) {
    tn_rng rng = tn_rng_start(seed, tn_stream(TN_STREAM_DATA, 77));
    tn_buf config = {0};
    *t = (trial){.layer = layer, .method = method};
    layer->write(&rng, scale, &config);
    t->model =
        dtype ? create_stored_model(tn_buf_text(&config), seed, "base", dtype) : create_model(tn_buf_text(&config), seed);
    tn_buf_free(&config);
    if (layer->quantised)
        quantise_targets(t, &rng);
    const tn_module *module = first_target(t->model->network, layer->targets);
    t->grouped = module->kind == TN_MODULE_CONV2D && module->conv.groups > 1;
    tn_adapter_options_default(&t->options);
    t->options.method = method->name;
    t->options.target_modules = layer->targets;
    if (method->method->rank_key)
        t->options.rank = choose_rank(t, &rng, method->method->any_rank);
    if (method->method->alpha_key)
        t->options.alpha = draw(&rng, 1, 12);
    choose_settings(t, &rng);
    snprintf(t->what, sizeof t->what, "%s on %s, seed %llu, rank %lld, %s=%s", method->name, layer->name,
             (unsigned long long)seed, (long long)t->options.rank, t->settings[0].name ? t->settings[0].name : "",
             t->settings[0].name ? t->settings[0].value : "");
    bool fits = method->method->fits(module);
    if (fits && !refusal_of(t))
        return true;
    assert_fails(tn_model_add_adapter(t->model, &t->options, 1), TN_ERROR_UNSUPPORTED,
                 fits ? refusal_of(t) : "is of a kind that");
    tn_model_free(t->model);
    return false;
}

static inline void trial_add(trial *t) {
    if (tn_model_add_adapter(t->model, &t->options, 3) != TN_OK)
        fail_msg("%s: %s", t->what, tn_error_message());
}

/* Runs `check` on every method and kind of layer that go together, `rounds` times with other numbers. */
static inline void for_all_trials(int rounds, int scale, const char *const dtypes[3], void (*check)(trial *t)) {
    method_name methods[MOST_METHODS];
    int count = list_methods(methods), checked[MOST_METHODS] = {0};
    for (int m = 0; m < count; m++) {
        for (int l = 0; l < LAYER_TYPES; l++) {
            for (int round = 0; round < rounds; round++) {
                trial t;
                uint64_t seed = (uint64_t)(1 + round + rounds * l);
                if (!trial_start(&t, &methods[m], &layer_types[l], seed, scale, dtypes ? dtypes[seed % 3] : NULL))
                    continue;
                check(&t);
                tn_model_free(t.model);
                checked[m]++;
            }
        }
        if (checked[m] < 4)
            fail_msg("%s fits hardly any layer", methods[m].name);
    }
}

#endif
