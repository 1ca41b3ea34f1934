/* Training: an adapter (or all weights) on JSON lines, with checkpoints that resume bit for bit. */
#ifndef TENON_TRAIN_H
#define TENON_TRAIN_H

#include <tenon/features.h>
#include <tenon/model.h>
#include <tenon/profile.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A learning rate of its own for the trained tensors whose name matches `pattern` (regular expression, full match against
 * names such as "model.layers.0.self_attn.q_proj.lora_B.weight"). The first group that matches counts. */
typedef struct tn_lr_group {
    const char *pattern;
    double lr_scale; /* times the run's learning rate */
    bool no_decay;   /* no weight decay for these */
} tn_lr_group;

/* Zero-initialise, then tn_train_options_default. Strings are the caller's. */
typedef struct tn_train_options {
    const char *data; /* JSONL file, or folder with train.jsonl and optional valid.jsonl; of a sequential model what
                         tn_feature_set_load reads, the TEST part being the validation set where there is one */
    tn_feature_options features;     /* of a sequential model: how `data` is read */
    const tn_feature_set *train_set; /* of a sequential model: samples in memory instead of `data`, copied; or NULL */
    const tn_feature_set *valid_set; /* with train_set; NULL: valid_fraction of it */
    const char *out;                 /* folder for the adapter, metrics.jsonl, report.html and checkpoints */
    int64_t batch_size;              /* samples per micro-batch; 8 */
    int64_t accumulate;              /* micro-batches per optimiser step; 1 */
    int64_t pass_tokens;             /* tokens of a micro-batch in memory at once, in whole samples; 0: all; 512 */
    int64_t steps;                   /* optimiser steps; 0: from epochs */
    double epochs;                   /* passes over the data when steps is 0; 3 */
    int64_t max_length;              /* tokens per sample; 0: the model's positions; 1024 */
    bool drop_long;                  /* leave longer samples out instead of cutting them */
    bool train_on_prompt;            /* labels on prompts too */
    bool shuffle;                    /* true: a new order every epoch, by seed */
    double valid_fraction;           /* of a single file, kept for validation; 0.05 */
    double lr;                       /* 1e-4 */
    const char *optimizer;           /* "adamw" (default), or "adamw8bit": moments in 8 bits, see docs/formats.md */
    double beta1, beta2, eps;        /* AdamW: 0.9, 0.999, 1e-8 */
    double weight_decay;             /* decoupled; 0.01 */
    double grad_clip;                /* largest norm of all gradients; 0: no clipping; 1 */
    const char *schedule;            /* "constant", "linear", "cosine" (default), each after warmup */
    int64_t warmup;                  /* steps of linear warmup; 0 */
    double lora_plus_ratio;          /* LoRA+ (arXiv 2402.12354): learning rate of B as a multiple of the run's; 1 */
    const tn_lr_group *groups;       /* may be NULL */
    size_t group_count;
    const char *checkpointing; /* activations until the backward pass: "off": kept; "8bit": kept in 8 bits, in blocks of 64
                                  with a scale each, but for attention's, so that gradients differ slightly; "on":
                                  recomputed; "auto" (default): "off" where memory suffices, else "on" */
    uint64_t seed;             /* order of samples, dropout, starting values; 0 */
    int64_t log_every;         /* steps between lines of metrics.jsonl; 1 */
    int64_t eval_every;        /* steps between validations; 100; 0: at the end only */
    int64_t save_every;        /* steps between checkpoints; 100; 0: at the end only */
    int64_t keep_checkpoints;  /* newest ones kept; 2 */
    bool resume;               /* go on from the newest good checkpoint in `out`, from the start when there is none */
    bool resume_changed;       /* go on although data or settings changed */
    tn_profile *profile;       /* NULL, or where time per phase and op is added up; costs little */
    const char *run_config;    /* text saved as out/config.yaml and in checkpoints; may be NULL */
} tn_train_options;
TN_API void tn_train_options_default(tn_train_options *options);

/* What a run will do and need, known before its first step. Bytes are exact counts but for `runtime_bytes`, which is
 * measured. */
