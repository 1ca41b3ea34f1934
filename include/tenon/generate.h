/* Continuing token ids with a model, and turning a conversation into such ids. */
#ifndef TENON_GENERATE_H
#define TENON_GENERATE_H

#include <tenon/adapters.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How the next token is chosen, in the order in which transformers does it: repetition penalty, temperature, top-k, top-p,
 * min-p. Zero-initialise, then tn_generate_options_default. Strings are the caller's. */
typedef struct tn_generate_options {
    int64_t max_tokens;        /* 256: new tokens at most */
    double temperature;        /* 0: always the most likely token, the smallest id of equals */
    int64_t top_k;             /* 0: off; else only the k most likely (and equals of the k-th) */
    double top_p;              /* 1: off; else the fewest most likely tokens whose probabilities reach this sum */
    double min_p;              /* 0: off; else only tokens at least this probable relative to the most likely one */
    double repetition_penalty; /* 1: off; logits of tokens seen so far are divided by it above 0, multiplied below */
    uint64_t seed;             /* the n-th new token's random number depends on (seed, n) alone */
    const char *const *stop;   /* texts that end the generation, left out of the result; NULL without any */
    size_t stop_count;
    bool ignore_eos; /* end-of-text tokens are tokens as any other */
} tn_generate_options;
TN_API void tn_generate_options_default(tn_generate_options *options);

typedef enum tn_stop_reason {
    TN_STOP_EOS,     /* an end-of-text token, which is not in the result */
    TN_STOP_LENGTH,  /* max_tokens */
    TN_STOP_STRING,  /* one of the stop texts */
    TN_STOP_STOPPED, /* the callback */
    TN_STOP_CONTEXT, /* the model's positions ran out */
} tn_stop_reason;

/* "end of text", "length", ...; never NULL. */
TN_API const char *tn_stop_reason_name(tn_stop_reason reason);

typedef struct tn_generate_result {
    int32_t *ids; /* [count] new tokens, the prompt's not among them */
    size_t count;
    char *text; /* NUL-terminated; "" for a model without tokenizer */
    tn_stop_reason reason;
    double prompt_seconds; /* for reading the prompt, or all prompts of a batch */
    double seconds;        /* for the new tokens */
} tn_generate_result;

/* Frees what the result holds. NULL is fine. */
TN_API void tn_generate_result_free(tn_generate_result *result);

/* Called for each new token with the text that has become certain: `length` bytes, possibly 0, of whole UTF-8 sequences,
 * none of which can still turn out to be a stop text. Once more with id -1 when the end brings held-back text. Return false
 * to stop. */
typedef bool (*tn_token_fn)(void *cookie, int32_t id, const char *text, size_t length);

/* Continues the `count` >= 1 ids of `prompt` with the model's adapter as it is. Generation ends at the end-of-text tokens of
 * config.json, generation_config.json and the tokenizer. `options` NULL: the defaults; `token` may be NULL. `out` is
 * the caller's: tn_generate_result_free. Errors: TN_ERROR_ARGUMENT (an option out of range, an id outside the vocabulary, a
 * prompt longer than the model's positions), _UNSUPPORTED (stop texts without tokenizer), _NUMERIC (logits that are not
 * finite), _MEMORY. */
TN_API tn_status tn_generate(tn_model *model, const int32_t *prompt, size_t count, const tn_generate_options *options,
                             tn_token_fn token, void *cookie, tn_generate_result *out);

typedef struct tn_prompt {
    const int32_t *ids;
    size_t count;
    const tn_adapter_mix *adapters; /* for this prompt alone; NULL: those in use */
} tn_prompt;

/* Called for each prompt in their order; the result is the library's. Return false to stop with TN_ERROR_INTERRUPTED. */
typedef bool (*tn_generated_fn)(void *cookie, size_t index, const tn_generate_result *result);

/* As tn_generate for many prompts, up to `batch_size` of them (0: 32; fewer when their keys and values would be large) at a
 * time in one pass per token: much faster than one by one, with the same results up to rounding. Prompts with adapters of
 * their own share those passes: the base's work is done for all rows at once, each adapter's for its own rows. Such an
 * adapter must not replace tensors of the base (modules_to_save, biases). */
TN_API tn_status tn_generate_many(tn_model *model, const tn_prompt *prompts, size_t count, int64_t batch_size,
                                  const tn_generate_options *options, tn_generated_fn generated, void *cookie);

/* Token ids of a conversation, a JSON array of {"role", "content"}, through the model's chat template. *ids belongs to the
 * caller: tn_free_ids. Errors: TN_ERROR_UNSUPPORTED (no template or no tokenizer), _FORMAT (no such array), _ARGUMENT (the
 * template's own). */
TN_API tn_status tn_chat_prompt(const tn_model *model, const char *messages_json, bool add_generation_prompt, int32_t **ids,
                                size_t *count);

#ifdef __cplusplus
}
#endif
#endif
