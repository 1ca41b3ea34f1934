/* Reading and writing adapter_config.json and adapter_model.safetensors as factors. */
#include "peft/factors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "peft/lora.h"

enum { CONFIG_LIMIT = 16 << 20 };
static const char PREFIX[] = "base_model.model.";

static const struct {
    const char *a, *b;
    tn_factor_kind kind;
} spellings[] = {
    {".lora_A.weight", ".lora_B.weight", TN_FACTOR_LINEAR},
    {".lora_embedding_A", ".lora_embedding_B", TN_FACTOR_EMBEDDING},
};
enum { SPELLINGS = sizeof spellings / sizeof *spellings };

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length > tail && strcmp(text + length - tail, end) == 0;
}

bool tn_is_base_copy(const char *key) {
    return ends_with(key, ".base_layer.weight");
}

static tn_status refuse(const char *dir, const char *what) {
    return tn_fail(TN_ERROR_UNSUPPORTED,
                   "%s: this adapter uses %s, so its update is more than B A and cannot be decomposed; merge it into the "
                   "base (tenon merge) and take the difference of the two (tenon extract)",
                   dir, what);
}

static tn_status check_plain(const tn_peft_config *c, const char *dir) {
    if (c->method != &tn_lora)
        return tn_fail(TN_ERROR_UNSUPPORTED, "%s: peft_type '%s' has no factors A and B; LORA has", dir,
                       c->method->peft_type);
    if (c->use_dora)
        return refuse(dir, "DoRA (use_dora)");
    if (c->kasa)
        return refuse(dir, "KaSA (kasa_config)");
    if (c->invocation_count)
        return tn_fail(TN_ERROR_UNSUPPORTED,
                       "%s: this adapter is an aLoRA (alora_invocation_tokens), which acts on some tokens only; an adapter "
                       "made from it would act on all",
                       dir);
    if (c->block_diagonal.blocks)
        return refuse(dir, "BD-LoRA (use_bdlora)");
    if (c->lora_bias)
        return refuse(dir, "biases on B (lora_bias)");
    if (c->target_parameters.count)
        return refuse(dir, "target_parameters");
    if (c->replication_count)
        return refuse(dir, "layer_replication");
    if (tn_lora_init_changes_base(c->init)) {
        char what[96];
        snprintf(what, sizeof what, "init_lora_weights %.40s, which changes the base,", c->init);
        return refuse(dir, what);
    }
    return TN_OK;
}

/* [R, C] and [O, R], or a convolution's 4-D tensors, into the module. */
static tn_status check_shapes(const char *dir, tn_factor_module *m) {
    const tn_tensor *a = m->a, *b = m->b;
    char a_shape[TN_SHAPE_TEXT], b_shape[TN_SHAPE_TEXT];
    bool conv = a->ndim == 4 && b->ndim == 4 && m->kind != TN_FACTOR_EMBEDDING;
    if (conv && b->shape[1] > 0 && b->shape[1] < a->shape[0] && a->shape[0] % b->shape[1] == 0)
        return tn_fail(
            TN_ERROR_UNSUPPORTED,
            "%s: '%s' adapts a grouped convolution (lora_B is %s at rank %lld), whose update is no product of two "
            "matrices",
            dir, m->name, tn_shape_text(b, b_shape), (long long)a->shape[0]);
    bool fit = (conv && b->shape[2] == 1 && b->shape[3] == 1) || (a->ndim == 2 && b->ndim == 2);
    if (!fit || a->shape[0] != b->shape[1] || !tn_tensor_count(a) || !tn_tensor_count(b))
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' has an A of shape %s and a B of shape %s, which do not go together", dir,
                       m->name, tn_shape_text(a, a_shape), tn_shape_text(b, b_shape));
    m->kind = conv ? TN_FACTOR_CONV2D : m->kind;
    for (int i = 0; i < 3 && conv; i++)
        m->window[i] = a->shape[i + 1];
    m->factors.rank = a->shape[0];
    m->factors.in = tn_tensor_count(a) / a->shape[0];
    m->factors.out = b->shape[0];
    return TN_OK;
}

static tn_status check_values(const char *dir, const char *key, const tn_tensor *tensor) {
    if (!tn_dtype_is_float(tensor->dtype))
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' is stored as %s, not as floats", dir, key, tn_dtype_name(tensor->dtype));
    int64_t bad = tn_tensor_first_nonfinite(tensor);
    if (bad >= 0)
        return tn_fail(TN_ERROR_NUMERIC, "%s: '%s' holds a NaN or infinity at element %lld", dir, key, (long long)bad);
    return TN_OK;
}

