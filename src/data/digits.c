/* Drawing digits: a template of strokes, bent, slanted, turned, scaled and shifted, is drawn with a soft round pen.
 *
 * Lengths are whole numbers of 1/256 pixel, matrices have 12 bits of fraction. No floating point: its last bit may differ
 * between compilers. */
#include "data/digits.h"

#include <limits.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "data/features_parts.h"
#include "format/idx.h"

enum { DIGITS = 10, STYLES = 3, MOST_POINTS = 12, PIXEL = 256, ONE = 4096, STEPS = 6 };

typedef struct point {
    int64_t x, y;
} point;

/* Control points on a square of 0..100, y downwards. Smooth strokes pass through them as a Catmull-Rom spline. */
typedef struct stroke {
    uint8_t smooth, count; /* count 0 ends a template */
    uint8_t at[MOST_POINTS][2];
} stroke;

enum { MOST_STROKES = 3 };
static const stroke templates[DIGITS][STYLES][MOST_STROKES] = {
    {{{1, 9, {{50, 5}, {28, 20}, {22, 50}, {28, 80}, {50, 95}, {72, 80}, {78, 50}, {72, 20}, {50, 5}}}},
     {{1, 9, {{50, 5}, {36, 22}, {32, 50}, {36, 78}, {50, 95}, {64, 78}, {68, 50}, {64, 22}, {50, 5}}}},
     {{1, 9, {{60, 8}, {36, 14}, {24, 45}, {32, 82}, {54, 94}, {74, 74}, {76, 38}, {62, 12}, {46, 10}}}}},
    {{{0, 2, {{52, 5}, {48, 95}}}},
     {{0, 3, {{34, 24}, {52, 6}, {52, 95}}}},
     {{0, 3, {{36, 22}, {52, 6}, {52, 94}}}, {0, 2, {{34, 94}, {70, 94}}}}},
    {{{1, 7, {{25, 25}, {36, 9}, {56, 6}, {72, 20}, {68, 42}, {46, 68}, {24, 93}}}, {0, 2, {{24, 93}, {76, 93}}}},
     {{1, 10, {{26, 24}, {42, 7}, {66, 12}, {70, 34}, {50, 62}, {26, 88}, {30, 96}, {42, 84}, {56, 90}, {78, 94}}}},
     {{1, 5, {{24, 18}, {48, 6}, {72, 18}, {66, 44}, {26, 94}}}, {0, 2, {{26, 94}, {78, 90}}}}},
    {{{1, 5, {{26, 14}, {48, 5}, {70, 16}, {66, 38}, {44, 48}}}, {1, 5, {{44, 48}, {70, 56}, {76, 76}, {56, 94}, {24, 86}}}},
     {{0, 3, {{26, 8}, {72, 8}, {46, 42}}}, {1, 5, {{46, 42}, {70, 52}, {74, 76}, {52, 94}, {24, 84}}}},
     {{1, 9, {{28, 20}, {50, 6}, {68, 20}, {58, 40}, {46, 47}, {64, 56}, {74, 74}, {56, 93}, {26, 88}}}}},
    {{{0, 3, {{32, 6}, {24, 56}, {78, 56}}}, {0, 2, {{64, 8}, {60, 95}}}},
     {{0, 4, {{64, 95}, {64, 6}, {22, 64}, {80, 64}}}},
     {{1, 5, {{30, 8}, {26, 34}, {34, 54}, {52, 54}, {70, 44}}}, {1, 3, {{72, 6}, {68, 50}, {64, 95}}}}},
    {{{0, 3, {{72, 8}, {34, 8}, {30, 44}}}, {1, 6, {{30, 44}, {54, 38}, {74, 56}, {68, 84}, {44, 95}, {24, 84}}}},
     {{0, 2, {{32, 8}, {30, 46}}}, {1, 5, {{30, 46}, {58, 42}, {74, 64}, {60, 90}, {26, 90}}}, {0, 2, {{32, 8}, {74, 10}}}},
     {{1, 8, {{72, 8}, {38, 10}, {32, 40}, {56, 44}, {72, 62}, {62, 88}, {40, 95}, {24, 86}}}}},
    {{{1, 9, {{64, 6}, {38, 28}, {26, 60}, {34, 88}, {54, 95}, {72, 80}, {66, 58}, {46, 54}, {29, 70}}}},
     {{1, 9, {{56, 5}, {36, 40}, {28, 72}, {42, 94}, {64, 90}, {72, 70}, {56, 56}, {36, 66}, {30, 80}}}},
     {{1, 9, {{70, 10}, {44, 16}, {28, 48}, {28, 80}, {48, 95}, {70, 84}, {70, 64}, {50, 54}, {30, 66}}}}},
    {{{0, 3, {{24, 8}, {76, 8}, {44, 95}}}},
     {{0, 3, {{24, 10}, {76, 8}, {46, 95}}}, {0, 2, {{38, 50}, {70, 50}}}},
     {{0, 3, {{24, 24}, {26, 8}, {74, 8}}}, {1, 3, {{74, 8}, {56, 44}, {48, 95}}}}},
    {{{1,
       12,
       {{66, 18},
        {48, 6},
        {32, 20},
        {40, 40},
        {62, 56},
        {72, 76},
        {52, 95},
        {30, 80},
        {36, 58},
        {60, 42},
        {68, 24},
        {62, 12}}}},
     {{1, 7, {{50, 6}, {32, 16}, {34, 38}, {50, 47}, {66, 38}, {68, 16}, {50, 6}}},
      {1, 7, {{50, 47}, {28, 60}, {28, 84}, {50, 95}, {72, 84}, {72, 60}, {50, 47}}}},
     {{1,
       11,
       {{70, 14}, {46, 6}, {32, 22}, {50, 44}, {70, 66}, {60, 92}, {36, 92}, {28, 72}, {46, 50}, {68, 30}, {70, 14}}}}},
    {{{1, 7, {{68, 24}, {50, 6}, {30, 20}, {32, 44}, {52, 50}, {68, 34}, {70, 20}}}, {1, 3, {{70, 20}, {68, 60}, {60, 95}}}},
     {{1, 10, {{70, 30}, {56, 8}, {34, 14}, {30, 38}, {48, 50}, {66, 40}, {70, 18}, {74, 50}, {64, 84}, {36, 94}}}},
     {{1, 6, {{66, 14}, {40, 8}, {28, 28}, {40, 48}, {64, 38}, {68, 10}}}, {0, 2, {{68, 10}, {68, 95}}}}},
};

