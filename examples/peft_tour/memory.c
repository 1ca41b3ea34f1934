/* Memory of training one linear layer of 4096 x 4096 by each method that the library knows. */
#include <stdio.h>
#include <string.h>

#include "tour.h"

enum { SIDE = 4096, F32 = 4, BF16 = 2, MOMENTS = 2 };

static double megabytes(int64_t bytes) {
    return (double)bytes / 1e6;
}

static void print_row(const char *name, int64_t rank, int64_t base, int64_t trained, int64_t frozen) {
    int64_t weights = (trained + frozen) * F32, gradients = trained * F32, moments = MOMENTS * gradients;
    char text[24] = "-";
    if (rank > 0)
        snprintf(text, sizeof text, "%lld", (long long)rank);
    printf("  %-8s %4s %11lld %9lld %9.2f %9.2f %9.2f %9.2f %9.2f\n", name, text, (long long)trained, (long long)frozen,
           megabytes(base), megabytes(weights), megabytes(gradients), megabytes(moments),
           megabytes(base + weights + gradients + moments));
}

/* Methods and presets at their default ranks, without an adapter being made. */
static bool print_catalogue(void) {
    for (size_t i = 0; i < tn_method_count(); i++) {
        tn_method_info info;
        int64_t trained, frozen;
        if (!ok(tn_method_describe(i, &info)))
            return false;
        if (info.kind != TN_METHOD_OWN && info.kind != TN_METHOD_PRESET)
            continue;
        if (!ok(tn_method_parameters(i, SIDE, SIDE, 0, &trained, &frozen)))
            return false;
        /* in full, the trained copy in f32 takes the base's place */
        int64_t base = info.peft_type ? (int64_t)SIDE * SIDE * BF16 : 0;
        print_row(info.name, info.rank, base, trained, frozen);
    }
    return true;
}

static bool print_quantised(const char *name, const char *method) {
    size_t index;
    tn_method_info info;
    tn_memory_row table[TN_MEMORY_ROWS];
    if (!ok(tn_method_find(method, &index)) || !ok(tn_method_describe(index, &info)) ||
        !ok(tn_memory_table_of_layer(SIDE, SIDE, 0, table)))
        return false;
    for (int i = 0; i < TN_MEMORY_ROWS; i++)
        if (strncmp(table[i].name, name, strlen(name)) == 0 && strstr(table[i].name, "double"))
            print_row(name, info.rank, table[i].base, table[i].trained, 0);
    return true;
}

/* The same of a layer that exists: what tn_plan says that training it takes. */
static bool print_planned(const tour *t, tn_model *model, const char *method) {
    static float x[SIDE], target[SIDE];
    const tn_feature_set one = {.count = 1, .inputs = SIDE, .x = x, .targets = target, .outputs = SIDE};
    tn_adapter_options options = {0};
    tn_train_options train = {0};
    tn_train_plan plan;
    tn_adapter_options_default(&options);
    tn_train_options_default(&train);
    options.method = method;
    options.target_modules = "fc";
    train.train_set = &one;
    train.valid_fraction = 0;
    train.steps = 1;
    train.out = t->s.out;
    if (!ok(tn_model_add_adapter(model, &options, t->s.seed)) || !ok(tn_plan(model, &train, &plan)))
        return false;
    printf("  %-8s %lld trained, base %.2f MB, adapter %.2f MB, gradients %.2f MB, moments %.2f MB\n", method,
           (long long)plan.trainable, megabytes(plan.base_bytes), megabytes(plan.adapter_bytes),
           megabytes(plan.gradient_bytes), megabytes(plan.optimizer_bytes));
    tn_model_remove_adapter(model);
    return true;
}

static bool check_on_layer(const tour *t) {
    static const char *const methods[] = {"lora", "dora"};
    static const tn_quantize_options nf4 = {.type = "nf4", .double_quant = true, .modules = "fc"};
    char dir[PATH], path[PATH];
    tn_model *model = NULL;
    if (!join(dir, t->s.out, "layer") || !make_folder(dir) || !join(path, dir, "config.json"))
        return false;
    FILE *file = fopen(path, "w");
    bool good =
        file && fprintf(file,
                        "{\"model_type\": \"sequential\", \"task\": \"regression\", \"input_shape\": [%d], \"layers\": "
                        "[{\"type\": \"linear\", \"name\": \"fc\", \"out_features\": %d, \"bias\": false}]}\n",
                        SIDE, SIDE) > 0;
    if ((file && fclose(file) != 0) || !good)
        return complain("cannot write", path);
    good = ok(tn_model_create(path, t->s.seed, &model));
    printf("\n  A real layer of that size, as tn_plan counts it, its base in f32 and then in NF4 with quantised scales:\n");
    for (int quantised = 0; quantised < 2 && good; quantised++) {
        if (quantised)
            good = ok(tn_model_quantize(model, &nf4, NULL));
        for (size_t i = 0; i < sizeof methods / sizeof *methods && good; i++)
            good = print_planned(t, model, methods[i]);
    }
    tn_model_free(model);
    return good;
}

bool show_memory(const tour *t) {
    printf("\n== Memory of training one layer of %d x %d, in MB: base in bf16, the rest in f32, AdamW\n\n", SIDE, SIDE);
    printf("  %-8s %4s %11s %9s %9s %9s %9s %9s %9s\n", "method", "rank", "trained", "frozen", "base", "adapter",
           "gradients", "moments", "total");
    if (!print_catalogue() || !print_quantised("qlora", "lora") || !print_quantised("qdora", "dora"))
        return false;
    printf("  qlora and qdora: the base in NF4, its scales quantised to 8 bits.\n");
    return check_on_layer(t);
}
