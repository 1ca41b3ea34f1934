/* LoHa and LoKr on convolutions: merged and unmerged models agree whatever the window and the groups, cores are summed as
 * their formula says, and channels are dropped. */
#include "support/support.h"

#include "peft/lycoris.h"
#include "peft/methods.h"

enum { IN = 8, HEIGHT = 6, WIDTH = 5 };

/* A convolution with this window of 8 channels between a first one and a head. */
static tn_model *net_with(const char *window, uint64_t seed) {
    char text[1000];
    snprintf(text, sizeof text,
             "{\"model_type\": \"sequential\", \"input_shape\": [3, 6, 5], \"layers\": [{\"type\": \"conv2d\", \"name\": "
             "\"first\", \"out_channels\": 8, \"kernel_size\": 1}, {\"type\": \"tanh\"}, {\"type\": \"conv2d\", \"name\": "
             "\"middle\", %s}, {\"type\": \"silu\"}, {\"type\": \"flatten\"}, {\"type\": \"linear\", \"name\": \"head\", "
             "\"out_features\": 3}]}",
             window);
    return create_model(text, seed);
}

static const char *const windows[] = {
    "\"out_channels\": 8, \"kernel_size\": 3, \"padding\": 1",
    "\"out_channels\": 12, \"kernel_size\": 1",
    "\"out_channels\": 4, \"kernel_size\": [3, 2], \"stride\": [2, 1], \"padding\": [1, 0]",
    "\"out_channels\": 8, \"kernel_size\": 3, \"stride\": 2, \"groups\": 2",
    "\"out_channels\": 16, \"kernel_size\": [1, 3], \"padding\": [0, 1], \"dilation\": 2, \"groups\": 4",
};
enum { WINDOWS = sizeof windows / sizeof *windows };

static const tn_method_setting effective[] = {{"use-effective-conv2d", "true"}, {"decompose-both", "true"}};

typedef struct {
    const char *method;
    int64_t rank;
    size_t settings; /* of `effective` */
} variant;

static const variant variants[] = {{"loha", 3, 0}, {"loha", 2, 1}, {"lokr", 4, 0},
                                   {"lokr", 1, 0}, {"lokr", 1, 1}, {"lokr", 1, 2}};
enum { VARIANTS = sizeof variants / sizeof *variants };

static void add(tn_model *model, const variant *v, const char *targets) {
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.method = v->method;
    options.target_modules = targets;
    options.rank = v->rank;
    options.alpha = 2;
    options.settings = effective;
    options.setting_count = v->settings;
    assert_ok(tn_model_add_adapter(model, &options, 1));
}

static void merged_and_unmerged_agree(void **state) {
    (void)state;
    for (int i = 0; i < WINDOWS * VARIANTS; i++) {
        tn_model *model = net_with(windows[i / VARIANTS], (uint64_t)i + 1);
        tn_merged kept;
        int64_t count;
        float *base = probe(model, &count);
        add(model, &variants[i % VARIANTS], "first,middle");
        assert_true(probe_difference(model, base) == 0);
        randomise_adapter(model->adapter, 7, 0.7f);
        float *with = probe(model, &count);
        assert_true(largest_difference(base, with, count) > 1e-3);
        assert_ok(tn_session_merge_in_memory(model, &kept));
        assert_true(probe_difference(model, with) < 1e-5);
        tn_session_merged_free(model, &kept);
        assert_true(probe_difference(model, with) == 0);
        tn_model_remove_adapter(model);
        assert_true(probe_difference(model, base) == 0);
        tn_free(base);
        tn_free(with);
        tn_model_free(model);
    }
}

static const float *values(const tn_model *model, const char *suffix) {
    char name[64];
    snprintf(name, sizeof name, "middle.%s", suffix);
    const tn_param *param = tn_params_find(&model->adapter->params, name);
    assert_non_null(param);
    return param->weight->tensor.data;
}

/* sum_ij t[i, j, s] a[i, p] b[j, c]: t [r, r, 9], a [r, out], b [r, in]. */
static double core_at(const float *t, const float *a, const float *b, int r, int out, int in, int p, int c, int s) {
    double sum = 0;
    for (int i = 0; i < r; i++)
        for (int j = 0; j < r; j++)
            sum += (double)t[(i * r + j) * 9 + s] * a[i * out + p] * b[j * in + c];
    return sum;
}

