/* A GGUF model: its metadata, and what the Hugging Face folder of the same model would say. */
#include <string.h>

#include "model/gguf_config.h"
#include "session/inspect_parts.h"
#include "tensor/gguf_tensors.h"
#include "text/chat_template.h"
#include "text/gguf_tokenizer.h"

/* Long texts and arrays by their size only. */
static void add_value(cJSON *out, const tn_gguf_value *value) {
    enum { SHOWN = 120 };
    char text[SHOWN + 1];
    double number;
    bool on;
    const tn_gguf_string *string = value->strings;
    if (value->is_array) {
        snprintf(text, sizeof text, "%lld x %s", (long long)value->count, tn_gguf_kind_name(value->kind));
        cJSON_AddStringToObject(out, value->key, text);
    } else if (value->kind == TN_GGUF_STRING && string->length > SHOWN) {
        snprintf(text, sizeof text, "%zu bytes of text", string->length);
        cJSON_AddStringToObject(out, value->key, text);
    } else if (value->kind == TN_GGUF_STRING) {
        memcpy(text, string->bytes, string->length);
        text[string->length] = 0;
        cJSON_AddStringToObject(out, value->key, text);
    } else if (tn_gguf_bool_at(value, 0, &on)) {
        cJSON_AddBoolToObject(out, value->key, on);
    } else if (tn_gguf_number_at(value, 0, &number)) {
        cJSON_AddNumberToObject(out, value->key, number);
    }
}

/* Every refusal but that of memory is part of the description. */
static tn_status add_config(cJSON *out, tn_gguf *file, bool *supported) {
    cJSON *json = NULL;
    const char *architecture;
    tn_status status = tn_gguf_config(file, &json);
    if (status == TN_OK) {
        status = tn_inspect_config(out, json, file->path, supported);
        cJSON_Delete(json);
        return status;
    }
    if (status == TN_ERROR_MEMORY)
        return status;
    tn_inspect_add_refusal(out, "supported");
    if (tn_gguf_get_string(file, "general.architecture", &architecture) == TN_OK)
        cJSON_AddStringToObject(out, "family", architecture);
    return TN_OK;
}

static tn_status add_tensors(cJSON *out, tn_gguf *file, const tn_inspect_options *options) {
    tn_safetensors tensors;
    tn_status status = tn_gguf_tensors(file, false, &tensors);
    if (status == TN_ERROR_MEMORY)
        return status;
    if (status != TN_OK) {
        cJSON_AddStringToObject(out, "tensors", tn_error_message());
        return TN_OK;
    }
    status = tn_inspect_tensors(out, &tensors, 1, NULL, false, options);
    tn_safetensors_close(&tensors);
    return status;
}

static tn_status add_words(cJSON *out, tn_gguf *file) {
    cJSON *json, *config, *o;
    tn_tokenizer *tokenizer = NULL;
    tn_chat_template *chat_template = NULL;
    tn_status status = tn_gguf_tokenizer(file, &json, &config);
    if (status == TN_ERROR_MEMORY)
        return status;
    if (status != TN_OK || json) {
        o = cJSON_AddObjectToObject(out, "tokenizer");
        if (status == TN_OK)
            status = tn_tokenizer_build(json, config, file->path, &tokenizer);
        tn_inspect_tokenizer(o, json, tokenizer);
    }
    if (config && status != TN_ERROR_MEMORY) {
        status = tn_chat_template_build(config, file->path, &chat_template);
        if (status == TN_OK)
            cJSON_AddBoolToObject(out, "chat_template", chat_template != NULL);
        else
            cJSON_AddStringToObject(out, "chat_template", tn_error_message());
    }
    tn_chat_template_free(chat_template);
    tn_tokenizer_free(tokenizer);
    cJSON_Delete(json);
    cJSON_Delete(config);
    return status == TN_ERROR_MEMORY ? status : TN_OK;
}

static tn_status describe(cJSON *out, tn_gguf *file, const tn_inspect_options *options) {
    char format[32];
    bool supported = false;
    snprintf(format, sizeof format, "GGUF %u", (unsigned)file->version);
    cJSON_AddStringToObject(out, "kind", "model");
    cJSON_AddStringToObject(out, "format", format);
    TN_TRY(add_config(out, file, &supported));
    TN_TRY(add_tensors(out, file, options));
    if (options->verify && supported)
        TN_TRY(tn_inspect_load(out, file->path));
    TN_TRY(add_words(out, file));
    cJSON *metadata = cJSON_AddObjectToObject(out, "metadata");
    for (size_t i = 0; i < file->value_count; i++)
        add_value(metadata, &file->values[i]);
    return TN_OK;
}

tn_status tn_inspect_gguf(cJSON *out, const char *path, const tn_inspect_options *options) {
    tn_gguf file;
    TN_TRY(tn_gguf_open(path, &file));
    tn_status status = describe(out, &file, options);
    tn_gguf_close(&file);
    return status;
}
