/* Truncated SVD of sums of low-rank updates: with B' = [w_i s_i B_i] = Q_b R_b and A'^T = [A_i^T] = Q_a R_a,
 *   sum_i w_i s_i B_i A_i = Q_b (R_b R_a^T) Q_a^T,
 * so the SVD U S V^T of the small R_b R_a^T gives Q_b U, S and V^T Q_a^T. */
#include "peft/low_rank.h"

#include <math.h>
#include <string.h>

#include "kernel/kernel.h"
#include "tensor/linalg.h"

enum {
    SMALL = 256,     /* matrices with a side up to this are decomposed in full */
    OVERSAMPLE = 16, /* components drawn beyond those wanted: they make the wanted ones accurate */
    POWER_STEPS = 4,
    FIRST_GUESS = 64, /* components, when the energy decides */
};

static float *new_floats(tn_arena *arena, int64_t rows, int64_t cols) {
    int64_t count;
    return tn_mul_i64(rows, cols, &count) ? tn_arena_array(arena, (size_t)count, sizeof(float)) : NULL;
}

static int64_t total_rank(const tn_factors *terms, size_t count) {
    int64_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += terms[i].rank;
    return total;
}

/* The number of components that `choice` means, of `available` ones with singular values s; `total` is ||W||_F^2. */
static int64_t choose_rank(const float *s, int64_t available, tn_rank_choice choice, double total) {
    if (choice.rank)
        return choice.rank < available ? choice.rank : available;
    double kept = 0;
    int64_t rank = 0;
    while (rank < available && (rank == 0 || kept < choice.energy * total)) {
        kept += (double)s[rank] * s[rank];
        rank++;
    }
    return rank;
}

/* From u [rows, k], s [k], vt [k, cols], of which `rank` are kept. */
static tn_status keep_components(const float *u, const float *s, const float *vt, int64_t rows, int64_t cols, int64_t k,
                                 int64_t rank, tn_arena *arena, tn_factors *out) {
    float *b = new_floats(arena, rows, rank), *a = new_floats(arena, rank, cols);
    if (!a || !b)
        return tn_fail_memory("the factors of an update");
    for (int64_t i = 0; i < rows; i++)
        for (int64_t r = 0; r < rank; r++)
            b[i * rank + r] = u[i * k + r] * s[r];
    memcpy(a, vt, (size_t)(rank * cols) * sizeof *a);
    *out = (tn_factors){.out = rows, .in = cols, .rank = rank, .scale = 1, .a = a, .b = b};
    return TN_OK;
}

/* bs [O, K] with weights and scales in it, at [C, K]. */
static void stack(float *bs, float *at, const tn_factors *terms, const double *weights, size_t count, int64_t total) {
    int64_t first = 0;
    for (size_t t = 0; t < count; t++) {
        const tn_factors *f = &terms[t];
        float factor = (float)(weights[t] * f->scale);
        for (int64_t i = 0; i < f->out; i++)
            for (int64_t r = 0; r < f->rank; r++)
                bs[i * total + first + r] = factor * f->b[i * f->rank + r];
        for (int64_t r = 0; r < f->rank; r++)
            for (int64_t j = 0; j < f->in; j++)
                at[j * total + first + r] = f->a[r * f->in + j];
        first += f->rank;
    }
}

static double sum_squares(const float *s, int64_t from, int64_t to) {
    double sum = 0;
    for (int64_t i = from; i < to; i++)
        sum += (double)s[i] * s[i];
    return sum;
}

tn_status tn_low_rank_of_sum(const tn_factors *terms, const double *weights, size_t count, tn_rank_choice choice,
                             tn_arena *arena, tn_low_rank *out) {
    const tn_kernels *kernels = tn_kernels_cpu();
    int64_t rows = terms->out, cols = terms->in, total = total_rank(terms, count);
    int64_t kb = rows < total ? rows : total, ka = cols < total ? cols : total, k = ka < kb ? ka : kb;
    tn_arena scratch = {0};
    tn_status status;
    float *bs = new_floats(&scratch, rows, total), *at = new_floats(&scratch, cols, total);
    float *qb = new_floats(&scratch, rows, kb), *rb = new_floats(&scratch, kb, total);
    float *qa = new_floats(&scratch, cols, ka), *ra = new_floats(&scratch, ka, total);
    float *core = new_floats(&scratch, kb, ka), *s = new_floats(&scratch, k, 1);
    float *u = new_floats(&scratch, kb, k), *vt = new_floats(&scratch, k, ka);
    if (!bs || !at || !qb || !rb || !qa || !ra || !core || !s || !u || !vt) {
        status = tn_fail_memory("the decomposition of an update");
        goto fail;
    }
    stack(bs, at, terms, weights, count, total);
    TN_TRY_GOTO(tn_qr(bs, rows, total, qb, rb));
    TN_TRY_GOTO(tn_qr(at, cols, total, qa, ra));
    kernels->gemm(core, ka, tn_rows_of(rb, TN_DTYPE_F32, total), tn_transpose_of(ra, TN_DTYPE_F32, total), 1, 0, kb, ka,
                  total);
    TN_TRY_GOTO(tn_svd(core, kb, ka, u, s, vt));
    out->total = sum_squares(s, 0, k);
    int64_t rank = choose_rank(s, k, choice, out->total);
    out->dropped = sum_squares(s, rank, k);
    float *b = new_floats(arena, rows, rank), *a = new_floats(arena, rank, cols);
    if (!a || !b) {
        status = tn_fail_memory("the factors of an update");
        goto fail;
    }
    for (int64_t i = 0; i < kb; i++)
        for (int64_t r = 0; r < rank; r++)
            u[i * k + r] *= s[r];
    kernels->gemm(b, rank, tn_rows_of(qb, TN_DTYPE_F32, kb), tn_rows_of(u, TN_DTYPE_F32, k), 1, 0, rows, rank, kb);
    kernels->gemm(a, cols, tn_rows_of(vt, TN_DTYPE_F32, ka), tn_transpose_of(qa, TN_DTYPE_F32, ka), 1, 0, rank, cols, ka);
    out->factors = (tn_factors){.out = rows, .in = cols, .rank = rank, .scale = 1, .a = a, .b = b};
fail:
    tn_arena_free(&scratch);
    return status;
}

