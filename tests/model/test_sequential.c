/* Sequential models: shapes from layer to layer, what does not fit or cannot be, and the forward pass against a plain scalar
 * one. */
#include "support/support.h"

#define NET(input, layers) "{\"model_type\": \"sequential\", \"input_shape\": " input ", \"layers\": [" layers "]}"
#define CONV(settings) "{\"type\": \"conv2d\", \"name\": \"c\", " settings "}"
#define HEAD "{\"type\": \"flatten\"}, {\"type\": \"linear\", \"name\": \"head\", \"out_features\": 4}"

static tn_status parse(const char *text, tn_sequential_config *out) {
    cJSON *json;
    assert_ok(tn_json_parse(text, strlen(text), "here", &json));
    tn_status status = tn_sequential_config_parse(json, "here", out);
    cJSON_Delete(json);
    return status;
}

static void shapes_follow_from_layer_to_layer(void **state) {
    static const char *const wanted[] = {"8 x 9 x 8", "8 x 9 x 8", "8 x 5 x 5", "6 x 3 x 7", "6 x 3 x 7", "6 x 3 x 7",
                                         "6 x 2 x 6", "6",         "6",         "6",         "3"};
    tn_sequential_config c;
    char shape[TN_LAYER_SHAPE_TEXT];
    (void)state;
    assert_ok(parse(
        NET("[3, 9, 8]",
            CONV("\"out_channels\": 8, \"kernel_size\": 3, \"padding\": 1") ", {\"type\": \"relu\"}, "
                                                                            "{\"type\": \"max_pool2d\", \"kernel_size\": 2, "
                                                                            "\"padding\": 1}, "
                                                                            "{\"type\": \"conv2d\", \"out_channels\": 6, "
                                                                            "\"kernel_size\": [3, 2], \"stride\": [2, 1], "
                                                                            "\"padding\": [1, 2], \"dilation\": [1, 2], "
                                                                            "\"groups\": 2, \"bias\": false}, "
                                                                            "{\"type\": \"batch_norm\"}, {\"type\": "
                                                                            "\"gelu\", \"approximate\": \"tanh\"}, "
                                                                            "{\"type\": \"avg_pool2d\", \"kernel_size\": 2, "
                                                                            "\"stride\": 1}, {\"type\": "
                                                                            "\"global_avg_pool\"}, "
                                                                            "{\"type\": \"layer_norm\", \"eps\": 1e-6}, "
                                                                            "{\"type\": \"dropout\", \"p\": 0.25}, "
                                                                            "{\"type\": \"linear\", \"in_features\": 6, "
                                                                            "\"out_features\": 3}"),
        &c));
    assert_int_equal(c.count, 11);
    assert_int_equal(c.inputs, 216);
    assert_int_equal(c.outputs, 3);
    for (int64_t i = 0; i < c.count; i++)
        assert_string_equal(tn_layer_shape_text(&c.layers[i].out, shape), wanted[i]);
    assert_string_equal(c.layers[0].name, "c");
    assert_string_equal(c.layers[10].name, "10");
    assert_int_equal(c.layers[2].window.stride_height, 2);
    assert_true(c.layers[5].tanh_gelu && !c.layers[3].bias && c.layers[0].bias);
    tn_sequential_config_free(&c);
}

