/* Checkpoints that do not fit their config.json, damaged ones, and models from a configuration alone. */
#include "support/support.h"

/* A stored tensor changed on the way; NULL changes nothing. */
typedef struct {
    const char *drop, *poison, *transpose, *narrow, *extra;
    float value; /* the poison */
} change;

static void write_changed(const char *to, const char *from, const change *c) {
    tn_safetensors file;
    tn_safetensors_writer *writer;
    assert_ok(tn_safetensors_open(from, &file));
    assert_ok(tn_safetensors_writer_new(&writer, to));
    for (int writing = 0; writing < 2; writing++) {
        for (size_t i = 0; i < file.count; i++) {
            const tn_tensor *t = &file.entries[i].tensor;
            const char *name = file.entries[i].name;
            bool narrow = c->narrow && strcmp(c->narrow, name) == 0;
            int64_t shape[2] = {t->shape[0], t->shape[1]}, bytes = narrow ? tn_tensor_count(t) : tn_tensor_bytes(t);
            if (c->drop && strcmp(c->drop, name) == 0)
                continue;
            if (c->transpose && strcmp(c->transpose, name) == 0) {
                shape[0] = t->shape[1];
                shape[1] = t->shape[0];
            }
            if (!writing) {
                assert_ok(tn_safetensors_writer_declare(writer, name, narrow ? TN_DTYPE_I8 : t->dtype, t->ndim, shape));
                continue;
            }
            char *data = malloc((size_t)bytes);
            assert_non_null(data);
            memcpy(data, t->data, (size_t)bytes);
            if (c->poison && strcmp(c->poison, name) == 0)
                memcpy(data + 4 * sizeof(float), &c->value, sizeof(float));
            assert_ok(tn_safetensors_writer_data(writer, data, bytes));
            free(data);
        }
        if (c->extra && !writing)
            assert_ok(tn_safetensors_writer_declare(writer, c->extra, TN_DTYPE_F32, 1, (int64_t[]){1}));
        if (c->extra && writing)
            assert_ok(tn_safetensors_writer_data(writer, &c->value, sizeof c->value));
        if (!writing)
            assert_ok(tn_safetensors_writer_begin(writer));
    }
    assert_ok(tn_safetensors_writer_finish(writer));
    tn_safetensors_close(&file);
}

/* The small llama in the folder "good". */
static int store_model(void **state) {
    (void)state;
    tn_model_free(create_stored_model(SMALL_LLAMA, 1, "good", "f32"));
    assert_ok(tn_dir_create(temporary("changed")));
    write_text(temporary("changed/config.json"), SMALL_LLAMA);
    return 0;
}

static tn_status load(const char *name) {
    tn_decoder *decoder;
    size_t used = tn_memory_used();
    tn_status status = tn_decoder_load(temporary("%s", name), &decoder);
    if (status == TN_OK)
        tn_decoder_free(decoder);
    else
        assert_null(decoder);
    assert_int_equal(tn_memory_used(), used);
    return status;
}

static tn_status load_changed(const change *c) {
    write_changed(temporary("changed/model.safetensors"), temporary("good/model.safetensors"), c);
    return load("changed");
}

static void tensors_that_do_not_fit_are_named(void **state) {
    static const struct {
        change change;
        tn_status status;
        const char *words;
    } wrong[] = {
        {{.drop = "model.layers.1.mlp.up_proj.weight"},
         TN_ERROR_MISMATCH,
         "no tensor 'model.layers.1.mlp.up_proj.weight', which config.json calls for"},
        {{.drop = "lm_head.weight"}, TN_ERROR_MISMATCH, "no tensor 'lm_head.weight'"},
        {{.drop = "model.norm.weight"}, TN_ERROR_MISMATCH, "no tensor 'model.norm.weight'"},
        {{.transpose = "model.layers.0.self_attn.k_proj.weight"},
         TN_ERROR_MISMATCH,
         "tensor 'model.layers.0.self_attn.k_proj.weight' has shape [24, 12], but config.json makes it [12, 24]"},
        {{.poison = "model.embed_tokens.weight", .value = NAN},
         TN_ERROR_NUMERIC,
         "tensor 'model.embed_tokens.weight' holds a NaN or infinity at element 4; the checkpoint is damaged"},
        {{.poison = "model.layers.0.input_layernorm.weight", .value = -INFINITY},
         TN_ERROR_NUMERIC,
         "tensor 'model.layers.0.input_layernorm.weight' holds a NaN or infinity"},
        {{.narrow = "model.layers.1.self_attn.q_proj.weight"},
         TN_ERROR_UNSUPPORTED,
         "tensor 'model.layers.1.self_attn.q_proj.weight' is stored as I8; supported are F32, BF16 and F16"},
    };
    (void)state;
    assert_ok(load_changed(&(change){0}));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(load_changed(&wrong[i].change), wrong[i].status, wrong[i].words);
}

