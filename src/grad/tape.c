/* Recording, reference counts and the walk back. */
#include "grad/tape.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

enum { CHUNK_BYTES = 256 << 10 };

struct tn_tape_chunk {
    struct tn_tape_chunk *next;
    size_t filled;
    _Alignas(16) char data[CHUNK_BYTES];
};

tn_status tn_tape_init(tn_tape *tape, const tn_kernels *kernels, int64_t reserve) {
    *tape = (tn_tape){.kernels = kernels, .rehearsal = reserve == 0};
    return tn_heap_init(&tape->heap, reserve);
}

void tn_tape_free(tn_tape *tape) {
    for (struct tn_tape_chunk *chunk = tape->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        tn_free(chunk);
    }
    tn_heap_free(&tape->heap);
    *tape = (tn_tape){0};
}

void tn_tape_reset(tn_tape *tape) {
    tn_heap_reset(&tape->heap);
    tape->chunk = tape->chunks;
    if (tape->chunk)
        tape->chunk->filled = 0;
    tape->last = NULL;
    tape->status = TN_OK;
    tape->flops = 0;
}

tn_status tn_tape_status(const tn_tape *tape) {
    return tape->status;
}

static void fail_memory(tn_tape *tape, int64_t bytes) {
    if (tape->status == TN_OK)
        tape->status =
            tn_fail(TN_ERROR_MEMORY, "a step needs %.1f MB more than the memory planned for it", (double)bytes / 1e6);
}

void *tn_tape_store(tn_tape *tape, size_t size) {
    size = (size + 15) / 16 * 16;
    struct tn_tape_chunk *chunk = tape->chunk;
    if (!chunk || chunk->filled + size > CHUNK_BYTES) {
        struct tn_tape_chunk *next = chunk ? chunk->next : NULL;
        if (!next) {
            next = size <= CHUNK_BYTES ? tn_malloc(sizeof *next) : NULL;
            if (!next) {
                fail_memory(tape, (int64_t)size);
                return NULL;
            }
            next->next = NULL;
            if (chunk)
                chunk->next = next;
            else
                tape->chunks = next;
        }
        next->filled = 0;
        tape->chunk = chunk = next;
    }
    void *result = chunk->data + chunk->filled;
    chunk->filled += size;
    memset(result, 0, size);
    return result;
}

tn_block tn_scratch_take(tn_tape *tape, int64_t floats) {
    tn_block block = {0};
    int64_t size;
    if (!tn_mul_i64(floats, (int64_t)sizeof(float), &size))
        size = INT64_MAX;
    int64_t offset = tn_heap_take(&tape->heap, size);
    if (offset < 0) {
        fail_memory(tape, size);
        return block;
    }
    block = (tn_block){.offset = offset, .size = size, .taken = true};
    if (tape->heap.region)
        block.data = (float *)(void *)(tape->heap.region + offset);
    return block;
}

void tn_scratch_give(tn_tape *tape, tn_block *block) {
    if (block->taken)
        tn_heap_give(&tape->heap, block->offset, block->size);
    *block = (tn_block){0};
}

void tn_op_start_clock(tn_tape *tape) {
    tape->op_flops = tape->flops;
    tape->op_started = tn_seconds();
}

void tn_op_stop_clock(tn_tape *tape) {
    tn_profile_add(tape->profile, tape->phase, tape->op, tn_seconds() - tape->op_started, tape->flops - tape->op_flops);
}

tn_var *tn_var_new(tn_tape *tape, int64_t rows, int64_t cols, bool needs_grad) {
    tn_var *var = tn_tape_store(tape, sizeof *var);
    int64_t count;
    if (var && !tn_mul_i64(rows, cols, &count)) {
        fail_memory(tape, INT64_MAX);
        var = NULL;
    }
    if (!var) {
        tape->failed_var = (tn_var){.rows = rows, .cols = cols, .refs = 1};
        return &tape->failed_var;
    }
    *var = (tn_var){.rows = rows, .cols = cols, .needs_grad = needs_grad, .refs = 1};
    var->value = tn_scratch_take(tape, count);
    var->data = var->value.data;
    return var;
}

