/* Row kinds and their masks: which fields a row has decides what is text, what is trained, and what the tokenizer sees. */
#include "data/sample.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "format/json.h"

static void clear_ids(tn_ids *ids) {
    ids->count = 0;
}

static bool starts_with(const tn_ids *ids, const tn_ids *prefix) {
    return ids->count >= prefix->count &&
           (prefix->count == 0 || memcmp(ids->data, prefix->data, prefix->count * sizeof *ids->data) == 0);
}

/* Appends the ids of text[from, to) as they come out behind text[context, from), or finds that they cannot be told apart.
 * SentencePiece tokenizers put a space before every text, which the second part of a text must not get. */
static tn_status encode_behind(tn_sample_maker *maker, const char *text, size_t context, size_t from, size_t to, tn_ids *out,
                               bool *done) {
    const tn_tokenizer *tokenizer = maker->options->tokenizer;
    tn_ids *joined = &maker->scratch, before = {0};
    tn_status status = tn_tokenizer_encode(tokenizer, text + context, from - context, false, &before);
    clear_ids(joined);
    if (status == TN_OK)
        status = tn_tokenizer_encode(tokenizer, text + context, to - context, false, joined);
    *done = status == TN_OK && starts_with(joined, &before);
    for (size_t i = before.count; *done && status == TN_OK && i < joined->count; i++)
        status = tn_ids_push(out, joined->data[i]);
    tn_ids_free(&before);
    return status;
}

/* "a" behind a line break against "a" alone shows whether the tokenizer prefixes a space. */
static tn_status detect_prefix_space(tn_sample_maker *maker) {
    tn_ids alone = {0}, behind = {0};
    bool done = false;
    tn_status status = tn_tokenizer_encode(maker->options->tokenizer, "a", 1, false, &alone);
    if (status == TN_OK)
        status = encode_behind(maker, "\na", 0, 1, 2, &behind, &done);
    if (status == TN_OK)
        maker->prefixes_space = done && !(alone.count == behind.count && starts_with(&alone, &behind));
    tn_ids_free(&alone);
    tn_ids_free(&behind);
    return status;
}

tn_status tn_sample_maker_init(tn_sample_maker *maker, const tn_dataset_options *options) {
    *maker = (tn_sample_maker){.options = options, .vocab_size = options->vocab_size};
    if (options->vocab_size < 0 || options->vocab_size > INT32_MAX || options->max_length < 0)
        return tn_fail(TN_ERROR_ARGUMENT, "vocab_size and max_length of a dataset must not be negative");
    if (maker->vocab_size == 0)
        maker->vocab_size = options->tokenizer ? tn_tokenizer_vocab_size(options->tokenizer) : INT32_MAX;
    if (!options->tokenizer)
        return TN_OK;
    tn_status status = detect_prefix_space(maker);
    if (status != TN_OK)
        tn_sample_maker_free(maker);
    return status;
}

void tn_sample_maker_free(tn_sample_maker *maker) {
    tn_ids_free(&maker->ids);
    tn_ids_free(&maker->labels);
    tn_ids_free(&maker->scratch);
    tn_buf_free(&maker->prompt);
    tn_buf_free(&maker->completion);
    tn_buf_free(&maker->text);
    tn_buf_free(&maker->behind_break);
    *maker = (tn_sample_maker){0};
}

/* Gives every id that has no label yet its own, or none. */
static tn_status label_new_ids(tn_sample_maker *maker, bool trained) {
    trained = trained || maker->options->train_on_prompt;
    for (size_t i = maker->labels.count; i < maker->ids.count; i++)
        TN_TRY(tn_ids_push(&maker->labels, trained ? maker->ids.data[i] : TN_LABEL_IGNORED));
    return TN_OK;
}

