/* Attention in blocks of queries and keys (FlashAttention, Dao et al. 2022), compiled once per instruction set.
 *
 * Forward, per (span, head, block of queries): S = scale q k^T by blocks of keys, a running maximum and sum of each query,
 * and out = P v rescaled whenever the maximum grows. Backward: P = exp(S - lse) again, dv += P^T dout,
 * dS = P * (dout v^T - rowsum(dout * out)), dq = scale dS k, dk += scale dS^T q. Blocks of scores live on the stack, a row
 * for each key: so a vector holds queries side by side, and every product reads its wide operands in place. */
#include <float.h>

#include "kernel/cpu/simd.h"

enum {
    QUERIES = 64, /* of one block */
    KEYS = 256,
    PIECE = 128, /* of the backward pass, and whose gradients one task owns when keys are shared out */
    ROW_KEYS = 128,
    FEW_QUERIES = 4 /* up to so many, rows are taken one by one, straight through the keys: decoding */
};

/* One head of one span: pointers to its first query or key; `q_stride` is the row stride of q, out, dout and dq. */
typedef struct {
    const float *q, *k, *v;
    int64_t q_stride, kv_stride, head_size, q_rows, kv_rows, window;
    float scale;
} view;

static view view_of(const float *q, const float *k, const float *v, const tn_span *span, const tn_attention_shape *shape,
                    int64_t head) {
    int64_t d = shape->head_size, q_stride = shape->heads * d, kv_stride = shape->kv_heads * d;
    int64_t kv_at = span->kv_start * kv_stride + head / (shape->heads / shape->kv_heads) * d;
    return (view){.q = q + span->q_start * q_stride + head * d,
                  .k = k + kv_at,
                  .v = v + kv_at,
                  .q_stride = q_stride,
                  .kv_stride = kv_stride,
                  .head_size = d,
                  .q_rows = span->q_rows,
                  .kv_rows = span->kv_rows,
                  .window = shape->window,
                  .scale = shape->scale};
}

/* Query i sees keys [first_key, end_key). */
static int64_t end_key(const view *at, int64_t i) {
    return at->kv_rows - at->q_rows + i + 1;
}

static int64_t first_key(const view *at, int64_t i) {
    return at->window > 0 ? tn_max_i64(end_key(at, i) - at->window, 0) : 0;
}

/* Queries [first, end) against keys [key, key_end); `width` is their number in whole vectors. */
typedef struct {
    int64_t first, end, key, key_end, width;
} block;

static block block_of(int64_t first, int64_t end, int64_t key, int64_t key_end) {
    int64_t rows = end - first;
    return (block){first, end, key, key_end, (rows + TN_LANES - 1) / TN_LANES * TN_LANES};
}

/* The queries of the block, counted from its first, that see its j-th key. */
static void visible(const view *at, const block *b, int64_t j, int64_t *from, int64_t *to) {
    int64_t newest = b->key + j - (at->kv_rows - at->q_rows); /* the first query that stands on the key or behind it */
    int64_t last = at->window > 0 ? tn_min_i64(newest + at->window, b->end) : b->end;
    *from = tn_min_i64(tn_max_i64(newest - b->first, 0), b->end - b->first);
    *to = tn_max_i64(last - b->first, *from);
}

/* s[j] is the row of key j, of which queries that do not see it get `value`. */
static void set_masked(float *s, const view *at, const block *b, float value) {
    for (int64_t j = 0; j < b->key_end - b->key; j++) {
        int64_t from, to;
        visible(at, b, j, &from, &to);
        for (int64_t i = 0; i < from; i++)
            s[j * QUERIES + i] = value;
        for (int64_t i = to; i < b->width; i++)
            s[j * QUERIES + i] = value;
    }
}

/* s = factor * keys rows^T for the block: keys (k or v) by rows of s, queries (q or dout) by columns. */
static void block_product(float *s, const view *at, const block *b, const float *keys, const float *queries, float factor) {
    TN_SERIAL_GEMM(s, QUERIES, tn_rows_of(keys + b->key * at->kv_stride, TN_DTYPE_F32, at->kv_stride),
                   tn_transpose_of(queries + b->first * at->q_stride, TN_DTYPE_F32, at->q_stride), factor, 0,
                   b->key_end - b->key, b->end - b->first, at->head_size);
}

