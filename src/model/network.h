/* What all models are to adapters, merging and training: named modules over the weights of a checkpoint. */
#ifndef TN_MODEL_NETWORK_H
#define TN_MODEL_NETWORK_H

#include "base/file.h"
#include "format/json.h"
#include "nn/module.h"
#include "tensor/checkpoint.h"
#include "tensor/quant.h"

typedef struct tn_network tn_network;

/* What only some kinds of model can do; NULL: this one cannot. */
typedef struct tn_network_kind {
    tn_status (*replicate)(tn_network *network, const int64_t (*ranges)[2], int64_t count); /* layer_replication */
    void (*unreplicate)(tn_network *network);
} tn_network_kind;

/* A quantised weight of a network. */
typedef struct tn_quantised_node {
    struct tn_quantised_node *next;
    tn_quantised array;
} tn_quantised_node;

struct tn_network {
    const tn_network_kind *kind;
    char *dir;          /* where it was loaded from: the folder, or the GGUF file */
    const char *family; /* model_type of config.json */
    cJSON *json;        /* config.json as read; of a GGUF file as it would be */
    tn_checkpoint checkpoint;
    tn_module *modules; /* in the order of the forward pass */
    int64_t module_count;
    tn_map by_name;
    int64_t layer_count;         /* of numbered blocks */
    tn_module *embedding, *head; /* of tokens; NULL in networks without them */
    bool tied;                   /* the head is the embedding, while no adapter gives it a weight of its own */
    int64_t vocab_size;          /* 0: inputs are no tokens */
    const char *default_targets; /* modules that adapters change when none are named */
    const char *optional_prefix; /* of modules' names, which some checkpoints leave out; NULL: none does */
    bool bare;                   /* this checkpoint leaves it out */
    float *random_weights;       /* of a model made from config.json alone, else NULL */
    int64_t random_bytes;
    float *vectors; /* norms and biases widened to f32: kernels read those as such */
    int64_t vector_bytes;
    tn_quantised_node *quantised;
    tn_page_arena quantised_memory;
    int64_t unused_tensors; /* in the checkpoint, but not of this architecture; first one named */
    const char *first_unused;
    tn_arena arena;
};

/* From the folder of a model, or its config.json alone, to both. */
tn_status tn_network_locate(const char *path, char dir[TN_PATH_MAX], char config_path[TN_PATH_MAX]);

/* Reads config.json, or the metadata of a GGUF file, which then is `dir` as well; dir: where the checkpoint lies.
 * tn_network_free is due also after a failure. */
tn_status tn_network_init(tn_network *network, const tn_network_kind *kind, const char *dir, const char *config_path);
void tn_network_free(tn_network *network);

/* Room for at most `modules` modules, before the first is added. */
tn_status tn_network_reserve(tn_network *network, int64_t modules);

/* Adds a module; `shape` of its weight, `outputs` of its bias. The name is copied. NULL without memory or when the name is
 * taken. */
tn_module *tn_network_add(tn_network *network, tn_module_kind kind, int layer, const char *name, tn_tensor weight,
                          int64_t outputs, bool bias);

/* Points every module at its tensor in the checkpoint of network->dir. Every tensor must be there with its shape and without
 * a NaN or infinity; others are counted. */
tn_status tn_network_load(tn_network *network);

/* Weights N(0, deviation), or N(0, 2 / inputs) for deviation 0, norms 1, biases 0, by `seed`. */
tn_status tn_network_fill_random(tn_network *network, float deviation, uint64_t seed);

/* "weight" or "bias" of a module as the checkpoint holds it; NULL when it does not. */
const tn_tensor *tn_network_stored(const tn_network *network, const char *module, const char *part);

tn_module *tn_network_module(const tn_network *network, const char *name); /* by dotted name; NULL when absent */

/* The module and the part of it that a tensor's name means ("fc1.bias"); false when there is none. */
bool tn_network_find_part(const tn_network *network, const char *name, tn_module **module, int *part);
int64_t tn_network_parameters(const tn_network *network); /* distinct weights of the base */
int64_t tn_network_bytes(const tn_network *network);      /* bytes of the base as stored */

/* Bytes of weights in mapped files that are not in memory yet: reading a weight brings it there. */
int64_t tn_network_absent_bytes(const tn_network *network);

#endif
