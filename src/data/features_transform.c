/* What is done to features once they are read: choosing classes, inverting, turning, normalising. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "data/features_parts.h"

/* place[class] = its index in keep_classes, or -1. */
static tn_status place_classes(const tn_features *f, const tn_features_options *options, const char *where, int32_t *place) {
    for (int64_t c = 0; c < f->classes; c++)
        place[c] = -1;
    for (int64_t i = 0; i < options->keep_count; i++) {
        int32_t c = options->keep_classes[i];
        if (c < 0 || c >= f->classes)
            return tn_fail(TN_ERROR_ARGUMENT, "%s: class %d cannot be kept; the classes are 0 to %lld", where, (int)c,
                           (long long)f->classes - 1);
        if (place[c] >= 0)
            return tn_fail(TN_ERROR_ARGUMENT, "%s: class %d is named twice among those to keep", where, (int)c);
        place[c] = (int32_t)i;
    }
    return TN_OK;
}

static tn_status remap_names(tn_features *f, const tn_features_options *options) {
    if (!f->class_names)
        return TN_OK;
    const char **chosen = tn_calloc((size_t)options->keep_count, sizeof *chosen);
    for (int64_t i = 0; chosen && i < options->keep_count; i++)
        chosen[i] = f->class_names[options->keep_classes[i]];
    char **names = chosen ? tn_class_names_copy(chosen, options->keep_count) : NULL;
    tn_free(chosen);
    if (!names)
        return tn_fail_memory("class names");
    tn_class_names_free(f->class_names, f->classes);
    f->class_names = names;
    return TN_OK;
}

static tn_status keep_placed(tn_features *f, const tn_features_options *options, const char *where, const int32_t *place) {
    int64_t kept = 0;
    for (int64_t s = 0; s < f->count; s++) {
        int32_t label = f->labels[s];
        if (place[label] < 0)
            continue;
        memmove(f->x + kept * f->width, f->x + s * f->width, (size_t)f->width * sizeof *f->x);
        f->labels[kept++] = options->remap ? place[label] : label;
    }
    f->count = kept;
    if (kept == 0)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: no sample is of a class that is kept", where);
    if (options->remap) {
        TN_TRY(remap_names(f, options));
        f->classes = options->keep_count;
    }
    float *smaller = tn_realloc_array(f->x, (size_t)(kept * f->width), sizeof *f->x);
    f->x = smaller ? smaller : f->x;
    return TN_OK;
}

static tn_status keep_classes(tn_features *f, const tn_features_options *options, const char *where) {
    if (!f->labels)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: its answers are numbers, so there are no classes to keep", where);
    int32_t *place = tn_malloc((size_t)f->classes * sizeof *place);
    if (!place)
        return tn_fail_memory("the classes to keep");
    tn_status status = place_classes(f, options, where, place);
    if (status == TN_OK)
        status = keep_placed(f, options, where, place);
    tn_free(place);
    return status;
}

static tn_status invert(tn_features *f, const char *where) {
    for (int64_t i = 0; i < f->count * f->width; i++) {
        if (!(f->x[i] >= 0 && f->x[i] <= 1))
            return tn_fail(TN_ERROR_ARGUMENT, "%s: sample %lld has the value %g; only values in 0..1 can be inverted", where,
                           (long long)(i / f->width), (double)f->x[i]);
        f->x[i] = 1 - f->x[i];
    }
    return TN_OK;
}

/* out [W, H] = in [H, W] turned counter-clockwise: out(r, c) = in(c, W - 1 - r). */
static void turn_plane(float *out, const float *in, int64_t height, int64_t width) {
    for (int64_t r = 0; r < width; r++)
        for (int64_t c = 0; c < height; c++)
            out[r * height + c] = in[c * width + width - 1 - r];
}

static tn_status turn(tn_features *f, int turns, const char *where) {
    if (turns < 0 || turns > 3)
        return tn_fail(TN_ERROR_ARGUMENT, "images can be turned by 0 to 3 times 90 degrees, not %d times", turns);
    if (turns == 0)
        return TN_OK;
    if (f->ndim != 3)
        return tn_fail(TN_ERROR_ARGUMENT, "%s: its samples are vectors; only images can be turned", where);
    int64_t plane = f->shape[1] * f->shape[2];
    float *turned = tn_malloc((size_t)plane * sizeof *turned);
    if (!turned)
        return tn_fail_memory("turning images");
    for (; turns > 0; turns--) {
        int64_t height = f->shape[1], width = f->shape[2];
        for (int64_t at = 0; at < f->count * f->width; at += plane) {
            turn_plane(turned, f->x + at, height, width);
            memcpy(f->x + at, turned, (size_t)plane * sizeof *turned);
        }
        f->shape[1] = width;
        f->shape[2] = height;
    }
    tn_free(turned);
    return TN_OK;
}

static tn_status normalise(tn_features *f, const tn_features_options *options, const char *where) {
    const float *mean = options->mean, *std = options->std;
    int64_t count = options->norm_count;
    if (!mean || !std)
        return tn_fail(TN_ERROR_ARGUMENT, "normalising needs both a mean and a standard deviation");
    if (count != 1 && count != f->shape[0])
        return tn_fail(TN_ERROR_MISMATCH, "%s: %lld means and deviations were given; 1 or %lld would fit its samples", where,
                       (long long)count, (long long)f->shape[0]);
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(mean[i]) || !isfinite(std[i]) || std[i] <= 0)
            return tn_fail(TN_ERROR_ARGUMENT, "mean %g and standard deviation %g: both must be finite, the second above 0",
                           (double)mean[i], (double)std[i]);
    int64_t each = f->width / count;
    for (int64_t at = 0; at < f->count * count; at++)
        for (int64_t i = at * each; i < (at + 1) * each; i++)
            f->x[i] = (f->x[i] - mean[at % count]) / std[at % count];
    tn_tensor x = {.dtype = TN_DTYPE_F32, .ndim = 2, .shape = {f->count, f->width}, .data = f->x};
    int64_t bad = tn_tensor_first_nonfinite(&x);
    if (bad >= 0)
        return tn_fail(TN_ERROR_NUMERIC, "%s: sample %lld is not finite once normalised", where,
                       (long long)(bad / f->width));
    return TN_OK;
}

tn_status tn_features_transform(tn_features *f, const tn_features_options *options, const char *where) {
    if (options->keep_classes)
        TN_TRY(keep_classes(f, options, where));
    if (options->invert)
        TN_TRY(invert(f, where));
    TN_TRY(turn(f, options->quarter_turns, where));
    if (options->mean || options->std)
        TN_TRY(normalise(f, options, where));
    tn_features_rehash(f);
    return TN_OK;
}
