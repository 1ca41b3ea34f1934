/* Training checkpoints: out/checkpoints/step-00000100.safetensors, one file each, so that each appears whole or not at all.
 *
 *   tensors   param.NAME, exp_avg.NAME, exp_avg_sq.NAME (f32) for every trained tensor; constant.NAME for what stays as an
 *             initialisation has made it. Moments in 8 bits are u8 codes, and there are exp_avg_absmax.NAME and
 *             exp_avg_sq_absmax.NAME (f32 [blocks])
 *   metadata  step, data_hash, settings (JSON), config (the run file's text), metrics_bytes, best_valid_loss,
 * best_valid_step
 *
 * Random numbers come from counters, so seed, step and data position are all the state they have. */
#ifndef TN_TRAIN_STATE_H
#define TN_TRAIN_STATE_H

#include "peft/adapter.h"
#include "train/optimizer.h"

typedef struct tn_train_state {
    int64_t step;
    uint64_t data_hash;
    int64_t metrics_bytes;
    double best_valid_loss;
    int64_t best_valid_step;
    const char *settings, *config; /* texts; settings are compared on resuming */
    int64_t broken;                /* newer checkpoints that were passed over as they are not whole; set by loading */
} tn_train_state;

/* Bytes of one checkpoint of this adapter, about. */
int64_t tn_train_state_bytes(const tn_adapter *adapter, tn_optimizer_kind kind);

/* Checkpoints that the output folder holds already. */
tn_status tn_train_state_count(const char *out_dir, int64_t *count);

/* Removes what a killed process left half-written in the output folder. */
tn_status tn_train_state_remove_leftovers(const char *out_dir);

/* Writes one, then removes all but the newest `keep`; with keep 0 all others, as a run does that began anew in a used
 * folder. */
tn_status tn_train_state_save(const char *out_dir, const tn_adapter *adapter, const tn_optimizer *optimizer,
                              const tn_train_state *state, int64_t keep);

/* Loads the newest checkpoint that is whole into adapter and optimiser. *found is false when there is none. Settings or data
 * that differ are TN_ERROR_MISMATCH naming the first difference unless `changed_is_fine`. */
tn_status tn_train_state_load(const char *out_dir, tn_adapter *adapter, tn_optimizer *optimizer, bool changed_is_fine,
                              tn_train_state *state, bool *found);

#endif
