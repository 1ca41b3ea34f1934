/* YAML through libyaml's events: one function per kind of node, recursion bounded by MAX_DEPTH. */
#include "format/yaml.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "base/file.h"
#include "base/map.h"
#include "base/utf8.h"
#include "format/json.h"

enum { MAX_DEPTH = 64 };

typedef struct reader {
    yaml_parser_t parser;
    const char *where;
    int depth;
} reader;

static tn_status fail_at(const reader *r, yaml_mark_t mark, const char *problem) {
    return tn_fail(TN_ERROR_FORMAT, "%s, line %zu, column %zu: %s", r->where, mark.line + 1, mark.column + 1, problem);
}

static tn_status fail_parser(const reader *r) {
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return tn_fail_memory(r->where);
    if (p->error == YAML_READER_ERROR)
        return tn_fail(TN_ERROR_FORMAT, "%s, byte %zu: %s", r->where, p->problem_offset + 1, p->problem);
    /* an unclosed bracket is better shown where it opens than at the end of the text */
    if (p->context)
        return tn_fail(TN_ERROR_FORMAT, "%s, line %zu, column %zu: %s (%s in line %zu)", r->where, p->problem_mark.line + 1,
                       p->problem_mark.column + 1, p->problem, p->context, p->context_mark.line + 1);
    return fail_at(r, p->problem_mark, p->problem);
}

/* The next event; refuses those that never are part of what is read. Delete it with yaml_event_delete. */
static tn_status next_event(reader *r, yaml_event_t *event) {
    memset(event, 0, sizeof *event);
    if (!yaml_parser_parse(&r->parser, event))
        return fail_parser(r);
    const char *problem = NULL;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    }
    if (anchor || event->type == YAML_ALIAS_EVENT)
        problem = "anchors (&) and aliases (*) are not read; write the value out, or quote it if it is text";
    else if (tag)
        problem = "tags (!) are not read; leave the tag out, or quote the value if it is text";
    else if (event->type == YAML_SCALAR_EVENT && memchr(event->data.scalar.value, 0, event->data.scalar.length))
        problem = "the character \\0 cannot be part of a string here";
    if (!problem)
        return TN_OK;
    tn_status status = fail_at(r, event->start_mark, problem);
    yaml_event_delete(event);
    return status;
}

static size_t digits(const char *text) {
    return strspn(text, "0123456789");
}

/* [-+]? ( [0-9]+ | [0-9]+ . [0-9]* | . [0-9]+ ) ( [eE] [-+]? [0-9]+ )? */
static bool is_decimal(const char *text) {
    text += *text == '-' || *text == '+';
    size_t whole = digits(text), fraction = 0;
    text += whole;
    if (*text == '.') {
        fraction = digits(++text);
        text += fraction;
    }
    if (whole + fraction == 0)
        return false;
    if (*text == 'e' || *text == 'E') {
        text++;
        text += *text == '-' || *text == '+';
        if (!digits(text))
            return false;
        text += digits(text);
    }
    return !*text;
}

/* Decimal numbers (longer ones than any double needs stay strings), 0x and 0o numbers, .inf and .nan. */
static bool number_of(const char *text, double *value) {
    const char *unsigned_text = text + (*text == '-' || *text == '+');
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'o') && text[2]) {
        const char *allowed = text[1] == 'x' ? "0123456789abcdefABCDEF" : "01234567";
        *value = 0;
        for (const char *c = text + 2; *c; c++) {
            const char *digit = strchr(allowed, *c);
            if (!digit)
                return false;
            int64_t d = digit - allowed;
            *value = *value * (text[1] == 'x' ? 16 : 8) + (double)(d > 15 ? d - 6 : d);
        }
        return true;
    }
    if (!strcmp(unsigned_text, ".inf") || !strcmp(unsigned_text, ".Inf") || !strcmp(unsigned_text, ".INF")) {
        *value = *text == '-' ? -(double)INFINITY : (double)INFINITY;
        return true;
    }
    if (!strcmp(text, ".nan") || !strcmp(text, ".NaN") || !strcmp(text, ".NAN")) {
        *value = (double)NAN;
        return true;
    }
    size_t length = strlen(text);
    if (length > TN_JSON_NUMBER_LENGTH || !is_decimal(text))
        return false;
    *value = tn_json_number(text, length);
    return true;
}

