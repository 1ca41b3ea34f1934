/* VeRA: its shared projections, in the file, beside it and by their seed alone; and a layer of it against the formula. */
#include "method_test.h"

#define TARGETS "\"target_modules\": [\"q_proj\", \"v_proj\", \"down_proj\"]"
#define VERA(members) "{\"peft_type\": \"VERA\", \"r\": 4, " members "}"

static const tn_tensor *tensor(const tn_params *params, const char *name) {
    const tn_param *param = tn_params_find(params, name);
    assert_non_null(param);
    return &param->weight->tensor;
}

/* PEFT drew those of the golden case: the same key and shapes give the same bits. */
static void new_projections_are_those_of_peft(void **state) {
    static const char *const names[] = {"vera_A", "vera_B"};
    tn_safetensors file;
    tn_model *model;
    tn_adapter_options options;
    (void)state;
    tn_adapter_options_default(&options);
    options.method = "vera";
    options.rank = 8;
    options.target_modules = "q_proj,v_proj,down_proj";
    assert_ok(tn_safetensors_open(GOLDEN "vera_basic/adapter/adapter_model.safetensors", &file));
    assert_ok(tn_model_load(GOLDEN "vera_basic/base", &model));
    assert_ok(tn_model_add_adapter(model, &options, 9));
    for (int i = 0; i < 2; i++) {
        char key[64];
        snprintf(key, sizeof key, "base_model.%s", names[i]);
        const tn_safetensors_entry *want = tn_safetensors_find(&file, key);
        const tn_tensor *got = tensor(&model->adapter->constants, names[i]);
        assert_non_null(want);
        assert_true(tn_tensor_same_shape(got, &want->tensor));
        assert_memory_equal(got->data, want->tensor.data, (size_t)tn_tensor_bytes(got));
    }
    assert_ok(tn_model_save_adapter(model, temporary("keys")));
    assert_same_keys(temporary("keys/adapter_config.json"), GOLDEN "vera_basic/adapter/adapter_config.json");
    tn_safetensors_close(&file);
    tn_model_free(model);
}

/* y = W x + lambda_b * B (lambda_d * A x) in double, by the first C columns of A and O rows of B. */
static void reference(const tn_adapter *adapter, const tn_module *module, const float *x, float *y) {
    char name[256];
    const tn_tensor *a = tensor(&adapter->constants, "vera_A"), *b = tensor(&adapter->constants, "vera_B");
    snprintf(name, sizeof name, "%s.vera_lambda_b", module->name);
    const float *lambda_b = tensor(&adapter->params, name)->data;
    snprintf(name, sizeof name, "%s.vera_lambda_d", module->name);
    const float *lambda_d = tensor(&adapter->params, name)->data;
    const tn_tensor *weight = &tn_module_weight(module)->tensor;
    for (int64_t o = 0; o < weight->shape[0]; o++) {
        double sum = 0, update = 0;
        for (int64_t c = 0; c < weight->shape[1]; c++)
            sum += (double)((const float *)weight->data)[o * weight->shape[1] + c] * x[c];
        for (int64_t k = 0; k < a->shape[0]; k++) {
            double u = 0;
            for (int64_t c = 0; c < weight->shape[1]; c++)
                u += (double)((const float *)a->data)[k * a->shape[1] + c] * x[c];
            update += ((const float *)b->data)[o * b->shape[1] + k] * lambda_d[k] * u;
        }
        y[o] = (float)(sum + lambda_b[o] * update);
    }
}

/* Sums of at most 40 products of about 1, in f32: an error of about 40 * 2^-24 * 10. */
static void layers_take_their_part_of_the_projections(void **state) {
    enum { ROWS = 3, MOST = 40 };
    float x[ROWS * MOST], got[ROWS * MOST], want[MOST];
    tn_adapter *adapter;
    tn_model *model = create_model(SMALL_LLAMA, 2);
    (void)state;
    assert_ok(attach(model, VERA("\"target_modules\": \"all-linear\""), &adapter));
    randomise_adapter(adapter, 5, 1);
    tn_fill_normal(x, ROWS * MOST, 4, 4, 0, 1);
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_module *module = adapter->slots[i].module;
        const int64_t *shape = tn_module_weight(module)->tensor.shape;
        run_linear(module, false, x, ROWS, got);
        for (int64_t row = 0; row < ROWS; row++) {
            reference(adapter, module, x + row * shape[1], want);
            assert_true(largest_difference(got + row * shape[0], want, shape[0]) < 2e-5);
        }
    }
    assert_int_equal(adapter->slot_count, 14);
    tn_adapter_free(adapter);
    tn_model_free(model);
}

