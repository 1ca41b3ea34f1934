/* What the commands that generate text share: their options, messages, and output. */
#ifndef TN_CLI_GENERATION_H
#define TN_CLI_GENERATION_H

#include <cjson/cJSON.h>
#include <tenon/generate.h>

#include "base/options.h"

typedef struct tn_cli_sampling {
    int64_t max_tokens, top_k, seed;
    double temperature, top_p, min_p, repetition_penalty;
    tn_text_list stop;
} tn_cli_sampling;

extern const tn_option tn_cli_sampling_options[];

/* The library's options for the command's; strings stay the config's. */
void tn_cli_sampling_fill(const tn_cli_sampling *sampling, tn_generate_options *out);

/* Appends {"role", "content"} to a conversation. */
void tn_cli_add_message(cJSON *messages, const char *role, const char *content);

/* tn_chat_prompt of a conversation, with the beginning of an answer. */
tn_status tn_cli_encode_messages(const tn_model *model, const cJSON *messages, int32_t **ids, size_t *count);

/* One line on stderr: tokens, times and why generation ended. */
void tn_cli_report_generation(size_t prompt_tokens, const tn_generate_result *result);

/* Writes and flushes text to stdout; false when nobody can read it any more. */
bool tn_cli_write_out(const char *text, size_t length);

#endif
