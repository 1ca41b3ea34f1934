/* The list of what an adapter trains: names, modules, shapes and counts of every kind of adapter. */
#include "support/support.h"

#define CONV_NET                                                                                                            \
    "{\"model_type\": \"sequential\", \"input_shape\": [2, 5, 4], \"layers\": [{\"type\": \"conv2d\", \"name\": "           \
    "\"body.conv\", \"out_channels\": 4, \"kernel_size\": 3}, {\"type\": \"batch_norm\", \"name\": \"bn\"}, {\"type\": "    \
    "\"flatten\"}, {\"type\": \"linear\", \"name\": \"head\", \"out_features\": 3}]}"
#define GOLDEN TENON_SOURCE_ROOT "/tests/golden/"

enum { MOST = 64 };

typedef struct {
    tn_trained_tensor items[MOST];
    size_t count;
} listing;

/* The counts are of the shapes, and add up to what the adapter says it trains. */
static listing list(tn_model *model) {
    listing all;
    tn_adapter_info info;
    int64_t sum = 0;
    all.count = tn_model_list_trained(model, all.items, MOST);
    assert_in_range(all.count, 1, MOST);
    for (size_t i = 0; i < all.count; i++) {
        int64_t product = 1;
        for (int d = 0; d < all.items[i].dims; d++)
            product *= all.items[i].shape[d];
        assert_int_equal(all.items[i].count, product);
        sum += product;
    }
    assert_ok(tn_model_describe_adapter(model, &info));
    assert_int_equal(sum, info.parameters);
    return all;
}

static const tn_trained_tensor *find(const listing *all, const char *name) {
    for (size_t i = 0; i < all->count; i++)
        if (strcmp(all->items[i].name, name) == 0)
            return &all->items[i];
    fail_msg("%s is not listed", name);
    return NULL;
}

static void add(tn_model *model, const char *method, const char *targets, const char *bias) {
    tn_adapter_options options;
    tn_adapter_options_default(&options);
    options.method = method;
    options.target_modules = targets;
    options.bias = bias;
    options.rank = strcmp(method, "full") == 0 ? 0 : 2;
    assert_ok(tn_model_add_adapter(model, &options, 1));
}

static void tensors_have_the_shapes_of_their_layers(void **state) {
    static const struct {
        const char *name, *module;
        int dims;
        int64_t shape[4];
    } wanted[] = {
        {"body.conv.lora_A.weight", "body.conv", 4, {2, 2, 3, 3}},
        {"body.conv.lora_B.weight", "body.conv", 4, {4, 2, 1, 1}},
        {"head.lora_A.weight", "head", 2, {2, 24}},
        {"head.lora_B.weight", "head", 2, {3, 2}},
        {"body.conv.base_layer.bias", "body.conv", 1, {4}},
        {"bn.bias", "bn", 1, {4}},
        {"head.base_layer.bias", "head", 1, {3}},
    };
    tn_model *model = create_model(CONV_NET, 1);
    (void)state;
    assert_int_equal(tn_model_list_trained(model, NULL, 0), 0);
    add(model, "lora", "conv,head", "all");
    const listing all = list(model);
    assert_int_equal(all.count, sizeof wanted / sizeof *wanted);
    for (size_t i = 0; i < all.count; i++) {
        const tn_trained_tensor *found = find(&all, wanted[i].name);
        assert_string_equal(found->module, wanted[i].module);
        assert_int_equal(found->dims, wanted[i].dims);
        for (int d = 0; d < found->dims; d++)
            assert_int_equal(found->shape[d], wanted[i].shape[d]);
    }
    tn_model_free(model);
}

static void no_more_is_written_than_there_is_room_for(void **state) {
    tn_trained_tensor two[2] = {{.name = "before"}, {.name = "before"}};
    tn_model *model = create_model(CONV_NET, 1);
    (void)state;
    add(model, "lora", "conv,head", "none");
    assert_int_equal(tn_model_list_trained(model, two, 1), 4);
    assert_string_equal(two[0].name, "body.conv.lora_A.weight");
    assert_string_equal(two[1].name, "before");
    assert_int_equal(tn_model_list_trained(model, NULL, 100), 4);
    tn_model_free(model);
}

static void a_full_training_lists_weights_and_no_running_statistics(void **state) {
    tn_model *model = create_model(CONV_NET, 1);
    tn_model_info info;
    int64_t sum = 0;
    (void)state;
    add(model, "full", NULL, "none");
    const listing all = list(model);
    tn_model_describe(model, &info);
    for (size_t i = 0; i < all.count; i++)
        sum += all.items[i].count;
    assert_int_equal(sum, info.parameters);
    assert_int_equal(all.count, 6);
    assert_string_equal(find(&all, "body.conv.weight")->module, "body.conv");
    assert_int_equal(find(&all, "bn.weight")->count, 4);
    tn_model_free(model);
}

/* VeRA's matrices are shared and frozen: only its vectors are trained. */
static void only_what_is_trained_is_listed(void **state) {
    tn_model *model;
    (void)state;
    assert_ok(tn_model_load(GOLDEN "vera_basic/base", &model));
    assert_ok(tn_model_load_adapter(model, GOLDEN "vera_basic/adapter", true, false));
    const listing all = list(model);
    for (size_t i = 0; i < all.count; i++) {
        assert_non_null(strstr(all.items[i].name, ".vera_lambda_"));
        assert_non_null(all.items[i].module);
    }
    tn_model_free(model);
}

static void several_adapters_are_listed_one_after_another(void **state) {
    const char *dir = GOLDEN "lora_mixed_two_adapters/adapter";
    tn_model *model;
    (void)state;
    assert_ok(tn_model_load(GOLDEN "lora_mixed_two_adapters/base", &model));
    assert_ok(tn_model_load_named_adapter(model, dir, "default", false, false));
    size_t first = list(model).count;
    assert_ok(tn_model_load_named_adapter(model, dir, "other", false, false));
    size_t second = list(model).count;
    assert_ok(tn_model_load_adapter(model, dir, false, false));
    assert_int_equal(list(model).count, first + second);
    tn_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_have_the_shapes_of_their_layers),
        cmocka_unit_test(no_more_is_written_than_there_is_room_for),
        cmocka_unit_test(a_full_training_lists_weights_and_no_running_statistics),
        cmocka_unit_test(only_what_is_trained_is_listed),
        cmocka_unit_test(several_adapters_are_listed_one_after_another),
    };
    return cmocka_run_group_tests_name("trained tensors", tests, NULL, remove_temporary);
}