static void what_does_not_fit_is_named(void **state) {
    static const struct {
        const char *text, *words;
    } wrong[] = {
        {"[]", "not a JSON object"},
        {NET("[4]", "7"), "layers[0] must be an object"},
        {NET("[4]", "{\"name\": \"a\"}"), "layers[0]: 'type' is missing"},
        {NET("[4]", "{\"type\": \"linar\", \"out_features\": 3}"), "did you mean 'linear'?"},
        {NET("[4]", "{\"type\": \"linear\", \"out_features\": 3, \"biass\": true}"), "'biass' is not known"},
        {NET("[4]", "{\"type\": \"linear\", \"out_features\": 3, \"out_features bias\": 1}"), "is not known"},
        {NET("[4]", "{\"type\": \"linear\", \"name\": \"fc\"}"), "layers[0] (linear 'fc'): 'out_features' is missing"},
        {NET("[4]", "{\"type\": \"linear\", \"in_features\": 5, \"out_features\": 3}"),
         "'in_features' is 5, but what arrives here has shape 4; it must be 4"},
        {NET("[4]", "{\"type\": \"linear\", \"out_features\": 0}"), "out_features"},
        {NET("[4]", "{\"type\": \"linear\", \"out_features\": -3}"), "out_features"},
        {NET("[4]", "{\"type\": \"linear\", \"out_features\": 1e15}"), "out_features"},
        {NET("[4]", "{\"type\": \"linear\", \"out_features\": 2.5}"), "out_features"},
        {NET("[4]", "{\"type\": \"linear\", \"name\": \".x\", \"out_features\": 3}"), "no dot at either end"},
        {NET("[4]", "{\"type\": \"linear\", \"name\": \"\", \"out_features\": 3}"), "1 to 200 visible characters"},
        {NET("[4]", "{\"type\": \"linear\", \"out_features\": 1}"), "gives 1 number, but a classification"},
        {NET("[4]", "{\"type\": \"relu\"}"), "nothing to learn"},
        {NET("[4]", CONV("\"out_channels\": 3, \"kernel_size\": 1")), "needs an image"},
        {NET("[4]", "{\"type\": \"global_avg_pool\"}, " HEAD), "needs an image"},
        {NET("[1, 4, 4]", "{\"type\": \"linear\", \"out_features\": 3}"),
         "needs a vector, but what arrives here is an image of 1 x 4 x 4; put a layer of type flatten (all 16 numbers)"},
        {NET("[1, 4, 4]", "{\"type\": \"layer_norm\"}, " HEAD), "needs a vector"},
        {NET("[1, 4, 4]", CONV("\"out_channels\": 3, \"kernel_size\": 1")), "gives an image of 3 x 4 x 4; end with flatten"},
        {NET("[1, 4, 4]", CONV("\"out_channels\": 3") ", " HEAD), "'kernel_size' is missing"},
        {NET("[1, 4, 4]", CONV("\"kernel_size\": 3") ", " HEAD), "'out_channels' is missing"},
        {NET("[1, 4, 4]", CONV("\"out_channels\": 3, \"kernel_size\": 5") ", " HEAD), "layers[0] (conv2d 'c')"},
        {NET("[1, 4, 4]", CONV("\"out_channels\": 3, \"kernel_size\": [2, 2, 2]") ", " HEAD), "one number or two"},
        {NET("[1, 4, 4]", CONV("\"out_channels\": 3, \"kernel_size\": [2, 0]") ", " HEAD), "whole numbers from 1"},
        {NET("[1, 4, 4]", CONV("\"out_channels\": 3, \"kernel_size\": [2, \"2\"]") ", " HEAD), "whole numbers from 1"},
        {NET("[1, 4, 4]", CONV("\"out_channels\": 3, \"kernel_size\": 0") ", " HEAD), "kernel_size"},
        {NET("[1, 4, 4]", CONV("\"out_channels\": 3, \"kernel_size\": 2, \"stride\": 0") ", " HEAD), "stride"},
        {NET("[1, 4, 4]", CONV("\"out_channels\": 3, \"kernel_size\": 2, \"padding\": -1") ", " HEAD), "padding"},
        {NET("[1, 4, 4]", CONV("\"out_channels\": 3, \"kernel_size\": 2, \"dilation\": 4") ", " HEAD), "reaches over 5"},
        {NET("[2, 4, 4]", CONV("\"out_channels\": 3, \"kernel_size\": 2, \"groups\": 2") ", " HEAD), "groups"},
        {NET("[2, 4, 4]", CONV("\"out_channels\": 4, \"kernel_size\": 2, \"groups\": 3") ", " HEAD), "groups"},
        {NET("[2, 4, 4]", CONV("\"in_channels\": 3, \"out_channels\": 4, \"kernel_size\": 2") ", " HEAD), "it must be 2"},
        {NET("[1, 4, 4]", CONV("\"out_channels\": 200000000, \"kernel_size\": 1") ", " HEAD), "are too large"},
        {NET("[1, 4, 4]", "{\"type\": \"max_pool2d\", \"kernel_size\": 2, \"padding\": 2}, " HEAD), "more than half"},
        {NET("[1, 4, 4]", "{\"type\": \"avg_pool2d\", \"kernel_size\": 9}, " HEAD), "avg_pool2d"},
        {NET("[4]", "{\"type\": \"dropout\", \"p\": 1}, " HEAD), "'p' is 1, but must be from 0 to 0.999"},
        {NET("[4]", "{\"type\": \"batch_norm\", \"eps\": 0}, " HEAD), "'eps' is 0"},
        {NET("[4]", "{\"type\": \"batch_norm\", \"momentum\": 2}, " HEAD), "'momentum' is 2"},
        {NET("[4]", "{\"type\": \"batch_norm\", \"num_features\": 5}, " HEAD), "it must be 4"},
        {NET("[4]", "{\"type\": \"gelu\", \"approximate\": \"erf\"}, " HEAD), "must be none or tanh"},
        {NET("[28, 28]", HEAD), "grey images are [1, height, width]"},
        {NET("[0]", HEAD), "input_shape[0]"},
        {NET("[1, 4, -4]", HEAD), "input_shape[2]"},
        {NET("[1, 1e6, 1e6]", HEAD), "too large"},
        {NET("4", HEAD), "'input_shape' must be [n]"},
        {"{\"input_shape\": [4], \"layers\": []}", "a list of 1 to"},
        {"{\"input_shape\": [4]}", "a list of 1 to"},
        {"{\"task\": \"ranking\", \"input_shape\": [4], \"layers\": [" HEAD "]}", "task 'ranking'"},
    };
    tn_sequential_config c;
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tn_status status = parse(wrong[i].text, &c);
        if (status == TN_OK || !strstr(tn_error_message(), wrong[i].words))
            fail_msg("%s: %s", wrong[i].text, status == TN_OK ? "accepted" : tn_error_message());
    }
}

