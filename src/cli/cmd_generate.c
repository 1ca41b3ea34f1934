/* tenon generate: continues one prompt on standard output as it comes, or many prompts into JSON lines. */
#include <stdio.h>
#include <string.h>
#include <tenon/tenon.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/generation.h"
#include "cli/model_options.h"
#include "data/jsonl.h"
#include "format/json.h"

typedef struct {
    tn_cli_model model;
    tn_cli_sampling sampling;
    const char *prompt, *prompts, *system;
    bool chat;
    int64_t batch_size;
} config;

static const tn_option options[] = {
    {.name = "prompt",
     .type = TN_OPTION_STRING,
     TN_FIELD(config, prompt),
     .value_name = "TEXT",
     .group = "Prompt",
     .alias = 'p',
     .help = "what to continue; without it standard input is read"},
    {.name = "prompts",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, prompts),
     .value_name = "FILE",
     .help = "one prompt per line, or for .jsonl and .json rows with \"prompt\"; each gives a line {\"prompt\", "
             "\"completion\"}"},
    {.name = "chat",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, chat),
     .help = "the prompt is a user's message, put into the model's chat template"},
    {.name = "system",
     .type = TN_OPTION_STRING,
     TN_FIELD(config, system),
     .value_name = "TEXT",
     .help = "system message in front of the user's"},
    {.name = "batch-size",
     .type = TN_OPTION_INT,
     TN_FIELD(config, batch_size),
     .initial = "0",
     .low = 0,
     .high = 4096,
     .value_name = "N",
     .help = "prompts of --prompts to work on at a time; 0: 32, or as many as memory suggests"},
    {0},
};

/* Many texts with their token ids. */
typedef struct {
    char **texts;
    tn_prompt *prompts;
    size_t count, capacity;
} prompt_list;

static void free_prompts(prompt_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        tn_free(list->texts[i]);
        tn_free_ids((int32_t *)(uintptr_t)list->prompts[i].ids);
    }
    tn_free(list->texts);
    tn_free(list->prompts);
}

static tn_status encode_chat(const tn_model *model, const config *c, const char *text, int32_t **ids, size_t *count) {
    cJSON *messages = cJSON_CreateArray();
    if (c->system)
        tn_cli_add_message(messages, "system", c->system);
    tn_cli_add_message(messages, "user", text);
    tn_status status = tn_cli_encode_messages(model, messages, ids, count);
    cJSON_Delete(messages);
    return status;
}

static tn_status encode_prompt(const tn_model *model, const config *c, const char *text, size_t length, int32_t **ids,
                               size_t *count) {
    if (c->chat)
        return encode_chat(model, c, text, ids, count);
    return tn_model_encode(model, text, length, true, ids, count);
}

static tn_status add_prompt(prompt_list *list, const tn_model *model, const config *c, const char *text, size_t length) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        char **texts = tn_realloc_array(list->texts, capacity, sizeof *texts);
        list->texts = texts ? texts : list->texts;
        tn_prompt *prompts = texts ? tn_realloc_array(list->prompts, capacity, sizeof *prompts) : NULL;
        if (!prompts)
            return tn_fail_memory("the prompts");
        list->prompts = prompts;
        list->capacity = capacity;
    }
    char *copy = tn_strndup(text, length);
    if (!copy)
        return tn_fail_memory("the prompts");
    int32_t *ids;
    size_t count;
    tn_status status = encode_prompt(model, c, copy, length, &ids, &count);
    if (status != TN_OK) {
        tn_free(copy);
        return status;
    }
    list->texts[list->count] = copy;
    list->prompts[list->count++] = (tn_prompt){.ids = ids, .count = count};
    return TN_OK;
}

static tn_status read_rows(prompt_list *list, const tn_model *model, const config *c) {
    tn_jsonl reader;
    tn_status status;
    TN_TRY(tn_jsonl_open(&reader, c->prompts));
    while ((status = tn_jsonl_next(&reader)) == TN_OK && reader.row) {
        const char *text = NULL, *where = tn_buf_text(&reader.where);
        TN_TRY_GOTO(tn_json_get_string(reader.row, "prompt", where, &text));
        if (!text) {
            status = tn_fail(TN_ERROR_FORMAT, "%s: the row has no \"prompt\"", where);
            goto fail;
        }
        status = add_prompt(list, model, c, text, strlen(text));
        if (status != TN_OK) {
            tn_fail_context(status, "%s", where);
            goto fail;
        }
    }
fail:
    tn_jsonl_close(&reader);
    return status;
}

static tn_status read_lines(prompt_list *list, const tn_model *model, const config *c) {
    tn_mapping file;
    tn_status status = TN_OK;
    int64_t line = 1;
    TN_TRY(tn_file_map(c->prompts, &file));
    const char *text = (const char *)file.data, *end = text + file.size;
    for (const char *next; text < end && status == TN_OK; text = next + 1, line++) {
        next = memchr(text, '\n', (size_t)(end - text));
        next = next ? next : end;
        size_t length = (size_t)(next - text);
        if (length && text[length - 1] == '\r')
            length--;
        if (length)
            status = add_prompt(list, model, c, text, length);
        if (status != TN_OK)
            tn_fail_context(status, "%s line %lld", c->prompts, (long long)line);
    }
    tn_file_unmap(&file);
    return status;
}

static bool has_ending(const char *path, const char *ending) {
    size_t length = strlen(path), tail = strlen(ending);
    return length >= tail && strcmp(path + length - tail, ending) == 0;
}

typedef struct {
    const prompt_list *list;
    size_t tokens;
    bool failed;
} line_writer;

