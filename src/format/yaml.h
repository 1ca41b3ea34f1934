/* YAML in and out of cJSON trees: what configuration files need of it. Blocks, flows and all kinds of scalars are read;
 * plain scalars follow the YAML 1.2 core schema (true is a bool, 1e-4 a float, "no" and "on" are strings). Refused: anchors
 * and aliases (they can blow up), tags, duplicate keys, more than one document. */
#ifndef TN_FORMAT_YAML_H
#define TN_FORMAT_YAML_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "base/buf.h"

/* Parses one document; an empty one is null. `where` names the source in errors, which add line and column. Keys are
 * taken as their text. Nesting ends at 64. On failure *out is NULL. Free the result with cJSON_Delete. */
tn_status tn_yaml_parse(const char *text, size_t length, const char *where, cJSON **out);

/* Reads and parses a file of at most `limit` bytes. */
tn_status tn_yaml_read(const char *path, size_t limit, cJSON **out);

/* Block text appended to a buffer, with a newline at its end. Reads back the same (keys of up to 1000 bytes): strings that
 * would be something else are quoted, for YAML 1.1 readers as well. */
void tn_yaml_print(tn_buf *out, const cJSON *object);

#endif
