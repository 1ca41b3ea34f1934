/* tenon tokenize: text to token ids and back, one JSON value per line. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "cli/commands.h"
#include "format/json.h"
#include "text/tokenizer.h"

typedef struct {
    const char *model;
    bool decode, special, skip_special;
} config;

static const tn_option options[] = {
    {.name = "model",
     .type = TN_OPTION_PATH,
     TN_FIELD(config, model),
     .value_name = "DIR",
     .group = "Model",
     .help = "folder with tokenizer.json, that file, or a GGUF file",
     .flags = TN_OPTION_REQUIRED},
    {.name = "special",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, special),
     .group = "What to do",
     .help = "add the special tokens that the tokenizer puts around a text, such as a leading <s>"},
    {.name = "decode", .type = TN_OPTION_BOOL, TN_FIELD(config, decode), .help = "turn arrays of ids into texts"},
    {.name = "skip-special",
     .type = TN_OPTION_BOOL,
     TN_FIELD(config, skip_special),
     .help = "with --decode, leave special tokens out of the text"},
    {0},
};

/* What a run works with; buffers are reused from line to line. */
typedef struct {
    const config *config;
    tn_tokenizer *tokenizer;
    tn_ids ids;
    tn_buf line, text, out;
    uint32_t stand_in; /* for NUL in the current line; 0: the line has none */
    char where[64];
} worker;

/* Parsed strings end in NUL, so \u0000 goes through the parser as a private-use character that the line does not hold. */
static uint32_t choose_stand_in(const char *line, size_t length) {
    enum { FIRST = 0xe000, LAST = 0xf8ff };
    char raw[4], lower[8], upper[8];
    for (uint32_t code = FIRST; code <= LAST; code++) {
        size_t raw_length = tn_utf8_encode(code, raw);
        snprintf(lower, sizeof lower, "%04x", (unsigned)code);
        snprintf(upper, sizeof upper, "%04X", (unsigned)code);
        if (!memmem(line, length, raw, raw_length) && !memmem(line, length, lower, 4) && !memmem(line, length, upper, 4))
            return code;
    }
    return 0;
}

/* The line with every escaped NUL replaced, in w->line; the line itself when there is none. */
static const char *hide_nul(worker *w, const char *line, size_t length) {
    static const char escape[] = "\\u0000";
    size_t size = sizeof escape - 1;
    w->stand_in = memmem(line, length, escape, size) ? choose_stand_in(line, length) : 0;
    if (!w->stand_in)
        return line;
    tn_buf_clear(&w->line);
    for (size_t i = 0; i < length; i++) {
        if (line[i] != '\\') {
            tn_buf_putc(&w->line, line[i]);
        } else if (length - i >= size && memcmp(line + i, escape, size) == 0) {
            tn_buf_printf(&w->line, "\\u%04x", (unsigned)w->stand_in);
            i += size - 1;
        } else {
            tn_buf_append(&w->line, line + i, length - i > 1 ? 2 : 1);
            i++;
        }
    }
    return tn_buf_text(&w->line);
}

/* `text` with the stand-in turned back into NUL, in w->text. */
static void restore_nul(worker *w, const char *text) {
    char raw[4];
    size_t raw_length = w->stand_in ? tn_utf8_encode(w->stand_in, raw) : 0, left = strlen(text);
    tn_buf_clear(&w->text);
    while (left) {
        const char *next = raw_length ? memmem(text, left, raw, raw_length) : NULL;
        size_t plain = next ? (size_t)(next - text) : left;
        tn_buf_append(&w->text, text, plain);
        if (!next)
            return;
        tn_buf_putc(&w->text, 0);
        text += plain + raw_length;
        left -= plain + raw_length;
    }
}

static tn_status read_text(const worker *w, const cJSON *row, const char **text) {
    *text = NULL;
    if (cJSON_IsObject(row))
        TN_TRY(tn_json_get_string(row, "text", w->where, text));
    if (!*text)
        return tn_fail(TN_ERROR_FORMAT, "%s: expected an object such as {\"text\": \"...\"}", w->where);
    return TN_OK;
}

static tn_status encode_line(worker *w, const cJSON *row) {
    const char *text;
    TN_TRY(read_text(w, row, &text));
    restore_nul(w, text);
    TN_TRY(tn_buf_status(&w->text));
    w->ids.count = 0;
    tn_status status = tn_tokenizer_encode(w->tokenizer, tn_buf_text(&w->text), w->text.length, w->config->special, &w->ids);
    if (status != TN_OK)
        return tn_fail_context(status, "%s", w->where);
    tn_buf_putc(&w->out, '[');
    for (size_t i = 0; i < w->ids.count; i++)
        tn_buf_printf(&w->out, "%s%d", i ? ", " : "", w->ids.data[i]);
    tn_buf_puts(&w->out, "]\n");
    return TN_OK;
}

