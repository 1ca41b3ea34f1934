/* Adapters made from other adapters or from checkpoints, by arithmetic alone: composing several LoRA adapters into one,
 * extracting the difference of two checkpoints as a LoRA, and changing an adapter's rank. No function here runs a model. */
#ifndef TENON_COMPOSE_H
#define TENON_COMPOSE_H

#include <stdbool.h>
#include <stdint.h>
#include <tenon/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One module of the adapter that was written. */
typedef struct tn_low_rank_layer {
    const char *module;
    int64_t out, in, rank;
    double norm;  /* Frobenius norm of the exact update: the weighted sum, the difference, or the update before */
    double error; /* ||written - exact||_F / ||exact||_F; 0 when both are zero, infinite when only the exact one is */
} tn_low_rank_layer;

/* A tensor that differs and is no weight that a LoRA was made for. */
typedef struct tn_rest_tensor {
    const char *name;
    double norm;      /* Frobenius norm of the difference */
    double base_norm; /* of the base's tensor */
    bool kept;        /* written to the adapter as a whole */
} tn_rest_tensor;

/* What was written, layer by layer. Owns what it points to: tn_low_rank_report_free. */
typedef struct tn_low_rank_report {
    tn_low_rank_layer *layers;
    int64_t layer_count;
    tn_rest_tensor *rest; /* tn_extract_adapter only */
    int64_t rest_count;
    int64_t lowest_rank, highest_rank;
    int64_t parameters; /* of all A and B */
    double norm, error; /* as of a layer, over all of them */
    int64_t worst;      /* index of the layer with the largest error */
    void *memory;
} tn_low_rank_report;

/* Frees what a report owns and clears it. */
TN_API void tn_low_rank_report_free(tn_low_rank_report *report);

/* 1 - error^2: the share of ||exact||_F^2 that a truncated SVD kept. */
TN_API double tn_low_rank_energy(double error);

/* How adapters are composed. Zero-initialise, then tn_compose_options_default. With c the product of an adapter's weight and
 * scaling:
 *   linear           A = sum of sign(c) sqrt|c| A_i, B = sum of sqrt|c| B_i; equal ranks; the product holds cross terms
 *   cat              the exact sum of c B_i A_i; ranks add up
 *   svd              the exact sum, truncated to `rank`
 *   ties, dare_linear, dare_ties, magnitude_prune: A and B each pruned to `density`, then combined like linear
 *   ties_svd, dare_linear_svd, dare_ties_svd, magnitude_prune_svd: the same of the updates, truncated to `rank`
 * As PEFT's add_weighted_adapter but for one thing: its svd and _svd modes multiply by an adapter's scaling twice, these
 * once. */
typedef struct tn_compose_options {
    const char *mode;          /* "cat" */
    int64_t rank;              /* 0: the highest of the adapters' at each module; svd and _svd only */
    double density;            /* 0; above 0 and at most 1 for the modes that prune */
    const char *majority_sign; /* "total", or "frequency"; ties and dare_ties, also with _svd */
    double svd_clamp;          /* 0: not; entries of A and B are cut at this quantile of them all, signs ignored */
    uint64_t seed;             /* 0; of the random masks of dare_* */
} tn_compose_options;
TN_API void tn_compose_options_default(tn_compose_options *options);

/* Composes the LoRA folders dirs[count] with weights[count] into the folder `out`, as one LoRA with alpha = rank. Ranks,
 * targets and scalings may differ; a module that an adapter does not have counts as zero there. modules_to_save and trained
 * biases must be equal in all of them. model_dir: NULL, or a model on which each adapter must load. report: NULL, or filled.
 * Errors: TN_ERROR_ARGUMENT (options), _MISMATCH (shapes, ranks), _UNSUPPORTED (updates that are more than B A: DoRA, aLoRA,
 * KaSA, BD-LoRA, lora_bias), _NUMERIC, _IO, _FORMAT, _MEMORY. */
TN_API tn_status tn_compose_adapters(const char *const *dirs, const double *weights, int64_t count, const char *model_dir,
                                     const tn_compose_options *options, const char *out, tn_low_rank_report *report);

/* Writes the LoRA folder `dir` to `out` with another rank by a truncated SVD of each update, alpha = rank: `rank`
 * components, or those that a module has; with rank 0 as many per module as keep the share `energy` of its squared norm.
 * Errors as above. */
TN_API tn_status tn_resize_adapter(const char *dir, int64_t rank, double energy, const char *out,
                                   tn_low_rank_report *report);

/* What tn_extract_adapter makes of the difference. Zero-initialise, then tn_extract_options_default. */
typedef struct tn_extract_options {
    int64_t rank;               /* 0: by energy */
    double energy;              /* 0.95: share of each difference's squared norm that is kept; with rank 0 */
    const char *target_modules; /* names separated by commas, one regular expression, "all-linear"; NULL: all that differ */
    bool embeddings;            /* false; true: embeddings too */
    bool keep_rest;             /* false; true: other tensors that differ are kept whole (modules_to_save, bias) */
    uint64_t seed;              /* 0; of the randomised SVD of large weights */
} tn_extract_options;
TN_API void tn_extract_options_default(tn_extract_options *options);

/* Writes the difference tuned - base of two checkpoints of one architecture to `out` as a LoRA by truncated SVD. Weights may
 * be of any float type. Tensors that differ but get no LoRA are listed in report->rest. Errors: TN_ERROR_MISMATCH (a tensor
 * that only one of them has, another shape, checkpoints that do not differ), _ARGUMENT, _UNSUPPORTED, _NUMERIC, _IO,
 * _FORMAT, _MEMORY. */
TN_API tn_status tn_extract_adapter(const char *base_dir, const char *tuned_dir, const tn_extract_options *options,
                                    const char *out, tn_low_rank_report *report);

#ifdef __cplusplus
}
#endif
#endif
