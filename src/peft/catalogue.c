/* The registry as people see it: every method, preset, way and initialisation, and what each would train on one layer. */
#include <tenon/methods.h>

#include <string.h>

#include "base/map.h"
#include "peft/adapter.h"
#include "peft/lora.h"

/* Weight updates without an adapter stand last. */
static const tn_peft_preset full = {
    .name = "full",
    .summary = "every weight of the base, saved as a checkpoint",
    .formula = "y = W x, W trained",
};

typedef struct {
    tn_method_kind kind;
    const tn_peft_method *method;  /* NULL: full */
    const tn_peft_preset *variant; /* NULL: the method itself */
} entry;

static size_t count_presets(const tn_peft_preset *list) {
    size_t count = 0;
    while (list[count].name)
        count++;
    return count;
}

static size_t count_methods(void) {
    size_t count = 0;
    while (tn_peft_methods[count])
        count++;
    return count;
}

size_t tn_method_count(void) {
    return count_methods() + count_presets(tn_peft_presets) + count_presets(tn_peft_ways) + count_presets(tn_lora_inits) + 1;
}

static entry entry_at(size_t index) {
    static const struct {
        tn_method_kind kind;
        const tn_peft_preset *list;
    } lists[] = {{TN_METHOD_PRESET, tn_peft_presets}, {TN_METHOD_WAY, tn_peft_ways}, {TN_METHOD_INIT, tn_lora_inits}};
    size_t methods = count_methods();
    if (index < methods)
        return (entry){TN_METHOD_OWN, tn_peft_methods[index], NULL};
    index -= methods;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        size_t count = count_presets(lists[i].list);
        if (index < count)
            return (entry){lists[i].kind, lists[i].list[index].method, &lists[i].list[index]};
        index -= count;
    }
    return (entry){TN_METHOD_OWN, NULL, &full};
}

static const char *name_of(const entry *e) {
    return e->variant ? e->variant->name : e->method->name;
}

/* A network of one linear layer whose weight has a shape and no values. */
static tn_status open_layer(tn_network *network, int64_t rows, int64_t cols) {
    static const tn_network_kind kind;
    const tn_tensor weight = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {rows, cols}};
    *network = (tn_network){.kind = &kind, .family = "linear", .default_targets = "layer"};
    TN_TRY(tn_network_reserve(network, 1));
    return tn_network_add(network, TN_MODULE_LINEAR, 0, "layer", weight, rows, false) ? TN_OK : tn_fail_memory("a layer");
}

static tn_status outline(const entry *e, tn_network *layer, int64_t rank, tn_adapter **out) {
    tn_peft_config config;
    *out = NULL;
    tn_status status = tn_peft_config_init(&config, e->method);
    if (status == TN_OK)
        status = tn_peft_config_set_targets(&config, "layer");
    if (status != TN_OK) {
        tn_peft_config_free(&config);
        return status;
    }
    if (e->variant && e->variant->apply)
        e->variant->apply(&config);
    else if (e->kind == TN_METHOD_INIT)
        config.init = e->variant->name;
    if (rank && e->method->rank_key)
        config.rank = rank;
    return tn_adapter_outline(layer, e->method, &config, false, out);
}

static int64_t count_numbers(const tn_params *params) {
    int64_t count = 0;
    for (int64_t i = 0; i < params->count; i++)
        if (params->entries[i].in_file || params->entries[i].shared)
            count += tn_tensor_count(&params->entries[i].weight->tensor);
    return count;
}

tn_status tn_method_parameters(size_t index, int64_t rows, int64_t cols, int64_t rank, int64_t *trained, int64_t *frozen) {
    const entry e = entry_at(index);
    tn_network layer = {0};
    tn_adapter *adapter = NULL;
    int64_t bytes;
    *trained = *frozen = 0;
    if (rows < 1 || cols < 1 || rank < 0 || !tn_mul_i64(rows, cols, &bytes) || !tn_mul_i64(bytes, sizeof(float), &bytes))
        return tn_fail(TN_ERROR_ARGUMENT, "a layer of %lld x %lld with rank %lld makes no sense", (long long)rows,
                       (long long)cols, (long long)rank);
    tn_status status = open_layer(&layer, rows, cols);
    if (status == TN_OK && !e.method)
        *trained = tn_network_parameters(&layer);
    else if (status == TN_OK)
        status = outline(&e, &layer, rank, &adapter);
    if (status == TN_OK && adapter) {
        *trained = count_numbers(&adapter->params);
        *frozen = count_numbers(&adapter->constants);
    }
    tn_adapter_free(adapter);
    tn_network_free(&layer);
    return status;
}

