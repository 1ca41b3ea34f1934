/* A template, then optionally a NUL and a JSON object of variables: what compiles must render or fail, within its limits. */
#include "fuzz.h"
#include "text/chat_template.h"

static cJSON *parse_variables(const char *text, size_t size) {
    cJSON *variables = cJSON_ParseWithLength(text, size);
    if (!variables)
        variables = cJSON_Parse("{\"messages\": [{\"role\": \"user\", \"content\": \"H\u00e9\\n\"}], \"n\": 3, \"f\": 2.5,"
                                " \"l\": [3, 1, 2], \"d\": {\"a\": null, \"b\": [true]}}");
    return variables;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = memchr(data, 0, size);
    size_t length = end ? (size_t)(end - data) : size;
    char *source = malloc(length + 1);
    fuzz_require(source);
    memcpy(source, data, length);
    source[length] = 0;
    tn_chat_template *chat_template;
    tn_status status = tn_chat_template_parse(source, "input", &chat_template);
    fuzz_require(status == TN_OK || status == TN_ERROR_FORMAT || status == TN_ERROR_UNSUPPORTED);
    fuzz_require((status == TN_OK) == (chat_template != NULL));
    if (chat_template) {
        tn_buf text = {0};
        cJSON *variables = parse_variables((const char *)data + length + (end != NULL), size - length - (end != NULL));
        tn_chat_render render = {.messages = cJSON_GetObjectItemCaseSensitive(variables, "messages"),
                                 .variables = cJSON_IsObject(variables) ? variables : NULL,
                                 .now = "2026-01-31"};
        status = tn_chat_template_render(chat_template, &render, &text);
        fuzz_require(status == TN_OK || (status == TN_ERROR_ARGUMENT && text.length == 0));
        fuzz_read(text.data, text.length);
        tn_buf_free(&text);
        cJSON_Delete(variables);
        tn_chat_template_free(chat_template);
    }
    free(source);
    return 0;
}
