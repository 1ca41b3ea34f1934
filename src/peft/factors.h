/* A PEFT LoRA folder as its factors, without a model: adapter_config.json and the A and B of every module. */
#ifndef TN_PEFT_FACTORS_H
#define TN_PEFT_FACTORS_H

#include "format/safetensors.h"
#include "peft/config.h"
#include "peft/low_rank.h"

typedef enum tn_factor_kind {
    TN_FACTOR_LINEAR,    /* lora_A.weight [R, C], lora_B.weight [O, R] */
    TN_FACTOR_CONV2D,    /* lora_A.weight [R, in, kh, kw], lora_B.weight [O, R, 1, 1]; C = in kh kw */
    TN_FACTOR_EMBEDDING, /* lora_embedding_A [R, V], lora_embedding_B [D, R]; the update is the transpose of B A */
} tn_factor_kind;

/* One module of a folder. */
typedef struct tn_factor_module {
    const char *name;
    tn_factor_kind kind;
    int64_t window[3];      /* of a convolution: in, kh, kw */
    tn_factors factors;     /* a and b NULL in a folder that was opened */
    const tn_tensor *a, *b; /* as stored; NULL in one that is to be written */
} tn_factor_module;

/* A tensor that a folder holds besides: trained biases, modules_to_save, copies of the base's weights. */
typedef struct tn_kept_tensor {
    const char *name; /* the key in the file */
    tn_tensor tensor;
} tn_kept_tensor;

typedef struct tn_factor_folder {
    tn_peft_config config;
    tn_safetensors file;
    tn_factor_module *modules; /* in the order of the file */
    tn_kept_tensor *kept;
    size_t count, kept_count;
    tn_map by_name; /* module -> index */
    tn_arena arena;
} tn_factor_folder;

/* Opens and checks a folder. Whatever else than B A makes up the update (DoRA, KaSA, aLoRA, BD-LoRA, lora_bias,
 * target_parameters, layer_replication, an initialisation that changes the base) is TN_ERROR_UNSUPPORTED by name. */
tn_status tn_factor_folder_open(const char *dir, tn_factor_folder *out);
void tn_factor_folder_close(tn_factor_folder *folder);

/* NULL when absent. */
const tn_factor_module *tn_factor_folder_find(const tn_factor_folder *folder, const char *name);

/* The factors in f32: the stored ones, or a copy in the arena. */
tn_status tn_factor_module_read(const tn_factor_module *module, tn_arena *arena, tn_factors *out);

/* True for copies of the base's weight that PEFT puts beside an embedding's factors. */
bool tn_is_base_copy(const char *key);

/* Writes modules of scale 1 as a folder that PEFT loads: rank the commonest one, patterns for the others, alpha = rank. The
 * targets and everything else come from `config`. */
tn_status tn_factor_folder_write(const char *dir, const tn_peft_config *config, const tn_factor_module *modules,
                                 size_t count, const tn_kept_tensor *kept, size_t kept_count);

#endif