/* `count` linear layers of one number each, and a head. */
static char *deep(int count) {
    tn_buf text = {0};
    tn_buf_puts(&text, "{\"model_type\": \"sequential\", \"input_shape\": [2], \"layers\": [");
    for (int i = 0; i < count; i++)
        tn_buf_puts(&text, "{\"type\": \"linear\", \"out_features\": 2}, ");
    tn_buf_puts(&text, HEAD "]}");
    return tn_buf_take(&text);
}

static void thousands_of_layers_work_and_more_are_refused(void **state) {
    tn_sequential_config c;
    char *text = deep(10000);
    (void)state;
    assert_fails(parse(text, &c), TN_ERROR_FORMAT, "a list of 1 to 10000 layers");
    tn_free(text);
    text = deep(3000);
    tn_model *model = create_model(text, 3);
    int64_t count;
    tn_free(probe(model, &count));
    assert_int_equal(model->network->module_count, 3001);
    assert_true(model->network->modules[3000].is_head);
    tn_model_free(model);
    tn_free(text);
}

static void names_are_unique_and_broken_checkpoints_refused(void **state) {
    tn_model *model;
    size_t used = tn_memory_used();
    (void)state;
    write_text(temporary("twice.json"), NET("[4]", "{\"type\": \"linear\", \"name\": \"a\", \"out_features\": 3}, "
                                                   "{\"type\": \"linear\", \"name\": \"a\", \"out_features\": 3}"));
    assert_fails(tn_model_create(temporary("twice.json"), 1, &model), TN_ERROR_FORMAT, "another layer has this name");
    const char *net = NET("[4]", "{\"type\": \"batch_norm\", \"name\": \"bn\"}, " HEAD);
    model = create_stored_model(net, 1, "stored", "f16");
    assert_int_equal(model->network->unused_tensors, 0);
    tn_model_free(model);
    write_text(temporary("stored/config.json"), NET("[5]", "{\"type\": \"batch_norm\", \"name\": \"bn\"}, " HEAD));
    assert_fails(tn_model_load(temporary("stored"), &model), TN_ERROR_MISMATCH,
                 "tensor 'bn.weight' has shape [4], but config.json makes it [5]");
    write_text(temporary("stored/config.json"), NET("[4]", "{\"type\": \"batch_norm\", \"name\": \"b\"}, " HEAD));
    assert_fails(tn_model_load(temporary("stored"), &model), TN_ERROR_MISMATCH, "no tensor 'b.weight'");
    assert_int_equal(tn_memory_used(), used);
}

