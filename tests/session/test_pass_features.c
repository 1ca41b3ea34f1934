/* Passes of sequential models: gradients, batch norm's statistics, learning, memory as rehearsed, files in and out, and text
 * refused. */
#include <tenon/evaluate.h>
#include <tenon/generate.h>
#include <tenon/train.h>

#include "support/support.h"
#include "train/optimizer.h"

#define CONV_NET                                                                                                            \
    "{\"model_type\": \"sequential\", \"input_shape\": [2, 5, 4], \"layers\": [{\"type\": \"conv2d\", \"name\": \"conv\", " \
    "\"out_channels\": 4, \"kernel_size\": 3, \"padding\": 1, \"bias\": false}, {\"type\": \"batch_norm\", \"name\": "      \
    "\"bn\", \"momentum\": 0.25}, {\"type\": \"gelu\"}, {\"type\": \"avg_pool2d\", \"kernel_size\": 2}, {\"type\": "        \
    "\"flatten\"}, {\"type\": \"layer_norm\", \"name\": \"ln\"}, {\"type\": \"linear\", \"name\": \"fc\", "                 \
    "\"out_features\": 6}, {\"type\": \"tanh\"}, {\"type\": \"dropout\", \"p\": 0.2}, {\"type\": \"linear\", \"name\": "    \
    "\"head\", \"out_features\": 3}]}"
#define MLP(task)                                                                                                           \
    "{\"model_type\": \"sequential\", \"task\": \"" task "\", \"input_shape\": [6], \"layers\": [{\"type\": \"linear\", "   \
    "\"name\": \"fc1\", \"out_features\": 16}, {\"type\": \"relu\"}, {\"type\": \"linear\", \"name\": \"fc2\", "            \
    "\"out_features\": 3}]}"

enum { MOST_ROWS = 32 };

/* Rows with labels by a rule that can be learned, and targets. */
typedef struct {
    float x[MOST_ROWS * 40], targets[MOST_ROWS * 3], losses[MOST_ROWS];
    int32_t labels[MOST_ROWS], predicted[MOST_ROWS];
    int64_t rows, inputs;
} batch;

static batch make_batch(const tn_model *model, int64_t rows) {
    batch b = {.rows = rows, .inputs = model->sequential->config.inputs};
    tn_fill_normal(b.x, (size_t)(rows * b.inputs), 3, 1, 0, 1);
    for (int64_t i = 0; i < rows; i++) {
        const float *x = b.x + i * b.inputs;
        b.labels[i] = x[0] > 0 ? 0 : x[1] > 0 ? 1 : 2;
        for (int k = 0; k < 3; k++)
            b.targets[i * 3 + k] = x[k] - 0.5f * x[k + 1];
    }
    return b;
}

/* The mean loss, and with recording gradients added, in exactly the memory that was rehearsed. */
static double pass(tn_model *model, batch *b, bool recording, bool training) {
    const tn_feature_pass pass = {.x = b->x, .count = b->rows, .labels = b->labels, .targets = b->targets};
    tn_pass_cost cost;
    tn_tape tape;
    double sum = 0;
    assert_ok(tn_pass_rehearse_features(model, b->rows, recording, &cost));
    assert_ok(tn_tape_init(&tape, model->kernels, cost.heap_bytes));
    tape.recording = recording;
    tn_forward forward = {.tape = &tape, .training = training, .dropout_seed = 5};
    tn_pass_features(model, &forward, &pass, 1.0f / (float)b->rows, b->losses, b->predicted);
    assert_ok(tn_tape_status(&tape));
    assert_int_equal(tape.heap.peak, cost.heap_bytes);
    assert_true(tape.flops == cost.flops && cost.flops > 0);
    tn_tape_free(&tape);
    for (int64_t i = 0; i < b->rows; i++)
        sum += b->losses[i];
    return sum / (double)b->rows;
}

static void add_full(tn_model *model) {
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.method = "full";
    assert_ok(tn_model_add_adapter(model, &options, 1));
}