/* A plain scalar by the core schema. */
static cJSON *resolve_plain(const char *text) {
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    static const char *const bools[] = {"false", "False", "FALSE", "true", "True", "TRUE"};
    double value;
    for (size_t i = 0; i < 5; i++)
        if (strcmp(text, nulls[i]) == 0)
            return cJSON_CreateNull();
    for (size_t i = 0; i < 6; i++)
        if (strcmp(text, bools[i]) == 0)
            return cJSON_CreateBool(i >= 3);
    return number_of(text, &value) ? cJSON_CreateNumber(value) : cJSON_CreateString(text);
}

static tn_status read_node(reader *r, yaml_event_t *event, cJSON **out);

static tn_status read_sequence(reader *r, cJSON *list) {
    for (;;) {
        yaml_event_t event;
        cJSON *item = NULL;
        TN_TRY(next_event(r, &event));
        if (event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            return TN_OK;
        }
        TN_TRY(read_node(r, &event, &item));
        cJSON_AddItemToArray(list, item);
    }
}

/* Reads the value behind `key`, an event that it deletes, and adds it to `object`. */
static tn_status read_member(reader *r, yaml_event_t *key, tn_map *seen, cJSON *object) {
    const char *name = (const char *)key->data.scalar.value;
    yaml_event_t event;
    cJSON *value = NULL;
    tn_status status;
    if (key->type != YAML_SCALAR_EVENT)
        status = fail_at(r, key->start_mark, "a key must be a word, not a list or an object");
    else if (tn_map_get_text(seen, name, NULL))
        status = fail_at(r, key->start_mark, "this key is there twice in the same object");
    else
        status = tn_map_put_text(seen, name, 0);
    if (status == TN_OK)
        status = next_event(r, &event);
    if (status == TN_OK)
        status = read_node(r, &event, &value);
    if (status == TN_OK && !cJSON_AddItemToObject(object, name, value)) {
        cJSON_Delete(value);
        status = tn_fail_memory(r->where);
    }
    yaml_event_delete(key);
    return status;
}

static tn_status read_mapping(reader *r, cJSON *object) {
    tn_map seen = {0};
    tn_status status;
    for (;;) {
        yaml_event_t key;
        status = next_event(r, &key);
        if (status != TN_OK)
            break;
        if (key.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&key);
            break;
        }
        status = read_member(r, &key, &seen, object);
        if (status != TN_OK)
            break;
    }
    tn_map_free(&seen);
    return status;
}

/* The node that begins with `event`, which is deleted. */
static tn_status read_node(reader *r, yaml_event_t *event, cJSON **out) {
    yaml_event_type_t type = event->type;
    yaml_mark_t mark = event->start_mark;
    if (type == YAML_SCALAR_EVENT) {
        const char *text = (const char *)event->data.scalar.value;
        bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
        *out = plain ? resolve_plain(text) : cJSON_CreateString(text);
    } else {
        *out = type == YAML_MAPPING_START_EVENT ? cJSON_CreateObject() : cJSON_CreateArray();
    }
    yaml_event_delete(event);
    if (!*out)
        return tn_fail_memory(r->where);
    if (type == YAML_SCALAR_EVENT)
        return TN_OK;
    tn_status status = TN_OK;
    if (++r->depth > MAX_DEPTH)
        status = fail_at(r, mark, "nested more than 64 deep");
    else
        status = type == YAML_MAPPING_START_EVENT ? read_mapping(r, *out) : read_sequence(r, *out);
    r->depth--;
    if (status != TN_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    return status;
}

/* Everything from the start of the stream to its end. */
static tn_status read_stream(reader *r, cJSON **out) {
    for (;;) {
        yaml_event_t event;
        TN_TRY(next_event(r, &event));
        yaml_event_type_t type = event.type;
        if (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT || type == YAML_MAPPING_START_EVENT) {
            TN_TRY(read_node(r, &event, out));
            continue;
        }
        tn_status status = TN_OK;
        if (type == YAML_DOCUMENT_START_EVENT && *out)
            status = fail_at(r, event.start_mark, "a second document begins here; one is read");
        yaml_event_delete(&event);
        if (status != TN_OK || type == YAML_STREAM_END_EVENT)
            return status;
    }
}

tn_status tn_yaml_parse(const char *text, size_t length, const char *where, cJSON **out) {
    reader r = {.where = where};
    *out = NULL;
    if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        length -= 3;
    }
    if (!yaml_parser_initialize(&r.parser))
        return tn_fail_memory(where);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, length);
    tn_status status = read_stream(&r, out);
    if (status == TN_OK && !*out) {
        *out = cJSON_CreateNull();
        status = *out ? TN_OK : tn_fail_memory(where);
    }
    if (status != TN_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    yaml_parser_delete(&r.parser);
    return status;
}

