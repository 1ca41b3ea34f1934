/* With c_i = weight_i * scaling_i, tasks t_i and factors f_i (PEFT's lora/model.py and utils/merge_utils.py):
 *   linear            sum of f_i t_i
 *   magnitude_prune   the same of tasks with only their int(density * n) largest entries
 *   dare_linear       the same of tasks with random entries kept, divided by density (arXiv 2311.03099)
 *   ties              magnitude-pruned; per entry a sign is elected, and the f_i t_i of that sign are averaged (arXiv
 * 2306.01708) dare_ties         ties of randomly pruned tasks The plain forms take the A's as tasks with f_i = sign(c_i)
 * sqrt|c_i| and the B's with f_i = sqrt|c_i|, so that products hold cross terms. The _svd forms take the updates scaling_i
 * B_i A_i with f_i = weight_i and truncate the result. cat and svd work on the sum of c_i B_i A_i itself. In PEFT svd and
 * the _svd forms multiply by the scaling twice, once in c_i and once in the update; here it counts once, so that svd at full
 * rank is the exact weighted sum. */
#include "peft/compose.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/rng.h"
#include "kernel/kernel.h"

static const struct {
    const char *name;
    tn_compose_method method;
    bool on_updates;
} modes[] = {
    {"linear", TN_COMPOSE_LINEAR, false},
    {"cat", TN_COMPOSE_CAT, false},
    {"svd", TN_COMPOSE_SVD, false},
    {"ties", TN_COMPOSE_TIES, false},
    {"dare_linear", TN_COMPOSE_DARE_LINEAR, false},
    {"dare_ties", TN_COMPOSE_DARE_TIES, false},
    {"magnitude_prune", TN_COMPOSE_MAGNITUDE_PRUNE, false},
    {"ties_svd", TN_COMPOSE_TIES, true},
    {"dare_linear_svd", TN_COMPOSE_DARE_LINEAR, true},
    {"dare_ties_svd", TN_COMPOSE_DARE_TIES, true},
    {"magnitude_prune_svd", TN_COMPOSE_MAGNITUDE_PRUNE, true},
};

tn_status tn_compose_mode_parse(const char *mode, tn_compose_rule *rule) {
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(mode, modes[i].name) == 0) {
            rule->method = modes[i].method;
            rule->on_updates = modes[i].on_updates;
            return TN_OK;
        }
    return tn_fail(TN_ERROR_ARGUMENT,
                   "mode '%.100s' is not one of linear, cat, svd, ties, dare_linear, dare_ties, magnitude_prune, ties_svd, "
                   "dare_linear_svd, dare_ties_svd, magnitude_prune_svd",
                   mode);
}

bool tn_compose_truncates(const tn_compose_rule *rule) {
    return rule->on_updates || rule->method == TN_COMPOSE_SVD;
}

bool tn_compose_prunes(const tn_compose_rule *rule) {
    return rule->method >= TN_COMPOSE_TIES;
}

bool tn_compose_elects(const tn_compose_rule *rule) {
    return rule->method == TN_COMPOSE_TIES || rule->method == TN_COMPOSE_DARE_TIES;
}

static bool prunes_at_random(const tn_compose_rule *rule) {
    return rule->method == TN_COMPOSE_DARE_LINEAR || rule->method == TN_COMPOSE_DARE_TIES;
}

static uint32_t magnitude_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffff; /* in the order of the magnitudes */
}

/* Clears all but the `keep` entries of largest magnitude, the first of equals. The smallest kept magnitude is found digit by
 * digit of its bits. */
static void prune_by_magnitude(float *x, int64_t count, int64_t keep) {
    enum { DIGITS = 1 << 8 };
    uint32_t prefix = 0;
    int64_t left = keep;
    if (keep >= count)
        return;
    for (int shift = 24; shift >= 0 && keep; shift -= 8) {
        int64_t counts[DIGITS] = {0};
        for (int64_t i = 0; i < count; i++) {
            uint64_t bits = magnitude_bits(x[i]);
            counts[bits >> shift & (DIGITS - 1)] += bits >> (shift + 8) == (uint64_t)prefix;
        }
        uint32_t digit = DIGITS - 1;
        while (counts[digit] < left)
            left -= counts[digit--];
        prefix = prefix << 8 | digit;
    }
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = magnitude_bits(x[i]);
        bool kept = keep && (bits > prefix || (bits == prefix && left-- > 0));
        x[i] = kept ? x[i] : 0;
    }
}

