/* y += s x D^T,  D = (A1 B1) * (A2 B2) by elements.  A1 [O, P], B1 [P, C], A2 [O, Q], B2 [Q, C], x [T, C], y [T, O].
 * With G = dy^T x and H = s G * (A2 B2):  dA1 += H B1^T,  dB1 += A1^T H,  dA2 and dB2 likewise,  dx += s dy D.
 *
 * D has rank P Q: D = U V, U[o, pQ + q] = A1[o, p] A2[o, q], V[pQ + q, c] = B1[p, c] B2[q, c]. Where P Q (O + C) <= O C,
 * x V^T U^T takes the fewer multiplications, and D is never formed; else it is, a block of rows at a time. */
#include "grad/ops.h"

enum { BLOCK_ROWS = 128 }; /* of D; each costs a pass over x, and three blocks are held at once */

typedef struct {
    tn_node node;
    tn_var *x, *u; /* u = x V^T [T, PQ]; NULL where D is formed */
    tn_hadamard_factors f;
    float scale;
} hadamard_node;

typedef struct {
    int64_t out, in, p, q; /* O, C, P, Q */
} sizes;

static sizes sizes_of(const tn_hadamard_factors *f) {
    return (sizes){f->a1->tensor.shape[0], f->b1->tensor.shape[1], f->b1->tensor.shape[0], f->b2->tensor.shape[0]};
}

static bool is_thin(const sizes *s) {
    return (double)(s->p * s->q) * (double)(s->out + s->in) <= (double)s->out * (double)s->in;
}

static bool trains_a(const tn_hadamard_factors *f) {
    return f->a1->trainable || f->a2->trainable;
}

static bool trains_b(const tn_hadamard_factors *f) {
    return f->b1->trainable || f->b2->trainable;
}

/* --- D by blocks of rows --- */

/* Rows [first, first + rows) of A B. */
static void product_rows(const tn_kernels *k, float *out, const tn_weight *a, const tn_weight *b, int64_t first,
                         int64_t rows) {
    int64_t rank = b->tensor.shape[0], cols = b->tensor.shape[1];
    k->gemm(out, cols, tn_rows_of((const float *)a->tensor.data + first * rank, TN_DTYPE_F32, rank), tn_weight_rows(b), 1, 0,
            rows, cols, rank);
}

void tn_hadamard_rows(const tn_kernels *kernels, float *d, float *scratch, const tn_hadamard_factors *f, int64_t first,
                      int64_t rows) {
    product_rows(kernels, d, f->a1, f->b1, first, rows);
    product_rows(kernels, scratch, f->a2, f->b2, first, rows);
    kernels->multiply(d, false, d, scratch, rows * f->b1->tensor.shape[1]);
}

/* dA[first..] += s H B^T,  dB += s A[first..]^T H  for rows H of the gradient of A B. */
static void product_backward(const tn_kernels *k, const tn_weight *a, const tn_weight *b, const float *h, float scale,
                             int64_t first, int64_t rows) {
    int64_t rank = b->tensor.shape[0], cols = b->tensor.shape[1];
    const float *a_rows = (const float *)a->tensor.data + first * rank;
    if (a->trainable)
        k->gemm(a->grad + first * rank, rank, tn_rows_of(h, TN_DTYPE_F32, cols), tn_weight_transpose(b), scale, 1, rows,
                rank, cols);
    if (b->trainable)
        k->gemm(b->grad, cols, tn_transpose_of(a_rows, TN_DTYPE_F32, rank), tn_rows_of(h, TN_DTYPE_F32, cols), scale, 1,
                rank, cols, rows);
}

/* Rows G of the gradient of s D to those of the factors; p1 and p2 hold the rows of both products and are used up. */
static void rows_backward(const tn_kernels *k, const tn_hadamard_factors *f, const float *g, float *p1, float *p2,
                          float scale, int64_t first, int64_t rows) {
    int64_t count = rows * f->b1->tensor.shape[1];
    k->multiply(p2, false, p2, g, count);
    product_backward(k, f->a1, f->b1, p2, scale, first, rows);
    k->multiply(p1, false, p1, g, count);
    product_backward(k, f->a2, f->b2, p1, scale, first, rows);
}

static int64_t block_rows(const sizes *s) {
    return s->out < BLOCK_ROWS ? s->out : BLOCK_ROWS;
}

static void formed_forward(tn_tape *tape, tn_var *y, const tn_var *x, const tn_hadamard_factors *f, float scale) {
    const sizes s = sizes_of(f);
    int64_t block = block_rows(&s);
    tn_block d = tn_scratch_take(tape, block * s.in), other = tn_scratch_take(tape, block * s.in);
    tape->flops += 2.0 * (double)(x->rows + s.p + s.q) * (double)s.out * (double)s.in;
    for (int64_t first = 0; first < s.out && tn_tape_live(tape); first += block) {
        int64_t rows = s.out - first < block ? s.out - first : block;
        tn_hadamard_rows(tape->kernels, d.data, other.data, f, first, rows);
        tape->kernels->gemm(y->data + first, s.out, tn_rows_of(x->data, TN_DTYPE_F32, s.in),
                            tn_transpose_of(d.data, TN_DTYPE_F32, s.in), scale, 1, x->rows, rows, s.in);
    }
    tn_scratch_give(tape, &other);
    tn_scratch_give(tape, &d);
}

