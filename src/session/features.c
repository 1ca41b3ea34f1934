/* Data of sequential models for the public, and what the models make of it. */
#include <tenon/features.h>

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "data/digits.h"
#include "session/session.h"

enum { DIGITS_TRAIN = 10000, DIGITS_TEST = 2000, EVALUATION_ROWS = 256 };
static const uint64_t digits_seeds[] = {1, 2};

tn_status tn_session_need_sequential(const tn_model *model, const char *what) {
    if (model->sequential)
        return TN_OK;
    return tn_fail(TN_ERROR_UNSUPPORTED, "%s is a %s model, a language model; %s needs a sequential model",
                   model->network->dir, model->network->family, what);
}

static tn_features_options reading_options(const tn_model *model, const tn_feature_options *o, float numbers[2]) {
    const tn_sequential_config *c = &model->sequential->config;
    bool classes = !c->regression;
    tn_features_options out = {.task = classes ? TN_FEATURES_CLASSES : TN_FEATURES_TARGETS,
                               .classes = classes ? c->outputs : 0};
    if (!o)
        return out;
    numbers[0] = (float)o->mean;
    numbers[1] = (float)o->std;
    out.invert = o->invert;
    out.quarter_turns = o->quarter_turns;
    out.mean = o->std != 0 ? &numbers[0] : NULL;
    out.std = o->std != 0 ? &numbers[1] : NULL;
    out.norm_count = o->std != 0;
    out.keep_classes = o->keep_classes;
    out.keep_count = (int64_t)o->keep_count;
    out.target = o->target_column;
    return out;
}

static bool means_digits(const char *path) {
    return strcmp(path, "digits") == 0 && !tn_path_exists(path);
}

tn_status tn_session_check_features(const tn_model *model, const tn_features *features, const char *where) {
    const tn_sequential_config *c = &model->sequential->config;
    if (features->width != c->inputs)
        return tn_fail(TN_ERROR_MISMATCH, "%s: samples have %lld numbers, but the model takes %lld", where,
                       (long long)features->width, (long long)c->inputs);
    if (!c->regression && !features->labels)
        return tn_fail(TN_ERROR_MISMATCH, "%s: there are numbers to predict, but the model tells classes", where);
    if (c->regression && features->outputs != c->outputs)
        return tn_fail(TN_ERROR_MISMATCH, "%s: samples have %lld targets, but the model predicts %lld numbers", where,
                       (long long)features->outputs, (long long)c->outputs);
    for (int64_t i = 0; i < features->count && features->labels; i++)
        if (features->labels[i] < 0 || features->labels[i] >= c->outputs)
            return tn_fail(TN_ERROR_MISMATCH, "%s: sample %lld has the class %d, but the model has the classes 0 to %lld",
                           where, (long long)i, features->labels[i], (long long)c->outputs - 1);
    return TN_OK;
}

static tn_status draw_digits(tn_features_part part, const tn_features_options *options, tn_features *out) {
    bool test = part == TN_FEATURES_TEST;
    TN_TRY(tn_digits_generate(test ? DIGITS_TEST : DIGITS_TRAIN, digits_seeds[test], out));
    return tn_features_transform(out, options, "digits");
}

tn_status tn_session_read_features(const tn_model *model, const char *path, tn_features_part part,
                                   const tn_feature_options *options, tn_features *out) {
    float numbers[2];
    tn_features_options reading = reading_options(model, options, numbers);
    reading.part = part;
    *out = (tn_features){0};
    tn_status status = means_digits(path) ? draw_digits(part, &reading, out) : tn_features_read(path, &reading, out);
    if (status == TN_OK)
        status = tn_session_check_features(model, out, path);
    if (status != TN_OK)
        tn_features_free(out);
    return status;
}

