/* What a tensor of a checkpoint is for its module, told by names, shapes and config.json alone, without building the model.
 */
#ifndef TN_SESSION_WEIGHT_ROLE_H
#define TN_SESSION_WEIGHT_ROLE_H

#include "format/json.h"
#include "tensor/tensor.h"

typedef enum tn_weight_role {
    TN_WEIGHT_LINEAR,     /* [O, C] */
    TN_WEIGHT_TRANSPOSED, /* [C, O]: a Conv1D of GPT-2 and its kin */
    TN_WEIGHT_CONV2D,     /* [O, in, kh, kw], not grouped */
    TN_WEIGHT_EMBEDDING,  /* [V, C] */
    TN_WEIGHT_OTHER,
} tn_weight_role;

/* `config` is config.json or NULL; `module` is `name` without ".weight", or NULL when it ends otherwise. */
tn_weight_role tn_weight_role_of(const cJSON *config, const char *name, const char *module, const tn_tensor *tensor);

const char *tn_module_last_part(const char *module); /* "q_proj" of "model.layers.0.self_attn.q_proj" */
bool tn_weight_is_head(const char *module);
bool tn_weight_is_input_embedding(const char *module);
bool tn_weight_head_is_tied(const cJSON *config);

#endif
