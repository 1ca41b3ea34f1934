/* Composing LoRA folders into one, and changing the rank of one. */
#include <math.h>
#include <string.h>

#include "peft/compose.h"
#include "peft/lora.h"
#include "session/low_rank_result.h"
#include "session/session.h"

enum { MOST_ADAPTERS = 255 };

void tn_compose_options_default(tn_compose_options *options) {
    *options = (tn_compose_options){.mode = "cat", .majority_sign = "total"};
}

static tn_status check_no_value(bool given, const char *option, const char *mode) {
    if (given)
        return tn_fail(TN_ERROR_ARGUMENT, "mode %s has no use for a %s", mode, option);
    return TN_OK;
}

static tn_status make_rule(const tn_compose_options *o, tn_compose_rule *rule) {
    *rule = (tn_compose_rule){.rank = o->rank, .density = o->density, .clamp = o->svd_clamp, .seed = o->seed};
    TN_TRY(tn_compose_mode_parse(o->mode, rule));
    rule->by_frequency = strcmp(o->majority_sign, "frequency") == 0;
    if (!rule->by_frequency && strcmp(o->majority_sign, "total") != 0)
        return tn_fail(TN_ERROR_ARGUMENT, "majority sign '%.40s' is neither total nor frequency", o->majority_sign);
    if (tn_compose_prunes(rule) && !(o->density > 0 && o->density <= 1))
        return tn_fail(TN_ERROR_ARGUMENT, "mode %s needs a density above 0 and at most 1: the share of entries it keeps",
                       o->mode);
    if (o->rank < 0 || !(o->svd_clamp >= 0 && o->svd_clamp <= 1))
        return tn_fail(TN_ERROR_ARGUMENT, "the rank must not be negative, and svd_clamp is from 0 to 1");
    TN_TRY(check_no_value(!tn_compose_prunes(rule) && o->density != 0, "density", o->mode));
    TN_TRY(check_no_value(!tn_compose_truncates(rule) && o->rank, "rank, which follows from the adapters'", o->mode));
    TN_TRY(check_no_value(!tn_compose_truncates(rule) && o->svd_clamp > 0, "svd_clamp", o->mode));
    return check_no_value(!tn_compose_elects(rule) && rule->by_frequency, "majority sign", o->mode);
}

/* The folders to be composed, open. */
typedef struct {
    const char *const *dirs;
    const double *weights;
    size_t count;
    tn_factor_folder *folders;
    tn_kept_tensor *kept;
    size_t kept_count;
    tn_peft_config config; /* of the result; owns only its arena */
} inputs;

static void inputs_close(inputs *in) {
    for (size_t i = 0; i < in->count && in->folders; i++)
        tn_factor_folder_close(&in->folders[i]);
    tn_free(in->folders);
    tn_free(in->kept);
    tn_arena_free(&in->config.arena);
}

static tn_status inputs_open(inputs *in) {
    in->folders = tn_calloc(in->count, sizeof *in->folders);
    if (!in->folders)
        return tn_fail_memory("the adapters");
    for (size_t i = 0; i < in->count; i++) {
        if (!isfinite(in->weights[i]))
            return tn_fail(TN_ERROR_ARGUMENT, "the weight of %s is not a finite number", in->dirs[i]);
        TN_TRY(tn_factor_folder_open(in->dirs[i], &in->folders[i]));
    }
    return TN_OK;
}

static tn_status check_on_model(const inputs *in, const char *model_dir) {
    tn_model *model;
    TN_TRY(tn_model_load(model_dir, &model));
    tn_status status = TN_OK;
    for (size_t i = 0; i < in->count && status == TN_OK; i++)
        status = tn_model_load_named_adapter(model, in->dirs[i], "default", false, false);
    tn_model_free(model);
    return status;
}

/* --- what all inputs must have alike --- */

static bool same_tensor(const tn_tensor *a, const tn_tensor *b) {
    return a->dtype == b->dtype && tn_tensor_same_shape(a, b) && memcmp(a->data, b->data, (size_t)tn_tensor_bytes(a)) == 0;
}