static void dropout_acts_in_training_alone(void **state) {
    float x[24], base[24], plain[24], trained[24];
    tn_adapter *adapter;
    tn_model *model = create_model(SMALL_LLAMA, 2);
    const tn_module *module = tn_network_module(model->network, "model.layers.0.self_attn.q_proj");
    (void)state;
    tn_fill_normal(x, 24, 4, 4, 0, 1);
    run_linear(module, true, x, 1, base);
    assert_ok(attach(model, VERA("\"vera_dropout\": 0.5, " TARGETS), &adapter));
    randomise_adapter(adapter, 5, 1);
    run_linear(module, false, x, 1, plain);
    run_linear(module, true, x, 1, trained);
    assert_true(largest_difference(plain, base, 24) > 0.01);
    assert_true(largest_difference(plain, trained, 24) > 0.01);
    tn_adapter_free(adapter);
    tn_model_free(model);
}

static void starting_values_follow_the_options(void **state) {
    static const char lambda_b[] = "model.layers.0.self_attn.q_proj.vera_lambda_b";
    static const char lambda_d[] = "model.layers.0.self_attn.q_proj.vera_lambda_d";
    tn_adapter *adapter;
    tn_model *model = create_model(SMALL_LLAMA, 2);
    (void)state;
    assert_ok(attach(model, VERA("\"d_initial\": 0.25, " TARGETS), &adapter));
    for (int i = 0; i < 24; i++)
        assert_true(((const float *)tensor(&adapter->params, lambda_b)->data)[i] == 0);
    for (int i = 0; i < 4; i++)
        assert_true(((const float *)tensor(&adapter->params, lambda_d)->data)[i] == 0.25f);
    tn_adapter_free(adapter);
    assert_ok(attach(model, VERA("\"init_weights\": false, " TARGETS), &adapter));
    const float *d = tensor(&adapter->params, lambda_d)->data;
    for (int i = 0; i < 24; i++)
        assert_true(((const float *)tensor(&adapter->params, lambda_b)->data)[i] == 1);
    assert_true(d[0] != d[1] && d[1] != d[2] && fabsf(d[0]) < 6);
    tn_adapter_free(adapter);
    tn_model_free(model);
}

static void what_does_not_fit_is_refused(void **state) {
    static const wrong_config wrong[] = {
        {VERA("\"target_modules\": [\"embed_tokens\"]"), "'model.embed_tokens' is of a kind that vera cannot adapt"},
        {VERA("\"exclude_modules\": [\"k_proj\"], " TARGETS), "no exclude_modules"},
        {VERA("\"rank_pattern\": {\"q_proj\": 2}, " TARGETS), "PEFT's configuration of vera has no rank_pattern"},
        {VERA("\"alpha_pattern\": {\"q_proj\": 2}, " TARGETS), "has no alpha_pattern"},
        {VERA("\"lora_alpha\": 2, " TARGETS), "'lora_alpha', which this build does not support"},
        {VERA("\"d_initial\": \"big\", " TARGETS), "d-initial"},
        {VERA("\"bias\": \"lora_only\", " TARGETS), "not none, all or vera_only"},
        {"{\"peft_type\": \"VERA\", \"r\": 1000000, " TARGETS "}", "rank 1000000 is too large for vera"},
        {"{\"peft_type\": \"VERA\", \"r\": 0, " TARGETS "}", "rank 0 does not fit"},
    };
    tn_model *model = create_model(SMALL_LLAMA, 2);
    (void)state;
    assert_refused(model, wrong, sizeof wrong / sizeof *wrong);
    tn_model_free(model);
}

/* --- files --- */

/* The folder `from` again as `to`: without tensors whose key holds `drop`, with vera_A repeated under `extra`, its first
 * value moved by `moved`. */