/* Where the piece before merges with this one, a line break takes its place: no vocabulary merges it with what follows. */
static tn_status encode_piece(tn_sample_maker *maker, const char *text, size_t previous, size_t from, size_t to) {
    bool done = false;
    if (maker->prefixes_space) {
        TN_TRY(encode_behind(maker, text, previous, from, to, &maker->ids, &done));
        if (done)
            return TN_OK;
        tn_buf_clear(&maker->behind_break);
        tn_buf_putc(&maker->behind_break, '\n');
        tn_buf_append(&maker->behind_break, text + from, to - from);
        TN_TRY(tn_buf_status(&maker->behind_break));
        TN_TRY(encode_behind(maker, maker->behind_break.data, 0, 1, maker->behind_break.length, &maker->ids, &done));
        if (done)
            return TN_OK;
    }
    return tn_tokenizer_encode(maker->options->tokenizer, text + from, to - from, false, &maker->ids);
}

tn_status tn_sample_encode(tn_sample_maker *maker, const char *text, size_t length, const tn_span *trained, size_t count,
                           bool add_special) {
    const tn_tokenizer *tokenizer = maker->options->tokenizer;
    size_t previous = 0, from = 0;
    for (size_t i = 0; i < 2 * count + 1; i++) {
        bool inside = i % 2 == 1;
        size_t to = inside ? trained[i / 2].end : i / 2 < count ? trained[i / 2].start : length;
        if (inside && i / 2 + 1 == count)
            maker->prompt_tokens = maker->ids.count;
        if (to > from && from == 0)
            TN_TRY(tn_tokenizer_encode(tokenizer, text, to, add_special, &maker->ids));
        else if (to > from)
            TN_TRY(encode_piece(maker, text, previous, from, to));
        TN_TRY(label_new_ids(maker, inside));
        if (to > from) {
            previous = from;
            from = to;
        }
    }
    if (maker->prompt_tokens == 0 && add_special && maker->ids.count && tn_tokenizer_adds_bos(tokenizer))
        maker->prompt_tokens = 1;
    if (maker->options->keep_text && count)
        tn_buf_append(&maker->prompt, text, trained[count - 1].start);
    return tn_buf_status(&maker->prompt);
}

/* A prompt (possibly empty) with its completion, and the token that ends it. */
static tn_status encode_with_end(tn_sample_maker *maker, const char *text, size_t prompt_length, size_t length) {
    tn_span completion = {prompt_length, length};
    TN_TRY(tn_sample_encode(maker, text, length, &completion, 1, true));
    int32_t eos = tn_tokenizer_eos(maker->options->tokenizer);
    if (eos >= 0 && (maker->ids.count == 0 || maker->ids.data[maker->ids.count - 1] != eos))
        TN_TRY(tn_ids_push(&maker->ids, eos));
    return label_new_ids(maker, true);
}

static tn_status from_text(tn_sample_maker *maker, const cJSON *row, const char *where) {
    const char *text = "";
    TN_TRY(tn_json_get_string(row, "text", where, &text));
    return encode_with_end(maker, text, 0, strlen(text));
}

static tn_status from_prompt(tn_sample_maker *maker, const cJSON *row, const char *where) {
    const char *prompt = "", *completion = "";
    TN_TRY(tn_json_get_string(row, "prompt", where, &prompt));
    TN_TRY(tn_json_get_string(row, "completion", where, &completion));
    tn_buf_puts(&maker->text, prompt);
    tn_buf_puts(&maker->text, completion);
    TN_TRY(tn_buf_status(&maker->text));
    return encode_with_end(maker, tn_buf_text(&maker->text), strlen(prompt), maker->text.length);
}