/* max = the largest of its queries' scores so far. */
static void raise_maxima(float *max, const float *s, const block *b) {
    for (int64_t c = 0; c < b->width; c += TN_LANES) {
        tn_vec most = tn_load(max + c);
        for (int64_t j = 0; j < b->key_end - b->key; j++)
            most = tn_vec_max(tn_load(s + j * QUERIES + c), most);
        memcpy(max + c, &most, sizeof most);
    }
}

/* s = exp(s - max), and sum += the sums over the keys. */
static void exponentials(float *s, const float *max, float *sum, const block *b) {
    const int64_t width = b->width;
    for (int64_t j = 0; j < b->key_end - b->key; j++) {
        float *row = s + j * QUERIES;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) {
            row[i] = tn_exp(row[i] - max[i]);
            sum[i] += row[i];
        }
    }
}

static void attend_block(float *out, float *lse, int64_t lse_stride, const view *at, int64_t first, int64_t end) {
    _Alignas(64) float s[QUERIES * KEYS];
    float max[QUERIES], old[QUERIES], sum[QUERIES];
    int64_t last = end_key(at, end - 1), start = first_key(at, first), rows = end - first;
    for (int64_t i = 0; i < QUERIES; i++) {
        max[i] = -FLT_MAX; /* finite, for queries that see nothing of the first keys */
        sum[i] = 0;
    }
    for (int64_t key = start; key < last; key += KEYS) {
        block b = block_of(first, end, key, tn_min_i64(key + KEYS, last));
        block_product(s, at, &b, at->k, at->q, at->scale);
        set_masked(s, at, &b, -INFINITY);
        memcpy(old, max, sizeof old);
        raise_maxima(max, s, &b);
        for (int64_t i = 0; i < rows && key > start; i++) {
            float correction = tn_exp(old[i] - max[i]);
            sum[i] *= correction;
            if (correction != 1)
                tn_scale_in_place(out + (first + i) * at->q_stride, correction, at->head_size);
        }
        exponentials(s, max, sum, &b);
        TN_SERIAL_GEMM(out + first * at->q_stride, at->q_stride, tn_transpose_of(s, TN_DTYPE_F32, QUERIES),
                       tn_rows_of(at->v + key * at->kv_stride, TN_DTYPE_F32, at->kv_stride), 1, key > start, rows,
                       at->head_size, b.key_end - key);
    }
    for (int64_t i = 0; i < rows; i++) {
        tn_scale_in_place(out + (first + i) * at->q_stride, 1 / sum[i], at->head_size);
        if (lse)
            lse[(first + i) * lse_stride] = max[i] + logf(sum[i]);
    }
}

/* scores[j] = scale * q k_j. Four keys at a time, so that the sums over lanes overlap. */
static inline void row_scores(float *scores, const float *q, const float *k, const view *at, int64_t d, int64_t count) {
    const int64_t stride = at->kv_stride, whole = d - d % TN_LANES;
    int64_t j = 0;
    for (; j + 4 <= count; j += 4, k += 4 * stride) {
        const float *k1 = k + stride, *k2 = k1 + stride, *k3 = k2 + stride;
        tn_vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        for (int64_t c = 0; c < whole; c += TN_LANES) {
            tn_vec part = tn_load(q + c);
            s0 = tn_vec_muladd(part, tn_load(k + c), s0);
            s1 = tn_vec_muladd(part, tn_load(k1 + c), s1);
            s2 = tn_vec_muladd(part, tn_load(k2 + c), s2);
            s3 = tn_vec_muladd(part, tn_load(k3 + c), s3);
        }
        float sums[4];
        tn_sum_lanes_of_four(sums, s0, s1, s2, s3);
        for (int row = 0; row < 4; row++) {
            for (int64_t c = whole; c < d; c++)
                sums[row] = tn_muladd(q[c], k[row * stride + c], sums[row]);
            scores[j + row] = at->scale * sums[row];
        }
    }
    for (; j < count; j++, k += stride)
        scores[j] = at->scale * tn_dot(q, k, d);
}

