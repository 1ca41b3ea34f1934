/* What a PEFT method is: one constant struct. The rest of the house knows methods only through it. */
#ifndef TN_PEFT_METHOD_H
#define TN_PEFT_METHOD_H

#include "model/network.h"
#include "nn/params.h"
#include "peft/config.h"
#include "peft/config_json.h"

typedef struct tn_adapter tn_adapter;

/* A tensor as it stands in the file, where that is not the parameter itself. */
typedef struct tn_stored_tensor {
    tn_tensor tensor;
    float *memory; /* of tensor.data, the caller frees it; NULL: nothing to free */
} tn_stored_tensor;

struct tn_peft_method {
    const char *name;      /* on the command line: "lora" */
    const char *peft_type; /* in adapter_config.json: "LORA" */
    const char *summary, *formula, *paper;
    const char *rank_key, *alpha_key, *dropout_key; /* in adapter_config.json: "r"; NULL: the method has none */
    double rank, alpha;                             /* PEFT's defaults */
    double new_alpha;                               /* of a new adapter when none is given; 0: alpha */
    bool any_rank;                                  /* a rank above the weight's sizes makes sense */
    bool no_fan_in_fan_out;                         /* PEFT's configuration of the method has no such key */
    const char *bias_name;                          /* of the mode that trains biases of adapted layers: "lora_only" */
    const tn_option *options; /* what else there is to set, named as on the command line: "d-initial" is the file's
                                 d_initial; NULL: nothing */
    size_t settings_size;     /* of the struct that the options fill, config->settings */
    bool subtractable;        /* base + f(adapter): a merged checkpoint minus f is the base again */

    /* Keys of adapter_config.json that no option can hold, read and written; `keys` is NULL-terminated. All may be NULL. */
    const char *const *keys;
    tn_status (*read_config)(const tn_config_reader *reader);
    void (*write_config)(const tn_peft_config *config, cJSON *out);

    /* Fills in what a new configuration leaves open for this model and refuses what does not go together. */
    tn_status (*complete)(const tn_network *model, tn_peft_config *config);

    size_t slot_size; /* of the method's slot, which begins with tn_slot */
    tn_slot_hooks hooks;

    /* Whether the method can change a module of this kind. */
    bool (*fits)(const tn_module *module);

    /* Before the first slot: declares tensors that all slots share and hangs its own data on adapter->shared. selected[i]
     * belongs to the model's module i. */
    tn_status (*begin)(tn_adapter *adapter, const bool *selected);

    /* Declares the slot's tensors through tn_adapter_declare; rank and alpha are resolved for the module, whose sizes are
     * tn_weight_out and tn_weight_in, since a linear weight may be stored transposed (tn_weight_read gives it as [O, C]). */
    tn_status (*create)(tn_adapter *adapter, tn_slot *slot, tn_module *module, int64_t rank, double alpha);

    /* Starting values of shared tensors, then of each slot, after all tensors have memory. */
    tn_status (*init_shared)(tn_adapter *adapter, uint64_t seed);
    tn_status (*init)(tn_adapter *adapter, tn_slot *slot, tn_module *module, uint64_t seed);

    /* After tensors were read from a file instead: brings the base into the state that the file was trained against. */
    tn_status (*loaded)(tn_adapter *adapter, tn_slot *slot, tn_module *module);

    /* weight [O, C] (embedding [V, C]) becomes the module's effective weight; bias [O] or NULL. All f32. */
    tn_status (*merge)(const tn_slot *slot, const tn_module *module, float *weight, float *bias);

    /* Undoes merge where subtracting does not. Reports of rounding count on each value being the merged one times a factor,
     * or on *factor being at least the largest factor of any. NULL: merge adds, or cannot be undone. */
    tn_status (*unmerge)(const tn_slot *slot, const tn_module *module, float *weight, float *bias, double *factor);

    /* The update of a grouped convolution reads all channels: merge gets and gives the ungrouped weight [O, C, kh, kw]. */
    bool widens_groups;

