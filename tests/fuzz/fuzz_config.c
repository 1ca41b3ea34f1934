/* Any JSON as config.json: what is accepted must be a model whose sizes and rotary tables make sense. */
#include "base/memory.h"
#include "fuzz.h"
#include "model/config.h"

static void check(const tn_decoder_config *c) {
    enum { POSITIONS = 3 };
    fuzz_require(c->vocab_size > 0 && c->hidden_size > 0 && c->intermediate_size > 0 && c->layers > 0 &&
                 c->max_positions > 0);
    fuzz_require(c->kv_heads > 0 && c->heads % c->kv_heads == 0 && c->head_size > 0 &&
                 (c->is_gpt2 || c->head_size % 2 == 0));
    fuzz_require(c->norm_eps > 0 && c->initializer_range >= 0 && c->eos_count <= 8);
    for (int64_t layer = 0; layer < c->layers; layer++)
        fuzz_require(tn_decoder_window(c, layer) >= 0);
    if (c->is_gpt2) {
        fuzz_require(c->attention_scale > 0 && c->hidden_size == c->heads * c->head_size);
        return; /* no rotation */
    }
    size_t floats = POSITIONS * (size_t)c->head_size / 2;
    float *cosines = malloc(floats * sizeof *cosines), *sines = malloc(floats * sizeof *sines);
    fuzz_require(cosines && sines);
    tn_rope_fill(c, POSITIONS, cosines, sines);
    fuzz_read(cosines, floats * sizeof *cosines);
    fuzz_read(sines, floats * sizeof *sines);
    free(cosines);
    free(sines);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tn_decoder_config config;
    cJSON *json;
    size_t used = tn_memory_used();
    if (tn_json_parse((const char *)data, size, "config.json", &json) != TN_OK)
        return 0;
    tn_status status = tn_decoder_config_parse(json, "config.json", &config);
    fuzz_require(status == TN_OK || status == TN_ERROR_FORMAT || status == TN_ERROR_UNSUPPORTED);
    if (status == TN_OK) {
        check(&config);
        tn_decoder_config_free(&config);
    }
    cJSON_Delete(json);
    fuzz_require(tn_memory_used() == used);
    return 0;
}
