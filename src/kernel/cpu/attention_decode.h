/* One query over many keys, as in decoding: the keys are cut into pieces, each of which is read once and in order for all
 * heads, and the pieces' results are joined in order. How many there are depends on the shape alone. */
#ifndef TN_KERNEL_CPU_ATTENTION_DECODE_H
#define TN_KERNEL_CPU_ATTENTION_DECODE_H

enum {
    DECODE_KEYS = 64, /* that all heads take before the next */
    PARTIALS = 32768, /* floats of the pieces' results */
    LEAST_SIZE = 8    /* of a head */
};

typedef struct {
    const tn_span *span;
    const tn_attention_shape *shape;
    int64_t first, piece, pieces;
} decoding;

/* False when there are too few keys, or heads too large for the results of two pieces (or too small to matter). */
static bool cut_keys(decoding *job, const tn_span *span, const tn_attention_shape *shape) {
    *job = (decoding){.span = span, .shape = shape};
    job->first = shape->window > 0 ? tn_max_i64(span->kv_rows - shape->window, 0) : 0;
    int64_t keys = span->kv_rows - job->first, most = PARTIALS / (shape->heads * (shape->head_size + 2));
    if (span->q_rows != 1 || keys < 2 * DECODE_KEYS || most < 2 || shape->head_size < LEAST_SIZE)
        return false;
    job->piece = tn_max_i64(DECODE_KEYS, (keys + most - 1) / most);
    job->pieces = (keys + job->piece - 1) / job->piece;
    return true;
}

/* Asks for part `index` of `parts` of keys [from, to) and their values: heads walk them in strides, which processors do not
 * foresee. */
static void foresee_keys(const decoding *job, const float *k, const float *v, int64_t from, int64_t to, int64_t index,
                         int64_t parts) {
    const int64_t row = job->shape->kv_heads * job->shape->head_size, line = 64 / (int64_t)sizeof(float);
    const int64_t first = (job->span->kv_start + from) * row, lines = ((to - from) * row + line - 1) / line;
    for (int64_t i = lines * index / parts; i < lines * (index + 1) / parts; i++) {
        __builtin_prefetch(k + first + i * line);
        __builtin_prefetch(v + first + i * line);
    }
}

static void attend_piece(const decoding *job, partial *rows, const float *q, const float *k, const float *v, int64_t index) {
    int64_t heads = job->shape->heads, from = job->first + index * job->piece;
    int64_t to = tn_min_i64(from + job->piece, job->span->kv_rows);
    foresee_keys(job, k, v, from, tn_min_i64(from + DECODE_KEYS, to), 0, 1);
    for (int64_t key = from; key < to; key += DECODE_KEYS) {
        int64_t end = tn_min_i64(key + DECODE_KEYS, to), next = tn_min_i64(end + DECODE_KEYS, job->span->kv_rows);
        for (int64_t head = 0; head < heads; head++) {
            view at = view_of(q, k, v, job->span, job->shape, head);
            foresee_keys(job, k, v, end, next, head, heads);
            attend_keys(&rows[head], at.q, &at, key, end);
        }
    }
}

/* out = the sum of the pieces' outputs, each scaled to the largest maximum. */
static void join_pieces(float *out, float *lse, const partial *rows, int64_t pieces, int64_t heads, int64_t d) {
    partial whole;
    begin_row(&whole, out, d);
    for (int64_t piece = 0; piece < pieces; piece++)
        whole.max = rows[piece * heads].max > whole.max ? rows[piece * heads].max : whole.max;
    for (int64_t piece = 0; piece < pieces; piece++) {
        const partial *row = &rows[piece * heads];
        float factor = tn_exp(row->max - whole.max);
        whole.sum += row->sum * factor;
#pragma omp simd
        for (int64_t c = 0; c < d; c++)
            out[c] = tn_muladd(factor, row->out[c], out[c]);
    }
    end_row(&whole, lse, d);
}

static void decode(const decoding *job, float *out, float *lse, const float *q, const float *k, const float *v) {
    float outs[PARTIALS];
    partial rows[PARTIALS / (LEAST_SIZE + 2)];
    const int64_t heads = job->shape->heads, d = job->shape->head_size, q_at = job->span->q_start * heads;
    const bool parallel = tn_worth_threads(job->pieces * job->piece * heads * d);
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t piece = 0; piece < job->pieces; piece++) {
        for (int64_t head = 0; head < heads; head++)
            begin_row(&rows[piece * heads + head], outs + (piece * heads + head) * d, d);
        attend_piece(job, rows + piece * heads, q, k, v, piece);
    }
    for (int64_t head = 0; head < heads; head++)
        join_pieces(out + (q_at + head) * d, lse ? lse + q_at + head : NULL, rows + head, job->pieces, heads, d);
}

#endif
