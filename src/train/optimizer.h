/* AdamW over a parameter store: moments lie in two buffers parallel to the values. */
#ifndef TN_TRAIN_OPTIMIZER_H
#define TN_TRAIN_OPTIMIZER_H

#include "nn/params.h"

typedef struct tn_optimizer {
    tn_params *params; /* the caller's, with gradients */
    const tn_kernels *kernels;
    double beta1, beta2, eps, weight_decay;
    float *m, *v; /* [params->total] */
} tn_optimizer;

tn_status tn_optimizer_init(tn_optimizer *optimizer, tn_params *params, const tn_kernels *kernels);
void tn_optimizer_free(tn_optimizer *optimizer);

void tn_optimizer_zero_grad(tn_optimizer *optimizer);

/* Euclidean norm of all gradients. */
double tn_optimizer_grad_norm(const tn_optimizer *optimizer);

/* What clipping multiplies gradients with: min(1, clip / (norm + 1e-6)), or 1 for clip 0. */
float tn_optimizer_grad_scale(double grad_norm, double clip);

/* One update, `step` from 1, with clipped gradients. */
void tn_optimizer_step(tn_optimizer *optimizer, int64_t step, double lr, double grad_norm, double clip);

#endif
