/* What the tests of single methods share: adapters by their adapter_config.json, and its members beside PEFT's. */
#ifndef TENON_TESTS_METHOD_TEST_H
#define TENON_TESTS_METHOD_TEST_H

#include "support/support.h"

#define GOLDEN TENON_SOURCE_ROOT "/tests/golden/"

/* Puts an adapter of this configuration on the model. */
static inline tn_status attach(tn_model *model, const char *config_text, tn_adapter **out) {
    tn_peft_config config;
    cJSON *json = cJSON_Parse(config_text);
    assert_non_null(json);
    tn_status status = tn_peft_config_parse(json, "here", &config);
    cJSON_Delete(json);
    *out = NULL;
    return status == TN_OK ? tn_adapter_create(model->network, config.method, &config, true, 1, out) : status;
}

/* Each of the configurations is refused with these words. */
typedef struct {
    const char *config, *words;
} wrong_config;

static inline void assert_refused(tn_model *model, const wrong_config *wrong, size_t count) {
    tn_adapter *adapter;
    for (size_t i = 0; i < count; i++) {
        tn_status status = attach(model, wrong[i].config, &adapter);
        if (status == TN_OK || !strstr(tn_error_message(), wrong[i].words))
            fail_msg("%s: %s", wrong[i].config, status == TN_OK ? "accepted" : tn_error_message());
    }
}

/* PEFT refuses keys that it does not know, and fills in those that are missing: both have the same, but for its version. */
static inline void assert_same_keys(const char *got_path, const char *want_path) {
    cJSON *got, *want;
    const cJSON *item;
    assert_ok(tn_json_read(got_path, 1 << 20, &got));
    assert_ok(tn_json_read(want_path, 1 << 20, &want));
    cJSON_ArrayForEach(item, got) if (!cJSON_HasObjectItem(want, item->string)) fail_msg("PEFT has no '%s'", item->string);
    cJSON_ArrayForEach(item, want) if (strcmp(item->string, "peft_version") != 0 && !cJSON_HasObjectItem(got, item->string))
        fail_msg("'%s' is missing", item->string);
    cJSON_Delete(got);
    cJSON_Delete(want);
}

/* The module's output for x [rows, C] into out [rows, O]. */
static inline void run_linear(const tn_module *module, bool training, const float *x, int64_t rows, float *out) {
    const int64_t *shape = tn_module_weight(module)->tensor.shape;
    tn_tape tape;
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), 1 << 20));
    tn_forward forward = {.tape = &tape, .training = training, .dropout_seed = 3};
    tn_var *in = tn_var_new(&tape, rows, shape[1], false);
    memcpy(in->data, x, (size_t)(rows * shape[1]) * sizeof *x);
    tn_var *y = tn_linear_forward(&forward, module, in);
    assert_ok(tn_tape_status(&tape));
    memcpy(out, y->data, (size_t)(rows * shape[0]) * sizeof *out);
    tn_tape_free(&tape);
}

#endif
