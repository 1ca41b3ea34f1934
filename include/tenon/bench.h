/* Measuring a model on this machine against what the machine can do. */
#ifndef TENON_BENCH_H
#define TENON_BENCH_H

#include <tenon/model.h>
#include <tenon/profile.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Zero-initialise, then tn_bench_options_default. */
typedef struct tn_bench_options {
    int64_t batch_size;        /* samples of a forward pass and of a step; 0 (default): 4, of a sequential model 64 */
    int64_t length;            /* tokens of each; 256; as all that speaks of tokens, of language models alone */
    double labelled;           /* share of them that have a label, at the end of each; 1 */
    int64_t prompt_tokens;     /* read at once; 512 */
    int64_t tokens;            /* generated after the prompt; 32 */
    int64_t rounds;            /* of everything, in turns; 3 */
    int64_t passes, steps;     /* forward passes and training steps of a kind in each round, whose median counts; 0
                                  (default): as many as a tenth of a second takes, at least one; at most 1000 */
    const char *checkpointing; /* as in tn_train_options; a sequential model's activations are always kept */
    tn_profile *profile;       /* NULL, or where the time of the training steps is added up */
} tn_bench_options;
TN_API void tn_bench_options_default(tn_bench_options *options);

/* The best that was seen in any round. */
typedef struct tn_bench_limits {
    double sgemm_flops;     /* per second: the fastest of this model's own products, by Tenon or OpenBLAS */
    double sgemm_mix_flops; /* the same for a layer's products as a whole, each by the faster of the two */
    double read_bandwidth;  /* bytes per second that all threads read from memory */
} tn_bench_limits;

typedef struct tn_bench_row {
    const char *weights; /* "base", "adapter" (unmerged), "merged", "full" */
    const char *work;    /* "forward", "recomputation", "backward", "optimiser", "step"; of language models "prompt" and
                            "decode", of sequential ones "inference": a forward pass without loss and gradients */
    int64_t tokens;      /* done in `seconds`; of a sequential model samples */
    double seconds;      /* median of the rounds */
    double best_seconds;
    double flops;        /* of the model in that time, as tn_plan counts them, recomputation not among them */
    double bytes;        /* decode: of weights, keys and values read; else 0 */
    double share;        /* of sgemm_flops, for decode of read_bandwidth: best against best; 0 for neither */
    double median_share; /* median over rounds of the share of the limit measured in the same round, for decode between the
                            tokens */
} tn_bench_row;

/* Memory of training, beside the base; bytes. */
typedef struct tn_bench_memory {
    const char *weights; /* "adapter", "full" */
    int64_t trained;     /* parameters */
    int64_t parameter_bytes, gradient_bytes, optimizer_bytes;
    int64_t activation_bytes; /* heap of a step */
} tn_bench_memory;

enum { TN_BENCH_ROWS = 32, TN_BENCH_MEMORIES = 4 };

typedef struct tn_bench_result {
    const char *kernels; /* "avx512", ... */
    int threads;
    int64_t batch_size;
    int64_t base_bytes; /* of the base as stored */
    bool recomputed;    /* activations of training steps, to save memory */
    tn_bench_limits limits;
    tn_bench_row rows[TN_BENCH_ROWS];
    int64_t count;
    tn_bench_memory memory[TN_BENCH_MEMORIES]; /* of each kind of training that was measured */
    int64_t memory_count;
} tn_bench_result;

/* Measures forward, prompt processing and greedy decoding of the model, and with an adapter on it training steps too, and
 * all that again with the adapter merged; of a model under full fine-tuning the training steps alone. Of a sequential model
 * inference takes the place of what makes text. Steps are real: they change what is trained. Adds rows to `result`, which
 * is zero-initialised before the first call. Errors: TN_ERROR_ARGUMENT (an option out of range, a batch that the model's
 * batch_norm cannot be trained on, an adapter that cannot be merged), _MEMORY. */
TN_API tn_status tn_bench(tn_model *model, const tn_bench_options *options, tn_bench_result *result);

/* Bytes that training the model in full would take beyond what it holds now, activations of such a step not counted. */
TN_API int64_t tn_bench_full_bytes(const tn_model *model);

#ifdef __cplusplus
}
#endif
#endif