static void full_gradients_are_central_differences(void **state) {
    tn_model *model = create_model(CONV_NET, 3);
    batch b = make_batch(model, 7);
    (void)state;
    add_full(model);
    tn_params *params = &model->adapter->params;
    pass(model, &b, true, true);
    float *grads = malloc((size_t)params->total * sizeof *grads);
    assert_non_null(grads);
    memcpy(grads, params->grads, (size_t)params->total * sizeof *grads);
    for (int64_t p = 0; p < params->count; p++) {
        const tn_param *param = &params->entries[p];
        float *value = params->values + param->offset, step = 1e-2f;
        for (int64_t j = 0; j < param->count; j += param->count / 6 + 1) {
            float kept = value[j];
            value[j] = kept + step;
            double above = pass(model, &b, true, true);
            value[j] = kept - step;
            double below = pass(model, &b, true, true);
            value[j] = kept;
            double want = param->is_buffer ? 0 : (above - below) / (2 * (double)step), got = grads[param->offset + j];
            if (!(fabs(got - want) <= 1e-3 * (1 + fabs(want))))
                fail_msg("%s[%lld] is %g, not %g", param->name, (long long)j, got, want);
        }
    }
    free(grads);
    tn_model_free(model);
}

/* Mean and unbiased variance of the batch, which is batch norm's input here. */
static void running_statistics_follow_the_batches_when_trained(void **state) {
    const char *net = "{\"model_type\": \"sequential\", \"task\": \"regression\", \"input_shape\": [3], \"layers\": "
                      "[{\"type\": \"batch_norm\", \"name\": \"bn\", \"momentum\": 0.25}, {\"type\": \"linear\", "
                      "\"out_features\": 3}]}";
    tn_model *model = create_model(net, 3), *loaded;
    batch b = make_batch(model, 9);
    (void)state;
    const tn_module *bn = &model->network->modules[0];
    add_full(model);
    pass(model, &b, false, false);
    assert_true(((const float *)bn->running_mean.tensor.data)[0] == 0);
    pass(model, &b, true, true);
    for (int c = 0; c < 3; c++) {
        double mean = 0, square = 0;
        for (int i = 0; i < 9; i++)
            mean += (double)b.x[i * 3 + c] / 9;
        for (int i = 0; i < 9; i++)
            square += ((double)b.x[i * 3 + c] - mean) * ((double)b.x[i * 3 + c] - mean) / 8;
        assert_true(fabs(0.25 * mean - ((const float *)bn->running_mean.tensor.data)[c]) < 1e-6);
        assert_true(fabs(0.75 + 0.25 * square - ((const float *)bn->running_var.tensor.data)[c]) < 1e-6);
    }
    /* they are saved with what was trained, and are the base's again without it */
    int64_t count;
    float *trained = probe(model, &count);
    assert_ok(tn_model_save_adapter(model, temporary("trained")));
    assert_ok(tn_model_load(temporary("trained"), &loaded));
    assert_true(probe_difference(loaded, trained) == 0);
    tn_model_enable_adapter(model, false);
    assert_true(((const float *)bn->running_mean.tensor.data)[0] == 0);
    assert_true(probe_difference(model, trained) > 1e-3);
    tn_free(trained);
    tn_model_free(loaded);
    tn_model_free(model);
}

static void an_adapter_leaves_running_statistics_alone(void **state) {
    tn_adapter_options options;
    tn_model *model = create_model(CONV_NET, 3);
    batch b = make_batch(model, 8);
    (void)state;
    const tn_module *bn = tn_network_module(model->network, "bn");
    tn_adapter_options_default(&options);
    options.rank = 2;
    assert_ok(tn_model_add_adapter(model, &options, 1));
    pass(model, &b, true, true);
    for (int c = 0; c < 4; c++) {
        assert_true(((const float *)bn->running_mean.tensor.data)[c] == 0);
        assert_true(((const float *)bn->running_var.tensor.data)[c] == 1);
    }
    /* unless the whole module is trained */
    options.modules_to_save = "bn";
    assert_ok(tn_model_add_adapter(model, &options, 1));
    pass(model, &b, true, true);
    assert_true(((const float *)bn->running_mean.tensor.data)[0] != 0);
    int64_t count;
    float *trained = probe(model, &count);
    assert_ok(tn_model_save_adapter(model, temporary("adapter")));
    assert_ok(tn_model_load_adapter(model, temporary("adapter"), false, false));
    assert_true(probe_difference(model, trained) == 0);
    tn_free(trained);
    tn_model_free(model);
}

/* A batch of one vector has no variance. */
static void one_row_is_too_few_for_batch_norm(void **state) {
    const char *net = "{\"model_type\": \"sequential\", \"input_shape\": [3], \"layers\": [{\"type\": \"batch_norm\", "
                      "\"name\": \"bn\"}, {\"type\": \"linear\", \"out_features\": 3}]}";
    tn_model *model = create_model(net, 3);
    tn_pass_cost cost;
    (void)state;
    assert_ok(tn_pass_rehearse_features(model, 1, false, &cost));
    add_full(model);
    assert_fails(tn_pass_rehearse_features(model, 1, true, &cost), TN_ERROR_ARGUMENT, "'bn': a batch of one sample");
    tn_model_free(model);
}