/* [8, 8, 3, 3] with LoHa of rank 2, and LoKr of rank 1 whose w1 is [2, 2] and w2 [4, 4, 3, 3]. */
static void cores_are_summed_by_their_formula(void **state) {
    enum { OUT = 8, COUNT = OUT * IN * 9 };
    static float merged[COUNT];
    (void)state;
    for (int lokr = 0; lokr < 2; lokr++) {
        tn_model *model = net_with(windows[0], 3);
        const tn_module *module = tn_network_module(model->network, "middle");
        bool has_bias;
        add(model, &variants[lokr ? 4 : 1], "middle");
        randomise_adapter(model->adapter, 7, 0.7f);
        assert_ok(tn_adapter_merged_weight(model->adapter, module, merged, NULL, &has_bias));
        for (int at = 0; at < COUNT; at++) {
            int o = at / (IN * 9), c = at / 9 % IN, s = at % 9;
            double want = ((const float *)module->weight.tensor.data)[at];
            if (lokr)
                want += 2.0 * values(model, "lokr_w1")[o / 4 * 2 + c / 4] *
                        core_at(values(model, "lokr_t2"), values(model, "lokr_w2_a"), values(model, "lokr_w2_b"), 1, 4, 4,
                                o % 4, c % 4, s);
            else
                want += core_at(values(model, "hada_t1"), values(model, "hada_w1_a"), values(model, "hada_w1_b"), 2, OUT, IN,
                                o, c, s) *
                        core_at(values(model, "hada_t2"), values(model, "hada_w2_a"), values(model, "hada_w2_b"), 2, OUT, IN,
                                o, c, s);
            assert_true(fabs(merged[at] - want) < 1e-5);
        }
        tn_model_free(model);
    }
}

/* The output of `middle` for fixed inputs. */
static void run(const tn_module *module, bool training, uint64_t seed, float *out) {
    tn_tape tape;
    assert_ok(tn_tape_init(&tape, tn_kernels_cpu(), 4 << 20));
    tn_forward forward = {.tape = &tape, .training = training, .dropout_seed = seed};
    tn_var *x = tn_var_new(&tape, 2, IN * HEIGHT * WIDTH, false);
    tn_fill_normal(x->data, 2 * IN * HEIGHT * WIDTH, 4, 4, 0, 1);
    tn_var *y = tn_conv_forward(&forward, module, x);
    assert_ok(tn_tape_status(&tape));
    memcpy(out, y->data, (size_t)(y->rows * y->cols) * sizeof *out);
    tn_tape_free(&tape);
}

static void channels_are_dropped_whole(void **state) {
    enum { OUT = 64, PLANE = HEIGHT * WIDTH, COUNT = 2 * OUT * PLANE };
    static const tn_method_setting dropping[] = {{"rank-dropout", "0.5"}};
    static float base[COUNT], whole[COUNT], dropped[COUNT];
    (void)state;
    for (int lokr = 0; lokr < 2; lokr++) {
        tn_model *model = net_with("\"out_channels\": 64, \"kernel_size\": 3, \"padding\": 1", 3);
        const tn_module *module = tn_network_module(model->network, "middle");
        tn_adapter_options options;
        int kept = 0;
        run(module, false, 0, base);
        tn_adapter_options_default(&options);
        options.method = lokr ? "lokr" : "loha";
        options.target_modules = "middle";
        options.settings = dropping;
        options.setting_count = 1;
        assert_ok(tn_model_add_adapter(model, &options, 1));
        randomise_adapter(model->adapter, 7, 0.7f);
        run(module, false, 0, whole);
        run(module, true, 5, dropped);
        for (int o = 0; o < OUT; o++)
            kept += dropped[o * PLANE] != base[o * PLANE];
        assert_in_range(kept, OUT / 2 - 20, OUT / 2 + 20); /* standard deviation 4 */
        for (int at = 0; at < COUNT; at++) {
            int first = at / PLANE % OUT * PLANE;
            double factor = dropped[first] == base[first] ? 0 : lokr ? 1 : (double)OUT / kept;
            double want = base[at] + factor * ((double)whole[at] - base[at]);
            assert_true(fabs(dropped[at] - want) < 1e-4 * (1 + fabs(want)));
        }
        tn_model_free(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merged_and_unmerged_agree),
        cmocka_unit_test(cores_are_summed_by_their_formula),
        cmocka_unit_test(channels_are_dropped_whole),
    };
    return cmocka_run_group_tests_name("lycoris on convolutions", tests, NULL, remove_temporary);
}