static void tensors_of_no_use_are_counted(void **state) {
    tn_model *model;
    tn_model_info info;
    (void)state;
    write_changed(temporary("changed/model.safetensors"), temporary("good/model.safetensors"),
                  &(change){.extra = "model.layers.0.self_attn.rotary_emb.inv_freq", .value = 1});
    assert_ok(tn_model_load(temporary("changed"), &model));
    tn_model_describe(model, &info);
    assert_int_equal(info.unused_tensors, 0);
    tn_model_free(model);
    write_changed(temporary("changed/model.safetensors"), temporary("good/model.safetensors"),
                  &(change){.extra = "model.layers.0.self_attn.q_proj.bias", .value = 1});
    assert_ok(tn_model_load(temporary("changed"), &model));
    tn_model_describe(model, &info);
    assert_int_equal(info.unused_tensors, 1);
    assert_string_equal(info.first_unused, "model.layers.0.self_attn.q_proj.bias");
    assert_int_equal(info.parameters, 37 * 24 * 2 + 24 + 2 * (24 * (24 + 12 + 12 + 24) + 3 * 24 * 40 + 48));
    assert_int_equal(info.bytes, info.parameters * 4);
    tn_model_free(model);
}

static void folders_that_are_no_models_are_explained(void **state) {
    (void)state;
    assert_fails(load("nowhere"), TN_ERROR_IO, "is not a folder; a model is a folder with config.json");
    assert_ok(tn_dir_create(temporary("empty")));
    assert_fails(load("empty"), TN_ERROR_IO, "empty/config.json");
    write_text(temporary("empty/config.json"), SMALL_LLAMA);
    assert_fails(load("empty"), TN_ERROR_IO, "model.safetensors");
    write_text(temporary("empty/config.json"), "{\"model_type\": ");
    assert_fails(load("empty"), TN_ERROR_FORMAT, "empty/config.json");
}

/* --- shards --- */

/* Every tensor of "good" in one shard but those of layer 1, which lie in a second; the index as `edit` makes it. */
static void store_shards(const char *old, const char *new) {
    tn_safetensors file;
    tn_buf index = {0};
    tn_safetensors_writer *writers[2];
    assert_ok(tn_path_remove_tree(temporary("shards")));
    assert_ok(tn_dir_create(temporary("shards")));
    write_text(temporary("shards/config.json"), SMALL_LLAMA);
    assert_ok(tn_safetensors_open(temporary("good/model.safetensors"), &file));
    tn_buf_puts(&index, "{\"metadata\": {}, \"weight_map\": {");
    for (int s = 0; s < 2; s++)
        assert_ok(tn_safetensors_writer_new(&writers[s], temporary("shards/model-0000%d-of-00002.safetensors", s + 1)));
    for (int writing = 0; writing < 2; writing++) {
        for (size_t i = 0; i < file.count; i++) {
            const tn_tensor *t = &file.entries[i].tensor;
            int shard = strstr(file.entries[i].name, "layers.1.") != NULL;
            if (writing) {
                assert_ok(tn_safetensors_writer_data(writers[shard], t->data, tn_tensor_bytes(t)));
            } else {
                assert_ok(tn_safetensors_writer_declare(writers[shard], file.entries[i].name, t->dtype, t->ndim, t->shape));
                tn_buf_printf(&index, "%s\"%s\": \"model-0000%d-of-00002.safetensors\"", i ? ", " : "", file.entries[i].name,
                              shard + 1);
            }
        }
        for (int s = 0; s < 2 && !writing; s++)
            assert_ok(tn_safetensors_writer_begin(writers[s]));
    }
    for (int s = 0; s < 2; s++)
        assert_ok(tn_safetensors_writer_finish(writers[s]));
    tn_buf_puts(&index, "}}");
    char *text = with_replaced(tn_buf_text(&index), old, new);
    write_text(temporary("shards/model.safetensors.index.json"), text);
    free(text);
    tn_buf_free(&index);
    tn_safetensors_close(&file);
}