static void draw_mask(const tn_compose_rule *rule, const char *module, const char *part, size_t adapter, uint8_t *keep,
                      int64_t count) {
    uint64_t hash = tn_hash(TN_HASH_START, module, strlen(module) + 1);
    hash = tn_hash(tn_hash(hash, part, strlen(part) + 1), &(uint8_t){(uint8_t)adapter}, 1);
    tn_rng rng = tn_rng_start(rule->seed, tn_stream(TN_STREAM_PRUNE, (uint32_t)(hash ^ hash >> 32)));
    for (int64_t i = 0; i < count; i++)
        keep[i] = (double)tn_rng_u32(&rng) * 0x1p-32 < rule->density;
}

static tn_status prune_at_random(const tn_compose_rule *rule, const char *module, const char *part, size_t adapter, float *x,
                                 int64_t count) {
    uint8_t *keep = tn_malloc((size_t)count);
    tn_status status = keep ? TN_OK : tn_fail_memory("the masks of pruning");
    if (status == TN_OK && rule->mask)
        status = rule->mask(rule->cookie, module, part, adapter, keep, count);
    else if (status == TN_OK)
        draw_mask(rule, module, part, adapter, keep, count);
    for (int64_t i = 0; i < count && status == TN_OK; i++)
        x[i] = keep[i] ? (float)(x[i] / rule->density) : 0;
    tn_free(keep);
    return status;
}

/* out[i] = mean of factors[t] tasks[t][i] over the tasks with the elected sign, which is plus on a draw. */
static void merge_elected(float *out, float *const *tasks, const double *factors, size_t task_count, bool by_frequency,
                          int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        double votes = 0, sum = 0;
        int agreeing = 0;
        for (size_t t = 0; t < task_count; t++)
            votes += by_frequency ? (tasks[t][i] > 0) - (tasks[t][i] < 0) : tasks[t][i];
        for (size_t t = 0; t < task_count; t++)
            if (votes >= 0 ? tasks[t][i] > 0 : tasks[t][i] < 0) {
                sum += factors[t] * tasks[t][i];
                agreeing++;
            }
        out[i] = (float)(agreeing ? sum / agreeing : 0);
    }
}

/* Combines tasks[t] [count], which are changed, into out [count]. */
static tn_status combine(const tn_compose_rule *rule, const char *module, const char *part, float *const *tasks,
                         const double *factors, const size_t *adapters, size_t task_count, int64_t count, float *out) {
    for (size_t t = 0; t < task_count && tn_compose_prunes(rule); t++) {
        if (prunes_at_random(rule))
            TN_TRY(prune_at_random(rule, module, part, adapters[t], tasks[t], count));
        else
            prune_by_magnitude(tasks[t], count, (int64_t)(rule->density * (double)count));
    }
    if (tn_compose_elects(rule)) {
        merge_elected(out, tasks, factors, task_count, rule->by_frequency, count);
        return TN_OK;
    }
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (size_t t = 0; t < task_count; t++)
            sum += factors[t] * tasks[t][i];
        out[i] = (float)sum;
    }
    return TN_OK;
}

static tn_status new_tasks(tn_arena *arena, size_t task_count, int64_t count, float ***tasks) {
    *tasks = tn_arena_array(arena, task_count, sizeof **tasks);
    for (size_t t = 0; t < task_count && *tasks; t++)
        if (!((*tasks)[t] = tn_arena_array(arena, (size_t)count, sizeof(float))))
            *tasks = NULL;
    return *tasks ? TN_OK : tn_fail_memory("the updates of the adapters");
}

