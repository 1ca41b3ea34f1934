/* The difference of two checkpoints as a LoRA: truncated SVD of tuned - base, weight by weight. */
#include <math.h>
#include <string.h>

#include "format/json.h"
#include "kernel/kernel.h"
#include "peft/lora.h"
#include "session/low_rank_result.h"
#include "session/weight_role.h"
#include "tensor/checkpoint.h"

enum { CONFIG_LIMIT = 16 << 20 };
static const char PREFIX[] = "base_model.model.";

typedef struct {
    const tn_extract_options *options;
    tn_checkpoint base, tuned;
    cJSON *json; /* the base's config.json; NULL when there is none */
    tn_peft_config config;
    tn_low_rank_result result;
    tn_rest_tensor *rest;
    tn_kept_tensor *kept;
    size_t rest_count, kept_count, capacity; /* capacity of both: the number of tensors */
    tn_map adapted;                          /* module -> 1 */
    tn_arena arena;
} extraction;

void tn_extract_options_default(tn_extract_options *options) {
    *options = (tn_extract_options){.energy = 0.95};
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length > tail && strcmp(text + length - tail, end) == 0;
}

/* The module of "<module>.weight" or "<module>.bias", in the extraction's arena; NULL for other names and without memory. */
static const char *module_of(extraction *e, const char *name) {
    const char *end = ends_with(name, ".weight") ? ".weight" : ".bias";
    return ends_with(name, end) ? tn_arena_strndup(&e->arena, name, strlen(name) - strlen(end)) : NULL;
}

static tn_status is_target(const extraction *e, const char *module, tn_weight_role r, bool *yes) {
    const tn_peft_config *c = &e->config;
    *yes = r != TN_WEIGHT_OTHER && (r != TN_WEIGHT_EMBEDDING || e->options->embeddings);
    if (!*yes || !e->options->target_modules)
        return TN_OK;
    if (c->target_regex)
        return tn_peft_full_match(c->target_regex, module, "target_modules", yes);
    *yes = c->all_linear ? !tn_weight_is_head(module) : tn_peft_names_module(c->target_modules, module);
    return TN_OK;
}

/* --- differences --- */

/* out [count] = tuned - base, and the squared norms of difference and base. */
static void subtract(float *out, const tn_tensor *base, const tn_tensor *tuned, double *difference, double *original) {
    enum { PIECE = 4096 };
    float x[PIECE], y[PIECE];
    int64_t count = tn_tensor_count(base);
    *difference = *original = 0;
    for (int64_t at = 0; at < count; at += PIECE) {
        int64_t n = count - at < PIECE ? count - at : PIECE;
        tn_tensor_read(x, base, at, n);
        tn_tensor_read(y, tuned, at, n);
        for (int64_t i = 0; i < n; i++) {
            double d = (double)y[i] - x[i];
            *difference += d * d;
            *original += (double)x[i] * x[i];
            if (out)
                out[at + i] = (float)d;
        }
    }
}

static void transpose(float *out, const float *in, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            out[j * rows + i] = in[i * cols + j];
}

/* The update [O, C] that a LoRA on this weight adds: of embeddings and Conv1D the transposed difference. */
static tn_status extract_weight(extraction *e, const char *module, tn_weight_role r, const tn_tensor *base,
                                const tn_tensor *tuned) {
    bool turned = r == TN_WEIGHT_EMBEDDING || r == TN_WEIGHT_TRANSPOSED;
    int64_t count = tn_tensor_count(base), rows = base->shape[0], cols = count / rows;
    double difference, original;
    tn_arena scratch = {0};
    tn_low_rank low_rank;
    tn_status status;
    float *w = tn_arena_array(&scratch, (size_t)count, sizeof *w), *update = w;
    if (turned)
        update = tn_arena_array(&scratch, (size_t)count, sizeof *update);
    if (!w || !update) {
        status = tn_fail_memory("the difference of two weights");
        goto fail;
    }
    subtract(w, base, tuned, &difference, &original);
    if (turned)
        transpose(update, w, rows, cols);
    const tn_rank_choice choice = {e->options->rank, e->options->energy};
    TN_TRY_GOTO(tn_low_rank_of_dense(update, turned ? cols : rows, turned ? rows : cols, choice, e->options->seed,
                                     &e->result.arena, &low_rank));
    tn_factor_module made = {.name = module,
                             .kind = r == TN_WEIGHT_EMBEDDING ? TN_FACTOR_EMBEDDING
                                     : r == TN_WEIGHT_CONV2D  ? TN_FACTOR_CONV2D
                                                              : TN_FACTOR_LINEAR,
                             .factors = low_rank.factors};
    for (int i = 0; i < 3 && r == TN_WEIGHT_CONV2D; i++)
        made.window[i] = base->shape[i + 1];
    TN_TRY_GOTO(tn_low_rank_result_add(&e->result, &made, sqrt(low_rank.total), sqrt(low_rank.dropped)));
    status = tn_map_put_text(&e->adapted, module, 1);
fail:
    tn_arena_free(&scratch);
    return status;
}