tn_status tn_session_read_both_features(const tn_model *model, const char *path, const tn_feature_options *options,
                                        tn_features *train, tn_features *test) {
    float numbers[2];
    const tn_features_options reading = reading_options(model, options, numbers);
    *train = *test = (tn_features){0};
    tn_status status;
    if (means_digits(path)) {
        status = draw_digits(TN_FEATURES_TRAIN, &reading, train);
        if (status == TN_OK)
            status = draw_digits(TN_FEATURES_TEST, &reading, test);
    } else {
        status = tn_features_read_both(path, &reading, train, test);
    }
    if (status == TN_OK)
        status = tn_session_check_features(model, train, path);
    if (status == TN_OK && test->count)
        status = tn_session_check_features(model, test, path);
    if (status != TN_OK) {
        tn_features_free(train);
        tn_features_free(test);
    }
    return status;
}

/* The arrays become the set's. */
static tn_status give_away(tn_features *features, tn_feature_set *out) {
    tn_features *owner = tn_malloc(sizeof *owner);
    if (!owner) {
        tn_features_free(features);
        return tn_fail_memory("the samples");
    }
    *owner = *features;
    *out = (tn_feature_set){.count = owner->count,
                            .inputs = owner->width,
                            .x = owner->x,
                            .labels = owner->labels,
                            .targets = owner->targets,
                            .outputs = owner->outputs,
                            .owner = owner};
    return TN_OK;
}

tn_status tn_feature_set_load(const tn_model *model, const char *path, tn_feature_part part,
                              const tn_feature_options *options, tn_feature_set *out) {
    tn_features features;
    *out = (tn_feature_set){0};
    TN_TRY(tn_session_need_sequential(model, "reading features"));
    TN_TRY(tn_session_read_features(model, path, part == TN_FEATURE_TEST ? TN_FEATURES_TEST : TN_FEATURES_TRAIN, options,
                                    &features));
    return give_away(&features, out);
}

tn_status tn_feature_set_digits(int64_t count, uint64_t seed, tn_feature_set *out) {
    tn_features features;
    *out = (tn_feature_set){0};
    if (count < 1 || count > INT32_MAX)
        return tn_fail(TN_ERROR_ARGUMENT, "%lld digits cannot be drawn", (long long)count);
    TN_TRY(tn_digits_generate(count, seed, &features));
    return give_away(&features, out);
}

void tn_feature_set_free(tn_feature_set *set) {
    if (!set || !set->owner)
        return;
    tn_features_free(set->owner);
    tn_free(set->owner);
    *set = (tn_feature_set){0};
}

/* A tape for passes of at most `rows` rows without gradients. */
static tn_status start_tape(tn_model *model, int64_t rows, tn_tape *tape) {
    tn_pass_cost whole;
    TN_TRY(tn_pass_rehearse_features(model, rows, false, &whole));
    return tn_tape_init(tape, model->kernels, whole.heap_bytes + whole.heap_bytes / 2 + (1 << 20));
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

tn_status tn_predict(tn_model *model, const float *x, int64_t count, float *outputs) {
    tn_tape tape;
    TN_TRY(tn_session_need_sequential(model, "predicting"));
    if (count < 1)
        return tn_fail(TN_ERROR_ARGUMENT, "there are no rows to predict for");
    const tn_sequential_config *c = &model->sequential->config;
    int64_t piece = smaller(count, EVALUATION_ROWS);
    TN_TRY(start_tape(model, piece, &tape));
    tn_status status = TN_OK;
    for (int64_t at = 0; at < count && status == TN_OK; at += piece) {
        tn_tape_reset(&tape);
        status =
            tn_pass_feature_logits(model, &tape, x + at * c->inputs, smaller(piece, count - at), outputs + at * c->outputs);
    }
    tn_tape_free(&tape);
    return status;
}

typedef struct {
    tn_model *model;
    const tn_feature_set *set;
    tn_feature_evaluation *out;
    tn_tape tape;
    float *losses;
    int32_t *predicted;
    double sum;
    int64_t correct;
} evaluation;

static tn_feature_pass piece_of(const tn_feature_set *set, int64_t first, int64_t count) {
    return (tn_feature_pass){.x = set->x + first * set->inputs,
                             .count = count,
                             .labels = set->labels ? set->labels + first : NULL,
                             .targets = set->targets ? set->targets + first * set->outputs : NULL};
}

static tn_status evaluate_piece(evaluation *e, int64_t first, int64_t count) {
    const tn_feature_pass pass = piece_of(e->set, first, count);
    const tn_forward forward = {.tape = &e->tape};
    tn_tape_reset(&e->tape);
    e->tape.recording = false;
    tn_pass_features(e->model, &forward, &pass, 0, e->losses, e->predicted);
    TN_TRY(tn_tape_status(&e->tape));
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(e->losses[i]))
            return tn_fail(TN_ERROR_NUMERIC, "the loss of sample %lld is not finite", (long long)(first + i));
        e->sum += e->losses[i];
        if (!pass.labels)
            continue;
        e->correct += e->predicted[i] == pass.labels[i];
        e->out->confusion[pass.labels[i] * e->out->classes + e->predicted[i]]++;
    }
    return TN_OK;
}

