/* The base from random weights, adapters on it, and a full fine-tuning of it. */
#include "tour.h"

#include <math.h>
#include <stdio.h>

enum { BATCH = 32, CURVE_POINTS = 40 };
static const double BASE_LR = 1e-3, FULL_LR = 1e-3;

static bool fit(tn_model *model, const tour *t, const task *on, double lr, double ratio, int64_t epochs, const char *dir,
                tn_train_result *result) {
    tn_train_options options = {0};
    tn_train_options_default(&options);
    options.train_set = &on->train;
    options.valid_set = &on->test;
    options.epochs = (double)epochs;
    options.batch_size = BATCH;
    options.lr = lr;
    options.lora_plus_ratio = ratio > 0 ? ratio : 1;
    options.schedule = "constant";
    options.seed = t->s.seed;
    options.save_every = 0;
    options.out = dir;
    int64_t steps = epochs * ((on->train.count + BATCH - 1) / BATCH);
    options.eval_every = result ? (steps + CURVE_POINTS - 1) / CURVE_POINTS : 0;
    return ok(tn_train(model, &options, NULL, result));
}

static bool add_full(tn_model *model, uint64_t seed) {
    tn_adapter_options full = {0};
    tn_adapter_options_default(&full);
    full.method = "full";
    return ok(tn_model_add_adapter(model, &full, seed));
}

bool train_base(tour *t) {
    char config[PATH];
    tn_model *model = NULL;
    tn_model_info info;
    bool good = join(config, t->s.out, "config.json") && ok(tn_model_create(config, t->s.seed, &model)) &&
                add_full(model, t->s.seed) && fit(model, t, &t->tasks[UPRIGHT], BASE_LR, 1, t->s.base_epochs, t->base, NULL);
    tn_model_free(model);
    if (!good || !ok(tn_model_load(t->base, &model)))
        return false;
    tn_model_describe(model, &info);
    printf("The base: 784-256-128-10, %lld parameters, trained in full on %lld upright digits from 0 to 3. Accuracy:\n",
           (long long)info.parameters, (long long)t->tasks[UPRIGHT].train.count);
    for (int i = 0; i < TASKS && good; i++) {
        double accuracy = accuracy_of(model, &t->tasks[i]);
        good = !isnan(accuracy);
        printf("  %-14s %6.1f %%\n", t->tasks[i].name, 100 * accuracy);
    }
    tn_model_free(model);
    return good;
}

bool train_adapter(const tour *t, const task *on, const recipe *how, tn_model **model, tn_train_result *result) {
    tn_adapter_options options = {0};
    char dir[PATH];
    tn_adapter_options_default(&options);
    options.method = how->method ? how->method : "lora";
    options.init = how->init ? how->init : options.init;
    options.rank = t->s.rank;
    options.alpha = t->s.alpha;
    options.target_modules = "fc1,fc2";
    return join(dir, t->s.out, how->name) && ok(tn_model_load(t->base, model)) &&
           ok(tn_model_add_adapter(*model, &options, t->s.seed)) &&
           fit(*model, t, on, how->lr > 0 ? how->lr : t->s.lr, how->ratio, t->s.epochs, dir, result);
}

bool train_full(const tour *t, const task *on, const char *dir) {
    tn_model *model = NULL;
    bool good = ok(tn_model_load(t->base, &model)) && add_full(model, t->s.seed) &&
                fit(model, t, on, FULL_LR, 1, t->s.epochs, dir, NULL);
    tn_model_free(model);
    return good;
}
