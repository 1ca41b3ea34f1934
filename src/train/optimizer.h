/* AdamW over a parameter store: moments lie in one region beside the values, in f32 or, as in bitsandbytes' AdamW8bit, in
 * 8-bit codes with a scale per block. */
#ifndef TN_TRAIN_OPTIMIZER_H
#define TN_TRAIN_OPTIMIZER_H

#include "nn/params.h"

typedef enum tn_optimizer_kind { TN_OPTIMIZER_ADAMW, TN_OPTIMIZER_ADAMW8BIT } tn_optimizer_kind;

/* The names "adamw" and "adamw8bit"; NULL ends the list. */
extern const char *const tn_optimizer_names[];
tn_status tn_optimizer_from_name(const char *name, tn_optimizer_kind *out);

/* Of one parameter: f32 moments [count], or `codes` where they are in 8 bits. */
typedef struct tn_moments {
    float *m, *v;
    tn_moments8 codes;
} tn_moments;

typedef struct tn_optimizer {
    tn_params *params; /* the caller's, with gradients */
    const tn_kernels *kernels;
    double beta1, beta2, eps, weight_decay;
    tn_moments *moments; /* [params->count] */
    void *memory;        /* of all moments */
    int64_t bytes;
} tn_optimizer;

/* Whether a parameter's moments are kept in 8 bits. Those of tensors below 4096 elements are not, nor those of embeddings:
 * tokens that are rare in a batch have moments far below the largest of their block, which 8 bits lose (the trainer of
 * Hugging Face transformers makes the same exception). */
bool tn_optimizer_in_8bit(const tn_param *param, tn_optimizer_kind kind);

/* Bytes of all moments. */
int64_t tn_optimizer_bytes(const tn_params *params, tn_optimizer_kind kind);

tn_status tn_optimizer_init(tn_optimizer *optimizer, tn_params *params, const tn_kernels *kernels, tn_optimizer_kind kind);
void tn_optimizer_free(tn_optimizer *optimizer);

void tn_optimizer_zero_grad(tn_optimizer *optimizer);

/* Euclidean norm of all gradients. */
double tn_optimizer_grad_norm(const tn_optimizer *optimizer);

/* What clipping multiplies gradients with: min(1, clip / (norm + 1e-6)), or 1 for clip 0. */
float tn_optimizer_grad_scale(double grad_norm, double clip);

/* One update, `step` from 1, with clipped gradients. */
void tn_optimizer_step(tn_optimizer *optimizer, int64_t step, double lr, double grad_norm, double clip);

#endif