static tn_status check_finite(const char *which, const char *name, const tn_tensor *tensor) {
    int64_t bad = tn_tensor_first_nonfinite(tensor);
    if (bad >= 0)
        return tn_fail(TN_ERROR_NUMERIC, "'%s' of the %s checkpoint holds a NaN or infinity at element %lld", name, which,
                       (long long)bad);
    return TN_OK;
}

static bool has_numbers(const tn_tensor *tensor) {
    return tn_dtype_is_float(tensor->dtype) || tensor->dtype == TN_DTYPE_QUANTISED;
}

/* One tensor of both checkpoints: nothing when equal, a LoRA for weights that are targets, a note for the rest. */
static tn_status take_tensor(extraction *e, const char *name, const tn_tensor *base, const tn_tensor *tuned) {
    char shape[TN_SHAPE_TEXT], other[TN_SHAPE_TEXT];
    double difference, original;
    bool target;
    if (!tn_tensor_same_shape(base, tuned))
        return tn_fail(TN_ERROR_MISMATCH, "'%s' has shape %s in the base and %s in the tuned checkpoint", name,
                       tn_shape_text(base, shape), tn_shape_text(tuned, other));
    bool is_code = base->dtype == TN_DTYPE_QUANTISED || tuned->dtype == TN_DTYPE_QUANTISED;
    if (!is_code && base->dtype == tuned->dtype && memcmp(base->data, tuned->data, (size_t)tn_tensor_bytes(base)) == 0)
        return TN_OK;
    if (!has_numbers(base) || !has_numbers(tuned))
        return tn_fail(TN_ERROR_UNSUPPORTED, "'%s' differs and is stored as %s and %s; differences are taken of floats",
                       name, tn_tensor_type(base), tn_tensor_type(tuned));
    TN_TRY(check_finite("base", name, base));
    TN_TRY(check_finite("tuned", name, tuned));
    subtract(NULL, base, tuned, &difference, &original);
    if (difference == 0)
        return TN_OK;
    const char *module = module_of(e, name);
    tn_weight_role r = tn_weight_role_of(e->json, name, module, base);
    TN_TRY(is_target(e, module, r, &target));
    if (target)
        return extract_weight(e, module, r, base, tuned);
    e->rest[e->rest_count++] = (tn_rest_tensor){name, sqrt(difference), sqrt(original), e->options->keep_rest};
    return TN_OK;
}

/* A shard may hold tensors that the index does not name for it. */
static bool is_part(const tn_checkpoint *checkpoint, const tn_safetensors_entry *entry) {
    return tn_checkpoint_find(checkpoint, entry->name) == &entry->tensor;
}

static tn_status check_names(const tn_checkpoint *of, const tn_checkpoint *other, const char *of_name,
                             const char *other_name) {
    for (size_t f = 0; f < of->file_count; f++)
        for (size_t i = 0; i < of->files[f].count; i++) {
            const tn_safetensors_entry *entry = &of->files[f].entries[i];
            if (is_part(of, entry) && !tn_checkpoint_find(other, entry->name))
                return tn_fail(TN_ERROR_MISMATCH,
                               "'%s' is in the %s checkpoint and not in the %s one; both must hold the same "
                               "tensors",
                               entry->name, of_name, other_name);
        }
    return TN_OK;
}