static tn_status set_scale(const char *dir, const tn_peft_config *c, tn_factor_module *m) {
    double rank, alpha;
    TN_TRY(tn_peft_pattern_value(c->rank_pattern, c->rank_pattern_count, m->name, "rank_pattern", (double)c->rank, &rank));
    TN_TRY(tn_peft_pattern_value(c->alpha_pattern, c->alpha_pattern_count, m->name, "alpha_pattern", c->alpha, &alpha));
    if (rank != (double)m->factors.rank)
        return tn_fail(TN_ERROR_MISMATCH, "%s: '%s' has rank %lld, but adapter_config.json says %g", dir, m->name,
                       (long long)m->factors.rank, rank);
    m->factors.scale = tn_peft_scale(c, alpha, m->factors.rank);
    return TN_OK;
}

/* The module of an A's key: the part before `suffix`, without PEFT's prefix. */
static const char *module_name(tn_arena *arena, const char *key, const char *suffix) {
    size_t prefix = strncmp(key, PREFIX, sizeof PREFIX - 1) == 0 ? sizeof PREFIX - 1 : 0;
    return tn_arena_strndup(arena, key + prefix, strlen(key) - prefix - strlen(suffix));
}

static tn_status add_module(tn_factor_folder *f, const char *dir, const tn_safetensors_entry *a, int spelling) {
    tn_factor_module *m = &f->modules[f->count];
    const char *end = spellings[spelling].a;
    char b_key[1024];
    int stem = (int)(strlen(a->name) - strlen(end));
    const tn_safetensors_entry *b = NULL;
    if (snprintf(b_key, sizeof b_key, "%.*s%s", stem, a->name, spellings[spelling].b) < (int)sizeof b_key)
        b = tn_safetensors_find(&f->file, b_key);
    if (!b)
        return tn_fail(TN_ERROR_MISMATCH, "%s: '%s' is there without its '%s'", dir, a->name, spellings[spelling].b + 1);
    *m = (tn_factor_module){
        .name = module_name(&f->arena, a->name, end), .kind = spellings[spelling].kind, .a = &a->tensor, .b = &b->tensor};
    if (!m->name)
        return tn_fail_memory("an adapter");
    if (tn_map_get_text(&f->by_name, m->name, NULL))
        return tn_fail(TN_ERROR_FORMAT, "%s: '%s' is adapted twice", dir, m->name);
    TN_TRY(check_values(dir, a->name, m->a));
    TN_TRY(check_values(dir, b->name, m->b));
    TN_TRY(check_shapes(dir, m));
    TN_TRY(set_scale(dir, &f->config, m));
    return tn_map_put_text(&f->by_name, m->name, (int64_t)f->count++);
}

static tn_status add_tensor(tn_factor_folder *f, const char *dir, const tn_safetensors_entry *entry) {
    for (int i = 0; i < SPELLINGS; i++) {
        if (ends_with(entry->name, spellings[i].a))
            return add_module(f, dir, entry, i);
        if (ends_with(entry->name, spellings[i].b)) {
            char a_key[1024];
            int stem = (int)(strlen(entry->name) - strlen(spellings[i].b));
            int length = snprintf(a_key, sizeof a_key, "%.*s%s", stem, entry->name, spellings[i].a);
            if (length >= (int)sizeof a_key || !tn_safetensors_find(&f->file, a_key))
                return tn_fail(TN_ERROR_MISMATCH, "%s: '%s' is there without its '%s'", dir, entry->name,
                               spellings[i].a + 1);
            return TN_OK;
        }
    }
    if (strstr(entry->name, ".lora_"))
        return refuse(dir, entry->name);
    f->kept[f->kept_count++] = (tn_kept_tensor){entry->name, entry->tensor};
    return TN_OK;
}

static tn_status read_config(const char *dir, tn_peft_config *config) {
    char path[TN_PATH_MAX];
    cJSON *json = NULL;
    TN_TRY(tn_path_join(path, dir, "adapter_config.json"));
    TN_TRY(tn_json_read(path, CONFIG_LIMIT, &json));
    tn_status status = tn_peft_config_parse(json, path, config);
    cJSON_Delete(json);
    return status;
}

