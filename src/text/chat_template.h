/* Chat templates: the subset of Jinja2 that Hugging Face chat templates use, rendered as transformers renders it. Left out:
 * block, extends, include, import, autoescape and rarely used methods. Integers have 64 bits, and a whole number in JSON
 * (1.0) is an integer, as cJSON does not tell them apart. */
#ifndef TN_TEXT_CHAT_TEMPLATE_H
#define TN_TEXT_CHAT_TEMPLATE_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "base/buf.h"

typedef struct tn_chat_template tn_chat_template;

/* Compiles template source; errors name the line. `name` stands for the source in messages. */
tn_status tn_chat_template_parse(const char *source, const char *name, tn_chat_template **out);

/* The template of a model folder: chat_template.jinja, else "chat_template" of tokenizer_config.json (a string, or the
 * entry named "default" of a list). *out is NULL, with TN_OK, when the folder has none. bos and eos token texts are read
 * from the same files. */
tn_status tn_chat_template_load(const char *model_dir, tn_chat_template **out);

/* The same from the contents of a tokenizer_config.json alone; `where` names it in messages. */
tn_status tn_chat_template_build(const cJSON *config, const char *where, tn_chat_template **out);
void tn_chat_template_free(tn_chat_template *chat_template);

typedef struct tn_chat_render {
    const cJSON *messages;  /* array of {"role", "content", ...} */
    const cJSON *tools;     /* NULL or array */
    const cJSON *variables; /* NULL or an object of further variables, e.g. {"enable_thinking": false} */
    bool add_generation_prompt;
    const char *bos_token; /* NULL: as loaded from the model folder, "" when unknown */
    const char *eos_token;
    const char *now; /* NULL: today; else the ISO date (or date-time) that strftime_now formats */
} tn_chat_render;

/* Appends the rendering. raise_exception and type errors are TN_ERROR_ARGUMENT with the template's own words and line.
 * Bounded: output over 64 MB, values over 512 MB, recursion deeper than 200 or more than 50 million evaluation steps are
 * errors. */
tn_status tn_chat_template_render(const tn_chat_template *chat_template, const tn_chat_render *render, tn_buf *out);

#endif