static tn_status take_tensors(extraction *e) {
    for (size_t f = 0; f < e->base.file_count; f++)
        for (size_t i = 0; i < e->base.files[f].count; i++) {
            const tn_safetensors_entry *entry = &e->base.files[f].entries[i];
            if (is_part(&e->base, entry))
                TN_TRY(take_tensor(e, entry->name, &entry->tensor, tn_checkpoint_find(&e->tuned, entry->name)));
        }
    if (e->result.count)
        return TN_OK;
    if (!e->rest_count)
        return tn_fail(TN_ERROR_MISMATCH, "the two checkpoints hold the same values");
    return tn_fail(TN_ERROR_MISMATCH, "no weight that a LoRA is made for differs; '%s' does", e->rest[0].name);
}

/* --- what is kept whole --- */

static bool is_tied(const extraction *e) {
    return tn_weight_head_is_tied(e->json) && !tn_checkpoint_find(&e->base, "lm_head.weight");
}

/* A LoRA on an embedding would leave a head that shares its weight as it was. */
static tn_status check_tied(const extraction *e) {
    for (size_t i = 0; i < e->result.count && is_tied(e); i++)
        if (tn_weight_is_input_embedding(e->result.modules[i].name))
            return tn_fail(TN_ERROR_UNSUPPORTED,
                           "'%s' is also the output head's weight, which a LoRA on the embedding would not change; keep it "
                           "whole (--keep-rest without --embeddings)",
                           e->result.modules[i].name);
    return TN_OK;
}

static tn_status keep_tensor(extraction *e, const char *module, const char *end, const char *key_end) {
    const char *name = tn_arena_printf(&e->arena, "%s%s", module, end);
    const char *key = tn_arena_printf(&e->arena, "%s%s%s", PREFIX, module, key_end);
    if (!name || !key)
        return tn_fail_memory("the kept tensors");
    const tn_tensor *tensor = tn_checkpoint_find(&e->tuned, name);
    if (tensor)
        e->kept[e->kept_count++] = (tn_kept_tensor){key, *tensor};
    return TN_OK;
}

/* Changed biases of adapted modules: PEFT's bias "lora_only" holds those of all adapted modules. Everything else goes whole
 * into modules_to_save. */
static tn_status keep_rest(extraction *e) {
    tn_map saved = {0};
    const char **names = tn_arena_array(&e->config.arena, e->rest_count + 1, sizeof *names);
    tn_status status = names ? TN_OK : tn_fail_memory("the adapter's configuration");
    size_t count = 0;
    for (size_t i = 0; i < e->rest_count && status == TN_OK; i++) {
        const char *module = module_of(e, e->rest[i].name);
        if (!module)
            status =
                tn_fail(TN_ERROR_UNSUPPORTED,
                        "'%s' differs and is neither a weight nor a bias of a module, so it cannot be kept in an adapter",
                        e->rest[i].name);
        else if (tn_map_get_text(&e->adapted, module, NULL))
            e->config.bias = TN_BIAS_ADAPTED;
        else if (!tn_map_get_text(&saved, module, NULL)) {
            names[count++] = module;
            e->config.ensure_weight_tying |= is_tied(e) && tn_weight_is_input_embedding(module);
            status = tn_map_put_text(&saved, module, 1);
            if (status == TN_OK)
                status = keep_tensor(e, module, ".weight", ".weight");
            if (status == TN_OK)
                status = keep_tensor(e, module, ".bias", ".bias");
        }
    }
    for (size_t i = 0; i < e->result.count && status == TN_OK && e->config.bias == TN_BIAS_ADAPTED; i++)
        status = keep_tensor(e, e->result.modules[i].name, ".bias", ".base_layer.bias");
    e->config.modules_to_save = (tn_text_list){names, count};
    tn_map_free(&saved);
    return status;
}

/* --- targets --- */

static tn_status count_part(tn_map *counts, const char *module) {
    int64_t count = 0;
    tn_map_get_text(counts, tn_module_last_part(module), &count);
    return tn_map_put_text(counts, tn_module_last_part(module), count + 1);
}

static tn_status count_parts(extraction *e, tn_map *all, tn_map *adapted) {
    for (size_t f = 0; f < e->base.file_count; f++)
        for (size_t i = 0; i < e->base.files[f].count; i++) {
            const char *name = e->base.files[f].entries[i].name;
            const char *module = ends_with(name, ".weight") ? module_of(e, name) : NULL;
            if (module)
                TN_TRY(count_part(all, module));
        }
    for (size_t i = 0; i < e->result.count; i++)
        TN_TRY(count_part(adapted, e->result.modules[i].name));
    return TN_OK;
}

