/* A pretrained checkpoint: tensors by name out of model.safetensors, out of the shards that model.safetensors.index.json
 * names, or out of a GGUF file, renamed as Hugging Face does. Everything stays mapped; nothing is copied but the rows of q
 * and k where GGUF has them in another order. */
#ifndef TN_TENSOR_CHECKPOINT_H
#define TN_TENSOR_CHECKPOINT_H

#include "format/gguf.h"
#include "format/safetensors.h"

typedef struct tn_checkpoint {
    tn_safetensors *files; /* one, or one per shard, in the order of first mention in the index */
    size_t file_count;
    tn_map by_name; /* tensor name -> file index << 32 | entry index */
    bool sharded;
    tn_gguf *gguf; /* that the one file's tensors come from, or NULL */
} tn_checkpoint;

/* `dir` holds model.safetensors or model.safetensors.index.json, or is what tn_gguf_locate takes. */
tn_status tn_checkpoint_open(const char *dir, tn_checkpoint *out);
void tn_checkpoint_close(tn_checkpoint *checkpoint);

/* Lets the pages of a mapped tensor go; they are read again when touched. Nothing happens when it lies elsewhere. */
void tn_checkpoint_forget(const tn_checkpoint *checkpoint, const tn_tensor *tensor);

/* NULL when absent. */
const tn_tensor *tn_checkpoint_find(const tn_checkpoint *checkpoint, const char *name);

#endif