void tn_drop(tn_tape *tape, tn_var *var) {
    if (!var || var == &tape->failed_var || --var->refs > 0)
        return;
    tn_scratch_give(tape, &var->value);
    var->data = NULL;
    if (var->kept_of)
        var->kept_of->kept = NULL;
}

void *tn_node_new(tn_tape *tape, size_t size, void (*backward)(tn_tape *, tn_node *), tn_var *out) {
    if (!tape->recording || !out->needs_grad || tape->status != TN_OK)
        return NULL;
    tn_node *node = tn_tape_store(tape, size);
    if (!node)
        return NULL;
    node->backward = backward;
    node->previous = tape->last;
    node->op = tape->op;
    node->out = out;
    tape->last = node;
    if (!out->producer)
        out->producer = node;
    return node;
}

tn_var *tn_node_save(tn_node *node, tn_var *var) {
    assert(node->saved_count < (int)(sizeof node->saved / sizeof *node->saved));
    return node->saved[node->saved_count++] = tn_hold(var);
}

/* Makes room for a copy, or finds the one that is there, which *there says. */
static tn_kept keep_room(tn_tape *tape, tn_node *node, tn_var *var, tn_dtype dtype, bool *there) {
    tn_kept kept = {NULL, dtype, var->rows, var->cols};
    *there = dtype == TN_DTYPE_F32 || (var->kept && var->kept_as == dtype);
    if (*there) {
        kept.var = tn_node_save(node, dtype == TN_DTYPE_F32 ? var : var->kept);
        return kept;
    }
    int64_t bytes = tn_array_bytes(dtype, var->rows * var->cols), word = (int64_t)sizeof(float);
    kept.var = tn_var_new(tape, 1, (bytes + word - 1) / word, false);
    if (!var->kept) {
        kept.var->kept_of = var;
        var->kept = kept.var;
        var->kept_as = dtype;
    }
    tn_node_save(node, kept.var);
    tn_drop(tape, kept.var);
    return kept;
}

static tn_kept keep(tn_tape *tape, tn_node *node, tn_var *var, tn_dtype dtype) {
    bool there;
    tn_kept kept = keep_room(tape, node, var, dtype, &there);
    if (!there && tn_tape_live(tape))
        tape->kernels->from_f32(kept.var->data, dtype, var->data, var->rows * var->cols);
    return kept;
}

static tn_dtype usual_type(const tn_tape *tape) {
    return tape->kernels->rounds ? TN_DTYPE_BF16 : TN_DTYPE_F32;
}

static tn_dtype small_type(const tn_tape *tape) {
    return tape->keeps_8bit ? TN_DTYPE_INT8_BLOCKS : usual_type(tape);
}

tn_kept tn_node_keep(tn_tape *tape, tn_node *node, tn_var *var) {
    return keep(tape, node, var, usual_type(tape));
}

tn_kept tn_node_keep_8bit(tn_tape *tape, tn_node *node, tn_var *var) {
    return keep(tape, node, var, small_type(tape));
}

tn_kept tn_node_keep_8bit_room(tn_tape *tape, tn_node *node, tn_var *var) {
    bool there;
    return keep_room(tape, node, var, small_type(tape), &there);
}

const float *tn_kept_floats(tn_tape *tape, const tn_kept *kept, tn_block *scratch) {
    if (kept->dtype == TN_DTYPE_F32)
        return kept->var->data;
    int64_t count = kept->rows * kept->cols;
    *scratch = tn_scratch_take(tape, count);
    if (tn_tape_live(tape))
        tape->kernels->to_f32(scratch->data, kept->var->data, kept->dtype, count);
    return scratch->data;
}

