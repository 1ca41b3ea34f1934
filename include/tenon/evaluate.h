/* Measuring a model: loss, perplexity, accuracy, and raw logits and gradients for comparison with other frameworks. */
#ifndef TENON_EVALUATE_H
#define TENON_EVALUATE_H

#include <tenon/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Reads a safetensors file with `input_ids` [B, T] (I32 or I64), optional `attention_mask` and `labels` of that shape (other
 * tensors are ignored) and writes one with `logits` [B, T, V] f32 (zeros at masked positions) and, with labels, `loss`: the
 * mean cross-entropy of labels[:, 1:] under logits[:, :-1] where the label is not -100. With `with_grad` also `grad.KEY` for
 * every trained tensor KEY of the adapter's file, or of the base when there is no adapter (then needs a model without one).
 * A sequential model's file has `x` [N, ...] of any float type and optionally `target`: class ids [N], or numbers [N,
 * outputs] of a regression; `logits` are [N, outputs] and the loss is the mean cross-entropy, or mean squared error, of the
 * rows. With `merged` the adapter is merged into f32 weights for this pass. */
TN_API tn_status tn_forward_file(tn_model *model, const char *input_path, const char *output_path, bool with_grad,
                                 bool merged);

typedef struct tn_evaluation {
    double loss;           /* mean over labelled tokens */
    double perplexity;     /* exp(loss) */
    double token_accuracy; /* share of labelled tokens that were the most likely one */
    int64_t samples, labelled, tokens;
    int64_t generated, exact; /* of tn_evaluate with generate: samples tried, and equal after trimming blanks at the ends */
    int64_t cut, unlabelled;  /* samples of the file cut at max_length; left out as nothing in them is to be predicted */
    double seconds;
} tn_evaluation;

typedef struct tn_evaluate_options {
    int64_t batch_size;   /* samples per pass; 8 */
    int64_t max_length;   /* tokens per sample; 0: the model's */
    bool train_on_prompt; /* score prompts too */
    bool generate;        /* also generate completions greedily and compare them with the reference */
    int64_t max_tokens;   /* of a generated completion; 64 */
    int64_t limit;        /* samples at most; 0: all */
    /* Called for each generated sample with its prompt, the reference and what was generated; may be NULL. Return false to
     * stop. */
    bool (*generated)(void *cookie, const char *prompt, const char *reference, const char *text, bool exact);
    void *cookie;
} tn_evaluate_options;
TN_API void tn_evaluate_options_default(tn_evaluate_options *options);

/* Evaluates on a JSONL file, in its order, with the model's adapter as it is (on, off or absent). `options` NULL: the
 * defaults. With generate, samples without a prompt (plain text) are left out of `generated`. Errors: those of reading the
 * data (naming file and line), TN_ERROR_ARGUMENT (an option out of range, nothing to generate from), _UNSUPPORTED (rows of
 * text or generate without tokenizer), _NUMERIC (a loss that is not finite), _INTERRUPTED (by the callback), _MEMORY. */
TN_API tn_status tn_evaluate(tn_model *model, const char *data_path, const tn_evaluate_options *options, tn_evaluation *out);

#ifdef __cplusplus
}
#endif
#endif
