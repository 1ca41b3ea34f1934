/* y += s x (W1 (x) W2)^T with W2 = R2 R1, either of which may be the identity; the Kronecker product is never formed.
 * W1 [L, M], R1 [P, N], R2 [K, P], x [T, M N] in M blocks x_j [T, N], y [T, L K] in L blocks y_i [T, K]:
 *   z_j = x_j R1^T,  v = W1 z,  y_i += s v_i R2^T,  z [M, T P] and v [L, T P] being the blocks z_j and v_i [T, P] by rows;
 *   dv_i = s dy_i R2,  dR2 += s sum_i dy_i^T v_i,  dW1 += dv z^T,  dz = W1^T dv,  dR1 += sum_j dz_j^T x_j,  dx_j += dz_j R1.
 */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *x, *w1, *r1, *r2, *z, *v;
    float scale;
} kronecker_node;

typedef struct {
    int64_t t, l, m, n, k, p;
} sizes;

static sizes sizes_of(int64_t rows, int64_t in, int64_t out, const tn_var *w1, const tn_var *r1) {
    sizes s = {.t = rows, .l = w1->rows, .m = w1->cols};
    s.n = in / s.m;
    s.k = out / s.l;
    s.p = r1 ? r1->rows : s.n;
    return s;
}

static double flops_of(const sizes *s, bool has_r1, bool has_r2) {
    double inner = (double)s->l * (double)s->m + (double)(has_r1 * s->m * s->n) + (double)(has_r2 * s->l * s->k);
    return 2.0 * (double)s->t * (double)s->p * inner;
}

/* Block i begins at data + i * step; its rows are `stride` apart. */
typedef struct {
    float *data;
    int64_t step, stride;
} blocks;

static blocks side_by_side(const float *data, int64_t count, int64_t width) {
    return (blocks){(float *)(uintptr_t)data, width, count * width};
}

static blocks stacked(const float *data, int64_t rows, int64_t width) {
    return (blocks){(float *)(uintptr_t)data, rows * width, width};
}

static tn_operand block_at(blocks b, int64_t i, bool transposed) {
    return transposed ? tn_transpose_of(b.data + i * b.step, TN_DTYPE_F32, b.stride)
                      : tn_rows_of(b.data + i * b.step, TN_DTYPE_F32, b.stride);
}

/* out_i (+)= alpha in_i, rows by `cols`. */
static void copy_blocks(blocks out, blocks in, float alpha, bool accumulate, int64_t count, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < count; i++) {
        for (int64_t t = 0; t < rows; t++) {
            float *to = out.data + i * out.step + t * out.stride;
            const float *from = in.data + i * in.step + t * in.stride;
            for (int64_t c = 0; c < cols; c++)
                to[c] = accumulate ? to[c] + alpha * from[c] : alpha * from[c];
        }
    }
}