/* Copies of the base may be missing somewhere; what was trained whole must be equal everywhere. */
static tn_status keep_tensor(inputs *in, size_t owner, const tn_kept_tensor *tensor) {
    for (size_t i = 0; i < in->count; i++) {
        const tn_safetensors_entry *other = tn_safetensors_find(&in->folders[i].file, tensor->name);
        if (other && i < owner)
            return TN_OK; /* taken from that one, and compared then */
        if (other && !same_tensor(&tensor->tensor, &other->tensor))
            return tn_fail(TN_ERROR_MISMATCH, "'%s' is not the same in %s and %s; %s", tensor->name, in->dirs[owner],
                           in->dirs[i],
                           tn_is_base_copy(tensor->name)
                               ? "are the adapters for different bases?"
                               : "tensors that were trained whole (modules_to_save, bias) cannot be composed");
        if (!other && !tn_is_base_copy(tensor->name))
            return tn_fail(TN_ERROR_MISMATCH,
                           "'%s' is in %s and not in %s; tensors that were trained whole (modules_to_save, bias) must be "
                           "equal in all adapters",
                           tensor->name, in->dirs[owner], in->dirs[i]);
    }
    in->kept[in->kept_count++] = *tensor;
    return TN_OK;
}

static bool same_token_rows(const tn_peft_config *a, const tn_peft_config *b) {
    bool same = a->token_rows_count == b->token_rows_count;
    for (size_t i = 0; i < a->token_rows_count && same; i++) {
        const tn_token_rows *x = &a->token_rows[i], *y = &b->token_rows[i];
        same = x->count == y->count && !x->module == !y->module && (!x->module || strcmp(x->module, y->module) == 0) &&
               memcmp(x->indices, y->indices, (size_t)x->count * sizeof *x->indices) == 0;
    }
    return same;
}

static tn_status collect_kept(inputs *in) {
    size_t most = 0;
    for (size_t i = 0; i < in->count; i++) {
        most += in->folders[i].kept_count;
        if (in->folders[i].config.bias != in->folders[0].config.bias)
            return tn_fail(TN_ERROR_MISMATCH, "%s and %s differ in their bias setting; trained biases cannot be composed",
                           in->dirs[0], in->dirs[i]);
        if (!same_token_rows(&in->folders[0].config, &in->folders[i].config))
            return tn_fail(TN_ERROR_MISMATCH,
                           "%s and %s differ in trainable_token_indices; rows that were trained whole cannot be composed",
                           in->dirs[0], in->dirs[i]);
    }
    in->kept = tn_calloc(most + 1, sizeof *in->kept);
    if (!in->kept)
        return tn_fail_memory("the adapters");
    for (size_t i = 0; i < in->count; i++)
        for (size_t t = 0; t < in->folders[i].kept_count; t++)
            TN_TRY(keep_tensor(in, i, &in->folders[i].kept[t]));
    return TN_OK;
}

/* --- the result's configuration --- */

static bool has_plain_targets(const tn_peft_config *c) {
    return c->target_modules.count && !c->target_regex && !c->all_linear && !c->exclude_regex && !c->exclude_modules.count &&
           !c->layers_count;
}

static bool in_list(tn_text_list list, const char *name) {
    for (size_t i = 0; i < list.count; i++)
        if (strcmp(list.items[i], name) == 0)
            return true;
    return false;
}

/* Lists of names select together what each of them does. Without them the modules are named one by one. */
static tn_status choose_targets(inputs *in, const tn_factor_module *modules, size_t count) {
    bool plain = true;
    size_t most = count;
    for (size_t i = 0; i < in->count; i++) {
        plain = plain && has_plain_targets(&in->folders[i].config);
        most += in->folders[i].config.target_modules.count;
    }
    const char **names = tn_arena_array(&in->config.arena, most + 1, sizeof *names);
    tn_text_list targets = {names, 0};
    if (!names)
        return tn_fail_memory("the adapter's configuration");
    for (size_t i = 0; i < in->count && plain; i++) {
        tn_text_list list = in->folders[i].config.target_modules;
        for (size_t n = 0; n < list.count; n++)
            if (!in_list(targets, list.items[n]))
                names[targets.count++] = list.items[n];
    }
    for (size_t i = 0; i < count && !plain; i++)
        names[targets.count++] = modules[i].name;
    in->config.target_modules = targets;
    return TN_OK;
}

