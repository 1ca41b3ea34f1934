/* GGUF models: llama.cpp's files against PyTorch's logits, and files of our own against the models they were written from.
 */
#include "session/gguf_write.h"

#include <tenon/evaluate.h>
#include <tenon/quantize.h>

#include "model/gguf_config.h"
#include "support/support.h"
#include "tensor/gguf_tensors.h"

static const char *source_path(const char *folder, const char *name, const char *file) {
    static char paths[4][TN_PATH_MAX];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, TN_PATH_MAX, "%s/tests/%s/%s/%s", TENON_SOURCE_ROOT, folder, name, file);
    return path;
}

static const tn_tensor *tensor(const tn_safetensors *file, const char *name) {
    const tn_safetensors_entry *entry = tn_safetensors_find(file, name);
    assert_non_null(entry);
    return &entry->tensor;
}

static double tolerance(const cJSON *json, const char *key) {
    return tn_json_get(tn_json_get(json, "tolerance"), key)->valuedouble;
}

static void logits_and_loss_agree(const char *name, const cJSON *json, tn_model *model) {
    tn_safetensors want, got;
    const char *output = temporary("out.safetensors");
    assert_ok(tn_forward_file(model, source_path("golden_quant", name, "io.safetensors"), output, false, false));
    assert_ok(tn_safetensors_open(source_path("golden_quant", name, "io.safetensors"), &want));
    assert_ok(tn_safetensors_open(output, &got));
    const tn_tensor *logits = tensor(&want, "logits");
    assert_true(largest_difference(tensor(&got, "logits")->data, logits->data, tn_tensor_count(logits)) <=
                tolerance(json, "logits_abs"));
    assert_true(largest_difference(tensor(&got, "loss")->data, tensor(&want, "loss")->data, 1) <=
                tolerance(json, "loss_abs"));
    tn_safetensors_close(&want);
    tn_safetensors_close(&got);
}

/* Logits [count, V] of a sequence, in an open file. */
static const float *logits_of(tn_model *model, const int64_t *ids, int64_t count, tn_safetensors *out) {
    tn_safetensors_writer *writer;
    const int64_t shape[] = {1, count};
    const char *input = temporary("ids.safetensors"), *output = temporary("logits.safetensors");
    assert_ok(tn_safetensors_writer_new(&writer, input));
    assert_ok(tn_safetensors_writer_declare(writer, "input_ids", TN_DTYPE_I64, 2, shape));
    assert_ok(tn_safetensors_writer_begin(writer));
    assert_ok(tn_safetensors_writer_data(writer, ids, count * (int64_t)sizeof *ids));
    assert_ok(tn_safetensors_writer_finish(writer));
    assert_ok(tn_forward_file(model, input, output, false, false));
    assert_ok(tn_safetensors_open(output, out));
    return tensor(out, "logits")->data;
}