/* How one digit is written. */
typedef struct hand {
    int64_t matrix[2][2];   /* of ONE */
    point shift;            /* where the middle of the template goes */
    int64_t bend_x, bend_y; /* of ONE: how far an edge's middle leaves its straight line, as a share of half the height */
    int64_t radius, soft;   /* of the pen; over how far its edge fades */
    int64_t ink, noise;     /* of 256: brightness of full ink; amplitude */
} hand;

/* Uniform in [low, high]. */
static int64_t between(tn_rng *rng, int64_t low, int64_t high) {
    return low + (int64_t)tn_rng_below(rng, (uint32_t)(high - low + 1));
}

/* Turning by an angle a is rational in t = tan(a / 2): cos = (1 - t^2) / (1 + t^2), sin = 2 t / (1 + t^2). */
static hand choose_hand(tn_rng *rng) {
    enum { TAN_HALF_15_DEGREES = 539 };
    const int64_t middle = TN_DIGITS_SIDE * PIXEL / 2;
    int64_t t = between(rng, -TAN_HALF_15_DEGREES, TAN_HALF_15_DEGREES), norm = ONE * ONE + t * t;
    int64_t cosine = (ONE * ONE - t * t) * ONE / norm, sine = 2 * t * ONE * ONE / norm;
    int64_t wide = between(rng, ONE * 75 / 100, ONE * 115 / 100), high = between(rng, ONE * 80 / 100, ONE * 110 / 100);
    int64_t slant = between(rng, -ONE * 30 / 100, ONE * 30 / 100);
    hand h = {.bend_x = between(rng, -ONE * 15 / 100, ONE * 15 / 100),
              .bend_y = between(rng, -ONE * 15 / 100, ONE * 15 / 100)};
    h.matrix[0][0] = cosine * wide / ONE;
    h.matrix[0][1] = (cosine * slant / ONE - sine) * high / ONE;
    h.matrix[1][0] = sine * wide / ONE;
    h.matrix[1][1] = (sine * slant / ONE + cosine) * high / ONE;
    h.shift.x = middle + between(rng, -2 * PIXEL, 2 * PIXEL);
    h.shift.y = middle + between(rng, -2 * PIXEL, 2 * PIXEL);
    h.radius = between(rng, PIXEL * 60 / 100, PIXEL * 150 / 100);
    h.soft = between(rng, PIXEL, PIXEL * 160 / 100);
    h.ink = between(rng, 180, 256);
    h.noise = between(rng, 0, 70);
    return h;
}