/* Batch norm's statistics in the file are those of the model, and a negative variance is none. */
static void running_statistics_are_stored(void **state) {
    const char *net = NET("[4]", "{\"type\": \"batch_norm\", \"name\": \"bn\"}, " HEAD);
    tn_model *model = create_model(net, 1), *loaded;
    float *variance = model->network->modules[0].running_var.tensor.data;
    (void)state;
    ((float *)model->network->modules[0].running_mean.tensor.data)[1] = 0.5f;
    variance[2] = 3;
    assert_ok(tn_session_write_checkpoint(model, temporary("running"), "keep", 1, NULL));
    assert_ok(tn_model_load(temporary("running"), &loaded));
    assert_true(((float *)loaded->network->modules[0].running_mean.tensor.data)[1] == 0.5f);
    assert_true(((float *)loaded->network->modules[0].running_var.tensor.data)[2] == 3);
    int64_t count;
    float *logits = probe(model, &count);
    assert_true(probe_difference(loaded, logits) == 0);
    tn_free(logits);
    tn_model_free(loaded);
    variance[2] = -3;
    assert_ok(tn_session_write_checkpoint(model, temporary("negative"), "keep", 1, NULL));
    assert_fails(tn_model_load(temporary("negative"), &loaded), TN_ERROR_NUMERIC, "'bn.running_var' holds -3");
    tn_model_free(model);
}

/* Each allocation on the way to a model, its adapter and a pass may fail, and nothing stays behind. */
static tn_status build_and_run(const char *path, const char *method) {
    tn_adapter_options options;
    tn_model *model = NULL;
    float *logits = NULL;
    int64_t count;
    tn_status status = tn_model_create(path, 1, &model);
    tn_adapter_options_default(&options);
    options.method = method;
    options.rank = 2;
    if (status == TN_OK)
        status = tn_model_add_adapter(model, &options, 1);
    if (status == TN_OK)
        status = tn_session_probe_logits(model, &logits, &count);
    tn_free(logits);
    tn_model_free(model);
    return status;
}

static void running_out_of_memory_is_an_error(void **state) {
    static const char *const methods[] = {"lora", "dora", "full"};
    const char *path = temporary("memory.json");
    (void)state;
    write_text(path,
               NET("[2, 5, 5]", CONV("\"out_channels\": 4, \"kernel_size\": 3") ", {\"type\": \"batch_norm\"}, " HEAD));
    tn_set_threads(1);
    for (int m = 0; m < 3; m++) {
        assert_ok(build_and_run(path, methods[m]));
        size_t used = tn_memory_used();
        int failures = 0;
        for (int64_t after = 0; after < 60; after++) {
            tn_memory_fail_after(after);
            tn_status status = build_and_run(path, methods[m]);
            tn_memory_fail_after(-1);
            assert_true(status == TN_OK || status == TN_ERROR_MEMORY);
            assert_int_equal(tn_memory_used(), used);
            failures += status != TN_OK;
        }
        assert_true(failures > 20);
        assert_ok(build_and_run(path, methods[m]));
    }
    tn_set_threads(0);
}

