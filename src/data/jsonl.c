/* JSON lines and JSON arrays, streamed from the mapped file.
 *
 *     [BOM] row LF row CR LF LF row           or          [BOM] [ row, row, row ] */
#include "data/jsonl.h"

#include <string.h>

#include "format/json.h"

static bool is_space(uint8_t c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void skip_space(tn_jsonl *reader) {
    for (; reader->offset < reader->mapping.size && is_space(reader->mapping.data[reader->offset]); reader->offset++)
        reader->next_line += reader->mapping.data[reader->offset] == '\n';
}

tn_status tn_jsonl_open(tn_jsonl *reader, const char *path) {
    *reader = (tn_jsonl){.path = path, .next_line = 1};
    TN_TRY(tn_file_map(path, &reader->mapping));
    const uint8_t *data = reader->mapping.data;
    size_t size = reader->mapping.size;
    if (size >= 2 && ((data[0] == 0xff && data[1] == 0xfe) || (data[0] == 0xfe && data[1] == 0xff))) {
        tn_jsonl_close(reader);
        return tn_fail(TN_ERROR_FORMAT, "%s is UTF-16 text; save it as UTF-8", path);
    }
    if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0)
        reader->offset = 3;
    size_t first = reader->offset;
    while (first < size && is_space(data[first]))
        first++;
    reader->is_array = first < size && data[first] == '[';
    return TN_OK;
}

void tn_jsonl_close(tn_jsonl *reader) {
    cJSON_Delete(reader->row);
    tn_buf_free(&reader->where);
    tn_file_unmap(&reader->mapping);
    *reader = (tn_jsonl){0};
}

static tn_status parse_row(tn_jsonl *reader, const char *text, size_t length) {
    tn_buf_clear(&reader->where);
    tn_buf_printf(&reader->where, "%s line %lld", reader->path, (long long)reader->line);
    TN_TRY(tn_buf_status(&reader->where));
    const char *where = tn_buf_text(&reader->where);
    if (length > TN_JSONL_ROW_LIMIT)
        return tn_fail(TN_ERROR_FORMAT, "%s: a row of %zu bytes; at most %zu are allowed", where, length,
                       TN_JSONL_ROW_LIMIT);
    TN_TRY(tn_json_parse(text, length, where, &reader->row));
    if (!cJSON_IsObject(reader->row))
        return tn_fail(TN_ERROR_FORMAT, "%s: expected an object such as {\"text\": \"...\"}", where);
    const char *twice = tn_json_duplicate_key(reader->row);
    if (twice)
        return tn_fail(TN_ERROR_FORMAT, "%s: the key \"%.100s\" occurs twice", where, twice);
    return TN_OK;
}

static tn_status next_line(tn_jsonl *reader) {
    skip_space(reader);
    if (reader->offset == reader->mapping.size)
        return TN_OK;
    const char *text = (const char *)reader->mapping.data + reader->offset;
    size_t left = reader->mapping.size - reader->offset;
    const char *newline = memchr(text, '\n', left);
    size_t length = newline ? (size_t)(newline - text) : left;
    reader->offset += length;
    reader->line = reader->next_line;
    while (length && is_space((uint8_t)text[length - 1]))
        length--;
    return parse_row(reader, text, length);
}

/* Moves `offset` past one element of the array: to the comma or bracket after it, or to the end of the file. */
static void skip_element(tn_jsonl *reader) {
    int64_t depth = 0;
    bool in_string = false;
    for (; reader->offset < reader->mapping.size; reader->offset++) {
        uint8_t c = reader->mapping.data[reader->offset];
        reader->next_line += c == '\n';
        if (in_string) {
            if (c == '\\' && reader->offset + 1 < reader->mapping.size)
                reader->offset++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (depth == 0 && (c == ',' || c == ']')) {
            return;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
}

static tn_status next_element(tn_jsonl *reader) {
    const uint8_t *data = reader->mapping.data;
    size_t size = reader->mapping.size;
    skip_space(reader);
    if (reader->offset == size)
        return tn_fail(TN_ERROR_FORMAT, "%s line %lld: the array is not closed by ']'; is the file cut short?", reader->path,
                       (long long)reader->next_line);
    uint8_t opener = data[reader->offset++]; /* '[', ',' or ']': the element before ended at one of them */
    skip_space(reader);
    bool closed = opener == ']';
    if (!closed && !reader->started && reader->offset < size && data[reader->offset] == ']') {
        closed = true;
        reader->offset++;
        skip_space(reader);
    }
    reader->started = true;
    if (closed) {
        if (reader->offset < size)
            return tn_fail(TN_ERROR_FORMAT, "%s line %lld: more text after the end of the array", reader->path,
                           (long long)reader->next_line);
        reader->offset = size;
        reader->is_array = false;
        return TN_OK;
    }
    reader->line = reader->next_line;
    size_t start = reader->offset;
    skip_element(reader);
    return parse_row(reader, (const char *)data + start, reader->offset - start);
}

tn_status tn_jsonl_next(tn_jsonl *reader) {
    cJSON_Delete(reader->row);
    reader->row = NULL;
    return reader->is_array ? next_element(reader) : next_line(reader);
}
