/* o = softmax(s q k^T + mask) v by heads, causal inside each sequence; the backward pass forms the probabilities again from
 * the log-sum-exp of each row (Dao et al. 2022). q, o [T, H*D]; k, v [T, K*D]; lse [T, H]. */
#include "grad/ops.h"

typedef struct {
    tn_node node;
    tn_var *q, *k, *v, *lse;
    tn_kept kept_q, kept_k, kept_v, kept_out;
    const tn_span *spans;
    int64_t span_count;
    tn_attention_shape shape;
} attention_node;

/* Multiply-adds of one product over the visible (query, key) pairs, over all heads. */
static double product_flops(const tn_span *spans, int64_t span_count, const tn_attention_shape *shape) {
    double pairs = 0;
    for (int64_t i = 0; i < span_count; i++) {
        double queries = (double)spans[i].q_rows, keys = (double)spans[i].kv_rows, window = (double)shape->window;
        double visible = queries * (keys - queries) + queries * (queries + 1) / 2;
        if (shape->window > 0 && visible > queries * window)
            visible = queries * window;
        pairs += visible;
    }
    return 2.0 * pairs * (double)shape->heads * (double)shape->head_size;
}

static void attention_backward(tn_tape *tape, tn_node *base) {
    attention_node *node = (attention_node *)base;
    bool accumulate;
    /* q, k and v were made for this op alone, so their gradients start here */
    float *dq = tn_grad_of(tape, node->q, &accumulate);
    float *dk = tn_grad_of(tape, node->k, &accumulate);
    float *dv = tn_grad_of(tape, node->v, &accumulate);
    tape->flops += 5 * product_flops(node->spans, node->span_count, &node->shape);
    tn_block spare_q = {0}, spare_k = {0}, spare_v = {0}, wide[4] = {{0}};
    const float *q = tn_kept_floats(tape, &node->kept_q, &wide[0]), *k = tn_kept_floats(tape, &node->kept_k, &wide[1]);
    const float *v = tn_kept_floats(tape, &node->kept_v, &wide[2]), *out = tn_kept_floats(tape, &node->kept_out, &wide[3]);
    if (!dq && !node->q->needs_grad)
        spare_q = tn_scratch_take(tape, node->q->rows * node->q->cols);
    if (!dk && !node->k->needs_grad)
        spare_k = tn_scratch_take(tape, node->k->rows * node->k->cols);
    if (!dv && !node->v->needs_grad)
        spare_v = tn_scratch_take(tape, node->v->rows * node->v->cols);
    if (tn_tape_live(tape)) {
        const tn_kernels *kernels = tape->kernels;
        dq = dq ? dq : spare_q.data;
        dk = dk ? dk : spare_k.data;
        dv = dv ? dv : spare_v.data;
        kernels->fill(dk, 0, node->k->rows * node->k->cols);
        kernels->fill(dv, 0, node->v->rows * node->v->cols);
        kernels->attention_backward(dq, dk, dv, tn_grad_in(base), out, node->lse->data, q, k, v, node->spans,
                                    node->span_count, &node->shape);
    }
    for (int i = 0; i < 4; i++)
        tn_scratch_give(tape, &wide[i]);
    tn_scratch_give(tape, &spare_v);
    tn_scratch_give(tape, &spare_k);
    tn_scratch_give(tape, &spare_q);
}

tn_var *tn_op_attention(tn_tape *tape, tn_var *q, tn_var *k, tn_var *v, const tn_span *spans, int64_t span_count,
                        const tn_attention_shape *shape) {
    tn_op_begin(tape, "attention");
    tn_var *out = tn_var_new(tape, q->rows, q->cols, q->needs_grad || k->needs_grad || v->needs_grad);
    tn_var *lse = tn_var_new(tape, q->rows, shape->heads, false);
    tape->flops += 2 * product_flops(spans, span_count, shape);
    if (tn_tape_live(tape))
        tape->kernels->attention_forward(out->data, lse->data, q->data, k->data, v->data, spans, span_count, shape);
    attention_node *node = tn_node_new(tape, sizeof *node, attention_backward, out);
    if (node) {
        node->q = q;
        node->k = k;
        node->v = v;
        node->kept_q = tn_node_keep(tape, &node->node, q);
        node->kept_k = tn_node_keep(tape, &node->node, k);
        node->kept_v = tn_node_keep(tape, &node->node, v);
        node->lse = tn_node_save(&node->node, lse);
        node->kept_out = tn_node_keep(tape, &node->node, out);
        node->spans = spans;
        node->span_count = span_count;
        node->shape = *shape;
    }
    tn_drop(tape, lse);
    tn_op_end(tape);
    return out;
}

tn_var *tn_op_attention_cached(tn_tape *tape, tn_var *q, const float *k, const float *v, const tn_span *spans,
                               int64_t span_count, const tn_attention_shape *shape) {
    tn_op_begin(tape, "attention");
    tn_var *out = tn_var_new(tape, q->rows, q->cols, false);
    tape->flops += 2 * product_flops(spans, span_count, shape);
    if (tn_tape_live(tape))
        tape->kernels->attention_forward(out->data, NULL, q->data, k, v, spans, span_count, shape);
    tn_op_end(tape);
    return out;
}
