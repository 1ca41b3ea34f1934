/* What tests of the upper floors share: checks of statuses with their words, folders that vanish, small checkpoints. */
#ifndef TENON_TESTS_SUPPORT_H
#define TENON_TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "peft/lora.h"
#include "session/merge.h"

static inline void check_ok(tn_status status, const char *call, const char *file, int line) {
    if (status != TN_OK)
        print_error("%s: %s\n", call, tn_error_message());
    _assert_true(status == TN_OK, call, file, line);
}
#define assert_ok(call) check_ok((call), #call, __FILE__, __LINE__)

static inline void check_fails(tn_status got, tn_status want, const char *words, const char *call, const char *file,
                               int line) {
    bool good = got == want && strstr(tn_error_message(), words);
    if (!good)
        print_error("%s: wanted %s '%s', got %s '%s'\n", call, tn_status_name(want), words, tn_status_name(got),
                    got == TN_OK ? "" : tn_error_message());
    _assert_true(good, call, file, line);
}
/* The call fails with this status, and its message holds these words. */
#define assert_fails(call, status, words) check_fails((call), (status), (words), #call, __FILE__, __LINE__)

/* A folder of this process, made on first use; remove_temporary takes it away. */
static char temporary_dir[64];

static inline int remove_temporary(void **state) {
    (void)state;
    if (temporary_dir[0])
        tn_path_remove_tree(temporary_dir);
    temporary_dir[0] = 0;
    return 0;
}

/* A path in it; good until the eighth call after this one. */
static inline const char *temporary(const char *format, ...) TN_PRINTF(1, 2);
static inline const char *temporary(const char *format, ...) {
    static char paths[8][512];
    static int next;
    char name[256];
    va_list args;
    if (!temporary_dir[0]) {
        /* in memory where that is possible: files are synced as they are written */
        strcpy(temporary_dir, access("/dev/shm", W_OK) == 0 ? "/dev/shm/tenon-test-XXXXXX" : "/tmp/tenon-test-XXXXXX");
        assert_non_null(mkdtemp(temporary_dir));
    }
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", temporary_dir, name);
    return path;
}

static inline void write_text(const char *path, const char *text) {
    assert_ok(tn_file_write(path, text, strlen(text)));
}

/* `text` with the first `old` replaced; owned by the caller of free(). */
static inline char *with_replaced(const char *text, const char *old, const char *new) {
    const char *at = strstr(text, old);
    assert_non_null(at);
    size_t length = strlen(text) - strlen(old) + strlen(new) + 1;
    char *result = malloc(length);
    assert_non_null(result);
    snprintf(result, length, "%.*s%s%s", (int)(at - text), text, new, at + strlen(old));
    return result;
}

static inline double largest_difference(const float *a, const float *b, int64_t count) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++) {
        double difference = fabs((double)a[i] - b[i]);
        if (!(difference <= largest))
            largest = difference;
    }
    return largest;
}

/* A llama of two layers with every kind of odd size; the head is the embedding when tied. */
#define SMALL_LLAMA                                                                                                         \
    "{\"model_type\": \"llama\", \"vocab_size\": 37, \"hidden_size\": 24, \"intermediate_size\": 40, "                      \
    "\"num_hidden_layers\": 2, "                                                                                            \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-06, "    \
    "\"initializer_range\": 0.2, \"attention_bias\": false, \"tie_word_embeddings\": false}"

/* Weights stored transposed, one projection for q, k and v, learned positions; the head is the embedding. */
#define SMALL_GPT2                                                                                                          \
    "{\"model_type\": \"gpt2\", \"vocab_size\": 37, \"n_embd\": 24, \"n_inner\": 40, \"n_layer\": 2, \"n_head\": 4, "       \
    "\"n_positions\": 64, \"initializer_range\": 0.2}"

/* A model from this config.json whose every tensor, norms and biases too, is random. */
static inline tn_model *create_model(const char *config, uint64_t seed) {
    tn_model *model;
    const char *path = temporary("config-%llu.json", (unsigned long long)seed);
    write_text(path, config);
    assert_ok(tn_model_create(path, seed, &model));
    for (int64_t i = 0; i < model->network->module_count; i++) {
        tn_module *module = &model->network->modules[i];
        uint64_t stream = tn_stream(TN_STREAM_DATA, (uint32_t)i);
        if (module->kind == TN_MODULE_NORM)
            tn_fill_normal(module->weight.tensor.data, (size_t)module->weight.tensor.shape[0], seed, stream, 1, 0.2f);
        if (module->has_bias)
            tn_fill_normal(module->bias.tensor.data, (size_t)module->bias.tensor.shape[0], seed, stream + 1000, 0, 0.2f);
    }
    return model;
}

/* The same written to the folder `name` in `dtype` and loaded from there. */
static inline tn_model *create_stored_model(const char *config, uint64_t seed, const char *name, const char *dtype) {
    tn_model *model = create_model(config, seed), *stored;
    assert_ok(tn_session_write_checkpoint(model, temporary("%s", name), dtype, 1, NULL));
    tn_model_free(model);
    assert_ok(tn_model_load(temporary("%s", name), &stored));
    return stored;
}

/* Over all weights and biases of two models of the small shapes. */
static inline double largest_weight_difference(const tn_model *a, const tn_model *b) {
    static float x[37 * 40], y[37 * 40];
    double most = 0;
    for (int64_t i = 0; i < a->network->module_count; i++) {
        const tn_module *p = &a->network->modules[i], *q = &b->network->modules[i];
        const tn_tensor *pairs[2][2] = {{&tn_module_weight(p)->tensor, &tn_module_weight(q)->tensor},
                                        {&p->bias.tensor, &q->bias.tensor}};
        for (int k = 0; k < 1 + p->has_bias; k++) {
            int64_t count = tn_tensor_count(pairs[k][0]);
            tn_convert_to_f32(x, pairs[k][0]->data, pairs[k][0]->dtype, count);
            tn_convert_to_f32(y, pairs[k][1]->data, pairs[k][1]->dtype, count);
            most = fmax(most, largest_difference(x, y, count));
        }
    }
    return most;
}

/* Random values in every trained tensor, so that an adapter acts. */
static inline void randomise_adapter(tn_adapter *adapter, uint64_t seed, float std) {
    for (int64_t i = 0; i < adapter->params.count; i++) {
        const tn_param *param = &adapter->params.entries[i];
        tn_fill_normal(param->weight->tensor.data, (size_t)param->count, seed, tn_stream(TN_STREAM_DATA, (uint32_t)i), 0,
                       std);
    }
}

/* The logits of the probe prompt; free with tn_free. */
static inline float *probe(tn_model *model, int64_t *count) {
    float *logits;
    assert_ok(tn_session_probe_logits(model, &logits, count));
    return logits;
}

/* Largest difference between the logits of the probe and ones kept from before. */
static inline double probe_difference(tn_model *model, const float *kept) {
    int64_t count;
    float *logits = probe(model, &count);
    double largest = largest_difference(logits, kept, count);
    tn_free(logits);
    return largest;
}

#endif
