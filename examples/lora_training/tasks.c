/* Samples in memory, as any program would make them from its own data. */
#include "tasks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LINEAR(name, outputs) "  {\"type\": \"linear\", \"name\": \"" name "\", \"out_features\": " outputs "}"
#define CONV(name, channels, stride)                                                                                        \
    "  {\"type\": \"conv2d\", \"name\": \"" name "\", \"out_channels\": " channels                                          \
    ", \"kernel_size\": 3, \"padding\": 1, \"stride\": " stride "},\n  {\"type\": \"relu\"},\n"
#define RELU ",\n  {\"type\": \"relu\"},\n"
#define POOL "  {\"type\": \"max_pool2d\", \"kernel_size\": 2},\n"

static const char DENSE_CONFIG[] =
    "{\"model_type\": \"sequential\", \"task\": \"classification\", \"input_shape\": [128], "
    "\"layers\": [\n" LINEAR("fc1", "256") RELU LINEAR("fc2", "256") RELU LINEAR("fc3", "10") "]}\n";
static const char CONV_CONFIG[] = "{\"model_type\": \"sequential\", \"task\": \"classification\", \"input_shape\": [1, 28, "
                                  "28], \"layers\": [\n" CONV("conv1", "8", "2") POOL CONV("conv2", "16", "1")
                                      POOL CONV("conv3", "64", "1") "  {\"type\": \"flatten\"},\n" LINEAR("fc", "10") "]}\n";

enum { INPUTS = 128, CLASSES = 10, CLUSTERS = 2 };
static const double SPREAD = 0.45;               /* standard deviation of the centres; that of the noise around them is 1 */
static const double TURN = 3.14159265358979 / 3; /* of each plane, in radians */

/* splitmix64, which is one of the shortest generators that are good enough. */
static uint64_t next_bits(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Box and Muller's transform of two uniform numbers, the first of them above 0. */
static double next_normal(uint64_t *state) {
    double u = ((double)(next_bits(state) >> 11) + 1) * 0x1p-53, v = (double)(next_bits(state) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(2 * 3.14159265358979 * v);
}

static bool allocate(tn_feature_set *set, int64_t count, int64_t inputs) {
    float *x = calloc((size_t)(count * inputs), sizeof *x);
    int32_t *labels = calloc((size_t)count, sizeof *labels);
    *set = (tn_feature_set){.count = count, .inputs = inputs, .x = x, .labels = labels};
    return x && labels;
}

/* x = centre + noise, classes in turn; with `turned` its pairs (i, i + 64) are turned. */
static bool draw_vectors(tn_feature_set *set, int64_t count, double centres[CLASSES * CLUSTERS][INPUTS], bool turned,
                         uint64_t *state) {
    enum { HALF = INPUTS / 2 };
    if (!allocate(set, count, INPUTS))
        return false;
    float *x = (float *)set->x;
    int32_t *labels = (int32_t *)set->labels;
    for (int64_t i = 0; i < count; i++, x += INPUTS) {
        double drawn[INPUTS];
        int64_t cluster = i % (CLASSES * CLUSTERS);
        labels[i] = (int32_t)(cluster % CLASSES);
        for (int j = 0; j < INPUTS; j++)
            drawn[j] = centres[cluster][j] + next_normal(state);
        for (int j = 0; j < HALF; j++) {
            double angle = turned ? TURN : 0, a = drawn[j], b = drawn[j + HALF];
            x[j] = (float)(cos(angle) * a - sin(angle) * b);
            x[j + HALF] = (float)(sin(angle) * a + cos(angle) * b);
        }
    }
    return true;
}

bool make_dense_task(task *out, uint64_t seed) {
    uint64_t state = seed;
    double centres[CLASSES * CLUSTERS][INPUTS];
    *out = (task){.name = "dense",
                  .title = "Dense network 128-256-256-10",
                  .base_story = "vectors in ten classes, two clusters each",
                  .story = "the same clusters with their coordinates turned in pairs by 60 degrees",
                  .config = DENSE_CONFIG,
                  .targets = "fc1,fc2,fc3",
                  .base_rate = 5e-4,
                  .base_epochs = 10};
    for (int i = 0; i < CLASSES * CLUSTERS; i++)
        for (int j = 0; j < INPUTS; j++)
            centres[i][j] = SPREAD * next_normal(&state);
    bool good = draw_vectors(&out->base, DENSE_BASE_SAMPLES, centres, false, &state) &&
                draw_vectors(&out->base_valid, VALID_SAMPLES, centres, false, &state) &&
                draw_vectors(&out->train, TRAIN_SAMPLES, centres, true, &state) &&
                draw_vectors(&out->valid, VALID_SAMPLES, centres, true, &state);
    if (!good)
        fprintf(stderr, "lora_training: out of memory\n");
    return good;
}

/* Grey values around 0, from -0.5 to 0.5, so that inverting is a change of sign. */
static bool draw_images(tn_feature_set *set, int64_t count, bool inverted, uint64_t seed) {
    tn_feature_set drawn;
    if (tn_feature_set_digits(count, seed, &drawn) != TN_OK) {
        fprintf(stderr, "lora_training: %s\n", tn_error_message());
        return false;
    }
    bool good = allocate(set, count, drawn.inputs);
    float *x = (float *)set->x;
    int32_t *labels = (int32_t *)set->labels;
    for (int64_t i = 0; good && i < count * drawn.inputs; i++)
        x[i] = inverted ? 0.5f - drawn.x[i] : drawn.x[i] - 0.5f;
    for (int64_t i = 0; good && i < count; i++)
        labels[i] = drawn.labels[i];
    tn_feature_set_free(&drawn);
    if (!good)
        fprintf(stderr, "lora_training: out of memory\n");
    return good;
}

bool make_conv_task(task *out, uint64_t seed) {
    *out = (task){.name = "conv",
                  .title = "Convolutional network of 8, 16 and 64 channels and a linear layer",
                  .base_story = "drawn digits, white on black",
                  .story = "other drawn digits, black on white",
                  .config = CONV_CONFIG,
                  .targets = "conv1,conv2,conv3,fc",
                  .base_rate = 3e-3,
                  .base_epochs = 6};
    return draw_images(&out->base, CONV_BASE_SAMPLES, false, seed * 4) &&
           draw_images(&out->base_valid, VALID_SAMPLES, false, seed * 4 + 1) &&
           draw_images(&out->train, TRAIN_SAMPLES, true, seed * 4 + 2) &&
           draw_images(&out->valid, VALID_SAMPLES, true, seed * 4 + 3);
}

void free_task(task *t) {
    tn_feature_set *const sets[] = {&t->base, &t->base_valid, &t->train, &t->valid};
    for (int i = 0; i < 4; i++) {
        free((float *)sets[i]->x);
        free((int32_t *)sets[i]->labels);
    }
}
