/* The words of a model (tokenizer, chat template, generation configuration) beside a saved one. */
#include "format/json.h"
#include "session/merge.h"
#include "text/gguf_tokenizer.h"

tn_status tn_session_write_json(const char *dir, const char *name, const cJSON *json) {
    char path[TN_PATH_MAX];
    tn_buf text = {0};
    tn_status status = tn_path_join(path, dir, name);
    tn_json_print(&text, json, true);
    tn_buf_putc(&text, '\n');
    if (status == TN_OK)
        status = tn_buf_status(&text);
    if (status == TN_OK)
        status = tn_file_write(path, text.data, text.length);
    tn_buf_free(&text);
    return status;
}

/* The tokenizer out of a GGUF file as Hugging Face's files. */
static tn_status unpack_words(const char *gguf, const char *dir) {
    cJSON *tokenizer, *config;
    TN_TRY(tn_gguf_tokenizer_read(gguf, &tokenizer, &config));
    tn_status status = tokenizer ? tn_session_write_json(dir, "tokenizer.json", tokenizer) : TN_OK;
    if (status == TN_OK && config->child)
        status = tn_session_write_json(dir, "tokenizer_config.json", config);
    cJSON_Delete(tokenizer);
    cJSON_Delete(config);
    return status;
}

tn_status tn_session_copy_words(const tn_model *model, const char *dir) {
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "generation_config.json",
                                        "chat_template.jinja",
                                        "vocab.json",
                                        "merges.txt",
                                        "added_tokens.json",
                                        "tokenizer.model"};
    enum { WORDS_LIMIT = 256 << 20 };
    char from[TN_PATH_MAX], to[TN_PATH_MAX];
    tn_buf bytes = {0};
    tn_status status = TN_OK;
    if (model->network->checkpoint.gguf)
        return unpack_words(model->network->dir, dir);
    for (size_t i = 0; i < sizeof names / sizeof *names && model->tokenizer_dir; i++) {
        TN_TRY_GOTO(tn_path_join(from, model->tokenizer_dir, names[i]));
        TN_TRY_GOTO(tn_path_join(to, dir, names[i]));
        if (!tn_path_exists(from))
            continue;
        TN_TRY_GOTO(tn_file_read(from, WORDS_LIMIT, &bytes));
        TN_TRY_GOTO(tn_file_write(to, bytes.data, bytes.length));
    }
fail:
    tn_buf_free(&bytes);
    return status;
}
