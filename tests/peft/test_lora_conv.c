/* LoRA and DoRA on convolutions: merged and unmerged models agree whatever the window and the groups, gradients agree with
 * central differences, files keep the tensors, and what cannot be is refused. */
#include <tenon/adapters.h>

#include "support/support.h"

enum { ROWS = 4 };

/* A convolution with this window between a first one and a head. */
static char *net_with(const char *window, bool bias) {
    char *text = malloc(1000);
    assert_non_null(text);
    snprintf(text, 1000,
             "{\"model_type\": \"sequential\", \"input_shape\": [3, 7, 6], \"layers\": [{\"type\": \"conv2d\", \"name\": "
             "\"first\", \"out_channels\": 8, \"kernel_size\": 1}, {\"type\": \"tanh\"}, {\"type\": \"conv2d\", \"name\": "
             "\"middle\", %s, \"bias\": %s}, {\"type\": \"silu\"}, {\"type\": \"flatten\"}, {\"type\": \"linear\", "
             "\"name\": \"head\", \"out_features\": 3}]}",
             window, bias ? "true" : "false");
    return text;
}

static tn_adapter_options options_for(const char *method, const char *targets) {
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.method = method;
    options.target_modules = targets;
    options.rank = 4;
    options.alpha = 6;
    return options;
}

static const char *const windows[] = {
    "\"out_channels\": 8, \"kernel_size\": 3, \"padding\": 1",
    "\"out_channels\": 12, \"kernel_size\": 1",
    "\"out_channels\": 4, \"kernel_size\": [3, 2], \"stride\": [2, 1], \"padding\": [1, 0]",
    "\"out_channels\": 6, \"kernel_size\": 2, \"dilation\": [2, 3], \"padding\": 1",
    "\"out_channels\": 8, \"kernel_size\": 3, \"stride\": 2, \"groups\": 2",
    "\"out_channels\": 4, \"kernel_size\": 1, \"groups\": 4",
    "\"out_channels\": 12, \"kernel_size\": [1, 3], \"padding\": [0, 1], \"dilation\": 2, \"groups\": 4",
};
enum { WINDOWS = sizeof windows / sizeof *windows };

static bool is_grouped(int window) {
    return strstr(windows[window], "groups") != NULL;
}

static void check_merge(const char *text, const tn_adapter_options *options, int number) {
    tn_merge_report report;
    tn_merged kept;
    int64_t count;
    tn_model *model = create_stored_model(text, (uint64_t)number + 1, "base", number % 2 ? "f16" : "f32"), *merged;
    float *base = probe(model, &count);
    assert_ok(tn_model_add_adapter(model, options, 1));
    /* B = 0, and m / n = 1 but for rounding */
    assert_true(probe_difference(model, base) < 1e-5);
    randomise_adapter(model->adapter, 7, 0.3f);
    float *with = probe(model, &count);
    assert_true(largest_difference(base, with, count) > 1e-2);
    assert_ok(tn_session_merge_in_memory(model, &kept));
    assert_true(probe_difference(model, with) < 1e-5);
    tn_session_merged_free(model, &kept);
    assert_true(probe_difference(model, with) == 0);
    assert_ok(tn_model_merge(model, temporary("merged"), "f32", &report));
    assert_true(report.logit_difference < 1e-5);
    assert_true(report.modules >= 1);
    assert_ok(tn_model_load(temporary("merged"), &merged));
    assert_true(probe_difference(merged, with) < 1e-5);
    tn_model_free(merged);
    tn_model_remove_adapter(model);
    assert_true(probe_difference(model, base) == 0);
    assert_ok(tn_path_remove_tree(temporary("merged")));
    tn_free(base);
    tn_free(with);
    tn_model_free(model);
}

static void merged_and_unmerged_agree(void **state) {
    (void)state;
    for (int i = 0; i < WINDOWS; i++)
        for (int dora = 0; dora < 2; dora++) {
            tn_adapter_options options = options_for(dora ? "dora" : "lora", "first,middle");
            options.rslora = i % 2;
            options.rank_pattern = "first=2";
            if (dora && is_grouped(i))
                continue;
            char *text = net_with(windows[i], i % 3 != 0);
            check_merge(text, &options, i);
            free(text);
        }
}

