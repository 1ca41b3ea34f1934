/* An adapter on a model: trained tensors, the slots that apply them, and base tensors that are trained in full. */
#ifndef TN_PEFT_ADAPTER_H
#define TN_PEFT_ADAPTER_H

#include "model/network.h"
#include "nn/params.h"
#include "peft/method.h"

typedef struct tn_adapter_slot {
    tn_module *module;
    tn_slot *slot;
    const tn_peft_method *method; /* NULL for trained token rows */
} tn_adapter_slot;

/* A base tensor replaced by a trained copy, or by a frozen quantised one. */
typedef struct tn_replaced {
    tn_module *module;
    tn_weight *place; /* what of the module */
    bool is_bias;
    bool was_tied; /* a tied head that was given a weight of its own */
    tn_weight original;
    tn_module *tied;
    tn_quantised *quantised; /* what stands in the place, in the adapter's arena; NULL: a trained copy does */
} tn_replaced;

typedef struct tn_adapter_note tn_adapter_note; /* metadata of an adapter's file: a key, its text, and the next */

struct tn_adapter {
    tn_network *model;
    const tn_peft_method *method; /* NULL: full fine-tuning */
    tn_peft_config config;
    tn_params params;    /* names are the file's keys without "base_model.model." (full: the checkpoint's names) */
    tn_params constants; /* tensors that no update changes, f32, named likewise */
    void *shared;        /* the method's own, in the arena */
    tn_adapter_slot *slots;
    int64_t slot_count;
    tn_replaced *replaced;
    int64_t replaced_count, replaced_capacity;
    tn_adapter_note *notes;
    bool trainable;   /* parameters have gradients */
    bool from_file;   /* starting values are about to be replaced by a file's: what only they need can be left out */
    bool attached;    /* slots are on their modules */
    bool on;          /* switched on, as the whole list is */
    bool enabled;     /* acts: on, and of some weight */
    bool untied_head; /* gave a tied head the base's embedding as a weight of its own */
    float weight;     /* of its update among several; 0: not in use, whatever is enabled */
    bool replicated;  /* the model's layers are stacked for this adapter */
    const char *name; /* among several; NULL: the only or the default one */
    const char *dir;  /* where it was loaded from, or NULL */
    tn_adapter *next; /* attached after it; updates add. Functions below act on all of the list but where they say so */
    tn_arena arena;
};

/* Makes an adapter for `model` with starting values by `seed`, attached. Takes the contents of `config` (also on failure).
 * With `trainable` the parameters have gradients. Fails when a target matches nothing, when a rank does not fit. */
tn_status tn_adapter_create(tn_network *model, const tn_peft_method *method, tn_peft_config *config, bool trainable,
                            uint64_t seed, tn_adapter **out);

/* The same for values that all come from a file, which the caller reads next: starting values need not be computed, but for
 * what they make of the base. */
tn_status tn_adapter_create_for_file(tn_network *model, const tn_peft_method *method, tn_peft_config *config, bool trainable,
                                     tn_adapter **out);

/* The same without values: tensors have shapes and no memory, and the model is left as it is. For counting. */
tn_status tn_adapter_outline(tn_network *model, const tn_peft_method *method, tn_peft_config *config, bool trainable,
                             tn_adapter **out);

/* Full fine-tuning: every base tensor becomes a trained f32 copy. */
tn_status tn_adapter_create_full(tn_network *model, bool trainable, tn_adapter **out);

/* Puts a quantised array in the place of a module's own weight while the adapter acts. Takes the array, also on failure. */
tn_status tn_adapter_replace_weight(tn_adapter *adapter, tn_module *module, tn_quantised *array);

/* Detaches from the model and frees; NULL is fine. The model stays usable. */
void tn_adapter_free(tn_adapter *adapter);

/* Appends an adapter of the same model to the list. Two that replace the same tensor cannot both be in use. Takes `other`
 * also on failure. */
tn_status tn_adapter_append(tn_adapter *adapter, tn_adapter *other, const char *name);

/* Takes one adapter out of the list, whose new beginning is returned, and frees it. */
tn_adapter *tn_adapter_remove(tn_adapter *list, tn_adapter *one);

/* Puts `fresh`, which is in no list yet, in the place of `old`, which is freed. Returns the list's new beginning. */
tn_adapter *tn_adapter_replace(tn_adapter *list, tn_adapter *old, tn_adapter *fresh);

/* The adapter of that name ("default" for the one without a name), or NULL. */
tn_adapter *tn_adapter_find(tn_adapter *list, const char *name);

/* Sets how much of one adapter of the list counts; 0 takes it out of use. Fails where an adapter that replaces tensors would
 * be given a weight other than 0 and 1, or together with another that replaces the same. */
tn_status tn_adapter_set_weight(tn_adapter *list, tn_adapter *one, float weight);

/* Slots do nothing while muted; replaced tensors stay. */
void tn_adapter_mute(tn_adapter *adapter, bool muted);

/* The configuration whose invocation tokens decide where the adapter acts (aLoRA), or NULL. */
const tn_peft_config *tn_adapter_invocation(const tn_adapter *adapter);

/* Switches the adapters in use off and on without touching their tensors. Trained copies of base tensors change place too.
 */
void tn_adapter_enable(tn_adapter *adapter, bool enabled);

