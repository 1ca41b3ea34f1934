/* Small random checkpoints and adapters in a temporary folder. */
#ifndef TESTS_SESSION_SMALL_MODEL_H
#define TESTS_SESSION_SMALL_MODEL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "format/json.h"
#include "session/merge.h"

static char folder[64] = "/tmp/tenon-session-XXXXXX";

#define OK(call)                                                                                                            \
    do {                                                                                                                    \
        if ((call) != TN_OK)                                                                                                \
            fail_msg("%s: %s", #call, tn_error_message());                                                                  \
    } while (0)

/* One of a few paths in the folder; valid for the next seven calls. */
static inline const char *at(const char *name) {
    static char paths[8][TN_PATH_MAX];
    static int next;
    char *path = paths[next++ % 8];
    OK(tn_path_join(path, folder, name));
    return path;
}

static inline void write_text(const char *path, const char *text) {
    OK(tn_file_write(path, text, strlen(text)));
}

/* A llama checkpoint of two layers at `name` below the folder. */
static inline void make_base(const char *name, bool tied, const char *dtype) {
    char config[600], path[TN_PATH_MAX];
    tn_model *model;
    snprintf(
        config, sizeof config,
        "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 97, \"hidden_size\": 16, "
        "\"intermediate_size\": 24, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
        "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-05, \"initializer_range\": 0.3, \"torch_dtype\": "
        "\"float32\", "
        "\"tie_word_embeddings\": %s}",
        tied ? "true" : "false");
    snprintf(path, sizeof path, "%s.json", at(name));
    write_text(path, config);
    OK(tn_model_create(path, 1, &model));
    OK(tn_adapter_create_full(model->network, false, &model->adapter));
    OK(tn_session_write_checkpoint(model, at(name), dtype, 1, NULL));
    tn_model_free(model);
}

/* A model with an adapter whose values are random, saved at `adapter` as well. */
static inline tn_model *load_with_adapter(const char *base, const char *adapter, const tn_adapter_options *options) {
    tn_model *model;
    OK(tn_model_load(at(base), &model));
    OK(tn_model_add_adapter(model, options, 7));
    tn_params *params = &model->adapter->params;
    tn_fill_normal(params->values, (size_t)params->total, 3, tn_stream(TN_STREAM_INIT, 1), 0, 0.2f);
    OK(tn_model_save_adapter(model, at(adapter)));
    OK(tn_model_load_adapter(model, at(adapter), false, false));
    return model;
}

static inline int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state) {
    (void)state;
    return tn_path_remove_tree(folder) == TN_OK ? 0 : -1;
}

#endif
