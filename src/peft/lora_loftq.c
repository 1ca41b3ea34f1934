/* LoftQ (Li et al. 2023, arXiv 2310.08659): beginning with B A = 0, `loftq_iter` times
 *   Q = quant(W - B A),  B A = U_r S_r V_r^T, svd(W - Q) = U S V^T: B = U_r sqrt(S_r), A = sqrt(S_r) V_r^T.
 * The base's weight becomes Q. As in PEFT, quant is NF4 or NF8 with an f32 scale for 64 elements, and s is not divided out
 * of B A: alpha = R suits. Q depends on W and the configuration alone, so that it is computed anew for a loaded adapter. */
#include <math.h>
#include <string.h>

#include "peft/lora.h"
#include "tensor/linalg.h"

static const tn_quant_params blocks_of_64 = {.block = 64, .range = TN_QUANT_ABSMAX};

bool tn_lora_init_quantises_base(const char *init) {
    return strcmp(init, "loftq") == 0;
}

static const tn_quant_codec *codec_of(const tn_peft_config *config) {
    return config->loftq_bits == 8 ? &tn_codec_nf8 : &tn_codec_nf4;
}

tn_status tn_lora_loftq_check(const tn_peft_config *config) {
    if (!tn_lora_init_quantises_base(config->init)) {
        if (config->loftq_bits || config->loftq_iterations)
            return tn_fail(TN_ERROR_ARGUMENT, "loftq_config is for init_lora_weights loftq, not %s", config->init);
        return TN_OK;
    }
    if (config->loftq_bits && config->loftq_bits != 4 && config->loftq_bits != 8)
        return tn_fail(TN_ERROR_UNSUPPORTED, "loftq_bits %lld is not supported; choose 4 or 8",
                       (long long)config->loftq_bits);
    return TN_OK;
}

/* The weight as it was before any quantisation; its layout is the module's. */
static tn_status original_weight(const tn_adapter *adapter, const tn_module *module, tn_weight *out) {
    if (module->tied)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "init_lora_weights loftq: '%s' shares its weight with '%s', which would be quantised as well; "
                       "leave it out of the targets",
                       module->name, module->tied->name);
    *out = module->weight;
    if (out->tensor.dtype != TN_DTYPE_QUANTISED)
        return TN_OK;
    const tn_tensor *stored = tn_network_stored(adapter->model, module->name, "weight");
    if (!stored || !tn_dtype_is_float(stored->dtype) || !tn_tensor_same_shape(stored, &out->tensor))
        return tn_fail(
            TN_ERROR_UNSUPPORTED,
            "init_lora_weights loftq: the checkpoint holds '%s' in a quantised form only, and LoftQ needs what it "
            "was before; use the checkpoint that is not quantised, which LoftQ quantises itself",
            module->name);
    out->tensor = *stored;
    return TN_OK;
}

/* All [O, C]: W, its rest, and the thin SVD of the rest. */
typedef struct {
    int64_t rows, cols, k;
    float *w, *rest, *laid_out, *u, *s, *vt;
} workspace;

static void workspace_free(workspace *m) {
    tn_free(m->vt);
    tn_free(m->s);
    tn_free(m->u);
    tn_free(m->laid_out);
    tn_free(m->rest);
    tn_free(m->w);
}

static tn_status workspace_init(workspace *m, const tn_weight *weight) {
    int64_t rows = tn_weight_out(weight), cols = tn_weight_in(weight), k = rows < cols ? rows : cols;
    size_t size = (size_t)(rows * cols) * sizeof(float);
    *m = (workspace){.rows = rows, .cols = cols, .k = k};
    m->w = tn_malloc(size);
    m->rest = tn_malloc(size);
    m->laid_out = tn_malloc(size);
    m->u = tn_malloc((size_t)(rows * k) * sizeof *m->u);
    m->s = tn_malloc((size_t)k * sizeof *m->s);
    m->vt = tn_malloc((size_t)(k * cols) * sizeof *m->vt);
    if (!m->w || !m->rest || !m->laid_out || !m->u || !m->s || !m->vt)
        return tn_fail_memory("a LoftQ initialisation");
    tn_weight_read(weight, m->w);
    return TN_OK;
}

