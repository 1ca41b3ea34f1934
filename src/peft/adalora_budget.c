/* AdaLoRA while it trains (arXiv 2303.10512, as PEFT computes it).
 *   loss        += weight * mean over all A and B of |A A^T - I|_F, |B^T B - I|_F
 *   importance  I = |p dL/dp| of each trained number after the update;  S = b1 S + (1 - b1) I,  U = b2 U + (1 - b2) |I - S|
 *   score       of a triplet k of a module:  (S U)(E_k) + mean_j (S U)(A_kj) + mean_i (S U)(B_ik)
 *   budget      all triplets until tinit, then falling by a cube to target_r per module at total_step - tfinal
 *   mask        E_k = 0 for every triplet, of all modules together, whose score is at most the (all - budget)-th smallest
 * Masks are chosen anew every deltaT steps, so that a triplet may come back; from total_step - tfinal on they stay. */
#include "peft/adalora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static tn_adalora_slot *slot_at(const tn_adapter *adapter, int64_t i) {
    return adapter->slots[i].method ? (tn_adalora_slot *)adapter->slots[i].slot : NULL;
}

static void count_triplets(const tn_adapter *adapter, int64_t *triplets, int64_t *modules) {
    *triplets = *modules = 0;
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_adalora_slot *slot = slot_at(adapter, i);
        *triplets += slot ? slot->a.value.tensor.shape[0] : 0;
        *modules += slot != NULL;
    }
}

/* Written here so that their pages are in memory when the run is planned. */
static void clear_averages(tn_adalora_factor *factor) {
    size_t bytes = (size_t)tn_tensor_bytes(&factor->value.tensor);
    memset(factor->importance.tensor.data, 0, bytes);
    memset(factor->uncertainty.tensor.data, 0, bytes);
}

static void clear_all_averages(tn_adapter *adapter) {
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        tn_adalora_slot *slot = slot_at(adapter, i);
        if (!slot)
            continue;
        clear_averages(&slot->a);
        clear_averages(&slot->e);
        clear_averages(&slot->b);
    }
}

static tn_status check_schedule(const tn_peft_config *config) {
    const tn_adalora_settings *s = config->settings;
    if (s->target_rank > config->rank)
        return tn_fail(TN_ERROR_ARGUMENT, "adalora: target_r %lld is above init_r %lld; ranks can only be taken away",
                       (long long)s->target_rank, (long long)config->rank);
    if (s->tinit >= s->total_step - s->tfinal)
        return tn_fail(TN_ERROR_ARGUMENT,
                       "adalora: tinit %lld and tfinal %lld leave none of total_step %lld for choosing ranks; lower them or "
                       "train longer",
                       (long long)s->tinit, (long long)s->tfinal, (long long)s->total_step);
    return TN_OK;
}

tn_status tn_adalora_start_training(tn_adapter *adapter, int64_t steps) {
    tn_adalora_settings *settings = adapter->config.settings;
    tn_adalora_budget *budget = adapter->shared;
    int64_t triplets, modules;
    if (!budget->is_final.tensor.data)
        return TN_OK;
    settings->total_step = settings->total_step ? settings->total_step : steps;
    TN_TRY(check_schedule(&adapter->config));
    count_triplets(adapter, &triplets, &modules);
    budget->scores = tn_arena_array(&adapter->arena, (size_t)triplets + 1, sizeof(float));
    budget->sorted_scores = tn_arena_array(&adapter->arena, (size_t)triplets + 1, sizeof(float));
    if (!budget->scores || !budget->sorted_scores)
        return tn_fail_memory("AdaLoRA's scores");
    clear_all_averages(adapter);
    return TN_OK;
}

/* |G|_F of G = P P^T - I over the K rows of P, which are A's rows or B's columns. dP += factor * 2/|G|_F G P. */
static double add_orthogonality(const tn_weight *w, bool by_columns, float factor, float *gram) {
    const tn_kernels *k = tn_kernels_cpu();
    const tn_tensor *t = &w->tensor;
    int64_t rank = t->shape[by_columns], length = t->shape[!by_columns];
    tn_operand rows = tn_weight_rows(w), transpose = tn_weight_transpose(w);
    if (rank == 0)
        return 0;
    k->gemm(gram, rank, by_columns ? transpose : rows, by_columns ? rows : transpose, 1, 0, rank, rank, length);
    for (int64_t i = 0; i < rank; i++)
        gram[i * rank + i] -= 1;
    double norm = sqrt(k->sum_squares(gram, rank * rank));
    if (!w->grad || norm == 0)
        return norm;
    float scale = (float)(2 * factor / norm);
    if (by_columns)
        k->gemm(w->grad, rank, rows, tn_rows_of(gram, TN_DTYPE_F32, rank), scale, 1, length, rank, rank);
    else
        k->gemm(w->grad, length, tn_rows_of(gram, TN_DTYPE_F32, rank), rows, scale, 1, rank, length, rank);
    return norm;
}

double tn_adalora_penalty(tn_adapter *adapter) {
    const tn_adalora_settings *settings = adapter->config.settings;
    const tn_adalora_budget *budget = adapter->shared;
    int64_t triplets, modules;
    double sum = 0;
    count_triplets(adapter, &triplets, &modules);
    if (modules == 0 || settings->orth_reg_weight == 0)
        return 0;
    double factor = settings->orth_reg_weight / (double)(2 * modules);
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        tn_adalora_slot *slot = slot_at(adapter, i);
        if (!slot)
            continue;
        sum += add_orthogonality(&slot->a.value, false, (float)factor, budget->gram);
        sum += add_orthogonality(&slot->b.value, true, (float)factor, budget->gram);
    }
    return factor * sum;
}