static int64_t best_token(const float *logits, int64_t count) {
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

static void greedy_tokens_are(const cJSON *json, tn_model *model) {
    enum { MOST = 64 };
    const cJSON *prompt = tn_json_get(json, "prompt_ids"), *greedy = tn_json_get(json, "greedy_ids"), *id;
    int64_t ids[MOST], count = 0, begin = cJSON_GetArraySize(prompt), vocab = model->network->vocab_size;
    tn_safetensors out;
    cJSON_ArrayForEach(id, prompt) ids[count++] = id->valueint;
    cJSON_ArrayForEach(id, greedy) ids[count++] = id->valueint;
    assert_true(count > begin && count < MOST);
    const float *logits = logits_of(model, ids, count, &out);
    for (int64_t i = begin; i < count; i++)
        assert_int_equal(best_token(logits + (i - 1) * vocab, vocab), ids[i]);
    tn_safetensors_close(&out);
}

static void file_of_llama_cpp_agrees_with_pytorch(void **state) {
    static const char *const names[] = {"gguf_stories_q4_0", "gguf_llama_q2_k", "gguf_qwen2_q4_k_s"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cJSON *json;
        tn_model *model;
        assert_ok(tn_json_read(source_path("golden_quant", names[i], "case.json"), 1 << 20, &json));
        assert_ok(tn_model_load(source_path("golden_quant", names[i], "base"), &model));
        logits_and_loss_agree(names[i], json, model);
        greedy_tokens_are(json, model);
        tn_model_free(model);
        cJSON_Delete(json);
    }
}

/* Same bits: the weights are the same f32 or bf16 numbers in the same order. */
static void check_round_trip(const char *name) {
    int64_t count, again;
    tn_model *model, *read;
    const char *path = temporary("%s.gguf", name);
    assert_ok(tn_model_load(source_path("golden", name, "base"), &model));
    assert_ok(tn_session_write_gguf(model, path, NULL, NULL));
    assert_ok(tn_model_load(path, &read));
    assert_int_equal(read->network->unused_tensors, 0);
    assert_string_equal(read->network->family, model->network->family);
    assert_int_equal(tn_network_parameters(read->network), tn_network_parameters(model->network));
    assert_int_equal(read->decoder->config.bos, model->decoder->config.bos);
    assert_int_equal(read->decoder->config.eos_count, model->decoder->config.eos_count);
    assert_memory_equal(read->decoder->config.eos, model->decoder->config.eos, sizeof model->decoder->config.eos);
    float *before = probe(model, &count), *after = probe(read, &again);
    assert_int_equal(count, again);
    assert_memory_equal(before, after, (size_t)count * sizeof *before);
    tn_free(before);
    tn_free(after);
    tn_model_free(model);
    tn_model_free(read);
}

static void model_survives_the_way_through_gguf_bit_for_bit(void **state) {
    static const char *const names[] = {"base_llama",
                                        "base_llama_bf16",
                                        "base_llama_bias",
                                        "base_llama_rope_linear",
                                        "base_llama_rope_llama3",
                                        "base_llama_rope_yarn",
                                        "base_llama_f16_sharded",
                                        "base_qwen2"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_round_trip(names[i]);
}

/* A trained model with its byte-level tokenizer. */
static void bundled_model_has_the_same_words_as_gguf(void **state) {
    static const char *const texts[] = {"The report of 2021, isn't it?", "  two  blanks\n\n", "<|endoftext|>na\xc3\xafve",
                                        ""};
    tn_model *model, *read;
    int64_t count;
    (void)state;
    assert_ok(tn_model_load(TENON_SOURCE_ROOT "/assets/base-model", &model));
    assert_ok(tn_session_write_gguf(model, temporary("bundled.gguf"), NULL, NULL));
    assert_ok(tn_model_load(temporary("bundled.gguf"), &read));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        for (int special = 0; special < 2; special++) {
            int32_t *ids, *again;
            size_t first, second;
            assert_ok(tn_model_encode(model, texts[i], strlen(texts[i]), special, &ids, &first));
            assert_ok(tn_model_encode(read, texts[i], strlen(texts[i]), special, &again, &second));
            assert_int_equal(first, second);
            for (size_t k = 0; k < first; k++)
                assert_int_equal(ids[k], again[k]);
            tn_free_ids(ids);
            tn_free_ids(again);
        }
    }
    float *logits = probe(model, &count);
    assert_true(probe_difference(read, logits) == 0);
    tn_free(logits);
    tn_model_free(model);
    tn_model_free(read);
}

static void gguf_written_again_is_the_same_file(void **state) {
    tn_model *model;
    tn_gguf first, second;
    (void)state;
    assert_ok(tn_model_load(source_path("golden_quant", "gguf_stories_q4_0", "base"), &model));
    assert_ok(tn_session_write_gguf(model, temporary("again.gguf"), NULL, NULL));
    tn_model_free(model);
    assert_ok(tn_gguf_open(source_path("golden_quant", "gguf_stories_q4_0", "base/model.gguf"), &first));
    assert_ok(tn_gguf_open(temporary("again.gguf"), &second));
    assert_int_equal(first.tensor_count, second.tensor_count);
    for (size_t i = 0; i < first.tensor_count; i++) {
        const tn_gguf_tensor *a = &first.tensors[i], *b = tn_gguf_find_tensor(&second, a->name);
        assert_non_null(b);
        assert_int_equal(a->type, b->type);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, (size_t)a->bytes);
    }
    for (size_t i = 0; i < first.value_count; i++) {
        const tn_gguf_value *a = &first.values[i], *b = tn_gguf_find(&second, a->key);
        assert_non_null(b);
        assert_int_equal(a->count, b->count);
        if (a->kind == TN_GGUF_STRING || strcmp(a->key, "general.name") == 0 || strcmp(a->key, "tokenizer.ggml.scores") == 0)
            continue;
        assert_int_equal(a->kind, b->kind);
        assert_memory_equal(a->elements, b->elements, (size_t)a->count * 4);
    }
    tn_gguf_close(&first);
    tn_gguf_close(&second);
}

