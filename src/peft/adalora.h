/* AdaLoRA's slot and the state of its budget, shared by the method's files. */
#ifndef TN_PEFT_ADALORA_H
#define TN_PEFT_ADALORA_H

#include "peft/adapter.h"

/* Which triplets of a module a finished budget has kept: rank_pattern's entry "<module>.lora_E". */
typedef struct tn_rank_mask {
    const char *key;
    const bool *kept; /* [count], count = init_r */
    int64_t count;
} tn_rank_mask;

typedef struct tn_adalora_settings {
    int64_t target_rank, tinit, tfinal, delta_t;
    int64_t total_step; /* 0: the steps of the run */
    double beta1, beta2, orth_reg_weight;
    const tn_rank_mask *masks; /* of an adapter whose ranks are final */
    size_t mask_count;
} tn_adalora_settings;

/* A trained tensor and, while training, moving averages over it. */
typedef struct tn_adalora_factor {
    tn_weight value, importance, uncertainty;
} tn_adalora_factor;

typedef struct tn_adalora_slot {
    tn_slot slot;
    tn_adalora_factor a, e, b; /* A [K, C], E [K, 1], B [O, K]: K is init_r, or what a final budget has left of it */
    tn_weight mask;            /* [K] 1 for the triplets of the last budget, else 0; while training */
    float scale, dropout;
} tn_adalora_slot;

/* adapter->shared */
typedef struct tn_adalora_budget {
    tn_weight is_final;            /* [1] 1 once the ranks are chosen; data NULL when there is no budget to run */
    float *gram;                   /* [init_r, init_r] scratch */
    float *scores, *sorted_scores; /* [all triplets] scratch, from tn_adalora_start_training on */
} tn_adalora_budget;

/* The hooks of a training run, in adalora_budget.c. */
tn_status tn_adalora_start_training(tn_adapter *adapter, int64_t steps);
double tn_adalora_penalty(tn_adapter *adapter);
void tn_adalora_after_step(tn_adapter *adapter, int64_t step, int64_t steps, float grad_scale);

/* Triplets that may act after `step`, of `triplets` in `modules`; *allocate: whether masks are chosen anew then. */
int64_t tn_adalora_schedule(const tn_adalora_settings *settings, int64_t step, int64_t triplets, int64_t modules,
                            bool *allocate);

/* True when masks, not the file, say which triplets are left. */
bool tn_adalora_is_final(const tn_adapter *adapter);

/* adalora_config.c: rank_pattern and LoraConfig's keys. */
extern const char *const tn_adalora_keys[];
tn_status tn_adalora_read_config(const tn_config_reader *reader);
void tn_adalora_write_config(const tn_peft_config *config, cJSON *out);
tn_status tn_adalora_complete(const tn_network *model, tn_peft_config *config);

/* The entry of a module, NULL when there is none. */
const tn_rank_mask *tn_adalora_mask_of(const tn_adalora_settings *settings, const char *module);

/* Every entry must belong to a selected module. */
tn_status tn_adalora_check_masks(const tn_adapter *adapter, const bool *selected);

/* adalora_store.c: once the budget is final only the triplets that are left go into the file. */
tn_status tn_adalora_store_tensor(const tn_adapter *adapter, const tn_param *param, tn_stored_tensor *out);
tn_status tn_adalora_store_config(const tn_adapter *adapter, tn_peft_config *config, tn_arena *scratch);
void tn_adalora_report(const tn_adapter *adapter, tn_buf *out);

#endif
