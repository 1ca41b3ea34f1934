/* Chat templates of model folders: finding, compiling and rendering them. */
#include "text/chat_template.h"

#include <string.h>

#include "base/file.h"
#include "format/json.h"
#include "text/jinja.h"

enum { MAX_JSON = 64 << 20 };

void tn_chat_template_free(tn_chat_template *chat_template) {
    if (!chat_template)
        return;
    tn_free(chat_template->bos_token);
    tn_free(chat_template->eos_token);
    tn_free(chat_template->source_name);
    tn_map_free(&chat_template->ids);
    tn_arena_free(&chat_template->arena);
    tn_free(chat_template);
}

tn_status tn_chat_template_parse(const char *source, const char *name, tn_chat_template **out) {
    *out = NULL;
    tn_status status = TN_OK;
    tn_chat_template *chat_template = tn_calloc(1, sizeof *chat_template);
    if (!chat_template || !(chat_template->source_name = tn_strdup(name))) {
        status = tn_fail_memory("a chat template");
        goto fail;
    }
    TN_TRY_GOTO(tn_jinja_parse(chat_template, source));
    *out = chat_template;
    return TN_OK;
fail:
    tn_chat_template_free(chat_template);
    return status;
}

/* ---- loading ---- */

/* Parses a JSON file of the folder; *out is NULL when it is not there. */
static tn_status read_optional(const char *model_dir, const char *name, cJSON **out) {
    char path[TN_PATH_MAX];
    *out = NULL;
    TN_TRY(tn_path_join(path, model_dir, name));
    return tn_path_exists(path) ? tn_json_read(path, MAX_JSON, out) : TN_OK;
}

/* A special token is a string, or an object with the text as "content". */
static const char *token_text(const cJSON *config, const char *key) {
    const cJSON *token = tn_json_get(config, key);
    if (cJSON_IsObject(token))
        token = tn_json_get(token, "content");
    return cJSON_IsString(token) ? token->valuestring : NULL;
}

static tn_status set_token(char **token, const cJSON *config, const char *key) {
    const char *text = token_text(config, key);
    if (*token || !text)
        return TN_OK;
    *token = tn_strdup(text);
    return *token ? TN_OK : tn_fail_memory("a chat template");
}

/* The template text of tokenizer_config.json: a string, or the entry "default" of a list of {name, template}. */
static const char *configured_source(const cJSON *config) {
    const cJSON *entry, *source = tn_json_get(config, "chat_template");
    if (cJSON_IsArray(source)) {
        const cJSON *entries = source;
        source = NULL;
        cJSON_ArrayForEach(entry, entries) {
            const cJSON *name = tn_json_get(entry, "name");
            if (cJSON_IsString(name) && strcmp(name->valuestring, "default") == 0)
                source = tn_json_get(entry, "template");
        }
    }
    return cJSON_IsString(source) ? source->valuestring : NULL;
}

/* Parses chat_template.jinja; *out stays NULL when it is not there. */
static tn_status load_file(const char *model_dir, tn_chat_template **out) {
    char path[TN_PATH_MAX];
    tn_buf source = {0};
    TN_TRY(tn_path_join(path, model_dir, "chat_template.jinja"));
    if (!tn_path_exists(path))
        return TN_OK;
    tn_status status = tn_file_read(path, JINJA_MAX_SOURCE, &source);
    if (status == TN_OK && strlen(tn_buf_text(&source)) != source.length)
        status = tn_fail(TN_ERROR_FORMAT, "%s holds a NUL byte", path);
    if (status == TN_OK)
        status = tn_chat_template_parse(tn_buf_text(&source), path, out);
    tn_buf_free(&source);
    return status;
}

tn_status tn_chat_template_build(const cJSON *config, const char *where, tn_chat_template **out) {
    tn_chat_template *chat_template = NULL;
    const char *source = configured_source(config);
    tn_status status = TN_OK;
    *out = NULL;
    if (!source)
        return TN_OK;
    TN_TRY_GOTO(tn_chat_template_parse(source, where, &chat_template));
    TN_TRY_GOTO(set_token(&chat_template->bos_token, config, "bos_token"));
    TN_TRY_GOTO(set_token(&chat_template->eos_token, config, "eos_token"));
    *out = chat_template;
    return TN_OK;
fail:
    tn_chat_template_free(chat_template);
    return status;
}