/* From the first folder: what says nothing about factors. Strings stay the folder's. */
static tn_status start_config(inputs *in) {
    const tn_peft_config *first = &in->folders[0].config;
    tn_peft_config *c = &in->config;
    TN_TRY(tn_peft_config_init(c, &tn_lora));
    c->dropout = first->dropout;
    c->bias = first->bias;
    c->modules_to_save = first->modules_to_save;
    c->token_rows = first->token_rows;
    c->token_rows_count = first->token_rows_count;
    c->ensure_weight_tying = first->ensure_weight_tying;
    c->base_model = first->base_model;
    c->task_type = first->task_type;
    return TN_OK;
}

static tn_status write_result(inputs *in, const tn_low_rank_result *result, const char *out, tn_low_rank_report *report) {
    for (size_t i = 0; i < in->count; i++)
        TN_TRY(tn_check_other_folder(out, in->dirs[i]));
    TN_TRY(start_config(in));
    TN_TRY(choose_targets(in, result->modules, result->count));
    TN_TRY(tn_factor_folder_write(out, &in->config, result->modules, result->count, in->kept, in->kept_count));
    return tn_low_rank_result_report(result, NULL, 0, report);
}

/* --- composing --- */

/* One module's updates: two entries more than adapters, for the composed one. */
typedef struct {
    tn_factors terms[MOST_ADAPTERS + 1];
    double weights[MOST_ADAPTERS + 1];
    size_t adapters[MOST_ADAPTERS], count;
} gathered;

static tn_status check_same_module(const inputs *in, const tn_factor_module *m, size_t owner, const tn_factor_module *other,
                                   size_t at) {
    const tn_factors *f = &m->factors, *g = &other->factors;
    if (m->kind != other->kind || f->out != g->out || f->in != g->in || memcmp(m->window, other->window, sizeof m->window))
        return tn_fail(TN_ERROR_MISMATCH,
                       "'%s' is [%lld, %lld] in %s and [%lld, %lld] in %s; are the adapters for different bases?", m->name,
                       (long long)f->out, (long long)f->in, in->dirs[owner], (long long)g->out, (long long)g->in,
                       in->dirs[at]);
    return TN_OK;
}

static tn_status gather(const inputs *in, const tn_factor_module *m, size_t owner, tn_arena *scratch, gathered *g) {
    g->count = 0;
    for (size_t i = owner; i < in->count; i++) {
        const tn_factor_module *other = tn_factor_folder_find(&in->folders[i], m->name);
        if (!other)
            continue;
        TN_TRY(check_same_module(in, m, owner, other, i));
        TN_TRY(tn_factor_module_read(other, scratch, &g->terms[g->count]));
        g->weights[g->count] = in->weights[i];
        g->adapters[g->count++] = i;
    }
    return TN_OK;
}

static tn_status compose_module(const inputs *in, const tn_compose_rule *rule, const tn_factor_module *m, size_t owner,
                                tn_arena *scratch, tn_low_rank_result *result) {
    gathered g;
    double exact, terms, difference, rounding;
    tn_factor_module made = *m;
    TN_TRY(gather(in, m, owner, scratch, &g));
    TN_TRY(tn_compose_module(rule, m->name, g.terms, g.weights, g.adapters, g.count, &result->arena, &made.factors));
    TN_TRY(tn_factors_norm(g.terms, g.weights, g.count, &exact, &terms));
    g.terms[g.count] = made.factors;
    g.weights[g.count] = -1;
    TN_TRY(tn_factors_norm(g.terms, g.weights, g.count + 1, &difference, NULL));
    rounding = 1e-6 * terms;
    if (exact < rounding) {
        /* the updates cancel, and nothing but their rounding is left to compare with */
        exact = 0;
        difference = difference < rounding ? 0 : difference;
    }
    return tn_low_rank_result_add(result, &made, exact, difference);
}

