/* Loading a pretrained model, attaching an adapter to it, and merging the two. */
#ifndef TENON_MODEL_H
#define TENON_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <tenon/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of the library, such as "0.1.0". */
TN_API const char *tn_version(void);

/* Threads that later calls in this thread use; 0: one per core. Returns the number. Results do not depend on it. */
TN_API int tn_set_threads(int count);

/* A pretrained model and the adapters on it (adapters.h: several at once): a language model with its tokenizer, or a
 * sequential model, which is a plain network of layers on vectors or images. Not for concurrent use. */
typedef struct tn_model tn_model;

/* Loads a Hugging Face folder: config.json, model.safetensors (or shards with model.safetensors.index.json) and, when there
 * is one, tokenizer.json; or a GGUF file (of llama and qwen2), given itself or by a folder with model.gguf or a single
 * *.gguf. Weights stay mapped and are read in their stored type (f32, bf16, f16, or as codes). Families: gpt2, llama,
 * mistral, qwen2, qwen3, and sequential, whose config.json lists the layers. The result belongs to the caller:
 * tn_model_free. Errors: TN_ERROR_IO, _FORMAT, _MISMATCH (weights against config.json), _UNSUPPORTED (family, dtype),
 * _NUMERIC (NaN weights), _MEMORY. */
TN_API tn_status tn_model_load(const char *dir, tn_model **out);

/* A model with random weights from a config.json (or the folder that holds it, whose tokenizer is loaded when there):
 * weights N(0, initializer_range), of a sequential model N(0, 2 / inputs of the layer), norms 1, biases 0; the same seed
 * gives the same weights. */
TN_API tn_status tn_model_create(const char *config_path, uint64_t seed, tn_model **out);

/* Frees the model with its adapter. NULL is fine. */
TN_API void tn_model_free(tn_model *model);

/* How matrix products are computed from now on: "f32", as a loaded model does, or "bf16", which rounds the operands of large
 * products to bf16 and adds up in f32: about twice as fast, with three significant digits in each operand. Products of few
 * rows, such as those of single tokens, and everything else stay in f32, what merging writes included. Set it before
 * training, not during. TN_ERROR_UNSUPPORTED where the CPU has no AVX-512 BF16 (the model stays as it was), _ARGUMENT for
 * another name. */
TN_API tn_status tn_model_set_matmul_precision(tn_model *model, const char *precision);

typedef struct tn_model_info {
    const char *family; /* "llama", ...; owned by the model */
    const char *dtype;  /* of most weights: "F32", "BF16", "F16", "nf4", "q4_0", ... */
    int64_t parameters; /* distinct base weights */
    int64_t bytes;      /* of the base as stored */
    int64_t layers, hidden_size, heads, kv_heads, vocab_size, max_positions; /* of a language model, else 0 */
    int64_t inputs, outputs;  /* numbers per sample of a sequential model, else 0 */
    bool regression;          /* a sequential model predicts numbers, not classes */
    int64_t unused_tensors;   /* of the checkpoint, that this family does not use */
    const char *first_unused; /* name of one, or NULL */
    bool has_tokenizer, has_chat_template;
    const char *matmul_precision; /* "f32" or "bf16" */
} tn_model_info;
TN_API void tn_model_describe(const tn_model *model, tn_model_info *out);

/* Token ids of UTF-8 text; add_special as the tokenizer's post-processor does (a leading <s>, say). *ids belongs to the
 * caller: tn_free_ids. TN_ERROR_UNSUPPORTED when the model has no tokenizer. */
TN_API tn_status tn_model_encode(const tn_model *model, const char *text, size_t length, bool add_special, int32_t **ids,
                                 size_t *count);
TN_API void tn_free_ids(int32_t *ids);

/* Text of token ids, special tokens left out; *text is NUL-terminated and belongs to the caller: tn_free_text. */
TN_API tn_status tn_model_decode(const tn_model *model, const int32_t *ids, size_t count, char **text);
TN_API void tn_free_text(char *text);

/* A method's own option by its name in adapter_config.json or on the command line ("d_initial" or "d-initial"), as text. */
typedef struct tn_method_setting {
    const char *name, *value;
} tn_method_setting;

/* An adapter in the terms of Hugging Face PEFT's configurations. Zero-initialise, then tn_adapter_options_default. Strings
 * are the caller's. An option that the method makes no use of is an error. */
typedef struct tn_adapter_options {
    const char *method;          /* "lora", "dora", ..., as `tenon methods` lists them, or "full" for every weight */
    int64_t rank;                /* 0: the method's default, 8 for LoRA */
    double alpha;                /* 0: the method's default, 16 for LoRA */
    double dropout;              /* 0: on the adapter's input, while training */
    const char *target_modules;  /* "q_proj,v_proj", "all-linear", or one regular expression; NULL: by method and model, of a
                                  * sequential model all-linear: every linear and conv2d layer but the last */
    const char *exclude_modules; /* names separated by commas, or NULL */
    const char *bias;            /* "none", "all", "lora_only" (another method's name for it: "vera_only") */
    bool rslora;                 /* scaling alpha / sqrt(rank) instead of alpha / rank */
    bool lora_bias;              /* B has a bias */
    const char *init;            /* "kaiming", "gaussian", "pissa", "pissa_niter_K", "olora", "loftq", "orthogonal" */
    const char *rank_pattern;    /* "NAME=RANK,..." by regular expression, or NULL */
    const char *alpha_pattern;   /* "NAME=ALPHA,..." or NULL */
    const char *layers;          /* layers_to_transform: "0,1,5-8" or NULL */
    const char *modules_to_save; /* trained in full, names separated by commas, or NULL */
    const char *token_indices;   /* trainable_token_indices: embedding rows to train, "5,17" or NULL */
    bool ensure_weight_tying;    /* a tied head follows an embedding in modules_to_save */
    const tn_method_setting *settings; /* [setting_count] what only this method has to set */
    size_t setting_count;
    int64_t loftq_bits, loftq_iterations; /* of init "loftq": 4 or 8, 0 for 4; 0 for 1 */
} tn_adapter_options;
TN_API void tn_adapter_options_default(tn_adapter_options *options);

