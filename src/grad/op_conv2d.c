/* y = W x + b as a product of matrices: with the window at each output position unrolled into a column of U,
 * y_g = W_g U_g,  dU_g = W_g^T dy_g,  dW_g += dy_g U_g^T  for each group g of channels;  dx from dU, each element added
 * where it was read,  db += sum dy.  x [N, C * H * W], W [O, C/G * kh * kw], y [N, O * OH * OW], U [C * kh * kw, N * OH *
 * OW]. U exists in pieces of a bounded number of positions. A 1 x 1 kernel that reads each position once has U = x. W may
 * be a value of the tape, [O, C/G * kh * kw]. */
#include "grad/ops.h"

enum {
    PIECE_FLOATS = 1 << 20, /* of U and y at a time, about: what the second-level caches of a few cores hold */
    LEAST_POSITIONS = 64    /* of a piece, and of a plane to be worth a product of its own */
};

typedef struct {
    tn_node node;
    tn_var *x, *w; /* w: the value that the weight is, or NULL */
    const tn_weight *weight, *bias;
    tn_weight of_w;
    tn_conv_shape shape;
} conv2d_node;

/* A convolution of N samples, cut into pieces. */
typedef struct {
    tn_conv_shape shape;
    int64_t span, total, piece; /* positions of a sample, of all, of a piece */
    int64_t unrolled, width;    /* rows of U, columns of W */
    bool direct;                /* U is x, and a piece is a sample */
} conv_plan;

static conv_plan make_plan(const tn_conv_shape *s, int64_t samples) {
    int64_t taps = s->kernel_height * s->kernel_width, span = tn_conv_out_height(s) * tn_conv_out_width(s);
    conv_plan p = {.shape = *s, .span = span, .total = samples * span, .unrolled = s->in_channels * taps};
    p.width = p.unrolled / s->groups;
    p.direct = taps == 1 && span == s->height * s->width && span >= LEAST_POSITIONS && s->stride_height == 1 &&
               s->stride_width == 1 && s->padding_height == 0 && s->padding_width == 0;
    p.piece = PIECE_FLOATS / (p.unrolled + s->out_channels);
    p.piece = p.piece < LEAST_POSITIONS ? LEAST_POSITIONS : p.piece - p.piece % LEAST_POSITIONS;
    if (p.piece > p.total)
        p.piece = p.total;
    if (p.direct)
        p.piece = span;
    return p;
}

/* U and y of a piece, unless they lie in x and y themselves. */
static tn_block take_pieces(tn_tape *tape, const conv_plan *p) {
    return tn_scratch_take(tape, p->direct ? 0 : (p->unrolled + p->shape.out_channels) * p->piece);
}

static int64_t piece_at(const conv_plan *p, int64_t first) {
    return p->total - first < p->piece ? p->total - first : p->piece;
}

/* U of a piece: unrolled into `scratch`, or where it lies. */
static const float *unroll(const tn_kernels *k, const conv_plan *p, float *scratch, const float *x, int64_t first,
                           int64_t count) {
    if (p->direct)
        return x + first * p->shape.in_channels;
    k->im2col(scratch, x, &p->shape, first, count);
    return scratch;
}

static tn_operand group_weight(const conv_plan *p, const tn_weight *weight, int64_t group, bool transposed) {
    const tn_tensor *t = &weight->tensor;
    const tn_operand rows =
        tn_operand_part(tn_rows_of(t->data, t->dtype, p->width), group * (p->shape.out_channels / p->shape.groups), 0);
    return transposed ? tn_operand_transposed(rows) : rows;
}

/* y [O, count] = W U. */
static void piece_forward(const tn_kernels *k, const conv_plan *p, float *y, const tn_weight *weight, const float *u,
                          int64_t count) {
    int64_t out = p->shape.out_channels / p->shape.groups;
    for (int64_t g = 0; g < p->shape.groups; g++)
        k->gemm(y + g * out * count, count, group_weight(p, weight, g, false),
                tn_rows_of(u + g * p->width * count, TN_DTYPE_F32, count), 1, 0, out, count, p->width);
}

/* dU [C * kh * kw, count] (+)= W^T dy. */
static void piece_backward_input(const tn_kernels *k, const conv_plan *p, float *du, bool accumulate,
                                 const tn_weight *weight, const float *dy, int64_t count) {
    int64_t out = p->shape.out_channels / p->shape.groups;
    for (int64_t g = 0; g < p->shape.groups; g++)
        k->gemm(du + g * p->width * count, count, group_weight(p, weight, g, true),
                tn_rows_of(dy + g * out * count, TN_DTYPE_F32, count), 1, accumulate, p->width, count, out);
}

/* dW += dy U^T. */
static void piece_backward_weight(const tn_kernels *k, const conv_plan *p, float *dweight, const float *dy, const float *u,
                                  int64_t count) {
    int64_t out = p->shape.out_channels / p->shape.groups;
    for (int64_t g = 0; g < p->shape.groups; g++)
        k->gemm(dweight + g * out * p->width, p->width, tn_rows_of(dy + g * out * count, TN_DTYPE_F32, count),
                tn_transpose_of(u + g * p->width * count, TN_DTYPE_F32, count), 1, 1, out, p->width, count);
}

static double product_flops(const conv_plan *p) {
    return 2.0 * (double)p->total * (double)p->shape.out_channels * (double)p->width;
}