/* The prompts of Stanford Alpaca (train.py, PROMPT_DICT), with the line break that its data sets train on. */
static tn_status from_instruction(tn_sample_maker *maker, const cJSON *row, const char *where) {
    const char *instruction = "", *input = "", *output = "";
    TN_TRY(tn_json_get_string(row, "instruction", where, &instruction));
    TN_TRY(tn_json_get_string(row, "input", where, &input));
    TN_TRY(tn_json_get_string(row, "output", where, &output));
    tn_buf *text = &maker->text;
    if (*input)
        tn_buf_puts(text,
                    "Below is an instruction that describes a task, paired with an input that provides further context. ");
    else
        tn_buf_puts(text, "Below is an instruction that describes a task. ");
    tn_buf_puts(text, "Write a response that appropriately completes the request.\n\n### Instruction:\n");
    tn_buf_puts(text, instruction);
    if (*input) {
        tn_buf_puts(text, "\n\n### Input:\n");
        tn_buf_puts(text, input);
    }
    tn_buf_puts(text, "\n\n### Response:\n");
    size_t prompt_length = text->length;
    tn_buf_puts(text, output);
    TN_TRY(tn_buf_status(text));
    return encode_with_end(maker, tn_buf_text(text), prompt_length, text->length);
}

static tn_status read_ids(const cJSON *row, const char *key, const char *where, int32_t lowest, tn_ids *out) {
    const cJSON *list = tn_json_get(row, key), *item;
    if (!cJSON_IsArray(list))
        return tn_fail(TN_ERROR_FORMAT, "%s: \"%s\" must be a list of token ids", where, key);
    cJSON_ArrayForEach(item, list) {
        double value = cJSON_IsNumber(item) ? item->valuedouble : (double)NAN;
        if (!(value >= lowest && value <= INT32_MAX && value == floor(value)))
            return tn_fail(TN_ERROR_FORMAT, "%s: item %zu of \"%s\" is not a token id", where, out->count, key);
        TN_TRY(tn_ids_push(out, (int32_t)value));
    }
    return TN_OK;
}

static tn_status from_ids(tn_sample_maker *maker, const cJSON *row, const char *where) {
    TN_TRY(read_ids(row, "input_ids", where, 0, &maker->ids));
    if (!tn_json_get(row, "labels"))
        return label_new_ids(maker, true);
    TN_TRY(read_ids(row, "labels", where, TN_LABEL_IGNORED, &maker->labels));
    if (maker->labels.count != maker->ids.count)
        return tn_fail(TN_ERROR_FORMAT,
                       "%s: %zu labels for %zu input_ids; there must be one for each (%d where none is learned)", where,
                       maker->labels.count, maker->ids.count, TN_LABEL_IGNORED);
    size_t i = maker->ids.count;
    while (i > 0 && maker->labels.data[i - 1] == TN_LABEL_IGNORED)
        i--;
    while (i > 0 && maker->labels.data[i - 1] != TN_LABEL_IGNORED)
        i--;
    maker->prompt_tokens = i;
    if (maker->options->keep_text && maker->options->tokenizer)
        return tn_tokenizer_decode(maker->options->tokenizer, maker->ids.data, i, false, &maker->prompt);
    return TN_OK;
}

typedef struct row_kind {
    const char *fields[2]; /* that a row must have */
    bool is_tokens;        /* needs no tokenizer */
    tn_status (*make)(tn_sample_maker *maker, const cJSON *row, const char *where);
} row_kind;

/* A row that fits several is read as the first: the one that says most about what to train on. */
static const row_kind row_kinds[] = {
    {{"input_ids"}, true, from_ids},
    {{"messages"}, false, tn_sample_from_messages},
    {{"prompt", "completion"}, false, from_prompt},
    {{"instruction", "output"}, false, from_instruction},
    {{"text"}, false, from_text},
};

enum { ROW_KINDS = sizeof row_kinds / sizeof row_kinds[0], KEYS_SHOWN = 12 };

static int count_fields(const row_kind *kind, const cJSON *row, const char **missing) {
    int found = 0;
    for (int f = 0; f < 2 && kind->fields[f]; f++)
        if (tn_json_get(row, kind->fields[f]))
            found++;
        else
            *missing = kind->fields[f];
    return found;
}

