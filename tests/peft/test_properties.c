/* What holds for every method on every kind of layer that it fits: a fresh adapter is the base, merged weights are the
 * adapter's model, merging is undone, files lose nothing. */
#include "peft/properties.h"

/* Methods whose fresh adapters are the base but for rounding, of logits of size 1. */
static const struct {
    const char *name;
    double bound;
} inexact[] = {
    {"dora", 1e-5}, /* m / n, both roundings of the norm, may be a little off 1, and a bias is taken off and added again */
};

static double bound_of_fresh(const char *name) {
    for (size_t i = 0; i < sizeof inexact / sizeof *inexact; i++)
        if (strcmp(inexact[i].name, name) == 0)
            return inexact[i].bound;
    return 0;
}

static double largest(const float *values, int64_t count) {
    double most = 0;
    for (int64_t i = 0; i < count; i++)
        most = fmax(most, fabs((double)values[i]));
    return most;
}

static void check_fresh(trial *t) {
    int64_t count;
    float *base = probe(t->model, &count);
    trial_add(t);
    double difference = probe_difference(t->model, base), bound = bound_of_fresh(t->method->name);
    if (!(difference <= bound * (1 + largest(base, count))))
        fail_msg("%s: logits of a fresh adapter differ by %g", t->what, difference);
    randomise_adapter(t->model->adapter, 4, 0.3f);
    if (!(probe_difference(t->model, base) > 1e-3))
        fail_msg("%s: random values change nothing", t->what);
    tn_model_remove_adapter(t->model);
    assert_true(probe_difference(t->model, base) == 0);
    tn_free(base);
}

static void fresh_adapters_change_nothing(void **state) {
    (void)state;
    for_all_trials(4, 1, NULL, check_fresh);
}

/* Products in another order: relative to the largest logit. */
static void check_merged(trial *t) {
    tn_merged kept;
    int64_t count;
    trial_add(t);
    randomise_adapter(t->model->adapter, 4, 0.3f);
    float *with = probe(t->model, &count);
    assert_ok(tn_session_merge_in_memory(t->model, &kept));
    double difference = probe_difference(t->model, with), most = largest(with, count);
    tn_session_merged_free(t->model, &kept);
    if (!(difference <= 2e-5 * (1 + most)))
        fail_msg("%s: merged logits differ by %g of %g", t->what, difference, most);
    assert_true(probe_difference(t->model, with) == 0);
    tn_free(with);
}

static void merged_models_are_those_with_the_adapter(void **state) {
    (void)state;
    for_all_trials(12, 1, NULL, check_merged);
}

static const char *const dtypes[3] = {"f32", "bf16", "f16"};

/* Largest difference of any weight or bias. */
static double farthest(const tn_model *a, const tn_model *b) {
    double most = 0;
    for (int64_t i = 0; i < a->network->module_count; i++) {
        const tn_module *p = &a->network->modules[i], *q = &b->network->modules[i];
        for (int k = 0; k < 1 + p->has_bias; k++) {
            const tn_tensor *x = k ? &p->bias.tensor : &tn_module_weight(p)->tensor;
            const tn_tensor *y = k ? &q->bias.tensor : &tn_module_weight(q)->tensor;
            int64_t count = tn_tensor_count(x);
            assert_int_equal(tn_tensor_count(y), count);
            float *wide = malloc((size_t)(2 * count) * sizeof *wide);
            assert_non_null(wide);
            tn_tensor_read(wide, x, 0, count);
            tn_tensor_read(wide + count, y, 0, count);
            most = fmax(most, largest_difference(wide, wide + count, count));
            free(wide);
        }
    }
    return most;
}

static void check_unmerged(trial *t, tn_model *merged) {
    tn_merge_report report;
    tn_model *restored;
    const tn_peft_method *method = t->method->method;
    if (!method->subtractable && !method->unmerge)
        return;
    assert_ok(tn_model_unmerge(merged, temporary("back"), "keep", &report));
    assert_ok(tn_model_load(temporary("back"), &restored));
    tn_model_remove_adapter(t->model);
    double off = farthest(t->model, restored);
    if (!(off <= report.largest_rounding && report.largest_rounding < 0.5))
        fail_msg("%s: %g off, but reported %g", t->what, off, report.largest_rounding);
    tn_model_free(restored);
    assert_ok(tn_path_remove_tree(temporary("back")));
}

/* Through files: the adapter's, then the merged model's, then the restored one's. */
static void check_files(trial *t) {
    tn_merge_report report;
    tn_model *merged;
    int64_t count;
    trial_add(t);
    randomise_adapter(t->model->adapter, 4, 0.3f);
    float *with = probe(t->model, &count);
    bool widens = tn_adapter_widens(t->model->adapter, first_target(t->model->network, t->layer->targets));
    assert_ok(tn_model_save_adapter(t->model, temporary("adapter")));
    assert_ok(tn_model_load_adapter(t->model, temporary("adapter"), false, false));
    if (probe_difference(t->model, with) != 0)
        fail_msg("%s: saved and loaded, logits differ", t->what);
    assert_ok(tn_model_merge(t->model, temporary("merged"), "keep", &report));
    assert_true(report.modules >= 1);
    assert_ok(tn_model_load(temporary("merged"), &merged));
    if (!widens) {
        if (farthest(t->model, merged) == 0)
            fail_msg("%s: merging changed nothing", t->what);
        assert_ok(tn_model_load_adapter(merged, temporary("adapter"), false, false));
        check_unmerged(t, merged);
    }
    tn_model_free(merged);
    assert_ok(tn_path_remove_tree(temporary("merged")));
    assert_ok(tn_path_remove_tree(temporary("adapter")));
    tn_free(with);
}

static void files_lose_nothing_and_merging_is_undone(void **state) {
    (void)state;
    for_all_trials(4, 1, dtypes, check_files);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fresh_adapters_change_nothing),
        cmocka_unit_test(merged_models_are_those_with_the_adapter),
        cmocka_unit_test(files_lose_nothing_and_merging_is_undone),
    };
    return cmocka_run_group_tests_name("properties", tests, NULL, remove_temporary);
}
