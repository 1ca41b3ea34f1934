/* LoRA-FA (Zhang et al. 2023, arXiv 2308.03303) as PEFT's optimiser has it: A stays as it started, and the update of B takes
 * dB (A A^T + 1e-8 I)^+ / s^2 [O, R] for its gradient. With dB = s G A^T, G [O, C] being the gradient of W, this makes the
 * change s dB A of W the projection of G onto the rows of A, whatever their lengths. The inverse [R, R] is computed once.
 * Clipping goes by the norm of dB itself. Embeddings are trained as in LoRA. */
#include "peft/lora.h"

#include <float.h>
#include <string.h>

#include "tensor/linalg.h"

tn_status tn_lora_fa_declare(tn_adapter *adapter, const tn_module *module, tn_lora_slot *slot) {
    int64_t rank = slot->a.tensor.shape[0];
    slot->precondition.tensor = (tn_tensor){.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {rank, rank}};
    return tn_adapter_declare_constant(adapter, module, "lora_A_precondition", false, &slot->precondition);
}

static tn_lora_slot *frozen_slot(const tn_adapter *adapter, int64_t i) {
    tn_lora_slot *slot = adapter->slots[i].method ? (tn_lora_slot *)adapter->slots[i].slot : NULL;
    return slot && slot->precondition.tensor.data ? slot : NULL;
}

/* The pseudo-inverse of A A^T + 1e-8 I, over s^2, by singular values; those below torch.linalg.pinv's bound count as 0. */
static tn_status invert(tn_lora_slot *slot) {
    const tn_kernels *kernels = tn_kernels_cpu();
    const float ridge = 1e-8f;
    int64_t rank = slot->a.tensor.shape[0], in = tn_weight_in(&slot->a);
    float *out = slot->precondition.tensor.data, scale = 1 / (slot->scale * slot->scale);
    float *gram = tn_malloc((size_t)(rank * (3 * rank + 1)) * sizeof *gram);
    if (!gram)
        return tn_fail_memory("LoRA-FA's inverse");
    float *u = gram + rank * rank, *vt = u + rank * rank, *s = vt + rank * rank;
    kernels->gemm(gram, rank, tn_weight_rows(&slot->a), tn_weight_transpose(&slot->a), 1, 0, rank, rank, in);
    for (int64_t r = 0; r < rank; r++)
        gram[r * rank + r] += ridge;
    tn_status status = tn_svd(gram, rank, rank, u, s, vt);
    for (int64_t r = 0; r < rank && status == TN_OK; r++)
        kernels->scale(vt + r * rank, s[r] > (float)rank * FLT_EPSILON * s[0] ? scale / s[r] : 0, rank);
    if (status == TN_OK) /* V diag(1/s) U^T */
        kernels->gemm(out, rank, tn_transpose_of(vt, TN_DTYPE_F32, rank), tn_transpose_of(u, TN_DTYPE_F32, rank), 1, 0, rank,
                      rank, rank);
    tn_free(gram);
    return status;
}

tn_status tn_lora_fa_start_training(tn_adapter *adapter, int64_t steps) {
    int64_t most = 0;
    (void)steps;
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        tn_lora_slot *slot = frozen_slot(adapter, i);
        int64_t count = slot ? tn_tensor_count(&slot->b.tensor) : 0;
        most = count > most ? count : most;
        if (slot)
            TN_TRY(invert(slot));
    }
    adapter->shared = most ? tn_arena_array(&adapter->arena, (size_t)most, sizeof(float)) : NULL;
    return most && !adapter->shared ? tn_fail_memory("LoRA-FA's gradients") : TN_OK;
}

void tn_lora_fa_before_step(tn_adapter *adapter) {
    const tn_kernels *kernels = tn_kernels_cpu();
    float *scratch = adapter->shared;
    for (int64_t i = 0; i < adapter->slot_count; i++) {
        const tn_lora_slot *slot = frozen_slot(adapter, i);
        if (!slot)
            continue;
        int64_t out = slot->b.tensor.shape[0], rank = slot->b.tensor.shape[1];
        kernels->gemm(scratch, rank, tn_rows_of(slot->b.grad, TN_DTYPE_F32, rank), tn_weight_rows(&slot->precondition), 1, 0,
                      out, rank, rank);
        memcpy(slot->b.grad, scratch, (size_t)(out * rank) * sizeof *scratch);
    }
}
