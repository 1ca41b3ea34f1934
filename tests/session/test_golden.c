/* Logits, losses, gradients, merged weights and adapter files against what PyTorch and PEFT computed
 * (tests/golden/README.md, tests/golden_quant/README.md). The build runs this program once per table of kernels. */
#include <dirent.h>

#include <tenon/evaluate.h>

#include "support/support.h"

static const char *const cases[] = {
    "base_gpt2",
    "base_llama",
    "base_llama_bf16",
    "base_llama_bias",
    "base_llama_f16_sharded",
    "base_llama_rope_linear",
    "base_llama_rope_llama3",
    "base_llama_rope_yarn",
    "base_mistral",
    "base_mistral_full",
    "base_qwen2",
    "base_qwen2_window",
    "base_qwen3",
    "conv2d_dora",
    "conv2d_ia3",
    "conv2d_loha_effective",
    "conv2d_lokr",
    "conv2d_lora",
    "conv2d_lora_1x1",
    "conv2d_lora_groups",
    "dora_all_linear",
    "dora_basic",
    "dora_bias",
    "dora_embedding",
    "dora_gpt2",
    "dora_rslora_patterns",
    "ia3_bias",
    "init_olora",
    "init_pissa",
    "init_pissa_gpt2",
    "init_pissa_rslora",
    "loha_patterns",
    "lora_all_linear",
    "lora_all_linear_exclude",
    "lora_alora",
    "lora_basic",
    "lora_bdlora",
    "lora_bf16_base",
    "lora_bias_all",
    "lora_bias_lora_only",
    "lora_bias_on_B",
    "lora_dropout_config",
    "lora_embedding",
    "lora_f16_base_sharded",
    "lora_kasa",
    "lora_layer_replication",
    "lora_layers_to_transform",
    "lora_lm_head",
    "lora_mistral",
    "lora_mixed_two_adapters",
    "lora_modules_to_save",
    "lora_modules_to_save_embed",
    "lora_patterns",
    "lora_patterns_rslora",
    "lora_qwen2",
    "lora_qwen3",
    "lora_regex",
    "lora_rslora",
    "lora_target_parameters",
    "lora_tied_modules_to_save",
    "lora_trainable_tokens",
    "lora_trainable_tokens_tied",
    "mlp_dora_small",
    "mlp_lora_small",
    "train_adalora",
    "train_dora",
    "train_lora_bias_embed",
    "train_lora_constant",
    "train_lora_qwen2",
    "train_loraplus",
    "train_rslora",
    "vera_basic",
};
/* Of quantised bases, in tests/golden_quant. */
static const char *const quantised_cases[] = {
    "base_int8_llama",   "base_nf4_llama",    "base_nf4_nested_qwen2", "base_nf4_nested_sharded", "gguf_llama_q2_k",
    "gguf_qwen2_q4_k_s", "gguf_stories_q4_0", "init_loftq_nf4",        "qdora_nf4_nested_qwen2",  "qia3_nf4",
    "qlora_loftq",       "qlora_nf4",         "train_qlora",
};
enum { CASE_COUNT = sizeof cases / sizeof *cases, QUANTISED_COUNT = sizeof quantised_cases / sizeof *quantised_cases };

/* A case at work. */
typedef struct {
    const char *name;
    cJSON *json;
    tn_safetensors io;
    tn_model *model;
} golden;

static bool is_listed(const char *const *list, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (strcmp(list[i], name) == 0)
            return true;
    return false;
}

static const char *path_in(const golden *g, const char *name) {
    static char paths[4][TN_PATH_MAX];
    static int next;
    char *path = paths[next++ % 4];
    const char *folder = is_listed(quantised_cases, QUANTISED_COUNT, g->name) ? "golden_quant" : "golden";
    snprintf(path, TN_PATH_MAX, "%s/tests/%s/%s/%s", TENON_SOURCE_ROOT, folder, g->name, name);
    return path;
}