/* Two adapters on the same convolution, in groups or not, with weights of their own. */
static void stacked_and_weighted_adapters_merge(void **state) {
    static const char *const names[] = {"one", "two"};
    static const double weights[] = {0.5, -0.75};
    const tn_adapter_mix both = {.names = names, .weights = weights, .count = 2}, none = {0};
    (void)state;
    for (int i = 0; i < WINDOWS; i += 2) {
        tn_adapter_options options = options_for("lora", "middle");
        tn_merged kept;
        int64_t count;
        char *text = net_with(windows[i], true);
        tn_model *model = create_model(text, (uint64_t)i + 1);
        float *base = probe(model, &count);
        for (uint64_t a = 0; a < 2; a++) {
            assert_ok(tn_model_add_adapter(model, &options, 1));
            randomise_adapter(model->adapter, a + 1, 0.3f);
            assert_ok(tn_model_save_adapter(model, temporary("%s", names[a])));
        }
        tn_model_remove_adapter(model);
        for (int a = 0; a < 2; a++)
            assert_ok(tn_model_attach_adapter(model, temporary("%s", names[a]), names[a]));
        assert_ok(tn_model_use_adapters(model, &both));
        float *with = probe(model, &count);
        assert_true(largest_difference(base, with, count) > 1e-2);
        assert_ok(tn_session_merge_in_memory(model, &kept));
        assert_true(probe_difference(model, with) < 1e-5);
        tn_session_merged_free(model, &kept);
        assert_ok(tn_model_use_adapters(model, &none));
        assert_true(probe_difference(model, base) == 0);
        tn_free(base);
        tn_free(with);
        tn_model_free(model);
        free(text);
    }
}

/* The loss of the adapter's model on fixed rows in training; gradients are added. */
static double loss_of(tn_model *model) {
    float x[ROWS * 3 * 7 * 6], losses[ROWS];
    const int32_t labels[ROWS] = {0, 2, 1, 1};
    const tn_feature_pass pass = {.x = x, .count = ROWS, .labels = labels};
    tn_pass_cost cost;
    tn_tape tape;
    double sum = 0;
    tn_fill_normal(x, ROWS * 3 * 7 * 6, 1, 1, 0, 1);
    assert_ok(tn_pass_rehearse_features(model, ROWS, true, &cost));
    assert_ok(tn_tape_init(&tape, model->kernels, cost.heap_bytes));
    tape.recording = true;
    tn_forward forward = {.tape = &tape, .training = true, .dropout_seed = 5};
    tn_pass_features(model, &forward, &pass, 1, losses, NULL);
    assert_ok(tn_tape_status(&tape));
    assert_int_equal(tape.heap.peak, cost.heap_bytes);
    tn_tape_free(&tape);
    for (int i = 0; i < ROWS; i++)
        sum += losses[i];
    return sum;
}

/* DoRA's magnitudes alone: its norms are constants to the gradient, but not to a difference of A or B. */
static void gradients_are_central_differences(void **state) {
    (void)state;
    for (int i = 0; i < WINDOWS; i++) {
        bool dora = i == 2 || i == 3;
        tn_adapter_options options = options_for(dora ? "dora" : "lora", "first,middle,head");
        options.rank = is_grouped(i) ? 4 : 3;
        options.target_modules = is_grouped(i) ? "first,middle" : "first,middle,head";
        options.bias = "all";
        options.dropout = i % 2 ? 0.25 : 0;
        options.lora_bias = !dora && i % 2 == 0;
        char *text = net_with(windows[i], true);
        tn_model *model = create_model(text, (uint64_t)i + 1);
        if (strstr(options.target_modules, "first") && options.rank > 3)
            options.rank_pattern = "first=3";
        assert_ok(tn_model_add_adapter(model, &options, 1));
        tn_params *params = &model->adapter->params;
        for (int64_t p = 0; p < params->count; p++)
            if (!strstr(params->entries[p].name, "magnitude"))
                tn_fill_normal(params->entries[p].weight->tensor.data, (size_t)params->entries[p].count, 3, (uint64_t)p, 0,
                               0.3f);
        loss_of(model);
        float *grads = malloc((size_t)params->total * sizeof *grads);
        assert_non_null(grads);
        memcpy(grads, params->grads, (size_t)params->total * sizeof *grads);
        int checked = 0;
        for (int64_t p = 0; p < params->count; p++) {
            const tn_param *param = &params->entries[p];
            float *value = params->values + param->offset, step = 1e-2f;
            if (dora && strstr(param->name, "lora_") && !strstr(param->name, "magnitude"))
                continue;
            for (int64_t j = 0; j < param->count; j += param->count / 5 + 1) {
                float kept = value[j];
                value[j] = kept + step;
                double above = loss_of(model);
                value[j] = kept - step;
                double below = loss_of(model);
                value[j] = kept;
                double want = (above - below) / (2 * (double)step), got = grads[param->offset + j];
                if (!(fabs(got - want) <= 2e-3 * (1 + fabs(want))))
                    fail_msg("%s: %s[%lld] is %g, not %g", windows[i], param->name, (long long)j, got, want);
                checked++;
            }
        }
        assert_true(checked > 10);
        free(grads);
        tn_model_free(model);
        free(text);
    }
}