static void formed_block_backward(const tn_kernels *k, const hadamard_node *node, float *dx, bool accumulate, float *g,
                                  float *p1, float *p2, int64_t first, int64_t rows) {
    const tn_hadamard_factors *f = &node->f;
    const sizes s = sizes_of(f);
    const tn_var *x = node->x;
    const float *dy = tn_grad_in(&node->node) + first;
    product_rows(k, p1, f->a1, f->b1, first, rows);
    product_rows(k, p2, f->a2, f->b2, first, rows);
    if (dx) {
        k->multiply(g, false, p1, p2, rows * s.in);
        k->gemm(dx, s.in, tn_rows_of(dy, TN_DTYPE_F32, s.out), tn_rows_of(g, TN_DTYPE_F32, s.in), node->scale, accumulate,
                x->rows, s.in, rows);
    }
    if (!trains_a(f) && !trains_b(f))
        return;
    k->gemm(g, s.in, tn_transpose_of(dy, TN_DTYPE_F32, s.out), tn_rows_of(x->data, TN_DTYPE_F32, s.in), 1, 0, rows, s.in,
            x->rows);
    rows_backward(k, f, g, p1, p2, node->scale, first, rows);
}

static void formed_backward(tn_tape *tape, const hadamard_node *node) {
    const sizes s = sizes_of(&node->f);
    tn_var *x = node->x;
    bool trains = trains_a(&node->f) || trains_b(&node->f), accumulate = false;
    int64_t block = block_rows(&s);
    float *dx = tn_grad_of(tape, x, &accumulate);
    tn_block g = tn_scratch_take(tape, block * s.in), p1 = tn_scratch_take(tape, block * s.in);
    tn_block p2 = tn_scratch_take(tape, block * s.in);
    tape->flops +=
        2.0 * (double)((trains + x->needs_grad) * x->rows + (1 + 2 * trains) * (s.p + s.q)) * (double)s.out * (double)s.in;
    for (int64_t first = 0; first < s.out && tn_tape_live(tape); first += block)
        formed_block_backward(tape->kernels, node, dx, accumulate || first > 0, g.data, p1.data, p2.data, first,
                              s.out - first < block ? s.out - first : block);
    tn_scratch_give(tape, &p2);
    tn_scratch_give(tape, &p1);
    tn_scratch_give(tape, &g);
}

/* --- D = U V --- */

static void form_u(float *u, const tn_hadamard_factors *f) {
    const sizes s = sizes_of(f);
    const float *a1 = f->a1->tensor.data, *a2 = f->a2->tensor.data;
    for (int64_t o = 0; o < s.out; o++)
        for (int64_t p = 0; p < s.p; p++)
            for (int64_t q = 0; q < s.q; q++)
                u[(o * s.p + p) * s.q + q] = a1[o * s.p + p] * a2[o * s.q + q];
}

static void form_v(const tn_kernels *k, float *v, const tn_hadamard_factors *f) {
    const sizes s = sizes_of(f);
    for (int64_t p = 0; p < s.p; p++)
        k->scale_columns(v + p * s.q * s.in, false, f->b2->tensor.data, (const float *)f->b1->tensor.data + p * s.in, s.q,
                         s.in);
}

static void u_backward(const tn_hadamard_factors *f, const float *du) {
    const sizes s = sizes_of(f);
    const float *a1 = f->a1->tensor.data, *a2 = f->a2->tensor.data;
    for (int64_t o = 0; o < s.out; o++) {
        for (int64_t p = 0; p < s.p; p++) {
            const float *d = du + (o * s.p + p) * s.q;
            for (int64_t q = 0; q < s.q && f->a1->trainable; q++)
                f->a1->grad[o * s.p + p] += d[q] * a2[o * s.q + q];
            for (int64_t q = 0; q < s.q && f->a2->trainable; q++)
                f->a2->grad[o * s.q + q] += d[q] * a1[o * s.p + p];
        }
    }
}

static void v_backward(const tn_kernels *k, const tn_hadamard_factors *f, const float *dv) {
    const sizes s = sizes_of(f);
    const float *b1 = f->b1->tensor.data, *b2 = f->b2->tensor.data;
    for (int64_t p = 0; p < s.p; p++) {
        const float *d = dv + p * s.q * s.in;
        if (f->b1->trainable)
            k->sum_products(f->b1->grad + p * s.in, d, b2, s.q, s.in);
        if (f->b2->trainable)
            k->scale_columns(f->b2->grad, true, d, b1 + p * s.in, s.q, s.in);
    }
}