static bool write_line(void *cookie, size_t index, const tn_generate_result *result) {
    line_writer *writer = cookie;
    tn_buf line = {0};
    tn_buf_puts(&line, "{\"prompt\": ");
    tn_json_print_string(&line, writer->list->texts[index], strlen(writer->list->texts[index]));
    tn_buf_puts(&line, ", \"completion\": ");
    tn_json_print_string(&line, result->text, strlen(result->text));
    tn_buf_puts(&line, "}\n");
    writer->failed = tn_buf_status(&line) != TN_OK || !tn_cli_write_out(line.data, line.length);
    writer->tokens += result->count;
    tn_buf_free(&line);
    return !writer->failed;
}

static tn_status fail_output(void) {
    return tn_fail(TN_ERROR_IO, "cannot write to standard output");
}

static tn_status generate_many(tn_model *model, const config *c, const tn_generate_options *how) {
    bool rows = has_ending(c->prompts, ".jsonl") || has_ending(c->prompts, ".json");
    prompt_list list = {0};
    line_writer writer = {.list = &list};
    tn_status status = rows ? read_rows(&list, model, c) : read_lines(&list, model, c);
    if (status == TN_OK && list.count == 0)
        status = tn_fail(TN_ERROR_FORMAT, "%s holds no prompt", c->prompts);
    if (status == TN_OK)
        status = tn_generate_many(model, list.prompts, list.count, c->batch_size, how, write_line, &writer);
    if (writer.failed)
        status = fail_output();
    if (status == TN_OK)
        fprintf(stderr, "%zu prompts, %zu new tokens\n", list.count, writer.tokens);
    free_prompts(&list);
    return status;
}

static bool write_token(void *cookie, int32_t id, const char *text, size_t length) {
    bool *failed = cookie;
    (void)id;
    *failed = !tn_cli_write_out(text, length);
    return !*failed;
}

static tn_status read_stdin(tn_buf *out) {
    char block[4096];
    size_t got;
    if (isatty(STDIN_FILENO))
        fprintf(stderr, "reading the prompt from the terminal; end it with Ctrl-D (or give --prompt)\n");
    while ((got = fread(block, 1, sizeof block, stdin)) > 0)
        tn_buf_append(out, block, got);
    if (ferror(stdin))
        return tn_fail(TN_ERROR_IO, "cannot read standard input");
    /* the newline that every editor and echo adds is not meant */
    if (out->length && out->data[out->length - 1] == '\n')
        out->data[--out->length] = '\0';
    return tn_buf_status(out);
}

static tn_status generate_one(tn_model *model, const config *c, const tn_generate_options *how) {
    tn_buf typed = {0};
    tn_generate_result result = {0};
    int32_t *ids = NULL;
    size_t count = 0;
    bool failed = false;
    tn_status status = TN_OK;
    if (!c->prompt)
        status = read_stdin(&typed);
    const char *text = c->prompt ? c->prompt : tn_buf_text(&typed);
    if (status == TN_OK)
        status = encode_prompt(model, c, text, c->prompt ? strlen(text) : typed.length, &ids, &count);
    if (status == TN_OK)
        status = tn_generate(model, ids, count, how, write_token, &failed, &result);
    if (failed || (status == TN_OK && !tn_cli_write_out("\n", 1)))
        status = fail_output();
    if (status == TN_OK)
        tn_cli_report_generation(count, &result);
    tn_generate_result_free(&result);
    tn_free_ids(ids);
    tn_buf_free(&typed);
    return status;
}

static int run(const tn_invocation *call) {
    const config *c = call->config;
    tn_model *model = NULL;
    tn_generate_options how;
    if (c->prompt && c->prompts) {
        tn_fail(TN_ERROR_ARGUMENT, "--prompt and --prompts exclude each other");
        return TN_EXIT_USAGE;
    }
    if (c->system && !c->chat) {
        tn_fail(TN_ERROR_ARGUMENT, "--system needs --chat: only a chat template has a place for it");
        return TN_EXIT_USAGE;
    }
    tn_cli_sampling_fill(&c->sampling, &how);
    tn_status status = tn_cli_load_model(&c->model, false, &model);
    if (status == TN_OK)
        status = c->prompts ? generate_many(model, c, &how) : generate_one(model, c, &how);
    tn_model_free(model);
    return tn_cli_exit(status);
}

const tn_command tn_command_generate = {
    .name = "generate",
    .summary = "continue a prompt, or many",
    .description =
        "Writes what the model makes of a prompt to standard output as it comes, and nothing else; everything said about "
        "it goes to standard error.\n\n"
        "With --prompts, many prompts are worked on together, several times faster than one by one, and each gives one "
        "line of JSON in the order of the file. Generation ends at the model's end-of-text tokens, at a --stop text, after "
        "--max-tokens, or where the model's positions end.",
    .tables = (const tn_option_table[]){{tn_cli_model_options, offsetof(config, model)},
                                        {tn_cli_precision_options, offsetof(config, model)},
                                        {tn_cli_load_quantized_options, offsetof(config, model.quantize)},
                                        {tn_cli_adapter_options, offsetof(config, model)},
                                        {options, 0},
                                        {tn_cli_sampling_options, offsetof(config, sampling)},
                                        {0}},
    .config_size = sizeof(config),
    .examples =
        (const tn_example[]){
            {"tenon generate --model base --adapter out --prompt 'Once upon a time'", "continue a text"},
            {"tenon generate --model base --chat --prompt 'Why is the sky blue?' --temperature 0.7 --top-p 0.9",
             "ask a chat model, with some chance"},
            {"tenon generate --model base --adapter out --prompts test.jsonl > answers.jsonl",
             "answer the prompts of a file"},
            {0}},
    .run = run,
};