    /* Numbers that the merged weight has lost and unmerge needs, stored beside merged checkpoints: how many of a slot; what
     * they are, given the module's weight before the merge [O, C], which may be overwritten; taking them back, failing where
     * they do not belong to this weight [O, C] or are of no use. All NULL: merge loses nothing, or for good. */
    int64_t (*kept_count)(const tn_slot *slot);
    tn_status (*keep)(const tn_slot *slot, const tn_module *module, float *weight, float *kept);
    tn_status (*use_kept)(tn_adapter *adapter, tn_slot *slot, const tn_module *module, const float *merged,
                          const float *kept);

    /* True when merging needs a bias even though the base has none. */
    bool (*merge_adds_bias)(const tn_slot *slot);

    /* Fails, with the reason, where an adapter has no merged weights; where the base cannot be had back from them. */
    tn_status (*check_merge)(const tn_adapter *adapter);
    tn_status (*check_unmerge)(const tn_adapter *adapter);

    /* Before a training run, whose number of steps is known: completes the configuration, computes constants from the
     * starting values. A run that is resumed then reads its values and constants from the checkpoint. */
    tn_status (*start_training)(tn_adapter *adapter, int64_t steps);

    /* A term of the loss, once for all of a step's parts: returns its value and, where there are gradients, adds its own. */
    double (*penalty)(tn_adapter *adapter);

    /* Before the update, when the norm of the gradients is known: changes the gradients. */
    void (*before_step)(tn_adapter *adapter);

    /* After the update of `step` of `steps`. The gradients are still there, to be multiplied by grad_scale (clipping). */
    void (*after_step)(tn_adapter *adapter, int64_t step, int64_t steps, float grad_scale);

    /* Replaces *out, the parameter itself, by what belongs in the file; `config` likewise, its lists being in `scratch`. */
    tn_status (*store_tensor)(const tn_adapter *adapter, const tn_param *param, tn_stored_tensor *out);
    tn_status (*store_config)(const tn_adapter *adapter, tn_peft_config *config, tn_arena *scratch);

    /* Appends lines that tell people what training has made of the adapter; may be NULL. */
    void (*report)(const tn_adapter *adapter, tn_buf *out);
};

/* A name for a method with some of its settings. */
typedef struct tn_peft_preset {
    const char *name;
    const tn_peft_method *method;
    const char *flags; /* of `tenon train`; NULL: by its name */
    const char *summary, *formula, *paper;
    void (*apply)(tn_peft_config *config);
    bool training_only; /* changes how an adapter is trained and nothing in its file: also for one that was loaded */
} tn_peft_preset;

/* All methods, NULL-terminated. */
extern const tn_peft_method *const tn_peft_methods[];

/* All presets, and what other options make of a method, ended by an entry without a name. */
extern const tn_peft_preset tn_peft_presets[], tn_peft_ways[];

const tn_peft_method *tn_peft_method_by_type(const char *peft_type); /* NULL when unknown */

/* The method of that name, or of the preset, which is stored in *preset (else NULL). Fails with all names there are. */
tn_status tn_peft_method_by_name(const char *name, const tn_peft_method **method, const tn_peft_preset **preset);

/* Declares a trained tensor of a slot: `suffix` is PEFT's ("lora_A.weight"); weight->tensor holds the shape. */
tn_status tn_adapter_declare(tn_adapter *adapter, const tn_module *module, const char *suffix, tn_weight *weight);

/* The same for a tensor that no update changes: part of the file, or (in_file false) only of a training run's checkpoints.
 */
tn_status tn_adapter_declare_constant(tn_adapter *adapter, const tn_module *module, const char *suffix, bool in_file,
                                      tn_weight *weight);

/* A constant without a module, whose key in the file is "base_model." + name. */
tn_status tn_adapter_declare_shared(tn_adapter *adapter, const char *name, bool in_file, tn_weight *weight);

#endif