static bool shares_layers(const golden *g) {
    return strcmp(g->name, "lora_layer_replication") == 0;
}

/* PEFT cannot merge a grouped convolution. */
static bool has_merged_weights(const golden *g) {
    return tn_json_get(g->json, "merged") != NULL;
}

/* What the adapter does cannot be said in weights. */
static bool acts_on_some_rows(const golden *g) {
    return strcmp(g->name, "lora_alora") == 0;
}

static bool is_kind(const golden *g, const char *kind) {
    return strncmp(g->name, kind, strlen(kind)) == 0;
}

static void golden_open(golden *g, const char *name) {
    *g = (golden){.name = name};
    assert_ok(tn_json_read(path_in(g, "case.json"), 1 << 20, &g->json));
    assert_ok(tn_safetensors_open(path_in(g, "io.safetensors"), &g->io));
    assert_ok(tn_model_load(path_in(g, "base"), &g->model));
}

static void golden_close(golden *g) {
    tn_model_free(g->model);
    tn_safetensors_close(&g->io);
    cJSON_Delete(g->json);
}

static double tolerance(const golden *g, const char *name, double otherwise) {
    assert_ok(tn_json_get_double(tn_json_get(g->json, "tolerance"), name, "case.json", &otherwise));
    return otherwise;
}

static const tn_tensor *tensor(const tn_safetensors *file, const char *name) {
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    if (!entry)
        fail_msg("%s: no tensor '%s'", file->path, name);
    return &entry->tensor;
}

/* The rows of logits that are not padding, the same for both; rows of plain networks have none. */
static void compare_logits(const golden *g, const float *got, const char *name, const char *mask_name) {
    const tn_tensor *want = tensor(&g->io, name), *mask = g->model->decoder ? tensor(&g->io, mask_name) : NULL;
    int64_t vocab = want->shape[want->ndim - 1], rows = tn_tensor_count(want) / vocab, compared = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (mask && !((const int64_t *)mask->data)[i])
            continue;
        double difference = largest_difference(got + i * vocab, (const float *)want->data + i * vocab, vocab);
        if (!(difference <= tolerance(g, "logits_abs", 1e-4)))
            fail_msg("%s: %s of position %lld differ by %g", g->name, name, (long long)i, difference);
        compared++;
    }
    assert_true(compared > 0);
}

static void compare_loss(const golden *g, const tn_safetensors *got, double want) {
    double loss = *(const float *)tensor(got, "loss")->data;
    if (!(fabs(loss - want) <= tolerance(g, "loss_abs", 1e-4)))
        fail_msg("%s: the loss is %.8g, not %.8g", g->name, loss, want);
}

static double largest_value(const tn_tensor *t) {
    double largest = 0;
    for (int64_t i = 0; i < tn_tensor_count(t); i++)
        largest = fmax(largest, fabs(((const float *)t->data)[i]));
    return largest;
}

/* The true gradient, where PEFT's own backward pass returns another (tests/golden/README.md). */
static const tn_tensor *true_gradient(const golden *g, const tn_safetensors_entry *entry) {
    char name[256];
    snprintf(name, sizeof name, "grad_exact.%s", entry->name + 5);
    const tn_safetensors_entry *exact = tn_safetensors_find(&g->io, name);
    return exact ? &exact->tensor : &entry->tensor;
}

