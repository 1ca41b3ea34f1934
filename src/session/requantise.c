/* Merging into a quantised base so that it stays one: module by module the merged weight is computed in f32 and quantised as
 * the base's was, or rounded to the type that the base stores. A GGUF base becomes a GGUF file again. */
#include "session/quantize.h"

#include <math.h>
#include <string.h>

#include "model/quantised.h"
#include "session/gguf_write.h"
#include "session/merge.h"

typedef struct {
    tn_model *model;
    const tn_quantize_callbacks *callbacks;
    tn_merge_report *report;
    float *weight, *bias;
    int64_t most; /* elements of each */
    tn_module *before;
} requantiser;

static int64_t largest_weight(const tn_network *network) {
    int64_t most = 1;
    for (int64_t i = 0; i < network->module_count; i++) {
        int64_t count = tn_tensor_count(&tn_module_weight(&network->modules[i])->tensor);
        most = count > most ? count : most;
    }
    return most;
}

/* The weight is replaced by one of the same form, which the network owns. */
static tn_status replace_codes(const requantiser *r, tn_module *module, const tn_tensor *merged) {
    const tn_quantised *old = module->weight.tensor.data;
    tn_quantised *array = tn_network_new_quantised(r->model->network);
    if (!array)
        return tn_fail_memory("the merged weights");
    TN_TRY(tn_quantised_new(array, old->codec, &old->params, old->count));
    tn_status status = tn_quantise(array, merged);
    if (status != TN_OK)
        return tn_fail_context(status, "'%s'", module->name);
    tn_quantize_layer layer = {.module = module->name};
    const tn_tensor after = {TN_DTYPE_QUANTISED, merged->ndim, {merged->shape[0], merged->shape[1]}, array};
    tn_quantize_compare(&layer, merged, &after);
    r->report->largest_rounding = fmax(r->report->largest_rounding, layer.largest_error);
    if (r->callbacks && r->callbacks->layer)
        r->callbacks->layer(r->callbacks->cookie, &layer);
    module->weight.tensor.data = array;
    return TN_OK;
}

/* In the type that the checkpoint stores, on the network's arena. */
static tn_status replace_values(const requantiser *r, tn_module *module, int part, const float *values) {
    tn_network *network = r->model->network;
    tn_tensor *tensor = &tn_module_part(module, part)->tensor;
    const tn_tensor *stored = tn_network_stored(network, module->name, tn_module_part_name(part));
    int64_t count = tn_tensor_count(tensor);
    tn_dtype dtype = stored && tn_dtype_is_float(stored->dtype) ? stored->dtype : tensor->dtype;
    void *data = tn_arena_array(&network->arena, (size_t)count, (size_t)tn_dtype_size(dtype));
    if (!data)
        return tn_fail_memory("the merged weights");
    r->model->kernels->from_f32(data, dtype, values, count);
    tensor->data = data;
    tensor->dtype = dtype;
    return TN_OK;
}

static tn_status merge_module(const requantiser *r, tn_module *module) {
    const tn_adapter *adapter = r->model->adapter;
    bool has_bias;
    if (!tn_adapter_changes(adapter, module))
        return TN_OK;
    if (module->tied && tn_adapter_has(adapter, module))
        return tn_fail(
            TN_ERROR_UNSUPPORTED,
            "'%s' shares its weight with '%s' and the adapter changes only one of them; merge into full precision",
            module->name, module->tied->name);
    if (module->tied)
        return TN_OK;
    const bool quantised = module->weight.tensor.dtype == TN_DTYPE_QUANTISED;
    tn_tensor merged = module->weight.tensor;
    TN_TRY(tn_adapter_merged_weight(adapter, module, r->weight, r->bias, &has_bias));
    if (has_bias && !module->has_bias)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "lora_bias gives '%s' a bias, which this architecture has no place for; keep the adapter unmerged",
                       module->name);
    merged.dtype = TN_DTYPE_F32;
    merged.data = r->weight;
    TN_TRY(quantised ? replace_codes(r, module, &merged) : replace_values(r, module, 0, r->weight));
    r->report->modules++;
    return has_bias ? replace_values(r, module, 1, r->bias) : TN_OK;
}

static tn_status start(requantiser *r) {
    const tn_network *network = r->model->network;
    r->most = largest_weight(network);
    r->weight = tn_pages_alloc((size_t)r->most * sizeof(float));
    r->bias = tn_pages_alloc((size_t)r->most * sizeof(float));
    r->before = tn_malloc((size_t)network->module_count * sizeof *r->before);
    if (!r->weight || !r->bias || !r->before)
        return tn_fail_memory("the merged weights");
    memcpy(r->before, network->modules, (size_t)network->module_count * sizeof *r->before);
    return tn_session_check_can_merge(r->model->adapter);
}

static void finish(requantiser *r) {
    tn_pages_free(r->weight, (size_t)r->most * sizeof(float));
    tn_pages_free(r->bias, (size_t)r->most * sizeof(float));
    if (r->before)
        memcpy(r->model->network->modules, r->before, (size_t)r->model->network->module_count * sizeof *r->before);
    tn_free(r->before);
}

tn_status tn_model_merge_requantized(tn_model *model, const char *dir, const tn_quantize_callbacks *callbacks,
                                     tn_merge_report *report) {
    tn_merge_report unused;
    requantiser r = {.model = model, .callbacks = callbacks, .report = report ? report : &unused};
    float *unmerged = NULL, *merged = NULL;
    int64_t count;
    tn_quantize_summary summary;
    *r.report = (tn_merge_report){0};
    tn_model_describe_quantized(model, &summary);
    if (!model->adapter || !summary.modules)
        return tn_fail(TN_ERROR_ARGUMENT, !model->adapter ? "the model has no adapter to merge"
                                                          : "the base is not quantised; merge without quantising again");
    bool was_on = tn_session_switch_on(model);
    tn_status status;
    TN_TRY_GOTO(start(&r));
    TN_TRY_GOTO(tn_session_probe_logits(model, &unmerged, &count));
    for (int64_t i = 0; i < model->network->module_count; i++)
        TN_TRY_GOTO(merge_module(&r, &model->network->modules[i]));
    tn_adapter_mute(model->adapter, true);
    status = tn_session_probe_logits(model, &merged, &count);
    if (status == TN_OK)
        status = model->network->checkpoint.gguf ? tn_model_save_gguf(model, dir) : tn_model_save_quantized(model, dir);
    tn_adapter_mute(model->adapter, false);
    if (status == TN_OK)
        r.report->logit_difference = tn_session_largest_difference(unmerged, merged, count);
fail:
    finish(&r);
    tn_free(unmerged);
    tn_free(merged);
    tn_model_enable_adapter(model, was_on);
    return status;
}
