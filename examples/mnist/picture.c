/* Digits as text and as a picture. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mnist.h"

enum { BORDER = 2, TILE = SIDE + BORDER, FRAME_GREY = 96 };

static int grey(float value) {
    return value <= 0 ? 0 : value >= 1 ? 255 : (int)(value * 255 + 0.5f);
}

/* A character is about twice as high as wide, so each stands for two pixels, one above the other. */
void print_digits(const float *const *images, int64_t count) {
    static const char ink[] = " .:-=+*#%@";
    for (int y = 0; y < SIDE; y += 2) {
        for (int64_t i = 0; i < count; i++) {
            printf("   ");
            for (int x = 0; x < SIDE; x++) {
                int sum = grey(images[i][y * SIDE + x]) + grey(images[i][(y + 1) * SIDE + x]);
                putchar(ink[sum * (int)(sizeof ink - 2) / 510]);
            }
        }
        putchar('\n');
    }
}

bool write_digits(const char *path, const float *const *images, int64_t count, int64_t columns) {
    int64_t rows = (count + columns - 1) / columns, width = columns * TILE + BORDER, height = rows * TILE + BORDER;
    unsigned char *pixels = malloc((size_t)(width * height));
    FILE *file = pixels ? fopen(path, "wb") : NULL;
    bool written = false;
    if (file) {
        memset(pixels, FRAME_GREY, (size_t)(width * height));
        for (int64_t i = 0; i < count; i++)
            for (int64_t p = 0; p < PIXELS; p++) {
                int64_t y = i / columns * TILE + BORDER + p / SIDE, x = i % columns * TILE + BORDER + p % SIDE;
                pixels[y * width + x] = (unsigned char)grey(images[i][p]);
            }
        fprintf(file, "P5\n%lld %lld\n255\n", (long long)width, (long long)height);
        written = fwrite(pixels, (size_t)width, (size_t)height, file) == (size_t)height;
        written = fclose(file) == 0 && written;
    }
    free(pixels);
    if (!written)
        fprintf(stderr, "mnist: cannot write %s\n", path);
    return written;
}
