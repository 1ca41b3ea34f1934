/* AdamW (Loshchilov & Hutter 2019); the formula stands with the kernel. */
#include "train/optimizer.h"

#include <math.h>

tn_status tn_optimizer_init(tn_optimizer *optimizer, tn_params *params, const tn_kernels *kernels) {
    size_t bytes = (size_t)params->total * sizeof(float);
    *optimizer = (tn_optimizer){
        .params = params, .kernels = kernels, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01};
    optimizer->m = tn_pages_alloc(bytes);
    optimizer->v = tn_pages_alloc(bytes);
    if (optimizer->m && optimizer->v)
        return TN_OK;
    tn_optimizer_free(optimizer);
    return tn_fail(TN_ERROR_MEMORY, "out of memory for %.1f MB of optimiser state", 2 * (double)bytes / 1e6);
}

void tn_optimizer_free(tn_optimizer *optimizer) {
    if (!optimizer->params)
        return;
    size_t bytes = (size_t)optimizer->params->total * sizeof(float);
    tn_pages_free(optimizer->m, bytes);
    tn_pages_free(optimizer->v, bytes);
    *optimizer = (tn_optimizer){0};
}

void tn_optimizer_zero_grad(tn_optimizer *optimizer) {
    optimizer->kernels->fill(optimizer->params->grads, 0, optimizer->params->total);
}

double tn_optimizer_grad_norm(const tn_optimizer *optimizer) {
    return sqrt(optimizer->kernels->sum_squares(optimizer->params->grads, optimizer->params->total));
}

float tn_optimizer_grad_scale(double grad_norm, double clip) {
    return clip > 0 ? (float)fmin(1, clip / (grad_norm + 1e-6)) : 1;
}

void tn_optimizer_step(tn_optimizer *optimizer, int64_t step, double lr, double grad_norm, double clip) {
    tn_adamw_step update = {
        .beta1 = (float)optimizer->beta1,
        .beta2 = (float)optimizer->beta2,
        .eps = (float)optimizer->eps,
        .correction1 = (float)(1 - pow(optimizer->beta1, (double)step)),
        .correction2 = (float)(1 - pow(optimizer->beta2, (double)step)),
        .grad_scale = tn_optimizer_grad_scale(grad_norm, clip),
    };
    const tn_params *params = optimizer->params;
    for (int64_t i = 0; i < params->count; i++) {
        const tn_param *param = &params->entries[i];
        update.lr = (float)(lr * param->lr_scale);
        update.weight_decay = param->decay ? (float)optimizer->weight_decay : 0;
        optimizer->kernels->adamw(params->values + param->offset, params->grads + param->offset,
                                  optimizer->m + param->offset, optimizer->v + param->offset, &update, param->count);
    }
}