static tn_var *thin_forward(tn_tape *tape, tn_var *y, const tn_var *x, const tn_hadamard_factors *f, float scale) {
    const sizes s = sizes_of(f);
    const tn_kernels *k = tape->kernels;
    int64_t rank = s.p * s.q;
    tn_var *z = tn_var_new(tape, x->rows, rank, false);
    tn_block u = tn_scratch_take(tape, s.out * rank), v = tn_scratch_take(tape, rank * s.in);
    tape->flops += 2.0 * (double)x->rows * (double)rank * (double)(s.out + s.in);
    if (tn_tape_live(tape)) {
        form_u(u.data, f);
        form_v(k, v.data, f);
        k->gemm(z->data, rank, tn_rows_of(x->data, TN_DTYPE_F32, s.in), tn_transpose_of(v.data, TN_DTYPE_F32, s.in), 1, 0,
                x->rows, rank, s.in);
        k->gemm(y->data, s.out, tn_rows_of(z->data, TN_DTYPE_F32, rank), tn_transpose_of(u.data, TN_DTYPE_F32, rank), scale,
                1, x->rows, s.out, rank);
    }
    tn_scratch_give(tape, &v);
    tn_scratch_give(tape, &u);
    return z;
}

static void thin_a_backward(tn_tape *tape, const hadamard_node *node) {
    const sizes s = sizes_of(&node->f);
    int64_t rows = node->x->rows, rank = s.p * s.q;
    tn_block du = tn_scratch_take(tape, s.out * rank);
    tape->flops += 2.0 * (double)rows * (double)rank * (double)s.out;
    if (tn_tape_live(tape)) {
        tape->kernels->gemm(du.data, rank, tn_transpose_of(tn_grad_in(&node->node), TN_DTYPE_F32, s.out),
                            tn_rows_of(node->u->data, TN_DTYPE_F32, rank), node->scale, 0, s.out, rank, rows);
        u_backward(&node->f, du.data);
    }
    tn_scratch_give(tape, &du);
}

/* Of B1, B2 and x, which follow from dz = s dy U. */
static void thin_b_backward(tn_tape *tape, const hadamard_node *node) {
    const tn_hadamard_factors *f = &node->f;
    const sizes s = sizes_of(f);
    const tn_kernels *k = tape->kernels;
    tn_var *x = node->x;
    int64_t rows = x->rows, rank = s.p * s.q;
    bool accumulate = false;
    float *dx = tn_grad_of(tape, x, &accumulate);
    tn_block dz = tn_scratch_take(tape, rows * rank), u = tn_scratch_take(tape, s.out * rank);
    tn_block v = tn_scratch_take(tape, rank * s.in); /* dV, then V */
    tape->flops += 2.0 * (double)rows * (double)rank * (double)(s.out + (trains_b(f) + x->needs_grad) * s.in);
    if (tn_tape_live(tape)) {
        form_u(u.data, f);
        k->gemm(dz.data, rank, tn_rows_of(tn_grad_in(&node->node), TN_DTYPE_F32, s.out),
                tn_rows_of(u.data, TN_DTYPE_F32, rank), node->scale, 0, rows, rank, s.out);
    }
    if (trains_b(f) && tn_tape_live(tape)) {
        k->gemm(v.data, s.in, tn_transpose_of(dz.data, TN_DTYPE_F32, rank), tn_rows_of(x->data, TN_DTYPE_F32, s.in), 1, 0,
                rank, s.in, rows);
        v_backward(k, f, v.data);
    }
    if (dx && tn_tape_live(tape)) {
        form_v(k, v.data, f);
        k->gemm(dx, s.in, tn_rows_of(dz.data, TN_DTYPE_F32, rank), tn_rows_of(v.data, TN_DTYPE_F32, s.in), 1, accumulate,
                rows, s.in, rank);
    }
    tn_scratch_give(tape, &v);
    tn_scratch_give(tape, &u);
    tn_scratch_give(tape, &dz);
}

static void hadamard_backward(tn_tape *tape, tn_node *base) {
    hadamard_node *node = (hadamard_node *)base;
    const sizes s = sizes_of(&node->f);
    if (!is_thin(&s)) {
        formed_backward(tape, node);
        return;
    }
    if (trains_a(&node->f))
        thin_a_backward(tape, node);
    if (trains_b(&node->f) || node->x->needs_grad)
        thin_b_backward(tape, node);
}

void tn_op_hadamard_low_rank(tn_tape *tape, tn_var *y, tn_var *x, const tn_hadamard_factors *factors, float scale) {
    const sizes s = sizes_of(factors);
    bool trains = trains_a(factors) || trains_b(factors);
    tn_var *u = NULL;
    tn_op_begin(tape, "hadamard low rank");
    y->needs_grad = y->needs_grad || x->needs_grad || trains;
    if (is_thin(&s))
        u = thin_forward(tape, y, x, factors, scale);
    else
        formed_forward(tape, y, x, factors, scale);
    hadamard_node *node = tn_node_new(tape, sizeof *node, hadamard_backward, y);
    if (node) {
        bool needs_x = is_thin(&s) ? trains_b(factors) : trains;
        node->x = needs_x ? tn_node_save(&node->node, x) : x;
        node->u = u && trains_a(factors) ? tn_node_save(&node->node, u) : NULL;
        node->f = *factors;
        node->scale = scale;
    }
    tn_drop(tape, u);
    tn_op_end(tape);
}
