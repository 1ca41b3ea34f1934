/* The tape: ops run forward at once and record how to go back.
 *
 * Values are f32 matrices [rows, cols] in the tape's heap. An op's result belongs to its caller, who drops it when done; an
 * op that needs a value for its backward keeps a reference of its own. So memory is given back as early as the mathematics
 * allows, in both directions. With `rehearsal` set, no kernel runs and no memory is touched, but every size and FLOP is
 * counted as in a real step. Failures stick to the tape (tn_tape_status): ops after one do nothing. */
#ifndef TN_GRAD_TAPE_H
#define TN_GRAD_TAPE_H

#include "grad/heap.h"
#include "grad/profile.h"
#include "grad/weight.h"

/* A block of the heap. */
typedef struct tn_block {
    float *data; /* NULL in a rehearsal */
    int64_t offset, size;
    bool taken;
} tn_block;

typedef struct tn_var {
    float *data; /* [rows, cols]; NULL in a rehearsal */
    int64_t rows, cols;
    struct tn_var *kept, *kept_of; /* a smaller copy that nodes keep instead of the value, and back; or NULL */
    tn_dtype kept_as;              /* of kept */
    bool needs_grad;
    int refs;
    tn_block value, grad;
    struct tn_node *producer; /* first node that wrote it; its grad is final once later nodes went back */
} tn_var;

typedef struct tn_tape tn_tape;

typedef struct tn_node {
    void (*backward)(tn_tape *tape, struct tn_node *node);
    struct tn_node *previous;
    const char *op; /* whose it is, for a profile */
    tn_var *out;
    tn_var *saved[6]; /* released after backward */
    int saved_count;
} tn_node;

struct tn_tape {
    const tn_kernels *kernels;
    tn_heap heap;
    bool rehearsal, recording;
    bool keeps_8bit; /* see tn_node_keep_8bit */
    bool inferring;  /* for generation: never recording; products may round as gemm_infer does */
    tn_status status;
    tn_node *last;
    double flops;        /* of everything run since the last reset: 2 per multiply-add of matrix products */
    tn_profile *profile; /* NULL, or where the time of ops is added up */
    tn_phase phase;
    const char *op; /* running now; ops do not nest */
    double op_started, op_flops;
    struct tn_tape_chunk *chunks, *chunk; /* storage of nodes, vars and blocks: a stack reused by every step */
    tn_var failed_var;
};

/* reserve = 0 makes a rehearsal tape. */
tn_status tn_tape_init(tn_tape *tape, const tn_kernels *kernels, int64_t reserve);
void tn_tape_free(tn_tape *tape);
void tn_tape_reset(tn_tape *tape); /* forgets all values and nodes, keeps the memory; clears the status */
tn_status tn_tape_status(const tn_tape *tape);

/* Walks all nodes back. Seeds are the gradients that already lie on vars. */
void tn_tape_backward(tn_tape *tape);

/* Another reference to the value, to be dropped as well. */
static inline tn_var *tn_hold(tn_var *var) {
    var->refs++;
    return var;
}

/* Drops the caller's reference to a value; NULL is fine. */
void tn_drop(tn_tape *tape, tn_var *var);

/* A function of one value that can be run again, such as a transformer block. */
typedef tn_var *(*tn_block_fn)(tn_tape *tape, void *context, tn_var *in);

/* Runs fn(in) keeping only `in`; the backward pass runs it again, recording. fn must not write to `in` in place and must
 * give the same result each time. `context` must live until backward. */
tn_var *tn_checkpointed(tn_tape *tape, tn_block_fn fn, void *context, tn_var *in);

/* --- for ops --- */

/* True when kernels may run: no rehearsal, no failure. */
static inline bool tn_tape_live(const tn_tape *tape) {
    return !tape->rehearsal && tape->status == TN_OK;
}

/* Around everything an op does forward: its name, for its nodes and for a profile. */
void tn_op_start_clock(tn_tape *tape);
void tn_op_stop_clock(tn_tape *tape);
static inline void tn_op_begin(tn_tape *tape, const char *name) {
    tape->op = name;
    if (tape->profile)
        tn_op_start_clock(tape);
}
static inline void tn_op_end(tn_tape *tape) {
    if (tape->profile)
        tn_op_stop_clock(tape);
}

