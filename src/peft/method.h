/* What a PEFT method is: one constant struct. The rest of the house knows methods only through it. */
#ifndef TN_PEFT_METHOD_H
#define TN_PEFT_METHOD_H

#include "nn/module.h"
#include "nn/params.h"
#include "peft/config.h"

typedef struct tn_adapter tn_adapter;

typedef struct tn_peft_method {
    const char *name;      /* on the command line: "lora" */
    const char *peft_type; /* in adapter_config.json: "LORA" */
    const char *summary, *formula, *paper;
    size_t slot_size; /* of the method's slot, which begins with tn_slot */
    tn_slot_hooks hooks;

    /* Whether the method can change a module of this kind. */
    bool (*fits)(const tn_module *module);

    /* Declares the slot's tensors through tn_adapter_declare; rank and alpha are resolved for the module. */
    tn_status (*create)(tn_adapter *adapter, tn_slot *slot, tn_module *module, int64_t rank, double alpha);

    /* Fills starting values, after all tensors have memory. */
    tn_status (*init)(tn_adapter *adapter, tn_slot *slot, tn_module *module, uint64_t seed);

    /* After tensors were read from a file instead: brings the base into the state that the file was trained against. */
    tn_status (*loaded)(tn_adapter *adapter, tn_slot *slot, tn_module *module);

    /* weight [O, C] (embedding [V, C]) becomes the module's effective weight; bias [O] or NULL. All f32. */
    tn_status (*merge)(const tn_slot *slot, const tn_module *module, float *weight, float *bias);

    /* The update of a grouped convolution reads all channels: merge gets and gives the ungrouped weight [O, C, kh, kw]. */
    bool widens_groups;

    /* True when merging needs a bias even though the base has none. */
    bool (*merge_adds_bias)(const tn_slot *slot);
} tn_peft_method;

/* All methods, NULL-terminated. */
extern const tn_peft_method *const tn_peft_methods[];

const tn_peft_method *tn_peft_method_by_type(const char *peft_type); /* NULL when unknown */

/* Declares a trained tensor of a slot: `suffix` is PEFT's ("lora_A.weight"); weight->tensor holds the shape. */
tn_status tn_adapter_declare(tn_adapter *adapter, const tn_module *module, const char *suffix, tn_weight *weight);

#endif