/* out_i (+)= alpha in_i W, W [inner, cols]; without W the blocks themselves. A single row makes all blocks one matrix. */
static void multiply_blocks(const tn_kernels *k, blocks out, blocks in, const tn_operand *w, float alpha, bool accumulate,
                            int64_t count, int64_t rows, int64_t cols, int64_t inner) {
    if (!w) {
        copy_blocks(out, in, alpha, accumulate, count, rows, cols);
        return;
    }
    if (rows == 1) {
        k->gemm(out.data, out.step, tn_rows_of(in.data, TN_DTYPE_F32, in.step), *w, alpha, accumulate, count, cols, inner);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        k->gemm(out.data + i * out.step, out.stride, block_at(in, i, false), *w, alpha, accumulate, rows, cols, inner);
}

/* dw [a_cols, b_cols] (+)= alpha sum_i a_i^T b_i. */
static void add_products(const tn_kernels *k, float *dw, blocks a, blocks b, float alpha, bool accumulate, int64_t count,
                         int64_t rows, int64_t a_cols, int64_t b_cols) {
    for (int64_t i = 0; i < count; i++)
        k->gemm(dw, b_cols, block_at(a, i, true), block_at(b, i, false), alpha, accumulate || i > 0, a_cols, b_cols, rows);
}

static tn_operand rows_of(const tn_var *var) {
    return tn_rows_of(var->data, TN_DTYPE_F32, var->cols);
}

static tn_operand transpose_of(const tn_var *var) {
    return tn_transpose_of(var->data, TN_DTYPE_F32, var->cols);
}

/* dR2 and dv. */
static void right_backward(const tn_kernels *k, const kronecker_node *node, const sizes *s, float *dr2, bool accumulate,
                           float *dv) {
    blocks dy = side_by_side(tn_grad_in(&node->node), s->l, s->k);
    const tn_operand r2 = node->r2 ? rows_of(node->r2) : (tn_operand){0};
    if (dr2)
        add_products(k, dr2, dy, stacked(node->v->data, s->t, s->p), node->scale, accumulate, s->l, s->t, s->k, s->p);
    multiply_blocks(k, stacked(dv, s->t, s->p), dy, node->r2 ? &r2 : NULL, node->scale, false, s->l, s->t, s->p, s->k);
}

static void input_backward(tn_tape *tape, const kronecker_node *node, const sizes *s, const float *dz) {
    const tn_kernels *k = tape->kernels;
    blocks dz_blocks = stacked(dz, s->t, s->p);
    bool accumulate = false;
    float *dr1 = node->r1 ? tn_grad_of(tape, node->r1, &accumulate) : NULL;
    if (dr1 && tn_tape_live(tape))
        add_products(k, dr1, dz_blocks, side_by_side(node->x->data, s->m, s->n), 1, accumulate, s->m, s->t, s->p, s->n);
    float *dx = tn_grad_of(tape, node->x, &accumulate);
    const tn_operand r1 = node->r1 ? rows_of(node->r1) : (tn_operand){0};
    if (dx && tn_tape_live(tape))
        multiply_blocks(k, side_by_side(dx, s->m, s->n), dz_blocks, node->r1 ? &r1 : NULL, 1, accumulate, s->m, s->t, s->n,
                        s->p);
}

static void kronecker_backward(tn_tape *tape, tn_node *base) {
    kronecker_node *node = (kronecker_node *)base;
    const tn_kernels *k = tape->kernels;
    tn_var *w1 = node->w1;
    const sizes s = sizes_of(base->out->rows, node->x->cols, base->out->cols, w1, node->r1);
    int64_t wide = s.t * s.p;
    bool accumulate = false, goes_on = node->x->needs_grad || (node->r1 && node->r1->needs_grad);
    float *dr2 = node->r2 ? tn_grad_of(tape, node->r2, &accumulate) : NULL;
    tn_block dv = tn_scratch_take(tape, s.l * wide);
    tape->flops += 2 * flops_of(&s, node->r1, node->r2);
    if (tn_tape_live(tape))
        right_backward(k, node, &s, dr2, accumulate, dv.data);
    float *dw1 = tn_grad_of(tape, w1, &accumulate);
    if (dw1 && tn_tape_live(tape))
        k->gemm(dw1, s.m, tn_rows_of(dv.data, TN_DTYPE_F32, wide), transpose_of(node->z), 1, accumulate, s.l, s.m, wide);
    if (goes_on) {
        tn_block dz = tn_scratch_take(tape, s.m * wide);
        if (tn_tape_live(tape))
            k->gemm(dz.data, wide, transpose_of(w1), tn_rows_of(dv.data, TN_DTYPE_F32, wide), 1, 0, s.m, wide, s.l);
        input_backward(tape, node, &s, dz.data);
        tn_scratch_give(tape, &dz);
    }
    tn_scratch_give(tape, &dv);
}

static void forward(const tn_kernels *k, const sizes *s, tn_var *y, const tn_var *x, const tn_var *w1, const tn_var *r1,
                    const tn_var *r2, tn_var *z, tn_var *v, float scale) {
    const tn_operand first = r1 ? transpose_of(r1) : (tn_operand){0}, last = r2 ? transpose_of(r2) : (tn_operand){0};
    int64_t wide = s->t * s->p;
    multiply_blocks(k, stacked(z->data, s->t, s->p), side_by_side(x->data, s->m, s->n), r1 ? &first : NULL, 1, false, s->m,
                    s->t, s->p, s->n);
    k->gemm(v->data, wide, rows_of(w1), rows_of(z), 1, 0, s->l, wide, s->m);
    multiply_blocks(k, side_by_side(y->data, s->l, s->k), stacked(v->data, s->t, s->p), r2 ? &last : NULL, scale, true, s->l,
                    s->t, s->k, s->p);
}

static bool needs_grad(const tn_var *var) {
    return var && var->needs_grad;
}

void tn_op_kronecker(tn_tape *tape, tn_var *y, tn_var *x, tn_var *w1, tn_var *r1, tn_var *r2, float scale) {
    const sizes s = sizes_of(x->rows, x->cols, y->cols, w1, r1);
    tn_op_begin(tape, "kronecker");
    y->needs_grad = y->needs_grad || x->needs_grad || w1->needs_grad || needs_grad(r1) || needs_grad(r2);
    tn_var *z = tn_var_new(tape, s.m, s.t * s.p, false), *v = tn_var_new(tape, s.l, s.t * s.p, false);
    tape->flops += flops_of(&s, r1, r2);
    if (tn_tape_live(tape))
        forward(tape->kernels, &s, y, x, w1, r1, r2, z, v, scale);
    kronecker_node *node = tn_node_new(tape, sizeof *node, kronecker_backward, y);
    if (node) {
        node->x = needs_grad(r1) ? tn_node_save(&node->node, x) : x;
        node->w1 = tn_node_save(&node->node, w1);
        node->r1 = r1 ? tn_node_save(&node->node, r1) : NULL;
        node->r2 = r2 ? tn_node_save(&node->node, r2) : NULL;
        node->z = w1->needs_grad ? tn_node_save(&node->node, z) : NULL;
        node->v = needs_grad(r2) ? tn_node_save(&node->node, v) : NULL;
        node->scale = scale;
    }
    tn_drop(tape, v);
    tn_drop(tape, z);
    tn_op_end(tape);
}