static void copy_adapter(const char *to, const char *from, const char *drop, const char *extra, float moved) {
    tn_safetensors file;
    tn_safetensors_writer *writer;
    tn_buf config = {0};
    assert_ok(tn_dir_create(temporary("%s", to)));
    assert_ok(tn_file_read(temporary("%s/adapter_config.json", from), 1 << 20, &config));
    assert_ok(tn_file_write(temporary("%s/adapter_config.json", to), config.data, config.length));
    assert_ok(tn_safetensors_open(temporary("projected/adapter_model.safetensors"), &file));
    const tn_tensor *a = &tn_safetensors_find(&file, "base_model.vera_A")->tensor;
    float *copy = malloc((size_t)tn_tensor_bytes(a));
    assert_non_null(copy);
    memcpy(copy, a->data, (size_t)tn_tensor_bytes(a));
    copy[0] += moved;
    assert_ok(tn_safetensors_writer_new(&writer, temporary("%s/adapter_model.safetensors", to)));
    for (int writing = 0; writing < 2; writing++) {
        for (size_t i = 0; i < file.count; i++) {
            const tn_tensor *t = &file.entries[i].tensor;
            if (drop && strstr(file.entries[i].name, drop))
                continue;
            assert_ok(writing ? tn_safetensors_writer_data(writer, t->data, tn_tensor_bytes(t))
                              : tn_safetensors_writer_declare(writer, file.entries[i].name, t->dtype, t->ndim, t->shape));
        }
        if (extra)
            assert_ok(writing ? tn_safetensors_writer_data(writer, copy, tn_tensor_bytes(a))
                              : tn_safetensors_writer_declare(writer, extra, a->dtype, a->ndim, a->shape));
        if (!writing)
            assert_ok(tn_safetensors_writer_begin(writer));
    }
    assert_ok(tn_safetensors_writer_finish(writer));
    tn_safetensors_close(&file);
    tn_buf_free(&config);
    free(copy);
}

static void save(const char *config, const char *name, float **logits, int64_t *count) {
    tn_model *model = create_model(SMALL_LLAMA, 2);
    assert_ok(attach(model, config, &model->adapter));
    randomise_adapter(model->adapter, 5, 1);
    assert_ok(tn_model_save_adapter(model, temporary("%s", name)));
    *logits = probe(model, count);
    tn_model_free(model);
}

/* Layers may repeat the shared projections; a file need not hold what its seed gives. What contradicts is refused. */
static void projections_may_be_repeated_or_left_out(void **state) {
#define REPEATED "base_model.model.model.layers.1.self_attn.q_proj.vera_A"
    static const struct {
        const char *from, *drop, *extra;
        float moved;
        const char *words; /* NULL: it is read */
    } files[] = {
        {"projected", NULL, REPEATED, 0, NULL},
        {"projected", NULL, REPEATED, 0.01f, "layers.1.self_attn.q_proj.vera_A' is not the tensor that all modules share"},
        {"projected", "vera_A", NULL, 0, "no tensor 'base_model.vera_A', which the configuration calls for"},
        {"seeded", "model.vera_", NULL, 0, NULL},
        {"seeded", NULL, NULL, 0, NULL},
        {"seeded", "model.vera_A", "base_model.vera_A", 0, NULL},
        {"seeded", "model.vera_A", "base_model.vera_A", 0.01f, "as the configuration's seed gives it"},
    };
    float *logits, *same;
    int64_t count;
    tn_safetensors file;
    (void)state;
    save(VERA("\"projection_prng_key\": 5, " TARGETS), "projected", &logits, &count);
    save(VERA("\"projection_prng_key\": 5, \"save_projection\": false, " TARGETS), "seeded", &same, &count);
    assert_true(largest_difference(logits, same, count) == 0);
    assert_ok(tn_safetensors_open(temporary("seeded/adapter_model.safetensors"), &file));
    assert_null(tn_safetensors_find(&file, "base_model.vera_A"));
    assert_int_equal(file.count, 12);
    tn_safetensors_close(&file);
    tn_model *model = create_model(SMALL_LLAMA, 2);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        copy_adapter("changed", files[i].from, files[i].drop, files[i].extra, files[i].moved);
        tn_status status = tn_model_load_adapter(model, temporary("changed"), false, false);
        if (files[i].words) {
            assert_fails(status, TN_ERROR_MISMATCH, files[i].words);
        } else {
            assert_ok(status);
            assert_true(probe_difference(model, logits) == 0);
        }
    }
    tn_model_free(model);
    tn_free(logits);
    tn_free(same);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_projections_are_those_of_peft), cmocka_unit_test(layers_take_their_part_of_the_projections),
        cmocka_unit_test(dropout_acts_in_training_alone),    cmocka_unit_test(starting_values_follow_the_options),
        cmocka_unit_test(what_does_not_fit_is_refused),      cmocka_unit_test(projections_may_be_repeated_or_left_out),
    };
    return cmocka_run_group_tests_name("vera", tests, NULL, remove_temporary);
}