/* Whether an adapter at the method's defaults has merged weights, and whether the base can be had back from them. */
static tn_status find_obstacles(const entry *e, tn_method_info *out) {
    enum { ROWS = 1024, COLS = 1024 };
    const tn_peft_method *m = e->method;
    tn_network layer;
    tn_adapter *adapter = NULL;
    tn_status status = open_layer(&layer, ROWS, COLS), merged, unmerged = TN_ERROR_UNSUPPORTED;
    if (status == TN_OK)
        status = outline(e, &layer, 0, &adapter);
    if (status == TN_OK) {
        merged = m->check_merge ? m->check_merge(adapter) : TN_OK;
        if (e->kind == TN_METHOD_INIT && m->store_config) /* what is taken out again is the adapter as it was saved */
            status = m->store_config(adapter, &adapter->config, &adapter->arena);
        if (merged == TN_OK && (m->subtractable || m->unmerge))
            unmerged = m->check_unmerge ? m->check_unmerge(adapter) : TN_OK;
        else if (merged == TN_OK)
            tn_fail(unmerged, "%s changes weights in a way that cannot be undone from the merged ones", m->name);
        out->mergeable = merged == TN_OK;
        out->unmergeable = unmerged == TN_OK;
        if (!out->mergeable || !out->unmergeable)
            snprintf(out->obstacle, sizeof out->obstacle, "%s", tn_error_message());
    }
    tn_adapter_free(adapter);
    tn_network_free(&layer);
    return status;
}

tn_status tn_method_describe(size_t index, tn_method_info *out) {
    const entry e = entry_at(index);
    const tn_peft_method *m = e.method;
    const tn_peft_preset *v = e.variant;
    *out = (tn_method_info){.kind = e.kind,
                            .name = name_of(&e),
                            .method = m ? m->name : name_of(&e),
                            .summary = v ? v->summary : m->summary,
                            .formula = v ? v->formula : m->formula,
                            .paper = v ? v->paper : m->paper};
    if (v && v->flags)
        snprintf(out->flags, sizeof out->flags, "%s", v->flags);
    else
        snprintf(out->flags, sizeof out->flags, "--%s %s", e.kind == TN_METHOD_INIT ? "init" : "method", out->name);
    if (!m) {
        snprintf(out->obstacle, sizeof out->obstacle, "there is no adapter to merge: the result is a checkpoint");
        return TN_OK;
    }
    out->peft_type = m->peft_type;
    out->rank_key = m->rank_key;
    out->alpha_key = m->alpha_key;
    out->dropout_key = m->dropout_key;
    out->rank = m->rank_key ? (int64_t)m->rank : 0;
    out->alpha = !m->alpha_key ? 0 : m->new_alpha > 0 ? m->new_alpha : m->alpha;
    while (m->options && m->options[out->option_count].name)
        out->option_count++;
    return find_obstacles(&e, out);
}

tn_status tn_method_find(const char *name, size_t *index) {
    enum { MOST = 256 };
    const char *names[MOST];
    size_t count = tn_method_count() < MOST ? tn_method_count() : MOST;
    for (size_t i = 0; i < count; i++) {
        const entry e = entry_at(i);
        names[i] = name_of(&e);
        if (strcmp(names[i], name) == 0) {
            *index = i;
            return TN_OK;
        }
    }
    const char *nearest = tn_nearest_name(name, names, count);
    return tn_fail(TN_ERROR_ARGUMENT, "there is no method '%s'%s%s%s", name, nearest ? " (did you mean '" : "",
                   nearest ? nearest : "", nearest ? "'?)" : "; `tenon methods` lists them");
}

void tn_method_describe_option(size_t index, size_t option, tn_method_option *out) {
    const tn_option *o = &entry_at(index).method->options[option];
    tn_buf range = {0};
    *out = (tn_method_option){.name = o->name, .initial = o->initial, .help = o->help};
    tn_config_option_key(o, out->key);
    for (size_t i = 0; o->choices && o->choices[i]; i++)
        tn_buf_printf(&range, "%s%s", i ? ", " : "", o->choices[i]);
    if (o->type == TN_OPTION_INT || o->type == TN_OPTION_FLOAT)
        tn_option_print_range(&range, o);
    snprintf(out->range, sizeof out->range, "%s", tn_buf_text(&range));
    tn_buf_free(&range);
}