typedef struct tn_train_plan {
    int64_t parameters, trainable; /* of the base; trained */
    int64_t train_samples, valid_samples, train_tokens, labelled_tokens;
    int64_t shortest, median, p95, longest; /* tokens per training sample */
    int64_t inputs, outputs;                /* numbers per sample of a sequential model, in and out; else 0 */
    int64_t cut, dropped, unlabelled, first_unlabelled_line;
    int64_t steps, steps_per_epoch;
    int64_t largest_batch_tokens, largest_pass_tokens;
    const char *checkpointing; /* as in the options, decided: "off", "8bit" or "on" */
    int64_t base_bytes;        /* weights as stored, mapped */
    int64_t adapter_bytes, gradient_bytes, optimizer_bytes;
    int64_t activation_bytes; /* heap of the largest step */
    int64_t data_bytes;       /* token ids and labels */
    int64_t runtime_bytes;    /* program, libraries, tokenizer, scratch */
    int64_t peak_bytes;       /* predicted peak resident memory of the process */
    double flops_per_step;    /* mean over the first steps, recomputation included */
    double seconds_per_step;  /* from a short calibration; 0 when not calibrated */
    const char *sample;       /* the first training sample, trained part marked; lives during the callback */
} tn_train_plan;

typedef struct tn_train_step {
    int64_t step, steps; /* finished, of */
    double epoch;
    double loss;              /* sum over the step's labelled tokens / their number, before the update */
    double lr, grad_norm;     /* before clipping */
    int64_t tokens, labelled; /* of this step; samples of a sequential model count as tokens */
    double seconds, tokens_per_second, seconds_left;
    double valid_loss;     /* NaN when this step was not validated */
    double valid_accuracy; /* of a classification, else NaN */
    bool saved;            /* a checkpoint was written after this step */
} tn_train_step;

/* All may be NULL. */
typedef struct tn_train_callbacks {
    void *cookie;
    void (*start)(void *cookie, const tn_train_plan *plan);
    bool (*step)(void *cookie, const tn_train_step *step); /* false: save a checkpoint and stop (TN_ERROR_INTERRUPTED) */
    void (*resumed)(void *cookie, int64_t step);
    void (*warning)(void *cookie, const char *text);
} tn_train_callbacks;

typedef struct tn_train_result {
    int64_t steps, first_step;          /* finished in all; where this call began */
    double loss;                        /* of the last step */
    double valid_loss, best_valid_loss; /* NaN without validation data */
    int64_t best_valid_step;
    double valid_accuracy;             /* of a classification by a sequential model, else NaN */
    double seconds, tokens_per_second; /* of this call */
    int64_t peak_bytes, predicted_peak_bytes;
    int64_t curve_points; /* the loss curve; arrays freed by tn_train_result_free */
    double *curve_steps, *curve_losses;
    int64_t valid_points;
    double *valid_steps, *valid_losses;
    char *notes; /* lines about what the method has made of the adapter (AdaLoRA's ranks), or NULL */
} tn_train_result;
TN_API void tn_train_result_free(tn_train_result *result);

/* The curve of a result's losses against steps as text of `height` lines, at most `width` columns (at least 8 and 40 are
 * used): training a line, validation marks. utf8: Braille patterns and box drawing, else ASCII. *text is NUL-terminated and
 * belongs to the caller: tn_free_text. Says "no values yet" of a result without finite losses. TN_ERROR_MEMORY. */
TN_API tn_status tn_train_curve(const tn_train_result *result, int width, int height, bool utf8, char **text);

/* Trains the model's adapter (tn_model_add_adapter, or tn_model_load_adapter with trainable). Writes into options->out:
 * adapter_config.json and adapter_model.safetensors (full training: the checkpoint), metrics.jsonl, report.html, config.yaml
 * and checkpoints/. The same seed and data give the same bytes, whatever the number of threads. Errors: TN_ERROR_ARGUMENT,
 * _IO (before any work when `out` cannot be written), _FORMAT (data, with line), _MISMATCH (resuming with other data or
 * settings), _NUMERIC (a loss that is not finite, nothing learned), _INTERRUPTED. `callbacks` and `result` may be NULL. */
TN_API tn_status tn_train(tn_model *model, const tn_train_options *options, const tn_train_callbacks *callbacks,
                          tn_train_result *result);

/* The plan alone: reads the data, rehearses the largest step, calibrates the speed; trains and writes nothing. */
TN_API tn_status tn_plan(tn_model *model, const tn_train_options *options, tn_train_plan *out);

#ifdef __cplusplus
}
#endif
#endif