static uint32_t feed_forward_in_q8_0(void *context, const char *name, const tn_tensor *t, uint32_t stored) {
    int *asked = context;
    ++*asked;
    return strstr(name, "ffn_") && t->shape[1] % 32 == 0 ? TN_GGML_Q8_0 : stored;
}

static void chosen_types_are_written_and_others_kept(void **state) {
    tn_model *model;
    tn_gguf file;
    int asked = 0, quantised = 0;
    float values[64], expected[64];
    uint8_t blocks[68];
    (void)state;
    assert_ok(tn_model_load(source_path("golden_quant", "gguf_stories_q4_0", "base"), &model));
    assert_ok(tn_session_write_gguf(model, temporary("q8.gguf"), feed_forward_in_q8_0, &asked));
    assert_ok(tn_gguf_open(temporary("q8.gguf"), &file));
    for (size_t i = 0; i < file.tensor_count; i++) {
        const tn_gguf_tensor *t = &file.tensors[i];
        bool chosen = strstr(t->name, "ffn_") && t->ndim == 2;
        quantised += chosen;
        assert_int_equal(t->type, t->ndim == 1                                          ? TN_GGML_F32
                                  : chosen || strcmp(t->name, "token_embd.weight") == 0 ? TN_GGML_Q8_0
                                                                                        : TN_GGML_Q4_0);
    }
    assert_int_equal(quantised, 15);
    assert_int_equal(asked, 36);
    const tn_tensor *up = &tn_network_module(model->network, "model.layers.0.mlp.up_proj")->weight.tensor;
    const tn_gguf_tensor *written = tn_gguf_find_tensor(&file, "blk.0.ffn_up.weight");
    tn_tensor_read(values, up, 0, 64);
    assert_ok(tn_ggml_encode(TN_GGML_Q8_0, blocks, values, 1, 64));
    assert_memory_equal(blocks, written->data, sizeof blocks);
    assert_ok(tn_ggml_decode(TN_GGML_Q8_0, expected, blocks, 1, 64));
    tn_gguf_close(&file);
    tn_model_free(model);
    assert_ok(tn_model_load(temporary("q8.gguf"), &model));
    up = &tn_network_module(model->network, "model.layers.0.mlp.up_proj")->weight.tensor;
    tn_tensor_read(values, up, 0, 64);
    assert_memory_equal(values, expected, sizeof values);
    tn_model_free(model);
}

/* The rows of q are permuted with the adapter's B or not at all. */
static void adapter_acts_on_gguf_as_on_the_folder(void **state) {
    tn_model *folder, *gguf;
    int64_t count;
    (void)state;
    folder = create_stored_model(SMALL_LLAMA, 3, "folder", "f32");
    assert_ok(tn_session_write_gguf(folder, temporary("one.gguf"), NULL, NULL));
    assert_ok(tn_model_load(temporary("one.gguf"), &gguf));
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.target_modules = "all-linear";
    assert_ok(tn_model_add_adapter(folder, &options, 5));
    randomise_adapter(folder->adapter, 6, 0.3f);
    assert_ok(tn_model_save_adapter(folder, temporary("adapter")));
    assert_ok(tn_model_load_adapter(gguf, temporary("adapter"), false, false));
    float *with = probe(folder, &count);
    assert_true(probe_difference(gguf, with) == 0);

    tn_merge_report report;
    tn_model *merged;
    assert_ok(tn_model_merge(gguf, temporary("merged"), "f32", &report));
    assert_int_equal(report.modules, 14);
    assert_true(tn_path_exists(temporary("merged/model.safetensors")));
    assert_ok(tn_model_load(temporary("merged"), &merged));
    assert_true(probe_difference(merged, with) < 1e-4);
    assert_fails(tn_model_merge(gguf, temporary_dir, "f32", NULL), TN_ERROR_ARGUMENT, "own folder");
    tn_free(with);
    tn_model_free(merged);
    tn_model_free(folder);
    tn_model_free(gguf);
}