/* LoRA-FA's step P of B's gradient D solves s^2 P A A^T = D, A being flattened. */
static void frozen_a_preconditions_by_all_of_its_kernel(void **state) {
    tn_adapter_options options = options_for("lora-fa", "middle");
    char *text = net_with("\"out_channels\": 6, \"kernel_size\": [2, 3]", true);
    tn_model *model = create_model(text, 2);
    float before[6 * 4];
    (void)state;
    assert_ok(tn_model_add_adapter(model, &options, 1));
    tn_adapter *adapter = model->adapter;
    const tn_lora_slot *slot = (const tn_lora_slot *)adapter->slots[0].slot;
    int64_t rank = 4, in = 8 * 2 * 3;
    const float *a = slot->a.tensor.data;
    assert_int_equal(tn_tensor_count(&slot->a.tensor), rank * in);
    assert_ok(adapter->method->start_training(adapter, 1));
    loss_of(model);
    memcpy(before, slot->b.grad, sizeof before);
    adapter->method->before_step(adapter);
    double scale = (double)slot->scale * slot->scale, largest = 0;
    for (int64_t o = 0; o < 6; o++)
        for (int64_t r = 0; r < rank; r++) {
            double sum = 0;
            for (int64_t q = 0; q < rank; q++)
                for (int64_t c = 0; c < in; c++)
                    sum += scale * slot->b.grad[o * rank + q] * a[q * in + c] * a[r * in + c];
            largest = fmax(largest, fabs(sum - before[o * rank + r]) / (1 + fabs(before[o * rank + r])));
        }
    assert_true(largest < 1e-4);
    tn_model_free(model);
    free(text);
}

/* What PEFT's file holds: the shapes, and nothing lost on the way there and back. */
static void files_keep_every_tensor(void **state) {
    static const struct {
        const char *name;
        int64_t shape[4];
    } wanted[] = {{"base_model.model.middle.lora_A.weight", {4, 8, 3, 2}},
                  {"base_model.model.middle.lora_B.weight", {12, 2, 1, 1}},
                  {"base_model.model.middle.base_layer.bias", {12, 0, 0, 0}},
                  {"base_model.model.head.weight", {3, 12 * 5 * 5, 0, 0}}};
    tn_adapter_options options = options_for("lora", "middle");
    tn_safetensors file;
    int64_t count;
    (void)state;
    char *text = net_with("\"out_channels\": 12, \"kernel_size\": [3, 2], \"groups\": 2", true);
    tn_model *model = create_model(text, 2);
    options.bias = "lora_only";
    options.modules_to_save = "head";
    assert_ok(tn_model_add_adapter(model, &options, 1));
    randomise_adapter(model->adapter, 7, 0.3f);
    float *with = probe(model, &count);
    assert_ok(tn_model_save_adapter(model, temporary("adapter")));
    assert_ok(tn_safetensors_open(temporary("adapter/adapter_model.safetensors"), &file));
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        const tn_safetensors_entry *entry = tn_safetensors_find(&file, wanted[i].name);
        assert_non_null(entry);
        for (int d = 0; d < entry->tensor.ndim; d++)
            assert_int_equal(entry->tensor.shape[d], wanted[i].shape[d]);
    }
    tn_safetensors_close(&file);
    assert_ok(tn_model_load_adapter(model, temporary("adapter"), false, false));
    assert_true(probe_difference(model, with) == 0);
    tn_free(with);
    tn_model_free(model);
    free(text);
}