/* Puts a fresh trainable adapter on the model (starting values by `seed`), replacing one that is there. Errors:
 * TN_ERROR_ARGUMENT (a target that matches nothing, with near names; a rank that does not fit), _UNSUPPORTED, _MEMORY. */
TN_API tn_status tn_model_add_adapter(tn_model *model, const tn_adapter_options *options, uint64_t seed);

/* Loads a PEFT folder (adapter_config.json, adapter_model.safetensors) onto the model, replacing an adapter that is there.
 * Every tensor must find its place and every place its tensor unless allow_partial. trainable: with gradients, to train on.
 */
TN_API tn_status tn_model_load_adapter(tn_model *model, const char *dir, bool trainable, bool allow_partial);

/* The same to train on, by a method that changes the training and not the files: "lora-fa" for an adapter of LoRA. Any other
 * name that tn_adapter_options takes leaves the adapter what it is. TN_ERROR_ARGUMENT when the two do not go together. */
TN_API tn_status tn_model_continue_adapter(tn_model *model, const char *dir, const char *method);

/* PEFT saves the adapter "default" into a folder itself and every other into a subfolder of its name; tn_model_load_adapter
 * then loads them all, and their updates add. This loads the one of that name ("default", "other"); name NULL: all. */
TN_API tn_status tn_model_load_named_adapter(tn_model *model, const char *dir, const char *name, bool trainable,
                                             bool allow_partial);

/* Takes the adapter off and frees it; fine without one. */
TN_API void tn_model_remove_adapter(tn_model *model);

/* Switches the adapter off and on without unloading it. */
TN_API void tn_model_enable_adapter(tn_model *model, bool enabled);

/* Writes the adapter as PEFT does (a full fine-tuning writes a checkpoint with tokenizer files, in the base's dtype). */
TN_API tn_status tn_model_save_adapter(const tn_model *model, const char *dir);

/* What the adapter does, measured: proof that it acts. */
typedef struct tn_adapter_info {
    int64_t adapters;        /* active at once; 1 unless the folder held several */
    int64_t modules;         /* of the base that they change */
    int64_t parameters;      /* trained */
    int64_t tensors;         /* read from its file; 0 for a fresh one */
    double change_norm;      /* Frobenius norm of all weight changes */
    double base_norm;        /* Frobenius norm of the weights it changes */
    double logit_difference; /* largest |with - without| over the logits of a probe prompt */
} tn_adapter_info;
TN_API tn_status tn_model_describe_adapter(tn_model *model, tn_adapter_info *out);

enum { TN_TRAINED_DIMS = 4 };

/* A tensor that training the adapter changes. Strings live until the adapter goes. */
typedef struct tn_trained_tensor {
    const char *name;   /* its key without "base_model.model.": "fc1.lora_A.weight"; "fc1.weight" of a method that trains
                         * the base's own */
    const char *module; /* of the base that it belongs to: "fc1"; NULL when modules share it */
    int dims;
    int64_t shape[TN_TRAINED_DIMS];
    int64_t count; /* numbers in it */
} tn_trained_tensor;

/* Up to `capacity` of the trained tensors of the model's adapters, in the order of attaching, into `tensors`, which may be
 * NULL. Batch norm's running statistics, which no gradient changes, are not among them. Returns how many there are, 0
 * without an adapter; their counts add up to tn_adapter_info's parameters. */
TN_API size_t tn_model_list_trained(const tn_model *model, tn_trained_tensor *tensors, size_t capacity);

/* What merging did, measured on a probe batch. */
typedef struct tn_merge_report {
    int64_t modules;         /* merged */
    double logit_difference; /* largest |merged - unmerged| logit */
    double largest_rounding; /* largest |stored - exact| weight, from the dtype */
} tn_merge_report;

/* Writes base + adapter as a full checkpoint into `dir`: shards as in the base, dtype "keep", "f32", "bf16" or "f16", sums
 * in f32; config.json and tokenizer files come along. `report` may be NULL. A crash leaves no file half-written. */
TN_API tn_status tn_model_merge(tn_model *model, const char *dir, const char *dtype, tn_merge_report *report);

/* The reverse: `model` is a merged checkpoint and `adapter_dir` the adapter that was merged into it; writes the checkpoint
 * without it. report->largest_rounding bounds what the dtype lost on the way there and back. */
TN_API tn_status tn_model_unmerge(tn_model *model, const char *dir, const char *dtype, tn_merge_report *report);

#ifdef __cplusplus
}
#endif
#endif
