/* The metadata of a GGUF model as the config.json that Hugging Face gives the same model. */
#ifndef TN_MODEL_GGUF_CONFIG_H
#define TN_MODEL_GGUF_CONFIG_H

#include "format/gguf.h"
#include "format/json.h"

/* Of the architectures llama and qwen2. Values are checked as to their kind only: the result is to go through
 * tn_decoder_config_parse as any config.json. Free with cJSON_Delete. */
tn_status tn_gguf_config(tn_gguf *file, cJSON **out);

/* The same from a path to the file. */
tn_status tn_gguf_config_read(const char *path, cJSON **out);

/* Llama 3's scaling as llama.cpp stores it: what each of the D/2 rotary frequencies is divided by. */
typedef struct tn_llama3_scaling {
    double factor, low_freq_factor, high_freq_factor;
    double original_max_positions;
} tn_llama3_scaling;
void tn_llama3_frequency_factors(float *out, int64_t head_size, double theta, const tn_llama3_scaling *scaling);

#endif
