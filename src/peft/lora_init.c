/* Starting values of LoRA's A [R, C] and B [O, R], as PEFT 0.20 defines them (s is the scaling):
 *   kaiming     A ~ U(-1/sqrt(C), 1/sqrt(C)), B = 0                  gaussian    A ~ N(0, 1/R^2), B = 0
 *   random      A and B as torch.nn.Linear starts                    orthogonal  B A = 0 from a random orthogonal basis
 *   pissa       U S V^T = svd(W): B = U_r sqrt(S_r/s), A = sqrt(S_r/s) V_r^T, base W - s B A (arXiv 2404.02948)
 *   olora       Q R = qr(W): B = Q[:, :r], A = R[:r], base W - s B A (arXiv 2406.01775)
 *   loftq       B A ~ W - Q, base Q = quant(W - B A) (arXiv 2310.08659; lora_loftq.c)
 * Embeddings start with A = 0, B ~ N(0, 1) whatever the name. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "peft/lora.h"
#include "tensor/linalg.h"

static void iterate_four_times(tn_peft_config *config) {
    config->init = "pissa_niter_4";
}

const tn_peft_preset tn_lora_inits[] = {
    {.name = "kaiming", .method = &tn_lora, .summary = "A uniform, B zero; the default", .formula = "B A = 0"},
    {.name = "gaussian", .method = &tn_lora, .summary = "A normal with deviation 1/r, B zero", .formula = "B A = 0"},
    {.name = "pissa",
     .method = &tn_lora,
     .summary = "the leading singular triplets of the weight; the base keeps the rest",
     .formula = "s B A = U_r S_r V_r^T",
     .paper = "arXiv:2404.02948"},
    {.name = "pissa_niter_K",
     .method = &tn_lora,
     .summary = "PiSSA by K steps of randomised iteration, which is fast for large weights",
     .formula = "s B A ~ U_r S_r V_r^T",
     .paper = "arXiv:2404.02948",
     .apply = iterate_four_times},
    {.name = "olora",
     .method = &tn_lora,
     .summary = "the leading columns of a QR decomposition of the weight; the base keeps the rest",
     .formula = "B A = Q_r R_r",
     .paper = "arXiv:2406.01775"},
    {.name = "loftq",
     .method = &tn_lora,
     .summary = "what quantising the base loses, as far as the rank goes; the base becomes NF4, or NF8",
     .formula = "B A ~ W - quant(W - B A)",
     .paper = "arXiv:2310.08659"},
    {.name = "orthogonal",
     .method = &tn_lora,
     .summary = "random A and B of orthogonal rows and columns, both at work from the first step",
     .formula = "B A = 0"},
    {0},
};

/* Also "random", which is in files only: PEFT's init_lora_weights false. */
static bool is_init(const char *init) {
    bool found = strcmp(init, "random") == 0;
    for (const tn_peft_preset *one = tn_lora_inits; one->name && !found; one++)
        found = !one->apply && strcmp(init, one->name) == 0;
    return found;
}

static int pissa_iterations(const char *init) {
    const char *prefix = "pissa_niter_";
    if (strncmp(init, prefix, strlen(prefix)) != 0)
        return -1;
    char *end;
    long value = strtol(init + strlen(prefix), &end, 10);
    return *end || end == init + strlen(prefix) || value < 1 || value > 1000 ? -1 : (int)value;
}

tn_status tn_lora_init_check(const char *init) {
    if (pissa_iterations(init) > 0 || is_init(init))
        return TN_OK;
    tn_buf list = {0};
    for (const tn_peft_preset *one = tn_lora_inits; one->name; one++)
        tn_buf_printf(&list, "%s%s", one == tn_lora_inits ? "" : ", ", one->name);
    tn_status status = tn_fail(TN_ERROR_UNSUPPORTED, "the LoRA initialisation '%s' is not supported; there are %s", init,
                               tn_buf_text(&list));
    tn_buf_free(&list);
    return status;
}

bool tn_lora_init_reduces_base(const char *init) {
    return strcmp(init, "pissa") == 0 || strcmp(init, "olora") == 0 || pissa_iterations(init) > 0;
}