static double train(tn_model *model, batch *b, int steps, double lr) {
    tn_optimizer optimizer;
    double loss = 0;
    assert_ok(tn_optimizer_init(&optimizer, &model->adapter->params, model->kernels, TN_OPTIMIZER_ADAMW));
    for (int step = 1; step <= steps; step++) {
        tn_optimizer_zero_grad(&optimizer);
        loss = pass(model, b, true, true);
        tn_optimizer_step(&optimizer, step, lr, tn_optimizer_grad_norm(&optimizer), 0);
    }
    tn_optimizer_free(&optimizer);
    return loss;
}

static void training_learns(void **state) {
    static const struct {
        const char *net, *method;
    } runs[] = {{MLP("classification"), "full"},
                {MLP("classification"), "lora"},
                {MLP("regression"), "full"},
                {MLP("regression"), "dora"},
                {CONV_NET, "full"},
                {CONV_NET, "lora"}};
    (void)state;
    for (size_t r = 0; r < sizeof runs / sizeof *runs; r++) {
        tn_adapter_options options;
        tn_model *model = create_model(runs[r].net, 3);
        batch b = make_batch(model, MOST_ROWS);
        double before = pass(model, &b, false, false);
        int right = 0;
        tn_adapter_options_default(&options);
        options.method = runs[r].method;
        options.rank = 4;
        if (strcmp(options.method, "full") != 0)
            options.target_modules = model->network->module_count == 2 ? "fc1,fc2" : "conv,fc,head";
        options.rank_pattern = "fc2=3,head=3";
        assert_ok(tn_model_add_adapter(model, &options, 1));
        train(model, &b, 300, 0.02);
        double after = pass(model, &b, false, false);
        if (!(after < 0.35 * before))
            fail_msg("run %d: the loss went from %g to %g", (int)r, before, after);
        for (int i = 0; i < MOST_ROWS; i++)
            right += b.predicted[i] == b.labels[i];
        if (!model->sequential->config.regression)
            assert_true(right >= 28);
        tn_model_free(model);
    }
}

/* x [4, 6], target of the given type and values, and nothing else unless it is asked for. */
static const char *write_input(const char *x_name, tn_dtype target, int64_t rows, int64_t value) {
    const char *path = temporary("input.safetensors");
    tn_safetensors_writer *writer;
    float x[24], numbers[24];
    int64_t labels[4] = {0, 1, 2, value};
    tn_fill_normal(x, 24, 1, 1, 0, 1);
    tn_fill_normal(numbers, 24, 1, 2, 0, 1);
    bool floats = target == TN_DTYPE_F32;
    assert_ok(tn_safetensors_writer_new(&writer, path));
    assert_ok(tn_safetensors_writer_declare(writer, x_name, TN_DTYPE_F32, 2, (int64_t[]){4, 6}));
    if (rows)
        assert_ok(tn_safetensors_writer_declare(writer, "target", target, floats ? 2 : 1, (int64_t[]){rows, 3}));
    assert_ok(tn_safetensors_writer_begin(writer));
    assert_ok(tn_safetensors_writer_data(writer, x, sizeof x));
    if (rows && floats)
        assert_ok(tn_safetensors_writer_data(writer, numbers, rows * 3 * (int64_t)sizeof(float)));
    else if (rows)
        assert_ok(tn_safetensors_writer_data(writer, labels, rows * (int64_t)sizeof(int64_t)));
    assert_ok(tn_safetensors_writer_finish(writer));
    return path;
}

