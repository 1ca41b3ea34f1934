/* What the sub-commands share. Functions that return false have said on standard error why. */
#ifndef MNIST_H
#define MNIST_H

#include <tenon/tenon.h>

enum {
    SIDE = 28,
    PIXELS = SIDE * SIDE,
    DIGITS = 10,
    KNOWN = 5, /* the base learns the digits 0 to 4 only */
    LAYERS = 3,
    BATCH = 64,
    PATH = 1024
};

/* Linear layers fc1, fc2, fc3 with ReLU between them. */
typedef struct network {
    const char *name;
    int64_t sizes[LAYERS + 1];
} network;
extern const network small_network, medium_network;

typedef struct settings {
    const char *data; /* a folder of IDX files, or "digits" */
    const char *out;  /* holds base, adapter and full */
    const char *picture;
    int64_t rank, epochs, base_epochs, limit, seed; /* train */
    bool full;
    int64_t samples, shown; /* infer */
    int64_t passes, steps;  /* bench */
    bool medium;
} settings;

/* Prints the library's message when there is one to print. */
bool ok(tn_status status);

bool join(char path[PATH], const char *dir, const char *name);

/* A model of this network with random weights; its configuration stays in `out`. */
bool create_network(const network *network, const char *out, uint64_t seed, tn_model **model);
int64_t network_parameters(const network *network);
int64_t lora_parameters(const network *network, int64_t rank);

/* LoRA of this rank on all three layers. */
bool add_lora(tn_model *model, int64_t rank, uint64_t seed);

/* All weights are trained. */
bool add_full(tn_model *model, uint64_t seed);

/* At most `limit` samples (0: all) of the data; `known` only: the digits that the base learns. */
bool load_digits(const tn_model *model, const settings *s, tn_feature_part part, bool known, int64_t limit,
                 tn_feature_set *set);

/* The sub-commands. */
bool train(const settings *s);
bool infer(const settings *s);
bool bench(const settings *s);

/* picture.c: digits beside each other, light on dark, as text or as a PGM file of `columns` in a row. */
void print_digits(const float *const *images, int64_t count);
bool write_digits(const char *path, const float *const *images, int64_t count, int64_t columns);

#endif
