/* Any bytes: what tn_json_parse accepts must print and read back as the same tree. */
#include "format/json.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cJSON *value, *back;
    tn_buf text = {0};
    tn_status status = tn_json_parse((const char *)data, size, "input", &value);
    fuzz_require(status == TN_OK || status == TN_ERROR_FORMAT);
    if (status != TN_OK)
        return 0;
    tn_json_duplicate_key(value);
    tn_json_print(&text, value, true);
    fuzz_require(tn_json_parse(text.data, text.length, "printed", &back) == TN_OK);
    tn_buf again = {0};
    tn_json_print(&again, back, true);
    fuzz_require(text.length == again.length && memcmp(text.data, again.data, text.length) == 0);
    tn_buf_free(&text);
    tn_buf_free(&again);
    cJSON_Delete(value);
    cJSON_Delete(back);
    return 0;
}