/* From the square of 0..100, off by up to four, to the image, where it is 20 pixels high. */
static point place_point(const uint8_t at[2], const hand *h, tn_rng *rng) {
    enum { HALF = 10 * PIXEL, JITTER = 4 * 20 * PIXEL / 100 };
    int64_t x = ((int64_t)at[0] - 50) * HALF / 50 + between(rng, -JITTER, JITTER);
    int64_t y = ((int64_t)at[1] - 50) * HALF / 50 + between(rng, -JITTER, JITTER);
    int64_t bent_x = x + (HALF / 3 - y * y / HALF) * h->bend_x / ONE,
            bent_y = y + (HALF / 6 - x * x / HALF) * h->bend_y / ONE;
    return (point){h->shift.x + (h->matrix[0][0] * bent_x + h->matrix[0][1] * bent_y) / ONE,
                   h->shift.y + (h->matrix[1][0] * bent_x + h->matrix[1][1] * bent_y) / ONE};
}

/* The square of the distance from p to the segment from a to b. */
static int64_t squared_distance(point p, point a, point b) {
    int64_t dx = b.x - a.x, dy = b.y - a.y, x = p.x - a.x, y = p.y - a.y;
    int64_t along = x * dx + y * dy, length = dx * dx + dy * dy;
    if (along > 0 && along < length) {
        int64_t across = x * dy - y * dx;
        return across * across / length;
    }
    if (along > 0) {
        x = p.x - b.x;
        y = p.y - b.y;
    }
    return x * x + y * y;
}

static int64_t pixel_of(int64_t length) {
    int64_t pixel = length < 0 ? -1 : length / PIXEL;
    return pixel < 0 ? 0 : pixel >= TN_DIGITS_SIDE ? TN_DIGITS_SIDE - 1 : pixel;
}

/* Lowers nearest[pixel], squared distances to the middles of pixels, where the segment is nearer. */
static void draw_segment(int64_t *nearest, point a, point b, int64_t reach) {
    int64_t left = pixel_of((a.x < b.x ? a.x : b.x) - reach), right = pixel_of((a.x > b.x ? a.x : b.x) + reach);
    int64_t top = pixel_of((a.y < b.y ? a.y : b.y) - reach), bottom = pixel_of((a.y > b.y ? a.y : b.y) + reach);
    for (int64_t r = top; r <= bottom; r++)
        for (int64_t c = left; c <= right; c++) {
            int64_t d = squared_distance((point){c * PIXEL + PIXEL / 2, r * PIXEL + PIXEL / 2}, a, b);
            int64_t *held = &nearest[r * TN_DIGITS_SIDE + c];
            *held = d < *held ? d : *held;
        }
}

/* Catmull-Rom between p[1] and p[2] at step / STEPS, for one coordinate. */
static int64_t spline(int64_t p0, int64_t p1, int64_t p2, int64_t p3, int64_t step) {
    const int64_t s = STEPS, t = step;
    int64_t sum = 2 * p1 * s * s * s + (p2 - p0) * t * s * s + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t * t * s +
                  (3 * p1 - p0 - 3 * p2 + p3) * t * t * t;
    return sum / (2 * s * s * s);
}

static void draw_stroke(int64_t *nearest, const stroke *s, const hand *h, tn_rng *rng) {
    point p[MOST_POINTS];
    int64_t reach = h->radius + h->soft / 2;
    for (int i = 0; i < s->count; i++)
        p[i] = place_point(s->at[i], h, rng);
    for (int i = 0; i + 1 < s->count; i++) {
        if (!s->smooth) {
            draw_segment(nearest, p[i], p[i + 1], reach);
            continue;
        }
        point before = p[i > 0 ? i - 1 : i], behind = p[i + 2 < s->count ? i + 2 : i + 1], from = p[i];
        for (int step = 1; step <= STEPS; step++) {
            point to = {spline(before.x, p[i].x, p[i + 1].x, behind.x, step),
                        spline(before.y, p[i].y, p[i + 1].y, behind.y, step)};
            draw_segment(nearest, from, to, reach);
            from = to;
        }
    }
}