static void shards_are_one_model(void **state) {
    tn_model *whole, *parts;
    int64_t count;
    (void)state;
    store_shards("{}", "{}");
    assert_ok(tn_model_load(temporary("good"), &whole));
    assert_ok(tn_model_load(temporary("shards"), &parts));
    float *logits = probe(whole, &count);
    assert_true(probe_difference(parts, logits) == 0);
    tn_free(logits);
    tn_model_free(parts);
    tn_model_free(whole);
}

static void broken_shards_are_named(void **state) {
    (void)state;
    store_shards("\"model.norm.weight\"", "\"model.nrm.weight\"");
    assert_fails(load("shards"), TN_ERROR_FORMAT, "'model.nrm.weight' is not in its shard");
    store_shards("\"model.norm.weight\": \"model-00001-of-00002.safetensors\", ", "");
    assert_fails(load("shards"), TN_ERROR_MISMATCH, "no tensor 'model.norm.weight'");
    store_shards("\"model.norm.weight\": \"model-00001", "\"model.norm.weight\": \"model-00002");
    assert_fails(load("shards"), TN_ERROR_FORMAT, "'model.norm.weight' is not in its shard");
    store_shards("\"model.norm.weight\": \"model-00001-of-00002.safetensors\"",
                 "\"model.norm.weight\": \"../good/model.safetensors\"");
    assert_int_equal(load("shards"), TN_ERROR_FORMAT);
    store_shards("\"model.norm.weight\": \"model-00001-of-00002.safetensors\"", "\"model.norm.weight\": 3");
    assert_int_equal(load("shards"), TN_ERROR_FORMAT);
    store_shards("{}", "{}");
    assert_int_equal(unlink(temporary("shards/model-00002-of-00002.safetensors")), 0);
    assert_fails(load("shards"), TN_ERROR_IO, "model-00002-of-00002.safetensors");
    store_shards("\"weight_map\"", "\"weights\"");
    assert_fails(load("shards"), TN_ERROR_FORMAT, "weight_map");
}

/* --- from a configuration --- */

static void created_models_depend_on_the_seed_alone(void **state) {
    tn_decoder *model[3];
    (void)state;
    write_text(temporary("alone.json"), SMALL_LLAMA);
    for (int i = 0; i < 3; i++)
        assert_ok(tn_decoder_create(temporary("alone.json"), i == 2 ? 8 : 7, &model[i]));
    size_t bytes = (size_t)model[0]->net.random_bytes;
    assert_true(bytes > 0 && model[1]->net.random_bytes == model[0]->net.random_bytes);
    assert_memory_equal(model[0]->net.random_weights, model[1]->net.random_weights, bytes);
    assert_true(memcmp(model[0]->net.random_weights, model[2]->net.random_weights, bytes) != 0);
    double sum = 0, square = 0;
    const float *table = model[0]->net.embedding->weight.tensor.data;
    for (int i = 0; i < 37 * 24; i++) {
        sum += table[i];
        square += (double)table[i] * table[i];
    }
    assert_true(fabs(sum / (37 * 24)) < 0.03 && fabs(sqrt(square / (37 * 24)) - 0.2) < 0.02);
    for (int i = 0; i < 24; i++)
        assert_true(((float *)model[0]->final_norm->weight.tensor.data)[i] == 1);
    /* no two tensors are alike */
    assert_true(memcmp(model[0]->layers[0].q->weight.tensor.data, model[0]->layers[1].q->weight.tensor.data,
                       24 * sizeof(float)) != 0);
    assert_true(memcmp(model[0]->net.head->weight.tensor.data, table, 24 * sizeof(float)) != 0);
    for (int i = 0; i < 3; i++)
        tn_decoder_free(model[i]);
}