tn_status tn_yaml_read(const char *path, size_t limit, cJSON **out) {
    tn_buf text = {0};
    *out = NULL;
    tn_status status = tn_file_read(path, limit, &text);
    if (status == TN_OK)
        status = tn_yaml_parse(tn_buf_text(&text), text.length, path, out);
    tn_buf_free(&text);
    return status;
}

/* True for strings that every reader, YAML 1.1 or 1.2, takes for strings without quotes. */
static bool is_plain(const char *text) {
    static const char *const words[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    if (!*text || !strchr(letters, *text) ||
        strspn(text + 1, "0123456789./+@ -abcdefghijklmnopqrstuvwxyz"
                         "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != strlen(text + 1))
        return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(text, words[i]) == 0)
            return false;
    return text[strlen(text) - 1] != ' ';
}

/* YAML's double quotes are JSON's, but for characters that libyaml takes for line ends or does not let through. */
static void print_string(tn_buf *out, const char *text) {
    if (is_plain(text)) {
        tn_buf_puts(out, text);
        return;
    }
    size_t length = strlen(text);
    tn_buf_putc(out, '"');
    for (size_t at = 0, size; at < length; at += size) {
        uint32_t code;
        size = tn_utf8_decode(text + at, length - at, &code);
        if (size == 0) {
            code = 0xfffd;
            size = 1;
        }
        if (code == '"' || code == '\\')
            tn_buf_append(out, (char[]){'\\', (char)code}, 2);
        else if (code == '\n')
            tn_buf_puts(out, "\\n");
        else if (code < 0x20 || (code >= 0x7f && code <= 0xa0) || code == 0x2028 || code == 0x2029 || code == 0xfeff ||
                 (code >= 0xfffd && code <= 0xffff))
            tn_buf_printf(out, "\\u%04x", (unsigned)code);
        else
            tn_buf_append(out, text + at, size);
    }
    tn_buf_putc(out, '"');
}

/* A number with an exponent gets a point: 1e-05 is a string to YAML 1.1. */
static void print_number(tn_buf *out, double value) {
    size_t start = out->length;
    if (!isfinite(value)) {
        tn_buf_puts(out, isnan(value) ? ".nan" : value < 0 ? "-.inf" : ".inf");
        return;
    }
    tn_json_print_number(out, value);
    char *exponent = out->failed ? NULL : strchr(out->data + start, 'e'), copy[16];
    if (!exponent || strchr(out->data + start, '.'))
        return;
    snprintf(copy, sizeof copy, "%s", exponent);
    out->length = (size_t)(exponent - out->data);
    tn_buf_printf(out, ".0%s", copy);
}

static void print_scalar(tn_buf *out, const cJSON *value) {
    if (cJSON_IsString(value))
        print_string(out, value->valuestring);
    else if (cJSON_IsNumber(value))
        print_number(out, value->valuedouble);
    else
        tn_json_print(out, value, false); /* true, false, null, [] and {} are the same in both */
}

/* The cursor stands at column `indent` already. Every line ends with a newline. */
static void print_node(tn_buf *out, const cJSON *value, int indent) {
    if (!value || !value->child) {
        print_scalar(out, value);
        tn_buf_putc(out, '\n');
        return;
    }
    for (const cJSON *item = value->child; item; item = item->next) {
        if (item != value->child)
            tn_buf_printf(out, "%*s", indent, "");
        if (cJSON_IsArray(value)) {
            tn_buf_puts(out, "- ");
            print_node(out, item, indent + 2);
        } else {
            print_string(out, item->string);
            if (item->child)
                tn_buf_printf(out, ":\n%*s", indent + 2, "");
            else
                tn_buf_puts(out, ": ");
            print_node(out, item, indent + 2);
        }
    }
}

void tn_yaml_print(tn_buf *out, const cJSON *object) {
    print_node(out, object, 0);
}