typedef struct tn_adapter_load_options {
    bool trainable;
    bool allow_partial; /* tensors missing on either side are tolerated (and counted); copies of base weights are not
                           compared */
    const tn_peft_preset *preset; /* NULL, or how to train what was loaded: a training_only one of the adapter's method */
} tn_adapter_load_options;

/* How much of an adapter file was used; without allow_partial the two last are 0 or loading failed. */
typedef struct tn_adapter_load_report {
    int64_t tensors, missing, unexpected;
} tn_adapter_load_report;

/* The terms that methods add to the loss; their gradients are added to those there are. 0 without an adapter. */
double tn_adapter_penalty(tn_adapter *adapter);

/* Reads a PEFT folder. Every tensor of the file must find its place and every place its tensor, of the right shape, without
 * NaN; errors name the first that do not and the nearest names. */
tn_status tn_adapter_load(tn_network *model, const char *dir, const tn_adapter_load_options *options,
                          tn_adapter_load_report *report, tn_adapter **out);

/* Loads a folder that may hold several adapters as PEFT saves them, the others in subfolders by name, as a
 * list. name: that one alone ("default": the folder's own), or NULL: all. */
tn_status tn_adapter_load_all(tn_network *model, const char *dir, const char *name, const tn_adapter_load_options *options,
                              tn_adapter **out);

/* Writes adapter_config.json and adapter_model.safetensors (f32) of this one into `dir`, as PEFT's save_pretrained. An
 * adapter whose initialisation took part of the base away is written converted to an ordinary LoRA of twice the rank for the
 * untouched base. Full fine-tuning writes the checkpoint itself, in `dtype`. */
tn_status tn_adapter_save(const tn_adapter *adapter, const char *dir);

/* Fails when `dir` holds adapters in subfolders, besides those of the list, that would be read along with what is saved. */
tn_status tn_adapter_check_folder(const tn_adapter *adapter, const char *dir);

/* The same as tn_adapter_save for a list of adapters, as tn_adapter_load_all reads it. */
tn_status tn_adapter_save_all(const tn_adapter *adapter, const char *dir);

/* Text by key beside the tensors of the adapter's file, "format" not among it: setting (value NULL: removing), listing up to
 * `capacity` and counting, and what loading, saving and freeing do. */
tn_status tn_adapter_set_metadata(tn_adapter *adapter, const char *key, const char *value);
size_t tn_adapter_list_metadata(const tn_adapter *adapter, const char **keys, const char **values, size_t capacity);
tn_status tn_adapter_read_metadata(tn_adapter *adapter, const tn_safetensors *file);
tn_status tn_adapter_write_metadata(const tn_adapter *adapter, tn_safetensors_writer *writer);
void tn_adapter_free_metadata(tn_adapter *adapter);

/* Counts and sizes for people: modules with adapters, trained parameters, Frobenius norm of all weight changes. */
typedef struct tn_adapter_summary {
    int64_t modules, parameters;
    double change_norm, base_norm;
} tn_adapter_summary;
tn_status tn_adapter_summarise(const tn_adapter *adapter, tn_adapter_summary *out);

/* The effective weight of a module with the adapter merged in, f32 in tn_adapter_merged_shape, and its bias [O] (bias may be
 * NULL; *has_bias says whether the merged module has one). Modules that the adapter leaves alone give their base values. */
tn_status tn_adapter_merged_weight(const tn_adapter *adapter, const tn_module *module, float *weight, float *bias,
                                   bool *has_bias);

/* Numbers that merging this one loses and unmerging it needs: those of one slot, and whether there are any. */
int64_t tn_adapter_kept_count(const tn_adapter_slot *slot);
bool tn_adapter_keeps(const tn_adapter *adapter);

/* The reverse for a module with merged weights, by methods that have an unmerge of their own: the base's weight and bias,
 * laid out as above, of the merged ones times `stretch`. */
tn_status tn_adapter_unmerged_weight(const tn_adapter *adapter, const tn_module *module, float stretch, float *weight,
                                     float *bias);

/* The shape of that weight: the base's, but for a grouped convolution that an update reads across its groups, which is one
 * without groups when merged: [O, C, kh, kw]. */
tn_tensor tn_adapter_merged_shape(const tn_adapter *adapter, const tn_module *module);
bool tn_adapter_widens(const tn_adapter *adapter, const tn_module *module);

/* A grouped convolution's weight [O, C / groups, kh, kw] becomes the ungrouped one [O, C, kh, kw] that computes the same, in
 * place. */
void tn_widen_groups(const tn_module *module, float *weight);

/* True when an adapter sits on the module itself. */
bool tn_adapter_has(const tn_adapter *adapter, const tn_module *module);

/* True when merging changes the module, be it through the one that it is tied to. */
bool tn_adapter_changes(const tn_adapter *adapter, const tn_module *module);

/* Modules that a configuration selects, in the model's order, into `selected` (one bool per module). */
tn_status tn_peft_select(const tn_network *model, const tn_peft_config *config, const tn_peft_method *method,
                         bool *selected);

/* True when modules_to_save names the module: its name ends in an entry, dot or not, as PEFT compares. */
bool tn_peft_saves_module(tn_text_list modules_to_save, const char *name);

#endif
