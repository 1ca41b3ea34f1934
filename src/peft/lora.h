/* LoRA's slot, shared by the method and its initialisations. */
#ifndef TN_PEFT_LORA_H
#define TN_PEFT_LORA_H

#include "peft/adapter.h"

typedef struct tn_lora_slot {
    tn_slot slot;
    tn_weight a, b, bias; /* linear: A [R, C], B [O, R], bias [O]; embedding: A [R, V], B [C, R] */
    tn_weight a0, b0;     /* what the initialisation took out of the base, frozen; tensor.data NULL when it took nothing */
    bool has_bias, embedding;
    float scale, dropout;
} tn_lora_slot;

extern const tn_peft_method tn_lora;

/* A and B (and a0, b0) by the initialisation that the adapter's configuration names. */
tn_status tn_lora_init(tn_adapter *adapter, tn_lora_slot *slot, tn_module *module, uint64_t seed);

/* Recomputes a0 and b0 from the base after A and B were read from a file that was trained against the reduced base. */
tn_status tn_lora_init_residual(tn_adapter *adapter, tn_lora_slot *slot, tn_module *module);

/* True for initialisations that take B A out of the base. */
bool tn_lora_init_reduces_base(const char *init);

/* Checks the name of an initialisation; an unknown one lists those there are. */
tn_status tn_lora_init_check(const char *init);

#endif