static void what_does_not_fit_is_refused(void **state) {
    static const struct {
        const char *method, *targets, *init;
        int64_t rank;
        const char *words;
    } wrong[] = {
        {"lora", "middle", "kaiming", 3, "in 2 groups, so the rank must be a multiple of that, not 3"},
        {"lora", "middle", "kaiming", 9, "whose weight is 8 x 72; choose 1 to 8"},
        {"lora", "first", "kaiming", 4, "whose weight is 8 x 3; choose 1 to 3"},
        {"dora", "middle", "kaiming", 4, "use_dora: 'middle' is a convolution in 2 groups"},
        {"lora-fa", "middle", "kaiming", 4, "lora-fa: 'middle' is a convolution in 2 groups"},
        {"lora", "first", "pissa", 2, "is for linear layers, but 'first' is a convolution"},
        {"lora", "first", "olora", 2, "is for linear layers, but 'first' is a convolution"},
        {"lora", "first", "orthogonal", 2, "is for linear layers, but 'first' is a convolution"},
        {"lora", "midle", "kaiming", 2, "did you mean 'middle'?"},
    };
    char *text = net_with("\"out_channels\": 8, \"kernel_size\": 3, \"groups\": 2", true);
    tn_model *model = create_model(text, 2);
    size_t used = tn_memory_used();
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tn_adapter_options options = options_for(wrong[i].method, wrong[i].targets);
        options.init = wrong[i].init;
        options.rank = wrong[i].rank;
        tn_status status = tn_model_add_adapter(model, &options, 1);
        if (status == TN_OK || !strstr(tn_error_message(), wrong[i].words))
            fail_msg("%s: %s", wrong[i].words, status == TN_OK ? "accepted" : tn_error_message());
        assert_null(model->adapter);
    }
    assert_int_equal(tn_memory_used(), used);
    tn_model_free(model);
    free(text);
}

/* An adapter that was merged into a grouped convolution cannot be taken out of one that still is in groups. */
static void grouped_convolutions_stay_merged(void **state) {
    tn_adapter_options options = options_for("lora", "middle");
    tn_model *model, *merged;
    char *text = net_with("\"out_channels\": 8, \"kernel_size\": 3, \"groups\": 2", true);
    (void)state;
    model = create_stored_model(text, 2, "grouped", "f32");
    assert_ok(tn_model_add_adapter(model, &options, 1));
    randomise_adapter(model->adapter, 7, 0.3f);
    assert_ok(tn_model_save_adapter(model, temporary("of_grouped")));
    assert_fails(tn_model_unmerge(model, temporary("back"), "keep", NULL), TN_ERROR_MISMATCH, "'middle' is still in groups");
    assert_ok(tn_model_merge(model, temporary("without_groups"), "keep", NULL));
    assert_ok(tn_model_load(temporary("without_groups"), &merged));
    assert_fails(tn_model_load_adapter(merged, temporary("of_grouped"), false, false), TN_ERROR_MISMATCH, "has shape");
    tn_model_free(merged);
    tn_model_free(model);
    free(text);
}

/* Every linear and convolutional layer but the last, by names that are the last one's too where they must be. */
static void all_linear_means_all_but_the_head(void **state) {
    static const struct {
        const char *names[3];
        const char *targets[3];
    } cases[] = {{{"a", "b", "c"}, {"a", "b", NULL}}, {{"body.0", "body.1", "head.0"}, {"body.0", "1", NULL}}};
    (void)state;
    for (int i = 0; i < 2; i++) {
        char text[600];
        snprintf(
            text, sizeof text,
            "{\"model_type\": \"sequential\", \"input_shape\": [1, 4, 4], \"layers\": [{\"type\": \"conv2d\", \"name\": "
            "\"%s\", \"out_channels\": 8, \"kernel_size\": 3}, {\"type\": \"flatten\"}, {\"type\": \"linear\", "
            "\"name\": \"%s\", \"out_features\": 9}, {\"type\": \"linear\", \"name\": \"%s\", \"out_features\": 3}]}",
            cases[i].names[0], cases[i].names[1], cases[i].names[2]);
        tn_model *model = create_model(text, 2);
        tn_adapter_options options = options_for("lora", NULL);
        assert_ok(tn_model_add_adapter(model, &options, 1));
        assert_int_equal(model->adapter->slot_count, 2);
        const tn_text_list *targets = &model->adapter->config.target_modules;
        assert_int_equal(targets->count, 2);
        for (size_t t = 0; t < targets->count; t++)
            assert_string_equal(targets->items[t], cases[i].targets[t]);
        tn_model_free(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merged_and_unmerged_agree),         cmocka_unit_test(stacked_and_weighted_adapters_merge),
        cmocka_unit_test(gradients_are_central_differences), cmocka_unit_test(frozen_a_preconditions_by_all_of_its_kernel),
        cmocka_unit_test(files_keep_every_tensor),           cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(grouped_convolutions_stay_merged),  cmocka_unit_test(all_linear_means_all_but_the_head),
    };
    return cmocka_run_group_tests_name("lora_conv", tests, NULL, remove_temporary);
}
