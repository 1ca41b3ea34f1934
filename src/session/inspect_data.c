/* Data sets and metrics: rows of JSON, without a tokenizer. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/jsonl.h"
#include "format/json.h"
#include "session/inspect_parts.h"

enum { SAMPLE_CHARACTERS = 160, SAMPLE_ITEMS = 16 };

/* Kinds of rows as tn_dataset_read tells them apart, and the fields whose text counts. */
static const struct row_kind {
    const char *name, *required[2], *counted[3];
} row_kinds[] = {
    {"input_ids", {"input_ids"}, {NULL}},
    {"messages", {"messages"}, {NULL}},
    {"prompt, completion", {"prompt", "completion"}, {"prompt", "completion"}},
    {"instruction, output", {"instruction", "output"}, {"instruction", "input", "output"}},
    {"text", {"text"}, {"text"}},
    {"none that training knows", {NULL}, {NULL}},
};
enum { KINDS = sizeof row_kinds / sizeof *row_kinds, INPUT_IDS = 0, MESSAGES = 1 };

typedef struct {
    int64_t *lengths;
    size_t count, capacity;
    int64_t first_line; /* of a row of this kind */
} kind_rows;

static size_t kind_of(const cJSON *row) {
    size_t k = 0;
    for (; k + 1 < KINDS; k++) {
        bool fits = true;
        for (size_t i = 0; i < 2 && row_kinds[k].required[i]; i++)
            fits = fits && tn_json_get(row, row_kinds[k].required[i]);
        if (fits)
            break;
    }
    return k;
}

static int64_t characters(const cJSON *value) {
    int64_t count = 0;
    if (cJSON_IsString(value))
        for (const char *c = value->valuestring; *c; c++)
            count += ((unsigned char)*c & 0xc0) != 0x80;
    return count;
}

/* The text of a message: a string, or a list of parts with "text". */
static int64_t content_characters(const cJSON *content) {
    int64_t count = characters(content);
    const cJSON *part;
    if (cJSON_IsArray(content))
        cJSON_ArrayForEach(part, content) count += characters(tn_json_get(part, "text"));
    return count;
}

static int64_t row_length(const cJSON *row, size_t kind) {
    int64_t length = 0;
    const cJSON *item;
    if (kind == INPUT_IDS)
        return cJSON_GetArraySize(tn_json_get(row, "input_ids"));
    if (kind == MESSAGES && cJSON_IsArray(tn_json_get(row, "messages")))
        cJSON_ArrayForEach(item, tn_json_get(row, "messages")) length += content_characters(tn_json_get(item, "content"));
    for (size_t i = 0; i < 3 && row_kinds[kind].counted[i]; i++)
        length += characters(tn_json_get(row, row_kinds[kind].counted[i]));
    return length;
}

/* Cuts a long text in place, when what is cut is longer than what says so. */
static void shorten_text(char *text) {
    static const char more[] = "\xe2\x80\xa6";
    int count = 0;
    while (*text && ((*text & 0xc0) == 0x80 || count++ < SAMPLE_CHARACTERS))
        text++;
    if (strlen(text) > sizeof more)
        memcpy(text, more, sizeof more);
}

static void shorten(cJSON *value) {
    cJSON *child;
    int count = 0;
    if (cJSON_IsString(value))
        shorten_text(value->valuestring);
    cJSON_ArrayForEach(child, value) {
        shorten(child);
        if (cJSON_IsArray(value) && ++count == SAMPLE_ITEMS && child->next) {
            cJSON_Delete(child->next);
            child->next = NULL;
            value->child->prev = child;
        }
    }
}

/* Counts the fields of rows, so that a row that training does not know can be told from one that is misspelt. */
static void note_fields(cJSON *fields, const cJSON *row) {
    enum { MOST_FIELDS = 32 };
    const cJSON *item;
    cJSON_ArrayForEach(item, row) {
        cJSON *count = cJSON_GetObjectItemCaseSensitive(fields, item->string);
        if (count)
            cJSON_SetNumberValue(count, count->valuedouble + 1);
        else if (cJSON_GetArraySize(fields) < MOST_FIELDS)
            cJSON_AddNumberToObject(fields, item->string, 1);
    }
}