static tn_status check_equal_ranks(const char *module, const tn_factors *terms, size_t count) {
    for (size_t t = 1; t < count; t++)
        if (terms[t].rank != terms[0].rank)
            return tn_fail(TN_ERROR_MISMATCH,
                           "'%s' has rank %lld in one adapter and %lld in another, and this mode combines the factors on "
                           "their own, which needs equal ranks; use svd, cat or a mode that ends in _svd, or bring the "
                           "adapters to one rank with tenon resize",
                           module, (long long)terms[0].rank, (long long)terms[t].rank);
    return TN_OK;
}

static tn_status combine_factors(const tn_compose_rule *rule, const char *module, const tn_factors *terms,
                                 const double *weights, const size_t *adapters, size_t count, tn_arena *arena,
                                 tn_factors *out) {
    int64_t rank = terms->rank, a_count = rank * terms->in, b_count = rank * terms->out;
    tn_arena scratch = {0};
    float **a_tasks, **b_tasks, *a = tn_arena_array(arena, (size_t)a_count, sizeof *a),
                                *b = tn_arena_array(arena, (size_t)b_count, sizeof *b);
    double *a_factors = tn_arena_array(&scratch, count, sizeof *a_factors),
           *b_factors = tn_arena_array(&scratch, count, sizeof *b_factors);
    tn_status status;
    TN_TRY_GOTO(check_equal_ranks(module, terms, count));
    TN_TRY_GOTO(new_tasks(&scratch, count, a_count, &a_tasks));
    TN_TRY_GOTO(new_tasks(&scratch, count, b_count, &b_tasks));
    if (!a || !b || !a_factors || !b_factors) {
        status = tn_fail_memory("the combined factors");
        goto fail;
    }
    for (size_t t = 0; t < count; t++) {
        double c = weights[t] * terms[t].scale;
        memcpy(a_tasks[t], terms[t].a, (size_t)a_count * sizeof *a);
        memcpy(b_tasks[t], terms[t].b, (size_t)b_count * sizeof *b);
        b_factors[t] = sqrt(fabs(c));
        a_factors[t] = copysign(b_factors[t], c);
    }
    TN_TRY_GOTO(combine(rule, module, "lora_A", a_tasks, a_factors, adapters, count, a_count, a));
    TN_TRY_GOTO(combine(rule, module, "lora_B", b_tasks, b_factors, adapters, count, b_count, b));
    *out = (tn_factors){.out = terms->out, .in = terms->in, .rank = rank, .scale = 1, .a = a, .b = b};
fail:
    tn_arena_free(&scratch);
    return status;
}