int64_t tn_adalora_schedule(const tn_adalora_settings *s, int64_t step, int64_t triplets, int64_t modules, bool *allocate) {
    int64_t target = s->target_rank * modules, last = s->total_step - s->tfinal;
    *allocate = false;
    if (step <= s->tinit)
        return triplets;
    *allocate = step >= last || step % s->delta_t == 0;
    if (step >= last)
        return target;
    double left = 1 - (double)(step - s->tinit) / (double)(last - s->tinit);
    return (int64_t)((double)(triplets - target) * pow(left, 3) + (double)target);
}

static void update_averages(tn_adalora_factor *factor, const tn_adalora_settings *settings, float grad_scale) {
    const float *value = factor->value.tensor.data, *grad = factor->value.grad;
    float *importance = factor->importance.tensor.data, *uncertainty = factor->uncertainty.tensor.data;
    float beta1 = (float)settings->beta1, beta2 = (float)settings->beta2;
    float rest1 = (float)(1 - settings->beta1), rest2 = (float)(1 - settings->beta2);
    for (int64_t i = 0; i < tn_tensor_count(&factor->value.tensor); i++) {
        float now = fabsf(value[i] * (grad[i] * grad_scale));
        importance[i] = beta1 * importance[i] + rest1 * now;
        uncertainty[i] = beta2 * uncertainty[i] + rest2 * fabsf(now - importance[i]);
    }
}

/* Mean score over row `k` (or column k) of a factor. */
static float mean_score(const tn_adalora_factor *factor, int64_t k, bool by_columns) {
    const tn_tensor *t = &factor->value.tensor;
    const float *importance = factor->importance.tensor.data, *uncertainty = factor->uncertainty.tensor.data;
    int64_t count = t->shape[!by_columns], stride = by_columns ? t->shape[1] : 1, at = by_columns ? k : k * t->shape[1];
    double sum = 0;
    for (int64_t i = 0; i < count; i++, at += stride)
        sum += importance[at] * uncertainty[at];
    return (float)(sum / (double)count);
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void score_triplets(const tn_adapter *adapter, float *scores) {
    int64_t at = 0;
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_adalora_slot *slot = slot_at(adapter, i);
        for (int64_t k = 0; slot && k < slot->a.value.tensor.shape[0]; k++)
            scores[at++] = mean_score(&slot->e, k, false) + (mean_score(&slot->a, k, false) + mean_score(&slot->b, k, true));
    }
}

/* Equal scores share their fate, so more than `triplets - budget` may go. */
static void choose_masks(tn_adapter *adapter, int64_t triplets, int64_t budget) {
    const tn_adalora_budget *state = adapter->shared;
    float *scores = state->scores, *sorted = state->sorted_scores, threshold = -1;
    int64_t at = 0;
    score_triplets(adapter, scores);
    memcpy(sorted, scores, (size_t)triplets * sizeof *sorted);
    qsort(sorted, (size_t)triplets, sizeof *sorted, ascending);
    if (budget < triplets)
        threshold = sorted[triplets - budget - 1];
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        tn_adalora_slot *slot = slot_at(adapter, i);
        float *mask = slot ? slot->mask.tensor.data : NULL;
        for (int64_t k = 0; slot && k < slot->mask.tensor.shape[0]; k++)
            mask[k] = scores[at++] > threshold;
    }
}

static void apply_masks(tn_adapter *adapter) {
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        tn_adalora_slot *slot = slot_at(adapter, i);
        float *e = slot ? slot->e.value.tensor.data : NULL;
        const float *mask = slot ? slot->mask.tensor.data : NULL;
        for (int64_t k = 0; slot && k < slot->mask.tensor.shape[0]; k++)
            e[k] = mask[k] != 0 ? e[k] : 0;
    }
}

void tn_adalora_after_step(tn_adapter *adapter, int64_t step, int64_t steps, float grad_scale) {
    const tn_adalora_settings *settings = adapter->config.settings;
    tn_adalora_budget *budget = adapter->shared;
    int64_t triplets, modules, last = settings->total_step - settings->tfinal;
    bool allocate;
    (void)steps;
    if (!budget->is_final.tensor.data)
        return;
    for (int64_t i = 0; i < adapter->slot_count && step < last; i++) {
        tn_adalora_slot *slot = slot_at(adapter, i);
        if (!slot)
            continue;
        update_averages(&slot->a, settings, grad_scale);
        update_averages(&slot->e, settings, grad_scale);
        update_averages(&slot->b, settings, grad_scale);
    }
    count_triplets(adapter, &triplets, &modules);
    int64_t most = tn_adalora_schedule(settings, step, triplets, modules, &allocate);
    if (allocate && step <= last)
        choose_masks(adapter, triplets, most);
    if (allocate)
        apply_masks(adapter);
    if (step == last) {
        *(float *)budget->is_final.tensor.data = 1;
        clear_all_averages(adapter);
    }
}

bool tn_adalora_is_final(const tn_adapter *adapter) {
    const tn_adalora_budget *budget = adapter->shared;
    const float *is_final = budget->is_final.tensor.data;
    return is_final && *is_final != 0;
}
