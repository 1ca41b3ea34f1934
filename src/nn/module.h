/* Modules: the named places of a model that hold weights and that adapters attach to. */
#ifndef TN_NN_MODULE_H
#define TN_NN_MODULE_H

#include "grad/ops.h"

typedef enum tn_module_kind { TN_MODULE_LINEAR, TN_MODULE_EMBEDDING, TN_MODULE_NORM, TN_MODULE_CONV2D } tn_module_kind;

typedef struct tn_slot tn_slot;

typedef struct tn_module {
    const char *name; /* dotted, as in the checkpoint without ".weight": "model.layers.0.self_attn.q_proj" */
    tn_module_kind kind;
    int layer;    /* -1 outside the blocks */
    bool is_head; /* the output projection */
    bool has_bias;
    struct tn_module *tied; /* whose weight this one shares (an output head with the embedding), or NULL */
    tn_weight weight, bias; /* linear [O, C] (or stored transposed) and [O]; embedding [V, C]; norm [C]; conv2d [O, C /
                               groups, kh, kw] and [O] */
    tn_conv_shape conv;     /* of a convolution */
    bool has_running;       /* batch norm: */
    tn_weight running_mean, running_var; /* [C]; trainable: they follow the batches, without a gradient */
    tn_slot *slots;                      /* attached adapters, in the order of attaching */
} tn_module;

/* Rows of a batch on which one adapter acts, all others being left as they are. */
typedef struct tn_route {
    int adapter;         /* as in tn_slot */
    float weight;        /* y + weight * (what the adapter makes of y - y) */
    const int32_t *rows; /* [count], ascending */
    int64_t count;
} tn_route;

/* Who acts where, when the rows of a batch use different adapters. */
typedef struct tn_routing {
    const tn_route *routes; /* of one adapter and one row there is at most one */
    int64_t count;
} tn_routing;

/* What a forward pass needs beside the values. */
typedef struct tn_forward {
    tn_tape *tape;
    bool training;             /* dropout acts */
    uint64_t dropout_seed;     /* differs from one micro-batch to the next */
    const bool *invoked;       /* [rows] behind an adapter's invocation tokens (aLoRA); NULL: none has such tokens */
    const tn_routing *routing; /* NULL: every adapter that is switched on acts on all rows, with its own weight */
} tn_forward;

/* One adapter on one module. A method's slot begins with this struct. Hooks that a method does not need are NULL. */
typedef struct tn_slot_hooks {
    /* Returns what the base's product takes in place of `in`: `in` itself, or a new value that becomes the caller's. Linear
     * and convolutional hooks see the module's own input all the same. */
    tn_var *(*input)(const tn_forward *forward, const tn_slot *slot, const tn_module *module, tn_var *in);

    /* Returns the output after the adapter; x is the input, y the output so far, owned by the caller until returned (return
     * y itself, changed in place, or drop it and return another). */
    tn_var *(*linear)(const tn_forward *forward, const tn_slot *slot, const tn_module *module, tn_var *x, tn_var *y);
    tn_var *(*embedding)(const tn_forward *forward, const tn_slot *slot, const tn_module *module, const int32_t *ids,
                         tn_var *y);
    tn_var *(*conv)(const tn_forward *forward, const tn_slot *slot, const tn_module *module, tn_var *x, tn_var *y);
} tn_slot_hooks;

struct tn_slot {
    const tn_slot_hooks *hooks;
    tn_slot *next;
    bool disabled; /* switched off: the base alone */
    float weight;  /* y + weight * (what the slot makes of y - y); 1: all of it */
    int adapter;   /* number of the adapter that it belongs to */
    uint32_t id;   /* distinguishes the random streams of slots */
};

/* Results belong to the caller; inputs stay the caller's. */
tn_var *tn_linear_forward(const tn_forward *forward, const tn_module *module, tn_var *x);
/* Of several modules that read the same x, into ys [count]; together when nothing is recorded. */
void tn_linear_forward_each(const tn_forward *forward, const tn_module *const *modules, int64_t count, tn_var *x,
                            tn_var **ys);
tn_var *tn_embedding_forward(const tn_forward *forward, const tn_module *module, const int32_t *ids, int64_t count);
tn_var *tn_conv_forward(const tn_forward *forward, const tn_module *module, tn_var *x);
tn_var *tn_norm_forward(const tn_forward *forward, const tn_module *module, tn_var *x, float eps, int64_t groups); /* RMS */
tn_var *tn_layernorm_forward(const tn_forward *forward, const tn_module *module, tn_var *x, float eps);

void tn_module_attach(tn_module *module, tn_slot *slot);
void tn_module_detach(tn_module *module, tn_slot *slot);

/* The tensors that a module has in a checkpoint: weight, bias, running_mean, running_var. NULL: this one has no such tensor
 * of its own. */
enum { TN_MODULE_PARTS = 4 };
const char *tn_module_part_name(int part);
tn_weight *tn_module_part(tn_module *module, int part);

/* The weight that counts: a tied module's own only when it was given one. */
static inline const tn_weight *tn_module_weight(const tn_module *module) {
    return module->tied ? &module->tied->weight : &module->weight;
}

#endif