typedef struct {
    const float *w;
    int64_t rows, cols, most; /* most: components that w can have */
    double total;
} dense;

/* Decomposes with k components, all of them when k is `most`, and keeps what the choice asks for. *met is false when more
 * than k are needed for its energy. */
static tn_status decompose(const dense *d, int64_t k, tn_rank_choice choice, uint64_t seed, tn_arena *arena,
                           tn_low_rank *out, bool *met) {
    tn_arena scratch = {0};
    tn_status status;
    float *u = new_floats(&scratch, d->rows, k), *s = new_floats(&scratch, k, 1), *vt = new_floats(&scratch, k, d->cols);
    if (!u || !s || !vt) {
        status = tn_fail_memory("a singular value decomposition");
        goto fail;
    }
    if (k == d->most)
        TN_TRY_GOTO(tn_svd(d->w, d->rows, d->cols, u, s, vt));
    else
        TN_TRY_GOTO(tn_svd_randomised(d->w, d->rows, d->cols, k, POWER_STEPS, seed, u, s, vt));
    double total = k == d->most ? sum_squares(s, 0, k) : d->total;
    int64_t usable = k == d->most ? k : k - OVERSAMPLE, rank = choose_rank(s, usable, choice, total);
    double kept = sum_squares(s, 0, rank);
    *met = k == d->most || choice.rank || kept >= choice.energy * total;
    if (*met) {
        out->total = total;
        out->dropped = k == d->most ? sum_squares(s, rank, k) : fmax(0, total - kept);
        TN_TRY_GOTO(keep_components(u, s, vt, d->rows, d->cols, k, rank, arena, &out->factors));
    }
fail:
    tn_arena_free(&scratch);
    return status;
}

tn_status tn_low_rank_of_dense(const float *w, int64_t rows, int64_t cols, tn_rank_choice choice, uint64_t seed,
                               tn_arena *arena, tn_low_rank *out) {
    dense d = {.w = w, .rows = rows, .cols = cols, .most = rows < cols ? rows : cols};
    d.total = tn_kernels_cpu()->sum_squares(w, rows * cols);
    int64_t k = choice.rank ? choice.rank : FIRST_GUESS;
    for (bool met = false; !met; k *= 2) {
        /* beyond a quarter of all components the full decomposition costs no more */
        bool full = d.most <= SMALL || k > d.most / 4;
        TN_TRY(decompose(&d, full ? d.most : k + OVERSAMPLE, choice, seed, arena, out, &met));
    }
    return TN_OK;
}

/* Adds X X^T to g [K, K] for positions [from, to) of the stacked rows: of A's columns, or of B's rows with the weights. */
static void add_gram(double *g, double *piece, const tn_factors *terms, const double *weights, size_t count, bool of_a,
                     int64_t from, int64_t to) {
    int64_t width = to - from, row = 0;
    for (size_t t = 0; t < count; t++) {
        const tn_factors *f = &terms[t];
        double factor = of_a ? 1 : weights[t] * f->scale;
        for (int64_t r = 0; r < f->rank; r++, row++)
            for (int64_t i = 0; i < width; i++)
                piece[row * width + i] =
                    factor * (double)(of_a ? f->a[r * f->in + from + i] : f->b[(from + i) * f->rank + r]);
    }
    tn_gram_add(g, piece, row, width);
}

tn_status tn_factors_norm(const tn_factors *terms, const double *weights, size_t count, double *out, double *terms_norm) {
    enum { PIECE = 256 };
    int64_t k = total_rank(terms, count);
    double *ga = tn_calloc((size_t)(k * k), sizeof *ga), *gb = tn_calloc((size_t)(k * k), sizeof *gb);
    double *piece = tn_calloc((size_t)k * PIECE, sizeof *piece), sum = 0, magnitude = 0;
    tn_status status = ga && gb && piece ? TN_OK : tn_fail_memory("the norm of an update");
    for (int64_t at = 0; at < terms->in && status == TN_OK; at += PIECE)
        add_gram(ga, piece, terms, weights, count, true, at, at + PIECE < terms->in ? at + PIECE : terms->in);
    for (int64_t at = 0; at < terms->out && status == TN_OK; at += PIECE)
        add_gram(gb, piece, terms, weights, count, false, at, at + PIECE < terms->out ? at + PIECE : terms->out);
    for (int64_t i = 0; i < k && status == TN_OK; i++)
        for (int64_t j = 0; j <= i; j++) {
            double product = (i == j ? 1 : 2) * ga[i * k + j] * gb[i * k + j];
            sum += product;
            magnitude += fabs(product);
        }
    *out = sqrt(fmax(0, sum)); /* cancellation may leave a negative rest */
    if (terms_norm)
        *terms_norm = sqrt(magnitude);
    tn_free(piece);
    tn_free(gb);
    tn_free(ga);
    return status;
}
