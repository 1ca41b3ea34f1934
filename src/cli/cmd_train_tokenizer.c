/* tenon train-tokenizer: a byte-level BPE vocabulary from text. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "cli/commands.h"
#include "format/json.h"
#include "text/tokenizer_train.h"

typedef struct {
    const char *data, *out;
    int64_t vocab_size;
    tn_text_list special;
} config;

enum { DATA_LIMIT = 1 << 30 };

static const tn_option options[] = {
    {.name = "data",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, data),
     .value_name = "FILE",
     .group = "Files",
     .help = "plain text, or JSONL whose \"text\" fields are read",
     .flags = TN_OPTION_REQUIRED},
    {.name = "out",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, out),
     .value_name = "DIR",
     .help = "folder for tokenizer.json and tokenizer_config.json",
     .flags = TN_OPTION_REQUIRED},
    {.name = "vocab-size",
     .type = TN_OPTION_INT,
     TN_FIELD(config, vocab_size),
     .initial = "4096",
     .low = 257,
     .high = 1000000,
     .value_name = "N",
     .group = "Vocabulary",
     .help = "tokens in all: special ones, 256 bytes and merges"},
    {.name = "special-tokens",
     .type = TN_OPTION_LIST,
     TN_FIELD(config, special),
     .initial = "<|end|>",
     .value_name = "NAMES",
     .help = "special tokens; the first one ends a text"},
    {0},
};

/* Texts of a JSONL file, one after another. */
static tn_status gather_texts(const char *path, const tn_buf *file, tn_buf *out) {
    const char *at = tn_buf_text(file), *end = at + file->length;
    for (int64_t line = 1; at < end; line++) {
        char where[TN_PATH_MAX + 32];
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t length = stop ? (size_t)(stop - at) : (size_t)(end - at);
        const char *text = NULL;
        cJSON *row = NULL;
        snprintf(where, sizeof where, "%s line %lld", path, (long long)line);
        if (length) {
            TN_TRY(tn_json_parse(at, length, where, &row));
            tn_status status = tn_json_get_string(row, "text", where, &text);
            if (status == TN_OK && !text)
                status = tn_fail(TN_ERROR_FORMAT, "%s: there is no \"text\" field", where);
            if (status == TN_OK) {
                tn_buf_puts(out, text);
                tn_buf_putc(out, '\n');
            }
            cJSON_Delete(row);
            TN_TRY(status);
        }
        at += length + 1;
    }
    return tn_buf_status(out);
}

static tn_status write_tokenizer_config(const config *c) {
    char path[TN_PATH_MAX];
    tn_buf text = {0};
    const char *end = c->special.count ? c->special.items[0] : NULL;
    tn_buf_puts(&text, "{\n  \"add_bos_token\": false,\n  \"clean_up_tokenization_spaces\": false,\n");
    if (end) {
        tn_buf_puts(&text, "  \"eos_token\": ");
        tn_json_print_string(&text, end, strlen(end));
        tn_buf_puts(&text, ",\n");
    }
    tn_buf_puts(&text, "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
    tn_status status = tn_buf_status(&text);
    if (status == TN_OK)
        status = tn_path_join(path, c->out, "tokenizer_config.json");
    if (status == TN_OK)
        status = tn_file_write(path, text.data, text.length);
    tn_buf_free(&text);
    return status;
}

static tn_status train(const config *c) {
    char path[TN_PATH_MAX];
    tn_buf file = {0}, text = {0}, json = {0};
    size_t length = strlen(c->data);
    bool rows = length > 6 && strcmp(c->data + length - 6, ".jsonl") == 0;
    tn_status status;
    TN_TRY_GOTO(tn_file_read(c->data, DATA_LIMIT, &file));
    if (rows)
        TN_TRY_GOTO(gather_texts(c->data, &file, &text));
    const tn_buf *source = rows ? &text : &file;
    TN_TRY_GOTO(tn_tokenizer_train(tn_buf_text(source), source->length, (int32_t)c->vocab_size, c->special.items,
                                   c->special.count, &json));
    TN_TRY_GOTO(tn_dir_create(c->out));
    TN_TRY_GOTO(tn_path_join(path, c->out, "tokenizer.json"));
    TN_TRY_GOTO(tn_file_write(path, json.data, json.length));
    TN_TRY_GOTO(write_tokenizer_config(c));
    printf("%s: %lld tokens from %.1f MB of text\n", path, (long long)c->vocab_size, (double)source->length / 1e6);
fail:
    tn_buf_free(&json);
    tn_buf_free(&text);
    tn_buf_free(&file);
    return status;
}

static int run(const tn_invocation *call) {
    return tn_cli_exit(train(call->config));
}

const tn_command tn_command_train_tokenizer = {
    .name = "train-tokenizer",
    .summary = "learn a byte-level BPE vocabulary from text",
    .description =
        "Learns merges of byte pairs from text until the vocabulary has the size asked for and writes a tokenizer.json that "
        "this program and the Hugging Face libraries read. The same text gives the same file.",
    .tables = (const tn_option_table[]){{options, 0}, {0}},
    .config_size = sizeof(config),
    .examples =
        (const tn_example[]){
            {"tenon train-tokenizer --data corpus.jsonl --vocab-size 4096 --out base", "a vocabulary for a new model"}, {0}},
    .run = run,
};