/* A [R, C] and B [O, R] of PiSSA into a and b. */
static tn_status pissa_factors(const float *w, int64_t rows, int64_t cols, int64_t rank, float scale, int iterations,
                               uint64_t seed, float *a, float *b) {
    int64_t k = iterations > 0 ? rank : rows < cols ? rows : cols;
    tn_status status = TN_OK;
    float *u = tn_malloc((size_t)(rows * k) * sizeof *u), *s = tn_malloc((size_t)k * sizeof *s);
    float *vt = tn_malloc((size_t)(k * cols) * sizeof *vt);
    if (!u || !s || !vt) {
        status = tn_fail_memory("a PiSSA initialisation");
        goto fail;
    }
    TN_TRY_GOTO(iterations > 0 ? tn_svd_randomised(w, rows, cols, rank, iterations, seed, u, s, vt)
                               : tn_svd(w, rows, cols, u, s, vt));
    for (int64_t r = 0; r < rank; r++) {
        float root = sqrtf(s[r] / scale);
        for (int64_t j = 0; j < cols; j++)
            a[r * cols + j] = root * vt[r * cols + j];
        for (int64_t i = 0; i < rows; i++)
            b[i * rank + r] = root * u[i * k + r];
    }
fail:
    tn_free(vt);
    tn_free(s);
    tn_free(u);
    return status;
}

static tn_status olora_factors(const float *w, int64_t rows, int64_t cols, int64_t rank, float *a, float *b) {
    int64_t k = rows < cols ? rows : cols;
    tn_status status = TN_OK;
    float *q = tn_malloc((size_t)(rows * k) * sizeof *q), *r = tn_malloc((size_t)(k * cols) * sizeof *r);
    if (!q || !r) {
        status = tn_fail_memory("an OLoRA initialisation");
        goto fail;
    }
    TN_TRY_GOTO(tn_qr(w, rows, cols, q, r));
    memcpy(a, r, (size_t)(rank * cols) * sizeof *a);
    for (int64_t i = 0; i < rows; i++)
        memcpy(b + i * rank, q + i * k, (size_t)rank * sizeof *b);
fail:
    tn_free(r);
    tn_free(q);
    return status;
}

/* The factors that the initialisation takes out of the base, from the base's weight. */
static tn_status reducing_factors(const tn_adapter *adapter, const tn_lora_slot *slot, const tn_module *module,
                                  uint64_t seed, float *a, float *b) {
    const tn_weight *weight = tn_module_weight(module);
    int64_t rows = tn_weight_out(weight), cols = tn_weight_in(weight), rank = slot->a.tensor.shape[0];
    const char *init = adapter->config.init;
    float *w = tn_malloc((size_t)(rows * cols) * sizeof *w);
    if (!w)
        return tn_fail_memory("a LoRA initialisation");
    tn_weight_read(weight, w);
    tn_status status = strcmp(init, "olora") == 0
                           ? olora_factors(w, rows, cols, rank, a, b)
                           : pissa_factors(w, rows, cols, rank, slot->scale, pissa_iterations(init), seed, a, b);
    tn_free(w);
    return status;
}

tn_status tn_lora_init_residual(tn_adapter *adapter, tn_lora_slot *slot, tn_module *module) {
    if (slot->embedding || !tn_lora_init_reduces_base(adapter->config.init))
        return TN_OK;
    slot->scale0 = slot->scale;
    return reducing_factors(adapter, slot, module, slot->slot.id, slot->a0.tensor.data, slot->b0.tensor.data);
}

/* With Q orthogonal [R, R]: A^T = X Q_odd / 10, B = Y^T Q_even / 10, X [C, R/2], Y [R/2, O] normal; the rows of Q_odd and
 * Q_even are orthogonal, so B A = 0. */
