/* Training with a line per epoch, and merging. */
#include "fit.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CLASSES = 10 };

bool ok(tn_status status) {
    if (status != TN_OK)
        fprintf(stderr, "lora_training: %s\n", tn_error_message());
    return status == TN_OK;
}

const char *count_text(char out[COUNT_TEXT], int64_t count) {
    char digits[COUNT_TEXT];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)count), at = 0;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}

static bool make_folder(const char *path) {
    if (mkdir(path, 0777) == 0 || errno == EEXIST)
        return true;
    fprintf(stderr, "lora_training: cannot make the folder %s: %s\n", path, strerror(errno));
    return false;
}

static bool write_config(const settings *s, const task *t, char path[PATH]) {
    snprintf(path, PATH, "%s/%s.json", s->out, t->name);
    if (!make_folder(s->out))
        return false;
    FILE *file = fopen(path, "w");
    bool written = file && fputs(t->config, file) >= 0;
    if (file && fclose(file) != 0)
        written = false;
    if (!written)
        fprintf(stderr, "lora_training: cannot write %s: %s\n", path, strerror(errno));
    return written;
}

static bool add_full(tn_model *model) {
    tn_adapter_options full = {0};
    tn_adapter_options_default(&full);
    full.method = "full";
    return ok(tn_model_add_adapter(model, &full, 0));
}

bool make_base(const settings *s, const task *t, const char *dir) {
    tn_train_options options = {0};
    tn_model *model;
    char config[PATH];
    tn_train_options_default(&options);
    options.train_set = &t->base;
    options.valid_fraction = 0;
    options.epochs = (double)(s->base_epochs ? s->base_epochs : t->base_epochs);
    options.batch_size = s->batch_size;
    options.lr = t->base_rate;
    options.seed = s->seed;
    options.save_every = 0;
    options.out = dir;
    if (!write_config(s, t, config) || !ok(tn_model_create(config, s->seed, &model)))
        return false;
    bool good = add_full(model) && ok(tn_train(model, &options, NULL, NULL));
    tn_model_free(model);
    return good;
}

static layer *layer_named(layers *l, const char *name) {
    for (int i = 0; i < l->count; i++)
        if (strcmp(l->items[i].name, name) == 0)
            return &l->items[i];
    if (l->count == MOST_LAYERS)
        return NULL;
    layer *added = &l->items[l->count++];
    *added = (layer){0};
    snprintf(added->name, sizeof added->name, "%s", name);
    return added;
}

bool find_layers(const char *base, layers *out) {
    tn_trained_tensor tensors[2 * MOST_LAYERS];
    tn_model *model;
    *out = (layers){0};
    if (!ok(tn_model_load(base, &model)))
        return false;
    bool good = add_full(model);
    size_t count = good ? tn_model_list_trained(model, tensors, 2 * MOST_LAYERS) : 0;
    for (size_t i = 0; i < count && i < 2 * MOST_LAYERS; i++) {
        layer *one = layer_named(out, tensors[i].module);
        if (!one)
            continue;
        one->parameters += tensors[i].count;
        out->parameters += tensors[i].count;
        if (tensors[i].dims > 1) {
            one->out = tensors[i].shape[0];
            one->in = tensors[i].count / tensors[i].shape[0];
        }
    }
    tn_model_free(model);
    return good;
}

bool add_lora(tn_model *model, const settings *s, const task *t, const layers *l, int64_t rank, double alpha) {
    tn_adapter_options lora = {0};
    char ranks[MOST_LAYERS * (NAME + 8)] = "", alphas[MOST_LAYERS * (NAME + 32)] = "";
    size_t used = 0, alphas_used = 0;
    tn_adapter_options_default(&lora);
    lora.rank = rank;
    lora.alpha = alpha;
    lora.target_modules = t->targets;
    for (int i = 0; i < l->count; i++) {
        int64_t most = l->items[i].out < l->items[i].in ? l->items[i].out : l->items[i].in;
        if (rank <= most)
            continue;
        /* alpha follows, so that the scaling alpha / rank is the same everywhere */
        used += (size_t)snprintf(ranks + used, sizeof ranks - used, "%s%s=%lld", used ? "," : "", l->items[i].name,
                                 (long long)most);
        alphas_used += (size_t)snprintf(alphas + alphas_used, sizeof alphas - alphas_used, "%s%s=%.17g",
                                        alphas_used ? "," : "", l->items[i].name, alpha * (double)most / (double)rank);
    }
    lora.rank_pattern = used ? ranks : NULL;
    lora.alpha_pattern = used ? alphas : NULL;
    return ok(tn_model_add_adapter(model, &lora, s->seed));
}