/* Codes become f32, exactly; the adapter's modules change as they do on the folder that results. */
static void merge_into_quantised_gguf_gives_a_plain_folder(void **state) {
    tn_model *gguf, *merged;
    int64_t count;
    tn_merge_report report;
    (void)state;
    assert_ok(tn_model_load(source_path("golden_quant", "gguf_stories_q4_0", "base"), &gguf));
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    assert_ok(tn_model_add_adapter(gguf, &options, 5));
    randomise_adapter(gguf->adapter, 6, 0.1f);
    float *with = probe(gguf, &count);
    assert_ok(tn_model_merge(gguf, temporary("plain"), "keep", &report));
    assert_int_equal(report.modules, 10);
    assert_true(report.logit_difference < 1e-3);
    assert_ok(tn_model_load(temporary("plain"), &merged));
    assert_true(probe_difference(merged, with) < 1e-3);
    tn_model_info info;
    tn_model_describe(merged, &info);
    assert_string_equal(info.dtype, "F32");
    assert_true(info.has_tokenizer);
    float a[64], b[64];
    tn_tensor_read(a, &gguf->network->embedding->weight.tensor, 64, 64);
    tn_tensor_read(b, &merged->network->embedding->weight.tensor, 64, 64);
    assert_memory_equal(a, b, sizeof a);

    int32_t *ids, *again;
    size_t first, second;
    assert_ok(tn_model_encode(gguf, "Once upon a time", 16, true, &ids, &first));
    assert_ok(tn_model_encode(merged, "Once upon a time", 16, true, &again, &second));
    assert_int_equal(first, second);
    assert_memory_equal(ids, again, first * sizeof *ids);
    tn_free_ids(ids);
    tn_free_ids(again);
    tn_free(with);
    tn_model_free(gguf);
    tn_model_free(merged);
}

/* The types stay, and the adapter's effect but for what the codes lose. */
static void requantised_merge_into_gguf_is_gguf_again(void **state) {
    tn_model *gguf, *merged;
    int64_t count;
    tn_merge_report report;
    tn_gguf file;
    (void)state;
    assert_ok(tn_model_load(source_path("golden_quant", "gguf_stories_q4_0", "base"), &gguf));
    float *base = probe(gguf, &count);
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    assert_ok(tn_model_add_adapter(gguf, &options, 5));
    randomise_adapter(gguf->adapter, 6, 0.3f);
    float *with = probe(gguf, &count);
    assert_ok(tn_model_merge_requantized(gguf, temporary("codes"), NULL, &report));
    assert_int_equal(report.modules, 10);
    assert_ok(tn_model_load(temporary("codes"), &merged));
    float *after = probe(merged, &count);
    assert_true(fabs(largest_difference(after, with, count) - report.logit_difference) < 1e-4);
    double lost = 0, effect = 0;
    for (int64_t i = 0; i < count; i++) {
        lost += pow((double)after[i] - with[i], 2);
        effect += pow((double)base[i] - with[i], 2);
    }
    assert_true(lost < 0.1 * effect);
    assert_ok(tn_gguf_open(temporary("codes/model.gguf"), &file));
    assert_int_equal(tn_gguf_find_tensor(&file, "blk.0.attn_q.weight")->type, TN_GGML_Q4_0);
    assert_int_equal(tn_gguf_find_tensor(&file, "token_embd.weight")->type, TN_GGML_Q8_0);
    tn_gguf_close(&file);
    tn_free(base);
    tn_free(with);
    tn_free(after);
    tn_model_free(gguf);
    tn_model_free(merged);
}