static tn_status orthogonal(const tn_lora_slot *slot, uint64_t seed, uint64_t stream, const char *module) {
    int64_t rank = slot->a.tensor.shape[0], in = slot->a.tensor.shape[1], out = slot->b.tensor.shape[0], half = rank / 2;
    if (rank % 2)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: the orthogonal initialisation needs an even rank, not %lld", module,
                       (long long)rank);
    tn_status status = TN_OK;
    int64_t most = in > out ? in : out;
    float *random = tn_malloc((size_t)(rank * rank) * sizeof *random), *q = tn_malloc((size_t)(rank * rank) * sizeof *q);
    float *x = tn_malloc((size_t)(most * half) * sizeof *x), *a = slot->a.tensor.data, *b = slot->b.tensor.data;
    if (!random || !q || !x) {
        status = tn_fail_memory("a LoRA initialisation");
        goto fail;
    }
    tn_fill_normal(random, (size_t)(rank * rank), seed, stream, 0, 1);
    TN_TRY_GOTO(tn_qr(random, rank, rank, q, NULL));
    tn_fill_normal(x, (size_t)(in * half), seed, stream + (UINT64_C(1) << 28), 0, 0.1f);
    for (int64_t r = 0; r < rank; r++)
        for (int64_t i = 0; i < in; i++)
            for (int64_t h = 0; h < half; h++)
                a[r * in + i] += x[i * half + h] * q[2 * h * rank + r];
    tn_fill_normal(x, (size_t)(out * half), seed, stream + (UINT64_C(2) << 28), 0, 0.1f);
    for (int64_t o = 0; o < out; o++)
        for (int64_t r = 0; r < rank; r++)
            for (int64_t h = 0; h < half; h++)
                b[o * rank + r] += x[o * half + h] * q[(2 * h + 1) * rank + r];
fail:
    tn_free(x);
    tn_free(q);
    tn_free(random);
    return status;
}

/* U(-1/sqrt(fan in), 1/sqrt(fan in)). */
static void kaiming_uniform(const tn_weight *weight, uint64_t seed, uint64_t stream) {
    float bound = 1.0f / sqrtf((float)(tn_tensor_count(&weight->tensor) / weight->tensor.shape[0]));
    tn_fill_uniform(weight->tensor.data, (size_t)tn_tensor_count(&weight->tensor), seed, stream, -bound, bound);
}

tn_status tn_lora_init(tn_adapter *adapter, tn_lora_slot *slot, tn_module *module, uint64_t seed) {
    const char *init = adapter->config.init;
    uint64_t stream = tn_stream(TN_STREAM_INIT, slot->slot.id * 2), stream_b = stream + 1;
    size_t a_count = (size_t)tn_tensor_count(&slot->a.tensor), b_count = (size_t)tn_tensor_count(&slot->b.tensor);
    if (slot->has_magnitude)
        TN_TRY(tn_dora_init(adapter, slot, module));
    if (slot->has_diagonal) {
        tn_fill_normal(slot->diagonal.tensor.data, (size_t)slot->a.tensor.shape[0], seed, stream + (UINT64_C(3) << 28), 0,
                       1);
        TN_TRY(tn_lora_truncate_base(slot, module));
    }
    if (slot->embedding) {
        tn_fill_normal(slot->b.tensor.data, b_count, seed, stream_b, 0, 1);
    } else if (tn_lora_init_reduces_base(init)) {
        if (adapter->from_file) /* tn_lora_init_residual follows */
            return TN_OK;
        TN_TRY(tn_lora_init_residual(adapter, slot, module));
        memcpy(slot->a.tensor.data, slot->a0.tensor.data, a_count * sizeof(float));
        memcpy(slot->b.tensor.data, slot->b0.tensor.data, b_count * sizeof(float));
    } else if (tn_lora_init_quantises_base(init)) {
        return tn_lora_init_loftq(adapter, slot, module);
    } else if (strcmp(init, "gaussian") == 0) {
        tn_fill_normal(slot->a.tensor.data, a_count, seed, stream, 0, 1.0f / (float)slot->a.tensor.shape[0]);
    } else if (strcmp(init, "orthogonal") == 0) {
        return orthogonal(slot, seed, stream, module->name);
    } else {
        kaiming_uniform(&slot->a, seed, stream);
        if (strcmp(init, "random") == 0)
            kaiming_uniform(&slot->b, seed, stream_b);
    }
    return TN_OK;
}
