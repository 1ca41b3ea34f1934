/* The parts of writing a merged or restored checkpoint. */
#ifndef TN_SESSION_MERGE_PARTS_H
#define TN_SESSION_MERGE_PARTS_H

#include "session/merge.h"

typedef struct tn_merger {
    tn_model *model;
    int direction; /* +1 merges, -1 takes out */
    bool keep_dtype;
    tn_dtype dtype; /* unless keep_dtype */
    double largest_rounding;
    int64_t modules;
    bool scales;   /* the tensor at hand was restored by the method's own way, which multiplies merged values ... */
    double factor; /* ... by at most this; 0: and does nothing else, so that each value tells its factor */
    float *weight, *bias, *original; /* scratch for the largest module */
    char *stored;                    /* scratch: one tensor in the output's type */
    int64_t scratch;                 /* elements of each */
} tn_merger;

/* One tensor of the checkpoint that is written. */
typedef struct tn_output_tensor {
    const char *name;
    const tn_tensor *source; /* as stored; NULL for tensors that merging adds */
    const tn_module *module; /* of the model, or NULL when only carried along */
    bool is_bias;
    const tn_tensor *running; /* batch norm's statistics of the module, f32, or NULL */
    tn_tensor wide;           /* ndim 0, or the shape of a grouped convolution that merging makes one without groups */
} tn_output_tensor;

/* merge_values.c: the new f32 values of a tensor of a module that the adapter changes, in m->weight or m->bias; when taking
 * out, m->original holds the merged ones. */
tn_status tn_merger_values(tn_merger *m, const tn_output_tensor *t, const float **values);

/* Compares m->stored [count] of `dtype` with the values that it stands for. `merged` are the values they were restored from,
 * stored as merged_dtype, or NULL. */
void tn_merger_note_rounding(tn_merger *m, const float *exact, const float *merged, tn_dtype merged_dtype, tn_dtype dtype,
                             int64_t count);

/* merge_kept.c: the numbers that merging loses and unmerging needs, in merged_norms.safetensors beside the checkpoint. One
 * that is left from another merge is removed. */
tn_status tn_merger_write_kept(tn_merger *m, const char *dir);
tn_status tn_merger_read_kept(tn_merger *m);

#endif