/* y [o] of one sample, by the definition. */
static double conv_at(const tn_module *m, const float *x, int64_t o, int64_t row, int64_t col) {
    const tn_conv_shape *s = &m->conv;
    const float *w = m->weight.tensor.data;
    int64_t in = s->in_channels / s->groups, group = o / (s->out_channels / s->groups);
    double sum = m->has_bias ? ((const float *)m->bias.tensor.data)[o] : 0;
    for (int64_t c = 0; c < in; c++)
        for (int64_t i = 0; i < s->kernel_height; i++)
            for (int64_t j = 0; j < s->kernel_width; j++) {
                int64_t y = row * s->stride_height - s->padding_height + i * s->dilation_height;
                int64_t z = col * s->stride_width - s->padding_width + j * s->dilation_width;
                if (y >= 0 && y < s->height && z >= 0 && z < s->width)
                    sum += (double)w[((o * in + c) * s->kernel_height + i) * s->kernel_width + j] *
                           x[((group * in + c) * s->height + y) * s->width + z];
            }
    return sum;
}

static void forward_is_the_layers_in_order(void **state) {
    enum { ROWS = 3, INPUTS = 4 * 5 * 6, INNER = 6 * 3 * 3, OUTPUTS = 4 };
    tn_model *model = create_model(
        NET("[4, 5, 6]",
            CONV(
                "\"out_channels\": 6, \"kernel_size\": [2, 3], \"stride\": [2, 1], \"padding\": [1, 0], "
                "\"dilation\": [1, 1], \"groups\": 2") ", {\"type\": \"relu\"}, "
                                                       "{\"type\": \"max_pool2d\", \"kernel_size\": [1, 2], \"stride\": 1}, "
                                                       "{\"type\": \"batch_norm\", \"name\": \"bn\"}, {\"type\": "
                                                       "\"silu\"}, " HEAD),
        5);
    tn_module *m = model->network->modules;
    float x[ROWS * INPUTS], logits[ROWS * OUTPUTS];
    double largest = 0;
    tn_pass_cost cost;
    tn_tape tape;
    (void)state;
    tn_fill_normal(x, ROWS * INPUTS, 1, 2, 0, 1);
    tn_fill_uniform(m[1].running_mean.tensor.data, 6, 1, 3, -1, 1);
    tn_fill_uniform(m[1].running_var.tensor.data, 6, 1, 4, 0.5f, 2);
    assert_ok(tn_pass_rehearse_features(model, ROWS, false, &cost));
    assert_ok(tn_tape_init(&tape, model->kernels, cost.heap_bytes));
    assert_ok(tn_pass_feature_logits(model, &tape, x, ROWS, logits));
    const float *head = m[2].weight.tensor.data, *mean = m[1].running_mean.tensor.data, *var = m[1].running_var.tensor.data;
    for (int n = 0; n < ROWS; n++) {
        double inner[INNER];
        for (int i = 0; i < INNER; i++) {
            int o = i / 9, row = i % 9 / 3, col = i % 3;
            double a = fmax(conv_at(&m[0], x + n * INPUTS, o, row, col), 0);
            double b = fmax(conv_at(&m[0], x + n * INPUTS, o, row, col + 1), 0);
            double z = (fmax(a, b) - mean[o]) / sqrt(var[o] + 1e-5) * ((const float *)m[1].weight.tensor.data)[o] +
                       ((const float *)m[1].bias.tensor.data)[o];
            inner[i] = z / (1 + exp(-z));
        }
        for (int k = 0; k < OUTPUTS; k++) {
            double sum = ((const float *)m[2].bias.tensor.data)[k];
            for (int i = 0; i < INNER; i++)
                sum += inner[i] * head[k * INNER + i];
            largest = fmax(largest, fabs(sum - logits[n * OUTPUTS + k]));
        }
    }
    assert_true(largest < 1e-5);
    tn_tape_free(&tape);
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_follow_from_layer_to_layer),
        cmocka_unit_test(what_does_not_fit_is_named),
        cmocka_unit_test(thousands_of_layers_work_and_more_are_refused),
        cmocka_unit_test(names_are_unique_and_broken_checkpoints_refused),
        cmocka_unit_test(running_statistics_are_stored),
        cmocka_unit_test(running_out_of_memory_is_an_error),
        cmocka_unit_test(forward_is_the_layers_in_order),
    };
    return cmocka_run_group_tests_name("sequential", tests, NULL, remove_temporary);
}
