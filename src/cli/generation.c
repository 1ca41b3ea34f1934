/* How text is generated and streamed, for the commands that do. */
#include "cli/generation.h"

#include <stdio.h>

#include "format/json.h"

const tn_option tn_cli_sampling_options[] = {
    {.name = "max-tokens",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_sampling, max_tokens),
     .initial = "256",
     .low = 1,
     .high = 1e9,
     .value_name = "N",
     .group = "Generation",
     .help = "new tokens at most"},
    {.name = "temperature",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_sampling, temperature),
     .initial = "0",
     .low = 0,
     .high = 100,
     .value_name = "T",
     .help = "0: always the most likely token; 1: as the model's probabilities say"},
    {.name = "top-k",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_sampling, top_k),
     .initial = "0",
     .low = 0,
     .high = 1e9,
     .value_name = "K",
     .help = "draw among the K most likely tokens; 0: all"},
    {.name = "top-p",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_sampling, top_p),
     .initial = "1",
     .low = 0,
     .high = 1,
     .value_name = "P",
     .help = "draw among the fewest most likely tokens that make up this share"},
    {.name = "min-p",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_sampling, min_p),
     .initial = "0",
     .low = 0,
     .high = 1,
     .value_name = "P",
     .help = "draw among tokens at least this probable relative to the most likely one"},
    {.name = "repetition-penalty",
     .type = TN_OPTION_FLOAT,
     TN_FIELD(tn_cli_sampling, repetition_penalty),
     .initial = "1",
     .low = 0,
     .high = 100,
     .flags = TN_OPTION_ABOVE_LOW,
     .value_name = "X",
     .help = "above 1: makes tokens that were there before less likely"},
    {.name = "seed",
     .type = TN_OPTION_INT,
     TN_FIELD(tn_cli_sampling, seed),
     .initial = "0",
     .low = 0,
     .high = 9007199254740992.0,
     .value_name = "N",
     .help = "of the random numbers; the same seed gives the same text"},
    {.name = "stop",
     .type = TN_OPTION_LIST,
     TN_FIELD(tn_cli_sampling, stop),
     .value_name = "TEXT",
     .flags = TN_OPTION_REPEATABLE,
     .help = "ends the text where this would come; may be given several times"},
    {0},
};

void tn_cli_sampling_fill(const tn_cli_sampling *sampling, tn_generate_options *out) {
    *out = (tn_generate_options){.max_tokens = sampling->max_tokens,
                                 .temperature = sampling->temperature,
                                 .top_k = sampling->top_k,
                                 .top_p = sampling->top_p,
                                 .min_p = sampling->min_p,
                                 .repetition_penalty = sampling->repetition_penalty,
                                 .seed = (uint64_t)sampling->seed,
                                 .stop = sampling->stop.items,
                                 .stop_count = sampling->stop.count};
}

void tn_cli_add_message(cJSON *messages, const char *role, const char *content) {
    cJSON *message = cJSON_CreateObject();
    cJSON_AddStringToObject(message, "role", role);
    cJSON_AddStringToObject(message, "content", content);
    cJSON_AddItemToArray(messages, message);
}

tn_status tn_cli_encode_messages(const tn_model *model, const cJSON *messages, int32_t **ids, size_t *count) {
    tn_buf json = {0};
    tn_json_print(&json, messages, false);
    tn_status status = tn_buf_status(&json);
    if (status == TN_OK)
        status = tn_chat_prompt(model, tn_buf_text(&json), true, ids, count);
    tn_buf_free(&json);
    return status;
}

void tn_cli_report_generation(size_t prompt_tokens, const tn_generate_result *result) {
    fprintf(stderr, "prompt: %zu tokens in %.2f s; new: %zu tokens in %.2f s", prompt_tokens, result->prompt_seconds,
            result->count, result->seconds);
    /* the first one came with the prompt */
    if (result->count > 1 && result->seconds > 0)
        fprintf(stderr, " (%.1f tokens/s)", (double)(result->count - 1) / result->seconds);
    fprintf(stderr, "; ended by: %s\n", tn_stop_reason_name(result->reason));
}

bool tn_cli_write_out(const char *text, size_t length) {
    return fwrite(text, 1, length, stdout) == length && fflush(stdout) == 0;
}
