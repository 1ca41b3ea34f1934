/* adapter_config.json by its members; for the methods that read and write more than their options hold. */
#ifndef TN_PEFT_CONFIG_JSON_H
#define TN_PEFT_CONFIG_JSON_H

#include "peft/config.h"

typedef struct tn_config_reader {
    tn_peft_config *config; /* filled; owns what is read */
    const cJSON *json;
    const char *where; /* the file, in errors */
} tn_config_reader;

/* The key of a method's option, and the option of a key, NULL when the method has none such. */
enum { TN_CONFIG_KEY = 64 };
void tn_config_option_key(const tn_option *option, char key[TN_CONFIG_KEY]);
const tn_option *tn_config_find_option(const tn_peft_method *method, const char *key);

/* Fails with "<file>: '<key>' must be <want>". */
tn_status tn_config_wrong_type(const tn_config_reader *reader, const char *key, const char *want);

/* An absent or null key leaves *out as it is. */
tn_status tn_config_read_text(const tn_config_reader *reader, const char *key, const char **out);
tn_status tn_config_read_names(const tn_config_reader *reader, const char *key, const cJSON *value, tn_text_list *out);
tn_status tn_config_read_integers(const tn_config_reader *reader, const char *key, const cJSON *value, int64_t high,
                                  int64_t **out, size_t *count);
tn_status tn_config_read_patterns(const tn_config_reader *reader, const char *key, tn_pattern **out, size_t *count);

/* null, false, and empty lists, objects and texts. */
bool tn_config_is_unset(const cJSON *value);

/* Empty lists are written as null, patterns as {}. */
cJSON *tn_config_names(tn_text_list names);
void tn_config_add_names(cJSON *object, const char *key, const char *regex, tn_text_list names);
void tn_config_add_patterns(cJSON *object, const char *key, const tn_pattern *patterns, size_t count);
void tn_config_add_integers(cJSON *object, const char *key, const int64_t *values, size_t count);
void tn_config_add_text(cJSON *object, const char *key, const char *text);

#endif