static tn_status read_folder(const char *dir, tn_factor_folder *f) {
    char path[TN_PATH_MAX];
    TN_TRY(check_plain(&f->config, dir));
    TN_TRY(tn_path_join(path, dir, "adapter_model.safetensors"));
    TN_TRY(tn_safetensors_open(path, &f->file));
    f->modules = tn_arena_array(&f->arena, f->file.count + 1, sizeof *f->modules);
    f->kept = tn_arena_array(&f->arena, f->file.count + 1, sizeof *f->kept);
    if (!f->modules || !f->kept)
        return tn_fail_memory("an adapter");
    for (size_t i = 0; i < f->file.count; i++)
        TN_TRY(add_tensor(f, dir, &f->file.entries[i]));
    if (!f->count)
        return tn_fail(TN_ERROR_MISMATCH, "%s holds no lora_A and lora_B", path);
    return TN_OK;
}

tn_status tn_factor_folder_open(const char *dir, tn_factor_folder *out) {
    *out = (tn_factor_folder){0};
    if (!tn_path_is_dir(dir))
        return tn_fail(TN_ERROR_IO,
                       "%s is not a folder; an adapter is a folder with adapter_config.json and adapter_model.safetensors",
                       dir);
    TN_TRY(read_config(dir, &out->config));
    tn_status status = read_folder(dir, out);
    if (status != TN_OK)
        tn_factor_folder_close(out);
    return status;
}

void tn_factor_folder_close(tn_factor_folder *folder) {
    tn_safetensors_close(&folder->file);
    tn_map_free(&folder->by_name);
    tn_arena_free(&folder->arena);
    tn_peft_config_free(&folder->config);
    *folder = (tn_factor_folder){0};
}

const tn_factor_module *tn_factor_folder_find(const tn_factor_folder *folder, const char *name) {
    int64_t at;
    return tn_map_get_text(&folder->by_name, name, &at) ? &folder->modules[at] : NULL;
}

static const float *as_f32(const tn_tensor *tensor, tn_arena *arena) {
    if (tensor->dtype == TN_DTYPE_F32)
        return tensor->data;
    float *copy = tn_arena_array(arena, (size_t)tn_tensor_count(tensor), sizeof *copy);
    if (copy)
        tn_convert_to_f32(copy, tensor->data, tensor->dtype, tn_tensor_count(tensor));
    return copy;
}

tn_status tn_factor_module_read(const tn_factor_module *module, tn_arena *arena, tn_factors *out) {
    *out = module->factors;
    out->a = as_f32(module->a, arena);
    out->b = as_f32(module->b, arena);
    return out->a && out->b ? TN_OK : tn_fail_memory("an adapter's factors");
}

/* --- writing --- */