static tn_status compose_all(const inputs *in, const tn_compose_rule *rule, tn_low_rank_result *result) {
    for (size_t i = 0; i < in->count; i++) {
        for (size_t m = 0; m < in->folders[i].count; m++) {
            const tn_factor_module *module = &in->folders[i].modules[m];
            bool done = false;
            for (size_t before = 0; before < i && !done; before++)
                done = tn_factor_folder_find(&in->folders[before], module->name);
            if (done)
                continue;
            tn_arena scratch = {0};
            tn_status status = compose_module(in, rule, module, i, &scratch, result);
            tn_arena_free(&scratch);
            TN_TRY(status);
        }
    }
    return TN_OK;
}

tn_status tn_compose_adapters(const char *const *dirs, const double *weights, int64_t count, const char *model_dir,
                              const tn_compose_options *options, const char *out, tn_low_rank_report *report) {
    inputs in = {.dirs = dirs, .weights = weights, .count = (size_t)count};
    tn_low_rank_result result = {0};
    tn_compose_rule rule;
    tn_status status;
    if (report)
        *report = (tn_low_rank_report){0};
    if (count < 1 || count > MOST_ADAPTERS)
        return tn_fail(TN_ERROR_ARGUMENT, "%lld adapters cannot be composed; give from 1 to %d", (long long)count,
                       MOST_ADAPTERS);
    TN_TRY(make_rule(options, &rule));
    TN_TRY_GOTO(inputs_open(&in));
    TN_TRY_GOTO(collect_kept(&in));
    if (model_dir)
        TN_TRY_GOTO(check_on_model(&in, model_dir));
    TN_TRY_GOTO(compose_all(&in, &rule, &result));
    status = write_result(&in, &result, out, report);
fail:
    tn_low_rank_result_free(&result);
    inputs_close(&in);
    return status;
}

/* --- resizing --- */

static tn_status resize_module(const tn_factor_module *m, tn_rank_choice choice, tn_low_rank_result *result) {
    static const double one = 1;
    tn_arena scratch = {0};
    tn_factor_module made = *m;
    tn_factors factors;
    tn_low_rank low_rank;
    tn_status status;
    TN_TRY_GOTO(tn_factor_module_read(m, &scratch, &factors));
    TN_TRY_GOTO(tn_low_rank_of_sum(&factors, &one, 1, choice, &result->arena, &low_rank));
    made.factors = low_rank.factors;
    status = tn_low_rank_result_add(result, &made, sqrt(low_rank.total), sqrt(low_rank.dropped));
fail:
    tn_arena_free(&scratch);
    return status;
}

tn_status tn_resize_adapter(const char *dir, int64_t rank, double energy, const char *out, tn_low_rank_report *report) {
    static const double one = 1;
    inputs in = {.dirs = &dir, .weights = &one, .count = 1};
    tn_low_rank_result result = {0};
    tn_status status;
    if (report)
        *report = (tn_low_rank_report){0};
    if (rank < 0 || (rank == 0 && !(energy > 0 && energy <= 1)))
        return tn_fail(TN_ERROR_ARGUMENT, "resizing needs a rank of at least 1, or an energy above 0 and at most 1");
    TN_TRY_GOTO(inputs_open(&in));
    TN_TRY_GOTO(collect_kept(&in));
    for (size_t i = 0; i < in.folders->count; i++)
        TN_TRY_GOTO(resize_module(&in.folders->modules[i], (tn_rank_choice){rank, energy}, &result));
    status = write_result(&in, &result, out, report);
fail:
    tn_low_rank_result_free(&result);
    inputs_close(&in);
    return status;
}