static void compare_gradients(const golden *g, const tn_safetensors *got) {
    double largest = 0;
    int compared = 0;
    for (size_t i = 0; i < g->io.count; i++)
        if (strncmp(g->io.entries[i].name, "grad.", 5) == 0)
            largest = fmax(largest, largest_value(&g->io.entries[i].tensor));
    for (size_t i = 0; i < g->io.count; i++) {
        const char *name = g->io.entries[i].name;
        if (strncmp(name, "grad.", 5) != 0)
            continue;
        const tn_tensor *want = true_gradient(g, &g->io.entries[i]), *have = tensor(got, name);
        double scale = fmax(fmax(largest_value(want), 1e-3 * largest), 1e-12);
        assert_true(tn_tensor_same_shape(want, have));
        double difference = largest_difference(have->data, want->data, tn_tensor_count(want));
        if (!(difference <= tolerance(g, "grad_rel_to_tensor_max", 1e-3) * scale))
            fail_msg("%s: %s differs by %g of %g", g->name, name, difference, scale);
        compared++;
    }
    assert_true(compared > 0);
}

/* Runs the case's input and opens the result. */
static void forward(const golden *g, bool with_grad, bool merged, tn_safetensors *out) {
    const char *path = temporary("out.safetensors");
    assert_ok(tn_forward_file(g->model, path_in(g, "io.safetensors"), path, with_grad, merged));
    assert_ok(tn_safetensors_open(path, out));
}

static void check_base(golden *g) {
    tn_safetensors out;
    bool with_grad = cJSON_GetArraySize(tn_json_get(g->json, "grads")) > 0;
    forward(g, with_grad, false, &out);
    compare_logits(g, tensor(&out, "logits")->data, "logits", "attention_mask");
    compare_loss(g, &out, *(const float *)tensor(&g->io, "loss")->data);
    if (with_grad)
        compare_gradients(g, &out);
    tn_safetensors_close(&out);
}

static void compare_merged(const golden *g, const tn_checkpoint *checkpoint) {
    int compared = 0;
    for (size_t i = 0; i < g->io.count; i++) {
        const char *name = g->io.entries[i].name;
        const tn_tensor *want = &g->io.entries[i].tensor;
        if (strncmp(name, "merged.", 7) != 0)
            continue;
        const tn_tensor *have = tn_checkpoint_find(checkpoint, name + 7);
        if (!have)
            fail_msg("%s: the merged checkpoint has no '%s'", g->name, name + 7);
        assert_int_equal(have->dtype, TN_DTYPE_F32);
        assert_true(tn_tensor_same_shape(want, have));
        double difference = largest_difference(have->data, want->data, tn_tensor_count(want));
        if (!(difference <= tolerance(g, "merged_abs", 1e-4)))
            fail_msg("%s: %s differs by %g", g->name, name, difference);
        compared++;
    }
    assert_true(compared > 0);
}

static void check_merge(golden *g) {
    tn_checkpoint checkpoint;
    tn_merge_report report;
    const char *dir = temporary("merged");
    if (shares_layers(g)) {
        assert_fails(tn_model_merge(g->model, dir, "f32", &report), TN_ERROR_UNSUPPORTED, "layer_replication");
        return;
    }
    if (acts_on_some_rows(g)) {
        assert_fails(tn_model_merge(g->model, dir, "f32", &report), TN_ERROR_UNSUPPORTED, "alora_invocation_tokens");
        assert_fails(tn_forward_file(g->model, path_in(g, "io.safetensors"), dir, false, true), TN_ERROR_UNSUPPORTED,
                     "alora_invocation_tokens");
        return;
    }
    assert_ok(tn_model_merge(g->model, dir, "f32", &report));
    assert_true(report.modules > 0);
    assert_true(report.logit_difference <= tolerance(g, "logits_abs", 1e-4));
    assert_ok(tn_checkpoint_open(dir, &checkpoint));
    if (has_merged_weights(g))
        compare_merged(g, &checkpoint);
    tn_checkpoint_close(&checkpoint);
    assert_ok(tn_path_remove_tree(dir));
}

