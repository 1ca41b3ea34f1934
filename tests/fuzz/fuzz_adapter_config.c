/* Any JSON as adapter_config.json: what is accepted must print and read back as the same configuration. */
#include "fuzz.h"
#include "peft/config.h"

static void check(const tn_peft_config *config) {
    tn_peft_config back;
    tn_buf text = {0}, again = {0};
    cJSON *json;
    fuzz_require(config->rank >= 0 && config->dropout >= 0 && config->dropout < 1);
    fuzz_require(tn_peft_config_print(config, &text) == TN_OK);
    fuzz_require(tn_json_parse(text.data, text.length, "printed", &json) == TN_OK);
    fuzz_require(tn_peft_config_parse(json, "printed", &back) == TN_OK);
    fuzz_require(tn_peft_config_print(&back, &again) == TN_OK);
    fuzz_require(text.length == again.length && memcmp(text.data, again.data, text.length) == 0);
    cJSON_Delete(json);
    tn_peft_config_free(&back);
    tn_buf_free(&text);
    tn_buf_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tn_peft_config config;
    cJSON *json;
    size_t used = tn_memory_used();
    if (tn_json_parse((const char *)data, size, "adapter_config.json", &json) != TN_OK)
        return 0;
    tn_status status = tn_peft_config_parse(json, "adapter_config.json", &config);
    fuzz_require(status == TN_OK || status == TN_ERROR_FORMAT || status == TN_ERROR_UNSUPPORTED);
    if (status == TN_OK) {
        check(&config);
        tn_peft_config_free(&config);
    }
    cJSON_Delete(json);
    fuzz_require(tn_memory_used() == used);
    return 0;
}