/* floor(sqrt(value)), digit by digit. */
static int64_t square_root(int64_t value) {
    int64_t root = 0;
    for (int64_t bit = INT64_C(1) << 24; bit; bit >>= 1)
        if ((root + bit) * (root + bit) <= value)
            root += bit;
    return root;
}

/* Full ink within the pen, fading over `soft`, and noise: the sum of a word's four bytes is near to normal. */
static uint8_t shade(int64_t squared, const hand *h, tn_rng *rng) {
    int64_t reach = h->radius + h->soft / 2, value = 0;
    if (squared < reach * reach)
        value = (reach - square_root(squared)) * 255 / h->soft;
    value = (value > 255 ? 255 : value) * h->ink / 256;
    uint32_t word = tn_rng_u32(rng);
    int64_t sum = (int64_t)((word & 255) + (word >> 8 & 255) + (word >> 16 & 255) + (word >> 24));
    value += (sum - 510) * h->noise / 510;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

int tn_digits_draw(uint64_t seed, uint32_t index, uint8_t pixels[TN_DIGITS_PIXELS]) {
    int64_t nearest[TN_DIGITS_PIXELS];
    int digit = (int)(index % DIGITS);
    tn_rng rng = tn_rng_start(seed, tn_stream(TN_STREAM_DIGITS, index));
    const stroke *strokes = templates[digit][tn_rng_below(&rng, STYLES)];
    hand h = choose_hand(&rng);
    for (int i = 0; i < TN_DIGITS_PIXELS; i++)
        nearest[i] = INT64_MAX;
    for (int i = 0; i < MOST_STROKES && strokes[i].count; i++)
        draw_stroke(nearest, &strokes[i], &h, &rng);
    for (int i = 0; i < TN_DIGITS_PIXELS; i++)
        pixels[i] = shade(nearest[i], &h, &rng);
    return digit;
}

/* u8 images and labels, freed by the caller even after a failure. */
static tn_status draw_all(int64_t count, uint64_t seed, tn_tensor *images, tn_tensor *labels) {
    *images = (tn_tensor){.dtype = TN_DTYPE_U8, .ndim = 3, .shape = {count, TN_DIGITS_SIDE, TN_DIGITS_SIDE}};
    *labels = (tn_tensor){.dtype = TN_DTYPE_U8, .ndim = 1, .shape = {count}};
    if (count < 1 || count > INT32_MAX)
        return tn_fail(TN_ERROR_ARGUMENT, "1 to %d digits can be drawn, not %lld", INT32_MAX, (long long)count);
    images->data = tn_malloc((size_t)count * TN_DIGITS_PIXELS);
    labels->data = tn_malloc((size_t)count);
    if (!images->data || !labels->data)
        return tn_fail_memory("digits");
    for (int64_t i = 0; i < count; i++)
        ((uint8_t *)labels->data)[i] =
            (uint8_t)tn_digits_draw(seed, (uint32_t)i, (uint8_t *)images->data + i * TN_DIGITS_PIXELS);
    return TN_OK;
}

tn_status tn_digits_generate(int64_t count, uint64_t seed, tn_features *out) {
    tn_tensor images, labels;
    *out = (tn_features){0};
    tn_status status = draw_all(count, seed, &images, &labels);
    tn_features_options options = {.classes = DIGITS};
    if (status == TN_OK)
        status = tn_features_from_tensors(&images, "digits", &labels, "digits", &options, out);
    if (status == TN_OK)
        tn_features_rehash(out);
    tn_free(images.data);
    tn_free(labels.data);
    return status;
}

tn_status tn_digits_write(const char *folder, tn_features_part part, int64_t count, uint64_t seed) {
    const char *name = part == TN_FEATURES_TRAIN ? "train" : "t10k";
    char file[64], path[TN_PATH_MAX];
    tn_tensor images, labels;
    tn_status status;
    TN_TRY_GOTO(draw_all(count, seed, &images, &labels));
    TN_TRY_GOTO(tn_dir_create(folder));
    snprintf(file, sizeof file, "%s-images-idx3-ubyte", name);
    TN_TRY_GOTO(tn_path_join(path, folder, file));
    TN_TRY_GOTO(tn_idx_write(path, &images));
    snprintf(file, sizeof file, "%s-labels-idx1-ubyte", name);
    TN_TRY_GOTO(tn_path_join(path, folder, file));
    TN_TRY_GOTO(tn_idx_write(path, &labels));
fail:
    tn_free(images.data);
    tn_free(labels.data);
    return status;
}
