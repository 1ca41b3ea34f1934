/* AdamW (Loshchilov & Hutter 2019); the formula stands with the kernel. */
#include "train/optimizer.h"

#include <math.h>
#include <string.h>

/* Below this number of elements codes would save next to nothing. */
enum { LEAST_IN_8BIT = 4096 };

const char *const tn_optimizer_names[] = {"adamw", "adamw8bit", NULL};

tn_status tn_optimizer_from_name(const char *name, tn_optimizer_kind *out) {
    for (int i = 0; tn_optimizer_names[i]; i++) {
        *out = (tn_optimizer_kind)i;
        if (strcmp(name, tn_optimizer_names[i]) == 0)
            return TN_OK;
    }
    return tn_fail(TN_ERROR_ARGUMENT, "optimizer '%s' is not one of adamw, adamw8bit", name);
}

bool tn_optimizer_in_8bit(const tn_param *param, tn_optimizer_kind kind) {
    return kind == TN_OPTIMIZER_ADAMW8BIT && param->count >= LEAST_IN_8BIT && !param->is_sparse;
}

/* A piece of the region: 64 bytes, so that vector kernels see aligned rows. */
static void *place(uint8_t *memory, int64_t *at, int64_t bytes) {
    void *piece = memory ? memory + *at : NULL;
    *at += (bytes + 63) / 64 * 64;
    return piece;
}

/* Where a parameter's moments lie; without memory only counts. */
static tn_moments place_moments(uint8_t *memory, int64_t *at, const tn_param *param, tn_optimizer_kind kind) {
    tn_moments moments = {0};
    int64_t f32 = (int64_t)sizeof(float);
    if (tn_optimizer_in_8bit(param, kind)) {
        int64_t scales = tn_moment_blocks(param->count) * f32;
        moments.codes.m = place(memory, at, param->count);
        moments.codes.v = place(memory, at, param->count);
        moments.codes.m_absmax = place(memory, at, scales);
        moments.codes.v_absmax = place(memory, at, scales);
    } else {
        moments.m = place(memory, at, param->count * f32);
        moments.v = place(memory, at, param->count * f32);
    }
    return moments;
}

int64_t tn_optimizer_bytes(const tn_params *params, tn_optimizer_kind kind) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < params->count; i++)
        place_moments(NULL, &bytes, &params->entries[i], kind);
    return bytes;
}

tn_status tn_optimizer_init(tn_optimizer *optimizer, tn_params *params, const tn_kernels *kernels, tn_optimizer_kind kind) {
    *optimizer = (tn_optimizer){.params = params,
                                .kernels = kernels,
                                .beta1 = 0.9,
                                .beta2 = 0.999,
                                .eps = 1e-8,
                                .weight_decay = 0.01,
                                .bytes = tn_optimizer_bytes(params, kind)};
    optimizer->moments = tn_calloc((size_t)params->count, sizeof *optimizer->moments);
    optimizer->memory = tn_pages_alloc((size_t)optimizer->bytes);
    if (!optimizer->moments || !optimizer->memory) {
        double bytes = (double)optimizer->bytes;
        tn_optimizer_free(optimizer);
        return tn_fail(TN_ERROR_MEMORY, "out of memory for %.1f MB of optimiser state", bytes / 1e6);
    }
    int64_t at = 0;
    for (int64_t i = 0; i < params->count; i++)
        optimizer->moments[i] = place_moments(optimizer->memory, &at, &params->entries[i], kind);
    return TN_OK;
}

void tn_optimizer_free(tn_optimizer *optimizer) {
    if (optimizer->memory)
        tn_pages_free(optimizer->memory, (size_t)optimizer->bytes);
    tn_free(optimizer->moments);
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
        const tn_moments *moments = &optimizer->moments[i];
        float *values = params->values + param->offset, *grads = params->grads + param->offset;
        if (moments->m)
            optimizer->kernels->adamw(values, grads, moments->m, moments->v, &update, param->count);
        else
            optimizer->kernels->adamw8bit(values, grads, &moments->codes, &update, param->count);
    }
}