/* The keys of the file that was read, all but copies of the base's weights, with the same values. */
static void compare_saved(const tn_safetensors *want, const tn_safetensors *have) {
    size_t copies = 0;
    for (size_t i = 0; i < want->count; i++) {
        const tn_tensor *t = &want->entries[i].tensor;
        const char *name = want->entries[i].name, *suffix = strstr(name, ".base_layer.weight");
        if (suffix && !suffix[strlen(".base_layer.weight")]) {
            copies++;
            continue;
        }
        assert_true(tn_tensor_same_shape(t, tensor(have, name)));
        assert_memory_equal(t->data, tensor(have, name)->data, (size_t)tn_tensor_bytes(t));
    }
    assert_true(have->count > 0);
    assert_int_equal(have->count, want->count - copies);
    assert_string_equal(tn_safetensors_metadata(have, "format"), "pt");
}

/* PEFT refuses a configuration with a member that its class has not; it writes all that there are. */
static void compare_config_keys(const golden *g, const char *saved) {
    cJSON *want, *have;
    const cJSON *member;
    assert_ok(tn_json_read(path_in(g, "adapter/adapter_config.json"), 1 << 20, &want));
    assert_ok(tn_json_read(saved, 1 << 20, &have));
    assert_true(cJSON_GetArraySize(have) > 0);
    cJSON_ArrayForEach(member, have) {
        if (!cJSON_GetObjectItemCaseSensitive(want, member->string))
            fail_msg("%s: the saved configuration has a member '%s'", g->name, member->string);
    }
    cJSON_Delete(want);
    cJSON_Delete(have);
}

static void check_saved(golden *g) {
    tn_safetensors want, have, out;
    const char *dir = temporary("saved");
    assert_ok(tn_model_save_adapter(g->model, dir));
    assert_ok(tn_safetensors_open(path_in(g, "adapter/adapter_model.safetensors"), &want));
    assert_ok(tn_safetensors_open(temporary("saved/adapter_model.safetensors"), &have));
    compare_saved(&want, &have);
    compare_config_keys(g, temporary("saved/adapter_config.json"));
    tn_safetensors_close(&want);
    tn_safetensors_close(&have);
    /* what was written is the same adapter, by its configuration too */
    tn_model_free(g->model);
    assert_ok(tn_model_load(path_in(g, "base"), &g->model));
    assert_ok(tn_model_load_adapter(g->model, dir, false, false));
    forward(g, false, false, &out);
    compare_logits(g, tensor(&out, "logits")->data, "logits_adapter", "attention_mask");
    tn_safetensors_close(&out);
    assert_ok(tn_path_remove_tree(dir));
}

static void check_adapter(golden *g) {
    tn_safetensors out;
    assert_ok(tn_model_load_adapter(g->model, path_in(g, "adapter"), true, false));
    forward(g, true, false, &out);
    compare_logits(g, tensor(&out, "logits")->data, "logits_adapter", "attention_mask");
    compare_loss(g, &out, *(const float *)tensor(&g->io, "loss_adapter")->data);
    compare_gradients(g, &out);
    tn_safetensors_close(&out);

    /* switched off, only the base is left (but a replicated stack stays one) */
    if (!shares_layers(g)) {
        tn_model_enable_adapter(g->model, false);
        forward(g, false, false, &out);
        compare_logits(g, tensor(&out, "logits")->data, "logits", "attention_mask");
        tn_safetensors_close(&out);
        tn_model_enable_adapter(g->model, true);
    }
    check_merge(g);
    check_saved(g);
    if (acts_on_some_rows(g))
        return;
    forward(g, false, true, &out);
    compare_logits(g, tensor(&out, "logits")->data, "logits_adapter", "attention_mask");
    tn_safetensors_close(&out);
}