static void wrong_input_files_are_refused(void **state) {
    tn_model *model = create_model(MLP("classification"), 1), *numbers = create_model(MLP("regression"), 1),
             *wide = create_model(CONV_NET, 1);
    const char *out = temporary("out.safetensors");
    (void)state;
    assert_ok(tn_forward_file(model, write_input("x", TN_DTYPE_I64, 4, 2), out, false, false));
    assert_ok(tn_forward_file(model, write_input("x", TN_DTYPE_I64, 0, 0), out, false, false));
    assert_ok(tn_forward_file(numbers, write_input("x", TN_DTYPE_F32, 4, 0), out, true, false));
    assert_fails(tn_forward_file(model, write_input("y", TN_DTYPE_I64, 4, 2), out, false, false), TN_ERROR_FORMAT,
                 "there is no tensor 'x'");
    assert_fails(tn_forward_file(model, write_input("x", TN_DTYPE_I64, 4, 3), out, false, false), TN_ERROR_FORMAT,
                 "target[3] is 3, but the model has the classes 0 to 2");
    assert_fails(tn_forward_file(model, write_input("x", TN_DTYPE_I64, 4, -1), out, false, false), TN_ERROR_FORMAT,
                 "target[3] is -1");
    assert_fails(tn_forward_file(model, write_input("x", TN_DTYPE_I64, 3, 2), out, false, false), TN_ERROR_FORMAT,
                 "'target' has 3 rows and 'x' 4");
    assert_fails(tn_forward_file(model, write_input("x", TN_DTYPE_F32, 4, 2), out, false, false), TN_ERROR_FORMAT, "target");
    assert_fails(tn_forward_file(numbers, write_input("x", TN_DTYPE_I64, 4, 2), out, false, false), TN_ERROR_FORMAT,
                 "rows of 3 numbers");
    assert_fails(tn_forward_file(wide, write_input("x", TN_DTYPE_I64, 4, 2), out, false, false), TN_ERROR_FORMAT,
                 "'x' has shape [4, 6], but must have 1 or more rows of 40 numbers");
    assert_fails(tn_forward_file(model, write_input("x", TN_DTYPE_I64, 0, 0), out, true, false), TN_ERROR_ARGUMENT,
                 "gradients need a tensor 'target'");
    tn_model_free(model);
    tn_model_free(numbers);
    tn_model_free(wide);
}

/* Gradients of a base with batch norm: one for each weight, none for its running statistics. */
static void gradients_are_of_weights_alone(void **state) {
    tn_safetensors out;
    tn_model *model = create_model("{\"model_type\": \"sequential\", \"input_shape\": [6], \"layers\": [{\"type\": "
                                   "\"batch_norm\", \"name\": \"bn\"}, {\"type\": \"linear\", \"name\": \"fc\", "
                                   "\"out_features\": 3}]}",
                                   1);
    (void)state;
    assert_ok(tn_forward_file(model, write_input("x", TN_DTYPE_I64, 4, 2), temporary("g.safetensors"), true, false));
    assert_ok(tn_safetensors_open(temporary("g.safetensors"), &out));
    assert_int_equal(out.count, 6);
    assert_non_null(tn_safetensors_find(&out, "grad.bn.weight"));
    assert_null(tn_safetensors_find(&out, "grad.bn.running_mean"));
    tn_safetensors_close(&out);
    tn_model_free(model);
}

static void what_needs_words_is_refused(void **state) {
    const char *words = "is a sequential model; ";
    tn_model *model = create_model(MLP("classification"), 1);
    tn_generate_result text;
    tn_evaluation evaluation;
    tn_prompt prompt = {.ids = (const int32_t[]){1}, .count = 1};
    int32_t *ids;
    size_t count;
    (void)state;
    add_full(model);
    assert_fails(tn_generate(model, prompt.ids, 1, NULL, NULL, NULL, &text), TN_ERROR_UNSUPPORTED, words);
    assert_fails(tn_generate_many(model, &prompt, 1, 0, NULL, NULL, NULL), TN_ERROR_UNSUPPORTED, words);
    assert_fails(tn_chat_prompt(model, "[]", true, &ids, &count), TN_ERROR_UNSUPPORTED, words);
    assert_fails(tn_model_encode(model, "a", 1, false, &ids, &count), TN_ERROR_UNSUPPORTED, words);
    assert_fails(tn_evaluate(model, "none.jsonl", NULL, &evaluation), TN_ERROR_UNSUPPORTED, words);
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_gradients_are_central_differences),
        cmocka_unit_test(running_statistics_follow_the_batches_when_trained),
        cmocka_unit_test(an_adapter_leaves_running_statistics_alone),
        cmocka_unit_test(one_row_is_too_few_for_batch_norm),
        cmocka_unit_test(training_learns),
        cmocka_unit_test(wrong_input_files_are_refused),
        cmocka_unit_test(gradients_are_of_weights_alone),
        cmocka_unit_test(what_needs_words_is_refused),
    };
    return cmocka_run_group_tests_name("pass_features", tests, NULL, remove_temporary);
}
