/* Chat models often end their turns by a token that only generation_config.json names. */
#include "infer/stop_tokens.h"

static const size_t file_limit = (size_t)1 << 20;

static tn_status add(tn_ids *out, int32_t id) {
    return id < 0 || tn_stop_tokens_has(out, id) ? TN_OK : tn_ids_push(out, id);
}

static tn_status add_json(const cJSON *json, const char *path, tn_ids *out) {
    const cJSON *eos = tn_json_get(json, "eos_token_id");
    int count = cJSON_IsArray(eos) ? cJSON_GetArraySize(eos) : eos ? 1 : 0;
    for (int i = 0; i < count; i++) {
        const cJSON *id = cJSON_IsArray(eos) ? cJSON_GetArrayItem(eos, i) : eos;
        if (!cJSON_IsNumber(id) || !(id->valuedouble >= 0 && id->valuedouble <= INT32_MAX))
            return tn_fail(TN_ERROR_FORMAT, "%s: 'eos_token_id' must be a token id or a list of them", path);
        TN_TRY(add(out, (int32_t)id->valuedouble));
    }
    return TN_OK;
}

tn_status tn_stop_tokens_read(const tn_model *model, tn_ids *out) {
    const tn_decoder_config *config = &model->decoder->config;
    char path[TN_PATH_MAX];
    for (int i = 0; i < config->eos_count; i++)
        TN_TRY(add(out, config->eos[i]));
    if (model->tokenizer)
        TN_TRY(add(out, tn_tokenizer_eos(model->tokenizer)));
    TN_TRY(tn_path_join(path, model->network->dir, "generation_config.json"));
    if (!tn_path_exists(path))
        return TN_OK;
    cJSON *json;
    TN_TRY(tn_json_read(path, file_limit, &json));
    tn_status status = add_json(json, path, out);
    cJSON_Delete(json);
    return status;
}

bool tn_stop_tokens_has(const tn_ids *tokens, int32_t id) {
    for (size_t i = 0; i < tokens->count; i++)
        if (tokens->data[i] == id)
            return true;
    return false;
}
