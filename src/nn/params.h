/* Everything trainable, in one contiguous store: values and gradients are parallel buffers, so that one loop updates it, one
 * reduction sums it and one write saves it. */
#ifndef TN_NN_PARAMS_H
#define TN_NN_PARAMS_H

#include "base/memory.h"
#include "grad/tape.h"

typedef struct tn_param {
    const char *name;  /* key in files, without prefix: "model.layers.0.self_attn.q_proj.lora_A.weight" */
    tn_weight *weight; /* points into the store after tn_params_build */
    int64_t offset, count;
    float lr_scale; /* this parameter's learning rate as a multiple of the run's */
    bool decay;     /* weight decay applies */
    bool is_buffer; /* moved by the forward pass instead of a gradient, as batch norm's running statistics; lr_scale is 0 */
    bool is_sparse; /* an embedding's: few of its rows have a gradient in a step */
    bool shared;    /* belongs to no module: the name is without a path */
    bool in_file;   /* part of a saved adapter */
} tn_param;

typedef struct tn_params {
    tn_param *entries;
    int64_t count, capacity;
    float *values, *grads; /* [total], grads NULL without gradients */
    int64_t total;
} tn_params;

/* Declares a parameter before the store is built. `weight` has its final shape; when weight->tensor.data is not NULL the
 * values start as a copy of it (any float type), else as zeros. `name` and `weight` must outlive the store. */
tn_status tn_params_add(tn_params *params, const char *name, tn_weight *weight);

/* Allocates, copies starting values, and points every weight into the store (f32; trainable when with_grads). */
tn_status tn_params_build(tn_params *params, bool with_grads);
void tn_params_free(tn_params *params);

tn_param *tn_params_find(const tn_params *params, const char *name); /* NULL when absent */

#endif
