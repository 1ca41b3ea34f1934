/* DoRA (Liu et al. 2024, arXiv 2402.09353): W' = m / n * (W + s B A), n the norms of the rows of W + s B A (for an embedding
 * [V, C], of its columns), m trained, starting as the norms of W. n is a constant to the gradient, as in the paper and in
 * PEFT, and comes without forming W + s B A:
 *   n_o^2 = |W_o|^2 + 2 s (W A^T)_o . B_o + s^2 B_o (A A^T) B_o^T
 * The bias is added afterwards, unscaled. With dropout the scaled output is that of the dropped input, its own difference to
 * the plain output left in place: y = W x + b + m / n * (W + s B A) d(x) - W d(x). */
#include <float.h>
#include <math.h>

#include "base/rng.h"
#include "peft/lora.h"

/* Rows of linear weights, columns of embeddings: [out, in] either way. */
static tn_operand oriented(const tn_lora_slot *slot, const tn_module *module, int64_t *out, int64_t *in) {
    const tn_weight *w = tn_module_weight(module);
    *out = slot->embedding ? tn_weight_in(w) : tn_weight_out(w);
    *in = slot->embedding ? tn_weight_out(w) : tn_weight_in(w);
    return slot->embedding ? tn_weight_transpose(w) : tn_weight_rows(w);
}

/* squares [out] = the squared norms of W's rows (columns). */
static tn_status square_norms(const tn_lora_slot *slot, const tn_module *module, double *squares) {
    const tn_tensor *w = &tn_module_weight(module)->tensor;
    bool by_columns = slot->embedding || tn_module_weight(module)->transposed; /* of what is stored */
    int64_t rows = w->shape[0], cols = tn_tensor_count(w) / rows;
    float *row = tn_malloc((size_t)cols * sizeof *row);
    if (!row)
        return tn_fail_memory("DoRA's norms");
    for (int64_t i = 0; i < rows; i++) {
        tn_tensor_read(row, w, i * cols, cols);
        for (int64_t j = 0; j < cols; j++)
            squares[by_columns ? j : i] += (double)row[j] * row[j];
    }
    tn_free(row);
    return TN_OK;
}

tn_status tn_dora_init(tn_adapter *adapter, tn_lora_slot *slot, const tn_module *module) {
    int64_t out = tn_tensor_count(&slot->magnitude.tensor);
    slot->base_squares = tn_arena_array(&adapter->arena, (size_t)out, sizeof *slot->base_squares);
    if (!slot->base_squares)
        return tn_fail_memory("DoRA's norms");
    TN_TRY(square_norms(slot, module, slot->base_squares));
    for (int64_t o = 0; o < out; o++)
        ((float *)slot->magnitude.tensor.data)[o] = (float)sqrt(slot->base_squares[o]);
    return TN_OK;
}