tn_var *tn_var_new(tn_tape *tape, int64_t rows, int64_t cols, bool needs_grad);

/* Records a node of `size` bytes (a struct that begins with tn_node) writing `out`; NULL when not recording, when `out`
 * needs no gradient, or after a failure. For an op in place, `out` is the value it changed. */
void *tn_node_new(tn_tape *tape, size_t size, void (*backward)(tn_tape *, tn_node *), tn_var *out);

/* Keeps `var`'s value until the node went back. */
tn_var *tn_node_save(tn_node *node, tn_var *var);

/* What a node reads of a value on the way back: the value itself, or, where products round to bf16 anyway, a copy in bf16
 * that takes half the memory. */
typedef struct tn_kept {
    tn_var *var; /* not to be changed; of another shape unless its type is f32 */
    tn_dtype dtype;
    int64_t rows, cols;
} tn_kept;

/* As tn_node_save. */
tn_kept tn_node_keep(tn_tape *tape, tn_node *node, tn_var *var);

/* The same for a value of which the way back needs no more than 8 bits: in INT8_BLOCKS when the tape keeps such ones so. */
tn_kept tn_node_keep_8bit(tn_tape *tape, tn_node *node, tn_var *var);

/* The same for an op whose forward kernel writes the copy: to tn_kept_copy. */
tn_kept tn_node_keep_8bit_room(tn_tape *tape, tn_node *node, tn_var *var);

static inline void *tn_kept_copy(const tn_kept *kept) {
    return kept->var && kept->dtype != TN_DTYPE_F32 ? kept->var->data : NULL;
}

static inline tn_stored tn_kept_stored(const tn_kept *kept) {
    return (tn_stored){kept->var->data, kept->dtype};
}

/* The kept value as f32: where it is, or widened into *scratch, which the caller gives back. */
const float *tn_kept_floats(tn_tape *tape, const tn_kept *kept, tn_block *scratch);

/* The same as an operand: blocks are widened. */
tn_operand tn_kept_rows(tn_tape *tape, const tn_kept *kept, tn_block *scratch);

/* The gradient buffer of `var` to write to, and whether to add (true) or to overwrite (false). NULL when `var` needs none,
 * in a rehearsal and after a failure (but then accounted for all the same). */
float *tn_grad_of(tn_tape *tape, tn_var *var, bool *accumulate);

/* The incoming gradient of a node's result; NULL in a rehearsal. */
static inline const float *tn_grad_in(const tn_node *node) {
    return node->out->grad.data;
}

/* As tn_grad_of for an op that may write the gradient over the value itself: when nobody else needs the value and there is
 * no gradient yet, the value's memory becomes the gradient's. */
float *tn_grad_over_value(tn_tape *tape, tn_var *var, bool *accumulate);

/* The same for the op that kept the value: over it when it was kept as it is. */
static inline float *tn_grad_over_kept(tn_tape *tape, tn_var *var, const tn_kept *kept, bool *accumulate) {
    return kept->dtype == TN_DTYPE_F32 ? tn_grad_over_value(tape, var, accumulate) : tn_grad_of(tape, var, accumulate);
}

/* Scratch for the duration of an op. */
tn_block tn_scratch_take(tn_tape *tape, int64_t floats);
void tn_scratch_give(tn_tape *tape, tn_block *block);

/* A point of the record; going back to it runs the nodes after it and then forgets them. */
typedef struct tn_mark {
    tn_node *last;
    struct tn_tape_chunk *chunk;
    size_t filled;
} tn_mark;
tn_mark tn_tape_mark(const tn_tape *tape);
void tn_tape_backward_to(tn_tape *tape, tn_mark mark);

/* Storage for small op state, alive until the enclosing mark or reset; NULL after recording a failure. */
void *tn_tape_store(tn_tape *tape, size_t size);

#endif