/* Q = quant(m->rest), blocks running over the weight as it is stored; m->rest = W - Q. */
static tn_status quantise(workspace *m, const tn_weight *weight, tn_quantised *array) {
    tn_tensor x = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {weight->tensor.shape[0], weight->tensor.shape[1]}};
    x.data = m->laid_out;
    tn_weight_lay_out(weight, m->rest, m->laid_out);
    TN_TRY(tn_quantise(array, &x));
    tn_weight quantised = *weight;
    quantised.tensor.dtype = TN_DTYPE_QUANTISED;
    quantised.tensor.data = array;
    tn_weight_read(&quantised, m->rest);
    for (int64_t i = 0; i < m->rows * m->cols; i++)
        m->rest[i] = m->w[i] - m->rest[i];
    return TN_OK;
}

/* The R leading triplets of m->rest as A [R, C] and B [O, R]. */
static tn_status decompose(workspace *m, int64_t rank, float *a, float *b) {
    TN_TRY(tn_svd(m->rest, m->rows, m->cols, m->u, m->s, m->vt));
    for (int64_t r = 0; r < rank; r++) {
        float root = sqrtf(m->s[r]);
        for (int64_t j = 0; j < m->cols; j++)
            a[r * m->cols + j] = root * m->vt[r * m->cols + j];
        for (int64_t i = 0; i < m->rows; i++)
            b[i * rank + r] = root * m->u[i * m->k + r];
    }
    return TN_OK;
}

/* Without `last_product`, as Q of the last step does not depend on it, A and B stay those of the step before. */
static tn_status alternate(workspace *m, const tn_weight *weight, int64_t iterations, bool last_product, int64_t rank,
                           float *a, float *b, tn_quantised *array) {
    memcpy(m->rest, m->w, (size_t)(m->rows * m->cols) * sizeof *m->rest);
    for (int64_t i = 0; i < iterations; i++) {
        if (i > 0) {
            memcpy(m->rest, m->w, (size_t)(m->rows * m->cols) * sizeof *m->rest);
            tn_kernels_cpu()->gemm(m->rest, m->cols, tn_rows_of(b, TN_DTYPE_F32, rank), tn_rows_of(a, TN_DTYPE_F32, m->cols),
                                   -1, 1, m->rows, m->cols, rank);
        }
        TN_TRY(quantise(m, weight, array));
        if (last_product || i + 1 < iterations)
            TN_TRY(decompose(m, rank, a, b));
    }
    return TN_OK;
}

/* With one iteration, Q is what quantising on loading gives. */
static bool is_there_already(const tn_tensor *tensor, const tn_quantised *array) {
    const tn_quantised *there = tensor->dtype == TN_DTYPE_QUANTISED ? tensor->data : NULL;
    return there && there->codec == array->codec && there->block == array->block && !there->params.nested_block &&
           memcmp(there->codes, array->codes, (size_t)array->sizes.codes) == 0 &&
           memcmp(there->scales, array->scales, (size_t)array->sizes.scales) == 0;
}

tn_status tn_lora_init_loftq(tn_adapter *adapter, tn_lora_slot *slot, tn_module *module) {
    const tn_peft_config *config = &adapter->config;
    tn_weight original;
    workspace m = {0};
    tn_quantised array = {0};
    tn_status status;
    TN_TRY(original_weight(adapter, module, &original));
    TN_TRY_GOTO(workspace_init(&m, &original));
    TN_TRY_GOTO(tn_quantised_new(&array, codec_of(config), &blocks_of_64, m.rows * m.cols));
    TN_TRY_GOTO(alternate(&m, &original, config->loftq_iterations ? config->loftq_iterations : 1, !adapter->from_file,
                          slot->a.tensor.shape[0], slot->a.tensor.data, slot->b.tensor.data, &array));
    if (original.tensor.data != module->weight.tensor.data)
        tn_checkpoint_forget(&adapter->model->checkpoint, &original.tensor);
    workspace_free(&m);
    if (!is_there_already(&module->weight.tensor, &array))
        return tn_adapter_replace_weight(adapter, module, &array);
    tn_quantised_free(&array);
    return TN_OK;
fail:
    workspace_free(&m);
    tn_quantised_free(&array);
    return tn_fail_context(status, "'%s'", module->name);
}
