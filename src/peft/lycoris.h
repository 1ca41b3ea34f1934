/* What LoHa and LoKr share, both being LyCORIS's: a full-rank update s D of the weight, of which training may drop rows, or
 * the whole, and starting values by torch's rule. */
#ifndef TN_PEFT_LYCORIS_H
#define TN_PEFT_LYCORIS_H

#include "peft/adapter.h"

typedef enum tn_lycoris_init { TN_LYCORIS_NO_OP, TN_LYCORIS_RANDOM, TN_LYCORIS_SECOND_ZERO } tn_lycoris_init;

typedef struct tn_lycoris_settings {
    double rank_dropout, module_dropout;
    bool rank_dropout_scale, use_effective_conv2d, decompose_both;
    int64_t decompose_factor;
    int init; /* tn_lycoris_init */
} tn_lycoris_settings;

/* Rows of both methods' tables. */
#define TN_LYCORIS_OPTIONS                                                                                                  \
    {.name = "rank-dropout",                                                                                                \
     .type = TN_OPTION_FLOAT,                                                                                               \
     TN_FIELD(tn_lycoris_settings, rank_dropout),                                                                           \
     .initial = "0",                                                                                                        \
     .low = 0,                                                                                                              \
     .high = 1,                                                                                                             \
     .flags = TN_OPTION_BELOW_HIGH,                                                                                         \
     .help = "share of the update's rows left out at each step"},                                                           \
        {.name = "module-dropout",                                                                                          \
         .type = TN_OPTION_FLOAT,                                                                                           \
         TN_FIELD(tn_lycoris_settings, module_dropout),                                                                     \
         .initial = "0",                                                                                                    \
         .low = 0,                                                                                                          \
         .high = 1,                                                                                                         \
         .flags = TN_OPTION_BELOW_HIGH,                                                                                     \
         .help = "probability that a layer's update is left out of a step"},                                                \
    {                                                                                                                       \
        .name = "use-effective-conv2d", .type = TN_OPTION_BOOL, TN_FIELD(tn_lycoris_settings, use_effective_conv2d),        \
        .initial = "false", .help = "on convolutions, factors of all dimensions instead of the flattened weight"            \
    }

typedef struct tn_lycoris_slot {
    tn_slot slot;
    int64_t out, in; /* of the module's weight [O, C]; a convolution's C counts the window and one group */
    float scale;     /* s */
    float rank_dropout, module_dropout;
    bool rescale; /* what rank_dropout keeps */
} tn_lycoris_slot;

/* Whether a convolution of more than single pixels is to have a core beside its factors. */
bool tn_lycoris_has_core(const tn_adapter *adapter, const tn_module *module);

/* Fills the slot from the module and the settings. */
void tn_lycoris_start(tn_lycoris_slot *slot, const tn_adapter *adapter, const tn_module *module, int64_t rank, double alpha,
                      bool rescale);

tn_weight tn_lycoris_matrix(int64_t rows, int64_t cols);
tn_weight tn_lycoris_kernels(int64_t out, int64_t in, const tn_module *module); /* [out, in, kh, kw] of the module */

/* U(-1/sqrt(f), 1/sqrt(f)), f the elements of a row: how a torch.nn.Linear starts. `which` tells a slot's tensors apart. */
void tn_lycoris_fill(const tn_lycoris_slot *slot, tn_weight *weight, uint64_t seed, uint32_t which);

/* What the update is to be added to, y itself or zeros, and with which scale. */
tn_var *tn_lycoris_open(const tn_forward *forward, const tn_lycoris_slot *slot, tn_var *y, float *scale);

/* Drops columns of the update, adds it to y and lets go of it; nothing to do where it was added to y at once. */
void tn_lycoris_close(const tn_forward *forward, const tn_lycoris_slot *slot, tn_var *y, tn_var *update);

/* y += s conv(x, w), dropped likewise, with w [O, C] the update of a convolution's weight. */
void tn_lycoris_convolve(const tn_forward *forward, const tn_lycoris_slot *slot, const tn_module *module, tn_var *y,
                         tn_var *x, tn_var *w);

#endif