static tn_status fail_unknown_kind(const cJSON *row, const char *where) {
    char keys[512];
    size_t used = 0;
    int shown = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, row) {
        if (shown++ == KEYS_SHOWN || used >= sizeof keys - 64)
            break;
        used += (size_t)snprintf(keys + used, sizeof keys - used, "%s\"%.32s\"", used ? ", " : "", item->string);
    }
    if (!used)
        snprintf(keys, sizeof keys, "no fields");
    for (int k = 0; k < ROW_KINDS; k++) {
        const char *missing = NULL;
        if (count_fields(&row_kinds[k], row, &missing) && missing)
            return tn_fail(TN_ERROR_FORMAT, "%s: a row of \"%s\" and \"%s\" lacks \"%s\" (found: %s)", where,
                           row_kinds[k].fields[0], row_kinds[k].fields[1], missing, keys);
    }
    return tn_fail(
        TN_ERROR_FORMAT,
        "%s: no known kind of row (found: %s); a row needs \"text\", or \"prompt\" and \"completion\", or \"messages\", "
        "or \"instruction\" and \"output\" (\"input\" is optional), or \"input_ids\" (\"labels\" is optional)",
        where, keys);
}

static tn_status check_vocabulary(const tn_sample_maker *maker, const char *where) {
    const char *hint = maker->options->tokenizer ? "; does the tokenizer belong to this model?" : "";
    for (size_t i = 0; i < maker->ids.count; i++) {
        int32_t id = maker->ids.data[i], label = maker->labels.data[i];
        if (id < 0 || id >= maker->vocab_size)
            return tn_fail(TN_ERROR_FORMAT, "%s: token id %d at position %zu is outside the vocabulary of %lld%s", where, id,
                           i, (long long)maker->vocab_size, hint);
        if (label != TN_LABEL_IGNORED && (label < 0 || label >= maker->vocab_size))
            return tn_fail(TN_ERROR_FORMAT, "%s: label %d at position %zu is neither %d nor in the vocabulary of %lld%s",
                           where, label, i, TN_LABEL_IGNORED, (long long)maker->vocab_size, hint);
    }
    return TN_OK;
}

static tn_status finish(tn_sample_maker *maker) {
    if (maker->ids.count > INT32_MAX)
        return tn_fail(TN_ERROR_FORMAT, "a sample of %zu tokens is too long", maker->ids.count);
    if (maker->labels.count)
        maker->labels.data[0] = TN_LABEL_IGNORED;
    if (!maker->options->keep_text || !maker->options->tokenizer || maker->ids.count == 0)
        return TN_OK;
    size_t end = maker->prompt_tokens;
    while (end < maker->ids.count && (end == 0 || maker->labels.data[end] != TN_LABEL_IGNORED))
        end++;
    return tn_tokenizer_decode(maker->options->tokenizer, maker->ids.data + maker->prompt_tokens, end - maker->prompt_tokens,
                               true, &maker->completion);
}

tn_status tn_sample_make(tn_sample_maker *maker, const cJSON *row, const char *where) {
    clear_ids(&maker->ids);
    clear_ids(&maker->labels);
    tn_buf_clear(&maker->prompt);
    tn_buf_clear(&maker->completion);
    tn_buf_clear(&maker->text);
    maker->prompt_tokens = 0;
    for (int k = 0; k < ROW_KINDS; k++) {
        const row_kind *kind = &row_kinds[k];
        const char *missing = NULL;
        count_fields(kind, row, &missing);
        if (missing)
            continue;
        if (!kind->is_tokens && !maker->options->tokenizer)
            return tn_fail(TN_ERROR_ARGUMENT,
                           "%s: rows of \"%s\" need a tokenizer (tokenizer.json in the model folder); without "
                           "one, only rows of \"input_ids\" can be read",
                           where, kind->fields[0]);
        TN_TRY(kind->make(maker, row, where));
        TN_TRY(check_vocabulary(maker, where));
        tn_status status = finish(maker);
        return status == TN_OK ? TN_OK : tn_fail_context(status, "%s", where);
    }
    return fail_unknown_kind(row, where);
}