/* W - s B0 A0 of every adapted module. */
static void compare_residuals(const golden *g) {
    const tn_adapter *adapter = g->model->adapter;
    int compared = 0;
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_lora_slot *slot = (const tn_lora_slot *)adapter->slots[i].slot;
        const tn_module *module = adapter->slots[i].module;
        char name[256];
        snprintf(name, sizeof name, "residual.%s.weight", module->name);
        const tn_tensor *want = tensor(&g->io, name);
        bool transposed = module->weight.transposed;
        int64_t rows = want->shape[transposed], cols = want->shape[!transposed], rank = slot->a0.tensor.shape[0];
        int64_t along = transposed ? rows : 1, across = transposed ? 1 : cols; /* strides of c and of o */
        assert_true(tn_tensor_same_shape(want, &module->weight.tensor));
        const float *a = slot->a0.tensor.data, *b = slot->b0.tensor.data, *w = module->weight.tensor.data;
        assert_non_null(a);
        for (int64_t o = 0; o < rows; o++) {
            for (int64_t c = 0; c < cols; c++) {
                double value = w[o * across + c * along];
                for (int64_t r = 0; r < rank; r++)
                    value -= (double)slot->scale * b[o * rank + r] * a[r * cols + c];
                assert_true(fabs(value - ((const float *)want->data)[o * across + c * along]) <=
                            tolerance(g, "residual_abs", 2e-5));
            }
        }
        compared++;
    }
    assert_true(compared > 0);
}

static void compare_with_adapter(golden *g, const char *dir, const char *logits) {
    tn_safetensors out;
    assert_ok(tn_model_load_adapter(g->model, dir, false, false));
    forward(g, false, false, &out);
    compare_logits(g, tensor(&out, "logits")->data, logits, "attention_mask");
    tn_safetensors_close(&out);
}

static void copy_file(const char *to, const char *from) {
    tn_buf bytes = {0};
    assert_ok(tn_file_read(from, 1 << 20, &bytes));
    assert_ok(tn_file_write(to, bytes.data, bytes.length));
    tn_buf_free(&bytes);
}

/* A base that lost B0 A0 to the adapter: as PEFT trained it, and saved for the untouched base. The configuration of
 * adapter_trained says nothing of the initialisation, so that of adapter stands for it. */
static void check_init(golden *g) {
    tn_safetensors out, want, have;
    assert_ok(tn_model_load_adapter(g->model, path_in(g, "adapter"), true, false));
    compare_residuals(g);
    forward(g, true, false, &out);
    compare_logits(g, tensor(&out, "logits")->data, "logits_adapter", "attention_mask");
    compare_loss(g, &out, *(const float *)tensor(&g->io, "loss_adapter")->data);
    compare_gradients(g, &out);
    tn_safetensors_close(&out);

    compare_with_adapter(g, path_in(g, "adapter_converted"), "logits_trained");
    assert_ok(tn_dir_create(temporary("trained")));
    copy_file(temporary("trained/adapter_config.json"), path_in(g, "adapter/adapter_config.json"));
    copy_file(temporary("trained/adapter_model.safetensors"), path_in(g, "adapter_trained/adapter_model.safetensors"));
    compare_with_adapter(g, temporary("trained"), "logits_trained");
    assert_ok(tn_model_save_adapter(g->model, temporary("saved")));
    compare_with_adapter(g, temporary("saved"), "logits_trained");
    assert_ok(tn_safetensors_open(path_in(g, "adapter_converted/adapter_model.safetensors"), &want));
    assert_ok(tn_safetensors_open(temporary("saved/adapter_model.safetensors"), &have));
    assert_true(want.count > 0);
    assert_int_equal(have.count, want.count);
    for (size_t i = 0; i < want.count; i++)
        assert_true(tn_tensor_same_shape(&want.entries[i].tensor, tensor(&have, want.entries[i].name)));
    tn_safetensors_close(&want);
    tn_safetensors_close(&have);
}

