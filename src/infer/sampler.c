/* p_i = w_i / sum w,  w_i = exp((z_i - max z) / temperature), over the ids that top-k, top-p and min-p leave.
 * Those three keep a run of the most likely ids, so a heap hands these out one by one: V + n log V instead of a sort. */
#include "infer/sampler.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "kernel/kernel.h"

static tn_status check_options(const tn_generate_options *o) {
    if (!(o->temperature >= 0 && o->temperature <= 1e6))
        return tn_fail(TN_ERROR_ARGUMENT, "temperature %g is not a number from 0", o->temperature);
    if (o->top_k < 0)
        return tn_fail(TN_ERROR_ARGUMENT, "top-k %lld is below 0", (long long)o->top_k);
    if (!(o->top_p >= 0 && o->top_p <= 1))
        return tn_fail(TN_ERROR_ARGUMENT, "top-p %g is not from 0 to 1", o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return tn_fail(TN_ERROR_ARGUMENT, "min-p %g is not from 0 to 1", o->min_p);
    if (!(o->repetition_penalty > 0 && o->repetition_penalty <= 1e6))
        return tn_fail(TN_ERROR_ARGUMENT, "repetition penalty %g is not above 0", o->repetition_penalty);
    return TN_OK;
}

tn_status tn_sampler_init(tn_sampler *sampler, const tn_generate_options *options, int64_t vocab) {
    *sampler = (tn_sampler){.options = options, .vocab = vocab};
    TN_TRY(check_options(options));
    sampler->logits = tn_calloc((size_t)vocab, sizeof *sampler->logits);
    sampler->order = tn_calloc((size_t)vocab, sizeof *sampler->order);
    return sampler->logits && sampler->order ? TN_OK : tn_fail_memory("the sampler");
}

void tn_sampler_free(tn_sampler *sampler) {
    tn_free(sampler->logits);
    tn_free(sampler->order);
    *sampler = (tn_sampler){0};
}

static void penalise(float *logits, const tn_seen *seen, int64_t vocab, float penalty) {
    for (int64_t i = 0; i < vocab; i++)
        if (seen[i / 64] >> (i % 64) & 1)
            logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
}

static tn_status find_largest(const float *logits, int64_t count, int32_t *id) {
    const tn_kernels *kernels = tn_kernels_cpu();
    if (kernels->all_finite(logits, count)) {
        kernels->argmax_rows(id, logits, 1, count);
        return TN_OK;
    }
    int64_t best = 0;
    for (int64_t i = 0; i < count; i++) {
        if (isnan(logits[i]))
            return tn_fail(TN_ERROR_NUMERIC, "the logit of token %lld is not a number", (long long)i);
        if (logits[i] > logits[best])
            best = i;
    }
    if (!isfinite(logits[best]))
        return tn_fail(TN_ERROR_NUMERIC, "the largest logit, of token %lld, is not finite", (long long)best);
    *id = (int32_t)best;
    return TN_OK;
}

/* Replaces logits by weights relative to the largest; returns their sum. */
static double weigh(float *logits, int64_t count, float largest, double temperature) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        logits[i] = (float)exp(((double)logits[i] - largest) / temperature);
        sum += logits[i];
    }
    return sum;
}

static bool comes_first(const float *weights, int32_t a, int32_t b) {
    return weights[a] > weights[b] || (weights[a] == weights[b] && a < b);
}

static void sift_down(int32_t *heap, int64_t count, int64_t at, const float *weights) {
    int32_t id = heap[at];
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && comes_first(weights, heap[child + 1], heap[child]))
            child++;
        if (!comes_first(weights, heap[child], id))
            break;
        heap[at] = heap[child];
    }
    heap[at] = id;
}

/* Moves the root behind the shrinking heap, where those taken so far stand from the end in falling order. */
static int32_t take_first(int32_t *heap, int64_t *count, const float *weights) {
    int32_t id = heap[0];
    heap[0] = heap[--*count];
    heap[*count] = id;
    if (*count > 1)
        sift_down(heap, *count, 0, weights);
    return id;
}

/* Takes the k largest and all that equal the k-th; returns the sum of their weights. */
static double take_top_k(int32_t *heap, int64_t *count, const float *weights, int64_t k) {
    double sum = 0;
    float last = 0;
    for (int64_t taken = 0; *count > 0 && (taken < k || weights[heap[0]] == last); taken++)
        sum += last = weights[take_first(heap, count, weights)];
    return sum;
}

/* The sum of the weights that stay of the candidates, which are taken from the heap, most likely first. */
static double narrow(tn_sampler *s, double sum, int64_t *kept) {
    const tn_generate_options *o = s->options;
    const float *weights = s->logits;
    int64_t left = s->vocab, candidates = s->vocab;
    for (int64_t i = 0; i < s->vocab; i++)
        s->order[i] = (int32_t)i;
    for (int64_t i = s->vocab / 2 - 1; i >= 0; i--)
        sift_down(s->order, s->vocab, i, weights);
    if (o->top_k > 0 && o->top_k < s->vocab) {
        sum = take_top_k(s->order, &left, weights, o->top_k);
        candidates = s->vocab - left;
    }
    double before = 0;
    for (*kept = 0; *kept < candidates; ++*kept) {
        int64_t place = s->vocab - 1 - *kept;
        if (place < left)
            take_first(s->order, &left, weights);
        float weight = weights[s->order[place]];
        bool outside = (o->top_p < 1 && before >= o->top_p * sum) || weight < o->min_p;
        if (*kept > 0 && outside)
            break;
        before += weight;
    }
    return before;
}

tn_status tn_sampler_pick(tn_sampler *s, const float *logits, const tn_seen *seen, int64_t step, int32_t *id) {
    const tn_generate_options *o = s->options;
    bool penalised = seen && o->repetition_penalty != 1;
    if (o->temperature == 0 && !penalised)
        return find_largest(logits, s->vocab, id);
    memcpy(s->logits, logits, (size_t)s->vocab * sizeof *logits);
    if (penalised)
        penalise(s->logits, seen, s->vocab, (float)o->repetition_penalty);
    TN_TRY(find_largest(s->logits, s->vocab, id));
    if (o->temperature == 0)
        return TN_OK;
    double sum = weigh(s->logits, s->vocab, s->logits[*id], o->temperature);
    bool narrowed = (o->top_k > 0 && o->top_k < s->vocab) || o->top_p < 1 || o->min_p > 0;
    int64_t kept = s->vocab;
    if (narrowed)
        sum = narrow(s, sum, &kept);
    tn_rng rng = tn_rng_start(o->seed, tn_stream(TN_STREAM_SAMPLE, (uint32_t)step));
    double left = tn_rng_uniform64(&rng) * sum;
    for (int64_t i = 0; i < kept; i++) {
        int32_t candidate = narrowed ? s->order[s->vocab - 1 - i] : (int32_t)i;
        if (s->logits[candidate] == 0)
            continue;
        *id = candidate;
        left -= s->logits[candidate];
        if (left < 0)
            break;
    }
    return TN_OK;
}