static void path_means_a_gguf_file_or_the_only_one_of_a_folder(void **state) {
    tn_model *model = create_stored_model(SMALL_LLAMA, 4, "safe", "f32");
    char file[TN_PATH_MAX];
    bool found;
    (void)state;
    assert_ok(tn_dir_create(temporary("lone")));
    assert_ok(tn_session_write_gguf(model, temporary("lone/some-name.gguf"), NULL, NULL));
    assert_ok(tn_gguf_locate(temporary("lone"), file, &found));
    assert_true(found && strstr(file, "some-name.gguf"));
    assert_ok(tn_session_write_gguf(model, temporary("lone/other.gguf"), NULL, NULL));
    assert_fails(tn_gguf_locate(temporary("lone"), file, &found), TN_ERROR_ARGUMENT, "several GGUF files");
    assert_ok(tn_session_write_gguf(model, temporary("lone/model.gguf"), NULL, NULL));
    assert_ok(tn_gguf_locate(temporary("lone"), file, &found));
    assert_true(found && strstr(file, "model.gguf"));
    /* weights in safetensors come first */
    assert_ok(tn_session_write_gguf(model, temporary("safe/model.gguf"), NULL, NULL));
    assert_ok(tn_gguf_locate(temporary("safe"), file, &found));
    assert_false(found);
    assert_ok(tn_gguf_locate(temporary("absent"), file, &found));
    assert_false(found);
    tn_model_free(model);
}

static void what_gguf_cannot_say_is_refused(void **state) {
    (void)state;
    tn_model *model = create_model(SMALL_GPT2, 8);
    assert_fails(tn_session_write_gguf(model, temporary("no.gguf"), NULL, NULL), TN_ERROR_UNSUPPORTED, "gpt2");
    tn_model_free(model);
    char *windowed = with_replaced(SMALL_LLAMA, "\"llama\"", "\"qwen2\", \"use_sliding_window\": true");
    char *early = with_replaced(windowed, "\"vocab_size\"", "\"max_window_layers\": 0, \"vocab_size\"");
    model = create_model(early, 9);
    assert_fails(tn_session_write_gguf(model, temporary("no.gguf"), NULL, NULL), TN_ERROR_UNSUPPORTED, "sliding window");
    assert_false(tn_path_exists(temporary("no.gguf")));
    tn_model_free(model);
    free(windowed);
    free(early);
}

static uint32_t all_in_q4_k(void *context, const char *name, const tn_tensor *t, uint32_t stored) {
    (void)context;
    (void)name;
    (void)t;
    (void)stored;
    return TN_GGML_Q4_K;
}

static void failed_write_leaves_no_file(void **state) {
    tn_model *model = create_model(SMALL_LLAMA, 10);
    (void)state;
    assert_fails(tn_session_write_gguf(model, temporary("half.gguf"), all_in_q4_k, NULL), TN_ERROR_ARGUMENT, "token_embd");
    assert_false(tn_path_exists(temporary("half.gguf")));
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_of_llama_cpp_agrees_with_pytorch),
        cmocka_unit_test(model_survives_the_way_through_gguf_bit_for_bit),
        cmocka_unit_test(bundled_model_has_the_same_words_as_gguf),
        cmocka_unit_test(gguf_written_again_is_the_same_file),
        cmocka_unit_test(chosen_types_are_written_and_others_kept),
        cmocka_unit_test(adapter_acts_on_gguf_as_on_the_folder),
        cmocka_unit_test(merge_into_quantised_gguf_gives_a_plain_folder),
        cmocka_unit_test(requantised_merge_into_gguf_is_gguf_again),
        cmocka_unit_test(path_means_a_gguf_file_or_the_only_one_of_a_folder),
        cmocka_unit_test(what_gguf_cannot_say_is_refused),
        cmocka_unit_test(failed_write_leaves_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporary);
}