static void note_plan(void *cookie, const tn_train_plan *plan) {
    progress *p = cookie;
    p->plan = *plan;
    p->plan.sample = NULL; /* lives during this call only */
}

static void end_epoch(progress *p, const tn_train_step *step) {
    int64_t epoch = step->step / p->per_epoch;
    double loss = p->loss / (double)p->samples;
    p->first_loss = epoch == 1 ? loss : p->first_loss;
    p->last_loss = loss;
    p->fastest = epoch == 1 ? p->seconds : fmin(p->fastest, p->seconds);
    p->slowest = fmax(p->slowest, p->seconds);
    p->total += p->seconds;
    if (p->every && (epoch % p->every == 0 || epoch == 1 || step->step == step->steps))
        printf("%7lld %12.4f %12.4f %10.1f %% %14.3f %9.1f ms\n", (long long)epoch, loss, step->valid_loss,
               100 * step->valid_accuracy, p->norm / (double)p->steps, 1e3 * p->seconds);
    p->loss = p->norm = p->seconds = 0;
    p->samples = p->steps = 0;
}

static bool note_step(void *cookie, const tn_train_step *step) {
    progress *p = cookie;
    p->loss += step->loss * (double)step->labelled;
    p->samples += step->labelled;
    p->norm += step->grad_norm;
    p->seconds += step->seconds;
    p->steps++;
    if (step->step % p->per_epoch == 0)
        end_epoch(p, step);
    return true;
}

bool fit(tn_model *model, const settings *s, const task *t, int64_t epochs, int64_t every, const char *dir, progress *p,
         tn_train_result *result) {
    tn_train_options options = {0};
    *p = (progress){.every = every, .per_epoch = (t->train.count + s->batch_size - 1) / s->batch_size};
    const tn_train_callbacks callbacks = {.cookie = p, .start = note_plan, .step = note_step};
    tn_train_options_default(&options);
    options.train_set = &t->train;
    options.valid_set = &t->valid;
    options.epochs = (double)epochs;
    options.batch_size = s->batch_size;
    options.lr = s->rate;
    options.seed = s->seed;
    options.eval_every = p->per_epoch;
    options.save_every = 0; /* a checkpoint at the end alone */
    options.out = dir;
    if (every)
        printf("%7s %12s %12s %12s %14s %12s\n", "epoch", "train loss", "valid loss", "accuracy", "gradient norm", "time");
    return ok(tn_train(model, &options, &callbacks, result));
}

bool accuracy_of(tn_model *model, const tn_feature_set *set, double *loss, double *accuracy) {
    tn_feature_evaluation found;
    if (!ok(tn_evaluate_features(model, set, 0, &found)))
        return false;
    *loss = found.loss;
    *accuracy = found.accuracy;
    tn_feature_evaluation_free(&found);
    return true;
}

static bool compare(tn_model *model, tn_model *merged, const tn_feature_set *set) {
    float with_adapter[VALID_SAMPLES * CLASSES], with_merged[VALID_SAMPLES * CLASSES];
    double largest = 0, loss, accuracy, merged_accuracy;
    if (!ok(tn_predict(model, set->x, set->count, with_adapter)) ||
        !ok(tn_predict(merged, set->x, set->count, with_merged)) || !accuracy_of(model, set, &loss, &accuracy) ||
        !accuracy_of(merged, set, &loss, &merged_accuracy))
        return false;
    for (int64_t i = 0; i < set->count * CLASSES; i++)
        largest = fmax(largest, fabs((double)with_adapter[i] - with_merged[i]));
    printf("  accuracy %.1f %% with the adapter, %.1f %% merged; largest difference of %lld outputs %.3g\n", 100 * accuracy,
           100 * merged_accuracy, (long long)(set->count * CLASSES), largest);
    return true;
}

bool merge(tn_model *model, const task *t, const char *dir) {
    tn_merge_report report;
    tn_model_info info;
    tn_model *merged = NULL;
    char text[COUNT_TEXT];
    bool good = ok(tn_model_merge(model, dir, "f32", &report)) && ok(tn_model_load(dir, &merged));
    if (good) {
        tn_model_describe(merged, &info);
        printf("Merged %lld layers into %s, %s parameters\n", (long long)report.modules, dir,
               count_text(text, info.parameters));
        good = compare(model, merged, &t->valid);
    }
    tn_model_free(merged);
    return good;
}