static void backward_pieces(tn_tape *tape, const conv_plan *p, const conv2d_node *node, float *dx, bool accumulate,
                            float *scratch) {
    const tn_kernels *k = tape->kernels;
    const float *dy = tn_grad_in(&node->node);
    const tn_weight *w = node->weight;
    int64_t in = p->shape.in_channels, out = p->shape.out_channels;
    if (dx && !p->direct && !accumulate)
        k->fill(dx, 0, node->x->rows * node->x->cols);
    for (int64_t first = 0; first < p->total; first += p->piece) {
        int64_t count = piece_at(p, first);
        const float *dy_piece = dy + first * out;
        if (!p->direct) {
            float *taken = scratch + p->unrolled * count;
            k->take_positions(taken, dy, out, p->span, first, count);
            dy_piece = taken;
        }
        if (w->trainable)
            piece_backward_weight(k, p, w->grad, dy_piece, unroll(k, p, scratch, node->x->data, first, count), count);
        if (dx)
            piece_backward_input(k, p, p->direct ? dx + first * in : scratch, p->direct && accumulate, w, dy_piece, count);
        if (dx && !p->direct)
            k->col2im(dx, scratch, &p->shape, first, count);
    }
}

static void bias_backward(tn_tape *tape, const conv_plan *p, const tn_weight *bias, const tn_var *y) {
    const tn_kernels *k = tape->kernels;
    tn_block wide = tn_scratch_take(tape, y->cols);
    if (tn_tape_live(tape)) {
        k->fill(wide.data, 0, y->cols);
        k->sum_rows(wide.data, y->grad.data, 1, y->rows, y->cols);
        k->sum_channels(bias->grad, wide.data, p->shape.out_channels, p->span);
    }
    tn_scratch_give(tape, &wide);
}

static tn_weight weight_of(const tn_var *w) {
    return (tn_weight){.tensor = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {w->rows, w->cols}, .data = w->data},
                       .trainable = w->needs_grad};
}

/* The gradient of a weight that is a value, to be added to. */
static void open_gradient(tn_tape *tape, conv2d_node *node) {
    bool accumulate = false;
    node->of_w.grad = tn_grad_of(tape, node->w, &accumulate);
    if (node->of_w.grad && !accumulate && tn_tape_live(tape))
        tape->kernels->fill(node->of_w.grad, 0, node->w->rows * node->w->cols);
}

static void conv2d_backward(tn_tape *tape, tn_node *base) {
    conv2d_node *node = (conv2d_node *)base;
    bool trainable = node->weight->trainable, accumulate = false;
    conv_plan p = make_plan(&node->shape, base->out->rows);
    if (node->bias && node->bias->trainable)
        bias_backward(tape, &p, node->bias, base->out);
    if (!trainable && !node->x->needs_grad)
        return;
    if (node->w)
        open_gradient(tape, node);
    float *dx = tn_grad_of(tape, node->x, &accumulate);
    tn_block pieces = take_pieces(tape, &p);
    tape->flops += (trainable + node->x->needs_grad) * product_flops(&p);
    if (tn_tape_live(tape))
        backward_pieces(tape, &p, node, dx, accumulate, pieces.data);
    tn_scratch_give(tape, &pieces);
}

static void forward_pieces(const tn_kernels *k, const conv_plan *p, float *y, const float *x, const tn_weight *weight,
                           float *scratch) {
    int64_t out = p->shape.out_channels;
    for (int64_t first = 0; first < p->total; first += p->piece) {
        int64_t count = piece_at(p, first);
        const float *u = unroll(k, p, scratch, x, first, count);
        float *y_piece = p->direct ? y + first * out : scratch + p->unrolled * count;
        piece_forward(k, p, y_piece, weight, u, count);
        if (!p->direct)
            k->put_positions(y, y_piece, out, p->span, first, count);
    }
}

/* The weight is w when that is not NULL. */
static tn_var *convolve(tn_tape *tape, tn_var *x, const tn_conv_shape *shape, const tn_weight *weight, tn_var *w,
                        const tn_weight *bias) {
    const tn_kernels *k = tape->kernels;
    conv_plan p = make_plan(shape, x->rows);
    tn_op_begin(tape, "conv2d");
    bool needs_grad = x->needs_grad || weight->trainable || (bias && bias->trainable);
    tn_var *y = tn_var_new(tape, x->rows, shape->out_channels * p.span, needs_grad);
    tn_block pieces = take_pieces(tape, &p), wide = tn_scratch_take(tape, bias ? y->cols : 0);
    tape->flops += product_flops(&p);
    if (tn_tape_live(tape))
        forward_pieces(k, &p, y->data, x->data, weight, pieces.data);
    if (bias && tn_tape_live(tape)) {
        k->spread_channels(wide.data, bias->tensor.data, shape->out_channels, p.span);
        k->add_bias(y->data, wide.data, 1, y->rows, y->cols);
    }
    tn_scratch_give(tape, &wide);
    tn_scratch_give(tape, &pieces);
    conv2d_node *node = tn_node_new(tape, sizeof *node, conv2d_backward, y);
    if (node) {
        node->x = weight->trainable ? tn_node_save(&node->node, x) : x;
        node->weight = weight;
        node->bias = bias;
        node->shape = *shape;
    }
    if (node && w) {
        node->w = tn_node_save(&node->node, w);
        node->of_w = *weight;
        node->weight = &node->of_w;
    }
    tn_op_end(tape);
    return y;
}

tn_var *tn_op_conv2d(tn_tape *tape, tn_var *x, const tn_conv_shape *shape, const tn_weight *weight, const tn_weight *bias) {
    return convolve(tape, x, shape, weight, NULL, bias);
}

tn_var *tn_op_conv2d_by(tn_tape *tape, tn_var *x, const tn_conv_shape *shape, tn_var *w) {
    const tn_weight weight = weight_of(w);
    return convolve(tape, x, shape, &weight, w, NULL);
}