/* Largest difference between B A of the adapter and of a fresh one by LoftQ, whose factors have free signs. */
static double farthest_product(const tn_adapter *adapter, const tn_adapter *fresh) {
    static float products[2][32 * 32];
    double most = 0;
    assert_int_equal(adapter->slot_count, fresh->slot_count);
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_weight *weight = &adapter->slots[i].module->weight;
        int64_t out = tn_weight_out(weight), in = tn_weight_in(weight);
        const tn_adapter *const both[2] = {adapter, fresh};
        for (int k = 0; k < 2; k++) {
            const tn_lora_slot *slot = (const tn_lora_slot *)both[k]->slots[i].slot;
            tn_kernels_cpu()->gemm(products[k], in, tn_weight_rows(&slot->b), tn_weight_rows(&slot->a), 1, 0, out, in,
                                   slot->a.tensor.shape[0]);
        }
        most = fmax(most, largest_difference(products[0], products[1], out * in));
    }
    return most;
}

/* The codes and scales that stand in for the weights, and their values. */
static void compare_packed(const golden *g) {
    const tn_adapter *adapter = g->model->adapter;
    assert_true(adapter->slot_count > 0);
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_module *module = adapter->slots[i].module;
        const tn_quantised *array = module->weight.tensor.data;
        static float values[32 * 32];
        char name[256];
        assert_int_equal(module->weight.tensor.dtype, TN_DTYPE_QUANTISED);
        tn_weight_read(&module->weight, values);
        snprintf(name, sizeof name, "packed.%s.weight", module->name);
        assert_memory_equal(array->codes, tensor(&g->io, name)->data, (size_t)array->sizes.codes);
        snprintf(name, sizeof name, "packed.%s.weight.absmax", module->name);
        assert_memory_equal(array->scales, tensor(&g->io, name)->data, (size_t)array->sizes.scales);
        snprintf(name, sizeof name, "residual.%s.weight", module->name);
        assert_memory_equal(values, tensor(&g->io, name)->data, (size_t)array->count * sizeof *values);
    }
}

/* The base becomes what PEFT made of it, whoever asks for it, and is itself again without the adapter. */
static void check_loftq(golden *g) {
    tn_adapter_options options;
    tn_model *other;
    check_adapter(g);
    compare_packed(g);
    tn_adapter_options_default(&options);
    options.init = "loftq";
    options.rank = g->model->adapter->config.rank;
    options.alpha = g->model->adapter->config.alpha;
    assert_ok(tn_model_load(path_in(g, "base"), &other));
    assert_ok(tn_model_add_adapter(other, &options, 7));
    assert_true(farthest_product(g->model->adapter, other->adapter) < 1e-5);
    tn_model_free(other);
}

/* The first batch of a training case as an input file. */
static const char *write_first_batch(const golden *g) {
    static const char *const names[][2] = {
        {"train_input_ids", "input_ids"}, {"train_attention_mask", "attention_mask"}, {"train_labels", "labels"}};
    const char *path = temporary("first.safetensors");
    tn_safetensors_writer *writer;
    assert_ok(tn_safetensors_writer_new(&writer, path));
    for (int i = 0; i < 3; i++)
        assert_ok(
            tn_safetensors_writer_declare(writer, names[i][1], TN_DTYPE_I64, 2, tensor(&g->io, names[i][0])->shape + 1));
    assert_ok(tn_safetensors_writer_begin(writer));
    for (int i = 0; i < 3; i++) {
        const tn_tensor *t = tensor(&g->io, names[i][0]);
        assert_ok(tn_safetensors_writer_data(writer, t->data, tn_tensor_bytes(t) / t->shape[0]));
    }
    assert_ok(tn_safetensors_writer_finish(writer));
    return path;
}