static tn_status note_row(kind_rows *rows, int64_t length, int64_t line) {
    if (rows->count == rows->capacity) {
        size_t capacity = rows->capacity ? rows->capacity * 2 : 1024;
        int64_t *grown = tn_realloc_array(rows->lengths, capacity, sizeof *grown);
        if (!grown)
            return tn_fail_memory("the lengths of rows");
        rows->lengths = grown;
        rows->capacity = capacity;
    }
    if (!rows->count)
        rows->first_line = line;
    rows->lengths[rows->count++] = length;
    return TN_OK;
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void add_kinds(cJSON *out, kind_rows *rows) {
    cJSON *kinds = cJSON_AddArrayToObject(out, "kinds");
    for (size_t k = 0; k < KINDS; k++) {
        kind_rows *r = &rows[k];
        if (!r->count)
            continue;
        cJSON *one = cJSON_CreateObject();
        cJSON_AddItemToArray(kinds, one);
        cJSON_AddStringToObject(one, "kind", row_kinds[k].name);
        cJSON_AddNumberToObject(one, "rows", (double)r->count);
        cJSON_AddNumberToObject(one, "first_line", (double)r->first_line);
        if (k + 1 == KINDS)
            continue;
        qsort(r->lengths, r->count, sizeof *r->lengths, ascending);
        cJSON_AddStringToObject(one, "unit", k == INPUT_IDS ? "tokens" : "characters");
        cJSON_AddNumberToObject(one, "shortest", (double)r->lengths[0]);
        cJSON_AddNumberToObject(one, "median", (double)r->lengths[(r->count - 1) / 2]);
        cJSON_AddNumberToObject(one, "longest", (double)r->lengths[r->count - 1]);
    }
}

tn_status tn_inspect_data_file(cJSON *out, const char *path) {
    kind_rows rows[KINDS] = {{0}};
    tn_jsonl reader;
    int64_t count = 0;
    cJSON *fields = cJSON_CreateObject(), *sample = NULL;
    tn_status status = tn_jsonl_open(&reader, path);
    if (status != TN_OK) {
        cJSON_Delete(fields);
        return status;
    }
    for (;; count++) {
        TN_TRY_GOTO(tn_jsonl_next(&reader));
        if (!reader.row)
            break;
        size_t kind = kind_of(reader.row);
        TN_TRY_GOTO(note_row(&rows[kind], row_length(reader.row, kind), reader.line));
        note_fields(fields, reader.row);
        if (!sample) {
            sample = cJSON_Duplicate(reader.row, true);
            shorten(sample);
        }
    }
    cJSON_AddNumberToObject(out, "rows", (double)count);
    add_kinds(out, rows);
    cJSON_AddItemToObject(out, "fields", fields);
    fields = NULL;
    if (sample)
        cJSON_AddItemToObject(out, "sample", sample);
    sample = NULL;
fail:
    for (size_t k = 0; k < KINDS; k++)
        tn_free(rows[k].lengths);
    cJSON_Delete(fields);
    cJSON_Delete(sample);
    tn_jsonl_close(&reader);
    return status;
}

static const char *const part_names[] = {"train", "valid", "test"};
static const char *const endings[] = {".jsonl", ".json"};

/* True, with the path, when the folder has the part in one of the two spellings. */
static bool find_part(char path[TN_PATH_MAX], const char *dir, size_t part) {
    char name[32];
    for (size_t e = 0; e < 2; e++) {
        snprintf(name, sizeof name, "%s%s", part_names[part], endings[e]);
        if (tn_inspect_has(path, dir, name))
            return true;
    }
    return false;
}

bool tn_inspect_is_data_folder(const char *dir) {
    char path[TN_PATH_MAX];
    return find_part(path, dir, 0) || find_part(path, dir, 1) || find_part(path, dir, 2);
}

tn_status tn_inspect_data_folder(cJSON *out, const char *dir) {
    char path[TN_PATH_MAX];
    for (size_t part = 0; part < 3; part++)
        if (find_part(path, dir, part))
            TN_TRY(tn_inspect_data_file(cJSON_AddObjectToObject(out, part_names[part]), path));
    return TN_OK;
}

/* What a run's metrics add up to. */
typedef struct {
    int64_t logged, validations, last_step, best_step;
    double first_loss, last_loss, best_valid_loss, last_valid_loss;
} metrics;

static double number(const cJSON *row, const char *key) {
    const cJSON *value = tn_json_get(row, key);
    return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

static void note_metrics(metrics *m, const cJSON *row) {
    double step = number(row, "step"), loss = number(row, "loss"), valid = number(row, "valid_loss");
    if (!(step >= 0 && step < 0x1p53))
        return;
    m->last_step = (int64_t)step;
    if (isfinite(loss)) {
        m->first_loss = m->logged++ ? m->first_loss : loss;
        m->last_loss = loss;
    }
    if (isfinite(valid)) {
        if (!m->validations++ || valid < m->best_valid_loss) {
            m->best_valid_loss = valid;
            m->best_step = m->last_step;
        }
        m->last_valid_loss = valid;
    }
}

static void add_metrics(cJSON *out, const metrics *m) {
    cJSON_AddNumberToObject(out, "logged_steps", (double)m->logged);
    cJSON_AddNumberToObject(out, "last_step", (double)m->last_step);
    if (m->logged) {
        cJSON_AddNumberToObject(out, "first_loss", m->first_loss);
        cJSON_AddNumberToObject(out, "last_loss", m->last_loss);
    }
    if (m->validations) {
        cJSON_AddNumberToObject(out, "validations", (double)m->validations);
        cJSON_AddNumberToObject(out, "best_valid_loss", m->best_valid_loss);
        cJSON_AddNumberToObject(out, "best_valid_step", (double)m->best_step);
        cJSON_AddNumberToObject(out, "last_valid_loss", m->last_valid_loss);
    }
}

/* A run that goes on may be in the middle of its last line, so a line that is none is passed over. */
tn_status tn_inspect_metrics(cJSON *out, const char *path) {
    tn_mapping mapping;
    metrics m = {0};
    TN_TRY(tn_file_map(path, &mapping));
    const char *text = (const char *)mapping.data;
    size_t left = mapping.size;
    while (left) {
        const char *end = memchr(text, '\n', left);
        size_t length = end ? (size_t)(end - text) : left;
        cJSON *row;
        if (length && tn_json_parse(text, length, path, &row) == TN_OK) {
            note_metrics(&m, row);
            cJSON_Delete(row);
        }
        length += end != NULL;
        text += length;
        left -= length;
    }
    tn_file_unmap(&mapping);
    add_metrics(out, &m);
    return TN_OK;
}
