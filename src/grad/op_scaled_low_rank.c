/* y += l * w by columns, w = v B^T, v = d * u by columns, u = x A^T;  dl += sum_t dy * w,  dv = (l * dy) B,
 * dd += sum_t dv * u,  dx += (d * dv) A.  x [T, C], u, v [T, R], w, y [T, O], d [R], l [O].
 *
 * A and B are constants of several such layers: A [R, >= C], of which the first C columns count, B [>= O, R], the first O
 * rows. w is a product as thin as R, so it is computed again on the way back rather than kept. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x, *u;
    const tn_weight *a, *b, *d, *l;
} scaled_low_rank_node;

/* w = (d * u) B^T. */
static void product(tn_tape *tape, tn_block *w, const tn_var *u, const tn_weight *b, const tn_weight *d, int64_t out) {
    const tn_kernels *k = tape->kernels;
    int64_t rows = u->rows, rank = u->cols;
    tn_block v = tn_scratch_take(tape, rows * rank);
    tape->flops += 2.0 * (double)rows * (double)out * (double)rank;
    if (tn_tape_live(tape)) {
        k->scale_columns(v.data, false, u->data, d->tensor.data, rows, rank);
        k->gemm(w->data, out, tn_rows_of(v.data, TN_DTYPE_F32, rank), tn_weight_transpose(b), 1, 0, rows, out, rank);
    }
    tn_scratch_give(tape, &v);
}

/* What lies before w: dd and dx. `w` is scratch of w's size. */
static void go_back(tn_tape *tape, const scaled_low_rank_node *node, tn_block *w, const float *dy) {
    const tn_weight *a = node->a, *d = node->d;
    const tn_kernels *k = tape->kernels;
    tn_var *x = node->x;
    int64_t rows = x->rows, in = x->cols, out = node->node.out->cols, rank = a->tensor.shape[0];
    tn_block dv = tn_scratch_take(tape, rows * rank);
    tape->flops += 2.0 * (double)rows * (double)out * (double)rank;
    if (tn_tape_live(tape)) {
        k->scale_columns(w->data, false, dy, node->l->tensor.data, rows, out);
        k->gemm(dv.data, rank, tn_rows_of(w->data, TN_DTYPE_F32, out), tn_weight_rows(node->b), 1, 0, rows, rank, out);
        if (d->trainable)
            k->sum_products(d->grad, dv.data, node->u->data, rows, rank);
    }
    if (x->needs_grad) {
        bool accumulate;
        float *dx = tn_grad_of(tape, x, &accumulate);
        tn_block du = tn_scratch_take(tape, rows * rank);
        tape->flops += 2.0 * (double)rows * (double)in * (double)rank;
        if (tn_tape_live(tape)) {
            k->scale_columns(du.data, false, dv.data, d->tensor.data, rows, rank);
            k->gemm(dx, in, tn_rows_of(du.data, TN_DTYPE_F32, rank), tn_weight_rows(a), 1, accumulate, rows, in, rank);
        }
        tn_scratch_give(tape, &du);
    }
    tn_scratch_give(tape, &dv);
}

static void scaled_low_rank_backward(tn_tape *tape, tn_node *base) {
    scaled_low_rank_node *node = (scaled_low_rank_node *)base;
    int64_t rows = base->out->rows, out = base->out->cols;
    const float *dy = tn_grad_in(base);
    tn_block w = tn_scratch_take(tape, rows * out);
    if (node->l->trainable) {
        product(tape, &w, node->u, node->b, node->d, out);
        if (tn_tape_live(tape))
            tape->kernels->sum_products(node->l->grad, dy, w.data, rows, out);
    }
    if (node->d->trainable || node->x->needs_grad)
        go_back(tape, node, &w, dy);
    tn_scratch_give(tape, &w);
}

void tn_op_scaled_low_rank(tn_tape *tape, tn_var *y, tn_var *x, const tn_weight *a, const tn_weight *b, const tn_weight *d,
                           const tn_weight *l) {
    tn_op_begin(tape, "scaled low rank");
    int64_t rows = x->rows, out = y->cols, in = x->cols, rank = a->tensor.shape[0];
    const tn_kernels *k = tape->kernels;
    y->needs_grad = y->needs_grad || x->needs_grad || d->trainable || l->trainable;
    tn_var *u = tn_var_new(tape, rows, rank, false);
    tn_block w = tn_scratch_take(tape, rows * out);
    tape->flops += 2.0 * (double)rows * (double)rank * (double)in;
    if (tn_tape_live(tape))
        k->gemm(u->data, rank, tn_rows_of(x->data, TN_DTYPE_F32, in), tn_weight_transpose(a), 1, 0, rows, rank, in);
    product(tape, &w, u, b, d, out);
    if (tn_tape_live(tape))
        k->scale_columns(y->data, true, w.data, l->tensor.data, rows, out);
    tn_scratch_give(tape, &w);
    scaled_low_rank_node *node = tn_node_new(tape, sizeof *node, scaled_low_rank_backward, y);
    if (node) {
        *node = (scaled_low_rank_node){.node = node->node, .x = x, .a = a, .b = b, .d = d, .l = l};
        node->u = d->trainable || l->trainable ? tn_node_save(&node->node, u) : NULL;
    }
    tn_drop(tape, u);
    tn_op_end(tape);
}