/* A = [c_i A_i] below each other, B = [B_i] side by side. */
static tn_status concatenate(const tn_factors *terms, const double *weights, size_t count, tn_arena *arena,
                             tn_factors *out) {
    int64_t rows = terms->out, cols = terms->in, rank = 0, first = 0;
    for (size_t t = 0; t < count; t++)
        rank += terms[t].rank;
    float *a = tn_arena_array(arena, (size_t)(rank * cols), sizeof *a);
    float *b = tn_arena_array(arena, (size_t)(rows * rank), sizeof *b);
    if (!a || !b)
        return tn_fail_memory("the combined factors");
    for (size_t t = 0; t < count; t++) {
        const tn_factors *f = &terms[t];
        double c = weights[t] * f->scale;
        for (int64_t i = 0; i < f->rank * cols; i++)
            a[first * cols + i] = (float)(c * f->a[i]);
        for (int64_t i = 0; i < rows; i++)
            memcpy(b + i * rank + first, f->b + i * f->rank, (size_t)f->rank * sizeof *b);
        first += f->rank;
    }
    *out = (tn_factors){.out = rows, .in = cols, .rank = rank, .scale = 1, .a = a, .b = b};
    return TN_OK;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Cuts the entries of A and B at plus and minus the quantile q of all of them taken with both signs. PEFT's svd_clamp takes
 * them with the sign that they happen to have, which an SVD leaves free; this one does not depend on it. Between two entries
 * the quantile is linear. */
static tn_status clamp_factors(tn_factors *f, double q) {
    int64_t a_count = f->rank * f->in, b_count = f->rank * f->out, n = a_count + b_count;
    float *all = tn_malloc((size_t)n * 2 * sizeof *all), *const factors[] = {(float *)(uintptr_t)f->a,
                                                                             (float *)(uintptr_t)f->b};
    if (!all)
        return tn_fail_memory("the entries of the factors");
    memcpy(all, f->a, (size_t)a_count * sizeof *all);
    memcpy(all + a_count, f->b, (size_t)b_count * sizeof *all);
    for (int64_t i = 0; i < n; i++)
        all[n + i] = -all[i];
    qsort(all, (size_t)n * 2, sizeof *all, by_value);
    double at = q * (double)(2 * n - 1);
    int64_t below = (int64_t)at, above = below + 1 < 2 * n ? below + 1 : below;
    float most = (float)(all[below] + (at - (double)below) * ((double)all[above] - all[below]));
    tn_free(all);
    for (int side = 0; side < 2; side++)
        for (int64_t i = 0; i < (side ? b_count : a_count); i++)
            factors[side][i] = fminf(fmaxf(factors[side][i], -most), most);
    return TN_OK;
}

/* The updates as matrices, combined into one [O, C] and truncated. */
static tn_status combine_updates(const tn_compose_rule *rule, const char *module, const tn_factors *terms,
                                 const double *weights, const size_t *adapters, size_t count, int64_t rank, tn_arena *arena,
                                 tn_low_rank *out) {
    const tn_kernels *kernels = tn_kernels_cpu();
    int64_t rows = terms->out, cols = terms->in, entries;
    tn_arena scratch = {0};
    float **tasks, *merged = NULL;
    tn_status status;
    if (!tn_mul_i64(rows, cols, &entries))
        return tn_fail(TN_ERROR_ARGUMENT, "'%s': a matrix of %lld x %lld is too large", module, (long long)rows,
                       (long long)cols);
    TN_TRY_GOTO(new_tasks(&scratch, count, entries, &tasks));
    for (size_t t = 0; t < count; t++)
        kernels->gemm(tasks[t], cols, tn_rows_of(terms[t].b, TN_DTYPE_F32, terms[t].rank),
                      tn_rows_of(terms[t].a, TN_DTYPE_F32, cols), (float)terms[t].scale, 0, rows, cols, terms[t].rank);
    merged = tn_arena_array(&scratch, (size_t)entries, sizeof *merged);
    if (!merged) {
        status = tn_fail_memory("the combined update");
        goto fail;
    }
    TN_TRY_GOTO(combine(rule, module, "delta", tasks, weights, adapters, count, entries, merged));
    TN_TRY_GOTO(tn_low_rank_of_dense(merged, rows, cols, (tn_rank_choice){.rank = rank}, rule->seed, arena, out));
fail:
    tn_arena_free(&scratch);
    return status;
}

tn_status tn_compose_module(const tn_compose_rule *rule, const char *module, const tn_factors *terms, const double *weights,
                            const size_t *adapters, size_t count, tn_arena *arena, tn_factors *out) {
    tn_low_rank low_rank;
    int64_t rank = rule->rank;
    if (rule->method == TN_COMPOSE_CAT)
        return concatenate(terms, weights, count, arena, out);
    if (!tn_compose_truncates(rule))
        return combine_factors(rule, module, terms, weights, adapters, count, arena, out);
    for (size_t t = 0; t < count && !rule->rank; t++)
        rank = terms[t].rank > rank ? terms[t].rank : rank;
    if (rule->on_updates)
        TN_TRY(combine_updates(rule, module, terms, weights, adapters, count, rank, arena, &low_rank));
    else
        TN_TRY(tn_low_rank_of_sum(terms, weights, count, (tn_rank_choice){.rank = rank}, arena, &low_rank));
    *out = low_rank.factors;
    return rule->clamp > 0 ? clamp_factors(out, rule->clamp) : TN_OK;
}