static double dot(const float *a, const float *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* Never 0, so that a row of zeros stays one. */
static float norm_of(double square) {
    return (float)fmax(sqrt(fmax(square, 0)), FLT_MIN);
}

const float *tn_dora_norms(tn_tape *tape, const tn_lora_slot *slot, tn_operand w, int64_t out, int64_t in) {
    int64_t rank = slot->a.tensor.shape[0];
    const tn_operand a = tn_rows_of(slot->a.tensor.data, TN_DTYPE_F32, in);
    const tn_operand a_t = tn_transpose_of(slot->a.tensor.data, TN_DTYPE_F32, in);
    float *n = tn_tape_store(tape, (size_t)out * sizeof *n);
    tn_block gram = tn_scratch_take(tape, rank * rank), bg = tn_scratch_take(tape, out * rank);
    tn_block wa = tn_scratch_take(tape, out * rank);
    tape->flops += 2.0 * (double)rank * ((double)in * (double)(out + rank) + (double)out * (double)rank);
    if (n && tn_tape_live(tape)) {
        const tn_kernels *k = tape->kernels;
        const float *b = slot->b.tensor.data;
        double s = slot->scale;
        k->gemm(wa.data, rank, w, a_t, 1, 0, out, rank, in);
        k->gemm(gram.data, rank, a, a_t, 1, 0, rank, rank, in);
        k->gemm(bg.data, rank, tn_rows_of(b, TN_DTYPE_F32, rank), tn_rows_of(gram.data, TN_DTYPE_F32, rank), 1, 0, out, rank,
                rank);
        for (int64_t o = 0; o < out; o++)
            n[o] = norm_of(slot->base_squares[o] + 2 * s * dot(wa.data + o * rank, b + o * rank, rank) +
                           s * s * dot(bg.data + o * rank, b + o * rank, rank));
    }
    tn_scratch_give(tape, &wa);
    tn_scratch_give(tape, &bg);
    tn_scratch_give(tape, &gram);
    return n;
}

static const float *norms(tn_tape *tape, const tn_lora_slot *slot, const tn_module *module) {
    int64_t out, in;
    tn_operand w = oriented(slot, module, &out, &in);
    return tn_dora_norms(tape, slot, w, out, in);
}

tn_var *tn_dora_linear(const tn_forward *forward, const tn_lora_slot *slot, const tn_module *module, tn_var *x, tn_var *y) {
    tn_tape *tape = forward->tape;
    const float *n = norms(tape, slot, module);
    if (!forward->training || slot->dropout == 0) {
        tn_op_low_rank(tape, y, x, &slot->a, &slot->b, NULL, slot->scale);
        tn_var *scaled = tn_op_magnitude(tape, y, &slot->magnitude, n, module->has_bias ? &module->bias : NULL);
        tn_drop(tape, y);
        return scaled;
    }
    tn_var *dropped =
        tn_op_dropout(tape, x, slot->dropout, forward->dropout_seed, tn_stream(TN_STREAM_DROPOUT, slot->slot.id));
    tn_var *z = tn_op_linear(tape, dropped, tn_module_weight(module), NULL);
    tn_op_add(tape, y, z, -1);
    tn_op_low_rank(tape, z, dropped, &slot->a, &slot->b, NULL, slot->scale);
    tn_var *scaled = tn_op_magnitude(tape, z, &slot->magnitude, n, NULL);
    tn_op_add(tape, y, scaled, 1);
    tn_drop(tape, dropped);
    tn_drop(tape, z);
    tn_drop(tape, scaled);
    return y;
}

tn_var *tn_dora_embedding(const tn_forward *forward, const tn_lora_slot *slot, const tn_module *module, const int32_t *ids,
                          tn_var *y) {
    tn_tape *tape = forward->tape;
    const float *n = norms(tape, slot, module);
    tn_op_low_rank_embedding(tape, y, ids, &slot->a, &slot->b, slot->scale);
    tn_var *scaled = tn_op_magnitude(tape, y, &slot->magnitude, n, NULL);
    tn_drop(tape, y);
    return scaled;
}

/* Rows of a linear or convolutional weight, columns of an embedding's: which there are, and how far apart. */
typedef struct {
    int64_t out, in;
    int64_t across, along; /* strides from one to the next, and within one */
} layout;

static layout layout_of(const tn_lora_slot *slot) {
    int64_t out = tn_tensor_count(&slot->magnitude.tensor), in = tn_tensor_count(&slot->a.tensor) / slot->a.tensor.shape[0];
    return slot->embedding ? (layout){out, in, 1, out} : (layout){out, in, in, 1};
}

static float row_norm(const layout *l, const float *weight, int64_t o) {
    double square = 0;
    for (int64_t i = 0; i < l->in; i++) {
        double value = weight[o * l->across + i * l->along];
        square += value * value;
    }
    return norm_of(square);
}

static void scale_row(const layout *l, float *weight, int64_t o, float factor) {
    for (int64_t i = 0; i < l->in; i++)
        weight[o * l->across + i * l->along] *= factor;
}

void tn_dora_scale(const tn_lora_slot *slot, float *weight) {
    const layout l = layout_of(slot);
    const float *m = slot->magnitude.tensor.data;
    for (int64_t o = 0; o < l.out; o++)
        scale_row(&l, weight, o, m[o] / row_norm(&l, weight, o));
}

void tn_dora_merged_norms(const tn_lora_slot *slot, const float *weight, float *norms) {
    const layout l = layout_of(slot);
    for (int64_t o = 0; o < l.out; o++)
        norms[o] = row_norm(&l, weight, o);
}

void tn_dora_unscale(const tn_lora_slot *slot, float *weight) {
    const layout l = layout_of(slot);
    const float *m = slot->magnitude.tensor.data;
    for (int64_t o = 0; o < l.out; o++)
        scale_row(&l, weight, o, slot->kept_norms[o] / m[o]);
}

/* Merging made the norms of the weight's rows |m|; what the checkpoint's type rounded is far below a hundredth. */
tn_status tn_dora_use_norms(tn_adapter *adapter, tn_lora_slot *slot, const tn_module *module, const float *merged,
                            const float *norms) {
    const layout l = layout_of(slot);
    const float *m = slot->magnitude.tensor.data;
    for (int64_t o = 0; o < l.out; o++) {
        if (m[o] == 0)
            return tn_fail(TN_ERROR_UNSUPPORTED,
                           "the magnitude of '%s' is 0 at element %lld, so the base's weights there are lost in the merged "
                           "ones; use the base that it was trained on",
                           module->name, (long long)o);
        if (!(fabsf(row_norm(&l, merged, o) - fabsf(m[o])) <= 1e-2f * fabsf(m[o])))
            return tn_fail(TN_ERROR_MISMATCH, "'%s' does not hold this adapter merged in: a row's norm is not its magnitude",
                           module->name);
    }
    slot->kept_norms = tn_arena_array(&adapter->arena, (size_t)l.out, sizeof *slot->kept_norms);
    if (!slot->kept_norms)
        return tn_fail_memory("DoRA's norms");
    for (int64_t o = 0; o < l.out; o++)
        slot->kept_norms[o] = norms[o];
    return TN_OK;
}
