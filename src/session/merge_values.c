/* The values of merged and of restored tensors, and what rounding takes from them. */
#include <math.h>

#include "session/merge_parts.h"

/* d restored / d merged for each value, by restoring slightly longer values as well; 0 where there is nothing to be longer.
 * Restoring is affine, so a step of 2^-8 of the value is exact but for rounding. */
static tn_status measure_factors(tn_merger *m, const tn_output_tensor *t, const float *restored, int64_t count) {
    const float step = 1.0f / 256;
    int64_t values = tn_tensor_count(&tn_module_weight(t->module)->tensor), biases = t->module->bias.tensor.shape[0];
    float *stretched = tn_malloc((size_t)(values + biases) * sizeof *stretched);
    float *factors = tn_realloc_array(m->factors, (size_t)count, sizeof *factors);
    m->factors = factors ? factors : m->factors;
    tn_status status = stretched && factors ? tn_adapter_unmerged_weight(m->model->adapter, t->module, 1 + step, stretched,
                                                                         stretched + values)
                                            : tn_fail_memory("the restored weights");
    const float *longer = t->is_bias ? stretched + values : stretched;
    for (int64_t i = 0; i < count && status == TN_OK; i++)
        m->factors[i] = m->original[i] != 0 ? fabsf((longer[i] - restored[i]) / (step * m->original[i])) : 0;
    tn_free(stretched);
    return status;
}

/* The base's f32 values by the method's own way; m->original keeps the merged ones. */
static tn_status restored_values(tn_merger *m, const tn_output_tensor *t, const tn_tensor *merged, const float **values) {
    TN_TRY(tn_adapter_unmerged_weight(m->model->adapter, t->module, 1, m->weight, m->bias));
    *values = t->is_bias ? m->bias : m->weight;
    tn_tensor_read(m->original, merged, 0, tn_tensor_count(merged));
    return measure_factors(m, t, *values, tn_tensor_count(merged));
}

/* Those in use are of one method, if that is one of these. */
static bool has_own_way_back(const tn_adapter *adapter) {
    while (adapter && adapter->weight == 0)
        adapter = adapter->next;
    return adapter && adapter->method && adapter->method->unmerge &&
           (!adapter->method->subtractable || tn_adapter_keeps(adapter));
}

/* Merged, or w - (merged(w) - w). */
tn_status tn_merger_values(tn_merger *m, const tn_output_tensor *t, const float **values) {
    const tn_tensor *base = t->is_bias ? &t->module->bias.tensor : &tn_module_weight(t->module)->tensor;
    int64_t count = tn_tensor_count(base);
    bool has_bias;
    if (m->direction < 0 && has_own_way_back(m->model->adapter))
        return restored_values(m, t, base, values);
    tn_free(m->factors);
    m->factors = NULL;
    TN_TRY(tn_adapter_merged_weight(m->model->adapter, t->module, m->weight, m->bias, &has_bias));
    float *merged = t->is_bias ? m->bias : m->weight;
    if (m->direction < 0) {
        tn_tensor_read(m->original, base, 0, count);
        for (int64_t i = 0; i < count; i++)
            merged[i] = m->original[i] - (merged[i] - m->original[i]);
    }
    *values = merged;
    return TN_OK;
}

/* Half a unit in the last place of a stored value: what the rounding that made it may have cost. */
static double half_ulp(float value, tn_dtype dtype) {
    int exponent, bits = dtype == TN_DTYPE_BF16 ? 8 : dtype == TN_DTYPE_F16 ? 11 : 24;
    int lowest = dtype == TN_DTYPE_F16 ? -13 : -125; /* exponent of the smallest normal number, as frexp counts */
    frexp((double)value, &exponent);
    return ldexp(0.5, (exponent > lowest ? exponent : lowest) - bits);
}

/* How far a restored value may be from the base's besides its last rounding: merging rounded to the merged checkpoint's
 * type, which a factor multiplies, and the sums and products on the way there and back, none of them above |merged| +
 * |change|, were rounded to f32. */
static double restoring_error(float restored, float merged, const float *factor, tn_dtype merged_dtype) {
    if (!factor)
        return half_ulp(merged, merged_dtype) + 4 * half_ulp(fabsf(merged) + fabsf(merged - restored), TN_DTYPE_F32);
    return *factor * half_ulp(merged, merged_dtype) + 4 * half_ulp(*factor * fabsf(merged) + fabsf(restored), TN_DTYPE_F32);
}

void tn_merger_note_rounding(tn_merger *m, const float *exact, const float *merged, tn_dtype merged_dtype, tn_dtype dtype,
                             int64_t count) {
    enum { PIECE = 1024 };
    float back[PIECE];
    for (int64_t at = 0; at < count; at += PIECE) {
        int64_t n = count - at < PIECE ? count - at : PIECE;
        tn_convert_to_f32(back, m->stored + at * tn_dtype_size(dtype), dtype, n);
        for (int64_t i = 0; i < n; i++) {
            double lost = fabs((double)back[i] - exact[at + i]);
            if (merged)
                lost +=
                    restoring_error(exact[at + i], merged[at + i], m->factors ? &m->factors[at + i] : NULL, merged_dtype);
            m->largest_rounding = fmax(m->largest_rounding, lost);
        }
    }
}
