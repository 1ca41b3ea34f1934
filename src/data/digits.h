/* Digits that look handwritten, drawn by this project: what examples and tests use where no real images are at hand. */
#ifndef TN_DATA_DIGITS_H
#define TN_DATA_DIGITS_H

#include "data/features.h"

enum { TN_DIGITS_SIDE = 28, TN_DIGITS_PIXELS = TN_DIGITS_SIDE * TN_DIGITS_SIDE };

/* Draws digit `index` of the endless sequence that `seed` names: white (255) ink on black, rows from the top. Returns the
 * digit, index % 10. Integer arithmetic alone, so the bytes are the same on every machine. */
int tn_digits_draw(uint64_t seed, uint32_t index, uint8_t pixels[TN_DIGITS_PIXELS]);

/* The first `count` >= 1 of that sequence as images of shape [1, 28, 28] with values in 0..1 and ten classes. */
tn_status tn_digits_generate(int64_t count, uint64_t seed, tn_features *out);

/* Writes the same images and labels to `folder`, which is made if need be, as the IDX files that tn_features_read takes for
 * this part. */
tn_status tn_digits_write(const char *folder, tn_features_part part, int64_t count, uint64_t seed);

#endif
