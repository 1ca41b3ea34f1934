/* Y[p, c, s] = sum_ij T[i, j, s] A[i, p] B[j, c]: a convolution's weight from a core and a factor for each side.
 * With U_i = B^T T_i [C, S] and U [R, C S] their rows:  Y = A^T U,  dA += U dY^T,  dU = A dY,  dT_i += B dU_i,
 * dB += sum_i T_i dU_i^T.  T [R, R, S], A [R, O], B [R, C], Y [O, C S]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *u;
    const tn_weight *core, *a, *b;
} tucker_node;

typedef struct {
    int64_t rank, out, in, span; /* R, O, C, S */
} sizes;

static sizes sizes_of(const tn_weight *core, const tn_weight *a, const tn_weight *b) {
    int64_t rank = core->tensor.shape[0];
    return (sizes){rank, a->tensor.shape[1], b->tensor.shape[1], tn_tensor_count(&core->tensor) / (rank * rank)};
}

static double flops_of(const sizes *s) {
    return 2.0 * (double)s->rank * (double)s->in * (double)s->span * (double)(s->rank + s->out);
}

void tn_tucker_weight(const tn_kernels *kernels, float *y, float *u, const tn_weight *core, const tn_weight *a,
                      const tn_weight *b) {
    const sizes s = sizes_of(core, a, b);
    int64_t wide = s.in * s.span;
    for (int64_t i = 0; i < s.rank; i++)
        kernels->gemm(u + i * wide, s.span, tn_weight_transpose(b),
                      tn_rows_of((const float *)core->tensor.data + i * s.rank * s.span, TN_DTYPE_F32, s.span), 1, 0, s.in,
                      s.span, s.rank);
    kernels->gemm(y, wide, tn_weight_transpose(a), tn_rows_of(u, TN_DTYPE_F32, wide), 1, 0, s.out, wide, s.rank);
}

static void inner_backward(const tn_kernels *k, const tucker_node *node, const sizes *s, const float *du) {
    for (int64_t i = 0; i < s->rank; i++) {
        const float *d = du + i * s->in * s->span, *core = (const float *)node->core->tensor.data + i * s->rank * s->span;
        if (node->core->trainable)
            k->gemm(node->core->grad + i * s->rank * s->span, s->span, tn_weight_rows(node->b),
                    tn_rows_of(d, TN_DTYPE_F32, s->span), 1, 1, s->rank, s->span, s->in);
        if (node->b->trainable)
            k->gemm(node->b->grad, s->in, tn_rows_of(core, TN_DTYPE_F32, s->span), tn_transpose_of(d, TN_DTYPE_F32, s->span),
                    1, 1, s->rank, s->in, s->span);
    }
}

static void tucker_backward(tn_tape *tape, tn_node *base) {
    tucker_node *node = (tucker_node *)base;
    const sizes s = sizes_of(node->core, node->a, node->b);
    const tn_kernels *k = tape->kernels;
    const float *dy = tn_grad_in(base);
    int64_t wide = s.in * s.span;
    tn_block du = tn_scratch_take(tape, s.rank * wide);
    tape->flops += 2 * flops_of(&s);
    if (node->a->trainable && tn_tape_live(tape))
        k->gemm(node->a->grad, s.out, tn_rows_of(node->u->data, TN_DTYPE_F32, wide), tn_transpose_of(dy, TN_DTYPE_F32, wide),
                1, 1, s.rank, s.out, wide);
    if (tn_tape_live(tape)) {
        k->gemm(du.data, wide, tn_weight_rows(node->a), tn_rows_of(dy, TN_DTYPE_F32, wide), 1, 0, s.rank, wide, s.out);
        inner_backward(k, node, &s, du.data);
    }
    tn_scratch_give(tape, &du);
}

tn_var *tn_op_tucker(tn_tape *tape, const tn_weight *core, const tn_weight *a, const tn_weight *b) {
    const sizes s = sizes_of(core, a, b);
    tn_op_begin(tape, "tucker");
    tn_var *y = tn_var_new(tape, s.out, s.in * s.span, core->trainable || a->trainable || b->trainable);
    tn_var *u = tn_var_new(tape, s.rank, s.in * s.span, false);
    tape->flops += flops_of(&s);
    if (tn_tape_live(tape))
        tn_tucker_weight(tape->kernels, y->data, u->data, core, a, b);
    tucker_node *node = tn_node_new(tape, sizeof *node, tucker_backward, y);
    if (node) {
        node->u = a->trainable ? tn_node_save(&node->node, u) : NULL;
        node->core = core;
        node->a = a;
        node->b = b;
    }
    tn_drop(tape, u);
    tn_op_end(tape);
    return y;
}
