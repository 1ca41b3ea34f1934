/* Any bytes as a GGUF model: what becomes a configuration, a tokenizer or tensors must make sense and be usable. */
#include "base/memory.h"
#include "fuzz.h"
#include "model/config.h"
#include "model/gguf_config.h"
#include "tensor/gguf_tensors.h"
#include "text/chat_template.h"
#include "text/gguf_tokenizer.h"
#include "text/tokenizer.h"

static bool is_refusal(tn_status status) {
    return status == TN_ERROR_FORMAT || status == TN_ERROR_UNSUPPORTED;
}

static void check_config(tn_gguf *file) {
    cJSON *json;
    tn_decoder_config config;
    tn_status status = tn_gguf_config(file, &json);
    fuzz_require(status == TN_OK || is_refusal(status));
    if (status != TN_OK)
        return;
    status = tn_decoder_config_parse(json, "model.gguf", &config);
    fuzz_require(status == TN_OK || is_refusal(status));
    if (status == TN_OK) {
        fuzz_require(config.layers > 0 && config.heads % config.kv_heads == 0 && config.head_size % 2 == 0);
        fuzz_require(strcmp(config.family, "llama") == 0 || strcmp(config.family, "qwen2") == 0);
        tn_decoder_config_free(&config);
    }
    cJSON_Delete(json);
}

static void use_tokenizer(const tn_tokenizer *tokenizer) {
    static const char text[] = "Hello  <s> w\xc3\xb6rld 123\n\xe2\x96\x81";
    tn_ids ids = {0};
    tn_buf back = {0};
    fuzz_require(tn_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids) == TN_OK);
    for (size_t i = 0; i < ids.count; i++)
        fuzz_require(ids.data[i] >= 0 && ids.data[i] < tn_tokenizer_vocab_size(tokenizer));
    fuzz_require(tn_tokenizer_decode(tokenizer, ids.data, ids.count, false, &back) == TN_OK);
    tn_ids_free(&ids);
    tn_buf_free(&back);
}

static void check_words(tn_gguf *file) {
    cJSON *json, *config;
    tn_tokenizer *tokenizer;
    tn_chat_template *chat_template;
    tn_status status = tn_gguf_tokenizer(file, &json, &config);
    fuzz_require(status == TN_OK || is_refusal(status));
    if (status != TN_OK)
        return;
    status = json ? tn_tokenizer_build(json, config, "model.gguf", &tokenizer) : TN_ERROR_FORMAT;
    fuzz_require(status == TN_OK || is_refusal(status));
    if (status == TN_OK) {
        use_tokenizer(tokenizer);
        tn_tokenizer_free(tokenizer);
    }
    if (tn_chat_template_build(config, "model.gguf", &chat_template) == TN_OK)
        tn_chat_template_free(chat_template);
    cJSON_Delete(json);
    cJSON_Delete(config);
}

static void check_tensors(tn_gguf *file, bool as_hf) {
    tn_safetensors tensors;
    float value;
    tn_status status = tn_gguf_tensors(file, as_hf, &tensors);
    fuzz_require(status == TN_OK || is_refusal(status));
    if (status != TN_OK)
        return;
    for (size_t i = 0; i < tensors.count; i++) {
        const tn_tensor *t = &tensors.entries[i].tensor;
        int64_t count = tn_tensor_count(t);
        if (count && (t->dtype == TN_DTYPE_QUANTISED || tn_dtype_is_float(t->dtype))) {
            tn_tensor_read(&value, t, 0, 1);
            tn_tensor_read(&value, t, count - 1, 1);
        }
    }
    tn_safetensors_close(&tensors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tn_gguf file;
    size_t used = tn_memory_used();
    if (tn_gguf_open(fuzz_file(data, size), &file) != TN_OK)
        return 0;
    check_config(&file);
    check_words(&file);
    check_tensors(&file, false);
    check_tensors(&file, true);
    tn_gguf_close(&file);
    fuzz_require(tn_memory_used() == used);
    return 0;
}
