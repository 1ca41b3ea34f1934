/* Any number of adapters on one model: added and removed while it stays in memory, switched, weighted and stacked at run
 * time, and chosen anew for every row of a batch. The base is never loaded again, and nothing is merged. */
#ifndef TENON_ADAPTERS_H
#define TENON_ADAPTERS_H

#include <tenon/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which adapters act, and how much of each: y = base + sum of weights[i] * (what adapter i adds). Adapters that do not add
 * but change the output in turn (DoRA, IA3) do so in the order of attaching, each by its weight's share. */
typedef struct tn_adapter_mix {
    const char *const *names; /* [count] */
    const double *weights;    /* [count], or NULL: 1 each */
    size_t count;             /* 0: the base alone */
} tn_adapter_mix;

/* Loads the PEFT folder `dir` beside the adapters that are there, under `name`, not in use yet. Errors: TN_ERROR_ARGUMENT
 * (the name is taken), and those of tn_model_load_adapter. A failure leaves everything as it was. */
TN_API tn_status tn_model_attach_adapter(tn_model *model, const char *dir, const char *name);

/* Takes the adapter of that name off and frees it. Errors: TN_ERROR_ARGUMENT (no such name; the error lists those there
 * are). */
TN_API tn_status tn_model_detach_adapter(tn_model *model, const char *name);

/* Reads the adapter's folder again, as after more training; its weight stays. Errors: those of loading; the old one stays
 * then. */
TN_API tn_status tn_model_reload_adapter(tn_model *model, const char *name);

/* Uses exactly these adapters from now on. Errors: TN_ERROR_ARGUMENT (an unknown name, a name twice, a weight that is not
 * finite, two that replace the same tensor), _UNSUPPORTED (a weight other than 1 for an adapter that replaces tensors); then
 * everything stays as it was. */
TN_API tn_status tn_model_use_adapters(tn_model *model, const tn_adapter_mix *mix);

/* The adapters in the order of attaching: names[i] (the model's, until the adapter goes) and weights[i] (0: not in use) of
 * up to `capacity` of them; either array may be NULL. Returns how many there are. One that was made or loaded without a name
 * is called "default". */
TN_API size_t tn_model_list_adapters(const tn_model *model, const char **names, double *weights, size_t capacity);

/* Text kept with an adapter under a key: in the __metadata__ of the adapter_model.safetensors that is written from now on,
 * beside the tensors, where PEFT ignores it. adapter: its name, NULL: the first; value NULL: removes the key. Errors:
 * TN_ERROR_ARGUMENT (no such adapter, text that is not UTF-8, an empty key, or "format", which is the file's own),
 * _UNSUPPORTED (a full fine-tuning, which is saved as a checkpoint), _MEMORY. */
TN_API tn_status tn_model_set_metadata(tn_model *model, const char *adapter, const char *key, const char *value);

/* keys[i] and values[i], as loaded and set, of up to `capacity`; either array may be NULL, and the strings are the model's
 * until they are set anew. Returns how many there are; 0 without such an adapter. */
TN_API size_t tn_model_list_metadata(const tn_model *model, const char *adapter, const char **keys, const char **values,
                                     size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