/* Only the ends of the training: the steps between belong to the trainer's tests. */
static void check_train(golden *g) {
    static const char *const ends[][2] = {{"adapter", "logits_first"}, {"adapter_final", "logits_final"}};
    const char *input = write_first_batch(g), *output = temporary("out.safetensors");
    cJSON *trajectory;
    tn_safetensors out;
    assert_ok(tn_json_read(path_in(g, "traj.json"), 1 << 20, &trajectory));
    for (int i = 0; i < 2; i++) {
        assert_ok(tn_model_load_adapter(g->model, path_in(g, ends[i][0]), false, false));
        assert_ok(tn_forward_file(g->model, input, output, false, false));
        assert_ok(tn_safetensors_open(output, &out));
        compare_logits(g, tensor(&out, "logits")->data, ends[i][1], "train_attention_mask");
        if (i == 0)
            compare_loss(g, &out, cJSON_GetArrayItem(tn_json_get(trajectory, "losses"), 0)->valuedouble);
        tn_safetensors_close(&out);
    }
    cJSON_Delete(trajectory);
}

static void case_agrees_with_peft(void **state) {
    golden g;
    golden_open(&g, *state);
    if (is_kind(&g, "base_") || is_kind(&g, "gguf_"))
        check_base(&g);
    else if (is_kind(&g, "init_loftq"))
        check_loftq(&g);
    else if (is_kind(&g, "init_"))
        check_init(&g);
    else if (is_kind(&g, "train_"))
        check_train(&g);
    else
        check_adapter(&g);
    golden_close(&g);
}

static void check_folder(const char *folder, const char *const *list, int count) {
    char path[TN_PATH_MAX];
    int folders = 0;
    snprintf(path, sizeof path, "%s/tests/%s", TENON_SOURCE_ROOT, folder);
    DIR *listing = opendir(path);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing));) {
        bool listed = is_listed(list, count, entry->d_name);
        folders += listed;
        bool elsewhere = strcmp(entry->d_name, "combine") == 0 || /* peft/test_compose.c */
                         strncmp(entry->d_name, "gguf_", 5) == 0; /* test_gguf.c */
        if (!listed && !elsewhere && !strchr(entry->d_name, '.'))
            fail_msg("%s/%s is not tested", path, entry->d_name);
    }
    closedir(listing);
    assert_int_equal(folders, count);
}

static void every_folder_is_a_case(void **state) {
    (void)state;
    check_folder("golden", cases, CASE_COUNT);
    check_folder("golden_quant", quantised_cases, QUANTISED_COUNT);
}

/* The second time round, since threads keep scratch for their kernels. */
static void nothing_leaks(void **state) {
    static const char *const some[] = {"base_llama_bf16",
                                       "base_llama_f16_sharded",
                                       "conv2d_loha_effective",
                                       "conv2d_lora_groups",
                                       "ia3_bias",
                                       "vera_basic",
                                       "init_loftq_nf4",
                                       "init_pissa",
                                       "lora_layer_replication",
                                       "lora_tied_modules_to_save",
                                       "lora_trainable_tokens_tied",
                                       "qdora_nf4_nested_qwen2"};
    size_t used[2];
    (void)state;
    tn_set_threads(1);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
            void *name = (void *)(uintptr_t)some[i];
            case_agrees_with_peft(&name);
        }
        used[round] = tn_memory_used();
    }
    tn_set_threads(0);
    assert_int_equal(used[0], used[1]);
}

int main(void) {
    struct CMUnitTest tests[CASE_COUNT + QUANTISED_COUNT + 2];
    const char *cpu = getenv("TENON_CPU");
    size_t count = 0;
    enum { SKIPPED = 77 };
    if (cpu && strcmp(tn_kernels_cpu()->name, cpu) != 0)
        return SKIPPED;
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(every_folder_is_a_case);
    for (int i = 0; i < CASE_COUNT + QUANTISED_COUNT; i++) {
        const char *name = i < CASE_COUNT ? cases[i] : quantised_cases[i - CASE_COUNT];
        tests[count++] = (struct CMUnitTest){name, case_agrees_with_peft, NULL, NULL, (void *)(uintptr_t)name};
    }
    tests[count++] = (struct CMUnitTest)cmocka_unit_test(nothing_leaks);
    return cmocka_run_group_tests_name("golden", tests, NULL, remove_temporary);
}