static int falling(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* The higher of equally common ones; 0 when memory is out. */
static int64_t commonest_rank(const tn_factor_module *modules, size_t count, tn_arena *scratch) {
    int64_t *ranks = tn_arena_array(scratch, count + 1, sizeof *ranks), best = 0;
    size_t most = 0;
    for (size_t i = 0; i < count && ranks; i++)
        ranks[i] = modules[i].factors.rank;
    if (ranks)
        qsort(ranks, count, sizeof *ranks, falling);
    for (size_t i = 0, first = 0; i < count && ranks; i++) {
        first = ranks[i] == ranks[first] ? first : i;
        if (i - first + 1 > most) {
            most = i - first + 1;
            best = ranks[i];
        }
    }
    return best;
}

/* Rank and alpha of every module, so that all scales are 1. */
static tn_status set_ranks(tn_peft_config *config, const tn_factor_module *modules, size_t count, tn_arena *scratch) {
    tn_pattern *patterns = tn_arena_array(scratch, count + 1, sizeof *patterns);
    size_t used = 0;
    config->rank = commonest_rank(modules, count, scratch);
    if (!patterns || (count && !config->rank))
        return tn_fail_memory("the adapter's configuration");
    for (size_t i = 0; i < count; i++)
        if (modules[i].factors.rank != config->rank)
            patterns[used++] = (tn_pattern){modules[i].name, (double)modules[i].factors.rank};
    config->alpha = (double)config->rank;
    config->use_rslora = false;
    config->rank_pattern = config->alpha_pattern = patterns;
    config->rank_pattern_count = config->alpha_pattern_count = used;
    return TN_OK;
}

static tn_status declare_factor(tn_safetensors_writer *writer, const tn_factor_module *m, bool is_a) {
    const tn_factors *f = &m->factors;
    const char *end = m->kind == TN_FACTOR_EMBEDDING ? is_a ? ".lora_embedding_A" : ".lora_embedding_B"
                      : is_a                         ? ".lora_A.weight"
                                                     : ".lora_B.weight";
    int64_t shape[4] = {is_a ? f->rank : f->out, is_a ? f->in : f->rank, 1, 1};
    bool conv = m->kind == TN_FACTOR_CONV2D;
    for (int i = 0; i < 3 && conv && is_a; i++)
        shape[i + 1] = m->window[i];
    char name[1200];
    if (snprintf(name, sizeof name, "%s%s%s", PREFIX, m->name, end) >= (int)sizeof name)
        return tn_fail(TN_ERROR_ARGUMENT, "the module name '%.100s...' is too long", m->name);
    return tn_safetensors_writer_declare(writer, name, TN_DTYPE_F32, conv ? 4 : 2, shape);
}

/* Tensors of larger elements first, as the writer wants them. */
static int by_element_size(const void *a, const void *b) {
    const tn_kept_tensor *x = *(const tn_kept_tensor *const *)a, *y = *(const tn_kept_tensor *const *)b;
    int64_t size_x = tn_dtype_size(x->tensor.dtype), size_y = tn_dtype_size(y->tensor.dtype);
    return size_x != size_y ? (size_x < size_y) - (size_x > size_y) : strcmp(x->name, y->name);
}

static tn_status write_kept(tn_safetensors_writer *writer, const tn_kept_tensor *const *kept, size_t count, bool large,
                            bool declare) {
    for (size_t i = 0; i < count; i++) {
        const tn_tensor *t = &kept[i]->tensor;
        if ((tn_dtype_size(t->dtype) > (int64_t)sizeof(float)) != large)
            continue;
        TN_TRY(declare ? tn_safetensors_writer_declare(writer, kept[i]->name, t->dtype, t->ndim, t->shape)
                       : tn_safetensors_writer_data(writer, t->data, tn_tensor_bytes(t)));
    }
    return TN_OK;
}

static tn_status write_tensors(tn_safetensors_writer *writer, const tn_factor_module *modules, size_t count,
                               const tn_kept_tensor *const *kept, size_t kept_count) {
    TN_TRY(tn_safetensors_writer_metadata(writer, "format", "pt"));
    TN_TRY(write_kept(writer, kept, kept_count, true, true));
    for (size_t i = 0; i < count; i++) {
        TN_TRY(declare_factor(writer, &modules[i], true));
        TN_TRY(declare_factor(writer, &modules[i], false));
    }
    TN_TRY(write_kept(writer, kept, kept_count, false, true));
    TN_TRY(tn_safetensors_writer_begin(writer));
    TN_TRY(write_kept(writer, kept, kept_count, true, false));
    for (size_t i = 0; i < count; i++) {
        const tn_factors *f = &modules[i].factors;
        TN_TRY(tn_safetensors_writer_data(writer, f->a, f->rank * f->in * (int64_t)sizeof(float)));
        TN_TRY(tn_safetensors_writer_data(writer, f->b, f->rank * f->out * (int64_t)sizeof(float)));
    }
    return write_kept(writer, kept, kept_count, false, false);
}

static tn_status write_model(const char *dir, const tn_factor_module *modules, size_t count, const tn_kept_tensor *kept,
                             size_t kept_count, tn_arena *scratch) {
    char path[TN_PATH_MAX];
    tn_safetensors_writer *writer;
    const tn_kept_tensor **sorted = tn_arena_array(scratch, kept_count + 1, sizeof *sorted);
    if (!sorted)
        return tn_fail_memory("the adapter's tensors");
    for (size_t i = 0; i < kept_count; i++)
        sorted[i] = &kept[i];
    qsort(sorted, kept_count, sizeof *sorted, by_element_size);
    TN_TRY(tn_path_join(path, dir, "adapter_model.safetensors"));
    TN_TRY(tn_safetensors_writer_new(&writer, path));
    tn_status status = write_tensors(writer, modules, count, sorted, kept_count);
    if (status == TN_OK)
        return tn_safetensors_writer_finish(writer);
    tn_safetensors_writer_abort(writer);
    return status;
}

tn_status tn_factor_folder_write(const char *dir, const tn_peft_config *config, const tn_factor_module *modules,
                                 size_t count, const tn_kept_tensor *kept, size_t kept_count) {
    char path[TN_PATH_MAX];
    tn_peft_config written = *config;
    tn_arena scratch = {0};
    tn_buf text = {0};
    tn_status status;
    TN_TRY_GOTO(set_ranks(&written, modules, count, &scratch));
    TN_TRY_GOTO(tn_peft_config_print(&written, &text));
    TN_TRY_GOTO(tn_dir_create(dir));
    TN_TRY_GOTO(write_model(dir, modules, count, kept, kept_count, &scratch));
    TN_TRY_GOTO(tn_path_join(path, dir, "adapter_config.json"));
    TN_TRY_GOTO(tn_file_write(path, text.data, text.length));
fail:
    tn_buf_free(&text);
    tn_arena_free(&scratch);
    return status;
}
