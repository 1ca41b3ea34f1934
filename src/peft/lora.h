/* LoRA's slot, shared by the method and its initialisations. */
#ifndef TN_PEFT_LORA_H
#define TN_PEFT_LORA_H

#include "peft/adapter.h"

typedef struct tn_lora_slot {
    tn_slot slot;
    tn_weight a, b, bias;   /* linear: A [R, C], B [O, R], bias [O]; embedding: A [R, V], B [C, R]; conv2d: lora_conv.c */
    tn_weight a0, b0;       /* scale0 B0 A0 was taken out of the base, frozen; tensor.data NULL when nothing was */
    tn_weight magnitude;    /* DoRA's m [O]; conv2d [1, O, 1, 1] */
    double *base_squares;   /* [O] squared norms of the base's rows, for DoRA */
    float *kept_norms;      /* [O] norms that merging divided by, when a merged checkpoint brought them */
    tn_weight diagonal;     /* KaSA's d [R] */
    tn_weight precondition; /* LoRA-FA's (A A^T)^-1 / s^2 [R, R]; data NULL where A is trained */
    int64_t a_blocks, b_blocks; /* of a block-diagonal factor; 0 or 1: a full one */
    bool has_bias, has_diagonal, has_magnitude, embedding;
    bool needs_invocation; /* acts only on rows that forward->invoked marks */
    float scale, scale0, dropout;
} tn_lora_slot;

extern const tn_peft_method tn_lora;

/* lora_config.c: LoraConfig's keys that all methods do not share. */
extern const char *const tn_lora_keys[];
tn_status tn_lora_read_config(const tn_config_reader *reader);
void tn_lora_write_config(const tn_peft_config *config, cJSON *out);

/* lora_store.c: factors whose initialisation reduced the base are saved doubled, for the untouched base. */
tn_status tn_lora_store_tensor(const tn_adapter *adapter, const tn_param *param, tn_stored_tensor *out);
tn_status tn_lora_store_config(const tn_adapter *adapter, tn_peft_config *config, tn_arena *scratch);

/* A and B (and a0, b0) by the initialisation that the adapter's configuration names. */
tn_status tn_lora_init(tn_adapter *adapter, tn_lora_slot *slot, tn_module *module, uint64_t seed);

/* Recomputes a0 and b0 from the base after A and B were read from a file that was trained against the reduced base. */
tn_status tn_lora_init_residual(tn_adapter *adapter, tn_lora_slot *slot, tn_module *module);

/* True for initialisations that take B A out of the base. */
bool tn_lora_init_reduces_base(const char *init);

/* LoftQ (lora_loftq.c): A, B and the base's quantised weight, which stands in for the weight while the adapter acts. True
 * for initialisations that do so; fails for settings of LoftQ that are out of range or out of place. */
tn_status tn_lora_init_loftq(tn_adapter *adapter, tn_lora_slot *slot, tn_module *module);
bool tn_lora_init_quantises_base(const char *init);
tn_status tn_lora_loftq_check(const tn_peft_config *config);

/* True for initialisations after which the adapter belongs to another base than the checkpoint's. */
static inline bool tn_lora_init_changes_base(const char *init) {
    return tn_lora_init_reduces_base(init) || tn_lora_init_quantises_base(init);
}

/* The initialisations, ended by one without a name. */
extern const tn_peft_preset tn_lora_inits[];

/* Checks the name of an initialisation; an unknown one lists those there are. */
tn_status tn_lora_init_check(const char *init);

/* What the configuration makes of a module's slot besides plain LoRA; sizes that do not fit are an error. */
tn_status tn_lora_variant_choose(const tn_peft_config *config, const tn_module *module, int64_t rank, int64_t vocab,
                                 tn_lora_slot *slot);

/* True when the slot is y += s B A x and no variant of it. */
bool tn_lora_is_plain(const tn_lora_slot *slot);

/* y += s B (d * A x) with block-diagonal A or B, and the same merged: weight += s B diag(d) A. */
void tn_lora_variant_forward(tn_tape *tape, const tn_lora_slot *slot, tn_var *y, tn_var *x);
tn_status tn_lora_variant_merge(const tn_lora_slot *slot, float *weight);

/* DoRA: the magnitude's starting values; the forward hooks; weight, with the low-rank update in it, scaled in place. */
tn_status tn_dora_init(tn_adapter *adapter, tn_lora_slot *slot, const tn_module *module);
tn_var *tn_dora_linear(const tn_forward *forward, const tn_lora_slot *slot, const tn_module *module, tn_var *x, tn_var *y);
tn_var *tn_dora_embedding(const tn_forward *forward, const tn_lora_slot *slot, const tn_module *module, const int32_t *ids,
                          tn_var *y);
/* n [out] on the tape's storage, for a base's weight [out, in] and A, B flattened to [R, in], [out, R]. */
const float *tn_dora_norms(tn_tape *tape, const tn_lora_slot *slot, tn_operand w, int64_t out, int64_t in);
void tn_dora_scale(const tn_lora_slot *slot, float *weight);

/* The way back: norms [O] of the rows of weight, the update being in it; merged weights with m / n taken out in place. The
 * norms of a merged checkpoint are checked against its weight and m. */
void tn_dora_merged_norms(const tn_lora_slot *slot, const float *weight, float *norms);
void tn_dora_unscale(const tn_lora_slot *slot, float *weight);
tn_status tn_dora_use_norms(tn_adapter *adapter, tn_lora_slot *slot, const tn_module *module, const float *merged,
                            const float *norms);

/* Convolutions: the shapes of A, B and the magnitude; the forward hook; weight [O, C, kh, kw] += s B A. */
tn_status tn_lora_conv_create(const tn_peft_config *config, tn_lora_slot *slot, const tn_module *module, int64_t rank);
tn_var *tn_lora_conv(const tn_forward *forward, const tn_slot *base, const tn_module *module, tn_var *x, tn_var *y);
void tn_lora_conv_merge(const tn_lora_slot *slot, const tn_module *module, float *weight);

/* KaSA: takes the R smallest singular components of the base's weight out of it, as a0 and b0. */
tn_status tn_lora_truncate_base(tn_lora_slot *slot, const tn_module *module);

/* LoRA-FA (lora_fa.c): declares what its update needs; the hooks of a training run. */
tn_status tn_lora_fa_declare(tn_adapter *adapter, const tn_module *module, tn_lora_slot *slot);
tn_status tn_lora_fa_start_training(tn_adapter *adapter, int64_t steps);
void tn_lora_fa_before_step(tn_adapter *adapter);

/* aLoRA: invoked[i] is true from the start of the last occurrence of the invocation tokens in ids[count] on. */
void tn_lora_mark_invoked(const tn_peft_config *config, const int32_t *ids, int64_t count, bool *invoked);

#endif