static tn_status decode_line(worker *w, const cJSON *row) {
    const cJSON *item;
    if (!cJSON_IsArray(row))
        return tn_fail(TN_ERROR_FORMAT, "%s: expected an array of token ids such as [1, 2, 3]", w->where);
    w->ids.count = 0;
    cJSON_ArrayForEach(item, row) {
        double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(id >= 0 && id <= INT32_MAX) || id != (int32_t)id)
            return tn_fail(TN_ERROR_FORMAT, "%s: element %zu is no token id", w->where, w->ids.count);
        TN_TRY(tn_ids_push(&w->ids, (int32_t)id));
    }
    tn_buf_clear(&w->text);
    tn_status status = tn_tokenizer_decode(w->tokenizer, w->ids.data, w->ids.count, w->config->skip_special, &w->text);
    if (status == TN_OK)
        status = tn_buf_status(&w->text);
    if (status != TN_OK)
        return tn_fail_context(status, "%s", w->where);
    tn_buf_puts(&w->out, "{\"text\": ");
    tn_json_print_string(&w->out, tn_buf_text(&w->text), w->text.length);
    tn_buf_puts(&w->out, "}\n");
    return TN_OK;
}

static tn_status work_on_line(worker *w, const char *line, size_t length) {
    cJSON *row;
    line = hide_nul(w, line, length);
    TN_TRY(tn_buf_status(&w->line));
    TN_TRY(tn_json_parse(line, w->stand_in ? w->line.length : length, w->where, &row));
    tn_buf_clear(&w->out);
    tn_status status = w->config->decode ? decode_line(w, row) : encode_line(w, row);
    cJSON_Delete(row);
    TN_TRY(status);
    return tn_cli_print(&w->out);
}

static bool is_blank(const char *line, size_t length) {
    while (length && strchr(" \t\r\n", line[length - 1]))
        length--;
    return length == 0;
}

/* Answers each line before it reads the next, so that another program can hold a conversation with this one. */
static tn_status work_on_input(worker *w) {
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    tn_status status = TN_OK;
    for (int64_t number = 1; status == TN_OK && (length = getline(&line, &capacity, stdin)) >= 0; number++) {
        snprintf(w->where, sizeof w->where, "standard input line %lld", (long long)number);
        if (!is_blank(line, (size_t)length))
            status = work_on_line(w, line, (size_t)length);
    }
    if (status == TN_OK && ferror(stdin))
        status = tn_fail(TN_ERROR_IO, "cannot read standard input: %s", strerror(errno));
    free(line);
    return status;
}

static int run(const tn_invocation *call) {
    worker w = {.config = call->config};
    if (w.config->skip_special && !w.config->decode) {
        tn_fail(TN_ERROR_ARGUMENT, "--skip-special needs --decode");
        return TN_EXIT_USAGE;
    }
    if (w.config->special && w.config->decode) {
        tn_fail(TN_ERROR_ARGUMENT, "--special and --decode do not go together; --skip-special leaves special tokens out");
        return TN_EXIT_USAGE;
    }
    tn_status status = tn_tokenizer_load(w.config->model, &w.tokenizer);
    if (status == TN_OK)
        status = work_on_input(&w);
    tn_tokenizer_free(w.tokenizer);
    tn_ids_free(&w.ids);
    tn_buf_free(&w.line);
    tn_buf_free(&w.text);
    tn_buf_free(&w.out);
    return tn_cli_exit(status);
}

const tn_command tn_command_tokenize = {
    .name = "tokenize",
    .summary = "turn text into token ids, or ids into text",
    .description =
        "Reads one JSON object such as {\"text\": \"...\"} per line of standard input and prints the ids of its text as "
        "one JSON array per line. With --decode it is the other way round. Each line is answered before the next is read; "
        "blank lines are skipped.",
    .tables = (const tn_option_table[]){{options, 0}, {0}},
    .config_size = sizeof(config),
    .examples = (const tn_example[]){{"echo '{\"text\": \"Hello\"}' | tenon tokenize --model base", "ids of a text"},
                                     {"echo '[1, 2, 3]' | tenon tokenize --model base --decode", "the text of ids"},
                                     {0}},
    .run = run,
};
