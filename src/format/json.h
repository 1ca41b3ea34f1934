/* JSON through cJSON, with what it leaves out: text is checked strictly, duplicate keys are found, errors say line and
 * column, and typed getters say what is wrong. cJSON was kept over jansson for a third of its time on large files. */
#ifndef TN_FORMAT_JSON_H
#define TN_FORMAT_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* Parses exactly one JSON value (RFC 8259; a byte order mark in front is skipped). `where` names the source in errors
 * ("config.json", "train.jsonl line 3"), which add line and column. Refused though JSON allows them: the character \u0000
 * (strings here end in NUL), numbers no double can hold or of more than 63 characters, more than 512 nested brackets.
 * `text` need not end in NUL. On failure *out is NULL. Free the result with cJSON_Delete. */
tn_status tn_json_parse(const char *text, size_t length, const char *where, cJSON **out);

/* Reads and parses a file of at most `limit` bytes. */
tn_status tn_json_read(const char *path, size_t limit, cJSON **out);

/* Members of an object, by exact name; NULL when absent or when `object` is no object. JSON null counts as absent. */
const cJSON *tn_json_get(const cJSON *object, const char *key);

/* Typed members: absent leaves *out as it is and succeeds; a wrong type or range is an error naming `where` and key.
 * Integers are those a double holds exactly, below 2^53; doubles are finite; strings live with the object. */
tn_status tn_json_get_int(const cJSON *object, const char *key, const char *where, int64_t low, int64_t high, int64_t *out);
tn_status tn_json_get_double(const cJSON *object, const char *key, const char *where, double *out);
tn_status tn_json_get_bool(const cJSON *object, const char *key, const char *where, bool *out);
tn_status tn_json_get_string(const cJSON *object, const char *key, const char *where, const char **out);

/* The first key that occurs twice in an object, or NULL. */
const char *tn_json_duplicate_key(const cJSON *object);

/* Compact text, or text as Python's json.dumps(indent=2, ensure_ascii=False) lays it out, appended to a buffer. Numbers
 * print with the fewest digits that read back the same, whole ones without a point; what is not finite prints as null. */
void tn_json_print(tn_buf *out, const cJSON *value, bool indented);
void tn_json_print_string(tn_buf *out, const char *text, size_t length); /* quoted, escaped; bytes not UTF-8 become U+FFFD */
void tn_json_print_number(tn_buf *out, double value);

/* The double nearest to a decimal number of at most TN_JSON_NUMBER_LENGTH bytes, '.' in every locale; may be infinite. */
enum { TN_JSON_NUMBER_LENGTH = 63 };
double tn_json_number(const char *text, size_t length);

#endif