/* out += sum over j of p[j] v_j. */
static inline void add_values(float *restrict out, const float *p, const float *restrict v, const view *at, int64_t d,
                              int64_t count) {
    const int64_t stride = at->kv_stride;
    int64_t j = 0;
    for (; j + 4 <= count; j += 4, v += 4 * stride) {
        const float *v1 = v + stride, *v2 = v1 + stride, *v3 = v2 + stride;
#pragma omp simd
        for (int64_t c = 0; c < d; c++) {
            float low = tn_muladd(p[j + 1], v1[c], p[j] * v[c]), high = tn_muladd(p[j + 3], v3[c], p[j + 2] * v2[c]);
            out[c] += low + high;
        }
    }
    for (; j < count; j++, v += stride) {
#pragma omp simd
        for (int64_t c = 0; c < d; c++)
            out[c] = tn_muladd(p[j], v[c], out[c]);
    }
}

/* A row on its way through the keys: out = sum over the keys so far of exp(s - max) v, sum that of exp(s - max). */
typedef struct {
    float *out, max, sum;
} partial;

static void begin_row(partial *row, float *out, int64_t d) {
    *row = (partial){out, -INFINITY, 0};
    memset(out, 0, (size_t)d * sizeof *out);
}

/* Keys [key, end), ROW_KEYS at most. */
static inline void attend_keys_of_size(partial *row, const float *q, const view *at, int64_t d, int64_t key, int64_t end) {
    float scores[ROW_KEYS], before = row->max;
    row_scores(scores, q, at->k + key * at->kv_stride, at, d, end - key);
    float here = tn_max_of(scores, end - key);
    row->max = here > before ? here : before;
    float correction = row->sum > 0 ? tn_exp(before - row->max) : 0;
    row->sum = row->sum * correction + tn_exp_in_place(scores, row->max, end - key);
    if (correction != 0 && correction != 1)
        tn_scale_in_place(row->out, correction, d);
    add_values(row->out, scores, at->v + key * at->kv_stride, at, d, end - key);
}

/* The usual head sizes as constants, which the compiler unrolls. */
static void attend_keys(partial *row, const float *q, const view *at, int64_t key, int64_t end) {
    switch (at->head_size) {
    case 64: attend_keys_of_size(row, q, at, 64, key, end); break;
    case 128: attend_keys_of_size(row, q, at, 128, key, end); break;
    default: attend_keys_of_size(row, q, at, at->head_size, key, end); break;
    }
}

static void end_row(const partial *row, float *lse, int64_t d) {
    tn_scale_in_place(row->out, 1 / row->sum, d);
    if (lse)
        *lse = row->max + logf(row->sum);
}

static void attend_row(float *out, float *lse, const view *at, int64_t i) {
    partial row;
    int64_t end = end_key(at, i);
    begin_row(&row, out, at->head_size);
    for (int64_t key = first_key(at, i); key < end; key += ROW_KEYS)
        attend_keys(&row, at->q + i * at->q_stride, at, key, tn_min_i64(key + ROW_KEYS, end));
    end_row(&row, lse, at->head_size);
}

/* Continues this file: needs what stands above, serves tn_attention_forward below. */
#include "kernel/cpu/attention_decode.h"

/* Of all spans: the largest q_rows and kv_rows, and an estimate of the work. */
typedef struct {
    int64_t q_rows, kv_rows;
    double largest, total;
} extent;

static extent measure(const tn_span *spans, int64_t span_count) {
    extent e = {0};
    for (int64_t i = 0; i < span_count; i++) {
        double work = (double)spans[i].q_rows * (double)spans[i].kv_rows;
        e.q_rows = tn_max_i64(e.q_rows, spans[i].q_rows);
        e.kv_rows = tn_max_i64(e.kv_rows, spans[i].kv_rows);
        e.largest = work > e.largest ? work : e.largest;
        e.total += work;
    }
    return e;
}

static inline bool worth_threads(const extent *e, const tn_attention_shape *shape) {
    return e->total * (double)(shape->heads * shape->head_size) >= TN_SERIAL_BELOW && tn_worth_threads(TN_SERIAL_BELOW);
}

static int64_t blocks_in(int64_t rows, int64_t block_rows) {
    return (rows + block_rows - 1) / block_rows;
}