/* "q_proj" where every q_proj has an update, else modules by their full names. */
static tn_status name_targets(extraction *e) {
    const char **names = tn_arena_array(&e->config.arena, e->result.count + 1, sizeof *names);
    tn_map all = {0}, adapted = {0};
    tn_status status = names ? count_parts(e, &all, &adapted) : tn_fail_memory("the adapter's configuration");
    size_t count = 0;
    for (size_t i = 0; i < e->result.count && status == TN_OK; i++) {
        const char *module = e->result.modules[i].name, *part = tn_module_last_part(module);
        int64_t there = 0, changed = 0;
        tn_map_get_text(&all, part, &there);
        tn_map_get_text(&adapted, part, &changed);
        if (changed == 0)
            continue; /* named already */
        names[count++] = changed == there ? part : module;
        if (changed == there)
            status = tn_map_put_text(&adapted, part, 0);
    }
    e->config.target_regex = NULL;
    e->config.all_linear = false;
    e->config.target_modules = (tn_text_list){names, count};
    tn_map_free(&all);
    tn_map_free(&adapted);
    return status;
}

/* --- the whole --- */

static tn_status open_inputs(extraction *e, const char *base_dir, const char *tuned_dir) {
    char path[TN_PATH_MAX];
    TN_TRY(tn_checkpoint_open(base_dir, &e->base));
    TN_TRY(tn_checkpoint_open(tuned_dir, &e->tuned));
    TN_TRY(tn_path_join(path, base_dir, "config.json"));
    if (tn_path_exists(path))
        TN_TRY(tn_json_read(path, CONFIG_LIMIT, &e->json));
    TN_TRY(check_names(&e->base, &e->tuned, "base", "tuned"));
    TN_TRY(check_names(&e->tuned, &e->base, "tuned", "base"));
    size_t most = 1;
    for (size_t f = 0; f < e->base.file_count; f++)
        most += e->base.files[f].count;
    e->rest = tn_arena_array(&e->arena, most, sizeof *e->rest);
    e->kept = tn_arena_array(&e->arena, most, sizeof *e->kept);
    if (!e->rest || !e->kept)
        return tn_fail_memory("the list of tensors");
    if (e->options->target_modules)
        TN_TRY(tn_peft_config_set_targets(&e->config, e->options->target_modules));
    e->config.base_model = tn_arena_strdup(&e->config.arena, base_dir);
    return e->config.base_model ? TN_OK : tn_fail_memory("the adapter's configuration");
}

static void close_inputs(extraction *e) {
    tn_low_rank_result_free(&e->result);
    tn_peft_config_free(&e->config);
    tn_map_free(&e->adapted);
    tn_arena_free(&e->arena);
    tn_checkpoint_close(&e->base);
    tn_checkpoint_close(&e->tuned);
    cJSON_Delete(e->json);
}

tn_status tn_extract_adapter(const char *base_dir, const char *tuned_dir, const tn_extract_options *options, const char *out,
                             tn_low_rank_report *report) {
    extraction e = {.options = options};
    tn_status status;
    if (report)
        *report = (tn_low_rank_report){0};
    if (options->rank < 0 || (options->rank == 0 && !(options->energy > 0 && options->energy <= 1)))
        return tn_fail(TN_ERROR_ARGUMENT, "extracting needs a rank of at least 1, or an energy above 0 and at most 1");
    TN_TRY(tn_check_other_folder(out, base_dir));
    TN_TRY(tn_check_other_folder(out, tuned_dir));
    TN_TRY_GOTO(tn_peft_config_init(&e.config, &tn_lora));
    TN_TRY_GOTO(open_inputs(&e, base_dir, tuned_dir));
    TN_TRY_GOTO(take_tensors(&e));
    TN_TRY_GOTO(check_tied(&e));
    if (options->keep_rest)
        TN_TRY_GOTO(keep_rest(&e));
    TN_TRY_GOTO(name_targets(&e));
    TN_TRY_GOTO(tn_factor_folder_write(out, &e.config, e.result.modules, e.result.count, e.kept, e.kept_count));
    status = tn_low_rank_result_report(&e.result, e.rest, e.rest_count, report);
fail:
    close_inputs(&e);
    return status;
}