static void created_models_need_a_configuration(void **state) {
    tn_decoder *model;
    (void)state;
    assert_fails(tn_decoder_create(temporary("nowhere.json"), 1, &model), TN_ERROR_IO, "nowhere.json");
    assert_null(model);
    write_text(temporary("huge.json"),
               "{\"model_type\": \"llama\", \"vocab_size\": 268435456, \"hidden_size\": 268435456, "
               "\"intermediate_size\": 268435456, \"num_hidden_layers\": 10000, \"num_attention_heads\": 65536}");
    assert_fails(tn_decoder_create(temporary("huge.json"), 1, &model), TN_ERROR_FORMAT, "too large");
    assert_null(model);
}

static void created_model_is_the_same_after_storing(void **state) {
    static const char *const configs[] = {
        SMALL_LLAMA,
        "{\"model_type\": \"qwen2\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": 40, "
        "\"num_hidden_layers\": 2, "
        "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"initializer_range\": 0.2, \"tie_word_embeddings\": true}",
        "{\"model_type\": \"qwen3\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": 40, "
        "\"num_hidden_layers\": 2, "
        "\"num_attention_heads\": 4, \"head_dim\": 10, \"initializer_range\": 0.2}",
    };
    (void)state;
    for (int i = 0; i < 3; i++) {
        tn_model *model = create_model(configs[i], 3), *stored;
        int64_t count;
        float *logits = probe(model, &count);
        stored = create_stored_model(configs[i], 3, i ? "stored" : "stored-llama", "f32");
        assert_true(probe_difference(stored, logits) == 0);
        assert_int_equal(stored->network->unused_tensors, 0);
        assert_int_equal(tn_network_parameters(stored->network), tn_network_parameters(model->network));
        tn_free(logits);
        tn_model_free(stored);
        tn_model_free(model);
    }
}

static void every_failed_allocation_of_loading_is_an_error(void **state) {
    tn_status status = TN_ERROR_MEMORY;
    (void)state;
    store_shards("{}", "{}");
    for (int count = 0; status != TN_OK && count < 3000; count++) {
        tn_memory_fail_after(count);
        status = load("shards");
        tn_memory_fail_after(-1);
        assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
    }
    assert_ok(status);
}

static void positions_beyond_reason_are_refused(void **state) {
    tn_decoder *model;
    (void)state;
    assert_ok(tn_decoder_load(temporary("good"), &model));
    assert_fails(tn_decoder_prepare(model, INT64_MAX / 2), TN_ERROR_ARGUMENT, "positions are too many");
    assert_ok(tn_decoder_prepare(model, 100));
    assert_ok(tn_decoder_prepare(model, 50));
    assert_int_equal(model->rope_positions, 100);
    assert_true(model->rope_cos[0] == 1 && model->rope_sin[0] == 0);
    tn_kv_cache cache;
    assert_fails(tn_kv_cache_init(&cache, model, 1000, INT64_MAX / 1000), TN_ERROR_ARGUMENT, "too large");
    tn_kv_cache_free(&cache);
    tn_decoder_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_that_do_not_fit_are_named),
        cmocka_unit_test(tensors_of_no_use_are_counted),
        cmocka_unit_test(folders_that_are_no_models_are_explained),
        cmocka_unit_test(shards_are_one_model),
        cmocka_unit_test(broken_shards_are_named),
        cmocka_unit_test(created_models_depend_on_the_seed_alone),
        cmocka_unit_test(created_models_need_a_configuration),
        cmocka_unit_test(created_model_is_the_same_after_storing),
        cmocka_unit_test(every_failed_allocation_of_loading_is_an_error),
        cmocka_unit_test(positions_beyond_reason_are_refused),
    };
    return cmocka_run_group_tests(tests, store_model, remove_temporary);
}