/* Mean squared distance of the targets from their means. */
static double variance(const tn_feature_set *set) {
    double sum = 0;
    for (int64_t k = 0; k < set->outputs; k++) {
        double mean = 0;
        for (int64_t i = 0; i < set->count; i++)
            mean += set->targets[i * set->outputs + k];
        mean /= (double)set->count;
        for (int64_t i = 0; i < set->count; i++) {
            double off = set->targets[i * set->outputs + k] - mean;
            sum += off * off;
        }
    }
    return sum / (double)(set->count * set->outputs);
}

static tn_status check_set(const tn_model *model, const tn_feature_set *set) {
    const tn_features view = {.count = set->count,
                              .width = set->inputs,
                              .x = (float *)(uintptr_t)set->x,
                              .labels = (int32_t *)(uintptr_t)set->labels,
                              .targets = (float *)(uintptr_t)set->targets,
                              .outputs = set->outputs};
    if (set->count < 1 || !set->x || (!set->labels == !set->targets))
        return tn_fail(TN_ERROR_ARGUMENT, "a set of samples needs rows, and either labels or targets");
    return tn_session_check_features(model, &view, "the set");
}

static tn_status allocate(evaluation *e, int64_t rows) {
    const tn_sequential_config *c = &e->model->sequential->config;
    e->losses = tn_malloc((size_t)rows * sizeof *e->losses);
    e->predicted = tn_malloc((size_t)rows * sizeof *e->predicted);
    if (e->set->labels) {
        e->out->classes = c->outputs;
        e->out->confusion = tn_calloc((size_t)(c->outputs * c->outputs), sizeof *e->out->confusion);
    }
    if (!e->losses || !e->predicted || (e->set->labels && !e->out->confusion))
        return tn_fail_memory("the evaluation");
    return start_tape(e->model, rows, &e->tape);
}

tn_status tn_evaluate_features(tn_model *model, const tn_feature_set *set, int64_t batch_size, tn_feature_evaluation *out) {
    evaluation e = {.model = model, .set = set, .out = out};
    tn_status status;
    double start = tn_seconds();
    *out = (tn_feature_evaluation){.accuracy = NAN, .r2 = NAN};
    TN_TRY(tn_session_need_sequential(model, "evaluating on features"));
    TN_TRY(check_set(model, set));
    int64_t rows = smaller(batch_size > 0 ? batch_size : EVALUATION_ROWS, set->count);
    TN_TRY_GOTO(allocate(&e, rows));
    for (int64_t at = 0; at < set->count; at += rows)
        TN_TRY_GOTO(evaluate_piece(&e, at, smaller(rows, set->count - at)));
    out->samples = set->count;
    out->loss = e.sum / (double)set->count;
    if (set->labels)
        out->accuracy = (double)e.correct / (double)set->count;
    else
        out->r2 = 1 - out->loss / variance(set);
    out->seconds = tn_seconds() - start;
fail:
    tn_tape_free(&e.tape);
    tn_free(e.losses);
    tn_free(e.predicted);
    if (status != TN_OK)
        tn_feature_evaluation_free(out);
    return status;
}

void tn_feature_evaluation_free(tn_feature_evaluation *result) {
    tn_free(result->confusion);
    *result = (tn_feature_evaluation){0};
}
