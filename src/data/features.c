/* Sets of features in memory: splitting, measuring, batches. */
#include "data/features.h"

#include <math.h>
#include <string.h>

#include "base/map.h"
#include "base/memory.h"
#include "data/features_parts.h"

void tn_class_names_free(char **names, int64_t count) {
    for (int64_t i = 0; names && i < count; i++)
        tn_free(names[i]);
    tn_free(names);
}

char **tn_class_names_copy(const char *const *names, int64_t count) {
    char **copy = tn_calloc((size_t)count, sizeof *copy);
    for (int64_t i = 0; copy && i < count; i++)
        if (!(copy[i] = tn_strdup(names[i]))) {
            tn_class_names_free(copy, count);
            return NULL;
        }
    return copy;
}

void tn_features_free(tn_features *features) {
    tn_class_names_free(features->class_names, features->classes);
    tn_free(features->x);
    tn_free(features->labels);
    tn_free(features->targets);
    *features = (tn_features){0};
}

void tn_features_rehash(tn_features *f) {
    int64_t sizes[] = {f->count, f->width, f->classes, f->outputs, f->ndim};
    uint64_t hash = tn_hash(TN_HASH_START, sizes, sizeof sizes);
    hash = tn_hash(hash, f->shape, (size_t)f->ndim * sizeof *f->shape);
    hash = tn_hash(hash, f->x, (size_t)(f->count * f->width) * sizeof *f->x);
    if (f->labels)
        hash = tn_hash(hash, f->labels, (size_t)f->count * sizeof *f->labels);
    if (f->targets)
        hash = tn_hash(hash, f->targets, (size_t)(f->count * f->outputs) * sizeof *f->targets);
    f->hash = hash;
}

void tn_features_measure(const tn_features *f, float *mean, float *std) {
    int64_t entries = f->shape[0], each = f->width / entries;
    double values = (double)(f->count * each);
    for (int64_t e = 0; e < entries; e++) {
        double sum = 0, squares = 0;
        for (int64_t s = 0; s < f->count; s++)
            for (int64_t i = 0; i < each; i++)
                sum += (double)f->x[s * f->width + e * each + i];
        double middle = sum / values;
        for (int64_t s = 0; s < f->count; s++)
            for (int64_t i = 0; i < each; i++) {
                double d = (double)f->x[s * f->width + e * each + i] - middle;
                squares += d * d;
            }
        double spread = sqrt(squares / values);
        mean[e] = (float)middle;
        /* below what an f32 resolves, the entry is constant and only the rounding of its mean is seen */
        std[e] = spread <= 1e-7 * fabs(middle) ? 1 : (float)spread;
    }
}

/* Copies sample `from` of `in` to place `to` of `out`, which has room and may be the same set when to <= from. */
static void move_sample(tn_features *out, int64_t to, const tn_features *in, int64_t from) {
    memmove(out->x + to * in->width, in->x + from * in->width, (size_t)in->width * sizeof *in->x);
    if (in->labels)
        out->labels[to] = in->labels[from];
    if (in->targets)
        memmove(out->targets + to * in->outputs, in->targets + from * in->outputs,
                (size_t)in->outputs * sizeof *in->targets);
}

static tn_status make_like(const tn_features *in, int64_t count, tn_features *out) {
    *out = *in;
    out->count = 0;
    out->x = tn_malloc((size_t)(count * in->width) * sizeof *out->x);
    out->labels = in->labels ? tn_malloc((size_t)count * sizeof *out->labels) : NULL;
    out->targets = in->targets ? tn_malloc((size_t)(count * in->outputs) * sizeof *out->targets) : NULL;
    out->class_names = in->class_names ? tn_class_names_copy((const char *const *)in->class_names, in->classes) : NULL;
    if (out->x && !in->labels == !out->labels && !in->targets == !out->targets && !in->class_names == !out->class_names)
        return TN_OK;
    return tn_fail_memory("splitting a data set");
}

tn_status tn_features_split(tn_features *train, tn_features *valid, double fraction, uint64_t seed) {
    *valid = (tn_features){0};
    int64_t moved, kept = 0;
    tn_status status;
    bool *chosen = tn_calloc((size_t)train->count, sizeof *chosen);
    if (!chosen)
        return tn_fail_memory("splitting a data set");
    TN_TRY_GOTO(tn_choose_validation(chosen, train->count, fraction, seed, &moved));
    if (moved == 0)
        goto fail;
    TN_TRY_GOTO(make_like(train, moved, valid));
    for (int64_t i = 0; i < train->count; i++)
        if (chosen[i])
            move_sample(valid, valid->count++, train, i);
        else
            move_sample(train, kept++, train, i);
    train->count = kept;
    tn_features_rehash(train);
    tn_features_rehash(valid);
fail:
    if (status != TN_OK)
        tn_features_free(valid);
    tn_free(chosen);
    return status;
}

int64_t tn_features_batch(const tn_features *f, tn_epoch_order *order, int64_t index, float *x, int32_t *labels,
                          float *targets) {
    int64_t first, end;
    tn_epoch_order_places(order, index, &first, &end);
    tn_features batch = {.x = x, .labels = labels, .targets = targets};
    for (int64_t place = first; place < end; place++)
        move_sample(&batch, place - first, f, tn_epoch_order_at(order, place));
    return end - first;
}