tn_status tn_chat_template_load(const char *model_dir, tn_chat_template **out) {
    cJSON *config = NULL, *special = NULL;
    tn_chat_template *chat_template = NULL;
    tn_status status = TN_OK;
    *out = NULL;
    TN_TRY_GOTO(load_file(model_dir, &chat_template));
    TN_TRY_GOTO(read_optional(model_dir, "tokenizer_config.json", &config));
    const char *source = configured_source(config);
    if (!chat_template && source) {
        char path[TN_PATH_MAX];
        TN_TRY_GOTO(tn_path_join(path, model_dir, "tokenizer_config.json"));
        TN_TRY_GOTO(tn_chat_template_parse(source, path, &chat_template));
    }
    if (chat_template) {
        TN_TRY_GOTO(read_optional(model_dir, "special_tokens_map.json", &special));
        TN_TRY_GOTO(set_token(&chat_template->bos_token, config, "bos_token"));
        TN_TRY_GOTO(set_token(&chat_template->eos_token, config, "eos_token"));
        TN_TRY_GOTO(set_token(&chat_template->bos_token, special, "bos_token"));
        TN_TRY_GOTO(set_token(&chat_template->eos_token, special, "eos_token"));
    }
    *out = chat_template;
    chat_template = NULL;
fail:
    cJSON_Delete(special);
    cJSON_Delete(config);
    tn_chat_template_free(chat_template);
    return status;
}

/* ---- rendering ---- */

/* Sets a variable of the outermost scope; one that the template never names is left out. */
static void set_variable(jinja_state *state, const char *name, jinja_value value) {
    int64_t id;
    if (tn_map_get_text(&state->chat_template->ids, name, &id))
        state->variables[id] = value;
}

static tn_status set_json(jinja_state *state, const char *name, const cJSON *json) {
    jinja_value value = JINJA_NONE_VALUE;
    if (json)
        TN_TRY(tn_jinja_from_json(state, json, &value));
    set_variable(state, name, value);
    return TN_OK;
}

static tn_status set_text(jinja_state *state, const char *name, const char *given, const char *loaded) {
    jinja_value value;
    const char *text = given ? given : loaded ? loaded : "";
    TN_TRY(tn_jinja_string_refer(state, text, strlen(text), &value));
    set_variable(state, name, value);
    return TN_OK;
}

static tn_status set_variables(jinja_state *state, const tn_chat_render *render) {
    const cJSON *variable;
    for (const jinja_builtin *global = tn_jinja_globals; global->name; global++)
        set_variable(state, global->name, JINJA_VALUE(JINJA_FUNCTION, function, global));
    TN_TRY(set_text(state, "bos_token", render->bos_token, state->chat_template->bos_token));
    TN_TRY(set_text(state, "eos_token", render->eos_token, state->chat_template->eos_token));
    TN_TRY(set_json(state, "messages", render->messages));
    TN_TRY(set_json(state, "tools", render->tools));
    TN_TRY(set_json(state, "documents", NULL));
    set_variable(state, "add_generation_prompt", tn_jinja_bool(render->add_generation_prompt));
    cJSON_ArrayForEach(variable, render->variables) if (variable->string)
        TN_TRY(set_json(state, variable->string, variable));
    return TN_OK;
}

tn_status tn_chat_template_render(const tn_chat_template *chat_template, const tn_chat_render *render, tn_buf *out) {
    tn_buf text = {0};
    tn_status status = TN_OK;
    jinja_state state = {.chat_template = chat_template, .now = render->now, .out = &text};
    state.variables = tn_jinja_alloc(&state, (size_t)chat_template->id_count, sizeof *state.variables);
    if (!state.variables) {
        status = state.failure;
        goto fail;
    }
    TN_TRY_GOTO(set_variables(&state, render));
    TN_TRY_GOTO(tn_jinja_exec(&state, chat_template->body));
    tn_buf_append(out, text.data, text.length);
    TN_TRY_GOTO(tn_buf_status(out));
fail:
    if (status != TN_OK && state.line)
        tn_fail_context(status, "%s line %d", chat_template->source_name, state.line);
    tn_buf_free(&text);
    tn_arena_free(&state.arena);
    return status;
}