float *tn_grad_of(tn_tape *tape, tn_var *var, bool *accumulate) {
    if (!var->needs_grad)
        return NULL;
    *accumulate = var->grad.taken;
    if (!var->grad.taken)
        var->grad = tn_scratch_take(tape, var->rows * var->cols);
    return var->grad.data;
}

float *tn_grad_over_value(tn_tape *tape, tn_var *var, bool *accumulate) {
    if (!var->needs_grad || var->grad.taken || var->refs > 1)
        return tn_grad_of(tape, var, accumulate);
    var->grad = var->value;
    var->value = (tn_block){0};
    *accumulate = false;
    return var->grad.data;
}

tn_operand tn_kept_rows(tn_tape *tape, const tn_kept *kept, tn_block *scratch) {
    if (kept->dtype == TN_DTYPE_INT8_BLOCKS)
        return tn_rows_of(tn_kept_floats(tape, kept, scratch), TN_DTYPE_F32, kept->cols);
    return tn_rows_of(kept->var->data, kept->dtype, kept->cols);
}

tn_mark tn_tape_mark(const tn_tape *tape) {
    return (tn_mark){.last = tape->last, .chunk = tape->chunk, .filled = tape->chunk ? tape->chunk->filled : 0};
}

/* A checkpointed block has no name: its time is that of the ops that run again. */
static void run_backward(tn_tape *tape, tn_node *node) {
    if (!node->op) {
        node->backward(tape, node);
        return;
    }
    tn_op_begin(tape, node->op);
    node->backward(tape, node);
    tn_op_end(tape);
}

/* A result nobody used has no gradient: its node only lets go of what it saved. */
void tn_tape_backward_to(tn_tape *tape, tn_mark mark) {
    bool recording = tape->recording;
    tn_phase phase = tape->phase;
    tape->recording = false;
    tape->phase = TN_PHASE_BACKWARD;
    while (tape->last != mark.last) {
        tn_node *node = tape->last;
        tape->last = node->previous;
        if (node->out->grad.taken && tape->status == TN_OK)
            run_backward(tape, node);
        for (int i = 0; i < node->saved_count; i++)
            tn_drop(tape, node->saved[i]);
        if (node->out->producer == node) {
            tn_scratch_give(tape, &node->out->grad);
        }
    }
    tape->recording = recording;
    tape->phase = phase;
    tape->chunk = mark.chunk ? mark.chunk : tape->chunks;
    if (tape->chunk)
        tape->chunk->filled = mark.chunk ? mark.filled : 0;
}

void tn_tape_backward(tn_tape *tape) {
    tn_tape_backward_to(tape,
                        (tn_mark){.last = NULL, .chunk = tape->chunk, .filled = tape->chunk ? tape->chunk->filled : 0});
}

typedef struct {
    tn_node node;
    tn_block_fn fn;
    void *context;
} checkpoint_node;

static void checkpoint_backward(tn_tape *tape, tn_node *base) {
    checkpoint_node *node = (checkpoint_node *)base;
    tn_mark mark = tn_tape_mark(tape);
    tape->recording = true;
    tape->phase = TN_PHASE_RECOMPUTATION;
    tn_var *out = node->fn(tape, node->context, base->saved[0]);
    tape->recording = false;
    tape->phase = TN_PHASE_BACKWARD;
    out->grad = base->out->grad;
    base->out->grad = (tn_block){0};
    tn_drop(tape, out);
    tn_tape_backward_to(tape, mark);
}

tn_var *tn_checkpointed(tn_tape *tape, tn_block_fn fn, void *context, tn_var *in) {
    bool recording = tape->recording;
    tape->recording = false;
    tn_var *out = fn(tape, context, in);
    tape->recording = recording;
    tape->op = NULL;
    checkpoint_node *node = tn_node_new(tape, sizeof *node, checkpoint_backward, out);
    if (node) {
        node->fn = fn;
        node->context = context;
        tn_node_save(&node->node, in);
    }
    return out;
}
