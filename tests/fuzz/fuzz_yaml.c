/* Any bytes: what tn_yaml_parse accepts must print and read back as the same tree. */
#include "format/yaml.h"
#include "fuzz.h"

/* The printer promises only short keys. */
static bool has_long_key(const cJSON *value) {
    for (const cJSON *item = value->child; item; item = item->next)
        if ((item->string && strlen(item->string) > 200) || has_long_key(item))
            return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cJSON *value, *back;
    tn_status status = tn_yaml_parse((const char *)data, size, "input", &value);
    fuzz_require(status == TN_OK || status == TN_ERROR_FORMAT);
    if (status != TN_OK)
        return 0;
    if (!has_long_key(value)) {
        tn_buf text = {0}, again = {0};
        tn_yaml_print(&text, value);
        fuzz_require(tn_yaml_parse(text.data, text.length, "printed", &back) == TN_OK);
        tn_yaml_print(&again, back);
        fuzz_require(text.length == again.length && memcmp(text.data, again.data, text.length) == 0);
        tn_buf_free(&text);
        tn_buf_free(&again);
        cJSON_Delete(back);
    }
    cJSON_Delete(value);
    return 0;
}