void TN_FOR_ISA(tn_attention_forward_, )(float *out, float *lse, const float *q, const float *k, const float *v,
                                         const tn_span *spans, int64_t span_count, const tn_attention_shape *shape) {
    const extent e = measure(spans, span_count);
    const int64_t blocks = blocks_in(e.q_rows, QUERIES), heads = shape->heads;
    int64_t decoded = 0;
    decoding job;
    for (int64_t index = 0; index < span_count; index++) {
        if (cut_keys(&job, &spans[index], shape)) {
            decode(&job, out, lse, q, k, v);
            decoded++;
        }
    }
    if (decoded == span_count)
        return;
        /* the last queries see the most keys: they go first, so that no thread is left with one at the end */
#pragma omp parallel for collapse(3) schedule(dynamic) if (worth_threads(&e, shape))
    for (int64_t index = 0; index < span_count; index++) {
        for (int64_t head = 0; head < heads; head++) {
            for (int64_t later = 0; later < blocks; later++) {
                const tn_span *span = &spans[index];
                int64_t first = (blocks - 1 - later) * QUERIES, end = tn_min_i64(first + QUERIES, span->q_rows);
                decoding done;
                if (first >= end || cut_keys(&done, span, shape))
                    continue;
                view at = view_of(q, k, v, span, shape, head);
                float *to = out + span->q_start * at.q_stride + head * at.head_size;
                float *row_lse = lse ? lse + span->q_start * heads + head : NULL;
                if (span->q_rows > FEW_QUERIES) {
                    attend_block(to, row_lse, heads, &at, first, end);
                    continue;
                }
                for (int64_t i = first; i < end; i++)
                    attend_row(to + i * at.q_stride, row_lse ? row_lse + i * heads : NULL, &at, i);
            }
        }
    }
}

/* A head of a span in the backward pass; pointers as in its view. What is NULL among dq and dk with dv is not wanted. */
typedef struct {
    view at;
    const float *dout, *out, *lse;
    int64_t lse_stride;
    float *dq, *dk, *dv;
} backward;

typedef struct {
    const float *dout, *out, *lse, *q, *k, *v;
    float *dq, *dk, *dv;
    const tn_attention_shape *shape;
} arguments;

static backward backward_of(const arguments *args, const tn_span *span, int64_t head) {
    view at = view_of(args->q, args->k, args->v, span, args->shape, head);
    int64_t q_at = at.q - args->q, kv_at = at.k - args->k, heads = args->shape->heads;
    return (backward){.at = at,
                      .dout = args->dout + q_at,
                      .out = args->out + q_at,
                      .lse = args->lse + span->q_start * heads + head,
                      .lse_stride = heads,
                      .dq = args->dq + q_at,
                      .dk = args->dk + kv_at,
                      .dv = args->dv + kv_at};
}

/* p = exp(s - lse), 0 where masked. */
static void probabilities(float *p, const float *lse, const view *at, const block *b) {
    const int64_t width = b->width;
    block_product(p, at, b, at->k, at->q, at->scale);
    for (int64_t j = 0; j < b->key_end - b->key; j++) {
        float *row = p + j * QUERIES;
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            row[i] = tn_exp(row[i] - lse[i]);
    }
    set_masked(p, at, b, 0);
}

/* ds = p * (v dout^T - delta). */
static void score_gradients(float *ds, const float *p, const float *delta, const backward *back, const block *b) {
    const int64_t width = b->width;
    block_product(ds, &back->at, b, back->at.v, back->dout, 1);
    for (int64_t j = 0; j < b->key_end - b->key; j++) {
        float *row = ds + j * QUERIES;
        const float *p_row = p + j * QUERIES;
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            row[i] = p_row[i] * (row[i] - delta[i]);
    }
}

