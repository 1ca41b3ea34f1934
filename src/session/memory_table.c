/* Memory of weights by ways of training, without training. */
#include <tenon/methods.h>
#include <tenon/quantize.h>

#include "session/session.h"

enum { F32 = 4, BF16 = 2, MOMENTS = 2, NESTED_BLOCK = 256 };

static const struct {
    const char *name, *method; /* method NULL: every weight */
    bool quantised, nested;
} ways[TN_MEMORY_ROWS] = {
    {"full", NULL, false, false},
    {"lora", "lora", false, false},
    {"dora", "dora", false, false},
    {"qlora", "lora", true, false},
    {"qlora, double quant", "lora", true, true},
    {"qdora", "dora", true, false},
    {"qdora, double quant", "dora", true, true},
};

static void fill(tn_memory_row *row, int way, int64_t base, int64_t trained, int64_t frozen) {
    *row = (tn_memory_row){.name = ways[way].name, .trained = trained, .base = base};
    row->adapter = (trained + frozen) * F32;
    row->gradients = trained * F32;
    row->optimizer = MOMENTS * row->gradients;
    row->total = row->base + row->adapter + row->gradients + row->optimizer;
}

/* Bytes of `count` weights in NF4. */
static tn_status nf4_bytes(int64_t count, bool nested, int64_t *bytes) {
    tn_quant_params params = tn_codec_nf4.defaults;
    tn_quant_sizes sizes;
    params.nested_block = nested ? NESTED_BLOCK : 0;
    TN_TRY(tn_quant_sizes_of(&tn_codec_nf4, &params, count, &sizes));
    *bytes = sizes.total;
    return TN_OK;
}

static tn_status base_bytes(const tn_network *network, bool quantised, bool nested, int64_t *sum) {
    *sum = 0;
    for (int64_t i = 0; i < network->module_count; i++) {
        const tn_module *module = &network->modules[i];
        const tn_tensor *weight = &module->weight.tensor;
        int64_t bytes = 0;
        if (!module->tied && quantised && module->kind == TN_MODULE_LINEAR && !module->is_head)
            TN_TRY(nf4_bytes(tn_tensor_count(weight), nested, &bytes));
        else if (!module->tied)
            bytes = weight->dtype == TN_DTYPE_QUANTISED ? tn_tensor_count(weight) * BF16 : tn_tensor_bytes(weight);
        *sum += bytes + (module->has_bias ? tn_tensor_bytes(&module->bias.tensor) : 0);
    }
    return TN_OK;
}

static tn_status count_trained(tn_model *model, const tn_adapter_options *wanted, const char *method, int64_t *trained,
                               int64_t *frozen) {
    tn_adapter_options options;
    tn_peft_config config;
    tn_adapter *adapter;
    tn_adapter_options_default(&options);
    options.method = method;
    options.rank = wanted->rank;
    options.target_modules = wanted->target_modules;
    options.exclude_modules = wanted->exclude_modules;
    TN_TRY(tn_session_adapter_config(model, &options, &config));
    TN_TRY(tn_adapter_outline(model->network, config.method, &config, true, &adapter));
    *trained = *frozen = 0;
    for (int64_t i = 0; i < adapter->params.count; i++)
        *trained += adapter->params.entries[i].is_buffer ? 0 : tn_tensor_count(&adapter->params.entries[i].weight->tensor);
    for (int64_t i = 0; i < adapter->constants.count; i++)
        *frozen += tn_tensor_count(&adapter->constants.entries[i].weight->tensor);
    tn_adapter_free(adapter);
    return TN_OK;
}

tn_status tn_memory_table(tn_model *model, const tn_adapter_options *options, tn_memory_row table[TN_MEMORY_ROWS]) {
    for (int way = 0; way < TN_MEMORY_ROWS; way++) {
        int64_t base = 0, trained = tn_network_parameters(model->network), frozen = 0;
        if (ways[way].method) {
            TN_TRY(base_bytes(model->network, ways[way].quantised, ways[way].nested, &base));
            TN_TRY(count_trained(model, options, ways[way].method, &trained, &frozen));
        }
        fill(&table[way], way, base, trained, frozen);
    }
    return TN_OK;
}

tn_status tn_memory_table_of_layer(int64_t rows, int64_t cols, int64_t rank, tn_memory_row table[TN_MEMORY_ROWS]) {
    int64_t count;
    if (rows < 1 || cols < 1 || !tn_mul_i64(rows, cols, &count) || count > INT64_MAX / 64)
        return tn_fail(TN_ERROR_ARGUMENT, "a layer of %lld x %lld cannot be", (long long)rows, (long long)cols);
    for (int way = 0; way < TN_MEMORY_ROWS; way++) {
        int64_t base = count * F32, trained = count, frozen = 0;
        size_t index;
        if (ways[way].quantised)
            TN_TRY(nf4_bytes(count, ways[way].nested, &base));
        if (ways[way].method) {
            TN_TRY(tn_method_find(ways[way].method, &index));
            TN_TRY(tn_method_parameters(index, rows, cols, rank, &trained, &frozen));
        } else {
            base = 0;
        }
        fill(&table[way], way, base, trained, frozen);
    }
    return TN_OK;
}
