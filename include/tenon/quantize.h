/* Quantising the weights of a model: when it is loaded, to train adapters on it in less memory (QLoRA, Dettmers et al.
 * 2023), or once and for all, as a checkpoint that is mapped at once. */
#ifndef TENON_QUANTIZE_H
#define TENON_QUANTIZE_H

#include <tenon/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How weights are quantised. Zero-initialise: a zero or NULL takes the default. Strings are the caller's.
 *
 * Types: nf4, fp4 (4-bit floats of bitsandbytes); nf8 (LoftQ in 8 bits); int4, int5, int6, int8 and int4_affine ..
 * int8_affine (with a zero point); int8_row (LLM.int8); q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k (ggml). */
typedef struct tn_quantize_options {
    const char *type;    /* NULL: "nf4" */
    int64_t block;       /* elements per scale, a power of two from 32 to 4096; 0: the type's own, -1: one for the tensor */
    bool double_quant;   /* nf4, fp4: the scales are quantised to 8 bits themselves, in blocks of 256 */
    const char *range;   /* "absmax", "minmax" or "mse" (searched) as the type has it; NULL: the type's own */
    const char *modules; /* "all-linear" (all linear layers but the head), names or a regular expression; NULL: all-linear */
    const char *exclude; /* names separated by commas, or NULL */
    const char *mix;     /* "NAME=TYPE,...": other types for some modules, quantised or not otherwise: "down_proj=int8" */
} tn_quantize_options;

/* What quantising did to one module's weight. Differences are between the weight as it was and as it is decoded now. */
typedef struct tn_quantize_layer {
    const char *module, *type;
    int64_t rows, cols;
    int64_t bytes;        /* as quantised, scales included */
    double bits;          /* per element */
    double mse;           /* mean squared difference */
    double cosine;        /* of the weight and its decoded self, as vectors; 1 for a weight of zeros */
    double largest_error; /* largest |difference| */
} tn_quantize_layer;

typedef struct tn_quantize_callbacks {
    void *cookie;
    void (*layer)(void *cookie, const tn_quantize_layer *layer); /* after each module; costs a pass over its weight */
} tn_quantize_callbacks;

/* Quantises weights of a model without an adapter, module by module: never more than one is held twice, and the pages of a
 * mapped checkpoint are let go. `callbacks` may be NULL. Modules that are quantised already stay as they are. Errors:
 * TN_ERROR_ARGUMENT (unknown type, block size, range or module; rows that are no whole blocks), _NUMERIC, _MEMORY. After an
 * error the model is good for tn_model_free only. */
TN_API tn_status tn_model_quantize(tn_model *model, const tn_quantize_options *options,
                                   const tn_quantize_callbacks *callbacks);

/* How far quantising moved the logits of a probe batch. */
typedef struct tn_quantize_report {
    double largest_logit_difference, logit_difference_rms; /* after against before */
    double logit_rms;                                      /* of the logits before */
} tn_quantize_report;

/* The same with a pass over a probe batch before and after. */
TN_API tn_status tn_model_quantize_reported(tn_model *model, const tn_quantize_options *options,
                                            const tn_quantize_callbacks *callbacks, tn_quantize_report *report);

/* The quantised weights of a model together. */
typedef struct tn_quantize_summary {
    int64_t modules, elements, bytes; /* bytes with scales */
    double bits;                      /* per element; 0 without any */
} tn_quantize_summary;
TN_API void tn_model_describe_quantized(const tn_model *model, tn_quantize_summary *out);

/* Bytes of weights by a way of training them with AdamW: the base as stored, the adapter (or, trained in full, an f32 copy
 * of the base in its place), gradients and moments in f32. Activations, which all of them need, are not in it. */
typedef struct tn_memory_row {
    const char *name; /* "full", "lora", "dora", "qlora", "qlora, double quant", "qdora", "qdora, double quant" */
    int64_t trained;  /* numbers */
    int64_t base, adapter, gradients, optimizer, total;
} tn_memory_row;
enum { TN_MEMORY_ROWS = 7 };

/* The table of a model, adapters having `options`' rank and target modules; quantised rows have all linear layers but the
 * head in NF4 with blocks of 64. Weights that are quantised already count as bf16 in the other rows. Errors: those of
 * tn_model_add_adapter. */
TN_API tn_status tn_memory_table(tn_model *model, const tn_adapter_options *options, tn_memory_row table[TN_MEMORY_ROWS]);

/* The table of one linear layer [rows, cols], its base in f32. TN_ERROR_ARGUMENT for sizes or a rank that do not fit. */
TN_API tn_status tn_memory_table_of_layer(int64_t rows, int64_t cols, int64_t rank, tn_memory_row table[TN_MEMORY_ROWS]);

/* Writes a model with quantised weights as a folder: model.safetensors, config.json with quantization_config, tokenizer
 * files. 4-bit floats and int8_row are stored as bitsandbytes does, so that transformers reads them too; other types in the
 * same manner under names of our own (docs/formats.md). Other tensors keep the type they have. Errors: TN_ERROR_ARGUMENT for
 * the model's own folder and when nothing is quantised, _UNSUPPORTED for ggml's types, which belong into a GGUF file. */
TN_API tn_status tn_model_save_quantized(tn_model *model, const char *dir);

/* Writes the base (an adapter on it is left out) as dir/model.gguf with llama.cpp's names, metadata and tokenizer: weights
 * quantised to a type of ggml as they are, others in the float type they have, vectors in f32. Families llama and qwen2.
 * Errors: TN_ERROR_ARGUMENT for the model's own folder, _UNSUPPORTED for families, types, settings or tokenizers that GGUF
 * has no place for. */
TN_API tn_status tn_model_save_gguf(tn_model *model, const char *dir);

/* Merges the adapter and writes a base that is quantised as before: each merged weight is quantised again in its own form,
 * which loses a part of the adapter. The callbacks get that loss for each module, `report` (may be NULL) the largest
 * |stored - exact| weight and the largest difference between the logits of base + adapter and of what was written. A base
 * that came from GGUF is written as DIR/model.gguf. Errors:
 * as tn_model_merge and tn_model_save_quantized. */
TN_API tn_status tn_model_merge_requantized(tn_model *model, const char *dir, const tn_quantize_callbacks *callbacks,
                                            tn_merge_report *report);

#ifdef __cplusplus
}
#endif
#endif