/* Gradients of queries [first, end) from all they see among keys [low, high): dq is set, dk and dv are added to. */
static void backward_block(const backward *back, int64_t first, int64_t end, int64_t low, int64_t high) {
    _Alignas(64) float p[QUERIES * PIECE], ds[QUERIES * PIECE];
    const view *at = &back->at;
    float delta[QUERIES] = {0}, lse[QUERIES] = {0};
    int64_t start = tn_max_i64(low, first_key(at, first)), last = tn_min_i64(high, end_key(at, end - 1));
    int64_t rows = end - first, q_at = first * at->q_stride;
    for (int64_t i = 0; i < rows && start < last; i++) {
        delta[i] = tn_dot(back->dout + q_at + i * at->q_stride, back->out + q_at + i * at->q_stride, at->head_size);
        lse[i] = back->lse[(first + i) * back->lse_stride];
    }
    for (int64_t key = start; key < last; key += PIECE) {
        block b = block_of(first, end, key, tn_min_i64(key + PIECE, last));
        int64_t count = b.key_end - key, kv_at = key * at->kv_stride;
        probabilities(p, lse, at, &b);
        score_gradients(ds, p, delta, back, &b);
        if (back->dq)
            TN_SERIAL_GEMM(back->dq + q_at, at->q_stride, tn_transpose_of(ds, TN_DTYPE_F32, QUERIES),
                           tn_rows_of(at->k + kv_at, TN_DTYPE_F32, at->kv_stride), at->scale, key > start, rows,
                           at->head_size, count);
        if (!back->dk)
            continue;
        TN_SERIAL_GEMM(back->dk + kv_at, at->kv_stride, tn_rows_of(ds, TN_DTYPE_F32, QUERIES),
                       tn_rows_of(at->q + q_at, TN_DTYPE_F32, at->q_stride), at->scale, 1, count, at->head_size, rows);
        TN_SERIAL_GEMM(back->dv + kv_at, at->kv_stride, tn_rows_of(p, TN_DTYPE_F32, QUERIES),
                       tn_rows_of(back->dout + q_at, TN_DTYPE_F32, at->q_stride), 1, 1, count, at->head_size, rows);
    }
}

/* Everything that keys [low, high) of one key head get from its query heads, in order; `with_queries` also sets dq. */
static void backward_keys(const arguments *args, const tn_span *span, int64_t kv_head, int64_t low, int64_t high,
                          bool with_queries) {
    int64_t group = args->shape->heads / args->shape->kv_heads;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        backward back = backward_of(args, span, head);
        if (!with_queries)
            back.dq = NULL;
        for (int64_t first = 0; first < span->q_rows; first += QUERIES)
            backward_block(&back, first, tn_min_i64(first + QUERIES, span->q_rows), low, high);
    }
}

static void backward_queries(const arguments *args, const tn_span *span, int64_t head, int64_t first) {
    backward back = backward_of(args, span, head);
    back.dk = back.dv = NULL;
    if (first < span->q_rows)
        backward_block(&back, first, tn_min_i64(first + QUERIES, span->q_rows), 0, span->kv_rows);
}

void TN_FOR_ISA(tn_attention_backward_, )(float *dq, float *dk, float *dv, const float *dout, const float *out,
                                          const float *lse, const float *q, const float *k, const float *v,
                                          const tn_span *spans, int64_t span_count, const tn_attention_shape *shape) {
    const arguments args = {dout, out, lse, q, k, v, dq, dk, dv, shape};
    const extent e = measure(spans, span_count);
    const int64_t kv_heads = shape->kv_heads, heads = shape->heads;
    const double tasks = e.total / e.largest * (double)kv_heads;
    if (tasks >= 6 || (shape->window == 0 && tasks >= tn_threads())) {
#pragma omp parallel for collapse(2) schedule(dynamic) if (worth_threads(&e, shape))
        for (int64_t index = 0; index < span_count; index++)
            for (int64_t head = 0; head < kv_heads; head++)
                backward_keys(&args, &spans[index], head, 0, spans[index].kv_rows, true);
        return;
    }
    /* Few tasks, or one of them most of the work: share out the keys, then the queries. Each key's and each query's sums are
     * of the same blocks in the same order, unless a window cuts them differently: then the choice is that of the shape. */
    const int64_t pieces = blocks_in(e.kv_rows, PIECE), blocks = blocks_in(e.q_rows, QUERIES);
#pragma omp parallel for collapse(3) schedule(dynamic) if (worth_threads(&e, shape))
    for (int64_t index = 0; index < span_count; index++)
        for (int64_t head = 0; head < kv_heads; head++)
            for (int64_t piece = 0; piece < pieces; piece++)
                backward_keys(&args, &spans[index], head, piece * PIECE,
                              tn_min_i64((piece + 1) * PIECE, spans[index].kv_rows), false);
#pragma omp parallel for collapse(3) schedule(dynamic) if (worth_threads(&e, shape))
    for (int64_t index = 0; index < span_count; index++)
        for (int64_t head = 0; head < heads; head++)
            for (int64_t later = 0; later < blocks; later++)
                backward_queries(&args, &spans[index], head, (blocks - 1 - later) * QUERIES);
}
