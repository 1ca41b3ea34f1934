/* The values of merged and of restored tensors, and what rounding takes from them. */
#include <math.h>

#include "session/merge_parts.h"

/* The base's f32 values by the method's own way; m->original keeps the merged ones. */
static tn_status restored_values(tn_merger *m, const tn_output_tensor *t, const tn_tensor *merged, const float **values) {
    TN_TRY(tn_adapter_unmerged_weight(m->model->adapter, t->module, m->weight, m->bias, &m->factor));
    m->scales = true;
    *values = t->is_bias ? m->bias : m->weight;
    tn_convert_to_f32(m->original, merged->data, merged->dtype, tn_tensor_count(merged));
    return TN_OK;
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
    m->scales = false;
    TN_TRY(tn_adapter_merged_weight(m->model->adapter, t->module, m->weight, m->bias, &has_bias));
    float *merged = t->is_bias ? m->bias : m->weight;
    if (m->direction < 0) {
        tn_convert_to_f32(m->original, base->data, base->dtype, count);
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
static double restoring_error(const tn_merger *m, float restored, float merged, tn_dtype merged_dtype) {
    double factor = !m->scales ? 1 : m->factor > 0 ? m->factor : merged != 0 ? fabs((double)restored / merged) : 1;
    double most = m->scales ? factor * fabsf(merged) + fabsf(restored) : fabsf(merged) + fabsf(merged - restored);
    return factor * half_ulp(merged, merged_dtype) + 4 * half_ulp((float)most, TN_DTYPE_F32);
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
                lost += restoring_error(m, exact[at + i], merged[at + i], merged_dtype);
            m->largest_rounding = fmax(m->largest_rounding, lost);
        }
    }
}
